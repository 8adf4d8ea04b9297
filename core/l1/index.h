/* SPDX-License-Identifier: MIT */
/*
 * The index of a shard: buckets of eight slots, each entry in one of the two buckets that its hash names.
 *
 *   hash   63           48 47       32 31            0
 *         | fingerprint   |   shard   |   buckets     |
 *
 * Slots are read by anybody; they are changed by the holder of the shard's lock, but for the frequency bits, which
 * readers raise by CAS. So a word that keeps its entry is changed by CAS, too; one that does not is stored: a raise that
 * comes between is of the old entry, one that comes after it fails.
 */
#ifndef GORGE_L1_INDEX_H
#define GORGE_L1_INDEX_H

#include "l1/shard.h"

/* Never 0: a slot in use has no fingerprint 0. */
static inline uint32_t gorge_hash_fingerprint(uint64_t hash) {
  uint32_t f = (uint32_t)(hash >> GORGE_SLOT_TAG_BIT);
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
  uint64_t tag = gorge_hash_fingerprint(hash); /* 16 bits: fit above GORGE_SLOT_TAG_BIT */
  /* NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): the analyzer takes them for 32 */
  return tag << GORGE_SLOT_TAG_BIT | (uint64_t)freq << GORGE_SLOT_FREQ_BIT | (uint64_t)ring << GORGE_SLOT_RING_BIT |
         (offset & GORGE_SLOT_OFFSET);
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

/* Whether the slot leads to something before the tail, which is gone. Exact for the holder of the lock. */
static inline bool gorge_slot_passed(const struct gorge_l1_shard *s, uint64_t word) {
  bool passed;
  /* relaxed: only the holder of the lock moves it. */
  gorge_slot_offset(word, __atomic_load_n(&s->tail[gorge_slot_ring(word)], __ATOMIC_RELAXED), &passed);
  return passed;
}

/*
 * Which slots of a bucket carry a fingerprint; 0 finds the free ones. Of four bits for each slot the highest tells. A hint:
 * who follows a slot loads it again.
 */
static inline uint32_t gorge_index_match(const uint64_t *bucket, uint32_t fingerprint) {
#ifdef GORGE_RELAXED_SSE2
  /* The highest of the four 16-bit parts of a slot is its fingerprint. */
  const __m128i *at = (const __m128i *)(const void *)bucket, want = _mm_set1_epi16((short)fingerprint);
  __m128i a, b, c, d;
  /* In assembler, since what others write at the same time is no plain object to C. */
  __asm__ volatile("movdqa %1, %0" : "=x"(a) : "m"(at[0]));
  __asm__ volatile("movdqa %1, %0" : "=x"(b) : "m"(at[1]));
  __asm__ volatile("movdqa %1, %0" : "=x"(c) : "m"(at[2]));
  __asm__ volatile("movdqa %1, %0" : "=x"(d) : "m"(at[3]));
  a = _mm_packs_epi16(_mm_cmpeq_epi16(a, want), _mm_cmpeq_epi16(b, want));
  c = _mm_packs_epi16(_mm_cmpeq_epi16(c, want), _mm_cmpeq_epi16(d, want));
  return ((uint32_t)_mm_movemask_epi8(a) | (uint32_t)_mm_movemask_epi8(c) << 16) & 0x88888888U;
#else
  uint32_t match = 0;
  for (int i = 0; i < GORGE_BUCKET_SLOTS; i++) {
    /* relaxed: a hint. */
    uint64_t word = __atomic_load_n(&bucket[i], __ATOMIC_RELAXED);
    match |= (uint32_t)(word >> GORGE_SLOT_TAG_BIT == fingerprint) << (4 * i + 3);
  }
  return match;
#endif
}

/* The first slot of a match, and the match without it. */
static inline int gorge_match_first(uint32_t match) { return __builtin_ctz(match) / 4; }
static inline uint32_t gorge_match_rest(uint32_t match) { return match & (match - 1); }
static inline uint32_t gorge_match_count(uint32_t match) { return (match >> 3) * 0x11111111U >> 28; }

/* --- holder of the lock --- */

/* The slot that holds the entry of `hash` at a ring's offset, or NULL: nothing leads to that entry any more. */
uint64_t *gorge_index_at(const struct gorge_shard *v, uint64_t hash, int ring, uint64_t offset);
/* A free slot in the first bucket, if it has room, else in the emptier one; or NULL. */
uint64_t *gorge_index_vacant(const struct gorge_shard *v, uint64_t hash);
/* The slot of both buckets that was asked for least. */
uint64_t *gorge_index_weakest(const struct gorge_shard *v, uint64_t hash);

/* Empties a slot. From now on no L0 record of it is valid. */
static inline void gorge_index_clear(uint64_t *slot) {
  /* release: partner of the acquire fence in read.c; a reader that sees what is written into the space later sees this too. */
  __atomic_store_n(slot, 0, __ATOMIC_RELEASE);
}

/* Makes a slot lead to a new entry, whatever it held. */
static inline void gorge_index_publish(uint64_t *slot, uint64_t word) {
  /* release: partner of the acquire load of the slot in read.c; the entry's bytes are seen by who sees the word. */
  __atomic_store_n(slot, word, __ATOMIC_RELEASE);
}

#endif
