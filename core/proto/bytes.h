/* SPDX-License-Identifier: MIT */
/* Integers on the wire: big-endian everywhere, whatever the machine. */
#ifndef GORGE_PROTO_BYTES_H
#define GORGE_PROTO_BYTES_H

#include <stdint.h>

static inline void gorge_bytes_put64(char *out, uint64_t value) {
  for (int i = 7; i >= 0; i--) {
    out[i] = (char)(value & 0xff);
    value >>= 8;
  }
}

static inline uint64_t gorge_bytes_get64(const char *in) {
  uint64_t value = 0;
  for (int i = 0; i < 8; i++) {
    value = value << 8 | (unsigned char)in[i];
  }
  return value;
}

#endif
