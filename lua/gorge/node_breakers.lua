-- SPDX-License-Identifier: MIT
-- Which circuit breakers of a cluster's nodes have opened and closed. All workers of a host share them: of all workers the one that opened one tells of it,
-- and tells when it is closed again.

local stats = require "gorge.stats"

local _M = {}

local NONE = {}

---@param cache gorge.Cache that has entered
---@return table watch what `look` compares with
function _M.watch(cache)
  return { opens = stats.count(cache.engine, "breaker_opens"), open = {}, any = false }
end

---What has changed since the last look. Cheap while nothing has.
---@param cache gorge.Cache
---@param watch table
---@return { node: string, open: boolean }[]
function _M.look(cache, watch)
  local opens = stats.count(cache.engine, "breaker_opens")
  local mine = opens > watch.opens
  watch.opens = opens
  if not mine and not watch.any then
    return NONE
  end
  local changes, seen = {}, {}
  for _, node in ipairs(stats.nodes(cache)) do
    seen[node.node] = true
    local is_open = node.breaker ~= "closed"
    if is_open and mine and not watch.open[node.node] or not is_open and watch.open[node.node] then
      watch.open[node.node] = is_open or nil
      changes[#changes + 1] = { node = node.node, open = is_open }
    end
  end
  for node in pairs(watch.open) do
    if not seen[node] then -- it has nothing any more that would be asked for
      watch.open[node] = nil
      changes[#changes + 1] = { node = node, open = false }
    end
  end
  watch.any = next(watch.open) ~= nil
  return changes
end

return _M
