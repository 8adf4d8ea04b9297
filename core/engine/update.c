/* SPDX-License-Identifier: MIT */
/*
 * update: compare and set. Without Redis the value in L1 gives way to the new one if it is still the entry that was read; with
 * Redis, if it has still the version that was read there, and L1 follows.
 *
 * An answer that is lost leaves open whether Redis did it. So the same attempt is sent again, under the same name, until
 * Redis says: done (then or now), or refused.
 */
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "engine/missed.h"
#include "engine/remote.h"

enum {
  ASK_AGAIN_MS = 10000, /* so long an attempt whose answer is missing is asked for again */
  RECORD_MS = 3 * ASK_AGAIN_MS,
  FIRST_BYTES = 4096
};

static void is_read(struct gorge_op *op, int status) {
  op->status = status;
  gorge_op_notify(op);
}

/* The value in L1, and the word that tells whether it is still there. */
static void read_here(struct gorge_op *op, uint64_t now_ms) {
  const gorge_cache *c = op->cache;
  struct gorge_read *read = &op->read;
  int status = GORGE_SPACE;
  for (uint32_t size = FIRST_BYTES; status == GORGE_SPACE; size = read->len) {
    char *larger = realloc(op->value.ptr, size);
    if (larger == NULL) {
      gorge_op_end(op, GORGE_ERR_MEMORY);
      return;
    }
    op->value.ptr = read->buf = larger;
    read->buf_size = size;
    status = gorge_l1_read(c->zone, &op->key, now_ms, true, read);
  }
  op->value.len = status == GORGE_HIT ? read->len : 0;
  op->state = GORGE_OP_READ;
  is_read(op, status == GORGE_HIT ? GORGE_HIT : GORGE_MISS);
}

/* What Redis holds is to be forgotten, which it does not know yet: it cannot be what a new value is made of. */
static void missed(struct gorge_op *op) {
  gorge_write_explain(op, GORGE_ERR_DOWN, "an invalidation still waits for Redis");
  gorge_op_end(op, GORGE_ERR_DOWN);
}

void gorge_update_read(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  gorge_key_init(c->zone, c->ns, op->bytes, op->key.len, &op->key);
  gorge_l1_snapshot(c->zone, &op->key, op->tags, op->ntags, &op->snapshot);
  op->verb = GORGE_L2_UPDATE;
  if (!c->has_redis) {
    read_here(op, gorge_cache_now(c));
    return;
  }
  int status = gorge_remote_reachable(c) ? GORGE_ERR_BREAKER : GORGE_ERR_DOWN;
  if (gorge_missed_key(op)) {
    missed(op);
    return;
  }
  if (gorge_remote_allowed(op, now_ms)) {
    op->state = GORGE_OP_READ;
    status = gorge_remote_send(op, GORGE_L2_LOOKUP, now_ms);
  }
  if (status != GORGE_OK) {
    gorge_write_explain(op, status, NULL);
    gorge_op_end(op, status);
  }
}

/* Keeps the tags of what was read: an invalidation that comes before the commit is to be noticed. Returns false when out of memory. */
static bool keep_tags(struct gorge_op *op, const struct gorge_l2_result *r) {
  struct gorge_op_before *before = r->ntags > 0 ? malloc(sizeof *before) : NULL;
  if (before == NULL) {
    return r->ntags == 0;
  }
  char *at = before->names;
  before->tags.ntags = r->ntags;
  for (uint32_t i = 0; i < r->ntags; i++) {
    memcpy(at, r->tags[i].ptr, r->tags[i].len);
    before->tags.tags[i] = (struct gorge_l2_tag){at, r->tags[i].len};
    before->tags.nonces[i] = r->tag_nonces[i];
    at += r->tags[i].len;
  }
  op->before = before;
  return true;
}

void gorge_update_read_reply(struct gorge_op *op, const struct gorge_l2_result *r, uint64_t now_ms) {
  (void)now_ms;
  if (op->detached || r->status < 0) {
    gorge_write_explain(op, r->status, r->error);
    gorge_op_end(op, r->status);
    return;
  }
  if (r->status == GORGE_HIT && gorge_missed_tags(op->cache, r->ntags, r->tags)) {
    missed(op);
    return;
  }
  op->since = r->version;
  op->read.kind = r->kind;
  if (r->status == GORGE_HIT &&
      (!keep_tags(op, r) || gorge_blob_copy(&op->value, r->value, r->value_len) != GORGE_OK)) {
    gorge_op_end(op, GORGE_ERR_MEMORY);
    return;
  }
  is_read(op, r->status);
}

static void end_with(struct gorge_op *op, int status) {
  if (status == GORGE_REFUSED) {
    gorge_count(op->cache, GORGE_COUNT_UPDATE_CONFLICTS);
  }
  gorge_op_end(op, status);
}

static void commit_here(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  struct gorge_exchange exchange = {.word = op->read.slot != NULL ? op->read.word : 0, .hard = true};
  struct gorge_entry entry = {
      .value = op->store.ptr,
      .value_len = op->store.len,
      .kind = op->store_kind,
      .ntags = op->ntags,
      .tags = op->tags,
  };
  gorge_cache_life(c, &op->span, 0, now_ms, &entry);
  int status =
      gorge_l1_exchange(c->zone, &c->process->owner, &op->key, &entry, &op->snapshot, &exchange, now_ms, &op->read);
  end_with(op, status == GORGE_BUSY ? GORGE_REFUSED : status);
}

void gorge_update_commit(struct gorge_op *op, const struct gorge_store *store, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  gorge_count(c, GORGE_COUNT_UPDATES);
  op->status = GORGE_PENDING;
  if (gorge_op_take_store(op, store) != GORGE_OK ||
      (c->has_redis && gorge_random(&op->l2_token, sizeof op->l2_token) != GORGE_OK)) {
    gorge_op_end(op, GORGE_ERR_MEMORY);
    return;
  }
  if (!c->has_redis) {
    op->store_kind = store->kind;
    commit_here(op, now_ms);
    return;
  }
  op->state = GORGE_OP_COMMIT;
  op->lease_ms = RECORD_MS;
  op->deadline_ms = now_ms + ASK_AGAIN_MS;
  int status = gorge_remote_allowed(op, now_ms) ? gorge_remote_send(op, GORGE_L2_UPDATE, now_ms) : GORGE_ERR_DOWN;
  if (status != GORGE_OK) {
    gorge_write_explain(op, status, NULL);
    gorge_op_end(op, status);
  }
}

static bool answer_is_lost(int status) {
  return status == GORGE_ERR_TIMEOUT || status == GORGE_ERR_DOWN || status == GORGE_ERR_PROTOCOL;
}

static void ask_later(struct gorge_op *op, int status, const char *said, uint64_t now_ms) {
  if (now_ms >= op->deadline_ms || op->detached) {
    gorge_write_explain(op, status, said);
    gorge_op_end(op, status);
    return;
  }
  op->next_ms = now_ms + op->cache->lock_sleep_ms;
  gorge_op_list(op);
}

void gorge_update_reply(struct gorge_op *op, const struct gorge_l2_result *r, uint64_t now_ms) {
  gorge_op_unlist(op);
  if (r->status == GORGE_STORED) {
    gorge_write_show(op, r->version, now_ms);
    gorge_op_end(op, GORGE_STORED);
  } else if (answer_is_lost(r->status)) {
    op->unknown = true;
    gorge_write_forget(op, 0); /* it may be the older value by now */
    ask_later(op, r->status, r->error, now_ms);
  } else {
    op->unknown = op->unknown && r->status != GORGE_REFUSED;
    gorge_write_explain(op, r->status, r->error);
    end_with(op, r->status);
  }
}

void gorge_update_look(struct gorge_op *op, uint64_t now_ms) {
  if (op->requested || now_ms < op->next_ms) {
    return;
  }
  gorge_op_unlist(op);
  /* A process that stood still may find its time over: what Redis remembers of the attempt ends some time after that. */
  bool may_ask = now_ms < op->deadline_ms && gorge_remote_allowed(op, now_ms);
  if (!may_ask || gorge_remote_send(op, GORGE_L2_UPDATE, now_ms) != GORGE_OK) {
    ask_later(op, GORGE_ERR_TIMEOUT, NULL, now_ms);
  }
}
