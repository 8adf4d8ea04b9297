/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "resil/histogram.h"

static uint32_t bucket_of(uint64_t us) {
  uint64_t buckets[GORGE_HISTOGRAM_WORDS] = {0};
  gorge_histogram_add(buckets, us);
  for (uint32_t i = 0; i < GORGE_HISTOGRAM_BUCKETS; i++) {
    if (buckets[i] == 1) {
      return i;
    }
  }
  fail_msg("nothing counted for %llu", (unsigned long long)us);
  return 0;
}

static void test_every_value_is_within_its_bucket(void **state) {
  (void)state;
  for (uint64_t us = 0; us < 300000; us += us < 5000 ? 1 : 37) {
    uint32_t i = bucket_of(us);
    assert_true(us < gorge_histogram_bound(i));
    assert_true(i == 0 || us >= gorge_histogram_bound(i - 1));
  }
  assert_int_equal(bucket_of(UINT64_MAX), GORGE_HISTOGRAM_BUCKETS - 1);
  assert_int_equal(bucket_of(1ULL << 40), GORGE_HISTOGRAM_BUCKETS - 1);
}

static void test_bounds_rise_by_a_quarter_at_most(void **state) {
  (void)state;
  assert_int_equal(gorge_histogram_bound(0), 4);
  for (uint32_t i = 1; i < GORGE_HISTOGRAM_BUCKETS - 1; i++) {
    uint64_t below = gorge_histogram_bound(i - 1), bound = gorge_histogram_bound(i);
    assert_true(bound > below);
    assert_true((double)(bound - below) <= 0.25 * (double)below + 1e-9);
  }
  assert_true(gorge_histogram_bound(GORGE_HISTOGRAM_BUCKETS - 1) == UINT64_MAX);
}

static void assert_near(double got, double wanted, double share) {
  if (fabs(got - wanted) > share * wanted) {
    fail_msg("%f is not within %f of %f", got, share, wanted);
  }
}

static void test_quantiles(void **state) {
  (void)state;
  uint64_t buckets[GORGE_HISTOGRAM_WORDS] = {0};
  assert_true(gorge_histogram_quantile(buckets, 0.5) == 0);
  for (uint64_t us = 1; us < 10240; us++) { /* to the end of a bucket: interpolation assumes it is full */
    gorge_histogram_add(buckets, us);
  }
  static const double quantiles[] = {0.01, 0.1, 0.25, 0.5, 0.9, 0.99, 0.999};
  for (size_t i = 0; i < sizeof quantiles / sizeof *quantiles; i++) {
    assert_near(gorge_histogram_quantile(buckets, quantiles[i]), 10240 * quantiles[i], 0.02);
  }
  assert_true(gorge_histogram_quantile(buckets, 0) <= 4);
  assert_true(gorge_histogram_quantile(buckets, 1) >= 10240);
  /* out of range and not a number: clamped, never garbage */
  assert_true(gorge_histogram_quantile(buckets, -3) == gorge_histogram_quantile(buckets, 0));
  assert_true(gorge_histogram_quantile(buckets, 7) == gorge_histogram_quantile(buckets, 1));
  assert_true(gorge_histogram_quantile(buckets, (double)NAN) == gorge_histogram_quantile(buckets, 0));
}

static void test_quantiles_never_fall(void **state) {
  (void)state;
  uint64_t buckets[GORGE_HISTOGRAM_WORDS] = {0};
  static const uint64_t values[] = {3, 3, 50, 51, 52, 8000, 120000, 999999999};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    gorge_histogram_add(buckets, values[i]);
  }
  double last = 0;
  for (int i = 0; i <= 1000; i++) {
    double q = gorge_histogram_quantile(buckets, i / 1000.0);
    assert_true(q >= last);
    last = q;
  }
}

static void test_the_last_bucket_says_at_least(void **state) {
  (void)state;
  uint64_t buckets[GORGE_HISTOGRAM_WORDS] = {0};
  gorge_histogram_add(buckets, 3600U * 1000000U);
  double q = gorge_histogram_quantile(buckets, 0.5);
  assert_true(q == (double)gorge_histogram_bound(GORGE_HISTOGRAM_BUCKETS - 2));
}

static void test_the_sum_stands_behind_the_buckets(void **state) {
  (void)state;
  uint64_t words[GORGE_HISTOGRAM_WORDS] = {0};
  uint64_t count = 0;
  gorge_histogram_add(words, 3);
  gorge_histogram_add(words, 1000);
  gorge_histogram_add(words, 90000000);
  for (uint32_t i = 0; i < GORGE_HISTOGRAM_BUCKETS; i++) {
    count += words[i];
  }
  assert_int_equal(count, 3);
  assert_int_equal(words[GORGE_HISTOGRAM_BUCKETS], 90001003);
  assert_int_equal(gorge_histogram_bound(GORGE_HISTOGRAM_BUCKETS - 2), 41943040);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_every_value_is_within_its_bucket),
      cmocka_unit_test(test_bounds_rise_by_a_quarter_at_most),
      cmocka_unit_test(test_quantiles),
      cmocka_unit_test(test_quantiles_never_fall),
      cmocka_unit_test(test_the_last_bucket_says_at_least),
      cmocka_unit_test(test_the_sum_stands_behind_the_buckets),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
