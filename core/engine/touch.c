/* SPDX-License-Identifier: MIT */
/*
 * touch: the value stays, its life changes. A longer life is nobody's news: copies of other hosts end when they did, and are
 * read anew. A shorter one makes a new version in Redis, and a message that removes those copies.
 */
#include "engine/engine.h"

/* The tags of what this host has, as a guess for Redis. */
static void guess_tags(struct gorge_op *op) {
  const gorge_cache *c = op->cache;
  char names[GORGE_TAGS_MAX * (GORGE_TAG_MAX + 1)];
  uint32_t len = 0;
  if (gorge_l1_tags(c->zone, &op->key, names, sizeof names, &len) > 0) {
    (void)gorge_op_set_tags(op, names, len); /* without it Redis tells */
  }
}

static struct gorge_touch touch_of(const struct gorge_op *op, uint64_t now_ms) {
  const gorge_cache *c = op->cache;
  return (struct gorge_touch){
      .expires_ms = now_ms + gorge_l1_life(c, op->span.l1_ms),
      .whole_ms = now_ms + op->span.ttl_ms,
      .latest_ms = now_ms + gorge_l1_life(c, 2 * GORGE_TTL_MAX_MS),
      .early = gorge_cache_early(c),
  };
}

/* Whether this host has the value for longer than until then, which no want of contact has brought nearer. */
static bool is_shorter(const struct gorge_op *op, uint64_t expires_ms) {
  struct gorge_read read = {.buf = NULL};
  int status = gorge_l1_read(op->cache->zone, &op->key, gorge_cache_now(op->cache), false, &read);
  return (status == GORGE_HIT || status == GORGE_SPACE) && read.expires_ms > (double)expires_ms;
}

void gorge_touch(struct gorge_op *op, uint64_t ttl_ms, uint64_t l1_ttl_ms, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  op->verb = GORGE_L2_TOUCH;
  op->span = (struct gorge_span){.l1_ms = l1_ttl_ms, .ttl_ms = ttl_ms};
  gorge_count(c, GORGE_COUNT_TOUCHES);
  if (c->has_redis) {
    guess_tags(op);
  }
  struct gorge_touch touch = touch_of(op, now_ms);
  op->shorter = c->has_redis && is_shorter(op, now_ms + l1_ttl_ms);
  int status = gorge_l1_touch(c->zone, &c->process->owner, &op->key, &touch, gorge_cache_now(c));
  op->touched = status == GORGE_OK;
  if (!c->has_redis) {
    gorge_op_end(op, status);
    return;
  }
  if (status != GORGE_OK && status != GORGE_MISS) {
    /* What is there could outlive its new end. Redis still has it. */
    gorge_l1_invalidate(c->zone, &c->process->owner, &op->key, 0, NULL);
  }
  gorge_write_ask(op, GORGE_L2_TOUCH, now_ms);
}

int gorge_touch_reply(struct gorge_op *op, const struct gorge_l2_result *r, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  if (r->status != GORGE_OK) {
    return op->touched ? GORGE_OK : GORGE_MISS; /* a value that only this host has */
  }
  if (r->version == r->before) {
    return GORGE_OK;
  }
  gorge_key_init(c->zone, c->ns, op->bytes, op->key.len, &op->key);
  struct gorge_touch touch = touch_of(op, now_ms);
  touch.only = r->before;
  touch.version = r->version;
  if (gorge_l1_touch(c->zone, &c->process->owner, &op->key, &touch, now_ms) != GORGE_OK) {
    gorge_l1_invalidate(c->zone, &c->process->owner, &op->key, r->version, NULL);
  }
  return GORGE_OK;
}
