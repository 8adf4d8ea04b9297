/* SPDX-License-Identifier: MIT */
#include "l1/uses.h"

#include "l1/index.h"

_Static_assert(GORGE_USES_PAIRS == GORGE_NAMESPACES * GORGE_WORKERS, "a cursor has a place for each pair");
_Static_assert((int)GORGE_USES_PER_PAIR == (int)GORGE_RECENT_WORDS, "what is told is what there is");

/* The shard in whose index the slot with that offset in the zone is; false: in none. */
static bool shard_of_slot(const struct gorge_zone *zone, uint64_t offset, struct gorge_shard *v,
                          const uint64_t **slot) {
  const struct gorge_l1_header *l1 = gorge_l1_header(zone);
  uint64_t from = zone->region_at[GORGE_REGION_L1] + l1->shards_at, bytes = l1->shard_bytes;
  if (offset % sizeof(uint64_t) != 0 || offset >= zone->size || offset < from || bytes == 0 ||
      (offset - from) / bytes >= GORGE_L1_SHARDS_MAX || !gorge_shard_at(zone, (uint32_t)((offset - from) / bytes), v)) {
    return false;
  }
  *slot = (const uint64_t *)(const void *)(zone->base + offset);
  return *slot >= v->slots && *slot < v->slots + (uint64_t)v->buckets * GORGE_BUCKET_SLOTS;
}

/* What one worker hit lately in one namespace. */
static uint32_t uses_of(const struct gorge_zone *zone, const uint64_t *counters, uint32_t ns, uint64_t hits,
                        uint64_t now_ms, struct gorge_hot *out, uint32_t max) {
  uint32_t count = 0;
  /* relaxed, all: for people; checked before it is believed. */
  uint64_t base = __atomic_load_n(&counters[GORGE_COUNT_BASE], __ATOMIC_RELAXED);
  for (int i = 0; i < GORGE_RECENT_WORDS && count < max; i++) {
    struct gorge_shard v;
    const uint64_t *slot;
    uint64_t address = __atomic_load_n(&counters[GORGE_COUNT_RECENT + i], __ATOMIC_RELAXED);
    struct gorge_hot *h = &out[count];
    if (address != 0 && shard_of_slot(zone, address - base, &v, &slot) && gorge_l1_entry(&v, slot, now_ms, h) &&
        h->ns == ns) {
      h->hits = (double)hits / GORGE_RECENT_WORDS;
      count++;
    }
  }
  return count;
}

uint32_t gorge_l1_uses(const struct gorge_zone *zone, struct gorge_uses_cursor *cursor, uint64_t now_ms,
                       struct gorge_hot *out, uint32_t max) {
  uint32_t count = 0;
  for (uint32_t pair = 0; pair < GORGE_USES_PAIRS; pair++) {
    uint32_t ns = pair / GORGE_WORKERS;
    const uint64_t *counters = gorge_zone_counters_of(zone, ns, pair % GORGE_WORKERS);
    if (counters == NULL) {
      continue;
    }
    /* relaxed: counters of others */
    uint64_t hits = __atomic_load_n(&counters[GORGE_COUNT_L0_HITS], __ATOMIC_RELAXED) +
                    __atomic_load_n(&counters[GORGE_COUNT_L1_HITS], __ATOMIC_RELAXED);
    uint64_t before = cursor->hits[pair];
    cursor->hits[pair] = hits;
    if (hits > before) {
      count += uses_of(zone, counters, ns, hits - before, now_ms, out + count, max - count);
    }
  }
  return count;
}

/* Keeps the most used ones: a new one takes the place of the least used. */
static uint32_t keep(struct gorge_hot *out, uint32_t count, uint32_t max, const struct gorge_hot *h) {
  if (count < max) {
    out[count] = *h;
    return count + 1;
  }
  uint32_t least = 0;
  for (uint32_t i = 1; i < count; i++) {
    least = out[i].frequency < out[least].frequency ? i : least;
  }
  if (count > 0 && out[least].frequency < h->frequency) {
    out[least] = *h;
  }
  return count;
}

static uint64_t all_slots(const struct gorge_zone *zone) {
  struct gorge_shard v;
  uint64_t slots = 0;
  for (uint32_t i = 0; gorge_shard_at(zone, i, &v); i++) {
    slots += (uint64_t)v.buckets * GORGE_BUCKET_SLOTS;
  }
  return slots;
}

uint32_t gorge_l1_frequent(const struct gorge_zone *zone, uint64_t *cursor, uint64_t slots, uint64_t now_ms,
                           struct gorge_hot *out, uint32_t max) {
  struct gorge_shard v;
  uint32_t count = 0;
  uint64_t most = all_slots(zone);
  if (most == 0 || !gorge_shard_at(zone, 0, &v)) {
    return 0;
  }
  uint64_t each = (uint64_t)v.buckets * GORGE_BUCKET_SLOTS; /* the geometry is that of all shards */
  for (uint64_t i = 0; i < slots && i < most; i++, ++*cursor) {
    uint64_t at = *cursor % most;
    struct gorge_hot h = {.hits = 0};
    if ((i == 0 || at % each == 0) && !gorge_shard_at(zone, (uint32_t)(at / each), &v)) {
      break;
    }
    if (gorge_l1_entry(&v, &v.slots[at % ((uint64_t)v.buckets * GORGE_BUCKET_SLOTS)], now_ms, &h)) {
      count = keep(out, count, max, &h);
    }
  }
  return count;
}
