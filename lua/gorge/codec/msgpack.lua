-- SPDX-License-Identifier: MIT
-- MessagePack (https://github.com/msgpack/msgpack/blob/master/spec.md), exact: what is written is read back as the same Lua value.
--
-- Whole numbers up to 2^53 are written as integers, all others (minus zero and NaN too) as float 64. A string that is UTF-8 is a str, any other one a bin.
-- A table with the keys 1 to n is an array, any other table a map; its keys may be strings, numbers and booleans. The light userdata cjson.null is nil.
--
-- Bytes from anywhere are decoded within bounds: tables at most MAX_DEPTH deep, at most MAX_NODES parts, no more parts announced than bytes are left.
-- Refused are extension types, integers that no double holds, keys that are nil, NaN or a table, and bytes after the value.

local doubles = require "gorge.ffi.doubles"
local shape = require "gorge.codec.shape"
local text = require "gorge.text"

local byte, char, sub = string.byte, string.char, string.sub
local concat = table.concat
local floor = math.floor
local format = string.format
local is_utf8 = text.is_utf8
local next = next
local pcall = pcall
local rawget = rawget
local shape_of = shape.of
local type = type

local _M = {}

local ARRAY, MAX_DEPTH, MAX_NODES = shape.ARRAY, shape.MAX_DEPTH, shape.MAX_NODES
local WHOLE_MAX = 2 ^ 53

local null = require("cjson.safe").null

---The `count` bytes of a whole number, the most significant first.
local function whole_bytes(n, count)
  if count == 1 then
    return char(n)
  elseif count == 2 then
    return char(floor(n / 256), n % 256)
  end
  local half = 256 ^ (count / 2)
  return whole_bytes(floor(n / half), count / 2) .. whole_bytes(n % half, count / 2)
end

---A head whose length or value does not fit into the first byte: the first byte of the smallest form that takes `n`, then `n`.
local function sized(n, one, two, four)
  if one and n < 0x100 then
    return char(one, n)
  elseif n < 0x10000 then
    return char(two) .. whole_bytes(n, 2)
  end
  return char(four) .. whole_bytes(n, 4)
end

local function number_bytes(n)
  if floor(n) ~= n or n > WHOLE_MAX or n < -WHOLE_MAX or (n == 0 and 1 / n < 0) then
    return "\xcb" .. doubles.bytes(n)
  elseif n >= 0 then
    if n < 0x80 then
      return char(n)
    elseif n < 0x100000000 then
      return sized(n, 0xcc, 0xcd, 0xce)
    end
    return "\xcf" .. whole_bytes(n, 8)
  elseif n >= -0x20 then
    return char(n + 0x100)
  elseif n >= -0x80 then
    return char(0xd0, n + 0x100)
  elseif n >= -0x8000 then
    return "\xd1" .. whole_bytes(n + 0x10000, 2)
  elseif n >= -0x80000000 then
    return "\xd2" .. whole_bytes(n + 0x100000000, 4)
  end
  -- 2^64 + n is more than a double holds: the halves by themselves.
  local high = floor(n / 0x100000000)
  return "\xd3" .. whole_bytes(high + 0x100000000, 4) .. whole_bytes(n - high * 0x100000000, 4)
end

local function string_head(s)
  local n = #s
  if not is_utf8(s) then
    return sized(n, 0xc4, 0xc5, 0xc6)
  elseif n < 0x20 then
    return char(0xa0 + n)
  end
  return sized(n, 0xd9, 0xda, 0xdb)
end

---Appends the bytes of a checked value to `out`.
---@param out string[]
---@param n integer pieces in `out`
---@param value any
---@return integer n
local function put(out, n, value)
  local kind = type(value)
  if kind == "string" then
    out[n + 1], out[n + 2] = string_head(value), value
    return n + 2
  elseif kind == "number" then
    out[n + 1] = number_bytes(value)
    return n + 1
  elseif kind ~= "table" then
    out[n + 1] = kind ~= "boolean" and "\xc0" or value and "\xc3" or "\xc2"
    return n + 1
  end
  local form, count = shape_of(value, true)
  if form == ARRAY then
    out[n + 1] = count < 0x10 and char(0x90 + count) or sized(count, nil, 0xdc, 0xdd)
    n = n + 1
    for i = 1, count do
      n = put(out, n, rawget(value, i))
    end
    return n
  end
  out[n + 1] = count < 0x10 and char(0x80 + count) or sized(count, nil, 0xde, 0xdf)
  n = n + 1
  for key, member in next, value do
    n = put(out, put(out, n, key), member)
  end
  return n
end

---Encodes a value that is not nil. Never yields; any phase.
---@param value any
---@return string|nil bytes
---@return string|nil err names the path and the type; without the leading `gorge: `
function _M.encode(value)
  local good, err = shape.inspect(value, shape.TYPES, null)
  if good == nil then
    return nil, err
  end
  local out = {}
  return concat(out, "", 1, put(out, 0, value))
end

-- The bytes at hand. Nothing in here yields, and an error ends the whole decode, so one set is enough.
local input, at, last, nodes = "", 1, 0, 0

local MALFORMED = {} -- what is raised is this table, so that no error of the interpreter is taken for a finding

local function malformed(why)
  MALFORMED.why = why
  error(MALFORMED, 0)
end

---Takes the next `n` bytes. Returns where they begin.
local function take(n)
  if n > last - at + 1 then
    malformed "it ends too early"
  end
  local begin = at
  at = at + n
  return begin
end

local function whole(count)
  local begin, n = take(count), 0
  for i = begin, begin + count - 1 do
    n = n * 256 + byte(input, i)
  end
  return n
end

local function integer(count, signed)
  local n
  if count < 8 then
    n = whole(count)
    if signed and n >= 256 ^ count / 2 then
      n = n - 256 ^ count
    end
    return n
  end
  local high, low = whole(4), whole(4)
  if signed and high >= 0x80000000 then
    high = high - 0x100000000
  end
  n = high * 0x100000000 + low
  -- What is beyond 2^53 by one has been rounded to it.
  if (n >= WHOLE_MAX or n <= -WHOLE_MAX) and (n ~= WHOLE_MAX and n ~= -WHOLE_MAX or low ~= 0) then
    malformed "an integer that a Lua number cannot hold"
  end
  return n
end

local function text_of(count)
  local begin = take(count)
  return sub(input, begin, begin + count - 1)
end

local read

---Counts the parts of a table before any of them is made.
local function enter(parts, depth)
  nodes = nodes + parts + 1
  if depth > MAX_DEPTH then
    malformed "tables nested too deep"
  elseif parts > last - at + 1 or nodes > MAX_NODES then
    malformed "more parts than there can be"
  end
end

local function array(count, depth)
  enter(count, depth)
  local out = {}
  for i = 1, count do
    out[i] = read(depth)
  end
  return out
end

local function map(count, depth)
  enter(2 * count, depth)
  local out = {}
  for _ = 1, count do
    local key = read(depth)
    local kind = type(key)
    if (kind ~= "string" and kind ~= "number" and kind ~= "boolean") or key ~= key then
      malformed "a key that is no string, number or boolean"
    end
    out[key] = read(depth)
  end
  return out
end

local READERS = {
  [0xc0] = function() return null end,
  [0xc2] = function() return false end,
  [0xc3] = function() return true end,
  [0xc4] = function() return text_of(whole(1)) end,
  [0xc5] = function() return text_of(whole(2)) end,
  [0xc6] = function() return text_of(whole(4)) end,
  [0xca] = function() return doubles.float(input, take(4)) end,
  [0xcb] = function() return doubles.double(input, take(8)) end,
  [0xcc] = function() return integer(1) end,
  [0xcd] = function() return integer(2) end,
  [0xce] = function() return integer(4) end,
  [0xcf] = function() return integer(8) end,
  [0xd0] = function() return integer(1, true) end,
  [0xd1] = function() return integer(2, true) end,
  [0xd2] = function() return integer(4, true) end,
  [0xd3] = function() return integer(8, true) end,
  [0xd9] = function() return text_of(whole(1)) end,
  [0xda] = function() return text_of(whole(2)) end,
  [0xdb] = function() return text_of(whole(4)) end,
  [0xdc] = function(depth) return array(whole(2), depth + 1) end,
  [0xdd] = function(depth) return array(whole(4), depth + 1) end,
  [0xde] = function(depth) return map(whole(2), depth + 1) end,
  [0xdf] = function(depth) return map(whole(4), depth + 1) end,
}

---@param depth integer of the table around the value, 0 for none
function read(depth)
  local head = byte(input, take(1))
  if head < 0x80 then
    return head
  elseif head >= 0xe0 then
    return head - 0x100
  elseif head < 0x90 then
    return map(head - 0x80, depth + 1)
  elseif head < 0xa0 then
    return array(head - 0x90, depth + 1)
  elseif head < 0xc0 then
    return text_of(head - 0xa0)
  end
  local reader = READERS[head]
  if not reader then
    malformed(head == 0xc1 and "a byte that begins nothing" or format("an extension type (0x%02x)", head))
  end
  return reader(depth)
end

---Decodes bytes from any source. Never yields; any phase.
---@param bytes string
---@return boolean ok
---@return any value_or_err never nil when ok
function _M.decode(bytes)
  input, at, last, nodes = bytes, 1, #bytes, 0
  local ok, value = pcall(read, 0)
  input = ""
  if not ok then
    return false, "malformed MessagePack: " .. (value == MALFORMED and MALFORMED.why or text.describe(value))
  elseif at <= last then
    return false, "malformed MessagePack: bytes after the value"
  end
  return true, value
end

return _M
