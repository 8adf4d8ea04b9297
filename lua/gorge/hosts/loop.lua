-- SPDX-License-Identifier: MIT
-- gorge.run: a small scheduler of coroutines on the core's libev loop. Inside it waits yield; outside (host "auto") they block like hosts/blocking.lua.

local C = require "gorge.ffi.lib"
local Engine = require "gorge.ffi.engine"
local blocking = require "gorge.hosts.blocking"
local text = require "gorge.text"

local running = coroutine.running

local _M = {}

local scheduler -- the one that runs now, or nil
local engines = setmetatable({}, { __mode = "k" }) -- of this process, polled at each turn

---Waits of the coroutines of a scheduler: a binary heap by time would pay off only with many thousands; a list is scanned once a turn.
local function new_scheduler()
  return { ready = {}, sleeping = {}, due = {}, alive = 0, failed = nil }
end

local waiter = {}
waiter.__index = waiter

function waiter:wait(seconds)
  if self.signalled then
    self.signalled = false
    return true
  end
  self.co = running()
  self.deadline_ms = C.gorge_now_ms() + seconds * 1000
  self.woken = nil
  self.home.sleeping[self] = true
  coroutine.yield(self.home)
  local woken = self.woken
  self.co = nil
  return woken
end

local function wake(self, woken)
  self.woken = woken
  self.home.sleeping[self] = nil
  self.home.ready[#self.home.ready + 1] = self.co
end

function waiter:signal()
  if self.co and self.home.sleeping[self] then
    wake(self, true)
  elseif not self.co then
    self.signalled = true
  end
end

function waiter.release() end

local function new_waiter()
  return setmetatable({ home = scheduler, signalled = false }, waiter)
end

local function inside()
  return scheduler ~= nil and running() ~= nil and running() == scheduler.current
end

---@param s table scheduler
---@param co thread
local function resume(s, co, ...)
  s.current = co
  local ok, result = coroutine.resume(co, ...)
  s.current = nil
  if coroutine.status(co) == "dead" then
    s.alive = s.alive - 1
    if not ok and not s.failed then
      s.failed = { err = result }
    end
  elseif result ~= s then -- not a wait of ours but a yield of its own: it lets others run
    s.ready[#s.ready + 1] = co
  end
end

---Wakes whose time has come; returns milliseconds until the next.
local function expire(s)
  local now_ms = C.gorge_now_ms()
  local next_ms = 1000
  for w in pairs(s.sleeping) do
    local left = w.deadline_ms - now_ms
    if left <= 0 then
      s.due[#s.due + 1] = w
    elseif left < next_ms then
      next_ms = left
    end
  end
  for i = 1, #s.due do
    wake(s.due[i], false)
    s.due[i] = nil
  end
  return next_ms
end

local function turn(s)
  local batch = s.ready
  s.ready = {}
  for i = 1, #batch do
    resume(s, batch[i])
  end
  local next_ms = expire(s)
  if s.alive > 0 then
    C.gorge_loop_wait(#s.ready > 0 and 0 or next_ms)
    for engine in pairs(engines) do
      if not engine.closed and engine:pending() > 0 then
        engine:poll()
      end
    end
  end
end

function _M.run(fn, ...)
  if scheduler then
    error("gorge: gorge.run is running already; use gorge.spawn inside it", 2)
  elseif type(fn) ~= "function" then
    error("gorge: gorge.run takes a function, got " .. text.describe(fn), 2)
  end
  local s = new_scheduler()
  local results
  local function keep(...)
    results = { n = select("#", ...), ... }
  end
  scheduler = s
  s.alive = 1
  resume(s, coroutine.create(function(...) keep(fn(...)) end), ...)
  local ok, err = true, nil
  while ok and s.alive > 0 do
    ok, err = pcall(turn, s)
  end
  scheduler = nil
  if not ok then
    error(err, 0)
  elseif s.failed then
    error(s.failed.err, 0)
  end
  return unpack(results, 1, results.n)
end

function _M.spawn(fn, ...)
  if not scheduler then
    error("gorge: gorge.spawn works inside gorge.run only", 2)
  elseif type(fn) ~= "function" then
    error("gorge: gorge.spawn takes a function, got " .. text.describe(fn), 2)
  end
  local args, n = { ... }, select("#", ...)
  scheduler.alive = scheduler.alive + 1
  local co = coroutine.create(function() return fn(unpack(args, 1, n)) end)
  scheduler.ready[#scheduler.ready + 1] = co
end

function _M.sleep(seconds)
  if not inside() then
    error("gorge: gorge.sleep works inside gorge.run only", 2)
  elseif type(seconds) ~= "number" or seconds ~= seconds or seconds < 0 then
    error("gorge: gorge.sleep takes a number of seconds, got " .. text.describe(seconds), 2)
  end
  new_waiter():wait(seconds)
end

local function make(name, fallback)
  local host = setmetatable({ name = name }, { __index = blocking })

  function host.engine(parsed)
    local engine, err = Engine.new(parsed, host, C.GORGE_CONFIG_INLINE)
    if engine then
      engines[engine] = true
    end
    return engine, err
  end

  function host.waiter()
    if inside() then
      return new_waiter()
    end
    return fallback()
  end

  host.has_background = inside

  ---A coroutine for the job, and one that gives it up when its time is over.
  function host.background(_, job)
    if not inside() then
      return nil
    end
    local watch = new_waiter()
    _M.spawn(function()
      job:run()
      job.done = true
      watch:signal()
    end)
    _M.spawn(function()
      if not watch:wait(job.limit_ms / 1000) and not job.done then
        job:give_up()
      end
    end)
    return true
  end

  function host.can_wait()
    if inside() or fallback ~= nil then
      return true
    end
    return false, "not inside gorge.run"
  end

  return host
end

---Inside gorge.run yields, elsewhere blocks.
_M.auto = make("auto", blocking.waiter)
---Inside gorge.run yields, elsewhere does not wait.
_M.strict = make("loop", nil)

return _M
