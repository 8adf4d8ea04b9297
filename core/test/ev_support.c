/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "test/ev_support.h"

struct ev_fixture f;

int link_begin(void **state) {
  (void)state;
  f.tasks = support_tasks();
  return support_redis_start(&f.redis) ? 0 : -1;
}

int link_end(void **state) {
  (void)state;
  support_redis_stop(&f.redis);
  return 0;
}

void on_done(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  (void)now_ms;
  struct asked *a = (struct asked *)cmd;
  a->status = status;
  a->type = reply != NULL ? reply->type : 0;
  a->len = reply != NULL ? (size_t)reply->len : 0;
  f.done++;
  f.done_in_kick = f.done_in_kick || f.in_kick;
}

static void on_after(void *ctx) {
  (void)ctx;
  f.after++;
}

void kick(void) {
  f.in_kick = true;
  gorge_ev_link_kick(f.link);
  f.in_kick = false;
}

int submit(struct asked *a, int argc, const char *const *argv, const size_t *len) {
  *a = (struct asked){.command.done = on_done, .status = GORGE_PENDING};
  return gorge_conn_submit(f.conn, &a->command, argc, argv, len, gorge_clock_ms());
}

int ask(struct asked *a, const char *word) {
  size_t len = strlen(word);
  return submit(a, 1, &word, &len);
}

void link_to(struct gorge_endpoint *endpoint, uint32_t connect_timeout_ms, uint32_t timeout_ms) {
  struct gorge_conn_config config = {.connect_timeout_ms = connect_timeout_ms,
                                     .timeout_ms = timeout_ms,
                                     .max_pending = 100000,
                                     .max_reply_bytes = 64 << 20,
                                     .seed = 1,
                                     .tls = f.tls,
                                     .host = f.host};
  assert_non_null(endpoint);
  f.endpoint = endpoint;
  f.conn = gorge_conn_create(&config);
  assert_non_null(f.conn);
  f.link = gorge_ev_link_create(f.loop, f.conn, f.endpoint, on_after, &f);
  assert_non_null(f.link);
}

void on_alarm(struct ev_loop *loop, ev_timer *t, int events) {
  (void)events;
  *(bool *)t->data = true;
  ev_break(loop, EVBREAK_ALL);
}

void listen_on_path(int backlog) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(f.dir, sizeof f.dir, "/tmp/gorge-test-XXXXXX");
  assert_non_null(mkdtemp(f.dir));
  snprintf(f.path, sizeof f.path, "%s/s", f.dir);
  snprintf(address.sun_path, sizeof address.sun_path, "%s", f.path);
  f.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  assert_int_equal(bind(f.listener, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(f.listener, backlog), 0);
}

void listen_on_port(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof address;
  f.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  assert_int_equal(bind(f.listener, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(f.listener, 8), 0);
  assert_int_equal(getsockname(f.listener, (struct sockaddr *)&address, &len), 0);
  f.port = ntohs(address.sin_port);
}

bool accepted(void) {
  if (f.peer < 0) {
    f.peer = accept4(f.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  }
  return f.peer >= 0;
}

/* Answers the handshake: CLIENT SETNAME and PING. */
bool shaken(void) {
  char bytes[1024];
  if (gorge_conn_state(f.conn) == GORGE_CONN_HANDSHAKE && accepted() && recv(f.peer, bytes, sizeof bytes, 0) > 0) {
    assert_int_equal(send(f.peer, "+OK\r\n+PONG\r\n", 12, MSG_NOSIGNAL), 12);
  }
  return gorge_conn_state(f.conn) == GORGE_CONN_READY;
}

int link_prepare(void **state) {
  (void)state;
  f = (struct ev_fixture){.redis = f.redis, .tasks = f.tasks, .listener = -1, .peer = -1};
  f.loop = ev_loop_new(EVFLAG_NOENV);
  return f.loop != NULL ? 0 : -1;
}

int link_clean(void **state) {
  (void)state;
  gorge_ev_link_destroy(f.link);
  gorge_conn_destroy(f.conn);
  gorge_endpoint_destroy(f.endpoint);
  ev_loop_destroy(f.loop);
  close(f.peer);
  close(f.listener);
  if (f.dir[0] != '\0') {
    unlink(f.path);
    rmdir(f.dir);
  }
  return WAIT_UNTIL(support_count("/proc/self/task") == f.tasks) ? 0 : -1;
}

struct gorge_endpoint *at_path(const char *path) {
  return gorge_endpoint_create(NULL, 0, path);
}

static double cpu_ms(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 +
         (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}

unsigned turns_in(int ms) {
  unsigned before = ev_iteration(f.loop);
  double cpu = cpu_ms();
  RUN_UNTIL(false, ms);
  assert_true(cpu_ms() - cpu < ms / 4.0 + 10);
  return ev_iteration(f.loop) - before;
}
