/* SPDX-License-Identifier: MIT */
/* A cache: a namespace of a zone, and what the current process runs for it. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/remote.h"
#include "proto/names.h"
#include "sync/permits.h"

enum { SYNC_MS = 200, KEEPALIVE_MS = 3000 };

static int fail(int status, char *err, uint32_t size, const char *text) {
  if (err != NULL && size > 0) {
    snprintf(err, size, "%s", text);
  }
  return status;
}

static int init_zone(struct gorge_zone *zone) { return gorge_l1_init(zone); }

static int open_zone(gorge_cache *c, const struct gorge_config *config, char *err, uint32_t err_size) {
  uint64_t existing = 0;
  unsigned flags = (config->flags & GORGE_CONFIG_SIBLINGS) != 0 ? GORGE_ZONE_SIBLINGS : 0;
  int status =
      gorge_zone_open(config->zone, strlen(config->zone), config->l1_size, flags, init_zone, &c->zone, &existing);
  if (status == GORGE_ERR_MISMATCH && existing > 0 && err != NULL) {
    snprintf(err, err_size, "zone '%s' exists with a size of %llu bytes, asked for %llu", config->zone,
             (unsigned long long)existing, (unsigned long long)config->l1_size);
    return status;
  }
  if (status == GORGE_ERR_SYSTEM && err != NULL) {
    char why[80];
    snprintf(err, err_size, "no %llu bytes of shared memory for zone '%s': %s", (unsigned long long)config->l1_size,
             config->zone, strerror_r(errno, why, sizeof why));
    return status;
  }
  if (status != GORGE_OK) {
    return fail(status, err, err_size, gorge_status_text(status));
  }
  status = gorge_zone_namespace(c->zone, config->ns, strlen(config->ns), &c->ns);
  if (status != GORGE_OK) {
    return fail(status, err, err_size, "too many namespaces in this zone");
  }
  if (config->origin_max_concurrency > 0 && !gorge_permits_there(c->zone, c->ns)) {
    return fail(GORGE_ERR_FULL, err, err_size,
                "too many namespaces in this zone for origin.max_concurrency: a larger zone has room for more");
  }
  if (c->partitions > 1 && !gorge_zone_partitions_there(c->zone, c->ns)) {
    return fail(GORGE_ERR_FULL, err, err_size,
                "too many namespaces in this zone for one in a cluster: a larger zone has room for more");
  }
  c->words = gorge_zone_words(c->zone, c->ns);
  c->breaker = gorge_zone_breaker(c->zone, c->ns);
  c->origin_breaker = gorge_zone_origin_breaker(c->zone, c->ns);
  gorge_l1_reader_init(c->zone, c->ns, &c->reader);
  return GORGE_OK;
}

uint64_t gorge_whole_ms(double ms) {
  if (!(ms >= 1)) {
    return 1;
  }
  return ms < (double)GORGE_TTL_MAX_MS ? (uint64_t)ms : GORGE_TTL_MAX_MS;
}

/* What is wrong with a configuration, or NULL. */
static const char *problem_of(const struct gorge_config *config) {
  size_t name_len = config->ns == NULL ? 0 : strlen(config->ns);
  bool redis = gorge_has_redis(config);
  struct gorge_names names;
  if (name_len == 0 || name_len > GORGE_NAME_MAX || config->zone == NULL || config->zone[0] == '\0' ||
      strlen(config->zone) > GORGE_NAME_MAX) {
    return "a zone and a namespace of 1 to 64 bytes are needed";
  }
  if (!(config->l1_ttl_ms > 0)) {
    return "l1_ttl_ms must be above 0";
  }
  if (redis && !(config->freshness_bound_ms > 0 && config->disconnected_ttl_ms >= 0)) {
    return "freshness_bound_ms must be above 0, disconnected_ttl_ms not below";
  }
  if (redis && gorge_names_init(&names, config->ns, name_len) != GORGE_OK) {
    return "a namespace in Redis is made of letters, digits and _ - . :";
  }
  if (config->partitions > 1 && config->partitions != GORGE_PARTITIONS) {
    return "partitions must be 1 or 64";
  }
  bool other = config->redis_host != NULL || config->redis_path != NULL || config->sentinels != NULL;
  if (config->cluster != NULL && (other || config->db != 0)) {
    return "a cluster has no redis_host, redis_path, sentinels, and no db but 0";
  }
  if (config->redis_path == NULL && config->redis_host != NULL &&
      (config->redis_port == 0 || config->redis_port > UINT16_MAX)) {
    return "redis_port must be 1 to 65535";
  }
  bool named = config->redis_host != NULL || config->cluster != NULL ||
               (config->sentinels != NULL && config->tls_server_name != NULL);
  if (config->tls == GORGE_TLS_ON && !named) {
    return "TLS needs redis_host, a cluster, or sentinels and tls_server_name";
  }
  if (config->tls != GORGE_TLS_OFF && config->redis_path != NULL) {
    return "TLS is not for unix sockets";
  }
  return NULL;
}

static void release(gorge_cache *c) {
  gorge_config_release(c);
  free(c);
}

int gorge_cache_make(const struct gorge_config *config, gorge_cache **out, char *err, uint32_t err_size) {
  const char *problem = problem_of(config);
  if (problem != NULL) {
    return fail(GORGE_ERR_ARGUMENT, err, err_size, problem);
  }
  gorge_cache *c = calloc(1, sizeof *c);
  if (c == NULL) {
    return fail(GORGE_ERR_MEMORY, err, err_size, "out of memory");
  }
  c->flags = config->flags;
  c->watch = -1;
  c->partitions = config->cluster != NULL || config->partitions > 1 ? GORGE_PARTITIONS : 1;
  c->lock_sleep_ms = config->lock_sleep_ms;
  c->lock_retries = config->lock_retries;
  c->keepalive_ms = config->keepalive_ms > 0 ? config->keepalive_ms : KEEPALIVE_MS;
  c->l1_ttl_ms = gorge_whole_ms(config->l1_ttl_ms);
  c->freshness_bound_ms = gorge_whole_ms(config->freshness_bound_ms);
  c->disconnected_ttl_ms = config->disconnected_ttl_ms > 0 ? gorge_whole_ms(config->disconnected_ttl_ms) : 0;
  c->early_beta = config->early_beta > 0 ? config->early_beta : 0;
  c->breaker_config.max_failures = config->breaker_max_failures;
  c->breaker_config.timeout_ms = config->breaker_timeout_ms;
  c->origin_max = config->origin_max_concurrency;
  c->origin_config.max_failures = config->origin_max_failures;
  c->origin_config.timeout_ms = config->origin_timeout_ms;
  c->breaker_slow_us = (uint64_t)config->breaker_slow_ms * 1000;
  memcpy(c->name, config->ns, strlen(config->ns) + 1);
  int status = gorge_config_tls(c, config, err, err_size);
  if (status == GORGE_OK) {
    status = open_zone(c, config, err, err_size);
  }
  if (status == GORGE_OK) {
    status = gorge_config_redis(c, config);
    gorge_zone_namespace_use(c->zone, c->ns, c->has_redis ? GORGE_NAMESPACE_REDIS : GORGE_NAMESPACE_LOCAL);
    if (status != GORGE_OK) {
      (void)fail(status, err, err_size, gorge_status_text(status));
    }
  }
  if (status != GORGE_OK) {
    release(c);
    return status;
  }
  *out = c;
  return GORGE_OK;
}

/*
 * Back to a cache that no process has entered. After a fork: what the parent ran is left alone, it still owns what this
 * copy points to.
 */
static void forget_process(gorge_cache *c) {
  c->generation = 0;
  c->process = NULL;
  c->counters = NULL;
  c->l2 = NULL;
  c->link = NULL;
  c->watch = -1;
  c->threads = false;
  c->sync_until_ms = 0;
  memset(&c->node, 0, sizeof c->node);
  memset(c->nodes, 0, sizeof c->nodes);
  c->nodes[0] = &c->node;
  c->slots = NULL;
  c->free_slots = NULL;
  c->slot_count = c->op_count = c->lost_count = c->free_count = 0;
  c->waiting = NULL;
  c->queue_first = c->queue_last = NULL;
  c->noted_first = c->noted_last = NULL;
  c->spare = NULL;
  c->spare_count = 0;
  gorge_buf_init(&c->gone);
}

/* Ends what this process runs for the cache. */
static void leave(gorge_cache *c) {
  for (uint32_t i = 0; i < c->slot_count; i++) {
    if (c->slots[i] != NULL) {
      gorge_fetch_abandon(c->slots[i]);
      gorge_op_destroy(c->slots[i]);
    }
  }
  gorge_op_free_spare(c);
  gorge_buf_fini(&c->gone);
  free(c->slots);
  free(c->free_slots);
  gorge_remote_close(c);
  if (c->watch >= 0 && c->process->control != NULL) {
    gorge_control_unwatch(c->process->control, c->watch);
  }
  gorge_process_leave(c->process);
}

void gorge_cache_end(gorge_cache *c) {
  if (c->generation != 0 && c->generation == gorge_process_generation()) {
    leave(c);
    forget_process(c);
  }
  c->closed = true;
}

void gorge_cache_unmake(gorge_cache *c) {
  gorge_cache_end(c);
  release(c);
}

static int enter(gorge_cache *c) {
  forget_process(c);
  int status = gorge_process_enter(c->zone, &c->process);
  if (status == GORGE_OK && c->has_redis) {
    gorge_control_bound(c->zone, c->ns, c->disconnected_ttl_ms);
    status = gorge_remote_open(c);
    if (status != GORGE_OK) {
      gorge_process_leave(c->process);
    }
  }
  if (status == GORGE_OK) {
    c->counters = gorge_zone_counters(c->zone, c->ns, c->process->owner.worker);
    /* relaxed: for people, see l1/uses.h */
    __atomic_store_n(&c->counters[GORGE_COUNT_BASE], (uint64_t)(uintptr_t)c->zone->base, __ATOMIC_RELAXED);
    c->generation = gorge_process_generation();
  }
  return status;
}

struct gorge_control *gorge_cache_control(gorge_cache *c) {
  if (!c->threads) {
    return NULL;
  }
  int status;
  struct gorge_control *control = gorge_process_control(c->process, &status);
  if (control != NULL && c->watch < 0 && c->has_redis && (c->flags & GORGE_CONFIG_SECOND) == 0) {
    gorge_coherence_watch(c, control);
  }
  return control;
}

/* The host is to hear of what other nodes do from now on. */
static int follow(gorge_cache *c) {
  c->sync_until_ms = gorge_clock_ms() + SYNC_MS;
  return gorge_cache_control(c) != NULL ? GORGE_OK : GORGE_ERR_SYSTEM;
}

int gorge_cache_ready(gorge_cache *c, bool threads) {
  threads = threads || c->threads; /* what the parent of a fork was allowed, its child is */
  if (c->closed) {
    return GORGE_ERR_CLOSED;
  }
  if (c->generation != gorge_process_generation()) {
    int status = enter(c);
    if (status != GORGE_OK) {
      c->threads = threads; /* the permission stays */
      return status;
    }
  }
  if (c->l2 != NULL) {
    gorge_remote_follow(c);
  }
  if (threads && !c->threads) {
    c->threads = true;
    if (c->has_redis) {
      return follow(c);
    }
  }
  return GORGE_OK;
}

static bool is_empty(const struct gorge_worker_set *set) {
  uint64_t any = 0;
  for (size_t i = 0; i < sizeof set->bits / sizeof set->bits[0]; i++) {
    any |= set->bits[i];
  }
  return any == 0;
}

void gorge_cache_wake(gorge_cache *c, const struct gorge_worker_set *set) {
  if (is_empty(set)) {
    return;
  }
  struct gorge_worker_set others = *set;
  uint32_t self = c->process->owner.worker;
  bool mine = (others.bits[self / 64] >> (self % 64) & 1) != 0;
  others.bits[self / 64] &= ~(UINT64_C(1) << (self % 64));
  struct gorge_control *control = c->process->control;
  if (!is_empty(&others)) {
    gorge_wake_send(c->zone, &others, self, control != NULL ? gorge_control_wake_fd(control) : -1);
  }
  if (mine && control != NULL) {
    gorge_control_ring(control); /* another cache or coroutine of this worker waits too */
  }
}

void gorge_cache_turn(gorge_cache *c, uint64_t now_ms) {
  if (c->l2 != NULL) {
    if (c->link == NULL) {
      gorge_remote_tick(c, now_ms);
    }
    gorge_remote_follow(c);
    gorge_remote_look(c);
  }
  struct gorge_op *next;
  for (struct gorge_op *op = c->waiting; op != NULL; op = next) {
    next = op->next;
    gorge_fetch_look(op, now_ms);
  }
  gorge_origin_turn(c, now_ms);
}
