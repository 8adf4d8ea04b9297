/* SPDX-License-Identifier: MIT */
/*
 * Stamp cells, generations of tags, and the epoch in a namespace's global word: outside the shards, single words that
 * only move forward, whoever dies in the middle of anything.
 *
 * The global word is  epoch:32 | changes:32.  The epoch is hashed into every key and stands in every entry, so that one
 * addition forgets a namespace, for L0, L1 and fills under way at the same time.
 */
#ifndef GORGE_L1_STAMPS_H
#define GORGE_L1_STAMPS_H

#include "l1/layout.h"

static const uint64_t GORGE_EPOCH_MIX = 0x9E3779B97F4A7C15U;

static inline uint32_t gorge_global_epoch(uint64_t global) { return (uint32_t)(global >> 32); }

/* The global word of a namespace. acquire: partner of the release additions in stamps.c and shard.c. */
static inline uint64_t gorge_stamps_global(const struct gorge_zone *zone, uint32_t ns) {
  return __atomic_load_n(&gorge_zone_words(zone, ns)->global, __ATOMIC_ACQUIRE);
}

/* The seed of the hash of a namespace's keys under an epoch. */
static inline uint64_t gorge_stamps_seed(const struct gorge_words *words, uint32_t epoch) {
  /* relaxed: written once, before the zone was published. */
  return __atomic_load_n(&words->salt, __ATOMIC_RELAXED) + epoch * GORGE_EPOCH_MIX;
}
/* The hash of a key of a namespace under an epoch. */
uint64_t gorge_stamps_hash(const struct gorge_words *words, const char *ptr, uint32_t len, uint32_t epoch);

/* The key as of now: itself, or *fresh, when the epoch has changed since it was made. */
const struct gorge_key *gorge_stamps_fresh(const struct gorge_zone *zone, const struct gorge_key *key,
                                           struct gorge_key *fresh);

uint32_t gorge_stamps_cell(const struct gorge_zone *zone, uint64_t hash);
/* Fetches a cell that will be bumped. */
void gorge_stamps_prefetch(const struct gorge_zone *zone, uint32_t cell);
/* hard:32 | soft:32 */
uint64_t gorge_stamps_changes(const struct gorge_zone *zone, uint32_t cell);
uint64_t gorge_stamps_floor(const struct gorge_zone *zone, uint32_t cell);
uint64_t gorge_stamps_newest(const struct gorge_zone *zone, uint32_t cell);
/* Raise what the name says. Return the cell's changes afterwards. */
uint64_t gorge_stamps_bump_hard(const struct gorge_zone *zone, uint32_t cell);
uint64_t gorge_stamps_bump_soft(const struct gorge_zone *zone, uint32_t cell);
uint64_t gorge_stamps_bump_both(const struct gorge_zone *zone, uint32_t cell);
void gorge_stamps_raise_floor(const struct gorge_zone *zone, uint32_t cell, uint64_t version);
void gorge_stamps_raise_newest(const struct gorge_zone *zone, uint32_t cell, uint64_t version);

uint32_t gorge_stamps_tag_cell(const struct gorge_zone *zone, uint32_t ns, const char *tag, uint32_t len);
uint64_t gorge_stamps_generation(const struct gorge_zone *zone, uint32_t tag_cell);
/* Whether all of a snapshot but its stamp cell is as it was. */
bool gorge_stamps_current(const struct gorge_zone *zone, uint32_t ns, const struct gorge_snapshot *s);

#endif
