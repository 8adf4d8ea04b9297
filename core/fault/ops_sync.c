/* SPDX-License-Identifier: MIT */
/* Owners, wake-ups, roles and namespaces. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "fault/peer.h"
#include "sync/role.h"

enum { LIVING = 2 /* peer and sleeper */ };

/* --- owners --- */

static void free_slot(struct fault_scene *s) { (void)s; }
static void dead_slot(struct fault_scene *s) { fault_dead_owner(s); }

static void entered(struct fault_scene *s, struct fault_victim *v) { v->l1 = l1_enter(&s->l1); }

static void claim(struct fault_scene *s, struct fault_victim *v) {
  v->status = gorge_owner_claim(s->l1.zone, GORGE_THREAD_MAIN, &v->l1.owner);
}
static void claim_control(struct fault_scene *s, struct fault_victim *v) {
  struct gorge_owner control;
  v->status = gorge_owner_claim(s->l1.zone, GORGE_THREAD_CONTROL, &control);
}
static void release(struct fault_scene *s, struct fault_victim *v) {
  gorge_owner_release(s->l1.zone, &v->l1.owner);
  v->status = GORGE_OK;
}

static const char *start_third(struct fault_scene *s) {
  fault_begin(s);
  s->third = fault_live_owner(s, &s->third_id);
  s->slow = NULL; /* starting a process takes its time */
  uint32_t worker = gorge_owner_worker(s->third_id);
  if (worker == s->l1.owner.worker || worker == gorge_owner_worker(s->sleeper)) {
    return "one slot for two";
  }
  return gorge_owner_alive(s->l1.zone, s->third_id) ? NULL : "who has claimed a slot is not alive";
}

static const char *all_alive(struct fault_scene *s, uint32_t count) {
  if (!gorge_owner_alive(s->l1.zone, s->l1.owner.id) || !gorge_owner_alive(s->l1.zone, s->sleeper)) {
    return "the living are taken for dead";
  }
  uint32_t is = gorge_owner_count(s->l1.zone);
  return is == count ? NULL : fault_complain(s, "%u are alive instead of %u", is, count);
}

/* Its slot, if it had one, is dead: another one can claim. */
static const char *owner_dead(struct fault_scene *s) {
  FAULT_TRY(all_alive(s, LIVING));
  if (s->said->l1.owner.id != s->l1.owner.id && gorge_owner_alive(s->l1.zone, s->said->l1.owner.id)) {
    return "the dead one is alive";
  }
  const char *wrong = start_third(s);
  if (wrong == NULL) {
    wrong = all_alive(s, LIVING + 1);
  }
  proc_kill(&s->third);
  return wrong != NULL ? wrong : all_alive(s, LIVING);
}

static const char *owner_meanwhile(struct fault_scene *s) {
  FAULT_TRY(start_third(s));
  return all_alive(s, gorge_owner_count(s->l1.zone)); /* the victim counts from some place on */
}

/* The victim has ended since, and with it its ownership. */
static const char *owner_late(struct fault_scene *s) {
  const char *wrong = s->said->status != GORGE_OK ? "it got no slot"
                      : s->said->l1.owner.id != 0 && s->said->l1.owner.worker == gorge_owner_worker(s->third_id)
                          ? "one slot for two"
                          : all_alive(s, LIVING + 1);
  proc_kill(&s->third);
  return wrong;
}

static const char *ok(struct fault_scene *s) {
  return s->said->status == GORGE_OK ? NULL : fault_complain(s, "undisturbed, its status is %d", s->said->status);
}

/* --- wake-ups --- */

static struct gorge_worker_set only(uint32_t worker) {
  struct gorge_worker_set set = {{0}};
  set.bits[worker / 64] |= (uint64_t)1 << worker % 64;
  return set;
}

static void send_to(struct fault_scene *s, uint32_t worker) {
  struct gorge_worker_set set = only(worker);
  fault_begin(s);
  gorge_wake_send(s->l1.zone, &set, GORGE_WORKERS, -1);
  fault_end(s, "a wake-up");
}

static void wake_open(struct fault_scene *s, struct fault_victim *v) {
  v->fd = gorge_wake_open(s->l1.zone, v->l1.owner.worker);
}
static void opened(struct fault_scene *s, struct fault_victim *v) {
  entered(s, v);
  wake_open(s, v);
  CHILD_CHECK(v->fd >= 0);
}
static void wake_close(struct fault_scene *s, struct fault_victim *v) {
  gorge_wake_close(s->l1.zone, v->l1.owner.worker, v->fd);
}
static void wake_send(struct fault_scene *s, struct fault_victim *v) {
  struct gorge_worker_set set = only(s->l1.owner.worker);
  gorge_wake_send(s->l1.zone, &set, v->l1.owner.worker, -1);
}

/* Whoever has the slot of a dead worker next is woken; so is the peer. */
static const char *wake_works(struct fault_scene *s) {
  uint32_t worker = s->said->l1.owner.worker;
  send_to(s, worker);
  int fd = gorge_wake_open(s->l1.zone, worker);
  if (fd < 0) {
    return "no socket for the next worker";
  }
  send_to(s, worker);
  bool woken = gorge_wake_drain(fd);
  gorge_wake_close(s->l1.zone, worker, fd);
  gorge_wake_drain(s->wake_fd);
  send_to(s, s->l1.owner.worker);
  return woken && gorge_wake_drain(s->wake_fd) ? NULL : "a worker is not woken";
}

/* The slot has another worker while this one still closes. */
static const char *wake_meanwhile(struct fault_scene *s) {
  s->third_fd = gorge_wake_open(s->l1.zone, s->said->l1.owner.worker);
  return s->third_fd >= 0 ? NULL : "no socket";
}
static const char *wake_late(struct fault_scene *s) {
  send_to(s, s->said->l1.owner.worker);
  bool woken = gorge_wake_drain(s->third_fd);
  close(s->third_fd);
  return woken ? NULL : "the next worker of the slot is not woken";
}
static const char *was_sent(struct fault_scene *s) {
  return gorge_wake_drain(s->wake_fd) ? NULL : "undisturbed, it does not wake";
}
static const char *was_opened(struct fault_scene *s) {
  return s->said->fd >= 0 ? NULL : "undisturbed, it has no socket";
}

/* --- roles --- */

static struct gorge_role *role_of(const struct fault_scene *s) { return gorge_zone_subscriber_role(s->l1.zone, 0); }
static uint32_t holder(const struct fault_scene *s) { return (uint32_t)(role_of(s)->holder >> 32); }

static void of_sleeper(struct fault_scene *s) {
  assert_true(gorge_role_hold(s->l1.zone, role_of(s), s->sleeper, 0, FAULT_LEASE_MS)); /* overdue by now */
}
static void holding(struct fault_scene *s, struct fault_victim *v) {
  entered(s, v);
  CHILD_CHECK(gorge_role_hold(s->l1.zone, role_of(s), v->l1.owner.id, FAULT_NOW_MS, FAULT_LEASE_MS));
}
static void hold(struct fault_scene *s, struct fault_victim *v) {
  v->status =
      gorge_role_hold(s->l1.zone, role_of(s), v->l1.owner.id, FAULT_NOW_MS, FAULT_LEASE_MS) ? GORGE_OK : GORGE_REFUSED;
}
static void drop(struct fault_scene *s, struct fault_victim *v) {
  gorge_role_drop(role_of(s), v->l1.owner.id);
  v->status = GORGE_OK;
}

static bool peer_holds(struct fault_scene *s, uint64_t now_ms) {
  fault_begin(s);
  bool held = gorge_role_hold(s->l1.zone, role_of(s), s->l1.owner.id, now_ms, FAULT_LEASE_MS);
  fault_end(s, "a role");
  return held;
}
static const char *role_dead(struct fault_scene *s) {
  uint64_t fence = gorge_role_fence(role_of(s));
  if (!peer_holds(s, FAULT_NOW_MS)) {
    return "the role of a dead one is not to be had";
  }
  return gorge_role_fence(role_of(s)) > fence ? NULL : "the fence has not grown";
}
static const char *role_meanwhile(struct fault_scene *s) {
  s->was_owned = holder(s) == s->said->l1.owner.id;
  return peer_holds(s, FAULT_NOW_MS + FAULT_LEASE_MS + 1) ? NULL : "the role is not taken over";
}
static const char *role_late(struct fault_scene *s) {
  return holder(s) != s->l1.owner.id ? "the role changed hands without need" : NULL;
}
static const char *hold_late(struct fault_scene *s) {
  FAULT_TRY(role_late(s));
  return s->was_owned || s->said->status == GORGE_REFUSED ? NULL : "two hold the role";
}

/* --- namespaces --- */

static void name(struct fault_scene *s, struct fault_victim *v) {
  v->status = gorge_zone_namespace(s->l1.zone, "a namespace of some length", 26, &v->ns);
}
static const char *same_namespace(struct fault_scene *s) {
  uint32_t one, other, again;
  if (gorge_zone_namespace(s->l1.zone, "a namespace of some length", 26, &one) != GORGE_OK ||
      gorge_zone_namespace(s->l1.zone, "another", 7, &other) != GORGE_OK ||
      gorge_zone_namespace(s->l1.zone, "a namespace of some length", 26, &again) != GORGE_OK) {
    return "no namespace is to be had";
  }
  if (one != again || one == other || (s->said->ended && s->said->ns != one)) {
    return "a namespace has two numbers, or a number has two namespaces";
  }
  return NULL;
}

const struct fault_op fault_ops_sync[] = {
    {.name = "claim a slot",
     .flags = FAULT_IDENTITY,
     .prepare = free_slot,
     .act = claim,
     .done = ok,
     .dead = owner_dead,
     .meanwhile = owner_meanwhile,
     .late = owner_late},
    {.name = "claim a dead one's slot",
     .flags = FAULT_IDENTITY,
     .prepare = dead_slot,
     .act = claim,
     .done = ok,
     .dead = owner_dead,
     .meanwhile = owner_meanwhile,
     .late = owner_late},
    {.name = "claim a control thread",
     .flags = FAULT_IDENTITY,
     .ready = entered,
     .act = claim_control,
     .done = ok,
     .dead = owner_dead,
     .meanwhile = owner_meanwhile,
     .late = owner_late},
    {.name = "release a slot",
     .flags = FAULT_IDENTITY,
     .ready = entered,
     .act = release,
     .done = ok,
     .dead = owner_dead,
     .meanwhile = owner_meanwhile,
     .late = owner_late},
    {.name = "open a wake-up socket", .ready = entered, .act = wake_open, .done = was_opened, .dead = wake_works},
    {.name = "close a wake-up socket",
     .ready = opened,
     .act = wake_close,
     .dead = wake_works,
     .meanwhile = wake_meanwhile,
     .late = wake_late},
    {.name = "wake", .ready = entered, .act = wake_send, .done = was_sent, .dead = wake_works},
    {.name = "take a role",
     .ready = entered,
     .act = hold,
     .done = ok,
     .dead = role_dead,
     .meanwhile = role_meanwhile,
     .late = hold_late},
    {.name = "take an overdue role",
     .prepare = of_sleeper,
     .ready = entered,
     .act = hold,
     .done = ok,
     .dead = role_dead,
     .meanwhile = role_meanwhile,
     .late = hold_late},
    {.name = "renew a role",
     .ready = holding,
     .act = hold,
     .done = ok,
     .dead = role_dead,
     .meanwhile = role_meanwhile,
     .late = role_late},
    {.name = "drop a role",
     .ready = holding,
     .act = drop,
     .done = ok,
     .dead = role_dead,
     .meanwhile = role_meanwhile,
     .late = role_late},
    {.name = "find a namespace",
     .act = name,
     .done = same_namespace,
     .dead = same_namespace,
     .meanwhile = same_namespace,
     .late = same_namespace},
};
const uint32_t fault_ops_sync_count = sizeof fault_ops_sync / sizeof *fault_ops_sync;
