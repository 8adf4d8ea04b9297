/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/message.h"
#include "test/wire.h"

/* Decodes from memory of exactly that size. */
static int decode(struct gorge_message *m, const char *bytes, size_t len) {
  static char *copy;
  free(copy);
  copy = malloc(len > 0 ? len : 1);
  memcpy(copy, bytes, len);
  int status = gorge_message_decode(m, copy, len);
  if (status == GORGE_OK) {
    assert_true(m->ptr >= copy && m->ptr + m->len == copy + len);
  }
  return status;
}

static void test_the_types(void **state) {
  (void)state;
  struct gorge_message m;
  assert_int_equal(decode(&m, "\1\1\0\6\x65\x18\x2a\x3c\x52\x40key", 13), GORGE_OK);
  assert_int_equal(m.type, GORGE_MESSAGE_KEY);
  assert_true(m.version == 0x000665182a3c5240);
  assert_int_equal(m.len, 3);
  assert_memory_equal(m.ptr, "key", 3);
  assert_int_equal(decode(&m, "\1\2\0\0\0\0\0\0\0\1tag", 13), GORGE_OK);
  assert_int_equal(m.type, GORGE_MESSAGE_TAG);
  assert_int_equal(m.version, 1);
  assert_int_equal(decode(&m, "\1\3\0\0\0\0\0\0\0\0a\0b", 13), GORGE_OK);
  assert_int_equal(m.type, GORGE_MESSAGE_FILLED);
  assert_int_equal(m.version, 0);
  assert_memory_equal(m.ptr, "a\0b", 3);
  assert_int_equal(decode(&m, "\1\5\0\0\0\0\0\0\0\7", 10), GORGE_OK);
  assert_int_equal(m.type, GORGE_MESSAGE_CLEAR);
  assert_int_equal(m.version, 7);
  assert_int_equal(m.len, 0);
  assert_int_equal(decode(&m, "\1\5\0\0\0\0\0\0\0\7k", 11), GORGE_ERR_PROTOCOL);
}

static void test_messages_of_a_partition(void **state) {
  (void)state;
  struct gorge_message m;
  assert_int_equal(decode(&m, "\1\1\0\0\0\0\0\0\0\1key", 13), GORGE_OK);
  assert_int_equal(m.previous, 0);
  assert_int_equal(m.partition, 0);
  static const char whole[] = "\2\1\0\6\x65\x18\x2a\x3c\x52\x40\0\6\x65\x18\x2a\x3c\x52\x3f\x3fkey";
  for (size_t len = 0; len <= 19; len++) {
    assert_int_equal(decode(&m, whole, len), GORGE_ERR_PROTOCOL);
  }
  assert_int_equal(decode(&m, whole, sizeof whole - 1), GORGE_OK);
  assert_int_equal(m.type, GORGE_MESSAGE_KEY);
  assert_true(m.version == 0x000665182a3c5240 && m.previous == 0x000665182a3c523f);
  assert_int_equal(m.partition, 63);
  assert_int_equal(m.len, 3);
  assert_memory_equal(m.ptr, "key", 3);
  assert_int_equal(decode(&m, "\2\5\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\1\5", 19), GORGE_OK);
  assert_int_equal(m.type, GORGE_MESSAGE_CLEAR);
  assert_int_equal(m.len, 0);
  assert_int_equal(decode(&m, "\2\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0\1\x40k", 20),
                   GORGE_ERR_PROTOCOL); /* no such partition */
  assert_int_equal(decode(&m, "\2\1\0\0\0\0\0\0\0\2\x80\0\0\0\0\0\0\1\0k", 20), GORGE_ERR_PROTOCOL);
}

static void test_newer_formats_and_types_are_ignored(void **state) {
  (void)state;
  struct gorge_message m;
  assert_int_equal(decode(&m, "\3\1\0\0\0\0\0\0\0\1key", 13), GORGE_MISS);
  assert_int_equal(decode(&m, "\2\6\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\0\0key", 22), GORGE_MISS);
  assert_int_equal(decode(&m, "\1\0\0\0\0\0\0\0\0\1key", 13), GORGE_MISS);
  assert_int_equal(decode(&m, "\1\6\0\0\0\0\0\0\0\1key", 13), GORGE_MISS);
  assert_int_equal(decode(&m, "\1\xff", 2), GORGE_MISS);
}

static void test_malformed(void **state) {
  (void)state;
  struct gorge_message m;
  static const char whole[] = "\1\1\0\0\0\0\0\0\0\1k";
  for (size_t len = 0; len < sizeof whole - 1; len++) {
    assert_int_equal(decode(&m, whole, len), GORGE_ERR_PROTOCOL);
  }
  assert_int_equal(decode(&m, whole, sizeof whole - 1), GORGE_OK);
  assert_int_equal(decode(&m, "\1\1\x80\0\0\0\0\0\0\1k", 11), GORGE_ERR_PROTOCOL); /* no script makes that version */
}

static void test_lengths(void **state) {
  (void)state;
  struct gorge_message m;
  char *bytes = calloc(1, 19 + GORGE_KEY_MAX + 1);
  bytes[0] = 1;
  bytes[1] = GORGE_MESSAGE_KEY;
  assert_int_equal(decode(&m, bytes, 10 + GORGE_KEY_MAX), GORGE_OK);
  assert_int_equal(m.len, GORGE_KEY_MAX);
  assert_int_equal(decode(&m, bytes, 10 + GORGE_KEY_MAX + 1), GORGE_ERR_PROTOCOL);
  bytes[1] = GORGE_MESSAGE_TAG;
  assert_int_equal(decode(&m, bytes, 10 + GORGE_TAG_MAX), GORGE_OK);
  assert_int_equal(decode(&m, bytes, 10 + GORGE_TAG_MAX + 1), GORGE_ERR_PROTOCOL);
  bytes[0] = 2;
  assert_int_equal(decode(&m, bytes, 19 + GORGE_TAG_MAX), GORGE_OK);
  assert_int_equal(decode(&m, bytes, 19 + GORGE_TAG_MAX + 1), GORGE_ERR_PROTOCOL);
  bytes[1] = GORGE_MESSAGE_KEY;
  assert_int_equal(decode(&m, bytes, 19 + GORGE_KEY_MAX), GORGE_OK);
  assert_int_equal(m.len, GORGE_KEY_MAX);
  assert_int_equal(decode(&m, bytes, 19 + GORGE_KEY_MAX + 1), GORGE_ERR_PROTOCOL);
  free(bytes);
}

static void test_random_bytes_never_hurt(void **state) {
  (void)state;
  uint64_t seed = 5;
  for (int round = 0; round < 200000; round++) {
    char bytes[64];
    size_t len = wire_random(&seed) % sizeof bytes;
    for (size_t i = 0; i < len; i++) {
      bytes[i] = (char)(wire_random(&seed) % (i < 2 ? 5 : 256));
    }
    struct gorge_message m;
    decode(&m, bytes, len);
  }
  decode(&(struct gorge_message){0}, "", 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_types),
      cmocka_unit_test(test_messages_of_a_partition),
      cmocka_unit_test(test_newer_formats_and_types_are_ignored),
      cmocka_unit_test(test_malformed),
      cmocka_unit_test(test_lengths),
      cmocka_unit_test(test_random_bytes_never_hurt),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
