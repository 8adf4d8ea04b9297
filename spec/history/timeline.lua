-- SPDX-License-Identifier: MIT
--- Questions about intervals that the checker asks often.
local _M = {}

local sort, max, min, huge = table.sort, math.max, math.min, math.huge

--- How many leading items have `field` below `limit`; the list is sorted by it.
---@param list table[]
---@param field string
---@param limit number
---@return integer
local function count_below(list, field, limit)
  local low, high = 0, #list
  while low < high do
    local middle = math.floor((low + high + 1) / 2)
    if list[middle][field] < limit then
      low = middle
    else
      high = middle - 1
    end
  end
  return low
end

---@class gorge.history.Frontier
local Frontier = {}
Frontier.__index = Frontier

--- Of operations that ended, the one that began last.
---@param ops table[] all of them ended; is sorted
---@return gorge.history.Frontier
function _M.frontier(ops)
  sort(ops, function(a, b) return a.finish < b.finish end)
  local latest = {}
  for i, op in ipairs(ops) do
    latest[i] = (i > 1 and latest[i - 1].start >= op.start) and latest[i - 1] or op
  end
  return setmetatable({ ops = ops, latest = latest }, Frontier)
end

--- Of those that had ended before `time`, the one that began last; nil: there is none.
---@param time number
---@return table|nil
function Frontier:before(time)
  return self.latest[count_below(self.ops, "finish", time)]
end

---@class gorge.history.Register
local Register = {}
Register.__index = Register

--- What is written one after the other, or at the same time: which value had certainly been replaced, and when.
---@param writes table[] with start, finish; is sorted
---@return gorge.history.Register
function _M.register(writes)
  sort(writes, function(a, b) return a.start < b.start end)
  local next_write, best = {}, nil
  for i = #writes, 1, -1 do
    local w = writes[i]
    if w.finish > 0 and (not best or w.finish < best.finish) then
      best = w
    end
    next_write[i] = best
  end
  return setmetatable({ writes = writes, next_write = next_write }, Register)
end

--- The write that replaced, before all others, what had been written by `time`; nil: none.
---@param time number
---@return table|nil
function Register:replaced(time)
  local n = count_below(self.writes, "start", time)
  -- an equal start is none that came after
  while self.writes[n + 1] and self.writes[n + 1].start <= time do
    n = n + 1
  end
  return self.next_write[n + 1]
end

---@class gorge.history.Calm
local Calm = {}
Calm.__index = Calm

--- The stretches of time between intervals.
---@param intervals table[] with from and to
---@return gorge.history.Calm
function _M.calm(intervals)
  local list = {}
  for i, interval in ipairs(intervals) do
    list[i] = { from = interval.from, to = interval.to or huge }
  end
  sort(list, function(a, b) return a.from < b.from end)
  local merged = {}
  for _, interval in ipairs(list) do
    local last = merged[#merged]
    if last and interval.from <= last.to then
      last.to = max(last.to, interval.to)
    else
      merged[#merged + 1] = interval
    end
  end
  return setmetatable({ busy = merged }, Calm)
end

--- The number of the stretch that holds all of `from` to `to`, or nil.
---@return integer|nil
function Calm:stretch(from, to)
  local n = count_below(self.busy, "from", to)
  if n > 0 and self.busy[n].to >= from then
    return nil
  end
  return n
end

--- For how long of `from` to `to` the intervals lasted, each for itself.
---@param intervals table[]|nil with from and to
---@return number seconds
function _M.overlap(intervals, from, to)
  local sum = 0
  for _, interval in ipairs(intervals or {}) do
    sum = sum + max(0, min(interval.to or huge, to) - max(interval.from, from))
  end
  return sum
end

_M.count_below = count_below

return _M
