/* SPDX-License-Identifier: MIT */
#include "sync/role.h"

static const uint64_t LEASE_MAX_MS = INT32_MAX;

static uint32_t holder_of(uint64_t word) { return (uint32_t)(word >> 32); }

/* Deadlines are compared modulo 2^32 ms: right as long as they are less than 24 days from now. */
static bool running(uint64_t word, uint64_t now_ms) {
  return holder_of(word) != 0 && (int32_t)((uint32_t)word - (uint32_t)now_ms) > 0;
}

bool gorge_role_hold(struct gorge_zone *zone, struct gorge_role *role, uint32_t owner, uint64_t now_ms,
                     uint64_t lease_ms) {
  lease_ms = lease_ms > LEASE_MAX_MS ? LEASE_MAX_MS : lease_ms;
  uint64_t mine = (uint64_t)owner << 32 | (uint32_t)(now_ms + lease_ms);
  /* acquire: partner of the release in gorge_role_drop and of the last holder's own CAS below. */
  uint64_t seen = __atomic_load_n(&role->holder, __ATOMIC_ACQUIRE);
  /* A failed CAS means that somebody else took or renewed it: decided again on what is there now. */
  for (int i = 0; i < GORGE_WORKERS; i++) {
    bool renews = holder_of(seen) == owner;
    if (!renews && running(seen, now_ms) && gorge_owner_alive(zone, holder_of(seen))) {
      return false;
    }
    /* acq_rel: partner of itself and of the release in gorge_role_drop; what the last holder did is seen, and by the next one, this. */
    if (__atomic_compare_exchange_n(&role->holder, &seen, mine, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
      if (!renews) {
        /* release: partner of gorge_role_fence. Killed before this, the next change of hands counts for both. */
        __atomic_add_fetch(&role->fence, 1, __ATOMIC_RELEASE);
      }
      return true;
    }
  }
  return false;
}

void gorge_role_drop(struct gorge_role *role, uint32_t owner) {
  /* relaxed: a first guess for the CAS. */
  uint64_t seen = __atomic_load_n(&role->holder, __ATOMIC_RELAXED);
  /* Fails only when another one took it, or when this owner's other thread of control renewed it. */
  while (holder_of(seen) == owner) {
    /* release: partner of the acquire load in gorge_role_hold. */
    if (__atomic_compare_exchange_n(&role->holder, &seen, 0, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
      return;
    }
  }
}

bool gorge_role_taken(const struct gorge_role *role, uint64_t now_ms) {
  /* relaxed: a hint. */
  return running(__atomic_load_n(&role->holder, __ATOMIC_RELAXED), now_ms);
}

uint64_t gorge_role_fence(const struct gorge_role *role) {
  /* acquire: partner of the release in gorge_role_hold. */
  return __atomic_load_n(&role->fence, __ATOMIC_ACQUIRE);
}
