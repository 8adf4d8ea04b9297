/* SPDX-License-Identifier: MIT */
/*
 * A hit on a hot key writes no memory that workers share. Everything but the counters, of which each worker has lines of
 * its own, is made read-only; then the functions that Lua calls read: whoever writes dies of it.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "l1/index.h"
#include "test/engine_support.h"
#include "test/procs.h"

enum { READS = 1000 * 1000, VALUE_MAX = 20000, WROTE_SLOT = 77, WROTE_ELSEWHERE = 78 };

struct hot {
  gorge_cache *cache;
  const char *key;
  struct gorge_read read;
  char buf[VALUE_MAX];
};

/* What a child does while the memory is read-only. */
struct job {
  struct hot *hot;
  bool (*hit)(struct hot *);
  uint64_t times;
};

static const uint64_t *watched;

static void on_write(int signal, siginfo_t *info, void *context) {
  (void)signal, (void)context;
  _exit(info->si_addr == (const void *)watched ? WROTE_SLOT : WROTE_ELSEWHERE);
}

static void protect(const struct gorge_zone *zone) {
  uint64_t size;
  void *stats = gorge_zone_region(zone, GORGE_REGION_STATS, &size);
  struct sigaction action = {.sa_sigaction = on_write, .sa_flags = SA_SIGINFO};
  CHILD_CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
  CHILD_CHECK(mprotect(zone->base, zone->size, PROT_READ) == 0);
  CHILD_CHECK(mprotect(stats, size, PROT_READ | PROT_WRITE) == 0);
}

static bool get(struct hot *h) {
  h->read.buf = h->buf;
  h->read.buf_size = sizeof h->buf;
  return gorge_get(h->cache, h->key, (uint32_t)strlen(h->key), &h->read) == GORGE_HIT;
}

/* A hit in L0 as lua/gorge/ffi/l0.lua has it: the words that the record was read at, the times, a count, the use. */
static bool validate(struct hot *h) {
  const struct gorge_words *words = gorge_cache_words(h->cache);
  uint64_t *counters = gorge_cache_counters(h->cache);
  /* acquire: as strong as anything that Lua's plain loads may stand for. Partners: the slot's publisher, stamps.c. */
  uint64_t word = __atomic_load_n(h->read.slot, __ATOMIC_ACQUIRE);
  uint64_t global = __atomic_load_n(&words->global, __ATOMIC_ACQUIRE);
  double now = gorge_now_ms();
  if ((word & ~GORGE_SLOT_FREQ) != h->read.word || global != h->read.global || now >= h->read.expires_ms ||
      now >= (double)words->fresh_until_ms) {
    return false;
  }
  if (gorge_slot_freq(word) < GORGE_FREQ_MAX) {
    struct gorge_l0_record record = {.slot = h->read.slot, .word = h->read.word};
    struct gorge_view view = {.records = &record, .used = 1};
    gorge_note_uses(&view);
  }
  counters[GORGE_COUNT_L0_HITS]++;
  return true;
}

/* Reads without a use: writes nothing at any time. */
static bool peek(struct hot *h) {
  h->read.buf = h->buf;
  h->read.buf_size = sizeof h->buf;
  return gorge_peek(h->cache, h->key, (uint32_t)strlen(h->key), &h->read) == GORGE_HIT;
}

static int play(struct proc *self, void *arg) {
  struct job *job = arg;
  (void)self;
  CHILD_CHECK(gorge_cache_enter(job->hot->cache, 0) == GORGE_OK); /* a fork's child claims an owner of its own */
  CHILD_CHECK(job->hit(job->hot));                                /* and a block of counters */
  watched = job->hot->read.slot;
  protect(job->hot->cache->zone);
  for (uint64_t i = 0; i < job->times; i++) {
    CHILD_CHECK(job->hit(job->hot));
  }
  return 0;
}

static int read_only(struct hot *h, bool (*hit)(struct hot *), uint64_t times) {
  struct job job = {h, hit, times};
  struct proc child = proc_start(play, &job);
  return proc_wait(&child);
}

static struct hot open_hot(const char *key, uint32_t len, const char *tags) {
  static char value[VALUE_MAX];
  struct hot h = {.key = key};
  struct gorge_config config = engine_config(NULL, NULL, 0);
  h.cache = engine_cache(&config);
  memset(value, 'v', len);
  struct gorge_store store = engine_store(key, "");
  char packed[64];
  store.value = value;
  store.value_len = len;
  store.l1_ttl_ms = store.ttl_ms = 3600 * 1000; /* a million reads may take their time */
  store.tags = tags != NULL ? packed : NULL;
  store.tags_len = tags != NULL ? engine_pack(tags, packed, sizeof packed) : 0;
  uint64_t op;
  int status = gorge_set_start(h.cache, &store, &op);
  assert_int_equal(engine_finish(h.cache, op, status), GORGE_OK);
  return h;
}

static uint32_t frequency(struct hot *h) {
  assert_true(peek(h));
  return gorge_slot_freq(__atomic_load_n(h->read.slot, __ATOMIC_RELAXED));
}

/* Reads until the use of the key is no longer written down. */
static void warm(struct hot *h, bool (*hit)(struct hot *)) {
  assert_true(peek(h));
  for (int i = 0; i < GORGE_FREQ_MAX; i++) {
    assert_int_equal(frequency(h), i);
    assert_true(hit(h));
  }
  assert_int_equal(frequency(h), GORGE_FREQ_MAX);
}

static void test_hot_reads_of_l1(void **state) {
  (void)state;
  static const struct {
    uint32_t len;
    const char *tags;
    uint64_t times;
  } cases[] = {{100, NULL, READS}, {16000, NULL, READS / 10}, {100, "red blue", READS / 10}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct hot h = open_hot("hot", cases[i].len, cases[i].tags);
    warm(&h, get);
    assert_int_equal(h.read.len, cases[i].len);
    assert_int_equal(read_only(&h, get, cases[i].times), 0);
    assert_int_equal(read_only(&h, peek, 100), 0);
    gorge_cache_destroy(h.cache);
  }
}

static void test_hot_records_of_l0(void **state) {
  (void)state;
  struct hot h = open_hot("hot", 100, NULL);
  warm(&h, validate);
  assert_int_equal(read_only(&h, validate, READS), 0);
  gorge_cache_destroy(h.cache);
}

/* Misses write nothing either, whatever the namespace holds. */
static bool miss(struct hot *h) {
  struct gorge_read read = {.buf = h->buf, .buf_size = sizeof h->buf};
  return gorge_get(h->cache, "cold", 4, &read) == GORGE_MISS;
}

static void test_misses(void **state) {
  (void)state;
  struct hot h = open_hot("hot", 100, NULL);
  assert_int_equal(read_only(&h, miss, READS / 10), 0);
  gorge_cache_destroy(h.cache);
}

/* That a write would be seen: a hit that still raises the frequency dies, of writing to the slot. */
static void test_a_key_that_is_not_hot_is_written(void **state) {
  (void)state;
  bool (*const hits[])(struct hot *) = {get, validate};
  for (size_t i = 0; i < sizeof hits / sizeof *hits; i++) {
    struct hot h = open_hot("warm", 100, NULL);
    assert_true(peek(&h));
    assert_int_equal(frequency(&h), 0);
    assert_int_equal(read_only(&h, hits[i], 1), WROTE_SLOT);
    assert_int_equal(frequency(&h), 1); /* by the hit before */
    gorge_cache_destroy(h.cache);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_hot_reads_of_l1),
      cmocka_unit_test(test_hot_records_of_l0),
      cmocka_unit_test(test_misses),
      cmocka_unit_test(test_a_key_that_is_not_hot_is_written),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
