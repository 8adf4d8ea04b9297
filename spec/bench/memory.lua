-- SPDX-License-Identifier: MIT
--- Memory per entry: fills shared memory far beyond what it holds, and divides its size by what is there then. Runs inside nginx.
local subjects = require "spec.bench.subjects"

local _M = {}

local residents = {}

function residents.gorge(bench)
  local stats = bench.cache:stats()
  assert(stats.evictions > 0, "the zone is not full")
  return stats.zone_size, stats.entries
end

function residents.shared()
  local dict = ngx.shared.peer
  return dict:capacity(), #dict:get_keys(0)
end

function _M.open(bench, side, load)
  local subject = subjects.open(side.subject, load)
  return {
    run = function()
      local keys = bench.keys
      for first = 1, #keys, 1000 do
        subject.set(keys, first, math.min(first + 999, #keys))
      end
      local bytes, entries = residents[side.subject](bench)
      return { ops = #keys, good = #keys, seconds = 0, bytes = bytes, entries = entries }
    end,
  }
end

return _M
