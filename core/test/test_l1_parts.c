/* SPDX-License-Identifier: MIT */
/* The parts of L1 one by one: words, heads, ring logs, buckets, history. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "l1/entry.h"
#include "l1/ghost.h"
#include "l1/index.h"
#include "l1/log.h"
#include "test/l1_support.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN };

static struct gorge_shard shard_of(const struct l1 *l1) {
  struct gorge_shard v = {0};
  assert_true(gorge_shard_at(l1->zone, 0, &v));
  return v;
}

static void test_words_of_every_length_and_alignment(void **state) {
  (void)state;
  uint32_t shared[40], other[40];
  char text[100], back[100];
  for (uint32_t i = 0; i < sizeof text; i++) {
    text[i] = (char)(i + 1);
  }
  for (uint32_t at = 0; at < 3; at++) {
    for (uint32_t from = 0; from < 4; from++) {
      for (uint32_t len = 0; len < 90; len++) {
        memset(shared, 0xff, sizeof shared);
        memset(back, 0x55, sizeof back);
        gorge_relaxed_write(shared + at, text + from, len);
        assert_int_equal(shared[at + gorge_units(len)], 0xffffffff);
        gorge_relaxed_read(back, shared + at, len);
        assert_memory_equal(back, text + from, len);
        assert_int_equal(back[len], 0x55);
        for (uint32_t i = len; i < gorge_units(len) * 4; i++) {
          assert_int_equal(((char *)(shared + at))[i], 0);
        }
        assert_true(gorge_relaxed_equal(shared + at, text + from, len));
        assert_int_equal(gorge_relaxed_equal(shared + at, text + from + 1, len), len == 0);
        memset(other, 0, sizeof other);
        gorge_relaxed_move(other + from, shared + at, gorge_units(len));
        assert_memory_equal(other + from, shared + at, gorge_units(len) * 4);
        assert_int_equal(other[from + gorge_units(len)], 0);
      }
    }
  }
}

static void test_one_wrong_byte_is_found_anywhere(void **state) {
  (void)state;
  uint32_t shared[16];
  char text[48] = {0};
  for (uint32_t at = 0; at < 2; at++) {
    for (uint32_t len = 1; len <= sizeof text; len++) {
      gorge_relaxed_write(shared + at, text, len);
      for (uint32_t i = 0; i < len; i++) {
        text[i] = 1;
        assert_false(gorge_relaxed_equal(shared + at, text, len));
        text[i] = 0;
      }
    }
  }
}

static void test_a_head_keeps_its_fields_apart(void **state) {
  (void)state;
  for (uint32_t ones = 0; ones < 2; ones++) {
    struct gorge_key key = {.len = ones ? GORGE_KEY_MAX : 1, .ns = ones ? GORGE_NAMESPACES - 1 : 0};
    struct gorge_entry entry = {.value_len = ones ? GORGE_HEAD_VALUE_MAX : 0,
                                .kind = ones ? GORGE_KIND_PAD - 1 : 0,
                                .version = ones,
                                .ntags = ones,
                                .expires_ms = ones ? UINT64_MAX : 0};
    struct gorge_head h = gorge_entry_head(&key, &entry, ones ? 0xff : 0, ones ? 0xff : 0);
    for (uint32_t f = 0; f < 16; f++) {
      gorge_head_set_f(&h, f, 15 - f);
      gorge_head_set_check(&h, (uint64_t)f * 0x1000100010001U);
      assert_int_equal(gorge_head_f(&h), f);
      assert_int_equal(gorge_head_age(&h), 15 - f);
      assert_int_equal(gorge_head_key_len(&h), key.len);
      assert_int_equal(gorge_head_ns(&h), key.ns);
      assert_int_equal(gorge_head_kind(&h), entry.kind);
      assert_int_equal(gorge_head_value_len(&h), entry.value_len);
      assert_int_equal(gorge_head_versioned(&h), ones);
      assert_int_equal(gorge_head_extra(&h), ones);
      assert_int_equal(gorge_head_epoch(&h), ones ? 0xff : 0);
      assert_int_equal(gorge_head_ns_epoch(&h), ones ? 0xff : 0);
      assert_int_equal(gorge_head_expires(&h), ones ? GORGE_HEAD_EXPIRES_MAX : 0);
    }
  }
}

static void test_offset_of_a_slot_beyond_the_range_of_its_bits(void **state) {
  (void)state;
  const uint64_t hash = 0x123456789abcdef0U, range = (uint64_t)1 << GORGE_SLOT_RING_BIT;
  const uint64_t tails[] = {0, 1, range - 10, range, 5 * range - 1, 5 * range + 12345};
  bool passed;
  for (size_t i = 0; i < sizeof tails / sizeof *tails; i++) {
    for (uint64_t ahead = 0; ahead < range / 2; ahead = ahead * 3 + 1) {
      uint64_t word = gorge_slot_word(hash, 1, 3, tails[i] + ahead);
      assert_int_equal(gorge_slot_offset(word, tails[i], &passed), tails[i] + ahead);
      assert_false(passed);
      if (ahead > 0) {
        gorge_slot_offset(word, tails[i] + ahead + 1, &passed);
        assert_true(passed);
      }
      assert_int_equal(gorge_slot_freq(word), 3);
      assert_int_equal(gorge_slot_ring(word), 1);
    }
    /* One that is a whole range older has another check. */
    assert_int_not_equal(gorge_offset_check(tails[i]), gorge_offset_check(tails[i] + range));
  }
  assert_int_not_equal(gorge_slot_word(0, 0, 0, 0), 0);
}

/* Writes a bare entry of `units`, whose value is empty and whose key fills it. */
static bool append(struct gorge_shard *v, int ring, uint32_t units, uint32_t keep, uint64_t *at) {
  if (!gorge_log_place(v, ring, units, keep, at)) {
    return false;
  }
  struct gorge_key key = {.len = (units - GORGE_HEAD_UNITS) * 4};
  struct gorge_entry entry = {0};
  struct gorge_head h = gorge_entry_head(&key, &entry, 0, 0);
  gorge_head_set_check(&h, *at);
  gorge_head_store(gorge_log_begin(v, *at), &h);
  gorge_log_commit(v, ring, *at, units);
  return true;
}

static void test_a_ring_keeps_order_over_many_laps(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct gorge_shard v = shard_of(&l1);
  enum { QUEUE = 1 << 16 };
  static uint64_t offsets[QUEUE];
  static uint32_t sizes[QUEUE];
  for (int ring = 0; ring < GORGE_RINGS; ring++) {
    uint64_t random = 1, first = 0, last = 0, end = v.shared->end[ring], start = v.shared->start[ring];
    uint64_t laps = v.shared->head[ring] >> v.lap_shift;
    while ((v.shared->head[ring] >> v.lap_shift) < laps + 50) {
      uint32_t units = GORGE_HEAD_UNITS + 1 + proc_random(&random) % 200;
      uint64_t at;
      if (append(&v, ring, units, 0, &at)) {
        uint64_t position = gorge_shard_position(&v, at);
        assert_true(position >= start && position + units <= end);
        assert_true(last == first || at > offsets[(last - 1) % QUEUE]);
        offsets[last % QUEUE] = at;
        sizes[last++ % QUEUE] = units;
        continue;
      }
      struct gorge_head head;
      assert_int_equal(gorge_log_oldest(&v, ring, &at, &head), sizes[first % QUEUE]);
      assert_int_equal(at, offsets[first % QUEUE]);
      gorge_log_release(&v, ring, at + sizes[first++ % QUEUE]);
      assert_in_range(gorge_log_used(&v, ring), 0, end - start);
    }
    struct gorge_head head;
    uint64_t at;
    while (first < last) {
      assert_int_equal(gorge_log_oldest(&v, ring, &at, &head), sizes[first % QUEUE]);
      gorge_log_release(&v, ring, at + sizes[first++ % QUEUE]);
    }
    assert_int_equal(gorge_log_oldest(&v, ring, &at, &head), 0);
    assert_int_equal(gorge_log_used(&v, ring), 0);
  }
}

static void test_room_that_is_kept_is_there(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct gorge_shard v = shard_of(&l1);
  struct gorge_head head;
  uint64_t at, random = 3;
  enum { KEEP = 150 };
  for (int i = 0; i < 100000; i++) {
    uint32_t units = 5 + proc_random(&random) % 100;
    while (!append(&v, GORGE_RING_MAIN, units, KEEP, &at)) {
      uint32_t oldest = gorge_log_oldest(&v, GORGE_RING_MAIN, &at, &head);
      gorge_log_release(&v, GORGE_RING_MAIN, at + oldest);
    }
    assert_true(gorge_log_place(&v, GORGE_RING_MAIN, KEEP, 0, &at));
  }
}

static void test_room_is_kept_for_the_largest_of_two_laps(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct gorge_shard v = shard_of(&l1);
  struct gorge_head head;
  uint64_t at, first_lap = v.shared->head[GORGE_RING_MAIN] >> v.lap_shift;
  assert_int_equal(gorge_log_reserve(&v), 0);
  assert_true(append(&v, GORGE_RING_MAIN, 300, 0, &at));
  while (v.shared->head[GORGE_RING_MAIN] >> v.lap_shift < first_lap + 2) {
    assert_int_equal(gorge_log_reserve(&v), 300);
    while (!append(&v, GORGE_RING_MAIN, 50, 0, &at)) {
      uint32_t oldest = gorge_log_oldest(&v, GORGE_RING_MAIN, &at, &head);
      gorge_log_release(&v, GORGE_RING_MAIN, at + oldest);
    }
  }
  assert_int_equal(gorge_log_reserve(&v), 50);
  /* Not for one that would cost too much. */
  uint32_t large = (v.shared->end[GORGE_RING_MAIN] - v.shared->start[GORGE_RING_MAIN]) / 8 + 1;
  gorge_log_release(&v, GORGE_RING_MAIN, v.shared->head[GORGE_RING_MAIN]);
  for (uint32_t written = 0; written < large; written += 2000) {
    assert_true(append(&v, GORGE_RING_MAIN, 2000, 0, &at));
  }
  gorge_log_commit(&v, GORGE_RING_MAIN, v.shared->head[GORGE_RING_MAIN], large);
  assert_int_equal(gorge_log_reserve(&v), 2000);
}

static void test_a_damaged_log_is_given_up(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct gorge_shard v = shard_of(&l1);
  struct gorge_head head;
  uint64_t at;
  for (uint32_t damage = 0; damage < 3; damage++) {
    assert_true(append(&v, GORGE_RING_SMALL, 20, 0, &at));
    uint32_t *entry = gorge_shard_unit(&v, at);
    if (damage == 0) {
      entry[1] = 0xffffff; /* a length beyond everything */
    } else if (damage == 1) {
      entry[0] |= (uint32_t)1 << GORGE_HEAD_EXTRA_BIT;
      entry[20] = 0xffffffff;
    } else {
      entry[0] = (uint32_t)GORGE_KIND_PAD << GORGE_HEAD_KIND_BIT; /* a pad record that leads nowhere */
      entry[1] = 0xffffffff;
    }
    assert_int_equal(gorge_log_oldest(&v, GORGE_RING_SMALL, &at, &head), 0);
    assert_int_equal(gorge_log_used(&v, GORGE_RING_SMALL), 0);
  }
}

/* The rings meet beyond the area: small, which ends with the area then, cannot grow up to there. */
static void test_a_damaged_border_is_given_up(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct gorge_shard v = shard_of(&l1);
  uint64_t lap = UINT64_C(1) << v.lap_shift;
  uint32_t border = (uint32_t)v.area_units + 2000;
  assert_true(border < lap);
  v.shared->end[GORGE_RING_SMALL] = v.shared->start[GORGE_RING_MAIN] = border;
  v.shared->small_wanted = v.shared->small_lap = v.shared->front = border;
  v.shared->tail[GORGE_RING_SMALL] = lap;
  v.shared->head[GORGE_RING_SMALL] = lap + border - 1000;
  v.shared->head[GORGE_RING_MAIN] = v.shared->tail[GORGE_RING_MAIN] = lap + border;
  alarm(20); /* its end is all that is asked of it */
  (void)l1_put(&l1, "key", "value", 1000);
  alarm(0);
}

static void test_geometry_that_does_not_fit_is_not_followed(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 2, 0);
  struct gorge_l1_header *l1_header = gorge_l1_header(l1.zone), good = *l1_header;
  struct gorge_shard v;
  for (int damage = 0; damage < 8; damage++) {
    assert_true(gorge_shard_at(l1.zone, 1, &v));
    switch (damage) {
      case 0: l1_header->area_units = UINT32_MAX; break;
      case 1: l1_header->buckets = UINT32_MAX; break;
      case 2: l1_header->ghost_buckets = UINT32_MAX; break;
      case 3: l1_header->shards_at = UINT64_MAX - 63; break;
      case 4: l1_header->shard_bytes = UINT64_MAX - 63; break;
      case 5: l1_header->shards_at++; break;
      case 6: l1_header->lap_shift = 64; break;
      default: l1_header->buckets = 0; break;
    }
    assert_false(gorge_shard_at(l1.zone, 1, &v));
    assert_false(gorge_shard_at(l1.zone, 2, &v));
    assert_int_equal(l1_put(&l1, "key", "value", 1000), GORGE_REFUSED);
    assert_false(l1_has(&l1, "key"));
    l1_delete(&l1, "key", 0);
    *l1_header = good;
  }
  /* Cells that are not there. */
  l1_header->tags_at = UINT64_MAX - 63;
  l1_header->stamp_cells = UINT32_MAX;
  gorge_l1_invalidate_tag(l1.zone, l1.ns, "tag", 3);
  l1_delete(&l1, "key", 5);
  *l1_header = good;
  assert_int_equal(l1_put(&l1, "key", "value", 1000), GORGE_STORED);
  assert_true(l1_has(&l1, "key"));
}

static void test_buckets_fill_evenly(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct gorge_shard v = shard_of(&l1);
  uint64_t random = 5, slots = (uint64_t)v.buckets * GORGE_BUCKET_SLOTS, failed = 0, tail = v.shared->tail[0];
  uint64_t placed = slots * 85 / 100;
  for (uint64_t i = 0; i < placed; i++) {
    uint64_t hash = (uint64_t)proc_random(&random) << 40 ^ (uint64_t)proc_random(&random) << 20 ^ proc_random(&random);
    uint64_t *slot = gorge_index_vacant(&v, hash);
    failed += slot == NULL;
    if (slot != NULL) {
      assert_int_equal(*slot, 0);
      gorge_index_publish(slot, gorge_slot_word(hash, 0, 0, tail + i));
      assert_ptr_equal(gorge_index_at(&v, hash, 0, tail + i), slot);
    }
  }
  assert_true(failed * 100 < placed);
}

static void test_a_full_bucket_gives_its_weakest_slot(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 1);
  struct gorge_shard v = shard_of(&l1);
  uint64_t tail = v.shared->tail[0], hash = 0xabcdef0123456789U;
  for (int i = 0; i < GORGE_BUCKET_SLOTS; i++) {
    uint64_t *slot = gorge_index_vacant(&v, hash);
    assert_non_null(slot);
    assert_int_equal(*slot, 0);
    gorge_index_publish(slot, gorge_slot_word(hash, 0, (uint32_t)(i == 5 ? 0 : 1), tail + 10 * (uint64_t)i));
  }
  assert_null(gorge_index_vacant(&v, hash));
  assert_int_equal(gorge_index_weakest(&v, hash) - v.slots, 5);
  gorge_log_release(&v, 0, tail + 1); /* what lies before the tail is weaker still */
  assert_int_equal(gorge_index_weakest(&v, hash) - v.slots, 0);
}

static void test_match_finds_all_and_nothing_else(void **state) {
  (void)state;
  _Alignas(GORGE_L1_LINE) uint64_t bucket[GORGE_BUCKET_SLOTS];
  for (uint32_t set = 0; set < 256; set++) {
    uint32_t match = 0;
    for (uint32_t i = 0; i < GORGE_BUCKET_SLOTS; i++) {
      bucket[i] = (set >> i & 1 ? (uint64_t)0x8001 << 48 : (uint64_t)0x7ffe << 48) | 0x800180018001U;
    }
    for (uint32_t m = gorge_index_match(bucket, 0x8001); m != 0; m = gorge_match_rest(m)) {
      match |= 1U << gorge_match_first(m);
    }
    assert_int_equal(match, set);
  }
}

static void test_history_remembers_about_three_times_the_entries(void **state) {
  (void)state;
  struct l1 l1 = l1_open(SIZE, 1, 0);
  struct gorge_shard v = shard_of(&l1);
  uint64_t entries = (uint64_t)v.l1->ghost_buckets * GORGE_GHOST_WAYS / GORGE_GHOST_PER_ENTRY;
  assert_int_equal(gorge_ghost_take(&v, 99), 0);
  for (uint64_t i = 0; i < 10 * entries; i++) {
    gorge_ghost_put(&v, i * 0x9E3779B97F4A7C15U, (uint32_t)(i % 15) + 1);
  }
  uint64_t known = 0, old = 0;
  for (uint64_t i = 0; i < 10 * entries; i++) {
    uint32_t f = gorge_ghost_take(&v, i * 0x9E3779B97F4A7C15U);
    if (i >= 8 * entries) {
      known += f == i % 15 + 1;
    } else if (i < 6 * entries) {
      old += f != 0; /* false alarms of the fingerprint */
    }
  }
  assert_true(known > entries * 2 * 90 / 100);
  assert_true(old < 6 * entries * 2 / 100);
  /* What was taken is forgotten. */
  gorge_ghost_put(&v, 77, 9);
  assert_int_equal(gorge_ghost_take(&v, 77), 9);
  assert_int_equal(gorge_ghost_take(&v, 77), 0);
}

/* What is done to a whole shard at once takes no longer in a large zone. */
static void test_no_shard_is_larger_than_128_megabytes(void **state) {
  (void)state;
  for (uint64_t size = 64 << 20; size <= (uint64_t)1 << 40; size *= 4) {
    struct gorge_zone zone = {.size = size};
    zone.base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (zone.base == MAP_FAILED) {
      skip(); /* no room for addresses */
    }
    zone.region_size[GORGE_REGION_L1] = size;
    assert_int_equal(gorge_l1_init(&zone), GORGE_OK);
    const struct gorge_l1_header *l1 = gorge_l1_header(&zone);
    assert_in_range(l1->shards, 8, GORGE_L1_SHARDS_MAX);
    assert_true(l1->shard_bytes <= 128 << 20);
    assert_true(l1->shards * l1->shard_bytes > size - size / 16);
    munmap(zone.base, size);
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_words_of_every_length_and_alignment),
      cmocka_unit_test(test_one_wrong_byte_is_found_anywhere),
      cmocka_unit_test(test_a_head_keeps_its_fields_apart),
      cmocka_unit_test(test_offset_of_a_slot_beyond_the_range_of_its_bits),
      cmocka_unit_test(test_a_ring_keeps_order_over_many_laps),
      cmocka_unit_test(test_room_that_is_kept_is_there),
      cmocka_unit_test(test_room_is_kept_for_the_largest_of_two_laps),
      cmocka_unit_test(test_a_damaged_log_is_given_up),
      cmocka_unit_test(test_a_damaged_border_is_given_up),
      cmocka_unit_test(test_geometry_that_does_not_fit_is_not_followed),
      cmocka_unit_test(test_no_shard_is_larger_than_128_megabytes),
      cmocka_unit_test(test_buckets_fill_evenly),
      cmocka_unit_test(test_a_full_bucket_gives_its_weakest_slot),
      cmocka_unit_test(test_match_finds_all_and_nothing_else),
      cmocka_unit_test(test_history_remembers_about_three_times_the_entries),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
