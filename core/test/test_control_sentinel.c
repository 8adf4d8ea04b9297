/* SPDX-License-Identifier: MIT */
/* The lookout of the control thread: whom it believes, of sentinels that say what the test wants. */
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "drive/master.h"
#include "test/control_support.h"

enum { SENTINELS = 2, PEERS = 16 };

/* A sentinel of the test's own, on a thread of its own. */
struct sentinel {
  pthread_t thread;
  int listener, peers[PEERS];
  uint16_t port;
  uint64_t epoch; /* atomic, all three: what it says; epoch 0: it knows no master */
  uint64_t master;
  uint64_t stop;
};

static struct sentinel sentinels[SENTINELS];

static void say(int fd, const char *text) {
  ssize_t n = send(fd, text, strlen(text), MSG_NOSIGNAL);
  (void)n;
}

static void answer(const struct sentinel *s, int fd, const char *asked) {
  char text[512], epoch[24], port[24];
  snprintf(epoch, sizeof epoch, "%llu", (unsigned long long)word(&s->epoch));
  snprintf(port, sizeof port, "%llu", (unsigned long long)word(&s->master));
  if (strstr(asked, "SETNAME") != NULL) {
    say(fd, "+OK\r\n+PONG\r\n");
  } else if (strstr(asked, "SUBSCRIBE") != NULL) {
    say(fd, "*3\r\n$9\r\nsubscribe\r\n$14\r\n+switch-master\r\n:1\r\n");
  } else if (strstr(asked, "SENTINEL") == NULL) {
    say(fd, "*2\r\n$4\r\npong\r\n$0\r\n\r\n");
  } else if (word(&s->epoch) == 0) {
    say(fd, "-ERR No such master with that name\r\n*-1\r\n");
  } else {
    snprintf(text, sizeof text,
             "*6\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n$4\r\nport\r\n$%zu\r\n%s\r\n$12\r\nconfig-epoch\r\n$%zu\r\n%s\r\n"
             "*2\r\n$9\r\n127.0.0.1\r\n$%zu\r\n%s\r\n",
             strlen(port), port, strlen(epoch), epoch, strlen(port), port);
    say(fd, text);
  }
}

static void serve(struct sentinel *s, int i) {
  char asked[1024];
  ssize_t n = recv(s->peers[i], asked, sizeof asked - 1, 0);
  if (n <= 0) {
    close(s->peers[i]);
    s->peers[i] = -1;
    return;
  }
  asked[n] = '\0';
  answer(s, s->peers[i], asked);
}

static void *run(void *arg) {
  struct sentinel *s = arg;
  while (word(&s->stop) == 0) {
    struct pollfd fds[PEERS + 1] = {{.fd = s->listener, .events = POLLIN}};
    for (int i = 0; i < PEERS; i++) {
      fds[i + 1] = (struct pollfd){.fd = s->peers[i], .events = POLLIN};
    }
    poll(fds, PEERS + 1, 20);
    for (int i = 0; i < PEERS; i++) {
      if (fds[i + 1].revents != 0) {
        serve(s, i);
      } else if (s->peers[i] < 0 && fds[0].revents != 0) {
        s->peers[i] = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);
        fds[0].revents = 0;
      }
    }
  }
  for (int i = 0; i < PEERS; i++) {
    close(s->peers[i]);
  }
  return NULL;
}

static void says(struct sentinel *s, uint64_t epoch, uint64_t master) {
  __atomic_store_n(&s->master, master, __ATOMIC_RELEASE);
  __atomic_store_n(&s->epoch, epoch, __ATOMIC_RELEASE);
}

static void begin(struct sentinel *s) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof address;
  memset(s, 0, sizeof *s);
  memset(s->peers, 0xff, sizeof s->peers);
  s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(bind(s->listener, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(s->listener, 8), 0);
  assert_int_equal(getsockname(s->listener, (struct sockaddr *)&address, &len), 0);
  s->port = ntohs(address.sin_port);
  assert_int_equal(pthread_create(&s->thread, NULL, run, s), 0);
}

static void end(struct sentinel *s) {
  __atomic_store_n(&s->stop, 1, __ATOMIC_RELEASE);
  pthread_join(s->thread, NULL);
  close(s->listener);
}

static struct gorge_sentinels place = {.master = "main", .count = SENTINELS};
static struct seen seen;

static int prepare(void **state) {
  int status = fixture_prepare(state);
  place.conn = fixture_redis_config();
  place.conn.timeout_ms =
      1000; /* these sentinels answer several questions that came together but once: it is asked again */
  for (int i = 0; i < SENTINELS; i++) {
    begin(&sentinels[i]);
    place.list[i].host = "127.0.0.1";
    place.list[i].port = sentinels[i].port;
  }
  memset(gorge_zone_master(fixture.zone, fixture_ns()), 0, sizeof(struct gorge_master_words));
  return status;
}

static int clean(void **state) {
  for (int i = 0; i < SENTINELS; i++) {
    end(&sentinels[i]);
  }
  return fixture_clean(state);
}

static const struct gorge_master_words *words(void) { return gorge_zone_master(fixture.zone, fixture_ns()); }

static int watch(void) {
  struct gorge_master_words *w = gorge_zone_master(fixture.zone, fixture_ns());
  gorge_endpoint_destroy(fixture.endpoint);
  fixture.endpoint = gorge_endpoint_of_master(w);
  int handle = fixture_watch_with(&seen, &place, w);
  assert_true(handle >= 0);
  return handle;
}

static bool leads_to(unsigned port) {
  char text[64], expected[64];
  gorge_master_text(words(), text, sizeof text);
  snprintf(expected, sizeof expected, "127.0.0.1:%u", port);
  return strcmp(text, expected) == 0;
}

static uint64_t switches(void) {
  uint64_t counters[GORGE_COUNTERS];
  gorge_zone_sum_counters(fixture.zone, fixture_ns(), counters);
  return counters[GORGE_COUNT_MASTER_SWITCHES];
}

static void test_the_later_configuration_counts(void **state) {
  (void)state;
  says(&sentinels[0], 3, 1001);
  says(&sentinels[1], 2, 1002);
  uint64_t before = switches();
  int handle = watch();
  assert_true(WAIT_UNTIL(leads_to(1001)));
  says(&sentinels[1], 4, 1004);
  assert_true(WAIT_UNTIL(leads_to(1004)));
  assert_true(switches() > before);
  says(&sentinels[0], 4, 1005); /* the same rank: what is known is as good */
  for (int i = 0; i < 1500; i++) {
    support_nap();
    assert_true(leads_to(1004));
  }
  gorge_control_unwatch(fixture.control, handle);
  assert_true(leads_to(1004)); /* what is known stays */
}

static void test_what_all_say_counts_when_nobody_says_otherwise_any_more(void **state) {
  (void)state;
  says(&sentinels[0], 9, 1009);
  says(&sentinels[1], 9, 1009);
  int handle = watch();
  assert_true(WAIT_UNTIL(leads_to(1009)));
  says(&sentinels[0], 1, 1001);
  for (int i = 0; i < 1500; i++) {
    support_nap();
    assert_true(leads_to(1009));
  }
  uint64_t since_us = support_now_us();
  says(&sentinels[1], 1, 1001); /* they were set up anew */
  bool followed = WAIT_UNTIL(leads_to(1001));
  assert_true(followed && support_now_us() - since_us > 3500000);
  gorge_control_unwatch(fixture.control, handle);
}

static void test_why_there_is_no_master(void **state) {
  (void)state;
  int handle = watch();
  assert_true(WAIT_UNTIL(word(&words()->trouble) == GORGE_MASTER_UNKNOWN));
  says(&sentinels[1], 1, 1001); /* one that knows is enough */
  assert_true(WAIT_UNTIL(leads_to(1001)));
  assert_int_equal(word(&words()->trouble), GORGE_MASTER_FINE);
  gorge_control_unwatch(fixture.control, handle);
}

static void test_nothing_is_left_of_a_watch(void **state) {
  (void)state;
  says(&sentinels[0], 1, 1001);
  int files = 0;
  for (int round = 0; round < 8; round++) {
    int handle = watch();
    assert_true(WAIT_UNTIL(leads_to(1001)));
    gorge_control_unwatch(fixture.control, handle);
    if (round == 2) {
      files = support_count("/proc/self/fd");
    }
  }
  assert_true(WAIT_UNTIL(support_count("/proc/self/fd") <= files));
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(test_the_later_configuration_counts, prepare, clean),
      cmocka_unit_test_setup_teardown(test_what_all_say_counts_when_nobody_says_otherwise_any_more, prepare, clean),
      cmocka_unit_test_setup_teardown(test_why_there_is_no_master, prepare, clean),
      cmocka_unit_test_setup_teardown(test_nothing_is_left_of_a_watch, prepare, clean),
  };
  return cmocka_run_group_tests(tests, fixture_begin, fixture_end);
}
