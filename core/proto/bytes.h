/* SPDX-License-Identifier: MIT */
/* Integers on the wire: big-endian everywhere, whatever the machine. */
#ifndef GORGE_PROTO_BYTES_H
#define GORGE_PROTO_BYTES_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

static inline void gorge_bytes_put64(char *out, uint64_t value) {
  value = htobe64(value);
  memcpy(out, &value, sizeof value);
}

static inline uint64_t gorge_bytes_get64(const char *in) {
  uint64_t value;
  memcpy(&value, in, sizeof value);
  return be64toh(value);
}

#endif
