-- SPDX-License-Identifier: MIT
-- Values to bytes and back. A value has two byte forms: one for L1 (memory of this host, fast, trusted) and one for L2 (Redis:
-- readable by other programs, decoded without trust). Each form carries a kind (codec/kind.lua), so that scalars need no parser.
--
--   serializer   value                       L1 form            L2 form
--   any          nil                         NIL, ""            NIL, ""
--   auto         string, number, boolean     STRING, NUMBER, BOOLEAN, the same in both
--   auto         table, null                 BUFFER (tables)    JSON, extended
--   json         string, number, boolean     STRING, ...        JSON, strict
--   json         table, null                 BUFFER (tables)    JSON, strict
--   msgpack      string, number, boolean     STRING, ...        MSGPACK
--   msgpack      table, null                 BUFFER (tables)    MSGPACK
--   string       string                      STRING             STRING
--   custom       all but nil                 CUSTOM             CUSTOM
--   a struct     that struct                 STRUCT             STRUCT
--
-- Where LuaJIT has no string.buffer, and for null at the top, the L1 form is that for L2. Both forms of a value decode to the same
-- value. L2 bytes may be stored in L1 as they are, with their kind. With a schema BUFFER is TYPED; with compression the L2 form may be PACKED.

local clone = require "gorge.clone"
local custom = require "gorge.codec.custom"
local json = require "gorge.codec.json"
local kinds = require "gorge.codec.kind"
local msgpack = require "gorge.codec.msgpack"
local packed = require "gorge.codec.packed"
local shape = require "gorge.codec.shape"
local struct = require "gorge.codec.struct"
local text = require "gorge.text"
local typed = require "gorge.codec.typed"

local byte = string.byte
local find = string.find
local pcall = pcall
local tonumber = tonumber
local type = type

local has_buffer, buffer = pcall(require, "string.buffer")
local buffer_encode = has_buffer and buffer.encode or nil
local buffer_decode = has_buffer and buffer.decode or nil

local NIL, STRING, NUMBER, BOOLEAN = kinds.NIL, kinds.STRING, kinds.NUMBER, kinds.BOOLEAN
local JSON, BUFFER, MSGPACK = kinds.JSON, kinds.BUFFER, kinds.MSGPACK

local _M = {
  kind = kinds,
  ---Tables inside tables that a value may have, the outermost counted.
  MAX_DEPTH = shape.MAX_DEPTH,
  ---Keys and values that a value may have in all.
  MAX_NODES = shape.MAX_NODES,
}

---@class gorge.Codec
---@field name string
---@field encode fun(value: any, want_l2: boolean?): integer|nil, string, integer?, string?
---@field decode fun(kind: integer, bytes: string, from_l2: boolean?): boolean, any
---@field memory_kind integer|nil
---@field decode_memory nil|fun(memory: ffi.cdata*, len: integer): boolean, any the same for bytes of the kind `memory_kind` in L1, where they are
---@field check nil|fun(value: any): string|nil what is wrong with a value, if the codec of a typed cache would refuse it; `encode` does the same
---@field clone fun(value: any): any a private copy
---@field plain integer|nil kind of the values whose bytes are the value: they need no decode

-- encode(value, want_l2) → kind, bytes, l2_kind, l2_bytes     or nil, err
--   The last two are nil when `want_l2` is false and they would cost work. `err` names the path inside the value and the type, as in
--   `value.user.roles[3]: cannot serialize a function`; the caller puts `gorge: ` and the key in front.
-- decode(kind, bytes, from_l2) → true, value     or false, err
--   A nil value is true, nil. `from_l2` is true for bytes that Redis sent. The size of `bytes` is the caller's to check.
-- Plain functions, called with a dot. They never yield (a custom serializer's functions may) and work in every phase.

---@return integer|nil kind
---@return string bytes_or_err
local function buffer_form(value)
  local ok, bytes = pcall(buffer_encode, value)
  if ok then
    return BUFFER, bytes
  end
  return nil, "value: " .. text.printable(bytes, 200) -- such as more bytes than a Lua string can hold
end

---@param l2_kind integer
---@param l2_encode fun(value: any): string|nil, string|nil
---@return integer|nil kind
---@return string bytes_or_err
---@return integer|nil l2_kind
---@return string|nil l2_bytes
local function encode_tree(value, want_l2, l2_kind, l2_encode)
  if want_l2 or not buffer_encode or type(value) ~= "table" then
    local written, err = l2_encode(value)
    if not written then
      return nil, err
    elseif not buffer_encode or type(value) ~= "table" then
      return l2_kind, written, l2_kind, written
    end
    local kind, bytes = buffer_form(value)
    return kind, bytes, l2_kind, written
  end
  local mode = l2_encode == json.encode_strict and shape.STRICT or shape.TYPES
  local good, err = shape.inspect(value, mode, json.null)
  if good == nil then
    return nil, err
  end
  return buffer_form(value)
end

local function encode_auto(value, want_l2)
  local kind = type(value)
  if kind == "string" then
    return STRING, value, STRING, value
  elseif kind == "number" then
    local written = json.number_text(value)
    return NUMBER, written, NUMBER, written
  elseif kind == "boolean" then
    local written = value and "t" or "f"
    return BOOLEAN, written, BOOLEAN, written
  elseif kind == "nil" then
    return NIL, "", NIL, ""
  end
  return encode_tree(value, want_l2, JSON, json.encode_extended)
end

local function encode_json(value, want_l2)
  local kind = type(value)
  if kind == "nil" then
    return NIL, "", NIL, ""
  elseif kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
    return encode_tree(value, want_l2, JSON, json.encode_strict)
  end
  local written, err
  if want_l2 or kind == "number" then -- a number may be one that JSON lacks
    written, err = json.encode_strict(value)
    if not written then
      return nil, err
    end
  end
  if kind == "string" then
    return STRING, value, JSON, written
  elseif kind == "number" then
    return NUMBER, written, JSON, written
  end
  return BOOLEAN, value and "t" or "f", JSON, written
end

local function encode_msgpack(value, want_l2)
  local kind = type(value)
  if kind == "nil" then
    return NIL, "", NIL, ""
  elseif kind ~= "string" and kind ~= "number" and kind ~= "boolean" then
    return encode_tree(value, want_l2, MSGPACK, msgpack.encode)
  end
  local l1_kind, bytes = encode_auto(value)
  if want_l2 then
    return l1_kind, bytes, MSGPACK, (msgpack.encode(value))
  end
  return l1_kind, bytes
end

local function encode_string(value)
  if type(value) == "string" then
    return STRING, value, STRING, value
  elseif type(value) == "nil" then -- not `== nil`: a null pointer of the FFI compares equal
    return NIL, "", NIL, ""
  end
  return nil, "value: serializer 'string' stores strings only, cannot serialize a " .. type(value)
end

local SPECIAL = { nan = 0 / 0, inf = math.huge, ["-inf"] = -math.huge }

local ZERO, NINE, MINUS = byte "0", byte "9", byte "-"

local function is_digit(c)
  return c ~= nil and c >= ZERO and c <= NINE
end

---A number in decimal. tonumber alone would take blanks, hexadecimal and binary digits, words and suffixes; a pattern would not be compiled.
---@return number|nil
local function decimal(bytes)
  local first, second = byte(bytes, 1, 2)
  if not is_digit(byte(bytes, -1)) or not is_digit(first == MINUS and second or first)
    or find(bytes, "x", 1, true) or find(bytes, "X", 1, true) or find(bytes, "b", 1, true) or find(bytes, "B", 1, true) then
    return nil
  end
  local number = tonumber(bytes)
  return number
end

---Everything but STRING and BUFFER, which `decode` has looked at first.
local function decode_rest(kind, bytes, decode_json)
  if kind == NIL then
    return true, nil
  elseif kind == JSON then
    return decode_json(bytes)
  elseif kind == BOOLEAN then
    if bytes == "t" or bytes == "f" then
      return true, bytes == "t"
    end
    return false, "malformed boolean"
  elseif kind == NUMBER then
    local number = SPECIAL[bytes] or decimal(bytes)
    if number then
      return true, number
    end
    return false, "malformed number"
  elseif kind == BUFFER then
    return false, "bytes of kind BUFFER cannot be decoded here"
  end
  return false, "bytes of unknown kind " .. text.describe(kind)
end

local function decode_auto(kind, bytes, from_l2)
  if kind == STRING then
    return true, bytes
  elseif kind == BUFFER and buffer_decode and not from_l2 then
    local ok, value = pcall(buffer_decode, bytes)
    if ok then
      return true, value
    end
    return false, "malformed buffer"
  end
  return decode_rest(kind, bytes, json.decode_extended)
end

-- Reads bytes where they are. Nothing in here yields, so one is enough.
local reader = has_buffer and buffer.new() or nil
local read_next = reader and reader.decode or nil

---Bytes of kind BUFFER that are no string yet, and need not become one.
---@param memory ffi.cdata* an array of bytes
---@param len integer
---@return boolean ok
---@return any value
local function decode_memory(memory, len)
  reader:set(memory, len)
  local ok, value = pcall(read_next, reader)
  if ok and #reader == 0 then
    return true, value
  end
  reader:reset()
  return false, "malformed buffer"
end

local function decode_json(kind, bytes, from_l2)
  if kind == JSON then
    return json.decode_strict(bytes)
  end
  return decode_auto(kind, bytes, from_l2)
end

local function decode_msgpack(kind, bytes, from_l2)
  if kind == MSGPACK then
    return msgpack.decode(bytes)
  end
  return decode_auto(kind, bytes, from_l2)
end

local function decode_string(kind, bytes)
  if kind == STRING then
    return true, bytes
  elseif kind == NIL then
    return true, nil
  end
  return false, "serializer 'string' cannot decode bytes of kind " .. text.describe(kind)
end

---@return gorge.Codec
local function built_in(name, encode, decode, has_tables)
  local from_memory = reader and has_tables
  return {
    name = name, plain = STRING, encode = encode, decode = decode, clone = clone,
    memory_kind = from_memory and BUFFER or nil, decode_memory = from_memory and decode_memory or nil,
  }
end

local BUILT_IN = {
  auto = built_in("auto", encode_auto, decode_auto, true),
  json = built_in("json", encode_json, decode_json, true),
  msgpack = built_in("msgpack", encode_msgpack, decode_msgpack, true),
  string = built_in("string", encode_string, decode_string, false),
}

---Makes the codec of one cache. Never yields; any phase.
---@param serializer "auto"|"json"|"msgpack"|"string"|gorge.Serializer as `options.parse` gives it, like all three
---@param schema? gorge.Schema|gorge.Layout
---@param compress? false|{ above: integer, level: integer }
---@return gorge.Codec
function _M.new(serializer, schema, compress)
  local codec
  if schema and schema.ctype then
    codec = struct.new(schema)
  else
    codec = BUILT_IN[serializer] or custom.new(serializer)
  end
  codec = packed.new(codec, compress)
  if schema and not schema.ctype then
    codec = typed.new(schema, codec)
  end
  return codec
end

return _M
