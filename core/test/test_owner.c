/* SPDX-License-Identifier: MIT */
/* Owners: who counts as alive when processes and threads die, stop, fork, exec and come back. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "shm/layout.h"
#include "sync/owner.h"
#include "test/procs.h"

static struct gorge_owner claim(struct gorge_zone *zone) {
  struct gorge_owner owner;
  assert_int_equal(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner), GORGE_OK);
  assert_int_not_equal(owner.id, 0);
  assert_int_equal(gorge_owner_worker(owner.id), owner.worker);
  return owner;
}

static uint32_t claim_in_child(struct gorge_zone *zone) {
  struct gorge_owner owner;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner) == GORGE_OK);
  return owner.id;
}

static struct gorge_worker_slot *slot(struct gorge_zone *zone, uint32_t worker) {
  return (struct gorge_worker_slot *)gorge_zone_region(zone, GORGE_REGION_WORKERS, NULL) + worker;
}

static uint64_t deaths(struct gorge_zone *zone) {
  uint64_t counters[GORGE_COUNTERS];
  gorge_zone_sum_counters(zone, 3, counters);
  return counters[GORGE_COUNT_WORKER_DEATHS];
}

/* Claims, tells its id, waits to be told to end. */
static int live(struct proc *self, void *arg) {
  proc_say(self, claim_in_child(arg));
  proc_hear(self);
  return 0;
}

static void test_a_thread_gets_its_own_slot_again(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_owner a = claim(zone), b = claim(zone);
  assert_int_equal(a.id, b.id);
  assert_int_equal(gorge_owner_count(zone), 1);
  assert_true(gorge_owner_alive(zone, a.id));
}

static void test_slots_of_two_zones_are_two(void **state) {
  (void)state;
  struct gorge_zone *one = proc_zone(NULL), *two = proc_zone(NULL);
  struct gorge_owner a = claim(one);
  assert_int_equal(gorge_owner_count(two), 0);
  assert_false(gorge_owner_alive(two, a.id));
}

static void test_an_owner_released_is_dead_and_no_death(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_owner a = claim(zone);
  uint32_t id = a.id;
  gorge_owner_release(zone, &a);
  assert_int_equal(a.id, 0);
  assert_false(gorge_owner_alive(zone, id));
  assert_int_equal(gorge_owner_count(zone), 0);
  struct gorge_owner b = claim(zone);
  assert_int_equal(b.worker, gorge_owner_worker(id));
  assert_int_not_equal(b.id, id);
  assert_false(gorge_owner_alive(zone, id));
  assert_int_equal(deaths(zone), 0);
}

static void test_ids_that_nobody_has_are_dead(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_owner a = claim(zone);
  assert_false(gorge_owner_alive(zone, 0));
  assert_false(gorge_owner_alive(zone, 5));
  assert_false(gorge_owner_alive(zone, UINT32_MAX));
  assert_false(gorge_owner_alive(zone, a.id ^ 0x80));     /* its control thread */
  assert_false(gorge_owner_alive(zone, a.id + 1));        /* the next worker */
  assert_false(gorge_owner_alive(zone, a.id + (1 << 8))); /* the next generation */
  assert_true(gorge_owner_alive(zone, a.id));
}

static void test_killed_is_dead_and_its_slot_is_claimed_again(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct proc child = proc_start(live, zone);
  uint32_t id = (uint32_t)proc_hear(&child);
  assert_true(gorge_owner_alive(zone, id));
  assert_int_equal(gorge_owner_count(zone), 1);
  proc_kill(&child);
  assert_false(gorge_owner_alive(zone, id));
  assert_int_equal(gorge_owner_count(zone), 0);
  struct gorge_owner me = claim(zone);
  assert_int_equal(me.worker, gorge_owner_worker(id));
  assert_int_not_equal(me.id, id);
  assert_false(gorge_owner_alive(zone, id));
  assert_true(gorge_owner_alive(zone, me.id));
  assert_int_equal(deaths(zone), 1);
}

static void test_stopped_is_alive(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct proc child = proc_start(live, zone);
  uint32_t id = (uint32_t)proc_hear(&child);
  proc_stop(&child);
  for (int i = 0; i < 1000; i++) {
    assert_true(gorge_owner_alive(zone, id));
  }
  assert_int_not_equal(claim(zone).worker, gorge_owner_worker(id));
  proc_continue(&child);
  proc_kill(&child);
  assert_false(gorge_owner_alive(zone, id));
}

static int exec_something(struct proc *self, void *arg) {
  proc_say(self, claim_in_child(arg));
  proc_hear(self);
  execl("/bin/sleep", "sleep", "10", (char *)NULL);
  return 1;
}

static void test_a_process_that_runs_another_program_is_dead(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct proc child = proc_start(exec_something, zone);
  uint32_t id = (uint32_t)proc_hear(&child);
  assert_true(gorge_owner_alive(zone, id));
  proc_say(&child, 0);
  uint64_t start = gorge_clock_us();
  while (gorge_owner_alive(zone, id) && gorge_clock_us() - start < 10 * 1000 * 1000) {
    usleep(100);
  }
  assert_false(gorge_owner_alive(zone, id));
  proc_kill(&child);
}

/* What a fork's child knows of its parent's claim: arg[0] is the zone, arg[1] the parent's owner. */
static int child_of_an_owner(struct proc *self, void *arg) {
  void **args = arg;
  struct gorge_zone *zone = args[0];
  struct gorge_owner parents = *(struct gorge_owner *)args[1];
  uint32_t id = parents.id;
  CHILD_CHECK(gorge_owner_alive(zone, id));
  gorge_owner_release(zone, &parents); /* not its to give back */
  CHILD_CHECK(parents.id == 0);
  CHILD_CHECK(gorge_owner_alive(zone, id));
  struct gorge_owner control;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_CONTROL, &control) == GORGE_ERR_FULL);
  uint32_t mine = claim_in_child(zone);
  CHILD_CHECK(mine != id);
  CHILD_CHECK(gorge_owner_worker(mine) != gorge_owner_worker(id));
  CHILD_CHECK(gorge_owner_alive(zone, id));
  proc_say(self, mine);
  return 0;
}

static void test_a_fork_does_not_inherit_ownership(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_owner me = claim(zone);
  void *args[] = {zone, &me};
  struct proc child = proc_start(child_of_an_owner, args);
  uint32_t id = (uint32_t)proc_hear(&child);
  assert_int_equal(proc_wait(&child), 0);
  assert_true(gorge_owner_alive(zone, me.id));
  assert_false(gorge_owner_alive(zone, id));
}

/* A master that claims, goes into the background and starts a worker: parent ends, child goes on. */
static int worker_of_the_daemon(struct proc *self, void *arg) {
  void **args = arg;
  struct gorge_zone *zone = args[0];
  uint32_t masters = *(uint32_t *)args[1];
  proc_hear(self); /* the parent is about to end */
  uint64_t start = gorge_clock_us();
  while (gorge_owner_alive(zone, masters) && gorge_clock_us() - start < 10 * 1000 * 1000) {
    usleep(100);
  }
  CHILD_CHECK(!gorge_owner_alive(zone, masters));
  uint32_t mine = claim_in_child(zone);
  CHILD_CHECK(mine != masters && gorge_owner_alive(zone, mine));
  struct gorge_owner control;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_CONTROL, &control) == GORGE_OK);
  CHILD_CHECK(control.worker == gorge_owner_worker(mine));
  *(uint64_t *)args[2] = 1;
  return 0;
}

static int daemonise(struct proc *self, void *arg) {
  void **args = arg;
  uint32_t id = claim_in_child(args[0]);
  args[1] = &id;
  struct proc worker = proc_start(worker_of_the_daemon, args);
  proc_say(&worker, 0);
  proc_say(self, id);
  return 0;
}

static void test_a_daemon_claims_anew_after_its_parent_ended(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  uint64_t *done = proc_shared(sizeof *done);
  void *args[] = {zone, NULL, done};
  struct proc parent = proc_start(daemonise, args);
  proc_hear(&parent);
  assert_int_equal(proc_wait(&parent), 0);
  assert_true(proc_await(done, 1));
}

static void *claim_control(void *arg) {
  void **args = arg;
  struct gorge_owner *out = args[1];
  args[2] = (void *)(intptr_t)gorge_owner_claim(args[0], GORGE_THREAD_CONTROL, out);
  return NULL; /* dies as owner */
}

static void *release_control(void *arg) {
  void **args = arg;
  claim_control(arg);
  gorge_owner_release(args[0], args[1]);
  return NULL;
}

static void run_thread(void *(*body)(void *), void *arg) {
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, body, arg), 0);
  pthread_join(thread, NULL);
}

static void test_control_dies_and_returns_while_main_lives(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_owner none, control = {0};
  assert_int_equal(gorge_owner_claim(zone, GORGE_THREAD_CONTROL, &none), GORGE_ERR_FULL);
  struct gorge_owner me = claim(zone);
  void *args[] = {zone, &control, NULL};
  run_thread(claim_control, args);
  assert_int_equal((intptr_t)args[2], GORGE_OK);
  assert_int_equal(control.worker, me.worker);
  assert_int_not_equal(control.id, me.id);
  uint32_t first = control.id;
  assert_false(gorge_owner_alive(zone, first));
  assert_true(gorge_owner_alive(zone, me.id));
  run_thread(release_control, args);
  assert_int_equal((intptr_t)args[2], GORGE_OK);
  assert_int_equal(control.id, 0);
  run_thread(claim_control, args);
  assert_int_equal((intptr_t)args[2], GORGE_OK);
  assert_int_not_equal(control.id, first);
  assert_true(gorge_owner_alive(zone, me.id));
  assert_int_equal(deaths(zone), 0); /* a control thread is not a worker */
}

/* Main ends, the control thread of the slot lives on until told. */
static void *control_until_told(void *arg) {
  void **args = arg;
  uint64_t *flags = args[1];
  struct gorge_owner control;
  gorge_owner_claim(args[0], GORGE_THREAD_CONTROL, &control);
  __atomic_store_n(&flags[0], control.id, __ATOMIC_RELEASE);
  proc_await(&flags[1], 1);
  gorge_owner_release(args[0], &control);
  return NULL;
}

static void test_a_slot_is_not_given_away_under_a_living_control_thread(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  uint64_t flags[2] = {0, 0};
  void *args[] = {zone, flags};
  struct gorge_owner me = claim(zone);
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, control_until_told, args), 0);
  assert_true(proc_await(&flags[0], 1));
  uint32_t worker = me.worker;
  gorge_owner_release(zone, &me);
  me = claim(zone);
  assert_int_not_equal(me.worker, worker);
  gorge_owner_release(zone, &me);
  __atomic_store_n(&flags[1], 1, __ATOMIC_RELEASE);
  pthread_join(thread, NULL);
  assert_int_equal(claim(zone).worker, worker);
}

static void *claim_main(void *arg) {
  void **args = arg;
  args[2] = (void *)(intptr_t)gorge_owner_claim(args[0], GORGE_THREAD_MAIN, args[1]);
  return NULL;
}

static void test_another_thread_gets_a_slot_of_its_own(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_owner me = claim(zone), other = {0};
  void *args[] = {zone, &other, NULL};
  run_thread(claim_main, args);
  assert_int_equal((intptr_t)args[2], GORGE_OK);
  assert_int_not_equal(other.worker, me.worker);
  assert_false(gorge_owner_alive(zone, other.id)); /* its thread has ended */
  assert_true(gorge_owner_alive(zone, me.id));
}

/* Claims with as many threads as there are slots, and one more. */
static struct {
  struct gorge_zone *zone;
  uint64_t claimed, full, go_on;
} crowd;

static void *join_crowd(void *arg) {
  (void)arg;
  struct gorge_owner owner;
  int status = gorge_owner_claim(crowd.zone, GORGE_THREAD_MAIN, &owner);
  __atomic_add_fetch(status == GORGE_OK ? &crowd.claimed : &crowd.full, 1, __ATOMIC_RELEASE);
  proc_await(&crowd.go_on, 1);
  return (void *)(intptr_t)status;
}

static void test_slots_run_out_and_come_back(void **state) {
  (void)state;
  enum { MANY = GORGE_WORKERS + 1 };
  pthread_t threads[MANY];
  crowd.zone = proc_zone(NULL);
  pthread_attr_t attr;
  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, 256 << 10);
  for (int i = 0; i < MANY; i++) {
    assert_int_equal(pthread_create(&threads[i], &attr, join_crowd, NULL), 0);
  }
  pthread_attr_destroy(&attr);
  assert_true(proc_await(&crowd.claimed, GORGE_WORKERS));
  assert_true(proc_await(&crowd.full, 1));
  assert_int_equal(gorge_owner_count(crowd.zone), GORGE_WORKERS);
  __atomic_store_n(&crowd.go_on, 1, __ATOMIC_RELEASE);
  int full = 0;
  for (int i = 0; i < MANY; i++) {
    void *status;
    pthread_join(threads[i], &status);
    full += (intptr_t)status == GORGE_ERR_FULL;
  }
  assert_int_equal(full, 1);
  assert_int_equal(gorge_owner_count(crowd.zone), 0);
  claim(crowd.zone);
}

/* Takes a dead slot's life-lock as a claimer would, and gets no further. */
static int half_claim(struct proc *self, void *arg) {
  void **args = arg;
  struct gorge_worker_slot *s = slot(args[0], *(uint32_t *)args[1]);
  proc_say(self, (uint64_t)pthread_mutex_trylock(&s->thread[0].life));
  proc_hear(self);
  return 0;
}

static void test_a_claimer_stopped_half_way_does_not_revive_the_dead(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct proc child = proc_start(live, zone);
  uint32_t id = (uint32_t)proc_hear(&child), worker = gorge_owner_worker(id);
  proc_kill(&child);
  void *args[] = {zone, &worker};
  struct proc claimer = proc_start(half_claim, args);
  assert_int_equal(proc_hear(&claimer), EOWNERDEAD);
  proc_stop(&claimer);
  assert_false(gorge_owner_alive(zone, id));
  assert_int_equal(gorge_owner_count(zone), 0);
  struct gorge_owner me = claim(zone); /* goes past the slot that is being claimed */
  assert_int_not_equal(me.worker, worker);
  gorge_owner_release(zone, &me);
  /* Killed there, it leaves the slot to the next. */
  proc_kill(&claimer);
  assert_false(gorge_owner_alive(zone, id));
  assert_int_equal(claim(zone).worker, worker);
  assert_int_equal(deaths(zone), 1);
}

static void test_generations_wrap_without_zero(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  slot(zone, 0)->thread[0].holder = (uint64_t)0xffffff << 32;
  struct gorge_owner me = claim(zone);
  assert_int_equal(me.worker, 0);
  assert_int_equal(me.id, 1 << 8);
  assert_true(gorge_owner_alive(zone, me.id));
}

/* A thread that is in the middle of opening and claiming most of the time. */
static void *keep_busy(void *arg) {
  void **args = arg;
  uint64_t *stop = args[1];
  while (!__atomic_load_n(stop, __ATOMIC_ACQUIRE)) {
    struct gorge_owner owner;
    struct gorge_zone *zone = args[0], *again;
    if (gorge_zone_open(zone->name, strlen(zone->name), zone->size, 0, NULL, &again, NULL) == GORGE_OK &&
        gorge_owner_claim(again, GORGE_THREAD_MAIN, &owner) == GORGE_OK) {
      gorge_owner_release(again, &owner);
    }
  }
  return NULL;
}

static int open_and_claim(struct proc *self, void *arg) {
  (void)self;
  struct gorge_zone *zone = arg, *again;
  CHILD_CHECK(gorge_zone_open(zone->name, strlen(zone->name), zone->size, 0, NULL, &again, NULL) == GORGE_OK);
  claim_in_child(again);
  return 0;
}

static void test_a_fork_amid_another_threads_call_does_not_lock_the_child(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  uint64_t stop = 0;
  void *args[] = {zone, &stop};
  pthread_t thread;
  assert_int_equal(pthread_create(&thread, NULL, keep_busy, args), 0);
  int ended = 0;
  for (int i = 0; i < 100 && ended == i; i++) {
    struct proc child = proc_start(open_and_claim, zone);
    ended += proc_wait(&child) == 0; /* one that hangs is ended by its alarm */
  }
  __atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
  pthread_join(thread, NULL);
  assert_int_equal(ended, 100);
}

/* Processes that come and go while others ask about each other. */
struct roll {
  uint64_t ids[8];
};

static int come_and_go(struct proc *self, void *arg) {
  void **args = arg;
  struct roll *roll = args[1];
  uint32_t me = claim_in_child(args[0]);
  uint64_t at = proc_hear(self);
  __atomic_store_n(&roll->ids[at], me, __ATOMIC_RELEASE);
  proc_say(self, me);
  for (;;) {
    /* Nobody who is on the roll is ever found dead: only the dead are taken off, after their death. */
    CHILD_CHECK(gorge_owner_alive(args[0], me));
    for (int i = 0; i < 8; i++) {
      gorge_owner_alive(args[0], (uint32_t)__atomic_load_n(&roll->ids[i], __ATOMIC_ACQUIRE));
    }
  }
}

static void test_many_deaths_under_many_questions(void **state) {
  (void)state;
  enum { CHILDREN = 4, DEATHS = 120 };
  struct gorge_zone *zone = proc_zone(NULL);
  struct roll *roll = proc_shared(sizeof *roll);
  void *args[] = {zone, roll};
  struct proc children[CHILDREN];
  uint32_t ids[CHILDREN];
  uint64_t seed = 7;
  for (uint64_t i = 0; i < CHILDREN; i++) {
    children[i] = proc_start(come_and_go, args);
    proc_say(&children[i], i);
    ids[i] = (uint32_t)proc_hear(&children[i]);
  }
  for (int n = 0; n < DEATHS; n++) {
    uint64_t at = proc_random(&seed) % CHILDREN;
    proc_kill(&children[at]);
    for (int i = 0; i < CHILDREN; i++) {
      assert_int_equal(gorge_owner_alive(zone, ids[i]), i != (int)at);
    }
    children[at] = proc_start(come_and_go, args);
    proc_say(&children[at], at);
    uint32_t id = (uint32_t)proc_hear(&children[at]);
    assert_int_not_equal(id, ids[at]);
    assert_false(gorge_owner_alive(zone, ids[at]));
    ids[at] = id;
    assert_int_equal(gorge_owner_count(zone), CHILDREN);
  }
  assert_int_equal(deaths(zone), DEATHS);
  for (int i = 0; i < CHILDREN; i++) {
    proc_kill(&children[i]);
  }
  assert_int_equal(gorge_owner_count(zone), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_thread_gets_its_own_slot_again),
      cmocka_unit_test(test_slots_of_two_zones_are_two),
      cmocka_unit_test(test_an_owner_released_is_dead_and_no_death),
      cmocka_unit_test(test_ids_that_nobody_has_are_dead),
      cmocka_unit_test(test_killed_is_dead_and_its_slot_is_claimed_again),
      cmocka_unit_test(test_stopped_is_alive),
      cmocka_unit_test(test_a_process_that_runs_another_program_is_dead),
      cmocka_unit_test(test_a_fork_does_not_inherit_ownership),
      cmocka_unit_test(test_a_daemon_claims_anew_after_its_parent_ended),
      cmocka_unit_test(test_control_dies_and_returns_while_main_lives),
      cmocka_unit_test(test_a_slot_is_not_given_away_under_a_living_control_thread),
      cmocka_unit_test(test_another_thread_gets_a_slot_of_its_own),
      cmocka_unit_test(test_slots_run_out_and_come_back),
      cmocka_unit_test(test_a_claimer_stopped_half_way_does_not_revive_the_dead),
      cmocka_unit_test(test_generations_wrap_without_zero),
      cmocka_unit_test(test_a_fork_amid_another_threads_call_does_not_lock_the_child),
      cmocka_unit_test(test_many_deaths_under_many_questions),
  };
  return cmocka_run_group_tests_name("owner", tests, NULL, NULL);
}
