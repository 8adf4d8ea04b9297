/* SPDX-License-Identifier: MIT */
/*
 * A zone as seen by a process that did not make it and does not work in it: the command line. Nothing that stands in
 * the memory is believed before it was checked; what is mapped cannot be written unless that is asked for.
 */
#ifndef GORGE_SHM_ATTACH_H
#define GORGE_SHM_ATTACH_H

#include "shm/zone.h"

enum gorge_attach_flag {
  GORGE_ATTACH_ALL = 1,  /* the whole zone may be written, as by one of its workers */
  GORGE_ATTACH_MAIL = 2, /* its mailbox, and what else is there for people, may be written */
  /* The file may be anybody's: it is read into memory, since whoever shortens a mapped file kills its readers. */
  GORGE_ATTACH_COPY = 4
};

/*
 * Attaches to the zone in the file `path`, e.g. /proc/PID/fd/N. *out is the caller's, to be given back by gorge_zone_detach. On
 * failure err receives a sentence. Returns GORGE_OK; GORGE_ERR_SYSTEM (errno tells: no such file, no permission);
 * GORGE_ERR_MISMATCH: of another version or build; GORGE_ERR_PROTOCOL: no zone, or a damaged one; GORGE_ERR_MEMORY.
 */
int gorge_zone_attach(const char *path, unsigned flags, struct gorge_zone **out, char *err, size_t err_size);
/* Not after an owner was claimed in it (sync/owner.h): then it stays mapped until the process ends. */
void gorge_zone_detach(struct gorge_zone *zone);

#endif
