-- SPDX-License-Identifier: MIT
-- A loader that raises, fails, never returns or is cut off leaves nobody waiting and nothing behind.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

-- Seconds. Long enough that who is answered in PROMPT, on a machine that may be busy, was not merely saved by a deadline.
local LEASE, PATIENCE, PROMPT = 20, 40, 5

-- Loaders of requests that are cut off: the first run in this nginx says that it is there and then waits or exits; later ones return.
local SERVER = [[
  location = /exit-content { content_by_lua_block {
    local app = require "spec.nginx.app"
    app.cache:fetch("k", 60, function(key)
      if app.counts:add("first", 1) then
        app.gate "first"
        ngx.exit(503)
      end
      return app.load(key)
    end)
    ngx.print "done"
  } }
  location = /exit-access {
    access_by_lua_block {
      local app = require "spec.nginx.app"
      app.cache:fetch("k", 60, function(key)
        if app.counts:add("first", 1) then
          app.gate "first"
          ngx.exit(403)
        end
        return app.load(key)
      end)
    }
    content_by_lua_block { ngx.print "done" }
  }
  location = /exec { content_by_lua_block {
    local app = require "spec.nginx.app"
    app.cache:fetch("k", 60, function(key)
      if app.counts:add("first", 1) then
        app.gate "first"
        ngx.exec "/elsewhere"
      end
      return app.load(key)
    end)
    ngx.print "done"
  } }
  location = /elsewhere { return 204; }
  location = /again { content_by_lua_block {
    ngx.print(tostring(require("spec.nginx.app").fetch_or_error("k")))
  } }
  location = /exec-again { content_by_lua_block {
    require("spec.nginx.app").cache:fetch("k", 60, function() ngx.exec "/again" end)
  } }
  location = /exec-many-again { content_by_lua_block {
    require("spec.nginx.app").cache:fetch_many({ "j", "k" }, 60, function() ngx.exec "/again" end)
  } }
  location = /error-again {
    error_page 503 =200 /again;
    access_by_lua_block { require("spec.nginx.app").cache:fetch("k", 60, function() ngx.exit(503) end) }
    content_by_lua_block { ngx.print "not reached" }
  }
  location = /ok-again {
    access_by_lua_block { require("spec.nginx.app").cache:fetch("k", 60, function() ngx.exit(ngx.OK) end) }
    content_by_lua_block { ngx.print(tostring(require("spec.nginx.app").fetch_or_error("k"))) }
  }
  location = /killed-thread { content_by_lua_block {
    local app = require "spec.nginx.app"
    local thread = ngx.thread.spawn(function()
      app.cache:fetch("k", 60, function(key)
        if app.counts:add("first", 1) then
          app.count "at first"
          ngx.sleep(60)
        end
        return app.load(key)
      end)
    end)
    while not app.counts:get "open first" do
      ngx.sleep(0.002)
    end
    ngx.thread.kill(thread)
    ngx.print "done"
  } }
  location = /hang { content_by_lua_block {
    local app = require "spec.nginx.app"
    ngx.print(app.cache:fetch("k", 60, function(key)
      if app.counts:add("first", 1) then
        app.count "at first"
        ngx.sleep(60)
      end
      return app.load(key)
    end))
  } }
]]

local FETCH = [[
  count "callers"
  return cache:fetch("k", 60, load)
]]

local function start(redis, options, workers)
  options = options or {}
  options.lock_ttl = options.lock_ttl or LEASE
  options.wait_timeout = options.wait_timeout or PATIENCE
  options.redis = redis and node.patient(redis)
  local opts = { http = "lua_check_client_abort on;", server = SERVER, options = options, workers = workers }
  if not redis then
    return { node.start(opts) }
  end
  return { node.pair(redis, opts) }
end

--- A request whose loader is under way in the first node, and callers that wait for it in all nodes.
local function begin(nodes, uri)
  local leader = nodes[1].nginx:start_requests { uri }
  nodes[1]:wait_count "at first"
  local batches = {}
  for i, n in ipairs(nodes) do
    batches[i] = n:start(20, FETCH)
    n:wait_count("callers", 20)
  end
  return leader, batches
end

local function assert_answered(nodes, batches, since, bound)
  for _, batch in ipairs(batches) do
    for _, result in ipairs(batch:results(10)) do
      assert.is_nil(result.err)
      assert.same({ "value of k", nil }, { result[1], result[2] })
    end
  end
  local took = helper.now() - since
  assert.is_true(took < (bound or PROMPT), ("the last was answered after %.2f s"):format(took))
  local loads = 0
  for _, n in ipairs(nodes) do
    loads = loads + n:counted "loads"
    assert.equal(0, n:stats().fills_running)
    assert.equal("value of k", (n:run [[return cache:fetch("k", 60, load)]]))
    n:assert_clean_log()
  end
  return loads
end

local function describe_both(name, fn)
  describe(name, function()
    describe("without Redis", function()
      fn(function(...) return start(nil, ...) end)
    end)
    describe("with Redis and another node", function()
      fn(function(...) return start(helper.redis(), ...) end)
    end)
  end)
end

describe_both("a loader that is cut off", function(nodes_with)
  for _, case in ipairs {
    { "by ngx.exit in the content phase", "/exit-content", 503 },
    { "by ngx.exit in the access phase", "/exit-access", 403 },
    { "by ngx.exec", "/exec", 204 },
    { "by ngx.thread.kill", "/killed-thread", 200 },
  } do
    it(case[1] .. " lets the others go on at once", function()
      local nodes = nodes_with()
      local leader, batches = begin(nodes, case[2])
      local since = helper.now()
      nodes[1]:run [[open "first"]]
      assert.equal(case[3], leader:finish(5)[1].status)
      assert.equal(1, assert_answered(nodes, batches, since))
    end)
  end

  it("by a client that closes lets the others go on at once", function()
    local nodes = nodes_with()
    local leader, batches = begin(nodes, "/hang")
    local since = helper.now()
    leader:close()
    assert.equal(1, assert_answered(nodes, batches, since))
  end)
end)

-- nginx gives its coroutines to one request after another.
describe_both("a loader that is cut off is not taken for one under way", function(nodes_with)
  local function assert_value_of(n, uri)
    local since = helper.now()
    local response = n.nginx:get(uri)
    assert.same({ 200, "value of k" }, { response.status, response.body })
    assert.is_true(helper.now() - since < PROMPT)
    n:run [[return cache:delete "k"]]
  end

  it("by a later part of its request", function()
    local n = nodes_with()[1]
    for _, uri in ipairs { "/exec-again", "/exec-many-again", "/error-again", "/ok-again" } do
      assert_value_of(n, uri)
    end
    assert.equal(0, n:stats().fills_running)
    n:assert_clean_log()
  end)

  it("by a request that comes after it", function()
    local n = nodes_with({}, 1)[1]
    local worker = n:worker(0)
    for i = 1, 10 do
      local doomed = n:start(1, [[
        count "doomed"
        return cache:fetch("k", 60, function() ngx.sleep(60) end)
      ]])
      n:wait_count("doomed", i)
      doomed:close()
      local many = i % 2 == 0
      local value, err = worker:run(many and [[
        local values, errs = cache:fetch_many({ "k" }, 60, function() return { k = load "k" } end)
        return values.k, errs.k
      ]] or [[return cache:fetch("k", 60, load)]])
      assert.same({ "value of k" }, { value, err })
      n:run [[return cache:delete "k"]]
    end
    n:assert_clean_log()
  end)
end)

describe_both("loaders that are cut off one after another", function(nodes_with)
  it("are forgotten, though nobody asks for their keys again", function()
    local n = nodes_with({}, 1)[1]
    for i = 1, 20 do
      local doomed = n:start(1, [[
        count "doomed"
        return cache:fetch("k" .. ..., 60, function() ngx.sleep(60) end)
      ]], i)
      n:wait_count("doomed", i)
      doomed:close()
    end
    n:run [[return cache:fetch("k", 60, load)]]
    local known = n:run [[
      local count = 0
      for _ in pairs(cache.flights) do
        count = count + 1
      end
      return count
    ]]
    assert.is_true(known <= 2, known)
    n:assert_clean_log()
  end)
end)

describe_both("a caller that waits", function(nodes_with)
  it("and closes takes nobody along", function()
    local nodes = nodes_with()
    local leader = nodes[1].nginx:start_requests { "/exit-content" }
    nodes[1]:wait_count "at first"
    local doomed, batches = {}, {}
    for i, n in ipairs(nodes) do
      -- those that came first lead the others of their worker
      doomed[i] = n:start(10, FETCH)
      n:wait_count("callers", 10)
      batches[i] = n:start(20, FETCH)
      n:wait_count("callers", 30)
    end
    for _, batch in ipairs(doomed) do
      batch:close()
    end
    -- nginx has seen the closed connections when it answers a later request
    for _, n in ipairs(nodes) do
      for id = 0, 1 do
        n:worker(id):run "ngx.sleep(0.01)"
      end
    end
    local since = helper.now()
    nodes[1]:run [[open "first"]]
    leader:finish(5)
    assert.equal(1, assert_answered(nodes, batches, since))
  end)
end)

describe_both("a loader that never returns", function(nodes_with)
  it("holds the others up for wait_timeout at most", function()
    local nodes = nodes_with { wait_timeout = 1, lock_ttl = 0.3 }
    local since = helper.now()
    local leader, batches = begin(nodes, "/hang")
    for _, batch in ipairs(batches) do
      for _, result in ipairs(batch:results(10)) do
        assert.is_nil(result.err)
        assert.same({ "value of k", nil }, { result[1], result[2] })
      end
    end
    assert.is_true(helper.now() - since < 1 + PROMPT)
    -- the key can be filled again without a wait, although the first loader still runs
    local value, took = nodes[1]:run [[
      local begun = now()
      cache:delete "k"
      return cache:fetch("k", 60, load), now() - begun
    ]]
    assert.equal("value of k", value)
    assert.is_true(took < 0.9, took)
    leader:close()
    for _, n in ipairs(nodes) do
      helper.wait_until(function() return n:stats().fills_running == 0 end)
      n:assert_clean_log()
    end
  end)

  it("is taken over by who comes after wait_timeout, though its request lives on", function()
    local n = nodes_with({ wait_timeout = 0.5, lock_ttl = 0.3 })[1]
    local worker = n:worker(0)
    worker:run [[
      ngx.timer.at(0, function()
        local function hang() ngx.sleep(60) end
        local one = ngx.thread.spawn(function() cache:fetch("k", 60, hang) end)
        local two = ngx.thread.spawn(function() cache:fetch_many({ "j" }, 60, hang) end)
        ngx.sleep(0)
        ngx.thread.kill(one)
        ngx.thread.kill(two)
        ngx.sleep(60)
      end)
      ngx.sleep(0.01)
    ]]
    -- it waits for as long, and began later
    assert.equal("value of k", (worker:run [[return cache:fetch("k", 60, load)]]))
    for _, key in ipairs { "k", "j" } do
      local value, _, source = worker:run([[return cache:fetch(..., 60, load)]], key)
      assert.same({ "value of " .. key, "fn" }, { value, source })
      value, _, source = worker:run([[return cache:fetch(..., 60, load)]], key)
      assert.same({ "value of " .. key, "l0" }, { value, source })
    end
    n:assert_clean_log()
  end)

  it("is an error after wait_timeout for who asked for that", function()
    local nodes = nodes_with { wait_timeout = 0.5, lock_ttl = 0.3, on_lock_timeout = "error" }
    local leader = nodes[1].nginx:start_requests { "/hang" }
    nodes[1]:wait_count "at first"
    for _, n in ipairs(nodes) do
      for _, result in ipairs(n:start(10, FETCH):results(5)) do
        assert.is_nil(result.err)
        if result[2] then
          assert.is_nil(result[1])
          assert.equal('gorge: key "k": waited 0.5 s for somebody else\'s fill', result[2])
        else
          assert.equal("value of k", result[1]) -- by then the lease was over, and it was taken over
        end
      end
    end
    leader:close()
  end)
end)

describe_both("a loader that fails", function(nodes_with)
  it("leaves the key to be fetched anew, whatever it raised or returned", function()
    local nodes = nodes_with()
    local expected = {
      ["error 'text'"] = "posted:%d+: text",
      ["error()"] = "gorge: fn raised: nil",
      ["error { code = 1 }"] = "table", -- itself, and in other workers "gorge: fn failed: a table"
      ["error(nil, 0)"] = "gorge: fn raised: nil",
      ["return nil, 'failed'"] = "^failed$",
      ["local x = nil; return x.y"] = "attempt to index",
      ["return {}, nil, 'override'"] = "must be a ttl or a table",
      ["return function() end"] = "cannot serialize a function",
      ["ngx.sleep(0.02) error('late', 0)"] = "^gorge: fn raised: late$",
    }
    for body, pattern in pairs(expected) do
      local code = ([[
        local value, err = cache:fetch("k", 60, function() %s end)
        return value, tostring(err)
      ]]):format(body)
      for _, n in ipairs(nodes) do
        for _, result in ipairs(n:start(10, code):results(5)) do
          assert.is_nil(result.err)
          assert.is_nil(result[1])
          assert.matches(pattern, result[2])
        end
      end
    end
    for _, n in ipairs(nodes) do
      assert.equal(0, n:stats().fills_running)
      n:assert_clean_log()
    end
    local since = helper.now()
    assert.equal("value of k", (nodes[#nodes]:run [[return cache:fetch("k", 60, load)]]))
    assert.is_true(helper.now() - since < PROMPT)
  end)
end)
