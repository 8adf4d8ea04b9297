/* SPDX-License-Identifier: MIT */
/* What conn.c, conn_*.c and handshake.c share. Nobody else includes this. */
#ifndef GORGE_IO_CONN_STATE_H
#define GORGE_IO_CONN_STATE_H

#include "base/buf.h"
#include "io/conn.h"
#include "io/pending.h"
#include "proto/reply.h"
#include "resil/backoff.h"
#include "tls/tls.h"

enum gorge_handshake_step {
  GORGE_STEP_AUTH,
  GORGE_STEP_SELECT,
  GORGE_STEP_NAME,
  GORGE_STEP_ROLE,
  GORGE_STEP_PING,
  GORGE_STEPS_MAX
};

struct gorge_conn {
  struct gorge_conn_config config; /* strings owned */
  uint64_t stall_ms;
  enum gorge_conn_state state;
  bool wanted;
  bool doomed;    /* a transport exists, and must be closed */
  bool streaming; /* subscribe mode: replies without a place are pushes */
  bool awaiting;  /* a posted command has not been followed by any byte yet */
  bool in_ready;  /* the ready hook is running */
  bool kept;      /* the reply being delivered was taken over */
  bool headed;    /* the address of this attempt is known: `place` is the one that it was taken at */
  int doom_status;
  char reason[200];

  struct gorge_reply_parser parser; /* only while a transport is open */
  struct redisReply *current;       /* being delivered, else NULL */
  const char *current_at;           /* where it stands, if it stands in what was received, else NULL */
  size_t current_len;               /* what it takes there */
  struct gorge_tls *tls;            /* the session of an open transport, if it is one with TLS */
  struct gorge_buf out;             /* to be sent now */
  struct gorge_buf held;            /* commands of `waiting`, back to back */
  struct gorge_pending sent;        /* in `out` or on the wire: each reply belongs to the first place */
  struct gorge_pending waiting;     /* for READY */
  enum gorge_handshake_step steps[GORGE_STEPS_MAX];
  uint32_t step, nsteps;
  uint64_t place; /* see config.place: at the last attempt */

  struct gorge_backoff backoff;
  uint64_t retry_ms;      /* DOWN: no attempt before */
  uint64_t connect_by_ms; /* CONNECTING, HANDSHAKE: give up then */
  uint64_t ready_ms;      /* READY since */
  uint64_t heard_ms;      /* last byte, or when replies became due, whichever is later */
  uint64_t deadline_ms;   /* no command's deadline is earlier */
  uint64_t connects;

  void (*push)(void *ctx, const struct redisReply *reply, uint64_t now_ms);
  void *push_ctx;
  void (*on_ready)(void *ctx, uint64_t now_ms);
  void (*on_lost)(void *ctx, uint64_t now_ms);
  void *state_ctx;
};

/* Marks the transport to be closed, with the first reason that comes up. */
void gorge_conn_doom(struct gorge_conn *c, int status, const char *what, const char *text, size_t text_len);

/* The end of a command; NULL: nobody wants to know. */
static inline void gorge_conn_complete(struct gorge_command *cmd, int status, const struct redisReply *reply,
                                       uint64_t now_ms) {
  if (cmd != NULL) {
    cmd->sequence = 0;
    cmd->done(cmd, status, reply, now_ms);
  }
}
/* The handshake is over: what has waited goes out. */
void gorge_conn_ready(struct gorge_conn *c, uint64_t now_ms);

/* conn_replies.c. Replies, as plain bytes; dooms the connection when something is wrong with them. */
void gorge_conn_parse(struct gorge_conn *c, const char *ptr, size_t len, uint64_t now_ms);
/* The transport can carry commands: the handshake with Redis begins. */
void gorge_conn_greet(struct gorge_conn *c);

/* Between the transport and the plain bytes, conn_tls.c. All doom the connection when TLS fails. */
void gorge_conn_tls_open(struct gorge_conn *c);
void gorge_conn_tls_input(struct gorge_conn *c, const char *ptr, size_t len, uint64_t now_ms);
void gorge_conn_tls_output(struct gorge_conn *c, const char **ptr, size_t *len);
void gorge_conn_tls_close(struct gorge_conn *c);
/* Whether there is TLS, and the two sides have not agreed yet. */
bool gorge_conn_tls_pending(const struct gorge_conn *c);

/* Marks the transport to be closed when it leads to a master of the past. */
void gorge_conn_leave_if_moved(struct gorge_conn *c);
/* The server is no master, though it was said to be: marks the transport to be closed, and lets that be known. */
void gorge_conn_stray(struct gorge_conn *c, const char *what);

/* Puts the handshake's commands into `out`. Returns GORGE_OK or GORGE_ERR_MEMORY. */
int gorge_handshake_start(struct gorge_conn *c);
/* One reply of the handshake. Returns true when it was the last and all is well; dooms the connection when refused. */
bool gorge_handshake_reply(struct gorge_conn *c, const struct redisReply *reply);
/* Whether an error reply starts with that code. */
bool gorge_reply_has_code(const struct redisReply *reply, const char *code);
/* Whether an error says that the server takes no writes, or not even reads, because it is a replica. */
bool gorge_reply_of_replica(const struct redisReply *reply);

#endif
