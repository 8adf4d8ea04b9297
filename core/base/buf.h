/* SPDX-License-Identifier: MIT */
/*
 * A growing byte buffer with a read cursor: bytes are appended at the end and consumed from the front.
 * Not thread-safe. Pointers into it are good until the next append.
 */
#ifndef GORGE_BASE_BUF_H
#define GORGE_BASE_BUF_H

#include <stddef.h>

struct gorge_buf {
  char *data;
  size_t start; /* first byte not consumed */
  size_t end;   /* one past the last byte */
  size_t size;  /* bytes allocated */
};

void gorge_buf_init(struct gorge_buf *b);
void gorge_buf_fini(struct gorge_buf *b);
/* Makes room for `extra` bytes at the end. Returns GORGE_OK or GORGE_ERR_MEMORY (buffer unchanged). */
int gorge_buf_reserve(struct gorge_buf *b, size_t extra);
int gorge_buf_append(struct gorge_buf *b, const void *ptr, size_t len);
/* Drops `len` bytes (at most what is there) from the front. */
void gorge_buf_consume(struct gorge_buf *b, size_t len);
void gorge_buf_clear(struct gorge_buf *b);

static inline size_t gorge_buf_len(const struct gorge_buf *b) { return b->end - b->start; }
static inline const char *gorge_buf_ptr(const struct gorge_buf *b) { return b->data + b->start; }

#endif
