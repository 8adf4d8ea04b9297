/* SPDX-License-Identifier: MIT */
#include "flight/table.h"

struct gorge_flight_set *gorge_flight_sets(const struct gorge_zone *zone, uint32_t *count) {
  uint64_t size;
  struct gorge_flight_set *sets = gorge_zone_region(zone, GORGE_REGION_FLIGHTS, &size);
  *count = (uint32_t)(size / sizeof *sets);
  return sets;
}

struct gorge_flight_set *gorge_flight_set_of(const struct gorge_zone *zone, uint64_t hash, uint32_t *index) {
  uint32_t count;
  struct gorge_flight_set *sets = gorge_flight_sets(zone, &count);
  *index = (uint32_t)((hash >> 32) * count >> 32);
  return &sets[*index];
}

struct gorge_flight_record *gorge_flight_record_at(const struct gorge_zone *zone, uint32_t index,
                                                   struct gorge_flight_set **set) {
  uint32_t count;
  struct gorge_flight_set *sets = gorge_flight_sets(zone, &count);
  if (index / GORGE_FLIGHT_WAYS >= count) {
    return NULL;
  }
  *set = &sets[index / GORGE_FLIGHT_WAYS];
  return &(*set)->record[index % GORGE_FLIGHT_WAYS];
}

bool gorge_flight_matches(const struct gorge_flight_record *r, const struct gorge_key *key) {
  return gorge_flight_get(&r->hash) == key->hash && (uint32_t)gorge_flight_get(&r->owner) == key->ns &&
         gorge_flight_state(r) == GORGE_FLIGHT_RUNNING;
}

/* How little is lost by writing over a record, smaller is less; RANKS: it is in use. */
enum { FREE, ERROR_OLD, OWNERLESS, ERROR_FRESH, OVERDUE, RANKS };

static int rank(const struct gorge_zone *zone, const struct gorge_flight_record *r, uint64_t now_ms) {
  if (gorge_flight_get(&r->token) == 0) {
    return FREE;
  }
  bool late = now_ms >= gorge_flight_deadline_ms(r);
  if (gorge_flight_state(r) == GORGE_FLIGHT_FAILED) {
    return late ? ERROR_OLD : ERROR_FRESH;
  }
  uint32_t id = gorge_flight_owner_id(r);
  if (id == 0 || !gorge_owner_alive(zone, id)) {
    return OWNERLESS;
  }
  return late ? OVERDUE : RANKS;
}

struct gorge_flight_record *gorge_flight_pick(const struct gorge_zone *zone, struct gorge_flight_set *set,
                                              uint64_t now_ms) {
  uint64_t vacant = ~gorge_flight_get(&set->used) & (((uint64_t)1 << GORGE_FLIGHT_WAYS) - 1);
  if (vacant != 0) {
    return &set->record[__builtin_ctzll(vacant)];
  }
  struct gorge_flight_record *best = NULL;
  int lowest = RANKS;
  for (int i = 0; i < GORGE_FLIGHT_WAYS && lowest != FREE; i++) {
    int value = rank(zone, &set->record[i], now_ms);
    if (value < lowest) {
      lowest = value;
      best = &set->record[i];
    }
  }
  return best;
}
