/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/floats.h"

static uint64_t settled_double(uint64_t bits) {
  char bytes[16] = {0};
  uint32_t at = 3; /* nothing is aligned */
  memcpy(bytes + at, &bits, sizeof bits);
  gorge_floats_settle(bytes, &at, 1, 0);
  memcpy(&bits, bytes + at, sizeof bits);
  return bits;
}

static uint32_t settled_float(uint32_t bits) {
  char bytes[16] = {0};
  uint32_t at = 5;
  memcpy(bytes + at, &bits, sizeof bits);
  gorge_floats_settle(bytes, &at, 0, 1);
  memcpy(&bits, bytes + at, sizeof bits);
  return bits;
}

static void test_numbers_stay(void **state) {
  (void)state;
  static const uint64_t doubles[] = {
      0, 1, UINT64_C(1) << 63, 0x7fefffffffffffff, 0x7ff0000000000000, 0xfff0000000000000};
  static const uint32_t floats[] = {0, 1, UINT32_C(1) << 31, 0x7f7fffff, 0x7f800000, 0xff800000};
  for (size_t i = 0; i < 6; i++) {
    assert_true(settled_double(doubles[i]) == doubles[i]);
    assert_int_equal(settled_float(floats[i]), floats[i]);
  }
}

static void test_every_nan_becomes_the_plain_one(void **state) {
  (void)state;
  for (int bit = 0; bit < 52; bit++) {
    for (int sign = 0; sign < 2; sign++) {
      assert_true(settled_double((uint64_t)sign << 63 | UINT64_C(0x7ff0000000000000) | UINT64_C(1) << bit) ==
                  0x7ff8000000000000);
    }
  }
  for (int bit = 0; bit < 23; bit++) {
    for (int sign = 0; sign < 2; sign++) {
      assert_int_equal(settled_float((uint32_t)sign << 31 | 0x7f800000 | UINT32_C(1) << bit), 0x7fc00000);
    }
  }
  assert_true(settled_double(UINT64_MAX) == 0x7ff8000000000000);
  assert_int_equal(settled_float(UINT32_MAX), 0x7fc00000);
}

static void test_only_the_places_named_are_touched(void **state) {
  (void)state;
  unsigned char bytes[40];
  memset(bytes, 0xff, sizeof bytes);
  static const uint32_t offsets[] = {1, 20, 30};
  gorge_floats_settle(bytes, offsets, 2, 1);
  int others = 0;
  for (size_t i = 0; i < sizeof bytes; i++) {
    others += bytes[i] == 0xff;
  }
  assert_int_equal(others, 40 - 8 - 8 - 4);
  double d;
  float f;
  memcpy(&d, bytes + 20, sizeof d);
  memcpy(&f, bytes + 30, sizeof f);
  assert_true(isnan(d) && isnan(f));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_numbers_stay),
      cmocka_unit_test(test_every_nan_becomes_the_plain_one),
      cmocka_unit_test(test_only_the_places_named_are_touched),
  };
  return cmocka_run_group_tests_name("floats", tests, NULL, NULL);
}
