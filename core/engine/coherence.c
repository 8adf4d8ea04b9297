/* SPDX-License-Identifier: MIT */
/*
 * What other nodes did, as the elected subscriber of the host hears it. Runs on the control thread and touches shared memory
 * only: the effects are seen by every worker of the host at its next read.
 */
#include <stdlib.h>
#include <string.h>

#include "backlog/backlog.h"
#include "engine/engine.h"
#include "engine/missed.h"
#include "shm/events.h"

/* The context of the hooks: the zone; which namespace the watch knows. One per zone, namespace and number of partitions, for the life of the process. */
struct watch {
  struct gorge_zone *zone;
  uint32_t ns, partitions;
  struct watch *next;
};

static struct watch *watches;

static void count(const struct watch *w, const struct gorge_owner *owner, enum gorge_counter counter) {
  /* relaxed: see gorge_count */
  __atomic_fetch_add(&gorge_zone_counters(w->zone, w->ns, owner->worker)[counter], 1, __ATOMIC_RELAXED);
}

/* For who looks on. */
static void tell(const struct watch *w, enum gorge_event_kind kind, uint64_t version, const char *name, uint32_t len,
                 uint64_t now_ms) {
  gorge_events_add(w->zone, kind, GORGE_EVENT_HEARD, w->ns, version, name, len, now_ms);
}

static uint64_t *epoch_word(const struct watch *w, uint32_t partition) {
  return &gorge_zone_epochs(w->zone, w->ns, w->partitions)[partition];
}

/*
 * This host's L1 is forgotten before and after: what is read under the old epoch from now on was begun before the second time, and
 * is not kept. All of it, whichever partition: L1 has one epoch, and forgets too much rather than too little.
 */
static void switch_epoch(const struct watch *w, uint32_t partition, uint64_t seen, uint64_t epoch) {
  uint64_t *word = epoch_word(w, partition);
  gorge_l1_bump_epoch(w->zone, w->ns);
  /* acq_rel: partner of the load in io/l2.c; who finds the new epoch finds L1 empty */
  if (__atomic_compare_exchange_n(word, &seen, epoch, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
    gorge_l1_bump_epoch(w->zone, w->ns);
  }
}

/* A clear made this the partition's epoch. An older one than the host has is old news. */
static void cleared(const struct watch *w, uint32_t partition, uint64_t epoch) {
  const uint64_t *word = epoch_word(w, partition);
  uint64_t seen = __atomic_load_n(word, __ATOMIC_ACQUIRE); /* partner: switch_epoch */
  while (seen < epoch) {                                   /* each turn another one has raised it */
    switch_epoch(w, partition, seen, epoch);
    seen = __atomic_load_n(word, __ATOMIC_ACQUIRE); /* partner of the CAS of another one in switch_epoch */
  }
}

/* Redis said so itself, a clear of this process too: it may have gone back to an older one. The first that a host hears of clears nothing. */
static void learned(void *ctx, uint32_t partition, uint64_t seen, uint64_t epoch) {
  const struct watch *w = ctx;
  uint64_t *word = epoch_word(w, partition);
  /* acq_rel and acquire, both: partner of the CAS of another one here or in switch_epoch, and of the load in io/l2.c */
  if (seen == 0) {
    __atomic_compare_exchange_n(word, &seen, epoch, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
  } else if (__atomic_load_n(word, __ATOMIC_ACQUIRE) == seen) {
    switch_epoch(w, partition, seen, epoch);
  }
}

/* Who waits for a fill of another node asks Redis again: the lease may be gone, and a value there. */
static void wake(const struct watch *w, const struct gorge_key *key) {
  struct gorge_worker_set set;
  if (key != NULL ? gorge_flight_poke(w->zone, key, &set) : gorge_flight_poke_all(w->zone, w->ns, &set)) {
    gorge_wake_send(w->zone, &set, UINT32_MAX, -1);
  }
}

static void resync(void *ctx, const struct gorge_owner *owner, bool first, uint64_t now_ms) {
  struct watch *w = ctx;
  gorge_l1_bump_epoch(w->zone, w->ns);
  wake(w, NULL);
  if (first) {
    count(w, owner, GORGE_COUNT_RESYNCS);
    tell(w, GORGE_EVENT_RESYNC, 0, NULL, 0, now_ms);
  }
}

static void message(void *ctx, const struct gorge_owner *owner, const struct gorge_message *m, uint64_t now_ms) {
  struct watch *w = ctx;
  struct gorge_key key;
  count(w, owner, GORGE_COUNT_MESSAGES);
  switch (m->type) {
    case GORGE_MESSAGE_KEY:
      gorge_key_init(w->zone, w->ns, m->ptr, m->len, &key);
      gorge_l1_invalidate(w->zone, owner, &key, m->version, NULL);
      wake(w, &key);
      tell(w, GORGE_EVENT_KEY, m->version, m->ptr, m->len, now_ms);
      break;
    case GORGE_MESSAGE_CLEAR:
      cleared(w, m->partition, m->version);
      wake(w, NULL);
      if (m->partition == 0) { /* for people it is one */
        tell(w, GORGE_EVENT_CLEAR, m->version, NULL, 0, now_ms);
      }
      break;
    case GORGE_MESSAGE_TAG:
      gorge_l1_invalidate_tag(w->zone, w->ns, m->ptr, m->len);
      tell(w, GORGE_EVENT_TAG, m->version, m->ptr, m->len, now_ms);
      break;
    case GORGE_MESSAGE_HEARTBEAT: break; /* the control thread's own */
    case GORGE_MESSAGE_FILLED:
      gorge_key_init(w->zone, w->ns, m->ptr, m->len, &key);
      wake(w, &key);
      break;
  }
}

enum gorge_counter gorge_coherence_counter(enum gorge_forget_what what) {
  return what == GORGE_FORGET_KEY   ? GORGE_COUNT_DELETES
         : what == GORGE_FORGET_TAG ? GORGE_COUNT_INVALIDATED_TAGS
                                    : GORGE_COUNT_CLEARS;
}

enum gorge_event_kind gorge_coherence_event(enum gorge_forget_what what) {
  return what == GORGE_FORGET_KEY ? GORGE_EVENT_KEY : what == GORGE_FORGET_TAG ? GORGE_EVENT_TAG : GORGE_EVENT_CLEAR;
}

void gorge_coherence_forget(struct gorge_zone *zone, const struct gorge_owner *owner, uint32_t ns,
                            enum gorge_forget_what what, const char *name, uint32_t len, uint64_t version) {
  struct gorge_key key;
  switch (what) {
    case GORGE_FORGET_KEY:
      gorge_key_init(zone, ns, name, len, &key);
      gorge_l1_invalidate(zone, owner, &key, version, NULL);
      break;
    case GORGE_FORGET_TAG: gorge_l1_invalidate_tag(zone, ns, name, len); break;
    case GORGE_FORGET_ALL: gorge_l1_bump_epoch(zone, ns); break; /* the names: see learned */
  }
}

/* Redis was not told: as in missed.c. */
static void queue(const struct watch *w, const struct gorge_owner *owner, const struct gorge_mail *mail,
                  uint64_t now_ms) {
  count(w, owner, GORGE_COUNT_DROPPED_WRITES);
  if (mail->what == GORGE_FORGET_ALL) {
    gorge_backlog_add_clear(w->zone, w->ns);
  } else {
    gorge_missed_add(w->zone, owner->id, w->ns, w->partitions,
                     mail->what == GORGE_FORGET_KEY ? GORGE_BACKLOG_KEY : GORGE_BACKLOG_TAG, mail->name, mail->len);
  }
  gorge_events_add(w->zone, gorge_coherence_event(mail->what), GORGE_EVENT_QUEUED, w->ns, 0, mail->name, mail->len,
                   now_ms);
}

static void forget(void *ctx, const struct gorge_owner *owner, const struct gorge_mail *mail, int status,
                   uint64_t version, uint64_t now_ms) {
  struct watch *w = ctx;
  if (status < 0) {
    queue(w, owner, mail, now_ms); /* before this host forgets: see write.c */
  } else if (status == GORGE_PENDING) {
    count(w, owner, gorge_coherence_counter(mail->what));
  }
  gorge_coherence_forget(w->zone, owner, w->ns, mail->what, mail->name, mail->len, version);
}

/* The context of the hooks for a cache; NULL: out of memory. */
static struct watch *context_of(const gorge_cache *c) {
  struct watch *w = watches;
  while (w != NULL && (w->zone != c->zone || w->ns != c->ns || w->partitions != c->partitions)) {
    w = w->next;
  }
  if (w == NULL) {
    w = malloc(sizeof *w);
    if (w == NULL) {
      return NULL;
    }
    *w = (struct watch){c->zone, c->ns, c->partitions, watches};
    watches = w;
  }
  return w;
}

bool gorge_coherence_share(gorge_cache *c) {
  struct watch *w = context_of(c);
  if (w != NULL) {
    gorge_l2_share_epoch(c->l2, gorge_zone_epochs(c->zone, c->ns, c->partitions), learned, w);
  }
  return w != NULL;
}

void gorge_coherence_watch(gorge_cache *c, struct gorge_control *control) {
  struct watch *w = context_of(c);
  if (w == NULL) {
    return;
  }
  struct gorge_control_namespace n = {
      .ns = c->ns,
      .name_len = (uint32_t)strlen(c->name),
      .partitions = c->partitions,
      .endpoint = c->endpoint,
      .seeds = c->seeds,
      .redis = c->redis,
      .sentinels = c->sentinels,
      .freshness_bound_ms = c->freshness_bound_ms,
      .disconnected_ttl_ms = c->disconnected_ttl_ms,
      .ctx = w,
      .resync = resync,
      .message = message,
      .forget = forget,
      .epochs = gorge_zone_epochs(c->zone, c->ns, c->partitions),
      .learned = learned,
  };
  memcpy(n.name, c->name, sizeof n.name);
  c->watch = gorge_control_watch(control, &n);
}
