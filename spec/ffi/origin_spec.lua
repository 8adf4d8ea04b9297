-- SPDX-License-Identifier: MIT
-- The option origin in a plain program: so many runs at once, a queue, a breaker, and what those get that are refused.
local helper = require "spec.helper"
local gorge = require "gorge"

local OPEN = "fn is not run: the circuit breaker of the origin is open"

local function new(origin, options)
  options = options or {}
  options.namespace, options.origin = options.namespace or helper.unique_name "origin", origin
  options.l1_size = options.l1_size or "4m"
  return assert(gorge.new(options))
end

local function fails()
  return nil, "down"
end

local function returns(value)
  return function() return value end
end

-- A loader that counts how many of its runs are under way.
local function counting(seconds)
  local seen = { now = 0, most = 0, order = {} }
  return function(key)
    seen.now = seen.now + 1
    seen.most = math.max(seen.most, seen.now)
    seen.order[#seen.order + 1] = key
    gorge.sleep(seconds)
    seen.now = seen.now - 1
    return key
  end, seen
end

describe("origin.max_concurrency", function()
  it("lets so many loaders run at once; the others wait", function()
    local cache = new { max_concurrency = 2 }
    local load, seen = counting(0.002)
    local answered, open = 0, false
    gorge.run(function()
      for i = 1, 9 do
        gorge.spawn(function()
          assert.same({ "k" .. i, nil, "fn" }, { cache:fetch("k" .. i, 60, function(key)
            while not open do
              gorge.sleep(0.001)
            end
            return load(key)
          end) })
          answered = answered + 1
        end)
      end
      gorge.sleep(0.001)
      assert.same({ 2, 7 }, { cache:stats().origin_running, cache:stats().origin_waits })
      open = true
    end)
    assert.same({ 9, 9 }, { answered, #seen.order })
    assert.is_true(seen.most <= 2)
    local stats = cache:stats()
    assert.same({ 0, 7, 0, 9 }, { stats.origin_running, stats.origin_waits, stats.origin_refused, stats.loads })
    assert.equal(0, stats.fills_running)
  end)

  it("serves who came first first", function()
    local cache = new { max_concurrency = 1 }
    local load, seen = counting(0.001)
    gorge.run(function()
      for i = 1, 7 do
        gorge.spawn(function() cache:fetch("k" .. i, 60, load) end)
      end
    end)
    assert.same({ "k1", "k2", "k3", "k4", "k5", "k6", "k7" }, seen.order)
  end)

  it("is shared by the handles of a namespace, and counts for no other", function()
    local name = helper.unique_name "origin"
    local one, two = new({ max_concurrency = 1 }, { namespace = name }), new({ max_concurrency = 1 }, { namespace = name })
    local other = new({ max_concurrency = 1 }, { zone = name })
    local load, seen = counting(0.02)
    gorge.run(function()
      for i, cache in ipairs { one, two, one, two } do
        gorge.spawn(function() assert.equal("k" .. i, (cache:fetch("k" .. i, 60, load))) end)
      end
      gorge.sleep(0.001)
      assert.equal(1, other:fetch("k", 60, returns(1)))
    end)
    assert.equal(1, seen.most)
  end)

  it("is no limit for hits, nor for those who share a fill", function()
    local cache = new { max_concurrency = 1 }
    cache:fetch("hit", 60, returns(1))
    local load, seen = counting(0.02)
    gorge.run(function()
      for _ = 1, 5 do
        gorge.spawn(function() assert.equal("shared", (cache:fetch("shared", 60, load))) end)
      end
      gorge.sleep(0.001)
      assert.equal(1, (cache:fetch("hit", 60, error)))
    end)
    assert.same({ 1, 0 }, { #seen.order, cache:stats().origin_waits })
  end)

  it("makes nobody wait longer than wait_timeout", function()
    local cache = new({ max_concurrency = 2 }, { wait_timeout = 0.05 })
    local err
    gorge.run(function()
      local open = false
      for i = 1, 2 do
        gorge.spawn(function()
          cache:fetch("slow " .. i, 60, function()
            while not open do
              gorge.sleep(0.001)
            end
          end)
        end)
      end
      gorge.sleep(0.001)
      err = select(2, cache:fetch("user:101", 60, returns(1)))
      open = true
    end)
    assert.equal('gorge: key "user:101": fn is not run: 2 runs are under way on this host, waited 0.05 s for one to end', err)
    local stats = cache:stats()
    assert.same({ 1, 1, 2, 0 }, { stats.origin_waits, stats.origin_refused, stats.loads, stats.load_errors })
    assert.equal(1, (cache:fetch("user:101", 60, returns(1))))
  end)

  it("gives a value past its end at once to those who would wait, if there is one", function()
    local cache = new({ max_concurrency = 1 }, { stale_if_error = 60, l1_size = helper.ROOMY })
    cache:fetch("old", 0.02, returns "older")
    cache:fetch_many({ "old 1", "old 2" }, 0.02, function() return { ["old 1"] = 1, ["old 2"] = 2 } end)
    helper.wait_until(function() return cache:peek("old").stale and cache:peek("old 2").stale end)
    gorge.run(function()
      local open, runs = false, 0
      gorge.spawn(function()
        cache:fetch("slow", 60, function()
          while not open do
            gorge.sleep(0.001)
          end
        end)
      end)
      gorge.sleep(0)
      assert.same({ "older", nil, "stale" }, { cache:fetch("old", 60, error) })
      gorge.spawn(function()
        while not open do
          gorge.sleep(0.001)
          open = runs == 0
        end
      end)
      local values, errs, sources = cache:fetch_many({ "old 1", "new", "old 2" }, 60, function(keys)
        runs = runs + 1
        assert.same({ "new" }, keys)
        return { new = 3 }
      end)
      assert.same({ { ["old 1"] = 1, ["old 2"] = 2, new = 3 }, {} }, { values, errs })
      assert.same({ ["old 1"] = "stale", ["old 2"] = "stale", new = "fn" }, sources)
    end)
    assert.same({ "newer", nil, "fn" }, { cache:fetch("old", 60, returns "newer") })
  end)

  it("counts a run of fetch_many once", function()
    local cache = new { max_concurrency = 1 }
    local running
    local values = cache:fetch_many({ "a", "b", "c" }, 60, function()
      running = cache:stats().origin_running
      return { a = 1, b = 2, c = 3 }
    end)
    assert.same({ { a = 1, b = 2, c = 3 }, 1 }, { values, running })
    assert.same({ 0, 0 }, { cache:stats().origin_running, cache:stats().origin_waits })
  end)

  it("bounds a cache that does not read, too", function()
    local cache = new({ max_concurrency = 2 }, { cache_read_disabled = true })
    local load, seen = counting(0.005)
    gorge.run(function()
      for _ = 1, 6 do
        gorge.spawn(function() assert.equal("k", (cache:fetch("k", 60, load))) end)
      end
      assert.same({ k = 1 }, (cache:fetch_many({ "k" }, 60, returns { k = 1 })))
    end)
    assert.same({ 2, 6 }, { seen.most, #seen.order })
  end)

  it("gives permits back whatever fn does", function()
    local cache = new { max_concurrency = 1 }
    cache:fetch("raises", 60, error)
    cache:fetch("fails", 60, fails)
    cache:fetch("no store", 60, function() return 1, nil, { no_store = true } end)
    cache:fetch("not to be stored", 60, function() return print end)
    cache:fetch_many({ "many" }, 60, error)
    assert.equal(0, cache:stats().origin_running)
    assert.equal(1, (cache:fetch("k", 60, returns(1))))
  end)
end)

describe("a small zone", function()
  it("has room for the limits of four namespaces, and says so", function()
    local zone = helper.unique_name "zone"
    local function another(i, origin, size)
      return gorge.new { namespace = "n" .. i, zone = zone .. (size or ""), l1_size = size or "2m", origin = origin }
    end
    for i = 1, 4 do
      assert(another(i, { max_concurrency = 1 }))
    end
    assert.same({ nil, "gorge: too many namespaces in this zone for origin.max_concurrency: a larger zone has room for more" },
      { another(5, { max_concurrency = 1 }) })
    local fifth = assert(another(5, { max_failures = 1 }))
    assert.equal(1, (fifth:fetch("k", 60, returns(1))))
    assert.equal(0, fifth:stats().origin_running)
    for i = 1, 32 do
      assert(another(i, { max_concurrency = 1 }, "16m"))
    end
  end)
end)

describe("origin.max_failures", function()
  it("stops running fn after so many failures in a row", function()
    local cache = new { max_failures = 3, timeout = 60 }
    cache:fetch("a", 60, fails)
    cache:fetch("b", 60, fails)
    cache:fetch("good", 60, returns(1)) -- not in a row
    for i = 1, 3 do
      assert.same({ nil, "down" }, { cache:fetch("k" .. i, 60, fails) })
    end
    assert.same({ nil, 'gorge: key "k": ' .. OPEN }, { cache:fetch("k", 60, error) })
    assert.same({ {}, { a = "gorge: " .. OPEN, b = "gorge: " .. OPEN }, {} }, { cache:fetch_many({ "a", "b" }, 60, error) })
    assert.equal(1, (cache:fetch("good", 60, error))) -- hits go on
    local stats = cache:stats()
    assert.same({ "open", 1, 6, 2, 5 }, { stats.origin, stats.origin_opens, stats.loads, stats.origin_refused, stats.load_errors })
    assert.equal("closed", stats.breaker)
    assert.equal(0, stats.fills_running)
  end)

  it("counts what fn raises, a whole run of fetch_many, and runs that take longer than anybody waits", function()
    local function opens(fn, wait_timeout)
      local cache = new({ max_failures = 1, timeout = 60 }, { wait_timeout = wait_timeout })
      fn(cache)
      return cache:stats().origin == "open"
    end
    assert.is_true(opens(function(cache) cache:fetch("k", 60, error) end))
    assert.is_true(opens(function(cache) cache:fetch_many({ "k" }, 60, fails) end))
    assert.is_true(opens(function(cache)
      gorge.run(function() cache:fetch("k", 60, function() gorge.sleep(0.05) end) end)
    end, 0.02))
    assert.is_false(opens(function(cache) cache:fetch("k", 60, returns(nil)) end))
    assert.is_false(opens(function(cache) cache:fetch("k", 60, returns(print)) end)) -- no fault of the database
    assert.is_false(opens(function(cache) cache:fetch_many({ "a", "b" }, 60, function() return {}, { a = "no luck" } end) end))
  end)

  it("serves values past their end while it refuses", function()
    local cache = new({ max_failures = 1, timeout = 60 }, { stale_if_error = 60 })
    cache:fetch("old", 0.02, returns "older")
    helper.wait_until(function() return cache:peek("old").stale end)
    cache:fetch("k", 60, fails)
    assert.same({ "older", nil, "stale" }, { cache:fetch("old", 60, error) })
    assert.same({ { old = "older" }, { none = "gorge: " .. OPEN }, { old = "stale" } }, { cache:fetch_many({ "old", "none" }, 60, error) })
    assert.same({ nil, 'gorge: key "old": ' .. OPEN }, { cache:fetch("old", 60, error, nil, { stale_if_error = 0 }) })
  end)

  it("lets one call try when its time is over; that one decides", function()
    local cache = new { max_failures = 1, timeout = 0.4 }
    local function round(probe)
      local runs, refused = 0, 0
      helper.wait_until(function()
        gorge.run(function()
          for i = 1, 10 do
            gorge.spawn(function()
              local _, err = cache:fetch("k" .. i, 60, function()
                runs = runs + 1
                gorge.sleep(0.01)
                return probe()
              end)
              refused = refused + ((err or ""):find(OPEN, 1, true) and 1 or 0)
            end)
          end
        end)
        return runs > 0
      end)
      return runs, refused
    end
    cache:fetch("k", 60, fails)
    assert.equal("open", cache:stats().origin)
    assert.equal(1, (round(fails)))
    assert.equal("open", cache:stats().origin)
    assert.equal(1, (round(returns(1))))
    assert.equal("closed", cache:stats().origin)
    assert.equal(9, (round(returns(1)))) -- one is in the cache
  end)

  it("tells on_event, metrics and Prometheus", function()
    local told = {}
    local cache = new({ max_failures = 1, timeout = 0.05, max_concurrency = 7 }, {
      on_event = function(name, fields) told[name] = fields end,
    })
    cache:fetch("k", 60, fails)
    helper.wait_until(function()
      cache:get "k"
      return told.origin_open
    end)
    assert.equal(1, told.origin_open.opens)
    assert.is_nil(told.breaker_open)
    local text = cache:prometheus()
    assert.matches('gorge_origin_breaker_state{[^}]*state="open"} 1\n', text)
    assert.matches("gorge_origin_running{[^}]*} 0\n", text)
    assert.matches("gorge_origin_opens_total{[^}]*} 1\n", text)
    helper.wait_until(function()
      cache:fetch("again", 60, returns(1))
      return told.origin_closed
    end)
    assert.is_nil(new(nil):prometheus():match "gorge_origin_running")
  end)
end)
