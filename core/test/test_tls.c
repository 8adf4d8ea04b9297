/* SPDX-License-Identifier: MIT */
#include <openssl/err.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "test/tls_support.h"

static struct tls_files files;
static struct tls_server server;
static struct gorge_tls *client;
static char reason[GORGE_TLS_REASON_MAX];

static int begin(void **state) {
  (void)state;
  return tls_files_make(&files) ? 0 : -1;
}

static int end(void **state) {
  (void)state;
  tls_files_remove(&files);
  return 0;
}

/* Nothing may be left in the thread's queue of errors: nginx would take it for its own. */
static int clean(void **state) {
  (void)state;
  unsigned long left = ERR_peek_error();
  gorge_tls_destroy(client);
  client = NULL;
  tls_server_close(&server);
  ERR_clear_error();
  return left == 0 ? 0 : -1;
}

static struct gorge_tls_config config(void) {
  static char ca[TLS_PATH_MAX];
  snprintf(ca, sizeof ca, "%s/ca.pem", files.dir);
  return (struct gorge_tls_config){.ca = ca, .verify = true};
}

static void connect_as(const struct gorge_tls_config *c, const char *host) {
  client = gorge_tls_create(c, host, reason, sizeof reason);
  assert_non_null(client);
}

/* Both sides agree. */
static void agree(const char *name) {
  struct gorge_tls_config c = config();
  tls_server_open(&server, &files, name, NULL);
  connect_as(&c, "redis.test");
  assert_int_equal(tls_exchange(&server, client, 4096), GORGE_OK);
  assert_true(gorge_tls_established(client));
}

/* Why a client that expects `host` does not take the server `name`; "" when it does. */
static const char *verdict(const char *name, const struct gorge_tls_config *c, const char *host) {
  static char said[GORGE_TLS_REASON_MAX];
  tls_server_open(&server, &files, name, NULL);
  connect_as(c, host);
  int status = tls_exchange(&server, client, 4096);
  strcpy(said, gorge_tls_reason(client));
  assert_int_equal(status, said[0] == '\0' ? GORGE_OK : GORGE_ERR_DOWN);
  assert_true(gorge_tls_established(client) == (status == GORGE_OK));
  gorge_tls_destroy(client);
  client = NULL;
  tls_server_close(&server);
  return said;
}

static void serve(const char *bytes, size_t len) {
  size_t taken;
  assert_int_equal(SSL_write_ex(server.ssl, bytes, len, &taken), 1);
  assert_int_equal(taken, len);
}

/* All that can be read, `step` bytes of ciphertext at a time. */
static size_t read_all(char *into, size_t size, size_t step) {
  char bytes[4096];
  size_t total = 0, n;
  while ((n = tls_server_take(&server, bytes, step)) > 0) {
    const char *ptr;
    size_t len;
    assert_int_equal(gorge_tls_input(client, bytes, n), GORGE_OK);
    do {
      assert_int_equal(gorge_tls_read(client, &ptr, &len), GORGE_OK);
      assert_true(total + len <= size);
      memcpy(into + total, ptr, len);
      total += len;
    } while (len > 0);
  }
  return total;
}

static void test_bytes_go_both_ways(void **state) {
  (void)state;
  char got[64];
  size_t n;
  agree("server");
  serve("+PONG\r\n", 7);
  assert_int_equal(read_all(got, sizeof got, 1), 7);
  assert_memory_equal(got, "+PONG\r\n", 7);
  assert_int_equal(gorge_tls_write(client, "PING\r\n", 6), GORGE_OK);
  tls_server_give(&server, client);
  assert_int_equal(SSL_read_ex(server.ssl, got, sizeof got, &n), 1);
  assert_int_equal(n, 6);
  assert_memory_equal(got, "PING\r\n", 6);
}

static void test_any_cut_of_the_wire_will_do(void **state) {
  (void)state;
  enum { SIZE = 300000 };
  char *sent = malloc(SIZE), *got = malloc(SIZE);
  for (size_t step = 1; step < 4096; step = step * 5 + 2) {
    struct gorge_tls_config c = config();
    tls_server_open(&server, &files, "server", NULL);
    connect_as(&c, "redis.test");
    assert_int_equal(tls_exchange(&server, client, step), GORGE_OK);
    for (size_t i = 0; i < SIZE; i++) {
      sent[i] = (char)(i * 7 + i / 251);
    }
    serve(sent, SIZE);
    assert_int_equal(read_all(got, SIZE, step), SIZE);
    assert_memory_equal(got, sent, SIZE);
    (void)clean(state);
  }
  free(sent);
  free(got);
}

static void test_much_is_written_at_once(void **state) {
  (void)state;
  enum { SIZE = 1 << 20 };
  char *sent = malloc(SIZE), *got = malloc(SIZE);
  agree("server");
  memset(sent, 'x', SIZE);
  assert_int_equal(gorge_tls_write(client, sent, SIZE), GORGE_OK);
  tls_server_give(&server, client);
  size_t total = 0, n;
  while (total < SIZE && SSL_read_ex(server.ssl, got + total, SIZE - total, &n) == 1) {
    total += n;
  }
  assert_int_equal(total, SIZE);
  assert_memory_equal(got, sent, SIZE);
  free(sent);
  free(got);
}

static void test_the_name_must_be_right(void **state) {
  (void)state;
  struct gorge_tls_config c = config();
  assert_string_equal(verdict("server", &c, "redis.test"), "");
  assert_string_equal(verdict("server", &c, "REDIS.test"), "");
  assert_string_equal(verdict("server", &c, "127.0.0.1"), "");
  assert_string_equal(verdict("server", &c, "::1"), "");
  assert_string_equal(verdict("wildcard", &c, "a.redis.test"), "");
  assert_string_equal(verdict("server", &c, "redis.example"),
                      "the server's certificate is for another name than: redis.example");
  assert_string_equal(verdict("server", &c, "127.0.0.2"),
                      "the server's certificate is for another name than: 127.0.0.2");
  assert_string_equal(verdict("wildcard", &c, "a.b.redis.test"),
                      "the server's certificate is for another name than: a.b.redis.test");
  c.server_name = "redis.test";
  assert_string_equal(verdict("server", &c, "10.0.0.1"), "");
  c.server_name = "redis.example";
  assert_string_equal(verdict("server", &c, "redis.test"),
                      "the server's certificate is for another name than: redis.example");
  c.server_name = "\x1b[2Jredis\n\xc3\xa9"; /* whoever prints it does not obey it */
  assert_string_equal(verdict("server", &c, "redis.test"),
                      "the server's certificate is for another name than: \\x1b[2Jredis\\x0a\\xc3\\xa9");
}

static void test_the_name_is_told_to_the_server(void **state) {
  (void)state;
  agree("server");
  assert_string_equal(SSL_get_servername(server.ssl, TLSEXT_NAMETYPE_host_name), "redis.test");
  (void)clean(state);
  struct gorge_tls_config c = config();
  tls_server_open(&server, &files, "server", NULL);
  connect_as(&c, "127.0.0.1"); /* an address is not to be told */
  assert_int_equal(tls_exchange(&server, client, 4096), GORGE_OK);
  assert_null(SSL_get_servername(server.ssl, TLSEXT_NAMETYPE_host_name));
}

static void test_the_chain_must_hold(void **state) {
  (void)state;
  struct gorge_tls_config c = config();
  assert_string_equal(verdict("expired", &c, "redis.test"), "the server's certificate has expired");
  assert_string_equal(verdict("future", &c, "redis.test"), "the server's certificate is not valid yet");
  static const char unknown[] = "the server's certificate is from an unknown CA (redis.tls.ca)";
  assert_memory_equal(verdict("stranger", &c, "redis.test"), unknown, sizeof unknown - 1);
  c.ca = NULL; /* the system knows nothing of it either */
  assert_memory_equal(verdict("server", &c, "redis.test"), unknown, sizeof unknown - 1);
}

static void test_the_systems_cas_are_known(void **state) {
  (void)state;
  struct gorge_tls_config c = {.verify = true};
  unsetenv("SSL_CERT_FILE");
  setenv("SSL_CERT_DIR", files.dir, 1);
  assert_string_equal(verdict("server", &c, "redis.test"), "");
  setenv("SSL_CERT_DIR", "/nowhere", 1);
  assert_true(verdict("server", &c, "redis.test")[0] != '\0');
  setenv("SSL_CERT_FILE", config().ca, 1);
  assert_string_equal(verdict("server", &c, "redis.test"), "");
  unsetenv("SSL_CERT_FILE");
  unsetenv("SSL_CERT_DIR");
}

static void test_nothing_is_verified_when_so_told(void **state) {
  (void)state;
  struct gorge_tls_config c = {.verify = false};
  assert_string_equal(verdict("expired", &c, "redis.test"), "");
  assert_string_equal(verdict("stranger", &c, "redis.example"), "");
}

/* A server that wants a certificate, and what the client says of it. */
static const char *ask_for_certificate(int version, const char *cert, int *status) {
  struct gorge_tls_config c = config();
  const char *ptr;
  size_t len;
  char path[TLS_PATH_MAX], key[TLS_PATH_MAX];
  if (cert != NULL) {
    snprintf(path, sizeof path, "%s/%s.pem", files.dir, cert);
    snprintf(key, sizeof key, "%s/%s.key", files.dir, cert);
    c.cert = path;
    c.key = key;
  }
  tls_server_open(&server, &files, "server", tls_file(&files, "ca.pem"));
  tls_server_versions(&server, version, version);
  connect_as(&c, "redis.test");
  *status = tls_exchange(&server, client, 4096);
  if (*status == GORGE_OK) {
    *status = gorge_tls_read(client, &ptr, &len); /* with TLS 1.3 the client has done its part before it is refused */
  }
  return gorge_tls_reason(client);
}

static void test_a_client_certificate_is_shown_when_asked_for(void **state) {
  (void)state;
  static const char required[] = "Redis requires a client certificate (redis.tls.cert and redis.tls.key)";
  static const char refused[] = "Redis does not accept the client certificate (redis.tls.cert)";
  int status;
  for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
    assert_string_equal(ask_for_certificate(version, "client", &status), "");
    assert_int_equal(status, GORGE_OK);
    assert_true(SSL_is_init_finished(server.ssl));
    (void)clean(state);
    assert_string_equal(ask_for_certificate(version, NULL, &status), required);
    assert_int_equal(status, GORGE_ERR_DOWN);
    (void)clean(state);
    assert_memory_equal(ask_for_certificate(version, "stranger", &status), refused, sizeof refused - 1);
    assert_int_equal(status, GORGE_ERR_DOWN);
    (void)clean(state);
    assert_memory_equal(ask_for_certificate(version, "expired", &status), refused, sizeof refused - 1);
    (void)clean(state);
  }
}

static void test_nothing_older_than_1_2_is_spoken(void **state) {
  (void)state;
  struct gorge_tls_config c = config();
  static const char old[] = "the server speaks no TLS 1.2 or newer";
  tls_server_open(&server, &files, "server", NULL);
  tls_server_versions(&server, TLS1_VERSION, TLS1_1_VERSION);
  connect_as(&c, "redis.test");
  assert_int_equal(tls_exchange(&server, client, 4096), GORGE_ERR_DOWN);
  assert_memory_equal(gorge_tls_reason(client), old, sizeof old - 1);
}

static void test_a_server_without_tls_is_told(void **state) {
  (void)state;
  static const char *const said[] = {"-ERR unknown command\r\n", "HTTP/1.1 400 Bad Request\r\n", "\xff", "\n"};
  for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
    struct gorge_tls_config c = config();
    connect_as(&c, "redis.test");
    assert_int_equal(gorge_tls_input(client, said[i], strlen(said[i])), GORGE_ERR_DOWN);
    assert_string_equal(gorge_tls_reason(client), "the server does not speak TLS");
    gorge_tls_destroy(client);
  }
  client = NULL;
}

/* The server's first answer, whole. */
static size_t first_answer(char *bytes, size_t size) {
  struct gorge_tls_config c = config();
  tls_server_open(&server, &files, "server", NULL);
  connect_as(&c, "redis.test");
  tls_server_give(&server, client);
  return tls_server_take(&server, bytes, size);
}

static void test_a_handshake_may_end_anywhere(void **state) {
  (void)state;
  char bytes[4096];
  size_t len = first_answer(bytes, sizeof bytes);
  assert_in_range(len, 500, sizeof bytes - 1);
  (void)clean(state);
  for (size_t cut = 0; cut < len; cut += 1 + cut / 8) {
    size_t now = first_answer(bytes, sizeof bytes);
    assert_int_equal(gorge_tls_input(client, bytes, cut < now ? cut : now), GORGE_OK);
    assert_false(gorge_tls_established(client));
    (void)clean(state);
  }
}

static void test_a_damaged_handshake_is_refused(void **state) {
  (void)state;
  char bytes[4096];
  for (size_t at = 0; at < 700; at += 1 + at / 16) {
    size_t len = first_answer(bytes, sizeof bytes);
    bytes[at] ^= 0x20;
    int status = gorge_tls_input(client, bytes, len);
    assert_true(status == GORGE_ERR_DOWN || status == GORGE_OK); /* OK: it waits for a record that was made longer */
    assert_true(!gorge_tls_established(client) || at == 1 || at == 2); /* a version that nobody looks at */
    assert_true(status == GORGE_OK || gorge_tls_reason(client)[0] != '\0');
    (void)clean(state);
  }
}

static void test_a_damaged_record_is_a_protocol_error(void **state) {
  (void)state;
  char bytes[256];
  const char *ptr;
  size_t len;
  agree("server");
  serve("+PONG\r\n", 7);
  size_t n = tls_server_take(&server, bytes, sizeof bytes);
  bytes[n - 1] ^= 1;
  assert_int_equal(gorge_tls_input(client, bytes, n), GORGE_OK);
  assert_int_equal(gorge_tls_read(client, &ptr, &len), GORGE_ERR_PROTOCOL);
  assert_int_equal(len, 0);
  assert_true(gorge_tls_reason(client)[0] != '\0');
}

static void test_an_orderly_end_is_told_after_what_came_before(void **state) {
  (void)state;
  char bytes[256];
  const char *ptr;
  size_t len;
  agree("server");
  serve("+OK\r\n", 5);
  SSL_shutdown(server.ssl);
  size_t n = tls_server_take(&server, bytes, sizeof bytes);
  assert_int_equal(gorge_tls_input(client, bytes, n), GORGE_OK);
  assert_int_equal(gorge_tls_read(client, &ptr, &len), GORGE_OK);
  assert_int_equal(len, 5);
  assert_int_equal(gorge_tls_read(client, &ptr, &len), GORGE_ERR_CLOSED);
}

static void test_new_keys_are_taken_and_a_new_handshake_is_not(void **state) {
  (void)state;
  char got[64];
  agree("server");
  assert_int_equal(SSL_key_update(server.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
  serve("+OK\r\n", 5);
  assert_int_equal(read_all(got, sizeof got, 3), 5);
  const char *ptr;
  size_t len;
  assert_int_equal(gorge_tls_write(client, "PING\r\n", 6), GORGE_OK);
  tls_server_give(&server, client);
  size_t n = 0;
  assert_int_equal(SSL_read_ex(server.ssl, got, sizeof got, &n), 1);
  assert_int_equal(n, 6);
  (void)clean(state);

  struct gorge_tls_config c = config();
  tls_server_open(&server, &files, "server", NULL);
  tls_server_versions(&server, TLS1_2_VERSION, TLS1_2_VERSION);
  connect_as(&c, "redis.test");
  assert_int_equal(tls_exchange(&server, client, 4096), GORGE_OK);
  assert_int_equal(SSL_renegotiate(server.ssl), 1);
  SSL_do_handshake(server.ssl);
  char bytes[256];
  n = tls_server_take(&server, bytes, sizeof bytes);
  assert_true(n > 0);
  assert_int_equal(gorge_tls_input(client, bytes, n), GORGE_OK);
  assert_int_equal(gorge_tls_read(client, &ptr, &len), GORGE_OK);
  assert_int_equal(len, 0);
  gorge_tls_output(client, &ptr, &len);
  assert_in_range(len, 1, 64); /* an alert, and no ClientHello */
}

static const char *check(const struct gorge_tls_config *c) {
  reason[0] = '\0';
  assert_true(gorge_tls_check(c, reason, sizeof reason) == (reason[0] == '\0'));
  assert_int_equal(ERR_peek_error(), 0);
  return reason;
}

static void test_files_that_will_not_do_are_named(void **state) {
  (void)state;
  char expected[256];
  struct gorge_tls_config c = config();
  assert_string_equal(check(&c), "");
  c.ca = "/nowhere/ca.pem";
  assert_string_equal(check(&c), "redis.tls.ca: No such file or directory: /nowhere/ca.pem");
  assert_null(gorge_tls_create(&c, "redis.test", reason, sizeof reason));
  assert_string_equal(reason, "redis.tls.ca: No such file or directory: /nowhere/ca.pem");
  c.ca = tls_file(&files, "ca.key");
  snprintf(expected, sizeof expected, "redis.tls.ca: no certificates in PEM form: %s", c.ca);
  assert_string_equal(check(&c), expected);
  c.ca = files.dir;
  assert_memory_equal(check(&c), "redis.tls.ca: no cert", 20);
  c = config();
  c.cert = tls_file(&files, "client.key");
  c.key = tls_file(&files, "client.key");
  snprintf(expected, sizeof expected, "redis.tls.cert: no certificate in PEM form: %s", c.cert);
  assert_string_equal(check(&c), expected);
  c.cert = tls_file(&files, "client.pem");
  assert_string_equal(check(&c), "");
  c.key = tls_file(&files, "server.key");
  snprintf(expected, sizeof expected, "redis.tls.key: not the key of redis.tls.cert: %s", c.key);
  assert_string_equal(check(&c), expected);
  c.key = tls_file(&files, "locked.key"); /* and nobody is asked at the terminal */
  snprintf(expected, sizeof expected, "redis.tls.key: no key in PEM form without a passphrase: %s", c.key);
  assert_string_equal(check(&c), expected);
  c.key = NULL;
  assert_string_equal(check(&c), "redis.tls.key: needed with redis.tls.cert");
  assert_false(gorge_tls_check(&c, NULL, 0));
}

#define TEST(name) cmocka_unit_test_teardown(name, clean)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(test_bytes_go_both_ways),
      TEST(test_any_cut_of_the_wire_will_do),
      TEST(test_much_is_written_at_once),
      TEST(test_the_name_must_be_right),
      TEST(test_the_name_is_told_to_the_server),
      TEST(test_the_chain_must_hold),
      TEST(test_the_systems_cas_are_known),
      TEST(test_nothing_is_verified_when_so_told),
      TEST(test_a_client_certificate_is_shown_when_asked_for),
      TEST(test_nothing_older_than_1_2_is_spoken),
      TEST(test_a_server_without_tls_is_told),
      TEST(test_a_handshake_may_end_anywhere),
      TEST(test_a_damaged_handshake_is_refused),
      TEST(test_a_damaged_record_is_a_protocol_error),
      TEST(test_an_orderly_end_is_told_after_what_came_before),
      TEST(test_new_keys_are_taken_and_a_new_handshake_is_not),
      TEST(test_files_that_will_not_do_are_named),
  };
  return cmocka_run_group_tests(tests, begin, end);
}
