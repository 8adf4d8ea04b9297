/* SPDX-License-Identifier: MIT */
#include "shm/layout.h"

/*
 * The pool of counter blocks. block_of caches which block a (namespace, worker) pair has, as its number + 1;
 * the truth is `pair` in the block. All claimers of a pair look from the start and blocks are never freed: they
 * end at the same block.
 */
enum { OVERFLOW_BLOCK = 0 };

struct pool {
  uint16_t *block_of;
  struct gorge_stats_block *blocks;
  uint32_t count;
};

static struct pool pool_of(const struct gorge_zone *zone) {
  uint64_t size;
  struct pool p;
  uint64_t table = sizeof(uint16_t) * GORGE_NAMESPACES * GORGE_WORKERS;
  p.block_of = gorge_zone_region(zone, GORGE_REGION_STATS, &size);
  p.blocks = (struct gorge_stats_block *)((char *)p.block_of + table);
  p.count = (uint32_t)((size - table) / sizeof(struct gorge_stats_block));
  return p;
}

static uint32_t claim(const struct pool *p, uint64_t pair) {
  for (uint32_t i = OVERFLOW_BLOCK + 1; i < p->count; i++) {
    uint64_t seen = 0;
    /* relaxed: the block is all zeros since the zone was made, nothing is handed over with it. */
    if (__atomic_compare_exchange_n(&p->blocks[i].pair, &seen, pair, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED) ||
        seen == pair) {
      return i;
    }
  }
  return OVERFLOW_BLOCK;
}

static struct gorge_stats_block *block(const struct gorge_zone *zone, uint32_t ns, uint32_t worker) {
  struct pool p = pool_of(zone);
  if (ns >= GORGE_NAMESPACES || worker >= GORGE_WORKERS) {
    return &p.blocks[OVERFLOW_BLOCK];
  }
  uint32_t at = ns * GORGE_WORKERS + worker;
  /* relaxed: an index into memory that was complete before the zone was published. */
  uint32_t number = __atomic_load_n(&p.block_of[at], __ATOMIC_RELAXED);
  if (number == 0 || number > p.count) {
    number = claim(&p, (uint64_t)at + 1) + 1;
    __atomic_store_n(&p.block_of[at], (uint16_t)number, __ATOMIC_RELAXED);
  }
  return &p.blocks[number - 1];
}

uint64_t *gorge_zone_counters(const struct gorge_zone *zone, uint32_t ns, uint32_t worker) {
  return block(zone, ns, worker)->counters;
}

const uint64_t *gorge_zone_counters_of(const struct gorge_zone *zone, uint32_t ns, uint32_t worker) {
  struct pool p = pool_of(zone);
  if (ns >= GORGE_NAMESPACES || worker >= GORGE_WORKERS) {
    return NULL;
  }
  /* relaxed: see block. */
  uint32_t number = __atomic_load_n(&p.block_of[ns * GORGE_WORKERS + worker], __ATOMIC_RELAXED);
  return number == 0 || number > p.count || number == OVERFLOW_BLOCK + 1 ? NULL : p.blocks[number - 1].counters;
}

uint64_t *gorge_zone_histogram(const struct gorge_zone *zone, uint32_t ns, uint32_t worker, int histogram) {
  return block(zone, ns, worker)->histograms[(unsigned)histogram % GORGE_HISTOGRAMS];
}

/*
 * Adds up the same n words of all blocks of the namespace; the shared one too, once any worker of it has been
 * sent there.
 */
static void sum(const struct gorge_zone *zone, uint32_t ns, size_t offset, uint32_t n, uint64_t *out) {
  struct pool p = pool_of(zone);
  bool overflow = false;
  for (uint32_t i = 0; i < n; i++) {
    out[i] = 0;
  }
  for (uint32_t worker = 0; worker <= GORGE_WORKERS && ns < GORGE_NAMESPACES; worker++) {
    uint32_t number;
    if (worker < GORGE_WORKERS) {
      number = __atomic_load_n(&p.block_of[ns * GORGE_WORKERS + worker], __ATOMIC_RELAXED);
      if (number == OVERFLOW_BLOCK + 1) {
        overflow = true;
        continue;
      }
    } else {
      number = overflow ? OVERFLOW_BLOCK + 1 : 0;
    }
    if (number == 0 || number > p.count) {
      continue;
    }
    const uint64_t *words = (const uint64_t *)((const char *)&p.blocks[number - 1] + offset);
    for (uint32_t i = 0; i < n; i++) {
      /* relaxed: counters of others, each on its own. */
      out[i] += __atomic_load_n(&words[i], __ATOMIC_RELAXED);
    }
  }
}

void gorge_zone_sum_counters(const struct gorge_zone *zone, uint32_t ns, uint64_t *out) {
  sum(zone, ns, offsetof(struct gorge_stats_block, counters), GORGE_COUNTERS, out);
  for (int i = GORGE_COUNT_BASE; i < GORGE_COUNTERS; i++) {
    out[i] = 0; /* addresses, which are nobody's business */
  }
  /* Deaths belong to the zone: a slot is claimed before anybody knows for which namespace. relaxed: a count. */
  out[GORGE_COUNT_WORKER_DEATHS] += __atomic_load_n(&zone->header->worker_deaths.word[0], __ATOMIC_RELAXED);
}

void gorge_zone_sum_histogram(const struct gorge_zone *zone, uint32_t ns, int histogram, uint64_t *out) {
  size_t offset = offsetof(struct gorge_stats_block, histograms) +
                  (unsigned)histogram % GORGE_HISTOGRAMS * GORGE_HISTOGRAM_WORDS * sizeof(uint64_t);
  sum(zone, ns, offset, GORGE_HISTOGRAM_WORDS, out);
}
