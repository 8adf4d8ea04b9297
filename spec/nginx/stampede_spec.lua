-- SPDX-License-Identifier: MIT
-- Many callers, one cold key: the loader runs once, and whoever waits is answered as soon as it has ended.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

-- Whoever is not woken looks by itself long after what is waited for here, and gives up long after that.
local OPTIONS = { lock_sleep = 60, wait_timeout = 120 }
local AT_ONCE = 5 -- seconds, of a machine that may be busy: how many milliseconds they are on one that is not is for the bench

--- Two nodes with a Redis of their own.
local function pair(link)
  local redis = helper.redis()
  return node.pair(redis, { options = { lock_sleep = OPTIONS.lock_sleep, wait_timeout = OPTIONS.wait_timeout, redis = node.patient(redis) }, link = link })
end

-- It is counted when it waits: one that came after the end of the loader would run its own.
local FETCH = [[
  local key = ...
  local caller = ngx.thread.spawn(function() return cache:fetch(key, 60, %s) end)
  count "callers"
  local _, value, err, source = ngx.thread.wait(caller)
  return value, err, source, now(), ngx.worker.id()
]]

---@param nodes gorge.spec.Node[]
local function total(nodes, name)
  local sum = 0
  for _, n in ipairs(nodes) do
    sum = sum + n:counted(name)
  end
  return sum
end

--- Callers on all nodes at once; the loader ends when all of them are there. Returns their results and when it first ended.
local function storm(nodes, callers, loader)
  local key, batches, results, ended = helper.unique_name "cold", {}, {}, math.huge
  for i, n in ipairs(nodes) do
    batches[i] = n:start(callers, FETCH:format(loader), key)
  end
  helper.wait_until(function() return total(nodes, "callers") == callers * #nodes end, { timeout = 30, message = "not all callers came" })
  for _, n in ipairs(nodes) do
    n:run 'open "loader"'
  end
  for i, n in ipairs(nodes) do
    for _, result in ipairs(batches[i]:results(30)) do
      results[#results + 1] = result
    end
    local loaded = n:counted "loaded"
    ended = loaded > 0 and math.min(ended, loaded) or ended
  end
  return results, ended, key
end

local function assert_prompt(results, ended)
  local last = 0
  for _, result in ipairs(results) do
    last = math.max(last, result[4])
  end
  assert.is_true(last - ended < AT_ONCE, ("the last caller was answered %.3f s after the loader's end"):format(last - ended))
end

local function assert_over(nodes)
  for _, n in ipairs(nodes) do
    assert.equal(0, n:stats().fills_running)
    n:assert_clean_log()
  end
end

--- Both workers must have had callers, or nothing between workers was tested.
local function assert_spread(results)
  local workers = { [0] = 0, [1] = 0 }
  for _, result in ipairs(results) do
    workers[result[5]] = workers[result[5]] + 1
  end
  assert.is_true(workers[0] > 100 and workers[1] > 100, workers[0] .. " and " .. workers[1] .. " callers in the workers")
end

local function runs_once(nodes, callers)
  local results, ended, key = storm(nodes, callers, "load_at_gate")
  assert.equal(callers * #nodes, #results)
  for _, result in ipairs(results) do
    assert.same({ "value of " .. key, nil }, { result[1], result[2] or result.err })
  end
  assert.equal(1, total(nodes, "loads"))
  assert_spread(results)
  assert_prompt(results, ended)
  assert_over(nodes)
end

-- A host runs the loader once for all its callers; the error stays in the host.
local function fails_once(nodes, callers)
  local results, ended = storm(nodes, callers, "fail_at_gate")
  for _, result in ipairs(results) do
    assert.same({ nil, "the database is down" }, { result[1], result[2] or result.err })
  end
  local runs = total(nodes, "loads")
  assert.is_true(runs <= #nodes, runs .. " runs")
  assert_spread(results)
  assert_prompt(results, ended)
  assert_over(nodes)
end

describe("a stampede of 1,000", function()
  it("over two workers without Redis runs the loader once", function()
    runs_once({ node.start { options = OPTIONS } }, 1000)
  end)

  it("over two workers without Redis gives its failure to all", function()
    fails_once({ node.start { options = OPTIONS } }, 1000)
  end)

  it("over two workers of two nodes runs the loader once", function()
    runs_once({ pair() }, 500)
  end)

  it("right after the start of two nodes runs the loader once", function()
    runs_once({ pair(false) }, 500)
  end)

  it("over two workers of two nodes gives its failure to all", function()
    fails_once({ pair() }, 500)
  end)

  it("that comes while Redis is away runs the loader once in each host", function()
    local redis = helper.redis()
    redis:kill()
    local nodes = { node.pair(redis, { link = false }) }
    local results, _, key = storm(nodes, 500, "load_at_gate")
    for _, result in ipairs(results) do
      assert.same({ "value of " .. key, nil }, { result[1], result[2] or result.err })
    end
    assert.equal(2, total(nodes, "loads"))
    assert_over(nodes)
  end)
end)

describe("a waiter that is alone in its worker", function()
  it("is woken by the worker whose loader ends", function()
    local n = node.start { options = OPTIONS }
    local batches, both = {}
    repeat -- whoever comes to the other worker first
      batches[#batches + 1] = n:start(1, [[count("caller " .. ngx.worker.id())]] .. FETCH:format "load_at_gate", "k")
      helper.wait_until(function() return n:counted "caller 0" + n:counted "caller 1" == #batches end)
      both = n:counted "caller 0" > 0 and n:counted "caller 1" > 0
    until both
    n:wait_count "at loader"
    helper.wait_until(function() return n:stats().waits == 1 end)
    n:run 'open "loader"'
    local alone = batches[#batches]:results(10)[1]
    assert.same({ "value of k", nil }, { alone[1], alone[2] or alone.err })
    assert.equal(1, n:counted "loads")
    assert.is_true(alone[4] - n:counted "loaded" < AT_ONCE)
  end)
end)

describe("a loader that fails in one node", function()
  it("lets another node go on at once, although nobody else waits beside it", function()
    local a, b = pair()
    for round = 1, 6 do
      local key = "key " .. round
      local failing = a:start(1, FETCH:format "fail_at_gate", key)
      a:wait_count("at loader", round)
      local waits = b:stats().waits
      local waiting = b:start(1, FETCH:format "load", key)
      helper.wait_until(function() return b:run [[return cache:stats().waits]] > waits end)
      a:run 'open "loader"'
      assert.equal("the database is down", failing:results()[1][2])
      local result = waiting:results()[1]
      assert.same({ "value of " .. key, nil, "fn" }, { result[1], result[2], result[3] })
      assert.is_true(result[4] - a:counted "loaded" < AT_ONCE, "it waited for something else")
      a:run [[counts:delete "open loader"]]
    end
  end)
end)

describe("waves", function()
  -- Each wave begins when the one before has ended: the loader runs once a wave, not once for each waiter.
  it("of failures run the loader once each", function()
    local n = node.start { options = {} }
    for wave = 1, 5 do
      local batch = n:start(50, [[
        local name = ...
        local caller = ngx.thread.spawn(function()
          return cache:fetch("k", 60, function()
            gate(name)
            count "loads"
            error("no luck", 0)
          end)
        end)
        count "callers"
        local _, _, err = ngx.thread.wait(caller)
        return err
      ]], "wave " .. wave)
      helper.wait_until(function() return n:counted "callers" == 50 * wave end)
      n:run("open(...)", "wave " .. wave)
      for _, result in ipairs(batch:results()) do
        assert.equal("gorge: fn raised: no luck", result[1])
      end
      assert.equal(wave, n:counted "loads")
    end
  end)
end)
