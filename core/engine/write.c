/* SPDX-License-Identifier: MIT */
/*
 * set, delete, invalidate_tags, clear. Each makes this host forget before it is sent and again after the reply, before the caller
 * returns: in between a neighbour may have read the new stamp but the old value in Redis. What Redis was not told is queued before
 * the host forgets for the second time: from then on a neighbour either finds it queued, and does not ask, or began too early for L1.
 * A value is shown once Redis has given it a version: shown before, it could be followed by an older one.
 */
#include <string.h>

#include "engine/missed.h"
#include "engine/remote.h"
#include "shm/events.h"

/* An invalidation without version, and the snapshot of an insert that belongs to it. */
static void open_here(struct gorge_op *op) {
  gorge_cache *c = op->cache;
  struct gorge_snapshot after;
  gorge_key_init(c->zone, c->ns, op->bytes, op->key.len, &op->key);
  gorge_l1_invalidate(c->zone, &c->process->owner, &op->key, 0, &after);
  gorge_l1_snapshot(c->zone, &op->key, op->tags, op->ntags, &op->snapshot);
  op->snapshot.hard = after.hard;
  op->snapshot.soft = after.soft;
}

static void insert(struct gorge_op *op, uint64_t version, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  struct gorge_entry entry = {
      .value = op->store.ptr,
      .value_len = op->store.len,
      .kind = op->read.kind,
      .version = version,
      .ntags = op->ntags,
      .tags = op->tags,
  };
  gorge_cache_life(c, &op->span, 0, now_ms, &entry);
  if (gorge_l1_insert(c->zone, &c->process->owner, &op->key, &entry, &op->snapshot, now_ms, &op->read) !=
      GORGE_STORED) {
    op->read.slot = NULL;
  }
}

/* Keeps the value without a version: Redis does not answer, or nobody waits until it does. */
static void keep_here(struct gorge_op *op, uint64_t now_ms) {
  open_here(op);
  insert(op, 0, now_ms);
}

int gorge_write_put(gorge_cache *c, const struct gorge_store *store, uint64_t now_ms) {
  struct gorge_tag tags[GORGE_TAGS_MAX];
  struct gorge_key key;
  struct gorge_entry entry = {
      .value = store->value,
      .value_len = store->value_len,
      .kind = store->kind,
      .ntags = gorge_tags_unpack(store->tags, store->tags_len, tags),
      .tags = tags,
  };
  struct gorge_span span = gorge_store_span(store);
  gorge_cache_life(c, &span, 0, now_ms, &entry);
  gorge_count_main(c, GORGE_COUNT_SETS);
  gorge_key_init(c->zone, c->ns, store->key, store->key_len, &key);
  (void)gorge_l1_set(c->zone, &c->process->owner, &key, &entry, now_ms, NULL);
  return GORGE_OK;
}

void gorge_write_forget(struct gorge_op *op, uint64_t version) {
  gorge_cache *c = op->cache;
  gorge_key_init(c->zone, c->ns, op->bytes, op->key.len, &op->key);
  gorge_l1_invalidate(c->zone, &c->process->owner, &op->key, version, NULL);
}

static void forget_tags_here(struct gorge_op *op) {
  for (uint32_t i = 0; i < op->ntags; i++) {
    gorge_l1_invalidate_tag(op->cache->zone, op->cache->ns, op->tags[i].ptr, op->tags[i].len);
  }
}

/* What a write takes away from this host; a set does so where it shows its value. */
static void forget_here(struct gorge_op *op, uint64_t version) {
  switch (op->verb) {
    case GORGE_L2_DELETE: gorge_write_forget(op, version); break;
    case GORGE_L2_INVALIDATE_TAGS: forget_tags_here(op); break;
    case GORGE_L2_CLEAR: gorge_l1_bump_epoch(op->cache->zone, op->cache->ns); break;
    default: break;
  }
}

void gorge_write_explain(struct gorge_op *op, int status, const char *said) {
  if (said == NULL && status == GORGE_ERR_DOWN && op->cache->l2 != NULL) {
    said = gorge_remote_reason(op);
  }
  if (said != NULL) {
    gorge_op_error(op, said, strlen(said));
  }
}

/* Redis was not told, or may not have done it. */
static void missed(struct gorge_op *op, int status, const char *said, uint64_t now_ms) {
  gorge_count(op->cache, GORGE_COUNT_DROPPED_WRITES);
  gorge_write_explain(op, status, said);
  gorge_missed_write(op);
  if (op->verb == GORGE_L2_SET) {
    keep_here(op, now_ms);
  } else {
    forget_here(op, 0);
  }
  gorge_op_end(op, status);
}

void gorge_write_ask(struct gorge_op *op, enum gorge_l2_verb verb, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  if (!c->has_redis) {
    gorge_op_end(op, GORGE_OK);
    return;
  }
  int status = gorge_remote_reachable(c) ? GORGE_ERR_BREAKER : GORGE_ERR_DOWN;
  if (gorge_remote_allowed(op, now_ms)) {
    op->state = GORGE_OP_WRITE;
    op->since = gorge_missed_by_now(op);
    status = gorge_remote_send(op, verb, now_ms);
  }
  if (status != GORGE_OK) {
    missed(op, status, NULL, now_ms);
  }
}

void gorge_write_set(struct gorge_op *op, const struct gorge_store *store, uint64_t now_ms) {
  gorge_count_main(op->cache, GORGE_COUNT_SETS);
  if (gorge_op_take_store(op, store) != GORGE_OK) {
    gorge_op_end(op, GORGE_ERR_MEMORY);
    return;
  }
  op->verb = GORGE_L2_SET;
  open_here(op);
  gorge_write_ask(op, GORGE_L2_SET, now_ms);
}

/* Without Redis nobody hears of it but who looks on. */
static void tell(const struct gorge_op *op, enum gorge_event_kind kind, const char *name, uint32_t len,
                 uint64_t now_ms) {
  if (!op->cache->has_redis) {
    gorge_events_add(op->cache->zone, kind, GORGE_EVENT_HERE, op->cache->ns, 0, name, len, now_ms);
  }
}

void gorge_write_delete(struct gorge_op *op, uint64_t now_ms) {
  gorge_count(op->cache, GORGE_COUNT_DELETES);
  op->verb = GORGE_L2_DELETE;
  forget_here(op, 0);
  tell(op, GORGE_EVENT_KEY, op->key.ptr, op->key.len, now_ms);
  gorge_write_ask(op, GORGE_L2_DELETE, now_ms);
}

void gorge_write_invalidate(struct gorge_op *op, uint64_t now_ms) {
  for (uint32_t i = 0; i < op->ntags; i++) {
    gorge_count(op->cache, GORGE_COUNT_INVALIDATED_TAGS);
    tell(op, GORGE_EVENT_TAG, op->tags[i].ptr, op->tags[i].len, now_ms);
  }
  op->verb = GORGE_L2_INVALIDATE_TAGS;
  forget_here(op, 0);
  gorge_write_ask(op, GORGE_L2_INVALIDATE_TAGS, now_ms);
}

void gorge_write_clear(struct gorge_op *op, uint64_t now_ms) {
  gorge_count(op->cache, GORGE_COUNT_CLEARS);
  op->verb = GORGE_L2_CLEAR;
  forget_here(op, 0);
  tell(op, GORGE_EVENT_CLEAR, NULL, 0, now_ms);
  gorge_write_ask(op, GORGE_L2_CLEAR, now_ms);
}

void gorge_write_leave(struct gorge_op *op, uint64_t now_ms) {
  if (op->verb == GORGE_L2_SET) {
    keep_here(op, now_ms);
  }
}

void gorge_write_show(struct gorge_op *op, uint64_t version, uint64_t now_ms) {
  gorge_write_forget(op, version);
  insert(op, version, now_ms);
}

void gorge_write_reply(struct gorge_op *op, const struct gorge_l2_result *r, uint64_t now_ms) {
  int done = GORGE_OK;
  if (r->status < 0) {
    missed(op, r->status, r->error, now_ms);
    return;
  }
  switch (op->verb) {
    case GORGE_L2_TOUCH: done = gorge_touch_reply(op, r, now_ms); break;
    case GORGE_L2_SET: gorge_write_show(op, r->version, now_ms); break;
    default: forget_here(op, r->version); break; /* the names of a clear are others by now */
  }
  gorge_missed_none(op);
  gorge_op_end(op, done);
}
