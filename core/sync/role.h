/* SPDX-License-Identifier: MIT */
/*
 * A role that one thread of the host holds at a time (the subscriber of a namespace). Held by an owner until a
 * renewed deadline; a dead or late holder loses it. `fence` grows with every change of hands.
 *
 * Holder and deadline are one word, so that a takeover decided on an old deadline fails when it was renewed
 * meanwhile: no two owners are told at the same time that they hold it. A holder that was stopped learns at its
 * next gorge_role_hold that it lost the role; what it does before that must carry the fence it took the role
 * with.
 */
#ifndef GORGE_SYNC_ROLE_H
#define GORGE_SYNC_ROLE_H

#include "sync/owner.h"

struct gorge_role {
  uint64_t holder; /* owner id:32 | deadline:32, milliseconds mod 2^32; id 0: free */
  uint64_t fence;
};

/*
 * Takes or renews the role until now + lease (1..2^31 - 1 ms, the same clock for all). Returns true when
 * `owner` holds it afterwards. Never blocks.
 */
bool gorge_role_hold(struct gorge_zone *zone, struct gorge_role *role, uint32_t owner, uint64_t now_ms,
                     uint64_t lease_ms);
/* Gives it up, if `owner` holds it. */
void gorge_role_drop(struct gorge_role *role, uint32_t owner);
/* Whether anybody holds it at now_ms (dead holders count until their deadline). */
bool gorge_role_taken(const struct gorge_role *role, uint64_t now_ms);
/* The fence now: read right after gorge_role_hold returned true, and compared before acting on it. */
uint64_t gorge_role_fence(const struct gorge_role *role);

#endif
