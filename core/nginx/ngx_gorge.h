/* SPDX-License-Identifier: MIT */
/*
 * ngx_gorge_module: moves the bytes of a worker's Redis connections in nginx's own event loop, in C, and wakes who waits for the answers.
 * It takes the place of cosocket pump and doorbell (lua/gorge/hosts). What the bytes mean is libgorge's business, whose functions Lua hands over.
 *
 * A link is what a worker has for one cache: at most one connection to each node (a single Redis is one, a cluster has several), a timer,
 * and a turn, which is posted whenever something may be to be sent: it runs after the handlers of this round of the event loop, so that all
 * of their commands leave in one send; but when they are many, the first of them leave at once, and Redis answers them while the others
 * are still being made.
 *
 * Everything runs in a worker's main thread.
 */
#ifndef NGX_GORGE_H
#define NGX_GORGE_H

#include <ngx_config.h> /* before all others: it defines what glibc shall offer */
#include <ngx_core.h>
#include <ngx_event.h>
#include <stdbool.h>

#include "gorge.h"

/* Posts an ngx.semaphore: ngx_http_lua_ffi_sema_post, which Lua finds whatever the order in which the modules were loaded. */
typedef int (*ngx_gorge_post_pt)(void *semaphore, int n);

typedef struct {
  const struct gorge_io_calls *calls;
  gorge_cache *cache;
  ngx_gorge_post_pt post;
  void
      *news; /* semaphore of the light thread that looks for operations which went away without their caller, or NULL */
} ngx_gorge_link_conf_t;

typedef struct ngx_gorge_link_s ngx_gorge_link_t;

typedef struct ngx_gorge_node_s ngx_gorge_node_t;

struct ngx_gorge_node_s {
  ngx_gorge_link_t *link;
  ngx_gorge_node_t *next; /* that with the next number */
  uint32_t number;
  ngx_connection_t *connection; /* NULL: none */
  unsigned connecting : 1;
};

struct ngx_gorge_link_s {
  ngx_queue_t queue; /* of all links of this worker */
  ngx_gorge_link_conf_t conf;
  ngx_gorge_node_t node;  /* the first of its nodes, */
  ngx_gorge_node_t *last; /* the last, */
  uint32_t count;         /* and how many they are; they only become more */
  ngx_connection_t *bell; /* around a copy of the eventfd that tells of other workers, or NULL */
  ngx_event_t turn;       /* posted */
  ngx_uint_t kicks;       /* since then */
  ngx_event_t timer;
  ngx_msec_t due; /* when the timer, if set, fires at the latest */
  ngx_log_t log;  /* nginx's, but for what it would say about each connection that Redis refuses */
};

/* --- ngx_gorge_link.c --- */
void ngx_gorge_link_init(ngx_gorge_link_t *link);
/* Something may be to be sent. It may be sent here and now, and may fail: who waits is woken in the turn. */
void ngx_gorge_link_kick(ngx_gorge_link_t *link);
/* Looks at shared memory and the clock, and wakes whoever that concerns. */
void ngx_gorge_link_look(ngx_gorge_link_t *link);
/* Closes the connections and forgets timer and turn, and its nodes but the first; nobody is told. */
void ngx_gorge_link_fini(ngx_gorge_link_t *link);

#endif
