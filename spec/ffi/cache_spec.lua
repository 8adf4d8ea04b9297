-- SPDX-License-Identifier: MIT
-- A cache without Redis in a plain LuaJIT program.
local helper = require "spec.helper"
local gorge = require "gorge"

local count = 0
local function new(options)
  count = count + 1
  options = options or {}
  options.namespace = options.namespace or "cache-spec-" .. count
  options.l1_size = options.l1_size or "4m"
  return assert(gorge.new(options))
end

local function returns(value)
  return function() return value end
end

--- Inside gorge.run: a coroutine begins to load a key, and has "slow" for it once the function that is returned is called.
local function begin_slow(cache, key)
  local open = false
  gorge.spawn(function()
    cache:fetch(key, 60, function()
      while not open do
        gorge.sleep(0.001)
      end
      return "slow"
    end)
  end)
  return function() open = true end
end

describe("gorge.new", function()
  it("makes the same module available as resty.gorge", function()
    assert.equal(gorge, require "resty.gorge")
    assert.is_string(gorge._VERSION)
  end)

  it("raises on an unknown option and names it", function()
    assert.error_matches(function() gorge.new { namespcae = "x" } end, "gorge: unknown option 'namespcae'")
  end)

  it("rejects by name what this version does not have", function()
    assert.error_matches(function() gorge.new { host = "luv" } end, "\"luv\" is not supported by this version")
  end)

  it("is called with a dot, and says so", function()
    assert.error_matches(function() return gorge:new { namespace = "x" } end, "gorge: call it with a dot: gorge.new")
  end)

  it("refuses a namespace that this process uses with another Redis", function()
    local options = { namespace = "one-redis", l1_size = "2m" }
    local first = new(options)
    local second, err = gorge.new { namespace = "one-redis", l1_size = "2m", redis = "redis://127.0.0.1:1/3" }
    assert.is_nil(second)
    assert.equal("gorge: namespace 'one-redis' in zone 'one-redis' is used with no Redis in this process, it cannot be used with redis://127.0.0.1:1/3, too:"
      .. " name another namespace", err)
    assert.is_truthy(gorge.new { namespace = "one-redis", l1_size = "2m" })
    assert.is_truthy(gorge.new { namespace = "one-redis", zone = "its-own", l1_size = "2m", redis = "redis://127.0.0.1:1/3" })
    first:close() -- the third one is nobody's already
    assert.is_truthy(gorge.new { namespace = "one-redis", l1_size = "2m", redis = "redis://127.0.0.1:1/3" })
  end)

  it("shares one zone between caches and keeps their namespaces apart", function()
    local a = new { namespace = "ns-a", zone = "shared-zone" }
    local b = new { namespace = "ns-b", zone = "shared-zone" }
    assert.equal(1, a:fetch("k", 10, returns(1)))
    assert.equal(2, b:fetch("k", 10, returns(2)))
    assert.equal(1, (a:get("k")))
    a:delete("k")
    assert.equal(2, (b:get("k")))
  end)

  it("refuses a zone that exists with another size and names both", function()
    new { namespace = "sized", zone = "sized-zone", l1_size = "4m" }
    local cache, err = gorge.new { namespace = "other", zone = "sized-zone", l1_size = "8m" }
    assert.is_nil(cache)
    assert.matches("4194304", err)
    assert.matches("8388608", err)
  end)
end)

describe("fetch", function()
  it("runs fn once, then answers from L0, and from L1 in a handle without L0", function()
    local runs = 0
    local function load(key)
      runs = runs + 1
      return { id = key }
    end
    local cache = new { namespace = "layers" }
    local value, err, source = cache:fetch("user:1", 60, load)
    assert.same({ { id = "user:1" }, "fn" }, { value, source })
    assert.is_nil(err)
    value, err, source = cache:fetch("user:1", 60, load)
    assert.same({ { id = "user:1" }, "l0" }, { value, source })
    assert.is_nil(err)
    local other = new { namespace = "layers", l1_objects = 0 }
    value, err, source = other:fetch("user:1", 60, load)
    assert.same({ { id = "user:1" }, "l1" }, { value, source })
    assert.is_nil(err)
    assert.equal(1, runs)
  end)

  it("returns every kind of value exactly, from every layer", function()
    local bytes = {}
    for i = 0, 255 do
      bytes[#bytes + 1] = string.char(i)
    end
    local values = {
      "", table.concat(bytes), ("x"):rep(200000), 0, -1, 2 ^ 53, -2 ^ 53, 0.1, 1 / 3, 5e-324, 1.7976931348623157e308, true, false, {},
      { 1, 2, 3 }, { a = { b = { c = false, d = {} } }, [1] = "x", [2.5] = 2 ^ 53 - 1 }, { [10] = 0.1 + 0.2 },
    }
    local cache, direct = new { namespace = "values" }, new { namespace = "values", l1_objects = 0 }
    for i, value in ipairs(values) do
      assert.same(value, (cache:fetch("k" .. i, 60, returns(value))))
      for _, handle in ipairs { cache, direct } do
        local got, err, source = handle:fetch("k" .. i, 60, function() error "not to be run" end)
        assert.is_nil(err)
        assert.equal(handle == cache and "l0" or "l1", source)
        assert.same(value, got)
      end
    end
  end)

  it("remembers that there is no such thing for negative_cache_ttl", function()
    local cache = new { negative_cache_ttl = 60 }
    local runs = 0
    local function load()
      runs = runs + 1
    end
    assert.same({ nil, nil, "fn" }, { cache:fetch("none", 60, load) })
    assert.same({ nil, nil, "l0" }, { cache:fetch("none", 60, load) })
    assert.equal(1, runs)
    cache = new { negative_cache_ttl = 0.05 }
    helper.wait_until(function()
      cache:fetch("none", 60, load)
      return runs == 3
    end, { timeout = 20 })
  end)

  it("lets a value expire, also after less than a second", function()
    local cache = new()
    local stored = helper.now()
    cache:fetch("short", 0.05, returns(1))
    local source = select(3, cache:fetch("short", 0.05, returns(1)))
    assert.is_true(source == "l0" or helper.now() - stored >= 0.05)
    helper.wait_until(function() return cache:fetch("short", 60, returns(2)) == 2 end, { timeout = 20 })
  end)

  it("does not cache a failure, returned or raised", function()
    local cache = new()
    local value, err, source = cache:fetch("k", 60, function() return nil, "no database" end)
    assert.same({ nil, "no database", nil }, { value, err, source })
    value, err = cache:fetch("k", 60, function() error("broken", 0) end)
    assert.is_nil(value)
    assert.equal("gorge: fn raised: broken", err)
    local reason = { code = 7 }
    assert.equal(reason, select(2, cache:fetch("k", 60, function() return nil, reason end)))
    assert.equal("ok", (cache:fetch("k", 60, returns "ok")))
    assert.equal(0, cache:stats().fills_running)
  end)

  it("passes arguments to fn", function()
    local cache = new()
    assert.same({ "k", "a", nil, "c" }, (cache:fetch("k", 60, function(...) return { ... } end, nil, { args = { "a", nil, "c", n = 3 } })))
  end)

  it("hands out a private copy when asked to", function()
    local cache = new()
    local shared = cache:fetch("k", 60, returns { list = { 1 } })
    local copy = cache:fetch("k", 60, returns(0), nil, { clone = true })
    copy.list[1] = "changed"
    assert.same({ list = { 1 } }, (cache:fetch("k", 60, returns(0))))
    assert.equal(shared, (cache:fetch("k", 60, returns(0))))
  end)

  it("makes private copies of what a serializer of the program's can store", function()
    local stored, Account = {}, {}
    Account.__index, Account.__metatable = Account, "private"
    function Account.owner(self) return self.name end
    local cache = new { serializer = {
      name = "own",
      encode = function(value) stored[#stored + 1] = value return tostring(#stored) end,
      decode = function(bytes) return stored[tonumber(bytes)] end,
    } }
    local account = setmetatable({ name = "Ada" }, Account)
    account.me, account[account] = account, false
    for i = 1, 2 do
      local copy = cache:fetch("k", 60, returns(account), nil, { clone = true })
      assert.equal("Ada", copy:owner(), i)
      assert.is_false(rawequal(copy, account))
      assert.is_true(rawequal(copy, copy.me))
      assert.is_false(copy[copy])
    end
    cache:set("no", false)
    assert.is_false((cache:get("no", { clone = true })))
  end)

  it("obeys a ttl and no_store that fn returns", function()
    local cache = new()
    cache:fetch("ttl", 60, function() return 1, nil, 5 end)
    assert.is_true(cache:peek("ttl").ttl <= 5)
    cache:fetch("table", 60, function() return 1, nil, { ttl = 7 } end)
    assert.is_true(cache:peek("table").ttl <= 7)
    assert.equal(1, (cache:fetch("not", 60, function() return 1, nil, { no_store = true } end)))
    assert.is_nil(cache:peek("not"))
    local _, err = cache:fetch("bad", 60, function() return 1, nil, { tll = 7 } end)
    assert.matches('override "tll" is not one of', err)
  end)

  it("names key and type of what cannot be serialized", function()
    local cache = new()
    local value, err = cache:fetch("k", 60, returns { handler = print })
    assert.is_nil(value)
    assert.matches('^gorge: key "k": value.handler: cannot serialize a function', err)
    assert.is_nil(cache:peek("k"))
  end)

  it("passes through what is too large for L1 and counts it", function()
    local cache = new { l1_size = "2m" }
    local big = ("x"):rep(3 * 1024 * 1024)
    assert.equal(big, (cache:fetch("big", 60, returns(big))))
    assert.is_nil(cache:peek("big"))
    assert.equal(1, cache:stats().too_large)
    assert.equal("small", (cache:fetch("small", 60, returns "small")))
  end)

  it("does what it does when the logger raises, or uses the cache itself", function()
    local told, cache = {}
    cache = new { l1_size = "2m", stale_if_error = 60, logger = function(_, message)
      told[#told + 1] = message
      if cache then
        cache:get "other"
      end
      error "the logger is out of order"
    end }
    cache:set("other", "of another key")
    cache:fetch("late", 0.001, returns "old")
    helper.wait_until(function() return cache:peek("late").stale end)
    assert.same({ "old", nil, "stale" }, { cache:fetch("late", 60, function() return nil, "down" end) })
    local big = ("x"):rep(3 * 1024 * 1024)
    assert.same({ big, nil, "fn" }, { cache:fetch("big", 60, returns(big)) })
    assert.is_nil((cache:get "big"))
    assert.equal(0, cache:stats().fills_running)
    assert.equal(3, #told)
  end)

  it("raises wrong argument types at the caller's line", function()
    local cache = new()
    local function raises(pattern, fn)
      local ok, err = pcall(fn)
      assert.is_false(ok)
      assert.matches("cache_spec.lua:%d+: gorge: " .. pattern, err)
    end
    raises("key must be a string, got", function() cache:fetch(5, 60, print) end)
    raises("ttl must be a number of seconds greater than 0", function() cache:fetch("k", 0, print) end)
    raises("fn must be a function", function() cache:fetch("k", 60, "fn") end)
    raises("a tag must be a string", function() cache:fetch("k", 60, print, { 1 }) end)
    raises("option 'stale_ttl' must be", function() cache:fetch("k", 60, print, nil, { stale_ttl = 0 }) end)
    raises("ttl must be", function() cache:set("k", 1, "x") end)
    raises("key must be a string", function() cache:delete() end)
    raises("tags must be an array without gaps", function() cache:fetch("k", 60, print, { "a", nil, "c" }) end)
    raises("invalidate_tags takes tags without gaps", function() cache:invalidate_tags("a", nil, "c") end)
    raises("invalidate_tags needs", function() cache:invalidate_tags() end)
    raises("a tag must have 1 to 255 bytes", function() cache:invalidate_tags("") end)
    raises("key must be a string", function() cache:get({}) end)
    raises("key must be a string", function() cache:peek() end)
    cache:set("k", 1)
    cache:get("k")
    raises("option 'clone' must be", function() cache:fetch("k", 60, print, nil, { clone = 1 }) end)
    for _, name in ipairs {
      "fetch", "fetch_many", "get", "peek", "explain", "set", "update", "touch", "delete", "invalidate_tags", "clear", "stats", "prometheus", "close",
    } do
      raises("methods are called with a colon, .*, got \"k\"$", function() cache[name]("k", 60, print) end)
      raises("methods are called with a colon, .*, got a table$", function() cache[name]({}, "k", 60, print) end)
      raises("methods are called with a colon, .*, got nil$", function() cache[name]() end)
    end
  end)

  it("passes over no tag that stands behind a nil", function()
    local cache = new()
    local late = { "a" }
    late[3] = "c"
    for _, tags in ipairs { { "a", nil, "c" }, late } do
      assert.error_matches(function() cache:fetch("k", 60, print, tags) end, "gorge: .*tag")
      assert.error_matches(function() cache:set("k", 1, 60, tags) end, "gorge: .*tag")
      assert.error_matches(function() cache:update("k", 60, print, tags) end, "gorge: .*tag")
      assert.error_matches(function() cache:invalidate_tags(tags) end, "gorge: .*tag")
      assert.matches("tag", (select(2, cache:fetch("k", 60, function() return 1, nil, { tags = tags } end))))
    end
    assert.error_matches(function() cache:invalidate_tags("a", nil, "c") end, "gorge: .*tag")
    assert.is_nil(cache:peek "k")
    assert.is_true(cache:set("k", 1, 60, { n = 2, "a", "b" }))
    assert.same({ "a", "b" }, cache:peek("k").tags)
    local backwards = {}
    for i = 16, 1, -1 do
      backwards[i] = "t" .. i
    end
    assert.is_true(cache:set("k", 1, 60, backwards))
    assert.equal(16, #cache:peek("k").tags)
  end)

  it("says what is wrong with overrides that cannot be read", function()
    local cache = new()
    local strict = setmetatable({}, { __index = function(_, name) error("there is no " .. name, 0) end })
    local nameless = { [setmetatable({}, { __tostring = function() return nil end })] = 1 }
    for _, case in ipairs { { strict, "the overrides cannot be read: there is no ttl" }, { nameless, "override a table is not one of" } } do
      local _, err = cache:fetch("k", 60, function() return 1, nil, case[1] end)
      assert.matches('^gorge: key "k": ' .. case[2], err)
      assert.equal(0, cache:stats().fills_running)
    end
    assert.equal(1, (cache:fetch("k", 60, returns(1))))
  end)

  it("says what is wrong with a loader that returns all that another fetch does", function()
    local cache = new()
    local function inner() return cache:fetch("inner", 60, returns(1)) end
    assert.same({ nil, "gorge: key \"outer\": the third value that fn returns must be a ttl or a table, got \"fn\":"
      .. " return only value and error of another fetch" }, { cache:fetch("outer", 60, inner) })
    assert.equal(1, (cache:fetch("outer", 60, function()
      local value, err = inner()
      return value, err
    end)))
  end)

  it("refuses an empty key and one that is too long", function()
    local cache = new()
    assert.matches("key must not be empty", select(2, cache:fetch("", 60, returns(1))))
    assert.matches("at most 8192 bytes", select(2, cache:fetch(("k"):rep(8193), 60, returns(1))))
    assert.equal(1, (cache:fetch(("k"):rep(8192), 60, returns(1))))
  end)
end)

describe("a hit in L0", function()
  local bit = require "bit"

  -- How often L1 thinks that the entry was used: 0 to 3.
  local function uses(cache, key)
    local word = cache.l0.records[cache.l0.index[key]].slot[0]
    return tonumber(bit.band(bit.rshift(word, 45), 3))
  end

  it("counts as a use of the entry, and leaves it alone once it is used often", function()
    local cache = new()
    cache:set("k", "v", 60)
    assert.same({ "v", nil, "l1" }, { cache:fetch("k", 60, error) })
    assert.equal(1, uses(cache, "k"))
    for _ = 1, 40 do
      assert.same({ "v", nil, "l0" }, { cache:fetch("k", 60, error) })
    end
    assert.equal(3, uses(cache, "k"))
    assert.equal(0ULL, cache.view.used)
  end)

  it("counts also when the key gives its record to another one", function()
    local cache = new { l1_objects = 1 }
    cache:set("a", "1", 60)
    cache:set("b", "2", 60)
    local slot
    for _ = 1, 3 do
      assert.equal("1", (cache:fetch("a", 60, error)))
      slot = cache.l0.records[1].slot
    end
    assert.equal("2", (cache:fetch("b", 60, error)))
    assert.equal(3, tonumber(bit.band(bit.rshift(slot[0], 45), 3)))
    assert.equal(1, uses(cache, "b"))
  end)

  it("gives nil and false as they are, and no longer than they are good", function()
    local cache = new()
    for _, value in ipairs { false, "text" } do
      cache:set("k", value, 60)
      assert.same({ value, nil, "l1" }, { cache:fetch("k", 60, error) })
      assert.same({ value, nil, "l0" }, { cache:fetch("k", 60, error) })
    end
    cache:set("k", nil, 60)
    local value, err, source = cache:fetch("k", 60, error)
    assert.same({ nil, nil, "l1" }, { value, err, source })
    value, err, source = cache:fetch("k", 60, error)
    assert.same({ nil, nil, "l0" }, { value, err, source })
    cache:delete("k")
    assert.same({ "new", nil, "fn" }, { cache:fetch("k", 60, returns "new") })
  end)
end)

describe("get, set, delete, peek", function()
  it("get never calls anything and tells a miss from nothing", function()
    local cache = new()
    assert.same({ nil, nil, nil }, { cache:get("k") })
    cache:set("k", nil)
    assert.same({ nil, nil, "l1" }, { cache:get("k") })
    assert.same({ nil, nil, "l0" }, { cache:get("k") })
  end)

  it("set replaces, delete forgets, in every handle at once", function()
    local a, b = new { namespace = "two" }, new { namespace = "two" }
    assert.is_true(a:set("k", { v = 1 }, 60))
    assert.same({ v = 1 }, (b:get("k")))
    assert.same({ v = 1 }, (b:get("k")))
    assert.is_true(a:set("k", { v = 2 }, 60))
    assert.same({ v = 2 }, (b:get("k")))
    assert.is_true(a:delete("k"))
    assert.is_nil((b:get("k")))
    assert.is_true(a:delete("never there"))
  end)

  it("delete is seen by a running fetch: its value is returned, but not kept", function()
    local cache = new()
    local value = cache:fetch("k", 60, function()
      cache:delete("k")
      return "old"
    end)
    assert.equal("old", value)
    assert.is_nil((cache:get("k")))
    assert.equal(1, cache:stats().refused_fills)
  end)

  it("peek shows what L1 holds", function()
    local cache = new()
    assert.is_nil(cache:peek("k"))
    cache:set("k", "12345", 60, { "b", "a" })
    local seen = cache:peek("k")
    assert.is_true(seen.ttl > 59 and seen.ttl <= 60)
    seen.ttl = nil
    assert.same({ stale = false, negative = false, tags = { "b", "a" }, size = 5, source = "l1" }, seen)
    cache:set("none", nil)
    assert.is_true(cache:peek("none").negative)
  end)

  it("bounds the life in L1 by l1_ttl", function()
    local cache = new { l1_ttl = 5 }
    cache:set("k", 1, 3600)
    assert.is_true(cache:peek("k").ttl <= 5)
    cache:fetch("f", 3600, returns(1))
    assert.is_true(cache:peek("f").ttl <= 5)
  end)
end)

describe("tags", function()
  it("forget every value that carries one of them, in every handle", function()
    local a, b = new { namespace = "tags", l1_size = helper.ROOMY }, new { namespace = "tags", l1_size = helper.ROOMY }
    a:set("one", 1, 60, "red")
    a:set("two", 2, 60, { "red", "blue" })
    a:fetch("three", 60, returns(3), { "blue" })
    a:fetch("nothing", 60, returns(nil), { "red" })
    a:set("four", 4, 60)
    for _, key in ipairs { "one", "two", "three", "four", "nothing" } do
      b:get(key)
    end
    assert.is_true(a:invalidate_tags("red"))
    assert.is_nil((b:get("one")))
    assert.is_nil((b:get("two")))
    assert.same({ nil, nil, nil }, { b:get("nothing") })
    assert.equal(3, (b:get("three")))
    assert.equal(4, (b:get("four")))
    assert.is_true(b:invalidate_tags({ "blue", "green" }))
    assert.is_nil((a:get("three")))
  end)

  it("refuse the fill of a loader that was running", function()
    local cache = new()
    assert.equal("old", (cache:fetch("k", 60, function()
      cache:invalidate_tags("t")
      return "old"
    end, "t")))
    assert.is_nil((cache:get("k")))
  end)

  it("may come from fn", function()
    local cache = new()
    cache:fetch("k", 60, function() return 1, nil, { tags = { "late" } } end)
    assert.same({ "late" }, cache:peek("k").tags)
    cache:invalidate_tags("late")
    assert.is_nil((cache:get("k")))
    -- one that was invalidated while fn ran
    cache:fetch("k", 60, function()
      cache:invalidate_tags("late")
      return 1, nil, { tags = { "late" } }
    end)
    assert.is_nil((cache:get("k")))
  end)
end)

describe("close and stats", function()
  it("a closed cache says so and raises nothing", function()
    local cache = new()
    cache:set("k", 1)
    assert.is_true(cache:close())
    assert.same({ nil, "closed" }, { cache:fetch("k", 1, returns(1)) })
    assert.same({ nil, "closed" }, { cache:get("k") })
    assert.same({ nil, "closed" }, { cache:set("k", 1) })
    assert.same({ nil, "closed" }, { cache:delete("k") })
    assert.same({ nil, "closed" }, { cache:invalidate_tags("t") })
    assert.same({ nil, "closed" }, { cache:stats() })
    assert.is_true(cache:close())
  end)

  it("a closed cache says so to who has kept its methods", function()
    local cache = new()
    local kept = {}
    for _, name in ipairs {
      "fetch", "fetch_many", "get", "peek", "explain", "set", "update", "touch", "delete", "invalidate_tags", "clear", "stats", "prometheus", "close",
    } do
      kept[name] = cache[name]
    end
    for _ = 1, 3 do
      cache:fetch("k", 60, returns "v") -- L0 has it, and has noted its uses
    end
    assert.is_true(cache:close())
    for _, key in ipairs { "k", "other" } do
      assert.same({ nil, "closed" }, { kept.fetch(cache, key, 60, returns(1)) })
      assert.same({ nil, "closed" }, { kept.fetch_many(cache, { key }, 60, returns {}) })
      assert.same({ nil, "closed" }, { kept.update(cache, key, 60, returns(1)) })
      for _, name in ipairs { "get", "explain", "set", "touch", "delete", "invalidate_tags", "clear", "stats", "prometheus" } do
        assert.same({ nil, "closed" }, { kept[name](cache, key) }, name)
      end
      assert.is_nil(kept.peek(cache, key))
      assert.is_true(kept.close(cache))
    end
  end)

  it("a cache that is closed while it is used raises nothing", function()
    local cache = new { stale_while_revalidate = true, stale_ttl = 60 }
    for _, key in ipairs { "hit", "due" } do
      cache:fetch(key, 60, returns(key), nil, { stale_ttl = key == "due" and 59.999 or 0.001 })
      cache:fetch(key, 60, returns(key))
    end
    helper.wait_until(function() return cache:explain("due").l1.state == "due" end)
    local values, errs = cache:fetch_many({ "due", "missing" }, 60, function()
      cache:close()
      return { missing = "loaded" }
    end)
    assert.same({ { due = "due", missing = "loaded" }, {} }, { values, errs })
    cache = new()
    assert.same({ "v", nil, "fn" }, { cache:fetch("k", 60, function() cache:close() return "v" end) })
  end)

  it("stats counts what happened", function()
    local cache = new()
    cache:fetch("k", 60, returns(1))
    cache:fetch("k", 60, returns(1))
    cache:get("k")
    cache:delete("k")
    local s = cache:stats()
    assert.equal(1, s.loads)
    assert.equal(2, s.l0_hits)
    assert.equal(1, s.deletes)
    assert.equal(1, s.inserts)
    assert.equal(1, s.load_latency.count)
    assert.equal("none", s.redis)
    assert.equal(4 * 1024 * 1024, s.zone_size)
    assert.is_true(s.bytes_used <= s.zone_size)
    assert.equal("closed", s.breaker)
  end)
end)

describe("gorge.run", function()
  it("lets coroutines share one run of fn", function()
    local cache = new()
    local runs, results = 0, {}
    gorge.run(function()
      for i = 1, 100 do
        gorge.spawn(function()
          results[i] = cache:fetch("k", 60, function()
            runs = runs + 1
            gorge.sleep(0.02)
            return { n = runs }
          end)
        end)
      end
    end)
    assert.equal(1, runs)
    for i = 1, 100 do
      assert.same({ n = 1 }, results[i])
    end
  end)

  it("gives a failure to all who wait, at once", function()
    local cache = new()
    local runs, errors = 0, 0
    gorge.run(function()
      for _ = 1, 20 do
        gorge.spawn(function()
          local _, err = cache:fetch("k", 60, function()
            runs = runs + 1
            gorge.sleep(0.02)
            return nil, "down"
          end)
          errors = errors + (err == "down" and 1 or 0)
        end)
      end
    end)
    assert.same({ 1, 20 }, { runs, errors })
  end)

  it("does not let who comes after a delete share a fill from before it", function()
    local cache = new()
    local first, second
    gorge.run(function()
      gorge.spawn(function()
        first = cache:fetch("k", 60, function()
          gorge.sleep(0.05)
          return "before"
        end)
      end)
      gorge.sleep(0.01)
      cache:delete("k")
      second = cache:fetch("k", 60, returns "after")
    end)
    assert.same({ "before", "after" }, { first, second })
    assert.equal("after", (cache:get("k")))
  end)

  it("a coroutine that yields by itself lets others run and goes on", function()
    local order = {}
    local function step(name)
      for i = 1, 3 do
        order[#order + 1] = name .. i
        coroutine.yield "to nobody"
      end
    end
    gorge.run(function()
      gorge.spawn(step, "b")
      step "a"
    end)
    assert.same({ "a1", "b1", "a2", "b2", "a3", "b3" }, order)
  end)

  it("returns what fn returns and raises what it raises", function()
    assert.same({ 1, nil, 3 }, { gorge.run(function(...) gorge.sleep(0) return ... end, 1, nil, 3) })
    assert.error_matches(function() gorge.run(function() gorge.sleep(0.001) error "inside" end) end, "inside")
    assert.error_matches(function() gorge.spawn(print) end, "inside gorge.run only")
    assert.error_matches(function() gorge.run(function() gorge.spawn(function() error "child" end) end) end, "child")
  end)

  it("a waiter gives up after wait_timeout and runs fn itself; who comes later takes the fill over", function()
    local cache = new { wait_timeout = 0.05 }
    local second, nothing, err, later, stored
    gorge.run(function()
      local finish = begin_slow(cache, "k")
      gorge.sleep(0.01)
      gorge.spawn(function()
        nothing, err = cache:fetch("k", 60, returns "own", nil, { on_lock_timeout = "error" })
      end)
      second = cache:fetch("k", 60, returns "own")
      later = { cache:fetch("k", 60, returns "later") }
      stored = cache:get "k"
      while not (nothing or err) do -- the other one waits no longer either
        gorge.sleep(0.001)
      end
      finish()
    end)
    assert.is_nil(nothing)
    assert.equal("own", second)
    assert.matches("waited 0.05 s", err)
    assert.same({ "later", nil, "fn" }, later)
    assert.equal("later", stored)
    assert.equal("later", (cache:get "k")) -- and not what the first one has brought meanwhile
  end)
end)

describe("a coroutine of somebody else's scheduler, whose fn has yielded there,", function()
  local function loading(cache, key, options)
    local co = coroutine.wrap(function() return cache:fetch(key, 60, function() return coroutine.yield() end, nil, options) end)
    co()
    return co
  end

  it("is not waited for: that would block it, too", function()
    local cache = new { wait_timeout = 20 }
    local since = helper.now()
    local finish = loading(cache, "k")
    assert.same({ "own", nil, "fn" }, { cache:fetch("k", 60, returns "own") })
    assert.same({ nil, "gorge: key \"k\": another coroutine of this program is loading it, and cannot go on while this one waits" },
      { cache:fetch("k", 60, error, nil, { on_lock_timeout = "error" }) })
    assert.same({ { k = "own", other = "own" }, {}, { k = "fn", other = "fn" } },
      { cache:fetch_many({ "k", "other" }, 60, function(keys)
        local values = {}
        for _, key in ipairs(keys) do
          values[key] = "own"
        end
        return values
      end) })
    assert.same({ "theirs", nil, "fn" }, { finish "theirs" })
    assert.equal("theirs", (cache:get "k")) -- with the lease: that is stored
    assert.is_true(helper.now() - since < 10)
  end)

  it("gives who asks a value past its end, if on_lock_timeout says so", function()
    local cache = new { wait_timeout = 20, stale_if_error = 60, on_lock_timeout = "stale" }
    cache:set("k", "old", 0.001)
    helper.wait_until(function() return cache:peek("k").stale end)
    local finish = loading(cache, "k")
    assert.same({ "old", nil, "stale" }, { cache:fetch("k", 60, error) })
    finish "new"
    assert.equal("new", (cache:get "k"))
  end)

  it("is not waited for inside a coroutine of a coroutine of gorge.run either", function()
    local cache = new { wait_timeout = 20 }
    local since = helper.now()
    gorge.run(function()
      local finish = begin_slow(cache, "k")
      gorge.sleep(0.001)
      assert.equal("own", coroutine.wrap(function() return (cache:fetch("k", 60, returns "own")) end)())
      finish()
    end)
    assert.is_true(helper.now() - since < 10)
  end)
end)

describe("require", function()
  local function problem(env)
    env.LUA_PATH = env.LUA_PATH or helper.paths.lua_path
    local _, output = helper.luajit([[print(select(2, pcall(require, "gorge")))]], { env = env })
    return output
  end

  it("says what is missing", function()
    assert.matches("^gorge: cannot load libgorge %(the environment variable GORGE_LIBRARY names the file%): /nowhere.so: ",
      problem { GORGE_LIBRARY = "/nowhere.so" })
    assert.matches("^gorge: libm.so.6 is not libgorge: ", problem { GORGE_LIBRARY = "libm.so.6" })
    assert.matches("^gorge: cannot load libgorge %(looked for gorge/libgorge on package.cpath; the environment variable", problem { GORGE_LIBRARY = "" })
    local sources = helper.paths.root .. "/lua/?.lua;" .. helper.paths.root .. "/lua/?/init.lua"
    assert.matches("^gorge: the module gorge.ffi.cdef, which the build makes, is not on package.path; in a checkout it is in build/lua",
      problem { LUA_PATH = sources })
  end)
end)
