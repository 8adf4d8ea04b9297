/* SPDX-License-Identifier: MIT */
/* What a node of a cluster says when it does not have what was asked for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/redirect.h"
#include "test/wire.h"

/* Parses from memory of exactly that size. */
static bool parse(struct gorge_redirect *r, const char *text, size_t len) {
  char *copy = malloc(len > 0 ? len : 1);
  assert_non_null(copy);
  memcpy(copy, text, len);
  bool good = gorge_redirect_parse(r, copy, len);
  free(copy);
  return good;
}

static void test_what_nodes_say(void **state) {
  (void)state;
  static const struct {
    const char *text;
    enum gorge_redirect_kind kind;
    uint32_t slot;
    const char *host;
    uint16_t port;
  } cases[] = {
      {"MOVED 3999 127.0.0.1:6381", GORGE_REDIRECT_MOVED, 3999, "127.0.0.1", 6381},
      {"MOVED 0 node-1.example:1", GORGE_REDIRECT_MOVED, 0, "node-1.example", 1},
      {"MOVED 16383 2001:db8::1:65535", GORGE_REDIRECT_MOVED, 16383, "2001:db8::1", 65535},
      {"MOVED 1 [::1]:7000", GORGE_REDIRECT_MOVED, 1, "::1", 7000},
      {"MOVED 1 :7000", GORGE_REDIRECT_MOVED, 1, "", 7000},
      {"ASK 3999 10.0.0.1:6381", GORGE_REDIRECT_ASK, 3999, "10.0.0.1", 6381},
      {"TRYAGAIN Multiple keys request during rehashing of slot", GORGE_REDIRECT_TRYAGAIN, 0, "", 0},
      {"TRYAGAIN", GORGE_REDIRECT_TRYAGAIN, 0, "", 0},
      {"CLUSTERDOWN Hash slot not served", GORGE_REDIRECT_DOWN, 0, "", 0},
      {"CLUSTERDOWN The cluster is down", GORGE_REDIRECT_DOWN, 0, "", 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct gorge_redirect r;
    assert_true(parse(&r, cases[i].text, strlen(cases[i].text)));
    assert_int_equal(r.kind, cases[i].kind);
    assert_int_equal(r.slot, cases[i].slot);
    assert_string_equal(r.place.host, cases[i].host);
    assert_int_equal(r.place.port, cases[i].port);
  }
}

static void test_what_is_none_of_it(void **state) {
  (void)state;
  static const char *const texts[] = {
      "",
      "ERR MOVED 1 h:1",
      "MOVED",
      "MOVED ",
      "MOVED 1",
      "MOVED 1 ",
      "MOVED 16384 h:1",
      "MOVED -1 h:1",
      "MOVED x h:1",
      "MOVED 1 h",
      "MOVED 1 h:",
      "MOVED 1 h:0",
      "MOVED 1 h:65536",
      "MOVED 1 h:1x",
      "MOVED 1 h:1 ",
      "MOVED 1  h:1",
      "MOVED 1 a b:1",
      "MOVED 1 a/b:1",
      "MOVED 1h:1",
      "ASKING",
      "ASK 1",
      "TRYAGAINST",
      "CLUSTERDOWNER",
      "MOVED 99999999999999999999 h:1",
  };
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    struct gorge_redirect r;
    assert_false(parse(&r, texts[i], strlen(texts[i])));
  }
  struct gorge_redirect r;
  char text[512] = "MOVED 1 ";
  memset(text + 8, 'h', 256);
  memcpy(text + 8 + 256, ":1", 3);
  assert_false(parse(&r, text, strlen(text)));
  assert_true(parse(&r, text, 8) == false);
  memmove(text + 8, text + 9, 258); /* 255 bytes are a host */
  assert_true(parse(&r, text, strlen(text)));
  assert_int_equal(strlen(r.place.host), GORGE_PLACE_HOST_MAX);
}

static void test_any_bytes(void **state) {
  (void)state;
  static const char alphabet[] = "MOVEDASK 0123456789:.[]h\0\xff-";
  uint64_t seed = 3;
  for (int i = 0; i < 200000; i++) {
    char text[40];
    struct gorge_redirect r;
    size_t len = wire_random(&seed) % sizeof text;
    for (size_t j = 0; j < len; j++) {
      text[j] = alphabet[wire_random(&seed) % (sizeof alphabet - 1)];
    }
    if (i % 2 == 0 && len > 6) {
      memcpy(text, "MOVED ", 6);
    }
    if (parse(&r, text, len) && r.kind <= GORGE_REDIRECT_ASK) {
      assert_true(r.slot < GORGE_SLOTS && r.place.port > 0 && strlen(r.place.host) <= GORGE_PLACE_HOST_MAX);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_what_nodes_say),
      cmocka_unit_test(test_what_is_none_of_it),
      cmocka_unit_test(test_any_bytes),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
