/* SPDX-License-Identifier: MIT */
/*
 * Hit ratios under made-up requests of the kinds that caches meet: popular keys, a loop, a scan, what is asked for again
 * soon or never. Each bound lies between what the policy reaches and what it reaches with a part of it taken out (tried by
 * taking it out): the history, the size of the small ring that follows the hits.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "l1/shard.h"
#include "test/l1_support.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN, VALUE = 400, TTL = 1 << 30, CAPACITY = 4000 /* about what fits */ };

struct requests {
  uint64_t random, made, newest;
};

static bool fetch(const struct l1 *l1, uint64_t number) {
  static char value[VALUE];
  char name[24];
  struct gorge_read read;
  l1_name(name, number);
  if (l1_read(l1, name, strlen(name), true, &read) == GORGE_HIT) {
    return true;
  }
  assert_int_equal(l1_put_bytes(l1, name, strlen(name), value, VALUE, TTL), GORGE_STORED);
  return false;
}

/* Hits in 1/1000 of `n` requests, after `before` that are not counted. */
static uint32_t hits(const struct l1 *l1, struct requests *r, uint64_t (*next)(struct requests *), uint32_t before,
                     uint32_t n) {
  uint64_t counted = 0;
  for (uint32_t i = 0; i < before + n; i++) {
    bool hit = fetch(l1, next(r));
    counted += hit && i >= before;
    r->made++;
  }
  struct gorge_shard v = {0};
  assert_true(gorge_shard_at(l1->zone, 0, &v));
  print_message("%u of 1000 hit; small has %u %% of the area\n", (unsigned)(counted * 1000 / n),
                (unsigned)((uint64_t)v.shared->end[GORGE_RING_SMALL] * 100 / v.area_units));
  return (uint32_t)(counted * 1000 / n);
}

static double uniform(struct requests *r) { return (proc_random(&r->random) + 0.5) / 2147483648.0; }

static uint64_t next_zipf(struct requests *r) { return l1_zipf(&r->random, 30 * CAPACITY); }
static uint64_t next_loop(struct requests *r) { return r->made % (2 * CAPACITY); }
/* Popular keys, and one in three that is asked for once. */
static uint64_t next_scanned(struct requests *r) {
  return r->made % 3 == 0 ? 1000000 + r->newest++ : l1_zipf(&r->random, 2 * CAPACITY);
}
/* New keys, each asked for once or twice more soon after. */
static uint64_t next_recent(struct requests *r) {
  if (proc_random(&r->random) % 5 < 2) {
    return 2000000 + r->newest++;
  }
  uint64_t ago = (uint64_t)(-log(uniform(r)) * CAPACITY * 0.2);
  return 2000000 + (r->newest > ago ? r->newest - ago : 0);
}

static void test_popular_keys(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct requests r = {.random = 5};
  assert_true(hits(&l1, &r, next_zipf, 150000, 150000) >= 680);
}

static void test_a_loop(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct requests r = {.random = 5};
  assert_true(hits(&l1, &r, next_loop, 20 * CAPACITY, 60 * CAPACITY) >= 350);
}

static void test_popular_keys_beside_a_scan(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct requests r = {.random = 5};
  assert_true(hits(&l1, &r, next_scanned, 100000, 200000) >= 583);
}

static void test_recent_keys(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct requests r = {.random = 5};
  assert_true(hits(&l1, &r, next_recent, 200000, 150000) >= 450);
}

static void test_one_after_another(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct requests r = {.random = 5};
  assert_true(hits(&l1, &r, next_recent, 0, 200000) >= 350);
  assert_true(hits(&l1, &r, next_loop, 60000, 100000) >= 250);
  assert_true(hits(&l1, &r, next_zipf, 150000, 150000) >= 678);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_popular_keys),
      cmocka_unit_test(test_a_loop),
      cmocka_unit_test(test_popular_keys_beside_a_scan),
      cmocka_unit_test(test_recent_keys),
      cmocka_unit_test(test_one_after_another),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
