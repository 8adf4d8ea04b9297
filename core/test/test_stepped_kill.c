/* SPDX-License-Identifier: MIT */
/*
 * SIGKILL at every instruction of everything that writes into shared memory (fault/step.h tells how): whoever comes next finds no
 * wrong byte and nothing that was invalidated, and no lock is lost. A sample; all of them with GORGE_FAULT_ALL=1.
 */
#include "test/stepped.h"

enum { PLACES = 150 };

static void test_op(void **state) { fault_walk_killed(stepped_scene, *state, &stepped_extent); }

int main(void) { return stepped_run(test_op, PLACES, STEPPED_ALL); }
