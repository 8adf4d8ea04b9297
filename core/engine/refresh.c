/* SPDX-License-Identifier: MIT */
/*
 * A refresh: the fill of a key whose value is still good. Readers have the old value meanwhile.
 *
 * Who begins puts off when the entry in L1 is due, to the time when the refresh must be over: of all on the host who found it due, one
 * succeeds, and for the others it is a value like any other again. A refresh that is lost leaves nothing behind but that time. One that failed
 * puts it off once more, longer each time. Among nodes the lease in Redis decides, as for every fill; the version of the entry tells
 * whether another node was faster.
 */
#include "base/clock.h"
#include "engine/engine.h"

enum { PAUSE_MS = 1000, PAUSE_DOUBLINGS = 5 }; /* after a failure, up to 32 s */

bool gorge_refresh_claim(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  struct gorge_read read, after;
  uint64_t seen_ms = gorge_cache_now(c);
  gorge_key_init(c->zone, c->ns, op->bytes, op->key.len, &op->key);
  int age = gorge_l1_age(c->zone, &op->key, seen_ms, &read);
  if (age == GORGE_HIT) {
    return false;
  }
  if (age != GORGE_DUE) {
    op->refresh = false; /* it is gone: a fill like any other */
    return true;
  }
  uint64_t until_ms = op->deadline_ms > now_ms ? op->deadline_ms : now_ms + 1;
  if (gorge_l1_defer(c->zone, &c->process->owner, &op->key, read.word, until_ms, read.life.failures, seen_ms, &after) !=
      GORGE_OK) {
    return false;
  }
  op->replaces = after.word;
  op->rejected_version = read.version;
  op->failures = read.life.failures;
  return true;
}

bool gorge_refresh_superseded(const struct gorge_op *op, uint64_t version) {
  return op->rejected_version != 0 && version > op->rejected_version;
}

int gorge_refresh_keep(struct gorge_op *op, const struct gorge_entry *entry, uint64_t now_ms) {
  const gorge_cache *c = op->cache;
  struct gorge_exchange exchange = {.word = op->replaces};
  return gorge_l1_exchange(c->zone, &c->process->owner, &op->key, entry, &op->snapshot, &exchange, now_ms, &op->read);
}

void gorge_refresh_failed(struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  uint64_t pause_ms = (uint64_t)PAUSE_MS << (op->failures < PAUSE_DOUBLINGS ? op->failures : PAUSE_DOUBLINGS);
  gorge_count(c, GORGE_COUNT_REFRESH_ERRORS);
  pause_ms += (uint64_t)((double)pause_ms * gorge_process_random() /
                         4); /* hosts that fail together need not come back together */
  (void)gorge_l1_defer(c->zone, &c->process->owner, &op->key, op->replaces, now_ms + pause_ms, op->failures + 1,
                       gorge_cache_now(c), NULL);
  op->refresh = false;
}
