-- SPDX-License-Identifier: MIT
--- Words and numbers for people.

local _M = {}

--- Prints one line, like string.format.
function _M.say(format, ...)
  print(select("#", ...) > 0 and format:format(...) or format)
end

--- 1234567 -> "1,234,567"
function _M.count(n)
  local text = ("%d"):format(n):reverse():gsub("(%d%d%d)", "%1,"):reverse()
  return (text:gsub("^,", ""))
end

--- Seconds -> "0.21 ms"
function _M.ms(seconds)
  return (seconds < 0.01 and "%.2f ms" or "%.0f ms"):format(seconds * 1000)
end

--- The value below which a share of the sorted values lies.
local function percentile(sorted, share)
  return sorted[math.max(1, math.ceil(#sorted * share))] or 0
end

--- "1 loader run", "2 loader runs"
function _M.plural(n, noun)
  return ("%s %s%s"):format(_M.count(n), noun, n == 1 and "" or "s")
end

local ROW = "   %-26s %9s %9s %9s %9s %9s"

function _M.latency_head()
  _M.say(ROW, "", "requests", "per sec", "p50", "p95", "p99")
end

---@param what string
---@param seconds number how long it took in all
---@param latencies number[] seconds; sorted by this call
function _M.latency_row(what, seconds, latencies)
  table.sort(latencies)
  _M.say(ROW, what, _M.count(#latencies), _M.count(#latencies / seconds),
    _M.ms(percentile(latencies, 0.50)), _M.ms(percentile(latencies, 0.95)), _M.ms(percentile(latencies, 0.99)))
end

local LAYERS = {
  { "l0", "L0, the worker's own copy" },
  { "l1", "L1, the node's shared memory" },
  { "l2", "L2, Redis" },
  { "fn", "the loader" },
  { "stale", "stale on purpose" },
}

---@param by_source table<string, integer>
---@param total integer
function _M.layers(by_source, total)
  for _, layer in ipairs(LAYERS) do
    local n = by_source[layer[1]]
    if n then
      _M.say("   %-30s %7.2f %% %9s", layer[2], 100 * n / total, _M.count(n))
    end
  end
end

return _M
