/* SPDX-License-Identifier: MIT */
/*
 * Threads that live in a process which is not ours: they take no signal that is meant for the host, and their stacks
 * are small.
 */
#ifndef GORGE_DRIVE_THREAD_H
#define GORGE_DRIVE_THREAD_H

#include <pthread.h>
#include <stddef.h>

/*
 * Starts `run(arg)` with every signal blocked but those that an instruction of the thread itself raises. `name`: at
 * most 15 bytes, for ps and debuggers. stack_bytes: raised to what the system needs at least. out: receives the
 * thread, to be joined; NULL: the thread is detached. Returns GORGE_OK or GORGE_ERR_SYSTEM.
 */
int gorge_thread_start(pthread_t *out, const char *name, size_t stack_bytes, void *(*run)(void *), void *arg);

#endif
