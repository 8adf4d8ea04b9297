/* SPDX-License-Identifier: MIT */
/*
 * What somebody from outside asks for (sync/mailbox.h): one request at a time for each watch. As for a write of a worker, this host
 * forgets before Redis is told and once more afterwards; what Redis did not take is queued, and carried out when it is back. The breaker
 * is not asked: whoever asks here looks at the answer himself.
 */
#include <string.h>

#include "base/clock.h"
#include "drive/control_internal.h"

static void answer(const struct gorge_watch *w, uint64_t now_ms, int status, const char *text) {
  gorge_mail_answer(w->control->zone, w->control->owner.id, w->mail.ticket, now_ms, status, text);
}

static void finish(struct gorge_watch *w, uint64_t now_ms, int status, uint64_t version, const char *text) {
  w->mailing = false;
  w->n.forget(w->n.ctx, &w->control->owner, &w->mail, status < 0 ? status : GORGE_OK, version, now_ms);
  answer(w, now_ms, status < 0 ? status : GORGE_OK, text != NULL ? text : "");
}

static void on_done(struct gorge_l2_request *rq, const struct gorge_l2_result *r, uint64_t now_ms) {
  struct gorge_watch *w = rq->ctx;
  finish(w, now_ms, r->status, r->version, r->error);
  gorge_control_mail(w->control);
}

static void fill(struct gorge_watch *w) {
  struct gorge_l2_request *rq = &w->mail_request;
  memset(rq, 0, sizeof *rq);
  switch (w->mail.what) {
    case GORGE_FORGET_TAG:
      rq->verb = GORGE_L2_INVALIDATE_TAGS;
      w->mail_tag = (struct gorge_l2_tag){w->mail.name, w->mail.len};
      rq->tags = &w->mail_tag;
      rq->ntags = 1;
      break;
    case GORGE_FORGET_ALL: rq->verb = GORGE_L2_CLEAR; break;
    default:
      rq->verb = GORGE_L2_DELETE;
      rq->key = w->mail.name;
      rq->key_len = w->mail.len;
      break;
  }
  rq->done = on_done;
  rq->ctx = w;
}

static void carry_out(struct gorge_watch *w, uint64_t now_ms) {
  w->n.forget(w->n.ctx, &w->control->owner, &w->mail, GORGE_PENDING, 0, now_ms);
  fill(w);
  int status = gorge_lease_connect(w) ? gorge_l2_send(w->l2, &w->mail_request, now_ms) : GORGE_ERR_MEMORY;
  w->mailing = status == GORGE_OK;
  if (w->l2_link != NULL) {
    gorge_ev_l2_kick(w->l2_link);
  }
  if (!w->mailing) {
    finish(w, now_ms, status, 0, w->l2 != NULL ? gorge_nodes_reason(w->l2) : NULL);
  }
}

void gorge_control_mail(struct gorge_control *c) {
  uint64_t now_ms = gorge_clock_ms();
  for (int i = 0; i < GORGE_WATCHES && gorge_mail_waiting(c->zone); i++) {
    struct gorge_watch *w = gorge_watch_live(c, i);
    if (w != NULL && w->n.forget != NULL && !w->mailing && !gorge_watch_stopping(w) &&
        gorge_mail_take(c->zone, c->owner.id, w->n.ns, now_ms, &w->mail)) {
      carry_out(w, now_ms);
    }
  }
}

void gorge_control_mail_end(struct gorge_watch *w) {
  if (w->mailing) {
    gorge_l2_cancel(&w->mail_request);
    finish(w, gorge_clock_ms(), GORGE_ERR_CLOSED, 0, "the worker ends");
  }
}
