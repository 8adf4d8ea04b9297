-- SPDX-License-Identifier: MIT
--- What goes wrong during a run on a Redis Cluster, as in faults.lua.
local faults = require "spec.history.faults"
local record = require "spec.history.record"
local helper = require "spec.helper"

local _M = {}

local PARTITIONS = 64
-- A former master that goes on may take writes until the others have told it.
local REJOINS = 0.5

for _, name in ipairs { "kill_worker", "stop_worker", "stop_host", "reload" } do
  _M[name] = faults[name]
end

local function any(list)
  return list[math.random(#list)]
end

--- Runs a command on every node that runs.
local function tell_all(c, what, contact, ...)
  for _, server in ipairs(c.servers:running()) do
    server:command(...)
  end
  return { what = what, contact = contact }
end

function _M.kill_subscriptions(c)
  return tell_all(c, "CLIENT KILL TYPE pubsub on all nodes", false, "CLIENT", "KILL", "TYPE", "pubsub")
end

function _M.kill_clients(c)
  return tell_all(c, "CLIENT KILL TYPE normal on all nodes", true, "CLIENT", "KILL", "TYPE", "normal")
end

function _M.forget_scripts(c)
  return tell_all(c, "SCRIPT FLUSH on all nodes", false, "SCRIPT", "FLUSH")
end

function _M.trim_journals(c)
  for partition = 0, PARTITIONS - 1 do
    for _, master in ipairs(c.servers:masters()) do
      master:command("XTRIM", ("{7:history:%d}:j"):format(partition), "MAXLEN", "1")
    end
  end
  return { what = "all journals trimmed" }
end

function _M.flush_node(c)
  local master = any(c.servers:masters())
  if master then
    master:command "FLUSHALL"
    return { what = "FLUSHALL on the node " .. master.port, contact = true, reset = true }
  end
end

--- Whether nothing is on its way: with two nodes away at a time, nobody might be left to replace one.
local function undisturbed(c)
  return c.servers:is_well() and #c.servers:running() == #c.servers.servers
end

--- Takes a node away while what it had acknowledged is with its replica, but for the last moments.
local function take_away(c, server, how)
  local from = record.now()
  if c.servers:replica_of(server) and not pcall(c.servers.catch_up, c.servers, server) then
    return false
  end
  c.servers[how](c.servers, server)
  c.losses[#c.losses + 1] = { from = from, to = record.now() }
  return true
end

function _M.kill_node(c)
  local server = any(c.servers:running())
  if undisturbed(c) and take_away(c, server, "kill") then
    return { what = "SIGKILL of the node " .. server.port, contact = true, heal = function() server:up() end }
  end
end

function _M.stop_node(c)
  local server = any(c.servers:running())
  if undisturbed(c) and take_away(c, server, "pause") then
    return {
      what = "SIGSTOP of the node " .. server.port, contact = true,
      heal = function()
        local from = record.now()
        server:resume()
        c.losses[#c.losses + 1] = { from = from, to = from + REJOINS }
      end,
    }
  end
end

--- A node that is gone for so long that another one takes its place.
function _M.replace_node(c)
  local server = undisturbed(c) and any(c.servers:masters())
  if server and take_away(c, server, "kill") then
    c.servers:wait_replaced(server)
    return { what = "SIGKILL of the master " .. server.port .. ", which was replaced", contact = true, heal = function() server:up() end }
  end
end

function _M.hand_over(c)
  local master = undisturbed(c) and any(c.servers:masters())
  local replica = master and c.servers:replica_of(master)
  if replica and pcall(c.servers.fail_over, c.servers, replica) then
    return { what = ("CLUSTER FAILOVER from %d to %d"):format(master.port, replica.port), contact = true }
  end
end

--- The partition of one of the keys of the load, key by key.
function _M.move_slot(c)
  if not undisturbed(c) then
    return
  end
  local slot = c.servers:slot("history", any(c.servers:running()):command("CLUSTER", "KEYSLOT", "key " .. math.random(28)) % PARTITIONS)
  local from, to = c.servers:master_of(slot), any(c.servers:masters())
  if from ~= to then
    local moved = c.servers:move_slot(slot, to, { batch = 2, pause = 0.01, half_way = function() helper.sleep(math.random() * 0.3) end })
    return { what = ("slot %d with %d keys moved from %d to %d"):format(slot, moved, from.port, to.port), contact = true }
  end
end

_M.ALL = {
  "kill_worker", "stop_worker", "stop_host", "kill_subscriptions", "kill_clients", "forget_scripts", "trim_journals", "flush_node", "kill_node",
  "stop_node", "replace_node", "hand_over", "hand_over", "move_slot", "move_slot", "move_slot", "reload",
}

return _M
