/* SPDX-License-Identifier: MIT */
#include "flight/flight.h"

#include <string.h>

#include "flight/table.h"

enum { LOCK_BUDGET_US = 1000, NO_TAGS_WORDS = offsetof(struct gorge_snapshot, tag_cell) / 8 };

static const uint64_t TIME_MAX_MS = ((uint64_t)1 << 44) - 1; /* what a deadline word holds: 557 years */

static uint64_t later(uint64_t now_ms, uint64_t ms) {
  return now_ms >= TIME_MAX_MS || ms >= TIME_MAX_MS - now_ms ? TIME_MAX_MS : now_ms + ms;
}

/*
 * acquire: partner of the release store in write_flight; the fields read after it are the flight's, or a later
 * one's.
 */
static uint64_t load_token(const struct gorge_flight_record *r) { return __atomic_load_n(&r->token, __ATOMIC_ACQUIRE); }

/* Whether all that was read since load_token belongs to the flight of `token`. */
static bool still(const struct gorge_flight_record *r, uint64_t token) {
  /*
   * acquire fence: partner of the release fence in write_flight; had a newer flight's field been read, token 0
   * is seen.
   */
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  return gorge_flight_get(&r->token) == token;
}

/* Under the lock. Whether the record is a running flight of this reference's. */
static bool owns(const struct gorge_flight_record *r, const struct gorge_flight_ref *ref) {
  return ref->owner != 0 && load_token(r) == ref->token && gorge_flight_state(r) == GORGE_FLIGHT_RUNNING &&
         gorge_flight_owner_id(r) != 0;
}

/* Under the lock, like all changes of `used`. */
static uint64_t bit_of(const struct gorge_flight_set *set, const struct gorge_flight_record *r) {
  return (uint64_t)1 << (r - set->record);
}

static void end(struct gorge_flight_set *set, struct gorge_flight_record *r) {
  /* release: partner of load_token; whoever sees the flight gone sees what its owner published before. */
  __atomic_store_n(&r->token, 0, __ATOMIC_RELEASE);
  gorge_flight_put(&set->used, gorge_flight_get(&set->used) & ~bit_of(set, r));
}

/* Ends the flight without the lock; false when it is no longer ours. */
static bool end_unlocked(struct gorge_flight_record *r, uint64_t token) {
  /* release: partner of load_token, as in end(). */
  return __atomic_compare_exchange_n(&r->token, &token, 0, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}

static void set_worker(uint64_t *bits, uint32_t owner_id) {
  uint32_t worker = gorge_owner_worker(owner_id);
  bits[worker / 64] |= (uint64_t)1 << worker % 64;
}

static void add_waiters(struct gorge_worker_set *set, const struct gorge_flight_record *r) {
  for (int i = 0; set != NULL && i < GORGE_WORKERS / 64; i++) {
    set->bits[i] |= gorge_flight_get(&r->waiters[i]);
  }
}

static bool snapshot_current(const struct gorge_zone *zone, uint32_t ns, const struct gorge_flight_record *r) {
  uint64_t words[GORGE_FLIGHT_SNAPSHOT_WORDS];
  struct gorge_snapshot s;
  for (int i = 0; i < GORGE_FLIGHT_SNAPSHOT_WORDS; i++) {
    words[i] = gorge_flight_get(&r->snapshot[i]);
  }
  memcpy(&s, words, sizeof s);
  return s.ntags <= GORGE_TAGS_MAX && gorge_l1_snapshot_current(zone, ns, &s);
}

/* Whether the owner that the flight still has will not finish it in time. */
static bool lapsed(const struct gorge_zone *zone, const struct gorge_flight_record *r, uint64_t now_ms) {
  uint32_t id = gorge_flight_owner_id(r);
  return id != 0 && (now_ms >= gorge_flight_deadline_ms(r) || !gorge_owner_alive(zone, id));
}

static bool joinable(const struct gorge_zone *zone, const struct gorge_flight_record *r,
                     const struct gorge_flight_request *rq) {
  return gorge_flight_owner_id(r) != 0 && !lapsed(zone, r, rq->now_ms) && snapshot_current(zone, rq->key->ns, r);
}

/*
 * Under the lock. A flight that goes on with the same key keeps its waiters, and the L2 token until its new owner has
 * recorded one of its own: should that one die before, the next can still replace the lease.
 */
static void write_flight(struct gorge_flight_record *r, const struct gorge_flight_request *rq, uint64_t token,
                         bool goes_on) {
  uint64_t words[GORGE_FLIGHT_SNAPSHOT_WORDS];
  memcpy(words, rq->snapshot, sizeof words);
  uint64_t cap_ms = later(rq->now_ms, rq->cap_ms);
  uint64_t deadline_ms = later(rq->now_ms, rq->lease_ms);
  gorge_flight_put(&r->token, 0);
  /* release fence: partner of the acquire fence in still(). */
  __atomic_thread_fence(__ATOMIC_RELEASE);
  gorge_flight_put(&r->hash, rq->key->hash);
  gorge_flight_put(&r->owner, (uint64_t)rq->owner_id << 32 | rq->key->ns);
  gorge_flight_put(&r->state, GORGE_FLIGHT_RUNNING);
  gorge_flight_put(&r->deadline, gorge_flight_deadline(deadline_ms < cap_ms ? deadline_ms : cap_ms, token));
  gorge_flight_put(&r->cap_ms, cap_ms);
  gorge_flight_put(&r->poked, 0);
  if (!goes_on) {
    gorge_flight_put(&r->l2_token, 0);
    for (int i = 0; i < GORGE_WORKERS / 64; i++) {
      gorge_flight_put(&r->waiters[i], 0);
    }
  }
  /* Without tags what stands in their words is looked at by nobody. */
  int n = rq->snapshot->ntags == 0 ? NO_TAGS_WORDS : GORGE_FLIGHT_SNAPSHOT_WORDS;
  for (int i = 0; i < n; i++) {
    gorge_flight_put(&r->snapshot[i], words[i]);
  }
  /* release: partner of load_token. */
  __atomic_store_n(&r->token, token, __ATOMIC_RELEASE);
}

static struct gorge_flight_record *find(struct gorge_flight_set *set, const struct gorge_key *key) {
  for (uint64_t used = gorge_flight_get(&set->used); used != 0; used &= used - 1) {
    struct gorge_flight_record *r = &set->record[__builtin_ctzll(used) % GORGE_FLIGHT_WAYS];
    if (gorge_flight_get(&r->token) != 0 && gorge_flight_matches(r, key)) {
      return r;
    }
  }
  return NULL;
}

/* Under the lock. */
static int begin_in_set(struct gorge_zone *zone, struct gorge_flight_set *set, const struct gorge_flight_request *rq,
                        uint64_t token, struct gorge_flight_record **record, uint64_t *previous) {
  struct gorge_flight_record *r = find(set, rq->key);
  *record = r;
  if (r != NULL && joinable(zone, r, rq)) {
    uint32_t worker = rq->worker % GORGE_WORKERS;
    /* relaxed: read under the lock, or by a finish that could not have it and may miss it. */
    __atomic_fetch_or(&r->waiters[worker / 64], (uint64_t)1 << worker % 64, __ATOMIC_RELAXED);
    return GORGE_BUSY;
  }
  bool same_key = r != NULL;
  if (same_key) {
    *previous = gorge_flight_get(&r->l2_token);
    if (rq->lapsed != NULL) {
      *rq->lapsed = lapsed(zone, r, rq->now_ms);
    }
  } else {
    *record = r = gorge_flight_pick(zone, set, rq->now_ms);
    if (r == NULL) {
      return GORGE_ERR_FULL;
    }
  }
  if (gorge_flight_get(&r->token) != 0 && gorge_flight_state(r) == GORGE_FLIGHT_RUNNING) {
    add_waiters(rq->displaced, r);
    if (rq->displaced != NULL && gorge_flight_owner_id(r) != 0) {
      set_worker(rq->displaced->bits, gorge_flight_owner_id(r));
    }
  }
  gorge_flight_put(&set->used, gorge_flight_get(&set->used) | bit_of(set, r));
  write_flight(r, rq, token, same_key);
  return GORGE_LEASE;
}

int gorge_flight_begin(struct gorge_zone *zone, const struct gorge_flight_request *rq, struct gorge_flight_ref *ref,
                       uint64_t *previous) {
  *ref = (struct gorge_flight_ref){.index = UINT32_MAX};
  *previous = 0;
  if (rq->displaced != NULL) {
    memset(rq->displaced, 0, sizeof *rq->displaced);
  }
  if (rq->lapsed != NULL) {
    *rq->lapsed = false;
  }
  uint32_t at;
  struct gorge_flight_set *set = gorge_flight_set_of(zone, rq->key->hash, &at);
  uint64_t token = gorge_zone_token(zone);
  if (gorge_lock_acquire(zone, &set->lock, rq->owner_id, LOCK_BUDGET_US, NULL, NULL) != GORGE_OK) {
    return GORGE_ERR_FULL;
  }
  struct gorge_flight_record *r;
  int status = begin_in_set(zone, set, rq, token, &r, previous);
  if (status != GORGE_ERR_FULL) {
    ref->index = at * GORGE_FLIGHT_WAYS + (uint32_t)(r - set->record);
    ref->owner = status == GORGE_LEASE;
    ref->token = gorge_flight_get(&r->token);
  }
  gorge_lock_release(&set->lock, rq->owner_id);
  return status;
}

static uint32_t copy_error(const struct gorge_flight_record *r, char *err) {
  uint64_t words[GORGE_FLIGHT_ERROR_WORDS];
  uint64_t len = gorge_flight_get(&r->state) >> 8;
  for (int i = 0; i < GORGE_FLIGHT_ERROR_WORDS; i++) {
    words[i] = gorge_flight_get(&r->error[i]);
  }
  len = len > GORGE_ERROR_MAX ? GORGE_ERROR_MAX : len;
  memcpy(err, words, len);
  return (uint32_t)len;
}

int gorge_flight_check(struct gorge_zone *zone, const struct gorge_flight_ref *ref, uint64_t now_ms, char *err,
                       uint32_t *err_len) {
  struct gorge_flight_set *set;
  const struct gorge_flight_record *r = gorge_flight_record_at(zone, ref->index, &set);
  *err_len = 0;
  if (r == NULL || ref->token == 0 || load_token(r) != ref->token) {
    return GORGE_OK;
  }
  int status = GORGE_PENDING;
  /* acquire: partner of the release store in finish_failed; the error and what came before it are complete. */
  uint64_t state = __atomic_load_n(&r->state, __ATOMIC_ACQUIRE);
  uint32_t len = 0;
  if ((state & 0xff) == GORGE_FLIGHT_FAILED) {
    len = copy_error(r, err);
    status = GORGE_FAILED;
  } else {
    uint32_t id = gorge_flight_owner_id(r);
    if (id == 0 || now_ms >= gorge_flight_deadline_ms(r) || !gorge_owner_alive(zone, id)) {
      status = GORGE_LEASE;
    }
  }
  if (!still(r, ref->token)) {
    return GORGE_OK;
  }
  *err_len = len;
  return status;
}

bool gorge_flight_owned(struct gorge_zone *zone, const struct gorge_flight_ref *ref) {
  struct gorge_flight_set *set;
  const struct gorge_flight_record *r = gorge_flight_record_at(zone, ref->index, &set);
  return r != NULL && owns(r, ref) && still(r, ref->token);
}

int gorge_flight_renew(struct gorge_zone *zone, const struct gorge_flight_ref *ref, uint64_t now_ms,
                       uint64_t lease_ms) {
  struct gorge_flight_set *set;
  struct gorge_flight_record *r = gorge_flight_record_at(zone, ref->index, &set);
  if (r == NULL) {
    return GORGE_REFUSED;
  }
  for (int i = 0; i < GORGE_WORKERS; i++) {
    uint64_t seen = gorge_flight_get(&r->deadline);
    uint64_t cap_ms = gorge_flight_get(&r->cap_ms);
    uint64_t wanted_ms = later(now_ms, lease_ms);
    wanted_ms = wanted_ms < cap_ms ? wanted_ms : cap_ms;
    if (!owns(r, ref) || !still(r, ref->token) || now_ms >= cap_ms) {
      return GORGE_REFUSED;
    }
    if (wanted_ms <= seen >> 20) {
      return GORGE_OK;
    }
    /*
     * relaxed: one word. `seen` is the flight's own, and a word of a later flight differs from it in the
     * token's bits.
     */
    if (__atomic_compare_exchange_n(&r->deadline, &seen, gorge_flight_deadline(wanted_ms, ref->token), false,
                                    __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
      /* Taken over between the look and the CAS: refused now rather than at the end. */
      return still(r, ref->token) ? GORGE_OK : GORGE_REFUSED;
    }
  }
  return GORGE_REFUSED;
}

/*
 * Locks the set of an owner's record for it; false when the lock is not to be had or the flight is gone. *r is
 * NULL when it is gone.
 */
static bool lock_own(struct gorge_zone *zone, const struct gorge_flight_ref *ref, struct gorge_flight_record **r,
                     struct gorge_flight_set **set, uint32_t *id) {
  *r = gorge_flight_record_at(zone, ref->index, set);
  if (*r == NULL) {
    return false;
  }
  *id = gorge_flight_owner_id(*r);
  /* An owner that gave its slot back may not lock any more: it would be taken for dead inside. */
  if (!owns(*r, ref) || !still(*r, ref->token) || !gorge_owner_alive(zone, *id)) {
    *r = NULL;
    return false;
  }
  if (gorge_lock_acquire(zone, &(*set)->lock, *id, LOCK_BUDGET_US, NULL, NULL) != GORGE_OK) {
    return false;
  }
  if (!owns(*r, ref)) {
    gorge_lock_release(&(*set)->lock, *id);
    *r = NULL;
    return false;
  }
  return true;
}

/* Under the lock: leaves the error to those who wait. */
static void finish_failed(struct gorge_flight_record *r, uint64_t token, uint64_t now_ms, const char *err,
                          uint32_t len) {
  uint64_t words[GORGE_FLIGHT_ERROR_WORDS] = {0};
  len = len > GORGE_ERROR_MAX ? GORGE_ERROR_MAX : len;
  if (len > 0) {
    memcpy(words, err, len);
  }
  for (int i = 0; i < GORGE_FLIGHT_ERROR_WORDS; i++) {
    gorge_flight_put(&r->error[i], words[i]);
  }
  gorge_flight_put(&r->deadline, gorge_flight_deadline(later(now_ms, GORGE_FLIGHT_KEEP_MS), token));
  /* release: partner of the acquire load in gorge_flight_check. */
  __atomic_store_n(&r->state, (uint64_t)len << 8 | GORGE_FLIGHT_FAILED, __ATOMIC_RELEASE);
}

static bool empty(const struct gorge_worker_set *set) {
  uint64_t any = 0;
  for (int i = 0; i < GORGE_WORKERS / 64; i++) {
    any |= set->bits[i];
  }
  return any == 0;
}

int gorge_flight_finish(struct gorge_zone *zone, const struct gorge_flight_ref *ref, uint64_t now_ms, int outcome,
                        const char *err, uint32_t err_len, struct gorge_worker_set *waiters) {
  struct gorge_flight_record *r;
  struct gorge_flight_set *set;
  uint32_t id;
  memset(waiters, 0, sizeof *waiters);
  if (lock_own(zone, ref, &r, &set, &id)) {
    add_waiters(waiters, r);
    if (outcome == GORGE_FAILED && !empty(waiters)) {
      finish_failed(r, ref->token, now_ms, err, err_len);
    } else {
      end(set, r);
    }
    gorge_lock_release(&set->lock, id);
    return GORGE_OK;
  }
  if (r == NULL || !end_unlocked(r, ref->token)) {
    return GORGE_REFUSED;
  }
  add_waiters(waiters, r);
  return GORGE_OK;
}

void gorge_flight_abandon(struct gorge_zone *zone, const struct gorge_flight_ref *ref,
                          struct gorge_worker_set *waiters) {
  struct gorge_flight_record *r;
  struct gorge_flight_set *set;
  uint32_t id;
  memset(waiters, 0, sizeof *waiters);
  if (lock_own(zone, ref, &r, &set, &id)) {
    add_waiters(waiters, r);
    if (gorge_flight_get(&r->l2_token) == 0) {
      end(set, r);
    } else {
      /* The lease in Redis goes to whoever begins next. */
      gorge_flight_put(&r->owner, (uint32_t)gorge_flight_get(&r->owner));
    }
    gorge_lock_release(&set->lock, id);
  } else if (r != NULL && end_unlocked(r, ref->token)) {
    add_waiters(waiters, r);
  }
}

void gorge_flight_set_l2_token(struct gorge_zone *zone, const struct gorge_flight_ref *ref, uint64_t l2_token) {
  struct gorge_flight_record *r;
  struct gorge_flight_set *set;
  uint32_t id;
  if (lock_own(zone, ref, &r, &set, &id)) {
    gorge_flight_put(&r->l2_token, l2_token);
    gorge_lock_release(&set->lock, id);
  }
}

/* Marks the record as poked if it holds the flight of `token`. */
static bool poke(struct gorge_flight_record *r, uint64_t token) {
  for (int i = 0; i < GORGE_WORKERS; i++) {
    /* Loaded before the token is confirmed: the mark of a later flight is never what the CAS expects. */
    uint64_t seen = gorge_flight_get(&r->poked);
    if (!still(r, token)) {
      return false;
    }
    /* release: partner of the acquire in gorge_flight_poked; what the message brought is seen. */
    if (__atomic_compare_exchange_n(&r->poked, &seen, token, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
      return true;
    }
  }
  return false;
}

/* Returns whether the flight of the token has an owner, and it was poked. */
static bool poke_owner(struct gorge_flight_record *r, uint64_t token, struct gorge_worker_set *wake) {
  uint32_t id = gorge_flight_owner_id(r);
  bool poked = id != 0 && poke(r, token);
  if (poked) {
    set_worker(wake->bits, id);
  }
  return poked;
}

bool gorge_flight_poke(struct gorge_zone *zone, const struct gorge_key *key, struct gorge_worker_set *wake) {
  uint32_t at;
  struct gorge_flight_set *set = gorge_flight_set_of(zone, key->hash, &at);
  memset(wake, 0, sizeof *wake);
  for (int i = 0; i < GORGE_FLIGHT_WAYS; i++) {
    struct gorge_flight_record *r = &set->record[i];
    uint64_t token = load_token(r);
    if (token != 0 && gorge_flight_matches(r, key) && poke_owner(r, token, wake)) {
      return true;
    }
  }
  return false;
}

bool gorge_flight_poke_all(struct gorge_zone *zone, uint32_t ns, struct gorge_worker_set *wake) {
  uint32_t count;
  struct gorge_flight_set *sets = gorge_flight_sets(zone, &count);
  bool any = false;
  memset(wake, 0, sizeof *wake);
  for (uint32_t i = 0; i < count; i++) {
    for (uint64_t used = gorge_flight_get(&sets[i].used); used != 0; used &= used - 1) {
      struct gorge_flight_record *r = &sets[i].record[__builtin_ctzll(used) % GORGE_FLIGHT_WAYS];
      uint64_t token = load_token(r);
      bool runs =
          token != 0 && (uint32_t)gorge_flight_get(&r->owner) == ns && gorge_flight_state(r) == GORGE_FLIGHT_RUNNING;
      any = (runs && poke_owner(r, token, wake)) || any;
    }
  }
  return any;
}

bool gorge_flight_poked(struct gorge_zone *zone, const struct gorge_flight_ref *ref) {
  struct gorge_flight_set *set;
  struct gorge_flight_record *r = gorge_flight_record_at(zone, ref->index, &set);
  uint64_t token = ref->token;
  /* acquire: partner of the release store in gorge_flight_poke. */
  return r != NULL && ref->owner != 0 &&
         __atomic_compare_exchange_n(&r->poked, &token, 0, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

uint32_t gorge_flight_count(const struct gorge_zone *zone) {
  uint32_t count, running = 0;
  const struct gorge_flight_set *sets = gorge_flight_sets(zone, &count);
  for (uint32_t i = 0; i < count * GORGE_FLIGHT_WAYS; i++) {
    const struct gorge_flight_record *r = &sets[i / GORGE_FLIGHT_WAYS].record[i % GORGE_FLIGHT_WAYS];
    if (gorge_flight_get(&r->token) != 0 && gorge_flight_state(r) == GORGE_FLIGHT_RUNNING) {
      uint32_t id = gorge_flight_owner_id(r);
      running += id != 0 && gorge_owner_alive(zone, id);
    }
  }
  return running;
}

/* What a record with a token says, to be believed if it still has it. */
static struct gorge_flight_look look_at(const struct gorge_zone *zone, const struct gorge_flight_record *r, uint32_t ns,
                                        uint32_t worker, uint64_t now_ms) {
  struct gorge_worker_set waiters = {{0}};
  struct gorge_flight_look look = {.state = GORGE_FLIGHT_RUNS};
  uint32_t id = gorge_flight_owner_id(r);
  if (id == 0) {
    look.state = GORGE_FLIGHT_GIVEN_UP;
  } else if (lapsed(zone, r, now_ms)) {
    look.state = GORGE_FLIGHT_LAPSED;
  } else if (!snapshot_current(zone, ns, r)) {
    look.state = GORGE_FLIGHT_OVERTAKEN;
  }
  add_waiters(&waiters, r);
  for (int i = 0; i < GORGE_WORKERS / 64; i++) {
    look.waiters += (uint32_t)__builtin_popcountll(waiters.bits[i]);
  }
  look.here = id != 0 && gorge_owner_worker(id) == worker;
  look.leased = gorge_flight_get(&r->l2_token) != 0;
  look.deadline_ms = (double)gorge_flight_deadline_ms(r);
  look.latest_ms = (double)gorge_flight_get(&r->cap_ms);
  return look;
}

void gorge_flight_look(const struct gorge_zone *zone, const struct gorge_key *key, uint32_t worker, uint64_t now_ms,
                       struct gorge_flight_look *out) {
  uint32_t at;
  const struct gorge_flight_set *set = gorge_flight_set_of(zone, key->hash, &at);
  for (int i = 0; i < GORGE_FLIGHT_WAYS; i++) {
    const struct gorge_flight_record *r = &set->record[i];
    uint64_t token = load_token(r);
    if (token != 0 && gorge_flight_matches(r, key)) {
      *out = look_at(zone, r, key->ns, worker, now_ms);
      if (still(r, token)) {
        return;
      }
    }
  }
  *out = (struct gorge_flight_look){.state = GORGE_FLIGHT_NONE};
}
