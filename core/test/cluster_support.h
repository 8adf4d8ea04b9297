/* SPDX-License-Identifier: MIT */
/* A Redis Cluster of the test's own: masters without replicas, each with a third of the slots. */
#ifndef GORGE_TEST_CLUSTER_SUPPORT_H
#define GORGE_TEST_CLUSTER_SUPPORT_H

#include <stdint.h>

#include "test/drive_support.h"
#include "test/ports.h"

enum { CLUSTER_NODES = 3, CLUSTER_OPTIONS = 16 };

struct support_cluster {
  struct support_redis node[CLUSTER_NODES];
  int port[CLUSTER_NODES];
  struct kept_port kept[CLUSTER_NODES][2]; /* of clients, of the other nodes */
  char text[CLUSTER_NODES][2][16];         /* the same, as arguments */
  char id[CLUSTER_NODES][41];
  const char *options[CLUSTER_NODES][CLUSTER_OPTIONS];
};

/* Starts it, and waits until all of it is well. With stop, everything is gone. Return success. */
bool support_cluster_start(struct support_cluster *c);
void support_cluster_stop(struct support_cluster *c);
/* Whether every node knows the others and finds all well. */
bool support_cluster_is_well(struct support_cluster *c);
/* The node that has the slot in the beginning. */
int support_cluster_owner(uint32_t slot);
/* Gives a slot to another node, as all that run hear at once and for good; what the others have in it is lost. Returns success. */
bool support_cluster_give(struct support_cluster *c, uint32_t slot, int to);

#endif
