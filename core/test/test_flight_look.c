/* SPDX-License-Identifier: MIT */
/* What people are told of a fill in progress. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "flight/table.h"
#include "test/flight_load.h"

enum { T = 1000000, LEASE = 5000, CAP = 30000 };

static struct gorge_zone *zone;
static struct gorge_owner me;
static struct gorge_key key;

static int setup(void **state) {
  (void)state;
  zone = proc_zone(gorge_l1_init);
  assert_int_equal(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &me), GORGE_OK);
  gorge_key_init(zone, 0, "key", 3, &key);
  return 0;
}

static int begin(uint32_t worker, struct gorge_flight_ref *ref) {
  struct gorge_snapshot snapshot;
  uint64_t previous;
  gorge_l1_snapshot(zone, &key, NULL, 0, &snapshot);
  struct gorge_flight_request rq = {.key = &key,
                                    .snapshot = &snapshot,
                                    .owner_id = me.id,
                                    .worker = worker,
                                    .now_ms = T,
                                    .lease_ms = LEASE,
                                    .cap_ms = CAP};
  return gorge_flight_begin(zone, &rq, ref, &previous);
}

static struct gorge_flight_look look(uint32_t worker, uint64_t after) {
  struct gorge_flight_look out;
  memset(&out, 0xff, sizeof out);
  gorge_flight_look(zone, &key, worker, T + after, &out);
  return out;
}

static void test_a_fill_from_begin_to_end(void **state) {
  (void)state;
  struct gorge_flight_ref ref, other;
  struct gorge_worker_set waiters;
  assert_int_equal(look(me.worker, 0).state, GORGE_FLIGHT_NONE);
  assert_int_equal(begin(me.worker, &ref), GORGE_LEASE);
  struct gorge_flight_look at = look(me.worker, 0);
  assert_int_equal(at.state, GORGE_FLIGHT_RUNS);
  assert_int_equal(at.waiters, 0);
  assert_true(at.here == 1 && at.leased == 0 && at.deadline_ms == T + LEASE && at.latest_ms == T + CAP);
  assert_int_equal(begin(5, &other), GORGE_BUSY);
  assert_int_equal(begin(70, &other), GORGE_BUSY);
  gorge_flight_set_l2_token(zone, &ref, 4711);
  at = look(GORGE_WORKERS, 0);
  assert_true(at.waiters == 2 && at.here == 0 && at.leased == 1);
  assert_int_equal(gorge_flight_renew(zone, &ref, T + 4000, LEASE), GORGE_OK);
  assert_true(look(me.worker, 0).deadline_ms == T + 4000 + LEASE);
  assert_int_equal(gorge_flight_finish(zone, &ref, T + 4000, GORGE_OK, NULL, 0, &waiters), GORGE_OK);
  assert_int_equal(look(me.worker, 4000).state, GORGE_FLIGHT_NONE);
}

static void test_what_nobody_waits_for_is_named(void **state) {
  (void)state;
  struct gorge_flight_ref ref, other;
  struct gorge_worker_set waiters;
  assert_int_equal(begin(me.worker, &ref), GORGE_LEASE);
  assert_int_equal(look(me.worker, LEASE - 1).state, GORGE_FLIGHT_RUNS);
  assert_int_equal(look(me.worker, LEASE).state, GORGE_FLIGHT_LAPSED);
  gorge_l1_invalidate(zone, &me, &key, 0, NULL);
  assert_int_equal(look(me.worker, 0).state, GORGE_FLIGHT_OVERTAKEN);
  assert_int_equal(begin(me.worker, &ref), GORGE_LEASE);
  gorge_flight_set_l2_token(zone, &ref, 4711);
  gorge_flight_abandon(zone, &ref, &waiters);
  assert_int_equal(look(me.worker, 0).state, GORGE_FLIGHT_GIVEN_UP);
  assert_int_equal(begin(me.worker, &ref), GORGE_LEASE);
  assert_int_equal(begin(5, &other), GORGE_BUSY);
  assert_int_equal(gorge_flight_finish(zone, &ref, T, GORGE_FAILED, "no", 2, &waiters), GORGE_OK);
  assert_int_equal(look(me.worker, 0).state, GORGE_FLIGHT_NONE); /* an error that is kept keeps nobody */
}

static void test_another_key_of_the_set_is_not_meant(void **state) {
  (void)state;
  struct gorge_flight_ref ref;
  assert_int_equal(begin(me.worker, &ref), GORGE_LEASE);
  struct gorge_key other = key;
  struct gorge_flight_look at;
  other.hash ^= 1;
  gorge_flight_look(zone, &other, me.worker, T, &at);
  assert_int_equal(at.state, GORGE_FLIGHT_NONE);
  other = key;
  other.ns = 1;
  gorge_flight_look(zone, &other, me.worker, T, &at);
  assert_int_equal(at.state, GORGE_FLIGHT_NONE);
}

static void test_a_look_writes_nothing(void **state) {
  (void)state;
  struct gorge_flight_ref ref;
  assert_int_equal(begin(me.worker, &ref), GORGE_LEASE);
  char *copy = malloc(zone->size);
  assert_non_null(copy);
  memcpy(copy, zone->base, zone->size);
  for (uint64_t after = 0; after < 2 * CAP; after += 1000) {
    (void)look(me.worker, after);
  }
  assert_memory_equal(copy, zone->base, zone->size);
  free(copy);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_a_fill_from_begin_to_end, setup),
      cmocka_unit_test_setup(test_what_nobody_waits_for_is_named, setup),
      cmocka_unit_test_setup(test_another_key_of_the_set_is_not_meant, setup),
      cmocka_unit_test_setup(test_a_look_writes_nothing, setup),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
