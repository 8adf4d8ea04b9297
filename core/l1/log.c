/* SPDX-License-Identifier: MIT */
#include "l1/log.h"

static uint64_t lap_of(const struct gorge_shard *v, uint64_t offset) { return offset >> v->lap_shift; }

/* The range of a ring, never beyond the area. */
static uint64_t ring_end(const struct gorge_shard *v, int ring) {
  uint32_t end = v->shared->end[ring];
  return end < v->area_units ? end : v->area_units;
}

static uint64_t ring_start(const struct gorge_shard *v, int ring) {
  uint32_t start = v->shared->start[ring];
  return start < v->area_units ? start : v->area_units;
}

/* relaxed: only the holder of the lock moves them. */
static uint64_t load_tail(const struct gorge_shard *v, int ring) {
  return __atomic_load_n(&v->shared->tail[ring], __ATOMIC_RELAXED);
}
static uint64_t load_head(const struct gorge_shard *v, int ring) {
  return __atomic_load_n(&v->shared->head[ring], __ATOMIC_RELAXED);
}

static inline bool place(const struct gorge_shard *v, int ring, uint64_t head, uint64_t tail, uint32_t units,
                         uint64_t *at) {
  uint64_t position = gorge_shard_position(v, head), oldest = gorge_shard_position(v, tail);
  uint64_t end = ring_end(v, ring);
  bool same_lap = position - oldest == head - tail;
  oldest = oldest < end ? oldest : end;
  /* The pad record that will end the lap needs its place, too. */
  uint64_t last = same_lap ? end - GORGE_PAD_UNITS : oldest;
  if (position + units <= last) {
    *at = head;
    return true;
  }
  uint64_t start = ring_start(v, ring);
  if (same_lap && start + units <= oldest) {
    *at = (lap_of(v, head) + 1) << v->lap_shift | start;
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
static uint64_t reserve_max(const struct gorge_shard *v) {
  return (ring_end(v, GORGE_RING_MAIN) - ring_start(v, GORGE_RING_MAIN)) / 8;
}

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

void gorge_log_commit(const struct gorge_shard *v, int ring, uint64_t at, uint32_t units) {
  uint64_t head = load_head(v, ring);
  bool new_lap = lap_of(v, at) != lap_of(v, head);
  if (new_lap && gorge_shard_position(v, head) + GORGE_PAD_UNITS <= v->area_units) {
    uint32_t *pad = gorge_shard_unit(v, head);
    gorge_relaxed_store32(&pad[0], (uint32_t)GORGE_KIND_PAD << GORGE_HEAD_KIND_BIT);
    gorge_relaxed_store32(&pad[1], (uint32_t)gorge_shard_position(v, at));
  }
  if (ring == GORGE_RING_MAIN) {
    note_size(v, units, new_lap);
  }
  /* release: for who takes the lock over from a dead holder: entry and pad are complete before they count. */
  __atomic_store_n(&v->shared->head[ring], at + units, __ATOMIC_RELEASE);
}

uint32_t gorge_log_oldest(const struct gorge_shard *v, int ring, uint64_t *at, struct gorge_head *head) {
  uint64_t end = load_head(v, ring);
  for (int pads = 0; pads < 2; pads++) {
    uint64_t tail = load_tail(v, ring);
    uint64_t position = gorge_shard_position(v, tail);
    if (tail == end) {
      return 0;
    }
    if (position + GORGE_HEAD_UNITS > v->area_units) {
      break;
    }
    const uint32_t *unit = v->area + position;
    *at = tail;
    *head = gorge_head_load(unit);
    if (gorge_head_kind(head) != GORGE_KIND_PAD) {
      uint32_t units = gorge_entry_units(head, unit, v->area_units - position);
      if (units == 0 || tail + units > end) {
        break;
      }
      return units;
    }
    gorge_log_release(v, ring,
                      (lap_of(v, tail) + 1) << v->lap_shift | (head->unit[1] & (((uint64_t)1 << v->lap_shift) - 1)));
  }
  /* Not what was written: nothing in this ring can be trusted. */
  gorge_log_release(v, ring, end);
  return 0;
}

void gorge_log_release(const struct gorge_shard *v, int ring, uint64_t to) {
  /* release: the slots were cleared before; partner of the acquire fence in read.c. */
  __atomic_store_n(&v->shared->tail[ring], to, __ATOMIC_RELEASE);
}

uint64_t gorge_log_used(const struct gorge_shard *v, int ring) {
  uint64_t tail = load_tail(v, ring), head = load_head(v, ring);
  uint64_t length = ring_end(v, ring) - ring_start(v, ring);
  uint64_t from = gorge_shard_position(v, tail), to = gorge_shard_position(v, head);
  uint64_t used = lap_of(v, tail) == lap_of(v, head) ? to - from : length - from + to;
  return used <= length ? used : length;
}

uint32_t gorge_log_reserve(const struct gorge_shard *v) {
  const uint32_t *largest = v->shared->largest;
  uint32_t units = largest[0] > largest[1] ? largest[0] : largest[1];
  uint64_t most = reserve_max(v);
  return units < most ? units : (uint32_t)most;
}
