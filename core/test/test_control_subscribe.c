/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "test/calm.h"
#include "test/control_support.h"
#include "test/procs.h"

/* ---- subscriptions ---- */

static void test_messages_of_the_namespace_arrive(void **state) {
  (void)state;
  struct seen s = {0};
  struct calm start = calm_begin();
  int handle = fixture_watch(&s);
  assert_true(handle >= 0);
  assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
  assert_true(calm_ms(start) < 400); /* at once, not with the first election round */
  assert_int_equal(word(&s.resyncs), 1);
  fixture_publish(GORGE_MESSAGE_KEY, "apple");
  assert_true(WAIT_UNTIL(word(&s.messages) == 1));
  assert_int_equal(s.last_type, GORGE_MESSAGE_KEY);
  assert_int_equal(s.last_version, 42);
  assert_string_equal(s.last, "apple");
  fixture_publish(GORGE_MESSAGE_TAG, "fruit");
  assert_true(WAIT_UNTIL(word(&s.messages) == 2));
  assert_int_equal(s.last_type, GORGE_MESSAGE_TAG);
  gorge_control_unwatch(fixture.control, handle);
  assert_false(gorge_control_subscribed(fixture.control, handle));
}

static void test_a_redis_that_comes_back_means_a_resync(void **state) {
  (void)state;
  struct seen s = {0};
  int handle = fixture_watch(&s);
  assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
  support_redis_kill(&fixture.redis);
  assert_true(WAIT_UNTIL(!gorge_control_subscribed(fixture.control, handle)));
  assert_true(support_redis_restart(&fixture.redis));
  assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
  assert_int_equal(word(&s.resyncs), 2);
  assert_true(WAIT_UNTIL(word(&s.messages) == 1)); /* its epoch was lost with the rest, and is another one */
  assert_int_equal(s.last_type, GORGE_MESSAGE_CLEAR);
  fixture_publish(GORGE_MESSAGE_KEY, "pear");
  assert_true(WAIT_UNTIL(word(&s.messages) == 2));
  gorge_control_unwatch(fixture.control, handle);
}

static void test_redis_may_come_after_the_watch(void **state) {
  (void)state;
  struct seen s = {0};
  support_redis_kill(&fixture.redis);
  int handle = fixture_watch(&s);
  assert_false(gorge_control_subscribed(fixture.control, handle));
  assert_true(support_redis_restart(&fixture.redis));
  assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
  gorge_control_unwatch(fixture.control, handle);
}

static void test_no_hook_runs_after_unwatch(void **state) {
  (void)state;
  struct seen s = {0};
  for (int round = 0; round < 20; round++) {
    int handle = fixture_watch(&s);
    assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
    for (int i = 0; i < 20; i++) {
      fixture_publish(GORGE_MESSAGE_KEY, "many");
    }
    gorge_control_unwatch(fixture.control, handle);
    uint64_t messages = word(&s.messages);
    memset(&s, 0, sizeof s); /* a hook that still ran would be seen here, and by the sanitizers */
    assert_true(messages <= 20);
    assert_int_equal(word(&s.messages), 0);
  }
}

static void test_watches_are_bounded(void **state) {
  (void)state;
  static struct seen s[64];
  for (int i = 0; i < 64; i++) {
    assert_int_equal(fixture_watch(&s[i]), i);
  }
  assert_int_equal(fixture_watch(&s[0]), GORGE_ERR_FULL);
  gorge_control_unwatch(fixture.control, 17);
  assert_int_equal(fixture_watch(&s[17]), 17);
  gorge_control_unwatch(fixture.control, 1000); /* ignored */
}

static void test_stopping_does_not_wait_for_redis(void **state) {
  (void)state;
  struct seen s = {0};
  struct gorge_flight_ref flight = {.index = 0, .owner = 1, .token = 7};
  int handle = fixture_watch(&s);
  assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
  kill(fixture.redis.pid, SIGSTOP);
  gorge_control_lease_add(fixture.control, handle, &flight, "k", 1, 9, 15);
  struct calm start = calm_begin();
  gorge_control_stop(fixture.control);
  assert_true(calm_ms(start) < PATIENCE_MS / 10); /* all of it, if it waited for an answer */
  fixture_start();
  fixture_watch(&s); /* connects, and gets no answer */
  start = calm_begin();
  gorge_control_stop(fixture.control);
  fixture.control = NULL;
  assert_true(calm_ms(start) < PATIENCE_MS / 10);
  kill(fixture.redis.pid, SIGCONT);
}

/* ---- the election ---- */

/* A worker: watches, tells whether it holds the subscription, ends when told. */
static int worker(struct proc *self, void *arg) {
  struct seen *s = arg;
  (void)self;
  CHILD_CHECK(gorge_owner_claim(fixture.zone, GORGE_THREAD_MAIN, &fixture.owner) == GORGE_OK);
  fixture_start();
  int handle = fixture_watch(s);
  while (word(&s->leave) == 0) {
    __atomic_store_n(&s->subscribed, gorge_control_subscribed(fixture.control, handle), __ATOMIC_RELEASE);
    support_nap();
  }
  gorge_control_stop(fixture.control);
  gorge_owner_release(fixture.zone, &fixture.owner);
  __atomic_store_n(&s->subscribed, 0, __ATOMIC_RELEASE);
  __atomic_store_n(&s->gone, 1, __ATOMIC_RELEASE);
  return 0;
}

struct pair {
  struct proc p[2];
  struct seen *s; /* two */
  int holder;
};

/* Two workers of which one holds the subscription. */
static void start_pair(struct pair *pair) {
  pair->s = proc_shared(2 * sizeof *pair->s);
  for (int i = 0; i < 2; i++) {
    pair->p[i] = proc_start(worker, &pair->s[i]);
  }
  assert_true(WAIT_UNTIL(word(&pair->s[0].subscribed) + word(&pair->s[1].subscribed) == 1));
  pair->holder = word(&pair->s[0].subscribed) == 1 ? 0 : 1;
}

static void end_worker(struct pair *pair, int i) {
  __atomic_store_n(&pair->s[i].leave, 1, __ATOMIC_RELEASE);
  assert_int_equal(proc_wait(&pair->p[i]), 0);
}

/* Until the other one is subscribed. */
static void await_other(const struct pair *pair) {
  assert_true(WAIT_UNTIL(word(&pair->s[!pair->holder].subscribed) == 1));
}

static int prepare_pair(void **state) {
  int failed = fixture_prepare(state);
  gorge_control_stop(fixture.control); /* the workers are children; this process keeps out of the election */
  fixture.control = NULL;
  return failed;
}

static void test_a_killed_holder_is_replaced(void **state) {
  (void)state;
  struct pair pair;
  start_pair(&pair);
  fixture_publish(GORGE_MESSAGE_KEY, "one");
  assert_true(WAIT_UNTIL(word(&pair.s[pair.holder].messages) == 1));
  assert_int_equal(word(&pair.s[!pair.holder].messages), 0);
  proc_stop(&pair.p[!pair.holder]);
  proc_kill(&pair.p[pair.holder]);
  assert_int_equal(client_ask(GORGE_L2_DELETE, "gap", 0, 0), GORGE_OK); /* nobody listens */
  proc_continue(&pair.p[!pair.holder]);
  struct calm start = calm_begin();
  await_other(&pair);
  assert_true(calm_ms(start) < 1500); /* its death is seen: before its lease of 2 s has run out */
  assert_int_equal(word(&pair.s[!pair.holder].messages), 1);
  assert_string_equal(pair.s[!pair.holder].last, "gap"); /* from the journal, before it counts as subscribed */
  assert_int_equal(word(&pair.s[!pair.holder].resyncs), 0);
  fixture_publish(GORGE_MESSAGE_KEY, "two");
  assert_true(WAIT_UNTIL(word(&pair.s[!pair.holder].messages) == 2));
  end_worker(&pair, !pair.holder);
}

static void test_a_stopped_holder_is_replaced_and_steps_back(void **state) {
  (void)state;
  struct pair pair;
  start_pair(&pair);
  proc_stop(&pair.p[pair.holder]);
  struct calm start = calm_begin();
  await_other(&pair);
  assert_true(support_now_us() - start.now_us >= 500000 &&
              calm_ms(start) <= 4000); /* alive, so not before its lease has run out */
  proc_continue(&pair.p[pair.holder]);
  assert_true(WAIT_UNTIL(word(&pair.s[pair.holder].subscribed) == 0));
  assert_int_equal(word(&pair.s[!pair.holder].subscribed), 1);
  end_worker(&pair, 0);
  end_worker(&pair, 1);
}

static void test_a_holder_that_ends_hands_over_at_once(void **state) {
  (void)state;
  struct pair pair;
  start_pair(&pair);
  __atomic_store_n(&pair.s[pair.holder].leave, 1, __ATOMIC_RELEASE);
  assert_true(WAIT_UNTIL(word(&pair.s[pair.holder].gone) == 1));
  struct calm start = calm_begin();
  await_other(&pair);
  assert_true(calm_ms(start) < 300); /* woken, not by the next round */
  end_worker(&pair, 0);
  end_worker(&pair, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_prepare, fixture_clean)
#define TEST_PAIR(name) cmocka_unit_test_setup_teardown(name, prepare_pair, fixture_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_messages_of_the_namespace_arrive),
      TEST(test_a_redis_that_comes_back_means_a_resync),
      TEST(test_redis_may_come_after_the_watch),
      TEST(test_no_hook_runs_after_unwatch),
      TEST(test_watches_are_bounded),
      TEST(test_stopping_does_not_wait_for_redis),
      TEST_PAIR(test_a_killed_holder_is_replaced),
      TEST_PAIR(test_a_stopped_holder_is_replaced_and_steps_back),
      TEST_PAIR(test_a_holder_that_ends_hands_over_at_once),
  };
  return cmocka_run_group_tests(tests, fixture_begin, fixture_end);
}
