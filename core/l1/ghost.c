/* SPDX-License-Identifier: MIT */
#include "l1/ghost.h"

/* Other bits than those that choose the bucket. */
static uint32_t fingerprint(uint64_t hash) {
  uint32_t f = (uint32_t)(hash >> 52);
  return f != 0 ? f : 1;
}

void gorge_ghost_put(const struct gorge_shard *v, uint64_t hash, uint32_t f) {
  struct gorge_ghost_bucket *b = gorge_ghost_bucket(v, hash);
  uint32_t at = b->next % GORGE_GHOST_WAYS;
  b->what[at] = (uint16_t)(fingerprint(hash) << 4 | (f & 15));
  b->next = (uint16_t)(at + 1);
}

uint32_t gorge_ghost_take(const struct gorge_shard *v, uint64_t hash) {
  struct gorge_ghost_bucket *b = gorge_ghost_bucket(v, hash);
  uint32_t want = fingerprint(hash);
  uint32_t found = 0; /* one bit each, without a branch: most keys are not there */
  for (int i = 0; i < GORGE_GHOST_WAYS; i++) {
    found |= (uint32_t)(b->what[i] >> 4 == want) << i;
  }
  if (found == 0) {
    return 0;
  }
  uint16_t *what = &b->what[__builtin_ctz(found)];
  uint32_t f = *what & 15;
  *what = 0;
  return f;
}
