/* SPDX-License-Identifier: MIT */
/*
 * The lookout: the holder of the subscriber role asks the sentinels who the master is, all of them, and writes the answer into the
 * zone (drive/master.h), from where the connections of every process of the host take it.
 *
 * The report of the highest rank counts (io/sentinel.h): a sentinel that was cut off cannot lead anybody back to a former master. Of equal
 * ranks the one that agrees with what is known, then the first one in the list. When none that answers has named the known rank for
 * OUTVOTED_MS, the sentinels were set up anew, and what they say now counts.
 *
 * A report is asked for every POLL_MS, more often while the master does not answer; at once when a sentinel says that it has switched, and
 * when some connection met a server that was no master. What is known stays while no sentinel answers.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "drive/control_internal.h"
#include "drive/master.h"
#include "io/sentinel.h"
#include "sync/role.h"

enum {
  LOOK_MS = 100,
  POLL_MS = 1000,
  POLL_AWAY_MS = 200,
  REPORT_LIVES_MS = 3000, /* older ones do not count */
  OUTVOTED_MS = 5000,
  REPLY_MAX = 64 << 10
};

struct seat {
  struct gorge_lookout *lookout;
  struct gorge_sentinel *sentinel;
  struct gorge_endpoint *endpoint;
  struct gorge_ev_link *asks, *hears;
  struct gorge_sentinel_report report;
  uint64_t at_ms; /* when the report came, 0: none */
};

struct gorge_lookout {
  struct gorge_watch *w;
  struct gorge_master_words *words;
  ev_timer timer;
  uint64_t doubts;       /* of the words, when they were last looked at */
  uint64_t confirmed_ms; /* when some sentinel last named the known rank, or a higher one */
  uint64_t rank;         /* of what `place` leads to; 0: nothing is chosen */
  struct gorge_endpoint *place;
  char host[GORGE_SENTINEL_HOST_MAX + 1]; /* of `place` */
  uint16_t port;
  uint32_t count;
  struct seat seats[GORGE_SENTINELS_MAX];
};

/* relaxed, all accesses to rank, trouble and doubts in here: words on their own; the holder of the role alone writes the first two */
static uint64_t load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }

static void store(uint64_t *word, uint64_t value) {
  if (load(word) != value) {
    __atomic_store_n(word, value, __ATOMIC_RELAXED); /* relaxed: see load */
  }
}

static void on_report(void *ctx, const struct gorge_sentinel_report *report, uint64_t now_ms) {
  struct seat *seat = ctx;
  seat->report = *report;
  seat->at_ms = now_ms;
}

static bool counts(const struct seat *seat, uint64_t now_ms) {
  return seat->at_ms != 0 && now_ms < seat->at_ms + REPORT_LIVES_MS;
}

static bool is_chosen(const struct gorge_lookout *l, const struct gorge_sentinel_report *r) {
  return l->place != NULL && l->port == r->port && strcmp(l->host, r->host) == 0;
}

/* The report that counts, or NULL: none has come lately. */
static const struct gorge_sentinel_report *best_of(const struct gorge_lookout *l, uint64_t now_ms) {
  const struct gorge_sentinel_report *best = NULL;
  for (uint32_t i = 0; i < l->count; i++) {
    const struct gorge_sentinel_report *r = &l->seats[i].report;
    if (counts(&l->seats[i], now_ms) &&
        (best == NULL || r->rank > best->rank || (r->rank == best->rank && is_chosen(l, r) && !is_chosen(l, best)))) {
      best = r;
    }
  }
  return best;
}

/* Returns whether the report is to be followed. */
static bool weigh(struct gorge_lookout *l, const struct gorge_sentinel_report *r, uint64_t now_ms) {
  uint64_t known = load(&l->words->rank);
  if (r->rank >= known) {
    l->confirmed_ms = now_ms;
    return true;
  }
  return now_ms >= l->confirmed_ms + OUTVOTED_MS;
}

static void choose(struct gorge_lookout *l, const struct gorge_sentinel_report *r) {
  if (!is_chosen(l, r)) {
    gorge_endpoint_destroy(l->place);
    l->place = gorge_endpoint_create(r->host, r->port, NULL); /* NULL: out of memory, the next look tries again */
    memcpy(l->host, r->host, sizeof l->host);
    l->port = r->port;
  }
  l->rank = r->rank;
}

/* What keeps us from knowing the master: of what the sentinels say, what is most likely to be mended here. */
static enum gorge_master_trouble trouble_of(const struct gorge_lookout *l) {
  bool any[GORGE_SENTINEL_SILENT + 1] = {false};
  for (uint32_t i = 0; i < l->count; i++) {
    any[gorge_sentinel_state(l->seats[i].sentinel)] = true;
  }
  return any[GORGE_SENTINEL_ASKING] || any[GORGE_SENTINEL_KNOWS] ? GORGE_MASTER_FINE
         : any[GORGE_SENTINEL_UNKNOWN]                           ? GORGE_MASTER_UNKNOWN
         : any[GORGE_SENTINEL_REFUSES]                           ? GORGE_MASTER_REFUSED
         : any[GORGE_SENTINEL_UNTRUSTED]                         ? GORGE_MASTER_UNTRUSTED
                                                                 : GORGE_MASTER_SILENT;
}

static bool same_address(const struct gorge_address *a, const struct gorge_address *b) {
  return a->len == b->len && memcmp(&a->sa, &b->sa, a->len) == 0;
}

static void count_switch(const struct gorge_watch *w) {
  const struct gorge_owner *owner = &w->control->owner;
  /* relaxed: a counter on its own, which the worker's main thread may write as well */
  __atomic_fetch_add(&gorge_zone_counters(w->control->zone, w->n.ns, owner->worker)[GORGE_COUNT_MASTER_SWITCHES], 1,
                     __ATOMIC_RELAXED);
}

/* Every worker of the host leaves the old one. */
static void tell_all(struct gorge_watch *w) {
  struct gorge_control *c = w->control;
  struct gorge_worker_set all;
  memset(&all, 0xff, sizeof all);
  gorge_wake_send(c->zone, &all, c->worker, c->wake_fd);
  gorge_doorbell_ring(c);
  gorge_lookout_follow(w);
}

/* Writes where the chosen one is, once that is resolved. */
static void publish(struct gorge_lookout *l, uint64_t now_ms) {
  struct gorge_watch *w = l->w;
  struct gorge_control *c = w->control;
  struct gorge_address now, known;
  int status = l->place != NULL ? gorge_endpoint_address(l->place, now_ms, &now, NULL) : GORGE_PENDING;
  if (status == GORGE_ERR_SYSTEM) {
    store(&l->words->trouble, GORGE_MASTER_UNRESOLVED);
  }
  if (status != GORGE_OK) {
    return;
  }
  bool had = gorge_master_read(l->words, &known);
  bool same = had && same_address(&now, &known);
  if ((same && load(&l->words->rank) == l->rank) ||
      !gorge_role_hold(c->zone, gorge_zone_subscriber_role(c->zone, w->n.ns), c->owner.id, now_ms,
                       GORGE_ROLE_LEASE_MS)) {
    return; /* nothing new, or another one has the role: this process stood still */
  }
  store(&l->words->trouble, GORGE_MASTER_FINE);
  store(&l->words->rank, l->rank);
  if (same) {
    return;
  }
  gorge_master_write(l->words, &now);
  if (had) {
    count_switch(w);
  }
  tell_all(w);
}

/* After each byte of a sentinel's, and now and then. */
static void look(struct gorge_lookout *l) {
  uint64_t now_ms = gorge_clock_ms();
  uint64_t doubts = load(&l->words->doubts);
  bool away = gorge_conn_state(gorge_subscriber_conn(l->w->subscriber)) != GORGE_CONN_READY;
  for (uint32_t i = 0; i < l->count; i++) {
    struct seat *seat = &l->seats[i];
    if (doubts != l->doubts) {
      gorge_sentinel_ask(seat->sentinel, now_ms);
    }
    gorge_sentinel_tick(seat->sentinel, away ? POLL_AWAY_MS : POLL_MS, now_ms);
    gorge_ev_link_kick(seat->asks);
    gorge_ev_link_kick(seat->hears);
  }
  l->doubts = doubts;
  const struct gorge_sentinel_report *best = best_of(l, now_ms);
  if (best != NULL && weigh(l, best, now_ms)) {
    choose(l, best);
  } else if (best == NULL) {
    store(&l->words->trouble, trouble_of(l));
  }
  publish(l, now_ms);
}

static void on_timer(struct ev_loop *loop, ev_timer *t, int events) {
  (void)loop, (void)events;
  look(t->data);
}

static void after_bytes(void *ctx) {
  const struct seat *seat = ctx;
  look(seat->lookout);
}

/* Links that are down are kicked as well: the delay between two attempts was for the old master. */
void gorge_lookout_follow(struct gorge_watch *w) {
  if (w->n.sentinels == NULL) {
    return;
  }
  if (w->l2_link != NULL && gorge_conn_moved(gorge_l2_conn(w->l2))) {
    gorge_ev_l2_look(w->l2_link);
  }
  if (w->subscriber_link != NULL && gorge_conn_moved(gorge_subscriber_conn(w->subscriber))) {
    gorge_ev_link_look(w->subscriber_link);
  }
}

static bool take_seat(struct gorge_lookout *l, struct seat *seat, uint32_t i) {
  const struct gorge_sentinels *all = l->w->n.sentinels;
  struct gorge_control *c = l->w->control;
  struct gorge_sentinel_hooks hooks = {.ctx = seat, .report = on_report};
  struct gorge_conn_config config = all->conn;
  config.seed ^= c->owner.id + ((uint64_t)i << 32);
  config.max_reply_bytes = REPLY_MAX;
  config.host = all->list[i].host;
  seat->lookout = l;
  seat->sentinel = gorge_sentinel_create(all->master, &config, &hooks);
  seat->endpoint = gorge_endpoint_create(all->list[i].host, all->list[i].port, NULL);
  if (seat->sentinel == NULL || seat->endpoint == NULL) {
    return false;
  }
  seat->asks = gorge_ev_link_create(c->loop, gorge_sentinel_asks(seat->sentinel), seat->endpoint, after_bytes, seat);
  seat->hears = gorge_ev_link_create(c->loop, gorge_sentinel_hears(seat->sentinel), seat->endpoint, after_bytes, seat);
  return seat->asks != NULL && seat->hears != NULL;
}

bool gorge_lookout_begin(struct gorge_watch *w) {
  if (w->n.sentinels == NULL) {
    return true;
  }
  struct gorge_lookout *l = calloc(1, sizeof *l);
  if (l == NULL) {
    return false;
  }
  w->lookout = l;
  l->w = w;
  l->words = gorge_zone_master(w->control->zone, w->n.ns);
  l->doubts = load(&l->words->doubts);
  l->confirmed_ms = gorge_clock_ms();
  ev_timer_init(&l->timer, on_timer, 0., (double)LOOK_MS / 1000);
  l->timer.data = l;
  for (uint32_t i = 0; i < w->n.sentinels->count; i++) {
    l->count = i + 1;
    if (!take_seat(l, &l->seats[i], i)) {
      return false; /* the caller ends it */
    }
  }
  ev_timer_start(w->control->loop, &l->timer);
  return true;
}

void gorge_lookout_end(struct gorge_watch *w) {
  struct gorge_lookout *l = w->lookout;
  if (l == NULL) {
    return;
  }
  w->lookout = NULL;
  ev_timer_stop(w->control->loop, &l->timer);
  for (uint32_t i = 0; i < l->count; i++) {
    gorge_ev_link_destroy(l->seats[i].asks);
    gorge_ev_link_destroy(l->seats[i].hears);
    gorge_sentinel_destroy(l->seats[i].sentinel);
    gorge_endpoint_destroy(l->seats[i].endpoint);
  }
  gorge_endpoint_destroy(l->place);
  free(l);
}
