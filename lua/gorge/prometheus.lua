-- SPDX-License-Identifier: MIT
-- The counters, gauges and latencies of stats.lua as Prometheus text, format 0.0.4.
--
-- One family is one name with its HELP and TYPE, and the samples of all caches below it. What belongs to a namespace is labelled with it and its zone;
-- what belongs to a zone, which several namespaces may share, with the zone alone, so that a sum over caches counts it once.

local C = require "gorge.ffi.lib"
local stats = require "gorge.stats"
local text = require "gorge.text"

local concat = table.concat
local format = string.format
local tonumber = tonumber

local _M = {}

_M.CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

-- Every fourth bound of a histogram is a power of two: from 16 us to 33.6 s, a family is 23 lines and no more.
local FIRST_BOUND, LAST_BOUND, STEP = 8, 92, 4

local ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

---Labels between their braces, their values escaped.
---@param pairs_of_labels string[] name, value, name, value ...
---@return string
function _M.labels(pairs_of_labels)
  local parts = {}
  for i = 1, #pairs_of_labels, 2 do
    parts[#parts + 1] = pairs_of_labels[i] .. '="' .. pairs_of_labels[i + 1]:gsub('[\\"\n]', ESCAPES) .. '"'
  end
  return concat(parts, ",")
end

local labels = _M.labels

-- Counters that are one family with a label.
local LAYERS = {
  l0_hits = { "hits", "l0" }, l1_hits = { "hits", "l1" }, l2_hits = { "hits", "l2" },
  l1_misses = { "misses", "l1" }, l2_misses = { "misses", "l2" },
}
local LAYER_HELP = { hits = "Answers, by the layer that had them.", misses = "Look-ups that found nothing, by layer." }

-- Other names in Prometheus than in stats, where those would not say what they count.
local NAMES = {
  l2_errors = "redis_errors", takeovers = "fill_takeovers", too_large = "too_large_values", expired = "expired_values",
  reconnects = "redis_reconnects",
}

-- Of the zone, not of a namespace.
local OF_ZONE = { worker_deaths = true }

-- name, help, value of a struct gorge_stats
local NAMESPACE_GAUGES = {
  { "redis_connected", "1 while the worker that answers is connected to Redis.",
    function(raw) return raw.redis_state == 3 and 1 or 0 end, redis = true },
  { "redis_pending_commands", "Commands of the worker that answers that wait for Redis.",
    function(raw) return raw.redis_pending end, redis = true },
  { "queued_invalidations", "Invalidations that wait for Redis.", function(raw) return tonumber(raw.queued) end, redis = true },
  { "subscribed", "1 while a worker of this host listens to the other nodes.", function(raw) return raw.subscribed end, redis = true },
  { "lag_seconds", "How long ago it was last confirmed that this host heard everything; absent before the first time.",
    function(raw) return raw.lag_ms >= 0 and raw.lag_ms / 1000 or nil end, redis = true },
}

local ZONE_GAUGES = {
  { "entries", "Values in L1.", function(raw) return tonumber(raw.entries) end },
  { "used_bytes", "Bytes of L1 that values take up.", function(raw) return tonumber(raw.bytes_used) end },
  { "capacity_bytes", "Bytes of L1 that values may take up.", function(raw) return tonumber(raw.bytes_total) end },
  { "zone_bytes", "Bytes of shared memory, all overhead included.", function(raw) return tonumber(raw.zone_size) end },
  { "fills_running", "Fills under way on this host.", function(raw) return tonumber(raw.flights) end },
  { "workers", "Processes that use the zone.", function(raw) return tonumber(raw.workers) end },
}

local BREAKER_STATES = { [0] = "closed", "open", "half-open" }

local HISTOGRAMS = {
  { "redis_duration_seconds", "Round trips to Redis." },
  { "load_duration_seconds", "Runs of loaders." },
  { "wait_duration_seconds", "Waits for a fill of another worker or node." },
}

-- A text that grows by families ------------------------------------------------------------------------------------------------

---@class gorge.Exposition
---@field order string[]
---@field families table<string, string[]>

local function add(exposition, name, kind, help, suffix, label, value)
  local full = "gorge_" .. name
  local family = exposition.families[full]
  if not family then
    family = { "# HELP " .. full .. " " .. help, "# TYPE " .. full .. " " .. kind }
    exposition.families[full] = family
    exposition.order[#exposition.order + 1] = full
  end
  family[#family + 1] = full .. suffix .. "{" .. label .. "} " .. format(value % 1 == 0 and "%.0f" or "%.15g", value)
end

local function add_histogram(exposition, name, help, words, label)
  local count = 0
  for i = 0, C.GORGE_HISTOGRAM_BUCKETS - 1 do
    count = count + tonumber(words[i])
    if i >= FIRST_BOUND and i <= LAST_BOUND and (i - FIRST_BOUND) % STEP == 0 then
      local le = format("%.9g", C.gorge_histogram_bound_us(i) / 1e6)
      add(exposition, name, "histogram", help, "_bucket", label .. ',le="' .. le .. '"', count)
    end
  end
  add(exposition, name, "histogram", help, "_bucket", label .. ',le="+Inf"', count)
  add(exposition, name, "histogram", help, "_sum", label, tonumber(words[C.GORGE_HISTOGRAM_BUCKETS]) / 1e6)
  add(exposition, name, "histogram", help, "_count", label, count)
end

local function add_counters(exposition, raw, label, of_zone)
  for i, counter in ipairs(stats.COUNTERS) do
    local name, value = counter[1], tonumber(raw.counters[i - 1])
    local layer = LAYERS[name]
    local asked_for = (OF_ZONE[name] or false) == of_zone
    if asked_for and layer then
      add(exposition, layer[1] .. "_total", "counter", LAYER_HELP[layer[1]], "", label .. ',layer="' .. layer[2] .. '"', value)
    elseif asked_for then
      add(exposition, (NAMES[name] or name) .. "_total", "counter", counter[2], "", label, value)
    end
  end
end

local function add_gauges(exposition, gauges, raw, label, has_redis)
  for _, gauge in ipairs(gauges) do
    local value = (has_redis or not gauge.redis) and gauge[3](raw)
    if value then
      add(exposition, gauge[1], "gauge", gauge[2], "", label, value)
    end
  end
end

local function add_breaker(exposition, name, help, label, now)
  for state = 0, 2 do
    add(exposition, name, "gauge", help, "", label .. ',state="' .. BREAKER_STATES[state] .. '"', now == state and 1 or 0)
  end
end

local function add_node(exposition, cache, node, label)
  add(exposition, "redis_node_connected", "gauge", "1 while the worker that answers is connected to a node of the cluster.", "", label,
    node.redis == "ready" and 1 or 0)
  add(exposition, "redis_node_partitions", "gauge", "Partitions of the namespace that a node of the cluster has.", "", label,
    node.partitions)
  if cache.options.circuit_breaker then
    add(exposition, "redis_node_breaker_open", "gauge", "1 while the circuit breaker of a node of the cluster is not closed.", "", label,
      node.breaker == "closed" and 0 or 1)
  end
end

local function add_namespace(exposition, cache, raw)
  local label = labels { "namespace", cache.options.namespace, "zone", cache.options.zone }
  local has_redis = cache.engine.has_redis
  add_counters(exposition, raw, label, false)
  add_gauges(exposition, NAMESPACE_GAUGES, raw, label, has_redis)
  if cache.options.circuit_breaker then
    add_breaker(exposition, "breaker_state", "1 for the state that the circuit breaker is in.", label, raw.breaker)
  end
  if cache.options.origin then
    add_breaker(exposition, "origin_breaker_state", "1 for the state that the circuit breaker around loaders is in.", label,
      raw.origin_breaker)
    add(exposition, "origin_running", "gauge", "Runs of loaders under way on this host.", "", label, raw.origin_running)
  end
  local master = stats.master(raw)
  if master then
    add(exposition, "redis_master", "gauge", "1; where the sentinels say that the master is, as a label.", "",
      label .. "," .. labels { "master", master }, 1)
  end
  for _, node in ipairs(stats.nodes(cache) or {}) do
    add_node(exposition, cache, node, label .. "," .. labels { "node", node.node })
  end
  for i, histogram in ipairs(HISTOGRAMS) do
    add_histogram(exposition, histogram[1], histogram[2], raw.histograms[i - 1], label)
  end
end

local function by_name(a, b)
  if a.options.namespace ~= b.options.namespace then
    return a.options.namespace < b.options.namespace
  end
  return a.options.zone < b.options.zone
end

---Prometheus text of some caches. Handles of one namespace count once, closed ones not at all. Never yields.
---@param caches gorge.Cache[]
---@return string
function _M.render(caches)
  local open, seen = {}, {}
  for _, cache in ipairs(caches) do
    local name = cache.options.namespace .. "\0" .. cache.options.zone
    if cache.engine and not seen[name] then
      seen[name] = true
      open[#open + 1] = cache
    end
  end
  table.sort(open, by_name)
  local exposition = { order = {}, families = {} }
  add(exposition, "build_info", "gauge", "1; the version is a label.", "", labels { "version", require("gorge.version") }, 1)
  local zones = {}
  for _, cache in ipairs(open) do
    local raw = stats.raw(cache)
    add_namespace(exposition, cache, raw)
    if not zones[cache.options.zone] then
      zones[cache.options.zone] = true
      local label = labels { "zone", cache.options.zone }
      add_counters(exposition, raw, label, true)
      add_gauges(exposition, ZONE_GAUGES, raw, label, true)
    end
  end
  local lines = {}
  for _, name in ipairs(exposition.order) do
    lines[#lines + 1] = concat(exposition.families[name], "\n")
  end
  return concat(lines, "\n") .. "\n"
end

---@param caches any what a user gave: a cache, or an array of them
---@param what string names the function in the message
---@param level integer as in error(), counted from the caller of this function
---@return gorge.Cache[]
function _M.list(caches, what, level)
  local list = caches
  if type(caches) == "table" and caches.options and caches.host then
    list = { caches }
  end
  local good = type(list) == "table" and #list > 0
  for i = 1, good and #list or 0 do
    good = good and type(list[i]) == "table" and list[i].options ~= nil and list[i].host ~= nil
  end
  if not good then
    error("gorge: " .. what .. " takes a cache or an array of caches, got " .. text.describe(caches), level + 1)
  end
  return list
end

return _M
