/* SPDX-License-Identifier: MIT */
/*
 * The operations that are interrupted. Each is a name, what is prepared, and an act; and what must hold of it besides what
 * holds of all.
 */
#ifndef GORGE_FAULT_OPS_H
#define GORGE_FAULT_OPS_H

#include "fault/scene.h"

enum {
  FAULT_IDENTITY = 1, /* works on the thread's own life-lock: its victims cannot be copied */
  FAULT_HELD = 2,     /* the sleeper holds the shard's lock */
  FAULT_UNTAGGED = 4, /* the entry has no tag */
  FAULT_SETS = 8      /* not a fill: what it stores may come after invalidations that were made while it ran */
};

/* Checks return what is wrong, or NULL. */
struct fault_op {
  const char *name;
  unsigned flags;
  void (*prepare)(struct fault_scene *s);                       /* by the peer */
  void (*ready)(struct fault_scene *s, struct fault_victim *v); /* by the victim, before it is stepped */
  void (*act)(struct fault_scene *s, struct fault_victim *v);
  const char *(*done)(struct fault_scene *s);      /* nobody came between */
  const char *(*dead)(struct fault_scene *s);      /* the victim was killed; may be NULL, like those that follow */
  const char *(*meanwhile)(struct fault_scene *s); /* the victim is stopped */
  const char *(*late)(struct fault_scene *s);      /* it went on afterwards, and ended */
};

extern const struct fault_op fault_ops_l1[], fault_ops_flight[], fault_ops_sync[];
extern const uint32_t fault_ops_l1_count, fault_ops_flight_count, fault_ops_sync_count;

#endif
