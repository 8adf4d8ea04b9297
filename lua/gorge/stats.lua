-- SPDX-License-Identifier: MIT
-- Counters, gauges and latencies of the whole host, read from shared memory.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"
local addresses = require "gorge.addresses"

local _M = {}

-- enum gorge_counter, in its order: the name, and what it counts.
_M.COUNTERS = {
  { "l0_hits", "Answers from decoded values of a worker (L0)." },
  { "l1_hits", "Answers from shared memory (L1)." },
  { "l1_misses", "Look-ups that found nothing in shared memory." },
  { "l2_hits", "Answers from Redis (L2)." },
  { "l2_misses", "Look-ups that found nothing in Redis." },
  { "l2_errors", "Commands that Redis did not answer, or refused." },
  { "loads", "Runs of loaders with a lease." },
  { "load_errors", "Runs of loaders that failed." },
  { "waits", "Waits for a fill of another worker or node." },
  { "wait_timeouts", "Waits that ended without a result." },
  { "takeovers", "Fills taken over from a worker that died or lost its lease." },
  { "refused_fills", "Results not stored because of a write, an invalidation or a takeover meanwhile." },
  { "too_large", "Values too large for L1." },
  { "inserts", "Values stored in L1." },
  { "evictions", "Values pushed out of L1 to make room." },
  { "expired", "Values found expired when room was made in L1." },
  { "sets", "Values set on this host." },
  { "deletes", "Keys deleted on this host." },
  { "invalidated_tags", "Tags invalidated on this host." },
  { "messages", "Invalidations and fills heard through Redis." },
  { "resyncs", "Losses of contact, or of the journal, after which L1 was emptied: one each, however many partitions are concerned." },
  { "lock_takeovers", "Locks in shared memory taken from workers that died." },
  { "lock_timeouts", "Locks in shared memory not to be had in time." },
  { "worker_deaths", "Workers that died without saying so." },
  { "reconnects", "Connections to Redis lost and found again." },
  { "breaker_opens", "Openings of the circuit breaker." },
  { "decode_errors", "Stored values that could not be decoded." },
  { "dropped_writes", "Writes and fills that reached this host but not Redis." },
  { "touches", "Values given another life on this host." },
  { "clears", "Times that the namespace was cleared on this host." },
  { "updates", "Attempts to change a value in one step." },
  { "update_conflicts", "Such attempts that began anew because somebody else had changed the value." },
  { "replayed", "Invalidations that Redis was told of later." },
  { "stale_served", "Answers with values that had expired." },
  { "master_switches", "Other masters that the sentinels named." },
  { "refreshes", "Runs of loaders for values that were still good." },
  { "refresh_errors", "Refreshes that failed." },
  { "origin_waits", "Runs of loaders that waited until fewer were under way." },
  { "origin_refused", "Runs of loaders that were refused." },
  { "origin_opens", "Openings of the circuit breaker around loaders." },
  { "redirects", "Commands that nodes of a cluster sent elsewhere, or told to come again." },
  { "cluster_changes", "Partitions that were found at another node of the cluster than before." },
}

local PLACE = {}
for i, counter in ipairs(_M.COUNTERS) do
  PLACE[counter[1]] = i - 1
end

---A counter of this process.
---@param engine gorge.Engine
---@param name string
---@return integer
function _M.count(engine, name)
  return tonumber(engine.counters[PLACE[name]])
end

---The same counter, of all processes of the host.
---@param raw ffi.cdata* struct gorge_stats
---@param name string
---@return integer
function _M.of_host(raw, name)
  return tonumber(raw.counters[PLACE[name]])
end

_M.HISTOGRAMS = { "l2_latency", "load_latency", "wait_latency" }

---The states of breakers, as the core numbers them.
_M.BREAKER = { [0] = "closed", "open", "half-open" }
local BREAKER = _M.BREAKER
local REDIS = { [0] = "down", "connecting", "connecting", "ready", "closed", [9] = "none" }

local function latency(words)
  local count = 0
  for i = 0, C.GORGE_HISTOGRAM_BUCKETS - 1 do
    count = count + tonumber(words[i])
  end
  return {
    count = count,
    sum = tonumber(words[C.GORGE_HISTOGRAM_BUCKETS]) / 1e6,
    p50 = C.gorge_histogram_quantile_us(words, 0.5) / 1e6,
    p95 = C.gorge_histogram_quantile_us(words, 0.95) / 1e6,
    p99 = C.gorge_histogram_quantile_us(words, 0.99) / 1e6,
  }
end

---What `stats` is made of.
---@param cache gorge.Cache
---@return ffi.cdata* struct gorge_stats
function _M.raw(cache)
  local raw = ffi.new "struct gorge_stats"
  C.gorge_stats_read(cache.engine.handle, raw)
  return raw
end

---Where the sentinels say that the master is.
---@param raw ffi.cdata* struct gorge_stats
---@return string|nil
function _M.master(raw)
  return raw.master[0] ~= 0 and ffi.string(raw.master) or nil
end

---@class gorge.NodeStats a node of a Redis Cluster, as this worker knows it
---@field node string "192.0.2.1:6379"
---@field partitions integer of the namespace
---@field redis string of this worker's connection
---@field redis_error string|nil why that is down
---@field breaker string

---Those that have partitions, or that this worker is connected to.
---@param cache gorge.Cache
---@return gorge.NodeStats[]|nil nil without a cluster
function _M.nodes(cache)
  local redis = cache.options.redis
  if not redis or not redis.cluster then
    return nil
  end
  local list = {}
  local cluster, raw = ffi.new "struct gorge_cluster_stats", ffi.new "struct gorge_node_stats"
  if C.gorge_cluster_read(cache.engine.handle, cluster) ~= 0 then
    return list
  end
  for i = 0, cluster.nodes - 1 do
    if C.gorge_node_read(cache.engine.handle, i, raw) == 0 and (raw.partitions > 0 or raw.state ~= 0) then
      list[#list + 1] = {
        node = addresses.display { { host = ffi.string(raw.host), port = raw.port } }, partitions = raw.partitions,
        redis = REDIS[raw.state],
        redis_error = raw.reason[0] ~= 0 and ffi.string(raw.reason) or nil, breaker = BREAKER[raw.breaker],
      }
    end
  end
  return list
end

---@param cache gorge.Cache
---@param raw ffi.cdata*|nil struct gorge_stats: what was read a moment ago
---@return table
function _M.read(cache, raw)
  raw = raw or _M.raw(cache)
  local out = {
    namespace = cache.options.namespace,
    zone = cache.options.zone,
    host = cache.host.name,
    entries = tonumber(raw.entries),
    bytes_used = tonumber(raw.bytes_used),
    bytes_total = tonumber(raw.bytes_total),
    zone_size = tonumber(raw.zone_size),
    fills_running = tonumber(raw.flights),
    workers = tonumber(raw.workers),
    breaker = BREAKER[raw.breaker],
    origin = BREAKER[raw.origin_breaker],
    origin_running = raw.origin_running,
    redis = REDIS[raw.redis_state] or "down",
    redis_error = raw.redis_reason[0] ~= 0 and ffi.string(raw.redis_reason) or nil,
    redis_pending = raw.redis_pending,
    subscribed = raw.subscribed == 1,
    master = _M.master(raw),
    nodes = _M.nodes(cache),
    queued = tonumber(raw.queued),
    lag = raw.lag_ms >= 0 and raw.lag_ms / 1000 or nil,
  }
  for i, counter in ipairs(_M.COUNTERS) do
    out[counter[1]] = tonumber(raw.counters[i - 1])
  end
  for i, name in ipairs(_M.HISTOGRAMS) do
    out[name] = latency(raw.histograms[i - 1])
  end
  return out
end

return _M
