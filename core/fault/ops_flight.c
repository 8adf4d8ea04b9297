/* SPDX-License-Identifier: MIT */
/* The operations of flights. Victim and peer are about the same key. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "fault/peer.h"

static const char ERROR[] = "an error that is longer than a few words of memory, to be seen whole or not at all";
static const uint64_t CAP_MS = 10 * FAULT_LEASE_MS;

static int begin(struct fault_scene *s, uint32_t owner_id, uint32_t worker, uint64_t now_ms,
                 struct gorge_flight_ref *ref) {
  struct gorge_key key = fault_flight_key(s);
  struct gorge_snapshot snapshot;
  struct gorge_worker_set displaced;
  uint64_t previous;
  bool lapsed;
  gorge_l1_snapshot(s->l1.zone, &key, NULL, 0, &snapshot);
  struct gorge_flight_request rq = {.key = &key,
                                    .snapshot = &snapshot,
                                    .owner_id = owner_id,
                                    .worker = worker,
                                    .now_ms = now_ms,
                                    .lease_ms = FAULT_LEASE_MS,
                                    .cap_ms = CAP_MS,
                                    .displaced = &displaced,
                                    .lapsed = &lapsed};
  return gorge_flight_begin(s->l1.zone, &rq, ref, &previous);
}

static int peer_begin(struct fault_scene *s, uint64_t now_ms, struct gorge_flight_ref *ref) {
  fault_begin(s);
  int status = begin(s, s->l1.owner.id, s->l1.owner.worker, now_ms, ref);
  fault_end(s, "the begin of a flight");
  return status;
}

static int peer_finish(struct fault_scene *s, const struct gorge_flight_ref *ref, int outcome) {
  struct gorge_worker_set waiters;
  fault_begin(s);
  int status = gorge_flight_finish(s->l1.zone, ref, FAULT_NOW_MS, outcome, ERROR, sizeof ERROR, &waiters);
  fault_end(s, "the end of a flight");
  return status;
}

/* --- what is prepared --- */

static void none(struct fault_scene *s) { s->taken = (struct gorge_flight_ref){.index = UINT32_MAX}; }

static void peers(struct fault_scene *s) {
  assert_int_equal(begin(s, s->l1.owner.id, s->l1.owner.worker, FAULT_NOW_MS, &s->taken), GORGE_LEASE);
}

static void of_dead(struct fault_scene *s) {
  uint32_t id;
  struct proc p = fault_live_owner(s, &id);
  struct gorge_flight_ref ref;
  none(s);
  assert_int_equal(begin(s, id, gorge_owner_worker(id), FAULT_NOW_MS, &ref), GORGE_LEASE);
  gorge_flight_set_l2_token(s->l1.zone, &ref, 99);
  proc_kill(&p);
}

static void of_sleeper(struct fault_scene *s) {
  struct gorge_flight_ref ref;
  none(s);
  assert_int_equal(begin(s, s->sleeper, gorge_owner_worker(s->sleeper), 0, &ref), GORGE_LEASE); /* overdue by now */
}

static void locked_by_dead(struct fault_scene *s) {
  of_dead(s);
  assert_int_equal(gorge_lock_acquire(s->l1.zone, fault_flight_lock(s), fault_dead_owner(s), 0, NULL, NULL), GORGE_OK);
}

/* --- what is done --- */

static void ready(struct fault_scene *s, struct fault_victim *v) {
  v->l1 = l1_enter(&s->l1);
  v->ref.index = UINT32_MAX;
}

/* The victim fills, and the peer's worker waits. */
static void ready_owner(struct fault_scene *s, struct fault_victim *v) {
  struct gorge_flight_ref waiter;
  ready(s, v);
  CHILD_CHECK(begin(s, v->l1.owner.id, v->l1.owner.worker, FAULT_NOW_MS, &v->ref) == GORGE_LEASE);
  CHILD_CHECK(begin(s, s->l1.owner.id, s->l1.owner.worker, FAULT_NOW_MS, &waiter) == GORGE_BUSY);
  gorge_flight_set_l2_token(s->l1.zone, &v->ref, 77);
}

/* The same with a lock that the sleeper holds. */
static void ready_locked(struct fault_scene *s, struct fault_victim *v) {
  ready_owner(s, v);
  CHILD_CHECK(gorge_lock_acquire(s->l1.zone, fault_flight_lock(s), s->sleeper, 0, NULL, NULL) == GORGE_OK);
}

static void act_begin(struct fault_scene *s, struct fault_victim *v) {
  v->status = begin(s, v->l1.owner.id, v->l1.owner.worker, FAULT_NOW_MS, &v->ref);
}
static void act_finish(struct fault_scene *s, struct fault_victim *v) {
  v->status = gorge_flight_finish(s->l1.zone, &v->ref, FAULT_NOW_MS, GORGE_OK, NULL, 0, &v->waiters);
}
static void act_fail(struct fault_scene *s, struct fault_victim *v) {
  v->status = gorge_flight_finish(s->l1.zone, &v->ref, FAULT_NOW_MS, GORGE_FAILED, ERROR, sizeof ERROR, &v->waiters);
}
static void act_abandon(struct fault_scene *s, struct fault_victim *v) {
  gorge_flight_abandon(s->l1.zone, &v->ref, &v->waiters);
  v->status = GORGE_REFUSED;
}
static void act_renew(struct fault_scene *s, struct fault_victim *v) {
  v->status = gorge_flight_renew(s->l1.zone, &v->ref, FAULT_NOW_MS + 10, FAULT_LEASE_MS);
}
static void act_l2_token(struct fault_scene *s, struct fault_victim *v) {
  gorge_flight_set_l2_token(s->l1.zone, &v->ref, 78);
  v->status = GORGE_REFUSED;
}
static void act_poke(struct fault_scene *s, struct fault_victim *v) {
  struct gorge_key key = fault_flight_key(s);
  v->status = gorge_flight_poke(s->l1.zone, &key, &v->waiters) ? GORGE_OK : GORGE_MISS;
}
static void act_poked(struct fault_scene *s, struct fault_victim *v) {
  gorge_flight_poked(s->l1.zone, &v->ref);
  v->status = GORGE_REFUSED;
}

/* --- what must hold --- */

/* The peer's own flight is as it should be, and after it another one can be had. */
static const char *goes_on(struct fault_scene *s, const struct gorge_flight_ref *mine) {
  struct gorge_flight_ref next;
  if (!gorge_flight_owned(s->l1.zone, mine)) {
    return "the peer's flight was lost";
  }
  int status = peer_finish(s, mine, GORGE_OK);
  if (status != GORGE_OK) {
    return fault_complain(s, "the peer's flight cannot be finished: %d", status);
  }
  status = peer_begin(s, FAULT_NOW_MS, &next);
  if (status != GORGE_LEASE || next.token == mine->token || peer_finish(s, &next, GORGE_OK) != GORGE_OK) {
    return fault_complain(s, "after a flight, a begin: %d", status);
  }
  return NULL;
}

/* What a waiter is told of a flight that was the victim's. */
static const char *told(struct fault_scene *s, bool dead) {
  char err[GORGE_ERROR_MAX];
  uint32_t len;
  struct gorge_flight_ref waiter = s->said->ref;
  waiter.owner = 0;
  int status = gorge_flight_check(s->l1.zone, &waiter, FAULT_NOW_MS, err, &len);
  if (status == GORGE_FAILED && (len != sizeof ERROR || memcmp(err, ERROR, len) != 0)) {
    return "the error is not whole";
  }
  return dead && status == GORGE_PENDING ? "a waiter waits for the dead" : NULL;
}

static const char *dead(struct fault_scene *s) {
  struct gorge_flight_ref ref;
  FAULT_TRY(told(s, true));
  uint64_t old = s->said->ref.token;
  int status = peer_begin(s, FAULT_NOW_MS, &ref);
  if (status != GORGE_LEASE || ref.token == old) {
    return fault_complain(s, "the dead one's flight is not taken over: %d", status);
  }
  if (s->said->ref.owner != 0 &&
      (gorge_flight_owned(s->l1.zone, &s->said->ref) || peer_finish(s, &s->said->ref, GORGE_OK) != GORGE_REFUSED ||
       gorge_flight_renew(s->l1.zone, &s->said->ref, FAULT_NOW_MS, FAULT_LEASE_MS) != GORGE_REFUSED)) {
    return "the old token is still good";
  }
  return goes_on(s, &ref);
}

static const char *dead_beside_peer(struct fault_scene *s) {
  struct gorge_flight_ref ref;
  int status = peer_begin(s, FAULT_NOW_MS, &ref);
  if (status != GORGE_BUSY || ref.token != s->taken.token) {
    return fault_complain(s, "the peer's flight is not joined: %d", status);
  }
  return goes_on(s, &s->taken);
}

static const char *dead_and_locked(struct fault_scene *s) {
  struct gorge_flight_ref ref;
  int status = peer_begin(s, FAULT_NOW_MS, &ref);
  if (status != GORGE_ERR_FULL) {
    return fault_complain(s, "a begin beside a stopped holder: %d", status);
  }
  gorge_lock_release(fault_flight_lock(s), s->sleeper);
  return dead(s);
}

/* The victim's lease has run out while it was stopped. */
static const char *take_over(struct fault_scene *s) {
  FAULT_TRY(told(s, false));
  s->was_owned = gorge_flight_owned(s->l1.zone, &s->said->ref);
  int status = peer_begin(s, FAULT_NOW_MS + FAULT_LEASE_MS + 1, &s->taken);
  if (status == GORGE_LEASE) {
    return s->taken.token == s->said->ref.token ? "the same token once more" : NULL;
  }
  s->taken.index = UINT32_MAX; /* renewed, or its lock is held */
  return status == GORGE_BUSY || status == GORGE_ERR_FULL ? NULL : fault_complain(s, "a take-over: %d", status);
}

/* The holder of the lock goes on while the victim still waits for it, or has given up waiting. */
static const char *take_over_unlocked(struct fault_scene *s) {
  gorge_lock_release(fault_flight_lock(s), s->sleeper);
  return take_over(s);
}

static const char *taken_over(struct fault_scene *s) {
  struct gorge_flight_ref ref;
  if (s->taken.index != UINT32_MAX) {
    if (s->was_owned && s->said->status != GORGE_REFUSED) {
      return fault_complain(s, "what comes late is accepted: %d", s->said->status);
    }
    return goes_on(s, &s->taken);
  }
  gorge_lock_release(fault_flight_lock(s), s->sleeper);
  int status = peer_begin(s, FAULT_NOW_MS + CAP_MS + 1, &ref);
  return status == GORGE_LEASE ? goes_on(s, &ref) : fault_complain(s, "a take-over beyond the cap: %d", status);
}

/* Both begin at the same time. */
static const char *begin_too(struct fault_scene *s) {
  s->begin_status = peer_begin(s, FAULT_NOW_MS, &s->taken);
  return s->begin_status == GORGE_LEASE || s->begin_status == GORGE_BUSY || s->begin_status == GORGE_ERR_FULL
             ? NULL
             : fault_complain(s, "a begin beside another: %d", s->begin_status);
}

static const char *one_began(struct fault_scene *s) {
  int theirs = s->said->status;
  bool mine = s->begin_status == GORGE_LEASE && gorge_flight_owned(s->l1.zone, &s->taken);
  if (s->begin_status == GORGE_LEASE && (theirs == GORGE_LEASE || !mine)) {
    return fault_complain(s, "two began: %d", theirs);
  }
  if (theirs == GORGE_LEASE && !gorge_flight_owned(s->l1.zone, &s->said->ref)) {
    return "the one that began has no flight";
  }
  if (theirs == GORGE_BUSY && s->begin_status == GORGE_BUSY) {
    return "nobody began";
  }
  if (mine) {
    return goes_on(s, &s->taken);
  }
  return theirs == GORGE_LEASE ? goes_on(s, &s->said->ref) : dead(s);
}

/* The flight that was to be joined or poked ends, and another one begins, if the victim is not in the way. */
static const char *another(struct fault_scene *s) {
  int status = peer_finish(s, &s->taken, GORGE_OK);
  if (status != GORGE_OK) {
    return fault_complain(s, "the peer cannot end its flight: %d", status);
  }
  s->begin_status = peer_begin(s, FAULT_NOW_MS, &s->next);
  return s->begin_status == GORGE_LEASE || s->begin_status == GORGE_ERR_FULL || s->begin_status == GORGE_BUSY
             ? NULL
             : fault_complain(s, "the peer cannot begin another flight: %d", s->begin_status);
}

/* The victim found the one or the other, or began one itself. */
static const char *another_late(struct fault_scene *s) {
  const struct gorge_flight_ref *victims = &s->said->ref;
  bool owns = victims->owner != 0 && gorge_flight_owned(s->l1.zone, victims);
  if (s->begin_status == GORGE_LEASE) {
    return owns ? "two own a flight" : goes_on(s, &s->next);
  }
  return owns ? goes_on(s, victims) : dead(s);
}

/* --- undisturbed --- */

static const char *status_is(struct fault_scene *s, int expected) {
  return s->said->status == expected ? NULL : fault_complain(s, "undisturbed, its status is %d", s->said->status);
}
static const char *began(struct fault_scene *s) { return status_is(s, GORGE_LEASE); }
static const char *joined(struct fault_scene *s) { return status_is(s, GORGE_BUSY); }
static const char *accepted(struct fault_scene *s) { return status_is(s, GORGE_OK); }
static const char *was_poked(struct fault_scene *s) {
  FAULT_TRY(status_is(s, GORGE_OK));
  return gorge_flight_poked(s->l1.zone, &s->taken) ? NULL : "undisturbed, it does not poke";
}

#define OWNER .prepare = none, .ready = ready_owner, .dead = dead, .meanwhile = take_over, .late = taken_over
#define BEGIN .ready = ready, .act = act_begin, .dead = dead, .meanwhile = begin_too, .late = one_began

const struct fault_op fault_ops_flight[] = {
    {.name = "begin a flight", .prepare = none, BEGIN, .done = began},
    {.name = "take over a dead one's flight", .prepare = of_dead, BEGIN, .done = began},
    {.name = "take over an overdue flight", .prepare = of_sleeper, BEGIN, .done = began},
    {.name = "begin a flight under a dead one's lock", .prepare = locked_by_dead, BEGIN, .done = began},
    {.name = "join a flight",
     .prepare = peers,
     .ready = ready,
     .act = act_begin,
     .done = joined,
     .dead = dead_beside_peer,
     .meanwhile = another,
     .late = another_late},
    {.name = "finish a flight", OWNER, .act = act_finish, .done = accepted},
    {.name = "fail a flight", OWNER, .act = act_fail, .done = accepted},
    {.name = "abandon a flight", OWNER, .act = act_abandon},
    {.name = "renew a flight", OWNER, .act = act_renew, .done = accepted},
    {.name = "note a lease of Redis", OWNER, .act = act_l2_token},
    {.name = "look whether a flight was poked", OWNER, .act = act_poked},
    {.name = "finish a flight beside a stopped holder",
     .prepare = none,
     .ready = ready_locked,
     .act = act_finish,
     .done = accepted,
     .dead = dead_and_locked,
     .meanwhile = take_over_unlocked,
     .late = taken_over},
    {.name = "poke a flight",
     .prepare = peers,
     .ready = ready,
     .act = act_poke,
     .done = was_poked,
     .dead = dead_beside_peer,
     .meanwhile = another,
     .late = another_late},
};
const uint32_t fault_ops_flight_count = sizeof fault_ops_flight / sizeof *fault_ops_flight;
