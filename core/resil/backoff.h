/* SPDX-License-Identifier: MIT */
/*
 * Exponential backoff with full jitter: the n-th delay (n from 1) is uniform in [base, min(cap, base * 2^n)].
 * Deterministic from its seed. Plain memory of one thread.
 */
#ifndef GORGE_RESIL_BACKOFF_H
#define GORGE_RESIL_BACKOFF_H

#include <stdint.h>

struct gorge_backoff {
  uint32_t base_ms, cap_ms;
  uint32_t attempt; /* delays handed out since the last reset, counted to 31 */
  uint64_t seed;
};

/* cap_ms below base_ms counts as base_ms. */
void gorge_backoff_init(struct gorge_backoff *b, uint32_t base_ms, uint32_t cap_ms, uint64_t seed);
uint32_t gorge_backoff_next_ms(struct gorge_backoff *b);
/* The next delay is a first one again; the random sequence goes on. */
void gorge_backoff_reset(struct gorge_backoff *b);

#endif
