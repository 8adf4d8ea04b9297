-- SPDX-License-Identifier: MIT
-- Fills that coroutines of this worker share: the first leads, the others take part and have its result from memory.

local spare = require "gorge.spare"

local keep, take_spare = spare.keep, spare.take
local running = coroutine.running

local _M = {}

---@class gorge.Flight
---@field cache gorge.Cache
---@field key string
---@field op integer 0: it has not begun
---@field tags string packed
---@field co thread|false|nil who leads; nil: the main program; false: nobody yet
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
  keep(spares, flight)
end

---The operation went away without its coroutine: who took part begins anew.
function Flight:lost()
  self.gone = true
  tell(self, "again")
end

---Whether this coroutine leads the flight: it must not wait for itself.
function _M.is_own(flight)
  return flight.co == running()
end

---Whether another coroutine's fill is as good as one's own.
---@param cache gorge.Cache
---@param call gorge.Call
---@param flight gorge.Flight
function _M.can_share(cache, call, flight)
  return flight.tags == call.tags and call.engine == cache.engine and (flight.op == 0 or call.engine:joinable(flight.op))
end

---Takes part in another coroutine's fill: its end is written into what is returned (state, value, err, source), and who waits is signalled. Where a wait
---blocks, the leader, which has yielded to somebody else's scheduler, could never go on: "stuck" is the state then, at once.
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
