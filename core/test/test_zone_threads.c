/* SPDX-License-Identifier: MIT */
/* Zones among threads: opened, named and counted in at the same time. Made to run under ThreadSanitizer. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "sync/wake.h"
#include "test/procs.h"

enum { THREADS = 4, ZONES = 8, NAMES = 16 };

struct job {
  pthread_t thread;
  struct gorge_zone *zones[ZONES];
  uint32_t numbers[ZONES][NAMES];
  uint64_t failures;
};

static uint64_t layouts, go;

static int lay_out(struct gorge_zone *zone) {
  *(uint64_t *)gorge_zone_region(zone, GORGE_REGION_L1, NULL) = 4711; /* plain: whoever gets the zone sees it */
  __atomic_add_fetch(&layouts, 1, __ATOMIC_RELAXED);
  return GORGE_OK;
}

static void *use(void *arg) {
  struct job *job = arg;
  char name[16];
  while (!__atomic_load_n(&go, __ATOMIC_ACQUIRE)) {
  }
  for (int z = 0; z < ZONES; z++) {
    struct gorge_zone *zone;
    int len = snprintf(name, sizeof name, "threads %d", z);
    if (gorge_zone_open(name, (size_t)len, GORGE_ZONE_SIZE_MIN, 0, lay_out, &zone, NULL) != GORGE_OK) {
      job->failures++;
      return NULL;
    }
    job->zones[z] = zone;
    job->failures += *(uint64_t *)gorge_zone_region(zone, GORGE_REGION_L1, NULL) != 4711;
    for (uint32_t i = 0; i < NAMES; i++) {
      uint32_t k = (i * 7 + (uint32_t)z) % NAMES;
      len = snprintf(name, sizeof name, "n%u", k);
      job->failures += gorge_zone_namespace(zone, name, (size_t)len, &job->numbers[z][k]) != GORGE_OK;
      /* relaxed: as the counters of one worker that two of its threads write. */
      __atomic_add_fetch(&gorge_zone_counters(zone, k, 0)[GORGE_COUNT_SETS], 1, __ATOMIC_RELAXED);
    }
  }
  return NULL;
}

static void test_all_threads_get_the_same_zones_names_and_counters(void **state) {
  (void)state;
  static struct job jobs[THREADS];
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_create(&jobs[i].thread, NULL, use, &jobs[i]), 0);
  }
  __atomic_store_n(&go, 1, __ATOMIC_RELEASE);
  for (int i = 0; i < THREADS; i++) {
    pthread_join(jobs[i].thread, NULL);
    assert_int_equal(jobs[i].failures, 0);
  }
  assert_int_equal(layouts, ZONES);
  for (int z = 0; z < ZONES; z++) {
    for (int i = 1; i < THREADS; i++) {
      assert_ptr_equal(jobs[i].zones[z], jobs[0].zones[z]);
      assert_memory_equal(jobs[i].numbers[z], jobs[0].numbers[z], sizeof jobs[0].numbers[z]);
    }
    for (uint32_t k = 0; k < NAMES; k++) {
      uint64_t sum[GORGE_COUNTERS];
      gorge_zone_sum_counters(jobs[0].zones[z], k, sum);
      assert_int_equal(sum[GORGE_COUNT_SETS], THREADS);
    }
  }
}

/* Wake-ups come from many threads while their target opens and closes its socket. */
static struct gorge_zone *zone;

static void *ring(void *arg) {
  const struct gorge_worker_set set = {{1, 0}};
  (void)arg;
  while (__atomic_load_n(&go, __ATOMIC_ACQUIRE)) {
    gorge_wake_send(zone, &set, UINT32_MAX, -1);
  }
  return NULL;
}

static void test_wake_ups_may_meet_a_socket_that_comes_or_goes(void **state) {
  (void)state;
  pthread_t threads[2];
  zone = proc_zone(NULL);
  go = 1;
  for (int i = 0; i < 2; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, ring, NULL), 0);
  }
  for (int i = 0; i < 200; i++) {
    int fd = gorge_wake_open(zone, 0);
    assert_true(fd >= 0);
    gorge_wake_drain(fd);
    gorge_wake_close(zone, 0, fd);
  }
  __atomic_store_n(&go, 0, __ATOMIC_RELEASE);
  for (int i = 0; i < 2; i++) {
    pthread_join(threads[i], NULL);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_all_threads_get_the_same_zones_names_and_counters),
      cmocka_unit_test(test_wake_ups_may_meet_a_socket_that_comes_or_goes),
  };
  return cmocka_run_group_tests_name("zone_threads", tests, NULL, NULL);
}
