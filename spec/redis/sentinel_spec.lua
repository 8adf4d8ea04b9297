-- SPDX-License-Identifier: MIT
-- The master is found through sentinels: by plain programs as well as in nginx, whatever the sentinels answer or do not.
local helper = require "spec.helper"
local gorge = require "gorge"
local cjson = require "cjson"
local node = require "spec.nginx.node"

local PASSWORD, SENTINEL_PASSWORD = "s3cret-Pa55word", "0pen-5esame"

local NONE = {} -- an option to be left out

local set, dead_port
local count = 0

setup(function()
  set = helper.replicated { replicas = 1, sentinels = 2, quorum = 1, password = PASSWORD, sentinel_password = SENTINEL_PASSWORD }
  dead_port = helper.net.free_port()
end)

local function merge(base, changes)
  for name, value in pairs(changes or {}) do
    base[name] = value
    if value == NONE then
      base[name] = nil
    end
  end
  return base
end

local function redis_options(changes)
  return merge({ sentinels = set:addresses(), master = set.name, password = PASSWORD, sentinel_password = SENTINEL_PASSWORD }, changes)
end

--- Nodes of this process, each with memory of its own.
local function nodes(n, changes)
  count = count + 1
  local made = {}
  for i = 1, n do
    made[i] = assert(gorge.new { namespace = "sentinel-" .. count, zone = ("sentinel-%d-%d"):format(count, i), l1_size = "4m",
      redis = redis_options(changes), freshness_bound = 1, disconnected_ttl = 2 })
  end
  return unpack(made)
end

local function load(key)
  return "value of " .. key
end

--- Until a write reaches Redis.
local function wait_ready(cache)
  local ok, err
  helper.wait_until(function()
    ok, err = cache:set("ready", 1, 60)
    return ok
  end, { message = function() return ("no write: %s (%s)"):format(err, cache:stats().redis_error) end })
end

for _, way in ipairs { "blocking", "gorge.run" } do
  local function run(fn)
    if way == "gorge.run" then
      gorge.run(fn)
    else
      fn()
    end
  end

  describe("sentinels, " .. way, function()
    it("tell the first call already where the master is", function()
      local a, b = nodes(2)
      run(function()
        local key = helper.unique_name "first"
        assert.same({ "value of " .. key, nil, "fn" }, { a:fetch(key, 60, load) })
        assert.same({ "value of " .. key, nil, "l2" }, { b:fetch(key, 60, error) })
        assert.equal("127.0.0.1:" .. set.servers[1].port, a:stats().master)
        assert.equal("ready", a:stats().redis)
        a:close()
        b:close()
      end)
    end)
  end)
end

describe("sentinels", function()
  it("are asked one beside the other: those that are dead do not matter", function()
    local list = set:addresses()
    local a = nodes(1, { sentinels = { "127.0.0.1:" .. dead_port, "no-such-host.invalid:26379", list[1], list[2] } })
    local since = helper.now()
    wait_ready(a)
    assert.is_true(helper.now() - since < 2)
    a:close()
  end)

  --- What a fetch does and what the statistics say when no master can be had.
  local function assert_alone(changes, reason)
    local a = nodes(1, changes)
    for i = 1, 3 do
      local since = helper.now()
      assert.same({ "value of " .. i, nil, "fn" }, { a:fetch(tostring(i), 60, load) })
      assert.is_true(helper.now() - since < 1.5)
    end
    helper.wait_until(function() return a:get "x" == nil and a:stats().redis_error == reason end,
      { message = function() return "the reason is " .. tostring(a:stats().redis_error) end })
    local said = cjson.encode(a:stats()) .. a:prometheus()
    assert.is_nil(said:find(PASSWORD, 1, true) or said:find(SENTINEL_PASSWORD, 1, true))
    assert.is_nil(a:stats().master)
    local ok, err = a:set("k", 1, 60)
    assert.is_nil(ok)
    assert.matches("^gorge: set: done on this host, but not in Redis: ", err)
    a:close()
  end

  it("that are all dead leave L1 and fn, and the reason", function()
    assert_alone({ sentinels = { "127.0.0.1:" .. dead_port } }, "no sentinel can be reached")
  end)

  it("that do not know the master", function()
    assert_alone({ master = "nobody" }, "no sentinel knows a master of that name")
  end)

  it("that refuse the password, or get none", function()
    assert_alone({ sentinel_password = "wrong" }, "the sentinels refuse user or password")
    assert_alone({ sentinel_password = NONE }, "the sentinels refuse user or password")
  end)

  it("are not shown the password of the master, nor the other way round", function()
    local a = nodes(1, { password = "wrong" })
    assert.same({ "value of k", nil, "fn" }, { a:fetch("k", 60, load) })
    helper.wait_until(function() return a:get "x" == nil and a:stats().redis_error == "authentication refused" end)
    assert.equal("127.0.0.1:" .. set.servers[1].port, a:stats().master)
    a:close()
  end)

  it("are found when they come, and done without when they go", function()
    for _, sentinel in ipairs(set.sentinels) do
      sentinel:kill()
    end
    local a = nodes(1)
    assert.same({ "value of k", nil, "fn" }, { a:fetch("k", 60, load) })
    set.sentinels[1]:up()
    wait_ready(a)
    set.sentinels[1]:kill()
    helper.sleep(0.2)
    assert.is_true((a:set("k", 2, 60))) -- what is known stays
    set.sentinels[1]:up()
    set.sentinels[2]:up()
    a:close()
  end)
end)

describe("a failover by hand", function()
  it("is followed by programs and nginx without one failed fetch", function()
    local a, b = nodes(2)
    local n = node.start { options = { redis = redis_options() }, init = [[
      local gorge = require "gorge"
      events = {}
      local watched = assert(gorge.new { namespace = "watched", zone = "watched", l1_size = "4m", redis = ]] .. node.literal(redis_options()) .. [[,
        on_event = function(name, fields) if name == "master_switch" then ngx.shared.counts:set("switch", fields.count .. " " .. fields.master) end end })
      require("spec.nginx.app").watched = watched
    ]] }
    n:run [[return watched:set("k", 1, 60)]]
    wait_ready(a)
    wait_ready(b)
    helper.wait_until(function() return set:settled(1, 1) end)
    local old, new = set.servers[1], set.servers[2]
    assert.equal("OK", set.sentinels[1]:command("SENTINEL", "FAILOVER", set.name))
    local fetched = 0
    helper.wait_until(function()
      fetched = fetched + 1
      local key = "during " .. fetched
      local value, err = a:fetch(key, 60, load)
      assert.same({ "value of " .. key }, { value, err })
      value, err = n:run([[return cache:fetch(..., 60, load)]], key)
      assert.same({ "value of " .. key }, { value, err })
      return a:stats().master == "127.0.0.1:" .. new.port and n:stats().master == a:stats().master
    end, { timeout = 15, interval = 0.01 })
    wait_ready(a)
    wait_ready(b)
    helper.wait_until(function() return a:set("k", "new", 60) end)
    helper.wait_until(function() return b:get "k" == "new" end)
    assert.equal(1, a:stats().master_switches)
    assert.matches("gorge_master_switches_total{[^}]*} 1\n", a:prometheus())
    assert.matches('gorge_redis_master{[^}]*master="127.0.0.1:' .. new.port .. '"} 1\n', a:prometheus())
    helper.wait_until(function() return n:run [[return counts:get "switch"]] end, { message = "no event" })
    assert.equal("1 127.0.0.1:" .. new.port, n:run [[return counts:get "switch"]])
    helper.wait_until(function()
      local role = old:command "ROLE" -- or nothing: a server that is made a replica closes connections
      return type(role) == "table" and role[1] == "slave"
    end, { timeout = 30, message = "the old master is no replica" }) -- sentinels ask it every 10 s what it is, and look on for 8 s
    a:close()
    b:close()
  end)

  it("that the sentinels do not know of: a master that was made a replica is left", function()
    local a = nodes(1)
    wait_ready(a)
    local master = set:server_at(set:master_port())
    local other = master == set.servers[1] and set.servers[2] or set.servers[1]
    for _, sentinel in ipairs(set.sentinels) do
      sentinel:pause() -- they would make good what comes now
    end
    master:command("REPLICAOF", "127.0.0.1", other.port)
    local ok, err = a:set("k", 1, 60)
    assert.is_nil(ok)
    assert.matches("READONLY", err)
    assert.same({ "value of k2", nil, "fn" }, { a:fetch("k2", 60, load) })
    helper.wait_until(function() return a:get "x" == nil and a:stats().redis_error == "this server is not the master" end,
      { message = function() return "the reason is " .. tostring(a:stats().redis_error) end })
    master:command("REPLICAOF", "NO", "ONE")
    wait_ready(a)
    for _, sentinel in ipairs(set.sentinels) do
      sentinel:resume()
    end
    a:close()
  end)
end)

describe("a master and sentinels that speak TLS", function()
  it("are followed like others, and certificates count", function()
    local dir = helper.temp_dir()
    local certificates = require "spec.support.certificates"
    local ca = certificates.authority(dir, "ca")
    local tls = ca:issue("server", { alt = "DNS:redis.example" })
    tls.ca = ca.ca
    local secure = helper.replicated { replicas = 1, sentinels = 1, quorum = 1, tls = tls }
    local function open(changes)
      count = count + 1
      return assert(gorge.new { namespace = "sentinel-" .. count, l1_size = "4m", freshness_bound = 1, redis = {
        sentinels = secure:addresses(), master = secure.name, tls = merge({ ca = ca.ca, server_name = "redis.example" }, changes) } })
    end
    local other = open { server_name = "other.example" }
    assert.same({ "value of k", nil, "fn" }, { other:fetch("k", 60, load) })
    helper.wait_until(function() return other:get "x" == nil and other:stats().redis_error == "TLS with the sentinels fails" end,
      { message = function() return "the reason is " .. tostring(other:stats().redis_error) end })
    other:close()
    local careless = open { verify = false, server_name = NONE }
    wait_ready(careless)
    careless:close()
    local a = open()
    wait_ready(a)
    local old, new = secure.servers[1], secure.servers[2]
    assert.equal("127.0.0.1:" .. old.tls_port, a:stats().master)
    assert.is_true(old:command("CLIENT", "LIST"):find("laddr=127.0.0.1:" .. old.tls_port, 1, true) ~= nil)
    old:kill()
    helper.wait_until(function() return a:get "x" == nil and a:stats().master == "127.0.0.1:" .. new.tls_port end, { timeout = 15 })
    wait_ready(a)
    a:close()
  end)
end)
