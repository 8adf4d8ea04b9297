-- SPDX-License-Identifier: MIT
-- fetch_many in a plain LuaJIT program: what it returns, what the loader may return, coroutines that ask for the same keys.
local helper = require "spec.helper"
local gorge = require "gorge"

local function new(options)
  options = options or {}
  options.namespace = options.namespace or helper.unique_name "many"
  options.l1_size = options.l1_size or "4m"
  return assert(gorge.new(options))
end

-- For a test that fills several keys at once and then looks for all of them in L1.
local function new_roomy(options)
  options = options or {}
  options.l1_size = helper.ROOMY
  return new(options)
end

-- A loader that notes which keys it was run for; `results` are given out by key.
local function loader(results)
  local runs = {}
  return function(keys)
    runs[#runs + 1] = table.concat(keys, " ")
    local values = {}
    for _, key in ipairs(keys) do
      if results then
        values[key] = results[key]
      else
        values[key] = "value of " .. key
      end
    end
    return values
  end, runs
end

local function not_run()
  error "not to be run"
end

describe("fetch_many", function()
  it("runs the loader once for what is missing, and answers the rest from L0 or L1", function()
    local load, runs = loader()
    for objects, layer in pairs { [100] = "l0", [0] = "l1" } do
      local cache = new_roomy { l1_objects = objects }
      cache:fetch("b", 60, function() return "b was there" end)
      local values, errs, sources = cache:fetch_many({ "a", "b", "c" }, 60, load)
      assert.same({ a = "value of a", b = "b was there", c = "value of c" }, values)
      assert.same({}, errs)
      assert.same({ a = "fn", b = layer, c = "fn" }, sources)
      assert.same({ "a c" }, runs)
      runs[1] = nil
      values, errs, sources = cache:fetch_many({ "a", "b", "c" }, 60, not_run)
      assert.same({ a = "value of a", b = "b was there", c = "value of c" }, values)
      assert.same({ a = layer, b = layer, c = layer }, sources)
      assert.same({}, errs)
      assert.equal("value of a", (cache:fetch("a", 60, not_run)))
      assert.equal(0, cache:stats().fills_running)
    end
  end)

  it("takes a key that stands twice for one, and no keys for nothing", function()
    local load, runs = loader()
    local cache = new()
    assert.same({ { a = "value of a", b = "value of b" }, {}, { a = "fn", b = "fn" } }, { cache:fetch_many({ "a", "b", "a", "a" }, 60, load) })
    assert.same({ "a b" }, runs)
    assert.same({ { a = "value of a" }, {}, { a = "l0" } }, { cache:fetch_many({ "a", "a" }, 60, not_run) })
    assert.same({ {}, {}, {} }, { cache:fetch_many({}, 60, not_run) })
  end)

  it("tells false, \"no such thing\" and an error apart, and remembers the first two", function()
    local cache = new_roomy()
    local runs = 0
    local function load()
      runs = runs + 1
      return { no = false, list = { 1 } }, { broken = "no luck" }
    end
    local values, errs, sources = cache:fetch_many({ "no", "none", "broken", "list" }, 60, load)
    assert.same({ no = false, list = { 1 } }, values)
    assert.same({ broken = "no luck" }, errs)
    assert.same({ no = "fn", none = "fn", list = "fn" }, sources)
    values, errs, sources = cache:fetch_many({ "no", "none", "list" }, 60, not_run)
    assert.same({ { no = false, list = { 1 } }, {}, { no = "l0", none = "l0", list = "l0" } }, { values, errs, sources })
    assert.same({ nil, nil, "l0" }, { cache:fetch("none", 60, not_run) })
    cache:fetch_many({ "broken" }, 60, load)
    assert.equal(2, runs)
  end)

  it("keeps \"no such thing\" for negative_cache_ttl, other values for the ttl", function()
    local cache = new_roomy()
    cache:fetch_many({ "there", "none" }, 500, loader { there = 1 }, nil, { negative_cache_ttl = 20 })
    assert.is_true(math.abs(cache:peek("there").ttl - 300) < 5) -- l1_ttl
    assert.is_true(math.abs(cache:peek("none").ttl - 20) < 5)
    assert.is_true(cache:peek("none").negative)
  end)

  it("gives keys that cannot be keys their error, and goes on with the rest", function()
    local cache = new()
    local load, runs = loader()
    local long = ("k"):rep(8193)
    local values, errs = cache:fetch_many({ "", "a", long }, 60, load)
    assert.same({ a = "value of a" }, values)
    assert.same({ [""] = "gorge: key must not be empty", [long] = "gorge: key must have at most 8192 bytes, got 8193" }, errs)
    assert.same({ "a" }, runs)
  end)

  it("gives an error of the whole run to all keys, and what went wrong with some to those", function()
    local cache = new()
    local reason = { code = 7 }
    local function errors_of(fn)
      local values, errs = cache:fetch_many({ "a", "b" }, 60, fn)
      cache:delete "a"
      return errs, values
    end
    assert.same({ a = "down", b = "down" }, errors_of(function() return nil, "down" end))
    assert.equal(reason, errors_of(function() return nil, reason end).b)
    assert.same({ a = "gorge: fn raised: broken", b = "gorge: fn raised: broken" }, errors_of(function() error("broken", 0) end))
    assert.equal(reason, errors_of(function() error(reason) end).a)
    local no_table = "gorge: fn must return a table of values by key, got "
    assert.same({ a = no_table .. "nil", b = no_table .. "nil" }, errors_of(function() end))
    assert.same({ a = no_table .. "5", b = no_table .. "5" }, errors_of(function() return 5 end))
    local errs, values = errors_of(function() return { a = 1 }, "cut off" end)
    assert.same({ { b = "cut off" }, { a = 1 } }, { errs, values })
    errs, values = errors_of(function() return { a = 1 }, { a = "not taken: there is a value", b = reason } end)
    assert.same({ { b = reason }, { a = 1 } }, { errs, values })
    errs, values = errors_of(function() return { a = print, b = 2 } end)
    assert.same({ { a = 'gorge: key "a": value: cannot serialize a function' }, { b = 2 } }, { errs, values })
    assert.equal(0, cache:stats().fills_running)
  end)

  it("stores nothing of a run that failed", function()
    local cache = new()
    local load, runs = loader()
    cache:fetch_many({ "a", "b" }, 60, function() return nil, "down" end)
    assert.is_nil(cache:peek "a")
    cache:fetch_many({ "a", "b" }, 60, load)
    assert.same({ "a b" }, runs)
  end)

  it("takes tables with metatables, also such that raise", function()
    local cache = new()
    local function strict(of)
      return setmetatable(of or {}, { __index = function(_, key) error("there is no " .. key, 0) end })
    end
    for i, results in ipairs { { strict() }, { {}, strict() }, { { [1] = nil }, {}, strict() } } do
      local key = "k" .. i
      local values, errs = cache:fetch_many({ key, "other" .. i }, 60, function() return unpack(results, 1, 3) end)
      assert.same({}, values)
      assert.matches("^gorge: fn raised: there is no ", errs[key])
      assert.equal("again", cache:fetch_many({ key }, 60, function(keys)
        keys[1] = nil -- the loader's own
        return setmetatable({}, { __index = function(_, name) return name == key and "again" or nil end })
      end)[key])
    end
    assert.equal(0, cache:stats().fills_running)
  end)

  it("ignores what the loader returns of keys that were not asked for", function()
    local cache = new()
    assert.same({ a = 1 }, (cache:fetch_many({ "a" }, 60, function() return { a = 1, b = 2 } end)))
    assert.is_nil(cache:peek "b")
  end)

  it("takes overrides by key, or one ttl for all", function()
    local cache = new_roomy()
    local _, errs = cache:fetch_many({ "short", "tagged", "unkept", "plain", "wrong" }, 60, function()
      return { short = 1, tagged = 2, unkept = 3, plain = 4, wrong = 5 }, nil,
        { short = 5, tagged = { tags = "t2", ttl = 7 }, unkept = { no_store = true }, wrong = { tll = 1 } }
    end, "t1")
    assert.same({ wrong = 'gorge: key "wrong": override "tll" is not one of ttl, tags, stale_ttl, no_store' }, errs)
    assert.is_true(cache:peek("short").ttl <= 5 and cache:peek("tagged").ttl <= 7 and cache:peek("plain").ttl > 50)
    assert.same({ { "t1" }, { "t2" } }, { cache:peek("short").tags, cache:peek("tagged").tags })
    assert.is_nil(cache:peek "unkept")
    cache:fetch_many({ "all 1", "all 2" }, 60, function() return { ["all 1"] = 1, ["all 2"] = 2 }, nil, 3 end)
    assert.is_true(cache:peek("all 1").ttl <= 3 and cache:peek("all 2").ttl <= 3)
    _, errs = cache:fetch_many({ "x" }, 60, function() return { x = 1 }, nil, "soon" end)
    assert.same({ x = 'gorge: the third value that fn returns must be a ttl or a table by key, got "soon"' }, errs)
    _, errs = cache:fetch_many({ "y", "z" }, 60, function() return { 1, 2 } end) -- not "no such thing"
    local array = "gorge: fn must return a table of values by key, got an array"
    assert.same({ y = array, z = array }, errs)
  end)

  it("puts the tags on all values, negative ones too", function()
    local cache = new()
    cache:fetch_many({ "a", "none" }, 60, loader { a = 1 }, { "t" })
    assert.is_true(cache:invalidate_tags "t")
    assert.same({ { a = 2, none = 3 }, {}, { a = "fn", none = "fn" } }, { cache:fetch_many({ "a", "none" }, 60, loader { a = 2, none = 3 }) })
  end)

  it("passes arguments to the loader, and hands out private copies when asked to", function()
    local cache = new()
    local function load(keys, ...)
      return { [keys[1]] = { ... } }
    end
    assert.same({ k = { 1, nil, 3 } }, (cache:fetch_many({ "k" }, 60, load, nil, { args = { 1, nil, 3, n = 3 } })))
    local values = cache:fetch_many({ "k" }, 60, not_run, nil, { clone = true })
    values.k[1] = "changed"
    assert.same({ k = { 1, nil, 3 } }, (cache:fetch_many({ "k" }, 60, not_run)))
  end)

  it("raises at the caller's line when an argument is wrong", function()
    local cache = new()
    local function message(...)
      local args, n = { ... }, select("#", ...)
      local ok, err = pcall(function()
        local values = cache:fetch_many(unpack(args, 1, n))
        return values
      end)
      assert.is_false(ok)
      assert.matches("^[^:]*spec/ffi/fetch_many_spec.lua:%d+: ", err)
      return err:match "gorge: .*"
    end
    assert.equal('gorge: keys must be an array of strings, got "k"', message("k", 60, not_run))
    assert.equal("gorge: keys must be an array of strings, got a table with other keys", message({ k = 1 }, 60, not_run))
    assert.equal("gorge: keys[2] must be a string, got 5", message({ "k", 5 }, 60, not_run))
    local gap = { "j" }
    gap[3] = "l"
    for _, keys in ipairs { { "j", nil, "l" }, gap } do
      assert.matches("^gorge: keys.*, got nil", message(keys, 60, not_run))
    end
    assert.matches("^gorge: ttl must be", message({ "k" }, -1, not_run))
    assert.equal("gorge: fn must be a function, got nil", message({ "k" }, 60))
    assert.matches("^gorge: tags must be", message({ "k" }, 60, not_run, 5))
    assert.equal("gorge: unknown option 'clnoe', did you mean 'clone'?", message({ "k" }, 60, not_run, nil, { clnoe = true }))
    cache = new { metrics = {} } -- through the methods that tell
    assert.equal("gorge: keys[2] must be a string, got 5", message({ "k", 5 }, 60, not_run))
    cache = new { cache_read_disabled = true }
    assert.equal("gorge: keys[2] must be a string, got 5", message({ "k", 5 }, 60, not_run))
  end)

  it("takes 1,000 keys and not one more", function()
    local cache = new()
    local keys = {}
    for i = 1, 1000 do
      keys[i] = "k" .. i
    end
    local values, errs = cache:fetch_many(keys, 60, (loader()))
    assert.same({ "value of k1", "value of k1000" }, { values.k1, values.k1000 })
    assert.same({}, errs)
    keys[1001] = "k1001"
    assert.same({ nil, "gorge: fetch_many takes at most 1000 keys, got 1001", nil }, { cache:fetch_many(keys, 60, not_run) })
    assert.equal(0, cache:stats().fills_running)
  end)

  it("says that the cache is closed", function()
    local cache = new()
    local values, err = cache:fetch_many({ "a" }, 60, function()
      cache:close()
      return { a = 1 }
    end)
    assert.same({ { a = 1 }, {} }, { values, err })
    assert.same({ nil, "closed", nil }, { cache:fetch_many({ "a" }, 60, not_run) })
  end)

  it("runs the loader for each call when reading is disabled", function()
    local load, runs = loader { a = 1 }
    local cache = new { cache_read_disabled = true }
    for _ = 1, 2 do
      assert.same({ { a = 1 }, { [""] = "gorge: key must not be empty" }, { a = "fn", none = "fn" } },
        { cache:fetch_many({ "a", "none", "a", "" }, 60, load) })
    end
    assert.same({ "a none", "a none" }, runs)
    assert.is_nil(cache:peek "a")
  end)

  it("tells metrics of each key", function()
    local counts = {}
    local metrics = {}
    for _, name in ipairs { "inc_l1_hits", "inc_l1_misses", "inc_db_fetches", "inc_db_errors" } do
      counts[name] = 0
      metrics[name] = function() counts[name] = counts[name] + 1 end
    end
    local cache = new_roomy { metrics = metrics }
    cache:fetch_many({ "a", "b" }, 60, loader { a = 1 })
    cache:fetch_many({ "a", "b", "c" }, 60, function() return nil, "down" end)
    assert.same({ inc_l1_hits = 2, inc_l1_misses = 3, inc_db_fetches = 2, inc_db_errors = 1 }, counts)
  end)
end)

describe("fetch_many in coroutines", function()
  it("answers from L0 and L1 without a switch to another coroutine", function()
    for _, objects in ipairs { 100, 0 } do
      local cache = new_roomy { l1_objects = objects }
      cache:fetch_many({ "a", "b" }, 60, (loader()))
      gorge.run(function()
        local others = 0
        gorge.spawn(function() others = others + 1 end)
        cache:fetch_many({ "a", "b", "a" }, 60, not_run)
        assert.equal(0, others)
      end)
    end
  end)

  it("runs the loader once for each key, in whatever order calls that overlap name them", function()
    local cache = new_roomy()
    local runs, of_key = 0, {}
    local function load(keys)
      runs = runs + 1
      local values = {}
      for _, key in ipairs(keys) do
        of_key[key] = (of_key[key] or 0) + 1
        values[key] = "value of " .. key
      end
      gorge.sleep(0.02)
      return values
    end
    local lists = { { "a", "b", "c" }, { "c", "b", "d" }, { "d", "a", "e" }, { "e", "d", "c", "b", "a" }, { "b" } }
    gorge.run(function()
      for _, keys in ipairs(lists) do
        gorge.spawn(function()
          local values, errs = cache:fetch_many(keys, 60, load)
          for _, key in ipairs(keys) do
            assert.equal("value of " .. key, values[key])
          end
          assert.same({}, errs)
        end)
        gorge.spawn(function() assert.equal("value of " .. keys[1], (cache:fetch(keys[1], 60, function() return "value of " .. keys[1] end))) end)
      end
    end)
    assert.same({ a = 1, b = 1, c = 1, d = 1, e = 1 }, of_key)
    assert.equal(3, runs) -- a b c, d, e
    assert.equal(0, cache:stats().fills_running)
  end)

  it("publishes its own fills before it waits for others", function()
    local cache = new()
    local order = {}
    gorge.run(function()
      local open = false
      gorge.spawn(function()
        cache:fetch("theirs", 60, function()
          while not open do
            gorge.sleep(0.001)
          end
          return 1
        end)
      end)
      gorge.spawn(function()
        assert.same({ theirs = 1, ours = 2 }, (cache:fetch_many({ "theirs", "ours" }, 60, function(keys)
          assert.same({ "ours" }, keys)
          return { ours = 2 }
        end)))
        order[#order + 1] = "both"
      end)
      repeat
        gorge.sleep(0.001)
      until cache:get "ours" ~= nil
      order[#order + 1] = "ours"
      open = true
    end)
    assert.same({ "ours", "both" }, order)
  end)

  it("gives a failure to those who wait for it, by key", function()
    local cache = new()
    gorge.run(function()
      gorge.spawn(function()
        cache:fetch_many({ "a", "b" }, 60, function()
          gorge.sleep(0.02)
          return { a = 1 }, { b = "no luck" }
        end)
      end)
      gorge.sleep(0)
      local values, errs, sources = cache:fetch_many({ "a", "b" }, 60, not_run)
      assert.same({ { a = 1 }, { b = "no luck" }, { a = "l0" } }, { values, errs, sources })
    end)
  end)

  it("does what on_lock_timeout says when others take too long", function()
    local cache = new { wait_timeout = 0.05 }
    gorge.run(function()
      local open = false
      gorge.spawn(function()
        cache:fetch("slow", 60, function()
          while not open do
            gorge.sleep(0.001)
          end
        end)
      end)
      gorge.sleep(0)
      local values, errs = cache:fetch_many({ "slow", "quick" }, 60, (loader()), nil, { on_lock_timeout = "error" })
      assert.same({ quick = "value of quick" }, values)
      assert.same({ slow = "gorge: key \"slow\": waited 0.05 s for somebody else's fill" }, errs)
      assert.same({ { slow = "value of slow" }, {}, { slow = "fn" } }, { cache:fetch_many({ "slow" }, 60, (loader())) })
      open = true
    end)
  end)

  it("says so when the loader asks for a key that it is loading", function()
    local cache = new()
    local inner
    cache:fetch_many({ "a", "b" }, 60, function()
      inner = { cache:fetch_many({ "b", "c" }, 60, (loader())) }
      return { a = 1, b = 2 }
    end)
    assert.same({ { c = "value of c" }, { b = 'gorge: key "b": fn fetches the key that it is loading' } }, { inner[1], inner[2] })
    assert.is_true(cache:peek("b") ~= nil)
  end)
end)
