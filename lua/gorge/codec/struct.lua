-- SPDX-License-Identifier: MIT
-- The codec of a cache whose values are a C struct: the same bytes in L1 and in Redis, and no decode but a copy of them.

local kinds = require "gorge.codec.kind"
local text = require "gorge.text"

local type = type

local _M = {}

local NIL, STRUCT = kinds.NIL, kinds.STRUCT

---@param layout gorge.Layout
---@return gorge.Codec
function _M.new(layout)
  local other_layout = "a value of another layout than " .. layout.name .. " has here"

  local function check(value)
    local problem = type(value) ~= "nil" and layout:check(value) -- not `~= nil`: a null pointer of the FFI compares equal
    return problem and "value: " .. problem or nil
  end

  local function encode(value)
    local problem = check(value)
    if problem then
      return nil, problem
    elseif type(value) == "nil" then
      return NIL, "", NIL, ""
    end
    local bytes = layout:bytes(value)
    return STRUCT, bytes, STRUCT, bytes
  end

  local function decode(kind, bytes)
    if kind == NIL then
      return true, nil
    elseif kind ~= STRUCT then
      return false, "bytes of kind " .. text.describe(kind) .. " are no " .. layout.name
    end
    local value = layout:parse(bytes)
    if value ~= nil then
      return true, value
    end
    return false, other_layout
  end

  local function decode_memory(memory, len)
    local value = layout:read(memory, len)
    if value ~= nil then
      return true, value
    end
    return false, other_layout
  end

  local function clone(value)
    if type(value) == "nil" then
      return nil
    end
    return layout:clone(value)
  end

  return {
    name = "struct", check = check, encode = encode, decode = decode, memory_kind = STRUCT, decode_memory = decode_memory, clone = clone,
  }
end

return _M
