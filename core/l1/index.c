/* SPDX-License-Identifier: MIT */
#include "l1/index.h"

/* Free slots in the first bucket for which the second is not asked: readers look there first, and the index gets as full as without. */
enum { ROOM = 4 };

/* All loads are relaxed: only the holder of the lock changes more than the frequency bits. */
static uint64_t load(const uint64_t *slot) { return __atomic_load_n(slot, __ATOMIC_RELAXED); }

uint64_t *gorge_index_at(const struct gorge_shard *v, uint64_t hash, int ring, uint64_t offset) {
  uint64_t want = gorge_slot_word(hash, ring, 0, offset);
  for (int choice = 0; choice < 2; choice++) {
    uint64_t *bucket = gorge_index_bucket(v, hash, choice);
    uint32_t match = gorge_index_match(bucket, gorge_hash_fingerprint(hash));
    for (; match != 0; match = gorge_match_rest(match)) {
      uint64_t *slot = &bucket[gorge_match_first(match)];
      if (gorge_slot_identity(load(slot)) == want) {
        return slot;
      }
    }
  }
  return NULL;
}

uint64_t *gorge_index_vacant(const struct gorge_shard *v, uint64_t hash) {
  uint64_t *one = gorge_index_bucket(v, hash, 0), *two = gorge_index_bucket(v, hash, 1);
  uint32_t free_one = gorge_index_match(one, 0), free_two = gorge_index_match(two, 0);
  if (gorge_match_count(free_one) >= ROOM || gorge_match_count(free_one) >= gorge_match_count(free_two)) {
    return free_one != 0 ? &one[gorge_match_first(free_one)] : NULL;
  }
  return &two[gorge_match_first(free_two)];
}

uint64_t *gorge_index_weakest(const struct gorge_shard *v, uint64_t hash) {
  uint64_t *weakest = NULL;
  uint32_t least = UINT32_MAX;
  for (int choice = 0; choice < 2; choice++) {
    uint64_t *bucket = gorge_index_bucket(v, hash, choice);
    for (int i = 0; i < GORGE_BUCKET_SLOTS; i++) {
      uint64_t word = load(&bucket[i]);
      uint32_t strength = gorge_slot_freq(word) * GORGE_RINGS + (uint32_t)gorge_slot_ring(word);
      if (gorge_slot_passed(v->shared, word)) {
        return &bucket[i];
      }
      if (strength < least) {
        least = strength;
        weakest = &bucket[i];
      }
    }
  }
  return weakest;
}
