/* SPDX-License-Identifier: MIT */
/* A connection in subscribe mode: what is posted has no reply of its own, what comes without a place is a push. */
#include "io/conn_state.h"
#include "proto/command.h"

int gorge_conn_post(struct gorge_conn *c, int argc, const char *const *argv, const size_t *argv_len, uint64_t now_ms) {
  if (c->state != GORGE_CONN_READY || c->doomed) {
    return GORGE_ERR_DOWN;
  }
  int status = gorge_command_append(&c->out, argc, argv, argv_len);
  if (status != GORGE_OK) {
    return status;
  }
  if (!c->awaiting && gorge_pending_count(&c->sent) == 0) {
    c->heard_ms = now_ms;
  }
  c->awaiting = c->streaming = true;
  return GORGE_OK;
}

void gorge_conn_on_push(struct gorge_conn *c, void (*push)(void *ctx, const struct redisReply *reply, uint64_t now_ms),
                        void *ctx) {
  c->push = push;
  c->push_ctx = ctx;
}
