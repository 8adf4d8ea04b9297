/* SPDX-License-Identifier: MIT */
#include "l1/ghost.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

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

/* Which places hold a fingerprint: of two bits for each place the lower tells. */
static uint64_t match(const struct gorge_ghost_bucket *b, uint32_t want) {
#ifdef __SSE2__
  const __m128i *at = (const __m128i *)(const void *)b;
  const __m128i high = _mm_set1_epi16((short)(want << 4)), mask = _mm_set1_epi16((short)0xfff0);
  uint64_t found = 0;
  for (int i = 0; i < 4; i++) {
    __m128i equal = _mm_cmpeq_epi16(_mm_and_si128(_mm_load_si128(&at[i]), mask), high);
    found |= (uint64_t)(uint32_t)_mm_movemask_epi8(equal) << (16 * i);
  }
  return found & 0x1555555555555555U; /* not `next` */
#else
  uint64_t found = 0;
  for (int i = 0; i < GORGE_GHOST_WAYS; i++) {
    found |= (uint64_t)(b->what[i] >> 4 == want) << (2 * i);
  }
  return found;
#endif
}

uint32_t gorge_ghost_take(const struct gorge_shard *v, uint64_t hash) {
  struct gorge_ghost_bucket *b = gorge_ghost_bucket(v, hash);
  uint64_t found = match(b, fingerprint(hash));
  if (found == 0) {
    return 0;
  }
  uint16_t *what = &b->what[__builtin_ctzll(found) / 2];
  uint32_t f = *what & 15;
  *what = 0;
  return f;
}
