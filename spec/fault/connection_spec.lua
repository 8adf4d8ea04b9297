-- SPDX-License-Identifier: MIT
-- Connections to Redis that break in the middle, go quiet, carry rubbish, or are closed over and over: each fetch is answered in its time and without an
-- error, log and stats name the cause, and all is well again by itself.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

-- timeout of a command, or of connecting, and what this machine adds
local TIMEOUT, CONNECT_TIMEOUT = 0.3, 0.4
local BOUND = CONNECT_TIMEOUT + 1
-- the longest pause between two attempts to connect is 2 s
local HEALED = 6

-- make soak closes a thousand connections
local RECONNECTS = tonumber(os.getenv "GORGE_SOAK_RECONNECTS" or 20)

--- Fetches what is not in L1.
local function fetch(n, key, cause)
  local since = helper.now()
  local value, err, source = n:run([[return cache:fetch(..., 60, load)]], key)
  local took = helper.now() - since
  assert.is_nil(err, cause)
  assert.is_truthy(value, cause)
  assert.is_true(took < BOUND, ("%s: a fetch took %.2f s"):format(cause, took))
  return value, source
end

describe("a connection to Redis", function()
  local redis, relay, near, far

  setup(function()
    redis = helper.redis()
    relay = helper.relay(redis)
    local namespace = helper.unique_name "connection"
    near = node.start { options = { namespace = namespace, redis = redis.url } }
    far = node.start {
      log_level = "info",
      options = {
        namespace = namespace, redis = { host = "127.0.0.1", port = relay.port, timeout = TIMEOUT, connect_timeout = CONNECT_TIMEOUT },
        l1_objects = 0, -- so that nothing grows
      },
    }
    node.wait_linked { near, far }
  end)

  --- What the near node stores the far one gets from Redis, and it hears of changes.
  local function assert_heals(cause)
    relay:heal()
    helper.wait_until(function()
      local key = helper.unique_name "healed"
      near:run([[cache:set(..., "of Redis", 60)]], key)
      local value, source = fetch(far, key, cause)
      return value == "of Redis" and source == "l2"
    end, { timeout = HEALED, message = cause .. ": Redis is not asked again" })
    helper.wait_until(function()
      near:run [[cache:set("heard", now(), 60)]]
      local value = far:run [[return cache:get "heard"]]
      near:run [[cache:delete "heard"]]
      helper.sleep(0.02)
      return value and not far:run [[return cache:get "heard"]]
    end, { timeout = HEALED, message = cause .. ": messages are not heard again" })
    assert.equal(0, far:stats().fills_running)
    far:assert_clean_log()
  end

  after_each(function() relay:heal() end)

  for _, bytes in ipairs { 1, 2, 5, 30, 300, 70000 } do
    it(("may be cut after %d bytes of a reply"):format(bytes), function()
      local cause = "cut after " .. bytes
      local key = helper.unique_name "cut"
      near:run([[cache:set(..., ("x"):rep(100000), 60)]], key)
      fetch(far, helper.unique_name "before", cause)
      relay:truncate(bytes)
      local value, source = fetch(far, key, cause)
      assert.equal("fn", source)
      assert.equal("value of " .. key, value)
      assert_heals(cause)
      -- what was whole in Redis is still there
      helper.wait_until(function() return redis:command("PING") == "PONG" end)
    end)
  end

  it("may carry rubbish, which is named", function()
    fetch(far, helper.unique_name "before", "rubbish")
    relay:garble()
    local _, source = fetch(far, helper.unique_name "rubbish", "rubbish")
    assert.equal("fn", source)
    local worker = far:worker(0)
    helper.wait_until(function()
      worker:run [[cache:fetch("rubbish " .. now(), 60, load)]]
      local reason = worker:run [[return cache:stats().redis_error]]
      return reason and reason:find "malformed" and far.nginx:error_log():find "%[warn%][^\n]* gorge: Redis is done without[^\n]*malformed"
    end, { timeout = HEALED, message = "no word of what was wrong" })
    worker:close()
    assert_heals "rubbish"
    helper.wait_until(function()
      fetch(far, helper.unique_name "after", "rubbish")
      return far.nginx:error_log():find("gorge: Redis answers again", 1, true)
    end)
  end)

  for _, direction in ipairs { "both", "up", "down" } do
    it("may stand still: " .. direction, function()
      relay:stall(direction)
      local _, source = fetch(far, helper.unique_name "still", "still")
      assert.equal("fn", source)
      assert_heals "still"
    end)

    it("may lose what is sent, and stay open: " .. direction, function()
      relay:black_hole(direction)
      local _, source = fetch(far, helper.unique_name "lost", "lost")
      assert.equal("fn", source)
      assert_heals "lost"
    end)
  end

  it("may go silent and be given up: no read of it stays behind, which would keep an old worker", function()
    local n = node.start {
      workers = 1,
      options = { redis = { host = "127.0.0.1", port = relay.port, timeout = TIMEOUT, connect_timeout = CONNECT_TIMEOUT } },
    }
    fetch(n, helper.unique_name "before", "silent")
    relay:black_hole "down"
    helper.wait_until(function()
      fetch(n, helper.unique_name "silent", "silent")
      return n:stats().redis_error == "connecting took too long"
    end, { message = "no other connection is tried" })
    local since = helper.now()
    n.nginx:quit()
    local took = helper.now() - since
    assert.is_true(took < 10, ("the worker took %.1f s to end"):format(took))
  end)

  it("may answer late: the answer is nobody else's", function()
    relay:delay(TIMEOUT * 0.7) -- there and back: more than the timeout
    for i = 1, 5 do
      local key = helper.unique_name "late"
      near:run([[cache:set(..., "late", 60)]], key)
      local value = fetch(far, key, "late")
      assert.is_true(value == "value of " .. key or value == "late", i)
    end
    relay:delay(0)
    for _ = 1, 5 do
      local key = helper.unique_name "prompt"
      near:run([[local key = ... cache:set(key, "prompt " .. key, 60)]], key)
      local value = fetch(far, key, "prompt")
      assert.is_true(value == "prompt " .. key or value == "value of " .. key, value)
    end
    assert_heals "late"
  end)

  it("may be closed by Redis, whose buffer for the answer is full", function()
    local key = helper.unique_name "buffer"
    near:run([[cache:set(..., ("x"):rep(100000), 60)]], key)
    fetch(far, helper.unique_name "before", "buffer")
    redis:command("CONFIG", "SET", "client-output-buffer-limit", "normal 20000 20000 1")
    local value, source = fetch(far, key, "buffer")
    redis:command("CONFIG", "SET", "client-output-buffer-limit", "normal 0 0 0")
    assert.equal("fn", source)
    assert.equal("value of " .. key, value)
    assert_heals "buffer"
  end)

  it("may be closed again and again: nothing grows", function()
    -- Its own memory alone: each value that was fetched fills more of the zone, which all workers map.
    local function sizes()
      local out = {}
      for i, pid in ipairs(far.nginx:worker_pids()) do
        local status = assert(helper.read_file(("/proc/%d/status"):format(pid)))
        out[i] = {
          fds = tonumber(status:match "FDSize:%s+(%d+)"),
          threads = tonumber(status:match "Threads:%s+(%d+)"),
          kb = tonumber(status:match "RssAnon:%s+(%d+)"),
        }
      end
      return out
    end
    local function close(times)
      local client, before = redis:connect(), far:stats().reconnects
      local deadline = helper.now() + 20 + 2 * times
      repeat
        client.send("CLIENT", "KILL", "TYPE", "normal")
        client.read()
        fetch(far, helper.unique_name "again", "closed")
      until far:stats().reconnects - before >= times or helper.now() > deadline
      client.close()
      assert.is_true(far:stats().reconnects - before >= times, far:stats().reconnects - before .. " reconnects")
    end
    close(10)
    local before = sizes()
    close(RECONNECTS)
    for i, after in ipairs(sizes()) do
      assert.equal(before[i].threads, after.threads)
      assert.is_true(after.fds <= before[i].fds, ("%d descriptors, %d before"):format(after.fds, before[i].fds))
      assert.is_true(after.kb < before[i].kb + 4096, ("%d KB, %d before"):format(after.kb, before[i].kb))
    end
    assert_heals "closed"
  end)
end)

describe("an idle connection", function()
  -- The one that asked for a value last: what it asked for since, and for how long it has been idle.
  local function state(redis, id)
    for line in redis:command("CLIENT", "LIST", "TYPE", "normal"):gmatch "[^\n]+" do
      if id == nil and line:find " cmd=get " or id == line:match "^id=(%d+)" then
        return line:match "^id=(%d+)", line:match " cmd=(%S+)", tonumber(line:match " idle=(%d+)")
      end
    end
  end

  -- The connection of a node that has asked for a value, and for nothing since: the first get makes the epoch as well, and after a later one a sign
  -- of life may have been quicker than this look. The host's own connection asks for the epoch in the same way, but has gone on once the host listens.
  local function asked(n, redis)
    return helper.wait_until(function()
      n:run [[return cache:get "k"]]
      return n:stats().subscribed and state(redis)
    end)
  end

  it("is asked for a sign of life after keepalive_interval, and not before", function()
    local redis = helper.redis()
    local slow = node.start { workers = 1, options = { redis = { host = "127.0.0.1", port = redis.port, keepalive_interval = 60 } } }
    local id = asked(slow, redis)
    helper.wait_until(function()
      local _, command, idle = state(redis, id)
      assert.equal("get", command)
      return idle >= 5 -- the default is 3
    end, { timeout = 20 })
    local quick = node.start { workers = 1, options = { redis = { host = "127.0.0.1", port = redis.port, keepalive_interval = 0.2 } } }
    slow:run [[cache:set("other", 1)]] -- so that it is not the one that is found
    id = asked(quick, redis)
    helper.wait_until(function() return select(2, state(redis, id)) == "ping" end)
    slow:assert_clean_log()
    quick:assert_clean_log()
  end)
end)

describe("Redis that is loading its data", function()
  it("is done without until it has", function()
    -- It would take half a minute, and looks at its connections after each key.
    local redis = helper.redis { config = "rdbcompression no\nkey-load-delay 100000\nloading-process-events-interval-bytes 1024" }
    local a = node.start { workers = 1, options = { redis = redis.url } }
    a:run [[cache:get "connected"]]
    for i = 1, 300 do
      redis:command("SET", "key " .. i, ("x"):rep(1024))
    end
    assert.equal("OK", redis:command "SAVE")
    redis:kill()
    redis:launch()
    helper.wait_until(function()
      local _, err = redis:command "PING"
      return err and err:find "^LOADING"
    end)
    helper.wait_until(function()
      fetch(a, helper.unique_name "loading", "loading")
      local reason = a:run [[return cache:stats().redis_error]]
      return reason and reason:find "loading" and a.nginx:error_log():find "gorge: Redis is done without[^\n]*loading its data"
    end, { timeout = HEALED, interval = 0.02, message = "the cause is not told" })
    assert.equal("OK", redis:command("CONFIG", "SET", "key-load-delay", 0))
    helper.wait_until(function() return redis:command "PING" == "PONG" end, { timeout = 20 })
    helper.wait_until(function()
      return (a:run([[return cache:set(..., 1, 60)]], helper.unique_name "loaded"))
    end, { timeout = HEALED })
    a:assert_clean_log()
  end)
end)
