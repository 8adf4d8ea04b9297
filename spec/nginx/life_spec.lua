-- SPDX-License-Identifier: MIT
-- How long a value lives: to the millisecond, never beyond l1_ttl in L1, and shortened at random when asked.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

-- The cache reads the kernel's coarse clock, which moves once a tick: every 10 ms where ticks are rarest.
local GRAIN = 10

-- Asks all the time until the value is gone; returns when the last question was asked that had an answer, in ms after it was stored,
-- when it was gone, in ms after it began to be stored, the sources that answered, and how much earlier than that the life of what comes from Redis
-- may end, so that it never ends later than there: as long as the answer took, and as far as a coarse clock may lie behind.
local WATCH = [[
  local key, before, after = ...
  local GRAIN = 10
  local sources, last, early = {}, 0, 0
  while true do
    local asked = clock()
    local value, err, source = cache:get(key)
    local gone = (clock() - before) * 1000
    if err then
      return nil, err
    elseif value == nil or gone > 5000 then
      return last, gone, sources.l0 or 0, sources.l1 or 0, sources.l2 or 0, early
    elseif source == "l2" then
      early = math.max(early, (clock() - asked) * 1000 + GRAIN)
    end
    last = (asked - after) * 1000
    sources[source] = (sources[source] or 0) + 1
    ngx.sleep(0.001)
  end
]]

local STORE = [[
  local how, key, ttl = ...
  local before = clock()
  if how == "set" then
    assert(cache:set(key, "value", ttl))
  elseif how == "fetch" then
    cache:fetch(key, ttl, function() return "value" end)
  elseif how == "override" then
    cache:fetch(key, 60, function() return "value", nil, ttl end)
  else
    cache:fetch(key, 60, function() return false, nil, { ttl = ttl } end)
  end
  return before, clock()
]]

--- What `writer` stores is there for `ms` and then gone, as `reader` sees it. Again until each of the layers has answered once: on a busy
--- machine the life may be over before the first question.
local function assert_lives(ms, writer, reader, how, layers)
  local seen = { l0 = 0, l1 = 0, l2 = 0 }
  for round = 1, 50 do
    local key = ("%s %s %d"):format(how, table.concat(layers), round)
    local before, after = writer:run(STORE, how, key, ms / 1000)
    local last, gone, l0, l1, l2, early = reader:run(WATCH, key, before, after)
    assert.is_number(last, gone)
    assert.is_true(gone >= ms - GRAIN - early, ("gone after %.1f ms of %g"):format(gone, ms))
    assert.is_true(last <= ms + GRAIN, ("served after %.1f ms of %g"):format(last, ms))
    seen = { l0 = seen.l0 + l0, l1 = seen.l1 + l1, l2 = seen.l2 + l2 }
    local missing
    for _, layer in ipairs(layers) do
      missing = seen[layer] == 0 and layer or missing
    end
    if not missing then
      return
    end
    assert.is_true(round < 50, missing)
  end
end

describe("a life of 50 ms ends after 50 ms", function()
  it("without Redis, in L0 and in L1", function()
    local n = node.start { options = {} }
    local workers = { n:worker(0), n:worker(1) }
    for _, how in ipairs { "set", "fetch", "override", "overrides" } do
      assert_lives(50, workers[1], workers[1], how, { "l0" })
      assert_lives(50, workers[1], workers[2], how, { "l1", "l0" })
    end
    n:assert_clean_log()
  end)

  it("with Redis, in L2 and on other nodes, too", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { redis = node.patient(redis) } })
    local here, there = a:worker(0), b:worker(0)
    local round = 0
    helper.wait_until(function() -- to who asked Redis for its time once, and waited for the answer, all ends that much earlier
      round = round + 1
      local key = "whole life " .. round
      here:run([[assert(cache:set(..., 1, 60))]], key)
      local TTL = [[cache:get(...) return cache:peek(...).ttl]]
      local left = there:run(TTL, key)
      return left > here:run(TTL, key) - GRAIN / 1000
    end, { timeout = 60, message = "the other node does not know the time of Redis" })
    for _, how in ipairs { "set", "fetch", "override", "overrides" } do
      assert_lives(50, here, here, how, { "l0" })
      assert_lives(50, here, there, how, { "l2", "l0" })
    end
    helper.wait_until(function()
      here:run([[assert(cache:set("k", 1, 0.05))]])
      local key = redis:command("KEYS", "*:v:k")[1]
      local left = key and redis:command("PTTL", key) or -2
      assert.is_true(left <= 50, left .. " ms left in Redis")
      return left > 0
    end)
  end)

  it("and one below a millisecond counts as one", function()
    local n = node.start { options = {} }
    local worker = n:worker(0)
    assert_lives(1e-6, worker, worker, "set", {})
  end)
end)

describe("l1_ttl", function()
  it("bounds the life in L0 and L1 of what is set, filled, and read from Redis; Redis keeps the whole ttl", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { l1_ttl = 0.1, redis = node.patient(redis) } })
    for id, n in ipairs { a, b } do
      local worker = n:worker(0)
      for _, how in ipairs { "set", "fetch", "override", "overrides" } do
        if id == 1 then
          worker:run(STORE, how, how, 60)
        else
          assert.equal("l2", (select(3, worker:run([[return cache:get(...)]], how))))
        end
        local ttl = helper.wait_until(function() -- its life in L1 may be over, and begins anew with what Redis has
          return worker:run([[
            local key = ...
            cache:get(key)
            local info = cache:peek(key)
            return info and info.ttl
          ]], how)
        end)
        assert.is_true(ttl <= 0.1, how .. ": " .. ttl .. " s left")
      end
      for _, how in ipairs { "set", "fetch", "override", "overrides" } do
        helper.wait_until(function() return worker:run([[return cache:peek(...) == nil]], how) end)
        assert.equal("l2", (select(3, worker:run([[return cache:get(...)]], how))))
      end
    end
  end)
end)

describe("expiration_jitter", function()
  -- Lives of 200 values in ms, as L1 and Redis have them: least, most, and how many differ.
  local function spread(list)
    local seen, least, most, different = {}, math.huge, 0, 0
    for _, life in ipairs(list) do
      least, most = math.min(least, life), math.max(most, life)
      different = different + (seen[life] and 0 or 1)
      seen[life] = true
    end
    return least, most, different
  end

  local MAKE = [[
    local how, share = ...
    local lives = {}
    for i = 1, 200 do
      local key = how .. i
      if how == "set" then
        assert(cache:set(key, i, 100))
      else
        cache:fetch(key, 100, function() return i end, nil, { expiration_jitter = share })
      end
      local info = cache:peek(key) -- nil: of lives down to nothing one may be over
      lives[i] = info and math.floor(info.ttl * 1000 + 0.5) or 0
    end
    return lives
  ]]

  it("shortens each life by a random part up to its share, in L1 and in Redis alike", function()
    local redis = helper.redis()
    local n = node.start { options = { redis = node.patient(redis), expiration_jitter = 0.4 } }
    n:wait_subscribed()
    for _, how in ipairs { "set", "fetch" } do
      local least, most, different = spread(n:run(MAKE, how))
      assert.is_true(least >= 60000 * 0.98 and least < 65000, "least " .. least)
      assert.is_true(most <= 100000 and most > 95000, "most " .. most)
      assert.is_true(different > 150, different .. " of 200 differ")
      for i = 1, 200, 20 do
        local l1 = n:run([[return cache:peek(...).ttl * 1000]], how .. i)
        local l2 = redis:command("PTTL", redis:command("KEYS", "*:v:" .. how .. i)[1])
        assert.is_true(math.abs(l1 - l2) < 2000, l1 .. " in L1, " .. l2 .. " in Redis") -- of 40000 that are drawn from
      end
    end
  end)

  it("of a call goes before that of the cache; none leaves lives alone", function()
    local n = node.start { options = { expiration_jitter = 1 } }
    local least, most = spread(n:run(MAKE, "fetch", 0))
    assert.is_true(least > 99000 and most <= 100000, least .. " to " .. most)
    local shortest = spread(n:run(MAKE, "again", 1))
    assert.is_true(shortest < 10000, tostring(shortest))
  end)

  it("spreads what l1_ttl has cut as well", function()
    local n = node.start { options = { l1_ttl = 50, expiration_jitter = 0.5 } }
    local least, most, different = spread(n:run(MAKE, "set"))
    assert.is_true(least >= 24500 and least < 28000 and most <= 50000 and most > 47000, least .. " to " .. most)
    assert.is_true(different > 150, different .. " of 200 differ")
  end)

  it("draws other numbers in each worker", function()
    local n = node.start { options = { expiration_jitter = 1 } }
    local one, two = n:worker(0):run(MAKE, "set"), n:worker(1):run(MAKE, "fetch", 1)
    local equal = 0
    for i = 1, 200 do
      equal = equal + (math.abs(one[i] - two[i]) < 5 and 1 or 0)
    end
    assert.is_true(equal < 20, equal .. " of 200 are the same")
  end)
end)

describe("touch", function()
  local TTL = [[local info = cache:peek(...) return info and info.ttl]]

  it("gives a value another life on this host, at once, in L0 and in L1", function()
    local n = node.start { options = { l1_ttl = 100 } }
    local one, two = n:worker(0), n:worker(1)
    assert.is_false(one:run [[return cache:touch("k", 60)]])
    local touches = 1
    helper.wait_until(function() -- on a busy machine its life may be over before all of that is done
      one:run [[cache:set("k", { "value" }, 0.2, "t")]]
      for _, worker in ipairs { one, two } do
        if worker:run [[cache:get "k" local value = cache:get "k" return value and value[1] ]] ~= "value" then
          return false
        end
      end
      touches = touches + 1
      return two:run [[return cache:touch("k", 60)]]
    end)
    helper.sleep(0.22)
    for _, worker in ipairs { one, two } do
      local ttl = worker:run(TTL, "k")
      assert.is_true(ttl > 50 and ttl < 60, tostring(ttl))
      assert.equal("value", worker:run [[return cache:get("k")[1] ]])
    end
    assert.same({ "t" }, one:run [[return cache:peek("k").tags]])
    -- shorter: L0 of the other worker forgets the end that it knew
    assert.equal("l0", (select(3, two:run [[cache:get "k" return cache:get "k"]])))
    assert.is_true(one:run [[return cache:touch("k", 0.05)]])
    assert.is_true((two:run(TTL, "k") or 0) <= 0.05)
    helper.wait_until(function() return two:run [[return cache:get "k"]] == nil end)
    assert.is_false(two:run [[return cache:touch("k", 60)]])
    -- never beyond l1_ttl
    one:run [[cache:set("k", 1, 10) assert(cache:touch("k", 1000))]]
    assert.is_true(one:run(TTL, "k") <= 100)
    one:run [[cache:set("k", 1, 10) assert(cache:touch("k"))]]
    local ttl = one:run(TTL, "k")
    assert.is_true(ttl > 90 and ttl <= 100, tostring(ttl))
    -- a tag that is invalidated takes what was touched with it; "no such thing" has a life, too
    one:run [[cache:set("k", 1, 10, "t") assert(cache:touch("k", 60)) cache:invalidate_tags "t"]]
    assert.is_nil((two:run [[return cache:get "k"]]))
    one:run [[cache:set("k", nil, 10) assert(cache:touch("k", 60))]]
    assert.is_true(two:run [[local info = cache:peek "k" return info.negative and info.ttl > 50]])
    assert.equal(touches + 6, n:stats().touches)
    n:assert_clean_log()
  end)

  it("changes the life in Redis, and the other nodes learn of a shorter one", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { redis = node.patient(redis) } })
    local here, there = a:worker(0), b:worker(0)
    local function pttl(kind, name)
      return redis:command("PTTL", redis:command("KEYS", "*:" .. kind .. ":" .. name)[1])
    end
    assert.is_false(here:run [[return cache:touch("k", 60)]])
    helper.wait_until(function() -- on a busy machine its life may be over before all of that is done
      here:run [[assert(cache:set("k", "value", 1, { "t", "u" }))]]
      local source = select(3, there:run [[return cache:get "k"]])
      assert.is_true(source == "l2" or source == nil, source)
      return source and here:run [[return cache:touch("k", 7200)]]
    end)
    assert.is_true(pttl("v", "k") > 7100000)
    assert.is_true(pttl("t", "t") > 7100000 + 3500000)
    assert.is_true(pttl("t", "u") > 7100000 + 3500000)
    -- the other node's copy ends where it did, and is read anew
    helper.wait_until(function() return there:run [[return cache:peek "k" == nil]] end)
    assert.same({ "value", nil, "l2" }, { there:run [[return cache:get "k"]] })
    assert.equal("l0", (select(3, there:run [[return cache:get "k"]])))
    assert.equal("value", (here:run [[return cache:get "k"]]))
    -- shorter: its copy goes with the message, long before its own end
    assert.is_true(here:run [[return cache:touch("k", 600)]])
    helper.wait_until(function() return there:run [[return cache:peek "k" == nil]] end)
    assert.equal("value", (here:run [[return cache:get "k"]]))
    assert.is_true(here:run [[return cache:touch("k", 0.5)]])
    assert.is_true(pttl("v", "k") <= 500)
    helper.wait_until(function() return here:run [[return cache:get "k"]] == nil end)
    helper.wait_until(function() return there:run [[return cache:get "k"]] == nil end)
    -- what this node does not hold, it can touch as well
    here:run [[assert(cache:set("far", "value", 20, "t"))]]
    assert.is_true(there:run [[return cache:touch("far", 100)]])
    assert.is_true(pttl("v", "far") > 90000)
    assert.is_true(here:run [[return cache:invalidate_tags "t"]])
    assert.is_false(there:run [[return cache:touch("far", 100)]])
    a:assert_clean_log()
    b:assert_clean_log()
  end)

  it("without Redis for a while acts on this host, and says so", function()
    local redis = helper.redis()
    local n = node.start { options = { redis = node.patient(redis), disconnected_ttl = 100 } }
    n:wait_subscribed()
    n:run [[assert(cache:set("k", "value", 60))]]
    redis:kill()
    helper.wait_until(function() return not n:stats().subscribed end)
    local ok, err = n:run [[return cache:touch("k", 30)]]
    assert.is_nil(ok)
    assert.matches("^gorge: touch: done on this host, but not in Redis: ", err)
    assert.is_true(n:run(TTL, "k") <= 30)
    -- nobody knows what happens to it meanwhile: it is not kept for longer
    ok, err = n:run [[return cache:touch("k", 1000)]]
    assert.is_nil(ok)
    assert.matches("^gorge: touch: done on this host, but not in Redis: ", err)
    local ttl = n:run(TTL, "k")
    assert.is_true(ttl > 25 and ttl <= 30, ttl)
  end)

  it("of what only this host has is true", function()
    local redis = helper.redis()
    local n = node.start { options = { redis = node.patient(redis) } }
    n:wait_subscribed()
    n:run [[assert(cache:set("k", "value", 20))]]
    redis:command("DEL", redis:command("KEYS", "*:v:k")[1])
    assert.is_true(n:run [[return cache:touch("k", 60)]])
    assert.is_true(n:run(TTL, "k") > 50)
  end)

  it("takes a key and a ttl", function()
    local n = node.start { options = {} }
    local raised, why = n:run [[return pcall(function() cache:touch(5) end)]]
    assert.is_false(raised)
    assert.matches("^posted:1: gorge: key must be a string, got 5$", why)
    for _, ttl in ipairs { "0", "-1", "0/0", "'1'" } do
      local ok, err = n:run("return pcall(function() cache:touch('k', " .. ttl .. ") end)")
      assert.is_false(ok)
      assert.matches("gorge: ttl must be a number of seconds greater than 0", err)
    end
    assert.same({ nil, "gorge: key must not be empty" }, { n:run [[return cache:touch("", 1)]] })
  end)

  it("in a phase that cannot wait tells Redis all the same", function()
    local redis = helper.redis()
    local n = node.start {
      options = { redis = node.patient(redis) },
      server = [[location = /log { return 204; log_by_lua_block {
        local app = require "spec.nginx.app"
        app.counts:set("said", tostring(select(2, app.cache:touch("k", 60)))) } }]],
    }
    n:wait_subscribed()
    n:run [[assert(cache:set("k", "value", 20))]]
    n.nginx:get "/log"
    helper.wait_until(function()
      return redis:command("PTTL", redis:command("KEYS", "*:v:k")[1]) > 30000
    end)
    assert.matches("^would block: the phase 'log' cannot yield; this host is done, Redis was told", n:run [[return counts:get "said"]])
  end)
end)
