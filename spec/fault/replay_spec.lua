-- SPDX-License-Identifier: MIT
-- What a node invalidates while Redis is away reaches Redis and the other nodes once it is back, and nobody on the node sees the old value meanwhile.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

describe("invalidations while Redis is away", function()
  local redis, a, b

  before_each(function()
    redis = helper.redis { config = "appendonly yes" } -- what it held is there again afterwards
    a, b = node.pair(redis, { options = { redis = node.patient(redis), l1_size = "8m" } }) -- a queue for a thousand keys
  end)

  local function put(key, value, tag)
    assert.is_true((a:run([[local key, value, tag = ... return cache:set(key, value, 600, tag)]], key, value, tag)))
    for id = 0, 1 do
      assert.equal(value, b:worker(id):run([[return (cache:get(...))]], key))
    end
  end

  local function away()
    redis:down()
    helper.wait_until(function() return a:run [[return cache:stats().redis]] ~= "ready" end)
  end

  local function back()
    redis:up()
    helper.wait_until(function()
      return a:run [[local s = cache:stats() return s.subscribed and s.queued == 0]] == true
    end, { timeout = 10, message = "the queue was not drained" })
  end

  local function gone(n, key)
    helper.wait_until(function() return n:run([[return (cache:get(...))]], key) == nil end, { message = "a node still sees what was invalidated" })
  end

  it("of keys are carried out when it is back", function()
    put("deleted", "old")
    put("kept", "v")
    away()
    local ok, err = a:run [[return cache:delete "deleted"]]
    assert.is_nil(ok)
    assert.matches("done on this host, but not in Redis", err)
    assert.equal(1, a:run [[return cache:stats().queued]])
    assert.is_nil((a:run [[return cache:get "deleted"]]))
    back()
    gone(a, "deleted")
    gone(b, "deleted")
    assert.equal("v", b:run [[return (cache:get "kept")]])
    helper.wait_until(function() return a:stats().replayed == 1 end, { message = "it was not counted once" }) -- after it has left the queue
  end)

  it("of tags are carried out when it is back", function()
    put("tagged", "old", "t")
    put("other", "v", "u")
    away()
    assert.is_nil((a:run [[return cache:invalidate_tags "t"]]))
    back()
    gone(a, "tagged")
    gone(b, "tagged")
    assert.equal("v", b:run [[return (cache:get "other")]])
  end)

  it("by set are carried out as invalidations: the value is not sent late", function()
    put("k", "old")
    away()
    assert.is_nil((a:run [[return cache:set("k", "new", 600)]]))
    assert.equal("new", a:run [[return (cache:get "k")]])
    back()
    gone(b, "k")
    assert.not_equal("old", (a:run [[return (cache:get "k")]]))
  end)

  it("by touch are carried out as invalidations when the life became shorter", function()
    put("shorter", "old")
    put("longer", "v")
    away()
    for key, ttl in pairs { shorter = 0.2, longer = 900 } do
      local ok, err = a:run([[local key, ttl = ... return cache:touch(key, ttl)]], key, ttl)
      assert.is_nil(ok)
      assert.matches("done on this host, but not in Redis", err)
    end
    assert.equal(1, a:run [[return cache:stats().queued]])
    gone(a, "shorter")
    redis:up()
    for _ = 1, 50 do -- not even before it is carried out
      assert.is_nil((a:run [[return (cache:get "shorter")]]))
    end
    helper.wait_until(function() return a:run [[local s = cache:stats() return s.subscribed and s.queued == 0]] == true end, { timeout = 10 })
    gone(b, "shorter")
    assert.equal("v", (a:run [[return (cache:get "longer")]]))
    assert.equal("v", (b:run [[return (cache:get "longer")]]))
  end)

  it("by clear are carried out when it is back", function()
    put("x", "old")
    away()
    assert.is_nil((a:run [[return cache:clear()]]))
    back()
    gone(a, "x")
    gone(b, "x")
  end)

  it("become a clear when there are too many of them", function()
    put("one", "old")
    put("two", "old")
    away()
    a:run [[for i = 1, 3000 do cache:delete("key " .. i) end]]
    back()
    gone(b, "one")
    gone(b, "two")
  end)

  it("are not undone by what Redis still held, not even before they are carried out", function()
    put("k", "old")
    away()
    assert.is_nil((a:run [[return cache:delete "k"]]))
    redis:up()
    local until_ = helper.now() + 3
    repeat
      for id = 0, 1 do
        assert.not_equal("old", (a:worker(id):run [[return (cache:get "k")]]))
      end
    until a:run [[return cache:stats().queued]] == 0 or helper.now() > until_
    gone(b, "k")
  end)

  it("survive the worker that made them", function()
    put("k", "old")
    away()
    local worker = a:worker(0)
    -- A worker carries out what is queued from its first call on that L1 could not answer; the new one that takes worker 0's place has none.
    a:worker(1):run [[cache:get "something else"]]
    assert.is_nil((worker:run [[return cache:delete "k"]]))
    helper.process.kill(worker.pid, helper.process.SIGKILL)
    back()
    gone(a, "k")
    gone(b, "k")
  end)
end)
