/* SPDX-License-Identifier: MIT */
/*
 * Which server is the master, as all processes of a host know it: words in the zone (struct gorge_master_words). Whoever asks the
 * sentinels writes them (drive/control_sentinel.c); connections read where to lead, and notice that they lead elsewhere by now
 * (io/conn.h, `place`). Any thread of any process; a writer that is killed or stopped half-way leaves what is read as "not known",
 * until the next one writes.
 */
#ifndef GORGE_DRIVE_MASTER_H
#define GORGE_DRIVE_MASTER_H

#include "drive/address.h"
#include "shm/zone.h"

enum gorge_master_trouble {
  GORGE_MASTER_FINE = 0,
  GORGE_MASTER_SILENT,    /* no sentinel can be reached */
  GORGE_MASTER_REFUSED,   /* they do not let us in */
  GORGE_MASTER_UNKNOWN,   /* none of those that answer knows a master of that name */
  GORGE_MASTER_UNTRUSTED, /* TLS with them fails */
  GORGE_MASTER_UNRESOLVED /* they name a host that cannot be resolved */
};

/* A sentence without subject; never NULL. */
const char *gorge_master_trouble_text(uint64_t trouble);

/* An IPv4 or IPv6 address. */
void gorge_master_write(struct gorge_master_words *words, const struct gorge_address *address);
/* Returns false when it is not known. out->place becomes the first part. */
bool gorge_master_read(const struct gorge_master_words *words, struct gorge_address *out);
/* The same for people, as "192.0.2.1:6379" or "[2001:db8::1]:6379"; "" when it is not known. */
void gorge_master_text(const struct gorge_master_words *words, char *out, size_t size);

#endif
