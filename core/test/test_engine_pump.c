/* SPDX-License-Identifier: MIT */
/* Operations against a Redis made of bytes: every answer, every moment at which the caller goes away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

/* A fetch that holds the lease in Redis. */
static uint64_t leased(const char *key, const char *tags) {
  uint64_t op;
  assert_int_equal(engine_fetch(c, key, tags, &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  if (tags != NULL) {
    peer_expect(&peer, "MGET");
  }
  assert_int_equal(peer_say(&peer, tags != NULL ? "$-1\r\n*1\r\n$-1\r\n" : "$-1\r\n"), GORGE_OK);
  peer_expect_script(&peer, GORGE_SCRIPT_LEASE);
  assert_int_equal(peer_say_lease(&peer, peer_version(1), tags), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_LEASE);
  return op;
}

static void a_value_in_redis_is_delivered_and_kept(void **state) {
  (void)state;
  uint64_t op;
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say_value(&peer, peer_version(1), "value", NULL), GORGE_OK);
  struct answer a = engine_status(c, op);
  assert_int_equal(a.status, GORGE_HIT);
  assert_string_equal(a.value, "value");
  assert_non_null(a.read.slot);
  assert_int_equal(a.read.version, peer_version(1));
  struct gorge_read small = {.buf = a.value, .buf_size = 2};
  assert_int_equal(gorge_op_status(c, op, &small), GORGE_SPACE);
  assert_int_equal(small.len, 5);
  gorge_op_free(c, op);
  assert_string_equal(engine_l1(c, "k"), "value");
  assert_int_equal(engine_counter(c, GORGE_COUNT_L2_HITS), 1);
}

static void a_lookup_takes_no_lease(void **state) {
  (void)state;
  uint64_t op;
  uint64_t misses = engine_counter(c, GORGE_COUNT_L2_MISSES);
  assert_int_equal(engine_lookup(c, "k", &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_MISS);
  gorge_op_free(c, op);
  assert_int_equal(engine_counter(c, GORGE_COUNT_L2_MISSES), misses + 1);
  assert_int_equal(engine_lookup(c, "k", &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say(&peer, "-ERR no\r\n"), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_MISS);
  gorge_op_free(c, op);
}

static void a_miss_gets_the_lease_and_its_value_is_stored(void **state) {
  (void)state;
  uint64_t op = leased("k", NULL);
  assert_int_equal(engine_fill(c, op, "v"), GORGE_PENDING);
  assert_null(engine_l1(c, "k")); /* Redis decides first */
  peer_expect_script(&peer, GORGE_SCRIPT_FILL);
  assert_int_equal(peer_say_number(&peer, peer_version(2)), GORGE_OK);
  struct answer a = engine_status(c, op);
  assert_int_equal(a.status, GORGE_STORED);
  assert_int_equal(a.read.version, peer_version(2));
  assert_non_null(a.read.slot);
  gorge_op_free(c, op);
  assert_string_equal(engine_l1(c, "k"), "v");
}

static void what_redis_refuses_is_not_kept_here_either(void **state) {
  (void)state;
  uint64_t op = leased("k", "tag");
  assert_int_equal(engine_fill(c, op, "v"), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_FILL);
  assert_int_equal(peer_say_number(&peer, 0), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_REFUSED);
  gorge_op_free(c, op);
  assert_null(engine_l1(c, "k"));
  assert_int_equal(engine_counter(c, GORGE_COUNT_REFUSED_FILLS), 1);
}

/* Another worker has found what was there before the invalidation that refuses the fill, and of which this host has not heard yet. */
static void what_is_refused_leaves_nothing_older_here(void **state) {
  (void)state;
  struct gorge_key key;
  struct gorge_snapshot snapshot;
  uint64_t op = leased("k", NULL);
  gorge_key_init(c->zone, c->ns, "k", 1, &key);
  gorge_l1_snapshot(c->zone, &key, NULL, 0, &snapshot);
  struct gorge_entry entry = {.value = "old",
                              .value_len = 3,
                              .kind = GORGE_KIND_STRING,
                              .version = peer_version(1),
                              .expires_ms = gorge_clock_ms() + 60000};
  assert_int_equal(gorge_l1_insert(c->zone, &c->process->owner, &key, &entry, &snapshot, gorge_clock_ms(), NULL),
                   GORGE_STORED);
  assert_string_equal(engine_l1(c, "k"), "old");
  assert_int_equal(engine_fill(c, op, "new"), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_FILL);
  assert_int_equal(peer_say_number(&peer, 0), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_REFUSED);
  gorge_op_free(c, op);
  assert_null(engine_l1(c, "k")); /* the caller has seen the new one */
}

/* The value in Redis has other tags than this caller names; it is dead by the time it is read with them. */
static void the_loaders_value_gets_the_tags_of_its_caller(void **state) {
  (void)state;
  uint64_t op;
  assert_int_equal(engine_fetch(c, "k", "mine", &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  peer_expect(&peer, "MGET");
  assert_int_equal(peer_say_value(&peer, peer_version(1), "old", "other"), GORGE_OK);
  assert_int_equal(peer_say(&peer, "*1\r\n$-1\r\n"), GORGE_OK);
  peer_expect(&peer, "MGET");
  assert_int_equal(peer_say(&peer, "*1\r\n$16\r\noooooooo12345678\r\n"), GORGE_OK);
  peer_expect(&peer, "GET"); /* once more, with its own tags */
  peer_expect(&peer, "MGET");
  assert_int_equal(peer_say(&peer, "$-1\r\n*1\r\n$-1\r\n"), GORGE_OK);
  struct peer_command lease = peer_take(&peer);
  assert_int_equal(lease.script, GORGE_SCRIPT_LEASE);
  assert_memory_equal(lease.argv[6], "{1:t:0}:7:t:mine", lease.len[6]);
  assert_int_equal(peer_say_lease(&peer, peer_version(1), "mine"), GORGE_OK);
  assert_int_equal(engine_fill(c, op, "v"), GORGE_PENDING);
  struct peer_command fill = peer_take(&peer);
  assert_int_equal(fill.script, GORGE_SCRIPT_FILL);
  assert_memory_equal(fill.argv[6], "{1:t:0}:7:t:mine", fill.len[6]);
  assert_int_equal(peer_say_number(&peer, peer_version(2)), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_STORED);
  gorge_op_free(c, op);
  uint64_t write;
  assert_int_equal(engine_invalidate(c, "mine", &write), GORGE_PENDING);
  assert_null(engine_l1(c, "k"));
  peer_expect_script(&peer, GORGE_SCRIPT_INVALIDATE);
  assert_int_equal(peer_say_number(&peer, peer_version(3)), GORGE_OK);
  gorge_op_free(c, write);
}

static void a_damaged_value_is_a_miss(void **state) {
  (void)state;
  uint64_t op;
  assert_int_equal(engine_lookup(c, "k", &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say(&peer, "$7\r\ngarbage\r\n"), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_MISS);
  gorge_op_free(c, op);
  assert_int_equal(engine_counter(c, GORGE_COUNT_DECODE_ERRORS), 1);
}

/* A key that shares its stamp with "k": what happens to it refuses what is to be kept of "k". */
static void find_neighbour(char *name, size_t size) {
  struct gorge_key key;
  struct gorge_snapshot k, other;
  gorge_key_init(c->zone, c->ns, "k", 1, &key);
  gorge_l1_snapshot(c->zone, &key, NULL, 0, &k);
  for (int i = 0; i < 1000000; i++) {
    snprintf(name, size, "n%d", i);
    gorge_key_init(c->zone, c->ns, name, (uint32_t)strlen(name), &key);
    gorge_l1_snapshot(c->zone, &key, NULL, 0, &other);
    if (other.cell == k.cell) {
      return;
    }
  }
  fail_msg("no key shares a stamp");
}

/* I4: a reader has seen the newer value, so nobody may find the older one in L1 from then on, nor bring it there. */
static void a_value_that_is_not_kept_takes_older_ones_with_it(void **state) {
  (void)state;
  char neighbour[32];
  uint64_t op[4];
  find_neighbour(neighbour, sizeof neighbour);
  assert_int_equal(engine_lookup(c, "k", &op[0]), GORGE_PENDING);
  peer_expect(&peer, "GET");
  struct gorge_key key;
  gorge_key_init(c->zone, c->ns, neighbour, (uint32_t)strlen(neighbour), &key);
  gorge_l1_invalidate(c->zone, &c->process->owner, &key, 0, NULL);
  for (int i = 1; i < 3; i++) {
    assert_int_equal(engine_lookup(c, "k", &op[i]), GORGE_PENDING);
    peer_expect(&peer, "GET");
  }
  /* The answers reach this host by several connections, in any order. */
  struct gorge_l2_result old = {.status = GORGE_HIT, .version = peer_version(1), .value = "old", .value_len = 3};
  old.kind = GORGE_KIND_STRING;
  old.remaining_ms = 60000;
  struct gorge_l2_request *rq = &c->slots[op[1] & 0xfffff]->request;
  rq->done(rq, &old, gorge_clock_ms());
  gorge_l2_cancel(rq);
  assert_string_equal(engine_l1(c, "k"), "old");
  assert_int_equal(peer_say_value(&peer, peer_version(2), "new", NULL), GORGE_OK);
  struct answer a = engine_status(c, op[0]);
  assert_string_equal(a.value, "new");
  assert_null(a.read.slot);
  assert_null(engine_l1(c, "k"));
  assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK); /* that of op[1] */
  assert_int_equal(peer_say_value(&peer, peer_version(1), "old", NULL), GORGE_OK);
  assert_string_equal(engine_status(c, op[2]).value, "old"); /* it began before the other one ended */
  assert_null(engine_l1(c, "k"));
  for (int i = 0; i < 3; i++) {
    gorge_op_free(c, op[i]);
  }
}

/* ---- another node fills ---- */

enum { LEASE_MS = 60000 };

static uint64_t parked(const char *key) {
  uint64_t op;
  assert_int_equal(engine_fetch_for(c, key, LEASE_MS, 60000, &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK);
  peer_expect_script(&peer, GORGE_SCRIPT_LEASE);
  assert_int_equal(peer_say_busy(&peer, LEASE_MS), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_PENDING);
  return op;
}

/* Polls until something is asked. */
static void await_question(void) {
  uint64_t ops[4], until_ms = gorge_clock_ms() + 20000;
  while (peer_idle(&peer) && gorge_clock_ms() < until_ms) {
    gorge_loop_wait(2);
    gorge_poll(c, ops, 4);
  }
}

static void the_fill_of_another_node_is_waited_for_and_counted_once(void **state) {
  (void)state;
  uint64_t op = parked("k"), here;
  assert_int_equal(engine_fetch(c, "k", NULL, &here), GORGE_PENDING); /* waits for this host's flight, asks nothing */
  for (int i = 0; i < 3; i++) {
    await_question();
    peer_expect_script(&peer, GORGE_SCRIPT_LEASE);
    assert_int_equal(peer_say_busy(&peer, LEASE_MS), GORGE_OK);
  }
  await_question();
  peer_expect_script(&peer, GORGE_SCRIPT_LEASE);
  assert_int_equal(peer_say_lease_hit(&peer, peer_version(1), "theirs"), GORGE_OK);
  assert_string_equal(engine_status(c, op).value, "theirs");
  assert_int_equal(engine_await(c, here).status, GORGE_OK);
  assert_string_equal(engine_l1(c, "k"), "theirs");
  gorge_op_free(c, op);
  gorge_op_free(c, here);
  assert_int_equal(engine_counter(c, GORGE_COUNT_WAITS), 2);
  struct gorge_stats stats;
  gorge_stats_read(c, &stats);
  uint64_t waits = 0;
  for (int i = 0; i < GORGE_HISTOGRAM_BUCKETS; i++) {
    waits += stats.histograms[GORGE_HIST_WAIT][i];
  }
  assert_int_equal(waits, 2);
}

static void a_message_asks_at_once(void **state) {
  (void)state;
  c->lock_sleep_ms = 1000000;
  uint64_t op = parked("k"), ops[4];
  struct gorge_worker_set wake;
  struct gorge_key key;
  gorge_poll(c, ops, 4);
  assert_true(peer_idle(&peer));
  gorge_key_init(c->zone, c->ns, "k", 1, &key);
  assert_true(gorge_flight_poke(c->zone, &key, &wake)); /* as the subscriber does */
  gorge_poll(c, ops, 4);
  peer_expect_script(&peer, GORGE_SCRIPT_LEASE);
  assert_int_equal(peer_say_lease(&peer, peer_version(1), NULL), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_LEASE);
  gorge_op_free(c, op);
  peer_expect_script(&peer, GORGE_SCRIPT_RELEASE);
  assert_int_equal(peer_say_number(&peer, 1), GORGE_OK);
}

static void a_holder_without_a_sign_of_life_is_not_waited_for(void **state) {
  (void)state;
  uint64_t op = parked("k");
  for (uint32_t i = 0; i <= c->lock_retries; i++) {
    await_question();
    peer_expect_script(&peer, GORGE_SCRIPT_LEASE);
    assert_int_equal(engine_status(c, op).status, GORGE_PENDING);
    assert_int_equal(peer_say_busy(&peer, 100), GORGE_OK);
  }
  assert_int_equal(engine_status(c, op).status, GORGE_ERR_TIMEOUT);
  assert_int_equal(engine_flights(c), 0);
  assert_int_equal(gorge_fetch_run(c, op), GORGE_LEASE);
  assert_int_equal(gorge_fetch_fail(c, op, "e", 1), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_FAILED);
  gorge_op_free(c, op);
  op = parked("k2");
  gorge_op_find(c, op)->deadline_ms = gorge_clock_ms(); /* as long as it was to wait */
  await_question();
  peer_expect_script(&peer, GORGE_SCRIPT_LEASE);
  assert_int_equal(peer_say_busy(&peer, LEASE_MS), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_ERR_TIMEOUT);
  gorge_op_free(c, op);
  assert_int_equal(engine_counter(c, GORGE_COUNT_WAIT_TIMEOUTS), 2);
}

/* ---- while a fill is under way ---- */

/* I4: no message has come, and L1 may have lost it again, or not answer; but somebody has seen the newer value. */
static void what_was_seen_meanwhile_is_not_followed_by_what_is_older(void **state) {
  (void)state;
  uint64_t op = leased("k", NULL), other;
  assert_int_equal(gorge_op_joinable(c, op), 1);
  assert_int_equal(engine_lookup(c, "k", &other), GORGE_PENDING);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say_value(&peer, peer_version(2), "newer", NULL), GORGE_OK);
  assert_int_equal(engine_status(c, other).status, GORGE_HIT);
  gorge_op_free(c, other);
  assert_int_equal(gorge_op_joinable(c, op), 0);
  assert_int_equal(engine_fill(c, op, "older"), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_FILL);
  assert_int_equal(peer_say_number(&peer, 0), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_REFUSED);
  gorge_op_free(c, op);
  assert_string_equal(engine_l1(c, "k"), "newer");
}

static void an_epoch_that_begins_meanwhile_refuses_the_value(void **state) {
  (void)state;
  uint64_t op = leased("k", NULL), other;
  gorge_l1_bump_epoch(c->zone, c->ns); /* the journal had a gap */
  assert_int_equal(gorge_op_joinable(c, op), 0);
  assert_int_equal(engine_fetch(c, "k", NULL, &other), GORGE_PENDING); /* a flight of the new epoch */
  peer_expect(&peer, "GET");
  assert_int_equal(engine_fill(c, op, "v"), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_FILL);
  assert_int_equal(peer_say_value(&peer, peer_version(2), "v2", NULL), GORGE_OK);
  assert_int_equal(peer_say_number(&peer, peer_version(3)), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_REFUSED); /* in Redis, not here */
  assert_int_equal(engine_status(c, other).status, GORGE_HIT);
  assert_null(engine_l1(c, "k")); /* v2 is older than what the caller of the fill has now */
  gorge_op_free(c, op);
  gorge_op_free(c, other);
}

static void a_fill_that_was_taken_over_while_redis_stored_it_is_not_kept(void **state) {
  (void)state;
  uint64_t op = leased("k", NULL);
  assert_int_equal(engine_fill(c, op, "late"), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_FILL);
  struct gorge_op *next;
  assert_int_equal(gorge_op_create(c, "k", 1, NULL, 0, &next), GORGE_OK);
  uint64_t id = next->id, much_later_ms = gorge_clock_ms() + 3600000;
  next->lease_ms = 1000;
  next->deadline_ms = much_later_ms + 1000;
  gorge_fetch_enter(next, much_later_ms);
  assert_int_equal(engine_counter(c, GORGE_COUNT_TAKEOVERS), 1);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say_number(&peer, peer_version(2)), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_REFUSED);
  assert_null(engine_l1(c, "k"));
  gorge_op_free(c, op);
  assert_int_equal(peer_say_value(&peer, peer_version(2), "late", NULL), GORGE_OK); /* as Redis has it */
  assert_int_equal(engine_status(c, id).status, GORGE_HIT);
  gorge_op_free(c, id);
}

/* The lease of a fill that a write made worthless is replaced, not waited for; that is no takeover. */
static void a_fetch_after_a_write_replaces_the_lease_of_the_fill_before_it(void **state) {
  (void)state;
  uint64_t op = leased("k", NULL), write, anew;
  uint64_t token = c->slots[op & 0xfffff]->l2_token;
  assert_int_equal(engine_delete(c, "k", &write), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_DELETE);
  assert_int_equal(engine_fetch(c, "k", NULL, &anew), GORGE_PENDING);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say_number(&peer, peer_version(2)), GORGE_OK);
  assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK);
  gorge_op_free(c, write);
  struct peer_command lease = peer_take(&peer);
  assert_int_equal(lease.script, GORGE_SCRIPT_LEASE);
  char previous[8];
  gorge_bytes_put64(previous, token);
  assert_int_equal(lease.len[8], 8);
  assert_memory_equal(lease.argv[8], previous, 8);
  assert_int_equal(peer_say_lease(&peer, peer_version(2), NULL), GORGE_OK);
  assert_int_equal(engine_counter(c, GORGE_COUNT_TAKEOVERS), 0);
  assert_int_equal(engine_fill(c, anew, "new"), GORGE_PENDING);
  assert_int_equal(engine_fill(c, op, "old"), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_FILL);
  peer_expect_script(&peer, GORGE_SCRIPT_FILL);
  assert_int_equal(peer_say_number(&peer, peer_version(3)), GORGE_OK);
  assert_int_equal(peer_say_number(&peer, 0), GORGE_OK);
  assert_int_equal(engine_status(c, anew).status, GORGE_STORED);
  assert_int_equal(engine_status(c, op).status, GORGE_REFUSED);
  assert_string_equal(engine_l1(c, "k"), "new");
  gorge_op_free(c, op);
  gorge_op_free(c, anew);
}

/* ---- the host does not follow the journal yet ---- */

static void the_first_fill_waits_a_moment_for_the_journal(void **state) {
  (void)state;
  uint64_t op, gone, ops[4];
  c->sync_until_ms = UINT64_MAX;
  gorge_zone_journal(c->zone, c->ns)->tried = 0;
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_PENDING);
  assert_int_equal(engine_fetch(c, "k", NULL, &gone), GORGE_PENDING);
  assert_in_range(gorge_op_wait_ms(c, op), 1, 10);
  assert_int_equal(gorge_op_joinable(c, op), 1);
  gorge_poll(c, ops, 4);
  assert_true(peer_idle(&peer));
  gorge_op_free(c, gone);
  gorge_zone_journal(c->zone, c->ns)->tried = 1;
  gorge_poll(c, ops, 4);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say_value(&peer, peer_version(1), "v", NULL), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_HIT);
  gorge_op_free(c, op);
  assert_int_equal(engine_counter(c, GORGE_COUNT_WAITS), 0); /* nobody else filled */
}

/* ---- what ngx_gorge_module asks for ---- */

static void who_waits_is_named_when_its_operation_is_decided(void **state) {
  (void)state;
  uint64_t op, other, third, gone_op;
  uint32_t gone;
  int waiter, second;
  void *woken[4];
  assert_int_equal(engine_lookup(c, "a", &op), GORGE_PENDING);
  assert_int_equal(engine_lookup(c, "b", &other), GORGE_PENDING);
  assert_int_equal(engine_lookup(c, "c", &third), GORGE_PENDING);
  assert_int_equal(engine_lookup(c, "d", &gone_op), GORGE_PENDING);
  gorge_op_waiter(c, op, &waiter);
  gorge_op_waiter(c, other, &waiter);
  gorge_op_waiter(c, third, &second);
  gorge_op_waiter(c, gone_op, &second);
  assert_int_equal(gorge_io_woken(c, woken, 4, &gone), 0);
  for (int i = 0; i < 4; i++) {
    peer_expect(&peer, "GET");
  }
  assert_int_equal(peer_say(&peer, "$-1\r\n$-1\r\n"), GORGE_OK);
  assert_int_equal(gorge_io_woken(c, woken, 4, &gone), 1); /* both have the same one */
  assert_ptr_equal(woken[0], &waiter);
  assert_int_equal(gone, 0);
  assert_int_equal(gorge_io_woken(c, woken, 4, &gone), 0);
  gorge_op_waiter(c, third, NULL); /* waits no more */
  gorge_op_free(c, gone_op);       /* nor does this one */
  assert_int_equal(peer_say(&peer, "$-1\r\n$-1\r\n"), GORGE_OK);
  assert_int_equal(gorge_io_woken(c, woken, 4, &gone), 0);
  gorge_op_waiter(c, gone_op, &waiter); /* of no use, and does no harm */
  gorge_op_free(c, op);
  gorge_op_free(c, other);
  gorge_op_free(c, third);
}

static void operations_that_went_away_are_left_for_the_poll(void **state) {
  (void)state;
  uint64_t op, named[2];
  uint32_t gone;
  void *woken[2];
  static const int request = 1;
  _Alignas(8) char guard[GORGE_GUARD_SIZE];
  assert_int_equal(engine_lookup(c, "a", &op), GORGE_PENDING);
  gorge_op_waiter(c, op, woken);
  assert_int_equal(gorge_guard_init(guard, &request), GORGE_OK);
  assert_int_equal(gorge_op_guard(c, op, &request), GORGE_OK);
  gorge_guard_cleanup(guard);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK);
  assert_int_equal(gorge_io_woken(c, woken, 2, &gone), 0);
  assert_int_not_equal(gone, 0);
  assert_int_equal(gorge_poll(c, named, 2), 1);
  assert_int_equal(named[0], op);
  assert_int_equal(gorge_io_woken(c, woken, 2, &gone), 0);
  assert_int_equal(gone, 0);
}

static void a_deadline_is_due_and_an_idle_connection_is_pinged(void **state) {
  (void)state;
  uint64_t op;
  const struct gorge_io_calls *calls = gorge_io_calls();
  assert_int_equal(calls->abi_version, GORGE_ABI_VERSION);
  assert_int_equal(calls->size, sizeof *calls);
  (void)gorge_io_tick(c, 0);
  assert_true(peer_idle(&peer)); /* the first PING has been answered */
  double idle = gorge_io_due(c);
  assert_true(idle >= 0 && idle <= (double)c->keepalive_ms);
  assert_int_equal(engine_lookup(c, "a", &op), GORGE_PENDING);
  double busy = gorge_io_due(c);
  assert_true(busy >= 0 && busy <= 60000);
  c->keepalive_ms = 600000;
  (void)gorge_io_tick(c, 0); /* in use: idle from now on at the earliest */
  assert_true(c->node.ping_ms > gorge_clock_ms() + 3000);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK);
  gorge_op_free(c, op);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(a_value_in_redis_is_delivered_and_kept),
      TEST(a_lookup_takes_no_lease),
      TEST(who_waits_is_named_when_its_operation_is_decided),
      TEST(operations_that_went_away_are_left_for_the_poll),
      TEST(a_deadline_is_due_and_an_idle_connection_is_pinged),
      TEST(a_miss_gets_the_lease_and_its_value_is_stored),
      TEST(what_redis_refuses_is_not_kept_here_either),
      TEST(what_is_refused_leaves_nothing_older_here),
      TEST(the_loaders_value_gets_the_tags_of_its_caller),
      TEST(a_damaged_value_is_a_miss),
      TEST(a_value_that_is_not_kept_takes_older_ones_with_it),
      TEST(the_fill_of_another_node_is_waited_for_and_counted_once),
      TEST(a_message_asks_at_once),
      TEST(a_holder_without_a_sign_of_life_is_not_waited_for),
      TEST(what_was_seen_meanwhile_is_not_followed_by_what_is_older),
      TEST(an_epoch_that_begins_meanwhile_refuses_the_value),
      TEST(a_fill_that_was_taken_over_while_redis_stored_it_is_not_kept),
      TEST(a_fetch_after_a_write_replaces_the_lease_of_the_fill_before_it),
      TEST(the_first_fill_waits_a_moment_for_the_journal),
  };
  return cmocka_run_group_tests_name("engine over bytes", tests, NULL, NULL);
}
