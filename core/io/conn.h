/* SPDX-License-Identifier: MIT */
/*
 * One pipelined Redis connection as a state machine: bytes and times in, bytes and completions out. It owns no socket
 * and reads no clock; a driver (drive/ev.c, or a cosocket pump in Lua) moves the bytes.
 *
 *   DOWN --(backoff over, somebody wants it)--> CONNECTING --opened--> HANDSHAKE --replies--> READY
 *     ^------------------------------ closed (any state), failed handshake, silence -----------'
 *
 * Commands submitted while it is CONNECTING or in HANDSHAKE wait for READY; while DOWN they are refused at once with
 * GORGE_ERR_DOWN, unless a first attempt has not been made yet or the backoff is over (then they make the driver
 * connect). Commands beyond max_pending are refused with GORGE_ERR_FULL. Once wanted, it is wanted for good: after a
 * loss it asks for a new transport by itself; only after `rest` it waits for the next command.
 * A command that passes its deadline completes with GORGE_ERR_TIMEOUT; its reply, should it come, is matched and thrown
 * away: the connection goes on for the others. One that was not sent yet will not be sent.
 * When nothing at all has been received for `stall_ms` = max(2 * timeout_ms, 1000) while replies are due, the connection
 * asks to be closed. A -NOAUTH in READY closes it as well. Delays between attempts: 50 ms to 2 s with jitter, starting
 * anew once READY was held for a second.
 * With `tls` the bytes in and out are ciphertext (tls/tls.h); the state is HANDSHAKE from the first one of them.
 * With `place` only a master will do: the handshake asks by ROLE, an answer -READONLY closes the connection, and so does `place` when it
 * is not any more what it was when the address was taken; then there is no delay before the next attempt.
 *
 * Not thread-safe: one thread drives and uses it. Completions run inside input, tick, closed and destroy; they may
 * submit and cancel, but not drive and not destroy.
 */
#ifndef GORGE_IO_CONN_H
#define GORGE_IO_CONN_H

#include <hiredis/read.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum gorge_conn_state {
  GORGE_CONN_DOWN = 0,
  GORGE_CONN_CONNECTING,
  GORGE_CONN_HANDSHAKE,
  GORGE_CONN_READY,
  GORGE_CONN_CLOSED /* for good */
};

struct gorge_tls_config;

struct gorge_conn_config {
  const char *username; /* NULL: none. Copied. */
  const char *password; /* NULL: none. Copied; never in a message. */
  uint32_t db;
  uint32_t connect_timeout_ms; /* from WANT to READY; 0: 1000 */
  uint32_t timeout_ms;         /* default deadline of a command; 0: 500 */
  uint32_t max_pending;        /* commands in flight or queued, timed-out ones whose reply is due included; 0: 4096 */
  uint64_t max_reply_bytes;    /* a larger reply is a protocol error; 0: 64 MiB */
  uint64_t seed;               /* of the backoff's jitter */
  const struct gorge_tls_config *tls; /* NULL: none. Must outlive the connection. */
  const char *host;                   /* with tls: whom the certificate must be for, unless tls says. Copied. */
  /* Words that are shared with whoever knows where the master is; they outlive the connection. NULL, both: any server will do. */
  const uint64_t *place; /* another value with each new master; 0: not known */
  uint64_t *doubts;      /* counted up when the server there turned out to be no master */
};

struct redisReply; /* hiredis's tree of a reply */

/* One command in flight. The memory is the caller's, from submit until done has been called or it is cancelled. */
struct gorge_command {
  /*
   * status GORGE_OK with the reply (also for Redis errors: look at reply->type), or GORGE_ERR_TIMEOUT/DOWN/CLOSED/PROTOCOL
   * and NULL. The reply is good until done returns (see keep_reply); no NUL ends its bytes. The command may be submitted again from here.
   */
  void (*done)(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms);
  uint64_t deadline_ms; /* absolute; 0: submit fills in now + timeout_ms */
  /* private */
  uint64_t sequence; /* 0: not submitted */
};

struct gorge_conn;

/* Returns NULL when out of memory. */
struct gorge_conn *gorge_conn_create(const struct gorge_conn_config *config);
/* Completes everything pending with GORGE_ERR_CLOSED, and takes nothing any more. */
void gorge_conn_close(struct gorge_conn *c);
/* The same, and frees it. NULL is fine. */
void gorge_conn_destroy(struct gorge_conn *c);

/* --- user side --- */
/*
 * Queues a command of argc arguments; the bytes are copied. Returns GORGE_OK (done will be called, not from inside this
 * call), GORGE_ERR_DOWN, GORGE_ERR_FULL, GORGE_ERR_MEMORY, GORGE_ERR_ARGUMENT, GORGE_ERR_CLOSED (destroy is running) or
 * GORGE_ERR_UNSUPPORTED (subscribe mode).
 */
int gorge_conn_submit(struct gorge_conn *c, struct gorge_command *cmd, int argc, const char *const *argv,
                      const size_t *argv_len, uint64_t now_ms);
/* Forgets a command: done will not be called. Its reply is thrown away. A command that is not pending is left alone. */
void gorge_conn_cancel(struct gorge_conn *c, struct gorge_command *cmd);
/*
 * Inside done only: the reply, or one that says the same, its bytes elsewhere, becomes the caller's, to be freed by freeReplyObject.
 * NULL: out of memory.
 */
struct redisReply *gorge_conn_keep_reply(struct gorge_conn *c);
/* Wants the connection without a command. */
void gorge_conn_want(struct gorge_conn *c);
/*
 * The user saw something that makes the connection useless: from now on it asks to be closed (tick returns true, input
 * fails). reason: copied, for people. Nothing happens when there is no transport.
 */
void gorge_conn_fail(struct gorge_conn *c, const char *reason);
/* The user does not want it until the next command: a transport asks to be closed, which is no failure. Nothing while something is under way. */
void gorge_conn_release(struct gorge_conn *c);
/*
 * From now on it leads to another server, whose certificate must be for `host` (copied). Only while DOWN. What is known of its failures is
 * forgotten. Returns GORGE_OK or GORGE_ERR_MEMORY.
 */
int gorge_conn_lead(struct gorge_conn *c, const char *host);
/* The same, of a server that is as good as the one before: how long it waits until it tries again does not change. */
int gorge_conn_rename(struct gorge_conn *c, const char *host);
enum gorge_conn_state gorge_conn_state(const struct gorge_conn *c);
/* Why it is down: an owned text without secrets, "" when unknown; good until the next call that drives. */
const char *gorge_conn_reason(const struct gorge_conn *c);
/* The failure that it went down for the last time: GORGE_ERR_REDIS when the server refused, GORGE_ERR_DOWN ... */
int gorge_conn_failure(const struct gorge_conn *c);
/* Places taken: commands in flight or queued, and those given up whose reply is due. 0: nothing more will come. */
uint32_t gorge_conn_pending(const struct gorge_conn *c);
/* Whether a quarter of the max_pending places is taken: what can wait is to leave the others to what cannot. */
bool gorge_conn_busy(const struct gorge_conn *c);
/* How often READY was reached. */
uint64_t gorge_conn_connects(const struct gorge_conn *c);

/* --- driver side --- */
/* Whether the driver shall open a transport now; on true the state becomes CONNECTING. */
bool gorge_conn_want_connect(struct gorge_conn *c, uint64_t now_ms);
/* The address that this attempt leads to was taken when *place was this. Needed with `place` only, before opened. */
void gorge_conn_towards(struct gorge_conn *c, uint64_t place);
/* Whether *place is another one than at the last attempt: a connection asks to be closed then, and may be had at once. */
bool gorge_conn_moved(const struct gorge_conn *c);
void gorge_conn_opened(struct gorge_conn *c, uint64_t now_ms);
/*
 * The transport is gone (reason: for people) or could not be had: pending commands fail with GORGE_ERR_DOWN
 * (GORGE_ERR_PROTOCOL when malformed bytes were why), the backoff starts.
 */
void gorge_conn_closed(struct gorge_conn *c, uint64_t now_ms, const char *reason);
/*
 * Whether there may be something to do for its driver after a submit or a release: bytes to be sent or held back, a transport that is wanted,
 * or one that is to be closed.
 */
bool gorge_conn_stirred(const struct gorge_conn *c);
/*
 * The driver has given up a transport that was not in use: no failure. The connection is not wanted until the next command, and may be had
 * at once then. When something was under way, or the connection not READY: the same as closed.
 */
void gorge_conn_rest(struct gorge_conn *c, uint64_t now_ms, const char *reason);
/* Bytes to send now; *len 0 when none. The pointer is good until the next submit, input or sent. */
void gorge_conn_output(struct gorge_conn *c, const char **ptr, size_t *len);
void gorge_conn_sent(struct gorge_conn *c, size_t len);
/*
 * Bytes received. On an error (GORGE_ERR_PROTOCOL, GORGE_ERR_REDIS: handshake refused, GORGE_ERR_MEMORY, GORGE_ERR_DOWN)
 * the driver must close the transport and call closed.
 */
int gorge_conn_input(struct gorge_conn *c, const char *ptr, size_t len, uint64_t now_ms);
/*
 * Expires deadlines. Returns true when the driver must close the transport (handshake refused or too slow, silence) and
 * call closed.
 */
bool gorge_conn_tick(struct gorge_conn *c, uint64_t now_ms);
/* When tick (or want_connect) should be called next; UINT64_MAX: no need. May be earlier than strictly needed. */
uint64_t gorge_conn_next_ms(const struct gorge_conn *c);

/* --- pushes (subscribe mode) --- */
/*
 * Sends a command that answers by pushes (SUBSCRIBE, and then PING). READY only. From the first one until the transport
 * is lost every reply that answers no earlier submitted command goes to push, and submit is refused.
 * Something must be heard within stall_ms. Returns GORGE_OK, GORGE_ERR_DOWN, GORGE_ERR_MEMORY, GORGE_ERR_ARGUMENT.
 */
int gorge_conn_post(struct gorge_conn *c, int argc, const char *const *argv, const size_t *argv_len, uint64_t now_ms);
/* Messages that answer no command go here: push(ctx, reply). NULL: a protocol error. */
void gorge_conn_on_push(struct gorge_conn *c, void (*push)(void *ctx, const struct redisReply *reply, uint64_t now_ms),
                        void *ctx);
/*
 * Called whenever READY is reached, before queued commands go out (what it submits goes first, max_pending or not) /
 * when it is lost. Either may be NULL. Not called by destroy.
 */
void gorge_conn_on_state(struct gorge_conn *c, void (*ready)(void *ctx, uint64_t now_ms),
                         void (*lost)(void *ctx, uint64_t now_ms), void *ctx);

#endif
