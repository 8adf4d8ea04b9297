-- SPDX-License-Identifier: MIT
-- What fetch and get do when L0 has no answer: L1, then one fill for all who wait.
--
-- Coroutines of one worker that miss on the same key share one operation: the first leads, the others follow and take its result from memory. Between workers
-- and nodes the core decides who fills (gorge_fetch_start).

local C = require "gorge.ffi.lib"
local blocking_host = require "gorge.hosts.blocking"
local check = require "gorge.arguments"
local flights = require "gorge.flights"
local l0 = require "gorge.ffi.l0"
local load = require "gorge.load"
local look = require "gorge.look"
local options = require "gorge.options"
local engine_of = require("gorge.ready").engine_of
local refresh = require "gorge.refresh"
local spare = require "gorge.spare"
local stale = require "gorge.stale"
local text = require "gorge.text"
local trouble = require "gorge.trouble"

local parse_call = options.parse_call
local key_problem, ttl_ms_of, packed_tags = check.key_problem, check.ttl_ms, check.tags
local begin, land = flights.begin, flights.land
local from_l1 = look.from_l1
local store_l0 = l0.store
local keep, take_spare = spare.keep, spare.take
local look_for_trouble = trouble.look

local HIT = tonumber(C.GORGE_HIT)
local PENDING = tonumber(C.GORGE_PENDING)
local LEASE = tonumber(C.GORGE_LEASE)
local FAILED = tonumber(C.GORGE_FAILED)
local MISS = tonumber(C.GORGE_MISS)
local TIMED_OUT = tonumber(C.GORGE_ERR_TIMEOUT)
local CLOSED = tonumber(C.GORGE_ERR_CLOSED)
local LOOKUP = tonumber(C.GORGE_FETCH_LOOKUP)
local REFRESH = tonumber(C.GORGE_FETCH_REFRESH)

-- A fill that ends without a value in L1 (refused, too large, not to be stored) sends its waiters round once more; so often at most.
local MAX_ROUNDS = 8

local START_MS = 1000 -- so long a fill that is to run in the background may wait for its turn

local _M = {}

local spare_calls = spare.list()

-- The run of one call, collected so that the helpers below need no long argument lists.
---@class gorge.Call
---@field key string
---@field fn function
---@field ttl_ms number
---@field tags string packed
---@field negative_ms number
---@field lock_ms integer
---@field on_timeout "run"|"stale"|"error"
---@field stale_ms integer how long ago a value may have expired that is served when fn fails
---@field stale_ttl_ms integer|nil how long before its end the value is due for a refresh; nil: the cache's
---@field run integer|nil with `origin`: its run of fn, from when on it waits for that
---@field failed boolean|nil fn failed, or was waited for in vain
---@field load_ms number|nil how long fn took
---@field soft_at_ms number|nil from then on a value that has expired is good enough
---@field args table|nil
---@field jitter number expiration_jitter
---@field engine gorge.Engine
---@field deadline_ms number

---Waits for the result of another coroutine of this worker.
---@return string state "value" (with value, err, source), "again", "timeout" or "stuck"
local function follow(self, call, flight)
  local follower = flights.take_part(call, flight, call.engine.host.waiter())
  local begun_ms = C.gorge_now_ms()
  while not follower.state do
    local now_ms = C.gorge_now_ms()
    local left_ms = call.deadline_ms - now_ms
    local soft_ms = call.soft_at_ms and call.soft_at_ms - now_ms
    if soft_ms and soft_ms <= 0 then -- before the end of all waits: a program that stood still finds both to be over
      call.soft_at_ms = nil -- one look: what is not there now does not become stale while it is waited for
      local found, value, source = stale.find(self, call)
      if found and not follower.state then
        return "value", value, nil, source
      end
    elseif left_ms <= 0 then
      return "timeout"
    elseif flight.op == 0 and now_ms - begun_ms > START_MS then
      flight:lost()
      call.soft_at_ms = nil -- it is not begun in the background
    elseif not follower.waiter:wait(math.min(soft_ms or left_ms, left_ms, 1000) / 1000) then
      call.engine:poll()
    end
  end
  return follower.state, follower.value, follower.err, follower.source
end

---@param state string|nil "stuck": nobody has waited, since it would have been for ever
local function timed_out(call, state)
  call.failed = true
  local why = state == "stuck" and "another coroutine of this program is loading it, and cannot go on while this one waits"
    or "waited " .. call.wait_ms / 1000 .. " s for somebody else's fill"
  return nil, "gorge: key " .. text.quote(call.key) .. ": " .. why
end

---A wait for somebody else's fill was in vain: what `on_lock_timeout` says, unless that is to run fn.
---@param state string|nil as for timed_out
---@return boolean done
---@return any value
---@return any err
---@return string|nil source
local function give_up_waiting(self, call, state)
  if call.on_timeout == "error" then
    return true, timed_out(call, state)
  elseif call.on_timeout == "stale" then
    local found, value, source = stale.find(self, call)
    return found, value, nil, source
  end
  return false
end

---Follows, and says what to do then.
---@return boolean again
---@return any value
---@return any err
---@return string|nil source
local function join(self, call, flight)
  local state, value, err, source = follow(self, call, flight)
  if state == "value" then
    call.failed = err ~= nil
    return false, value, err, err == nil and (source or "l0") or nil
  elseif state == "again" then
    return true
  end
  local done
  done, value, err, source = give_up_waiting(self, call, state)
  if done then
    return false, value, err, source
  end
  return false, load.without_lease(self, call)
end

---Decodes what an operation found in Redis.
---@return ffi.cdata* read
---@return boolean ok
---@return any value_or_why
local function take_l2(self, engine)
  local read = look.read_of(engine)
  return read, self.codec.decode(read.kind, engine:bytes(), true)
end

---The value that Redis had.
local function from_l2(self, call, flight)
  local engine = call.engine
  local read, ok, value = take_l2(self, engine)
  if not ok then
    look.note_undecodable(self, call.key, "Redis", value)
    land(engine, flight, "again")
    local deletion, status = engine:start_delete(call.key)
    if deletion ~= 0 then
      engine:wait(deletion, status)
      engine:free(deletion)
    end
    return true
  end
  store_l0(self.l0, call.key, value, read)
  land(engine, flight, "value", value)
  return false, value, nil, "l2"
end

---Leads: asks the core who fills, and does what it says.
---@return boolean again
---@return any value
---@return any err
---@return string|nil source
---@param queued gorge.Flight|nil what others take part in already
local function lead(self, call, status, op, queued)
  local engine = call.engine
  local flight = begin(self, call, op, queued)
  status = engine:wait(op, status)
  if status == HIT then
    return from_l2(self, call, flight)
  elseif status == LEASE then
    local value, err, source, later = load.with_lease(self, call, op)
    land(engine, flight, later and "again" or "value", value, err, source ~= "fn" and source or nil)
    return false, value, err, source
  elseif status == FAILED then
    local err = engine:bytes()
    call.failed = true
    land(engine, flight, "value", nil, err)
    return false, nil, err
  elseif status == TIMED_OUT then
    local done, value, err, source = give_up_waiting(self, call)
    local later
    if not done then
      flights.run(call, flight)
      value, err, source, later = load.with_lease(self, call, op)
    end
    land(engine, flight, later and "again" or "value", value, err, source ~= "fn" and source or nil)
    return false, value, err, source
  end
  land(engine, flight, "again")
  return true
end

flights.leaders(lead, from_l2)

local function own_fill(key)
  return "gorge: key " .. text.quote(key) .. ": fn fetches the key that it is loading"
end

-- A fill whose caller may leave it for a value that has expired: it needs a coroutine of its own.
local Detached = {}
Detached.__index = Detached

function Detached:run()
  local self_, call, flight = self.cache, self.call, self.flight
  self.co = coroutine.running()
  if flight.gone then
    return
  end
  local op, status = call.engine:start_fetch(call.key, call.tags, call.lock_ms, call.wait_ms, 0)
  if op == 0 then
    flight:lost()
    return
  end
  self.source = select(4, lead(self_, call, status, op, flight))
end

function Detached:drop()
  self.flight:lost()
end

function Detached:give_up()
  self.flight:give_up()
end

function Detached:cut_off()
  flights.cut_off(self)
end

---Has the fill run beside this coroutine, which takes part in it until soft_timeout.
---@return boolean begun false: nothing runs beside this coroutine here
---@return boolean again
---@return any value
---@return any err
---@return string|nil source
local function in_background(self, call)
  local engine = call.engine
  if engine ~= self.engine or not self.host.can_wait(engine) then
    return false
  end
  local own = {}
  for name, value in pairs(call) do
    own[name] = value
  end
  own.soft_at_ms = nil
  local flight = flights.queue(self, call)
  local job = setmetatable({ cache = self, call = own, flight = flight, limit_ms = call.wait_ms }, Detached)
  if not self.host.background(engine, job) then
    flight:lost()
    call.soft_at_ms = nil
    return false
  end
  local again, value, err, source = join(self, call, flight)
  return true, again, value, err, source == "l0" and job.source or source
end

---One attempt to get a value that was not in L1 a moment ago.
local function once(self, call)
  local status
  local engine = call.engine
  local flight, own = flights.find(self, call.key)
  if own then
    return false, nil, own_fill(call.key)
  elseif flight and flights.can_share(self, call, flight) then
    local ready, why = engine.host.can_wait(engine)
    if not ready then
      return false, nil, "would block: " .. why
    end
    return join(self, call, flight)
  elseif call.soft_at_ms then
    local begun, again, value, err, source = in_background(self, call)
    if begun then
      return again, value, err, source
    end
  end
  local op
  op, status = engine:start_fetch(call.key, call.tags, call.lock_ms, call.wait_ms, 0)
  if op == 0 then
    return false, load.without_lease(self, call) -- no memory for an operation: the caller still gets its value
  end
  if status == PENDING then
    local ready, why = engine.host.can_wait(engine)
    if not ready then
      engine:free(op)
      return false, nil, "would block: " .. why
    end
  end
  return lead(self, call, status, op)
end

---A second engine on the same memory, for calls that wait without yielding where the host's own way of waiting cannot be used.
---@return gorge.Engine|nil
---@return string|nil err
local function second_engine(self)
  local err, ok
  if not self.second then
    self.second, err = blocking_host.second_engine(self.options)
    if not self.second then
      return nil, "gorge: " .. err
    end
  end
  ok, err = self.host.enter(self.second)
  if not ok then
    return nil, "gorge: " .. err
  end
  return self.second
end

---The engine for a call: in a phase that cannot wait, `blocking` asks for one that waits without yielding.
local function engine_for(self, blocking)
  local engine, err = engine_of(self)
  if engine and blocking and not self.host.can_wait(engine) then
    return second_engine(self)
  end
  return engine, err
end

-- A refresh of one key.

local function fill_one(job)
  local self, call = job.cache, job.call
  local engine = call.engine
  if self.flights[call.key] then
    return -- somebody has found it expired, and fills
  end
  call.wait_ms, call.on_timeout = self.options.refresh_timeout_ms, "error"
  call.deadline_ms = C.gorge_now_ms() + call.wait_ms
  local op, status = engine:start_fetch(call.key, call.tags, call.lock_ms, call.wait_ms, REFRESH)
  if op ~= 0 then
    local _, err
    _, job.value, err, job.source = lead(self, call, status, op)
    return err
  end
end

---Has a value refreshed that is still good.
---@return any value
---@return string source
local function refresh_one(self, call, value)
  if self.host.has_background() then -- where waits yield, also when this call blocks
    call.engine = self.engine
  end
  local done = refresh.begin(self, { call.key }, call, fill_one)
  if done and done.source then
    return done.value, done.source
  end
  return value, "l1"
end

---@param looked integer|nil what a look into L1 a moment ago said; nil: none was made
function _M.fetch(self, key, ttl, fn, tags, opts, looked)
  check.key_type(key, 3)
  local parsed = self.options
  local negative_ms, lock_ms, on_timeout, args, want_clone, blocking, jitter, stale_ms, stale_ttl_ms, soft_ms = parse_call(opts, 2)
  local ttl_ms = ttl_ms_of(ttl, parsed.l1_ttl_ms, 3)
  local problem = key_problem(key)
  if problem then
    return nil, problem
  end
  local status, value, due = from_l1(self, key, looked)
  if status == HIT and not due then
    if want_clone then
      value = self.codec.clone(value)
    end
    return value, nil, "l1"
  end
  check.loader(fn, 3)
  local packed = packed_tags(tags, 3)
  local engine, err = engine_for(self, blocking)
  if not engine then
    return nil, err
  end
  local call = take_spare(spare_calls) or {}
  call.key, call.fn, call.args = key, fn, args
  call.ttl_ms, call.tags = ttl_ms, packed
  call.negative_ms = negative_ms or parsed.negative_cache_ttl_ms
  call.lock_ms = lock_ms or parsed.lock_ttl_ms
  call.wait_ms = parsed.wait_timeout_ms
  call.on_timeout = on_timeout or parsed.on_lock_timeout
  call.jitter = jitter or parsed.expiration_jitter
  call.stale_ms = stale_ms or parsed.stale_if_error_ms
  call.stale_ttl_ms = stale_ttl_ms
  soft_ms = soft_ms or parsed.soft_timeout_ms
  call.soft_at_ms = soft_ms and call.stale_ms > 0 and C.gorge_now_ms() + soft_ms or nil
  call.failed = nil
  call.engine = engine
  call.deadline_ms = C.gorge_now_ms() + parsed.wait_timeout_ms
  local again, source = true, nil
  if status == HIT then
    value, source = refresh_one(self, call, value)
    if want_clone then
      value = self.codec.clone(value)
    end
    return value, nil, source
  end
  for round = 1, MAX_ROUNDS do
    if round > 1 then -- what another worker has filled is there now
      status, value = from_l1(self, key)
      if status == HIT then
        again, source = false, "l1"
        break
      elseif status == CLOSED then
        return nil, "closed"
      end
    end
    again, value, err, source = once(self, call)
    if not again then
      break
    end
  end
  if again then -- others keep filling without a result that can be shared
    value, err, source = load.without_lease(self, call)
  end
  look_for_trouble(self)
  if source == "l2" then -- no loader ran, so nobody else has seen the call
    call.key, call.fn, call.args, call.engine = nil, nil, nil, nil
    keep(spare_calls, call)
  elseif err ~= nil and call.failed and call.stale_ms > 0 then
    value, err, source = stale.instead(self, call, err)
  end
  if want_clone then
    value = self.codec.clone(value)
  end
  return value, err, source
end

---@param looked integer|nil as for fetch
function _M.get(self, key, opts, looked)
  check.key_type(key, 3)
  local _, _, _, _, want_clone, blocking = parse_call(opts, 2)
  local problem = key_problem(key)
  if problem then
    return nil, problem
  end
  local source = "l1"
  local status, value = from_l1(self, key, looked)
  if status ~= HIT then
    local engine, err = engine_for(self, blocking)
    if not engine then
      return nil, err
    elseif not engine.has_redis then
      return nil
    end
    local op
    op, status = engine:start_fetch(key, "", 1, 1, LOOKUP)
    if status == PENDING then
      local ready, why = engine.host.can_wait(engine)
      if not ready then
        engine:free(op)
        return nil, "would block: " .. why
      end
      engine.host.guard(engine, op)
      status = engine:wait(op, status)
    end
    if status == HIT then
      local read, ok
      read, ok, value = take_l2(self, engine)
      if ok then
        store_l0(self.l0, key, value, read)
      else
        look.note_undecodable(self, key, "Redis", value)
        status = MISS
      end
    end
    engine:free(op)
    look_for_trouble(self)
    if status ~= HIT then
      return nil
    end
    source = "l2"
  end
  if want_clone then
    value = self.codec.clone(value)
  end
  return value, nil, source
end

-- For many.lua, which does the same for several keys at once.
_M.from_l2, _M.engine_for, _M.timed_out, _M.own_fill = from_l2, engine_for, timed_out, own_fill
_M.MAX_ROUNDS = MAX_ROUNDS

return _M
