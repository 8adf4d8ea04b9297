/* SPDX-License-Identifier: MIT */
/* The two clocks beside each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"

/* Whether it was so for a tenth of a second. */
static bool stays_close(uint64_t lag_ms) {
  uint64_t end_us = gorge_clock_us() + 100000, before_us, after_us;
  do {
    before_us = gorge_clock_us();
    uint64_t now_ms = gorge_clock_ms();
    after_us = gorge_clock_us();
    assert_true(now_ms * 1000 <= after_us); /* never ahead */
    if (before_us >= (now_ms + lag_ms) * 1000) {
      return false;
    }
  } while (after_us < end_us);
  return true;
}

static void test_the_coarse_clock_lies_behind_by_less_than_it_says(void **state) {
  (void)state;
  uint64_t lag_ms = gorge_clock_lag_ms(), patience_us = gorge_clock_us() + 10000000;
  assert_in_range(lag_ms, 1, 50);
  while (!stays_close(lag_ms)) { /* a tick of a busy machine may be late */
    assert_true(gorge_clock_us() < patience_us);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_coarse_clock_lies_behind_by_less_than_it_says),
  };
  return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
