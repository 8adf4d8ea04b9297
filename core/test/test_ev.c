/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <netdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "drive/ev.h"
#include "test/drive_support.h"

/* The resolver of these tests: "redis.test" is first a loopback address where nobody listens, then the right one. */
static int resolver_delay_us;

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  (void)service, (void)hints;
  if (strcmp(node, "redis.test") != 0) {
    return EAI_NONAME;
  }
  if (resolver_delay_us > 0) {
    usleep((useconds_t)resolver_delay_us);
  }
  struct addrinfo *a = calloc(2, sizeof *a);
  struct sockaddr_in *in = calloc(2, sizeof *in);
  for (int i = 0; i < 2; i++) {
    in[i].sin_family = AF_INET;
    in[i].sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 - (unsigned)i);
    a[i].ai_family = AF_INET;
    a[i].ai_addr = (struct sockaddr *)&in[i];
    a[i].ai_addrlen = sizeof in[i];
  }
  a[0].ai_next = &a[1];
  *found = a;
  return 0;
}

void freeaddrinfo(struct addrinfo *a) {
  free(a->ai_addr);
  free(a);
}

/* One command and what became of it. Static in each test: it may be pending still when the test is cleaned up. */
struct asked {
  struct gorge_command command;
  int status; /* GORGE_PENDING until done */
  int type;
  size_t len;
};

struct fixture {
  struct ev_loop *loop;
  struct gorge_endpoint *endpoint;
  struct gorge_conn *conn;
  struct gorge_ev_link *link;
  int done, after;
  bool in_kick, done_in_kick;
  char dir[64], path[96];
  int listener, peer; /* a server of the test's own */
  int port;
};

static struct fixture f;
static struct support_redis redis;

static void on_done(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
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

static void kick(void) {
  f.in_kick = true;
  gorge_ev_link_kick(f.link);
  f.in_kick = false;
}

static int submit(struct asked *a, int argc, const char *const *argv, const size_t *len) {
  *a = (struct asked){.command.done = on_done, .status = GORGE_PENDING};
  return gorge_conn_submit(f.conn, &a->command, argc, argv, len, gorge_clock_ms());
}

static int ask(struct asked *a, const char *word) {
  size_t len = strlen(word);
  return submit(a, 1, &word, &len);
}

static void link_to(struct gorge_endpoint *endpoint, uint32_t connect_timeout_ms, uint32_t timeout_ms) {
  struct gorge_conn_config config = {.connect_timeout_ms = connect_timeout_ms,
                                     .timeout_ms = timeout_ms,
                                     .max_pending = 100000,
                                     .max_reply_bytes = 64 << 20,
                                     .seed = 1};
  assert_non_null(endpoint);
  f.endpoint = endpoint;
  f.conn = gorge_conn_create(&config);
  assert_non_null(f.conn);
  f.link = gorge_ev_link_create(f.loop, f.conn, f.endpoint, on_after, &f);
  assert_non_null(f.link);
}

static void on_alarm(struct ev_loop *loop, ev_timer *t, int events) {
  (void)events;
  *(bool *)t->data = true;
  ev_break(loop, EVBREAK_ALL);
}

/* Runs the loop until the condition holds or the time has passed; evaluates to whether it holds. */
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

static void listen_on_path(int backlog) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(f.dir, sizeof f.dir, "/tmp/gorge-test-XXXXXX");
  assert_non_null(mkdtemp(f.dir));
  snprintf(f.path, sizeof f.path, "%s/s", f.dir);
  snprintf(address.sun_path, sizeof address.sun_path, "%s", f.path);
  f.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  assert_int_equal(bind(f.listener, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(f.listener, backlog), 0);
}

static void listen_on_port(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof address;
  f.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  assert_int_equal(bind(f.listener, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(f.listener, 8), 0);
  assert_int_equal(getsockname(f.listener, (struct sockaddr *)&address, &len), 0);
  f.port = ntohs(address.sin_port);
}

static bool accepted(void) {
  if (f.peer < 0) {
    f.peer = accept4(f.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
  }
  return f.peer >= 0;
}

/* Answers the handshake: CLIENT SETNAME and PING. */
static bool shaken(void) {
  char bytes[1024];
  if (gorge_conn_state(f.conn) == GORGE_CONN_HANDSHAKE && accepted() && recv(f.peer, bytes, sizeof bytes, 0) > 0) {
    assert_int_equal(send(f.peer, "+OK\r\n+PONG\r\n", 12, MSG_NOSIGNAL), 12);
  }
  return gorge_conn_state(f.conn) == GORGE_CONN_READY;
}

static int prepare(void **state) {
  (void)state;
  f = (struct fixture){.listener = -1, .peer = -1};
  resolver_delay_us = 0;
  f.loop = ev_loop_new(EVFLAG_NOENV);
  return f.loop != NULL ? 0 : -1;
}

static int clean(void **state) {
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
  return WAIT_UNTIL(support_count("/proc/self/task") == 1) ? 0 : -1;
}

static struct gorge_endpoint *at_path(const char *path) { return gorge_endpoint_create(NULL, 0, path); }

static void test_commands_reach_redis_and_come_back(void **state) {
  (void)state;
  static struct asked a;
  link_to(at_path(redis.path), 1000, 1000);
  assert_int_equal(ask(&a, "PING"), GORGE_OK);
  kick();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 2000));
  assert_int_equal(a.status, GORGE_OK);
  assert_int_equal(a.type, REDIS_REPLY_STATUS);
  assert_true(f.after > 0);
  assert_false(f.done_in_kick);
  assert_int_equal(gorge_conn_connects(f.conn), 1);
}

static void test_much_more_than_socket_buffers_hold_goes_both_ways(void **state) {
  (void)state;
  enum { N = 400, SIZE = 50000 };
  static struct asked set[N], get[N];
  static char value[SIZE];
  link_to(at_path(redis.path), 1000, 20000);
  memset(value, 'x', sizeof value);
  for (int i = 0; i < N; i++) {
    char key[16];
    size_t key_len = (size_t)snprintf(key, sizeof key, "k%d", i);
    assert_int_equal(submit(&set[i], 3, (const char *[]){"SET", key, value}, (size_t[]){3, key_len, SIZE}), GORGE_OK);
    assert_int_equal(submit(&get[i], 2, (const char *[]){"GET", key}, (size_t[]){3, key_len}), GORGE_OK);
  }
  kick();
  assert_true(RUN_UNTIL(f.done == 2 * N, 15000));
  for (int i = 0; i < N; i++) {
    assert_int_equal(set[i].status, GORGE_OK);
    assert_int_equal(get[i].len, SIZE);
  }
}

static double cpu_ms(void) {
  struct rusage u;
  getrusage(RUSAGE_SELF, &u);
  return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000 +
         (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1000;
}

/* Turns of the loop in `ms` during which nothing comes from outside. */
static unsigned turns_in(int ms) {
  unsigned before = ev_iteration(f.loop);
  double cpu = cpu_ms();
  RUN_UNTIL(false, ms);
  assert_true(cpu_ms() - cpu < ms / 4.0 + 10);
  return ev_iteration(f.loop) - before;
}

static void test_a_large_reply_leaves_room_for_others(void **state) {
  (void)state;
  enum { SIZE = 8 << 20 };
  static struct asked a;
  unsigned before;
  listen_on_path(8);
  link_to(at_path(f.path), 1000, 5000);
  ask(&a, "GET");
  kick();
  assert_true(RUN_UNTIL(shaken(), 2000));
  assert_int_equal(fcntl(f.peer, F_SETFL, 0), 0);
  int size = SIZE;
  setsockopt(f.peer, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
  char *bulk = malloc(SIZE);
  memset(bulk, 'x', SIZE);
  char head[32];
  int head_len = snprintf(head, sizeof head, "$%d\r\n", SIZE);
  before = ev_iteration(f.loop);
  assert_int_equal(send(f.peer, head, (size_t)head_len, 0), head_len);
  fcntl(f.peer, F_SETFL, O_NONBLOCK);
  size_t sent = 0;
  while (a.status == GORGE_PENDING && ev_iteration(f.loop) - before < 10000) {
    ssize_t n = sent < SIZE ? send(f.peer, bulk + sent, SIZE - sent, MSG_NOSIGNAL)
                            : send(f.peer, "\r\n", sent == SIZE ? 2 : 0, MSG_NOSIGNAL);
    sent += n > 0 ? (size_t)n : 0;
    ev_run(f.loop, EVRUN_NOWAIT);
  }
  free(bulk);
  assert_int_equal(a.status, GORGE_OK);
  assert_int_equal(a.len, SIZE);
  assert_true(ev_iteration(f.loop) - before >= SIZE / (256 << 10)); /* never more than so much in one turn */
}

static void test_nobody_at_the_path_is_told_and_retried(void **state) {
  (void)state;
  static struct asked a;
  link_to(at_path("/tmp/gorge-test-nobody-here/redis.sock"), 1000, 1000);
  assert_int_equal(ask(&a, "PING"), GORGE_OK);
  kick();
  assert_int_equal(a.status, GORGE_PENDING); /* never from inside kick */
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 1000));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_string_equal(gorge_conn_reason(f.conn), "connect: No such file or directory");
  assert_false(f.done_in_kick);
  assert_int_equal(ask(&a, "PING"), GORGE_ERR_DOWN);
  assert_true(turns_in(200) < 30);
}

static void test_a_closed_port_is_told(void **state) {
  (void)state;
  static struct asked a;
  listen_on_port();
  close(f.listener);
  f.listener = -1;
  link_to(gorge_endpoint_create("127.0.0.1", (uint16_t)f.port, NULL), 1000, 1000);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 1000));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_string_equal(gorge_conn_reason(f.conn), "connect: Connection refused");
}

static void test_a_name_with_a_dead_address_connects_to_the_next(void **state) {
  (void)state;
  static struct asked a;
  listen_on_port();
  resolver_delay_us = 50000;
  link_to(gorge_endpoint_create("redis.test", (uint16_t)f.port, NULL), 2000, 2000);
  ask(&a, "PING");
  kick();
  unsigned before = ev_iteration(f.loop);
  assert_true(RUN_UNTIL(shaken(), 1500));
  assert_true(ev_iteration(f.loop) - before < 60); /* no busy loop while the name is being resolved */
  assert_int_equal(gorge_conn_connects(f.conn), 1);
  assert_int_equal(a.status, GORGE_PENDING);
}

static void test_a_name_that_does_not_exist_is_told(void **state) {
  (void)state;
  static struct asked a;
  link_to(gorge_endpoint_create("nowhere.test", 6379, NULL), 1000, 1000);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 900));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_string_equal(gorge_conn_reason(f.conn), gai_strerror(EAI_NONAME));
}

static void test_a_resolver_that_hangs_ends_with_the_connect_timeout(void **state) {
  (void)state;
  static struct asked a;
  resolver_delay_us = 400000;
  link_to(gorge_endpoint_create("redis.test", 6379, NULL), 100, 5000);
  ask(&a, "PING");
  kick();
  uint64_t start = support_now_us();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 1000));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_true(support_now_us() - start < 300000);
}

static void test_a_full_backlog_is_waited_for(void **state) {
  (void)state;
  static struct asked a;
  int fill[16];
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  listen_on_path(0);
  snprintf(address.sun_path, sizeof address.sun_path, "%s", f.path);
  int n = 0;
  for (bool room = true; room && n < 16; n += room) {
    fill[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    room = connect(fill[n], (struct sockaddr *)&address, sizeof address) == 0;
    if (!room) {
      close(fill[n]);
    }
  }
  assert_in_range(n, 1, 15);
  link_to(at_path(f.path), 3000, 3000);
  ask(&a, "PING");
  kick();
  assert_true(turns_in(100) < 40);
  assert_int_equal(gorge_conn_state(f.conn), GORGE_CONN_CONNECTING);
  for (int i = 0; i < n; i++) {
    close(accept(f.listener, NULL, NULL));
    close(fill[i]);
  }
  assert_true(RUN_UNTIL(shaken(), 1000));
}

static void test_silence_in_the_handshake_ends_with_the_connect_timeout(void **state) {
  (void)state;
  static struct asked a;
  listen_on_path(8);
  link_to(at_path(f.path), 100, 5000);
  ask(&a, "PING");
  kick();
  uint64_t start = support_now_us();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 2000));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  uint64_t took_us = support_now_us() - start;
  assert_in_range(took_us, 80000, 600000);
  assert_true(accepted());
  char bytes[256];
  while (recv(f.peer, bytes, sizeof bytes, 0) > 0) {
  }
  assert_int_equal(recv(f.peer, bytes, sizeof bytes, 0), 0); /* the socket is closed */
}

static void test_a_command_without_answer_ends_at_its_deadline(void **state) {
  (void)state;
  static struct asked a;
  listen_on_path(8);
  link_to(at_path(f.path), 1000, 80);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(shaken(), 1000));
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 500));
  assert_int_equal(a.status, GORGE_ERR_TIMEOUT);
  assert_int_equal(gorge_conn_state(f.conn), GORGE_CONN_READY);
}

static void test_a_connected_link_with_nothing_to_do_sleeps(void **state) {
  (void)state;
  static struct asked a;
  link_to(at_path(redis.path), 1000, 1000);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(a.status == GORGE_OK, 1000));
  RUN_UNTIL(false, 20);
  assert_true(turns_in(200) < 6);
}

static void test_garbage_closes_the_connection(void **state) {
  (void)state;
  static struct asked a;
  listen_on_path(8);
  link_to(at_path(f.path), 1000, 1000);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(shaken(), 1000));
  assert_int_equal(send(f.peer, "HTTP/1.1 400\r\n\r\n", 16, MSG_NOSIGNAL), 16);
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 1000));
  assert_int_equal(a.status, GORGE_ERR_PROTOCOL);
  assert_int_equal(gorge_conn_state(f.conn), GORGE_CONN_DOWN);
}

static void test_a_closed_connection_comes_back_when_it_is_needed(void **state) {
  (void)state;
  static struct asked a, b;
  listen_on_path(8);
  link_to(at_path(f.path), 1000, 1000);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(shaken(), 1000));
  close(f.peer);
  f.peer = -1;
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 1000));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_true(RUN_UNTIL(shaken(), 3000)); /* by its own backoff */
  assert_int_equal(gorge_conn_connects(f.conn), 2);
  assert_int_equal(ask(&b, "PING"), GORGE_OK);
  kick();
  assert_int_equal(send(f.peer, "+PONG\r\n", 7, MSG_NOSIGNAL), 7);
  assert_true(RUN_UNTIL(b.status == GORGE_OK, 1000));
}

static void ask_again(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  on_done(cmd, status, reply, now_ms);
  if (status != GORGE_OK) {
    const char *word = "PING";
    size_t len = 4;
    static struct asked again;
    again = (struct asked){.command.done = on_done, .status = GORGE_PENDING};
    gorge_conn_submit(f.conn, &again.command, 1, &word, &len, now_ms);
    gorge_ev_link_kick(f.link);
  }
}

static void test_destroying_a_link_ends_what_is_pending_and_leaks_nothing(void **state) {
  (void)state;
  int fds = support_count("/proc/self/fd");
  listen_on_path(64);
  f.endpoint = at_path(f.path);
  for (int i = 0; i < 300; i++) {
    static struct asked a;
    link_to(f.endpoint, 1000, 1000);
    ask(&a, "PING");
    a.command.done = ask_again; /* and nothing that a completion does brings the link back */
    kick();
    for (int turns = i % 3; turns > 0; turns--) {
      ev_run(f.loop, EVRUN_NOWAIT);
    }
    gorge_ev_link_destroy(f.link);
    f.link = NULL;
    assert_int_equal(a.status, GORGE_ERR_DOWN);
    gorge_conn_destroy(f.conn);
    f.conn = NULL;
    assert_true(accepted());
    close(f.peer);
    f.peer = -1;
  }
  assert_int_equal(support_count("/proc/self/fd"), fds + 1);
  ev_run(f.loop, 0); /* returns: no watcher is left */
}

static void destroy_link(void *ctx) {
  (void)ctx;
  gorge_ev_link_destroy(f.link);
  f.link = NULL;
}

static void test_after_may_destroy_the_link(void **state) {
  (void)state;
  static struct asked a;
  link_to(at_path(redis.path), 1000, 1000);
  gorge_ev_link_destroy(f.link);
  f.link = gorge_ev_link_create(f.loop, f.conn, f.endpoint, destroy_link, NULL);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(f.link == NULL, 1000));
  ev_run(f.loop, 0);
}

static int group_setup(void **state) {
  (void)state;
  return support_redis_start(&redis) ? 0 : -1;
}

static int group_teardown(void **state) {
  (void)state;
  support_redis_stop(&redis);
  return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, clean)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_commands_reach_redis_and_come_back),
      TEST(test_much_more_than_socket_buffers_hold_goes_both_ways),
      TEST(test_a_large_reply_leaves_room_for_others),
      TEST(test_nobody_at_the_path_is_told_and_retried),
      TEST(test_a_closed_port_is_told),
      TEST(test_a_name_with_a_dead_address_connects_to_the_next),
      TEST(test_a_name_that_does_not_exist_is_told),
      TEST(test_a_resolver_that_hangs_ends_with_the_connect_timeout),
      TEST(test_a_full_backlog_is_waited_for),
      TEST(test_silence_in_the_handshake_ends_with_the_connect_timeout),
      TEST(test_a_command_without_answer_ends_at_its_deadline),
      TEST(test_a_connected_link_with_nothing_to_do_sleeps),
      TEST(test_garbage_closes_the_connection),
      TEST(test_a_closed_connection_comes_back_when_it_is_needed),
      TEST(test_destroying_a_link_ends_what_is_pending_and_leaks_nothing),
      TEST(test_after_may_destroy_the_link),
  };
  return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
