/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: operations that are more than reading, filling and forgetting. */
#include "base/clock.h"
#include "engine/engine.h"

static int create(gorge_cache *cache, const char *key, uint32_t key_len, const char *tags, uint32_t tags_len,
                  struct gorge_op **o) {
  int status = gorge_cache_ready(cache, false);
  return status == GORGE_OK ? gorge_op_create(cache, key, key_len, tags, tags_len, o) : status;
}

/* An op that ended at once is over for the caller, unless it has something to say. */
static int started(struct gorge_op *o, uint64_t *op) {
  int status = o->status;
  if (o->state == GORGE_OP_DONE && status >= 0) {
    gorge_op_destroy(o);
  } else {
    *op = o->id;
  }
  return status;
}

int gorge_touch_start(gorge_cache *cache, const char *key, uint32_t key_len, double ttl_ms, double l1_ttl_ms,
                      uint64_t *op) {
  struct gorge_op *o;
  *op = 0;
  if (key_len == 0 || !(ttl_ms > 0) || !(l1_ttl_ms > 0)) {
    return GORGE_ERR_ARGUMENT;
  }
  int status = create(cache, key, key_len, NULL, 0, &o);
  if (status != GORGE_OK) {
    return status;
  }
  gorge_touch(o, gorge_whole_ms(ttl_ms), gorge_whole_ms(l1_ttl_ms), gorge_clock_ms());
  return started(o, op);
}

int gorge_update_start(gorge_cache *cache, const char *key, uint32_t key_len, const char *tags, uint32_t tags_len,
                       uint64_t *op) {
  struct gorge_op *o;
  *op = 0;
  int status = key_len > 0 ? create(cache, key, key_len, tags, tags_len, &o) : GORGE_ERR_ARGUMENT;
  if (status != GORGE_OK) {
    return status;
  }
  gorge_update_read(o, gorge_clock_ms());
  *op = o->id;
  return o->status;
}

int gorge_update_store(gorge_cache *cache, uint64_t op, const struct gorge_store *store, struct gorge_read *out) {
  struct gorge_op *o = gorge_op_find(cache, op);
  if (o == NULL || o->state != GORGE_OP_READ || o->status == GORGE_PENDING || !gorge_store_valid(cache, store)) {
    return GORGE_ERR_ARGUMENT;
  }
  gorge_update_commit(o, store, gorge_clock_ms());
  return gorge_op_status(cache, op, out);
}

int gorge_update_unknown(gorge_cache *cache, uint64_t op) {
  const struct gorge_op *o = gorge_op_find(cache, op);
  return o != NULL && o->unknown;
}

int gorge_origin_start(gorge_cache *cache, uint32_t wait_ms, uint32_t longest_ms, uint64_t *op) {
  struct gorge_op *o;
  *op = 0;
  int status = create(cache, "", 0, NULL, 0, &o);
  if (status != GORGE_OK) {
    return status;
  }
  uint64_t now_ms = gorge_clock_ms();
  o->lease_ms = longest_ms;
  o->deadline_ms = now_ms + wait_ms;
  gorge_origin_enter(o, now_ms);
  *op = o->id;
  return o->status;
}

void gorge_fetch_mark(gorge_cache *cache, uint64_t op, int runs) {
  struct gorge_op *o = gorge_op_find(cache, op);
  if (o != NULL && o->state == GORGE_OP_RUN) {
    o->unrun = runs == 0;
    o->began_us = gorge_clock_us();
  }
}

void gorge_origin_finish(gorge_cache *cache, uint64_t op, int failed) {
  struct gorge_op *o = gorge_op_find(cache, op);
  if (o != NULL && o->state == GORGE_OP_ORIGIN) {
    gorge_origin_end(o, failed != 0, gorge_clock_ms());
    gorge_op_destroy(o);
  }
}

int gorge_clear_start(gorge_cache *cache, uint64_t *op) {
  struct gorge_op *o;
  *op = 0;
  int status = create(cache, "", 0, NULL, 0, &o);
  if (status != GORGE_OK) {
    return status;
  }
  gorge_write_clear(o, gorge_clock_ms());
  return started(o, op);
}
