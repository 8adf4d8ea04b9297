/* SPDX-License-Identifier: MIT */
#include "l1/shard.h"

#include "l1/index.h"

/*
 * Once a lap, and after a holder was killed: counts the slots in use, which it may not have lived to count, and empties those
 * that lead nowhere (entries of more than 255 epochs ago, whose slots are not found when they are dropped).
 */
static void recount(const struct gorge_shard *v, uint64_t lap) {
  uint64_t n = 0;
  /* relaxed: under the lock; readers raise frequencies meanwhile, and show the count. */
  for (uint64_t i = 0; i < (uint64_t)v->buckets * GORGE_BUCKET_SLOTS; i++) {
    uint64_t word = __atomic_load_n(&v->slots[i], __ATOMIC_RELAXED);
    if (word != 0 && gorge_slot_passed(v->shared, word)) {
      gorge_index_clear(&v->slots[i]);
    } else {
      n += word != 0;
    }
  }
  __atomic_store_n(&v->shared->entries, n, __ATOMIC_RELAXED);
  v->shared->counted_lap = lap;
}

/* An acquisition as it stands in the fence: never 0, which is none. The next acquisition takes it away. */
static uint32_t mark(uint32_t sequence) { return sequence | 0x80000000U; }

/* Empties index and log of what older epochs left. Killed in between, the next one does it again. */
static void start_clean(struct gorge_shard *v, uint64_t fence) {
  struct gorge_l1_shard *s = v->shared;
  /*
   * relaxed: only the epoch matters to readers, and that stays. It fails when the epoch was raised once more, against this
   * acquisition: then nothing that is done from here on will be seen.
   */
  __atomic_compare_exchange_n(&s->fence, &fence, (uint64_t)v->epoch << 32, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  /*
   * seq_cst: partner of the fence in gorge_shard_forget. Either who gives up on this acquisition sees that its mark is gone, or
   * what it had invalidated before is seen by what this holder reads from now on.
   */
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  for (uint64_t i = 0; i < (uint64_t)v->buckets * GORGE_BUCKET_SLOTS; i++) {
    /* relaxed: ordered by the stores below; no reader takes entries of this epoch. */
    __atomic_store_n(&v->slots[i], 0, __ATOMIC_RELAXED);
  }
  for (int ring = 0; ring < GORGE_RINGS; ring++) {
    /* release: partner of the acquire fence of readers, which thereby see the tail before the space is used again. */
    __atomic_store_n(&s->tail[ring], s->head[ring], __ATOMIC_RELEASE);
  }
  __atomic_store_n(&s->entries, 0, __ATOMIC_RELAXED);
  s->clean_epoch = v->epoch;
}

/*
 * Between taking the lock and the look at what came before it: a seq_cst fence, partner of the one in gorge_shard_forget. On x86-64 the
 * locked instruction that took the lock is one already, and only the compiler is to be kept from moving something: both do that.
 */
static inline void fence_after_lock(void) {
#ifdef __x86_64__
  __atomic_signal_fence(__ATOMIC_SEQ_CST);
#else
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

int gorge_shard_enter(struct gorge_zone *zone, struct gorge_shard *v, const struct gorge_owner *owner,
                      uint32_t budget_us, uint32_t *sequence) {
  struct gorge_l1_shard *s = v->shared;
  /* relaxed: a hint, not to wait for a holder that was given up already. */
  uint64_t fence = __atomic_load_n(&s->fence, __ATOMIC_RELAXED);
  uint64_t word = __atomic_load_n(&s->lock.word, __ATOMIC_RELAXED);
  if ((uint32_t)word != 0 && mark((uint32_t)(word >> 32)) == (uint32_t)fence) {
    budget_us = 0;
  }
  bool taken_over;
  int status = gorge_lock_acquire(zone, &s->lock, owner->id, budget_us, sequence, &taken_over);
  if (status != GORGE_OK) {
    return status;
  }
  /*
   * seq_cst: partner of the fence in gorge_shard_forget. Either the one who gave up on an earlier acquisition sees this
   * one in the lock's word, or what it had invalidated before is seen by what this holder reads from now on.
   */
  fence_after_lock();
  /* acquire: partner of the CAS in gorge_shard_forget; who finds the raised epoch finds what was invalidated before it. */
  fence = __atomic_load_n(&s->fence, __ATOMIC_ACQUIRE);
  v->epoch = gorge_fence_epoch(fence);
  if (v->epoch != s->clean_epoch) {
    start_clean(v, fence);
  }
  uint64_t lap = s->head[GORGE_RING_MAIN] >> v->lap_shift;
  if (taken_over || lap != s->counted_lap) {
    recount(v, lap);
  }
  if (taken_over) {
    gorge_shard_count(v, v->ns, GORGE_COUNT_LOCK_TAKEOVERS);
  }
  return GORGE_OK;
}

void gorge_shard_leave(struct gorge_shard *v, const struct gorge_owner *owner) {
  gorge_lock_release(&v->shared->lock, owner->id);
}

void gorge_shard_forget(struct gorge_zone *zone, struct gorge_shard *v, uint32_t sequence) {
  struct gorge_l1_shard *s = v->shared;
  /*
   * seq_cst: partner of the fences in gorge_shard_enter and start_clean. What the caller has invalidated comes before the look at
   * fence and lock: whoever holds the lock now or later without being seen here sees that.
   */
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  /* acquire: partner of the CAS below, by another one who gave up. */
  uint64_t fence = __atomic_load_n(&s->fence, __ATOMIC_ACQUIRE);
  /* relaxed: ordered by the fence. */
  uint32_t now = (uint32_t)(__atomic_load_n(&s->lock.word, __ATOMIC_RELAXED) >> 32);
  /* Raised against this acquisition already, and no other one since: what it may still publish is not to be seen. */
  bool raised = (uint32_t)fence == mark(sequence) && now == sequence;
  while (!raised) {
    uint64_t next = (uint64_t)(gorge_fence_epoch(fence) + 1) << 32 | mark(sequence);
    /* acq_rel: partner of the loads in gorge_shard_enter and, by way of the reader's acquire fence, of read.c. */
    raised = __atomic_compare_exchange_n(&s->fence, &fence, next, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
  }
  /* L0 compares slot and global word, not the epoch. Done by each, since the one who raised the epoch may have died here. */
  for (uint32_t ns = 0; ns < GORGE_NAMESPACES; ns++) {
    /* release: partner of the acquire load in gorge_key_init. */
    __atomic_fetch_add(&gorge_zone_words(zone, ns)->global, 1, __ATOMIC_RELEASE);
  }
}

void gorge_shard_write(struct gorge_shard *v, const struct gorge_owner *owner, uint32_t ns, uint64_t now_ms) {
  v->worker = owner->worker;
  v->ns = ns;
  v->counters = gorge_zone_counters(v->zone, ns, owner->worker);
  v->now_ms = now_ms;
  v->epoch = 0;
  v->steps = 0;
}

static uint64_t *counters_of(const struct gorge_shard *v, uint32_t ns) {
  return ns == v->ns ? v->counters : gorge_zone_counters(v->zone, ns, v->worker);
}

void gorge_shard_count(const struct gorge_shard *v, uint32_t ns, enum gorge_counter counter) {
  /* relaxed: a counter on its own. */
  __atomic_fetch_add(&counters_of(v, ns)[counter], 1, __ATOMIC_RELAXED);
}

void gorge_shard_tally(const struct gorge_shard *v, uint32_t ns, enum gorge_counter counter) {
  uint64_t *at = &counters_of(v, ns)[counter];
  /* relaxed load and store, since a locked addition costs as much as a miss of the cache: one thread counts. */
  __atomic_store_n(at, __atomic_load_n(at, __ATOMIC_RELAXED) + 1, __ATOMIC_RELAXED);
}
