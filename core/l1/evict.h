/* SPDX-License-Identifier: MIT */
/*
 * Which entries stay: two FIFO rings, small (new entries) and main, and a history of what was evicted. A hit raises the
 * 2-bit frequency c in the slot; all else happens on insert, under the shard's lock:
 *
 *  - the oldest of small goes to main if there is room, or if its f + c is above that of main's victim; else it is evicted;
 *  - main's victim is its oldest with c = 0; those passed over go to the head of main again with c - 1 and f + 1, at most
 *    eight in a row; ties keep the victim, which is what resists loops and scans;
 *  - an evicted key's f (4 bits) goes to the history, and is where it starts from when it comes back;
 *  - all f are halved, when next looked at, each time 15 x entries increments have been made;
 *  - small's size follows the hits (adapt.h); the border between the rings follows it (log.h): small gives room when it begins a lap, after it has evicted some more in the lap before;
 *    it takes some when its head is at its end, entry by entry, for which main evicts;
 *  - what is expired, or invalid in another way, is dropped when it is met. Where that happens main is turned on: a victim that
 *    would stay is moved to the head to see what is behind it, four times for each dead entry found in main, once for one in
 *    small. (It also is once in 128 contests: no f grows older than its four bits of age can tell; and while small is to give much room
 *    and can only when main begins a lap.)
 */
#ifndef GORGE_L1_EVICT_H
#define GORGE_L1_EVICT_H

#include "l1/index.h"
#include "l1/log.h"

/* An entry that a slot leads to. */
struct gorge_resident {
  uint64_t at; /* logical offset */
  int ring;
  uint32_t units;
  uint64_t hash;
  uint64_t *slot;
  uint64_t word;
  struct gorge_head head;
};

/*
 * Makes room for a new entry of `units`, to be appended to *ring at *at: small, or main if it is large beside that. Returns
 * false when v->steps ran out first: let the lock go and go on.
 */
bool gorge_evict_make_room(struct gorge_shard *v, uint32_t units, int *ring, uint64_t *at);
/* The f that a key starts with that had not been there. */
uint32_t gorge_evict_first_frequency(const struct gorge_shard *v, uint64_t hash);
/* Fetches what an insert of `hash` will touch. Without the lock, and needs none: hints only. */
void gorge_evict_prefetch(const struct gorge_shard *v, uint64_t hash);
/* At the end of an insert: finds the entry that the next one will look at first, and fetches what it will touch. */
void gorge_evict_look_ahead(const struct gorge_shard *v);

/* Evicts the entry of a slot, wherever it stands in its ring. */
void gorge_evict_slot(struct gorge_shard *v, uint64_t *slot);

/* The present f of an entry. */
uint32_t gorge_evict_frequency(const struct gorge_shard *v, const struct gorge_head *head);
/* Adds to an f; counts towards aging. */
uint32_t gorge_evict_raise(const struct gorge_shard *v, uint32_t f, uint32_t by);

/* Whether something other than time made an entry invalid (epoch of shard or namespace, tags). */
bool gorge_evict_invalid(const struct gorge_shard *v, const struct gorge_head *head, const uint32_t *at);

#endif
