/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: a connection of its own loop that is waited for. */
#include <ev.h>
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "drive/ev.h"
#include "engine/engine.h"

struct gorge_asker {
  struct ev_loop *loop;
  struct gorge_endpoint *endpoint;
  struct gorge_conn *conn;
  struct gorge_ev_link *link;
  struct gorge_tls_config tls; /* of the connection to be made; it is made once */
  struct gorge_command command;
  bool lost;
  bool asking;
  int status; /* of the answer, and where its text goes */
  char *buf;
  uint32_t size;
};

enum { DEPTH_MAX = 4, ARGUMENTS_MAX = 64 };

/* Appends bytes to a NUL-terminated text, as far as they fit. */
static void append(char *buf, uint32_t size, const char *text, size_t len) {
  size_t have = strlen(buf), room = size - 1 - have;
  len = len < room ? len : room;
  memcpy(buf + have, text, len);
  buf[have + len] = '\0';
}

static void append_reply(char *buf, uint32_t size, const redisReply *r, int depth) {
  char number[32];
  switch (r->type) {
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR: append(buf, size, r->str, r->len); break;
    case REDIS_REPLY_INTEGER:
      append(buf, size, number, (size_t)snprintf(number, sizeof number, "%lld", r->integer));
      break;
    case REDIS_REPLY_ARRAY:
      for (size_t i = 0; i < r->elements && depth < DEPTH_MAX; i++) {
        append(buf, size, "\n", i > 0);
        append_reply(buf, size, r->element[i], depth + 1);
      }
      break;
    default: break;
  }
}

static void on_answer(struct gorge_command *cmd, int status, const struct redisReply *r, uint64_t now_ms) {
  (void)now_ms;
  gorge_asker *a = (void *)((char *)cmd - offsetof(gorge_asker, command));
  a->asking = false;
  if (r == NULL) {
    a->status = status;
    return;
  }
  append_reply(a->buf, a->size, r, 0);
  a->status = r->type == REDIS_REPLY_ERROR ? GORGE_ERR_REDIS : r->type == REDIS_REPLY_NIL ? GORGE_MISS : GORGE_OK;
}

/* The connection, or what became of it, is of no use any more: says why. */
static int give_up(gorge_asker *a, int status, char *buf, uint32_t size) {
  const char *why = gorge_conn_reason(a->conn);
  if (status != GORGE_ERR_DOWN || why[0] == '\0') {
    why = gorge_status_text(status);
  }
  buf[0] = '\0';
  append(buf, size, why, strlen(why));
  a->lost = true;
  return GORGE_ERR_DOWN;
}

int gorge_ask(gorge_asker *a, int argc, const char **argv, char *buf, uint32_t size) {
  size_t len[ARGUMENTS_MAX];
  if (size == 0 || argc < 1 || argc > ARGUMENTS_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  for (int i = 0; i < argc; i++) {
    len[i] = strlen(argv[i]);
  }
  buf[0] = '\0';
  a->buf = buf;
  a->size = size;
  a->command = (struct gorge_command){.done = on_answer};
  int status = a->lost ? GORGE_ERR_DOWN : gorge_conn_submit(a->conn, &a->command, argc, argv, len, gorge_clock_ms());
  a->asking = status == GORGE_OK;
  gorge_ev_link_kick(a->link);
  while (a->asking) { /* the link has a timer: for the answer, or for its absence */
    ev_run(a->loop, EVRUN_ONCE);
  }
  status = status == GORGE_OK ? a->status : status;
  return status < 0 && status != GORGE_ERR_REDIS ? give_up(a, status, buf, size) : status;
}

static int connect_now(gorge_asker *a, char *err, uint32_t err_size) {
  gorge_conn_want(a->conn);
  gorge_ev_link_kick(a->link);
  while (gorge_conn_state(a->conn) != GORGE_CONN_READY) {
    if (gorge_conn_state(a->conn) == GORGE_CONN_DOWN && gorge_conn_reason(a->conn)[0] != '\0') {
      return give_up(a, GORGE_ERR_DOWN, err, err_size);
    }
    ev_run(a->loop, EVRUN_ONCE);
  }
  return GORGE_OK;
}

static int set_up(gorge_asker *a, const struct gorge_config *config) {
  struct gorge_conn_config redis = {
      .username = config->username,
      .password = config->password,
      .db = config->db,
      .connect_timeout_ms = config->connect_timeout_ms,
      .timeout_ms = config->timeout_ms,
      .tls = config->tls != GORGE_TLS_OFF ? &a->tls : NULL,
      .host = config->redis_host,
  };
  a->loop = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOENV);
  a->endpoint = gorge_endpoint_create(config->redis_host, (uint16_t)config->redis_port, config->redis_path);
  a->conn = gorge_conn_create(&redis);
  if (a->loop == NULL || a->endpoint == NULL || a->conn == NULL) {
    return GORGE_ERR_MEMORY;
  }
  a->link = gorge_ev_link_create(a->loop, a->conn, a->endpoint, NULL, NULL);
  return a->link != NULL ? GORGE_OK : GORGE_ERR_MEMORY;
}

int gorge_ask_open(const struct gorge_config *config, gorge_asker **out, char *err, uint32_t err_size) {
  gorge_asker *a = calloc(1, sizeof *a);
  *out = NULL;
  if (a == NULL || err_size == 0) {
    free(a);
    return GORGE_ERR_MEMORY;
  }
  err[0] = '\0';
  int status = GORGE_ERR_MEMORY;
  if (gorge_tls_config_copy(&a->tls, config)) {
    status = set_up(a, config);
  }
  if (status == GORGE_OK) {
    status = connect_now(a, err, err_size);
  }
  if (status == GORGE_OK) {
    *out = a;
  } else {
    gorge_ask_end(a);
  }
  return status;
}

void gorge_ask_end(gorge_asker *a) {
  if (a == NULL) {
    return;
  }
  gorge_ev_link_destroy(a->link);
  gorge_conn_destroy(a->conn);
  gorge_endpoint_destroy(a->endpoint);
  if (a->loop != NULL) {
    ev_loop_destroy(a->loop);
  }
  gorge_tls_config_free(&a->tls);
  free(a);
}
