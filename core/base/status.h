/* SPDX-License-Identifier: MIT */
/* Statuses and the structs shared with Lua: gorge_ffi.h is their one home. */
#ifndef GORGE_BASE_STATUS_H
#define GORGE_BASE_STATUS_H

#include "include/gorge.h"

/* Returns: a static English phrase for a status; never NULL. */
const char *gorge_status_text(int status);

#endif
