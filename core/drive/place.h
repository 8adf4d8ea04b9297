/* SPDX-License-Identifier: MIT */
/*
 * The endpoint of a node of an l2, and that of another one once the l2 has found the node elsewhere. A name in there is resolved as any
 * other (drive/address.h). Any driver; one thread, that of the l2.
 */
#ifndef GORGE_DRIVE_PLACE_H
#define GORGE_DRIVE_PLACE_H

#include <stdbool.h>

#include "drive/address.h"
#include "io/l2.h"

/* Some nodes of a cluster, to begin with. */
struct gorge_seeds {
  uint32_t count;
  struct gorge_place list[GORGE_SEEDS_MAX];
};

/* All zeros to begin with. */
struct gorge_node_place {
  struct gorge_endpoint *endpoint; /* of the place that `changes` counts; owned; NULL: none yet */
  uint64_t changes;
};

/*
 * Call it while the node's connection is down, before it is asked whether it wants to connect. Returns an endpoint that is to be destroyed
 * once nothing leads to it any more, else NULL. `place->endpoint` stays what it was, or NULL, when memory is short.
 */
struct gorge_endpoint *gorge_node_place_follow(struct gorge_node_place *place, struct gorge_l2 *l2, uint32_t node);

/* What is wrong with a cluster, or why one of the connections of an l2 is down, for people; "" when nothing says why. */
const char *gorge_nodes_reason(struct gorge_l2 *l2);

#endif
