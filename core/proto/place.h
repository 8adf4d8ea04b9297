/* SPDX-License-Identifier: MIT */
/* Where a server is: a name or a number, and a port. */
#ifndef GORGE_PROTO_PLACE_H
#define GORGE_PROTO_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { GORGE_PLACE_HOST_MAX = 255, GORGE_PLACE_TEXT = GORGE_PLACE_HOST_MAX + 9 };

struct gorge_place {
  char host[GORGE_PLACE_HOST_MAX + 1]; /* without brackets */
  uint16_t port;
};

/* False when that is no host (1 to 255 of letters, digits and . - _ : %) or no port; *place is untouched then. */
bool gorge_place_init(struct gorge_place *place, const char *host, size_t len, int64_t port);
bool gorge_place_equal(const struct gorge_place *a, const struct gorge_place *b);
/* "host:port", with brackets around an IPv6 address. */
void gorge_place_text(const struct gorge_place *place, char out[GORGE_PLACE_TEXT]);

#endif
