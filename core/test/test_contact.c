/* SPDX-License-Identifier: MIT */
/*
 * How far a node may lag behind: the bound while Redis confirms that nothing was missed, and what is served without contact. A node here is
 * a cache with a control thread; Redis is a real one that is stopped, killed and lied about.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "proto/slot.h"
#include "test/drive_support.h"
#include "test/engine_support.h"
#include "test/procs.h"

/* A Redis that is gone says so; the shorter time is for one that stands still, and would be over when the machine does. */
enum { BOUND_MS = 800, DISCONNECTED_MS = 3000, TIMEOUT_MS = 20000, SHORT_TIMEOUT_MS = 200 };

static struct support_redis redis;
static gorge_cache *a, *b;

static gorge_cache *open_node(uint64_t disconnected_ms, uint32_t timeout_ms) {
  struct gorge_config config = engine_config(NULL, redis.path, GORGE_CONFIG_INLINE);
  config.freshness_bound_ms = BOUND_MS;
  config.disconnected_ttl_ms = (double)disconnected_ms;
  config.timeout_ms = config.connect_timeout_ms = timeout_ms;
  gorge_cache *c = engine_cache(&config);
  assert_int_equal(gorge_cache_enter(c, 1), GORGE_OK);
  return c;
}

static gorge_cache *node(uint64_t disconnected_ms, uint32_t timeout_ms) {
  gorge_cache *c = open_node(disconnected_ms, timeout_ms);
  assert_true(WAIT_UNTIL(engine_follows(c)));
  return c;
}

static int begin_with(uint32_t timeout_ms) {
  if (!support_redis_start(&redis)) {
    return -1;
  }
  a = node(DISCONNECTED_MS, timeout_ms);
  b = node(DISCONNECTED_MS, timeout_ms);
  return 0;
}

static int begin(void **state) {
  (void)state;
  return begin_with(TIMEOUT_MS);
}

static int begin_impatient(void **state) {
  (void)state;
  return begin_with(SHORT_TIMEOUT_MS);
}

static int end(void **state) {
  (void)state;
  gorge_cache_destroy(a);
  gorge_cache_destroy(b);
  support_redis_stop(&redis);
  return 0;
}

static const char *load(gorge_cache *c, const char *key, const char *value) {
  int status;
  return engine_get_or_fill(c, key, value, &status);
}

static int set(gorge_cache *c, const char *key, const char *value) { return engine_set_whole(c, key, value, NULL); }

static const struct gorge_words *words(const gorge_cache *c) { return gorge_zone_words(c->zone, c->ns); }

static uint64_t fresh_until(const gorge_cache *c) {
  return __atomic_load_n(&words(c)->fresh_until_ms, __ATOMIC_ACQUIRE);
}
static uint64_t life_max(const gorge_cache *c) { return __atomic_load_n(&words(c)->life_max_ms, __ATOMIC_RELAXED); }

static struct gorge_stats stats(gorge_cache *c) {
  struct gorge_stats s;
  assert_int_equal(gorge_stats_read(c, &s), GORGE_OK);
  return s;
}

static void say(const char *command) {
  char answer[256];
  assert_true(support_redis_command(&redis, command, answer, sizeof answer));
  assert_int_not_equal(answer[0], '-');
}

/* A heartbeat that comes late, since the machine has other things to do, closes L1 until it is there. Nothing else does. */
static void heartbeats_keep_l1_open(void **state) {
  (void)state;
  enum { HEARTBEATS = 10 };
  uint64_t before = fresh_until(a), limit = gorge_clock_ms() + 20 * BOUND_MS, least = UINT64_MAX;
  int heard = 0, looks = 0, closed = 0;
  load(a, "k", "v");
  for (; heard < HEARTBEATS && gorge_clock_ms() < limit; looks++) {
    uint64_t until = fresh_until(a);
    const char *value = engine_l1(a, "k");
    if (value == NULL) {
      assert_true(gorge_clock_ms() >= until);
      closed++;
    } else {
      assert_string_equal(value, "v");
    }
    engine_turn(a, b, 5);
    uint64_t now = fresh_until(a);
    assert_true(now <= gorge_clock_ms() + BOUND_MS);
    if (now > before) {
      least = now - before < least ? now - before : least;
      before = now;
      heard++;
    }
  }
  assert_int_equal(heard, HEARTBEATS);
  assert_true(least <= BOUND_MS / 2); /* some time is left for what is late */
  assert_true(closed <= looks / 2);
  assert_true(WAIT_UNTIL(engine_l1(a, "k") != NULL));
  assert_true(WAIT_UNTIL(stats(a).subscribed == 1 && stats(a).lag_ms >= 0 && stats(a).lag_ms <= BOUND_MS));
}

static uint32_t partition_of(const char *key) { return gorge_partition_of(key, strlen(key), engine_partitions); }

/* An invalidation that is in the journal, but of which nobody was told. */
static void a_message_that_was_lost_is_found_within_the_bound(void **state) {
  (void)state;
  load(a, "lost", "old");
  load(a, "stays", "v");
  char command[512], head[64];
  uint32_t partition = partition_of("lost");
  snprintf(head, sizeof head, "string.char(2,1) .. struct.pack('>I8I8B', v, 0, %u)", partition);
  uint64_t resyncs = engine_counter(a, GORGE_COUNT_RESYNCS);
  snprintf(command, sizeof command,
           "EVAL \"local v = redis.call('INCR', KEYS[2]) redis.call('XADD', KEYS[1], string.format('%%.0f-0', v), 'm', "
           "%s .. 'lost')\" 2 {1:t:%u}:j {1:t:%u}:c",
           engine_partitions > 1 ? head : "string.char(1,1) .. struct.pack('>I8', v)", partition, partition);
  say(command);
  uint64_t committed = gorge_clock_ms();
  assert_true(engine_had_until(a, "lost", committed + 5000, NULL) <= committed + BOUND_MS);
  assert_true(
      WAIT_UNTIL(engine_l1_is(a, "stays", "v"))); /* at once, unless L1 is closed because the heartbeat was late */
  assert_null(engine_l1(a, "lost"));
  assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs);
}

static void a_journal_that_lost_its_memory_forgets_l1(void **state) {
  (void)state;
  load(a, "k", "old");
  uint64_t resyncs = engine_counter(a, GORGE_COUNT_RESYNCS);
  say(engine_partitions > 1 ? "DEL {1:t:63}:j" : "DEL {1:t:0}:j");
  assert_true(WAIT_UNTIL(engine_counter(a, GORGE_COUNT_RESYNCS) > resyncs));
  assert_null(engine_l1(a, "k"));
  assert_true(WAIT_UNTIL(engine_follows(a)));
}

/* The oldest confirmation of a partition. */
static uint64_t synced(const gorge_cache *c) {
  return __atomic_load_n(&gorge_zone_journal(c->zone, c->ns)->synced_ms, __ATOMIC_RELAXED);
}

/* Each partition finds out for itself that its journal is another one. For people that is one loss. */
static void a_loss_counts_once_however_many_partitions_find_it(void **state) {
  (void)state;
  char command[128];
  snprintf(command, sizeof command, "EVAL \"for i = 0, %u do redis.call('DEL', '{1:t:' .. i .. '}:j') end\" 0",
           engine_partitions - 1);
  assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), 1); /* a host that is new has no place in the journals */
  for (uint64_t losses = 2; losses <= 3; losses++) {
    load(a, "k", "v");
    say(command);
    uint64_t lost = gorge_clock_ms();
    assert_true(WAIT_UNTIL(synced(a) > lost));
    assert_null(engine_l1(a, "k"));
    assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), losses);
  }
}

/* Redis stands still, and nobody says so: the word runs out by itself. */
static void silence_closes_l1_in_time(void **state) {
  (void)state;
  load(a, "k", "v");
  kill(redis.pid, SIGSTOP);
  bool open_too_long = false;
  uint64_t limit = gorge_clock_ms() + 20000;
  while (life_max(a) == 0 && gorge_clock_ms() < limit) { /* until the loss is noticed */
    uint64_t until = fresh_until(a), look = gorge_clock_ms();
    bool open = engine_l1(a, "k") != NULL;
    open_too_long = open_too_long || (open && look >= until && fresh_until(a) == until && life_max(a) == 0);
    engine_turn(a, NULL, 2);
  }
  kill(redis.pid, SIGCONT);
  assert_false(open_too_long);
  assert_true(WAIT_UNTIL(life_max(a) == 0));
}

static void without_contact_old_entries_end_and_new_ones_are_young(void **state) {
  (void)state;
  load(a, "before", "v");
  uint64_t resyncs = engine_counter(a, GORGE_COUNT_RESYNCS);
  support_redis_kill(&redis);
  assert_true(WAIT_UNTIL(life_max(a) == DISCONNECTED_MS));
  uint64_t lost = gorge_clock_ms();
  assert_true(WAIT_UNTIL(engine_l1_is(a, "before", "v"))); /* still served, or again if the heartbeat was late */
  assert_string_equal(load(a, "since", "new"), "new");
  struct gorge_read read = {.buf = NULL};
  assert_int_equal(gorge_peek(a, "since", 5, &read), GORGE_SPACE);
  assert_true(read.expires_ms <= (double)(gorge_clock_ms() + DISCONNECTED_MS));
  assert_int_equal(stats(a).subscribed, 0);
  assert_true(engine_had_until(a, "before", lost + 2 * DISCONNECTED_MS, NULL) <= lost + DISCONNECTED_MS);
  assert_true(WAIT_UNTIL(fresh_until(a) == GORGE_FRESH_ALWAYS));
  assert_string_equal(load(a, "later", "newer"), "newer");
  assert_string_equal(engine_l1(a, "later"), "newer"); /* L1 goes on */

  assert_true(support_redis_restart(&redis));
  assert_true(WAIT_UNTIL(engine_follows(a) && life_max(a) == 0));
  assert_true(WAIT_UNTIL(fresh_until(a) < GORGE_FRESH_ALWAYS));
  assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs + 1); /* it came back with nothing: still one loss */
}

static int touch(gorge_cache *c, const char *key, double ttl_ms) {
  uint64_t op;
  int status = gorge_touch_start(c, key, (uint32_t)strlen(key), ttl_ms, ttl_ms, &op);
  return engine_finish(c, op, status);
}

static void touch_for_long(gorge_cache *c, const char *key) { (void)touch(c, key, 60000); }

/* Who touches a value cannot know what others have done meanwhile. */
static void without_contact_a_touch_keeps_nothing_for_longer(void **state) {
  (void)state;
  load(a, "before", "v");
  support_redis_kill(&redis);
  assert_true(WAIT_UNTIL(life_max(a) == DISCONNECTED_MS));
  uint64_t from = gorge_clock_ms();
  assert_true(engine_had_until(a, "before", from + 2 * DISCONNECTED_MS, touch_for_long) <= from + DISCONNECTED_MS);
  assert_true(
      WAIT_UNTIL(fresh_until(a) == GORGE_FRESH_ALWAYS)); /* what is stored before that is forgotten with the rest */
  load(a, "since", "v");
  from = gorge_clock_ms();
  assert_non_null(engine_l1(a, "since"));
  assert_true(engine_had_until(a, "since", from + 2 * DISCONNECTED_MS, touch_for_long) <= from + DISCONNECTED_MS);
  assert_true(support_redis_restart(&redis));
  assert_true(WAIT_UNTIL(engine_follows(a) && life_max(a) == 0));
}

static void with_0_l1_is_silent_without_contact(void **state) {
  (void)state;
  gorge_cache_destroy(b);
  b = node(0, TIMEOUT_MS);
  load(b, "k", "v");
  support_redis_kill(&redis);
  assert_true(WAIT_UNTIL(life_max(b) != 0));
  assert_true(WAIT_UNTIL(engine_l1(b, "k") == NULL));
  assert_string_equal(load(b, "k", "again"), "again");
  assert_null(engine_l1(b, "k"));
  assert_true(support_redis_restart(&redis));
  assert_true(WAIT_UNTIL(engine_follows(b)));
  assert_true(WAIT_UNTIL((load(b, "k", "back"), engine_l1(b, "k") != NULL)));
}

static int stand_still(struct proc *self, void *arg) {
  (void)arg;
  gorge_cache *c = open_node(DISCONNECTED_MS, TIMEOUT_MS);
  CHILD_CHECK(WAIT_UNTIL(engine_follows(c)));
  CHILD_CHECK(WAIT_UNTIL((load(c, "k", "old"), engine_l1(c, "k") != NULL)));
  proc_say(self, 1);
  (void)proc_hear(self);                 /* stopped in here */
  const char *value = engine_l1(c, "k"); /* the control thread has hardly run */
  return value == NULL || strcmp(value, "old") != 0 ? 0 : 1;
}

/* A host that stood still as a whole: its first read after that does not answer from what it had. */
static void a_host_that_was_stopped_does_not_answer_from_before(void **state) {
  (void)state;
  struct proc host = proc_start(stand_still, NULL);
  assert_int_equal(proc_hear(&host), 1);
  proc_stop(&host);
  assert_int_equal(set(b, "k", "new"), GORGE_OK);
  usleep((BOUND_MS + 100) * 1000);
  proc_say(&host, 1);
  proc_continue(&host);
  assert_int_equal(proc_wait(&host), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(heartbeats_keep_l1_open),
      TEST(a_message_that_was_lost_is_found_within_the_bound),
      TEST(a_journal_that_lost_its_memory_forgets_l1),
      TEST(a_loss_counts_once_however_many_partitions_find_it),
      cmocka_unit_test_setup_teardown(silence_closes_l1_in_time, begin_impatient, end),
      TEST(without_contact_old_entries_end_and_new_ones_are_young),
      TEST(without_contact_a_touch_keeps_nothing_for_longer),
      TEST(with_0_l1_is_silent_without_contact),
      TEST(a_host_that_was_stopped_does_not_answer_from_before),
  };
  int failed = cmocka_run_group_tests_name("contact", tests, NULL, NULL);
  engine_partitions = GORGE_PARTITIONS;
  return failed + cmocka_run_group_tests_name("contact; as many partitions as in a cluster", tests, NULL, NULL);
}
