-- SPDX-License-Identifier: MIT
-- Moves the bytes of a worker's Redis connections through cosockets: one light thread writes, one reads. What the bytes mean is the core's business.
--
-- There is a pump for each node, the only one of a single Redis, or those of a cluster that have been asked. It starts with the first command, ends when the connection is
-- lost, or when the worker is exiting and nothing is under way; the next command starts it anew.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local semaphore = require "ngx.semaphore"
local timer = require "gorge.hosts.nginx_timer"

local ffi_string = ffi.string
local exiting = ngx.worker.exiting
local tonumber = tonumber

local OK = tonumber(C.GORGE_OK)
local PENDING = tonumber(C.GORGE_PENDING)
-- nginx logs an error for each read of a cosocket that times out, so reads are not sliced: an idle connection is pinged (keepalive_interval),
-- and a read that lasts for so long beyond that is a Redis that has gone silent.
local SILENCE_MS = 12000
local LOOK_AROUND = 0.25 -- how soon an idle pump notices that the worker is exiting
local SEND_TIMEOUT_MS = 5000
local CHUNK = 65536
local MOST_NODES = 96
local ATTEND = 0.005 -- how often requests are looked after that no node is asked yet

local _M = {}

---@class gorge.Pump: gorge.TimerPlace
---@field node integer whose bytes it moves
---@field running boolean a timer has been asked for or runs
---@field wake table semaphore of the writer
---@field link table|nil the connection: its field `stop` is true once it is given up

---The pump of a node; the first one of an engine is that of node 0.
---@param node integer
---@return gorge.Pump
local function pump_of(engine, node)
  local pumps = engine.pumps
  if not pumps then
    pumps = {}
    engine.pumps = pumps
  end
  local pump = pumps[node + 1]
  if not pump then
    pump = { node = node, running = false, wake = semaphore.new(0), host = ffi.new "char[256]", port = ffi.new "uint32_t[1]",
      ptr = ffi.new "const char *[1]", len = ffi.new "uint64_t[1]" }
    pumps[node + 1] = pump
    engine.pump = pumps[1]
  end
  return pump
end

---@return integer bytes to send, from pump.ptr[0] on
local function waiting(engine, pump)
  C.gorge_io_output(engine.handle, pump.node, pump.ptr, pump.len)
  local len = tonumber(pump.len[0])
  return len
end

---@return string|nil bytes to send
local function output(engine, pump)
  local len = waiting(engine, pump)
  if len > 0 then
    local bytes = ffi_string(pump.ptr[0], len)
    C.gorge_io_sent(engine.handle, pump.node, len)
    return bytes
  end
end

local function lost(engine, pump, link, reason)
  if link.stop then
    return -- told already
  end
  link.stop = true
  if not engine.closed then
    C.gorge_io_closed(engine.handle, pump.node, reason)
    engine:poll()
  end
end

local function wake_writer(pump)
  if pump.wake:count() < 1 then
    pump.wake:post(1)
  end
end

local function idle_and_exiting(engine, pump)
  return engine.closed or (exiting() and C.gorge_io_pending(engine.handle, pump.node) == 0)
end

---Reads until the connection is lost, and closes the socket then: nobody else may while a read is under way.
local function read(engine, pump, link)
  local sock = link.sock
  while not link.stop do
    local bytes, err = sock:receiveany(CHUNK)
    if link.stop or engine.closed then
      break
    elseif not bytes then
      lost(engine, pump, link, err == "timeout" and "Redis is silent" or err or "closed")
    elseif C.gorge_io_input(engine.handle, pump.node, bytes, #bytes) ~= OK then
      lost(engine, pump, link, "protocol error")
    else
      engine:poll()
    end
  end
  link.closed = true
  sock:close()
  wake_writer(pump)
end

---Deadlines, the connection's health, the worker's end.
local function look_around(engine, pump, link)
  if link.stop or engine.closed then
    return
  end
  engine:poll() -- and who waited for what is late is told
  if C.gorge_io_dropped(engine.handle, pump.node) == 1 then
    link.stop = true
  elseif idle_and_exiting(engine, pump) then
    link.stop = true
    C.gorge_io_rest(engine.handle, pump.node, "the worker is exiting")
  end
end

---@return number seconds
local function until_next_look(engine)
  local due_ms = C.gorge_io_due(engine.handle) -- sooner when something is late
  return due_ms >= 0 and math.min(math.max(due_ms, 1) / 1000, LOOK_AROUND) or LOOK_AROUND
end

local function write(engine, pump, link)
  local looked, pause = engine.host.now(), LOOK_AROUND
  while not link.stop and not engine.closed do
    local bytes = output(engine, pump)
    if bytes then
      local sent, err = link.sock:send(bytes)
      if not sent then
        lost(engine, pump, link, err or "send failed")
      end
    else
      pump.writer_waits = true
      local woken = pump.wake:wait(pause)
      pump.writer_waits = false
      pause = LOOK_AROUND
      local now = engine.host.now()
      if not woken or now >= looked + LOOK_AROUND * 1000 then -- a busy writer is woken for each batch
        looked = now
        look_around(engine, pump, link)
        pause = until_next_look(engine)
      end
    end
  end
  link.stop = true
end

---@return boolean connected
local function connect(engine, pump, sock)
  local host, port = ffi_string(pump.host), tonumber(pump.port[0])
  sock:settimeouts(engine.connect_timeout_ms, SEND_TIMEOUT_MS, engine.keepalive_ms + SILENCE_MS)
  local ok, err
  if port == 0 then
    ok, err = sock:connect(host)
  else
    ok, err = sock:connect(host, port)
  end
  if not ok then
    if not engine.closed then
      C.gorge_io_closed(engine.handle, pump.node, err or "cannot connect")
      engine:poll()
    end
    return false
  end
  return not engine.closed
end

local function serve(engine, pump)
  local link = { sock = ngx.socket.tcp(), stop = false }
  if not connect(engine, pump, link.sock) then
    link.sock:close()
    return
  end
  pump.link = link
  C.gorge_io_opened(engine.handle, pump.node)
  local reader = ngx.thread.spawn(read, engine, pump, link)
  write(engine, pump, link)
  -- Nothing that still comes is for anybody. From a Redis that is silent nothing comes: the read would keep the socket, and a worker that is
  -- to end, until its timeout.
  if not link.closed and ngx.thread.kill(reader) then
    link.closed = true
    link.sock:close()
  end
end

local function run(premature, engine, pump)
  pump.running = true
  while not premature and not engine.closed do
    local status = C.gorge_io_connect(engine.handle, pump.node, pump.host, 256, pump.port)
    if status == OK then
      serve(engine, pump)
    elseif status == PENDING then
      ngx.sleep(0.005)
    else
      break
    end
  end
  pump.running = false
end

local function start(engine, pump)
  local asked, err = timer.ask(pump, run, engine, pump)
  pump.running = asked
  if not asked then
    C.gorge_io_closed(engine.handle, pump.node, err)
  end
end

---Wakes the writer, but not for nothing: it comes after those who are about to run by then, and their commands leave in one send.
local function stir(engine, pump)
  if pump.asked_ms and timer.lost(pump) then -- the next command asks for another one
    pump.running, pump.asked_ms = false, nil
    C.gorge_io_closed(engine.handle, pump.node, timer.LOST)
  elseif pump.writer_waits and waiting(engine, pump) > 0 then
    pump.writer_waits = false
    pump.wake:post(1)
  end
end

---While requests wait for the map of the cluster, or for a slot on its way.
local function attend(premature, engine, place)
  place.running = true
  while not premature and not engine.closed and C.gorge_io_parked(engine.handle) > 0 do
    ngx.sleep(ATTEND)
    engine:poll()
  end
  place.running = false
end

---The nodes of a cluster, those that have something to be sent.
local function kick_nodes(engine)
  local nodes = engine.stirred
  if not nodes then
    nodes = ffi.new("uint32_t[?]", MOST_NODES)
    engine.stirred = nodes
  end
  for i = 0, C.gorge_io_stirred(engine.handle, nodes, MOST_NODES) - 1 do
    local pump = pump_of(engine, tonumber(nodes[i]))
    if pump.running then
      stir(engine, pump)
    else
      start(engine, pump)
    end
  end
  local place = engine.attending
  if not place then
    place = { running = false }
    engine.attending = place
  end
  if (not place.running or timer.lost(place)) and C.gorge_io_parked(engine.handle) > 0 then
    place.running = timer.ask(place, attend, engine, place) -- without a timer those look who wait
  end
end

---Called whenever commands may have been queued.
---@param engine gorge.Engine
function _M.kick(engine)
  if engine.inline or not engine.has_redis or engine.closed then
    return
  elseif engine.cluster then
    return kick_nodes(engine)
  end
  local pump = engine.pump or pump_of(engine, 0)
  if pump.running then
    stir(engine, pump)
  elseif C.gorge_io_pending(engine.handle, 0) > 0 then
    start(engine, pump)
  end
end

function _M.close(engine)
  for _, pump in pairs(engine.pumps or {}) do
    if pump.link then
      pump.link.stop = true
    end
    wake_writer(pump)
  end
end

return _M
