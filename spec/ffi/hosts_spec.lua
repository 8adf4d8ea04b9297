-- SPDX-License-Identifier: MIT
-- Plain LuaJIT programs with Redis: gorge.run yields, without a loop calls block. Two zones in one process are two nodes.
local helper = require "spec.helper"
local gorge = require "gorge"

local redis
local count = 0

setup(function() redis = helper.redis() end)

local function nodes(options)
  count = count + 1
  local made = {}
  for i, name in ipairs { "a", "b" } do
    local o = { namespace = "hosts-" .. count, zone = "hosts-" .. count .. name, l1_size = "4m", redis = redis.url }
    for k, v in pairs(options or {}) do
      o[k] = v
    end
    made[i] = assert(gorge.new(o))
  end
  for _, node in ipairs(made) do
    node:get("start") -- from now on it hears the other
  end
  return made[1], made[2]
end

---Waits, as a program that has other things to do would, until `condition` holds.
local function eventually(condition)
  helper.wait_until(condition, { timeout = 20, interval = 0.002 })
end

for _, way in ipairs { "blocking", "gorge.run" } do
  local function run(fn)
    if way == "gorge.run" then
      gorge.run(fn)
    else
      fn()
    end
  end

  describe("with Redis, " .. way, function()
    it("one node fills, the other finds it in Redis, then in its own memory", function()
      local a, b = nodes()
      run(function()
        assert.same({ { 1 }, nil, "fn" }, { a:fetch("k", 60, function() return { 1 } end) })
        assert.same({ { 1 }, nil, "l2" }, { b:fetch("k", 60, error) })
        assert.same({ { 1 }, nil, "l0" }, { b:fetch("k", 60, error) })
      end)
    end)

    it("round-trips every kind of value exactly", function()
      local a, b = nodes()
      local bytes = {}
      for i = 0, 255 do
        bytes[#bytes + 1] = string.char(i)
      end
      local values = { "", table.concat(bytes), ("long"):rep(300000), 2 ^ 53, 0.1 + 0.2, -1e308, true, false, {}, { { x = false, y = { 1 / 3 } } } }
      run(function()
        for i, value in ipairs(values) do
          a:fetch("k" .. i, 60, function() return value end)
          local got, err, source = b:get("k" .. i)
          assert.is_nil(err)
          assert.equal("l2", source)
          assert.same(value, got)
        end
        a:fetch("nothing", 60, function() end)
        assert.same({ nil, nil, "l2" }, { b:fetch("nothing", 60, error) })
      end)
    end)

    it("set, delete and invalidate_tags reach the other node", function()
      local a, b = nodes()
      run(function()
        assert.is_true(a:set("k", "one", 60, { "t" }))
        assert.equal("one", (b:get("k")))
        assert.is_true(a:set("k", "two", 60, { "t" }))
        eventually(function() return b:get("k") == "two" end)
        assert.is_true(a:invalidate_tags("t"))
        eventually(function() return b:get("k") == nil end)
        a:set("k", "three", 60)
        assert.equal("three", (b:get("k")))
        assert.is_true(a:delete("k"))
        eventually(function() return b:get("k") == nil end)
        assert.is_nil((a:get("k")))
      end)
    end)

    it("tags that only fn knew hold on the other node, also when invalidated while fn ran", function()
      local a, b = nodes()
      run(function()
        a:fetch("k", 60, function() return 1, nil, { tags = { "late" } } end)
        assert.equal(1, (b:get("k")))
        assert.is_true(b:invalidate_tags("late"))
        eventually(function() return a:get("k") == nil end)
        a:fetch("k", 60, function()
          assert.is_true(b:invalidate_tags("late"))
          return "old", nil, { tags = { "late" } }
        end)
        assert.is_nil((b:get("k")))
        assert.is_nil((a:get("k")))
      end)
    end)

    it("answers while Redis is away, tells writers so, and heals", function()
      local own = helper.redis()
      local a = nodes { redis = own.url, circuit_breaker = { max_failures = 3, timeout = 0.2 } }
      run(function()
        assert.equal(1, (a:fetch("k", 60, function() return 1 end)))
        own:kill()
        assert.equal(1, (a:fetch("k", 60, error)))
        for i = 1, 20 do
          local value, err = a:fetch("new" .. i, 60, function() return i end)
          assert.same({ i, nil }, { value, err })
        end
        assert.equal("l0", select(3, a:fetch("new1", 60, error)))
        local ok, err = a:set("k", 2)
        assert.is_nil(ok)
        assert.matches("^gorge: set: ", err)
        assert.equal(2, (a:get("k")))
        assert.is_nil((a:delete("k")))
        assert.is_nil(a:peek("k"))
        own:up()
        eventually(function() return a:set("back", 1) == true end)
      end)
      assert.equal("closed", a:stats().breaker)
      own:stop()
    end)
  end)
end

describe("gorge.run with Redis", function()
  it("200 coroutines on two nodes run fn once", function()
    local a, b = nodes()
    local runs, sum = 0, 0
    gorge.run(function()
      for i = 1, 200 do
        gorge.spawn(function()
          local value = (i % 2 == 0 and a or b):fetch("k", 60, function()
            runs = runs + 1
            gorge.sleep(0.05)
            return 1
          end)
          sum = sum + value
        end)
      end
    end)
    assert.same({ 1, 200 }, { runs, sum })
  end)

  it("a slow fn keeps its lease", function()
    -- Renewed after a third of it. Who waits bears with a second more, as a busy machine may need, and would still be done before fn is.
    local a, b = nodes { lock_ttl = 2, lock_retries = 100, lock_sleep = 0.01 }
    local runs = 0
    local function load()
      runs = runs + 1
      gorge.sleep(2.5)
      return runs
    end
    gorge.run(function()
      gorge.spawn(function() a:fetch("k", 60, load) end)
      gorge.sleep(0.05)
      assert.equal(1, (b:fetch("k", 60, load)))
    end)
    assert.equal(1, runs)
  end)
end)

describe("host", function()
  it("\"loop\" does not wait outside gorge.run", function()
    local cache = assert(gorge.new { namespace = "strict", l1_size = "2m", redis = redis.url, host = "loop" })
    assert.same({ nil, "would block: not inside gorge.run" }, { cache:fetch("k", 60, function() return 1 end) })
    gorge.run(function() assert.equal(1, (cache:fetch("k", 60, function() return 1 end))) end)
    assert.equal(1, (cache:fetch("k", 60, error)))
  end)

  it("\"nginx\" outside nginx is an error", function()
    assert.error_matches(function() gorge.new { host = "nginx" } end, "this is not nginx")
  end)
end)
