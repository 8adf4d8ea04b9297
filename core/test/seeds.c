/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "l1/layout.h"
#include "shm/layout.h"
#include "test/procs.h"
#include "test/seeds.h"

static uint64_t next(uint64_t *seed) { return (uint64_t)proc_random(seed) << 32 | proc_random(seed); }

void seeds_set(struct gorge_zone *zone, uint64_t seed) {
  struct gorge_words *words = zone->header->words;
  struct gorge_l1_header *l1 = gorge_l1_header(zone);
  uint64_t first = next(&seed);
  if (words[0].salt == first) {
    return; /* other threads may be using them */
  }
  words[0].salt = first;
  for (int i = 1; i < GORGE_NAMESPACES; i++) {
    words[i].salt = next(&seed);
  }
  if (l1->shards != 0) { /* a test may have put something else there */
    l1->seed = next(&seed);
  }
}
