/* SPDX-License-Identifier: MIT */
/*
 * The owner-tagged lock (sync/lock.c) and whether an owner lives (sync/owner.c). One owner dies at any moment of its turn, the
 * kernel clears its life-lock, a newcomer claims its place, and two others want the lock meanwhile. A stopped thread is one that
 * the others overtake.
 *
 *  - One living holder at a time, and it sees all that those before it did, the dead one included.
 *  - When all is over, the lock can be had.
 *
 * holds        -DTAKERS=1
 * holds  full  -DNO_NEWCOMER                   two takers, both of whom find the dead one
 * holds  full  -DTRIES=3 -DTAKERS=1
 * holds        -DSAME_THREAD_ID -DTAKERS=1   the newcomer was given the dead one's thread id by the kernel
 * fails        -DNO_LIFE
 * fails        -DSTORED_TAKEOVER
 * fails        -DRELAXED_ACQUIRE
 * fails        -DRELAXED_RELEASE
 * fails        -DRELAXED_LIFE
 * fails        -DNO_BECOME_FENCE -DTAKERS=1
 * fails        -DNO_ALIVE_FENCE -DTAKERS=1
 * fails        -DNO_GENERATION -DTAKERS=1
 */
#ifndef TRIES
#define TRIES 2
#endif
#ifndef TAKERS
#define TAKERS 2
#endif

/* Threads, and their owners' ids: thread + 1. The first two have the same place, in generations 1 and 2. */
#define MORTAL 0
#define NEWCOMER 1
#define TAKER(i) (2 + (i))
#define THREADS (2 + TAKERS)
#define HIST 8

#define LOCK 0 /* sequence * 8 + owner */
#define DATA 1 /* what the lock protects */
#define PLACE 2 /* struct gorge_thread_slot, holder: generation * 4 + thread id */
#define LIFE 3 /* its life-lock's futex word: thread id, or 0 */
#define LOCS 4
#include "weak.pml"

#define OWNER(word) ((word) % 8)
#define THREAD_ID_MORTAL 1
#ifdef SAME_THREAD_ID
#define THREAD_ID_NEWCOMER 1
#else
#define THREAD_ID_NEWCOMER 2
#endif

#ifdef RELAXED_ACQUIRE
#define ACQUIRES relaxed
#else
#define ACQUIRES acquire
#endif
#ifdef RELAXED_RELEASE
#define RELEASES relaxed
#else
#define RELEASES release
#endif
#ifdef RELAXED_LIFE
#define ASKS relaxed
#else
#define ASKS acquire
#endif

byte inside, done_inside, over;
bool died;

/* gorge_owner_alive of the lock's holder; only those of the first place ever die */
inline owner_alive(me, id) {
#ifdef NO_LIFE
  alive = false
#else
#ifndef NO_ALIVE_FENCE
  FENCE(me, acquire);
#endif
  if
  :: id > NEWCOMER + 1 -> alive = true
  :: else ->
    LOAD(me, PLACE, acquire, word); /* load_holder */
    LOAD(me, LIFE, ASKS, life);     /* life_thread */
#ifdef NO_GENERATION
    alive = word % 4 != 0 && life == word % 4
#else
    alive = word / 4 == id && word % 4 != 0 && life == word % 4
#endif
  fi
#endif
}

/* try_acquire, replace */
inline try_acquire(me) {
  ok = false;
  LOAD(me, LOCK, relaxed, seen);
  if
  :: OWNER(seen) != 0 -> owner_alive(me, OWNER(seen))
  :: else -> alive = false
  fi;
  if
  :: !alive ->
    word = (seen / 8 + 1) * 8 + me + 1;
#ifdef STORED_TAKEOVER
    EXCHANGE(me, LOCK, ACQUIRES, word, seen);
    ok = true
#else
    CAS(me, LOCK, seen, word, ACQUIRES, relaxed, ok)
#endif
  :: else
  fi;
  atomic { seen = 0; word = 0; life = 0; alive = false }
}

/* gorge_lock_release */
inline release_lock(me) {
  LOAD(me, LOCK, relaxed, seen);
  if
  :: OWNER(seen) == me + 1 -> STORE(me, LOCK, RELEASES, seen / 8 * 8)
  :: else
  fi
}

#define MAY_DIE(me)                                                        \
  if                                                                       \
  :: me == MORTAL -> atomic { inside--; died = true; STORE(me, LIFE, release, 0); goto end } \
  :: true                                                                  \
  fi

inline turn(me) {
  tries = 0;
  do
  :: tries < TRIES && !ok ->
    tries++;
    try_acquire(me)
  :: else -> break
  od;
  if
  :: ok ->
    atomic { assert(inside == 0); inside++ }
    MAY_DIE(me);
    LOAD(me, DATA, relaxed, seen);
    assert(seen == done_inside);
    MAY_DIE(me);
    atomic { done_inside++; STORE(me, DATA, relaxed, seen + 1) }
    MAY_DIE(me);
    inside--;
    release_lock(me)
  :: else
  fi
}

proctype Mortal() {
  byte seen, word, life, tries;
  bool ok, alive;
  inside++; /* it has the lock already, and may do its work */
  MAY_DIE(MORTAL);
  atomic { done_inside++; STORE(MORTAL, DATA, relaxed, 1) }
  MAY_DIE(MORTAL);
  inside--;
  release_lock(MORTAL);
end:
  RETIRE(MORTAL);
  over++
}

proctype Newcomer() {
  byte seen, word, life, tries;
  bool ok, alive;
#ifndef NO_NEWCOMER
  /* take_life */
  LOAD(NEWCOMER, LIFE, acquire, seen);
  if
  :: seen == 0 ->
    CAS(NEWCOMER, LIFE, seen, THREAD_ID_NEWCOMER, acquire, relaxed, ok);
    assert(ok); /* nobody else claims */
    ok = false;
    STORE(NEWCOMER, PLACE, release, 2 * 4 + THREAD_ID_NEWCOMER); /* become */
#ifndef NO_BECOME_FENCE
    FENCE(NEWCOMER, release);
#endif
    turn(NEWCOMER)
  :: else
  fi;
#endif
end:
  RETIRE(NEWCOMER);
  over++
}

proctype Taker(byte me) {
  byte seen, word, life, tries;
  bool ok, alive;
  turn(me);
end:
  /* The last one may do so again, when it sees all there is. */
  over++;
  if
  :: me == TAKER(0) ->
    over == THREADS;
    atomic { seen = 0; word = 0; ok = false };
    SEE_ALL(me);
    try_acquire(me);
    assert(ok)
  :: else
  fi;
  RETIRE(me)
}

init {
  byte i;
  atomic {
    INITIAL(LOCK, 8 + MORTAL + 1);
    INITIAL(PLACE, 4 + THREAD_ID_MORTAL);
    INITIAL(LIFE, THREAD_ID_MORTAL);
    run Mortal();
    run Newcomer();
    for (i : 0 .. TAKERS - 1) { run Taker(TAKER(i)) }
  }
}
