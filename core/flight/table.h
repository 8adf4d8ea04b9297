/* SPDX-License-Identifier: MIT */
/*
 * The flight table in GORGE_REGION_FLIGHTS. Private to flight/.
 *
 *   struct gorge_flight_set [n], n as many as fit; a key belongs to the set that the upper half of its hash picks
 *
 * Who writes what:
 *   - A record is written under its set's lock, with three exceptions below. Writing a new flight into it
 *     stores token 0, a release fence, the fields, then the new token (release). Killed anywhere in between,
 *     the record is free or still the old flight.
 *   - `token` may go from the caller's own to 0 by CAS without the lock: that is how a flight ends when the
 *     lock is not to be had.
 *   - `deadline` is renewed by CAS without the lock; it carries bits of the token, so that a late owner cannot
 *     renew a successor.
 *   - `poked` holds the token of the flight that was poked, and so cannot hit a successor.
 *   - The bit in `used` is set before the token, and cleared after it: killed in between, it only costs a look.
 *   - Whoever reads without the lock loads the token (acquire), the fields, an acquire fence, and the token
 *     again; what was read counts only if both are the one expected.
 */
#ifndef GORGE_FLIGHT_TABLE_H
#define GORGE_FLIGHT_TABLE_H

#include "l1/l1.h"

enum {
  GORGE_FLIGHT_WAYS = 16,
  GORGE_FLIGHT_SNAPSHOT_WORDS = sizeof(struct gorge_snapshot) / 8,
  GORGE_FLIGHT_ERROR_WORDS = (GORGE_ERROR_MAX + 7) / 8
};
_Static_assert(GORGE_FLIGHT_WAYS < 64, "a bit for each record");
_Static_assert(sizeof(struct gorge_snapshot) % 8 == 0, "a snapshot is copied word by word");

/* Zero is running: an all-zero record with a token is a flight without an owner. */
enum gorge_flight_state { GORGE_FLIGHT_RUNNING = 0, GORGE_FLIGHT_FAILED = 1 };

struct gorge_flight_record {
  uint64_t token; /* 0: free */
  uint64_t hash;
  uint64_t owner;    /* owner id:32 | namespace:32; id 0: given up, the next begin takes it over */
  uint64_t state;    /* length of the error << 8 | enum gorge_flight_state */
  uint64_t deadline; /* milliseconds:44 | low bits of the token:20; of a failed flight: until when its error is kept */
  uint64_t cap_ms;
  uint64_t l2_token;
  uint64_t poked; /* token of the flight that was poked */
  uint64_t waiters[GORGE_WORKERS / 64];
  uint64_t snapshot[GORGE_FLIGHT_SNAPSHOT_WORDS];
  uint64_t error[GORGE_FLIGHT_ERROR_WORDS];
} __attribute__((aligned(64)));

struct gorge_flight_set {
  struct gorge_lock lock;
  uint64_t
      used; /* a bit for each record that may hold a flight; changed under the lock. A record without its bit is free */
  uint64_t reserved[5];
  struct gorge_flight_record record[GORGE_FLIGHT_WAYS];
};
_Static_assert(offsetof(struct gorge_flight_record, waiters) == 64, "what a waiter polls is one cache line");
_Static_assert(offsetof(struct gorge_flight_set, record) == 64, "the lock has a cache line of its own");

static const uint64_t GORGE_FLIGHT_TOKEN_BITS = 0xfffff;

/* Relaxed: ordered by the token, the fences and the lock, as the head of this file says. */
static inline uint64_t gorge_flight_get(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }
static inline void gorge_flight_put(uint64_t *word, uint64_t value) { __atomic_store_n(word, value, __ATOMIC_RELAXED); }

static inline uint64_t gorge_flight_deadline(uint64_t ms, uint64_t token) {
  return ms << 20 | (token & GORGE_FLIGHT_TOKEN_BITS);
}

static inline uint64_t gorge_flight_deadline_ms(const struct gorge_flight_record *r) {
  return gorge_flight_get(&r->deadline) >> 20;
}

static inline uint32_t gorge_flight_owner_id(const struct gorge_flight_record *r) {
  return (uint32_t)(gorge_flight_get(&r->owner) >> 32);
}

static inline enum gorge_flight_state gorge_flight_state(const struct gorge_flight_record *r) {
  return (enum gorge_flight_state)(gorge_flight_get(&r->state) & 0xff);
}

/* The table and the number of its sets. */
struct gorge_flight_set *gorge_flight_sets(const struct gorge_zone *zone, uint32_t *count);
struct gorge_flight_set *gorge_flight_set_of(const struct gorge_zone *zone, uint64_t hash, uint32_t *index);
/* The record of an index, and its set; NULL when there is no such index. */
struct gorge_flight_record *gorge_flight_record_at(const struct gorge_zone *zone, uint32_t index,
                                                   struct gorge_flight_set **set);

/* Whether the record, running or given up, is a flight of the key. */
bool gorge_flight_matches(const struct gorge_flight_record *r, const struct gorge_key *key);

/* Under the lock: the record to write a new flight into, or NULL. */
struct gorge_flight_record *gorge_flight_pick(const struct gorge_zone *zone, struct gorge_flight_set *set,
                                              uint64_t now_ms);

#endif
