/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "drive/ev.h"
#include "io/l2.h"
#include "test/control_support.h"

/* ---- leases ---- */

static struct gorge_flight_ref begin_flight(const char *name, uint32_t owner_id, uint32_t worker_number,
                                            uint64_t lease_ms, uint64_t cap_ms, int expected) {
  struct gorge_key key;
  struct gorge_snapshot snapshot;
  struct gorge_flight_ref ref;
  uint64_t previous;
  gorge_key_init(fixture.zone, fixture_ns(), name, (uint32_t)strlen(name), &key);
  gorge_l1_snapshot(fixture.zone, &key, NULL, 0, &snapshot);
  struct gorge_flight_request rq = {.key = &key,
                                    .snapshot = &snapshot,
                                    .owner_id = owner_id,
                                    .worker = worker_number,
                                    .now_ms = gorge_clock_ms(),
                                    .lease_ms = lease_ms,
                                    .cap_ms = cap_ms};
  assert_int_equal(gorge_flight_begin(fixture.zone, &rq, &ref, &previous), expected);
  return ref;
}

static int check(const struct gorge_flight_ref *waiter) {
  char error[GORGE_ERROR_MAX];
  uint32_t len;
  return gorge_flight_check(fixture.zone, waiter, gorge_clock_ms(), error, &len);
}

static struct gorge_flight_look look(const char *name) {
  struct gorge_key key;
  struct gorge_flight_look look;
  gorge_key_init(fixture.zone, fixture_ns(), name, (uint32_t)strlen(name), &key);
  gorge_flight_look(fixture.zone, &key, GORGE_WORKERS, gorge_clock_ms(), &look);
  return look;
}

static uint64_t end_of_lease(const char *name) { return (uint64_t)look(name).deadline_ms; }

enum { LEASE_MS = 300, CAP_MS = 60000, RENEWALS = 4 };

static void test_a_lease_is_renewed_while_the_main_thread_is_busy_up_to_its_cap(void **state) {
  (void)state;
  enum { LONG_LEASE_MS = 1500, SHORT_CAP_MS = 2000 };
  struct gorge_flight_ref flight =
      begin_flight("busy", fixture.owner.id, fixture.owner.worker, LONG_LEASE_MS, SHORT_CAP_MS, GORGE_LEASE);
  struct gorge_flight_ref waiter = begin_flight("busy", fixture.owner.id, 5, LONG_LEASE_MS, SHORT_CAP_MS, GORGE_BUSY);
  uint64_t cap_ms = (uint64_t)look("busy").latest_ms;
  assert_true(end_of_lease("busy") < cap_ms);
  assert_int_not_equal(gorge_control_lease_add(fixture.control, -1, &flight, "busy", 4, 0, LONG_LEASE_MS), 0);
  assert_true(WAIT_UNTIL(end_of_lease("busy") == cap_ms)); /* this thread does nothing for it */
  assert_true(WAIT_UNTIL(check(&waiter) != GORGE_PENDING));
  assert_int_equal(check(&waiter), GORGE_LEASE);
  assert_true(gorge_clock_ms() >= cap_ms);
  assert_int_equal(end_of_lease("busy"), cap_ms);
}

/*
 * Renewals go on, each for a lease from then. One that comes late, since the machine has other things to do, is none the worse here: nobody takes
 * the fill over. By the least time between two they are there long before the lease ends.
 */
static void assert_renewed(const char *name) {
  uint64_t before = end_of_lease(name), now = before, least = UINT64_MAX;
  for (int i = 0; i < RENEWALS; i++, before = now) {
    assert_true(WAIT_UNTIL((now = end_of_lease(name)) > before));
    assert_true(now <= gorge_clock_ms() + LEASE_MS);
    least = now - before < least ? now - before : least;
  }
  assert_true(least <= LEASE_MS / 2);
}

/* The lease runs out, and is not renewed either when three more renewals would have been due. */
static void assert_renewed_no_more(const char *name, const struct gorge_flight_ref *waiter) {
  assert_true(WAIT_UNTIL(check(waiter) != GORGE_PENDING));
  uint64_t end = end_of_lease(name);
  assert_true(WAIT_UNTIL(gorge_clock_ms() >= end + LEASE_MS));
  assert_int_equal(end_of_lease(name), end);
  assert_int_equal(check(waiter), GORGE_LEASE);
}

static void test_a_removed_lease_is_renewed_no_more(void **state) {
  (void)state;
  struct gorge_flight_ref flight =
      begin_flight("end", fixture.owner.id, fixture.owner.worker, LEASE_MS, CAP_MS, GORGE_LEASE);
  struct gorge_flight_ref waiter = begin_flight("end", fixture.owner.id, 5, LEASE_MS, CAP_MS, GORGE_BUSY);
  uint64_t id = gorge_control_lease_add(fixture.control, -1, &flight, "end", 3, 0, LEASE_MS);
  assert_renewed("end");
  gorge_control_lease_remove(fixture.control, id);
  gorge_control_lease_remove(fixture.control, id);
  gorge_control_lease_remove(fixture.control, 0);
  gorge_control_lease_remove(fixture.control, UINT64_MAX);
  assert_renewed_no_more("end", &waiter);
}

static void test_an_old_id_removes_nothing_new(void **state) {
  (void)state;
  struct gorge_flight_ref flight =
      begin_flight("new", fixture.owner.id, fixture.owner.worker, LEASE_MS, CAP_MS, GORGE_LEASE);
  uint64_t old = gorge_control_lease_add(fixture.control, -1, &flight, "old", 3, 0, LEASE_MS);
  gorge_control_lease_remove(fixture.control, old);
  assert_int_not_equal(gorge_control_lease_add(fixture.control, -1, &flight, "new", 3, 0, LEASE_MS), old);
  gorge_control_lease_remove(fixture.control, old);
  assert_renewed("new");
}

static void test_leases_end_with_their_watch(void **state) {
  (void)state;
  struct seen s = {0};
  int handle = fixture_watch(&s);
  struct gorge_flight_ref flight =
      begin_flight("w", fixture.owner.id, fixture.owner.worker, LEASE_MS, CAP_MS, GORGE_LEASE);
  struct gorge_flight_ref waiter = begin_flight("w", fixture.owner.id, 5, LEASE_MS, CAP_MS, GORGE_BUSY);
  gorge_control_lease_add(fixture.control, handle, &flight, "w", 1, 0, LEASE_MS);
  assert_renewed("w");
  gorge_control_unwatch(fixture.control, handle);
  assert_renewed_no_more("w", &waiter);
}

/* How often the threads of this process went to sleep by themselves in each `ms`; the calling one does so once. */
static double sleeps_in(unsigned ms) {
  long count[2];
  uint64_t at_us[2];
  for (int i = 0; i < 2; i++) {
    FILE *f = popen("cat /proc/$PPID/task/*/status | awk '/^voluntary/ { n += $2 } END { print n }'", "r");
    char line[32];
    assert_non_null(fgets(line, sizeof line, f));
    pclose(f);
    count[i] = atol(line);
    at_us[i] = support_now_us();
    usleep(i == 0 ? ms * 1000 : 0);
  }
  return (double)(count[1] - count[0]) * ms * 1000 / (double)(at_us[1] - at_us[0]); /* it may have been longer */
}

static void test_the_thread_sleeps_between_its_duties(void **state) {
  (void)state;
  struct seen s = {0};
  struct gorge_flight_ref flight = begin_flight("z", fixture.owner.id, fixture.owner.worker, 150, CAP_MS, GORGE_LEASE);
  assert_true(sleeps_in(200) < 20);
  int handle = fixture_watch(&s);
  assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
  uint64_t id = gorge_control_lease_add(fixture.control, handle, &flight, "z", 1, 0, 150);
  assert_true(sleeps_in(500) < 60); /* about 10 renewals */
  gorge_control_lease_remove(fixture.control, id);
  assert_true(sleeps_in(500) < 40);
}

enum { MANY = 3000 };

/* Adds leases that are nobody's: they leave the list by themselves, unless they are removed first. */
static void add_many(uint64_t *ids) {
  for (int i = 0; i < MANY; i++) {
    struct gorge_flight_ref foreign = {.index = (uint32_t)i, .owner = 1, .token = UINT64_MAX};
    ids[i] = gorge_control_lease_add(fixture.control, -1, &foreign, "many", 4, 0, i % 3 == 0 ? 15 : 60);
    assert_int_not_equal(ids[i], 0);
  }
}

static void remove_many(const uint64_t *ids) {
  for (int i = 0; i < MANY; i++) {
    gorge_control_lease_remove(fixture.control, ids[i]);
  }
}

static void test_leases_come_and_go_by_thousands(void **state) {
  (void)state;
  static uint64_t before[MANY], after[MANY];
  for (int round = 0; round < 4; round++) {
    add_many(before);
    remove_many(before);
  }
  add_many(before);
  struct gorge_flight_ref flight =
      begin_flight("one", fixture.owner.id, fixture.owner.worker, LEASE_MS, CAP_MS, GORGE_LEASE);
  struct gorge_flight_ref waiter = begin_flight("one", fixture.owner.id, 5, LEASE_MS, CAP_MS, GORGE_BUSY);
  uint64_t id = gorge_control_lease_add(fixture.control, -1, &flight, "one", 3, 0, LEASE_MS);
  add_many(after);
  remove_many(before);
  assert_renewed("one");
  remove_many(after);
  gorge_control_lease_remove(fixture.control, id);
  assert_renewed_no_more("one", &waiter);
}

/* ---- leases in Redis ---- */

/* How long the lease of a key lasts yet in Redis, in the epoch of the fixture. */
static long left_in_redis(const char *name) {
  char command[64], answer[32];
  snprintf(command, sizeof command, "PTTL {4:test:0}:7:l:%s", name);
  assert_true(support_redis_command(&fixture.redis, command, answer, sizeof answer));
  return strtol(answer + 1, NULL, 10);
}

static void test_a_lease_in_redis_is_renewed(void **state) {
  (void)state;
  enum { LONG_LEASE_MS = 1800, TWICE = 2 };
  struct seen s = {0};
  int handle = fixture_watch(&s);
  struct gorge_flight_ref flight =
      begin_flight("l2", fixture.owner.id, fixture.owner.worker, LONG_LEASE_MS, CAP_MS, GORGE_LEASE);
  assert_int_equal(client_ask(GORGE_L2_LEASE, "l2", 1001, LONG_LEASE_MS), GORGE_LEASE);
  uint64_t id = gorge_control_lease_add(fixture.control, handle, &flight, "l2", 2, 1001, LONG_LEASE_MS);
  long before_ms = LONG_LEASE_MS;
  for (int renewals = 0; renewals < TWICE;) {
    assert_int_equal(client_ask(GORGE_L2_LEASE, "l2", 1002, 200), GORGE_BUSY);
    long left_ms = left_in_redis("l2");
    renewals += left_ms > before_ms;
    before_ms = left_ms;
    support_nap();
  }
  gorge_control_lease_remove(fixture.control, id);
  assert_true(WAIT_UNTIL(client_ask(GORGE_L2_LEASE, "l2", 1002, 200) == GORGE_LEASE));
  gorge_control_unwatch(fixture.control, handle);
}

static void test_a_lease_that_redis_refuses_is_let_go(void **state) {
  (void)state;
  struct seen s = {0};
  int handle = fixture_watch(&s);
  struct gorge_flight_ref flight =
      begin_flight("lost", fixture.owner.id, fixture.owner.worker, LEASE_MS, CAP_MS, GORGE_LEASE);
  assert_int_equal(client_ask(GORGE_L2_LEASE, "lost", 1001, CAP_MS), GORGE_LEASE);
  uint64_t id = gorge_control_lease_add(fixture.control, handle, &flight, "lost", 4, 1001, LEASE_MS);
  assert_int_equal(client_ask(GORGE_L2_DELETE, "lost", 0, 0), GORGE_OK); /* kills the lease */
  assert_int_equal(client_ask(GORGE_L2_LEASE, "lost", 1002, LEASE_MS), GORGE_LEASE);
  assert_renewed("lost");                                                                     /* the host's goes on */
  assert_true(WAIT_UNTIL(client_ask(GORGE_L2_LEASE, "lost", 1003, LEASE_MS) == GORGE_LEASE)); /* nobody renews 1002 */
  gorge_control_lease_remove(fixture.control, id);
  gorge_control_unwatch(fixture.control, handle);
}

static void test_a_lease_may_go_while_its_renewal_is_under_way(void **state) {
  (void)state;
  struct seen s = {0};
  struct gorge_flight_ref flight = begin_flight("way", fixture.owner.id, fixture.owner.worker, 15, 60000, GORGE_LEASE);
  for (int round = 0; round < 3; round++) {
    int handle = fixture_watch(&s);
    uint64_t ids[50];
    for (int i = 0; i < 50; i++) {
      ids[i] = gorge_control_lease_add(fixture.control, handle, &flight, "way", 3, 1001, 15);
    }
    assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
    kill(fixture.redis.pid, SIGSTOP); /* renewals go out and are not answered */
    uint64_t start_ms = gorge_clock_ms();
    while (gorge_clock_ms() < start_ms + 40) {
      support_nap();
    }
    for (int i = 0; i < 50 && round > 0; i++) {
      gorge_control_lease_remove(fixture.control, ids[i]);
    }
    if (round == 1) {
      kill(fixture.redis.pid, SIGCONT); /* the answers come for leases that are gone */
      assert_int_equal(client_ask(GORGE_L2_LEASE, "other", 1, 100), GORGE_LEASE);
    }
    gorge_control_unwatch(fixture.control, handle);
    kill(fixture.redis.pid, SIGCONT);
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_prepare, fixture_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_a_lease_is_renewed_while_the_main_thread_is_busy_up_to_its_cap),
      TEST(test_a_removed_lease_is_renewed_no_more),
      TEST(test_an_old_id_removes_nothing_new),
      TEST(test_leases_end_with_their_watch),
      TEST(test_the_thread_sleeps_between_its_duties),
      TEST(test_leases_come_and_go_by_thousands),
      TEST(test_a_lease_in_redis_is_renewed),
      TEST(test_a_lease_that_redis_refuses_is_let_go),
      TEST(test_a_lease_may_go_while_its_renewal_is_under_way),
  };
  return cmocka_run_group_tests(tests, fixture_begin, fixture_end);
}
