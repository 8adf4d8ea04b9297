-- SPDX-License-Identifier: MIT
-- A private copy of a value. Values are trees of bounded depth (the codec saw to it), so plain recursion does.

local pairs = pairs
local type = type

local function clone(value)
  if type(value) ~= "table" then
    return value
  end
  local copy = {}
  for k, v in pairs(value) do
    copy[k] = clone(v)
  end
  return copy
end

return clone
