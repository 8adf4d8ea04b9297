/* SPDX-License-Identifier: MIT */
/* Every allocation of a cache's life fails once: each call says so or does without, nothing is left behind, and the next time all is well. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/scripts.h"
#include "test/engine_support.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define COUNTING 0
#else
#define COUNTING 1
/* What the C library calls its own: the names below take their place in this program. */
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *ptr, size_t size);
extern void __libc_free(void *ptr);

static long fail_at = -1; /* this one from now on fails; below 0: none */
static long balance;      /* allocations that were not freed */

static bool fails(void) {
  if (fail_at < 0 || fail_at-- > 0) {
    return false;
  }
  errno = ENOMEM;
  return true;
}

void *malloc(size_t size) {
  void *ptr = fails() ? NULL : __libc_malloc(size);
  balance += ptr != NULL;
  return ptr;
}

void *calloc(size_t n, size_t size) {
  void *ptr = fails() ? NULL : __libc_calloc(n, size);
  balance += ptr != NULL;
  return ptr;
}

void *realloc(void *old, size_t size) {
  void *ptr = fails() ? NULL : __libc_realloc(old, size);
  balance += ptr != NULL && old == NULL;
  return ptr;
}

void free(void *ptr) {
  balance -= ptr != NULL;
  __libc_free(ptr);
}
#endif

#if COUNTING
static char zone[GORGE_NAME_MAX + 1];

static bool expected(int status) { return status >= 0 || status == GORGE_ERR_MEMORY || status == GORGE_ERR_FULL; }

static int fill(gorge_cache *c, uint64_t op, bool late) {
  struct gorge_store store = engine_store(NULL, "a value");
  store.l2_value = "another one";
  store.l2_len = 11;
  store.tags = late ? "\4late" : NULL;
  store.tags_len = late ? 5 : 0;
  return gorge_fetch_fill(c, op, &store, NULL);
}

/* Fills, waits, fails, writes, some of it more than once; whatever happens, every call has to answer. */
static void live(gorge_cache *c) {
  char key[2 * GORGE_OP_FEW + 1];
  uint64_t held[4]; /* ops that are used again are no allocations: these are held all the time */
  for (int i = 0; i < 4; i++) {
    memset(key, 'a' + i, 2 * GORGE_OP_FEW);
    struct gorge_fetch rq = {.key = key, .key_len = 2 * GORGE_OP_FEW, .lease_ms = 1000, .wait_ms = 1000};
    assert_true(expected(gorge_fetch_start(c, &rq, &held[i])));
  }
  for (int i = 0; i < 4; i++) {
    uint64_t op, waiter;
    uint32_t len = i % 2 == 0 ? 2 : 2 * GORGE_OP_FEW; /* an op has room for short ones */
    memset(key, '0' + i, len);
    key[len] = '\0';
    struct gorge_fetch rq = {
        .key = key, .key_len = len, .tags = "\1t", .tags_len = 2, .lease_ms = 1000, .wait_ms = 1000};
    int status = gorge_fetch_start(c, &rq, &op);
    assert_true(expected(status));
    assert_true(expected(gorge_fetch_start(c, &rq, &waiter)));
    if (op != 0 && status == GORGE_LEASE) {
      if (i == 0) {
        gorge_fetch_fail(c, op, "no", 2);
      } else if (i < 3) {
        int filled = fill(c, op, i == 2);
        assert_true(expected(filled) && filled != GORGE_LEASE);
      }
    }
    uint64_t named[4];
    gorge_poll(c, named, 4);
    gorge_op_free(c, waiter);
    gorge_op_free(c, op);
    struct gorge_store store = engine_store(key, "set");
    store.tags = "\1t";
    store.tags_len = 2;
    (void)gorge_set_start(c, &store, &op);
    gorge_op_free(c, op);
    (void)gorge_delete_start(c, key, len, &op);
    gorge_op_free(c, op);
    (void)gorge_invalidate_start(c, "\1t", 2, &op);
    gorge_op_free(c, op);
  }
  for (int i = 0; i < 4; i++) {
    gorge_op_free(c, held[i]);
  }
}

static void once(const char *redis_path) {
  struct gorge_config config = engine_config(zone, redis_path, GORGE_CONFIG_INLINE);
  gorge_cache *c = NULL;
  char err[200] = "";
  int status = gorge_cache_create(&config, &c, err, sizeof err);
  if (status != GORGE_OK) {
    assert_int_equal(status, GORGE_ERR_MEMORY);
    assert_true(strlen(err) > 0);
    return;
  }
  status = gorge_cache_enter(c, 0);
  assert_true(expected(status));
  if (status == GORGE_OK) {
    live(c); /* what is asked of Redis waits for a connection, until its caller goes */
  }
  gorge_cache_destroy(c);
}

/* Returns how many allocations it takes. */
static long walk(const char *redis_path) {
  struct gorge_config config = engine_config(NULL, NULL, 0);
  snprintf(zone, sizeof zone, "%s", config.zone);
  gorge_cache *keep = engine_cache(&config);
  once(redis_path); /* what is made once for the process, and the trace of an owner that has gone */
  long before = balance, n = 0;
  for (bool failed = true; failed && n < 5000; n++) {
    fail_at = n;
    once(redis_path);
    failed = fail_at < 0;
    fail_at = -1;
    once(redis_path);
    assert_int_equal(balance, before);
    assert_int_equal(engine_flights(keep), 0);
    struct gorge_stats stats;
    gorge_stats_read(keep, &stats);
    assert_int_equal(stats.workers, 0);
  }
  gorge_cache_destroy(keep);
  return n;
}
#endif

static void without_redis(void **state) {
  (void)state;
#if COUNTING
  assert_in_range(walk(NULL), 20, 1000);
#else
  skip();
#endif
}

static void with_redis(void **state) {
  (void)state;
#if COUNTING
  assert_in_range(walk("/nonexistent/redis.sock"), 30, 2000);
#else
  skip();
#endif
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(without_redis), cmocka_unit_test(with_redis)};
  return cmocka_run_group_tests_name("engine without memory", tests, NULL, NULL);
}
