/* SPDX-License-Identifier: MIT */
/* Between the transport and the connection's plain bytes, when there is TLS. */
#include <string.h>

#include "io/conn_state.h"

enum {
  AHEAD = 64 << 10 /* bytes made ciphertext before the transport has taken them: what is queued behind costs once */
};

static void fail(struct gorge_conn *c, int status, const char *reason) {
  if (status == GORGE_ERR_CLOSED) {
    gorge_conn_doom(c, GORGE_ERR_DOWN, "closed by Redis", NULL, 0);
  } else {
    gorge_conn_doom(c, status, "TLS: ", reason, strlen(reason));
  }
}

void gorge_conn_tls_open(struct gorge_conn *c) {
  char reason[GORGE_TLS_REASON_MAX] = "";
  c->tls = gorge_tls_create(c->config.tls, c->config.host != NULL ? c->config.host : "", reason, sizeof reason);
  if (c->tls == NULL) {
    fail(c, GORGE_ERR_DOWN, reason);
  }
}

void gorge_conn_tls_input(struct gorge_conn *c, const char *ptr, size_t len, uint64_t now_ms) {
  bool before = gorge_tls_established(c->tls);
  int status = gorge_tls_input(c->tls, ptr, len);
  if (status == GORGE_OK && !before && gorge_tls_established(c->tls)) {
    gorge_conn_greet(c);
  }
  while (status == GORGE_OK && !c->doomed) {
    status = gorge_tls_read(c->tls, &ptr, &len);
    if (status == GORGE_OK && len == 0) {
      return;
    }
    if (status == GORGE_OK) {
      gorge_conn_parse(c, ptr, len, now_ms);
    }
  }
  if (status != GORGE_OK) {
    fail(c, status, gorge_tls_reason(c->tls));
  }
}

void gorge_conn_tls_output(struct gorge_conn *c, const char **ptr, size_t *len) {
  gorge_tls_output(c->tls, ptr, len);
  while (gorge_tls_established(c->tls) && *len < AHEAD && gorge_buf_len(&c->out) > 0) {
    size_t rest = gorge_buf_len(&c->out), piece = rest < AHEAD ? rest : AHEAD;
    int status = gorge_tls_write(c->tls, gorge_buf_ptr(&c->out), piece);
    if (status != GORGE_OK) {
      fail(c, status, gorge_tls_reason(c->tls));
      *len = 0;
      return;
    }
    gorge_buf_consume(&c->out, piece);
    gorge_tls_output(c->tls, ptr, len);
  }
}

void gorge_conn_tls_close(struct gorge_conn *c) {
  gorge_tls_destroy(c->tls);
  c->tls = NULL;
}

bool gorge_conn_tls_pending(const struct gorge_conn *c) { return c->tls != NULL && !gorge_tls_established(c->tls); }
