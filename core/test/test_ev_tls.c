/* SPDX-License-Identifier: MIT */
/* TLS through sockets: with a real Redis, and with a server that stops in the middle. */
#include <hiredis/hiredis.h>
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
#include "test/tls_support.h"

static struct tls_files files;
static char ca[TLS_PATH_MAX], cert[TLS_PATH_MAX], key[TLS_PATH_MAX], client_cert[TLS_PATH_MAX],
    client_key[TLS_PATH_MAX];
static struct kept_port port;
static char port_text[8];
static const struct gorge_tls_config with_certificate = {
    .ca = ca, .cert = client_cert, .key = client_key, .verify = true};
static const struct gorge_tls_config without = {.ca = ca, .verify = true};

static int begin(void **state) {
  static const char *const options[] = {"--tls-port",
                                        port_text,
                                        "--tls-cert-file",
                                        cert,
                                        "--tls-key-file",
                                        key,
                                        "--tls-ca-cert-file",
                                        ca,
                                        "--tls-auth-clients",
                                        "yes",
                                        NULL};
  if (!tls_files_make(&files) || !port_keep(&port)) {
    return -1;
  }
  snprintf(ca, sizeof ca, "%s/ca.pem", files.dir);
  snprintf(cert, sizeof cert, "%s/server.pem", files.dir);
  snprintf(key, sizeof key, "%s/server.key", files.dir);
  snprintf(client_cert, sizeof client_cert, "%s/client.pem", files.dir);
  snprintf(client_key, sizeof client_key, "%s/client.key", files.dir);
  snprintf(port_text, sizeof port_text, "%u", port.number);
  f.redis.options = options;
  return link_begin(state);
}

static int end(void **state) {
  tls_files_remove(&files);
  port_let_go(&port);
  return link_end(state);
}

static int prepare(void **state) {
  int rc = link_prepare(state);
  f.tls = &with_certificate;
  f.host = "127.0.0.1";
  return rc;
}

static void link_to_redis(void) {
  link_to(gorge_endpoint_create("127.0.0.1", port.number, NULL), PATIENCE_MS, PATIENCE_MS);
}

static void link_to_listener(uint32_t connect_timeout_ms) {
  listen_on_port();
  link_to(gorge_endpoint_create("127.0.0.1", (uint16_t)f.port, NULL), connect_timeout_ms, PATIENCE_MS);
}

/* Asks for something that will not be had; returns why. */
static const char *refusal(void) {
  static struct asked a;
  assert_int_equal(ask(&a, "PING"), GORGE_OK);
  kick();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  return gorge_conn_reason(f.conn);
}

static void test_commands_reach_redis_and_come_back(void **state) {
  (void)state;
  static struct asked a;
  link_to_redis();
  assert_int_equal(ask(&a, "PING"), GORGE_OK);
  kick();
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_int_equal(a.status, GORGE_OK);
  assert_int_equal(gorge_conn_connects(f.conn), 1);
  assert_true(turns_in(100) < 10); /* and then there is rest */
}

/*
 * First one way, then the other: when replies are added to some that wait for room, Redis 7.0 may go on with fewer bytes than it had given to
 * OpenSSL, which ends the connection ("bad length" in its log; issue 1135 of Valkey).
 */
static void test_much_more_than_socket_buffers_hold_goes_both_ways(void **state) {
  (void)state;
  enum { N = 400, SIZE = 50000 };
  static struct asked set[N], get[N];
  static char value[SIZE], name[N][16];
  link_to_redis();
  memset(value, 'x', sizeof value);
  for (int i = 0; i < N; i++) {
    size_t len = (size_t)snprintf(name[i], sizeof name[i], "k%d", i);
    assert_int_equal(submit(&set[i], 3, (const char *[]){"SET", name[i], value}, (size_t[]){3, len, SIZE}), GORGE_OK);
  }
  kick();
  assert_true(RUN_UNTIL(f.done == N, PATIENCE_MS));
  for (int i = 0; i < N; i++) {
    assert_int_equal(submit(&get[i], 2, (const char *[]){"GET", name[i]}, (size_t[]){3, strlen(name[i])}), GORGE_OK);
  }
  kick();
  assert_true(RUN_UNTIL(f.done == 2 * N, PATIENCE_MS));
  for (int i = 0; i < N; i++) {
    if (set[i].status != GORGE_OK || get[i].status != GORGE_OK) {
      fail_msg("%d: %d, %d, %s", i, set[i].status, get[i].status, gorge_conn_reason(f.conn));
    }
    assert_int_equal(get[i].len, SIZE);
  }
  assert_int_equal(gorge_conn_connects(f.conn), 1);
  assert_true(turns_in(100) < 10);
}

static void test_it_connects_again_with_the_files_of_then(void **state) {
  (void)state;
  static struct asked a;
  char away[TLS_PATH_MAX + 8];
  link_to_redis();
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(a.status == GORGE_OK, PATIENCE_MS));
  snprintf(away, sizeof away, "%s.away", client_key);
  assert_int_equal(rename(client_key, away), 0);
  assert_true(support_redis_restart(&f.redis));
  assert_true(RUN_UNTIL(strncmp(gorge_conn_reason(f.conn), "TLS: redis.tls.key: No such file", 32) == 0, PATIENCE_MS));
  assert_int_equal(rename(away, client_key), 0);
  assert_true(RUN_UNTIL(gorge_conn_state(f.conn) == GORGE_CONN_READY, PATIENCE_MS));
  assert_int_equal(gorge_conn_connects(f.conn), 2);
}

static void test_a_missing_client_certificate_is_told(void **state) {
  (void)state;
  f.tls = &without;
  link_to_redis();
  assert_string_equal(refusal(), "TLS: Redis requires a client certificate (redis.tls.cert and redis.tls.key)");
}

static void test_a_wrong_name_is_told(void **state) {
  (void)state;
  f.host = "redis.example";
  link_to_redis();
  assert_string_equal(refusal(), "TLS: the server's certificate is for another name than: redis.example");
}

static void test_silence_in_the_handshake_ends_with_the_connect_timeout(void **state) {
  (void)state;
  link_to_listener(100);
  uint64_t start_us = support_now_us();
  assert_string_equal(refusal(), "the TLS handshake took too long: is the port one for TLS?");
  assert_true(support_now_us() - start_us >= 80000);
  assert_true(accepted());
  char bytes[2048];
  while (recv(f.peer, bytes, sizeof bytes, 0) > 0) {
  }
  assert_int_equal(recv(f.peer, bytes, sizeof bytes, 0), 0); /* the socket is closed */
}

/* The server's side of the handshake through the socket, `step` bytes at a time, until `limit` bytes have gone. */
static bool serve_step(struct tls_server *s, size_t step, size_t limit, size_t *gone) {
  char bytes[4096];
  if (!accepted()) {
    return false;
  }
  ssize_t n = recv(f.peer, bytes, sizeof bytes, 0);
  if (n > 0) {
    BIO_write(s->in, bytes, (int)n);
  }
  SSL_do_handshake(s->ssl);
  size_t left = limit - *gone;
  size_t len = tls_server_take(s, bytes, left < step ? left : step);
  if (len > 0) {
    assert_int_equal(send(f.peer, bytes, len, MSG_NOSIGNAL), len);
    *gone += len;
  }
  return *gone >= limit || SSL_is_init_finished(s->ssl);
}

static void test_a_cut_in_the_handshake_is_told(void **state) {
  (void)state;
  static struct asked a;
  struct tls_server s;
  size_t gone = 0;
  tls_server_open(&s, &files, "server", NULL);
  link_to_listener(PATIENCE_MS);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(serve_step(&s, 64, 500, &gone), PATIENCE_MS));
  assert_int_equal(a.status, GORGE_PENDING);
  close(f.peer);
  f.peer = -1;
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_int_equal(a.status, GORGE_ERR_DOWN);
  assert_string_equal(gorge_conn_reason(f.conn), "closed by Redis in the TLS handshake");
  tls_server_close(&s);
}

static void test_a_slow_handshake_is_waited_for(void **state) {
  (void)state;
  static struct asked a;
  struct tls_server s;
  size_t gone = 0;
  tls_server_open(&s, &files, "server", NULL);
  link_to_listener(PATIENCE_MS);
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(serve_step(&s, 16, SIZE_MAX, &gone), PATIENCE_MS)); /* some hundred pieces */
  assert_true(gone > 500);
  assert_true(RUN_UNTIL(gorge_conn_state(f.conn) == GORGE_CONN_HANDSHAKE, PATIENCE_MS));
  tls_server_close(&s);
}

static void test_a_port_without_tls_is_told(void **state) {
  (void)state;
  link_to_listener(PATIENCE_MS);
  static struct asked a;
  ask(&a, "PING");
  kick();
  assert_true(RUN_UNTIL(accepted(), PATIENCE_MS));
  assert_int_equal(send(f.peer, "-ERR what?\r\n", 12, MSG_NOSIGNAL), 12);
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING, PATIENCE_MS));
  assert_string_equal(gorge_conn_reason(f.conn), "TLS: the server does not speak TLS");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, prepare, link_clean)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_commands_reach_redis_and_come_back),
      TEST(test_much_more_than_socket_buffers_hold_goes_both_ways),
      TEST(test_it_connects_again_with_the_files_of_then),
      TEST(test_a_missing_client_certificate_is_told),
      TEST(test_a_wrong_name_is_told),
      TEST(test_silence_in_the_handshake_ends_with_the_connect_timeout),
      TEST(test_a_cut_in_the_handshake_is_told),
      TEST(test_a_slow_handshake_is_waited_for),
      TEST(test_a_port_without_tls_is_told),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
