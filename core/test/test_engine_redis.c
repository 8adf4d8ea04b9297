/* SPDX-License-Identifier: MIT */
/* Two nodes over a real Redis: they fill for one another, hear of each other's writes, and go on when it is gone. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backlog/backlog.h"
#include "base/clock.h"
#include "io/conn_state.h"
#include "test/drive_support.h"
#include "test/engine_support.h"

static struct support_redis redis;
static gorge_cache *a, *b;

static int start(void **state) {
  (void)state;
  return support_redis_start(&redis) ? 0 : -1;
}

static int stop(void **state) {
  (void)state;
  support_redis_stop(&redis);
  return 0;
}

static int begin(void **state) {
  (void)state;
  a = engine_node(NULL, redis.path);
  b = engine_node(NULL, redis.path);
  return 0;
}

static int end(void **state) {
  (void)state;
  char answer[64];
  bool clean = engine_quiet(a, b);
  gorge_cache_destroy(a);
  gorge_cache_destroy(b);
  return clean && support_redis_command(&redis, "FLUSHALL", answer, sizeof answer) ? 0 : -1;
}

#define TURN_UNTIL(condition) STEP_UNTIL(condition, engine_turn(a, b, 2))

static const char *get(gorge_cache *c, const char *key, const char *loaded) {
  int status;
  const char *value = engine_get_or_fill(c, key, loaded, &status);
  assert_true(status == GORGE_HIT || status == GORGE_STORED);
  return value;
}

static void what_one_node_fills_the_other_finds(void **state) {
  (void)state;
  assert_string_equal(get(a, "k", "from a"), "from a");
  assert_string_equal(get(b, "k", "from b"), "from a");
  assert_true(engine_l1_is(b, "k", "from a"));
  assert_int_equal(engine_counter(b, GORGE_COUNT_LOADS), 0);
  assert_int_equal(engine_counter(b, GORGE_COUNT_L2_HITS), 1);
}

/* Nobody polls in this test: messages wake those who wait. */
static void nodes_wait_for_each_others_fill(void **state) {
  (void)state;
  uint64_t first, second, third;
  a->lock_sleep_ms = b->lock_sleep_ms = 60000;
  assert_int_equal(engine_fetch(a, "k", NULL, &first), GORGE_PENDING);
  assert_true(TURN_UNTIL(engine_status(a, first).status == GORGE_LEASE));
  assert_int_equal(engine_fetch(b, "k", NULL, &second), GORGE_PENDING);
  assert_int_equal(engine_fetch(b, "k", NULL, &third), GORGE_PENDING);
  assert_true(TURN_UNTIL(engine_counter(b, GORGE_COUNT_WAITS) == 2));
  assert_int_equal(engine_fill(a, first, "v"), GORGE_PENDING);
  assert_true(TURN_UNTIL(engine_status(b, second).status != GORGE_PENDING));
  struct answer answer = engine_status(b, second);
  assert_int_equal(answer.status, GORGE_HIT);
  assert_string_equal(answer.value, "v");
  assert_true(TURN_UNTIL(engine_status(b, third).status == GORGE_OK));
  assert_int_equal(engine_status(a, first).status, GORGE_STORED);
  gorge_op_free(a, first);
  gorge_op_free(b, second);
  gorge_op_free(b, third);
}

static void a_loader_that_fails_on_one_node_lets_the_other_try(void **state) {
  (void)state;
  uint64_t first, second;
  b->lock_sleep_ms = 60000;
  for (int how = 0; how < 3; how++) {
    assert_int_equal(engine_fetch(a, "k", NULL, &first), GORGE_PENDING);
    assert_true(TURN_UNTIL(engine_status(a, first).status == GORGE_LEASE));
    assert_int_equal(engine_fetch(b, "k", NULL, &second), GORGE_PENDING);
    assert_true(TURN_UNTIL(b->slots[second & 0xfffff]->state == GORGE_OP_PARKED));
    if (how == 0) {
      assert_int_equal(gorge_fetch_fail(a, first, "no", 2), GORGE_OK);
    } else if (how == 1) {
      assert_int_equal(gorge_fetch_skip(a, first), GORGE_OK);
    }
    gorge_op_free(a, first); /* with 2: the caller is cut off */
    assert_true(TURN_UNTIL(engine_status(b, second).status == GORGE_LEASE));
    gorge_op_free(b, second);
    assert_true(TURN_UNTIL(gorge_pending(a) + gorge_pending(b) == 0));
  }
}

static uint64_t parked_on_b(const char *key) {
  uint64_t op;
  assert_int_equal(engine_fetch(b, key, NULL, &op), GORGE_PENDING);
  assert_true(TURN_UNTIL(b->slots[op & 0xfffff]->state == GORGE_OP_PARKED));
  return op;
}

/* Messages reach what has begun last; a clear, of which a cluster tells in 64 messages, puts 64 of them before it. */
static void who_waits_since_before_an_invalidation_is_woken_with_the_others(void **state) {
  (void)state;
  b->lock_sleep_ms = 60000;
  for (int how = 0; how < 2; how++) {
    uint64_t first;
    struct gorge_key key;
    assert_int_equal(engine_fetch(a, "k", NULL, &first), GORGE_PENDING);
    assert_true(TURN_UNTIL(engine_status(a, first).status == GORGE_LEASE));
    uint64_t before = parked_on_b("k");
    if (how == 0) {
      gorge_l1_bump_epoch(b->zone, b->ns);
    } else {
      gorge_key_init(b->zone, b->ns, "k", 1, &key);
      gorge_l1_invalidate(b->zone, &b->process->owner, &key, 0, NULL);
    }
    uint64_t since = parked_on_b("k");
    assert_int_equal(engine_fill(a, first, "v"), GORGE_PENDING);
    assert_true(TURN_UNTIL(engine_status(b, since).status == GORGE_HIT));
    assert_true(TURN_UNTIL(engine_status(b, before).status == GORGE_OK));
    assert_string_equal(engine_l1(b, "k"), "v");
    assert_true(TURN_UNTIL(engine_status(a, first).status == GORGE_STORED));
    gorge_op_free(a, first);
    gorge_op_free(b, before);
    gorge_op_free(b, since);
    assert_int_equal(engine_delete_whole(a, "k"), GORGE_OK);
    assert_true(TURN_UNTIL(engine_l1_is(b, "k", NULL)));
  }
}

/* The lease that the other node waited for is gone with it. */
static void a_write_ends_the_wait_of_the_other_node(void **state) {
  (void)state;
  b->lock_sleep_ms = 60000;
  for (int how = 0; how < 3; how++) {
    uint64_t first, clear;
    assert_int_equal(engine_fetch(a, "k", NULL, &first), GORGE_PENDING);
    assert_true(TURN_UNTIL(engine_status(a, first).status == GORGE_LEASE));
    uint64_t second = parked_on_b("k");
    if (how == 0) {
      assert_int_equal(engine_set_whole(a, "k", "set", NULL), GORGE_OK);
    } else if (how == 1) {
      assert_int_equal(engine_delete_whole(a, "k"), GORGE_OK);
    } else {
      int status = gorge_clear_start(a, &clear);
      assert_int_equal(engine_finish(a, clear, status), GORGE_OK);
    }
    engine_turn(a, b, 0); /* b's bell may have rung while only a was looked at */
    uint64_t since = gorge_clock_ms();
    while (engine_status(b, second).status == GORGE_PENDING && gorge_clock_ms() < since + 4000) {
      engine_turn(a, b, 4000); /* until something wakes it */
    }
    assert_true(gorge_clock_ms() < since + 3000);
    struct answer answer = engine_status(b, second);
    assert_int_equal(answer.status, how == 0 ? GORGE_HIT : GORGE_LEASE);
    assert_true(how != 0 || strcmp(answer.value, "set") == 0);
    gorge_op_free(a, first);
    gorge_op_free(b, second);
    assert_true(TURN_UNTIL(gorge_pending(a) + gorge_pending(b) == 0));
    assert_int_equal(engine_delete_whole(a, "k"), GORGE_OK);
    assert_true(TURN_UNTIL(engine_l1_is(b, "k", NULL)));
  }
}

static void writes_are_heard_on_the_other_node(void **state) {
  (void)state;
  get(a, "k", "old");
  get(b, "k", "?");
  get(b, "unrelated", "stays");
  uint64_t resyncs = engine_counter(b, GORGE_COUNT_RESYNCS);
  assert_int_equal(engine_set_whole(a, "k", "new", NULL), GORGE_OK);
  assert_true(engine_l1_is(a, "k", "new"));
  assert_true(TURN_UNTIL(engine_l1_is(b, "k", NULL)));
  assert_string_equal(get(b, "k", "?"), "new");
  assert_int_equal(engine_delete_whole(b, "k"), GORGE_OK);
  assert_true(engine_l1_is(b, "k", NULL));
  assert_true(TURN_UNTIL(engine_l1_is(a, "k", NULL)));
  assert_string_equal(get(a, "k", "newest"), "newest");
  assert_true(engine_l1_is(b, "unrelated", "stays"));
  assert_int_equal(engine_counter(b, GORGE_COUNT_RESYNCS), resyncs);
}

static void tags_are_heard_on_the_other_node_whoever_named_them(void **state) {
  (void)state;
  uint64_t op;
  assert_int_equal(engine_set_whole(a, "named", "v", "t1 t2"), GORGE_OK);
  assert_int_equal(engine_fetch(a, "late", NULL, &op), GORGE_PENDING);
  assert_int_equal(engine_await(a, op).status, GORGE_LEASE);
  assert_int_equal(engine_finish(a, op, engine_fill_tagged(a, op, "v", "t2")), GORGE_STORED);
  assert_int_equal(engine_set_whole(a, "other", "v", "t3"), GORGE_OK);
  const char *keys[] = {"named", "late", "other"};
  for (int i = 0; i < 3; i++) { /* node b names no tags: the value brings them */
    assert_string_equal(get(b, keys[i], "?"), "v");
    assert_true(engine_l1_is(b, keys[i], "v"));
  }
  assert_int_equal(engine_invalidate_whole(a, "t2"), GORGE_OK);
  for (int i = 0; i < 2; i++) {
    assert_true(engine_l1_is(a, keys[i], NULL));
    assert_true(TURN_UNTIL(engine_l1_is(b, keys[i], NULL)));
    /* each partition tells of the tag for itself: what is filled before the last one has is not kept */
    int status;
    assert_true(TURN_UNTIL((engine_get_or_fill(b, keys[i], "anew", &status), status != GORGE_REFUSED)));
    assert_string_equal(get(b, keys[i], "?"), "anew");
  }
  assert_true(engine_l1_is(a, "other", "v"));
  assert_true(engine_l1_is(b, "other", "v"));
}

/* I1 between nodes: a fill that began before the invalidation is stored nowhere. */
static void an_invalidation_on_one_node_refuses_the_fill_of_the_other(void **state) {
  (void)state;
  uint64_t op;
  for (int how = 0; how < 4; how++) {
    assert_int_equal(engine_fetch(a, "k", how == 2 ? "tag" : NULL, &op), GORGE_PENDING);
    assert_int_equal(engine_await(a, op).status, GORGE_LEASE);
    if (how == 0) {
      assert_int_equal(engine_delete_whole(b, "k"), GORGE_OK);
    } else if (how == 1) {
      assert_int_equal(engine_set_whole(b, "k", "set", NULL), GORGE_OK);
    } else {
      assert_int_equal(engine_invalidate_whole(b, "tag"), GORGE_OK);
    }
    int status = how == 3 ? engine_fill_tagged(a, op, "old", "tag") : engine_fill(a, op, "old");
    assert_int_equal(engine_finish(a, op, status), GORGE_REFUSED);
    assert_true(engine_l1_is(a, "k", NULL));
    if (how == 1) {
      assert_string_equal(get(a, "k", "?"), "set");
      assert_int_equal(engine_delete_whole(b, "k"), GORGE_OK);
      assert_true(TURN_UNTIL(engine_l1_is(a, "k", NULL)));
    }
    assert_int_equal(engine_lookup(b, "k", &op), GORGE_PENDING);
    assert_int_equal(engine_finish(b, op, GORGE_PENDING), GORGE_MISS);
  }
}

/* The process that held the lease has gone without a word: its lease runs out in Redis, nobody waits for longer. */
static void a_lease_of_a_node_that_vanished_runs_out(void **state) {
  (void)state;
  uint64_t first, second;
  assert_int_equal(engine_fetch_for(a, "k", 300, 5000, &first), GORGE_PENDING);
  assert_true(TURN_UNTIL(engine_status(a, first).status == GORGE_LEASE));
  gorge_cache_destroy(a);
  a = engine_node(NULL, redis.path);
  assert_int_equal(engine_fetch_for(b, "k", 300, 5000, &second), GORGE_PENDING);
  struct answer answer = engine_await(b, second);
  assert_true(answer.status == GORGE_LEASE || answer.status == GORGE_ERR_TIMEOUT);
  gorge_op_free(b, second);
}

/* Two caches of one worker and namespace: the one that goes takes nothing with it that the other needs. */
static void a_cache_that_is_destroyed_leaves_the_journal_to_another(void **state) {
  (void)state;
  struct gorge_config config = engine_config(engine_zone_name(), redis.path, GORGE_CONFIG_INLINE);
  for (int first = 0; first < 2; first++) {
    gorge_cache *other = engine_cache(&config); /* of b's zone */
    assert_int_equal(gorge_cache_enter(other, 1), GORGE_OK);
    get(b, "k", "v");
    if (first == 0) {
      gorge_cache *gone = b;
      b = other;
      other = gone;
    }
    gorge_cache_destroy(other);
    char answer[64];
    assert_true(support_redis_command(&redis, "CLIENT KILL TYPE pubsub", answer, sizeof answer));
    assert_true(engine_l1_is(b, "k", "v"));
    assert_int_equal(engine_delete_whole(a, "k"), GORGE_OK);
    assert_true(TURN_UNTIL(engine_l1_is(b, "k", NULL)));
    assert_true(TURN_UNTIL(engine_follows(a) && engine_follows(b)));
  }
}

/* A write that fails waits in the backlog, and makes Redis forget the next one if that comes before it: it has to be carried out first. */
static bool set_after_all(gorge_cache *c, const char *key, const char *value) {
  return gorge_backlog_empty(c->zone, c->ns) && engine_set_whole(c, key, value, NULL) == GORGE_OK;
}

/* Every call answers while Redis is killed, gone and back; then the nodes find one another again. */
static void redis_comes_and_goes(void **state) {
  (void)state;
  char key[16], value[16];
  assert_string_equal(get(a, "k", "v"), "v");
  for (int i = 0; i < 30; i++) {
    snprintf(key, sizeof key, "k%d", i % 7);
    snprintf(value, sizeof value, "v%d", i);
    if (i == 5 || i == 20) {
      support_redis_kill(&redis);
    } else if (i == 12 || i == 25) {
      assert_true(support_redis_restart(&redis));
    }
    int status;
    (void)engine_get_or_fill(a, key, value, &status);
    assert_true(status == GORGE_HIT || status == GORGE_STORED || status == GORGE_REFUSED);
    int stored = engine_set_whole(b, key, value, NULL);
    assert_true(stored <= GORGE_OK);
    if (stored == GORGE_OK &&
        !gorge_backlog_empty(b->zone, b->ns)) { /* what was missed is carried out now, and forgets */
      assert_true(TURN_UNTIL(gorge_backlog_empty(b->zone, b->ns)));
      assert_int_equal(engine_set_whole(b, key, value, NULL), GORGE_OK);
    }
    /* a Redis that has lost its memory makes L1 forget: then the value is there, else it is here, until Redis is back */
    const char *seen = engine_get_or_fill(b, key, "older", &status);
    assert_true(strcmp(seen, value) == 0 || (stored != GORGE_OK && redis.pid > 0));
    assert_true(engine_delete_whole(b, key) <= GORGE_OK);
    assert_true(engine_l1_is(b, key, NULL));
  }
  assert_true(TURN_UNTIL(engine_follows(a) && engine_follows(b) && gorge_backlog_empty(b->zone, b->ns)));
  assert_true(TURN_UNTIL(set_after_all(b, "k", "again")));
  assert_true(TURN_UNTIL(!engine_l1_is(a, "k", "v"))); /* the journal is new: what was before is not trusted */
  /* a's own connection has waited since it was refused, for two seconds perhaps; until then a asks its loader */
  assert_true(TURN_UNTIL(gorge_conn_state(gorge_l2_conn(a->l2)) == GORGE_CONN_READY));
  assert_string_equal(get(a, "k", "?"), "again");
  assert_true(engine_counter(a, GORGE_COUNT_DROPPED_WRITES) + engine_counter(b, GORGE_COUNT_DROPPED_WRITES) > 0);
}

/* Redis stands still: deadlines end the calls; what it does afterwards with what it was asked changes no outcome. */
static void redis_stands_still(void **state) {
  (void)state;
  assert_string_equal(get(b, "other", "v"),
                      "v"); /* there is a connection, and no message about the key is still to come */
  uint32_t *timeout_ms = &gorge_l2_conn(b->l2)->config.timeout_ms, usual_ms = *timeout_ms;
  *timeout_ms = 60;
  kill(redis.pid, SIGSTOP);
  uint64_t op;
  assert_int_equal(engine_fetch(b, "k", NULL, &op), GORGE_PENDING);
  assert_int_equal(engine_await(b, op).status, GORGE_LEASE);
  assert_int_equal(engine_finish(b, op, engine_fill(b, op, "here")), GORGE_STORED);
  assert_true(engine_l1_is(b, "k", "here"));
  assert_int_equal(engine_set_whole(b, "k", "newer", NULL), GORGE_ERR_TIMEOUT);
  assert_true(engine_l1_is(b, "k", "newer"));
  kill(redis.pid, SIGCONT);
  *timeout_ms = usual_ms;
  assert_true(TURN_UNTIL(set_after_all(b, "k", "newest")));
  assert_true(engine_l1_is(b, "k", "newest"));
  assert_int_equal(engine_lookup(a, "k", &op), GORGE_PENDING);
  struct answer answer = engine_await(a, op);
  assert_string_equal(answer.value, "newest");
  gorge_op_free(a, op);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(what_one_node_fills_the_other_finds),
      TEST(nodes_wait_for_each_others_fill),
      TEST(a_loader_that_fails_on_one_node_lets_the_other_try),
      TEST(who_waits_since_before_an_invalidation_is_woken_with_the_others),
      TEST(a_write_ends_the_wait_of_the_other_node),
      TEST(writes_are_heard_on_the_other_node),
      TEST(tags_are_heard_on_the_other_node_whoever_named_them),
      TEST(an_invalidation_on_one_node_refuses_the_fill_of_the_other),
      TEST(a_lease_of_a_node_that_vanished_runs_out),
      TEST(a_cache_that_is_destroyed_leaves_the_journal_to_another),
      TEST(redis_comes_and_goes),
      TEST(redis_stands_still),
  };
  int failed = cmocka_run_group_tests_name("engine, nodes", tests, start, stop);
  engine_partitions = GORGE_PARTITIONS;
  return failed + cmocka_run_group_tests_name("engine, nodes; as many partitions as in a cluster", tests, start, stop);
}
