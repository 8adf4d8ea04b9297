-- SPDX-License-Identifier: MIT
-- Redis away in every way: each fetch answers, nothing is an error because of Redis, and the cache heals by itself.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

-- timeout (0.5 s) for one command, or connect_timeout (1 s), and what this machine adds
local BOUND = 1.5
-- the longest pause between two attempts to connect is 2 s
local HEALED = 4

--- Fetches a key that nobody has; returns the source.
local function fetch_cold(n)
  local key = helper.unique_name "cold"
  local since = helper.now()
  local value, err, source = n:run([[return cache:fetch(..., 60, load)]], key)
  assert.same({ "value of " .. key }, { value, err })
  local took = helper.now() - since
  assert.is_true(took < BOUND, ("a fetch took %.2f s"):format(took))
  return key, source, took
end

local function assert_l1_answers(n, key)
  for id = 0, 1 do
    local worker = n:worker(id)
    local value, err, source, took, turns = worker:run([[
      local turns, over = 0, false
      local others = ngx.thread.spawn(function()
        while not over do
          turns = turns + 1
          ngx.sleep(0)
        end
      end)
      local since, before = now(), turns
      local value, err, source = cache:fetch(..., 60, load)
      local took, during = now() - since, turns - before
      over = true
      ngx.thread.wait(others)
      return value, err, source, took, during
    ]], key)
    assert.same({ "value of " .. key }, { value, err })
    assert.is_true(source == "l1" or source == "l0", source)
    assert.equal(0, turns) -- it waited for nothing
    assert.is_true(took < BOUND, ("a hit took %.2f s"):format(took))
    worker:close()
  end
end

--- set, delete and invalidate_tags say that Redis could not be told, but are done on this host.
local function assert_writes_say_so(n)
  local since = helper.now()
  local ok, err = n:run [[return cache:set("written", "away", 60, "t")]]
  assert.is_nil(ok)
  assert.matches("^gorge: set: done on this host, but not in Redis: ", err)
  assert.equal("away", n:run [[return cache:get "written"]])
  ok, err = n:run [[return cache:invalidate_tags "t"]]
  assert.is_nil(ok)
  assert.matches("^gorge: invalidate_tags: done on this host, but not in Redis: ", err)
  assert.is_nil(n:run [[return cache:peek "written"]])
  n:run [[return cache:set("written", "again", 60)]]
  ok, err = n:run [[return cache:delete "written"]]
  assert.is_nil(ok)
  assert.matches("^gorge: delete: done on this host, but not in Redis: ", err)
  assert.is_nil(n:run [[return cache:peek "written"]])
  assert.is_true(helper.now() - since < 6 * BOUND)
end

--- By itself: what one node fetches the other finds in Redis, and they hear one another.
local function assert_heals(a, b)
  helper.wait_until(function()
    local key, _ = fetch_cold(a)
    local _, _, source = b:run([[return cache:fetch(..., 60, load)]], key)
    return source == "l2"
  end, { timeout = HEALED, interval = 0.05, message = "the nodes do not share values" })
  -- each worker has a connection of its own
  for _, n in ipairs { a, b } do
    for id = 0, 1 do
      local worker = n:worker(id)
      helper.wait_until(function() return worker:run [[return cache:set("heard", 0, 60)]] end, { timeout = HEALED })
      assert.equal("ready", worker:run [[return cache:stats().redis]])
      worker:close()
    end
  end
  for i = 1, 5 do
    assert.equal(true, (a:run([[return cache:set("heard", ..., 60)]], i)))
    helper.wait_until(function() return b:run [[return cache:get "heard"]] == i end, { timeout = HEALED })
  end
  for _, n in ipairs { a, b } do
    assert.equal(0, n:stats().fills_running)
    n:assert_clean_log()
  end
end

describe("Redis that is not there at the start", function()
  it("costs nothing but L2, and is found when it comes", function()
    local redis = helper.redis()
    redis:kill()
    local a, b = node.pair(redis, { link = false })
    local key
    for _ = 1, 5 do
      local source
      key, source = fetch_cold(a)
      assert.equal("fn", source)
    end
    assert_l1_answers(a, key)
    assert_writes_say_so(a)
    assert.not_equal("ready", a:stats().redis)
    redis:up()
    assert_heals(a, b)
  end)
end)

describe("Redis that goes away", function()
  local redis, a, b, warm
  before_each(function()
    redis = helper.redis()
    a, b = node.pair(redis)
    warm = fetch_cold(a)
  end)

  local function while_away()
    for _ = 1, 3 do
      local key, source = fetch_cold(a)
      assert.equal("fn", source)
      assert_l1_answers(a, key)
    end
    assert_l1_answers(a, warm)
    assert_writes_say_so(a)
  end

  it("by SIGKILL and comes back empty", function()
    redis:kill()
    while_away()
    redis:up()
    assert_heals(a, b)
  end)

  it("by an orderly end and comes back empty", function()
    redis:down()
    while_away()
    redis:up()
    assert_heals(a, b)
  end)

  it("by standing still and goes on", function()
    redis:pause()
    while_away()
    redis:resume()
    assert_heals(a, b)
  end)

  it("by closing every connection, again and again", function()
    for _ = 1, 5 do
      redis:command("CLIENT", "KILL", "TYPE", "normal")
      redis:command("CLIENT", "KILL", "TYPE", "pubsub")
      fetch_cold(a)
      fetch_cold(b)
    end
    assert_heals(a, b)
  end)

  it("loses no request under load", function()
    local started, events = helper.now(), {
      { 0.4, function() redis:kill() end },
      { 0.9, function() redis:up() end },
      { 1.6, function() redis:pause() end },
      { 2.8, function() redis:resume() end },
      { 3.4, function() redis:command("CLIENT", "KILL", "TYPE", "normal") end },
    }
    local slowest, sent = 0, 0
    local responses = helper.http.load {
      concurrency = 16,
      request = function(i)
        sent = i
        return {
          port = i % 2 == 0 and a.nginx.port or b.nginx.port, uri = "/run", method = "POST",
          body = ([[
            local started = now()
            local value, err, source = cache:fetch("key %d", 0.2, load)
            local took = now() - started
            ngx.sleep(0.005)
            return value, err, source, took
          ]]):format(i % 40),
        }
      end,
      tick = function()
        local next_event = events[1]
        if next_event and helper.now() - started > next_event[1] then
          table.remove(events, 1)
          next_event[2]()
        end
        return helper.now() - started > 3.8 and sent > 1000
      end,
    }
    for _, response in ipairs(responses) do
      assert.equal(200, response.status or response.err)
      local took = response.body:match '%["value of key %d+",null,"%w+",([%d.e-]+)%]'
      assert(took, response.body)
      slowest = math.max(slowest, tonumber(took))
    end
    assert.is_true(#responses > 1000, #responses .. " responses")
    assert.is_true(slowest < BOUND, ("the slowest fetch took %.2f s"):format(slowest))
    assert_heals(a, b)
  end)
end)

describe("a node without Redis", function()
  it("is never held up by Redis for what L1 has", function()
    local redis = helper.redis()
    local a = node.pair(redis)
    a:run [[return cache:set("k", 1, 60)]]
    redis:pause()
    local cold = a:start(20, [[
      local since = now()
      local value, err = cache:fetch(tostring(math.random()), 60, load)
      return value, err, now() - since
    ]])
    local slowest, turns = a:run [[
      local slowest, turns, over = 0, 0, false
      local others = ngx.thread.spawn(function()
        while not over do
          turns = turns + 1
          ngx.sleep(0.001)
        end
      end)
      local during = 0
      for i = 1, 200 do
        local started, before = now(), turns
        assert(cache:fetch("k", 60, load) == 1)
        during = during + turns - before
        slowest = math.max(slowest, now() - started)
        ngx.sleep(0.001)
      end
      over = true
      ngx.thread.wait(others)
      assert(turns > 50)
      return slowest, during
    ]]
    assert.equal(0, turns) -- no hit waited for anything
    assert.is_true(slowest < 0.4, ("a hit took %.3f s"):format(slowest)) -- nor held the worker up for as long as a command may
    for _, result in ipairs(cold:results(5)) do
      assert.is_nil(result.err or result[2])
      assert.is_true(result[3] < BOUND, result[3])
    end
  end)

  it("opens the breaker when asked to, so that fetches stop waiting, and closes it again", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { circuit_breaker = { max_failures = 3, timeout = 1.5 } } })
    redis:pause()
    helper.wait_until(function()
      fetch_cold(a)
      return a:stats().breaker == "open"
    end)
    helper.wait_until(function() -- it may have let one call try in the meantime
      local _, err = a:run [[return cache:delete "k"]]
      return err:find "circuit breaker open"
    end, { message = "a call does not know of the breaker" })
    local fastest = 1
    for _ = 1, 3 do
      local _, _, took = fetch_cold(a)
      fastest = math.min(fastest, took)
    end
    assert.is_true(fastest < 0.2, ("%.2f s with an open breaker"):format(fastest)) -- each would take 0.5 s
    redis:resume()
    assert_heals(a, b)
    assert.equal("closed", a:stats().breaker)
  end)

  it("opens the breaker when Redis is slow, if told what slow is", function()
    local relay = helper.relay(helper.redis())
    local a = node.start { options = { redis = relay.url, circuit_breaker = { max_failures = 3, timeout = 0.3, slow_call = 0.15 } } }
    fetch_cold(a)
    assert.equal("closed", a:stats().breaker)
    relay:delay(0.1) -- there and back
    helper.wait_until(function()
      fetch_cold(a)
      return a:stats().breaker == "open"
    end)
    relay:delay(0)
    helper.wait_until(function()
      fetch_cold(a)
      return a:stats().breaker == "closed"
    end)
  end)
end)
