/* SPDX-License-Identifier: MIT */
#include "resil/histogram.h"

enum { LAST = GORGE_HISTOGRAM_BUCKETS - 1, SUM = GORGE_HISTOGRAM_BUCKETS };

_Static_assert(SUM + 1 == GORGE_HISTOGRAM_WORDS, "the sum stands behind the buckets");

/*
 * Bucket 0 is [0, 4). Then 1 + 4 * (e - 2) + s for us with its highest bit at e and s = the two bits below it.
 */
static uint32_t bucket_of(uint64_t us) {
  if (us < 4) {
    return 0;
  }
  uint32_t e = 63U - (uint32_t)__builtin_clzll(us);
  uint32_t i = 1 + 4 * (e - 2) + (uint32_t)(us >> (e - 2) & 3);
  return i < LAST ? i : LAST;
}

static uint64_t lower_bound(uint32_t i) {
  if (i == 0) {
    return 0;
  }
  uint32_t e = (i - 1) / 4, s = (i - 1) % 4;
  return (uint64_t)(4 + s) << e;
}

/* relaxed, here and in gorge_histogram_quantile: counts on their own. */
void gorge_histogram_add(uint64_t *words, uint64_t us) {
  __atomic_fetch_add(&words[bucket_of(us)], 1, __ATOMIC_RELAXED);
  __atomic_fetch_add(&words[SUM], us,
                     __ATOMIC_RELAXED); /* a reader may see it without the count, or the other way round */
}

uint64_t gorge_histogram_bound(uint32_t i) { return i < LAST ? lower_bound(i + 1) : UINT64_MAX; }

double gorge_histogram_quantile(const uint64_t *buckets, double q) {
  uint64_t counts[GORGE_HISTOGRAM_BUCKETS];
  uint64_t total = 0;
  for (uint32_t i = 0; i <= LAST; i++) {
    /* relaxed: see gorge_histogram_add. */
    counts[i] = __atomic_load_n(&buckets[i], __ATOMIC_RELAXED);
    total += counts[i];
  }
  if (total == 0) {
    return 0;
  }
  q = q > 0 ? (q < 1 ? q : 1) : 0; /* a NaN becomes 0 */
  double rank = q * (double)total, below = 0;
  uint32_t found = 0;
  for (uint32_t i = 0; i <= LAST; i++) {
    if (counts[i] == 0) {
      continue;
    }
    found = i;
    if (below + (double)counts[i] >= rank) {
      break;
    }
    below += (double)counts[i];
  }
  double from = (double)lower_bound(found);
  if (found == LAST) {
    return from;
  }
  double part = (rank - below) / (double)counts[found];
  part = part > 0 ? (part < 1 ? part : 1) : 0;
  return from + ((double)gorge_histogram_bound(found) - from) * part;
}
