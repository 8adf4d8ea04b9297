/* SPDX-License-Identifier: MIT */
/* Processes that share L1, are killed and stopped at random moments, and check each other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "l1/index.h"
#include "test/l1_stress.h"

enum {
  PROCESSES = 4,
  KILL_US = 4 * 1000 * 1000,
  STOP_US = 2 * 1000 * 1000,
  READ_LIMIT_S = 100,
  KILLS_MIN = 100,
  KILL_LIMIT_US = 40 * 1000 * 1000
};
#if defined(__SANITIZE_ADDRESS__)
static const uint64_t READS = 1000 * 1000;
#else
static const uint64_t READS = 10 * 1000 * 1000;
#endif

struct world {
  struct l1 l1;
  struct stress stress;
  uint64_t started, seed;
};

static struct stress_user *user_of(const struct l1 *l1, struct world *w, uint64_t seed, uint32_t writes_per_mille) {
  struct stress_user *u = calloc(1, sizeof *u);
  stress_user_init(u, l1, &w->stress, seed, writes_per_mille);
  return u;
}

static int play(struct proc *self, void *arg) {
  (void)self;
  struct world *w = arg;
  struct l1 l1 = l1_enter(&w->l1);
  struct stress_user *u = user_of(&l1, w, __atomic_add_fetch(&w->started, 1, __ATOMIC_RELAXED), 200);
  while (u != NULL) { /* until it is killed */
    stress_step(u);
  }
  return 0;
}

static void check(const struct world *w) {
  if (w->stress.errors > 0) {
    fail_msg("%u errors; the first: %s", (unsigned)w->stress.errors, w->stress.first_error);
  }
}

/* Every shard takes an entry, gives it, and forgets it: no lock is held by anybody. */
static void use_all_shards(struct world *w) {
  struct stress_user *u = user_of(&w->l1, w, 1, 0);
  for (uint32_t key = 0; key < STRESS_KEYS; key++) {
    struct gorge_read read;
    char name[24];
    l1_name(name, key);
    assert_int_equal(stress_fill(u, key), GORGE_STORED);
    assert_int_equal(l1_read(&w->l1, name, strlen(name), false, &read), GORGE_HIT);
    stress_write(u, key);
    assert_int_equal(l1_read(&w->l1, name, strlen(name), false, &read), GORGE_MISS);
  }
  free(u);
}

static struct world *open_world(uint32_t shards, uint32_t buckets) {
  struct world *w = proc_shared(sizeof *w);
  w->l1 = l1_open(GORGE_ZONE_SIZE_MIN, shards, buckets);
  return w;
}

static uint64_t slots_in_use(const struct world *w) {
  struct gorge_shard v;
  uint64_t n = 0;
  for (uint32_t i = 0; gorge_shard_at(w->l1.zone, i, &v); i++) {
    for (uint64_t k = 0; k < (uint64_t)v.buckets * GORGE_BUCKET_SLOTS; k++) {
      n += v.slots[k] != 0;
    }
  }
  return n;
}

static void kill_for(struct world *w, uint64_t us) {
  struct proc child[PROCESSES];
  uint64_t random = 9, kills = 0, stored = 0;
  for (int i = 0; i < PROCESSES; i++) {
    child[i] = proc_start(play, w);
  }
  /* On a busy machine that takes longer. */
  uint64_t took = 0;
  for (uint64_t start = gorge_clock_us();
       (took < us || (kills <= KILLS_MIN && took < KILL_LIMIT_US)) && w->stress.errors == 0;
       kills++, took = gorge_clock_us() - start) {
    int i = (int)(proc_random(&random) % PROCESSES);
    usleep(proc_random(&random) % 1000);
    proc_kill(&child[i]);
    child[i] = proc_start(play, w);
    if (kills % 256 == 255) { /* it goes on */
      assert_true(proc_await(&w->stress.stored, stored + 1));
      stored = w->stress.stored;
    }
  }
  for (int i = 0; i < PROCESSES; i++) {
    proc_kill(&child[i]);
  }
  check(w);
  print_message("%u kills, %u locks taken over, %u hits, %u fills stored\n", (unsigned)kills,
                (unsigned)l1_count(&w->l1, GORGE_COUNT_LOCK_TAKEOVERS), (unsigned)w->stress.hits,
                (unsigned)w->stress.stored);
  assert_true(kills > KILLS_MIN && w->stress.stored > kills && w->stress.hits > kills);
  use_all_shards(w);
  /* Counts that holders did not live to change were taken anew. */
  uint64_t is = l1_entries(&w->l1), should = slots_in_use(w);
  assert_in_range(is, should - should / 100, should + should / 100 + 1);
}

static void test_killed_at_random(void **state) {
  (void)state;
  struct world *w = open_world(0, 0);
  kill_for(w, KILL_US);
}

static void test_killed_at_random_with_a_full_index(void **state) {
  (void)state;
  struct world *w = open_world(2, 16);
  struct proc child[PROCESSES];
  uint64_t random = 5;
  for (int i = 0; i < PROCESSES; i++) {
    child[i] = proc_start(play, w);
  }
  for (int kills = 0; kills < 300 && w->stress.errors == 0; kills++) {
    int i = kills % PROCESSES;
    usleep(proc_random(&random) % 1000);
    proc_kill(&child[i]);
    child[i] = proc_start(play, w);
  }
  for (int i = 0; i < PROCESSES; i++) {
    proc_kill(&child[i]);
  }
  check(w);
  use_all_shards(w);
}

static void test_stopped_at_random(void **state) {
  (void)state;
  struct world *w = open_world(1, 0);
  struct proc child[PROCESSES];
  struct stress_user *u = user_of(&w->l1, w, 77, 300);
  uint64_t random = 3, longest = 0, stops = 0;
  for (int i = 0; i < PROCESSES; i++) {
    child[i] = proc_start(play, w);
  }
  for (uint64_t start = gorge_clock_us(); gorge_clock_us() - start < STOP_US && w->stress.errors == 0; stops++) {
    int i = (int)(proc_random(&random) % PROCESSES);
    proc_stop(&child[i]);
    for (int k = 0; k < 200; k++) {
      uint64_t before = proc_own_us(); /* what else the machine does is not L1's doing */
      stress_step(u);
      uint64_t after = proc_own_us();
      longest = after > before + longest ? after - before : longest;
    }
    proc_continue(&child[i]);
    usleep(proc_random(&random) % 2000);
  }
  for (int i = 0; i < PROCESSES; i++) {
    proc_kill(&child[i]);
  }
  check(w);
  print_message("%u stops, longest operation beside them %u us\n", (unsigned)stops, (unsigned)longest);
  assert_true(longest < 500 * 1000);
  use_all_shards(w);
  free(u);
}

static int read_most(struct proc *self, void *arg) {
  (void)self;
  struct world *w = arg;
  struct l1 l1 = l1_enter(&w->l1);
  struct stress_user *u = user_of(&l1, w, __atomic_add_fetch(&w->started, 1, __ATOMIC_RELAXED) + w->seed, 10);
  CHILD_CHECK(u != NULL);
  u->large = 12; /* more than fits: fills evict */
  while (u->weight != 0) {
    stress_step(u);
  }
  return 0;
}

/* Kills one of those who read, write, evict and invalidate, or stops it for a while. */
static void disturb(struct world *w, struct proc *child, uint64_t *random, uint64_t *kills, uint64_t *stops) {
  int i = (int)(proc_random(random) % PROCESSES);
  if (proc_random(random) % 3 != 0) {
    proc_kill(&child[i]);
    child[i] = proc_start(read_most, w);
    ++*kills;
    return;
  }
  proc_stop(&child[i]);
  usleep(proc_random(random) % 20000);
  proc_continue(&child[i]);
  ++*stops;
}

/* As many as GORGE_SOAK_READS says. */
static void test_reads_beside_kills_and_stops(void **state) {
  (void)state;
  const char *text = getenv("GORGE_SOAK_READS"), *seed = getenv("GORGE_SOAK_SEED");
  uint64_t reads = text != NULL && *text != '\0' ? strtoull(text, NULL, 0) : READS;
  uint64_t limit_us = (READ_LIMIT_S + reads / 100000) * 1000000, shown = 0, kills = 0, stops = 0;
  struct world *w = open_world(0, 0);
  w->seed = seed != NULL && *seed != '\0' ? strtoull(seed, NULL, 0) : (uint64_t)getpid();
  uint64_t random = w->seed, start = gorge_clock_us(), stored = 0;
  struct proc child[PROCESSES];
  print_message("seed %llu\n", (unsigned long long)w->seed);
  for (int i = 0; i < PROCESSES; i++) {
    child[i] = proc_start(read_most, w);
  }
  while (w->stress.hits < reads && w->stress.errors == 0 && gorge_clock_us() - start < limit_us) {
    usleep(2000 + proc_random(&random) % 20000);
    disturb(w, child, &random, &kills, &stops);
    if ((kills + stops) % 256 == 0) { /* it goes on */
      assert_true(proc_await(&w->stress.stored, stored + 1));
      stored = w->stress.stored;
    }
    if (w->stress.hits >= shown + 50 * 1000 * 1000) {
      shown = w->stress.hits;
      print_message("%llu checked reads, %llu kills\n", (unsigned long long)shown, (unsigned long long)kills);
    }
  }
  for (int i = 0; i < PROCESSES; i++) {
    proc_kill(&child[i]);
  }
  check(w);
  print_message(
      "%llu reads with a checksum, %llu of records, beside %llu kills, %llu stops, %llu fills, %llu writes, "
      "%llu evictions, %llu locks taken over: none wrong\n",
      (unsigned long long)w->stress.hits, (unsigned long long)w->stress.records, (unsigned long long)kills,
      (unsigned long long)stops, (unsigned long long)w->stress.stored, (unsigned long long)w->stress.writes,
      (unsigned long long)l1_count(&w->l1, GORGE_COUNT_EVICTIONS),
      (unsigned long long)l1_count(&w->l1, GORGE_COUNT_LOCK_TAKEOVERS));
  assert_true(w->stress.hits >= reads && l1_count(&w->l1, GORGE_COUNT_EVICTIONS) > 0);
  use_all_shards(w);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_killed_at_random),
      cmocka_unit_test(test_killed_at_random_with_a_full_index),
      cmocka_unit_test(test_stopped_at_random),
      cmocka_unit_test(test_reads_beside_kills_and_stops),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
