-- SPDX-License-Identifier: MIT
-- A host on which nobody asked for a while, so that nobody listened: it must not answer from what it had before.
local helper = require "spec.helper"

local http = [[
  init_by_lua_block {
    cache = assert(require("gorge").new { namespace = "idle", redis = "{{redis}}", l1_size = "4m" })
  }
]]
local server = [[
  location /fetch { content_by_lua_block {
    local value, err, source = cache:fetch("k", 60, function() return ngx.var.arg_v end)
    ngx.print(tostring(value), " ", err or source)
  } }
  location /delete { content_by_lua_block { ngx.print(tostring(cache:delete("k"))) } }
  location /look { content_by_lua_block { cache:get "another" } }
  location /subscribed { content_by_lua_block { ngx.print(tostring(cache:stats().subscribed)) } }
]]

--- A host begins to listen with its first look, and may forget what it has in L1 by then.
local function wait_until_it_listens(n)
  n:get "/look"
  helper.wait_until(function() return n:get("/subscribed").body == "true" end, { message = "the host does not listen" })
end

describe("a host that was idle since its reload", function()
  local redis, a, b

  setup(function()
    redis = helper.redis()
    a = helper.nginx { http = http, server = server, values = { redis = redis.url } }
    b = helper.nginx { http = http, server = server, values = { redis = redis.url } }
  end)

  it("keeps L1 warm over the reload, and hears of a delete before it answers from L1", function()
    wait_until_it_listens(a)
    assert.equal("one fn", a:get("/fetch?v=one").body)
    a:reload()
    a:wait_drained()
    assert.matches("^one l[01]$", a:get("/fetch?v=two").body)

    a:reload()
    a:wait_drained() -- nobody has asked the new workers for anything, so nobody listens
    assert.equal("false", b:get("/subscribed").body)
    assert.equal("true", b:get("/delete").body)
    helper.sleep(5.5) -- longer than a host that listened to nobody is trusted
    assert.equal("three fn", a:get("/fetch?v=three").body)
  end)

  it("answers from L1 when Redis is away by then", function()
    a:get("/fetch?v=four")
    a:reload()
    a:wait_drained()
    redis:down()
    helper.sleep(5.5)
    helper.wait_until(function()
      local body = a:get("/fetch?v=five").body
      return body:find "three l[01]"
    end)
  end)
end)

describe("a host without contact to Redis", function()
  local bounded = [[
    init_by_lua_block {
      cache = assert(require("gorge").new {
        namespace = "bounded", redis = "{{redis}}", l1_size = "4m", freshness_bound = 1, disconnected_ttl = 3,
      })
    }
  ]]
  local lag = [[
    location /lag { content_by_lua_block {
      local stats = cache:stats()
      ngx.print(tostring(stats.subscribed), " ", stats.lag and stats.lag < 1 and "recent" or "old")
    } }
  ]]
  local redis, n

  setup(function()
    redis = helper.redis()
    n = helper.nginx { http = bounded, server = server .. lag, values = { redis = redis.url } }
  end)

  it("serves what it had for disconnected_ttl, then loads anew, and keeps that", function()
    wait_until_it_listens(n)
    n:get("/fetch?v=one")
    helper.wait_until(function() return n:get("/lag").body == "true recent" end, { timeout = 5 })
    assert.matches("^one l[01]$", n:get("/fetch?v=two").body)
    redis:down()
    helper.wait_until(function() return n:get("/lag").body:find "^false" end, { timeout = 5 })
    assert.matches("^one l[01]$", n:get("/fetch?v=two").body)
    helper.wait_until(function() return n:get("/fetch?v=three").body == "three fn" end, { timeout = 5 })
    -- what was loaded in the moment before the old values were forgotten is forgotten with them
    local kept
    helper.wait_until(function()
      kept = n:get("/fetch?v=four").body:match "^(%a+) l[01]$"
      return kept
    end, { timeout = 5 })
    assert.is_true(kept == "three" or kept == "four", kept)
    redis:up()
    helper.wait_until(function() return n:get("/lag").body == "true recent" end, { timeout = 5 })
  end)
end)
