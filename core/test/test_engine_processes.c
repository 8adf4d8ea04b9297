/* SPDX-License-Identifier: MIT */
/* Workers of one host: processes that share a zone, fill for one another, die, stop, and use what their parent made. */
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
#include "test/calm.h"
#include "test/drive_support.h"
#include "test/engine_support.h"
#include "test/procs.h"

enum { WORKERS = 8 };

static gorge_cache *c; /* made by the parent, as nginx's master does */
static uint64_t *runs; /* shared: how often the loader ran */

static int begin(void **state) {
  (void)state;
  struct gorge_config config = engine_config(NULL, NULL, GORGE_CONFIG_INLINE);
  c = engine_cache(&config);
  runs = proc_shared(sizeof *runs);
  return 0;
}

static int end(void **state) {
  (void)state;
  bool clean = engine_flights(c) == 0;
  gorge_cache_destroy(c);
  return clean ? 0 : -1;
}

/* Gets the value as a worker does: L1, a fill, or somebody else's. Returns how it ended. */
static int get(const char *loaded, char *seen) {
  for (int round = 0; round < 20; round++) {
    struct gorge_read read = {.buf = seen, .buf_size = ENGINE_VALUE_MAX - 1};
    if (gorge_get(c, "k", 1, &read) == GORGE_HIT) {
      seen[read.len] = '\0';
      return GORGE_HIT;
    }
    uint64_t op;
    CHILD_CHECK(engine_fetch(c, "k", NULL, &op) >= 0);
    struct answer a = engine_await(c, op);
    if (a.status == GORGE_LEASE) {
      __atomic_add_fetch(runs, 1, __ATOMIC_RELAXED);
      usleep(20000);
      snprintf(seen, ENGINE_VALUE_MAX, "%s", loaded);
      return engine_finish(c, op, engine_fill(c, op, loaded));
    }
    gorge_op_free(c, op);
    CHILD_CHECK(a.status == GORGE_OK);
  }
  return GORGE_ERR_TIMEOUT;
}

static int get_once(struct proc *self, void *arg) {
  char seen[ENGINE_VALUE_MAX];
  (void)arg;
  CHILD_CHECK(gorge_cache_enter(c, 1) == GORGE_OK);
  proc_say(self, 1);
  proc_hear(self);
  int status = get("v", seen);
  CHILD_CHECK(strcmp(seen, "v") == 0);
  CHILD_CHECK(status == GORGE_HIT || status == GORGE_STORED);
  gorge_cache_destroy(c);
  return 0;
}

static void one_of_many_workers_fills(void **state) {
  (void)state;
  struct proc worker[WORKERS];
  for (int i = 0; i < WORKERS; i++) {
    worker[i] = proc_start(get_once, NULL);
  }
  for (int i = 0; i < WORKERS; i++) {
    proc_hear(&worker[i]);
  }
  struct gorge_stats stats;
  assert_int_equal(gorge_stats_read(c, &stats), GORGE_OK);
  assert_int_equal(stats.workers, WORKERS);
  for (int i = 0; i < WORKERS; i++) {
    proc_say(&worker[i], 1);
  }
  for (int i = 0; i < WORKERS; i++) {
    assert_int_equal(proc_wait(&worker[i]), 0);
  }
  assert_int_equal(*runs, 1);
  assert_int_equal(gorge_stats_read(c, &stats), GORGE_OK);
  assert_int_equal(stats.workers, 0);
  assert_int_equal(stats.counters[GORGE_COUNT_WORKER_DEATHS], 0);
  assert_int_equal(stats.counters[GORGE_COUNT_LOADS], 1);
}

enum { LEASE_MS = 20000, SHORT_LEASE_MS = 600 };

/* Takes a lease of so long, says so, and fills when told. */
static int fill_when_told(struct proc *self, void *arg) {
  uint64_t op;
  uint32_t lease_ms = (uint32_t)(uintptr_t)arg;
  CHILD_CHECK(gorge_cache_enter(c, 1) == GORGE_OK);
  CHILD_CHECK(engine_fetch_for(c, "k", lease_ms, 20000, &op) == GORGE_LEASE);
  proc_say(self, 1);
  proc_hear(self);
  int status = engine_fill(c, op, "late");
  proc_say(self, (uint64_t)status);
  gorge_cache_destroy(c);
  return 0;
}

static void a_filler_that_is_killed_is_replaced_at_once(void **state) {
  (void)state;
  char seen[ENGINE_VALUE_MAX];
  struct proc filler = proc_start(fill_when_told, (void *)LEASE_MS);
  proc_hear(&filler);
  uint64_t op;
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_PENDING);
  proc_kill(&filler);
  struct calm start = calm_begin();
  assert_int_equal(engine_await(c, op).status, GORGE_LEASE);
  assert_true(calm_ms(start) < LEASE_MS / 3); /* not when its lease has run out */
  assert_int_equal(engine_fill(c, op, "v"), GORGE_STORED);
  gorge_op_free(c, op);
  assert_int_equal(get("w", seen), GORGE_HIT);
  assert_int_equal(engine_counter(c, GORGE_COUNT_TAKEOVERS), 1);
}

static void a_filler_that_stands_still_is_replaced_after_its_lease(void **state) {
  (void)state;
  struct proc filler = proc_start(fill_when_told, (void *)LEASE_MS);
  proc_hear(&filler);
  uint64_t op;
  assert_int_equal(engine_fetch_for(c, "k", 5000, 5000, &op), GORGE_PENDING);
  proc_stop(&filler);
  engine_let_lapse(c, "k");
  assert_int_equal(engine_await(c, op).status, GORGE_LEASE);
  assert_int_equal(engine_counter(c, GORGE_COUNT_TAKEOVERS), 1);
  proc_say(&filler, 1);
  proc_continue(&filler);
  assert_int_equal(proc_hear(&filler), GORGE_REFUSED);
  assert_null(engine_l1(c, "k"));
  assert_int_equal(engine_fill(c, op, "v"), GORGE_STORED);
  assert_string_equal(engine_l1(c, "k"), "v");
  gorge_op_free(c, op);
  assert_int_equal(proc_wait(&filler), 0);
}

static double end_of_lease(const char *name) {
  struct gorge_key key;
  struct gorge_flight_look look;
  gorge_key_init(c->zone, c->ns, name, (uint32_t)strlen(name), &key);
  gorge_flight_look(c->zone, &key, GORGE_WORKERS, gorge_clock_ms(), &look);
  return look.deadline_ms;
}

static void a_loader_that_takes_its_time_keeps_its_lease(void **state) {
  (void)state;
  struct proc filler = proc_start(fill_when_told, (void *)SHORT_LEASE_MS);
  proc_hear(&filler);
  uint64_t op, began_ms = gorge_clock_ms();
  /* It is looked at while nobody waits for it, who would take it over when its control thread is late. */
  assert_true(
      WAIT_UNTIL(end_of_lease("k") > began_ms + 3 * SHORT_LEASE_MS)); /* renewed after more than twice its lease */
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_PENDING);
  proc_say(&filler, 1);
  assert_int_equal(proc_hear(&filler), GORGE_STORED);
  assert_int_equal(engine_await(c, op).status, GORGE_OK);
  assert_string_equal(engine_l1(c, "k"), "late");
  gorge_op_free(c, op);
  assert_int_equal(proc_wait(&filler), 0);
  assert_int_equal(engine_counter(c, GORGE_COUNT_TAKEOVERS), 0);
}

/* Who waits is woken, however long it would sleep by itself. */
static void the_end_of_a_fill_wakes_waiters_in_other_workers(void **state) {
  (void)state;
  c->lock_sleep_ms = 60000;
  struct proc filler = proc_start(fill_when_told, (void *)LEASE_MS);
  proc_hear(&filler);
  assert_int_equal(gorge_cache_enter(c, 1), GORGE_OK);
  uint64_t op;
  assert_int_equal(engine_fetch_for(c, "k", 5000, 20000, &op), GORGE_PENDING);
  gorge_loop_wait(0);
  proc_say(&filler, 1);
  assert_int_equal(proc_hear(&filler), GORGE_STORED);
  struct answer a;
  for (int i = 0; i < 100 && (a = engine_status(c, op)).status == GORGE_PENDING; i++) {
    engine_turn(c, NULL, 4000); /* ends when the bell rings */
  }
  assert_int_equal(a.status, GORGE_OK);
  gorge_op_free(c, op);
  assert_int_equal(proc_wait(&filler), 0);
}

/* Deletes the key and begins a fill of its own, which the one that runs cannot be shared with any more. */
static int supersede(struct proc *self, void *arg) {
  uint64_t op;
  (void)arg;
  CHILD_CHECK(gorge_cache_enter(c, 1) == GORGE_OK);
  CHILD_CHECK(engine_delete(c, "k", &op) == GORGE_OK);
  CHILD_CHECK(engine_fetch(c, "k", NULL, &op) == GORGE_LEASE);
  proc_say(self, 1);
  proc_hear(self);
  gorge_cache_destroy(c);
  return 0;
}

static void who_waits_for_a_fill_that_was_superseded_is_woken(void **state) {
  (void)state;
  c->lock_sleep_ms = 60000;
  struct proc filler = proc_start(fill_when_told, (void *)LEASE_MS);
  proc_hear(&filler);
  assert_int_equal(gorge_cache_enter(c, 1), GORGE_OK);
  uint64_t op;
  assert_int_equal(engine_fetch_for(c, "k", 5000, 20000, &op), GORGE_PENDING);
  gorge_loop_wait(0);
  struct proc other = proc_start(supersede, NULL);
  proc_hear(&other);
  struct calm start = calm_begin();
  engine_turn(c, NULL, 4000);
  assert_true(calm_ms(start) < 2000);
  gorge_op_free(c, op);
  proc_say(&other, 1);
  proc_say(&filler, 1);
  assert_int_equal(proc_hear(&filler), GORGE_REFUSED);
  assert_int_equal(proc_wait(&filler), 0);
  assert_int_equal(proc_wait(&other), 0);
  assert_int_equal(engine_counter(c, GORGE_COUNT_TAKEOVERS), 0);
}

/* ---- after a fork ---- */

static uint64_t parents_op;
_Alignas(8) static char parents_guard[GORGE_GUARD_SIZE];
static const int parents_request = 1;

static int use_what_the_parent_has(struct proc *self, void *arg) {
  uint64_t op, ops[4];
  (void)self, (void)arg;
  uint64_t *counters = c->counters;
  /* What runs in the parent is not the child's to ask, end or poll, before and after its own first use. */
  for (int i = 0; i < 2; i++) {
    CHILD_CHECK(gorge_op_status(c, parents_op, NULL) == GORGE_ERR_ARGUMENT);
    CHILD_CHECK(engine_fill(c, parents_op, "child") == GORGE_ERR_ARGUMENT);
    CHILD_CHECK(gorge_fetch_fail(c, parents_op, "e", 1) == GORGE_ERR_ARGUMENT);
    gorge_op_free(c, parents_op);
    CHILD_CHECK(gorge_op_guard(c, parents_op, &parents_request) == GORGE_ERR_ARGUMENT);
    gorge_guard_cleanup(parents_guard);
    CHILD_CHECK(gorge_poll(c, ops, 4) == 0);
    CHILD_CHECK(gorge_pending(c) == 0);
    CHILD_CHECK(engine_flights(c) == 1);
    CHILD_CHECK(gorge_cache_enter(c, 0) == GORGE_OK);
  }
  CHILD_CHECK(c->counters != counters);
  CHILD_CHECK(engine_fetch(c, "k", NULL, &op) == GORGE_PENDING);
  gorge_op_free(c, op);
  CHILD_CHECK(engine_set(c, "other", "v", NULL, &op) == GORGE_OK);
  gorge_cache_destroy(c);
  return 0;
}

static int leave_at_once(struct proc *self, void *arg) {
  (void)self, (void)arg;
  gorge_cache_destroy(c);
  return 0;
}

static void a_child_leaves_alone_what_its_parent_runs(void **state) {
  (void)state;
  assert_int_equal(gorge_cache_enter(c, 1), GORGE_OK);
  assert_int_equal(engine_fetch(c, "k", NULL, &parents_op), GORGE_LEASE);
  assert_int_equal(gorge_guard_init(parents_guard, &parents_request), GORGE_OK);
  assert_int_equal(gorge_op_guard(c, parents_op, &parents_request), GORGE_OK);
  struct proc child = proc_start(use_what_the_parent_has, NULL);
  assert_int_equal(proc_wait(&child), 0);
  child = proc_start(leave_at_once, NULL);
  assert_int_equal(proc_wait(&child), 0);
  assert_int_equal(engine_flights(c), 1);
  assert_string_equal(engine_l1(c, "other"), "v");
  assert_int_equal(engine_fill(c, parents_op, "v"), GORGE_STORED);
  gorge_op_free(c, parents_op);
  assert_string_equal(engine_l1(c, "k"), "v");
}

static int die_with_a_lease(struct proc *self, void *arg) {
  uint64_t op;
  (void)self, (void)arg;
  CHILD_CHECK(gorge_cache_enter(c, 0) == GORGE_OK);
  CHILD_CHECK(engine_fetch(c, "k", NULL, &op) == GORGE_LEASE);
  return 0; /* _exit: nothing is given back */
}

static int end_in_good_order(struct proc *self, void *arg) {
  uint64_t op;
  (void)self, (void)arg;
  CHILD_CHECK(gorge_cache_enter(c, 1) == GORGE_OK);
  CHILD_CHECK(engine_fetch(c, "k", NULL, &op) == GORGE_LEASE);
  exit(0); /* without destroying anything */
}

/* More workers than there are slots, one after the other. */
static void slots_of_workers_that_ended_are_used_again(void **state) {
  (void)state;
  for (int i = 0; i < GORGE_WORKERS + 20; i++) {
    struct proc child = proc_start(die_with_a_lease, NULL);
    assert_int_equal(proc_wait(&child), 0);
    assert_int_equal(engine_flights(c), 0);
  }
  uint64_t deaths = engine_counter(c, GORGE_COUNT_WORKER_DEATHS);
  assert_in_range(deaths, 20, GORGE_WORKERS + 20); /* counted when the slot is claimed again */
  struct proc child = proc_start(end_in_good_order, NULL);
  assert_int_equal(proc_wait(&child), 0);
  uint64_t claimed = engine_counter(c, GORGE_COUNT_WORKER_DEATHS);
  child = proc_start(end_in_good_order, NULL);
  assert_int_equal(proc_wait(&child), 0);
  assert_int_equal(engine_counter(c, GORGE_COUNT_WORKER_DEATHS), claimed); /* the one before was no death */
}

/* ---- workers that are killed at any moment ---- */

enum { CROWD = 4, CHAOS_MS = 1500, CHAOS_WAIT_MS = 1000 };

/* Shared. Worker i alone writes key i, numbers that only grow; all read and load all of them. */
static struct chaos { uint64_t database[CROWD], acked[CROWD], over, reads, loads; } * chaos;

static uint64_t look(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }

/* I3: a read that begins after a write returned sees that write, or a later one, in every worker of the host. */
static void read_number(const char *key, int i) {
  uint64_t op, least = look(&chaos->acked[i]);
  char value[32];
  struct gorge_read read = {.buf = value, .buf_size = sizeof value - 1};
  if (gorge_get(c, key, 2, &read) == GORGE_HIT) {
    value[read.len] = '\0';
    CHILD_CHECK(strtoull(value, NULL, 10) >= least);
    __atomic_add_fetch(&chaos->reads, 1, __ATOMIC_RELAXED);
    return;
  }
  struct calm start = calm_begin();
  CHILD_CHECK(engine_fetch_for(c, key, 50, CHAOS_WAIT_MS, &op) >= 0);
  struct answer a = engine_await(c, op);
  CHILD_CHECK(calm_ms(start) < CHAOS_WAIT_MS * 3); /* I8 */
  if (a.status == GORGE_LEASE) {
    uint64_t number = look(&chaos->database[i]);
    usleep(number % 3 * 1000);
    snprintf(value, sizeof value, "%llu", (unsigned long long)number);
    engine_fill(c, op, value);
    __atomic_add_fetch(&chaos->loads, 1, __ATOMIC_RELAXED);
  }
  gorge_op_free(c, op);
}

static void write_number(const char *key, int i, bool deleting) {
  char value[32];
  uint64_t op, number = __atomic_add_fetch(&chaos->database[i], 1, __ATOMIC_SEQ_CST);
  snprintf(value, sizeof value, "%llu", (unsigned long long)number);
  CHILD_CHECK((deleting ? engine_delete(c, key, &op) : engine_set(c, key, value, NULL, &op)) == GORGE_OK);
  __atomic_store_n(&chaos->acked[i], number, __ATOMIC_SEQ_CST);
}

static int crowd(struct proc *self, void *arg) {
  int mine = (int)(intptr_t)arg;
  uint64_t seed = (uint64_t)self->pid;
  char key[3] = "k0";
  CHILD_CHECK(gorge_cache_enter(c, (int)(seed & 1)) == GORGE_OK);
  while (look(&chaos->over) == 0) {
    uint32_t what = proc_random(&seed) % 16;
    int i = what < 3 ? mine : (int)(proc_random(&seed) % CROWD);
    key[1] = (char)('0' + i);
    if (what < 3) {
      write_number(key, i, what == 0);
    } else {
      read_number(key, i);
    }
  }
  gorge_cache_destroy(c);
  return 0;
}

static void workers_killed_at_any_moment_leave_nothing_behind(void **state) {
  (void)state;
  struct proc worker[CROWD];
  uint64_t seed = 1, start_ms = gorge_clock_ms();
  int killed = 0;
  chaos = proc_shared(sizeof *chaos);
  for (intptr_t i = 0; i < CROWD; i++) {
    worker[i] = proc_start(crowd, (void *)i);
  }
  while (gorge_clock_ms() < start_ms + CHAOS_MS || killed <= 10 || look(&chaos->reads) <= 1000 ||
         look(&chaos->loads) <= 100) {
    assert_true(gorge_clock_ms() < start_ms + 30000);
    intptr_t i = (intptr_t)(proc_random(&seed) % CROWD);
    usleep(5000 + proc_random(&seed) % 20000);
    proc_kill(&worker[i]);
    worker[i] = proc_start(crowd, (void *)i);
    killed++;
  }
  __atomic_store_n(&chaos->over, 1, __ATOMIC_SEQ_CST);
  for (int i = 0; i < CROWD; i++) {
    assert_int_equal(proc_wait(&worker[i]), 0);
  }
  assert_int_equal(engine_flights(c), 0);
  for (int i = 0; i < CROWD; i++) { /* every key can be had, and no lock is in the way */
    char key[3] = {'k', (char)('0' + i), '\0'}, value[32];
    uint64_t op;
    struct calm start = calm_begin();
    assert_int_equal(engine_delete(c, key, &op), GORGE_OK);
    assert_int_equal(engine_fetch(c, key, NULL, &op), GORGE_LEASE);
    snprintf(value, sizeof value, "end %d", i);
    assert_int_equal(engine_fill(c, op, value), GORGE_STORED);
    gorge_op_free(c, op);
    assert_string_equal(engine_l1(c, key), value);
    assert_true(calm_ms(start) < 500);
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(one_of_many_workers_fills),
      TEST(a_filler_that_is_killed_is_replaced_at_once),
      TEST(a_filler_that_stands_still_is_replaced_after_its_lease),
      TEST(a_loader_that_takes_its_time_keeps_its_lease),
      TEST(the_end_of_a_fill_wakes_waiters_in_other_workers),
      TEST(who_waits_for_a_fill_that_was_superseded_is_woken),
      TEST(a_child_leaves_alone_what_its_parent_runs),
      TEST(slots_of_workers_that_ended_are_used_again),
      TEST(workers_killed_at_any_moment_leave_nothing_behind),
  };
  int failed = cmocka_run_group_tests_name("engine, processes", tests, NULL, NULL);
  engine_partitions = GORGE_PARTITIONS;
  return failed +
         cmocka_run_group_tests_name("engine, processes; as many partitions as in a cluster", tests, NULL, NULL);
}
