-- SPDX-License-Identifier: MIT
-- A worker that stood still for longer than it may wait for Redis, stopped or starved, finds answers that came meanwhile: they are not late.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

local TIMEOUT = 1.5
local STILL = 2 * TIMEOUT + 0.2 -- the connection is given up when it was silent for twice as long
local SET = [[return cache:set(..., 1, 60)]]

local redis, n, worker

setup(function()
  redis = helper.redis()
  n = node.start { workers = 1, options = { redis = { host = "127.0.0.1", port = redis.port, timeout = TIMEOUT } } }
  worker = n:worker(0)
  worker:run(SET, "connected")
end)

--- Stops the worker when its commands are at a Redis that hangs, which answers while it is stopped. False when that took so long that they may be late by
--- right.
local function stop_worker(begun)
  helper.wait_until(function() return worker:run [[return cache:stats().redis_pending]] >= 3 end)
  process.kill(worker.pid, process.SIGSTOP)
  redis:resume()
  assert.equal("PONG", redis:command "PING")
  return helper.now() - begun < TIMEOUT / 2
end

local function answers(batch)
  for _, result in ipairs(batch:results()) do
    assert.same({ true }, { result[1], result[2] or result.err })
  end
end

it("what was asked before it stood still and after is answered", function()
  helper.wait_until(function()
    local reconnects = n:stats().reconnects
    local begun = helper.now()
    redis:pause()
    local before = n:start(3, SET, "before")
    local in_time = stop_worker(begun)
    helper.sleep(STILL)
    local after = n:start(3, SET, "after")
    process.kill(worker.pid, process.SIGCONT)
    if in_time then
      answers(before)
      answers(after)
      assert.equal(reconnects, n:stats().reconnects)
      return true
    end
    before:results()
    after:results()
  end, { timeout = 60, message = "the worker is never stopped in time" })
end)

it("a Redis that hangs is given up after redis.timeout, however seldom who waits looks by itself", function()
  local seldom = node.start {
    workers = 1, options = { redis = { host = "127.0.0.1", port = redis.port, timeout = TIMEOUT }, lock_sleep = 60 },
  }
  seldom:run(SET, "connected")
  redis:pause()
  finally(function() redis:resume() end)
  local took, err = seldom:run [[
    local begun = now()
    local _, err = cache:set("k", 1, 60)
    return now() - begun, err
  ]]
  assert.equal("gorge: set: done on this host, but not in Redis: timed out", err)
  assert.is_true(took > 0.9 * TIMEOUT and took < 1.9 * TIMEOUT, took) -- what comes then is that the connection was silent for too long
end)
