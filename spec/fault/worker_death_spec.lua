-- SPDX-License-Identifier: MIT
-- Workers that are killed or stopped at the worst moment cost their own requests and nothing else.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

-- For those who wait for it to end; what a loaded machine adds is less than another one.
local LEASE, LOADED = 1.5, 1.4
-- For those who must not wait for it to end, and the time that they have.
local LONG_LEASE, AT_ONCE = 20, 5

local FETCH = [[return cache:fetch("k", 60, hang_once)]]

local function options(lease, redis)
  -- Waiters of another node shall not lose patience before the lease ends.
  return { options = { lock_ttl = lease, lock_retries = 1000, wait_timeout = 20, redis = redis and node.patient(redis) } }
end

--- Starts callers on the nodes and waits until the loader hangs in a worker of the first one and the others wait for it.
local function begin(nodes, callers)
  local batches = {}
  for i, n in ipairs(nodes) do
    local before = n:stats().waits
    batches[i] = n:start(callers, FETCH)
    if i == 1 then
      n:wait_count "hangs"
    end
    -- in the first node the worker that does not fill waits for the other, elsewhere one waits for Redis
    helper.wait_until(function() return n:run [[return cache:stats().waits]] > before end, { message = "nobody waits" })
  end
  return nodes[1]:counted "hangs", batches
end

--- Asserts that all callers of a batch were answered in time, but for those whose connection the killed worker held.
local function assert_answered(batch, since, bound)
  local lost, answered = 0, 0
  for _, result in ipairs(batch:results(10)) do
    if result.err then
      assert.matches("^closed", result.err)
      lost = lost + 1
    else
      assert.same({ "value of k" }, { result[1], result[2] })
      answered = answered + 1
    end
  end
  local took = helper.now() - since
  assert.is_true(took < bound, ("the last was answered after %.2f s"):format(took))
  return answered, lost
end

local function assert_nothing_left(n)
  helper.wait_until(function() return n:stats().fills_running == 0 end, { message = "a fill is left" })
  local value, err = n:run [[return cache:fetch("another", 60, load)]]
  assert.same({ "value of another" }, { value, err })
  value, err = n:run [[
    assert(cache:delete "k")
    return cache:fetch("k", 60, load)
  ]]
  assert.same({ "value of k" }, { value, err })
end

describe("a worker that is killed while it fills", function()
  it("lets the other workers go on at once", function()
    local n = node.start(options(LONG_LEASE))
    local pid, batches = begin({ n }, 40)
    local since = helper.now()
    process.kill(pid, process.SIGKILL)
    local answered, lost = assert_answered(batches[1], since, AT_ONCE)
    assert.is_true(answered > 5 and lost > 0, answered .. " answered, " .. lost .. " lost")
    assert.equal(1, n:counted "loads")
    assert_nothing_left(n)
  end)

  it("lets the other workers and the other node go on at once", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, options(LONG_LEASE, redis))
    b:run [[counts:set("hangs", 1)]] -- its loader would return at once
    local pid, batches = begin({ a, b }, 40)
    local since = helper.now()
    process.kill(pid, process.SIGKILL)
    local answered = assert_answered(batches[1], since, AT_ONCE)
    assert.is_true(answered > 5, answered .. " answered")
    local _, lost = assert_answered(batches[2], since, AT_ONCE)
    assert.equal(0, lost)
    assert.equal(1, a:counted "loads" + b:counted "loads")
    assert_nothing_left(a)
    assert_nothing_left(b)
  end)

  it("is followed by another node within the lease when its whole node is gone", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, options(LEASE, redis))
    b:run [[counts:set("hangs", 1)]]
    local _, batches = begin({ a, b }, 40)
    local pids = process.children(a.nginx.pid)
    local since = helper.now()
    for _, pid in ipairs { a.nginx.pid, unpack(pids) } do
      process.kill(pid, process.SIGKILL)
    end
    local _, lost = assert_answered(batches[2], since, LEASE + LOADED)
    assert.equal(0, lost)
    assert.equal(1, b:counted "loads")
    assert_nothing_left(b)
  end)

  it("leaves nothing behind however often it happens", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, options(LEASE, redis))
    local kills = 0
    local next_kill = helper.now() + 0.2
    local responses = helper.http.load {
      concurrency = 20,
      timeout = 20,
      request = function(i)
        return {
          port = i % 2 == 0 and a.nginx.port or b.nginx.port,
          uri = "/run", method = "POST",
          body = ([[return cache:fetch("key %d", 0.05, load)]]):format(i % 20),
        }
      end,
      tick = function()
        if helper.now() >= next_kill then
          local pids = (kills % 2 == 0 and a or b):worker_pids()
          if #pids == 2 then
            process.kill(pids[kills % 4 < 2 and 1 or 2], process.SIGKILL)
            kills = kills + 1
            next_kill = helper.now() + 0.2
          end
        end
        return kills == 12
      end,
    }
    local failed = 0
    for _, response in ipairs(responses) do
      if response.err then
        failed = failed + 1
      else
        assert.equal(200, response.status)
        assert.matches("value of key", response.body)
      end
    end
    assert.is_true(failed <= 20 * kills, failed .. " requests failed in " .. kills .. " kills")
    assert.is_true(#responses > 20 * kills, #responses .. " requests")
    assert_nothing_left(a)
    assert_nothing_left(b)
    for id = 0, 1 do -- one that took the place of another counts from its first call on
      local worker = a:worker(id)
      worker:run [[return cache:get "k"]]
      worker:close()
    end
    helper.wait_until(function() return a:stats().workers == 2 end, { message = "a worker is missing, or one that is dead counts" })
  end)
end)

describe("a worker that is stopped while it fills", function()
  local stopped
  after_each(function()
    if stopped then
      process.kill(stopped, process.SIGCONT)
      stopped = nil
    end
  end)

  -- Connections of a stopped worker are not answered: what is asked meanwhile goes to the other one.
  local function begin_and_stop(nodes)
    local pid, batches = begin(nodes, 40)
    local other
    for id = 0, 1 do
      local worker = nodes[1]:worker(id)
      if worker.pid ~= pid then
        other = worker
      else
        worker:close()
      end
    end
    process.kill(pid, process.SIGSTOP)
    stopped = pid
    return other, batches, helper.now()
  end

  --- The stopped worker goes on: its loader returns, but nobody shall see what it returned but its own callers.
  local function go_on(n, other, batch)
    process.kill(stopped, process.SIGCONT)
    stopped = nil
    other:run [[open "hang"]]
    local seen = {}
    for _, result in ipairs(batch:results(10)) do
      assert.is_nil(result.err)
      assert.is_nil(result[2])
      seen[result[1]] = (seen[result[1]] or 0) + 1
    end
    assert.is_true((seen["late value"] or 0) > 0 and (seen["value of k"] or 0) > 0, "callers of both workers")
    assert.equal("value of k", other:run [[return cache:get "k"]])
    for id = 0, 1 do
      assert.equal("value of k", n:worker(id):run [[return cache:get "k"]])
    end
    assert_nothing_left(n)
  end

  it("holds the others up for the lease at most, and its value comes too late", function()
    local n = node.start(options(LEASE))
    local other, batches, since = begin_and_stop { n }
    assert.equal("value of k", other:run [[return cache:fetch("k", 60, load)]])
    assert.is_true(helper.now() - since < LEASE + LOADED)
    go_on(n, other, batches[1])
  end)

  it("holds the other node up for the lease at most, and its value comes too late there too", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, options(LEASE, redis))
    b:run [[counts:set("hangs", 1)]]
    local other, batches, since = begin_and_stop { a, b }
    assert_answered(batches[2], since, LEASE + LOADED)
    assert.equal("value of k", other:run [[return cache:fetch("k", 60, load)]])
    assert.is_true(helper.now() - since < LEASE + LOADED)
    assert.equal(1, other:run [[return counted "loads"]] + b:counted "loads")
    go_on(a, other, batches[1])
    assert.equal("value of k", b:run [[return cache:fetch("k", 60, load)]])
  end)
end)
