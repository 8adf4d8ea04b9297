/* SPDX-License-Identifier: MIT */
/*
 * The state word, so that every change is one compare-and-swap:
 *
 *   63          50 49   48 47                                   0
 *   +-------------+-------+--------------------------------------+
 *   | failures 14 | state | time of the last change of state, ms |
 *   +-------------+-------+--------------------------------------+
 *
 * All accesses are relaxed: the word says all there is, nothing else is published through it.
 */
#include "resil/breaker.h"

enum { TIME_BITS = 48, STATE_BITS = 2, FAILURES_MAX = (1 << 14) - 1 };

struct view {
  uint64_t at_ms;
  uint32_t failures;
  enum gorge_breaker_state state;
};

static uint64_t pack(uint32_t failures, enum gorge_breaker_state state, uint64_t at_ms) {
  /* clang-tidy 14 takes the shift for a signed one. NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult) */
  return ((uint64_t)failures << (TIME_BITS + STATE_BITS)) | ((uint64_t)state << TIME_BITS) |
         (at_ms & (((uint64_t)1 << TIME_BITS) - 1));
}

static struct view unpack(uint64_t word) {
  return (struct view){
      .at_ms = word & (((uint64_t)1 << TIME_BITS) - 1),
      .failures = (uint32_t)(word >> (TIME_BITS + STATE_BITS)),
      .state = (enum gorge_breaker_state)(word >> TIME_BITS & 3),
  };
}

static uint64_t load(const struct gorge_breaker_words *w) { return __atomic_load_n(&w->state, __ATOMIC_RELAXED); }

static bool swap(struct gorge_breaker_words *w, uint64_t *seen, uint64_t wanted) {
  return __atomic_compare_exchange_n(&w->state, seen, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
}

static uint32_t limit(const struct gorge_breaker_config *c) {
  return c->max_failures < FAILURES_MAX ? c->max_failures : FAILURES_MAX;
}

/* Clocks of two processors may differ by a tick: a change "in the future" is one of just now. */
static bool elapsed(const struct view *v, uint64_t span_ms, uint64_t now_ms) {
  return now_ms > v->at_ms ? now_ms - v->at_ms >= span_ms : span_ms == 0;
}

bool gorge_breaker_allow(struct gorge_breaker_words *w, const struct gorge_breaker_config *c, uint64_t now_ms) {
  uint64_t word = load(w);
  for (;;) {
    struct view v = unpack(word);
    if (c->max_failures == 0 || v.state == GORGE_BREAKER_CLOSED) {
      return true;
    }
    if (!elapsed(&v, c->timeout_ms, now_ms)) {
      return false;
    }
    if (v.state == GORGE_BREAKER_OPEN) {
      if (swap(w, &word, pack(v.failures, GORGE_BREAKER_HALF_OPEN, now_ms))) {
        return true;
      }
    } else {
      /* The probe has not answered: open since the moment its time was over. */
      uint64_t next = pack(v.failures, GORGE_BREAKER_OPEN, v.at_ms + c->timeout_ms);
      if (swap(w, &word, next)) {
        __atomic_fetch_add(&w->opens, 1, __ATOMIC_RELAXED);
        word = next;
      }
    }
  }
}

bool gorge_breaker_refuses(const struct gorge_breaker_words *w, const struct gorge_breaker_config *c, uint64_t now_ms) {
  struct view v = unpack(load(w));
  if (c->max_failures == 0 || v.state == GORGE_BREAKER_CLOSED) {
    return false;
  }
  uint64_t span = v.state == GORGE_BREAKER_OPEN ? c->timeout_ms : 2 * (uint64_t)c->timeout_ms;
  return !elapsed(&v, span, now_ms);
}

void gorge_breaker_success(struct gorge_breaker_words *w, const struct gorge_breaker_config *c, uint64_t now_ms) {
  uint64_t word = load(w);
  for (;;) {
    struct view v = unpack(word);
    /* The usual case writes nothing: the line stays shared between processors. */
    if (c->max_failures == 0 || v.state == GORGE_BREAKER_OPEN || (v.state == GORGE_BREAKER_CLOSED && v.failures == 0)) {
      return;
    }
    uint64_t at_ms = v.state == GORGE_BREAKER_CLOSED ? v.at_ms : now_ms;
    if (swap(w, &word, pack(0, GORGE_BREAKER_CLOSED, at_ms))) {
      return;
    }
  }
}

bool gorge_breaker_failure(struct gorge_breaker_words *w, const struct gorge_breaker_config *c, uint64_t now_ms) {
  uint64_t word = load(w);
  for (;;) {
    struct view v = unpack(word);
    if (c->max_failures == 0 || v.state == GORGE_BREAKER_OPEN) {
      return false;
    }
    uint32_t failures = v.failures < FAILURES_MAX ? v.failures + 1 : v.failures;
    bool opens = v.state == GORGE_BREAKER_HALF_OPEN || failures >= limit(c);
    uint64_t next = opens ? pack(failures, GORGE_BREAKER_OPEN, now_ms) : pack(failures, GORGE_BREAKER_CLOSED, v.at_ms);
    if (swap(w, &word, next)) {
      if (opens) {
        __atomic_fetch_add(&w->opens, 1, __ATOMIC_RELAXED);
      }
      return opens;
    }
  }
}

enum gorge_breaker_state gorge_breaker_state(const struct gorge_breaker_words *w) { return unpack(load(w)).state; }

bool gorge_breaker_untouched(const struct gorge_breaker_words *w) {
  struct view v = unpack(load(w));
  return v.state == GORGE_BREAKER_CLOSED && v.failures == 0;
}

void gorge_breaker_reset(struct gorge_breaker_words *w) {
  if (!gorge_breaker_untouched(w)) {
    __atomic_store_n(&w->state, 0, __ATOMIC_RELAXED);
  }
}
