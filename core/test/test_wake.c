/* SPDX-License-Identifier: MIT */
/* Wake-ups between workers. */
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "shm/layout.h"
#include "sync/wake.h"
#include "test/procs.h"

static const uint32_t NOBODY = UINT32_MAX;

static struct gorge_worker_set only(uint32_t worker) {
  struct gorge_worker_set set = {{0}};
  set.bits[worker / 64] = (uint64_t)1 << worker % 64;
  return set;
}

static bool readable(int fd, int timeout_ms) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  return poll(&p, 1, timeout_ms) == 1;
}

static uint64_t address(struct gorge_zone *zone, uint32_t worker) {
  return ((struct gorge_worker_slot *)gorge_zone_region(zone, GORGE_REGION_WORKERS, NULL))[worker].wake;
}

static int open_wake(struct gorge_zone *zone, uint32_t worker) {
  int fd = gorge_wake_open(zone, worker);
  assert_true(fd >= 0);
  assert_int_not_equal(address(zone, worker), 0);
  return fd;
}

static void test_wakes_those_of_the_set_and_nobody_else(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  const uint32_t workers[] = {0, 1, 63, 64, 127};
  int fds[5];
  for (int i = 0; i < 5; i++) {
    fds[i] = open_wake(zone, workers[i]);
  }
  for (int i = 0; i < 5; i++) {
    struct gorge_worker_set set = only(workers[i]);
    gorge_wake_send(zone, &set, NOBODY, i % 2 ? -1 : fds[0]);
    for (int k = 0; k < 5; k++) {
      assert_int_equal(readable(fds[k], 0), k == i);
    }
    assert_true(gorge_wake_drain(fds[i]));
    assert_false(readable(fds[i], 0));
    assert_false(gorge_wake_drain(fds[i]));
  }
  for (int i = 0; i < 5; i++) {
    gorge_wake_close(zone, workers[i], fds[i]);
  }
}

static void test_does_not_wake_itself(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  int fd = open_wake(zone, 3);
  struct gorge_worker_set set = {{UINT64_MAX, UINT64_MAX}};
  gorge_wake_send(zone, &set, 3, fd);
  assert_false(readable(fd, 0));
  gorge_wake_close(zone, 3, fd);
}

static void test_the_descriptor_neither_blocks_nor_outlives_exec(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  int fd = open_wake(zone, 0);
  assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
  assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
  assert_false(gorge_wake_drain(fd));
  gorge_wake_close(zone, 0, fd);
}

static void test_more_wake_ups_than_fit_are_one(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  int fd = open_wake(zone, 0);
  struct gorge_worker_set set = only(0);
  /* From a socket that would block: the queue of a datagram socket holds some hundred at most. */
  int sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  assert_true(sender >= 0);
  alarm(10);
  for (int i = 0; i < 10000; i++) {
    gorge_wake_send(zone, &set, NOBODY, sender);
  }
  alarm(0);
  close(sender);
  assert_true(readable(fd, 0));
  while (readable(fd, 0)) {
    assert_true(gorge_wake_drain(fd));
  }
  gorge_wake_send(zone, &set, NOBODY, fd);
  assert_true(readable(fd, 0));
  gorge_wake_close(zone, 0, fd);
}

static void test_a_closed_address_is_gone(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  int fd = open_wake(zone, 0);
  gorge_wake_close(zone, 0, fd);
  assert_int_equal(address(zone, 0), 0);
  struct gorge_worker_set set = only(0);
  gorge_wake_send(zone, &set, NOBODY, -1);
}

static void test_closing_late_keeps_the_successors_address(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  int old = open_wake(zone, 0);
  int new = open_wake(zone, 0);
  gorge_wake_close(zone, 0, old);
  struct gorge_worker_set set = only(0);
  gorge_wake_send(zone, &set, NOBODY, -1);
  assert_true(readable(new, 0));
  gorge_wake_close(zone, 0, new);
}

static void test_garbage_for_an_address_harms_nobody(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_worker_slot *slots = gorge_zone_region(zone, GORGE_REGION_WORKERS, NULL);
  const uint64_t words[] = {1, UINT64_MAX, (uint64_t)7 << 56, (uint64_t)1 << 56,
                            0x0061626364656667U | (uint64_t)3 << 56};
  struct gorge_worker_set set = {{0xff, 0}};
  for (int i = 0; i < 5; i++) {
    slots[i].wake = words[i];
  }
  int fd = open_wake(zone, 7);
  gorge_wake_send(zone, &set, NOBODY, -1);
  assert_true(readable(fd, 0)); /* the one after them is still woken */
  gorge_wake_close(zone, 7, fd);
}

static int wait_for_one(struct proc *self, void *arg) {
  struct gorge_zone *zone = arg;
  struct gorge_owner me;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &me) == GORGE_OK);
  int fd = gorge_wake_open(zone, me.worker);
  CHILD_CHECK(fd >= 0);
  proc_say(self, me.worker);
  for (int i = 0; i < 100; i++) {
    CHILD_CHECK(readable(fd, 10000));
    CHILD_CHECK(gorge_wake_drain(fd));
    proc_say(self, 1);
  }
  proc_hear(self);
  return 0; /* without closing: the address stays behind */
}

static void test_wakes_another_process_again_and_again(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct proc child = proc_start(wait_for_one, zone);
  uint32_t worker = (uint32_t)proc_hear(&child);
  struct gorge_worker_set set = only(worker);
  for (int i = 0; i < 100; i++) {
    gorge_wake_send(zone, &set, NOBODY, -1);
    assert_int_equal(proc_hear(&child), 1);
  }
  proc_say(&child, 0);
  assert_int_equal(proc_wait(&child), 0);
  /* A dead worker's address: nobody is woken, nothing breaks, and the next worker of the slot starts without it. */
  assert_int_not_equal(address(zone, worker), 0);
  gorge_wake_send(zone, &set, NOBODY, -1);
  struct gorge_owner me;
  assert_int_equal(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &me), GORGE_OK);
  assert_int_equal(me.worker, worker);
  assert_int_equal(address(zone, worker), 0);
}

static int descriptors(void) {
  glob_t found;
  int n = glob("/proc/self/fd/*", 0, NULL, &found) == 0 ? (int)found.gl_pathc : -1;
  globfree(&found);
  return n;
}

static void test_leaves_no_descriptor_behind(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  int before = descriptors();
  assert_true(before > 0);
  for (int i = 0; i < 10; i++) {
    int fd = open_wake(zone, 0);
    struct gorge_worker_set set = only(0);
    gorge_wake_send(zone, &set, NOBODY, -1);
    gorge_wake_close(zone, 0, fd);
  }
  assert_int_equal(descriptors(), before);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_wakes_those_of_the_set_and_nobody_else),
      cmocka_unit_test(test_does_not_wake_itself),
      cmocka_unit_test(test_the_descriptor_neither_blocks_nor_outlives_exec),
      cmocka_unit_test(test_more_wake_ups_than_fit_are_one),
      cmocka_unit_test(test_a_closed_address_is_gone),
      cmocka_unit_test(test_closing_late_keeps_the_successors_address),
      cmocka_unit_test(test_garbage_for_an_address_harms_nobody),
      cmocka_unit_test(test_wakes_another_process_again_and_again),
      cmocka_unit_test(test_leaves_no_descriptor_behind),
  };
  return cmocka_run_group_tests_name("wake", tests, NULL, NULL);
}
