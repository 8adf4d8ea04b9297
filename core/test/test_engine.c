/* SPDX-License-Identifier: MIT */
/* Operations on one host without Redis: who fills, who waits, what is stored, and what becomes of those who go away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "test/drive_support.h"
#include "test/engine_support.h"

static gorge_cache *plain(void) {
  struct gorge_config config = engine_config(NULL, NULL, 0);
  return engine_cache(&config);
}

static void destroy(gorge_cache *c) {
  assert_int_equal(engine_flights(c), 0);
  assert_int_equal(gorge_pending(c), 0);
  assert_null(c->waiting);
  gorge_cache_destroy(c);
}

static void one_fills_the_others_find_it(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t first, second;
  assert_int_equal(engine_fetch(c, "k", NULL, &first), GORGE_LEASE);
  assert_int_equal(engine_fetch(c, "k", NULL, &second), GORGE_PENDING);
  assert_int_equal(engine_flights(c), 1);
  assert_int_equal(engine_fill(c, first, "v"), GORGE_STORED);
  assert_int_equal(engine_await(c, second).status, GORGE_OK);
  assert_string_equal(engine_l1(c, "k"), "v");
  gorge_op_free(c, first);
  gorge_op_free(c, second);
  /* Between a miss and the fetch somebody filled: nobody runs the loader again. */
  assert_int_equal(engine_fetch(c, "k", NULL, &first), GORGE_OK);
  gorge_op_free(c, first);
  assert_int_equal(engine_counter(c, GORGE_COUNT_LOADS), 1);
  assert_int_equal(engine_counter(c, GORGE_COUNT_WAITS), 1);
  destroy(c);
}

static void a_failure_reaches_who_waits_as_text(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t first, second;
  char text[300];
  memset(text, 'e', sizeof text);
  assert_int_equal(engine_fetch(c, "k", NULL, &first), GORGE_LEASE);
  assert_int_equal(engine_fetch(c, "k", NULL, &second), GORGE_PENDING);
  assert_int_equal(gorge_fetch_fail(c, first, text, sizeof text), GORGE_OK);
  assert_int_equal(engine_status(c, first).status, GORGE_FAILED);
  struct answer a = engine_await(c, second);
  assert_int_equal(a.status, GORGE_FAILED);
  assert_int_equal(a.read.len, GORGE_ERROR_MAX);
  assert_memory_equal(a.value, text, GORGE_ERROR_MAX);
  struct gorge_read small = {.buf = text, .buf_size = 3};
  assert_int_equal(gorge_op_status(c, second, &small), GORGE_SPACE);
  assert_int_equal(small.len, GORGE_ERROR_MAX);
  gorge_op_free(c, first);
  gorge_op_free(c, second);
  assert_int_equal(engine_fetch(c, "k", NULL, &first), GORGE_LEASE);
  assert_int_equal(gorge_fetch_fail(c, first, NULL, 0), GORGE_OK);
  gorge_op_free(c, first);
  assert_int_equal(engine_counter(c, GORGE_COUNT_LOAD_ERRORS), 2);
  destroy(c);
}

static void what_must_not_be_stored_sends_waiters_round_again(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t first, second;
  assert_int_equal(engine_fetch(c, "k", NULL, &first), GORGE_LEASE);
  assert_int_equal(engine_fetch(c, "k", NULL, &second), GORGE_PENDING);
  assert_int_equal(gorge_fetch_skip(c, first), GORGE_OK);
  assert_int_equal(engine_status(c, first).status, GORGE_OK);
  assert_int_equal(engine_await(c, second).status, GORGE_OK);
  assert_null(engine_l1(c, "k"));
  gorge_op_free(c, first);
  gorge_op_free(c, second);
  destroy(c);
}

static void a_fill_whose_caller_went_away_is_handed_on(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t first, second, third;
  assert_int_equal(engine_fetch(c, "k", NULL, &first), GORGE_LEASE);
  assert_int_equal(engine_fetch(c, "k", NULL, &second), GORGE_PENDING);
  assert_int_equal(engine_fetch(c, "k", NULL, &third), GORGE_PENDING);
  gorge_op_free(c, third); /* a waiter that goes away is nobody's loss */
  gorge_op_free(c, first);
  struct answer a = engine_await(c, second);
  if (a.status == GORGE_OK) {
    gorge_op_free(c, second);
    assert_int_equal(engine_fetch(c, "k", NULL, &second), GORGE_LEASE);
  }
  assert_int_equal(engine_fill(c, second, "v"), GORGE_STORED);
  gorge_op_free(c, second);
  gorge_op_free(c, second); /* once more does nothing */
  destroy(c);
}

static void a_fill_that_is_overdue_is_taken_over_and_its_late_value_refused(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t first, second;
  assert_int_equal(engine_fetch(c, "k", NULL, &first), GORGE_LEASE);
  assert_int_equal(engine_fetch(c, "k", NULL, &second), GORGE_PENDING);
  engine_let_lapse(c, "k");
  assert_int_equal(engine_await(c, second).status, GORGE_LEASE);
  assert_int_equal(engine_counter(c, GORGE_COUNT_TAKEOVERS), 1);
  assert_int_equal(gorge_op_joinable(c, first), 0); /* the other one may be over, and its value seen, before this one */
  assert_int_equal(gorge_op_joinable(c, second), 1);
  assert_int_equal(engine_fill(c, first, "late"), GORGE_REFUSED);
  assert_null(engine_l1(c, "k"));
  assert_int_equal(engine_counter(c, GORGE_COUNT_REFUSED_FILLS), 1);
  assert_int_equal(engine_fill(c, second, "v"), GORGE_STORED);
  assert_string_equal(engine_l1(c, "k"), "v");
  gorge_op_free(c, first);
  gorge_op_free(c, second);
  destroy(c);
}

static void a_wait_ends_at_its_deadline_and_may_become_a_run_without_lease(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t first, second;
  assert_int_equal(engine_fetch(c, "k", NULL, &first), GORGE_LEASE);
  assert_int_equal(engine_fetch(c, "k", NULL, &second), GORGE_PENDING);
  assert_int_equal(gorge_fetch_run(c, second), GORGE_ERR_ARGUMENT);
  assert_in_range(gorge_op_wait_ms(c, second), 1, 10);
  gorge_op_find(c, second)->deadline_ms = gorge_clock_ms();
  assert_int_equal(engine_await(c, second).status, GORGE_ERR_TIMEOUT);
  assert_int_equal(gorge_op_wait_ms(c, second), 0);
  assert_int_equal(engine_counter(c, GORGE_COUNT_WAIT_TIMEOUTS), 1);
  assert_int_equal(gorge_fetch_run(c, second), GORGE_LEASE);
  assert_int_equal(engine_fill(c, second, "unleased"), GORGE_REFUSED);
  assert_null(engine_l1(c, "k"));
  assert_int_equal(engine_fill(c, first, "v"), GORGE_STORED);
  gorge_op_free(c, first);
  gorge_op_free(c, second);
  destroy(c);
}

/* I1: whatever was invalidated while the loader ran, its value is not kept. */
static void an_invalidation_refuses_the_fills_that_began_before_it(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t op, write;
  for (int i = 0; i < 3; i++) {
    assert_int_equal(engine_fetch(c, "k", "tag other", &op), GORGE_LEASE);
    assert_int_equal(gorge_op_joinable(c, op), 1);
    int status = i == 0   ? engine_delete(c, "k", &write)
                 : i == 1 ? engine_invalidate(c, "other", &write)
                          : engine_set(c, "k", "newer", NULL, &write);
    assert_int_equal(status, GORGE_OK);
    assert_int_equal(write, 0);
    assert_int_equal(gorge_op_joinable(c, op), 0);
    uint64_t anew;
    if (i < 2) { /* who comes now does not wait for the old fill, but runs one of its own */
      assert_int_equal(engine_fetch(c, "k", "tag other", &anew), GORGE_LEASE);
      gorge_op_free(c, anew);
    }
    assert_int_equal(engine_fill(c, op, "old"), GORGE_REFUSED);
    gorge_op_free(c, op);
    if (i < 2) {
      assert_null(engine_l1(c, "k"));
    }
  }
  assert_string_equal(engine_l1(c, "k"), "newer");
  destroy(c);
}

/* Tags that only the loader names: nothing that was invalidated since the fetch began may be among them. */
static void tags_of_the_loader_count_from_the_start_of_the_fetch(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t op, write;
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_LEASE);
  assert_int_equal(engine_fill_tagged(c, op, "v", "late"), GORGE_STORED);
  gorge_op_free(c, op);
  assert_string_equal(engine_l1(c, "k"), "v");
  assert_int_equal(engine_invalidate(c, "late", &write), GORGE_OK);
  assert_null(engine_l1(c, "k"));
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_LEASE);
  assert_int_equal(engine_invalidate(c, "late", &write), GORGE_OK);
  assert_int_equal(gorge_op_joinable(c, op), 0); /* its tags are not known yet: any of them may be that one */
  assert_int_equal(engine_fill_tagged(c, op, "old", "late"), GORGE_REFUSED);
  gorge_op_free(c, op);
  assert_null(engine_l1(c, "k"));
  destroy(c);
}

/* An invalidator that stands before its last step when the loader returns. */
static void a_tag_being_invalidated_while_the_loader_returns_is_not_missed(void **state) {
  (void)state;
  gorge_cache *c = plain();
  struct gorge_words *words = gorge_zone_words(c->zone, c->ns);
  uint64_t op, write;
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_LEASE);
  assert_int_equal(engine_invalidate(c, "late", &write), GORGE_OK);
  words->global--; /* the generation has moved, the global word not yet for the last time */
  int status = engine_fill_tagged(c, op, "old", "late");
  words->global++;
  gorge_op_free(c, op);
  assert_true(status == GORGE_REFUSED || engine_l1(c, "k") == NULL);
  destroy(c);
}

static void too_large_for_l1_is_told_and_the_older_value_gone(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint32_t size = GORGE_ZONE_SIZE_MIN;
  char *big = calloc(1, size + 1);
  assert_non_null(big);
  memset(big, 'x', size);
  uint64_t op;
  assert_int_equal(engine_set(c, "k", "small", NULL, &op), GORGE_OK);
  struct gorge_store store = engine_store("k", big);
  assert_int_equal(gorge_set_start(c, &store, &op), GORGE_OK);
  assert_null(engine_l1(c, "k"));
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_LEASE);
  assert_int_equal(gorge_fetch_fill(c, op, &store, NULL), GORGE_TOO_LARGE);
  gorge_op_free(c, op);
  assert_int_equal(engine_counter(c, GORGE_COUNT_TOO_LARGE), 2);
  free(big);
  destroy(c);
}

static void a_buffer_too_small_tells_the_size_needed(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t op;
  char buf[4];
  assert_int_equal(engine_set(c, "k", "value", "a bb", &op), GORGE_OK);
  struct gorge_read read = {.buf = buf, .buf_size = sizeof buf};
  assert_int_equal(gorge_get(c, "k", 1, &read), GORGE_SPACE);
  assert_int_equal(read.len, 5);
  assert_int_equal(engine_counter(c, GORGE_COUNT_L1_HITS), 0); /* asked again, it will be a hit */
  char tags[8];
  assert_int_equal(gorge_peek_tags(c, "k", 1, tags, sizeof tags), 5);
  assert_memory_equal(tags, "\1a\2bb", 5);
  assert_int_equal(gorge_peek_tags(c, "k", 1, tags, 3), 0);
  read = (struct gorge_read){.buf = NULL, .buf_size = 0};
  assert_int_equal(engine_set(c, "nil", "", NULL, &op), GORGE_OK);
  assert_int_equal(gorge_get(c, "nil", 3, &read), GORGE_HIT);
  assert_int_equal(read.len, 0);
  assert_non_null(read.slot);
  destroy(c);
}

static void uses_of_records_are_noted_in_their_entries(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t op;
  char buf[8];
  assert_int_equal(engine_set(c, "a", "1", NULL, &op), GORGE_OK);
  assert_int_equal(engine_set(c, "b", "2", NULL, &op), GORGE_OK);
  struct gorge_read a = {.buf = buf, .buf_size = sizeof buf}, b = a;
  assert_int_equal(gorge_peek(c, "a", 1, &a), GORGE_HIT);
  assert_int_equal(gorge_peek(c, "b", 1, &b), GORGE_HIT);
  struct gorge_l0_record records[3] = {{0}, {.slot = a.slot, .word = a.word}, {.slot = b.slot, .word = b.word}};
  struct gorge_view view = {.records = records, .used = 3, .uses = {1, 2, 1}};
  gorge_note_uses(&view);
  assert_int_equal(view.used, 0);
  assert_int_equal((*a.slot - a.word) >> 45, 2);
  assert_int_equal((*b.slot - b.word) >> 45, 1);
  gorge_note_uses(&view); /* the list is empty */
  assert_int_equal((*b.slot - b.word) >> 45, 1);
  /* Another value stands there now: it has not been used. */
  assert_int_equal(engine_set(c, "b", "3", NULL, &op), GORGE_OK);
  assert_int_equal(gorge_peek(c, "b", 1, &b), GORGE_HIT);
  uint64_t before = *b.slot;
  view.used = 1;
  view.uses[0] = 2;
  gorge_note_uses(&view);
  assert_int_equal(*b.slot, before);
  destroy(c);
}

static void the_clock_of_reads_may_be_somebody_elses(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t op, now_ms = (uint64_t)gorge_now_ms();
  char buf[8];
  struct gorge_read read = {.buf = buf, .buf_size = sizeof buf};
  assert_int_equal(engine_set(c, "k", "1", NULL, &op), GORGE_OK);
  gorge_cache_clock(c, &now_ms);
  assert_int_equal(gorge_get(c, "k", 1, &read), GORGE_HIT);
  now_ms = (uint64_t)read.expires_ms - 1;
  assert_int_equal(gorge_get(c, "k", 1, &read), GORGE_HIT);
  now_ms++;
  assert_int_equal(gorge_get(c, "k", 1, &read), GORGE_MISS);
  gorge_cache_clock(c, NULL);
  assert_int_equal(gorge_get(c, "k", 1, &read), GORGE_HIT);
  destroy(c);
}

/* A value that has ended by the caller's clock, and not yet by ours. */
static void what_has_ended_for_the_caller_is_filled_anew(void **state) {
  (void)state;
  gorge_cache *c = plain();
  int status;
  uint64_t op;
  engine_get_or_fill(c, "k", "old", &status);
  uint64_t ahead = gorge_clock_ms() + 2 * 60000;
  gorge_cache_clock(c, &ahead);
  char buf[8];
  struct gorge_read read = {.buf = buf, .buf_size = sizeof buf};
  assert_int_equal(gorge_get(c, "k", 1, &read), GORGE_MISS);
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_LEASE);
  assert_int_equal(engine_fill(c, op, "new"), GORGE_STORED);
  gorge_op_free(c, op);
  gorge_cache_clock(c, NULL);
  assert_string_equal(engine_l1(c, "k"), "new");
  destroy(c);
}

static void the_words_of_a_read_tell_when_it_is_no_longer_good(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t op;
  const struct gorge_words *words = gorge_cache_words(c);
  assert_int_equal(engine_fetch(c, "k", "tag", &op), GORGE_LEASE);
  assert_int_equal(engine_fill(c, op, "v"), GORGE_STORED);
  struct answer a = engine_status(c, op);
  assert_non_null(a.read.slot);
  assert_int_equal(a.read.global, words->global);
  assert_true(a.read.expires_ms > gorge_now_ms() + 50000);
  gorge_op_free(c, op);
  assert_int_equal(engine_invalidate(c, "tag", &op), GORGE_OK);
  assert_int_not_equal(a.read.global, words->global);
  assert_int_equal(engine_set(c, "k", "v2", NULL, &op), GORGE_OK);
  assert_int_not_equal(a.read.word, *a.read.slot & ~UINT64_C(0x600000000000));
  destroy(c);
}

/* ---- going away ---- */

static void the_end_of_a_request_gives_its_fills_up_and_outlives_everything(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t first, second, third, named[4];
  _Alignas(8) char guard[GORGE_GUARD_SIZE], other[GORGE_GUARD_SIZE];
  const int request[2] = {0};
  assert_int_equal(engine_fetch(c, "k", NULL, &first), GORGE_LEASE);
  assert_int_equal(engine_fetch(c, "k", NULL, &second), GORGE_PENDING);
  assert_int_equal(engine_fetch(c, "k2", NULL, &third), GORGE_LEASE);
  assert_int_equal(gorge_poll(c, named, 4), 2);
  assert_int_equal(gorge_op_guard(c, first, &request[0]), GORGE_MISS);
  assert_int_equal(gorge_guard_init(guard, &request[0]), GORGE_OK);
  assert_int_equal(gorge_guard_init(other, &request[1]), GORGE_OK);
  assert_int_equal(gorge_op_guard(c, first, &request[0]), GORGE_OK);
  assert_int_equal(gorge_op_guard(c, first, &request[0]), GORGE_OK);
  assert_int_equal(gorge_op_guard(c, second, &request[1]), GORGE_OK);
  assert_int_equal(gorge_op_guard(c, third, &request[0]), GORGE_OK);
  gorge_op_free(c, third); /* over: nothing is left to be given up */
  assert_int_equal(gorge_op_guard(c, third, &request[0]), GORGE_ERR_ARGUMENT);
  gorge_guard_cleanup(guard);
  gorge_guard_cleanup(guard);
  assert_int_equal(engine_flights(c), 0);
  /* Whoever shares the operation in this worker hears that it is gone, and that the other one is decided. */
  assert_int_equal(gorge_poll(c, named, 4), 2);
  assert_true(named[0] == first || named[1] == first);
  assert_int_equal(gorge_op_status(c, first, NULL), GORGE_ERR_ARGUMENT);
  gorge_op_free(c, second);
  gorge_guard_cleanup(other);
  /* The request's address may be another's by now. */
  assert_int_equal(engine_fetch(c, "k", NULL, &first), GORGE_LEASE);
  assert_int_equal(gorge_op_guard(c, first, &request[0]), GORGE_MISS);
  assert_int_equal(gorge_guard_init(guard, &request[0]), GORGE_OK);
  assert_int_equal(gorge_op_guard(c, first, &request[0]), GORGE_OK);
  gorge_cache_destroy(c); /* with an operation in RUN */
  gorge_guard_cleanup(guard);
}

static void requests_beyond_counting_are_told_apart(void **state) {
  (void)state;
  enum { REQUESTS = 1000 };
  static char requests[REQUESTS];
  _Alignas(8) static char guards[REQUESTS][GORGE_GUARD_SIZE];
  gorge_cache *c = plain();
  uint64_t ops[REQUESTS];
  for (int i = 0; i < REQUESTS; i++) {
    char key[16];
    snprintf(key, sizeof key, "k%d", i);
    assert_int_equal(engine_fetch(c, key, NULL, &ops[i]), GORGE_LEASE);
    assert_int_equal(gorge_guard_init(guards[i], &requests[i]), GORGE_OK);
    assert_int_equal(gorge_op_guard(c, ops[i], &requests[i]), GORGE_OK);
  }
  for (int i = 0; i < REQUESTS; i += 2) {
    gorge_guard_cleanup(guards[i]);
  }
  assert_int_equal(gorge_pending(c), REQUESTS / 2);
  for (int i = 0; i < REQUESTS; i++) {
    assert_int_equal(gorge_op_status(c, ops[i], NULL), i % 2 == 0 ? GORGE_ERR_ARGUMENT : GORGE_LEASE);
    gorge_guard_cleanup(guards[i]);
  }
  assert_int_equal(engine_flights(c), 0);
  destroy(c);
}

static void destroying_a_cache_ends_what_runs_for_it(void **state) {
  (void)state;
  struct gorge_config config = engine_config(NULL, NULL, 0);
  gorge_cache *a = engine_cache(&config), *b = engine_cache(&config);
  uint64_t run, wait, other;
  assert_int_equal(engine_fetch(a, "k", NULL, &run), GORGE_LEASE);
  assert_int_equal(engine_fetch(a, "k", NULL, &wait), GORGE_PENDING);
  assert_int_equal(engine_fetch(b, "k", NULL, &other), GORGE_PENDING);
  gorge_cache_destroy(a);
  assert_int_equal(engine_flights(b), 0);
  assert_int_equal(engine_await(b, other).status, GORGE_OK);
  gorge_op_free(b, other);
  destroy(b);
  gorge_cache_destroy(NULL);
}

static void thousands_of_caches_leave_nothing_behind(void **state) {
  (void)state;
  struct gorge_config config = engine_config(NULL, NULL, GORGE_CONFIG_INLINE);
  gorge_cache *keep = engine_cache(&config);
  struct gorge_stats stats;
  gorge_loop_wait(0);
  int fds = support_count("/proc/self/fd"), tasks = support_count("/proc/self/task");
  for (int i = 0; i < 3000; i++) {
    uint64_t op;
    gorge_cache *c = engine_cache(&config);
    assert_int_equal(gorge_cache_enter(c, 0), GORGE_OK);
    assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_LEASE);
    gorge_cache_destroy(c);
    assert_int_equal(gorge_stats_read(keep, &stats), GORGE_OK);
    assert_int_equal(stats.workers, 0);
    assert_int_equal(stats.flights, 0);
  }
  for (int i = 0; i < 30; i++) { /* and with a control thread and a doorbell */
    char path[200];
    gorge_cache *c = engine_cache(&config);
    assert_int_equal(gorge_doorbell_path(c, path, sizeof path), GORGE_OK);
    gorge_loop_wait(0);
    gorge_cache_destroy(c);
  }
  assert_int_equal(support_count("/proc/self/fd"), fds);
  assert_true(WAIT_UNTIL(support_count("/proc/self/task") <= tasks + 1)); /* a sanitizer may have one of its own */
  destroy(keep);
}

/* A host that asks operations by their id and never polls must not pay for it with memory. */
static void notices_of_operations_that_are_gone_are_gone(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t op, kept, named[8];
  for (int i = 0; i < 20000; i++) {
    assert_int_equal(engine_set(c, "k", "v", NULL, &op), GORGE_OK);
    assert_int_equal(engine_delete(c, "k", &op), GORGE_OK);
    assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_LEASE);
    gorge_op_free(c, op);
  }
  assert_int_equal(engine_fetch(c, "k", NULL, &kept), GORGE_LEASE);
  assert_int_equal(engine_fill(c, kept, "v"), GORGE_STORED); /* changed twice, named once */
  assert_int_equal(gorge_poll(c, named, 8), 1);
  assert_int_equal(named[0], kept);
  assert_int_equal(gorge_poll(c, named, 8), 0);
  gorge_op_free(c, kept);
  destroy(c);
}

static void ids_stay_exact_as_doubles_for_ever(void **state) {
  (void)state;
  gorge_cache *c = plain();
  uint64_t op;
  assert_int_equal(gorge_cache_enter(c, 0), GORGE_OK);
  for (int shift = 30; shift < 44; shift++) {
    c->next_serial = (UINT64_C(1) << shift) - 4;
    for (int i = 0; i < 8; i++) {
      assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_LEASE);
      assert_true(op > 0 && op <= UINT64_C(1) << 53);
      assert_int_equal(gorge_op_status(c, (uint64_t)(double)op, NULL), GORGE_LEASE);
      gorge_op_free(c, op);
      assert_int_equal(gorge_op_status(c, op, NULL), GORGE_ERR_ARGUMENT);
    }
  }
  destroy(c);
}

static void many_operations_at_once(void **state) {
  (void)state;
  enum { MANY = 120 };
  /* Keys fall into the sets of flights at random, 16 to a set: of the smallest zone's 7 one would be full now and then. */
  struct gorge_config config = engine_config(NULL, NULL, 0);
  config.l1_size = 8 * GORGE_ZONE_SIZE_MIN;
  gorge_cache *c = engine_cache(&config);
  static uint64_t ops[MANY], named[MANY * 2];
  char key[16];
  for (int i = 0; i < MANY; i++) {
    snprintf(key, sizeof key, "k%d", i / 2);
    assert_int_equal(engine_fetch(c, key, NULL, &ops[i]), i % 2 == 0 ? GORGE_LEASE : GORGE_PENDING);
  }
  assert_int_equal(gorge_pending(c), MANY);
  for (int i = 0; i < MANY; i += 2) {
    int status = engine_fill(c, ops[i], "v");
    assert_true(status == GORGE_STORED || status == GORGE_REFUSED); /* keys may share a stamp */
  }
  uint32_t n = 0, got;
  while ((got = gorge_poll(c, named + n, 7)) > 0) {
    n += got;
    assert_true(n <= MANY);
  }
  assert_int_equal(n, MANY);
  for (int i = 0; i < MANY; i++) {
    int status = engine_status(c, ops[i]).status;
    assert_true(status == GORGE_STORED || status == GORGE_REFUSED || (i % 2 == 1 && status == GORGE_OK));
    gorge_op_free(c, ops[i]);
  }
  destroy(c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(one_fills_the_others_find_it),
      cmocka_unit_test(a_failure_reaches_who_waits_as_text),
      cmocka_unit_test(what_must_not_be_stored_sends_waiters_round_again),
      cmocka_unit_test(a_fill_whose_caller_went_away_is_handed_on),
      cmocka_unit_test(a_fill_that_is_overdue_is_taken_over_and_its_late_value_refused),
      cmocka_unit_test(a_wait_ends_at_its_deadline_and_may_become_a_run_without_lease),
      cmocka_unit_test(an_invalidation_refuses_the_fills_that_began_before_it),
      cmocka_unit_test(tags_of_the_loader_count_from_the_start_of_the_fetch),
      cmocka_unit_test(a_tag_being_invalidated_while_the_loader_returns_is_not_missed),
      cmocka_unit_test(too_large_for_l1_is_told_and_the_older_value_gone),
      cmocka_unit_test(a_buffer_too_small_tells_the_size_needed),
      cmocka_unit_test(uses_of_records_are_noted_in_their_entries),
      cmocka_unit_test(the_clock_of_reads_may_be_somebody_elses),
      cmocka_unit_test(what_has_ended_for_the_caller_is_filled_anew),
      cmocka_unit_test(the_words_of_a_read_tell_when_it_is_no_longer_good),
      cmocka_unit_test(the_end_of_a_request_gives_its_fills_up_and_outlives_everything),
      cmocka_unit_test(requests_beyond_counting_are_told_apart),
      cmocka_unit_test(destroying_a_cache_ends_what_runs_for_it),
      cmocka_unit_test(thousands_of_caches_leave_nothing_behind),
      cmocka_unit_test(notices_of_operations_that_are_gone_are_gone),
      cmocka_unit_test(ids_stay_exact_as_doubles_for_ever),
      cmocka_unit_test(many_operations_at_once),
  };
  return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
