/* SPDX-License-Identifier: MIT */
/*
 * A process stopped, or killed, between two instructions of a change, at many places in turn: single-stepped by its
 * parent, which meanwhile is the peer. PLACES places of each change, spread from taking the shard's lock to letting it go.
 */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "l1/shard.h"
#include "test/l1_support.h"

#if defined(__SANITIZE_ADDRESS__)
enum { PLACES = 6 };
#else
enum { PLACES = 16 };
#endif
enum {
  STEPS_MAX = 1 << 20,
  KEYS = 2000, /* more than fits: inserts evict */
  VALUE = 700,
  BUCKETS = 250 /* few, since they are counted now and then, instruction by instruction */
};

struct scene {
  struct l1 l1;
  uint32_t id; /* the child's owner */
};

static const char NAME[] = "the key";

static void fill_up(const struct l1 *l1, uint64_t seed) {
  char value[VALUE], name[24];
  for (uint64_t i = 0; i < KEYS; i++) {
    l1_name(name, i);
    l1_fill(value, VALUE, i, seed + i);
    assert_int_equal(l1_put_bytes(l1, name, strlen(name), value, VALUE, 1 << 30), GORGE_STORED);
  }
}

/* Everything that can be read is whole. */
static uint64_t read_all(const struct l1 *l1) {
  uint64_t hits = 0;
  for (uint64_t i = 0; i < KEYS; i++) {
    char name[24];
    struct gorge_read read;
    l1_name(name, i);
    if (l1_read(l1, name, strlen(name), true, &read) == GORGE_HIT) {
      assert_int_equal(read.len, VALUE);
      assert_true(l1_check(read.buf, read.len, i));
      hits++;
    }
  }
  return hits;
}

/* --- what the child does; the first part before it is stopped --- */

struct action {
  const char *name;
  void (*prepare)(const struct l1 *l1); /* by the parent, each time */
  void (*act)(const struct l1 *l1, const struct gorge_snapshot *s);
};

static void absent(const struct l1 *l1) { l1_delete(l1, NAME, 0); }
static void present(const struct l1 *l1) { assert_int_equal(l1_put(l1, NAME, "old", 1 << 30), GORGE_STORED); }
static void present_and_used(const struct l1 *l1) {
  present(l1);
  fill_up(l1, gorge_clock_us()); /* the small ring goes round: entries move and are passed over */
  read_all(l1);
}
static void forgotten(const struct l1 *l1) {
  struct gorge_shard v;
  present(l1);
  assert_true(gorge_shard_at(l1->zone, 0, &v));
  gorge_shard_forget(l1->zone, &v, 1); /* who enters next starts with an empty log */
}

static void insert(const struct l1 *l1, const struct gorge_snapshot *s) {
  static char value[] = "late";
  struct gorge_key key = l1_key(l1, NAME, strlen(NAME));
  struct gorge_entry entry = {.value = value, .value_len = 4, .expires_ms = UINT64_MAX};
  gorge_l1_insert(l1->zone, &l1->owner, &key, &entry, s, l1->now_ms, NULL);
}
static void insert_large(const struct l1 *l1, const struct gorge_snapshot *s) {
  static char value[2000] = "late";
  struct gorge_key key = l1_key(l1, NAME, strlen(NAME));
  struct gorge_entry entry = {.value = value, .value_len = sizeof value, .expires_ms = UINT64_MAX};
  gorge_l1_insert(l1->zone, &l1->owner, &key, &entry, s, l1->now_ms, NULL);
}
static void invalidate(const struct l1 *l1, const struct gorge_snapshot *s) {
  (void)s;
  l1_delete(l1, NAME, 0);
}

static const struct action actions[] = {
    {"insert", absent, insert},          {"overwrite", present, insert},     {"evict", present_and_used, insert_large},
    {"invalidate", present, invalidate}, {"start clean", forgotten, insert},
};

static pid_t start(struct scene *scene, const struct action *action) {
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    alarm(PROC_LIMIT_S);
    struct l1 l1 = l1_enter(&scene->l1);
    struct gorge_snapshot s = l1_snapshot(&l1, NAME);
    scene->id = l1.owner.id;
    CHILD_CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
    raise(SIGSTOP);
    action->act(&l1, &s);
    _exit(0);
  }
  int status;
  assert_int_equal(waitpid(pid, &status, 0), pid);
  if (!WIFSTOPPED(status)) {
    skip(); /* not allowed to trace here */
  }
  return pid;
}

/* Lets the child make one instruction. Returns false when it has ended. */
static bool step(pid_t pid) {
  int status;
  assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  if (WIFEXITED(status)) {
    assert_int_equal(WEXITSTATUS(status), 0);
    return false;
  }
  assert_true(WIFSTOPPED(status));
  return true;
}

static bool has_lock(const struct scene *scene) {
  struct gorge_shard v;
  if (!gorge_shard_at(scene->l1.zone, 0, &v)) {
    fail();
    return false;
  }
  return (uint32_t)__atomic_load_n(&v.shared->lock.word, __ATOMIC_ACQUIRE) == scene->id;
}

/* Lets the child take the lock, and then make up to `steps` instructions. Returns how many it made before it let go. */
static uint32_t go_to(struct scene *scene, pid_t pid, uint32_t steps) {
  uint32_t made = 0;
  for (int i = 0; i < STEPS_MAX && !has_lock(scene); i++) {
    assert_true(step(pid));
  }
  assert_true(has_lock(scene));
  while (made < steps && has_lock(scene)) {
    assert_true(step(pid));
    made++;
  }
  return made;
}

/* The length of the critical section of an action. */
static uint32_t measure(struct scene *scene, const struct action *action) {
  action->prepare(&scene->l1);
  pid_t pid = start(scene, action);
  uint32_t steps = go_to(scene, pid, STEPS_MAX);
  int status;
  assert_int_equal(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
  assert_int_equal(waitpid(pid, &status, 0), pid);
  assert_true(steps > PLACES);
  return steps;
}

/* Begins the action once more and stops it at one of its places, the first and the last but one instruction among them. */
static pid_t stop_at(struct scene *scene, const struct action *action, uint32_t steps, uint32_t place) {
  action->prepare(&scene->l1);
  pid_t pid = start(scene, action);
  go_to(scene, pid, (uint32_t)((uint64_t)(steps - 1) * place / (PLACES - 1)));
  return pid;
}

static struct scene *open_scene(void) {
  struct scene *scene = proc_shared(sizeof *scene);
  scene->l1 = l1_open(GORGE_ZONE_SIZE_MIN, 1, BUCKETS);
  fill_up(&scene->l1, 1);
  return scene;
}

static uint64_t slots_in_use(const struct l1 *l1) {
  struct gorge_shard v;
  uint64_t n = 0;
  for (uint64_t i = 0; gorge_shard_at(l1->zone, 0, &v) && i < (uint64_t)v.buckets * GORGE_BUCKET_SLOTS; i++) {
    n += v.slots[i] != 0;
  }
  return n;
}

static struct gorge_shard only_shard(const struct l1 *l1) {
  struct gorge_shard v = {0};
  assert_true(gorge_shard_at(l1->zone, 0, &v));
  return v;
}

/* From tail to head of both rings there is one entry or pad record after another. */
static void walk_log(const struct l1 *l1) {
  struct gorge_shard v = only_shard(l1);
  for (int ring = 0; ring < GORGE_RINGS; ring++) {
    uint64_t at = v.shared->tail[ring], head = v.shared->head[ring];
    while (at != head) {
      uint64_t position = gorge_shard_position(&v, at);
      struct gorge_head h = gorge_head_load(v.area + position);
      if (gorge_head_kind(&h) == GORGE_KIND_PAD) {
        at = ((at >> v.lap_shift) + 1) << v.lap_shift | h.unit[1];
      } else {
        uint32_t units = gorge_entry_units(&h, v.area + position, v.area_units - position);
        assert_true(units > 0);
        assert_int_equal(gorge_head_check(&h), gorge_offset_check(at));
        at += units;
      }
      assert_true(at <= head);
    }
  }
}

static void works_again(const struct l1 *l1) {
  walk_log(l1);
  assert_int_equal(l1_entries(l1), slots_in_use(l1));
  read_all(l1);
  assert_int_equal(l1_put(l1, NAME, "new", 1 << 30), GORGE_STORED);
  assert_string_equal(l1_get(l1, NAME), "new");
  char name[24], value[VALUE];
  l1_name(name, 7);
  l1_fill(value, VALUE, 7, 8);
  assert_int_equal(l1_put_bytes(l1, name, strlen(name), value, VALUE, 1 << 30), GORGE_STORED);
}

static void test_killed_anywhere_leaves_all_whole(void **state) {
  (void)state;
  struct scene *scene = open_scene();
  for (size_t a = 0; a < sizeof actions / sizeof *actions; a++) {
    uint32_t steps = measure(scene, &actions[a]);
    for (uint32_t place = 0; place < PLACES; place++) {
      pid_t pid = stop_at(scene, &actions[a], steps, place);
      kill(pid, SIGKILL);
      int status;
      assert_int_equal(waitpid(pid, &status, 0), pid);
      const char *value = l1_get(&scene->l1, NAME);
      assert_true(value == NULL || strcmp(value, "old") == 0 || strcmp(value, "late") == 0);
      uint64_t before = gorge_clock_us();
      l1_delete(&scene->l1, NAME, 0);
      assert_true(gorge_clock_us() - before < 500 * 1000);
      assert_false(l1_has(&scene->l1, NAME));
      works_again(&scene->l1);
    }
  }
  assert_true(l1_count(&scene->l1, GORGE_COUNT_LOCK_TAKEOVERS) > 0);
  assert_int_equal(l1_count(&scene->l1, GORGE_COUNT_LOCK_TIMEOUTS), 0);
}

/* A record as L0 has it. */
static bool record_valid(const struct l1 *l1, const struct gorge_read *r) {
  return r->slot != NULL && (*r->slot & ~GORGE_SLOT_FREQ) == r->word &&
         gorge_zone_words(l1->zone, l1->ns)->global == r->global;
}

static void test_stopped_anywhere_holds_up_nobody(void **state) {
  (void)state;
  struct scene *scene = open_scene();
  const struct l1 *l1 = &scene->l1;
  uint64_t all_us = 0, deletes = 0;
  for (size_t a = 0; a < sizeof actions / sizeof *actions; a++) {
    uint32_t steps = measure(scene, &actions[a]);
    for (uint32_t place = 0; place < PLACES; place++) {
      struct gorge_read record;
      pid_t pid = stop_at(scene, &actions[a], steps, place);
      l1_read(l1, NAME, strlen(NAME), true, &record);
      /* It holds the lock, lives, and does not move. An invalidation holds all the same, the second one at once. */
      uint64_t before = gorge_clock_us();
      l1_delete(l1, NAME, 0);
      all_us += gorge_clock_us() - before;
      deletes++;
      assert_false(l1_has(l1, NAME));
      assert_false(record_valid(l1, &record));
      before = gorge_clock_us();
      l1_delete(l1, NAME, 0);
      l1_delete(l1, "key:3", 1000);
      assert_false(l1_has(l1, "key:3"));
      assert_true(gorge_clock_us() - before < 500 * 1000);
      int status = l1_put(l1, NAME, "new", 1 << 30);
      assert_true(status == GORGE_BUSY || (status == GORGE_STORED && !has_lock(scene)));
      read_all(l1);
      /* Now it goes on: what it stores late is not to be seen. */
      assert_int_equal(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
      int end;
      assert_int_equal(waitpid(pid, &end, 0), pid);
      assert_true(WIFEXITED(end) && WEXITSTATUS(end) == 0);
      const char *value = l1_get(l1, NAME);
      assert_true(value == NULL || strcmp(value, "new") == 0);
      assert_false(record_valid(l1, &record));
      works_again(l1);
    }
  }
  print_message("%u invalidations beside a stopped holder, %u us each\n", (unsigned)deletes,
                (unsigned)(all_us / deletes));
  assert_true(all_us / deletes < 10 * 1000);
  assert_true(l1_count(l1, GORGE_COUNT_LOCK_TIMEOUTS) > 0);
}

/*
 * Stopped before it knows that it was given up, it goes on, and is stopped again: what it is about then was given up, too,
 * and an invalidation that comes now needs no other sign.
 */
static void test_stopped_twice_in_one_critical_section(void **state) {
  (void)state;
  struct scene *scene = open_scene();
  const struct l1 *l1 = &scene->l1;
  uint32_t steps = measure(scene, &actions[0]);
  for (uint32_t place = 0; place < PLACES; place++) {
    pid_t pid = stop_at(scene, &actions[0], steps, 0);
    l1_delete(l1, "key:1", 0);
    for (uint32_t i = 0; i < steps * place / (PLACES - 1) && has_lock(scene); i++) {
      assert_true(step(pid));
    }
    l1_delete(l1, NAME, 0);
    assert_false(l1_has(l1, NAME));
    assert_int_equal(ptrace(PTRACE_DETACH, pid, NULL, NULL), 0);
    int end;
    assert_int_equal(waitpid(pid, &end, 0), pid);
    assert_true(WIFEXITED(end) && WEXITSTATUS(end) == 0);
    assert_false(l1_has(l1, NAME));
    works_again(l1);
  }
}

/* The bits of the epoch in an entry come round, the entry does not. */
static void test_forgotten_again_and_again(void **state) {
  (void)state;
  struct scene *scene = open_scene();
  const struct l1 *l1 = &scene->l1;
  struct gorge_shard v;
  for (int i = 0; i < 600; i++) {
    if (i % 300 == 0) {
      assert_int_equal(l1_put(l1, NAME, "old", 1 << 30), GORGE_STORED);
    }
    assert_true(gorge_shard_at(l1->zone, 0, &v));
    gorge_shard_forget(l1->zone, &v, (uint32_t)(v.shared->lock.word >> 32));
    assert_false(l1_has(l1, NAME));
    assert_int_equal(l1_put(l1, "another", "value", 1 << 30), GORGE_STORED);
    assert_int_equal(l1_entries(l1), 1);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_killed_anywhere_leaves_all_whole),
      cmocka_unit_test(test_stopped_anywhere_holds_up_nobody),
      cmocka_unit_test(test_stopped_twice_in_one_critical_section),
      cmocka_unit_test(test_forgotten_again_and_again),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
