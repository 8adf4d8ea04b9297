/* SPDX-License-Identifier: MIT */
/* The end of a request. */
#include <hiredis/hiredis.h>
#include <stdlib.h>
#include <string.h>

#include "io/l2_state.h"
#include "proto/redirect.h"

void gorge_l2_drop_kept(struct gorge_l2_request *rq) {
  struct gorge_l2_kept *kept = rq->state.kept;
  rq->state.kept = NULL;
  if (kept != NULL) {
    freeReplyObject(kept->reply);
    free(kept);
  }
}

void gorge_l2_finish(struct gorge_l2_request *rq, struct gorge_l2_result *result, uint64_t now_ms) {
  struct gorge_l2_kept *kept = rq->state.kept;
  gorge_l2_route_forget(rq);
  rq->state.kept = NULL;
  rq->l2 = NULL;
  rq->done(rq, result, now_ms);
  if (kept != NULL) {
    freeReplyObject(kept->reply);
    free(kept);
  }
}

/* No memset: the arrays of tags are most of a result, and only the first ntags count. */
void gorge_l2_clear_result(struct gorge_l2_result *r, int status) {
  r->status = status;
  r->version = 0;
  r->before = 0;
  r->value = NULL;
  r->value_len = 0;
  r->kind = 0;
  r->remaining_ms = 0;
  r->kept_ms = 0;
  r->life = (struct gorge_extra_life){0};
  r->ntags = 0;
  r->moving = false;
  r->look = NULL;
  r->error = NULL;
}

void gorge_l2_finish_status(struct gorge_l2_request *rq, int status, uint64_t version, const char *error,
                            uint64_t now_ms) {
  struct gorge_l2_result result;
  gorge_l2_clear_result(&result, status);
  result.version = version;
  result.error = error;
  gorge_l2_finish(rq, &result, now_ms);
}

void gorge_l2_finish_moving(struct gorge_l2_request *rq, const char *error, uint64_t now_ms) {
  struct gorge_l2_result result;
  gorge_l2_clear_result(&result, GORGE_ERR_REDIS);
  result.moving = true;
  result.error = error;
  gorge_l2_finish(rq, &result, now_ms);
}

void gorge_l2_finish_error(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms) {
  static const char cluster[] = "a node of a Redis Cluster, for which there is the option cluster, says: ";
  struct gorge_redirect redirect;
  char *out = rq->l2->error;
  bool redirects = gorge_redirect_parse(&redirect, reply->str, reply->len);
  size_t at = redirects && !rq->l2->map.follows ? sizeof cluster - 1 : 0;
  memcpy(out, cluster, at);
  for (size_t i = 0; i < reply->len && at < GORGE_L2_ERROR_MAX; i++) {
    unsigned char byte = (unsigned char)reply->str[i];
    out[at++] = byte >= 0x20 && byte < 0x7f ? (char)byte : '?';
  }
  out[at] = '\0';
  if (redirects && redirect.kind == GORGE_REDIRECT_TRYAGAIN && rq->l2->map.follows) {
    gorge_l2_finish_moving(rq, out, now_ms);
  } else {
    gorge_l2_finish_status(rq, GORGE_ERR_REDIS, 0, out, now_ms);
  }
}

void gorge_l2_proceed(struct gorge_l2_request *rq, int status, uint64_t now_ms) {
  if (status != GORGE_OK) {
    gorge_l2_finish_status(rq, status, 0, NULL, now_ms);
  }
}
