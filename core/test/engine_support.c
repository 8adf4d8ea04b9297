/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "flight/table.h"
#include "test/drive_support.h"
#include "test/engine_support.h"
#include "test/seeds.h"

static char zone_name[GORGE_NAME_MAX + 1];

const char *engine_zone_name(void) { return zone_name; }

uint32_t engine_partitions = 1;

struct gorge_config engine_config(const char *zone, const char *redis_path, uint32_t flags) {
  static int number;
  if (zone == NULL) {
    snprintf(zone_name, sizeof zone_name, "engine %ld %d", (long)getpid(), ++number);
    zone = zone_name;
  }
  return (struct gorge_config){.zone = zone,
                               .ns = "t",
                               .l1_size = GORGE_ZONE_SIZE_MIN,
                               .flags = flags,
                               .redis_path = redis_path,
                               .connect_timeout_ms = 5000,
                               .timeout_ms = 5000,
                               .max_pending = 1000,
                               .partitions = engine_partitions,
                               .breaker_max_failures = 1000,
                               .breaker_timeout_ms = 100,
                               .lock_sleep_ms = 10,
                               .lock_retries = 3,
                               .l1_ttl_ms = 60000,
                               .freshness_bound_ms = 5000,
                               .disconnected_ttl_ms = 30000};
}

gorge_cache *engine_cache(const struct gorge_config *config) {
  char err[256] = "";
  gorge_cache *c = NULL;
  if (gorge_cache_create(config, &c, err, sizeof err) != GORGE_OK) {
    fail_msg("cache: %s", err);
  }
  seeds_set(c->zone, 1);
  return c;
}

uint32_t engine_pack(const char *tags, char *out, uint32_t size) {
  uint32_t len = 0;
  while (tags != NULL && *tags != '\0') {
    size_t n = strcspn(tags, " ");
    assert_true(len + 1 + n <= size);
    out[len++] = (char)n;
    memcpy(out + len, tags, n);
    len += (uint32_t)n;
    tags += n + (tags[n] == ' ');
  }
  return len;
}

static int start_fetch(gorge_cache *c, const char *key, const char *tags, uint32_t lease_ms, uint32_t wait_ms,
                       uint32_t flags, uint64_t *op) {
  char packed[512];
  struct gorge_fetch rq = {.key = key,
                           .key_len = (uint32_t)strlen(key),
                           .tags = packed,
                           .tags_len = engine_pack(tags, packed, sizeof packed),
                           .lease_ms = lease_ms,
                           .wait_ms = wait_ms,
                           .flags = flags};
  return gorge_fetch_start(c, &rq, op);
}

int engine_fetch(gorge_cache *c, const char *key, const char *tags, uint64_t *op) {
  return start_fetch(c, key, tags, 5000, 5000, 0, op);
}

int engine_fetch_for(gorge_cache *c, const char *key, uint32_t lease_ms, uint32_t wait_ms, uint64_t *op) {
  return start_fetch(c, key, NULL, lease_ms, wait_ms, 0, op);
}

int engine_lookup(gorge_cache *c, const char *key, uint64_t *op) {
  return start_fetch(c, key, NULL, 1, 1, GORGE_FETCH_LOOKUP, op);
}

struct gorge_store engine_store(const char *key, const char *value) {
  return (struct gorge_store){.key = key,
                              .key_len = key != NULL ? (uint32_t)strlen(key) : 0,
                              .value = value,
                              .value_len = (uint32_t)strlen(value),
                              .kind = GORGE_KIND_STRING,
                              .l2_value = value,
                              .l2_len = (uint32_t)strlen(value),
                              .l2_kind = GORGE_KIND_STRING,
                              .l1_ttl_ms = 60000,
                              .ttl_ms = 60000};
}

int engine_fill_tagged(gorge_cache *c, uint64_t op, const char *value, const char *tags) {
  char packed[512];
  struct answer a = {.status = 0};
  struct gorge_store store = engine_store(NULL, value);
  store.tags = tags != NULL ? packed : NULL;
  store.tags_len = engine_pack(tags, packed, sizeof packed);
  a.read.buf = a.value;
  a.read.buf_size = sizeof a.value;
  return gorge_fetch_fill(c, op, &store, &a.read);
}

int engine_fill(gorge_cache *c, uint64_t op, const char *value) { return engine_fill_tagged(c, op, value, NULL); }

int engine_set(gorge_cache *c, const char *key, const char *value, const char *tags, uint64_t *op) {
  char packed[512];
  struct gorge_store store = engine_store(key, value);
  store.tags = packed;
  store.tags_len = engine_pack(tags, packed, sizeof packed);
  return gorge_set_start(c, &store, op);
}

int engine_delete(gorge_cache *c, const char *key, uint64_t *op) {
  return gorge_delete_start(c, key, (uint32_t)strlen(key), op);
}

int engine_invalidate(gorge_cache *c, const char *tags, uint64_t *op) {
  char packed[512];
  uint32_t len = engine_pack(tags, packed, sizeof packed);
  return gorge_invalidate_start(c, packed, len, op);
}

const char *engine_l1(gorge_cache *c, const char *key) {
  static char value[ENGINE_VALUE_MAX];
  struct gorge_read read = {.buf = value, .buf_size = sizeof value - 1};
  int status = gorge_peek(c, key, (uint32_t)strlen(key), &read);
  if (status != GORGE_HIT) {
    assert_int_equal(status, GORGE_MISS);
    return NULL;
  }
  value[read.len] = '\0';
  return value;
}

bool engine_l1_is(gorge_cache *c, const char *key, const char *value) {
  const char *seen = engine_l1(c, key);
  return value == NULL ? seen == NULL : seen != NULL && strcmp(seen, value) == 0;
}

void engine_let_lapse(gorge_cache *c, const char *name) {
  uint32_t at;
  struct gorge_key key;
  gorge_key_init(c->zone, c->ns, name, (uint32_t)strlen(name), &key);
  struct gorge_flight_set *set = gorge_flight_set_of(c->zone, key.hash, &at);
  for (int i = 0; i < GORGE_FLIGHT_WAYS; i++) {
    struct gorge_flight_record *r = &set->record[i];
    uint64_t token = gorge_flight_get(&r->token);
    if (token != 0 && gorge_flight_matches(r, &key)) {
      gorge_flight_put(&r->deadline, gorge_flight_deadline(gorge_clock_ms(), token));
      return;
    }
  }
  fail_msg("nobody fills %s", name);
}

struct answer engine_status(gorge_cache *c, uint64_t op) {
  struct answer a = {.status = 0};
  a.read.buf = a.value;
  a.read.buf_size = sizeof a.value - 1;
  a.status = gorge_op_status(c, op, &a.read);
  if (a.status != GORGE_SPACE && a.read.len < sizeof a.value) {
    a.value[a.read.len] = '\0';
  }
  return a;
}

void engine_turn(gorge_cache *a, gorge_cache *b, double ms) {
  uint64_t ops[16];
  gorge_loop_wait(ms);
  while (gorge_poll(a, ops, 16) == 16) {
  }
  while (b != NULL && gorge_poll(b, ops, 16) == 16) {
  }
}

uint64_t engine_had_until(gorge_cache *c, const char *key, uint64_t limit_ms,
                          void (*meanwhile)(gorge_cache *c, const char *key)) {
  uint64_t had_ms = 0, look_ms = gorge_clock_ms();
  while (engine_l1(c, key) != NULL) {
    assert_true(look_ms < limit_ms);
    had_ms = look_ms;
    if (meanwhile != NULL) {
      meanwhile(c, key);
    }
    engine_turn(c, NULL, 5);
    look_ms = gorge_clock_ms();
  }
  return had_ms;
}

struct answer engine_await(gorge_cache *c, uint64_t op) {
  uint64_t until_ms = gorge_clock_ms() + 20000;
  struct answer a = engine_status(c, op);
  while (a.status == GORGE_PENDING && gorge_clock_ms() < until_ms) {
    engine_turn(c, NULL, gorge_op_wait_ms(c, op));
    a = engine_status(c, op);
  }
  return a;
}

int engine_finish(gorge_cache *c, uint64_t op, int status) {
  if (op == 0) {
    return status;
  }
  status = engine_await(c, op).status;
  gorge_op_free(c, op);
  return status;
}

int engine_set_whole(gorge_cache *c, const char *key, const char *value, const char *tags) {
  uint64_t op;
  int status = engine_set(c, key, value, tags, &op);
  return engine_finish(c, op, status);
}

int engine_delete_whole(gorge_cache *c, const char *key) {
  uint64_t op;
  int status = engine_delete(c, key, &op);
  return engine_finish(c, op, status);
}

int engine_invalidate_whole(gorge_cache *c, const char *tags) {
  uint64_t op;
  int status = engine_invalidate(c, tags, &op);
  return engine_finish(c, op, status);
}

bool engine_quiet(gorge_cache *a, gorge_cache *b) {
  for (int i = 0; i < 4000 && gorge_pending(a) + gorge_pending(b) > 0; i++) {
    engine_turn(a, b, 5);
  }
  return engine_flights(a) + engine_flights(b) == 0 && gorge_pending(a) + gorge_pending(b) == 0;
}

bool engine_follows(gorge_cache *c) {
  return c->process->control != NULL && gorge_control_subscribed(c->process->control, c->watch);
}

gorge_cache *engine_node(const char *zone, const char *redis_path) {
  struct gorge_config config = engine_config(zone, redis_path, GORGE_CONFIG_INLINE);
  gorge_cache *c = engine_cache(&config);
  assert_int_equal(gorge_cache_enter(c, 1), GORGE_OK);
  assert_true(WAIT_UNTIL(engine_follows(c)));
  return c;
}

const char *engine_get_or_fill(gorge_cache *c, const char *key, const char *value, int *status) {
  static char seen[ENGINE_VALUE_MAX];
  *status = GORGE_ERR_TIMEOUT;
  for (int round = 0; round < 8; round++) {
    uint64_t op;
    struct gorge_read read = {.buf = seen, .buf_size = sizeof seen - 1};
    if (gorge_get(c, key, (uint32_t)strlen(key), &read) == GORGE_HIT) {
      seen[read.len] = '\0';
      *status = GORGE_HIT;
      return seen;
    }
    assert_true(engine_fetch(c, key, NULL, &op) >= 0);
    struct answer a = engine_await(c, op);
    *status = a.status;
    snprintf(seen, sizeof seen, "%s", a.status == GORGE_HIT ? a.value : value);
    if (a.status == GORGE_LEASE) {
      *status = engine_finish(c, op, engine_fill(c, op, value));
      return seen;
    }
    gorge_op_free(c, op);
    if (a.status != GORGE_OK) {
      return seen;
    }
  }
  return seen;
}

uint64_t engine_counter(gorge_cache *c, enum gorge_counter counter) {
  struct gorge_stats stats;
  assert_int_equal(gorge_stats_read(c, &stats), GORGE_OK);
  return stats.counters[counter];
}

uint64_t engine_flights(gorge_cache *c) {
  struct gorge_stats stats;
  assert_int_equal(gorge_stats_read(c, &stats), GORGE_OK);
  return stats.flights;
}
