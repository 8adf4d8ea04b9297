/* SPDX-License-Identifier: MIT */
/* Which fills L1 takes, and what an invalidation does, rule by rule. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "l1/evict.h"
#include "l1/shard.h"
#include "test/l1_support.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN, TTL = 1000 };

/* One zone for all tests: each works on a key of its own. */
static struct l1 l1;

/* A key whose stamp cell nobody has used yet. */
static const char *fresh_key(void) {
  static char name[24];
  static uint64_t number;
  struct gorge_snapshot cell;
  do {
    l1_name(name, ++number);
    cell = l1_snapshot(&l1, name);
  } while (cell.floor != 0 || cell.hard != 0 || cell.soft != 0);
  return name;
}

static bool holds(const char *key, const char *value) {
  const char *is = l1_get(&l1, key);
  return is == NULL ? value == NULL : value != NULL && strcmp(is, value) == 0;
}

/* A valid record of L0: slot and global word. */
static bool record_valid(const struct gorge_read *r) {
  return r->slot != NULL && (*r->slot & ~GORGE_SLOT_FREQ) == r->word &&
         gorge_zone_words(l1.zone, l1.ns)->global == r->global;
}

/*
 * A fill with a snapshot from the beginning meets what happened since. Steps, one letter each:
 *   0-9  insert of that version (0: not from Redis) with a snapshot of its own moment
 *   d    invalidation without a version;  a-c: with version 4, 5, 6
 *   E    new epoch;  x: time passes beyond every expiry;  v: eviction of what is there
 */
struct fill_case {
  const char *before, *between; /* the snapshot */
  uint64_t version;             /* of the fill */
  int status;
  const char *then; /* what is there afterwards: "fill", a version that was inserted, or NULL */
};

static void evict(const char *name) {
  struct gorge_key key = l1_key(&l1, name, strlen(name));
  struct gorge_read read;
  struct gorge_shard v;
  uint32_t sequence;
  assert_int_equal(l1_read(&l1, name, strlen(name), false, &read), GORGE_HIT);
  assert_true(gorge_shard_of(l1.zone, key.hash, &v));
  gorge_shard_write(&v, &l1.owner, l1.ns, l1.now_ms);
  assert_int_equal(gorge_shard_enter(l1.zone, &v, &l1.owner, 1000, &sequence), GORGE_OK);
  gorge_evict_slot(&v, v.slots + (read.slot - v.slots));
  gorge_shard_leave(&v, &l1.owner);
  assert_false(l1_has(&l1, name));
}

static void play(const char *key, const char *steps) {
  for (; *steps != '\0'; steps++) {
    char value[2] = {*steps, '\0'};
    switch (*steps) {
      case 'd': l1_delete(&l1, key, 0); break;
      case 'a':
      case 'b':
      case 'c': l1_delete(&l1, key, (uint64_t)(unsigned char)*steps - 'a' + 4); break;
      case 'E': gorge_l1_bump_epoch(l1.zone, l1.ns); break;
      case 'x': l1.now_ms += 10 * TTL; break;
      case 'v': evict(key); break;
      default: assert_int_equal(l1_put_version(&l1, key, value, (uint64_t)(*steps - '0')), GORGE_STORED);
    }
  }
}

static void test_fills_table(void **state) {
  (void)state;
  static const struct fill_case cases[] = {
      /* nothing happened */
      {"", "", 0, GORGE_STORED, "fill"},
      {"", "", 5, GORGE_STORED, "fill"},
      {"3", "", 5, GORGE_STORED, "fill"},
      {"5", "", 5, GORGE_STORED, "fill"},
      {"0", "", 0, GORGE_STORED, "fill"},
      {"d", "", 0, GORGE_STORED, "fill"},
      /* invalidated here, or without a version: nothing that began before may come in */
      {"", "d", 0, GORGE_REFUSED, NULL},
      {"", "d", 9, GORGE_REFUSED, NULL},
      {"3", "d", 9, GORGE_REFUSED, NULL},
      {"", "d7", 9, GORGE_REFUSED, "7"},
      /* a message with a version: what is at least as new may come in */
      {"", "b", 0, GORGE_REFUSED, NULL},
      {"", "b", 4, GORGE_REFUSED, NULL},
      {"", "b", 5, GORGE_STORED, "fill"},
      {"", "b", 6, GORGE_STORED, "fill"},
      {"", "ca", 5, GORGE_REFUSED, NULL},
      {"", "ac", 6, GORGE_STORED, "fill"},
      {"b", "", 5, GORGE_STORED, "fill"},
      /* somebody else stored meanwhile */
      {"", "0", 0, GORGE_REFUSED, "0"},
      {"", "5", 0, GORGE_REFUSED, "5"},
      {"", "5", 4, GORGE_REFUSED, "5"},
      {"", "5", 5, GORGE_STORED, "fill"},
      {"", "5", 6, GORGE_STORED, "fill"},
      {"", "0", 6, GORGE_STORED, "fill"},
      /* a newer one was there all the time */
      {"7", "", 6, GORGE_REFUSED, "7"},
      {"7", "", 0, GORGE_REFUSED, "7"},
      /* what has expired keeps older versions out, but not what has none */
      {"7x", "", 6, GORGE_REFUSED, NULL},
      {"7x", "", 7, GORGE_STORED, "fill"},
      {"7x", "", 0, GORGE_STORED, "fill"},
      /* stored meanwhile by somebody else, and evicted again: a reader may have seen it */
      {"", "5v", 0, GORGE_REFUSED, NULL},
      {"", "5v", 4, GORGE_REFUSED, NULL},
      {"", "5v", 5, GORGE_STORED, "fill"},
      {"", "5v", 6, GORGE_STORED, "fill"},
      {"", "0v", 6, GORGE_STORED, "fill"},
      {"", "4v5v", 4, GORGE_REFUSED, NULL},
      {"5v", "", 5, GORGE_STORED, "fill"},
      /* a message that is no news */
      {"5", "b", 6, GORGE_STORED, "fill"},
      {"5", "a", 5, GORGE_STORED, "fill"},
      {"6", "b", 5, GORGE_REFUSED, "6"},
      /* a new epoch */
      {"", "E", 0, GORGE_REFUSED, NULL},
      {"", "E", 9, GORGE_REFUSED, NULL},
      {"7", "E3", 9, GORGE_REFUSED, "3"},
      {"7E", "", 3, GORGE_STORED, "fill"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const struct fill_case *c = &cases[i];
    const char *key = fresh_key();
    play(key, c->before);
    struct gorge_snapshot s = l1_snapshot(&l1, key);
    play(key, c->between);
    uint64_t refused = l1_count(&l1, GORGE_COUNT_REFUSED_FILLS);
    int status = l1_put_snapshot(&l1, key, "fill", c->version, &s);
    if (status != c->status || !holds(key, c->then)) {
      fail_msg("case %zu: '%s' | '%s' then version %u: status %d, value %s", i, c->before, c->between,
               (unsigned)c->version, status, l1_get(&l1, key));
    }
    assert_int_equal(l1_count(&l1, GORGE_COUNT_REFUSED_FILLS) - refused, c->status == GORGE_REFUSED);
  }
}

static void test_messages_table(void **state) {
  (void)state;
  static const struct {
    uint64_t resident, message;
    bool survives;
  } cases[] = {{5, 4, true},
               {5, 5, true},
               {5, 6, false},
               {0, 1, false},
               {5, 0, false},
               {0, 0, false},
               {UINT64_MAX, UINT64_MAX, true},
               {UINT64_MAX - 1, UINT64_MAX, false}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *key = fresh_key();
    struct gorge_read read;
    assert_int_equal(l1_put_version(&l1, key, "value", cases[i].resident), GORGE_STORED);
    assert_int_equal(l1_read(&l1, key, strlen(key), false, &read), GORGE_HIT);
    struct gorge_snapshot before = l1_snapshot(&l1, key);
    l1_delete(&l1, key, cases[i].message);
    struct gorge_snapshot after = l1_snapshot(&l1, key);
    assert_int_equal(l1_has(&l1, key), cases[i].survives);
    assert_int_equal(record_valid(&read), cases[i].survives);
    assert_int_equal(after.hard - before.hard, cases[i].message == 0);
    assert_int_equal(after.soft - before.soft, cases[i].message != 0 && !cases[i].survives);
    assert_true(after.floor >= cases[i].message);
    /* Who joins a fill wants to know of every message, also of one that the entry survived. */
    assert_int_equal(gorge_l1_snapshot_current(l1.zone, l1.ns, &before),
                     cases[i].message != 0 && after.floor == before.floor);
  }
}

static void test_an_insert_that_belongs_to_an_invalidation(void **state) {
  (void)state;
  const char *name = fresh_key();
  struct gorge_key key = l1_key(&l1, name, strlen(name));
  struct gorge_snapshot before = l1_snapshot(&l1, name), mine = before;
  gorge_l1_invalidate(l1.zone, &l1.owner, &key, 0, &mine);
  assert_int_equal(mine.hard, before.hard + 1);
  assert_int_equal(mine.soft, before.soft);
  assert_int_equal(mine.cell, before.cell);
  assert_int_equal(l1_put_snapshot(&l1, name, "mine", 0, &mine), GORGE_STORED);
  assert_int_equal(l1_put_snapshot(&l1, name, "older", 0, &before), GORGE_REFUSED);
  assert_string_equal(l1_get(&l1, name), "mine");
  /* With another invalidation in between it is too late. */
  gorge_l1_invalidate(l1.zone, &l1.owner, &key, 0, &mine);
  l1_delete(&l1, name, 0);
  assert_int_equal(l1_put_snapshot(&l1, name, "mine", 0, &mine), GORGE_REFUSED);
  assert_false(l1_has(&l1, name));
}

static void test_tag_invalidates_its_entries_only(void **state) {
  (void)state;
  const char *both[] = {"red", "blue"}, *one[] = {"green"};
  struct gorge_read red, green, plain;
  assert_int_equal(l1_put_tagged(&l1, "t1", "x", both, 2), GORGE_STORED);
  assert_int_equal(l1_put_tagged(&l1, "t2", "y", one, 1), GORGE_STORED);
  assert_int_equal(l1_put(&l1, "t3", "z", TTL), GORGE_STORED);
  assert_int_equal(l1_read(&l1, "t1", 2, false, &red), GORGE_HIT);
  assert_int_equal(red.ntags, 2);
  gorge_l1_invalidate_tag(l1.zone, l1.ns, "blue", 4);
  assert_false(l1_has(&l1, "t1"));
  assert_true(l1_has(&l1, "t2"));
  assert_true(l1_has(&l1, "t3"));
  assert_false(record_valid(&red));
  /* Records of the others are looked at again. */
  assert_int_equal(l1_read(&l1, "t2", 2, false, &green), GORGE_HIT);
  assert_int_equal(l1_read(&l1, "t3", 2, false, &plain), GORGE_HIT);
  assert_true(record_valid(&green) && record_valid(&plain));
  /* The same tag in another namespace is another tag. */
  gorge_l1_invalidate_tag(l1.zone, l1.ns + 1, "green", 5);
  assert_true(l1_has(&l1, "t2"));
  assert_int_equal(l1_put_tagged(&l1, "t1", "again", both, 2), GORGE_STORED);
  assert_true(holds("t1", "again"));
}

static void test_fill_that_began_before_its_tag_was_invalidated(void **state) {
  (void)state;
  struct gorge_key key = l1_key(&l1, "tagged fill", 11);
  struct gorge_tag tags[] = {{"one", 3}, {"two", 3}};
  struct gorge_snapshot s;
  struct gorge_entry entry = {
      .value = "v", .value_len = 1, .version = 9, .expires_ms = UINT64_MAX, .ntags = 2, .tags = tags};
  gorge_l1_snapshot(l1.zone, &key, tags, 2, &s);
  assert_true(gorge_l1_snapshot_current(l1.zone, l1.ns, &s));
  gorge_l1_invalidate_tag(l1.zone, l1.ns, "two", 3);
  assert_false(gorge_l1_snapshot_current(l1.zone, l1.ns, &s));
  assert_int_equal(gorge_l1_insert(l1.zone, &l1.owner, &key, &entry, &s, l1.now_ms, NULL), GORGE_REFUSED);
  gorge_l1_snapshot(l1.zone, &key, tags, 2, &s);
  assert_int_equal(gorge_l1_insert(l1.zone, &l1.owner, &key, &entry, &s, l1.now_ms, NULL), GORGE_STORED);
  /* Tags that the snapshot does not cover cannot be stored. */
  entry.ntags = 1;
  assert_int_equal(gorge_l1_insert(l1.zone, &l1.owner, &key, &entry, &s, l1.now_ms, NULL), GORGE_REFUSED);
}

static void test_generations_are_never_reused(void **state) {
  (void)state;
  const char *tags[] = {"again and again"};
  assert_int_equal(l1_put_tagged(&l1, "g", "x", tags, 1), GORGE_STORED);
  for (int i = 0; i < 1000; i++) {
    gorge_l1_invalidate_tag(l1.zone, l1.ns, tags[0], (uint32_t)strlen(tags[0]));
    assert_false(l1_has(&l1, "g"));
  }
}

static void test_epoch_forgets_the_namespace(void **state) {
  (void)state;
  char name[24];
  struct gorge_read read;
  for (uint64_t i = 10000; i < 10500; i++) {
    l1_name(name, i);
    assert_int_equal(l1_put(&l1, name, "old", 1 << 20), GORGE_STORED);
  }
  assert_int_equal(l1_read(&l1, name, strlen(name), false, &read), GORGE_HIT);
  struct gorge_key held = l1_key(&l1, name, strlen(name));
  gorge_l1_bump_epoch(l1.zone, l1.ns);
  assert_false(record_valid(&read));
  for (uint64_t i = 10000; i < 10500; i++) {
    l1_name(name, i);
    assert_false(l1_has(&l1, name));
  }
  /* Also for a caller that made its key before, and for every epoch that follows. */
  assert_int_equal(gorge_l1_read(l1.zone, &held, l1.now_ms, false, &read), GORGE_MISS);
  for (int i = 0; i < 600; i++) {
    gorge_l1_bump_epoch(l1.zone, l1.ns);
    assert_false(l1_has(&l1, name));
    assert_int_equal(gorge_l1_read(l1.zone, &held, l1.now_ms, false, &read), GORGE_MISS);
  }
  assert_int_equal(l1_put(&l1, name, "new", TTL), GORGE_STORED);
  assert_true(holds(name, "new"));
}

static void test_invalidation_with_a_key_from_before_the_epoch(void **state) {
  (void)state;
  const char *name = fresh_key();
  struct gorge_key old = l1_key(&l1, name, strlen(name));
  gorge_l1_bump_epoch(l1.zone, l1.ns);
  assert_int_equal(l1_put(&l1, name, "value", TTL), GORGE_STORED);
  struct gorge_snapshot s = l1_snapshot(&l1, name), with_old;
  gorge_l1_snapshot(l1.zone, &old, NULL, 0, &with_old);
  assert_int_equal(with_old.cell, s.cell);
  gorge_l1_invalidate(l1.zone, &l1.owner, &old, 0, NULL);
  assert_false(l1_has(&l1, name));
  assert_int_equal(l1_put_snapshot(&l1, name, "late", 0, &s), GORGE_REFUSED);
  /* An insert with it goes where a reader finds it. */
  struct gorge_entry entry = {.value = "found", .value_len = 5, .expires_ms = UINT64_MAX};
  gorge_l1_snapshot(l1.zone, &old, NULL, 0, &s);
  assert_int_equal(gorge_l1_insert(l1.zone, &l1.owner, &old, &entry, &s, l1.now_ms, NULL), GORGE_STORED);
  assert_true(holds(name, "found"));
}

static void test_snapshot_of_soft_changes_is_still_current(void **state) {
  (void)state;
  const char *name = fresh_key();
  struct gorge_snapshot s = l1_snapshot(&l1, name);
  assert_true(gorge_l1_snapshot_unchanged(l1.zone, l1.ns, &s));
  assert_int_equal(l1_put(&l1, name, "value", TTL), GORGE_STORED);
  assert_true(gorge_l1_snapshot_current(l1.zone, l1.ns, &s));
  assert_false(gorge_l1_snapshot_unchanged(l1.zone, l1.ns, &s));
  s = l1_snapshot(&l1, name);
  assert_true(gorge_l1_snapshot_unchanged(l1.zone, l1.ns, &s));
  gorge_l1_bump_epoch(l1.zone, l1.ns);
  assert_false(gorge_l1_snapshot_current(l1.zone, l1.ns, &s));
  assert_false(gorge_l1_snapshot_unchanged(l1.zone, l1.ns, &s));
}

/* A record of L0 is not valid after what it was made from was replaced or removed, by whatever means. */
static void test_no_record_survives(void **state) {
  (void)state;
  for (int how = 0; how < 5; how++) {
    const char *name = fresh_key(), *tags[] = {"how"};
    struct gorge_read read;
    assert_int_equal(l1_put_tagged(&l1, name, "value", tags, 1), GORGE_STORED);
    assert_int_equal(l1_read(&l1, name, strlen(name), false, &read), GORGE_HIT);
    assert_true(record_valid(&read));
    switch (how) {
      case 0: l1_delete(&l1, name, 0); break;
      case 1: l1_delete(&l1, name, 1); break;
      case 2: l1_put(&l1, name, "value", TTL); break;
      case 3: gorge_l1_invalidate_tag(l1.zone, l1.ns, "how", 3); break;
      default: gorge_l1_bump_epoch(l1.zone, l1.ns); break;
    }
    assert_false(record_valid(&read));
  }
}

static int open_zone(void **state) {
  (void)state;
  l1 = l1_open(SIZE, 0, 0);
  return 0;
}

/* The bits of the epoch in an entry come round, the entry does not. */
static void test_forgotten_again_and_again(void **state) {
  (void)state;
  struct l1 l1 = l1_open(GORGE_ZONE_SIZE_MIN, 1, 250);
  struct gorge_shard v;
  for (int i = 0; i < 600; i++) {
    if (i % 300 == 0) {
      assert_int_equal(l1_put(&l1, "the key", "old", 1 << 30), GORGE_STORED);
    }
    assert_true(gorge_shard_at(l1.zone, 0, &v));
    gorge_shard_forget(l1.zone, &v, (uint32_t)(v.shared->lock.word >> 32));
    assert_false(l1_has(&l1, "the key"));
    assert_int_equal(l1_put(&l1, "another", "value", 1 << 30), GORGE_STORED);
    assert_int_equal(l1_entries(&l1), 1);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_fills_table),
      cmocka_unit_test(test_messages_table),
      cmocka_unit_test(test_an_insert_that_belongs_to_an_invalidation),
      cmocka_unit_test(test_tag_invalidates_its_entries_only),
      cmocka_unit_test(test_fill_that_began_before_its_tag_was_invalidated),
      cmocka_unit_test(test_generations_are_never_reused),
      cmocka_unit_test(test_epoch_forgets_the_namespace),
      cmocka_unit_test(test_invalidation_with_a_key_from_before_the_epoch),
      cmocka_unit_test(test_snapshot_of_soft_changes_is_still_current),
      cmocka_unit_test(test_no_record_survives),
      cmocka_unit_test(test_forgotten_again_and_again),
  };
  return cmocka_run_group_tests(tests, open_zone, NULL);
}
