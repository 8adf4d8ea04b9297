/* SPDX-License-Identifier: MIT */
/*
 * What the fuzz targets share. Each fuzz_*.c is a libFuzzer program of its own: it reads the fuzzer's bytes as a script of
 * what happens, and traps when a property does not hold. `make fuzz-quick` runs all of them for a while.
 */
#ifndef GORGE_FUZZ_FUZZ_H
#define GORGE_FUZZ_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* A property that does not hold ends the program at once: libFuzzer keeps the input. */
#define FUZZ_CHECK(condition)                                                        \
  do {                                                                               \
    if (!(condition)) {                                                              \
      fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      __builtin_trap();                                                              \
    }                                                                                \
  } while (0)

/* libFuzzer calls it once an input; 0 always. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What is left of an input. */
struct fuzz_input {
  const uint8_t *ptr;
  size_t len;
};

/* The next `bytes` (1..8) as a little-endian number; zeros where the input has ended. */
static inline uint64_t fuzz_number(struct fuzz_input *in, size_t bytes) {
  uint64_t number = 0;
  size_t n = bytes < in->len ? bytes : in->len;
  memcpy(&number, in->ptr, n);
  in->ptr += n;
  in->len -= n;
  return number;
}

/* The next `want` bytes, or what is left; *len tells how many. */
static inline const char *fuzz_bytes(struct fuzz_input *in, size_t want, size_t *len) {
  const char *ptr = (const char *)in->ptr;
  *len = want < in->len ? want : in->len;
  in->ptr += *len;
  in->len -= *len;
  return ptr;
}

/* Reads every byte, so that a sanitizer sees the range. */
static inline uint32_t fuzz_touch(const char *ptr, size_t len) {
  uint32_t sum = 0;
  for (size_t i = 0; i < len; i++) {
    sum = sum * 31 + (unsigned char)ptr[i];
  }
  return sum;
}

#endif
