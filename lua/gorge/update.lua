-- SPDX-License-Identifier: MIT
-- update: reads a value, has the user make another one of it, and puts that in its place if it is still there; else once more.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local check = require "gorge.arguments"
local l0 = require "gorge.ffi.l0"
local life = require "gorge.life"
local load = require "gorge.load"
local look = require "gorge.look"
local engine_of = require("gorge.ready").engine_of
local text = require "gorge.text"

local HIT = tonumber(C.GORGE_HIT)
local MISS = tonumber(C.GORGE_MISS)
local PENDING = tonumber(C.GORGE_PENDING)
local REFUSED = tonumber(C.GORGE_REFUSED)
local STORED = tonumber(C.GORGE_STORED)
local TOO_LARGE = tonumber(C.GORGE_TOO_LARGE)

local BACKOFF_MS, BACKOFF_MAX_MS = 1, 64
local SPINS = 1000 -- attempts where the phase cannot wait between them

local _M = {}

local function failed(key, what)
  return nil, "gorge: update: key " .. text.quote(key) .. ": " .. what
end

---Why Redis did not do it.
local function reason(engine, status)
  local phrase = ffi.string(C.gorge_status_phrase(status))
  local detail = engine:bytes()
  if detail ~= "" then
    phrase = phrase .. ": " .. text.printable(detail, 200)
  end
  return phrase
end

---Waits for a random time, longer after each attempt, so that those who compete do not come back in step.
local function back_off(self, attempt)
  if attempt > 1 and self.host.can_wait(self.engine) then
    local most = math.min(BACKOFF_MAX_MS, BACKOFF_MS * 2 ^ attempt)
    self.host.waiter():wait((0.5 + C.gorge_random_unit() * most) / 1000)
  end
end

---The value that was read, as the user's function gets it.
local function old_value(self, key, status)
  local engine = self.engine
  if status ~= HIT then
    return nil
  end
  local kind, bytes = engine.read.kind, engine:bytes()
  local ok, value = self.codec.decode(kind, bytes, engine.has_redis)
  if not ok then
    look.note_undecodable(self, key, engine.has_redis and "Redis" or "L1", value)
    return nil
  end
  return value
end

---One attempt. Its operation is `op`; what is left of it is the caller's to free.
---@return boolean again
---@return any value
---@return any err
local function attempt(self, call, op, status)
  local engine, key = self.engine, call.key
  if status == PENDING then
    status = engine:wait(op, status)
  else
    status = engine:status(op)
  end
  if status ~= HIT and status ~= MISS then
    return false, failed(key, "nothing is changed: " .. reason(engine, status))
  end
  local ok, value, err = load.protected(call.fn, old_value(self, key, status))
  if not ok then
    return false, nil, value
  elseif type(value) == "nil" and err ~= nil then
    return false, nil, err
  end
  local kind, bytes, l2_kind, l2_bytes = self.codec.encode(value, engine.has_redis)
  if not kind then
    return false, nil, "gorge: key " .. text.quote(key) .. ": " .. bytes
  end
  local options = self.options
  local ttl_ms = call.ttl_ms or (type(value) == "nil" and options.negative_cache_ttl_ms) or options.l1_ttl_ms
  local l1_ttl_ms
  ttl_ms, l1_ttl_ms = life.of(ttl_ms, options.l1_ttl_ms, options.expiration_jitter)
  engine:prepare(options.stale_if_error_ms, life.refresh(ttl_ms, options), 0)
  status = engine:update(op, ttl_ms, l1_ttl_ms, kind, bytes, l2_kind, l2_bytes)
  if status == PENDING then
    status = engine:wait(op, status)
  end
  if status == STORED then
    if engine.entered then -- as in look.lua: what the master of workers has stays out of their L0
      l0.store(self.l0, key, value, engine.read)
    end
    return false, value
  elseif status == REFUSED then
    return true
  elseif status == TOO_LARGE then
    return false, failed(key, "nothing is changed: the value is too large for L1")
  elseif engine:update_unknown(op) then
    return false, failed(key, "not known whether Redis has changed it: " .. reason(engine, status))
  end
  return false, failed(key, "nothing is changed: " .. reason(engine, status))
end

function _M.update(self, key, ttl, fn, tags)
  check.key_type(key, 3)
  local ttl_ms = ttl ~= nil and check.ttl_ms(ttl, nil, 3) or nil
  check.loader(fn, 3)
  local packed = check.tags(tags, 3)
  local problem = check.key_problem(key)
  if problem then
    return nil, problem
  end
  local engine, not_ready = engine_of(self)
  if not engine then
    return nil, not_ready
  end
  local ok, why = self.host.can_wait(engine)
  if not ok and engine.has_redis then
    return nil, "would block: " .. why .. "; nothing is changed"
  end
  local call = { key = key, ttl_ms = ttl_ms, fn = fn }
  local deadline_ms = C.gorge_now_ms() + self.options.wait_timeout_ms
  local tries = 0
  repeat
    tries = tries + 1
    local op, status = engine:start_update(key, packed)
    if op == 0 then
      return failed(key, "nothing is changed: " .. ffi.string(C.gorge_status_phrase(status)))
    end
    engine.host.guard(engine, op)
    local again, value, err = attempt(self, call, op, status)
    engine:free(op)
    if not again then
      return value, err
    end
    back_off(self, tries)
    if not self.engine then
      return nil, "closed"
    end
  until C.gorge_now_ms() >= deadline_ms or (not ok and tries >= SPINS)
  return failed(key, "nothing is changed: others changed it each time, " .. tries .. " times")
end

return _M
