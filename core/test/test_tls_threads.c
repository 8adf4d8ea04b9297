/* SPDX-License-Identifier: MIT */
/* Sessions of several threads at once, with the same files: nothing is shared between them. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "test/tls_support.h"

enum { THREADS = 4, ROUNDS = 12 };

static struct tls_files files;

/* One session: agreed upon or refused, and something said in it. Returns whether it went as it should. */
static bool session(bool good) {
  struct tls_server server;
  char ca[TLS_PATH_MAX], reason[GORGE_TLS_REASON_MAX], bytes[256];
  size_t n;
  const char *ptr;
  size_t len = 0;
  snprintf(ca, sizeof ca, "%s/ca.pem", files.dir);
  struct gorge_tls_config config = {.ca = ca, .verify = true};
  tls_server_open(&server, &files, good ? "server" : "stranger", NULL);
  struct gorge_tls *client = gorge_tls_create(&config, "redis.test", reason, sizeof reason);
  if (client == NULL) {
    return false;
  }
  int status = tls_exchange(&server, client, 512);
  bool well = status == (good ? GORGE_OK : GORGE_ERR_DOWN);
  if (good && well) {
    well = SSL_write_ex(server.ssl, "+PONG\r\n", 7, &n) == 1 &&
           (n = tls_server_take(&server, bytes, sizeof bytes)) > 0 && gorge_tls_input(client, bytes, n) == GORGE_OK &&
           gorge_tls_read(client, &ptr, &len) == GORGE_OK && len == 7 && memcmp(ptr, "+PONG\r\n", 7) == 0 &&
           gorge_tls_write(client, "PING\r\n", 6) == GORGE_OK;
  }
  gorge_tls_destroy(client);
  tls_server_close(&server);
  return well;
}

static void *sessions(void *arg) {
  int *failed = arg;
  for (int i = 0; i < ROUNDS; i++) {
    *failed += !session(i % 3 != 2);
  }
  return NULL;
}

static void test_threads_have_sessions_of_their_own(void **state) {
  (void)state;
  pthread_t threads[THREADS];
  int failed[THREADS] = {0};
  for (int i = 0; i < THREADS; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, sessions, &failed[i]), 0);
  }
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    assert_int_equal(failed[i], 0);
  }
}

static int begin(void **state) {
  (void)state;
  return tls_files_make(&files) ? 0 : -1;
}

static int end(void **state) {
  (void)state;
  tls_files_remove(&files);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {cmocka_unit_test(test_threads_have_sessions_of_their_own)};
  return cmocka_run_group_tests(tests, begin, end);
}
