/* SPDX-License-Identifier: MIT */
/* Roles: one holder at a time, until its deadline or its death. The clock is stepped by the tests. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "shm/layout.h"
#include "sync/role.h"
#include "test/procs.h"

enum { T = 1000000, LEASE = 3000 };

_Static_assert(sizeof(struct gorge_role) <= GORGE_LINE / 2, "a role fits in front of the journal's words");

static int live(struct proc *self, void *arg) {
  struct gorge_owner owner;
  CHILD_CHECK(gorge_owner_claim(arg, GORGE_THREAD_MAIN, &owner) == GORGE_OK);
  proc_say(self, owner.id);
  proc_hear(self);
  return 0;
}

struct fixture {
  struct gorge_zone *zone;
  struct gorge_role *role;
  struct proc other; /* a living process */
  uint32_t me, you;
};

static int setup(void **state) {
  static struct fixture f;
  f.zone = proc_zone(NULL);
  f.role = gorge_zone_subscriber_role(f.zone, 0);
  struct gorge_owner owner;
  assert_int_equal(gorge_owner_claim(f.zone, GORGE_THREAD_MAIN, &owner), GORGE_OK);
  f.me = owner.id;
  f.other = proc_start(live, f.zone);
  f.you = (uint32_t)proc_hear(&f.other);
  *state = &f;
  return 0;
}

static int teardown(void **state) {
  struct fixture *f = *state;
  if (f->other.pid > 0) {
    proc_kill(&f->other);
  }
  return 0;
}

static void test_first_come_holds_until_the_deadline(void **state) {
  struct fixture *f = *state;
  assert_false(gorge_role_taken(f->role, T));
  assert_true(gorge_role_hold(f->zone, f->role, f->you, T, LEASE));
  assert_true(gorge_role_taken(f->role, T));
  assert_false(gorge_role_hold(f->zone, f->role, f->me, T, LEASE));
  assert_false(gorge_role_hold(f->zone, f->role, f->me, T + LEASE - 1, LEASE));
  assert_true(gorge_role_taken(f->role, T + LEASE - 1));
  assert_false(gorge_role_taken(f->role, T + LEASE));
  assert_true(gorge_role_hold(f->zone, f->role, f->me, T + LEASE, LEASE));
  assert_false(gorge_role_hold(f->zone, f->role, f->you, T + LEASE, LEASE));
}

static void test_renewing_keeps_it(void **state) {
  struct fixture *f = *state;
  for (int i = 0; i < 100; i++) {
    assert_true(gorge_role_hold(f->zone, f->role, f->you, T + i * (LEASE - 1), LEASE));
    assert_false(gorge_role_hold(f->zone, f->role, f->me, T + (i + 1) * (LEASE - 1), LEASE));
  }
}

static void test_a_late_holder_that_nobody_replaced_still_has_it(void **state) {
  struct fixture *f = *state;
  assert_true(gorge_role_hold(f->zone, f->role, f->you, T, LEASE));
  uint64_t fence = gorge_role_fence(f->role);
  assert_true(gorge_role_hold(f->zone, f->role, f->you, T + 10 * LEASE, LEASE));
  assert_int_equal(gorge_role_fence(f->role), fence);
  assert_false(gorge_role_hold(f->zone, f->role, f->me, T + 10 * LEASE, LEASE));
}

static void test_a_stopped_holder_loses_it_to_the_clock(void **state) {
  struct fixture *f = *state;
  assert_true(gorge_role_hold(f->zone, f->role, f->you, T, LEASE));
  proc_stop(&f->other);
  assert_false(gorge_role_hold(f->zone, f->role, f->me, T + 1, LEASE));
  assert_true(gorge_role_hold(f->zone, f->role, f->me, T + LEASE, LEASE));
  proc_continue(&f->other);
  assert_false(gorge_role_hold(f->zone, f->role, f->you, T + LEASE + 1, LEASE));
}

static void test_a_dead_holder_loses_it_at_once(void **state) {
  struct fixture *f = *state;
  assert_true(gorge_role_hold(f->zone, f->role, f->you, T, LEASE));
  proc_kill(&f->other);
  assert_true(gorge_role_taken(f->role, T + 1)); /* who only looks goes by the clock */
  assert_true(gorge_role_hold(f->zone, f->role, f->me, T + 1, LEASE));
}

static void test_dropping_frees_it_for_the_next(void **state) {
  struct fixture *f = *state;
  assert_true(gorge_role_hold(f->zone, f->role, f->you, T, LEASE));
  gorge_role_drop(f->role, f->me); /* not the holder */
  assert_true(gorge_role_taken(f->role, T));
  gorge_role_drop(f->role, f->you);
  assert_false(gorge_role_taken(f->role, T));
  assert_true(gorge_role_hold(f->zone, f->role, f->me, T, LEASE));
}

static void test_the_fence_grows_with_every_change_of_hands(void **state) {
  struct fixture *f = *state;
  uint64_t last = gorge_role_fence(f->role);
  for (int i = 0; i < 10; i++) {
    uint64_t now = T + (uint64_t)i * LEASE;
    assert_true(gorge_role_hold(f->zone, f->role, i % 2 ? f->me : f->you, now, LEASE));
    assert_true(gorge_role_hold(f->zone, f->role, i % 2 ? f->me : f->you, now, LEASE));
    assert_int_equal(gorge_role_fence(f->role), last + 1);
    last++;
  }
  /* Also when the same one comes back: somebody may have held it in between. */
  gorge_role_drop(f->role, f->me);
  assert_true(gorge_role_hold(f->zone, f->role, f->me, T + 10 * LEASE, LEASE));
  assert_int_equal(gorge_role_fence(f->role), last + 1);
}

static void test_holds_across_the_seam_of_the_clock(void **state) {
  struct fixture *f = *state;
  const uint64_t seam = (uint64_t)5 << 32;
  assert_true(gorge_role_hold(f->zone, f->role, f->you, seam - 1, LEASE));
  assert_true(gorge_role_taken(f->role, seam - 1));
  assert_false(gorge_role_hold(f->zone, f->role, f->me, seam - 1, LEASE));
  assert_true(gorge_role_taken(f->role, seam + LEASE - 2));
  assert_false(gorge_role_hold(f->zone, f->role, f->me, seam + LEASE - 2, LEASE));
  assert_true(gorge_role_hold(f->zone, f->role, f->me, seam + LEASE - 1, LEASE));
}

static void test_roles_of_namespaces_are_their_own(void **state) {
  struct fixture *f = *state;
  struct gorge_role *other = gorge_zone_subscriber_role(f->zone, GORGE_NAMESPACES - 1);
  assert_true(gorge_role_hold(f->zone, f->role, f->you, T, LEASE));
  assert_false(gorge_role_taken(other, T));
  assert_true(gorge_role_hold(f->zone, other, f->me, T, LEASE));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_first_come_holds_until_the_deadline, setup, teardown),
      cmocka_unit_test_setup_teardown(test_renewing_keeps_it, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_late_holder_that_nobody_replaced_still_has_it, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_stopped_holder_loses_it_to_the_clock, setup, teardown),
      cmocka_unit_test_setup_teardown(test_a_dead_holder_loses_it_at_once, setup, teardown),
      cmocka_unit_test_setup_teardown(test_dropping_frees_it_for_the_next, setup, teardown),
      cmocka_unit_test_setup_teardown(test_the_fence_grows_with_every_change_of_hands, setup, teardown),
      cmocka_unit_test_setup_teardown(test_holds_across_the_seam_of_the_clock, setup, teardown),
      cmocka_unit_test_setup_teardown(test_roles_of_namespaces_are_their_own, setup, teardown),
  };
  return cmocka_run_group_tests_name("role", tests, NULL, NULL);
}
