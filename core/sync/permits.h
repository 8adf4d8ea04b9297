/* SPDX-License-Identifier: MIT */
/*
 * Permits: at most so many things of a namespace at once on a host, whoever dies while it has one. Each worker counts its own in a word of
 * its own; what a dead one counted counts no longer.
 *
 * Beside them stands one word with the sum, so that a permit is taken by one compare-and-swap. A worker that dies leaves the sum too high:
 * who finds no permit left adds up what the living have, and puts the sum right. Killed at whatever moment, a worker costs its permits and
 * nothing else: it announces in its own word that it is about to raise the sum, and lowers the sum before its own word.
 *
 * One thread of an owner calls take and give; any thread of any process the others. No call takes a lock or waits.
 */
#ifndef GORGE_SYNC_PERMITS_H
#define GORGE_SYNC_PERMITS_H

#include "sync/wake.h"

/* Whether the namespace can have permits: a small zone has room for those of the first few. Else nothing below may be asked but the count. */
bool gorge_permits_there(const struct gorge_zone *zone, uint32_t ns);
/* Takes one of `max` (below 2^31). Returns false when all are taken. */
bool gorge_permits_take(struct gorge_zone *zone, uint32_t ns, const struct gorge_owner *owner, uint32_t max);
/* Gives one back. *waiters receives the workers that wait for one; they wait no longer. */
void gorge_permits_give(struct gorge_zone *zone, uint32_t ns, const struct gorge_owner *owner,
                        struct gorge_worker_set *waiters);
/* The worker waits for a permit until somebody gives one back. To be called before it tries once more. */
void gorge_permits_wait(struct gorge_zone *zone, uint32_t ns, uint32_t worker);
/* How many the living have. A snapshot for people. */
uint32_t gorge_permits_count(const struct gorge_zone *zone, uint32_t ns);

#endif
