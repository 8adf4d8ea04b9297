/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: the functions of a pump, and what ngx_gorge_module needs besides. */
#include "base/clock.h"
#include "engine/remote.h"

static bool own(const gorge_cache *cache) { return cache->generation == gorge_process_generation(); }

/* Whether connections are moved from outside; those of a fork's parent are left alone. */
static bool is_pumped(const gorge_cache *cache) { return own(cache) && cache->l2 != NULL && cache->link == NULL; }

/* The connection to a node, or NULL; and what is kept of it, which may be NULL before somebody has connected. */
static struct gorge_conn *pumped(const gorge_cache *cache, uint32_t node, struct gorge_remote_node **kept) {
  if (!is_pumped(cache) || node >= gorge_l2_nodes(cache->l2)) {
    return NULL;
  }
  *kept = cache->nodes[node];
  return gorge_l2_node_conn(cache->l2, node);
}

/* The same while its transport is one. */
static struct gorge_conn *open_at(const gorge_cache *cache, uint32_t node) {
  struct gorge_remote_node *kept;
  struct gorge_conn *conn = pumped(cache, node, &kept);
  return conn != NULL && kept != NULL && !kept->dropped ? conn : NULL;
}

uint32_t gorge_io_nodes(gorge_cache *cache) { return is_pumped(cache) ? gorge_l2_nodes(cache->l2) : 0; }

uint32_t gorge_io_stirred(gorge_cache *cache, uint32_t *nodes, uint32_t max) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < gorge_io_nodes(cache) && count < max; i++) {
    const struct gorge_conn *conn = gorge_l2_node_conn(cache->l2, i);
    if (gorge_conn_pending(conn) > 0 && gorge_conn_stirred(conn)) {
      nodes[count++] = i;
    }
  }
  return count;
}

int gorge_io_connect(gorge_cache *cache, uint32_t node, char *host, uint32_t host_size, uint32_t *port) {
  struct gorge_remote_node *kept;
  struct gorge_conn *conn = pumped(cache, node, &kept);
  uint64_t now_ms = gorge_clock_ms();
  kept = conn != NULL ? gorge_remote_node(cache, node) : NULL;
  if (kept == NULL) {
    return GORGE_MISS;
  }
  struct gorge_endpoint *endpoint = gorge_remote_endpoint(cache, node);
  if (gorge_conn_state(conn) != GORGE_CONN_CONNECTING && !gorge_conn_want_connect(conn, now_ms)) {
    return GORGE_MISS;
  }
  uint16_t p = 0;
  const char *reason = NULL;
  struct gorge_address address;
  int status = endpoint != NULL ? gorge_endpoint_address(endpoint, now_ms, &address, &reason) : GORGE_ERR_MEMORY;
  if (status == GORGE_PENDING && gorge_conn_tick(conn, now_ms)) {
    status = GORGE_ERR_TIMEOUT; /* nobody may be waiting who would look at the clock */
  } else if (status == GORGE_OK) {
    gorge_conn_towards(conn, address.place);
    status = gorge_address_text(&address, host, host_size, &p);
  }
  *port = p;
  if (status < 0) {
    gorge_conn_closed(conn, now_ms, reason != NULL ? reason : gorge_status_text(status));
    return GORGE_MISS;
  }
  if (status == GORGE_OK) {
    kept->dropped = false; /* what comes from now on is about a new transport */
  }
  return status;
}

void gorge_io_opened(gorge_cache *cache, uint32_t node) {
  struct gorge_remote_node *kept;
  struct gorge_conn *conn = pumped(cache, node, &kept);
  if (conn != NULL && kept != NULL) {
    gorge_conn_opened(conn, gorge_clock_ms());
    /* Too late for a connection that has given up meanwhile: this transport is of no use. */
    kept->dropped = gorge_conn_state(conn) != GORGE_CONN_HANDSHAKE;
    kept->told = false;
  }
}

void gorge_io_closed(gorge_cache *cache, uint32_t node, const char *reason) {
  struct gorge_conn *conn = open_at(cache, node);
  if (conn != NULL) {
    if (gorge_conn_state(conn) == GORGE_CONN_CONNECTING) {
      (void)gorge_endpoint_failed(gorge_remote_endpoint(cache, node),
                                  NULL); /* a name may have another address that answers */
    }
    gorge_conn_closed(conn, gorge_clock_ms(), reason);
  }
}

void gorge_io_rest(gorge_cache *cache, uint32_t node, const char *reason) {
  struct gorge_conn *conn = open_at(cache, node);
  if (conn != NULL) {
    gorge_conn_rest(conn, gorge_clock_ms(), reason);
  }
}

void gorge_io_output(gorge_cache *cache, uint32_t node, const char **ptr, uint64_t *len) {
  struct gorge_conn *conn = open_at(cache, node);
  size_t n = 0;
  *ptr = NULL;
  if (conn != NULL) {
    gorge_conn_output(conn, ptr, &n);
  }
  *len = n;
}

void gorge_io_sent(gorge_cache *cache, uint32_t node, uint64_t len) {
  struct gorge_conn *conn = open_at(cache, node);
  if (conn != NULL) {
    gorge_conn_sent(conn, len);
  }
}

int gorge_io_input(gorge_cache *cache, uint32_t node, const char *ptr, uint64_t len) {
  struct gorge_conn *conn = open_at(cache, node);
  if (conn == NULL) {
    return GORGE_ERR_CLOSED;
  }
  cache->heard_us = gorge_clock_us();
  int status = gorge_conn_input(conn, ptr, len, gorge_clock_ms());
  cache->heard_us = 0;
  return status;
}

uint32_t gorge_io_pending(gorge_cache *cache, uint32_t node) {
  struct gorge_remote_node *kept;
  const struct gorge_conn *conn = pumped(cache, node, &kept);
  return conn == NULL ? 0 : gorge_conn_pending(conn);
}

uint32_t gorge_io_parked(gorge_cache *cache) { return is_pumped(cache) ? gorge_l2_parked(cache->l2) : 0; }

int gorge_io_dropped(gorge_cache *cache, uint32_t node) {
  struct gorge_remote_node *kept;
  if (pumped(cache, node, &kept) == NULL || kept == NULL) {
    return 1;
  }
  kept->told = kept->dropped; /* which is not due any more */
  return kept->dropped;
}

int gorge_io_tick(gorge_cache *cache, uint32_t node) {
  if (!own(cache)) {
    return 1;
  }
  gorge_cache_turn(cache, gorge_clock_ms()); /* also where there is no Redis: ops wait for other workers */
  return gorge_io_dropped(cache, node);
}

double gorge_io_due(gorge_cache *cache) {
  uint64_t now_ms = gorge_clock_ms();
  uint64_t due_ms = is_pumped(cache) ? gorge_remote_next_ms(cache) : UINT64_MAX;
  if (due_ms == UINT64_MAX) {
    return -1;
  }
  return due_ms > now_ms ? (double)(due_ms - now_ms) : 0;
}

void gorge_op_waiter(gorge_cache *cache, uint64_t op, void *waiter) {
  struct gorge_op *o = gorge_op_find(cache, op);
  if (o != NULL) {
    o->waiter = waiter;
  }
}

uint32_t gorge_io_woken(gorge_cache *cache, void **waiters, uint32_t max, uint32_t *gone) {
  *gone = 0;
  if (!own(cache)) {
    return 0;
  }
  *gone = gorge_buf_len(&cache->gone) > 0;
  return gorge_op_woken(cache, waiters, max);
}

int gorge_bell_fd(gorge_cache *cache) {
  if (gorge_cache_ready(cache, true) != GORGE_OK) {
    return GORGE_ERR_SYSTEM;
  }
  struct gorge_control *control = gorge_cache_control(cache);
  return control == NULL ? GORGE_ERR_SYSTEM : gorge_control_bell_fd(control);
}

const struct gorge_io_calls *gorge_io_calls(void) {
  static const struct gorge_io_calls calls = {
      .abi_version = GORGE_ABI_VERSION,
      .size = sizeof(struct gorge_io_calls),
      .nodes = gorge_io_nodes,
      .stirred = gorge_io_stirred,
      .connect = gorge_io_connect,
      .opened = gorge_io_opened,
      .closed = gorge_io_closed,
      .output = gorge_io_output,
      .sent = gorge_io_sent,
      .input = gorge_io_input,
      .pending = gorge_io_pending,
      .parked = gorge_io_parked,
      .tick = gorge_io_tick,
      .dropped = gorge_io_dropped,
      .due = gorge_io_due,
      .woken = gorge_io_woken,
  };
  return &calls;
}
