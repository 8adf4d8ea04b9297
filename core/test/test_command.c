/* SPDX-License-Identifier: MIT */
/* Commands as bytes, and the names in them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/status.h"
#include "proto/command.h"
#include "proto/envelope.h"
#include "proto/names.h"

static void test_any_bytes_are_framed_by_length(void **state) {
  (void)state;
  struct gorge_buf b;
  gorge_buf_init(&b);
  static const char *const argv[] = {"SET", "a\r\n$1", "\0\xff", ""};
  static const size_t len[] = {3, 5, 2, 0};
  assert_int_equal(gorge_command_append(&b, 4, argv, len), GORGE_OK);
  static const char expected[] = "*4\r\n$3\r\nSET\r\n$5\r\na\r\n$1\r\n$2\r\n\0\xff\r\n$0\r\n\r\n";
  assert_int_equal(gorge_buf_len(&b), sizeof expected - 1);
  assert_memory_equal(gorge_buf_ptr(&b), expected, sizeof expected - 1);
  assert_int_equal(gorge_command_append(&b, 1, argv, len), GORGE_OK);
  assert_int_equal(gorge_buf_len(&b), sizeof expected - 1 + strlen("*1\r\n$3\r\nSET\r\n"));
  gorge_buf_fini(&b);
}

static void test_impossible_commands_leave_the_buffer_alone(void **state) {
  (void)state;
  struct gorge_buf b;
  gorge_buf_init(&b);
  static const char *const argv[] = {"GET", "a"};
  const size_t len[] = {3, (size_t)1 << 31};
  assert_int_equal(gorge_command_append(&b, 0, argv, len), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_command_append(&b, -1, argv, len), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_command_append(&b, GORGE_COMMAND_ARGS_MAX + 1, argv, len), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_command_append(&b, 2, argv, len), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_buf_len(&b), 0);
  gorge_buf_fini(&b);
}

static void assert_name_in(const struct gorge_names *n, uint32_t partition, enum gorge_name name, const char *part,
                           const char *expected) {
  char out[GORGE_NAME_BYTES_MAX];
  size_t len = gorge_names_write(n, partition, name, part, part != NULL ? strlen(part) : 0, out, sizeof out);
  assert_int_equal(len, strlen(expected));
  assert_memory_equal(out, expected, len);
}

static void assert_name(const struct gorge_names *n, enum gorge_name name, const char *part, const char *expected) {
  assert_name_in(n, 0, name, part, expected);
}

static void test_names_of_partitions(void **state) {
  (void)state;
  struct gorge_names n;
  char out[64];
  assert_int_equal(gorge_names_init(&n, "my-app", 6), GORGE_OK);
  gorge_names_set_epoch(&n, 9, 7);
  gorge_names_set_epoch(&n, 63, GORGE_VERSION_MAX);
  assert_name_in(&n, 9, GORGE_NAME_VALUE, "k", "{6:my-app:9}:7:v:k");
  assert_name_in(&n, 9, GORGE_NAME_JOURNAL, NULL, "{6:my-app:9}:j");
  assert_name_in(&n, 63, GORGE_NAME_TAG, "t", "{6:my-app:63}:9007199254740991:t:t");
  assert_name_in(&n, 63, GORGE_NAME_UPDATE, "0123", "{6:my-app:63}:u:0123");
  assert_name_in(&n, 10, GORGE_NAME_COUNTER, NULL, "{6:my-app:10}:c");
  assert_int_equal(gorge_names_write(&n, 10, GORGE_NAME_VALUE, "k", 1, out, sizeof out),
                   0); /* its epoch is not known */
  gorge_names_set_epoch(&n, 9, 0);
  assert_int_equal(gorge_names_write(&n, 9, GORGE_NAME_VALUE, "k", 1, out, sizeof out), 0);
}

static void test_names(void **state) {
  (void)state;
  struct gorge_names n;
  assert_int_equal(gorge_names_init(&n, "my-app", 6), GORGE_OK);
  char out[64];
  assert_int_equal(gorge_names_write(&n, 0, GORGE_NAME_VALUE, "k", 1, out, sizeof out), 0); /* no epoch, no name */
  assert_name(&n, GORGE_NAME_EPOCH, NULL, "{6:my-app:0}:e");
  gorge_names_set_epoch(&n, 0, GORGE_VERSION_MAX);
  assert_name(&n, GORGE_NAME_VALUE, "k", "{6:my-app:0}:9007199254740991:v:k");
  gorge_names_set_epoch(&n, 0, 7);
  assert_name(&n, GORGE_NAME_VALUE, "k", "{6:my-app:0}:7:v:k");
  assert_name(&n, GORGE_NAME_LEASE, "k", "{6:my-app:0}:7:l:k");
  assert_name(&n, GORGE_NAME_TAG, "t", "{6:my-app:0}:7:t:t");
  assert_name(&n, GORGE_NAME_COUNTER, NULL, "{6:my-app:0}:c");
  assert_name(&n, GORGE_NAME_JOURNAL, NULL, "{6:my-app:0}:j");
  assert_name(&n, GORGE_NAME_UPDATE, "0123", "{6:my-app:0}:u:0123");
  assert_int_equal(n.channel_len, strlen("gorge:6:my-app"));
  assert_memory_equal(n.channel, "gorge:6:my-app", n.channel_len);
  /* the first pair of braces decides about the slot: a user's braces come later */
  assert_name(&n, GORGE_NAME_VALUE, "}{x}", "{6:my-app:0}:7:v:}{x}");
}

static void test_names_of_two_namespaces_never_meet(void **state) {
  (void)state;
  static const char *const spaces[] = {"a", "a:0", "1:a", "a:b", "b"};
  static const char *const parts[] = {"x", "0}:v:x", "b:0}:v:x", ":v:x"};
  static char names[64][64];
  int count = 0;
  for (size_t s = 0; s < 5; s++) {
    struct gorge_names n;
    assert_int_equal(gorge_names_init(&n, spaces[s], strlen(spaces[s])), GORGE_OK);
    gorge_names_set_epoch(&n, 0, 1);
    for (size_t p = 0; p < 4; p++) {
      size_t len = gorge_names_write(&n, 0, GORGE_NAME_VALUE, parts[p], strlen(parts[p]), names[count], 63);
      assert_true(len > 0);
      names[count][len] = '\0';
      for (int i = 0; i < count; i++) {
        assert_string_not_equal(names[i], names[count]);
      }
      count++;
    }
  }
}

static void test_namespaces_that_are_refused(void **state) {
  (void)state;
  struct gorge_names n;
  char longest[GORGE_NAME_MAX + 1];
  memset(longest, 'n', sizeof longest);
  assert_int_equal(gorge_names_init(&n, longest, GORGE_NAME_MAX), GORGE_OK);
  assert_int_equal(gorge_names_init(&n, longest, GORGE_NAME_MAX + 1), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_names_init(&n, "", 0), GORGE_ERR_ARGUMENT);
  static const char *const refused[] = {"a b", "a{b", "a}b", "a/b", "a\n", "\xc3\xa4", "a*"};
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
    assert_int_equal(gorge_names_init(&n, refused[i], strlen(refused[i])), GORGE_ERR_ARGUMENT);
  }
  assert_int_equal(gorge_names_init(&n, "a\0b", 3), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_names_init(&n, "A.b:c_d-9", 9), GORGE_OK);
}

static void test_names_never_leave_their_room(void **state) {
  (void)state;
  struct gorge_names n;
  char longest[GORGE_NAME_MAX], key[GORGE_KEY_MAX + 1], out[GORGE_NAME_BYTES_MAX];
  memset(longest, 'n', sizeof longest);
  memset(key, 'k', sizeof key);
  assert_int_equal(gorge_names_init(&n, longest, sizeof longest), GORGE_OK);
  gorge_names_set_epoch(&n, 63, UINT64_MAX);
  size_t len = gorge_names_write(&n, 63, GORGE_NAME_VALUE, key, GORGE_KEY_MAX, out, sizeof out);
  assert_int_equal(len, sizeof out); /* GORGE_NAME_PREFIX_MAX is what it takes */
  gorge_names_set_epoch(&n, 0, UINT64_MAX);
  assert_int_equal(gorge_names_write(&n, 0, GORGE_NAME_VALUE, key, GORGE_KEY_MAX + 1, out, sizeof out), 0);
  for (size_t room = 0; room < 110; room++) {
    memset(out, 'z', sizeof out);
    len = gorge_names_write(&n, 0, GORGE_NAME_TAG, "tag", 3, out, room);
    assert_true(len <= room);
    assert_int_equal(out[room], 'z');
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_any_bytes_are_framed_by_length),
      cmocka_unit_test(test_impossible_commands_leave_the_buffer_alone),
      cmocka_unit_test(test_names),
      cmocka_unit_test(test_names_of_partitions),
      cmocka_unit_test(test_names_of_two_namespaces_never_meet),
      cmocka_unit_test(test_namespaces_that_are_refused),
      cmocka_unit_test(test_names_never_leave_their_room),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
