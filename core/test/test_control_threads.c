/* SPDX-License-Identifier: MIT */
/* The control thread under real concurrency; for ThreadSanitizer in the first place. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "test/control_support.h"

enum { RUN_MS = 1500, LIMIT_MS = 60000, FLIGHTS = 64 };

static bool over; /* tells the helper threads to end */

static bool running(uint64_t start_ms) {
  return gorge_clock_ms() < start_ms + LIMIT_MS && !__atomic_load_n(&over, __ATOMIC_RELAXED);
}

static struct gorge_flight_ref begin_flight(uint32_t number) {
  struct gorge_key key;
  struct gorge_snapshot snapshot;
  struct gorge_flight_ref ref;
  uint64_t previous;
  gorge_key_init(fixture.zone, 0, (const char *)&number, sizeof number, &key);
  gorge_l1_snapshot(fixture.zone, &key, NULL, 0, &snapshot);
  struct gorge_flight_request rq = {.key = &key,
                                    .snapshot = &snapshot,
                                    .owner_id = fixture.owner.id,
                                    .worker = fixture.owner.worker,
                                    .now_ms = gorge_clock_ms(),
                                    .lease_ms = 30,
                                    .cap_ms = 10000};
  gorge_flight_begin(fixture.zone, &rq, &ref, &previous);
  return ref;
}

static void *ring(void *arg) {
  (void)arg;
  for (uint64_t start_ms = gorge_clock_ms(); running(start_ms);) {
    gorge_control_ring(fixture.control);
    usleep(50);
  }
  return NULL;
}

static void *wake(void *arg) {
  struct gorge_worker_set set = {{0}};
  (void)arg;
  set.bits[fixture.owner.worker / 64] |= (uint64_t)1 << fixture.owner.worker % 64;
  for (uint64_t start_ms = gorge_clock_ms(); running(start_ms);) {
    gorge_wake_send(fixture.zone, &set, GORGE_WORKERS, gorge_control_wake_fd(fixture.control));
    usleep(100);
  }
  return NULL;
}

static void *publish(void *arg) {
  (void)arg;
  for (uint64_t start_ms = gorge_clock_ms(); running(start_ms);) {
    char answer[32];
    support_redis_command(&fixture.redis,
                          "PUBLISH gorge:4:test \"\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x2akey\"", answer,
                          sizeof answer);
  }
  return NULL;
}

static void *visit(void *arg) {
  struct gorge_endpoint *name = arg;
  struct gorge_address a;
  for (uint64_t start_ms = gorge_clock_ms(); running(start_ms);) {
    /* Time flies: every answer is old at once. */
    gorge_endpoint_address(name, gorge_clock_ms() * 10000, &a, NULL);
    gorge_endpoint_failed(name, NULL);
    usleep(200);
  }
  return NULL;
}

static void connect_doorbell(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(gorge_control_doorbell_path(fixture.control, fixture.redis.dir, address.sun_path, 108), GORGE_OK);
  /* May fail: another one of these has connected, so that the place is about to end. */
  if (connect(fd, (struct sockaddr *)&address, sizeof address) == 0) {
    readable(fd, 100);
  }
  close(fd);
}

static void *doorbells(void *arg) {
  (void)arg;
  for (uint64_t start_ms = gorge_clock_ms(); running(start_ms);) {
    connect_doorbell();
  }
  return NULL;
}

static void add_and_remove_leases(int handle) {
  struct gorge_flight_ref flight[FLIGHTS];
  uint64_t id[FLIGHTS];
  for (uint32_t i = 0; i < FLIGHTS; i++) {
    flight[i] = begin_flight(i);
    id[i] = gorge_control_lease_add(fixture.control, i % 2 == 0 ? handle : -1, &flight[i], "key", 3, i % 3, 15 + i);
    assert_int_not_equal(id[i], 0);
  }
  usleep(7000);
  for (uint32_t i = 0; i < FLIGHTS; i++) {
    struct gorge_worker_set waiters;
    if (i % 5 != 0) { /* the others leave with their watch, or when their flight has ended */
      gorge_control_lease_remove(fixture.control, id[i]);
    }
    gorge_flight_finish(fixture.zone, &flight[i], gorge_clock_ms(), GORGE_OK, NULL, 0, &waiters);
  }
}

static void test_everything_at_once(void **state) {
  (void)state;
  static struct seen s;
  pthread_t thread[7];
  void *(*body[7])(void *) = {ring, wake, publish, visit, visit, doorbells, doorbells};
  int rounds = 0;
  struct gorge_endpoint *name = gorge_endpoint_create("localhost", 6379, NULL);
  over = false;
  memset(&s, 0, sizeof s);
  for (int i = 0; i < 7; i++) {
    assert_int_equal(pthread_create(&thread[i], NULL, body[i], name), 0);
  }
  uint64_t start_ms = gorge_clock_ms();
  while (running(start_ms) && (gorge_clock_ms() < start_ms + RUN_MS || rounds < 2 || word(&s.messages) == 0)) {
    rounds++;
    int handle = fixture_watch(&s);
    assert_true(handle >= 0);
    assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
    for (int i = 0; i < 4; i++) {
      add_and_remove_leases(handle);
    }
    gorge_control_unwatch(fixture.control, handle);
    drain(gorge_control_notify_fd(fixture.control));
  }
  __atomic_store_n(&over, true, __ATOMIC_RELAXED);
  for (int i = 0; i < 7; i++) {
    pthread_join(thread[i], NULL);
  }
  gorge_endpoint_destroy(name);
  assert_true(rounds > 1);
  assert_true(word(&s.resyncs) > 0);
  assert_true(word(&s.messages) > 0);
}

static void test_stopping_in_the_middle_of_everything(void **state) {
  (void)state;
  static struct seen s;
  pthread_t publisher;
  over = false;
  assert_int_equal(pthread_create(&publisher, NULL, publish, NULL), 0);
  for (int round = 0; round < 60; round++) {
    int handle = fixture_watch(&s);
    struct gorge_flight_ref flight = begin_flight(1);
    for (uint32_t i = 0; i < 40; i++) {
      gorge_control_lease_add(fixture.control, handle, &flight, "key", 3, i, 15);
    }
    gorge_control_ring(fixture.control);
    usleep((useconds_t)(round % 20) * 500);
    gorge_control_stop(fixture.control);
    fixture_start();
  }
  __atomic_store_n(&over, true, __ATOMIC_RELAXED);
  pthread_join(publisher, NULL);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_everything_at_once, fixture_prepare, fixture_clean),
      cmocka_unit_test_setup_teardown(test_stopping_in_the_middle_of_everything, fixture_prepare, fixture_clean),
  };
  return cmocka_run_group_tests(tests, fixture_begin, fixture_end);
}
