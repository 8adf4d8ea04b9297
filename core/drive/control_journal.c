/* SPDX-License-Identifier: MIT */
/*
 * Pub/sub forgets what was published while nobody listened. So a subscription that has been confirmed reads the
 * journal from where this host left off (struct gorge_journal_words) before it counts as caught up:
 *
 *   the entry of the cursor is still there   what came after it takes effect, the cursor moves on
 *   it is gone (trimmed, another journal)    anything may have been missed: the resync hook forgets this host's L1
 *
 * Messages that arrive meanwhile take effect at once, and are counted in `seen`: effects may be repeated, never
 * skipped. The cursor is stored after the effects, so that a thread killed in between repeats them.
 */
#include <string.h>

#include "base/broken.h"
#include "base/clock.h"
#include "drive/control_internal.h"

static struct gorge_journal_words *words_of(const struct gorge_watch *w) {
  return gorge_zone_journal(w->control->zone, w->n.ns);
}

uint64_t gorge_journal_cursor(const struct gorge_watch *w) {
  return __atomic_load_n(&words_of(w)->cursor, __ATOMIC_ACQUIRE); /* partner: set_cursor of an earlier holder */
}

static void set_cursor(const struct gorge_watch *w, uint64_t version) {
  __atomic_store_n(&words_of(w)->cursor, version,
                   __ATOMIC_RELEASE); /* after the effects; partner: gorge_journal_cursor */
}

static void set_tried(const struct gorge_watch *w) {
  __atomic_store_n(&words_of(w)->tried, 1, __ATOMIC_RELEASE); /* after the first resync; partner: engine/fetch.c */
}

static void on_entry(struct gorge_l2_request *rq, const struct gorge_message *m, uint64_t now_ms) {
  struct gorge_watch *w = rq->ctx;
  if (GORGE_CHECKS(JOURNAL) &&
      !gorge_watch_stopping(w)) { /* else the cursor stays where it is, and whoever comes next repeats all */
    w->n.message(w->n.ctx, &w->control->owner, m, now_ms);
  }
}

static void on_journal(struct gorge_l2_request *rq, const struct gorge_l2_result *r, uint64_t now_ms) {
  struct gorge_watch *w = rq->ctx;
  if (r->status < 0 || gorge_watch_stopping(w)) {
    w->sync = GORGE_SYNC_DUE; /* the next tick asks again */
    return;
  }
  if (GORGE_CHECKS(JOURNAL) && r->status == GORGE_MISS) {
    w->n.resync(w->n.ctx, &w->control->owner, now_ms);
  }
  set_cursor(w, r->version > w->seen ? r->version : w->seen);
  gorge_contact_confirm(w, w->asked_ms);
  set_tried(w);
  w->sync = GORGE_SYNC_DONE;
  gorge_watch_set_subscribed(w, true); /* last: who sees it may rely on what was done */
  gorge_replay_tick(w, now_ms);
}

static void read_journal(struct gorge_watch *w, uint64_t now_ms) {
  if (!gorge_lease_connect(w)) {
    return;
  }
  memset(&w->journal, 0, sizeof w->journal);
  w->journal.verb = GORGE_L2_JOURNAL;
  w->journal.since = gorge_journal_cursor(w);
  w->asked_ms = now_ms;
  w->journal.message = on_entry;
  w->journal.done = on_journal;
  w->journal.ctx = w;
  if (gorge_l2_send(w->l2, &w->journal, now_ms) == GORGE_OK) {
    w->sync = GORGE_SYNC_READING;
  }
  gorge_ev_l2_kick(w->l2_link);
}

void gorge_journal_subscribed(struct gorge_watch *w, uint64_t now_ms) {
  w->seen = 0;
  w->sync = GORGE_SYNC_DUE;
  read_journal(w, now_ms);
}

void gorge_journal_lost(struct gorge_watch *w) {
  if (w->sync == GORGE_SYNC_READING) {
    gorge_l2_cancel(&w->journal);
  }
  w->sync = GORGE_SYNC_NONE;
  gorge_watch_set_subscribed(w, false);
}

void gorge_journal_unreachable(struct gorge_watch *w, uint64_t now_ms) {
  gorge_contact_lost(w, now_ms);
  set_tried(w);
}

void gorge_journal_message(struct gorge_watch *w, const struct gorge_message *m) {
  if (m->type == GORGE_MESSAGE_FILLED) {
    return; /* not an invalidation: not in the journal */
  }
  if (w->sync == GORGE_SYNC_DONE) {
    if (m->version > gorge_journal_cursor(w)) {
      set_cursor(w, m->version);
    }
  } else if (m->version > w->seen) {
    w->seen = m->version;
  }
}

void gorge_journal_doubt(struct gorge_watch *w, uint64_t now_ms) {
  if (w->sync == GORGE_SYNC_DONE) {
    w->seen = 0;
    w->sync = GORGE_SYNC_DUE;
    read_journal(w, now_ms);
  }
}

void gorge_journal_tick(struct gorge_watch *w, uint64_t now_ms) {
  if (w->sync == GORGE_SYNC_DUE) {
    read_journal(w, now_ms);
  }
  gorge_replay_tick(w, now_ms);
}
