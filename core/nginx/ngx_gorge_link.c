/* SPDX-License-Identifier: MIT */
#include "ngx_gorge.h"

enum {
  KICKS_TO_SEND = 24, /* a segment full of look-ups: later, it would not leave with fewer calls */
  READ_SIZE = 64 << 10,
  READS_PER_EVENT = 4, /* a large reply must not keep the loop from its other connections */
  SENDS_PER_TURN = 8,
  WAITERS = 64,
  RESOLVE_MS = 5, /* while a name is being resolved */
  SLACK_MS = 1    /* libgorge's clock is coarse: a timer on the dot would often find that it is not time yet */
};

static u_char buffer[READ_SIZE];

static void wake(ngx_gorge_link_t *link) {
  const ngx_gorge_link_conf_t *conf = &link->conf;
  void *waiters[WAITERS];
  uint32_t n, gone;
  do {
    n = conf->calls->woken(conf->cache, waiters, WAITERS, &gone);
    for (uint32_t i = 0; i < n; i++) {
      (void)conf->post(waiters[i], 1);
    }
  } while (n == WAITERS);
  if (gone != 0 && conf->news != NULL) {
    (void)conf->post(conf->news, 1);
  }
}

static void close_connection(ngx_gorge_node_t *node) {
  if (node->connection != NULL) {
    ngx_close_connection(node->connection);
    node->connection = NULL;
  }
  node->connecting = 0;
}

static void post_turn(ngx_gorge_link_t *link) {
  if (!link->turn.posted) {
    link->kicks = 0;
    ngx_post_event(&link->turn, &ngx_posted_events);
  }
}

/* The connection is lost or cannot be had: its commands fail. */
static void lost(ngx_gorge_node_t *node, const char *reason) {
  const ngx_gorge_link_conf_t *conf = &node->link->conf;
  close_connection(node);
  conf->calls->closed(conf->cache, node->number, reason);
  if (node->link->count > 1) {
    post_turn(node->link); /* another node may be asked instead, whose turn is over */
  }
}

/* The same, with the text of an errno. */
static void lost_by(ngx_gorge_node_t *node, const char *what, ngx_err_t err) {
  u_char text[128], reason[192];
  *ngx_strerror(err, text, sizeof text - 1) = '\0';
  *ngx_snprintf(reason, sizeof reason - 1, "%s: %s", what, text) = '\0';
  lost(node, (const char *)reason);
}

/* ---- connecting ---- */

typedef union {
  struct sockaddr any;
  struct sockaddr_in in;
  struct sockaddr_in6 in6;
  struct sockaddr_un un;
} address_t;

/* From what gorge_io_connect says. Returns 0 for what is no address. */
static socklen_t parse_address(char *host, uint32_t port, address_t *out) {
  size_t len = ngx_strlen(host);
  ngx_memzero(out, sizeof *out);
  if (ngx_strncmp(host, "unix:", 5) == 0) {
    if (len - 5 >= sizeof out->un.sun_path) {
      return 0;
    }
    out->un.sun_family = AF_UNIX;
    ngx_memcpy(out->un.sun_path, host + 5, len - 5);
    return sizeof out->un;
  }
  if (host[0] == '[' && len > 2) {
    host[len - 1] = '\0';
    out->in6.sin6_family = AF_INET6;
    out->in6.sin6_port = htons((in_port_t)port);
    return inet_pton(AF_INET6, host + 1, &out->in6.sin6_addr) == 1 ? sizeof out->in6 : 0;
  }
  out->in.sin_family = AF_INET;
  out->in.sin_port = htons((in_port_t)port);
  return inet_pton(AF_INET, host, &out->in.sin_addr) == 1 ? sizeof out->in : 0;
}

static void read_handler(ngx_event_t *event);
static void write_handler(ngx_event_t *event);

/* A connection of nginx's around a new socket, or NULL, and the connection is told why. */
static ngx_connection_t *open_socket(ngx_gorge_node_t *node, int family) {
  ngx_socket_t fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd == (ngx_socket_t)-1) {
    lost_by(node, "socket", ngx_socket_errno);
    return NULL;
  }
  int on = 1;
  if (family != AF_UNIX) {
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* without it merely slower */
  }
  ngx_connection_t *c = ngx_get_connection(fd, &node->link->log);
  if (c == NULL) {
    (void)ngx_close_socket(fd);
    lost(node, "worker_connections are not enough");
    return NULL;
  }
  c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);
  c->type = SOCK_STREAM;
  c->recv = ngx_recv;
  c->send = ngx_send;
  c->log_error = NGX_ERROR_INFO;
  c->data = node;
  c->read->log = c->write->log = &node->link->log;
  c->read->handler = read_handler;
  c->write->handler = write_handler;
  return c;
}

static void opened(ngx_gorge_node_t *node) {
  node->connecting = 0;
  node->connection->write->ready = 1;
  node->link->conf.calls->opened(node->link->conf.cache, node->number);
}

static void connect_to(ngx_gorge_node_t *node, const address_t *address, socklen_t len) {
  ngx_connection_t *c = open_socket(node, address->any.sa_family);
  if (c == NULL) {
    return;
  }
  node->connection = c;
  node->connecting = 1;
  int rc = connect(c->fd, &address->any, len);
  ngx_err_t err = rc == 0 ? 0 : ngx_socket_errno;
  if (err != 0 && err != NGX_EINPROGRESS) {
    lost_by(node, "connect", err);
  } else if (ngx_handle_read_event(c->read, 0) != NGX_OK || ngx_handle_write_event(c->write, 0) != NGX_OK) {
    lost(node, "no event for the connection");
  } else if (err == 0) {
    opened(node);
  }
}

/* Connects if there is a reason to. Returns when to try again, in ms; 0: no need to. */
static ngx_msec_t connect_now(ngx_gorge_node_t *node) {
  const ngx_gorge_link_conf_t *conf = &node->link->conf;
  char host[256];
  uint32_t port = 0;
  if (node->connection != NULL || conf->calls->pending(conf->cache, node->number) == 0) {
    return 0;
  }
  int status = conf->calls->connect(conf->cache, node->number, host, sizeof host, &port);
  if (status == GORGE_PENDING) {
    return RESOLVE_MS;
  }
  if (status != GORGE_OK) {
    return 0;
  }
  address_t address;
  socklen_t len = parse_address(host, port, &address);
  if (len == 0) {
    lost(node, "not an address");
  } else {
    connect_to(node, &address, len);
  }
  return 0;
}

/* The socket has become writable while connecting: the attempt is decided. */
static void connect_done(ngx_gorge_node_t *node) {
  int err = 0;
  socklen_t len = sizeof err;
  if (getsockopt(node->connection->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0) {
    err = ngx_socket_errno;
  }
  if (err != 0) {
    lost_by(node, "connect", err);
  } else {
    opened(node);
  }
}

/* ---- moving bytes ---- */

/* Sends what there is; the rest waits for the socket. */
static void flush(ngx_gorge_node_t *node) {
  const ngx_gorge_link_conf_t *conf = &node->link->conf;
  for (int i = 0; node->connection != NULL && !node->connecting && node->connection->write->ready; i++) {
    ngx_connection_t *c = node->connection;
    const char *ptr;
    uint64_t len;
    conf->calls->output(conf->cache, node->number, &ptr, &len);
    if (len == 0) {
      return;
    }
    if (i == SENDS_PER_TURN) {
      ngx_post_event(&node->link->turn, &ngx_posted_next_events);
      return;
    }
    ssize_t n = c->send(c, (u_char *)ptr, (size_t)len);
    if (n > 0) {
      conf->calls->sent(conf->cache, node->number, (uint64_t)n);
    } else if (n != NGX_AGAIN) {
      lost_by(node, "send", ngx_socket_errno);
    }
  }
  ngx_connection_t *c = node->connection;
  if (c != NULL && ngx_handle_write_event(c->write, 0) != NGX_OK) {
    lost(node, "no event for the connection");
  }
}

/* Reads until there is no more, or enough for this time. */
static void receive(ngx_gorge_node_t *node) {
  const ngx_gorge_link_conf_t *conf = &node->link->conf;
  ngx_connection_t *c = node->connection;
  for (int i = 0; c->read->ready; i++) {
    if (i == READS_PER_EVENT) {
      ngx_post_event(c->read, &ngx_posted_next_events);
      return;
    }
    ssize_t n = c->recv(c, buffer, sizeof buffer);
    if (n > 0) {
      if (conf->calls->input(conf->cache, node->number, (const char *)buffer, (uint64_t)n) != GORGE_OK) {
        lost(node, "protocol error");
        return;
      }
    } else if (n == 0) {
      lost(node, "closed by Redis");
      return;
    } else if (n != NGX_AGAIN) {
      lost_by(node, "recv", ngx_socket_errno);
      return;
    }
  }
  if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
    lost(node, "no event for the connection");
  }
}

/* ---- the nodes ---- */

/* The link has a node for each that there is; one for which memory is short has to wait for the next look. */
static void meet(ngx_gorge_link_t *link) {
  uint32_t count = link->conf.calls->nodes(link->conf.cache);
  while (link->count < count) {
    ngx_gorge_node_t *node = ngx_calloc(sizeof *node, &link->log);
    if (node == NULL) {
      return;
    }
    node->link = link;
    node->number = link->count++;
    link->last->next = node;
    link->last = node;
  }
}

/* Connections that the library has given up, also those that had not got as far as a socket: it is due until it has told. */
static void drop(ngx_gorge_link_t *link) {
  const ngx_gorge_link_conf_t *conf = &link->conf;
  for (ngx_gorge_node_t *node = &link->node; node != NULL; node = node->next) {
    if (conf->calls->dropped(conf->cache, node->number) != 0) {
      close_connection(node);
    }
  }
}

/* Connects and sends. Returns when to try again to connect, in ms; 0: no need to. */
static ngx_msec_t advance(ngx_gorge_link_t *link) {
  ngx_msec_t retry = 0;
  meet(link);
  for (ngx_gorge_node_t *node = &link->node; node != NULL; node = node->next) {
    ngx_msec_t again = connect_now(node);
    retry = again > 0 ? again : retry;
    flush(node);
  }
  return retry;
}

/* ---- time ---- */

static void arm(ngx_gorge_link_t *link, ngx_msec_t retry) {
  const ngx_gorge_link_conf_t *conf = &link->conf;
  double due = conf->calls->due(conf->cache);
  bool busy = conf->calls->parked(conf->cache) > 0, connected = false;
  for (const ngx_gorge_node_t *node = &link->node; node != NULL; node = node->next) {
    busy = busy || conf->calls->pending(conf->cache, node->number) > 0;
    connected = connected || node->connection != NULL;
  }
  if (retry > 0 && (due < 0 || due > (double)retry)) {
    due = (double)retry;
  }
  link->timer.cancelable =
      busy ? 0 : 1; /* an idle connection does not keep an exiting worker; it stays for requests that drain */
  if (!connected && !busy) {
    due = -1; /* nothing to be closed, nobody to be told */
  }
  if (due < 0) {
    if (link->timer.timer_set) {
      ngx_del_timer(&link->timer);
    }
    return;
  }
  ngx_msec_t at = ngx_current_msec + (ngx_msec_t)due + SLACK_MS;
  if (link->timer.timer_set && (ngx_msec_int_t)(at - link->due) >= 0) {
    return; /* it fires early, looks, and is armed anew: cheaper than moving it with every command */
  }
  link->due = at;
  ngx_add_timer(&link->timer, (ngx_msec_t)due + SLACK_MS);
}

/* The end of whatever happened: deadlines, what is to be sent next, who is to be woken. */
static void settle(ngx_gorge_link_t *link) {
  const ngx_gorge_link_conf_t *conf = &link->conf;
  if (conf->calls->due(conf->cache) == 0) {
    (void)conf->calls->tick(conf->cache, 0);
    drop(link);
  }
  ngx_msec_t retry = advance(link);
  wake(link);
  arm(link, retry);
}

static void turn_handler(ngx_event_t *event) { settle(event->data); }

static void timer_handler(ngx_event_t *event) { settle(event->data); }

static void read_handler(ngx_event_t *event) {
  ngx_connection_t *c = event->data;
  ngx_gorge_node_t *node = c->data;
  if (c->close) {
    lost(node, "worker_shutdown_timeout is over");
  } else if (!node->connecting) {
    receive(node);
  }
  settle(node->link);
}

static void write_handler(ngx_event_t *event) {
  ngx_connection_t *c = event->data;
  ngx_gorge_node_t *node = c->data;
  if (node->connecting) {
    connect_done(node);
  }
  settle(node->link);
}

void ngx_gorge_link_init(ngx_gorge_link_t *link) {
  link->log = *ngx_cycle->log;
  if (link->log.log_level < NGX_LOG_DEBUG && link->log.log_level > NGX_LOG_ALERT) {
    link->log.log_level = NGX_LOG_ALERT;
  }
  link->node.link = link;
  link->last = &link->node;
  link->count = 1;
  link->turn.handler = turn_handler;
  link->timer.handler = timer_handler;
  link->turn.data = link->timer.data = link;
  link->turn.log = link->timer.log = &link->log;
  ngx_add_timer(&link->timer, 1); /* what is posted before the event loop runs would wait for its first event */
  link->due = ngx_current_msec + 1;
}

void ngx_gorge_link_kick(ngx_gorge_link_t *link) {
  post_turn(link);
  link->kicks++;
  if (link->kicks % KICKS_TO_SEND == 0) {
    for (ngx_gorge_node_t *node = &link->node; node != NULL; node = node->next) {
      flush(node);
    }
  }
}

void ngx_gorge_link_look(ngx_gorge_link_t *link) {
  (void)link->conf.calls->tick(link->conf.cache, 0);
  settle(link);
}

void ngx_gorge_link_fini(ngx_gorge_link_t *link) {
  close_connection(&link->node);
  for (ngx_gorge_node_t *node = link->node.next, *next; node != NULL; node = next) {
    next = node->next;
    close_connection(node);
    ngx_free(node);
  }
  link->node.next = NULL;
  link->last = &link->node;
  link->count = 1;
  if (link->turn.posted) {
    ngx_delete_posted_event(&link->turn);
  }
  if (link->timer.timer_set) {
    ngx_del_timer(&link->timer);
  }
}
