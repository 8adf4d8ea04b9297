/* SPDX-License-Identifier: MIT */
/* A value that was read, by LOOKUP or by LEASE: whether its life and its tags let it be seen. */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "io/l2_state.h"
#include "proto/bytes.h"

static uint64_t remaining_of(const struct gorge_l2_request *rq, const struct gorge_envelope *e, uint64_t now_ms) {
  uint64_t left = rq->state.left_ms, by_clock = gorge_l2_remaining_ms(rq->state.node[0], e, now_ms);
  if (left == UINT64_MAX) {
    return by_clock;
  }
  /* What PTTL said was true at some moment since the script was sent. */
  uint64_t since = now_ms - rq->state.sent_ms + rq->l2->lag_ms;
  left = left > since ? left - since : 0;
  if (rq->state.node[0]->clock_known && by_clock < left) {
    return by_clock;
  }
  return left < GORGE_TTL_MAX_MS ? left : GORGE_TTL_MAX_MS;
}

void gorge_l2_reject(struct gorge_l2_request *rq, uint64_t version, const char *error, uint64_t now_ms) {
  if (rq->verb == GORGE_L2_LOOKUP) {
    gorge_l2_finish_status(rq, GORGE_MISS, version, error, now_ms);
    return;
  }
  /* LEASE: once more, and this time not with that value; in the last round with none. */
  gorge_l2_drop_kept(rq);
  if (++rq->state.rounds > GORGE_L2_ROUNDS_MAX) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  rq->state.rejected = rq->state.rounds < GORGE_L2_ROUNDS_MAX ? version : GORGE_VERSION_MAX;
  rq->state.step = GORGE_L2_STEP_SCRIPT;
  gorge_l2_proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
}

void gorge_l2_finish_hit(struct gorge_l2_request *rq, const struct gorge_envelope *e, uint64_t now_ms) {
  struct gorge_l2_result result;
  uint64_t kept = remaining_of(rq, e, now_ms);
  uint64_t remaining = kept > e->life.stale_ms ? kept - e->life.stale_ms : 0;
  if (remaining == 0 && !(rq->stale && kept > 0)) {
    /* Without the server's clock the value may be good: LEASE will tell, so do not call it rejected. */
    gorge_l2_reject(rq, rq->state.node[0]->clock_known || rq->verb == GORGE_L2_LEASE ? e->version : 0, NULL, now_ms);
    return;
  }
  gorge_l2_clear_result(&result, remaining > 0 ? GORGE_HIT : GORGE_STALE);
  result.version = e->version;
  result.value = e->value;
  result.value_len = e->value_len;
  result.kind = e->kind;
  result.remaining_ms = remaining;
  result.kept_ms = kept;
  result.life = e->life;
  result.ntags = e->ntags;
  for (uint32_t i = 0; i < e->ntags; i++) {
    result.tags[i] = e->tags[i];
    result.tag_nonces[i] = e->nonces[i];
  }
  gorge_l2_finish(rq, &result, now_ms);
}

/* ---- tags ---- */

static bool nonce_is(const struct redisReply *reply, uint64_t nonce) {
  return reply != NULL && reply->type == REDIS_REPLY_STRING && reply->len == GORGE_TAG_BYTES &&
         gorge_bytes_get64(reply->str) == nonce;
}

/* The place of a tag in the request's list, or -1. */
static int place_of(const struct gorge_l2_request *rq, const struct gorge_l2_tag *tag) {
  for (uint32_t i = 0; i < rq->ntags; i++) {
    if (rq->tags[i].len == tag->len && memcmp(rq->tags[i].ptr, tag->ptr, tag->len) == 0) {
      return (int)i;
    }
  }
  return -1;
}

static uint32_t other_tags(const struct gorge_l2_request *rq, const struct gorge_envelope *e,
                           struct gorge_l2_tag *others) {
  uint32_t n = 0;
  for (uint32_t i = 0; i < e->ntags; i++) {
    if (place_of(rq, &e->tags[i]) < 0) {
      others[n++] = e->tags[i];
    }
  }
  return n;
}

/* Nothing is believed about a tag that was left out. */
void gorge_l2_check_requested(struct gorge_l2_request *rq, struct redisReply *const *elements, size_t nelements,
                              uint64_t now_ms) {
  struct gorge_l2_kept *kept = rq->state.kept;
  const struct gorge_envelope *e = &kept->envelope;
  for (uint32_t i = 0; i < e->ntags; i++) {
    int at = place_of(rq, &e->tags[i]);
    if (at >= 0 && (elements == NULL || (size_t)at >= nelements || !nonce_is(elements[at], e->nonces[i]))) {
      gorge_l2_reject(rq, e->version, NULL, now_ms);
      return;
    }
  }
  struct gorge_l2_tag others[GORGE_TAGS_MAX];
  uint32_t n = other_tags(rq, e, others);
  if (n == 0) {
    gorge_l2_finish_hit(rq, e, now_ms);
    return;
  }
  rq->state.step = GORGE_L2_STEP_OTHERS;
  gorge_l2_proceed(rq, gorge_l2_submit_nonces(rq, others, n, now_ms), now_ms);
}

int gorge_l2_resend_nonces(struct gorge_l2_request *rq, uint64_t now_ms) {
  if (rq->state.step != GORGE_L2_STEP_OTHERS) {
    return gorge_l2_submit_nonces(rq, rq->tags, rq->ntags, now_ms);
  }
  struct gorge_l2_tag others[GORGE_TAGS_MAX];
  uint32_t n = other_tags(rq, &((struct gorge_l2_kept *)rq->state.kept)->envelope, others);
  return gorge_l2_submit_nonces(rq, others, n, now_ms);
}

void gorge_l2_check_others(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  const struct gorge_envelope *e = &((struct gorge_l2_kept *)rq->state.kept)->envelope;
  size_t at = 0;
  for (uint32_t i = 0; i < e->ntags; i++) {
    if (place_of(rq, &e->tags[i]) < 0) {
      if (at >= reply->elements || !nonce_is(reply->element[at], e->nonces[i])) {
        gorge_l2_reject(rq, e->version, NULL, now_ms);
        return;
      }
      at++;
    }
  }
  gorge_l2_finish_hit(rq, e, now_ms);
}

/* The bytes that an envelope points into stand elsewhere now. */
static void move(struct gorge_envelope *e, const char *from, const char *to) {
  e->value = to + (e->value - from);
  for (uint32_t i = 0; i < e->ntags; i++) {
    e->tags[i].ptr = to + (e->tags[i].ptr - from);
  }
}

bool gorge_l2_keep(struct gorge_l2_request *rq, const struct redisReply *reply, const struct gorge_envelope *e) {
  struct gorge_l2_kept *kept = malloc(sizeof *kept);
  if (kept == NULL) {
    return false;
  }
  kept->reply = gorge_conn_keep_reply(rq->state.node[0]->conn);
  if (kept->reply == NULL) {
    free(kept);
    return false;
  }
  if (e != NULL) {
    kept->envelope = *e;
  }
  if (e != NULL && kept->reply != reply) {
    move(&kept->envelope, reply->str, kept->reply->str);
  }
  rq->state.kept = kept;
  return true;
}

/* ---- LOOKUP ---- */

void gorge_l2_on_value(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_envelope e;
  const char *error = NULL;
  if (reply->type == REDIS_REPLY_NIL) {
    gorge_l2_finish_status(rq, GORGE_MISS, 0, NULL, now_ms);
  } else if (reply->type != REDIS_REPLY_STRING) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
  } else if (gorge_envelope_decode(&e, reply->str, reply->len, &error) != GORGE_OK) {
    gorge_l2_finish_status(rq, GORGE_MISS, gorge_envelope_peek_version(reply->str, reply->len), error, now_ms);
  } else {
    rq->state.left_ms = UINT64_MAX;
    if (e.ntags == 0 && !rq->confirm_epoch) {
      gorge_l2_finish_hit(rq, &e, now_ms);
    } else if (!gorge_l2_keep(rq, reply, &e)) {
      gorge_l2_finish_status(rq, GORGE_ERR_MEMORY, 0, NULL, now_ms);
    } else if (rq->ntags > 0 || rq->confirm_epoch) {
      rq->state.step = GORGE_L2_STEP_NONCES;
      if (rq->state.nonces_due) {
        rq->state.nonces_due = false;
        gorge_l2_proceed(rq, gorge_l2_resend_nonces(rq, now_ms), now_ms);
      }
    } else {
      gorge_l2_check_requested(rq, NULL, 0, now_ms);
    }
  }
}
