/* SPDX-License-Identifier: MIT */
/* Permits between processes: the limit holds, and who dies takes none along. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <unistd.h>

#include <cmocka.h>

#include "sync/permits.h"
#include "test/procs.h"

enum { NS = 2, MAX = 4 };

static struct gorge_zone *zone;
static struct gorge_owner me;
static struct gorge_worker_set waiters;

static int setup(void **state) {
  (void)state;
  zone = proc_zone(NULL);
  return gorge_owner_claim(zone, GORGE_THREAD_MAIN, &me);
}

/* Takes as many as it is told, says how many it got, gives back as many as it is told, and so on. */
static int hold(struct proc *self, void *arg) {
  struct gorge_owner owner;
  struct gorge_worker_set set;
  (void)arg;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner) == GORGE_OK);
  for (;;) {
    uint64_t take = proc_hear(self), got = 0;
    for (; got < take && gorge_permits_take(zone, NS, &owner, MAX); got++) {
    }
    proc_say(self, got);
    for (uint64_t give = proc_hear(self); give > 0; give--) {
      gorge_permits_give(zone, NS, &owner, &set);
    }
    proc_say(self, 0);
  }
}

static uint64_t take_in(const struct proc *p, uint64_t n) {
  proc_say(p, n);
  return proc_hear(p);
}

static void give_in(const struct proc *p, uint64_t n) {
  proc_say(p, n);
  proc_hear(p);
}

static uint32_t take_all(void) {
  uint32_t n = 0;
  while (n < 2 * MAX && gorge_permits_take(zone, NS, &me, MAX)) {
    n++;
  }
  return n;
}

static void give_all(uint32_t n) {
  for (; n > 0; n--) {
    gorge_permits_give(zone, NS, &me, &waiters);
  }
}

static void test_no_more_than_the_limit_are_taken(void **state) {
  (void)state;
  assert_int_equal(take_all(), MAX);
  assert_int_equal(gorge_permits_count(zone, NS), MAX);
  assert_int_equal(gorge_permits_count(zone, NS + 1), 0);
  assert_true(gorge_permits_take(zone, NS + 1, &me, 1)); /* another namespace has its own */
  assert_false(gorge_permits_take(zone, NS + 1, &me, 1));
  gorge_permits_give(zone, NS + 1, &me, &waiters);
  gorge_permits_give(zone, NS, &me, &waiters);
  assert_int_equal(gorge_permits_count(zone, NS), MAX - 1);
  assert_true(gorge_permits_take(zone, NS, &me, MAX));
  assert_false(gorge_permits_take(zone, NS, &me, MAX));
  give_all(MAX);
  gorge_permits_give(zone, NS, &me, &waiters); /* one more than it has: nothing happens */
  assert_int_equal(gorge_permits_count(zone, NS), 0);
  assert_int_equal(take_all(), MAX);
  give_all(MAX);
}

static void test_a_small_zone_has_room_for_a_few_namespaces(void **state) {
  (void)state;
  assert_true(gorge_permits_there(zone, 0) && gorge_permits_there(zone, 3));
  assert_false(gorge_permits_there(zone, 4) || gorge_permits_there(zone, UINT32_MAX));
  assert_int_equal(gorge_permits_count(zone, 4), 0);
}

static void test_a_limit_may_change_while_permits_are_out(void **state) {
  (void)state;
  assert_int_equal(take_all(), MAX);
  assert_false(gorge_permits_take(zone, NS, &me, 2));
  assert_true(gorge_permits_take(zone, NS, &me, MAX + 1));
  give_all(MAX - 1);
  assert_false(gorge_permits_take(zone, NS, &me, 2));
  give_all(1);
  assert_true(gorge_permits_take(zone, NS, &me, 2));
  give_all(2);
}

static void test_processes_share_the_limit(void **state) {
  (void)state;
  struct proc other = proc_start(hold, NULL);
  assert_int_equal(take_in(&other, 3), 3);
  assert_int_equal(take_all(), MAX - 3);
  assert_int_equal(gorge_permits_count(zone, NS), MAX);
  give_in(&other, 1);
  assert_int_equal(take_all(), 1);
  give_all(MAX - 2);
  give_in(&other, 0); /* its turn goes on with a take of none */
  proc_kill(&other);
}

static void test_who_is_killed_takes_none_along(void **state) {
  (void)state;
  for (int round = 0; round < 5; round++) {
    struct proc other = proc_start(hold, NULL);
    assert_int_equal(take_in(&other, MAX), MAX);
    assert_false(gorge_permits_take(zone, NS, &me, MAX));
    proc_kill(&other);
    assert_int_equal(gorge_permits_count(zone, NS), 0);
    assert_int_equal(take_all(), MAX); /* also when the next one has the slot of the one before */
    give_all(MAX);
  }
}

static void test_who_is_stopped_keeps_its_own(void **state) {
  (void)state;
  struct proc other = proc_start(hold, NULL);
  assert_int_equal(take_in(&other, 3), 3);
  proc_stop(&other);
  assert_int_equal(take_all(), MAX - 3);
  give_all(MAX - 3);
  proc_continue(&other);
  give_in(&other, 3);
  assert_int_equal(take_all(), MAX);
  give_all(MAX);
  proc_kill(&other);
}

static void test_who_gives_one_back_hears_who_waits(void **state) {
  (void)state;
  uint32_t other = 77;
  assert_int_equal(take_all(), MAX);
  gorge_permits_wait(zone, NS, other);
  gorge_permits_wait(zone, NS, me.worker);
  give_all(1);
  assert_int_equal(waiters.bits[0], (uint64_t)1 << me.worker);
  assert_int_equal(waiters.bits[1], (uint64_t)1 << (other - 64));
  give_all(1);
  assert_int_equal(waiters.bits[0] | waiters.bits[1], 0); /* told once */
  give_all(MAX - 2);
}

/* Takes and gives all the time; more than the limit at once would show in the word. */
static int churn(struct proc *self, void *arg) {
  uint64_t *inside = arg;
  struct gorge_owner owner;
  struct gorge_worker_set set;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner) == GORGE_OK);
  proc_say(self, 1);
  for (;;) {
    if (gorge_permits_take(zone, NS, &owner, MAX)) {
      __atomic_fetch_add(inside, 1, __ATOMIC_SEQ_CST);
      gorge_permits_give(zone, NS, &owner, &set);
    }
  }
}

static void test_kills_at_any_moment_cost_nothing(void **state) {
  (void)state;
  enum { CHILDREN = 3, KILLS = 60 };
  uint64_t *turns = proc_shared(sizeof *turns), seed = 1;
  struct proc children[CHILDREN];
  for (int i = 0; i < CHILDREN; i++) {
    children[i] = proc_start(churn, turns);
    proc_hear(&children[i]);
  }
  for (int i = 0; i < KILLS; i++) {
    uint64_t before = __atomic_load_n(turns, __ATOMIC_SEQ_CST);
    assert_true(proc_await(turns, before + proc_random(&seed) % 2000));
    proc_kill(&children[i % CHILDREN]);
    children[i % CHILDREN] = proc_start(churn, turns);
    proc_hear(&children[i % CHILDREN]);
  }
  for (int i = 0; i < CHILDREN; i++) {
    proc_kill(&children[i]);
  }
  assert_int_equal(gorge_permits_count(zone, NS), 0);
  assert_int_equal(take_all(), MAX);
  give_all(MAX);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_no_more_than_the_limit_are_taken, setup),
      cmocka_unit_test_setup(test_a_small_zone_has_room_for_a_few_namespaces, setup),
      cmocka_unit_test_setup(test_a_limit_may_change_while_permits_are_out, setup),
      cmocka_unit_test_setup(test_processes_share_the_limit, setup),
      cmocka_unit_test_setup(test_who_is_killed_takes_none_along, setup),
      cmocka_unit_test_setup(test_who_is_stopped_keeps_its_own, setup),
      cmocka_unit_test_setup(test_who_gives_one_back_hears_who_waits, setup),
      cmocka_unit_test_setup(test_kills_at_any_moment_cost_nothing, setup),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
