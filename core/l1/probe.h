/* SPDX-License-Identifier: MIT */
/* How a reader finds a key, and finds out afterwards whether what it copied was the entry: see the head of read.c. */
#ifndef GORGE_L1_PROBE_H
#define GORGE_L1_PROBE_H

#include "l1/entry.h"
#include "l1/index.h"
#include "l1/stamps.h"

enum { GORGE_PROBE_ATTEMPTS = 8 };

/* One function of the whole way: what lies between would go through memory. */
#define GORGE_HOT static inline __attribute__((always_inline))

/* What was found for a key, not yet known to be whole. */
struct gorge_probe {
  const uint64_t *slot;
  uint64_t word;
  const uint32_t *at;
  uint64_t limit; /* units from `at` that lie within the area */
  struct gorge_head head;
};

enum gorge_verdict { GORGE_PROBE_VALID, GORGE_PROBE_OTHER, GORGE_PROBE_CHANGED, GORGE_PROBE_GONE };

/* Whether all that was copied since the slot was loaded is the entry. OTHER: the slot leads nowhere. GONE: nobody may see it. */
GORGE_HOT enum gorge_verdict gorge_probe_judge(const struct gorge_shard *v, const struct gorge_probe *p) {
  const struct gorge_l1_shard *s = v->shared;
  /* acquire: partner of the release fence in gorge_log_begin. */
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  /* relaxed, all three: ordered by the fence. */
  uint64_t tail = __atomic_load_n(&s->tail[gorge_slot_ring(p->word)], __ATOMIC_RELAXED);
  uint64_t fence = __atomic_load_n(&s->fence, __ATOMIC_RELAXED);
  uint64_t word = __atomic_load_n(p->slot, __ATOMIC_RELAXED);
  bool passed;
  uint64_t offset = gorge_slot_offset(p->word, tail, &passed);
  if (gorge_slot_identity(word) != gorge_slot_identity(p->word)) {
    return GORGE_PROBE_CHANGED;
  }
  if (passed || gorge_head_check(&p->head) != gorge_offset_check(offset)) {
    return GORGE_PROBE_OTHER;
  }
  return gorge_head_epoch(&p->head) == (uint8_t)gorge_fence_epoch(fence) ? GORGE_PROBE_VALID : GORGE_PROBE_GONE;
}

/* Whether the slot's entry seems to be that of the key. */
GORGE_HOT bool gorge_probe_slot(const struct gorge_shard *v, const struct gorge_key *key, const uint64_t *slot,
                                struct gorge_probe *p) {
  p->slot = slot;
  /* acquire: partner of the release in gorge_index_publish and of the CAS in evict.c. */
  p->word = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
  uint64_t position = gorge_shard_position(v, p->word);
  if (position + GORGE_HEAD_UNITS > v->area_units) {
    p->head = (struct gorge_head){{0}};
    return false;
  }
  p->at = v->area + position;
  p->limit = v->area_units - position;
  __builtin_prefetch(p->at + GORGE_L1_LINE / GORGE_L1_UNIT);
  __builtin_prefetch(p->at + 2 * (GORGE_L1_LINE / GORGE_L1_UNIT));
  p->head = gorge_head_load(p->at);
  return gorge_head_of_key(&p->head, key->len, key->ns) && gorge_head_value_at(&p->head) <= p->limit &&
         gorge_relaxed_equal(p->at + GORGE_HEAD_UNITS, key->ptr, key->len);
}

/*
 * Finds the slot of a key. Returns VALID (the header and key are its, when the slot was loaded), GONE (no such key), or
 * CHANGED (look again).
 */
GORGE_HOT enum gorge_verdict gorge_probe_find(const struct gorge_shard *v, const struct gorge_key *key,
                                              struct gorge_probe *p) {
  uint32_t fingerprint = gorge_hash_fingerprint(key->hash);
  const uint64_t *bucket = gorge_index_bucket(v, key->hash, 0), *other = gorge_index_bucket(v, key->hash, 1);
  __builtin_prefetch(other);
  for (int choice = 0; choice < 2; choice++, bucket = other) {
    uint32_t match = gorge_index_match(bucket, fingerprint);
    for (; match != 0; match = gorge_match_rest(match)) {
      if (gorge_probe_slot(v, key, &bucket[gorge_match_first(match)], p)) {
        return GORGE_PROBE_VALID;
      }
      if (gorge_probe_judge(v, p) == GORGE_PROBE_CHANGED) {
        return GORGE_PROBE_CHANGED;
      }
    }
  }
  return GORGE_PROBE_GONE;
}

/* Whether entry and key are of the namespace's epoch. The bits in the entry alone come round again after 256 epochs. */
GORGE_HOT bool gorge_probe_epoch_current(const struct gorge_words *words, const struct gorge_probe *p,
                                         const struct gorge_key *key) {
  /* acquire: partner of the release additions in stamps.c. */
  uint32_t epoch = gorge_global_epoch(__atomic_load_n(&words->global, __ATOMIC_ACQUIRE));
  return gorge_head_ns_epoch(&p->head) == (uint8_t)epoch && gorge_global_epoch(key->global) == epoch;
}

#endif
