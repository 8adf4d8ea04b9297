/* SPDX-License-Identifier: MIT */
#include "ngx_gorge.h"

enum {
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

static void close_connection(ngx_gorge_link_t *link) {
  if (link->connection != NULL) {
    ngx_close_connection(link->connection);
    link->connection = NULL;
  }
  link->connecting = 0;
}

/* The connection is lost or cannot be had: its commands fail. */
static void lost(ngx_gorge_link_t *link, const char *reason) {
  close_connection(link);
  link->conf.calls->closed(link->conf.cache, reason);
}

/* The same, with the text of an errno. */
static void lost_by(ngx_gorge_link_t *link, const char *what, ngx_err_t err) {
  u_char text[128], reason[192];
  *ngx_strerror(err, text, sizeof text - 1) = '\0';
  *ngx_snprintf(reason, sizeof reason - 1, "%s: %s", what, text) = '\0';
  lost(link, (const char *)reason);
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
static ngx_connection_t *open_socket(ngx_gorge_link_t *link, int family) {
  ngx_socket_t fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd == (ngx_socket_t)-1) {
    lost_by(link, "socket", ngx_socket_errno);
    return NULL;
  }
  int on = 1;
  if (family != AF_UNIX) {
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* without it merely slower */
  }
  ngx_connection_t *c = ngx_get_connection(fd, &link->log);
  if (c == NULL) {
    (void)ngx_close_socket(fd);
    lost(link, "worker_connections are not enough");
    return NULL;
  }
  c->number = ngx_atomic_fetch_add(ngx_connection_counter, 1);
  c->type = SOCK_STREAM;
  c->recv = ngx_recv;
  c->send = ngx_send;
  c->log_error = NGX_ERROR_INFO;
  c->data = link;
  c->read->log = c->write->log = &link->log;
  c->read->handler = read_handler;
  c->write->handler = write_handler;
  return c;
}

static void opened(ngx_gorge_link_t *link) {
  link->connecting = 0;
  link->connection->write->ready = 1;
  link->conf.calls->opened(link->conf.cache);
}

static void connect_to(ngx_gorge_link_t *link, const address_t *address, socklen_t len) {
  ngx_connection_t *c = open_socket(link, address->any.sa_family);
  if (c == NULL) {
    return;
  }
  link->connection = c;
  link->connecting = 1;
  int rc = connect(c->fd, &address->any, len);
  ngx_err_t err = rc == 0 ? 0 : ngx_socket_errno;
  if (err != 0 && err != NGX_EINPROGRESS) {
    lost_by(link, "connect", err);
  } else if (ngx_handle_read_event(c->read, 0) != NGX_OK || ngx_handle_write_event(c->write, 0) != NGX_OK) {
    lost(link, "no event for the connection");
  } else if (err == 0) {
    opened(link);
  }
}

/* Connects if there is a reason to. Returns when to try again, in ms; 0: no need to. */
static ngx_msec_t connect_now(ngx_gorge_link_t *link) {
  const ngx_gorge_link_conf_t *conf = &link->conf;
  char host[256];
  uint32_t port = 0;
  if (link->connection != NULL || conf->calls->pending(conf->cache) == 0) {
    return 0;
  }
  int status = conf->calls->connect(conf->cache, host, sizeof host, &port);
  if (status == GORGE_PENDING) {
    return RESOLVE_MS;
  }
  if (status != GORGE_OK) {
    return 0;
  }
  address_t address;
  socklen_t len = parse_address(host, port, &address);
  if (len == 0) {
    lost(link, "not an address");
  } else {
    connect_to(link, &address, len);
  }
  return 0;
}

/* The socket has become writable while connecting: the attempt is decided. */
static void connect_done(ngx_gorge_link_t *link) {
  int err = 0;
  socklen_t len = sizeof err;
  if (getsockopt(link->connection->fd, SOL_SOCKET, SO_ERROR, &err, &len) != 0) {
    err = ngx_socket_errno;
  }
  if (err != 0) {
    lost_by(link, "connect", err);
  } else {
    opened(link);
  }
}

/* ---- moving bytes ---- */

/* Sends what there is; the rest waits for the socket. */
static void flush(ngx_gorge_link_t *link) {
  const ngx_gorge_link_conf_t *conf = &link->conf;
  for (int i = 0; link->connection != NULL && !link->connecting && link->connection->write->ready; i++) {
    ngx_connection_t *c = link->connection;
    const char *ptr;
    uint64_t len;
    conf->calls->output(conf->cache, &ptr, &len);
    if (len == 0) {
      return;
    }
    if (i == SENDS_PER_TURN) {
      ngx_post_event(&link->turn, &ngx_posted_next_events);
      return;
    }
    ssize_t n = c->send(c, (u_char *)ptr, (size_t)len);
    if (n > 0) {
      conf->calls->sent(conf->cache, (uint64_t)n);
    } else if (n != NGX_AGAIN) {
      lost_by(link, "send", ngx_socket_errno);
    }
  }
  ngx_connection_t *c = link->connection;
  if (c != NULL && ngx_handle_write_event(c->write, 0) != NGX_OK) {
    lost(link, "no event for the connection");
  }
}

/* Reads until there is no more, or enough for this time. */
static void receive(ngx_gorge_link_t *link) {
  const ngx_gorge_link_conf_t *conf = &link->conf;
  ngx_connection_t *c = link->connection;
  for (int i = 0; c->read->ready; i++) {
    if (i == READS_PER_EVENT) {
      ngx_post_event(c->read, &ngx_posted_next_events);
      return;
    }
    ssize_t n = c->recv(c, buffer, sizeof buffer);
    if (n > 0) {
      if (conf->calls->input(conf->cache, (const char *)buffer, (uint64_t)n) != GORGE_OK) {
        lost(link, "protocol error");
        return;
      }
    } else if (n == 0) {
      lost(link, "closed by Redis");
      return;
    } else if (n != NGX_AGAIN) {
      lost_by(link, "recv", ngx_socket_errno);
      return;
    }
  }
  if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
    lost(link, "no event for the connection");
  }
}

/* ---- time ---- */

static void arm(ngx_gorge_link_t *link, ngx_msec_t retry) {
  const ngx_gorge_link_conf_t *conf = &link->conf;
  double due = conf->calls->due(conf->cache);
  bool busy = conf->calls->pending(conf->cache) > 0;
  if (retry > 0 && (due < 0 || due > (double)retry)) {
    due = (double)retry;
  }
  link->timer.cancelable =
      busy ? 0 : 1; /* an idle connection does not keep an exiting worker; it stays for requests that drain */
  if (link->connection == NULL && !busy) {
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
  if (conf->calls->due(conf->cache) == 0 && conf->calls->tick(conf->cache) != 0) {
    close_connection(link); /* libgorge knows */
  }
  ngx_msec_t retry = connect_now(link);
  flush(link);
  wake(link);
  arm(link, retry);
}

static void turn_handler(ngx_event_t *event) { settle(event->data); }

static void timer_handler(ngx_event_t *event) { settle(event->data); }

static void read_handler(ngx_event_t *event) {
  ngx_connection_t *c = event->data;
  ngx_gorge_link_t *link = c->data;
  if (c->close) {
    lost(link, "worker_shutdown_timeout is over");
  } else if (!link->connecting) {
    receive(link);
  }
  settle(link);
}

static void write_handler(ngx_event_t *event) {
  ngx_connection_t *c = event->data;
  ngx_gorge_link_t *link = c->data;
  if (link->connecting) {
    connect_done(link);
  }
  settle(link);
}

void ngx_gorge_link_init(ngx_gorge_link_t *link) {
  link->log = *ngx_cycle->log;
  if (link->log.log_level < NGX_LOG_DEBUG && link->log.log_level > NGX_LOG_ALERT) {
    link->log.log_level = NGX_LOG_ALERT;
  }
  link->turn.handler = turn_handler;
  link->timer.handler = timer_handler;
  link->turn.data = link->timer.data = link;
  link->turn.log = link->timer.log = &link->log;
  ngx_add_timer(&link->timer, 1); /* what is posted before the event loop runs would wait for its first event */
  link->due = ngx_current_msec + 1;
}

void ngx_gorge_link_kick(ngx_gorge_link_t *link) {
  if (!link->turn.posted) {
    ngx_post_event(&link->turn, &ngx_posted_events);
  }
}

void ngx_gorge_link_look(ngx_gorge_link_t *link) {
  (void)link->conf.calls->tick(link->conf.cache);
  settle(link);
}

void ngx_gorge_link_fini(ngx_gorge_link_t *link) {
  close_connection(link);
  if (link->turn.posted) {
    ngx_delete_posted_event(&link->turn);
  }
  if (link->timer.timer_set) {
    ngx_del_timer(&link->timer);
  }
}
