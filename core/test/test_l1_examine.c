/* SPDX-License-Identifier: MIT */
/* What people are told of an entry of L1: each state, what no read finds any more included, and nothing changed by the look. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l1/index.h"
#include "test/l1_support.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN };

static const char *const tags[] = {"a", "longer tag"};

static int put(const struct l1 *l1, const char *name, uint32_t ntags, uint64_t version, bool life) {
  struct gorge_key key = l1_key(l1, name, strlen(name));
  struct gorge_tag list[GORGE_TAGS_MAX];
  struct gorge_snapshot s;
  double now = (double)l1->now_ms;
  for (uint32_t i = 0; i < ntags; i++) {
    list[i] = (struct gorge_tag){tags[i], (uint32_t)strlen(tags[i])};
  }
  gorge_l1_snapshot(l1->zone, &key, list, ntags, &s);
  struct gorge_entry entry = {
      .value = "value",
      .value_len = 5,
      .kind = GORGE_KIND_STRING,
      .version = version,
      .expires_ms = l1->now_ms + 1000,
      .ntags = ntags,
      .tags = list,
  };
  if (life) {
    entry.due_ms = l1->now_ms + 400;
    entry.life = (struct gorge_life){
        .keeps_ms = now + 5000, .refresh_ms = now + 400, .whole_ms = now + 1200, .load_ms = 77, .failures = 0};
  }
  return gorge_l1_insert(l1->zone, &l1->owner, &key, &entry, &s, l1->now_ms, NULL);
}

static struct gorge_l1_look look(const struct l1 *l1, const char *name, uint64_t after) {
  struct gorge_l1_look out;
  struct gorge_key key = l1_key(l1, name, strlen(name));
  memset(&out, 0xff, sizeof out);
  gorge_l1_examine(l1->zone, &key, l1->now_ms + after, &out);
  return out;
}

static void test_an_entry_is_told_whole(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  for (uint32_t ntags = 0; ntags <= 2; ntags++) {
    for (uint64_t version = 0; version <= 7; version += 7) {
      l1_delete(&l1, "k", 0);
      assert_int_equal(put(&l1, "k", ntags, version, true), GORGE_STORED);
      struct gorge_l1_look at = look(&l1, "k", 0);
      assert_int_equal(at.state, GORGE_LOOK_GOOD);
      assert_int_equal(at.size, 5);
      assert_int_equal(at.kind, GORGE_KIND_STRING);
      assert_true(at.version == version && at.life.ends_ms == (double)l1.now_ms + 1000);
      assert_true(at.life.keeps_ms == (double)l1.now_ms + 5000 && at.life.load_ms == 77);
      assert_int_equal(at.ntags, ntags);
      for (uint32_t i = 0; i < ntags; i++) {
        assert_string_equal(at.tags[i].name, tags[i]);
        assert_int_equal(at.tags[i].len, strlen(tags[i]));
        assert_int_equal(at.tags[i].flags, GORGE_TAG_OF_VALUE | GORGE_TAG_THERE);
        assert_true(at.tags[i].stored == at.tags[i].now);
      }
    }
  }
}

static void test_each_age_has_its_name(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(look(&l1, "k", 0).state, GORGE_LOOK_NONE);
  assert_int_equal(put(&l1, "k", 1, 0, true), GORGE_STORED);
  static const struct {
    uint64_t after;
    uint32_t state;
  } ages[] = {{399, GORGE_LOOK_GOOD},   {400, GORGE_LOOK_DUE},    {999, GORGE_LOOK_DUE},
              {1000, GORGE_LOOK_STALE}, {4999, GORGE_LOOK_STALE}, {5000, GORGE_LOOK_EXPIRED}};
  for (size_t i = 0; i < sizeof ages / sizeof ages[0]; i++) {
    assert_int_equal(look(&l1, "k", ages[i].after).state, ages[i].state);
  }
  assert_int_equal(put(&l1, "plain", 0, 0, false), GORGE_STORED);
  assert_int_equal(look(&l1, "plain", 999).state, GORGE_LOOK_GOOD);
  assert_int_equal(look(&l1, "plain", 1000).state, GORGE_LOOK_EXPIRED);
}

static void test_a_tag_that_was_invalidated_is_named(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(put(&l1, "k", 2, 0, true), GORGE_STORED);
  gorge_l1_invalidate_tag(l1.zone, l1.ns, tags[1], (uint32_t)strlen(tags[1]));
  struct gorge_l1_look at = look(&l1, "k", 2000);
  assert_int_equal(at.state, GORGE_LOOK_TAG); /* whatever its age */
  assert_true(at.tags[0].stored == at.tags[0].now && at.tags[1].stored + 1 == at.tags[1].now);
  assert_int_equal(at.size, 5);
}

static void test_what_is_gone_is_not_there(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(put(&l1, "k", 1, 3, true), GORGE_STORED);
  l1_delete(&l1, "k", 4);
  assert_int_equal(look(&l1, "k", 0).state, GORGE_LOOK_NONE);
  assert_int_equal(put(&l1, "k", 1, 5, true), GORGE_STORED);
  struct gorge_key of_before = l1_key(&l1, "k", 1);
  gorge_l1_bump_epoch(l1.zone, l1.ns);
  assert_int_equal(look(&l1, "k", 0).state, GORGE_LOOK_NONE);
  struct gorge_l1_look at;
  gorge_l1_examine(l1.zone, &of_before, l1.now_ms, &at);
  assert_int_equal(at.state, GORGE_LOOK_NONE);
  assert_int_equal(at.ntags, 0);
}

/* Where L1 may not be read, the entry is told all the same. */
static void test_a_closed_l1_can_be_looked_into(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(put(&l1, "k", 0, 0, false), GORGE_STORED);
  gorge_zone_words(l1.zone, l1.ns)->fresh_until_ms = l1.now_ms;
  assert_false(l1_has(&l1, "k"));
  assert_int_equal(look(&l1, "k", 0).state, GORGE_LOOK_GOOD);
}

static void test_a_look_changes_nothing(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  struct gorge_read before;
  assert_int_equal(put(&l1, "k", 2, 0, true), GORGE_STORED);
  assert_int_equal(l1_read(&l1, "k", 1, false, &before), GORGE_HIT);
  char *copy = malloc(l1.zone->size);
  assert_non_null(copy);
  memcpy(copy, l1.zone->base, l1.zone->size);
  for (uint64_t after = 0; after < 6000; after += 100) {
    (void)look(&l1, "k", after);
    (void)look(&l1, "other", after);
  }
  assert_memory_equal(copy, l1.zone->base, l1.zone->size);
  uint32_t frequency = look(&l1, "k", 0).frequency;
  assert_int_equal(l1_read(&l1, "k", 1, true, &before), GORGE_HIT); /* a use is seen by the next look */
  assert_int_equal(look(&l1, "k", 0).frequency, frequency + 1);
  free(copy);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_an_entry_is_told_whole),
      cmocka_unit_test(test_each_age_has_its_name),
      cmocka_unit_test(test_a_tag_that_was_invalidated_is_named),
      cmocka_unit_test(test_what_is_gone_is_not_there),
      cmocka_unit_test(test_a_closed_l1_can_be_looked_into),
      cmocka_unit_test(test_a_look_changes_nothing),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
