/* SPDX-License-Identifier: MIT */
/*
 * The history of a shard: how often what was evicted had been asked for. Three slots for each entry of the size that
 * the index is made for, in cache lines of 21 slots:
 *
 *    0                         42           63
 *   | 21 x fingerprint:12 | f:4 | 21 x age:8 | 0 |
 *
 * A slot is free when its first half is 0 (a fingerprint is never 0). Ages count in 48ths of the shard's entries that were
 * evicted since; what is older than three times the entries is no longer known. For the holder of the shard's lock.
 */
#ifndef GORGE_L1_GHOST_H
#define GORGE_L1_GHOST_H

#include "l1/shard.h"

enum { GORGE_GHOST_WAYS = 21, GORGE_GHOST_PER_ENTRY = 3 };

struct gorge_ghost_bucket {
  uint16_t what[GORGE_GHOST_WAYS];
  uint8_t age[GORGE_GHOST_WAYS];
  uint8_t zero;
};
_Static_assert(sizeof(struct gorge_ghost_bucket) == GORGE_L1_LINE, "a bucket of the history is a cache line");

/* Remembers f (0..15) of an evicted key. */
void gorge_ghost_put(const struct gorge_shard *v, uint64_t hash, uint32_t f);
/* Returns the f of a key and forgets it; 0: not known. */
uint32_t gorge_ghost_take(const struct gorge_shard *v, uint64_t hash);

#endif
