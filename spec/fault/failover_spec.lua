-- SPDX-License-Identifier: MIT
-- The master of a set with sentinels dies or stands still under load: each fetch answers, nothing that Redis has confirmed is read in an older form beyond
-- the bound, and a former master that comes back is left alone.
-- Runs alone: three servers, three sentinels that judge by the clock, and two nginx are enough for the processors.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local versions = require "spec.fault.versions"

local FRESH, DISCONNECTED = 1, 2
-- What a host may serve without contact to Redis is this old; and what a loaded machine adds.
local STALE = DISCONNECTED + 0.75
-- timeout (0.5 s) for one command, or connect_timeout (1 s), and what a loaded machine adds
local SLOW = 2.5

local function start(opts)
  local set = helper.replicated(opts)
  local redis = { sentinels = set:addresses(), master = set.name, password = set.servers[1].opts.password,
    sentinel_password = opts and opts.sentinel_password }
  local a, b = node.pair(set.servers[1], {
    options = { redis = redis, freshness_bound = FRESH, disconnected_ttl = DISCONNECTED },
  })
  for _, n in ipairs { a, b } do -- every worker has a connection
    for id = 0, 1 do
      local worker = n:worker(id)
      helper.wait_until(function() return worker:run [[return cache:set("warm", 1, 60)]] end)
      worker:close()
    end
  end
  return set, a, b
end

local function assert_one_master(set, a, b, master)
  for _, n in ipairs { a, b } do
    for id = 0, 1 do
      local worker = n:worker(id)
      helper.wait_until(function() return worker:run [[return cache:set("warm", 1, 60)]] end)
      assert.same({ "ready", "127.0.0.1:" .. master.port }, { worker:run [[local s = cache:stats() return s.redis, s.master]] })
      worker:close()
    end
  end
  -- and they hear one another
  for i = 1, 3 do
    helper.wait_until(function() return a:run([[return cache:set("heard", ..., 60)]], i) end)
    helper.wait_until(function() return b:run [[return cache:get "heard"]] == i end)
  end
  assert.equal(set:master_port(), master.port)
end

--- What was confirmed shall not be lost with the old master: the writer holds until the replicas have all of it.
local function hold_and(set, load, master, fn)
  load:while_held(function()
    set:catch_up(master)
    fn()
  end)
end

--- Connections of ours on a server or sentinel; those whose last command was one of a name, if given.
local function our_connections(server, command)
  local n = 0
  for line in assert(server:command("CLIENT", "LIST")):gmatch "[^\n]+" do
    local ours = line:find("name=gorge ", 1, true) and (not command or line:find("cmd=" .. command, 1, true))
    n = n + (ours and 1 or 0)
  end
  return n
end

local function xadds(server)
  return tonumber(server:command("INFO", "commandstats"):match "cmdstat_xadd:calls=(%d+)")
end

local function assert_switched(n, new)
  assert.equal(1, n:stats().master_switches)
  local text = ("gorge: namespace '%s': the Redis master is 127.0.0.1:%d now"):format(n.namespace, new.port)
  assert.equal(1, n.nginx:wait_warned(text)) -- of all workers one
  for _, other in ipairs(n.nginx:log_lines()) do
    assert.is_true(node.tells_of_lost_connection(other), other)
  end
end

describe("a failover under load", function()
  it("after the master was killed", function()
    local set, a, b = start()
    local old = set.servers[1]
    local load = versions.begin { nodes = { a, b } }
    load:wait_confirmed(10)
    hold_and(set, load, old, function()
      old:kill()
      local ok, err = a:run [[return cache:delete "missed"]]
      assert.is_nil(ok)
      assert.matches("^gorge: delete: done on this host, but not in Redis: ", err)
    end)
    local new = set:wait_promoted(old)
    load:wait_confirmed(10)
    local writes = load:finish(STALE, SLOW)
    -- what could not be told Redis was told later
    helper.wait_until(function() return a:stats().queued == 0 end)
    helper.wait_until(function() return a:stats().replayed > 0 end)
    assert_one_master(set, a, b, new)
    assert_switched(a, new)
    assert_switched(b, new)
    assert.equal(writes.last, b:run([[local row = ... return cache:fetch("row 1", 60, function() return row end)]], load:row(1)))
  end)

  it("after the master stood still, which comes back as if nothing had happened", function()
    local set, a, b = start { password = "sesame", sentinel_password = "open" }
    local old = set.servers[1]
    local cut_off = set.sentinels[3]
    local load = versions.begin { nodes = { a, b } }
    load:wait_confirmed(5)
    hold_and(set, load, old, function() old:pause() end)
    local new = set:wait_promoted(old)
    helper.wait_until(function() return a:stats().master == "127.0.0.1:" .. new.port and b:stats().master == a:stats().master end)
    local writes_before = assert(xadds(new))
    old:resume()
    assert.equal("master", old:command("ROLE")[1]) -- it does not know better
    -- and one sentinel says the same
    cut_off:cut_off(old.port)
    helper.wait_until(function() return our_connections(cut_off, "sentinel|get-master-addr-by-name") == 2 end, { message = "a host does not ask it" })
    assert.equal(tostring(old.port), cut_off:command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", set.name)[2])
    helper.wait_until(function() return our_connections(old) == 0 end, { message = "connections to the former master are kept" })
    local since = helper.now()
    repeat
      assert.equal(0, our_connections(old))
      helper.sleep(0.01)
    until helper.now() > since + 1
    assert.is_true(our_connections(new) > 0)
    load:wait_confirmed(5)
    assert.is_true(xadds(new) > writes_before)
    load:finish(STALE, SLOW)
    assert_one_master(set, a, b, new)
    assert_switched(a, new)
    assert_switched(b, new)
  end)
end)

describe("a failover that loses what was confirmed", function()
  it("is noticed, and nothing from before is served from L1", function()
    local set, a, b = start()
    local old = set.servers[1]
    a:run [[return cache:set("k", "old", 60)]]
    a:run [[return cache:set("other", "kept", 60)]]
    set:catch_up(old)
    for _, replica in ipairs { set.servers[2], set.servers[3] } do
      replica:pause()
    end
    old:command("CLIENT", "KILL", "TYPE", "replica") -- what is on its way to a replica that stands still is not lost
    assert.is_true((a:run [[return cache:set("k", "confirmed and lost", 60)]]))
    helper.wait_until(function() return b:run [[return cache:get "k"]] == "confirmed and lost" end)
    local resyncs = { a:stats().resyncs, b:stats().resyncs }
    old:kill()
    for _, replica in ipairs { set.servers[2], set.servers[3] } do
      replica:resume()
    end
    local new = set:wait_promoted(old)
    assert_one_master(set, a, b, new)
    for i, n in ipairs { a, b } do
      helper.wait_until(function() return n:stats().resyncs > resyncs[i] end, { message = "the loss was not noticed" })
      -- Redis is what counts again, for every worker
      for id = 0, 1 do
        local worker = n:worker(id)
        assert.equal("old", worker:run [[return cache:get "k"]])
        worker:close()
      end
    end
  end)
end)
