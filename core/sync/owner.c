/* SPDX-License-Identifier: MIT */
#include "sync/owner.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "shm/layout.h"

/*
 * An id is generation:24 | role:1 | worker:7, the generation never 0.
 *
 * Life of a thread slot (`holder` is generation << 32 | thread id, stored by whoever holds `life` only):
 *
 *   free      holder = g|0    life unlocked
 *   claimed   holder = g+1|t  life locked by thread t: its futex word holds t, which the kernel clears when t dies
 *   dead      holder = g+1|t  life marked "owner died": thread id 0
 *
 * An owner of generation g lives iff holder is g|t and the futex word holds t. A claimer that is stopped
 * between taking `life` and storing holder leaves its own thread id in the futex word, which is not the dead
 * one's.
 */
enum { WORKER_BITS = 7, ROLE_SHIFT = 7, GENERATION_SHIFT = 8, GENERATION_MAX = 0xffffff };
_Static_assert(1 << WORKER_BITS == GORGE_WORKERS, "a worker's number fits its bits in an owner's id");

/* What this process has claimed; a fork's child inherits the list but not what it stands for. */
struct claim {
  const struct gorge_zone *zone;
  uint32_t id;
  pid_t pid;
  struct claim *next;
};

static struct claim *claims;
static pthread_mutex_t claims_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* A fork while another thread holds the lock must not leave it locked in the child for ever. */
static void lock_claims(void) { pthread_mutex_lock(&claims_lock); }
static void unlock_claims(void) { pthread_mutex_unlock(&claims_lock); }
static void watch_forks(void) { pthread_atfork(lock_claims, unlock_claims, unlock_claims); }

static struct gorge_thread_slot *slot_of(const struct gorge_zone *zone, uint32_t worker, unsigned role) {
  struct gorge_worker_slot *slots = gorge_zone_region(zone, GORGE_REGION_WORKERS, NULL);
  return &slots[worker % GORGE_WORKERS].thread[role & 1];
}

static struct gorge_thread_slot *slot_of_id(const struct gorge_zone *zone, uint32_t id) {
  return slot_of(zone, gorge_owner_worker(id), id >> ROLE_SHIFT);
}

/*
 * The thread id in the futex word of a robust mutex: what the kernel's robust-futex ABI prescribes, and glibc keeps
 * as the mutex's first word. gorge_owner_claim refuses to work where that is not so.
 */
static uint32_t life_thread(const struct gorge_thread_slot *slot) {
  /* acquire: partner of the kernel's clearing of the id when the thread dies; all that it stored is seen. */
  return __atomic_load_n((const uint32_t *)(const void *)&slot->life, __ATOMIC_ACQUIRE) & FUTEX_TID_MASK;
}

/* acquire: partner of the release stores of holder. */
static uint64_t load_holder(const struct gorge_thread_slot *slot) {
  return __atomic_load_n(&slot->holder, __ATOMIC_ACQUIRE);
}

static void store_holder(struct gorge_thread_slot *slot, uint32_t generation, uint32_t thread) {
  /* release: partner of load_holder. */
  __atomic_store_n(&slot->holder, (uint64_t)generation << 32 | thread, __ATOMIC_RELEASE);
}

static bool held(const struct gorge_thread_slot *slot, uint64_t holder) {
  return (uint32_t)holder != 0 && life_thread(slot) == (uint32_t)holder;
}

bool gorge_owner_alive(const struct gorge_zone *zone, uint32_t id) {
  const struct gorge_thread_slot *slot = slot_of_id(zone, id);
  /*
   * acquire fence: partner of the release fence in become. Whoever has read the id, in a lock or a flight and however relaxed, finds
   * its generation here, not the one before: an owner that has just begun must not look dead.
   */
  __atomic_thread_fence(__ATOMIC_ACQUIRE);
  uint64_t holder = load_holder(slot);
  return holder >> 32 == id >> GENERATION_SHIFT && held(slot, holder);
}

static bool owned_by_this_thread(const struct gorge_zone *zone, uint32_t id) {
  const struct gorge_thread_slot *slot = slot_of_id(zone, id);
  return gorge_owner_alive(zone, id) && life_thread(slot) == (uint32_t)gettid();
}

static uint32_t count(const struct gorge_zone *zone, enum gorge_thread_role role) {
  uint32_t n = 0;
  for (uint32_t worker = 0; worker < GORGE_WORKERS; worker++) {
    const struct gorge_thread_slot *slot = slot_of(zone, worker, role);
    n += held(slot, load_holder(slot));
  }
  return n;
}

uint32_t gorge_owner_count(const struct gorge_zone *zone) { return count(zone, GORGE_THREAD_MAIN); }

uint32_t gorge_owner_count_control(const struct gorge_zone *zone) { return count(zone, GORGE_THREAD_CONTROL); }

/* Locks a life-lock nobody lives in. */
static bool take_life(struct gorge_thread_slot *slot) {
  if (life_thread(slot) != 0) {
    return false;
  }
  int result = pthread_mutex_trylock(&slot->life);
  if (result == EOWNERDEAD) {
    /* Killed before this, the mark stays for the next one. */
    result = pthread_mutex_consistent(&slot->life);
  }
  return result == 0;
}

/* Makes the calling thread, which holds `life`, the owner of the next generation. */
static int become(struct gorge_zone *zone, struct gorge_thread_slot *slot, uint32_t worker, unsigned role,
                  struct gorge_owner *out) {
  uint64_t holder = load_holder(slot);
  uint32_t generation = (uint32_t)(holder >> 32);
  uint32_t thread = (uint32_t)gettid();
  if (life_thread(slot) != thread) {
    pthread_mutex_unlock(&slot->life);
    return GORGE_ERR_UNSUPPORTED;
  }
  if ((uint32_t)holder != 0 && role == GORGE_THREAD_MAIN) {
    /* relaxed: a count. */
    __atomic_add_fetch(&zone->header->worker_deaths.word[0], 1, __ATOMIC_RELAXED);
  }
  generation = generation >= GENERATION_MAX ? 1 : generation + 1;
  store_holder(slot, generation, thread);
  /* release fence: partner of the acquire fence in gorge_owner_alive; every store of the id comes after this. */
  __atomic_thread_fence(__ATOMIC_RELEASE);
  out->id = generation << GENERATION_SHIFT | role << ROLE_SHIFT | worker;
  out->worker = worker;
  return GORGE_OK;
}

static int claim_main(struct gorge_zone *zone, struct gorge_owner *out) {
  struct gorge_worker_slot *slots = gorge_zone_region(zone, GORGE_REGION_WORKERS, NULL);
  for (uint32_t worker = 0; worker < GORGE_WORKERS; worker++) {
    struct gorge_worker_slot *w = &slots[worker];
    struct gorge_thread_slot *slot = &w->thread[GORGE_THREAD_MAIN];
    if (!take_life(slot)) {
      continue;
    }
    if (life_thread(&w->thread[GORGE_THREAD_CONTROL]) != 0) {
      /* The control thread of the last owner has not ended yet: its wake-ups are not ours. */
      pthread_mutex_unlock(&slot->life);
      continue;
    }
    /* relaxed: a stale address costs a lost wake-up, see sync/wake.h. */
    __atomic_store_n(&w->wake, 0, __ATOMIC_RELAXED);
    return become(zone, slot, worker, GORGE_THREAD_MAIN, out);
  }
  return GORGE_ERR_FULL;
}

/* The control thread of one of this process's workers that has none. find_claim has left only this process's claims. */
static int claim_control(struct gorge_zone *zone, struct gorge_owner *out) {
  for (const struct claim *c = claims; c != NULL; c = c->next) {
    uint32_t worker = gorge_owner_worker(c->id);
    if (c->zone == zone && (c->id >> ROLE_SHIFT & 1) == GORGE_THREAD_MAIN && gorge_owner_alive(zone, c->id)) {
      struct gorge_thread_slot *slot = slot_of(zone, worker, GORGE_THREAD_CONTROL);
      if (take_life(slot)) {
        return become(zone, slot, worker, GORGE_THREAD_CONTROL, out);
      }
    }
  }
  return GORGE_ERR_FULL;
}

/*
 * Drops what is dead or belongs to the process this one was forked from. Returns this thread's claim of the
 * role, or 0.
 */
static uint32_t find_claim(const struct gorge_zone *zone, unsigned role) {
  uint32_t mine = 0;
  pid_t pid = getpid();
  struct claim **at = &claims;
  while (*at != NULL) {
    struct claim *c = *at;
    if (c->pid != pid || !gorge_owner_alive(c->zone, c->id)) {
      *at = c->next;
      free(c);
      continue;
    }
    if (c->zone == zone && (c->id >> ROLE_SHIFT & 1) == role && owned_by_this_thread(zone, c->id)) {
      mine = c->id;
    }
    at = &c->next;
  }
  return mine;
}

int gorge_owner_claim(struct gorge_zone *zone, enum gorge_thread_role role, struct gorge_owner *out) {
  pthread_once(&fork_once, watch_forks);
  lock_claims();
  int status = GORGE_OK;
  uint32_t mine = find_claim(zone, role);
  if (mine != 0) {
    out->id = mine;
    out->worker = gorge_owner_worker(mine);
  } else {
    struct claim *c = malloc(sizeof *c);
    status = c == NULL                   ? GORGE_ERR_MEMORY
             : role == GORGE_THREAD_MAIN ? claim_main(zone, out)
                                         : claim_control(zone, out);
    if (status == GORGE_OK) {
      *c = (struct claim){.zone = zone, .id = out->id, .pid = getpid(), .next = claims};
      claims = c;
    } else {
      free(c);
    }
  }
  unlock_claims();
  return status;
}

void gorge_owner_release(struct gorge_zone *zone, struct gorge_owner *owner) {
  if (owner->id != 0 && owned_by_this_thread(zone, owner->id)) {
    struct gorge_thread_slot *slot = slot_of_id(zone, owner->id);
    store_holder(slot, owner->id >> GENERATION_SHIFT, 0);
    pthread_mutex_unlock(&slot->life);
  }
  owner->id = 0;
}
