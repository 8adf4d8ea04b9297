/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "test/l1_support.h"
#include "test/seeds.h"

static struct gorge_l1_shape wanted;
enum { BUFFER_SIZE = 2 << 20 };
static pthread_key_t buffers;
static pthread_once_t buffers_once = PTHREAD_ONCE_INIT;

static void make_buffers(void) { pthread_key_create(&buffers, free); }

/* One per thread; not thread-local memory, of which every thread's stack would have to hold a copy. */
static char *buffer_of_thread(void) {
  pthread_once(&buffers_once, make_buffers);
  char *buffer = pthread_getspecific(buffers);
  if (buffer == NULL) {
    buffer = malloc(BUFFER_SIZE);
    pthread_setspecific(buffers, buffer);
  }
  return buffer;
}

static int init_wanted(struct gorge_zone *zone) { return gorge_l1_init_shape(zone, &wanted); }

struct l1 l1_open(uint64_t size_bytes, uint32_t shards, uint32_t buckets) {
  static int number;
  char name[32];
  struct l1 l1 = {.now_ms = 1000};
  int len = snprintf(name, sizeof name, "l1 test %d", ++number);
  wanted = (struct gorge_l1_shape){.shards = shards, .buckets = buckets};
  assert_int_equal(gorge_zone_open(name, (size_t)len, size_bytes, 0, init_wanted, &l1.zone, NULL), GORGE_OK);
  seeds_set(l1.zone, 1);
  assert_int_equal(gorge_owner_claim(l1.zone, GORGE_THREAD_MAIN, &l1.owner), GORGE_OK);
  return l1;
}

struct l1 l1_enter(const struct l1 *parent) {
  struct l1 l1 = *parent;
  CHILD_CHECK(gorge_owner_claim(l1.zone, GORGE_THREAD_MAIN, &l1.owner) == GORGE_OK);
  return l1;
}

struct gorge_key l1_key(const struct l1 *l1, const char *ptr, size_t len) {
  struct gorge_key key;
  gorge_key_init(l1->zone, l1->ns, ptr, (uint32_t)len, &key);
  return key;
}

struct gorge_snapshot l1_snapshot(const struct l1 *l1, const char *name) {
  struct gorge_key key = l1_key(l1, name, strlen(name));
  struct gorge_snapshot s;
  gorge_l1_snapshot(l1->zone, &key, NULL, 0, &s);
  return s;
}

static int put(const struct l1 *l1, const struct gorge_key *key, struct gorge_entry *entry, uint64_t ttl_ms,
               const struct gorge_snapshot *s) {
  struct gorge_snapshot fresh;
  if (s == NULL) {
    gorge_l1_snapshot(l1->zone, key, entry->tags, entry->ntags, &fresh);
    s = &fresh;
  }
  entry->kind = GORGE_KIND_STRING;
  entry->expires_ms = l1->now_ms + ttl_ms;
  return gorge_l1_insert(l1->zone, &l1->owner, key, entry, s, l1->now_ms, NULL);
}

int l1_put_bytes(const struct l1 *l1, const char *name, size_t name_len, const char *value, size_t len,
                 uint64_t ttl_ms) {
  struct gorge_key key = l1_key(l1, name, name_len);
  struct gorge_entry entry = {.value = value, .value_len = (uint32_t)len};
  return put(l1, &key, &entry, ttl_ms, NULL);
}

int l1_put(const struct l1 *l1, const char *name, const char *value, uint64_t ttl_ms) {
  return l1_put_bytes(l1, name, strlen(name), value, strlen(value), ttl_ms);
}

int l1_put_snapshot(const struct l1 *l1, const char *name, const char *value, uint64_t version,
                    const struct gorge_snapshot *s) {
  struct gorge_key key = l1_key(l1, name, strlen(name));
  struct gorge_entry entry = {.value = value, .value_len = (uint32_t)strlen(value), .version = version};
  return put(l1, &key, &entry, 1000, s);
}

int l1_put_version(const struct l1 *l1, const char *name, const char *value, uint64_t version) {
  return l1_put_snapshot(l1, name, value, version, NULL);
}

int l1_put_tagged(const struct l1 *l1, const char *name, const char *value, const char *const *tags, uint32_t ntags) {
  struct gorge_tag list[GORGE_TAGS_MAX];
  for (uint32_t i = 0; i < ntags; i++) {
    list[i] = (struct gorge_tag){tags[i], (uint32_t)strlen(tags[i])};
  }
  struct gorge_key key = l1_key(l1, name, strlen(name));
  struct gorge_entry entry = {.value = value, .value_len = (uint32_t)strlen(value), .ntags = ntags, .tags = list};
  return put(l1, &key, &entry, 1000, NULL);
}

int l1_read(const struct l1 *l1, const char *name, size_t len, bool use, struct gorge_read *out) {
  struct gorge_key key = l1_key(l1, name, len);
  memset(out, 0, sizeof *out);
  out->buf = buffer_of_thread();
  out->buf_size = BUFFER_SIZE - 1;
  return gorge_l1_read(l1->zone, &key, l1->now_ms, use, out);
}

const char *l1_get(const struct l1 *l1, const char *name) {
  struct gorge_read read;
  if (l1_read(l1, name, strlen(name), false, &read) != GORGE_HIT) {
    return NULL;
  }
  read.buf[read.len] = '\0';
  return read.buf;
}

bool l1_has(const struct l1 *l1, const char *name) { return l1_get(l1, name) != NULL; }

void l1_delete(const struct l1 *l1, const char *name, uint64_t version) {
  struct gorge_key key = l1_key(l1, name, strlen(name));
  gorge_l1_invalidate(l1->zone, &l1->owner, &key, version, NULL);
}

uint64_t l1_count(const struct l1 *l1, enum gorge_counter counter) {
  uint64_t sums[GORGE_COUNTERS];
  gorge_zone_sum_counters(l1->zone, l1->ns, sums);
  return sums[counter];
}

uint64_t l1_entries(const struct l1 *l1) {
  struct gorge_l1_usage usage;
  gorge_l1_usage(l1->zone, &usage);
  return usage.entries;
}

void l1_fill(char *at, uint32_t len, uint64_t key, uint64_t seed) {
  uint64_t state = seed;
  for (uint32_t i = 8; i < len; i++) {
    at[i] = (char)proc_random(&state);
  }
  uint64_t sum = gorge_hash(at + 8, len - 8, key);
  memcpy(at, &sum, 8);
}

bool l1_check(const char *at, uint32_t len, uint64_t key) {
  uint64_t sum = 0;
  if (len >= 8) {
    memcpy(&sum, at, 8);
  }
  return len >= 16 && sum == gorge_hash(at + 8, len - 8, key);
}

void l1_name(char name[24], uint64_t number) { snprintf(name, 24, "key:%llu", (unsigned long long)number); }

uint32_t l1_zipf(uint64_t *state, uint32_t n) {
  double u = (proc_random(state) + 1.0) / 4294967296.0 * 2;
  uint32_t rank = (uint32_t)pow((double)n, u < 1 ? u : 1);
  return rank >= n ? n - 1 : rank;
}
