/* SPDX-License-Identifier: MIT */
/* From the replies of a request to its next step, or to its result. Whatever Redis sends, this ends in one or the other. */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "io/l2_state.h"
#include "proto/bytes.h"

enum { EPOCHS_MAX = 4 };

/* ---- scripts ---- */

static bool integer_at(const struct redisReply *reply, size_t i, int64_t *value) {
  if (reply->elements <= i || reply->element[i] == NULL || reply->element[i]->type != REDIS_REPLY_INTEGER) {
    return false;
  }
  *value = reply->element[i]->integer;
  return true;
}

/* Whether it is one that scripts give, or 0: none. What had a higher one could never be followed by anything newer. */
static bool is_version(int64_t number) { return number >= 0 && number <= (int64_t)GORGE_VERSION_MAX; }

static void on_lease_hit(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  int64_t version, left;
  if (!integer_at(reply, 1, &version) || !integer_at(reply, 2, &left) || version == 0 || !is_version(version) ||
      reply->elements != 4 + (size_t)rq->ntags || reply->element[3]->type != REDIS_REPLY_STRING) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  struct gorge_envelope e;
  const char *error;
  const struct redisReply *value = reply->element[3];
  if (gorge_envelope_decode(&e, value->str, value->len, &error) != GORGE_OK) {
    gorge_l2_reject(rq, (uint64_t)version, NULL, now_ms);
    return;
  }
  rq->state.left_ms = left >= 0 ? (uint64_t)left : UINT64_MAX;
  if (e.ntags == 0) {
    gorge_l2_finish_hit(rq, &e, now_ms);
  } else if (!gorge_l2_keep(rq, reply, &e)) {
    gorge_l2_finish_status(rq, GORGE_ERR_MEMORY, 0, NULL, now_ms);
  } else {
    gorge_l2_check_requested(rq, reply->element + 4, reply->elements - 4, now_ms);
  }
}

static void on_lease(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_l2_result result;
  int64_t code, left, version;
  if (reply->type != REDIS_REPLY_ARRAY || !integer_at(reply, 0, &code)) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  if (code == GORGE_LEASE_HIT) {
    on_lease_hit(rq, reply, now_ms);
    return;
  }
  gorge_l2_clear_result(&result, GORGE_ERR_PROTOCOL);
  if (code == GORGE_LEASE_BUSY && integer_at(reply, 1, &left) && left >= 0) {
    result.status = GORGE_BUSY;
    result.remaining_ms = (uint64_t)left;
  } else if (code == GORGE_LEASE_GRANTED && reply->elements == 2 + (size_t)rq->ntags &&
             integer_at(reply, 1, &version) && is_version(version)) {
    result.status = GORGE_LEASE;
    result.version = (uint64_t)version;
    result.ntags = rq->ntags;
    for (uint32_t i = 0; i < rq->ntags; i++) {
      const struct redisReply *nonce = reply->element[2 + i];
      if (nonce->type != REDIS_REPLY_STRING || nonce->len != 8) {
        gorge_l2_clear_result(&result, GORGE_ERR_PROTOCOL);
        break;
      }
      result.tags[i] = rq->tags[i];
      result.tag_nonces[i] = gorge_bytes_get64(nonce->str);
    }
  }
  gorge_l2_finish(rq, &result, now_ms);
}

static void on_number(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  bool stores = rq->verb == GORGE_L2_FILL || rq->verb == GORGE_L2_SET || rq->verb == GORGE_L2_UPDATE;
  bool yes_no = rq->verb == GORGE_L2_RELEASE || rq->verb == GORGE_L2_RENEW;
  bool may_refuse = yes_no || rq->verb == GORGE_L2_FILL || rq->verb == GORGE_L2_UPDATE;
  if (rq->verb == GORGE_L2_HEARTBEAT && reply->type == REDIS_REPLY_INTEGER && reply->integer >= 0) {
    gorge_l2_finish_status(rq, GORGE_OK, (uint64_t)reply->integer, NULL, now_ms);
    return;
  }
  if (reply->type != REDIS_REPLY_INTEGER || !is_version(reply->integer) || (reply->integer == 0 && !may_refuse)) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
  } else if (reply->integer == 0) {
    gorge_l2_finish_status(rq, GORGE_REFUSED, 0, NULL, now_ms);
  } else {
    uint64_t version = yes_no ? 0 : (uint64_t)reply->integer;
    if (rq->verb == GORGE_L2_CLEAR) {
      gorge_l2_raise_epoch(rq->l2, rq->state.partition, version);
    }
    gorge_l2_finish_status(rq, stores ? GORGE_STORED : GORGE_OK, version, NULL, now_ms);
  }
}

/* ---- TOUCH ---- */

static void touch_other_tags(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_l2_tag tags[GORGE_TAGS_MAX];
  const struct redisReply *begin = reply->elements == 2 ? reply->element[1] : NULL;
  gorge_l2_drop_kept(rq);
  if (begin == NULL || begin->type != REDIS_REPLY_STRING || begin->len < GORGE_ENVELOPE_MIN ||
      ++rq->state.rounds > GORGE_L2_ROUNDS_MAX) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
  } else if (begin->str[2] != 0 && gorge_envelope_peek_tags(begin->str, begin->len, tags) == 0) {
    gorge_l2_finish_status(rq, GORGE_MISS, 0, NULL, now_ms); /* damaged: no value to anybody */
  } else if (!gorge_l2_keep(rq, reply, NULL)) {
    gorge_l2_finish_status(rq, GORGE_ERR_MEMORY, 0, NULL, now_ms);
  } else {
    gorge_l2_proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
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
    gorge_l2_finish_status(rq, GORGE_MISS, 0, NULL, now_ms);
  } else if (code == GORGE_TOUCH_DONE && integer_at(reply, 1, &before) && integer_at(reply, 2, &version) &&
             before > 0 && version >= before) {
    struct gorge_l2_result result;
    gorge_l2_clear_result(&result, GORGE_OK);
    result.version = (uint64_t)version;
    result.before = (uint64_t)before;
    gorge_l2_finish(rq, &result, now_ms);
  } else {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
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
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  if (code != GORGE_JOURNAL_CONTINUES) {
    bool told = integer_at(reply, 1, &last) && last > 0;
    gorge_l2_finish_status(rq, told ? GORGE_MISS : GORGE_ERR_PROTOCOL, told ? (uint64_t)last : 0, NULL, now_ms);
    return;
  }
  uint64_t cursor = rq->state.cursor;
  for (size_t i = 1; i < reply->elements; i++) {
    const struct redisReply *bytes;
    struct gorge_message m;
    if (!entry_of(reply->element[i], &cursor, &bytes)) {
      gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
      return;
    }
    if (gorge_message_decode(&m, bytes->str, bytes->len) == GORGE_OK) {
      rq->message(rq, &m, now_ms);
    }
  }
  if (reply->elements <= GORGE_L2_JOURNAL_ENTRIES) {
    gorge_l2_finish_status(rq, GORGE_OK, cursor, NULL, now_ms);
    return;
  }
  if (cursor <= rq->state.cursor) { /* a page of one version: it would be read for ever */
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  /* There may be more. Each page has its own time, or what is far away would never be read to its end. */
  rq->state.cursor = cursor;
  gorge_l2_set_deadline(rq, now_ms);
  gorge_l2_proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
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

void gorge_l2_begin_anew(struct gorge_l2_request *rq, uint64_t now_ms) {
  gorge_l2_route_forget(rq);
  gorge_l2_drop_kept(rq);
  if (++rq->state.epochs > EPOCHS_MAX) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  rq->state.eval = false;
  gorge_l2_proceed(rq, gorge_l2_begin(rq, now_ms), now_ms);
}

/* A script said that its names are of the past: what are those of now? */
static void ask_epoch(struct gorge_l2_request *rq, uint64_t now_ms) {
  rq->state.eval = false;
  rq->state.step = GORGE_L2_STEP_EPOCH;
  rq->state.epoch = gorge_l2_name_epoch(rq->l2, rq->state.partition);
  gorge_l2_proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
}

static void on_epoch(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  if (reply->type != REDIS_REPLY_INTEGER || reply->integer <= 0) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
    return;
  }
  gorge_l2_learn_epoch(rq->l2, rq->state.partition, rq->state.epoch, (uint64_t)reply->integer);
  gorge_l2_begin_anew(rq, now_ms);
}

/* ---- dispatch ---- */

static void on_error(struct gorge_l2_request *rq, int index, const struct redisReply *reply, uint64_t now_ms) {
  bool script = rq->state.step == GORGE_L2_STEP_SCRIPT || rq->state.step == GORGE_L2_STEP_EPOCH;
  if (script && begins_with(reply, "NOSCRIPT") && !rq->state.eval) {
    rq->state.eval = true; /* which also loads it again */
    gorge_l2_proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
  } else if (rq->state.step == GORGE_L2_STEP_SCRIPT && begins_with(reply, "GORGEEPOCH")) {
    ask_epoch(rq, now_ms);
  } else if (!gorge_l2_route_redirect(rq, index, reply, now_ms)) {
    gorge_l2_finish_error(rq, reply, now_ms);
  }
}

void gorge_l2_on_reply(struct gorge_l2_request *rq, int index, int status, const struct redisReply *reply,
                       uint64_t now_ms) {
  enum gorge_l2_step step = rq->state.step;
  if (status != GORGE_OK) {
    gorge_l2_route_lost(rq, index, now_ms);
    gorge_l2_finish_status(rq, status, 0, NULL, now_ms);
  } else if (reply->type == REDIS_REPLY_ERROR) {
    on_error(rq, index, reply, now_ms);
  } else if (rq->verb == GORGE_L2_EXPLAIN) {
    gorge_l2_on_explain(rq, index, reply, now_ms);
  } else if (step == GORGE_L2_STEP_EPOCH) {
    on_epoch(rq, reply, now_ms);
  } else if (step != GORGE_L2_STEP_SCRIPT && rq->state.epoch != gorge_l2_name_epoch(rq->l2, rq->state.partition)) {
    gorge_l2_begin_anew(rq, now_ms);
  } else if (index == 1 && reply->type != REDIS_REPLY_ARRAY) {
    gorge_l2_finish_status(rq, GORGE_ERR_PROTOCOL, 0, NULL, now_ms);
  } else if (step == GORGE_L2_STEP_SCRIPT) {
    on_script(rq, reply, now_ms);
  } else if (step == GORGE_L2_STEP_VALUE) {
    gorge_l2_on_value(rq, reply, now_ms);
  } else if (step == GORGE_L2_STEP_NONCES && rq->confirm_epoch && !gorge_l2_epoch_confirmed(rq, reply)) {
    ask_epoch(rq, now_ms);
  } else if (step == GORGE_L2_STEP_NONCES) {
    gorge_l2_check_requested(rq, reply->element, reply->elements, now_ms);
  } else {
    gorge_l2_check_others(rq, reply, now_ms);
  }
}
