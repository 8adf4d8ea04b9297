/* SPDX-License-Identifier: MIT */
/*
 * A node whose subscriber was away hears what it missed: from the journal where that still has it, and keeps all that was not
 * touched; else it forgets its L1.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "proto/slot.h"
#include "test/drive_support.h"
#include "test/engine_support.h"
#include "test/procs.h"

static struct support_redis redis;
static gorge_cache *a, *b; /* a misses what b does */

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
  gorge_cache_destroy(a);
  gorge_cache_destroy(b);
  return support_redis_command(&redis, "FLUSHALL", answer, sizeof answer) ? 0 : -1;
}

static long command(const char *text) {
  char answer[256];
  assert_true(support_redis_command(&redis, text, answer, sizeof answer));
  assert_int_not_equal(answer[0], '-');
  return strtol(answer + 1, NULL, 10);
}

static int admin; /* a connection; while nobody hears, Redis takes no other */

/* Says `text` on a connection that was there before, and waits for an answer that ends with `end`. */
static void say(int fd, const char *text, const char *end) {
  char answer[1024];
  size_t len = 0;
  assert_int_equal(send(fd, text, strlen(text), MSG_NOSIGNAL), strlen(text));
  do {
    ssize_t n = recv(fd, answer + len, sizeof answer - 1 - len, 0);
    assert_true(n > 0);
    len += (size_t)n;
    answer[len] = '\0';
  } while (len < strlen(end) || strcmp(answer + len - strlen(end), end) != 0);
}

/* A command about each journal that there is. */
static void say_of_journals(int fd, const char *command, const char *rest) {
  for (uint32_t i = 0; i < engine_partitions; i++) {
    char text[128];
    snprintf(text, sizeof text, "%s {1:t:%u}:j%s\r\n", command, i, rest);
    say(fd, text, "\r\n");
  }
}

static uint32_t partition_of(const char *key) { return gorge_partition_of(key, strlen(key), engine_partitions); }

static const char *get(gorge_cache *c, const char *key) {
  int status;
  const char *value = engine_get_or_fill(c, key, "?", &status);
  return status == GORGE_HIT ? value : NULL;
}

/* What a has in L1 before it is cut off. */
static void fill_node_a(void) {
  assert_int_equal(engine_set_whole(b, "deleted", "old", NULL), GORGE_OK);
  assert_int_equal(engine_set_whole(b, "replaced", "old", NULL), GORGE_OK);
  assert_int_equal(engine_set_whole(b, "tagged", "old", "t1"), GORGE_OK);
  assert_int_equal(engine_set_whole(b, "unrelated", "stays", "t2"), GORGE_OK);
  assert_int_equal(engine_delete_whole(b, "last"), GORGE_OK);
  assert_true(WAIT_UNTIL(engine_counter(a, GORGE_COUNT_MESSAGES) >= 5)); /* else a late one removes what is read now */
  const char *keys[] = {"deleted", "replaced", "tagged", "unrelated"};
  for (int i = 0; i < 4; i++) {
    assert_non_null(get(a, keys[i]));
    assert_non_null(engine_l1(a, keys[i]));
  }
}

/* Cuts every subscriber off, does something while nobody can come back, and lets them. */
static void unheard(void (*what)(void)) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, redis.path, strlen(redis.path) + 1);
  admin = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_true(admin >= 0);
  assert_int_equal(connect(admin, (struct sockaddr *)&address, sizeof address), 0);
  uint64_t op; /* b's connection must be there */
  assert_int_equal(engine_lookup(b, "connected", &op), GORGE_PENDING);
  assert_int_equal(engine_finish(b, op, GORGE_PENDING), GORGE_MISS);
  assert_true(WAIT_UNTIL(engine_follows(a) && engine_follows(b)));
  say(admin, "CLIENT KILL TYPE pubsub\r\nCONFIG SET maxclients 1\r\n", "+OK\r\n");
  what();
  say(admin, "PUBSUB NUMSUB gorge:1:t\r\n", ":0\r\n");
  say(admin, "CONFIG SET maxclients 10000\r\n", "+OK\r\n");
  close(admin);
  assert_true(WAIT_UNTIL(engine_follows(a) && engine_follows(b)));
}

static void change(void) {
  assert_int_equal(engine_delete_whole(b, "deleted"), GORGE_OK);
  assert_int_equal(engine_set_whole(b, "replaced", "new", NULL), GORGE_OK);
  assert_int_equal(engine_invalidate_whole(b, "t1"), GORGE_OK);
}

static void nothing_old_is_left(void) {
  assert_true(WAIT_UNTIL(engine_l1(a, "deleted") == NULL));
  assert_true(WAIT_UNTIL(engine_l1(a, "replaced") == NULL || strcmp(engine_l1(a, "replaced"), "new") == 0));
  assert_true(WAIT_UNTIL(engine_l1(a, "tagged") == NULL));
  assert_string_equal(get(a, "replaced"), "new");
}

/* L1 may be closed for a moment, and is not filled here: what it has once it is open again, it had all the time. */
static void the_rest_stays(gorge_cache *c) {
  assert_true(WAIT_UNTIL(engine_l1(c, "unrelated") != NULL));
  assert_string_equal(engine_l1(c, "unrelated"), "stays");
  assert_null(engine_l1(c, "deleted"));
  assert_null(engine_l1(c, "tagged"));
}

static void what_was_missed_is_read_in_the_journal(void **state) {
  (void)state;
  fill_node_a();
  uint64_t resyncs = engine_counter(a, GORGE_COUNT_RESYNCS);
  unheard(change);
  nothing_old_is_left();
  the_rest_stays(a);
  assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs);
  assert_int_equal(engine_delete_whole(b, "unrelated"), GORGE_OK); /* and it hears again */
  assert_true(WAIT_UNTIL(engine_l1(a, "unrelated") == NULL));
}

/* More than one answer of the journal holds. */
static void change_much(void) {
  enum { MANY = 900 };
  static uint64_t ops[MANY];
  char key[16];
  for (int i = 0; i < MANY; i++) {
    snprintf(key, sizeof key, "x%d", i);
    assert_int_equal(engine_delete(b, key, &ops[i]), GORGE_PENDING);
  }
  for (int i = 0; i < MANY; i++) {
    assert_int_equal(engine_finish(b, ops[i], GORGE_PENDING), GORGE_OK);
  }
  change();
}

static void many_are_read_in_pages(void **state) {
  (void)state;
  fill_node_a();
  uint64_t resyncs = engine_counter(a, GORGE_COUNT_RESYNCS);
  unheard(change_much);
  nothing_old_is_left();
  assert_true(WAIT_UNTIL(engine_follows(a)));
  the_rest_stays(a);
  assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs);
}

/* Where it began is remembered, too. */
static void a_node_that_has_heard_nothing_yet_goes_on_from_its_beginning(void **state) {
  (void)state;
  fill_node_a();
  gorge_cache_destroy(a);
  a = engine_node(NULL, redis.path); /* another host, which reads what is in Redis */
  assert_string_equal(get(a, "deleted"), "old");
  assert_string_equal(get(a, "unrelated"), "stays");
  assert_int_equal(engine_counter(a, GORGE_COUNT_MESSAGES), 0);
  uint64_t resyncs = engine_counter(a, GORGE_COUNT_RESYNCS);
  unheard(change);
  nothing_old_is_left();
  the_rest_stays(a);
  assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs);
}

static void nothing(void) {}

/* What is heard moves the cursor: the journal may forget it. */
static void what_was_heard_need_not_be_in_the_journal_any_more(void **state) {
  (void)state;
  fill_node_a();
  uint64_t resyncs = engine_counter(a, GORGE_COUNT_RESYNCS), messages = engine_counter(a, GORGE_COUNT_MESSAGES);
  change();
  assert_true(WAIT_UNTIL(engine_counter(a, GORGE_COUNT_MESSAGES) >= messages + 3));
  for (uint32_t i = 0; i < engine_partitions; i++) {
    char text[64];
    snprintf(text, sizeof text, "XTRIM {1:t:%u}:j MAXLEN 1", i);
    command(text);
  }
  messages = engine_counter(a, GORGE_COUNT_MESSAGES);
  unheard(nothing);
  assert_true(WAIT_UNTIL(engine_follows(a)));
  assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs);
  assert_true(engine_counter(a, GORGE_COUNT_MESSAGES) <=
              messages + 20 * (uint64_t)engine_partitions); /* its own entry, each time it comes back */
  the_rest_stays(a);
}

static void change_and_lose_the_journal(void) {
  change();
  say_of_journals(admin, "DEL", "");
}

static void change_and_trim(void) {
  change();
  assert_int_equal(engine_set_whole(b, "x", "x", NULL), GORGE_OK);
  say_of_journals(admin, "XTRIM", " MAXLEN 1");
}

static void change_and_empty_the_journal(void) {
  change();
  say_of_journals(admin, "XTRIM", " MAXLEN 0");
}

static void change_and_lose_all(void) {
  change();
  say(admin, "FLUSHALL\r\n", "\r\n");
  assert_int_equal(engine_set_whole(b, "replaced", "new", NULL), GORGE_OK);
}

static void a_gap_in_the_journal_forgets_l1(void **state) {
  (void)state;
  void (*const losses[])(void) = {change_and_lose_the_journal, change_and_trim, change_and_empty_the_journal,
                                  change_and_lose_all};
  for (size_t i = 0; i < sizeof losses / sizeof losses[0]; i++) {
    fill_node_a();
    uint64_t resyncs = engine_counter(a, GORGE_COUNT_RESYNCS), epoch = gorge_cache_words(a)->epoch;
    unheard(losses[i]);
    nothing_old_is_left();
    assert_true(WAIT_UNTIL(engine_follows(a)));
    assert_true(engine_counter(a, GORGE_COUNT_RESYNCS) > resyncs);
    assert_true(gorge_cache_words(a)->epoch > epoch);
    assert_null(engine_l1(a, "unrelated"));
    /* The next time it goes on from there. */
    assert_string_equal(get(a, "replaced"), "new");
    resyncs = engine_counter(a, GORGE_COUNT_RESYNCS);
    unheard(change);
    nothing_old_is_left();
    assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs);
    gorge_cache_destroy(a);
    gorge_cache_destroy(b);
    a = engine_node(NULL, redis.path);
    b = engine_node(NULL, redis.path);
  }
}

/* ---- the role goes to another worker of the host ---- */

static int hold_the_role(struct proc *self, void *arg) {
  (void)arg;
  CHILD_CHECK(gorge_cache_enter(a, 1) == GORGE_OK);
  CHILD_CHECK(WAIT_UNTIL(engine_follows(a)));
  fill_node_a();
  proc_say(self, engine_counter(a, GORGE_COUNT_RESYNCS));
  proc_hear(self);
  proc_say(self, engine_follows(a));
  gorge_cache_destroy(a);
  return 0;
}

/* Another worker of a's host, that a child has the role of. */
static struct proc child_with_the_role(uint64_t *resyncs) {
  struct gorge_config config = engine_config(NULL, redis.path, GORGE_CONFIG_INLINE);
  gorge_cache_destroy(a);
  a = engine_cache(&config);
  struct proc holder = proc_start(hold_the_role, NULL);
  *resyncs = proc_hear(&holder);
  assert_int_equal(gorge_cache_enter(a, 1), GORGE_OK);
  assert_false(engine_follows(a));
  return holder;
}

static void the_next_holder_goes_on_where_a_dead_one_stopped(void **state) {
  (void)state;
  uint64_t resyncs;
  struct proc holder = child_with_the_role(&resyncs);
  proc_kill(&holder);
  change(); /* before the next election, or after it: both will do */
  nothing_old_is_left();
  assert_true(WAIT_UNTIL(engine_follows(a)));
  the_rest_stays(a);
  assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs);
}

static void the_next_holder_goes_on_where_one_left_in_order(void **state) {
  (void)state;
  uint64_t resyncs;
  struct proc holder = child_with_the_role(&resyncs);
  proc_say(&holder, 1);
  change();
  assert_int_equal(proc_hear(&holder), 1);
  assert_int_equal(proc_wait(&holder), 0);
  nothing_old_is_left();
  assert_true(WAIT_UNTIL(engine_follows(a)));
  the_rest_stays(a);
  assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs);
}

static void a_holder_that_stood_still_gives_way_and_changes_nothing(void **state) {
  (void)state;
  uint64_t resyncs;
  struct proc holder = child_with_the_role(&resyncs);
  proc_stop(&holder);
  change();
  nothing_old_is_left();
  assert_true(WAIT_UNTIL(engine_follows(a)));
  assert_int_equal(engine_set_whole(b, "replaced", "newer", NULL), GORGE_OK);
  assert_true(WAIT_UNTIL(engine_l1(a, "replaced") == NULL));
  assert_string_equal(get(a, "replaced"), "newer");
  const uint64_t *word = &gorge_zone_cursors(a->zone, a->ns, engine_partitions)[partition_of("replaced")];
  uint64_t cursor = *word;
  proc_continue(&holder); /* hears now what it had in its socket */
  proc_say(&holder, 1);
  proc_hear(&holder);
  assert_int_equal(proc_wait(&holder), 0);
  assert_true(*word >= cursor);
  the_rest_stays(a);
  assert_string_equal(get(a, "replaced"), "newer");
  assert_true(engine_follows(a));
  assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs);
}

/* A host that nobody has followed the journal for: what it has may be old, and is not shown before that is known. */
static void after_an_absence_l1_is_closed_until_the_journal_is_read(void **state) {
  (void)state;
  struct gorge_config config = engine_config(engine_zone_name(), redis.path, GORGE_CONFIG_INLINE);
  gorge_cache *c = engine_cache(&config); /* of b's zone */
  assert_int_equal(engine_set_whole(b, "deleted", "old", NULL), GORGE_OK);
  assert_non_null(get(b, "deleted"));
  assert_int_equal(engine_set_whole(b, "unrelated", "stays", NULL), GORGE_OK);
  gorge_cache_destroy(b);
  b = a;
  change();
  assert_non_null(engine_l1(c, "deleted")); /* the bound of the one who left is not over */
  gorge_zone_words(c->zone, c->ns)->fresh_until_ms = 1;
  kill(redis.pid, SIGSTOP);
  assert_int_equal(gorge_cache_enter(c, 1), GORGE_OK);
  bool closed = engine_l1(c, "deleted") == NULL && engine_l1(c, "unrelated") == NULL;
  kill(redis.pid, SIGCONT);
  assert_true(closed);
  assert_true(WAIT_UNTIL(engine_follows(c)));
  assert_null(engine_l1(c, "deleted"));
  the_rest_stays(c);
  a = c;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(what_was_missed_is_read_in_the_journal),
      TEST(many_are_read_in_pages),
      TEST(a_node_that_has_heard_nothing_yet_goes_on_from_its_beginning),
      TEST(what_was_heard_need_not_be_in_the_journal_any_more),
      TEST(a_gap_in_the_journal_forgets_l1),
      TEST(the_next_holder_goes_on_where_a_dead_one_stopped),
      TEST(the_next_holder_goes_on_where_one_left_in_order),
      TEST(a_holder_that_stood_still_gives_way_and_changes_nothing),
      TEST(after_an_absence_l1_is_closed_until_the_journal_is_read),
  };
  int failed = cmocka_run_group_tests_name("journal", tests, start, stop);
  engine_partitions = GORGE_PARTITIONS;
  return failed + cmocka_run_group_tests_name("journal; as many partitions as in a cluster", tests, start, stop);
}
