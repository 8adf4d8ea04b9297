/* SPDX-License-Identifier: MIT */
/* A new life for an entry, and exchanges: only what was read is replaced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test/l1_support.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN };

static int touch(const struct l1 *l1, const char *name, uint64_t only, uint64_t version, uint64_t life_ms) {
  struct gorge_key key = l1_key(l1, name, strlen(name));
  struct gorge_touch t = {.only = only, .version = version, .expires_ms = l1->now_ms + life_ms};
  return gorge_l1_touch(l1->zone, &l1->owner, &key, &t, l1->now_ms);
}

static struct gorge_read read_of(const struct l1 *l1, const char *name) {
  struct gorge_read r;
  assert_int_equal(l1_read(l1, name, strlen(name), false, &r), GORGE_HIT);
  return r;
}

static void test_a_longer_and_a_shorter_life(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(touch(&l1, "k", 0, 0, 5000), GORGE_MISS);
  assert_int_equal(l1_put(&l1, "k", "value", 1000), GORGE_STORED);
  struct gorge_read before = read_of(&l1, "k");
  assert_int_equal(touch(&l1, "k", 0, 0, 5000), GORGE_OK);
  struct gorge_read after = read_of(&l1, "k");
  assert_true(after.expires_ms == (double)(l1.now_ms + 5000) && after.version == 0);
  /* a record of L0 from before is not good any more, though nothing else of the namespace was touched */
  assert_true((*before.slot & ~GORGE_SLOT_FREQ) != before.word);
  assert_true(after.global == before.global);
  l1.now_ms += 4000;
  assert_string_equal(l1_get(&l1, "k"), "value");
  assert_int_equal(touch(&l1, "k", 0, 0, 10), GORGE_OK);
  l1.now_ms += 10;
  assert_null(l1_get(&l1, "k"));
  assert_int_equal(touch(&l1, "k", 0, 0, 5000), GORGE_MISS);
}

static void set_life_max(const struct l1 *l1, uint64_t ms) {
  __atomic_store_n(&gorge_zone_words(l1->zone, l1->ns)->life_max_ms, ms, __ATOMIC_RELAXED);
}

static void test_without_contact_no_life_grows(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  set_life_max(&l1, 1000);
  assert_int_equal(l1_put(&l1, "k", "value", 1000), GORGE_STORED);
  uint64_t end_ms = l1.now_ms + 1000;
  l1.now_ms += 900;
  assert_int_equal(touch(&l1, "k", 0, 0, 1000),
                   GORGE_OK); /* as long as what is stored now may live, and yet too long */
  assert_true(read_of(&l1, "k").expires_ms == (double)end_ms);
  l1.now_ms += 50;
  assert_int_equal(touch(&l1, "k", 0, 0, 20), GORGE_OK);
  assert_true(read_of(&l1, "k").expires_ms == (double)(l1.now_ms + 20));
  assert_int_equal(touch(&l1, "k", 0, 0, 50), GORGE_OK); /* the end that it had before that is gone */
  l1.now_ms += 20;
  assert_null(l1_get(&l1, "k"));
  /* with contact again, one that is still there may live for longer */
  assert_int_equal(l1_put(&l1, "k", "value", 1000), GORGE_STORED);
  set_life_max(&l1, 0);
  assert_int_equal(touch(&l1, "k", 0, 0, 5000), GORGE_OK);
  assert_true(read_of(&l1, "k").expires_ms == (double)(l1.now_ms + 5000));
}

static void test_versions(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(l1_put_version(&l1, "k", "value", 7), GORGE_STORED);
  assert_int_equal(touch(&l1, "k", 6, 9, 5000), GORGE_MISS);
  assert_int_equal(touch(&l1, "k", 7, 0, 5000), GORGE_OK);
  assert_true(read_of(&l1, "k").version == 7);
  assert_int_equal(touch(&l1, "k", 7, 9, 5000), GORGE_OK);
  assert_true(read_of(&l1, "k").version == 9);
  l1_delete(&l1, "k", 9); /* the message of that touch */
  assert_string_equal(l1_get(&l1, "k"), "value");
  l1_delete(&l1, "k", 10);
  assert_null(l1_get(&l1, "k"));
}

static void test_tags_stay(void **state) {
  (void)state;
  static const char *const tags[] = {"a", "longer tag"};
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(l1_put_tagged(&l1, "k", "value", tags, 2), GORGE_STORED);
  assert_int_equal(touch(&l1, "k", 0, 0, 5000), GORGE_OK);
  struct gorge_key key = l1_key(&l1, "k", 1);
  char names[64];
  uint32_t len;
  assert_int_equal(gorge_l1_tags(l1.zone, &key, names, sizeof names, &len), 2);
  assert_memory_equal(names, "\1a\12longer tag", 13);
  gorge_l1_invalidate_tag(l1.zone, l1.ns, "longer tag", 10);
  assert_null(l1_get(&l1, "k"));
  assert_int_equal(touch(&l1, "k", 0, 0, 5000), GORGE_MISS);
}

static void test_a_value_of_any_size(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  static const uint32_t sizes[] = {0, 1, 4095, 4096, 4097, 100000, 200000};
  char *value = malloc(200000), *back = malloc(200000);
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
    memset(value, 'a' + (int)i, 200000);
    assert_int_equal(l1_put_bytes(&l1, "k", 1, value, sizes[i], 1000), GORGE_STORED);
    for (int n = 0; n < 50; n++) { /* the log goes round: the entry gives way to itself */
      assert_int_equal(touch(&l1, "k", 0, 0, 5000), GORGE_OK);
    }
    struct gorge_key key = l1_key(&l1, "k", 1);
    struct gorge_read r = {.buf = back, .buf_size = 200000};
    assert_int_equal(gorge_l1_read(l1.zone, &key, l1.now_ms, false, &r), GORGE_HIT);
    assert_int_equal(r.len, sizes[i]);
    assert_memory_equal(back, value, sizes[i]);
  }
  free(value);
  free(back);
}

/* An exchange with what was read before `what` happened: 'n' nothing, 'p' an insert, 'd' a delete, 't' its tag, 'e' an epoch. */
static int exchange(const struct l1 *l1, const char *name, char what, bool hard) {
  struct gorge_key key = l1_key(l1, name, strlen(name));
  struct gorge_tag tag = {"t", 1};
  struct gorge_snapshot s;
  struct gorge_read r;
  gorge_l1_snapshot(l1->zone, &key, &tag, 1, &s);
  uint64_t word = l1_read(l1, name, strlen(name), false, &r) == GORGE_HIT ? r.word : 0;
  switch (what) {
    case 'p': assert_int_equal(l1_put(l1, name, "between", 1000), GORGE_STORED); break;
    case 'd': l1_delete(l1, name, 0); break;
    case 't': gorge_l1_invalidate_tag(l1->zone, l1->ns, "t", 1); break;
    case 'e': gorge_l1_bump_epoch(l1->zone, l1->ns); break;
    default: break;
  }
  struct gorge_entry entry = {.value = "new",
                              .value_len = 3,
                              .kind = GORGE_KIND_STRING,
                              .expires_ms = l1->now_ms + 1000,
                              .ntags = 1,
                              .tags = &tag};
  struct gorge_exchange x = {.word = word, .hard = hard};
  return gorge_l1_exchange(l1->zone, &l1->owner, &key, &entry, &s, &x, l1->now_ms, NULL);
}

static void test_an_exchange_replaces_what_was_read(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(exchange(&l1, "none", 'n', true), GORGE_STORED);
  assert_int_equal(exchange(&l1, "none", 'n', true), GORGE_STORED);
  assert_int_equal(exchange(&l1, "none", 't', true), GORGE_REFUSED);
  assert_int_equal(exchange(&l1, "none 2", 'p', true), GORGE_REFUSED);
  assert_string_equal(l1_get(&l1, "none 2"), "between");
  assert_int_equal(exchange(&l1, "none 2", 'p', true), GORGE_REFUSED);
  assert_int_equal(exchange(&l1, "none 2", 'd', true), GORGE_REFUSED);
  assert_null(l1_get(&l1, "none 2"));
  assert_int_equal(exchange(&l1, "none 2", 'd', true), GORGE_REFUSED);
  assert_int_equal(exchange(&l1, "none 2", 'e', true), GORGE_REFUSED);
  assert_null(l1_get(&l1, "none 2"));
  /* what is expired was not there */
  assert_int_equal(l1_put(&l1, "old", "value", 10), GORGE_STORED);
  l1.now_ms += 10;
  assert_int_equal(exchange(&l1, "old", 'n', false), GORGE_STORED);
  assert_string_equal(l1_get(&l1, "old"), "new");
}

/* The removal of a delete may come after a read that the delete's stamp came before. */
static void test_a_delete_under_way_is_not_undone(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(l1_put(&l1, "k", "value", 1000), GORGE_STORED);
  struct gorge_key key = l1_key(&l1, "k", 1);
  struct gorge_read r = read_of(&l1, "k");
  l1_delete(&l1, "k", 0);
  struct gorge_snapshot s = l1_snapshot(&l1, "k"); /* from after the stamp, as if the read had still found the entry */
  struct gorge_entry entry = {
      .value = "new", .value_len = 3, .kind = GORGE_KIND_STRING, .expires_ms = l1.now_ms + 1000};
  struct gorge_exchange x = {.word = r.word};
  assert_int_equal(gorge_l1_exchange(l1.zone, &l1.owner, &key, &entry, &s, &x, l1.now_ms, NULL), GORGE_REFUSED);
  assert_null(l1_get(&l1, "k"));
}

static void test_fills_that_run_are_refused_by_a_new_value(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  for (int hard = 0; hard < 2; hard++) {
    struct gorge_snapshot s = l1_snapshot(&l1, "k");
    assert_int_equal(exchange(&l1, "k", 'n', hard == 1), GORGE_STORED);
    assert_int_equal(gorge_l1_snapshot_current(l1.zone, l1.ns, &s), hard == 0);
    assert_int_equal(l1_put_snapshot(&l1, "k", "late", 0, &s), GORGE_REFUSED);
    assert_string_equal(l1_get(&l1, "k"), "new");
  }
}

static void test_what_is_too_large_leaves_what_is_there(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  assert_int_equal(l1_put(&l1, "k", "value", 1000), GORGE_STORED);
  struct gorge_key key = l1_key(&l1, "k", 1);
  struct gorge_snapshot s = l1_snapshot(&l1, "k");
  struct gorge_read r = read_of(&l1, "k");
  char *large = calloc(1, SIZE);
  struct gorge_entry entry = {.value = large, .value_len = SIZE, .kind = GORGE_KIND_STRING, .expires_ms = UINT64_MAX};
  struct gorge_exchange x = {.word = r.word};
  assert_int_equal(gorge_l1_exchange(l1.zone, &l1.owner, &key, &entry, &s, &x, l1.now_ms, NULL), GORGE_TOO_LARGE);
  assert_string_equal(l1_get(&l1, "k"), "value");
  free(large);
}

/* ---- several processes ---- */

enum { KEYS = 4, ADDERS = 3, ROUNDS = 3000 };

static int add_one(struct proc *self, void *arg) {
  struct l1 l1 = l1_enter(arg);
  for (int i = 0; i < ROUNDS; i++) {
    char name[24];
    l1_name(name, (uint64_t)(i % KEYS));
    int status = GORGE_REFUSED;
    while (status != GORGE_STORED) {
      struct gorge_key key = l1_key(&l1, name, strlen(name));
      struct gorge_snapshot s;
      struct gorge_read r;
      uint64_t n = 0, word = 0;
      gorge_l1_snapshot(l1.zone, &key, NULL, 0, &s);
      if (l1_read(&l1, name, strlen(name), false, &r) == GORGE_HIT) {
        memcpy(&n, r.buf, sizeof n);
        word = r.word;
      }
      n++;
      struct gorge_entry entry = {
          .value = (char *)&n, .value_len = sizeof n, .kind = GORGE_KIND_STRING, .expires_ms = l1.now_ms + 100000};
      struct gorge_exchange x = {.word = word, .hard = true};
      status = gorge_l1_exchange(l1.zone, &l1.owner, &key, &entry, &s, &x, l1.now_ms, NULL);
      CHILD_CHECK(status == GORGE_STORED || status == GORGE_REFUSED || status == GORGE_BUSY);
    }
  }
  (void)self;
  return 0;
}

static int touch_all(struct proc *self, void *arg) {
  struct l1 l1 = l1_enter(arg);
  for (int i = 0; i < ROUNDS; i++) {
    char name[24];
    l1_name(name, (uint64_t)(i % KEYS));
    int status = touch(&l1, name, 0, 0, 100000);
    CHILD_CHECK(status == GORGE_OK || status == GORGE_MISS || status == GORGE_BUSY);
  }
  (void)self;
  return 0;
}

/* None is lost, and a touch in between neither undoes nor repeats one. */
static void test_exchanges_of_several_processes(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  struct proc procs[ADDERS + 1];
  for (int i = 0; i < ADDERS; i++) {
    procs[i] = proc_start(add_one, &l1);
  }
  procs[ADDERS] = proc_start(touch_all, &l1);
  for (int i = 0; i <= ADDERS; i++) {
    assert_int_equal(proc_wait(&procs[i]), 0);
  }
  for (uint64_t i = 0; i < KEYS; i++) {
    char name[24];
    l1_name(name, i);
    struct gorge_read r = read_of(&l1, name);
    uint64_t n;
    memcpy(&n, r.buf, sizeof n);
    assert_int_equal(n, ADDERS * ROUNDS / KEYS);
  }
}

static int touch_one(struct proc *self, void *arg) {
  struct l1 l1 = l1_enter(arg);
  for (int i = 0; i < 20 * ROUNDS; i++) {
    (void)touch(&l1, "k", 0, 0, 100000);
  }
  (void)self;
  return 0;
}

/* After a delete has returned, no touch brings the value back. */
static void test_a_touch_does_not_undo_a_delete(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 0, 0);
  struct proc toucher = proc_start(touch_one, &l1);
  for (int i = 0; i < 10 * ROUNDS; i++) {
    assert_int_equal(l1_put(&l1, "k", "value", 1000), GORGE_STORED);
    l1_delete(&l1, "k", i % 2 == 0 ? 0 : UINT32_MAX + (uint64_t)i);
    for (int n = 0; n < 20; n++) {
      assert_null(l1_get(&l1, "k"));
    }
  }
  assert_int_equal(proc_wait(&toucher), 0);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_longer_and_a_shorter_life),
      cmocka_unit_test(test_without_contact_no_life_grows),
      cmocka_unit_test(test_versions),
      cmocka_unit_test(test_tags_stay),
      cmocka_unit_test(test_a_value_of_any_size),
      cmocka_unit_test(test_an_exchange_replaces_what_was_read),
      cmocka_unit_test(test_a_delete_under_way_is_not_undone),
      cmocka_unit_test(test_fills_that_run_are_refused_by_a_new_value),
      cmocka_unit_test(test_what_is_too_large_leaves_what_is_there),
      cmocka_unit_test(test_exchanges_of_several_processes),
      cmocka_unit_test(test_a_touch_does_not_undo_a_delete),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
