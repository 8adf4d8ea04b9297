/* SPDX-License-Identifier: MIT */
/* The connections of a process to the nodes of its l2: what becomes of them, and the clock of those that are moved from outside. */
#include <stddef.h>
#include <stdlib.h>

#include "base/clock.h"
#include "drive/ev_l2.h"
#include "engine/remote.h"

enum { LATE_TURNS = 3 };

struct gorge_remote_node *gorge_remote_node(gorge_cache *c, uint32_t node) {
  if (node == 0) {
    return &c->node;
  }
  if (node >= gorge_l2_nodes(c->l2)) {
    return NULL;
  }
  if (c->nodes[node] == NULL) {
    c->nodes[node] = calloc(1, sizeof *c->nodes[node]);
  }
  return c->nodes[node];
}

void gorge_remote_forget_nodes(gorge_cache *c) {
  for (uint32_t i = 0; i < GORGE_NODES_MAX; i++) {
    if (c->nodes[i] != NULL) {
      gorge_endpoint_destroy(c->nodes[i]->place.endpoint);
      c->nodes[i]->place.endpoint = NULL;
    }
    if (i > 0) {
      free(c->nodes[i]);
      c->nodes[i] = NULL;
    }
  }
}

struct gorge_endpoint *gorge_remote_endpoint(gorge_cache *c, uint32_t node) {
  if (!gorge_is_cluster(c)) {
    return c->endpoint;
  }
  struct gorge_remote_node *n = gorge_remote_node(c, node);
  if (n != NULL && gorge_conn_state(gorge_l2_node_conn(c->l2, node)) == GORGE_CONN_DOWN) {
    gorge_endpoint_destroy(gorge_node_place_follow(&n->place, c->l2, node));
  }
  return n != NULL ? n->place.endpoint : NULL;
}

const char *gorge_remote_reason(const struct gorge_op *op) {
  gorge_cache *c = op->cache;
  return op->node < gorge_l2_nodes(c->l2) ? gorge_conn_reason(gorge_l2_node_conn(c->l2, op->node))
                                          : gorge_nodes_reason(c->l2);
}

static void on_pong(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_remote_node *n = (void *)((char *)cmd - offsetof(struct gorge_remote_node, ping));
  (void)status, (void)reply, (void)now_ms;
  n->pinging = false;
}

static void ping(const gorge_cache *c, struct gorge_remote_node *n, struct gorge_conn *conn, uint64_t now_ms) {
  static const char *const argv[] = {"PING"};
  static const size_t argv_len[] = {4};
  if (gorge_conn_state(conn) != GORGE_CONN_READY || gorge_conn_pending(conn) > 0) {
    n->ping_ms = now_ms + c->keepalive_ms;
  } else if (now_ms >= n->ping_ms && !n->pinging) {
    n->ping_ms = now_ms + c->keepalive_ms;
    n->ping.done = on_pong;
    n->ping.deadline_ms = 0;
    n->pinging = gorge_conn_submit(conn, &n->ping, 1, argv, argv_len, now_ms) == GORGE_OK;
  }
}

/*
 * What is late is given up in the third turn of the event loop that finds it so. A process that stood still looks at the clock before it has
 * read what came meanwhile, and in the second turn others may look before the reader's turn has come. Where there is no event loop whose clock
 * stands still for a turn, a turn is a millisecond.
 */
static bool may_still_come(const gorge_cache *c, struct gorge_remote_node *n, const struct gorge_conn *conn,
                           uint64_t now_ms) {
  enum gorge_conn_state state = gorge_conn_state(conn);
  uint64_t due_ms = gorge_conn_next_ms(conn), turn = c->clock != NULL ? *c->clock : now_ms;
  bool open = state == GORGE_CONN_HANDSHAKE || state == GORGE_CONN_READY;
  if (!open || due_ms > now_ms || due_ms == 0) { /* 0: it has been given up already */
    n->late_turns = 0;
    return false;
  }
  n->late_turns += n->late_turns == 0 || turn != n->late_turn ? 1 : 0;
  n->late_turn = turn;
  n->late_ms = now_ms;
  if (n->late_turns < LATE_TURNS) {
    return true;
  }
  n->late_turns = 0;
  return false;
}

static void tick(gorge_cache *c, uint32_t i, uint64_t now_ms) {
  struct gorge_conn *conn = gorge_l2_node_conn(c->l2, i);
  struct gorge_remote_node *n = gorge_remote_node(c, i);
  if ((n == NULL || !may_still_come(c, n, conn, now_ms)) && gorge_conn_tick(conn, now_ms)) {
    gorge_conn_closed(conn, now_ms, gorge_conn_reason(conn));
    if (n != NULL) {
      n->dropped = true;
      n->told = false;
    }
  }
  if (n != NULL) {
    ping(c, n, conn, now_ms);
  }
}

void gorge_remote_tick(gorge_cache *c, uint64_t now_ms) {
  for (uint32_t i = 0; i < gorge_l2_nodes(c->l2); i++) {
    tick(c, i, now_ms);
  }
  gorge_l2_tick(c->l2, now_ms);
}

static uint64_t next_ms(const gorge_cache *c, uint32_t i) {
  const struct gorge_conn *conn = gorge_l2_node_conn(c->l2, i);
  const struct gorge_remote_node *n = c->nodes[i];
  bool idle = gorge_conn_pending(conn) == 0;
  enum gorge_conn_state state = gorge_conn_state(conn);
  if (n != NULL && n->dropped && !n->told) {
    return 0;
  }
  uint64_t next = idle && state == GORGE_CONN_DOWN ? UINT64_MAX : gorge_conn_next_ms(conn);
  if (n != NULL && n->late_turns > 0 && next != 0 && next <= n->late_ms) {
    next = n->late_ms + 1;
  }
  return idle && state == GORGE_CONN_READY && n != NULL && n->ping_ms < next ? n->ping_ms : next;
}

uint64_t gorge_remote_next_ms(const gorge_cache *c) {
  uint64_t next = gorge_l2_next_ms(c->l2);
  for (uint32_t i = 0; i < gorge_l2_nodes(c->l2); i++) {
    uint64_t other = next_ms(c, i);
    next = other < next ? other : next;
  }
  return next;
}

bool gorge_remote_late(const gorge_cache *c) {
  bool late = false;
  for (uint32_t i = 0; c->l2 != NULL && i < gorge_l2_nodes(c->l2); i++) {
    late = late || (c->nodes[i] != NULL && c->nodes[i]->late_turns > 0);
  }
  return late;
}

void gorge_remote_follow(gorge_cache *c) {
  if (!gorge_conn_moved(gorge_l2_conn(c->l2))) {
    return; /* in a cluster it is the map of its slots that tells where to go */
  }
  if (c->link != NULL) {
    gorge_ev_l2_look(c->link);
  } else {
    gorge_remote_tick(c, gorge_clock_ms());
  }
}

/* What the cluster has made of this process's requests since the last call. Where everything is at first is no change. */
static void look_at_cluster(gorge_cache *c) {
  struct gorge_l2_cluster now;
  gorge_l2_cluster(c->l2, &now);
  uint64_t redirects = now.moved + now.asked + now.tried_again;
  if (c->cluster_changes == UINT64_MAX && now.known) {
    c->cluster_changes = now.changes;
  }
  for (; c->cluster_changes < now.changes; c->cluster_changes++) {
    gorge_count(c, GORGE_COUNT_CLUSTER_CHANGES);
  }
  for (; c->redirects < redirects; c->redirects++) {
    gorge_count(c, GORGE_COUNT_REDIRECTS);
  }
}

void gorge_remote_look(gorge_cache *c) {
  if (gorge_is_cluster(c)) {
    look_at_cluster(c);
  }
  for (uint32_t i = 0; i < gorge_l2_nodes(c->l2); i++) {
    uint64_t connects = gorge_conn_connects(gorge_l2_node_conn(c->l2, i));
    struct gorge_remote_node *n = c->nodes[i];
    if (n == NULL && connects > 0) {
      n = gorge_remote_node(c, i);
    }
    for (; n != NULL && n->connects < connects; n->connects++) {
      if (n->connects > 0) {
        gorge_count(c, GORGE_COUNT_RECONNECTS);
      }
    }
  }
}
