-- SPDX-License-Identifier: MIT
-- Fills that coroutines of this worker share: the first leads, the others take part and have its result from memory.

local C = require "gorge.ffi.lib"
local origin = require "gorge.origin"
local spare = require "gorge.spare"

local keep, take_spare = spare.keep, spare.take
local next = next
local running = coroutine.running
local getinfo = debug.getinfo

local _M = {}

---@class gorge.Flight
---@field cache gorge.Cache
---@field key string
---@field op integer 0: it has not begun
---@field tags string packed
---@field co thread|false|nil who leads; nil: the main program; false: nobody yet
---@field call gorge.Call|nil of who leads; nil: nobody yet
---@field until_ms number|nil its lease is not renewed beyond
---@field gone boolean|nil it was given up
---@field followers table[]|nil
---@field n integer
local Flight = {}
Flight.__index = Flight

local spares = spare.list()

---A flight without an operation: nobody leads it yet. From now on coroutines of this worker that want the key take part in it.
---@param cache gorge.Cache
---@param call gorge.Call
---@return gorge.Flight
function _M.queue(cache, call)
  local flight = take_spare(spares) or setmetatable({ n = 0 }, Flight)
  flight.cache, flight.key, flight.tags, flight.op, flight.co = cache, call.key, call.tags, 0, false
  cache.flights[call.key] = flight
  return flight
end

---The calling coroutine leads: a new flight, or one that was queued.
---@param cache gorge.Cache
---@param call gorge.Call
---@param op integer
---@param queued gorge.Flight|nil
---@return gorge.Flight
function _M.begin(cache, call, op, queued)
  local engine = call.engine
  local flight = queued or _M.queue(cache, call)
  flight.call, flight.until_ms = call, C.gorge_now_ms() + call.wait_ms
  flight.op, flight.co = op, running() -- LuaJIT breaks the trace of a hit in Redis here; unbroken it is too long to be compiled
  engine:share(op, flight)
  engine.host.guard(engine, op)
  return flight
end

---Tells all who take part how the fill ended.
---@param source string|nil of the value, if it is not news
local function tell(flight, state, value, err, source)
  local flights = flight.cache.flights
  if flights[flight.key] == flight then
    flights[flight.key] = nil
  end
  for i = 1, flight.n do
    local follower = flight.followers[i]
    follower.state, follower.value, follower.err, follower.source = state, value, err, source
    follower.waiter:signal()
  end
  flight.n = 0
end

---Ends a fill with its operation. Nobody knows of the flight then.
---@param engine gorge.Engine
---@param flight gorge.Flight
---@param state "value"|"again"
function _M.land(engine, flight, state, value, err, source)
  tell(flight, state, value, err, source)
  engine:free(flight.op)
  flight.cache, flight.key, flight.co, flight.followers, flight.gone = nil, nil, nil, nil, nil
  flight.call, flight.until_ms = nil, nil
  keep(spares, flight)
end

---The operation went away without its coroutine: who took part begins anew.
function Flight:lost()
  self.gone = true
  tell(self, "again")
end

---Nobody leads it any more: its operation ends.
function Flight:give_up()
  self:lost()
  if self.call then
    self.call.engine:free(self.op)
  end
end

local leaders = {}

---While a flight is under way, one of these functions is on the stack of the coroutine that leads it, below all that it calls of the user's.
---@param ... function
function _M.leaders(...)
  for i = 1, select("#", ...) do
    leaders[select(i, ...)] = true
  end
end

---Whether this coroutine leads a flight, and has not left it for ever.
---@return boolean
local function is_leading()
  local level = 2
  local frame = getinfo(level, "f")
  while frame do
    if leaders[frame.func] then
      return true
    end
    level = level + 1
    frame = getinfo(level, "f")
  end
  return false
end

---Whether this coroutine leads the flight: it must not wait for itself.
function _M.is_own(flight)
  return flight.co == running() and is_leading()
end

---The flight of a key that is under way in this worker. One that this coroutine began in an earlier life is not: nginx gives a request the coroutine of one
---that was cut off, or of its own earlier phase, which a loader has left for ever.
---@param cache gorge.Cache
---@param key string
---@return gorge.Flight|nil
---@return boolean|nil own this coroutine leads it: it must not wait for itself
function _M.find(cache, key)
  local flight = cache.flights[key]
  if not flight or flight.co ~= running() then
    return flight
  elseif is_leading() then
    return flight, true
  end
  flight:give_up()
end

---A coroutine of the background was ended, and with it its run of fn and all fills of this cache that it led: its loader may have fetched other keys.
---@param job { cache: gorge.Cache, call: gorge.Call, co: thread|nil }
function _M.cut_off(job)
  for _, flight in next, job.cache.flights do
    if flight.co == job.co then
      origin.cut_off(flight.call)
      flight:give_up()
    end
  end
  origin.cut_off(job.call)
end

---An operation whose wait was in vain gets leave to run fn, without a lease: for the others of this worker a new beginning.
---@param call gorge.Call
---@param flight gorge.Flight
---@return integer status
function _M.run(call, flight)
  flight.until_ms = C.gorge_now_ms() + call.wait_ms
  local status = call.engine:run(flight.op)
  return status
end

---Whether another coroutine's fill is as good as one's own. One that lasts beyond its lease is not: nobody of this worker would ever take it over.
---@param cache gorge.Cache
---@param call gorge.Call
---@param flight gorge.Flight
function _M.can_share(cache, call, flight)
  local begun = flight.op ~= 0
  if begun and (C.gorge_now_ms() >= flight.until_ms or not flight.call.engine:joinable(flight.op)) then
    return false
  elseif call.engine ~= cache.engine then
    return begun -- who blocks would wait for it in any case, and in vain
  end
  return flight.tags == call.tags
end

---Takes part in another coroutine's fill: its end is written into what is returned (state, value, err, source), and who waits is signalled. Where a wait
---blocks, the leader, which has yielded to somebody else's scheduler, or to nginx, could never go on: "stuck" is the state then, at once.
---@param call gorge.Call
---@param flight gorge.Flight
---@param waiter gorge.Waiter
---@param told { signal: fun(self: table) }|nil what is signalled, if not the waiter
---@return table follower
function _M.take_part(call, flight, waiter, told)
  if waiter.blocks then
    return { state = "stuck" }
  end
  local follower = { waiter = told or waiter }
  flight.n = flight.n + 1
  flight.followers = flight.followers or {}
  flight.followers[flight.n] = follower
  call.engine.host.follow(call.engine) -- hears of it should the leader's coroutine be cut off
  return follower
end

return _M
