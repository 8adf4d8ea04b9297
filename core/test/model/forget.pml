/* SPDX-License-Identifier: MIT */
/*
 * Invalidations beside holders of the shard's lock who do not move, or die (l1/shard.c, the paths of l1/write.c): the stamp, the
 * lock's word, the fence word with epoch and mark, the slot, and a record of L0. An entry's bytes are not the subject
 * (read.pml); what a slot's word leads to never changes.
 *
 * The truth is a number that only grows. A fill takes its snapshot, then looks the truth up; an invalidator changes the truth
 * first. Whoever knows that an invalidation is over finds nothing older, neither in L1 nor by a record of L0.
 *
 * What takes several turns of the lock to come about may be where the model begins:
 *   GIVEN_UP   an acquisition that an earlier invalidation gave up on; its holder has just left
 *   GIVEN_UP_INSIDE  the same of a filler that has just got the lock
 *
 * holds        -DDEATH
 * holds        -DGIVEN_UP
 * holds        -DGIVEN_UP_INSIDE
 * holds  full  -DGIVEN_UP -DNO_ENTER_FENCE     whoever takes a lock after it was given up starts clean: that fence would do
 * holds  full  -DGIVEN_UP -DMARK_ONLY          and takes the mark away, so that the lock's word need not be looked at
 * holds  full  -DFILLS=2
 * holds  full  -DDEATH -DGIVEN_UP
 * fails        -DNO_EPOCH_COMPARE
 * fails        -DNO_GLOBAL
 * fails        -DNO_STAMP_COMPARE
 * fails        -DGIVEN_UP -DNO_FORGET_FENCE
 * fails        -DGIVEN_UP_INSIDE -DNO_CLEAN_FENCE
 */
#ifndef FILLERS
#define FILLERS 1
#endif
#ifndef FILLS
#define FILLS 1
#endif
#ifndef INVALIDATORS
#define INVALIDATORS 1
#endif

#define READER 0
#define INVALIDATOR(i) (1 + (i))
#define FILLER(i) (1 + INVALIDATORS + (i))
#define THREADS (1 + INVALIDATORS + FILLERS)
#define HIST 8

#define LOCK 0 /* sequence * 8 + owner; an owner is a thread's number + 1 */
#define FENCE_WORD 1 /* epoch * 16 + mark; a mark is an acquisition's sequence + 1 */
#define SLOT 2 /* an entry's number, or 0 */
#define HARD 3
#define GLOBAL 4
#define CLEAN_EPOCH 5
#define OVER 6 /* the truth of which an invalidation is over */
#define DIED 7 /* the filler whose thread id the kernel has cleared from its life-lock, + 1 */
#define LOCS 8
#include "weak.pml"

#define OWNER(word) ((word) % 8)
#define SEQUENCE(word) ((word) / 8)
#define EPOCH(fence) ((fence) / 16)
#define MARK(fence) ((fence) % 16)

#define ENTRIES (FILLERS * FILLS + 1)
byte truth, entries;
byte truth_of[ENTRIES], epoch_of[ENTRIES];

/*
 * gorge_lock_acquire: busy when somebody who lives holds it. `seen` tells by which acquisition then. To wait is to try again.
 */
inline lock_acquire(me, status) {
  do
  :: LOAD(me, LOCK, relaxed, seen);
     if
     :: OWNER(seen) == 0 -> word = 0
     :: else -> LOAD(me, DIED, acquire, word) /* gorge_owner_alive */
     fi;
     if
     :: OWNER(seen) == word ->
       word = (SEQUENCE(seen) + 1) * 8 + me + 1;
       CAS(me, LOCK, seen, word, acquire, relaxed, ok);
       if
       :: ok -> status = true; break
       :: else
       fi
     :: else -> status = false; break
     fi
  od
}

inline lock_release(me) {
  LOAD(me, LOCK, relaxed, seen);
  if
  :: OWNER(seen) == me + 1 -> STORE(me, LOCK, release, SEQUENCE(seen) * 8)
  :: else
  fi
}

/* gorge_shard_enter, after the lock was taken, with start_clean. `epoch`: the holder's */
inline entered(me) {
#ifndef NO_ENTER_FENCE
  FENCE_SEQ_CST(me);
#endif
  LOAD(me, FENCE_WORD, acquire, seen);
  epoch = EPOCH(seen);
  LOAD(me, CLEAN_EPOCH, relaxed, word);
  if
  :: epoch != word ->
    word = epoch * 16;
    CAS(me, FENCE_WORD, seen, word, relaxed, relaxed, ok);
#ifndef NO_CLEAN_FENCE
    FENCE_SEQ_CST(me);
#endif
    STORE(me, SLOT, relaxed, 0);
    STORE(me, CLEAN_EPOCH, relaxed, epoch)
  :: else
  fi
}

/* gorge_shard_forget */
inline forget(me, sequence) {
#ifndef NO_FORGET_FENCE
  FENCE_SEQ_CST(me);
#endif
  LOAD(me, FENCE_WORD, acquire, seen);
  LOAD(me, LOCK, relaxed, word);
#ifdef MARK_ONLY
  ok = MARK(seen) == sequence + 1;
#else
  ok = MARK(seen) == sequence + 1 && SEQUENCE(word) == sequence;
#endif
  do
  :: !ok ->
    word = (EPOCH(seen) + 1) * 16 + sequence + 1;
    CAS(me, FENCE_WORD, seen, word, acq_rel, acquire, ok)
  :: else -> break
  od;
#ifndef NO_GLOBAL
  FETCH_ADD(me, GLOBAL, release, 1, word)
#endif
}

/* A process may die while it holds the lock. What it has stored comes before the kernel's mark. */
#ifdef DEATH
#define MAY_DIE(me)                                  \
  if                                                 \
  :: STORE(me, DIED, release, me + 1); goto end      \
  :: true                                            \
  fi
#else
#define MAY_DIE(me) skip
#endif

/* gorge_l1_insert without a version, of what a loader found */
proctype Filler(byte me) {
  byte fills, seen, word, epoch, hard, found;
  bool ok, have;
  do
  :: fills < FILLS ->
    fills++;
    LOAD(me, HARD, acquire, hard); /* gorge_l1_snapshot */
    found = truth;                 /* the loader */
#ifdef GIVEN_UP_INSIDE
    have = true; /* acquisition 1 */
#else
    lock_acquire(me, have);
#endif
    if
    :: have ->
      entered(me);
      LOAD(me, HARD, acquire, word); /* accepted */
      if
#ifdef NO_STAMP_COMPARE
      :: true ->
#else
      :: word == hard ->
#endif
        atomic {
          entries++;
          truth_of[entries] = found;
          epoch_of[entries] = epoch;
          EXCHANGE(me, SLOT, release, entries, word) /* gorge_index_publish */
        };
        MAY_DIE(me)
      :: else
      fi;
      lock_release(me)
    :: else /* dropped and counted */
    fi;
    atomic { seen = 0; word = 0; epoch = 0; hard = 0; found = 0; ok = false; have = false }
  :: else -> break
  od;
end:
  RETIRE(me)
}

/* gorge_l1_invalidate without a version */
proctype Invalidator(byte me) {
  byte seen, word, epoch, mine;
  bool ok, have;
  d_step { truth++; mine = truth };
  FETCH_ADD(me, HARD, acq_rel, 1, word);
  lock_acquire(me, have);
  if
  :: have ->
    entered(me);
    /* invalidate_locked */
    LOAD(me, SLOT, relaxed, word);
    if
    :: word != 0 -> EXCHANGE(me, SLOT, release, 0, word)
    :: else
    fi;
    lock_release(me)
  :: else ->
    epoch = SEQUENCE(seen);
    forget(me, epoch)
  fi;
  /* returns: whoever hears of it later knows that this truth, and every earlier one, is over */
  do
  :: LOAD(me, OVER, relaxed, seen);
     if
     :: seen < mine -> CAS(me, OVER, seen, mine, acq_rel, relaxed, ok)
     :: else -> ok = true
     fi;
     if
     :: ok -> break
     :: else
     fi
  od;
  RETIRE(me)
}

/* gorge_l1_read of what the key's slot leads to, and then a record of L0 made of it */
proctype Reader() {
  byte least, global, word, now_word, fence_word;
  LOAD(READER, OVER, acquire, least);
  LOAD(READER, GLOBAL, acquire, global); /* gorge_key_init */
  LOAD(READER, SLOT, acquire, word);
  if
  :: word != 0 ->
    FENCE(READER, acquire); /* judge */
    LOAD(READER, FENCE_WORD, relaxed, fence_word);
    LOAD(READER, SLOT, relaxed, now_word);
    if
#ifndef NO_EPOCH_COMPARE
    :: EPOCH(fence_word) != epoch_of[word]
#endif
    :: now_word != word
    :: else ->
      assert(truth_of[word] >= least);
      /* later: lua/gorge/cache.lua, whose loads have no order */
      LOAD(READER, OVER, acquire, least);
      LOAD(READER, SLOT, relaxed, now_word);
      LOAD(READER, GLOBAL, relaxed, fence_word);
      assert(now_word != word || fence_word != global || truth_of[word] >= least)
    fi
  :: else
  fi;
  RETIRE(READER)
}

init {
  byte i;
  atomic {
#ifdef GIVEN_UP
    INITIAL(LOCK, 8 + THREADS + 1); /* that it left may not be seen yet */
    NEWER(LOCK, 8);
    INITIAL(FENCE_WORD, 16 + 1 + 1);
#endif
#ifdef GIVEN_UP_INSIDE
    INITIAL(LOCK, 8 + FILLER(0) + 1);
    INITIAL(FENCE_WORD, 16 + 1 + 1);
#endif
    run Reader();
    for (i : 0 .. INVALIDATORS - 1) { run Invalidator(INVALIDATOR(i)) }
    for (i : 0 .. FILLERS - 1) { run Filler(FILLER(i)) }
  }
}
