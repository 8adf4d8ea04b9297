/* SPDX-License-Identifier: MIT */
/*
 * The lease list: fills of this process that go on while its main thread may be busy. The main thread adds and removes,
 * the control thread renews. A lease is freed by whoever lets go of it last: the list, a look at it, a RENEW in flight.
 */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "drive/control_internal.h"

enum {
  INTERVAL_MIN_MS = 5,
  PENDING_MIN = 8 * GORGE_PARTITIONS, /* each partition has its journal and its heartbeats, besides the leases */
  SLOTS_MIN = 32,
  LOOK_AT_ONCE = 64 /* slots; bounds how long the mutex is held */
};

struct gorge_lease {
  uint64_t id;
  int handle;
  struct gorge_flight_ref flight;
  uint64_t lease_ms;
  /* mutex: */
  uint32_t refs;
  uint64_t next_ms;
  /* thread: */
  struct gorge_control *control;
  uint64_t l2_token; /* 0: nothing to renew in Redis, or not any more */
  bool renewing;     /* `rq` is in flight */
  struct gorge_l2_request rq;
  char key[];
};

static uint64_t interval_ms(const struct gorge_lease *lease) {
  uint64_t third = lease->lease_ms / 3;
  return third > INTERVAL_MIN_MS ? third : INTERVAL_MIN_MS;
}

/* Mutex held. The lease of an id, or NULL. */
static struct gorge_lease *find(const struct gorge_leases *list, uint64_t id) {
  uint32_t index = (uint32_t)id - 1; /* id 0: beyond every size */
  if (index >= list->size || list->slots[index].generation != id >> 32) {
    return NULL;
  }
  return list->slots[index].lease;
}

/* Mutex held. Makes room; returns false when memory is short. */
static bool grow(struct gorge_leases *list) {
  uint32_t size = list->size > 0 ? list->size * 2 : SLOTS_MIN;
  if (size <= list->size) {
    return false;
  }
  struct gorge_lease_slot *slots = realloc(list->slots, size * sizeof *slots);
  if (slots == NULL) {
    return false;
  }
  for (uint32_t i = list->size; i < size; i++) {
    slots[i] = (struct gorge_lease_slot){.generation = 1, .next_free = i + 1};
  }
  list->slots = slots;
  list->size = size; /* `free` was the old size: the first of the new ones */
  return true;
}

/* Drops one hold on the lease. */
static void lease_unref(struct gorge_control *c, struct gorge_lease *lease) {
  pthread_mutex_lock(&c->mutex);
  bool last = --lease->refs == 0;
  pthread_mutex_unlock(&c->mutex);
  if (last) {
    free(lease);
  }
}

uint64_t gorge_control_lease_add(struct gorge_control *c, int handle, const struct gorge_flight_ref *flight,
                                 const char *key, uint32_t key_len, uint64_t l2_token, uint64_t lease_ms) {
  struct gorge_lease *lease = gorge_control_mine(c) ? malloc(sizeof *lease + key_len) : NULL;
  if (lease == NULL) {
    return 0;
  }
  memset(lease, 0, sizeof *lease);
  lease->control = c;
  lease->handle = handle;
  lease->flight = *flight;
  lease->lease_ms = lease_ms;
  lease->l2_token = l2_token;
  lease->refs = 1;
  memcpy(lease->key, key, key_len);
  lease->rq.key = lease->key;
  lease->rq.key_len = key_len;
  lease->next_ms = gorge_clock_ms() + interval_ms(lease);

  struct gorge_leases *list = &c->leases;
  bool early = false;
  pthread_mutex_lock(&c->mutex);
  if (list->free < list->size || grow(list)) {
    struct gorge_lease_slot *slot = &list->slots[list->free];
    lease->id = (uint64_t)slot->generation << 32 | (list->free + 1);
    slot->lease = lease;
    list->free = slot->next_free;
    early = lease->next_ms < list->armed_ms;
    list->armed_ms = early ? lease->next_ms : list->armed_ms;
  }
  uint64_t id = lease->id;
  pthread_mutex_unlock(&c->mutex);
  if (id == 0) {
    free(lease);
  } else if (early) { /* else the thread looks early enough anyway: most fills cost no wake-up */
    gorge_control_poke(c);
  }
  return id;
}

void gorge_control_lease_remove(struct gorge_control *c, uint64_t id) {
  if (!gorge_control_mine(c)) {
    return;
  }
  struct gorge_leases *list = &c->leases;
  pthread_mutex_lock(&c->mutex);
  struct gorge_lease *lease = find(list, id);
  bool last = false;
  if (lease != NULL) {
    uint32_t index = (uint32_t)id - 1;
    struct gorge_lease_slot *slot = &list->slots[index];
    slot->lease = NULL;
    slot->generation = slot->generation == UINT32_MAX ? 1 : slot->generation + 1;
    slot->next_free = list->free;
    list->free = index;
    last = --lease->refs == 0;
  }
  pthread_mutex_unlock(&c->mutex);
  if (last) {
    free(lease);
  }
}

/* All below: control thread. */

static void on_renewed(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms) {
  (void)now_ms;
  struct gorge_lease *lease = rq->ctx;
  lease->renewing = false;
  if (result->status == GORGE_REFUSED) {
    lease->l2_token = 0; /* somebody else's by now */
  }
  lease_unref(lease->control, lease);
}

bool gorge_lease_connect(struct gorge_watch *w) {
  if (w->l2 == NULL) {
    struct gorge_conn_config config = w->n.redis;
    config.seed ^= ~(uint64_t)w->control->owner.id;
    if (config.max_pending != 0 && config.max_pending < PENDING_MIN && w->n.partitions > 1) {
      config.max_pending = PENDING_MIN;
    }
    w->l2 = gorge_l2_create(w->n.name, w->n.name_len, w->n.partitions, &config);
    if (w->l2 != NULL && w->n.seeds != NULL &&
        gorge_l2_follow_cluster(w->l2, w->n.seeds->list, w->n.seeds->count) != GORGE_OK) {
      gorge_l2_destroy(w->l2);
      w->l2 = NULL;
    }
    if (w->l2 != NULL && w->n.epochs != NULL) {
      gorge_l2_share_epoch(w->l2, w->n.epochs, w->n.learned, w->n.ctx);
    }
  }
  if (w->l2 != NULL && w->l2_link == NULL) {
    w->l2_link = gorge_ev_l2_create(w->control->loop, w->l2, w->n.endpoint);
  }
  return w->l2_link != NULL;
}

/* Failures are left to the next turn: the lease outlives two of them. */
static void renew_l2(struct gorge_control *c, struct gorge_lease *lease, uint64_t now_ms) {
  struct gorge_watch *w = gorge_watch_live(c, lease->handle);
  if (w == NULL || !gorge_lease_connect(w)) {
    return;
  }
  lease->rq.verb = GORGE_L2_RENEW;
  lease->rq.token = lease->l2_token;
  lease->rq.lease_ms = lease->lease_ms;
  lease->rq.done = on_renewed;
  lease->rq.ctx = lease;
  if (gorge_l2_send(w->l2, &lease->rq, now_ms) == GORGE_OK) {
    lease->renewing = true;
    pthread_mutex_lock(&c->mutex);
    lease->refs++;
    pthread_mutex_unlock(&c->mutex);
  }
  gorge_ev_l2_kick(w->l2_link);
}

static void renew(struct gorge_control *c, struct gorge_lease *lease, uint64_t now_ms) {
  if (gorge_flight_renew(c->zone, &lease->flight, now_ms, lease->lease_ms) != GORGE_OK) {
    gorge_control_lease_remove(c, lease->id); /* lost, ended, or at its cap: the takeover is allowed */
  } else if (lease->l2_token != 0 && !lease->renewing) {
    renew_l2(c, lease, now_ms);
  }
}

/*
 * The next lease that is due, held, or NULL at the end of the list. *earliest_ms: when those that were passed are due.
 */
static struct gorge_lease *next_due(struct gorge_control *c, uint32_t *cursor, uint64_t now_ms, uint64_t *earliest_ms) {
  struct gorge_leases *list = &c->leases;
  struct gorge_lease *due = NULL;
  bool more = true;
  while (due == NULL && more) {
    pthread_mutex_lock(&c->mutex);
    for (int i = 0; i < LOOK_AT_ONCE && due == NULL && *cursor < list->size; i++) {
      struct gorge_lease *lease = list->slots[(*cursor)++].lease;
      if (lease != NULL && lease->next_ms <= now_ms) {
        due = lease;
        due->refs++;
        due->next_ms = now_ms + interval_ms(due);
      }
      if (lease != NULL && lease->next_ms < *earliest_ms) {
        *earliest_ms = lease->next_ms;
      }
    }
    more = *cursor < list->size;
    pthread_mutex_unlock(&c->mutex);
  }
  return due;
}

static void arm(struct gorge_control *c, uint64_t at_ms) {
  ev_timer *t = &c->leases.timer;
  if (at_ms == UINT64_MAX) {
    ev_timer_stop(c->loop, t);
    return;
  }
  uint64_t now_ms = gorge_clock_ms();
  t->repeat = (double)(at_ms > now_ms ? at_ms - now_ms : 0) / 1000 + 0.001;
  ev_timer_again(c->loop, t);
}

static void on_timer(struct ev_loop *loop, ev_timer *t, int events) {
  (void)loop, (void)events;
  struct gorge_control *c = t->data;
  struct gorge_leases *list = &c->leases;
  uint64_t now_ms = gorge_clock_ms();
  uint64_t earliest_ms = UINT64_MAX;
  uint32_t cursor = 0;
  struct gorge_lease *lease;
  pthread_mutex_lock(&c->mutex);
  list->armed_ms = UINT64_MAX; /* what is added behind the cursor makes itself heard */
  pthread_mutex_unlock(&c->mutex);
  while ((lease = next_due(c, &cursor, now_ms, &earliest_ms)) != NULL) {
    renew(c, lease, now_ms);
    lease_unref(c, lease);
  }
  pthread_mutex_lock(&c->mutex);
  list->armed_ms = earliest_ms < list->armed_ms ? earliest_ms : list->armed_ms;
  earliest_ms = list->armed_ms;
  pthread_mutex_unlock(&c->mutex);
  arm(c, earliest_ms);
}

void gorge_lease_command(struct gorge_control *c) {
  pthread_mutex_lock(&c->mutex);
  uint64_t armed_ms = c->leases.armed_ms;
  pthread_mutex_unlock(&c->mutex);
  arm(c, armed_ms);
}

void gorge_lease_init(struct gorge_control *c) {
  c->leases.armed_ms = UINT64_MAX;
  ev_init(&c->leases.timer, on_timer);
  c->leases.timer.data = c;
}

/* Removes the leases of a watch, of all with handle -1. */
static void remove_all(struct gorge_control *c, int handle) {
  struct gorge_leases *list = &c->leases;
  uint32_t size;
  pthread_mutex_lock(&c->mutex);
  size = list->size;
  pthread_mutex_unlock(&c->mutex);
  for (uint32_t i = 0; i < size; i++) {
    pthread_mutex_lock(&c->mutex);
    struct gorge_lease *lease = list->slots[i].lease;
    uint64_t id = lease != NULL && (handle < 0 || lease->handle == handle) ? lease->id : 0;
    pthread_mutex_unlock(&c->mutex);
    gorge_control_lease_remove(c, id);
  }
}

void gorge_lease_unwatch(struct gorge_control *c, int handle, struct gorge_watch *w) {
  remove_all(c, handle);
  gorge_ev_l2_destroy(w->l2_link);
  if (w->l2 != NULL) {
    gorge_l2_destroy(w->l2); /* completes what is in flight, which lets go of its lease */
  }
  w->l2_link = NULL;
  w->l2 = NULL;
}

void gorge_lease_fini(struct gorge_control *c) {
  ev_timer_stop(c->loop, &c->leases.timer);
  remove_all(c, -1);
  free(c->leases.slots);
  c->leases.slots = NULL;
  c->leases.size = c->leases.free = 0;
}
