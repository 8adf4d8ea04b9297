/* SPDX-License-Identifier: MIT */
/*
 * How large the small ring is to be. Hits per byte are compared between the rings, and each 2 x entries misses the target
 * moves towards the ring that has more of them:
 *
 *   target += 0.01 x ln((hits in small / bytes of small) / (hits in main / bytes of main)) x area
 *
 * within 1 % (but at least four entries of the mean size, at most a tenth) and 80 % of the area. It is shared by all shards.
 *
 * Nothing is done on a hit. A hit is counted when eviction meets the frequency bits that it raised: those of an entry that
 * leaves small, and one for each that is passed over in main, or eight where the bits had reached their maximum: there some
 * hits of an entry went uncounted, in small few, since it does not stay there for long.
 *
 * For the holder of a shard's lock. Killed at any moment, some counts are lost or count twice.
 */
#ifndef GORGE_L1_ADAPT_H
#define GORGE_L1_ADAPT_H

#include "l1/shard.h"

enum { GORGE_SATURATED_HITS = 8 };

/* Tells the shard's counts to all, and learns the target. */
void gorge_adapt_share(const struct gorge_shard *v);

/* Counts a key that was stored and had not been there. */
static inline void gorge_adapt_missed(const struct gorge_shard *v) {
  struct gorge_l1_shard *s = v->shared;
  if (++s->misses > s->entries / 8 + 16) {
    gorge_adapt_share(v);
  }
}

/* Counts hits of an entry of small that leaves it with these bits. */
static inline void gorge_adapt_left_small(const struct gorge_shard *v, uint32_t freq) {
  v->shared->hits[GORGE_RING_SMALL] += freq;
}

/* Counts hits of an entry of main that is passed over with these bits. */
static inline void gorge_adapt_passed_over(const struct gorge_shard *v, uint32_t freq) {
  v->shared->hits[GORGE_RING_MAIN] += freq < GORGE_FREQ_MAX ? 1 : GORGE_SATURATED_HITS;
}

#endif
