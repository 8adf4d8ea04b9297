-- SPDX-License-Identifier: MIT
-- soft_timeout: when fn takes long and a value past its end is there, that is served, and fn finishes in the background.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

local OPTIONS = { stale_if_error = 60, soft_timeout = 0.1 }

local function options(more)
  local out = {}
  for _, list in ipairs { OPTIONS, more or {} } do
    for name, value in pairs(list) do
      out[name] = value
    end
  end
  return out
end

local function expired(n, key)
  n:run([[cache:fetch(..., 0.05, function() return "old" end, "t")]], key)
  n:run([[
    local key = ...
    for _ = 1, 2000 do
      local info = cache:peek(key)
      if info == nil or info.stale then
        return
      end
      ngx.sleep(0.005)
    end
  ]], key)
  helper.sleep(0.02)
end

local CALL = [[return cache:fetch("k", 60, load_at_gate, "t")]]

describe("soft_timeout", function()
  for _, with in ipairs { "without Redis", "with Redis" } do
    it("serves what has expired, once fn takes longer, to all; fn runs once and its value is stored, " .. with, function()
      local redis = with == "with Redis" and helper.redis() or nil
      local n = node.start { options = options { redis = redis and node.patient(redis) } }
      expired(n, "k")
      for _, result in ipairs(n:start(20, CALL):results()) do
        assert.equal("old", result[1], result[2] or result.err)
        assert.equal("stale", result[3])
        assert.is_true(result.time >= 0.09, result.time)
      end
      assert.equal(0, n:counted "loads")
      n:run [[open "loader"]]
      helper.wait_until(function() return n:run [[return cache:get "k"]] == "value of k" end)
      assert.equal(1, n:counted "loads")
      assert.equal(20, n:stats().stale_served)
      helper.wait_until(function() return n:stats().fills_running == 0 end)
      n:assert_clean_log()
    end)
  end

  it("returns the value of a fn that is fast enough, and its error's stale value at once", function()
    local n = node.start { options = options { soft_timeout = 20 } }
    expired(n, "k")
    local value, err, source = n:run [[return cache:fetch("k", 60, load)]]
    assert.same({ "value of k", "fn" }, { value, source }, err)
    expired(n, "failing")
    value, err, source = n:run [[return cache:fetch("failing", 60, function() return nil, "the database is down" end)]]
    assert.same({ "old", "stale" }, { value, source }, err)
    value, err = n:run [[return cache:fetch("none", 60, function() return nil, "the database is down" end)]]
    assert.is_nil(value)
    assert.equal("the database is down", err)
  end)

  it("waits on when there is no such value, when it may not be that old, and without stale_if_error", function()
    local n = node.start { options = options() }
    local SLOW = [[
      local key, opts = ...
      return cache:fetch(key, 60, function() ngx.sleep(0.3) return "new" end, nil, opts)
    ]]
    expired(n, "old")
    expired(n, "off")
    for key, opts in pairs { none = {}, old = { stale_if_error = 0.001 }, off = { stale_if_error = 0 } } do
      local value, err, source = n:run(SLOW, key, opts)
      assert.same({ "new", "fn" }, { value, source }, key .. ": " .. tostring(err))
    end
    assert.equal(0, n:stats().stale_served)
  end)

  it("can be set for one call", function()
    local n = node.start { options = { stale_if_error = 60 } }
    expired(n, "k")
    local value, err, source = n:run [[return cache:fetch("k", 60, load_at_gate, nil, { soft_timeout = 0.05 })]]
    assert.same({ "old", "stale" }, { value, source }, err)
    n:run [[open "loader"]]
    helper.wait_until(function() return n:run [[return cache:get "k"]] == "value of k" end)
  end)

  it("never serves what was invalidated while fn ran", function()
    local soft_timeout = 0.5
    local n = node.start { options = options { soft_timeout = soft_timeout } }
    local round = 0
    helper.wait_until(function()
      round = round + 1
      local key, gate, served = "k" .. round, "loader " .. round, n:stats().stale_served
      expired(n, key)
      local begun = helper.now()
      local batch = n:start(5, [[
        local key, name = ...
        return cache:fetch(key, 60, function() gate(name) return load(key) end, "t")
      ]], key, gate)
      n:wait_count("at " .. gate)
      n:run [[cache:invalidate_tags "t"]]
      local in_time = helper.now() - begun < soft_timeout
      n:run([[
        local name = ...
        background("opener", function() ngx.sleep(1) open(name) end)
      ]], gate)
      for _, result in ipairs(batch:results()) do
        if in_time then -- else it may have been served before
          assert.equal("value of " .. key, result[1], result[2] or result.err)
        end
      end
      return in_time and n:stats().stale_served == served
    end, { timeout = 30, message = "the tag is never invalidated in time" })
  end)

  it("finds the value in Redis when L1 does not have it", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = options { redis = node.patient(redis) } })
    expired(a, "k")
    helper.wait_until(function() -- by the clock of Redis, which may have got it later
      return redis:command("PTTL", redis:command("KEYS", "*:v:k")[1]) < 60000 - 20
    end)
    local value, err, source = b:run(CALL)
    assert.same({ "old", "stale" }, { value, source }, err)
    b:run [[open "loader"]]
    helper.wait_until(function() return b:run [[return cache:get "k"]] == "value of k" end)
  end)

  it("does without the background when nginx has no timers", function()
    local n = node.start { options = options(), http = "lua_max_pending_timers 1;" }
    expired(n, "k")
    local value, err, source = n:run [[
      assert(ngx.timer.at(3600, function() end))
      return cache:fetch("k", 60, function() ngx.sleep(0.3) return "new" end)
    ]]
    assert.same({ "new", "fn" }, { value, source }, err)
  end)

  it("is over for who stood still until wait_timeout was over, too", function()
    local soft_timeout, wait_timeout = 0.3, 0.5
    local n = node.start { workers = 1, options = options { soft_timeout = soft_timeout, wait_timeout = wait_timeout } }
    expired(n, "k")
    local worker = n:worker(0)
    local batch = n:start(1, CALL)
    n:wait_count "at loader"
    process.kill(worker.pid, process.SIGSTOP)
    helper.sleep(wait_timeout + 0.1)
    process.kill(worker.pid, process.SIGCONT)
    local result = batch:results(10)[1]
    assert.same({ "old", "stale" }, { result[1], result[3] }, result[2] or result.err)
  end)

  it("ends a fn that never returns after wait_timeout", function()
    local n = node.start { options = options { wait_timeout = 0.5 } }
    expired(n, "k")
    local value, err, source = n:run(CALL)
    assert.same({ "old", "stale" }, { value, source }, err)
    helper.wait_until(function() return n:stats().fills_running == 0 end)
    for id = 0, 1 do
      local worker = n:worker(id)
      helper.wait_until(function() return worker:run [[return cache.engine:pending()]] == 0 end)
      worker:close()
    end
    value, err, source = n:run [[return cache:fetch("k", 60, load, nil, { soft_timeout = 20 })]]
    assert.same({ "value of k", "fn" }, { value, source }, err)
  end)
end)
