/* SPDX-License-Identifier: MIT */
/*
 * Where keys belong: the slot that Redis Cluster derives from the hash tag of a name, and the partition that gorge derives from a
 * user's key. Both are CRC16 (polynomial 0x1021, from 0, nothing reflected or inverted: XMODEM), as the Redis Cluster specification has it.
 */
#ifndef GORGE_PROTO_SLOT_H
#define GORGE_PROTO_SLOT_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { GORGE_SLOTS = 16384 };

uint16_t gorge_crc16(const char *ptr, size_t len);

/* The slot of all names with this hash tag: what stands between the braces. */
static inline uint32_t gorge_slot_of(const char *tag, size_t len) { return gorge_crc16(tag, len) % GORGE_SLOTS; }

/* The partition of a key, or of a tag. partitions: 1, or a power of two. */
static inline uint32_t gorge_partition_of(const char *key, size_t len, uint32_t partitions) {
  return partitions == 1 ? 0 : gorge_crc16(key, len) & (partitions - 1);
}

#endif
