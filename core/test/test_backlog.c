/* SPDX-License-Identifier: MIT */
/* The queue of invalidations that Redis has not been told of: order, sameness, room, several namespaces, killed and stopped writers. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "backlog/backlog.h"
#include "base/clock.h"
#include "test/procs.h"

static struct gorge_zone *zone;
static struct gorge_owner owner;

static int begin(void **state) {
  (void)state;
  zone = proc_zone(NULL);
  return gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner) == GORGE_OK ? 0 : -1;
}

static int end(void **state) {
  (void)state;
  gorge_owner_release(zone, &owner);
  return 0;
}

static const struct gorge_backlog_open open_all = {UINT64_MAX, true};

static void add_at(uint32_t ns, uint32_t where, enum gorge_backlog_what what, const char *name) {
  gorge_backlog_add(zone, owner.id, ns, where, what, name, (uint32_t)strlen(name));
}

static void add(uint32_t ns, enum gorge_backlog_what what, const char *name) { add_at(ns, 0, what, name); }

static bool holds(uint32_t ns, enum gorge_backlog_what what, const char *name) {
  return gorge_backlog_holds(zone, owner.id, ns, what, name, (uint32_t)strlen(name));
}

/* Takes the next one out; its name, or NULL. Good until the next call. */
static const char *take_of(uint32_t ns, const struct gorge_backlog_open *open) {
  static struct gorge_backlog_record record;
  if (!gorge_backlog_next(zone, owner.id, ns, open, &record)) {
    return NULL;
  }
  gorge_backlog_done(zone, owner.id, &record);
  record.name[record.len] = '\0';
  return record.name;
}

static const char *take(uint32_t ns) { return take_of(ns, &open_all); }

static void they_come_out_in_their_order(void **state) {
  (void)state;
  assert_true(gorge_backlog_empty(zone, 0));
  add(0, GORGE_BACKLOG_KEY, "one");
  add(0, GORGE_BACKLOG_TAG, "two");
  add(0, GORGE_BACKLOG_KEY, "three");
  assert_false(gorge_backlog_empty(zone, 0));
  assert_int_equal(gorge_backlog_count(zone, 0), 3);
  assert_true(holds(0, GORGE_BACKLOG_KEY, "one"));
  assert_true(holds(0, GORGE_BACKLOG_TAG, "two"));
  assert_false(holds(0, GORGE_BACKLOG_KEY, "two")); /* a tag is no key */
  assert_false(holds(0, GORGE_BACKLOG_KEY, "on"));
  assert_string_equal(take(0), "one");
  assert_false(holds(0, GORGE_BACKLOG_KEY, "one"));
  assert_string_equal(take(0), "two");
  assert_string_equal(take(0), "three");
  assert_null(take(0));
  assert_true(gorge_backlog_empty(zone, 0));
}

static void what_waits_already_is_not_added_again(void **state) {
  (void)state;
  for (int i = 0; i < 100000; i++) {
    add(0, GORGE_BACKLOG_KEY, "the same");
  }
  assert_int_equal(gorge_backlog_count(zone, 0), 1);
  assert_int_equal(gorge_backlog_clear_due(zone, 0), 0);
}

/* What is on its way may have been carried out before the new invalidation. */
static void what_is_on_its_way_is_added_again(void **state) {
  (void)state;
  static struct gorge_backlog_record sent;
  add(0, GORGE_BACKLOG_KEY, "k");
  assert_true(gorge_backlog_next(zone, owner.id, 0, &open_all, &sent));
  assert_true(holds(0, GORGE_BACKLOG_KEY, "k"));
  add(0, GORGE_BACKLOG_KEY, "k");
  add(0, GORGE_BACKLOG_KEY, "k");
  assert_int_equal(gorge_backlog_count(zone, 0), 2);
  gorge_backlog_done(zone, owner.id, &sent);
  assert_true(holds(0, GORGE_BACKLOG_KEY, "k"));
  assert_string_equal(take(0), "k");
  assert_true(gorge_backlog_empty(zone, 0));
}

static void a_later_write_makes_up_for_it(void **state) {
  (void)state;
  static struct gorge_backlog_record sent;
  add(0, GORGE_BACKLOG_KEY, "first");
  add(0, GORGE_BACKLOG_KEY, "second");
  gorge_backlog_cancel(zone, owner.id, 0, GORGE_BACKLOG_TAG, "second", 6, gorge_backlog_added(zone));
  assert_true(holds(0, GORGE_BACKLOG_KEY, "second"));
  gorge_backlog_cancel(zone, owner.id, 0, GORGE_BACKLOG_KEY, "second", 6, gorge_backlog_added(zone));
  assert_false(holds(0, GORGE_BACKLOG_KEY, "second"));
  assert_true(gorge_backlog_next(zone, owner.id, 0, &open_all, &sent));
  /* It is on its way. */
  gorge_backlog_cancel(zone, owner.id, 0, GORGE_BACKLOG_KEY, "first", 5, gorge_backlog_added(zone));
  assert_true(holds(0, GORGE_BACKLOG_KEY, "first"));
  gorge_backlog_done(zone, owner.id, &sent);
  assert_true(gorge_backlog_empty(zone, 0));
}

/* Of an answer that comes after both it is not known which one Redis heard of first. */
static void an_earlier_write_does_not_make_up_for_it(void **state) {
  (void)state;
  uint64_t first = gorge_backlog_added(zone);
  add(0, GORGE_BACKLOG_KEY, "k");
  uint64_t second = gorge_backlog_added(zone);
  gorge_backlog_cancel(zone, owner.id, 0, GORGE_BACKLOG_KEY, "k", 1, first);
  assert_true(holds(0, GORGE_BACKLOG_KEY, "k"));
  add(0, GORGE_BACKLOG_KEY, "k");
  assert_int_equal(gorge_backlog_count(zone, 0), 1);
  gorge_backlog_cancel(zone, owner.id, 0, GORGE_BACKLOG_KEY, "k", 1, second);
  assert_true(holds(0, GORGE_BACKLOG_KEY, "k"));
  gorge_backlog_cancel(zone, owner.id, 0, GORGE_BACKLOG_KEY, "k", 1, gorge_backlog_added(zone));
  assert_true(gorge_backlog_empty(zone, 0));
}

static void namespaces_do_not_wait_for_each_other(void **state) {
  (void)state;
  add(1, GORGE_BACKLOG_KEY, "a");
  add(2, GORGE_BACKLOG_KEY, "b");
  add(1, GORGE_BACKLOG_KEY, "c");
  assert_false(holds(2, GORGE_BACKLOG_KEY, "a"));
  assert_string_equal(take(2), "b");
  assert_null(take(2));
  assert_string_equal(take(1), "a");
  assert_string_equal(take(1), "c");
  assert_true(gorge_backlog_empty(zone, 1));
}

static const char *take_at(uint64_t partitions, bool everywhere) {
  struct gorge_backlog_open open = {partitions, everywhere};
  return take_of(0, &open);
}

/* One partition that cannot be reached keeps its own back, in their order, and nothing else. */
static void partitions_do_not_wait_for_each_other(void **state) {
  (void)state;
  add_at(0, 3, GORGE_BACKLOG_KEY, "a");
  add_at(0, GORGE_BACKLOG_EVERYWHERE, GORGE_BACKLOG_TAG, "tag");
  add_at(0, 63, GORGE_BACKLOG_KEY, "b");
  add_at(0, 3, GORGE_BACKLOG_KEY, "c");
  add_at(0, 63, GORGE_BACKLOG_KEY, "d");
  assert_null(take_at(0, false));
  assert_null(take_at(~((uint64_t)1 << 3 | (uint64_t)1 << 63), false));
  assert_string_equal(take_at((uint64_t)1 << 63, false), "b");
  assert_string_equal(take_at(~((uint64_t)1 << 3), false), "d");
  assert_null(take_at(~((uint64_t)1 << 3), false));
  assert_string_equal(take_at(0, true), "tag");
  assert_int_equal(gorge_backlog_count(zone, 0), 2);
  assert_string_equal(take_at(UINT64_MAX, true), "a");
  assert_string_equal(take_at((uint64_t)1 << 3, false), "c");
  assert_true(gorge_backlog_empty(zone, 0));
}

/* What came after it is taken out and leaves no room before that one goes: what then finds none becomes a clear, and nothing is lost. */
static void one_that_stays_for_ever_bounds_the_room(void **state) {
  (void)state;
  char name[32];
  add_at(0, 3, GORGE_BACKLOG_KEY, "stays");
  uint32_t n = 0;
  for (; gorge_backlog_clear_due(zone, 0) == 0 && n < 100000; n++) {
    snprintf(name, sizeof name, "key:%u", n);
    add_at(0, 5, GORGE_BACKLOG_KEY, name);
    const char *taken = take_at((uint64_t)1 << 5, false);
    assert_true(gorge_backlog_clear_due(zone, 0) != 0 || strcmp(taken, name) == 0);
  }
  assert_in_range(n, 100, 99999);
  gorge_backlog_cleared(zone, 0, gorge_backlog_clear_due(zone, 0));
  assert_string_equal(take(0), "stays");
  assert_true(gorge_backlog_empty(zone, 0));
  add_at(0, 5, GORGE_BACKLOG_KEY, "later");
  assert_int_equal(gorge_backlog_clear_due(zone, 0), 0);
  assert_string_equal(take(0), "later");
}

static void without_room_the_namespace_is_to_be_cleared(void **state) {
  (void)state;
  char name[32];
  uint32_t n = 0;
  while (gorge_backlog_clear_due(zone, 3) == 0 && n < 100000) {
    snprintf(name, sizeof name, "key:%u", n++);
    add(3, GORGE_BACKLOG_KEY, name);
  }
  assert_in_range(n, 100, 99999);
  assert_true(holds(3, GORGE_BACKLOG_KEY, "anything"));
  assert_int_equal(gorge_backlog_clear_due(zone, 4), 0);
  uint64_t due = gorge_backlog_clear_due(zone, 3);
  gorge_backlog_add_clear(zone, 3); /* one more, while that is being done */
  gorge_backlog_cleared(zone, 3, due);
  assert_int_not_equal(gorge_backlog_clear_due(zone, 3), 0);
  gorge_backlog_cleared(zone, 3, gorge_backlog_clear_due(zone, 3));
  assert_int_equal(gorge_backlog_clear_due(zone, 3), 0);
  for (uint32_t i = 0; i + 1 < n; i++) {
    snprintf(name, sizeof name, "key:%u", i);
    assert_string_equal(take(3), name);
  }
  assert_true(gorge_backlog_empty(zone, 3));
}

/* Round and round, with names of every length that there is. */
static void names_of_every_length_go_round(void **state) {
  (void)state;
  static char name[GORGE_KEY_MAX + 1];
  static struct gorge_backlog_record record;
  memset(name, 'x', GORGE_KEY_MAX);
  uint64_t seed = 1;
  for (uint32_t len = 1; len <= GORGE_KEY_MAX; len += 1 + proc_random(&seed) % 40) {
    memcpy(name, &len, len < 4 ? len : 4);
    gorge_backlog_add(zone, owner.id, 5, 0, GORGE_BACKLOG_KEY, name, len);
    assert_true(gorge_backlog_holds(zone, owner.id, 5, GORGE_BACKLOG_KEY, name, len));
    assert_true(gorge_backlog_next(zone, owner.id, 5, &open_all, &record));
    assert_int_equal(record.len, len);
    assert_memory_equal(record.name, name, len);
    gorge_backlog_done(zone, owner.id, &record);
    assert_true(gorge_backlog_empty(zone, 5));
  }
  assert_int_equal(gorge_backlog_clear_due(zone, 5), 0);
}

static void names_that_are_none_clear(void **state) {
  (void)state;
  gorge_backlog_add(zone, owner.id, 6, 0, GORGE_BACKLOG_KEY, "", 0);
  assert_int_not_equal(gorge_backlog_clear_due(zone, 6), 0);
}

static void damaged_bytes_end_in_a_clear(void **state) {
  (void)state;
  add(0, GORGE_BACKLOG_KEY, "k");
  uint64_t size;
  char *region = gorge_zone_region(zone, GORGE_REGION_BACKLOG, &size);
  memset(region + 320, 0, 8); /* the first record's head */
  static struct gorge_backlog_record record;
  assert_false(gorge_backlog_next(zone, owner.id, 0, &open_all, &record));
  assert_int_not_equal(gorge_backlog_clear_due(zone, 0), 0);
  gorge_backlog_cleared(zone, 0, gorge_backlog_clear_due(zone, 0));
  assert_true(gorge_backlog_empty(zone, 0));
}

static int add_for_ever(struct proc *self, void *arg) {
  struct gorge_owner mine;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &mine) == GORGE_OK);
  (void)arg;
  for (uint64_t i = 0;; i++) {
    char name[48];
    int len = snprintf(name, sizeof name, "%d:%llu", (int)self->pid, (unsigned long long)i);
    gorge_backlog_add(zone, mine.id, 0, 0, GORGE_BACKLOG_KEY, name, (uint32_t)len);
    if (i == 0) {
      proc_say(self, 1);
    }
  }
}

/* Writers that are killed leave a queue that can be read, and a lock that can be had. */
static void writers_may_be_killed(void **state) {
  (void)state;
  uint64_t seed = 7, taken = 0;
  for (int round = 0; round < 40; round++) {
    struct proc child = proc_start(add_for_ever, NULL);
    proc_hear(&child); /* it is at work */
    uint64_t until = gorge_clock_us() + 500 + proc_random(&seed) % 4000;
    while (gorge_clock_us() < until) {
      taken += take(0) != NULL;
    }
    proc_kill(&child);
    while (take(0) != NULL) {
      taken++;
    }
    if (gorge_backlog_clear_due(zone, 0) != 0) {
      gorge_backlog_cleared(zone, 0, gorge_backlog_clear_due(zone, 0));
    }
    assert_true(gorge_backlog_empty(zone, 0));
  }
  assert_true(taken > 0);
}

enum { PLACES = 4, OF_EACH = 100 };

struct carried {
  uint64_t last[PLACES]; /* the number of the last one, + 1 */
  uint64_t out_of_order, times[PLACES][OF_EACH];
};

/* Carries one out as Redis would, before it is marked, in so many microseconds; the names are "place:number". */
static bool carry_out(struct carried *seen, uint32_t by, uint32_t us) {
  static struct gorge_backlog_record record;
  if (!gorge_backlog_next(zone, by, 0, &open_all, &record)) {
    return false;
  }
  record.name[record.len] = '\0';
  char *end;
  uint64_t place = strtoull(record.name, &end, 10), number = strtoull(end + 1, NULL, 10);
  usleep(us);
  seen->out_of_order += number + 1 != seen->last[place] && number != seen->last[place];
  seen->last[place] = number + 1;
  seen->times[place][number]++;
  usleep(us);
  gorge_backlog_done(zone, by, &record);
  return true;
}

static int carry_out_for_ever(struct proc *self, void *arg) {
  struct gorge_owner mine;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &mine) == GORGE_OK);
  proc_say(self, 1);
  for (;;) {
    carry_out(arg, mine.id, 20);
  }
}

/* Who comes after one that was killed in the middle goes on: at most one is carried out again, none is left out, and each place keeps its order. */
static void who_carries_them_out_may_be_killed(void **state) {
  (void)state;
  uint64_t seed = 11;
  struct carried *seen = proc_shared(sizeof *seen);
  for (uint64_t number = 0; number < OF_EACH; number++) {
    for (uint32_t place = 0; place < PLACES; place++) {
      char name[32];
      snprintf(name, sizeof name, "%u:%llu", place, (unsigned long long)number);
      add_at(0, place == 0 ? GORGE_BACKLOG_EVERYWHERE : place, GORGE_BACKLOG_KEY, name);
    }
  }
  for (int round = 0; round < 20; round++) {
    struct proc child = proc_start(carry_out_for_ever, seen);
    proc_hear(&child);
    uint64_t until = gorge_clock_us() + 500 + proc_random(&seed) % 3000;
    while (gorge_clock_us() < until) {
    }
    proc_kill(&child);
  }
  while (carry_out(seen, owner.id, 0)) {
  }
  assert_true(gorge_backlog_empty(zone, 0));
  assert_int_equal(seen->out_of_order, 0);
  for (int place = 0; place < PLACES; place++) {
    for (int number = 0; number < OF_EACH; number++) {
      assert_true(seen->times[place][number] >= 1);
    }
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(they_come_out_in_their_order),
      TEST(what_waits_already_is_not_added_again),
      TEST(what_is_on_its_way_is_added_again),
      TEST(a_later_write_makes_up_for_it),
      TEST(an_earlier_write_does_not_make_up_for_it),
      TEST(namespaces_do_not_wait_for_each_other),
      TEST(without_room_the_namespace_is_to_be_cleared),
      TEST(names_of_every_length_go_round),
      TEST(names_that_are_none_clear),
      TEST(damaged_bytes_end_in_a_clear),
      TEST(writers_may_be_killed),
      TEST(partitions_do_not_wait_for_each_other),
      TEST(one_that_stays_for_ever_bounds_the_room),
      TEST(who_carries_them_out_may_be_killed),
  };
  return cmocka_run_group_tests_name("backlog", tests, NULL, NULL);
}
