/* SPDX-License-Identifier: MIT */
/*
 * A million random operations against a plain map: a hit is what the map holds, a fill that the map knows to be late is
 * refused. What the map holds and L1 does not was evicted: allowed where there is little room, not where there is much.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test/l1_support.h"

enum { KEYS = 4000, TAGS = 12, LEN_MAX = 3000, STALE = 64 };

struct model_entry {
  bool there;
  uint32_t len, kind, ntags;
  uint32_t tag[3];
  uint64_t seed, version, expires_ms;
  uint64_t changed; /* when it was last invalidated or stored */
};

/* A fill that has begun. */
struct late {
  uint32_t key, ntags;
  uint32_t tag[3];
  uint64_t began;
  struct gorge_snapshot s;
};

struct model {
  struct l1 l1;
  uint64_t random, clock; /* the clock counts operations */
  uint32_t usual_len;
  struct model_entry entry[KEYS];
  uint64_t tag_changed[TAGS], epoch_changed;
  struct late late[STALE];
  uint64_t hits, misses, evicted, stored, refused;
};

static const char *const tag_names[TAGS] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"};
static char value[LEN_MAX];

static uint32_t random_below(struct model *m, uint32_t n) { return proc_random(&m->random) % n; }

static uint32_t random_key(struct model *m) {
  return random_below(m, 2) ? l1_zipf(&m->random, KEYS) : random_below(m, KEYS);
}

static struct gorge_key key_of(struct model *m, uint32_t number, char name[24]) {
  l1_name(name, number);
  return l1_key(&m->l1, name, strlen(name));
}

static uint32_t list_tags(const uint32_t *tag, uint32_t n, struct gorge_tag *out) {
  for (uint32_t i = 0; i < n; i++) {
    out[i] = (struct gorge_tag){tag_names[tag[i]], 1};
  }
  return n;
}

static bool visible(const struct model *m, const struct model_entry *e) {
  bool there = e->there && e->expires_ms > m->l1.now_ms && e->changed > m->epoch_changed;
  for (uint32_t i = 0; i < e->ntags; i++) {
    there = there && e->changed > m->tag_changed[e->tag[i]];
  }
  return there;
}

static void begin(struct model *m, struct late *late) {
  char name[24];
  struct gorge_tag tags[3];
  late->key = random_key(m);
  late->ntags = random_below(m, 4) == 0 ? 1 + random_below(m, 3) : 0;
  for (uint32_t i = 0; i < late->ntags; i++) {
    late->tag[i] = random_below(m, TAGS);
  }
  late->began = m->clock;
  struct gorge_key key = key_of(m, late->key, name);
  gorge_l1_snapshot(m->l1.zone, &key, tags, list_tags(late->tag, late->ntags, tags), &late->s);
}

/* Whether something that the fill depends on was invalidated since it began. */
static bool overtaken(const struct model *m, const struct late *late, uint64_t invalidated) {
  bool late_now = invalidated > late->began || m->epoch_changed > late->began;
  for (uint32_t i = 0; i < late->ntags; i++) {
    late_now = late_now || m->tag_changed[late->tag[i]] > late->began;
  }
  return late_now;
}

static uint64_t invalidated[KEYS]; /* when each key was last invalidated without a version */

static void end(struct model *m, struct late *late) {
  char name[24];
  struct gorge_tag tags[3];
  struct model_entry *e = &m->entry[late->key];
  uint64_t seed = m->clock + 1, version = random_below(m, 2) ? e->version + random_below(m, 3) : 0;
  uint32_t len = 16 + (random_below(m, 20) == 0 ? random_below(m, LEN_MAX - 16) : random_below(m, m->usual_len));
  l1_fill(value, len, late->key, seed);
  struct gorge_entry entry = {.value = value,
                              .value_len = len,
                              .kind = random_below(m, 7),
                              .version = version,
                              .expires_ms = m->l1.now_ms + 1 + random_below(m, 5000),
                              .ntags = list_tags(late->tag, late->ntags, tags),
                              .tags = tags};
  struct gorge_key key = key_of(m, late->key, name);
  int status = gorge_l1_insert(m->l1.zone, &m->l1.owner, &key, &entry, &late->s, m->l1.now_ms, NULL);
  if (status == GORGE_REFUSED) {
    bool untouched = late->began == m->clock;
    assert_true(!untouched || e->version > version);
    m->refused++;
    return;
  }
  assert_int_equal(status, GORGE_STORED);
  assert_false(overtaken(m, late, invalidated[late->key]));
  assert_false(visible(m, e) && e->version > version && e->changed > late->began && version == 0);
  m->stored++;
  *e = (struct model_entry){.there = true,
                            .len = len,
                            .kind = entry.kind,
                            .ntags = late->ntags,
                            .seed = seed,
                            .version = version,
                            .expires_ms = entry.expires_ms,
                            .changed = m->clock};
  memcpy(e->tag, late->tag, sizeof e->tag);
}

static void look(struct model *m) {
  char name[24];
  uint32_t number = random_key(m);
  struct model_entry *e = &m->entry[number];
  struct gorge_read read;
  l1_name(name, number);
  if (l1_read(&m->l1, name, strlen(name), random_below(m, 2), &read) != GORGE_HIT) {
    m->misses++;
    m->evicted += visible(m, e);
    return;
  }
  m->hits++;
  assert_true(visible(m, e));
  l1_fill(value, e->len, number, e->seed);
  assert_int_equal(read.len, e->len);
  assert_memory_equal(read.buf, value, e->len);
  assert_int_equal(read.kind, e->kind);
  assert_int_equal(read.version, e->version);
  assert_int_equal(read.ntags, e->ntags);
  assert_true(read.expires_ms == (double)e->expires_ms);
}

static void invalidate(struct model *m) {
  char name[24];
  uint32_t number = random_key(m);
  struct model_entry *e = &m->entry[number];
  uint64_t version = random_below(m, 2) ? e->version + random_below(m, 3) - 1 : 0;
  l1_name(name, number);
  l1_delete(&m->l1, name, version);
  if (version == 0) {
    invalidated[number] = m->clock;
  }
  if (version == 0 || e->version < version) {
    e->there = false;
    assert_false(l1_has(&m->l1, name));
  }
}

static void step(struct model *m) {
  struct late now;
  uint32_t what = random_below(m, 1000);
  m->clock++;
  if (what < 550) {
    look(m);
  } else if (what < 850) {
    begin(m, &now);
    end(m, &now);
  } else if (what < 900) {
    begin(m, &m->late[random_below(m, STALE)]);
  } else if (what < 930) {
    struct late *late = &m->late[random_below(m, STALE)];
    if (late->began != 0) {
      end(m, late);
      late->began = 0;
    }
  } else if (what < 980) {
    invalidate(m);
  } else if (what < 989) {
    m->l1.now_ms += random_below(m, 100);
  } else if (what < 999 || random_below(m, 20) != 0) {
    uint32_t tag = random_below(m, TAGS);
    gorge_l1_invalidate_tag(m->l1.zone, m->l1.ns, tag_names[tag], 1);
    m->tag_changed[tag] = m->clock;
  } else {
    gorge_l1_bump_epoch(m->l1.zone, m->l1.ns);
    m->epoch_changed = m->clock;
  }
}

/* A zone in which no two of the tags share a generation: what is missing then was evicted. */
static struct l1 open_distinct(uint64_t size, uint32_t shards, uint32_t buckets) {
  for (;;) {
    struct l1 l1 = l1_open(size, shards, buckets);
    struct gorge_key key = l1_key(&l1, "key", 3);
    struct gorge_tag tags[TAGS];
    struct gorge_snapshot s;
    static const uint32_t all[TAGS] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    bool distinct = true;
    gorge_l1_snapshot(l1.zone, &key, tags, list_tags(all, TAGS, tags), &s);
    for (uint32_t i = 0; i < TAGS * TAGS; i++) {
      distinct = distinct && (i / TAGS == i % TAGS || s.tag_cell[i / TAGS] != s.tag_cell[i % TAGS]);
    }
    if (distinct) {
      return l1;
    }
  }
}

static void play(uint64_t size, uint32_t shards, uint32_t buckets, uint64_t operations, bool roomy) {
  struct model *m = calloc(1, sizeof *m);
  m->random = size + buckets;
  m->usual_len = roomy ? 120 : 2900;
  m->l1 = open_distinct(size, shards, buckets);
  memset(invalidated, 0, sizeof invalidated);
  for (uint64_t i = 0; i < operations; i++) {
    step(m);
  }
  assert_true(m->hits > operations / 50);
  assert_true(m->stored > operations / 10);
  assert_true(m->refused > operations / 500);
  if (roomy) {
    assert_int_equal(m->evicted, 0);
  } else {
    assert_true(m->evicted > 0);
  }
  free(m);
}

static void test_with_room_for_all(void **state) {
  (void)state;
  play(64 << 20, 0, 0, 400000, true);
}

static void test_with_little_room(void **state) {
  (void)state;
  play(GORGE_ZONE_SIZE_MIN, 0, 0, 300000, false);
}

static void test_with_a_tiny_index(void **state) {
  (void)state;
  play(GORGE_ZONE_SIZE_MIN, 1, 3, 150000, false);
}

static void test_with_several_tiny_shards(void **state) {
  (void)state;
  play(GORGE_ZONE_SIZE_MIN, 4, 40, 150000, false);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_with_room_for_all),
      cmocka_unit_test(test_with_little_room),
      cmocka_unit_test(test_with_a_tiny_index),
      cmocka_unit_test(test_with_several_tiny_shards),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
