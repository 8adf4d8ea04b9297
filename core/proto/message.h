/* SPDX-License-Identifier: MIT */
/*
 * Messages on a namespace's channel, written by the scripts:
 *
 *   offset   bytes
 *   0        1      format, 1
 *   1        1      type (enum gorge_message_type)
 *   2        8      version, big-endian; 0: none
 *   10       ...    key, tag, or what a heartbeat carries, to the end
 */
#ifndef GORGE_PROTO_MESSAGE_H
#define GORGE_PROTO_MESSAGE_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum gorge_message_type {
  GORGE_MESSAGE_KEY = 1,       /* key was set or deleted at `version` */
  GORGE_MESSAGE_TAG = 2,       /* tag was invalidated */
  GORGE_MESSAGE_FILLED = 3,    /* a fill of key ended that others wait for; version 0: without a value */
  GORGE_MESSAGE_HEARTBEAT = 4, /* not of a key: `version` is the journal's last, the rest what the sender said */
  GORGE_MESSAGE_CLEAR = 5      /* everything: `version` is the new epoch; without key or tag */
};

struct gorge_message {
  enum gorge_message_type type;
  uint64_t version;
  const char *ptr; /* key or tag, inside the bytes decoded */
  uint32_t len;
};

/*
 * Returns GORGE_OK; GORGE_MISS for a format or type of a newer version, to be ignored; GORGE_ERR_PROTOCOL when it is too
 * short, its key or tag empty or too long, or its version not one that a script makes.
 */
int gorge_message_decode(struct gorge_message *m, const char *ptr, size_t len);

#endif
