/* SPDX-License-Identifier: MIT */
/* L1 as one caller sees it: what was stored is read, for as long as it may be. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test/l1_support.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN, TTL = 1000 };

static void test_nothing_is_there_at_first(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  struct gorge_read read;
  assert_int_equal(l1_read(&l1, "a", 1, true, &read), GORGE_MISS);
  assert_null(read.slot);
  assert_int_equal(l1_entries(&l1), 0);
}

static void test_read_tells_all_about_an_entry(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  char value[] = "a value\0with a zero";
  struct gorge_key key = l1_key(&l1, "key", 3);
  struct gorge_tag tags[] = {{"blue", 4}, {"", 0}};
  struct gorge_snapshot s;
  gorge_l1_snapshot(l1.zone, &key, tags, 2, &s);
  struct gorge_entry entry = {.value = value,
                              .value_len = sizeof value,
                              .kind = GORGE_KIND_JSON,
                              .version = 77,
                              .expires_ms = 4321,
                              .ntags = 2,
                              .tags = tags};
  struct gorge_read stored = {0}, read;
  assert_int_equal(gorge_l1_insert(l1.zone, &l1.owner, &key, &entry, &s, l1.now_ms, &stored), GORGE_STORED);
  assert_int_equal(l1_read(&l1, "key", 3, false, &read), GORGE_HIT);
  assert_int_equal(read.len, sizeof value);
  assert_memory_equal(read.buf, value, sizeof value);
  assert_int_equal(read.kind, GORGE_KIND_JSON);
  assert_int_equal(read.version, 77);
  assert_int_equal(read.ntags, 2);
  assert_true(read.expires_ms == 4321);
  assert_int_equal(read.global, key.global);
  /* Who stored it can validate its own record of it. */
  assert_ptr_equal(stored.slot, read.slot);
  assert_int_equal(stored.word, read.word);
  assert_int_equal(stored.global, key.global);
  assert_true(stored.expires_ms == 4321);
  assert_int_equal(*read.slot & ~GORGE_SLOT_FREQ, read.word);
}

static void test_every_length_comes_back_as_it_was(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  char value[300];
  for (uint32_t i = 0; i < sizeof value; i++) {
    value[i] = (char)(i * 7 + 1);
  }
  for (size_t key_len = 1; key_len <= 40; key_len++) {
    for (size_t len = 0; len <= sizeof value; len += 1 + len / 40) {
      /* Key and value lie at all alignments in the caller's memory, too. */
      const char *key = value + key_len % 8;
      const char *from = value + (sizeof value - len);
      struct gorge_read read;
      assert_int_equal(l1_put_bytes(&l1, key, key_len, from, len, TTL), GORGE_STORED);
      assert_int_equal(l1_read(&l1, key, key_len, false, &read), GORGE_HIT);
      assert_int_equal(read.len, len);
      assert_memory_equal(read.buf, from, len);
    }
  }
}

static void test_longest_key(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  char *key = calloc(1, GORGE_KEY_MAX);
  struct gorge_read read;
  for (int i = 0; i < GORGE_KEY_MAX; i++) {
    key[i] = (char)i;
  }
  assert_int_equal(l1_put_bytes(&l1, key, GORGE_KEY_MAX, "long", 4, TTL), GORGE_STORED);
  assert_int_equal(l1_read(&l1, key, GORGE_KEY_MAX, false, &read), GORGE_HIT);
  assert_memory_equal(read.buf, "long", 4);
  key[GORGE_KEY_MAX - 1]++;
  assert_int_equal(l1_read(&l1, key, GORGE_KEY_MAX, false, &read), GORGE_MISS);
  assert_int_equal(l1_read(&l1, key, GORGE_KEY_MAX - 1, false, &read), GORGE_MISS);
  free(key);
}

static void test_a_megabyte_fits_into_the_usual_zone(void **state) {
  (void)state;
  struct l1 l1 = l1_open(64 << 20, 0, 0);
  uint32_t len = 1 << 20;
  char *value = malloc(len);
  struct gorge_read read;
  for (uint64_t i = 0; i < 100; i++) {
    char name[24];
    l1_name(name, i);
    l1_fill(value, len, i, i);
    assert_int_equal(l1_put_bytes(&l1, name, strlen(name), value, len, TTL), GORGE_STORED);
    assert_int_equal(l1_read(&l1, name, strlen(name), false, &read), GORGE_HIT);
    assert_int_equal(read.len, len);
    assert_memory_equal(read.buf, value, len);
  }
  free(value);
}

/* The largest value that is taken, by bisection. */
static uint32_t largest(const struct l1 *l1, char *value, uint32_t above) {
  uint32_t fits = 0;
  while (above - fits > 1) {
    uint32_t middle = fits + (above - fits) / 2;
    if (l1_put_bytes(l1, "large", 5, value, middle, TTL) == GORGE_STORED) {
      fits = middle;
    } else {
      above = middle;
    }
  }
  return fits;
}

static void test_too_large_removes_the_older_one(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  uint32_t above = SIZE;
  char *value = calloc(1, above);
  uint32_t fits = largest(&l1, value, above);
  assert_true(fits > SIZE / 16);
  uint64_t counted = l1_count(&l1, GORGE_COUNT_TOO_LARGE);
  assert_int_equal(l1_put_bytes(&l1, "large", 5, value, fits, TTL), GORGE_STORED);
  assert_true(l1_has(&l1, "large"));
  assert_int_equal(l1_put_bytes(&l1, "large", 5, value, fits + 4, TTL), GORGE_TOO_LARGE);
  assert_false(l1_has(&l1, "large"));
  assert_int_equal(l1_count(&l1, GORGE_COUNT_TOO_LARGE), counted + 1);
  assert_int_equal(l1_put(&l1, "large", "small", TTL), GORGE_STORED);
  assert_int_equal(l1_put_bytes(&l1, "large", 5, value, above, TTL), GORGE_TOO_LARGE);
  assert_false(l1_has(&l1, "large"));
  /* A refused value says nothing about the one that is there. */
  struct gorge_snapshot s = l1_snapshot(&l1, "large");
  l1_delete(&l1, "large", 0);
  assert_int_equal(l1_put(&l1, "large", "newer", TTL), GORGE_STORED);
  struct gorge_key key = l1_key(&l1, "large", 5);
  struct gorge_entry entry = {.value = value, .value_len = above, .expires_ms = 9999};
  assert_int_equal(gorge_l1_insert(l1.zone, &l1.owner, &key, &entry, &s, l1.now_ms, NULL), GORGE_REFUSED);
  assert_string_equal(l1_get(&l1, "large"), "newer");
  free(value);
}

static void test_a_buffer_too_small_is_told_the_size(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(l1_put(&l1, "key", "0123456789", TTL), GORGE_STORED);
  struct gorge_key key = l1_key(&l1, "key", 3);
  char buf[16] = "untouched";
  struct gorge_read read = {.buf = buf, .buf_size = 9};
  assert_int_equal(gorge_l1_read(l1.zone, &key, l1.now_ms, true, &read), GORGE_SPACE);
  assert_int_equal(read.len, 10);
  assert_string_equal(buf, "untouched");
  read.buf_size = 10;
  assert_int_equal(gorge_l1_read(l1.zone, &key, l1.now_ms, true, &read), GORGE_HIT);
  assert_memory_equal(buf, "0123456789", 10);
  /* What is expired needs no buffer. */
  read.buf_size = 0;
  assert_int_equal(gorge_l1_read(l1.zone, &key, l1.now_ms + TTL, true, &read), GORGE_MISS);
}

static void test_replaced_value_is_the_only_one(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  struct gorge_read before, after;
  assert_int_equal(l1_put(&l1, "key", "one", TTL), GORGE_STORED);
  assert_int_equal(l1_read(&l1, "key", 3, false, &before), GORGE_HIT);
  assert_int_equal(l1_put(&l1, "key", "two, longer", TTL), GORGE_STORED);
  assert_string_equal(l1_get(&l1, "key"), "two, longer");
  assert_int_equal(l1_entries(&l1), 1);
  assert_int_equal(l1_read(&l1, "key", 3, false, &after), GORGE_HIT);
  /* A record of the first is not valid any more. */
  assert_int_not_equal(*before.slot & ~GORGE_SLOT_FREQ, before.word);
  assert_int_equal(*after.slot & ~GORGE_SLOT_FREQ, after.word);
}

static void test_expires_to_the_millisecond(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(l1_put(&l1, "key", "value", 1), GORGE_STORED);
  assert_true(l1_has(&l1, "key"));
  l1.now_ms += 1;
  assert_false(l1_has(&l1, "key"));
  assert_int_equal(l1_put(&l1, "key", "again", TTL), GORGE_STORED);
  assert_string_equal(l1_get(&l1, "key"), "again");
  /* A time that does not fit its field is as far away as can be. */
  struct gorge_key key = l1_key(&l1, "far", 3);
  struct gorge_snapshot s = l1_snapshot(&l1, "far");
  struct gorge_entry entry = {.value = "x", .value_len = 1, .expires_ms = UINT64_MAX};
  assert_int_equal(gorge_l1_insert(l1.zone, &l1.owner, &key, &entry, &s, l1.now_ms, NULL), GORGE_STORED);
  l1.now_ms = (uint64_t)30 * 365 * 24 * 3600 * 1000;
  assert_true(l1_has(&l1, "far"));
}

static void test_nothing_is_served_at_or_after_fresh_until(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(l1_put(&l1, "key", "value", TTL), GORGE_STORED);
  struct gorge_words *words = gorge_zone_words(l1.zone, l1.ns);
  words->fresh_until_ms = l1.now_ms;
  assert_false(l1_has(&l1, "key"));
  words->fresh_until_ms = l1.now_ms + 1;
  assert_true(l1_has(&l1, "key"));
}

static void test_namespaces_do_not_meet(void **state) {
  (void)state;
  struct l1 one = l1_open(SIZE, 0, 0), two = one;
  two.ns = 31;
  assert_int_equal(l1_put(&one, "key", "of one", TTL), GORGE_STORED);
  assert_false(l1_has(&two, "key"));
  assert_int_equal(l1_put(&two, "key", "of two", TTL), GORGE_STORED);
  assert_string_equal(l1_get(&one, "key"), "of one");
  assert_string_equal(l1_get(&two, "key"), "of two");
  l1_delete(&one, "key", 0);
  assert_false(l1_has(&one, "key"));
  assert_true(l1_has(&two, "key"));
  gorge_l1_bump_epoch(one.zone, one.ns);
  assert_true(l1_has(&two, "key"));
  gorge_l1_invalidate_tag(one.zone, one.ns, "tag", 3);
  assert_true(l1_has(&two, "key"));
}

static void test_namespaces_with_equal_hashes_do_not_meet(void **state) {
  (void)state;
  struct l1 one = l1_open(SIZE, 0, 0), two = one;
  two.ns = 1;
  gorge_zone_words(one.zone, 1)->salt = gorge_zone_words(one.zone, 0)->salt;
  assert_int_equal(l1_key(&one, "key", 3).hash, l1_key(&two, "key", 3).hash);
  assert_int_equal(l1_put(&one, "key", "of one", TTL), GORGE_STORED);
  assert_false(l1_has(&two, "key"));
  assert_int_equal(l1_put(&two, "key", "of two", TTL), GORGE_STORED);
  l1_delete(&two, "key", 0);
  assert_string_equal(l1_get(&one, "key"), "of one");
}

static void test_uses_are_counted_up_to_three(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(l1_put(&l1, "key", "value", TTL), GORGE_STORED);
  struct gorge_read read;
  for (uint64_t uses = 0; uses < 6; uses++) {
    assert_int_equal(l1_read(&l1, "key", 3, false, &read), GORGE_HIT);
    assert_int_equal((*read.slot & GORGE_SLOT_FREQ) >> GORGE_SLOT_FREQ_BIT, uses < 3 ? uses : 3);
    if (uses % 2 == 0) {
      assert_int_equal(l1_read(&l1, "key", 3, true, &read), GORGE_HIT);
    } else {
      gorge_l1_touch_frequency(read.slot, read.word);
    }
  }
  /* A record of something that is not there any more counts for nobody. */
  struct gorge_read other;
  assert_int_equal(l1_put(&l1, "key", "other", TTL), GORGE_STORED);
  uint64_t word = *read.slot;
  gorge_l1_touch_frequency(read.slot, read.word);
  assert_int_equal(*read.slot, word);
  l1_delete(&l1, "key", 0);
  gorge_l1_touch_frequency(read.slot, read.word);
  assert_int_equal(*read.slot, 0);
  assert_int_equal(l1_read(&l1, "key", 3, true, &other), GORGE_MISS);
}

static void test_names_of_tags(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  char long_tag[GORGE_TAG_MAX + 1];
  memset(long_tag, 'l', GORGE_TAG_MAX);
  long_tag[GORGE_TAG_MAX] = '\0';
  const char *tags[GORGE_TAGS_MAX];
  for (int i = 0; i < GORGE_TAGS_MAX; i++) {
    tags[i] = i % 2 == 0 ? long_tag : "t";
  }
  char buf[GORGE_TAGS_MAX * (GORGE_TAG_MAX + 1)];
  uint32_t len;
  assert_int_equal(l1_put_tagged(&l1, "all", "value", tags, GORGE_TAGS_MAX), GORGE_STORED);
  struct gorge_key key = l1_key(&l1, "all", 3);
  assert_int_equal(gorge_l1_tags(l1.zone, &key, buf, sizeof buf, &len), GORGE_TAGS_MAX);
  assert_int_equal(len, GORGE_TAGS_MAX / 2 * (GORGE_TAG_MAX + 1 + 2));
  assert_int_equal((unsigned char)buf[0], GORGE_TAG_MAX);
  assert_memory_equal(buf + 1, long_tag, GORGE_TAG_MAX);
  assert_memory_equal(buf + 1 + GORGE_TAG_MAX, "\1t", 2);
  assert_int_equal(gorge_l1_tags(l1.zone, &key, buf, len - 1, &len), 0);
  assert_int_equal(l1_put_tagged(&l1, "none", "value", NULL, 0), GORGE_STORED);
  key = l1_key(&l1, "none", 4);
  assert_int_equal(gorge_l1_tags(l1.zone, &key, buf, sizeof buf, &len), 0);
  key = l1_key(&l1, "absent", 6);
  assert_int_equal(gorge_l1_tags(l1.zone, &key, buf, sizeof buf, &len), 0);
}

static void test_usage(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  struct gorge_l1_usage usage;
  for (uint64_t i = 0; i < 100; i++) {
    char name[24];
    l1_name(name, i);
    assert_int_equal(l1_put(&l1, name, "value", TTL), GORGE_STORED);
  }
  gorge_l1_usage(l1.zone, &usage);
  assert_int_equal(usage.entries, 100);
  assert_in_range(usage.bytes_used, 100 * 25, 100 * 50);
  assert_in_range(usage.bytes_total, SIZE / 2, SIZE);
  assert_int_equal(l1_count(&l1, GORGE_COUNT_INSERTS), 100);
  l1_delete(&l1, "key:7", 0);
  assert_int_equal(l1_entries(&l1), 99);
}

static void test_zone_too_small_or_cut_wrongly(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  assert_int_equal(gorge_l1_init_shape(zone, &(struct gorge_l1_shape){.shards = 3}), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_l1_init_shape(zone, &(struct gorge_l1_shape){.shards = 64}), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_l1_init_shape(zone, &(struct gorge_l1_shape){.buckets = 1 << 20}), GORGE_ERR_ARGUMENT);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_nothing_is_there_at_first),
      cmocka_unit_test(test_read_tells_all_about_an_entry),
      cmocka_unit_test(test_every_length_comes_back_as_it_was),
      cmocka_unit_test(test_longest_key),
      cmocka_unit_test(test_a_megabyte_fits_into_the_usual_zone),
      cmocka_unit_test(test_too_large_removes_the_older_one),
      cmocka_unit_test(test_a_buffer_too_small_is_told_the_size),
      cmocka_unit_test(test_replaced_value_is_the_only_one),
      cmocka_unit_test(test_expires_to_the_millisecond),
      cmocka_unit_test(test_nothing_is_served_at_or_after_fresh_until),
      cmocka_unit_test(test_namespaces_do_not_meet),
      cmocka_unit_test(test_namespaces_with_equal_hashes_do_not_meet),
      cmocka_unit_test(test_uses_are_counted_up_to_three),
      cmocka_unit_test(test_names_of_tags),
      cmocka_unit_test(test_usage),
      cmocka_unit_test(test_zone_too_small_or_cut_wrongly),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
