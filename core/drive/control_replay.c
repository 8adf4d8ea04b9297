/* SPDX-License-Identifier: MIT */
/*
 * Tells Redis what it missed (backlog/backlog.h): the holder of the subscriber role carries the queued invalidations out. Each partition
 * has a lane: what is queued for it goes out once its journal has been caught up with, one after the other in their order, whatever becomes of
 * the other partitions and of their nodes. A clear, and a tag where there are several partitions, is for all of them: these have a lane of their
 * own, which waits for all journals. Between lanes there is no order to keep, since all that they do is to make Redis forget.
 *
 * One that fails stays where it is, and its lane stands still until the next tick. Redis publishes them like any other, so that every host
 * hears of them, this one too. Killed between the answer and its mark, the next holder carries it out once more, which forgets too much rather
 * than too little.
 */
#include <stdlib.h>

#include "backlog/backlog.h"
#include "drive/control_internal.h"

enum { OF_ALL = GORGE_PARTITIONS, LANES }; /* the others have the numbers of the partitions */

/* One that is under way. */
struct replay {
  struct gorge_watch *watch;
  uint32_t lane;
  struct gorge_l2_request request;
  uint64_t clear; /* the clear that it carries out; 0: it is the record */
  struct gorge_backlog_record record;
  struct gorge_l2_tag tag;
};

static void start(struct gorge_watch *w, uint32_t first, uint32_t end, uint64_t now_ms);

static void count(const struct gorge_watch *w) {
  const struct gorge_owner *owner = &w->control->owner;
  /* relaxed: a counter on its own, which the worker's main thread may write as well */
  __atomic_fetch_add(&gorge_zone_counters(w->control->zone, w->n.ns, owner->worker)[GORGE_COUNT_REPLAYED], 1,
                     __ATOMIC_RELAXED);
}

static void on_done(struct gorge_l2_request *rq, const struct gorge_l2_result *r, uint64_t now_ms) {
  struct replay *replay = rq->ctx;
  struct gorge_watch *w = replay->watch;
  uint32_t lane = replay->lane;
  bool done = r->status >= 0;
  if (done && replay->clear != 0) {
    gorge_backlog_cleared(w->control->zone, w->n.ns, replay->clear);
  } else if (done) {
    gorge_backlog_done(w->control->zone, w->control->owner.id, &replay->record);
  }
  w->replaying[lane] = false;
  free(replay);
  if (done) {
    count(w);
    start(w, lane, lane + 1, now_ms);
  }
}

/* What the lane takes. The partitions that there are not are those of a cache with more of them, which was in the zone before. */
static void set_open(const struct gorge_watch *w, uint32_t lane, bool open, struct gorge_backlog_open *of) {
  uint64_t none = w->n.partitions < GORGE_PARTITIONS ? UINT64_MAX << w->n.partitions : 0;
  uint64_t partitions = lane == OF_ALL ? none : (uint64_t)1 << lane;
  of->partitions = open ? of->partitions | partitions : of->partitions & ~partitions;
  of->everywhere = lane == OF_ALL ? open : of->everywhere;
}

static uint32_t lane_of(const struct gorge_watch *w, const struct replay *replay) {
  return replay->clear != 0 || replay->record.where >= w->n.partitions ? OF_ALL : replay->record.where;
}

/* Whether the next one of the lane may go. */
static bool is_free(const struct gorge_watch *w, uint32_t lane) {
  bool there = lane == OF_ALL || lane < w->n.partitions;
  return there && !w->replaying[lane] &&
         (lane == OF_ALL ? gorge_journal_synced(w) : w->parts[lane].sync == GORGE_SYNC_DONE);
}

/* The next one of the lanes that are open. Returns false when there is none. */
static bool take(const struct gorge_watch *w, const struct gorge_backlog_open *open, struct replay *replay) {
  struct gorge_zone *zone = w->control->zone;
  struct gorge_l2_request *rq = &replay->request;
  replay->clear = open->everywhere ? gorge_backlog_clear_due(zone, w->n.ns) : 0;
  if (replay->clear != 0) {
    rq->verb = GORGE_L2_CLEAR;
  } else if (!gorge_backlog_next(zone, w->control->owner.id, w->n.ns, open, &replay->record)) {
    return false;
  } else if (replay->record.what == GORGE_BACKLOG_TAG) {
    rq->verb = GORGE_L2_INVALIDATE_TAGS;
    replay->tag = (struct gorge_l2_tag){replay->record.name, replay->record.len};
    rq->tags = &replay->tag;
    rq->ntags = 1;
  } else {
    rq->verb = GORGE_L2_DELETE;
    rq->key = replay->record.name;
    rq->key_len = replay->record.len;
  }
  return true;
}

/* Sends one, and closes its lane. Returns false when there is none. */
static bool send_next(struct gorge_watch *w, struct gorge_backlog_open *open, uint64_t now_ms) {
  struct replay *replay = calloc(1, sizeof *replay);
  if (replay == NULL || !take(w, open, replay)) {
    free(replay);
    return false;
  }
  replay->watch = w;
  replay->lane = lane_of(w, replay);
  replay->request.done = on_done;
  replay->request.ctx = replay;
  set_open(w, replay->lane, false, open);
  if (gorge_l2_send(w->l2, &replay->request, now_ms) == GORGE_OK) {
    w->replaying[replay->lane] = true;
  } else {
    free(replay);
  }
  return true;
}

/* In the lanes from `first` up to `end`. */
static void start(struct gorge_watch *w, uint32_t first, uint32_t end, uint64_t now_ms) {
  struct gorge_backlog_open open = {0, false};
  if (gorge_watch_stopping(w) || gorge_backlog_empty(w->control->zone, w->n.ns) || !gorge_lease_connect(w)) {
    return;
  }
  for (uint32_t lane = first; lane < end; lane++) {
    if (is_free(w, lane)) {
      set_open(w, lane, true, &open);
    }
  }
  while ((open.partitions != 0 || open.everywhere) && send_next(w, &open, now_ms)) {
  }
  gorge_ev_l2_kick(w->l2_link);
}

void gorge_replay_partition(struct gorge_follow *f, uint64_t now_ms) {
  uint32_t partition = (uint32_t)(f - f->watch->parts);
  start(f->watch, partition, partition + 1, now_ms);
}

void gorge_replay_tick(struct gorge_watch *w, uint64_t now_ms) { start(w, 0, LANES, now_ms); }
