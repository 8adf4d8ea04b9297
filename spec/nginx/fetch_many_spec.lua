-- SPDX-License-Identifier: MIT
-- fetch_many over workers and nodes with a real Redis: one round, one run for each key, nobody blocks anybody.
local cjson = require "cjson"
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local process = helper.process

local function names(prefix, n)
  local list = {}
  for i = 1, n do
    list[i] = prefix .. i
  end
  return list
end

-- The keys come as JSON; the loader is Lua text. Tables that are empty come back as empty tables.
local function code(loader)
  return [[
    local keys = require("cjson").decode((...))
    local values, errs, sources = cache:fetch_many(keys, 60, ]] .. loader .. [[, select(2, ...))
    return values, errs, sources
  ]]
end

-- Counts its runs, and for each key how often it was asked for it.
local LOAD = [[function(missing)
  count "runs"
  local values = {}
  for _, key in ipairs(missing) do
    count("of " .. key)
    values[key] = "value of " .. key
  end
  return values
end]]

local function expected(keys)
  local values = {}
  for _, key in ipairs(keys) do
    values[key] = "value of " .. key
  end
  return values
end

local function sources(keys, source)
  local of = {}
  for _, key in ipairs(keys) do
    of[key] = source
  end
  return of
end

local function redis_number(redis, section, pattern)
  return tonumber(assert(redis:command("INFO", section)):match(pattern) or 0)
end

-- How often Redis has read from its clients. Commands that came together were read at once.
local function reads(redis)
  return redis_number(redis, "stats", "total_reads_processed:(%d+)")
end

local function calls(redis, command)
  return redis_number(redis, "commandstats", "cmdstat_" .. command .. ":calls=(%d+)")
end

local function narrow(redis)
  local options = node.patient(redis)
  options.max_pending = 16
  return options
end

describe("fetch_many asks Redis", function()
  local redis, a, b
  setup(function()
    redis = helper.redis()
    a, b = node.pair(redis, { workers = 1, options = { redis = node.patient(redis) } })
  end)

  it("once for 100 keys, where 100 fetches ask 100 times", function()
    local keys = names("round ", 100)
    a:run(code(LOAD), cjson.encode(keys))
    local before, gets = reads(redis), calls(redis, "get")
    local values, errs, from = b:run(code(LOAD), cjson.encode(keys))
    local many = reads(redis) - before
    assert.same({ expected(keys), {}, sources(keys, "l2") }, { values, errs, from })
    assert.equal(100, calls(redis, "get") - gets)
    assert.equal(0, b:counted "runs")
    -- heartbeats, and this spec's own look at the figures, are read too
    assert.is_true(many <= 30, many .. " reads")

    keys = names("single ", 100)
    a:run(code(LOAD), cjson.encode(keys))
    before = reads(redis)
    b:run([[
      for _, key in ipairs(require("cjson").decode((...))) do
        local _, _, source = cache:fetch(key, 60, load)
        assert(source == "l2", source)
      end
    ]], cjson.encode(keys))
    local single = reads(redis) - before
    assert.is_true(single >= 100, single .. " reads")
  end)

  it("once for the tags of all of them, too", function()
    local keys = names("tagged ", 100)
    a:run(code(LOAD), cjson.encode(keys), "t1")
    local before, gets, mgets = reads(redis), calls(redis, "get"), calls(redis, "mget")
    local values, _, from = b:run(code(LOAD), cjson.encode(keys), "t1")
    local many = reads(redis) - before
    assert.same({ expected(keys), sources(keys, "l2") }, { values, from })
    assert.equal(100, calls(redis, "get") - gets)
    assert.equal(100, calls(redis, "mget") - mgets)
    assert.is_true(many <= 30, many .. " reads")
    -- they carry the tag: forgotten at once on the own host, and in Redis
    assert.is_true((b:run [[return cache:invalidate_tags "t1"]]))
    local _, _, again = b:run(code(LOAD), cjson.encode(keys), "t1")
    assert.same(sources(keys, "fn"), again)
  end)

  it("in three rounds, and runs the loader once, when Redis has nothing", function()
    local keys = names("cold ", 100)
    local before, runs = reads(redis), a:counted "runs"
    local values, _, from = a:run(code(LOAD), cjson.encode(keys))
    local many = reads(redis) - before
    assert.same({ expected(keys), sources(keys, "fn") }, { values, from })
    assert.equal(1, a:counted "runs" - runs)
    assert.is_true(many <= 40, many .. " reads") -- look-ups, leases and fills; Redis reads 16 KB at a time
    local _, _, there = b:run(code(LOAD), cjson.encode(keys))
    assert.same(sources(keys, "l2"), there)
  end)

  it("for no more at once than max_pending allows", function()
    local options = { redis = narrow(redis) }
    local c, d = node.pair(redis, { workers = 1, options = options })
    local keys = names("narrow ", 200)
    for _, n in ipairs { c, d } do
      local values, errs, from = n:run(code(LOAD), cjson.encode(keys))
      assert.same({ expected(keys), {}, sources(keys, n == c and "fn" or "l2") }, { values, errs, from })
      assert.equal(0, n:stats().l2_errors)
    end
  end)

  it("for no more than that while it waits for another node", function()
    local options = { redis = narrow(redis), lock_sleep = 0.01 }
    local c, d = node.pair(redis, { workers = 1, options = options })
    local keys = names("waiting ", 60)
    local filling = c:start(1, code(LOAD:gsub('count "runs"', 'gate "filler"')), cjson.encode(keys))
    c:wait_count "at filler"
    local before = calls(redis, "evalsha")
    local waiting = d:start(1, code(LOAD), cjson.encode(keys))
    helper.wait_until(function() return calls(redis, "evalsha") > before + 300 end, { message = "it does not look again" })
    c:run [[open "filler"]]
    for _, batch in ipairs { filling, waiting } do
      assert.same({ expected(keys), {} }, { batch:results()[1][1], batch:results()[1][2] })
    end
    assert.same({ 0, 0 }, { d:counted "runs", d:stats().l2_errors })
  end)
end)

describe("fetch_many on two nodes", function()
  local redis, a, b
  setup(function()
    redis = helper.redis()
    a, b = node.pair(redis, { options = { lock_sleep = 5, redis = node.patient(redis) } })
  end)

  it("publishes its own fills before it waits for those of others", function()
    local theirs = a:start(1, [[return cache:fetch("theirs", 60, load_at_gate)]])
    a:wait_count "at loader"
    local both = b:start(1, code(LOAD), cjson.encode { "theirs", "ours" })
    helper.wait_until(function() return a:run [[return cache:get "ours"]] == "value of ours" end, { message = "it was not published" })
    assert.equal(0, both:done())
    a:run [[open "loader"]]
    local values, errs, from = unpack(both:results()[1])
    assert.same({ expected { "theirs", "ours" }, {} }, { values, errs })
    assert.same({ "fn", 1, 0 }, { from.ours, b:counted "of ours", b:counted "of theirs" })
    assert.equal("value of theirs", theirs:results()[1][1])
  end)

  -- Each call has its lease for the first key before it asks for the second, so that it holds what the other one wants.
  it("does not block another call that has its keys in another order", function()
    local crossing = [[
      local engine, start, second = cache.engine, cache.engine.start_fetch, select(2, ...)
      function engine.start_fetch(self, key, ...)
        if key == second then
          self.host.kick(self)
          gate "cross"
          self.start_fetch = start
        end
        return start(self, key, ...)
      end
    ]] .. code(LOAD):gsub("select%(2, ...%)", "nil")
    local batches = {
      a:start(1, crossing, cjson.encode { "x", "y" }, "y"), b:start(1, crossing, cjson.encode { "y", "x" }, "x"),
    }
    for _, n in ipairs { a, b } do
      n:wait_count "at cross"
    end
    helper.wait_until(function() return #redis:command("KEYS", "*:l:[xy]") == 2 end, { message = "the calls hold no leases" })
    for _, n in ipairs { a, b } do
      n:run [[open "cross"]]
    end
    for _, batch in ipairs(batches) do
      local values, errs = unpack(batch:results(20)[1])
      assert.same({ expected { "x", "y" }, {} }, { values, errs })
    end
    assert.same({ 1, 0 }, { a:counted "of x", a:counted "of y" })
    assert.same({ 0, 1 }, { b:counted "of x", b:counted "of y" })
  end)

  it("runs the loader once for each key under a stampede of sets that overlap", function()
    local slow = LOAD:gsub('count "runs"', 'count "runs" ngx.sleep(0.02)')
    local batches, keys = {}, names("storm ", 40)
    for i = 1, 20 do
      local some = {}
      for j = 1, 15 do
        some[j] = keys[(i * 7 + j * (i % 2 == 0 and 3 or 37)) % #keys + 1]
      end
      for _, n in ipairs { a, b } do
        batches[#batches + 1] = { batch = n:start(5, code(slow), cjson.encode(some)), keys = some }
      end
    end
    for _, entry in ipairs(batches) do
      for _, result in ipairs(entry.batch:results(20)) do
        assert.same({ expected(entry.keys), {} }, { result[1], result[2] })
      end
    end
    for _, key in ipairs(keys) do
      assert.equal(1, a:counted("of " .. key) + b:counted("of " .. key), key)
    end
    for _, n in ipairs { a, b } do
      assert.equal(0, n:stats().fills_running)
      n:assert_clean_log()
    end
  end)

  it("gives the other node's callers their own run when the loader fails for some keys", function()
    local failing = a:start(1, code [[function(missing)
      gate "partly"
      return { good = "value of good" }, { bad = "no luck" }
    end]], cjson.encode { "good", "bad" })
    a:wait_count "at partly"
    local waits = b:stats().waits
    local waiting = b:start(1, code(LOAD), cjson.encode { "good", "bad" })
    helper.wait_until(function() return b:run [[return cache:stats().waits]] >= waits + 2 end)
    a:run [[open "partly"]]
    local values, errs = unpack(failing:results()[1])
    assert.same({ { good = "value of good" }, { bad = "no luck" } }, { values, errs })
    values, errs = unpack(waiting:results()[1])
    assert.same({ expected { "good", "bad" }, {} }, { values, errs })
    assert.same({ 0, 1 }, { b:counted "of good", b:counted "of bad" })
  end)
end)

describe("fetch_many", function()
  it("goes on without Redis, and keeps its values in L1", function()
    local redis = helper.redis()
    -- until then L1 is silent: whether Redis is there or not is not known
    local n = node.start({ options = { redis = node.patient(redis) } }):wait_subscribed()
    redis:kill()
    local keys = names("away ", 50)
    local values, errs, from = n:run(code(LOAD), cjson.encode(keys))
    assert.same({ expected(keys), {}, sources(keys, "fn") }, { values, errs, from })
    assert.equal(1, n:counted "runs")
    -- of two keys filled at once that share a stamp L1 refuses one, which is filled again
    local refused = n:stats().refused_fills
    assert.is_true(refused <= 3, refused)
    values, errs = n:run(code(LOAD), cjson.encode(keys))
    assert.same({ expected(keys), {} }, { values, errs })
    local loaded = 0
    for _, key in ipairs(keys) do
      loaded = loaded + n:counted("of " .. key)
    end
    assert.equal(#keys + refused, loaded)
  end)

  it("takes over what a killed worker was filling", function()
    local redis = helper.redis()
    local n = node.start { options = { lock_ttl = 1.5, lock_retries = 1000, wait_timeout = 20, redis = node.patient(redis) } }
    local hanging = n:start(1, code [[function()
      counts:set("pid", ngx.worker.pid())
      gate "never"
    end]], cjson.encode { "a", "b" })
    n:wait_count "at never"
    local waits = n:stats().waits
    local waiting = n:start(20, code(LOAD), cjson.encode { "b", "c" })
    helper.wait_until(function() return n:counted "of c" == 1 and n:run [[return cache:stats().waits]] > waits end)
    process.kill(n:counted "pid", process.SIGKILL)
    local answered = 0
    for _, result in ipairs(waiting:results(15)) do
      if not result.err then -- it was in the other worker
        assert.same({ expected { "b", "c" }, {} }, { result[1], result[2] })
        answered = answered + 1
      end
    end
    assert.is_true(answered > 0)
    assert.equal(1, n:counted "of b")
    assert.equal("closed", hanging:results()[1].err:match "^closed")
  end)

  it("says that it would block for what L1 does not have, where the phase cannot yield", function()
    local n = node.pair(helper.redis(), { server = [[
      location = /phases {
        content_by_lua_block { ngx.print "done" }
        header_filter_by_lua_block { require("spec.nginx.phases").probe "header_filter" }
      }
    ]] })
    n:run [[cache:set("warm", "there", 60)]]
    local function probe(options)
      local id = helper.unique_name "probe"
      n.nginx:request { uri = "/phases", headers = { Probe = id, Code = ([[
        local values, errs = cache:fetch_many({ "warm", "cold" }, 60, function() return { cold = "loaded" } end, nil, %s)
        return { values = values, errs = errs }
      ]]):format(options):gsub("%s+", " ") } }
      return cjson.decode(n:run([[return counts:get("result header_filter " .. ...)]], id))
    end
    assert.same({ values = { warm = "there" }, errs = { cold = "would block: the phase 'header_filter' cannot yield" } }, probe "nil")
    assert.same({ values = { warm = "there", cold = "loaded" }, errs = {} }, probe "{ blocking = true }")
    assert.equal(0, n:stats().fills_running)
  end)
end)
