/* SPDX-License-Identifier: MIT */
#include "drive/place.h"

#include <stddef.h>

struct gorge_endpoint *gorge_node_place_follow(struct gorge_node_place *place, struct gorge_l2 *l2, uint32_t node) {
  uint64_t changes = gorge_l2_node_changes(l2, node);
  if (place->endpoint != NULL && place->changes == changes) {
    return NULL;
  }
  const struct gorge_place *now = gorge_l2_node_place(l2, node);
  struct gorge_endpoint *old = place->endpoint, *made = gorge_endpoint_create(now->host, now->port, NULL);
  if (made == NULL) {
    return NULL;
  }
  place->endpoint = made;
  place->changes = changes;
  return old;
}

const char *gorge_nodes_reason(struct gorge_l2 *l2) {
  struct gorge_l2_cluster cluster;
  gorge_l2_cluster(l2, &cluster);
  if (cluster.trouble != NULL) {
    return cluster.trouble;
  }
  for (uint32_t i = 0; i < gorge_l2_nodes(l2); i++) {
    const char *reason = gorge_conn_reason(gorge_l2_node_conn(l2, i));
    if (*reason != '\0') {
      return reason;
    }
  }
  return "";
}
