/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "resil/breaker.h"

enum { T0 = 5000000 };

static const struct gorge_breaker_config three = {.max_failures = 3, .timeout_ms = 1000};

static void assert_state(const struct gorge_breaker_words *w, enum gorge_breaker_state state) {
  assert_int_equal(gorge_breaker_state(w), state);
}

static void open_it(struct gorge_breaker_words *w, uint64_t now_ms) {
  for (uint32_t i = 0; i < three.max_failures; i++) {
    gorge_breaker_failure(w, &three, now_ms);
  }
  assert_state(w, GORGE_BREAKER_OPEN);
}

static void test_opens_after_failures_in_a_row(void **state) {
  (void)state;
  struct gorge_breaker_words w = {0};
  assert_false(gorge_breaker_failure(&w, &three, T0));
  assert_false(gorge_breaker_failure(&w, &three, T0));
  gorge_breaker_success(&w, &three, T0); /* the row is broken */
  assert_false(gorge_breaker_failure(&w, &three, T0));
  assert_false(gorge_breaker_failure(&w, &three, T0));
  assert_true(gorge_breaker_allow(&w, &three, T0));
  assert_true(gorge_breaker_failure(&w, &three, T0));
  assert_state(&w, GORGE_BREAKER_OPEN);
  assert_int_equal(w.opens, 1);
  assert_false(gorge_breaker_allow(&w, &three, T0 + 999));
  assert_true(gorge_breaker_refuses(&w, &three, T0 + 999));
  assert_false(gorge_breaker_failure(&w, &three, T0 + 999)); /* of a call from before: it is open already */
  assert_int_equal(w.opens, 1);
}

static void test_one_probe_and_only_one(void **state) {
  (void)state;
  struct gorge_breaker_words w = {0};
  open_it(&w, T0);
  assert_false(gorge_breaker_refuses(&w, &three, T0 + 1000));
  assert_state(&w, GORGE_BREAKER_OPEN); /* looking changes nothing */
  assert_true(gorge_breaker_allow(&w, &three, T0 + 1000));
  assert_state(&w, GORGE_BREAKER_HALF_OPEN);
  assert_false(gorge_breaker_allow(&w, &three, T0 + 1000));
  assert_false(gorge_breaker_allow(&w, &three, T0 + 1999));
  assert_true(gorge_breaker_refuses(&w, &three, T0 + 1999));
  gorge_breaker_success(&w, &three, T0 + 1999);
  assert_state(&w, GORGE_BREAKER_CLOSED);
  assert_true(gorge_breaker_allow(&w, &three, T0 + 1999));
  /* the failures from before are forgotten */
  assert_false(gorge_breaker_failure(&w, &three, T0 + 2000));
  assert_false(gorge_breaker_failure(&w, &three, T0 + 2000));
  assert_true(gorge_breaker_failure(&w, &three, T0 + 2000));
}

static void test_a_failed_probe_opens_again(void **state) {
  (void)state;
  struct gorge_breaker_words w = {0};
  open_it(&w, T0);
  assert_true(gorge_breaker_allow(&w, &three, T0 + 1000));
  assert_true(gorge_breaker_failure(&w, &three, T0 + 1100));
  assert_state(&w, GORGE_BREAKER_OPEN);
  assert_int_equal(w.opens, 2);
  assert_false(gorge_breaker_allow(&w, &three, T0 + 2099));
  assert_true(gorge_breaker_allow(&w, &three, T0 + 2100));
}

static void test_a_probe_that_never_answers(void **state) {
  (void)state;
  struct gorge_breaker_words w = {0};
  open_it(&w, T0);
  assert_true(gorge_breaker_allow(&w, &three, T0 + 1000));
  /* open again from 2000 on: refused until 3000, then the next probe */
  assert_false(gorge_breaker_allow(&w, &three, T0 + 2000));
  assert_state(&w, GORGE_BREAKER_OPEN);
  assert_int_equal(w.opens, 2);
  assert_true(gorge_breaker_refuses(&w, &three, T0 + 2999));
  assert_false(gorge_breaker_allow(&w, &three, T0 + 2999));
  assert_false(gorge_breaker_refuses(&w, &three, T0 + 3000));
  assert_true(gorge_breaker_allow(&w, &three, T0 + 3000));
  /* nobody looks for long: the same, without waiting once more */
  assert_false(gorge_breaker_refuses(&w, &three, T0 + 5000));
  assert_true(gorge_breaker_allow(&w, &three, T0 + 5000));
  assert_false(gorge_breaker_allow(&w, &three, T0 + 5001));
}

static void test_a_late_success_does_not_close(void **state) {
  (void)state;
  struct gorge_breaker_words w = {0};
  open_it(&w, T0);
  gorge_breaker_success(&w, &three, T0 + 1);
  assert_state(&w, GORGE_BREAKER_OPEN);
}

static void test_no_breaker(void **state) {
  (void)state;
  static const struct gorge_breaker_config none = {.max_failures = 0, .timeout_ms = 1000};
  struct gorge_breaker_words w = {0};
  for (int i = 0; i < 100; i++) {
    assert_false(gorge_breaker_failure(&w, &none, T0));
    assert_true(gorge_breaker_allow(&w, &none, T0));
    assert_false(gorge_breaker_refuses(&w, &none, T0));
  }
  assert_state(&w, GORGE_BREAKER_CLOSED);
}

static void test_odd_settings_and_clocks(void **state) {
  (void)state;
  struct gorge_breaker_words w = {0};
  open_it(&w, T0);
  assert_false(gorge_breaker_allow(&w, &three, T0 - 50)); /* another processor's clock is a little behind */
  static const struct gorge_breaker_config at_once = {.max_failures = 1, .timeout_ms = 0};
  memset(&w, 0, sizeof w);
  assert_true(gorge_breaker_failure(&w, &at_once, T0));
  assert_true(gorge_breaker_allow(&w, &at_once, T0));
  assert_true(gorge_breaker_allow(&w, &at_once, T0));
  static const struct gorge_breaker_config many = {.max_failures = UINT32_MAX, .timeout_ms = 10};
  memset(&w, 0, sizeof w);
  int n = 1;
  while (!gorge_breaker_failure(&w, &many, T0) && n < 100000) {
    n++;
  }
  assert_int_equal(n, 16383);
  /* garbage in the word: no crash, no endless loop */
  w.state = UINT64_MAX;
  gorge_breaker_allow(&w, &three, T0);
  gorge_breaker_failure(&w, &three, T0);
  gorge_breaker_success(&w, &three, T0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_opens_after_failures_in_a_row), cmocka_unit_test(test_one_probe_and_only_one),
      cmocka_unit_test(test_a_failed_probe_opens_again),    cmocka_unit_test(test_a_probe_that_never_answers),
      cmocka_unit_test(test_a_late_success_does_not_close), cmocka_unit_test(test_no_breaker),
      cmocka_unit_test(test_odd_settings_and_clocks),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
