/* SPDX-License-Identifier: MIT */
/* From the replies of a request to its next step, or to its result. Whatever Redis sends, this ends in one or the other. */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "io/l2_state.h"
#include "proto/bytes.h"
#include "proto/redirect.h"

/* How often a LEASE may be sent again because what it returned was dead; then it takes the lease whatever the value. */
enum { ROUNDS_MAX = 4, EPOCHS_MAX = 4 };

void gorge_l2_drop_kept(struct gorge_l2_request *rq) {
  struct gorge_l2_kept *kept = rq->state.kept;
  rq->state.kept = NULL;
  if (kept != NULL) {
    freeReplyObject(kept->reply);
    free(kept);
  }
}

/* The request is over. What its value points into lives until done has returned; the request itself may not. */
static void finish(struct gorge_l2_request *rq, struct gorge_l2_result *result, uint64_t now_ms) {
  struct gorge_l2_kept *kept = rq->state.kept;
  gorge_conn_cancel(rq->l2->conn, &rq->command[0]);
  gorge_conn_cancel(rq->l2->conn, &rq->command[1]);
  rq->state.kept = NULL;
  rq->l2 = NULL;
  rq->done(rq, result, now_ms);
  if (kept != NULL) {
    freeReplyObject(kept->reply);
    free(kept);
  }
}

/* Not memset: the arrays of tags are most of a result, and only the first ntags count. */
static void clear(struct gorge_l2_result *r, int status) {
  r->status = status;
  r->version = 0;
  r->before = 0;
  r->value = NULL;
  r->value_len = 0;
  r->kind = 0;
  r->remaining_ms = 0;
  r->kept_ms = 0;
  r->life = (struct gorge_extra_life){0};
  r->ntags = 0;
  r->error = NULL;
}

static void finish_status(struct gorge_l2_request *rq, int status, uint64_t version, const char *error,
                          uint64_t now_ms) {
  struct gorge_l2_result result;
  clear(&result, status);
  result.version = version;
  result.error = error;
  finish(rq, &result, now_ms);
}

/* Redis's own words, fit to be printed; and what they mean, where that is not to be seen. */
static void finish_error(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  static const char cluster[] = "a node of a Redis Cluster, which this version does not support, says: ";
  struct gorge_redirect redirect;
  char *out = rq->l2->error;
  size_t at = gorge_redirect_parse(&redirect, reply->str, reply->len) ? sizeof cluster - 1 : 0;
  memcpy(out, cluster, at);
  for (size_t i = 0; i < reply->len && at < GORGE_L2_ERROR_MAX; i++) {
    unsigned char byte = (unsigned char)reply->str[i];
    out[at++] = byte >= 0x20 && byte < 0x7f ? (char)byte : '?';
  }
  out[at] = '\0';
  finish_status(rq, GORGE_ERR_REDIS, 0, out, now_ms);
}

/* What may be sent while a reply is handled fails like a request does. */
static void proceed(struct gorge_l2_request *rq, int status, uint64_t now_ms) {
  if (status != GORGE_OK) {
    finish_status(rq, status, 0, NULL, now_ms);
  }
}

/* ---- a value, once it is known whether its tags are alive ---- */

static uint64_t remaining_of(const struct gorge_l2_request *rq, const struct gorge_envelope *e, uint64_t now_ms) {
  uint64_t left = rq->state.left_ms, by_clock = gorge_l2_remaining_ms(rq->l2, e, now_ms);
  /* What PTTL said was true when the answer was on its way. */
  if (left == UINT64_MAX || (rq->l2->clock_known && by_clock < left)) {
    return by_clock;
  }
  return left < GORGE_TTL_MAX_MS ? left : GORGE_TTL_MAX_MS;
}

static void reject(struct gorge_l2_request *rq, uint64_t version, const char *error, uint64_t now_ms) {
  if (rq->verb == GORGE_L2_LOOKUP) {
    finish_status(rq, GORGE_MISS, version, error, now_ms);
    return;
  }
  /* LEASE: once more, and this time not with that value; in the last round with none. */
  gorge_l2_drop_kept(rq);
  if (++rq->state.rounds > ROUNDS_MAX) {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  rq->state.rejected = rq->state.rounds < ROUNDS_MAX ? version : GORGE_VERSION_MAX;
  rq->state.step = GORGE_L2_STEP_SCRIPT;
  proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
}

static void finish_hit(struct gorge_l2_request *rq, const struct gorge_envelope *e, uint64_t now_ms) {
  struct gorge_l2_result result;
  uint64_t kept = remaining_of(rq, e, now_ms);
  uint64_t remaining = kept > e->life.stale_ms ? kept - e->life.stale_ms : 0;
  if (remaining == 0 && !(rq->stale && kept > 0)) {
    /* Without the server's clock the value may be good: LEASE will tell, so do not call it rejected. */
    reject(rq, rq->l2->clock_known || rq->verb == GORGE_L2_LEASE ? e->version : 0, NULL, now_ms);
    return;
  }
  clear(&result, remaining > 0 ? GORGE_HIT : GORGE_STALE);
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
  finish(rq, &result, now_ms);
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

/* What Redis holds of the request's tags is there, elements[i] for tag i. Nothing is believed about a tag it left out. */
static void check_requested(struct gorge_l2_request *rq, struct redisReply *const *elements, size_t nelements,
                            uint64_t now_ms) {
  struct gorge_l2_kept *kept = rq->state.kept;
  const struct gorge_envelope *e = &kept->envelope;
  for (uint32_t i = 0; i < e->ntags; i++) {
    int at = place_of(rq, &e->tags[i]);
    if (at >= 0 && (elements == NULL || (size_t)at >= nelements || !nonce_is(elements[at], e->nonces[i]))) {
      reject(rq, e->version, NULL, now_ms);
      return;
    }
  }
  struct gorge_l2_tag others[GORGE_TAGS_MAX];
  uint32_t n = other_tags(rq, e, others);
  if (n == 0) {
    finish_hit(rq, e, now_ms);
    return;
  }
  rq->state.step = GORGE_L2_STEP_OTHERS;
  proceed(rq, gorge_l2_submit_nonces(rq, others, n, now_ms), now_ms);
}

static void check_others(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  const struct gorge_envelope *e = &((struct gorge_l2_kept *)rq->state.kept)->envelope;
  size_t at = 0;
  for (uint32_t i = 0; i < e->ntags; i++) {
    if (place_of(rq, &e->tags[i]) < 0) {
      if (at >= reply->elements || !nonce_is(reply->element[at], e->nonces[i])) {
        reject(rq, e->version, NULL, now_ms);
        return;
      }
      at++;
    }
  }
  finish_hit(rq, e, now_ms);
}

/* Keeps the reply that is being delivered, with its envelope, if it is one. Returns false when out of memory. */
static bool keep(struct gorge_l2_request *rq, const struct gorge_envelope *e) {
  struct gorge_l2_kept *kept = malloc(sizeof *kept);
  if (kept == NULL) {
    return false;
  }
  if (e != NULL) {
    kept->envelope = *e;
  }
  kept->reply = gorge_conn_keep_reply(rq->l2->conn);
  rq->state.kept = kept;
  return true;
}

/* ---- LOOKUP ---- */

static void on_value(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_envelope e;
  const char *error = NULL;
  if (reply->type == REDIS_REPLY_NIL) {
    finish_status(rq, GORGE_MISS, 0, NULL, now_ms);
  } else if (reply->type != REDIS_REPLY_STRING) {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
  } else if (gorge_envelope_decode(&e, reply->str, reply->len, &error) != GORGE_OK) {
    finish_status(rq, GORGE_MISS, gorge_envelope_peek_version(reply->str, reply->len), error, now_ms);
  } else {
    rq->state.left_ms = UINT64_MAX;
    if (e.ntags == 0 && !rq->confirm_epoch) {
      finish_hit(rq, &e, now_ms);
    } else if (!keep(rq, &e)) {
      finish_status(rq, GORGE_ERR_MEMORY, 0, NULL, now_ms);
    } else if (rq->ntags > 0 || rq->confirm_epoch) {
      rq->state.step = GORGE_L2_STEP_NONCES;
    } else {
      check_requested(rq, NULL, 0, now_ms);
    }
  }
}

/* ---- scripts ---- */

static bool integer_at(const struct redisReply *reply, size_t i, int64_t *value) {
  if (reply->elements <= i || reply->element[i] == NULL || reply->element[i]->type != REDIS_REPLY_INTEGER) {
    return false;
  }
  *value = reply->element[i]->integer;
  return true;
}

static void on_lease_hit(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  int64_t version, left;
  if (!integer_at(reply, 1, &version) || !integer_at(reply, 2, &left) || version <= 0 ||
      reply->elements != 4 + (size_t)rq->ntags || reply->element[3]->type != REDIS_REPLY_STRING) {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  struct gorge_envelope e;
  const char *error;
  const struct redisReply *value = reply->element[3];
  if (gorge_envelope_decode(&e, value->str, value->len, &error) != GORGE_OK) {
    reject(rq, (uint64_t)version, NULL, now_ms);
    return;
  }
  rq->state.left_ms = left >= 0 ? (uint64_t)left : UINT64_MAX;
  if (e.ntags == 0) {
    finish_hit(rq, &e, now_ms);
  } else if (!keep(rq, &e)) {
    finish_status(rq, GORGE_ERR_MEMORY, 0, NULL, now_ms);
  } else {
    check_requested(rq, reply->element + 4, reply->elements - 4, now_ms);
  }
}

static void on_lease(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_l2_result result;
  int64_t code, left, version;
  if (reply->type != REDIS_REPLY_ARRAY || !integer_at(reply, 0, &code)) {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  if (code == GORGE_LEASE_HIT) {
    on_lease_hit(rq, reply, now_ms);
    return;
  }
  clear(&result, GORGE_ERR_PROTOCOL);
  if (code == GORGE_LEASE_BUSY && integer_at(reply, 1, &left) && left >= 0) {
    result.status = GORGE_BUSY;
    result.remaining_ms = (uint64_t)left;
  } else if (code == GORGE_LEASE_GRANTED && reply->elements == 2 + (size_t)rq->ntags &&
             integer_at(reply, 1, &version) && version >= 0) {
    result.status = GORGE_LEASE;
    result.version = (uint64_t)version;
    result.ntags = rq->ntags;
    for (uint32_t i = 0; i < rq->ntags; i++) {
      const struct redisReply *nonce = reply->element[2 + i];
      if (nonce->type != REDIS_REPLY_STRING || nonce->len != 8) {
        clear(&result, GORGE_ERR_PROTOCOL);
        break;
      }
      result.tags[i] = rq->tags[i];
      result.tag_nonces[i] = gorge_bytes_get64(nonce->str);
    }
  }
  finish(rq, &result, now_ms);
}

static void on_number(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  bool stores = rq->verb == GORGE_L2_FILL || rq->verb == GORGE_L2_SET || rq->verb == GORGE_L2_UPDATE;
  bool yes_no = rq->verb == GORGE_L2_RELEASE || rq->verb == GORGE_L2_RENEW;
  bool may_refuse = yes_no || rq->verb == GORGE_L2_FILL || rq->verb == GORGE_L2_UPDATE;
  if (rq->verb == GORGE_L2_HEARTBEAT && reply->type == REDIS_REPLY_INTEGER && reply->integer >= 0) {
    finish_status(rq, GORGE_OK, (uint64_t)reply->integer, NULL, now_ms);
    return;
  }
  if (reply->type != REDIS_REPLY_INTEGER || reply->integer < 0 || (reply->integer == 0 && !may_refuse)) {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
  } else if (reply->integer == 0) {
    finish_status(rq, GORGE_REFUSED, 0, NULL, now_ms);
  } else {
    uint64_t version = yes_no ? 0 : (uint64_t)reply->integer;
    if (rq->verb == GORGE_L2_CLEAR) {
      gorge_l2_learn_epoch(rq->l2, rq->state.epoch, version);
    }
    finish_status(rq, stores ? GORGE_STORED : GORGE_OK, version, NULL, now_ms);
  }
}

/* ---- TOUCH ---- */

static void touch_other_tags(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_l2_tag tags[GORGE_TAGS_MAX];
  const struct redisReply *begin = reply->elements == 2 ? reply->element[1] : NULL;
  gorge_l2_drop_kept(rq);
  if (begin == NULL || begin->type != REDIS_REPLY_STRING || begin->len < GORGE_ENVELOPE_MIN ||
      ++rq->state.rounds > ROUNDS_MAX) {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
  } else if (begin->str[2] != 0 && gorge_envelope_peek_tags(begin->str, begin->len, tags) == 0) {
    finish_status(rq, GORGE_MISS, 0, NULL, now_ms); /* damaged: no value to anybody */
  } else if (!keep(rq, NULL)) {
    finish_status(rq, GORGE_ERR_MEMORY, 0, NULL, now_ms);
  } else {
    proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
  }
}

static void on_touch(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  int64_t code, before, version;
  if (reply->type != REDIS_REPLY_ARRAY || !integer_at(reply, 0, &code)) {
    code = -1;
  }
  if (code == GORGE_TOUCH_OTHER_TAGS) {
    touch_other_tags(rq, reply, now_ms);
  } else if (code == GORGE_TOUCH_NONE) {
    finish_status(rq, GORGE_MISS, 0, NULL, now_ms);
  } else if (code == GORGE_TOUCH_DONE && integer_at(reply, 1, &before) && integer_at(reply, 2, &version) &&
             before > 0 && version >= before) {
    struct gorge_l2_result result;
    clear(&result, GORGE_OK);
    result.version = (uint64_t)version;
    result.before = (uint64_t)before;
    finish(rq, &result, now_ms);
  } else {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
  }
}

/* ---- JOURNAL ---- */

/* The version in an entry's id, and its message. Returns false when that is not an entry. */
static bool entry_of(const struct redisReply *entry, uint64_t *version, const struct redisReply **message) {
  if (entry->type != REDIS_REPLY_ARRAY || entry->elements != 2 || entry->element[0]->type != REDIS_REPLY_STRING ||
      entry->element[1]->type != REDIS_REPLY_ARRAY || entry->element[1]->elements != 2 ||
      entry->element[1]->element[1]->type != REDIS_REPLY_STRING) {
    return false;
  }
  *version = strtoull(entry->element[0]->str, NULL, 10);
  *message = entry->element[1]->element[1];
  return *version > 0 && *version <= GORGE_VERSION_MAX;
}

static void on_journal(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  int64_t code, last;
  if (reply->type != REDIS_REPLY_ARRAY || !integer_at(reply, 0, &code)) {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  if (code != GORGE_JOURNAL_CONTINUES) {
    bool told = integer_at(reply, 1, &last) && last > 0;
    finish_status(rq, told ? GORGE_MISS : GORGE_ERR_PROTOCOL, told ? (uint64_t)last : 0, NULL, now_ms);
    return;
  }
  uint64_t cursor = rq->state.cursor;
  for (size_t i = 1; i < reply->elements; i++) {
    const struct redisReply *bytes;
    struct gorge_message m;
    if (!entry_of(reply->element[i], &cursor, &bytes)) {
      finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
      return;
    }
    if (gorge_message_decode(&m, bytes->str, bytes->len) == GORGE_OK) {
      rq->message(rq, &m, now_ms);
    }
  }
  if (reply->elements <= GORGE_L2_JOURNAL_ENTRIES) {
    finish_status(rq, GORGE_OK, cursor, NULL, now_ms);
    return;
  }
  rq->state.cursor = cursor; /* there may be more */
  proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
}

static void on_script(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  if (rq->verb == GORGE_L2_JOURNAL) {
    on_journal(rq, reply, now_ms);
  } else if (rq->verb == GORGE_L2_LEASE) {
    on_lease(rq, reply, now_ms);
  } else if (rq->verb == GORGE_L2_TOUCH) {
    on_touch(rq, reply, now_ms);
  } else {
    on_number(rq, reply, now_ms);
  }
}

static bool begins_with(const struct redisReply *reply, const char *word) {
  size_t len = strlen(word);
  return reply->len >= len && memcmp(reply->str, word, len) == 0;
}

/* ---- another epoch ---- */

/* The request begins anew, under the epoch of now. */
static void begin_anew(struct gorge_l2_request *rq, uint64_t now_ms) {
  gorge_conn_cancel(rq->l2->conn, &rq->command[0]);
  gorge_conn_cancel(rq->l2->conn, &rq->command[1]);
  gorge_l2_drop_kept(rq);
  if (++rq->state.epochs > EPOCHS_MAX) {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  rq->state.eval = false;
  proceed(rq, gorge_l2_begin(rq, now_ms), now_ms);
}

/* A script said that its names are of the past: what are those of now? */
static void ask_epoch(struct gorge_l2_request *rq, uint64_t now_ms) {
  rq->state.eval = false;
  rq->state.step = GORGE_L2_STEP_EPOCH;
  rq->state.epoch = gorge_l2_name_epoch(rq->l2);
  proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
}

static void on_epoch(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  if (reply->type != REDIS_REPLY_INTEGER || reply->integer <= 0) {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  gorge_l2_learn_epoch(rq->l2, rq->state.epoch, (uint64_t)reply->integer);
  begin_anew(rq, now_ms);
}

/* ---- dispatch ---- */

static void on_error(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  bool script = rq->state.step == GORGE_L2_STEP_SCRIPT || rq->state.step == GORGE_L2_STEP_EPOCH;
  if (script && begins_with(reply, "NOSCRIPT") && !rq->state.eval) {
    rq->state.eval = true; /* which also loads it again */
    proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
  } else if (rq->state.step == GORGE_L2_STEP_SCRIPT && begins_with(reply, "GORGEEPOCH")) {
    ask_epoch(rq, now_ms);
  } else {
    finish_error(rq, reply, now_ms);
  }
}

void gorge_l2_on_reply(struct gorge_l2_request *rq, int index, int status, const struct redisReply *reply,
                       uint64_t now_ms) {
  enum gorge_l2_step step = rq->state.step;
  if (status != GORGE_OK) {
    finish_status(rq, status, 0, NULL, now_ms);
  } else if (reply->type == REDIS_REPLY_ERROR) {
    on_error(rq, reply, now_ms);
  } else if (step == GORGE_L2_STEP_EPOCH) {
    on_epoch(rq, reply, now_ms);
  } else if (step != GORGE_L2_STEP_SCRIPT && rq->state.epoch != gorge_l2_name_epoch(rq->l2)) {
    begin_anew(rq, now_ms);
  } else if (index == 1 && reply->type != REDIS_REPLY_ARRAY) {
    finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
  } else if (step == GORGE_L2_STEP_SCRIPT) {
    on_script(rq, reply, now_ms);
  } else if (step == GORGE_L2_STEP_VALUE) {
    on_value(rq, reply, now_ms);
  } else if (step == GORGE_L2_STEP_NONCES && rq->confirm_epoch && !gorge_l2_epoch_confirmed(rq, reply)) {
    ask_epoch(rq, now_ms);
  } else if (step == GORGE_L2_STEP_NONCES) {
    check_requested(rq, reply->element, reply->elements, now_ms);
  } else {
    check_others(rq, reply, now_ms);
  }
}
