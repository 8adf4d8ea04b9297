/* SPDX-License-Identifier: MIT */
/* Writes against a Redis made of bytes: what a reader of this host may see before, between and after the answers. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backlog/backlog.h"
#include "base/clock.h"
#include "proto/scripts.h"
#include "test/engine_support.h"

static struct peer peer;
static gorge_cache *c;

static int begin(void **state) {
  (void)state;
  c = peer_cache(&peer, NULL);
  return 0;
}

static int end(void **state) {
  (void)state;
  bool clean = engine_flights(c) == 0 && gorge_pending(c) == 0 && c->waiting == NULL && peer_idle(&peer) &&
               gorge_io_pending(c, 0) == 0;
  gorge_cache_destroy(c);
  peer_free(&peer);
  return clean ? 0 : -1;
}

static uint64_t set(const char *value) {
  uint64_t op;
  assert_int_equal(engine_set(c, "k", value, NULL, &op), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_SET);
  return op;
}

static uint64_t deletion(void) {
  uint64_t op;
  assert_int_equal(engine_delete(c, "k", &op), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_DELETE);
  return op;
}

static uint64_t lookup(void) {
  uint64_t op;
  assert_int_equal(engine_lookup(c, "k", &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  return op;
}

static void answered(uint64_t op, uint64_t version, int status) {
  assert_int_equal(peer_say_number(&peer, version), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, status);
  gorge_op_free(c, op);
}

/* As the subscriber applies it. */
static void message(uint64_t version) {
  struct gorge_key key;
  gorge_key_init(c->zone, c->ns, "k", 1, &key);
  gorge_l1_invalidate(c->zone, &c->process->owner, &key, version, NULL);
}

static uint64_t l1_version(void) {
  struct gorge_read read = {.buf = NULL};
  return gorge_peek(c, "k", 1, &read) == GORGE_MISS ? 0 : read.version;
}

/* I4: a value that Redis has not ordered yet is not shown: an older one could follow it. */
static void a_value_is_shown_when_redis_has_given_it_a_version(void **state) {
  (void)state;
  answered(set("one"), peer_version(1), GORGE_OK);
  assert_string_equal(engine_l1(c, "k"), "one");
  uint64_t op = set("two");
  assert_null(engine_l1(c, "k")); /* neither the old one */
  answered(op, peer_version(2), GORGE_OK);
  assert_string_equal(engine_l1(c, "k"), "two");
  assert_int_equal(l1_version(), peer_version(2));
  message(peer_version(2)); /* its own message, whenever it comes */
  assert_string_equal(engine_l1(c, "k"), "two");
}

static void of_two_writes_that_cross_the_last_one_in_redis_wins(void **state) {
  (void)state;
  uint64_t first = set("first"), second = set("second");
  assert_int_equal(peer_say_number(&peer, peer_version(2)), GORGE_OK); /* answers in the order of questions, */
  assert_int_equal(peer_say_number(&peer, peer_version(1)), GORGE_OK); /* versions in that of another world */
  assert_true(engine_l1(c, "k") == NULL || strcmp(engine_l1(c, "k"), "first") == 0);
  gorge_op_free(c, first);
  gorge_op_free(c, second);
  answered(lookup(), 0, GORGE_MISS);
}

static void a_newer_message_before_the_answer_keeps_the_value_out(void **state) {
  (void)state;
  uint64_t op = set("mine");
  message(peer_version(1)); /* mine, faster than the answer */
  message(peer_version(2)); /* and another node's */
  answered(op, peer_version(1), GORGE_OK);
  assert_null(engine_l1(c, "k"));
  op = set("mine");
  message(peer_version(3));
  answered(op, peer_version(3), GORGE_OK);
  assert_string_equal(engine_l1(c, "k"), "mine");
}

/* I3: whoever read Redis before it knew of the write does not bring the old value back. */
static void a_neighbour_that_read_the_old_value_does_not_bring_it_back(void **state) {
  (void)state;
  for (int deleting = 0; deleting < 2; deleting++) {
    for (int when = 0; when < 3; when++) {
      uint64_t read = 0, write = 0;
      if (when == 0) { /* it began before the write */
        read = lookup();
      }
      write = deleting ? deletion() : set("new");
      if (when > 0) { /* after the write had begun, in another worker: Redis answers it first */
        struct gorge_op *op;
        assert_int_equal(gorge_op_create(c, "k", 1, NULL, 0, &op), GORGE_OK);
        read = op->id;
        gorge_fetch_lookup(op, gorge_clock_ms());
        struct gorge_l2_request *rq = &op->request;
        struct gorge_l2_result old = {
            .status = GORGE_HIT, .version = peer_version(1), .value = "old", .value_len = 3, .remaining_ms = 60000};
        old.kind = GORGE_KIND_STRING;
        if (when == 1) {
          rq->done(rq, &old, gorge_clock_ms());
          gorge_l2_cancel(rq);
          assert_string_equal(engine_l1(c, "k"), "old"); /* the write has not returned yet */
        }
        assert_int_equal(peer_say_number(&peer, peer_version(5)), GORGE_OK);
        if (when == 2) {
          rq->done(rq, &old, gorge_clock_ms());
          gorge_l2_cancel(rq);
        }
        peer_expect(&peer, "GET");
        assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK);
      } else {
        assert_int_equal(peer_say_value(&peer, peer_version(1), "old", NULL), GORGE_OK);
        assert_int_equal(peer_say_number(&peer, peer_version(5)), GORGE_OK);
      }
      assert_string_equal(engine_status(c, read).value, "old"); /* it asked before the write returned */
      assert_int_equal(engine_status(c, write).status, GORGE_OK);
      const char *now = engine_l1(c, "k");
      assert_true(now == NULL || (!deleting && strcmp(now, "new") == 0));
      gorge_op_free(c, read);
      gorge_op_free(c, write);
      gorge_l1_bump_epoch(c->zone, c->ns);
    }
  }
}

static void a_fill_that_began_before_a_write_does_not_undo_it(void **state) {
  (void)state;
  for (int deleting = 0; deleting < 2; deleting++) {
    uint64_t op;
    assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_PENDING);
    peer_expect(&peer, "GET");
    assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK);
    peer_expect_script(&peer, GORGE_SCRIPT_LEASE);
    assert_int_equal(peer_say_lease(&peer, peer_version(1), NULL), GORGE_OK);
    uint64_t write = deleting ? deletion() : set("new");
    assert_int_equal(engine_fill(c, op, "old"), GORGE_PENDING);
    peer_expect_script(&peer, GORGE_SCRIPT_FILL);
    answered(write, peer_version(2), GORGE_OK);
    answered(op, peer_version(3), GORGE_REFUSED); /* even if Redis had stored it */
    const char *now = engine_l1(c, "k");
    assert_true(now == NULL || (!deleting && strcmp(now, "new") == 0));
    gorge_l1_bump_epoch(c->zone, c->ns);
  }
}

/* The answer is missing: what happened in Redis is not known, this host goes on with what was written. */
static void a_write_without_an_answer_holds_on_this_host(void **state) {
  (void)state;
  uint64_t op = set("new");
  message(peer_version(3));
  assert_int_equal(peer_say(&peer, "-BUSY a script is running\r\n"), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_ERR_REDIS);
  gorge_op_free(c, op);
  assert_string_equal(engine_l1(c, "k"), "new");
  assert_int_equal(l1_version(), 0);
  message(peer_version(4)); /* should it have been carried out, its message makes readers ask Redis */
  assert_null(engine_l1(c, "k"));
  op = deletion();
  assert_int_equal(peer_say(&peer, "-BUSY a script is running\r\n"), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_ERR_REDIS);
  gorge_op_free(c, op);
  assert_null(engine_l1(c, "k"));
}

static void a_tag_is_invalidated_before_and_after_redis_is_told(void **state) {
  (void)state;
  uint64_t op;
  for (int when = 0; when < 2; when++) {
    assert_int_equal(engine_set(c, "k", "v", "tag", &op), GORGE_PENDING);
    peer_expect_script(&peer, GORGE_SCRIPT_SET);
    if (when == 0) {
      answered(op, peer_version(10), GORGE_OK);
      assert_string_equal(engine_l1(c, "k"), "v");
    }
    uint64_t tags;
    assert_int_equal(engine_invalidate(c, "tag", &tags), GORGE_PENDING);
    peer_expect_script(&peer, GORGE_SCRIPT_INVALIDATE);
    if (when == 1) {
      answered(op, peer_version(11), GORGE_OK);
    }
    assert_null(engine_l1(c, "k"));
    answered(tags, peer_version(12), GORGE_OK);
    assert_null(engine_l1(c, "k"));
  }
  assert_int_equal(engine_counter(c, GORGE_COUNT_INVALIDATED_TAGS), 2);
}

/* A neighbour read the new generation of the tag, but the old value in Redis. */
static void what_a_neighbour_reads_under_a_tag_meanwhile_does_not_stay(void **state) {
  (void)state;
  uint64_t tags;
  assert_int_equal(engine_invalidate(c, "tag", &tags), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_INVALIDATE);
  struct gorge_op *op;
  assert_int_equal(gorge_op_create(c, "k", 1, "\3tag", 4, &op), GORGE_OK);
  uint64_t id = op->id;
  gorge_fetch_lookup(op, gorge_clock_ms());
  struct gorge_l2_request *rq = &op->request;
  struct gorge_l2_result old = {
      .status = GORGE_HIT, .version = peer_version(1), .value = "old", .value_len = 3, .remaining_ms = 60000};
  old.kind = GORGE_KIND_STRING;
  old.ntags = 1;
  old.tags[0] = (struct gorge_l2_tag){"tag", 3};
  rq->done(rq, &old, gorge_clock_ms());
  gorge_l2_cancel(rq);
  assert_string_equal(engine_l1(c, "k"), "old");
  assert_int_equal(peer_say_number(&peer, peer_version(2)), GORGE_OK);
  assert_int_equal(engine_status(c, tags).status, GORGE_OK);
  assert_null(engine_l1(c, "k"));
  gorge_op_free(c, tags);
  gorge_op_free(c, id);
  peer_expect(&peer, "GET");
  peer_expect(&peer, "MGET");
  assert_int_equal(peer_say(&peer, "$-1\r\n*1\r\n$-1\r\n"), GORGE_OK);
}

/* An answer from before Redis was told of an invalidation may come when nothing waits any more: the value is asked for again. */
static void what_was_asked_for_while_an_invalidation_waited_is_asked_for_again(void **state) {
  (void)state;
  static const char current[] = "*1\r\n$16\r\ntttttttt12345678\r\n";
  for (int waiting = 0; waiting < 2; waiting++) {
    if (waiting) {
      gorge_backlog_add(c->zone, c->process->owner.id, c->ns, 0, GORGE_BACKLOG_TAG, "t", 1);
    }
    uint64_t op = lookup();
    gorge_backlog_cancel(c->zone, c->process->owner.id, c->ns, GORGE_BACKLOG_TAG, "t", 1, gorge_backlog_added(c->zone));
    for (int asked = 0; asked <= waiting; asked++) {
      assert_int_equal(peer_say_value(&peer, peer_version(1), "v", "t"), GORGE_OK);
      peer_expect(&peer, "MGET"); /* of tags that the caller did not name */
      assert_int_equal(peer_say(&peer, current), GORGE_OK);
      peer_expect(&peer, "GET");
    }
    peer_expect(&peer, "MGET");
    assert_int_equal(peer_say_value(&peer, peer_version(1), "v", "t"), GORGE_OK);
    assert_int_equal(peer_say(&peer, current), GORGE_OK);
    assert_int_equal(engine_status(c, op).status, GORGE_HIT);
    gorge_op_free(c, op);
    gorge_l1_bump_epoch(c->zone, c->ns);
  }
}

/* ---- a write that Redis was not told of, and another worker of the host, which reads all the time ---- */

static const struct gorge_tag read_tag = {"tag", 3};

struct neighbour {
  struct gorge_owner owner;
  bool stop;
  uint32_t kept; /* how often L1 took what it had read */
};

static bool is_queued(uint32_t owner) {
  return gorge_backlog_holds(c->zone, owner, c->ns, GORGE_BACKLOG_KEY, "k", 1) ||
         gorge_backlog_holds(c->zone, owner, c->ns, GORGE_BACKLOG_TAG, "tag", 3);
}

/* As a look-up does: Redis still has the old value, and is asked unless something waits for it. */
static void *read_old(void *arg) {
  struct neighbour *n = arg;
  const struct gorge_entry old = {.value = "old",
                                  .value_len = 3,
                                  .kind = GORGE_KIND_STRING,
                                  .version = peer_version(1),
                                  .ntags = 1,
                                  .tags = &read_tag,
                                  .expires_ms = gorge_clock_ms() + 60000};
  while (!__atomic_load_n(&n->stop, __ATOMIC_ACQUIRE)) {
    struct gorge_key key;
    struct gorge_snapshot snapshot;
    struct gorge_read read = {.buf = NULL};
    gorge_key_init(c->zone, c->ns, "k", 1, &key);
    gorge_l1_snapshot(c->zone, &key, &read_tag, 1, &snapshot);
    if (!is_queued(n->owner.id) &&
        gorge_l1_insert(c->zone, &n->owner, &key, &old, &snapshot, gorge_clock_ms(), &read) == GORGE_STORED) {
      __atomic_add_fetch(&n->kept, 1, __ATOMIC_RELEASE);
    }
  }
  return NULL;
}

/* A write of one kind, which fails at once when there is no connection, else by what Redis says. */
static int fail_to_write(int kind, bool connected) {
  uint64_t op;
  int status = kind == 0   ? engine_delete(c, "k", &op)
               : kind == 1 ? engine_invalidate(c, "tag", &op)
               : kind == 2 ? engine_set(c, "k", "new", "tag", &op)
                           : gorge_clear_start(c, &op);
  if (connected) {
    struct peer_command command = peer_take(&peer);
    assert_true(command.script >= 0);
    assert_int_equal(peer_say(&peer, "-BUSY a script is running\r\n"), GORGE_OK);
  }
  return engine_finish(c, op, status);
}

/*
 * From the moment at which the write is queued nobody asks Redis, and nobody who asked before brings the old value into L1. The lock of the
 * queue is taken, so that this moment lasts.
 */
static void what_a_neighbour_reads_before_a_write_is_queued_does_not_stay(void **state) {
  (void)state;
  uint64_t size;
  struct gorge_lock *lock = gorge_zone_region(c->zone, GORGE_REGION_BACKLOG, &size);
  struct gorge_owner holder;
  struct neighbour n = {.stop = false};
  assert_int_equal(gorge_owner_claim(c->zone, GORGE_THREAD_MAIN, &holder), GORGE_OK);
  assert_int_equal(gorge_owner_claim(c->zone, GORGE_THREAD_MAIN, &n.owner), GORGE_OK);
  for (int round = 0; round < 8; round++) {
    pthread_t thread;
    uint64_t due = gorge_backlog_clear_due(c->zone, c->ns);
    gorge_backlog_cleared(c->zone, c->ns, due);
    assert_int_equal(gorge_lock_acquire(c->zone, lock, holder.id, 5000, NULL, NULL), GORGE_OK);
    n.stop = false;
    n.kept = 0;
    assert_int_equal(pthread_create(&thread, NULL, read_old, &n), 0);
    while (__atomic_load_n(&n.kept, __ATOMIC_ACQUIRE) == 0) {
    }
    if (round == 4) {
      gorge_io_closed(c, 0, "lost");
    }
    assert_true(fail_to_write(round % 4, round < 4) < 0);
    const char *seen = engine_l1(c, "k");
    assert_true(seen == NULL || (round % 4 == 2 && strcmp(seen, "new") == 0));
    __atomic_store_n(&n.stop, true, __ATOMIC_RELEASE);
    pthread_join(thread, NULL);
    seen = engine_l1(c, "k");
    assert_true(seen == NULL || (round % 4 == 2 && strcmp(seen, "new") == 0));
    gorge_lock_release(lock, holder.id);
  }
  gorge_owner_release(c->zone, &n.owner);
  gorge_owner_release(c->zone, &holder);
}

/* Redis is asked, or not: the breaker is open, as it may be for any worker at any time. */
static void let_ask(bool asked) {
  c->breaker_config.max_failures = asked ? 1000 : 1;
  c->breaker_config.timeout_ms = 60000;
  gorge_breaker_reset(c->breaker);
  if (!asked) {
    (void)gorge_breaker_failure(c->breaker, &c->breaker_config, gorge_clock_ms());
  }
}

/*
 * A write that Redis was not told of makes up for nothing that was sent before it: what Redis says of that one afterwards leaves it queued, or the
 * value of the older write would be back for good. One that is sent later does make up for it.
 */
static void an_answer_makes_up_for_what_was_missed_before_it_was_asked_for(void **state) {
  (void)state;
  for (int queued = 0; queued < 2; queued++) {
    if (queued > 0) {
      let_ask(false);
      assert_true(fail_to_write(0, false) < 0);
    }
    let_ask(true);
    uint64_t op = set("older");
    let_ask(false);
    assert_true(fail_to_write(0, false) < 0);
    answered(op, peer_version(1), GORGE_OK);
    assert_null(engine_l1(c, "k"));
    assert_int_equal(gorge_backlog_count(c->zone, c->ns), 1);
    let_ask(true);
    answered(set("newer"), peer_version(2), GORGE_OK);
    assert_int_equal(gorge_backlog_count(c->zone, c->ns), 0);
    assert_string_equal(engine_l1(c, "k"), "newer");
  }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_value_is_shown_when_redis_has_given_it_a_version),
      TEST(of_two_writes_that_cross_the_last_one_in_redis_wins),
      TEST(a_newer_message_before_the_answer_keeps_the_value_out),
      TEST(a_neighbour_that_read_the_old_value_does_not_bring_it_back),
      TEST(a_fill_that_began_before_a_write_does_not_undo_it),
      TEST(a_write_without_an_answer_holds_on_this_host),
      TEST(a_tag_is_invalidated_before_and_after_redis_is_told),
      TEST(what_a_neighbour_reads_under_a_tag_meanwhile_does_not_stay),
      TEST(what_was_asked_for_while_an_invalidation_waited_is_asked_for_again),
      TEST(what_a_neighbour_reads_before_a_write_is_queued_does_not_stay),
      TEST(an_answer_makes_up_for_what_was_missed_before_it_was_asked_for),
  };
  return cmocka_run_group_tests_name("engine, writes", tests, NULL, NULL);
}
