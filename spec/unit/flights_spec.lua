-- SPDX-License-Identifier: MIT
-- Fills that coroutines of a worker share, without a core: what is told to whom, and what a flight that is used again begins with.
require "spec.helper"
local flights = require "gorge.flights"

--- A call of a cache of its own. Its engine notes which operations were freed.
local function new_call()
  local engine = { freed = {}, host = { guard = function() end, follow = function() end } }
  function engine.free(self, op) self.freed[#self.freed + 1] = op end
  function engine.share() end
  local cache = { flights = {}, engine = engine }
  return { key = "k", tags = "", engine = engine, wait_ms = 1000 }, cache
end

local function new_waiter()
  local waiter = { signals = 0 }
  function waiter.signal(self) self.signals = self.signals + 1 end
  return waiter
end

describe("a flight", function()
  it("tells who takes part how it ended, once", function()
    local call, cache = new_call()
    local flight = flights.begin(cache, call, 7)
    assert.equal(flight, cache.flights.k)
    local waiter = new_waiter()
    local follower = flights.take_part(call, flight, waiter)
    flights.land(call.engine, flight, "value", "v", nil, "l2")
    assert.same({ "value", "v", "l2" }, { follower.state, follower.value, follower.source })
    assert.equal(1, waiter.signals)
    assert.is_nil(cache.flights.k)
    assert.same({ 7 }, call.engine.freed)
  end)

  it("that was given up sends them round, though its coroutine ends it later", function()
    local call, cache = new_call()
    local flight = flights.queue(cache, call)
    local waiter = new_waiter()
    local follower = flights.take_part(call, flight, waiter)
    flight:lost()
    assert.is_true(flight.gone)
    flights.begin(cache, call, 8, flight)
    flights.land(call.engine, flight, "value", "v")
    assert.equal("again", follower.state)
    assert.equal(1, waiter.signals)
  end)

  it("knows nothing of the fill before when it is used again", function()
    local call, cache = new_call()
    local flight = flights.begin(cache, call, 9)
    flights.take_part(call, flight, new_waiter())
    flight:lost()
    flights.land(call.engine, flight, "again")
    local fresh = { cache = true, key = true, tags = true, op = true, co = true, n = true }
    local again = flights.queue(cache, call)
    assert.equal(flight, again) -- else this spec shows nothing
    for name in pairs(again) do
      assert.is_true(fresh[name], name)
    end
    assert.same({ 0, 0, false }, { again.op, again.n, again.co })
  end)
end)
