/* SPDX-License-Identifier: MIT */
#include "io/conn.h"

#include <stdlib.h>
#include <string.h>

#include "io/conn_state.h"
#include "proto/command.h"

enum { BACKOFF_BASE_MS = 50, BACKOFF_CAP_MS = 2000, READY_HELD_MS = 1000, STALL_MIN_MS = 1000 };

/* In gorge_command.sequence: the number is one of `waiting`, not of `sent`. */
#define WAITING_BIT ((uint64_t)1 << 63)

static char *copy_text(const char *text, bool *failed) {
  char *copy = text != NULL ? strdup(text) : NULL;
  if (text != NULL && copy == NULL) {
    *failed = true;
  }
  return copy;
}

static void free_secret(const char *text) {
  if (text != NULL) {
    explicit_bzero((char *)text, strlen(text));
    free((char *)text);
  }
}

static uint64_t or_default(uint64_t value, uint64_t otherwise) { return value != 0 ? value : otherwise; }

struct gorge_conn *gorge_conn_create(const struct gorge_conn_config *config) {
  struct gorge_conn *c = calloc(1, sizeof *c);
  if (c == NULL) {
    return NULL;
  }
  bool failed = false;
  c->config = *config;
  c->config.username = copy_text(config->username, &failed);
  c->config.password = copy_text(config->password, &failed);
  c->config.host = copy_text(config->host, &failed);
  c->config.connect_timeout_ms = (uint32_t)or_default(config->connect_timeout_ms, 1000);
  c->config.timeout_ms = (uint32_t)or_default(config->timeout_ms, 500);
  c->config.max_pending = (uint32_t)or_default(config->max_pending, 4096);
  c->stall_ms = 2 * (uint64_t)c->config.timeout_ms;
  if (c->stall_ms < STALL_MIN_MS) {
    c->stall_ms = STALL_MIN_MS;
  }
  c->deadline_ms = UINT64_MAX;
  gorge_buf_init(&c->out);
  gorge_buf_init(&c->held);
  gorge_pending_init(&c->sent);
  gorge_pending_init(&c->waiting);
  gorge_backoff_init(&c->backoff, BACKOFF_BASE_MS, BACKOFF_CAP_MS, config->seed);
  if (failed) {
    gorge_conn_destroy(c);
    return NULL;
  }
  return c;
}

/* What completions submit meanwhile gets numbers beyond `end` and stays. */
static void fail_all(struct gorge_conn *c, int status, uint64_t now_ms) {
  uint64_t end = c->waiting.tail;
  gorge_buf_clear(&c->out);
  gorge_buf_clear(&c->held);
  c->deadline_ms = UINT64_MAX;
  while (gorge_pending_count(&c->sent) > 0) {
    gorge_conn_complete(gorge_pending_pop(&c->sent).cmd, status, NULL, now_ms);
  }
  while (c->waiting.head < end) {
    gorge_conn_complete(gorge_pending_pop(&c->waiting).cmd, status, NULL, now_ms);
  }
}

void gorge_conn_close(struct gorge_conn *c) {
  c->state = GORGE_CONN_CLOSED;
  fail_all(c, GORGE_ERR_CLOSED, 0);
}

void gorge_conn_destroy(struct gorge_conn *c) {
  if (c == NULL) {
    return;
  }
  gorge_conn_close(c);
  gorge_conn_tls_close(c);
  gorge_reply_fini(&c->parser);
  gorge_pending_fini(&c->sent);
  gorge_pending_fini(&c->waiting);
  gorge_buf_fini(&c->out);
  gorge_buf_fini(&c->held);
  free_secret(c->config.username);
  free_secret(c->config.password);
  free((char *)c->config.host);
  free(c);
}

/* ---- user side ---- */

static bool has_transport(const struct gorge_conn *c) {
  return c->state == GORGE_CONN_CONNECTING || c->state == GORGE_CONN_HANDSHAKE || c->state == GORGE_CONN_READY;
}

bool gorge_conn_busy(const struct gorge_conn *c) { return gorge_conn_pending(c) >= (c->config.max_pending + 3) / 4; }

static bool may_retry(const struct gorge_conn *c, uint64_t now_ms) {
  return now_ms >= c->retry_ms || gorge_conn_moved(c);
}

static int may_submit(struct gorge_conn *c, uint64_t now_ms) {
  if (c->state == GORGE_CONN_CLOSED) {
    return GORGE_ERR_CLOSED;
  }
  if (c->streaming) {
    return GORGE_ERR_UNSUPPORTED;
  }
  c->wanted = true;
  gorge_conn_leave_if_moved(c);
  if (c->doomed || (c->state == GORGE_CONN_DOWN && !may_retry(c, now_ms))) {
    return GORGE_ERR_DOWN;
  }
  if (gorge_conn_pending(c) >= c->config.max_pending && !c->in_ready) {
    return GORGE_ERR_FULL;
  }
  return GORGE_OK;
}

int gorge_conn_submit(struct gorge_conn *c, struct gorge_command *cmd, int argc, const char *const *argv,
                      const size_t *argv_len, uint64_t now_ms) {
  int status = may_submit(c, now_ms);
  if (status != GORGE_OK) {
    return status;
  }
  bool ready = c->state == GORGE_CONN_READY;
  struct gorge_buf *bytes = ready ? &c->out : &c->held;
  struct gorge_pending *places = ready ? &c->sent : &c->waiting;
  size_t before = gorge_buf_len(bytes);
  status = gorge_pending_reserve(places);
  if (status == GORGE_OK) {
    status = gorge_command_append(bytes, argc, argv, argv_len);
  }
  if (status != GORGE_OK) {
    return status;
  }
  if (ready && gorge_pending_count(&c->sent) == 0 && !c->awaiting) {
    c->heard_ms = now_ms;
  }
  cmd->sequence = gorge_pending_push(places, cmd, gorge_buf_len(bytes) - before) | (ready ? 0 : WAITING_BIT);
  if (cmd->deadline_ms == 0) {
    cmd->deadline_ms = now_ms + c->config.timeout_ms;
  }
  if (cmd->deadline_ms < c->deadline_ms) {
    c->deadline_ms = cmd->deadline_ms;
  }
  return GORGE_OK;
}

void gorge_conn_cancel(struct gorge_conn *c, struct gorge_command *cmd) {
  struct gorge_pending *places = (cmd->sequence & WAITING_BIT) != 0 ? &c->waiting : &c->sent;
  struct gorge_pending_place *place = gorge_pending_at(places, cmd->sequence & ~WAITING_BIT);
  cmd->sequence = 0;
  if (place != NULL && place->cmd == cmd) {
    place->cmd = NULL;
  }
}

void gorge_conn_want(struct gorge_conn *c) { c->wanted = true; }

void gorge_conn_fail(struct gorge_conn *c, const char *reason) { gorge_conn_doom(c, GORGE_ERR_DOWN, reason, NULL, 0); }

enum gorge_conn_state gorge_conn_state(const struct gorge_conn *c) { return c->state; }

int gorge_conn_failure(const struct gorge_conn *c) { return c->doom_status; }

const char *gorge_conn_reason(const struct gorge_conn *c) { return c->reason; }

uint32_t gorge_conn_pending(const struct gorge_conn *c) {
  return (uint32_t)(gorge_pending_count(&c->sent) + gorge_pending_count(&c->waiting));
}

uint64_t gorge_conn_connects(const struct gorge_conn *c) { return c->connects; }

void gorge_conn_on_state(struct gorge_conn *c, void (*ready)(void *ctx, uint64_t now_ms),
                         void (*lost)(void *ctx, uint64_t now_ms), void *ctx) {
  c->on_ready = ready;
  c->on_lost = lost;
  c->state_ctx = ctx;
}

/* ---- driver side ---- */

/* The reason is shown to people: what a server sent must not carry control bytes into a terminal or a log. */
static void set_reason(struct gorge_conn *c, const char *what, const char *text, size_t text_len) {
  size_t at = 0, what_len = strlen(what);
  for (size_t i = 0; i < what_len + text_len && at < sizeof c->reason - 1; i++) {
    unsigned char byte = (unsigned char)(i < what_len ? what[i] : text[i - what_len]);
    c->reason[at++] = byte >= 0x20 && byte < 0x7f ? (char)byte : '?';
  }
  c->reason[at] = '\0';
}

void gorge_conn_doom(struct gorge_conn *c, int status, const char *what, const char *text, size_t text_len) {
  if (has_transport(c) && !c->doomed) {
    c->doomed = true;
    c->doom_status = status;
    set_reason(c, what, text, text_len);
  }
}

bool gorge_conn_want_connect(struct gorge_conn *c, uint64_t now_ms) {
  if (c->state != GORGE_CONN_DOWN || !c->wanted || !may_retry(c, now_ms)) {
    return false;
  }
  if (gorge_conn_moved(c)) {
    gorge_backoff_reset(&c->backoff);
    c->place = __atomic_load_n(c->config.place, __ATOMIC_RELAXED); /* relaxed: see gorge_conn_moved */
  }
  c->headed = false;
  c->state = GORGE_CONN_CONNECTING;
  c->connect_by_ms = now_ms + c->config.connect_timeout_ms;
  return true;
}

void gorge_conn_opened(struct gorge_conn *c, uint64_t now_ms) {
  if (c->state != GORGE_CONN_CONNECTING || c->doomed) {
    return;
  }
  c->state = GORGE_CONN_HANDSHAKE;
  c->heard_ms = now_ms;
  int status = gorge_reply_init(&c->parser, c->config.max_reply_bytes);
  if (status != GORGE_OK) {
    gorge_conn_doom(c, GORGE_ERR_MEMORY, gorge_status_text(status), NULL, 0);
  } else if (c->config.tls != NULL) {
    gorge_conn_tls_open(c);
  } else {
    gorge_conn_greet(c);
  }
}

void gorge_conn_greet(struct gorge_conn *c) {
  int status = gorge_handshake_start(c);
  if (status != GORGE_OK) {
    gorge_conn_doom(c, GORGE_ERR_MEMORY, gorge_status_text(status), NULL, 0);
  }
}

void gorge_conn_closed(struct gorge_conn *c, uint64_t now_ms, const char *reason) {
  if (!has_transport(c)) {
    return;
  }
  bool was_ready = c->state == GORGE_CONN_READY;
  int status = c->doomed && c->doom_status == GORGE_ERR_PROTOCOL ? GORGE_ERR_PROTOCOL : GORGE_ERR_DOWN;
  if (!c->doomed) {
    const char *when = gorge_conn_tls_pending(c) ? " in the TLS handshake" : "";
    set_reason(c, reason != NULL ? reason : "connection closed", when, strlen(when));
    c->doom_status = GORGE_ERR_DOWN;
  }
  if (was_ready && now_ms >= c->ready_ms + READY_HELD_MS) {
    gorge_backoff_reset(&c->backoff);
  }
  c->state = GORGE_CONN_DOWN;
  c->retry_ms = now_ms + gorge_backoff_next_ms(&c->backoff);
  if (!c->wanted) { /* gorge_conn_release: no failure */
    gorge_backoff_reset(&c->backoff);
    c->retry_ms = now_ms;
  }
  c->doomed = c->streaming = c->awaiting = false;
  gorge_conn_tls_close(c);
  gorge_reply_fini(&c->parser);
  if (was_ready && c->on_lost != NULL) {
    c->on_lost(c->state_ctx, now_ms);
  }
  fail_all(c, status, now_ms);
}

void gorge_conn_output(struct gorge_conn *c, const char **ptr, size_t *len) {
  if (c->tls != NULL && !c->doomed) {
    gorge_conn_tls_output(c, ptr, len);
    return;
  }
  *len = c->doomed ? 0 : gorge_buf_len(&c->out);
  *ptr = *len > 0 ? gorge_buf_ptr(&c->out) : "";
}

void gorge_conn_sent(struct gorge_conn *c, size_t len) {
  if (c->tls != NULL) {
    gorge_tls_sent(c->tls, len);
  } else {
    gorge_buf_consume(&c->out, len);
  }
}

/* Moves what has waited behind what the ready hook has submitted. Commands given up meanwhile are never sent. */
static void flush_waiting(struct gorge_conn *c) {
  size_t at = 0;
  while (gorge_pending_count(&c->waiting) > 0 && !c->doomed) {
    struct gorge_pending_place place = *gorge_pending_at(&c->waiting, c->waiting.head);
    if (place.cmd != NULL) {
      int status = gorge_pending_reserve(&c->sent);
      if (status == GORGE_OK) {
        status = gorge_buf_append(&c->out, gorge_buf_ptr(&c->held) + at, place.len);
      }
      if (status != GORGE_OK) {
        gorge_conn_doom(c, GORGE_ERR_MEMORY, gorge_status_text(status), NULL, 0);
        return;
      }
      place.cmd->sequence = gorge_pending_push(&c->sent, place.cmd, place.len);
    }
    gorge_pending_pop(&c->waiting);
    at += place.len;
  }
  gorge_buf_clear(&c->held);
}

void gorge_conn_ready(struct gorge_conn *c, uint64_t now_ms) {
  c->state = GORGE_CONN_READY;
  c->ready_ms = now_ms;
  c->connects++;
  c->reason[0] = '\0';
  if (c->on_ready != NULL) {
    c->in_ready = true;
    c->on_ready(c->state_ctx, now_ms);
    c->in_ready = false;
  }
  if (!c->doomed) {
    flush_waiting(c);
  }
}

int gorge_conn_input(struct gorge_conn *c, const char *ptr, size_t len, uint64_t now_ms) {
  if (c->state != GORGE_CONN_HANDSHAKE && c->state != GORGE_CONN_READY) {
    return GORGE_ERR_DOWN;
  }
  if (len > 0) {
    c->heard_ms = now_ms;
    c->awaiting = false;
  }
  if (c->tls != NULL) {
    gorge_conn_tls_input(c, ptr, len, now_ms);
  } else {
    gorge_conn_parse(c, ptr, len, now_ms);
  }
  return c->doomed ? c->doom_status : GORGE_OK;
}

/* Completes what is overdue; what stays lowers c->deadline_ms. Completions may submit: only numbers below `end` count. */
static void expire(struct gorge_conn *c, struct gorge_pending *places, uint64_t now_ms) {
  uint64_t end = places->tail;
  for (uint64_t n = places->head; n < end; n++) {
    struct gorge_pending_place *place = gorge_pending_at(places, n);
    struct gorge_command *cmd = place != NULL ? place->cmd : NULL;
    if (cmd == NULL) {
      continue;
    }
    if (cmd->deadline_ms <= now_ms) {
      place->cmd = NULL;
      gorge_conn_complete(cmd, GORGE_ERR_TIMEOUT, NULL, now_ms);
    } else if (cmd->deadline_ms < c->deadline_ms) {
      c->deadline_ms = cmd->deadline_ms;
    }
  }
}

/* Without a transport nothing is due for places given up: they must not fill the queue. */
static void drop_waiting_head(struct gorge_conn *c) {
  while (gorge_pending_count(&c->waiting) > 0 && gorge_pending_at(&c->waiting, c->waiting.head)->cmd == NULL) {
    gorge_buf_consume(&c->held, gorge_pending_pop(&c->waiting).len);
  }
}

bool gorge_conn_tick(struct gorge_conn *c, uint64_t now_ms) {
  if (now_ms >= c->deadline_ms) {
    c->deadline_ms = UINT64_MAX;
    expire(c, &c->sent, now_ms);
    expire(c, &c->waiting, now_ms);
    drop_waiting_head(c);
  }
  gorge_conn_leave_if_moved(c);
  if (c->state == GORGE_CONN_CONNECTING || c->state == GORGE_CONN_HANDSHAKE) {
    if (now_ms >= c->connect_by_ms) {
      const char *what = gorge_conn_tls_pending(c) ? "the TLS handshake took too long: is the port one for TLS?"
                                                   : "connecting took too long";
      gorge_conn_doom(c, GORGE_ERR_TIMEOUT, what, NULL, 0);
    }
  } else if (c->state == GORGE_CONN_READY) {
    bool due = c->awaiting || gorge_pending_count(&c->sent) > 0;
    if (due && now_ms >= c->heard_ms + c->stall_ms) {
      gorge_conn_doom(c, GORGE_ERR_TIMEOUT, "no answer for too long", NULL, 0);
    }
  }
  return c->doomed;
}

uint64_t gorge_conn_next_ms(const struct gorge_conn *c) {
  uint64_t next = c->deadline_ms, other = UINT64_MAX;
  if (c->doomed) {
    return 0;
  }
  switch (c->state) {
    case GORGE_CONN_DOWN: other = !c->wanted ? UINT64_MAX : gorge_conn_moved(c) ? 0 : c->retry_ms; break;
    case GORGE_CONN_CONNECTING:
    case GORGE_CONN_HANDSHAKE: other = c->connect_by_ms; break;
    case GORGE_CONN_READY:
      other = c->awaiting || gorge_pending_count(&c->sent) > 0 ? c->heard_ms + c->stall_ms : UINT64_MAX;
      break;
    case GORGE_CONN_CLOSED: return UINT64_MAX;
  }
  return next < other ? next : other;
}
