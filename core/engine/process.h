/* SPDX-License-Identifier: MIT */
/*
 * What a process has once per zone: its worker slot and its control thread; and once at all: its event loop.
 *
 * A fork makes the child a process without any of them: it enters anew, and leaves alone what it inherited.
 * Main thread only, but for gorge_process_generation.
 */
#ifndef GORGE_ENGINE_PROCESS_H
#define GORGE_ENGINE_PROCESS_H

#include "drive/control.h"

struct ev_loop;

struct gorge_process {
  struct gorge_zone *zone;
  struct gorge_owner owner;
  struct gorge_control *control; /* NULL until something needs it */
  uint64_t generation;           /* of the process that claimed the slot */
  uint32_t users;                /* caches */
  struct gorge_process *next;
};

/* Differs in every process of a family: changes in the child of each fork. Never 0. */
uint64_t gorge_process_generation(void);

/* A random number in [0, 1), from a sequence of the process's own: workers of one parent do not draw the same ones. */
double gorge_process_random(void);

/* Claims this process's worker slot in the zone, or finds it. Counts a user. Returns GORGE_OK, GORGE_ERR_FULL or GORGE_ERR_MEMORY. */
int gorge_process_enter(struct gorge_zone *zone, struct gorge_process **out);
/* One user less; the last one stops the thread and releases the slot. */
void gorge_process_leave(struct gorge_process *process);
/* The control thread, started at the first call. NULL and *status when it cannot be had. */
struct gorge_control *gorge_process_control(struct gorge_process *process, int *status);

/*
 * What runs in the process shall end before OpenSSL does, which ends when the process calls exit: sooner than this
 * library. To be called once OpenSSL is in use.
 */
void gorge_process_end_first(void);

/* The event loop of this process's main thread, made at the first call; NULL: out of memory. */
struct ev_loop *gorge_process_loop(void);
/* Runs the loop until an event or the timeout. Returns GORGE_OK or GORGE_ERR_MEMORY. */
int gorge_process_loop_wait(double timeout_ms);

#endif
