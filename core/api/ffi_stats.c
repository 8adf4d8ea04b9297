/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: statistics. */
#include <string.h>

#include "backlog/backlog.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "resil/histogram.h"
#include "sync/role.h"

int gorge_stats_read(gorge_cache *cache, struct gorge_stats *out) {
  memset(out, 0, sizeof *out);
  uint64_t now_ms = gorge_clock_ms();
  gorge_zone_sum_counters(cache->zone, cache->ns, out->counters);
  for (int i = 0; i < GORGE_HISTOGRAMS; i++) {
    gorge_zone_sum_histogram(cache->zone, cache->ns, i, out->histograms[i]);
  }
  struct gorge_l1_usage usage;
  gorge_l1_usage(cache->zone, &usage);
  out->entries = usage.entries;
  out->bytes_used = usage.bytes_used;
  out->bytes_total = usage.bytes_total;
  out->zone_size = cache->zone->size;
  out->flights = gorge_flight_count(cache->zone);
  out->workers = gorge_owner_count(cache->zone);
  out->epoch = __atomic_load_n(&cache->words->epoch, __ATOMIC_RELAXED); /* for people: no order needed */
  out->breaker = gorge_breaker_state(cache->breaker);
  out->breaker_opens = __atomic_load_n(&cache->breaker->opens, __ATOMIC_RELAXED);
  out->redis_state = cache->has_redis ? GORGE_CONN_DOWN : 9;
  out->queued = gorge_backlog_count(cache->zone, cache->ns);
  bool held;
  uint64_t lag_ms = gorge_control_lag(cache->zone, cache->ns, now_ms, &held);
  out->lag_ms = lag_ms == UINT64_MAX ? -1.0 : (double)lag_ms;
  out->subscribed = held && lag_ms <= cache->freshness_bound_ms &&
                    gorge_role_taken(gorge_zone_subscriber_role(cache->zone, cache->ns), now_ms);
  if (cache->generation == gorge_process_generation() && cache->l2 != NULL) {
    const struct gorge_conn *conn = gorge_l2_conn(cache->l2);
    out->redis_state = gorge_conn_state(conn);
    out->redis_pending = gorge_conn_pending(conn);
    strncpy(out->redis_reason, gorge_conn_reason(conn), sizeof out->redis_reason - 1);
  }
  return GORGE_OK;
}

double gorge_histogram_bound_us(uint32_t bucket) {
  return bucket >= GORGE_HISTOGRAM_BUCKETS - 1 ? -1.0 : (double)gorge_histogram_bound(bucket);
}

double gorge_histogram_quantile_us(const uint64_t *buckets, double q) { return gorge_histogram_quantile(buckets, q); }
