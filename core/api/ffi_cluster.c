/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: the nodes of a cluster, as this worker knows them. */
#include <stdio.h>
#include <string.h>

#include "engine/remote.h"
#include "resil/breakers.h"

static bool knows_cluster(const gorge_cache *cache) {
  return gorge_is_cluster(cache) && cache->generation == gorge_process_generation() && cache->l2 != NULL;
}

int gorge_cluster_read(gorge_cache *cache, struct gorge_cluster_stats *out) {
  memset(out, 0, sizeof *out);
  if (!knows_cluster(cache)) {
    return GORGE_MISS;
  }
  out->nodes = gorge_l2_nodes(cache->l2);
  out->partitions = cache->partitions;
  for (uint32_t i = 0; i < out->nodes; i++) {
    out->mapped += gorge_l2_node_partitions(cache->l2, i);
  }
  out->parked = gorge_l2_parked(cache->l2);
  struct gorge_l2_cluster cluster;
  gorge_l2_cluster(cache->l2, &cluster);
  out->changes = cluster.changes;
  out->moved = cluster.moved;
  out->asked = cluster.asked;
  out->tried_again = cluster.tried_again;
  if (cluster.trouble != NULL) {
    snprintf(out->trouble, sizeof out->trouble, "%s", cluster.trouble);
  }
  return GORGE_OK;
}

int gorge_node_read(gorge_cache *cache, uint32_t node, struct gorge_node_stats *out) {
  memset(out, 0, sizeof *out);
  if (!knows_cluster(cache) || node >= gorge_l2_nodes(cache->l2)) {
    return GORGE_MISS;
  }
  const struct gorge_place *place = gorge_l2_node_place(cache->l2, node);
  const struct gorge_conn *conn = gorge_l2_node_conn(cache->l2, node);
  const struct gorge_breaker_words *breaker = gorge_remote_breaker(cache, node);
  snprintf(out->host, sizeof out->host, "%s", place->host);
  out->port = place->port;
  out->state = gorge_conn_state(conn);
  out->pending = gorge_conn_pending(conn);
  out->partitions = gorge_l2_node_partitions(cache->l2, node);
  out->breaker = breaker != NULL ? gorge_breaker_state(breaker) : GORGE_BREAKER_CLOSED;
  snprintf(out->reason, sizeof out->reason, "%s", gorge_conn_reason(conn));
  return GORGE_OK;
}
