/* SPDX-License-Identifier: MIT */
/*
 * What stands where in the L1 region of a zone. Private to l1/.
 *
 *   0        struct gorge_l1_header
 *            struct gorge_stamp_cell [stamp_cells]
 *   tags     uint64_t generation [tag_cells]
 *   shards   of shard_bytes each:
 *              struct gorge_l1_shard
 *              index    uint64_t slot [buckets][8]
 *              history  struct gorge_ghost_bucket [ghost_buckets]
 *              area     uint32_t unit [area_units]: both ring logs
 *
 * A slot of the index, one word; 0 is free (a fingerprint is never 0):
 *
 *    63          48 47 46  45 44 43                                   0
 *   | fingerprint  | - | freq |R |  logical offset in units, low bits  |
 *
 *   R     ring: 0 small, 1 main
 *   freq  0..3, raised by readers with CAS; everything else is changed by the holder of the shard's lock. What L0
 *         remembers and compares is the word with these two bits cleared.
 *   A slot whose offset lies before the tail of its ring is free, whatever it holds.
 *
 * Offsets are logical, in units of 4 bytes: lap << lap_shift | position in the area. They only grow; a ring goes to its
 * start by going to the next lap. An entry never crosses the end of its ring: a pad record fills what is left. Small has the
 * beginning of the area and main the rest; how the border between them moves is told in log.h.
 */
#ifndef GORGE_L1_LAYOUT_H
#define GORGE_L1_LAYOUT_H

#include "l1/l1.h"

enum {
  GORGE_L1_LINE = 64,
  GORGE_L1_UNIT = 4,
  GORGE_L1_SHARDS_MAX = 8192, /* of 128 MB: a terabyte */
  GORGE_BUCKET_SLOTS = 8,

  GORGE_RING_SMALL = 0,
  GORGE_RING_MAIN = 1,
  GORGE_RINGS = 2,

  GORGE_SLOT_RING_BIT = 44,
  GORGE_SLOT_FREQ_BIT = 45,
  GORGE_SLOT_TAG_BIT = 48,
  GORGE_FREQ_MAX = 3
};

static const uint64_t GORGE_SLOT_OFFSET = ((uint64_t)1 << GORGE_SLOT_RING_BIT) - 1;
static const uint64_t GORGE_SLOT_RING = (uint64_t)1 << GORGE_SLOT_RING_BIT;
static const uint64_t GORGE_SLOT_FINGERPRINT = (uint64_t)0xffff << GORGE_SLOT_TAG_BIT;
static const uint64_t GORGE_SLOT_FREQ_ONE = (uint64_t)1 << GORGE_SLOT_FREQ_BIT;
static const uint64_t GORGE_SLOT_FREQ = (uint64_t)GORGE_FREQ_MAX << GORGE_SLOT_FREQ_BIT;

struct gorge_stamp_cell {
  uint64_t changes; /* hard:32 | soft:32, each only grows; by fetch_add */
  uint64_t floor;   /* only grows; by CAS */
  uint64_t newest;  /* only grows; by CAS */
};

struct gorge_l1_header {
  /* geometry, the same for all shards: written by gorge_l1_init, constant */
  uint64_t tags_at, shards_at, shard_bytes; /* bytes; offsets from the region's start */
  uint32_t shards;                          /* a power of two */
  uint32_t buckets, ghost_buckets;
  uint32_t area_units;
  uint32_t lap_shift; /* area_units <= 1 << lap_shift */
  uint32_t max_units; /* largest entry */
  uint32_t stamp_cells, tag_cells;
  uint32_t reserved0[2];

  uint64_t seed;       /* of the hashes of tags */
  uint64_t scratch[2]; /* stands in for a cell when the geometry does not fit the region */

  /* What all shards have found out for the size of the small rings, see adapt.h. */
  uint64_t misses;            /* since it was set last */
  uint64_t hits[GORGE_RINGS]; /* and hits in each ring */
  uint32_t small_units;       /* what the small ring of each shard should have */
  uint32_t reserved1[3];
};

/*
 *   line 0  what readers compare a copy with; changes when entries are evicted
 *   line 1  lock and ring heads: writers only
 *   line 2  policy: holder of the lock only
 *   line 3  the same
 */
struct gorge_l1_shard {
  uint64_t tail[GORGE_RINGS]; /* logical offset of the oldest entry */
  uint64_t fence;             /* epoch:32 | the lock's acquisition that it was raised against, or 0:32; see shard.h */
  uint64_t reserved0[5];

  struct gorge_lock lock;
  uint64_t head[GORGE_RINGS];  /* logical offset of the next entry */
  uint32_t start[GORGE_RINGS]; /* position where the lap of the head begins */
  uint32_t end[GORGE_RINGS];   /* position where the ring ends */
  uint32_t small_wanted;       /* where the small ring should end */
  uint32_t small_lap;          /* and where it will end at its next lap: end[small], or below */
  uint32_t front;              /* lowest position of the main ring that was written in the lap of its head */
  uint32_t reserved1;

  uint64_t entries;       /* slots in use; kept up to date by adding, and counted now and then */
  uint32_t clean_epoch;   /* epoch whose entries the log holds */
  uint32_t frequency_age; /* grows each time the frequencies f are to be halved */
  uint64_t frequency_ticks;
  uint64_t counted_lap; /* of the main ring, in which the entries were counted last */
  uint32_t largest[2];  /* main ring, this lap and the last: units of the largest entry to keep room for */
  uint64_t victim_at;   /* an entry of the main ring that was looked at as its oldest, */
  uint64_t victim_slot; /* and the slot that led to it then */
  uint64_t reserved2;

  uint64_t ahead_at, ahead_hash; /* the small ring's oldest entry, if it was looked at already, and its hash */
  uint32_t misses;               /* not yet told to the header */
  uint32_t hits[GORGE_RINGS];    /* the same */
  uint32_t lost;                 /* entries of small that lost against main's victim, since that was moved on */
  uint32_t dead;                 /* how often it may be moved on because dead entries were found in main */
  uint32_t reserved3;
  uint64_t reserved4[3];
};

_Static_assert(sizeof(struct gorge_l1_header) == 2 * GORGE_L1_LINE, "the header fills cache lines");
_Static_assert(offsetof(struct gorge_l1_header, seed) == GORGE_L1_LINE, "the geometry is one cache line");
_Static_assert(offsetof(struct gorge_l1_shard, lock) == 1 * GORGE_L1_LINE, "writers' line");
_Static_assert(offsetof(struct gorge_l1_shard, entries) == 2 * GORGE_L1_LINE, "policy line");
_Static_assert(sizeof(struct gorge_l1_shard) == 4 * GORGE_L1_LINE, "shards fill cache lines");

/* How L1 is to be cut; 0: computed from the size. Other values than 0 are for tests. */
struct gorge_l1_shape {
  uint32_t shards;      /* a power of two */
  uint32_t buckets;     /* of each shard's index */
  uint32_t entry_bytes; /* what an entry takes for which index and history are made */
};

int gorge_l1_init_shape(struct gorge_zone *zone, const struct gorge_l1_shape *shape);

static inline struct gorge_l1_header *gorge_l1_header(const struct gorge_zone *zone) {
  return (struct gorge_l1_header *)(void *)(zone->base + zone->region_at[GORGE_REGION_L1]);
}

#endif
