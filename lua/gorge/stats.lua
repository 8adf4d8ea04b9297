-- SPDX-License-Identifier: MIT
-- Counters and gauges of the whole host, read from shared memory.

local ffi = require "ffi"
local C = require "gorge.ffi.lib"

local _M = {}

-- enum gorge_counter, in its order
local COUNTERS = {
  "l0_hits", "l1_hits", "l1_misses", "l2_hits", "l2_misses", "l2_errors", "loads", "load_errors", "waits", "wait_timeouts",
  "takeovers", "refused_fills", "too_large", "inserts", "evictions", "expired", "sets", "deletes", "invalidated_tags", "messages",
  "resyncs", "lock_takeovers", "lock_timeouts", "worker_deaths", "reconnects", "breaker_opens", "decode_errors", "dropped_writes",
  "touches", "updates", "update_conflicts",
}

local HISTOGRAMS = { "l2_latency", "load_latency", "wait_latency" }

local BREAKER = { [0] = "closed", "open", "half-open" }
local REDIS = { [0] = "down", "connecting", "connecting", "ready", "closed", [9] = "none" }

local function latency(buckets)
  local count = 0
  for i = 0, C.GORGE_HISTOGRAM_BUCKETS - 1 do
    count = count + tonumber(buckets[i])
  end
  return {
    count = count,
    p50 = C.gorge_histogram_quantile_us(buckets, 0.5) / 1e6,
    p95 = C.gorge_histogram_quantile_us(buckets, 0.95) / 1e6,
    p99 = C.gorge_histogram_quantile_us(buckets, 0.99) / 1e6,
  }
end

---@param cache gorge.Cache
---@return table
function _M.read(cache)
  local raw = ffi.new "struct gorge_stats"
  C.gorge_stats_read(cache.engine.handle, raw)
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
    redis = REDIS[raw.redis_state] or "down",
    redis_error = raw.redis_state ~= 3 and raw.redis_reason[0] ~= 0 and ffi.string(raw.redis_reason) or nil,
    redis_pending = raw.redis_pending,
    subscribed = raw.subscribed == 1,
    lag = raw.lag_ms >= 0 and raw.lag_ms / 1000 or nil,
  }
  for i, name in ipairs(COUNTERS) do
    out[name] = tonumber(raw.counters[i - 1])
  end
  for i, name in ipairs(HISTOGRAMS) do
    out[name] = latency(raw.histograms[i - 1])
  end
  return out
end

return _M
