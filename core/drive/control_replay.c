/* SPDX-License-Identifier: MIT */
/*
 * Tells Redis what it missed (backlog/backlog.h): the holder of the subscriber role, once it has caught up with the journal, carries
 * the queued invalidations out, one after the other in their order. One that fails stays where it is, and is tried again at the next
 * tick. Redis publishes them like any other, so that every host hears of them, this one too. Killed between the answer and its mark,
 * the next holder carries it out once more, which forgets too much rather than too little.
 */
#include <string.h>

#include "backlog/backlog.h"
#include "drive/control_internal.h"

static void start(struct gorge_watch *w, uint64_t now_ms);

static void count(const struct gorge_watch *w) {
  const struct gorge_owner *owner = &w->control->owner;
  /* relaxed: a counter on its own, which the worker's main thread may write as well */
  __atomic_fetch_add(&gorge_zone_counters(w->control->zone, w->n.ns, owner->worker)[GORGE_COUNT_REPLAYED], 1,
                     __ATOMIC_RELAXED);
}

static void on_done(struct gorge_l2_request *rq, const struct gorge_l2_result *r, uint64_t now_ms) {
  struct gorge_watch *w = rq->ctx;
  w->replaying = false;
  if (r->status < 0) {
    return;
  }
  count(w);
  if (rq->verb == GORGE_L2_CLEAR) {
    gorge_backlog_cleared(w->control->zone, w->n.ns, w->replay_clear);
  } else {
    gorge_backlog_done(w->control->zone, w->control->owner.id, &w->replay_record);
  }
  start(w, now_ms);
}

/* Fills in the next request. Returns false when nothing waits. */
static bool next(struct gorge_watch *w) {
  struct gorge_zone *zone = w->control->zone;
  struct gorge_l2_request *rq = &w->replay;
  memset(rq, 0, sizeof *rq);
  w->replay_clear = gorge_backlog_clear_due(zone, w->n.ns);
  if (w->replay_clear != 0) {
    rq->verb = GORGE_L2_CLEAR;
  } else if (!gorge_backlog_next(zone, w->control->owner.id, w->n.ns, &w->replay_record)) {
    return false;
  } else if (w->replay_record.what == GORGE_BACKLOG_TAG) {
    rq->verb = GORGE_L2_INVALIDATE_TAGS;
    w->replay_tag = (struct gorge_l2_tag){w->replay_record.name, w->replay_record.len};
    rq->tags = &w->replay_tag;
    rq->ntags = 1;
  } else {
    rq->verb = GORGE_L2_DELETE;
    rq->key = w->replay_record.name;
    rq->key_len = w->replay_record.len;
  }
  rq->done = on_done;
  rq->ctx = w;
  return true;
}

static void start(struct gorge_watch *w, uint64_t now_ms) {
  if (w->replaying || !gorge_journal_synced(w) || gorge_watch_stopping(w) ||
      gorge_backlog_empty(w->control->zone, w->n.ns) || !gorge_lease_connect(w) || !next(w)) {
    return;
  }
  w->replaying = gorge_l2_send(w->l2, &w->replay, now_ms) == GORGE_OK;
  gorge_ev_l2_kick(w->l2_link);
}

void gorge_replay_tick(struct gorge_watch *w, uint64_t now_ms) { start(w, now_ms); }
