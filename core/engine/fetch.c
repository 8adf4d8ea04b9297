/* SPDX-License-Identifier: MIT */
/* From "not in L1" to a value, a lease to fill, or the end of somebody else's fill. */
#include <string.h>

#include "backlog/backlog.h"
#include "base/clock.h"
#include "base/hash.h"
#include "engine/missed.h"
#include "engine/remote.h"
#include "resil/histogram.h"

enum { LOOKUPS_MAX = 3 };

/* Loads the words that a fill depends on: global word and epoch, stamp, tag generations; before Redis or a loader is asked. */
static void begin_read(struct gorge_op *op) {
  const gorge_cache *c = op->cache;
  gorge_key_renew(c->zone, &op->key);
  gorge_l1_snapshot(c->zone, &op->key, op->tags, op->ntags, &op->snapshot);
}

/* A loader's value is stored under the caller's tags, whatever value was looked at before. */
static void own_tags(struct gorge_op *op) {
  if (gorge_op_own_tags(op)) {
    begin_read(op);
  }
}

static void run(struct gorge_op *op) {
  gorge_cache *c = op->cache;
  gorge_op_unlist(op);
  gorge_op_waited(op);
  op->state = GORGE_OP_RUN;
  op->status = GORGE_LEASE;
  op->began_us = gorge_clock_us();
  if (op->refresh) {
    gorge_count(c, GORGE_COUNT_REFRESHES);
  }
  struct gorge_control *control = gorge_cache_control(c);
  if (control != NULL && op->flight.index != UINT32_MAX) {
    op->lease_id =
        gorge_control_lease_add(control, c->watch, &op->flight, op->key.ptr, op->key.len, op->l2_token, op->lease_ms);
  }
  gorge_op_notify(op);
}

/* Redis is of no use now: the loader's value will be kept on this host. */
static void run_without_redis(struct gorge_op *op) {
  if (op->lookup_only) {
    gorge_op_end(op, GORGE_MISS);
    return;
  }
  op->l2_token = 0;
  own_tags(op);
  run(op);
}

static void ask(struct gorge_op *op, enum gorge_l2_verb verb, uint64_t now_ms) {
  gorge_op_unlist(op);
  if (op->lookup_only && verb != GORGE_L2_LOOKUP) {
    gorge_op_end(op, GORGE_MISS);
    return;
  }
  op->state = verb == GORGE_L2_LOOKUP ? GORGE_OP_LOOKUP : GORGE_OP_LEASE;
  if (verb == GORGE_L2_LEASE) {
    own_tags(op);
  }
  if (verb == GORGE_L2_LEASE && op->l2_token == 0 && gorge_random(&op->l2_token, sizeof op->l2_token) != GORGE_OK) {
    run_without_redis(op);
    return;
  }
  op->behind = !gorge_backlog_empty(op->cache->zone, op->cache->ns);
  if (gorge_missed_key(op) || gorge_remote_send(op, verb, now_ms) != GORGE_OK) {
    run_without_redis(op);
  }
}

/*
 * Whether this host follows the namespace's journal, or has tried. The first thing it does then is to forget its L1, since it knows
 * nothing of what came before: a fill that went through that moment would be lost to L1.
 */
static bool follows(const gorge_cache *c, uint64_t now_ms) {
  /* acquire: pairs with the subscriber's release after its first resync */
  return !c->has_redis || now_ms >= c->sync_until_ms ||
         __atomic_load_n(&gorge_zone_journal(c->zone, c->ns)->tried, __ATOMIC_ACQUIRE) != 0;
}

static void wait_for_others(struct gorge_op *op) {
  if (op->tells && op->wait_us == 0) {
    gorge_op_notify(op);
  }
  gorge_op_waits(op);
}

static int begin_flight(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  struct gorge_worker_set displaced;
  bool lapsed;
  struct gorge_flight_request rq = {
      .key = &op->key,
      .snapshot = &op->snapshot,
      .owner_id = c->process->owner.id,
      .worker = c->process->owner.worker,
      .now_ms = now_ms,
      .lease_ms = op->lease_ms,
      .cap_ms = op->deadline_ms > now_ms ? op->deadline_ms - now_ms : op->lease_ms,
      .displaced = &displaced,
      .lapsed = &lapsed,
  };
  int status = gorge_flight_begin(c->zone, &rq, &op->flight, &op->previous);
  gorge_cache_wake(c, &displaced);
  if (status == GORGE_LEASE && lapsed) {
    gorge_count(c, GORGE_COUNT_TAKEOVERS);
  } else if (status != GORGE_LEASE && (status != GORGE_BUSY || op->refresh)) {
    op->flight.index = UINT32_MAX; /* the table is full: fill without a flight; or nothing to wait for */
  }
  return status;
}

/* A fill may have ended between the caller's miss and this flight: its value is in L1 by now. */
static bool filled(const struct gorge_op *op) {
  const gorge_cache *c = op->cache;
  struct gorge_read read;
  int age = op->refresh ? GORGE_MISS : gorge_l1_age(c->zone, &op->key, gorge_cache_now(c), &read);
  return age == GORGE_HIT || age == GORGE_DUE;
}

void gorge_fetch_enter(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  if (!follows(c, now_ms)) {
    op->state = GORGE_OP_SYNC;
    op->next_ms = now_ms + 1;
    gorge_op_list(op);
    return;
  }
  if (op->refresh && !gorge_refresh_claim(op, now_ms)) {
    gorge_op_end(op, GORGE_OK);
    return;
  }
  begin_read(op);
  int status = begin_flight(op, now_ms);
  if (status == GORGE_BUSY && op->refresh) {
    gorge_op_end(op, GORGE_BUSY);
    return;
  }
  if (status == GORGE_BUSY) {
    if (op->state != GORGE_OP_FLIGHT) {
      wait_for_others(op);
      op->state = GORGE_OP_FLIGHT;
      gorge_op_list(op);
      (void)gorge_cache_control(c); /* who wakes this worker */
    }
    op->next_ms = now_ms + c->lock_sleep_ms;
    return;
  }
  if (filled(op)) {
    gorge_fill_finish_flight(op, GORGE_OK, now_ms);
    gorge_op_end(op, GORGE_OK);
  } else if (!c->has_redis) {
    run(op);
  } else if (!gorge_remote_allowed(op, now_ms)) {
    run_without_redis(op);
  } else { /* of a refresh the version is known that Redis need not show again */
    ask(op, op->rejected_version != 0 ? GORGE_L2_LEASE : GORGE_L2_LOOKUP, now_ms);
  }
}

void gorge_fetch_lookup(struct gorge_op *op, uint64_t now_ms) {
  op->lookup_only = true;
  begin_read(op);
  if (gorge_remote_allowed(op, now_ms)) {
    ask(op, GORGE_L2_LOOKUP, now_ms);
  } else {
    gorge_op_end(op, GORGE_MISS);
  }
}

/* Whether the envelope names just the tags that the snapshot covers. */
static bool same_tags(const struct gorge_op *op, const struct gorge_l2_result *r) {
  if (r->ntags != op->ntags) {
    return false;
  }
  for (uint32_t i = 0; i < r->ntags; i++) {
    if (r->tags[i].len != op->tags[i].len || memcmp(r->tags[i].ptr, op->tags[i].ptr, r->tags[i].len) != 0) {
      return false;
    }
  }
  return true;
}

static int adopt_tags(struct gorge_op *op, const struct gorge_l2_result *r) {
  char packed[GORGE_TAGS_MAX * (GORGE_TAG_MAX + 1)];
  uint32_t len = 0;
  for (uint32_t i = 0; i < r->ntags; i++) {
    packed[len++] = (char)r->tags[i].len;
    memcpy(packed + len, r->tags[i].ptr, r->tags[i].len);
    len += r->tags[i].len;
  }
  return gorge_op_adopt_tags(op, packed, len);
}

static void deliver(struct gorge_op *op, const struct gorge_l2_result *r, bool keep, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  uint64_t past_ms = r->status == GORGE_STALE ? r->life.stale_ms - r->kept_ms : 0;
  if (r->status == GORGE_HIT) {
    gorge_count(c, GORGE_COUNT_L2_HITS);
  }
  if (gorge_op_set_value(op, r->value, r->value_len) != GORGE_OK) {
    gorge_fill_finish_flight(op, GORGE_OK, now_ms);
    gorge_op_end(op, GORGE_ERR_MEMORY);
    return;
  }
  struct gorge_span span = {
      .l1_ms = r->remaining_ms < c->l1_ttl_ms ? r->remaining_ms : c->l1_ttl_ms,
      .ttl_ms = r->remaining_ms,
      .life = r->life,
  };
  struct gorge_entry entry = {
      .value = r->value,
      .value_len = r->value_len,
      .kind = r->kind,
      .version = r->version,
      .ntags = op->ntags,
      .tags = op->tags,
  };
  gorge_cache_life(c, &span, past_ms, now_ms, &entry);
  op->read.kind = r->kind;
  op->read.version = r->version;
  op->read.expires_ms = (double)entry.expires_ms;
  if (keep) {
    int status = gorge_l1_insert(c->zone, &c->process->owner, &op->key, &entry, &op->snapshot, now_ms, &op->read);
    keep = status == GORGE_STORED;
  }
  if (!keep) {
    gorge_op_not_kept(op, r->version);
  }
  gorge_fill_finish_flight(op, GORGE_OK, now_ms);
  gorge_op_end(op, r->status == GORGE_STALE && r->life.stale_ms - r->kept_ms > op->stale_ms ? GORGE_MISS : r->status);
}

/*
 * What was asked for before Redis was told that one of its tags is invalidated may arrive after that, when nothing waits any more. So
 * what was asked for while something waited is asked for again. Returns false when the value is good, as far as this goes.
 */
static bool asked_too_early(struct gorge_op *op, const struct gorge_l2_result *r, uint64_t now_ms) {
  bool missed = r->ntags > 0 && gorge_missed_tags(op->cache, r->ntags, r->tags);
  if (!missed && (r->ntags == 0 || !op->behind)) {
    return false;
  }
  if (missed || ++op->lookups >= LOOKUPS_MAX) {
    run_without_redis(op);
  } else {
    begin_read(op);
    ask(op, GORGE_L2_LOOKUP, now_ms);
  }
  return true;
}

static void hit(struct gorge_op *op, const struct gorge_l2_result *r, uint64_t now_ms) {
  if (asked_too_early(op, r, now_ms)) {
    return;
  }
  if (op->refresh && !gorge_refresh_superseded(op, r->version)) {
    op->rejected_version = r->version;
    ask(op, GORGE_L2_LEASE, now_ms);
    return;
  }
  if (same_tags(op, r)) {
    deliver(op, r, true, now_ms);
    return;
  }
  /*
   * The value carries other tags than the caller named. Their generations must be read before the value is, so it is read once more with
   * its own tags; L1 may keep it then.
   */
  if (++op->lookups >= LOOKUPS_MAX || adopt_tags(op, r) != GORGE_OK) {
    deliver(op, r, false, now_ms);
    return;
  }
  begin_read(op);
  ask(op, GORGE_L2_LOOKUP, now_ms);
}

static void wait_no_longer(struct gorge_op *op, uint64_t now_ms) {
  gorge_count(op->cache, GORGE_COUNT_WAIT_TIMEOUTS);
  op->l2_token = 0;
  if (op->refresh) {
    gorge_refresh_failed(op, now_ms);
  }
  gorge_fill_finish_flight(op, GORGE_OK, now_ms);
  gorge_op_end(op, GORGE_ERR_TIMEOUT);
}

/* Another node fills. A lease that is being renewed is worth waiting for; one that is overdue is not. */
static void park(struct gorge_op *op, const struct gorge_l2_result *r, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  bool overdue = r->remaining_ms + op->lease_ms / 3 + c->lock_sleep_ms < op->lease_ms;
  op->silent_polls = overdue ? op->silent_polls + 1 : 0;
  if (op->silent_polls > c->lock_retries || now_ms >= op->deadline_ms) {
    wait_no_longer(op, now_ms);
    return;
  }
  wait_for_others(op);
  op->state = GORGE_OP_PARKED;
  op->next_ms = now_ms + c->lock_sleep_ms;
  gorge_op_list(op);
  /* This worker holds the host's flight while it waits for another node. */
  if (op->flight.index != UINT32_MAX) {
    (void)gorge_flight_renew(c->zone, &op->flight, now_ms, op->lease_ms);
  }
}

void gorge_fetch_reply(struct gorge_op *op, const struct gorge_l2_result *r, uint64_t now_ms) {
  if (op->state == GORGE_OP_LEASE && (r->status == GORGE_ERR_TIMEOUT || r->status == GORGE_ERR_DOWN)) {
    gorge_fill_lost(op, now_ms); /* it may have been granted all the same */
  }
  if (op->detached) {
    if (op->state == GORGE_OP_LEASE && r->status == GORGE_LEASE && gorge_fill_release(op, now_ms)) {
      return;
    }
    gorge_op_end(op, GORGE_OK);
    return;
  }
  switch (r->status) {
    case GORGE_STALE:
    case GORGE_HIT: hit(op, r, now_ms); break;
    case GORGE_MISS:
      if (r->error != NULL) {
        gorge_count(op->cache, GORGE_COUNT_DECODE_ERRORS);
      }
      if (!op->stale) { /* the miss was counted before */
        gorge_count(op->cache, GORGE_COUNT_L2_MISSES);
      }
      op->rejected_version = r->version;
      ask(op, GORGE_L2_LEASE, now_ms);
      break;
    case GORGE_LEASE:
      memcpy(op->nonces, r->tag_nonces, r->ntags * sizeof op->nonces[0]);
      op->since = r->version;
      if (op->flight.index != UINT32_MAX) {
        gorge_flight_set_l2_token(op->cache->zone, &op->flight, op->l2_token);
      }
      run(op);
      break;
    case GORGE_BUSY: park(op, r, now_ms); break;
    default: run_without_redis(op); break;
  }
}

static void look_at_flight(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  uint32_t len = 0;
  int status = gorge_flight_check(c->zone, &op->flight, now_ms, op->error, &len);
  switch (status) {
    case GORGE_PENDING:
      op->next_ms = now_ms + c->lock_sleep_ms;
      if (now_ms >= op->deadline_ms) {
        gorge_count(c, GORGE_COUNT_WAIT_TIMEOUTS);
        op->flight.index = UINT32_MAX;
        gorge_op_end(op, GORGE_ERR_TIMEOUT);
      }
      break;
    case GORGE_LEASE:
      op->flight.index = UINT32_MAX;
      gorge_fetch_enter(op, now_ms);
      break;
    case GORGE_FAILED:
      op->error_len = len;
      op->flight.index = UINT32_MAX;
      gorge_op_end(op, GORGE_FAILED);
      break;
    default:
      op->flight.index = UINT32_MAX;
      gorge_op_end(op, GORGE_OK);
      break;
  }
}

/*
 * Whether no message reaches the op's flight any more: it is known by the hash of an epoch that is over, or another one has begun since what it
 * depends on was invalidated. A refresh has nobody who waits for it.
 */
static bool is_out_of_reach(const struct gorge_op *op) {
  if (op->refresh || op->flight.index == UINT32_MAX) {
    return false;
  }
  const gorge_cache *c = op->cache;
  struct gorge_key key = op->key;
  gorge_key_renew(c->zone, &key);
  return key.hash != op->key.hash || !gorge_flight_owned(c->zone, &op->flight);
}

void gorge_fetch_look(struct gorge_op *op, uint64_t now_ms) {
  if (op->state == GORGE_OP_FLIGHT) {
    look_at_flight(op, now_ms);
    return;
  }
  if (op->state == GORGE_OP_SYNC) {
    gorge_fetch_enter(op, now_ms);
    return;
  }
  if (op->state == GORGE_OP_RELEASE) {
    gorge_fill_look_lost(op, now_ms);
    return;
  }
  if (op->state == GORGE_OP_COMMIT) {
    gorge_update_look(op, now_ms);
    return;
  }
  if (op->state == GORGE_OP_PARKED && is_out_of_reach(op)) {
    gorge_fill_finish_flight(op, GORGE_OK, now_ms); /* whoever waits for this one begins anew, too */
    gorge_fetch_enter(op, now_ms);
    return;
  }
  bool poked = op->flight.index != UINT32_MAX && gorge_flight_poked(op->cache->zone, &op->flight);
  if (op->state != GORGE_OP_PARKED || !(poked || now_ms >= op->next_ms)) {
    return;
  }
  if (gorge_remote_room(op)) {
    ask(op, GORGE_L2_LEASE, now_ms);
  } else if (now_ms >= op->deadline_ms) {
    wait_no_longer(op, now_ms);
  } else {
    op->next_ms = now_ms + 1; /* many wait: they must not crowd out those who have just come */
  }
}

void gorge_fetch_abandon(struct gorge_op *op) {
  gorge_cache *c = op->cache;
  if (op->lease_id != 0) {
    gorge_control_lease_remove(c->process->control, op->lease_id);
    op->lease_id = 0;
  }
  if (op->flight.index != UINT32_MAX && op->flight.owner) {
    struct gorge_worker_set waiters = {{0}};
    gorge_flight_abandon(c->zone, &op->flight, &waiters);
    gorge_cache_wake(c, &waiters);
  }
  op->flight.index = UINT32_MAX;
}
