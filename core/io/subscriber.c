/* SPDX-License-Identifier: MIT */
#include "io/subscriber.h"

#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/names.h"

enum { PING_MS = 1000 };

struct gorge_subscriber {
  struct gorge_conn *conn;
  struct gorge_names names;
  struct gorge_subscriber_hooks hooks;
  char own[GORGE_NAME_OWN_MAX + 1];
  size_t own_len;  /* 0: none */
  int confirmed;   /* channels */
  bool subscribed; /* all of them are confirmed */
  uint64_t ping_ms;
  uint64_t malformed;
};

static int channels(const struct gorge_subscriber *s) { return s->own_len > 0 ? 2 : 1; }

static void on_ready(void *ctx, uint64_t now_ms) {
  struct gorge_subscriber *s = ctx;
  const char *argv[] = {"SUBSCRIBE", s->names.channel, s->own};
  const size_t argv_len[] = {9, s->names.channel_len, s->own_len};
  s->confirmed = 0;
  int status = gorge_conn_post(s->conn, 1 + channels(s), argv, argv_len, now_ms);
  if (status != GORGE_OK) {
    gorge_conn_fail(s->conn, gorge_status_text(status));
  }
  s->ping_ms = now_ms + PING_MS;
}

static void on_lost(void *ctx, uint64_t now_ms) {
  struct gorge_subscriber *s = ctx;
  if (s->subscribed) {
    s->subscribed = false;
    if (s->hooks.lost != NULL) {
      s->hooks.lost(s->hooks.ctx, now_ms);
    }
  }
}

static bool text_is(const struct redisReply *reply, const char *text, size_t len) {
  return reply->type == REDIS_REPLY_STRING && reply->len == len && memcmp(reply->str, text, len) == 0;
}

static void on_message(struct gorge_subscriber *s, const struct redisReply *payload, uint64_t now_ms) {
  struct gorge_message m;
  int status =
      payload->type == REDIS_REPLY_STRING ? gorge_message_decode(&m, payload->str, payload->len) : GORGE_ERR_PROTOCOL;
  if (status == GORGE_OK && s->hooks.message != NULL) {
    s->hooks.message(s->hooks.ctx, &m, now_ms);
  } else if (status == GORGE_ERR_PROTOCOL) {
    s->malformed++;
  }
}

/* RESP2: {"subscribe", channel, 1}, {"message", channel, payload}, {"pong", ""}. */
static void on_push(void *ctx, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_subscriber *s = ctx;
  if (reply->type == REDIS_REPLY_ERROR) {
    char why[160];
    snprintf(why, sizeof why, "subscription refused: %.120s", reply->str);
    gorge_conn_fail(s->conn, why);
    return;
  }
  if (reply->type != REDIS_REPLY_ARRAY || reply->elements < 2) {
    return; /* +PONG, should a PING overtake the mode */
  }
  bool ours = reply->elements == 3 && (text_is(reply->element[1], s->names.channel, s->names.channel_len) ||
                                       (s->own_len > 0 && text_is(reply->element[1], s->own, s->own_len)));
  if (ours && text_is(reply->element[0], "message", 7)) {
    on_message(s, reply->element[2], now_ms);
  } else if (ours && text_is(reply->element[0], "subscribe", 9) && !s->subscribed && ++s->confirmed == channels(s)) {
    s->subscribed = true;
    if (s->hooks.ready != NULL) {
      s->hooks.ready(s->hooks.ctx, now_ms);
    }
  } else if (ours && text_is(reply->element[0], "unsubscribe", 11)) {
    /* Nobody asked for it (an administrator's RESET or a change of the ACL): nothing would ever come again. */
    gorge_conn_fail(s->conn, "subscription ended by Redis");
  }
}

struct gorge_subscriber *gorge_subscriber_create(const char *ns, uint32_t ns_len,
                                                 const struct gorge_conn_config *config,
                                                 const struct gorge_subscriber_hooks *hooks) {
  struct gorge_subscriber *s = calloc(1, sizeof *s);
  if (s == NULL) {
    return NULL;
  }
  if (gorge_names_init(&s->names, ns, ns_len) == GORGE_OK) {
    s->conn = gorge_conn_create(config);
  }
  if (s->conn == NULL) {
    free(s);
    return NULL;
  }
  s->hooks = *hooks;
  s->own_len = hooks->own != 0 ? gorge_names_own_channel(&s->names, hooks->own, s->own) : 0;
  gorge_conn_on_state(s->conn, on_ready, on_lost, s);
  gorge_conn_on_push(s->conn, on_push, s);
  gorge_conn_want(s->conn);
  return s;
}

void gorge_subscriber_destroy(struct gorge_subscriber *s) {
  if (s != NULL) {
    gorge_conn_destroy(s->conn);
    free(s);
  }
}

struct gorge_conn *gorge_subscriber_conn(struct gorge_subscriber *s) {
  return s->conn;
}

uint64_t gorge_subscriber_tick(struct gorge_subscriber *s, uint64_t now_ms) {
  if (gorge_conn_state(s->conn) != GORGE_CONN_READY) {
    return UINT64_MAX;
  }
  if (now_ms >= s->ping_ms) {
    static const char *const argv[] = {"PING"};
    static const size_t argv_len[] = {4};
    gorge_conn_post(s->conn, 1, argv, argv_len, now_ms);
    s->ping_ms = now_ms + PING_MS;
  }
  return s->ping_ms;
}

uint64_t gorge_subscriber_malformed(const struct gorge_subscriber *s) { return s->malformed; }
