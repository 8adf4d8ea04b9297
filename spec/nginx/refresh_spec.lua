-- SPDX-License-Identifier: MIT
-- stale_while_revalidate and early_refresh: a value that is still good is served at once, and one run of fn in the whole cluster replaces it.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

-- Values live for a minute and are due for a refresh a tenth of a second after they were stored.
local TTL, STALE_TTL = 60, 59.9

local function options(more)
  local out = { stale_while_revalidate = true, stale_ttl = STALE_TTL }
  for name, value in pairs(more or {}) do
    out[name] = value
  end
  return out
end

-- The first run returns "old". Later ones wait for the gate and return "new", which is not due for long.
local FETCH = [[
  local key, opts = ...
  local value, err, source = cache:fetch(key, ]] .. TTL .. [[, function(k)
    if counts:add("first " .. k, true) then
      return "old"
    end
    gate "refresh"
    count("runs " .. k)
    return "new", nil, { stale_ttl = 0.001 }
  end, "t", opts)
  return value, err, source
]]

local DUE = [[
  local key = ...
  for _ = 1, 2000 do
    cache.engine:peek(key)
    if cache.host.now() >= cache.engine.read.life.refresh_ms + 20 then
      return true
    end
    ngx.sleep(0.005)
  end
]]

local function prepare(n, key, opts)
  assert.equal("old", (n:run(FETCH, key, opts)))
  assert.is_true(n:run(DUE, key))
end

local function wait_for(n, key, value)
  helper.wait_until(function() return n:run(FETCH, key) == value end, { message = "no " .. value })
end

local function assert_served(n, key)
  local value, err, source = n:run(FETCH, key)
  assert.equal("old", value, err)
  assert.is_true(source == "l0" or source == "l1" or source == "l2", source)
end

-- Reads until fn runs: a value that was just read from Redis is due for the next reader.
local function begin(n, key)
  helper.wait_until(function()
    assert_served(n, key)
    return n:counted "at refresh" >= 1
  end)
end

describe("stale_while_revalidate", function()
  it("runs fn once on two nodes of two workers, serves at once, and refreshes L1 and Redis", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = options { redis = node.patient(redis) } })
    local workers = {}
    for _, n in ipairs { a, b } do
      for id = 0, 1 do
        workers[#workers + 1] = n:worker(id)
      end
    end
    prepare(a, "k")
    b:run [[counts:add("first k", true)]] -- b has it from Redis: a run there is a refresh, too
    prepare(b, "k")
    for _ = 1, 20 do
      for _, worker in ipairs(workers) do
        assert_served(worker, "k") -- the loader hangs meanwhile
      end
    end
    helper.wait_until(function() return a:counted "at refresh" + b:counted "at refresh" >= 1 end)
    local batches = { a:start(50, FETCH, "k"), b:start(50, FETCH, "k") }
    for _, batch in ipairs(batches) do
      for _, result in ipairs(batch:results()) do
        assert.equal("old", result[1], result.err)
      end
    end
    a:run [[open "refresh"]]
    b:run [[open "refresh"]]
    for _, n in ipairs { a, b } do
      wait_for(n, "k", "new") -- b, too: from Redis
    end
    assert.equal(1, a:counted "runs k" + b:counted "runs k")
    local stats = { a:stats(), b:stats() }
    assert.equal(1, stats[1].refreshes + stats[2].refreshes)
    assert.equal(0, stats[1].refresh_errors + stats[2].refresh_errors)
    assert.matches("new$", redis:command("GET", redis:command("KEYS", "*:v:k")[1]))
    a:assert_clean_log()
    b:assert_clean_log()
  end)

  it("works without Redis, for tables, for fetch_many, and goes on when Redis is away", function()
    local n = node.start { options = options() }
    local MANY = [[
      local version = ...
      return cache:fetch_many({ "a", "b", "c" }, 60, function(keys)
        counts:set("asked by run " .. count "many", #keys)
        local out = {}
        for _, key in ipairs(keys) do
          out[key] = { key .. version }
        end
        return out
      end)
    ]]
    local worker = n:worker(0) -- workers that find them due at once would share them out
    for _, key in ipairs { "a", "b", "c" } do -- of two that are filled at once and share a stamp L1 refuses one
      worker:run([[
        local key = ...
        assert(cache:set(key, { key .. 1 }, 60))
      ]], key)
    end
    for _, key in ipairs { "a", "b", "c" } do
      assert.is_true(worker:run(DUE, key))
    end
    local values, _, sources = worker:run(MANY, 2)
    assert.same({ a = { "a1" }, b = { "b1" }, c = { "c1" } }, values)
    assert.is_true(sources.a == "l1" or sources.a == "l0")
    helper.wait_until(function() return worker:run(MANY, 3).b[1] ~= "b1" end)
    assert.equal(3, worker:run [[return counts:get "asked by run 1"]])
    worker:close()

    local redis = helper.redis()
    n = node.start({ options = options { redis = node.patient(redis) } }):wait_subscribed()
    prepare(n, "k")
    redis:stop()
    helper.wait_until(function() return n:run [[return cache:stats().redis]] == "down" end)
    n:run [[open "refresh"]]
    wait_for(n, "k", "new")
    assert.equal(1, n:stats().refreshes)
  end)

  it("waits longer after each failure, and serves the value meanwhile", function()
    local n = node.start { options = options() }
    local FAIL = [[
      local value, err, source = cache:fetch("k", 60, function()
        count "failures"
        counts:set("failed at " .. counted "failures", now())
        return nil, "the database is down"
      end)
      return value, err, source
    ]]
    prepare(n, "k")
    helper.wait_until(function()
      local value, err = n:run(FAIL)
      assert.equal("old", value, err)
      return n:counted "failures" >= 2
    end, { timeout = 15 })
    local first, second = n:run [[return counts:get "failed at 1", counts:get "failed at 2"]]
    assert.is_true(second - first > 0.95, tostring(second - first))
    helper.wait_until(function() return n:stats().refresh_errors == 2 end)
    helper.wait_until(function() return n:run [[cache.engine:peek "k" return cache.engine.read.life.failures]] == 2 end)
    local lines = n.nginx:log_lines { warn = true }
    assert.is_true(#lines >= 1 and #lines <= 2, #lines)
    assert.matches("a refresh failed: the database is down", lines[1], 1, true)
  end)

  for name, code in pairs {
    delete = [[return cache:delete "k"]], invalidate_tags = [[return cache:invalidate_tags "t"]], clear = [[return cache:clear()]],
  } do
    it("does not bring back what " .. name .. " has forgotten meanwhile", function()
      local redis = name ~= "clear" and helper.redis() or nil
      local n = node.start { options = options { redis = redis and node.patient(redis) } }
      prepare(n, "k")
      begin(n, "k")
      assert.is_true(n:run(code))
      local value, err, source = n:run [[return cache:fetch("k", 60, function() return "mine", nil, { stale_ttl = 0.001 } end)]]
      assert.equal("mine", value, err)
      assert.equal("fn", source)
      n:run [[open "refresh"]]
      n:wait_count "runs k"
      helper.wait_until(function() return n:stats().fills_running == 0 end)
      assert.equal("mine", (n:run [[return cache:get "k"]]))
      for id = 0, 1 do
        local worker = n:worker(id)
        assert.equal("mine", (worker:run(FETCH, "k")))
        worker:close()
      end
    end)
  end

  it("does not block the worker, though the call that begins it may", function()
    local n = node.start {
      options = options { redis = node.patient(helper.redis()) },
      workers = 1,
      server = [[
        location = /logged {
          content_by_lua_block { ngx.print "done" }
          log_by_lua_block {
            local cache = require("spec.nginx.app").cache
            cache:fetch("k", 60, function(key)
              return cache.flights[key].call.engine == cache.engine and "yields" or "blocks", nil, { stale_ttl = 0.001 }
            end, nil, { blocking = true })
          }
        }
      ]],
    }
    prepare(n, "k")
    n.nginx:request { uri = "/logged" }
    local value = helper.wait_until(function()
      local found = n:run [[return cache:get "k"]]
      return found ~= "old" and found
    end)
    assert.equal("yields", value)
  end)

  it("ends a run of fn that takes longer than refresh_timeout", function()
    local n = node.start { options = options { refresh_timeout = 0.2 } }
    prepare(n, "k")
    begin(n, "k")
    helper.wait_until(function() return n:stats().refresh_errors == 1 end)
    helper.wait_until(function() return n:stats().fills_running == 0 end) -- it is counted first
    assert_served(n, "k")
    helper.wait_until(function() return n:run [[return cache.engine:pending()]] == 0 end)
    n:run [[open "refresh"]]
    wait_for(n, "k", "new") -- by a later attempt: the first one was ended
    assert.equal(1, n:counted "runs k")
    assert.matches("a refresh failed: it took longer than refresh_timeout", n.nginx:log_lines({ warn = true })[1], 1, true)
  end)

  it("that is ended takes the fills along that its fn has begun, while others are under way", function()
    local n = node.start { workers = 1, options = options { refresh_timeout = 0.3, origin = { max_concurrency = 4 } } }
    n:run [[
      for i = 1, 100 do
        cache:set("k" .. i, "old", 60)
      end
      ngx.sleep(0.15)
      cache:fetch("k1", 60, function()
        return cache:fetch("inner", 60, function() count "hung" ngx.sleep(60) end)
      end)
      for i = 2, 100 do -- as long as one runs, so does the timer of all
        ngx.timer.at(i / 10, function()
          count "begun"
          cache:fetch("k" .. i, 60, function() ngx.sleep(60) end)
        end)
      end
    ]]
    n:wait_count "hung"
    assert.equal("value of inner", (n:run [[return cache:fetch("inner", 60, load)]]))
    assert.is_true(n:counted "begun" < 99)
    helper.wait_until(function() return n:stats().origin_running <= 3 end) -- 0.3 s of those that began since
  end)

  it("goes on when the program's logger raises", function()
    local n = node.start { options = {}, init = ([[
      local app = require "spec.nginx.app"
      app.cache = assert(app.gorge.new {
        namespace = "loud", stale_while_revalidate = true, stale_ttl = %s, refresh_timeout = 0.2,
        logger = function() return ngx.get_phase() == "timer" and ngx.var.uri end, -- which a timer has not
      })
    ]]):format(STALE_TTL) }
    prepare(n, "k")
    begin(n, "k")
    helper.wait_until(function() return n:stats().refresh_errors == 1 end)
    n:run [[open "refresh"]]
    wait_for(n, "k", "new")
    assert.matches("gorge: the logger raised: .*API disabled", n.nginx:error_log())
    assert.matches("a refresh failed: it took longer than refresh_timeout", n.nginx:error_log(), 1, true)
  end)

  it("takes stale_ttl from the cache, from a call, and from what fn returns", function()
    local n = node.start { options = options { stale_ttl = 10 } }
    n:run [[
      cache:fetch("cache", 60, load)
      cache:fetch("call", 60, load, nil, { stale_ttl = 20 })
      cache:fetch("result", 60, function() return 1, nil, { stale_ttl = 30 } end, nil, { stale_ttl = 20 })
      cache:fetch("half", 8, load)
      cache:set("set", 1, 60)
    ]]
    for key, ahead in pairs { cache = 10, call = 20, result = 30, half = 4, set = 10 } do
      local left = n:run([[
        cache.engine:peek(...)
        local life = cache.engine.read.life
        return (life.whole_ms - life.refresh_ms) / 1000
      ]], key)
      assert.equal(ahead, left, key)
    end
    local _, err = n:run [[return cache:fetch("bad", 60, function() return 1, nil, { stale_ttl = -1 } end)]]
    assert.matches("override stale_ttl must be a number of seconds greater than 0, got -1", err, 1, true)
  end)

  it("begins in phases that cannot yield, too", function()
    local n = node.start {
      options = options(),
      server = [[
        location = /logged {
          content_by_lua_block { ngx.print "done" }
          log_by_lua_block {
            local app = require "spec.nginx.app"
            local value, err, source = app.cache:fetch("k", 60, function()
              ngx.sleep(0.01)
              return "new", nil, { stale_ttl = 0.001 }
            end)
            app.counts:set("logged", tostring(value) .. " " .. tostring(source))
          }
        }
      ]],
    }
    prepare(n, "k")
    n.nginx:request { uri = "/logged" }
    helper.wait_until(function() return n:run [[return counts:get "logged"]] end)
    assert.matches("^old l[01]$", n:run [[return counts:get "logged"]])
    wait_for(n, "k", "new")
  end)

  it("serves the value when nginx has no timers left, and says so once", function()
    local n = node.start { options = options(), http = "lua_max_pending_timers 1;" }
    prepare(n, "k")
    for id = 0, 1 do
      local worker = n:worker(id)
      worker:run [[assert(ngx.timer.at(3600, function() end))]]
      for _ = 1, 5 do
        assert_served(worker, "k")
      end
      worker:close()
    end
    assert.equal(0, n:stats().refreshes)
    local lines = n.nginx:log_lines { warn = true }
    assert.equal(2, #lines) -- one of each worker
    assert.matches("values are not refreshed: no timer: too many pending timers", lines[1], 1, true)
  end)

  it("lets an old worker end its refresh, and the new ones go on", function()
    local n = node.start { options = options() }
    prepare(n, "k")
    begin(n, "k")
    n.nginx:reload()
    n:run [[open "refresh"]]
    wait_for(n, "k", "new")
    n.nginx:wait_drained(15)
    assert.equal(1, n:counted "runs k")
  end)
end)

describe("early_refresh", function()
  local KEYS = 60
  local START = [[
    local ttl, keys = ...
    background("readers", function()
      local stop, refreshed = now() + ttl, 0
      local runs, ended, took, expected = {}, {}, {}, 0
      local function slow(key)
        local begun = now()
        runs[key] = (runs[key] or 0) + 1
        if runs[key] == 2 then
          refreshed = refreshed + 1
        end
        ngx.sleep(0.2)
        ended[key], took[key] = now(), now() - begun
        return key
      end
      -- The chance that this look at a value whose end has not come refreshes it.
      local function chance(key)
        return runs[key] == 1 and math.exp((now() - ended[key] - ttl) / took[key]) or 0
      end
      local threads = {}
      for i = 1, keys do
        threads[i] = ngx.thread.spawn(function() return cache:fetch("k" .. i, ttl, slow) end)
      end
      for i = 1, keys do
        ngx.thread.wait(threads[i])
      end
      while now() < stop do
        for i = 1, keys do
          if now() < stop then -- all of them live longer
            expected = expected + chance("k" .. i)
            cache:fetch("k" .. i, ttl, slow)
          end
        end
        ngx.sleep(0.01)
      end
      return refreshed, expected
    end)
  ]]

  local function outcome(early)
    local n = node.start { options = { early_refresh = early } }
    n:run(START, 2, KEYS)
    local result
    helper.wait_until(function()
      result = n:run [[return counts:get "result readers"]]
      return result
    end, { timeout = 20 })
    local values = require("cjson").decode(result)
    return n, values[1], values[2]
  end

  it("refreshes values ahead of their end, by chance", function()
    local n, refreshed, expected = outcome(true)
    -- How often the values are looked at is the machine's affair, how many of them are refreshed then is not: four standard deviations.
    for _, count in ipairs { refreshed, n:stats().refreshes } do
      assert.is_true(math.abs(count - expected) < 4 * math.sqrt(KEYS), count .. " refreshed, expected " .. expected)
    end
    n:assert_clean_log()
  end)

  it("does nothing when it is off", function()
    local n, refreshed = outcome(false)
    local stats = n:stats()
    -- of two keys filled at once that share a stamp L1 refuses one, which is filled again
    assert.equal(stats.refused_fills, refreshed)
    assert.is_true(refreshed <= 3, refreshed)
    assert.equal(0, stats.refreshes)
  end)

  it("goes by the time of fn that the value carries to other nodes", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { early_refresh = 2, redis = node.patient(redis) } })
    a:run [[cache:fetch("k", 60, function() ngx.sleep(0.05) return 1 end)]]
    assert.equal("l2", (select(3, b:run [[return cache:get "k"]])))
    local load_ms = b:run [[cache.engine:peek "k" return cache.engine.read.life.load_ms]]
    assert.is_true(load_ms >= 49 and load_ms < 5000, tostring(load_ms))
  end)
end)
