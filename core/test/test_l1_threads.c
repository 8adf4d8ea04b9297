/* SPDX-License-Identifier: MIT */
/* Threads that read, fill and invalidate in one zone. Made to run under ThreadSanitizer, too. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test/l1_stress.h"

enum { THREADS = 4, STEPS = 60000 };

struct job {
  struct stress_user user;
  uint64_t steps;
  pthread_t thread;
};

static void *play(void *arg) {
  struct job *job = arg;
  job->user.l1 = l1_enter(&job->user.l1);
  for (uint64_t i = 0; i < job->steps; i++) {
    stress_step(&job->user);
  }
  gorge_owner_release(job->user.l1.zone, &job->user.l1.owner);
  return NULL;
}

static void stress(uint32_t shards, uint32_t buckets, uint32_t writes_per_mille) {
  struct l1 l1 = l1_open(GORGE_ZONE_SIZE_MIN, shards, buckets);
  struct stress *world = proc_shared(sizeof *world);
  struct job *jobs = calloc(THREADS, sizeof *jobs);
  for (uint64_t i = 0; i < THREADS; i++) {
    /* One that reads mostly, the others write more and more. */
    stress_user_init(&jobs[i].user, &l1, world, i + buckets, writes_per_mille * (uint32_t)i / 3 + 1);
    jobs[i].steps = STEPS;
    assert_int_equal(pthread_create(&jobs[i].thread, NULL, play, &jobs[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(jobs[i].thread, NULL);
  }
  free(jobs);
  if (world->errors > 0) {
    fail_msg("%u errors; the first: %s", (unsigned)world->errors, world->first_error);
  }
  assert_true(world->hits > THREADS * STEPS / 100);
  assert_true(world->records > 0);
  assert_true(world->stored > 0 && world->writes > 0);
}

static void test_few_writes(void **state) {
  (void)state;
  stress(0, 0, 20);
}

static void test_many_writes(void **state) {
  (void)state;
  stress(0, 0, 200);
}

static void test_many_evictions(void **state) {
  (void)state;
  stress(1, 12, 100); /* 96 slots for 600 keys */
}

/* The log itself is passed over and over: large fills, and readers of what is just being overwritten. */
static void *fill_large(void *arg) {
  struct job *job = arg;
  struct l1 l1 = l1_enter(&job->user.l1);
  static const uint32_t len = 60000;
  char *value = malloc(len), name[24];
  for (uint64_t i = 0; i < job->steps; i++) {
    uint64_t number = proc_random(&job->user.random) % 40;
    l1_name(name, number);
    l1_fill(value, len, number, i);
    CHILD_CHECK(l1_put_bytes(&l1, name, strlen(name), value, len, 1000) != GORGE_TOO_LARGE);
  }
  free(value);
  gorge_owner_release(l1.zone, &l1.owner);
  return NULL;
}

static void *read_large(void *arg) {
  struct job *job = arg;
  uint64_t *hits = &job->user.world->hits;
  char name[24];
  for (uint64_t i = 0; i < job->steps || (i < 1000 * job->steps && __atomic_load_n(hits, __ATOMIC_RELAXED) == 0); i++) {
    uint64_t number = proc_random(&job->user.random) % 40;
    struct gorge_read read;
    l1_name(name, number);
    if (l1_read(&job->user.l1, name, strlen(name), true, &read) == GORGE_HIT) {
      CHILD_CHECK(read.len == 60000 && l1_check(read.buf, read.len, number));
      __atomic_fetch_add(hits, 1, __ATOMIC_RELAXED);
    }
  }
  return NULL;
}

static void test_large_values_are_whole(void **state) {
  (void)state;
  struct l1 l1 = l1_open(GORGE_ZONE_SIZE_MIN, 1, 0);
  struct stress *world = proc_shared(sizeof *world);
  struct job *jobs = calloc(THREADS, sizeof *jobs);
  for (uint64_t i = 0; i < THREADS; i++) {
    stress_user_init(&jobs[i].user, &l1, world, i, 0);
    jobs[i].steps = i < 2 ? 300 : 1500;
    assert_int_equal(pthread_create(&jobs[i].thread, NULL, i < 2 ? fill_large : read_large, &jobs[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(jobs[i].thread, NULL);
  }
  free(jobs);
  assert_true(world->hits > 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_few_writes),
      cmocka_unit_test(test_many_writes),
      cmocka_unit_test(test_many_evictions),
      cmocka_unit_test(test_large_values_are_whole),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
