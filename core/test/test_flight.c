/* SPDX-License-Identifier: MIT */
/* Flights: one fill per key on the host, whoever fails, dies, stops or is invalidated. The clock is stepped by the tests. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "flight/table.h"
#include "test/calm.h"
#include "test/flight_load.h"

enum { T = 1000000, LEASE = 5000, CAP = 30000 };

struct fixture {
  struct gorge_zone *zone;
  struct gorge_owner me;
  struct gorge_key key;
};

static int setup(void **state) {
  static struct fixture f;
  f.zone = proc_zone(gorge_l1_init);
  assert_int_equal(gorge_owner_claim(f.zone, GORGE_THREAD_MAIN, &f.me), GORGE_OK);
  gorge_key_init(f.zone, 0, "key", 3, &f.key);
  *state = &f;
  return 0;
}

/* What a begin of this process or another one gets. */
struct got {
  int status;
  struct gorge_flight_ref ref;
  uint64_t previous;
  struct gorge_worker_set displaced;
};

static struct got begin_as(struct gorge_zone *zone, const struct gorge_owner *me, const struct gorge_key *key,
                           uint64_t now_ms) {
  struct got got = {.previous = 4711};
  struct gorge_snapshot snapshot;
  gorge_l1_snapshot(zone, key, NULL, 0, &snapshot);
  struct gorge_flight_request rq = {.key = key,
                                    .snapshot = &snapshot,
                                    .owner_id = me->id,
                                    .worker = me->worker,
                                    .now_ms = now_ms,
                                    .lease_ms = LEASE,
                                    .cap_ms = CAP,
                                    .displaced = &got.displaced};
  got.status = gorge_flight_begin(zone, &rq, &got.ref, &got.previous);
  return got;
}

static struct got begin(struct fixture *f, uint64_t now_ms) { return begin_as(f->zone, &f->me, &f->key, now_ms); }

static int check(struct fixture *f, const struct got *g, uint64_t now_ms) {
  char err[GORGE_ERROR_MAX];
  uint32_t len;
  return gorge_flight_check(f->zone, &g->ref, now_ms, err, &len);
}

static int finish(struct fixture *f, const struct got *g, uint64_t now_ms) {
  struct gorge_worker_set waiters;
  return gorge_flight_finish(f->zone, &g->ref, now_ms, GORGE_OK, NULL, 0, &waiters);
}

static bool in_set(const struct gorge_worker_set *set, uint32_t worker) {
  return set->bits[worker / 64] >> worker % 64 & 1;
}

static bool none_in(const struct gorge_worker_set *set) { return (set->bits[0] | set->bits[1]) == 0; }

/* Another process that begins a flight of the same key, and does what it is told. */
enum { BEGIN = 1, CHECK, FINISH, RENEW, ABANDON, L2_TOKEN, LOCK, SCRIBBLE };

struct other {
  struct proc proc;
  struct gorge_owner owner;
};

struct script {
  struct gorge_zone *zone;
  struct got got; /* of the last begin */
  struct gorge_worker_set waiters;
  struct gorge_owner owner;
};

static int obey(struct proc *self, void *arg) {
  struct script *s = arg;
  struct gorge_zone *zone = s->zone;
  struct gorge_key key;
  struct gorge_flight_set *set;
  struct gorge_flight_record *r;
  char err[GORGE_ERROR_MAX];
  uint32_t len, at;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &s->owner) == GORGE_OK);
  gorge_key_init(zone, 0, "key", 3, &key);
  set = gorge_flight_set_of(zone, key.hash, &at);
  proc_say(self, s->owner.id);
  for (;;) {
    uint64_t what = proc_hear(self), now_ms = proc_hear(self), answer = 0;
    switch (what) {
      case BEGIN:
        s->got = begin_as(zone, &s->owner, &key, now_ms);
        answer = (uint64_t)s->got.status;
        break;
      case CHECK: answer = (uint64_t)gorge_flight_check(zone, &s->got.ref, now_ms, err, &len); break;
      case FINISH:
        answer = (uint64_t)gorge_flight_finish(zone, &s->got.ref, now_ms, GORGE_OK, NULL, 0, &s->waiters);
        break;
      case RENEW: answer = (uint64_t)gorge_flight_renew(zone, &s->got.ref, now_ms, LEASE); break;
      case ABANDON: gorge_flight_abandon(zone, &s->got.ref, &s->waiters); break;
      case L2_TOKEN: gorge_flight_set_l2_token(zone, &s->got.ref, now_ms); break;
      case LOCK: answer = (uint64_t)gorge_lock_acquire(zone, &set->lock, s->owner.id, 1000, NULL, NULL); break;
      case SCRIBBLE: /* as if amid the writing of a new flight */
        r = gorge_flight_record_at(zone, s->got.ref.index, &set);
        gorge_flight_put(&r->token, 0);
        memset((char *)r + sizeof r->token, 0xa5, sizeof *r - sizeof r->token);
        break;
      default: return 0;
    }
    proc_say(self, answer);
  }
}

static struct script *new_script(struct gorge_zone *zone) {
  struct script *s = proc_shared(sizeof *s);
  s->zone = zone;
  return s;
}

static struct proc start(struct script *s) {
  struct proc p = proc_start(obey, s);
  proc_hear(&p);
  return p;
}

static int tell(struct proc *p, uint64_t what, uint64_t word) {
  proc_say(p, what);
  proc_say(p, word);
  return (int)(int64_t)proc_hear(p);
}

static void test_the_first_fills_the_others_wait(void **state) {
  struct fixture *f = *state;
  struct got owner = begin(f, T), waiter = begin(f, T + 1);
  assert_int_equal(owner.status, GORGE_LEASE);
  assert_int_equal(owner.ref.owner, 1);
  assert_int_not_equal(owner.ref.token, 0);
  assert_int_equal(owner.previous, 0);
  assert_int_equal(waiter.status, GORGE_BUSY);
  assert_int_equal(waiter.ref.owner, 0);
  assert_int_equal(waiter.ref.token, owner.ref.token);
  assert_int_equal(check(f, &waiter, T + 1), GORGE_PENDING);
  assert_true(gorge_flight_owned(f->zone, &owner.ref));
  assert_false(gorge_flight_owned(f->zone, &waiter.ref));
  assert_int_equal(gorge_flight_count(f->zone), 1);
  struct gorge_worker_set waiters;
  assert_int_equal(gorge_flight_finish(f->zone, &owner.ref, T + 2, GORGE_OK, NULL, 0, &waiters), GORGE_OK);
  assert_true(in_set(&waiters, f->me.worker));
  assert_int_equal(check(f, &waiter, T + 2), GORGE_OK);
  assert_int_equal(gorge_flight_count(f->zone), 0);
  assert_false(gorge_flight_owned(f->zone, &owner.ref));
  assert_int_equal(finish(f, &owner, T + 3), GORGE_REFUSED);
  assert_int_equal(gorge_flight_renew(f->zone, &owner.ref, T + 3, LEASE), GORGE_REFUSED);
}

static void test_nobody_is_woken_when_nobody_waits(void **state) {
  struct fixture *f = *state;
  struct got owner = begin(f, T);
  struct gorge_worker_set waiters = {{7, 7}};
  assert_int_equal(gorge_flight_finish(f->zone, &owner.ref, T, GORGE_OK, NULL, 0, &waiters), GORGE_OK);
  assert_true(none_in(&waiters));
  assert_true(none_in(&owner.displaced));
}

static void test_a_waiter_cannot_end_the_flight(void **state) {
  struct fixture *f = *state;
  struct got owner = begin(f, T), waiter = begin(f, T);
  struct gorge_worker_set waiters;
  assert_int_equal(finish(f, &waiter, T), GORGE_REFUSED);
  assert_int_equal(gorge_flight_renew(f->zone, &waiter.ref, T, LEASE), GORGE_REFUSED);
  gorge_flight_abandon(f->zone, &waiter.ref, &waiters);
  assert_true(none_in(&waiters));
  assert_int_equal(finish(f, &owner, T), GORGE_OK);
}

static void test_keys_and_namespaces_fly_apart(void **state) {
  struct fixture *f = *state;
  struct gorge_key other = f->key;
  other.ns = 1;
  assert_int_equal(begin(f, T).status, GORGE_LEASE);
  assert_int_equal(begin_as(f->zone, &f->me, &other, T).status, GORGE_LEASE);
  other = f->key;
  other.hash++; /* the same set */
  assert_int_equal(begin_as(f->zone, &f->me, &other, T).status, GORGE_LEASE);
  assert_int_equal(begin(f, T).status, GORGE_BUSY);
  assert_int_equal(gorge_flight_count(f->zone), 3);
}

static void check_error(struct fixture *f, uint64_t now_ms, const char *sent, uint32_t sent_len, uint32_t got_len) {
  struct got owner = begin(f, now_ms), waiter = begin(f, now_ms);
  struct gorge_worker_set waiters;
  char err[GORGE_ERROR_MAX];
  uint32_t len = 0;
  assert_int_equal(owner.status, GORGE_LEASE);
  assert_int_equal(waiter.status, GORGE_BUSY);
  assert_int_equal(gorge_flight_finish(f->zone, &owner.ref, now_ms, GORGE_FAILED, sent, sent_len, &waiters), GORGE_OK);
  assert_true(in_set(&waiters, f->me.worker));
  assert_int_equal(gorge_flight_check(f->zone, &waiter.ref, now_ms, err, &len), GORGE_FAILED);
  assert_int_equal(len, got_len);
  assert_memory_equal(err, sent, got_len);
}

static void test_an_error_reaches_those_who_waited(void **state) {
  struct fixture *f = *state;
  char longest[GORGE_ERROR_MAX + 10];
  for (size_t i = 0; i < sizeof longest; i++) {
    longest[i] = (char)i;
  }
  check_error(f, T, "no \0 such thing", 15, 15);
  check_error(f, T, "", 0, 0);
  for (uint32_t i = 1; i < 10; i++) {
    check_error(f, T + i * 10000, longest, i, i);
  }
  check_error(f, T + 200000, longest, sizeof longest, GORGE_ERROR_MAX);
}

static void test_an_error_is_for_those_who_waited_only(void **state) {
  struct fixture *f = *state;
  struct got owner = begin(f, T), waiter = begin(f, T);
  struct gorge_worker_set waiters;
  gorge_flight_finish(f->zone, &owner.ref, T, GORGE_FAILED, "first", 5, &waiters);
  assert_int_equal(gorge_flight_count(f->zone), 0);
  assert_int_equal(finish(f, &owner, T), GORGE_REFUSED);
  struct got next = begin(f, T);
  assert_int_equal(next.status, GORGE_LEASE);
  assert_int_equal(begin(f, T).ref.token, next.ref.token);
  char err[GORGE_ERROR_MAX];
  uint32_t len;
  assert_int_equal(gorge_flight_check(f->zone, &waiter.ref, T + 1, err, &len), GORGE_FAILED);
  assert_memory_equal(err, "first", 5);
  assert_int_equal(finish(f, &next, T), GORGE_OK);
}

static void test_an_error_nobody_waits_for_takes_no_room(void **state) {
  struct fixture *f = *state;
  for (int i = 0; i < 100; i++) {
    struct got owner = begin(f, T);
    struct gorge_worker_set waiters;
    assert_int_equal(owner.status, GORGE_LEASE);
    assert_int_equal(gorge_flight_finish(f->zone, &owner.ref, T, GORGE_FAILED, "x", 1, &waiters), GORGE_OK);
    assert_int_equal(check(f, &owner, T), GORGE_OK);
  }
}

static void test_a_killed_owner_is_replaced_by_one_of_those_who_wait(void **state) {
  struct fixture *f = *state;
  struct script *s = new_script(f->zone);
  struct proc other = start(s);
  assert_int_equal(tell(&other, BEGIN, T), GORGE_LEASE);
  tell(&other, L2_TOKEN, 1234);
  struct got waiter = begin(f, T);
  assert_int_equal(waiter.status, GORGE_BUSY);
  assert_int_equal(check(f, &waiter, T + 1), GORGE_PENDING);
  assert_int_equal(gorge_flight_count(f->zone), 1);
  proc_kill(&other);
  assert_int_equal(gorge_flight_count(f->zone), 0);
  assert_int_equal(check(f, &waiter, T + 1), GORGE_LEASE);
  struct got taker = begin(f, T + 1), second = begin(f, T + 1);
  assert_int_equal(taker.status, GORGE_LEASE);
  assert_int_equal(taker.previous, 1234);
  assert_int_not_equal(taker.ref.token, waiter.ref.token);
  assert_int_equal(second.status, GORGE_BUSY);
  assert_int_equal(check(f, &waiter, T + 1), GORGE_OK);
  /* Until the taker has a lease of its own, who takes over from it inherits the first one's. */
  struct got third = begin(f, T + 1 + LEASE);
  assert_int_equal(third.status, GORGE_LEASE);
  assert_int_equal(third.previous, 1234);
  gorge_flight_set_l2_token(f->zone, &third.ref, 5678);
  struct got fourth = begin(f, T + 1 + 2 * LEASE);
  assert_int_equal(fourth.previous, 5678);
  /* After a fill that ended there is nothing to inherit. */
  assert_int_equal(finish(f, &fourth, T + 2 * LEASE), GORGE_OK);
  struct got fifth = begin(f, T + 2 * LEASE);
  assert_int_equal(fifth.previous, 0);
  assert_int_equal(begin(f, T + 4 * LEASE).previous, 0);
}

static void test_a_lease_runs_out_for_a_living_owner_too(void **state) {
  struct fixture *f = *state;
  struct script *s = new_script(f->zone);
  struct proc other = start(s);
  assert_int_equal(tell(&other, BEGIN, T), GORGE_LEASE);
  struct got waiter = begin(f, T);
  proc_stop(&other);
  assert_int_equal(check(f, &waiter, T + LEASE - 1), GORGE_PENDING);
  assert_int_equal(begin(f, T + LEASE - 1).status, GORGE_BUSY);
  assert_int_equal(check(f, &waiter, T + LEASE), GORGE_LEASE);
  struct got taker = begin(f, T + LEASE);
  assert_int_equal(taker.status, GORGE_LEASE);
  proc_continue(&other);
  /* What the late one brings is refused, and changes nothing. */
  assert_int_equal(tell(&other, RENEW, T + LEASE), GORGE_REFUSED);
  assert_int_equal(tell(&other, FINISH, T + LEASE), GORGE_REFUSED);
  assert_true(none_in(&s->waiters));
  tell(&other, ABANDON, 0);
  tell(&other, L2_TOKEN, 99);
  assert_true(gorge_flight_owned(f->zone, &taker.ref));
  assert_int_equal(finish(f, &taker, T + LEASE), GORGE_OK);
  assert_int_equal(begin(f, T + LEASE).previous, 0);
  proc_kill(&other);
}

static void test_a_late_owner_nobody_replaced_may_still_finish(void **state) {
  struct fixture *f = *state;
  struct got owner = begin(f, T);
  assert_true(gorge_flight_owned(f->zone, &owner.ref));
  assert_int_equal(gorge_flight_renew(f->zone, &owner.ref, T + LEASE + 10, LEASE), GORGE_OK);
  assert_int_equal(begin(f, T + LEASE + 10).status, GORGE_BUSY);
  assert_int_equal(finish(f, &owner, T + 3 * LEASE), GORGE_OK);
}

static void test_renewing_extends_within_the_cap(void **state) {
  struct fixture *f = *state;
  struct got owner = begin(f, T), waiter = begin(f, T);
  uint64_t now = T;
  for (; now < T + CAP; now += LEASE / 2) {
    assert_int_equal(gorge_flight_renew(f->zone, &owner.ref, now, LEASE), GORGE_OK);
    uint64_t until = now + LEASE < T + CAP ? now + LEASE : T + CAP;
    assert_int_equal(check(f, &waiter, until - 1), GORGE_PENDING);
    assert_int_equal(check(f, &waiter, until), GORGE_LEASE);
  }
  /* A shorter lease than the one that runs takes nothing away. */
  assert_int_equal(gorge_flight_renew(f->zone, &owner.ref, T + CAP - 10, 1), GORGE_OK);
  assert_int_equal(check(f, &waiter, T + CAP - 1), GORGE_PENDING);
  assert_int_equal(gorge_flight_renew(f->zone, &owner.ref, T + CAP, LEASE), GORGE_REFUSED);
  assert_int_equal(check(f, &waiter, T + CAP), GORGE_LEASE);
}

static void test_leases_without_end_do_not_overflow(void **state) {
  struct fixture *f = *state;
  struct gorge_snapshot snapshot;
  gorge_l1_snapshot(f->zone, &f->key, NULL, 0, &snapshot);
  struct gorge_flight_request rq = {.key = &f->key,
                                    .snapshot = &snapshot,
                                    .owner_id = f->me.id,
                                    .worker = f->me.worker,
                                    .now_ms = T,
                                    .lease_ms = UINT64_MAX,
                                    .cap_ms = UINT64_MAX};
  struct gorge_flight_ref ref;
  uint64_t previous;
  assert_int_equal(gorge_flight_begin(f->zone, &rq, &ref, &previous), GORGE_LEASE);
  struct got waiter = begin(f, T);
  assert_int_equal(waiter.status, GORGE_BUSY);
  assert_int_equal(check(f, &waiter, (uint64_t)1 << 40), GORGE_PENDING);
  assert_int_equal(gorge_flight_renew(f->zone, &ref, (uint64_t)1 << 40, UINT64_MAX), GORGE_OK);
}

static void test_an_invalidation_ends_a_flight_for_those_who_come_after(void **state) {
  struct fixture *f = *state;
  struct script *s = new_script(f->zone);
  struct proc other = start(s);
  struct got old = begin(f, T);
  assert_int_equal(tell(&other, BEGIN, T), GORGE_BUSY);
  struct gorge_flight_ref waiting = s->got.ref;
  gorge_l1_invalidate(f->zone, &f->me, &f->key, 0, NULL);
  /* Who waits goes on waiting until somebody asks anew: the value may have been read before the invalidation. */
  assert_int_equal(tell(&other, CHECK, T), GORGE_PENDING);
  struct got new = begin(f, T);
  assert_int_equal(new.status, GORGE_LEASE);
  assert_int_not_equal(new.ref.token, old.ref.token);
  assert_true(in_set(&new.displaced, s->owner.worker)); /* to be woken: their flight is gone */
  assert_int_equal(tell(&other, CHECK, T), GORGE_OK);
  assert_int_equal(tell(&other, BEGIN, T), GORGE_BUSY);
  assert_int_equal(s->got.ref.token, new.ref.token);
  assert_int_not_equal(s->got.ref.token, waiting.token);
  assert_false(gorge_flight_owned(f->zone, &old.ref));
  assert_int_equal(finish(f, &old, T), GORGE_REFUSED);
  assert_int_equal(gorge_flight_renew(f->zone, &old.ref, T, LEASE), GORGE_REFUSED);
  struct gorge_worker_set waiters;
  assert_int_equal(gorge_flight_finish(f->zone, &new.ref, T, GORGE_OK, NULL, 0, &waiters), GORGE_OK);
  assert_true(in_set(&waiters, s->owner.worker));
  proc_kill(&other);
}

static void test_waiters_of_a_superseded_flight_are_woken_by_the_next_one_at_the_latest(void **state) {
  struct fixture *f = *state;
  struct script *s = new_script(f->zone);
  struct proc other = start(s);
  begin(f, T);
  assert_int_equal(tell(&other, BEGIN, T), GORGE_BUSY);
  gorge_l1_invalidate(f->zone, &f->me, &f->key, 0, NULL);
  struct got new = begin(f, T);
  struct gorge_worker_set waiters;
  gorge_flight_finish(f->zone, &new.ref, T, GORGE_OK, NULL, 0, &waiters);
  assert_true(in_set(&waiters, s->owner.worker));
  proc_kill(&other);
}

static void test_giving_up_hands_the_fill_to_the_next(void **state) {
  struct fixture *f = *state;
  struct got owner = begin(f, T), waiter = begin(f, T);
  struct gorge_worker_set waiters;
  gorge_flight_abandon(f->zone, &owner.ref, &waiters);
  assert_true(in_set(&waiters, f->me.worker));
  assert_int_equal(check(f, &waiter, T), GORGE_OK);
  assert_int_equal(gorge_flight_count(f->zone), 0);
  struct got next = begin(f, T), last = begin(f, T);
  assert_int_equal(next.status, GORGE_LEASE);
  assert_int_equal(next.previous, 0);
  assert_int_equal(last.status, GORGE_BUSY);
  gorge_flight_abandon(f->zone, &owner.ref, &waiters); /* a second time: no longer ours */
  assert_true(gorge_flight_owned(f->zone, &next.ref));
}

static void test_giving_up_hands_on_the_lease_of_redis(void **state) {
  struct fixture *f = *state;
  struct got owner = begin(f, T), waiter = begin(f, T);
  struct gorge_worker_set waiters;
  gorge_flight_set_l2_token(f->zone, &owner.ref, 77);
  gorge_flight_abandon(f->zone, &owner.ref, &waiters);
  assert_true(in_set(&waiters, f->me.worker));
  assert_int_equal(check(f, &waiter, T), GORGE_LEASE);
  assert_int_equal(gorge_flight_count(f->zone), 0);
  assert_false(gorge_flight_owned(f->zone, &owner.ref));
  assert_int_equal(finish(f, &owner, T), GORGE_REFUSED);
  assert_int_equal(gorge_flight_renew(f->zone, &owner.ref, T, LEASE), GORGE_REFUSED);
  struct got next = begin(f, T);
  assert_int_equal(next.status, GORGE_LEASE);
  assert_int_equal(next.previous, 77);
  assert_int_equal(begin(f, T).status, GORGE_BUSY);
}

static void test_a_poke_reaches_the_owner_once(void **state) {
  struct fixture *f = *state;
  struct gorge_worker_set wake;
  assert_false(gorge_flight_poke(f->zone, &f->key, &wake));
  assert_true(none_in(&wake));
  struct got owner = begin(f, T), waiter = begin(f, T);
  assert_false(gorge_flight_poked(f->zone, &owner.ref));
  assert_true(gorge_flight_poke(f->zone, &f->key, &wake));
  assert_true(in_set(&wake, f->me.worker));
  assert_true(gorge_flight_poke(f->zone, &f->key, &wake));
  assert_false(gorge_flight_poked(f->zone, &waiter.ref));
  assert_true(gorge_flight_poked(f->zone, &owner.ref));
  assert_false(gorge_flight_poked(f->zone, &owner.ref));
  gorge_flight_poke(f->zone, &f->key, &wake);
  finish(f, &owner, T);
  struct got next = begin(f, T);
  assert_false(gorge_flight_poked(f->zone, &next.ref)); /* it was the last one's */
  assert_false(gorge_flight_poked(f->zone, &owner.ref));
}

static void test_all_of_a_namespace_are_poked(void **state) {
  struct fixture *f = *state;
  struct gorge_worker_set wake;
  struct gorge_key all[4], other;
  struct got flights[4], elsewhere;
  gorge_key_init(f->zone, f->key.ns + 1, "k", 1, &other);
  assert_false(gorge_flight_poke_all(f->zone, f->key.ns, &wake));
  assert_true(none_in(&wake));
  for (uint32_t i = 0; i < 4; i++) {
    char name[8];
    gorge_key_init(f->zone, f->key.ns, name, (uint32_t)snprintf(name, sizeof name, "k%u", i), &all[i]);
    flights[i] = begin_as(f->zone, &f->me, &all[i], T);
  }
  elsewhere = begin_as(f->zone, &f->me, &other, T);
  assert_true(gorge_flight_poke_all(f->zone, f->key.ns, &wake));
  assert_true(in_set(&wake, f->me.worker));
  for (int i = 0; i < 4; i++) {
    assert_true(gorge_flight_poked(f->zone, &flights[i].ref));
  }
  assert_false(gorge_flight_poked(f->zone, &elsewhere.ref));
}

static void test_references_to_nothing_are_harmless(void **state) {
  struct fixture *f = *state;
  const struct got none[] = {
      {.ref = {UINT32_MAX, 1, 1}}, {.ref = {1 << 20, 1, 1}}, {.ref = {0, 1, 5}}, {.ref = {0, 0, 0}}};
  struct gorge_worker_set waiters;
  for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
    assert_int_equal(check(f, &none[i], T), GORGE_OK);
    assert_int_equal(finish(f, &none[i], T), GORGE_REFUSED);
    assert_int_equal(gorge_flight_renew(f->zone, &none[i].ref, T, LEASE), GORGE_REFUSED);
    assert_false(gorge_flight_owned(f->zone, &none[i].ref));
    assert_false(gorge_flight_poked(f->zone, &none[i].ref));
    gorge_flight_set_l2_token(f->zone, &none[i].ref, 1);
    gorge_flight_abandon(f->zone, &none[i].ref, &waiters);
    assert_true(none_in(&waiters));
  }
}

/* The i-th key of the set that f->key is in. */
static struct gorge_key neighbour(struct fixture *f, uint32_t i) {
  struct gorge_key key = f->key;
  key.hash += i;
  return key;
}

static void test_a_full_set_refuses_and_recovers(void **state) {
  struct fixture *f = *state;
  struct got all[GORGE_FLIGHT_WAYS];
  struct gorge_worker_set waiters;
  for (uint32_t i = 0; i < GORGE_FLIGHT_WAYS; i++) {
    struct gorge_key key = neighbour(f, i);
    all[i] = begin_as(f->zone, &f->me, &key, T + i);
    assert_int_equal(all[i].status, GORGE_LEASE);
  }
  struct gorge_key more = neighbour(f, GORGE_FLIGHT_WAYS);
  struct got refused = begin_as(f->zone, &f->me, &more, T);
  assert_int_equal(refused.status, GORGE_ERR_FULL);
  assert_int_equal(refused.ref.index, UINT32_MAX);
  assert_int_equal(check(f, &refused, T), GORGE_OK);
  /* Those that are there can still be joined and ended. */
  struct gorge_key fifth = neighbour(f, 5);
  struct got waiter = begin_as(f->zone, &f->me, &fifth, T);
  assert_int_equal(waiter.status, GORGE_BUSY);
  assert_int_equal(gorge_flight_finish(f->zone, &all[5].ref, T, GORGE_FAILED, "e", 1, &waiters), GORGE_OK);
  /* An error that is kept gives way; its waiter looks again. */
  struct got taker = begin_as(f->zone, &f->me, &more, T);
  assert_int_equal(taker.status, GORGE_LEASE);
  assert_int_equal(check(f, &waiter, T), GORGE_OK);
  /* So does a flight whose lease has run out, the first one first. */
  more = neighbour(f, GORGE_FLIGHT_WAYS + 1);
  assert_int_equal(begin_as(f->zone, &f->me, &more, T + LEASE - 1).status, GORGE_ERR_FULL);
  assert_int_equal(begin_as(f->zone, &f->me, &more, T + LEASE).status, GORGE_LEASE);
  assert_int_equal(finish(f, &all[0], T + LEASE), GORGE_REFUSED);
  assert_int_equal(finish(f, &all[1], T + LEASE), GORGE_OK);
}

static void test_flights_of_the_dead_make_room(void **state) {
  struct fixture *f = *state;
  struct script *s = new_script(f->zone);
  struct proc other = start(s);
  assert_int_equal(tell(&other, BEGIN, T), GORGE_LEASE);
  for (uint32_t i = 1; i < GORGE_FLIGHT_WAYS; i++) {
    struct gorge_key key = neighbour(f, i);
    assert_int_equal(begin_as(f->zone, &f->me, &key, T).status, GORGE_LEASE);
  }
  struct gorge_key more = neighbour(f, GORGE_FLIGHT_WAYS);
  assert_int_equal(begin_as(f->zone, &f->me, &more, T).status, GORGE_ERR_FULL);
  proc_kill(&other);
  assert_int_equal(begin_as(f->zone, &f->me, &more, T).status, GORGE_LEASE);
}

static void test_killed_inside_the_table_leaves_it_usable(void **state) {
  struct fixture *f = *state;
  struct script *s = new_script(f->zone);
  struct got owner = begin(f, T);
  struct gorge_key key = neighbour(f, 1);
  struct got bystander = begin_as(f->zone, &f->me, &key, T);
  struct proc other = start(s);
  assert_int_equal(tell(&other, BEGIN, T), GORGE_BUSY); /* so that it knows the record */
  assert_int_equal(tell(&other, LOCK, 0), GORGE_OK);
  tell(&other, SCRIBBLE, 0);
  struct got waiting = owner;
  waiting.ref.owner = 0;
  assert_int_equal(check(f, &waiting, T), GORGE_OK); /* no lock is needed to see that it is gone */
  proc_kill(&other);
  assert_int_equal(finish(f, &owner, T), GORGE_REFUSED);
  struct got next = begin(f, T);
  assert_int_equal(next.status, GORGE_LEASE);
  assert_int_equal(next.previous, 0);
  assert_int_equal(begin(f, T).status, GORGE_BUSY);
  struct gorge_worker_set waiters;
  assert_int_equal(gorge_flight_finish(f->zone, &next.ref, T, GORGE_OK, NULL, 0, &waiters), GORGE_OK);
  assert_int_equal(finish(f, &bystander, T), GORGE_OK);
}

static void test_stopped_inside_the_table_stalls_nobody(void **state) {
  struct fixture *f = *state;
  struct script *s = new_script(f->zone);
  struct got owner = begin(f, T), waiter = begin(f, T);
  struct gorge_key key = neighbour(f, 1), other_key = neighbour(f, 2);
  struct got second = begin_as(f->zone, &f->me, &key, T), second_waiter = begin_as(f->zone, &f->me, &key, T);
  struct proc other = start(s);
  assert_int_equal(tell(&other, LOCK, 0), GORGE_OK);
  proc_stop(&other);
  struct calm began = calm_begin();
  struct gorge_worker_set waiters;
  assert_int_equal(begin_as(f->zone, &f->me, &other_key, T).status, GORGE_ERR_FULL);
  assert_int_equal(check(f, &waiter, T), GORGE_PENDING);
  assert_int_equal(gorge_flight_renew(f->zone, &owner.ref, T + 1, LEASE), GORGE_OK);
  assert_int_equal(check(f, &waiter, T + LEASE), GORGE_PENDING);
  /* A fill ends without the lock; its error is lost, not its end. */
  assert_int_equal(gorge_flight_finish(f->zone, &owner.ref, T, GORGE_FAILED, "lost", 4, &waiters), GORGE_OK);
  assert_true(in_set(&waiters, f->me.worker));
  assert_int_equal(check(f, &waiter, T), GORGE_OK);
  assert_int_equal(finish(f, &owner, T), GORGE_REFUSED);
  gorge_flight_abandon(f->zone, &second.ref, &waiters);
  assert_true(in_set(&waiters, f->me.worker));
  assert_int_equal(check(f, &second_waiter, T), GORGE_OK);
  assert_true(calm_ms(began) < 1000); /* some milliseconds; without a budget it would be for ever */
  proc_kill(&other);
  assert_int_equal(begin(f, T).status, GORGE_LEASE);
}

enum { MANY = 8 };

static int begin_at_once(struct proc *self, void *arg) {
  void **args = arg;
  struct gorge_zone *zone = args[0];
  uint64_t *go = args[1];
  struct gorge_owner me;
  struct gorge_key key;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &me) == GORGE_OK);
  gorge_key_init(zone, 0, "key", 3, &key);
  proc_say(self, me.id);
  CHILD_CHECK(proc_await(go, 1));
  struct got got = begin_as(zone, &me, &key, T);
  while (got.status == GORGE_ERR_FULL) { /* whoever had the lock was not on a processor for long */
    got = begin_as(zone, &me, &key, T);
  }
  proc_say(self, (uint64_t)got.status);
  proc_hear(self);
  return 0;
}

static void test_of_many_that_begin_at_once_one_fills(void **state) {
  (void)state;
  for (int round = 0; round < 20; round++) {
    uint64_t *go = proc_shared(sizeof *go);
    void *args[] = {proc_zone(gorge_l1_init), go};
    struct proc all[MANY];
    for (int i = 0; i < MANY; i++) {
      all[i] = proc_start(begin_at_once, args);
      proc_hear(&all[i]);
    }
    __atomic_store_n(go, 1, __ATOMIC_RELEASE);
    int leases = 0;
    for (int i = 0; i < MANY; i++) {
      uint64_t status = proc_hear(&all[i]);
      assert_true(status == GORGE_LEASE || status == GORGE_BUSY);
      leases += status == GORGE_LEASE;
    }
    assert_int_equal(leases, 1);
    for (int i = 0; i < MANY; i++) {
      proc_say(&all[i], 0);
      assert_int_equal(proc_wait(&all[i]), 0);
    }
  }
}

static int fetch_for_ever(struct proc *self, void *arg) {
  void **args = arg;
  struct gorge_owner me;
  CHILD_CHECK(gorge_owner_claim(args[0], GORGE_THREAD_MAIN, &me) == GORGE_OK);
  uint64_t seed = me.id;
  proc_say(self, me.id);
  for (;;) {
    load_fetch(args[0], args[1], &me, &seed);
  }
}

static void test_kills_at_any_moment_leave_one_valid_fill_and_no_waiter(void **state) {
  enum { WORKERS = 4, KILLS = 80 };
  struct fixture *f = *state;
  struct load *load = proc_shared(sizeof *load);
  void *args[] = {f->zone, load};
  struct proc workers[WORKERS];
  uint64_t seed = 3;
  for (int i = 0; i < WORKERS; i++) {
    workers[i] = proc_start(fetch_for_ever, args);
    proc_hear(&workers[i]);
  }
  for (int i = 0; i < KILLS; i++) {
    uint64_t rounds = __atomic_load_n(&load->rounds, __ATOMIC_RELAXED);
    assert_true(proc_await(&load->rounds, rounds + proc_random(&seed) % 50 + 1));
    struct proc *victim = &workers[proc_random(&seed) % WORKERS];
    proc_kill(victim);
    *victim = proc_start(fetch_for_ever, args);
    proc_hear(victim);
  }
  for (int i = 0; i < WORKERS; i++) {
    proc_kill(&workers[i]);
  }
  assert_true(load_holds(load));
  assert_true(load->shared > 0 && load->failed > 0 && load->leaked > 0 && load->refused > 0);
  /* Nothing is left but what the next one takes over at once. */
  assert_int_equal(gorge_flight_count(f->zone), 0);
  for (uint32_t i = 0; i < LOAD_KEYS; i++) {
    struct gorge_key key;
    load_key(f->zone, i, &key);
    struct got got = begin_as(f->zone, &f->me, &key, gorge_clock_ms());
    assert_int_equal(got.status, GORGE_LEASE);
    assert_int_equal(finish(f, &got, gorge_clock_ms()), GORGE_OK);
  }
}

#define FLIGHT_TEST(name) cmocka_unit_test_setup(name, setup)

int main(void) {
  const struct CMUnitTest tests[] = {
      FLIGHT_TEST(test_the_first_fills_the_others_wait),
      FLIGHT_TEST(test_nobody_is_woken_when_nobody_waits),
      FLIGHT_TEST(test_a_waiter_cannot_end_the_flight),
      FLIGHT_TEST(test_keys_and_namespaces_fly_apart),
      FLIGHT_TEST(test_an_error_reaches_those_who_waited),
      FLIGHT_TEST(test_an_error_is_for_those_who_waited_only),
      FLIGHT_TEST(test_an_error_nobody_waits_for_takes_no_room),
      FLIGHT_TEST(test_a_killed_owner_is_replaced_by_one_of_those_who_wait),
      FLIGHT_TEST(test_a_lease_runs_out_for_a_living_owner_too),
      FLIGHT_TEST(test_a_late_owner_nobody_replaced_may_still_finish),
      FLIGHT_TEST(test_renewing_extends_within_the_cap),
      FLIGHT_TEST(test_leases_without_end_do_not_overflow),
      FLIGHT_TEST(test_an_invalidation_ends_a_flight_for_those_who_come_after),
      FLIGHT_TEST(test_waiters_of_a_superseded_flight_are_woken_by_the_next_one_at_the_latest),
      FLIGHT_TEST(test_giving_up_hands_the_fill_to_the_next),
      FLIGHT_TEST(test_giving_up_hands_on_the_lease_of_redis),
      FLIGHT_TEST(test_a_poke_reaches_the_owner_once),
      FLIGHT_TEST(test_all_of_a_namespace_are_poked),
      FLIGHT_TEST(test_references_to_nothing_are_harmless),
      FLIGHT_TEST(test_a_full_set_refuses_and_recovers),
      FLIGHT_TEST(test_flights_of_the_dead_make_room),
      FLIGHT_TEST(test_killed_inside_the_table_leaves_it_usable),
      FLIGHT_TEST(test_stopped_inside_the_table_stalls_nobody),
      FLIGHT_TEST(test_of_many_that_begin_at_once_one_fills),
      FLIGHT_TEST(test_kills_at_any_moment_leave_one_valid_fill_and_no_waiter),
  };
  return cmocka_run_group_tests_name("flight", tests, NULL, NULL);
}
