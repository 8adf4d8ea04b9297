/* SPDX-License-Identifier: MIT */
/*
 * Bytes in shared memory, copied as relaxed atomic words: a reader may race with a writer that reuses the space, and finds
 * out afterwards. Shared addresses are aligned to 4 bytes; 8-byte words are used where they are aligned to 8. All
 * accesses in here are relaxed; the fences and the slot word order them, see read.c and log.h.
 *
 * On x86-64 16 bytes at a time, in assembler: C knows no atomic access of that size, and to the compiler these are
 * no accesses that could race. Nobody relies on more than bytes being whole.
 */
#ifndef GORGE_L1_RELAXED_H
#define GORGE_L1_RELAXED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
#if defined(__has_feature)
#if !__has_feature(thread_sanitizer) && !__has_feature(address_sanitizer)
#define GORGE_RELAXED_SSE2 1
#endif
#else
#define GORGE_RELAXED_SSE2 1
#endif
#endif

#ifdef GORGE_RELAXED_SSE2
#include <emmintrin.h>
#endif

/* The same memory is read as words of both sizes. */
typedef uint64_t __attribute__((may_alias)) gorge_shared64;

static inline uint32_t gorge_relaxed_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_RELAXED); }
static inline void gorge_relaxed_store32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELAXED); }

/* Units of 4 bytes that `len` (far from overflow) bytes take. */
static inline uint32_t gorge_units(uint32_t len) { return (len + 3) / 4; }

static inline bool gorge_odd_unit(const uint32_t *p) { return ((uintptr_t)p & 4) != 0; }

/* The bytes of a unit's first `len` (0..4), zero beyond. */
static inline uint32_t gorge_unit_of(const char *ptr, uint32_t len) {
  uint32_t unit = 0;
  memcpy(&unit, ptr, len);
  return unit;
}

#ifdef GORGE_RELAXED_SSE2

/* From here on the processor's own copying is faster. */
enum { GORGE_RELAXED_STRING = 800 }; /* a multiple of 32 */

static inline void gorge_relaxed_string(char *dst, const char *src, size_t len) {
  __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(len) : : "memory");
}

static inline __m128i gorge_relaxed_load128(const void *p) {
  __m128i v;
  __asm__ volatile("movdqu %1, %0" : "=x"(v) : "m"(*(const char(*)[16])p));
  return v;
}

static inline void gorge_relaxed_store128(void *p, __m128i v) {
  __asm__ volatile("movdqu %1, %0" : "=m"(*(char(*)[16])p) : "x"(v));
}

static inline void gorge_relaxed_read32(char *dst, const char *src) {
  __m128i a = gorge_relaxed_load128(src), b = gorge_relaxed_load128(src + 16);
  _mm_storeu_si128((__m128i *)(void *)dst, a);
  _mm_storeu_si128((__m128i *)(void *)(dst + 16), b);
}

/* Of 16 bytes and more: whole steps of 16, and the last 16 once more, overlapping. */
static inline void gorge_relaxed_read16(char *dst, const void *shared, uint32_t len) {
  const char *src = shared;
  __m128i end = gorge_relaxed_load128(src + len - 16);
  char *end_at = dst + len - 16;
  if (len >= GORGE_RELAXED_STRING) {
    gorge_relaxed_string(dst, src, len);
    return;
  }
  for (; len > 16; src += 16, dst += 16, len -= 16) {
    _mm_storeu_si128((__m128i *)(void *)dst, gorge_relaxed_load128(src));
  }
  _mm_storeu_si128((__m128i *)(void *)end_at, end);
}

static inline void gorge_relaxed_write16(void *shared, const char *src, uint32_t len) {
  char *dst = shared, *end_at = dst + len - 16;
  const char *end = src + len - 16;
  if (len >= GORGE_RELAXED_STRING) {
    gorge_relaxed_string(dst, src, len);
    return;
  }
  for (; len > 16; src += 16, dst += 16, len -= 16) {
    gorge_relaxed_store128(dst, _mm_loadu_si128((const __m128i *)(const void *)src));
  }
  gorge_relaxed_store128(end_at, _mm_loadu_si128((const __m128i *)(const void *)end));
}

/* 16 bytes of shared memory beside 16 of one's own: 0xff where they are the same. */
static inline __m128i gorge_relaxed_same128(const char *shared, const char *ptr) {
  return _mm_cmpeq_epi8(gorge_relaxed_load128(shared), _mm_loadu_si128((const __m128i *)(const void *)ptr));
}

/* Of 16 bytes and more: the first, the last, and what is between. */
static inline bool gorge_relaxed_equal16(const void *shared, const char *ptr, uint32_t len) {
  const char *src = shared;
  uint32_t last = len - 16;
  __m128i same = _mm_and_si128(gorge_relaxed_same128(src, ptr), gorge_relaxed_same128(src + last, ptr + last));
  for (uint32_t at = 16; at < last; at += 16) {
    same = _mm_and_si128(same, gorge_relaxed_same128(src + at, ptr + at));
  }
  return _mm_movemask_epi8(same) == 0xffff;
}

#endif

/* Copies `len` bytes out of shared memory. */
static inline void gorge_relaxed_read(char *dst, const uint32_t *src, uint32_t len) {
#ifdef GORGE_RELAXED_SSE2
  if (len >= 16) {
    gorge_relaxed_read16(dst, src, len);
    return;
  }
#else
  if (len >= 4 && gorge_odd_unit(src)) {
    uint32_t w = gorge_relaxed_load32(src);
    memcpy(dst, &w, 4);
    src++, dst += 4, len -= 4;
  }
  for (; len >= 8; src += 2, dst += 8, len -= 8) {
    uint64_t w = __atomic_load_n((const gorge_shared64 *)src, __ATOMIC_RELAXED);
    memcpy(dst, &w, 8);
  }
#endif
  for (; len >= 4; src++, dst += 4, len -= 4) {
    uint32_t w = gorge_relaxed_load32(src);
    memcpy(dst, &w, 4);
  }
  if (len > 0) {
    uint32_t w = gorge_relaxed_load32(src);
    memcpy(dst, &w, len);
  }
}

/*
 * The same in steps of 32 bytes, where the buffer (of `size` bytes, at least len) and the memory (`limit` bytes, at least len) have room: the
 * bytes of the buffer after the first len are of no account.
 */
static inline void gorge_relaxed_read_ahead(char *dst, uint32_t size, const uint32_t *src, uint32_t len,
                                            uint64_t limit) {
#ifdef GORGE_RELAXED_SSE2
  if (len < GORGE_RELAXED_STRING && size >= GORGE_RELAXED_STRING && limit >= GORGE_RELAXED_STRING) {
    const char *from = (const char *)src;
    for (char *end = dst + len; dst < end; dst += 32, from += 32) {
      gorge_relaxed_read32(dst, from);
    }
    return;
  }
#else
  (void)size, (void)limit;
#endif
  gorge_relaxed_read(dst, src, len);
}

/* Copies `len` bytes into shared memory; what is left of the last unit becomes zero. */
static inline void gorge_relaxed_write(uint32_t *dst, const char *src, uint32_t len) {
#ifdef GORGE_RELAXED_SSE2
  if (len >= 16) {
    /* The last unit: the bytes that lie in it, of the last four. */
    gorge_relaxed_store32(&dst[(len - 1) / 4], gorge_unit_of(src + len - 4, 4) >> 8 * (3 - (len - 1) % 4));
    gorge_relaxed_write16(dst, src, len);
    return;
  }
#else
  if (len >= 4 && gorge_odd_unit(dst)) {
    gorge_relaxed_store32(dst, gorge_unit_of(src, 4));
    dst++, src += 4, len -= 4;
  }
  for (; len >= 8; dst += 2, src += 8, len -= 8) {
    uint64_t w;
    memcpy(&w, src, 8);
    __atomic_store_n((gorge_shared64 *)dst, w, __ATOMIC_RELAXED);
  }
#endif
  for (; len >= 4; dst++, src += 4, len -= 4) {
    gorge_relaxed_store32(dst, gorge_unit_of(src, 4));
  }
  if (len > 0) {
    gorge_relaxed_store32(dst, gorge_unit_of(src, len));
  }
}

/* Whether the `len` bytes at `src`, written by gorge_relaxed_write, are those at `ptr`. */
static inline bool gorge_relaxed_equal(const uint32_t *src, const char *ptr, uint32_t len) {
#ifdef GORGE_RELAXED_SSE2
  if (len >= 16) {
    return gorge_relaxed_equal16(src, ptr, len);
  }
#endif
  uint32_t differ = 0;
  for (; len >= 4; src++, ptr += 4, len -= 4) {
    differ |= gorge_relaxed_load32(src) ^ gorge_unit_of(ptr, 4);
  }
  return differ == 0 && (len == 0 || gorge_relaxed_load32(src) == gorge_unit_of(ptr, len));
}

/* Copies units from one place of shared memory to another; they do not overlap. */
static inline void gorge_relaxed_move(uint32_t *dst, const uint32_t *src, uint32_t units) {
#ifdef GORGE_RELAXED_SSE2
  for (; units >= 4; dst += 4, src += 4, units -= 4) {
    gorge_relaxed_store128(dst, gorge_relaxed_load128(src));
  }
#else
  if (units > 0 && gorge_odd_unit(dst)) {
    gorge_relaxed_store32(dst++, gorge_relaxed_load32(src++));
    units--;
  }
  for (; units >= 2 && !gorge_odd_unit(src); dst += 2, src += 2, units -= 2) {
    uint64_t w = __atomic_load_n((const gorge_shared64 *)src, __ATOMIC_RELAXED);
    __atomic_store_n((gorge_shared64 *)dst, w, __ATOMIC_RELAXED);
  }
#endif
  for (; units > 0; units--) {
    gorge_relaxed_store32(dst++, gorge_relaxed_load32(src++));
  }
}

#endif
