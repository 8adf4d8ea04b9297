/* SPDX-License-Identifier: MIT */
/* The skin of the library: implements gorge_ffi.h over engine and l1. */
#include <string.h>

#include "base/clock.h"
#include "base/floats.h"
#include "base/hash.h"
#include "engine/remote.h"
#include "l1/uses.h"
#include "sync/role.h"

/* ---- library ---- */

int gorge_abi_version(void) { return GORGE_ABI_VERSION; }

uint32_t gorge_abi_sizeof(uint32_t which) {
  static const uint32_t sizes[] = {
      sizeof(struct gorge_words),     sizeof(struct gorge_read),    sizeof(struct gorge_l0_record),
      sizeof(struct gorge_config),    sizeof(struct gorge_fetch),   sizeof(struct gorge_store),
      sizeof(struct gorge_stats),     sizeof(struct gorge_view),    sizeof(struct gorge_found),
      sizeof(struct gorge_namespace), sizeof(struct gorge_hot),     sizeof(struct gorge_event),
      sizeof(struct gorge_host_look), sizeof(struct gorge_l2_look), sizeof(struct gorge_node_breaker),
  };
  return which < sizeof sizes / sizeof sizes[0] ? sizes[which] : 0;
}

const char *gorge_status_phrase(int status) { return gorge_status_text(status); }

double gorge_now_ms(void) { return (double)gorge_clock_ms(); }

double gorge_now_us(void) { return (double)gorge_clock_us(); }

double gorge_random_unit(void) { return gorge_process_random(); }

uint64_t gorge_checksum(const char *ptr, uint64_t len_bytes, uint64_t seed) { return gorge_hash(ptr, len_bytes, seed); }

void gorge_settle_floats(void *bytes, const uint32_t *offsets, uint32_t ndoubles, uint32_t nfloats) {
  gorge_floats_settle(bytes, offsets, ndoubles, nfloats);
}

/* ---- caches ---- */

int gorge_cache_create(const struct gorge_config *config, gorge_cache **out, char *err, uint32_t err_size) {
  return gorge_cache_make(config, out, err, err_size);
}

void gorge_cache_close(gorge_cache *cache) { gorge_cache_end(cache); }

void gorge_cache_destroy(gorge_cache *cache) {
  if (cache != NULL) {
    gorge_cache_unmake(cache);
  }
}

int gorge_cache_enter(gorge_cache *cache, int threads) { return gorge_cache_ready(cache, threads != 0); }

void gorge_cache_clock(gorge_cache *cache, const uint64_t *now_ms) { cache->clock = now_ms; }

const struct gorge_words *gorge_cache_words(gorge_cache *cache) { return cache->words; }

uint64_t *gorge_cache_counters(gorge_cache *cache) {
  return gorge_cache_ready(cache, false) == GORGE_OK ? cache->counters : NULL;
}

/* ---- L1 ---- */

int gorge_get(gorge_cache *cache, const char *key, uint32_t key_len, struct gorge_read *out) {
  if (cache->generation != gorge_process_generation()) {
    int status = gorge_cache_ready(cache, false);
    if (status != GORGE_OK) {
      return status;
    }
  }
  if (key_len == 0 || key_len > GORGE_KEY_MAX) {
    return GORGE_MISS;
  }
  uint64_t now_ms = cache->clock != NULL ? *cache->clock : gorge_clock_ms();
  int status = gorge_l1_get(&cache->reader, key, key_len, now_ms, out);
  if (status != GORGE_SPACE) {
    gorge_count_main(cache, status != GORGE_MISS ? GORGE_COUNT_L1_HITS : GORGE_COUNT_L1_MISSES);
  }
  if (status == GORGE_HIT) {
    /* relaxed: see gorge_count_main */
    uint64_t number = __atomic_load_n(&cache->counters[GORGE_COUNT_L1_HITS], __ATOMIC_RELAXED);
    gorge_l1_recent(cache->counters, number, out->slot);
  }
  return status;
}

int gorge_peek(gorge_cache *cache, const char *key, uint32_t key_len, struct gorge_read *out) {
  struct gorge_key k;
  gorge_key_init(cache->zone, cache->ns, key, key_len, &k);
  int status = gorge_l1_look(cache->zone, &k, gorge_cache_now(cache), false, true, out);
  return status == GORGE_DUE ? GORGE_HIT : status;
}

int gorge_stale(gorge_cache *cache, const char *key, uint32_t key_len, double stale_ms, struct gorge_read *out) {
  struct gorge_key k;
  uint64_t now_ms = gorge_cache_now(cache);
  gorge_key_init(cache->zone, cache->ns, key, key_len, &k);
  int status = gorge_l1_look(cache->zone, &k, now_ms, true, true, out);
  if (status == GORGE_STALE && (double)now_ms - out->life.ends_ms > stale_ms) {
    return GORGE_MISS;
  }
  return status == GORGE_DUE ? GORGE_HIT : status;
}

uint32_t gorge_peek_tags(gorge_cache *cache, const char *key, uint32_t key_len, char *buf, uint32_t buf_size) {
  struct gorge_key k;
  uint32_t len = 0;
  gorge_key_init(cache->zone, cache->ns, key, key_len, &k);
  return gorge_l1_tags(cache->zone, &k, buf, buf_size, &len) > 0 ? len : 0;
}

int gorge_drop(gorge_cache *cache, const char *key, uint32_t key_len) {
  if (key_len == 0 || key_len > GORGE_KEY_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  int status = gorge_cache_ready(cache, false);
  if (status == GORGE_OK) {
    struct gorge_key k;
    gorge_key_init(cache->zone, cache->ns, key, key_len, &k);
    gorge_l1_invalidate(cache->zone, &cache->process->owner, &k, 0, NULL);
  }
  return status;
}

void gorge_note_uses(struct gorge_view *view) {
  uint64_t n = view->used < GORGE_USES_MAX ? view->used : GORGE_USES_MAX;
  for (uint64_t i = 0; i < n; i++) {
    const struct gorge_l0_record *record = &view->records[(uint64_t)view->uses[i]];
    gorge_l1_touch_frequency(record->slot, record->word);
  }
  view->used = 0;
}

/* ---- operations ---- */

int gorge_fetch_start(gorge_cache *cache, const struct gorge_fetch *rq, uint64_t *op) {
  *op = 0;
  if (rq->key_len == 0 || rq->lease_ms == 0) {
    return GORGE_ERR_ARGUMENT;
  }
  int status = gorge_cache_ready(cache, false);
  struct gorge_op *o;
  if (status == GORGE_OK) {
    status = gorge_op_create(cache, rq->key, rq->key_len, rq->tags, rq->tags_len, &o);
  }
  if (status != GORGE_OK) {
    return status;
  }
  uint64_t now_ms = gorge_clock_ms();
  o->lease_ms = rq->lease_ms;
  o->deadline_ms = now_ms + rq->wait_ms;
  o->tells = (rq->flags & GORGE_FETCH_TELL) != 0;
  *op = o->id;
  o->refresh = (rq->flags & GORGE_FETCH_REFRESH) != 0;
  o->stale = (rq->flags & GORGE_FETCH_STALE) != 0;
  o->stale_ms = rq->stale_ms > 0 ? gorge_whole_ms(rq->stale_ms) : 0;
  if ((rq->flags & GORGE_FETCH_LOOKUP) != 0) {
    gorge_fetch_lookup(o, now_ms);
  } else {
    gorge_fetch_enter(o, now_ms);
  }
  return o->status;
}

/* Hands bytes over; GORGE_SPACE tells how many there are. */
static int hand(struct gorge_read *out, const char *ptr, uint32_t len, int status) {
  out->len = len;
  if (len > out->buf_size) {
    return GORGE_SPACE;
  }
  if (len > 0) {
    memcpy(out->buf, ptr, len);
  }
  return status;
}

int gorge_op_status(gorge_cache *cache, uint64_t op, struct gorge_read *out) {
  const struct gorge_op *o = gorge_op_find(cache, op);
  if (o == NULL) {
    return GORGE_ERR_ARGUMENT;
  }
  if (out == NULL || o->status == GORGE_PENDING) {
    return o->status;
  }
  char *buf = out->buf;
  uint32_t buf_size = out->buf_size;
  *out = o->read;
  out->buf = buf;
  out->buf_size = buf_size;
  if (o->status == GORGE_HIT || o->status == GORGE_STALE) {
    return hand(out, o->value.ptr, o->value.len, o->status);
  }
  return hand(out, o->error, o->error_len, o->status);
}

uint32_t gorge_op_wait_ms(gorge_cache *cache, uint64_t op) {
  const struct gorge_op *o = gorge_op_find(cache, op);
  if (o == NULL || o->status != GORGE_PENDING) {
    return 0;
  }
  uint32_t slice = cache->lock_sleep_ms;
  if (o->listed) {
    uint64_t now_ms = gorge_clock_ms();
    uint64_t wait = o->next_ms > now_ms ? o->next_ms - now_ms : 1;
    slice = wait < slice ? (uint32_t)wait : slice;
  }
  return slice > 0 && !gorge_remote_late(cache) ? slice : 1;
}

int gorge_op_elsewhere(gorge_cache *cache, uint64_t op) {
  const struct gorge_op *o = gorge_op_find(cache, op);
  return o != NULL && (o->state == GORGE_OP_FLIGHT || o->state == GORGE_OP_PARKED);
}

int gorge_fetch_run(gorge_cache *cache, uint64_t op) {
  struct gorge_op *o = gorge_op_find(cache, op);
  if (o == NULL || o->state != GORGE_OP_DONE || o->status != GORGE_ERR_TIMEOUT) {
    return GORGE_ERR_ARGUMENT;
  }
  gorge_fill_unleased(o);
  return GORGE_LEASE;
}

static struct gorge_op *running(gorge_cache *cache, uint64_t op) {
  struct gorge_op *o = gorge_op_find(cache, op);
  return o != NULL && o->state == GORGE_OP_RUN ? o : NULL;
}

int gorge_fetch_fill(gorge_cache *cache, uint64_t op, const struct gorge_store *store, struct gorge_read *out) {
  struct gorge_op *o = running(cache, op);
  if (o == NULL || !gorge_store_valid(cache, store)) {
    return GORGE_ERR_ARGUMENT;
  }
  gorge_fill_store(o, store, gorge_clock_ms());
  return gorge_op_status(cache, op, out);
}

int gorge_fetch_fail(gorge_cache *cache, uint64_t op, const char *err, uint32_t err_len) {
  struct gorge_op *o = running(cache, op);
  if (o == NULL) {
    return GORGE_ERR_ARGUMENT;
  }
  gorge_op_error(o, err, err_len);
  gorge_fill_give_up(o, GORGE_FAILED, gorge_clock_ms());
  return GORGE_OK;
}

int gorge_fetch_skip(gorge_cache *cache, uint64_t op) {
  struct gorge_op *o = running(cache, op);
  if (o == NULL) {
    return GORGE_ERR_ARGUMENT;
  }
  gorge_fill_give_up(o, GORGE_OK, gorge_clock_ms());
  return GORGE_OK;
}

int gorge_op_joinable(gorge_cache *cache, uint64_t op) {
  const struct gorge_op *o = gorge_op_find(cache, op);
  if (o == NULL || o->state == GORGE_OP_SYNC) {
    return o != NULL; /* SYNC: it has not begun to read */
  }
  if (o->flight.index != UINT32_MAX && o->flight.owner && !gorge_flight_owned(cache->zone, &o->flight)) {
    return 0; /* whoever fills now may have shown its value already */
  }
  /*
   * What was stored since the fetch began may be newer than what it brings, and gone from L1 again, or L1 does not answer: a caller that
   * comes later may have seen it (I4). Who does not share waits for the flight, and has the value from L1.
   * Any change of the global word counts: the tags of the value need not be those of the fetch.
   * acquire: partner of the release in gorge_l1_invalidate_tag.
   */
  return __atomic_load_n(&cache->words->global, __ATOMIC_ACQUIRE) == o->key.global &&
         gorge_l1_snapshot_unchanged(cache->zone, cache->ns, &o->snapshot);
}

void gorge_op_free(gorge_cache *cache, uint64_t op) {
  struct gorge_op *o = gorge_op_find(cache, op);
  if (o == NULL) {
    return;
  }
  gorge_op_unguard(o);
  o->waiter = NULL;
  switch (o->state) {
    case GORGE_OP_WRITE: gorge_write_leave(o, gorge_clock_ms()); /* fall through */
    case GORGE_OP_FILL:
    case GORGE_OP_RELEASE: o->detached = true; return; /* what was sent is carried out */
    case GORGE_OP_READ:
    case GORGE_OP_COMMIT:
      if (o->requested) {
        o->detached = true;
        return;
      }
      break;
    case GORGE_OP_LOOKUP: /* the breaker is to hear of the answer */
    case GORGE_OP_LEASE:  /* a lease may be granted yet: it is given back when the reply comes */
      o->detached = true;
      gorge_fetch_abandon(o);
      return;
    case GORGE_OP_RUN:
      if (o->refresh) {
        gorge_refresh_failed(o, gorge_clock_ms());
      }
      gorge_fetch_abandon(o);
      if (gorge_fill_release(o, gorge_clock_ms())) {
        o->detached = true;
        return;
      }
      break;
    default: gorge_fetch_abandon(o); break;
  }
  gorge_op_destroy(o);
}

/* A write's op: ended at once when Redis is not asked. */
static int start_write(struct gorge_op *o, uint64_t *op) {
  if (o->state == GORGE_OP_DONE && o->status == GORGE_OK) {
    gorge_op_destroy(o);
    *op = 0;
    return GORGE_OK;
  }
  *op = o->id;
  return o->status;
}

static int create_write(gorge_cache *cache, const char *key, uint32_t key_len, const char *tags, uint32_t tags_len,
                        struct gorge_op **o) {
  int status = gorge_cache_ready(cache, false);
  return status == GORGE_OK ? gorge_op_create(cache, key, key_len, tags, tags_len, o) : status;
}

int gorge_set_start(gorge_cache *cache, const struct gorge_store *store, uint64_t *op) {
  struct gorge_op *o;
  *op = 0;
  if (store->key_len == 0 || store->key_len > GORGE_KEY_MAX || !gorge_store_valid(cache, store)) {
    return GORGE_ERR_ARGUMENT;
  }
  if (!cache->has_redis) {
    int ready = gorge_cache_ready(cache, false);
    return ready == GORGE_OK ? gorge_write_put(cache, store, gorge_clock_ms()) : ready;
  }
  int status = create_write(cache, store->key, store->key_len, store->tags, store->tags_len, &o);
  if (status != GORGE_OK) {
    return status;
  }
  gorge_write_set(o, store, gorge_clock_ms());
  return start_write(o, op);
}

int gorge_delete_start(gorge_cache *cache, const char *key, uint32_t key_len, uint64_t *op) {
  struct gorge_op *o;
  *op = 0;
  if (key_len == 0) {
    return GORGE_ERR_ARGUMENT;
  }
  int status = create_write(cache, key, key_len, NULL, 0, &o);
  if (status != GORGE_OK) {
    return status;
  }
  gorge_write_delete(o, gorge_clock_ms());
  return start_write(o, op);
}

int gorge_invalidate_start(gorge_cache *cache, const char *tags, uint32_t tags_len, uint64_t *op) {
  struct gorge_op *o;
  *op = 0;
  if (tags_len == 0) {
    return GORGE_ERR_ARGUMENT;
  }
  int status = create_write(cache, "", 0, tags, tags_len, &o);
  if (status != GORGE_OK) {
    return status;
  }
  gorge_write_invalidate(o, gorge_clock_ms());
  return start_write(o, op);
}

uint32_t gorge_poll(gorge_cache *cache, uint64_t *ops, uint32_t max) {
  if (cache->generation != gorge_process_generation()) {
    return 0;
  }
  gorge_cache_turn(cache, gorge_clock_ms());
  return gorge_op_notices(cache, ops, max);
}

uint32_t gorge_pending(gorge_cache *cache) {
  return cache->generation == gorge_process_generation() ? cache->op_count - cache->lost_count : 0;
}
