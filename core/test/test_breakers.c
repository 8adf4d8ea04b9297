/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "resil/breakers.h"

enum { T0 = 5000000, MINUTE = 60000, NS = 3, OTHER = 4 };

static const struct gorge_breaker_config three = {.max_failures = 3, .timeout_ms = 1000};

static uint64_t at(uint64_t number) { return gorge_breaker_place(number * GORGE_BREAKER_OWNERS, NS); }

/* Fails so often that the breaker opens. */
static void open_it(struct gorge_breaker_table *t, uint64_t place, uint64_t now_ms) {
  assert_false(gorge_breakers_failure(t, place, &three, now_ms));
  assert_false(gorge_breakers_failure(t, place, &three, now_ms));
  assert_true(gorge_breakers_failure(t, place, &three, now_ms));
}

static void test_each_server_has_its_own(void **state) {
  (void)state;
  static struct gorge_breaker_table t;
  const uint64_t first = at(7), second = at(7 + GORGE_BREAKERS), third = at(9); /* two begin at the same entry */
  assert_null(gorge_breakers_find(&t, first));
  open_it(&t, first, T0);
  assert_false(gorge_breakers_failure(&t, second, &three, T0));
  struct gorge_breaker_words *a = gorge_breakers_find(&t, first), *b = gorge_breakers_find(&t, second);
  assert_non_null(a);
  assert_non_null(b);
  assert_ptr_not_equal(a, b);
  assert_false(gorge_breaker_allow(a, &three, T0 + 999));
  assert_true(gorge_breaker_allow(b, &three, T0 + 999));
  assert_null(gorge_breakers_find(&t, third));
  assert_int_equal(gorge_breakers_state(&t, NS, T0 + 1000), GORGE_BREAKER_OPEN);
  assert_int_equal(gorge_breakers_state(&t, OTHER, T0 + 1000), GORGE_BREAKER_CLOSED);
  assert_null(gorge_breakers_find(&t, gorge_breaker_place(first, OTHER)));
  assert_true(gorge_breaker_allow(a, &three, T0 + 1000));
  assert_int_equal(gorge_breakers_state(&t, NS, T0 + 1000), GORGE_BREAKER_HALF_OPEN);
  gorge_breaker_success(a, &three, T0 + 1000);
  assert_int_equal(gorge_breakers_state(&t, NS, T0 + 1000), GORGE_BREAKER_CLOSED);
  assert_ptr_equal(gorge_breakers_find(&t, first), a);
}

static void test_without_a_breaker_nothing_is_counted(void **state) {
  (void)state;
  static struct gorge_breaker_table t;
  static const struct gorge_breaker_config none = {.max_failures = 0, .timeout_ms = 1000};
  for (int i = 0; i < 10; i++) {
    assert_false(gorge_breakers_failure(&t, at(3), &none, T0));
  }
  assert_null(gorge_breakers_find(&t, at(3)));
}

static void test_servers_that_answer_again_make_room(void **state) {
  (void)state;
  static struct gorge_breaker_table t;
  for (uint64_t place = 1; place <= GORGE_BREAKERS; place++) {
    open_it(&t, at(place), T0);
  }
  assert_false(gorge_breakers_failure(&t, at(100), &three, T0)); /* no room: not counted */
  assert_null(gorge_breakers_find(&t, at(100)));
  struct gorge_breaker_words *five = gorge_breakers_find(&t, at(5));
  assert_true(gorge_breaker_allow(five, &three, T0 + 1000));
  gorge_breaker_success(five, &three, T0 + 1000);
  open_it(&t, at(100), T0 + 1001);
  assert_ptr_equal(gorge_breakers_find(&t, at(100)), five);
  assert_null(gorge_breakers_find(&t, at(5)));
  for (uint64_t place = 1; place <= GORGE_BREAKERS; place++) { /* the others are what they were */
    const struct gorge_breaker_words *w = gorge_breakers_find(&t, at(place));
    assert_true(place == 5 || gorge_breaker_state(w) == GORGE_BREAKER_OPEN);
  }
}

static void test_a_server_that_is_no_more_makes_room_in_time(void **state) {
  (void)state;
  static struct gorge_breaker_table t;
  for (uint64_t place = 1; place <= GORGE_BREAKERS; place++) {
    open_it(&t, at(place), T0);
  }
  assert_int_equal(gorge_breakers_state(&t, NS, T0 + MINUTE + 1999), GORGE_BREAKER_OPEN);
  assert_int_equal(gorge_breakers_state(&t, NS, T0 + MINUTE + 2000), GORGE_BREAKER_CLOSED); /* it has left for good */
  assert_false(gorge_breakers_failure(&t, at(100), &three, T0 + MINUTE));
  assert_null(gorge_breakers_find(&t, at(100)));
  assert_false(gorge_breakers_failure(&t, at(100), &three, T0 + MINUTE + 2000));
  assert_false(gorge_breakers_failure(&t, at(100), &three, T0 + MINUTE + 2000)); /* it began anew */
  const struct gorge_breaker_words *w = gorge_breakers_find(&t, at(100));
  assert_non_null(w);
  assert_int_equal(gorge_breaker_state(w), GORGE_BREAKER_CLOSED);
}

/* The look at the only breaker of the namespace that is not closed; NULL: there is none. */
static const struct gorge_breaker_look *look(const struct gorge_breaker_table *t, uint32_t ns, uint64_t now_ms) {
  static struct gorge_breaker_look found;
  int count = 0;
  for (int i = 0; i < GORGE_BREAKERS; i++) {
    count += gorge_breakers_look(t, i, ns, now_ms, &found);
  }
  assert_in_range(count, 0, 1);
  return count == 1 ? &found : NULL;
}

static void test_those_that_are_not_closed_are_named(void **state) {
  (void)state;
  static struct gorge_breaker_table t;
  char longest[78], longer[79];
  memset(longest, 'x', sizeof longest);
  memset(longer, 'x', sizeof longer);
  longest[77] = longer[78] = '\0';
  const uint64_t place = gorge_breaker_place(gorge_breaker_hash("redis-1", 7001), NS);
  gorge_breakers_name(&t, place, "redis-1", 7001); /* it has none yet */
  assert_false(gorge_breakers_failure(&t, place, &three, T0));
  assert_null(look(&t, NS, T0)); /* it is closed */
  assert_false(gorge_breakers_failure(&t, place, &three, T0));
  assert_true(gorge_breakers_failure(&t, place, &three, T0));
  assert_int_equal(look(&t, NS, T0)->state, GORGE_BREAKER_OPEN);
  assert_string_equal(look(&t, NS, T0)->host, "");
  gorge_breakers_name(&t, place, "redis-1", 7001);
  assert_string_equal(look(&t, NS, T0)->host, "redis-1");
  assert_int_equal(look(&t, NS, T0)->port, 7001);
  assert_null(look(&t, OTHER, T0));
  gorge_breakers_name(&t, place, longest, 7001); /* not the name of that place */
  assert_string_equal(look(&t, NS, T0)->host, "");
  gorge_breakers_name(&t, place, "redis-1", 7001);
  gorge_breakers_name(&t, place, longer, 7001);
  assert_string_equal(look(&t, NS, T0)->host, "redis-1");
  struct gorge_breaker_words *w = gorge_breakers_find(&t, place);
  assert_true(gorge_breaker_allow(w, &three, T0 + 2000));
  assert_int_equal(look(&t, NS, T0 + 2000)->state, GORGE_BREAKER_HALF_OPEN);
  assert_null(look(&t, NS, T0 + 2 * MINUTE)); /* it has left for good */
  gorge_breaker_success(w, &three, T0 + 2000);
  assert_null(look(&t, NS, T0 + 2000));

  const uint64_t far = gorge_breaker_place(gorge_breaker_hash(longest, 1), OTHER);
  open_it(&t, far, T0);
  gorge_breakers_name(&t, far, longest, 1);
  assert_string_equal(look(&t, OTHER, T0)->host, longest);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_server_has_its_own),
      cmocka_unit_test(test_without_a_breaker_nothing_is_counted),
      cmocka_unit_test(test_servers_that_answer_again_make_room),
      cmocka_unit_test(test_a_server_that_is_no_more_makes_room_in_time),
      cmocka_unit_test(test_those_that_are_not_closed_are_named),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
