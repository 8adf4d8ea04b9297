-- SPDX-License-Identifier: MIT
-- The option redis.tls in a configuration of the library.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"

local _M = {}

local function text(value)
  return value and ffi.cast("const char *", value) or nil
end

---@param config ffi.cdata* struct gorge_config; good as long as `tls` is
---@param tls gorge.ParsedTls|false
function _M.set(config, tls)
  if tls then
    config.tls = tls.verify and C.GORGE_TLS_ON or C.GORGE_TLS_UNVERIFIED
    config.tls_ca, config.tls_cert, config.tls_key = text(tls.ca), text(tls.cert), text(tls.key)
    config.tls_server_name = text(tls.server_name)
  end
end

return _M
