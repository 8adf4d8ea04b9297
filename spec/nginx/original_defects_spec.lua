-- SPDX-License-Identifier: MIT
-- What a cache of two layers easily gets wrong, one spec each: two nodes of two workers, a real Redis, a relay before each node.
-- One more, a background refresh that never reaches L2, has its specs in refresh_spec.lua ("... and refreshes L1 and Redis").
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local SERVER = [[
  location = /led { content_by_lua_block {
    local app = require "spec.nginx.app"
    ngx.print(app.cache:fetch(ngx.var.arg_key, 60, app.hang_once))
  } }
]]

--- A loader that waits at the gate `name`, and then returns, or fails.
local GATED = [[
  local key, name, value, failure, lock_ttl = ...
  return cache:fetch(key, 60, function()
    count("loads of " .. name)
    gate(name)
    if failure then
      return nil, failure
    end
    return value
  end, nil, { lock_ttl = lock_ttl })
]]

describe("two nodes", function()
  local redis, a, b, relay_a, relay_b
  local key, tag
  local names = 0

  setup(function()
    redis = helper.redis()
    relay_a, relay_b = helper.relay(redis), helper.relay(redis)
    local options = { namespace = helper.unique_name "defects", circuit_breaker = { max_failures = 3, timeout = 1 } }
    local function start(relay)
      options.redis = node.patient(relay)
      return node.start { options = options, http = "lua_check_client_abort on;", server = SERVER }
    end
    a, b = start(relay_a), start(relay_b)
    node.wait_linked { a, b }
  end)

  before_each(function()
    names = names + 1
    key, tag = "key " .. names, "tag " .. names
  end)

  -- a whole list of values may begin with nil
  local function get(n, k)
    return (n:run([[return (cache:get(...))]], k or key))
  end

  local function set(n, value, ttl, t, k)
    assert.is_true((n:run([[local key, value, ttl, tag = ... return cache:set(key, value, ttl, tag)]], k or key, value, ttl or 60, t)))
  end

  local function see(n, value, k)
    helper.wait_until(function() return get(n, k) == value end, { message = "not seen: " .. tostring(value) })
  end

  local function loads()
    return a:counted "loads" + b:counted "loads"
  end

  --- A fill of `a` that has begun; returns a function that lets it end, and returns what its caller got.
  local function begun_fill(value, failure, lock_ttl)
    local gate = "gate of " .. key
    local batch = a:start(1, GATED, key, gate, value, failure, lock_ttl)
    a:wait_count("at " .. gate)
    return function()
      a:run([[open(...)]], gate)
      return batch:results(10)[1]
    end
  end

  --- Each worker of both nodes is connected to Redis again, and nothing waits for it.
  local function wait_healed()
    for _, n in ipairs { a, b } do
      for id = 0, 1 do
        local worker = n:worker(id)
        helper.wait_until(function()
          worker:run [[return cache:get("healed?" .. math.random())]]
          return worker:run [[local s = cache:stats() return s.redis == "ready" and s.subscribed and s.queued == 0 and s.breaker == "closed"]]
        end, { timeout = 15, message = "a worker does not find back to Redis" })
        worker:close()
      end
    end
  end

  it("keep nothing of a fill that lost its lease: neither L1 nor Redis", function()
    local finish = begun_fill "old"
    assert.is_true((b:run([[return cache:delete(...)]], key)))
    assert.equal("old", finish()[1])
    assert.is_nil(a:run([[return cache:peek(...)]], key))
    assert.is_nil(get(a))
    assert.is_nil(get(b))
  end)

  it("keep a value that was set during a fill, not the older result of the fill", function()
    local finish = begun_fill "old"
    set(b, "new")
    assert.equal("old", finish()[1])
    for _, n in ipairs { a, b } do
      for id = 0, 1 do
        assert.equal("new", (n:worker(id):run([[return (cache:get(...))]], key)))
      end
    end
  end)

  it("run fn when Redis answers with an error, and return no error", function()
    local namespace = a.namespace
    local epoch = redis:command("GET", ("{%d:%s:0}:e"):format(#namespace, namespace))
    redis:command("LPUSH", ("{%d:%s:0}:%s:v:%s"):format(#namespace, namespace, epoch, key), "no value")
    local value, err = a:run([[return cache:fetch(..., 60, load)]], key)
    assert.same({ "value of " .. key }, { value, err })
  end)

  it("return a value that Redis could not store, and keep it in L1", function()
    redis:command("CONFIG", "SET", "maxmemory", "1")
    local before = loads()
    local value, err, source = a:run([[return cache:fetch(..., 60, load)]], key)
    assert.same({ "value of " .. key, nil, "fn" }, { value, err, source })
    value, err, source = a:run([[return cache:fetch(..., 60, load)]], key)
    redis:command("CONFIG", "SET", "maxmemory", "0")
    assert.same({ "value of " .. key }, { value, err })
    assert.is_true(source == "l0" or source == "l1", source)
    assert.equal(before + 1, loads())
  end)

  it("run fn once for all callers of a node while the breaker is open", function()
    relay_a:cut()
    helper.wait_until(function()
      a:run [[return cache:fetch("open" .. math.random(), 60, load)]]
      return a:stats().breaker == "open"
    end)
    local before = loads()
    local callers = a:start(60, [[
      return cache:fetch(..., 60, function(key)
        ngx.sleep(0.1)
        return load(key)
      end)
    ]], key)
    for _, result in ipairs(callers:results()) do
      assert.same({ "value of " .. key }, { result[1], result[2] })
    end
    assert.equal(before + 1, loads())
    relay_a:heal()
    wait_healed()
  end)

  it("lose no delete that was made while Redis was away", function()
    set(a, "old")
    see(b, "old")
    relay_a:cut()
    helper.wait_until(function() return a:run [[return cache:stats().redis]] ~= "ready" end)
    local ok, err = a:run([[return cache:delete(...)]], key)
    assert.is_nil(ok)
    assert.matches("done on this host, but not in Redis", err)
    assert.is_nil(get(a))
    relay_a:heal()
    see(b, nil)
    wait_healed()
    assert.is_nil(get(a))
  end)

  it("go on when a restarted Redis knows no script, or has forgotten them", function()
    redis:kill()
    redis:up()
    wait_healed()
    for _ = 1, 2 do
      set(a, "v")
      see(b, "v")
      assert.equal("value of other " .. key, (a:run([[return cache:fetch(..., 60, load)]], "other " .. key)))
      assert.is_true((b:run([[return cache:delete(...)]], key)))
      assert.is_true((b:run([[return cache:invalidate_tags "t"]])))
      assert.equal("w", (a:run([[return cache:update(..., 60, function() return "w" end)]], key)))
      redis:command("SCRIPT", "FLUSH")
    end
  end)

  it("wait for a loader that is merely slow, however often its lease would have ended", function()
    local before, lock_ttl = loads(), 1 -- renewed three times as often, by a thread that may stand still in between
    local finish = begun_fill("slow", false, lock_ttl)
    local since = helper.now()
    local others = {}
    for i, n in ipairs { a, b } do
      others[i] = n:start(10, [[
        local key, lock_ttl = ...
        return cache:fetch(key, 60, load, nil, { lock_ttl = lock_ttl })
      ]], key, lock_ttl)
    end
    helper.wait_until(function() return helper.now() - since > 1.5 * lock_ttl end)
    assert.equal("slow", finish()[1])
    for _, batch in ipairs(others) do
      for _, result in ipairs(batch:results()) do
        assert.same({ "slow" }, { result[1], result[2] })
      end
    end
    assert.equal(before, loads())
  end)

  it("free no lock but their own", function()
    local finish = begun_fill(nil, "the database is down")
    assert.is_true((b:run([[return cache:delete(...)]], key))) -- ends a's lease
    local gate = "second gate of " .. key
    local second = b:start(1, GATED, key, gate, "second")
    b:wait_count("at " .. gate)
    assert.equal("the database is down", finish()[2]) -- a gives back the lease that it had
    local third = a:start(1, GATED, key, gate, "third")
    helper.wait_until(function() return a:run [[return cache:stats().fills_running]] == 1 end)
    helper.sleep(0.15) -- it would have begun by now
    assert.equal(0, a:counted("loads of " .. gate))
    b:run([[open(...)]], gate)
    assert.equal("second", second:results()[1][1])
    assert.equal("second", third:results()[1][1])
    assert.equal(1, a:counted("loads of " .. gate) + b:counted("loads of " .. gate))
  end)

  it("keep a value for a fraction of a second, in each layer", function()
    local set_at
    helper.wait_until(function() -- a machine may be too busy to look in time
      set(a, "v", 0.6)
      set_at = helper.now()
      return get(a) == "v" and get(b) == "v"
    end)
    helper.wait_until(function() return helper.now() > set_at + 0.7 end)
    assert.is_nil(get(a))
    assert.is_nil(get(b))
  end)

  it("know the tag of a value although another one with that tag was short-lived", function()
    set(a, "long", 600, tag)
    set(a, "short", 0.1, tag, "short " .. key)
    helper.sleep(0.3)
    assert.equal("long", get(b))
    assert.is_true((a:run([[return cache:invalidate_tags(...)]], tag)))
    assert.is_nil(get(a))
    see(b, nil)
  end)

  it("forget by tag that there is no such thing", function()
    local code = [[
      local key, tag = ...
      return cache:fetch(key, 60, function() count("asked for " .. key) end, tag)
    ]]
    for _ = 1, 2 do
      local value, err = a:run(code, key, tag)
      assert.same({}, { value, err })
    end
    assert.equal(1, a:counted("asked for " .. key))
    assert.is_true((b:run([[return cache:invalidate_tags(...)]], tag)))
    helper.wait_until(function()
      a:run(code, key, tag)
      return a:counted("asked for " .. key) == 2
    end)
  end)

  it("invalidate a tag of 9,000 values at once", function()
    local writer, reader = node.pair(redis, { options = { redis = node.patient(redis) } })
    assert.equal(9000, (writer:run([[
      local key, tag = ...
      local threads, n = {}, 0
      for from = 1, 60 do
        threads[from] = ngx.thread.spawn(function()
          for i = from, 9000, 60 do
            local ok = cache:set(key .. " " .. i, i, 600, tag)
            n = n + (ok and 1 or 0)
          end
        end)
      end
      for _, thread in ipairs(threads) do
        ngx.thread.wait(thread)
      end
      return n
    ]], key, tag)))
    for _, i in ipairs { 1, 4500, 9000 } do
      assert.equal(i, get(reader, key .. " " .. i))
    end
    assert.is_true((writer:run([[return cache:invalidate_tags(...)]], tag)))
    for _, i in ipairs { 1, 8000, 9000 } do
      assert.is_nil(get(writer, key .. " " .. i))
      see(reader, nil, key .. " " .. i)
    end
  end)

  it("tell a key from a tag of the same name", function()
    for _, name in ipairs { tag, "t:" .. tag, "tag:" .. tag } do
      set(a, "untagged", 60, nil, name)
      set(a, "tagged", 60, name)
      assert.equal("tagged", get(b))
      assert.is_true((a:run([[return cache:delete(...)]], name)))
      assert.equal("tagged", get(a))
      set(a, "untagged", 60, nil, name)
      assert.is_true((a:run([[return cache:invalidate_tags(...)]], name)))
      see(b, nil)
      assert.equal("untagged", get(a, name))
      assert.equal("untagged", get(b, name))
    end
  end)

  it("do not evict what they stored themselves when their own message comes back", function()
    local heard = a:stats().messages
    set(a, "v")
    helper.wait_until(function() return a:stats().messages > heard end)
    assert.is_truthy(a:run([[return cache:peek(...)]], key))
    assert.equal("v", get(a))
  end)

  it("answer the followers of a leader whose client has gone away", function()
    local leader = a.nginx:start_requests { "/led?key=" .. key:gsub(" ", "_") }
    local name = key:gsub(" ", "_")
    a:wait_count "at hang"
    local followers = { a:start(20, [[return cache:fetch(..., 60, load)]], name), b:start(5, [[return cache:fetch(..., 60, load)]], name) }
    helper.wait_until(function() return b:run [[return cache:stats().fills_running]] == 1 end)
    leader:close()
    for _, batch in ipairs(followers) do
      for _, result in ipairs(batch:results(10)) do
        assert.same({ "value of " .. name }, { result[1], result[2] })
      end
    end
  end)

  it("make up for messages that were lost", function()
    set(a, "old")
    see(b, "old")
    relay_b:black_hole("down", "pubsub")
    set(a, "new")
    helper.sleep(0.1) -- what is said until now is lost
    relay_b:heal()
    see(b, "new")
    wait_healed()
  end)
end)
