/* SPDX-License-Identifier: MIT */
/* A zone seen from outside: what is no zone, or not one of ours, or damaged, is refused; what is mapped cannot be written. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "l1/l1.h"
#include "shm/attach.h"
#include "shm/find.h"
#include "shm/layout.h"
#include "test/procs.h"

enum { FOUND_MAX = 4096 };

static char path[64];

static char *path_of(const struct gorge_zone *zone) {
  snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)getpid(), zone->fd);
  return path;
}

/* A copy of the zone's bytes in a file of its own, to be damaged. */
static int copy_of(const struct gorge_zone *zone) {
  int fd = memfd_create("copy", 0);
  assert_true(fd >= 0);
  assert_int_equal(write(fd, zone->base, zone->size), zone->size);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  return fd;
}

static void put(int fd, uint64_t at, const void *bytes, size_t len) {
  assert_int_equal(pwrite(fd, bytes, len, (off_t)at), len);
}

static void refused(const char *where, int status, const char *said) {
  struct gorge_zone *zone;
  char err[256] = "";
  assert_int_equal(gorge_zone_attach(where, GORGE_ATTACH_COPY, &zone, err, sizeof err), status);
  assert_null(zone);
  if (strstr(err, said) == NULL) {
    fail_msg("said \"%s\", not \"%s\"", err, said);
  }
}

static int child_keeps(struct proc *self, void *arg) {
  (void)arg;
  (void)proc_hear(self);
  return 0;
}

static void test_what_a_zone_holds_is_seen_and_cannot_be_written(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(gorge_l1_init), *seen;
  uint32_t ns, uses;
  char name[GORGE_NAME_MAX + 1], err[256];
  assert_int_equal(gorge_zone_namespace(zone, "first", 5, &ns), GORGE_OK);
  gorge_zone_namespace_use(zone, ns, GORGE_NAMESPACE_REDIS);
  for (unsigned copy = 0; copy <= GORGE_ATTACH_COPY; copy += GORGE_ATTACH_COPY) {
    assert_int_equal(gorge_zone_attach(path_of(zone), copy, &seen, err, sizeof err), GORGE_OK);
    assert_string_equal(seen->name, zone->name);
    assert_int_equal(seen->size, zone->size);
    assert_true(gorge_zone_namespace_at(seen, ns, name, &uses));
    assert_string_equal(name, "first");
    assert_int_equal(uses, GORGE_NAMESPACE_REDIS);
    assert_false(gorge_zone_namespace_at(seen, ns + 1, name, &uses));
    assert_false(gorge_zone_namespace_at(seen, GORGE_NAMESPACES, name, &uses));
    pid_t pid = fork();
    if (pid == 0) {
      signal(SIGSEGV, SIG_DFL);
      ((volatile char *)seen->base)[zone->size - 1] = 1;
      _exit(0);
    }
    struct proc child = {.pid = pid, .in = -1, .out = -1};
    assert_true(proc_wait(&child) != 0);
    gorge_zone_detach(seen);
  }
}

static void test_what_is_no_zone_is_refused(void **state) {
  (void)state;
  char fifo[] = "/tmp/gorge-test-XXXXXX", node[64];
  refused("/nonexistent/zone", GORGE_ERR_SYSTEM, "it cannot be opened: No such file");
  refused("/tmp", GORGE_ERR_PROTOCOL, "it is not a file");
  refused("/dev/null", GORGE_ERR_PROTOCOL, "it is not a file");
  refused("/proc/self/exe", GORGE_ERR_PROTOCOL, "it is not a zone of gorge");
  assert_non_null(mkdtemp(fifo));
  snprintf(node, sizeof node, "%s/fifo", fifo);
  assert_int_equal(mkfifo(node, 0600), 0);
  refused(node, GORGE_ERR_PROTOCOL, "it is not a file");
  unlink(node);
  rmdir(fifo);
  int fd = memfd_create("short", 0);
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  refused(path, GORGE_ERR_PROTOCOL, "0 bytes are too few");
  close(fd);
}

static void test_another_version_and_a_damaged_header_are_refused(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL), *seen;
  const struct {
    uint64_t at, word;
    int status;
    const char *said;
  } cases[] = {
      {offsetof(struct gorge_zone_header, magic), 0, GORGE_ERR_PROTOCOL, "not a complete one"},
      {offsetof(struct gorge_zone_header, version), 0, GORGE_ERR_MISMATCH, "a layout from before version 4"},
      {offsetof(struct gorge_zone_header, version), GORGE_LAYOUT_VERSION + 1, GORGE_ERR_MISMATCH, "layout version"},
      {offsetof(struct gorge_zone_header, layout), 1, GORGE_ERR_MISMATCH, "another build"},
      {offsetof(struct gorge_zone_header, size), 4096, GORGE_ERR_PROTOCOL, "it says that it has 4096 bytes"},
      {offsetof(struct gorge_zone_header, size), UINT64_MAX, GORGE_ERR_PROTOCOL, "is damaged"},
      {offsetof(struct gorge_zone_header, name_len), 0, GORGE_ERR_PROTOCOL, "its name has 0 bytes"},
      {offsetof(struct gorge_zone_header, name_len), GORGE_NAME_MAX + 1, GORGE_ERR_PROTOCOL, "its name has 65 bytes"},
      {offsetof(struct gorge_zone_header, region_at), 1, GORGE_ERR_PROTOCOL, "its header"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    int fd = copy_of(zone);
    put(fd, cases[i].at, &cases[i].word, sizeof cases[i].word);
    refused(path, cases[i].status, cases[i].said);
    close(fd);
  }
  int fd = copy_of(zone);
  assert_int_equal(ftruncate(fd, (off_t)zone->size - 4096), 0);
  refused(path, GORGE_ERR_PROTOCOL, "it says that it has");
  assert_int_equal(ftruncate(fd, (off_t)zone->size + 4096), 0);
  refused(path, GORGE_ERR_PROTOCOL, "it says that it has");
  close(fd);
  fd = copy_of(zone);
  char err[8];
  assert_int_equal(gorge_zone_attach(path, GORGE_ATTACH_COPY, &seen, err, sizeof err), GORGE_OK);
  gorge_zone_detach(seen);
  close(fd);
}

static void test_processes_are_found_with_their_zones(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  static struct gorge_found found[FOUND_MAX];
  uint32_t count, hidden, mine = 0;
  struct proc child = proc_start(child_keeps, NULL);
  assert_int_equal(gorge_zone_find(found, FOUND_MAX, &count, &hidden), GORGE_OK);
  for (uint32_t i = 0; i < count; i++) {
    if (strcmp(found[i].name, zone->name) == 0 && found[i].pid == (uint32_t)child.pid) {
      mine++;
      assert_int_equal(found[i].parent, getpid());
      assert_int_equal(found[i].user, geteuid());
      struct gorge_zone *seen;
      char err[256];
      assert_int_equal(gorge_zone_attach(found[i].path, 0, &seen, err, sizeof err), GORGE_OK);
      assert_string_equal(seen->name, zone->name);
      gorge_zone_detach(seen);
    }
    assert_int_not_equal(found[i].pid, getpid());
  }
  assert_int_equal(mine, 1);
  assert_int_equal(gorge_zone_find(found, 0, &count, &hidden), GORGE_SPACE);
  assert_int_equal(count, 0);
  proc_say(&child, 1);
  assert_int_equal(proc_wait(&child), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_what_a_zone_holds_is_seen_and_cannot_be_written),
      cmocka_unit_test(test_what_is_no_zone_is_refused),
      cmocka_unit_test(test_another_version_and_a_damaged_header_are_refused),
      cmocka_unit_test(test_processes_are_found_with_their_zones),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
