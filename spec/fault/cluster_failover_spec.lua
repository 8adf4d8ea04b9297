-- SPDX-License-Identifier: MIT
-- Nodes of a cluster die, stand still, change places or cannot hear the others, under load: each fetch answers, nothing that Redis has confirmed is read in an
-- older form beyond the bound, and all heals by itself.
-- Runs alone: six servers, two nginx and a program are enough for the processors.
local helper = require "spec.helper"
local gorge = require "gorge"
local node = require "spec.nginx.node"
local versions = require "spec.fault.versions"

local FRESH, DISCONNECTED = 1, 2
-- What a host may serve without contact to Redis is this old; and what a loaded machine adds.
local STALE = DISCONNECTED + 0.75
-- timeout (0.5 s) for one command, or connect_timeout (1 s), and what a loaded machine adds
local SLOW = 2.5
local ROWS = 24
local CHANGES = { "delete", "tag", "set", "update" }

local function each_worker(nodes, fn)
  for _, n in ipairs(nodes) do
    for id = 0, 1 do
      local worker = n:worker(id)
      fn(worker, n)
      worker:close()
    end
  end
end

--- Keys that stand for all partitions, more or less.
local WARM = [[
  for i = 1, 24 do
    local ok = cache:set("warm" .. i, i, 60)
    if not ok then return false end
  end
  return true
]]

local function start(opts, options)
  local cluster = helper.cluster(opts)
  local all = { redis = { cluster = cluster:addresses(), password = opts and opts.password }, freshness_bound = FRESH, disconnected_ttl = DISCONNECTED }
  for name, value in pairs(options or {}) do
    all[name] = value
  end
  local a, b = node.pair(cluster.servers[1], { options = all })
  each_worker({ a, b }, function(worker) helper.wait_until(function() return worker:run(WARM) end) end)
  all.namespace, all.zone, all.l1_size = a.namespace, a.namespace .. "-program", "4m"
  return cluster, a, b, all
end

local function begin(a, b, program)
  return versions.begin { nodes = { a, b }, program = program, rows = ROWS, changes = CHANGES, pause = 0.01 }
end

--- What was confirmed shall not be lost with the old master: the writer holds until its replica has all of it.
local function hold_and(cluster, load, master, fn)
  load:while_held(function()
    cluster:catch_up(master)
    fn()
  end)
end

--- A key whose partition a node has.
local function key_on(cluster, n, server)
  for i = 1, 1000 do
    local key = "key" .. i
    local partition = cluster:running()[1]:command("CLUSTER", "KEYSLOT", key) % 64
    if cluster:master_of(cluster:slot(n.namespace, partition)) == server then
      return key
    end
  end
  error "it has no partition"
end

--- Every worker of both hosts uses all of the cluster, and they hear one another in each partition, without a restart.
local function assert_healed(nodes)
  each_worker(nodes, function(worker)
    helper.wait_until(function() return worker:run(WARM) end, { message = function()
      return "a worker cannot write: " .. tostring(worker:run [[return cache:stats().redis_error]])
    end })
  end)
  for _, n in ipairs(nodes) do
    helper.wait_until(function() return n:stats().queued == 0 end, { message = "something is queued still" })
    assert.equal(0, n:stats().fills_running)
  end
  local a, b = nodes[1], nodes[2]
  for i = 1, 12 do
    helper.wait_until(function() return a:run([[return cache:set("heard" .. ..., ..., 60)]], i) end)
    helper.wait_until(function() return b:run([[return cache:get("heard" .. ...)]], i) == i end, { message = "a change was not heard of" })
  end
end

local function assert_only_lost_connections_logged(nodes)
  for _, n in ipairs(nodes) do
    for _, line in ipairs(n.nginx:log_lines()) do
      assert.is_true(node.tells_of_lost_connection(line), line)
    end
  end
end

describe("a master of a cluster", function()
  after_each(helper.cleanup)

  it("that is killed is replaced, and takes its place as a replica when it comes back", function()
    local cluster, a, b, program = start()
    local old = cluster.servers[1]
    local key = key_on(cluster, a, old)
    local load = begin(a, b, program)
    load:wait_confirmed(15)
    hold_and(cluster, load, old, function()
      cluster:kill(old)
      local ok, err = a:run([[return cache:delete(...)]], key)
      assert.is_nil(ok)
      assert.matches("^gorge: delete: done on this host, but not in Redis: ", err)
    end)
    cluster:wait_replaced(old)
    load:wait_confirmed(20)
    old:up()
    cluster:wait_well()
    load:wait_confirmed(15)
    local _, _, stats = load:finish(STALE, SLOW)
    assert.is_true(stats.l2_hits > 0)
    assert_healed { a, b }
    assert.is_true(a:stats().replayed > 0)
    assert.equal("slave", old:command("ROLE")[1])
    assert_only_lost_connections_logged { a, b }
  end)

  it("that stands still is replaced, and comes back as if nothing had happened", function()
    local cluster, a, b, program = start { password = "sesame" }
    local old = cluster.servers[2]
    local load = begin(a, b, program)
    load:wait_confirmed(15)
    hold_and(cluster, load, old, function() cluster:pause(old) end)
    cluster:wait_replaced(old)
    load:wait_confirmed(20)
    old:resume()
    cluster:wait_well()
    load:wait_confirmed(15)
    load:finish(STALE, SLOW)
    assert_healed { a, b }
    assert_only_lost_connections_logged { a, b }
  end)

  it("that stands still for less than the nodes' patience stays master", function()
    local cluster, a, b, program = start()
    local load = begin(a, b, program)
    for i = 1, 3 do
      helper.sleep(0.4)
      cluster.servers[i]:pause()
      helper.sleep(0.8)
      cluster.servers[i]:resume()
    end
    cluster:wait_well()
    helper.sleep(0.5)
    load:finish(STALE, SLOW)
    assert_healed { a, b }
    assert.equal(3, #cluster:masters())
  end)

  it("that hands over to its replica, one after the other and back", function()
    -- A busy machine shall take no master for dead, and no host for one without contact: each of them is a loss.
    local disconnected = 5
    local cluster, a, b, program = start({ node_timeout_ms = 3000 }, { disconnected_ttl = disconnected })
    local resyncs = a:stats().resyncs + b:stats().resyncs -- a host that is new reads no journal
    local since = helper.now()
    local load = begin(a, b, program)
    for _ = 1, 2 do
      for _, master in ipairs(cluster:masters()) do
        load:wait_confirmed(15) -- one that is on its way at that moment may fail
        cluster:fail_over(cluster:replica_of(master))
      end
      cluster:wait_well()
    end
    helper.sleep(0.5)
    local writes = load:finish(STALE - DISCONNECTED + disconnected, SLOW)
    assert.is_true(writes.failed < writes.last / 10, ("%d of %d writes failed"):format(writes.failed, writes.last))
    assert_healed { a, b }
    assert.equal(resyncs, a:stats().resyncs + b:stats().resyncs) -- the journals were there all the time
    assert.is_true(a:stats().cluster_changes > 0)
    local said = a.nginx:wait_warned "of its partitions are at other nodes of the cluster now"
    local minutes = math.ceil((helper.now() - since) / 60)
    assert.is_true(said <= 2 * minutes, said .. " lines") -- one a minute and worker
  end)

  it("that has no replica takes its partitions with it, and no others", function()
    local cluster, a, b = start({ replicas = 0, config = "cluster-require-full-coverage no" }, { disconnected_ttl = 1 })
    local dead = cluster.servers[3]
    local lost, kept = key_on(cluster, a, dead), key_on(cluster, a, cluster.servers[1])
    cluster:kill(dead)
    helper.wait_until(function()
      a:run([[return cache:delete(...)]], kept)
      local _, _, first = a:run([[return cache:fetch(..., 60, load)]], kept)
      local _, _, second = b:run([[return cache:fetch(..., 60, load)]], kept)
      return first == "fn" and second == "l2"
    end, { message = "what another master has is not shared" })
    for _, n in ipairs { a, b } do
      local value, err, source = n:run([[return cache:fetch(..., 60, load)]], lost)
      assert.same({ "value of " .. lost, nil, "fn" }, { value, err, source })
    end
    local ok, err = a:run([[return cache:set(..., 1, 60)]], lost)
    assert.is_nil(ok)
    assert.matches("^gorge: set: done on this host, but not in Redis: ", err)
    ok, err = a:run [[return cache:invalidate_tags "of every partition"]]
    assert.is_nil(ok)
    assert.matches("^gorge: invalidate_tags: done on this host, but not in Redis: ", err)
    dead:up()
    cluster:wait_well()
    assert_healed { a, b }
  end)

  --- Keys of partitions that a node has, or has not.
  local function keys_on(cluster, n, server, has)
    local list, seen = {}, {}
    for i = 1, 400 do
      local key = "key" .. i
      local partition = cluster:running()[1]:command("CLUSTER", "KEYSLOT", key) % 64
      if not seen[partition] and (cluster:master_of(cluster:slot(n.namespace, partition)) == server) == has then
        seen[partition] = true
        list[#list + 1] = key
      end
    end
    return list
  end

  it("that has no replica does not keep the other partitions from forgetting a tag", function()
    local cluster, a, b = start({ replicas = 0, config = "cluster-require-full-coverage no" }, { disconnected_ttl = 1 })
    local dead = cluster.servers[2]
    local kept = keys_on(cluster, a, dead, false)
    for _, key in ipairs(kept) do
      assert.is_true((a:run([[return cache:set(..., "old", 60, "t")]], key)))
    end
    cluster:kill(dead)
    helper.wait_until(function() return not a:run [[return (cache:invalidate_tags "u")]] end)
    assert.is_nil((a:run [[return cache:invalidate_tags "t"]]))
    for _, key in ipairs(kept) do
      assert.same({ "value of " .. key }, { (b:run([[return cache:fetch(..., 60, load)]], key)) }) -- none is found in Redis
    end
    dead:up()
    cluster:wait_well()
    assert_healed { a, b }
  end)

  it("that has no replica does not hold up what is queued for the others", function()
    local cluster, a, b = start({ replicas = 0, config = "cluster-require-full-coverage no" }, { disconnected_ttl = 1 })
    local dead, slow = cluster.servers[3], cluster.servers[1]
    local lost, kept = keys_on(cluster, a, dead, true), keys_on(cluster, a, slow, true)
    for _, key in ipairs(kept) do
      assert.is_true((a:run([[return cache:set(..., "old", 60)]], key)))
    end
    cluster:kill(dead)
    for _, key in ipairs(lost) do
      assert.is_nil((a:run([[return cache:delete(...)]], key)))
    end
    slow:pause()
    assert.equal(0, a:run([[
      local threads, told = {}, 0
      for key in (...):gmatch "%S+" do
        threads[#threads + 1] = ngx.thread.spawn(function() return cache:delete(key) end)
      end
      for _, thread in ipairs(threads) do
        local _, ok = ngx.thread.wait(thread)
        told = told + (ok and 1 or 0)
      end
      return told]], table.concat(kept, " ")))
    assert.equal(#lost + #kept, a:stats().queued)
    slow:resume()
    local since = helper.now()
    helper.wait_until(function() return a:stats().queued == #lost end, { message = "they wait for the node that is down" })
    local took = helper.now() - since
    assert.is_true(took < 2, took .. " s") -- until its journals are read again: an election (0.5 s), a connection, and what a loaded machine adds
    for _, key in ipairs(kept) do
      assert.same({}, slow:command("KEYS", "*:v:" .. key))
    end
    dead:up()
    cluster:wait_well()
    assert_healed { a, b }
  end)
end)

describe("the circuit breaker of a node of a cluster", function()
  after_each(helper.cleanup)

  it("opens and closes by itself, and is told of", function()
    local cluster = helper.cluster { replicas = 0, config = "cluster-require-full-coverage no" }
    local told, logged = {}, {}
    local name = helper.unique_name "breaker"
    local cache = assert(gorge.new {
      namespace = name, l1_size = "4m", redis = { cluster = cluster:addresses(), timeout = 0.2, connect_timeout = 0.3 },
      circuit_breaker = { max_failures = 3, timeout = 2 },
      on_event = function(event, fields) told[#told + 1] = { event, fields.node } end,
      logger = function(level, text) logged[#logged + 1] = level .. " " .. text end,
    })
    local dead, place = cluster.servers[2], "127.0.0.1:" .. cluster.servers[2].port
    local n = { namespace = name }
    local lost, kept = key_on(cluster, n, dead), key_on(cluster, n, cluster.servers[1])
    helper.wait_until(function() return (cache:set(lost, 1, 60)) and (cache:set(kept, 1, 60)) end)
    local function breaker(of)
      for _, seen in ipairs(cache:stats().nodes) do
        if seen.node == of then
          return seen.breaker
        end
      end
    end
    dead:pause()
    helper.wait_until(function()
      cache:set(lost, 1, 60)
      return breaker(place) == "open"
    end, { message = "it does not open" })
    assert.equal("open", cache:stats().breaker) -- the worst of all
    assert.equal("closed", breaker("127.0.0.1:" .. cluster.servers[1].port))
    local ok, err = cache:set(lost, 1, 60)
    assert.same({ nil, "gorge: set: done on this host, but not in Redis: circuit breaker open" }, { ok, err })
    helper.wait_until(function() return (cache:set(kept, 2, 60)) end, { message = "others are not asked" })
    dead:resume()
    helper.wait_until(function() return (cache:set(lost, 2, 60)) end, { message = "it does not close" })
    assert.equal("closed", breaker(place))
    local about = ("gorge: namespace '%s': the circuit breaker of the node %s is "):format(name, place)
    helper.wait_until(function()
      cache:set(kept, 3, 60)
      local seen = {}
      for _, event in ipairs(told) do
        seen[event[1] .. " " .. tostring(event[2])] = true
      end
      for _, line in ipairs(logged) do
        seen[line] = true
      end
      return seen["breaker_open " .. place] and seen["breaker_closed " .. place] and seen["warn " .. about .. "open"]
        and seen["info " .. about .. "closed again"]
    end, { timeout = 5, message = function() return "no event or no line tells of it:\n" .. table.concat(logged, "\n") end })
    cache:close()
  end)
end)

describe("a cluster", function()
  after_each(helper.cleanup)

  it("all of whose nodes are gone is done without, and found again", function()
    local cluster, a, b, program = start()
    local resyncs = { [a] = a:stats().resyncs, [b] = b:stats().resyncs }
    local load = begin(a, b, program)
    helper.sleep(0.5)
    for _, server in ipairs(cluster.servers) do
      server:kill()
    end
    helper.sleep(3)
    for _, n in ipairs { a, b } do
      each_worker({ n }, function(worker)
        local since = helper.now()
        local value, err, source = worker:run([[return cache:fetch("away " .. ..., 60, load)]], n.nginx.port)
        assert.same({ "value of away " .. n.nginx.port, nil }, { value, err })
        assert.is_true(source == "fn" or source == "l1", source)
        assert.is_true(helper.now() - since < SLOW)
      end)
    end
    for _, server in ipairs(cluster.servers) do
      server:launch()
    end
    cluster:wait_well()
    helper.sleep(1)
    load:finish(STALE, SLOW)
    assert_healed { a, b }
    for _, n in ipairs { a, b } do
      helper.wait_until(function() return n:stats().resyncs > resyncs[n] end, { message = "that Redis had lost everything was not noticed" })
    end
  end)

  --- Nodes on which hosts of the namespace listen.
  local function listened_to(cluster, n)
    local list = {}
    for _, server in ipairs(cluster:running()) do
      local reply = server:command("PUBSUB", "NUMSUB", ("gorge:%d:%s"):format(#n.namespace, n.namespace))
      if type(reply) == "table" and reply[2] > 0 then
        list[#list + 1] = server
      end
    end
    return list
  end

  it("loses the node at which hosts listen, and they hear the others again", function()
    local cluster, a, b = start()
    for _ = 1, 2 do
      helper.wait_until(function() return a:stats().subscribed and b:stats().subscribed and #listened_to(cluster, a) > 0 end)
      local dead = listened_to(cluster, a)[1]
      local was_master = cluster:replica_of(dead) ~= nil
      cluster:kill(dead)
      if was_master then
        cluster:wait_replaced(dead)
      end
      assert_healed { a, b }
      dead:up()
      cluster:wait_well()
    end
  end)

  it("has a node that the others cannot reach: who listens there listens elsewhere", function()
    local cluster, a, b, program = start { bus_relays = true, node_timeout_ms = 60000 }
    local load = begin(a, b, program)
    helper.sleep(0.5)
    local deaf = listened_to(cluster, a)
    assert.is_true(#deaf > 0)
    for _, server in ipairs(deaf) do
      server.bus:black_hole("up")
    end
    helper.wait_until(function()
      for _, server in ipairs(deaf) do
        for _, other in ipairs(listened_to(cluster, a)) do
          if other == server then
            return false
          end
        end
      end
      return #listened_to(cluster, a) > 0
    end, { timeout = 30, message = "they listen where nothing is to be heard" }) -- the next place may be another one of these
    helper.sleep(1.5)
    for i = 1, 12 do
      helper.wait_until(function() return (a:run([[return cache:set("beside" .. ..., ..., 60)]], i)) end)
      helper.wait_until(function() return b:run([[return cache:get("beside" .. ...)]], i) == i end, { timeout = FRESH + 0.5 })
    end
    load:finish(STALE, SLOW)
    for _, server in ipairs(deaf) do
      server.bus:heal()
    end
    cluster:wait_well()
    assert_healed { a, b }
  end)
end)
