/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: what each layer holds of a key. */
#include <string.h>

#include "api/explain.h"
#include "base/clock.h"
#include "drive/control.h"
#include "engine/engine.h"

_Static_assert(sizeof((struct gorge_tag_look *)0)->name > GORGE_TAG_MAX, "a name fits, with its NUL");

void gorge_explain_zone(const struct gorge_zone *zone, uint32_t ns, const char *key, uint32_t key_len, uint32_t worker,
                        uint64_t now_ms, struct gorge_host_look *out) {
  const struct gorge_words *words = gorge_zone_words(zone, ns);
  struct gorge_key k;
  bool held;
  memset(out, 0, sizeof *out);
  gorge_key_init(zone, ns, key, key_len, &k);
  /* acquire: partner of set_fresh in drive/control_contact.c, as for every read of L1 */
  out->fresh_until_ms = (double)__atomic_load_n(&words->fresh_until_ms, __ATOMIC_ACQUIRE);
  out->epoch = __atomic_load_n(&words->epoch, __ATOMIC_RELAXED); /* for people */
  out->now_ms = (double)now_ms;
  uint64_t lag_ms = gorge_control_lag(zone, ns, now_ms, &held);
  out->lag_ms = lag_ms == UINT64_MAX ? -1.0 : (double)lag_ms;
  out->held = held;
  gorge_l1_examine(zone, &k, now_ms, &out->l1);
  gorge_flight_look(zone, &k, worker, now_ms, &out->flight);
}

int gorge_explain_host(gorge_cache *cache, const char *key, uint32_t key_len, struct gorge_host_look *out) {
  if (key_len == 0 || key_len > GORGE_KEY_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  bool entered = cache->generation == gorge_process_generation() && cache->process != NULL;
  uint64_t now_ms = gorge_cache_now(cache);
  gorge_explain_zone(cache->zone, cache->ns, key, key_len, entered ? cache->process->owner.worker : GORGE_WORKERS,
                     now_ms, out);
  out->origin_refuses = gorge_breaker_refuses(cache->origin_breaker, &cache->origin_config, now_ms);
  return GORGE_OK;
}

int gorge_explain_start(gorge_cache *cache, const char *key, uint32_t key_len, const char *tags, uint32_t tags_len,
                        uint64_t *op) {
  uint64_t now_ms = gorge_clock_ms();
  struct gorge_op *o;
  if (op != NULL) {
    *op = 0;
  }
  if (key_len == 0) {
    return GORGE_ERR_ARGUMENT;
  }
  int status = gorge_cache_ready(cache, false);
  if (status == GORGE_OK) {
    status = gorge_op_create(cache, key, key_len, tags, tags_len, &o);
  }
  if (status != GORGE_OK) {
    return status;
  }
  status = gorge_explain_allowed(o, now_ms);
  if (status != GORGE_OK || op == NULL) {
    gorge_op_destroy(o);
    return status;
  }
  *op = o->id;
  gorge_explain_ask(o, now_ms);
  return o->status;
}

int gorge_explain_take(gorge_cache *cache, uint64_t op, struct gorge_l2_look *out) {
  const struct gorge_op *o = gorge_op_find(cache, op);
  if (o == NULL || o->status != GORGE_OK || o->value.len != sizeof *out) {
    return GORGE_ERR_ARGUMENT;
  }
  memcpy(out, o->value.ptr, sizeof *out);
  return GORGE_OK;
}
