/* SPDX-License-Identifier: MIT */
#include "io/l2.h"

#include <hiredis/hiredis.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "io/l2_state.h"
#include "proto/command.h"

enum {
  CLOCK_REFRESH_MS = 30 * 1000,
  CLOCK_FORGET_MS = 60 * 1000, /* an offset this old gives way to one learnt over a slower round trip */
  CLOCK_RETRY_MS = 1000,
  CLOCK_RTT_SLACK_MS = 2,
  REPLY_OVERHEAD = 8 * 1024, /* what a reply holds besides the value, at most: envelope, nonces, framing */
  MAX_REPLY_DEFAULT = 64 << 20
};

/* ---- the server's clock ---- */

static void learn_clock(struct gorge_l2 *l2, uint64_t server_ms, uint64_t now_ms) {
  uint64_t rtt = now_ms > l2->time_sent_ms ? now_ms - l2->time_sent_ms : 0;
  bool better = !l2->clock_known || rtt <= l2->clock_rtt_ms + CLOCK_RTT_SLACK_MS ||
                now_ms >= l2->clock_sample_ms + CLOCK_FORGET_MS;
  if (!better) {
    l2->clock_next_ms = now_ms + CLOCK_RETRY_MS;
    return;
  }
  l2->clock_known = true;
  l2->clock_rtt_ms = rtt;
  l2->clock_sample_ms = now_ms;
  l2->clock_next_ms = now_ms + CLOCK_REFRESH_MS;
  l2->clock_offset_ms = (int64_t)server_ms - (int64_t)l2->time_sent_ms;
}

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

static void on_time(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_l2 *l2 = (void *)((char *)cmd - offsetof(struct gorge_l2, time));
  uint64_t seconds, us;
  l2->time_due = false;
  l2->clock_next_ms = now_ms + CLOCK_RETRY_MS;
  if (status == GORGE_OK && reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
      gorge_l2_number_of(reply->element[0], &seconds) && gorge_l2_number_of(reply->element[1], &us) && us < 1000000) {
    learn_clock(l2, seconds * 1000 + (us + 999) / 1000, now_ms); /* rounded up: ttls end early, not late */
  }
}

static void ask_time(struct gorge_l2 *l2, uint64_t now_ms) {
  static const char *const argv[] = {"TIME"};
  static const size_t argv_len[] = {4};
  if (l2->time_due || gorge_conn_state(l2->conn) != GORGE_CONN_READY) {
    return;
  }
  l2->time.deadline_ms = 0;
  l2->time_sent_ms = now_ms;
  l2->time_due = gorge_conn_submit(l2->conn, &l2->time, 1, argv, argv_len, now_ms) == GORGE_OK;
}

uint64_t gorge_l2_remaining_ms(const struct gorge_l2 *l2, const struct gorge_envelope *e, uint64_t now_ms) {
  if (!l2->clock_known) {
    return 0;
  }
  int64_t server_ms = (int64_t)now_ms + l2->clock_offset_ms;
  int64_t left = (int64_t)e->ends_ms - server_ms;
  if (left <= 0) {
    return 0;
  }
  return (uint64_t)left < GORGE_TTL_MAX_MS ? (uint64_t)left : GORGE_TTL_MAX_MS;
}

/* ---- the epoch ---- */

uint64_t gorge_l2_name_epoch(struct gorge_l2 *l2) {
  uint64_t epoch = __atomic_load_n(l2->epoch, __ATOMIC_ACQUIRE); /* partner: whoever stores it, after it emptied L1 */
  if (epoch != l2->named_epoch) {
    gorge_names_set_epoch(&l2->names, epoch);
    l2->named_epoch = epoch;
  }
  return epoch;
}

void gorge_l2_learn_epoch(struct gorge_l2 *l2, uint64_t seen, uint64_t epoch) {
  if (epoch == seen || epoch == 0 || epoch > GORGE_VERSION_MAX) {
    return;
  }
  if (l2->learned != NULL) {
    l2->learned(l2->learned_ctx, seen, epoch);
  } else {
    l2->own_epoch = epoch;
  }
}

bool gorge_l2_epoch_confirmed(const struct gorge_l2_request *rq, const struct redisReply *reply) {
  uint64_t epoch;
  return reply->elements > rq->ntags && gorge_l2_number_of(reply->element[rq->ntags], &epoch) &&
         epoch == rq->state.epoch;
}

void gorge_l2_share_epoch(struct gorge_l2 *l2, const uint64_t *word,
                          void (*learned)(void *ctx, uint64_t seen, uint64_t epoch), void *ctx) {
  l2->epoch = word;
  l2->learned = learned;
  l2->learned_ctx = ctx;
}

static void on_epoch(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  (void)now_ms;
  struct gorge_l2 *l2 = (void *)((char *)cmd - offsetof(struct gorge_l2, epoch_get));
  uint64_t epoch;
  if (status == GORGE_OK && gorge_l2_number_of(reply, &epoch)) {
    gorge_l2_learn_epoch(l2, l2->epoch_seen, epoch);
  }
}

/* A new connection: the host may have missed a clear, or this is another Redis. Answered before what is sent after it. */
static void ask_epoch(struct gorge_l2 *l2, uint64_t now_ms) {
  char name[GORGE_NAME_PREFIX_MAX];
  size_t len = gorge_names_write(&l2->names, GORGE_NAME_EPOCH, NULL, 0, name, sizeof name);
  const char *argv[] = {"GET", name};
  const size_t argv_len[] = {3, len};
  l2->epoch_get.deadline_ms = 0;
  l2->epoch_seen = gorge_l2_name_epoch(l2);
  (void)gorge_conn_submit(l2->conn, &l2->epoch_get, 2, argv, argv_len, now_ms); /* scripts tell, too */
}

/* ---- what happens when the connection becomes ready, or is lost ---- */

static void on_loaded(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  (void)now_ms;
  struct gorge_l2_load *load = (struct gorge_l2_load *)cmd; /* its first member */
  if (status == GORGE_OK && reply->type == REDIS_REPLY_STRING && reply->len == GORGE_SCRIPT_SHA_LEN) {
    memcpy(load->sha, reply->str, GORGE_SCRIPT_SHA_LEN);
  }
}

/* Best effort: a script that could not be loaded goes as EVAL. */
static void on_ready(void *ctx, uint64_t now_ms) {
  struct gorge_l2 *l2 = ctx;
  ask_time(l2, now_ms);
  ask_epoch(l2, now_ms);
  for (int i = 0; i < GORGE_SCRIPTS; i++) {
    const char *text = gorge_script_text((enum gorge_script)i);
    const char *argv[] = {"SCRIPT", "LOAD", text};
    const size_t argv_len[] = {6, 4, strlen(text)};
    l2->load[i].command.deadline_ms = 0;
    if (gorge_conn_submit(l2->conn, &l2->load[i].command, 3, argv, argv_len, now_ms) != GORGE_OK) {
      return;
    }
  }
}

/* What comes next may be another server. */
static void on_lost(void *ctx, uint64_t now_ms) {
  (void)now_ms;
  struct gorge_l2 *l2 = ctx;
  l2->clock_known = false;
}

struct gorge_l2 *gorge_l2_create(const char *ns, uint32_t ns_len, const struct gorge_conn_config *config) {
  struct gorge_l2 *l2 = calloc(1, sizeof *l2);
  if (l2 == NULL) {
    return NULL;
  }
  if (gorge_names_init(&l2->names, ns, ns_len) == GORGE_OK) {
    l2->conn = gorge_conn_create(config);
  }
  if (l2->conn == NULL) {
    free(l2);
    return NULL;
  }
  uint64_t max_reply = config->max_reply_bytes > 0 ? config->max_reply_bytes : MAX_REPLY_DEFAULT;
  l2->max_value = max_reply > REPLY_OVERHEAD ? max_reply - REPLY_OVERHEAD : 0;
  if (l2->max_value > GORGE_COMMAND_BYTES_MAX / 2) {
    l2->max_value = GORGE_COMMAND_BYTES_MAX / 2;
  }
  l2->time.done = on_time;
  l2->epoch_get.done = on_epoch;
  l2->epoch = &l2->own_epoch;
  for (int i = 0; i < GORGE_SCRIPTS; i++) {
    l2->load[i].command.done = on_loaded;
    l2->load[i].sha = l2->sha[i];
  }
  gorge_conn_on_state(l2->conn, on_ready, on_lost, l2);
  return l2;
}

void gorge_l2_destroy(struct gorge_l2 *l2) {
  if (l2 != NULL) {
    gorge_conn_destroy(l2->conn);
    free(l2);
  }
}

struct gorge_conn *gorge_l2_conn(struct gorge_l2 *l2) {
  return l2->conn;
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

static int send_lookup(struct gorge_l2_request *rq, uint64_t now_ms) {
  rq->state.step = GORGE_L2_STEP_VALUE;
  int status = gorge_l2_submit_get(rq, now_ms);
  if (status == GORGE_OK && (rq->ntags > 0 || rq->confirm_epoch)) {
    status = gorge_l2_submit_nonces(rq, rq->tags, rq->ntags, now_ms);
    if (status != GORGE_OK) {
      gorge_conn_cancel(rq->l2->conn, &rq->command[0]);
    }
  }
  return status;
}

int gorge_l2_begin(struct gorge_l2_request *rq, uint64_t now_ms) {
  rq->state.epoch = gorge_l2_name_epoch(rq->l2);
  if (rq->state.epoch == 0 && rq->verb != GORGE_L2_CLEAR) {
    rq->state.step = GORGE_L2_STEP_EPOCH;
  } else if (rq->verb == GORGE_L2_LOOKUP) {
    return send_lookup(rq, now_ms);
  } else {
    rq->state.step = GORGE_L2_STEP_SCRIPT;
  }
  return gorge_l2_submit_script(rq, now_ms);
}

int gorge_l2_send(struct gorge_l2 *l2, struct gorge_l2_request *rq, uint64_t now_ms) {
  int status = gorge_l2_check(l2, rq);
  if (status != GORGE_OK) {
    return status;
  }
  memset(rq->command, 0, sizeof rq->command);
  memset(&rq->state, 0, sizeof rq->state);
  rq->l2 = l2;
  rq->command[0].done = on_first;
  rq->command[1].done = on_second;
  rq->command[0].deadline_ms = rq->deadline_ms;
  rq->state.rejected = rq->rejected_version;
  rq->state.cursor = rq->since;
  if (now_ms >= l2->clock_next_ms) {
    ask_time(l2, now_ms);
  }
  status = gorge_l2_begin(rq, now_ms);
  if (status != GORGE_OK) {
    rq->l2 = NULL;
  }
  return status;
}

void gorge_l2_cancel(struct gorge_l2_request *rq) {
  if (rq->l2 == NULL) {
    return;
  }
  gorge_conn_cancel(rq->l2->conn, &rq->command[0]);
  gorge_conn_cancel(rq->l2->conn, &rq->command[1]);
  gorge_l2_drop_kept(rq);
  rq->l2 = NULL;
}
