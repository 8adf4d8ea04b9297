/* SPDX-License-Identifier: MIT */
/* The module, its links, and the functions that Lua calls through ffi.C (lua/gorge/hosts/nginx_module.lua declares them). */
#include "ngx_gorge.h"

#pragma GCC visibility push(default)
/*
 * A link for a cache of this worker; `news` as in ngx_gorge_link_conf_t, both semaphore and cache must outlive it. NULL: *problem says why,
 * and it stays so in this process.
 */
ngx_gorge_link_t *ngx_gorge_open(const struct gorge_io_calls *calls, gorge_cache *cache, ngx_gorge_post_pt post,
                                 void *news, const char **problem);
/* Commands may wait to be sent. */
void ngx_gorge_kick(ngx_gorge_link_t *link);
/* Rings of this eventfd make all links look at what other workers did. The descriptor stays the caller's. NGX_OK or NGX_ERROR. */
int ngx_gorge_listen(ngx_gorge_link_t *link, int bell_fd);
/* Ends the link, before its cache. */
void ngx_gorge_close(ngx_gorge_link_t *link);
#pragma GCC visibility pop

static void exit_process(ngx_cycle_t *cycle);

static ngx_core_module_t module_context = {ngx_string("gorge"), NULL, NULL};

ngx_module_t ngx_gorge_module = {NGX_MODULE_V1, &module_context, NULL, NGX_CORE_MODULE,      NULL, NULL, NULL, NULL,
                                 NULL,          exit_process,    NULL, NGX_MODULE_V1_PADDING};

static ngx_queue_t links; /* of this worker */
static ngx_uint_t exited; /* nginx closes what is left, and looks at no event any more */

/* A module that a reload took out of the configuration may be in memory still, with hooks that nobody calls. */
static bool configured(void) {
  for (ngx_uint_t i = 0; ngx_cycle->modules[i] != NULL; i++) {
    if (ngx_cycle->modules[i] == &ngx_gorge_module) {
      return true;
    }
  }
  return false;
}

static const char *problem_of(const struct gorge_io_calls *calls) {
  if (calls->abi_version != GORGE_ABI_VERSION || calls->size != sizeof *calls) {
    return "ngx_gorge_module was built for another version of libgorge";
  }
  if (!configured()) {
    return "ngx_gorge_module is no longer configured";
  }
  if (ngx_event_timer_rbtree.insert == NULL) { /* what the master's timers would be in is made by each worker */
    return "nginx has no event loop in this process";
  }
  return exited ? "the worker is exiting" : NULL;
}

ngx_gorge_link_t *ngx_gorge_open(const struct gorge_io_calls *calls, gorge_cache *cache, ngx_gorge_post_pt post,
                                 void *news, const char **problem) {
  *problem = problem_of(calls);
  if (*problem != NULL) {
    return NULL;
  }
  ngx_gorge_link_t *link = ngx_calloc(sizeof *link, ngx_cycle->log);
  if (link == NULL) {
    *problem = "out of memory";
    return NULL;
  }
  link->conf = (ngx_gorge_link_conf_t){calls, cache, post, news};
  ngx_gorge_link_init(link);
  if (links.next == NULL) {
    ngx_queue_init(&links);
  }
  ngx_queue_insert_tail(&links, &link->queue);
  return link;
}

void ngx_gorge_kick(ngx_gorge_link_t *link) {
  if (!exited) {
    ngx_gorge_link_kick(link);
  }
}

static void close_bell(ngx_gorge_link_t *link) {
  if (link->bell != NULL) {
    ngx_close_connection(link->bell);
    link->bell = NULL;
  }
}

static void bell_handler(ngx_event_t *event) {
  ngx_connection_t *c = event->data;
  uint64_t rings;
  if (c->close) { /* the worker ends, whoever may still wait */
    close_bell(c->data);
    return;
  }
  ssize_t n = read(c->fd, &rings, sizeof rings); /* resets it; if another link has done so, all have looked */
  (void)n;
  for (ngx_queue_t *q = ngx_queue_head(&links); q != ngx_queue_sentinel(&links); q = ngx_queue_next(q)) {
    ngx_gorge_link_look(ngx_queue_data(q, ngx_gorge_link_t, queue));
  }
}

static void ignore(ngx_event_t *event) { (void)event; }

int ngx_gorge_listen(ngx_gorge_link_t *link, int bell_fd) {
  if (exited || link->bell != NULL) {
    return NGX_OK;
  }
  int fd = fcntl(bell_fd, F_DUPFD_CLOEXEC, 0);
  if (fd < 0) {
    return NGX_ERROR;
  }
  ngx_connection_t *c = ngx_get_connection(fd, &link->log);
  if (c == NULL) {
    (void)close(fd);
    return NGX_ERROR;
  }
  c->data = link;
  c->read->log = c->write->log = &link->log;
  c->read->handler = bell_handler;
  c->write->handler = ignore;
  link->bell = c;
  if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
    close_bell(link);
    return NGX_ERROR;
  }
  return NGX_OK;
}

static void end(ngx_gorge_link_t *link) {
  close_bell(link);
  ngx_gorge_link_fini(link);
}

void ngx_gorge_close(ngx_gorge_link_t *link) {
  if (!exited) {
    end(link);
    ngx_queue_remove(&link->queue);
    ngx_free(link);
  }
}

/* Before nginx looks for connections that were left open. The links stay: Lua has them until its state is closed. */
static void exit_process(ngx_cycle_t *cycle) {
  (void)cycle;
  exited = 1;
  if (links.next == NULL) {
    return;
  }
  for (ngx_queue_t *q = ngx_queue_head(&links); q != ngx_queue_sentinel(&links); q = ngx_queue_next(q)) {
    end(ngx_queue_data(q, ngx_gorge_link_t, queue));
  }
}
