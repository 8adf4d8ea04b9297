-- SPDX-License-Identifier: MIT
-- The option `origin`: leave to run fn. So many runs at once on a host, and none while the breaker around them is open; the core counts for all workers.

local C = require "gorge.ffi.lib"

local LEASE = tonumber(C.GORGE_LEASE)
local FULL = tonumber(C.GORGE_ERR_FULL)
local BREAKER = tonumber(C.GORGE_ERR_BREAKER)

local _M = {}

---@return integer|nil run
---@return string|nil why_not
local function decided(self, call, run, status)
  local engine = call.engine
  call.run = run
  engine.host.guard(engine, run)
  status = engine:wait(run, status)
  if status == LEASE then
    return run
  end
  call.run = nil
  engine:free(run)
  if status == BREAKER then
    return nil, "fn is not run: the circuit breaker of the origin is open"
  end
  return nil, ("fn is not run: %d runs are under way on this host, waited %g s for one to end"):format(
    self.options.origin.max_concurrency, call.wait_ms / 1000)
end

---Asks for leave to run fn now. Each leave must be ended by `leave`.
---@param self gorge.Cache
---@param call gorge.Call
---@return integer|nil run
---@return string|nil why_not nil without a run: too many are under way, see `wait`
function _M.ask(self, call)
  local engine = call.engine
  local run, status = engine:start_run(0, self.options.wait_timeout_ms)
  if run == 0 then
    return 0 -- no memory for an operation, or closed: the caller still gets its value
  elseif status == FULL then
    engine:free(run)
    return nil
  end
  return decided(self, call, run, status)
end

---Waits until fn may be run, where the phase can yield.
---@param self gorge.Cache
---@param call gorge.Call
---@return integer|nil run
---@return string|nil why_not
---@return boolean|nil later nothing speaks against a run by somebody who can wait
function _M.wait(self, call)
  local engine = call.engine
  local ready, why = engine.host.can_wait(engine)
  if not ready then
    return nil, "would block: " .. why, true
  end
  local left_ms = call.deadline_ms - C.gorge_now_ms()
  local run, status = engine:start_run(left_ms > 1 and left_ms or 1, self.options.wait_timeout_ms)
  if run == 0 then
    return 0
  end
  return decided(self, call, run, status)
end

---fn has returned.
---@param call gorge.Call
---@param run integer as it was given
---@param failed boolean
function _M.leave(call, run, failed)
  call.run = nil
  if run ~= 0 then
    C.gorge_origin_finish(call.engine.handle, run, failed and 1 or 0)
  end
end

---The coroutine of the call was ended, in fn or while it waited for it. Its request may live on.
---@param call gorge.Call
function _M.cut_off(call)
  local run = call.run
  if run then
    call.run = nil
    call.engine:free(run)
  end
end

return _M
