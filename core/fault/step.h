/* SPDX-License-Identifier: MIT */
/*
 * A process, the victim, that makes one operation instruction by instruction, and stands still between any two of them.
 *
 * It steps itself: with the trap flag set, the processor raises SIGTRAP after each instruction (after each turn of a repeated
 * string instruction), and the handler waits there for as long as it is told to. Nothing that is shared changes meanwhile, so that
 *
 *  - a victim that waits is, to all others, one that was stopped there;
 *  - the bytes of the zone are those that SIGKILL would leave there, but for what the kernel does with the life-locks of
 *    the dead, which the handler knows from the list that the kernel would follow. Where bytes and marks are those of the place
 *    before, so is all that others can see, and nothing need be looked at twice. Real kills at sampled places compare.
 *
 * To see what a stopped victim does later, it is doubled: a copy of it, made by fork in the handler, goes on instead, while the
 * original, whose life-lock the copy uses, waits for the next place. A place then costs a fork, not all the steps before it. The
 * copy is no thread that the kernel knows the lock by: operations on life-locks themselves are begun anew for each place.
 */
#ifndef GORGE_FAULT_STEP_H
#define GORGE_FAULT_STEP_H

#include <semaphore.h>

#include "fault/ops.h"

enum { FAULT_MARKS_MAX = 4 };

/* When a victim waits for an order. */
enum fault_halt {
  FAULT_AT_END,   /* only when the operation has ended */
  FAULT_AT_IMAGE, /* at places of the plan where what others see has changed */
  FAULT_AT_PLACE  /* at all places of the plan */
};

enum fault_order {
  FAULT_STEP,   /* on, to the next halt */
  FAULT_DOUBLE, /* make a copy, which waits, and wait */
  FAULT_RUN     /* on, without halts */
};

/* Places that are looked at. */
struct fault_plan {
  uint64_t from, to, every, offset;
};

/* Shared by the victim and its peer. */
struct fault_control {
  sem_t halted, go, copy_go;
  enum fault_halt halt;
  enum fault_order order;
  struct fault_plan plan;
  pid_t pid, copy;
  uint64_t place; /* instructions made */
  uint64_t pc;
  uint64_t looked_at; /* places of the plan so far */
  uint64_t again;     /* instructions after which a copy halts once more; 0: never */
  uint32_t nmarks, old_nmarks;
  uint32_t *mark[FAULT_MARKS_MAX], *old_mark[FAULT_MARKS_MAX]; /* words that its death would change, */
  uint32_t word[FAULT_MARKS_MAX];                              /* and what they are while it lives */
};

struct fault_control *fault_control_new(void);

/* Whether this machine can do it: the trap flag is that of x86-64. */
bool fault_can_step(void);

/* Starts a victim of the operation. It halts before the first instruction. */
void fault_start(struct fault_scene *s, const struct fault_op *op, enum fault_halt halt, const struct fault_plan *plan);
/* To the next halt. Returns false when the operation has ended. */
bool fault_next(struct fault_scene *s);
/* Does to the zone what the kernel would if the victim died here. */
void fault_mark_dead(struct fault_scene *s);
void fault_unmark_dead(struct fault_scene *s);
/* Kills and reaps it. */
void fault_kill(struct fault_scene *s);

/* Makes a copy that waits. */
void fault_double(struct fault_scene *s);
/* Lets the copy go on for `steps` instructions. Returns false when it has ended before. */
bool fault_copy_steps(struct fault_scene *s, uint64_t steps);
/* Lets the copy go on, and waits for its end. */
void fault_copy_run(struct fault_scene *s);
/* The same with the victim itself. */
void fault_run(struct fault_scene *s);

#endif
