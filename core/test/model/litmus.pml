/* SPDX-License-Identifier: MIT */
/*
 * The memory that the other models run on (weak.pml) is as weak as it says, and not weaker: the well-known shapes.
 *
 * holds -DMP_FENCES        message passing by fences
 * fails -DMP_FENCES -DNO_RELEASE_FENCE
 * fails -DMP_FENCES -DNO_ACQUIRE_FENCE
 * holds -DMP_RELEASE       message passing by a release store and an acquire load
 * fails -DMP_RELEASE -DRELAXED_STORE
 * fails -DMP_RELEASE -DRELAXED_LOAD
 * holds -DMP_SEQUENCE      an RMW in between passes the release on
 * fails -DMP_SEQUENCE -DPLAIN
 * holds -DSB               two that look for each other: one sees the other
 * fails -DSB -DNO_SEQ_CST
 * holds -DCOHERENCE        a location never goes back
 */
#define THREADS 3
#define LOCS 2
#define HIST 4
#define X 0
#define Y 1
#include "weak.pml"

byte done, seen[2];

#ifdef MP_FENCES
active proctype Writer() {
  STORE(0, X, relaxed, 1);
#ifndef NO_RELEASE_FENCE
  FENCE(0, release);
#endif
  STORE(0, Y, relaxed, 1)
}
active proctype Reader() {
  byte x, y;
  LOAD(1, Y, relaxed, y);
#ifndef NO_ACQUIRE_FENCE
  FENCE(1, acquire);
#endif
  LOAD(1, X, relaxed, x);
  assert(!y || x)
}
#endif

#ifdef MP_RELEASE
#ifdef RELAXED_STORE
#define STORES relaxed
#else
#define STORES release
#endif
#ifdef RELAXED_LOAD
#define LOADS relaxed
#else
#define LOADS acquire
#endif
active proctype Writer() {
  STORE(0, X, relaxed, 1);
  STORE(0, Y, STORES, 1)
}
active proctype Reader() {
  byte x, y;
  LOAD(1, Y, LOADS, y);
  LOAD(1, X, relaxed, x);
  assert(!y || x)
}
#endif

#ifdef MP_SEQUENCE
active proctype Writer() {
  STORE(0, X, relaxed, 1);
  STORE(0, Y, release, 1)
}
active proctype Between() {
  byte y;
#ifdef PLAIN
  LOAD(2, Y, relaxed, y);
  if
  :: y == 1 -> STORE(2, Y, relaxed, 2)
  :: else
  fi
#else
  bool ok;
  y = 1;
  CAS(2, Y, y, 2, relaxed, relaxed, ok)
#endif
}
active proctype Reader() {
  byte x, y;
  LOAD(1, Y, acquire, y);
  LOAD(1, X, relaxed, x);
  assert(y != 2 || x)
}
#endif

#ifdef SB
proctype Side(byte me) {
  byte other;
  if
  :: me == 0 -> STORE(0, X, relaxed, 1)
  :: else -> STORE(1, Y, relaxed, 1)
  fi;
  if
#ifndef NO_SEQ_CST
  :: me == 0 -> FENCE_SEQ_CST(0)
  :: else -> FENCE_SEQ_CST(1)
#else
  :: true
#endif
  fi;
  if
  :: me == 0 -> LOAD(0, Y, relaxed, other)
  :: else -> LOAD(1, X, relaxed, other)
  fi;
  seen[me] = other;
  done++;
  assert(done < 2 || seen[0] || seen[1])
}
init { atomic { run Side(0); run Side(1) } }
#endif

#ifdef COHERENCE
active proctype Writer() {
  STORE(0, X, relaxed, 1);
  STORE(0, X, relaxed, 2)
}
active proctype Reader() {
  byte one, two;
  LOAD(1, X, relaxed, one);
  LOAD(1, X, relaxed, two);
  assert(one <= two)
}
#endif
