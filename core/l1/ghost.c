/* SPDX-License-Identifier: MIT */
#include "l1/ghost.h"

enum { TICKS_PER_ENTRIES = 48, AGE_MAX = GORGE_GHOST_PER_ENTRY * TICKS_PER_ENTRIES };
_Static_assert(AGE_MAX < 256, "an age fits its byte");

static struct gorge_ghost_bucket *bucket_of(const struct gorge_shard *v, uint64_t hash) {
  const struct gorge_l1_shard *s = v->shared;
  uint64_t size, bytes = (uint64_t)s->ghost_buckets * sizeof(struct gorge_ghost_bucket);
  char *region = gorge_zone_region(v->zone, GORGE_REGION_L1, &size);
  if (bytes == 0 || bytes > size || s->ghost_at > size - bytes || s->ghost_at % GORGE_L1_LINE != 0) {
    return NULL;
  }
  uint32_t h = (uint32_t)hash * 0x85EBCA6BU;
  return (struct gorge_ghost_bucket *)(region + s->ghost_at) + ((uint64_t)h * s->ghost_buckets >> 32);
}

/* Other bits than those that choose the bucket. */
static uint16_t fingerprint(uint64_t hash) {
  uint16_t f = (uint16_t)(hash >> 52);
  return f != 0 ? f : 1;
}

void gorge_ghost_put(const struct gorge_shard *v, uint64_t hash, uint32_t f) {
  struct gorge_l1_shard *s = v->shared;
  struct gorge_ghost_bucket *b = bucket_of(v, hash);
  if (b == NULL) {
    return;
  }
  if (++s->ghost_ticks > s->entries / TICKS_PER_ENTRIES) {
    s->ghost_ticks = 0;
    s->ghost_age++;
  }
  int at = 0, oldest = -1;
  for (int i = 0; i < GORGE_GHOST_WAYS; i++) {
    int age = b->what[i] == 0 ? 256 : (uint8_t)(s->ghost_age - b->age[i]);
    if (age > oldest) {
      oldest = age;
      at = i;
    }
  }
  b->what[at] = (uint16_t)(fingerprint(hash) << 4 | (f & 15));
  b->age[at] = (uint8_t)s->ghost_age;
}

uint32_t gorge_ghost_take(const struct gorge_shard *v, uint64_t hash) {
  struct gorge_ghost_bucket *b = bucket_of(v, hash);
  uint16_t want = fingerprint(hash);
  for (int i = 0; b != NULL && i < GORGE_GHOST_WAYS; i++) {
    if (b->what[i] >> 4 == want) {
      uint32_t f = b->what[i] & 15;
      bool known = (uint8_t)(v->shared->ghost_age - b->age[i]) <= AGE_MAX;
      b->what[i] = 0;
      return known ? f : 0;
    }
  }
  return 0;
}
