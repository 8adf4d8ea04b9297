-- SPDX-License-Identifier: MIT
-- The checker notices: a library without one of its checks (core/base/broken.h) is found out by a short run.
-- GORGE_HISTORY_CONTROL=1 runs the same with all checks in place, which must show nothing.
local helper = require "spec.helper"
local report = require "spec.history.report"
local run = require "spec.history.run"

local CONTROL = os.getenv "GORGE_HISTORY_CONTROL"
local SEED = tonumber(os.getenv "GORGE_HISTORY_SEED") or 1
-- A run that shows nothing is made again: what a check keeps from happening is a matter of moments.
local ATTEMPTS = 4

--- Faults of one kind, each for `seconds`, with pauses in between.
local function again_and_again(name, seconds, pause, times)
  return function(session)
    for _ = 1, times do
      session:begin(name)
      helper.sleep(seconds)
      session:heal()
      helper.sleep(pause)
    end
  end
end

-- Few writes, so that what is old stays long enough to be seen.
local RARE = { write_share = 4 }

local CASES = {
  { "lease", "a fill that lost its lease in Redis is stored", { seconds = 1.2, faults = { "forget_scripts" } } },
  { "stamp", "an insert into L1 that an invalidation overtook", { seconds = 2, faults = { "forget_scripts" } } },
  { "tag", "an entry of L1 whose tag has been invalidated", { seconds = 1, faults = { "forget_scripts" } } },
  { "journal", "what was missed is not read in the journal", { load = RARE }, again_and_again("deaf", 0.3, 0.6, 3) },
  { "epoch", "a write under the names from before a clear", { load = { write_share = 6, clear_share = 50 } }, again_and_again("deaf", 0.3, 0.6, 3) },
  { "queue", "what Redis was not told is forgotten", { load = RARE }, again_and_again("cut", 0.3, 0.3, 2) },
  { "fresh", "L1 answers although nothing was heard for too long", { load = RARE }, again_and_again("deaf", 1.2, 0.1, 2) },
}

--- Builds it; the name of the build folder as make knows it, or it would take all for out of date.
local function library(name)
  local build = (os.getenv "GORGE_BUILD" or "build"):gsub("^%./", "")
  local file = "/broken/" .. name .. "/libgorge.so"
  local status, output = helper.process.run {
    os.getenv "MAKE" or "make", "--no-print-directory", "BUILD=" .. build, build .. file, timeout = 120,
  }
  assert(status == 0, output)
  return helper.paths.build .. file
end

describe("the history checker", function()
  after_each(helper.cleanup)

  for _, case in ipairs(CASES) do
    local name, what, opts, during = unpack(case)
    it("notices without " .. name .. ": " .. what, function()
      local path = not CONTROL and library(name) or nil
      local found = 0
      for attempt = 1, CONTROL and 1 or ATTEMPTS do
        local violations, text, history = run.check({
          seed = SEED + attempt - 1, nodes = 2, library = path, seconds = opts.seconds, faults = opts.faults, load = opts.load,
        }, during)
        found = #violations
        if CONTROL then
          assert.equal("", text)
        elseif found > 0 then
          print(("%s, attempt %d, %d operations: %s"):format(name, attempt, #history.ops, report.text(violations[1], history.began)))
          break
        end
        helper.cleanup()
      end
      assert.is_true(CONTROL ~= nil or found > 0, "nothing was noticed")
    end)
  end
end)
