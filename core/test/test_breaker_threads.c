/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "resil/breakers.h"

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

enum { THREADS = 4, DEAD = 8, PLACES = 40, FAILURES = 4000 };

static const struct gorge_breaker_config five = {.max_failures = 5, .timeout_ms = 1000000};

struct servers {
  struct gorge_breaker_table t;
  int thread;  /* atomic: the next one's number */
  int refused; /* atomic: calls of servers that answer */
};

static uint64_t at(uint64_t number) { return gorge_breaker_place(number * GORGE_BREAKER_OWNERS, 1); }

/* Some servers never answer, whoever asks; the others, each of one thread alone, do so after a failure. */
static void *caller(void *arg) {
  struct servers *s = arg;
  uint64_t self = (uint64_t)__atomic_fetch_add(&s->thread, 1, __ATOMIC_RELAXED);
  for (uint64_t i = 0; i < FAILURES; i++) {
    gorge_breakers_failure(&s->t, at(1 + i % DEAD), &five, T0);
    uint64_t place = at(100 + (i % PLACES) * THREADS + self);
    gorge_breakers_failure(&s->t, place, &five, T0);
    struct gorge_breaker_words *w = gorge_breakers_find(&s->t, place);
    if (w != NULL && !gorge_breaker_allow(w, &five, T0)) {
      __atomic_fetch_add(&s->refused, 1, __ATOMIC_RELAXED);
    }
    if (w != NULL) {
      gorge_breaker_success(w, &five, T0);
    }
  }
  return NULL;
}

static void test_threads_share_a_table(void **state) {
  (void)state;
  static struct servers s;
  pthread_t threads[THREADS];
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, caller, &s), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
  }
  assert_int_equal(s.refused, 0);
  for (uint64_t place = 1; place <= DEAD; place++) {
    const struct gorge_breaker_words *w = gorge_breakers_find(&s.t, at(place));
    assert_non_null(w);
    assert_int_equal(gorge_breaker_state(w), GORGE_BREAKER_OPEN);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_threads_share_one_probe),
      cmocka_unit_test(test_threads_share_a_table),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
