/* SPDX-License-Identifier: MIT */
/*
 * Zones opened after the fork: children of one parent meet in one zone, through a file in /dev/shm. Every test runs in a
 * parent of its own, so that it has files of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "shm/layout.h"
#include "test/procs.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN };

static const char NAME[] = "met";

/* Counts of layouts made, over all processes of the program. */
static uint64_t *layouts;

static int lay_out(struct gorge_zone *zone) {
  (void)zone;
  __atomic_add_fetch(layouts, 1, __ATOMIC_RELAXED);
  return GORGE_OK;
}

static int open_sized(uint64_t size, struct gorge_zone **zone, uint64_t *existing) {
  return gorge_zone_open(NAME, strlen(NAME), size, GORGE_ZONE_SIBLINGS, lay_out, zone, existing);
}

static struct gorge_zone *open_it(void) {
  struct gorge_zone *zone;
  int status = open_sized(SIZE, &zone, NULL);
  if (status != GORGE_OK) {
    fprintf(stderr, "open: %d, %s\n", status, strerror(errno));
  }
  CHILD_CHECK(status == GORGE_OK);
  return zone;
}

static uint64_t *scratch(const struct gorge_zone *zone) { return gorge_zone_region(zone, GORGE_REGION_L1, NULL); }

/* The only file of this parent's children, or "" when there is none. */
static const char *file_of(pid_t parent) {
  static char path[256];
  char pattern[64];
  glob_t found;
  snprintf(pattern, sizeof pattern, "/dev/shm/gorge-%ld-%ld-*", (long)geteuid(), (long)parent);
  path[0] = '\0';
  if (glob(pattern, 0, NULL, &found) == 0) {
    CHILD_CHECK(found.gl_pathc == 1);
    snprintf(path, sizeof path, "%s", found.gl_pathv[0]);
    globfree(&found);
  }
  return path;
}

static void run(int (*parent)(struct proc *, void *), void *arg) {
  struct proc p = proc_start(parent, arg);
  pid_t pid = p.pid;
  int status = proc_wait(&p);
  const char *left = file_of(pid);
  if (left[0] != '\0') {
    unlink(left);
  }
  assert_int_equal(status, 0);
}

/* A child that opens the zone, tells what it read there, adds one, and stays until told. */
static int sibling(struct proc *self, void *arg) {
  (void)arg;
  struct gorge_zone *zone = open_it();
  proc_say(self, __atomic_fetch_add(&scratch(zone)[0], 1, __ATOMIC_RELAXED));
  proc_hear(self);
  return 0;
}

static int leave(struct proc *p) {
  proc_say(p, 0);
  return proc_wait(p);
}

static int two_meet(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  *layouts = 0;
  struct proc a = proc_start(sibling, NULL);
  CHILD_CHECK(proc_hear(&a) == 0);
  struct proc b = proc_start(sibling, NULL);
  CHILD_CHECK(proc_hear(&b) == 1);
  CHILD_CHECK(*layouts == 1);
  struct stat st;
  CHILD_CHECK(stat(file_of(getpid()), &st) == 0);
  CHILD_CHECK((st.st_mode & 07777) == 0600 && st.st_size >= SIZE && st.st_blocks * 512 >= SIZE);
  CHILD_CHECK(leave(&a) == 0);
  CHILD_CHECK(leave(&b) == 0);
  return 0;
}

static void test_children_of_one_parent_meet(void **state) {
  (void)state;
  run(two_meet, NULL);
}

static int stays_warm(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  *layouts = 0;
  for (uint64_t i = 0; i < 5; i++) {
    struct proc a = proc_start(sibling, NULL);
    CHILD_CHECK(proc_hear(&a) == i);
    if (i % 2) {
      proc_kill(&a);
    } else {
      CHILD_CHECK(leave(&a) == 0);
    }
  }
  CHILD_CHECK(*layouts == 1);
  return 0;
}

static void test_stays_warm_when_all_children_are_replaced(void **state) {
  (void)state;
  run(stays_warm, NULL);
}

/* Ends as a server does, destructors and all. */
static int orderly_sibling(struct proc *self, void *arg) {
  int status = sibling(self, arg);
  exit(status);
}

static int orderly_grandchild(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  exit(0);
}

static int sibling_with_child(struct proc *self, void *arg) {
  (void)arg;
  open_it();
  struct proc child = proc_start(orderly_grandchild, NULL);
  proc_say(self, (uint64_t)proc_wait(&child));
  proc_hear(self);
  return 0;
}

static int last_one_out(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  struct proc a = proc_start(orderly_sibling, NULL);
  CHILD_CHECK(proc_hear(&a) == 0);
  struct proc b = proc_start(orderly_sibling, NULL);
  CHILD_CHECK(proc_hear(&b) == 1);
  CHILD_CHECK(leave(&a) == 0);
  CHILD_CHECK(file_of(getpid())[0] != '\0');
  CHILD_CHECK(leave(&b) == 0);
  CHILD_CHECK(file_of(getpid())[0] == '\0');
  /* A child of one that is attached has nothing to remove. */
  struct proc c = proc_start(sibling_with_child, NULL);
  CHILD_CHECK(proc_hear(&c) == 0);
  CHILD_CHECK(file_of(getpid())[0] != '\0');
  struct proc d = proc_start(orderly_sibling, NULL);
  CHILD_CHECK(proc_hear(&d) == 0);
  CHILD_CHECK(leave(&c) == 0);
  CHILD_CHECK(leave(&d) == 0);
  CHILD_CHECK(file_of(getpid())[0] == '\0');
  return 0;
}

static void test_the_last_one_out_removes_the_file(void **state) {
  (void)state;
  run(last_one_out, NULL);
}

static int stranger(struct proc *self, void *arg) {
  (void)arg;
  struct proc child = proc_start(sibling, NULL);
  proc_say(self, proc_hear(&child));
  proc_hear(self);
  return leave(&child);
}

static int do_not_meet(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  struct proc mine = proc_start(sibling, NULL), other = proc_start(stranger, NULL);
  CHILD_CHECK(proc_hear(&mine) == 0);
  CHILD_CHECK(proc_hear(&other) == 0);
  pid_t pid = other.pid;
  CHILD_CHECK(leave(&mine) == 0);
  CHILD_CHECK(leave(&other) == 0);
  CHILD_CHECK(unlink(file_of(pid)) == 0);
  return 0;
}

static void test_children_of_another_parent_do_not(void **state) {
  (void)state;
  run(do_not_meet, NULL);
}

static int other_size(struct proc *self, void *arg) {
  (void)arg;
  struct gorge_zone *zone;
  uint64_t existing = 0;
  proc_say(self, (uint64_t)(int64_t)open_sized(SIZE + 8192, &zone, &existing));
  proc_say(self, existing);
  proc_hear(self);
  return 0;
}

static int sizes_differ(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  struct proc a = proc_start(sibling, NULL);
  CHILD_CHECK(proc_hear(&a) == 0);
  struct proc b = proc_start(other_size, NULL);
  CHILD_CHECK((int64_t)proc_hear(&b) == GORGE_ERR_MISMATCH);
  CHILD_CHECK(proc_hear(&b) == SIZE);
  CHILD_CHECK(leave(&b) == 0);
  CHILD_CHECK(leave(&a) == 0);
  /* With nobody attached the other size is as good as any. */
  b = proc_start(other_size, NULL);
  CHILD_CHECK((int64_t)proc_hear(&b) == GORGE_OK);
  proc_hear(&b);
  CHILD_CHECK(leave(&b) == 0);
  return 0;
}

static void test_another_size_is_refused_while_somebody_is_attached(void **state) {
  (void)state;
  run(sizes_differ, NULL);
}

static int die_in_layout(struct gorge_zone *zone) {
  scratch(zone)[0] = 99;
  raise(SIGKILL);
  return GORGE_OK;
}

static int dying_maker(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  struct gorge_zone *zone;
  gorge_zone_open(NAME, strlen(NAME), SIZE, GORGE_ZONE_SIBLINGS, die_in_layout, &zone, NULL);
  return 1;
}

static int maker_dies(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  struct proc a = proc_start(dying_maker, NULL);
  CHILD_CHECK(proc_wait(&a) == 1000 + SIGKILL);
  *layouts = 0;
  struct proc b = proc_start(sibling, NULL);
  CHILD_CHECK(proc_hear(&b) == 0); /* zeros again, not what the dead one had begun */
  CHILD_CHECK(*layouts == 1);
  return leave(&b);
}

static void test_a_maker_killed_half_way_is_replaced(void **state) {
  (void)state;
  run(maker_dies, NULL);
}

static int wait_in_layout(struct gorge_zone *zone) {
  (void)zone;
  CHILD_CHECK(proc_await(&layouts[1], 1));
  return lay_out(zone);
}

static int slow_maker(struct proc *self, void *arg) {
  (void)arg;
  struct gorge_zone *zone;
  proc_say(self, 0);
  CHILD_CHECK(gorge_zone_open(NAME, strlen(NAME), SIZE, GORGE_ZONE_SIBLINGS, wait_in_layout, &zone, NULL) == GORGE_OK);
  proc_hear(self);
  return 0;
}

static int others_wait(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  layouts[0] = layouts[1] = 0;
  struct proc maker = proc_start(slow_maker, NULL), others[3];
  proc_hear(&maker);
  uint64_t start = gorge_clock_us();
  while (file_of(getpid())[0] == '\0' && gorge_clock_us() - start < 20 * 1000 * 1000) {
  }
  for (int i = 0; i < 3; i++) {
    others[i] = proc_start(sibling, NULL);
  }
  __atomic_store_n(&layouts[1], 1, __ATOMIC_RELEASE);
  uint64_t seen = 0;
  for (int i = 0; i < 3; i++) {
    seen |= 1U << proc_hear(&others[i]);
  }
  CHILD_CHECK(seen == 7);
  CHILD_CHECK(layouts[0] == 1);
  CHILD_CHECK(leave(&maker) == 0);
  for (int i = 0; i < 3; i++) {
    CHILD_CHECK(leave(&others[i]) == 0);
  }
  return 0;
}

static void test_nobody_sees_a_zone_before_it_is_complete(void **state) {
  (void)state;
  run(others_wait, NULL);
}

static int all_at_once(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  enum { MANY = 8 };
  *layouts = 0;
  struct proc all[MANY];
  for (int i = 0; i < MANY; i++) {
    all[i] = proc_start(sibling, NULL);
  }
  uint64_t seen = 0;
  for (int i = 0; i < MANY; i++) {
    seen |= 1U << proc_hear(&all[i]);
  }
  CHILD_CHECK(seen == (1U << MANY) - 1);
  CHILD_CHECK(*layouts == 1);
  for (int i = 0; i < MANY; i++) {
    CHILD_CHECK(leave(&all[i]) == 0);
  }
  return 0;
}

static void test_many_that_come_at_once_make_one_zone(void **state) {
  (void)state;
  for (int i = 0; i < 10; i++) {
    run(all_at_once, NULL);
  }
}

/* Tries to open what the parent has put in the place of the file; tells status and errno. */
static int try_it(struct proc *self, void *arg) {
  (void)arg;
  struct gorge_zone *zone;
  int status = open_sized(SIZE, &zone, NULL);
  int cause = errno;
  proc_say(self, (uint64_t)(int64_t)status);
  proc_say(self, (uint64_t)cause);
  proc_hear(self);
  return 0;
}

static void expect(int status, int cause) {
  struct proc child = proc_start(try_it, NULL);
  CHILD_CHECK((int64_t)proc_hear(&child) == status);
  int got = (int)proc_hear(&child);
  CHILD_CHECK(cause == 0 || got == cause);
  CHILD_CHECK(leave(&child) == 0);
}

static int traps(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  struct proc first = proc_start(sibling, NULL);
  proc_hear(&first);
  char path[256], aside[280];
  snprintf(path, sizeof path, "%s", file_of(getpid()));
  snprintf(aside, sizeof aside, "%s.aside", path);
  CHILD_CHECK(leave(&first) == 0);
  /* A link is not followed, wherever it leads. */
  CHILD_CHECK(rename(path, aside) == 0 && symlink(aside, path) == 0);
  expect(GORGE_ERR_SYSTEM, ELOOP);
  CHILD_CHECK(unlink(path) == 0 && rename(aside, path) == 0);
  /* A file that others may write to is not trusted. */
  CHILD_CHECK(chmod(path, 0666) == 0);
  expect(GORGE_ERR_SYSTEM, EPERM);
  CHILD_CHECK(chmod(path, 0600) == 0);
  /* What is left of a zone is made anew, not read beyond its end. */
  CHILD_CHECK(truncate(path, 4096) == 0);
  expect(GORGE_OK, 0);
  CHILD_CHECK(truncate(path, 0) == 0);
  expect(GORGE_OK, 0);
  /* The same while somebody keeps it locked: nothing can be made, but nothing is read beyond its end either. */
  CHILD_CHECK(truncate(path, 4096) == 0);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  CHILD_CHECK(fd >= 0 && flock(fd, LOCK_SH) == 0);
  expect(GORGE_ERR_SYSTEM, EINVAL);
  close(fd);
  expect(GORGE_OK, 0);
  return 0;
}

static void test_what_is_not_our_file_is_an_error(void **state) {
  (void)state;
  run(traps, NULL);
}

/* arg: counts those who have made their file; none ends before both have, for who makes one sweeps those of the dead. */
static int leave_file(struct proc *self, void *arg) {
  uint64_t *made = arg;
  (void)self;
  struct proc child = proc_start(sibling, NULL);
  proc_hear(&child);
  if (made != NULL) {
    __atomic_add_fetch(made, 1, __ATOMIC_ACQ_REL);
    CHILD_CHECK(proc_await(made, 2));
  }
  return leave(&child);
}

/* A parent that lives, its only child gone: the next one will find the zone as it was. */
static int leave_file_and_stay(struct proc *self, void *arg) {
  (void)arg;
  CHILD_CHECK(leave_file(self, NULL) == 0);
  proc_say(self, 0);
  proc_hear(self);
  return 0;
}

/* Its parent dies, it lives on. */
static int orphan(struct proc *self, void *arg) {
  uint64_t *told = arg;
  (void)self;
  open_it();
  __atomic_store_n(&told[0], 1, __ATOMIC_RELEASE);
  proc_await(&told[1], 1);
  return 0;
}

static int leave_orphan(struct proc *self, void *arg) {
  (void)self;
  proc_start(orphan, arg);
  CHILD_CHECK(proc_await(arg, 1));
  return 0;
}

static void test_files_of_dead_parents_are_swept_and_no_others(void **state) {
  (void)state;
  uint64_t *made = proc_shared(sizeof *made);
  struct proc dead = proc_start(leave_file, made), zombie = proc_start(leave_file, made);
  pid_t dead_pid = dead.pid, zombie_pid = zombie.pid;
  assert_int_equal(proc_wait(&dead), 0);
  siginfo_t info; /* ended, but not taken note of by this process yet */
  assert_int_equal(waitid(P_PID, (id_t)zombie_pid, &info, WEXITED | WNOWAIT), 0);
  assert_string_not_equal(file_of(zombie_pid), "");
  assert_string_not_equal(file_of(dead_pid), "");
  struct proc idle = proc_start(leave_file_and_stay, NULL);
  pid_t idle_pid = idle.pid;
  proc_hear(&idle);
  uint64_t *told = proc_shared(2 * sizeof *told);
  struct proc parent = proc_start(leave_orphan, told);
  pid_t parent_pid = parent.pid;
  assert_int_equal(proc_wait(&parent), 0);
  assert_string_not_equal(file_of(parent_pid), "");
  run(two_meet, NULL);
  assert_string_equal(file_of(dead_pid), "");
  assert_string_equal(file_of(zombie_pid), "");
  assert_int_equal(proc_wait(&zombie), 0);
  assert_string_not_equal(file_of(parent_pid), "");
  assert_string_not_equal(file_of(idle_pid), "");
  proc_say(&idle, 0);
  assert_int_equal(proc_wait(&idle), 0);
  __atomic_store_n(&told[1], 1, __ATOMIC_RELEASE);
  uint64_t start = gorge_clock_us();
  while (file_of(parent_pid)[0] != '\0' && gorge_clock_us() - start < 20 * 1000 * 1000) {
    run(two_meet, NULL);
  }
  assert_string_equal(file_of(parent_pid), "");
  assert_string_equal(file_of(idle_pid), "");
}

static int no_layout(struct gorge_zone *zone) {
  (void)zone;
  return GORGE_ERR_ARGUMENT;
}

static int failing_child(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  struct gorge_zone *zone;
  CHILD_CHECK(gorge_zone_open(NAME, strlen(NAME), SIZE, GORGE_ZONE_SIBLINGS, no_layout, &zone, NULL) ==
              GORGE_ERR_ARGUMENT);
  return 0;
}

static int layout_fails(struct proc *self, void *arg) {
  (void)self;
  (void)arg;
  struct proc a = proc_start(failing_child, NULL);
  CHILD_CHECK(proc_wait(&a) == 0);
  CHILD_CHECK(file_of(getpid())[0] == '\0');
  struct proc b = proc_start(sibling, NULL);
  CHILD_CHECK(proc_hear(&b) == 0);
  return leave(&b);
}

static void test_a_layout_that_fails_leaves_no_file(void **state) {
  (void)state;
  run(layout_fails, NULL);
}

int main(void) {
  layouts = proc_shared(2 * sizeof *layouts);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_children_of_one_parent_meet),
      cmocka_unit_test(test_stays_warm_when_all_children_are_replaced),
      cmocka_unit_test(test_the_last_one_out_removes_the_file),
      cmocka_unit_test(test_children_of_another_parent_do_not),
      cmocka_unit_test(test_another_size_is_refused_while_somebody_is_attached),
      cmocka_unit_test(test_a_maker_killed_half_way_is_replaced),
      cmocka_unit_test(test_nobody_sees_a_zone_before_it_is_complete),
      cmocka_unit_test(test_many_that_come_at_once_make_one_zone),
      cmocka_unit_test(test_what_is_not_our_file_is_an_error),
      cmocka_unit_test(test_files_of_dead_parents_are_swept_and_no_others),
      cmocka_unit_test(test_a_layout_that_fails_leaves_no_file),
  };
  return cmocka_run_group_tests_name("siblings", tests, NULL, NULL);
}
