/* SPDX-License-Identifier: MIT */
#include "drive/control.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "drive/control_internal.h"
#include "drive/thread.h"

enum { CONTROL_STACK = 512 << 10 };

/*
 * Never the default loop: it would reap the host's children. Nothing of the environment, no signals, no helper
 * descriptors; and a backend that is not there or whose descriptor cannot be had is replaced by poll.
 */
static const unsigned loop_flags =
    EVFLAG_NOENV | EVFLAG_NOSIGMASK | EVFLAG_NOINOTIFY | EVFLAG_NOTIMERFD | EVBACKEND_EPOLL | EVBACKEND_POLL;

bool gorge_control_mine(const struct gorge_control *c) { return c != NULL && c->pid == getpid(); }

static void write_eventfd(int fd) {
  uint64_t one = 1;
  ssize_t n = write(fd, &one, sizeof one); /* fails only when the counter is full: then it is readable already */
  (void)n;
}

/*
 * What is to be seen is stored before the exchange here and read after the exchange in on_command (acq_rel, each
 * the partner of the other): a poke that finds the flag set is seen by the look that is about to come.
 */
void gorge_control_poke(struct gorge_control *c) {
  if (!__atomic_exchange_n(&c->poked, true, __ATOMIC_ACQ_REL)) {
    write_eventfd(c->command_fd);
  }
}

static void on_command(struct ev_loop *loop, ev_io *w, int events) {
  (void)events;
  struct gorge_control *c = w->data;
  uint64_t count;
  ssize_t n = read(c->command_fd, &count, sizeof count);
  (void)n;
  (void)__atomic_exchange_n(&c->poked, false, __ATOMIC_ACQ_REL); /* partner: gorge_control_poke */
  if (__atomic_load_n(&c->stopping, __ATOMIC_RELAXED)) {         /* ordered by the exchange */
    ev_break(loop, EVBREAK_ALL);
    return;
  }
  if (__atomic_exchange_n(&c->ring, false, __ATOMIC_RELAXED)) { /* ordered by the exchange above */
    gorge_doorbell_ring(c);
  }
  gorge_subscribe_command(c);
  gorge_lease_command(c);
  gorge_doorbell_command(c);
}

static void on_wake(struct ev_loop *loop, ev_io *w, int events) {
  (void)loop, (void)events;
  struct gorge_control *c = w->data;
  if (gorge_wake_drain(c->wake_fd)) {
    gorge_doorbell_ring(c);
    gorge_subscribe_woken(c);
    gorge_control_mail(c);
  }
}

static int prepare(struct gorge_control *c) {
  int status = gorge_owner_claim(c->zone, GORGE_THREAD_CONTROL, &c->owner);
  if (status != GORGE_OK) {
    return status;
  }
  c->wake_fd = gorge_wake_open(c->zone, c->worker);
  if (c->wake_fd < 0) {
    gorge_owner_release(c->zone, &c->owner);
    return GORGE_ERR_SYSTEM;
  }
  ev_io_init(&c->command, on_command, c->command_fd, EV_READ);
  ev_io_init(&c->wake, on_wake, c->wake_fd, EV_READ);
  c->command.data = c->wake.data = c;
  ev_io_start(c->loop, &c->command);
  ev_io_start(c->loop, &c->wake);
  return GORGE_OK;
}

/* The life-lock is taken and given back by the thread itself: it tells that the thread lives. */
static void *run(void *arg) {
  struct gorge_control *c = arg;
  int status = prepare(c);
  pthread_mutex_lock(&c->mutex);
  c->up = status;
  pthread_cond_broadcast(&c->changed);
  pthread_mutex_unlock(&c->mutex);
  if (status != GORGE_OK) {
    return NULL;
  }
  ev_run(c->loop, 0);
  ev_io_stop(c->loop, &c->command);
  ev_io_stop(c->loop, &c->wake);
  gorge_subscribe_fini(c);
  gorge_lease_fini(c);
  gorge_doorbell_fini(c);
  gorge_wake_close(c->zone, c->worker, c->wake_fd);
  gorge_owner_release(c->zone, &c->owner);
  return NULL;
}

static void control_free(struct gorge_control *c) {
  if (c->loop != NULL) {
    ev_loop_destroy(c->loop);
  }
  if (c->command_fd >= 0) {
    close(c->command_fd);
  }
  if (c->notify_fd >= 0) {
    close(c->notify_fd);
  }
  int bell_fd = __atomic_load_n(&c->bell_fd, __ATOMIC_RELAXED); /* relaxed: no other thread runs any more */
  if (bell_fd >= 0) {
    close(bell_fd);
  }
  pthread_cond_destroy(&c->changed);
  pthread_mutex_destroy(&c->mutex);
  free(c);
}

static struct gorge_control *control_make(struct gorge_zone *zone, const struct gorge_owner *main_owner) {
  struct gorge_control *c = calloc(1, sizeof *c);
  if (c == NULL) {
    return NULL;
  }
  c->pid = getpid();
  c->zone = zone;
  c->worker = main_owner->worker;
  c->up = GORGE_PENDING;
  pthread_mutex_init(&c->mutex, NULL); /* neither can fail with default attributes */
  pthread_cond_init(&c->changed, NULL);
  c->command_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  c->notify_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  c->bell_fd = -1;
  c->loop = ev_loop_new(loop_flags);
  gorge_subscribe_init(c);
  gorge_lease_init(c);
  gorge_doorbell_init(c);
  return c;
}

/* Returns how the thread came up. */
static int launch(struct gorge_control *c) {
  if (c->command_fd < 0 || c->notify_fd < 0 || c->loop == NULL) {
    return GORGE_ERR_SYSTEM;
  }
  int status = gorge_thread_start(&c->thread, "gorge-control", CONTROL_STACK, run, c);
  if (status != GORGE_OK) {
    return status;
  }
  pthread_mutex_lock(&c->mutex);
  while (c->up == GORGE_PENDING) {
    pthread_cond_wait(&c->changed, &c->mutex);
  }
  status = c->up;
  pthread_mutex_unlock(&c->mutex);
  if (status != GORGE_OK) {
    pthread_join(c->thread, NULL);
  }
  return status;
}

struct gorge_control *gorge_control_start(struct gorge_zone *zone, const struct gorge_owner *main_owner, int *status) {
  struct gorge_control *c = control_make(zone, main_owner);
  *status = c == NULL ? GORGE_ERR_MEMORY : launch(c);
  if (c != NULL && *status != GORGE_OK) {
    control_free(c);
    c = NULL;
  }
  return c;
}

void gorge_control_stop(struct gorge_control *c) {
  if (!gorge_control_mine(c)) {
    return;
  }
  __atomic_store_n(&c->stopping, true, __ATOMIC_RELAXED); /* ordered by the poke */
  gorge_control_poke(c);
  pthread_join(c->thread, NULL);
  control_free(c);
}

int gorge_control_notify_fd(struct gorge_control *c) { return gorge_control_mine(c) ? c->notify_fd : GORGE_ERR_CLOSED; }

int gorge_control_wake_fd(struct gorge_control *c) { return gorge_control_mine(c) ? c->wake_fd : GORGE_ERR_CLOSED; }

void gorge_control_ring(struct gorge_control *c) {
  if (gorge_control_mine(c)) {
    __atomic_store_n(&c->ring, true, __ATOMIC_RELAXED); /* ordered by the poke */
    gorge_control_poke(c);
  }
}
