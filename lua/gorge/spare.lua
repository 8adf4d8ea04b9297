-- SPDX-License-Identifier: MIT
-- Objects that are over, to be used again: a hit in Redis makes no garbage but its value. What a coroutine held that was ended from outside does not come back.

local MOST = 256

local _M = {}

---@param list table[]
function _M.keep(list, object)
  local n = #list
  if n < MOST then
    list[n + 1] = object
  end
end

---@param list table[]
---@return table|nil
function _M.take(list)
  local n = #list
  local object = list[n]
  list[n] = nil
  return object
end

return _M
