/* SPDX-License-Identifier: MIT */
#include "test/stepped.h"

#include <stdio.h>
#include <unistd.h>

#include "fault/step.h"

enum { OPS_MAX = 100 };
/* The sanitized code is stepped more slowly, and is the same: each run takes another part of the operations. */
#if defined(__SANITIZE_ADDRESS__)
enum { PARTS = 8 };
#else
enum { PARTS = 1 };
#endif

struct fault_scene *stepped_scene;
struct fault_extent stepped_extent;

static int open_scene(void **state) {
  (void)state;
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (!fault_can_step()) {
    print_message("this processor is not known to the stepper\n");
    return 0;
  }
  stepped_scene = fault_scene_open(stepped_extent.seed);
  return 0;
}

static int close_scene(void **state) {
  (void)state;
  if (stepped_scene != NULL) {
    fault_scene_close(stepped_scene);
  }
  return 0;
}

static void cannot_step(void **state) {
  (void)state;
  skip();
}

static size_t add(struct CMUnitTest *tests, size_t n, CMUnitTestFunction test, const struct fault_op *ops,
                  uint32_t count) {
  uint64_t parts = stepped_extent.chosen ? 1 : PARTS;
  for (uint32_t i = 0; i < count && n < OPS_MAX; i++) {
    if (fault_wanted(&ops[i]) && (i + stepped_extent.seed) % parts == 0) {
      tests[n++] = (struct CMUnitTest){.name = ops[i].name,
                                       .test_func = fault_can_step() ? test : cannot_step,
                                       .initial_state = (void *)(uintptr_t)&ops[i]};
    }
  }
  return n;
}

int stepped_run(CMUnitTestFunction test, uint64_t places, enum stepped_list list) {
  struct CMUnitTest tests[OPS_MAX];
  stepped_extent = fault_extent_of_environment(places);
  size_t n = add(tests, 0, test, fault_ops_l1, fault_ops_l1_count);
  if (list == STEPPED_ALL) {
    n = add(tests, n, test, fault_ops_flight, fault_ops_flight_count);
    n = add(tests, n, test, fault_ops_sync, fault_ops_sync_count);
  }
  return n == 0 ? 0 : _cmocka_run_group_tests("stepped", tests, n, open_scene, close_scene);
}
