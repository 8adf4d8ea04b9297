-- SPDX-License-Identifier: MIT
-- Values served past their end, on purpose: when fn fails, or takes too long.
--
-- What is served is read at that moment, from L1 or else from Redis, under the rules of every read there: an invalidation that a read would see, this one
-- sees. No value is held back by a caller for the case that fn fails.

local C = require "gorge.ffi.lib"
local report = require "gorge.report"
local text = require "gorge.text"

local type = type

local HIT = tonumber(C.GORGE_HIT)
local STALE = tonumber(C.GORGE_STALE)
local PENDING = tonumber(C.GORGE_PENDING)
local FLAGS = tonumber(C.GORGE_FETCH_LOOKUP + C.GORGE_FETCH_STALE)
local stale_count = tonumber(C.GORGE_COUNT_STALE_SERVED)

local _M = {}

---Redis has it longer than L1 may.
local function from_redis(call)
  local engine = call.engine
  if not engine.has_redis or not engine.host.can_wait(engine) then
    return
  end
  local op, status = engine:start_fetch(call.key, "", 1, 1, FLAGS, call.stale_ms)
  if op == 0 then
    return
  end
  if status == PENDING then
    engine.host.guard(engine, op)
    engine:wait(op, status)
  end
  status = engine:status(op)
  local kind, bytes
  if status == HIT or status == STALE then
    kind, bytes = engine.read.kind, engine:bytes()
  end
  engine:free(op)
  return status, kind, bytes, "l2"
end

---A value that a newer one was not to be had for: one that expired at most `call.stale_ms` ago, or one that somebody has stored meanwhile.
---Yields while Redis is asked.
---@param self gorge.Cache
---@param call gorge.Call
---@return boolean found
---@return any value
---@return string|nil source
function _M.find(self, call)
  local engine = call.engine
  if call.stale_ms == 0 or self.engine == nil then
    return false
  end
  local layer, kind, bytes = "l1"
  local status = engine:stale(call.key, call.stale_ms)
  if status == HIT or status == STALE then
    kind, bytes = engine.read.kind, engine:bytes()
  else
    status, kind, bytes, layer = from_redis(call)
  end
  if not kind then
    return false
  end
  local ok, value = self.codec.decode(kind, bytes, layer == "l2")
  if not ok then
    return false
  elseif status == HIT then
    return true, value, layer
  end
  local counters = engine.counters
  counters[stale_count] = counters[stale_count] + 1
  return true, value, "stale"
end

---The end of a call whose fn failed: a value that has expired, when there is one, else the error.
---@param self gorge.Cache
---@param call gorge.Call
---@return any value
---@return any err
---@return string|nil source
function _M.instead(self, call, err)
  local found, value, source = _M.find(self, call)
  if not found then
    return nil, err
  end
  local why = type(err) == "string" and err or text.describe(err)
  local message = "gorge: fn failed, a value that has expired was served"
  report.write(self.report, "warn", message .. ": " .. text.printable(why, 200), { key = call.key }, message)
  return value, nil, source
end

return _M
