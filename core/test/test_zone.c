/* SPDX-License-Identifier: MIT */
/* Zones: one mapping per name, complete before anybody sees it, and what hangs on it: namespaces, stats, tokens. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "resil/breakers.h"
#include "shm/layout.h"
#include "test/procs.h"

_Static_assert(sizeof(struct gorge_breaker_table) == GORGE_BREAKER_TABLE_WORDS * 8, "the zone keeps so much for it");
_Static_assert((int)GORGE_BREAKER_OWNERS == (int)GORGE_NAMESPACES, "each namespace has breakers of its own");
_Static_assert(sizeof(struct gorge_breaker_words) <= GORGE_LINE, "a breaker fits the line that the zone keeps for it");

enum { SIZE = GORGE_ZONE_SIZE_MIN };

static int open_zone(const char *name, uint64_t size, struct gorge_zone **zone, uint64_t *existing) {
  return gorge_zone_open(name, strlen(name), size, 0, NULL, zone, existing);
}

static uint64_t *scratch(const struct gorge_zone *zone) { return gorge_zone_region(zone, GORGE_REGION_L1, NULL); }

static void test_a_name_is_one_zone(void **state) {
  (void)state;
  struct gorge_zone *a, *b, *c;
  assert_int_equal(open_zone("one", SIZE, &a, NULL), GORGE_OK);
  assert_int_equal(open_zone("one", SIZE, &b, NULL), GORGE_OK);
  assert_ptr_equal(a, b);
  assert_int_equal(open_zone("on", SIZE, &c, NULL), GORGE_OK);
  assert_ptr_not_equal(a, c);
  scratch(a)[0] = 42;
  assert_int_equal(scratch(c)[0], 0);
  assert_string_equal(a->name, "one");
}

static void test_another_size_is_refused_and_the_first_one_told(void **state) {
  (void)state;
  struct gorge_zone *a, *b;
  uint64_t existing = 0;
  assert_int_equal(open_zone("sized", SIZE + 4096, &a, &existing), GORGE_OK);
  assert_int_equal(existing, 0);
  assert_int_equal(open_zone("sized", SIZE, &b, &existing), GORGE_ERR_MISMATCH);
  assert_int_equal(existing, SIZE + 4096);
  assert_null(b);
}

static void test_what_is_no_name_or_size_is_refused(void **state) {
  (void)state;
  char longest[GORGE_NAME_MAX + 2];
  struct gorge_zone *zone;
  memset(longest, 'x', sizeof longest);
  assert_int_equal(gorge_zone_open("", 0, SIZE, 0, NULL, &zone, NULL), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_zone_open(longest, GORGE_NAME_MAX + 1, SIZE, 0, NULL, &zone, NULL), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_zone_open("a\0b", 3, SIZE, 0, NULL, &zone, NULL), GORGE_ERR_ARGUMENT);
  assert_int_equal(open_zone("small", SIZE - 1, &zone, NULL), GORGE_ERR_ARGUMENT);
  assert_int_equal(open_zone("huge", UINT64_MAX, &zone, NULL), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_zone_open(longest, GORGE_NAME_MAX, SIZE, 0, NULL, &zone, NULL), GORGE_OK);
}

static void test_more_than_the_machine_has_is_refused(void **state) {
  (void)state;
  struct gorge_zone *zone;
  assert_int_equal(open_zone("oversized", (uint64_t)1 << 50, &zone, NULL), GORGE_ERR_MEMORY);
  assert_int_equal(open_zone("oversized", SIZE, &zone, NULL), GORGE_OK);
}

static int limited(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  struct gorge_zone *zone;
  const struct rlimit limit = {.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
  CHILD_CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  CHILD_CHECK(open_zone("limited", SIZE, &zone, NULL) == GORGE_ERR_SYSTEM && errno == EFBIG);
  const struct rlimit files = {.rlim_cur = 3, .rlim_max = 3};
  CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0);
  CHILD_CHECK(open_zone("limited", SIZE, &zone, NULL) == GORGE_ERR_SYSTEM && errno == EMFILE);
  return 0;
}

static void test_limits_of_the_process_are_errors_not_signals(void **state) {
  (void)state;
  struct proc child = proc_start(limited, NULL);
  assert_int_equal(proc_wait(&child), 0);
}

static void test_the_memory_is_all_there_and_stays(void **state) {
  (void)state;
  struct gorge_zone *zone;
  struct stat st;
  assert_int_equal(open_zone("solid", SIZE + 100, &zone, NULL), GORGE_OK);
  assert_int_equal(fstat(zone->fd, &st), 0);
  assert_true((uint64_t)st.st_size >= SIZE + 100);
  assert_true((uint64_t)st.st_blocks * 512 >= SIZE + 100);
  assert_int_equal(ftruncate(zone->fd, 4096), -1);
  assert_int_equal(ftruncate(zone->fd, 64 << 20), -1);
  assert_true(fcntl(zone->fd, F_GETFD) & FD_CLOEXEC);
}

static void test_regions_fill_the_zone_without_overlap(void **state) {
  (void)state;
  const uint64_t sizes[] = {SIZE, SIZE + 1, SIZE + 4095, 10 << 20, (64 << 20) + 12345, (uint64_t)4 << 30};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    struct gorge_region_table t;
    gorge_layout_regions(sizes[i], &t);
    uint64_t end = sizeof(struct gorge_zone_header);
    for (int r = 0; r < GORGE_REGIONS; r++) {
      assert_int_equal(t.at[r] % 64, 0);
      assert_true(t.at[r] >= end);
      end = t.at[r] + t.size[r];
    }
    assert_true(end <= sizes[i]);
    assert_true(t.size[GORGE_REGION_L1] >= sizes[i] / 100 * 90);
  }
  uint64_t size;
  struct gorge_zone *zone = proc_zone(NULL);
  char *at = gorge_zone_region(zone, GORGE_REGION_L1, &size);
  assert_true(at > zone->base && at + size <= zone->base + zone->size);
}

static int check_fresh(struct gorge_zone *zone) {
  uint64_t size;
  for (enum gorge_region r = GORGE_REGION_STATS; r < GORGE_REGIONS; r++) {
    const char *at = gorge_zone_region(zone, r, &size);
    for (uint64_t i = 0; i < size; i++) {
      assert_int_equal(at[i], 0);
    }
  }
  scratch(zone)[1] = 77;
  return GORGE_OK;
}

static void test_a_fresh_zone_is_zeros_and_laid_out_once(void **state) {
  (void)state;
  struct gorge_zone *zone, *again;
  assert_int_equal(gorge_zone_open("fresh", 5, SIZE, 0, check_fresh, &zone, NULL), GORGE_OK);
  assert_int_equal(scratch(zone)[1], 77);
  assert_int_equal(gorge_zone_open("fresh", 5, SIZE, 0, check_fresh, &again, NULL), GORGE_OK);
}

static int refuse(struct gorge_zone *zone) {
  (void)zone;
  return GORGE_ERR_ARGUMENT;
}

static void test_a_layout_that_fails_leaves_no_zone(void **state) {
  (void)state;
  struct gorge_zone *zone;
  int before = dup(1);
  assert_true(before >= 0);
  close(before);
  assert_int_equal(gorge_zone_open("fails", 5, SIZE, 0, refuse, &zone, NULL), GORGE_ERR_ARGUMENT);
  assert_null(zone);
  int after = dup(1);
  close(after);
  assert_int_equal(before, after);
  assert_int_equal(gorge_zone_open("fails", 5, SIZE + 4096, 0, NULL, &zone, NULL), GORGE_OK);
}

static void test_every_namespace_begins_with_words_of_its_own(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  for (uint32_t i = 0; i < GORGE_NAMESPACES; i++) {
    const struct gorge_words *w = gorge_zone_words(zone, i);
    assert_int_equal((uintptr_t)w % 64, 0);
    assert_int_equal(w->global, 1);
    assert_int_equal(w->epoch, 1);
    assert_true(w->fresh_until_ms == GORGE_FRESH_ALWAYS);
    assert_true((uint64_t)(double)w->fresh_until_ms == w->fresh_until_ms);
    for (uint32_t k = 0; k < i; k++) {
      assert_int_not_equal(w->salt, gorge_zone_words(zone, k)->salt);
    }
  }
}

static int write_in_child(struct proc *self, void *arg) {
  (void)self;
  struct gorge_zone *zone = arg, *again;
  CHILD_CHECK(gorge_zone_open(zone->name, strlen(zone->name), SIZE, 0, NULL, &again, NULL) == GORGE_OK);
  CHILD_CHECK(again == zone);
  scratch(again)[0] = 4711;
  return 0;
}

static void test_children_find_the_zone_of_their_parent(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct proc child = proc_start(write_in_child, zone);
  assert_int_equal(proc_wait(&child), 0);
  assert_int_equal(scratch(zone)[0], 4711);
}

static uint32_t namespace(struct gorge_zone *zone, const char *name, size_t len) {
  uint32_t ns = UINT32_MAX;
  assert_int_equal(gorge_zone_namespace(zone, name, len, &ns), GORGE_OK);
  assert_true(ns < GORGE_NAMESPACES);
  return ns;
}

static void test_a_namespace_keeps_its_number(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  char longest[GORGE_NAME_MAX + 1];
  memset(longest, 'n', sizeof longest);
  uint32_t ns;
  assert_int_equal(gorge_zone_namespace(zone, "", 0, &ns), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_zone_namespace(zone, longest, sizeof longest, &ns), GORGE_ERR_ARGUMENT);
  const uint32_t a = namespace(zone, "a", 1), ab = namespace(zone, "ab", 2), a0 = namespace(zone, "a\0", 2);
  assert_true(a != ab && a != a0 && ab != a0);
  namespace(zone, longest, GORGE_NAME_MAX);
  assert_int_equal(namespace(zone, "a", 1), a);
  assert_int_equal(namespace(zone, "ab", 2), ab);
  assert_int_equal(namespace(zone, "a\0", 2), a0);
}

static void test_namespaces_run_out_with_an_error(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  char name[8];
  uint32_t ns;
  for (uint32_t i = 0; i < GORGE_NAMESPACES; i++) {
    assert_int_equal(namespace(zone, name, (size_t)snprintf(name, sizeof name, "n%u", i)), i);
  }
  assert_int_equal(gorge_zone_namespace(zone, "one more", 8, &ns), GORGE_ERR_FULL);
  assert_int_equal(namespace(zone, "n7", 2), 7);
}

static void test_a_namespace_claimed_half_way_is_completed(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  const uint32_t a = namespace(zone, "first", 5);
  /* Killed after the claim, before or amid the name. */
  zone->header->namespaces[a].len = 0;
  memset(zone->header->namespaces[a].name, 0, 3);
  assert_int_equal(namespace(zone, "second", 6), a + 1);
  assert_int_equal(namespace(zone, "first", 5), a);
  assert_int_equal(zone->header->namespaces[a].len, 5);
  assert_memory_equal(zone->header->namespaces[a].name, "first", 5);
}

enum { CLAIMERS = 4 };

static int claim_all(struct proc *self, void *arg) {
  void **args = arg;
  struct gorge_zone *zone = args[0];
  uint32_t(*numbers)[GORGE_NAMESPACES] = args[1];
  uint64_t at = proc_hear(self), seed = at;
  for (uint32_t i = 0; i < 2 * GORGE_NAMESPACES; i++) {
    uint32_t k = proc_random(&seed) % GORGE_NAMESPACES;
    char name[8];
    size_t len = (size_t)snprintf(name, sizeof name, "n%u", k);
    uint32_t ns;
    CHILD_CHECK(gorge_zone_namespace(zone, name, len, &ns) == GORGE_OK);
    CHILD_CHECK(numbers[at][k] == 0 || numbers[at][k] == ns + 1);
    numbers[at][k] = ns + 1;
  }
  return 0;
}

static void test_processes_agree_on_namespaces(void **state) {
  (void)state;
  for (int round = 0; round < 5; round++) {
    struct gorge_zone *zone = proc_zone(NULL);
    uint32_t(*numbers)[GORGE_NAMESPACES] = proc_shared(sizeof(uint32_t[CLAIMERS][GORGE_NAMESPACES]));
    void *args[] = {zone, numbers};
    struct proc children[CLAIMERS];
    for (uint64_t i = 0; i < CLAIMERS; i++) {
      children[i] = proc_start(claim_all, args);
    }
    for (uint64_t i = 0; i < CLAIMERS; i++) {
      proc_say(&children[i], i);
    }
    for (uint64_t i = 0; i < CLAIMERS; i++) {
      assert_int_equal(proc_wait(&children[i]), 0);
    }
    uint64_t taken = 0;
    for (uint32_t k = 0; k < GORGE_NAMESPACES; k++) {
      uint32_t number = 0;
      for (uint32_t i = 0; i < CLAIMERS; i++) {
        assert_true(number == 0 || numbers[i][k] == 0 || numbers[i][k] == number);
        number = numbers[i][k] ? numbers[i][k] : number;
      }
      assert_true(number == 0 || (taken >> (number - 1) & 1) == 0);
      taken |= number ? (uint64_t)1 << (number - 1) : 0;
    }
  }
}

static void test_counters_add_up_over_workers_of_a_namespace(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  uint64_t sum[GORGE_HISTOGRAM_WORDS];
  for (uint32_t worker = 0; worker < 8; worker++) {
    gorge_zone_counters(zone, 0, worker)[GORGE_COUNT_LOADS] += worker + 1;
    gorge_zone_counters(zone, 1, worker)[GORGE_COUNT_LOADS] += 100;
    gorge_zone_histogram(zone, 0, worker, GORGE_HIST_LOAD)[5] += 2;
    gorge_zone_histogram(zone, 0, worker, GORGE_HIST_WAIT)[5] += 1000;
  }
  assert_ptr_equal(gorge_zone_counters(zone, 0, 3), gorge_zone_counters(zone, 0, 3));
  gorge_zone_sum_counters(zone, 0, sum);
  assert_int_equal(sum[GORGE_COUNT_LOADS], 36);
  assert_int_equal(sum[GORGE_COUNT_SETS], 0);
  gorge_zone_sum_counters(zone, 1, sum);
  assert_int_equal(sum[GORGE_COUNT_LOADS], 800);
  gorge_zone_sum_histogram(zone, 0, GORGE_HIST_LOAD, sum);
  assert_int_equal(sum[5], 16);
  assert_int_equal(sum[4], 0);
  gorge_zone_sum_counters(zone, 2, sum);
  assert_int_equal(sum[GORGE_COUNT_LOADS], 0);
}

static void test_counters_without_a_block_of_their_own_share_one(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  uint64_t sum[GORGE_COUNTERS];
  /* Far more pairs than the smallest zone has blocks; what is counted is in the sums all the same. */
  for (uint32_t worker = 0; worker < GORGE_WORKERS; worker++) {
    uint64_t *counters = gorge_zone_counters(zone, 0, worker);
    assert_true((char *)counters > zone->base && (char *)(counters + GORGE_COUNTERS) <= zone->base + zone->size);
    counters[GORGE_COUNT_SETS]++;
  }
  gorge_zone_sum_counters(zone, 0, sum);
  assert_int_equal(sum[GORGE_COUNT_SETS], GORGE_WORKERS);
  assert_ptr_equal(gorge_zone_counters(zone, 5, 0), gorge_zone_counters(zone, 0, GORGE_WORKERS - 1));
  assert_ptr_not_equal(gorge_zone_counters(zone, 0, 0), gorge_zone_counters(zone, 0, 1));
  gorge_zone_sum_counters(zone, 6, sum); /* nobody of it has been sent to the shared one */
  assert_int_equal(sum[GORGE_COUNT_SETS], 0);
}

static void test_numbers_out_of_range_stay_inside(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  uint64_t sum[GORGE_HISTOGRAM_WORDS];
  const uint32_t ns = GORGE_NAMESPACES + 3;
  const void *all[] = {gorge_zone_counters(zone, ns, 0),     gorge_zone_counters(zone, 0, GORGE_WORKERS),
                       gorge_zone_words(zone, ns),           gorge_zone_breaker(zone, ns),
                       gorge_zone_subscriber_role(zone, ns), gorge_zone_histogram(zone, ns, 0, 100)};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    assert_true((const char *)all[i] > zone->base && (const char *)all[i] + 64 <= zone->base + zone->size);
  }
  gorge_zone_sum_counters(zone, ns, sum);
  gorge_zone_sum_histogram(zone, ns, -1, sum);
  assert_int_equal(sum[0], 0);
}

static int by_value(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

enum { TOKENS = 20000 };

static int draw(struct proc *self, void *arg) {
  (void)self;
  void **args = arg;
  uint64_t *at = args[1];
  for (int i = 0; i < TOKENS; i++) {
    at[i] = gorge_zone_token(args[0]);
  }
  return 0;
}

static void test_no_token_is_given_out_twice(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  uint64_t *tokens = proc_shared(3 * TOKENS * sizeof *tokens);
  struct proc children[3];
  for (int i = 0; i < 3; i++) {
    void *args[] = {zone, tokens + (ptrdiff_t)i * TOKENS};
    children[i] = proc_start(draw, args);
  }
  for (int i = 0; i < 3; i++) {
    assert_int_equal(proc_wait(&children[i]), 0);
  }
  qsort(tokens, 3 * TOKENS, sizeof *tokens, by_value);
  assert_true(tokens[0] != 0);
  for (int i = 1; i < 3 * TOKENS; i++) {
    assert_true(tokens[i] != tokens[i - 1]);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_name_is_one_zone),
      cmocka_unit_test(test_another_size_is_refused_and_the_first_one_told),
      cmocka_unit_test(test_what_is_no_name_or_size_is_refused),
      cmocka_unit_test(test_more_than_the_machine_has_is_refused),
      cmocka_unit_test(test_limits_of_the_process_are_errors_not_signals),
      cmocka_unit_test(test_the_memory_is_all_there_and_stays),
      cmocka_unit_test(test_regions_fill_the_zone_without_overlap),
      cmocka_unit_test(test_a_fresh_zone_is_zeros_and_laid_out_once),
      cmocka_unit_test(test_a_layout_that_fails_leaves_no_zone),
      cmocka_unit_test(test_every_namespace_begins_with_words_of_its_own),
      cmocka_unit_test(test_children_find_the_zone_of_their_parent),
      cmocka_unit_test(test_a_namespace_keeps_its_number),
      cmocka_unit_test(test_namespaces_run_out_with_an_error),
      cmocka_unit_test(test_a_namespace_claimed_half_way_is_completed),
      cmocka_unit_test(test_processes_agree_on_namespaces),
      cmocka_unit_test(test_counters_add_up_over_workers_of_a_namespace),
      cmocka_unit_test(test_counters_without_a_block_of_their_own_share_one),
      cmocka_unit_test(test_numbers_out_of_range_stay_inside),
      cmocka_unit_test(test_no_token_is_given_out_twice),
  };
  return cmocka_run_group_tests_name("zone", tests, NULL, NULL);
}
