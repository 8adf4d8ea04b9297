/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "resil/backoff.h"

static void test_delays_stay_in_their_range_and_use_it(void **state) {
  (void)state;
  uint32_t low[12], high[12];
  memset(low, 0xff, sizeof low);
  memset(high, 0, sizeof high);
  for (uint64_t seed = 0; seed < 2000; seed++) {
    struct gorge_backoff b;
    gorge_backoff_init(&b, 50, 2000, seed);
    for (uint32_t n = 0; n < 12; n++) {
      uint32_t top = n < 5 ? 50U << (n + 1) : 2000, delay = gorge_backoff_next_ms(&b);
      assert_in_range(delay, 50, top);
      low[n] = delay < low[n] ? delay : low[n];
      high[n] = delay > high[n] ? delay : high[n];
    }
  }
  for (uint32_t n = 0; n < 12; n++) {
    uint32_t top = n < 5 ? 50U << (n + 1) : 2000;
    assert_true(low[n] < 50 + (top - 50) / 20 + 2);
    assert_true(high[n] > top - (top - 50) / 20 - 2);
  }
}

static void test_same_seed_same_delays_other_seed_others(void **state) {
  (void)state;
  struct gorge_backoff a, b, c;
  gorge_backoff_init(&a, 50, 2000, 7);
  gorge_backoff_init(&b, 50, 2000, 7);
  gorge_backoff_init(&c, 50, 2000, 8);
  int different = 0;
  for (int i = 0; i < 20; i++) {
    uint32_t x = gorge_backoff_next_ms(&a);
    assert_int_equal(x, gorge_backoff_next_ms(&b));
    different += x != gorge_backoff_next_ms(&c);
  }
  assert_true(different > 10);
}

static void test_reset_starts_small_again(void **state) {
  (void)state;
  struct gorge_backoff b;
  gorge_backoff_init(&b, 50, 2000, 3);
  for (int i = 0; i < 10; i++) {
    gorge_backoff_next_ms(&b);
  }
  gorge_backoff_reset(&b);
  assert_in_range(gorge_backoff_next_ms(&b), 50, 100);
}

static void test_extreme_settings(void **state) {
  (void)state;
  struct gorge_backoff b;
  gorge_backoff_init(&b, UINT32_MAX, 1, 3); /* a cap below the base */
  for (int i = 0; i < 100; i++) {
    assert_true(gorge_backoff_next_ms(&b) == UINT32_MAX);
  }
  gorge_backoff_init(&b, 0, 0, 3);
  for (int i = 0; i < 100; i++) {
    assert_int_equal(gorge_backoff_next_ms(&b), 0);
  }
  gorge_backoff_init(&b, 1, UINT32_MAX, 3);
  for (int i = 0; i < 1000; i++) {
    assert_true(gorge_backoff_next_ms(&b) >= 1);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_delays_stay_in_their_range_and_use_it),
      cmocka_unit_test(test_same_seed_same_delays_other_seed_others),
      cmocka_unit_test(test_reset_starts_small_again),
      cmocka_unit_test(test_extreme_settings),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
