-- SPDX-License-Identifier: MIT
-- The command line, live: the keys used most, and what happens.
local cjson = require "cjson"
local gorge = require "spec.cli.program"
local helper = require "spec.helper"
local node = require "spec.nginx.node"

local redis, n, zone

setup(function()
  redis = helper.redis()
  n = node.start {
    options = { redis = node.patient(redis), l1_size = "4m", circuit_breaker = { max_failures = 2, timeout = 60 }, l1_objects = 100 },
  }
  zone = n.namespace
  node.wait_linked { n }
end)

-- Of nine hits two are of one key, one is of another, six are of a hundred and fifty others.
local LOAD = [[
  for i = 1, 2000 do
    cache:fetch("hot", 600, load) cache:fetch("cold:" .. i % 150, 600, load) cache:fetch("cold:" .. i * 7 % 150, 600, load)
    cache:fetch("warm", 600, load) cache:fetch("cold:" .. i * 11 % 150, 600, load) cache:fetch("cold:" .. i * 13 % 150, 600, load)
    cache:fetch("hot", 600, load) cache:fetch("cold:" .. i * 17 % 150, 600, load) cache:fetch("cold:" .. i * 19 % 150, 600, load)
  end
]]

describe("gorge top", function()
  it("ranks keys by their hits, and estimates rates", function()
    n:run(LOAD)
    local running = gorge.start { "top", zone, "--watch", "0.5", "--for", "1.5", "--json" }
    while running:alive() do
      n:run(LOAD)
    end
    assert.equal(0, running:wait(), running.text())
    local told = cjson.decode(running.lines()[#running.lines()])
    assert.equal(zone, told.zone)
    assert.equal("hot", told.keys[1].key)
    assert.equal("warm", told.keys[2].key)
    assert.equal(zone, told.keys[1].namespace)
    assert.equal(#"value of hot", told.keys[1].size)
    assert.equal(20, #told.keys)
    assert.is_true(told.keys[1].share > 0.12 and told.keys[1].share < 0.34, "share " .. told.keys[1].share)
    assert.is_true(told.keys[2].share > 0.04 and told.keys[2].share < 0.20, "share " .. told.keys[2].share)
    assert.is_true(told.hits_per_second > 0)
    assert.is_true(math.abs(told.keys[1].hits_per_second - told.keys[1].share * told.hits_per_second) < 1e-6 * told.hits_per_second + 1e-6)
  end)

  it("looks once where there is no terminal, and orders what is idle by L1's frequencies", function()
    local name = helper.unique_name "idle"
    local idle = node.start { options = { namespace = name, l1_size = "2m", l1_objects = 0 }, workers = 1 }
    idle:run [[
      cache:set("used\27[31m", 1, 600)
      for i = 1, 30 do cache:set("unused" .. i, 1, 600) end
      for _ = 1, 5 do cache:get "used\27[31m" end
    ]]
    local said = gorge.run { "top", name, "--number", "3" }
    assert.equal(0, said.status, said.err)
    assert.matches("HITS/S +SHARE +USE +SIZE +TTL +NAMESPACE +KEY\n +%- +%- +4 +1 B +%S+ %S+ +" .. name:gsub("%p", "%%%0") .. " +used\\x1b%[31m\n",
      said.out)
    assert.is_nil(said.out:find "[%z\1-\9\11-\31\127-\255]")
    assert.equal(2, gorge.run({ "top", name, "--number", "0" }).status)
    assert.equal(1, gorge.run({ "top", name, "--namespace", "other" }).status)
    idle.nginx:quit()
  end)
end)

describe("gorge watch", function()
  local function events(running)
    local list = {}
    for _, line in ipairs(running.lines()) do
      list[#list + 1] = cjson.decode(line)
    end
    return list
  end

  local function wait_for(running, event, check)
    return helper.wait_until(function()
      for _, told in ipairs(events(running)) do
        if told.event == event and (not check or check(told)) then
          return told
        end
      end
    end, { timeout = 20, message = function() return "no event " .. event .. " in " .. running.text() end })
  end

  local function watching(...)
    local running = gorge.start { "watch", zone, ... }
    -- It has begun when it shows what is made anew until it does.
    helper.wait_until(function()
      n:run [[cache:delete "begin"]]
      return running.text():find("begin", 1, true)
    end, { interval = 0.05 })
    return running
  end

  it("shows what the host hears, with versions, escaped", function()
    local running = watching "--json"
    n:run [[
      cache:delete "a\27key"
      cache:invalidate_tags("a tag")
      cache:set("set", 1, 60)
    ]]
    local told = wait_for(running, "key", function(e) return e.key == "a\\x1bkey" end)
    assert.same({ zone, "heard" }, { told.namespace, told.source })
    assert.matches("^%d+$", told.version)
    assert.is_true(math.abs(told.time - os.time()) < 60)
    wait_for(running, "tag", function(e) return e.tag == "a tag" end)
    wait_for(running, "key", function(e) return e.key == "set" end)
    n:run [[cache:clear()]]
    wait_for(running, "clear")
    running:stop()
  end)

  it("shows changes of state, and what Redis was not told", function()
    local running = watching "--json"
    local text = watching()
    helper.wait_until(function() return n:stats().subscribed end)
    redis:kill()
    n:run [[for _ = 1, 10 do cache:delete "queued key" cache:get "miss" end]]
    wait_for(running, "key", function(e) return e.key == "queued key" and e.source == "queued" end)
    wait_for(running, "breaker", function(e) return e.now == "open" and e.before == "closed" end)
    wait_for(running, "queued", function(e) return e.now > 0 end)
    wait_for(running, "contact", function(e) return e.now == false end)
    for _, line in ipairs {
      "the circuit breaker is open",
      "\n%d%d:%d%d:%d%d%.%d%d%d  key +" .. zone:gsub("%p", "%%%0") .. "  queued key  +on this host; Redis could not be told, and will be\n",
    } do
      helper.wait_until(function() return text.text():find(line) end, { message = function() return line .. " is not in " .. text.text() end })
    end
    redis:up()
    wait_for(running, "queued", function(e) return e.now == 0 end)
    wait_for(running, "contact", function(e) return e.now == true end)
    running:stop()
    text:stop()
  end)

  it("shows what happens without Redis, and goes on with the server that takes the place of one that ended", function()
    local name = helper.unique_name "restart"
    local first = node.start { options = { namespace = name, l1_size = "2m" }, workers = 1 }
    first:run [[cache:set("k", 1)]]
    local running = gorge.start { "watch", name }
    helper.wait_until(function()
      first:run [[cache:delete "k"]]
      return running.text():find("on this host", 1, true)
    end, { interval = 0.05 })
    local second = node.start { options = { namespace = name, l1_size = "2m" }, workers = 1 }
    first.nginx:quit()
    helper.wait_until(function() return running.text():find("no process has the zone open any more", 1, true) end)
    helper.wait_until(function()
      second:run [[cache:invalidate_tags "second"]]
      return running.text():find("second  on this host", 1, true) or running.text():find("second    on this host", 1, true)
    end, { interval = 0.05, message = function() return running.text() end })
    second.nginx:quit()
    assert.equal(1, running:wait(20), running.text())
    assert.equal(0, gorge.run({ "watch", zone, "--for", "0.1" }).status)
  end)
end)
