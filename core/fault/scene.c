/* SPDX-License-Identifier: MIT */
#include "fault/scene.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fault/step.h"
#include "flight/table.h"
#include "shm/layout.h"
#include "test/seeds.h"

const char FAULT_TARGET[] = "the key";
static const char FLIGHT[] = "the flight";
enum { FLIGHT_NS = 2 };

/* --- images --- */

/* What lies before the shards, and the hot shard; the rest is cold. */
struct parts {
  char *head, *shard;
  size_t head_size, shard_size;
};

static struct parts parts_of(const struct fault_scene *s) {
  const struct gorge_l1_header *l1 = gorge_l1_header(s->l1.zone);
  char *base = s->l1.zone->base;
  return (struct parts){.head = base,
                        .head_size = (size_t)((const char *)l1 - base) + l1->shards_at,
                        .shard = (char *)s->shard.shared,
                        .shard_size = l1->shard_bytes};
}

void fault_save(struct fault_scene *s) {
  memcpy(s->image, s->l1.zone->base, s->l1.zone->size);
  s->image_said = *s->said;
}

void fault_restore(struct fault_scene *s) {
  memcpy(s->l1.zone->base, s->image, s->l1.zone->size);
  *s->said = s->image_said;
}

void fault_reset(struct fault_scene *s) {
  memcpy(s->l1.zone->base, s->blank, s->l1.zone->size);
  memset(s->said, 0, sizeof *s->said);
  s->all_gone = false;
  s->fill_value = NULL;
}

void fault_prepared(struct fault_scene *s) { memcpy(s->prepared, s->l1.zone->base, s->l1.zone->size); }

bool fault_unchanged(const struct fault_scene *s) {
  struct parts p = parts_of(s);
  return memcmp(p.head, s->image, p.head_size) == 0 &&
         memcmp(p.shard, s->image + (p.shard - p.head), p.shard_size) == 0;
}

bool fault_cold_unchanged(const struct fault_scene *s) {
  struct parts p = parts_of(s);
  char *end = p.head + s->l1.zone->size, *after = p.shard + p.shard_size, *before = p.head + p.head_size;
  return memcmp(before, s->prepared + (before - p.head), (size_t)(p.shard - before)) == 0 &&
         memcmp(after, s->prepared + (after - p.head), (size_t)(end - after)) == 0;
}

/* --- contents --- */

static bool in_hot_shard(const struct fault_scene *s, uint32_t ns, const char *name) {
  struct gorge_key key;
  struct gorge_shard v;
  gorge_key_init(s->l1.zone, ns, name, (uint32_t)strlen(name), &key);
  return gorge_shard_of(s->l1.zone, key.hash, &v) && v.shared == s->shard.shared;
}

/* The next name after *number that lies in the hot shard, or in another one. */
static struct fault_name next_name(const struct fault_scene *s, uint32_t ns, bool hot, uint64_t *number) {
  struct fault_name name;
  do {
    name.number = ++*number;
    l1_name(name.text, name.number);
  } while (in_hot_shard(s, ns, name.text) != hot);
  return name;
}

uint32_t fault_length(uint64_t number) {
  return number % 16 == 7 ? 3000 : 40 + (uint32_t)(number * 37 % 700); /* none may be multiples of four only */
}

void fault_store(struct fault_scene *s, const struct fault_name *name, uint64_t seed) {
  char value[FAULT_VALUE_MAX];
  uint32_t len = fault_length(name->number);
  l1_fill(value, len, name->number, seed);
  assert_int_equal(l1_put_bytes(&s->l1, name->text, strlen(name->text), value, len, 1 << 30), GORGE_STORED);
}

void fault_fill(struct fault_scene *s, uint64_t seed) {
  for (int i = 0; i < FAULT_KEYS; i++) {
    fault_store(s, &s->keys[i], seed + (uint64_t)i);
  }
}

/* Entries that were removed in each of the ways there are; but for the first, their bytes are still there. */
static void make_gone(struct fault_scene *s) {
  static const char *const tags[] = {"gone"};
  struct l1 other = s->l1;
  other.ns = 1;
  assert_int_equal(l1_put(&s->l1, s->gone[0].text, "gone", 1 << 30), GORGE_STORED);
  assert_int_equal(l1_put_version(&s->l1, s->gone[1].text, "gone", 5), GORGE_STORED);
  assert_int_equal(l1_put_tagged(&s->l1, s->gone[2].text, "gone", tags, 1), GORGE_STORED);
  assert_int_equal(l1_put(&other, s->gone[3].text, "gone", 1 << 30), GORGE_STORED);
  l1_delete(&s->l1, s->gone[0].text, 0);
  l1_delete(&s->l1, s->gone[1].text, 9);
  gorge_l1_invalidate_tag(s->l1.zone, 0, "gone", 4);
  gorge_l1_bump_epoch(s->l1.zone, 1);
}

/* All that chance chose when the zone was made. */
static void set_seeds(struct fault_scene *s, uint64_t seed) {
  struct gorge_zone_header *h = s->l1.zone->header;
  seeds_set(s->l1.zone, seed);
  h->boot_id = proc_random(&seed);
  h->hash_seed = proc_random(&seed);
}

static void name_all(struct fault_scene *s) {
  uint64_t number = 0;
  for (int i = 0; i < FAULT_KEYS; i++) {
    s->keys[i] = next_name(s, 0, true, &number);
  }
  for (int i = 0; i < FAULT_FRESH; i++) {
    s->fresh[i] = next_name(s, 0, true, &number);
  }
  for (int i = 0; i < FAULT_GONE; i++) {
    s->gone[i] = next_name(s, i == 3, true, &number);
  }
  for (int i = 0; i < FAULT_OTHERS; i++) {
    s->others[i] = next_name(s, 0, false, &number);
  }
}

/* --- others --- */

static int live(struct proc *self, void *arg) {
  const struct fault_scene *s = arg;
  struct l1 l1 = l1_enter(&s->l1);
  alarm(0); /* it ends with this process */
  proc_say(self, l1.owner.id);
  while (pause() < 0) {
  }
  return 0;
}

struct proc fault_live_owner(struct fault_scene *s, uint32_t *id) {
  struct proc p = proc_start(live, s);
  *id = (uint32_t)proc_hear(&p);
  return p;
}

uint32_t fault_dead_owner(struct fault_scene *s) {
  uint32_t id;
  struct proc p = fault_live_owner(s, &id);
  proc_kill(&p);
  assert_false(gorge_owner_alive(s->l1.zone, id));
  return id;
}

void fault_hold(struct fault_scene *s, uint32_t owner) {
  assert_int_equal(gorge_lock_acquire(s->l1.zone, &s->shard.shared->lock, owner, 0, NULL, NULL), GORGE_OK);
}

void fault_let_go(struct fault_scene *s, uint32_t owner) { gorge_lock_release(&s->shard.shared->lock, owner); }

struct gorge_key fault_flight_key(const struct fault_scene *s) {
  struct gorge_key key;
  gorge_key_init(s->l1.zone, FLIGHT_NS, FLIGHT, sizeof FLIGHT - 1, &key);
  return key;
}

struct gorge_lock *fault_flight_lock(struct fault_scene *s) {
  uint32_t index;
  struct gorge_key key = fault_flight_key(s);
  return &gorge_flight_set_of(s->l1.zone, key.hash, &index)->lock;
}

struct fault_scene *fault_scene_open(uint64_t seed) {
  struct fault_scene *s = calloc(1, sizeof *s);
  assert_non_null(s);
  s->l1 = l1_open(GORGE_ZONE_SIZE_MIN, FAULT_SHARDS, FAULT_BUCKETS);
  set_seeds(s, seed);
  struct gorge_key key = l1_key(&s->l1, FAULT_TARGET, strlen(FAULT_TARGET));
  assert_true(gorge_shard_of(s->l1.zone, key.hash, &s->shard));
  s->said = proc_shared(sizeof *s->said);
  s->image = proc_shared(s->l1.zone->size);
  s->blank = malloc(s->l1.zone->size);
  s->prepared = malloc(s->l1.zone->size);
  assert_true(s->blank != NULL && s->prepared != NULL);
  s->control = fault_control_new();
  name_all(s);
  for (int i = 0; i < FAULT_OTHERS; i++) {
    fault_store(s, &s->others[i], seed + (uint64_t)i);
  }
  fault_fill(s, seed);
  make_gone(s);
  assert_true(l1_count(&s->l1, GORGE_COUNT_EVICTIONS) > 0);
  s->wake_fd = gorge_wake_open(s->l1.zone, s->l1.owner.worker);
  assert_true(s->wake_fd >= 0);
  s->helper = fault_live_owner(s, &s->sleeper);
  memcpy(s->blank, s->l1.zone->base, s->l1.zone->size);
  return s;
}

void fault_scene_close(struct fault_scene *s) {
  proc_kill(&s->helper);
  gorge_wake_close(s->l1.zone, s->l1.owner.worker, s->wake_fd);
  free(s->blank);
  free(s->prepared);
  free(s);
}
