-- SPDX-License-Identifier: MIT
-- A cache: what users call. L0 is looked at here, in the caller's trace; everything after it stands in fetch.lua and write.lua.

local C = require "gorge.ffi.lib"
local check = require "gorge.arguments"
local degraded = require "gorge.degraded"
local explain = require "gorge.explain"
local fetch = require "gorge.fetch"
local look = require "gorge.look"
local l0 = require "gorge.ffi.l0"
local many = require "gorge.many"
local prometheus = require "gorge.prometheus"
local report = require "gorge.report"
local stats = require "gorge.stats"
local update = require "gorge.update"
local write = require "gorge.write"

local is_ttl = check.is_ttl
local look_l0, look_l1 = l0.look, look.look
local tonumber = tonumber
local type = type

local HIT = tonumber(C.GORGE_HIT)
local STALE = tonumber(C.GORGE_STALE)

---What L1 holds of a key.
---@class gorge.Peek
---@field ttl number seconds that are left
---@field stale boolean
---@field negative boolean "there is no such thing"
---@field tags string[]
---@field size integer bytes of the stored value
---@field source "l1"

local Cache = {}
Cache.__index = Cache

---A handle of a cache. `T` is what its values are: `---@type gorge.Cache<User>` in front of a variable tells an editor what `fetch` and `get` return.
---@class gorge.Cache<T>
---@field protected options gorge.ParsedOptions
---@field protected engine gorge.Engine|nil nil once closed
---@field protected codec gorge.Codec
---@field protected l0 gorge.L0
---@field protected index table its index and values, and what else a hit needs: see ffi/l0.lua
---@field protected values table
---@field protected view ffi.cdata* struct gorge_view

---Returns the value of `key` from the nearest layer that has it; else runs `fn(key, ...)` once in the whole cluster and keeps what it returns.
---
---    local user, err, source = cache:fetch("user:101", 3600, load_user, { "user:101" })
---
---A table that comes from L0 is shared with other requests of this worker: treat it as read-only, or ask for `opts.clone`.
---
---Yields while somebody else fills, while Redis is asked, and wherever `fn` does. Every phase for what L0 or L1 has; where the phase cannot yield and
---the answer is not there, returns `nil, "would block: ..."` at once.
---@generic T
---@param self gorge.Cache<T>
---@param key string 1 to 8192 bytes, any
---@param ttl number|nil seconds, greater than 0; nil: `l1_ttl`
---@param fn fun(key: string, ...): T?, any, gorge.Overrides|number|nil returns value, or nil for "no such thing" (kept for `negative_cache_ttl`), or nil and an error
---@param tags string|string[]|nil at most 16, each 1 to 255 bytes
---@param opts gorge.CallOptions|nil for this call
---@return T|nil value nil: there is no such thing, or an error
---@return any err nil unless something failed; what `fn` returned as its error comes back as it is
---@return string|nil source "l0", "l1", "l2", "fn", or "stale": past its end, since fn failed; nil with an error
function Cache:fetch(key, ttl, fn, tags, opts)
  local hit, value = look_l0(self, key)
  if hit then
    if opts == nil then
      return value, nil, "l0"
    end
    return look.hand_out(self, value, opts), nil, "l0"
  end
  local status
  local view = self.view
  if opts == nil and type(key) == "string" and (ttl == nil or is_ttl(ttl)) and view.cache ~= nil then
    status, value = look_l1(self, view, key)
    if status == HIT then
      return value, nil, "l1"
    end
  end
  return fetch.fetch(self, key, ttl, fn, tags, opts, status)
end

---The same for several keys: one round to Redis for all that L0 and L1 do not have, one run of `fn` for all that are missing.
---
---    local users, errs = cache:fetch_many({ "user:1", "user:2" }, 3600, load_users)
---
---Each key is filled, waited for and can fail by itself. Yields as `fetch` does; not for keys that L0 or L1 has.
---@generic T
---@param self gorge.Cache<T>
---@param keys string[] at most 1000; one that stands twice counts once
---@param ttl number|nil seconds, greater than 0; nil: `l1_ttl`
---@param fn fun(missing: string[], ...): table<string, T>?, any, table|number|nil returns values by key (a key without one: "no such thing"), errors by key, and
---overrides by key or one ttl for all; or nil and an error
---@param tags string|string[]|nil of all values
---@param opts gorge.CallOptions|nil as for `fetch`
---@return table<string, T>|nil values by key; nil: nothing was done, see err
---@return table<string, any>|string errs by key; a key with neither value nor error: there is no such thing
---@return table<string, string>|nil sources by key: "l0", "l1", "l2" or "fn"; none with an error
function Cache:fetch_many(keys, ttl, fn, tags, opts)
  check.cache(self, 3)
  return many.fetch_many(self, keys, ttl, fn, tags, opts)
end

---Looks the key up in L0, L1 and Redis. Never calls a function, never waits for somebody's fill.
---Yields while Redis is asked; elsewhere like `fetch`.
---@generic T
---@param self gorge.Cache<T>
---@param key string
---@param opts gorge.CallOptions|nil clone, blocking
---@return T|nil value
---@return string|nil err
---@return string|nil source nil on a miss
function Cache:get(key, opts)
  local hit, value = look_l0(self, key)
  if hit then
    if opts == nil then
      return value, nil, "l0"
    end
    return look.hand_out(self, value, opts), nil, "l0"
  end
  local status
  local view = self.view
  if opts == nil and type(key) == "string" and view.cache ~= nil then
    status, value = look_l1(self, view, key)
    if status == HIT then
      return value, nil, "l1"
    end
  end
  return fetch.get(self, key, opts, status)
end

---What L1 holds of a key, a value included that has expired and is kept (`stale`). Never waits, does not count as a use. Every phase.
---@param key string
---@return gorge.Peek|nil info nil: L1 does not have it
function Cache:peek(key)
  check.cache(self, 3)
  check.key_type(key, 3)
  local engine = self.engine
  if not engine or check.key_problem(key) then
    return nil
  end
  local status = engine:peek(key)
  if status ~= HIT and status ~= STALE then
    return nil
  end
  local read = engine.read
  local size, kind = read.len, read.kind
  local ttl = (read.life.ends_ms - C.gorge_now_ms()) / 1000
  return {
    ttl = status == HIT and ttl > 0 and ttl or 0,
    stale = status == STALE,
    negative = kind == C.GORGE_KIND_NIL,
    tags = engine:peek_tags(key),
    size = size,
    source = "l1",
  }
end

---Says what each layer holds of a key, the lease and the tags, and why the next `fetch` would hit or miss. Changes nothing: not the statistics, not how
---much the key is used, no layer, no lease; runs no function.
---
---    print(cache:explain("user:101").reason)
---
---Yields while Redis is asked. Every phase: where the phase cannot yield, Redis is not asked, unless `blocking` is set.
---@param key string
---@param opts gorge.CallOptions|nil blocking; stale_if_error, as for the fetch in question
---@return gorge.Explanation|nil explanation
---@return string|nil err the key will not do, or the cache is closed
function Cache:explain(key, opts)
  check.cache(self, 3)
  return explain.explain(self, key, opts)
end

---Stores a value in every layer and makes every other node forget the older one. Yields while Redis is asked.
---@generic T
---@param self gorge.Cache<T>
---@param key string
---@param value T|nil nil stores "there is no such thing"
---@param ttl number|nil seconds; nil: `l1_ttl`, for a nil value `negative_cache_ttl`
---@param tags string|string[]|nil
---@return boolean|nil ok true when all of it is done
---@return string|nil err this host has the value, but other nodes may lag: Redis could not be told
function Cache:set(key, value, ttl, tags)
  check.cache(self, 3)
  return write.set(self, key, value, ttl, tags)
end

---Replaces a value by what `fn` makes of it. No write that others make meanwhile is lost: then `fn` is run again with what they wrote.
---
---    local hits, err = cache:update("hits", 60, function(old) return (old or 0) + 1 end)
---
---Yields while Redis is asked, between attempts, and wherever `fn` does. With Redis the phase must be able to yield.
---@generic T
---@param self gorge.Cache<T>
---@param key string
---@param ttl number|nil seconds; nil: `l1_ttl`, for a nil value `negative_cache_ttl`
---@param fn fun(old: T?): T?, any gets the value, nil if there is none; returns the new one, or nil and an error; may be run several times
---@param tags string|string[]|nil of the new value
---@return T|nil value what is stored now
---@return any err what `fn` returned or raised, or why nothing could be changed
function Cache:update(key, ttl, fn, tags)
  check.cache(self, 3)
  return update.update(self, key, ttl, fn, tags)
end

---Gives a value another life, counted from now, here and in Redis. Yields while Redis is asked.
---@param key string
---@param ttl number|nil seconds; nil: `l1_ttl`
---@return boolean|nil ok false: there is no such key
---@return string|nil err done on this host, but not in Redis
function Cache:touch(key, ttl)
  check.cache(self, 3)
  return write.touch(self, key, ttl)
end

---Forgets a key on every node. No later read on this host sees the older value. Yields while Redis is asked.
---@param key string
---@return boolean|nil ok
---@return string|nil err this host has forgotten it, but other nodes may lag
function Cache:delete(key)
  check.cache(self, 3)
  return write.delete(self, key)
end

---Forgets every value that carries one of the tags, on every node; the cost does not depend on how many there are. Yields while Redis is asked.
---@param ... string|string[] tags, or a table of tags
---@return boolean|nil ok
---@return string|nil err
function Cache:invalidate_tags(...)
  check.cache(self, 3)
  return write.invalidate_tags(self, ...)
end

---Forgets everything in the namespace, on every node, at the same cost whatever there is. Yields while Redis is asked.
---@return boolean|nil ok
---@return string|nil err this host has forgotten it, but other nodes may lag
function Cache:clear()
  check.cache(self, 3)
  return write.clear(self)
end

---Counters and gauges of the whole host. Never waits. Every phase.
---@return table|nil stats see the README for its fields; nil once closed
---@return string|nil err
function Cache:stats()
  check.cache(self, 3)
  if not self.engine then
    return nil, "closed"
  end
  return stats.read(self)
end

---The same and latencies as Prometheus text, content type `text/plain; version=0.0.4`. Never waits. Every phase.
---@return string|nil text nil once closed
---@return string|nil err
function Cache:prometheus()
  check.cache(self, 3)
  if not self.engine then
    return nil, "closed"
  end
  return prometheus.render { self }
end

local function closed()
  return nil, "closed"
end

local CLOSED = setmetatable({
  fetch = closed, fetch_many = closed, get = closed, peek = function() end, set = closed, touch = closed, update = closed, delete = closed,
  invalidate_tags = closed, clear = closed, explain = closed, stats = closed, prometheus = closed, close = function() return true end,
}, { __index = Cache })
CLOSED.__index = CLOSED

---Waits for what is under way in this worker (at most a second where the phase can yield), then stops its machinery. Further calls return `nil, "closed"`.
---The shared memory stays: other workers go on.
---@return boolean ok
function Cache:close()
  check.cache(self, 3)
  local host = self.host
  local engine = self.engine
  if not engine then -- by a method that the program has kept
    return true
  end
  setmetatable(self, CLOSED)
  self.fetch, self.get = closed, closed
  degraded.remove(self)
  host.drain(engine, 1)
  host.close(engine)
  engine:close()
  if self.second then
    self.second:close()
  end
  self.engine, self.second = nil, nil
  l0.close(self.l0)
  return true
end

---@param parsed gorge.ParsedOptions
---@param host gorge.Host
---@param engine gorge.Engine
---@param codec gorge.Codec
---@return gorge.Cache
local function new(parsed, host, engine, codec)
  local view, values = engine.view, l0.new(parsed.l1_objects, engine)
  view.plain = codec.plain or view.plain
  local self = setmetatable({
    -- What a hit finds in the handle itself it need not look for in the metatable.
    fetch = Cache.fetch,
    get = Cache.get,
    view = view,
    index = values.index,
    values = values.values,
    options = parsed,
    host = host,
    engine = engine,
    codec = codec,
    l0 = values,
    refreshing = {}, -- by key: values that this worker is refreshing
    flights = {}, -- by key: fills that coroutines of this worker wait for together
    report = report.new(parsed.logger, host),
  }, Cache)
  degraded.apply(self, parsed)
  return self
end

return { new = new }
