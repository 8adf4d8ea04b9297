/* SPDX-License-Identifier: MIT */
/*
 * The last things that happened to a zone's values, in a ring, for somebody who looks on. Nobody waits for anybody: writers take
 * numbers by an addition, readers find out by number and check whether what they copied is what was written under that number.
 *
 *   GORGE_PART_EVENTS   a line whose first word is how many there have been, then cells of two lines:
 *
 *   word 0  number, stored last (release); 0 while it is being written
 *        1  hash of words 2..15, under the number
 *        2  time, milliseconds
 *        3  version
 *        4  kind:8 | source:8 | namespace:8 | 0:8 | length of the name:32
 *        5  the first bytes of the name
 *
 * A writer that is killed leaves a cell without its number, which readers pass over after a while.
 */
#ifndef GORGE_SHM_EVENTS_H
#define GORGE_SHM_EVENTS_H

#include "gorge.h"
#include "shm/zone.h"

/* len 0: without a name. Any thread; never blocks. */
void gorge_events_add(const struct gorge_zone *zone, enum gorge_event_kind kind, enum gorge_event_source source,
                      uint32_t ns, uint64_t version, const char *name, uint32_t len, uint64_t now_ms);
/* The number that the next event will have. */
uint64_t gorge_events_next(const struct gorge_zone *zone);
/* See gorge_visit_events. */
uint32_t gorge_events_read(const struct gorge_zone *zone, struct gorge_events_cursor *cursor, struct gorge_event *out,
                           uint32_t max);

#endif
