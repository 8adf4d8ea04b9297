/* SPDX-License-Identifier: MIT */
#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

#include "base/status.h"

enum { BUF_MIN = 512, BUF_KEEP = 1 << 20 };

void gorge_buf_init(struct gorge_buf *b) { memset(b, 0, sizeof *b); }

void gorge_buf_fini(struct gorge_buf *b) {
  free(b->data);
  gorge_buf_init(b);
}

int gorge_buf_reserve(struct gorge_buf *b, size_t extra) {
  if (b->size - b->end >= extra) {
    return GORGE_OK;
  }
  size_t len = gorge_buf_len(b);
  if (extra > SIZE_MAX / 4 || len > SIZE_MAX / 4) {
    return GORGE_ERR_MEMORY;
  }
  if (b->start > 0 && b->size - len >= extra) {
    memmove(b->data, b->data + b->start, len);
  } else {
    size_t size = b->size > BUF_MIN ? b->size : BUF_MIN;
    while (size - len < extra) {
      size *= 2;
    }
    char *data = malloc(size);
    if (data == NULL) {
      return GORGE_ERR_MEMORY;
    }
    if (len > 0) {
      memcpy(data, b->data + b->start, len);
    }
    free(b->data);
    b->data = data;
    b->size = size;
  }
  b->start = 0;
  b->end = len;
  return GORGE_OK;
}

int gorge_buf_append(struct gorge_buf *b, const void *ptr, size_t len) {
  int status = gorge_buf_reserve(b, len);
  if (status == GORGE_OK && len > 0) {
    memcpy(b->data + b->end, ptr, len);
    b->end += len;
  }
  return status;
}

void gorge_buf_consume(struct gorge_buf *b, size_t len) {
  size_t have = gorge_buf_len(b);
  b->start += len < have ? len : have;
  if (b->start == b->end) {
    gorge_buf_clear(b);
  }
}

void gorge_buf_clear(struct gorge_buf *b) {
  b->start = b->end = 0;
  if (b->size > BUF_KEEP) { /* one large value must not hold its memory for ever */
    gorge_buf_fini(b);
  }
}
