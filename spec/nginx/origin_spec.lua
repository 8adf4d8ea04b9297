-- SPDX-License-Identifier: MIT
-- The option origin over workers and nodes: a database is not overrun, whatever Redis does, and no worker takes a permit along.
local cjson = require "cjson"
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

local LIMIT = 3

-- A loader that keeps count of its runs on this host; they take some time, the first ones until the gate is open.
local WATCHED = [[
  local key, seconds = ...
  local value, err, source = cache:fetch(key, 60, function()
    count("running " .. counts:incr("running", 1, 0))
    gate "origin"
    ngx.sleep(seconds)
    counts:incr("running", -1)
    return "value of " .. key
  end)
  return value, err, source
]]

-- Requests for as many different keys at once: all of them are there when the first runs end.
local function start_many(n, count, seconds, prefix)
  local list, waits = {}, n:stats().origin_waits
  for i = 1, count do
    list[i] = n:start(1, WATCHED, prefix .. i, seconds)
  end
  helper.wait_until(function() return n:stats().origin_waits - waits == count - LIMIT end, { message = "not all wait" })
  n:run [[open "origin"]]
  return list
end

local function assert_bounded(n)
  assert.is_true(n:counted("running " .. LIMIT) > 0)
  assert.equal(0, n:counted("running " .. LIMIT + 1))
end

local function assert_loaded(list, prefix)
  for i, batch in ipairs(list) do
    local result = batch:results(20)[1]
    assert.same({ "value of " .. prefix .. i, nil, "fn" }, { result[1], result[2] or result.err, result[3] })
  end
end

describe("origin.max_concurrency", function()
  it("bounds the runs of a host over its workers", function()
    local n = node.start { options = { origin = { max_concurrency = LIMIT } } }
    assert_loaded(start_many(n, 40, 0.01, "k"), "k")
    assert_bounded(n)
    local stats = n:stats()
    assert.same({ 0, 0, 0, 40 }, { stats.origin_running, stats.origin_refused, stats.fills_running, stats.loads })
    n:assert_clean_log()
  end)

  it("wakes who waits in another worker", function()
    local n = node.start { options = { origin = { max_concurrency = 1 }, lock_sleep = 30 } } -- no look by itself
    for id = 0, 1 do
      n:worker(id):run [[background("own", function() return cache:fetch("first of " .. ngx.worker.id(), 60, load_at_gate) end)]]
    end
    n:wait_count "at loader"
    helper.wait_until(function() return n:stats().origin_waits == 1 end)
    n:run [[open "loader"]]
    n:wait_count("loads", 2)
    helper.wait_until(function() return n:stats().origin_running == 0 end)
  end)

  -- The herd: Redis goes away under both nodes, nothing is in L1, and everybody asks for something else.
  it("keeps an outage of Redis from becoming a herd on the database", function()
    local redis = helper.redis()
    local options = { origin = { max_concurrency = LIMIT }, circuit_breaker = { max_failures = 2, timeout = 60 }, disconnected_ttl = 0 }
    local nodes = { node.pair(redis, { options = options }) }
    redis:kill()
    for _, n in ipairs(nodes) do
      helper.wait_until(function()
        n:run [[return cache:get "anything"]]
        return n:stats().breaker == "open"
      end, { message = "the breaker did not open" })
    end
    local lists = {}
    for i, n in ipairs(nodes) do
      lists[i] = start_many(n, 60, 0.005, "herd ")
    end
    for i, n in ipairs(nodes) do
      assert_loaded(lists[i], "herd ")
      assert_bounded(n)
      assert.same({ 0, 0 }, { n:stats().origin_running, n:stats().fills_running })
    end
  end)

  it("gets the permit of a killed worker back", function()
    local n = node.start { options = { origin = { max_concurrency = 1 } } }
    local hanging = n:start(1, [[return cache:fetch("hanging", 60, function()
      counts:set("pid", ngx.worker.pid())
      gate "never"
    end)]])
    n:wait_count "at never"
    assert.equal(1, n:stats().origin_running)
    local waiting = n:start(20, [[return cache:fetch("waiting", 60, load)]])
    helper.wait_until(function() return n:stats().origin_waits >= 1 end)
    process.kill(n:counted "pid", process.SIGKILL)
    local answered = 0
    for _, result in ipairs(waiting:results(15)) do
      if not result.err then -- it was in the other worker
        assert.same({ "value of waiting", nil }, { result[1], result[2] })
        answered = answered + 1
      end
    end
    assert.is_true(answered > 0)
    assert.equal("value of after", (n:run [[return cache:fetch("after", 60, load)]]))
    helper.wait_until(function() return n:stats().origin_running == 0 end)
    hanging:close()
  end)

  it("gets the permit of a request back whose client goes away, and its place in the queue", function()
    local n = node.start { options = { origin = { max_concurrency = 1 } }, http = "lua_check_client_abort on;", workers = 1 }
    local gone = n:start(1, [[return cache:fetch("gone", 60, function() gate "never" end)]])
    n:wait_count "at never"
    local queued = n:start(1, [[return cache:fetch("queued", 60, function() count "ran for nobody" end)]])
    helper.wait_until(function() return n:stats().origin_waits == 1 end)
    local last = n:start(1, [[return cache:fetch("last", 60, load)]])
    helper.wait_until(function() return n:stats().origin_waits == 2 end)
    queued:close()
    helper.wait_until(function() return n:stats().fills_running == 2 end, { message = "it waits although nobody wants it" })
    gone:close()
    assert.equal("value of last", last:results()[1][1])
    assert.equal(0, n:counted "ran for nobody")
    helper.wait_until(function() return n:stats().origin_running == 0 and n:stats().fills_running == 0 end)
  end)

  it("gets the permit of a refresh back that took too long, while others are under way", function()
    local n = node.start { workers = 1, options = {
      origin = { max_concurrency = 2 }, stale_while_revalidate = true, stale_ttl = 59.99, refresh_timeout = 0.3,
    } }
    n:run [[
      for i = 1, 2000 do
        cache:set("k" .. i, "old", 60)
      end
      ngx.sleep(0.05)
      cache:fetch("k1", 60, function() count "hung" ngx.sleep(60) end)
      cache:fetch_many({ "k2" }, 60, function() count "hung" ngx.sleep(60) end)
    ]]
    n:wait_count("hung", 2)
    local key = 2
    helper.wait_until(function() -- refreshes that wait keep the timer in which all of them run
      key = key + 1
      n:run([[return cache:fetch("k" .. ..., 60, function() count "ran" return "new" end)]], key)
      return n:counted "ran" > 0
    end, { message = "no permit came back" })
    helper.wait_until(function() return n:stats().origin_running == 0 end)
  end)

  it("is not waited for where the phase cannot yield, and that is nobody else's error", function()
    local n = node.start { options = { origin = { max_concurrency = 1 } }, workers = 1, server = [[
      location = /phases {
        content_by_lua_block { ngx.print "done" }
        header_filter_by_lua_block { require("spec.nginx.phases").probe "header_filter" }
      }
    ]] }
    local slow = n:start(1, [[return cache:fetch("slow", 60, load_at_gate)]])
    n:wait_count "at loader"
    local id = helper.unique_name "probe"
    n.nginx:request { uri = "/phases", headers = { Probe = id, Code = ([[
      local value, err = cache:fetch("other", 60, load)
      local values, errs = cache:fetch_many({ "many" }, 60, load)
      return { value = value, err = err, many = errs.many }
    ]]):gsub("%s+", " ") } }
    local message = "would block: the phase 'header_filter' cannot yield"
    assert.same({ err = message, many = message }, cjson.decode(n:run([[return counts:get("result header_filter " .. ...)]], id)))
    assert.equal(0, n:stats().load_errors)
    n:run [[open "loader"]]
    assert.equal("value of slow", slow:results()[1][1])
    assert.equal("value of other", (n:run [[return cache:fetch("other", 60, load)]]))
    assert.equal(0, n:stats().fills_running)
  end)
end)

describe("origin.max_failures", function()
  it("opens for all workers, who serve what is past its end", function()
    local n = node.start { options = { origin = { max_failures = 3, timeout = 3600 }, stale_if_error = 60 } }
    n:run [[cache:fetch("old", 0.05, function() return "older" end)]]
    local workers = { n:worker(0), n:worker(1) }
    for _, worker in ipairs(workers) do -- each has a clock of its own
      helper.wait_until(function() return worker:run [[return cache:peek("old").stale]] end)
    end
    for i = 1, 3 do
      local _, err = workers[i % 2 + 1]:run([[return cache:fetch("k" .. ..., 60, function() return nil, "down" end)]], i)
      assert.equal("down", err)
    end
    for _, worker in ipairs(workers) do
      local value, err, source = worker:run [[return cache:fetch("old", 60, load)]]
      assert.same({ "older", nil, "stale" }, { value, err, source })
      value, err = worker:run [[return cache:fetch("never loaded", 60, load)]]
      assert.same({ nil, 'gorge: key "never loaded": fn is not run: the circuit breaker of the origin is open' }, { value, err })
    end
    assert.same({ "open", 1, 0 }, { n:stats().origin, n:stats().origin_opens, n:counted "loads" })
  end)

  it("lets one try over all workers, and closes for all when that one succeeds", function()
    local timeout = 1
    local n = node.start { options = { origin = { max_failures = 1, timeout = timeout } } }
    n:run [[cache:fetch("k", 60, function() return nil, "down" end)]]
    -- Everybody asks at once, again and again: one is let through each time that the timeout is over. A round that itself lasts so long may see two.
    local probes, quick = 0, false
    helper.wait_until(function()
      local before, since = n:counted "probes", helper.now()
      n:start(20, [[
        return cache:fetch("probed " .. ngx.worker.id() .. math.random(), 60, function() count "probes" ngx.sleep(0.05) return nil, "still down" end)
      ]]):results()
      probes, quick = n:counted "probes" - before, helper.now() - since < timeout
      return probes > 0 and quick
    end, { timeout = 30, message = "nobody was let through" })
    assert.equal(1, probes)
    helper.wait_until(function() return (n:run [[return cache:fetch("back", 60, load)]]) == "value of back" end)
    assert.equal("closed", n:stats().origin)
    for id = 0, 1 do
      assert.equal("value of next " .. id, (n:worker(id):run([[return cache:fetch("next " .. ..., 60, load)]], id)))
    end
  end)

  it("is told of by on_event and shown by the status page", function()
    local n = node.start {
      options = { origin = { max_failures = 1, timeout = 60, max_concurrency = 5 } },
      init = [[
        local app = require "spec.nginx.app"
        app.told = assert(app.gorge.new {
          namespace = "told", origin = { max_failures = 1, timeout = 0.2 }, on_event = function(name) app.count("told " .. name) end,
        })
      ]],
      server = [[location = /status { content_by_lua_block { require("gorge.status").serve(require("spec.nginx.app").cache) } }]],
    }
    n:run [[cache:fetch("k", 60, function() return nil, "down" end)]]
    local told = cjson.decode(n.nginx:get("/status?format=json").body).caches[1]
    assert.same({ true, 5, "open", 0, 1 }, { told.has_origin, told.origin_max, told.origin, told.origin_running, told.origin_opens })
    n:run [[told:fetch("k", 60, function() return nil, "down" end)]]
    n:wait_count "told origin_open"
    helper.wait_until(function()
      n:run [[told:fetch("k", 60, load)]]
      return n:counted "told origin_closed" == 1
    end)
    assert.equal(1, n:counted "told origin_open")
  end)
end)
