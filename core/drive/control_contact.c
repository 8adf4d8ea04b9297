/* SPDX-License-Identifier: MIT */
/*
 * Contact: how far this host may lag behind what Redis has committed, whatever was lost on the way.
 *
 * The holder of the subscriber role sends heartbeats: a script reads the version of the journal's last entry and publishes it on a
 * channel of this host alone. What comes back through the subscription proves that the subscription is alive, and, once the
 * cursor has reached that version, that everything committed before the heartbeat was sent has taken effect. A PING proves neither.
 *
 *   HELD   L1 and L0 answer until `sent + freshness_bound` of the last heartbeat that came back. When none comes, because the
 *          holder, the whole host or Redis stands still, they fall silent by themselves: readers compare the word with their clock
 *   LOST   Redis cannot be reached. What was stored before counts from the last confirmation, and may be served until
 *          disconnected_ttl after it; what is stored from now on lives no longer than disconnected_ttl
 *   AWAY   that time is over: a new epoch has forgotten what was stored before, and what was stored since ends by itself.
 *          So it is from the beginning where Redis has never been reached
 *
 * From LOST and AWAY back to HELD by way of the journal, which tells what was missed. All of it stands in shared memory, so that the
 * next holder goes on where this one was killed. A holder that was stopped and lost the role learns that before it acts (hold).
 *
 * Contact is of the namespace, as L1 is: with several partitions each has heartbeats of its own, and the oldest of their confirmations
 * counts. HELD needs all of them; a holder that is new, or subscribes anew, has none. One that cannot be asked (a heartbeat or its journal
 * fails) loses the contact, and its journal brings it back.
 */
#include <string.h>

#include "base/broken.h"
#include "base/clock.h"
#include "base/hash.h"
#include "drive/control_internal.h"
#include "proto/bytes.h"
#include "sync/role.h"

enum { BEATS = 4, BEAT_MIN_MS = 20, BEAT_MAX_MS = 1000 };

static struct gorge_journal_words *journal_of(const struct gorge_watch *w) {
  return gorge_zone_journal(w->control->zone, w->n.ns);
}

static struct gorge_words *words_of(const struct gorge_watch *w) { return gorge_zone_words(w->control->zone, w->n.ns); }

/* Until when L1 answers. */
static void set_fresh(const struct gorge_watch *w, uint64_t until_ms) {
  /* release: after the effects of what was heard, and after life_max_ms; partner: the acquire in l1's reads */
  __atomic_store_n(&words_of(w)->fresh_until_ms, GORGE_CHECKS(FRESH) ? until_ms : GORGE_FRESH_ALWAYS, __ATOMIC_RELEASE);
}

/* How long what is stored from now on may live in L1; 0: no bound. */
static void set_life(const struct gorge_watch *w, uint64_t max_ms) {
  /* relaxed: a fill that read the word before the loss has a snapshot of the epoch that AWAY ends */
  __atomic_store_n(&words_of(w)->life_max_ms, max_ms, __ATOMIC_RELAXED);
}

static enum gorge_contact contact_of(const struct gorge_watch *w) {
  /* acquire: partner of set_contact of an earlier holder */
  return (enum gorge_contact)__atomic_load_n(&journal_of(w)->contact, __ATOMIC_ACQUIRE);
}

static void set_contact(const struct gorge_watch *w, enum gorge_contact contact) {
  /* release: after what belongs to it; partner: contact_of. Killed in between, the next holder does it again. */
  __atomic_store_n(&journal_of(w)->contact, (uint64_t)contact, __ATOMIC_RELEASE);
}

/* relaxed, here and below: one holder writes it; others show it, or ask how long ago it was */
static uint64_t confirmed_ms(const struct gorge_watch *w) {
  return __atomic_load_n(&journal_of(w)->synced_ms, __ATOMIC_RELAXED);
}

uint64_t gorge_control_lag(const struct gorge_zone *zone, uint32_t ns, uint64_t now_ms, bool *held) {
  const struct gorge_journal_words *j = gorge_zone_journal(zone, ns);
  uint64_t at_ms = __atomic_load_n(&j->synced_ms, __ATOMIC_RELAXED); /* for people */
  *held = __atomic_load_n(&j->contact, __ATOMIC_RELAXED) == GORGE_CONTACT_HELD;
  return at_ms == 0 ? UINT64_MAX : now_ms > at_ms ? now_ms - at_ms : 0;
}

/* Whether the role is still this thread's. */
static bool hold(struct gorge_watch *w, uint64_t now_ms) {
  struct gorge_control *c = w->control;
  return gorge_role_hold(c->zone, gorge_zone_subscriber_role(c->zone, w->n.ns), c->owner.id, now_ms,
                         GORGE_ROLE_LEASE_MS);
}

/* The oldest confirmation of a partition; 0: one has none. */
static uint64_t oldest_ms(const struct gorge_watch *w) {
  uint64_t oldest = UINT64_MAX;
  for (uint32_t i = 0; i < w->n.partitions; i++) {
    oldest = w->parts[i].confirmed_ms < oldest ? w->parts[i].confirmed_ms : oldest;
  }
  return oldest;
}

void gorge_contact_missed(struct gorge_watch *w, struct gorge_follow *f, uint64_t now_ms) {
  bool first = w->loss_ms == 0 || (f != NULL && f->loss == w->loss);
  if (first) {
    w->loss++;
    w->loss_ms = now_ms;
  }
  if (f != NULL) {
    f->loss = w->loss;
  }
  w->n.resync(w->n.ctx, &w->control->owner, first, now_ms);
}

void gorge_contact_confirm(struct gorge_follow *f, uint64_t at_ms) {
  struct gorge_watch *w = f->watch;
  f->confirmed_ms = at_ms > f->confirmed_ms ? at_ms : f->confirmed_ms; /* less: an echo that was overtaken */
  at_ms = oldest_ms(w);
  w->loss_ms = at_ms > w->loss_ms ? 0 : w->loss_ms;
  if (at_ms == 0 || (at_ms < confirmed_ms(w) && contact_of(w) == GORGE_CONTACT_HELD)) {
    return;
  }
  /* relaxed: see confirmed_ms */
  __atomic_store_n(&journal_of(w)->synced_ms, at_ms, __ATOMIC_RELAXED);
  set_contact(w, GORGE_CONTACT_HELD); /* first: LOST always stands with a bound on lives */
  set_life(w, 0);
  set_fresh(w, at_ms + w->n.freshness_bound_ms);
}

void gorge_contact_echo(struct gorge_watch *w, const struct gorge_message *m, uint64_t now_ms) {
  struct gorge_follow *f = &w->parts[m->partition];
  if (m->len != sizeof f->beat_text) {
    return;
  }
  uint64_t sent_ms = gorge_bytes_get64(m->ptr);
  if (sent_ms > now_ms) {
    return;
  }
  f->heard_ms = sent_ms > f->heard_ms ? sent_ms : f->heard_ms;
  f->unheard_ms = f->unheard_ms > sent_ms ? f->unheard_ms : 0;
  if (f->sync != GORGE_SYNC_DONE || sent_ms < f->asked_ms) {
    return; /* the journal is being read, or was since */
  }
  if (m->version != gorge_journal_cursor(f)) {
    /* Behind: a message was lost. Ahead: the journal lost its memory, or is another one. */
    gorge_journal_doubt(f, now_ms);
  } else {
    gorge_contact_confirm(f, sent_ms);
  }
}

bool gorge_contact_deaf(const struct gorge_watch *w) {
  for (uint32_t i = 0; i < w->n.partitions && w->n.partitions > 1; i++) {
    const struct gorge_follow *f = &w->parts[i];
    /* By heartbeats, not by the clock: a thread that stood still finds what was sent to it meanwhile before the next one is taken. */
    if (f->unheard_ms != 0 && f->taken_ms > f->unheard_ms + w->n.freshness_bound_ms) {
      return true;
    }
  }
  return false;
}

static void on_beat(struct gorge_l2_request *rq, const struct gorge_l2_result *r, uint64_t now_ms) {
  struct gorge_follow *f = rq->ctx;
  f->beating = false; /* what counts is the echo; without one L1 falls silent */
  if (r->status < 0) {
    gorge_journal_failed(f, now_ms);
    return;
  }
  f->taken_ms = f->beat_ms;
  bool meant = f->sync != GORGE_SYNC_NONE && f->beat_ms >= f->asked_ms; /* for the subscription of now */
  if (meant && f->heard_ms < f->beat_ms && f->unheard_ms == 0) {
    f->unheard_ms = f->beat_ms;
  }
}

static void beat(struct gorge_follow *f, uint64_t now_ms) {
  struct gorge_watch *w = f->watch;
  if (f->beating || f->sync != GORGE_SYNC_DONE || !gorge_lease_connect(w)) {
    return;
  }
  memset(&f->beat, 0, sizeof f->beat);
  gorge_bytes_put64(f->beat_text, now_ms);
  f->beat_ms = now_ms;
  f->beat.verb = GORGE_L2_HEARTBEAT;
  f->beat.partition = (uint32_t)(f - w->parts);
  f->beat.since = w->own;
  f->beat.value = f->beat_text;
  f->beat.value_len = sizeof f->beat_text;
  f->beat.done = on_beat;
  f->beat.ctx = f;
  int status = gorge_l2_send(w->l2, &f->beat, now_ms);
  f->beating = status == GORGE_OK;
  if (!f->beating && status != GORGE_ERR_FULL) {
    gorge_journal_failed(f, now_ms);
  }
}

static void beat_all(struct gorge_watch *w, uint64_t now_ms) {
  for (uint32_t i = 0; i < w->n.partitions; i++) {
    beat(&w->parts[i], now_ms);
  }
  if (w->l2_link != NULL) {
    gorge_ev_l2_kick(w->l2_link);
  }
}

static uint64_t bound_of(uint64_t disconnected_ttl_ms) { return disconnected_ttl_ms > 0 ? disconnected_ttl_ms : 1; }

/* What is stored without contact ends in time by itself. */
static void bound_life(const struct gorge_watch *w) { set_life(w, bound_of(w->n.disconnected_ttl_ms)); }

void gorge_control_bound(const struct gorge_zone *zone, uint32_t ns, uint64_t disconnected_ttl_ms) {
  /* relaxed, both: a holder that gains contact meanwhile takes the bound away again with each confirmation */
  if (__atomic_load_n(&gorge_zone_journal(zone, ns)->contact, __ATOMIC_RELAXED) == GORGE_CONTACT_NONE) {
    __atomic_store_n(&gorge_zone_words(zone, ns)->life_max_ms, bound_of(disconnected_ttl_ms), __ATOMIC_RELAXED);
  }
}

static void be_away(const struct gorge_watch *w) {
  set_contact(w, GORGE_CONTACT_AWAY);
  set_fresh(w, w->n.disconnected_ttl_ms > 0 ? GORGE_FRESH_ALWAYS : 0);
}

/* From LOST to AWAY before what was stored before the loss becomes too old: L1 stays open, and keeps what is stored from then on. */
static void age(struct gorge_watch *w, uint64_t now_ms) {
  uint64_t until_ms = confirmed_ms(w) + w->n.disconnected_ttl_ms, next_ms = now_ms + w->beat_ms;
  if (contact_of(w) != GORGE_CONTACT_LOST || next_ms < until_ms || !hold(w, now_ms)) {
    return;
  }
  gorge_contact_missed(w, NULL, now_ms);
  be_away(w);
}

void gorge_contact_lost(struct gorge_watch *w, uint64_t now_ms) {
  if (contact_of(w) >= GORGE_CONTACT_LOST || !hold(w, now_ms)) {
    return;
  }
  bound_life(w);
  if (confirmed_ms(w) == 0) {
    be_away(w);
    return;
  }
  set_contact(w, GORGE_CONTACT_LOST);
  set_fresh(w, confirmed_ms(w) + w->n.disconnected_ttl_ms);
  age(w, now_ms);
}

static void on_timer(struct ev_loop *loop, ev_timer *t, int events) {
  (void)loop, (void)events;
  struct gorge_watch *w = t->data;
  uint64_t now_ms = gorge_clock_ms();
  beat_all(w, now_ms);
  age(w, now_ms);
}

void gorge_contact_init(struct gorge_watch *w) {
  for (uint32_t i = 0; i < w->n.partitions; i++) {
    w->parts[i].watch = w;
  }
  ev_init(&w->beat_timer, on_timer);
  w->beat_timer.data = w;
}

void gorge_contact_begin(struct gorge_watch *w) {
  uint64_t beat_ms = w->n.freshness_bound_ms / BEATS;
  w->beat_ms = beat_ms < BEAT_MIN_MS ? BEAT_MIN_MS : beat_ms > BEAT_MAX_MS ? BEAT_MAX_MS : beat_ms;
  if (gorge_random(&w->own, sizeof w->own) != GORGE_OK) {
    w->own = gorge_clock_us() ^ (uint64_t)w->control->owner.id << 32; /* others may hear it too then, and ignore it */
  }
  w->own |= 1; /* 0 means none */
  if (contact_of(w) == GORGE_CONTACT_NONE) {
    bound_life(w);
  }
  w->beat_timer.repeat = (double)w->beat_ms / 1000;
  ev_timer_again(w->control->loop, &w->beat_timer);
}

void gorge_contact_end(struct gorge_watch *w) {
  ev_timer_stop(w->control->loop, &w->beat_timer);
  for (uint32_t i = 0; i < w->n.partitions; i++) {
    struct gorge_follow *f = &w->parts[i];
    if (f->beating) {
      gorge_l2_cancel(&f->beat);
      f->beating = false;
    }
  }
}
