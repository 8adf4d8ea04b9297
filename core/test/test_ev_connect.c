/* SPDX-License-Identifier: MIT */
#include <netdb.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "test/ev_support.h"
#include "test/ports.h"

/* The resolver of these tests: of the addresses of "redis.test" the last is the right one. */
static int resolver_delay_us;
static const uint32_t addresses[] = {INADDR_BROADCAST,    /* refused by connect itself */
                                     INADDR_LOOPBACK + 1, /* refused a moment later: nobody listens */
                                     INADDR_LOOPBACK};

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  enum { N = sizeof addresses / sizeof *addresses };
  (void)service, (void)hints;
  if (strcmp(node, "redis.test") != 0) {
    return EAI_NONAME;
  }
  if (resolver_delay_us > 0) {
    usleep((useconds_t)resolver_delay_us);
  }
  struct addrinfo *a = calloc(N, sizeof *a);
  struct sockaddr_in *in = calloc(N, sizeof *in);
  for (int i = 0; i < N; i++) {
    in[i].sin_family = AF_INET;
    in[i].sin_addr.s_addr = htonl(addresses[i]);
    a[i].ai_family = AF_INET;
    a[i].ai_addr = (struct sockaddr *)&in[i];
    a[i].ai_addrlen = sizeof in[i];
    a[i].ai_next = i + 1 < N ? &a[i + 1] : NULL;
  }
  *found = a;
  return 0;
}

void freeaddrinfo(struct addrinfo *a) {
  free(a->ai_addr);
  free(a);
}

static void test_nobody_at_the_path_is_told_and_retried(void **state) {
  (void)state;
  static struct asked a;
  const char *word = "PING";
  size_t len = 4;
  link_to(at_path("/tmp/gorge-test-nobody-here/redis.sock"), PATIENCE_MS, PATIENCE_MS);
  assert_int_equal(ask(&a, "PING"), GORGE_OK);
  kick();
  assert_int_equal(a.status, GORGE_PENDING); /* never from inside kick */
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_string_equal(gorge_conn_reason(f.conn), "connect: No such file or directory");
  assert_false(f.done_in_kick);
  uint64_t before_retry_ms = gorge_conn_next_ms(f.conn) - 1; /* that may be over when a clock is asked */
  assert_int_equal(gorge_conn_submit(f.conn, &a.command, 1, &word, &len, before_retry_ms), GORGE_ERR_DOWN);
  assert_true(turns_in(200) < 30);
}

static void test_a_closed_port_is_told(void **state) {
  (void)state;
  static struct asked a;
  struct kept_port port;
  assert_true(port_keep(&port));
  link_to(gorge_endpoint_create("127.0.0.1", port.number, NULL), PATIENCE_MS, PATIENCE_MS);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_string_equal(gorge_conn_reason(f.conn), "connect: Connection refused");
  port_let_go(&port);
}

static void test_a_name_with_dead_addresses_connects_to_the_next(void **state) {
  (void)state;
  static struct asked a;
  listen_on_port();
  resolver_delay_us = 50000;
  link_to(gorge_endpoint_create("redis.test", (uint16_t)f.port, NULL), PATIENCE_MS, PATIENCE_MS);
  ask(&a, "PING");
  kick();
  unsigned before = ev_iteration(f.loop);
  uint64_t start_us = support_now_us();
  assert_true(RUN_UNTIL(shaken(), PATIENCE_MS));
  uint64_t ms = (support_now_us() - start_us) / 1000;
  assert_true(ev_iteration(f.loop) - before < 30 + ms / 4); /* no busy loop while the name is being resolved */
  assert_int_equal(gorge_conn_connects(f.conn), 1);
  assert_int_equal(a.status, GORGE_PENDING);
}

static void test_a_name_that_does_not_exist_is_told(void **state) {
  (void)state;
  static struct asked a;
  resolver_delay_us = 0;
  link_to(gorge_endpoint_create("nowhere.test", 6379, NULL), PATIENCE_MS, PATIENCE_MS);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_string_equal(gorge_conn_reason(f.conn), gai_strerror(EAI_NONAME));
}

static void test_a_resolver_that_hangs_ends_with_the_connect_timeout(void **state) {
  (void)state;
  static struct asked a;
  resolver_delay_us = 400000;
  link_to(gorge_endpoint_create("redis.test", 6379, NULL), 100, PATIENCE_MS);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 300));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
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
  link_to(at_path(f.path), PATIENCE_MS, PATIENCE_MS);
  ask(&a, "PING");
  kick();
  assert_true(turns_in(100) < 40);
  assert_int_equal(gorge_conn_state(f.conn), GORGE_CONN_CONNECTING);
  for (int i = 0; i < n; i++) {
    close(accept(f.listener, NULL, NULL));
    close(fill[i]);
  }
  assert_true(RUN_UNTIL(shaken(), PATIENCE_MS));
}

static void test_silence_in_the_handshake_ends_with_the_connect_timeout(void **state) {
  (void)state;
  static struct asked a;
  listen_on_path(8);
  link_to(at_path(f.path), 100, PATIENCE_MS);
  ask(&a, "PING");
  uint64_t start_us = support_now_us();
  kick();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, 600));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_true(support_now_us() - start_us >= 80000);
  assert_true(accepted());
  char bytes[256];
  while (recv(f.peer, bytes, sizeof bytes, 0) > 0) {
  }
  assert_int_equal(recv(f.peer, bytes, sizeof bytes, 0), 0); /* the socket is closed */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, link_prepare, link_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_nobody_at_the_path_is_told_and_retried),
      TEST(test_a_closed_port_is_told),
      TEST(test_a_name_with_dead_addresses_connects_to_the_next),
      TEST(test_a_name_that_does_not_exist_is_told),
      TEST(test_a_resolver_that_hangs_ends_with_the_connect_timeout),
      TEST(test_a_full_backlog_is_waited_for),
      TEST(test_silence_in_the_handshake_ends_with_the_connect_timeout),
  };
  return cmocka_run_group_tests(tests, link_begin, link_end);
}
