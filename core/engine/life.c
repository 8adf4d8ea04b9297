/* SPDX-License-Identifier: MIT */
/*
 * How long a value lives in L1: to its end, beyond it as stale, and from when on it is due for a refresh.
 *
 * Early refreshes follow Vattani, Chierichetti, Lowenstein: Optimal Probabilistic Cache Stampede Prevention, VLDB 2015 (XFetch). Who reads a
 * value refreshes it if  now - load * beta * ln(random) >= end.  Sooner than EARLY_LOADS * beta loads before the end that is as good as never
 * so; until then no reader is asked to draw, and a hit costs what it always costs.
 */
#include "engine/engine.h"

enum { EARLY_LOADS = 16 }; /* e^-16: one draw in nine million is higher */

static uint64_t whole_or_none(double ms) { return ms > 0 ? gorge_whole_ms(ms) : 0; }

struct gorge_span gorge_store_span(const struct gorge_store *store) {
  return (struct gorge_span){
      .l1_ms = gorge_whole_ms(store->l1_ttl_ms),
      .ttl_ms = gorge_whole_ms(store->ttl_ms),
      .life = {whole_or_none(store->stale_ms), whole_or_none(store->refresh_ms), whole_or_none(store->load_ms)},
  };
}

double gorge_cache_early(const gorge_cache *c) { return EARLY_LOADS * c->early_beta; }

void gorge_cache_life(const gorge_cache *c, const struct gorge_span *span, uint64_t past_ms, uint64_t now_ms,
                      struct gorge_entry *entry) {
  const struct gorge_extra_life *extra = &span->life;
  struct gorge_life *life = &entry->life;
  uint64_t most = gorge_l1_life(c, 2 * GORGE_TTL_MAX_MS), rest = span->l1_ms < most ? span->l1_ms : most;
  *life = (struct gorge_life){.whole_ms = (double)(now_ms + span->ttl_ms)};
  if (past_ms > 0) {
    rest = 0;
    entry->expires_ms = now_ms > past_ms ? now_ms - past_ms : 1;
  } else {
    entry->expires_ms = now_ms + rest;
    life->load_ms = c->early_beta > 0 ? (double)extra->load_ms : 0;
    if (extra->refresh_ms > 0) {
      life->refresh_ms = span->ttl_ms > extra->refresh_ms ? life->whole_ms - (double)extra->refresh_ms : (double)now_ms;
    }
    entry->due_ms = gorge_life_due(life, gorge_cache_early(c));
    if (entry->due_ms >= entry->expires_ms) { /* L1 will not have it that long */
      life->refresh_ms = life->load_ms = 0;
      entry->due_ms = 0;
    }
  }
  if (extra->stale_ms > past_ms) {
    uint64_t kept = rest + extra->stale_ms - past_ms;
    life->keeps_ms = (double)(now_ms + (kept < most ? kept : most));
  }
}
