/* SPDX-License-Identifier: MIT */
/*
 * Names in Redis. N is the namespace, L its length in decimal digits: parts of any length cannot be taken for one another.
 *
 *   {L:N:P}:E:v:<key>   value (envelope)          {L:N:P}:c         counter of versions
 *   {L:N:P}:E:l:<key>   lease                     {L:N:P}:e         epoch: E
 *   {L:N:P}:E:t:<tag>   tag: nonce and version    {L:N:P}:j         journal of invalidations (a stream)
 *   gorge:L:N           channel of messages       {L:N:P}:u:<nonce> the update of that nonce has been carried out
 *   gorge:L:N:<id>      channel of one host's own heartbeats; id: 16 hexadecimal digits
 *
 * P is the partition: 0 where a namespace has one, up to 63 where it has 64. All keys of a partition share the hash tag, so that a script
 * may touch them; braces in a user's key come after it and cannot steer the slot. A key has one partition, a tag a key in each of them.
 * E, the partition's epoch, a version in decimal digits, is another one after each `clear`: what has another epoch in its name is not
 * found any more.
 */
#ifndef GORGE_PROTO_NAMES_H
#define GORGE_PROTO_NAMES_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "proto/slot.h"

enum gorge_name {
  GORGE_NAME_VALUE = 'v',
  GORGE_NAME_LEASE = 'l',
  GORGE_NAME_COUNTER = 'c',
  GORGE_NAME_TAG = 't',
  GORGE_NAME_UPDATE = 'u',
  GORGE_NAME_EPOCH = 'e',
  GORGE_NAME_JOURNAL = 'j'
};

enum {
  GORGE_NAME_PREFIX_MAX = GORGE_NAME_MAX + 32, /* bytes before a user's key or tag */
  GORGE_NAME_HEAD_MAX = GORGE_NAME_MAX + 8,
  GORGE_NAME_OWN_MAX = GORGE_NAME_PREFIX_MAX + 17,
  GORGE_NAME_BYTES_MAX = GORGE_NAME_PREFIX_MAX + GORGE_KEY_MAX
};

/* What the names of a partition go on with: "P}:E:". */
struct gorge_names_partition {
  uint8_t tag_len;     /* as far as the second colon */
  uint8_t epoched_len; /* all of it; 0: the epoch is not known */
  char text[30];
};

struct gorge_names {
  char head[GORGE_NAME_HEAD_MAX]; /* {L:N: */
  uint32_t head_len;
  struct gorge_names_partition partitions[GORGE_PARTITIONS];
  char channel[GORGE_NAME_PREFIX_MAX];
  uint32_t channel_len;
};

/* Returns GORGE_OK, or GORGE_ERR_ARGUMENT: not 1 to GORGE_NAME_MAX of letters, digits and _ - . : */
int gorge_names_init(struct gorge_names *n, const char *ns, size_t ns_len);
/* Writes the name of a host's own channel, NUL-terminated. Returns its length. */
size_t gorge_names_own_channel(const struct gorge_names *n, uint64_t id, char out[GORGE_NAME_OWN_MAX + 1]);
/*
 * The epoch of the names of a partition (below GORGE_PARTITIONS, here and below) written from now on; 0 until it is known: no key or tag
 * of it has a name then.
 */
void gorge_names_set_epoch(struct gorge_names *n, uint32_t partition, uint64_t epoch);
/* The slot of Redis Cluster that all names of a partition are in. */
uint32_t gorge_names_slot(const struct gorge_names *n, uint32_t partition);
/*
 * Writes a name into out[0..size); `part` is the key, tag or nonce, ignored for the names without one.
 * Returns its length, or 0 when it does not fit.
 */
size_t gorge_names_write(const struct gorge_names *n, uint32_t partition, enum gorge_name name, const char *part,
                         size_t part_len, char *out, size_t size);

#endif
