/* SPDX-License-Identifier: MIT */
/*
 * Writes that Redis was not told of, or may not have carried out. They wait in the zone (backlog/backlog.h) until the holder of the
 * subscriber role carries them out as invalidations. Until then Redis is not asked for what they concern: it could still answer with what
 * this host has forgotten.
 */
#include "engine/missed.h"
#include "base/broken.h"
#include "base/clock.h"
#include "engine/remote.h"
#include "proto/slot.h"
#include "shm/events.h"

/* Calls `what` for each key or tag that the write concerns. */
typedef void for_each(const struct gorge_op *op, enum gorge_backlog_what what, const char *name, uint32_t len);

static void concerned(const struct gorge_op *op, for_each *call) {
  if (op->verb == GORGE_L2_SET || op->verb == GORGE_L2_DELETE) {
    call(op, GORGE_BACKLOG_KEY, op->key.ptr, op->key.len);
  } else if (op->verb == GORGE_L2_INVALIDATE_TAGS) {
    for (uint32_t i = 0; i < op->ntags; i++) {
      call(op, GORGE_BACKLOG_TAG, op->tags[i].ptr, op->tags[i].len);
    }
  } /* update and, but for the case below, touch: when they fail, the value in Redis is as good as it was */
}

void gorge_missed_add(struct gorge_zone *zone, uint32_t owner, uint32_t ns, uint32_t partitions,
                      enum gorge_backlog_what what, const char *name, uint32_t len) {
  bool everywhere = what == GORGE_BACKLOG_TAG && partitions > 1;
  uint32_t where = everywhere ? GORGE_BACKLOG_EVERYWHERE : gorge_partition_of(name, len, partitions);
  gorge_backlog_add(zone, owner, ns, where, what, name, len);
}

static void add(const struct gorge_op *op, enum gorge_backlog_what what, const char *name, uint32_t len) {
  const gorge_cache *c = op->cache;
  gorge_missed_add(c->zone, c->process->owner.id, c->ns, c->partitions, what, name, len);
}

static void cancel(const struct gorge_op *op, enum gorge_backlog_what what, const char *name, uint32_t len) {
  const gorge_cache *c = op->cache;
  gorge_backlog_cancel(c->zone, c->process->owner.id, c->ns, what, name, len, op->since);
}

static void tell(const struct gorge_op *op, enum gorge_backlog_what what, const char *name, uint32_t len) {
  const gorge_cache *c = op->cache;
  gorge_events_add(c->zone, what == GORGE_BACKLOG_KEY ? GORGE_EVENT_KEY : GORGE_EVENT_TAG, GORGE_EVENT_QUEUED, c->ns, 0,
                   name, len, gorge_clock_ms());
}

void gorge_missed_write(const struct gorge_op *op) {
  const gorge_cache *c = op->cache;
  if (!GORGE_CHECKS(QUEUE) || !gorge_remote_reachable(c)) {
    return; /* nginx's master: what it stores before the workers are there is nothing that others must forget */
  }
  if (op->verb == GORGE_L2_CLEAR) {
    gorge_backlog_add_clear(c->zone, c->ns);
    gorge_events_add(c->zone, GORGE_EVENT_CLEAR, GORGE_EVENT_QUEUED, c->ns, 0, NULL, 0, gorge_clock_ms());
  }
  if (op->verb == GORGE_L2_TOUCH && op->shorter) {
    /* Redis and the other hosts would have the value beyond its end, and this host have it again from there. Ending it early is allowed. */
    add(op, GORGE_BACKLOG_KEY, op->key.ptr, op->key.len);
  }
  concerned(op, add);
  concerned(op, tell);
}

uint64_t gorge_missed_by_now(const struct gorge_op *op) {
  const gorge_cache *c = op->cache;
  return op->verb == GORGE_L2_CLEAR ? gorge_backlog_clear_due(c->zone, c->ns) : gorge_backlog_added(c->zone);
}

void gorge_missed_none(const struct gorge_op *op) {
  if (op->verb == GORGE_L2_CLEAR && op->since != 0) {
    gorge_backlog_cleared(op->cache->zone, op->cache->ns, op->since);
  }
  concerned(op, cancel);
}

bool gorge_missed_key(const struct gorge_op *op) {
  const gorge_cache *c = op->cache;
  return gorge_backlog_holds(c->zone, c->process->owner.id, c->ns, GORGE_BACKLOG_KEY, op->key.ptr, op->key.len);
}

bool gorge_missed_tags(const gorge_cache *c, uint32_t ntags, const struct gorge_l2_tag *tags) {
  bool missed = false;
  for (uint32_t i = 0; i < ntags && !missed; i++) {
    missed = gorge_backlog_holds(c->zone, c->process->owner.id, c->ns, GORGE_BACKLOG_TAG, tags[i].ptr, tags[i].len);
  }
  return missed;
}
