/* SPDX-License-Identifier: MIT */
/*
 * The two ring logs of a shard, in one area. For the holder of the shard's lock.
 *
 *        start                                      end
 *   lap n  |     tail-> [entry][entry][entry][pad]   |
 *   lap n+1| [entry][entry] <-head                   |
 *
 * Space before the tail and beyond the head is free. Appending is: gorge_log_place, gorge_log_begin, write the entry,
 * gorge_log_commit, then make a slot lead to it. Killed in between, the entry is not there, or nothing leads to it.
 * A pad record counts from the moment when the head has passed it.
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

/* Units in use, dead ones included. Without the lock: an estimate. */
uint64_t gorge_log_used(const struct gorge_shard *v, int ring);

/*
 * What must stay free in the main ring so that its oldest entry can be appended again: the largest entry of this lap
 * and the last, not counting those above an eighth of the ring, which get a second chance only if there happens to be room.
 */
uint32_t gorge_log_reserve(const struct gorge_shard *v);

#endif
