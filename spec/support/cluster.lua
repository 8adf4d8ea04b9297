-- SPDX-License-Identifier: MIT
--- A real Redis Cluster of the test's own: masters, each with a replica, that fail over and move slots as in production, only sooner.
local net = require "spec.support.net"
local process = require "spec.support.process"
local redis = require "spec.support.redis"
local relay = require "spec.support.relay"

local SLOTS = 16384

local _M = {}

---@class gorge.spec.Cluster
---@field servers gorge.spec.Redis[] masters first, then the replica of each
---@field replicas integer of each master
---@field opts table
local Cluster = {}
Cluster.__index = Cluster

local function lines(list)
  return table.concat(list, "\n") .. "\n"
end

local function ok(reply, err)
  if reply ~= "OK" then
    error(tostring(reply or err), 2)
  end
end

--- Port and bus port of a node, as its clients and the other nodes reach it.
local function place(server)
  return server.tls_port or server.port, server.bus_port
end

--- Where nobody takes the place of another, one that stands still for a moment need not count as gone.
local function node_timeout_ms(opts)
  return opts.node_timeout_ms or opts.replicas == 0 and 15000 or 1500
end

local function start_node(opts)
  local bus_port = net.free_port()
  local server = redis.start { password = opts.password, tls = opts.tls, config = lines {
    "cluster-enabled yes", "cluster-port " .. bus_port, "cluster-node-timeout " .. node_timeout_ms(opts),
    "cluster-replica-validity-factor 0", "cluster-allow-replica-migration no",
    "repl-diskless-sync-delay 0", "repl-ping-replica-period 1",
    opts.password and "masterauth " .. opts.password or "",
    opts.tls and "tls-replication yes\ntls-cluster yes" or "",
    opts.config or "",
  } }
  server.bus_port = bus_port
  if opts.bus_relays then
    server.bus = relay.start(bus_port)
    server.bus_port = server.bus.port
    ok(server:command("CONFIG", "SET", "cluster-announce-bus-port", server.bus_port))
  end
  server.id = assert(server:command("CLUSTER", "MYID"))
  return server
end

--- Starts one and waits until all of it is well.
--- opts: masters (3), replicas of each (1), password, tls as for redis.start, node_timeout_ms (1500, without replicas 15000), config: further
--- lines of redis.conf, bus_relays: a relay before the bus port of each node, `bus` of the server: what the others say to it goes that way.
---@param opts? table
---@return gorge.spec.Cluster
function _M.start(opts)
  opts = opts or {}
  local masters, replicas = opts.masters or 3, opts.replicas or 1
  local self = setmetatable({ servers = {}, replicas = replicas, opts = opts }, Cluster)
  local started, problem = pcall(function()
    for i = 1, masters * (1 + replicas) do
      self.servers[i] = start_node(opts)
      ok(self.servers[i]:command("CLUSTER", "SET-CONFIG-EPOCH", i))
    end
    for i = 1, masters do
      ok(self.servers[i]:command("CLUSTER", "ADDSLOTSRANGE", math.floor((i - 1) * SLOTS / masters), math.floor(i * SLOTS / masters) - 1))
    end
    for i = 2, #self.servers do
      ok(self.servers[1]:command("CLUSTER", "MEET", "127.0.0.1", place(self.servers[i])))
    end
    process.wait_until(function() return self:acquainted() end, { timeout = 20, interval = 0.05, message = "the nodes did not meet" })
    for i = masters + 1, #self.servers do
      ok(self.servers[i]:command("CLUSTER", "REPLICATE", self.servers[(i - 1) % masters + 1].id))
    end
    self:wait_well()
  end)
  if not started then
    self:stop()
    error(problem, 0)
  end
  return self
end

---@return gorge.spec.Redis[] those that run
function Cluster:running()
  local list = {}
  for _, server in ipairs(self.servers) do
    if server.process:alive() and not server.paused then
      list[#list + 1] = server
    end
  end
  return list
end

--- What a node knows of all nodes, itself included, by their ids.
---@param server gorge.spec.Redis
---@return table<string, { flags: string, port: integer, master: string, slots: string, linked: boolean }>
local function known_by(server)
  local known = {}
  for line in (server:command("CLUSTER", "NODES") or ""):gmatch "[^\n]+" do
    local id, port, flags, master, link, slots = line:match "^(%x+) [^ ]*:(%d+)@%S+ (%S+) (%S+) %S+ %S+ %S+ (%S+) ?(.*)$"
    if id then
      known[id] = { port = tonumber(port), flags = flags, master = master, slots = slots, linked = link == "connected" }
    end
  end
  return known
end

--- Whether each node that runs knows all others.
function Cluster:acquainted()
  for _, server in ipairs(self:running()) do
    local known = known_by(server)
    for _, other in ipairs(self.servers) do
      if not known[other.id] or known[other.id].flags:find "handshake" then
        return false
      end
    end
  end
  return true
end

--- Which node has which slots and who follows whom, as one text; of those that are gone, their slots alone.
local function layout(known)
  local list = {}
  for id, node in pairs(known) do
    local slots = node.slots:gsub(" ?%[.*$", "") -- of one that is being moved
    local master = node.flags:find "fail" and "-" or node.master
    if slots ~= "" or master ~= "-" then
      list[#list + 1] = ("%s follows %s, has %s"):format(id, master, slots)
    end
  end
  table.sort(list)
  return table.concat(list, "\n")
end

---@return boolean whether all nodes that run find the cluster well and agree about its layout, and every replica is linked to its master
function Cluster:is_well()
  local running = self:running()
  local agreed
  for _, server in ipairs(running) do
    local info = server:command("CLUSTER", "INFO")
    if not info or not info:find("cluster_state:ok", 1, true) then
      return false
    end
    local replication = server:command("INFO", "replication") or ""
    if replication:find("role:slave", 1, true) and not replication:find("master_link_status:up", 1, true) then
      return false
    end
    local known = known_by(server)
    agreed = agreed or layout(known)
    if layout(known) ~= agreed then
      return false
    end
    for _, other in ipairs(running) do
      local seen = known[other.id]
      if not seen or seen.flags:find "fail" or not seen.linked and other ~= server then
        return false
      end
    end
  end
  return #running > 0
end

--- Waits until the cluster is as it should be; those that do not run are left out.
function Cluster:wait_well()
  process.wait_until(function() return self:is_well() end, { timeout = 30, interval = 0.05, message = "the cluster is not well" })
end

---@param id string
---@return gorge.spec.Redis
function Cluster:server_of(id)
  for _, server in ipairs(self.servers) do
    if server.id == id then
      return server
    end
  end
  error("no node of ours is " .. tostring(id))
end

--- Nodes of which all that run say that they are masters of slots.
---@return gorge.spec.Redis[]
function Cluster:masters()
  local list = {}
  for _, server in ipairs(self:running()) do
    local mine = known_by(server)[server.id]
    if mine and mine.flags:find("master", 1, true) and mine.slots ~= "" then
      list[#list + 1] = server
    end
  end
  return list
end

--- The slot of a partition of a namespace.
---@param ns string
---@param partition integer
---@return integer
function Cluster:slot(ns, partition)
  return assert(self:running()[1]:command("CLUSTER", "KEYSLOT", ("{%d:%s:%d}"):format(#ns, ns, partition)))
end

--- The node that has a slot, says the first of those that run.
---@param slot integer
---@return gorge.spec.Redis
function Cluster:master_of(slot)
  for _, range in ipairs(assert(self:running()[1]:command("CLUSTER", "SLOTS"))) do
    if slot >= range[1] and slot <= range[2] then
      return self:server_of(range[3][3])
    end
  end
  error("nobody has the slot " .. slot)
end

---@param master gorge.spec.Redis
---@return gorge.spec.Redis|nil one of its replicas that run
function Cluster:replica_of(master)
  for _, server in ipairs(self:running()) do
    local mine = known_by(server)[server.id]
    if mine and mine.master == master.id then
      return server
    end
  end
end

--- Waits until all that run agree that a replica has taken the place of a master that does not run any more, and the cluster is usable.
---@param old gorge.spec.Redis
---@return gorge.spec.Redis
function Cluster:wait_replaced(old)
  local slot = old.had_slot
  local new = process.wait_until(function()
    local new
    for _, server in ipairs(self:running()) do
      local info = server:command("CLUSTER", "INFO")
      local known = known_by(server)
      local owner
      for id, node in pairs(known) do
        for from, to in node.slots:gmatch "(%d+)%-?(%d*)" do
          if tonumber(from) <= slot and slot <= (tonumber(to) or tonumber(from)) then
            owner = id
          end
        end
      end
      if not info or not info:find("cluster_state:ok", 1, true) or not owner or owner == old.id or new and new.id ~= owner then
        return false
      end
      new = self:server_of(owner)
    end
    return new
  end, { timeout = 20, interval = 0.02, message = "no replica was promoted" })
  return new
end

--- Remembers a slot of a master that is about to go, for wait_replaced.
local function remember_slot(server)
  local mine = known_by(server)[server.id]
  server.had_slot = mine and tonumber(mine.slots:match "%d+") or server.had_slot
end

--- SIGKILL, as Redis:kill.
---@param server gorge.spec.Redis
function Cluster:kill(server)
  remember_slot(server)
  server:kill()
end

--- SIGSTOP.
---@param server gorge.spec.Redis
function Cluster:pause(server)
  remember_slot(server)
  server:pause()
end

--- Orders a replica to take its master's place, and waits until all know that it has.
---@param replica gorge.spec.Redis
function Cluster:fail_over(replica)
  ok(replica:command("CLUSTER", "FAILOVER"))
  process.wait_until(function()
    for _, server in ipairs(self:running()) do
      local seen = known_by(server)[replica.id]
      if not seen or not seen.flags:find("master", 1, true) or seen.slots == "" then
        return false
      end
    end
    return true
  end, { timeout = 20, interval = 0.01, message = "the replica did not take over" })
end

--- Waits until a master's replicas have all that it has taken so far.
---@param master gorge.spec.Redis
---@param replicas? integer
function Cluster:catch_up(master, replicas)
  replicas = replicas or self.replicas
  local connection = master:connect()
  connection.send("PUBLISH", "gorge-spec", "mark") -- WAIT is about what this connection has written
  connection.read()
  connection.send("WAIT", replicas, 4000)
  local reached = connection.read()
  connection.close()
  assert(reached == replicas, ("%s of %d replicas caught up"):format(tostring(reached), replicas))
end

local function migrate(self, from, to, keys)
  local command = { "MIGRATE", "127.0.0.1", (place(to)), "", 0, 5000 }
  if self.opts.password then
    command[#command + 1] = "AUTH"
    command[#command + 1] = self.opts.password
  end
  command[#command + 1] = "KEYS"
  for _, key in ipairs(keys) do
    command[#command + 1] = key
  end
  local reply, err = from:command(unpack(command))
  assert(reply == "OK" or reply == "NOKEY", err)
end

--- Moves a slot with its keys to another master, as redis-cli does: in steps, while clients go on.
--- opts: batch: keys of one step (10); pause: seconds between two steps (0); half_way: called once half of the keys are there.
---@param slot integer
---@param to gorge.spec.Redis
---@param opts? { batch?: integer, pause?: number, half_way?: fun() }
---@return integer keys that were moved
function Cluster:move_slot(slot, to, opts)
  opts = opts or {}
  local from = self:master_of(slot)
  assert(from ~= to, "it has that slot")
  ok(to:command("CLUSTER", "SETSLOT", slot, "IMPORTING", from.id))
  ok(from:command("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id))
  local half = math.floor(from:command("CLUSTER", "COUNTKEYSINSLOT", slot) / 2)
  local moved, half_way = 0, opts.half_way
  while true do
    if half_way and moved >= half then
      half_way()
      half_way = nil
    end
    local most = opts.batch or 10
    if half_way then
      most = math.min(most, math.max(1, half - moved))
    end
    local keys = assert(from:command("CLUSTER", "GETKEYSINSLOT", slot, most))
    if #keys == 0 then
      break
    end
    migrate(self, from, to, keys)
    moved = moved + #keys
    process.sleep(opts.pause or 0)
  end
  ok(to:command("CLUSTER", "SETSLOT", slot, "NODE", to.id))
  ok(from:command("CLUSTER", "SETSLOT", slot, "NODE", to.id))
  for _, server in ipairs(self:masters()) do
    server:command("CLUSTER", "SETSLOT", slot, "NODE", to.id)
  end
  return moved
end

--- How often all nodes that run have answered with an error of a kind, such as "MOVED", since they were started.
---@param kind string
---@return integer
function Cluster:errors(kind)
  local count = 0
  for _, server in ipairs(self:running()) do
    count = count + (tonumber((server:command("INFO", "errorstats") or ""):match("errorstat_" .. kind .. ":count=(%d+)")) or 0)
  end
  return count
end

--- Addresses as the option takes them.
---@param count? integer so many of them, all if left out
---@return string[]
function Cluster:addresses(count)
  local list = {}
  for i = 1, count or #self.servers do
    list[i] = "127.0.0.1:" .. place(self.servers[i])
  end
  return list
end

function Cluster:stop()
  for _, server in ipairs(self.servers) do
    server:stop()
    if server.bus then
      server.bus:stop()
    end
  end
end

return _M
