/* SPDX-License-Identifier: MIT */
/* What shared memory alone tells of a key: the same for its workers and for who looks on from outside. */
#ifndef GORGE_API_EXPLAIN_H
#define GORGE_API_EXPLAIN_H

#include "gorge.h"
#include "shm/zone.h"

/* `worker`: that of the caller, or GORGE_WORKERS. Fills in all but what a worker knows by itself. */
void gorge_explain_zone(const struct gorge_zone *zone, uint32_t ns, const char *key, uint32_t key_len, uint32_t worker,
                        uint64_t now_ms, struct gorge_host_look *out);

#endif
