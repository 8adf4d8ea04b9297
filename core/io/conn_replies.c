/* SPDX-License-Identifier: MIT */
/* From the bytes received to the replies, and to whom they are for. */
#include <hiredis/hiredis.h>
#include <string.h>

#include "io/conn_state.h"

static void protocol_error(struct gorge_conn *c, int status) {
  const char *what = c->parser.error != NULL ? c->parser.error : "";
  gorge_conn_doom(c, status, status == GORGE_ERR_PROTOCOL ? "malformed data: " : "", what, strlen(what));
}

static void deliver(struct gorge_conn *c, struct redisReply *reply, uint64_t now_ms) {
  bool no_auth = gorge_reply_has_code(reply, "NOAUTH");
  bool replica = c->config.place != NULL && gorge_reply_of_replica(reply);
  c->current = reply;
  c->kept = false;
  if (c->state == GORGE_CONN_HANDSHAKE) {
    if (gorge_handshake_reply(c, reply)) {
      gorge_conn_ready(c, now_ms);
    }
  } else if (gorge_pending_count(&c->sent) > 0) {
    gorge_conn_complete(gorge_pending_pop(&c->sent).cmd, GORGE_OK, reply, now_ms);
    if (no_auth) {
      gorge_conn_doom(c, GORGE_ERR_REDIS, "authentication required", NULL, 0);
    } else if (replica) {
      gorge_conn_stray(c, "this server is a replica");
    }
  } else if (c->push != NULL) {
    c->push(c->push_ctx, reply, now_ms);
  } else {
    gorge_conn_doom(c, GORGE_ERR_PROTOCOL, "a reply that answers nothing", NULL, 0);
  }
  c->current = NULL;
}

/* Values mostly are whole in what was received: those are shown where they stand, without a copy. Returns how many bytes they took. */
static size_t deliver_in_place(struct gorge_conn *c, const char *ptr, size_t len, uint64_t now_ms) {
  struct redisReply reply;
  size_t at = 0;
  while (!c->doomed && (c->current_len = gorge_reply_in_place(&c->parser, ptr + at, len - at, &reply)) > 0) {
    c->current_at = ptr + at;
    at += c->current_len;
    deliver(c, &reply, now_ms);
  }
  c->current_at = NULL;
  return at;
}

/* Takes the bytes of one whole reply. Returns it, or NULL: the connection is of no use any more. */
static struct redisReply *parse_one(struct gorge_conn *c, const char *ptr, size_t len) {
  struct redisReply *reply = NULL;
  int status = GORGE_OK;
  while (len > 0 && status == GORGE_OK) {
    size_t taken;
    status = gorge_reply_feed(&c->parser, ptr, len, &taken);
    ptr += taken;
    len -= taken;
  }
  if (status == GORGE_OK) {
    status = gorge_reply_next(&c->parser, &reply);
  }
  if (status != GORGE_OK) {
    protocol_error(c, status);
  }
  return reply;
}

struct redisReply *gorge_conn_keep_reply(struct gorge_conn *c) {
  if (c->current_at != NULL) {
    return parse_one(c, c->current_at, c->current_len);
  }
  c->kept = true;
  return c->current;
}

void gorge_conn_parse(struct gorge_conn *c, const char *ptr, size_t len, uint64_t now_ms) {
  while (len > 0 && !c->doomed) {
    size_t taken = deliver_in_place(c, ptr, len, now_ms);
    ptr += taken;
    len -= taken;
    if (len == 0 || c->doomed) {
      return;
    }
    int fed = gorge_reply_feed(&c->parser, ptr, len, &taken);
    ptr += taken;
    len -= taken;
    struct redisReply *reply = NULL;
    int status = gorge_reply_next(&c->parser, &reply);
    while (reply != NULL) {
      deliver(c, reply, now_ms);
      if (!c->kept) {
        freeReplyObject(reply);
      }
      reply = NULL;
      if (!c->doomed) {
        status = gorge_reply_next(&c->parser, &reply);
      }
    }
    if (status != GORGE_OK || fed != GORGE_OK) {
      protocol_error(c, status != GORGE_OK ? status : fed);
    }
  }
}
