/* SPDX-License-Identifier: MIT */
/*
 * An entry in a ring log; every part is padded with zeros to units of 4 bytes.
 *
 *   unit 0   31  30  29     26 25  22 21  18 17 13 12                0
 *           | X | V | f's age |  f   | kind | ns  |  key length - 1   |
 *   unit 1  | epoch of the namespace:8 |       value length:24        |
 *   unit 2  |                 expiry, low 32 bits                     |
 *   unit 3  |   check of the offset:16   | shard epoch:8 | expiry:8   |
 *           key
 *           value
 *           if V  version, low and high unit
 *           if X  units of what begins here:16 | tags:8 | L | 0:7
 *                 if L  life: end, end as stale, time of refresh, end in all layers: low units; their bits 32 to 39; load time:24 | failures:8
 *                 then for each tag: generation, low and high unit; cell
 *                 then for each tag: its length in one byte, its name
 *
 * With a life, what stands in the head as expiry is the time from which on a reader has to look at the life: when the entry is due for a
 * refresh, if that is before its end. Other entries pay nothing for it.
 *
 * Nothing of an entry changes after it was published. A pad record has kind 15 and nothing else.
 *
 * The bits of the offset in a slot wrap after 64 TB of writes to a shard; the check folds the whole offset, so that
 * a slot older than that cannot pass for a newer one.
 */
#ifndef GORGE_L1_ENTRY_H
#define GORGE_L1_ENTRY_H

#include "l1/layout.h"
#include "l1/relaxed.h"

enum {
  GORGE_HEAD_UNITS = 4,
  GORGE_PAD_UNITS = GORGE_HEAD_UNITS, /* only two are used; any record can be loaded as a head */
  GORGE_KIND_PAD = 15,
  GORGE_HEAD_VALUE_MAX = (1 << 24) - 1, /* bytes */
  GORGE_TAG_RECORD_UNITS = 3,
  GORGE_LIFE_UNITS = 6,
  GORGE_F_MAX = 15,

  GORGE_HEAD_NS_BIT = 13,
  GORGE_HEAD_KIND_BIT = 18,
  GORGE_HEAD_F_BIT = 22,
  GORGE_HEAD_AGE_BIT = 26,
  GORGE_HEAD_VERSION_BIT = 30,
  GORGE_HEAD_EXTRA_BIT = 31,

  GORGE_EXTRA_LIFE_BIT = 24
};

_Static_assert(GORGE_KEY_MAX <= 1 << GORGE_HEAD_NS_BIT, "a key's length fits");
_Static_assert(GORGE_NAMESPACES <= 1 << (GORGE_HEAD_KIND_BIT - GORGE_HEAD_NS_BIT), "a namespace's number fits");

static const uint64_t GORGE_HEAD_EXPIRES_MAX = ((uint64_t)1 << 40) - 1;

struct gorge_head {
  uint32_t unit[GORGE_HEAD_UNITS];
};

static inline struct gorge_head gorge_head_load(const uint32_t *at) {
  return (struct gorge_head){{gorge_relaxed_load32(&at[0]), gorge_relaxed_load32(&at[1]), gorge_relaxed_load32(&at[2]),
                              gorge_relaxed_load32(&at[3])}};
}

static inline void gorge_head_store(uint32_t *at, const struct gorge_head *h) {
  gorge_relaxed_store32(&at[0], h->unit[0]);
  gorge_relaxed_store32(&at[1], h->unit[1]);
  gorge_relaxed_store32(&at[2], h->unit[2]);
  gorge_relaxed_store32(&at[3], h->unit[3]);
}

static inline uint32_t gorge_head_key_len(const struct gorge_head *h) { return (h->unit[0] & 0x1fff) + 1; }
static inline uint32_t gorge_head_ns(const struct gorge_head *h) { return h->unit[0] >> GORGE_HEAD_NS_BIT & 31; }
/* Whether the entry's key has this length, and is of this namespace. */
static inline bool gorge_head_of_key(const struct gorge_head *h, uint32_t key_len, uint32_t ns) {
  return (h->unit[0] & ((1U << GORGE_HEAD_KIND_BIT) - 1)) == ((key_len - 1) | ns << GORGE_HEAD_NS_BIT);
}
static inline uint32_t gorge_head_kind(const struct gorge_head *h) { return h->unit[0] >> GORGE_HEAD_KIND_BIT & 15; }
static inline uint32_t gorge_head_f(const struct gorge_head *h) { return h->unit[0] >> GORGE_HEAD_F_BIT & 15; }
static inline uint32_t gorge_head_age(const struct gorge_head *h) { return h->unit[0] >> GORGE_HEAD_AGE_BIT & 15; }
static inline bool gorge_head_versioned(const struct gorge_head *h) {
  return (h->unit[0] >> GORGE_HEAD_VERSION_BIT & 1) != 0;
}
static inline bool gorge_head_extra(const struct gorge_head *h) { return h->unit[0] >> GORGE_HEAD_EXTRA_BIT != 0; }
static inline uint32_t gorge_head_value_len(const struct gorge_head *h) { return h->unit[1] & 0xffffff; }
static inline uint8_t gorge_head_ns_epoch(const struct gorge_head *h) { return (uint8_t)(h->unit[1] >> 24); }
static inline uint64_t gorge_head_expires(const struct gorge_head *h) {
  return h->unit[2] | (uint64_t)(h->unit[3] & 0xff) << 32;
}
static inline uint8_t gorge_head_epoch(const struct gorge_head *h) { return (uint8_t)(h->unit[3] >> 8); }
static inline uint16_t gorge_head_check(const struct gorge_head *h) { return (uint16_t)(h->unit[3] >> 16); }

/* Where the value begins, and where what follows it begins, in units from the start of the entry. */
static inline uint32_t gorge_head_value_at(const struct gorge_head *h) {
  return GORGE_HEAD_UNITS + gorge_units(gorge_head_key_len(h));
}
static inline uint32_t gorge_head_extra_at(const struct gorge_head *h) {
  return gorge_head_value_at(h) + gorge_units(gorge_head_value_len(h)) + (gorge_head_versioned(h) ? 2 : 0);
}

static inline void gorge_head_set_f(struct gorge_head *h, uint32_t f, uint32_t age) {
  h->unit[0] &= ~((uint32_t)0xff << GORGE_HEAD_F_BIT);
  h->unit[0] |= (f & 15) << GORGE_HEAD_F_BIT | (age & 15) << GORGE_HEAD_AGE_BIT;
}
static inline uint16_t gorge_offset_check(uint64_t offset) {
  return (uint16_t)(offset ^ offset >> 16 ^ offset >> 32 ^ offset >> 48);
}
static inline void gorge_head_set_check(struct gorge_head *h, uint64_t offset) {
  h->unit[3] = (h->unit[3] & 0xffff) | (uint32_t)gorge_offset_check(offset) << 16;
}

/* The unit that begins what follows value and version. */
static inline uint32_t gorge_extra_units(uint32_t unit) { return unit & 0xffff; }
static inline uint32_t gorge_extra_tags(uint32_t unit) { return unit >> 16 & 0xff; }
static inline bool gorge_extra_life(uint32_t unit) { return (unit >> GORGE_EXTRA_LIFE_BIT & 1) != 0; }
/* Where the records of the tags begin, in units from that unit on. */
static inline uint32_t gorge_extra_records_at(uint32_t unit) {
  return 1 + (gorge_extra_life(unit) ? GORGE_LIFE_UNITS : 0);
}

/* Units of an entry with tags or a life, of which what comes before them takes `units`. */
uint32_t gorge_entry_units_extra(uint32_t units, const uint32_t *at, uint64_t limit);

/*
 * Units of the whole entry at `at`, of which `limit` may be read; 0: not an entry that fits there.
 */
static inline uint32_t gorge_entry_units(const struct gorge_head *h, const uint32_t *at, uint64_t limit) {
  uint32_t units = gorge_head_extra_at(h);
  if (gorge_head_kind(h) == GORGE_KIND_PAD || units > limit) {
    return 0;
  }
  return gorge_head_extra(h) ? gorge_entry_units_extra(units, at, limit) : units;
}

/* Version of the entry; 0: none. The entry was range-checked. */
static inline uint64_t gorge_entry_version(const struct gorge_head *h, const uint32_t *at) {
  if (!gorge_head_versioned(h)) {
    return 0;
  }
  at += gorge_head_extra_at(h);
  return gorge_relaxed_load32(&at[-2]) | (uint64_t)gorge_relaxed_load32(&at[-1]) << 32;
}

/*
 * The life of an entry, of which `limit` units may be read. One that has none ends when its head says so. Returns false when it does not
 * fit there.
 */
bool gorge_entry_life(const struct gorge_head *h, const uint32_t *at, uint64_t limit, struct gorge_life *out);
/* Of an entry that was range-checked: the end of its life, and of the time in which it may be served as stale. */
uint64_t gorge_entry_ends(const struct gorge_head *h, const uint32_t *at);
uint64_t gorge_entry_keeps(const struct gorge_head *h, const uint32_t *at);

/* What an entry will take. Returns its units, and in *extra_units those of tags and life; 0: the lengths are out of range. */
uint32_t gorge_entry_plan(const struct gorge_key *key, const struct gorge_entry *entry, uint32_t *extra_units);

/* The header of an entry to be written, but for f and the check of its offset. */
struct gorge_head gorge_entry_head(const struct gorge_key *key, const struct gorge_entry *entry, uint8_t shard_epoch,
                                   uint8_t ns_epoch);
/* Writes header, key, value and tail to `at`. */
void gorge_entry_write(uint32_t *at, const struct gorge_head *h, const struct gorge_key *key,
                       const struct gorge_entry *entry, const struct gorge_snapshot *s, uint32_t extra_units);

#endif
