/* SPDX-License-Identifier: MIT */
/*
 * Invalidations that Redis has not been told of: what this host deleted, set or invalidated while Redis could not be reached, kept in the
 * zone until somebody who reaches it carries them out (drive/control_replay.c). Never a value: replayed late, it would overwrite a newer one.
 *
 * While a key or a tag is in here, Redis may still hold what was invalidated: whoever looks there must ask first (holds).
 * When there is no room, the namespace is to be cleared instead: nothing is ever forgotten, only coarser.
 *
 *   GORGE_REGION_BACKLOG   struct gorge_backlog, then the ring of records
 *
 *   record   63  48 47   40 39   32 31  24 23  16 15          0
 *           |  0   | where | flags | what |  ns  | length of n. |     then the name, padded to 8 bytes
 *
 * Where: the partition that it is to be carried out in, or everywhere. Only what concerns the same partition keeps its order: all of it makes
 * Redis forget, so that in between there is none to keep, and what cannot be reached holds up nothing else.
 *
 * Records are written, marked and taken out under the lock; `head` is stored last when one is added, `tail` when one is gone:
 * killed in between, nothing has happened. A record that does not fit before the end of the ring follows a pad.
 *
 * All functions may be called by any thread that passes its own owner. They wait at most 5 ms for the lock.
 */
#ifndef GORGE_BACKLOG_BACKLOG_H
#define GORGE_BACKLOG_BACKLOG_H

#include "gorge.h"
#include "sync/lock.h"

enum gorge_backlog_what { GORGE_BACKLOG_KEY = 1, GORGE_BACKLOG_TAG = 2 };

enum { GORGE_BACKLOG_EVERYWHERE = 0xff }; /* instead of a partition, which is below 64 */

/* Where something may be carried out now. */
struct gorge_backlog_open {
  uint64_t partitions; /* a bit for each */
  bool everywhere;
};

struct gorge_backlog_record {
  uint64_t at; /* where it stands, for gorge_backlog_done */
  enum gorge_backlog_what what;
  uint32_t where; /* a partition, or GORGE_BACKLOG_EVERYWHERE */
  uint32_t len;
  char name[GORGE_KEY_MAX];
};

/* Adds one, unless the same is waiting already. len: 1..GORGE_KEY_MAX. When it cannot be added, the namespace is to be cleared. */
void gorge_backlog_add(struct gorge_zone *zone, uint32_t owner, uint32_t ns, uint32_t where,
                       enum gorge_backlog_what what, const char *name, uint32_t len);
/* How often something has been added. */
uint64_t gorge_backlog_added(const struct gorge_zone *zone);
/*
 * Redis has been told of it in another way, by a write that came later: `added` is what it was before that write was sent. One that is on its
 * way stays, and so does all when something has been added since, be it the same once more.
 */
void gorge_backlog_cancel(struct gorge_zone *zone, uint32_t owner, uint32_t ns, enum gorge_backlog_what what,
                          const char *name, uint32_t len, uint64_t added);
/* The namespace is to be cleared. */
void gorge_backlog_add_clear(const struct gorge_zone *zone, uint32_t ns);

/* Whether nothing waits: a few loads, no lock. False may mean that something of another namespace waits. */
bool gorge_backlog_empty(const struct gorge_zone *zone, uint32_t ns);
/* Whether Redis may not know yet that this was invalidated. True also when the lock was not to be had. */
bool gorge_backlog_holds(struct gorge_zone *zone, uint32_t owner, uint32_t ns, enum gorge_backlog_what what,
                         const char *name, uint32_t len);
/* How many wait, a clear counts as one; for people: taken without the lock. */
uint32_t gorge_backlog_count(const struct gorge_zone *zone, uint32_t ns);

/* The namespace's oldest one of those that may be carried out. Returns false when there is none, or the lock was not to be had. */
bool gorge_backlog_next(struct gorge_zone *zone, uint32_t owner, uint32_t ns, const struct gorge_backlog_open *open,
                        struct gorge_backlog_record *out);
/* It has been carried out. */
void gorge_backlog_done(struct gorge_zone *zone, uint32_t owner, const struct gorge_backlog_record *record);
/* Not 0: the namespace is to be cleared. What is returned is handed back when that has been done; a clear that became due since stays due. */
uint64_t gorge_backlog_clear_due(const struct gorge_zone *zone, uint32_t ns);
void gorge_backlog_cleared(const struct gorge_zone *zone, uint32_t ns, uint64_t due);

#endif
