/* SPDX-License-Identifier: MIT */
/* What comes from outside: lengths, times that are no times, tags that are none, and operations that are not there. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test/engine_support.h"

static gorge_cache *cache; /* without Redis */
static uint64_t op;

static int begin(void **state) {
  (void)state;
  struct gorge_config config = engine_config(NULL, NULL, 0);
  cache = engine_cache(&config);
  return 0;
}

static int end(void **state) {
  (void)state;
  bool clean = engine_flights(cache) == 0 && gorge_pending(cache) == 0;
  gorge_cache_destroy(cache);
  return clean ? 0 : -1;
}

static void keys_have_1_to_8192_bytes(void **state) {
  (void)state;
  static char key[GORGE_KEY_MAX + 2];
  memset(key, 'k', sizeof key - 1);
  struct gorge_fetch fetch = {.key = key, .key_len = GORGE_KEY_MAX, .lease_ms = 1000, .wait_ms = 1000};
  struct gorge_store store = engine_store(key, "v");
  store.key_len = GORGE_KEY_MAX;
  assert_int_equal(gorge_set_start(cache, &store, &op), GORGE_OK);
  struct gorge_read read = {.buf = NULL};
  assert_int_equal(gorge_get(cache, key, GORGE_KEY_MAX, &read), GORGE_SPACE);
  assert_int_equal(gorge_delete_start(cache, key, GORGE_KEY_MAX, &op), GORGE_OK);
  assert_int_equal(gorge_fetch_start(cache, &fetch, &op), GORGE_LEASE);
  gorge_op_free(cache, op);
  const uint32_t bad[] = {0, GORGE_KEY_MAX + 1, UINT32_MAX};
  for (int i = 0; i < 3; i++) {
    fetch.key_len = store.key_len = bad[i];
    op = 1;
    assert_int_equal(gorge_fetch_start(cache, &fetch, &op), GORGE_ERR_ARGUMENT);
    assert_int_equal(op, 0);
    assert_int_equal(gorge_set_start(cache, &store, &op), GORGE_ERR_ARGUMENT);
    assert_int_equal(gorge_delete_start(cache, key, bad[i], &op), GORGE_ERR_ARGUMENT);
  }
  for (int i = 0; i < 2; i++) {
    char tags[16];
    assert_int_equal(gorge_get(cache, key, bad[i], &read), GORGE_MISS);
    assert_int_equal(gorge_peek(cache, key, bad[i], &read), GORGE_MISS);
    assert_int_equal(gorge_peek_tags(cache, key, bad[i], tags, sizeof tags), 0);
  }
}

static int with_tags(const char *tags, uint32_t len) {
  struct gorge_fetch fetch = {
      .key = "k", .key_len = 1, .tags = tags, .tags_len = len, .lease_ms = 1000, .wait_ms = 1000};
  int status = gorge_fetch_start(cache, &fetch, &op);
  gorge_op_free(cache, op);
  uint64_t write;
  struct gorge_store store = engine_store("k", "v");
  store.tags = tags;
  store.tags_len = len;
  int set = gorge_set_start(cache, &store, &write);
  assert_int_equal(set == GORGE_OK, status == GORGE_LEASE);
  if (len > 0) {
    int invalidated = gorge_invalidate_start(cache, tags, len, &write);
    assert_int_equal(invalidated == GORGE_OK, status == GORGE_LEASE);
  }
  assert_int_equal(gorge_delete_start(cache, "k", 1, &write), GORGE_OK);
  return status;
}

static void tags_are_packed_and_at_most_16(void **state) {
  (void)state;
  static char tags[17 * 256];
  for (int i = 0; i < 17; i++) {
    tags[i * 256] = (char)255;
    memset(tags + (ptrdiff_t)i * 256 + 1, 'a' + i, 255);
  }
  assert_int_equal(with_tags(tags, 16 * 256), GORGE_LEASE);
  assert_int_equal(with_tags(tags, 17 * 256), GORGE_ERR_ARGUMENT);
  assert_int_equal(with_tags(tags, 16 * 256 - 1), GORGE_ERR_ARGUMENT); /* the last one is cut */
  assert_int_equal(with_tags("\1", 1), GORGE_ERR_ARGUMENT);
  assert_int_equal(with_tags("\0", 1), GORGE_ERR_ARGUMENT);
  assert_int_equal(with_tags("\1a\0", 3), GORGE_ERR_ARGUMENT);
  assert_int_equal(with_tags("", 0), GORGE_LEASE);
  assert_int_equal(with_tags(NULL, 0), GORGE_LEASE);
  assert_int_equal(gorge_invalidate_start(cache, "", 0, &op), GORGE_ERR_ARGUMENT);
}

/* A fill with malformed tags or times stores nothing and ends nothing: the caller can still fail it. */
static void a_malformed_store_leaves_the_fill_as_it_was(void **state) {
  (void)state;
  const double bad_times[] = {0, -1, -1e300, -INFINITY, NAN};
  uint64_t write;
  assert_int_equal(engine_fetch(cache, "k", "tag", &op), GORGE_LEASE);
  for (size_t i = 0; i < sizeof bad_times / sizeof bad_times[0]; i++) {
    struct gorge_store store = engine_store("k", "v");
    store.ttl_ms = bad_times[i];
    assert_int_equal(gorge_fetch_fill(cache, op, &store, NULL), GORGE_ERR_ARGUMENT);
    assert_int_equal(gorge_set_start(cache, &store, &write), GORGE_ERR_ARGUMENT);
    store = engine_store("k", "v");
    store.l1_ttl_ms = bad_times[i];
    assert_int_equal(gorge_fetch_fill(cache, op, &store, NULL), GORGE_ERR_ARGUMENT);
    assert_int_equal(gorge_set_start(cache, &store, &write), GORGE_ERR_ARGUMENT);
  }
  struct gorge_store store = engine_store("k", "v");
  store.tags = "\5oops";
  store.tags_len = 5;
  assert_int_equal(gorge_fetch_fill(cache, op, &store, NULL), GORGE_ERR_ARGUMENT);
  store = engine_store("k", "v");
  store.kind = GORGE_KINDS;
  assert_int_equal(gorge_fetch_fill(cache, op, &store, NULL), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_set_start(cache, &store, &write), GORGE_ERR_ARGUMENT);
  assert_int_equal(engine_status(cache, op).status, GORGE_LEASE);
  assert_int_equal(engine_flights(cache), 1);
  assert_int_equal(engine_fill(cache, op, "v"), GORGE_STORED);
  gorge_op_free(cache, op);
}

static void times_are_cut_to_what_can_be_kept(void **state) {
  (void)state;
  const double times[] = {1e-300, 0.4, 1, 1e15, 1e300, INFINITY};
  for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
    struct gorge_store store = engine_store("k", "v");
    store.ttl_ms = store.l1_ttl_ms = times[i];
    double now = gorge_now_ms();
    assert_int_equal(engine_fetch(cache, "k", NULL, &op), GORGE_LEASE);
    assert_int_equal(gorge_fetch_fill(cache, op, &store, NULL), GORGE_STORED);
    struct answer a = engine_status(cache, op);
    gorge_op_free(cache, op);
    assert_true(a.read.expires_ms >= now + 1);
    if (times[i] <= 1) {
      assert_true(a.read.expires_ms <= gorge_now_ms() + 1);
    } else {
      assert_true(a.read.expires_ms > now + 1e12 / 2 && a.read.expires_ms < now + 1e14);
      assert_string_equal(engine_l1(cache, "k"), "v");
    }
    assert_int_equal(engine_delete(cache, "k", &op), GORGE_OK);
  }
  assert_int_equal(gorge_loop_wait(0), GORGE_OK);
  assert_int_equal(gorge_loop_wait(-1), GORGE_OK);
  assert_int_equal(gorge_loop_wait(NAN), GORGE_OK);
}

static void an_operation_that_is_not_there_is_an_argument_error(void **state) {
  (void)state;
  struct gorge_store store = engine_store(NULL, "v");
  const uint64_t ids[] = {0, 1, 12345, UINT64_MAX, UINT64_C(1) << 20};
  for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
    assert_int_equal(gorge_op_status(cache, ids[i], NULL), GORGE_ERR_ARGUMENT);
    assert_int_equal(gorge_op_wait_ms(cache, ids[i]), 0);
    assert_int_equal(gorge_fetch_run(cache, ids[i]), GORGE_ERR_ARGUMENT);
    assert_int_equal(gorge_fetch_fill(cache, ids[i], &store, NULL), GORGE_ERR_ARGUMENT);
    assert_int_equal(gorge_fetch_fail(cache, ids[i], "e", 1), GORGE_ERR_ARGUMENT);
    assert_int_equal(gorge_fetch_skip(cache, ids[i]), GORGE_ERR_ARGUMENT);
    assert_int_equal(gorge_op_joinable(cache, ids[i]), 0);
    gorge_op_free(cache, ids[i]);
  }
  /* One that is not in the state for it, likewise. */
  uint64_t waiter;
  assert_int_equal(engine_fetch(cache, "k", NULL, &op), GORGE_LEASE);
  assert_int_equal(engine_fetch(cache, "k", NULL, &waiter), GORGE_PENDING);
  assert_int_equal(engine_fill(cache, waiter, "v"), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_fetch_fail(cache, waiter, "e", 1), GORGE_ERR_ARGUMENT);
  assert_int_equal(engine_fill(cache, op, "v"), GORGE_STORED);
  assert_int_equal(engine_fill(cache, op, "again"), GORGE_ERR_ARGUMENT);
  gorge_op_free(cache, waiter);
  gorge_op_free(cache, op);
  struct gorge_fetch fetch = {.key = "k", .key_len = 1, .lease_ms = 0, .wait_ms = 1000};
  assert_int_equal(gorge_fetch_start(cache, &fetch, &op), GORGE_ERR_ARGUMENT);
}

static int create(const struct gorge_config *config, char *err) {
  gorge_cache *c = NULL;
  memset(err, 0, 200);
  int status = gorge_cache_create(config, &c, err, 200);
  gorge_cache_destroy(c);
  return status;
}

static void a_configuration_that_cannot_work_is_refused_with_a_reason(void **state) {
  (void)state;
  char err[200], name[GORGE_NAME_MAX + 2];
  struct gorge_config good = engine_config(NULL, NULL, 0), config = good;
  memset(name, 'n', sizeof name);
  name[sizeof name - 1] = '\0';
  const char *names[] = {NULL, "", name};
  for (int i = 0; i < 3; i++) {
    config = good;
    config.ns = names[i];
    assert_int_equal(create(&config, err), GORGE_ERR_ARGUMENT);
    assert_non_null(strstr(err, "namespace"));
    config = good;
    config.zone = names[i];
    assert_int_equal(create(&config, err), GORGE_ERR_ARGUMENT);
    assert_non_null(strstr(err, "zone"));
  }
  config = good;
  config.ns = "a b";
  assert_int_equal(create(&config, err), GORGE_OK);
  config.redis_path = "/nowhere";
  assert_int_equal(create(&config, err), GORGE_ERR_ARGUMENT);
  assert_non_null(strstr(err, "namespace"));
  config = good;
  config.l1_ttl_ms = NAN;
  assert_int_equal(create(&config, err), GORGE_ERR_ARGUMENT);
  assert_non_null(strstr(err, "l1_ttl_ms"));
  config = good;
  config.redis_host = "127.0.0.1";
  config.redis_port = 65536;
  assert_int_equal(create(&config, err), GORGE_ERR_ARGUMENT);
  assert_non_null(strstr(err, "redis_port"));
  config = good;
  config.l1_size *= 2;
  assert_int_equal(create(&good, err), GORGE_OK);
  assert_int_equal(create(&config, err), GORGE_ERR_MISMATCH);
  assert_non_null(strstr(err, "2097152"));
  assert_non_null(strstr(err, "4194304"));
  assert_int_equal(gorge_cache_create(&config, &cache, NULL, 0), GORGE_ERR_MISMATCH);
  config = good;
  config.l1_size = 1;
  config.zone = "too small";
  assert_true(create(&config, err) < 0);
  assert_true(strlen(err) > 0);
}

static void sizes_and_phrases_are_those_of_the_header(void **state) {
  (void)state;
  assert_int_equal(gorge_abi_version(), GORGE_ABI_VERSION);
  assert_int_equal(gorge_abi_sizeof(0), sizeof(struct gorge_words));
  assert_int_equal(gorge_abi_sizeof(1), sizeof(struct gorge_read));
  assert_int_equal(gorge_abi_sizeof(2), sizeof(struct gorge_l0_record));
  assert_int_equal(gorge_abi_sizeof(3), sizeof(struct gorge_config));
  assert_int_equal(gorge_abi_sizeof(4), sizeof(struct gorge_fetch));
  assert_int_equal(gorge_abi_sizeof(5), sizeof(struct gorge_store));
  assert_int_equal(gorge_abi_sizeof(6), sizeof(struct gorge_stats));
  assert_int_equal(gorge_abi_sizeof(7), sizeof(struct gorge_view));
  assert_int_equal(gorge_abi_sizeof(8), sizeof(struct gorge_found));
  assert_int_equal(gorge_abi_sizeof(9), sizeof(struct gorge_namespace));
  assert_int_equal(gorge_abi_sizeof(10), sizeof(struct gorge_hot));
  assert_int_equal(gorge_abi_sizeof(11), sizeof(struct gorge_event));
  assert_int_equal(gorge_abi_sizeof(12), sizeof(struct gorge_host_look));
  assert_int_equal(gorge_abi_sizeof(13), sizeof(struct gorge_l2_look));
  assert_int_equal(gorge_abi_sizeof(14), sizeof(struct gorge_node_breaker));
  assert_int_equal(gorge_abi_sizeof(15), 0);
  assert_int_equal(gorge_abi_sizeof(UINT32_MAX), 0);
  for (int status = -100; status < 100; status++) {
    assert_true(strlen(gorge_status_phrase(status)) > 0);
  }
  double bound = -1;
  for (uint32_t i = 0; i + 1 < GORGE_HISTOGRAM_BUCKETS; i++) {
    assert_true(gorge_histogram_bound_us(i) > bound);
    bound = gorge_histogram_bound_us(i);
  }
  assert_true(gorge_histogram_bound_us(GORGE_HISTOGRAM_BUCKETS - 1) < 0);
  assert_true(gorge_histogram_bound_us(UINT32_MAX) < 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(keys_have_1_to_8192_bytes, begin, end),
      cmocka_unit_test_setup_teardown(tags_are_packed_and_at_most_16, begin, end),
      cmocka_unit_test_setup_teardown(a_malformed_store_leaves_the_fill_as_it_was, begin, end),
      cmocka_unit_test_setup_teardown(times_are_cut_to_what_can_be_kept, begin, end),
      cmocka_unit_test_setup_teardown(an_operation_that_is_not_there_is_an_argument_error, begin, end),
      cmocka_unit_test_setup_teardown(a_configuration_that_cannot_work_is_refused_with_a_reason, begin, end),
      cmocka_unit_test(sizes_and_phrases_are_those_of_the_header),
  };
  return cmocka_run_group_tests_name("engine bounds", tests, NULL, NULL);
}
