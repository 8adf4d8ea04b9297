/* SPDX-License-Identifier: MIT */
#include "proto/message.h"

#include <stdbool.h>

#include "proto/bytes.h"
#include "proto/envelope.h"
#include "proto/slot.h"

enum { SINGLE = 1, PARTITIONED = 2, SINGLE_HEAD = 10, PARTITIONED_HEAD = 19 };

int gorge_message_decode(struct gorge_message *m, const char *ptr, size_t len) {
  if (len < 2) {
    return GORGE_ERR_PROTOCOL;
  }
  unsigned char type = (unsigned char)ptr[1];
  if ((ptr[0] != SINGLE && ptr[0] != PARTITIONED) || type < GORGE_MESSAGE_KEY || type > GORGE_MESSAGE_CLEAR) {
    return GORGE_MISS;
  }
  size_t head = ptr[0] == SINGLE ? SINGLE_HEAD : PARTITIONED_HEAD;
  size_t max = type == GORGE_MESSAGE_TAG ? GORGE_TAG_MAX : GORGE_KEY_MAX;
  bool named = type != GORGE_MESSAGE_CLEAR;
  if (len < head || (len > head) != named || len - head > max) {
    return GORGE_ERR_PROTOCOL;
  }
  m->type = (enum gorge_message_type)type;
  m->version = gorge_bytes_get64(ptr + 2);
  m->previous = head == SINGLE_HEAD ? 0 : gorge_bytes_get64(ptr + 10);
  m->partition = head == SINGLE_HEAD ? 0 : (unsigned char)ptr[18];
  m->ptr = ptr + head;
  m->len = (uint32_t)(len - head);
  bool good = m->version <= GORGE_VERSION_MAX && m->previous <= GORGE_VERSION_MAX && m->partition < GORGE_PARTITIONS;
  return good ? GORGE_OK : GORGE_ERR_PROTOCOL;
}
