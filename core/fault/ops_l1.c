/* SPDX-License-Identifier: MIT */
/* The operations of L1. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "fault/peer.h"
#include "l1/log.h"

enum {
  LITTLE_VALUE = 300,
  LONG_VALUE = 1100, /* copied by a repeated instruction */
  EVICTING_VALUE = 1900,
  MAIN_VALUE = 3000,
  TOO_LARGE_VALUE = 60000,
  NEW_VERSION = 7
};

/* --- what is prepared --- */

static void absent(struct fault_scene *s) { l1_delete(&s->l1, FAULT_TARGET, 0); }

static void present(struct fault_scene *s) {
  static const char *const tags[] = {"t"};
  struct gorge_tag tag = {tags[0], 1};
  struct gorge_key key = l1_key(&s->l1, FAULT_TARGET, strlen(FAULT_TARGET));
  struct gorge_snapshot snapshot;
  struct gorge_entry entry = {.value = "old",
                              .value_len = 3,
                              .kind = GORGE_KIND_STRING,
                              .version = 3,
                              .expires_ms = UINT64_MAX,
                              .ntags = 1,
                              .tags = &tag};
  gorge_l1_snapshot(s->l1.zone, &key, &tag, 1, &snapshot);
  assert_int_equal(gorge_l1_insert(s->l1.zone, &s->l1.owner, &key, &entry, &snapshot, s->l1.now_ms, NULL),
                   GORGE_STORED);
}

/* The rings go round; what is read often is passed over, and moves from the small one to the main one. */
static void present_and_used(struct fault_scene *s) {
  present(s);
  for (int i = 0; i < 3; i++) {
    fault_fill(s, (uint64_t)i * 1000 + 17);
    fault_check_read(s);
    fault_check_read(s);
    fault_target(s);
  }
}

/* Evicted, and known to the history. */
static void evicted(struct fault_scene *s) {
  present(s);
  for (int i = 0; i < 20 && fault_target(s) != NULL; i++) {
    fault_fill(s, (uint64_t)i * 1000 + 31);
  }
}

/* Entries so small that the index is full before the log is. */
static void crowded(struct fault_scene *s) {
  for (uint64_t number = 100000, stored = 0; stored < (uint64_t)FAULT_BUCKETS * GORGE_BUCKET_SLOTS * 2; number++) {
    char name[24];
    struct gorge_shard v;
    l1_name(name, number);
    struct gorge_key key = l1_key(&s->l1, name, strlen(name));
    if (gorge_shard_of(s->l1.zone, key.hash, &v) && v.shared == s->shard.shared) {
      l1_put_bytes(&s->l1, name, strlen(name), "x", 1, 1 << 30);
      stored++;
    }
  }
}

/* One entry more in the hot shard. */
static void store_another(struct fault_scene *s) {
  static uint64_t number = 200000;
  static char value[LITTLE_VALUE];
  struct gorge_shard v = {0};
  struct gorge_key key;
  char name[24];
  do {
    l1_name(name, number++);
    key = l1_key(&s->l1, name, strlen(name));
    assert_true(gorge_shard_of(s->l1.zone, key.hash, &v));
  } while (v.shared != s->shard.shared);
  l1_put_bytes(&s->l1, name, strlen(name), value, sizeof value, 1 << 30);
  s->shard.shared->misses = 0; /* the target stays where it is put */
}

/* Goes on for a while until the small ring stands as asked; it is to have `percent` of the area. Returns whether it does. */
static bool moves_to(struct fault_scene *s, uint32_t percent, bool (*stands)(const struct gorge_shard *v)) {
  struct gorge_shard *v = &s->shard;
  present(s);
  for (int i = 0; i < 20000 && !stands(v); i++) {
    v->shared->small_wanted = v->area_units / 100 * percent;
    store_another(s);
  }
  v->shared->small_wanted = v->area_units / 100 * percent;
  return stands(v);
}

enum { LOW = 5, HIGH = 40 }; /* percent */

static bool nowhere(const struct gorge_shard *v) {
  (void)v;
  return false;
}

/* From one share of the area to another. Small may come to its new end without having stood so: then it goes back and sets out anew. */
static void border(struct fault_scene *s, uint32_t from, uint32_t to, bool (*stands)(const struct gorge_shard *v)) {
  bool there = moves_to(s, to, stands);
  for (int i = 0; i < 10 && !there; i++) {
    (void)moves_to(s, from, nowhere);
    there = moves_to(s, to, stands);
  }
  assert_true(there);
}

/* The next entry is taken in by moving main's first ones out of the way. */
static bool at_its_end(const struct gorge_shard *v) {
  return gorge_log_wants_more(v, gorge_units(LITTLE_VALUE)) && gorge_log_main_low(v) == gorge_log_small_end(v);
}
static void small_grows(struct fault_scene *s) { border(s, LOW, HIGH, at_its_end); }

/* The next entry begins a lap, before which the end comes down. */
static bool at_its_early_end(const struct gorge_shard *v) {
  const struct gorge_l1_shard *shared = v->shared;
  uint64_t head = shared->head[GORGE_RING_SMALL], tail = shared->tail[GORGE_RING_SMALL];
  return shared->small_lap < gorge_log_small_end(v) && head >> v->lap_shift == tail >> v->lap_shift &&
         gorge_shard_position(v, head) + gorge_units(LITTLE_VALUE) > shared->small_lap;
}
static void small_shrinks(struct fault_scene *s) {
  border(s, LOW, HIGH, at_its_end);
  border(s, HIGH, LOW, at_its_early_end);
}

/* The next entry sends small's oldest to main, in front of its first one. */
static bool before_a_gap(const struct gorge_shard *v) {
  uint64_t at;
  struct gorge_head head;
  uint32_t units = gorge_log_oldest(v, GORGE_RING_SMALL, &at, &head);
  return units > 0 && gorge_log_place_front(v, units, &at) &&
         !gorge_log_place(v, GORGE_RING_SMALL, GORGE_HEAD_UNITS + 2, 0, &at) &&
         !gorge_log_place(v, GORGE_RING_MAIN, units, gorge_log_reserve(v), &at);
}
static void main_takes(struct fault_scene *s) {
  bool there = false;
  for (int i = 0; i < 10 && !there; i++) { /* small may come to its new end without having met a gap */
    border(s, LOW, HIGH, at_its_end);
    there = moves_to(s, LOW, before_a_gap);
  }
  assert_true(there);
}

/* The next miss is the one that moves the target. */
static void target_moves(struct fault_scene *s) {
  present_and_used(s);
  absent(s);
  s->shard.shared->misses = 1 << 20;
  s->shard.shared->hits[GORGE_RING_SMALL] = 1000;
}

static void forgotten(struct fault_scene *s) {
  present(s);
  gorge_shard_forget(s->l1.zone, &s->shard, 1); /* who enters next starts with an empty log */
  s->all_gone = true;
}

static void held_by_dead(struct fault_scene *s) {
  present(s);
  fault_hold(s, fault_dead_owner(s));
}

static void held(struct fault_scene *s) {
  present(s);
  fault_hold(s, s->sleeper);
}

/* The holder was given up before: others do not wait for it again. */
static void held_and_given_up(struct fault_scene *s) {
  held(s);
  l1_delete(&s->l1, s->keys[5].text, 0);
  s->all_gone = true;
}

/* --- what is done --- */

static void ready(struct fault_scene *s, struct fault_victim *v) {
  v->l1 = l1_enter(&s->l1);
  v->key = l1_key(&v->l1, FAULT_TARGET, strlen(FAULT_TARGET));
}

/* A fill of `len` bytes that has begun. */
static void ready_fill(struct fault_scene *s, struct fault_victim *v, uint32_t len, uint64_t version, bool tagged) {
  static char value[TOO_LARGE_VALUE] = "late";
  ready(s, v);
  v->tag = (struct gorge_tag){"t", 1};
  v->entry = (struct gorge_entry){.value = value,
                                  .value_len = len,
                                  .kind = GORGE_KIND_STRING,
                                  .version = version,
                                  .expires_ms = UINT64_MAX,
                                  .ntags = tagged,
                                  .tags = &v->tag};
  gorge_l1_snapshot(v->l1.zone, &v->key, &v->tag, tagged, &v->snapshot);
}

static void ready_short(struct fault_scene *s, struct fault_victim *v) { ready_fill(s, v, 4, NEW_VERSION, true); }
static void ready_plain(struct fault_scene *s, struct fault_victim *v) { ready_fill(s, v, 4, 0, false); }
static void ready_long(struct fault_scene *s, struct fault_victim *v) {
  ready_fill(s, v, LONG_VALUE, NEW_VERSION, true);
}
static void ready_evicting(struct fault_scene *s, struct fault_victim *v) {
  ready_fill(s, v, EVICTING_VALUE, NEW_VERSION, true);
}
static void ready_little(struct fault_scene *s, struct fault_victim *v) {
  ready_fill(s, v, LITTLE_VALUE, NEW_VERSION, true);
}
static void ready_main(struct fault_scene *s, struct fault_victim *v) {
  ready_fill(s, v, MAIN_VALUE, NEW_VERSION, true);
}
static void ready_too_large(struct fault_scene *s, struct fault_victim *v) {
  ready_fill(s, v, TOO_LARGE_VALUE, NEW_VERSION, true);
}
static void ready_older(struct fault_scene *s, struct fault_victim *v) { ready_fill(s, v, 4, 2, true); }

/* What is to be exchanged was read after the snapshot. */
static void ready_exchange(struct fault_scene *s, struct fault_victim *v) {
  struct gorge_read read;
  ready_short(s, v);
  CHILD_CHECK(l1_read(&v->l1, FAULT_TARGET, strlen(FAULT_TARGET), false, &read) == GORGE_HIT);
  v->token = read.word;
}

static void insert(struct fault_scene *s, struct fault_victim *v) {
  v->status = gorge_l1_insert(s->l1.zone, &v->l1.owner, &v->key, &v->entry, &v->snapshot, s->l1.now_ms, NULL);
}
static void set(struct fault_scene *s, struct fault_victim *v) {
  v->status = gorge_l1_set(s->l1.zone, &v->l1.owner, &v->key, &v->entry, s->l1.now_ms, NULL);
}
static void exchange(struct fault_scene *s, struct fault_victim *v) {
  const struct gorge_exchange exchange = {.word = v->token, .hard = true};
  v->status =
      gorge_l1_exchange(s->l1.zone, &v->l1.owner, &v->key, &v->entry, &v->snapshot, &exchange, s->l1.now_ms, NULL);
}
static void touch(struct fault_scene *s, struct fault_victim *v) {
  const struct gorge_touch touch = {.expires_ms = UINT64_MAX - 1};
  v->status = gorge_l1_touch(s->l1.zone, &v->l1.owner, &v->key, &touch, s->l1.now_ms);
}
static void delete (struct fault_scene *s, struct fault_victim *v) {
  gorge_l1_invalidate(s->l1.zone, &v->l1.owner, &v->key, 0, &v->snapshot);
}
static void message(struct fault_scene *s, struct fault_victim *v) {
  gorge_l1_invalidate(s->l1.zone, &v->l1.owner, &v->key, NEW_VERSION, NULL);
}
static void old_message(struct fault_scene *s, struct fault_victim *v) {
  gorge_l1_invalidate(s->l1.zone, &v->l1.owner, &v->key, 2, NULL);
}
static void invalidate_tag(struct fault_scene *s, struct fault_victim *v) {
  gorge_l1_invalidate_tag(s->l1.zone, v->l1.ns, "t", 1);
}
static void bump_epoch(struct fault_scene *s, struct fault_victim *v) { gorge_l1_bump_epoch(s->l1.zone, v->l1.ns); }
static void read(struct fault_scene *s, struct fault_victim *v) {
  struct gorge_read out;
  v->status = l1_read(&v->l1, FAULT_TARGET, strlen(FAULT_TARGET), true, &out);
  (void)s;
}

/* --- what came of it --- */

static const char *target_is(struct fault_scene *s, const char *expected) {
  const char *value = fault_target(s);
  bool same = value == expected || (value != NULL && expected != NULL && strcmp(value, expected) == 0);
  return same ? NULL : fault_complain(s, "undisturbed, it leaves %.20s", value != NULL ? value : "nothing");
}
static const char *status_is(struct fault_scene *s, int expected, const char *value) {
  if (s->said->status != expected) {
    return fault_complain(s, "undisturbed, its status is %d", s->said->status);
  }
  return target_is(s, value);
}
static const char *stored(struct fault_scene *s) { return status_is(s, GORGE_STORED, "late"); }
static const char *refused(struct fault_scene *s) { return status_is(s, GORGE_REFUSED, "old"); }
static const char *too_large(struct fault_scene *s) { return status_is(s, GORGE_TOO_LARGE, NULL); }
static const char *busy(struct fault_scene *s) { return status_is(s, GORGE_BUSY, "old"); }
static const char *busy_and_gone(struct fault_scene *s) { return status_is(s, GORGE_BUSY, NULL); }
static const char *gone(struct fault_scene *s) { return target_is(s, NULL); }
static const char *still_there(struct fault_scene *s) { return target_is(s, "old"); }
static const char *touched(struct fault_scene *s) { return status_is(s, GORGE_OK, "old"); }
static const char *was_read(struct fault_scene *s) { return status_is(s, GORGE_HIT, "old"); }

static const char *shard_gone(struct fault_scene *s) {
  s->all_gone = true;
  return gone(s);
}

const struct fault_op fault_ops_l1[] = {
    {.name = "insert", .prepare = absent, .ready = ready_short, .act = insert, .done = stored},
    {.name = "insert without tag and version",
     .flags = FAULT_UNTAGGED,
     .prepare = absent,
     .ready = ready_plain,
     .act = insert,
     .done = stored},
    {.name = "overwrite", .prepare = present, .ready = ready_short, .act = insert, .done = stored},
    {.name = "overwrite with a long value", .prepare = present, .ready = ready_long, .act = insert, .done = stored},
    {.name = "evict", .prepare = present, .ready = ready_evicting, .act = insert, .done = stored},
    {.name = "pass over and promote",
     .prepare = present_and_used,
     .ready = ready_little,
     .act = insert,
     .done = stored},
    {.name = "insert what was evicted", .prepare = evicted, .ready = ready_short, .act = insert, .done = stored},
    {.name = "insert into a full index", .prepare = crowded, .ready = ready_short, .act = insert, .done = stored},
    {.name = "insert into the main ring", .prepare = present, .ready = ready_main, .act = insert, .done = stored},
    {.name = "insert what is too large",
     .prepare = present,
     .ready = ready_too_large,
     .act = insert,
     .done = too_large},
    {.name = "insert what is old", .prepare = present, .ready = ready_older, .act = insert, .done = refused},
    {.name = "set",
     .flags = FAULT_UNTAGGED | FAULT_SETS,
     .prepare = present,
     .ready = ready_plain,
     .act = set,
     .done = stored},
    {.name = "set and evict",
     .flags = FAULT_SETS,
     .prepare = present_and_used,
     .ready = ready_little,
     .act = set,
     .done = stored},
    {.name = "small takes from main", .prepare = small_grows, .ready = ready_little, .act = insert, .done = stored},
    {.name = "small gives", .prepare = small_shrinks, .ready = ready_little, .act = insert, .done = stored},
    {.name = "main takes", .prepare = main_takes, .ready = ready_short, .act = insert, .done = stored},
    {.name = "move the target", .prepare = target_moves, .ready = ready_short, .act = insert, .done = stored},
    {.name = "exchange", .prepare = present, .ready = ready_exchange, .act = exchange, .done = stored},
    {.name = "touch", .prepare = present, .ready = ready, .act = touch, .done = touched},
    {.name = "delete", .prepare = present, .ready = ready, .act = delete, .done = gone},
    {.name = "delete what is not there", .prepare = absent, .ready = ready, .act = delete, .done = gone},
    {.name = "message", .prepare = present, .ready = ready, .act = message, .done = gone},
    {.name = "old message", .prepare = present, .ready = ready, .act = old_message, .done = still_there},
    {.name = "invalidate a tag", .prepare = present, .ready = ready, .act = invalidate_tag, .done = gone},
    {.name = "new epoch", .prepare = present, .ready = ready, .act = bump_epoch, .done = gone},
    {.name = "read", .prepare = present, .ready = ready, .act = read, .done = was_read},
    {.name = "take the lock over", .prepare = held_by_dead, .ready = ready_short, .act = insert, .done = stored},
    {.name = "take the lock over to delete", .prepare = held_by_dead, .ready = ready, .act = delete, .done = gone},
    {.name = "start clean", .prepare = forgotten, .ready = ready_short, .act = insert, .done = stored},
    {.name = "fill beside a stopped holder",
     .flags = FAULT_HELD,
     .prepare = held,
     .ready = ready_short,
     .act = insert,
     .done = busy},
    {.name = "forget", .flags = FAULT_HELD, .prepare = held, .ready = ready, .act = delete, .done = shard_gone},
    {.name = "forget again",
     .flags = FAULT_HELD,
     .prepare = held_and_given_up,
     .ready = ready,
     .act = delete,
     .done = shard_gone},
    {.name = "set beside a stopped holder",
     .flags = FAULT_HELD | FAULT_UNTAGGED | FAULT_SETS,
     .prepare = held,
     .ready = ready_plain,
     .act = set,
     .done = busy_and_gone},
};
const uint32_t fault_ops_l1_count = sizeof fault_ops_l1 / sizeof *fault_ops_l1;
