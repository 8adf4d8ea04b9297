/* SPDX-License-Identifier: MIT */
/*
 * Where the memory of a zone comes from: a sealed memfd, or a file in /dev/shm that siblings share. Private to shm/.
 * All functions set zone->fd, base and header on success and leave them alone on failure; errno tells the cause.
 */
#ifndef GORGE_SHM_MAP_H
#define GORGE_SHM_MAP_H

#include "shm/zone.h"

#define GORGE_SIBLINGS_DIR "/dev/shm"
#define GORGE_MEMFD_PREFIX "gorge:"    /* of the name of a memfd, before that of the zone */
#define GORGE_SIBLINGS_PREFIX "gorge-" /* of the name of a file that siblings share */

/* Lays out a fresh, zeroed mapping, the caller's regions included; everything but the magic. */
typedef int (*gorge_map_fill)(struct gorge_zone *zone, int (*init)(struct gorge_zone *));

/*
 * Gives the empty file `fd` memory for zone->size bytes, all of it now: no SIGBUS later. GORGE_ERR_MEMORY when
 * there is not that much, GORGE_ERR_SYSTEM otherwise.
 */
int gorge_map_reserve(const struct gorge_zone *zone, int fd);
int gorge_map_attach(struct gorge_zone *zone, int fd);
void gorge_map_detach(struct gorge_zone *zone);

/* A memfd that can neither shrink nor grow. */
int gorge_map_private(struct gorge_zone *zone, gorge_map_fill fill, int (*init)(struct gorge_zone *));

/*
 * Meets the other children of this process's parent in /dev/shm/gorge-UID-PPID-START-HASH (HASH: of the zone's
 * name and the layout). Whoever finds nobody attached fills it, holding the file locked exclusively; all who
 * are attached hold it locked shared for as long as they live. The last one to end in an orderly way removes the
 * file; what was left otherwise by children of a dead parent is removed when a new file is made.
 * GORGE_ERR_MISMATCH with *existing_size when attached siblings use another size. Waits at most ten seconds for
 * one that fills.
 */
int gorge_map_siblings(struct gorge_zone *zone, gorge_map_fill fill, int (*init)(struct gorge_zone *),
                       uint64_t *existing_size);

/* Declares a filled zone complete. */
void gorge_map_publish(struct gorge_zone *zone);

#endif
