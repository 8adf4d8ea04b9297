-- SPDX-License-Identifier: MIT
-- stale_while_revalidate and early_refresh outside nginx: inside gorge.run in a coroutine of their own, elsewhere by the caller itself.
local helper = require "spec.helper"
local C = require "gorge.ffi.lib"
local gorge = require "gorge"

-- Due a twentieth of a second after it was stored, and alive for a minute.
local OPTIONS = { stale_while_revalidate = true, stale_ttl = 59.95, l1_size = "4m" }
-- For a value that is not to become due while a test looks at it.
local CALM = { stale_ttl = 1 }

local count = 0
local function new(more)
  count = count + 1
  local options = { namespace = "refresh-spec-" .. count }
  for name, value in pairs(OPTIONS) do
    options[name] = value
  end
  for name, value in pairs(more or {}) do
    options[name] = value
  end
  return assert(gorge.new(options))
end

local function counter()
  local runs = 0
  return function()
    runs = runs + 1
    return "run " .. runs
  end
end

local function wait_due(cache, key)
  cache.engine:peek(key)
  local due_ms = cache.engine.read.life.refresh_ms
  while C.gorge_now_ms() <= due_ms do end
end

describe("a refresh in a plain program", function()
  it("is run by the call that finds the value due, which returns the new value", function()
    local cache, load = new(), counter()
    assert.equal("calm", (cache:fetch("other", 60, function() return "calm" end, nil, CALM)))
    assert.equal("l0", (select(3, cache:fetch("other", 60, load, nil, CALM))))
    assert.equal("run 1", (cache:fetch("k", 60, load)))
    wait_due(cache, "k")
    local value, err, source = cache:fetch("k", 60, load, nil, CALM)
    assert.same({ "run 2", "fn" }, { value, source }, err)
    value, err, source = cache:fetch("k", 60, load)
    assert.same({ "run 2", "l0" }, { value, source }, err)
    assert.equal(1, cache:stats().refreshes)
  end)

  it("leaves the old value when fn fails, and is not tried again at once", function()
    local cache, runs = new(), 0
    cache:fetch("k", 60, counter())
    wait_due(cache, "k")
    for _ = 1, 10 do
      local value, err, source = cache:fetch("k", 60, function()
        runs = runs + 1
        error "broken"
      end)
      assert.equal("run 1", value, err)
      assert.is_true(source == "l1" or source == "l0")
    end
    assert.equal(1, runs)
    local stats = cache:stats()
    assert.same({ 1, 1, 1 }, { stats.refreshes, stats.refresh_errors, stats.load_errors })
  end)

  it("is one run for the keys of fetch_many that are due", function()
    local cache, asked = new { l1_size = helper.ROOMY }, {}
    local function load(keys)
      asked[#asked + 1] = #keys
      local out = {}
      for _, key in ipairs(keys) do
        out[key] = key .. #asked
      end
      return out
    end
    cache:fetch_many({ "a", "b" }, 60, load)
    wait_due(cache, "b")
    cache:fetch_many({ "c" }, 60, load, nil, CALM)
    local values, errs, sources = cache:fetch_many({ "a", "b", "c" }, 60, load)
    assert.same({ a = "a3", b = "b3", c = "c2" }, values)
    assert.same({}, errs)
    assert.same({ "fn", "fn" }, { sources.a, sources.b })
    assert.same({ 2, 1, 2 }, asked)
  end)

  it("is not begun by get, peek, or a cache that does not want it", function()
    local cache = new()
    cache:fetch("k", 60, counter())
    wait_due(cache, "k")
    assert.same({ "run 1", "l1" }, { (cache:get("k")), (select(3, cache:get("k"))) })
    assert.is_false(cache:peek("k").stale)
    local other = assert(gorge.new { namespace = cache.options.namespace, l1_size = "4m" })
    assert.equal("run 1", (other:fetch("k", 60, counter())))
    assert.equal(0, cache:stats().refreshes)
  end)
end)

describe("a refresh inside gorge.run", function()
  it("runs beside the callers, once", function()
    local cache, load = new(), counter()
    local sources = {}
    gorge.run(function()
      cache:fetch("k", 60, load)
      wait_due(cache, "k")
      for i = 1, 10 do
        gorge.spawn(function()
          local value, _, source = cache:fetch("k", 60, function()
            gorge.sleep(0.05)
            return load()
          end)
          assert(value == "run 1")
          sources[i] = source
        end)
      end
    end)
    for i = 1, 10 do
      assert.is_true(sources[i] == "l1" or sources[i] == "l0")
    end
    assert.equal("run 2", (cache:get("k")))
    assert.equal(1, cache:stats().refreshes)
  end)

  it("is ignored after refresh_timeout", function()
    local cache = new { refresh_timeout = 0.05 }
    local ended
    gorge.run(function()
      cache:fetch("k", 60, counter())
      wait_due(cache, "k")
      assert(cache:fetch("k", 60, function()
        while cache:stats().refresh_errors == 0 do -- that is when it is given up
          gorge.sleep(0.001)
        end
        ended = true
        return "late"
      end) == "run 1")
    end)
    assert.is_true(ended)
    assert.equal("run 1", (cache:get("k")))
    local stats = cache:stats()
    assert.same({ 1, 1, 0 }, { stats.refreshes, stats.refresh_errors, stats.fills_running })
    assert.equal(0, cache.engine:pending())
  end)
end)

describe("soft_timeout inside gorge.run", function()
  it("serves what has expired, and fn finishes beside its caller", function()
    local cache = new { stale_while_revalidate = false, stale_if_error = 60, soft_timeout = 0.03 }
    gorge.run(function()
      cache:fetch("k", 0.01, function() return "old" end)
      gorge.sleep(0.05)
      local served
      local value, err, source = cache:fetch("k", 60, function()
        for _ = 1, 1000 do
          if served then
            return "new"
          end
          gorge.sleep(0.01)
        end
      end)
      served = true
      assert(value == "old" and err == nil and source == "stale", source)
    end)
    assert.equal("new", (cache:get("k")))
    assert.equal(1, cache:stats().stale_served)
  end)

  it("changes nothing in a plain program", function()
    local cache = new { stale_while_revalidate = false, stale_if_error = 60, soft_timeout = 0.01 }
    cache:fetch("k", 0.01, function() return "old" end)
    local function slow()
      local stop = C.gorge_now_ms() + 50
      while C.gorge_now_ms() < stop do end
      return "new"
    end
    slow()
    assert.same({ "new", "fn" }, { (cache:fetch("k", 60, slow)), "fn" })
  end)
end)

describe("early_refresh", function()
  it("is as likely as XFetch says", function()
    local cache = new { stale_while_revalidate = false, early_refresh = 1 }
    local read = cache.engine.read
    cache:fetch("k", 60, function()
      local stop = C.gorge_now_ms() + 30
      while C.gorge_now_ms() < stop do end
      return 1
    end)
    cache.engine:peek("k")
    local life = read.life
    assert.is_true(life.load_ms >= 20, tostring(life.load_ms))
    local refresh = require "gorge.refresh"
    local now = cache.host.now()
    for _, loads in ipairs { 0.5, 1, 2, 4 } do -- so many loads before the end: e^-loads of the draws
      life.whole_ms = now + loads * life.load_ms
      local wanted, of = 0, 20000
      cache.host = setmetatable({ now = function() return now end }, { __index = cache.host })
      for _ = 1, of do
        wanted = wanted + (refresh.wanted(cache) and 1 or 0)
      end
      local expected = math.exp(-loads)
      local sigma = math.sqrt(expected * (1 - expected) / of)
      assert.is_true(math.abs(wanted / of - expected) < 6 * sigma, loads .. " loads: " .. wanted / of)
    end
  end)
end)
