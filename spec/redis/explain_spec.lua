-- SPDX-License-Identifier: MIT
-- cache:explain: each state of each layer against a real Redis, two nodes in this process; what it says is what the next fetch does, and it changes nothing.
local C = require "gorge.ffi.lib"
local gorge = require "gorge"
local helper = require "spec.helper"
local cjson = require "cjson"
local process = helper.process

local redis
setup(function() redis = helper.redis() end)

local opened = {}
after_each(function()
  for _, cache in ipairs(opened) do
    cache:close()
  end
  opened = {}
end)

--- A node of a namespace: a zone of its own. Each hears the others from when it is returned on.
local function node(ns, more)
  local options = {
    namespace = ns, zone = helper.unique_name "explain-zone", l1_size = "4m",
    redis = { host = "127.0.0.1", port = redis.port, timeout = 5, connect_timeout = 5 },
  }
  for name, value in pairs(more or {}) do
    options[name] = value
  end
  local cache = assert(gorge.new(options))
  opened[#opened + 1] = cache
  cache:get "link"
  helper.wait_until(function() return cache:stats().subscribed end, { message = "a node does not listen" })
  return cache
end

--- A relay, and how Redis is reached through it by one that takes long to find out that it hears nothing.
local function deaf_relay()
  local relay = helper.relay(redis)
  relay.options = { host = "127.0.0.1", port = relay.port, timeout = 60, connect_timeout = 5 }
  return relay
end

local function pair(more)
  local ns = helper.unique_name "explain"
  return node(ns, more), node(ns, more)
end

--- Waits until `b` has heard all that `a` has told: messages come in order, and this is the last.
local function settle(a, b)
  assert(b:set("link", "held", 60))
  assert(a:delete "link")
  helper.wait_until(function() return b:explain("link").l1.state ~= "good" end, { interval = 0.001, message = "a message was not heard" })
end

local function value() return "v" end

local function wait_state(cache, key, state, in_redis)
  return helper.wait_until(function()
    local told = cache:explain(key)
    return told.l1.state == state and (not in_redis or in_redis[told.l2.state]) and told
  end, { interval = 0.005, message = "L1 did not come to be " .. state })
end

describe("cache:explain of", function()
  it("a key that nobody has", function()
    local a = pair()
    local told = a:explain "k"
    assert.same({ "k", "none", "none", "none" }, { told.key, told.l0.state, told.l1.state, told.l2.state })
    assert.same({ held = false }, told.lease)
    assert.same({}, told.tags)
    assert.is_nil(told.flight)
    assert.equal("fn", told.found)
    assert.equal("L1: not there; L2: not there; fn would run", told.reason)
    local freshness = told.freshness
    assert.is_true(freshness.open and freshness.contact and freshness.left > 0 and freshness.left <= 5)
    assert.is_true(freshness.redis_epoch > 0)
  end)

  it("a value that all layers have, some have, or another node has", function()
    local a, b = pair()
    a:fetch("k", 60, value, { "t", "u" })
    local told = a:explain "k"
    assert.equal("l0", told.found)
    assert.equal("L0: good", told.reason)
    assert.same({ "good", "good", "good" }, { told.l0.state, told.l1.state, told.l2.state })
    assert.same({ "t", "u" }, told.l1.tags)
    assert.same({ "t", "u" }, told.l2.tags)
    assert.is_true(told.l1.version == told.l2.version and told.l1.version > 0)
    assert.is_true(told.l1.ttl > 55 and told.l1.ttl <= 60 and told.l2.ttl > 55 and told.l2.ttl < 60.1) -- by two clocks
    assert.same({ false, 1, false }, { told.l1.negative, told.l1.size, told.l2.negative })
    for i, name in ipairs { "t", "u" } do
      local tag = told.tags[i]
      assert.same({ name, "same", "same", false }, { tag.name, tag.l1, tag.l2, tag.queued })
      assert.is_nil(tag.invalidated)
    end
    told = b:explain "k"
    assert.equal("l2", told.found)
    assert.matches("^L1: not there; L2: good, %d+ s left$", told.reason)
    assert.same({ "none", "none", "good" }, { told.l0.state, told.l1.state, told.l2.state })
    local beside = node(a.options.namespace, { zone = a.options.zone })
    told = beside:explain "k"
    assert.equal("l1", told.found)
    assert.matches("^L1: good, %d+ s left$", told.reason)
  end)

  it('"no such thing"', function()
    local a = pair { l1_objects = 0 }
    a:fetch("k", 60, function() end)
    local told = a:explain "k"
    assert.same({ "off", "l1", true, true }, { told.l0.state, told.found, told.l1.negative, told.l2.negative })
    assert.matches('^L1: good, "no such thing", %d+ s left$', told.reason)
  end)

  it("a value whose tag was invalidated, in each layer", function()
    local a, b = pair { l1_size = helper.ROOMY }
    a:fetch("k", 60, value, { "t", "u" })
    b:fetch("k", 60, value)
    assert(a:invalidate_tags "u")
    local told = a:explain "k"
    assert.same({ "invalidated", "tag changed", "tag changed" }, { told.l0.state, told.l1.state, told.l2.state })
    assert.equal('L0: something was invalidated since; L1: tag "u" was invalidated since it was stored; '
      .. 'L2: tag "u" was invalidated since it was stored; fn would run', told.reason)
    assert.same({ "t", "same", "same" }, { told.tags[1].name, told.tags[1].l1, told.tags[1].l2 })
    assert.same({ "u", "changed", "changed" }, { told.tags[2].name, told.tags[2].l1, told.tags[2].l2 })
    assert.is_true(told.tags[2].invalidated > told.l2.version)
    settle(a, b)
    assert.equal("tag changed", b:explain("k").l1.state)
    local key = redis:command("KEYS", ("{%d:%s:*:t:t"):format(#a.options.namespace, a.options.namespace))[1]
    redis:command("DEL", key)
    assert.equal("missing", a:explain("k").tags[1].l2)
  end)

  it("a value past its end, kept for a while and then no more", function()
    local a = pair { l1_objects = 0 }
    a:fetch("k", 0.05, value, nil, { stale_if_error = 60 })
    local told = wait_state(a, "k", "stale", { stale = true }) -- Redis goes by its own clock
    assert.equal("fn", told.found)
    assert.is_true(told.l1.ttl == 0 and told.l1.past >= 0 and told.l1.stale_left > 0 and told.l1.stale_left <= 60)
    assert.matches("^L1: ended %d+ m?s ago, kept for %d+ s yet; L2: ", told.reason)
    a:fetch("gone", 0.05, value, nil, { stale_if_error = 0.1 })
    told = wait_state(a, "gone", "expired", { none = true, expired = true }) -- Redis removes it at that moment
    assert.is_true(told.found == "fn" and told.l1.past >= 0.1)
    assert.matches("^L1: expired %d+ m?s ago; L2: [%l ]+; fn would run$", told.reason)
  end)

  it("a value that ended in L1, where Redis has a newer one", function()
    local a, b = pair { l1_objects = 0 }
    a:fetch("k", 0.05, value)
    wait_state(a, "k", "expired", { none = true, expired = true })
    b:fetch("k", 60, value)
    local told = a:explain "k"
    assert.equal("l2", told.found)
    assert.matches("^L1: expired %d+ m?s ago; L2: holds a newer version, %d+ s left$", told.reason)
    assert.is_true(told.l2.version > told.l1.version)
  end)

  it("a value that is due, where there is a background and where there is none", function()
    local a = pair { l1_objects = 0, stale_while_revalidate = true, stale_ttl = 59.95 }
    a:fetch("k", 60, value)
    local told = wait_state(a, "k", "due")
    assert.equal("fn", told.found)
    assert.matches("; this program has no background to refresh it in; fn would run$", told.reason)
    gorge.run(function()
      told = a:explain "k"
    end)
    assert.equal("l1", told.found)
    assert.matches("^L1: due for a refresh, %d+ s left$", told.reason)
    assert.equal("fn", (select(3, a:fetch("k", 60, value))))
  end)

  it("a fill under way: of this coroutine, of this host, of another node", function()
    local a, b = pair()
    local beside = node(a.options.namespace, { zone = a.options.zone })
    a:fetch("k", 60, function()
      local told = a:explain "k"
      assert.is_nil(told.found)
      assert.matches("fetch would return an error: this coroutine is in the fn that loads the key$", told.reason)
      assert.same({ "running", true, 0, true }, { told.flight.state, told.flight.here, told.flight.waiters, told.flight.leased })
      assert.is_true(told.flight.deadline > 5 and told.flight.deadline <= 10 and told.flight.latest > 20)
      assert.is_true(told.lease.held and told.lease.ttl > 5 and told.lease.ttl <= 10)
      told = beside:explain "k"
      assert.is_nil(told.found)
      assert.matches("; a fill in progress on this host would be waited for, its lease ends in %d+ s$", told.reason)
      told = b:explain "k"
      assert.same({ nil, nil }, { told.found, told.flight })
      assert.matches("; the lease of a fill on another node would be waited for, %d+ s of it left$", told.reason)
      a:delete "k"
      assert.equal("overtaken", a:explain("k").flight.state)
      return "v"
    end)
    assert.is_nil(a:explain("k").flight)
  end)

  it("a key whose invalidation waits for Redis, and one with such a tag; a Redis that is away", function()
    local a, b = pair { redis = redis.url, l1_objects = 0 }
    a:fetch("k", 60, value)
    b:fetch("tagged", 60, value, "t")
    redis:pause()
    assert.is_nil((a:delete "k"))
    assert.is_nil((a:invalidate_tags "t"))
    local told = a:explain "k"
    assert.same({ "not asked", "fn" }, { told.l2.state, told.found })
    assert.equal("L1: not there; L2: not asked, it has not been told yet that the key was invalidated on this host; fn would run", told.reason)
    told = a:explain "tagged"
    assert.same({ "error", "fn" }, { told.l2.state, told.found })
    assert.is_nil(told.lease)
    redis:resume()
    helper.wait_until(function() return a:stats().queued == 0 and a:stats().subscribed end)
    helper.wait_until(function() return a:explain("k").l2.state == "none" end, { message = "Redis was not asked again" })
  end)

  it("a value that L1 may not show, since nothing confirms it", function()
    local relay = deaf_relay()
    local a = node(helper.unique_name "explain", { redis = relay.options, freshness_bound = 0.2, l1_objects = 0 })
    a:fetch("k", 60, value)
    relay:stall("both", "pubsub")
    local told = wait_state(a, "k", "closed")
    assert.same({ "closed", false, "l2" }, { told.l1.state, told.freshness.open, told.found })
    assert.matches("^L1: may not be read, no contact to Redis; L2: good, %d+ s left$", told.reason)
    assert.is_true(told.l1.ttl > 0)
  end)

  it("a cache whose breaker is open", function()
    local away = assert(gorge.new {
      namespace = helper.unique_name "explain", l1_size = "4m", redis = "unix:///nonexistent/redis", circuit_breaker = { max_failures = 1 },
    })
    opened[#opened + 1] = away
    local told = away:explain "k"
    assert.same({ "error", "fn", "closed" }, { told.l2.state, told.found, away:stats().breaker })
    assert.same({ 0, 0 }, { away:stats().l2_errors, away:stats().breaker_opens })
    away:fetch("other", 60, value)
    told = away:explain "k"
    assert.equal("L1: not there; L2: not asked, the circuit breaker is open; fn would run", told.reason)
    assert.equal("fn", told.found)
  end)

  it("a cache whose origin has its breaker open, with a value past its end and without", function()
    local a = pair { l1_objects = 0, origin = { max_failures = 1, timeout = 60 }, stale_if_error = 60 }
    a:fetch("k", 0.05, value)
    wait_state(a, "k", "stale", { stale = true })
    a:fetch("other", 60, function() return nil, "down" end)
    assert.matches("; fn would not run: the circuit breaker of the origin is open; the value past its end would be served$", a:explain("k").reason)
    assert.equal("stale", a:explain("k").found)
    assert.equal("stale", (select(3, a:fetch("k", 60, value))))
    assert.is_nil(a:explain("other").found)
    assert.is_nil(a:explain("k", { stale_if_error = 0 }).found)
  end)

  it("what is damaged in Redis, and what is no value at all", function()
    local a, b = pair()
    b:set("k", "v", 60)
    local key = redis:command("KEYS", "{" .. #a.options.namespace .. ":" .. a.options.namespace .. "*:v:k")[1]
    redis:command("SET", key, "nonsense")
    local told = a:explain "k"
    assert.same({ "damaged", 8, "fn" }, { told.l2.state, told.l2.size, told.found })
    redis:command("DEL", key)
    redis:command("LPUSH", key, "nonsense")
    told = a:explain "k"
    assert.equal("error", told.l2.state)
    assert.matches("WRONGTYPE", told.l2.error)
  end)

  it("a Redis that lost its memory, which it leaves so", function()
    local ns, relay = helper.unique_name "explain", deaf_relay()
    local a = node(ns, { redis = relay.options })
    a:set("k", "v", 60)
    relay:stall("both", "pubsub") -- who hears of it gives Redis another epoch
    redis:command "FLUSHALL"
    local told = a:explain "other"
    assert.same({ "fn", 0 }, { told.found, told.freshness.redis_epoch })
    assert.equal(0, redis:command("EXISTS", ("{%d:%s:0}:e"):format(#ns, ns)))
  end)

  it("a cache that reads nothing, one without Redis, and one that is closed", function()
    local blind = pair { cache_read_disabled = true }
    assert.same({ "fn", true }, { blind:explain("k").found, blind:explain("k").reason:find("cache_read_disabled", 1, true) ~= nil })
    local alone = assert(gorge.new { namespace = helper.unique_name "explain", l1_size = "4m" })
    alone:set("k", "v", 60)
    local told = alone:explain "k"
    assert.same({ "l1", "not asked", "the cache has no Redis" }, { told.found, told.l2.state, told.l2.why })
    assert.matches("^L1: good, %d+ s left$", told.reason)
    assert.same({}, { told.lease, told.freshness.contact, told.freshness.left, told.l1.version })
    alone:close()
    assert.same({ nil, "closed" }, { alone:explain "k" })
  end)
end)

describe("cache:explain refuses", function()
  it("what no call takes, like its neighbours", function()
    local a = pair()
    assert.same({ nil, "gorge: key must not be empty" }, { a:explain "" })
    assert.matches("at most 8192 bytes, got 8193", (select(2, a:explain(("x"):rep(8193)))))
    local ok, err = pcall(function() a:explain(5) end)
    assert.is_false(ok)
    assert.matches("explain_spec.lua:%d+: gorge: key must be a string, got 5$", err)
    ok, err = pcall(function() a:explain("k", { blockin = true }) end)
    assert.is_false(ok)
    assert.matches("explain_spec.lua:%d+: gorge: unknown option 'blockin', did you mean 'blocking'%?$", err)
  end)
end)

-- What goes on by itself: messages and heartbeats of the other node, and the clock.
local MOVES = { lag = true, messages = true, subscribed = true }

--- All that statistics tell, and what L1 thinks of how much the key is used.
local function footprint(cache, key)
  local stats = cache:stats()
  for name in pairs(MOVES) do
    stats[name] = nil
  end
  stats.frequency = cache:explain(key).l1.frequency
  return cjson.encode(stats)
end

describe("whatever has happened before", function()
  -- What ends between the two, as both see it: their clocks tick, and what is read from Redis ends up to a tick earlier than there.
  local TICKS = 0.04

  --- Whether a life ends near the time from when it was looked at to when the key was fetched, which took so many seconds.
  local function near(layer, took)
    local close = TICKS + took
    return layer.ttl and layer.ttl > 0 and layer.ttl < close or layer.past and layer.past < TICKS
      or layer.stale_left and layer.stale_left > 0 and layer.stale_left < close
  end

  local function random(list)
    return list[math.random(#list)]
  end

  local KEYS, TAGS, TTLS = { "k1", "k2", "k3", "k4" }, { "t1", "t2" }, { 0.06, 0.15, 60, 60 }

  --- One thing that one of the nodes does.
  local function act(one, other)
    local key, what = random(KEYS), math.random(12)
    local tags = ({ nil, "t1", { "t1", "t2" } })[math.random(3)]
    if what <= 5 then
      one:fetch(key, random(TTLS), math.random(6) == 1 and function() end or value, tags, { stale_if_error = random { 0, 0, 0.1 } })
    elseif what == 6 then
      one:set(key, "set", random(TTLS), tags)
    elseif what == 7 then
      one:delete(key)
    elseif what == 8 then
      one:invalidate_tags(random(TAGS))
    elseif what == 9 then
      one:touch(key, random(TTLS))
    elseif what == 10 then
      one:get(key)
    elseif what == 11 then
      helper.sleep(random { 0.02, 0.08, 0.2 })
    elseif math.random(8) == 1 then
      one:clear()
    end
    settle(one, other)
  end

  for _, objects in ipairs { 0, 100 } do
    it("the next fetch does what explain said, and explain has changed nothing, with l1_objects = " .. objects, function()
      local seed = os.time() + objects
      math.randomseed(seed)
      local a, b = pair { l1_objects = objects }
      local runs, checked, seen = 0, 0, {}
      local function counted()
        runs = runs + 1
        return "counted"
      end
      for step = 1, 600 do
        local one, other = a, b
        if math.random(2) == 1 then
          one, other = b, a
        end
        act(one, other)
        local key = random(KEYS)
        local began = process.now()
        local before = footprint(a, key)
        local told = a:explain(key)
        local after = footprint(a, key)
        local ran = runs
        local _, err, source = a:fetch(key, random(TTLS), counted)
        local took = process.now() - began
        if not near(told.l1, took) and not near(told.l2, took) then
          local message = ("seed %d, step %d: %s"):format(seed, step, cjson.encode(told))
          assert.equal(before, after, message)
          assert.is_nil(err, message)
          assert.equal(told.found, source, message)
          assert.equal(told.found == "fn" and 1 or 0, runs - ran, message)
          local state = told.l1.state .. " " .. told.l2.state .. " " .. told.found
          seen[state] = (seen[state] or 0) + 1
          checked = checked + 1
        end
        settle(a, b)
      end
      assert.is_true(checked > 300, "only " .. checked .. " were far enough from an end")
      for _, state in ipairs { "none none fn", "none good l2", "tag changed tag changed fn", "expired none fn" } do
        assert.is_true((seen[state] or 0) > 0, "never: " .. state .. " in " .. cjson.encode(seen))
      end
    end)
  end

  it("neither a use nor a record of L0 comes of it", function()
    local a = pair()
    local beside = node(a.options.namespace, { zone = a.options.zone })
    a:set("k", "v", 60)
    local before = beside:explain("k").l1.frequency
    for _ = 1, 20 do
      beside:explain "k"
    end
    assert.equal(before, beside:explain("k").l1.frequency)
    assert.equal("none", beside:explain("k").l0.state)
    assert.equal("l1", (select(3, beside:fetch("k", 60, value))))
    assert.equal("good", beside:explain("k").l0.state)
    assert.is_true(beside:explain("k").l1.frequency > before)
    assert.equal(0, C.gorge_pending(a.engine.handle) + C.gorge_pending(beside.engine.handle))
  end)
end)
