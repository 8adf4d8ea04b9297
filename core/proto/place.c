/* SPDX-License-Identifier: MIT */
#include "proto/place.h"

#include <stdio.h>
#include <string.h>

/* Not isalnum: what is allowed must not depend on the locale. */
static bool fits_into_host(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '-' ||
         c == '_' || c == ':' || c == '%';
}

bool gorge_place_init(struct gorge_place *place, const char *host, size_t len, int64_t port) {
  if (len < 1 || len > GORGE_PLACE_HOST_MAX || port < 1 || port > UINT16_MAX) {
    return false;
  }
  for (size_t i = 0; i < len; i++) {
    if (!fits_into_host(host[i])) {
      return false;
    }
  }
  memcpy(place->host, host, len);
  place->host[len] = '\0';
  place->port = (uint16_t)port;
  return true;
}

bool gorge_place_equal(const struct gorge_place *a, const struct gorge_place *b) {
  return a->port == b->port && strcmp(a->host, b->host) == 0;
}

void gorge_place_text(const struct gorge_place *place, char out[GORGE_PLACE_TEXT]) {
  bool v6 = strchr(place->host, ':') != NULL;
  snprintf(out, GORGE_PLACE_TEXT, v6 ? "[%s]:%u" : "%s:%u", place->host, (unsigned)place->port);
}
