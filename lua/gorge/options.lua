-- SPDX-License-Identifier: MIT
-- Options: what a user may write, checked and turned into what the engine takes. The only place that validates options.

local check = require "gorge.check"
local cluster = require "gorge.cluster"
local protection_options = require "gorge.protection_options"
local redis_url = require "gorge.redis_url"
local sentinels = require "gorge.sentinels"
local text = require "gorge.text"
local tls_options = require "gorge.tls_options"
local value_options = require "gorge.value_options"

local check_function = check.func
local choice = check.choice
local describe = text.describe
local find = string.find
local floor = math.floor
local integer = check.integer
local is_seconds = check.is_seconds
local is_share = check.is_share
local match = string.match
local mismatch = check.mismatch
local next = next
local parse_table = check.parse_table
local seconds = check.seconds
local set = check.set
local to_ms = check.to_ms
local type = type

local _M = {}

local YEAR = 365 * 86400
local MAX_TTL = 10 * YEAR
local MAX_WAIT = 86400
local MAX_LEASE = 3600
local MIN_L1_SIZE = 2 * 1024 ^ 2
local MAX_L1_SIZE = 1024 ^ 4
local MAX_ARGS = 200 -- keeps unpack() far from the limits of the Lua stack
local MAX_NAME = 64

_M.to_ms = check.to_ms

---Redis, as a table.
---@class gorge.RedisOptions
---@field host? string name, IPv4 or IPv6 address
---@field port? integer 1 to 65535, default 6379
---@field path? string unix socket, instead of host and port
---@field username? string
---@field password? string
---@field db? integer default 0
---@field tls? boolean|gorge.TlsOptions default false; not with path
---@field connect_timeout? number seconds, default 1
---@field timeout? number seconds for one command, default 0.5
---@field keepalive_interval? number seconds after which an idle connection is asked for a sign of life, 0.1 to 3600, default 3
---@field max_pending? integer commands queued before new ones are refused, default 4096
---@field cluster? string[] "host:port" of nodes of a Redis Cluster, instead of host and path; they tell where the others are
---@field sentinels? string[] "host:port" of each sentinel, instead of host and path; needs master
---@field master? string name that the sentinels know the master by
---@field sentinel_username? string for the sentinels; username and password are for the master
---@field sentinel_password? string

---The breaker around Redis.
---@class gorge.CircuitBreakerOptions
---@field max_failures? integer failures in a row that open the breaker, default 5
---@field timeout? number seconds the breaker stays open, default 30
---@field slow_call? number seconds: an answer that takes longer counts as a failure, and is used all the same; default: none does

---@class gorge.OriginOptions at least one of the first two
---@field max_concurrency? integer runs of fn at once on this host
---@field max_failures? integer failures of fn in a row that open the breaker around it
---@field timeout? number seconds that breaker stays open, default 30

---@class gorge.Metrics callbacks; what one raises is logged
---@field inc_l1_hits? fun()
---@field inc_l1_misses? fun()
---@field inc_l2_hits? fun()
---@field inc_l2_misses? fun()
---@field inc_db_fetches? fun()
---@field inc_db_errors? fun()
---@field observe_db_fetch_latency? fun(seconds: number)
---@field observe_l2_hit_latency? fun(seconds: number)

---A serializer of your own.
---@class gorge.Serializer
---@field name string
---@field encode fun(value: any): string|nil, string?
---@field decode fun(bytes: string): any, string?

---Options of one call.
---@class gorge.CallOptions
---@field args? table array of arguments for `fn` after the key, with a field `n` when one may be nil; at most 200
---@field clone? boolean a private copy instead of what other requests of this worker share
---@field blocking? boolean where the phase cannot yield, wait without yielding
---@field negative_cache_ttl? number seconds, instead of the cache's
---@field lock_ttl? number seconds, instead of the cache's
---@field on_lock_timeout? "run"|"stale"|"error" instead of the cache's
---@field stale_if_error? number seconds, instead of the cache's
---@field stale_ttl? number seconds, instead of the cache's
---@field soft_timeout? number seconds, instead of the cache's
---@field expiration_jitter? number 0 to 1, instead of the cache's

---What `fn` may return as its third value.
---@class gorge.Overrides
---@field ttl? number seconds
---@field tags? string|string[]
---@field stale_ttl? number seconds
---@field no_store? boolean hand the value out, keep nothing

---@class gorge.Options what a user gives to `gorge.new`
---@field namespace? string default "gorge"
---@field zone? string default: the namespace
---@field l1_size? integer|string bytes, or "64m"; 2m to 1t
---@field l1_ttl? number seconds, default 300
---@field l1_objects? integer default 10000; 0 turns L0 off
---@field redis? string|gorge.RedisOptions
---@field negative_cache_ttl? number seconds, default 60
---@field lock_ttl? number seconds, default 10
---@field lock_sleep? number seconds, default 0.05
---@field lock_retries? integer default 10
---@field wait_timeout? number seconds, default 30
---@field on_lock_timeout? "run"|"stale"|"error" default "run"
---@field stale_if_error? number seconds, 0 or more, default 0
---@field stale_while_revalidate? boolean default false
---@field stale_ttl? number seconds, default 60
---@field early_refresh? boolean|number true or a beta, default false
---@field refresh_timeout? number seconds, default 10
---@field soft_timeout? number seconds
---@field expiration_jitter? number 0 to 1, default 0
---@field cache_read_disabled? boolean default false
---@field cache_delete_disabled? boolean default false
---@field freshness_bound? number seconds, 0.1 to 3600, default 5
---@field disconnected_ttl? number seconds, 0 or more, default 30
---@field serializer? "auto"|"json"|"msgpack"|"string"|gorge.Serializer default "auto"
---@field schema? table|ffi.ctype* what values look like
---@field compress? false|integer|string|{ above: integer|string, level: integer? } default false
---@field circuit_breaker? boolean|gorge.CircuitBreakerOptions default false
---@field origin? gorge.OriginOptions
---@field logger? fun(level: string, message: string, fields: table?)
---@field metrics? gorge.Metrics
---@field on_event? fun(name: string, fields: table)
---@field host? "auto"|"nginx"|"loop"|"blocking" default "auto"

---@class gorge.ParsedRedis
---@field host string|nil either host and port, or path, or cluster, or sentinels and master are set
---@field port integer|nil
---@field path string|nil
---@field username string|nil
---@field password string|nil never to be shown
---@field db integer
---@field tls gorge.ParsedTls|false
---@field connect_timeout number seconds
---@field connect_timeout_ms integer
---@field timeout number seconds
---@field timeout_ms integer
---@field keepalive_interval number seconds
---@field keepalive_interval_ms integer
---@field max_pending integer
---@field cluster gorge.Address[]|nil
---@field sentinels gorge.Address[]|nil
---@field master string|nil
---@field sentinel_username string|nil
---@field sentinel_password string|nil never to be shown
---@field display string the address for people, without user and password

---@class gorge.ParsedOptions every field is set unless it says nil; X_ms is X in whole milliseconds, rounded up, at least 1
---@field namespace string
---@field zone string
---@field l1_size integer bytes
---@field l1_ttl number
---@field l1_ttl_ms integer
---@field l1_objects integer
---@field redis gorge.ParsedRedis|nil
---@field negative_cache_ttl number
---@field negative_cache_ttl_ms integer
---@field lock_ttl number
---@field lock_ttl_ms integer
---@field lock_sleep number
---@field lock_sleep_ms integer
---@field lock_retries integer
---@field wait_timeout number
---@field wait_timeout_ms integer
---@field on_lock_timeout "run"|"stale"|"error"
---@field stale_if_error number
---@field stale_if_error_ms integer 0: values are not kept beyond their end
---@field stale_while_revalidate boolean
---@field stale_ttl number
---@field stale_ttl_ms integer
---@field early_refresh number|false beta
---@field refresh_timeout number
---@field refresh_timeout_ms integer
---@field soft_timeout_ms integer|nil
---@field expiration_jitter number
---@field cache_read_disabled boolean
---@field cache_delete_disabled boolean
---@field freshness_bound number
---@field freshness_bound_ms integer
---@field disconnected_ttl number
---@field serializer "auto"|"json"|"msgpack"|"string"|gorge.Serializer
---@field schema gorge.Schema|gorge.Layout|nil
---@field compress false|{ above: integer, level: integer }
---@field circuit_breaker false|{ max_failures: integer, timeout: number, timeout_ms: integer, slow_call_ms?: integer }
---@field origin { max_concurrency: integer|nil, max_failures: integer|nil, timeout: number, timeout_ms: integer }|nil
---@field logger function|nil
---@field metrics table<string, function>|nil
---@field on_event function|nil
---@field host "auto"|"nginx"|"loop"|"blocking"

-- Names go into Redis keys, channels and file names: no separator of those, no space, no brace (a brace would move the hash slot).
local NAME_ACCEPTS = "1 to " .. MAX_NAME .. " letters, digits, '_', '-', '.' or ':', the first one a letter, a digit or '_'"

local function check_name(value, name)
  if type(value) == "string" and #value <= MAX_NAME and find(value, "^[%w_][%w_.:-]*$") then
    return value
  end
  return nil, mismatch(name, NAME_ACCEPTS, value)
end

local check_size = check.size(MIN_L1_SIZE, MAX_L1_SIZE, 'a number of bytes or a string such as "512k", "64m" or "1g", from 2m to 1024g')

-- Redis. No message of this part shows a user or a password, not even one that stands in the wrong place.

local function check_secret(value, name)
  if type(value) == "string" and value ~= "" and #value <= redis_url.MAX_SECRET then
    return value
  end
  return nil, "option '" .. name .. "' must be a string of 1 to " .. redis_url.MAX_SECRET .. " bytes"
end

local function check_redis_host(value, name)
  local host = type(value) == "string" and (match(value, "^%[([^%]]*:[^%]]*)%]$") or value)
  if host and redis_url.is_host(host) then
    return host
  end
  return nil, mismatch(name, "a host name, an IPv4 or an IPv6 address", redis_url.masked(value))
end

local function check_redis_path(value, name)
  if type(value) == "string" and redis_url.is_path(value) then
    return value
  end
  return nil, mismatch(name, "an absolute path of at most 107 bytes", redis_url.masked(value))
end

local LEAST_PERIOD, MAX_PERIOD = 0.1, 3600

---How often something is sent to Redis.
local function check_period(value, name)
  if is_seconds(value, MAX_PERIOD) and value >= LEAST_PERIOD then
    return value
  end
  return nil, mismatch(name, "a number of seconds from " .. LEAST_PERIOD .. " to " .. MAX_PERIOD, value)
end

local REDIS_RULES = {
  host = { check = check_redis_host },
  port = { check = integer(1, 65535) },
  path = { check = check_redis_path, known_as = { "socket", "unix", "unix_socket" } },
  username = { check = check_secret, known_as = { "user" } },
  password = { check = check_secret, known_as = { "auth", "pass" } },
  db = { check = integer(0, redis_url.MAX_DB), default = 0, known_as = { "database", "db_index" } },
  tls = { check = tls_options.check, default = false, known_as = { "ssl" } },
  connect_timeout = { check = seconds(3600), default = 1, ms = true },
  timeout = { check = seconds(3600), default = 0.5, ms = true, known_as = { "read_timeout", "send_timeout" } },
  keepalive_interval = { check = check_period, default = 3, ms = true, known_as = { "keepalive" } },
  max_pending = { check = integer(1, 1048576), default = 4096 },
  cluster = { check = cluster.check_list, known_as = { "nodes", "serv_list" } },
  sentinels = { check = sentinels.check_list },
  master = { check = sentinels.check_master, known_as = { "master_name" } },
  sentinel_username = { check = check_secret },
  sentinel_password = { check = check_secret },
}

local function check_redis(value, name)
  local out, problem
  if type(value) == "string" then
    local fields
    fields, problem = redis_url.parse(value)
    if not fields then
      return nil, "option '" .. name .. "' " .. problem
    end
    out, problem = parse_table(fields, "redis.", REDIS_RULES)
  elseif type(value) == "table" then
    out, problem = parse_table(value, "redis.", REDIS_RULES)
  else
    return nil, "option '" .. name .. "' must be a URL string or a table, got a " .. type(value)
  end
  if not out then
    return nil, problem
  end
  if out.path and (out.host or out.port) then
    return nil, "options 'redis.path' and 'redis." .. (out.host and "host" or "port") .. "' exclude each other"
  end
  problem = cluster.problem(out) or sentinels.problem(out)
  if problem then
    return nil, problem
  elseif not out.path and not out.host and not out.sentinels and not out.cluster then
    return nil, "option 'redis' needs 'host', 'path', 'cluster' or 'sentinels'"
  elseif out.path and out.tls then
    return nil, "options 'redis.path' and 'redis.tls' exclude each other"
  elseif out.username and not out.password then
    return nil, "option 'redis.username' needs 'redis.password' too"
  end
  if out.host then
    out.port = out.port or redis_url.DEFAULT_PORT
  end
  out.display = out.cluster and cluster.display(out) or out.sentinels and sentinels.display(out) or redis_url.display(out)
  return out
end

-- The other options that are tables.

local METRICS_RULES = {}
for _, name in ipairs {
  "inc_l1_hits", "inc_l1_misses", "inc_l2_hits", "inc_l2_misses", "inc_db_fetches", "inc_db_errors",
  "observe_db_fetch_latency", "observe_l2_hit_latency",
} do
  METRICS_RULES[name] = { check = check_function }
end

local function check_metrics(value, name)
  if type(value) == "table" then
    return parse_table(value, name .. ".", METRICS_RULES)
  end
  return nil, mismatch(name, "a table of functions", value)
end

local MAX_BETA = 100

-- true means the beta of the paper's own examples.
local function check_early(value, name)
  if type(value) == "boolean" then
    return value and 1
  elseif type(value) == "number" and value > 0 and value <= MAX_BETA then
    return value
  end
  return nil, mismatch(name, "a boolean or a number greater than 0 and at most " .. MAX_BETA, value)
end

local check_timeout_choice = choice({ "run", "stale", "error" }, {})

local RULES = {
  namespace = { check = check_name, default = "gorge" },
  zone = { check = check_name, known_as = { "shm", "shdict", "dict", "shm_name", "dict_name" } }, -- default: the namespace
  l1_size = { check = check_size, default = 64 * 1024 ^ 2 },
  l1_ttl = { check = seconds(MAX_TTL), default = 300, ms = true, known_as = { "ttl", "default_ttl" } },
  l1_objects = { check = integer(0, 10000000), default = 10000, known_as = { "lru_size", "max_items" } },
  redis = { check = check_redis },
  negative_cache_ttl = { check = seconds(MAX_TTL), default = 60, ms = true, known_as = { "neg_ttl", "negative_ttl" } },
  lock_ttl = { check = seconds(MAX_LEASE), default = 10, ms = true },
  lock_sleep = { check = seconds(60), default = 0.05, ms = true },
  lock_retries = { check = integer(1, 1000000), default = 10 },
  wait_timeout = { check = seconds(MAX_WAIT), default = 30, ms = true, known_as = { "lock_timeout" } },
  on_lock_timeout = { check = check_timeout_choice, default = "run" },
  expiration_jitter = { check = check.share, default = 0 },
  stale_if_error = { check = check.seconds_or_none(MAX_TTL), default = 0, ms = true, known_as = { "resurrect_ttl" } },
  stale_while_revalidate = { check = check.boolean, default = false },
  stale_ttl = { check = seconds(MAX_TTL), default = 60, ms = true },
  early_refresh = { check = check_early, default = false },
  refresh_timeout = { check = seconds(MAX_LEASE), default = 10, ms = true },
  soft_timeout = { check = seconds(MAX_WAIT), ms = true },
  cache_read_disabled = { check = check.boolean, default = false },
  cache_delete_disabled = { check = check.boolean, default = false },
  serializer = { check = value_options.serializer, default = "auto" },
  schema = { check = value_options.schema },
  compress = { check = value_options.compress, default = false },
  freshness_bound = { check = check_period, default = 5, ms = true },
  disconnected_ttl = { check = check.seconds_or_none(MAX_TTL), default = 30 },
  circuit_breaker = { check = protection_options.breaker, default = false },
  origin = { check = protection_options.origin },
  logger = { check = check_function },
  metrics = { check = check_metrics },
  on_event = { check = check_function },
  host = { check = choice({ "auto", "nginx", "loop", "blocking" }, { "cqueues", "luv" }), default = "auto" },
}

---Raises as if the function that called `parse` or `parse_call` had called `error(message, level)` itself.
local function fail(level, problem)
  error("gorge: " .. problem, level + 2)
end

---Checks the options of `gorge.new` and fills in the defaults. `opts` itself is not changed and not kept.
---Raises on misuse, naming the option and what it accepts. Never yields; any phase.
---Call it as a statement, not as `return options.parse(...)`: a tail call has no frame, and `level` would miss the caller.
---@param opts gorge.Options|nil nil means all defaults
---@param level? integer as in `error(message, level)` of the calling function: 1 that function, 2 (default) its caller
---@return gorge.ParsedOptions
function _M.parse(opts, level)
  level = level or 2
  if opts == nil then
    opts = {}
  elseif type(opts) ~= "table" then
    fail(level, "the options must be a table, got " .. describe(opts))
  end
  local out, problem = parse_table(opts, "", RULES)
  problem = problem or value_options.conflict(out)
  if problem then
    fail(level, problem)
  end
  out.zone = out.zone or out.namespace
  return out
end

local CALL_KNOWN = set {
  "negative_cache_ttl", "lock_ttl", "on_lock_timeout", "args", "clone", "blocking", "expiration_jitter", "stale_if_error",
  "stale_ttl", "soft_timeout",
}

---What is wrong with the options of one call; the slow half of `parse_call`.
---@return string problem
local function call_problem(name, value)
  if CALL_KNOWN[name] then
    local rule = RULES[name]
    if rule then
      local _, problem = rule.check(value, name)
      return problem
    elseif name == "args" then
      return mismatch(name, "an array of at most " .. MAX_ARGS .. " arguments for fn (with a field n when the first one is nil)", value)
    end
    return mismatch(name, "a boolean", value)
  elseif RULES[name] then
    return "option '" .. name .. "' belongs to gorge.new, it cannot be set for one call"
  end
  return check.unknown_option(name, "", CALL_KNOWN)
end

local function is_args(value)
  if type(value) ~= "table" then
    return false
  end
  local n = value.n
  if n == nil then
    return #value <= MAX_ARGS and (value[1] ~= nil or next(value) == nil)
  end
  return type(n) == "number" and n >= 0 and n <= MAX_ARGS and floor(n) == n
end

---Checks the options of one call. Creates no object: the result comes as several values, nil where the call does not override.
---Raises on misuse like `parse`, and takes `level` in the same way. Never yields; any phase.
---@param opts table|nil
---@param level? integer default 2
---@return integer|nil negative_cache_ttl_ms
---@return integer|nil lock_ttl_ms
---@return "run"|"stale"|"error"|nil on_lock_timeout
---@return table|nil args arguments for `fn` after the key: `unpack(args, 1, args.n or #args)`
---@return boolean|nil clone
---@return boolean|nil blocking
---@return number|nil expiration_jitter
---@return integer|nil stale_if_error_ms
---@return integer|nil stale_ttl_ms
---@return integer|nil soft_timeout_ms
function _M.parse_call(opts, level)
  if opts == nil then
    return
  end
  level = level or 2
  if type(opts) ~= "table" then
    fail(level, "the options of a call must be a table, got " .. describe(opts))
  end
  local negative_ms, lock_ms, on_timeout, args, clone, blocking, jitter, stale_ms, stale_ttl_ms, soft_ms
  for name, value in next, opts do
    if name == "args" and is_args(value) then
      args = value
    elseif name == "clone" and type(value) == "boolean" then
      clone = value
    elseif name == "blocking" and type(value) == "boolean" then
      blocking = value
    elseif name == "negative_cache_ttl" and is_seconds(value, MAX_TTL) then
      negative_ms = to_ms(value)
    elseif name == "lock_ttl" and is_seconds(value, MAX_LEASE) then
      lock_ms = to_ms(value)
    elseif name == "on_lock_timeout" and (value == "run" or value == "stale" or value == "error") then
      on_timeout = value
    elseif name == "expiration_jitter" and is_share(value) then
      jitter = value
    elseif name == "stale_if_error" and (value == 0 or is_seconds(value, MAX_TTL)) then
      stale_ms = value == 0 and 0 or to_ms(value)
    elseif name == "stale_ttl" and is_seconds(value, MAX_TTL) then
      stale_ttl_ms = to_ms(value)
    elseif name == "soft_timeout" and is_seconds(value, MAX_WAIT) then
      soft_ms = to_ms(value)
    else
      fail(level, call_problem(name, value))
    end
  end
  return negative_ms, lock_ms, on_timeout, args, clone, blocking, jitter, stale_ms, stale_ttl_ms, soft_ms
end

return _M
