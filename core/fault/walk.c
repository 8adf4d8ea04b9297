/* SPDX-License-Identifier: MIT */
#include "fault/walk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"

enum {
  ATTEMPTS = 6 /* a pause that comes each time is no matter of the scheduler's */
};

extern const char __executable_start; /* of the linker */

struct tally {
  uint64_t length, places, images, kills, repeated;
};

static uint64_t number_of(const char *name, uint64_t otherwise) {
  const char *text = getenv(name);
  return text != NULL && *text != '\0' ? strtoull(text, NULL, 0) : otherwise;
}

struct fault_extent fault_extent_of_environment(uint64_t places) {
  bool all = number_of("GORGE_FAULT_ALL", 0) != 0;
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  struct fault_extent x = {
      .seed = number_of("GORGE_FAULT_SEED", ((uint64_t)now.tv_sec ^ (uint64_t)now.tv_nsec) % 1000000),
      .places = all ? 0 : number_of("GORGE_FAULT_PLACES", places),
      .from = number_of("GORGE_FAULT_FROM", 0),
      .to = number_of("GORGE_FAULT_TO", UINT64_MAX),
      .chosen = all || !fault_wanted(&(struct fault_op){.name = ""}),
      .kills = all ? 16 : 2,

      .ways = (uint32_t)number_of("GORGE_FAULT_WAYS", all ? FAULT_WAYS : 1)};
  print_message("seed %llu, %s\n", (unsigned long long)x.seed, all ? "all places" : "a sample of the places");
  return x;
}

bool fault_wanted(const struct fault_op *op) {
  const char *name = getenv("GORGE_FAULT_OP");
  return name == NULL || *name == '\0' || strcmp(name, op->name) == 0;
}

static void prepare(struct fault_scene *s, const struct fault_op *op) {
  fault_reset(s);
  if (op->prepare != NULL) {
    op->prepare(s);
  }
  fault_prepared(s);
  s->longest_us = 0;
}

_Noreturn static void report(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *x,
                             const char *what) {
  unsigned long long pc = s->control->pc, start = (uintptr_t)&__executable_start;
  unsigned long long place = s->control->place;
  fault_kill(s);
  fail_msg(
      "%s, after %llu instructions (%s+0x%llx): %s\n  again: GORGE_FAULT_SEED=%llu GORGE_FAULT_OP=\"%s\" "
      "GORGE_FAULT_FROM=%llu GORGE_FAULT_TO=%llu GORGE_FAULT_ALL=1",
      op->name, place, pc > start ? "program" : "", pc > start ? pc - start : pc, what, (unsigned long long)x->seed,
      op->name, place > 3 ? place - 3 : 0, place + 3);
  abort();
}

/* How many instructions the operation makes, when nobody comes between. */
static uint64_t length_of(struct fault_scene *s, const struct fault_op *op) {
  struct fault_plan none = {0, 0, 1, 0};
  prepare(s, op);
  fault_start(s, op, FAULT_AT_END, &none);
  assert_false(fault_next(s));
  uint64_t length = s->control->place;
  fault_kill(s);
  return length;
}

/* Which places: all, or about x->places of them, spread evenly from a random one on. */
static struct fault_plan plan_of(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *x,
                                 struct tally *t) {
  struct fault_plan plan = {.from = x->from, .to = x->to, .every = 1, .offset = 0};
  t->length = length_of(s, op);
  if (x->places != 0 && t->length > x->places) {
    uint64_t random = x->seed;
    plan.every = t->length / x->places;
    plan.offset = proc_random(&random) % plan.every;
  }
  return plan;
}

/* --- killed --- */

/*
 * The image is that of the place. What the peer finds depends on it alone, so that a pause can be looked at again: one of the
 * scheduler's does not come back.
 */
static const char *look_at_dead(struct fault_scene *s, const struct fault_op *op, struct tally *t) {
  bool all_gone = s->all_gone;
  for (int i = 0; i < ATTEMPTS; i++) {
    s->all_gone = all_gone;
    s->slow = NULL;
    fault_mark_dead(s);
    const char *wrong = fault_check_dead(s, op);
    s->all_gone = all_gone;
    fault_restore(s);
    if (wrong != NULL || s->slow == NULL) {
      return wrong;
    }
    t->repeated++;
  }
  return fault_complain(s, "%s takes %llu us each time", s->slow, (unsigned long long)s->slow_us);
}

/* What a real kill leaves is what was predicted for the place. */
static const char *kill_at(struct fault_scene *s, const struct fault_op *op, uint64_t place) {
  struct fault_plan plan = {.from = place, .to = place, .every = 1, .offset = 0};
  prepare(s, op);
  fault_start(s, op, FAULT_AT_PLACE, &plan);
  if (place > 0) {
    fault_next(s);
  }
  fault_mark_dead(s);
  fault_save(s);
  fault_unmark_dead(s);
  fault_kill(s);
  if (memcmp(s->l1.zone->base, s->image, s->l1.zone->size) != 0) {
    return "a kill leaves other bytes than it should";
  }
  return fault_check_dead(s, op);
}

void fault_walk_killed(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *x) {
  struct tally t = {0};
  struct fault_plan plan = plan_of(s, op, x, &t);
  const char *wrong = NULL;
  prepare(s, op);
  fault_start(s, op, FAULT_AT_IMAGE, &plan);
  bool on = true;
  do {
    fault_save(s);
    wrong = look_at_dead(s, op, &t);
    t.images++;
    if (wrong == NULL) {
      on = fault_next(s);
    }
  } while (wrong == NULL && on);
  if (wrong == NULL) {
    wrong = !fault_cold_unchanged(s) ? "memory that should not be touched was" : op->done != NULL ? op->done(s) : NULL;
  }
  if (wrong == NULL) {
    fault_save(s);
    wrong = look_at_dead(s, op, &t);
    t.images++;
  }
  t.places = s->control->looked_at + 1;
  if (wrong != NULL) {
    report(s, op, x, wrong);
  }
  fault_kill(s);
  uint64_t random = x->seed + 1, longest = s->longest_us;
  const char *what = s->longest_what;
  for (; t.kills < x->kills; t.kills++) {
    wrong = kill_at(s, op, proc_random(&random) % (t.length + 1));
    if (wrong != NULL) {
      report(s, op, x, wrong);
    }
  }
  print_message(
      "%-40s %6llu instructions, killed at %6llu, %5llu states, %2llu real kills; longest %llu us: %s; %llu repeated\n",
      op->name, (unsigned long long)t.length, (unsigned long long)t.places, (unsigned long long)t.images,
      (unsigned long long)t.kills, (unsigned long long)longest, what, (unsigned long long)t.repeated);
}

/* --- stopped --- */

/* One place, one way. The victim waits there; it, or a copy of it, goes on after the peer has done its part. */
static const char *look_at_stopped(struct fault_scene *s, const struct fault_op *op, enum fault_way way, bool copied,
                                   uint64_t again, struct tally *t) {
  bool all_gone = s->all_gone;
  const char *wrong = NULL;
  for (int i = 0; i < ATTEMPTS; i++) {
    s->slow = NULL;
    if (copied) {
      fault_double(s);
    }
    wrong = fault_check_meanwhile(s, op, way);
    if (!copied) {
      fault_run(s);
    } else if (again == 0) {
      fault_copy_run(s);
    } else if (fault_copy_steps(s, again)) {
      wrong = wrong == NULL ? fault_check_again(s) : wrong;
      fault_copy_run(s);
    }
    if (wrong == NULL) {
      wrong = fault_check_late(s, op);
    }
    s->all_gone = all_gone;
    fault_restore(s);
    if (wrong != NULL || s->slow == NULL) {
      return wrong;
    }
    t->repeated++;
    if (!copied) {
      return NULL; /* its time is over; the caller begins anew */
    }
  }
  return fault_complain(s, "%s takes %llu us each time", s->slow, (unsigned long long)s->slow_us);
}

static enum fault_way way_of(const struct fault_op *op, uint64_t number) {
  enum fault_way way = (enum fault_way)(number % FAULT_WAYS);
  return way == FAULT_TAG && (op->flags & FAULT_UNTAGGED) != 0 ? FAULT_DELETE : way;
}

/* All places in one pass of one victim. */
static void walk_copies(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *x,
                        const struct fault_plan *plan, bool twice, struct tally *t) {
  uint64_t random = x->seed + 2;
  prepare(s, op);
  fault_start(s, op, FAULT_AT_PLACE, plan);
  while (fault_next(s)) {
    t->places++;
    fault_save(s);
    uint64_t way = x->ways < FAULT_WAYS ? proc_random(&random) : 0;
    for (uint32_t i = 0; i < x->ways; i++) {
      uint64_t again = twice ? 1 + proc_random(&random) % (t->length / 2 + 1) : 0;
      const char *wrong = look_at_stopped(s, op, way_of(op, way + i), true, again, t);
      if (wrong != NULL) {
        report(s, op, x, wrong);
      }
    }
  }
  fault_kill(s);
}

/* A victim for each place. */
static void walk_anew(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *x,
                      const struct fault_plan *plan, struct tally *t) {
  uint64_t first = plan->from > 1 ? plan->from : 1, last = plan->to < t->length ? plan->to : t->length;
  first += (plan->offset + plan->every - first % plan->every) % plan->every;
  for (uint64_t place = first; place <= last; place += plan->every) {
    struct fault_plan one = {.from = place, .to = place, .every = 1, .offset = 0};
    t->places++;
    for (int i = 0; i < ATTEMPTS; i++) {
      prepare(s, op);
      fault_start(s, op, FAULT_AT_PLACE, &one);
      if (!fault_next(s)) {
        fault_kill(s);
        break;
      }
      fault_save(s);
      const char *wrong = look_at_stopped(s, op, way_of(op, t->places), false, 0, t);
      if (wrong == NULL && s->slow != NULL && i == ATTEMPTS - 1) {
        wrong = fault_complain(s, "%s takes %llu us each time", s->slow, (unsigned long long)s->slow_us);
      }
      if (wrong != NULL) {
        report(s, op, x, wrong);
      }
      if (s->slow == NULL) {
        break;
      }
    }
  }
}

static void walk_stopped(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *extent,
                         bool twice) {
  struct fault_extent once = *extent, *x = &once;
  struct tally t = {0};
  struct fault_plan plan = plan_of(s, op, x, &t);
  x->ways = twice ? 1 : x->ways;
  if (op->flags & FAULT_IDENTITY) {
    walk_anew(s, op, x, &plan, &t);
  } else {
    walk_copies(s, op, x, &plan, twice, &t);
  }
  print_message("%-40s %6llu instructions, stopped%s at %6llu, %u ways; longest %llu us: %s; %llu repeated\n", op->name,
                (unsigned long long)t.length, twice ? " twice" : "", (unsigned long long)t.places, x->ways,
                (unsigned long long)s->longest_us, s->longest_what, (unsigned long long)t.repeated);
}

void fault_walk_stopped(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *x) {
  walk_stopped(s, op, x, false);
}

void fault_walk_stopped_twice(struct fault_scene *s, const struct fault_op *op, const struct fault_extent *x) {
  walk_stopped(s, op, x, true);
}
