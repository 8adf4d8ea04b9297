/* SPDX-License-Identifier: MIT */
/*
 * The commands of a connection in the order in which they were, or will be, sent. A place outlives its command: one that was cancelled or
 * timed out leaves its place empty, so that the replies of the others still match. Places are numbered from 1 on; numbers are never used again.
 */
#ifndef GORGE_IO_PENDING_H
#define GORGE_IO_PENDING_H

#include <stddef.h>
#include <stdint.h>

struct gorge_command;

struct gorge_pending_place {
  struct gorge_command *cmd; /* NULL: nobody wants the reply any more */
  size_t len;                /* bytes of the command as it is sent */
};

struct gorge_pending {
  struct gorge_pending_place *places; /* a ring; the place of number n is n % size */
  uint64_t head, tail;                /* first number in use, first number free */
  uint32_t size;                      /* a power of two, or 0 */
};

void gorge_pending_init(struct gorge_pending *p);
void gorge_pending_fini(struct gorge_pending *p);
/* Makes sure that the next push succeeds. Returns GORGE_OK or GORGE_ERR_MEMORY. Pointers to places are good until the next call. */
int gorge_pending_reserve(struct gorge_pending *p);
/* Returns the number of the new place. Call reserve before. */
uint64_t gorge_pending_push(struct gorge_pending *p, struct gorge_command *cmd, size_t len);
/* The first place; there must be one. */
struct gorge_pending_place gorge_pending_pop(struct gorge_pending *p);
/* The place of that number, or NULL when it is not, or no longer, in use. */
struct gorge_pending_place *gorge_pending_at(struct gorge_pending *p, uint64_t number);

static inline uint64_t gorge_pending_count(const struct gorge_pending *p) { return p->tail - p->head; }

#endif
