-- SPDX-License-Identifier: MIT
-- gorge top: the keys that are used most. Each worker keeps some of its latest hits, at random; they are looked at often, and what a key has of them
-- is what it has of the hits, whose number the counters tell. Keys that have none come in the order of L1's own frequencies.

local format = require "gorge.cli.format"
local hot = require "gorge.hot"
local output = require "gorge.cli.output"
local stat = require "gorge.cli.stat"
local system = require "gorge.ffi.system"
local visitor = require "gorge.ffi.visitor"
local zones = require "gorge.cli.zones"

local _M = {}

local DEFAULT_INTERVAL, DEFAULT_NUMBER, MOST_NUMBER = 2, 20, 1000
local COLLECT_EVERY = 0.01
local MOST_SLOTS = 500000 -- looked at for frequencies, at once
local FADE = 0.5 -- what a look counts at the next one
local KEY_SHOWN = 120

local function describe_interval(command)
  command:option("--watch", "Look again every so many seconds; at a terminal every 2."):argname "SECONDS":convert(tonumber)
  command:option("--for", "End after so many seconds."):argname "SECONDS":convert(tonumber):target "limit"
end

function _M.describe(command)
  command:description "Shows which keys are hit most, in the decoded copies of workers (L0) and in shared memory (L1)."
  command:option("--number", "How many keys to show (20).", DEFAULT_NUMBER):argname "N":convert(tonumber)
  describe_interval(command)
  command:epilog [[
At a terminal it goes on until it is interrupted; else it looks for 2 seconds, and ends. Rates are estimates from samples of the hits.
USE is how much L1 thinks that the key is used, 0 to 18.

Examples:
  gorge top my-app
  gorge top my-app --number 50 --watch 5
  gorge top my-app --json | jq -r '.keys[0].key'

Exit status: 0; 1 when there is no such zone; 3 when it cannot attach.]]
end

local function count_hits(seen, wanted)
  local hits = 0
  for _, ns in ipairs(wanted and { wanted } or seen:namespaces()) do
    local told = stat.read(seen, ns)
    hits = hits + told.l0_hits + told.l1_hits
  end
  return hits
end

local function tell(told, zone)
  output.refresh()
  output.say(("zone %s, %s: %s hits/s"):format(output.paint(told.zone, "bold"), zone and zones.describe(zone) or "a file",
    format.rate(told.hits_per_second)))
  local rows = { { "HITS/S", "SHARE", "USE", "SIZE", "TTL", "NAMESPACE", "KEY" } }
  for _, key in ipairs(told.keys) do
    rows[#rows + 1] = {
      key.share > 0 and format.rate(key.hits_per_second) or "-", key.share > 0 and format.percent(key.share) or "-",
      tostring(key.frequency), format.bytes(key.size), format.time(key.ttl), key.namespace,
      #key.key > KEY_SHOWN and key.key:sub(1, KEY_SHOWN) .. "..." or key.key,
    }
  end
  output.say(format.table(rows, { true, true, true, true, true }))
  io.stdout:flush()
end

local function report(list, total, rate, seen, number)
  local names = {}
  for _, ns in ipairs(seen:namespaces()) do
    names[ns.number] = format.escape(ns.name)
  end
  local keys = {}
  for i = 1, math.min(number, #list) do
    local key = list[i]
    local share = total > 0 and key.weight / total or 0
    keys[i] = {
      key = format.escape(key.key) .. (key.length > #key.key and "..." or ""), key_length = key.length,
      namespace = names[key.ns] or tostring(key.ns), share = share, hits_per_second = share * rate,
      frequency = key.frequency, size = key.size, ttl = key.ttl,
    }
  end
  return { zone = format.escape(seen.zone), time = os.time(), hits_per_second = rate, keys = keys }
end

---Collects for so long. Returns hits per second.
local function gather(top, cursor, seen, wanted, seconds)
  local before, began = count_hits(seen, wanted), system.now()
  seen:uses(cursor) -- what was before is not of this time
  repeat
    system.sleep(math.min(COLLECT_EVERY, math.max(0, began + seconds - system.now())))
    top:add(seen:uses(cursor), wanted and wanted.number)
  until system.now() >= began + seconds
  return (count_hits(seen, wanted) - before) / (system.now() - began)
end

local function check(args)
  local number = args.number
  if not (number and number >= 1 and number <= MOST_NUMBER and number % 1 == 0) then
    output.fail(output.USAGE, "--number takes 1 to 1000")
  end
  output.check_seconds { ["--watch"] = args.watch, ["--for"] = args.limit }
end

function _M.run(args)
  check(args)
  local seen, zone = zones.attach(args)
  local wanted = args.namespace and zones.namespace(seen, args.namespace)
  local goes_on = args.watch ~= nil or args.limit ~= nil or (output.is_terminal and not args.json)
  local started = system.now()
  local top, cursor, frequent = hot.new(), visitor.uses_cursor(), visitor.frequent_cursor()
  repeat
    local rate = gather(top, cursor, seen, wanted, args.watch or DEFAULT_INTERVAL)
    local list, total = top:ranked(seen:frequent(frequent, MOST_SLOTS, args.number), wanted and wanted.number)
    local told = report(list, total, rate, seen, args.number)
    if args.json then
      told.keys = output.array(told.keys)
      output.json(told)
    else
      tell(told, zone)
    end
    top:fade(FADE)
    local same
    same, zone = zones.follow(seen, zone, args)
    if same ~= seen then
      seen, cursor = same, visitor.uses_cursor()
    end
  until not goes_on or args.limit and system.now() - started >= args.limit
  return output.OK
end

return _M
