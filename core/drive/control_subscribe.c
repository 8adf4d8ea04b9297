/* SPDX-License-Identifier: MIT */
/*
 * Watches: the election of each namespace's subscriber, and the subscriber while this thread holds the role.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "drive/control_internal.h"
#include "sync/role.h"

enum { ELECTION_MS = 500 };

/*
 * Any thread: the watch of a handle and its state, in one step, or NULL. One that has ended is not found: the main thread may free it as soon
 * as it has the mutex. Any other is good for the control thread, which alone makes it end, and for the main thread, which alone frees it.
 */
static struct gorge_watch *find(struct gorge_control *c, int handle, enum gorge_watch_state *state) {
  struct gorge_watch *w = NULL;
  *state = GORGE_WATCH_ENDED;
  if (handle >= 0 && handle < GORGE_WATCHES) {
    pthread_mutex_lock(&c->mutex);
    w = c->watches[handle];
    *state = w != NULL ? w->state : GORGE_WATCH_ENDED;
    pthread_mutex_unlock(&c->mutex);
  }
  return *state != GORGE_WATCH_ENDED ? w : NULL;
}

/* Handles to look at. relaxed: a watch that is being added meanwhile pokes when it is there. */
static int watch_limit(const struct gorge_control *c) { return __atomic_load_n(&c->watch_limit, __ATOMIC_RELAXED); }

/* A watch that is to end while it is being started stays ENDING. */
static void watch_advance(struct gorge_watch *w, enum gorge_watch_state from, enum gorge_watch_state to) {
  struct gorge_control *c = w->control;
  pthread_mutex_lock(&c->mutex);
  if (w->state == from) {
    w->state = to;
    pthread_cond_broadcast(&c->changed);
  }
  pthread_mutex_unlock(&c->mutex);
}

bool gorge_watch_stopping(const struct gorge_watch *w) {
  return __atomic_load_n(&w->control->stopping, __ATOMIC_RELAXED); /* a hint: saves hooks that would delay the end */
}

void gorge_watch_set_subscribed(struct gorge_watch *w, bool subscribed) {
  __atomic_store_n(&w->subscribed, subscribed, __ATOMIC_RELEASE); /* partner: gorge_control_subscribed */
}

static void on_ready(void *ctx, uint64_t now_ms) { gorge_journal_subscribed(ctx, now_ms); }

static void on_lost(void *ctx, uint64_t now_ms) {
  (void)now_ms;
  gorge_journal_lost(ctx);
}

static void on_message(void *ctx, const struct gorge_message *m, uint64_t now_ms) {
  struct gorge_watch *w = ctx;
  if (m->partition >= w->n.partitions) {
    return; /* of a cache with as many of them as this one has not: its keys are others */
  }
  if (m->type == GORGE_MESSAGE_HEARTBEAT) {
    gorge_contact_echo(w, m, now_ms);
  } else if (!gorge_watch_stopping(w)) {
    w->n.message(w->n.ctx, &w->control->owner, m, now_ms);
    gorge_journal_message(w, m, now_ms);
  }
}

/* Pings, and waits until the next one is due. */
static void subscriber_tick(struct gorge_watch *w) {
  struct gorge_control *c = w->control;
  uint64_t now_ms = gorge_clock_ms();
  if (gorge_contact_deaf(w)) {
    gorge_conn_fail(gorge_subscriber_conn(w->subscriber), "the node does not hear what others publish");
  }
  uint64_t next_ms = gorge_subscriber_tick(w->subscriber, now_ms);
  gorge_place_look(w);
  gorge_ev_link_kick(w->subscriber_link);
  const struct gorge_conn *conn = gorge_subscriber_conn(w->subscriber);
  if (gorge_conn_state(conn) == GORGE_CONN_DOWN && gorge_conn_reason(conn)[0] != '\0') {
    gorge_journal_unreachable(w, now_ms);
  }
  if (next_ms == UINT64_MAX) {
    ev_timer_stop(c->loop, &w->subscriber_timer);
    return;
  }
  uint64_t delay_ms = next_ms > now_ms ? next_ms - now_ms : 1;
  w->subscriber_timer.repeat = (double)delay_ms / 1000;
  ev_timer_again(c->loop, &w->subscriber_timer);
}

static void on_subscriber_timer(struct ev_loop *loop, ev_timer *t, int events) {
  (void)loop, (void)events;
  subscriber_tick(t->data);
}

/* The link has moved bytes: when the next ping is due may have changed. */
static void after_bytes(void *ctx) { subscriber_tick(ctx); }

static void unsubscribe(struct gorge_watch *w) {
  ev_timer_stop(w->control->loop, &w->subscriber_timer);
  gorge_ev_link_destroy(w->subscriber_link);
  gorge_place_end(w);
  if (w->subscriber != NULL) {
    gorge_subscriber_destroy(w->subscriber);
  }
  w->subscriber_link = NULL;
  w->subscriber = NULL;
  gorge_lookout_end(w);
  gorge_contact_end(w);
  gorge_journal_lost(w);
}

/* Returns false when memory is short. */
static bool subscribe(struct gorge_watch *w) {
  struct gorge_subscriber_hooks hooks = {.ctx = w, .ready = on_ready, .lost = on_lost, .message = on_message};
  struct gorge_conn_config config = w->n.redis;
  gorge_contact_begin(w);
  hooks.own = w->own;
  config.seed ^= w->control->owner.id; /* hosts and workers must not come back in step */
  w->subscriber = gorge_subscriber_create(w->n.name, w->n.name_len, &config, &hooks);
  struct gorge_endpoint *endpoint = w->subscriber != NULL ? gorge_place_first(w) : NULL;
  if (endpoint != NULL) {
    w->subscriber_link =
        gorge_ev_link_create(w->control->loop, gorge_subscriber_conn(w->subscriber), endpoint, after_bytes, w);
  }
  if (w->subscriber_link == NULL || !gorge_lookout_begin(w)) {
    unsubscribe(w);
    return false;
  }
  subscriber_tick(w);
  return true;
}

static struct gorge_role *watch_role(const struct gorge_watch *w) {
  return gorge_zone_subscriber_role(w->control->zone, w->n.ns);
}

/* Takes or renews the role, or notices that it went to somebody else while this process stood still. */
static void elect(struct gorge_watch *w) {
  struct gorge_control *c = w->control;
  bool held = gorge_role_hold(c->zone, watch_role(w), c->owner.id, gorge_clock_ms(), GORGE_ROLE_LEASE_MS);
  if (!held && w->subscriber != NULL) {
    unsubscribe(w);
  } else if (held && w->subscriber == NULL && !subscribe(w)) {
    gorge_role_drop(watch_role(w), c->owner.id); /* another worker may have the memory */
  } else if (held && gorge_contact_deaf(w)) {
    gorge_place_leave(w, "what is published does not come back");
  } else if (held) {
    gorge_journal_tick(w, gorge_clock_ms());
  }
}

struct gorge_watch *gorge_watch_live(struct gorge_control *c, int handle) {
  enum gorge_watch_state state;
  struct gorge_watch *w = handle < watch_limit(c) ? find(c, handle, &state) : NULL;
  return w != NULL && state == GORGE_WATCH_LIVE ? w : NULL;
}

static void on_election(struct ev_loop *loop, ev_timer *t, int events) {
  (void)loop, (void)events;
  struct gorge_control *c = t->data;
  for (int i = 0; i < watch_limit(c); i++) {
    struct gorge_watch *w = gorge_watch_live(c, i);
    if (w != NULL) {
      elect(w);
    }
  }
  gorge_control_mail(c);
}

void gorge_subscribe_woken(struct gorge_control *c) {
  for (int i = 0; i < watch_limit(c); i++) {
    struct gorge_watch *w = gorge_watch_live(c, i);
    if (w == NULL) {
      continue;
    }
    gorge_lookout_follow(w);
    if (w->subscriber == NULL && !gorge_role_taken(watch_role(w), gorge_clock_ms())) {
      elect(w);
    }
  }
}

/* Gives the role to who wants it, at once: the others take part in elections when they are woken. */
static void hand_over(struct gorge_watch *w) {
  struct gorge_control *c = w->control;
  struct gorge_worker_set all;
  memset(&all, 0xff, sizeof all);
  gorge_role_drop(watch_role(w), c->owner.id);
  gorge_wake_send(c->zone, &all, c->worker, c->wake_fd);
}

static void end(struct gorge_control *c, int handle, struct gorge_watch *w) {
  bool held = w->subscriber != NULL;
  gorge_control_mail_end(w);
  unsubscribe(w);
  if (held) {
    hand_over(w);
  }
  gorge_lease_unwatch(c, handle, w);
}

void gorge_subscribe_init(struct gorge_control *c) {
  ev_init(&c->election, on_election);
  c->election.repeat = (double)ELECTION_MS / 1000;
  c->election.data = c;
}

static void begin(struct gorge_control *c, struct gorge_watch *w) {
  watch_advance(w, GORGE_WATCH_NEW, GORGE_WATCH_LIVE);
  elect(w);
  if (!ev_is_active(&c->election)) {
    ev_timer_again(c->loop, &c->election);
  }
}

void gorge_subscribe_command(struct gorge_control *c) {
  bool any = false;
  for (int i = 0; i < watch_limit(c); i++) {
    enum gorge_watch_state state;
    struct gorge_watch *w = find(c, i, &state);
    if (state == GORGE_WATCH_NEW) {
      begin(c, w);
    } else if (state == GORGE_WATCH_ENDING) {
      end(c, i, w);
      watch_advance(w, GORGE_WATCH_ENDING, GORGE_WATCH_ENDED); /* from here on unwatch may free it */
    }
    any = any || state == GORGE_WATCH_NEW || state == GORGE_WATCH_LIVE;
  }
  if (!any) {
    ev_timer_stop(c->loop, &c->election);
  }
}

void gorge_subscribe_fini(struct gorge_control *c) {
  ev_timer_stop(c->loop, &c->election);
  for (int i = 0; i < watch_limit(c); i++) {
    enum gorge_watch_state state;
    struct gorge_watch *w = find(c, i, &state);
    if (w != NULL) {
      end(c, i, w);
      free(w);
      c->watches[i] = NULL;
    }
  }
}

/* Returns the handle, or GORGE_ERR_FULL. */
static int enlist(struct gorge_control *c, struct gorge_watch *w) {
  int handle = GORGE_ERR_FULL;
  pthread_mutex_lock(&c->mutex);
  for (int i = 0; i < GORGE_WATCHES && handle < 0; i++) {
    if (c->watches[i] == NULL) {
      c->watches[i] = w;
      handle = i;
      if (i >= c->watch_limit) {
        __atomic_store_n(&c->watch_limit, i + 1,
                         __ATOMIC_RELAXED); /* ordered by the mutex, and the poke that follows */
      }
    }
  }
  pthread_mutex_unlock(&c->mutex);
  return handle;
}

int gorge_control_watch(struct gorge_control *c, const struct gorge_control_namespace *n) {
  if (!gorge_control_mine(c)) {
    return GORGE_ERR_CLOSED;
  }
  struct gorge_watch *w = calloc(1, sizeof *w + n->partitions * sizeof w->parts[0]);
  if (w == NULL) {
    return GORGE_ERR_MEMORY;
  }
  w->control = c;
  w->n = *n;
  w->state = GORGE_WATCH_NEW;
  ev_init(&w->subscriber_timer, on_subscriber_timer);
  w->subscriber_timer.data = w;
  gorge_contact_init(w);
  int handle = enlist(c, w);
  if (handle < 0) {
    free(w);
  } else {
    gorge_control_poke(c);
  }
  return handle;
}

void gorge_control_unwatch(struct gorge_control *c, int handle) {
  enum gorge_watch_state state;
  struct gorge_watch *w = gorge_control_mine(c) ? find(c, handle, &state) : NULL;
  if (w == NULL) {
    return;
  }
  pthread_mutex_lock(&c->mutex);
  w->state = GORGE_WATCH_ENDING;
  pthread_mutex_unlock(&c->mutex);
  gorge_control_poke(c);
  pthread_mutex_lock(&c->mutex);
  while (w->state != GORGE_WATCH_ENDED) {
    pthread_cond_wait(&c->changed, &c->mutex);
  }
  c->watches[handle] = NULL;
  pthread_mutex_unlock(&c->mutex);
  free(w);
}

bool gorge_control_subscribed(struct gorge_control *c, int handle) {
  enum gorge_watch_state state;
  struct gorge_watch *w = gorge_control_mine(c) ? find(c, handle, &state) : NULL;
  return w != NULL && __atomic_load_n(&w->subscribed, __ATOMIC_ACQUIRE); /* partner: set_subscribed */
}
