-- SPDX-License-Identifier: MIT
-- Runs the user's loader and stores what it returns.

local C = require "gorge.ffi.lib"
local l0 = require "gorge.ffi.l0"
local life = require "gorge.life"
local report = require "gorge.report"
local tags = require "gorge.tags"
local text = require "gorge.text"

local pcall = pcall
local type = type
local unpack = unpack

local PENDING = tonumber(C.GORGE_PENDING)
local TOO_LARGE = tonumber(C.GORGE_TOO_LARGE)
local ERR_ARGUMENT = tonumber(C.GORGE_ERR_ARGUMENT)
local MAX_TTL_MS = 10 * 365 * 86400 * 1000
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
local function call_loader(call)
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

---@return string|nil problem
---@return number|nil ttl_ms
---@return string|nil packed_tags
---@return boolean|nil no_store
---@return number|nil stale_ttl_ms
local function read_overrides(overrides)
  if overrides == nil then
    return
  elseif type(overrides) == "number" then
    overrides = { ttl = overrides }
  elseif type(overrides) ~= "table" then
    return "the third value that fn returns must be a ttl or a table, got " .. text.describe(overrides)
  end
  for name in pairs(overrides) do
    if not OVERRIDES[name] then
      return "override " .. text.quote(tostring(name)) .. " is not one of ttl, tags, stale_ttl, no_store"
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
  if status == TOO_LARGE then
    local message = "gorge: a value is too large for L1 and is not kept there"
    report.write(self.report, "info", message, { key = call.key, bytes = size })
  end
  local engine = call.engine
  if engine.entered and status ~= ERR_ARGUMENT then -- that is an operation which was given up: nothing was told of it
    l0.store(self.l0, call.key, value, engine.read)
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
function _M.with_lease(self, call, op)
  local ok, value, overrides = call_loader(call)
  if not ok then
    return failed(call, op, value)
  end
  return store(self, call, op, value, overrides)
end

---Runs fn for this caller alone: nothing is stored, nobody is told.
function _M.without_lease(self, call)
  local ok, value = call_loader(call)
  if not ok then
    return nil, value
  end
  local problem = _M.misfit(self, call, value)
  if problem then
    return nil, problem
  end
  return value, nil, "fn"
end

_M.failed = failed

return _M
