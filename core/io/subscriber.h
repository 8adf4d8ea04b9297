/* SPDX-License-Identifier: MIT */
/*
 * The subscriber of a namespace: a connection of its own in subscribe mode. Parses messages, notices silence (PING every
 * second; a connection that stays silent after it asks to be closed, see conn.h). It wants its connection from the start.
 * Pub/sub loses messages while disconnected: `ready` after a loss means that anything may have been missed.
 *
 * Not thread-safe: one thread drives it. Hooks run inside input, tick and closed of the connection.
 */
#ifndef GORGE_IO_SUBSCRIBER_H
#define GORGE_IO_SUBSCRIBER_H

#include "io/conn.h"
#include "proto/message.h"

/* struct gorge_message and enum gorge_message_type stand in proto/message.h. */

/* Each may be NULL. */
struct gorge_subscriber_hooks {
  void *ctx;
  void (*ready)(void *ctx, uint64_t now_ms); /* subscription confirmed */
  void (*lost)(void *ctx, uint64_t now_ms);  /* after ready; not called by destroy */
  /* m and what it points to: good until it returns. Malformed messages and those of unknown types do not come here. */
  void (*message)(void *ctx, const struct gorge_message *m, uint64_t now_ms);
  uint64_t own; /* not 0: the id of a channel that nobody else hears (proto/names.h); its messages come here, too */
};

struct gorge_subscriber;
/* Returns NULL when out of memory, or when ns is not a name (proto/names.h). Hooks are copied. */
struct gorge_subscriber *gorge_subscriber_create(const char *ns, uint32_t ns_len,
                                                 const struct gorge_conn_config *config,
                                                 const struct gorge_subscriber_hooks *hooks);
/* NULL is fine. */
void gorge_subscriber_destroy(struct gorge_subscriber *s);
struct gorge_conn *gorge_subscriber_conn(struct gorge_subscriber *s);
/* Sends PING when due; call it from the driver's tick. Returns when to call again; UINT64_MAX: not before the next input. */
uint64_t gorge_subscriber_tick(struct gorge_subscriber *s, uint64_t now_ms);
/* Messages that were dropped because they were malformed. */
uint64_t gorge_subscriber_malformed(const struct gorge_subscriber *s);

#endif
