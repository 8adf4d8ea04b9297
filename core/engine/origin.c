/* SPDX-License-Identifier: MIT */
/*
 * Runs of loaders as the option `origin` bounds them: so many at once on a host, and none while the breaker around them is open. A run is an
 * op of its own, so that it ends with its caller whatever becomes of that one. Those that find no permit wait in a queue of their process, first
 * come, first served.
 */
#include "base/clock.h"
#include "engine/engine.h"
#include "sync/permits.h"

_Static_assert(sizeof(struct gorge_breaker_words) == 16, "two breakers and the permits share a cache line");

static void unqueue(struct gorge_op *op) {
  gorge_cache *c = op->cache;
  if (!op->queued) {
    return;
  }
  if (op->prev != NULL) {
    op->prev->next = op->next;
  } else {
    c->queue_first = op->next;
  }
  if (op->next != NULL) {
    op->next->prev = op->prev;
  } else {
    c->queue_last = op->prev;
  }
  op->prev = op->next = NULL;
  op->queued = false;
}

static void enqueue(struct gorge_op *op) {
  gorge_cache *c = op->cache;
  op->prev = c->queue_last;
  op->next = NULL;
  if (op->prev != NULL) {
    op->prev->next = op;
  } else {
    c->queue_first = op;
  }
  c->queue_last = op;
  op->queued = true;
}

static void give_back(struct gorge_op *op) {
  gorge_cache *c = op->cache;
  struct gorge_worker_set waiters;
  if (op->permitted) {
    op->permitted = false;
    gorge_permits_give(c->zone, c->ns, &c->process->owner, &waiters);
    gorge_cache_wake(c, &waiters);
  }
}

static bool refused_by_breaker(const gorge_cache *c, uint64_t now_ms) {
  return gorge_breaker_refuses(c->origin_breaker, &c->origin_config, now_ms);
}

/* Takes a permit, if there must be one, and the breaker's leave. GORGE_LEASE, GORGE_ERR_FULL or GORGE_ERR_BREAKER. */
static int admit(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  if (refused_by_breaker(c, now_ms)) {
    return GORGE_ERR_BREAKER;
  }
  if (c->origin_max > 0) {
    op->permitted = gorge_permits_take(c->zone, c->ns, &c->process->owner, c->origin_max);
    if (!op->permitted) {
      return GORGE_ERR_FULL;
    }
  }
  /* Asked last, since it may make this run the probe. */
  if (!gorge_breaker_allow(c->origin_breaker, &c->origin_config, now_ms)) {
    give_back(op);
    return GORGE_ERR_BREAKER;
  }
  return GORGE_LEASE;
}

/* How an op's wait for its run has ended. */
static void decide(struct gorge_op *op, int status, uint64_t now_ms) {
  unqueue(op);
  gorge_op_waited(op);
  op->status = status;
  op->deadline_ms = now_ms + op->lease_ms;
  if (status != GORGE_LEASE) {
    gorge_count(op->cache, GORGE_COUNT_ORIGIN_REFUSED);
  }
}

void gorge_origin_enter(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  op->state = GORGE_OP_ORIGIN;
  int status = c->queue_first != NULL ? GORGE_ERR_FULL : admit(op, now_ms); /* who came first is served first */
  if (status != GORGE_ERR_FULL) {
    decide(op, status, now_ms);
  } else if (now_ms >= op->deadline_ms) {
    op->status = GORGE_ERR_FULL;
  } else {
    gorge_count(c, GORGE_COUNT_ORIGIN_WAITS);
    (void)gorge_cache_control(c); /* who wakes this worker */
    enqueue(op);
    gorge_origin_turn(c, now_ms);
  }
}

void gorge_origin_turn(gorge_cache *c, uint64_t now_ms) {
  bool full = false;
  struct gorge_op *next;
  if (c->queue_first != NULL) {
    gorge_permits_wait(c->zone, c->ns, c->process->owner.worker);
  }
  for (struct gorge_op *op = c->queue_first; op != NULL; op = next) {
    next = op->next;
    int status = full ? GORGE_ERR_FULL : admit(op, now_ms);
    if (status == GORGE_ERR_FULL) {
      full = true;
      status = now_ms >= op->deadline_ms ? GORGE_ERR_TIMEOUT : GORGE_PENDING;
    }
    if (status != GORGE_PENDING) {
      decide(op, status, now_ms);
      gorge_op_notify(op);
    }
  }
}

void gorge_origin_end(struct gorge_op *op, bool failed, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  if (op->status != GORGE_LEASE) {
    return;
  }
  /* One that took longer than anybody waits for it is as good as one that failed. */
  if (!failed && now_ms < op->deadline_ms) {
    gorge_breaker_success(c->origin_breaker, &c->origin_config, now_ms);
  } else if (gorge_breaker_failure(c->origin_breaker, &c->origin_config, now_ms)) {
    gorge_count(c, GORGE_COUNT_ORIGIN_OPENS);
  }
}

void gorge_origin_leave(struct gorge_op *op) {
  unqueue(op);
  give_back(op);
}
