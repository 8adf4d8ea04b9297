-- SPDX-License-Identifier: MIT
-- The option `on_event`: tells a program what happens to its cache. About once a second a worker compares its own counters with those of a second ago, so that
-- of all workers of a host the one where it happened tells it. A handle without `on_event` is not touched.

local C = require "gorge.ffi.lib"
local node_breakers = require "gorge.node_breakers"
local report = require "gorge.report"
local stats = require "gorge.stats"
local text = require "gorge.text"

local pcall = pcall
local tonumber = tonumber

local EVERY = 1 -- seconds
local READY, NO_REDIS = 3, 9

-- Events that are counters of this worker: the event, its counter, and how often it is told at most, in seconds.
local COUNTED = {
  { "messages", "messages", 1 },
  { "cluster_change", "cluster_changes", 1 },
  { "resync", "resyncs", 1 },
  { "evictions", "evictions", 60 },
  { "dropped_writes", "dropped_writes", 1 },
  { "lock_takeovers", "lock_takeovers", 1 },
}

local _M = {}

local function count(cache, name)
  return stats.count(cache.engine, name)
end

local function tell(cache, name, fields)
  fields.namespace, fields.zone = cache.options.namespace, cache.options.zone
  local ok, err = pcall(cache.options.on_event, name, fields)
  if not ok then
    local why = type(err) == "string" and text.printable(err, 200) or text.describe(err)
    report.write(cache.report, "error", "gorge: on_event raised: " .. why, nil, "on_event")
  end
end

---What is compared with later.
local function begin(cache, watch)
  for _, event in ipairs(COUNTED) do
    watch[event[1]] = { seen = count(cache, event[2]), told_ms = 0 }
  end
  watch.opens, watch.origin_opens = count(cache, "breaker_opens"), count(cache, "origin_opens")
  watch.switches = count(cache, "master_switches")
  local redis = cache.options.redis
  watch.nodes = redis and redis.cluster and node_breakers.watch(cache) or nil
  watch.ready = false
  watch.began = true
end

---Each node of a cluster has a breaker of its own.
local function look_at_nodes(cache, watch, raw)
  for _, change in ipairs(node_breakers.look(cache, watch.nodes)) do
    if change.open then
      tell(cache, "breaker_open", { opens = tonumber(raw.breaker_opens), node = change.node })
    else
      tell(cache, "breaker_closed", { node = change.node })
    end
    if not cache.engine then
      return
    end
  end
end

local function look_at_breaker(cache, watch, raw)
  if watch.nodes then
    return look_at_nodes(cache, watch, raw)
  end
  local opens = count(cache, "breaker_opens")
  if opens > watch.opens then
    watch.opens, watch.opened = opens, true
    tell(cache, "breaker_open", { opens = tonumber(raw.breaker_opens) })
  end
  if watch.opened and raw.breaker == 0 then -- who told that it opened tells that it closed
    watch.opened = false
    tell(cache, "breaker_closed", {})
  end
end

local function look_at_master(cache, watch, raw)
  local switches = count(cache, "master_switches")
  if switches > watch.switches then
    tell(cache, "master_switch", { count = switches - watch.switches, master = stats.master(raw) })
    watch.switches = switches
  end
end

local function look_at_origin(cache, watch, raw)
  local opens = count(cache, "origin_opens")
  if opens > watch.origin_opens then
    watch.origin_opens, watch.origin_opened = opens, true
    tell(cache, "origin_open", { opens = stats.of_host(raw, "origin_opens") })
  end
  if watch.origin_opened and raw.origin_breaker == 0 then
    watch.origin_opened = false
    tell(cache, "origin_closed", {})
  end
end

local function look_at_redis(cache, watch, raw)
  if raw.redis_state == NO_REDIS then
    return
  end
  local state = stats.read(cache, raw)
  if raw.redis_state == READY and not watch.ready then
    watch.ready, watch.down = true, false
    tell(cache, "redis_up", {})
  elseif state.redis == "down" and state.redis_error and not watch.down then
    watch.ready, watch.down = false, true
    tell(cache, "redis_down", { error = state.redis_error })
  end
end

local function look(cache, watch)
  if not cache.engine or not watch.began then
    return
  end
  local now_ms = C.gorge_now_ms()
  watch.looked_ms = now_ms
  for _, event in ipairs(COUNTED) do
    local mine, now = watch[event[1]], count(cache, event[2])
    if now > mine.seen and now_ms - mine.told_ms >= event[3] * 1000 then
      local n = now - mine.seen
      mine.seen, mine.told_ms = now, now_ms
      tell(cache, event[1], { count = n })
      if not cache.engine then -- closed by the callback
        return
      end
    end
  end
  local raw = stats.raw(cache)
  look_at_breaker(cache, watch, raw)
  if cache.engine then
    look_at_master(cache, watch, raw)
  end
  if cache.engine then
    look_at_origin(cache, watch, raw)
  end
  if cache.engine then
    look_at_redis(cache, watch, raw)
  end
end

---A program without timers looks after its calls.
local function look_after_calls(cache, watch)
  local function after(...)
    if C.gorge_now_ms() - (watch.looked_ms or 0) >= EVERY * 1000 then
      look(cache, watch)
    end
    return ...
  end
  local function wrapped(method)
    return function(...)
      return after(method(...))
    end
  end
  -- fetch and get stand in the handle itself; close takes both, and the metatable, away.
  cache.fetch, cache.get = wrapped(cache.fetch), wrapped(cache.get)
  local methods = setmetatable({}, { __index = getmetatable(cache).__index })
  for _, name in ipairs { "fetch_many", "set", "touch", "update", "delete", "invalidate_tags", "clear" } do
    methods[name] = wrapped(cache[name])
  end
  setmetatable(cache, { __index = methods })
end

---@param cache gorge.Cache with the option on_event
function _M.attach(cache)
  local watch = {}
  local engine = cache.engine
  local enter = engine.enter
  local in_nginx = cache.host.name == "nginx"

  -- Counters are this process's own from here on.
  function engine.enter(self, threads)
    local ok, err = enter(self, threads)
    if self.entered and not watch.began then
      begin(cache, watch)
      if in_nginx then
        require("gorge.hosts.nginx_timer").every(EVERY, look, cache, watch)
      end
    end
    return ok, err
  end

  if not in_nginx then
    look_after_calls(cache, watch)
  end
end

return _M
