-- SPDX-License-Identifier: MIT
-- nginx: waits are semaphores, Redis bytes go through a cosocket pump, other workers ring a doorbell (a unix socket that one light thread reads).
-- With ngx_gorge_module nginx itself moves the bytes and hears of other workers.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local Engine = require "gorge.ffi.engine"
local doorbell = require "gorge.hosts.nginx_doorbell"
local jobs = require "gorge.hosts.nginx_jobs"
local module = require "gorge.hosts.nginx_module"
local pump = require "gorge.hosts.nginx_pump"
local semaphore = require "ngx.semaphore"
local base = require "resty.core.base"
local table_new = require "table.new"

local get_phase = ngx.get_phase
local get_request = base.get_request
local tonumber = tonumber

ffi.cdef [[
extern intptr_t gorge_ngx_current_msec[1] __asm__("ngx_current_msec");
struct gorge_ngx_cleanup { void (*handler)(void *data); void *data; };
struct gorge_ngx_cleanup *gorge_ngx_http_cleanup_add(void *request, size_t size) __asm__("ngx_http_cleanup_add");
]]

local ngx_core = ffi.C
local current_msec = ngx_core.gorge_ngx_current_msec -- nginx's cached clock, declared as an array: one load

local _M = { name = "nginx" }

-- Not the TLS handshake's ssl_client_hello and ssl_session_fetch: without OpenResty's patches of OpenSSL a pause there ends the handshake.
local CAN_YIELD = {
  rewrite = true, server_rewrite = true, access = true, content = true, timer = true, preread = true,
  ssl_cert = true,
}

local OK, MISS = tonumber(C.GORGE_OK), tonumber(C.GORGE_MISS)
local GUARD_SIZE = tonumber(C.GORGE_GUARD_SIZE)

local LEVELS = { debug = ngx.DEBUG, info = ngx.INFO, warn = ngx.WARN, error = ngx.ERR }

-- Waiters ------------------------------------------------------------------------------------------------------------

-- A semaphore is dear to make (memory of its own, a finalizer), so those that nobody waits for any more are used again. That of a
-- coroutine which ended while it waited never comes back.
local MAX_SPARE = 256
local spare, spares = table_new(MAX_SPARE, 0), 0

local function wait(self, seconds)
  local woken = self.semaphore:wait(seconds) == true
  if woken then
    self.signalled = false
  end
  return woken
end

local function signal(self)
  if not self.signalled then
    self.signalled = true
    self.semaphore:post(1)
  end
end

local function release(self)
  if self.signalled then
    self.signalled = false
    self.semaphore:wait(0)
  end
  if spares < MAX_SPARE then
    spares = spares + 1
    spare[spares] = self
  end
end

function _M.waiter()
  if spares == 0 then
    return { semaphore = semaphore.new(0), signalled = false, wait = wait, signal = signal, release = release }
  end
  local found = spare[spares]
  spares = spares - 1
  return found
end

-- The process ----------------------------------------------------------------------------------------------------------

---@param parsed gorge.ParsedOptions
---@return gorge.Engine|nil
---@return string? err
function _M.engine(parsed)
  if ngx.config.subsystem ~= "http" then
    return nil, "the nginx subsystem '" .. tostring(ngx.config.subsystem) .. "' is not supported, only http"
  end
  -- Made after the fork, workers must find each other: they meet through a file named after their master.
  local flags = get_phase() == "init" and 0 or C.GORGE_CONFIG_SIBLINGS
  return Engine.new(parsed, _M, flags)
end

function _M.enter(engine)
  if engine.entered then
    return true
  end
  return engine:enter(get_phase() ~= "init") -- the master, before it forks and daemonises, gets no threads
end

function _M.can_wait(engine)
  if engine.inline then
    return true
  end
  local phase = get_phase()
  if CAN_YIELD[phase] then
    return true
  end
  return false, "the phase '" .. phase .. "' cannot yield"
end

---The coroutine's own code never runs again when its request is aborted; a handler on the request's pool does.
function _M.guard(engine, op)
  local request = get_request()
  if request == nil or C.gorge_op_guard(engine.handle, op, request) ~= MISS then
    return
  end
  local cleanup = ngx_core.gorge_ngx_http_cleanup_add(request, GUARD_SIZE)
  if cleanup ~= nil and C.gorge_guard_init(cleanup.data, request) == OK then
    cleanup.handler = C.gorge_guard_cleanup
    C.gorge_op_guard(engine.handle, op, request)
  end
end

---Whether ngx_gorge_module moves the engine's bytes.
local function has_link(engine)
  local link = engine.link
  if link == nil and engine.entered then -- the first time in this worker; the master has no event loop that a link could be in
    link = module.open(engine)
  end
  return link
end

function _M.kick(engine)
  if not engine.entered then -- the master moves no bytes
    return
  elseif has_link(engine) then
    if engine.has_redis then
      module.kick(engine)
    end
  else
    pump.kick(engine)
  end
end

_M.background = jobs.add

---Where there is no timer for it, it is not done, but never by the caller.
function _M.has_background()
  return true
end

function _M.watch(engine, op, waiting)
  if has_link(engine) then
    module.watch(engine, op, waiting.semaphore)
  end
end

function _M.unwatch(engine, op)
  if engine.link then
    module.unwatch(engine, op)
  end
end

function _M.expect(engine)
  if has_link(engine) then
    module.expect(engine)
  else
    doorbell.expect(engine)
  end
end

function _M.follow(engine)
  if has_link(engine) then
    module.follow(engine)
  else
    doorbell.expect(engine)
  end
end

function _M.drain(engine, seconds)
  if not CAN_YIELD[get_phase()] then
    return
  end
  local deadline = C.gorge_now_ms() + seconds * 1000
  while engine:pending() > 0 and C.gorge_now_ms() < deadline do
    ngx.sleep(0.01)
    engine:poll()
  end
end

function _M.close(engine)
  if engine.link then
    module.close(engine)
  end
  pump.close(engine)
  doorbell.close(engine)
  jobs.close(engine)
end

_M.clock = ffi.cast("const uint64_t *", current_msec)

function _M.now()
  local ms = tonumber(current_msec[0]) -- not a tail call: LuaJIT compiles no trace that begins in a function and ends in one of C
  return ms
end

---@param level string
---@param message string
function _M.log(level, message)
  local severity = LEVELS[level] or ngx.NOTICE
  if severity == ngx.INFO and get_phase() == "init" then
    severity = ngx.NOTICE -- while nginx starts, its log takes nothing below, whatever error_log says
  end
  ngx.log(severity, message)
end

return _M
