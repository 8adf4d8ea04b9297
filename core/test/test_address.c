/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "drive/address.h"
#include "test/drive_support.h"

/* The system's resolver, as the tests want it: it takes the place of libc's. */
static struct {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  bool hold; /* answers wait */
  int calls, ended;
  int failure;
  const char *addresses[4];
  bool signals_blocked;
} resolver = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static struct addrinfo *answer(const char *text) {
  struct addrinfo *a = calloc(1, sizeof *a + sizeof(struct sockaddr_in6));
  struct sockaddr_in *in = (void *)(a + 1);
  struct sockaddr_in6 *in6 = (void *)(a + 1);
  a->ai_addr = (void *)(a + 1);
  if (inet_pton(AF_INET, text, &in->sin_addr) == 1) {
    in->sin_family = AF_INET;
    a->ai_addrlen = sizeof *in;
  } else {
    inet_pton(AF_INET6, text, &in6->sin6_addr);
    in6->sin6_family = AF_INET6;
    a->ai_addrlen = sizeof *in6;
  }
  a->ai_family = a->ai_addr->sa_family;
  return a;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  (void)service, (void)hints;
  sigset_t mask;
  pthread_sigmask(SIG_SETMASK, NULL, &mask);
  pthread_mutex_lock(&resolver.mutex);
  resolver.calls += strcmp(node, "redis.test") == 0 ? 0 : 1000;
  resolver.calls++;
  resolver.signals_blocked =
      sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGCHLD) == 1 && sigismember(&mask, SIGSEGV) == 0;
  while (resolver.hold) {
    pthread_cond_wait(&resolver.changed, &resolver.mutex);
  }
  struct addrinfo **tail = found;
  *found = NULL;
  for (int i = 0; i < 4 && resolver.failure == 0 && resolver.addresses[i] != NULL; i++) {
    *tail = answer(resolver.addresses[i]);
    tail = &(*tail)->ai_next;
  }
  int failure = resolver.failure;
  resolver.ended++;
  pthread_mutex_unlock(&resolver.mutex);
  return failure;
}

void freeaddrinfo(struct addrinfo *a) {
  while (a != NULL) {
    struct addrinfo *next = a->ai_next;
    free(a);
    a = next;
  }
}

static void resolver_set(bool hold, int failure, const char *first, const char *second) {
  pthread_mutex_lock(&resolver.mutex);
  resolver.hold = hold;
  resolver.failure = failure;
  resolver.addresses[0] = first;
  resolver.addresses[1] = second;
  pthread_cond_broadcast(&resolver.changed);
  pthread_mutex_unlock(&resolver.mutex);
}

static int calls(void) {
  pthread_mutex_lock(&resolver.mutex);
  int n = resolver.calls;
  pthread_mutex_unlock(&resolver.mutex);
  return n;
}

static int prepare(void **state) {
  (void)state;
  resolver_set(false, 0, "192.0.2.1", NULL);
  resolver.calls = resolver.ended = 0;
  return 0;
}

static int alone(void **state) {
  (void)state;
  return WAIT_UNTIL(support_count("/proc/self/task") == 1) ? 0 : -1;
}

static int status_at(struct gorge_endpoint *e, uint64_t now_ms) {
  struct gorge_address a;
  const char *reason = NULL;
  return gorge_endpoint_address(e, now_ms, &a, &reason);
}

/* The numeric host of the address at now_ms, "" when there is none. */
static const char *host_at(struct gorge_endpoint *e, uint64_t now_ms) {
  static char host[128];
  uint16_t port = 0;
  host[0] = '\0';
  if (gorge_endpoint_text(e, now_ms, host, sizeof host, &port, NULL) == GORGE_OK) {
    assert_int_equal(port, 6379);
  }
  return host;
}

static void test_numbers_and_paths_are_known_at_once(void **state) {
  (void)state;
  struct gorge_address a;
  char text[128];
  uint16_t port;
  struct gorge_endpoint *e = gorge_endpoint_create("127.0.0.1", 6380, NULL);
  assert_int_equal(gorge_endpoint_address(e, 0, &a, NULL), GORGE_OK);
  assert_int_equal(a.sa.in.sin_family, AF_INET);
  assert_int_equal(ntohs(a.sa.in.sin_port), 6380);
  assert_int_equal(a.len, sizeof a.sa.in);
  gorge_endpoint_destroy(e);

  e = gorge_endpoint_create("::1", 6381, NULL);
  assert_int_equal(gorge_endpoint_address(e, 0, &a, NULL), GORGE_OK);
  assert_int_equal(a.sa.in6.sin6_family, AF_INET6);
  assert_int_equal(ntohs(a.sa.in6.sin6_port), 6381);
  assert_int_equal(gorge_endpoint_text(e, 0, text, sizeof text, &port, NULL), GORGE_OK);
  assert_string_equal(text, "[::1]");
  assert_int_equal(port, 6381);
  gorge_endpoint_destroy(e);

  e = gorge_endpoint_create(NULL, 0, "/run/redis.sock");
  assert_int_equal(gorge_endpoint_address(e, 0, &a, NULL), GORGE_OK);
  assert_int_equal(a.sa.un.sun_family, AF_UNIX);
  assert_string_equal(a.sa.un.sun_path, "/run/redis.sock");
  assert_int_equal(gorge_endpoint_text(e, 0, text, sizeof text, &port, NULL), GORGE_OK);
  assert_string_equal(text, "unix:/run/redis.sock");
  assert_int_equal(port, 0);
  assert_int_equal(gorge_endpoint_text(e, 0, text, 8, &port, NULL), GORGE_SPACE);
  gorge_endpoint_destroy(e);

  assert_int_equal(calls(), 0);
  assert_int_equal(support_count("/proc/self/task"), 1);
}

static void test_what_cannot_be_an_address_is_refused(void **state) {
  (void)state;
  char path[200];
  memset(path, 'a', sizeof path);
  path[0] = '/';
  path[108] = '\0';
  assert_null(gorge_endpoint_create(NULL, 0, path));
  path[107] = '\0'; /* with its NUL exactly what fits */
  struct gorge_endpoint *e = gorge_endpoint_create(NULL, 0, path);
  assert_non_null(e);
  gorge_endpoint_destroy(e);
  assert_null(gorge_endpoint_create(NULL, 0, ""));
  assert_null(gorge_endpoint_create("", 6379, NULL));
  assert_null(gorge_endpoint_create(NULL, 6379, NULL));
  gorge_endpoint_destroy(NULL);
}

static void test_a_name_is_resolved_by_one_thread_aside(void **state) {
  (void)state;
  resolver_set(true, 0, "192.0.2.1", NULL);
  struct gorge_endpoint *e = gorge_endpoint_create("redis.test", 6379, NULL);
  for (uint64_t now_ms = 1; now_ms < 20000; now_ms += 100) {
    assert_int_equal(status_at(e, now_ms), GORGE_PENDING);
  }
  assert_true(WAIT_UNTIL(calls() == 1));
  assert_int_equal(support_count("/proc/self/task"), 2);
  resolver_set(false, 0, "192.0.2.1", NULL);
  assert_true(WAIT_UNTIL(status_at(e, 20000) == GORGE_OK));
  assert_string_equal(host_at(e, 20000), "192.0.2.1");
  assert_int_equal(calls(), 1);
  assert_true(resolver.signals_blocked);
  gorge_endpoint_destroy(e);
}

static void test_a_failure_tells_why_and_is_tried_again_after_a_second(void **state) {
  (void)state;
  resolver_set(false, EAI_NONAME, NULL, NULL);
  struct gorge_endpoint *e = gorge_endpoint_create("redis.test", 6379, NULL);
  struct gorge_address a;
  const char *reason = NULL;
  assert_true(WAIT_UNTIL(gorge_endpoint_address(e, 1000, &a, &reason) == GORGE_ERR_SYSTEM));
  assert_string_equal(reason, gai_strerror(EAI_NONAME));
  resolver_set(false, 0, "192.0.2.7", NULL);
  assert_int_equal(status_at(e, 1999), GORGE_ERR_SYSTEM);
  assert_int_equal(calls(), 1);
  assert_int_not_equal(status_at(e, 2000), GORGE_ERR_SYSTEM);
  assert_true(WAIT_UNTIL(status_at(e, 2000) == GORGE_OK));
  assert_int_equal(calls(), 2);
  gorge_endpoint_destroy(e);
}

static void test_an_answer_is_kept_and_replaced_behind_the_callers(void **state) {
  (void)state;
  struct gorge_endpoint *e = gorge_endpoint_create("redis.test", 6379, NULL);
  assert_true(WAIT_UNTIL(status_at(e, 1000) == GORGE_OK));
  resolver_set(true, 0, "192.0.2.2", NULL);
  assert_string_equal(host_at(e, 5999), "192.0.2.1");
  assert_int_equal(calls(), 1);
  assert_string_equal(host_at(e, 6000), "192.0.2.1"); /* while the new one is fetched */
  assert_true(WAIT_UNTIL(calls() == 2));
  assert_string_equal(host_at(e, 8000), "192.0.2.1");
  resolver_set(false, 0, "192.0.2.2", NULL);
  assert_true(WAIT_UNTIL(strcmp(host_at(e, 8000), "192.0.2.2") == 0));
  /* A resolver that fails later takes nothing away. */
  resolver_set(false, EAI_AGAIN, NULL, NULL);
  assert_string_equal(host_at(e, 13000), "192.0.2.2");
  assert_true(WAIT_UNTIL(calls() == 3));
  assert_string_equal(host_at(e, 13500), "192.0.2.2");
  gorge_endpoint_destroy(e);
}

static void test_another_address_follows_one_that_does_not_answer(void **state) {
  (void)state;
  resolver_set(false, 0, "2001:db8::1", "192.0.2.1");
  struct gorge_endpoint *e = gorge_endpoint_create("redis.test", 6379, NULL);
  struct gorge_address first;
  assert_true(WAIT_UNTIL(gorge_endpoint_address(e, 1000, &first, NULL) == GORGE_OK));
  assert_string_equal(host_at(e, 1000), "[2001:db8::1]");
  assert_int_equal(gorge_endpoint_failed(e, &first), 2);
  assert_string_equal(host_at(e, 1000), "192.0.2.1");
  assert_int_equal(gorge_endpoint_failed(e, &first), 2); /* told by a second user of it: nothing changes */
  assert_string_equal(host_at(e, 1000), "192.0.2.1");
  /* What answers stays in use when the name is resolved anew. */
  host_at(e, 6000);
  assert_true(WAIT_UNTIL(calls() == 2));
  assert_true(alone(NULL) == 0);
  assert_string_equal(host_at(e, 6001), "192.0.2.1");
  gorge_endpoint_failed(e, NULL);
  assert_string_equal(host_at(e, 6001), "[2001:db8::1]");
  gorge_endpoint_destroy(e);
}

static void test_an_endpoint_may_go_while_its_name_is_being_resolved(void **state) {
  (void)state;
  resolver_set(true, 0, "192.0.2.1", NULL);
  struct gorge_endpoint *e = gorge_endpoint_create("redis.test", 6379, NULL);
  assert_int_equal(status_at(e, 1000), GORGE_PENDING);
  assert_true(WAIT_UNTIL(calls() == 1));
  gorge_endpoint_destroy(e);
  resolver_set(false, 0, "192.0.2.1", NULL); /* the thread frees what is left: the leak checker looks */
}

static void test_a_child_does_not_wait_for_the_parents_thread(void **state) {
  (void)state;
  resolver_set(true, 0, "192.0.2.1", NULL);
  struct gorge_endpoint *e = gorge_endpoint_create("redis.test", 6379, NULL);
  assert_int_equal(status_at(e, 1000), GORGE_PENDING);
  assert_true(WAIT_UNTIL(calls() == 1));
  pthread_mutex_lock(&resolver.mutex); /* so that the child gets it in a known state */
  pid_t child = fork();
  pthread_mutex_unlock(&resolver.mutex);
  if (child == 0) {
    pthread_cond_init(&resolver.changed, NULL); /* the parent's thread is no waiter here */
    resolver_set(false, 0, "192.0.2.9", NULL);
    bool good = WAIT_UNTIL(strcmp(host_at(e, 1000), "192.0.2.9") == 0);
    gorge_endpoint_destroy(e);
    _exit(good ? 0 : 1);
  }
  int status = -1;
  assert_int_equal(waitpid(child, &status, 0), child);
  assert_int_equal(status, 0);
  resolver_set(false, 0, "192.0.2.1", NULL);
  assert_true(WAIT_UNTIL(strcmp(host_at(e, 1000), "192.0.2.1") == 0));
  gorge_endpoint_destroy(e);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_numbers_and_paths_are_known_at_once, prepare, alone),
      cmocka_unit_test_setup_teardown(test_what_cannot_be_an_address_is_refused, prepare, alone),
      cmocka_unit_test_setup_teardown(test_a_name_is_resolved_by_one_thread_aside, prepare, alone),
      cmocka_unit_test_setup_teardown(test_a_failure_tells_why_and_is_tried_again_after_a_second, prepare, alone),
      cmocka_unit_test_setup_teardown(test_an_answer_is_kept_and_replaced_behind_the_callers, prepare, alone),
      cmocka_unit_test_setup_teardown(test_another_address_follows_one_that_does_not_answer, prepare, alone),
      cmocka_unit_test_setup_teardown(test_an_endpoint_may_go_while_its_name_is_being_resolved, prepare, alone),
      cmocka_unit_test_setup_teardown(test_a_child_does_not_wait_for_the_parents_thread, prepare, alone),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
