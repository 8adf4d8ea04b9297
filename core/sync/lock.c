/* SPDX-License-Identifier: MIT */
#include "sync/lock.h"

#include <time.h>

#include "base/clock.h"

enum { SPINS = 128, SLEEP_NS = 50 * 1000, PASS_SLEEPS = 4 };

static const uint64_t OWNER_MASK = 0xffffffffU;

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

/* Puts `owner` in the place of what was seen. */
static bool replace(struct gorge_lock *lock, uint64_t *seen, uint32_t owner) {
  uint64_t mine = ((*seen >> 32) + 1) << 32 | owner;
  /*
   * acquire: partner of the release in gorge_lock_release; what the last holder did is seen. A dead holder released
   * nothing: what it did is seen because the kernel marked its life-lock after its last store, see gorge_owner_alive.
   */
  return __atomic_compare_exchange_n(&lock->word, seen, mine, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

/*
 * One attempt without waiting. A dead holder is replaced only when asked to, since to look costs two more cache
 * lines.
 */
static bool try_acquire(const struct gorge_zone *zone, struct gorge_lock *lock, uint32_t owner, bool replace_dead,
                        uint64_t *seen, bool *taken_over) {
  /* relaxed: only a hint for the CAS. */
  *seen = __atomic_load_n(&lock->word, __ATOMIC_RELAXED);
  uint32_t holder = (uint32_t)(*seen & OWNER_MASK);
  if (holder == 0) {
    return replace(lock, seen, owner);
  }
  if (replace_dead && !gorge_owner_alive(zone, holder) && replace(lock, seen, owner)) {
    *taken_over = true;
    return true;
  }
  return false;
}

/* A pause of one who waits. */
static void rest(void) { nanosleep(&(struct timespec){.tv_nsec = SLEEP_NS}, NULL); }

int gorge_lock_acquire(struct gorge_zone *zone, struct gorge_lock *lock, uint32_t owner, uint32_t budget_us,
                       uint32_t *holder_sequence, bool *taken_over) {
  bool ignored;
  uint64_t seen;
  taken_over = taken_over != NULL ? taken_over : &ignored;
  *taken_over = false;
  for (int i = 0; i < SPINS; i++) {
    if (try_acquire(zone, lock, owner, false, &seen, taken_over)) {
      return GORGE_OK;
    }
    relax();
  }
  uint64_t start = gorge_clock_us();
  while (!try_acquire(zone, lock, owner, true, &seen, taken_over)) {
    if (gorge_clock_us() - start >= budget_us) {
      if (holder_sequence != NULL) {
        *holder_sequence = (uint32_t)(seen >> 32);
      }
      return GORGE_BUSY;
    }
    /* relaxed: a hint for gorge_lock_pass; one that is missed costs a turn. */
    __atomic_store_n(&lock->wanted, 1, __ATOMIC_RELAXED);
    rest();
  }
  return GORGE_OK;
}

void gorge_lock_release(struct gorge_lock *lock, uint32_t owner) {
  /* relaxed: who holds it reads what it wrote itself. */
  uint64_t seen = __atomic_load_n(&lock->word, __ATOMIC_RELAXED);
  if ((seen & OWNER_MASK) == owner) {
    /* release: partner of the acquire in replace. A plain store: nobody changes the word of a holder that lives. */
    __atomic_store_n(&lock->word, seen & ~OWNER_MASK, __ATOMIC_RELEASE);
  }
}

void gorge_lock_pass(struct gorge_lock *lock) {
  /* relaxed: hints. Who sets the mark after it was taken away here waits for the next pass. */
  if (__atomic_load_n(&lock->wanted, __ATOMIC_RELAXED) == 0) {
    return;
  }
  __atomic_store_n(&lock->wanted, 0, __ATOMIC_RELAXED);
  uint64_t sequence = __atomic_load_n(&lock->word, __ATOMIC_RELAXED) >> 32;
  for (int i = 0; i < PASS_SLEEPS && __atomic_load_n(&lock->word, __ATOMIC_RELAXED) >> 32 == sequence; i++) {
    rest();
  }
}
