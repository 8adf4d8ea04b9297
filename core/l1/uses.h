/* SPDX-License-Identifier: MIT */
/*
 * Which keys are used most, for people. L1's own frequencies end at a few uses; so each worker keeps the slots of some of its latest
 * hits beside its counters: a hit whose number draws one of a few words stores the address of its slot there, all others store theirs
 * in a word that nobody reads: one store for a hit, without a branch. A word is renewed every 256 hits. Who looks on reads the
 * words often; what they lead to is checked like any other slot.
 */
#ifndef GORGE_L1_USES_H
#define GORGE_L1_USES_H

#include "l1/shard.h"

enum { GORGE_RECENT_WORDS = GORGE_COUNTERS - GORGE_COUNT_RECENT - 1, GORGE_RECENT_SHIFT = 56 };
/* As in lua/gorge/ffi/l0.lua. */
static const uint64_t GORGE_RECENT_MIX = UINT64_C(0x9E3779B97F4A7C15);

/* Keeps the slot of the hit with that number, perhaps. */
static inline void gorge_l1_recent(uint64_t *counters, uint64_t number, const uint64_t *slot) {
  uint64_t drawn = number * GORGE_RECENT_MIX >> GORGE_RECENT_SHIFT;
  /* relaxed: for people; whose words they are, only that worker's main thread writes them. */
  __atomic_store_n(&counters[GORGE_COUNT_RECENT + (drawn < GORGE_RECENT_WORDS ? drawn : GORGE_RECENT_WORDS)],
                   (uint64_t)(uintptr_t)slot, __ATOMIC_RELAXED);
}

/* See gorge_visit_uses and gorge_visit_frequent. */
uint32_t gorge_l1_uses(const struct gorge_zone *zone, struct gorge_uses_cursor *cursor, uint64_t now_ms,
                       struct gorge_hot *out, uint32_t max);
uint32_t gorge_l1_frequent(const struct gorge_zone *zone, uint64_t *cursor, uint64_t slots, uint64_t now_ms,
                           struct gorge_hot *out, uint32_t max);

/* What the slot leads to: everything of *out but its hits. Returns false when that is nothing that a read could find. read.c */
bool gorge_l1_entry(const struct gorge_shard *v, const uint64_t *slot, uint64_t now_ms, struct gorge_hot *out);

#endif
