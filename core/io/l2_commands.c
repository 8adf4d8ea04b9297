/* SPDX-License-Identifier: MIT */
/* From a request to the arguments of its command. */
#include <hiredis/hiredis.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "io/l2_state.h"
#include "proto/bytes.h"

static bool needs_token(enum gorge_l2_verb verb) {
  return verb == GORGE_L2_LEASE || verb == GORGE_L2_FILL || verb == GORGE_L2_RELEASE || verb == GORGE_L2_RENEW ||
         verb == GORGE_L2_UPDATE;
}

static bool stores_value(enum gorge_l2_verb verb) {
  return verb == GORGE_L2_FILL || verb == GORGE_L2_SET || verb == GORGE_L2_UPDATE;
}

int gorge_l2_check(const struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  bool tags_only = rq->verb == GORGE_L2_INVALIDATE_TAGS;
  bool keyless =
      tags_only || rq->verb == GORGE_L2_JOURNAL || rq->verb == GORGE_L2_HEARTBEAT || rq->verb == GORGE_L2_CLEAR;
  bool stores = stores_value(rq->verb);
  bool leases = rq->verb == GORGE_L2_LEASE || rq->verb == GORGE_L2_RENEW || rq->verb == GORGE_L2_UPDATE;
  if (rq->verb > GORGE_L2_EXPLAIN || (rq->verb == GORGE_L2_TOUCH && rq->ttl_ms == 0) || rq->ntags > GORGE_TAGS_MAX ||
      (tags_only && rq->ntags == 0) || (!keyless && (rq->key_len < 1 || rq->key_len > GORGE_KEY_MAX)) ||
      (needs_token(rq->verb) && rq->token == 0) || (leases && rq->lease_ms == 0) ||
      (rq->verb == GORGE_L2_JOURNAL && rq->message == NULL)) {
    return GORGE_ERR_ARGUMENT;
  }
  if ((rq->verb == GORGE_L2_JOURNAL || rq->verb == GORGE_L2_HEARTBEAT) && rq->partition >= l2->partition_count) {
    return GORGE_ERR_ARGUMENT;
  }
  if (rq->before != NULL && rq->before->ntags > GORGE_TAGS_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  for (uint32_t i = 0; i < rq->ntags; i++) {
    if (rq->tags[i].len < 1 || rq->tags[i].len > GORGE_TAG_MAX) {
      return GORGE_ERR_ARGUMENT;
    }
  }
  if (stores && (rq->ttl_ms == 0 || rq->value_len > l2->max_value)) {
    return GORGE_ERR_ARGUMENT;
  }
  return GORGE_OK;
}

/* ---- arguments; what does not fit makes argc 0, which submit refuses ---- */

static void add(struct gorge_l2 *l2, const char *ptr, size_t len) {
  if (l2->argc >= 0 && l2->argc < GORGE_L2_ARGS_MAX) {
    l2->argv[l2->argc] = ptr;
    l2->argv_len[l2->argc++] = len;
  } else {
    l2->argc = -1;
  }
}

static void add_text(struct gorge_l2 *l2, const char *text) { add(l2, text, strlen(text)); }

/* Takes len bytes of scratch for the argument that was just written there. */
static void add_scratch(struct gorge_l2 *l2, size_t len) {
  add(l2, l2->scratch + l2->scratch_used, len);
  l2->scratch_used += len;
}

static void add_name(struct gorge_l2 *l2, enum gorge_name name, const char *part, size_t part_len) {
  size_t len = gorge_names_write(&l2->names, l2->partition, name, part, part_len, l2->scratch + l2->scratch_used,
                                 sizeof l2->scratch - l2->scratch_used);
  if (len == 0) {
    l2->argc = -1;
    return;
  }
  add_scratch(l2, len);
}

static bool has_scratch(struct gorge_l2 *l2, size_t len) {
  if (sizeof l2->scratch - l2->scratch_used >= len) {
    return true;
  }
  l2->argc = -1;
  return false;
}

static void add_number(struct gorge_l2 *l2, uint64_t number) {
  if (has_scratch(l2, 24)) {
    add_scratch(l2, (size_t)snprintf(l2->scratch + l2->scratch_used, 24, "%" PRIu64, number));
  }
}

static void add_eights(struct gorge_l2 *l2, const uint64_t *numbers, uint32_t n) {
  if (has_scratch(l2, 8 * (size_t)n)) {
    for (uint32_t i = 0; i < n; i++) {
      gorge_bytes_put64(l2->scratch + l2->scratch_used + 8 * (size_t)i, numbers[i]);
    }
    add_scratch(l2, 8 * (size_t)n);
  }
}

static int add_fresh_nonces(struct gorge_l2 *l2, uint32_t n) {
  uint64_t nonces[GORGE_TAGS_MAX];
  int status = n > 0 ? gorge_random(nonces, n * sizeof nonces[0]) : GORGE_OK;
  if (status == GORGE_OK) {
    add_eights(l2, nonces, n);
  }
  return status;
}

static void add_tag_names(struct gorge_l2 *l2, const struct gorge_l2_tag *tags, uint32_t ntags) {
  for (uint32_t i = 0; i < ntags; i++) {
    add_name(l2, GORGE_NAME_TAG, tags[i].ptr, tags[i].len);
  }
}

static void start(const struct gorge_l2_request *rq, const char *name) {
  struct gorge_l2 *l2 = rq->l2;
  l2->partition = rq->state.partition;
  l2->argc = 0;
  l2->scratch_used = 0;
  add_text(l2, name);
}

int gorge_l2_submit_get(struct gorge_l2_request *rq, uint64_t now_ms) {
  start(rq, "GET");
  add_name(rq->l2, GORGE_NAME_VALUE, rq->key, rq->key_len);
  return gorge_l2_route_submit(rq, 0, now_ms);
}

int gorge_l2_submit_nonces(struct gorge_l2_request *rq, const struct gorge_l2_tag *tags, uint32_t ntags,
                           uint64_t now_ms) {
  start(rq, "MGET");
  add_tag_names(rq->l2, tags, ntags);
  if (rq->confirm_epoch) {
    add_name(rq->l2, GORGE_NAME_EPOCH, NULL, 0);
  }
  return gorge_l2_route_submit(rq, 1, now_ms);
}

int gorge_l2_submit_epoch(struct gorge_l2_request *rq, uint64_t now_ms) {
  start(rq, "GET");
  add_name(rq->l2, GORGE_NAME_EPOCH, NULL, 0);
  return gorge_l2_route_submit(rq, 0, now_ms);
}

int gorge_l2_submit_lease_ttl(struct gorge_l2_request *rq, uint64_t now_ms) {
  start(rq, "PTTL");
  add_name(rq->l2, GORGE_NAME_LEASE, rq->key, rq->key_len);
  return gorge_l2_route_submit(rq, 1, now_ms);
}

/* ---- scripts; the order of keys and arguments is that of proto/scripts.c ---- */

static enum gorge_script script_of(const struct gorge_l2_request *rq) {
  if (rq->state.step == GORGE_L2_STEP_EPOCH) {
    return GORGE_SCRIPT_EPOCH;
  }
  switch (rq->verb) {
    case GORGE_L2_LOOKUP: /* needs no script, as */
    case GORGE_L2_EXPLAIN:
    case GORGE_L2_LEASE: return GORGE_SCRIPT_LEASE;
    case GORGE_L2_FILL: return GORGE_SCRIPT_FILL;
    case GORGE_L2_RELEASE: return GORGE_SCRIPT_RELEASE;
    case GORGE_L2_RENEW: return GORGE_SCRIPT_RENEW;
    case GORGE_L2_SET: return GORGE_SCRIPT_SET;
    case GORGE_L2_DELETE: return GORGE_SCRIPT_DELETE;
    case GORGE_L2_JOURNAL: return GORGE_SCRIPT_JOURNAL;
    case GORGE_L2_TOUCH: return GORGE_SCRIPT_TOUCH;
    case GORGE_L2_UPDATE: return GORGE_SCRIPT_UPDATE;
    case GORGE_L2_HEARTBEAT: return GORGE_SCRIPT_HEARTBEAT;
    case GORGE_L2_CLEAR: return GORGE_SCRIPT_CLEAR;
    case GORGE_L2_INVALIDATE_TAGS: break;
  }
  return GORGE_SCRIPT_INVALIDATE;
}

/* The tags that a request names: its own, or, once TOUCH has been told so, those of the value. */
static uint32_t tags_of(const struct gorge_l2_request *rq, struct gorge_l2_tag found[GORGE_TAGS_MAX],
                        const struct gorge_l2_tag **tags) {
  const struct gorge_l2_kept *kept = rq->state.kept;
  if (rq->verb != GORGE_L2_TOUCH || kept == NULL) {
    *tags = rq->tags;
    return rq->ntags;
  }
  *tags = found;
  return gorge_envelope_peek_tags(kept->reply->element[1]->str, kept->reply->element[1]->len, found);
}

/* The number of what was added after the place of its own. */
static void add_count(struct gorge_l2 *l2, int count_at) {
  if (l2->argc > 0 && has_scratch(l2, 8)) {
    char *text = l2->scratch + l2->scratch_used;
    int len = snprintf(text, 8, "%d", l2->argc - count_at - 1);
    l2->argv[count_at] = text;
    l2->argv_len[count_at] = (size_t)len;
    l2->scratch_used += (size_t)len;
  }
}

/* For scripts that tell others: the last argument but for the epoch. */
static void add_partition(struct gorge_l2 *l2) {
  if (l2->partition_count == 1) {
    add_text(l2, "");
  } else {
    add_number(l2, l2->partition);
  }
}

static bool tells_others(enum gorge_l2_verb verb) {
  return verb != GORGE_L2_LEASE && verb != GORGE_L2_RENEW && verb != GORGE_L2_JOURNAL;
}

/* Keys and arguments of the scripts that make epochs. */
static void add_epoch_script(struct gorge_l2 *l2) {
  int count_at = l2->argc;
  add_text(l2, "");
  add_name(l2, GORGE_NAME_EPOCH, NULL, 0);
  add_name(l2, GORGE_NAME_COUNTER, NULL, 0);
  add_name(l2, GORGE_NAME_JOURNAL, NULL, 0);
  add_count(l2, count_at);
  add(l2, l2->names.channel, l2->names.channel_len);
  add_partition(l2);
}

/* Whether the script is told the epoch: all but those for which a lease with that token is enough, and those without values. */
static bool tells_epoch(enum gorge_l2_verb verb) {
  return verb != GORGE_L2_RELEASE && verb != GORGE_L2_RENEW && verb != GORGE_L2_HEARTBEAT;
}

static void add_script_keys(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  enum gorge_l2_verb verb = rq->verb;
  bool lease_only = verb == GORGE_L2_RELEASE || verb == GORGE_L2_RENEW;
  bool keyless = verb == GORGE_L2_INVALIDATE_TAGS || verb == GORGE_L2_JOURNAL || verb == GORGE_L2_HEARTBEAT;
  bool journals =
      keyless || verb == GORGE_L2_SET || verb == GORGE_L2_DELETE || verb == GORGE_L2_TOUCH || verb == GORGE_L2_UPDATE;
  struct gorge_l2_tag found[GORGE_TAGS_MAX];
  const struct gorge_l2_tag *tags;
  uint32_t ntags = tags_of(rq, found, &tags);
  int count_at = l2->argc;
  add_text(l2, "");
  if (!lease_only && !keyless) {
    add_name(l2, GORGE_NAME_VALUE, rq->key, rq->key_len);
  }
  if (!keyless && verb != GORGE_L2_TOUCH) {
    add_name(l2, GORGE_NAME_LEASE, rq->key, rq->key_len);
  }
  if (!lease_only && verb != GORGE_L2_HEARTBEAT) {
    add_name(l2, GORGE_NAME_COUNTER, NULL, 0);
  }
  if (journals) {
    add_name(l2, GORGE_NAME_JOURNAL, NULL, 0);
  }
  if (verb == GORGE_L2_UPDATE) {
    char nonce[17];
    add_name(l2, GORGE_NAME_UPDATE, nonce, (size_t)snprintf(nonce, sizeof nonce, "%016" PRIx64, rq->token));
  }
  if (!lease_only && verb != GORGE_L2_DELETE && verb != GORGE_L2_JOURNAL) {
    add_tag_names(l2, tags, ntags);
  }
  if (verb == GORGE_L2_UPDATE && rq->before != NULL) {
    add_tag_names(l2, rq->before->tags, rq->before->ntags);
  }
  if (tells_epoch(verb)) {
    add_name(l2, GORGE_NAME_EPOCH, NULL, 0);
  }
  add_count(l2, count_at);
}

/* How long a value is kept; TOUCH finds out itself for how long it is after its ttl. */
static void add_ttl(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  uint64_t ttl_ms = rq->ttl_ms < GORGE_TTL_MAX_MS ? rq->ttl_ms : GORGE_TTL_MAX_MS;
  if (rq->verb != GORGE_L2_TOUCH) {
    ttl_ms += rq->life.stale_ms < GORGE_TTL_MAX_MS ? rq->life.stale_ms : GORGE_TTL_MAX_MS;
  }
  add_number(l2, ttl_ms);
  add_number(l2, ttl_ms + GORGE_SCRIPT_TAG_MARGIN_MS);
}

static void add_tell(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  add(l2, l2->names.channel, l2->names.channel_len);
  add(l2, rq->key, rq->key_len);
}

static int add_fill_arguments(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  int status = GORGE_OK;
  add_eights(l2, &rq->token, 1);
  add(l2, l2->seal.head, sizeof l2->seal.head);
  add(l2, l2->seal.bytes, l2->seal.len);
  add(l2, rq->value, rq->value_len);
  add_ttl(l2, rq);
  if (rq->tag_nonces != NULL || rq->ntags == 0) {
    add_eights(l2, rq->tag_nonces, rq->ntags);
    add_tell(l2, rq);
    add_text(l2, "");
  } else {
    status = add_fresh_nonces(l2, rq->ntags);
    add_tell(l2, rq);
    add_number(l2, rq->since);
  }
  return status;
}

static int add_set_arguments(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  add(l2, l2->seal.head, sizeof l2->seal.head);
  add(l2, l2->seal.bytes, l2->seal.len);
  add(l2, rq->value, rq->value_len);
  add_ttl(l2, rq);
  int status = add_fresh_nonces(l2, rq->ntags);
  add_tell(l2, rq);
  return status;
}

static int add_update_arguments(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  add_number(l2, rq->since);
  add_number(l2, rq->lease_ms);
  int status = add_set_arguments(l2, rq);
  if (rq->before != NULL) {
    add_eights(l2, rq->before->nonces, rq->before->ntags);
  } else {
    add_text(l2, "");
  }
  return status;
}

static int add_invalidate_arguments(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  add(l2, l2->names.channel, l2->names.channel_len);
  add_number(l2, GORGE_SCRIPT_TAG_MARGIN_MS);
  int status = add_fresh_nonces(l2, rq->ntags);
  for (uint32_t i = 0; i < rq->ntags && !rq->state.silent; i++) {
    add(l2, rq->tags[i].ptr, rq->tags[i].len);
  }
  return status;
}

static void add_touch_arguments(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  struct gorge_l2_tag found[GORGE_TAGS_MAX];
  const struct gorge_l2_tag *tags;
  uint32_t ntags = tags_of(rq, found, &tags);
  add_ttl(l2, rq);
  size_t len = 0;
  for (uint32_t i = 0; i < ntags && has_scratch(l2, len + 1 + tags[i].len); i++) {
    char *at = l2->scratch + l2->scratch_used + len;
    *at = (char)tags[i].len;
    memcpy(at + 1, tags[i].ptr, tags[i].len);
    len += 1 + tags[i].len;
  }
  add_scratch(l2, len);
  add_tell(l2, rq);
}

static int add_lease_arguments(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  add_eights(l2, &rq->token, 1);
  add_eights(l2, &rq->previous, 1);
  add_number(l2, rq->lease_ms);
  add_number(l2, rq->state.rejected);
  add_number(l2, rq->lease_ms + GORGE_SCRIPT_TAG_MARGIN_MS);
  return add_fresh_nonces(l2, rq->ntags);
}

static void add_heartbeat_arguments(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  if (has_scratch(l2, GORGE_NAME_OWN_MAX + 1)) {
    add_scratch(l2, gorge_names_own_channel(&l2->names, rq->since, l2->scratch + l2->scratch_used));
  }
  add(l2, rq->value, rq->value_len);
}

static int add_script_arguments(struct gorge_l2 *l2, const struct gorge_l2_request *rq) {
  switch (rq->verb) {
    case GORGE_L2_LEASE: return add_lease_arguments(l2, rq);
    case GORGE_L2_FILL: return add_fill_arguments(l2, rq);
    case GORGE_L2_SET: return add_set_arguments(l2, rq);
    case GORGE_L2_UPDATE: return add_update_arguments(l2, rq);
    case GORGE_L2_INVALIDATE_TAGS: return add_invalidate_arguments(l2, rq);
    case GORGE_L2_DELETE: add_tell(l2, rq); break;
    case GORGE_L2_TOUCH: add_touch_arguments(l2, rq); break;
    case GORGE_L2_HEARTBEAT: add_heartbeat_arguments(l2, rq); break;
    case GORGE_L2_RELEASE:
      add_eights(l2, &rq->token, 1);
      add_tell(l2, rq);
      break;
    case GORGE_L2_RENEW:
      add_eights(l2, &rq->token, 1);
      add_number(l2, rq->lease_ms);
      break;
    case GORGE_L2_JOURNAL:
      add_number(l2, rq->state.cursor);
      add_number(l2, GORGE_L2_JOURNAL_ENTRIES);
      break;
    case GORGE_L2_CLEAR:
    case GORGE_L2_EXPLAIN:
    case GORGE_L2_LOOKUP: return GORGE_ERR_ARGUMENT;
  }
  return GORGE_OK;
}

int gorge_l2_submit_script(struct gorge_l2_request *rq, uint64_t now_ms) {
  struct gorge_l2 *l2 = rq->l2;
  rq->state.sent_ms = now_ms;
  enum gorge_script script = script_of(rq);
  bool epochs = script == GORGE_SCRIPT_EPOCH || script == GORGE_SCRIPT_CLEAR;
  if (!epochs && stores_value(rq->verb)) {
    int sealed =
        gorge_envelope_seal(&l2->seal, rq->kind, rq->ttl_ms, &rq->life, rq->ntags, rq->tags, rq->value, rq->value_len);
    if (sealed != GORGE_OK) {
      return sealed;
    }
  }
  const char *sha = gorge_l2_route_node(rq)->sha[script];
  if (sha[0] != '\0' && !rq->state.eval) {
    start(rq, "EVALSHA");
    add(l2, sha, GORGE_SCRIPT_SHA_LEN);
  } else {
    start(rq, "EVAL");
    add_text(l2, gorge_script_text(script));
    rq->state.eval = true;
  }
  if (epochs) {
    add_epoch_script(l2);
    return gorge_l2_route_submit(rq, 0, now_ms);
  }
  add_script_keys(l2, rq);
  int status = add_script_arguments(l2, rq);
  if (tells_others(rq->verb)) {
    add_partition(l2);
  }
  if (tells_epoch(rq->verb)) {
    add_number(l2, rq->state.epoch);
  }
  return status == GORGE_OK ? gorge_l2_route_submit(rq, 0, now_ms) : status;
}
