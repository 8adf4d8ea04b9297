-- SPDX-License-Identifier: MIT
-- Why the next fetch of a key would hit or miss: what each layer holds, and what the rules of fetch.lua and core/engine/fetch.c make of it. Nothing is
-- decoded, counted, stored or taken.

local check = require "gorge.arguments"
local explained = require "gorge.ffi.explained"
local fetch = require "gorge.fetch"
local flights = require "gorge.flights"
local l0 = require "gorge.ffi.l0"
local options = require "gorge.options"
local reason = require "gorge.reason"
local tags = require "gorge.tags"
local text = require "gorge.text"
local Engine = require "gorge.ffi.engine"

local parse_call = options.parse_call

local PENDING = Engine.PENDING

local _M = {}

---What each layer holds of a key, and what the next `fetch` would do. Times are seconds from the moment of the look on.
---@class gorge.Explanation
---@field key string
---@field found "l0"|"l1"|"l2"|"fn"|"stale"|nil the source that the next `fetch` would return; nil: it would wait for somebody else's fill, or return an error
---@field reason string one sentence
---@field l0 gorge.ExplainedL0 this worker's decoded copy
---@field l1 gorge.ExplainedLayer shared memory
---@field l2 gorge.ExplainedLayer Redis
---@field flight gorge.ExplainedFlight|nil a fill on this host
---@field lease { held: boolean, ttl: number|nil }|nil the lease of a fill in Redis, whoever has it; nil: Redis did not say
---@field tags gorge.ExplainedTag[] of the values that were found
---@field freshness gorge.ExplainedFreshness

---@class gorge.ExplainedL0
---@field state "off"|"none"|"good"|"replaced"|"invalidated"|"expired"|"closed" "replaced": L1 has its entry no more; "invalidated": a tag or all was, so that L1 is asked;
---"expired": L1 is to be asked; "closed": without contact to Redis nothing is answered

---@class gorge.ExplainedLayer
---@field state "none"|"good"|"due"|"stale"|"expired"|"tag changed"|"closed"|"damaged"|"error"|"not asked" "due", "closed": L1 alone; the last three: L2 alone
---@field ttl number|nil left of its life in that layer; 0: it has ended
---@field past number|nil since its end
---@field stale_left number|nil how long it is kept after its end, or from now on if that has come
---@field size integer|nil bytes of the stored value
---@field negative boolean|nil "there is no such thing"
---@field tags string[]|nil
---@field version integer|nil of a value from Redis: grows with every write
---@field frequency integer|nil L1: how much it is used, 0 to 18
---@field error string|nil L2: why there is no answer, or what is damaged
---@field why string|nil L2: why it was not asked

---@class gorge.ExplainedFlight
---@field state "running"|"lapsed"|"given up"|"overtaken" only the first one is waited for
---@field here boolean this worker runs it
---@field waiters integer workers of this host in which somebody waits
---@field leased boolean it has the lease in Redis
---@field deadline number until it must be renewed or over
---@field latest number until it is not renewed any more

---@class gorge.ExplainedTag
---@field name string
---@field generation integer|nil on this host: grows when the tag, or one that shares its place, is invalidated; nil: L1's value does not have it
---@field l1 "same"|"changed"|nil since the value in L1 was stored
---@field l2 "same"|"changed"|"missing"|nil since the value in Redis was stored
---@field invalidated integer|nil version of its last invalidation, as Redis knows it
---@field queued boolean Redis has not been told yet that this host has invalidated it

---@class gorge.ExplainedFreshness
---@field open boolean L0 and L1 may be read
---@field left number|nil until they may not, unless contact is confirmed again; nil without Redis
---@field contact boolean|nil there is contact to Redis; nil without Redis
---@field lag number|nil as in `stats`
---@field epoch integer how often this host has forgotten the whole namespace
---@field redis_epoch integer|nil the epoch that Redis has; 0: none, it has lost its memory; nil: not asked

local HINDRANCES = {
  none = "the cache has no Redis",
  process = "this process does not speak with Redis",
  breaker = "the circuit breaker is open",
  queued = "it has not been told yet that the key was invalidated on this host",
}

---What one look came to.
---@class gorge.Facts
---@field redis boolean the cache has Redis
---@field hindrance string|nil why nobody here would ask it
---@field blocked string|nil why this caller cannot wait
---@field l1 table[] tags
---@field l2 table[] tags
---@field rest table|nil
---@field origin_refuses boolean
---@field stale_ms number

---Asks Redis, if it may be asked and the caller can wait. Yields.
---@param facts gorge.Facts
---@param key string
---@return table l2
---@return table|nil lease
local function ask(self, facts, key, blocking)
  local engine, err = fetch.engine_for(self, blocking)
  if not engine then
    facts.hindrance = err
    return { state = "not asked", why = err }
  end
  facts.hindrance = explained.hindrance(engine, key)
  if facts.hindrance then
    return { state = "not asked", why = HINDRANCES[facts.hindrance] or facts.hindrance }
  end
  local ready, why = engine.host.can_wait(engine)
  if not ready then
    facts.blocked = why
    return { state = "not asked", why = why }
  end
  local names = {}
  for i, tag in ipairs(explained.of_cache(engine, key).tags) do
    names[i] = tag.name
  end
  local op, status = explained.start(engine, key, (tags.pack(names)))
  if op == 0 then -- refused since, or no memory
    return { state = "not asked", why = explained.phrase(status) }
  end
  if status == PENDING then
    engine.host.guard(engine, op)
    engine:wait(op, status)
  end
  local l2, found, lease, rest = explained.of_redis(engine, op)
  engine:free(op)
  if not l2 then
    return { state = "error", error = "there is no memory for an answer" }
  end
  facts.l2, facts.rest = found, rest
  return l2, lease
end

---The tags of both layers' values, each once.
---@return gorge.ExplainedTag[]
local function merge(facts)
  local list, by_name = {}, {}
  for _, tag in ipairs(facts.l1) do
    local out = { name = tag.name, generation = tag.generation, l1 = tag.same and "same" or "changed", queued = false }
    list[#list + 1], by_name[tag.name] = out, out
  end
  for _, tag in ipairs(facts.l2) do
    local out = by_name[tag.name]
    if not out then
      out = { name = tag.name }
      list[#list + 1], by_name[tag.name] = out, out
    end
    if tag.of_value then
      out.l2 = tag.same and "same" or tag.there and "changed" or "missing"
    end
    out.invalidated, out.queued = tag.invalidated, tag.queued
  end
  return list
end

---fn is to run: whether it may.
---@return string|nil found
---@return string[] outcome
local function run(told, facts, outcome)
  if not facts.origin_refuses then
    outcome[#outcome + 1] = "fn would run"
    return "fn", outcome
  end
  outcome[#outcome + 1] = "fn would not run: the circuit breaker of the origin is open"
  for _, layer in ipairs { told.l1, told.l2 } do
    if layer.state == "stale" and (layer.past or 0) * 1000 <= facts.stale_ms then
      outcome[#outcome + 1] = "the value past its end would be served"
      return "stale", outcome
    end
  end
  return nil, outcome
end

---A value that is due is served, and refreshed beside that; where there is no background, by the caller.
local function due(self, told, facts)
  local wanted = told.l1.due and self.options.stale_while_revalidate and not self.refreshing[told.key]
  if not wanted or self.host.has_background() then
    return "l1", {}
  elseif told.flight and told.flight.state == "running" then
    return "l1", { "somebody on this host refreshes it" }
  elseif told.l2.state == "good" and (told.l2.version or 0) > (told.l1.version or 0) then
    return "l2", { "this program has no background: it would take the newer value" }
  elseif told.lease and told.lease.held then
    return nil, { reason.lease(told.lease.ttl) }
  end
  return run(told, facts, { "this program has no background to refresh it in" })
end

---@return string|nil problem why a value that Redis has would not be taken
local function unusable(told, facts)
  for _, tag in ipairs(facts.l2) do
    if tag.of_value and tag.queued then
      return "Redis has not been told yet that tag " .. text.quote(tag.name) .. " was invalidated on this host"
    end
  end
  if #(told.l2.tags or {}) > 0 and facts.rest.queued > 0 then
    return "Redis has not been told yet of all that was invalidated on this host, so that no value with tags is taken from it"
  end
end

---L0 and L1 do not answer.
local function beyond(self, told, facts)
  local flight, mine = told.flight, self.flights[told.key]
  local outcome = {}
  if mine and flights.is_own(mine) then
    return nil, { "fetch would return an error: this coroutine is in the fn that loads the key" }
  elseif flight and flight.state == "running" then
    return nil, { reason.flight(flight) }
  elseif mine and mine.op == 0 then
    return nil, { "a fill that this worker is about to begin would be waited for" }
  elseif flight then
    outcome[1] = reason.flight(flight)
  end
  local l2 = told.l2
  if not facts.redis or facts.hindrance or l2.state == "error" then
    return run(told, facts, outcome)
  elseif facts.blocked then
    return nil, { "fetch would return \"would block\"" }
  elseif not facts.rest then
    return nil, outcome
  elseif facts.rest.epoch ~= facts.rest.asked and facts.rest.epoch ~= 0 then
    return nil, { "the namespace has been cleared, and this host has not heard of it yet" }
  elseif l2.state == "good" then
    local problem = unusable(told, facts)
    if not problem then
      return "l2", outcome
    end
    outcome[#outcome + 1] = problem
    return run(told, facts, outcome)
  elseif told.lease.held and not (flight and flight.leased) then
    return nil, { reason.lease(told.lease.ttl) }
  end
  return run(told, facts, outcome)
end

---@return string|nil found
---@return string[] outcome
local function verdict(self, told, facts)
  if self.options.cache_read_disabled then
    return "fn", { "cache_read_disabled: fn is run for each call" }
  elseif told.l0.state == "good" then
    return "l0", {}
  elseif told.l1.state == "good" then
    return "l1", {}
  elseif told.l1.state == "due" then
    return due(self, told, facts)
  end
  return beyond(self, told, facts)
end

---@param self gorge.Cache
---@param key string
---@param opts gorge.CallOptions|nil
---@return gorge.Explanation|nil
---@return string|nil err
function _M.explain(self, key, opts)
  check.key_type(key, 3)
  local _, _, _, _, _, blocking, _, stale_ms = parse_call(opts, 2)
  local problem = check.key_problem(key)
  if problem then
    return nil, problem
  end
  if not self.engine then
    return nil, "closed"
  end
  local redis = self.engine.has_redis
  local facts = { redis = redis, l2 = {}, stale_ms = stale_ms or self.options.stale_if_error_ms }
  local told = { key = key }
  if redis then
    told.l2, told.lease = ask(self, facts, key, blocking)
  else
    told.l2 = { state = "not asked", why = HINDRANCES.none }
  end
  if not self.engine then
    return nil, "closed"
  end
  -- From here on nothing waits: what this host holds is of one moment, later than what Redis said.
  local host = explained.of_cache(self.engine, key)
  told.l0 = { state = l0.state(self, key) }
  told.l1, told.flight, told.freshness = host.l1, host.flight, host.freshness
  facts.l1, facts.origin_refuses = host.tags, host.origin_refuses
  told.tags = merge(facts)
  if redis then
    told.freshness.redis_epoch = facts.rest and facts.rest.epoch
  else
    told.freshness.contact, told.freshness.lag = nil, nil
  end
  local outcome
  told.found, outcome = verdict(self, told, facts)
  told.reason = reason.sentence(told, facts, outcome)
  told.l1.due = nil
  return told
end

return _M
