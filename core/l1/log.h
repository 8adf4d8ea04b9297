/* SPDX-License-Identifier: MIT */
/*
 * The two ring logs of a shard, in one area. For the holder of the shard's lock.
 *
 *        small                        end[small]   start[main]  main                              area's end
 *   lap n  |     tail-> [entry][entry][pad]|              |           tail-> [entry][entry][entry][pad]|
 *   lap n+1| [entry][entry] <-head         |    border    | [entry][entry] <-head                      |
 *
 * Space before the tail and beyond the head is free. Appending is: gorge_log_place, gorge_log_begin, write the entry,
 * gorge_log_commit, then make a slot lead to it. Killed in between, the entry is not there, or nothing leads to it.
 * A pad record counts from the moment when the head has passed it; it leads to where the next lap began, start[ring].
 *
 * The border. Small begins at 0; main begins each lap where small ends then. At every moment, wherever its holder may be killed:
 *
 *   - what small holds, from its tail to its head, lies below end[small];
 *   - what main holds lies at or above gorge_log_main_low: start[main], or the tail while that is in the lap of the head;
 *   - end[small] <= gorge_log_main_low: what lies between holds nothing, and belongs to whom takes it.
 *
 * Each move is one store that keeps this:
 *
 *   small gives   when it goes to its next lap, all it holds lies below its head: end[small] comes down to there or to small_lap
 *   main takes    when it goes to its next lap; before that, by placing an entry right in front of the first one of the lap
 *                 (start[main] comes down after the entry was written; an entry that no slot leads to does no harm)
 *   main gives    the first entry of the lap, after its slot leads elsewhere: start[main] goes up behind it
 *   small takes   what lies between: end[small] goes up
 *
 * Logical offsets are never used twice: within a lap, start[main] comes down only as long as it never went up (front).
 */
#ifndef GORGE_L1_LOG_H
#define GORGE_L1_LOG_H

#include "l1/shard.h"

/* Where `units` would be appended. Returns false when there is no room, or none would be left for an entry of `keep` units after it. */
bool gorge_log_place(const struct gorge_shard *v, int ring, uint32_t units, uint32_t keep, uint64_t *at);
/* The address of the space at `at`, to be written now. */
uint32_t *gorge_log_begin(const struct gorge_shard *v, uint64_t at);
/* Makes the entry part of the log. */
void gorge_log_commit(const struct gorge_shard *v, int ring, uint64_t at, uint32_t units);

/* The oldest entry. Returns its units, or 0 when the ring is empty. */
uint32_t gorge_log_oldest(const struct gorge_shard *v, int ring, uint64_t *at, struct gorge_head *head);
/* Frees everything before `to`. Nothing may lead there any more. */
void gorge_log_release(const struct gorge_shard *v, int ring, uint64_t to);

/* Lets an empty ring go on at its start, so that all its room is in one piece. Returns false when it is there already, or not empty. */
bool gorge_log_restart(const struct gorge_shard *v, int ring);

/* The lowest position that main uses. */
uint64_t gorge_log_main_low(const struct gorge_shard *v);
/* Whether main can use what small gives before it goes to its next lap. If not, small keeps it. */
bool gorge_log_main_can_take(const struct gorge_shard *v);
/* Whether small, in the lap of its tail, could take `units` at its head if it ended where it is wanted to, and cannot now. */
bool gorge_log_fits_if_wanted(const struct gorge_shard *v, uint32_t units);
/* Small takes what lies between the rings, as far as it is wanted to. Returns whether it is larger now. */
bool gorge_log_extend_small(const struct gorge_shard *v);
/* The entry that stands first in the lap of main's head while the tail is in the lap before. Returns its units, or 0. */
uint32_t gorge_log_first(const struct gorge_shard *v, uint64_t *at, struct gorge_head *head);
/* Main gives the room of that entry away. Nothing may lead there any more. */
void gorge_log_give_first(const struct gorge_shard *v, uint32_t units);
/* Where `units`, which fit between the rings, would be placed in front of that entry. Returns false when that cannot be. */
bool gorge_log_place_between(const struct gorge_shard *v, uint32_t units, uint64_t *at);
/* Makes the entry written there part of the log. */
void gorge_log_commit_front(const struct gorge_shard *v, uint64_t at);

/* Position where small ends, never beyond the area. */
static inline uint64_t gorge_log_small_end(const struct gorge_shard *v) {
  /* relaxed, here and below: only the holder of the lock moves them, and others make estimates. */
  uint32_t end = __atomic_load_n(&v->shared->end[GORGE_RING_SMALL], __ATOMIC_RELAXED);
  return end < v->area_units ? end : v->area_units;
}

/* Units that main has, what lies between the rings included. */
static inline uint64_t gorge_log_main_units(const struct gorge_shard *v) {
  return v->area_units - gorge_log_small_end(v);
}

/* Most of the time, what small has is what it is wanted to have, and nothing lies between the rings: that is found out here. */
static inline bool gorge_log_wants_more(const struct gorge_shard *v, uint32_t units) {
  return gorge_log_small_end(v) < v->shared->small_wanted && gorge_log_fits_if_wanted(v, units);
}
static inline bool gorge_log_place_front(const struct gorge_shard *v, uint32_t units, uint64_t *at) {
  /* relaxed: as in gorge_log_small_end. */
  uint64_t start = __atomic_load_n(&v->shared->start[GORGE_RING_MAIN], __ATOMIC_RELAXED);
  return start >= gorge_log_small_end(v) + units && gorge_log_place_between(v, units, at);
}
/* Whether small is much larger than it is wanted to be, and can give room only when main goes to its next lap. */
static inline bool gorge_log_small_waits(const struct gorge_shard *v) {
  enum { MUCH_SHARE = 25 };
  uint64_t end = gorge_log_small_end(v), wanted = v->shared->small_wanted;
  return end > wanted && end - wanted > v->area_units / MUCH_SHARE && !gorge_log_main_can_take(v);
}

/* Units in use, dead ones included. Without the lock: an estimate. */
uint64_t gorge_log_used(const struct gorge_shard *v, int ring);

/*
 * What must stay free in the main ring so that its oldest entry can be appended again: the largest entry of this lap
 * and the last, not counting those above an eighth of the ring, which get a second chance only if there happens to be room.
 */
uint32_t gorge_log_reserve(const struct gorge_shard *v);

#endif
