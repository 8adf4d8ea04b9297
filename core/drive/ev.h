/* SPDX-License-Identifier: MIT */
/*
 * Moves the bytes of a gorge_conn through a socket on a libev loop: connects when the connection wants it, reads,
 * writes, ticks. Sockets are non-blocking, close-on-exec, TCP_NODELAY. When to give up is the connection's
 * business: its tick bounds connecting (resolving the name included), commands and silence.
 *
 * One thread: the one that runs the loop. After a fork the child must leave the links of its parent alone. Nothing
 * blocks.
 */
#ifndef GORGE_DRIVE_EV_H
#define GORGE_DRIVE_EV_H

#include <ev.h>

#include "drive/address.h"
#include "io/conn.h"

struct gorge_ev_link;

/*
 * Links connection and endpoint (both stay the caller's and must outlive the link). after(ctx), which may be NULL, is
 * called at the end of each turn in which completions or pushes may have run; it may do anything, destroy the link
 * included. Returns NULL: out of memory.
 */
struct gorge_ev_link *gorge_ev_link_create(struct ev_loop *loop, struct gorge_conn *conn,
                                           struct gorge_endpoint *endpoint, void (*after)(void *ctx), void *ctx);
/*
 * Closes the socket; the connection, if it was not down, sees closed, which completes what is pending. NULL is allowed.
 * Not from inside a completion or push.
 */
void gorge_ev_link_destroy(struct gorge_ev_link *link);
/*
 * Call after submitting commands: connects or sends at once. Runs no completion: what fails in here is told to the
 * connection in the loop's next turn. Also allowed inside completions.
 */
void gorge_ev_link_kick(struct gorge_ev_link *link);
/* Leads to another endpoint from the next attempt on. While the connection is down. */
void gorge_ev_link_lead(struct gorge_ev_link *link, struct gorge_endpoint *endpoint);
/* Looks whether the connection is to be closed, and goes on from there: a turn of the loop in which nothing came. Not inside completions. */
void gorge_ev_link_look(struct gorge_ev_link *link);

#endif
