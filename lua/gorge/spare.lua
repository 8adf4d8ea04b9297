-- SPDX-License-Identifier: MIT
-- Objects that are over, to be used again: a hit in Redis makes no garbage but its value. What a coroutine held that was ended from outside does not come back.

local MOST = 256

local _M = {}

---@class gorge.Spares
---@field n integer counted: # looks for the end each time

---@return gorge.Spares
function _M.list()
  return { n = 0 }
end

---@param list gorge.Spares
function _M.keep(list, object)
  local n = list.n
  if n < MOST then
    list[n + 1], list.n = object, n + 1
  end
end

---@param list gorge.Spares
---@return table|nil
function _M.take(list)
  local n = list.n
  if n == 0 then
    return nil
  end
  local object = list[n]
  list[n], list.n = nil, n - 1
  return object
end

return _M
