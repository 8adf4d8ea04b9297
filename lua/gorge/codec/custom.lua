-- SPDX-License-Identifier: MIT
-- A serializer of the user: two functions that may fail in any way, kept from doing harm.

local kind = require "gorge.codec.kind"
local text = require "gorge.text"

local getmetatable, setmetatable = debug.getmetatable, debug.setmetatable -- without regard to the field __metatable
local next = next
local pcall = pcall
local type = type

local _M = {}

local NIL, CUSTOM = kind.NIL, kind.CUSTOM

---@param err any what a user's function raised or returned
---@return string
local function reason(err)
  if type(err) == "string" then
    return text.printable(err, 200)
  end
  return err == nil and "no reason given" or text.describe(err)
end

---A private copy of what the user's functions have made: objects with metatables may be in it, and tables that lead to themselves. Only tables are copied.
---@param copies table<table, table>
local function copy(value, copies)
  if type(value) ~= "table" then
    return value
  elseif copies[value] then
    return copies[value]
  end
  local out = {}
  copies[value] = out
  for key, member in next, value do
    out[copy(key, copies)] = copy(member, copies)
  end
  setmetatable(out, getmetatable(value))
  return out
end

local function clone(value)
  return type(value) == "table" and copy(value, {}) or value
end

---@param serializer gorge.Serializer checked by `options.parse`
---@return gorge.Codec
function _M.new(serializer)
  local name, user_encode, user_decode = serializer.name, serializer.encode, serializer.decode
  local prefix = "serializer '" .. text.printable(name) .. "': "

  local function encode(value)
    if type(value) == "nil" then -- not `== nil`: a null pointer of the FFI compares equal
      return NIL, "", NIL, ""
    end
    local ok, bytes, err = pcall(user_encode, value)
    if not ok then
      return nil, prefix .. "encode raised: " .. reason(bytes)
    elseif type(bytes) ~= "string" then
      if bytes == nil then
        return nil, prefix .. "encode failed on a value of type " .. type(value) .. ": " .. reason(err)
      end
      return nil, prefix .. "encode must return a string, got " .. text.describe(bytes)
    end
    return CUSTOM, bytes, CUSTOM, bytes
  end

  local function decode(found, bytes)
    if found == NIL then
      return true, nil
    elseif found ~= CUSTOM then
      return false, prefix .. "cannot decode bytes of kind " .. found .. ", which another serializer wrote"
    end
    local ok, value, err = pcall(user_decode, bytes)
    if not ok then
      return false, prefix .. "decode raised: " .. reason(value)
    elseif type(value) == "nil" then
      return false, prefix .. "decode failed: " .. reason(err)
    end
    return true, value
  end

  return { name = name, encode = encode, decode = decode, clone = clone }
end

return _M
