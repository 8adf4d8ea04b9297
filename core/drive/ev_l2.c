/* SPDX-License-Identifier: MIT */
#include "drive/ev_l2.h"

#include <stdlib.h>

#include "base/clock.h"
#include "drive/place.h"

enum { SLACK_MS = 1 /* see drive/ev.c */ };

struct node {
  struct gorge_ev_link *link;    /* NULL: nothing has been wanted of it yet */
  struct gorge_node_place place; /* unused where the endpoint is the caller's */
};

struct gorge_ev_l2 {
  struct ev_loop *loop;
  struct gorge_l2 *l2;
  struct gorge_endpoint *endpoint;
  bool ending;
  ev_timer timer;
  uint64_t armed_ms; /* when the timer, if active, fires at the latest */
  struct node nodes[GORGE_NODES_MAX];
};

/* A link has moved bytes, and no completion runs: what is due is done at once. */
static void after_turn(void *ctx) {
  struct gorge_ev_l2 *e = ctx;
  uint64_t next_ms = e->ending ? UINT64_MAX : gorge_l2_next_ms(e->l2);
  if (next_ms != UINT64_MAX) {
    uint64_t now_ms = gorge_clock_ms();
    if (next_ms <= now_ms) {
      gorge_l2_tick(e->l2, now_ms);
    }
  }
  gorge_ev_l2_kick(e);
}

/* The node's link leads to where the node is; it is made if need be. NULL: out of memory. */
static struct gorge_ev_link *link_of(struct gorge_ev_l2 *e, uint32_t i, struct gorge_conn *conn) {
  struct node *n = &e->nodes[i];
  struct gorge_endpoint *endpoint = e->endpoint, *old = NULL;
  if (endpoint == NULL && gorge_conn_state(conn) == GORGE_CONN_DOWN) {
    old = gorge_node_place_follow(&n->place, e->l2, i);
    endpoint = n->place.endpoint;
  }
  if (n->link == NULL && endpoint != NULL) {
    n->link = gorge_ev_link_create(e->loop, conn, endpoint, after_turn, e);
  } else if (old != NULL) {
    gorge_ev_link_lead(n->link, endpoint);
  }
  gorge_endpoint_destroy(old);
  return n->link;
}

static void arm(struct gorge_ev_l2 *e) {
  uint64_t next_ms = gorge_l2_next_ms(e->l2);
  if (next_ms == UINT64_MAX) {
    ev_timer_stop(e->loop, &e->timer);
    return;
  }
  if (ev_is_active(&e->timer) && next_ms >= e->armed_ms) {
    return; /* it fires early, looks, and is armed anew */
  }
  uint64_t now_ms = gorge_clock_ms();
  uint64_t delay_ms = next_ms > now_ms ? next_ms - now_ms : 0;
  e->armed_ms = next_ms;
  ev_timer_stop(e->loop, &e->timer);
  ev_timer_set(&e->timer, (double)(delay_ms + SLACK_MS) / 1000, 0.);
  ev_timer_start(e->loop, &e->timer);
}

void gorge_ev_l2_kick(struct gorge_ev_l2 *e) {
  if (e->ending) {
    return;
  }
  for (uint32_t i = 0; i < gorge_l2_nodes(e->l2); i++) {
    struct gorge_conn *conn = gorge_l2_node_conn(e->l2, i);
    if (gorge_conn_stirred(conn)) {
      struct gorge_ev_link *link = link_of(e, i, conn);
      if (link != NULL) {
        gorge_ev_link_kick(link);
      }
    }
  }
  arm(e);
}

void gorge_ev_l2_look(struct gorge_ev_l2 *e) {
  for (uint32_t i = 0; i < gorge_l2_nodes(e->l2); i++) {
    if (e->nodes[i].link != NULL) {
      gorge_ev_link_look(e->nodes[i].link);
    }
  }
  gorge_ev_l2_kick(e);
}

static void on_timer(struct ev_loop *loop, ev_timer *t, int events) {
  (void)loop, (void)events;
  struct gorge_ev_l2 *e = t->data;
  gorge_l2_tick(e->l2, gorge_clock_ms());
  gorge_ev_l2_kick(e);
}

struct gorge_ev_l2 *gorge_ev_l2_create(struct ev_loop *loop, struct gorge_l2 *l2, struct gorge_endpoint *endpoint) {
  struct gorge_ev_l2 *e = calloc(1, sizeof *e);
  if (e == NULL) {
    return NULL;
  }
  e->loop = loop;
  e->l2 = l2;
  e->endpoint = endpoint;
  ev_timer_init(&e->timer, on_timer, 0., 0.);
  e->timer.data = e;
  if (endpoint != NULL && link_of(e, 0, gorge_l2_node_conn(l2, 0)) == NULL) {
    free(e);
    return NULL;
  }
  gorge_ev_l2_kick(e);
  return e;
}

void gorge_ev_l2_destroy(struct gorge_ev_l2 *e) {
  if (e == NULL) {
    return;
  }
  e->ending = true; /* completions below must not connect again */
  ev_timer_stop(e->loop, &e->timer);
  for (uint32_t i = 0; i < GORGE_NODES_MAX; i++) {
    gorge_ev_link_destroy(e->nodes[i].link);
    gorge_endpoint_destroy(e->nodes[i].place.endpoint);
  }
  free(e);
}
