/* SPDX-License-Identifier: MIT */
/*
 * Nanoseconds of L1's operations, alone and by several processes at once: median and spread of five runs.
 *
 *   usage: l1 [value bytes (100)] [zone bytes (64 MB)]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "l1/l1.h"

enum { RUNS = 5, HOT = 10000, KEY_LEN = 20, PROCESSES = 2, SCRATCH = 1 << 20 };

struct bench {
  struct gorge_zone *zone;
  struct gorge_owner owner;
  uint32_t value_len;
  uint64_t n, random; /* operations of a run */
  char *value, *buf;
  uint32_t *order; /* zipf-like ranks, drawn beforehand */
};

static uint64_t next_random(struct bench *b) {
  b->random ^= b->random << 13;
  b->random ^= b->random >> 7;
  b->random ^= b->random << 17;
  return b->random;
}

static void name_of(uint64_t number, char name[KEY_LEN]) {
  for (int i = KEY_LEN - 1; i >= 0; i--, number /= 10) {
    name[i] = (char)('0' + number % 10);
  }
}

static bool get(struct bench *b, uint64_t number) {
  char name[KEY_LEN];
  struct gorge_key key;
  struct gorge_read read = {.buf = b->buf, .buf_size = SCRATCH};
  name_of(number, name);
  gorge_key_init(b->zone, 0, name, KEY_LEN, &key);
  return gorge_l1_read(b->zone, &key, 1, true, &read) == GORGE_HIT;
}

static bool put(struct bench *b, uint64_t number) {
  char name[KEY_LEN];
  struct gorge_key key;
  struct gorge_snapshot s;
  struct gorge_entry entry = {.value = b->value, .value_len = b->value_len, .kind = 1, .expires_ms = 1000};
  name_of(number, name);
  gorge_key_init(b->zone, 0, name, KEY_LEN, &key);
  gorge_l1_snapshot(b->zone, &key, NULL, 0, &s);
  return gorge_l1_insert(b->zone, &b->owner, &key, &entry, &s, 1, NULL) == GORGE_STORED;
}

static uint64_t names_only(struct bench *b) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < b->n; i++) {
    char name[KEY_LEN];
    name_of(b->order[i % b->n], name);
    __asm__ __volatile__("" : : "r"(name) : "memory");
    sum++;
  }
  return sum;
}

static uint64_t read_hot(struct bench *b) {
  uint64_t hits = 0;
  for (uint64_t i = 0; i < b->n; i++) {
    hits += get(b, 7);
  }
  return hits;
}

static uint64_t read_zipf(struct bench *b) {
  uint64_t hits = 0;
  for (uint64_t i = 0; i < b->n; i++) {
    hits += get(b, b->order[i]);
  }
  return hits;
}

static uint64_t read_all(struct bench *b) {
  uint64_t hits = 0;
  for (uint64_t i = 0; i < b->n; i++) {
    hits += get(b, next_random(b) % 1000000);
  }
  return hits;
}

static uint64_t read_nothing(struct bench *b) {
  uint64_t hits = 0;
  for (uint64_t i = 0; i < b->n; i++) {
    hits += get(b, 1000000000000 + next_random(b) % 1000000);
  }
  return b->n - hits;
}

static uint64_t insert_new(struct bench *b) {
  uint64_t stored = 0;
  for (uint64_t i = 0; i < b->n; i++) {
    stored += put(b, 1000000 + next_random(b) % 1000000000);
  }
  return stored;
}

static uint64_t overwrite_zipf(struct bench *b) {
  uint64_t stored = 0;
  for (uint64_t i = 0; i < b->n; i++) {
    stored += put(b, b->order[i]);
  }
  return stored;
}

static uint64_t mix(struct bench *b) {
  uint64_t done = 0;
  for (uint64_t i = 0; i < b->n; i++) {
    uint32_t number = b->order[i];
    done += next_random(b) % 20 == 0 ? put(b, number) : get(b, number) || put(b, number);
  }
  return done;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void report(const char *what, double *ns, uint64_t done, uint64_t n) {
  qsort(ns, RUNS, sizeof *ns, ascending);
  printf("%-38s %8.1f ns  (%.1f..%.1f)  %5.1f %% done\n", what, ns[RUNS / 2], ns[0], ns[RUNS - 1],
         100.0 * (double)done / (double)n);
}

static void alone(struct bench *b, const char *what, uint64_t (*body)(struct bench *)) {
  double ns[RUNS];
  uint64_t done = 0;
  for (int run = 0; run < RUNS; run++) {
    uint64_t start = gorge_clock_us();
    done = body(b);
    ns[run] = (double)(gorge_clock_us() - start) * 1000 / (double)b->n;
  }
  report(what, ns, done, b->n);
}

/* Several processes at once; the figure is the time per operation of all together. */
static void together(struct bench *b, const char *what, uint64_t (*body)(struct bench *)) {
  double ns[RUNS];
  uint64_t *gate = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  for (int run = 0; run < RUNS; run++) {
    gate[0] = gate[1] = 0;
    for (int i = 0; i < PROCESSES; i++) {
      if (fork() == 0) {
        b->random += (uint64_t)i * 12345;
        if (gorge_owner_claim(b->zone, GORGE_THREAD_MAIN, &b->owner) != GORGE_OK) {
          _exit(1);
        }
        __atomic_fetch_add(&gate[0], 1, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&gate[0], __ATOMIC_SEQ_CST) < PROCESSES) {
        }
        __atomic_fetch_add(&gate[1], body(b), __ATOMIC_SEQ_CST);
        _exit(0);
      }
    }
    while (__atomic_load_n(&gate[0], __ATOMIC_SEQ_CST) < PROCESSES) {
      usleep(100);
    }
    uint64_t start = gorge_clock_us();
    for (int i = 0; i < PROCESSES; i++) {
      wait(NULL);
    }
    ns[run] = (double)(gorge_clock_us() - start) * 1000 / (double)b->n / PROCESSES;
  }
  report(what, ns, gate[1], b->n * PROCESSES);
}

static void draw_order(struct bench *b) {
  /* Ranks with probability ~ 1 / rank: the exponential of a uniform number, by repeated halving of the range. */
  for (uint64_t i = 0; i < b->n; i++) {
    uint32_t bits = 14, top = (uint32_t)(next_random(b) % bits);
    uint32_t rank = (1U << top) + (uint32_t)(next_random(b) % (1U << top)) - 1;
    b->order[i] = rank % HOT;
  }
}

int main(int argc, char **argv) {
  struct bench b = {.value_len = argc > 1 ? (uint32_t)atoi(argv[1]) : 100, .n = 1000000, .random = 88172645463325252U};
  uint64_t size = argc > 2 ? strtoull(argv[2], NULL, 0) : 64 << 20;
  b.value = calloc(1, b.value_len + 1);
  b.buf = malloc(SCRATCH);
  b.order = malloc(b.n * sizeof *b.order);
  if (b.value == NULL || b.buf == NULL || b.order == NULL ||
      gorge_zone_open("bench", 5, size, 0, gorge_l1_init, &b.zone, NULL) != GORGE_OK ||
      gorge_owner_claim(b.zone, GORGE_THREAD_MAIN, &b.owner) != GORGE_OK) {
    fprintf(stderr, "no zone\n");
    free(b.value);
    free(b.buf);
    free(b.order);
    return 1;
  }
  draw_order(&b);
  for (uint64_t i = 0; i < 1000000; i++) {
    put(&b, 999999 - i);
  }
  struct gorge_l1_usage usage;
  gorge_l1_usage(b.zone, &usage);
  printf("%u-byte values: %llu entries, %.1f bytes of the zone each\n", b.value_len, (unsigned long long)usage.entries,
         (double)size / (double)usage.entries);
  alone(&b, "making names, nothing else", names_only);
  alone(&b, "read, one hot key", read_hot);
  alone(&b, "read, 10k keys, zipf", read_zipf);
  alone(&b, "read, 1M keys, random", read_all);
  alone(&b, "read, absent keys", read_nothing);
  alone(&b, "insert into the full zone", insert_new);
  alone(&b, "overwrite, 10k keys, zipf", overwrite_zipf);
  together(&b, "2 processes: read, one hot key", read_hot);
  together(&b, "2 processes: read, 10k keys, zipf", read_zipf);
  together(&b, "2 processes: 95 % read, 5 % overwrite", mix);
  together(&b, "2 processes: insert", insert_new);
  return 0;
}
