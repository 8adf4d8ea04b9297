-- SPDX-License-Identifier: MIT
--- The load, in each worker of each node: light threads that read, write and invalidate at random, and record what they did.
---
--- Kinds of keys, by number (all nodes use the same):
---    1..8    filled by a loader from the database, with a tag that the caller names
---    9..12   the same, with a tag that only the loader knows
---    13..18  the same, without a tag
---    19..24  set and read, no database; half of them with a tag
---    25..28  updated
--- A writer changes the database, then invalidates: delete, invalidate_tags or set. The database is shared memory: a new value is a newer one.
local load = require "gorge.load"
local record = require "spec.history.record"

local random, floor = math.random, math.floor
local now = record.now

local _M = { KEYS = 28, TAGS = 6 }

local LOADED, LATE, TAGGED, PLAIN = 18, 9, 8, 13
local SET_FIRST, SET_LAST, UPDATE_FIRST, UPDATE_LAST = 19, 24, 25, 28
local PID_RANGE = 4096
local STALL, TICK = 0.02, 0.004
local TIMEOUT = 0.2 -- of a command to Redis

---@param key integer
---@return integer|nil
function _M.tag_of(key)
  if key < PLAIN then
    return key % 4 + 1
  elseif key >= SET_FIRST and key <= SET_LAST and key % 2 == 0 then
    return key % 4 == 0 and 5 or 6
  end
end

--- Seconds that a value of this key lives; nil: others touch it.
---@param key integer
---@return number|nil
function _M.known_ttl_of(key)
  return (key < SET_FIRST or key > SET_LAST) and _M.ttl_of(key) or nil
end

--- Seconds that a value of this key is stored for.
---@param key integer
---@return number
function _M.ttl_of(key)
  return key >= UPDATE_FIRST and 60 or ({ 0.25, 2, 10 })[key % 3 + 1]
end

---@class gorge.history.Worker
---@field cache table
---@field shared ffi.cdata*
---@field log gorge.history.Log
local Worker = {}
Worker.__index = Worker

--- An id that nobody else makes. An eighth of them means "there is no such thing".
function Worker:new_id()
  local us = floor((now() - self.zero) * 1e6)
  if us <= self.last_us then
    us = self.last_us + 1
  end
  self.last_us = us
  return us * PID_RANGE + ngx.worker.pid() % PID_RANGE
end

local function means_nil(id)
  return id == 0 or floor(id / PID_RANGE) % 8 == 7
end

local PADS = { [0] = "", ("x"):rep(100), ("y"):rep(5000) }

local function to_value(key, id)
  if means_nil(id) then
    return nil
  elseif key % 3 == 0 or key >= UPDATE_FIRST then
    return id
  elseif key % 3 == 1 then
    return { id = id, pad = PADS[key % 2] }
  end
  return ("%.0f:"):format(id) .. PADS[key % 2 + 1]
end

local function to_id(value)
  if type(value) == "table" then
    return value.id
  elseif type(value) == "string" then
    return tonumber(value:match "^%d+")
  end
  return value
end

local SOURCES = { l0 = record.SOURCE_L0, l1 = record.SOURCE_L1, l2 = record.SOURCE_L2, fn = record.SOURCE_FN }

local function ended(op, value, err, source)
  op.source = SOURCES[source] or record.SOURCE_NONE
  if err then
    op.result = record.RESULT_FAILED
  elseif value ~= nil then
    op.value = to_id(value)
    op.result = record.RESULT_OK
  else
    op.result = source and record.RESULT_NIL or record.RESULT_MISS
  end
  op.finish = now()
end

local function done(op, ok)
  op.result = ok and record.RESULT_OK or record.RESULT_FAILED
  op.finish = now()
end

local function name_of(key)
  return "key " .. key
end

local function tag_name(tag)
  return tag and "tag " .. tag
end

local function pause_of_loader()
  local dice = random(100)
  if dice <= 50 then
    return random() * 0.004
  elseif dice <= 85 then
    return random() * 0.02
  elseif dice <= 98 then
    return random() * 0.08
  end
  return 0.4
end

local REFUSED = tonumber(require("gorge.ffi.lib").GORGE_REFUSED)
local unstored = {} -- loader -> true: what it returned last was stored nowhere

local end_store, without_lease = load.end_store, load.without_lease

function load.end_store(self, call, value, status, size)
  unstored[call.fn] = status == REFUSED and call.engine.read.version == 0 or nil
  return end_store(self, call, value, status, size)
end

function load.without_lease(self, call)
  unstored[call.fn] = true
  return without_lease(self, call)
end

--- The loader of one light thread: it reads the database at its beginning, and returns later.
function Worker:loader()
  local thread = {}
  thread.load = function(_, key)
    local op = self.log:begin(record.KIND_LOAD, key)
    op.before = thread.since
    local id = self.shared.db[key]
    op.value = id
    ngx.sleep(pause_of_loader())
    op.result = record.RESULT_OK
    op.finish = now()
    if random(60) == 1 then
      return nil, "the database is down"
    end
    local late = key >= LATE and key < PLAIN
    return to_value(key, id), nil, late and { tags = tag_name(_M.tag_of(key)), ttl = id ~= 0 and _M.ttl_of(key) or nil } or nil
  end
  return thread
end

function Worker:read(thread, key)
  local cache = self.cache
  local opts = thread.opts
  local fetches = key <= LOADED and random(8) > 1
  local op = self.log:begin(fetches and record.KIND_FETCH or record.KIND_GET, key)
  op.clock = tonumber(self.clock[0]) / 1000
  if fetches then
    thread.since = op.start
    opts.args[1] = key
    unstored[thread.load] = nil
    ended(op, cache:fetch(name_of(key), _M.ttl_of(key), thread.load, key <= TAGGED and tag_name(_M.tag_of(key)) or nil, opts))
    op.before = op.source == record.SOURCE_FN and unstored[thread.load] and 1 or 0
  else
    ended(op, cache:get(name_of(key)))
  end
end

function Worker:set(key, id)
  local op = self.log:begin(record.KIND_SET, key)
  op.value = id
  done(op, self.cache:set(name_of(key), to_value(key, id), _M.ttl_of(key), tag_name(_M.tag_of(key))))
end

function Worker:delete(key)
  local op = self.log:begin(record.KIND_DELETE, key)
  done(op, self.cache:delete(name_of(key)))
end

function Worker:invalidate(tag)
  local op = self.log:begin(record.KIND_TAGS, tag)
  done(op, self.cache:invalidate_tags(tag_name(tag)))
end

function Worker:clear()
  local op = self.log:begin(record.KIND_CLEAR, 0)
  done(op, self.cache:clear())
end

function Worker:write_database(key, id)
  local op = self.log:begin(record.KIND_WRITE, key)
  op.value = id
  self.shared.db[key] = id
  done(op, true)
end

--- Changes the database, and tells the cache.
function Worker:write(key)
  local id = self:new_id()
  self:write_database(key, id)
  if random(4) == 1 then
    ngx.sleep(random() * 0.003)
  end
  local how, tag = random(10), _M.tag_of(key)
  if how <= 3 and tag then
    self:invalidate(tag)
  elseif how <= 7 then
    self:delete(key)
  else
    self:set(key, id)
  end
end

function Worker:update(key)
  local op = self.log:begin(record.KIND_UPDATE, key)
  local value = self.cache:update(name_of(key), _M.ttl_of(key), function(old)
    local id = self:new_id()
    if means_nil(id) then
      id = id + PID_RANGE
      self.last_us = self.last_us + 1
    end
    op.before, op.value = old or 0, id
    return id
  end)
  done(op, value ~= nil)
end

function Worker:change()
  local dice = random(100)
  if random(1000) <= self.clear_share then
    self:clear()
  elseif dice <= 58 then
    self:write(random(LOADED))
  elseif dice <= 72 then
    self:set(random(SET_FIRST, SET_LAST), self:new_id())
  elseif dice <= 79 then
    self:delete(random(SET_FIRST, SET_LAST))
  elseif dice <= 82 then
    self:invalidate(random(5, 6))
  elseif dice <= 91 then
    self:update(random(UPDATE_FIRST, UPDATE_LAST))
  elseif dice <= 97 then
    local key = random(SET_FIRST, SET_LAST)
    local op = self.log:begin(record.KIND_TOUCH, key)
    done(op, (self.cache:touch(name_of(key), _M.ttl_of(key))) ~= nil)
  else -- room has to be made for what nobody reads
    self.cache:set("filler " .. random(50), PADS[2]:rep(random(12)), 5)
  end
end

function Worker:stopping()
  return self.shared.stop ~= 0 or ngx.worker.exiting()
end

function Worker:run_thread()
  local thread = self:loader()
  thread.opts = { args = { 0 } }
  while not self:stopping() do
    if random(100) <= self.write_share then
      self:change()
    else
      for _ = 1, random(self.burst) do
        self:read(thread, random(_M.KEYS))
      end
    end
    ngx.sleep(random(3) == 1 and random() * self.pause or 0)
  end
end

--- Records when this process was not running, or busy with something else, and when commands to Redis failed, until Redis has been told all.
--- Goes on until the last thread of the load has ended: after a reload that is later than the worker is told to exit.
function Worker:watch()
  local errors = require("gorge.ffi.lib").GORGE_COUNT_L2_ERRORS
  local seen, trouble = 0, nil
  local over
  repeat
    over = self.over
    local before = now()
    ngx.sleep(TICK)
    local after, failed = now(), tonumber(self.cache.engine.counters[errors])
    if after - before > STALL then
      local op = self.log:begin(record.KIND_STALL, 0)
      op.start, op.finish = before, after
    end
    if failed ~= seen then
      trouble = trouble or self.log:begin(record.KIND_TROUBLE, 0)
      trouble.start = math.min(trouble.start, before - TIMEOUT)
      seen = failed
    elseif trouble then
      local stats = self.cache:stats()
      if stats.redis == "ready" and stats.queued == 0 then
        trouble.finish = after
        trouble = nil
      end
    end
  until over
end

--- One change that a spec asks for: "set" and "delete" of a key, whose value in the database is a new one then, or "clear".
---@param how string
---@param key integer
function _M.change(how, key)
  local self = _M.running
  if how == "clear" then
    self:clear()
    return
  end
  local id = self:new_id()
  if means_nil(id) then
    id = id + PID_RANGE
    self.last_us = self.last_us + 1
  end
  self:write_database(key, id)
  if how == "set" then
    self:set(key, id)
  else
    self:delete(key)
  end
end

local function join(thread)
  local ok, err = ngx.thread.wait(thread)
  if not ok then
    ngx.log(ngx.ERR, "a thread of the load ended: ", tostring(err))
  end
end

--- Called in init_worker. Options: dir, host, seed, zero, threads, write_share (of 100), clear_share (of 1000), burst, pause.
---@param cache table
---@param options table
function _M.start(cache, options)
  local self = setmetatable({
    cache = cache, shared = record.shared(options.dir), log = record.log(options.dir, options.host, ngx.worker.pid()),
    last_us = 0, clock = require("gorge.hosts.nginx").clock,
  }, Worker)
  _M.running = self
  for _, name in ipairs { "zero", "write_share", "clear_share", "burst", "pause" } do
    self[name] = options[name]
  end
  math.randomseed(options.seed * 1000003 + options.host * 1009 + ngx.worker.pid())
  assert(ngx.timer.at(0, function()
    local watch, threads = ngx.thread.spawn(self.watch, self), {}
    for i = 1, options.threads do
      threads[i] = ngx.thread.spawn(self.run_thread, self)
    end
    for _, thread in ipairs(threads) do
      join(thread)
    end
    self.over = true
    join(watch)
  end))
end

return _M
