/* SPDX-License-Identifier: MIT */
#include "l1/log.h"

enum { GIVES_SHARE = 8 /* of small, in one lap */ };

static uint64_t lap_of(const struct gorge_shard *v, uint64_t offset) { return offset >> v->lap_shift; }

/*
 * The border's words are stored in the order that log.h tells, and read relaxed: only the holder of the lock moves them, and
 * others make estimates.
 */
static uint64_t load_position(const struct gorge_shard *v, const uint32_t *word) {
  uint32_t position = __atomic_load_n(word, __ATOMIC_RELAXED);
  return position < v->area_units ? position : v->area_units; /* never beyond the area */
}
static void store_position(uint32_t *word, uint64_t position) {
  /* release: partner of the acquire in sync/lock.c, of who takes over from a dead holder: it finds them stored in order. */
  __atomic_store_n(word, (uint32_t)position, __ATOMIC_RELEASE);
}

static inline uint64_t ring_end(const struct gorge_shard *v, int ring) {
  return ring == GORGE_RING_MAIN ? v->area_units : gorge_log_small_end(v);
}

/* Where a ring's next lap will begin. */
static inline uint64_t ring_start(const struct gorge_shard *v, int ring) {
  return ring == GORGE_RING_MAIN ? gorge_log_small_end(v) : 0;
}

/* relaxed: only the holder of the lock moves them. */
static uint64_t load_tail(const struct gorge_shard *v, int ring) {
  return __atomic_load_n(&v->shared->tail[ring], __ATOMIC_RELAXED);
}
static uint64_t load_head(const struct gorge_shard *v, int ring) {
  return __atomic_load_n(&v->shared->head[ring], __ATOMIC_RELAXED);
}

/*
 * Up to where small's head may go: its end, or its tail in the lap before. When the lap is to end early, it falls back behind the tail
 * bit by bit, so that it is where it is to be when the tail has come to the end. A lap takes one entry at least.
 */
static inline uint64_t small_limit(const struct gorge_shard *v, uint64_t position, bool same_lap, uint64_t oldest) {
  uint64_t end = gorge_log_small_end(v), lap = v->shared->small_lap, limit = same_lap ? end : oldest;
  if (lap < end && !(same_lap && position == 0)) {
    limit = same_lap ? lap : oldest * lap / end;
  }
  return limit;
}

static inline bool place(const struct gorge_shard *v, int ring, uint64_t head, uint64_t tail, uint32_t units,
                         uint64_t *at) {
  uint64_t position = gorge_shard_position(v, head), oldest = gorge_shard_position(v, tail);
  bool same_lap = position - oldest == head - tail;
  oldest = oldest < v->area_units ? oldest : v->area_units;
  uint64_t limit = ring == GORGE_RING_SMALL ? small_limit(v, position, same_lap, oldest)
                   : same_lap               ? v->area_units
                                            : oldest;
  /* The pad record that will end the lap needs its place, too. */
  if (position + units + (same_lap ? GORGE_PAD_UNITS : 0) <= limit) {
    *at = head;
    return true;
  }
  if (same_lap && ring_start(v, ring) + units <= oldest) {
    *at = (lap_of(v, head) + 1) << v->lap_shift | ring_start(v, ring);
    return true;
  }
  return false;
}

bool gorge_log_place(const struct gorge_shard *v, int ring, uint32_t units, uint32_t keep, uint64_t *at) {
  uint64_t tail = load_tail(v, ring), next;
  return place(v, ring, load_head(v, ring), tail, units, at) &&
         (keep == 0 || place(v, ring, *at + units, tail, keep, &next));
}

uint32_t *gorge_log_begin(const struct gorge_shard *v, uint64_t at) {
  /*
   * release: partner of the acquire fence in read.c. The tail was moved and the slots were cleared before; a reader whose
   * copy has a byte of what is written next finds that out. (A release store does not order what follows it.)
   */
  __atomic_thread_fence(__ATOMIC_RELEASE);
  return gorge_shard_unit(v, at);
}

/* Entries above this part of the main ring have no room kept for them. */
static uint64_t reserve_max(const struct gorge_shard *v) { return gorge_log_main_units(v) / 8; }

/* Keeps track of the sizes of the main ring's entries, for gorge_log_reserve. */
static void note_size(const struct gorge_shard *v, uint32_t units, bool new_lap) {
  uint32_t *largest = v->shared->largest;
  if (new_lap) {
    largest[1] = largest[0];
    largest[0] = 0;
  }
  if (units > largest[0] && units <= reserve_max(v)) {
    largest[0] = units;
  }
}

static bool main_in_one_lap(const struct gorge_shard *v) {
  return lap_of(v, load_head(v, GORGE_RING_MAIN)) == lap_of(v, load_tail(v, GORGE_RING_MAIN));
}

bool gorge_log_main_can_take(const struct gorge_shard *v) {
  return main_in_one_lap(v) || v->shared->start[GORGE_RING_MAIN] == v->shared->front;
}

/* Ends the lap of a head: what stands there leads to where the next one begins. */
static void write_pad(const struct gorge_shard *v, uint64_t head) {
  if (gorge_shard_position(v, head) + GORGE_PAD_UNITS <= v->area_units) {
    uint32_t *pad = gorge_shard_unit(v, head);
    gorge_relaxed_store32(&pad[0], (uint32_t)GORGE_KIND_PAD << GORGE_HEAD_KIND_BIT);
  }
}

/* The lap of a head that stands in the lap of its tail ends, and the next one begins at `at`. */
static void end_lap(const struct gorge_shard *v, int ring, uint64_t head, uint64_t at) {
  struct gorge_l1_shard *s = v->shared;
  write_pad(v, head);
  if (ring == GORGE_RING_MAIN) {
    store_position(&s->front, gorge_shard_position(v, at));
    store_position(&s->start[ring], gorge_shard_position(v, at));
    return;
  }
  uint64_t used = gorge_shard_position(v, head) + GORGE_PAD_UNITS, end = ring_end(v, ring);
  uint64_t less = used > s->small_lap ? used : s->small_lap;
  bool give = gorge_log_main_can_take(v);
  if (give && less < end) {
    store_position(&s->end[ring], less);
    end = less;
  }
  uint64_t next = end - end / GIVES_SHARE;
  next = next > s->small_wanted ? next : s->small_wanted;
  s->small_lap = (uint32_t)(give && next < end ? next : end);
}

void gorge_log_commit(const struct gorge_shard *v, int ring, uint64_t at, uint32_t units) {
  uint64_t head = load_head(v, ring);
  bool new_lap = lap_of(v, at) != lap_of(v, head);
  if (new_lap) {
    end_lap(v, ring, head, at);
  }
  if (ring == GORGE_RING_MAIN) {
    note_size(v, units, new_lap);
  }
  /* release: partner of the acquire in sync/lock.c, of who takes over from a dead holder: entry and pad are complete before they count. */
  __atomic_store_n(&v->shared->head[ring], at + units, __ATOMIC_RELEASE);
}

/* The entry at an offset, which ends at `end` at the latest. Returns its units, or 0: that is none. */
static inline uint32_t entry_at(const struct gorge_shard *v, uint64_t at, uint64_t end, struct gorge_head *head) {
  uint64_t position = gorge_shard_position(v, at);
  if (position + GORGE_HEAD_UNITS > v->area_units) {
    return 0;
  }
  const uint32_t *unit = v->area + position;
  *head = gorge_head_load(unit);
  uint32_t units = gorge_entry_units(head, unit, v->area_units - position);
  return at + units <= end ? units : 0;
}

uint32_t gorge_log_oldest(const struct gorge_shard *v, int ring, uint64_t *at, struct gorge_head *head) {
  uint64_t end = load_head(v, ring);
  for (int pads = 0; pads < 2; pads++) {
    uint64_t tail = load_tail(v, ring);
    if (tail == end) {
      return 0;
    }
    *at = tail;
    uint32_t units = entry_at(v, tail, end, head);
    if (units > 0) {
      return units;
    }
    uint64_t next = (lap_of(v, tail) + 1) << v->lap_shift | load_position(v, &v->shared->start[ring]);
    if (gorge_shard_position(v, tail) + GORGE_HEAD_UNITS > v->area_units || gorge_head_kind(head) != GORGE_KIND_PAD ||
        next > end) {
      break;
    }
    gorge_log_release(v, ring, next);
  }
  /* Not what was written: nothing in this ring can be trusted. */
  gorge_log_release(v, ring, end);
  return 0;
}

void gorge_log_release(const struct gorge_shard *v, int ring, uint64_t to) {
  /* release: the slots were cleared before; partner of the acquire fence in read.c. */
  __atomic_store_n(&v->shared->tail[ring], to, __ATOMIC_RELEASE);
}

bool gorge_log_restart(const struct gorge_shard *v, int ring) {
  uint64_t head = load_head(v, ring);
  if (head != load_tail(v, ring) || gorge_shard_position(v, head) == ring_start(v, ring)) {
    return false;
  }
  if (ring == GORGE_RING_MAIN) {
    v->shared->largest[0] = v->shared->largest[1] = 0;
  }
  uint64_t next = (lap_of(v, head) + 1) << v->lap_shift | ring_start(v, ring);
  end_lap(v, ring, head, next);
  /* First the head (release and partner as in gorge_log_commit), then the tail: in between, the log is that pad record. */
  __atomic_store_n(&v->shared->head[ring], next, __ATOMIC_RELEASE);
  gorge_log_release(v, ring, next);
  return true;
}

uint64_t gorge_log_main_low(const struct gorge_shard *v) {
  return main_in_one_lap(v) ? gorge_shard_position(v, load_tail(v, GORGE_RING_MAIN))
                            : load_position(v, &v->shared->start[GORGE_RING_MAIN]);
}

bool gorge_log_fits_if_wanted(const struct gorge_shard *v, uint32_t units) {
  uint64_t head = load_head(v, GORGE_RING_SMALL);
  uint64_t last = gorge_shard_position(v, head) + units + GORGE_PAD_UNITS;
  return last > gorge_log_small_end(v) && last <= v->shared->small_wanted &&
         lap_of(v, head) == lap_of(v, load_tail(v, GORGE_RING_SMALL));
}

bool gorge_log_extend_small(const struct gorge_shard *v) {
  uint64_t low = gorge_log_main_low(v), wanted = v->shared->small_wanted, end = low < wanted ? low : wanted;
  uint64_t before = gorge_log_small_end(v);
  if (end > before) {
    store_position(&v->shared->end[GORGE_RING_SMALL], end);
    v->shared->small_lap = (uint32_t)end;
  }
  return gorge_log_small_end(v) > before;
}

/* The logical offset where the lap of main's head begins. */
static uint64_t first_offset(const struct gorge_shard *v) {
  return lap_of(v, load_head(v, GORGE_RING_MAIN)) << v->lap_shift |
         load_position(v, &v->shared->start[GORGE_RING_MAIN]);
}

uint32_t gorge_log_first(const struct gorge_shard *v, uint64_t *at, struct gorge_head *head) {
  *at = first_offset(v);
  return main_in_one_lap(v) ? 0 : entry_at(v, *at, load_head(v, GORGE_RING_MAIN), head);
}

void gorge_log_give_first(const struct gorge_shard *v, uint32_t units) {
  store_position(&v->shared->start[GORGE_RING_MAIN], load_position(v, &v->shared->start[GORGE_RING_MAIN]) + units);
}

bool gorge_log_place_between(const struct gorge_shard *v, uint32_t units, uint64_t *at) {
  if (v->shared->start[GORGE_RING_MAIN] != v->shared->front || main_in_one_lap(v)) {
    return false;
  }
  *at = first_offset(v) - units;
  return true;
}

void gorge_log_commit_front(const struct gorge_shard *v, uint64_t at) {
  uint64_t position = gorge_shard_position(v, at);
  /* First the start. Killed in between, it lies below front, which is taken for a start that went up: nothing more comes in front. */
  store_position(&v->shared->start[GORGE_RING_MAIN], position);
  store_position(&v->shared->front, position);
}

uint64_t gorge_log_used(const struct gorge_shard *v, int ring) {
  uint64_t tail = load_tail(v, ring), head = load_head(v, ring);
  uint64_t from = gorge_shard_position(v, tail), to = gorge_shard_position(v, head), end = ring_end(v, ring);
  uint64_t start = load_position(v, &v->shared->start[ring]);
  uint64_t used = lap_of(v, tail) == lap_of(v, head) ? to - from : end - from + to - start;
  uint64_t most = ring == GORGE_RING_MAIN ? gorge_log_main_units(v) : end;
  return used <= most ? used : most;
}

uint32_t gorge_log_reserve(const struct gorge_shard *v) {
  const uint32_t *largest = v->shared->largest;
  uint32_t units = largest[0] > largest[1] ? largest[0] : largest[1];
  uint64_t most = reserve_max(v);
  return units < most ? units : (uint32_t)most;
}
