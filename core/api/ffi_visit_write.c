/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: writes of somebody from outside. */
#include <string.h>

#include "api/visitor.h"
#include "base/clock.h"
#include "engine/engine.h"
#include "shm/events.h"
#include "sync/mailbox.h"
#include "sync/wake.h"

int gorge_visit_ask(const gorge_visitor *visitor, uint32_t ns, int what, const char *name, uint32_t len,
                    uint32_t timeout_ms, uint64_t *ticket) {
  if ((visitor->flags & GORGE_VISIT_MAIL) == 0) {
    return GORGE_ERR_ARGUMENT;
  }
  return gorge_mail_send(visitor->zone, (enum gorge_forget_what)what, ns, name, len, gorge_clock_ms(), timeout_ms,
                         ticket);
}

int gorge_visit_answer(const gorge_visitor *visitor, uint64_t ticket, char *text, uint32_t size) {
  return (visitor->flags & GORGE_VISIT_MAIL) == 0 || size == 0
             ? GORGE_ERR_ARGUMENT
             : gorge_mail_fetch(visitor->zone, ticket, gorge_clock_ms(), text, size);
}

void gorge_visit_cancel(const gorge_visitor *visitor, uint64_t ticket) {
  if ((visitor->flags & GORGE_VISIT_MAIL) != 0) {
    gorge_mail_cancel(visitor->zone, ticket);
  }
}

void gorge_visit_wake(const gorge_visitor *visitor) {
  struct gorge_worker_set all;
  memset(&all, 0xff, sizeof all);
  gorge_wake_send(visitor->zone, &all, UINT32_MAX, -1);
}

uint32_t gorge_visit_listeners(const gorge_visitor *visitor) { return gorge_owner_count_control(visitor->zone); }

int gorge_visit_forget(gorge_visitor *visitor, uint32_t ns, int what, const char *name, uint32_t len) {
  enum gorge_forget_what kind = (enum gorge_forget_what)what;
  struct gorge_owner owner;
  bool named = kind == GORGE_FORGET_KEY   ? len >= 1 && len <= GORGE_KEY_MAX
               : kind == GORGE_FORGET_TAG ? len >= 1 && len <= GORGE_TAG_MAX
                                          : kind == GORGE_FORGET_ALL && len == 0;
  if ((visitor->flags & GORGE_VISIT_ALL) == 0 || ns >= GORGE_NAMESPACES || !named) {
    return GORGE_ERR_ARGUMENT;
  }
  int status = gorge_owner_claim(visitor->zone, GORGE_THREAD_MAIN, &owner);
  if (status != GORGE_OK) {
    return status;
  }
  visitor->owned = true;
  gorge_coherence_forget(visitor->zone, &owner, ns, kind, name, len, 0);
  /* relaxed: see gorge_count */
  __atomic_fetch_add(&gorge_zone_counters(visitor->zone, ns, owner.worker)[gorge_coherence_counter(kind)], 1,
                     __ATOMIC_RELAXED);
  gorge_events_add(visitor->zone, gorge_coherence_event(kind), GORGE_EVENT_HERE, ns, 0, name, len, gorge_clock_ms());
  gorge_owner_release(visitor->zone, &owner);
  return GORGE_OK;
}
