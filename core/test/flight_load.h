/* SPDX-License-Identifier: MIT */
/*
 * A load on the flight table for threads or processes, and what must hold of it whatever the order: every
 * lease and every accepted finish is written down with a ticket drawn before and one drawn after the call. A finish accepted
 * although another lease of the key was granted for certain after its own and before it shows as a violation.
 *
 * Include after cmocka.h.
 */
#ifndef GORGE_TEST_FLIGHT_LOAD_H
#define GORGE_TEST_FLIGHT_LOAD_H

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "flight/flight.h"
#include "test/procs.h"

enum {
  LOAD_KEYS = 4,
  LOAD_EVENTS = 60000,
  LOAD_LEASE_MS = 20,
  LOAD_WAIT_MS = LOAD_LEASE_MS + 3000 /* generous: the machine may be busy; without an end it would be for ever */
};

struct load_event {
  uint64_t begun[2], finished[2]; /* tickets before and after; 0: did not return */
  uint32_t key;
  uint32_t accepted;
};

struct load {
  uint64_t ticket;
  uint64_t used;
  uint64_t rounds; /* fetches that came to an end */
  uint64_t shared, failed, refused, taken_over, leaked, pokes;
  uint64_t complaints;
  char complaint[256];
  struct load_event events[LOAD_EVENTS];
};

static inline uint64_t load_ticket(struct load *l) { return __atomic_add_fetch(&l->ticket, 1, __ATOMIC_SEQ_CST); }
static inline void load_count(uint64_t *word) { __atomic_add_fetch(word, 1, __ATOMIC_RELAXED); }

static inline void load_complain(struct load *l, const char *what, uint64_t a, uint64_t b) {
  if (__atomic_fetch_add(&l->complaints, 1, __ATOMIC_RELAXED) == 0) {
    snprintf(l->complaint, sizeof l->complaint, "%s (%llx, %llx)", what, (unsigned long long)a, (unsigned long long)b);
  }
}

static inline void load_key(struct gorge_zone *zone, uint32_t number, struct gorge_key *key) {
  static const char names[LOAD_KEYS][2] = {"a", "b", "c", "d"};
  gorge_key_init(zone, 0, names[number], 1, key);
}

/* The error of a fill: its token in hexadecimal over and over, so that a torn or foreign text shows. */
static inline uint32_t load_error(uint64_t token, uint32_t len, char *out) {
  char hex[17];
  snprintf(hex, sizeof hex, "%016llx", (unsigned long long)token);
  for (uint32_t i = 0; i < len; i++) {
    out[i] = hex[i % 16];
  }
  return len;
}

/* Owns a fill: works a little and ends it in one of the ways there are. */
static inline void load_fill(struct gorge_zone *zone, struct load *l, const struct gorge_flight_ref *ref,
                             struct load_event *e, uint64_t *seed) {
  struct gorge_worker_set waiters;
  char err[GORGE_ERROR_MAX];
  uint32_t kind = proc_random(seed) % 64, len = proc_random(seed) % GORGE_ERROR_MAX + 1;
  for (uint32_t i = proc_random(seed) % 8; i > 0; i--) {
    sched_yield();
  }
  if (kind < 8) {
    gorge_flight_set_l2_token(zone, ref, ref->token ^ 1);
    gorge_flight_renew(zone, ref, gorge_clock_ms(), LOAD_LEASE_MS);
    gorge_flight_poked(zone, ref);
  }
  if (kind == 0) {
    load_count(&l->leaked); /* never comes back: its lease runs out */
    return;
  }
  if (kind == 1) {
    gorge_flight_abandon(zone, ref, &waiters);
    return;
  }
  uint64_t before = load_ticket(l);
  bool fails = kind % 4 == 0;
  int status = gorge_flight_finish(zone, ref, gorge_clock_ms(), fails ? GORGE_FAILED : GORGE_OK, err,
                                   fails ? load_error(ref->token, len, err) : 0, &waiters);
  uint64_t after = load_ticket(l);
  if (status == GORGE_OK) {
    e->finished[0] = before;
    e->finished[1] = after;
    __atomic_store_n(&e->accepted, 1, __ATOMIC_RELEASE);
  } else {
    load_count(&l->refused);
  }
}

/* Waits for somebody's fill. Returns whether to begin again. */
static inline bool load_wait(struct gorge_zone *zone, struct load *l, const struct gorge_flight_ref *ref) {
  char err[GORGE_ERROR_MAX], expected[GORGE_ERROR_MAX];
  uint32_t len;
  uint64_t start = gorge_clock_us();
  for (;;) {
    int status = gorge_flight_check(zone, ref, gorge_clock_ms(), err, &len);
    if (status == GORGE_FAILED) {
      load_count(&l->failed);
      if (len == 0 || len > GORGE_ERROR_MAX || memcmp(err, expected, load_error(ref->token, len, expected)) != 0) {
        load_complain(l, "an error that is not the flight's", ref->token, len);
      }
      return false;
    }
    if (status == GORGE_OK) {
      load_count(&l->shared);
      return false;
    }
    if (status == GORGE_LEASE) {
      return true;
    }
    if (status != GORGE_PENDING) {
      load_complain(l, "a status that check does not have", (uint64_t)status, 0);
    }
    if (gorge_clock_us() - start > LOAD_WAIT_MS * 1000) {
      load_complain(l, "a wait beyond the lease", ref->token, ref->index);
      return false;
    }
    sched_yield();
  }
}

/* One fetch from begin to end. */
static inline void load_fetch(struct gorge_zone *zone, struct load *l, const struct gorge_owner *me, uint64_t *seed) {
  uint32_t number = proc_random(seed) % LOAD_KEYS;
  struct gorge_key key;
  struct gorge_snapshot snapshot;
  load_key(zone, number, &key);
  if (proc_random(seed) % 32 == 0) {
    gorge_l1_invalidate(zone, me, &key, 0, NULL);
  }
  if (proc_random(seed) % 16 == 0) {
    struct gorge_worker_set wake;
    gorge_flight_poke(zone, &key, &wake);
  }
  for (int turn = 0; turn < 1000; turn++) {
    gorge_l1_snapshot(zone, &key, NULL, 0, &snapshot);
    struct gorge_worker_set displaced;
    struct gorge_flight_request rq = {.key = &key,
                                      .snapshot = &snapshot,
                                      .owner_id = me->id,
                                      .worker = me->worker,
                                      .now_ms = gorge_clock_ms(),
                                      .lease_ms = LOAD_LEASE_MS,
                                      .cap_ms = 4 * LOAD_LEASE_MS,
                                      .displaced = &displaced};
    struct gorge_flight_ref ref;
    uint64_t previous, before = load_ticket(l);
    int status = gorge_flight_begin(zone, &rq, &ref, &previous);
    uint64_t after = load_ticket(l);
    if (status == GORGE_LEASE) {
      uint64_t at = __atomic_fetch_add(&l->used, 1, __ATOMIC_RELAXED);
      if (previous != 0) {
        load_count(&l->taken_over);
      }
      struct load_event spare = {.key = number}, *e = at < LOAD_EVENTS ? &l->events[at] : &spare;
      e->key = number;
      e->begun[0] = before;
      __atomic_store_n(&e->begun[1], after, __ATOMIC_RELEASE);
      load_fill(zone, l, &ref, e, seed);
      break;
    }
    if (status == GORGE_BUSY && !load_wait(zone, l, &ref)) {
      break;
    }
    if (status != GORGE_BUSY) {
      /* The table's lock could not be had: goes on without a flight. */
      break;
    }
  }
  load_count(&l->rounds);
}

/* After the load. Returns whether all that must hold does; says what does not. */
static inline bool load_holds(const struct load *l) {
  if (l->complaints != 0) {
    fprintf(stderr, "%llu complaints, the first: %s\n", (unsigned long long)l->complaints, l->complaint);
    return false;
  }
  uint64_t used = l->used < LOAD_EVENTS ? l->used : LOAD_EVENTS;
  /* Leases of a key in the order of what is certain: for each, the earliest end of a grant that began after it ended. */
  for (uint64_t i = 0; i < used; i++) {
    const struct load_event *a = &l->events[i];
    if (!a->accepted) {
      continue;
    }
    for (uint64_t k = 0; k < used; k++) {
      const struct load_event *b = &l->events[k];
      /* Granted in [begun[0], begun[1]]: both for certain between the grant and the finish of the other. */
      if (b->key == a->key && b->begun[1] != 0 && b->begun[0] > a->begun[1] && b->begun[1] < a->finished[0]) {
        fprintf(stderr, "key %u: lease %llu..%llu finished at %llu..%llu, but another was granted at %llu..%llu\n",
                a->key, (unsigned long long)a->begun[0], (unsigned long long)a->begun[1],
                (unsigned long long)a->finished[0], (unsigned long long)a->finished[1], (unsigned long long)b->begun[0],
                (unsigned long long)b->begun[1]);
        return false;
      }
    }
  }
  return true;
}

#endif
