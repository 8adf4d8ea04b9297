/* SPDX-License-Identifier: MIT */
#include "l1/evict.h"

#include "l1/adapt.h"
#include "l1/ghost.h"
#include "l1/stamps.h"

enum {
  PASSED_OVER_MAX = 8,
  AGING_SHARE = 15,
  AGING_ENTRIES_MIN = 256,
  AGE_BITS = 4,
  AHEAD_LINES = 3,
  LOST_MAX = 128,   /* contests that main's victim may win before it is moved on */
  DEAD_MAX = 16,    /* how often it is moved on at once because */
  DEAD_OF_MAIN = 4, /* of a dead entry found in main */
  DEAD_OF_SMALL = 1 /* or in small */
};

enum found { NOTHING, DROPPED, LIVE };

/* What each eviction goes through; it stands in one more place that is seldom needed, which keeps gcc from it. */
#define INLINE static inline __attribute__((always_inline))

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

uint32_t gorge_evict_first_frequency(const struct gorge_shard *v, uint64_t hash) {
  gorge_adapt_missed(v);
  return gorge_evict_raise(v, gorge_ghost_take(v, hash), 1);
}

static bool tags_changed(const struct gorge_shard *v, const struct gorge_head *head, const uint32_t *at) {
  const uint32_t *extra = at + gorge_head_extra_at(head);
  uint32_t first = gorge_relaxed_load32(extra), n = gorge_extra_tags(first);
  extra += gorge_extra_records_at(first);
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
INLINE void find_slot(struct gorge_shard *v, struct gorge_resident *r) {
  struct gorge_l1_shard *s = v->shared;
  /* relaxed: only the holder of the lock lets a slot lead elsewhere. */
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

/* A dead entry was found: more of them are worth looking for. */
static void note_dead(const struct gorge_shard *v, int ring) {
  uint32_t dead = v->shared->dead + (ring == GORGE_RING_MAIN ? DEAD_OF_MAIN : DEAD_OF_SMALL);
  v->shared->dead = dead < DEAD_MAX ? dead : DEAD_MAX;
}

/* Finds the slot of an entry; empties it if nobody may see the entry any more. DROPPED: nothing leads to it, the caller frees its room. */
INLINE enum found look_at(struct gorge_shard *v, struct gorge_resident *r) {
  find_slot(v, r);
  if (r->slot == NULL) {
    if (r->ring == GORGE_RING_MAIN) {
      note_dead(v, r->ring);
    }
    return DROPPED;
  }
  /* relaxed: under the lock; readers change only the frequency. */
  r->word = __atomic_load_n(r->slot, __ATOMIC_RELAXED);
  bool expired = gorge_head_expires(&r->head) <= v->now_ms &&
                 (!gorge_head_extra(&r->head) || gorge_entry_keeps(&r->head, gorge_shard_unit(v, r->at)) <= v->now_ms);
  if (expired || gorge_evict_invalid(v, &r->head, gorge_shard_unit(v, r->at))) {
    unlink_entry(v, r->slot);
    note_dead(v, r->ring);
    if (expired) {
      gorge_shard_tally(v, gorge_head_ns(&r->head), GORGE_COUNT_EXPIRED);
    }
    return DROPPED;
  }
  return LIVE;
}

/* The oldest entry of a ring. Drops it instead if nothing leads to it or nobody may see it any more. */
static enum found oldest(struct gorge_shard *v, int ring, struct gorge_resident *r) {
  v->steps -= v->steps > 0;
  r->ring = ring;
  r->units = gorge_log_oldest(v, ring, &r->at, &r->head);
  if (r->units == 0) {
    return NOTHING;
  }
  enum found found = look_at(v, r);
  if (found == DROPPED) {
    advance(v, r);
  }
  return found;
}

/* Evicts the oldest entry of its ring. */
static void evict(struct gorge_shard *v, const struct gorge_resident *r, uint32_t f) {
  uint64_t hash = hash_of_resident(v, r);
  unlink_entry(v, r->slot);
  advance(v, r);
  gorge_ghost_put(v, hash, f);
  gorge_shard_tally(v, gorge_head_ns(&r->head), GORGE_COUNT_EVICTIONS);
}

/* Where main could take an entry. */
struct room {
  uint64_t at;
  bool front; /* in front of its first entry, not at its head */
};

/* Whether main has room for r, and what it must keep free besides. */
INLINE bool find_room(const struct gorge_shard *v, const struct gorge_resident *r, struct room *room) {
  room->front = false;
  if (gorge_log_place(v, GORGE_RING_MAIN, r->units, gorge_log_reserve(v), &room->at)) {
    return true;
  }
  room->front = true;
  return gorge_log_place_front(v, r->units, &room->at);
}

/*
 * Copies an entry to main and lets its slot lead there, with `spent` taken from its frequency. The caller frees its old room.
 * Killed before the slot is changed, the copy is an orphan; after, the original is.
 */
static void copy_to_main(struct gorge_shard *v, const struct gorge_resident *r, const struct room *room, uint32_t f,
                         uint32_t spent) {
  gorge_shard_spend(v, r->units);
  struct gorge_head head = r->head;
  gorge_head_set_f(&head, f, v->shared->frequency_age);
  gorge_head_set_check(&head, room->at);
  uint32_t *to = gorge_log_begin(v, room->at);
  gorge_head_store(to, &head);
  gorge_relaxed_move(to + GORGE_HEAD_UNITS, gorge_shard_unit(v, r->at) + GORGE_HEAD_UNITS, r->units - GORGE_HEAD_UNITS);
  if (room->front) {
    gorge_log_commit_front(v, room->at);
  } else {
    gorge_log_commit(v, GORGE_RING_MAIN, room->at, r->units);
  }
  /* relaxed: a first guess for the CAS. */
  uint64_t seen = __atomic_load_n(r->slot, __ATOMIC_RELAXED), word;
  do { /* Readers raise the frequency, three times at most. */
    uint32_t freq = gorge_slot_freq(seen);
    word = (seen & GORGE_SLOT_FINGERPRINT) | GORGE_SLOT_RING | (room->at & GORGE_SLOT_OFFSET) |
           (freq > spent ? freq - spent : 0) * GORGE_SLOT_FREQ_ONE;
    /* release: partner of the acquire load of the slot in read.c. */
  } while (!__atomic_compare_exchange_n(r->slot, &seen, word, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED));
}

/* Moves main's oldest entry to its head. Returns false when there is no room. */
static bool reappend(struct gorge_shard *v, const struct gorge_resident *r, uint32_t f, uint32_t spent) {
  struct room room = {0};
  if (!gorge_log_place(v, GORGE_RING_MAIN, r->units, 0, &room.at)) {
    return false;
  }
  copy_to_main(v, r, &room, f, spent);
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
    gorge_adapt_passed_over(v, gorge_slot_freq(r->word));
    uint32_t f = gorge_evict_raise(v, gorge_evict_frequency(v, &r->head), 1);
    if (!reappend(v, r, f, 1)) {
      return LIVE;
    }
  }
}

static enum found shrink_main(struct gorge_shard *v) {
  struct gorge_resident r;
  enum found found = victim(v, &r);
  if (found == LIVE) {
    evict(v, &r, gorge_evict_frequency(v, &r.head));
  }
  return found;
}

/* Moves the oldest entry of small to main. */
static void promote(struct gorge_shard *v, const struct gorge_resident *r, const struct room *room, uint32_t f) {
  gorge_adapt_left_small(v, gorge_slot_freq(r->word));
  copy_to_main(v, r, room, f, GORGE_FREQ_MAX);
  advance(v, r);
}

/*
 * An entry of main that won against one of small is moved on now and then, or when there is reason to. Returns whether what is behind it
 * is worth a look before that of small goes.
 */
static bool turn_main(struct gorge_shard *v, const struct gorge_resident *m) {
  struct gorge_l1_shard *s = v->shared;
  bool dead = s->dead > 0;
  if (dead) {
    s->dead--;
  } else if (++s->lost < LOST_MAX && !gorge_log_small_waits(v)) {
    return false;
  }
  s->lost = 0;
  return reappend(v, m, gorge_evict_frequency(v, &m->head), 0) && dead;
}

/* Main has no room for r, the oldest of small: one of both goes. */
static void contest(struct gorge_shard *v, const struct gorge_resident *r, uint32_t f, uint32_t c) {
  struct gorge_resident m;
  enum found found = victim(v, &m);
  if (found == DROPPED) {
    return; /* there may be room now */
  }
  uint32_t stays = found == LIVE ? gorge_evict_frequency(v, &m.head) : GORGE_F_MAX;
  /* What would fill most of main is not worth it. */
  if (found == LIVE && f + c > stays + gorge_slot_freq(m.word) &&
      (uint64_t)r->units * 2 + GORGE_PAD_UNITS <= gorge_log_main_units(v)) {
    struct room room;
    evict(v, &m, stays);
    while (!find_room(v, r, &room)) {
      if (v->steps == 0) {
        return;
      }
      shrink_main(v);
    }
    promote(v, r, &room, gorge_evict_raise(v, f, c));
  } else if (found != LIVE || !turn_main(v, &m)) {
    gorge_adapt_left_small(v, c);
    evict(v, r, gorge_evict_raise(v, f, c));
  }
}

static enum found shrink_small(struct gorge_shard *v) {
  struct gorge_resident r;
  struct room room;
  enum found found = oldest(v, GORGE_RING_SMALL, &r);
  if (found != LIVE) {
    return found;
  }
  uint32_t f = gorge_evict_frequency(v, &r.head), c = gorge_slot_freq(r.word);
  if (find_room(v, &r, &room)) {
    promote(v, &r, &room, f);
  } else {
    contest(v, &r, f, c);
  }
  return LIVE;
}

/*
 * Small's head is at its end, and it is wanted to be larger: moves main's entries there out of the way until `units` more
 * fit. Returns false when that cannot be done now.
 */
static __attribute__((noinline)) bool grow_small(struct gorge_shard *v, uint32_t units) {
  struct gorge_resident r = {.ring = GORGE_RING_MAIN};
  struct room room;
  while (gorge_log_wants_more(v, units)) {
    if (gorge_log_main_low(v) > gorge_log_small_end(v)) {
      if (!gorge_log_extend_small(v)) {
        return false; /* in a damaged zone the border may be anything */
      }
      continue;
    }
    r.units = gorge_log_first(v, &r.at, &r.head);
    if (r.units == 0 || v->steps == 0 || gorge_shard_position(v, r.at) + r.units > v->shared->small_wanted) {
      return false;
    }
    v->steps--;
    if (look_at(v, &r) == DROPPED) {
      gorge_log_give_first(v, r.units);
    } else if (gorge_log_place(v, GORGE_RING_MAIN, r.units, gorge_log_reserve(v), &room.at)) {
      room.front = false;
      copy_to_main(v, &r, &room, gorge_evict_frequency(v, &r.head), 0);
      gorge_log_give_first(v, r.units);
    } else {
      shrink_main(v);
    }
  }
  return true;
}

/* New entries of up to half of small go there. An entry of which two fit finds room in one piece when the ring is empty. */
static int ring_for(const struct gorge_shard *v, uint32_t units) {
  uint64_t end = gorge_log_small_end(v), wanted = v->shared->small_wanted;
  return (uint64_t)units * 2 + GORGE_PAD_UNITS <= (end > wanted ? end : wanted) ? GORGE_RING_SMALL : GORGE_RING_MAIN;
}

/* Makes some room in a ring. Returns false when it is empty and nothing helps. */
static bool make_some_room(struct gorge_shard *v, int ring, uint32_t units) {
  if (ring == GORGE_RING_MAIN) {
    return shrink_main(v) != NOTHING || gorge_log_restart(v, ring);
  }
  if (gorge_log_wants_more(v, units) && grow_small(v, units)) {
    return true;
  }
  return shrink_small(v) != NOTHING || gorge_log_restart(v, ring);
}

bool gorge_evict_make_room(struct gorge_shard *v, uint32_t units, int *ring, uint64_t *at) {
  *ring = ring_for(v, units);
  while (!gorge_log_place(v, *ring, units, *ring == GORGE_RING_MAIN ? gorge_log_reserve(v) : 0, at)) {
    if (v->steps == 0) {
      return false;
    }
    if (!make_some_room(v, *ring, units)) {
      *ring = GORGE_RING_MAIN; /* small is to grow, but main does not give room now */
    }
  }
  return true;
}

void gorge_evict_slot(struct gorge_shard *v, uint64_t *slot) {
  /* relaxed, slot and tail: under the lock; readers change only the frequency. */
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
