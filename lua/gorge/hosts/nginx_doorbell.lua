-- SPDX-License-Identifier: MIT
-- Hears from other workers: the control thread writes a byte into a unix socket whenever shared memory may hold news, one light thread per worker reads it and looks.
-- A broken doorbell costs the slices in which waiters look by themselves, never an answer.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local timer = require "gorge.hosts.nginx_timer"

local exiting = ngx.worker.exiting
local READ_TIMEOUT_MS = 86400 * 1000 -- nginx logs an error for each read that times out
local LOOK_AROUND = 0.25 -- how soon it notices that the worker is exiting
local RETRY = 1

local _M = {}

---Whether the worker is exiting and waits for nobody.
local function done(engine)
  return engine.closed or engine.bell_closed or (exiting() and engine:pending() == 0)
end

---Rings the bell until the reader ends when it is to: a read cannot be interrupted otherwise. Once is not enough: requests that drain
---may begin to wait between the ring and the reader's look.
local function watch(engine)
  while engine.bell_running do
    if done(engine) then
      C.gorge_ring(engine.handle)
    end
    ngx.sleep(LOOK_AROUND)
  end
end

local function listen(engine)
  local path = ffi.new "char[200]"
  if C.gorge_doorbell_path(engine.handle, path, 200) ~= C.GORGE_OK then
    return "no doorbell"
  end
  local sock = ngx.socket.tcp()
  sock:settimeouts(1000, 1000, READ_TIMEOUT_MS)
  local ok, err = sock:connect("unix:" .. ffi.string(path))
  while ok and not engine.closed and not engine.bell_closed do
    local bytes
    bytes, err = sock:receiveany(64)
    if engine.closed then
      break
    elseif bytes then
      engine:poll()
      if done(engine) then
        break
      end
    elseif err ~= "timeout" then
      ok = nil
    end
  end
  sock:close()
  return not ok and (err or "closed") or nil
end

local function run(premature, engine)
  engine.bell_running = true
  local watcher = not premature and ngx.thread.spawn(watch, engine)
  while not premature and not engine.closed and not engine.bell_closed do
    local problem = listen(engine)
    if not problem or exiting() then
      break
    end
    ngx.sleep(RETRY)
  end
  engine.bell_running = false
  if watcher then
    ngx.thread.wait(watcher)
  end
end

---An operation of this worker begins to wait for others.
---@param engine gorge.Engine
function _M.expect(engine)
  local place = engine.bell
  if engine.inline or (engine.bell_running and not (place.asked_ms and timer.lost(place))) then
    return
  elseif not place then
    place = {}
    engine.bell = place
  end
  local lost = engine.bell_running
  local asked, err = timer.ask(place, run, engine)
  engine.bell_running = asked
  if (lost or not asked) and not engine.bell_logged then
    engine.bell_logged = true
    ngx.log(ngx.WARN, "gorge: ", err or timer.LOST, ": until there is one for the doorbell, waiters look every lock_sleep")
  end
end

function _M.close(engine)
  engine.bell_closed = true
end

return _M
