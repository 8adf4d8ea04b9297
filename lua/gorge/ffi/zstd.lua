-- SPDX-License-Identifier: MIT
-- Zstandard by way of the system's library (Debian: libzstd1), which is loaded when it is needed first.

local ffi = require "ffi"

local ffi_new, ffi_string = ffi.new, ffi.string
local tonumber = tonumber

-- Names of our own: declarations of LuaJIT are shared by all modules of a program.
ffi.cdef [[
  typedef struct gorge_zstd_context gorge_zstd_context;
  gorge_zstd_context *gorge_zstd_create_c(void) __asm__("ZSTD_createCCtx");
  size_t gorge_zstd_free_c(gorge_zstd_context *) __asm__("ZSTD_freeCCtx");
  gorge_zstd_context *gorge_zstd_create_d(void) __asm__("ZSTD_createDCtx");
  size_t gorge_zstd_free_d(gorge_zstd_context *) __asm__("ZSTD_freeDCtx");
  size_t gorge_zstd_compress(gorge_zstd_context *, void *, size_t, const void *, size_t, int) __asm__("ZSTD_compressCCtx");
  size_t gorge_zstd_decompress(gorge_zstd_context *, void *, size_t, const void *, size_t) __asm__("ZSTD_decompressDCtx");
  unsigned long long gorge_zstd_content_size(const void *, size_t) __asm__("ZSTD_getFrameContentSize");
  unsigned gorge_zstd_is_error(size_t) __asm__("ZSTD_isError");
  const char *gorge_zstd_error_name(size_t) __asm__("ZSTD_getErrorName");
]]

local _M = {}

---Longest bytes that are compressed, and that compressed ones may say they become: what hostile bytes can have allocated.
_M.MAX_PLAIN = 64 * 1024 ^ 2

local library, compressor, decompressor, failure

---@return ffi.namespace*|nil
---@return string|nil err
function _M.load()
  if not library and not failure then
    local ok, loaded = pcall(ffi.load, "libzstd.so.1")
    if not ok then
      failure = "cannot load libzstd.so.1 (Debian: libzstd1): " .. tostring(loaded)
      return nil, failure
    end
    library = loaded
    compressor = ffi.gc(loaded.gorge_zstd_create_c(), loaded.gorge_zstd_free_c)
    decompressor = ffi.gc(loaded.gorge_zstd_create_d(), loaded.gorge_zstd_free_d)
    if compressor == nil or decompressor == nil then
      library, failure = nil, "libzstd has no memory"
    end
  end
  return library, failure
end

---One frame that tells its size.
---@param bytes string
---@param level integer 1 to 19
---@param most integer a longer frame is of no use
---@return string|nil frame nil: it is longer, or cannot be made
function _M.compress(bytes, level, most)
  local zstd = _M.load()
  if not zstd or #bytes > _M.MAX_PLAIN or most < 1 then
    return nil
  end
  local out = ffi_new("uint8_t[?]", most)
  local len = zstd.gorge_zstd_compress(compressor, out, most, bytes, #bytes, level)
  if zstd.gorge_zstd_is_error(len) ~= 0 then
    return nil
  end
  return ffi_string(out, len)
end

---@param frame string
---@return string|nil bytes
---@return string|nil err
function _M.decompress(frame)
  local zstd, err = _M.load()
  if not zstd then
    return nil, err
  end
  local size = tonumber(zstd.gorge_zstd_content_size(frame, #frame)) -- the two largest numbers: unknown, and no frame
  if size > 2 ^ 63 then
    return nil, "a zstd frame that is malformed or does not tell its size"
  elseif size > _M.MAX_PLAIN then
    return nil, ("a zstd frame of %.0f bytes, more than %.0f"):format(size, _M.MAX_PLAIN)
  end
  local out = ffi_new("uint8_t[?]", size + 1)
  local len = zstd.gorge_zstd_decompress(decompressor, out, size, frame, #frame)
  if zstd.gorge_zstd_is_error(len) ~= 0 then
    return nil, "a zstd frame that is malformed: " .. ffi_string(zstd.gorge_zstd_error_name(len))
  elseif tonumber(len) ~= size then
    return nil, "a zstd frame that does not have the size it tells"
  end
  return ffi_string(out, size)
end

return _M
