/* SPDX-License-Identifier: MIT */
#include "drive/ev.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

enum {
  READ_SIZE = 64 << 10,
  READS_PER_TURN = 4, /* a large reply must not keep the loop from its other watchers */
  SENDS_PER_TURN = 8,
  RETRY_MS = 8, /* while a name is being resolved, or the backlog of a unix socket is full */
  SLACK_MS = 1  /* the clock is coarse: a timer on the dot would often find that it is not time yet */
};

struct gorge_ev_link {
  struct ev_loop *loop;
  struct gorge_conn *conn;
  struct gorge_endpoint *endpoint;
  void (*after)(void *ctx);
  void *ctx;
  int fd;         /* -1: none */
  bool wanted;    /* the connection wants a transport and has not been told of one */
  bool broken;    /* `reason` has yet to be told to the connection */
  uint32_t tried; /* addresses that failed since it is wanted */
  struct gorge_address address;
  ev_io readable, writable;
  ev_timer timer;
  uint64_t armed_ms; /* when the timer, if active, fires at the latest */
  char reason[128];
  char buffer[READ_SIZE];
};

static void close_socket(struct gorge_ev_link *l) {
  if (l->fd >= 0) {
    ev_io_stop(l->loop, &l->readable);
    ev_io_stop(l->loop, &l->writable);
    close(l->fd);
    l->fd = -1;
  }
}

/* The transport is gone or cannot be had. error: an errno, or 0 when `what` says it all. */
static void give_up(struct gorge_ev_link *l, const char *what, int error) {
  char text[96];
  close_socket(l);
  l->wanted = false;
  l->broken = true;
  if (error == 0) {
    snprintf(l->reason, sizeof l->reason, "%s", what);
  } else {
    snprintf(l->reason, sizeof l->reason, "%s: %s", what, strerror_r(error, text, sizeof text));
  }
}

static int open_socket(struct gorge_ev_link *l) {
  int family = l->address.sa.any.sa_family;
  int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd >= 0 && family != AF_UNIX) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* without it merely slower */
  }
  return fd;
}

static void opened(struct gorge_ev_link *l, uint64_t now_ms) {
  l->wanted = false;
  ev_io_stop(l->loop, &l->writable);
  ev_io_start(l->loop, &l->readable);
  gorge_conn_opened(l->conn, now_ms);
}

static void watch_socket(struct gorge_ev_link *l, int fd) {
  l->fd = fd;
  ev_io_set(&l->readable, fd, EV_READ);
  ev_io_set(&l->writable, fd, EV_WRITE);
}

/* After a failed attempt: whether another address is left to try at once. */
static bool next_address(struct gorge_ev_link *l) {
  return ++l->tried < gorge_endpoint_failed(l->endpoint, &l->address);
}

/* One attempt. Returns 0, or the errno of an address that does not answer. */
static int attempt(struct gorge_ev_link *l, uint64_t now_ms) {
  int fd = open_socket(l);
  if (fd < 0) {
    return errno;
  }
  int rc, error;
  do {
    rc = connect(fd, &l->address.sa.any, l->address.len);
    error = rc == 0 ? 0 : errno;
  } while (error == EINTR && l->address.sa.any.sa_family == AF_UNIX);
  if (error == EAGAIN) { /* a unix socket whose backlog is full; nothing will tell when there is room */
    close(fd);
    return 0;
  }
  if (error != 0 && error != EINPROGRESS && error != EINTR) {
    close(fd);
    return error;
  }
  watch_socket(l, fd);
  if (error == 0) {
    opened(l, now_ms);
  } else {
    ev_io_start(l->loop, &l->writable);
  }
  return 0;
}

/* Wanted and without socket: asks for the address and connects. What is not decided is tried again by the timer. */
static void connect_now(struct gorge_ev_link *l, uint64_t now_ms) {
  const char *reason = "the name could not be resolved";
  int error;
  do {
    int status = gorge_endpoint_address(l->endpoint, now_ms, &l->address, &reason);
    if (status == GORGE_PENDING) {
      return;
    }
    if (status != GORGE_OK) {
      give_up(l, reason, 0);
      return;
    }
    gorge_conn_towards(l->conn, l->address.place);
    error = attempt(l, now_ms);
  } while (error != 0 && next_address(l));
  if (error != 0) {
    give_up(l, "connect", error);
  }
}

/* The socket has become writable while connecting: the attempt is decided. */
static void connect_done(struct gorge_ev_link *l, uint64_t now_ms) {
  int error = 0;
  socklen_t len = sizeof error;
  if (getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) {
    error = errno;
  }
  if (error == 0) {
    opened(l, now_ms);
    return;
  }
  close_socket(l);
  if (next_address(l)) {
    connect_now(l, now_ms);
  } else {
    give_up(l, "connect", error);
  }
}

static bool connected(const struct gorge_ev_link *l) { return l->fd >= 0 && !l->wanted; }

/* Sends what there is; the rest waits for the socket. */
static void flush(struct gorge_ev_link *l) {
  const char *ptr;
  size_t len;
  for (int i = 0; connected(l); i++) {
    gorge_conn_output(l->conn, &ptr, &len);
    if (len == 0) {
      ev_io_stop(l->loop, &l->writable);
      return;
    }
    ssize_t n = i < SENDS_PER_TURN ? send(l->fd, ptr, len, MSG_NOSIGNAL) : 0;
    if (n > 0) {
      gorge_conn_sent(l->conn, (size_t)n);
    } else if (n == 0 || errno == EAGAIN) {
      ev_io_start(l->loop, &l->writable);
      return;
    } else if (errno == EPIPE || errno == ECONNRESET) {
      ev_io_stop(l->loop, &l->writable);
      return; /* it has hung up: the reader finds out, after what it had to say */
    } else if (errno != EINTR) {
      give_up(l, "send", errno);
    }
  }
}

/* Reads until there is no more, or enough for this turn: the watcher is level-triggered. */
static void receive(struct gorge_ev_link *l, uint64_t now_ms) {
  for (int i = 0; i < READS_PER_TURN && connected(l); i++) {
    ssize_t n = recv(l->fd, l->buffer, sizeof l->buffer, 0);
    if (n > 0) {
      int status = gorge_conn_input(l->conn, l->buffer, (size_t)n, now_ms);
      if (status != GORGE_OK && connected(l)) {
        give_up(l, gorge_status_text(status), 0);
      } else if ((size_t)n < sizeof l->buffer) {
        return;
      }
    } else if (n == 0) {
      give_up(l, "closed by Redis", 0);
    } else if (errno == EAGAIN) {
      return;
    } else if (errno != EINTR) {
      give_up(l, "recv", errno);
    }
  }
}

static void arm(struct gorge_ev_link *l, uint64_t now_ms) {
  uint64_t next = l->broken ? now_ms : gorge_conn_next_ms(l->conn);
  if (l->wanted && l->fd < 0 && next > now_ms + RETRY_MS) {
    next = now_ms + RETRY_MS;
  }
  if (next == UINT64_MAX) {
    ev_timer_stop(l->loop, &l->timer);
    return;
  }
  if (ev_is_active(&l->timer) && next >= l->armed_ms) {
    return; /* it fires early, looks, and is armed anew: cheaper than moving it with every command */
  }
  uint64_t delay_ms = l->broken ? 0 : next > now_ms ? next - now_ms + SLACK_MS : SLACK_MS;
  l->armed_ms = next;
  ev_timer_stop(l->loop, &l->timer);
  ev_timer_set(&l->timer, (double)delay_ms / 1000, 0.);
  ev_timer_start(l->loop, &l->timer);
}

/* Connects or sends, whatever is due. Runs no completion. */
static void advance(struct gorge_ev_link *l, uint64_t now_ms) {
  if (l->broken) {
    return; /* the connection has yet to hear of it */
  }
  if (l->fd < 0 && !l->wanted && gorge_conn_want_connect(l->conn, now_ms)) {
    l->wanted = true;
    l->tried = 0;
  }
  if (l->fd < 0 && l->wanted) {
    connect_now(l, now_ms);
  }
  flush(l);
}

/* The end of each turn of the loop: the connection hears of what broke and what is late; then on with what is due. */
static void settle(struct gorge_ev_link *l, uint64_t now_ms) {
  if (!l->broken && gorge_conn_tick(l->conn, now_ms)) {
    if (l->wanted && l->fd >= 0) {
      gorge_endpoint_failed(l->endpoint, &l->address); /* silent: another address may answer */
    }
    give_up(l, !l->wanted ? "no answer in time" : l->fd >= 0 ? "connect: timed out" : "no address in time", 0);
  }
  if (l->broken) {
    l->broken = false;
    gorge_conn_closed(l->conn, now_ms, l->reason);
  }
  advance(l, now_ms);
  arm(l, now_ms);
  if (l->after != NULL) {
    l->after(l->ctx); /* last: it may destroy the link */
  }
}

static void on_readable(struct ev_loop *loop, ev_io *w, int events) {
  (void)loop;
  struct gorge_ev_link *l = w->data;
  uint64_t now_ms = gorge_clock_ms();
  if ((events & EV_ERROR) != 0) {
    give_up(l, "the event loop cannot watch the socket", 0);
  }
  receive(l, now_ms);
  settle(l, now_ms);
}

static void on_writable(struct ev_loop *loop, ev_io *w, int events) {
  (void)loop;
  struct gorge_ev_link *l = w->data;
  uint64_t now_ms = gorge_clock_ms();
  if ((events & EV_ERROR) != 0) {
    give_up(l, "the event loop cannot watch the socket", 0);
  } else if (l->wanted) {
    connect_done(l, now_ms);
  }
  settle(l, now_ms);
}

/* A process that stood still finds the timer due and, unless it is told so first, nothing to read: what has come meanwhile is not late. */
static void on_timer(struct ev_loop *loop, ev_timer *w, int events) {
  (void)loop, (void)events;
  struct gorge_ev_link *l = w->data;
  uint64_t now_ms = gorge_clock_ms();
  receive(l, now_ms);
  settle(l, now_ms);
}

struct gorge_ev_link *gorge_ev_link_create(struct ev_loop *loop, struct gorge_conn *conn,
                                           struct gorge_endpoint *endpoint, void (*after)(void *ctx), void *ctx) {
  struct gorge_ev_link *l = malloc(sizeof *l);
  if (l == NULL) {
    return NULL;
  }
  memset(l, 0, offsetof(struct gorge_ev_link, buffer)); /* the buffer costs no page before it is used */
  l->loop = loop;
  l->conn = conn;
  l->endpoint = endpoint;
  l->after = after;
  l->ctx = ctx;
  l->fd = -1;
  ev_io_init(&l->readable, on_readable, -1, EV_READ);
  ev_io_init(&l->writable, on_writable, -1, EV_WRITE);
  ev_timer_init(&l->timer, on_timer, 0., 0.);
  l->readable.data = l->writable.data = l->timer.data = l;
  uint64_t now_ms = gorge_clock_ms();
  advance(l, now_ms);
  arm(l, now_ms);
  return l;
}

void gorge_ev_link_destroy(struct gorge_ev_link *l) {
  if (l == NULL) {
    return;
  }
  enum gorge_conn_state state = gorge_conn_state(l->conn);
  if (!l->broken) {
    give_up(l, "closed", 0); /* a kick from the completions below must not connect again */
  }
  if (state != GORGE_CONN_DOWN && state != GORGE_CONN_CLOSED) {
    gorge_conn_closed(l->conn, gorge_clock_ms(), l->reason);
  }
  ev_timer_stop(l->loop, &l->timer);
  free(l);
}

void gorge_ev_link_lead(struct gorge_ev_link *l, struct gorge_endpoint *endpoint) { l->endpoint = endpoint; }

void gorge_ev_link_look(struct gorge_ev_link *l) { settle(l, gorge_clock_ms()); }

void gorge_ev_link_kick(struct gorge_ev_link *l) {
  uint64_t now_ms = gorge_clock_ms();
  advance(l, now_ms);
  arm(l, now_ms);
}
