/* SPDX-License-Identifier: MIT */
/*
 * Each part carries a piece of the address and the number of the write it comes from: tag:24 | piece:40, tag never 0. Parts of one number
 * belong together, which is all that a reader needs to know; so all accesses in here are relaxed.
 */
#include "drive/master.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

enum { PIECE_BITS = 40, PIECE_BYTES = 5, TAG_MAX = (1 << 24) - 1 };

/* What is cut into pieces: 16 bytes of IP (an IPv4 address in the first four), 2 of the port, 1 of the family. */
enum { AT_PORT = 16, AT_FAMILY = 18, FAMILY_4 = 4, FAMILY_6 = 6 };

_Static_assert(GORGE_MASTER_PARTS *PIECE_BYTES > AT_FAMILY, "an address fits into the parts");

const char *gorge_master_trouble_text(uint64_t trouble) {
  switch ((enum gorge_master_trouble)trouble) {
    case GORGE_MASTER_FINE: break;
    case GORGE_MASTER_SILENT: return "no sentinel can be reached";
    case GORGE_MASTER_REFUSED: return "the sentinels refuse user or password";
    case GORGE_MASTER_UNKNOWN: return "no sentinel knows a master of that name";
    case GORGE_MASTER_UNTRUSTED: return "TLS with the sentinels fails";
    case GORGE_MASTER_UNRESOLVED: return "the name of the master cannot be resolved";
  }
  return "the sentinels have not been asked yet";
}

void gorge_master_write(struct gorge_master_words *words, const struct gorge_address *address) {
  unsigned char bytes[GORGE_MASTER_PARTS * PIECE_BYTES] = {0};
  bool six = address->sa.any.sa_family == AF_INET6;
  in_port_t port = six ? address->sa.in6.sin6_port : address->sa.in.sin_port;
  if (six) {
    memcpy(bytes, &address->sa.in6.sin6_addr, sizeof address->sa.in6.sin6_addr);
  } else {
    memcpy(bytes, &address->sa.in.sin_addr, sizeof address->sa.in.sin_addr);
  }
  memcpy(bytes + AT_PORT, &port, sizeof port);
  bytes[AT_FAMILY] = six ? FAMILY_6 : FAMILY_4;
  uint64_t tag = __atomic_fetch_add(&words->writes, 1, __ATOMIC_RELAXED) % TAG_MAX + 1;
  for (int i = 0; i < GORGE_MASTER_PARTS; i++) {
    uint64_t part = tag;
    for (int j = 0; j < PIECE_BYTES; j++) {
      part = part << 8 | bytes[i * PIECE_BYTES + j];
    }
    __atomic_store_n(&words->part[i], part, __ATOMIC_RELAXED);
  }
}

bool gorge_master_read(const struct gorge_master_words *words, struct gorge_address *out) {
  unsigned char bytes[GORGE_MASTER_PARTS * PIECE_BYTES];
  uint64_t tag = 0, place = 0;
  for (int i = 0; i < GORGE_MASTER_PARTS; i++) {
    uint64_t part = __atomic_load_n(&words->part[i], __ATOMIC_RELAXED);
    if (i == 0) {
      tag = part >> PIECE_BITS;
      place = part;
    }
    if (tag == 0 || part >> PIECE_BITS != tag) {
      return false;
    }
    for (int j = PIECE_BYTES; j-- > 0; part >>= 8) {
      bytes[i * PIECE_BYTES + j] = (unsigned char)part;
    }
  }
  memset(out, 0, sizeof *out);
  out->place = place;
  in_port_t port;
  memcpy(&port, bytes + AT_PORT, sizeof port);
  if (bytes[AT_FAMILY] == FAMILY_6) {
    out->sa.in6.sin6_family = AF_INET6;
    out->sa.in6.sin6_port = port;
    memcpy(&out->sa.in6.sin6_addr, bytes, sizeof out->sa.in6.sin6_addr);
    out->len = sizeof out->sa.in6;
  } else {
    out->sa.in.sin_family = AF_INET;
    out->sa.in.sin_port = port;
    memcpy(&out->sa.in.sin_addr, bytes, sizeof out->sa.in.sin_addr);
    out->len = sizeof out->sa.in;
  }
  return true;
}

void gorge_master_text(const struct gorge_master_words *words, char *out, size_t size) {
  struct gorge_address a;
  char host[GORGE_ADDRESS_TEXT];
  uint16_t port;
  out[0] = '\0';
  if (gorge_master_read(words, &a) && gorge_address_text(&a, host, sizeof host, &port) == GORGE_OK) {
    snprintf(out, size, "%s:%u", host, port);
  }
}
