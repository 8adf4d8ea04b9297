/* SPDX-License-Identifier: MIT */
/*
 * Owners: who may hold locks, flights and roles. An owner is a thread slot plus its generation.
 *
 * A process claims one worker slot per zone; the slot has two threads, main and control, each with its own
 * life-lock: a robust mutex in shared memory that the thread takes when it starts and holds until it dies. When
 * it dies the kernel clears its thread id from the mutex; a stopped thread (SIGSTOP) still holds it. Process
 * ids are never asked.
 *
 * To ask whether an owner lives is to read two words: nobody but a claimer ever takes a life-lock, so that
 * those who ask cannot mistake one another for the owner, however many they are and wherever they are stopped
 * or killed.
 */
#ifndef GORGE_SYNC_OWNER_H
#define GORGE_SYNC_OWNER_H

#include "shm/zone.h"

enum gorge_thread_role { GORGE_THREAD_MAIN = 0, GORGE_THREAD_CONTROL = 1 };

struct gorge_owner {
  uint32_t id;     /* never 0: worker, role, generation packed; what lock words and flights hold */
  uint32_t worker; /* < GORGE_WORKERS */
};

/* The worker slot in an owner's id. */
static inline uint32_t gorge_owner_worker(uint32_t id) { return id % GORGE_WORKERS; }

/*
 * Claims a worker slot of the zone for the calling thread (role MAIN), or the CONTROL thread of the worker slot
 * that this process already has. Must be called by the thread that will own it; a thread that has the role
 * already gets the same owner again, and another thread of the process that asks for MAIN gets a worker slot of
 * its own. A fork does not inherit ownership: the child claims its own. Claiming a dead worker's slot counts
 * GORGE_COUNT_WORKER_DEATHS. The zone must never be unmapped afterwards (the kernel follows the thread's list
 * of robust mutexes when it dies). Returns GORGE_OK; GORGE_ERR_FULL (no slot free, or no worker slot of this
 * process for a CONTROL thread); GORGE_ERR_MEMORY; GORGE_ERR_UNSUPPORTED on a C library whose mutexes are not
 * the kernel's. Thread-safe. Does not block beyond a bounded scan.
 */
int gorge_owner_claim(struct gorge_zone *zone, enum gorge_thread_role role, struct gorge_owner *out);
/*
 * Gives the slot back (clean end of a thread) and clears *owner. Only the owning thread can; in any other, also
 * in a fork's child, it only clears *owner. What the owner still holds counts as left by a dead one.
 */
void gorge_owner_release(struct gorge_zone *zone, struct gorge_owner *owner);
/*
 * Whether the owner `id` may still act: false once its thread has died, has given the slot back, or the slot
 * has a newer generation. Any id may be asked, also one read from shared memory. Takes nothing, never blocks.
 */
bool gorge_owner_alive(const struct gorge_zone *zone, uint32_t id);
/* Number of worker slots whose main thread is alive now. */
uint32_t gorge_owner_count(const struct gorge_zone *zone);
/* The same of control threads. */
uint32_t gorge_owner_count_control(const struct gorge_zone *zone);

#endif
