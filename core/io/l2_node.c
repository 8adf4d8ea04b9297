/* SPDX-License-Identifier: MIT */
/* One server of an l2: what it is told and asked when its connection becomes ready, and its clock. */
#include <hiredis/hiredis.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "io/l2_state.h"

enum {
  CLOCK_REFRESH_MS = 30 * 1000,
  CLOCK_FORGET_MS = 60 * 1000, /* an offset this old gives way to one learnt over a slower round trip */
  CLOCK_RETRY_MS = 1000,
  CLOCK_RTT_SLACK_MS = 2
};
/* A version is at least the server's clock in microseconds. */
static const uint64_t SECONDS_MAX = GORGE_VERSION_MAX / 1000000;

/* ---- the server's clock ---- */

static void learn_clock(struct gorge_l2_node *node, uint64_t server_ms, uint64_t now_ms) {
  uint64_t rtt = now_ms > node->time_sent_ms ? now_ms - node->time_sent_ms : 0;
  bool better = !node->clock_known || rtt <= node->clock_rtt_ms + CLOCK_RTT_SLACK_MS ||
                now_ms >= node->clock_sample_ms + CLOCK_FORGET_MS;
  if (!better) {
    node->clock_next_ms = now_ms + CLOCK_RETRY_MS;
    return;
  }
  /* A slow one may have been slow by chance, and takes that much from each ttl: the next one tells. */
  bool usual = rtt <= CLOCK_RTT_SLACK_MS || (node->clock_known && rtt + CLOCK_RTT_SLACK_MS >= node->clock_rtt_ms);
  node->clock_known = true;
  node->clock_rtt_ms = rtt;
  node->clock_sample_ms = now_ms;
  node->clock_next_ms = now_ms + (usual ? CLOCK_REFRESH_MS : CLOCK_RETRY_MS);
  /* Our clock may have been right when the time was asked for and lie behind when the offset is used. */
  node->clock_offset_ms = (int64_t)(server_ms + node->l2->lag_ms) - (int64_t)node->time_sent_ms;
}

static void on_time(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_l2_node *node = (void *)((char *)cmd - offsetof(struct gorge_l2_node, time));
  uint64_t seconds, us;
  node->time_due = false;
  node->clock_next_ms = now_ms + CLOCK_RETRY_MS;
  if (status == GORGE_OK && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
      gorge_l2_number_of(reply->element[0], &seconds) && seconds <= SECONDS_MAX &&
      gorge_l2_number_of(reply->element[1], &us) && us < 1000000) {
    learn_clock(node, seconds * 1000 + (us + 999) / 1000, now_ms); /* rounded up: ttls end early, not late */
  }
}

static void ask_time(struct gorge_l2_node *node, uint64_t now_ms) {
  static const char *const argv[] = {"TIME"};
  static const size_t argv_len[] = {4};
  if (node->time_due || gorge_conn_state(node->conn) != GORGE_CONN_READY) {
    return;
  }
  node->time.deadline_ms = 0;
  node->time_sent_ms = now_ms;
  node->time_due = gorge_conn_submit(node->conn, &node->time, 1, argv, argv_len, now_ms) == GORGE_OK;
}

uint64_t gorge_l2_remaining_ms(const struct gorge_l2_node *node, const struct gorge_envelope *e, uint64_t now_ms) {
  if (!node->clock_known) {
    return 0;
  }
  int64_t server_ms = (int64_t)now_ms + node->clock_offset_ms;
  int64_t left = (int64_t)e->ends_ms - server_ms;
  if (left <= 0) {
    return 0;
  }
  return (uint64_t)left < GORGE_TTL_MAX_MS ? (uint64_t)left : GORGE_TTL_MAX_MS;
}

/* ---- what happens when the connection becomes ready, or is lost ---- */

static void on_epoch(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  (void)now_ms;
  struct gorge_l2_partition *p = (void *)((char *)cmd - offsetof(struct gorge_l2_partition, epoch_get));
  uint64_t epoch;
  p->epoch_due = false;
  if (status == GORGE_OK && gorge_l2_number_of(reply, &epoch)) {
    gorge_l2_learn_epoch(p->l2, (uint32_t)(p - p->l2->partitions), p->epoch_seen, epoch);
  }
}

/* A new connection: the host may have missed a clear, or this is another Redis. Answered before what is sent after it. */
static void ask_epoch(struct gorge_l2_node *node, uint32_t partition, uint64_t now_ms) {
  struct gorge_l2 *l2 = node->l2;
  struct gorge_l2_partition *p = &l2->partitions[partition];
  char name[GORGE_NAME_PREFIX_MAX];
  size_t len = gorge_names_write(&l2->names, partition, GORGE_NAME_EPOCH, NULL, 0, name, sizeof name);
  const char *argv[] = {"GET", name};
  const size_t argv_len[] = {3, len};
  if (p->epoch_due) {
    return;
  }
  p->epoch_get.done = on_epoch;
  p->epoch_get.deadline_ms = 0;
  p->epoch_seen = gorge_l2_name_epoch(l2, partition);
  /* Refused, scripts tell, too. */
  p->epoch_due = gorge_conn_submit(node->conn, &p->epoch_get, 2, argv, argv_len, now_ms) == GORGE_OK;
}

static void on_loaded(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  (void)now_ms;
  struct gorge_l2_load *load = (struct gorge_l2_load *)cmd; /* its first member */
  if (status == GORGE_OK && reply->type == REDIS_REPLY_STRING && reply->len == GORGE_SCRIPT_SHA_LEN) {
    memcpy(load->sha, reply->str, GORGE_SCRIPT_SHA_LEN);
  }
}

/* Best effort: a script that could not be loaded goes as EVAL. */
static void on_ready(void *ctx, uint64_t now_ms) {
  struct gorge_l2_node *node = ctx;
  ask_time(node, now_ms);
  for (uint32_t i = 0; i < node->l2->partition_count; i++) {
    if (gorge_l2_map_node(node->l2, i) == node) {
      ask_epoch(node, i, now_ms);
    }
  }
  for (int i = 0; i < GORGE_SCRIPTS; i++) {
    const char *text = gorge_script_text((enum gorge_script)i);
    const char *argv[] = {"SCRIPT", "LOAD", text};
    const size_t argv_len[] = {6, 4, strlen(text)};
    node->load[i].command.deadline_ms = 0;
    if (gorge_conn_submit(node->conn, &node->load[i].command, 3, argv, argv_len, now_ms) != GORGE_OK) {
      return;
    }
  }
}

/* What comes next may be another server. */
static void on_lost(void *ctx, uint64_t now_ms) {
  (void)now_ms;
  struct gorge_l2_node *node = ctx;
  node->clock_known = false;
}

void gorge_l2_node_clock(struct gorge_l2_node *node, uint64_t now_ms) {
  if (now_ms >= node->clock_next_ms) {
    ask_time(node, now_ms);
  }
}

struct gorge_l2_node *gorge_l2_node_create(struct gorge_l2 *l2, uint32_t index,
                                           const struct gorge_conn_config *config) {
  struct gorge_l2_node *node = calloc(1, sizeof *node);
  if (node == NULL) {
    return NULL;
  }
  struct gorge_conn_config own = *config;
  own.seed += index; /* not in step with the others */
  node->index = index;
  node->conn = gorge_conn_create(&own);
  if (node->conn == NULL) {
    free(node);
    return NULL;
  }
  node->l2 = l2;
  node->time.done = on_time;
  for (int i = 0; i < GORGE_SCRIPTS; i++) {
    node->load[i].command.done = on_loaded;
    node->load[i].sha = node->sha[i];
  }
  gorge_conn_on_state(node->conn, on_ready, on_lost, node);
  return node;
}

void gorge_l2_node_destroy(struct gorge_l2_node *node) {
  if (node != NULL) {
    gorge_conn_destroy(node->conn);
    free(node);
  }
}
