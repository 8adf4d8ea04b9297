/* SPDX-License-Identifier: MIT */
/*
 * Wake-ups between workers. Each worker's control thread owns a datagram socket with an address that the kernel
 * chose (abstract namespace); the address stands in the worker's slot. One byte wakes; a lost or extra wake-up is
 * harmless, shared memory is the truth.
 */
#ifndef GORGE_SYNC_WAKE_H
#define GORGE_SYNC_WAKE_H

#include "sync/owner.h"

/* A set of workers. */
struct gorge_worker_set {
  uint64_t bits[GORGE_WORKERS / 64];
};

/*
 * Makes this worker's wake-up socket (non-blocking, close-on-exec) and publishes its address. Returns the
 * descriptor or GORGE_ERR_SYSTEM.
 */
int gorge_wake_open(struct gorge_zone *zone, uint32_t worker);
void gorge_wake_close(struct gorge_zone *zone, uint32_t worker, int fd);
/* Reads all pending wake-ups; returns whether there was one. */
bool gorge_wake_drain(int fd);
/*
 * Sends a wake-up to every worker of the set, except `self`. Never blocks. `fd`: any unix datagram socket, e.g.
 * the own one; -1 uses a temporary one.
 */
void gorge_wake_send(struct gorge_zone *zone, const struct gorge_worker_set *set, uint32_t self, int fd);

#endif
