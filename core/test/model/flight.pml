/* SPDX-License-Identifier: MIT */
/*
 * Flights (flight/flight.c, flight/table.c) and the operations that own or join them (engine/fetch.c, engine/fill.c): one key, a
 * set of two records. Everybody wants the key's value at the same time; some own the fill, others wait.
 *
 * Memory is sequentially consistent here, one shared word a statement. The table's lock is that of lock.pml: who holds it and
 * dies loses it. Token 0, fence, fields, token are the pattern of read.pml.
 *
 *  - I7  at most one record holds a running flight of the key. Who ends a flight is the one who began the last; who was taken
 *        over from ends nothing, and stores nothing after its successor has. (A fill without a flight has its snapshot only.)
 *  - I8  everybody ends, and not by its own deadline, whoever dies or is stopped. Time is `timeout` here: when nothing moves
 *        any more, leases run out and all who wait look again (poll). That happens a few times at most.
 *
 *   -DNO_POLL  no time passes: to be woken must do
 *   -DDEATH    the first operation's process may be killed at any moment
 *   -DSTOP     it may be stopped at any moment, until a lease has run out or all others are done
 *   -DBUSY     who finds the lock taken may give up
 *   -DERRORS   the loader may fail
 *   -DABORTS   the owner may give up, with a lease of Redis or without
 *   -DINVALIDATES  the key is invalidated once, at any time
 *
 * holds        -DNO_POLL
 * holds        -DNO_POLL -DERRORS -DABORTS
 * holds        -DNO_POLL -DINVALIDATES -DOPS=2
 * holds        -DDEATH
 * holds        -DSTOP -DBUSY
 * holds        -DBUSY -DERRORS -DABORTS -DINVALIDATES -DOPS=2
 * holds  full  -DDEATH -DBUSY
 * holds  full  -DDEATH -DBUSY -DERRORS
 * holds  full  -DBUSY -DERRORS
 * holds  full  -DNO_POLL -DINVALIDATES
 * fails        -DNO_POLL -DNO_WAKE
 * fails        -DNO_POLL -DINVALIDATES -DNO_DISPLACED -DFORGET_WAITERS
 * fails        -DNO_POLL -DDEATH
 * fails        -DNO_POLL -DBUSY
 * fails        -DDEATH -DNO_TAKEOVER
 * fails        -DSTOP -DBUSY -DNO_TAKEOVER
 * fails        -DSTOP -DBUSY -DNO_TOKEN_COMPARE
 * fails        -DSTOP -DBUSY -DNO_SOFT_COMPARE
 * fails        -DSTOP -DBUSY -DSTORED_END
 * fails        -DSTOP -DBUSY -DSAME_TOKEN
 * fails        -DNO_LOCK
 */
#ifndef OPS
#define OPS 3
#endif
#define WAYS 2
#define NONE WAYS
#define TICKS 3

#define RUNNING 0
#define FAILED 1

/* struct gorge_flight_record; the first way first */
byte token[WAYS], owner[WAYS], state[WAYS], waiters[WAYS], snapshot[WAYS];
bool late[WAYS]; /* the deadline has passed */
bool used[WAYS];
byte locked; /* who holds it, + 1 */

byte hard, soft; /* the key's stamp */
bool present; /* the value is in L1 */
byte stored_token; /* under which it was stored last */
byte tokens; /* gorge_zone_token */
byte last_owner; /* who began a flight last */
byte over; /* operations that have ended, or died */
bool overdue; /* a lease has run out */
bool wake[OPS], dead[OPS];

#define BIT(i) (1 << (i))
#define MATCHES(r) (used[r] && token[r] != 0 && state[r] == RUNNING)
#ifdef NO_TAKEOVER
#define LAPSED(r) false
#else
#define LAPSED(r) (owner[r] != 0 && (late[r] || dead[owner[r] - 1]))
#endif
#ifdef NO_TOKEN_COMPARE
#define OURS(r) (state[r] == RUNNING && owner[r] != 0)
#define STILL(r) true
#else
#define OURS(r) (token[r] == mine && state[r] == RUNNING && owner[r] != 0)
#define STILL(r) (token[r] == mine)
#endif

#if defined(DEATH)
#define PAUSE                                        \
  if                                                 \
  :: me == 0 -> dead[me] = true; goto end            \
  :: true                                            \
  fi
#elif defined(STOP)
#define PAUSE                                        \
  if                                                 \
  :: me == 0 -> over == OPS - 1                      \
  :: me == 0 -> overdue                              \
  :: true                                            \
  fi
#else
#define PAUSE skip
#endif

/* gorge_lock_acquire */
inline lock_acquire() {
  atomic {
    if
#ifdef NO_LOCK
    :: true -> have = true
#else
    :: locked == 0 || dead[locked - 1] -> locked = me + 1; have = true
#ifdef BUSY
    :: locked != 0 && !dead[locked - 1] -> have = false
#endif
#endif
    fi
  }
}

inline lock_release() { locked = 0 }

/* gorge_cache_wake */
inline wake_all(set) {
#ifndef NO_WAKE
  for (i : 0 .. OPS - 1) {
    wake[i] = wake[i] || (set & BIT(i))
  }
#endif
  i = 0; set = 0
}

/* begin_in_set for a flight of its own; `r`: the key's record, or NONE */
inline write_flight() {
  goes_on = r != NONE;
  if
  :: goes_on
  :: else ->
    /* gorge_flight_pick */
    if
    :: !used[0] -> r = 0
    :: used[0] && !used[1] -> r = 1
    :: used[0] && used[1] && token[0] == 0 -> r = 0
    :: used[0] && used[1] && token[0] != 0 && (token[1] == 0 || state[1] == FAILED) -> r = 1
    :: used[0] && used[1] && token[0] != 0 && state[0] == FAILED -> r = 0
    fi
  fi;
#ifndef NO_DISPLACED
  if
  :: token[r] != 0 && state[r] == RUNNING -> set = waiters[r]
  :: else
  fi;
#endif
#ifdef SAME_TOKEN
  if
  :: goes_on && token[r] != 0 -> mine = token[r]
  :: else
  fi;
#endif
  used[r] = true
}

/* end, or the error left to those who wait */
inline end_locked(failed) {
  assert(last_owner == me);
  set = waiters[r];
  if
  :: failed && set != 0 -> late[r] = false; state[r] = FAILED
  :: else -> token[r] = 0; used[r] = false
  fi
}

/* gorge_flight_finish, and gorge_flight_abandon when the owner keeps a lease of Redis */
inline finish(failed, leased) {
  if
  :: OURS(r) ->
    lock_acquire();
    if
    :: have ->
      PAUSE;
      atomic {
        if
        :: OURS(r) && leased -> set = waiters[r]; owner[r] = 0
        :: OURS(r) && !leased -> end_locked(failed)
        :: else
        fi
      };
      PAUSE;
      lock_release()
    :: else ->
      /* end_unlocked */
      atomic {
#ifdef STORED_END
        token[r] = 0; have = true; assert(last_owner == me)
#else
        if
        :: token[r] == mine -> token[r] = 0; have = true; assert(last_owner == me)
        :: else
        fi
#endif
      };
      if
      :: have -> set = waiters[r]
      :: else
      fi
    fi
  :: else /* no longer ours */
  fi;
  PAUSE;
  atomic { wake_all(set) }
}

proctype Op(byte me) {
  byte r, mine, s_hard, s_soft, set, i;
  bool have, goes_on, failed, leased;
enter:
  atomic { s_hard = hard; s_soft = soft; have = false; r = NONE }; /* gorge_l1_snapshot */
  /* gorge_flight_begin */
  atomic { tokens++; mine = tokens; lock_acquire() };
  if
  :: !have -> mine = 0; goto load /* without a flight */
  :: else
  fi;
  PAUSE;
  /* find */
  atomic {
    if
    :: MATCHES(0) -> r = 0
    :: !MATCHES(0) && MATCHES(1) -> r = 1
    :: else
    fi
  };
  /* joinable */
  if
  :: r != NONE && owner[r] != 0 && !LAPSED(r) && snapshot[r] == hard ->
    waiters[r] = waiters[r] | BIT(me);
    atomic { mine = token[r]; lock_release() };
    goto waiting
  :: else
  fi;
  atomic { write_flight() };
  PAUSE;
  token[r] = 0;
  PAUSE;
  atomic { owner[r] = me + 1; state[r] = RUNNING; late[r] = false; snapshot[r] = s_hard };
  PAUSE;
  atomic {
#ifndef FORGET_WAITERS
    if
    :: !goes_on -> waiters[r] = 0
    :: else
    fi
#else
    waiters[r] = 0
#endif
  };
  PAUSE;
  atomic { token[r] = mine; last_owner = me; assert(!(MATCHES(0) && MATCHES(1))) };
  PAUSE;
  lock_release();
  atomic { goes_on = false; wake_all(set) };
  PAUSE;
load:
  if
  :: present -> goto finishing
  :: else
  fi;
  /* the loader */
  PAUSE;
  if
#ifdef ERRORS
  :: failed = true; goto finishing
#endif
#ifdef ABORTS
  :: leased = true; goto finishing /* abandon */
  :: goto finishing
#endif
  :: true
  fi;
  /* publish: gorge_flight_owned, then gorge_l1_insert */
  if
  :: r == NONE
  :: r != NONE && OURS(r)
  :: else -> goto finishing
  fi;
  PAUSE;
  atomic {
    if
#ifdef NO_SOFT_COMPARE
    :: hard == s_hard ->
#else
    :: hard == s_hard && soft == s_soft ->
#endif
      soft++;
      present = true;
      assert(mine == 0 || mine > stored_token);
      if
      :: mine != 0 -> stored_token = mine
      :: else
      fi
    :: else
    fi
  };
  PAUSE;
finishing:
  if
  :: r != NONE -> finish(failed, leased)
  :: else
  fi;
  goto end;
waiting:
  atomic { wake[me] -> wake[me] = false };
  /* gorge_flight_check */
  if
  :: token[r] != mine || mine == 0 -> goto end /* GORGE_OK */
  :: else
  fi;
  atomic {
    if
    :: state[r] == FAILED -> failed = true
    :: state[r] != FAILED && (owner[r] == 0 || late[r] || dead[owner[r] - 1]) -> leased = true
    :: else
    fi
  };
  if
  :: token[r] != mine || failed -> goto end
  :: token[r] == mine && leased -> leased = false; goto enter
  :: else -> goto waiting
  fi;
end:
  atomic { over++; r = 0; mine = 0; s_hard = 0; s_soft = 0; set = 0; have = false; goes_on = false; failed = false; leased = false }
}

/* Time: comes when nothing moves. All who wait look again. */
proctype Clock() {
  byte ticks, i;
  do
  :: over == OPS -> break
  :: timeout ->
    atomic {
      ticks++;
      assert(ticks <= TICKS);
      overdue = true;
      for (i : 0 .. WAYS - 1) { late[i] = true }
      for (i : 0 .. OPS - 1) { wake[i] = true }
      i = 0
    }
  od
}

init {
  byte i;
  atomic {
    for (i : 0 .. OPS - 1) { run Op(i) }
#ifndef NO_POLL
    run Clock();
#endif
  };
#ifdef INVALIDATES
  atomic { hard++; present = false }
#endif
}
