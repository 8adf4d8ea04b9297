-- SPDX-License-Identifier: MIT
-- gorge: a two-layer cache for OpenResty and other LuaJIT programs.

local cache = require "gorge.cache"
local codec = require "gorge.codec"
local events = require "gorge.events"
local hosts = require "gorge.hosts"
local metrics = require "gorge.metrics"
local options = require "gorge.options"
local prometheus = require "gorge.prometheus"
local report = require "gorge.report"
local topology_log = require "gorge.topology_log"

---The module, `require "gorge"`.
---@class gorge
---@field _VERSION string
local _M = { _VERSION = require "gorge.version" }

local handles = setmetatable({}, { __mode = "k" }) -- of this process

---@param parsed gorge.ParsedOptions
---@return string for people
local function redis_of(parsed)
  return parsed.redis and parsed.redis.display or "no Redis"
end

---@param parsed gorge.ParsedOptions
---@return string|nil redis that another open handle of the namespace in the zone uses
local function other_redis(parsed)
  for handle in pairs(handles) do
    local theirs = handle.options
    if handle.engine and theirs.zone == parsed.zone and theirs.namespace == parsed.namespace and redis_of(theirs) ~= redis_of(parsed) then
      return redis_of(theirs)
    end
  end
end

---Handles of one namespace in one zone share L1: with two Redises each would find there, and tell its Redis of, what belongs to the other.
---@param parsed gorge.ParsedOptions
---@return string|nil problem
local function mixed_redis(parsed)
  if not other_redis(parsed) then
    return nil
  end
  collectgarbage() -- a handle that nobody has any more speaks against nothing
  local theirs = other_redis(parsed)
  return theirs and ("gorge: namespace '%s' in zone '%s' is used with %s in this process, "
    .. "it cannot be used with %s, too: name another namespace"):format(parsed.namespace, parsed.zone, theirs, redis_of(parsed))
end

---Makes a cache, or another handle of one that exists (caches that name the same zone share its memory). Does not wait for Redis: a Redis that is down is a
---state to recover from. Call it in `init_by_lua*`, so that all workers share one zone; a plain program calls it anywhere.
---
---Raises on an unknown option, a wrong type or a value out of range, naming the option. Never yields.
---@param opts gorge.Options|nil
---@return gorge.Cache<any>|nil cache
---@return string|nil err the zone exists with another size, the namespace is used with another Redis, or the system has no memory to share
function _M.new(opts)
  if opts == _M then
    error("gorge: call it with a dot: gorge.new { ... }", 2)
  end
  local parsed = options.parse(opts, 2)
  local problem = mixed_redis(parsed)
  if problem then
    return nil, problem
  end
  local host = hosts.choose(parsed.host)
  local engine, err = host.engine(parsed)
  if not engine then
    return nil, "gorge: " .. err
  end
  local handle = cache.new(parsed, host, engine, codec.new(parsed.serializer, parsed.schema, parsed.compress))
  if parsed.metrics then
    metrics.attach(handle)
  end
  if parsed.on_event then
    events.attach(handle)
  end
  if parsed.redis and (parsed.redis.sentinels or parsed.redis.cluster) then
    topology_log.attach(handle)
  end
  handles[handle] = true
  report.write(handle.report, "info", ("gorge %s: namespace '%s', zone '%s' of %.0f bytes, %s, host %s"):format(_M._VERSION,
    parsed.namespace, parsed.zone, parsed.l1_size, parsed.redis and parsed.redis.display or "no Redis", host.name))
  return handle
end

---Metrics of all open caches of this process as Prometheus text, or of those that are named. Never yields. Every phase.
---@param caches gorge.Cache<any>[]|nil
---@return string text
function _M.prometheus(caches)
  if caches ~= nil then
    return prometheus.render((prometheus.list(caches, "gorge.prometheus", 2)))
  end
  local list = {}
  for handle in pairs(handles) do
    list[#list + 1] = handle
  end
  return prometheus.render(list)
end

---Runs `fn(...)` in a coroutine on the built-in event loop; returns when it and all that it spawned have ended. Not in nginx.
---Inside, calls of a cache yield to the loop instead of blocking.
---@param fn function
---@param ... any
---@return any ... what fn returned; an error in it is raised here, after the others have ended
function _M.run(fn, ...)
  return require("gorge.hosts.loop").run(fn, ...)
end

---Inside `gorge.run`: starts another coroutine. Its error ends `gorge.run` with that error, once all have ended.
---@param fn function
---@param ... any
function _M.spawn(fn, ...)
  return require("gorge.hosts.loop").spawn(fn, ...)
end

---Inside `gorge.run`: lets others run for so long.
---@param seconds number
function _M.sleep(seconds)
  return require("gorge.hosts.loop").sleep(seconds)
end

return _M
