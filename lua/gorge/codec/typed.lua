-- SPDX-License-Identifier: MIT
-- A codec that holds the values of another one against a schema: on their way in, and when they come from somebody whose check cannot be relied on.
--
-- What is trusted: the form for L1 of a table that this codec has checked itself. It carries the id of the schema (kind TYPED), so that a handle with
-- another schema, or the workers after a reload that changed it, do not take it for theirs. All else is checked when it is decoded: what comes from Redis,
-- straight or by way of L1, and what a serializer of the user's has written. L0 holds checked values only.

local C = require "gorge.ffi.lib"
local ffi = require "ffi"
local kinds = require "gorge.codec.kind"
local text = require "gorge.text"

local cast = ffi.cast
local sub = string.sub
local type = type

local _M = {}

local NIL, BUFFER, TYPED = kinds.NIL, kinds.BUFFER, kinds.TYPED
local ID_SIZE = 8

---@param schema gorge.Schema
---@param inner gorge.Codec
---@return gorge.Codec
function _M.new(schema, inner)
  local word = ffi.new("uint64_t[1]", C.gorge_checksum(schema.text, #schema.text, 0))
  local id = ffi.string(cast("const char *", word), ID_SIZE)
  local inner_encode, inner_decode, inner_memory = inner.encode, inner.decode, inner.decode_memory
  local OTHER = "a value that was stored under another schema"

  local function check(value)
    return type(value) ~= "nil" and schema:check(value) or nil
  end

  local function encode(value, want_l2)
    local problem = check(value)
    if problem then
      return nil, problem
    end
    local kind, bytes, l2_kind, l2_bytes = inner_encode(value, want_l2)
    if kind == BUFFER then
      return TYPED, id .. bytes, l2_kind, l2_bytes
    end
    return kind, bytes, l2_kind, l2_bytes
  end

  local function decode(kind, bytes, from_l2)
    if kind == TYPED and not from_l2 then
      if sub(bytes, 1, ID_SIZE) ~= id then
        return false, OTHER
      end
      local ok, value = inner_decode(BUFFER, sub(bytes, ID_SIZE + 1))
      return ok, value
    end
    local ok, value = inner_decode(kind, bytes, from_l2)
    if not ok or kind == NIL then
      return ok, value
    end
    local problem = schema:fit(value)
    if problem then
      return false, text.printable(problem, 200)
    end
    return true, value
  end

  local function decode_memory(memory, len)
    if len < ID_SIZE or cast("const uint64_t *", memory)[0] ~= word[0] then
      return false, OTHER
    end
    local ok, value = inner_memory(memory + ID_SIZE, len - ID_SIZE)
    return ok, value
  end

  return {
    name = inner.name,
    check = check,
    encode = encode,
    decode = decode,
    memory_kind = inner_memory and TYPED or nil,
    decode_memory = inner_memory and decode_memory or nil,
    clone = inner.clone,
  }
end

return _M
