-- SPDX-License-Identifier: MIT
-- Runs the user's loader and stores what it returns.

local C = require "gorge.ffi.lib"
local l0 = require "gorge.ffi.l0"
local life = require "gorge.life"
local origin = require "gorge.origin"
local report = require "gorge.report"
local stale = require "gorge.stale"
local tags = require "gorge.tags"
local text = require "gorge.text"

local pcall = pcall
local type = type
local unpack = unpack

local PENDING = tonumber(C.GORGE_PENDING)
local TOO_LARGE = tonumber(C.GORGE_TOO_LARGE)
local ERR_ARGUMENT = tonumber(C.GORGE_ERR_ARGUMENT)
local MAX_TTL_MS = 10 * 365 * 86400 * 1000
local SOURCES = { l0 = true, l1 = true, l2 = true, fn = true, stale = true } -- the third value of fetch and get
local OVERRIDES = { ttl = true, tags = true, stale_ttl = true, no_store = true }

local _M = {}

---Calls fn(...); what it raises becomes an error like any other.
---@return boolean ok
---@return any value_or_err
---@return any err
function _M.protected(fn, ...)
  local ok, value, err, overrides = pcall(fn, ...)
  if ok then
    return true, value, err, overrides
  elseif type(value) == "table" then
    return false, value -- a structured error: as it is
  end
  return false, "gorge: fn raised: " .. (type(value) == "string" and value or text.describe(value))
end

---Calls fn(key, ...); what it raises becomes an error like any other.
---@return boolean ok
---@return any value_or_err
---@return table|number|nil overrides
local function run_loader(call)
  local args, began_us = call.args, C.gorge_now_us()
  local ok, value, err, overrides
  if args then
    ok, value, err, overrides = _M.protected(call.fn, call.key, unpack(args, 1, args.n or #args))
  else
    ok, value, err, overrides = _M.protected(call.fn, call.key)
  end
  call.load_ms = (C.gorge_now_us() - began_us) / 1000
  if not ok then
    call.failed = true
    return false, value
  elseif type(value) == "nil" and err ~= nil then
    call.failed = true
    return false, err
  end
  return true, value, overrides
end

---@return number|nil ms
---@return string|nil problem
local function time_of(overrides, name)
  local seconds = overrides[name]
  if seconds == nil then
    return
  elseif type(seconds) ~= "number" or not (seconds > 0 and seconds * 1000 <= MAX_TTL_MS) then
    return nil, "override " .. name .. " must be a number of seconds greater than 0, got " .. text.describe(seconds)
  end
  return seconds < 0.001 and 1 or seconds * 1000
end

---The same, if `origin` lets it. Who would have to wait for that takes a value past its end, if there is one.
---@param op integer|nil the fetch that it is run for
---@return boolean ok
---@return any value_or_err
---@return table|number|string|nil overrides with "stale": the source
---@return "stale"|"later"|nil unrun fn was not run: the value is an older one; or nothing speaks against a run by somebody who can wait
local function call_loader(self, call, op)
  local engine = call.engine
  if not engine.has_origin then
    return run_loader(call)
  end
  local run, why_not, later = origin.ask(self, call)
  if not run and not why_not then
    if op then
      engine:mark(op, false)
    end
    local found, value, source = stale.find(self, call)
    if found then
      return true, value, source, "stale"
    end
    run, why_not, later = origin.wait(self, call)
  end
  if op then
    engine:mark(op, run ~= nil)
  end
  if not run then
    call.failed = true
    return false, later and why_not or "gorge: key " .. text.quote(call.key) .. ": " .. why_not, nil, later and "later" or nil
  end
  local ok, value, overrides = run_loader(call)
  origin.leave(call, run, not ok)
  return ok, value, overrides
end

local function take_overrides(overrides)
  if type(overrides) == "number" then
    overrides = { ttl = overrides }
  elseif type(overrides) ~= "table" then
    return "the third value that fn returns must be a ttl or a table, got " .. text.describe(overrides)
      .. (SOURCES[overrides] and ": return only value and error of another fetch" or "")
  end
  for name in pairs(overrides) do
    if not OVERRIDES[name] then
      return "override " .. text.describe(name) .. " is not one of ttl, tags, stale_ttl, no_store"
    end
  end
  local ttl_ms, stale_ttl_ms, packed, problem
  ttl_ms, problem = time_of(overrides, "ttl")
  if not problem then
    stale_ttl_ms, problem = time_of(overrides, "stale_ttl")
  end
  if not problem and overrides.tags ~= nil then
    packed, problem = tags.pack(overrides.tags)
  end
  return problem, ttl_ms, packed, overrides.no_store, stale_ttl_ms
end

---@return string|nil problem
---@return number|nil ttl_ms
---@return string|nil packed_tags
---@return boolean|nil no_store
---@return number|nil stale_ttl_ms
local function read_overrides(overrides)
  if overrides == nil then
    return
  end
  local ok, problem, ttl_ms, packed, no_store, stale_ttl_ms = pcall(take_overrides, overrides)
  if not ok then -- by a metamethod of the user's
    return "the overrides cannot be read: " .. (type(problem) == "string" and problem or text.describe(problem))
  end
  return problem, ttl_ms, packed, no_store, stale_ttl_ms
end

---@return nil
---@return any err
local function failed(call, op, err)
  call.failed = true
  call.engine:fail(op, type(err) == "string" and err or "gorge: fn failed: " .. text.describe(err)) -- for other workers
  return nil, err
end

---What is wrong with a value that nobody encodes.
---@return string|nil problem
function _M.misfit(self, call, value)
  local check = self.codec.check
  local problem = check and check(value)
  return problem and "gorge: key " .. text.quote(call.key) .. ": " .. problem
end

---Encodes the value of an operation whose lease the caller holds, and begins to store it.
---@return any err nil: see the status
---@return integer|nil status of the store; PENDING: to be waited for; nil: nothing is to be stored
---@return integer|nil size bytes of the encoded value
function _M.begin_store(self, call, op, value, overrides)
  local problem, ttl_ms, packed, no_store, stale_ttl_ms = read_overrides(overrides)
  if problem then
    local _, err = failed(call, op, "gorge: key " .. text.quote(call.key) .. ": " .. problem)
    return err
  end
  local engine = call.engine
  if no_store then
    problem = _M.misfit(self, call, value)
    if problem then
      local _, err = failed(call, op, problem)
      return err
    end
    engine:skip(op)
    return nil
  end
  local kind, bytes, l2_kind, l2_bytes = self.codec.encode(value, engine.has_redis)
  if not kind then
    local _, err = failed(call, op, "gorge: key " .. text.quote(call.key) .. ": " .. bytes)
    return err
  end
  ttl_ms = ttl_ms or (type(value) == "nil" and call.negative_ms) or call.ttl_ms
  local l1_ttl_ms
  ttl_ms, l1_ttl_ms = life.of(ttl_ms, self.options.l1_ttl_ms, call.jitter)
  local parsed = self.options
  engine:prepare(call.stale_ms, life.refresh(ttl_ms, parsed, stale_ttl_ms or call.stale_ttl_ms), parsed.early_refresh and call.load_ms or 0)
  return nil, engine:fill(op, packed, ttl_ms, l1_ttl_ms, kind, bytes, l2_kind, l2_bytes), #bytes
end

---The store is over: its status is not PENDING, and what it told is in the engine's `read`.
function _M.end_store(self, call, value, status, size)
  local engine = call.engine
  if engine.entered and status ~= ERR_ARGUMENT then -- that is an operation which was given up: nothing was told of it
    l0.store(self.l0, call.key, value, engine.read)
  end
  if status == TOO_LARGE then -- told last: a logger may use the cache, and `read` with it
    local message = "gorge: a value is too large for L1 and is not kept there"
    report.write(self.report, "info", message, { key = call.key, bytes = size })
  end
end

---Encodes and stores the value of an operation whose lease the caller holds.
local function store(self, call, op, value, overrides)
  local err, status, size = _M.begin_store(self, call, op, value, overrides)
  if type(err) ~= "nil" then
    return nil, err
  elseif status then
    if status == PENDING then
      status = call.engine:wait(op, status)
    end
    _M.end_store(self, call, value, status, size)
  end
  return value, nil, "fn"
end

---Runs fn for an operation in GORGE_LEASE, stores what it returns, and tells who waits.
---@return any value
---@return any err
---@return string|nil source
---@return boolean|nil later fn was not run, but by somebody who can wait it could be
function _M.with_lease(self, call, op)
  local ok, value, overrides, unrun = call_loader(self, call, op)
  if unrun then
    call.engine:skip(op)
    if ok then
      return value, nil, overrides
    end
    return nil, value, nil, true
  elseif not ok then
    return failed(call, op, value)
  end
  return store(self, call, op, value, overrides)
end

---What a run of fn needs to know of a call that has nothing to do with the cache.
---@return table
function _M.alone(self, fn, args)
  local engine, wait_ms = self.engine, self.options.wait_timeout_ms
  if engine.has_origin then
    self.host.enter(engine) -- a failure costs wake-ups only
  end
  return { fn = fn, args = args, engine = engine, stale_ms = 0, wait_ms = wait_ms, deadline_ms = C.gorge_now_ms() + wait_ms }
end

---Runs fn for this caller alone: nothing is stored, nobody is told.
function _M.without_lease(self, call)
  local ok, value, source, unrun = call_loader(self, call)
  if not ok then
    return nil, value
  elseif unrun then
    return value, nil, source
  end
  local problem = _M.misfit(self, call, value)
  if problem then
    return nil, problem
  end
  return value, nil, "fn"
end

_M.failed = failed

return _M
