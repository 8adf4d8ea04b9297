/* SPDX-License-Identifier: MIT */
#include "bench/trace_peers.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static void *zeroed(size_t n, size_t size) {
  void *p = calloc(n + 1, size);
  if (p == NULL) {
    abort();
  }
  return p;
}

static void count(struct hits *hits, uint32_t size) {
  hits->requests++;
  hits->bytes += size;
}

/* --- optimum: a heap of what is there, the next use that is furthest away on top --- */

struct use {
  uint32_t next, key;
};

static void push(struct use *heap, size_t *n, struct use u) {
  size_t i = (*n)++;
  while (i > 0 && heap[(i - 1) / 2].next < u.next) {
    heap[i] = heap[(i - 1) / 2];
    i = (i - 1) / 2;
  }
  heap[i] = u;
}

static struct use pop(struct use *heap, size_t *n) {
  struct use top = heap[0], last = heap[--*n];
  size_t i = 0;
  for (size_t child = 1; child < *n; child = 2 * i + 1) {
    child += child + 1 < *n && heap[child + 1].next > heap[child].next;
    if (heap[child].next <= last.next) {
      break;
    }
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = last;
  return top;
}

/* For each request, which one asks for its key next. */
static uint32_t *next_uses(const struct trace *t) {
  uint32_t *next = zeroed(t->requests, sizeof *next), *last = zeroed(t->keys, sizeof *last);
  memset(last, 0xff, t->keys * sizeof *last);
  for (size_t i = t->requests; i-- > 0;) {
    next[i] = last[t->key[i]];
    last[t->key[i]] = (uint32_t)i;
  }
  free(last);
  return next;
}

struct hits peer_optimum(const struct trace *t, uint64_t capacity) {
  struct hits hits = {0};
  struct use *heap = zeroed(t->requests, sizeof *heap);
  uint32_t *next = next_uses(t), *current = zeroed(t->keys, sizeof *current);
  bool *there = zeroed(t->keys, sizeof *there);
  uint64_t used = 0;
  size_t n = 0;
  for (size_t i = 0; i < t->requests; i++) {
    uint32_t key = t->key[i], size = t->size[key];
    if (there[key]) {
      count(&hits, size);
    } else if (size > capacity || next[i] == UINT32_MAX) {
      continue;
    } else {
      there[key] = true;
      used += size;
    }
    current[key] = next[i];
    push(heap, &n, (struct use){next[i], key});
    while (used > capacity) {
      struct use u = pop(heap, &n);
      if (there[u.key] && current[u.key] == u.next) {
        there[u.key] = false;
        used -= t->size[u.key];
      }
    }
  }
  free(heap);
  free(next);
  free(current);
  free(there);
  return hits;
}

/* --- S3-FIFO: three queues, linked through arrays --- */

enum place { NOWHERE, SMALL, MAIN, GHOST, QUEUES };

struct s3fifo {
  const struct trace *t;
  uint32_t *newer, *older;
  uint8_t *place, *uses;
  uint32_t oldest[QUEUES], newest[QUEUES]; /* of a queue that is not empty */
  uint64_t size[QUEUES];
};

static void append(struct s3fifo *s, enum place place, uint32_t key) {
  if (s->size[place] == 0) {
    s->oldest[place] = key;
  } else {
    s->newer[s->newest[place]] = key;
    s->older[key] = s->newest[place];
  }
  s->newest[place] = key;
  s->size[place] += s->t->size[key];
  s->place[key] = (uint8_t)place;
}

static void take(struct s3fifo *s, uint32_t key) {
  enum place place = s->place[key];
  if (s->oldest[place] == key) {
    s->oldest[place] = s->newer[key];
  } else if (s->newest[place] == key) {
    s->newest[place] = s->older[key];
  } else {
    s->newer[s->older[key]] = s->newer[key];
    s->older[s->newer[key]] = s->older[key];
  }
  s->size[place] -= s->t->size[key];
  s->place[key] = NOWHERE;
}

static void evict(struct s3fifo *s, uint64_t capacity) {
  uint64_t main = capacity - capacity / 10;
  if (s->size[MAIN] > main || s->size[SMALL] == 0) {
    uint32_t key = s->oldest[MAIN];
    take(s, key);
    if (s->uses[key] > 0) {
      s->uses[key]--;
      append(s, MAIN, key);
    }
    return;
  }
  uint32_t key = s->oldest[SMALL];
  take(s, key);
  if (s->uses[key] >= 2) {
    s->uses[key] = 0;
    append(s, MAIN, key);
    return;
  }
  append(s, GHOST, key);
  while (s->size[GHOST] > main) {
    take(s, s->oldest[GHOST]);
  }
}

struct hits peer_s3fifo(const struct trace *t, uint64_t capacity) {
  struct hits hits = {0};
  struct s3fifo s = {.t = t};
  s.newer = zeroed(t->keys, sizeof *s.newer);
  s.older = zeroed(t->keys, sizeof *s.older);
  s.place = zeroed(t->keys, 1);
  s.uses = zeroed(t->keys, 1);
  for (size_t i = 0; i < t->requests; i++) {
    uint32_t key = t->key[i], size = t->size[key];
    enum place place = s.place[key];
    if (place == SMALL || place == MAIN) {
      s.uses[key] = (uint8_t)(s.uses[key] < 3 ? s.uses[key] + 1 : 3);
      count(&hits, size);
    } else if (size <= capacity) {
      if (place == GHOST) {
        take(&s, key);
      }
      while (s.size[SMALL] + s.size[MAIN] + size > capacity) {
        evict(&s, capacity);
      }
      s.uses[key] = 0;
      append(&s, place == GHOST ? MAIN : SMALL, key);
    }
  }
  free(s.newer);
  free(s.older);
  free(s.place);
  free(s.uses);
  return hits;
}
