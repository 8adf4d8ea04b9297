/* SPDX-License-Identifier: MIT */
/*
 * One shard as a process sees it, and the way in and out of its lock.
 *
 * What happens when the holder of the lock does not move. `fence` holds an epoch and the sequence of a lock
 * acquisition. An invalidator that cannot get the lock raises the epoch and writes down the acquisition it gave up on, in one CAS:
 *
 *  - Every entry carries the epoch that its writer found in the fence after taking the lock; readers take only entries
 *    of the current epoch. So all that was there is gone, and so is what the stopped holder publishes when it moves again.
 *  - A holder that reads the fence only afterwards also reads what was invalidated before; it takes the mark away.
 *  - While the mark of an acquisition stands and no other one has followed, it can publish nothing visible any more: one
 *    raise per acquisition is enough.
 *  - Who takes the lock next finds an epoch that the log does not have, and starts with an empty index and log. More than
 *    one old epoch is never in a log at a time, so 8 bits of it do.
 */
#ifndef GORGE_L1_SHARD_H
#define GORGE_L1_SHARD_H

#include "l1/entry.h"

enum {
  GORGE_FILL_BUDGET_US = 1000,       /* longest wait for the lock of who can do without */
  GORGE_INVALIDATE_BUDGET_US = 6000, /* and of who must not give up lightly: it costs the shard's entries */
  GORGE_UNITS_PER_STEP = 1024        /* 4 KB are copied in about the time that a look at a log entry takes */
};

/* Addresses of one shard in this process, checked against the region; private to the caller. */
struct gorge_shard {
  const struct gorge_zone *zone;
  const struct gorge_l1_header *l1;
  struct gorge_l1_shard *shared;
  uint64_t *slots;
  uint32_t *area;
  uint32_t area_units, lap_shift, buckets;

  /* of a writer, see gorge_shard_write */
  uint32_t worker, ns; /* who writes, and for whom */
  uint64_t *counters;  /* of that pair */
  uint64_t now_ms;
  uint32_t epoch; /* set by gorge_shard_enter */
  uint32_t steps; /* log entries that may still be looked at before the lock is to be let go */
};

/*
 * Shard `number`. Returns false when there is none, or its geometry does not fit the region: nothing is to be read then.
 * Plain loads: nothing of it changes once the zone is published.
 */
static inline bool gorge_shard_at(const struct gorge_zone *zone, uint32_t number, struct gorge_shard *out) {
  const struct gorge_l1_header *l1 = gorge_l1_header(zone);
  uint64_t size = zone->region_size[GORGE_REGION_L1], bytes = l1->shard_bytes, at = l1->shards_at;
  uint64_t area_at = sizeof(struct gorge_l1_shard) + ((uint64_t)l1->buckets + l1->ghost_buckets) * GORGE_L1_LINE;
  if (number >= l1->shards || number >= GORGE_L1_SHARDS_MAX || bytes > size || at > size ||
      at + bytes * (number + 1) > size || area_at + (uint64_t)l1->area_units * GORGE_L1_UNIT > bytes ||
      ((at | bytes) & (GORGE_L1_LINE - 1)) != 0 || l1->buckets == 0 || l1->lap_shift >= 32) {
    return false;
  }
  char *start = (char *)l1 + at + bytes * number;
  out->zone = zone;
  out->l1 = l1;
  out->shared = (struct gorge_l1_shard *)(void *)start;
  out->slots = (uint64_t *)(void *)(start + sizeof(struct gorge_l1_shard));
  out->area = (uint32_t *)(void *)(start + area_at);
  out->area_units = l1->area_units;
  out->lap_shift = l1->lap_shift;
  out->buckets = l1->buckets;
  return true;
}

static inline bool gorge_shard_of(const struct gorge_zone *zone, uint64_t hash, struct gorge_shard *out) {
  return gorge_shard_at(zone, (uint32_t)(hash >> 32) & (gorge_l1_header(zone)->shards - 1), out);
}

/* Fills in the part of a writer. */
void gorge_shard_write(struct gorge_shard *v, const struct gorge_owner *owner, uint32_t ns, uint64_t now_ms);

/*
 * Takes the lock and leaves the log in order. Returns GORGE_OK or GORGE_BUSY; then *sequence is the acquisition that was in
 * the way.
 */
int gorge_shard_enter(struct gorge_zone *zone, struct gorge_shard *v, const struct gorge_owner *owner,
                      uint32_t budget_us, uint32_t *sequence);
void gorge_shard_leave(struct gorge_shard *v, const struct gorge_owner *owner);

/* Takes the copying of so many units off the steps. */
static inline void gorge_shard_spend(struct gorge_shard *v, uint32_t units) {
  uint32_t steps = units / GORGE_UNITS_PER_STEP;
  v->steps -= steps < v->steps ? steps : v->steps;
}

/* Forgets all entries of the shard because the acquisition `sequence` does not move; see above. Any thread. */
void gorge_shard_forget(struct gorge_zone *zone, struct gorge_shard *v, uint32_t sequence);

/* Counts an event of a namespace. */
void gorge_shard_count(const struct gorge_shard *v, uint32_t ns, enum gorge_counter counter);
/*
 * The same for INSERTS, EVICTIONS and EXPIRED, which of a worker's threads only the main one counts, at a tenth of the price. Workers for
 * whom no block was left share one, and may lose counts there.
 */
void gorge_shard_tally(const struct gorge_shard *v, uint32_t ns, enum gorge_counter counter);

/* The epoch half of a fence. */
static inline uint32_t gorge_fence_epoch(uint64_t fence) { return (uint32_t)(fence >> 32); }

/* Position in the area of a logical offset. */
static inline uint64_t gorge_shard_position(const struct gorge_shard *v, uint64_t offset) {
  return offset & (((uint64_t)1 << v->lap_shift) - 1);
}

static inline uint32_t *gorge_shard_unit(const struct gorge_shard *v, uint64_t offset) {
  return v->area + gorge_shard_position(v, offset);
}

#endif
