/* SPDX-License-Identifier: MIT */
/* An l2 on a loop, in a real cluster: its bytes go to every node, and find their way when one is lost or a slot has gone elsewhere. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "drive/ev_l2.h"
#include "proto/names.h"
#include "proto/slot.h"
#include "test/cluster_support.h"

static struct support_cluster cluster;

static struct {
  struct ev_loop *loop;
  struct gorge_l2 *l2;
  struct gorge_ev_l2 *driver;
  int fds;
} s;

struct asked {
  struct gorge_l2_request rq;
  char key[16];
  int status; /* GORGE_PENDING until done */
};

static void on_done(struct gorge_l2_request *rq, const struct gorge_l2_result *r, uint64_t now_ms) {
  (void)now_ms;
  struct asked *a = rq->ctx;
  a->status = r->status;
}

static void ask(struct asked *a, enum gorge_l2_verb verb, int number) {
  memset(a, 0, sizeof *a);
  snprintf(a->key, sizeof a->key, "k%d", number);
  a->status = GORGE_PENDING;
  a->rq = (struct gorge_l2_request){.verb = verb,
                                    .key = a->key,
                                    .key_len = (uint32_t)strlen(a->key),
                                    .value = "value",
                                    .value_len = verb == GORGE_L2_SET ? 5 : 0,
                                    .kind = GORGE_KIND_STRING,
                                    .ttl_ms = 60000,
                                    .done = on_done,
                                    .ctx = a};
  int status = gorge_l2_send(s.l2, &a->rq, gorge_clock_ms());
  if (status != GORGE_OK) {
    a->status = status;
  }
  gorge_ev_l2_kick(s.driver);
}

static void on_alarm(struct ev_loop *loop, ev_timer *t, int events) {
  (void)events;
  *(bool *)t->data = true;
  ev_break(loop, EVBREAK_ALL);
}

/* At most half a minute. */
#define RUN_UNTIL(condition)                   \
  ({                                           \
    ev_timer alarm_;                           \
    bool late_ = false;                        \
    ev_now_update(s.loop);                     \
    ev_timer_init(&alarm_, on_alarm, 30., 0.); \
    alarm_.data = &late_;                      \
    ev_timer_start(s.loop, &alarm_);           \
    while (!(condition) && !late_)             \
      ev_run(s.loop, EVRUN_ONCE);              \
    ev_timer_stop(s.loop, &alarm_);            \
    (condition);                               \
  })

static int ask_and_wait(enum gorge_l2_verb verb, int number) {
  static struct asked a;
  ask(&a, verb, number);
  assert_true(RUN_UNTIL(a.status != GORGE_PENDING));
  return a.status;
}

static struct gorge_place place_of(int port) {
  struct gorge_place p;
  assert_true(gorge_place_init(&p, "127.0.0.1", 9, port));
  return p;
}

static void follow_all(const struct gorge_place *seeds, uint32_t count, uint32_t partitions) {
  struct gorge_conn_config config = {.connect_timeout_ms = 20000, .timeout_ms = 20000, .seed = 1};
  s.fds = support_count("/proc/self/fd");
  s.loop = ev_loop_new(EVFLAG_NOENV);
  s.l2 = gorge_l2_create("evl2", 4, partitions, &config);
  assert_non_null(s.l2);
  assert_int_equal(gorge_l2_follow_cluster(s.l2, seeds, count), GORGE_OK);
  s.driver = gorge_ev_l2_create(s.loop, s.l2, NULL);
  assert_non_null(s.driver);
}

static void follow(const struct gorge_place *seeds, uint32_t count) { follow_all(seeds, count, GORGE_PARTITIONS); }

static int leave(void **state) {
  (void)state;
  gorge_ev_l2_destroy(s.driver);
  gorge_l2_destroy(s.l2);
  ev_loop_destroy(s.loop);
  bool same = WAIT_UNTIL(support_count("/proc/self/fd") == s.fds);
  memset(&s, 0, sizeof s);
  return same ? 0 : -1;
}

static int connected(void) {
  int n = 0;
  for (uint32_t i = 0; i < gorge_l2_nodes(s.l2); i++) {
    n += gorge_conn_state(gorge_l2_node_conn(s.l2, i)) == GORGE_CONN_READY;
  }
  return n;
}

/* Which server has a key of ours. */
static int server_of(int number) {
  char key[16];
  uint32_t node = gorge_l2_node_of(s.l2, key, (uint32_t)snprintf(key, sizeof key, "k%d", number));
  const struct gorge_place *p = node == UINT32_MAX ? NULL : gorge_l2_node_place(s.l2, node);
  for (int i = 0; i < CLUSTER_NODES; i++) {
    if (p != NULL && p->port == cluster.port[i]) {
      return i;
    }
  }
  return -1;
}

static void test_every_node_is_asked(void **state) {
  (void)state;
  enum { N = 300 };
  static struct asked a[N];
  const struct gorge_place seed = place_of(cluster.port[1]);
  follow(&seed, 1);
  for (int i = 0; i < N; i++) {
    ask(&a[i], GORGE_L2_SET, i);
  }
  for (int i = 0; i < N; i++) {
    assert_true(RUN_UNTIL(a[i].status != GORGE_PENDING));
    assert_int_equal(a[i].status, GORGE_STORED);
  }
  assert_int_equal(connected(), CLUSTER_NODES);
  int at[CLUSTER_NODES] = {0};
  for (int i = 0; i < N; i++) {
    at[server_of(i)]++;
    assert_int_equal(ask_and_wait(GORGE_L2_LOOKUP, i), GORGE_HIT);
  }
  for (int i = 0; i < CLUSTER_NODES; i++) {
    assert_true(at[i] > 0);
  }
}

static void test_a_seed_that_is_not_there_is_no_matter(void **state) {
  (void)state;
  const struct gorge_place seeds[] = {place_of(1), place_of(cluster.port[2])};
  follow(seeds, 2);
  assert_int_equal(ask_and_wait(GORGE_L2_SET, 1), GORGE_STORED);
}

static void test_a_slot_that_has_gone_is_found(void **state) {
  (void)state;
  struct gorge_l2_cluster c;
  const struct gorge_place seed = place_of(cluster.port[0]);
  follow(&seed, 1);
  assert_int_equal(ask_and_wait(GORGE_L2_DELETE, 7), GORGE_OK); /* the map is known */
  static struct gorge_names names;
  assert_int_equal(gorge_names_init(&names, "evl2", 4), GORGE_OK);
  uint32_t slot = gorge_names_slot(&names, gorge_partition_of("k7", 2, GORGE_PARTITIONS));
  int from = support_cluster_owner(slot), to = (from + 1) % CLUSTER_NODES;
  assert_true(support_cluster_give(&cluster, slot, to));
  assert_int_equal(ask_and_wait(GORGE_L2_SET, 7), GORGE_STORED);
  gorge_l2_cluster(s.l2, &c);
  assert_int_equal(c.moved, 1);
  assert_int_equal(server_of(7), to);
  assert_int_equal(ask_and_wait(GORGE_L2_LOOKUP, 7), GORGE_HIT);
  assert_true(support_cluster_give(&cluster, slot, from));
}

static void test_a_lost_node_leaves_the_others_alone(void **state) {
  (void)state;
  const struct gorge_place seed = place_of(cluster.port[0]);
  int dead = -1, alive = -1;
  follow(&seed, 1);
  for (int i = 0; i < 30; i++) {
    assert_int_equal(ask_and_wait(GORGE_L2_SET, i), GORGE_STORED);
    dead = server_of(i) == 2 ? i : dead;
    alive = server_of(i) == 1 ? i : alive;
  }
  int fds = support_count("/proc/self/fd");
  support_redis_kill(&cluster.node[2]);
  for (int i = 0; i < 20; i++) {
    assert_true(ask_and_wait(GORGE_L2_LOOKUP, dead) < 0);
    assert_int_equal(ask_and_wait(GORGE_L2_LOOKUP, alive), GORGE_HIT);
  }
  assert_true(support_redis_restart(&cluster.node[2]));
  int status = GORGE_ERR_DOWN;
  for (uint64_t until_ms = gorge_clock_ms() + 20000; status < 0 && gorge_clock_ms() < until_ms; support_nap()) {
    status = ask_and_wait(GORGE_L2_SET, dead);
  }
  assert_int_equal(status, GORGE_STORED);
  assert_true(support_count("/proc/self/fd") <= fds);
  assert_true(WAIT_UNTIL(support_cluster_is_well(&cluster)));
}

/* Turns of the loop in so many ms. */
static unsigned turns_in(int ms) {
  unsigned before = ev_iteration(s.loop);
  uint64_t until_ms = gorge_clock_ms() + (uint64_t)ms;
  ev_timer alarm;
  bool late = false;
  ev_now_update(s.loop);
  ev_timer_init(&alarm, on_alarm, ms / 1000., 0.);
  alarm.data = &late;
  ev_timer_start(s.loop, &alarm);
  while (gorge_clock_ms() < until_ms && !late) {
    ev_run(s.loop, EVRUN_ONCE);
  }
  ev_timer_stop(s.loop, &alarm);
  return ev_iteration(s.loop) - before;
}

/* A seed that has no partition is left alone after a while; nothing turns for it, then or before. */
static void test_a_node_without_partitions_is_left(void **state) {
  (void)state;
  static struct gorge_names names;
  assert_int_equal(gorge_names_init(&names, "evl2", 4), GORGE_OK);
  int other = (support_cluster_owner(gorge_names_slot(&names, 0)) + 1) % CLUSTER_NODES;
  const struct gorge_place seed = place_of(cluster.port[other]);
  follow_all(&seed, 1, 1);
  assert_int_equal(ask_and_wait(GORGE_L2_SET, 1), GORGE_STORED);
  assert_int_equal(connected(), 2);
  unsigned before = ev_iteration(s.loop);
  assert_true(RUN_UNTIL(connected() == 1));
  assert_true(ev_iteration(s.loop) - before < 100);
  assert_int_equal(ask_and_wait(GORGE_L2_LOOKUP, 1), GORGE_HIT);
  assert_true(turns_in(300) < 20);
}

static void test_what_is_pending_ends_with_the_driver(void **state) {
  (void)state;
  static struct asked a[40];
  const struct gorge_place seed = place_of(cluster.port[0]);
  follow(&seed, 1);
  assert_int_equal(ask_and_wait(GORGE_L2_SET, 1), GORGE_STORED);
  for (int i = 0; i < 40; i++) {
    ask(&a[i], GORGE_L2_LOOKUP, i);
  }
  gorge_ev_l2_destroy(s.driver);
  s.driver = NULL;
  gorge_l2_destroy(s.l2);
  s.l2 = NULL;
  for (int i = 0; i < 40; i++) {
    assert_true(a[i].status < 0);
  }
}

static int start(void **state) {
  (void)state;
  return support_cluster_start(&cluster) ? 0 : -1;
}

static int stop(void **state) {
  (void)state;
  support_cluster_stop(&cluster);
  return 0;
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_teardown(test_every_node_is_asked, leave),
      cmocka_unit_test_teardown(test_a_seed_that_is_not_there_is_no_matter, leave),
      cmocka_unit_test_teardown(test_a_slot_that_has_gone_is_found, leave),
      cmocka_unit_test_teardown(test_a_node_without_partitions_is_left, leave),
      cmocka_unit_test_teardown(test_what_is_pending_ends_with_the_driver, leave),
      cmocka_unit_test_teardown(test_a_lost_node_leaves_the_others_alone, leave),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
