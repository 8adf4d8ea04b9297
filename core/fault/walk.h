/* SPDX-License-Identifier: MIT */
/* Every place of an operation in turn, or a sample of them. */
#ifndef GORGE_FAULT_WALK_H
#define GORGE_FAULT_WALK_H

#include "fault/peer.h"
#include "fault/step.h"

/* How much is looked at. */
struct fault_extent {
  uint64_t seed;
  uint64_t places;   /* of each operation at most; 0: all */
  uint64_t from, to; /* within these */
  bool chosen;       /* all, or an operation by name */
  uint32_t kills;    /* real ones, of each operation */
  uint32_t ways;     /* of invalidating beside a stopped one, at each place; fewer than there are: at random */
};

/* From GORGE_FAULT_ALL, _SEED, _PLACES, _FROM, _TO, _WAYS; the sample is `places` otherwise. */
struct fault_extent fault_extent_of_environment(uint64_t places);
/* Whether GORGE_FAULT_OP names the operation, or nothing. */
bool fault_wanted(const struct fault_op *op);

/* Fail the test with place and way to reproduce it. */
void fault_walk_killed(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *x);
void fault_walk_stopped(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *x);
/* Stopped, gone on, and stopped once more before it knows that it was given up. */
void fault_walk_stopped_twice(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *x);

#endif
