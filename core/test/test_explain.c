/* SPDX-License-Identifier: MIT */
/* What Redis holds of a key, as one node is told: against a real Redis and another node, and against one made of bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backlog/backlog.h"
#include "base/clock.h"
#include "test/drive_support.h"
#include "test/engine_support.h"

static struct support_redis redis;
static gorge_cache *a, *b;
static struct gorge_l2_look at;

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

/* The look into Redis, into `at`. Returns how it began or ended. */
static int explain(gorge_cache *c, const char *key, const char *tags) {
  char packed[512];
  uint64_t op;
  uint32_t len = engine_pack(tags, packed, sizeof packed);
  int status = gorge_explain_start(c, key, (uint32_t)strlen(key), packed, len, &op);
  memset(&at, 0xff, sizeof at);
  if (op == 0) {
    return status;
  }
  struct answer answer = engine_await(c, op);
  assert_int_equal(answer.status, GORGE_OK);
  assert_int_equal(gorge_explain_take(c, op, &at), GORGE_OK);
  gorge_op_free(c, op);
  assert_int_equal(gorge_explain_take(c, op, &at), GORGE_ERR_ARGUMENT);
  return at.status;
}

static void command(const char *text, char *answer, size_t size) {
  assert_true(support_redis_command(&redis, text, answer, size));
}

static void a_value_its_tags_and_no_lease(void **state) {
  (void)state;
  assert_int_equal(explain(a, "k", NULL), GORGE_OK);
  assert_true(at.state == GORGE_LOOK_NONE && at.ntags == 0 && at.lease_ms == 0 && at.epoch > 0 && at.epoch == at.asked);
  assert_int_equal(engine_set_whole(b, "k", "value", "one two"), GORGE_OK);
  assert_int_equal(explain(a, "k", "two three"), GORGE_OK);
  assert_int_equal(at.state, GORGE_LOOK_GOOD);
  assert_true(at.size == 5 && at.kind == GORGE_KIND_STRING && at.version > 0 && at.queued == 0);
  assert_true(at.ttl_ms > 50000 && at.ttl_ms < 60100 && at.past_ms == 0); /* by two clocks */
  assert_int_equal(at.ntags, 3);
  static const char *const names[] = {"one", "two", "three"};
  for (int i = 0; i < 3; i++) {
    assert_string_equal(at.tags[i].name, names[i]);
    assert_int_equal(at.tags[i].flags, i < 2 ? GORGE_TAG_OF_VALUE | GORGE_TAG_THERE : 0);
    assert_true(at.tags[i].stored == at.tags[i].now && at.tags[i].version == 0);
  }
}

static void a_tag_invalidated_elsewhere_tells_its_version(void **state) {
  (void)state;
  uint64_t op;
  assert_int_equal(engine_set_whole(b, "k", "value", "one two"), GORGE_OK);
  int status = engine_invalidate(b, "two", &op);
  assert_int_equal(engine_finish(b, op, status), GORGE_OK);
  assert_int_equal(explain(a, "k", NULL), GORGE_OK);
  assert_int_equal(at.state, GORGE_LOOK_TAG);
  assert_true(at.tags[0].stored == at.tags[0].now && at.tags[1].stored != at.tags[1].now);
  assert_true(at.tags[0].version == 0 && at.tags[1].version > at.version);
}

static void the_lease_of_another_node(void **state) {
  (void)state;
  uint64_t op;
  char text[256], answer[64];
  assert_int_equal(engine_fetch(b, "k", "tag", &op), GORGE_PENDING);
  assert_int_equal(engine_await(b, op).status, GORGE_LEASE);
  assert_int_equal(explain(a, "k", NULL), GORGE_OK);
  assert_int_equal(at.state, GORGE_LOOK_NONE);
  assert_true(at.lease_ms > 3000 && at.lease_ms <= 5000);
  snprintf(text, sizeof text, "STRLEN {1:t:0}:%llu:l:k", (unsigned long long)at.epoch);
  command(text, answer, sizeof answer);
  assert_string_equal(answer, ":8\r\n"); /* the token alone: it was not marked as waited for */
  assert_int_equal(engine_finish(b, op, engine_fill(b, op, "v")), GORGE_STORED);
  assert_int_equal(explain(a, "k", NULL), GORGE_OK);
  assert_true(at.state == GORGE_LOOK_GOOD && at.lease_ms == 0);
}

static void what_is_past_its_end_and_kept(void **state) {
  (void)state;
  uint64_t op;
  struct gorge_store store = engine_store("k", "value");
  store.ttl_ms = 20;
  store.stale_ms = 60000;
  store.refresh_ms = 5;
  int status = gorge_set_start(b, &store, &op);
  assert_int_equal(engine_finish(b, op, status), GORGE_OK);
  uint64_t until_ms = gorge_clock_ms() + 5000;
  do {
    assert_int_equal(explain(a, "k", NULL), GORGE_OK);
  } while ((at.state == GORGE_LOOK_GOOD || at.past_ms == 0) && gorge_clock_ms() < until_ms); /* 0: its end is now */
  assert_int_equal(at.state, GORGE_LOOK_STALE);
  assert_true(at.ttl_ms == 0 && at.kept_ms > 50000 && at.past_ms > 0 && at.past_ms < 5000 && at.refresh_ms == 5);
}

static void what_is_no_value_is_damaged(void **state) {
  (void)state;
  char text[256], answer[64];
  assert_int_equal(explain(a, "k", NULL), GORGE_OK);
  snprintf(text, sizeof text, "SET {1:t:0}:%llu:v:k nonsense", (unsigned long long)at.epoch);
  command(text, answer, sizeof answer);
  assert_int_equal(explain(a, "k", NULL), GORGE_OK);
  assert_int_equal(at.state, GORGE_LOOK_DAMAGED);
  assert_true(at.size == 8 && at.error[0] != '\0');
  snprintf(text, sizeof text, "DEL {1:t:0}:%llu:v:k", (unsigned long long)at.epoch);
  command(text, answer, sizeof answer);
  snprintf(text, sizeof text, "LPUSH {1:t:0}:%llu:v:k nonsense", (unsigned long long)at.epoch);
  command(text, answer, sizeof answer);
  assert_int_equal(explain(a, "k", NULL), GORGE_ERR_REDIS);
  assert_memory_equal(at.error, "WRONGTYPE", 9);
}

static void a_redis_that_lost_its_memory_is_left_so(void **state) {
  (void)state;
  char answer[64];
  uint64_t epoch;
  assert_int_equal(engine_set_whole(b, "k", "value", NULL), GORGE_OK);
  assert_int_equal(explain(a, "k", NULL), GORGE_OK);
  epoch = at.epoch;
  command("FLUSHALL", answer, sizeof answer);
  assert_int_equal(explain(a, "other", NULL), GORGE_OK);
  assert_true(at.epoch == 0 || at.epoch != epoch); /* a heartbeat may have asked first */
  assert_true(at.state == GORGE_LOOK_NONE);
}

static void what_waits_for_redis_is_not_asked_for(void **state) {
  (void)state;
  uint32_t owner = a->process->owner.id;
  assert_int_equal(engine_set_whole(b, "k", "value", "tag"), GORGE_OK);
  gorge_backlog_add(a->zone, owner, a->ns, 0, GORGE_BACKLOG_TAG, "tag", 3);
  assert_int_equal(explain(a, "k", NULL), GORGE_OK);
  if (at.queued > 0) { /* the control thread may have told Redis already */
    assert_true((at.tags[0].flags & GORGE_TAG_QUEUED) != 0 || at.state == GORGE_LOOK_TAG);
  }
  assert_true(WAIT_UNTIL(gorge_backlog_empty(a->zone, a->ns)));
}

/* Up to where the node has followed the journal. */
static uint64_t heard(const gorge_cache *c) {
  return __atomic_load_n(&gorge_zone_cursors(c->zone, c->ns, 1)[0], __ATOMIC_ACQUIRE);
}

/* Counters, histograms, breaker, trouble: all that statistics tell. */
static void nothing_of_it_is_counted(void **state) {
  (void)state;
  struct gorge_stats before, after;
  char text[256], answer[64];
  assert_int_equal(engine_set_whole(b, "k", "value", "tag"), GORGE_OK);
  assert_int_equal(explain(a, "k", NULL), GORGE_OK);
  snprintf(text, sizeof text, "LPUSH {1:t:0}:%llu:v:wrong nonsense", (unsigned long long)at.epoch);
  command(text, answer, sizeof answer);
  gorge_breaker_failure(a->breaker, &a->breaker_config, gorge_clock_ms());
  uint64_t breaker = a->breaker->state;
  struct gorge_read written = {.buf = NULL};
  assert_int_equal(gorge_peek(b, "k", 1, &written), GORGE_SPACE);
  assert_true(WAIT_UNTIL(heard(a) >= written.version)); /* the message of the other node has come */
  assert_int_equal(gorge_stats_read(a, &before), GORGE_OK);
  for (int i = 0; i < 10; i++) {
    struct gorge_host_look host;
    assert_int_equal(explain(a, "k", "other"), GORGE_OK);
    assert_int_equal(explain(a, "none", NULL), GORGE_OK);
    assert_int_equal(explain(a, "wrong", NULL), GORGE_ERR_REDIS);
    assert_int_equal(gorge_explain_host(a, "k", 1, &host), GORGE_OK);
    assert_int_equal(host.l1.state, GORGE_LOOK_NONE);
    assert_int_equal(host.held, 1);
  }
  assert_int_equal(gorge_stats_read(a, &after), GORGE_OK);
  assert_memory_equal(before.counters, after.counters, GORGE_COUNT_BASE * sizeof before.counters[0]);
  assert_memory_equal(before.histograms, after.histograms, sizeof before.histograms);
  assert_true(before.entries == after.entries && after.flights == 0);
  assert_true(a->breaker->state == breaker);
  assert_string_equal(after.redis_reason, before.redis_reason);
}

static void where_redis_is_not_to_be_asked(void **state) {
  (void)state;
  char text[] = "k";
  uint64_t op = 1;
  struct gorge_config config = engine_config(NULL, NULL, GORGE_CONFIG_INLINE);
  gorge_cache *alone = engine_cache(&config);
  assert_int_equal(explain(alone, "k", NULL), GORGE_ERR_UNSUPPORTED);
  assert_int_equal(gorge_explain_start(alone, text, 0, NULL, 0, &op), GORGE_ERR_ARGUMENT);
  assert_int_equal(op, 0);
  struct gorge_host_look host;
  assert_int_equal(gorge_explain_host(alone, text, 0, &host), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_explain_host(alone, text, GORGE_KEY_MAX + 1, &host), GORGE_ERR_ARGUMENT);
  gorge_cache_close(alone);
  assert_int_equal(explain(alone, "k", NULL), GORGE_ERR_CLOSED);
  gorge_cache_destroy(alone);

  config = engine_config(NULL, "/nonexistent/redis", GORGE_CONFIG_INLINE);
  config.breaker_max_failures = 1;
  config.breaker_timeout_ms = 60000;
  gorge_cache *away = engine_cache(&config);
  assert_int_equal(explain(away, "k", NULL), GORGE_ERR_DOWN);
  assert_true(at.error[0] != '\0');
  assert_int_equal(gorge_breaker_state(away->breaker), GORGE_BREAKER_CLOSED); /* it was not told */
  gorge_breaker_failure(away->breaker, &away->breaker_config, gorge_clock_ms());
  assert_int_equal(explain(away, "k", NULL), GORGE_ERR_BREAKER);
  away->breaker_config.timeout_ms = 0; /* its time is over: a look is not the probe */
  assert_int_equal(explain(away, "k", NULL), GORGE_ERR_DOWN);
  assert_int_equal(gorge_breaker_state(away->breaker), GORGE_BREAKER_OPEN);
  away->breaker_config.max_failures = 0;
  assert_int_equal(gorge_cache_enter(away, 1), GORGE_OK);
  gorge_backlog_add(away->zone, away->process->owner.id, away->ns, 0, GORGE_BACKLOG_KEY, "k", 1);
  assert_int_equal(explain(away, "k", NULL), GORGE_REFUSED);
  assert_int_equal(gorge_explain_start(away, text, 1, NULL, 0, NULL), GORGE_REFUSED);
  assert_int_equal(gorge_explain_start(away, "other", 5, NULL, 0, NULL), GORGE_OK);
  assert_int_equal(gorge_pending(away), 0);
  gorge_cache_destroy(away);
}

/* ---- a Redis made of bytes ---- */

static uint64_t begin_look(gorge_cache *c) {
  uint64_t op;
  assert_int_equal(gorge_explain_start(c, "k", 1, "", 0, &op), GORGE_PENDING);
  return op;
}

static void two_rounds_of_reads(void **state) {
  (void)state;
  struct peer p;
  gorge_cache *c = peer_cache(&p, NULL);
  uint64_t op = begin_look(c);
  peer_expect(&p, "GET");
  peer_expect(&p, "PTTL");
  assert_true(peer_idle(&p));
  peer_say_value(&p, peer_version(1), "value", "a b");
  peer_say(&p, ":77\r\n");
  struct peer_command tags = peer_take(&p);
  assert_int_equal(tags.argc, 4);
  assert_memory_equal(tags.argv[0], "MGET", 4);
  peer_say(&p, "*3\r\n$16\r\naaaaaaaa12345678\r\n$-1\r\n$1\r\n7\r\n");
  assert_int_equal(gorge_explain_take(c, op, &at), GORGE_OK);
  assert_true(at.state == GORGE_LOOK_TAG && at.lease_ms == 77 && at.epoch == 7 && at.ntags == 2);
  assert_int_equal(at.tags[0].flags, GORGE_TAG_OF_VALUE | GORGE_TAG_THERE);
  assert_int_equal(at.tags[1].flags, GORGE_TAG_OF_VALUE);
  gorge_op_free(c, op);
  gorge_cache_destroy(c);
  peer_free(&p);
}

static void odd_answers_end_it(void **state) {
  (void)state;
  static const char *const answers[] = {":1\r\n:1\r\n", "$-1\r\n$1\r\nx\r\n", "*0\r\n:1\r\n", "-ERR no\r\n:1\r\n"};
  static const char *const tags[] = {"*0\r\n", "$-1\r\n", "*2\r\n$1\r\n7\r\n$1\r\n7\r\n", "-LOADING\r\n"};
  struct peer p;
  gorge_cache *c = peer_cache(&p, NULL);
  for (size_t i = 0; i < 8; i++) {
    uint64_t op = begin_look(c);
    peer_expect(&p, "GET");
    peer_expect(&p, "PTTL");
    peer_say(&p, i < 4 ? answers[i] : "$-1\r\n:-2\r\n");
    if (i >= 4) {
      peer_expect(&p, "MGET");
      peer_say(&p, tags[i - 4]);
    }
    assert_int_equal(gorge_explain_take(c, op, &at), GORGE_OK);
    assert_int_equal(at.status, i == 3 || i == 7 ? GORGE_ERR_REDIS : GORGE_ERR_PROTOCOL);
    assert_true(at.error[0] != '\0');
    gorge_op_free(c, op);
    assert_true(peer_idle(&p));
  }
  gorge_cache_destroy(c);
  peer_free(&p);
}

static void a_look_can_be_left(void **state) {
  (void)state;
  struct peer p;
  gorge_cache *c = peer_cache(&p, NULL);
  for (int rounds = 0; rounds < 2; rounds++) {
    uint64_t op = begin_look(c);
    assert_int_equal(gorge_explain_take(c, op, &at), GORGE_ERR_ARGUMENT);
    peer_expect(&p, "GET");
    peer_expect(&p, "PTTL");
    if (rounds == 1) {
      peer_say_value(&p, peer_version(1), "value", "a");
      peer_say(&p, ":-1\r\n");
      peer_expect(&p, "MGET");
    }
    gorge_op_free(c, op);
    assert_int_equal(gorge_pending(c), 0);
    peer_say(&p, rounds == 1 ? "*2\r\n$-1\r\n$-1\r\n" : "$-1\r\n:-2\r\n");
  }
  gorge_cache_destroy(c);
  peer_free(&p);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup_teardown(a_value_its_tags_and_no_lease, begin, end),
      cmocka_unit_test_setup_teardown(a_tag_invalidated_elsewhere_tells_its_version, begin, end),
      cmocka_unit_test_setup_teardown(the_lease_of_another_node, begin, end),
      cmocka_unit_test_setup_teardown(what_is_past_its_end_and_kept, begin, end),
      cmocka_unit_test_setup_teardown(what_is_no_value_is_damaged, begin, end),
      cmocka_unit_test_setup_teardown(a_redis_that_lost_its_memory_is_left_so, begin, end),
      cmocka_unit_test_setup_teardown(what_waits_for_redis_is_not_asked_for, begin, end),
      cmocka_unit_test_setup_teardown(nothing_of_it_is_counted, begin, end),
      cmocka_unit_test(where_redis_is_not_to_be_asked),
      cmocka_unit_test(two_rounds_of_reads),
      cmocka_unit_test(odd_answers_end_it),
      cmocka_unit_test(a_look_can_be_left),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
