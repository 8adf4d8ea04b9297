-- SPDX-License-Identifier: MIT
--- One run: a cluster under load, faults from a seed, and the history of it for checker.lua.
local helper = require "spec.helper"
local record = require "spec.history.record"
local checker = require "spec.history.checker"
local cluster = require "spec.history.cluster"
local faults = require "spec.history.faults"
local cluster_faults = require "spec.history.cluster_faults"
local report = require "spec.history.report"
local worker = require "spec.history.worker"

local _M = {}

local WAIT_TIMEOUT, LEASE = 3, 0.5
local SLOWEST_LOAD = 0.4

-- The longest that an operation may take: one command takes redis.timeout at most (0.2 s) and connect_timeout before (0.3 s), and a command may need
-- to be said again with its script or under another epoch.
local COMMAND = 3 * (0.2 + 0.3)
local LIMITS = {
  [record.KIND_FETCH] = WAIT_TIMEOUT + SLOWEST_LOAD + 2 * COMMAND,
  [record.KIND_GET] = COMMAND, [record.KIND_SET] = COMMAND, [record.KIND_DELETE] = COMMAND, [record.KIND_TAGS] = COMMAND,
  [record.KIND_CLEAR] = COMMAND, [record.KIND_TOUCH] = COMMAND,
  [record.KIND_UPDATE] = WAIT_TIMEOUT + 10 + 2 * COMMAND,
}

---@class gorge.history.Run
---@field seed integer
---@field seconds number of load and faults
---@field nodes? integer 3
---@field bound? number freshness_bound (0.5)
---@field disconnected? number disconnected_ttl
---@field faults? string[] names of faults to choose from; all
---@field redis_cluster? boolean on a Redis Cluster, with the faults of cluster_faults.lua
---@field fault_seconds? number the longest a fault lasts (0.8)
---@field least_faults? integer goes on until so many were there (0)
---@field load? table for worker.start
---@field options? table for gorge.new
---@field library? string instead of the built one

local function defaults(opts)
  local load = { seed = opts.seed, threads = 10, write_share = 20, clear_share = 3, burst = 40, pause = 0.003 }
  for name, value in pairs(opts.load or {}) do
    load[name] = value
  end
  local options = {
    l1_size = "2m", freshness_bound = opts.bound or 0.5, disconnected_ttl = opts.disconnected or 0, lock_ttl = LEASE,
    wait_timeout = WAIT_TIMEOUT, negative_cache_ttl = 0.5,
  }
  for name, value in pairs(opts.options or {}) do
    options[name] = value
  end
  return load, options
end

---@class gorge.history.Session
local Session = {}
Session.__index = Session

local function note(self, from, ...)
  local begun = { ... }
  for _, fault in ipairs(begun) do
    fault.from = from
    if fault.reset then
      self.history.resets[#self.history.resets + 1] = from
    end
    self.history.faults[#self.history.faults + 1] = fault
    self.open[#self.open + 1] = fault
  end
  return begun[1]
end

function Session:begin(name)
  local from = record.now()
  local fault = note(self, from, self.faults[name](self.cluster))
  if self.verbose and fault then
    io.stderr:write(("%8.3f %s\n"):format(from - self.cluster.started, fault.what))
  end
  return fault
end

--- Ends what is under way; what needs time to recover ends when the nodes have settled.
function Session:heal()
  for _, last in ipairs { false, true } do -- a replica follows a Redis that runs
    for _, fault in ipairs(self.open) do
      if fault.heal and (fault.last or false) == last then
        fault.heal()
        fault.heal = nil
      end
    end
  end
  for _, fault in ipairs(self.open) do
    if not fault.to and not fault.contact then
      fault.to = record.now()
    end
  end
end

function Session:settle()
  self:heal()
  local moment = self.cluster:settle()
  for _, fault in ipairs(self.open) do
    fault.to = fault.to or moment.to
  end
  self.open = {}
  self.history.settled[#self.history.settled + 1] = moment
end

--- Faults one after the other, some of them two at a time, until the time is over and enough have been there.
function Session:fail(opts)
  local names, ends = opts.faults or self.faults.ALL, record.now() + opts.seconds
  while record.now() < ends or #self.history.faults < (opts.least_faults or 0) do
    for _ = 1, math.random(2) do
      self:begin(names[math.random(#names)])
      helper.sleep(math.random() * 0.1)
    end
    helper.sleep(math.random() * math.min(opts.fault_seconds or 0.8, math.max(0, ends - record.now())))
    self:heal()
    if math.random(3) == 1 then
      self:settle()
    else
      helper.sleep(math.random() * 0.3)
    end
  end
end

--- Runs a cluster and returns its history. `during(session)` instead of faults at random, if given.
---@param opts gorge.history.Run
---@param during? fun(session: gorge.history.Session)
---@return table history
---@return gorge.history.Cluster
function _M.record(opts, during)
  math.randomseed(opts.seed)
  local load, options = defaults(opts)
  local c = cluster.start { nodes = opts.nodes or 3, options = options, load = load, library = opts.library, replica = opts.replica,
    redis_cluster = opts.redis_cluster }
  local history = {
    faults = {}, settled = {}, resets = {}, losses = c.losses, killed = c.killed, limits = LIMITS, lease = options.lock_ttl, tag_of = {}, ttl_of = {},
    bound = math.max(options.freshness_bound, options.disconnected_ttl), disconnected = options.disconnected_ttl, began = c.started,
  }
  for key = 1, worker.KEYS do
    history.tag_of[key] = worker.tag_of(key)
    history.ttl_of[key] = worker.known_ttl_of(key)
  end
  local session = setmetatable({ cluster = c, history = history, open = {}, faults = opts.redis_cluster and cluster_faults or faults,
    verbose = os.getenv "GORGE_HISTORY_VERBOSE" }, Session)
  for _, relay in ipairs(c.relays) do
    relay:delay(math.random() * 0.002)
  end
  note(session, c.started, { what = "the start", contact = true });
  session:settle();
  (during or function() session:fail(opts) end)(session)
  session:settle()
  helper.sleep(history.bound + 0.3)
  c:stop(LIMITS[record.KIND_FETCH] + 1)
  history.ends = c.ended
  history.ops = c:operations()
  return history, c
end

--- What a history holds, in one line.
---@param history table
---@return string
function _M.summary(history)
  local kinds, sources = {}, {}
  for _, op in ipairs(history.ops) do
    kinds[op.kind] = (kinds[op.kind] or 0) + 1
    if op.kind == record.KIND_FETCH then
      sources[op.source] = (sources[op.source] or 0) + 1
    end
  end
  local parts = {}
  for kind, name in pairs(record.KINDS) do
    parts[#parts + 1] = kinds[kind] and ("%d %s"):format(kinds[kind], name) or nil
  end
  for source, name in pairs(record.SOURCES) do
    parts[#parts + 1] = sources[source] and ("%d %s"):format(sources[source], name) or nil
  end
  return ("%d operations, %d faults: %s"):format(#history.ops, #history.faults, table.concat(parts, ", "))
end

--- Records and checks. Returns violations, their text, and the history.
---@param opts gorge.history.Run
---@param during? fun(session: gorge.history.Session)
function _M.check(opts, during)
  local history, c = _M.record(opts, during)
  local violations = checker.check(history)
  return violations, report.all(violations, history.began), history, c
end

return _M
