-- SPDX-License-Identifier: MIT
-- A program without an event loop: a wait runs the core's own loop until the answer is there, and blocks nothing but the caller.

local C = require "gorge.ffi.lib"
local Engine = require "gorge.ffi.engine"

local _M = { name = "blocking" }

local waiter = { blocks = true }
waiter.__index = waiter

function waiter:wait(seconds)
  self.signalled = false
  C.gorge_loop_wait(seconds * 1000)
  return false -- the caller looks for itself
end

function waiter:signal()
  self.signalled = true
end

function waiter.release() end

function _M.waiter()
  return setmetatable({ signalled = false }, waiter)
end

function _M.engine(parsed)
  return Engine.new(parsed, _M, C.GORGE_CONFIG_INLINE)
end

---Beside an engine of another host that watches the namespace's messages already.
function _M.second_engine(parsed)
  return Engine.new(parsed, _M, C.GORGE_CONFIG_INLINE + C.GORGE_CONFIG_SECOND)
end

function _M.enter(engine)
  return engine:enter(true)
end

function _M.can_wait()
  return true
end

---There is no background: whoever has something to be done there does it.
function _M.background() end

function _M.has_background()
  return false
end

function _M.guard() end
function _M.kick() end
function _M.expect() end
function _M.watch() end
function _M.unwatch() end
function _M.follow() end

function _M.drain(engine, seconds)
  local deadline = C.gorge_now_ms() + seconds * 1000
  engine:poll()
  while engine:pending() > 0 and C.gorge_now_ms() < deadline do
    C.gorge_loop_wait(20)
    engine:poll()
  end
end

function _M.close() end

function _M.now()
  local ms = C.gorge_now_ms() -- not a tail call: see hosts/nginx.lua
  return ms
end

function _M.log() end

return _M
