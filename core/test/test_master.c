/* SPDX-License-Identifier: MIT */
/* Where the master is, in words that many processes share. */
#include <arpa/inet.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "drive/master.h"
#include "test/wire.h"

static struct gorge_address address(const char *host, uint16_t port) {
  struct gorge_address a;
  memset(&a, 0, sizeof a);
  if (inet_pton(AF_INET, host, &a.sa.in.sin_addr) == 1) {
    a.sa.in.sin_family = AF_INET;
    a.sa.in.sin_port = htons(port);
    a.len = sizeof a.sa.in;
  } else {
    assert_int_equal(inet_pton(AF_INET6, host, &a.sa.in6.sin6_addr), 1);
    a.sa.in6.sin6_family = AF_INET6;
    a.sa.in6.sin6_port = htons(port);
    a.len = sizeof a.sa.in6;
  }
  return a;
}

static const char *text(const struct gorge_master_words *words) {
  static char out[64];
  gorge_master_text(words, out, sizeof out);
  return out;
}

static void test_what_is_written_is_read(void **state) {
  (void)state;
  static const struct {
    const char *host;
    uint16_t port;
    const char *text;
  } cases[] = {
      {"192.0.2.1", 6379, "192.0.2.1:6379"},
      {"255.255.255.255", 65535, "255.255.255.255:65535"},
      {"2001:db8::1", 1, "[2001:db8::1]:1"},
      {"ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
  };
  struct gorge_master_words words = {0};
  struct gorge_address a;
  uint64_t last = 0;
  assert_false(gorge_master_read(&words, &a));
  assert_string_equal(text(&words), "");
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct gorge_address put = address(cases[i].host, cases[i].port);
    gorge_master_write(&words, &put);
    assert_true(gorge_master_read(&words, &a));
    assert_int_equal(a.len, put.len);
    assert_memory_equal(&a.sa, &put.sa, put.len);
    assert_true(a.place != 0 && a.place != last && a.place == words.part[0]);
    last = a.place;
    assert_string_equal(text(&words), cases[i].text);
  }
}

static void test_the_same_place_is_another_one_when_it_is_written_again(void **state) {
  (void)state;
  struct gorge_master_words words = {0};
  struct gorge_address a = address("192.0.2.1", 6379), out;
  gorge_master_write(&words, &a);
  uint64_t first = words.part[0];
  gorge_master_write(&words, &a);
  assert_int_not_equal(words.part[0], first);
  words.writes = (1 << 24) - 2; /* the numbers begin anew and leave out 0 */
  for (int i = 0; i < 3; i++) {
    gorge_master_write(&words, &a);
    assert_true(gorge_master_read(&words, &out));
  }
}

static void test_halves_of_two_writes_are_not_taken_for_one(void **state) {
  (void)state;
  struct gorge_master_words one = {0}, two;
  struct gorge_address a = address("192.0.2.1", 6379), b = address("2001:db8::1", 1), out;
  gorge_master_write(&one, &a);
  two = one;
  gorge_master_write(&two, &b);
  for (unsigned mask = 1; mask < (1U << GORGE_MASTER_PARTS) - 1; mask++) {
    struct gorge_master_words mixed = one;
    for (int i = 0; i < GORGE_MASTER_PARTS; i++) {
      mixed.part[i] = (mask >> i & 1) != 0 ? two.part[i] : one.part[i];
    }
    assert_false(gorge_master_read(&mixed, &out));
  }
}

static void test_an_endpoint_leads_to_the_master(void **state) {
  (void)state;
  struct gorge_master_words words = {0};
  struct gorge_endpoint *e = gorge_endpoint_of_master(&words);
  struct gorge_address a = address("192.0.2.1", 6379), out;
  char host[GORGE_ADDRESS_TEXT];
  const char *reason = NULL;
  uint16_t port;
  assert_int_equal(gorge_endpoint_address(e, 1000, &out, &reason), GORGE_PENDING);
  words.trouble = GORGE_MASTER_UNKNOWN;
  assert_int_equal(gorge_endpoint_address(e, 1000, &out, &reason), GORGE_ERR_SYSTEM);
  assert_string_equal(reason, "no sentinel knows a master of that name");
  assert_int_equal(gorge_endpoint_text(e, 1000, host, sizeof host, &port, &reason), GORGE_ERR_SYSTEM);
  gorge_master_write(&words, &a); /* what is known counts, whatever the sentinels say now */
  assert_int_equal(gorge_endpoint_address(e, 1000, &out, &reason), GORGE_OK);
  assert_int_equal(out.place, words.part[0]);
  assert_int_equal(gorge_endpoint_text(e, 1000, host, sizeof host, &port, &reason), GORGE_OK);
  assert_string_equal(host, "192.0.2.1");
  assert_int_equal(port, 6379);
  assert_int_equal(gorge_endpoint_failed(e, &out), 1);
  gorge_endpoint_destroy(e);
}

static void test_any_bytes_are_an_address_or_none(void **state) {
  (void)state;
  uint64_t seed = 7;
  for (int i = 0; i < 100000; i++) {
    struct gorge_master_words words = {0};
    struct gorge_address out;
    uint64_t tag = wire_random(&seed) << 40;
    for (int j = 0; j < GORGE_MASTER_PARTS; j++) {
      words.part[j] = tag | wire_random(&seed) >> 24;
    }
    if (gorge_master_read(&words, &out)) {
      assert_true(out.sa.any.sa_family == AF_INET || out.sa.any.sa_family == AF_INET6);
      assert_true(strlen(text(&words)) > 0);
    }
  }
}

static void test_every_trouble_has_words(void **state) {
  (void)state;
  for (uint64_t i = 0; i < 6; i++) {
    assert_true(strlen(gorge_master_trouble_text(i)) > 10);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_what_is_written_is_read),
      cmocka_unit_test(test_the_same_place_is_another_one_when_it_is_written_again),
      cmocka_unit_test(test_halves_of_two_writes_are_not_taken_for_one),
      cmocka_unit_test(test_an_endpoint_leads_to_the_master),
      cmocka_unit_test(test_any_bytes_are_an_address_or_none),
      cmocka_unit_test(test_every_trouble_has_words),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
