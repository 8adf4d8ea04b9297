/* SPDX-License-Identifier: MIT */
/*
 * What other nodes did, as the elected subscriber of the host hears it. Runs on the control thread and touches shared memory
 * only: the effects are seen by every worker of the host at its next read.
 */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

/* The context of the hooks: the zone; which namespace the watch knows. One per zone and namespace, for the life of the process. */
struct watch {
  struct gorge_zone *zone;
  uint32_t ns;
  struct watch *next;
};

static struct watch *watches;

static void count(const struct watch *w, const struct gorge_owner *owner, enum gorge_counter counter) {
  /* relaxed: see gorge_count */
  __atomic_fetch_add(&gorge_zone_counters(w->zone, w->ns, owner->worker)[counter], 1, __ATOMIC_RELAXED);
}

static void resync(void *ctx, const struct gorge_owner *owner, uint64_t now_ms) {
  struct watch *w = ctx;
  (void)now_ms;
  count(w, owner, GORGE_COUNT_RESYNCS);
  gorge_l1_bump_epoch(w->zone, w->ns);
}

static void message(void *ctx, const struct gorge_owner *owner, const struct gorge_message *m, uint64_t now_ms) {
  struct watch *w = ctx;
  struct gorge_key key;
  (void)now_ms;
  count(w, owner, GORGE_COUNT_MESSAGES);
  switch (m->type) {
    case GORGE_MESSAGE_KEY:
      gorge_key_init(w->zone, w->ns, m->ptr, m->len, &key);
      gorge_l1_invalidate(w->zone, owner, &key, m->version, NULL);
      break;
    case GORGE_MESSAGE_TAG: gorge_l1_invalidate_tag(w->zone, w->ns, m->ptr, m->len); break;
    case GORGE_MESSAGE_HEARTBEAT: break; /* the control thread's own */
    case GORGE_MESSAGE_FILLED: {
      struct gorge_worker_set wake = {{0}};
      gorge_key_init(w->zone, w->ns, m->ptr, m->len, &key);
      if (gorge_flight_poke(w->zone, &key, &wake)) {
        gorge_wake_send(w->zone, &wake, UINT32_MAX, -1);
      }
      break;
    }
  }
}

void gorge_coherence_watch(gorge_cache *c, struct gorge_control *control) {
  struct watch *w = watches;
  while (w != NULL && (w->zone != c->zone || w->ns != c->ns)) {
    w = w->next;
  }
  if (w == NULL) {
    w = malloc(sizeof *w);
    if (w == NULL) {
      return;
    }
    *w = (struct watch){c->zone, c->ns, watches};
    watches = w;
  }
  struct gorge_control_namespace n = {
      .ns = c->ns,
      .name_len = (uint32_t)strlen(c->name),
      .endpoint = c->endpoint,
      .redis = c->redis,
      .freshness_bound_ms = c->freshness_bound_ms,
      .disconnected_ttl_ms = c->disconnected_ttl_ms,
      .ctx = w,
      .resync = resync,
      .message = message,
  };
  memcpy(n.name, c->name, sizeof n.name);
  c->watch = gorge_control_watch(control, &n);
}
