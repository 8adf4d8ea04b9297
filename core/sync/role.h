/* SPDX-License-Identifier: MIT */
/*
 * A role that one thread of the host holds at a time (the subscriber of a namespace). Held by an owner until a
 * renewed deadline; a dead or late holder loses it. `fence` grows with every change of hands.
 */
#ifndef GORGE_SYNC_ROLE_H
#define GORGE_SYNC_ROLE_H

#include "sync/owner.h"

struct gorge_role {
  uint64_t holder;      /* owner id, and the low bits of the fence above it */
  uint64_t deadline_ms; /* the role is free at and after this time */
};

/* Takes or renews the role until now + lease. Returns true when `owner` holds it afterwards. */
bool gorge_role_hold(struct gorge_zone *zone, struct gorge_role *role, uint32_t owner, uint64_t now_ms,
                     uint64_t lease_ms);
void gorge_role_drop(struct gorge_role *role, uint32_t owner);
/* Whether anybody holds it at now_ms (dead holders count until their deadline). */
bool gorge_role_taken(const struct gorge_role *role, uint64_t now_ms);

#endif
