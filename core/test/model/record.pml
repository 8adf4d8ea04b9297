/* SPDX-License-Identifier: MIT */
/*
 * A flight's record under a weak memory order (flight/flight.c); what those do who use it is flight.pml's subject. Its owner is
 * overtaken by the deadline or an invalidation, stops or goes on too late; another one takes over with a new token; one waits, and
 * reads without the lock. The set's lock, lock.pml's subject, is one step here that orders those who take it.
 *
 *  - I7: what is done under a token counts for that flight only. A late owner ends nothing, and lets no successor live longer.
 *  - A waiter gets the error of the flight it waited for, whole, or looks again.
 *  - I8: everybody comes to an end, whoever has stopped.
 *
 * holds        -DNO_WAITER
 * holds        -DNO_WAITER -DNO_LOCK           the lock is not to be had for those who finish
 * holds        -DSTOPPED                       the first owner never moves again
 * holds  full
 * holds  full  -DNO_LOCK
 * fails        -DNO_TOKEN                      to finish is to hold the place, not the token
 * fails        -DNO_LOCK -DNO_TOKEN
 * fails        -DNO_DEADLINE_BITS              a late renewal hits the successor
 * fails        -DNO_STILL                      a waiter does not look at the token again
 * fails        -DNO_STILL_FENCE
 * fails        -DNO_WRITE_FENCE
 * fails        -DNO_ZERO                       the token is not taken away before the fields are written over
 * fails        -DRELAXED_STATE
 * fails        -DSTOPPED -DNO_LAPSE            nobody looks at the deadline
 */
#define FIRST 0
#define SECOND 1
#define WAITER 2
#define THREADS 3
#define HIST 8

#define TOKEN 0
#define STATE 1 /* RUNNING, or FAILED + the error's length, here the token of the flight it is of */
#define DEADLINE 2 /* time * 4 + token */
#define ERROR 3 /* the error: the token of the flight it is of */
#define LOCS 4
#include "weak.pml"

#define RUNNING 0
#define FAILED 1
#define UNTIL 2
#define END_OF_TIME 3

#ifdef RELAXED_STATE
#define STATES relaxed
#else
#define STATES release
#endif
#ifdef NO_DEADLINE_BITS
#define DEADLINE_OF(time, token) ((time) * 4)
#else
#define DEADLINE_OF(time, token) ((time) * 4 + (token))
#endif
#define TIME_OF(word) ((word) / 4)
#ifdef NO_LAPSE
#define LAPSED false
#else
#define LAPSED (clock >= TIME_OF(LAST(DEADLINE)))
#endif

byte clock; /* gorge_clock_ms: the same for all */
byte finished[3]; /* by token: how often */
bool held;        /* the set's lock */

/* write_flight, under the lock */
inline write_flight(me, token, until) {
#ifndef NO_ZERO
  STORE(me, TOKEN, relaxed, 0);
#endif
#ifndef NO_WRITE_FENCE
  FENCE(me, release);
#endif
  STORE(me, STATE, relaxed, RUNNING);
  STORE(me, DEADLINE, relaxed, DEADLINE_OF(until, token));
  STORE(me, TOKEN, release, token)
}

/* still */
inline still(me, token) {
#ifdef NO_STILL
  ok = true
#else
#ifndef NO_STILL_FENCE
  FENCE(me, acquire);
#endif
  LOAD(me, TOKEN, relaxed, word);
  ok = word == token
#endif
}

/* owns, and still: an acquire load of the token */
inline owns(me, token) {
  LOAD(me, TOKEN, acquire, word);
#ifdef NO_TOKEN
  ok = word != 0
#else
  ok = word == token
#endif
}

/* gorge_flight_renew, one try; `until` */
inline renew(me, token, until) {
  LOAD(me, DEADLINE, relaxed, seen);
  owns(me, token);
  if
  :: ok -> still(me, token)
  :: else
  fi;
  if
  :: ok && TIME_OF(seen) < until -> CAS(me, DEADLINE, seen, DEADLINE_OF(until, token), relaxed, relaxed, ok)
  :: else
  fi
}

/* gorge_flight_finish with an error: lock_own, finish_failed; or end_unlocked */
inline finish(me, token) {
  owns(me, token);
#ifdef NO_LOCK
  seen = token;
#ifdef NO_TOKEN
  if
  :: ok -> EXCHANGE(me, TOKEN, release, 0, seen)
  :: else
  fi;
#else
  CAS(me, TOKEN, seen, 0, release, relaxed, ok);
#endif
#else
  if
  :: ok ->
    LOCKED(me, held);
    owns(me, token);
    if
    :: ok ->
      assert(LAST(TOKEN) == token);
      STORE(me, ERROR, relaxed, token);
      STORE(me, STATE, STATES, FAILED)
    :: else
    fi;
    UNLOCKED(me, held)
  :: else
  fi;
#endif
  if
  :: ok -> finished[token]++
  :: else
  fi
}

/* Owns flight 1, and is late: it may renew, it may finish. */
proctype First() {
  byte seen, word;
  bool ok;
#ifndef STOPPED
  renew(FIRST, 1, END_OF_TIME);
  finish(FIRST, 1);
#endif
  RETIRE(FIRST)
}

/* Wants the key: begins once the flight has lapsed or ended (begin_in_set), then finishes its own. */
proctype Second() {
  byte word, seen, token;
  bool ok, began, overtaken;
#ifndef STOPPED
  /* Whether the first flight is joinable: an invalidation may have overtaken it, which is what gorge_l1_snapshot_current says. */
  if
  :: overtaken = true
  :: true
  fi;
#endif
  do
  :: !began ->
    LOCKED(SECOND, held);
    LOAD(SECOND, TOKEN, relaxed, token);
    LOAD(SECOND, STATE, relaxed, word);
    LOAD(SECOND, DEADLINE, relaxed, seen);
    if
#ifdef NO_LAPSE
    :: token == 0 || word == FAILED ->
#else
    :: token == 0 || word == FAILED || clock >= TIME_OF(seen) || overtaken ->
#endif
      write_flight(SECOND, 2, UNTIL);
      began = true
    :: else
    fi;
    UNLOCKED(SECOND, held);
    if
    :: !began -> LAST(TOKEN) != 1 || LAST(STATE) == FAILED || LAPSED; SEE_ALL(SECOND)
    :: else
    fi
  :: else -> break
  od;
  /* Nobody else may have touched the deadline. */
  LOAD(SECOND, DEADLINE, relaxed, seen);
  assert(TIME_OF(seen) == UNTIL);
  finish(SECOND, 2);
  assert(ok);
  assert(finished[2] == 1);
  RETIRE(SECOND)
}

/* gorge_flight_check of flight 1 until it is over for this waiter */
proctype Waiter() {
  byte state, deadline, word, error;
  bool ok, over;
  do
  :: !over ->
    LOAD(WAITER, TOKEN, acquire, word);
    if
    :: word != 1 -> over = true /* GORGE_OK: look again */
    :: else ->
      LOAD(WAITER, STATE, acquire, state);
      if
      :: state == FAILED ->
        LOAD(WAITER, ERROR, relaxed, error);
        still(WAITER, 1);
        assert(!ok || error == 1); /* GORGE_FAILED */
        over = true
      :: else ->
        LOAD(WAITER, DEADLINE, relaxed, deadline);
        still(WAITER, 1);
#ifdef NO_LAPSE
        over = !ok
#else
        over = !ok || clock >= TIME_OF(deadline) /* GORGE_LEASE */
#endif
      fi
    fi;
    if
    :: !over -> LAST(TOKEN) != 1 || LAST(STATE) == FAILED || LAPSED; SEE_ALL(WAITER)
    :: else
    fi
  :: else -> break
  od;
  RETIRE(WAITER)
}

proctype Clock() {
  do
  :: clock < END_OF_TIME -> clock++
  :: else -> break
  od
}

init {
  atomic {
    INITIAL(TOKEN, 1);
    INITIAL(DEADLINE, DEADLINE_OF(UNTIL, 1));
    run First();
    run Second();
#ifndef NO_WAITER
    run Waiter();
#endif
    run Clock()
  }
}
