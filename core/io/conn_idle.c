/* SPDX-License-Identifier: MIT */
/* A connection that is not needed for a while. */
#include "io/conn_state.h"

bool gorge_conn_stirred(const struct gorge_conn *c) {
  return c->doomed || gorge_buf_len(&c->out) > 0 || gorge_buf_len(&c->held) > 0 ||
         (c->state == GORGE_CONN_DOWN && c->wanted);
}

void gorge_conn_release(struct gorge_conn *c) {
  if (gorge_conn_pending(c) == 0) {
    c->wanted = false;
    gorge_conn_doom(c, GORGE_ERR_DOWN, "not needed any more", NULL, 0);
  }
}

void gorge_conn_rest(struct gorge_conn *c, uint64_t now_ms, const char *reason) {
  bool idle = c->state == GORGE_CONN_READY && !c->doomed && gorge_conn_pending(c) == 0;
  gorge_conn_closed(c, now_ms, reason);
  if (idle) {
    gorge_backoff_reset(&c->backoff);
    c->retry_ms = now_ms;
    c->wanted = false;
  }
}
