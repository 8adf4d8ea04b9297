-- SPDX-License-Identifier: MIT
-- A host that lost contact with Redis hears what it missed, and forgets what it can no longer vouch for.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

local SOON = 3

describe("a host that did not hear for a while", function()
  local redis, a, b
  before_each(function()
    redis = helper.redis()
    a, b = node.pair(redis, { options = { redis = node.patient(redis) } })
    a:run [[
      cache:fetch("warm", 60, load)
      cache:fetch("k", 60, load)
      cache:fetch("tagged", 60, load, "t")
    ]]
  end)

  local function kill_subscriptions()
    redis:command("CLIENT", "KILL", "TYPE", "pubsub")
  end

  --- Nothing of `a` runs while `fn` does.
  local function while_stopped(fn)
    local pids = a:worker_pids()
    for _, pid in ipairs(pids) do
      process.kill(pid, process.SIGSTOP)
    end
    local ok, err = pcall(fn)
    for _, pid in ipairs(pids) do
      process.kill(pid, process.SIGCONT)
    end
    assert(ok, err)
  end

  local function wait_forgotten(key)
    helper.wait_until(function() return a:run([[return cache:peek(...)]], key) == nil end,
      { timeout = SOON, interval = 0.002, message = key .. " stayed in L1" })
  end

  it("hears what was said meanwhile and keeps the rest", function()
    while_stopped(function()
      kill_subscriptions()
      assert.is_true((b:run [[return cache:delete "k"]]))
      assert.is_true((b:run [[return cache:invalidate_tags "t"]]))
    end)
    wait_forgotten "k"
    wait_forgotten "tagged"
    local loads = a:counted "loads"
    local value, err, source = a:run [[return cache:fetch("warm", 60, load)]]
    assert.same({ "value of warm", nil }, { value, err })
    assert.is_true(source == "l1" or source == "l0", source)
    assert.equal(loads, a:counted "loads")
  end)

  it("hears it again and again", function()
    for i = 1, 4 do
      kill_subscriptions()
      assert.is_true((b:run([[return cache:set("k", ..., 60)]], i)))
      helper.wait_until(function() return a:run [[return cache:get "k"]] == i end, { timeout = SOON, interval = 0.002 })
    end
    local _, _, source = a:run [[return cache:get "warm"]]
    assert.is_true(source == "l1" or source == "l0", source)
  end)

  it("forgets everything when the journal no longer has what it missed", function()
    local journal
    for _, key in ipairs(redis:command("KEYS", "*")) do
      if redis:command("TYPE", key) == "stream" then
        journal = key
      end
    end
    while_stopped(function()
      kill_subscriptions()
      assert.is_true((b:run [[return cache:delete "k"]]))
      redis:command("XTRIM", journal, "MAXLEN", 0)
    end)
    wait_forgotten "k"
    wait_forgotten "warm"
    local value, err, source = a:run [[return cache:fetch("warm", 60, load)]]
    assert.same({ "value of warm", nil, "l2" }, { value, err, source })
    node.wait_linked { a, b }
  end)

  it("forgets everything when Redis has lost its memory", function()
    while_stopped(function()
      redis:kill()
      assert.is_nil((b:run [[return cache:delete "k"]]))
      redis:up()
    end)
    wait_forgotten "k"
    wait_forgotten "warm"
    local value, err, source = a:run [[return cache:fetch("warm", 60, load)]]
    assert.same({ "value of warm", nil, "fn" }, { value, err, source })
    node.wait_linked { a, b }
  end)
end)
