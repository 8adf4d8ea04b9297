/* SPDX-License-Identifier: MIT */
/*
 * Shared memory as weakly ordered as C11 allows without thin-air reads: what the models of this folder run on.
 *
 * A location keeps the messages (values) that were stored to it, in the order of their modification. A thread has a view: for
 * each location the oldest message that it may still read. To load is to pick any message not older than that. Messages carry
 * a view, too:
 *
 *   release store   carries all that the thread has seen           release fence   the relaxed stores after it carry what was
 *   relaxed store   carries what the last release fence saw                        seen at the fence
 *   acquire load    learns the view of the message it read         acquire fence   learns the views of all messages that were
 *   relaxed load    learns it at the next acquire fence                            read relaxed before it
 *   an RMW          reads the last message, and passes its view on: release sequences
 *   seq_cst fence   learns what earlier ones saw, and passes on what it sees
 *
 * So a relaxed store may be seen long before, or long after, another one of the same thread, and a load may be satisfied early:
 * all that arm64 and POWER do, but for loads that a later store of their own thread overtakes. A new message is always the last
 * one of its location, which is exact as long as those who store to it without an RMW are ordered by something (a lock).
 *
 * A model defines LOCS, THREADS and HIST (how many messages of one location may be readable at a time), then includes this
 * file. Messages that nobody can read any more are forgotten. Statements are named as in C: LOAD(thread, location, order,
 * variable), and so on.
 */
#define relaxed 0
#define acquire 1
#define release 2
#define acq_rel 3

byte n[LOCS];                  /* messages of a location, one less: the last one's index */
byte value[LOCS * HIST];       /* of a message */
byte view[LOCS * HIST * LOCS]; /* of a message */
byte cur[THREADS * LOCS];      /* what a thread has seen */
byte acq[THREADS * LOCS];      /* and what it has seen after an acquire fence */
byte rel[THREADS * LOCS];      /* and what it had seen at its last release fence */
byte sc[LOCS];

/* Arguments of the functions below; 0 in between, so that they make no states of their own. */
byte who, loc, msg, val, out;

bool history_fits = true;

c_code {
#define AT(array, thread, location) now.array[(thread) * LOCS + (location)]
#define VIEW(location, message, of) now.view[((location) * HIST + (message)) * LOCS + (of)]

static void learn(uchar *to, const uchar *from) {
  for (int l = 0; l < LOCS; l++) {
    to[l] = to[l] > from[l] ? to[l] : from[l];
  }
}

/* Forgets the messages of a location that no thread can read any more. */
static void forget_unreadable(int l) {
  int oldest = now.n[l];
  for (int t = 0; t < THREADS; t++) {
    oldest = AT(cur, t, l) < oldest ? AT(cur, t, l) : oldest;
  }
  if (oldest == 0) {
    return;
  }
  for (int m = 0; m < HIST; m++) {
    int from = m + oldest;
    now.value[l * HIST + m] = from <= now.n[l] ? now.value[l * HIST + from] : 0;
    for (int of = 0; of < LOCS; of++) {
      VIEW(l, m, of) = from <= now.n[l] ? VIEW(l, from, of) : 0;
    }
  }
  now.n[l] -= oldest;
#define LOWER(x) (x) = (x) > oldest ? (x) - oldest : 0
  for (int t = 0; t < THREADS; t++) {
    LOWER(AT(cur, t, l));
    LOWER(AT(acq, t, l));
    LOWER(AT(rel, t, l));
  }
  for (int m = 0; m < LOCS * HIST; m++) {
    LOWER(now.view[m * LOCS + l]);
  }
  LOWER(now.sc[l]);
#undef LOWER
}

/* Thread now.who reads message now.msg of now.loc. */
static void take(int order) {
  int t = now.who, l = now.loc, m = now.msg;
  AT(cur, t, l) = m;
  AT(acq, t, l) = AT(acq, t, l) > m ? AT(acq, t, l) : m;
  learn(&AT(acq, t, 0), &VIEW(l, m, 0));
  if (order & acquire) {
    learn(&AT(cur, t, 0), &VIEW(l, m, 0));
  }
  now.out = now.value[l * HIST + m];
  forget_unreadable(l);
}

/* It stores now.val there; `after` is the message that an RMW read, or -1. */
static void put(int order, int after) {
  int t = now.who, l = now.loc, m;
  if (now.n[l] + 1 >= HIST) {
    now.history_fits = 0;
    return;
  }
  m = ++now.n[l];
  now.value[l * HIST + m] = now.val;
  AT(cur, t, l) = m;
  AT(acq, t, l) = m;
  memcpy(&VIEW(l, m, 0), order & release ? &AT(cur, t, 0) : &AT(rel, t, 0), LOCS);
  VIEW(l, m, l) = m;
  if (after >= 0) {
    learn(&VIEW(l, m, 0), &VIEW(l, after, 0));
  }
  forget_unreadable(l);
}

static void rmw(int order) {
  int t = now.who, l = now.loc, m = now.n[l];
  now.out = now.value[l * HIST + m];
  AT(cur, t, l) = m;
  learn(&AT(acq, t, 0), &VIEW(l, m, 0));
  if (order & acquire) {
    learn(&AT(cur, t, 0), &VIEW(l, m, 0));
  }
  put(order, m);
}

static void fence(int order) {
  int t = now.who;
  if (order & acquire) {
    learn(&AT(cur, t, 0), &AT(acq, t, 0));
  }
  if (order & release) {
    memcpy(&AT(rel, t, 0), &AT(cur, t, 0), LOCS);
  }
}

static void fence_seq_cst(void) {
  int t = now.who;
  fence(acquire);
  learn(&AT(cur, t, 0), now.sc);
  memcpy(now.sc, &AT(cur, t, 0), LOCS);
  learn(&AT(acq, t, 0), &AT(cur, t, 0));
  fence(release);
}

/* What those before it did under a lock is seen by who takes it. */
static void locked(void) {
  learn(&AT(acq, now.who, 0), now.sc);
  learn(&AT(cur, now.who, 0), now.sc);
}

static void unlocked(void) {
  memcpy(now.sc, &AT(cur, now.who, 0), LOCS);
}

/* The thread has waited until all that was stored is to be seen. */
static void see_all(void) {
  memcpy(&AT(cur, now.who, 0), now.n, LOCS);
  memcpy(&AT(acq, now.who, 0), now.n, LOCS);
  for (int l = 0; l < LOCS; l++) {
    forget_unreadable(l);
  }
}

/* A thread that reads nothing any more stands in the way of nothing. */
static void retire(void) {
  int t = now.who;
  memset(&AT(acq, t, 0), 0, LOCS);
  memset(&AT(rel, t, 0), 0, LOCS);
  memcpy(&AT(cur, t, 0), now.n, LOCS);
  for (int l = 0; l < LOCS; l++) {
    forget_unreadable(l);
  }
}
}

#define LAST(l) value[(l) * HIST + n[l]]
#define READABLE(t, l, age) (n[l] >= (age) && n[l] - (age) >= cur[(t) * LOCS + (l)])
#define NTH(l, age) value[(l) * HIST + n[l] - (age)]
#define CLEAR_ARGUMENTS who = 0; loc = 0; msg = 0; val = 0; out = 0

#if HIST > 8
#error "more messages than LOAD and CAS look at"
#endif

#define LOAD_NTH(t, l, order, var, age)               \
  :: d_step {                                         \
       READABLE(t, l, age) ->                         \
       who = t; loc = l; msg = n[l] - (age);          \
       c_code { take(order); };                       \
       var = out; CLEAR_ARGUMENTS                     \
     }

#define LOAD(t, l, order, var)    \
  if                              \
    LOAD_NTH(t, l, order, var, 0) \
    LOAD_NTH(t, l, order, var, 1) \
    LOAD_NTH(t, l, order, var, 2) \
    LOAD_NTH(t, l, order, var, 3) \
    LOAD_NTH(t, l, order, var, 4) \
    LOAD_NTH(t, l, order, var, 5) \
    LOAD_NTH(t, l, order, var, 6) \
  fi

#define STORE(t, l, order, x)                                                                     \
  if                                                                                              \
  :: d_step { who = t; loc = l; val = x; c_code { put(order, -1); }; CLEAR_ARGUMENTS; assert(history_fits) } \
  fi

/* Puts x in the place of what was there, which `var` is then. */
#define EXCHANGE(t, l, order, x, var)                                                             \
  if                                                                                              \
  :: d_step { who = t; loc = l; val = x; c_code { rmw(order); }; var = out; CLEAR_ARGUMENTS; assert(history_fits) } \
  fi
#define FETCH_ADD(t, l, order, x, var) EXCHANGE(t, l, order, LAST(l) + (x), var)

#define CAS_FAILS_NTH(t, l, seen, order, ok, age)     \
  :: d_step {                                         \
       READABLE(t, l, age) && NTH(l, age) != seen ->  \
       who = t; loc = l; msg = n[l] - (age);          \
       c_code { take(order); };                       \
       seen = out; ok = false; CLEAR_ARGUMENTS        \
     }

/* Strong: fails only when something else than `seen` is read, which `seen` is then. */
#define CAS(t, l, seen, x, order, failing, ok)        \
  if                                                  \
  :: d_step {                                         \
       LAST(l) == seen ->                             \
       who = t; loc = l; val = x;                     \
       c_code { rmw(order); };                        \
       ok = true; CLEAR_ARGUMENTS;                    \
       assert(history_fits)                           \
     }                                                \
    CAS_FAILS_NTH(t, l, seen, failing, ok, 0)         \
    CAS_FAILS_NTH(t, l, seen, failing, ok, 1)         \
    CAS_FAILS_NTH(t, l, seen, failing, ok, 2)         \
    CAS_FAILS_NTH(t, l, seen, failing, ok, 3)         \
    CAS_FAILS_NTH(t, l, seen, failing, ok, 4)         \
    CAS_FAILS_NTH(t, l, seen, failing, ok, 5)         \
    CAS_FAILS_NTH(t, l, seen, failing, ok, 6)         \
  fi

#define FENCE(t, order) if :: d_step { who = t; c_code { fence(order); }; who = 0 } fi
#define FENCE_SEQ_CST(t) if :: d_step { who = t; c_code { fence_seq_cst(); }; who = 0 } fi
/* A lock that is not the subject of the model: a flag, and what it orders. Not together with seq_cst fences. */
#define LOCKED(t, flag) atomic { !flag -> flag = true; who = t; c_code { locked(); }; who = 0 }
#define UNLOCKED(t, flag) atomic { flag = false; who = t; c_code { unlocked(); }; who = 0 }
#define SEE_ALL(t) if :: d_step { who = t; c_code { see_all(); }; who = 0 } fi
#define RETIRE(t) if :: d_step { who = t; c_code { retire(); }; who = 0 } fi
/* Before anybody runs: what is there, and what was stored later, by a release after which nothing else was. */
#define INITIAL(l, x) value[(l) * HIST] = x
#define NEWER(l, x)                         \
  n[l] = n[l] + 1;                          \
  value[(l) * HIST + n[l]] = x;             \
  view[((l) * HIST + n[l]) * LOCS + (l)] = n[l]
