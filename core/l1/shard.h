/* SPDX-License-Identifier: MIT */
/*
 * One shard as a process sees it, and the way in and out of its lock.
 *
 * What happens when the holder of the lock does not move. `fence` holds an epoch and the sequence of a lock
 * acquisition. An invalidator that cannot get the lock raises the epoch and writes down the acquisition it gave up on, in one CAS:
 *
 *  - Every entry carries the epoch that its writer found in the fence after taking the lock; readers take only entries
 *    of the current epoch. So all that was there is gone, and so is what the stopped holder publishes when it moves again.
 *  - A holder stopped before it has read the fence finds its own acquisition there and gives up.
 *  - One raise per acquisition is enough: the acquisition written down can publish nothing visible any more.
 *  - Who takes the lock next finds an epoch that the log does not have, and starts with an empty log: tails are moved to
 *    the heads, which frees every slot. More than one old epoch is never in a log at a time, so 8 bits of it do.
 */
#ifndef GORGE_L1_SHARD_H
#define GORGE_L1_SHARD_H

#include "l1/entry.h"

enum {
  GORGE_FILL_BUDGET_US = 1000,      /* longest wait for the lock of who can do without */
  GORGE_INVALIDATE_BUDGET_US = 6000 /* and of who must not give up lightly: it costs the shard's entries */
};

/* Addresses of one shard in this process, checked against the region; private to the caller. */
struct gorge_shard {
  const struct gorge_zone *zone;
  const struct gorge_l1_header *l1;
  struct gorge_l1_shard *shared;
  uint64_t *slots;
  uint32_t *area;
  uint64_t area_units;
  uint32_t lap_shift;
  uint32_t buckets;

  /* of a writer */
  uint32_t worker, ns; /* whose counters are raised */
  uint64_t now_ms;
  uint32_t epoch; /* set by gorge_shard_enter */
  uint32_t steps; /* log entries that may still be looked at before the lock is to be let go */
};

/* The shard of a key. Returns false when its geometry does not fit the region: nothing is to be read then. */
bool gorge_shard_of(const struct gorge_zone *zone, uint64_t hash, struct gorge_shard *out);
bool gorge_shard_at(const struct gorge_zone *zone, uint32_t number, struct gorge_shard *out);

/*
 * Takes the lock and leaves the log in order. Returns GORGE_OK or GORGE_BUSY; then *sequence is the acquisition that was in
 * the way.
 */
int gorge_shard_enter(struct gorge_zone *zone, struct gorge_shard *v, const struct gorge_owner *owner,
                      uint32_t budget_us, uint32_t *sequence);
void gorge_shard_leave(struct gorge_shard *v, const struct gorge_owner *owner);

/* Forgets all entries of the shard because the acquisition `sequence` does not move; see above. Any thread. */
void gorge_shard_forget(struct gorge_zone *zone, struct gorge_shard *v, uint32_t sequence);

/* Counts an event of a namespace. */
void gorge_shard_count(const struct gorge_shard *v, uint32_t ns, enum gorge_counter counter);

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
