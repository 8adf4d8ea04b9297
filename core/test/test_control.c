/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "test/control_support.h"
#include "test/procs.h"

/* ---- the thread ---- */

static void test_starting_and_stopping_leaves_nothing_behind(void **state) {
  (void)state;
  gorge_control_stop(fixture.control);
  int fds = support_count("/proc/self/fd");
  for (int i = 0; i < 2000; i++) {
    char path[128];
    fixture_start();
    if (i % 8 == 0) {
      assert_int_equal(gorge_control_doorbell_path(fixture.control, fixture.redis.dir, path, sizeof path), GORGE_OK);
    }
    gorge_control_stop(fixture.control);
  }
  fixture.control = NULL;
  assert_int_equal(support_count("/proc/self/fd"), fds);
  assert_true(WAIT_UNTIL(support_count("/proc/self/task") == fixture.tasks));
  assert_int_equal(support_count(fixture.redis.dir), 1); /* Redis's own socket */
}

static void test_a_process_out_of_descriptors_gets_a_status(void **state) {
  (void)state;
  struct rlimit before, tight;
  gorge_control_stop(fixture.control);
  fixture.control = NULL;
  int fds = support_count("/proc/self/fd"), failures = 0;
  getrlimit(RLIMIT_NOFILE, &before);
  /* support_count has one open while it counts, and the numbers in use may have holes: more than enough are tried. */
  for (int limit = 3; limit < fds + 12; limit++) {
    int status = GORGE_OK;
    tight = before;
    tight.rlim_cur = (rlim_t)limit;
    setrlimit(RLIMIT_NOFILE, &tight);
    struct gorge_control *c = gorge_control_start(fixture.zone, &fixture.owner, &status);
    if (c == NULL) {
      assert_int_equal(status, GORGE_ERR_SYSTEM);
      failures++;
    } else { /* perhaps with poll in place of epoll: it works */
      struct pollfd p = {.fd = gorge_control_notify_fd(c), .events = POLLIN};
      gorge_control_ring(c);
      assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
    }
    setrlimit(RLIMIT_NOFILE, &before);
    gorge_control_stop(c);
  }
  assert_in_range(failures, 1, fds + 8);
  assert_int_equal(support_count("/proc/self/fd"), fds);
}

/* The signals that the control thread blocks. Read in this process: one that starts another blocks all of them for a moment. */
static unsigned long long blocked_signals(void) {
  unsigned long long blocked = 0;
  char path[300], line[128];
  DIR *tasks = opendir("/proc/self/task");
  assert_non_null(tasks);
  for (struct dirent *task; (task = readdir(tasks)) != NULL;) {
    snprintf(path, sizeof path, "/proc/self/task/%s/status", task->d_name);
    FILE *status = atoi(task->d_name) == getpid() ? NULL : fopen(path, "r");
    bool ours = false;
    while (status != NULL && fgets(line, sizeof line, status) != NULL) {
      ours = ours || strncmp(line, "Name:\tgorge", 11) == 0;
      if (ours && strncmp(line, "SigBlk:", 7) == 0) {
        blocked = strtoull(line + 7, NULL, 16);
      }
    }
    if (status != NULL) {
      fclose(status);
    }
  }
  closedir(tasks);
  return blocked;
}

static void test_the_thread_takes_no_signals_of_the_host(void **state) {
  (void)state;
  unsigned long long blocked = blocked_signals();
  int taken[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
  int left[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCHLD, SIGALRM, SIGUSR1, SIGUSR2, SIGWINCH, SIGPIPE, SIGIO};
  for (size_t i = 0; i < sizeof taken / sizeof *taken; i++) {
    assert_int_equal(blocked >> (taken[i] - 1) & 1, 0);
  }
  for (size_t i = 0; i < sizeof left / sizeof *left; i++) {
    assert_int_equal(blocked >> (left[i] - 1) & 1, 1);
  }
}

static void test_descriptors_are_closed_on_exec(void **state) {
  (void)state;
  struct seen s = {0};
  char path[128], line[256], command[256];
  assert_int_equal(gorge_control_doorbell_path(fixture.control, fixture.redis.dir, path, sizeof path), GORGE_OK);
  int handle = fixture_watch(&s);
  assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
  /* What a program that is started now has open besides its standard descriptors and the one ls reads the folder with. */
  snprintf(command, sizeof command, "ls -l /proc/self/fd | grep -cE 'eventpoll|eventfd|socket' || true");
  FILE *open_files = popen(command, "r");
  assert_non_null(fgets(line, sizeof line, open_files));
  pclose(open_files);
  int expected = 0;
  for (int fd = 0; fd < 3; fd++) { /* what the tests were started with is not ours */
    struct stat st;
    expected += fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) && fd != 1;
  }
  assert_int_equal(atoi(line), expected);
  gorge_control_unwatch(fixture.control, handle);
}

static void test_a_child_leaves_its_parents_control_alone(void **state) {
  (void)state;
  struct seen s = {0};
  char path[128];
  assert_int_equal(gorge_control_doorbell_path(fixture.control, fixture.redis.dir, path, sizeof path), GORGE_OK);
  int handle = fixture_watch(&s);
  assert_true(WAIT_UNTIL(gorge_control_subscribed(fixture.control, handle)));
  struct gorge_flight_ref flight = {.index = 0, .owner = 1, .token = 7};
  uint64_t id = gorge_control_lease_add(fixture.control, -1, &flight, "k", 1, 0, 10000);
  pid_t child = fork();
  if (child == 0) {
    alarm(PROC_LIMIT_S);
    char other[128];
    int status = 0;
    struct gorge_owner own;
    CHILD_CHECK(gorge_control_notify_fd(fixture.control) == GORGE_ERR_CLOSED);
    CHILD_CHECK(gorge_control_wake_fd(fixture.control) == GORGE_ERR_CLOSED);
    CHILD_CHECK(gorge_control_doorbell_path(fixture.control, fixture.redis.dir, other, sizeof other) ==
                GORGE_ERR_CLOSED);
    CHILD_CHECK(gorge_control_watch(fixture.control, NULL) == GORGE_ERR_CLOSED);
    CHILD_CHECK(gorge_control_lease_add(fixture.control, -1, &flight, "k", 1, 0, 10000) == 0);
    CHILD_CHECK(!gorge_control_subscribed(fixture.control, handle));
    gorge_control_ring(fixture.control);
    gorge_control_lease_remove(fixture.control, id);
    gorge_control_unwatch(fixture.control, handle);
    gorge_control_stop(fixture.control);
    CHILD_CHECK(access(path, F_OK) == 0); /* the parent's */
    CHILD_CHECK(gorge_owner_claim(fixture.zone, GORGE_THREAD_MAIN, &own) == GORGE_OK);
    struct gorge_control *mine = gorge_control_start(fixture.zone, &own, &status);
    CHILD_CHECK(mine != NULL && gorge_control_notify_fd(mine) >= 0);
    gorge_control_stop(mine);
    gorge_owner_release(fixture.zone, &own);
    _exit(0);
  }
  int status = -1;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  assert_true(gorge_control_subscribed(fixture.control, handle));
  assert_int_equal(access(path, F_OK), 0);
}

/* ---- wake-ups and the doorbell ---- */

static int waker(struct proc *self, void *arg) {
  struct gorge_worker_set set = {{0}};
  uint32_t worker = *(uint32_t *)arg;
  set.bits[worker / 64] |= (uint64_t)1 << worker % 64;
  while (proc_hear(self) != 0) {
    gorge_wake_send(fixture.zone, &set, GORGE_WORKERS, -1);
  }
  return 0;
}

static void test_a_wake_up_from_another_process_rings(void **state) {
  (void)state;
  uint64_t best_us = UINT64_MAX;
  struct proc other = proc_start(waker, &fixture.owner.worker);
  int fd = gorge_control_notify_fd(fixture.control);
  for (int i = 0; i < 20; i++) {
    drain(fd);
    uint64_t start_us = support_now_us();
    proc_say(&other, 1);
    assert_true(readable(fd, PATIENCE_MS));
    uint64_t took_us = support_now_us() - start_us;
    best_us = took_us < best_us ? took_us : best_us;
  }
  assert_true(best_us < 5000); /* the best: the machine may be busy */
  proc_say(&other, 0);
  assert_int_equal(proc_wait(&other), 0);
}

static void test_a_bell_of_ones_own_rings_beside_the_others(void **state) {
  (void)state;
  int fd = gorge_control_bell_fd(fixture.control), notify = gorge_control_notify_fd(fixture.control);
  assert_true(fd >= 0);
  assert_int_not_equal(fd, notify);
  assert_int_equal(gorge_control_bell_fd(fixture.control), fd);
  assert_true(readable(fd, 0)); /* for what came while nobody listened */
  for (int i = 0; i < 20; i++) {
    drain(fd);
    drain(notify);
    gorge_control_ring(fixture.control);
    assert_true(readable(fd, PATIENCE_MS));
    assert_true(readable(notify, PATIENCE_MS));
  }
}

static int connect_to(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
  return fd;
}

/* Asks for the doorbell and connects to it; its first byte has arrived, its file and folder are gone. */
static int doorbell(char *path) {
  assert_int_equal(gorge_control_doorbell_path(fixture.control, fixture.redis.dir, path, 128), GORGE_OK);
  int fd = connect_to(path);
  assert_true(readable(fd, PATIENCE_MS));
  drain(fd);
  assert_true(WAIT_UNTIL(access(path, F_OK) != 0));
  assert_true(WAIT_UNTIL(support_count(fixture.redis.dir) == 1));
  return fd;
}

static void test_a_doorbell_rings_whoever_connects(void **state) {
  (void)state;
  char path[128], again[128];
  struct stat st;
  assert_int_equal(gorge_control_doorbell_path(fixture.control, fixture.redis.dir, path, sizeof path), GORGE_OK);
  assert_int_equal(gorge_control_doorbell_path(fixture.control, fixture.redis.dir, again, sizeof again), GORGE_OK);
  assert_string_equal(path, again);
  assert_int_equal(stat(path, &st), 0);
  assert_int_equal(st.st_mode & 07777, 0600);
  strrchr(again, '/')[0] = '\0';
  assert_int_equal(stat(again, &st), 0);
  assert_int_equal(st.st_mode & 07777, 0700);
  int fd = doorbell(path);
  for (int i = 0; i < 20; i++) {
    assert_false(readable(fd, 0));
    gorge_control_ring(fixture.control);
    assert_true(readable(fd, PATIENCE_MS));
    drain(fd);
  }
  close(fd);
}

static void test_a_peer_that_does_not_read_costs_no_memory(void **state) {
  (void)state;
  char path[128];
  char bytes[4096];
  int slow = doorbell(path);
  int fd = gorge_control_notify_fd(fixture.control);
  for (int i = 0; i < 5000; i++) {
    drain(fd);
    gorge_control_ring(fixture.control);
    assert_true(readable(fd, PATIENCE_MS));
  }
  ssize_t n = recv(slow, bytes, sizeof bytes, 0);
  assert_in_range(n, 1, 64);
  gorge_control_ring(fixture.control);
  assert_true(readable(slow, PATIENCE_MS));
  assert_true(recv(slow, bytes, sizeof bytes, 0) > 0); /* and it is still connected */
  close(slow);
}

static void test_a_lost_peer_connects_again(void **state) {
  (void)state;
  char first[128], second[128];
  int fds = support_count("/proc/self/fd");
  for (int i = 0; i < 50; i++) {
    int fd = doorbell(first);
    close(fd);
    gorge_control_ring(fixture.control);
    fd = doorbell(second);
    assert_string_not_equal(first, second);
    gorge_control_ring(fixture.control);
    assert_true(readable(fd, PATIENCE_MS));
    drain(fd); /* so that nothing but its end tells that it is gone */
    close(fd);
  }
  assert_true(WAIT_UNTIL(support_count("/proc/self/fd") == fds));
}

static void test_more_peers_than_places_replace_the_oldest(void **state) {
  (void)state;
  enum { N = 12 };
  char path[128];
  int fd[N];
  for (int i = 0; i < N; i++) {
    fd[i] = doorbell(path);
  }
  gorge_control_ring(fixture.control);
  assert_true(readable(fd[N - 1], PATIENCE_MS));
  char byte;
  assert_int_equal(recv(fd[0], &byte, 1, 0), 0);
  for (int i = 0; i < N; i++) {
    close(fd[i]);
  }
}

static void test_a_folder_that_will_not_do_is_a_status(void **state) {
  (void)state;
  char path[128], dir[256];
  assert_int_equal(gorge_control_doorbell_path(fixture.control, "/proc/nowhere", path, sizeof path), GORGE_ERR_SYSTEM);
  memset(dir, 'd', sizeof dir);
  dir[0] = '/';
  dir[255] = '\0';
  assert_int_equal(gorge_control_doorbell_path(fixture.control, dir, path, sizeof path), GORGE_ERR_SYSTEM);
  assert_int_equal(gorge_control_doorbell_path(fixture.control, fixture.redis.dir, path, 4), GORGE_ERR_ARGUMENT);
  /* TMPDIR counts, and /tmp where that will not do. */
  gorge_control_stop(fixture.control);
  fixture_start();
  setenv("TMPDIR", "/proc/nowhere", 1);
  assert_int_equal(gorge_control_doorbell_path(fixture.control, NULL, path, sizeof path), GORGE_OK);
  assert_memory_equal(path, "/tmp/gorge-", 11);
  close(connect_to(path));
  assert_true(WAIT_UNTIL(access(path, F_OK) != 0));
  setenv("TMPDIR", fixture.redis.dir, 1);
  assert_int_equal(gorge_control_doorbell_path(fixture.control, NULL, path, sizeof path), GORGE_OK);
  assert_memory_equal(path, fixture.redis.dir, strlen(fixture.redis.dir));
  unsetenv("TMPDIR");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_prepare, fixture_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_starting_and_stopping_leaves_nothing_behind), TEST(test_a_process_out_of_descriptors_gets_a_status),
      TEST(test_the_thread_takes_no_signals_of_the_host),     TEST(test_descriptors_are_closed_on_exec),
      TEST(test_a_child_leaves_its_parents_control_alone),    TEST(test_a_wake_up_from_another_process_rings),
      TEST(test_a_bell_of_ones_own_rings_beside_the_others),  TEST(test_a_doorbell_rings_whoever_connects),
      TEST(test_a_peer_that_does_not_read_costs_no_memory),   TEST(test_a_lost_peer_connects_again),
      TEST(test_more_peers_than_places_replace_the_oldest),   TEST(test_a_folder_that_will_not_do_is_a_status),
  };
  return cmocka_run_group_tests(tests, fixture_begin, fixture_end);
}
