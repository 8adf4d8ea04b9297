/* SPDX-License-Identifier: MIT */
/* Two hosts over a real Redis Cluster: they fill for one another, hear of each other's writes, and lose one node without losing the others. */
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
#include "engine/remote.h"
#include "proto/names.h"
#include "proto/slot.h"
#include "test/cluster_support.h"
#include "test/drive_support.h"
#include "test/engine_support.h"

enum { KEYS = 60 };

static struct support_cluster cluster;
static gorge_cache *a, *b;
static char seeds[128];

static gorge_cache *host(void) {
  struct gorge_config config = engine_config(NULL, NULL, GORGE_CONFIG_INLINE);
  config.cluster = seeds;
  config.breaker_max_failures = 3;
  config.breaker_timeout_ms = 500;
  gorge_cache *c = engine_cache(&config);
  assert_int_equal(gorge_cache_enter(c, 1), GORGE_OK);
  assert_true(WAIT_UNTIL(engine_follows(c)));
  return c;
}

static int start(void **state) {
  (void)state;
  if (!support_cluster_start(&cluster)) {
    return -1;
  }
  snprintf(seeds, sizeof seeds, "127.0.0.1 %d\n127.0.0.1 %d\n", cluster.port[0], cluster.port[1]);
  return 0;
}

static int stop(void **state) {
  (void)state;
  support_cluster_stop(&cluster);
  return 0;
}

static int begin(void **state) {
  (void)state;
  a = host();
  b = host();
  return 0;
}

static int end(void **state) {
  (void)state;
  char answer[64];
  bool clean = engine_quiet(a, b);
  gorge_cache_destroy(a);
  gorge_cache_destroy(b);
  for (int i = 0; i < CLUSTER_NODES; i++) {
    clean = support_redis_command(&cluster.node[i], "FLUSHALL", answer, sizeof answer) && clean;
  }
  return clean ? 0 : -1;
}

#define TURN_UNTIL(condition) STEP_UNTIL(condition, engine_turn(a, b, 2))

static const char *key_of(int i) {
  static char key[16];
  snprintf(key, sizeof key, "key%d", i);
  return key;
}

static bool l1_has(gorge_cache *c, const char *key) { return engine_l1(c, key) != NULL; }

/* Which server has the key. */
static int server_of(gorge_cache *c, const char *key) {
  uint32_t node = gorge_l2_node_of(c->l2, key, (uint32_t)strlen(key));
  struct gorge_node_stats stats;
  for (int i = 0; i < CLUSTER_NODES && gorge_node_read(c, node, &stats) == GORGE_OK; i++) {
    if ((int)stats.port == cluster.port[i]) {
      return i;
    }
  }
  return -1;
}

static void what_one_host_fills_the_other_finds_wherever_it_is(void **state) {
  (void)state;
  int status, at[CLUSTER_NODES] = {0};
  for (int i = 0; i < KEYS; i++) {
    assert_string_equal(engine_get_or_fill(a, key_of(i), "from a", &status), "from a");
    assert_string_equal(engine_get_or_fill(b, key_of(i), "from b", &status), "from a");
    at[server_of(a, key_of(i))]++;
  }
  assert_int_equal(engine_counter(b, GORGE_COUNT_LOADS), 0);
  struct gorge_cluster_stats stats;
  assert_int_equal(gorge_cluster_read(a, &stats), GORGE_OK);
  assert_int_equal(stats.mapped, GORGE_PARTITIONS);
  assert_int_equal(stats.partitions, GORGE_PARTITIONS);
  uint32_t partitions = 0;
  for (uint32_t i = 0; i < stats.nodes; i++) {
    struct gorge_node_stats node;
    assert_int_equal(gorge_node_read(a, i, &node), GORGE_OK);
    assert_int_equal(node.state, GORGE_CONN_READY);
    assert_int_equal(node.breaker, GORGE_BREAKER_CLOSED);
    partitions += node.partitions;
  }
  assert_int_equal(partitions, GORGE_PARTITIONS);
  for (int i = 0; i < CLUSTER_NODES; i++) {
    assert_true(at[i] > 0);
  }
  struct gorge_node_stats none;
  assert_int_equal(gorge_node_read(a, stats.nodes, &none), GORGE_MISS);
}

static void writes_are_heard_by_the_other_host(void **state) {
  (void)state;
  int status;
  for (int i = 0; i < KEYS; i++) {
    engine_get_or_fill(a, key_of(i), "v", &status);
    engine_get_or_fill(b, key_of(i), "v", &status);
  }
  for (int i = 0; i < KEYS / 2; i++) {
    assert_int_equal(engine_delete_whole(a, key_of(i)), GORGE_OK);
    assert_true(TURN_UNTIL(!l1_has(b, key_of(i))));
  }
  assert_true(l1_has(b, key_of(KEYS - 1)));
  uint64_t op;
  status = gorge_clear_start(a, &op);
  assert_int_equal(engine_finish(a, op, status), GORGE_OK);
  /* each partition tells of it for itself */
  assert_true(TURN_UNTIL(strcmp(engine_get_or_fill(b, key_of(KEYS - 1), "anew", &status), "anew") == 0));
}

static void a_lost_node_opens_its_own_breaker_alone(void **state) {
  (void)state;
  int dead = -1, alive = -1;
  for (int i = 0; i < KEYS; i++) {
    assert_int_equal(engine_set_whole(a, key_of(i), "v", NULL), GORGE_OK);
    dead = server_of(a, key_of(i)) == 2 ? i : dead;
    alive = server_of(a, key_of(i)) == 1 ? i : alive;
  }
  uint32_t node = gorge_l2_node_of(a->l2, key_of(dead), (uint32_t)strlen(key_of(dead)));
  struct gorge_node_stats stats;
  support_redis_kill(&cluster.node[2]);
  for (int i = 0; i < 6; i++) {
    assert_true(engine_set_whole(a, key_of(dead), "w", NULL) < 0);
    assert_int_equal(engine_set_whole(a, key_of(alive), "w", NULL), GORGE_OK);
  }
  assert_int_equal(gorge_node_read(a, node, &stats), GORGE_OK);
  assert_int_not_equal(stats.breaker, GORGE_BREAKER_CLOSED);
  assert_true(TURN_UNTIL(engine_set_whole(a, key_of(dead), "w", NULL) == GORGE_ERR_BREAKER));
  assert_true(engine_counter(a, GORGE_COUNT_BREAKER_OPENS) > 0);
  struct gorge_stats all;
  gorge_stats_read(a, &all);
  assert_int_not_equal(all.breaker, GORGE_BREAKER_CLOSED);
  assert_int_equal(all.redis_state, GORGE_CONN_READY);
  for (int i = 0; i < 20; i++) {
    assert_int_equal(engine_set_whole(a, key_of(alive), "w", NULL), GORGE_OK);
  }
  assert_true(support_redis_restart(&cluster.node[2]));
  assert_true(TURN_UNTIL(engine_set_whole(a, key_of(dead), "back", NULL) == GORGE_OK));
  assert_true(TURN_UNTIL(gorge_node_read(a, node, &stats) == GORGE_OK && stats.breaker == GORGE_BREAKER_CLOSED));
  gorge_stats_read(a, &all);
  assert_int_equal(all.breaker, GORGE_BREAKER_CLOSED);
  assert_true(TURN_UNTIL(support_cluster_is_well(&cluster)));
  assert_true(TURN_UNTIL(engine_follows(a) && engine_follows(b)));
}

/* A lease that is given back later than its fetch has ended says something of the node that has it, and of no other one. */
static void a_lease_given_back_late_speaks_of_its_own_node(void **state) {
  (void)state;
  int i = 0, status;
  engine_get_or_fill(a, key_of(0), "v", &status); /* the map is known */
  while (gorge_l2_node_of(a->l2, key_of(i), (uint32_t)strlen(key_of(i))) == 0) {
    i++;
  }
  const char *key = key_of(i);
  struct gorge_conn *conn = gorge_l2_node_conn(a->l2, gorge_l2_node_of(a->l2, key, (uint32_t)strlen(key)));
  assert_int_equal(engine_delete_whole(a, key), GORGE_OK);
  uint64_t op;
  assert_int_equal(engine_fetch(a, key, NULL, &op), GORGE_PENDING);
  assert_int_equal(engine_await(a, op).status, GORGE_LEASE);
  struct gorge_op other = {.cache = a, .node = 0};
  gorge_remote_tell(&other, GORGE_ERR_TIMEOUT, false, 0, gorge_clock_ms());
  gorge_conn_fail(conn, "lost");
  gorge_ev_l2_kick(a->link);
  assert_true(TURN_UNTIL(gorge_conn_state(conn) == GORGE_CONN_DOWN));
  assert_int_equal(gorge_fetch_skip(a, op), GORGE_OK);
  gorge_op_free(a, op);
  assert_int_equal(a->lost_count, 1);
  assert_true(TURN_UNTIL(a->lost_count == 0));
  /* That of the other one has not heard of a success. */
  assert_false(gorge_breaker_untouched(gorge_remote_breaker(a, 0)));
}

/* While its breaker is open nobody asks the node: that its partition has gone elsewhere must be heard all the same. */
static void a_partition_of_a_lost_node_is_found_elsewhere(void **state) {
  (void)state;
  int dead = 0;
  struct gorge_names names;
  while (engine_set_whole(a, key_of(dead), "v", NULL) != GORGE_OK || server_of(a, key_of(dead)) != 2) {
    dead++;
  }
  const char *key = key_of(dead);
  assert_int_equal(gorge_names_init(&names, "t", 1), GORGE_OK);
  uint32_t slot = gorge_names_slot(&names, gorge_partition_of(key, strlen(key), GORGE_PARTITIONS));
  a->breaker_config.timeout_ms = 60000;
  support_redis_kill(&cluster.node[2]);
  assert_true(TURN_UNTIL(engine_set_whole(a, key, "w", NULL) == GORGE_ERR_BREAKER));
  for (int i = 0; i < 100; i++) { /* what was asked when the node was lost has been answered */
    engine_turn(a, b, 5);
  }
  assert_true(support_cluster_give(&cluster, slot, 1));
  assert_true(TURN_UNTIL(engine_set_whole(a, key, "w", NULL) == GORGE_OK));
  assert_int_equal(server_of(a, key), 1);
  assert_true(support_redis_restart(&cluster.node[2]));
  assert_true(support_cluster_give(&cluster, slot, 2));
  assert_true(TURN_UNTIL(support_cluster_is_well(&cluster)));
}

/* How many clients of a server are in subscribe mode. */
static int subscribers(int server) {
  char answer[8192];
  int n = 0;
  if (support_redis_command(&cluster.node[server], "CLIENT LIST TYPE PUBSUB", answer, sizeof answer)) {
    for (const char *at = answer; (at = strstr(at, "id=")) != NULL && (at[-1] == '\n'); at += 3) {
      n++;
    }
  }
  return n;
}

static void the_subscriber_goes_to_another_node(void **state) {
  (void)state;
  for (int killed = 0; killed < CLUSTER_NODES; killed++) {
    int one = (killed + 1) % CLUSTER_NODES, other = (killed + 2) % CLUSTER_NODES;
    support_redis_kill(&cluster.node[killed]);
    assert_true(TURN_UNTIL(subscribers(one) + subscribers(other) == 2)); /* of two hosts */
    assert_true(support_redis_restart(&cluster.node[killed]));
    assert_true(TURN_UNTIL(support_cluster_is_well(&cluster)));
  }
  assert_true(TURN_UNTIL(engine_follows(a) && engine_follows(b)));
  assert_true(TURN_UNTIL(engine_set_whole(a, "k", "v", NULL) == GORGE_OK));
}

static void seeds_that_will_not_do(void **state) {
  (void)state;
  struct gorge_config config = engine_config(NULL, NULL, 0);
  char err[256], many[512] = "";
  gorge_cache *c = NULL;
  for (int i = 0; i < GORGE_SEEDS_MAX + 1; i++) {
    strcat(many, "localhost 7000\n");
  }
  const char *bad[] = {"", "localhost", "localhost 7000", " 7000\n", "localhost 0\n", "localhost 65536\n", many};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    config.cluster = bad[i];
    assert_int_equal(gorge_cache_create(&config, &c, err, sizeof err), GORGE_ERR_ARGUMENT);
  }
  config.cluster = "localhost 7000\n";
  config.db = 1;
  assert_int_equal(gorge_cache_create(&config, &c, err, sizeof err), GORGE_ERR_ARGUMENT);
  assert_non_null(strstr(err, "db"));
  config.db = 0;
  config.redis_host = "localhost";
  assert_int_equal(gorge_cache_create(&config, &c, err, sizeof err), GORGE_ERR_ARGUMENT);
}

int main(void) {
  signal(SIGPIPE, SIG_IGN);
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
  const struct CMUnitTest tests[] = {
      TEST(what_one_host_fills_the_other_finds_wherever_it_is),
      TEST(writes_are_heard_by_the_other_host),
      TEST(a_lost_node_opens_its_own_breaker_alone),
      TEST(a_lease_given_back_late_speaks_of_its_own_node),
      TEST(a_partition_of_a_lost_node_is_found_elsewhere),
      TEST(the_subscriber_goes_to_another_node),
      cmocka_unit_test(seeds_that_will_not_do),
  };
  return cmocka_run_group_tests_name("engine, cluster", tests, start, stop);
}
