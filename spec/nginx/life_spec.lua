-- SPDX-License-Identifier: MIT
-- How long a value lives: to the millisecond, never beyond l1_ttl in L1, and shortened at random when asked.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

-- The cache reads the kernel's coarse clock, which moves once a tick: every 10 ms where ticks are rarest.
local GRAIN = 10

-- Asks all the time until the value is gone; returns when the last question was asked that had an answer, in ms after it was stored,
-- when it was gone, in ms after it began to be stored, and the sources that answered.
local WATCH = [[
  local key, before, after = ...
  local sources, last = {}, 0
  while true do
    local asked = now()
    local value, err, source = cache:get(key)
    local gone = (now() - before) * 1000
    if err then
      return nil, err
    elseif value == nil or gone > 5000 then
      return last, gone, sources.l0 or 0, sources.l1 or 0, sources.l2 or 0
    end
    last = (asked - after) * 1000
    sources[source] = (sources[source] or 0) + 1
    ngx.sleep(0.001)
  end
]]

--- The value is there for `ms` and then gone, in every layer that is asked.
local function assert_lives(ms, worker, key, layers, before, after)
  local last, gone, l0, l1, l2 = worker:run(WATCH, key, before, after)
  assert.is_number(last, gone)
  assert.is_true(gone >= ms - GRAIN, ("gone after %.1f ms of %d"):format(gone, ms))
  assert.is_true(last <= ms + GRAIN, ("served after %.1f ms of %d"):format(last, ms))
  local seen = { l0 = l0, l1 = l1, l2 = l2 }
  for _, layer in ipairs(layers) do
    assert.is_true(seen[layer] > 0, layer .. " never answered")
  end
end

local STORE = [[
  local how, key, ttl = ...
  local before = now()
  if how == "set" then
    assert(cache:set(key, "value", ttl))
  elseif how == "fetch" then
    cache:fetch(key, ttl, function() return "value" end)
  elseif how == "override" then
    cache:fetch(key, 60, function() return "value", nil, ttl end)
  else
    cache:fetch(key, 60, function() return false, nil, { ttl = ttl } end)
  end
  return before, now()
]]

describe("a life of 50 ms ends after 50 ms", function()
  it("without Redis, in L0 and in L1", function()
    local n = node.start { options = {} }
    local workers = { n:worker(0), n:worker(1) }
    for _, how in ipairs { "set", "fetch", "override", "overrides" } do
      assert_lives(50, workers[1], how, { "l0" }, workers[1]:run(STORE, how, how, 0.05))
      local afar = how .. " from afar"
      assert_lives(50, workers[2], afar, { "l1", "l0" }, workers[1]:run(STORE, how, afar, 0.05))
    end
    n:assert_clean_log()
  end)

  it("with Redis, in L2 and on other nodes, too", function()
    local redis = helper.redis()
    local a, b = node.pair(redis)
    local here, there = a:worker(0), b:worker(0)
    for _, how in ipairs { "set", "fetch", "override", "overrides" } do
      assert_lives(50, here, how, { "l0" }, here:run(STORE, how, how, 0.05))
      local afar = how .. " from afar"
      assert_lives(50, there, afar, { "l2", "l0" }, here:run(STORE, how, afar, 0.05))
    end
    here:run([[assert(cache:set("k", 1, 0.05))]])
    local left = redis:command("PTTL", redis:command("KEYS", "*:v:k")[1])
    assert.is_true(left > 0 and left <= 50, left .. " ms left in Redis")
  end)

  it("and one below a millisecond counts as one", function()
    local n = node.start { options = {} }
    local worker = n:worker(0)
    assert_lives(1, worker, "k", {}, worker:run(STORE, "set", "k", 1e-9))
  end)
end)

describe("l1_ttl", function()
  it("bounds the life in L0 and L1 of what is set, filled, and read from Redis; Redis keeps the whole ttl", function()
    local a, b = node.pair(helper.redis(), { options = { l1_ttl = 0.1 } })
    for id, n in ipairs { a, b } do
      local worker = n:worker(0)
      for _, how in ipairs { "set", "fetch", "override", "overrides" } do
        if id == 1 then
          worker:run(STORE, how, how, 60)
        else
          assert.equal("l2", (select(3, worker:run([[return cache:get(...)]], how))))
        end
        local ttl = worker:run([[return cache:peek(...).ttl]], how)
        assert.is_true(ttl <= 0.1, how .. ": " .. ttl .. " s left")
      end
      helper.sleep(0.11)
      for _, how in ipairs { "set", "fetch", "override", "overrides" } do
        assert.is_nil(worker:run([[return cache:peek(...)]], how))
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
      lives[i] = math.floor(cache:peek(key).ttl * 1000 + 0.5)
    end
    return lives
  ]]

  it("shortens each life by a random part up to its share, in L1 and in Redis alike", function()
    local redis = helper.redis()
    local n = node.start { options = { redis = redis.url, expiration_jitter = 0.4 } }
    n:run [[cache:get "link"]]
    helper.wait_until(function() return n:stats().subscribed end)
    for _, how in ipairs { "set", "fetch" } do
      local least, most, different = spread(n:run(MAKE, how))
      assert.is_true(least >= 60000 * 0.98 and least < 65000, "least " .. least)
      assert.is_true(most <= 100000 and most > 95000, "most " .. most)
      assert.is_true(different > 150, different .. " of 200 differ")
      for i = 1, 200, 20 do
        local l1 = n:run([[return cache:peek(...).ttl * 1000]], how .. i)
        local l2 = redis:command("PTTL", redis:command("KEYS", "*:v:" .. how .. i)[1])
        assert.is_true(math.abs(l1 - l2) < 100, l1 .. " in L1, " .. l2 .. " in Redis")
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
