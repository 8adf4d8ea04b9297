/* SPDX-License-Identifier: MIT */
/* A loop, a connection and a link, a Redis, and a server that does what the test says. Include after cmocka.h. */
#ifndef GORGE_TEST_EV_SUPPORT_H
#define GORGE_TEST_EV_SUPPORT_H

#include "base/clock.h"
#include "drive/ev.h"
#include "test/drive_support.h"

/* For what comes long before: no machine stands still for so long. */
enum { PATIENCE_MS = 30000 };

/* One command and what became of it. Static in each test: it may be pending still when the test is cleaned up. */
struct asked {
  struct gorge_command command;
  int status; /* GORGE_PENDING until done */
  int type;
  size_t len;
};

struct ev_fixture {
  struct support_redis redis;
  struct ev_loop *loop;
  struct gorge_endpoint *endpoint;
  struct gorge_conn *conn;
  struct gorge_ev_link *link;
  int done, after;
  bool in_kick, done_in_kick;
  char dir[64], path[96];
  int listener, peer; /* a server of the test's own */
  int port;
  int tasks;                          /* see support_tasks */
  const struct gorge_tls_config *tls; /* of links to come */
  const char *host;
};
extern struct ev_fixture f;

int link_begin(void **state);
int link_end(void **state);
int link_prepare(void **state);
int link_clean(void **state);

void on_done(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms);
/* Kicks the link, watching for completions inside. */
void kick(void);
/* Submits a command; sets up *a. */
int submit(struct asked *a, int argc, const char *const *argv, const size_t *len);
int ask(struct asked *a, const char *word);
/* Makes connection and link. */
void link_to(struct gorge_endpoint *endpoint, uint32_t connect_timeout_ms, uint32_t timeout_ms);
struct gorge_endpoint *at_path(const char *path);

/* The test's own server: at f.path, or at f.port. */
void listen_on_path(int backlog);
void listen_on_port(void);
/* Whether it has accepted a peer. */
bool accepted(void);
/* Answers the handshake; whether the connection is ready. */
bool shaken(void);

void on_alarm(struct ev_loop *loop, ev_timer *t, int events);
/*
 * Runs the loop until the condition holds or the time has passed; evaluates to whether it holds. The loop's own timers that end before have
 * fired by then, even when the process stood still.
 */
#define RUN_UNTIL(condition, ms)                               \
  ({                                                           \
    ev_timer alarm_;                                           \
    bool late_ = false;                                        \
    ev_now_update(f.loop);                                     \
    ev_timer_init(&alarm_, on_alarm, (double)(ms) / 1000, 0.); \
    alarm_.data = &late_;                                      \
    ev_timer_start(f.loop, &alarm_);                           \
    while (!(condition) && !late_)                             \
      ev_run(f.loop, EVRUN_ONCE);                              \
    ev_timer_stop(f.loop, &alarm_);                            \
    (condition);                                               \
  })

/* Turns of the loop in `ms` during which nothing comes from outside; fails when they keep the processor busy. */
unsigned turns_in(int ms);

#endif
