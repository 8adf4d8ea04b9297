/* SPDX-License-Identifier: MIT */
/* The border between the small ring and main: moved at random while entries come and go; the target that it follows. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "l1/adapt.h"
#include "l1/index.h"
#include "l1/log.h"
#include "test/l1_support.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN, TTL = 1 << 30 };

static char value[1 << 20];

static struct gorge_shard shard_of(const struct l1 *l1) {
  struct gorge_shard v = {0};
  assert_true(gorge_shard_at(l1->zone, 0, &v));
  return v;
}

static void put_number(const struct l1 *l1, uint64_t number, uint32_t len, uint64_t ttl_ms) {
  char name[24];
  l1_name(name, number);
  l1_fill(value, len, number, number);
  int status = GORGE_BUSY;
  /* On a busy machine room for a large value may not be made in time. */
  for (int i = 0; i < 100 && status == GORGE_BUSY; i++) {
    status = l1_put_bytes(l1, name, strlen(name), value, len, ttl_ms);
  }
  assert_int_equal(status, GORGE_STORED);
}

/* Whether it is there, and right. */
static bool has_number(const struct l1 *l1, uint64_t number, bool use) {
  char name[24];
  struct gorge_read read;
  l1_name(name, number);
  if (l1_read(l1, name, strlen(name), use, &read) != GORGE_HIT) {
    return false;
  }
  assert_true(l1_check(read.buf, read.len, number));
  return true;
}

/* One entry or pad record after another, each on its side of the border. Returns how many a slot leads to. */
static uint64_t walk(const struct gorge_shard *v, int ring) {
  const struct gorge_l1_shard *s = v->shared;
  uint64_t at = s->tail[ring], live = 0;
  assert_true(s->end[GORGE_RING_SMALL] <= gorge_log_main_low(v));
  while (at != s->head[ring]) {
    uint64_t position = gorge_shard_position(v, at);
    struct gorge_head head = gorge_head_load(v->area + position);
    if (gorge_head_kind(&head) == GORGE_KIND_PAD) {
      at = ((at >> v->lap_shift) + 1) << v->lap_shift | s->start[ring];
      assert_true(at <= s->head[ring]);
      continue;
    }
    uint32_t units = gorge_entry_units(&head, v->area + position, v->area_units - position);
    assert_true(units > 0);
    assert_int_equal(gorge_head_check(&head), gorge_offset_check(at));
    assert_true(ring == GORGE_RING_MAIN ? position >= s->end[GORGE_RING_SMALL] : position + units <= s->end[ring]);
    for (uint64_t i = 0; i < (uint64_t)v->buckets * GORGE_BUCKET_SLOTS; i++) {
      live += v->slots[i] != 0 && gorge_slot_ring(v->slots[i]) == ring &&
              (v->slots[i] & GORGE_SLOT_OFFSET) == (at & GORGE_SLOT_OFFSET);
    }
    at += units;
    assert_true(at <= s->head[ring]);
  }
  return live;
}

static void check(const struct l1 *l1) {
  struct gorge_shard v = shard_of(l1);
  uint64_t live = walk(&v, GORGE_RING_SMALL) + walk(&v, GORGE_RING_MAIN), slots = 0;
  for (uint64_t i = 0; i < (uint64_t)v.buckets * GORGE_BUCKET_SLOTS; i++) {
    slots += v.slots[i] != 0 && !gorge_slot_passed(v.shared, v.slots[i]);
  }
  assert_int_equal(live, slots);
  assert_int_equal(l1_entries(l1), slots);
}

/* How large values are: of one size, of many, and now and then large ones. */
static uint32_t size_of(uint64_t *random, int kind) {
  uint32_t r = proc_random(random);
  return kind == 0 ? 500 : kind == 1 ? 16 + r % 3000 : r % 40 == 0 ? 16 + proc_random(random) % 300000 : 16 + r % 800;
}

static void test_moved_at_random(void **state) {
  (void)state;
  for (int kind = 0; kind < 3; kind++) {
    struct l1 l1 = l1_open(SIZE, 1, 600);
    struct gorge_shard v = shard_of(&l1);
    uint64_t random = 1 + (uint64_t)kind, raised = 0, lowered = 0, fronts = 0;
    uint32_t end = v.shared->end[0], start = v.shared->start[1];
    for (uint64_t i = 0; i < 120000; i++) {
      if (i % 2000 == 0) {
        v.shared->small_wanted = v.area_units / 100 * (1 + proc_random(&random) % 80);
      }
      uint64_t number = proc_random(&random) % 8000;
      switch (proc_random(&random) % 8) {
        case 0:
        case 1:
        case 2: has_number(&l1, number % 700, true); break;
        case 3: has_number(&l1, number, true); break;
        case 4: l1_delete(&l1, "key:5", 0); break;
        default:
          if (!has_number(&l1, number, true)) {
            put_number(&l1, number, size_of(&random, kind), proc_random(&random) % 8 == 0 ? 50 : TTL);
          }
      }
      l1.now_ms += i % 16 == 0;
      /* The lap of main's head is told by its start going up or down within it, or to where small ends. */
      raised += v.shared->end[0] > end;
      lowered += v.shared->end[0] < end;
      fronts += v.shared->start[1] < start && v.shared->start[1] > v.shared->end[0];
      end = v.shared->end[0];
      start = v.shared->start[1];
      v.shared->misses = 0; /* the target stays where it was put */
      if (i % 3000 == 0) {
        check(&l1);
      }
    }
    check(&l1);
    print_message("%u times up, %u down, %u entries placed in front\n", (unsigned)raised, (unsigned)lowered,
                  (unsigned)fronts);
    assert_true(raised > 30 && lowered > 1 && fronts > 10);
  }
}

/* Inserts until the border has gone to where it is wanted, or as often as that takes at most. */
static uint64_t settle(const struct l1 *l1, uint32_t wanted, uint64_t most) {
  struct gorge_shard v = shard_of(l1);
  static uint64_t number = 1000000, random = 3;
  for (uint64_t i = 0; i < most; i++) {
    v.shared->small_wanted = wanted;
    v.shared->misses = 0;
    if (labs((long)v.shared->end[0] - (long)wanted) < (long)v.area_units / 100 &&
        gorge_log_main_low(&v) - v.shared->end[0] < v.area_units / 100) {
      return i;
    }
    put_number(l1, number++, 500, TTL);
    has_number(l1, number - proc_random(&random) % 1000, true);
  }
  return most;
}

static void test_it_goes_where_it_is_wanted(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 600);
  struct gorge_shard v = shard_of(&l1);
  uint64_t random = 9;
  static const uint32_t percent[] = {10, 80, 5, 40, 39, 41, 1, 80, 79, 2};
  for (uint64_t i = 0; i < 20000; i++) {
    v.shared->misses = 0;
    put_number(&l1, i, 500, TTL);
    has_number(&l1, i - proc_random(&random) % 1000, true);
  }
  uint64_t capacity = l1_entries(&l1);
  for (size_t i = 0; i < sizeof percent / sizeof *percent; i++) {
    uint64_t turns = settle(&l1, v.area_units / 100 * percent[i], 20 * capacity);
    print_message("%u %% of the area: after %u inserts, %u entries fit\n", percent[i], (unsigned)turns,
                  (unsigned)capacity);
    assert_true(turns < 8 * capacity);
    check(&l1);
    /* Nothing of the area is lost on the way. */
    assert_true(l1_entries(&l1) > capacity * 90 / 100);
  }
}

static void test_large_values_find_room_wherever_it_stands(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 600);
  struct gorge_shard v = shard_of(&l1);
  uint32_t largest = v.l1->max_units * GORGE_L1_UNIT - 64;
  for (uint32_t percent = 1; percent <= 80; percent++) {
    for (int step = 0; step < 12; step++) {
      v.shared->small_wanted = v.area_units / 100 * (step < 6 ? percent : 81 - percent);
      v.shared->misses = 0;
      uint32_t len = step % 2 == 0 ? largest : largest / 100 * (percent + (uint32_t)step);
      put_number(&l1, percent * 100 + (uint32_t)step, len, TTL);
      assert_true(has_number(&l1, percent * 100 + (uint32_t)step, true));
      for (uint64_t i = 0; i < 40; i++) {
        put_number(&l1, 100000 + i + (uint64_t)step * 40 + (uint64_t)percent * 1000, 16 + (uint32_t)i * 500, TTL);
      }
    }
  }
  check(&l1);
}

/* Tells hits and as many misses as move the target, as shards do. */
static uint32_t target_after(const struct gorge_shard *v, uint32_t small, uint32_t main, int periods) {
  for (int i = 0; i < periods; i++) {
    v->shared->hits[GORGE_RING_SMALL] = small;
    v->shared->hits[GORGE_RING_MAIN] = main;
    v->shared->misses = (uint32_t)(2 * v->shared->entries * v->l1->shards) + 256;
    gorge_adapt_share(v);
  }
  return v->shared->small_wanted;
}

static void test_the_target_follows_hits_per_byte(void **state) {
  (void)state;
  struct l1 l1 = l1_open(16 << 20, 0, 0);
  struct gorge_shard v = shard_of(&l1), other = {0};
  assert_true(gorge_shard_at(l1.zone, v.l1->shards - 1, &other));
  for (uint64_t i = 0; i < 100000; i++) {
    put_number(&l1, i, 100, TTL);
  }
  uint32_t area = v.area_units, before = v.shared->small_wanted;
  assert_in_range(before, area / 100 * 9, area / 10);
  assert_in_range(target_after(&v, 1000, 9000, 1), before - area / 1000, before + area / 1000); /* the same per byte */
  uint32_t more = target_after(&v, 3000, 3000, 1); /* nine times the hits per byte of main: ln 9 = 2.2 % */
  assert_in_range(more, before + area / 1000 * 21, before + area / 1000 * 23);
  /* Another shard hears of it when it tells its own counts. */
  assert_int_not_equal(other.shared->small_wanted, more);
  other.shared->misses = 1;
  gorge_adapt_share(&other);
  assert_int_equal(other.shared->small_wanted, more);
  assert_in_range(target_after(&v, 1000000, 0, 100), area / 100 * 79, area / 100 * 80 + 100);
  assert_in_range(target_after(&v, 0, 1000000, 100), area / 101, area / 99);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_moved_at_random),
      cmocka_unit_test(test_it_goes_where_it_is_wanted),
      cmocka_unit_test(test_large_values_find_room_wherever_it_stands),
      cmocka_unit_test(test_the_target_follows_hits_per_byte),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
