/* SPDX-License-Identifier: MIT */
/* Permits between threads, each an owner of its own: never more than the limit at once, and none is lost. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "sync/permits.h"
#include "test/procs.h"

enum { NS = 1, MAX = 2, THREADS = 4, ROUNDS = 20000 };

static struct gorge_zone *zone;
static uint32_t inside, most, taken; /* atomic */

static void *work(void *arg) {
  struct gorge_owner owner;
  struct gorge_worker_set waiters;
  (void)arg;
  if (gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner) != GORGE_OK) {
    return "no owner";
  }
  for (int i = 0; i < ROUNDS; i++) {
    if (!gorge_permits_take(zone, NS, &owner, MAX)) {
      gorge_permits_wait(zone, NS, owner.worker);
      continue;
    }
    uint32_t now = __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST), seen = __atomic_load_n(&most, __ATOMIC_SEQ_CST);
    while (now > seen && !__atomic_compare_exchange_n(&most, &seen, now, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
    }
    __atomic_fetch_add(&taken, 1, __ATOMIC_SEQ_CST);
    __atomic_fetch_sub(&inside, 1, __ATOMIC_SEQ_CST);
    gorge_permits_give(zone, NS, &owner, &waiters);
  }
  gorge_owner_release(zone, &owner);
  return NULL;
}

static void test_threads_keep_to_the_limit(void **state) {
  (void)state;
  zone = proc_zone(NULL);
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, work, NULL), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    void *problem;
    pthread_join(threads[i], &problem);
    assert_null(problem);
  }
  assert_in_range(most, 1, MAX);
  assert_true(taken >= MAX);
  assert_int_equal(gorge_permits_count(zone, NS), 0);
  struct gorge_owner owner;
  assert_int_equal(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner), GORGE_OK);
  for (int i = 0; i < MAX; i++) {
    assert_true(gorge_permits_take(zone, NS, &owner, MAX));
  }
  assert_false(gorge_permits_take(zone, NS, &owner, MAX));
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads_keep_to_the_limit)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
