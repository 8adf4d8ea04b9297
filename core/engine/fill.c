/* SPDX-License-Identifier: MIT */
/* The loader has returned: Redis checks the lease and stores, L1 checks the stamps and stores, everybody who waits wakes. */
#include <string.h>

#include "base/clock.h"
#include "engine/remote.h"
#include "proto/envelope.h"
#include "resil/histogram.h"

enum { LOST_MAX = 1024 }; /* leases at a time that wait for a connection to be given back */

void gorge_fill_finish_flight(struct gorge_op *op, int outcome, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  if (op->lease_id != 0) {
    gorge_control_lease_remove(c->process->control, op->lease_id);
    op->lease_id = 0;
  }
  if (op->flight.index == UINT32_MAX || !op->flight.owner) {
    return;
  }
  struct gorge_worker_set waiters = {{0}};
  if (gorge_flight_finish(c->zone, &op->flight, now_ms, outcome, op->error, op->error_len, &waiters) == GORGE_OK) {
    gorge_cache_wake(c, &waiters);
  }
  op->flight.index = UINT32_MAX;
}

/*
 * Nodes wait for a lease until it is overdue. So one that Redis may have granted without our hearing of it, or may hold still when there is no
 * connection to give it back by, is given back by an op of its own, which waits for a connection for as long as the lease can live.
 */
void gorge_fill_lost(const struct gorge_op *op, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  struct gorge_op *lost;
  if (op->l2_token == 0 || c->lost_count == LOST_MAX ||
      gorge_op_create(c, op->key.ptr, op->key.len, NULL, 0, &lost) != GORGE_OK) {
    return; /* it ends by itself */
  }
  c->lost_count++;
  lost->lost = lost->detached = true;
  lost->state = GORGE_OP_RELEASE;
  lost->l2_token = op->l2_token;
  lost->deadline_ms = now_ms + op->lease_ms;
  gorge_op_list(lost);
}

bool gorge_fill_release(struct gorge_op *op, uint64_t now_ms) {
  if (op->l2_token == 0 || op->cache->l2 == NULL) {
    return false;
  }
  if (!gorge_remote_ready(op)) {
    gorge_fill_lost(op, now_ms);
    return false;
  }
  if (gorge_remote_send(op, GORGE_L2_RELEASE, now_ms) != GORGE_OK) {
    return false;
  }
  op->state = GORGE_OP_RELEASE;
  return true;
}

void gorge_fill_look_lost(struct gorge_op *op, uint64_t now_ms) {
  if (now_ms >= op->deadline_ms) {
    gorge_op_end(op, GORGE_OK);
  } else if (gorge_remote_ready(op)) {
    gorge_op_unlist(op);
    if (gorge_remote_send(op, GORGE_L2_RELEASE, now_ms) != GORGE_OK) {
      gorge_op_end(op, GORGE_OK);
    }
  }
}

void gorge_fill_released(struct gorge_op *op, int status, uint64_t now_ms) {
  if (status == GORGE_ERR_DOWN && op->lost) {
    gorge_op_list(op);
    return;
  }
  if (status == GORGE_ERR_DOWN) {
    gorge_fill_lost(op, now_ms);
  }
  op->state = GORGE_OP_DONE; /* the caller knows already how it ended */
  if (op->detached) {
    gorge_op_destroy(op);
  }
}

void gorge_op_not_kept(struct gorge_op *op, uint64_t version) {
  const gorge_cache *c = op->cache;
  op->read.slot = NULL;
  if (version > 0) {
    gorge_l1_invalidate(c->zone, &c->process->owner, &op->key, version, NULL);
  }
}

/* Stores into L1 what the op carries. version 0: not from Redis. */
static int keep(struct gorge_op *op, uint64_t version, uint64_t now_ms) {
  gorge_cache *c = op->cache;
  struct gorge_entry entry = {
      .value = op->store.ptr,
      .value_len = op->store.len,
      .kind = op->read.kind,
      .version = version,
      .ntags = op->ntags,
      .tags = op->tags,
  };
  gorge_cache_life(c, &op->span, 0, now_ms, &entry);
  int status = op->refresh && version == 0
                   ? gorge_refresh_keep(op, &entry, now_ms)
                   : gorge_l1_insert(c->zone, &c->process->owner, &op->key, &entry, &op->snapshot, now_ms, &op->read);
  op->read.version = version;
  return status == GORGE_BUSY ? GORGE_REFUSED : status;
}

/* The fill is over for the caller. A lease that Redis may still have for it is given back, others would wait for it. */
static void conclude(struct gorge_op *op, int status, bool leased, uint64_t now_ms) {
  gorge_fill_finish_flight(op, GORGE_OK, now_ms);
  op->status = status;
  if (leased && gorge_fill_release(op, now_ms)) {
    gorge_op_notify(op);
  } else {
    gorge_op_end(op, status);
  }
}

/* leased: Redis did not store the value. */
static void publish(struct gorge_op *op, uint64_t version, bool leased, uint64_t now_ms) {
  /* A fill that was taken over must not be seen: the flight is asked first; what still slips in between loses by its snapshot. */
  bool owned = op->flight.index == UINT32_MAX || gorge_flight_owned(op->cache->zone, &op->flight);
  int status = GORGE_REFUSED;
  if (owned && !op->elsewhere) {
    status = keep(op, version, now_ms);
  } else {
    gorge_count(op->cache, GORGE_COUNT_REFUSED_FILLS);
  }
  if (status != GORGE_STORED) {
    gorge_op_not_kept(op, version);
  }
  conclude(op, status, leased, now_ms);
}

void gorge_fill_reply(struct gorge_op *op, const struct gorge_l2_result *r, uint64_t now_ms) {
  if (r->status == GORGE_STORED) {
    publish(op, r->version, false, now_ms);
  } else if (r->status == GORGE_REFUSED) {
    const gorge_cache *c = op->cache;
    gorge_count(op->cache, GORGE_COUNT_REFUSED_FILLS);
    /* Something came after its lease. The caller has the loader's value all the same, and nobody here goes back to what was before. */
    gorge_l1_invalidate(c->zone, &c->process->owner, &op->key, op->since + 1, NULL);
    conclude(op, GORGE_REFUSED, false, now_ms);
  } else {
    gorge_count(op->cache, GORGE_COUNT_DROPPED_WRITES);
    bool leased = r->status == GORGE_ERR_REDIS || r->status == GORGE_ERR_TIMEOUT || r->status == GORGE_ERR_DOWN;
    publish(op, 0, leased, now_ms);
  }
}

static void observe_load(struct gorge_op *op) {
  gorge_cache *c = op->cache;
  gorge_count(c, GORGE_COUNT_LOADS);
  gorge_histogram_add(gorge_zone_histogram(c->zone, c->ns, c->process->owner.worker, GORGE_HIST_LOAD),
                      gorge_clock_us() - op->began_us);
}

bool gorge_store_valid(const gorge_cache *c, const struct gorge_store *s) {
  bool sized = (s->value != NULL || s->value_len == 0) && (!c->has_redis || s->l2_value != NULL || s->l2_len == 0);
  bool kinds = s->kind < GORGE_KINDS && (!c->has_redis || gorge_kind_for_redis(s->l2_kind));
  bool times = s->l1_ttl_ms > 0 && s->ttl_ms > 0; /* false for what is not a number */
  return sized && kinds && times && (s->tags == NULL || gorge_op_tags_valid(s->tags, s->tags_len));
}

int gorge_op_take_store(struct gorge_op *op, const struct gorge_store *store) {
  int status = gorge_blob_copy(&op->store, store->value, store->value_len);
  if (status == GORGE_OK && op->cache->has_redis) {
    if (store->l2_value == store->value) {
      op->l2_store = op->store;
    } else {
      status = gorge_blob_copy(&op->l2_store, store->l2_value, store->l2_len);
    }
  }
  op->read.kind = store->kind;
  op->store_kind = store->l2_kind;
  op->span = gorge_store_span(store);
  return status;
}

/*
 * Tags that only the loader knew. On this host nothing that they could have missed has happened if the global word, which every
 * invalidation of a tag changes before the generation and after it, is still the one from before the loader; Redis compares versions.
 */
static int take_late_tags(struct gorge_op *op, const struct gorge_store *store) {
  const gorge_cache *c = op->cache;
  int status = gorge_op_set_tags(op, store->tags, store->tags_len);
  if (status != GORGE_OK) {
    return status;
  }
  struct gorge_snapshot now;
  gorge_l1_snapshot(c->zone, &op->key, op->tags, op->ntags, &now);
  op->snapshot.ntags = now.ntags;
  memcpy(op->snapshot.tag_cell, now.tag_cell, sizeof now.tag_cell);
  memcpy(op->snapshot.tag_gen, now.tag_gen, sizeof now.tag_gen);
  /*
   * An invalidation whose new generation is among those just read shows in the word: its first addition there comes before the
   * release of the generation, whose acquire was in the snapshot. acquire: partner of its last addition, as in gorge_stamps_global.
   */
  op->elsewhere = __atomic_load_n(&c->words->global, __ATOMIC_ACQUIRE) != op->key.global;
  op->late_tags = true;
  return GORGE_OK;
}

/* Nobody but this host is to have the value: stored from where it lies, without a copy. */
static void store_here(struct gorge_op *op, const struct gorge_store *store, uint64_t now_ms) {
  op->store = (struct gorge_blob){(char *)(uintptr_t)store->value, store->value_len};
  op->read.kind = store->kind;
  op->span = gorge_store_span(store);
  publish(op, 0, false, now_ms);
  op->store = (struct gorge_blob){NULL, 0};
}

void gorge_fill_store(struct gorge_op *op, const struct gorge_store *store, uint64_t now_ms) {
  bool here = op->l2_token == 0 && !op->unleased && store->tags == NULL;
  observe_load(op);
  if (here) {
    store_here(op, store, now_ms);
  } else if (gorge_op_take_store(op, store) != GORGE_OK ||
             (store->tags != NULL && take_late_tags(op, store) != GORGE_OK)) {
    conclude(op, GORGE_ERR_MEMORY, true, now_ms);
  } else if (op->unleased) {
    gorge_op_end(op, GORGE_REFUSED);
  } else if (op->l2_token == 0) {
    publish(op, 0, false, now_ms);
  } else {
    op->state = GORGE_OP_FILL;
    op->status = GORGE_PENDING;
    int status = gorge_remote_send(op, GORGE_L2_FILL, now_ms);
    if (status != GORGE_OK) {
      gorge_count(op->cache, GORGE_COUNT_DROPPED_WRITES);
      publish(op, 0, true, now_ms);
    }
  }
}

void gorge_fill_give_up(struct gorge_op *op, int outcome, uint64_t now_ms) {
  if (!op->unrun) {
    observe_load(op);
  }
  if (outcome == GORGE_FAILED && !op->unrun) {
    gorge_count(op->cache, GORGE_COUNT_LOAD_ERRORS);
    if (op->refresh) {
      gorge_refresh_failed(op, now_ms);
    }
  }
  gorge_fill_finish_flight(op, outcome, now_ms);
  op->status = outcome;
  if (!gorge_fill_release(op, now_ms)) {
    op->state = GORGE_OP_DONE;
  }
}

void gorge_fill_unleased(struct gorge_op *op) {
  op->state = GORGE_OP_RUN;
  op->status = GORGE_LEASE;
  op->unleased = true;
  op->began_us = gorge_clock_us();
}
