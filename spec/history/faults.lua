-- SPDX-License-Identifier: MIT
--- What goes wrong during a run. Each fault begins something and returns a record of it: `what`, `host` and `pid` whom it concerns, `contact` when
--- commands to Redis may fail from then until the nodes have settled, and `heal`, which ends it.
local helper = require "spec.helper"
local record = require "spec.history.record"
local process = helper.process

local _M = {}

local function any_host(c)
  local host = math.random(#c.nodes)
  return host, c.nodes[host], c.relays[host]
end

local function any_worker(c)
  local host, nginx = any_host(c)
  local pids = nginx:worker_pids()
  if #pids == 0 then
    return nil
  end
  return pids[math.random(#pids)], host
end

--- Runs a command on a Redis that answers.
local function tell_redis(c, ...)
  if not c.redis.paused and c.redis.process:alive() then
    c.redis:command(...)
    return true
  end
end

local function signal_all(pids, signal)
  for _, pid in ipairs(pids) do
    process.kill(pid, signal)
  end
end

function _M.kill_worker(c)
  local pid, host = any_worker(c)
  if pid then
    c.killed[pid] = true
    process.kill(pid, process.SIGKILL)
    return { what = ("SIGKILL of %d, a worker of host %d"):format(pid, host), host = host }
  end
end

function _M.stop_worker(c)
  local pid, host = any_worker(c)
  if pid then
    process.kill(pid, process.SIGSTOP)
    return {
      what = ("SIGSTOP of %d, a worker of host %d"):format(pid, host), host = host, pid = pid, contact = true,
      heal = function() process.kill(pid, process.SIGCONT) end,
    }
  end
end

--- All workers of a host at once; a record for each.
function _M.stop_host(c)
  local host, nginx = any_host(c)
  local pids = nginx:worker_pids()
  signal_all(pids, process.SIGSTOP)
  local records = {}
  for i, pid in ipairs(pids) do
    records[i] = { what = ("SIGSTOP of %d, with all of host %d"):format(pid, host), host = host, pid = pid, contact = true }
  end
  if records[1] then
    records[1].heal = function() signal_all(pids, process.SIGCONT) end
  end
  return unpack(records)
end

local function relay_fault(mode, what)
  return function(c)
    local host, _, relay = any_host(c)
    local direction = ({ "both", "up", "down" })[math.random(3)]
    local class = ({ "all", "pubsub", "commands" })[math.random(3)]
    if mode == "cut" then
      relay:cut(class)
    else
      relay[mode](relay, direction, class)
    end
    return {
      what = ("%s of host %d (%s, %s)"):format(what, host, mode == "cut" and "both" or direction, class), host = host, contact = true,
      heal = function() relay:heal() end,
    }
  end
end

_M.cut = relay_fault("cut", "connections cut")
_M.stall = relay_fault("stall", "connections stalled")
_M.black_hole = relay_fault("black_hole", "bytes lost")

--- Of the first host.
function _M.cut_first(c)
  c.relays[1]:cut()
  return {
    what = "connections cut of host 1", host = 1, contact = true,
    heal = function() c.relays[1]:heal() end,
  }
end

--- What is said meanwhile reaches this host through the journal only.
function _M.deaf(c)
  local host, _, relay = any_host(c)
  relay:black_hole("down", "pubsub")
  return {
    what = ("messages to host %d lost"):format(host), host = host,
    heal = function() relay:heal() end,
  }
end

function _M.kill_subscriptions(c)
  return tell_redis(c, "CLIENT", "KILL", "TYPE", "pubsub") and { what = "CLIENT KILL TYPE pubsub" }
end

function _M.kill_clients(c)
  return tell_redis(c, "CLIENT", "KILL", "TYPE", "normal") and { what = "CLIENT KILL TYPE normal", contact = true }
end

function _M.forget_scripts(c)
  return tell_redis(c, "SCRIPT", "FLUSH") and { what = "SCRIPT FLUSH" }
end

function _M.stop_redis(c)
  local redis = c.redis
  if redis.paused or not redis.process:alive() then
    return
  end
  redis:pause()
  redis.paused = true
  return {
    what = "SIGSTOP of Redis", contact = true,
    heal = function()
      redis:resume()
      redis.paused = nil
    end,
  }
end

--- What it had acknowledged is in its file, and there again.
function _M.restart_redis(c)
  local redis = c.redis
  if redis.paused or not redis.process:alive() then
    return
  end
  redis:kill()
  return { what = "SIGKILL of Redis, which keeps its data", contact = true, heal = function() redis:up() end }
end

function _M.flush_redis(c)
  return tell_redis(c, "FLUSHALL") and { what = "FLUSHALL", contact = true, reset = true }
end

function _M.trim_journal(c)
  return tell_redis(c, "XTRIM", "{7:history:0}:j", "MAXLEN", "1") and { what = "the journal trimmed" }
end

function _M.reload(c)
  local host, nginx = any_host(c)
  process.kill(nginx.pid, process.SIGHUP)
  return { what = ("reload of host %d"):format(host), host = host }
end

--- The replica takes over, without what Redis acknowledged in the last moments.
function _M.fail_over(c)
  if c.redis.paused or not c.redis.process:alive() or not c.replica.process:alive() then
    return
  end
  local link = c.redis:connect()
  local from = record.now()
  link.send("SET", "replicated", tostring(from))
  link.read()
  link.send("WAIT", "1", "2000")
  local replicas = link.read()
  link.close()
  if replicas ~= 1 then
    return
  end
  c.replication:cut()
  helper.sleep(math.random() * 0.2)
  local old = c.redis
  old:kill()
  c.replica:command("REPLICAOF", "NO", "ONE")
  c.losses[#c.losses + 1] = { from = from, to = record.now() }
  c.redis, c.replica = c.replica, old
  for _, relay in ipairs(c.relays) do
    relay:target(c.redis.port)
  end
  return {
    what = "failover to a replica that missed the last moments", contact = true, last = true,
    heal = function() c:replicate() end,
  }
end

--- All that need no replica.
_M.ALL = {
  "kill_worker", "stop_worker", "stop_host", "cut", "stall", "black_hole", "deaf", "kill_subscriptions", "kill_clients", "forget_scripts",
  "stop_redis", "restart_redis", "flush_redis", "trim_journal", "reload",
}

return _M
