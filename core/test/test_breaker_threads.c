/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "resil/breaker.h"

enum { T0 = 5000000 };

static const struct gorge_breaker_config three = {.max_failures = 3, .timeout_ms = 1000};

struct race {
  struct gorge_breaker_words w;
  pthread_barrier_t barrier;
  int allowed; /* atomic */
  int opened;  /* atomic */
};

static void *racer(void *arg) {
  struct race *r = arg;
  for (int round = 0; round < 200; round++) {
    pthread_barrier_wait(&r->barrier);
    if (gorge_breaker_allow(&r->w, &three, T0 + 1000 + 2000 * (uint64_t)round)) {
      __atomic_fetch_add(&r->allowed, 1, __ATOMIC_RELAXED);
    }
    pthread_barrier_wait(&r->barrier);
    if (gorge_breaker_failure(&r->w, &three, T0 + 1000 + 2000 * (uint64_t)round)) {
      __atomic_fetch_add(&r->opened, 1, __ATOMIC_RELAXED);
    }
  }
  return NULL;
}

static void test_threads_share_one_probe(void **state) {
  (void)state;
  static struct race r;
  pthread_t threads[4];
  for (uint32_t i = 0; i < three.max_failures; i++) {
    gorge_breaker_failure(&r.w, &three, T0);
  }
  pthread_barrier_init(&r.barrier, NULL, 4);
  for (int i = 0; i < 4; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, racer, &r), 0);
  }
  for (int i = 0; i < 4; i++) {
    pthread_join(threads[i], NULL);
  }
  assert_int_equal(r.allowed, 200);
  assert_int_equal(r.opened, 200);
  assert_int_equal(r.w.opens, 201);
  pthread_barrier_destroy(&r.barrier);
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads_share_one_probe)};
  return cmocka_run_group_tests(tests, NULL, NULL);
}
