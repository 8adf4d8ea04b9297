/* SPDX-License-Identifier: MIT */
#include "drive/ev_l2.h"

#include <stdlib.h>

struct gorge_ev_l2 {
  struct ev_loop *loop;
  struct gorge_l2 *l2;
  struct gorge_endpoint *endpoint;
  bool ending;
  struct gorge_ev_link *links[GORGE_NODES_MAX]; /* NULL: nothing has been wanted of that node yet */
};

static void after_turn(void *ctx) { gorge_ev_l2_kick(ctx); }

/* The node's link, made if need be. NULL: out of memory. */
static struct gorge_ev_link *link_of(struct gorge_ev_l2 *e, uint32_t i) {
  if (e->links[i] == NULL) {
    e->links[i] = gorge_ev_link_create(e->loop, gorge_l2_node_conn(e->l2, i), e->endpoint, after_turn, e);
  }
  return e->links[i];
}

void gorge_ev_l2_kick(struct gorge_ev_l2 *e) {
  if (e->ending) {
    return;
  }
  for (uint32_t i = 0; i < gorge_l2_nodes(e->l2); i++) {
    struct gorge_ev_link *link = gorge_conn_stirred(gorge_l2_node_conn(e->l2, i)) ? link_of(e, i) : NULL;
    if (link != NULL) {
      gorge_ev_link_kick(link);
    }
  }
}

void gorge_ev_l2_look(struct gorge_ev_l2 *e) {
  for (uint32_t i = 0; i < gorge_l2_nodes(e->l2); i++) {
    if (e->links[i] != NULL) {
      gorge_ev_link_look(e->links[i]);
    }
  }
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
  if (link_of(e, 0) == NULL) {
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
  for (uint32_t i = 0; i < GORGE_NODES_MAX; i++) {
    gorge_ev_link_destroy(e->links[i]);
  }
  free(e);
}
