/* SPDX-License-Identifier: MIT */
/*
 * A request to all partitions of a namespace, as one request to each of them, all under way at once. What it needs is allocated when it
 * begins and given back before its done; the connection's max_pending bounds how many are under way, the others follow as answers come in.
 * A partition that fails fails the whole, but not before all others have answered: who is told so queues the whole, and what can forget at once
 * does not wait for that.
 *
 * CLEAR makes a new epoch in each partition, with journal and message: who hears one of them forgets that partition's names and all of L1.
 *
 * INVALIDATE_TAGS has to end the values that carry a tag wherever they are, and the readers that hold copies. One message is enough for the
 * readers, as L1 knows no partitions; but who hears it goes to L2 at once, and must not find there what it has just forgotten. So:
 *   1. all partitions but the home one give the tags new nonces, and tell nobody;
 *   2. when all have done so, the home partition does the same with journal and message. This is the commit. When one has not, the home
 *      partition tells nobody either.
 * A fill that began before has the old nonces, and is refused in its own partition by itself (I1): from phase 1 on. Copies elsewhere live
 * until they hear of phase 2, or until the journal of the home partition tells them (I2, I6). A sender that ends in between has ended
 * values for nothing, and nobody was told that the tags are invalidated; sent again, it is carried out again.
 */
#include <stdio.h>
#include <stdlib.h>

#include "io/l2_state.h"

struct gorge_l2_fan {
  struct gorge_l2 *l2;
  struct gorge_l2_request *whole;
  uint32_t home; /* the partition that comes last, alone; UINT32_MAX: none does */
  uint32_t next; /* partitions below have been sent to, but for the home one */
  uint32_t under_way;
  bool home_sent;
  uint64_t deadline_ms; /* of all parts; 0: none has been sent yet */
  uint64_t version;     /* the highest that others are told of */
  int failed;           /* the status of the first part that failed, or GORGE_OK */
  bool moving;          /* and what belongs to it */
  char error[GORGE_L2_ERROR_MAX + 1];
  struct gorge_l2_request parts[];
};

static void on_part(struct gorge_l2_request *part, const struct gorge_l2_result *result, uint64_t now_ms);

static int send_part(struct gorge_l2_fan *fan, uint32_t partition, bool silent, uint64_t now_ms) {
  struct gorge_l2_request *part = &fan->parts[partition];
  *part = *fan->whole;
  part->done = on_part;
  part->ctx = fan;
  part->deadline_ms = fan->deadline_ms;
  int status = gorge_l2_send_to(fan->l2, part, partition, silent, now_ms);
  if (status == GORGE_OK) {
    fan->under_way++;
    fan->deadline_ms = part->command[0].deadline_ms; /* the first to be sent knows what the default means */
  }
  return status;
}

static void fail(struct gorge_l2_fan *fan, int status, bool moving, const char *error) {
  if (fan->failed == GORGE_OK) {
    fan->failed = status;
    fan->moving = moving;
    snprintf(fan->error, sizeof fan->error, "%s", error != NULL ? error : "");
  }
}

/* Returns false when it is to be tried again, as there is no room before an answer has come. */
static bool try_part(struct gorge_l2_fan *fan, uint32_t partition, bool silent, uint64_t now_ms) {
  int status = send_part(fan, partition, silent, now_ms);
  if (status == GORGE_ERR_FULL && fan->under_way > 0) {
    return false;
  }
  if (status != GORGE_OK) {
    fail(fan, status, false, NULL);
  }
  return true;
}

/* Sends what can be sent. */
static void advance(struct gorge_l2_fan *fan, uint64_t now_ms) {
  bool silent = fan->whole->verb == GORGE_L2_INVALIDATE_TAGS;
  while (fan->next < fan->l2->partition_count && (fan->next == fan->home || try_part(fan, fan->next, silent, now_ms))) {
    fan->next++;
  }
  if (fan->under_way == 0 && fan->home != UINT32_MAX && !fan->home_sent) {
    fan->home_sent = true;
    (void)try_part(fan, fan->home, fan->failed != GORGE_OK, now_ms);
  }
}

/* Forgets the parts. Those that have ended, or were never sent, are left alone by cancel. */
static void drop(struct gorge_l2_fan *fan) {
  for (uint32_t i = 0; i < fan->l2->partition_count; i++) {
    gorge_l2_cancel(&fan->parts[i]);
  }
  fan->whole->state.fan = NULL;
  free(fan);
}

static void finish(struct gorge_l2_fan *fan, uint64_t now_ms) {
  struct gorge_l2_request *whole = fan->whole;
  struct gorge_l2 *l2 = fan->l2;
  struct gorge_l2_result result;
  gorge_l2_clear_result(&result, fan->failed);
  result.version = fan->failed == GORGE_OK ? fan->version : 0;
  result.moving = fan->moving;
  if (fan->error[0] != '\0') {
    snprintf(l2->error, sizeof l2->error, "%s", fan->error);
    result.error = l2->error;
  }
  drop(fan);
  whole->l2 = NULL;
  whole->done(whole, &result, now_ms);
}

static void on_part(struct gorge_l2_request *part, const struct gorge_l2_result *result, uint64_t now_ms) {
  struct gorge_l2_fan *fan = part->ctx;
  fan->under_way--;
  bool tells = fan->home == UINT32_MAX || fan->home_sent;
  if (tells && result->version > fan->version) {
    fan->version = result->version;
  }
  if (result->status < 0) {
    fail(fan, result->status, result->moving, result->error);
  }
  if (!fan->l2->closed) {
    advance(fan, now_ms);
  }
  if (fan->under_way == 0 || fan->l2->closed) {
    finish(fan, now_ms);
  }
}

int gorge_l2_fan_out(struct gorge_l2 *l2, struct gorge_l2_request *rq, uint64_t now_ms) {
  struct gorge_l2_fan *fan = calloc(1, sizeof *fan + l2->partition_count * sizeof fan->parts[0]);
  if (fan == NULL) {
    return GORGE_ERR_MEMORY;
  }
  fan->l2 = l2;
  fan->whole = rq;
  fan->home = UINT32_MAX;
  if (rq->verb == GORGE_L2_INVALIDATE_TAGS) {
    fan->home = gorge_partition_of(rq->tags[0].ptr, rq->tags[0].len, l2->partition_count);
  }
  fan->deadline_ms = rq->deadline_ms;
  rq->l2 = l2;
  rq->state.fan = fan;
  advance(fan, now_ms);
  if (fan->under_way > 0) {
    return GORGE_OK;
  }
  int status = fan->failed; /* nothing could be sent */
  drop(fan);
  rq->l2 = NULL;
  return status;
}

void gorge_l2_fan_cancel(struct gorge_l2_request *rq) { drop(rq->state.fan); }
