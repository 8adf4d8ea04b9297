/* SPDX-License-Identifier: MIT */
/*
 * Latency histogram: log-linear buckets of microseconds, GORGE_HISTOGRAM_BUCKETS counters in shared memory and behind them
 * the sum of all observations; written by one worker, read by anybody. Four buckets per power of two from 4 us up (relative
 * error at most 25 %); the first one takes all below 4 us, the last one all above the others: from 41.9 s on.
 *
 * All are relaxed atomics: a reader sees each of them whole, and what they tell together somewhere between before and now.
 */
#ifndef GORGE_RESIL_HISTOGRAM_H
#define GORGE_RESIL_HISTOGRAM_H

#include <stdint.h>

#include "base/status.h"

/* `words` are GORGE_HISTOGRAM_WORDS; the functions below look at the buckets, which come first. */
void gorge_histogram_add(uint64_t *words, uint64_t us);
/* Upper bound (exclusive) in microseconds of bucket i; UINT64_MAX for the last. */
uint64_t gorge_histogram_bound(uint32_t i);
/*
 * The q-quantile (0..1, others are clamped) in microseconds by linear interpolation in its bucket; 0 when empty. In the
 * last bucket, which has no end, its lower bound: "at least that much".
 */
double gorge_histogram_quantile(const uint64_t *buckets, double q);

#endif
