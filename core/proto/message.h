/* SPDX-License-Identifier: MIT */
/*
 * Messages on a namespace's channel, written by the scripts:
 *
 *   offset   bytes
 *   0        1      format: 1 where the namespace has one partition, 2 where it has several
 *   1        1      type (enum gorge_message_type)
 *   2        8      version, big-endian; 0: none
 *  (10       8      format 2: previous, big-endian; 0: none
 *   18       1      format 2: partition)
 *   10 or 19 ...    key, tag, or what a heartbeat carries, to the end
 *
 * With several partitions a message comes by the bus of a cluster, which may lose one while the subscription lives. So each entry
 * of a journal has a version of its own there, and says which one it came after: who has not seen that one has missed something.
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
  uint64_t previous;  /* version of the entry before it in the partition's journal; 0: none, or not told */
  uint32_t partition; /* below GORGE_PARTITIONS; 0 in format 1 */
  uint32_t len;
  const char *ptr; /* key or tag, inside the bytes decoded */
};

/*
 * Returns GORGE_OK; GORGE_MISS for a format or type of a newer version, to be ignored; GORGE_ERR_PROTOCOL when it is too
 * short, its key or tag empty or too long, or its versions or partition not such that a script makes.
 */
int gorge_message_decode(struct gorge_message *m, const char *ptr, size_t len);

#endif
