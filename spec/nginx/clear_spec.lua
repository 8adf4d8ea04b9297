-- SPDX-License-Identifier: MIT
-- clear: nothing that was stored before is seen after it, on any node, and nothing that was on its way then.
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local FILL = [[
  for i = 1, 50 do
    assert(cache:set("set" .. i, i, 60, "tag" .. i % 3))
    cache:fetch("fetched" .. i, 60, function() return i end)
  end
]]

--- Names of what a worker still finds, and in which layer.
local FIND = [[
  local found = {}
  for i = 1, 50 do
    for _, key in ipairs { "set" .. i, "fetched" .. i } do
      local value, err, source = cache:get(key)
      if source then
        found[#found + 1] = key .. " in " .. source
      end
    end
  end
  return table.concat(found, ", ")
]]

local WARM = FILL .. FIND

local function epoch_of(redis)
  return redis:command("GET", redis:command("KEYS", "*}:e")[1])
end

describe("clear", function()
  it("without Redis leaves nothing in any worker, and other namespaces alone", function()
    local n = node.start {
      options = { zone = "common", l1_size = "4m" },
      init = [[
        local app = require "spec.nginx.app"
        app.other = assert(app.gorge.new { namespace = "other", zone = "common", l1_size = "4m" })
      ]],
    }
    local one, two = n:worker(0), n:worker(1)
    one:run [[assert(other:set("k", "kept", 60))]]
    for _ = 1, 3 do
      one:run(WARM)
      two:run(FIND)
      assert.is_true(two:run [[return cache:clear()]])
      assert.equal("", one:run(FIND))
      assert.equal("", two:run(FIND))
    end
    assert.equal("kept", (two:run [[return other:get "k"]]))
    assert.equal(3, n:stats().clears)
    one:run [[assert(cache:set("k", "new", 60))]]
    assert.equal("new", (two:run [[return cache:get "k"]]))
    n:assert_clean_log()
  end)

  it("with Redis leaves nothing on this host at once, nor on other nodes soon", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { redis = node.patient(redis) } })
    local workers = { a:worker(0), a:worker(1), b:worker(0), b:worker(1) }
    for _ = 1, 3 do
      workers[1]:run(WARM)
      workers[3]:run(WARM)
      workers[2]:run(FIND)
      workers[4]:run(FIND)
      assert.is_true(workers[1]:run [[return cache:clear()]])
      assert.equal("", workers[2]:run(FIND))
      assert.equal("", workers[1]:run(FIND))
      helper.wait_until(function() return workers[3]:run(FIND) == "" and workers[4]:run(FIND) == "" end)
      -- and they understand one another afterwards
      workers[4]:run [[assert(cache:set("k", "new", 60, "t"))]]
      helper.wait_until(function() return workers[2]:run [[return cache:get "k"]] == "new" end)
      workers[1]:run [[assert(cache:invalidate_tags "t")]]
      assert.is_nil((workers[2]:run [[return cache:get "k"]]))
      helper.wait_until(function() return workers[3]:run [[return cache:get "k"]] == nil end)
    end
    a:assert_clean_log()
    b:assert_clean_log()
  end)

  it("costs the same whatever there is", function()
    local redis = helper.redis()
    local n = node.start({ options = { redis = node.patient(redis), l1_size = "16m" } }):wait_subscribed()
    n:run [[for i = 1, 5000 do assert(cache:set("k" .. i, i, 600)) end]]
    local commands = tonumber(redis:command("INFO", "stats"):match "total_commands_processed:(%d+)")
    n:run [[assert(cache:clear())]]
    local after = tonumber(redis:command("INFO", "stats"):match "total_commands_processed:(%d+)")
    assert.is_true(after - commands < 40, after - commands .. " commands")
    -- what was stored dies by its ttl
    for _, key in ipairs(redis:command("KEYS", "*:v:k1*")) do
      assert.is_true(redis:command("PTTL", key) > 0)
    end
  end)

  for _, with in ipairs { "without Redis", "with Redis" } do
    it("refuses fills that began before, " .. with, function()
      local n = node.start { options = { redis = with == "with Redis" and node.patient(helper.redis()) or nil } }
      if with == "with Redis" then
        n:wait_subscribed()
      end
      local batch = n:start(1, [[return cache:fetch("k", 60, load_at_gate, "t")]])
      n:wait_count "at loader"
      assert.is_true(n:run [[return cache:clear()]])
      n:run [[open "loader"]]
      assert.equal("value of k", batch:results()[1][1])
      for id = 0, 1 do
        assert.is_nil((n:worker(id):run [[return cache:get "k"]]))
      end
    end)
  end

  it("that a fill of another node did not hear of, is obeyed by it all the same", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { redis = node.patient(redis) } })
    local batch = b:start(1, [[return cache:fetch("k", 60, load_at_gate, "t")]])
    b:wait_count "at loader"
    a:run [[assert(cache:clear())]]
    b:run [[open "loader"]]
    assert.equal("value of k", batch:results()[1][1])
    helper.wait_until(function() return b:run [[return cache:get "k"]] == nil end)
    assert.is_nil((a:run [[return cache:get "k"]]))
  end)

  it("is learnt by a node that was away when it happened, before it serves again", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { redis = node.patient(redis) } })
    for _ = 1, 5 do
      local there = b:worker(0)
      helper.wait_until(function() -- a worker whose connection was cut may still be without one
        return a:run [[return cache:set("k", "old", 60) and cache:set("l", "old", 60) and cache:stats().queued == 0]]
      end)
      helper.wait_until(function() return there:run [[return cache:get "k"]] == "old" end)
      redis:command("CLIENT", "KILL", "TYPE", "pubsub")
      redis:command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
      a:run [[
        local ok
        for _ = 1, 1000 do
          ok = cache:clear()
          if ok then break end
          ngx.sleep(0.01)
        end
        assert(ok)
      ]]
      -- one that asks Redis sees it at once, one that has a copy when it listens again
      helper.wait_until(function() return there:run [[return cache:get "k"]] == nil end)
      assert.is_nil((there:run [[return cache:get "l"]]))
      node.wait_linked { a, b }
    end
  end)

  it("without Redis for a while is done on this host, and says so", function()
    local redis = helper.redis()
    local n = node.start({ options = { redis = node.patient(redis) } }):wait_subscribed()
    n:run(FILL)
    redis:kill()
    local ok, err = n:run [[return cache:clear()]]
    assert.is_nil(ok)
    assert.matches("^gorge: clear: done on this host, but not in Redis: ", err)
    for id = 0, 1 do
      assert.equal("", n:worker(id):run(FIND))
    end
  end)

  it("happens by itself when Redis has lost its memory, or the epoch alone", function()
    local redis = helper.redis()
    local a, b = node.pair(redis, { options = { redis = node.patient(redis) } })
    for _, command in ipairs { "FLUSHALL", "DEL" } do
      a:run [[assert(cache:set("k", "old", 60)) cache:get "k"]]
      helper.wait_until(function() return b:run [[return cache:get "k"]] == "old" end)
      local before = epoch_of(redis)
      if command == "DEL" then
        redis:command("DEL", redis:command("KEYS", "*}:e")[1])
      else
        redis:command(command)
      end
      b:run [[assert(cache:set("l", "new", 60))]] -- whoever writes first finds out
      assert.is_true(tonumber(epoch_of(redis)) > tonumber(before))
      helper.wait_until(function() return a:run [[return cache:get "k"]] == nil end)
      assert.is_nil((b:run [[return cache:get "k"]]))
      -- a heartbeat of its own may have emptied its L1 before it heard of the new epoch
      helper.wait_until(function() return a:run [[return cache:get "l"]] == "new" end)
    end
  end)

  it("of a handle that is closed does nothing", function()
    local n = node.start { options = {} }
    assert.same({ nil, "closed" }, { n:run [[
      local other = assert(gorge.new { namespace = "closed", l1_size = "2m" })
      other:close()
      return other:clear()
    ]] })
  end)
end)
