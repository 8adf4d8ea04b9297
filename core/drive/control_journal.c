/* SPDX-License-Identifier: MIT */
/*
 * Pub/sub forgets what was published while nobody listened. So a subscription that has been confirmed reads the
 * journal of each partition from where this host left off (gorge_zone_cursors) before it counts as caught up:
 *
 *   the entry of the cursor is still there   what came after it takes effect, the cursor moves on
 *   it is gone (trimmed, another journal)    anything may have been missed: the resync hook forgets this host's L1
 *
 * Messages that arrive meanwhile take effect at once, and are counted in `seen`: effects may be repeated, never
 * skipped. The cursor is stored after the effects, so that a thread killed in between repeats them.
 *
 * With one partition messages come from the server that runs the scripts, over one connection: none is lost between two that were heard.
 * With several they come by the bus of a cluster. So each says which one it came after, and the cursor only moves from one to the next;
 * a message that did not come after the cursor moves nothing, and the journal is read. Within a partition order and continuity are
 * what they are with one. Between partitions there is none to keep: a key has one, and a tag tells from its home alone.
 */
#include <string.h>

#include "base/broken.h"
#include "base/clock.h"
#include "drive/control_internal.h"

static uint64_t *cursor_of(const struct gorge_follow *f) {
  const struct gorge_watch *w = f->watch;
  return &gorge_zone_cursors(w->control->zone, w->n.ns, w->n.partitions)[f - w->parts];
}

uint64_t gorge_journal_cursor(const struct gorge_follow *f) {
  return __atomic_load_n(cursor_of(f), __ATOMIC_ACQUIRE); /* partner: set_cursor of an earlier holder */
}

static void set_cursor(const struct gorge_follow *f, uint64_t version) {
  __atomic_store_n(cursor_of(f), version, __ATOMIC_RELEASE); /* after the effects; partner: gorge_journal_cursor */
}

static void set_tried(const struct gorge_watch *w) {
  /* release: after the first resync; partner: engine/fetch.c */
  __atomic_store_n(&gorge_zone_journal(w->control->zone, w->n.ns)->tried, 1, __ATOMIC_RELEASE);
}

bool gorge_journal_synced(const struct gorge_watch *w) {
  for (uint32_t i = 0; i < w->n.partitions; i++) {
    if (w->parts[i].sync != GORGE_SYNC_DONE) {
      return false;
    }
  }
  return true;
}

static void read_journal(struct gorge_follow *f, uint64_t now_ms);

static void on_entry(struct gorge_l2_request *rq, const struct gorge_message *m, uint64_t now_ms) {
  struct gorge_follow *f = rq->ctx;
  struct gorge_watch *w = f->watch;
  if (GORGE_CHECKS(JOURNAL) && m->partition == rq->partition &&
      !gorge_watch_stopping(w)) { /* else the cursor stays where it is, and whoever comes next repeats all */
    w->n.message(w->n.ctx, &w->control->owner, m, now_ms);
  }
}

void gorge_journal_failed(struct gorge_follow *f, uint64_t now_ms) {
  struct gorge_watch *w = f->watch;
  if (w->n.partitions == 1) {
    return; /* the subscription leads to the same server: it tells */
  }
  f->confirmed_ms = 0;
  if (f->sync == GORGE_SYNC_DONE) {
    f->seen = f->seen_after = 0;
    f->sync = GORGE_SYNC_DUE;
  }
  gorge_watch_set_subscribed(w, false);
  gorge_contact_lost(w, now_ms);
  set_tried(w);
}

/* The journal has been read up to `version`. Returns false when something is missing between that and what was heard meanwhile. */
static bool catch_up(struct gorge_follow *f, uint64_t version) {
  bool several = f->watch->n.partitions > 1;
  bool whole = f->seen <= version || (f->seen_after <= version && (f->seen_after > 0 || !several));
  set_cursor(f, whole && f->seen > version ? f->seen : version);
  f->seen = f->seen_after = 0;
  return whole;
}

static void on_journal(struct gorge_l2_request *rq, const struct gorge_l2_result *r, uint64_t now_ms) {
  struct gorge_follow *f = rq->ctx;
  struct gorge_watch *w = f->watch;
  if (r->status < 0 || gorge_watch_stopping(w)) {
    f->sync = GORGE_SYNC_DUE; /* the next tick asks again */
    if (r->status < 0) {
      gorge_journal_failed(f, now_ms);
    }
    return;
  }
  if (GORGE_CHECKS(JOURNAL) && r->status == GORGE_MISS) {
    gorge_contact_missed(w, f, now_ms);
  }
  if (!catch_up(f, r->version)) {
    f->sync = GORGE_SYNC_DUE;
    read_journal(f, now_ms);
    return;
  }
  f->sync = GORGE_SYNC_DONE;
  gorge_contact_confirm(f, f->asked_ms);
  if (gorge_journal_synced(w)) {
    set_tried(w);
    gorge_watch_set_subscribed(w, true); /* last: who sees it may rely on what was done */
    gorge_replay_tick(w, now_ms);
  } else {
    gorge_replay_partition(f, now_ms);
  }
}

static void read_journal(struct gorge_follow *f, uint64_t now_ms) {
  struct gorge_watch *w = f->watch;
  if (!gorge_lease_connect(w)) {
    return;
  }
  memset(&f->journal, 0, sizeof f->journal);
  f->journal.verb = GORGE_L2_JOURNAL;
  f->journal.partition = (uint32_t)(f - w->parts);
  f->journal.since = gorge_journal_cursor(f);
  f->asked_ms = now_ms;
  f->journal.message = on_entry;
  f->journal.done = on_journal;
  f->journal.ctx = f;
  int status = gorge_l2_send(w->l2, &f->journal, now_ms);
  if (status == GORGE_OK) {
    f->sync = GORGE_SYNC_READING;
  } else if (status != GORGE_ERR_FULL) { /* else it is not Redis's fault, and a later tick finds room */
    gorge_journal_failed(f, now_ms);
  }
}

static void read_due(struct gorge_watch *w, uint64_t now_ms) {
  for (uint32_t i = 0; i < w->n.partitions; i++) {
    if (w->parts[i].sync == GORGE_SYNC_DUE) {
      read_journal(&w->parts[i], now_ms);
    }
  }
  if (w->l2_link != NULL) {
    gorge_ev_l2_kick(w->l2_link);
  }
}

void gorge_journal_subscribed(struct gorge_watch *w, uint64_t now_ms) {
  for (uint32_t i = 0; i < w->n.partitions; i++) {
    w->parts[i].seen = w->parts[i].seen_after = 0;
    w->parts[i].sync = GORGE_SYNC_DUE;
  }
  read_due(w, now_ms);
}

void gorge_journal_lost(struct gorge_watch *w) {
  for (uint32_t i = 0; i < w->n.partitions; i++) {
    struct gorge_follow *f = &w->parts[i];
    if (f->sync == GORGE_SYNC_READING) {
      gorge_l2_cancel(&f->journal);
    }
    f->sync = GORGE_SYNC_NONE;
    f->confirmed_ms = f->unheard_ms = 0;
  }
  gorge_watch_set_subscribed(w, false);
}

void gorge_journal_unreachable(struct gorge_watch *w, uint64_t now_ms) {
  gorge_contact_lost(w, now_ms);
  set_tried(w);
}

void gorge_journal_message(struct gorge_watch *w, const struct gorge_message *m, uint64_t now_ms) {
  struct gorge_follow *f = &w->parts[m->partition];
  if (m->type == GORGE_MESSAGE_FILLED) {
    return; /* not an invalidation: not in the journal */
  }
  if (f->sync == GORGE_SYNC_DONE) {
    uint64_t cursor = gorge_journal_cursor(f);
    if (m->version > cursor && w->n.partitions > 1 && m->previous != cursor) {
      gorge_journal_doubt(f, now_ms);
    } else if (m->version > cursor) {
      set_cursor(f, m->version);
    }
  } else if (m->version > f->seen) {
    if (f->seen == 0 || m->previous != f->seen) {
      f->seen_after = m->previous; /* with one partition 0: nothing is missing */
    }
    f->seen = m->version;
  }
}

void gorge_journal_doubt(struct gorge_follow *f, uint64_t now_ms) {
  if (f->sync == GORGE_SYNC_DONE) {
    f->seen = f->seen_after = 0;
    f->sync = GORGE_SYNC_DUE;
    read_journal(f, now_ms);
    if (f->watch->l2_link != NULL) {
      gorge_ev_l2_kick(f->watch->l2_link);
    }
  }
}

void gorge_journal_tick(struct gorge_watch *w, uint64_t now_ms) {
  read_due(w, now_ms);
  gorge_replay_tick(w, now_ms);
}
