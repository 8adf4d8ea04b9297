/* SPDX-License-Identifier: MIT */
/* The ABI of libgorge for what moves its bytes and waits; conventions as in gorge_ffi.h, which stands before it. */

/* ------------------------------------------------------------------ moving bytes from outside (cosockets)
 *
 * One reader and one writer move the bytes of each of this process's connections, which lead to the nodes of a cluster; a single Redis is
 * node 0. A node that is none has nothing to say. Without GORGE_CONFIG_INLINE only.
 */

/* How many nodes there are: 1, in a cluster as many as have been met; it only grows. 0: nothing is moved from outside. */
uint32_t gorge_io_nodes(gorge_cache *cache);
/* The nodes that have something to be sent, or that are to be connected to for it, up to max of them. Returns how many. */
uint32_t gorge_io_stirred(gorge_cache *cache, uint32_t *nodes, uint32_t max);
/* GORGE_OK: connect now to host ("unix:/path" or a numeric address) and port; GORGE_PENDING: a name is being resolved, ask again soon; GORGE_MISS: no connection wanted now. */
int gorge_io_connect(gorge_cache *cache, uint32_t node, char *host, uint32_t host_size, uint32_t *port);
/* The socket is connected. */
void gorge_io_opened(gorge_cache *cache, uint32_t node);
/* The socket is closed, or could not be had; the reason is for people. What was under way on it fails. */
void gorge_io_closed(gorge_cache *cache, uint32_t node, const char *reason);
/* The same of a socket that was closed because nothing is under way: the next command may connect at once. */
void gorge_io_rest(gorge_cache *cache, uint32_t node, const char *reason);
/* Bytes to send; pointer good until the next call. *len 0: none. */
void gorge_io_output(gorge_cache *cache, uint32_t node, const char **ptr, uint64_t *len);
/* So many of them have been sent. */
void gorge_io_sent(gorge_cache *cache, uint32_t node, uint64_t len);
/* Bytes received. Not GORGE_OK: close the socket and call gorge_io_closed. What it makes other nodes be asked, gorge_io_stirred names. */
int gorge_io_input(gorge_cache *cache, uint32_t node, const char *ptr, uint64_t len);
/* Commands whose replies are due or that wait to be sent. */
uint32_t gorge_io_pending(gorge_cache *cache, uint32_t node);
/* Requests that no node is asked yet, since it is not known which, or since a slot is on its way: gorge_io_tick looks after them. */
uint32_t gorge_io_parked(gorge_cache *cache);
/* 1 when the node's transport must be closed (handshake refused, silence), or is closed already for all that the core knows. */
int gorge_io_dropped(gorge_cache *cache, uint32_t node);
/* Expires deadlines; sends a PING to each node after keepalive_ms without any. Then as gorge_io_dropped. */
int gorge_io_tick(gorge_cache *cache, uint32_t node);

/* ------------------------------------------------------------------ moving bytes from nginx's event loop
 *
 * ngx_gorge_module (core/nginx) does in C what a pump does. It is not linked with this library, of which Lua may have found any file: Lua
 * hands it these functions.
 */
struct gorge_io_calls {
  uint32_t abi_version; /* GORGE_ABI_VERSION */
  uint32_t size;        /* of this struct */
  uint32_t (*nodes)(gorge_cache *cache);
  uint32_t (*stirred)(gorge_cache *cache, uint32_t *nodes, uint32_t max);
  int (*connect)(gorge_cache *cache, uint32_t node, char *host, uint32_t host_size, uint32_t *port);
  void (*opened)(gorge_cache *cache, uint32_t node);
  void (*closed)(gorge_cache *cache, uint32_t node, const char *reason);
  void (*output)(gorge_cache *cache, uint32_t node, const char **ptr, uint64_t *len);
  void (*sent)(gorge_cache *cache, uint32_t node, uint64_t len);
  int (*input)(gorge_cache *cache, uint32_t node, const char *ptr, uint64_t len);
  uint32_t (*pending)(gorge_cache *cache, uint32_t node);
  uint32_t (*parked)(gorge_cache *cache);
  int (*tick)(gorge_cache *cache, uint32_t node);
  int (*dropped)(gorge_cache *cache, uint32_t node);
  double (*due)(gorge_cache *cache);
  uint32_t (*woken)(gorge_cache *cache, void **waiters, uint32_t max, uint32_t *gone);
};
const struct gorge_io_calls *gorge_io_calls(void);
/* Milliseconds until gorge_io_tick will have something to do; -1: until something else has happened. */
double gorge_io_due(gorge_cache *cache);
/* What is to be told when the operation's status changes; NULL: nothing. It must live until another is named or the operation is freed. */
void gorge_op_waiter(gorge_cache *cache, uint64_t op, void *waiter);
/*
 * In place of gorge_poll, but looks at nothing anew: up to max waiters of operations whose status changed; returns how many (call again when
 * max). *gone: not 0 when operations went away without their caller, which gorge_poll names.
 */
uint32_t gorge_io_woken(gorge_cache *cache, void **waiters, uint32_t max, uint32_t *gone);

/* ------------------------------------------------------------------ waiting */

/* An eventfd that can be read whenever gorge_poll may have news from other workers; the library's to close. Or GORGE_ERR_SYSTEM. */
int gorge_bell_fd(gorge_cache *cache);

/* Path of a unix socket to connect to: one byte arrives whenever gorge_poll may have news from other workers. GORGE_OK or GORGE_ERR_SYSTEM. */
int gorge_doorbell_path(gorge_cache *cache, char *path, uint32_t size);
/* Rings this process's own doorbell: whoever reads it shall look around. */
void gorge_ring(gorge_cache *cache);
/* Runs this process's own event loop until something happened or timeout_ms passed. Blocks. For GORGE_CONFIG_INLINE. Then poll every cache. */
int gorge_loop_wait(double timeout_ms);
