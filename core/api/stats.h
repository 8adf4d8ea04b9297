/* SPDX-License-Identifier: MIT */
/* What shared memory alone tells of a namespace: the same for its workers and for who looks on from outside. */
#ifndef GORGE_API_STATS_H
#define GORGE_API_STATS_H

#include "gorge.h"
#include "shm/zone.h"

enum { GORGE_STATS_NO_REDIS = 9 };

/* Fills in all but what a worker knows of its own connection. */
void gorge_stats_zone(const struct gorge_zone *zone, uint32_t ns, struct gorge_stats *out);

#endif
