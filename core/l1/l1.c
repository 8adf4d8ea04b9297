/* SPDX-License-Identifier: MIT */
#include "l1/l1.h"

#include <string.h>

#include "base/hash.h"
#include "l1/entry.h"
#include "l1/ghost.h"
#include "l1/log.h"

enum {
  /* What the index and the history are made for: 20 bytes of key and 100 of value. */
  ENTRY_TYPICAL = GORGE_HEAD_UNITS * GORGE_L1_UNIT + 120,
  LOAD_PERCENT = 78,
  SMALL_PERCENT = 10,
  MAIN_MAX_SHARE =
      4, /* entries above this part of main, as it is at first, are too large: what small or main always has room for */
  STAMP_SHARE = 2048, /* one cell for so many bytes */
  TAG_SHARE = 4096,
  CELLS_MIN = 256,
  CELLS_MAX = 1 << 16,
  AREA_MIN = 64 << 10
};

static uint64_t align_line(uint64_t bytes) { return (bytes + GORGE_L1_LINE - 1) / GORGE_L1_LINE * GORGE_L1_LINE; }

static uint32_t cells(uint64_t bytes, uint32_t share) {
  uint64_t n = bytes / share;
  return n < CELLS_MIN ? CELLS_MIN : n > CELLS_MAX ? CELLS_MAX : (uint32_t)n;
}

/*
 * Eight from 16 MB on; more only to bound what one lock covers: once a lap, and after a holder was killed, its whole index is looked
 * at (shard.c).
 */
static uint32_t shards_for(uint64_t bytes) {
  uint32_t n = 1;
  while (n < 8 && bytes / n > 2 << 20) {
    n *= 2;
  }
  while (n < GORGE_L1_SHARDS_MAX && bytes / n > 128 << 20) {
    n *= 2;
  }
  return n;
}

/* Cuts the bytes of each shard into index, history and area. */
static int cut_shards(struct gorge_l1_header *l1, const struct gorge_l1_shape *shape) {
  uint64_t bytes = l1->shard_bytes - sizeof(struct gorge_l1_shard);
  uint64_t typical = shape->entry_bytes != 0 ? shape->entry_bytes : ENTRY_TYPICAL;
  /* Per entry: itself, its slot at the load meant, its places in the history; in 1/100 byte. */
  uint64_t each = typical * 100 + sizeof(uint64_t) * 100 * 100 / LOAD_PERCENT +
                  sizeof(struct gorge_ghost_bucket) * GORGE_GHOST_PER_ENTRY * 100 / GORGE_GHOST_WAYS;
  uint64_t entries = bytes * 100 / each;
  uint64_t wanted = shape->buckets != 0 ? shape->buckets : entries * 100 / LOAD_PERCENT / GORGE_BUCKET_SLOTS + 1;
  uint64_t ghosts = entries * GORGE_GHOST_PER_ENTRY / GORGE_GHOST_WAYS + 1;
  uint64_t lines = wanted + ghosts;
  if (lines > bytes / GORGE_L1_LINE || bytes - lines * GORGE_L1_LINE < AREA_MIN) {
    return GORGE_ERR_ARGUMENT;
  }
  uint64_t units = (bytes - lines * GORGE_L1_LINE) / GORGE_L1_UNIT;
  if (units > (uint64_t)1 << 31) {
    return GORGE_ERR_ARGUMENT;
  }
  l1->buckets = (uint32_t)wanted;
  l1->ghost_buckets = (uint32_t)ghosts;
  l1->area_units = (uint32_t)units;
  while ((uint64_t)1 << l1->lap_shift < units) {
    l1->lap_shift++;
  }
  return GORGE_OK;
}

static void cut_rings(struct gorge_l1_header *l1) {
  uint32_t small = (uint32_t)((uint64_t)l1->area_units * SMALL_PERCENT / 100);
  uint32_t main = l1->area_units - small;
  uint32_t entry_max = (GORGE_HEAD_VALUE_MAX + 1) / GORGE_L1_UNIT;
  l1->small_units = small;
  l1->max_units = main / MAIN_MAX_SHARE < entry_max ? main / MAIN_MAX_SHARE : entry_max;
  for (uint32_t i = 0; i < l1->shards; i++) {
    struct gorge_l1_shard *s = (struct gorge_l1_shard *)((char *)l1 + l1->shards_at + i * l1->shard_bytes);
    s->end[GORGE_RING_SMALL] = s->start[GORGE_RING_MAIN] = small;
    s->end[GORGE_RING_MAIN] = small + main;
    s->small_wanted = s->small_lap = small;
    s->front = small;
    for (int ring = 0; ring < GORGE_RINGS; ring++) {
      /* The first lap is 1: a logical offset is never 0. */
      s->head[ring] = s->tail[ring] = (uint64_t)1 << l1->lap_shift | s->start[ring];
    }
    s->counted_lap = 1;
  }
}

int gorge_l1_init_shape(struct gorge_zone *zone, const struct gorge_l1_shape *shape) {
  struct gorge_l1_header *l1 = gorge_l1_header(zone);
  uint64_t size = zone->region_size[GORGE_REGION_L1];
  uint32_t shards = shape->shards != 0 ? shape->shards : shards_for(size);
  if (shards > GORGE_L1_SHARDS_MAX || (shards & (shards - 1)) != 0) {
    return GORGE_ERR_ARGUMENT;
  }
  uint32_t stamp_cells = cells(size, STAMP_SHARE), tag_cells = cells(size, TAG_SHARE);
  uint64_t tags_at = align_line(sizeof *l1 + stamp_cells * sizeof(struct gorge_stamp_cell));
  uint64_t shards_at = align_line(tags_at + tag_cells * sizeof(uint64_t));
  if (shards_at + shards * (sizeof(struct gorge_l1_shard) + AREA_MIN) > size) {
    return GORGE_ERR_ARGUMENT;
  }
  l1->tags_at = tags_at;
  l1->shards_at = shards_at;
  l1->shard_bytes = (size - shards_at) / shards / GORGE_L1_LINE * GORGE_L1_LINE;
  l1->shards = shards;
  l1->stamp_cells = stamp_cells;
  l1->tag_cells = tag_cells;
  int status = cut_shards(l1, shape);
  if (status == GORGE_OK) {
    cut_rings(l1);
    status = gorge_random(&l1->seed, sizeof l1->seed);
  }
  return status;
}

int gorge_l1_init(struct gorge_zone *zone) { return gorge_l1_init_shape(zone, &(struct gorge_l1_shape){0}); }

void gorge_l1_usage(const struct gorge_zone *zone, struct gorge_l1_usage *out) {
  struct gorge_shard v;
  memset(out, 0, sizeof *out);
  for (uint32_t i = 0; gorge_shard_at(zone, i, &v); i++) {
    /* relaxed, here and in gorge_log_used: numbers for people. */
    out->entries += __atomic_load_n(&v.shared->entries, __ATOMIC_RELAXED);
    out->bytes_total += (uint64_t)v.area_units * GORGE_L1_UNIT;
    for (int ring = 0; ring < GORGE_RINGS; ring++) {
      out->bytes_used += gorge_log_used(&v, ring) * GORGE_L1_UNIT;
    }
  }
}
