-- SPDX-License-Identifier: MIT
-- A host that reaches Redis but hears nothing from it: what it finds there is as fresh as what it has.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local BOUND = 0.5
-- what the coarse clocks of the kernel and of nginx may be behind
local TICK = 0.02

describe("a host whose messages are lost", function()
  local redis, relay, a, b

  setup(function()
    redis = helper.redis()
    relay = helper.relay(redis)
    local options = { namespace = helper.unique_name "deaf", freshness_bound = BOUND, redis = node.patient(redis) }
    a = node.start { options = options }
    options.redis = node.patient(relay)
    b = node.start { options = options }
    node.wait_linked { a, b }
  end)

  -- A host that has lost its connection is another thing: this one has it, and as it is patient it does not take it for dead meanwhile.
  before_each(function() b:wait_subscribed() end)

  --- What `a` does reaches `b` only through what `b` asks.
  local function unheard(what)
    assert.is_true((a:run [[return cache:set("k", "old", 60, "t")]]))
    helper.wait_until(function() return b:run [[return (cache:get "k")]] == "old" end)
    relay:stall("down", "pubsub")
    assert.is_true((a:run(what)))
    local done = helper.now()
    helper.wait_until(function() return helper.now() > done + BOUND + TICK end)
    for id = 0, 1 do
      assert.is_nil((b:worker(id):run [[return (cache:get "k")]]))
    end
    assert.equal("new", (b:run [[return cache:fetch("k", 60, function() return "new" end, "t")]]))
    relay:heal()
    helper.wait_until(function() return a:run [[return (cache:get "k")]] == "new" end)
  end

  --- A fill that began before, and a caller in the same worker who comes after the newer value was seen on this host.
  local FILL_AND_FOLLOW = [[
    local function fetch(load)
      return ngx.thread.spawn(function() return cache:fetch("row", 60, load) end)
    end
    local first = fetch(function()
      gate "loader"
      return "old"
    end)
    gate "follower"
    local second = fetch(function() return "loaded once more" end)
    count "following"
    local _, value = ngx.thread.wait(first)
    return value, select(2, ngx.thread.wait(second))
  ]]

  it("does not go back to what is older than what it has found", function()
    relay:stall("down", "pubsub")
    local stalled = helper.now()
    local batch = b:start(1, FILL_AND_FOLLOW)
    b:wait_count "at loader"
    assert.is_true((a:run [[return cache:set("row", "new", 60)]]))
    helper.wait_until(function() return helper.now() > stalled + BOUND + TICK end) -- from now on L1 does not answer
    assert.same({ "new", "l2" }, { b:run [[local value, _, source = cache:get "row" return value, source]] })
    b:run [[open "follower"]]
    b:wait_count "following"
    b:run [[open "loader"]]
    local values = batch:results()[1]
    assert.same({ "old", "new" }, { values[1], values[2] })
    relay:heal()
  end)

  it("does not find what was deleted", function()
    unheard [[return cache:delete "k"]]
  end)

  it("does not find what was invalidated by tag", function()
    unheard [[return cache:invalidate_tags "t"]]
  end)

  it("does not find what was cleared, although it still has the old names", function()
    unheard [[return cache:clear()]]
  end)
end)
