/* SPDX-License-Identifier: MIT */
#include "l1/index.h"

/* All loads are relaxed: only the holder of the lock changes more than the frequency bits. */
static uint64_t load(const uint64_t *slot) { return __atomic_load_n(slot, __ATOMIC_RELAXED); }

uint64_t *gorge_index_at(const struct gorge_shard *v, uint64_t hash, int ring, uint64_t offset) {
  uint64_t want = gorge_slot_word(hash, ring, 0, offset);
  for (int choice = 0; choice < 2; choice++) {
    uint64_t *bucket = gorge_index_bucket(v, hash, choice);
    for (int i = 0; i < GORGE_BUCKET_SLOTS; i++) {
      if (gorge_slot_identity(load(&bucket[i])) == want) {
        return &bucket[i];
      }
    }
  }
  return NULL;
}

void gorge_index_sweep(const struct gorge_shard *v, uint64_t hash) {
  for (int choice = 0; choice < 2; choice++) {
    uint64_t *bucket = gorge_index_bucket(v, hash, choice);
    for (int i = 0; i < GORGE_BUCKET_SLOTS; i++) {
      uint64_t word = load(&bucket[i]);
      if (word != 0 && gorge_slot_free(v->shared, word)) {
        gorge_index_clear(&bucket[i]);
      }
    }
  }
}

uint64_t *gorge_index_vacant(const struct gorge_shard *v, uint64_t hash) {
  uint64_t *best = NULL;
  int most = 0;
  for (int choice = 0; choice < 2; choice++) {
    uint64_t *bucket = gorge_index_bucket(v, hash, choice);
    uint64_t *first = NULL;
    int vacant = 0;
    for (int i = 0; i < GORGE_BUCKET_SLOTS; i++) {
      if (gorge_slot_free(v->shared, load(&bucket[i]))) {
        first = first == NULL ? &bucket[i] : first;
        vacant++;
      }
    }
    if (vacant > most) {
      most = vacant;
      best = first;
    }
  }
  return best;
}

uint64_t *gorge_index_weakest(const struct gorge_shard *v, uint64_t hash) {
  uint64_t *weakest = NULL;
  uint32_t least = UINT32_MAX;
  for (int choice = 0; choice < 2; choice++) {
    uint64_t *bucket = gorge_index_bucket(v, hash, choice);
    for (int i = 0; i < GORGE_BUCKET_SLOTS; i++) {
      uint64_t word = load(&bucket[i]);
      uint32_t strength = gorge_slot_freq(word) * GORGE_RINGS + (uint32_t)gorge_slot_ring(word);
      if (strength < least) {
        least = strength;
        weakest = &bucket[i];
      }
    }
  }
  return weakest;
}
