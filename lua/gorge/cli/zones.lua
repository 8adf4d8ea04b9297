-- SPDX-License-Identifier: MIT
-- Which zones there are, and the way to the one that is meant.

local output = require "gorge.cli.output"
local system = require "gorge.ffi.system"
local text = require "gorge.text"
local visitor = require "gorge.ffi.visitor"

local _M = {}

---@class gorge.cli.Zone
---@field id string
---@field name string
---@field processes gorge.Found[] by process id
---@field main gorge.Found the one that the others descend from
---@field user string

local users

---The name of a user id, or the number.
local function user_name(id)
  if not users then
    users = {}
    for line in io.lines "/etc/passwd" do
      local name, number = line:match "^([^:]+):[^:]*:(%d+):"
      if name then
        users[tonumber(number)] = users[tonumber(number)] or text.printable(name)
      end
    end
  end
  return users[id] or tostring(id)
end

---The process whose parent has not got the zone open.
local function main_of(processes)
  local pids = {}
  for _, process in ipairs(processes) do
    pids[process.pid] = true
  end
  for _, process in ipairs(processes) do
    if not pids[process.parent] then
      return process
    end
  end
  return processes[1]
end

---All zones of this machine that this user may look at, and how many processes may hide others.
---@return gorge.cli.Zone[] by name, then by process id
---@return integer hidden
function _M.list()
  local found, hidden = visitor.find()
  if not found then
    output.fail(output.UNREACHABLE, hidden)
  end
  local zones, by_id = {}, {}
  table.sort(found, function(a, b) return a.pid < b.pid end)
  for _, record in ipairs(found) do
    local zone = by_id[record.id]
    if not zone then
      zone = { id = record.id, name = record.name, processes = {} }
      by_id[record.id] = zone
      zones[#zones + 1] = zone
    end
    zone.processes[#zone.processes + 1] = record
  end
  for _, zone in ipairs(zones) do
    zone.main = main_of(zone.processes)
    zone.user = user_name(zone.main.user)
    if zone.name == "" then
      local seen, err = visitor.attach(zone.main.path, "look")
      zone.name, zone.problem = seen and seen.zone or "", err
      if seen then
        seen:close()
      end
    end
  end
  table.sort(zones, function(a, b)
    if a.name ~= b.name then
      return a.name < b.name
    end
    return a.main.pid < b.main.pid
  end)
  return zones, hidden
end

---How a zone is told from others of its name.
---@param zone gorge.cli.Zone
---@return string
function _M.describe(zone)
  return ("process %d of user %s"):format(zone.main.pid, zone.user)
end

---Names it for who gives it as an argument: all bytes but those of the name rules are escaped.
---@param name string
---@return string
function _M.label(name)
  return name ~= "" and text.printable(name) or "(unnamed)"
end

local function has_process(zone, pid)
  for _, process in ipairs(zone.processes) do
    if process.pid == pid then
      return true
    end
  end
  return false
end

---The zones of a name, of one process if it is given.
local function of_name(zones, name, pid)
  local matches = {}
  for _, zone in ipairs(zones) do
    if zone.name == name and (not pid or has_process(zone, pid)) then
      matches[#matches + 1] = zone
    end
  end
  return matches
end

local function fail_missing(name, pid, zones, hidden)
  local message = ("there is no zone %s%s"):format(text.quote(name), pid and " in process " .. pid or "")
  if hidden > 0 and system.user() ~= 0 then
    output.fail(output.UNREACHABLE, message .. (" among the processes that this user may look at, and %d belong to other users: "
      .. "run it as the user of the workers, or as root"):format(hidden))
  end
  local names = {}
  for _, zone in ipairs(zones) do
    names[#names + 1] = _M.label(zone.name)
  end
  output.fail(output.NOTHING, message .. (#names > 0 and ": there are " .. table.concat(names, ", ")
    or ": no process of this machine has one open"))
end

---The zone that is meant.
---@param name string
---@param pid integer|nil
---@return gorge.cli.Zone
function _M.choose(name, pid)
  local zones, hidden = _M.list()
  local matches = of_name(zones, name, pid)
  if #matches == 0 then
    fail_missing(name, pid, zones, hidden)
  elseif #matches > 1 then
    local lines = {}
    for _, zone in ipairs(matches) do
      lines[#lines + 1] = "  --pid " .. zone.main.pid .. "   " .. _M.describe(zone)
    end
    output.fail(output.USAGE, ("several servers have a zone %s, choose one:\n%s"):format(text.quote(name), table.concat(lines, "\n")))
  end
  return matches[1]
end

---Attaches to the zone of an argument: a name, or the path of a file, which has a slash.
---@param args { zone: string, pid?: integer }
---@param mode? "look"|"mail"|"work"
---@return gorge.Visitor
---@return gorge.cli.Zone|nil nil for a file
function _M.attach(args, mode)
  local name = args.zone
  local zone, path = nil, name
  if not name:find("/", 1, true) then
    zone = _M.choose(name, args.pid)
    path = zone.main.path
  end
  if not zone and mode then
    output.fail(output.USAGE, "a copy of a zone has no workers that could be asked to write")
  end
  local seen, err, status = visitor.attach(path, zone and (mode or "look") or "copy")
  for i = 1, zone and #zone.processes or 0 do
    if seen or status ~= visitor.SYSTEM then
      break
    end
    seen, err, status = visitor.attach(zone.processes[i].path, mode or "look") -- the first one may have gone meanwhile
  end
  if not seen then
    local where = zone and ("zone %s, %s"):format(text.quote(name), _M.describe(zone)) or text.quote(name, 200)
    output.fail(output.UNREACHABLE, where .. ": " .. err)
  end
  return seen, zone
end

---Between two looks: the same zone while a process has it open, else the one that has taken its place, after a restart of the server.
---Ends the command when there is none.
---@param seen gorge.Visitor
---@param zone gorge.cli.Zone|nil
---@param args table
---@return gorge.Visitor
---@return gorge.cli.Zone|nil
function _M.follow(seen, zone, args)
  if not zone or seen:has_workers() then
    return seen, zone
  end
  for _, other in ipairs((_M.list())) do
    if other.id == zone.id then
      return seen, zone
    end
  end
  output.progress(("no process has the zone open any more that %s had"):format(_M.describe(zone)))
  seen:close()
  return _M.attach { zone = args.zone }
end

---The namespace that is meant: the one that is named, the only one, or the one with the zone's name.
---@param seen gorge.Visitor
---@param wanted string|nil
---@return table
function _M.namespace(seen, wanted)
  local all, names = seen:namespaces(), {}
  for _, ns in ipairs(all) do
    names[#names + 1] = text.printable(ns.name)
    if ns.name == (wanted or (#all == 1 and ns.name or seen.zone)) then
      return ns
    end
  end
  if wanted then
    output.fail(output.NOTHING, ("zone %s has no namespace %s: it has %s"):format(text.quote(seen.zone), text.quote(wanted),
      #names > 0 and table.concat(names, ", ") or "none"))
  elseif #all == 0 then
    output.fail(output.NOTHING, ("zone %s has no namespace yet"):format(text.quote(seen.zone)))
  end
  return output.fail(output.USAGE, ("zone %s has several namespaces, choose one with --namespace: %s"):format(text.quote(seen.zone),
    table.concat(names, ", ")))
end

return _M
