/* SPDX-License-Identifier: MIT */
#include "resil/backoff.h"

void gorge_backoff_init(struct gorge_backoff *b, uint32_t base_ms, uint32_t cap_ms, uint64_t seed) {
  b->base_ms = base_ms;
  b->cap_ms = cap_ms > base_ms ? cap_ms : base_ms;
  b->attempt = 0;
  b->seed = seed;
}

/* splitmix64: every seed, also 0, gives a full-period sequence. */
static uint64_t next_random(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  return z ^ (z >> 31);
}

uint32_t gorge_backoff_next_ms(struct gorge_backoff *b) {
  if (b->attempt < 31) {
    b->attempt++;
  }
  uint64_t top = (uint64_t)b->base_ms << b->attempt;
  if (top > b->cap_ms) {
    top = b->cap_ms;
  }
  uint64_t span = top - b->base_ms + 1;
  return b->base_ms + (uint32_t)(next_random(&b->seed) % span);
}

void gorge_backoff_reset(struct gorge_backoff *b) { b->attempt = 0; }
