/* SPDX-License-Identifier: MIT */
/* Entries with more of a life than an end: due for a refresh, kept as stale, put off, touched. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "test/l1_support.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN };

static char buffer[64];

static int put(const struct l1 *l1, const char *name, const char *const *tags, uint32_t ntags, uint64_t version) {
  struct gorge_key key = l1_key(l1, name, strlen(name));
  struct gorge_tag list[GORGE_TAGS_MAX];
  struct gorge_snapshot s;
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
      .due_ms = l1->now_ms + 400,
      .life = {.keeps_ms = (double)l1->now_ms + 5000,
               .refresh_ms = (double)l1->now_ms + 400,
               .whole_ms = (double)l1->now_ms + 1200,
               .load_ms = 77},
      .ntags = ntags,
      .tags = list,
  };
  return gorge_l1_insert(l1->zone, &l1->owner, &key, &entry, &s, l1->now_ms, NULL);
}

/* Looks at a key; `after` ms from the time of the zone. */
static int look(const struct l1 *l1, const char *name, uint64_t after, bool stale, struct gorge_read *r) {
  struct gorge_key key = l1_key(l1, name, strlen(name));
  *r = (struct gorge_read){.buf = buffer, .buf_size = sizeof buffer};
  return gorge_l1_look(l1->zone, &key, l1->now_ms + after, false, stale, r);
}

static int age(const struct l1 *l1, const char *name, uint64_t after) {
  struct gorge_read r;
  return look(l1, name, after, true, &r);
}

static int defer(const struct l1 *l1, const char *name, uint64_t word, uint64_t due_after, uint32_t failures) {
  struct gorge_key key = l1_key(l1, name, strlen(name));
  return gorge_l1_defer(l1->zone, &l1->owner, &key, word, l1->now_ms + due_after, failures, l1->now_ms + 500, NULL);
}

static void test_the_ages_of_an_entry(void **state) {
  (void)state;
  static const char *const tags[] = {"a", "longer tag"};
  struct l1 l1 = l1_open(SIZE, 0, 0);
  for (uint32_t ntags = 0; ntags <= 2; ntags += 2) {
    for (uint64_t version = 0; version <= 7; version += 7) {
      struct gorge_read r;
      l1_delete(&l1, "k", 0);
      assert_int_equal(put(&l1, "k", tags, ntags, version), GORGE_STORED);
      assert_int_equal(look(&l1, "k", 399, true, &r), GORGE_HIT);
      assert_true(r.expires_ms == (double)(l1.now_ms + 400)); /* L0 asks again when it is due */
      assert_int_equal(look(&l1, "k", 400, true, &r), GORGE_DUE);
      assert_memory_equal(buffer, "value", 5);
      assert_true(r.life.ends_ms == (double)(l1.now_ms + 1000) && r.life.keeps_ms == (double)(l1.now_ms + 5000));
      assert_true(r.life.refresh_ms == (double)(l1.now_ms + 400) && r.life.whole_ms == (double)(l1.now_ms + 1200));
      assert_true(r.life.load_ms == 77 && r.life.failures == 0 && r.version == version && r.ntags == ntags);
      assert_int_equal(age(&l1, "k", 999), GORGE_DUE);
      assert_int_equal(age(&l1, "k", 1000), GORGE_STALE);
      assert_int_equal(age(&l1, "k", 4999), GORGE_STALE);
      assert_int_equal(age(&l1, "k", 5000), GORGE_MISS);
      /* who does not ask for what is stale does not get it */
      assert_int_equal(look(&l1, "k", 1000, false, &r), GORGE_MISS);
      l1.now_ms += 1000;
      assert_null(l1_get(&l1, "k"));
      l1.now_ms -= 1000;
    }
  }
}

static void test_readers_of_all_kinds_agree(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  struct gorge_l1_reader reader;
  struct gorge_read r = {.buf = buffer, .buf_size = sizeof buffer};
  gorge_l1_reader_init(l1.zone, l1.ns, &reader);
  assert_int_equal(put(&l1, "k", NULL, 0, 0), GORGE_STORED);
  assert_int_equal(gorge_l1_get(&reader, "k", 1, l1.now_ms + 399, &r), GORGE_HIT);
  assert_int_equal(gorge_l1_get(&reader, "k", 1, l1.now_ms + 400, &r), GORGE_DUE);
  assert_int_equal(gorge_l1_get(&reader, "k", 1, l1.now_ms + 1000, &r), GORGE_MISS);
  r.buf_size = 4;
  assert_int_equal(gorge_l1_get(&reader, "k", 1, l1.now_ms + 400, &r), GORGE_SPACE);
  struct gorge_key key = l1_key(&l1, "k", 1);
  assert_int_equal(gorge_l1_age(l1.zone, &key, l1.now_ms + 400, &r), GORGE_DUE);
  assert_int_equal(gorge_l1_age(l1.zone, &key, l1.now_ms + 1000, &r), GORGE_STALE);
}

static void test_what_is_stale_goes_with_an_invalidation(void **state) {
  (void)state;
  static const char *const tags[] = {"a", "b"};
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(put(&l1, "k", tags, 2, 0), GORGE_STORED);
  gorge_l1_invalidate_tag(l1.zone, l1.ns, "b", 1);
  assert_int_equal(age(&l1, "k", 2000), GORGE_MISS);
  assert_int_equal(put(&l1, "k", tags, 2, 0), GORGE_STORED);
  l1_delete(&l1, "k", 0);
  assert_int_equal(age(&l1, "k", 2000), GORGE_MISS);
  assert_int_equal(put(&l1, "k", tags, 2, 9), GORGE_STORED);
  l1_delete(&l1, "k", 10);
  assert_int_equal(age(&l1, "k", 2000), GORGE_MISS);
  assert_int_equal(put(&l1, "k", tags, 2, 0), GORGE_STORED);
  gorge_l1_bump_epoch(l1.zone, l1.ns);
  assert_int_equal(age(&l1, "k", 2000), GORGE_MISS);
}

static void test_of_all_who_find_it_due_one_puts_it_off(void **state) {
  (void)state;
  static const char *const tags[] = {"a"};
  struct l1 l1 = l1_open(SIZE, 0, 0);
  struct gorge_read first, second;
  assert_int_equal(put(&l1, "k", tags, 1, 5), GORGE_STORED);
  assert_int_equal(look(&l1, "k", 500, false, &first), GORGE_DUE);
  assert_int_equal(look(&l1, "k", 500, false, &second), GORGE_DUE);
  assert_int_equal(defer(&l1, "k", first.word, 700, 3), GORGE_OK);
  assert_int_equal(defer(&l1, "k", second.word, 700, 3), GORGE_MISS);
  assert_int_equal(age(&l1, "k", 699), GORGE_HIT);
  assert_int_equal(look(&l1, "k", 700, false, &first), GORGE_DUE);
  assert_true(first.life.failures == 3 && first.version == 5 && first.ntags == 1 && first.life.load_ms == 77);
  assert_int_equal(age(&l1, "k", 1000), GORGE_STALE); /* its end has not moved */
  /* beyond its end it is not due any more */
  assert_int_equal(defer(&l1, "k", first.word, 100000, 4), GORGE_OK);
  assert_int_equal(age(&l1, "k", 999), GORGE_HIT);
  assert_int_equal(age(&l1, "k", 1000), GORGE_STALE);
  assert_int_equal(defer(&l1, "gone", first.word, 700, 1), GORGE_MISS);
}

static void test_a_touch_moves_the_whole_life(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  struct gorge_read r;
  struct gorge_key key = l1_key(&l1, "k", 1);
  assert_int_equal(put(&l1, "k", NULL, 0, 0), GORGE_STORED);
  struct gorge_touch touch = {.expires_ms = l1.now_ms + 9000, .whole_ms = l1.now_ms + 9200, .latest_ms = UINT64_MAX};
  assert_int_equal(gorge_l1_touch(l1.zone, &l1.owner, &key, &touch, l1.now_ms), GORGE_OK);
  assert_int_equal(age(&l1, "k", 8399), GORGE_HIT);
  assert_int_equal(look(&l1, "k", 8400, false, &r), GORGE_DUE); /* 800 before the end of all */
  assert_int_equal(age(&l1, "k", 9000), GORGE_STALE);
  assert_int_equal(age(&l1, "k", 12999), GORGE_STALE);
  assert_int_equal(age(&l1, "k", 13000), GORGE_MISS);
  touch.latest_ms = l1.now_ms + 10000;
  assert_int_equal(gorge_l1_touch(l1.zone, &l1.owner, &key, &touch, l1.now_ms), GORGE_OK);
  assert_int_equal(age(&l1, "k", 9999), GORGE_STALE);
  assert_int_equal(age(&l1, "k", 10000), GORGE_MISS);
}

static void test_without_contact_a_touch_keeps_nothing_longer_as_stale(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  struct gorge_key key = l1_key(&l1, "k", 1);
  assert_int_equal(put(&l1, "k", NULL, 0, 0), GORGE_STORED);
  uint64_t *life_max_ms = &gorge_zone_words(l1.zone, l1.ns)->life_max_ms;
  __atomic_store_n(life_max_ms, 10000, __ATOMIC_RELAXED);
  struct gorge_touch touch = {.expires_ms = l1.now_ms + 9000, .whole_ms = l1.now_ms + 9200, .latest_ms = UINT64_MAX};
  assert_int_equal(gorge_l1_touch(l1.zone, &l1.owner, &key, &touch, l1.now_ms), GORGE_OK);
  assert_int_equal(age(&l1, "k", 999), GORGE_HIT);
  assert_int_equal(age(&l1, "k", 1000), GORGE_STALE);
  assert_int_equal(age(&l1, "k", 4999), GORGE_STALE);
  assert_int_equal(age(&l1, "k", 5000), GORGE_MISS);
}

static void test_what_is_stale_makes_room_for_any_new_value(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(put(&l1, "k", NULL, 0, 9), GORGE_STORED);
  l1.now_ms += 2000;
  assert_int_equal(l1_put(&l1, "k", "newer", 1000), GORGE_STORED); /* without a version, beside one with */
  assert_string_equal(l1_get(&l1, "k"), "newer");
}

static void test_when_an_entry_is_due(void **state) {
  (void)state;
  struct gorge_life life = {.whole_ms = 10000, .load_ms = 50};
  assert_int_equal(gorge_life_due(&life, 0), 0);
  assert_int_equal(gorge_life_due(&life, 16), 9200);
  life.refresh_ms = 9000;
  assert_int_equal(gorge_life_due(&life, 16), 9000);
  life.refresh_ms = 9500;
  assert_int_equal(gorge_life_due(&life, 16), 9200);
  life.load_ms = 100000;
  assert_int_equal(gorge_life_due(&life, 16), 1);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_the_ages_of_an_entry),
      cmocka_unit_test(test_readers_of_all_kinds_agree),
      cmocka_unit_test(test_what_is_stale_goes_with_an_invalidation),
      cmocka_unit_test(test_of_all_who_find_it_due_one_puts_it_off),
      cmocka_unit_test(test_a_touch_moves_the_whole_life),
      cmocka_unit_test(test_without_contact_a_touch_keeps_nothing_longer_as_stale),
      cmocka_unit_test(test_what_is_stale_makes_room_for_any_new_value),
      cmocka_unit_test(test_when_an_entry_is_due),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
