/* SPDX-License-Identifier: MIT */
/*
 * A reader without a lock (l1/read.c) beside the holder of the shard's lock, who writes, evicts, moves and deletes (l1/write.c,
 * l1/evict.c, l1/log.c). One slot, a ring of two places, offsets of which the slot has two bits: after four appends its words
 * come round. Other entries (key B) may take the slot, or the space only.
 *
 * What a hit returns
 *   - was written as one entry of the key (or moved: with the same bytes): header and value belong together;
 *   - is not older than what the reader knew to be acknowledged when it began, nor than what it has read before.
 *
 * holds        -DOPS=3
 * holds        -DOPS=2 -DREADS=2
 * holds        -DOPS=3 -DLEAVE_SLOT            what the tail has passed is gone, though a slot leads there
 * holds        -DOPS=3 -DNO_RECHECK            for this the tail and the check would do; the second look finds newer entries
 * holds  full  -DOPS=5 -DWRAP=8
 * holds  full  -DOPS=5 -DTAIL_FIRST            see below
 * holds  full  -DOPS=4 -DREADS=2
 * holds  full  -DOPS=4 -DLEAVE_SLOT
 * holds  full  -DOPS=4 -DREADS=2 -DNO_RECHECK
 * fails        -DOPS=3 -DNO_RELEASE_FENCE
 * fails        -DOPS=3 -DNO_ACQUIRE_FENCE
 * fails        -DOPS=3 -DRELAXED_PUBLISH
 * fails        -DOPS=3 -DRELAXED_SLOT
 * fails        -DOPS=3 -DNO_RECHECK -DNO_TAIL
 * fails        -DOPS=4 -DLEAVE_SLOT -DNO_TAIL
 * fails        -DOPS=2 -DREADS=2 -DSTORED_FREQUENCY
 * fails  full  -DOPS=5                         see below
 *
 * The limit: a reader that is stopped between its first look at the slot and its copy, while exactly as much is written to the shard as
 * makes the key's slot word come round (64 TB), and goes on within the moment in which the entry of that word is written, may take a
 * header and a value that do not belong together. The check in the header finds the wrap unless the header is already the new one.
 * To load the tail first, too, and compare how far it has moved would lift it (-DTAIL_FIRST); it costs each read a load.
 */
#ifndef OPS
#define OPS 4
#endif
#ifndef READS
#define READS 1
#endif

#define WRITER 0
#define READER 1
#define THREADS 2
#define HIST 8

#define SLOT 0
#define TAIL 1
#define ACKNOWLEDGED 2 /* what tells a reader that a write was over before it began */
#define HEADER(place) (3 + 2 * (place))
#define VALUE(place) (4 + 2 * (place))
#define LOCS 7
#include "weak.pml"

#ifdef NO_RELEASE_FENCE
#define BEGIN_FENCE skip
#else
#define BEGIN_FENCE FENCE(WRITER, release)
#endif
#ifdef NO_ACQUIRE_FENCE
#define JUDGE_FENCE skip
#else
#define JUDGE_FENCE FENCE(READER, acquire)
#endif
#ifdef RELAXED_PUBLISH
#define PUBLISHED relaxed
#else
#define PUBLISHED release
#endif
#ifdef RELAXED_SLOT
#define FOUND relaxed
#else
#define FOUND acquire
#endif

#define PLACES 2
#ifndef WRAP
#define WRAP 4 /* offsets that a slot tells apart */
#endif
#define ATTEMPTS 2

#define MISS 0
#define VALID 1
#define OTHER 2
#define CHANGED 3

/* A slot's word: 0, or 1 + the offset's low bits + 4 * frequency. */
#define WORD(offset) (1 + (offset) % WRAP)
#define IDENTITY(word) ((word) == 0 -> 0 : 1 + ((word) - 1) % WRAP)
#define FREQUENCY(word) (((word) - 1) / WRAP)
#define AHEAD(word, tail) (((word) - 1 + WRAP - (tail) % WRAP) % WRAP)
#define LEADS_TO(word, offset) ((word) != 0 && ((word) - 1) % WRAP == (offset) % WRAP)
/* For the writer: whether the slot leads to an entry, and whether to one of A's. */
#define THERE(word) ((word) != 0 && AHEAD(word, tail) < head - tail)
#define A_THERE(word) (THERE(word) && is_a[ring[((word) - 1) % PLACES]])

/* Records: what was written as one header. Record 0 is what the memory held before. Value: number of the write it comes from. */
#define RECORDS (OPS + 1)
bool is_a[RECORDS];
byte offset_of[RECORDS], written[RECORDS];

/* The writer's ring, for itself. */
byte ring[PLACES]; /* record at a place */
byte tail = WRAP, head = WRAP, records, writes;

/* gorge_index_clear */
inline clear_slot() { EXCHANGE(WRITER, SLOT, release, 0, was) }

/* advance: gorge_log_release */
inline advance() { tail++; STORE(WRITER, TAIL, release, tail) }

/* evict.c: oldest, unlink_entry, advance */
inline evict_oldest() {
  LOAD(WRITER, SLOT, relaxed, was);
#ifndef LEAVE_SLOT
  if
  :: LEADS_TO(was, tail) -> clear_slot()
  :: else
  fi;
#endif
  advance()
}

/* gorge_log_begin, gorge_entry_write; a record of key A or B with a value */
inline append(a, what) {
  d_step {
    records++;
    is_a[records] = a;
    offset_of[records] = head;
    written[records] = what;
    ring[head % PLACES] = records
  };
  BEGIN_FENCE;
  STORE(WRITER, HEADER(head % PLACES), relaxed, records);
  STORE(WRITER, VALUE(head % PLACES), relaxed, what);
  head++
}

/* write.c: store */
inline insert(a) {
  if
  :: head - tail == PLACES -> evict_oldest()
  :: else
  fi;
  writes++;
  append(a, writes);
  LOAD(WRITER, SLOT, relaxed, was);
  if
  :: a || !A_THERE(was) ->
    /* gorge_index_publish */
    EXCHANGE(WRITER, SLOT, PUBLISHED, WORD(head - 1), was)
  :: else /* A is there: B has another slot */
  fi;
  if
  :: a -> STORE(WRITER, ACKNOWLEDGED, release, writes)
  :: else
  fi
}

/* evict.c: reappend, of the oldest entry */
inline reappend() {
  append(true, written[ring[tail % PLACES]]);
  LOAD(WRITER, SLOT, relaxed, was);
  do
  :: CAS(WRITER, SLOT, was, WORD(head - 1), PUBLISHED, relaxed, done);
     if
     :: done -> break
     :: else
     fi
  od;
  advance()
}

proctype Writer() {
  byte ops, was;
  bool done;
  do
  :: ops < OPS ->
    ops++;
    LOAD(WRITER, SLOT, relaxed, was);
    if
    :: true -> insert(true)
    :: true -> insert(false)
    :: A_THERE(was) ->
      /* invalidate_locked: remove_resident */
      clear_slot();
      writes++;
      STORE(WRITER, ACKNOWLEDGED, release, writes)
    :: A_THERE(was) && LEADS_TO(was, tail) && head - tail == 1 -> reappend()
    fi;
    was = 0;
    done = false
  :: else -> break
  od;
  RETIRE(WRITER)
}

/* Byte for byte what judge() in read.c compares. */
inline judge() {
  JUDGE_FENCE;
  LOAD(READER, TAIL, relaxed, now_tail);
  LOAD(READER, SLOT, relaxed, now_word);
  if
#ifndef NO_RECHECK
  :: IDENTITY(now_word) != IDENTITY(word) -> verdict = CHANGED
#endif
  :: else ->
    if
#ifndef NO_TAIL
    :: AHEAD(word, now_tail) >= WRAP / 2 -> verdict = OTHER /* passed */
#ifdef TAIL_FIRST
    :: now_tail - first_tail >= WRAP / 2 -> verdict = OTHER
#endif
#ifndef NO_CHECK
    :: AHEAD(word, now_tail) < WRAP / 2 && offset_of[header] != now_tail + AHEAD(word, now_tail) -> verdict = OTHER
#endif
#endif
    :: else -> verdict = VALID
    fi
  fi;
  now_tail = 0;
  now_word = 0
}

proctype Reader() {
  byte reads, attempts, least, word, header, bytes, first_tail, now_tail, now_word, verdict;
  bool raised;
  do
  :: reads < READS ->
    reads++;
    LOAD(READER, ACKNOWLEDGED, acquire, header);
    least = (header > least -> header : least);
    header = 0;
    attempts = 0;
    do
    :: attempts < ATTEMPTS ->
      attempts++;
#ifdef TAIL_FIRST
      LOAD(READER, TAIL, acquire, first_tail);
#endif
      /* probe_slot */
      LOAD(READER, SLOT, FOUND, word);
      if
      :: word == 0 -> verdict = MISS
      :: else ->
        LOAD(READER, HEADER((word - 1) % PLACES), relaxed, header);
        if
        :: is_a[header] ->
          /* copy */
          LOAD(READER, VALUE((word - 1) % PLACES), relaxed, bytes)
        :: else
        fi;
        judge();
        verdict = (verdict == VALID && !is_a[header] -> OTHER : verdict)
      fi;
      if
      :: verdict == VALID ->
        assert(bytes == written[header]);
        assert(bytes >= least);
        least = bytes;
        /* raise_frequency */
        if
#ifdef STORED_FREQUENCY
        :: FREQUENCY(word) == 0 -> STORE(READER, SLOT, relaxed, word + WRAP)
#else
        :: FREQUENCY(word) == 0 -> now_word = word; CAS(READER, SLOT, word, now_word + WRAP, relaxed, relaxed, raised)
#endif
        :: else
        fi;
        break
      :: verdict == CHANGED
      :: else -> break
      fi;
      atomic { word = 0; header = 0; bytes = 0; verdict = 0 }
    :: else -> break
    od;
    atomic { word = 0; header = 0; bytes = 0; verdict = 0; now_word = 0; raised = false }
  :: else -> break
  od;
  RETIRE(READER)
}

init {
  atomic { INITIAL(TAIL, WRAP); run Writer(); run Reader() }
}
