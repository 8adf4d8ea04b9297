-- SPDX-License-Identifier: MIT
-- Compressed values: in Redis, a value of kind PACKED is the kind of another one in a byte, then that one's bytes as one zstd frame. Every codec reads them;
-- those of a cache with the option `compress` write them. A program that does not know the kind takes such a value for a miss.

local kinds = require "gorge.codec.kind"
local text = require "gorge.text"
local zstd = require "gorge.ffi.zstd"

local byte, char, sub = string.byte, string.char, string.sub
local floor = math.floor

local _M = {}

local NIL, BUFFER, TYPED, PACKED = kinds.NIL, kinds.BUFFER, kinds.TYPED, kinds.PACKED

---Adds compression to a codec.
---@param inner gorge.Codec
---@param compress false|{ above: integer, level: integer }|nil without it only reads what others have compressed
---@return gorge.Codec
function _M.new(inner, compress)
  local inner_encode, inner_decode = inner.encode, inner.decode

  local function decode(kind, bytes, from_l2)
    if kind ~= PACKED then
      local ok, value = inner_decode(kind, bytes, from_l2)
      return ok, value
    end
    local packed_kind = byte(bytes, 1)
    if not packed_kind or packed_kind == NIL or packed_kind == BUFFER or packed_kind == TYPED or packed_kind >= PACKED then
      return false, "compressed bytes of kind " .. text.describe(packed_kind)
    end
    local plain, err = zstd.decompress(sub(bytes, 2))
    if not plain then
      return false, err
    end
    local ok, value = inner_decode(packed_kind, plain, true)
    return ok, value
  end

  local function encode(value, want_l2)
    local kind, bytes, l2_kind, l2_bytes = inner_encode(value, want_l2)
    if want_l2 and kind and l2_bytes and #l2_bytes >= compress.above then
      -- What saves less than an eighth is not worth a reader's time.
      local frame = zstd.compress(l2_bytes, compress.level, floor(#l2_bytes * 7 / 8))
      if frame then
        return kind, bytes, PACKED, char(l2_kind) .. frame
      end
    end
    return kind, bytes, l2_kind, l2_bytes
  end

  local codec = {}
  for name, member in next, inner do
    codec[name] = member
  end
  codec.decode = decode
  codec.encode = compress and encode or inner_encode
  return codec
end

return _M
