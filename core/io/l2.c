/* SPDX-License-Identifier: MIT */
#include "io/l2.h"

#include <hiredis/hiredis.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "io/l2_state.h"
#include "proto/command.h"

enum {
  REPLY_OVERHEAD = 8 * 1024, /* what a reply holds besides the value, at most: envelope, nonces, framing */
  MAX_REPLY_DEFAULT = 64 << 20,
  MAX_PARKED_DEFAULT = 4096,
  TIMEOUT_DEFAULT_MS = 500
};

bool gorge_l2_number_of(const struct redisReply *reply, uint64_t *number) {
  *number = 0;
  if (reply == NULL || reply->type != REDIS_REPLY_STRING || reply->len < 1 || reply->len > 16) {
    return false;
  }
  for (size_t i = 0; i < reply->len; i++) {
    if (reply->str[i] < '0' || reply->str[i] > '9') {
      return false;
    }
    *number = *number * 10 + (uint64_t)(reply->str[i] - '0');
  }
  return true;
}

/* ---- the epoch ---- */

uint64_t gorge_l2_name_epoch(struct gorge_l2 *l2, uint32_t partition) {
  /* acquire: partner of whoever stores it, after it emptied L1 */
  uint64_t epoch = __atomic_load_n(&l2->epochs[partition], __ATOMIC_ACQUIRE);
  if (epoch != l2->partitions[partition].named_epoch) {
    gorge_names_set_epoch(&l2->names, partition, epoch);
    l2->partitions[partition].named_epoch = epoch;
  }
  return epoch;
}

void gorge_l2_learn_epoch(struct gorge_l2 *l2, uint32_t partition, uint64_t seen, uint64_t epoch) {
  if (epoch == seen || epoch == 0 || epoch > GORGE_VERSION_MAX) {
    return;
  }
  if (l2->learned != NULL) {
    l2->learned(l2->learned_ctx, partition, seen, epoch);
  } else {
    l2->own_epochs[partition] = epoch;
  }
}

void gorge_l2_raise_epoch(struct gorge_l2 *l2, uint32_t partition, uint64_t epoch) {
  uint64_t before, seen = gorge_l2_name_epoch(l2, partition);
  do {
    before = seen;
    gorge_l2_learn_epoch(l2, partition, seen, epoch);
    seen = gorge_l2_name_epoch(l2, partition);
  } while (seen < epoch && seen != before); /* each turn another one has stored an older one */
}

bool gorge_l2_epoch_confirmed(const struct gorge_l2_request *rq, const struct redisReply *reply) {
  uint64_t epoch;
  return reply->elements > rq->ntags && gorge_l2_number_of(reply->element[rq->ntags], &epoch) &&
         epoch == rq->state.epoch;
}

void gorge_l2_share_epoch(struct gorge_l2 *l2, const uint64_t *words,
                          void (*learned)(void *ctx, uint32_t partition, uint64_t seen, uint64_t epoch), void *ctx) {
  l2->epochs = words;
  l2->learned = learned;
  l2->learned_ctx = ctx;
}

void gorge_l2_lag(struct gorge_l2 *l2, uint64_t lag_ms) { l2->lag_ms = lag_ms; }

struct gorge_l2 *gorge_l2_create(const char *ns, uint32_t ns_len, uint32_t partitions,
                                 const struct gorge_conn_config *config) {
  bool good = partitions == 1 || partitions == GORGE_PARTITIONS;
  struct gorge_l2 *l2 = good ? calloc(1, sizeof *l2 + partitions * sizeof l2->partitions[0]) : NULL;
  if (l2 == NULL) {
    return NULL;
  }
  l2->partition_count = partitions;
  for (uint32_t i = 0; i < partitions; i++) {
    l2->partitions[i].l2 = l2;
  }
  if (gorge_names_init(&l2->names, ns, ns_len) == GORGE_OK) {
    l2->nodes[0] = gorge_l2_node_create(l2, 0, config);
  }
  if (l2->nodes[0] == NULL) {
    free(l2);
    return NULL;
  }
  l2->node_count = 1;
  l2->config = *config;
  l2->parked_max = config->max_pending > 0 ? config->max_pending : MAX_PARKED_DEFAULT;
  uint64_t max_reply = config->max_reply_bytes > 0 ? config->max_reply_bytes : MAX_REPLY_DEFAULT;
  l2->max_value = max_reply > REPLY_OVERHEAD ? max_reply - REPLY_OVERHEAD : 0;
  if (l2->max_value > GORGE_COMMAND_BYTES_MAX / 2) {
    l2->max_value = GORGE_COMMAND_BYTES_MAX / 2;
  }
  l2->epochs = l2->own_epochs;
  return l2;
}

void gorge_l2_destroy(struct gorge_l2 *l2) {
  if (l2 != NULL) {
    l2->closed = true;
    gorge_l2_route_close(l2);
    for (uint32_t i = 0; i < l2->node_count; i++) { /* first: a request may have asked several of them */
      gorge_conn_close(l2->nodes[i]->conn);
    }
    for (uint32_t i = 0; i < l2->node_count; i++) {
      gorge_l2_node_destroy(l2->nodes[i]);
    }
    free(l2);
  }
}

uint32_t gorge_l2_nodes(const struct gorge_l2 *l2) { return l2->node_count; }

struct gorge_conn *gorge_l2_node_conn(struct gorge_l2 *l2, uint32_t node) {
  return l2->nodes[node]->conn;
}

/* ---- a cluster ---- */

int gorge_l2_follow_cluster(struct gorge_l2 *l2, const struct gorge_place *seeds, uint32_t count) {
  return gorge_l2_map_init(l2, seeds, count);
}

const struct gorge_place *gorge_l2_node_place(const struct gorge_l2 *l2, uint32_t node) {
  return l2->map.follows ? &l2->nodes[node]->place : NULL;
}

uint64_t gorge_l2_node_changes(const struct gorge_l2 *l2, uint32_t node) { return l2->nodes[node]->changes; }

uint32_t gorge_l2_node_partitions(const struct gorge_l2 *l2, uint32_t node) {
  uint32_t n = 0;
  for (uint32_t p = 0; p < l2->partition_count; p++) {
    n += gorge_l2_map_node(l2, p) == l2->nodes[node] ? 1 : 0;
  }
  return n;
}

uint32_t gorge_l2_node_of(const struct gorge_l2 *l2, const char *key, uint32_t key_len) {
  const struct gorge_l2_node *node = gorge_l2_map_node(l2, gorge_partition_of(key, key_len, l2->partition_count));
  return node != NULL ? node->index : UINT32_MAX;
}

void gorge_l2_cluster(const struct gorge_l2 *l2, struct gorge_l2_cluster *out) {
  *out = (struct gorge_l2_cluster){.known = l2->map.known,
                                   .changes = l2->map.changes,
                                   .moved = l2->moved,
                                   .asked = l2->asked,
                                   .tried_again = l2->tried_again,
                                   .trouble = l2->map.trouble};
}

/* ---- requests ---- */

static void on_first(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_l2_request *rq = (void *)((char *)cmd - offsetof(struct gorge_l2_request, command[0]));
  gorge_l2_on_reply(rq, 0, status, reply, now_ms);
}

static void on_second(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_l2_request *rq = (void *)((char *)cmd - offsetof(struct gorge_l2_request, command[1]));
  gorge_l2_on_reply(rq, 1, status, reply, now_ms);
}

/* Whether the next command may go there shows in that one's reply. */
static void on_asking(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  (void)cmd, (void)status, (void)reply, (void)now_ms;
}

static int send_lookup(struct gorge_l2_request *rq, uint64_t now_ms) {
  rq->state.step = GORGE_L2_STEP_VALUE;
  rq->state.nonces_due = false; /* they are asked for here */
  int status = gorge_l2_submit_get(rq, now_ms);
  if (status == GORGE_OK && (rq->ntags > 0 || rq->confirm_epoch)) {
    status = gorge_l2_submit_nonces(rq, rq->tags, rq->ntags, now_ms);
    if (status != GORGE_OK) {
      gorge_l2_route_forget(rq);
    }
  }
  return status;
}

int gorge_l2_begin(struct gorge_l2_request *rq, uint64_t now_ms) {
  rq->state.epoch = gorge_l2_name_epoch(rq->l2, rq->state.partition);
  if (rq->verb == GORGE_L2_EXPLAIN) {
    return gorge_l2_send_explain(rq, now_ms);
  }
  if (rq->state.epoch == 0 && rq->verb != GORGE_L2_CLEAR) {
    rq->state.step = GORGE_L2_STEP_EPOCH;
  } else if (rq->verb == GORGE_L2_LOOKUP) {
    return send_lookup(rq, now_ms);
  } else {
    rq->state.step = GORGE_L2_STEP_SCRIPT;
  }
  return gorge_l2_submit_script(rq, now_ms);
}

void gorge_l2_set_deadline(struct gorge_l2_request *rq, uint64_t now_ms) {
  const struct gorge_l2 *l2 = rq->l2;
  rq->command[0].deadline_ms = rq->deadline_ms;
  if (l2->map.follows && rq->deadline_ms == 0) { /* one for all that it goes through */
    rq->command[0].deadline_ms = now_ms + (l2->config.timeout_ms > 0 ? l2->config.timeout_ms : TIMEOUT_DEFAULT_MS);
  }
}

int gorge_l2_send_to(struct gorge_l2 *l2, struct gorge_l2_request *rq, uint32_t partition, bool silent,
                     uint64_t now_ms) {
  memset(rq->command, 0, sizeof rq->command);
  memset(&rq->state, 0, sizeof rq->state);
  rq->l2 = l2;
  rq->command[0].done = on_first;
  rq->command[1].done = on_second;
  rq->state.rejected = rq->rejected_version;
  rq->state.cursor = rq->since;
  rq->state.partition = partition;
  rq->state.silent = silent;
  rq->command[GORGE_L2_ASKING].done = on_asking;
  gorge_l2_set_deadline(rq, now_ms);
  int status = gorge_l2_route_begin(rq, now_ms);
  if (status != GORGE_OK) {
    rq->l2 = NULL;
  }
  return status;
}

int gorge_l2_send(struct gorge_l2 *l2, struct gorge_l2_request *rq, uint64_t now_ms) {
  int status = l2->closed ? GORGE_ERR_CLOSED : gorge_l2_check(l2, rq);
  if (status != GORGE_OK) {
    return status;
  }
  if (rq->verb == GORGE_L2_JOURNAL || rq->verb == GORGE_L2_HEARTBEAT) {
    return gorge_l2_send_to(l2, rq, rq->partition, false, now_ms);
  }
  if (rq->verb != GORGE_L2_CLEAR && rq->verb != GORGE_L2_INVALIDATE_TAGS) {
    return gorge_l2_send_to(l2, rq, gorge_partition_of(rq->key, rq->key_len, l2->partition_count), false, now_ms);
  }
  return l2->partition_count == 1 ? gorge_l2_send_to(l2, rq, 0, false, now_ms) : gorge_l2_fan_out(l2, rq, now_ms);
}

void gorge_l2_cancel(struct gorge_l2_request *rq) {
  if (rq->l2 == NULL) {
    return;
  }
  if (rq->state.fan != NULL) {
    gorge_l2_fan_cancel(rq);
    rq->l2 = NULL;
    return;
  }
  gorge_l2_route_forget(rq);
  gorge_l2_drop_kept(rq);
  rq->l2 = NULL;
}
