-- SPDX-License-Identifier: MIT
--- Reads that go back: I4 of checker.lua.
local record = require "spec.history.record"
local timeline = require "spec.history.timeline"

local _M = {}

local L0, FN, OK = record.SOURCE_L0, record.SOURCE_FN, record.RESULT_OK

local function add(map, key, item)
  map[key] = map[key] or {}
  map[key][#map[key] + 1] = item
end

--- The reads of what a loader returned and nothing has stored: of who ran it, and of who shared its result. Such a value has no place in the order of
--- what is stored.
---@return table<table, true>
local function unstored_reads(reads)
  local leaders, found = {}, {}
  for _, read in ipairs(reads) do
    if read.source == FN and read.before == 1 then
      found[read] = true
      add(leaders, read.pid, read)
    end
  end
  for _, read in ipairs(reads) do
    for _, leader in ipairs(read.source == L0 and leaders[read.pid] or {}) do
      if leader.value == read.value and read.start < leader.finish and read.finish > leader.start then
        found[read] = true
      end
    end
  end
  return found
end

--- Up to the i-th of the list, the read that saw the newest value, of those that `taken` takes.
local function newest(view, list, taken)
  local best = {}
  for i, read in ipairs(list) do
    local known = view.values[read.value]
    best[i] = best[i - 1]
    if known and taken(read) and (not best[i] or known.birth > view.values[best[i].value].birth) then
      best[i] = read
    end
  end
  return best
end

--- What one host saw in one stretch: `list`, in the order in which the reads ended.
local function look(view, list, unstored, found)
  local stored = newest(view, list, function(read) return not unstored[read] end)
  local alone = newest(view, list, function(read) return unstored[read] end)
  for _, read in ipairs(list) do
    local known, before = view.values[read.value], timeline.count_below(list, "finish", read.start)
    local function is_newer(earlier)
      return known and earlier and known.made < view.values[earlier.value].birth
    end
    if is_newer(stored[before]) then
      found[#found + 1] = { earlier = stored[before], read = read }
    elseif is_newer(alone[before]) and (view.stored[read.value] or math.huge) < alone[before].start then
      found[#found + 1] = { earlier = alone[before], read = read }
    end
  end
end

--- Reads that saw an older value than one that had ended before they began, on the same host in the same stretch. What was seen without being stored
--- keeps out only what was stored before the fetch that brought it.
---@param view table of one key: values, stored
---@param reads table[] of that key
---@param stretch fun(read: table): integer|nil the number of the stretch in which the host was in contact; nil: it was not
---@return { earlier: table, read: table }[]
function _M.steps_back(view, reads, stretch)
  local by_group, unstored, found = {}, unstored_reads(reads), {}
  for _, read in ipairs(reads) do
    local number = read.result == OK and stretch(read)
    if number then
      add(by_group, read.host * 1e6 + number, read)
    end
  end
  for _, list in pairs(by_group) do
    table.sort(list, function(a, b) return a.finish < b.finish end)
    look(view, list, unstored, found)
  end
  return found
end

return _M
