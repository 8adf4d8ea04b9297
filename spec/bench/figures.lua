-- SPDX-License-Identifier: MIT
--- Figures: what a sample says, the middle of several, and how they are written.
local _M = {}

-- Of the results of all workers that took part in one sample.
local function sum(results, field)
  local total = 0
  for _, result in ipairs(results) do
    total = total + result[field]
  end
  return total
end

---@class gorge.bench.Metric
---@field unit string
---@field more boolean more is better
---@field of fun(results: table[]): number

---@type table<string, gorge.bench.Metric>
_M.metrics = {
  time = { unit = "s", of = function(results) return sum(results, "seconds") / sum(results, "ops") end },
  cpu = { unit = "s", of = function(results) return sum(results, "cpu") / sum(results, "ops") end },
  bytes = { unit = "B", of = function(results) return sum(results, "bytes") / sum(results, "entries") end },
  missed = { unit = "%", of = function(results) return sum(results, "loads") / sum(results, "ops") end },
  loads = { unit = "", of = function(results) return sum(results, "loads") end },
  rate = {
    unit = "/s", more = true,
    of = function(results)
      local rate = 0
      for _, result in ipairs(results) do
        rate = rate + result.ops / result.seconds
      end
      return rate
    end,
  },
  answered = { -- from the start of the loader to the last answer
    unit = "s",
    of = function(results)
      local last, began = 0, math.huge
      for _, result in ipairs(results) do
        last, began = math.max(last, result.last), math.min(began, result.began)
      end
      return last - began
    end,
  },
}

---@class gorge.bench.Spread
---@field median number
---@field min number
---@field max number

---@param numbers number[]
---@return gorge.bench.Spread
function _M.spread(numbers)
  local sorted = {}
  for i, number in ipairs(numbers) do
    sorted[i] = number
  end
  table.sort(sorted)
  local n = #sorted
  local middle = (n + 1) / 2
  return { median = (sorted[math.floor(middle)] + sorted[math.ceil(middle)]) / 2, min = sorted[1], max = sorted[n] }
end

--- Ratios of samples that were taken one after the other.
---@param of number[]
---@param against number[]
---@return gorge.bench.Spread|nil nil where there is nothing to divide by
function _M.ratio(of, against)
  local ratios = {}
  for i = 1, #of do
    if against[i] == 0 then
      return nil
    end
    ratios[i] = of[i] / against[i]
  end
  return _M.spread(ratios)
end

local SCALES = {
  s = { { 1e-6, 1e9, "ns" }, { 1e-3, 1e6, "us" }, { 1, 1e3, "ms" }, { math.huge, 1, "s" } },
  ["/s"] = { { 1e3, 1, "/s" }, { 1e6, 1e-3, "k/s" }, { math.huge, 1e-6, "M/s" } },
  B = { { math.huge, 1, "B" } },
  ["%"] = { { math.huge, 100, "%" } },
  [""] = { { math.huge, 1, "" } },
}

local function scale_of(number, unit)
  for _, scale in ipairs(SCALES[unit]) do
    if number < scale[1] then
      return scale[2], scale[3]
    end
  end
end

--- Three digits.
---@param number number
---@return string
function _M.digits(number)
  if number >= 99.95 or number == math.floor(number) then
    return ("%.0f"):format(number)
  elseif number >= 9.995 then
    return ("%.1f"):format(number)
  elseif number >= 0.0995 then
    return ("%.2f"):format(number)
  end
  return ("%.3f"):format(number)
end

---@param number number
---@param unit string
---@return string
function _M.quantity(number, unit)
  local factor, name = scale_of(number, unit)
  return (_M.digits(number * factor) .. " " .. name):gsub(" $", "")
end

--- "5.62 ns (5.58-5.80)": the middle, and from where to where, in one unit.
---@param spread gorge.bench.Spread
---@param unit string
---@return string
function _M.range(spread, unit)
  local factor, name = scale_of(spread.median, unit)
  local text = (_M.digits(spread.median * factor) .. " " .. name):gsub(" $", "")
  return ("%s (%s-%s)"):format(text, _M.digits(spread.min * factor), _M.digits(spread.max * factor))
end

return _M
