/* SPDX-License-Identifier: MIT */
#include "l1/adapt.h"

#include <math.h>

#include "l1/log.h"

enum {
  PERIOD_ENTRIES = 2,
  PERIOD_MIN = 256,
  MIN_SHARE = 100, /* of the area */
  MIN_ENTRIES = 4,
  MIN_ENTRIES_SHARE = 10,
  WORTH_SHARE = 500
};
static const double GAIN = 0.01, STEP_MAX = 0.3, MAX_SHARE = 0.8;

static double least(const struct gorge_shard *v) {
  double area = v->area_units, entries = (double)v->shared->entries;
  double used = (double)(gorge_log_used(v, GORGE_RING_SMALL) + gorge_log_used(v, GORGE_RING_MAIN));
  double some = entries > 0 ? MIN_ENTRIES * used / entries : 0;
  some = some < area / MIN_ENTRIES_SHARE ? some : area / MIN_ENTRIES_SHARE;
  return some > area / MIN_SHARE ? some : area / MIN_SHARE;
}

static void move_target(const struct gorge_shard *v, struct gorge_l1_header *all, double small, double main) {
  double area = v->area_units, target = (double)__atomic_load_n(&all->small_units, __ATOMIC_RELAXED);
  if (target <= 0 || target >= area) {
    target = area / MIN_ENTRIES_SHARE; /* not what was written */
  }
  double step = GAIN * (log((small + 0.5) / target) - log((main + 0.5) / (area - target)));
  step = step > STEP_MAX ? STEP_MAX : step < -STEP_MAX ? -STEP_MAX : step;
  target += step * area;
  target = target > MAX_SHARE * area ? MAX_SHARE * area : target;
  target = target < least(v) ? least(v) : target;
  /* relaxed: a number on its own. */
  __atomic_store_n(&all->small_units, (uint32_t)target, __ATOMIC_RELAXED);
}

void gorge_adapt_share(const struct gorge_shard *v) {
  struct gorge_l1_header *all = gorge_l1_header(v->zone);
  struct gorge_l1_shard *s = v->shared;
  uint64_t period = PERIOD_ENTRIES * s->entries * all->shards;
  period = period > PERIOD_MIN ? period : PERIOD_MIN;
  /* All relaxed: counts on their own; the shards' locks do not order them. */
  for (int ring = 0; ring < GORGE_RINGS; ring++) {
    __atomic_fetch_add(&all->hits[ring], s->hits[ring], __ATOMIC_RELAXED);
    s->hits[ring] = 0;
  }
  uint64_t misses = __atomic_add_fetch(&all->misses, s->misses, __ATOMIC_RELAXED);
  s->misses = 0;
  /* Who takes the misses moves the target. */
  if (misses >= period &&
      __atomic_compare_exchange_n(&all->misses, &misses, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    double small = (double)__atomic_exchange_n(&all->hits[GORGE_RING_SMALL], 0, __ATOMIC_RELAXED);
    double main = (double)__atomic_exchange_n(&all->hits[GORGE_RING_MAIN], 0, __ATOMIC_RELAXED);
    move_target(v, all, small, main);
  }
  /* The border is not moved for less than is worth it. */
  uint64_t target = __atomic_load_n(&all->small_units, __ATOMIC_RELAXED), end = gorge_log_small_end(v);
  uint64_t away = target > end ? target - end : end - target;
  s->small_wanted = (uint32_t)(away < v->area_units / WORTH_SHARE || target >= v->area_units ? end : target);
}
