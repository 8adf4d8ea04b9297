-- SPDX-License-Identifier: MIT
-- The command line, writing: through the workers of a namespace with Redis, by itself in one without.
local gorge = require "spec.cli.program"
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

local function fill(n, count)
  n:run([[for i = 1, ... do assert(cache:set("key:" .. i, "value " .. i, 600, { "all", i % 2 == 0 and "even" or "odd" })) end]], count)
end

local function source(n, key)
  return (select(3, n:run([[return cache:get(...)]], key)))
end

describe("with Redis,", function()
  local redis, a, b, zone

  setup(function()
    redis = helper.redis()
    local name = helper.unique_name "write"
    -- Two nodes of one namespace; their zones are told apart by name.
    a = node.start { options = { namespace = name, zone = name .. "-a", redis = redis.url, l1_size = "4m", freshness_bound = 60 } }
    b = node.start { options = { namespace = name, zone = name .. "-b", redis = redis.url, l1_size = "4m", freshness_bound = 60 } }
    node.wait_linked { a, b }
    zone = name .. "-a"
    fill(a, 20)
    b:run [[for i = 1, 20 do assert(cache:get("key:" .. i)) end]]
  end)

  local function gone(key)
    helper.wait_until(function() return b:run([[return cache:peek(...) == nil]], key) end, { message = key .. " is still there on the other node" })
    assert.is_true(a:run([[return cache:peek(...) == nil]], key))
    assert.is_nil((a:run([[return cache:get(...)]], key)))
  end

  it("delete forgets keys on all nodes and in Redis", function()
    local before = a:stats().deletes
    local said = gorge.run { "delete", zone, "key:1", "key:2" }
    assert.same({ status = 0, out = "key:1: deleted\nkey:2: deleted\n", err = "" }, said)
    gone "key:1"
    gone "key:2"
    assert.equal(before + 2, a:stats().deletes)
    assert.equal("value 3", (b:run [[return cache:get "key:3"]]))
    local told, status = gorge.json { "delete", zone, "key:3", "never seen" }
    assert.equal(0, status)
    assert.same({ ok = true, zone = zone, namespace = a.namespace,
      results = { { name = "key:3", ok = true }, { name = "never seen", ok = true } } }, told)
    gone "key:3"
  end)

  it("keys of any bytes", function()
    a:run [[cache:set("a\0b\n\255", 1, 600)]]
    assert.equal(0, gorge.run({ "delete", zone, "-e", "a\\x00b\\x0a\\xff" }).status)
    assert.is_true(a:run [[return cache:get "a\0b\n\255" == nil]])
    local long = ("k"):rep(8192)
    a:run [[cache:set(("k"):rep(8192), 1, 600)]]
    assert.equal(0, gorge.run({ "delete", zone, long }).status)
    assert.is_true(a:run [[return cache:get(("k"):rep(8192)) == nil]])
    local said = gorge.run { "delete", zone, long .. "k" }
    assert.equal(2, said.status)
    assert.matches("1 to 8192 bytes, not 8193", said.err, 1, true)
  end)

  it("invalidate forgets what carries the tag", function()
    assert.same({ status = 0, out = "even: invalidated\n", err = "" }, gorge.run { "invalidate", zone, "even" })
    gone "key:4"
    gone "key:20"
    assert.equal("value 5", (a:run [[return cache:get "key:5"]]))
    assert.equal("value 5", (b:run [[return cache:get "key:5"]]))
  end)

  it("clear forgets the namespace", function()
    local said = gorge.run { "clear", zone }
    assert.same({ status = 0, out = "namespace " .. a.namespace .. ": cleared\n", err = "" }, said)
    gone "key:5"
    gone "key:19"
    assert.equal(1, a:stats().clears)
    fill(a, 20)
    helper.wait_until(function() return source(b, "key:1") ~= nil end)
  end)

  it("many at once are all carried out", function()
    fill(a, 20)
    local running = {}
    for i = 1, 6 do
      running[i] = gorge.start { "delete", zone, "key:" .. i, "key:" .. i + 6, "--timeout", "60" }
    end
    for i, one in ipairs(running) do
      assert.equal(0, one:wait(60), one.text())
      gone("key:" .. i)
      gone("key:" .. i + 6)
    end
  end)

  it("a killed worker, a reload and a stopped worker are no obstacle", function()
    fill(a, 4)
    process.kill(a:worker_pids()[1], process.SIGKILL)
    assert.equal(0, gorge.run({ "delete", zone, "key:1" }).status)
    helper.wait_until(function() return #a:worker_pids() == 2 end)
    a.nginx:reload()
    a.nginx:wait_drained() -- an old worker would take the miss and go
    a:run [[cache:get "a miss, to begin with"]]
    assert.equal(0, gorge.run({ "delete", zone, "key:2" }).status)
    gone "key:1"
    gone "key:2"
  end)

  it("when nobody takes it, it says so after the timeout, and nothing stays behind", function()
    a.nginx:wait_drained()
    for id = 0, 1 do -- a worker listens from its first miss on
      local worker = a:worker(id)
      worker:run [[return cache:get "never stored"]]
      worker:close()
    end
    fill(a, 2)
    local pids = a:worker_pids()
    for _, pid in ipairs(pids) do
      process.kill(pid, process.SIGSTOP)
    end
    finally(function()
      for _, pid in ipairs(pids) do
        process.kill(pid, process.SIGCONT)
      end
    end)
    for _ = 1, 3 do -- more than there are slots
      local said = gorge.run { "delete", zone, "key:1", "--timeout", "0.3" }
      assert.equal(3, said.status)
      assert.matches("^gorge: no worker took it within 0.3 s: key:1\n$", said.err)
    end
    for _, pid in ipairs(pids) do
      process.kill(pid, process.SIGCONT)
    end
    assert.equal(0, gorge.run({ "delete", zone, "key:2" }).status)
    assert.equal("value 1", (a:run [[return cache:get "key:1"]]))
    local fresh = node.start { options = { namespace = helper.unique_name "fresh", redis = redis.url, l1_size = "2m" } }
    local said = gorge.run { "clear", fresh.namespace }
    assert.equal(3, said.status)
    assert.matches("no worker of the zone listens", said.err, 1, true)
    fresh.nginx:quit()
    for _, line in ipairs(a.nginx:log_lines()) do
      assert.matches("exited on signal 9", line, 1, true) -- the worker that was killed
    end
  end)

  -- The last one: each control thread does without Redis until its own connection is back.
  it("without Redis the host is done, and Redis is told later", function()
    fill(a, 10)
    b:run [[for i = 1, 10 do assert(cache:get("key:" .. i)) end]]
    redis:pause()
    finally(function() redis:resume() end)
    local told, status = gorge.json { "delete", zone, "key:1" }
    assert.same({ 1, false }, { status, told.ok })
    local problem = told.results[1].error
    assert.is_true(problem:find "^timed out" ~= nil or problem:find "^Redis cannot be reached" ~= nil, problem)
    assert.is_true(a:run [[return cache:peek "key:1" == nil]])
    local said = gorge.run { "invalidate", zone, "even" }
    assert.equal(1, said.status)
    assert.matches("even: invalidated on this host, but not in Redis, which is told later: ", said.out, 1, true)
    assert.is_true(a:stats().queued >= 1)
    redis:resume()
    helper.wait_until(function() return a:stats().queued == 0 end, { message = "nothing was replayed" })
    gone "key:1"
    gone "key:2"
  end)
end)

describe("without Redis,", function()
  it("it writes by itself, as a worker for a moment", function()
    local n = node.start { options = { l1_size = helper.ROOMY } }
    local zone = n.namespace
    fill(n, 10)
    n:run [[for i = 1, 10 do cache:get("key:" .. i) cache:get("key:" .. i) end]] -- L0, too
    assert.same({ status = 0, out = "key:1: deleted\n", err = "" }, gorge.run { "delete", zone, "key:1" })
    assert.is_nil((n:run [[return cache:get "key:1"]]))
    assert.equal("value 2", (n:run [[return cache:get "key:2"]]))
    assert.equal(0, gorge.run({ "invalidate", zone, "even", "more" }).status)
    assert.is_nil((n:run [[return cache:get "key:2"]]))
    assert.equal("value 3", (n:run [[return cache:get "key:3"]]))
    assert.equal(0, gorge.run({ "clear", zone }).status)
    assert.is_nil((n:run [[return cache:get "key:3"]]))
    local stats = n:stats()
    assert.same({ 1, 2, 1, 0 }, { stats.deletes, stats.invalidated_tags, stats.clears, stats.worker_deaths })
    local said = gorge.run { "delete", "./copy", "k" }
    assert.equal(2, said.status)
    assert.matches("a copy of a zone has no workers", said.err, 1, true)
    n:assert_clean_log()
  end)
end)
