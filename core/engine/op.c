/* SPDX-License-Identifier: MIT */
/* The table of operations and the queue of those whose status changed. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "engine/remote.h"
#include "resil/histogram.h"

#ifdef __SANITIZE_ADDRESS__
enum { SPARE_MAX = 0 }; /* each op of its own, so that a late use of one is found */
#else
enum { SPARE_MAX = 64 };
#endif
enum {
  SLOTS_MAX = GORGE_OP_SLOTS,
  SLOTS_MIN = 64,
  GONE_MAX = 1 << 16 /* who shares an op looks every second: more cannot be of interest */
};
/* Ids stay below 2^53: Lua keeps them as numbers. */
static const uint64_t SERIAL_MAX = ((uint64_t)1 << 53) / GORGE_OP_SLOTS - 1;

int gorge_blob_copy(struct gorge_blob *blob, const char *ptr, uint32_t len) {
  char *copy = malloc(len > 0 ? len : 1);
  if (copy == NULL) {
    return GORGE_ERR_MEMORY;
  }
  if (len > 0) {
    memcpy(copy, ptr, len);
  }
  blob->ptr = copy;
  blob->len = len;
  return GORGE_OK;
}

void gorge_blob_free(struct gorge_blob *blob) {
  free(blob->ptr);
  blob->ptr = NULL;
  blob->len = 0;
}

static int grow(gorge_cache *c) {
  uint32_t count = c->slot_count == 0 ? SLOTS_MIN : c->slot_count * 2;
  if (count > SLOTS_MAX) {
    return GORGE_ERR_FULL;
  }
  struct gorge_op **slots = realloc(c->slots, count * sizeof *slots);
  if (slots == NULL) {
    return GORGE_ERR_MEMORY;
  }
  c->slots = slots;
  uint32_t *free_slots = realloc(c->free_slots, count * sizeof *free_slots);
  if (free_slots == NULL) {
    return GORGE_ERR_MEMORY;
  }
  c->free_slots = free_slots;
  for (uint32_t i = count; i-- > c->slot_count;) {
    slots[i] = NULL;
    free_slots[c->free_count++] = i;
  }
  c->slot_count = count;
  return GORGE_OK;
}

bool gorge_op_tags_valid(const char *packed, uint32_t len) {
  uint32_t n = 0;
  for (uint32_t at = 0; at < len; n++) {
    uint32_t tag_len = (unsigned char)packed[at];
    if (n == GORGE_TAGS_MAX || tag_len == 0 || tag_len > len - at - 1) {
      return false;
    }
    at += 1 + tag_len;
  }
  return true;
}

uint32_t gorge_tags_unpack(const char *packed, uint32_t len, struct gorge_tag *tags) {
  uint32_t n = 0;
  for (uint32_t at = 0; at < len && n < GORGE_TAGS_MAX; n++) {
    uint32_t tag_len = (unsigned char)packed[at];
    tags[n] = (struct gorge_tag){packed + at + 1, tag_len};
    at += 1 + tag_len;
  }
  return n;
}

/* Points op->tags into valid packed tags that the op owns. */
static void unpack_tags(struct gorge_op *op, const char *packed, uint32_t len) {
  op->ntags = gorge_tags_unpack(packed, len, op->tags);
  for (uint32_t i = 0; i < op->ntags; i++) {
    op->l2_tags[i] = (struct gorge_l2_tag){op->tags[i].ptr, op->tags[i].len};
  }
}

/* Room for the bytes of an op: in the op itself where they are few and nothing lies there yet. NULL: out of memory. */
static char *take_bytes(struct gorge_op *op, size_t size) {
  return size <= sizeof op->few && op->bytes != op->few && op->own != op->few ? op->few : malloc(size);
}

static void give_bytes(const struct gorge_op *op, char *bytes) {
  if (bytes != op->few) {
    free(bytes);
  }
}

int gorge_op_set_tags(struct gorge_op *op, const char *tags, uint32_t tags_len) {
  uint32_t key_len = op->key.len;
  if (!gorge_op_tags_valid(tags, tags_len)) {
    return GORGE_ERR_ARGUMENT;
  }
  char *bytes = take_bytes(op, (size_t)key_len + tags_len + 1);
  if (bytes == NULL) {
    return GORGE_ERR_MEMORY;
  }
  memcpy(bytes, op->key.ptr, key_len);
  if (tags_len > 0) {
    memcpy(bytes + key_len, tags, tags_len);
  }
  unpack_tags(op, bytes + key_len, tags_len);
  give_bytes(op, op->bytes);
  op->bytes = bytes;
  op->key.ptr = bytes;
  return GORGE_OK;
}

static uint32_t packed_len(const struct gorge_op *op) {
  uint32_t len = 0;
  for (uint32_t i = 0; i < op->ntags; i++) {
    len += 1 + op->tags[i].len;
  }
  return len;
}

int gorge_op_adopt_tags(struct gorge_op *op, const char *tags, uint32_t tags_len) {
  if (op->own != NULL) {
    return gorge_op_set_tags(op, tags, tags_len);
  }
  op->own = op->bytes;
  op->own_tags_len = packed_len(op);
  op->bytes = NULL; /* not to be freed */
  int status = gorge_op_set_tags(op, tags, tags_len);
  if (status != GORGE_OK) {
    op->bytes = op->own;
    op->own = NULL;
  }
  return status;
}

bool gorge_op_own_tags(struct gorge_op *op) {
  if (op->own == NULL) {
    return false;
  }
  give_bytes(op, op->bytes);
  op->bytes = op->own;
  op->own = NULL;
  op->key.ptr = op->bytes;
  unpack_tags(op, op->bytes + op->key.len, op->own_tags_len);
  return true;
}

int gorge_op_set_value(struct gorge_op *op, const char *ptr, uint32_t len) {
  if (len > sizeof op->small) {
    return gorge_blob_copy(&op->value, ptr, len);
  }
  if (len > 0) {
    memcpy(op->small, ptr, len);
  }
  op->value = (struct gorge_blob){op->small, len};
  return GORGE_OK;
}

/* An op zeroed up to its request: a spare one, or a new one. */
static struct gorge_op *take_op(gorge_cache *c) {
  struct gorge_op *op = c->spare;
  if (op == NULL) {
    return calloc(1, sizeof *op);
  }
  c->spare = op->next;
  c->spare_count--;
  memset(op, 0, offsetof(struct gorge_op, request));
  return op;
}

static void give_op(gorge_cache *c, struct gorge_op *op) {
  if (c->spare_count + 1 > SPARE_MAX) {
    free(op);
    return;
  }
  op->next = c->spare;
  c->spare = op;
  c->spare_count++;
}

void gorge_op_free_spare(gorge_cache *c) {
  while (c->spare != NULL) {
    struct gorge_op *op = c->spare;
    c->spare = op->next;
    free(op);
  }
  c->spare_count = 0;
}

int gorge_op_create(gorge_cache *c, const char *key, uint32_t key_len, const char *tags, uint32_t tags_len,
                    struct gorge_op **out) {
  if (key_len > GORGE_KEY_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  int status = c->free_count == 0 ? grow(c) : GORGE_OK;
  if (status != GORGE_OK) {
    return status;
  }
  struct gorge_op *op = take_op(c);
  if (op == NULL) {
    return GORGE_ERR_MEMORY;
  }
  op->cache = c;
  op->flight.index = UINT32_MAX;
  op->status = GORGE_PENDING;
  op->key.ptr = key;
  op->key.len = key_len;
  status = gorge_op_set_tags(op, tags, tags_len);
  if (status != GORGE_OK) {
    give_op(c, op);
    return status;
  }
  gorge_key_init(c->zone, c->ns, op->bytes, key_len, &op->key);
  uint32_t slot = c->free_slots[--c->free_count];
  c->next_serial = c->next_serial % SERIAL_MAX + 1;
  op->id = c->next_serial * GORGE_OP_SLOTS + slot;
  c->slots[slot] = op;
  c->op_count++;
  *out = op;
  return GORGE_OK;
}

struct gorge_op *gorge_op_find(gorge_cache *c, uint64_t id) {
  uint32_t slot = (uint32_t)(id & (SLOTS_MAX - 1));
  /* What stands in the table of a fork's child is its parent's. */
  struct gorge_op *op = c->generation == gorge_process_generation() && slot < c->slot_count ? c->slots[slot] : NULL;
  return op != NULL && op->id == id && !op->detached ? op : NULL;
}

void gorge_op_list(struct gorge_op *op) {
  if (op->listed) {
    return;
  }
  op->prev = NULL;
  op->next = op->cache->waiting;
  if (op->next != NULL) {
    op->next->prev = op;
  }
  op->cache->waiting = op;
  op->listed = true;
}

void gorge_op_unlist(struct gorge_op *op) {
  if (!op->listed) {
    return;
  }
  if (op->prev != NULL) {
    op->prev->next = op->next;
  } else {
    op->cache->waiting = op->next;
  }
  if (op->next != NULL) {
    op->next->prev = op->prev;
  }
  op->listed = false;
}

void gorge_op_waits(struct gorge_op *op) {
  if (op->wait_us == 0) {
    gorge_count(op->cache, GORGE_COUNT_WAITS);
    op->wait_us = gorge_clock_us();
  }
}

void gorge_op_waited(struct gorge_op *op) {
  const gorge_cache *c = op->cache;
  if (op->wait_us != 0) {
    gorge_histogram_add(gorge_zone_histogram(c->zone, c->ns, c->process->owner.worker, GORGE_HIST_WAIT),
                        gorge_clock_us() - op->wait_us);
    op->wait_us = 0;
  }
}

static void forget_notice(struct gorge_op *op) {
  gorge_cache *c = op->cache;
  if (!op->noted) {
    return;
  }
  if (op->noted_prev != NULL) {
    op->noted_prev->noted_next = op->noted_next;
  } else {
    c->noted_first = op->noted_next;
  }
  if (op->noted_next != NULL) {
    op->noted_next->noted_prev = op->noted_prev;
  } else {
    c->noted_last = op->noted_prev;
  }
  op->noted = false;
}

void gorge_op_destroy(struct gorge_op *op) {
  gorge_cache *c = op->cache;
  gorge_remote_cancel(op);
  gorge_op_unlist(op);
  gorge_origin_leave(op);
  gorge_op_unguard(op);
  forget_notice(op);
  uint32_t slot = (uint32_t)(op->id & (SLOTS_MAX - 1));
  c->slots[slot] = NULL;
  c->free_slots[c->free_count++] = slot;
  c->op_count--;
  c->lost_count -= op->lost;
  if (op->l2_store.ptr != op->store.ptr) {
    gorge_blob_free(&op->l2_store);
  }
  gorge_blob_free(&op->store);
  if (op->value.ptr != op->small) {
    gorge_blob_free(&op->value);
  }
  free(op->before);
  give_bytes(op, op->own);
  give_bytes(op, op->bytes);
  give_op(c, op);
}

void gorge_op_notify(struct gorge_op *op) {
  gorge_cache *c = op->cache;
  if (op->noted) {
    return;
  }
  op->noted = true;
  op->noted_next = NULL;
  op->noted_prev = c->noted_last;
  if (op->noted_prev != NULL) {
    op->noted_prev->noted_next = op;
  } else {
    c->noted_first = op;
  }
  c->noted_last = op;
}

void gorge_op_notify_gone(struct gorge_op *op) {
  struct gorge_buf *gone = &op->cache->gone;
  if (gorge_buf_len(gone) >= GONE_MAX * sizeof op->id) {
    gorge_buf_consume(gone, sizeof op->id);
  }
  /* Out of memory loses a notice: who shares the op waits until its deadline. */
  (void)gorge_buf_append(gone, &op->id, sizeof op->id);
}

uint32_t gorge_op_notices(gorge_cache *c, uint64_t *ids, uint32_t max) {
  size_t count = gorge_buf_len(&c->gone) / sizeof *ids;
  uint32_t n = count < max ? (uint32_t)count : max;
  if (n > 0) {
    memcpy(ids, gorge_buf_ptr(&c->gone), n * sizeof *ids);
    gorge_buf_consume(&c->gone, n * sizeof *ids);
  }
  for (; n < max && c->noted_first != NULL; n++) {
    ids[n] = c->noted_first->id;
    forget_notice(c->noted_first);
  }
  return n;
}

uint32_t gorge_op_woken(gorge_cache *c, void **waiters, uint32_t max) {
  uint32_t n = 0;
  while (n < max && c->noted_first != NULL) {
    struct gorge_op *op = c->noted_first;
    if (op->waiter != NULL && (n == 0 || waiters[n - 1] != op->waiter)) { /* ops of one caller follow each other */
      waiters[n++] = op->waiter;
    }
    forget_notice(op);
  }
  return n;
}

void gorge_op_end(struct gorge_op *op, int status) {
  op->state = GORGE_OP_DONE;
  op->status = status;
  gorge_op_unlist(op);
  gorge_op_waited(op);
  if (op->detached) {
    gorge_op_destroy(op);
  } else {
    gorge_op_notify(op);
  }
}

void gorge_op_error(struct gorge_op *op, const char *text, size_t len) {
  if (len > GORGE_ERROR_MAX) {
    len = GORGE_ERROR_MAX;
  }
  if (len > 0) {
    memcpy(op->error, text, len);
  }
  op->error[len] = '\0';
  op->error_len = (uint32_t)len;
}
