-- SPDX-License-Identifier: MIT
-- The checker notices: a library without one of its checks (core/base/broken.h) is found out by a short run.
-- GORGE_HISTORY_CONTROL=1 runs the same with all checks in place, which must show nothing.
local helper = require "spec.helper"
local report = require "spec.history.report"
local run = require "spec.history.run"

local CONTROL = os.getenv "GORGE_HISTORY_CONTROL"
local SEED = tonumber(os.getenv "GORGE_HISTORY_SEED") or 1
-- A run that shows nothing is made again: what a check keeps from happening is a matter of moments.
local ATTEMPTS = 12

-- Nobody changes anything but what the run says, so that what is old stays long enough to be seen. All read, all the time.
local READ_ONLY = { write_share = 0 }
local KEY = 17 -- without a tag; lives for 10 seconds
local BOUND = 0.8 -- of a host that hears nothing: what it must not have asked Redis for before it is healed takes half of that
local MOMENT = 0.2 -- for a value to get into each L1

--- Both hosts have the value. Host 2 hears nothing while `meanwhile` runs.
local function unheard(meanwhile)
  return function(session)
    local c = session.cluster
    c:change(1, "set", KEY)
    helper.sleep(MOMENT)
    c.relays[2]:black_hole("down", "pubsub")
    meanwhile(c)
    helper.sleep(MOMENT) -- what was said is lost by now
    c.relays[2]:heal()
    helper.sleep(BOUND + MOMENT)
  end
end

local missed = unheard(function(c) c:change(1, "delete", KEY) end)

local silent = unheard(function(c)
  c:change(1, "delete", KEY)
  helper.sleep(BOUND + MOMENT)
end)

--- The other host writes under the names of before.
local past = unheard(function(c)
  c:change(1, "clear")
  helper.sleep(MOMENT / 2)
  c:change(2, "delete", KEY)
end)

local function untold(session)
  local c = session.cluster
  c:change(1, "set", KEY)
  helper.sleep(MOMENT)
  session:begin "cut_first"
  c:change(1, "delete", KEY)
  session:settle()
end

local RANDOM = { seconds = 1.5, faults = { "forget_scripts" } }

local CASES = {
  { "lease", "a fill that lost its lease in Redis is stored", RANDOM },
  { "stamp", "an insert into L1 that an invalidation overtook", RANDOM },
  { "tag", "an entry of L1 whose tag has been invalidated", RANDOM },
  { "journal", "what was missed is not read in the journal", { load = READ_ONLY, bound = BOUND, disconnected = BOUND }, missed, "I2" },
  { "epoch", "a write under the names from before a clear", { load = READ_ONLY, bound = BOUND }, past, "I2" },
  { "queue", "what Redis was not told is forgotten", { load = READ_ONLY }, untold, "I6" },
  { "fresh", "L1 answers although nothing was heard for too long", { load = READ_ONLY, bound = BOUND }, silent, "I2" },
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
    local name, what, opts, during, rule = unpack(case)
    it("notices without " .. name .. ": " .. what, function()
      local path = not CONTROL and library(name) or nil
      local found = 0
      for attempt = 1, CONTROL and 1 or ATTEMPTS do
        local violations, text, history = run.check({
          seed = SEED + attempt - 1, nodes = 2, library = path, seconds = opts.seconds, faults = opts.faults, load = opts.load,
          bound = opts.bound, disconnected = opts.disconnected,
        }, during)
        if CONTROL then
          assert.equal("", text)
        end
        for _, violation in ipairs(violations) do
          if violation.rule == (rule or violation.rule) then
            found = found + 1
            if found == 1 then
              print(("%s, attempt %d, %d operations: %s"):format(name, attempt, #history.ops, report.text(violation, history.began)))
            end
          end
        end
        if found > 0 then
          break
        end
        helper.cleanup()
      end
      assert.is_true(CONTROL ~= nil or found > 0, "nothing was noticed")
    end)
  end
end)
