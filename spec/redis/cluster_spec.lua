-- SPDX-License-Identifier: MIT
-- A node of a Redis Cluster in the place of a server: a namespace is in one slot, and whose that is counts.
local helper = require "spec.helper"
local gorge = require "gorge"

local nodes = {}
local HALF = 8192

setup(function()
  for i = 1, 2 do
    nodes[i] = helper.redis { config = ("cluster-enabled yes\ncluster-node-timeout 15000\ncluster-port %d"):format(helper.net.free_port()) }
    assert.equal("OK", nodes[i]:command("CLUSTER", "ADDSLOTSRANGE", (i - 1) * HALF, i * HALF - 1))
  end
  local bus = nodes[2].opts.config:match "cluster%-port (%d+)"
  assert.equal("OK", nodes[1]:command("CLUSTER", "MEET", "127.0.0.1", nodes[2].port, bus))
  helper.wait_until(function()
    return nodes[1]:command("CLUSTER", "INFO"):find("cluster_state:ok", 1, true)
      and nodes[2]:command("CLUSTER", "INFO"):find("cluster_state:ok", 1, true)
  end, { timeout = 20, interval = 0.05, message = "no cluster" })
end)

--- A namespace of a node's, and the other node.
local function place()
  local name = helper.unique_name "cluster"
  local slot = nodes[1]:command("CLUSTER", "KEYSLOT", ("{%d:%s:0}:c"):format(#name, name))
  local owner = slot < HALF and 1 or 2
  return name, slot, nodes[owner], nodes[3 - owner]
end

local zones = 0

local function open(name, node)
  zones = zones + 1
  return assert(gorge.new { namespace = name, zone = "cluster-" .. zones, l1_size = "4m", redis = { host = "127.0.0.1", port = node.port, timeout = 10 } })
end

describe("a node of a cluster", function()
  it("that has the slot of the namespace does all that a server does", function()
    local name, _, owner = place()
    local a, b = open(name, owner), open(name, owner)
    assert.is_true((a:set("k", { 1 }, 60, { "t", "u" })))
    assert.same({ { 1 }, nil, "l2" }, { b:get "k" })
    assert.same({ 2 }, (a:update("k", 60, function(old) old[1] = old[1] + 1 return old end, "t")))
    assert.is_true((a:touch("k", 30)))
    assert.equal("fn", select(3, a:fetch("filled", 60, function() return 1 end, "t")))
    assert.equal("l2", select(3, b:fetch("filled", 60, error)))
    assert.is_true((a:invalidate_tags "t"))
    helper.wait_until(function() return b:get "k" == nil and b:get "filled" == nil end)
    assert.is_true((a:delete "k") and (a:clear()))
    assert.equal(0, a:stats().l2_errors)
    a:close()
    b:close()
  end)

  it("that has not is told of by what it says, and nothing fails because of it", function()
    local name, slot, owner, other = place()
    local a = open(name, other)
    local said = ("a node of a Redis Cluster, for which there is the option cluster, says: MOVED %d 127.0.0.1:%d"):format(slot, owner.port)
    for i = 1, 3 do
      assert.same({ i, nil, "fn" }, { a:fetch("k" .. i, 60, function() return i end) })
    end
    local ok, err = a:set("k", 1, 60)
    assert.is_nil(ok)
    assert.matches(said, err, 1, true)
    assert.matches(said, a:stats().redis_error, 1, true)
    a:close()
  end)
end)
