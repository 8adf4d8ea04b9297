/* SPDX-License-Identifier: MIT */
/*
 * Names in Redis. N is the namespace, L its length in decimal digits: parts of any length cannot be taken for one another.
 *
 *   {L:N:0}:E:v:<key>   value (envelope)          {L:N:0}:c         counter of versions
 *   {L:N:0}:E:l:<key>   lease                     {L:N:0}:e         epoch: E
 *   {L:N:0}:E:t:<tag>   tag: nonce and version    {L:N:0}:j         journal of invalidations (a stream)
 *   gorge:L:N           channel of messages       {L:N:0}:u:<nonce> the update of that nonce has been carried out
 *   gorge:L:N:<id>      channel of one host's own heartbeats; id: 16 hexadecimal digits
 *
 * E, a version in decimal digits, is another one after each `clear`: what has another epoch in its name is not found any more.
 * 0 is the partition. All keys of a partition share the hash tag, so that a script may touch them; braces in a user's key
 * come after it and cannot steer the slot.
 */
#ifndef GORGE_PROTO_NAMES_H
#define GORGE_PROTO_NAMES_H

#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

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
  GORGE_NAME_OWN_MAX = GORGE_NAME_PREFIX_MAX + 17,
  GORGE_NAME_BYTES_MAX = GORGE_NAME_PREFIX_MAX + GORGE_KEY_MAX
};

struct gorge_names {
  char tag[GORGE_NAME_PREFIX_MAX]; /* {L:N:0}: */
  uint32_t tag_len;
  char epoched[GORGE_NAME_PREFIX_MAX]; /* {L:N:0}:E: */
  uint32_t epoched_len;
  char channel[GORGE_NAME_PREFIX_MAX];
  uint32_t channel_len;
};

/* Returns GORGE_OK, or GORGE_ERR_ARGUMENT: not 1 to GORGE_NAME_MAX of letters, digits and _ - . : */
int gorge_names_init(struct gorge_names *n, const char *ns, size_t ns_len);
/* Writes the name of a host's own channel, NUL-terminated. Returns its length. */
size_t gorge_names_own_channel(const struct gorge_names *n, uint64_t id, char out[GORGE_NAME_OWN_MAX + 1]);
/* The epoch of the names written from now on; 0 until it is known: no key or tag has a name then. */
void gorge_names_set_epoch(struct gorge_names *n, uint64_t epoch);
/*
 * Writes a name into out[0..size); `part` is the key, tag or nonce, ignored for the names without one.
 * Returns its length, or 0 when it does not fit.
 */
size_t gorge_names_write(const struct gorge_names *n, enum gorge_name name, const char *part, size_t part_len,
                         char *out, size_t size);

#endif
