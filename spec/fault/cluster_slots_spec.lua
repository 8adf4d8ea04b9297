-- SPDX-License-Identifier: MIT
-- Slots of a namespace move from master to master, key by key, under load: clients are sent on for once and for good, and told to try again. Each fetch
-- answers, and nothing that Redis has confirmed is lost or read in an older form beyond the bound.
-- Runs alone: six servers, two nginx and a program are enough for the processors.
local helper = require "spec.helper"
local node = require "spec.nginx.node"
local versions = require "spec.fault.versions"

local FRESH = 1
-- A busy machine shall take no host for one without contact, nor a master for dead: each of them is a loss.
local DISCONNECTED, NODE_TIMEOUT_MS = 5, 15000
-- What a host may serve without contact to Redis is this old; and what a loaded machine adds.
local STALE = DISCONNECTED + 0.75
local SLOW = 2.5
local ROWS = 24
local MOVING = 6 -- rows whose slots are moved, with all else that is in their partitions

describe("slots that move under load", function()
  it("cost no fetch and no change", function()
    local cluster = helper.cluster { node_timeout_ms = NODE_TIMEOUT_MS }
    local options = { redis = { cluster = cluster:addresses(1) }, freshness_bound = FRESH, disconnected_ttl = DISCONNECTED }
    local a, b = node.pair(cluster.servers[1], { options = options })
    options.namespace, options.zone, options.l1_size = a.namespace, a.namespace .. "-program", "4m"
    local resyncs = { [a] = a:stats().resyncs, [b] = b:stats().resyncs } -- a host that is new reads no journal
    local load = versions.begin { nodes = { a, b }, program = options, rows = ROWS, changes = { "delete", "tag", "set", "update" }, pause = 0.01, reads = 120 }
    load:wait_confirmed(30)
    local before = {}
    for _, kind in ipairs { "MOVED", "ASK", "TRYAGAIN" } do
      before[kind] = cluster:errors(kind)
    end
    local function told(kind) return cluster:errors(kind) > before[kind] end
    local masters = cluster:masters()
    local moved = 0
    for row = 1, MOVING do
      local partition = cluster.servers[1]:command("CLUSTER", "KEYSLOT", "row " .. row) % 64
      local slot = cluster:slot(a.namespace, partition)
      helper.wait_until(function() return cluster:master_of(slot):command("CLUSTER", "COUNTKEYSINSLOT", slot) > 100 / MOVING / 2 end)
      local from, to = cluster:master_of(slot), masters[row % 3 + 1]
      if from == to then
        to = masters[(row + 1) % 3 + 1]
      end
      moved = moved + cluster:move_slot(slot, to, { batch = 2, pause = 0.03, half_way = function()
        helper.sleep(0.3) -- not for long: all that concerns a tag has to wait, and fails after redis.timeout
        helper.wait_until(function() return row < MOVING or (told "ASK" and told "TRYAGAIN") end, { message = "a slot at two nodes troubles nobody" })
      end })
      load:wait_confirmed(15)
      moved = moved + cluster:move_slot(slot, from, { batch = 5 })
    end
    cluster:wait_well()
    load:wait_confirmed(80)
    local writes, reads = load:finish(STALE, SLOW)
    assert.is_true(moved > 100, moved .. " keys were moved")
    assert.is_true(#writes.log >= 200 and reads > 1000, ("%d confirmed writes, %d reads"):format(#writes.log, reads))
    -- one write in four concerns a tag, which is in the partition that is on its way, too
    assert.is_true(writes.failed < writes.last / 4, ("%d of %d writes failed"):format(writes.failed, writes.last))
    for kind in pairs(before) do
      assert.is_true(told(kind), "nobody was told " .. kind)
    end
    assert.is_true(a:stats().redirects > 0 and a:stats().cluster_changes > 0)
    -- all is where it was: nothing was taken for lost, nobody's journal was
    for _, n in ipairs { a, b } do
      helper.wait_until(function() return n:stats().queued == 0 end)
      assert.equal(resyncs[n], n:stats().resyncs)
      n:assert_clean_log()
    end
    for i = 1, 12 do
      assert.is_true((a:run([[return cache:set("after" .. ..., ..., 60)]], i)))
      helper.wait_until(function() return b:run([[return cache:get("after" .. ...)]], i) == i end)
    end
  end)
end)
