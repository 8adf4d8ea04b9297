-- SPDX-License-Identifier: MIT
-- nginx drops timers beyond lua_max_running_timers. What a cache runs in timers begins once there are some again.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local HTTP = "lua_max_running_timers 8;"
-- No timer begins for a second, which the code after it has.
local TAKE_ALL = [[
  for _ = 1, 8 do
    ngx.timer.at(0, function() ngx.sleep(1) end)
  end
  ngx.sleep(0.05)
]]

describe("without timers for a while, a worker", function()
  it("speaks with Redis afterwards", function()
    local redis = helper.redis()
    local n = node.start { options = { redis = redis.url }, workers = 1, http = HTTP }
    assert.same({ "value of k" }, { (n:run(TAKE_ALL .. [[return cache:fetch("k", 60, load)]])) })
    helper.wait_until(function() return n:run [[return cache:set("k", 1)]] end, { message = "Redis is not told" })
    assert.is_nil(n:stats().redis_error)
  end)

  it("tells on_event afterwards", function()
    local redis = helper.redis()
    local n = node.start { options = {}, workers = 1, http = HTTP, init = ([[
      local app = require "spec.nginx.app"
      app.cache = assert(app.gorge.new {
        namespace = "told", redis = %q, on_event = function(name) app.count(name) end,
      })
    ]]):format(redis.url) }
    n:run [[return cache:get "k"]]
    n:wait_count "redis_up"
    n:run(TAKE_ALL .. "ngx.sleep(1.2)") -- it would have looked in that time
    redis:kill()
    helper.wait_until(function()
      n:run [[return cache:get "k"]]
      return n:counted "redis_down" > 0
    end, { message = "nobody was told that Redis is down" })
  end)

  it("hears of other workers afterwards", function()
    local n = node.start { options = { lock_sleep = 20, wait_timeout = 40, lock_ttl = 60 }, http = HTTP }
    local waiting, filling = n:worker(0), n:worker(1)
    local function fill(key)
      filling:run([[
        local key = ...
        ngx.timer.at(0, function()
          cache:fetch(key, 60, function()
            gate(key)
            return load(key)
          end)
        end)
      ]], key)
      n:wait_count("at " .. key)
    end
    fill "first"
    waiting:run(TAKE_ALL .. [[
      local thread = ngx.thread.spawn(function() cache:fetch("first", 60, load) end)
      ngx.sleep(1.5)
      ngx.thread.kill(thread)
    ]])
    fill "second"
    local since = helper.now()
    local value = waiting:run [[
      ngx.timer.at(0.1, function() open "second" end)
      return cache:fetch("second", 60, load)
    ]]
    assert.equal("value of second", value)
    assert.is_true(helper.now() - since < 10) -- lock_sleep is 20
    n:run [[open "first"]]
  end)
end)
