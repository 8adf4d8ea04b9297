/* SPDX-License-Identifier: MIT */
#include "base/hash.h"

#include <errno.h>
#include <sys/random.h>

#include "base/status.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t gorge_hash(const void *ptr, size_t len, uint64_t seed) { return XXH3_64bits_withSeed(ptr, len, seed); }

int gorge_random(void *ptr, size_t len) {
  char *at = ptr;
  while (len > 0) {
    ssize_t n = getrandom(at, len, 0);
    if (n < 0) {
      if (errno == EINTR) {
        continue;
      }
      return GORGE_ERR_SYSTEM;
    }
    at += n;
    len -= (size_t)n;
  }
  return GORGE_OK;
}
