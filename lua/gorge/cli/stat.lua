-- SPDX-License-Identifier: MIT
-- gorge stat: the counters of a zone, as cache:stats() has them, for people.

local addresses = require "gorge.addresses"
local format = require "gorge.cli.format"
local output = require "gorge.cli.output"
local stats = require "gorge.stats"
local zones = require "gorge.cli.zones"

local _M = {}

local count, percent, time = format.count, format.percent, format.time

---The breakers of a cluster's nodes that are not closed, in the order of their names; nil: all are.
local function node_breakers(seen, ns)
  local list = {}
  for i, breaker in ipairs(seen:node_breakers(ns.number)) do
    local node = breaker.host and format.escape(addresses.display { breaker }) or "a node"
    list[i] = { node = node, breaker = stats.BREAKER[breaker.state] }
  end
  table.sort(list, function(a, b) return a.node < b.node end)
  return #list > 0 and list or nil
end

---What cache:stats() returns, without what only a worker knows of itself.
---@param seen gorge.Visitor
---@param ns table
---@return table
function _M.read(seen, ns)
  local raw = seen:stats(ns.number) or output.fail(output.UNREACHABLE, "the zone is damaged: its namespaces")
  local told = stats.read({ options = { namespace = format.escape(ns.name), zone = format.escape(seen.zone) }, host = {} }, raw)
  told.redis = ns.redis and "used" or "none"
  told.redis_pending, told.redis_error = nil, nil
  told.breaker_opens = tonumber(raw.breaker_opens)
  told.node_breakers = node_breakers(seen, ns)
  return told
end

local function answers_of(now, before, seconds)
  local layers = {
    { "L0, a worker's own copy", "l0_hits" }, { "L1, shared memory", "l1_hits" }, { "L2, Redis", "l2_hits" }, { "loader", "loads" },
  }
  local total, change = 0, 0
  for _, layer in ipairs(layers) do
    total = total + now[layer[2]]
    change = change + (before and now[layer[2]] - before[layer[2]] or 0)
  end
  local head = { "answers", count(total), total > 0 and "hit ratio " .. percent(1 - now.loads / total) or "" }
  if before then
    head[#head + 1] = format.rate(change / seconds) .. "/s"
    head[#head + 1] = change > 0 and "hit ratio " .. percent(1 - (now.loads - before.loads) / change) or ""
  end
  local rows = { head }
  for _, layer in ipairs(layers) do
    local n = now[layer[2]]
    local row = { "  " .. layer[1], count(n), total > 0 and percent(n / total) or "" }
    if before then
      local delta = n - before[layer[2]]
      row[#row + 1] = format.rate(delta / seconds) .. "/s"
      row[#row + 1] = change > 0 and percent(delta / change) or ""
    end
    rows[#rows + 1] = row
  end
  return format.table(rows, { [2] = true, [3] = true, [4] = true, [5] = true }, "  ")
end

local function latencies_of(now)
  local rows = { { "latency", "median", "95 %", "99 %", "count" } }
  for _, row in ipairs { { "Redis", now.l2_latency }, { "loader", now.load_latency }, { "wait for another's fill", now.wait_latency } } do
    local l = row[2]
    local known = l.count > 0
    rows[#rows + 1] = {
      "  " .. row[1], known and time(l.p50) or "-", known and time(l.p95) or "-", known and time(l.p99) or "-", count(l.count),
    }
  end
  return format.table(rows, { [2] = true, [3] = true, [4] = true, [5] = true }, "  ")
end

local function redis_of(now)
  if now.redis == "none" then
    return "not used: shared memory alone"
  end
  local heard = now.subscribed and output.paint("listening to other nodes", "good") or output.paint("not listening to other nodes", "bad")
  local confirmed = now.lag and ("confirmed %s ago"):format(time(now.lag)) or "never confirmed"
  local queued = now.queued > 0 and output.paint(count(now.queued) .. " invalidations wait for Redis", "warn") or "no invalidation waits"
  return ("%s, %s; %s"):format(heard, confirmed, queued)
end

local function cluster_of(now)
  return ("%s commands sent elsewhere, %s partitions found at other nodes"):format(count(now.redirects), count(now.cluster_changes))
end

local function paint_breaker(state)
  return output.paint(state, state == "closed" and "good" or state == "open" and "bad" or "warn")
end

local function breaker_of(now)
  local told = ("%s, opened %s times"):format(paint_breaker(now.breaker), count(now.breaker_opens))
  local nodes = {}
  for i, node in ipairs(now.node_breakers or {}) do
    nodes[i] = node.node .. " " .. paint_breaker(node.breaker)
  end
  return #nodes > 0 and told .. "; " .. table.concat(nodes, ", ") or told
end

---Counters that are 0 where all is well.
local TROUBLE = {
  { "load_errors", "loader errors" }, { "wait_timeouts", "waits in vain" }, { "l2_errors", "Redis errors" },
  { "dropped_writes", "writes Redis was not told" }, { "resyncs", "resyncs" }, { "decode_errors", "undecodable values" },
  { "worker_deaths", "worker deaths" }, { "lock_takeovers", "locks taken over" }, { "lock_timeouts", "lock timeouts" },
}

local function trouble_of(now)
  local list = {}
  for _, item in ipairs(TROUBLE) do
    if now[item[1]] > 0 then
      list[#list + 1] = count(now[item[1]]) .. " " .. item[2]
    end
  end
  return #list > 0 and output.paint(table.concat(list, ", "), "warn") or "none"
end

local function tell_namespace(now, before, seconds)
  output.say("")
  output.say("namespace " .. output.paint(now.namespace, "bold"))
  output.say(answers_of(now, before, seconds))
  output.say(latencies_of(now))
  local rows = {
    { "writes", ("%s set, %s deleted, %s tags invalidated, %s cleared, %s updated, %s touched"):format(count(now.sets), count(now.deletes),
      count(now.invalidated_tags), count(now.clears), count(now.updates), count(now.touches)) },
    { "Redis", redis_of(now) },
    { "breaker", breaker_of(now) },
    { "trouble", trouble_of(now) },
  }
  if now.redirects + now.cluster_changes > 0 then
    table.insert(rows, 3, { "cluster", cluster_of(now) })
  end
  output.say(format.table(rows, nil, "  "))
end

local function tell_zone(seen, zone, first)
  local where = zone and (", " .. zones.describe(zone)) or ", a file"
  output.say(("zone %s of %s%s, %s at work"):format(output.paint(format.escape(seen.zone), "bold"), format.bytes(first.zone_size), where,
    first.workers == 1 and "1 process" or count(first.workers) .. " processes"))
  output.say(("  %s values in %s of %s (%s); %s fills running; %s pushed out, %s found expired, %s too large"):format(
    count(first.entries), format.bytes(first.bytes_used), format.bytes(first.bytes_total), percent(first.bytes_used / first.bytes_total),
    count(first.fills_running), count(first.evictions), count(first.expired), count(first.too_large)))
end

function _M.describe(command)
  command:description("Shows counters, latencies, memory, breaker and freshness of a zone: "
    .. "what cache:stats() returns, for all its namespaces.")
  command:option("--watch", "Look again every so many seconds, with what happened in between."):argname "SECONDS":convert(tonumber)
  command:option("--for", "End after so many seconds."):argname "SECONDS":convert(tonumber):target "limit"
  command:epilog [[
Examples:
  gorge stat my-app
  gorge stat my-app --watch 2
  gorge stat my-app --json | jq '.namespaces[0].l1_hits'
  gorge stat ./copy-of-a-zone

Exit status: 0; 1 when there is no such zone; 3 when it cannot attach.]]
end

---All namespaces that are asked for, as they are now.
local function look(seen, wanted)
  local list = {}
  for _, ns in ipairs(wanted and { zones.namespace(seen, wanted) } or seen:namespaces()) do
    list[#list + 1] = _M.read(seen, ns)
  end
  if #list == 0 then
    output.fail(output.NOTHING, "the zone has no namespace yet")
  end
  return list
end

local function tell(told, zone, seen, before, args)
  if args.json then
    output.json {
      zone = format.escape(seen.zone), pid = zone and zone.main.pid, user = zone and zone.user, time = os.time(), namespaces = told,
    }
    return
  end
  if args.watch then
    output.refresh()
  end
  tell_zone(seen, zone, told[1])
  for i, ns in ipairs(told) do
    tell_namespace(ns, before and before[i], args.watch)
  end
  io.stdout:flush()
end

function _M.run(args)
  local seen, zone = zones.attach(args)
  local before
  for _ in output.looks(args.watch, args.limit) do
    if before then
      seen, zone = zones.follow(seen, zone, args)
    end
    local now = look(seen, args.namespace)
    tell(now, zone, seen, before, args)
    before = now
  end
  return output.OK
end

return _M
