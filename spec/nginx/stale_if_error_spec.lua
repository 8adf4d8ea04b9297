-- SPDX-License-Identifier: MIT
-- stale_if_error: a value past its end instead of an error, in every layer, and never one that was invalidated.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local TTL = 0.05

-- Code that stores "old" for TTL with what the options say.
local STORE = [[
  local key, tags, opts = ...
  tags = tags ~= ngx.null and tags or nil
  return cache:fetch(key, ]] .. TTL .. [[, function() return "old" end, tags, opts)
]]

-- Waits until the value has expired: a look-up without a function finds nothing.
local EXPIRE = [[
  local key = ...
  for _ = 1, 2000 do
    local _, err, source = cache:get(key)
    if source == nil then
      return err
    end
    ngx.sleep(0.002)
  end
  error "the value did not expire"
]]

-- A fetch whose function fails in one of several ways.
local FAIL = [[
  local key, how, opts = ...
  return cache:fetch(key, ]] .. TTL .. [[, function()
    count "failures"
    if how == "raise" then
      error("the database is down", 0)
    elseif how == "table" then
      error { code = 7 }
    elseif how == "override" then
      return "new", nil, { tll = 1 }
    elseif how == "value" then
      return function() end
    end
    return nil, "the database is down"
  end, nil, opts)
]]

local function store(n, key, tags, opts)
  assert.equal("old", (n:run(STORE, key, tags, opts)))
end

local function expire(n, key)
  assert.is_nil(n:run(EXPIRE, key))
  helper.sleep(0.02) -- for all clocks of the host: the coarse one is up to a tick behind
end

-- The end that one worker has seen, another one sees a few milliseconds later: each has a clock of its own.
local function assert_stale(n, key, how, opts)
  local value, err, source
  helper.wait_until(function()
    value, err, source = n:run(FAIL, key, how, opts)
    return source == nil or source == "stale"
  end)
  assert.equal("old", value, err)
  assert.is_nil(err)
  assert.equal("stale", source)
end

local function assert_error(n, key, how, opts)
  local value, err, source = n:run(FAIL, key, how, opts)
  assert.is_nil(value)
  assert.is_truthy(err)
  assert.is_nil(source)
end

describe("stale_if_error", function()
  for _, with in ipairs { "without Redis", "with Redis" } do
    it("serves what has expired however fn fails, to every worker, and counts it, " .. with, function()
      local redis = with == "with Redis" and helper.redis() or nil
      local n = node.start { options = { stale_if_error = 60, redis = redis and node.patient(redis) } }
      store(n, "k")
      expire(n, "k")
      for i, how in ipairs { "return", "raise", "table", "override", "value" } do
        for id = 0, 1 do
          local worker = n:worker(id)
          assert_stale(worker, "k", how)
          worker:close()
        end
        local stats = n:stats()
        assert.equal(2 * i, stats.stale_served)
        assert.equal(2 * i, stats.load_errors)
      end
      assert.equal(10, n:counted "failures") -- fn was tried each time
      assert.equal("new", (n:run [[return cache:fetch("k", 60, function() return "new" end)]]))
      assert.equal("new", (n:run [[return cache:get "k"]]))
    end)

    it("is over when its time is over, and a call can ask for less, not for more, " .. with, function()
      local redis = with == "with Redis" and helper.redis() or nil
      local n = node.start { options = { stale_if_error = 60, redis = redis and node.patient(redis) } }
      store(n, "short", nil, { stale_if_error = 0.1 })
      store(n, "long")
      expire(n, "long")
      expire(n, "short")
      assert_stale(n, "long", "return")
      assert_error(n, "long", "return", { stale_if_error = 0 })
      helper.wait_until(function() return n:run(FAIL, "short", "return", { stale_if_error = 3600 }) == nil end)
      assert_stale(n, "long", "return")
      assert_stale(n, "long", "return", { stale_if_error = 30 })
      helper.wait_until(function() return n:run(FAIL, "long", "return", { stale_if_error = 0.2 }) == nil end)
      assert_stale(n, "long", "return")
      if redis then -- the same without L1: from Redis, which keeps it as long
        local other = node.start { options = { stale_if_error = 60, redis = node.patient(redis), namespace = n.namespace } }
        assert_error(other, "long", "return", { stale_if_error = 0.2 })
        assert_stale(other, "long", "return")
        assert_error(other, "short", "return")
      end
    end)

    it("never serves what was deleted, invalidated by tag, or cleared, " .. with, function()
      local redis = with == "with Redis" and helper.redis() or nil
      local n = node.start { options = { stale_if_error = 60, redis = redis and node.patient(redis) } }
      for name, code in pairs {
        delete = [[return cache:delete "k"]],
        tags = [[return cache:invalidate_tags "t"]],
        clear = [[return cache:clear()]],
      } do
        store(n, "k", "t")
        expire(n, "k")
        assert_stale(n, "k", "return")
        assert.is_true(n:run(code), name)
        assert_error(n, "k", "return")
      end
    end)

    it("never serves what was invalidated while fn ran, " .. with, function()
      local redis = with == "with Redis" and helper.redis() or nil
      local n = node.start { options = { stale_if_error = 60, redis = redis and node.patient(redis) } }
      store(n, "k", "t")
      expire(n, "k")
      local batch = n:start(4, [[return cache:fetch("k", 1, fail_at_gate)]])
      n:wait_count "at loader"
      assert.is_true(n:run [[return cache:invalidate_tags "t"]])
      n:run [[open "loader"]]
      for _, result in ipairs(batch:results()) do
        assert.is_nil(result[1])
        assert.matches("the database is down", result[2])
      end
    end)
  end

  it("is off by default", function()
    local n = node.start { options = {} }
    store(n, "k")
    expire(n, "k")
    assert_error(n, "k", "return")
    assert.is_nil(n:run [[return cache:peek "k"]])
    assert.equal(0, n:stats().stale_served)
  end)

  it("serves everybody who waited for the fn that failed", function()
    local n = node.start { options = { stale_if_error = 60 } }
    store(n, "k")
    expire(n, "k")
    local batch = n:start(20, [[return cache:fetch("k", 1, fail_at_gate)]])
    n:wait_count "at loader"
    n:run [[open "loader"]]
    for _, result in ipairs(batch:results()) do
      assert.equal("old", result[1], result[2] or result.err)
      assert.equal("stale", result[3])
    end
    assert.equal(20, n:stats().stale_served)
  end)

  it("goes for the keys of fetch_many, one by one", function()
    local n = node.start { options = { stale_if_error = 60 } }
    store(n, "a")
    store(n, "b")
    expire(n, "b")
    local values, errs, sources = n:run [[
      cache:set("new", "newer", 60)
      return cache:fetch_many({ "a", "b", "c", "new" }, 60, function(keys)
        return { a = "newer" }, { b = "the database is down", c = "the database is down" }
      end)
    ]]
    assert.same({ a = "newer", b = "old", new = "newer" }, values)
    assert.same({ c = "the database is down" }, errs)
    assert.equal("fn", sources.a)
    assert.equal("stale", sources.b)
    assert.is_nil(sources.c)
    values, errs, sources = n:run [[
      return cache:fetch_many({ "b", "none" }, 60, function() error("the database is down", 0) end)
    ]]
    assert.same({ b = "old" }, values)
    assert.same({ b = "stale" }, sources)
    assert.equal("the database is down", errs.none:match "the database is down")
    assert.equal(2, n:stats().stale_served)
  end)

  it("goes for 'there is no such thing' and for tables as for any value", function()
    local n = node.start { options = { stale_if_error = 60, negative_cache_ttl = TTL } }
    n:run [[cache:fetch("none", 1, function() return nil end)]]
    expire(n, "none")
    local value, err, source = n:run(FAIL, "none", "return")
    assert.is_nil(value)
    assert.is_nil(err)
    assert.equal("stale", source)
    n:run([[cache:set("table", { list = { 1, 2, "x" } }, ...)]], TTL)
    expire(n, "table")
    value, err, source = n:run(FAIL, "table", "return")
    assert.same({ list = { 1, 2, "x" } }, value, err)
    assert.equal("stale", source)
  end)

  it("shows in peek, and get finds nothing", function()
    local n = node.start { options = { stale_if_error = 60 } }
    n:run [[cache:set("fresh", 1, 60)]]
    assert.is_false(n:run [[return cache:peek("fresh").stale]])
    store(n, "k", "t")
    expire(n, "k")
    local info = n:run [[return cache:peek "k"]]
    assert.same({ ttl = 0, stale = true, negative = false, tags = { "t" }, size = 3, source = "l1" }, info)
    assert.is_nil((n:run [[return cache:get "k"]]))
    assert.is_false((n:run [[return cache:touch("k", 60)]]))
    assert.equal("none", (n:run [[return cache:update("k", 60, function(old) return old or "none" end)]]))
  end)

  it("is told in the log, once for all, without the key", function()
    local n = node.start { options = { stale_if_error = 60 } }
    store(n, "a secret key")
    expire(n, "a secret key")
    for _ = 1, 5 do
      assert_stale(n, "a secret key", "return")
    end
    local lines = n.nginx:log_lines { warn = true }
    assert.is_true(#lines >= 1 and #lines <= 2, #lines) -- one of each worker
    for _, line in ipairs(lines) do
      assert.matches("fn failed, a value that has expired was served: the database is down", line, 1, true)
      assert.not_matches("secret key", line)
    end
  end)
end)

describe("stale_if_error with Redis", function()
  it("keeps the value in Redis for ttl and that time, and on every write", function()
    local redis = helper.redis()
    local n = node.start { options = { stale_if_error = 100, redis = node.patient(redis) } }
    local function left(key)
      return redis:command("PTTL", redis:command("KEYS", "*:v:" .. key)[1]) / 1000
    end
    n:run [[
      cache:fetch("fetch", 50, load, "t")
      assert(cache:set("set", 1, 50, "t"))
      assert(cache:update("update", 50, function() return 1 end, "t"))
      cache:fetch("opts", 50, load, nil, { stale_if_error = 10 })
      cache:fetch("none", 50, load, nil, { stale_if_error = 0 })
    ]]
    for key, seconds in pairs { fetch = 150, set = 150, update = 150, opts = 60, none = 50 } do
      assert.is_true(left(key) > seconds - 30 and left(key) <= seconds, key .. " " .. left(key))
    end
    local tag = redis:command("PTTL", redis:command("KEYS", "*:t:t")[1]) / 1000
    assert.is_true(tag > left "fetch" + 1800)
    assert.is_true(n:run [[return cache:touch("set", 500)]])
    assert.is_true(left "set" > 570 and left "set" <= 600)
    assert.is_true(redis:command("PTTL", redis:command("KEYS", "*:t:t")[1]) / 1000 > 600 + 1800)
    assert.is_true(n:run [[return cache:touch("none", 500)]])
    assert.is_true(left "none" > 470 and left "none" <= 500)
  end)

  it("is no value to those who read Redis until fn fails there, too", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { stale_if_error = 60, redis = node.patient(redis) } })
    store(a, "k", "t")
    helper.wait_until(function() -- by the clock of Redis, which touch goes by
      local left = redis:command("PTTL", redis:command("KEYS", "*:v:k")[1])
      return left < 60000 - 50
    end)
    assert.is_nil((b:run [[return cache:get "k"]]))
    assert.is_false((b:run [[return cache:touch("k", 60)]]))
    assert_stale(b, "k", "return") -- from Redis
    assert_stale(b, "k", "return") -- which L1 has by now
    assert.is_true(b:run [[return cache:peek("k").stale]])
    assert.is_true(a:run [[return cache:invalidate_tags "t"]])
    helper.wait_until(function() return b:run(FAIL, "k", "return") == nil end)
    assert_error(a, "k", "return")
    store(a, "k", "t")
    expire(b, "k")
    assert.equal("new", (b:run [[return cache:update("k", 60, function(old) return old or "new" end)]]))
    assert.equal("new", (a:run [[return cache:get "k"]]))
  end)

  it("goes on from L1 when Redis is down", function()
    local redis = helper.redis()
    local n = node.start({ options = { stale_if_error = 60, redis = node.patient(redis), l1_ttl = 0.2 } }):wait_subscribed()
    store(n, "k")
    n:run([[cache:fetch("lasts", 60, function() return "old" end)]])
    expire(n, "k")
    redis:stop()
    helper.wait_until(function() return n:run [[return cache:stats().redis]] == "down" end)
    assert_stale(n, "k", "return")
    expire(n, "lasts") -- l1_ttl is over, and nobody has it any more
    assert_stale(n, "lasts", "raise")
    assert.is_false((n:run [[return cache:delete "k"]]) or false)
    assert_error(n, "k", "return")
  end)

  it("serves nothing that a lost message could have invalidated for longer than freshness_bound", function()
    local redis = helper.redis()
    local relay = helper.relay(redis)
    local a = node.start { options = { stale_if_error = 60, redis = node.patient(redis), freshness_bound = 0.5 } }
    local b = node.start {
      options = { stale_if_error = 60, redis = node.patient(relay), namespace = a.namespace, freshness_bound = 0.5 },
    }
    node.wait_linked { a, b }
    store(b, "k", "t")
    expire(b, "k")
    assert_stale(b, "k", "return")
    relay:black_hole("down", "pubsub") -- b hears nothing, and asks Redis as ever
    assert.is_true(a:run [[return cache:invalidate_tags "t"]])
    helper.wait_until(function() return b:run(FAIL, "k", "return") == nil end, { timeout = 5 })
    relay:heal()
  end)
end)

describe("on_lock_timeout", function()
  -- A second handle in each worker that waits for a short time only.
  local function busy_node(namespace)
    local options = { namespace = namespace, stale_if_error = 60, wait_timeout = 0.3 }
    local n = node.start {
      options = { namespace = namespace, stale_if_error = 60 },
      init = ("require('spec.nginx.app').hasty = assert(require('gorge').new(%s))"):format(node.literal(options)),
    }
    store(n, "k")
    expire(n, "k")
    n:run [[background("filler", function() return cache:fetch("k", 60, load_at_gate) end)]]
    n:wait_count "at loader"
    return n
  end

  it("= 'stale' serves what has expired, else runs fn", function()
    local n = busy_node(helper.unique_name "patience")
    local WAIT = [[return hasty:fetch("k", 1, load, nil, { on_lock_timeout = "stale" })]]
    for id = 0, 1 do
      local worker = n:worker(id)
      local value, err, source = worker:run(WAIT)
      assert.equal("old", value, err)
      assert.equal("stale", source)
      worker:close()
    end
    assert.equal(0, n:counted "loads")
    n:run [[cache:delete "k"; background("other", function() return cache:fetch("k", 60, load_at_gate) end)]]
    n:wait_count("at loader", 2)
    local value, err, source = n:run(WAIT)
    assert.equal("value of k", value, err)
    assert.equal("fn", source)
    n:run [[open "loader"]]
  end)

  it("= 'stale' is for those who wait in the same worker, too", function()
    local n = busy_node(helper.unique_name "patience")
    local value, err, source = n:run [[
      ngx.thread.spawn(function() return hasty:fetch("k", 1, load_at_gate) end)
      local threads = {}
      for i = 1, 3 do
        threads[i] = ngx.thread.spawn(function() return hasty:fetch("k", 1, load, nil, { on_lock_timeout = "stale" }) end)
      end
      local ok, value, err, source = ngx.thread.wait(threads[2])
      open "loader"
      return value, err, source
    ]]
    assert.equal("old", value, err)
    assert.equal("stale", source)
  end)

  it("= 'stale' is for fetch_many, too", function()
    local n = busy_node(helper.unique_name "patience")
    store(n, "other")
    local values, errs, sources = n:run [[
      return hasty:fetch_many({ "k", "other" }, 60, function(keys)
        local out = {}
        for _, key in ipairs(keys) do
          out[key] = load(key)
        end
        return out
      end, nil, { on_lock_timeout = "stale" })
    ]]
    assert.equal("old", values.k, errs.k)
    assert.equal("stale", sources.k)
    n:run [[open "loader"]]
  end)

  it("= 'error' returns the error when there is nothing else, and 'run' runs fn", function()
    local n = busy_node(helper.unique_name "patience")
    local CALL = [[
      local how, stale = ...
      return hasty:fetch("k", 1, load, nil, { on_lock_timeout = how, stale_if_error = stale })
    ]]
    local value, err, source = n:run(CALL, "run", 60)
    assert.equal("value of k", value, err)
    assert.equal("fn", source)
    value, err, source = n:run(CALL, "error", 60)
    assert.equal("old", value, err)
    assert.equal("stale", source)
    value, err = n:run(CALL, "error", 0)
    assert.is_nil(value)
    assert.matches("waited 0.3 s for somebody else's fill", err, 1, true)
    n:run [[open "loader"]]
  end)
end)
