-- SPDX-License-Identifier: MIT
-- Histories of several nodes under load and faults, checked against what the README promises: spec/history/checker.lua.
--
-- GORGE_SOAK_OPS       go on until so many operations were recorded, with a new cluster for each round
-- GORGE_HISTORY_SEED   faults and load of the first round (else by the time of day); what the machine does beside them is not repeated
-- GORGE_HISTORY_VARIANT  1 to 5: that one only
-- GORGE_HISTORY_SECONDS, GORGE_HISTORY_NODES, GORGE_HISTORY_VERBOSE=1 (tells of the faults as they happen)
local helper = require "spec.helper"
local faults = require "spec.history.faults"
local record = require "spec.history.record"
local run = require "spec.history.run"

local OPS = tonumber(os.getenv "GORGE_SOAK_OPS")
local SECONDS = tonumber(os.getenv "GORGE_HISTORY_SECONDS") or (OPS and 20 or 9)
local NODES = tonumber(os.getenv "GORGE_HISTORY_NODES") or 3
local SEED = tonumber(os.getenv "GORGE_HISTORY_SEED") or os.time() % 1000000

local LEAST_FAULTS = 5 -- that make a history worth looking at, however long the nodes take to settle after each

local WITH_FAILOVER = { "fail_over", "fail_over" }
for _, name in ipairs(faults.ALL) do
  WITH_FAILOVER[#WITH_FAILOVER + 1] = name
end

-- One after the other, round by round.
local VARIANTS = {
  { "without L1 while there is no contact", { disconnected = 0 } },
  { "with L1 beyond the bound without contact, and failovers", { disconnected = 1, replica = true, faults = WITH_FAILOVER } },
  { "with a breaker, without clears", { disconnected = 0.5, load = { clear_share = 0 }, options = { circuit_breaker = { max_failures = 5, timeout = 0.3 } } } },
  { "on a Redis Cluster", { disconnected = 0.5, redis_cluster = true, load = { clear_share = 1 } } },
  -- Many threads that seldom ask for the same: most of a fill's callers come while it runs.
  { "on hosts that hear nothing", {
    disconnected = 1, faults = { "deaf" }, fault_seconds = 2, load = { clear_share = 0, write_share = 8, threads = 80, burst = 4, pause = 0.1 },
  } },
}

local ONLY = tonumber(os.getenv "GORGE_HISTORY_VARIANT")

local function round(number)
  local name, opts = unpack(VARIANTS[ONLY or number % #VARIANTS + 1])
  local seed = SEED + number
  opts.seed, opts.seconds, opts.nodes, opts.least_faults = seed, SECONDS, NODES, LEAST_FAULTS
  print(("seed %d, %s"):format(seed, name))
  local violations, text, history, c = run.check(opts)
  print(run.summary(history))
  assert(#violations == 0, ("seed %d, %d violations:\n%s"):format(seed, #violations, text))
  for _, line in ipairs(c:errors()) do
    assert(line:find "recv%(%) failed" or line:find "send%(%) failed", line) -- connections to Redis that were cut
  end
  helper.cleanup()
  return history
end

--- A history in which nothing happens shows nothing.
local function assert_busy(history)
  local kinds, sources = {}, {}
  for _, op in ipairs(history.ops) do
    kinds[op.kind] = (kinds[op.kind] or 0) + 1
    sources[op.source] = (sources[op.source] or 0) + 1
  end
  for _, name in ipairs { "FETCH", "GET", "LOAD", "WRITE", "SET", "DELETE", "TAGS", "UPDATE", "TOUCH" } do
    assert.is_true((kinds[record["KIND_" .. name]] or 0) >= 5, name)
  end
  for _, name in ipairs { "L0", "L1", "L2", "FN" } do
    assert.is_true((sources[record["SOURCE_" .. name]] or 0) >= 50, name)
  end
  assert.is_true(#history.settled >= 2 and #history.faults >= LEAST_FAULTS)
end

describe("the history of nodes under load and faults", function()
  after_each(helper.cleanup)

  it("shows nothing that must not happen", function()
    local ops, number, started = 0, 0, helper.now()
    repeat
      local history = round(number)
      assert_busy(history)
      ops, number = ops + #history.ops, number + 1
      if OPS then
        print(("%d of %d operations, %d s"):format(ops, OPS, helper.now() - started))
      end
    until OPS and ops >= OPS or not OPS and number == #VARIANTS
  end)
end)
