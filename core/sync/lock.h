/* SPDX-License-Identifier: MIT */
/*
 * Owner-tagged lock: one 64-bit word `sequence:32 | owner:32` in shared memory. Free when owner is 0; the
 * sequence changes with every acquisition, so that a stuck holder can be told from a busy lock.
 *
 * The holder runs leaf code only. A dead holder is taken over by the next one who wants the lock; what it left must
 * be consistent at every instruction (see l1). A stopped holder makes acquisition fail after the budget.
 */
#ifndef GORGE_SYNC_LOCK_H
#define GORGE_SYNC_LOCK_H

#include "sync/owner.h"

struct gorge_lock {
  uint64_t word;
  uint64_t wanted; /* 1: somebody sleeps until it is free; a hint, see gorge_lock_pass */
};

/*
 * Acquires for `owner` (the calling thread's id): CAS with a bounded spin, then short sleeps, at most
 * `budget_us` in all (0: one look after the spin) and one sleep's overshoot. Checks the holder's life when the
 * spin has failed. Not recursive. Returns GORGE_OK, or GORGE_BUSY when a living holder kept it beyond the
 * budget (*holder_sequence, if not NULL, then tells which acquisition that is). *taken_over, if not NULL:
 * whether a dead holder was replaced.
 */
int gorge_lock_acquire(struct gorge_zone *zone, struct gorge_lock *lock, uint32_t owner, uint32_t budget_us,
                       uint32_t *holder_sequence, bool *taken_over);
/* Frees it if `owner` holds it. Never blocks. */
void gorge_lock_release(struct gorge_lock *lock, uint32_t owner);
/*
 * For who has let it go and wants it again at once: those who sleep for it would never find it free. Waits until one of them
 * has had it, at most some 400 us; not at all when nobody sleeps.
 */
void gorge_lock_pass(struct gorge_lock *lock);

#endif
