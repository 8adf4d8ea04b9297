/* SPDX-License-Identifier: MIT */
/* What the real L1 is held against: the most that any cache of a size can hit, and a simple policy of good name. */
#ifndef GORGE_BENCH_TRACE_PEERS_H
#define GORGE_BENCH_TRACE_PEERS_H

#include <stddef.h>
#include <stdint.h>

/* Keys are dense, 0..keys-1; sizes[key] >= 1, in the unit of the capacity. */
struct trace {
  uint32_t *key, *size; /* key of each request, size of each key */
  size_t requests;
  uint32_t keys;
};

struct hits {
  uint64_t requests, bytes;
};

/* Belady: what is used again last goes first, and may go at once. The optimum for sizes that are equal. */
struct hits peer_optimum(const struct trace *t, uint64_t capacity);
/* S3-FIFO as published: a tenth for new entries, a history as long as the rest holds, two bits. */
struct hits peer_s3fifo(const struct trace *t, uint64_t capacity);

#endif
