/* SPDX-License-Identifier: MIT */
/* Lock, owners and roles among threads: each thread is an owner of its own. Made to run under ThreadSanitizer. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "sync/lock.h"
#include "sync/role.h"
#include "test/procs.h"

enum { THREADS = 4, ROUNDS = 5000, LONG_US = 5 * 1000 * 1000 };

struct job {
  struct gorge_zone *zone;
  uint32_t id;
  uint64_t failures;
  pthread_t thread;
  struct job *all;
};

static void run(struct job *jobs, struct gorge_zone *zone, void *(*body)(void *)) {
  for (int i = 0; i < THREADS; i++) {
    jobs[i] = (struct job){.zone = zone, .all = jobs};
  }
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_create(&jobs[i].thread, NULL, body, &jobs[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(jobs[i].thread, NULL);
    assert_int_equal(jobs[i].failures, 0);
  }
}

/* A lock, and what it guards: not atomic, so that ThreadSanitizer sees a second holder. */
struct guarded {
  struct gorge_lock lock;
  uint64_t count;
};

static struct guarded *guarded_of(const struct gorge_zone *zone) {
  return gorge_zone_region(zone, GORGE_REGION_L1, NULL);
}

static void *count_up(void *arg) {
  struct job *job = arg;
  struct guarded *g = guarded_of(job->zone);
  struct gorge_owner me;
  job->failures += gorge_owner_claim(job->zone, GORGE_THREAD_MAIN, &me) != GORGE_OK;
  for (int i = 0; i < ROUNDS; i++) {
    job->failures += gorge_lock_acquire(job->zone, &g->lock, me.id, LONG_US, NULL, NULL) != GORGE_OK;
    g->count++;
    gorge_lock_release(&g->lock, me.id);
  }
  gorge_owner_release(job->zone, &me);
  return NULL;
}

static void test_what_the_lock_guards_needs_no_atomics(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct job jobs[THREADS];
  run(jobs, zone, count_up);
  assert_int_equal(guarded_of(zone)->count, THREADS * ROUNDS);
}

static void *come_and_go(void *arg) {
  struct job *job = arg;
  uint32_t last = 0;
  for (int i = 0; i < ROUNDS / 10; i++) {
    struct gorge_owner me, again;
    job->failures += gorge_owner_claim(job->zone, GORGE_THREAD_MAIN, &me) != GORGE_OK;
    job->failures += gorge_owner_claim(job->zone, GORGE_THREAD_MAIN, &again) != GORGE_OK || again.id != me.id;
    job->failures += me.id == last || !gorge_owner_alive(job->zone, me.id) || gorge_owner_alive(job->zone, last);
    __atomic_store_n(&job->id, me.id, __ATOMIC_RELEASE);
    for (int k = 0; k < THREADS; k++) {
      uint32_t other = __atomic_load_n(&job->all[k].id, __ATOMIC_ACQUIRE);
      job->failures += &job->all[k] != job && other == me.id;
      gorge_owner_alive(job->zone, other);
    }
    last = me.id;
    gorge_owner_release(job->zone, &me);
  }
  return NULL;
}

static void test_threads_never_share_an_owner(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct job jobs[THREADS];
  run(jobs, zone, come_and_go);
  assert_int_equal(gorge_owner_count(zone), 0);
}

/* A role under a clock that all threads push on; every lease granted is written down. */
enum { LEASE_MS = 5, GRANTS = 40000 };

struct grant {
  uint64_t from_ms;
  uint32_t owner;
};

static struct {
  uint64_t now_ms;
  uint64_t used;
  struct grant grants[GRANTS];
} book;

/* Lets the lease run out and somebody else take the role. */
static void let_others(const struct gorge_role *role, uint32_t me) {
  for (int i = 0; i < 100000 && __atomic_load_n(&role->holder, __ATOMIC_RELAXED) >> 32 == me; i++) {
    __atomic_add_fetch(&book.now_ms, 1, __ATOMIC_RELEASE);
    sched_yield();
  }
}

static void *hold_role(void *arg) {
  struct job *job = arg;
  struct gorge_role *role = gorge_zone_subscriber_role(job->zone, 0);
  struct gorge_owner me;
  job->failures += gorge_owner_claim(job->zone, GORGE_THREAD_MAIN, &me) != GORGE_OK;
  for (int i = 1; i < 100 * GRANTS; i++) {
    uint64_t now_ms = __atomic_load_n(&book.now_ms, __ATOMIC_ACQUIRE);
    if (gorge_role_hold(job->zone, role, me.id, now_ms, LEASE_MS)) {
      uint64_t at = __atomic_fetch_add(&book.used, 1, __ATOMIC_RELAXED);
      if (at >= GRANTS) {
        break;
      }
      book.grants[at] = (struct grant){.from_ms = now_ms, .owner = me.id};
      if (at % 8 == 7) {
        let_others(role, me.id);
      }
    }
    if (i % 16 == 0) {
      __atomic_add_fetch(&book.now_ms, 1, __ATOMIC_RELEASE);
    }
  }
  return NULL; /* without release: a dead holder is no hindrance */
}

static int by_time(const void *a, const void *b) {
  const struct grant *x = a, *y = b;
  return x->from_ms < y->from_ms ? -1 : x->from_ms > y->from_ms;
}

static void test_no_two_hold_a_role_at_one_time(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct job jobs[THREADS];
  book.now_ms = UINT32_MAX - 1000; /* deadlines are kept modulo 2^32: across the seam */
  run(jobs, zone, hold_role);
  uint64_t used = book.used < GRANTS ? book.used : GRANTS;
  assert_true(used > 100);
  uint32_t owners = 0;
  qsort(book.grants, used, sizeof *book.grants, by_time);
  for (uint64_t i = 0; i < used; i++) {
    const struct grant *a = &book.grants[i];
    owners |= 1U << gorge_owner_worker(a->owner) % 32;
    for (uint64_t k = i + 1; k < used && book.grants[k].from_ms < a->from_ms + LEASE_MS; k++) {
      if (book.grants[k].owner != a->owner) {
        fail_msg("%x from %lu and %x from %lu", a->owner, (unsigned long)a->from_ms, book.grants[k].owner,
                 (unsigned long)book.grants[k].from_ms);
      }
    }
  }
  assert_true((owners & (owners - 1)) != 0); /* it did change hands */
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_what_the_lock_guards_needs_no_atomics),
      cmocka_unit_test(test_threads_never_share_an_owner),
      cmocka_unit_test(test_no_two_hold_a_role_at_one_time),
  };
  return cmocka_run_group_tests_name("lock_threads", tests, NULL, NULL);
}
