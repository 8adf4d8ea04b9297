/* SPDX-License-Identifier: MIT */
/*
 * Bytes in shared memory, copied as relaxed atomic words: a reader may race with a writer that reuses the space, and finds
 * out afterwards. Shared addresses are aligned to 4 bytes; 8-byte words are used where they are aligned to 8. All
 * accesses in here are relaxed; the fences and the slot word order them, see read.c and log.h.
 */
#ifndef GORGE_L1_RELAXED_H
#define GORGE_L1_RELAXED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The same memory is read as words of both sizes. */
typedef uint64_t __attribute__((may_alias)) gorge_shared64;
typedef uint32_t __attribute__((may_alias)) gorge_shared32;

static inline uint32_t gorge_relaxed_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void gorge_relaxed_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* Units of 4 bytes that `len` bytes take. */
static inline uint32_t gorge_units(uint32_t len) { return len / 4 + (len % 4 != 0); }

static inline bool gorge_odd_unit(const uint32_t *p) { return ((uintptr_t)p & 4) != 0; }

/* Copies `len` bytes out of shared memory. */
static inline void gorge_relaxed_read(char *dst, const uint32_t *src, uint32_t len) {
  if (len >= 4 && gorge_odd_unit(src)) {
    uint32_t w = gorge_relaxed_load32(src);
    memcpy(dst, &w, 4);
    src++, dst += 4, len -= 4;
  }
  for (; len >= 8; src += 2, dst += 8, len -= 8) {
    uint64_t w = __atomic_load_n((const gorge_shared64 *)src, __ATOMIC_RELAXED);
    memcpy(dst, &w, 8);
  }
  if (len >= 4) {
    uint32_t w = gorge_relaxed_load32(src);
    memcpy(dst, &w, 4);
    src++, dst += 4, len -= 4;
  }
  if (len > 0) {
    uint32_t w = gorge_relaxed_load32(src);
    memcpy(dst, &w, len);
  }
}

/* Copies `len` bytes into shared memory; what is left of the last unit becomes zero. */
static inline void gorge_relaxed_write(uint32_t *dst, const char *src, uint32_t len) {
  if (len >= 4 && gorge_odd_unit(dst)) {
    uint32_t w;
    memcpy(&w, src, 4);
    gorge_relaxed_store32(dst, w);
    dst++, src += 4, len -= 4;
  }
  for (; len >= 8; dst += 2, src += 8, len -= 8) {
    uint64_t w;
    memcpy(&w, src, 8);
    __atomic_store_n((gorge_shared64 *)dst, w, __ATOMIC_RELAXED);
  }
  if (len >= 4) {
    uint32_t w;
    memcpy(&w, src, 4);
    gorge_relaxed_store32(dst, w);
    dst++, src += 4, len -= 4;
  }
  if (len > 0) {
    uint32_t w = 0;
    memcpy(&w, src, len);
    gorge_relaxed_store32(dst, w);
  }
}

/* Whether the `len` bytes at `src`, written by gorge_relaxed_write, are those at `ptr`. */
static inline bool gorge_relaxed_equal(const uint32_t *src, const char *ptr, uint32_t len) {
  if (len >= 4 && gorge_odd_unit(src)) {
    uint32_t w;
    memcpy(&w, ptr, 4);
    if (gorge_relaxed_load32(src) != w) {
      return false;
    }
    src++, ptr += 4, len -= 4;
  }
  for (; len >= 8; src += 2, ptr += 8, len -= 8) {
    uint64_t w;
    memcpy(&w, ptr, 8);
    if (__atomic_load_n((const gorge_shared64 *)src, __ATOMIC_RELAXED) != w) {
      return false;
    }
  }
  if (len >= 4) {
    uint32_t w;
    memcpy(&w, ptr, 4);
    if (gorge_relaxed_load32(src) != w) {
      return false;
    }
    src++, ptr += 4, len -= 4;
  }
  uint32_t last = 0;
  memcpy(&last, ptr, len);
  return len == 0 || gorge_relaxed_load32(src) == last;
}

/* Copies units from one place of shared memory to another; they do not overlap. */
static inline void gorge_relaxed_move(uint32_t *dst, const uint32_t *src, uint32_t units) {
  if (units > 0 && gorge_odd_unit(dst)) {
    gorge_relaxed_store32(dst++, gorge_relaxed_load32(src++));
    units--;
  }
  if (!gorge_odd_unit(src)) {
    for (; units >= 2; dst += 2, src += 2, units -= 2) {
      uint64_t w = __atomic_load_n((const gorge_shared64 *)src, __ATOMIC_RELAXED);
      __atomic_store_n((gorge_shared64 *)dst, w, __ATOMIC_RELAXED);
    }
  }
  for (; units > 0; units--) {
    gorge_relaxed_store32(dst++, gorge_relaxed_load32(src++));
  }
}

#endif
