-- SPDX-License-Identifier: MIT
-- update: no write that comes between reading and replacing is lost, whoever makes it; what fails changes nothing.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local ADD = [[
  local key, times = ...
  local last = 0
  for i = 1, times do
    local value, err = cache:update(key, 60, function(old)
      count "runs"
      return (old or 0) + 1
    end)
    if not value then
      return nil, err
    elseif value <= last then
      return nil, value .. " after " .. last
    end
    last = value
    local read = cache:get(key) -- this host sees no older value from here on
    if not read or read < value then
      return nil, "read " .. tostring(read) .. " after " .. value
    end
    if i % 10 == 0 then
      ngx.sleep(0)
    end
  end
  return last
]]

local function assert_all_added(batches)
  for _, batch in ipairs(batches) do
    for _, result in ipairs(batch:results(60)) do
      assert.is_number(result[1], result.err or result[2])
    end
  end
end

describe("update", function()
  it("without Redis loses no increment of any worker", function()
    local n = node.start { options = {}, workers = 2 }
    assert_all_added { n:start(8, ADD, "n", 500) }
    assert.equal(4000, (n:run [[return cache:get "n"]]))
    local stats = n:stats()
    assert.equal(n:counted "runs", stats.updates)
    assert.equal(stats.updates - 4000, stats.update_conflicts)
    n:assert_clean_log()
  end)

  it("with Redis loses no increment of any worker of any node", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { redis = node.patient(redis) } })
    local batches = {}
    for _, n in ipairs { a, b } do
      for _ = 1, 2 do
        batches[#batches + 1] = n:start(1, [[gate "add"]] .. ADD, "n", 250)
      end
    end
    for _, n in ipairs { a, b } do
      n:wait_count("at add", 2)
    end
    for _, n in ipairs { a, b } do
      n:run [[open "add"]]
    end
    assert_all_added(batches)
    for _, n in ipairs { a, b } do
      helper.wait_until(function() return n:run [[return cache:get "n"]] == 1000 end)
    end
    assert.is_true(a:stats().update_conflicts + b:stats().update_conflicts > 0, "nobody competed")
    a:assert_clean_log()
    b:assert_clean_log()
  end)

  for _, with in ipairs { "without Redis", "with Redis" } do
    describe(with, function()
      local function start(options)
        options = options or {}
        options.redis = with == "with Redis" and node.patient(helper.redis()) or nil
        local n = node.start { options = options }
        return options.redis and n:wait_subscribed() or n
      end

      it("runs fn again when somebody writes meanwhile, and keeps what was written", function()
        local n = start()
        for _, write in ipairs { [[cache:set("k", 100, 60)]], [[cache:delete "k"]], [[cache:update("k", 60, function(old) return old + 50 end)]],
          [[cache:invalidate_tags "t"]] } do
          n:run [[assert(cache:set("k", 1, 60, "t"))]]
          local value, runs = n:run([[
            local runs = 0
            local value, err = cache:update("k", 60, function(old)
              runs = runs + 1
              if runs == 1 then
                ]] .. write .. [[
              end
              return (old or 0) + 1
            end)
            return value or err, runs
          ]])
          local expected = write:match "set" and 101 or write:match "update" and 52 or 1
          assert.same({ expected, 2, expected }, { value, runs, (n:run [[return cache:get "k"]]) })
        end
        n:assert_clean_log()
      end)

      it("changes nothing when fn fails, or its value cannot be stored", function()
        local n = start()
        n:run [[assert(cache:set("k", "old", 60))]]
        for code, said in pairs {
          ["return nil, 'the database is down'"] = "^the database is down$",
          ["error 'broken'"] = "^gorge: fn raised: .*broken$",
          ["return { 1, print }"] = '^gorge: key "k": value%[2%]: cannot serialize a function$',
        } do
          local value, err = n:run("return cache:update('k', 60, function() " .. code .. " end)")
          assert.is_nil(value)
          assert.matches(said, err)
          assert.equal("old", (n:run [[return cache:get "k"]]))
        end
        n:assert_clean_log()
      end)

      it("stores every kind of value, with the ttl and the tags of the call", function()
        local n = start { l1_ttl = 200, negative_cache_ttl = 20 }
        n:run [[
          assert(cache:set("k", { n = 1 }, 60, "old tag"))
          local value = assert(cache:update("k", 100, function(old) old.n = old.n + 1 return old end, { "t", "u" }))
          assert(value.n == 2)
        ]]
        for id = 0, 1 do
          assert.equal(2, n:worker(id):run [[return cache:get("k").n]])
        end
        local ttl, tags = n:run [[local info = cache:peek "k" return info.ttl, table.concat(info.tags, ",")]]
        assert.is_true(ttl > 90 and ttl <= 100, tostring(ttl))
        assert.equal("t,u", tags)
        assert.is_true(n:run [[return cache:invalidate_tags "u"]])
        assert.is_nil((n:run [[return cache:get "k"]]))
        -- "no such thing" is a value
        assert.same({}, { n:run [[return cache:update("k", nil, function(old) assert(old == nil) return nil end)]] })
        assert.is_true(n:run [[local info = cache:peek "k" return info.negative and info.ttl <= 20]])
        n:run [[cache:update("k", nil, function(old) assert(old == nil) return false end)]]
        assert.equal(false, (n:run [[return cache:get "k"]]))
        assert.is_true(n:run [[return cache:peek("k").ttl > 190]])
        n:run [[cache:update("k", 60, function(old) assert(old == false) return ("x"):rep(100000) end)]]
        assert.equal(100000, #n:run [[return cache:get "k"]])
        n:assert_clean_log()
      end)

      it("refuses fills that began before", function()
        local n = start()
        local batch = n:start(1, [[return cache:fetch("k", 60, load_at_gate)]])
        n:wait_count "at loader"
        n:run [[assert(cache:update("k", 60, function() return "updated" end))]]
        n:run [[open "loader"]]
        assert.equal("value of k", batch:results()[1][1])
        for id = 0, 1 do
          assert.equal("updated", (n:worker(id):run [[return cache:get "k"]]))
        end
      end)
    end)
  end

  it("is seen by other nodes", function()
    local a, b = node.pair(helper.redis())
    for i = 1, 20 do
      a:run([[local i = ... assert(cache:update("k", 60, function() return i end))]], i)
      helper.wait_until(function() return b:run [[return cache:get "k"]] == i end)
    end
  end)

  it("changes nothing while Redis cannot be reached, and says so", function()
    local redis = helper.redis()
    local n = node.start({ options = { redis = node.patient(redis) } }):wait_subscribed()
    n:run [[assert(cache:set("k", 1, 60))]]
    redis:kill()
    local value, err = n:run [[return cache:update("k", 60, function() count "ran" return 2 end)]]
    assert.is_nil(value)
    assert.matches('^gorge: update: key "k": nothing is changed: Redis cannot be reached', err)
    assert.equal(0, n:counted "ran")
    assert.equal(1, (n:run [[return cache:get "k"]]))
  end)

  -- Redis stands still from the moment on when fn has read: what is sent then is carried out later, after its answer was given up.
  it("carries out an attempt whose answer was lost once, and returns its value", function()
    local redis = helper.redis()
    local n = node.start({ options = { redis = "redis://127.0.0.1:" .. redis.port } }):wait_subscribed()
    n:run [[assert(cache:set("k", 1, 60))]]
    local batch = n:start(1, [[
      return cache:update("k", 60, function(old)
        gate "fn"
        return old + 1
      end)
    ]])
    n:wait_count "at fn"
    redis:pause()
    n:run [[open "fn"]]
    helper.sleep(1)
    assert.equal(0, batch:done())
    redis:resume()
    local result = batch:results(20)[1]
    assert.same({ 2 }, { result[1], result[2] or result.err })
    assert.equal(2, (n:run [[return cache:get "k"]]))
    assert.equal(3, (n:run [[return cache:update("k", 60, function(old) return old + 1 end)]]))
  end)

  it("takes a key, a ttl, a function and tags", function()
    local n = node.start { options = {} }
    for code, said in pairs {
      ["cache:update(5)"] = "key must be a string, got 5$",
      ["cache:update('k', 0, print)"] = "ttl must be a number of seconds greater than 0",
      ["cache:update('k', 1, 5)"] = "fn must be a function, got 5$",
      ["cache:update('k', 1, print, 5)"] = "tags must be a string or an array of strings",
    } do
      local ok, err = n:run("return pcall(function() " .. code .. " end)")
      assert.is_false(ok)
      assert.matches("^posted:1: gorge: .*" .. said, err)
    end
    assert.same({ nil, "gorge: key must not be empty" }, { n:run [[return cache:update("", 1, print)]] })
    local err = select(2, n:run [[return cache:update("large", 60, function() return ("x"):rep(20000000) end)]])
    assert.equal('gorge: update: key "large": nothing is changed: the value is too large for L1', err)
  end)

  it("gives up in time when others are always faster", function()
    local n = node.start { options = { wait_timeout = 0.2 } }
    local value, err, runs = n:run [[
      local runs = 0
      local value, err = cache:update("k", 60, function(old)
        runs = runs + 1
        cache:set("k", runs, 60)
        return -1
      end)
      return value, err, runs
    ]]
    assert.is_nil(value)
    assert.matches('^gorge: update: key "k": nothing is changed: others changed it each time, %d+ times$', err)
    assert.equal(runs, (n:run [[return cache:get "k"]]))
  end)

  it("with Redis needs a phase that can wait, without it none", function()
    local redis = helper.redis()
    local n = node.start {
      options = { redis = node.patient(redis) },
      init = [[local app = require "spec.nginx.app" app.alone = assert(app.gorge.new { namespace = "alone", l1_size = "2m" })]],
      server = [[location = /log { return 204; log_by_lua_block {
        local app = require "spec.nginx.app"
        local function one(old) return (old or 0) + 1 end
        app.counts:set("said", tostring(select(2, app.cache:update("k", 60, one))))
        app.counts:set("alone", app.alone:update("k", 60, one)) } }]],
    }
    n:wait_subscribed()
    n.nginx:get "/log"
    helper.wait_until(function() return n:run [[return counts:get "alone"]] == 1 end)
    assert.equal("would block: the phase 'log' cannot yield; nothing is changed", n:run [[return counts:get "said"]])
    assert.is_nil((n:run [[return cache:get "k"]]))
  end)
end)
