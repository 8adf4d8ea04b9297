/* SPDX-License-Identifier: MIT */
/*
 * Which node of a Redis Cluster has which partition of a namespace, as CLUSTER SLOTS told last and MOVED corrected. It is asked for
 * before anything else, and again whenever something speaks against it: a redirection, a node that is lost or does not answer. At
 * most one question is under way; between two there are 50 ms, and up to 2 s while the answers do not change anything.
 * Nobody else includes this but the files io/l2*.c.
 */
#ifndef GORGE_IO_L2_MAP_H
#define GORGE_IO_L2_MAP_H

#include "io/conn.h"
#include "proto/place.h"
#include "proto/slot.h"
#include "resil/backoff.h"

struct gorge_l2;
struct gorge_l2_node;

enum { GORGE_L2_NODE_NONE = UINT8_MAX };

struct gorge_l2_map {
  bool follows; /* a cluster; else node 0 has everything */
  bool known;   /* has been told once */
  bool doubted; /* to be asked for again */
  bool asking;
  uint8_t node_of[GORGE_PARTITIONS];
  uint16_t slot_of[GORGE_PARTITIONS];
  struct gorge_command command;
  struct gorge_backoff backoff;
  struct gorge_l2_node *asked;
  const struct gorge_l2_node *last; /* of whom the answer is expected least, or NULL */
  uint32_t turn;                    /* who is asked next */
  bool hopeless;                    /* all have been asked in vain since it was told last: nobody waits for it */
  uint64_t asked_ms;                /* the last time */
  uint64_t next_ms;                 /* not before */
  uint64_t changes;                 /* how often a partition went to another node */
  const char *trouble;              /* why it is not known, or NULL */
  char error[GORGE_PLACE_TEXT + 128];
};

/* Begins to follow a cluster: the nodes of the seeds are made. Returns GORGE_OK, GORGE_ERR_MEMORY or GORGE_ERR_ARGUMENT. */
int gorge_l2_map_init(struct gorge_l2 *l2, const struct gorge_place *seeds, uint32_t count);
/* Something speaks against the map, at `node` (NULL: nowhere in particular), which is asked last: with the next tick. */
void gorge_l2_map_doubt(struct gorge_l2 *l2, const struct gorge_l2_node *node, uint64_t now_ms);
/* The node of a partition: of the only Redis, or as the map has it. NULL: none. */
struct gorge_l2_node *gorge_l2_map_node(const struct gorge_l2 *l2, uint32_t partition);
/* A slot is somewhere else from now on. */
void gorge_l2_map_moved(struct gorge_l2 *l2, uint32_t slot, struct gorge_l2_node *node);
/* The node at a place, made if there is none. NULL: out of memory, or too many of them. */
struct gorge_l2_node *gorge_l2_map_place(struct gorge_l2 *l2, const struct gorge_place *place);
/* The place that `node` names; without host it is at its own. Returns false when it is none. */
bool gorge_l2_map_named(const struct gorge_l2_node *node, const char *host, size_t len, int64_t port,
                        struct gorge_place *place);
/* Asks if it is time to; lets go of connections to nodes that have no partition. */
void gorge_l2_map_tick(struct gorge_l2 *l2, uint64_t now_ms);
uint64_t gorge_l2_map_next_ms(const struct gorge_l2 *l2);

#endif
