/* SPDX-License-Identifier: MIT */
/* An op's request to Redis: breaker before, breaker and latency after, dispatch of the reply. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "drive/ev_l2.h"
#include "engine/remote.h"
#include "resil/histogram.h"

int gorge_remote_open(gorge_cache *c) {
  c->l2 = gorge_l2_create(c->name, (uint32_t)strlen(c->name), c->partitions, &c->redis);
  if (c->l2 == NULL) {
    return GORGE_ERR_MEMORY;
  }
  gorge_l2_lag(c->l2, gorge_clock_lag_ms());
  bool led = !gorge_is_cluster(c) || gorge_l2_follow_cluster(c->l2, c->seeds->list, c->seeds->count) == GORGE_OK;
  if (!led || !gorge_coherence_share(c)) {
    gorge_l2_destroy(c->l2);
    c->l2 = NULL;
    return GORGE_ERR_MEMORY;
  }
  c->cluster_changes = UINT64_MAX;
  c->redirects = 0;
  if ((c->flags & GORGE_CONFIG_INLINE) == 0) {
    return GORGE_OK;
  }
  struct ev_loop *loop = gorge_process_loop();
  c->link = loop == NULL ? NULL : gorge_ev_l2_create(loop, c->l2, c->endpoint);
  if (c->link == NULL) {
    gorge_l2_destroy(c->l2);
    c->l2 = NULL;
    return GORGE_ERR_MEMORY;
  }
  return GORGE_OK;
}

void gorge_remote_close(gorge_cache *c) {
  if (c->link != NULL) {
    gorge_ev_l2_destroy(c->link);
    c->link = NULL;
  }
  if (c->l2 != NULL) {
    gorge_l2_destroy(c->l2);
    c->l2 = NULL;
  }
  gorge_remote_forget_nodes(c);
}

/* Why a command failed, for people: what Redis said, else what is wrong with the connection. */
static void note_trouble(const struct gorge_op *op, int status, const char *error) {
  gorge_cache *c = op->cache;
  if (status >= 0) {
    c->troubled = false;
    return;
  }
  const char *reason = gorge_remote_reason(op);
  if (error == NULL) {
    error = status == GORGE_ERR_DOWN && *reason != '\0' ? reason : gorge_status_text(status);
  }
  c->troubled = true;
  snprintf(c->trouble, sizeof c->trouble, "%s", error);
}

/* Replies that came together came at one moment. */
static uint64_t took(const struct gorge_op *op) {
  uint64_t now_us = op->cache->heard_us != 0 ? op->cache->heard_us : gorge_clock_us();
  return now_us > op->requested_us ? now_us - op->requested_us : 0;
}

static void done(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms) {
  struct gorge_op *op = rq->ctx;
  gorge_cache *c = op->cache;
  op->requested = false;
  uint64_t took_us = took(op);
  gorge_remote_tell(op, result->status, result->moving, took_us, now_ms);
  note_trouble(op, result->status, result->error);
  if (result->status >= 0) {
    gorge_histogram_add(gorge_zone_histogram(c->zone, c->ns, c->process->owner.worker, GORGE_HIST_L2), took_us);
  }
  switch (op->state) {
    case GORGE_OP_LOOKUP:
    case GORGE_OP_LEASE: gorge_fetch_reply(op, result, now_ms); break;
    case GORGE_OP_FILL: gorge_fill_reply(op, result, now_ms); break;
    case GORGE_OP_WRITE: gorge_write_reply(op, result, now_ms); break;
    case GORGE_OP_READ: gorge_update_read_reply(op, result, now_ms); break;
    case GORGE_OP_COMMIT: gorge_update_reply(op, result, now_ms); break;
    default: gorge_fill_released(op, result->status, now_ms); break;
  }
}

/* Whether all that Redis had committed a short while ago has taken effect on this host; else a clear may have been missed. */
static bool is_fresh(const gorge_cache *c, uint64_t now_ms) {
  bool held;
  return gorge_control_lag(c->zone, c->ns, now_ms, &held) < c->freshness_bound_ms && held;
}

int gorge_remote_send(struct gorge_op *op, enum gorge_l2_verb verb, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  struct gorge_l2_request *rq = &op->request;
  memset(rq, 0, sizeof *rq);
  rq->verb = verb;
  rq->key = op->key.ptr;
  rq->key_len = op->key.len;
  rq->ntags = op->ntags;
  rq->tags = op->l2_tags;
  rq->tag_nonces = verb == GORGE_L2_FILL && !op->late_tags ? op->nonces : NULL;
  rq->since = op->since;
  rq->before = op->before != NULL ? &op->before->tags : NULL;
  rq->value = op->l2_store.ptr;
  rq->value_len = op->l2_store.len;
  rq->kind = op->store_kind;
  rq->ttl_ms = op->span.ttl_ms;
  rq->life = op->span.life;
  rq->stale = op->stale;
  rq->token = op->l2_token;
  rq->previous = op->previous;
  rq->lease_ms = op->lease_ms;
  rq->rejected_version = op->rejected_version;
  rq->confirm_epoch = verb == GORGE_L2_LOOKUP && !is_fresh(c, now_ms);
  rq->done = done;
  rq->ctx = op;
  gorge_remote_aim(op); /* the key may have moved since the op was sent before */
  op->requested_us = gorge_clock_us();
  int status = gorge_l2_send(c->l2, rq, now_ms);
  if (status != GORGE_OK) {
    gorge_remote_tell(op, status, false, 0, now_ms);
    note_trouble(op, status, NULL);
    return status;
  }
  op->requested = true;
  if (c->link != NULL) {
    gorge_ev_l2_kick(c->link);
  }
  return GORGE_OK;
}

void gorge_remote_cancel(struct gorge_op *op) {
  if (op->requested) {
    gorge_l2_cancel(&op->request);
    op->requested = false;
  }
}
