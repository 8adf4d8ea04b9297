/* SPDX-License-Identifier: MIT */
/*
 * Child processes for tests of shared memory: started, told to go on, stopped, killed and waited for, everything
 * bounded in time. Include after cmocka.h.
 */
#ifndef GORGE_TEST_PROCS_H
#define GORGE_TEST_PROCS_H

#include <stdint.h>
#include <sys/types.h>

#include "shm/zone.h"

enum { PROC_LIMIT_S = 100 }; /* a child that is still there then is ended by SIGALRM */

struct proc {
  pid_t pid;
  int in; /* words from the other side */
  int out;
};

/* Forks a child that runs body(proc, arg) and ends with what it returns as its exit status. */
struct proc proc_start(int (*body)(struct proc *self, void *arg), void *arg);
/* Sends a word to the other side, receives one; a side that is gone or silent fails the test, or ends the child. */
void proc_say(const struct proc *p, uint64_t word);
uint64_t proc_hear(const struct proc *p);
/* Waits for the end; returns the exit status, or 1000 + the signal. */
int proc_wait(struct proc *p);
/* SIGKILL, and waits for the end. */
void proc_kill(struct proc *p);
/* SIGSTOP, and waits until it has stopped. */
void proc_stop(struct proc *p);
void proc_continue(struct proc *p);

/* Memory that children of this process share with it, zeroed; never freed. */
void *proc_shared(size_t size);

/* A zone that nobody else has, of the smallest size. */
struct gorge_zone *proc_zone(int (*init)(struct gorge_zone *));

/* Spins until *word is at least `value`, at most thirty seconds; returns whether it became so. */
bool proc_await(const uint64_t *word, uint64_t value);

/*
 * Microseconds of a clock that stands still while the calling thread could run and does not, because others do: what takes long by it, asleep
 * or busy, takes long on an idle machine, too. The kernel counts by another clock, so that it may go back a few microseconds. Where the
 * kernel does not tell, the same as gorge_clock_us.
 */
uint64_t proc_own_us(void);

/* Inside a child: ends it with the line number as its status when the condition does not hold. */
#define CHILD_CHECK(condition)                       \
  do {                                               \
    if (!(condition)) {                              \
      proc_complain(__FILE__, __LINE__, #condition); \
    }                                                \
  } while (0)
_Noreturn void proc_complain(const char *file, int line, const char *condition);

/* A small generator, seeded by the test: runs are repeatable. */
static inline uint32_t proc_random(uint64_t *state) {
  *state = *state * 6364136223846793005U + 1442695040888963407U;
  return (uint32_t)(*state >> 33);
}

#endif
