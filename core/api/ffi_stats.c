/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: statistics. */
#include "api/stats.h"

#include <stdio.h>
#include <string.h>

#include "backlog/backlog.h"
#include "base/clock.h"
#include "drive/master.h"
#include "engine/engine.h"
#include "l1/uses.h"
#include "resil/breakers.h"
#include "resil/histogram.h"
#include "sync/permits.h"
#include "sync/role.h"

void gorge_stats_zone(const struct gorge_zone *zone, uint32_t ns, struct gorge_stats *out) {
  uint64_t now_ms = gorge_clock_ms();
  const struct gorge_words *words = gorge_zone_words(zone, ns);
  const struct gorge_breaker_words *breaker = gorge_zone_breaker(zone, ns);
  struct gorge_l1_usage usage;
  memset(out, 0, sizeof *out);
  gorge_zone_sum_counters(zone, ns, out->counters);
  for (int i = 0; i < GORGE_HISTOGRAMS; i++) {
    gorge_zone_sum_histogram(zone, ns, i, out->histograms[i]);
  }
  gorge_l1_usage(zone, &usage);
  out->entries = usage.entries;
  out->bytes_used = usage.bytes_used;
  out->bytes_total = usage.bytes_total;
  out->zone_size = zone->size;
  out->flights = gorge_flight_count(zone);
  out->workers = gorge_owner_count(zone);
  /* for people, all three: no order needed */
  out->epoch = __atomic_load_n(&words->epoch, __ATOMIC_RELAXED);
  out->breaker_opens = __atomic_load_n(&breaker->opens, __ATOMIC_RELAXED);
  uint64_t fresh_until_ms = __atomic_load_n(&words->fresh_until_ms, __ATOMIC_RELAXED);
  enum gorge_breaker_state nodes = gorge_breakers_state(gorge_zone_breakers(zone), ns, now_ms);
  out->breaker = nodes == GORGE_BREAKER_CLOSED ? gorge_breaker_state(breaker) : nodes;
  out->queued = gorge_backlog_count(zone, ns);
  bool held;
  uint64_t lag_ms = gorge_control_lag(zone, ns, now_ms, &held);
  out->lag_ms = lag_ms == UINT64_MAX ? -1.0 : (double)lag_ms;
  /* While contact is held, L1 answers until freshness_bound after it was last confirmed. */
  out->subscribed = held && now_ms <= fresh_until_ms && gorge_role_taken(gorge_zone_subscriber_role(zone, ns), now_ms);
}

/* The state of the connection that is best off. */
static void read_connections(gorge_cache *cache, struct gorge_stats *out) {
  for (uint32_t i = 0; i < gorge_l2_nodes(cache->l2); i++) {
    const struct gorge_conn *conn = gorge_l2_node_conn(cache->l2, i);
    uint32_t state = gorge_conn_state(conn);
    out->redis_state = state > out->redis_state ? state : out->redis_state;
    out->redis_pending += gorge_conn_pending(conn);
  }
  if (out->redis_state != GORGE_CONN_READY) {
    strncpy(out->redis_reason, gorge_nodes_reason(cache->l2), sizeof out->redis_reason - 1);
  } else {
    gorge_redis_trouble(cache, out->redis_reason, sizeof out->redis_reason);
  }
}

int gorge_stats_read(gorge_cache *cache, struct gorge_stats *out) {
  gorge_stats_zone(cache->zone, cache->ns, out);
  out->origin_breaker = gorge_breaker_state(cache->origin_breaker);
  out->origin_running = gorge_permits_count(cache->zone, cache->ns);
  out->redis_state = cache->has_redis ? GORGE_CONN_DOWN : GORGE_STATS_NO_REDIS;
  if (cache->generation == gorge_process_generation() && cache->l2 != NULL) {
    read_connections(cache, out);
  }
  if (cache->sentinels != NULL) {
    gorge_master_text(gorge_zone_master(cache->zone, cache->ns), out->master, sizeof out->master);
  }
  return GORGE_OK;
}

int gorge_redis_trouble(const gorge_cache *cache, char *text, uint32_t size) {
  if (!cache->troubled || size == 0) {
    return 0;
  }
  snprintf(text, size, "%s", cache->trouble);
  return 1;
}

uint32_t gorge_uses_read(gorge_cache *cache, struct gorge_uses_cursor *cursor, struct gorge_hot *out, uint32_t max) {
  uint32_t count = gorge_l1_uses(cache->zone, cursor, gorge_clock_ms(), out, max), mine = 0;
  for (uint32_t i = 0; i < count; i++) {
    if (out[i].ns == cache->ns) {
      out[mine++] = out[i];
    }
  }
  return mine;
}

double gorge_histogram_bound_us(uint32_t bucket) {
  return bucket >= GORGE_HISTOGRAM_BUCKETS - 1 ? -1.0 : (double)gorge_histogram_bound(bucket);
}

double gorge_histogram_quantile_us(const uint64_t *buckets, double q) { return gorge_histogram_quantile(buckets, q); }
