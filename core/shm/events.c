/* SPDX-License-Identifier: MIT */
#include "shm/events.h"

#include <string.h>

#include "base/hash.h"
#include "shm/layout.h"

enum { WORDS = 16, PAYLOAD = 2, NAME = 5, NAME_BYTES = (WORDS - NAME) * 8, PATIENCE = 3 };
_Static_assert(NAME_BYTES <= sizeof((struct gorge_event *)0)->name, "what a cell holds of a name fits");

struct ring {
  uint64_t *head;
  uint64_t (*cells)[WORDS];
  uint64_t count;
};

static struct ring ring_of(const struct gorge_zone *zone) {
  uint64_t size;
  char *at = gorge_zone_part(zone, GORGE_PART_EVENTS, &size);
  return (struct ring){(uint64_t *)(void *)at, (uint64_t(*)[WORDS])(void *)(at + GORGE_LINE),
                       (size - GORGE_LINE) / (WORDS * sizeof(uint64_t))};
}

static uint64_t check_of(const uint64_t *words, uint64_t number) {
  return gorge_hash(words + PAYLOAD, (WORDS - PAYLOAD) * sizeof(uint64_t), number);
}

void gorge_events_add(const struct gorge_zone *zone, enum gorge_event_kind kind, enum gorge_event_source source,
                      uint32_t ns, uint64_t version, const char *name, uint32_t len, uint64_t now_ms) {
  struct ring r = ring_of(zone);
  uint64_t words[WORDS] = {0};
  words[2] = now_ms;
  words[3] = version;
  words[4] = (uint64_t)kind | (uint64_t)source << 8 | (uint64_t)ns << 16 | (uint64_t)len << 32;
  if (len > 0) {
    memcpy(&words[NAME], name, len < NAME_BYTES ? len : NAME_BYTES);
  }
  /* relaxed: only the numbers must differ. */
  uint64_t number = __atomic_fetch_add(r.head, 1, __ATOMIC_RELAXED) + 1;
  uint64_t *cell = r.cells[number % r.count];
  words[1] = check_of(words, number);
  /* relaxed, all of them: ordered by the fence and the release below; a reader of half a cell finds its check wrong. */
  __atomic_store_n(&cell[0], 0, __ATOMIC_RELAXED);
  /* release: partner of the acquire fence in copy; who sees a new word sees that the old number is gone. */
  __atomic_thread_fence(__ATOMIC_RELEASE);
  for (int i = 1; i < WORDS; i++) {
    __atomic_store_n(&cell[i], words[i], __ATOMIC_RELAXED);
  }
  /* release: partner of the acquire load in copy. */
  __atomic_store_n(&cell[0], number, __ATOMIC_RELEASE);
}

uint64_t gorge_events_next(const struct gorge_zone *zone) {
  /* relaxed: a place to begin at. */
  return __atomic_load_n(ring_of(zone).head, __ATOMIC_RELAXED) + 1;
}

/* Whether the cell holds event `number`, whole. */
static bool copy(const uint64_t *cell, uint64_t number, uint64_t *words) {
  /* acquire: partner of the release store in gorge_events_add. */
  if (__atomic_load_n(&cell[0], __ATOMIC_ACQUIRE) != number) {
    return false;
  }
  for (int i = 1; i < WORDS; i++) {
    /* relaxed: compared with the check, and with the number once more. */
    words[i] = __atomic_load_n(&cell[i], __ATOMIC_RELAXED);
  }
  /* acquire: partner of the release fence in gorge_events_add. */
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  /* relaxed: ordered by the fence. */
  return __atomic_load_n(&cell[0], __ATOMIC_RELAXED) == number && words[1] == check_of(words, number);
}

static void tell(const uint64_t *words, struct gorge_event *out) {
  memset(out, 0, sizeof *out);
  out->at_ms = (double)words[2];
  out->version = words[3];
  out->kind = (uint32_t)words[4] & 0xff;
  out->source = (uint32_t)(words[4] >> 8) & 0xff;
  out->ns = (uint32_t)(words[4] >> 16) & 0xff;
  out->len = (uint32_t)(words[4] >> 32);
  out->shown = out->len < NAME_BYTES ? out->len : NAME_BYTES;
  memcpy(out->name, &words[NAME], NAME_BYTES);
}

uint32_t gorge_events_read(const struct gorge_zone *zone, struct gorge_events_cursor *cursor, struct gorge_event *out,
                           uint32_t max) {
  struct ring r = ring_of(zone);
  uint64_t end = gorge_events_next(zone), words[WORDS] = {0};
  uint32_t count = 0;
  if (cursor->next > end) {
    cursor->next = end; /* damaged */
  }
  if (end - cursor->next > r.count) {
    cursor->lost += end - cursor->next - r.count;
    cursor->next = end - r.count;
  }
  while (cursor->next < end && count < max) {
    if (copy(r.cells[cursor->next % r.count], cursor->next, words)) {
      tell(words, &out[count++]);
    } else if (cursor->stuck++ < PATIENCE) {
      return count; /* its writer may be at it */
    } else {
      cursor->lost++;
    }
    cursor->stuck = 0;
    cursor->next++;
  }
  return count;
}
