/* SPDX-License-Identifier: MIT */
/*
 * Flights: fills in progress on this host, one per key. A shared table; the first to begin owns the fill,
 * others join and wait.
 *
 * A flight ends by finish (done or failed). It is taken over when its owner's thread has died or its lease has
 * run out unrenewed; the new owner gets a new token, and what the old one publishes under the old token is
 * refused. An invalidation of the key makes running flights unjoinable: a begin that finds
 * gorge_l1_snapshot_current false for the flight's snapshot supersedes it.
 *
 * A key is known by namespace and 64-bit hash. Two keys of one hash share a flight: the waiter of the other key
 * finds nothing in L1 when it ends, and begins again; never a wrong value.
 *
 * Waiters poll with gorge_flight_check and are woken to poll sooner; a lost wake-up costs one interval of
 * polling. Every function is safe in any number of threads and processes at once, and a process killed inside
 * any of them leaves a table that all others go on using. None blocks for more than about a millisecond (a lock
 * whose holder is stopped); check, renew, owned, poke, poked, look and count take no lock at all. All times are
 * gorge_clock_ms of the caller.
 */
#ifndef GORGE_FLIGHT_FLIGHT_H
#define GORGE_FLIGHT_FLIGHT_H

#include "l1/l1.h"
#include "sync/wake.h"

enum { GORGE_FLIGHT_KEEP_MS = 1000 }; /* how long an error stays for waiters that have not looked yet */

struct gorge_flight_ref {
  uint32_t index; /* of the record; UINT32_MAX: none */
  uint32_t owner; /* 1 when this reference owns the fill, 0 when it waits */
  uint64_t token; /* never 0, never used twice in a zone */
};

struct gorge_flight_request {
  const struct gorge_key *key;
  const struct gorge_snapshot *snapshot;
  uint32_t owner_id; /* of the calling thread */
  uint32_t worker;
  uint64_t now_ms;
  uint64_t lease_ms; /* the fill must be renewed or finished within it */
  uint64_t cap_ms;   /* renewals never extend it beyond now + cap */
  /* Out, may be NULL: workers that wait for a flight which this begin ended, and its owner's; to be woken, so that they look again. */
  struct gorge_worker_set *displaced;
  /* Out, may be NULL: whether this begin took over from an owner that died or let its lease run out. */
  bool *lapsed;
};

/*
 * Begins or joins. Returns GORGE_LEASE (ref owns the fill; *previous receives the L2 token of a fill that was
 * taken over, or 0), GORGE_BUSY (ref waits; this worker will be woken), or GORGE_ERR_FULL (no room, or the
 * table's lock was not to be had: fill without a flight; ref refers to none).
 */
int gorge_flight_begin(struct gorge_zone *zone, const struct gorge_flight_request *rq, struct gorge_flight_ref *ref,
                       uint64_t *previous);

/*
 * A waiter looks: GORGE_PENDING (still running); GORGE_OK (finished, or the record is gone or has a new owner:
 * look into L1 again, then begin); GORGE_FAILED (err[0..*err_len) holds the loader's error, err has room for
 * GORGE_ERROR_MAX bytes); GORGE_LEASE (owner dead, gave up, or lease run out: begin again; one of those who do
 * becomes the owner). Takes no lock, writes nothing.
 */
int gorge_flight_check(struct gorge_zone *zone, const struct gorge_flight_ref *ref, uint64_t now_ms, char *err,
                       uint32_t *err_len);

/*
 * Owner: extends the lease to now + lease, within the cap; never shortens it. GORGE_OK, or GORGE_REFUSED when
 * the flight is no longer ours or the cap is reached. Any thread of the owner's process may call it.
 */
int gorge_flight_renew(struct gorge_zone *zone, const struct gorge_flight_ref *ref, uint64_t now_ms, uint64_t lease_ms);
/* Owner: whether the flight is still ours. */
bool gorge_flight_owned(struct gorge_zone *zone, const struct gorge_flight_ref *ref);

/*
 * Owner: ends the flight. outcome GORGE_OK (value published or given up) or GORGE_FAILED with the error text
 * (cut at GORGE_ERROR_MAX). *waiters receives the workers to wake, the own one included. Returns GORGE_OK or
 * GORGE_REFUSED (no longer ours; nothing changed). A failed record stays readable for its waiters for
 * GORGE_FLIGHT_KEEP_MS, or until its slot is needed; new begins do not join it. When the lock cannot be had the
 * flight ends without its error text: waiters look again and one of them begins.
 */
int gorge_flight_finish(struct gorge_zone *zone, const struct gorge_flight_ref *ref, uint64_t now_ms, int outcome,
                        const char *err, uint32_t err_len, struct gorge_worker_set *waiters);
/*
 * Owner gives up without a result (request aborted): the next waiter that looks takes over. Async-signal-unsafe, but
 * callable from C cleanup handlers. Does nothing when the flight is no longer ours.
 */
void gorge_flight_abandon(struct gorge_zone *zone, const struct gorge_flight_ref *ref,
                          struct gorge_worker_set *waiters);

/*
 * A message about the key came from another node: sets poked on a flight of that key; *wake receives its
 * owner's worker. Returns whether there is one.
 */
bool gorge_flight_poke(struct gorge_zone *zone, const struct gorge_key *key, struct gorge_worker_set *wake);
/* The same about all keys of a namespace. */
bool gorge_flight_poke_all(struct gorge_zone *zone, uint32_t ns, struct gorge_worker_set *wake);
/* Owner: reads and clears the poke flag. */
bool gorge_flight_poked(struct gorge_zone *zone, const struct gorge_flight_ref *ref);
/* Owner: records the token of the lease held in Redis (0: none), so that who takes over can replace it. */
void gorge_flight_set_l2_token(struct gorge_zone *zone, const struct gorge_flight_ref *ref, uint64_t l2_token);
/* The fill of a key, for people; `worker`: whose fill is one of here, or GORGE_WORKERS. Writes nothing, takes no lock. */
void gorge_flight_look(const struct gorge_zone *zone, const struct gorge_key *key, uint32_t worker, uint64_t now_ms,
                       struct gorge_flight_look *out);
/* Fills running now: owner alive, not given up. A snapshot for people. */
uint32_t gorge_flight_count(const struct gorge_zone *zone);

#endif
