/* SPDX-License-Identifier: MIT */
#include "proto/message.h"

#include <stdbool.h>

#include "proto/bytes.h"
#include "proto/envelope.h"

enum { FORMAT = 1, HEAD = 10 };

int gorge_message_decode(struct gorge_message *m, const char *ptr, size_t len) {
  if (len < 2) {
    return GORGE_ERR_PROTOCOL;
  }
  unsigned char type = (unsigned char)ptr[1];
  if (ptr[0] != FORMAT || type < GORGE_MESSAGE_KEY || type > GORGE_MESSAGE_CLEAR) {
    return GORGE_MISS;
  }
  size_t max = type == GORGE_MESSAGE_TAG ? GORGE_TAG_MAX : GORGE_KEY_MAX;
  bool named = type != GORGE_MESSAGE_CLEAR;
  if (len < HEAD || (len > HEAD) != named || len - HEAD > max) {
    return GORGE_ERR_PROTOCOL;
  }
  m->type = (enum gorge_message_type)type;
  m->version = gorge_bytes_get64(ptr + 2);
  m->ptr = ptr + HEAD;
  m->len = (uint32_t)(len - HEAD);
  return m->version <= GORGE_VERSION_MAX ? GORGE_OK : GORGE_ERR_PROTOCOL;
}
