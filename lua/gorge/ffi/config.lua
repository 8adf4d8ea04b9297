-- SPDX-License-Identifier: MIT
-- The options of a cache, or only of a Redis, as the library takes them.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local addresses = require "gorge.addresses"

local _M = {}

local function text(value)
  return value and ffi.cast("const char *", value) or nil
end

---@param tls gorge.ParsedTls|false
local function set_tls(config, tls)
  if tls then
    config.tls = tls.verify and C.GORGE_TLS_ON or C.GORGE_TLS_UNVERIFIED
    config.tls_ca, config.tls_cert, config.tls_key = text(tls.ca), text(tls.cert), text(tls.key)
    config.tls_server_name = text(tls.server_name)
  end
end

---How to reach a server, and how long to wait for it.
---@param config ffi.cdata* struct gorge_config; good as long as `redis` is
---@param redis gorge.ParsedRedis
function _M.set_server(config, redis)
  config.redis_host, config.redis_path = text(redis.host), text(redis.path)
  config.redis_port = redis.port or 0
  config.username, config.password = text(redis.username), text(redis.password)
  config.db = redis.db
  set_tls(config, redis.tls)
  config.connect_timeout_ms, config.timeout_ms = redis.connect_timeout_ms, redis.timeout_ms
end

local function set_redis(config, redis, servers)
  _M.set_server(config, redis)
  if redis.cluster then
    config.cluster = text(servers)
  elseif redis.sentinels then
    config.sentinels, config.master = text(servers), text(redis.master)
    config.sentinel_username, config.sentinel_password = text(redis.sentinel_username), text(redis.sentinel_password)
  end
  config.keepalive_ms, config.max_pending = redis.keepalive_interval_ms, redis.max_pending
end

---@param options gorge.ParsedOptions
---@param flags integer enum gorge_config_flag
---@return ffi.cdata* config struct gorge_config; good as long as `options` and the second value are
---@return string|nil servers
function _M.of(options, flags)
  local config = ffi.new "struct gorge_config"
  config.zone, config.ns = text(options.zone), text(options.namespace)
  config.l1_size = options.l1_size
  config.flags = flags
  config.lock_sleep_ms, config.lock_retries = options.lock_sleep_ms, options.lock_retries
  config.l1_ttl_ms = options.l1_ttl_ms
  config.early_beta = options.early_refresh or 0
  config.freshness_bound_ms, config.disconnected_ttl_ms = options.freshness_bound_ms, options.disconnected_ttl * 1000
  local redis, breaker, origin = options.redis, options.circuit_breaker, options.origin
  local listed = redis and (redis.sentinels or redis.cluster)
  local servers = listed and addresses.lines(listed) or nil
  if redis then
    set_redis(config, redis, servers)
  end
  if breaker then
    config.breaker_max_failures, config.breaker_timeout_ms = breaker.max_failures, breaker.timeout_ms
    config.breaker_slow_ms = breaker.slow_call_ms or 0
  end
  if origin then
    config.origin_max_concurrency = origin.max_concurrency or 0
    config.origin_max_failures, config.origin_timeout_ms = origin.max_failures or 0, origin.timeout_ms
  end
  return config, servers
end

return _M
