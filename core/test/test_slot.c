/* SPDX-License-Identifier: MIT */
/* The slots are those of Redis, the partitions those of every other host. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/slot.h"

static void test_the_check_value(void **state) {
  (void)state;
  assert_int_equal(gorge_crc16("123456789", 9), 0x31c3); /* of the Redis Cluster specification */
  assert_int_equal(gorge_crc16("", 0), 0);
  assert_int_equal(gorge_crc16("\xff", 1), 0x1ef0);
}

static void test_slots(void **state) {
  (void)state;
  /* what CLUSTER KEYSLOT says */
  assert_int_equal(gorge_slot_of("foo", 3), 12182);
  assert_int_equal(gorge_slot_of("bar", 3), 5061);
  assert_int_equal(gorge_slot_of("4:main:0", 8), gorge_crc16("4:main:0", 8) % 16384);
}

/* Hosts that disagree on these would not find each other's values. */
static void test_partitions_do_not_change(void **state) {
  (void)state;
  assert_int_equal(gorge_partition_of("anything", 8, 1), 0);
  assert_int_equal(gorge_partition_of("foo", 3, GORGE_PARTITIONS), 12182 % 64);
  assert_int_equal(gorge_partition_of("bar", 3, GORGE_PARTITIONS), 5061 % 64);
}

static void test_partitions_are_even(void **state) {
  (void)state;
  enum { KEYS = 64000 };
  uint32_t count[GORGE_PARTITIONS] = {0};
  for (int i = 0; i < KEYS; i++) {
    char key[32];
    int len = snprintf(key, sizeof key, "user:%d", i);
    count[gorge_partition_of(key, (size_t)len, GORGE_PARTITIONS)]++;
  }
  for (int i = 0; i < GORGE_PARTITIONS; i++) {
    assert_in_range(count[i], 800, 1200);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_check_value),
      cmocka_unit_test(test_slots),
      cmocka_unit_test(test_partitions_do_not_change),
      cmocka_unit_test(test_partitions_are_even),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
