/* SPDX-License-Identifier: MIT */
/*
 * Whether Redis is asked, and what its answers say about it. A single Redis has the breaker of its namespace. Of a cluster each node has one of
 * its own (resil/breakers.h), since one that is down says nothing about the others; that of the namespace stands for requests of which it was
 * not known whom to ask.
 */
#include "engine/remote.h"
#include "resil/breakers.h"

enum {
  NOBODY = UINT32_MAX, /* it is not known who has the key's partition */
  EVERYBODY =
      UINT32_MAX -
      1 /* a request without a key goes to all partitions: what fails, and why, is not to be told from its end */
};

static struct gorge_breaker_table *table_of(const gorge_cache *c) { return gorge_zone_breakers(c->zone); }

/* The number of a node among all that this host has breakers for. */
static uint64_t place_of(gorge_cache *c, uint32_t node) {
  struct gorge_remote_node *n = gorge_remote_node(c, node);
  uint64_t changes = gorge_l2_node_changes(c->l2, node);
  if (n == NULL || n->breaker_place == 0 || n->breaker_changes != changes) {
    const struct gorge_place *p = gorge_l2_node_place(c->l2, node);
    uint64_t place = gorge_breaker_place(gorge_breaker_hash(p->host, p->port), c->ns);
    if (n == NULL) {
      return place;
    }
    n->breaker_place = place;
    n->breaker_changes = changes;
  }
  return n->breaker_place;
}

struct gorge_breaker_words *gorge_remote_breaker(gorge_cache *c, uint32_t node) {
  return gorge_breakers_find(table_of(c), place_of(c, node));
}

bool gorge_remote_reachable(const gorge_cache *c) {
  /* a process without threads that is driven from outside is nginx's master: nobody moves its bytes */
  return c->l2 != NULL && (c->threads || c->link != NULL);
}

/* Whether some node that has a partition may be asked. Takes no probe: that is for a request which goes there alone. */
static bool any_allowed(gorge_cache *c, uint64_t now_ms) {
  bool known = false;
  for (uint32_t i = 0; i < gorge_l2_nodes(c->l2); i++) {
    if (gorge_l2_node_partitions(c->l2, i) > 0) {
      const struct gorge_breaker_words *w = gorge_remote_breaker(c, i);
      if (w == NULL || !gorge_breaker_refuses(w, &c->breaker_config, now_ms)) {
        return true;
      }
      known = true;
    }
  }
  return !known && gorge_breaker_allow(c->breaker, &c->breaker_config, now_ms);
}

static bool node_allowed(gorge_cache *c, uint32_t node, uint64_t now_ms) {
  struct gorge_breaker_words *w = node == NOBODY ? c->breaker : gorge_remote_breaker(c, node);
  if (w == NULL || gorge_breaker_allow(w, &c->breaker_config, now_ms)) {
    return true;
  }
  gorge_l2_suspect(c->l2, node,
                   now_ms); /* another process opened it, perhaps: this one has to look for the new master itself */
  return false;
}

static uint32_t node_of(const struct gorge_op *op) {
  return op->key.len > 0 ? gorge_l2_node_of(op->cache->l2, op->key.ptr, op->key.len) : EVERYBODY;
}

void gorge_remote_aim(struct gorge_op *op) { op->node = gorge_is_cluster(op->cache) ? node_of(op) : 0; }

bool gorge_remote_allowed(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  if (!gorge_remote_reachable(c)) {
    return false;
  }
  if (!gorge_is_cluster(c)) {
    return gorge_breaker_allow(c->breaker, &c->breaker_config, now_ms);
  }
  gorge_remote_aim(op);
  return op->node == EVERYBODY ? any_allowed(c, now_ms) : node_allowed(c, op->node, now_ms);
}

bool gorge_remote_refused(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  const struct gorge_breaker_words *w = c->breaker;
  if (gorge_is_cluster(c)) {
    gorge_remote_aim(op);
    w = op->node == NOBODY ? w : gorge_remote_breaker(c, op->node);
  }
  return w != NULL && gorge_breaker_refuses(w, &c->breaker_config, now_ms);
}

/* The connection to whom the op concerns; NULL: not known. */
static struct gorge_conn *conn_of(const struct gorge_op *op) {
  gorge_cache *c = op->cache;
  uint32_t node = c->l2 == NULL ? NOBODY : gorge_is_cluster(c) ? node_of(op) : 0;
  return node >= EVERYBODY ? NULL : gorge_l2_node_conn(c->l2, node);
}

bool gorge_remote_room(const struct gorge_op *op) {
  struct gorge_conn *conn = conn_of(op);
  return conn == NULL || !gorge_conn_busy(conn);
}

bool gorge_remote_ready(const struct gorge_op *op) {
  const struct gorge_conn *conn = conn_of(op);
  return conn != NULL && gorge_conn_state(conn) == GORGE_CONN_READY;
}

static void succeeded(gorge_cache *c, uint32_t node, uint64_t now_ms) {
  if (!gorge_is_cluster(c)) {
    gorge_breaker_success(c->breaker, &c->breaker_config, now_ms);
    return;
  }
  struct gorge_breaker_words *w = node < EVERYBODY ? gorge_remote_breaker(c, node) : NULL;
  if (w != NULL) {
    gorge_breaker_success(w, &c->breaker_config, now_ms);
  }
  gorge_breaker_reset(c->breaker); /* the nodes are known: theirs count */
}

/* Returns whether a breaker opened. */
static bool failed(gorge_cache *c, uint32_t node, uint64_t now_ms) {
  if (!gorge_is_cluster(c) || node == NOBODY) {
    return gorge_breaker_failure(c->breaker, &c->breaker_config, now_ms);
  }
  if (node == EVERYBODY || !gorge_breakers_failure(table_of(c), place_of(c, node), &c->breaker_config, now_ms)) {
    return false;
  }
  const struct gorge_place *p = gorge_l2_node_place(c->l2, node);
  gorge_breakers_name(table_of(c), place_of(c, node), p->host, p->port);
  __atomic_fetch_add(&c->breaker->opens, 1, __ATOMIC_RELAXED); /* for people: of the namespace, all of its breakers */
  return true;
}

void gorge_remote_tell(struct gorge_op *op, int status, bool moving, uint64_t took_us, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  bool slow = c->breaker_slow_us != 0 && took_us > c->breaker_slow_us;
  bool wrong = status == GORGE_ERR_TIMEOUT || status == GORGE_ERR_DOWN || status == GORGE_ERR_PROTOCOL ||
               status == GORGE_ERR_REDIS || status == GORGE_ERR_FULL;
  if (wrong) {
    gorge_count(c, GORGE_COUNT_L2_ERRORS);
  }
  if (moving) {
    return; /* both nodes answer, the one that has the slot and the one that gets it */
  }
  if (status >= 0 && !slow) {
    succeeded(c, op->node, now_ms);
  } else if ((status >= 0 || wrong) && failed(c, op->node, now_ms)) {
    gorge_count(c, GORGE_COUNT_BREAKER_OPENS);
  }
}
