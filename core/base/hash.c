/* SPDX-License-Identifier: MIT */
#include "base/hash_inline.h"

#include <errno.h>
#include <sys/random.h>

#include "base/status.h"

uint64_t gorge_hash(const void *ptr, size_t len, uint64_t seed) { return gorge_hash_inline(ptr, len, seed); }

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
