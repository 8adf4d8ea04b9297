-- SPDX-License-Identifier: MIT
-- What a cache tells by itself: events, and one line at the start.
local gorge = require "gorge"
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local function new(opts)
  opts.namespace = opts.namespace or helper.unique_name "events"
  opts.l1_size = opts.l1_size or "2m"
  return assert(gorge.new(opts))
end

-- on_event that keeps what it was told.
local function keep()
  local told = {}
  return told, function(name, fields)
    told[#told + 1] = { name = name, fields = fields }
  end
end

local function find(told, name)
  for _, event in ipairs(told) do
    if event.name == name then
      return event.fields
    end
  end
end

describe("on_event in a plain program", function()
  it("tells of Redis and the breaker, and names the cache", function()
    local redis = helper.redis()
    local told, on_event = keep()
    local cache = new { redis = node.patient(redis), on_event = on_event, circuit_breaker = { max_failures = 1, timeout = 0.2 } }
    local function wait_for(name)
      return helper.wait_until(function()
        cache:get "nothing"
        return find(told, name)
      end, { message = "nobody told of " .. name })
    end
    assert.same({ namespace = cache.options.namespace, zone = cache.options.zone }, wait_for "redis_up")
    redis:kill()
    local down = wait_for "redis_down"
    assert.is_string(down.error)
    assert.is_true(wait_for("breaker_open").opens >= 1)
    assert.is_nil(find(told, "breaker_closed"))
    redis:up()
    wait_for "breaker_closed"
    cache:close()
    for _, call in ipairs { { "fetch", "k" }, { "get", "k" }, { "set", "k", 1 }, { "delete", "k" }, { "invalidate_tags", "t" } } do
      assert.same({ nil, "closed" }, { cache[call[1]](cache, call[2], call[3]) })
    end
  end)

  it("tells of evictions once a minute, with their number", function()
    local told, on_event = keep()
    local cache = new { on_event = on_event }
    local value = ("v"):rep(1000)
    helper.wait_until(function()
      for i = 1, 2000 do
        cache:set("k" .. i .. #told .. helper.now(), value)
      end
      return find(told, "evictions")
    end)
    assert.is_true(find(told, "evictions").count > 0)
    local till = helper.now() + 1.5
    while helper.now() < till do
      for i = 1, 500 do
        cache:set("more" .. i .. helper.now(), value)
      end
    end
    assert.equal(1, #told)
  end)

  it("survives a callback that raises, and says so once", function()
    local lines = {}
    local cache = new {
      redis = helper.redis().url,
      on_event = function() error "boo" end,
      logger = function(level, message) lines[#lines + 1] = level .. " " .. message end,
    }
    helper.wait_until(function()
      cache:set("k", 1)
      return #lines > 1
    end)
    assert.matches("^error gorge: on_event raised: .*boo$", lines[2])
    local till = helper.now() + 1.2
    while helper.now() < till do
      cache:set("k", 2)
      helper.sleep(0.1)
    end
    assert.equal(2, #lines)
  end)

  it("is checked, and leaves a cache without it alone", function()
    assert.matches("option 'on_event' must be a function, got 1", select(2, pcall(gorge.new, { on_event = 1 })))
    local with, without = new { on_event = print }, new {}
    assert.equal(getmetatable(without).__index.fetch, without.fetch)
    assert.is_not_equal(with.fetch, without.fetch)
  end)
end)

describe("on_event in nginx", function()
  it("is told by one worker of the host, by itself", function()
    local redis = helper.redis()
    local n = node.start {
      options = { redis = node.patient(redis), circuit_breaker = { max_failures = 1, timeout = 60 } },
      http = "lua_shared_dict events 1m;",
      init = [[
        local app = require "spec.nginx.app"
        app.heard = assert(app.gorge.new { namespace = "heard", l1_size = "2m", redis = ]] .. node.literal(node.patient(redis)) .. [[,
          circuit_breaker = { max_failures = 1, timeout = 60 },
          on_event = function(name, fields) ngx.shared.events:incr(name, fields.count or 1, 0) end })
      ]],
    }
    local other = new { namespace = "heard", zone = helper.unique_name "other", redis = redis.url }
    for id = 0, 1 do
      n:worker(id):run [[heard:fetch("k", 60, load)]]
    end
    local function told(name)
      return n:run([[return ngx.shared.events:get(...) or 0]], name)
    end
    helper.wait_until(function() return told "redis_up" >= 1 and n:run [[return heard:stats().subscribed]] end)
    for i = 1, 5 do
      assert(other:set("k" .. i, i))
    end
    helper.wait_until(function() return told "messages" >= 5 end, { message = function() return told "messages" .. " messages" end })
    redis:kill()
    for id = 0, 1 do
      for i = 1, 5 do
        n:worker(id):run([[heard:get("cold" .. ...)]], i)
      end
    end
    helper.wait_until(function() return told "breaker_open" > 0 end)
    helper.sleep(1.2) -- time for another worker to tell it once more
    assert.equal(1, told "breaker_open")
    assert.same({}, n.nginx:log_lines { alert = true, crit = true, emerg = true })
    assert.equal(0, n.nginx:quit(5))
  end)
end)

describe("the line at the start", function()
  it("says what runs where, and no password", function()
    local redis = helper.redis { password = "s3cret-Pa55word" }
    local nginx = helper.nginx {
      http = ([[init_by_lua_block {
        cache = assert(require("gorge").new { namespace = "said", zone = "shared", l1_size = "4m", redis = "%s" })
        alone = assert(require("gorge").new { namespace = "alone", l1_size = "2m" })
      }]]):format(redis.url),
    }
    local log = nginx:error_log()
    local version = gorge._VERSION:gsub("%p", "%%%0")
    assert.matches("%[notice%][^\n]*gorge " .. version .. ": namespace 'said', zone 'shared' of 4194304 bytes, redis://127.0.0.1:" .. redis.port
      .. "/0, host nginx", log)
    assert.matches("gorge " .. version .. ": namespace 'alone', zone 'alone' of 2097152 bytes, no Redis, host nginx", log)
    assert.is_nil(log:find("s3cret", 1, true))
    assert.equal(2, select(2, log:gsub("gorge " .. version .. ": ", "")))
  end)

  it("goes to the program's logger", function()
    local lines = {}
    local cache = new { logger = function(level, message) lines[#lines + 1] = level .. " " .. message end }
    assert.same({ ("info gorge %s: namespace '%s', zone '%s' of 2097152 bytes, no Redis, host auto"):format(gorge._VERSION,
      cache.options.namespace, cache.options.zone) }, lines)
  end)
end)
