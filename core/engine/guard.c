/* SPDX-License-Identifier: MIT */
/*
 * Guards: what ends the operations of a request of the host program when the request ends, whatever became of the coroutine that waited for
 * them. One for each request that has waited, found by the request's address: a request that lives for long costs no more than its
 * operations that are not over. Main thread only.
 */
#include <stdlib.h>

#include "engine/engine.h"

struct gorge_guard {
  const void *request;
  uint64_t generation; /* of the process that the request runs in */
  struct gorge_op *first;
  struct gorge_guard *next; /* in its bucket */
};

static struct {
  struct gorge_guard **buckets;
  uint32_t size, count; /* size: a power of two */
  uint64_t generation;
} guards;

enum { BUCKETS_MIN = 64 };

static struct gorge_guard **bucket_of(struct gorge_guard **buckets, uint32_t size, const void *request) {
  /* Fibonacci hashing: addresses differ in their middle bits. */
  return &buckets[((uint64_t)(uintptr_t)request * UINT64_C(0x9E3779B97F4A7C15)) >> 32 & (size - 1)];
}

static struct gorge_guard *find(const void *request) {
  if (guards.size == 0 || guards.generation != gorge_process_generation()) {
    return NULL;
  }
  struct gorge_guard *g = *bucket_of(guards.buckets, guards.size, request);
  while (g != NULL && g->request != request) {
    g = g->next;
  }
  return g;
}

static int grow(void) {
  uint32_t size = guards.size == 0 ? BUCKETS_MIN : guards.size * 2;
  struct gorge_guard **buckets = calloc(size, sizeof(struct gorge_guard *));
  if (buckets == NULL) {
    return GORGE_ERR_MEMORY;
  }
  for (uint32_t i = 0; i < guards.size; i++) {
    struct gorge_guard *next;
    for (struct gorge_guard *g = guards.buckets[i]; g != NULL; g = next) {
      next = g->next;
      struct gorge_guard **at = bucket_of(buckets, size, g->request);
      g->next = *at;
      *at = g;
    }
  }
  free(guards.buckets);
  guards.buckets = buckets;
  guards.size = size;
  return GORGE_OK;
}

/* What a fork's child has inherited guards requests of its parent. */
static void forget_parent(void) {
  if (guards.generation != gorge_process_generation()) {
    guards.buckets = NULL;
    guards.size = guards.count = 0;
    guards.generation = gorge_process_generation();
  }
}

int gorge_guard_init(void *data, const void *request) {
  struct gorge_guard **out = data;
  *out = NULL;
  forget_parent();
  if (guards.count == guards.size && grow() != GORGE_OK) {
    return GORGE_ERR_MEMORY;
  }
  struct gorge_guard *g = calloc(1, sizeof *g);
  if (g == NULL) {
    return GORGE_ERR_MEMORY;
  }
  struct gorge_guard **at = bucket_of(guards.buckets, guards.size, request);
  *g = (struct gorge_guard){.request = request, .generation = guards.generation, .next = *at};
  *at = g;
  guards.count++;
  *out = g;
  return GORGE_OK;
}

int gorge_op_guard(gorge_cache *cache, uint64_t op, const void *request) {
  struct gorge_op *o = gorge_op_find(cache, op);
  if (o == NULL || o->guard != NULL) {
    return o == NULL ? GORGE_ERR_ARGUMENT : GORGE_OK;
  }
  struct gorge_guard *g = find(request);
  if (g == NULL) {
    return GORGE_MISS;
  }
  o->guard = g;
  o->guard_prev = NULL;
  o->guard_next = g->first;
  if (g->first != NULL) {
    g->first->guard_prev = o;
  }
  g->first = o;
  return GORGE_OK;
}

void gorge_op_unguard(struct gorge_op *op) {
  if (op->guard == NULL) {
    return;
  }
  if (op->guard_prev != NULL) {
    op->guard_prev->guard_next = op->guard_next;
  } else {
    op->guard->first = op->guard_next;
  }
  if (op->guard_next != NULL) {
    op->guard_next->guard_prev = op->guard_prev;
  }
  op->guard = NULL;
}

void gorge_guard_cleanup(void *data) {
  struct gorge_guard **out = data;
  struct gorge_guard *g = *out;
  *out = NULL;
  if (g == NULL || g->generation != gorge_process_generation()) {
    return;
  }
  struct gorge_guard **at = bucket_of(guards.buckets, guards.size, g->request);
  while (*at != g) {
    at = &(*at)->next;
  }
  *at = g->next;
  guards.count--;
  while (g->first != NULL) {
    struct gorge_op *op = g->first;
    const gorge_cache *c = op->cache;
    gorge_op_unguard(op);
    gorge_op_notify_gone(op); /* coroutines of this worker that share the fill begin anew */
    gorge_op_free(op->cache, op->id);
    if (c->process->control != NULL) {
      gorge_control_ring(c->process->control);
    }
  }
  free(g);
}
