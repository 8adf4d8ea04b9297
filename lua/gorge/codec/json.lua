-- SPDX-License-Identifier: MIT
-- JSON, in two dialects, both exact: what is written is read back as the same Lua value or is not written at all.
--
-- Strict JSON (serializer "json"). Tables whose keys are all strings become objects, tables with keys 1 to n without a gap become
-- arrays, the empty table becomes {}. Strings are written byte for byte (quote, backslash, slash and control characters escaped), so
-- a string that is not UTF-8 comes back as it was, but other readers may refuse that text. NaN, infinities and other tables are
-- refused. The light userdata cjson.null (in OpenResty the same as ngx.null) is null.
--
-- Extended JSON (serializer "auto"): always valid JSON in valid UTF-8. What strict JSON lacks is an escape: an object with one
-- member whose key is the six characters U+0000 g o r g e, written  "\u0000gorge"  with these twelve bytes between the quotes, and
-- whose value is an array that starts with a word:
--
--   {"\u0000gorge":["nan"]}  {"\u0000gorge":["inf"]}  {"\u0000gorge":["-inf"]}     these numbers
--   {"\u0000gorge":["bytes","x"]}     a string that is not UTF-8: one character U+0000 to U+00FF for each byte (Latin-1)
--   {"\u0000gorge":["table",k1,v1,k2,v2,...]}     any other table (holes, mixed keys, number and boolean keys, keys that are not
--                                                 UTF-8, and a table that has the key above itself); keys and values may be escapes
--
-- An object with that key that is none of these cannot be decoded.
--
-- Numbers have as many digits as it takes to read the same double again, at most 17. The cjson of Debian writes no more than 14, so
-- a value with a number that needs more is put together here, and only its strings are left to cjson.

local cjson_safe = require "cjson.safe"
local shape = require "gorge.codec.shape"
local text = require "gorge.text"

local concat = table.concat
local find = string.find
local format = string.format
local gsub = string.gsub
local is_utf8 = text.is_utf8
local next = next
local rawget = rawget
local shape_of = shape.of
local tonumber = tonumber
local type = type

local _M = {}

local ARRAY, OBJECT, MARK, MAX_DEPTH = shape.ARRAY, shape.OBJECT, shape.MARK, shape.MAX_DEPTH

-- What MARK looks like as a key. JSON has one way to write U+0000, and this writer uses no other spelling for the letters.
local WRITTEN_MARK = [["\u0000gorge"]]
local MARK_HINT = [[\u0000gorge]] -- without its quotes: a search for a backslash skips most text at once

---Private instances: the settings of the program's own cjson stay as they are. The depth is that of the text, and each level of
---a table that is written as an escape takes two levels of text.
local function new_cjson(depth)
  local cjson = cjson_safe.new()
  cjson.decode_max_depth(depth)
  cjson.decode_invalid_numbers(false)
  cjson.encode_max_depth(MAX_DEPTH + 1)
  cjson.encode_number_precision(14)
  cjson.encode_invalid_numbers(false)
  cjson.encode_keep_buffer(false) -- else one large value would hold its memory for ever
  return cjson
end

local plain = new_cjson(MAX_DEPTH)
local cjson_encode, decode_plain = plain.encode, plain.decode
local decode_escaped = new_cjson(2 * MAX_DEPTH + 2).decode

---The light userdata that stands for null.
_M.null = cjson_safe.null

---The shortest of the usual texts of a number that reads back as the same double.
---@param n number
---@return string text also "nan", "inf", "-inf"; "-0" for minus zero
local function number_text(n)
  if n ~= n then
    return "nan"
  elseif n - n ~= 0 then
    return n > 0 and "inf" or "-inf"
  end
  local short = format("%.14g", n)
  if tonumber(short) == n then
    return short
  end
  short = format("%.15g", n)
  if tonumber(short) == n then
    return short
  end
  short = format("%.16g", n)
  if tonumber(short) == n then
    return short
  end
  return format("%.17g", n)
end
_M.number_text = number_text

local LATIN1 = {}
for code = 128, 255 do
  LATIN1[string.char(code)] = string.char(code < 192 and 194 or 195, code < 192 and code or code - 64)
end
local FROM_LATIN1 = {}
for raw, utf8 in next, LATIN1 do
  FROM_LATIN1[utf8] = raw
end

local function escape(word, content)
  return "{" .. WRITTEN_MARK .. ":[\"" .. word .. (content and "\"," .. content .. "]}" or "\"]}")
end

---@param s string
---@param strict boolean
---@return string
local function string_text(s, strict)
  if strict or is_utf8(s) then
    return (cjson_encode(s))
  end
  return escape("bytes", cjson_encode((gsub(s, "[\128-\255]", LATIN1))))
end

---@param value any neither a table nor a string; checked before
local function scalar_text(value)
  if type(value) == "number" then
    local written = number_text(value)
    if value - value ~= 0 then -- NaN and infinities; strict JSON has refused them before
      return escape(written)
    end
    return written
  elseif type(value) == "boolean" then
    return value and "true" or "false"
  end
  return "null"
end

---Appends the text of a checked value to `out`.
---@param out string[]
---@param n integer pieces in `out`
---@param value any
---@param strict boolean
---@return integer n
local function put(out, n, value, strict)
  local kind = type(value)
  if kind == "string" then
    out[n + 1] = string_text(value, strict)
    return n + 1
  elseif kind ~= "table" then
    out[n + 1] = scalar_text(value)
    return n + 1
  end
  local form, count = shape_of(value, strict)
  if form == ARRAY then
    for i = 1, count do
      out[n + 1] = i == 1 and "[" or ","
      n = put(out, n + 1, rawget(value, i), strict)
    end
    out[n + 1] = "]"
    return n + 1
  end
  local is_object = form == OBJECT
  local separator = is_object and "{" or "{" .. WRITTEN_MARK .. ":[\"table\","
  for key, member in next, value do
    out[n + 1] = separator
    n = put(out, n + 1, key, strict)
    out[n + 1] = is_object and ":" or ","
    n = put(out, n + 1, member, strict)
    separator = ","
  end
  out[n + 1] = is_object and (count == 0 and "{}" or "}") or "]}"
  return n + 1
end

---Writes a checked value.
---@param value any
---@param is_plain boolean what `shape.inspect` said
---@param strict boolean the dialect the value was checked for
---@return string
local function write(value, is_plain, strict)
  if is_plain then
    local written = cjson_encode(value)
    if written then
      return written
    end
  end
  local out = {}
  return concat(out, "", 1, put(out, 0, value, strict))
end

---Encodes a value that is not nil as strict JSON. Never yields; any phase.
---@param value any
---@return string|nil json
---@return string|nil err names the path and the type; without the leading `gorge: `
function _M.encode_strict(value)
  local is_plain, err = shape.inspect(value, shape.STRICT, _M.null)
  if is_plain == nil then
    return nil, err
  end
  return write(value, is_plain, true)
end

---Encodes a value that is not nil as extended JSON. Never yields; any phase.
---@param value any
---@return string|nil json
---@return string|nil err names the path and the type; without the leading `gorge: `
function _M.encode_extended(value)
  local is_plain, err = shape.inspect(value, shape.EXTENDED, _M.null)
  if is_plain == nil then
    return nil, err
  end
  return write(value, is_plain, false)
end

---@param decode function
---@param bytes string
---@return any value nil when it cannot be decoded
---@return string|nil err
local function read(decode, bytes)
  if find(bytes, "\0", 1, true) then -- cjson takes it for the end of the text
    return nil, "a NUL byte in JSON"
  end
  return decode(bytes)
end

---Decodes strict JSON from any source; at most 32 levels deep. Never yields; any phase.
---@param bytes string
---@return boolean ok
---@return any value_or_err never nil when ok
function _M.decode_strict(bytes)
  local value, err = read(decode_plain, bytes)
  if value == nil then
    return false, err
  end
  return true, value
end

local SPECIAL = { nan = 0 / 0, inf = math.huge, ["-inf"] = -math.huge }

local restore

---@return any value nil when `content` is no escape
---@return string|nil err
local function restore_escape(holder, content, depth)
  if next(holder, next(holder)) ~= nil or type(content) ~= "table" then
    return nil, "a malformed escape"
  end
  local word, count = content[1], #content
  if count == 1 and type(word) == "string" and SPECIAL[word] then
    return SPECIAL[word]
  elseif word == "bytes" and count == 2 and type(content[2]) == "string" then
    if find(content[2], "[\196-\255]") then
      return nil, "a malformed escape"
    end
    return (gsub(content[2], "[\194\195][\128-\191]", FROM_LATIN1))
  elseif word ~= "table" or count % 2 ~= 1 then
    return nil, "a malformed escape"
  elseif depth > MAX_DEPTH then
    return nil, "too many nested tables"
  end
  local out = {}
  for i = 2, count, 2 do
    local key, member = content[i], content[i + 1]
    if type(key) == "table" then
      key = restore(key, depth + 1)
    end
    local kind = type(key)
    if (kind ~= "string" and kind ~= "number" and kind ~= "boolean") or key ~= key then
      return nil, "a malformed key"
    end
    if type(member) == "table" then
      local err
      member, err = restore(member, depth + 1)
      if err then
        return nil, err
      end
    end
    out[key] = member
  end
  return out
end

---Puts back what escapes stand for, in place.
---@param t table fresh from the JSON decoder
---@param depth integer of the table that comes out, 1 for the outermost
---@return any value nil when it cannot be decoded
---@return string|nil err
function restore(t, depth)
  local content = rawget(t, MARK)
  if content ~= nil then
    return restore_escape(t, content, depth)
  end
  if depth > MAX_DEPTH then
    return nil, "too many nested tables"
  end
  for key, member in next, t do
    if type(member) == "table" then
      local value, err = restore(member, depth + 1)
      if err then
        return nil, err
      end
      t[key] = value
    end
  end
  return t
end

---Decodes extended JSON from any source; at most 32 levels deep. Never yields; any phase.
---@param bytes string
---@return boolean ok
---@return any value_or_err never nil when ok
function _M.decode_extended(bytes)
  local escaped = find(bytes, MARK_HINT, 1, true)
  local value, err = read(escaped and decode_escaped or decode_plain, bytes)
  if value == nil then
    return false, err
  end
  if escaped and type(value) == "table" then
    value, err = restore(value, 1)
    if err then
      return false, err
    end
  end
  return true, value
end

return _M
