-- SPDX-License-Identifier: MIT
-- gorge doctor, Redis Cluster: its state, its nodes and whether they can be reached from here.

local asker = require "gorge.ffi.asker"
local format = require "gorge.cli.format"
local text = require "gorge.text"

local _M = {}

local function shown(said)
  return text.printable(said or "", 200)
end

local function check_state(findings, redis)
  local info, err = redis:ask("CLUSTER", "INFO")
  if not info then
    findings:add("redis cluster", "note", "its state cannot be seen: " .. shown(err))
    return
  end
  local state, served = info:match "cluster_state:(%w+)", tonumber(info:match "cluster_slots_ok:(%d+)")
  local masters, nodes = tonumber(info:match "cluster_size:(%d+)"), tonumber(info:match "cluster_known_nodes:(%d+)")
  findings:add("redis cluster", state == "ok" and "ok" or "bad",
    ("state %s, %s masters with slots of %s nodes, %s slots of 16,384 served"):format(shown(state), format.count(masters or 0),
      format.count(nodes or 0), format.count(served or 0)))
end

---@class gorge.cli.ClusterNode
---@field host string
---@field port integer
---@field flags string
---@field master string id of its master, or "-"
---@field slots string

---@param said string what CLUSTER NODES answers
---@return table<string, gorge.cli.ClusterNode> by id
local function parse_nodes(said)
  local nodes = {}
  for line in said:gmatch "[^\r\n]+" do
    local id, host, port, flags, master, slots = line:match "^(%x+) (%S*):(%d+)@?%S* (%S+) (%S+) %S+ %S+ %S+ %S+ ?(.*)$"
    if id then
      nodes[id] = { host = host, port = tonumber(port), flags = flags, master = master, slots = slots }
    end
  end
  return nodes
end

---The nodes of a cluster are met like the first one: with its user and password, and its way of TLS.
local function reach(node, address)
  local other = setmetatable({ host = node.host, port = node.port, path = false }, { __index = address })
  local redis, err = asker.open(other)
  if not redis then
    return nil, err
  end
  return redis:ping()
end

local function check_node(findings, node, address, followed)
  local is_master = node.flags:find("master", 1, true) ~= nil
  local name = ("redis node %s:%d"):format(shown(node.host), node.port)
  local what = is_master and (node.slots ~= "" and "master" or "master without slots") or "replica"
  if node.flags:find("noaddr", 1, true) or node.flags:find("handshake", 1, true) then
    findings:add(name, "warn", "the others do not know where it is")
    return
  end
  local seconds, err = reach(node, address)
  if not seconds then
    findings:add(name, is_master and node.slots ~= "" and "bad" or "warn", ("%s: %s"):format(what, shown(err)))
  elseif node.flags:find("fail", 1, true) then
    findings:add(name, "warn", what .. ": answers here, but the others cannot reach it")
  elseif is_master and node.slots ~= "" and not followed then
    findings:add(name, "warn", ("%s, answers in %s; without a replica: nothing takes its place when it dies"):format(what,
      format.time(seconds)))
  else
    findings:add(name, "ok", ("%s, answers in %s"):format(what, format.time(seconds)))
  end
end

---@param findings gorge.cli.Findings
---@param redis gorge.Asker a node
---@param address table the option `redis` that leads to it, parsed
function _M.check(findings, redis, address)
  check_state(findings, redis)
  local said, err = redis:ask("CLUSTER", "NODES")
  if not said then
    findings:add("redis nodes", "note", "they cannot be seen: " .. shown(err))
    return
  end
  local list, followed = {}, {}
  for id, node in pairs(parse_nodes(said)) do
    if node.flags:find("myself", 1, true) and node.host == "" then
      node.host = address.host
    end
    if node.master ~= "-" and not node.flags:find("fail", 1, true) then
      followed[node.master] = true
    end
    node.id = id
    list[#list + 1] = node
  end
  table.sort(list, function(a, b) return a.host < b.host or a.host == b.host and a.port < b.port end)
  for _, node in ipairs(list) do
    check_node(findings, node, address, followed[node.id])
  end
end

return _M
