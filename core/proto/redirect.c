/* SPDX-License-Identifier: MIT */
#include "proto/redirect.h"

#include <string.h>

enum { PORT_MAX = 65535 };

/* What is still to be read. */
struct rest {
  const char *ptr;
  size_t len;
};

static bool take_word(struct rest *rest, const char *word) {
  size_t len = strlen(word);
  if (rest->len < len || memcmp(rest->ptr, word, len) != 0) {
    return false;
  }
  rest->ptr += len;
  rest->len -= len;
  return true;
}

/* A word that may end the error. */
static bool is_word(struct rest rest, const char *word) {
  return take_word(&rest, word) && (rest.len == 0 || rest.ptr[0] == ' ');
}

/* Decimal digits, at most `most`. */
static bool take_number(struct rest *rest, uint32_t most, uint32_t *number) {
  size_t digits = 0;
  *number = 0;
  while (digits < rest->len && rest->ptr[digits] >= '0' && rest->ptr[digits] <= '9') {
    *number = *number * 10 + (uint32_t)(rest->ptr[digits++] - '0');
    if (*number > most) {
      return false;
    }
  }
  rest->ptr += digits;
  rest->len -= digits;
  return digits > 0;
}

/* "host:port"; an IPv6 address stands without brackets, or with them. The last colon is the port's. */
static bool take_place(struct rest *rest, struct gorge_redirect *r) {
  const char *colon = memrchr(rest->ptr, ':', rest->len);
  if (colon == NULL) {
    return false;
  }
  size_t len = (size_t)(colon - rest->ptr);
  const char *host = rest->ptr;
  if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
    host++;
    len -= 2;
  }
  rest->len -= (size_t)(colon + 1 - rest->ptr);
  rest->ptr = colon + 1;
  uint32_t port;
  if (!take_number(rest, PORT_MAX, &port) || port == 0 || rest->len > 0) {
    return false;
  }
  r->place.port = (uint16_t)port;
  return len == 0 || gorge_place_init(&r->place, host, len, port);
}

bool gorge_redirect_parse(struct gorge_redirect *r, const char *ptr, size_t len) {
  struct rest rest = {ptr, len};
  r->slot = 0;
  r->place.host[0] = '\0';
  r->place.port = 0;
  if (is_word(rest, "TRYAGAIN")) {
    r->kind = GORGE_REDIRECT_TRYAGAIN;
    return true;
  }
  if (is_word(rest, "CLUSTERDOWN")) {
    r->kind = GORGE_REDIRECT_DOWN;
    return true;
  }
  if (take_word(&rest, "MOVED ")) {
    r->kind = GORGE_REDIRECT_MOVED;
  } else if (take_word(&rest, "ASK ")) {
    r->kind = GORGE_REDIRECT_ASK;
  } else {
    return false;
  }
  return take_number(&rest, GORGE_SLOTS - 1, &r->slot) && take_word(&rest, " ") && take_place(&rest, r);
}
