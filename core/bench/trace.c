/* SPDX-License-Identifier: MIT */
/*
 * Hit ratios of L1 under recorded requests: each key is read, and stored when it is not there. Beside them, what S3-FIFO
 * and an optimum that knows the future would have at the same size.
 *
 *   usage: trace FILE SIZE[,SIZE...]
 *
 *   FILE  little-endian 32-bit words, may be gzipped: NAME.u32 one key for each request; NAME.u32s key and size in bytes
 *   SIZE  of a .u32: entries; of a .u32s: bytes; "10%" of what the trace asks for in all; "500u", "10%u": entries of one size,
 *         whatever the file says
 *
 * In entries: the zone, or in the smallest zone the value, is made so large that a full zone holds so many entries, which is
 * found out by filling some, never one more on average; the mean number that were resident is printed. In bytes: an entry of a size takes
 * that much of the zone's logs, its header and key included, and the logs have so many bytes. Index and history are made for
 * entries of the mean size. The time stands still.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zlib.h>

#include "bench/trace_peers.h"
#include "l1/layout.h"

enum { KEY_LEN = 8, OVERHEAD = 16 + KEY_LEN, VALUE_TYPICAL = 112, SAMPLE = 4096, NOW_MS = 1, TRIALS = 14 };

static struct gorge_l1_shape shape;
static int init(struct gorge_zone *zone) { return gorge_l1_init_shape(zone, &shape); }

static _Noreturn void fail(const char *what) {
  fprintf(stderr, "trace: %s\n", what);
  exit(1);
}

static void *need(void *p) {
  if (p == NULL) {
    fail("no memory");
  }
  return p;
}

/* --- the trace --- */

static uint32_t *read_words(const char *path, size_t *n) {
  gzFile file = gzopen(path, "rb");
  size_t size = 1 << 20, used = 0;
  char *words = need(malloc(size));
  int got;
  if (file == NULL) {
    fail("cannot open the file");
  }
  while ((got = gzread(file, words + used, (unsigned)(size - used > 1 << 30 ? 1 << 30 : size - used))) > 0) {
    used += (size_t)got;
    if (used == size) {
      words = need(realloc(words, size *= 2));
    }
  }
  if (got < 0 || gzclose_r(file) != Z_OK || used % 4 != 0 || used == 0) {
    fail("the file is damaged or empty");
  }
  *n = used / 4;
  return (uint32_t *)(void *)words;
}

static struct trace read_trace(const char *path, bool *sized) {
  size_t n;
  uint32_t *words = read_words(path, &n);
  struct trace t = {0};
  *sized = strstr(path, ".u32s") != NULL;
  t.requests = *sized ? n / 2 : n;
  t.key = need(malloc(t.requests * sizeof *t.key));
  for (size_t i = 0; i < t.requests; i++) {
    t.key[i] = *sized ? words[2 * i] : words[i];
    if (t.key[i] > t.requests) {
      fail("keys are not dense");
    }
    t.keys = t.key[i] >= t.keys ? t.key[i] + 1 : t.keys;
  }
  t.size = need(calloc(t.keys, sizeof *t.size));
  for (size_t i = t.requests; i-- > 0;) {
    t.size[t.key[i]] = *sized && words[2 * i + 1] > 0 ? words[2 * i + 1] : 1;
  }
  free(words);
  return t;
}

/* --- the cache --- */

struct cache {
  struct gorge_zone *zone;
  struct gorge_owner owner;
};

static struct cache open_cache(uint64_t zone_bytes) {
  static int number;
  char name[32];
  struct cache c = {0};
  int len = snprintf(name, sizeof name, "trace %d", ++number);
  if (gorge_zone_open(name, (size_t)len, zone_bytes, 0, init, &c.zone, NULL) != GORGE_OK ||
      gorge_owner_claim(c.zone, GORGE_THREAD_MAIN, &c.owner) != GORGE_OK) {
    fail("cannot make the zone");
  }
  return c;
}

static uint64_t entries(const struct cache *c) {
  struct gorge_l1_usage usage;
  gorge_l1_usage(c->zone, &usage);
  return usage.entries;
}

static struct gorge_key key_of(const struct cache *c, uint32_t number, char name[KEY_LEN + 1]) {
  struct gorge_key key;
  snprintf(name, KEY_LEN + 1, "%08" PRIx32, number);
  gorge_key_init(c->zone, 0, name, KEY_LEN, &key);
  return key;
}

static bool get(const struct cache *c, uint32_t number) {
  char name[KEY_LEN + 1];
  struct gorge_key key = key_of(c, number, name);
  struct gorge_read read = {0}; /* no room for the value: it need not be copied */
  int status = gorge_l1_read(c->zone, &key, NOW_MS, true, &read);
  return status == GORGE_HIT || status == GORGE_SPACE;
}

static void put(const struct cache *c, uint32_t number, uint32_t value_len) {
  static char value[1 << 24];
  char name[KEY_LEN + 1];
  struct gorge_key key = key_of(c, number, name);
  struct gorge_snapshot s;
  struct gorge_entry entry = {
      .value = value, .value_len = value_len < sizeof value ? value_len : sizeof value - 1, .expires_ms = UINT64_MAX};
  gorge_l1_snapshot(c->zone, &key, NULL, 0, &s);
  gorge_l1_insert(c->zone, &c->owner, &key, &entry, &s, NOW_MS, NULL);
}

/* --- how large a zone is to be --- */

struct plan {
  uint64_t zone_bytes;
  uint32_t value_len; /* in entries: of every value; in bytes: 0 */
};

static uint64_t measure_here(const struct plan *p, uint64_t wanted) {
  struct cache c = open_cache(p->zone_bytes);
  if (p->value_len == 0) {
    struct gorge_l1_usage usage;
    gorge_l1_usage(c.zone, &usage);
    return usage.bytes_total;
  }
  for (uint32_t i = 0; i < 2 * wanted + 1000; i++) {
    put(&c, i, p->value_len);
  }
  return entries(&c);
}

/* What such a zone holds: entries when it is full, or bytes. In a process of its own, since zones live as long as theirs. */
static uint64_t measure(const struct plan *p, uint64_t wanted) {
  int fds[2];
  uint64_t holds = 0;
  if (pipe(fds) != 0) {
    fail("cannot make a pipe");
  }
  pid_t pid = fork();
  if (pid == 0) {
    holds = measure_here(p, wanted);
    _exit(write(fds[1], &holds, sizeof holds) != sizeof holds);
  }
  close(fds[1]);
  if (pid < 0 || read(fds[0], &holds, sizeof holds) != sizeof holds) {
    fail("cannot fill a zone");
  }
  close(fds[0]);
  waitpid(pid, NULL, 0);
  return holds;
}

/* The largest of value or zone that does not hold more than it is to; what is searched for is added to `by`. */
static struct plan search(uint64_t wanted, bool bytes, uint64_t mean) {
  struct plan p = {.zone_bytes = GORGE_ZONE_SIZE_MIN, .value_len = bytes ? 0 : VALUE_TYPICAL};
  shape.entry_bytes = (uint32_t)(bytes ? mean : VALUE_TYPICAL + OVERHEAD);
  bool by_zone = bytes || measure(&p, wanted) < wanted;
  if (by_zone) {
    uint64_t low = GORGE_ZONE_SIZE_MIN, high = bytes ? wanted * 2 + (8U << 20) : wanted * 200 + (4U << 20);
    for (int i = 0; i < 2 * TRIALS && high - low > 4096; i++) {
      p.zone_bytes = (low + high) / 2;
      *(measure(&p, wanted) > wanted ? &high : &low) = p.zone_bytes;
    }
    p.zone_bytes = low;
    return p;
  }
  uint32_t low = VALUE_TYPICAL, high = GORGE_ZONE_SIZE_MIN; /* what holds too many, what does not */
  while (high - low > 1) {
    p.value_len = (low + high) / 2;
    shape.entry_bytes = p.value_len + OVERHEAD;
    *(measure(&p, wanted) > wanted ? &low : &high) = p.value_len;
  }
  p.value_len = high;
  shape.entry_bytes = high + OVERHEAD;
  return p;
}

/* --- one size --- */

static struct hits drive(const struct trace *t, const struct plan *p, double *resident) {
  struct cache c = open_cache(p->zone_bytes);
  struct hits hits = {0};
  uint64_t samples = 0, sum = 0;
  for (size_t i = 0; i < t->requests; i++) {
    uint32_t key = t->key[i], size = t->size[key];
    if (get(&c, key)) {
      hits.requests++;
      hits.bytes += size;
    } else {
      put(&c, key, p->value_len != 0 ? p->value_len : size > OVERHEAD ? size - OVERHEAD : 0);
    }
    if (i % SAMPLE == 0 && i > t->requests / 2) {
      samples++;
      sum += entries(&c);
    }
  }
  *resident = (double)sum / (double)(samples > 0 ? samples : 1);
  return hits;
}

/* Once more with a smaller zone if there were more entries on average: a full zone holds a few more when its rings have moved. */
static struct hits drive_at_most(const struct trace *t, uint64_t capacity, bool bytes, uint64_t mean,
                                 double *resident) {
  uint64_t wanted = capacity;
  for (;;) {
    struct plan p = search(wanted, bytes, mean);
    struct hits hits = drive(t, &p, resident);
    if (bytes || *resident <= (double)capacity || wanted < 4) {
      return hits;
    }
    double less = (double)wanted * (double)capacity / *resident;
    wanted = less < (double)wanted - 1 ? (uint64_t)less : wanted - 1;
  }
}

static void report(const char *name, struct trace t, bool sized, const char *size) {
  uint32_t *ones = need(calloc(t.keys, sizeof *ones));
  uint64_t all = 0, requested = 0;
  bool bytes = sized && strchr(size, 'u') == NULL;
  for (uint32_t i = 0; i < t.keys; i++) {
    ones[i] = 1;
    t.size[i] = bytes && t.size[i] < OVERHEAD ? OVERHEAD : t.size[i];
    all += bytes ? t.size[i] : 1;
  }
  t.size = bytes ? t.size : ones;
  for (size_t i = 0; i < t.requests; i++) {
    requested += t.size[t.key[i]];
  }
  char *end;
  double number = strtod(size, &end);
  uint64_t capacity = (uint64_t)(*end == '%' ? number * (double)all / 100 + 0.5 : number);
  if (end == size || capacity < 4 || (bytes && capacity > (uint64_t)4 << 30)) {
    fail("that size cannot be had");
  }
  double resident, n = (double)t.requests / 100, b = (double)requested / 100;
  struct hits ours = drive_at_most(&t, capacity, bytes, all / t.keys, &resident), best = peer_optimum(&t, capacity),
              s3 = peer_s3fifo(&t, capacity);
  printf("%-14s %8s %9" PRIu64 " %9.0f  %7.3f %7.3f  %7.3f %7.3f  %7.3f %7.3f\n", name, size, capacity, resident,
         (double)ours.requests / n, (double)ours.bytes / b, (double)s3.requests / n, (double)s3.bytes / b,
         (double)best.requests / n, (double)best.bytes / b);
  fflush(stdout);
  free(ones);
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: trace FILE SIZE[,SIZE...]\n");
    return 2;
  }
  bool sized;
  struct trace t = read_trace(argv[1], &sized);
  const char *slash = strrchr(argv[1], '/');
  char name[64];
  snprintf(name, sizeof name, "%s", slash != NULL ? slash + 1 : argv[1]);
  name[strcspn(name, ".")] = '\0';
  for (char *rest = argv[2], *size; (size = strtok_r(rest, ",", &rest)) != NULL;) {
    report(name, t, sized, size);
  }
  free(t.key);
  free(t.size);
  return 0;
}
