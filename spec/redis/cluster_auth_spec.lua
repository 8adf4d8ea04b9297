-- SPDX-License-Identifier: MIT
-- A cluster that wants passwords, users with few rights, or TLS: every node is met the same way.
-- Runs alone: six servers at a time.
local helper = require "spec.helper"
local gorge = require "gorge"

local PASSWORD = "s3cret-Pa55word"

--- Two caches of this process, each with memory of its own, that hear one another through a cluster.
local function pair(redis, namespace)
  local name = namespace or helper.unique_name "auth"
  redis.timeout, redis.connect_timeout = 5, 5 -- no error comes of a busy machine
  local function open(zone)
    return assert(gorge.new { namespace = name, zone = helper.unique_name(zone), l1_size = "4m", redis = redis, freshness_bound = 1 })
  end
  return open "a", open "b"
end

--- All masters are used, and invalidations heard.
local function assert_works(a, b)
  helper.wait_until(function() return (a:set("ready", 1, 60)) end, { message = function() return tostring(a:stats().redis_error) end })
  for i = 1, 40 do
    local key = "k" .. i
    assert.same({ i, nil, "fn" }, { a:fetch(key, 60, function() return i end, { "t", "u" }) })
    assert.same({ i, nil, "l2" }, { b:fetch(key, 60, error) })
  end
  assert.is_true((a:invalidate_tags "t"))
  helper.wait_until(function() return b:get "k1" == nil and b:get "k40" == nil end)
  assert.is_true((b:set("k", 1, 60)))
  assert.equal(2, (a:update("k", 60, function(old) return old + 1 end)))
  assert.is_true((a:touch("k", 30)))
  assert.is_true((a:delete "k") and (a:clear()))
  assert.equal(0, a:stats().l2_errors + b:stats().l2_errors)
  a:close()
  b:close()
end

describe("a cluster with a password", function()
  local cluster
  setup(function() cluster = helper.cluster { replicas = 0, password = PASSWORD } end)

  it("takes it on every node", function()
    assert_works(pair { cluster = cluster:addresses(1), password = PASSWORD })
  end)

  it("and a user with few rights", function()
    local name = helper.unique_name "few"
    for _, server in ipairs(cluster.servers) do
      assert.equal("OK", server:command("ACL", "SETUSER", "few", "on", ">pw", ("~{%d:%s:*"):format(#name, name), ("&gorge:%d:%s"):format(#name, name),
        ("&gorge:%d:%s:*"):format(#name, name), "+get", "+mget", "+getrange", "+pttl", "+eval", "+evalsha", "+set", "+setrange", "+del", "+append",
        "+pexpire", "+time", "+xadd", "+xrange", "+xrevrange", "+publish", "+subscribe", "+ping", "+auth", "+select", "+client|setname",
        "+script|load", "+cluster|slots", "+asking"))
      server:command("ACL", "LOG", "RESET")
    end
    assert_works(pair({ cluster = cluster:addresses(1), username = "few", password = "pw" }, name))
    for _, server in ipairs(cluster.servers) do
      assert.same({}, server:command("ACL", "LOG"))
    end
  end)

  it("that is wrong leaves L1 and fn, and the reason without it", function()
    local wrong = "wr0ng-Pa55word"
    local a = assert(gorge.new { namespace = helper.unique_name "wrong", l1_size = "4m", redis = { cluster = cluster:addresses(2), password = wrong } })
    assert.same({ 1, nil, "fn" }, { a:fetch("k", 60, function() return 1 end) })
    helper.wait_until(function() return (a:stats().redis_error or ""):find("authentication refused", 1, true) end,
      { message = function() return tostring(a:stats().redis_error) end })
    assert.is_nil(a:stats().redis_error:find(wrong, 1, true))
    a:close()
  end)
end)

describe("a cluster that speaks TLS", function()
  it("is asked with TLS, node by node, and certificates count", function()
    local certificates = require "spec.support.certificates"
    local dir = helper.temp_dir()
    local authority = certificates.authority(dir, "ca")
    local shown = authority:issue("nodes", { alt = "DNS:redis.example,IP:127.0.0.1" })
    local cluster = helper.cluster { replicas = 0, password = PASSWORD, tls = { cert = shown.cert, key = shown.key, ca = authority.ca } }
    assert_works(pair { cluster = cluster:addresses(1), password = PASSWORD, tls = { ca = authority.ca } })
    assert_works(pair { cluster = cluster:addresses(1), password = PASSWORD, tls = { ca = authority.ca, server_name = "redis.example" } })
    assert_works(pair { cluster = cluster:addresses(1), password = PASSWORD, tls = { verify = false } })
    local a = assert(gorge.new { namespace = helper.unique_name "tls", l1_size = "4m",
      redis = { cluster = cluster:addresses(1), password = PASSWORD, tls = { ca = authority.ca, server_name = "other.example" } } })
    assert.same({ 1, nil, "fn" }, { a:fetch("k", 60, function() return 1 end) })
    helper.wait_until(function() return (a:stats().redis_error or ""):find("another name", 1, true) end,
      { message = function() return tostring(a:stats().redis_error) end })
    a:close()
  end)
end)
