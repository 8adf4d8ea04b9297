/* SPDX-License-Identifier: MIT */
/*
 * One sentinel: asked now and then who the master is, and at once when it says +switch-master. Two connections, because one in
 * subscribe mode cannot ask. Without the second one (refused, lost) the first goes on asking.
 *
 * Two questions go out together, and their order matters:
 *   SENTINEL MASTER name                   its configuration, with a number that grows with each failover (config-epoch)
 *   SENTINEL GET-MASTER-ADDR-BY-NAME name  where clients shall go: the promoted replica even before the failover is over, which can
 *                                          take minutes when another replica does not answer
 * A sentinel that was cut off from the others knows an older configuration, and the rank tells.
 *
 * Not thread-safe: one thread drives it. Hooks run inside input, tick and closed of its connections.
 */
#ifndef GORGE_IO_SENTINEL_H
#define GORGE_IO_SENTINEL_H

#include "io/conn.h"

enum {
  GORGE_MASTER_NAME_MAX = 128, /* bytes in the name of a master */
  GORGE_SENTINEL_HOST_MAX = 255
};

struct gorge_sentinel_report {
  uint64_t rank; /* of the configuration; higher is later; never 0 */
  char host[GORGE_SENTINEL_HOST_MAX + 1];
  uint16_t port;
};

enum gorge_sentinel_state {
  GORGE_SENTINEL_ASKING,    /* no answer yet */
  GORGE_SENTINEL_KNOWS,     /* its last answer was a report */
  GORGE_SENTINEL_UNKNOWN,   /* it knows no such master, or says nonsense */
  GORGE_SENTINEL_REFUSES,   /* it does not let us in, or ask */
  GORGE_SENTINEL_UNTRUSTED, /* TLS with it fails */
  GORGE_SENTINEL_SILENT     /* it cannot be reached */
};

struct gorge_sentinel_hooks {
  void *ctx;
  void (*report)(void *ctx, const struct gorge_sentinel_report *report, uint64_t now_ms);
};

struct gorge_sentinel;
/*
 * `master`: 1 to GORGE_MASTER_NAME_MAX bytes (copied). Returns NULL when out of memory, or when it is not. Wants its connections from
 * the start.
 */
struct gorge_sentinel *gorge_sentinel_create(const char *master, const struct gorge_conn_config *config,
                                             const struct gorge_sentinel_hooks *hooks);
/* NULL is fine. */
void gorge_sentinel_destroy(struct gorge_sentinel *s);
/* The connection of the questions; the one that hears. */
struct gorge_conn *gorge_sentinel_asks(struct gorge_sentinel *s);
struct gorge_conn *gorge_sentinel_hears(struct gorge_sentinel *s);
/* Asks now, or right after what is being asked already. */
void gorge_sentinel_ask(struct gorge_sentinel *s, uint64_t now_ms);
/* Asks when the last time was `every_ms` ago, pings; call it often. */
void gorge_sentinel_tick(struct gorge_sentinel *s, uint64_t every_ms, uint64_t now_ms);
enum gorge_sentinel_state gorge_sentinel_state(const struct gorge_sentinel *s);

#endif
