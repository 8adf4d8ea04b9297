/* SPDX-License-Identifier: MIT */
/* gorge_hash, compiled into its caller: for who hashes a key on every read. */
#ifndef GORGE_BASE_HASH_INLINE_H
#define GORGE_BASE_HASH_INLINE_H

#include "base/hash.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static inline uint64_t gorge_hash_inline(const void *ptr, size_t len, uint64_t seed) {
  return XXH3_64bits_withSeed(ptr, len, seed);
}

#endif
