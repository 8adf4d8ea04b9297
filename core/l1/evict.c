/* SPDX-License-Identifier: MIT */
#include "l1/evict.h"

#include "l1/ghost.h"
#include "l1/stamps.h"

enum { PASSED_OVER_MAX = 8, AGING_SHARE = 15, AGING_ENTRIES_MIN = 256, AGE_BITS = 4, AHEAD_LINES = 3 };

enum found { NOTHING, DROPPED, LIVE };

uint32_t gorge_evict_frequency(const struct gorge_shard *v, const struct gorge_head *head) {
  uint32_t ages = (v->shared->frequency_age - gorge_head_age(head)) & ((1U << AGE_BITS) - 1);
  return gorge_head_f(head) >> ages; /* at most 15 */
}

uint32_t gorge_evict_raise(const struct gorge_shard *v, uint32_t f, uint32_t by) {
  struct gorge_l1_shard *s = v->shared;
  uint64_t entries = s->entries > AGING_ENTRIES_MIN ? s->entries : AGING_ENTRIES_MIN;
  s->frequency_ticks += by;
  if (s->frequency_ticks >= AGING_SHARE * entries) {
    s->frequency_ticks = 0;
    s->frequency_age++;
  }
  return f + by < GORGE_F_MAX ? f + by : GORGE_F_MAX;
}

uint32_t gorge_evict_keep(const struct gorge_shard *v, int ring) {
  return ring == GORGE_RING_MAIN ? gorge_log_reserve(v) : 0;
}

static bool tags_changed(const struct gorge_shard *v, const struct gorge_head *head, const uint32_t *at) {
  const uint32_t *extra = at + gorge_head_extra_at(head);
  uint32_t n = gorge_extra_tags(gorge_relaxed_load32(extra++));
  for (uint32_t i = 0; i < n; i++, extra += GORGE_TAG_RECORD_UNITS) {
    uint64_t generation = gorge_relaxed_load32(&extra[0]) | (uint64_t)gorge_relaxed_load32(&extra[1]) << 32;
    if (gorge_stamps_generation(v->zone, gorge_relaxed_load32(&extra[2])) != generation) {
      return true;
    }
  }
  return false;
}

bool gorge_evict_invalid(const struct gorge_shard *v, const struct gorge_head *head, const uint32_t *at) {
  uint32_t ns_epoch = gorge_global_epoch(gorge_stamps_global(v->zone, gorge_head_ns(head)));
  return gorge_head_epoch(head) != (uint8_t)v->epoch || gorge_head_ns_epoch(head) != (uint8_t)ns_epoch ||
         (gorge_head_extra(head) && tags_changed(v, head, at));
}

/* The hash under which an entry was stored. One of more than 255 epochs ago gets another one, which leads nowhere. */
static uint64_t hash_of(const struct gorge_shard *v, const struct gorge_head *head, const uint32_t *at) {
  uint32_t ns = gorge_head_ns(head), now = gorge_global_epoch(gorge_stamps_global(v->zone, ns));
  uint32_t epoch = now - (uint8_t)(now - gorge_head_ns_epoch(head));
  /* Plain reads of the key: nobody else writes while the lock is held. */
  return gorge_stamps_hash(gorge_zone_words(v->zone, ns), (const char *)(at + GORGE_HEAD_UNITS),
                           gorge_head_key_len(head), epoch);
}

/* Empties the slot of an entry. The entry is no longer there then. */
static void unlink_entry(struct gorge_shard *v, uint64_t *slot) {
  gorge_index_clear(slot);
  /* relaxed: a count, changed under the lock, read by gorge_l1_usage. */
  __atomic_store_n(&v->shared->entries, v->shared->entries - (v->shared->entries > 0), __ATOMIC_RELAXED);
}

static void advance(struct gorge_shard *v, const struct gorge_resident *r) {
  gorge_log_release(v, r->ring, r->at + r->units);
}

/* Whether a slot leads to an offset of a ring. Only one slot of a shard does. */
static bool leads_to(uint64_t word, int ring, uint64_t offset) {
  uint64_t bits = GORGE_SLOT_OFFSET | GORGE_SLOT_RING;
  return word != 0 && ((word ^ ((uint64_t)ring << GORGE_SLOT_RING_BIT | offset)) & bits) == 0;
}

/*
 * Finds hash and slot of an entry. The hash of main's oldest, which is looked at again and again, is left to be found out when it is
 * needed (0), as long as its slot is known.
 */
static void find_slot(struct gorge_shard *v, struct gorge_resident *r) {
  struct gorge_l1_shard *s = v->shared;
  if (r->ring == GORGE_RING_MAIN && s->victim_at == r->at &&
      s->victim_slot < (uint64_t)v->buckets * GORGE_BUCKET_SLOTS &&
      leads_to(__atomic_load_n(&v->slots[s->victim_slot], __ATOMIC_RELAXED), r->ring, r->at)) {
    r->slot = &v->slots[s->victim_slot];
    r->hash = 0;
    return;
  }
  bool known = r->ring == GORGE_RING_SMALL && s->ahead_at == r->at;
  r->hash = known ? s->ahead_hash : hash_of(v, &r->head, gorge_shard_unit(v, r->at));
  r->slot = gorge_index_at(v, r->hash, r->ring, r->at);
  if (r->ring == GORGE_RING_MAIN && r->slot != NULL) {
    s->victim_at = r->at;
    s->victim_slot = (uint64_t)(r->slot - v->slots);
  }
}

static uint64_t hash_of_resident(const struct gorge_shard *v, const struct gorge_resident *r) {
  return r->hash != 0 ? r->hash : hash_of(v, &r->head, gorge_shard_unit(v, r->at));
}

/* The oldest entry of a ring. Drops it instead if nothing leads to it or nobody may see it any more. */
static enum found oldest(struct gorge_shard *v, int ring, struct gorge_resident *r) {
  v->steps -= v->steps > 0;
  r->ring = ring;
  r->units = gorge_log_oldest(v, ring, &r->at, &r->head);
  if (r->units == 0) {
    return NOTHING;
  }
  find_slot(v, r);
  if (r->slot == NULL) {
    advance(v, r);
    return DROPPED;
  }
  r->word = __atomic_load_n(r->slot, __ATOMIC_RELAXED);
  bool expired = gorge_head_expires(&r->head) <= v->now_ms;
  if (expired || gorge_evict_invalid(v, &r->head, gorge_shard_unit(v, r->at))) {
    unlink_entry(v, r->slot);
    advance(v, r);
    if (expired) {
      gorge_shard_tally(v, gorge_head_ns(&r->head), GORGE_COUNT_EXPIRED);
    }
    return DROPPED;
  }
  return LIVE;
}

/* Evicts the oldest entry of its ring. */
static void evict(struct gorge_shard *v, const struct gorge_resident *r, uint32_t f) {
  uint64_t hash = hash_of_resident(v, r);
  unlink_entry(v, r->slot);
  advance(v, r);
  gorge_ghost_put(v, hash, f);
  gorge_shard_tally(v, gorge_head_ns(&r->head), GORGE_COUNT_EVICTIONS);
}

/*
 * Copies an entry to the head of the main ring and lets its slot lead there, with `spent` taken from its frequency.
 * Returns false when there is no room. Killed before the slot is changed, the copy is an orphan; after, the original is.
 */
static bool reappend(struct gorge_shard *v, const struct gorge_resident *r, uint32_t f, uint32_t spent) {
  uint64_t at;
  if (!gorge_log_place(v, GORGE_RING_MAIN, r->units, 0, &at)) {
    return false;
  }
  gorge_shard_spend(v, r->units);
  struct gorge_head head = r->head;
  gorge_head_set_f(&head, f, v->shared->frequency_age);
  gorge_head_set_check(&head, at);
  uint32_t *to = gorge_log_begin(v, at);
  gorge_head_store(to, &head);
  gorge_relaxed_move(to + GORGE_HEAD_UNITS, gorge_shard_unit(v, r->at) + GORGE_HEAD_UNITS, r->units - GORGE_HEAD_UNITS);
  gorge_log_commit(v, GORGE_RING_MAIN, at, r->units);
  uint64_t seen = __atomic_load_n(r->slot, __ATOMIC_RELAXED), word;
  do { /* Readers raise the frequency, three times at most. */
    uint32_t freq = gorge_slot_freq(seen);
    word = (seen & GORGE_SLOT_FINGERPRINT) | GORGE_SLOT_RING | (at & GORGE_SLOT_OFFSET) |
           (freq > spent ? freq - spent : 0) * GORGE_SLOT_FREQ_ONE;
    /* release: partner of the acquire load of the slot in read.c. */
  } while (!__atomic_compare_exchange_n(r->slot, &seen, word, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
  advance(v, r);
  return true;
}

/* The entry of main that is to go next. */
static enum found victim(struct gorge_shard *v, struct gorge_resident *r) {
  for (int passed = 0;; passed++) {
    enum found found = oldest(v, GORGE_RING_MAIN, r);
    /* An entry whose copy would be too much for this turn of the lock gets no second chance. */
    if (found != LIVE || gorge_slot_freq(r->word) == 0 || passed == PASSED_OVER_MAX ||
        r->units / GORGE_UNITS_PER_STEP >= v->steps) {
      return found;
    }
    uint32_t f = gorge_evict_raise(v, gorge_evict_frequency(v, &r->head), 1);
    if (!reappend(v, r, f, 1)) {
      return LIVE;
    }
  }
}

static void shrink_main(struct gorge_shard *v) {
  struct gorge_resident r;
  if (victim(v, &r) == LIVE) {
    evict(v, &r, gorge_evict_frequency(v, &r.head));
  }
}

/* Whether main has room for r, and what it must keep free besides. */
static bool main_has_room(const struct gorge_shard *v, const struct gorge_resident *r) {
  uint64_t at;
  return gorge_log_place(v, GORGE_RING_MAIN, r->units, gorge_evict_keep(v, GORGE_RING_MAIN), &at);
}

/* Moves the oldest entry of small to main, which makes room for it first. */
static void promote(struct gorge_shard *v, const struct gorge_resident *r) {
  while (!main_has_room(v, r)) {
    if (v->steps == 0) {
      return;
    }
    shrink_main(v);
  }
  uint32_t f = gorge_evict_raise(v, gorge_evict_frequency(v, &r->head), gorge_slot_freq(r->word));
  reappend(v, r, f, GORGE_FREQ_MAX);
}

static void shrink_small(struct gorge_shard *v) {
  struct gorge_resident r, m;
  if (oldest(v, GORGE_RING_SMALL, &r) != LIVE) {
    return;
  }
  uint32_t f = gorge_evict_frequency(v, &r.head), c = gorge_slot_freq(r.word);
  if (main_has_room(v, &r)) {
    reappend(v, &r, f, GORGE_FREQ_MAX);
    return;
  }
  enum found found = victim(v, &m);
  if (found == DROPPED) {
    return; /* there may be room now */
  }
  uint32_t stays = found == LIVE ? gorge_evict_frequency(v, &m.head) : GORGE_F_MAX;
  if (found == LIVE && f + c > stays + gorge_slot_freq(m.word)) {
    evict(v, &m, stays);
    promote(v, &r);
  } else {
    evict(v, &r, gorge_evict_raise(v, f, c));
  }
}

bool gorge_evict_make_room(struct gorge_shard *v, int ring, uint32_t units, uint64_t *at) {
  while (!gorge_log_place(v, ring, units, gorge_evict_keep(v, ring), at)) {
    if (v->steps == 0) {
      return false;
    }
    if (ring == GORGE_RING_MAIN) {
      shrink_main(v);
    } else {
      shrink_small(v);
    }
  }
  return true;
}

void gorge_evict_slot(struct gorge_shard *v, uint64_t *slot) {
  uint64_t word = __atomic_load_n(slot, __ATOMIC_RELAXED);
  bool passed;
  int ring = gorge_slot_ring(word);
  uint64_t offset = gorge_slot_offset(word, __atomic_load_n(&v->shared->tail[ring], __ATOMIC_RELAXED), &passed);
  uint64_t position = gorge_shard_position(v, offset);
  unlink_entry(v, slot);
  if (passed || position + GORGE_HEAD_UNITS > v->area_units) {
    return;
  }
  const uint32_t *at = v->area + position;
  struct gorge_head head = gorge_head_load(at);
  if (gorge_entry_units(&head, at, v->area_units - position) > 0 && !gorge_evict_invalid(v, &head, at)) {
    uint32_t f = gorge_evict_raise(v, gorge_evict_frequency(v, &head), gorge_slot_freq(word));
    gorge_ghost_put(v, hash_of(v, &head, at), f);
    gorge_shard_tally(v, gorge_head_ns(&head), GORGE_COUNT_EVICTIONS);
  }
}

/* Inlined in any case: gcc takes a call that does nothing but prefetch for one without effect, and drops it. */
#define FETCH static inline __attribute__((always_inline)) void

FETCH prefetch_hash(const struct gorge_shard *v, uint64_t hash) {
  __builtin_prefetch(gorge_index_bucket(v, hash, 0), 1);
  __builtin_prefetch(gorge_index_bucket(v, hash, 1), 1);
  __builtin_prefetch(gorge_ghost_bucket(v, hash), 1);
}

void gorge_evict_prefetch(const struct gorge_shard *v, uint64_t hash) {
  prefetch_hash(v, hash);
  __builtin_prefetch(&v->shared->entries, 1);
  __builtin_prefetch(&v->shared->ahead_at, 1);
}

/* What is read or written next in a ring lies in these lines. Addresses beyond the area do no harm. */
FETCH prefetch_area(const struct gorge_shard *v, uint64_t offset) {
  const uint32_t *at = gorge_shard_unit(v, offset);
  for (int line = 0; line < AHEAD_LINES; line++) {
    __builtin_prefetch(at + line * (GORGE_L1_LINE / GORGE_L1_UNIT));
  }
}

void gorge_evict_look_ahead(const struct gorge_shard *v) {
  struct gorge_l1_shard *s = v->shared;
  struct gorge_head head;
  uint64_t at;
  uint32_t units = gorge_log_oldest(v, GORGE_RING_SMALL, &at, &head);
  if (units == 0 || s->ahead_at == at) {
    return;
  }
  s->ahead_at = at;
  s->ahead_hash = hash_of(v, &head, gorge_shard_unit(v, at));
  prefetch_hash(v, s->ahead_hash);
  prefetch_area(v, at + units);
  prefetch_area(v, s->head[GORGE_RING_SMALL]);
}
