/* SPDX-License-Identifier: MIT */
/*
 * The history of a shard: how often what was evicted had been asked for. Three places for each entry of the size that
 * the index is made for, in cache lines of 31 places that are used in turn:
 *
 *    0                                62
 *   | 31 x fingerprint:12, f:4        | next |
 *
 * A place is free when it is 0 (a fingerprint is never 0). For the holder of the shard's lock.
 */
#ifndef GORGE_L1_GHOST_H
#define GORGE_L1_GHOST_H

#include "l1/shard.h"

enum { GORGE_GHOST_WAYS = 31, GORGE_GHOST_PER_ENTRY = 3 };

struct gorge_ghost_bucket {
  uint16_t what[GORGE_GHOST_WAYS];
  uint16_t next;
};
_Static_assert(sizeof(struct gorge_ghost_bucket) == GORGE_L1_LINE, "a bucket of the history is a cache line");

static inline struct gorge_ghost_bucket *gorge_ghost_bucket(const struct gorge_shard *v, uint64_t hash) {
  uint32_t h = (uint32_t)hash * 0x85EBCA6BU;
  uint64_t *first = v->slots + (uint64_t)v->buckets * GORGE_BUCKET_SLOTS;
  return (struct gorge_ghost_bucket *)(void *)first + ((uint64_t)h * v->l1->ghost_buckets >> 32);
}

/* Remembers f (0..15) of an evicted key. */
void gorge_ghost_put(const struct gorge_shard *v, uint64_t hash, uint32_t f);
/* Returns the f of a key and forgets it; 0: not known. */
uint32_t gorge_ghost_take(const struct gorge_shard *v, uint64_t hash);

#endif
