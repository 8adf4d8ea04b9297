-- SPDX-License-Identifier: MIT
-- A double as its eight bytes, the most significant first, and back. LuaJIT takes what would be a NaN with a payload for a reference, so that bytes of others are
-- looked at before they become a number.

local ffi = require "ffi"

local byte, char, sub = string.byte, string.char, string.sub

local _M = {}

-- Nothing in here yields, so one is enough.
local cell = ffi.new "union { double d; float f; uint8_t b[8]; }"
local little = ffi.abi "le"

---@param n number
---@return string 8 bytes
function _M.bytes(n)
  cell.d = n
  local b = cell.b
  if little then
    return char(b[7], b[6], b[5], b[4], b[3], b[2], b[1], b[0])
  end
  return char(b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7])
end

local NAN = 0 / 0

---@param s string
---@param at integer where 8 bytes begin
---@return number
function _M.double(s, at)
  local first, second = byte(s, at, at + 1)
  if first % 128 == 127 and second >= 0xf0 and (second ~= 0xf0 or sub(s, at + 2, at + 7) ~= "\0\0\0\0\0\0") then
    return NAN
  end
  local b = cell.b
  for i = 0, 7 do
    b[little and 7 - i or i] = byte(s, at + i)
  end
  return cell.d
end

---@param s string
---@param at integer where 4 bytes begin
---@return number
function _M.float(s, at)
  local first, second = byte(s, at, at + 1)
  if first % 128 == 127 and second >= 0x80 and (second ~= 0x80 or sub(s, at + 2, at + 3) ~= "\0\0") then
    return NAN
  end
  local b = cell.b
  for i = 0, 3 do
    b[little and 3 - i or i] = byte(s, at + i)
  end
  return cell.f
end

return _M
