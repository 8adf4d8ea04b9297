/* SPDX-License-Identifier: MIT */
/* How the engine asks Redis: an op's request, the servers that it may go to, and whether they are asked at all. Main thread only. */
#ifndef GORGE_ENGINE_REMOTE_H
#define GORGE_ENGINE_REMOTE_H

#include "engine/engine.h"

/* --- remote.c: the op's request to Redis --- */
/* Makes the process's connection. Returns GORGE_OK or GORGE_ERR_MEMORY. */
int gorge_remote_open(gorge_cache *c);
void gorge_remote_close(gorge_cache *c);
/* Sends op->request as `verb`. On a failure the breaker is told. */
int gorge_remote_send(struct gorge_op *op, enum gorge_l2_verb verb, uint64_t now_ms);
void gorge_remote_cancel(struct gorge_op *op);

static inline bool gorge_is_cluster(const gorge_cache *c) { return c->seeds != NULL; }

/* --- node.c: the servers of l2, of which there is one but in a cluster --- */
/* What is kept of a node of l2; it does not move. NULL: there is no such node, or memory is short. */
struct gorge_remote_node *gorge_remote_node(gorge_cache *c, uint32_t node);
void gorge_remote_forget_nodes(gorge_cache *c);
/* Where a connection that is moved from outside leads. NULL: memory is short. */
struct gorge_endpoint *gorge_remote_endpoint(gorge_cache *c, uint32_t node);
/* Why the connection that the op was sent through is down, for people; "": it is not, or nothing is known. */
const char *gorge_remote_reason(const struct gorge_op *op);
/* Counts what became of the connections since the last call. */
void gorge_remote_look(gorge_cache *c);
/* Expires deadlines of connections that are moved from outside, sends a PING to each that it is due for, and what l2 put off. */
void gorge_remote_tick(gorge_cache *c, uint64_t now_ms);
/* Milliseconds of the clock when the tick will have something to do; UINT64_MAX: not before something else has happened. */
uint64_t gorge_remote_next_ms(const gorge_cache *c);
/* Whether the tick has found something late, and has to come again at once. */
bool gorge_remote_late(const gorge_cache *c);
/* Leaves a master that is none any more, so that what is sent next waits for the other one. Not inside completions. */
void gorge_remote_follow(gorge_cache *c);

/* --- breaker.c --- */
/* Whether this process has a way to ask Redis. */
bool gorge_remote_reachable(const gorge_cache *c);
/* Whether there is room, on the connection that the op would go through, for a command that can wait. */
bool gorge_remote_room(const struct gorge_op *op);
/* Whether there is a connection to whom the op concerns. */
bool gorge_remote_ready(const struct gorge_op *op);
/* Notes to which node of a cluster the op is sent: what becomes of it says something of that one. */
void gorge_remote_aim(struct gorge_op *op);
/* Whether Redis may be asked now what the op asks (reachable, breaker). To be called before gorge_remote_send, where that begins something. */
bool gorge_remote_allowed(struct gorge_op *op, uint64_t now_ms);
/* Whether a breaker refuses the op, which has a key; unlike gorge_remote_allowed it makes nobody the one that tries. */
bool gorge_remote_refused(struct gorge_op *op, uint64_t now_ms);
/*
 * What a request's end says about who was asked. One that was refused here, or that this process cut short, says nothing. A slow answer
 * is used like any other. moving: see struct gorge_l2_result.
 */
void gorge_remote_tell(struct gorge_op *op, int status, bool moving, uint64_t took_us, uint64_t now_ms);
/* The breaker of a node of a cluster; NULL: it is closed, and has not failed lately. */
struct gorge_breaker_words *gorge_remote_breaker(gorge_cache *c, uint32_t node);

#endif
