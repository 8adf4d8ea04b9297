/* SPDX-License-Identifier: MIT */
#include "engine/process.h"

#include <ev.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"

static struct {
  uint64_t generation; /* plain: written before main and, in the child of a fork, before that goes on */
  struct gorge_process *list;
  struct ev_loop *loop;
  uint64_t loop_generation;
  ev_timer timer;
  struct gorge_bell *bells;
  uint64_t random, random_generation;
} self;

/* The notify descriptor of a zone's control thread, watched by the main loop. */
struct gorge_bell {
  ev_io io;
  struct gorge_process *process;
  struct gorge_bell *next;
};

static void after_fork(void) { self.generation++; }

/* When the library is loaded, so that asking costs a load only: every read of L1 does. */
__attribute__((constructor)) static void prepare(void) {
  self.generation = 1;
  pthread_atfork(NULL, NULL, after_fork);
}

uint64_t gorge_process_generation(void) { return self.generation; }

double gorge_process_random(void) {
  if (self.random_generation != self.generation) {
    if (gorge_random(&self.random, sizeof self.random) != GORGE_OK) {
      self.random = gorge_clock_us() ^ (uint64_t)getpid() << 32; /* spreads, which is all that is asked of it */
    }
    self.random_generation = self.generation;
  }
  /* A Weyl sequence, mixed by the hash. */
  self.random += UINT64_C(0x9E3779B97F4A7C15);
  return (double)(gorge_hash(&self.random, sizeof self.random, 0) >> 11) / (double)(UINT64_C(1) << 53);
}

static void on_bell(struct ev_loop *loop, ev_io *io, int events) {
  (void)loop, (void)events;
  uint64_t rings;
  if (read(io->fd, &rings, sizeof rings) < 0) {
    return; /* spurious: the descriptor is non-blocking, and shared memory is the truth anyway */
  }
}

static void on_timer(struct ev_loop *loop, ev_timer *timer, int events) { (void)loop, (void)timer, (void)events; }

struct ev_loop *gorge_process_loop(void) {
  uint64_t generation = gorge_process_generation();
  if (self.loop == NULL || self.loop_generation != generation) {
    /* An inherited loop is left alone: its epoll set is the parent's. */
    self.loop = ev_loop_new(EVFLAG_AUTO | EVFLAG_NOENV);
    self.loop_generation = generation;
    self.bells = NULL;
    ev_timer_init(&self.timer, on_timer, 0., 0.);
  }
  return self.loop;
}

static void watch_bells(struct ev_loop *loop) {
  for (struct gorge_process *p = self.list; p != NULL; p = p->next) {
    if (p->control == NULL || p->generation != self.generation) {
      continue;
    }
    struct gorge_bell *bell = self.bells;
    while (bell != NULL && bell->process != p) {
      bell = bell->next;
    }
    if (bell == NULL && (bell = calloc(1, sizeof *bell)) != NULL) {
      bell->process = p;
      bell->next = self.bells;
      self.bells = bell;
      ev_io_init(&bell->io, on_bell, gorge_control_notify_fd(p->control), EV_READ);
      ev_io_start(loop, &bell->io);
    }
  }
}

static void forget_bell(const struct gorge_process *process) {
  for (struct gorge_bell **at = &self.bells; *at != NULL; at = &(*at)->next) {
    struct gorge_bell *bell = *at;
    if (bell->process == process) {
      ev_io_stop(self.loop, &bell->io);
      *at = bell->next;
      free(bell);
      return;
    }
  }
}

int gorge_process_loop_wait(double timeout_ms) {
  struct ev_loop *loop = gorge_process_loop();
  if (loop == NULL) {
    return GORGE_ERR_MEMORY;
  }
  watch_bells(loop);
  if (!(timeout_ms > 0)) { /* nor is a time that is not a number waited for */
    ev_run(loop, EVRUN_NOWAIT);
    return GORGE_OK;
  }
  ev_now_update(loop);
  ev_timer_stop(loop, &self.timer);
  ev_timer_set(&self.timer, timeout_ms / 1e3, 0.);
  ev_timer_start(loop, &self.timer);
  ev_run(loop, EVRUN_ONCE);
  ev_timer_stop(loop, &self.timer);
  return GORGE_OK;
}

int gorge_process_enter(struct gorge_zone *zone, struct gorge_process **out) {
  uint64_t generation = gorge_process_generation();
  struct gorge_process *p = self.list;
  while (p != NULL && (p->zone != zone || p->generation != generation)) {
    p = p->next;
  }
  if (p == NULL) {
    p = calloc(1, sizeof *p);
    if (p == NULL) {
      return GORGE_ERR_MEMORY;
    }
    int status = gorge_owner_claim(zone, GORGE_THREAD_MAIN, &p->owner);
    if (status != GORGE_OK) {
      free(p);
      return status;
    }
    p->zone = zone;
    p->generation = generation;
    p->next = self.list;
    self.list = p;
  }
  p->users++;
  *out = p;
  return GORGE_OK;
}

static void end(struct gorge_process *p) {
  if (p->control != NULL) {
    forget_bell(p);
    gorge_control_stop(p->control);
    p->control = NULL;
  }
  gorge_owner_release(p->zone, &p->owner);
}

void gorge_process_leave(struct gorge_process *process) {
  if (--process->users > 0 || process->generation != self.generation) {
    return;
  }
  end(process);
  for (struct gorge_process **at = &self.list; *at != NULL; at = &(*at)->next) {
    if (*at == process) {
      *at = process->next;
      break;
    }
  }
  free(process);
}

struct gorge_control *gorge_process_control(struct gorge_process *process, int *status) {
  *status = GORGE_OK;
  if (process->control == NULL) {
    process->control = gorge_control_start(process->zone, &process->owner, status);
  }
  return process->control;
}

/* A process that ends in good order gives its slots back, so that its end is not taken for a death. */
__attribute__((destructor)) static void leave_all(void) {
  for (struct gorge_process *p = self.list; p != NULL; p = p->next) {
    if (p->generation == self.generation) {
      end(p);
    }
  }
  self.list = NULL;
}

void gorge_process_end_first(void) {
  static bool registered; /* inherited by a fork, as what is registered is */
  if (!registered) {
    registered = atexit(leave_all) == 0; /* what was registered last is called first */
  }
}
