/* SPDX-License-Identifier: MIT */
/* A test of each operation that fault/ops.h lists. */
#ifndef GORGE_TEST_STEPPED_H
#define GORGE_TEST_STEPPED_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "fault/walk.h"

extern struct fault_scene *stepped_scene;
extern struct fault_extent stepped_extent;

enum stepped_list { STEPPED_L1, STEPPED_ALL };

/* Runs `test` for the operations of L1, or for all; `places` of each in a sample. Returns main's status. */
int stepped_run(CMUnitTestFunction test, uint64_t places, enum stepped_list list);

#endif
