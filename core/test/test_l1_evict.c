/* SPDX-License-Identifier: MIT */
/* What stays in a full zone, what goes, and what room is left. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test/l1_support.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN, TTL = 1 << 30, VALUE = 100 };

static char value[1 << 20];

static int put_number(const struct l1 *l1, uint64_t number, uint32_t len) {
  char name[24];
  l1_name(name, number);
  l1_fill(value, len, number, number);
  int status = GORGE_BUSY;
  /* On a busy machine room for a large value may not be made in time. */
  for (int i = 0; i < 100 && status == GORGE_BUSY; i++) {
    status = l1_put_bytes(l1, name, strlen(name), value, len, TTL);
  }
  return status;
}

/* Whether it is there, and right; counted as a use. */
static bool use_number(const struct l1 *l1, uint64_t number) {
  char name[24];
  struct gorge_read read;
  l1_name(name, number);
  if (l1_read(l1, name, strlen(name), true, &read) != GORGE_HIT) {
    return false;
  }
  assert_true(l1_check(read.buf, read.len, number));
  return true;
}

static uint64_t resident(const struct l1 *l1, uint64_t from, uint64_t to) {
  uint64_t n = 0;
  for (uint64_t i = from; i < to; i++) {
    n += use_number(l1, i);
  }
  return n;
}

static void test_a_full_zone_takes_everything_and_lies_about_nothing(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  uint64_t random = 1;
  enum { N = 100000 };
  for (uint64_t i = 0; i < N; i++) { /* some ten times what fits */
    assert_int_equal(put_number(&l1, i, 16 + proc_random(&random) % 200), GORGE_STORED);
  }
  uint64_t there = resident(&l1, 0, N);
  assert_int_equal(there, l1_entries(&l1));
  assert_int_equal(l1_count(&l1, GORGE_COUNT_INSERTS), N);
  assert_int_equal(l1_count(&l1, GORGE_COUNT_EVICTIONS), N - there);
  assert_int_equal(l1_count(&l1, GORGE_COUNT_EXPIRED), 0);
}

static void test_memory_per_entry(void **state) {
  (void)state;
  enum { BYTES = 64 << 20, KEY = 20 };
  struct l1 l1 = l1_open(BYTES, 0, 0);
  for (uint64_t i = 0; i < BYTES / 100; i++) {
    char key[KEY + 4] = {0};
    l1_name(key, 1000000000000000 + i);
    assert_int_equal(l1_put_bytes(&l1, key, KEY, value, VALUE, TTL), GORGE_STORED);
  }
  /* Everything included: headers, index, history, counters, flights. */
  assert_true(BYTES / l1_entries(&l1) <= 165);
}

/* Sizes one after another: each time what was there has expired, and all the room is to be had again. */
static void test_mixed_sizes_do_not_fragment(void **state) {
  (void)state;
  enum { BYTES = 16 << 20, LARGE = 300 << 10 };
  struct l1 l1 = l1_open(BYTES, 0, 0);
  static const struct {
    uint32_t len, percent; /* of the zone that holds values then */
  } fills[] = {{100, 55}, {10 << 10, 70}, {LARGE, 50}, {100, 55}, {LARGE, 50}, {30, 17}, {10 << 10, 70}};
  uint64_t number = 0;
  for (size_t i = 0; i < sizeof fills / sizeof *fills; i++) {
    uint64_t first = number, count = (uint64_t)BYTES / fills[i].len + 300;
    l1.now_ms += TTL;
    for (uint64_t k = 0; k < count; k++) {
      assert_int_equal(put_number(&l1, number++, fills[i].len), GORGE_STORED);
    }
    uint64_t bytes = resident(&l1, first, number) * fills[i].len;
    if (bytes < (uint64_t)BYTES * fills[i].percent / 100) {
      fail_msg("fill %zu with %u bytes: %u %% hold values", i, fills[i].len, (unsigned)(bytes * 100 / BYTES));
    }
  }
}

static void test_expired_entries_give_their_room_back(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  enum { N = 5000 };
  char name[24];
  for (uint64_t i = 0; i < N; i++) {
    l1_name(name, i);
    l1_fill(value, VALUE, i, i);
    assert_int_equal(l1_put_bytes(&l1, name, strlen(name), value, VALUE, 100), GORGE_STORED);
    assert_true(use_number(&l1, i));
  }
  uint64_t before = l1_entries(&l1);
  l1.now_ms += 100;
  for (uint64_t i = N; i < 4 * N; i++) {
    assert_int_equal(put_number(&l1, i, VALUE), GORGE_STORED);
  }
  assert_true(l1_count(&l1, GORGE_COUNT_EXPIRED) > before * 9 / 10);
  assert_true(resident(&l1, N, 4 * N) > before * 9 / 10);
}

static void test_what_a_tag_or_an_epoch_invalidated_gives_its_room_back(void **state) {
  (void)state;
  for (int how = 0; how < 2; how++) {
    struct l1 l1 = l1_open(SIZE, 0, 0);
    const char *tags[] = {"all"};
    char name[24], text[100];
    memset(text, 'x', 99);
    text[99] = '\0';
    for (uint64_t i = 0; i < 3000; i++) {
      l1_name(name, i);
      assert_int_equal(l1_put_tagged(&l1, name, text, tags, 1), GORGE_STORED);
    }
    if (how == 0) {
      gorge_l1_invalidate_tag(l1.zone, l1.ns, "all", 3);
    } else {
      gorge_l1_bump_epoch(l1.zone, l1.ns);
    }
    uint64_t evicted = l1_count(&l1, GORGE_COUNT_EVICTIONS);
    for (uint64_t i = 10000; i < 14000; i++) {
      assert_int_equal(put_number(&l1, i, VALUE), GORGE_STORED);
    }
    assert_int_equal(resident(&l1, 10000, 14000), 4000);
    assert_int_equal(l1_count(&l1, GORGE_COUNT_EVICTIONS), evicted);
  }
}

/* Fetches numbers: a use, or an insert when it is not there. Returns the hits of `n` fetches. */
static uint64_t fetch(const struct l1 *l1, uint64_t (*next)(void *), void *arg, uint64_t n) {
  uint64_t hits = 0;
  for (uint64_t i = 0; i < n; i++) {
    uint64_t number = next(arg);
    if (use_number(l1, number)) {
      hits++;
    } else {
      assert_int_equal(put_number(l1, number, VALUE), GORGE_STORED);
    }
  }
  return hits;
}

/* What a FIFO of the same number of entries would have. */
static uint64_t fifo(uint64_t entries, uint64_t (*next)(void *), void *arg, uint64_t n, uint64_t numbers) {
  uint64_t *inserted = calloc(numbers, sizeof *inserted), turn = entries + 1, hits = 0;
  for (uint64_t i = 0; i < n; i++) {
    uint64_t number = next(arg);
    if (inserted[number] != 0 && turn - inserted[number] <= entries) {
      hits++;
    } else {
      inserted[number] = ++turn;
    }
  }
  free(inserted);
  return hits;
}

enum { NUMBERS = 40000, FETCHES = 300000 };
static uint64_t next_zipf(void *arg) { return l1_zipf(arg, NUMBERS); }

static void test_zipf_beats_fifo(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  uint64_t one = 7, two = 7;
  uint64_t hits = fetch(&l1, next_zipf, &one, FETCHES);
  uint64_t simple = fifo(l1_entries(&l1), next_zipf, &two, FETCHES, NUMBERS);
  assert_true((FETCHES - hits) * 100 < (FETCHES - simple) * 90); /* a tenth of the misses, at the least */
}

static uint64_t next_of_loop(void *arg) {
  uint64_t *at = arg;
  return at[0]++ % at[1];
}

/* Hits in a thousand of a loop over twice what a new zone holds; where keys fall is another matter in each. */
static uint64_t loop_permille(void) {
  struct l1 l1 = l1_open(SIZE, 0, 0);
  uint64_t all[] = {0, 100000};
  fetch(&l1, next_of_loop, all, 30000);
  uint64_t loop[] = {0, l1_entries(&l1) * 2};
  fetch(&l1, next_of_loop, loop, loop[1] * 5);
  return fetch(&l1, next_of_loop, loop, loop[1] * 5) * 1000 / (loop[1] * 5);
}

static void test_a_loop_over_more_than_fits_still_hits(void **state) {
  (void)state;
  enum { ZONES = 16 };
  uint64_t sum = 0;
  for (int i = 0; i < ZONES; i++) {
    sum += loop_permille();
  }
  assert_true(sum > ZONES * 350); /* LRU and FIFO would never hit */
}

static void test_a_scan_does_not_drive_out_what_is_used(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  enum { HOT = 2000 };
  for (int round = 0; round < 5; round++) {
    for (uint64_t i = 0; i < HOT; i++) {
      if (!use_number(&l1, i)) {
        put_number(&l1, i, VALUE);
      }
    }
  }
  for (uint64_t i = 100000; i < 160000; i++) {
    put_number(&l1, i, VALUE);
    use_number(&l1, i % HOT); /* now and then */
  }
  assert_true(resident(&l1, 0, HOT) > HOT * 99 / 100);
}

static void test_a_tiny_index_holds_what_it_can(void **state) {
  (void)state;
  for (uint32_t buckets = 1; buckets <= 4; buckets++) {
    struct l1 l1 = l1_open(SIZE, 1, buckets);
    for (uint64_t i = 0; i < 2000; i++) {
      assert_int_equal(put_number(&l1, i, VALUE), GORGE_STORED);
      assert_true(use_number(&l1, i));
      assert_true(l1_entries(&l1) <= (uint64_t)buckets * GORGE_BUCKET_SLOTS);
    }
    assert_int_equal(resident(&l1, 0, 2000), l1_entries(&l1));
    assert_true(l1_entries(&l1) > buckets * GORGE_BUCKET_SLOTS / 2);
    assert_int_equal(l1_count(&l1, GORGE_COUNT_EVICTIONS), 2000 - l1_entries(&l1));
  }
}

static void test_a_hot_key_that_is_set_often_stays_the_newest(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  char name[24], text[32];
  for (uint64_t i = 0; i < 50000; i++) {
    uint64_t key = i % 50;
    l1_name(name, key);
    snprintf(text, sizeof text, "value %u", (unsigned)i);
    assert_int_equal(l1_put(&l1, name, text, TTL), GORGE_STORED);
    assert_string_equal(l1_get(&l1, name), text);
    put_number(&l1, 1000 + i, VALUE);
  }
  assert_int_equal(l1_count(&l1, GORGE_COUNT_REFUSED_FILLS), 0);
}

static void test_large_and_small_side_by_side(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  uint64_t random = 11, large = 0;
  for (uint64_t i = 0; i < 20000; i++) {
    bool big = proc_random(&random) % 50 == 0;
    uint32_t len = big ? 16 + proc_random(&random) % 200000 : 16 + proc_random(&random) % 100;
    assert_int_equal(put_number(&l1, i, len), GORGE_STORED);
    assert_true(use_number(&l1, i));
    large += big;
    if (i % 100 == 0) {
      resident(&l1, i > 300 ? i - 300 : 0, i);
    }
  }
  assert_true(large > 300);
  assert_int_equal(resident(&l1, 0, 20000), l1_entries(&l1));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_full_zone_takes_everything_and_lies_about_nothing),
      cmocka_unit_test(test_memory_per_entry),
      cmocka_unit_test(test_mixed_sizes_do_not_fragment),
      cmocka_unit_test(test_expired_entries_give_their_room_back),
      cmocka_unit_test(test_what_a_tag_or_an_epoch_invalidated_gives_its_room_back),
      cmocka_unit_test(test_zipf_beats_fifo),
      cmocka_unit_test(test_a_loop_over_more_than_fits_still_hits),
      cmocka_unit_test(test_a_scan_does_not_drive_out_what_is_used),
      cmocka_unit_test(test_a_tiny_index_holds_what_it_can),
      cmocka_unit_test(test_a_hot_key_that_is_set_often_stays_the_newest),
      cmocka_unit_test(test_large_and_small_side_by_side),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
