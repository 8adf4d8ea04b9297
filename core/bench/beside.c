/* SPDX-License-Identifier: MIT */
/*
 * What a reader of one hot key pays for a writer beside it: nanoseconds of a read while nobody writes; while another process writes
 * to a zone of its own, which costs what two busy processors cost one another; to other shards; to the shard of the key. And the
 * writer's own rate. Median and spread of five runs, the four in turn.
 *
 *   usage: beside [value bytes (100)] [zone bytes (64 MB)] [milliseconds of a run (300)]
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "l1/layout.h"

enum { RUNS = 5, KEY_LEN = 20, READS_AT_ONCE = 1000, SCRATCH = 1 << 20, KEYS = 1000000 };
enum place { NOWHERE, OTHER_ZONE, OTHER_SHARDS, SAME_SHARD, PLACES };

struct bench {
  struct gorge_zone *zone, *other;
  struct gorge_owner owner;
  uint32_t value_len;
  uint64_t run_us;
  char *value, *buf;
};

static uint32_t key_of(const struct bench *b, uint64_t number, char name[KEY_LEN], struct gorge_key *key) {
  for (int i = KEY_LEN - 1; i >= 0; i--, number /= 10) {
    name[i] = (char)('0' + number % 10);
  }
  gorge_key_init(b->zone, 0, name, KEY_LEN, key);
  return (uint32_t)(key->hash >> 32) & (gorge_l1_header(b->zone)->shards - 1);
}

static bool put(struct bench *b, const struct gorge_key *key) {
  struct gorge_entry entry = {.value = b->value, .value_len = b->value_len, .kind = 1, .expires_ms = 1000};
  return gorge_l1_set(b->zone, &b->owner, key, &entry, 1, NULL) == GORGE_STORED;
}

/* Writes keys for ever; counts. */
_Noreturn static void write_on(struct bench *b, uint32_t shard, enum place place, uint64_t *count) {
  char name[KEY_LEN];
  struct gorge_key key;
  b->zone = place == OTHER_ZONE ? b->other : b->zone;
  if (gorge_owner_claim(b->zone, GORGE_THREAD_MAIN, &b->owner) != GORGE_OK) {
    _exit(1);
  }
  for (uint64_t i = 1;; i = i % KEYS + 1) {
    if ((key_of(b, i, name, &key) == shard) == (place == SAME_SHARD)) {
      put(b, &key);
      __atomic_store_n(count, *count + 1, __ATOMIC_RELAXED);
    }
  }
}

/* Nanoseconds of a read of key 0. */
static double read_for(struct bench *b) {
  char name[KEY_LEN];
  struct gorge_key key;
  uint64_t reads = 0, start = gorge_clock_us(), us;
  key_of(b, 0, name, &key);
  do {
    for (int i = 0; i < READS_AT_ONCE; i++) {
      struct gorge_read read = {.buf = b->buf, .buf_size = SCRATCH};
      gorge_key_init(b->zone, 0, name, KEY_LEN, &key);
      if (gorge_l1_read(b->zone, &key, 1, true, &read) != GORGE_HIT) {
        put(b, &key); /* evicted after all */
      }
    }
    reads += READS_AT_ONCE;
    us = gorge_clock_us() - start;
  } while (us < b->run_us);
  return (double)us * 1000 / (double)reads;
}

static double run(struct bench *b, enum place place, uint32_t shard, double *writes) {
  uint64_t *count = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (count == MAP_FAILED) {
    return 0;
  }
  pid_t pid = place == NOWHERE ? 0 : fork();
  if (place != NOWHERE && pid == 0) {
    write_on(b, shard, place, count);
  }
  while (pid > 0 && __atomic_load_n(count, __ATOMIC_RELAXED) < 1000 && waitpid(pid, NULL, WNOHANG) == 0) {
  }
  uint64_t before = __atomic_load_n(count, __ATOMIC_RELAXED), start = gorge_clock_us();
  double ns = read_for(b);
  *writes = (double)(__atomic_load_n(count, __ATOMIC_RELAXED) - before) * 1e6 / (double)(gorge_clock_us() - start);
  if (pid > 0) {
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
  }
  munmap(count, 4096);
  return ns;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

int main(int argc, char **argv) {
  static const char *const names[PLACES] = {"nobody writes", "a writer in another zone", "a writer on other shards",
                                            "a writer on the same shard"};
  struct bench b = {.value_len = argc > 1 ? (uint32_t)atoi(argv[1]) : 100,
                    .run_us = 1000 * (argc > 3 ? strtoull(argv[3], NULL, 0) : 300)};
  uint64_t size = argc > 2 ? strtoull(argv[2], NULL, 0) : 64 << 20;
  b.value = calloc(1, b.value_len + 1);
  b.buf = malloc(SCRATCH);
  if (b.value == NULL || b.buf == NULL ||
      gorge_zone_open("bench", 5, size, 0, gorge_l1_init, &b.zone, NULL) != GORGE_OK ||
      gorge_zone_open("other", 5, size, 0, gorge_l1_init, &b.other, NULL) != GORGE_OK ||
      gorge_owner_claim(b.zone, GORGE_THREAD_MAIN, &b.owner) != GORGE_OK) {
    fprintf(stderr, "no zone\n");
    free(b.value);
    free(b.buf);
    return 1;
  }
  char name[KEY_LEN];
  struct gorge_key key;
  for (uint64_t i = 1; i <= KEYS; i++) {
    key_of(&b, i, name, &key);
    put(&b, &key);
  }
  uint32_t shard = key_of(&b, 0, name, &key);
  double ns[PLACES][RUNS], writes[PLACES][RUNS];
  for (int i = 0; i < RUNS; i++) {
    for (enum place place = 0; place < PLACES; place++) {
      ns[place][i] = run(&b, place, shard, &writes[place][i]);
    }
  }
  for (enum place place = 0; place < PLACES; place++) {
    qsort(ns[place], RUNS, sizeof ns[place][0], ascending);
    qsort(writes[place], RUNS, sizeof writes[place][0], ascending);
    printf("%-28s a read %6.1f ns  (%.1f..%.1f)  %9.0f writes/s\n", names[place], ns[place][RUNS / 2], ns[place][0],
           ns[place][RUNS - 1], writes[place][RUNS / 2]);
  }
  return 0;
}
