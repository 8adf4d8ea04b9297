/* SPDX-License-Identifier: MIT */
/*
 * Moves the bytes of a whole l2 on a libev loop: a link (drive/ev.h) for each of its nodes, made as the nodes appear, and a timer for what
 * the l2 itself waits for. What one node's answer makes another one be asked leaves in the same turn of the loop.
 *
 * One thread: the one that runs the loop. After a fork the child must leave it alone. Nothing blocks.
 */
#ifndef GORGE_DRIVE_EV_L2_H
#define GORGE_DRIVE_EV_L2_H

#include "drive/ev.h"
#include "io/l2.h"

struct gorge_ev_l2;

/*
 * endpoint: where a single Redis is; NULL: a cluster, the l2 says where its nodes are. l2 and endpoint stay the caller's and must outlive
 * it. Returns NULL: out of memory.
 */
struct gorge_ev_l2 *gorge_ev_l2_create(struct ev_loop *loop, struct gorge_l2 *l2, struct gorge_endpoint *endpoint);
/* Closes the sockets; what is pending fails, or fails when the l2 is destroyed. NULL is allowed. Not from inside a completion. */
void gorge_ev_l2_destroy(struct gorge_ev_l2 *e);
/* Call after gorge_l2_send: connects or sends at once. Runs no completion. Also allowed inside completions. */
void gorge_ev_l2_kick(struct gorge_ev_l2 *e);
/* Looks whether connections are to be closed, and goes on from there (gorge_ev_link_look). Not inside completions. */
void gorge_ev_l2_look(struct gorge_ev_l2 *e);

#endif
