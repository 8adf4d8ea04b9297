/* SPDX-License-Identifier: MIT */
/* Which zones the processes of this machine have open: a look at /proc, as far as this user may. */
#ifndef GORGE_SHM_FIND_H
#define GORGE_SHM_FIND_H

#include "gorge.h"

/* See gorge_find_zones. */
int gorge_zone_find(struct gorge_found *out, uint32_t max, uint32_t *count, uint32_t *hidden);

#endif
