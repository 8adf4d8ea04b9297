/* SPDX-License-Identifier: MIT */
/*
 * What Redis holds of a key, for people. The request goes the way of all others, but what comes of it is nobody's business: breaker, counters,
 * latencies and the reason of the last trouble stay as they are.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backlog/backlog.h"
#include "base/clock.h"
#include "drive/ev_l2.h"
#include "engine/missed.h"
#include "engine/remote.h"

/* Ends the op with what is to be told. */
static void tell(struct gorge_op *op, struct gorge_l2_look *look) {
  op->value.ptr = (char *)look;
  op->value.len = look != NULL ? sizeof *look : 0;
  gorge_op_end(op, look != NULL ? GORGE_OK : GORGE_ERR_MEMORY);
}

/* Redis did not answer, or with an error. */
static struct gorge_l2_look *failure(const struct gorge_op *op, int status, const char *error) {
  struct gorge_l2_look *look = calloc(1, sizeof *look);
  const char *reason = gorge_remote_reason(op);
  if (look != NULL) {
    look->status = status;
    if (error == NULL) {
      error = status == GORGE_ERR_DOWN && *reason != '\0' ? reason : gorge_status_text(status);
    }
    snprintf(look->error, sizeof look->error, "%s", error);
  }
  return look;
}

static void note_queued(const gorge_cache *c, struct gorge_tag_look *tag) {
  if (gorge_backlog_holds(c->zone, c->process->owner.id, c->ns, GORGE_BACKLOG_TAG, tag->name, tag->len)) {
    tag->flags |= GORGE_TAG_QUEUED;
  }
}

static void done(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms) {
  (void)now_ms;
  struct gorge_op *op = rq->ctx;
  const gorge_cache *c = op->cache;
  op->requested = false;
  if (result->look == NULL) {
    tell(op, failure(op, result->status, result->error));
    return;
  }
  struct gorge_l2_look *look = malloc(sizeof *look);
  if (look != NULL) {
    *look = *result->look;
    look->queued = gorge_backlog_count(c->zone, c->ns);
    for (uint32_t i = 0; i < look->ntags; i++) {
      note_queued(c, &look->tags[i]);
    }
  }
  tell(op, look);
}

int gorge_explain_allowed(struct gorge_op *op, uint64_t now_ms) {
  if (!op->cache->has_redis) {
    return GORGE_ERR_UNSUPPORTED;
  }
  if (!gorge_remote_reachable(op->cache)) {
    return GORGE_ERR_DOWN;
  }
  if (gorge_remote_refused(op, now_ms)) {
    return GORGE_ERR_BREAKER;
  }
  return gorge_missed_key(op) ? GORGE_REFUSED : GORGE_OK;
}

void gorge_explain_ask(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  struct gorge_l2_request *rq = &op->request;
  op->state = GORGE_OP_EXPLAIN;
  memset(rq, 0, sizeof *rq);
  rq->verb = GORGE_L2_EXPLAIN;
  rq->key = op->key.ptr;
  rq->key_len = op->key.len;
  rq->ntags = op->ntags;
  rq->tags = op->l2_tags;
  rq->done = done;
  rq->ctx = op;
  int status = gorge_l2_send(c->l2, rq, now_ms);
  if (status != GORGE_OK) {
    tell(op, failure(op, status, NULL));
    return;
  }
  op->requested = true;
  if (c->link != NULL) {
    gorge_ev_l2_kick(c->link);
  }
}
