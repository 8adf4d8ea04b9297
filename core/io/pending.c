/* SPDX-License-Identifier: MIT */
#include "io/pending.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"

enum { FIRST_SIZE = 64 };

void gorge_pending_init(struct gorge_pending *p) {
  memset(p, 0, sizeof *p);
  p->head = p->tail = 1;
}

void gorge_pending_fini(struct gorge_pending *p) {
  free(p->places);
  p->places = NULL;
  p->size = 0;
}

int gorge_pending_reserve(struct gorge_pending *p) {
  if (gorge_pending_count(p) < p->size) {
    return GORGE_OK;
  }
  if (p->size > UINT32_MAX / 2) {
    return GORGE_ERR_MEMORY;
  }
  uint32_t size = p->size > 0 ? p->size * 2 : FIRST_SIZE;
  struct gorge_pending_place *places = calloc(size, sizeof *places);
  if (places == NULL) {
    return GORGE_ERR_MEMORY;
  }
  for (uint64_t n = p->head; n < p->tail; n++) {
    places[n & (size - 1)] = p->places[n & (p->size - 1)];
  }
  free(p->places);
  p->places = places;
  p->size = size;
  return GORGE_OK;
}

uint64_t gorge_pending_push(struct gorge_pending *p, struct gorge_command *cmd, size_t len) {
  struct gorge_pending_place *place = &p->places[p->tail & (p->size - 1)];
  place->cmd = cmd;
  place->len = len;
  return p->tail++;
}

struct gorge_pending_place gorge_pending_pop(struct gorge_pending *p) {
  return p->places[p->head++ & (p->size - 1)];
}

struct gorge_pending_place *gorge_pending_at(struct gorge_pending *p, uint64_t number) {
  if (number < p->head || number >= p->tail) {
    return NULL;
  }
  return &p->places[number & (p->size - 1)];
}
