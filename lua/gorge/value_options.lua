-- SPDX-License-Identifier: MIT
-- The options that say what values are and how they become bytes: serializer, schema, compress.

local check = require "gorge.check"
local layout = require "gorge.ffi.layout"
local schemas = require "gorge.schema"
local zstd = require "gorge.ffi.zstd"

local find = string.find
local mismatch = check.mismatch
local type = type

local _M = {}

local function check_serializer_name(value, name)
  if type(value) == "string" and #value <= 32 and find(value, "^[%w_.-]+$") then
    return value
  end
  return nil, mismatch(name, "1 to 32 letters, digits, '_', '-' or '.'", value)
end

local SERIALIZER_RULES = {
  name = { check = check_serializer_name },
  encode = { check = check.func },
  decode = { check = check.func },
}

local check_serializer_word = check.choice({ "auto", "json", "msgpack", "string" }, {})

---@param value any
---@param name string of the option
function _M.serializer(value, name)
  if type(value) == "string" then
    return check_serializer_word(value, name)
  elseif type(value) ~= "table" then
    return nil, mismatch(name, 'one of "auto", "json", "msgpack", "string" or a table { name =, encode =, decode = }', value)
  end
  local out, problem = check.parse_table(value, name .. ".", SERIALIZER_RULES)
  if not out then
    return nil, problem
  end
  for _, field in ipairs { "name", "encode", "decode" } do
    if out[field] == nil then
      return nil, "option '" .. name .. "' needs '" .. field .. "' when it is a table"
    end
  end
  return out
end

---@return gorge.Schema|gorge.Layout|nil
---@return string|nil problem
function _M.schema(value, name)
  local out, problem
  if layout.is_ctype(value) then
    out, problem = layout.new(value)
  elseif type(value) == "table" then
    out, problem = schemas.compile(value)
  else
    return nil, mismatch(name, 'a table such as { id = "number", email = "string?" } or a C struct as ffi.typeof returns it', value)
  end
  if not out then
    return nil, "option '" .. name .. "': " .. problem
  end
  return out
end

local MIN_ABOVE, MAX_LEVEL = 64, 19

local COMPRESS_RULES = {
  above = { check = check.size(MIN_ABOVE, zstd.MAX_PLAIN, 'a number of bytes or a string such as "64k", from 64 to 64m') },
  level = { check = check.integer(1, MAX_LEVEL), default = 3 },
}

---@return false|{ above: integer, level: integer }|nil
---@return string|nil problem
function _M.compress(value, name)
  if value == false then
    return false
  elseif type(value) == "string" or type(value) == "number" then
    local above, problem = COMPRESS_RULES.above.check(value, name)
    if not above then
      return nil, problem
    end
    value = { above = above }
  elseif type(value) ~= "table" then
    return nil, mismatch(name, 'false, a size such as "64k" or a table { above =, level = }', value)
  end
  local out, problem = check.parse_table(value, name .. ".", COMPRESS_RULES)
  if not out then
    return nil, problem
  elseif not out.above then
    return nil, "option '" .. name .. "' needs 'above' when it is a table"
  end
  local library, err = zstd.load()
  if not library then
    return nil, "option '" .. name .. "': " .. err
  end
  return out
end

---What several of these options cannot have together.
---@param parsed gorge.ParsedOptions
---@return string|nil problem
function _M.conflict(parsed)
  local schema, serializer = parsed.schema, parsed.serializer
  if not schema then
    return nil
  elseif schema.ctype and serializer ~= "auto" then
    return "options 'schema' and 'serializer' exclude each other when the schema is a C struct: its bytes are stored as they are"
  elseif serializer == "string" then
    return "option 'schema' needs a serializer that stores tables, got \"string\""
  end
end

return _M
