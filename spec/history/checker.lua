-- SPDX-License-Identifier: MIT
--- Decides whether a history could have happened under the invariants that the README promises. Pure: a history goes in, violations come out.
---
--- A history is a table:
---   ops       list of operations: start, finish (0: unknown), clock, value, before, key, pid, kind, result, source, host: record.lua
---   tag_of    key -> its tag, or nil
---   ttl_of    key -> how long a value lives at most, or nil: not to be checked
---   bound     seconds: the larger one of freshness_bound and disconnected_ttl
---   disconnected  disconnected_ttl
---   limits    kind -> longest time that an operation may take
---   killed    pid -> true: it was killed, what it had begun has no end
---   ends      when the recording ended
---   faults    list of { from, to, what, host, pid, contact }; contact: commands may have failed on that host (nil: on all)
---   losses    list of { from, to }: what Redis acknowledged then may be lost (a failover)
---   resets    list of times: Redis lost all that it had
---   settled   list of { from, to }: at some moment in between each host was in contact with Redis and had nothing left to tell it
---
--- Rests on values that are written once. `last` is the last moment at which a value could rightly come into the cache: a loader may read it
--- from the database until something newer has been written there; a `set` brings it until it returns. What was invalidated later than that is
--- gone for good, for whoever has to have heard of the invalidation.
local forward = require "spec.history.forward"
local record = require "spec.history.record"
local timeline = require "spec.history.timeline"
local report = require "spec.history.report"

local huge, max, min = math.huge, math.max, math.min

local FETCH, GET, LOAD, WRITE = record.KIND_FETCH, record.KIND_GET, record.KIND_LOAD, record.KIND_WRITE
local SET, DELETE, TAGS, CLEAR = record.KIND_SET, record.KIND_DELETE, record.KIND_TAGS, record.KIND_CLEAR
local UPDATE, STALL, TROUBLE = record.KIND_UPDATE, record.KIND_STALL, record.KIND_TROUBLE
local OK, NIL, FAILED = record.RESULT_OK, record.RESULT_NIL, record.RESULT_FAILED
local L1, L2, FN = record.SOURCE_L1, record.SOURCE_L2, record.SOURCE_FN

local _M = {}

--- Ids of values are made so that an eighth of them stands for "there is no such thing".
---@param id number
---@return boolean
function _M.means_nil(id)
  return math.floor(id / 4096) % 8 == 7
end

---@class gorge.history.Check
local Check = {}
Check.__index = Check

local function list_in(map, key)
  local list = map[key]
  if not list then
    list = {}
    map[key] = list
  end
  return list
end

function Check:violation(rule, text, ops)
  local found = self.violations
  found[#found + 1] = { rule = rule, text = text, ops = ops, faults = report.faults_near(self.history, ops) }
end

-- What an operation invalidated may be back after a failover that lost it.
local function is_lost(history, op)
  for _, loss in ipairs(history.losses or {}) do
    if op.finish >= loss.from and op.start <= loss.to then
      return true
    end
  end
  return false
end

--- Sorts the operations by what they concern.
function Check:index()
  local keys, tags, clears, stalls, troubles = {}, {}, {}, {}, {}
  for _, op in ipairs(self.history.ops) do
    local kind = op.kind
    if op.result == FAILED and kind ~= FETCH and kind ~= UPDATE then
      -- what Redis was not told waits, and meanwhile the host does without Redis for that
      troubles[#troubles + 1] = { from = op.start, to = self:settled_after(op.finish), host = op.host, contact = true }
    end
    if kind == STALL then
      local list = list_in(stalls, op.pid)
      list[#list + 1] = { from = op.start, to = op.finish }
    elseif kind == TROUBLE then
      troubles[#troubles + 1] = { from = op.start, to = op.finish > 0 and op.finish or huge, host = op.host, contact = true }
    elseif kind == CLEAR then
      clears[#clears + 1] = op
    else
      local of = kind == TAGS and tags or keys
      local list = list_in(of, op.key)
      list[#list + 1] = op
    end
  end
  for _, fault in ipairs(self.history.faults or {}) do
    if fault.pid then
      local list = list_in(stalls, fault.pid)
      list[#list + 1] = fault
    end
  end
  self.keys, self.tags, self.clears, self.stalls, self.troubles = keys, tags, clears, stalls, troubles
  self.calm_of = {}
  local windows = {}
  for i, op in ipairs(clears) do
    local told = op.result == OK and op.finish + self.history.bound or self:settled_after(max(op.start, op.finish))
    windows[i] = { from = op.start, to = told }
  end
  self.between_clears = timeline.calm(windows)
end

--- The stretches in which a host was in contact with Redis; host nil: all of them.
function Check:calm(host)
  local calm = self.calm_of[host or 0]
  if not calm then
    local busy = {}
    for _, list in ipairs { self.history.faults or {}, self.troubles } do
      for _, fault in ipairs(list) do
        if fault.contact and (host == nil or fault.host == nil or fault.host == host) then
          busy[#busy + 1] = fault
        end
      end
    end
    calm = timeline.calm(busy)
    self.calm_of[host or 0] = calm
  end
  return calm
end

-- One key ------------------------------------------------------------------------------------------------------------

--- When all hosts have heard of what had been done by `time`, also of what had failed.
function Check:settled_after(time)
  for _, moment in ipairs(self.history.settled or {}) do
    if moment.from > time then
      return moment.to + self.history.bound
    end
  end
  return huge
end

--- The values that were ever to be seen under a key, by value: birth, made (written or set by then), last (see above), op.
local function values_of(self, ops)
  local writes, values = {}, {}
  for _, op in ipairs(ops) do
    if op.kind == WRITE then
      writes[#writes + 1] = op
    end
  end
  local register = timeline.register(writes)
  for _, w in ipairs(writes) do
    local next_write = w.finish > 0 and register:replaced(w.finish) or nil
    values[w.value] = {
      birth = w.start, made = w.finish > 0 and w.finish or huge, last = next_write and next_write.finish or huge, op = w, next_write = next_write,
    }
  end
  for _, op in ipairs(ops) do
    if (op.kind == SET or op.kind == UPDATE) and op.value ~= 0 then
      local known = values[op.value]
      if not known then
        known = { birth = op.start, made = 0, last = 0, op = op }
        values[op.value] = known
      end
      local until_time = op.finish == 0 and huge or op.result == FAILED and self:settled_after(op.finish) or op.finish
      known.last = max(known.last, until_time)
      known.made = max(known.made, until_time)
      known.set = op
    end
  end
  return values
end

--- Whether an operation on a key invalidates what was there. An update that failed changed nothing.
local function invalidates(op)
  return op.finish > 0 and (op.kind == DELETE or op.kind == SET or (op.kind == UPDATE and op.result == OK)
    or op.kind == TAGS or op.kind == CLEAR)
end

--- The invalidations of a key, by who has to have heard of them.
local function invalidations_of(self, key, ops)
  local own, told, told_in_redis, all = {}, {}, {}, {}
  local function add(op)
    if not invalidates(op) or is_lost(self.history, op) then
      return
    end
    local list = list_in(own, op.host)
    list[#list + 1] = op
    all[#all + 1] = op
    if op.result == OK then
      told[#told + 1] = op
      if op.kind ~= CLEAR then
        told_in_redis[#told_in_redis + 1] = op
      end
    end
  end
  local tag = self.history.tag_of[key]
  for _, list in ipairs { ops, tag and self.tags[tag] or {}, self.clears } do
    for _, op in ipairs(list) do
      add(op)
    end
  end
  local out = { own = {}, told = timeline.frontier(told), all = timeline.frontier(all), redis = timeline.frontier(told_in_redis) }
  for host, list in pairs(own) do
    out.own[host] = timeline.frontier(list)
  end
  return out
end

local function later(a, b)
  return (not a or (b and b.start > a.start)) and b or a
end

--- How long ago a host may have begun to fetch or set what it keeps for disconnected_ttl: the longest operation that brought it the value.
local function fill_slack(view, host, value)
  local longest = view.fills[host] and view.fills[host][value]
  return longest or 0
end

--- Of the invalidations that a read has to reflect, the one that began last, and why it had to.
local function must_reflect(self, view, read)
  local history, invs = self.history, view.invs
  local best = invs.own[read.host] and invs.own[read.host]:before(read.start)
  local rule, why = "I3", "the same host had done"
  -- A host that has not heard of a clear asks Redis under the names of before, until it must have heard.
  if read.source == L2 and self.between_clears:stretch(read.start, read.finish) then
    local op = invs.redis:before(read.start)
    if op and later(best, op) == op then
      best, rule, why = op, "I1", "Redis had acknowledged"
    end
  end
  local slack = history.disconnected > 0 and fill_slack(view, read.host, read.value) or 0
  local op = invs.told:before(read.clock - history.bound - slack)
  if op and later(best, op) == op and op ~= best then
    best, rule, why = op, "I2", ("Redis had acknowledged, more than %.3f s before"):format(history.bound + slack)
  end
  local moment = self:settled_before(read.clock)
  op = moment and invs.all:before(moment.from)
  if op and later(best, op) == op and op ~= best then
    best, rule, why = op, "I6", "was done before everything was told to everybody, at " .. ("%.6f:"):format(moment.to)
  end
  return best, rule, why
end

--- The last moment by which everything had been told, and heard by `clock`.
function Check:settled_before(clock)
  local found
  for _, moment in ipairs(self.history.settled or {}) do
    if moment.to + self.history.bound < clock then
      found = moment
    end
  end
  return found
end

local function is_read(op)
  return (op.kind == FETCH or op.kind == GET) and op.finish > 0 and (op.result == OK or op.result == NIL)
end

-- What stands behind a violation: whatever brought the value, and what replaced it.
local function origin(view, value, known)
  local ops = { known.op }
  if known.set and known.set ~= known.op then
    ops[#ops + 1] = known.set
  end
  if known.next_write then
    ops[#ops + 1] = known.next_write
  end
  for _, load in ipairs(view.loads) do
    if load.value == value then
      ops[#ops + 1] = load
    end
  end
  return ops
end

local function with(ops, ...)
  local all = { ... }
  for _, op in ipairs(ops) do
    all[#all + 1] = op
  end
  return all
end

--- "There is no such thing": it may be any of the values that say so.
local function last_nil(view, read)
  local last = 0
  for _, known in ipairs(view.nils) do
    if known.birth < read.finish then
      last = max(last, known.last)
    end
  end
  return last
end

local function check_stale(self, view, read)
  local op, rule, why = must_reflect(self, view, read)
  if read.result == NIL then
    -- a key begins without a value
    if op and max(last_nil(view, read), view.first_write) < op.start then
      self:violation(rule, "\"no such thing\" was read, which " .. why .. " an invalidation of", { read, op })
    end
    return
  end
  local known = view.values[read.value]
  if not known then
    self:violation("value", "a value was read that nobody wrote under this key", { read })
  elseif op and known.last < op.start then
    self:violation(rule, "an old value was read: " .. why .. " an invalidation that began after the value was gone",
      with(origin(view, read.value, known), read, op))
  end
end

--- I4: what a host has seen stays seen, while it is in contact.
local function check_forward(self, view, reads)
  local function stretch(read)
    return self:calm(read.host):stretch(read.start, read.finish)
  end
  for _, found in ipairs(forward.steps_back(view, reads, stretch)) do
    self:violation("I4", "a read saw a value that is older than the one that an earlier read of the host had seen",
      with(origin(view, found.read.value, view.values[found.read.value]), found.earlier, found.read))
  end
end

--- A value is served for its ttl at most, from when it was last stored.
local function check_expiry(self, view, reads)
  local ttl = self.history.ttl_of and self.history.ttl_of[view.key]
  if not ttl then
    return
  end
  for _, read in ipairs(reads) do
    local stored = read.result == OK and read.source ~= FN and view.stored[read.value]
    if stored and stored < huge and read.clock > stored + ttl and self:calm(nil):stretch(stored - ttl, read.finish) then
      local known = view.values[read.value]
      self:violation("expiry", ("a value was read %.3f s after it was last stored, for %.3f s"):format(read.clock - stored, ttl),
        with(known and origin(view, read.value, known) or {}, read))
    end
  end
end

local function reset_between(history, from, to)
  for _, time in ipairs(history.resets or {}) do
    if time >= from and time <= to then
      return true
    end
  end
end

--- No two updates replace the same value: one of them would be lost. When all is lost in between, one whose answer was lost, too, may be carried out
--- again.
local function check_updates(self, ops)
  local replaced = {}
  for _, op in ipairs(ops) do
    if op.kind == UPDATE and op.result == OK and op.before ~= 0 and not is_lost(self.history, op) then
      local other = replaced[op.before]
      if other and not reset_between(self.history, min(other.start, op.start), max(other.finish, op.finish)) then
        self:violation("update", "two updates replaced the same value: one of them is lost", { other, op })
      end
      replaced[op.before] = op
    end
  end
end

--- What else was asked of Redis about a key between two moments.
local function beside(ops, from, to)
  local list = {}
  for _, op in ipairs(ops) do
    local quiet = op.kind == LOAD or op.source == record.SOURCE_L0 or op.source == L1
    if not quiet and op.start < to and (op.finish == 0 or op.finish > from) then
      list[#list + 1] = op
    end
  end
  return list
end

--- I7: loaders of two hosts do not overlap, unless the lease of the first was ended. That says more than the promise, which is about results: while
--- Redis is there, nobody has a reason to do without it. A worker that exits has none either.
local function check_loaders(self, view, ops)
  local loads = view.loads
  table.sort(loads, function(a, b) return a.start < b.start end)
  -- Either of the two leases may have been the first one: it was granted at some time between the begin of its fetch and that of its loader.
  local function ended(since, second)
    for _, list in ipairs { ops, view.tag_ops, self.clears } do
      for _, op in ipairs(list) do
        local invalidating = op.kind == DELETE or op.kind == SET or op.kind == UPDATE or op.kind == TAGS or op.kind == CLEAR
        if invalidating and op.start < second.start then
          local finish = op.finish > 0 and op.finish or huge
          if finish > since then
            return true
          end
        end
      end
    end
    return false
  end
  -- On its own host a flight can be overtaken by what the host has learned from Redis; the lease is that of the next loader there.
  local function overtaken(first, from, to)
    for k = from, to do
      if loads[k].host == first.host then
        return true
      end
    end
    return false
  end
  for i = 2, #loads do
    for j = max(1, i - 6), i - 1 do
      local first, second = loads[j], loads[i]
      local since = min(first.before, second.before)
      local finish = first.finish > 0 and first.finish or 0
      local stalled = timeline.overlap(self.stalls[first.pid], since, second.start) > self.history.lease / 3
      if first.host ~= second.host and second.start < finish and not stalled
        and self:calm(nil):stretch(since, second.start) and not ended(since, second) and not overtaken(first, j + 1, i - 1) then
        self:violation("I7", "two hosts ran the loader at the same time, with nothing that ended the first one's lease",
          with(beside(ops, since - 0.05, second.start), first, second))
      end
    end
  end
end

--- What a host has stored itself, and how long it took; when each value was last stored by anybody.
local function note_fills(self, view, op)
  local fetched = (op.kind == FETCH or op.kind == GET) and (op.source == FN or op.source == L2)
  local finish = op.finish > 0 and op.finish or huge
  local stores = fetched or op.kind == SET or op.kind == UPDATE
  if stores and (op.value ~= 0 or op.result == NIL) then
    local fills = list_in(view.fills, op.host)
    local value = _M.means_nil(op.value) and 0 or op.value -- who reads "no such thing" does not see which
    fills[value] = max(fills[value] or 0, finish - op.start)
    if op.source ~= L2 and op.value ~= 0 then
      view.stored[op.value] = max(view.stored[op.value] or 0, finish)
    end
  elseif op.kind == LOAD and (op.finish == 0 or self.history.killed[op.pid]) then
    view.stored[op.value] = huge
  end
end

function Check:key(key, ops)
  local view = { key = key, values = values_of(self, ops), fills = {}, stored = {}, loads = {}, nils = {} }
  local reads, first_write = {}, huge
  view.tag_ops = self.history.tag_of[key] and self.tags[self.history.tag_of[key]] or {}
  view.invs = invalidations_of(self, key, ops)
  for _, op in ipairs(ops) do
    if is_read(op) then
      reads[#reads + 1] = op
    elseif op.kind == LOAD then
      view.loads[#view.loads + 1] = op
    elseif op.kind == WRITE then
      first_write = min(first_write, op.finish > 0 and op.finish or huge)
    end
    note_fills(self, view, op)
  end
  view.first_write = (first_write < huge or view.loads[1]) and first_write or 0 -- until then the database says so; without one nobody does
  for value, known in pairs(view.values) do
    if _M.means_nil(value) then
      view.nils[#view.nils + 1] = known
    end
  end
  for _, read in ipairs(reads) do
    check_stale(self, view, read)
  end
  check_forward(self, view, reads)
  check_expiry(self, view, reads)
  check_updates(self, ops)
  check_loaders(self, view, ops)
end

-- All operations -------------------------------------------------------------------------------------------------------

--- I8: every operation ends in time. What its process was kept from running does not count.
function Check:endings()
  local history = self.history
  for _, op in ipairs(history.ops) do
    local limit = history.limits[op.kind]
    local open = op.finish == 0
    if limit and not (open and history.killed[op.pid]) then
      local finish = open and history.ends or op.finish
      local took = finish - op.start
      if took > limit and took - timeline.overlap(self.stalls[op.pid], op.start, finish) > limit then
        self:violation("I8", ("an operation took %.3f s%s, %.3f s are allowed"):format(took, open and " and has not ended" or "", limit), { op })
      end
    end
  end
end

--- What the history shows that must not happen.
---@param history table
---@return { rule: string, text: string, ops: table[], faults: table[] }[]
function _M.check(history)
  local self = setmetatable({ history = history, violations = {} }, Check)
  self:index()
  for key, ops in pairs(self.keys) do
    self:key(key, ops)
  end
  self:endings()
  table.sort(self.violations, function(a, b) return a.ops[1].start < b.ops[1].start end)
  return self.violations
end

--- The sources of reads, for who wants to know whether a history says anything.
_M.HIT_SOURCES = { [record.SOURCE_L0] = true, [L1] = true, [L2] = true }

return _M
