/* SPDX-License-Identifier: MIT */
/*
 * Insert and invalidate. What an insert does under the lock, in this order:
 *
 *   check   the snapshot against stamps, tags and epoch: an invalidator bumps these before it asks for the lock, so
 *           either its bump is seen here, or its removal comes after this insert
 *   room    slots of what is evicted are cleared, then tails moved
 *   bump    newest and soft, before the entry can be seen: killed after it, the next fill is refused, never wrongly accepted
 *   write   entry beyond the head, head
 *   publish slot; from here on the entry exists, and the older one of the key does not
 *
 * A set is an invalidation and an insert in one turn of the lock: it checks nothing, since nothing can come between, and bumps hard
 * together with soft. When it needs more turns to make room, the first one bumps and removes the older entry.
 */
#include "base/broken.h"
#include "base/clock.h"
#include "l1/evict.h"
#include "l1/stamps.h"

enum {
  STEPS_PER_TURN = 1024,  /* log entries looked at before the lock is let go for a moment */
  ROOM_BUDGET_US = 14000, /* longest time for making room, after the first turn of the lock; */
  TURNS_MIN = 16,         /* but so many turns are made, should the process not get to run for so long */
  EPOCHS_MAX = 8          /* how often an invalidation begins anew because the namespace's epoch changed meanwhile */
};

struct insert {
  const struct gorge_key *key;
  const struct gorge_entry *entry;
  const struct gorge_snapshot *snapshot;
  struct gorge_snapshot *set; /* of a set: the snapshot, which is taken under the lock; of a fill: NULL */
  const struct gorge_exchange *exchange;
  uint32_t units, extra_units; /* 0 units: too large */
};

/* Fills in where the slot's entry is. Returns false when it leads nowhere. */
static bool follow(const struct gorge_shard *v, uint64_t *slot, struct gorge_resident *r) {
  r->slot = slot;
  /* relaxed, slot and tail: under the lock; readers change only the frequency. */
  r->word = __atomic_load_n(slot, __ATOMIC_RELAXED);
  r->ring = gorge_slot_ring(r->word);
  bool passed;
  r->at = gorge_slot_offset(r->word, __atomic_load_n(&v->shared->tail[r->ring], __ATOMIC_RELAXED), &passed);
  uint64_t position = gorge_shard_position(v, r->at);
  if (r->word == 0 || passed || position + GORGE_HEAD_UNITS > v->area_units) {
    return false;
  }
  const uint32_t *at = v->area + position;
  r->head = gorge_head_load(at);
  r->units = gorge_entry_units(&r->head, at, v->area_units - position);
  return r->units > 0;
}

/*
 * The entry of a key, found under the lock. Returns false when there is none. Slots on the way that lead nowhere are emptied: no
 * slot keeps a word that an L0 record of the key may hold.
 */
static bool lookup(const struct gorge_shard *v, const struct gorge_key *key, struct gorge_resident *r) {
  r->hash = key->hash;
  for (int choice = 0; choice < 2; choice++) {
    uint64_t *bucket = gorge_index_bucket(v, key->hash, choice);
    uint32_t match = gorge_index_match(bucket, gorge_hash_fingerprint(key->hash));
    for (; match != 0; match = gorge_match_rest(match)) {
      uint64_t *slot = &bucket[gorge_match_first(match)];
      if (!follow(v, slot, r)) {
        gorge_index_clear(slot);
      } else if (gorge_head_ns(&r->head) == key->ns && gorge_head_key_len(&r->head) == key->len &&
                 gorge_relaxed_equal(gorge_shard_unit(v, r->at) + GORGE_HEAD_UNITS, key->ptr, key->len)) {
        return true;
      }
    }
  }
  return false;
}

static void remove_resident(struct gorge_shard *v, const struct gorge_resident *r) {
  gorge_index_clear(r->slot);
  /* relaxed: a count, changed under the lock, read by gorge_l1_usage. */
  __atomic_store_n(&v->shared->entries, v->shared->entries - (v->shared->entries > 0), __ATOMIC_RELAXED);
}

/* Whether what an exchange has read is still what stands there; hard and tags were compared. */
static bool unchanged(const struct gorge_shard *v, const struct insert *in, const struct gorge_resident *r,
                      bool visible) {
  if (in->exchange->word == 0) {
    return !visible && (uint32_t)gorge_stamps_changes(v->zone, in->snapshot->cell) == in->snapshot->soft;
  }
  return visible && gorge_slot_identity(r->word) == in->exchange->word;
}

static bool accepted(const struct gorge_shard *v, const struct insert *in, const struct gorge_resident *r) {
  if (!GORGE_CHECKS(STAMP)) {
    return true;
  }
  const struct gorge_snapshot *s = in->snapshot;
  uint64_t version = in->entry->version;
  uint64_t changes = gorge_stamps_changes(v->zone, s->cell);
  bool visible = r != NULL && gorge_entry_ends(&r->head, gorge_shard_unit(v, r->at)) > v->now_ms &&
                 !gorge_evict_invalid(v, &r->head, gorge_shard_unit(v, r->at));
  if ((uint32_t)(changes >> 32) != s->hard || gorge_global_epoch(in->key->global) != s->epoch ||
      !gorge_stamps_current(v->zone, in->key->ns, s)) {
    return false;
  }
  if (in->exchange != NULL) {
    return unchanged(v, in, r, visible);
  }
  if ((uint32_t)changes != s->soft && (version == 0 || version < gorge_stamps_floor(v->zone, s->cell) ||
                                       version < gorge_stamps_newest(v->zone, s->cell))) {
    return false;
  }
  if (r == NULL) {
    return true;
  }
  /* What nobody may see any more does not keep a value without a version out; one with a version is still compared with it. */
  return gorge_entry_version(&r->head, gorge_shard_unit(v, r->at)) <= version || (version == 0 && !visible);
}

/*
 * Under the lock: fills that began before a set are refused from now on, and what it is about to store carries the tags' generations
 * of now.
 */
static void bump_set(const struct gorge_shard *v, struct gorge_snapshot *s) {
  gorge_stamps_bump_both(v->zone, s->cell);
  for (uint32_t i = 0; i < s->ntags; i++) {
    s->tag_gen[i] = gorge_stamps_generation(v->zone, s->tag_cell[i]);
  }
}

/* Tells the cell of an accepted insert. What it stores is seen later than this, and by then keeps out what is older. */
static void bump(const struct gorge_shard *v, const struct insert *in) {
  if (in->set != NULL) {
    bump_set(v, in->set);
    return;
  }
  if (in->entry->version != 0) {
    gorge_stamps_raise_newest(v->zone, in->snapshot->cell, in->entry->version);
  }
  if (in->exchange != NULL && in->exchange->hard) {
    gorge_stamps_bump_both(v->zone, in->snapshot->cell);
  } else {
    gorge_stamps_bump_soft(v->zone, in->snapshot->cell);
  }
}

/* The slot for the new entry, and where its frequencies start. `before`: the key's slot before room was made, or NULL. */
static uint64_t *claim_slot(struct gorge_shard *v, const struct insert *in, uint64_t *before, uint32_t *f,
                            uint32_t *freq) {
  struct gorge_resident r;
  /* The slot of a resident entry stays its own while the entry moves, and is empty once it was evicted. */
  if (before != NULL && follow(v, before, &r)) {
    *f = gorge_evict_frequency(v, &r.head);
    *freq = gorge_slot_freq(r.word);
    return before;
  }
  *f = gorge_evict_first_frequency(v, in->key->hash);
  *freq = 0;
  uint64_t *slot = gorge_index_vacant(v, in->key->hash);
  if (slot == NULL) {
    slot = gorge_index_weakest(v, in->key->hash);
    gorge_evict_slot(v, slot);
  }
  /* relaxed: a count, changed under the lock, read by gorge_l1_usage. */
  __atomic_store_n(&v->shared->entries, v->shared->entries + 1, __ATOMIC_RELAXED);
  return slot;
}

static void store(struct gorge_shard *v, const struct insert *in, uint64_t *before, int ring, uint64_t at,
                  struct gorge_read *out) {
  uint32_t f, freq;
  uint64_t *slot = claim_slot(v, in, before, &f, &freq);
  struct gorge_head head = gorge_entry_head(in->key, in->entry, (uint8_t)v->epoch, (uint8_t)in->snapshot->epoch);
  gorge_head_set_f(&head, f, v->shared->frequency_age);
  gorge_head_set_check(&head, at);
  uint64_t word = gorge_slot_word(in->key->hash, ring, freq, at);
  bump(v, in);
  gorge_entry_write(gorge_log_begin(v, at), &head, in->key, in->entry, in->snapshot, in->extra_units);
  gorge_log_commit(v, ring, at, in->units);
  gorge_index_publish(slot, word);
  gorge_shard_tally(v, in->key->ns, GORGE_COUNT_INSERTS);
  if (out != NULL) {
    out->slot = slot;
    out->word = gorge_slot_identity(word);
    out->expires_ms = (double)gorge_head_expires(&head);
  }
}

/* Under the lock. GORGE_PENDING: another turn is needed to make room. */
static int insert_locked(struct gorge_shard *v, const struct insert *in, struct gorge_read *out) {
  struct gorge_resident r;
  bool resident = lookup(v, in->key, &r);
  if (in->set == NULL && !accepted(v, in, resident ? &r : NULL)) {
    if (in->exchange == NULL) {
      gorge_shard_count(v, in->key->ns, GORGE_COUNT_REFUSED_FILLS);
    }
    return GORGE_REFUSED;
  }
  if (in->units == 0 && in->exchange != NULL) {
    return GORGE_TOO_LARGE;
  }
  if (in->units == 0) {
    bump(v, in);
    if (resident) {
      remove_resident(v, &r);
    }
    gorge_shard_count(v, in->key->ns, GORGE_COUNT_TOO_LARGE);
    return GORGE_TOO_LARGE;
  }
  uint64_t at;
  int ring;
  bool room = gorge_evict_make_room(v, in->units, &ring, &at);
  /* A large entry is written at the begin of a turn, not at its end. */
  if (!room || (v->steps < STEPS_PER_TURN / 2 && in->units > STEPS_PER_TURN / 2 * GORGE_UNITS_PER_STEP)) {
    if (in->set != NULL) {
      bump(v, in);
      if (lookup(v, in->key, &r)) {
        remove_resident(v, &r);
      }
    }
    return GORGE_PENDING;
  }
  store(v, in, resident ? r.slot : NULL, ring, at, out);
  return GORGE_STORED;
}

/* Readies the view of the shard, and what is known of the entry before the lock is taken. Returns false when the zone is not sound. */
static bool plan(struct gorge_zone *zone, const struct gorge_owner *owner, struct gorge_shard *v, struct insert *in,
                 uint64_t now_ms) {
  if (!gorge_shard_of(zone, in->key->hash, v)) {
    return false;
  }
  gorge_evict_prefetch(v, in->key->hash);
  gorge_stamps_prefetch(zone, gorge_stamps_cell(zone, in->key->hash));
  in->units = gorge_entry_plan(in->key, in->entry, &in->extra_units);
  in->units = in->units <= v->l1->max_units ? in->units : 0;
  gorge_shard_write(v, owner, in->key->ns, now_ms);
  return true;
}

/* One turn of the lock. */
static int turn(struct gorge_shard *v, const struct gorge_owner *owner, const struct insert *in,
                struct gorge_read *out) {
  v->steps = STEPS_PER_TURN;
  int status = insert_locked(v, in, out);
  gorge_evict_look_ahead(v);
  gorge_shard_leave(v, owner);
  return status;
}

/* Goes on making room, turn by turn, so that others get theirs. Ends without the entry when it takes too long. */
static int more_turns(struct gorge_zone *zone, struct gorge_shard *v, const struct gorge_owner *owner,
                      const struct insert *in, struct gorge_read *out) {
  uint64_t start = gorge_clock_us();
  uint32_t sequence;
  int turns = 1;
  do {
    gorge_lock_pass(&v->shared->lock);
    if (gorge_shard_enter(zone, v, owner, GORGE_FILL_BUDGET_US, &sequence) != GORGE_OK) {
      break;
    }
    int status = turn(v, owner, in, out);
    if (status != GORGE_PENDING) {
      return status;
    }
  } while (++turns < TURNS_MIN || gorge_clock_us() - start < ROOM_BUDGET_US);
  gorge_shard_count(v, in->key->ns, GORGE_COUNT_LOCK_TIMEOUTS);
  return GORGE_BUSY;
}

static void nothing_stored(const struct gorge_key *key, struct gorge_read *out) {
  if (out != NULL) {
    out->slot = NULL;
    out->word = 0;
    out->global = key->global;
  }
}

int gorge_l1_insert(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                    const struct gorge_entry *entry, const struct gorge_snapshot *s, uint64_t now_ms,
                    struct gorge_read *out) {
  return gorge_l1_exchange(zone, owner, key, entry, s, NULL, now_ms, out);
}

int gorge_l1_exchange(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                      const struct gorge_entry *entry, const struct gorge_snapshot *s,
                      const struct gorge_exchange *exchange, uint64_t now_ms, struct gorge_read *out) {
  struct gorge_key fresh;
  struct gorge_shard v;
  struct insert in = {
      .key = gorge_stamps_fresh(zone, key, &fresh), .entry = entry, .snapshot = s, .exchange = exchange};
  uint32_t sequence;
  nothing_stored(key, out);
  if (entry->ntags != s->ntags || !plan(zone, owner, &v, &in, now_ms)) {
    return GORGE_REFUSED;
  }
  if (gorge_shard_enter(zone, &v, owner, GORGE_FILL_BUDGET_US, &sequence) != GORGE_OK) {
    gorge_shard_count(&v, key->ns, GORGE_COUNT_LOCK_TIMEOUTS);
    return GORGE_BUSY;
  }
  int status = turn(&v, owner, &in, out);
  return status == GORGE_PENDING ? more_turns(zone, &v, owner, &in, out) : status;
}

static int set_fresh(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                     const struct gorge_entry *entry, uint64_t now_ms, struct gorge_read *out) {
  struct gorge_snapshot s;
  struct gorge_shard v;
  struct insert in = {.key = key, .entry = entry, .snapshot = &s, .set = &s};
  uint32_t sequence;
  nothing_stored(key, out);
  if (!plan(zone, owner, &v, &in, now_ms)) {
    return GORGE_BUSY;
  }
  s.epoch = gorge_global_epoch(key->global);
  s.cell = gorge_stamps_cell(zone, key->hash);
  s.ntags = entry->ntags <= GORGE_TAGS_MAX ? entry->ntags : GORGE_TAGS_MAX;
  for (uint32_t i = 0; i < s.ntags; i++) {
    s.tag_cell[i] = gorge_stamps_tag_cell(zone, key->ns, entry->tags[i].ptr, entry->tags[i].len);
  }
  if (gorge_shard_enter(zone, &v, owner, GORGE_INVALIDATE_BUDGET_US, &sequence) != GORGE_OK) {
    gorge_stamps_bump_both(zone, s.cell);
    gorge_shard_forget(zone, &v, sequence);
    gorge_shard_count(&v, key->ns, GORGE_COUNT_LOCK_TIMEOUTS);
    return GORGE_BUSY;
  }
  int status = turn(&v, owner, &in, out);
  return status == GORGE_PENDING ? more_turns(zone, &v, owner, &in, out) : status;
}

int gorge_l1_set(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                 const struct gorge_entry *entry, uint64_t now_ms, struct gorge_read *out) {
  struct gorge_key fresh;
  int status = GORGE_BUSY;
  /* As in gorge_l1_invalidate. */
  for (int i = 0; i < EPOCHS_MAX; i++) {
    const struct gorge_key *now = gorge_stamps_fresh(zone, key, &fresh);
    status = set_fresh(zone, owner, now, entry, now_ms, out);
    if (gorge_global_epoch(gorge_stamps_global(zone, key->ns)) == gorge_global_epoch(now->global)) {
      break;
    }
  }
  return status;
}

/* Under the lock: what invalidate does to the resident entry and, with a version, to the cell. */
static void invalidate_locked(struct gorge_shard *v, const struct gorge_key *key, uint64_t version, uint32_t cell,
                              uint64_t *changes) {
  struct gorge_resident r;
  bool resident = lookup(v, key, &r);
  if (version != 0 && resident && gorge_entry_version(&r.head, gorge_shard_unit(v, r.at)) >= version) {
    *changes = gorge_stamps_changes(v->zone, cell);
    return;
  }
  if (version != 0) {
    *changes = gorge_stamps_bump_soft(v->zone, cell);
  }
  if (resident) {
    remove_resident(v, &r);
  }
}

static void invalidate_fresh(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                             uint64_t version, struct gorge_snapshot *after) {
  uint32_t cell = gorge_stamps_cell(zone, key->hash), sequence;
  uint64_t changes = 0;
  struct gorge_shard v;
  if (version == 0) {
    changes = gorge_stamps_bump_hard(zone, cell);
  } else {
    gorge_stamps_raise_floor(zone, cell, version);
  }
  if (gorge_shard_of(zone, key->hash, &v)) {
    gorge_shard_write(&v, owner, key->ns, 0);
    if (gorge_shard_enter(zone, &v, owner, GORGE_INVALIDATE_BUDGET_US, &sequence) == GORGE_OK) {
      invalidate_locked(&v, key, version, cell, &changes);
      gorge_shard_leave(&v, owner);
    } else {
      if (version != 0) {
        changes = gorge_stamps_bump_soft(zone, cell);
      }
      gorge_shard_forget(zone, &v, sequence);
      gorge_shard_count(&v, key->ns, GORGE_COUNT_LOCK_TIMEOUTS);
    }
  }
  if (after != NULL) {
    after->cell = cell;
    after->hard = (uint32_t)(changes >> 32);
    after->soft = (uint32_t)changes;
    after->floor = gorge_stamps_floor(zone, cell);
  }
}

void gorge_l1_invalidate(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                         uint64_t version, struct gorge_snapshot *after) {
  struct gorge_key fresh;
  /* A fill of an epoch that began meanwhile has its stamp elsewhere. After some turns every fill began after this call did. */
  for (int i = 0; i < EPOCHS_MAX; i++) {
    const struct gorge_key *now = gorge_stamps_fresh(zone, key, &fresh);
    invalidate_fresh(zone, owner, now, version, after);
    if (gorge_global_epoch(gorge_stamps_global(zone, key->ns)) == gorge_global_epoch(now->global)) {
      return;
    }
  }
}
