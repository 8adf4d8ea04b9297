/* SPDX-License-Identifier: MIT */
/*
 * A Redis Cluster made of bytes: drives the connections of an l2 and answers what nodes are asked, on a clock the test steps. Node n is
 * at 10.0.0.<n>, port 7000 + n. Include it after cmocka.h's own includes.
 */
#ifndef GORGE_TEST_CLUSTER_WIRE_H
#define GORGE_TEST_CLUSTER_WIRE_H

#include <hiredis/hiredis.h>

#include "io/l2.h"
#include "proto/names.h"
#include "test/wire.h"

enum { CLUSTER_NODES = 200 };

struct cluster {
  struct gorge_l2 *l2;
  uint64_t now_ms;
  struct gorge_names names;
  uint8_t owner[GORGE_SLOTS]; /* which node has a slot; 0: none */
  bool down[CLUSTER_NODES];   /* refuses connections */
  bool mute[CLUSTER_NODES];   /* does not answer */
  char log[16 * 1024];        /* "<node>:<first words>;" of everything but the greetings */
  int slots_asked;            /* CLUSTER SLOTS answered */
  const char *slots_answer;   /* instead of the truth */
  size_t answer_len;          /* of what `answer` returns; 0: up to its NUL */
  /* The answer to a command, as bytes; NULL: the default (nil, 1, an empty array). argv: as the node got it. */
  const char *(*answer)(struct cluster *c, int node, size_t argc, const char **argv);
};

/* An l2 with 64 partitions that follows the cluster, whose nodes have as many slots each. Seeds: nodes 1 and 2. */
void cluster_start(struct cluster *c, int nodes);
void cluster_stop(struct cluster *c);
/* The node that has a key. */
int cluster_node_of(const struct cluster *c, const char *key);
uint32_t cluster_slot_of(const struct cluster *c, const char *key);
/* Lets everything happen that can happen now. */
void cluster_turn(struct cluster *c);
/* Steps the clock, in 5 ms, with a turn at each. */
void cluster_wait(struct cluster *c, uint64_t ms);
/* How often `text` stands in the log. */
int cluster_count(const struct cluster *c, const char *text);

#endif
