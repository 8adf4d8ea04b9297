/* SPDX-License-Identifier: MIT */
/*
 * The index of a shard: buckets of eight slots, each entry in one of the two buckets that its hash names.
 *
 *   hash   63           48 47       32 31            0
 *         | fingerprint   |   shard   |   buckets     |
 *
 * Slots are read by anybody; they are changed by the holder of the shard's lock, but for the frequency bits, which
 * readers raise: hence by exchange or CAS only.
 */
#ifndef GORGE_L1_INDEX_H
#define GORGE_L1_INDEX_H

#include "l1/shard.h"

static inline uint32_t gorge_hash_shard(uint64_t hash, uint32_t shards) {
  return (uint32_t)(hash >> 32) & (shards - 1);
}

/* Never 0: a slot in use is never 0. */
static inline uint64_t gorge_hash_fingerprint(uint64_t hash) {
  uint64_t f = hash >> GORGE_SLOT_TAG_BIT;
  return f + (f == 0);
}

static inline uint64_t *gorge_index_bucket(const struct gorge_shard *v, uint64_t hash, int choice) {
  uint32_t h = (uint32_t)hash * (choice == 0 ? 1U : 0x9E3779B1U);
  return v->slots + ((uint64_t)h * v->buckets >> 32) * GORGE_BUCKET_SLOTS;
}

static inline int gorge_slot_ring(uint64_t word) { return (int)(word >> GORGE_SLOT_RING_BIT & 1); }
static inline uint32_t gorge_slot_freq(uint64_t word) {
  return (uint32_t)(word >> GORGE_SLOT_FREQ_BIT) & GORGE_FREQ_MAX;
}
static inline uint64_t gorge_slot_identity(uint64_t word) { return word & ~GORGE_SLOT_FREQ; }
static inline uint64_t gorge_slot_word(uint64_t hash, int ring, uint32_t freq, uint64_t offset) {
  return gorge_hash_fingerprint(hash) << GORGE_SLOT_TAG_BIT | (uint64_t)freq << GORGE_SLOT_FREQ_BIT |
         (uint64_t)ring << GORGE_SLOT_RING_BIT | (offset & GORGE_SLOT_OFFSET);
}

/*
 * The whole logical offset that a slot word stands for, given the ring's tail: at most half the range of its bits away.
 * One below the tail comes out with *passed set.
 */
static inline uint64_t gorge_slot_offset(uint64_t word, uint64_t tail, bool *passed) {
  uint64_t ahead = (word - tail) & GORGE_SLOT_OFFSET;
  *passed = ahead >> (GORGE_SLOT_RING_BIT - 1) != 0;
  return tail + ahead;
}

/* Whether the slot may be used anew. Exact for the holder of the lock. */
static inline bool gorge_slot_free(const struct gorge_l1_shard *s, uint64_t word) {
  bool passed;
  /* relaxed: only the holder of the lock moves it. */
  gorge_slot_offset(word, __atomic_load_n(&s->tail[gorge_slot_ring(word)], __ATOMIC_RELAXED), &passed);
  return word == 0 || passed;
}

/* Which slots of a bucket carry the fingerprint, one bit each. */
static inline uint32_t gorge_index_match(const uint64_t *bucket, uint64_t fingerprint) {
  uint32_t match = 0;
  for (int i = 0; i < GORGE_BUCKET_SLOTS; i++) {
    /* relaxed: who follows a slot loads it again with acquire. */
    match |= (uint32_t)(__atomic_load_n(&bucket[i], __ATOMIC_RELAXED) >> GORGE_SLOT_TAG_BIT == fingerprint) << i;
  }
  return match;
}

/* --- holder of the lock --- */

/* The slot that holds the entry of `hash` at a ring's offset, or NULL: nothing leads to that entry any more. */
uint64_t *gorge_index_at(const struct gorge_shard *v, uint64_t hash, int ring, uint64_t offset);
/* Empties those slots of both buckets whose entries lie before the tail. */
void gorge_index_sweep(const struct gorge_shard *v, uint64_t hash);
/* A free slot in the emptier bucket, or NULL. */
uint64_t *gorge_index_vacant(const struct gorge_shard *v, uint64_t hash);
/* The slot of both buckets that was asked for least. */
uint64_t *gorge_index_weakest(const struct gorge_shard *v, uint64_t hash);

/* Empties a slot. Returns what it held. From now on no L0 record of it is valid. */
static inline uint64_t gorge_index_clear(uint64_t *slot) {
  /* release: partner of the acquire fence in read.c; a reader that sees what is written into the space later sees this too. */
  return __atomic_exchange_n(slot, 0, __ATOMIC_RELEASE);
}

/* Makes a slot lead to a new entry, whatever it held. */
static inline void gorge_index_publish(uint64_t *slot, uint64_t word) {
  /* release: partner of the acquire load of the slot in read.c; the entry's bytes are seen by who sees the word. */
  __atomic_exchange_n(slot, word, __ATOMIC_RELEASE);
}

#endif
