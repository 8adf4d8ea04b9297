/* SPDX-License-Identifier: MIT */
/*
 *  sum   changes:32 | permits:32            any change of it makes a compare-and-swap fail that began before
 *  own   owner:32 | intent:1 | permits:31   of a worker slot; written by its owner alone
 *
 *   take   own: intent (relaxed)  ->  sum + 1 (release)  ->  own: permits + 1, no intent
 *   give   sum - 1                ->  own: permits - 1
 *   mend   sum (acquire)          ->  own of the living: permits + intent  ->  sum, if it has not changed
 *
 * Who mends sees at least the intent of each living owner whose permit is in the sum that it read, so it never makes the sum too low. What
 * it counts too much (an intent that came to nothing, a permit just given back) keeps the sum as it is.
 */
#include "sync/permits.h"

#include <string.h>

#include "shm/layout.h"

enum { ATTEMPTS = 10000 };

static const uint64_t INTENT = (uint64_t)1 << 31;
static const uint64_t PERMITS = ((uint64_t)1 << 31) - 1;
static const uint64_t CHANGE = (uint64_t)1 << 32;

static struct gorge_permit_words *words_of(const struct gorge_zone *zone, uint32_t ns) {
  return &zone->header->protection[ns % GORGE_NAMESPACES].permits;
}

static uint64_t *own_word(const struct gorge_zone *zone, uint32_t ns, uint32_t worker) {
  uint64_t *words = gorge_zone_region(zone, GORGE_REGION_PERMITS, NULL);
  return &words[(uint64_t)ns * GORGE_WORKERS + worker % GORGE_WORKERS];
}

bool gorge_permits_there(const struct gorge_zone *zone, uint32_t ns) {
  uint64_t size;
  (void)gorge_zone_region(zone, GORGE_REGION_PERMITS, &size);
  return ns < size / (GORGE_WORKERS * sizeof(uint64_t));
}

/* What the owner has, and its id; nothing when the word is that of an owner before it. */
static uint64_t own_permits(const uint64_t *own, uint32_t id) {
  uint64_t word = __atomic_load_n(own, __ATOMIC_RELAXED); /* relaxed: nobody else writes it while the owner lives */
  return (uint32_t)(word >> 32) == id ? word & ~INTENT : (uint64_t)id << 32;
}

/* What the living have, with what they are about to take. */
static uint32_t add_up(const struct gorge_zone *zone, uint32_t ns, bool intents) {
  uint64_t sum = 0;
  for (uint32_t i = 0; i < GORGE_WORKERS; i++) {
    /* relaxed: ordered by the acquire of the sum in mend */
    uint64_t word = __atomic_load_n(own_word(zone, ns, i), __ATOMIC_RELAXED);
    uint64_t count = (word & PERMITS) + (intents && (word & INTENT) != 0 ? 1 : 0);
    if (count > 0 && gorge_owner_alive(zone, (uint32_t)(word >> 32))) {
      sum += count;
    }
  }
  return sum < UINT32_MAX ? (uint32_t)sum : UINT32_MAX;
}

/* Puts a sum right that counts permits of the dead. Returns false when it is right. */
static bool mend(struct gorge_zone *zone, uint32_t ns, uint64_t seen) {
  uint32_t living = add_up(zone, ns, true);
  if (living >= (uint32_t)seen) {
    return false;
  }
  uint64_t right = ((seen & ~(CHANGE - 1)) + CHANGE) | living;
  /* acq_rel: partner of the acquire load of the sum in take, as the other changes of it */
  __atomic_compare_exchange_n(&words_of(zone, ns)->sum, &seen, right, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
  return true; /* it is another one now, in any case */
}

bool gorge_permits_take(struct gorge_zone *zone, uint32_t ns, const struct gorge_owner *owner, uint32_t max) {
  struct gorge_permit_words *words = words_of(zone, ns);
  uint64_t *own = own_word(zone, ns, owner->worker);
  uint64_t had = own_permits(own, owner->id);
  for (int i = 0; i < ATTEMPTS; i++) { /* each turn but the last somebody else has changed the sum */
    /* acquire: partner of the release in the changes of the sum; the own words of who raised it show that */
    uint64_t seen = __atomic_load_n(&words->sum, __ATOMIC_ACQUIRE);
    if ((uint32_t)seen >= max) {
      if (!mend(zone, ns, seen)) {
        return false;
      }
      continue;
    }
    __atomic_store_n(own, had | INTENT, __ATOMIC_RELAXED); /* relaxed: the release below orders it */
    /* acq_rel: release, partner of the acquire load of the sum here and in another one's mend; acquire, partner of the last give */
    bool taken =
        __atomic_compare_exchange_n(&words->sum, &seen, seen + CHANGE + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    __atomic_store_n(own, taken ? had + 1 : had, __ATOMIC_RELAXED); /* relaxed: either value is good for who mends */
    if (taken) {
      return true;
    }
  }
  return false;
}

void gorge_permits_give(struct gorge_zone *zone, uint32_t ns, const struct gorge_owner *owner,
                        struct gorge_worker_set *waiters) {
  struct gorge_permit_words *words = words_of(zone, ns);
  uint64_t *own = own_word(zone, ns, owner->worker);
  uint64_t had = own_permits(own, owner->id);
  memset(waiters, 0, sizeof *waiters);
  if ((had & PERMITS) == 0) {
    return;
  }
  /* relaxed: a first guess for the CAS */
  uint64_t seen = __atomic_load_n(&words->sum, __ATOMIC_RELAXED);
  /*
   * seq_cst: one order with the marks of those who wait: either they see the new sum, or their marks are seen below. release: partner of
   * the CAS in take.
   */
  while ((uint32_t)seen > 0 && !__atomic_compare_exchange_n(&words->sum, &seen, seen + CHANGE - 1, false,
                                                            __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
  }
  __atomic_store_n(own, had - 1, __ATOMIC_RELAXED); /* relaxed: too high a count does no harm to who mends */
  for (int i = 0; i < GORGE_WORKERS / 64; i++) {
    /* seq_cst, both: partner of the mark in gorge_permits_wait */
    if (__atomic_load_n(&words->waiting[i], __ATOMIC_SEQ_CST) != 0) {
      waiters->bits[i] = __atomic_exchange_n(&words->waiting[i], 0, __ATOMIC_SEQ_CST);
    }
  }
}

void gorge_permits_wait(struct gorge_zone *zone, uint32_t ns, uint32_t worker) {
  uint64_t *bits = &words_of(zone, ns)->waiting[worker % GORGE_WORKERS / 64];
  /* seq_cst: partner of the CAS and the loads in gorge_permits_give */
  __atomic_fetch_or(bits, (uint64_t)1 << worker % 64, __ATOMIC_SEQ_CST);
  /* seq_cst fence: partner of the CAS in gorge_permits_give; the sum that is looked at next is not older than the mark */
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

uint32_t gorge_permits_count(const struct gorge_zone *zone, uint32_t ns) {
  return gorge_permits_there(zone, ns) ? add_up(zone, ns, false) : 0;
}
