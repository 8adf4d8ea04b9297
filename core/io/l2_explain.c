/* SPDX-License-Identifier: MIT */
/*
 * EXPLAIN: what Redis holds of a key. Value and lease in one round, the tags and the epoch in the next; what LOOKUP would say of the value follows from
 * the same rules as in l2_value.c, but nothing is asked for again, and no script runs.
 */
#include <hiredis/hiredis.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/l2_state.h"
#include "proto/bytes.h"

_Static_assert(GORGE_L2_LOOK_TAGS == 2 * GORGE_TAGS_MAX, "the value's tags and the request's");

/* What has been found out, in rq->state.kept. */
struct explained {
  struct gorge_l2_kept kept; /* the first member: see gorge_l2_drop_kept */
  struct gorge_l2_tag tags[GORGE_L2_LOOK_TAGS];
  struct gorge_l2_look look;
};
_Static_assert(offsetof(struct explained, kept) == 0, "what is dropped is a kept value");

int gorge_l2_send_explain(struct gorge_l2_request *rq, uint64_t now_ms) {
  rq->confirm_epoch = true;
  if (rq->state.epoch == 0) {
    rq->state.step = GORGE_L2_STEP_NAMES;
    return gorge_l2_submit_epoch(rq, now_ms);
  }
  rq->state.step = GORGE_L2_STEP_HELD;
  int status = gorge_l2_submit_get(rq, now_ms);
  if (status == GORGE_OK) {
    status = gorge_l2_submit_lease_ttl(rq, now_ms);
    if (status != GORGE_OK) {
      gorge_l2_route_forget(rq);
    }
  }
  return status;
}

int gorge_l2_resend_explain(struct gorge_l2_request *rq, int index, uint64_t now_ms) {
  const struct explained *x = rq->state.kept;
  if (rq->state.step == GORGE_L2_STEP_NAMES) {
    return gorge_l2_submit_epoch(rq, now_ms);
  }
  if (rq->state.step == GORGE_L2_STEP_TAGS) {
    return gorge_l2_submit_nonces(rq, x->tags, x->look.ntags, now_ms);
  }
  if (index == 1) {
    return gorge_l2_submit_lease_ttl(rq, now_ms);
  }
  rq->state.nonces_due = true; /* the lease is asked for behind the value */
  return gorge_l2_submit_get(rq, now_ms);
}

static void finish(struct gorge_l2_request *rq, const struct gorge_l2_look *look, uint64_t now_ms) {
  struct gorge_l2_result result;
  gorge_l2_clear_result(&result, GORGE_OK);
  result.look = look;
  gorge_l2_finish(rq, &result, now_ms);
}

/* The new connection has asked for the epoch, too, and was answered first. */
static void on_names(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  uint64_t epoch;
  if (reply->type == REDIS_REPLY_NIL) {
    struct gorge_l2_look look = {.status = GORGE_OK};
    finish(rq, &look, now_ms);
  } else if (!gorge_l2_number_of(reply, &epoch)) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
  } else {
    gorge_l2_learn_epoch(rq->l2, rq->state.partition, 0, epoch);
    gorge_l2_begin_anew(rq, now_ms);
  }
}

/* The life of a value, by the server's clock. */
static void look_at_life(const struct gorge_l2_request *rq, const struct gorge_envelope *e, struct gorge_l2_look *look,
                         uint64_t now_ms) {
  uint64_t kept = gorge_l2_remaining_ms(rq->state.node[0], e, now_ms), stale = e->life.stale_ms;
  look->state = kept > stale ? GORGE_LOOK_GOOD : kept > 0 ? GORGE_LOOK_STALE : GORGE_LOOK_EXPIRED;
  look->ttl_ms = kept > stale ? (double)(kept - stale) : 0;
  look->past_ms = look->state == GORGE_LOOK_STALE ? (double)(stale - kept) : 0;
  look->kept_ms = (double)kept;
  look->refresh_ms = (double)e->life.refresh_ms;
  look->load_ms = (double)e->life.load_ms;
  if (!rq->state.node[0]->clock_known) {
    look->state = GORGE_LOOK_GOOD; /* Redis has it still; a fetch would let LEASE say how long */
  }
}

static void add_tag(struct explained *x, const struct gorge_l2_tag *tag, uint32_t flags, uint64_t stored) {
  struct gorge_tag_look *look = &x->look.tags[x->look.ntags];
  x->tags[x->look.ntags++] = *tag;
  look->flags = flags;
  look->stored = stored;
  look->len = tag->len;
  memcpy(look->name, tag->ptr, tag->len);
  look->name[tag->len] = '\0';
}

/* Tags of the value, then those of the request that it does not have. */
static void collect_tags(const struct gorge_l2_request *rq, const struct gorge_envelope *e, struct explained *x) {
  for (uint32_t i = 0; e != NULL && i < e->ntags; i++) {
    add_tag(x, &e->tags[i], GORGE_TAG_OF_VALUE, e->nonces[i]);
  }
  uint32_t own = x->look.ntags;
  for (uint32_t i = 0; i < rq->ntags; i++) {
    bool known = false;
    for (uint32_t j = 0; j < own && !known; j++) {
      known = x->tags[j].len == rq->tags[i].len && memcmp(x->tags[j].ptr, rq->tags[i].ptr, rq->tags[i].len) == 0;
    }
    if (!known) {
      add_tag(x, &rq->tags[i], 0, 0);
    }
  }
}

static void on_value(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  struct explained *x = calloc(1, sizeof *x);
  const char *error = NULL;
  if (x == NULL || (reply->type != REDIS_REPLY_NIL && reply->type != REDIS_REPLY_STRING)) {
    free(x);
    gorge_l2_finish_status(rq, x == NULL ? GORGE_ERR_MEMORY : GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  struct gorge_envelope *e = &x->kept.envelope;
  struct gorge_l2_look *look = &x->look;
  x->kept.reply = gorge_conn_keep_reply(rq->state.node[0]->conn);
  if (x->kept.reply == NULL) {
    free(x);
    gorge_l2_finish_status(rq, GORGE_ERR_MEMORY, 0, NULL, now_ms);
    return;
  }
  reply = x->kept.reply;
  rq->state.kept = x;
  look->status = GORGE_OK;
  look->asked = rq->state.epoch;
  if (reply->type == REDIS_REPLY_NIL) {
    e = NULL;
  } else if (gorge_envelope_decode(e, reply->str, reply->len, &error) != GORGE_OK) {
    e = NULL;
    look->state = GORGE_LOOK_DAMAGED;
    look->size = (uint32_t)reply->len;
    look->version = gorge_envelope_peek_version(reply->str, reply->len);
    snprintf(look->error, sizeof look->error, "%s", error);
  } else {
    look->kind = e->kind;
    look->size = e->value_len;
    look->version = e->version;
    look_at_life(rq, e, look, now_ms);
  }
  collect_tags(rq, e, x);
  if (rq->state.nonces_due) {
    rq->state.nonces_due = false;
    gorge_l2_proceed(rq, gorge_l2_submit_lease_ttl(rq, now_ms), now_ms);
  }
}

static void on_lease(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  struct explained *x = rq->state.kept;
  if (reply->type != REDIS_REPLY_INTEGER || x == NULL) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  /* Without an end, which scripts give it when they meet it, or in its last millisecond: held all the same. */
  x->look.lease_ms = reply->integer == -2 ? 0 : reply->integer > 0 ? (double)reply->integer : 1;
  rq->state.step = GORGE_L2_STEP_TAGS;
  gorge_l2_proceed(rq, gorge_l2_submit_nonces(rq, x->tags, x->look.ntags, now_ms), now_ms);
}

/* What Redis holds of one tag. */
static void look_at_tag(struct gorge_tag_look *tag, const struct redisReply *reply, struct gorge_l2_look *look) {
  if (reply != NULL && reply->type == REDIS_REPLY_STRING && reply->len == GORGE_TAG_BYTES) {
    tag->flags |= GORGE_TAG_THERE;
    tag->now = gorge_bytes_get64(reply->str);
    tag->version = gorge_bytes_get64(reply->str + 8);
  }
  bool alive = (tag->flags & GORGE_TAG_THERE) != 0 && tag->now == tag->stored;
  if ((tag->flags & GORGE_TAG_OF_VALUE) != 0 && !alive && look->state != GORGE_LOOK_EXPIRED) {
    look->state = GORGE_LOOK_TAG;
  }
}

static void on_tags(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  struct explained *x = rq->state.kept;
  struct gorge_l2_look *look = &x->look;
  if (reply->type != REDIS_REPLY_ARRAY || reply->elements != (size_t)look->ntags + 1) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  for (uint32_t i = 0; i < look->ntags; i++) {
    look_at_tag(&look->tags[i], reply->element[i], look);
  }
  if (!gorge_l2_number_of(reply->element[look->ntags], &look->epoch)) {
    look->epoch = 0;
  }
  finish(rq, look, now_ms);
}

void gorge_l2_on_explain(struct gorge_l2_request *rq, int index, const struct redisReply *reply, uint64_t now_ms) {
  enum gorge_l2_step step = rq->state.step;
  if (step == GORGE_L2_STEP_NAMES) {
    on_names(rq, reply, now_ms);
  } else if (rq->state.epoch != gorge_l2_name_epoch(rq->l2, rq->state.partition)) {
    gorge_l2_begin_anew(rq, now_ms); /* this host has heard of another epoch meanwhile */
  } else if (step == GORGE_L2_STEP_TAGS) {
    on_tags(rq, reply, now_ms);
  } else if (index == 0) {
    on_value(rq, reply, now_ms);
  } else {
    on_lease(rq, reply, now_ms);
  }
}
