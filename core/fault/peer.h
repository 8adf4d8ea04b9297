/* SPDX-License-Identifier: MIT */
/*
 * What other processes do beside a victim, and what must hold then. Each operation is timed. Checks return what is wrong, or
 * NULL.
 */
#ifndef GORGE_FAULT_PEER_H
#define GORGE_FAULT_PEER_H

#include "fault/ops.h"

enum { FAULT_STALL_US = 10 * 1000 };

/* How the target key is invalidated while the victim is stopped. */
enum fault_way { FAULT_DELETE, FAULT_MESSAGE, FAULT_TAG, FAULT_EPOCH, FAULT_SET, FAULT_WAYS };

/* Returns from a check that has found something. */
#define FAULT_TRY(check)          \
  do {                            \
    const char *found_ = (check); \
    if (found_ != NULL) {         \
      return found_;              \
    }                             \
  } while (0)

/* Around one operation of the peer. */
void fault_begin(struct fault_scene *s);
void fault_end(struct fault_scene *s, const char *what);

/* A complaint with numbers. */
const char *fault_complain(struct fault_scene *s, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The target's value now, or NULL. */
const char *fault_target(struct fault_scene *s);
void fault_delete(struct fault_scene *s, const char *name, uint64_t version);

/* Everything that can be read is whole, and nothing is seen that is gone. */
const char *fault_check_read(struct fault_scene *s);
/* After the holder of the lock was killed, or while it is stopped at `place`. */
const char *fault_check_dead(struct fault_scene *s, const struct fault_op *op);
const char *fault_check_meanwhile(struct fault_scene *s, const struct fault_op *op, enum fault_way way);
/* It went on, and was stopped once more before it knew that it was given up. */
const char *fault_check_again(struct fault_scene *s);
/* After the victim went on and ended. */
const char *fault_check_late(struct fault_scene *s, const struct fault_op *op);

#endif
