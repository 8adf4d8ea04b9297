/* SPDX-License-Identifier: MIT */
#include "proto/slot.h"

/* The CRC of each half byte: a table of 32 bytes, which is in the cache more often than one of 512. */
static const uint16_t half[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7,
                                  0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};

uint16_t gorge_crc16(const char *ptr, size_t len) {
  uint16_t crc = 0;
  for (size_t i = 0; i < len; i++) {
    unsigned char byte = (unsigned char)ptr[i];
    crc = (uint16_t)(crc << 4 ^ half[crc >> 12 ^ byte >> 4]);
    crc = (uint16_t)(crc << 4 ^ half[crc >> 12 ^ (byte & 15)]);
  }
  return crc;
}
