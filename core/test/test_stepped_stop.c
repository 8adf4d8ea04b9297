/* SPDX-License-Identifier: MIT */
/*
 * SIGSTOP at every instruction of everything that writes into shared memory (fault/step.h tells how): the others go on, what
 * they invalidate is gone, and what the stopped one publishes when it goes on is not seen. A sample; all of them with GORGE_FAULT_ALL=1.
 */
#include "test/stepped.h"

enum { PLACES = 10, PLACES_TWICE = 4 };

static void test_op(void **state) { fault_walk_stopped(stepped_scene, *state, &stepped_extent); }
static void test_twice(void **state) { fault_walk_stopped_twice(stepped_scene, *state, &stepped_extent); }

int main(void) {
  int failed = stepped_run(test_op, PLACES, STEPPED_ALL);
  return stepped_run(test_twice, PLACES_TWICE, STEPPED_L1) + failed;
}
