/* SPDX-License-Identifier: MIT */
/* The flight table among threads, each an owner of its own. Made to run under ThreadSanitizer. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "flight/table.h"
#include "test/flight_load.h"

enum { THREADS = 4, ROUNDS = 2500 };

static struct gorge_zone *zone;
static struct load *load;

static void *fetch_often(void *arg) {
  struct gorge_owner me;
  uint64_t seed = (uintptr_t)arg;
  if (gorge_owner_claim(zone, GORGE_THREAD_MAIN, &me) != GORGE_OK) {
    load_complain(load, "no owner", 0, 0);
    return NULL;
  }
  for (int i = 0; i < ROUNDS; i++) {
    load_fetch(zone, load, &me, &seed);
  }
  return NULL; /* ends as owner: what it leaves is a dead one's */
}

static void test_one_valid_fill_among_threads(void **state) {
  (void)state;
  zone = proc_zone(gorge_l1_init);
  load = calloc(1, sizeof *load);
  assert_non_null(load);
  pthread_t threads[THREADS];
  for (uintptr_t i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, fetch_often, (void *)(i + 1)), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
  }
  assert_int_equal(load->rounds, THREADS * ROUNDS);
  assert_true(load_holds(load));
  /* The load was one: fills were shared, failed and taken over. */
  assert_true(load->shared > 0 && load->failed > 0 && load->leaked > 0);
  assert_int_equal(gorge_flight_count(zone), 0);
  free(load);
}

/* Begins, with a clock that stands still. */
static int begin(const struct gorge_owner *me, const struct gorge_key *key, struct gorge_flight_ref *ref) {
  struct gorge_snapshot snapshot;
  uint64_t previous;
  gorge_l1_snapshot(zone, key, NULL, 0, &snapshot);
  struct gorge_flight_request rq = {.key = key,
                                    .snapshot = &snapshot,
                                    .owner_id = me->id,
                                    .worker = me->worker,
                                    .now_ms = 1000,
                                    .lease_ms = 1000,
                                    .cap_ms = 1000};
  return gorge_flight_begin(zone, &rq, ref, &previous);
}

/*
 * One record is used over and over for flights that fail: all others of its set are taken. Whoever looks at one of them,
 * however late, sees that flight's error or none.
 */
enum { REUSES = 30000, SEEN = 1000 };

static struct {
  struct gorge_key key;
  uint64_t index, token; /* of the flight to look at */
  uint64_t done;
} reuse;

static void *look(void *arg) {
  (void)arg;
  char err[GORGE_ERROR_MAX], expected[GORGE_ERROR_MAX];
  while (!__atomic_load_n(&reuse.done, __ATOMIC_ACQUIRE)) {
    struct gorge_flight_ref ref = {.token = __atomic_load_n(&reuse.token, __ATOMIC_ACQUIRE),
                                   .index = (uint32_t)__atomic_load_n(&reuse.index, __ATOMIC_RELAXED)};
    bool failed = false;
    for (int i = 0; i < 20; i++) {
      uint32_t len;
      int status = gorge_flight_check(zone, &ref, 1000, err, &len);
      if (status == GORGE_FAILED) {
        load_count(&load->failed);
        if (len != ref.token % GORGE_ERROR_MAX + 1 ||
            memcmp(err, expected, load_error(ref.token, len, expected)) != 0) {
          load_complain(load, "an error that is not the flight's", ref.token, len);
        }
        failed = true;
      } else if (status == GORGE_LEASE) {
        load_complain(load, "a lease that ran out though the clock stands still", ref.token, 0);
      } else if (status == GORGE_PENDING && failed) {
        load_complain(load, "a flight that runs again after it failed", ref.token, 0);
      }
    }
  }
  return NULL;
}

static void test_an_error_is_never_another_flights(void **state) {
  (void)state;
  struct gorge_owner me;
  struct gorge_flight_ref ref, waiter;
  struct gorge_worker_set waiters;
  char err[GORGE_ERROR_MAX];
  zone = proc_zone(gorge_l1_init);
  load = calloc(1, sizeof *load);
  assert_non_null(load);
  assert_int_equal(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &me), GORGE_OK);
  load_key(zone, 0, &reuse.key);
  struct gorge_key key = reuse.key;
  for (int i = 1; i < GORGE_FLIGHT_WAYS; i++) {
    key.hash++;
    assert_int_equal(begin(&me, &key, &ref), GORGE_LEASE);
  }
  pthread_t threads[2];
  for (int i = 0; i < 2; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, look, NULL), 0);
  }
  uint64_t start = gorge_clock_us();
  for (int i = 0; i < REUSES || (__atomic_load_n(&load->failed, __ATOMIC_RELAXED) < SEEN &&
                                 gorge_clock_us() - start < 10 * 1000 * 1000);
       i++) {
    assert_int_equal(begin(&me, &reuse.key, &ref), GORGE_LEASE);
    assert_int_equal(begin(&me, &reuse.key, &waiter), GORGE_BUSY);
    __atomic_store_n(&reuse.index, ref.index, __ATOMIC_RELAXED);
    __atomic_store_n(&reuse.token, ref.token, __ATOMIC_RELEASE);
    uint32_t len = load_error(ref.token, ref.token % GORGE_ERROR_MAX + 1, err);
    assert_int_equal(gorge_flight_finish(zone, &ref, 1000, GORGE_FAILED, err, len, &waiters), GORGE_OK);
  }
  __atomic_store_n(&reuse.done, 1, __ATOMIC_RELEASE);
  for (int i = 0; i < 2; i++) {
    pthread_join(threads[i], NULL);
  }
  assert_true(load_holds(load));
  assert_true(load->failed >= SEEN);
  gorge_owner_release(zone, &me);
  free(load);
}

/* An owner that is about to end its flight waits for the table's lock while somebody takes the flight over. */
static struct {
  struct gorge_flight_ref ref;
  uint64_t ready, go, status;
} late;

static void *finish_late(void *arg) {
  (void)arg;
  struct gorge_worker_set waiters;
  __atomic_store_n(&late.ready, 1, __ATOMIC_RELEASE);
  while (!__atomic_load_n(&late.go, __ATOMIC_ACQUIRE)) { /* asleep it would come too late */
  }
  late.status = (uint64_t)gorge_flight_finish(zone, &late.ref, 1000, GORGE_OK, NULL, 0, &waiters);
  return NULL;
}

static void test_a_flight_taken_over_while_its_owner_waits_is_not_ended_by_it(void **state) {
  (void)state;
  struct gorge_owner me;
  struct gorge_flight_set *set;
  zone = proc_zone(gorge_l1_init);
  assert_int_equal(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &me), GORGE_OK);
  load_key(zone, 0, &reuse.key);
  int taken_over = 0;
  for (int i = 0; i < 100; i++) {
    pthread_t thread;
    late.ready = late.go = 0;
    assert_int_equal(begin(&me, &reuse.key, &late.ref), GORGE_LEASE);
    struct gorge_flight_record *r = gorge_flight_record_at(zone, late.ref.index, &set);
    assert_int_equal(pthread_create(&thread, NULL, finish_late, NULL), 0);
    assert_true(proc_await(&late.ready, 1));
    assert_int_equal(gorge_lock_acquire(zone, &set->lock, me.id, 1000, NULL, NULL), GORGE_OK);
    __atomic_store_n(&late.go, 1, __ATOMIC_RELEASE);
    uint64_t start = gorge_clock_us();
    while (gorge_clock_us() - start < 300) {
    }
    uint64_t next = gorge_zone_token(zone), seen = late.ref.token;
    /* On a busy machine the owner may have waited for its whole budget, and have ended its flight without the lock. */
    bool taken = __atomic_compare_exchange_n(&r->token, &seen, next, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    gorge_lock_release(&set->lock, me.id);
    pthread_join(thread, NULL);
    taken_over += taken;
    assert_int_equal(late.status, taken ? GORGE_REFUSED : GORGE_OK);
    assert_int_equal(__atomic_load_n(&r->token, __ATOMIC_ACQUIRE), taken ? next : seen);
    __atomic_store_n(&r->token, 0, __ATOMIC_RELEASE);
  }
  assert_true(taken_over > 0);
  gorge_owner_release(zone, &me);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_one_valid_fill_among_threads),
      cmocka_unit_test(test_an_error_is_never_another_flights),
      cmocka_unit_test(test_a_flight_taken_over_while_its_owner_waits_is_not_ended_by_it),
  };
  return cmocka_run_group_tests_name("flight_threads", tests, NULL, NULL);
}
