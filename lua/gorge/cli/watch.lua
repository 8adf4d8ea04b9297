-- SPDX-License-Identifier: MIT
-- gorge watch: invalidations, from the zone's ring of events, and changes of state, from its words.

local format = require "gorge.cli.format"
local output = require "gorge.cli.output"
local stat = require "gorge.cli.stat"
local system = require "gorge.ffi.system"
local zones = require "gorge.cli.zones"

local _M = {}

local LOOK_EVERY = 0.05

function _M.describe(command)
  command:description "Shows invalidations of keys and tags, clears, and changes of state, as they happen."
  command:option("--for", "End after so many seconds."):argname "SECONDS":convert(tonumber):target "limit"
  command:epilog [[
Of a namespace with Redis it shows what this host hears, its own writes included, with their versions. What Redis could not be told
is shown as queued.

Examples:
  gorge watch my-app
  gorge watch my-app --for 10
  gorge watch my-app --json | jq -c 'select(.event == "breaker")'

Exit status: 0; 1 when there is no such zone; 3 when it cannot attach.]]
end

local SOURCES = { heard = "", here = "on this host", queued = "on this host; Redis could not be told, and will be" }

local function clock(seconds)
  return os.date("%H:%M:%S", math.floor(seconds)) .. (".%03d"):format(seconds % 1 * 1000)
end

---@param told table what a program gets
---@param said string what people get
local function tell(args, told, said)
  if args.json then
    output.json(told)
  else
    output.say(("%s  %-10s  %s%s"):format(clock(told.time), told.event, told.namespace and told.namespace .. "  " or "", said))
    io.stdout:flush()
  end
end

local function tell_event(args, event, name)
  local shown = event.name and format.escape(event.name) .. (event.cut and "..." or "")
  local told = {
    time = system.time() - event.ago, event = event.kind, namespace = name, source = event.source, version = event.version,
    [event.kind == "tag" and "tag" or "key"] = shown,
  }
  local said = { shown or "everything", event.version and "version " .. event.version or "", SOURCES[event.source] or "" }
  tell(args, told, (table.concat(said, "  "):gsub("%s+$", "")))
end

-- A field of stats, the name of its event, and what is said; the value before and now.
local CHANGES = {
  { "breaker", "breaker", function(_, now) return "the circuit breaker is " .. now end },
  { "subscribed", "contact", function(_, now)
    return now and "listening to other nodes, and Redis confirms that nothing is missed" or "not listening to other nodes"
  end },
  { "queued", "queued", function(before, now)
    local said = now == 0 and "no invalidation waits for Redis any more" or now .. " invalidations wait for Redis"
    return (before == 0) ~= (now == 0) and said
  end },
  { "worker_deaths", "death", function(before, now) return now - before .. " workers died without saying so" end, zone = true },
  { "workers", "workers", function(before, now) return ("%d processes at work, before %d"):format(now, before) end, zone = true },
}

local function tell_changes(args, before, now, first)
  for _, change in ipairs(CHANGES) do
    local field = change[1]
    if before[field] ~= now[field] and (first or not change.zone) then
      local said = change[3](before[field], now[field])
      if said then
        tell(args, {
          time = system.time(), event = change[2], namespace = not change.zone and now.namespace or nil, before = before[field],
          now = now[field],
        }, said)
      end
    end
  end
end

---The state of all namespaces, and their names, by number.
local function look(seen, wanted)
  local states, names = {}, {}
  for _, ns in ipairs(wanted and { wanted } or seen:namespaces()) do
    states[ns.number] = stat.read(seen, ns)
    names[ns.number] = format.escape(ns.name)
  end
  return states, names
end

local function compare(args, before, now)
  local first = true
  for number, state in pairs(now) do
    if before[number] then
      tell_changes(args, before[number], state, first)
      first = false
    end
  end
end

function _M.run(args)
  output.check_seconds { ["--for"] = args.limit }
  local seen, zone = zones.attach(args)
  local wanted = args.namespace and zones.namespace(seen, args.namespace)
  local cursor = seen:events_begin()
  local before = look(seen, wanted)
  local started = system.now()
  if not args.json then
    output.progress(("watching zone %s%s; interrupt to end"):format(format.escape(seen.zone), zone and ", " .. zones.describe(zone) or ""))
  end
  repeat
    local now, names = look(seen, wanted)
    local events, lost = seen:events(cursor)
    if lost > 0 then
      tell(args, { time = system.time(), event = "lost", count = lost }, lost .. " events came faster than they could be shown")
    end
    for _, event in ipairs(events) do
      if not wanted or event.ns == wanted.number then
        tell_event(args, event, names[event.ns] or tostring(event.ns))
      end
    end
    compare(args, before, now)
    before = now
    if #events == 0 then
      system.sleep(LOOK_EVERY)
    end
    local same
    same, zone = zones.follow(seen, zone, args)
    if same ~= seen then
      seen = same
      wanted = args.namespace and zones.namespace(seen, args.namespace)
      cursor, before = seen:events_begin(), look(seen, wanted)
    end
  until args.limit and system.now() - started >= args.limit
  return output.OK
end

return _M
