-- SPDX-License-Identifier: MIT
-- What works in which phase of nginx: hits everywhere; what must wait only where the phase can yield, or when asked to block.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local YIELDING = { "rewrite", "access", "content", "timer" }
local OTHERS = { "set", "header_filter", "body_filter", "log" }
local ALL = { "rewrite", "access", "content", "timer", "set", "header_filter", "body_filter", "log" }

-- Runs the code of the header Code in each phase of a request; what it returns stands under "result PHASE".
local SERVER = [[
  location = /phases {
    set_by_lua_block $unused { require("spec.nginx.phases").probe "set" return "" }
    rewrite_by_lua_block { require("spec.nginx.phases").probe "rewrite" }
    access_by_lua_block { require("spec.nginx.phases").probe "access" }
    content_by_lua_block { require("spec.nginx.phases").content() }
    header_filter_by_lua_block { require("spec.nginx.phases").probe "header_filter" }
    body_filter_by_lua_block { require("spec.nginx.phases").probe_once "body_filter" }
    log_by_lua_block { require("spec.nginx.phases").probe "log" }
  }
]]

--- Results of the code in each phase: tables of what it returned.
local function probe(n, code)
  local id = helper.unique_name "probe"
  local response = n.nginx:request { uri = "/phases", headers = { Code = code:gsub("%s+", " "), Probe = id } }
  assert.equal(200, response.status)
  local results = {}
  for _, phase in ipairs(ALL) do
    results[phase] = helper.wait_until(function()
      return n:run([[
        local result = counts:get("result " .. ...)
        return result and require("cjson").decode(result)
      ]], phase .. " " .. id)
    end, { message = "no result of the phase " .. phase })
    assert.is_nil(results[phase].raised)
  end
  return results
end

describe("without Redis", function()
  local n
  setup(function()
    n = node.start { options = {}, server = SERVER }
  end)

  it("everything works in every phase", function()
    local results = probe(n, [[
      local phase = ...
      local value, err, source = cache:fetch("cold in " .. phase, 60, load)
      local again, _, again_source = cache:get("cold in " .. phase)
      return { value = value, err = err, source = source, again = again, again_source = again_source,
        set = cache:set("set in " .. phase, phase, 60, "t"), peek = cache:peek("set in " .. phase).ttl,
        deleted = cache:delete("set in " .. phase), gone = cache:get("set in " .. phase) == nil,
        invalidated = cache:invalidate_tags("t"), zone = cache:stats().zone }
    ]])
    for _, phase in ipairs(ALL) do
      local r = results[phase]
      assert.same({ "value of cold in " .. phase, nil, "fn" }, { r.value, r.err, r.source })
      assert.same({ "value of cold in " .. phase, "l0" }, { r.again, r.again_source })
      assert.same({ true, true, true, true }, { r.set, r.deleted, r.gone, r.invalidated })
      assert.is_true(r.peek > 59)
      assert.equal(n.namespace, r.zone)
    end
    n:assert_clean_log()
  end)

  it("what this worker fills is not waited for by who blocks it", function()
    local alone = node.start { options = {}, server = SERVER, workers = 1 }
    local filling = alone:start(1, [[
      local values = cache:fetch_many({ "many" }, 60, function() return { many = load_at_gate "many" } end)
      return values.many
    ]])
    local slow = alone:start(1, [[return cache:fetch("slow", 60, load_at_gate)]])
    alone:wait_count("at loader", 2)
    local since = helper.now()
    local results = probe(alone, [[
      local phase = ...
      if phase ~= "set" and phase ~= "log" then
        return {}
      end
      local value, err, source = cache:fetch("slow", 60, load, nil, { blocking = true })
      local _, refused = cache:fetch("slow", 60, load, nil, { blocking = true, on_lock_timeout = "error" })
      local _, errs = cache:fetch_many({ "many" }, 60, load, nil, { blocking = true, on_lock_timeout = "error" })
      local other_tags = cache:fetch("slow", 60, load, "tag", { blocking = true })
      return { value = value, err = err, source = source, refused = refused, many = errs.many, other_tags = other_tags }
    ]])
    assert.is_true(helper.now() - since < 10) -- wait_timeout is 30
    local stuck = 'gorge: key "%s": another coroutine of this program is loading it, and cannot go on while this one waits'
    for _, phase in ipairs { "set", "log" } do
      assert.same({
        value = "value of slow", source = "fn", refused = stuck:format "slow", many = stuck:format "many", other_tags = "value of slow",
      }, results[phase])
    end
    alone:run [[open "loader"]]
    assert.equal("value of slow", slow:results(5)[1][1])
    assert.equal("value of many", filling:results(5)[1][1])
    assert.equal(0, alone:stats().fills_running)
    alone:assert_clean_log()
  end)

  it("what another worker fills is not waited for where the phase cannot yield", function()
    local filling = n:start(1, [[return cache:fetch("slow", 60, load_at_gate)]])
    n:wait_count "at loader"
    -- the yielding phases would wait for the gate: they are left out
    local results = probe(n, [[
      local phase = ...
      if phase == "rewrite" or phase == "access" or phase == "content" or phase == "timer" then return {} end
      local value, err = cache:fetch("slow", 60, load)
      return { value = value, err = err }
    ]])
    for _, phase in ipairs(OTHERS) do
      assert.same({ err = ("would block: the phase '%s' cannot yield"):format(phase) }, results[phase])
    end
    n:run [[open "loader"]]
    assert.equal("value of slow", filling:results()[1][1])
    assert.equal(0, n:stats().fills_running)
  end)
end)

describe("with Redis", function()
  local redis, n, other
  setup(function()
    redis = helper.redis()
    n, other = node.pair(redis, { server = SERVER, options = { redis = node.patient(redis) } })
  end)

  it("hits of L0 and L1 work in every phase", function()
    n:run [[cache:set("warm", "there", 60)]]
    local results = probe(n, [[
      local value, err, source = cache:fetch("warm", 60, load)
      return { value = value, err = err, source = source }
    ]])
    for _, phase in ipairs(ALL) do
      assert.same({ "there", nil }, { results[phase].value, results[phase].err })
      assert.matches("^l[01]$", results[phase].source)
    end
  end)

  it("misses work where the phase can yield, elsewhere they say that they would block", function()
    local results = probe(n, [[
      local phase = ...
      local value, err, source = cache:fetch("miss in " .. phase, 60, load)
      local got, get_err = cache:get("get in " .. phase)
      return { value = value, err = err, source = source, got = got, get_err = get_err }
    ]])
    for _, phase in ipairs(YIELDING) do
      assert.same({ value = "value of miss in " .. phase, source = "fn" }, results[phase])
    end
    for _, phase in ipairs(OTHERS) do
      local message = ("would block: the phase '%s' cannot yield"):format(phase)
      assert.same({ err = message, get_err = message }, results[phase])
    end
    assert.equal(0, n:stats().fills_running)
    n:assert_clean_log()
  end)

  it("misses work in every phase when the call may block", function()
    other:run [[cache:set("from the other", "theirs", 60)]]
    local results = probe(n, [[
      local phase = ...
      local options = { blocking = true }
      local value, err, source = cache:fetch("blocking in " .. phase, 60, load, nil, options)
      local got, get_err = cache:get("from the other", options)
      local absent, absent_err = cache:get("absent in " .. phase, options)
      return { value = value, err = err, source = source, got = got, get_err = get_err, absent = absent, absent_err = absent_err }
    ]])
    for _, phase in ipairs(ALL) do
      assert.same({ value = "value of blocking in " .. phase, source = "fn", got = "theirs" }, results[phase])
      -- it went to Redis as well
      local value, err, source = other:run([[return cache:get("blocking in " .. ...)]], phase)
      assert.same({ "value of blocking in " .. phase, nil, "l2" }, { value, err, source })
    end
    assert.equal(0, n:stats().fills_running)
    n:assert_clean_log()
  end)

  it("writes are done at once, and reach Redis from every phase", function()
    n:run [[assert(cache:set("heard", 1, 60))]]
    for _, phase in ipairs(ALL) do
      other:run([[assert(cache:set("written in " .. ..., "older", 60))]], phase)
    end
    assert.is_true((other:run [[return cache:delete "heard"]]))
    helper.wait_until(function() return n:run [[return cache:peek "heard" == nil]] end) -- and so what the other node said before
    local function write(phases)
      return probe(n, ([[
        local phase = ...
        if not (%s)[phase] then return {} end
        local ok, err = cache:set("written in " .. phase, phase, 60)
        return { ok = ok, err = err, value = cache:get("written in " .. phase) }
      ]]):format(node.literal(phases)))
    end
    local yielding, others = {}, {}
    for _, phase in ipairs(YIELDING) do
      yielding[phase] = true
    end
    for _, phase in ipairs(OTHERS) do
      others[phase] = true
    end
    local results = write(yielding)
    for _, phase in ipairs(YIELDING) do
      assert.same({ ok = true, value = phase }, results[phase])
    end
    -- What waits for no answer has no version, and goes from this host when Redis tells of it: not before it is read.
    redis:pause()
    finally(function() redis:resume() end)
    results = write(others)
    redis:resume()
    for _, phase in ipairs(OTHERS) do
      assert.is_nil(results[phase].ok)
      assert.equal(("would block: the phase '%s' cannot yield; this host is done, Redis was told without waiting for its answer")
        :format(phase), results[phase].err)
      assert.equal(phase, results[phase].value)
    end
    for _, phase in ipairs(ALL) do
      helper.wait_until(function() return other:run([[return cache:get("written in " .. ...)]], phase) == phase end,
        { message = "the write in the phase " .. phase .. " did not reach the other node" })
    end
    n:assert_clean_log()
  end)
end)

describe("init_by_lua", function()
  local INIT = [[
    local app = require "spec.nginx.app"
    local cache = app.cache
    app.set_ok, app.set_err = cache:set("set", { from = "init" }, 600)
    app.value, app.err, app.source = cache:fetch("fetched", 600, function() return "from init" end)
    app.again, _, app.again_source = cache:get "fetched"
    app.deleted, app.delete_err = cache:delete "nothing"
    app.ttl = cache:peek("set").ttl
  ]]

  it("may fill L1 for the workers when there is no Redis", function()
    local n = node.start { options = {}, init = INIT }
    assert.same({ true, "from init", "fn", "from init", true }, { n:run [[return set_ok, value, source, again, deleted]] })
    for id = 0, 1 do
      local worker = n:worker(id)
      assert.equal("init", (worker:run [[return cache:get("set").from]]))
      local value, err, source = worker:run [[return cache:fetch("fetched", 60, load)]]
      assert.same({ "from init", nil }, { value, err })
      assert.matches("^l[01]$", source)
    end
    assert.equal(2, n:stats().workers - 1) -- the master has a slot as well
    n:assert_clean_log()
  end)

  it("leaves the workers an empty L0, whatever the master did", function()
    local n = node.start { options = {}, workers = 1, init = [[
      local cache = require("spec.nginx.app").cache
      cache:fetch("fetched", 60, function() return "from init" end)
      cache:get "fetched"
      cache:fetch_many({ "many" }, 60, function() return { many = "from init" } end)
      cache:update("updated", 60, function() return "from init" end)
      cache:update("updated", 60, function(old) return old end)
    ]] }
    local sources, hits = n:run [[
      local sources = {}
      for _, key in ipairs { "updated", "many", "fetched" } do
        sources[key] = select(3, cache:get(key))
        cache:get(key)
      end
      return sources, cache:stats().l0_hits
    ]]
    assert.same({ updated = "l1", many = "l1", fetched = "l1" }, sources)
    assert.equal(3, hits)
    n:assert_clean_log()
  end)

  it("works as if Redis could not be reached, and starts no thread in the master", function()
    local redis = helper.redis()
    local n = node.start { options = { redis = redis.url }, init = INIT }
    local set_ok, set_err, value, err, source = n:run [[return set_ok, set_err, value, err, source]]
    assert.is_nil(set_ok)
    assert.matches("^gorge: set: done on this host, but not in Redis: ", set_err)
    assert.same({ "from init", nil, "fn" }, { value, err, source })
    -- the workers are none the worse
    assert.equal("value of k", (n:run [[return cache:fetch("k", 60, load)]]))
    assert.is_true((n:run [[return cache:set("set", 2, 60)]]))
    local threads = 0
    local _, list = helper.process.run { "ls", ("/proc/%d/task"):format(n.nginx.pid) }
    for _ in list:gmatch "%d+" do
      threads = threads + 1
    end
    assert.equal(1, threads)
    n:assert_clean_log()
  end)
end)

describe("init_worker_by_lua", function()
  it("may use the cache, and a timer of it may wait", function()
    local redis = helper.redis()
    local n = node.start { options = { redis = redis.url }, http = [[
      init_worker_by_lua_block {
        local app = require "spec.nginx.app"
        app.direct, app.direct_err = app.cache:fetch("direct", 60, app.load)
        app.background("timer", function() return app.cache:fetch("in a timer", 60, app.load) end)
      }
    ]] }
    local result = helper.wait_until(function() return n:run [[return counts:get "result timer"]] end)
    assert.matches("value of in a timer", result)
    local value, err = n:run [[return direct, direct_err]]
    assert.is_nil(value)
    assert.equal("would block: the phase 'init_worker' cannot yield", err)
  end)
end)
