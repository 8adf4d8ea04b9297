/* SPDX-License-Identifier: MIT */
/*
 * Invalidations by tag and by epoch (l1/stamps.c), which take no lock: the generation of a tag, the global word, a fill that names
 * its tag before it begins or learns it afterwards (engine/fill.c: take_late_tags), a reader of L1 (l1/read.c), and a record of L0.
 * The lock and the slot are forget.pml's subject; here an insert is one step, but for what it reads.
 *
 * Whoever knows that an invalidation is over finds nothing that was looked up before it: I1, I3, I5.
 *
 * holds        -DTAG
 * holds        -DEPOCH
 * holds        -DLATE_TAG
 * holds  full  -DTAG -DFILLERS=2
 * holds  full  -DLATE_TAG -DFILLERS=2
 * fails        -DTAG -DNO_GENERATION           the reader does not compare
 * fails        -DTAG -DNO_GLOBAL               L0 is not told
 * fails        -DTAG -DLATE_GLOBAL             the record keeps a global word that was loaded last
 * fails        -DLATE_TAG -DNO_FIRST_CHANGE    the global word is changed after the generation only
 * fails        -DLATE_TAG -DRELAXED_GENERATION
 * fails        -DLATE_TAG -DNO_ELSEWHERE       the late generations are not checked against the global word
 * fails        -DEPOCH -DNO_EPOCH
 */
#ifndef FILLERS
#define FILLERS 1
#endif

#define READER 0
#define INVALIDATOR 1
#define FILLER(i) (2 + (i))
#define THREADS (2 + FILLERS)
#define HIST 8

#define GLOBAL 0 /* epoch * 16 + changes */
#define GENERATION 1
#define SLOT 2 /* an entry's number, or 0 */
#define OVER 3 /* the truth of which the invalidation is over */
#define LOCS 4
#include "weak.pml"

#define EPOCH_OF(word) ((word) / 16)

#ifdef RELAXED_GENERATION
#define CHANGES_GENERATION relaxed
#else
#define CHANGES_GENERATION release
#endif

#define ENTRIES (FILLERS + 1)
byte truth, entries, truth_of[ENTRIES], generation_of[ENTRIES], epoch_of[ENTRIES];

proctype Invalidator() {
  byte word;
  truth++;
#ifdef EPOCH
  /* gorge_l1_bump_epoch */
  FETCH_ADD(INVALIDATOR, GLOBAL, release, 16, word);
#else
  /* gorge_l1_invalidate_tag */
#ifndef NO_FIRST_CHANGE
  FETCH_ADD(INVALIDATOR, GLOBAL, relaxed, 1, word);
#endif
  FETCH_ADD(INVALIDATOR, GENERATION, CHANGES_GENERATION, 1, word);
#ifndef NO_GLOBAL
  FETCH_ADD(INVALIDATOR, GLOBAL, release, 1, word);
#endif
#endif
  STORE(INVALIDATOR, OVER, release, 1);
  RETIRE(INVALIDATOR)
}

proctype Filler(byte me) {
  byte global, generation, found, word;
  bool elsewhere;
  LOAD(me, GLOBAL, acquire, global); /* gorge_key_init */
#ifdef LATE_TAG
  found = truth;
  LOAD(me, GENERATION, acquire, generation);
#ifndef NO_ELSEWHERE
  LOAD(me, GLOBAL, acquire, word);
  elsewhere = word != global;
#endif
#else
  LOAD(me, GENERATION, acquire, generation); /* gorge_l1_snapshot */
  found = truth;
#endif
  if
  :: !elsewhere ->
    /* accepted: gorge_stamps_current. The epoch is that of the key, and must be so still. */
    LOAD(me, GLOBAL, acquire, word);
    elsewhere = EPOCH_OF(word) != EPOCH_OF(global);
    LOAD(me, GENERATION, acquire, word);
    elsewhere = elsewhere || word != generation
  :: else
  fi;
  if
  :: !elsewhere ->
    atomic {
      entries++;
      truth_of[entries] = found;
      generation_of[entries] = generation;
      epoch_of[entries] = EPOCH_OF(global);
      EXCHANGE(me, SLOT, release, entries, word) /* gorge_index_publish */
    }
  :: else
  fi;
  RETIRE(me)
}

/* gorge_l1_read, then a record of L0 made of it */
proctype Reader() {
  byte least, global, word, now_word, generation;
  LOAD(READER, OVER, acquire, least);
  LOAD(READER, GLOBAL, acquire, global); /* gorge_key_init */
  LOAD(READER, SLOT, acquire, word);
  if
#ifdef NO_EPOCH
  :: word != 0 ->
#else
  :: word != 0 && epoch_of[word] == EPOCH_OF(global) -> /* the epoch is part of the hash */
#endif
    LOAD(READER, GENERATION, acquire, generation); /* tags_current */
    LOAD(READER, GLOBAL, acquire, now_word);       /* epoch_current */
    if
#ifndef NO_GENERATION
    :: generation != generation_of[word]
#endif
#ifndef NO_EPOCH
    :: EPOCH_OF(now_word) != EPOCH_OF(global)
#endif
    :: else ->
      assert(truth_of[word] >= least);
#ifdef LATE_GLOBAL
      LOAD(READER, GLOBAL, acquire, global);
#endif
      /* later: lua/gorge/cache.lua, whose loads have no order */
      LOAD(READER, OVER, acquire, least);
      LOAD(READER, SLOT, relaxed, now_word);
      LOAD(READER, GLOBAL, relaxed, generation);
      assert(now_word != word || generation != global || truth_of[word] >= least)
    fi
  :: else
  fi;
  RETIRE(READER)
}

init {
  byte i;
  atomic {
    run Reader();
    run Invalidator();
    for (i : 0 .. FILLERS - 1) { run Filler(FILLER(i)) }
  }
}
