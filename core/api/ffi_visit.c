/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: looking at a zone from outside. */
#include "api/visitor.h"

#include <stdlib.h>
#include <string.h>

#include "api/explain.h"
#include "api/stats.h"
#include "base/clock.h"
#include "l1/uses.h"
#include "resil/breakers.h"
#include "shm/attach.h"
#include "shm/events.h"
#include "shm/find.h"
#include "sync/owner.h"

_Static_assert((int)GORGE_NAMESPACES_MAX == (int)GORGE_NAMESPACES, "what Lua is told is what zones have");
_Static_assert((int)GORGE_NODE_BREAKERS_MAX == (int)GORGE_BREAKERS, "all of a table fit");
_Static_assert(sizeof((struct gorge_node_breaker *)0)->host == sizeof((struct gorge_breaker_look *)0)->host,
               "so do names");
_Static_assert(sizeof((struct gorge_namespace *)0)->name > GORGE_NAME_MAX, "a name fits, with its NUL");
_Static_assert(sizeof((struct gorge_found *)0)->name > GORGE_NAME_MAX, "a name fits, with its NUL");

int gorge_find_zones(struct gorge_found *out, uint32_t max, uint32_t *count, uint32_t *hidden) {
  return gorge_zone_find(out, max, count, hidden);
}

int gorge_visit(const char *path, uint32_t flags, gorge_visitor **out, char *err, uint32_t err_size) {
  gorge_visitor *o = calloc(1, sizeof *o);
  *out = NULL;
  if (o == NULL) {
    return GORGE_ERR_MEMORY;
  }
  unsigned how = ((flags & GORGE_VISIT_COPY) != 0 ? GORGE_ATTACH_COPY : 0) |
                 ((flags & GORGE_VISIT_MAIL) != 0 ? GORGE_ATTACH_MAIL : 0) |
                 ((flags & GORGE_VISIT_ALL) != 0 ? GORGE_ATTACH_ALL : 0);
  o->flags = flags;
  int status = gorge_zone_attach(path, how, &o->zone, err, err_size);
  if (status != GORGE_OK) {
    free(o);
    return status;
  }
  *out = o;
  return GORGE_OK;
}

void gorge_visit_end(gorge_visitor *visitor) {
  if (visitor != NULL) {
    if (!visitor->owned) {
      gorge_zone_detach(visitor->zone);
    }
    free(visitor);
  }
}

const char *gorge_visited_zone(const gorge_visitor *visitor) { return visitor->zone->name; }

uint32_t gorge_visit_namespaces(const gorge_visitor *visitor, struct gorge_namespace *out) {
  uint32_t count = 0;
  for (uint32_t ns = 0; ns < GORGE_NAMESPACES; ns++) {
    struct gorge_namespace *n = &out[count];
    memset(n, 0, sizeof *n);
    n->number = ns;
    count += gorge_zone_namespace_at(visitor->zone, ns, n->name, &n->uses);
  }
  return count;
}

int gorge_visit_stats(const gorge_visitor *visitor, uint32_t ns, struct gorge_stats *out) {
  char name[GORGE_NAME_MAX + 1];
  uint32_t uses;
  if (!gorge_zone_namespace_at(visitor->zone, ns, name, &uses)) {
    return GORGE_MISS;
  }
  gorge_stats_zone(visitor->zone, ns, out);
  out->redis_state = (uses & GORGE_NAMESPACE_REDIS) != 0 ? 0 : GORGE_STATS_NO_REDIS;
  return GORGE_OK;
}

uint32_t gorge_visit_node_breakers(const gorge_visitor *visitor, uint32_t ns, struct gorge_node_breaker *out) {
  uint64_t now_ms = gorge_clock_ms();
  struct gorge_breaker_look look;
  uint32_t count = 0;
  for (int i = 0; i < GORGE_BREAKERS; i++) {
    if (gorge_breakers_look(gorge_zone_breakers(visitor->zone), i, ns, now_ms, &look)) {
      struct gorge_node_breaker *b = &out[count++];
      *b = (struct gorge_node_breaker){.port = look.port, .breaker = look.state};
      memcpy(b->host, look.host, sizeof look.host);
    }
  }
  return count;
}

uint32_t gorge_visit_workers(const gorge_visitor *visitor) { return gorge_owner_count(visitor->zone); }

static bool make_key(const gorge_visitor *visitor, uint32_t ns, const char *ptr, uint32_t len, struct gorge_key *key) {
  if (ns >= GORGE_NAMESPACES || len == 0 || len > GORGE_KEY_MAX) {
    return false;
  }
  gorge_key_init(visitor->zone, ns, ptr, len, key);
  return true;
}

int gorge_visit_peek(const gorge_visitor *visitor, uint32_t ns, const char *key, uint32_t key_len,
                     struct gorge_read *out) {
  struct gorge_key k;
  return make_key(visitor, ns, key, key_len, &k) ? gorge_l1_read(visitor->zone, &k, gorge_clock_ms(), false, out)
                                                 : GORGE_MISS;
}

uint32_t gorge_visit_tags(const gorge_visitor *visitor, uint32_t ns, const char *key, uint32_t key_len, char *buf,
                          uint32_t buf_size) {
  struct gorge_key k;
  uint32_t len = 0;
  return make_key(visitor, ns, key, key_len, &k) && gorge_l1_tags(visitor->zone, &k, buf, buf_size, &len) > 0 ? len : 0;
}

uint32_t gorge_visit_uses(const gorge_visitor *visitor, struct gorge_uses_cursor *cursor, struct gorge_hot *out,
                          uint32_t max) {
  return gorge_l1_uses(visitor->zone, cursor, gorge_clock_ms(), out, max);
}

uint32_t gorge_visit_frequent(const gorge_visitor *visitor, uint64_t *cursor, uint64_t slots, struct gorge_hot *out,
                              uint32_t max) {
  return gorge_l1_frequent(visitor->zone, cursor, slots, gorge_clock_ms(), out, max);
}

void gorge_visit_events_begin(const gorge_visitor *visitor, struct gorge_events_cursor *cursor) {
  *cursor = (struct gorge_events_cursor){.next = gorge_events_next(visitor->zone)};
}

uint32_t gorge_visit_events(const gorge_visitor *visitor, struct gorge_events_cursor *cursor, struct gorge_event *out,
                            uint32_t max) {
  return gorge_events_read(visitor->zone, cursor, out, max);
}

int gorge_visit_explain(const gorge_visitor *visitor, uint32_t ns, const char *key, uint32_t key_len,
                        struct gorge_host_look *out) {
  if (ns >= GORGE_NAMESPACES || key_len == 0 || key_len > GORGE_KEY_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  gorge_explain_zone(visitor->zone, ns, key, key_len, GORGE_WORKERS, gorge_clock_ms(), out);
  return GORGE_OK;
}
