-- SPDX-License-Identifier: MIT
-- gorge zones: which zones there are.

local format = require "gorge.cli.format"
local output = require "gorge.cli.output"
local visitor = require "gorge.ffi.visitor"
local zones = require "gorge.cli.zones"

local _M = {}

---What is to be told of a zone.
local function facts_of(zone)
  local facts = { name = zones.label(zone.name), pid = zone.main.pid, user = zone.user, processes = {} }
  for i, process in ipairs(zone.processes) do
    facts.processes[i] = process.pid
  end
  local seen, err = visitor.attach(zone.main.path, "look")
  if not seen then
    facts.error = err
    return facts
  end
  local list = seen:namespaces()
  local raw = list[1] and seen:stats(list[1].number)
  facts.namespaces = {}
  for i, ns in ipairs(list) do
    facts.namespaces[i] = { name = format.escape(ns.name), redis = ns.redis }
  end
  if raw then
    facts.size, facts.entries, facts.workers = tonumber(raw.zone_size), tonumber(raw.entries), tonumber(raw.workers)
    facts.bytes_used, facts.bytes_total = tonumber(raw.bytes_used), tonumber(raw.bytes_total)
  end
  seen:close()
  return facts
end

local function row_of(facts)
  local names = {}
  for i, ns in ipairs(facts.namespaces or {}) do
    names[i] = ns.name .. (ns.redis and "" or " (no Redis)")
  end
  local told = facts.error and output.paint(facts.error, "bad") or table.concat(names, ", ")
  return {
    facts.name, tostring(facts.pid), facts.user, tostring(#facts.processes), facts.size and format.bytes(facts.size) or "-",
    facts.entries and format.count(facts.entries) or "-",
    facts.bytes_total and format.percent(facts.bytes_used / facts.bytes_total) or "-", told,
  }
end

function _M.describe(command)
  command:description "Lists the zones that processes of this machine have open."
  command:epilog [[
Examples:
  gorge zones
  gorge zones --json | jq -r '.zones[].name'

Without root it sees the processes of its own user only.
Exit status: 0; 1 when there is none.]]
end

function _M.run(args)
  local list, hidden = zones.list()
  local all = {}
  for i, zone in ipairs(list) do
    all[i] = facts_of(zone)
  end
  if args.json then
    for _, facts in ipairs(all) do
      facts.namespaces = facts.namespaces and output.array(facts.namespaces)
    end
    output.json { zones = output.array(all), hidden_processes = hidden }
  elseif #all > 0 then
    local rows = { { "ZONE", "PID", "USER", "PROCESSES", "SIZE", "VALUES", "USED", "NAMESPACES" } }
    for _, facts in ipairs(all) do
      rows[#rows + 1] = row_of(facts)
    end
    output.say(format.table(rows, { [2] = true, [4] = true, [5] = true, [6] = true, [7] = true }))
  else
    output.say("no zone" .. (hidden > 0 and (": %d processes of other users cannot be looked at; "
      .. "run it as root, or as the user of the workers"):format(hidden) or ""))
  end
  return #all > 0 and output.OK or output.NOTHING
end

return _M
