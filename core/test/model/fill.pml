/* SPDX-License-Identifier: MIT */
/*
 * Fills beside set, delete, messages of other hosts, invalidations of tags and clear: the rule at the head of l1/l1.h. Snapshots
 * (l1/stamps.c), insert, set and invalidate (l1/write.c), the own host's writes before and after the reply of Redis
 * (engine/write.c), late tags and what is not kept (engine/fill.c), and a record of L0.
 *
 * Memory is sequentially consistent here, one shared word a statement: an insert's checks and an invalidation's removal, with the
 * bump before it, are ordered by the shard's lock; what stands in one word is ordered by that. What weaker memory does to
 * the stamp beside the lock is the subject of forget.pml, to an entry's bytes that of read.pml. Nobody dies here, Redis answers, and
 * an invalidation always gets the lock; with -DBUSY a fill may not. -DEVICT: the entry is evicted once, at any time.
 *
 * The truth is a number that only grows: what the database holds, or with -DREDIS the version in Redis, which every commit raises.
 * Without Redis a writer changes the database before it calls the cache. An entry of each epoch has its own cell, lock and slot.
 * `over` is the newest truth of which an invalidation was acknowledged, or that somebody was shown:
 *
 *  - I1, I3, I5  who begins to read after an acknowledgement finds nothing older, neither in L1 nor by a record of L0.
 *  - I4          who begins to read after somebody else was shown a value is not shown an older one.
 *
 * The writer, one of: delete (none of these flags), -DSET, -DTAG (-DLATE: the filler learns its tag from the loader), -DCLEAR.
 * -DREMOTE: besides, another host writes, and its message comes. -DNO_WRITER: nobody else does.
 *
 * holds
 * holds        -DSET
 * holds        -DTAG
 * holds        -DTAG -DLATE
 * holds        -DCLEAR
 * holds        -DREDIS -DFILLERS=1
 * holds        -DREDIS -DFILLERS=1 -DSET
 * holds        -DREDIS -DFILLERS=1 -DTAG
 * holds        -DREDIS -DFILLERS=1 -DTAG -DLATE
 * holds        -DREDIS -DREMOTE -DNO_WRITER
 * holds        -DREDIS -DREMOTE -DNO_WRITER -DEVICT
 * holds        -DREDIS -DREMOTE -DNO_WRITER -DBUSY
 * holds  full  -DREDIS
 * holds  full  -DREDIS -DSET
 * holds  full  -DREDIS -DREMOTE -DFILLERS=1
 * holds  full  -DREDIS -DREMOTE -DFILLERS=1 -DSET
 * fails        -DNO_HARD_BUMP
 * fails        -DNO_HARD_COMPARE
 * fails        -DREMOVE_FIRST
 * fails        -DNO_SOFT_BUMP
 * fails        -DSET -DNO_HARD_BUMP -DNO_SOFT_BUMP
 * fails        -DTAG -DTAGS_UNCHECKED
 * fails        -DTAG -DNO_GLOBAL_AFTER
 * fails        -DTAG -DLATE -DNO_GLOBAL_BEFORE
 * fails        -DTAG -DLATE -DNO_LATE_COMPARE
 * fails        -DCLEAR -DNO_EPOCH_COMPARE
 * fails        -DREDIS -DFILLERS=1 -DNO_SECOND_APPLY
 * fails        -DREDIS -DFILLERS=1 -DTAG -DNO_SECOND_APPLY
 * fails        -DREDIS -DREMOTE -DNO_WRITER -DNO_FLOOR
 * fails        -DREDIS -DREMOTE -DNO_WRITER -DNO_SOFT_BUMP
 * fails        -DREDIS -DREMOTE -DNO_WRITER -DEVICT -DNO_NEWEST
 * fails        -DREDIS -DREMOTE -DNO_WRITER -DBUSY -DSHOWN_NOT_KEPT
 */
#ifndef FILLERS
#define FILLERS 2
#endif

#ifdef CLEAR
#define EPOCHS 2
#else
#define EPOCHS 1
#endif
#define EPOCH(word) ((word) / 16)
#define ENTRIES (FILLERS + 2)

byte global; /* epoch * 16 + changes */
byte gen;    /* of the tag that every entry has */
byte hard[EPOCHS], soft[EPOCHS], floor[EPOCHS], newest[EPOCHS];
bool locked[EPOCHS];
byte slot[EPOCHS]; /* an entry's number, or 0 */
/* Nothing of a published entry changes. */
byte entries, truth_of[ENTRIES], gen_of[ENTRIES], epoch_of[ENTRIES];

#ifdef REDIS
byte truth = 1, over = 1;
#define VERSION(found) (found)
#else
byte truth, over;
#define VERSION(found) 0
#endif

#ifdef TAGS_UNCHECKED
#define TAG_CURRENT(g) true
#else
#define TAG_CURRENT(g) ((g) == gen)
#endif
#ifdef NO_HARD_COMPARE
#define HARD_CURRENT true
#else
#define HARD_CURRENT (hard[e] == s_hard)
#endif

/* An acknowledgement, or a value shown */
#define SHOWN(t) over = (t > over -> t : over)

/* gorge_l1_snapshot without the tags; hard and soft are one word */
inline snapshot() {
#ifdef CLEAR
  s_epoch = EPOCH(global); /* gorge_stamps_fresh */
#endif
  d_step { s_hard = hard[s_epoch]; s_soft = soft[s_epoch] }
}

/* gorge_l1_insert: accepted, store. `word` is the entry's afterwards, 0 when refused. */
inline insert(found) {
#ifdef CLEAR
  e = EPOCH(global); /* gorge_stamps_fresh */
#endif
  atomic {
    !locked[e];
    locked[e] = true;
    /* accepted */
    ok = HARD_CURRENT;
    same_soft = soft[e] == s_soft
  };
#if defined(CLEAR) && !defined(NO_EPOCH_COMPARE)
  ok = ok && e == s_epoch && EPOCH(global) == s_epoch;
#endif
  ok = ok && TAG_CURRENT(s_gen);
  atomic {
    ok = ok && (same_soft || (VERSION(found) != 0 && VERSION(found) >= floor[e] && VERSION(found) >= newest[e]));
    if
    :: ok && (slot[e] == 0 || VERSION(found) >= VERSION(truth_of[slot[e]])) ->
      /* store: bump, write, publish */
#ifndef NO_NEWEST
      newest[e] = (VERSION(found) > newest[e] -> VERSION(found) : newest[e]); /* read under the lock only */
#endif
#ifndef NO_SOFT_BUMP
      soft[e]++;
#endif
      skip
    :: else -> ok = false; locked[e] = false
    fi
  };
  atomic {
    if
    :: ok ->
      entries++;
      word = entries;
      truth_of[word] = found;
      gen_of[word] = s_gen;
      epoch_of[word] = s_epoch;
      slot[e] = word;
      locked[e] = false
    :: else
    fi;
    ok = false; same_soft = false; s_epoch = 0; s_hard = 0; s_soft = 0; s_gen = 0
  }
}

/* invalidate_locked, with the lock around it */
inline remove(version) {
  atomic {
    !locked[e];
    ok = version == 0 || slot[e] == 0 || VERSION(truth_of[slot[e]]) < version;
    if
    :: ok ->
      locked[e] = true;
#ifndef NO_SOFT_BUMP
      soft[e] = soft[e] + (version != 0)
#endif
    :: else
    fi
  };
  atomic {
    if
    :: ok -> slot[e] = 0; locked[e] = false; ok = false
    :: else
    fi
  }
}

/* gorge_l1_invalidate */
inline invalidate(version) {
  do
  :: e = EPOCH(global);
#ifdef REMOVE_FIRST
     remove(version);
#endif
     atomic {
       if
#ifndef NO_HARD_BUMP
       :: version == 0 -> hard[e]++; s_hard = hard[e]; s_soft = soft[e] /* *after */
#endif
#ifndef NO_FLOOR
       :: version > floor[e] -> floor[e] = version
#endif
       :: else
       fi
     };
#ifndef REMOVE_FIRST
     remove(version);
#endif
     if
     :: EPOCH(global) == e -> break
     :: else
     fi
  od
}

/* gorge_l1_invalidate_tag */
inline invalidate_tag() {
#ifndef NO_GLOBAL_BEFORE
  global++;
#endif
  gen++;
#ifndef NO_GLOBAL_AFTER
  global++
#endif
}

/* lua/gorge/cache.lua: a record of L0 made of the entry `word` in slot[e], when the global word was `first` */
inline hit_again() {
  atomic { least = over; now_word = slot[e] };
  atomic {
    assert(now_word != word || global != first || truth_of[word] >= least);
    e = 0; word = 0; now_word = 0; least = 0; first = 0
  }
}

proctype Filler() {
  byte e, word, now_word, least, first, found, s_epoch, s_hard, s_soft, s_gen;
  bool ok, same_soft;
  /* begin_read */
  first = global; /* gorge_key_init */
  snapshot();
#if defined(TAG) && !defined(LATE)
  s_gen = gen;
#endif
  found = truth; /* the loader, a look-up in Redis, or the fill that Redis accepts */
  ok = true;
#ifdef LATE
  s_gen = gen; /* take_late_tags */
#ifndef NO_LATE_COMPARE
  ok = global == first; /* elsewhere */
#endif
#endif
  if
  :: ok -> insert(found)
#ifdef BUSY
  :: ok
#endif
  :: !ok
  fi;
#ifdef REDIS
#ifndef SHOWN_NOT_KEPT
  if
  :: word == 0 -> invalidate(found) /* gorge_op_not_kept */
  :: else
  fi;
#endif
  atomic { SHOWN(found); found = 0 };
#endif
  if
  :: word != 0 ->
    SHOWN(truth_of[word]);
    hit_again()
  :: else
  fi;
  atomic { e = 0; first = 0; found = 0; ok = false; s_epoch = 0; s_hard = 0; s_soft = 0; s_gen = 0 }
}

/* The own host's write */
proctype Writer() {
  byte e, word, mine, s_epoch, s_hard, s_soft, s_gen;
  bool ok, same_soft;
#ifndef REDIS
  atomic { truth++; mine = truth };
#if defined(TAG)
  invalidate_tag();
#elif defined(CLEAR)
  global = global + 16; /* gorge_l1_bump_epoch */
#elif defined(SET)
  /* gorge_l1_set, bump_set */
  atomic {
    !locked[e];
    locked[e] = true;
#ifndef NO_HARD_BUMP
    hard[e]++;
#endif
#ifndef NO_SOFT_BUMP
    soft[e]++
#endif
  };
  d_step { entries++; truth_of[entries] = mine; gen_of[entries] = gen; slot[e] = entries; locked[e] = false };
#else
  invalidate(0);
#endif
#elif defined(TAG)
  invalidate_tag(); /* gorge_write_invalidate */
  atomic { truth++; mine = truth };
#ifndef NO_SECOND_APPLY
  invalidate_tag(); /* gorge_write_reply */
#endif
#else
  invalidate(0); /* open_here, or gorge_write_delete */
  atomic { truth++; mine = truth };
#ifndef NO_SECOND_APPLY
  invalidate(mine); /* gorge_write_forget */
#endif
#ifdef SET
  insert(mine); /* gorge_write_show */
#endif
#endif
  atomic { SHOWN(mine); mine = 0; s_hard = 0; s_soft = 0 }
}

/* Another host's write, and its message */
proctype Remote() {
  byte e, mine, s_hard, s_soft;
  bool ok;
  atomic { truth++; mine = truth };
  invalidate(mine);
  atomic { SHOWN(mine); mine = 0 }
}

/* gorge_l1_read, and a record of L0 made of what was found */
proctype Reader() {
  byte e, word, now_word, least, first;
  bool ok;
  d_step { least = over; first = global; e = EPOCH(first) }; /* gorge_key_init */
  word = slot[e];
  if
  :: word != 0 ->
    ok = TAG_CURRENT(gen_of[word]);
#if defined(CLEAR) && !defined(NO_EPOCH_COMPARE)
    ok = ok && epoch_of[word] == EPOCH(global) && e == EPOCH(global);
#endif
    atomic {
      if
      :: ok && slot[e] == word -> assert(truth_of[word] >= least); SHOWN(truth_of[word]) /* judge */
      :: else -> goto end
      fi
    };
    hit_again()
  :: else
  fi;
end:
  atomic { e = 0; word = 0; now_word = 0; least = 0; first = 0; ok = false }
}

/* Once, at any time */
proctype Evictor() { atomic { !locked[0] -> slot[0] = 0 } }

init {
  byte i;
  atomic {
    for (i : 1 .. FILLERS) { run Filler() }
    run Reader();
#ifdef EVICT
    run Evictor();
#endif
#ifndef NO_WRITER
    run Writer();
#endif
#ifdef REMOTE
    run Remote()
#endif
  }
}
