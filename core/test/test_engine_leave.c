/* SPDX-License-Identifier: MIT */
/* Callers that go away, and a Redis that does, in every state of an operation: nothing is left behind, nobody waits for ever. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "proto/bytes.h"
#include "proto/scripts.h"
#include "test/drive_support.h"
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

static void say_nil(void) { assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK); }

enum { LEASE_MS = 60000 };

/* Brings a fetch of "k" to a state. */
static uint64_t bring(enum gorge_op_state state) {
  uint64_t op;
  if (state == GORGE_OP_WRITE) {
    assert_int_equal(engine_set(c, "k", "set", NULL, &op), GORGE_PENDING);
    peer_expect_script(&peer, GORGE_SCRIPT_SET);
    return op;
  }
  assert_int_equal(engine_fetch_for(c, "k", LEASE_MS, LEASE_MS, &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  if (state == GORGE_OP_LOOKUP) {
    return op;
  }
  say_nil();
  peer_expect_script(&peer, GORGE_SCRIPT_LEASE);
  if (state == GORGE_OP_PARKED) {
    assert_int_equal(peer_say_busy(&peer, LEASE_MS), GORGE_OK);
  } else if (state != GORGE_OP_LEASE) {
    assert_int_equal(peer_say_lease(&peer, peer_version(1), NULL), GORGE_OK);
  }
  if (state == GORGE_OP_FILL) {
    assert_int_equal(engine_fill(c, op, "fill"), GORGE_PENDING);
    peer_expect_script(&peer, GORGE_SCRIPT_FILL);
  } else if (state == GORGE_OP_RELEASE) {
    assert_int_equal(gorge_fetch_fail(c, op, "no", 2), GORGE_OK);
    peer_expect_script(&peer, GORGE_SCRIPT_RELEASE);
  }
  assert_int_equal(c->slots[op & 0xfffff]->state, state);
  return op;
}

/* Nobody waits for what has gone: a fetch by somebody else begins its own flight at once. */
static void the_key_is_free(void) {
  uint64_t op;
  assert_int_equal(engine_flights(c), 0);
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_PENDING);
  assert_int_equal(engine_flights(c), 1);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say_value(&peer, peer_version(9), "other", NULL), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_HIT);
  gorge_op_free(c, op);
}

/* ---- the caller goes away ---- */

static void away_during_the_lookup(void **state) {
  (void)state;
  gorge_op_free(c, bring(GORGE_OP_LOOKUP));
  assert_int_equal(engine_flights(c), 0);
  assert_int_equal(peer_say_value(&peer, peer_version(1), "late", NULL), GORGE_OK);
  the_key_is_free();
}

static void away_while_the_lease_is_asked_gives_it_back(void **state) {
  (void)state;
  gorge_op_free(c, bring(GORGE_OP_LEASE));
  assert_int_equal(engine_flights(c), 0);
  assert_int_equal(peer_say_lease(&peer, peer_version(1), NULL), GORGE_OK);
  peer_expect_script(&peer, GORGE_SCRIPT_RELEASE);
  assert_int_equal(peer_say_number(&peer, 1), GORGE_OK);
  the_key_is_free();
}

static void away_while_the_lease_is_asked_but_not_had(void **state) {
  (void)state;
  gorge_op_free(c, bring(GORGE_OP_LEASE));
  assert_int_equal(peer_say_busy(&peer, LEASE_MS), GORGE_OK);
  the_key_is_free();
  uint64_t op;
  assert_int_equal(engine_delete(c, "k", &op), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_DELETE);
  assert_int_equal(peer_say_number(&peer, peer_version(10)), GORGE_OK);
  gorge_op_free(c, op);
  gorge_op_free(c, bring(GORGE_OP_LEASE));
  assert_int_equal(peer_say_lease_hit(&peer, peer_version(11), "theirs"), GORGE_OK);
  gorge_op_free(c, bring(GORGE_OP_LEASE));
  assert_int_equal(peer_say(&peer, "-ERR no\r\n"), GORGE_OK);
}

static void away_while_parked(void **state) {
  (void)state;
  gorge_op_free(c, bring(GORGE_OP_PARKED));
  the_key_is_free();
}

static void away_while_the_loader_runs_gives_the_lease_back(void **state) {
  (void)state;
  uint64_t waiter, op = bring(GORGE_OP_RUN);
  assert_int_equal(engine_fetch(c, "k", NULL, &waiter), GORGE_PENDING);
  gorge_op_free(c, op);
  assert_int_equal(gorge_op_status(c, op, NULL), GORGE_ERR_ARGUMENT);
  peer_expect_script(&peer, GORGE_SCRIPT_RELEASE);
  assert_int_equal(peer_say_number(&peer, 1), GORGE_OK);
  uint64_t ops[4];
  gorge_poll(c, ops, 4); /* the waiter takes the fill over, and looks first */
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say_value(&peer, peer_version(2), "v", NULL), GORGE_OK);
  assert_int_equal(engine_status(c, waiter).status, GORGE_HIT);
  gorge_op_free(c, waiter);
}

static void away_while_the_value_is_stored_changes_nothing(void **state) {
  (void)state;
  gorge_op_free(c, bring(GORGE_OP_FILL));
  assert_int_equal(engine_flights(c), 1);
  assert_int_equal(peer_say_number(&peer, peer_version(2)), GORGE_OK);
  assert_string_equal(engine_l1(c, "k"), "fill");
}

static void away_while_a_write_is_under_way_changes_nothing(void **state) {
  (void)state;
  gorge_op_free(c, bring(GORGE_OP_WRITE));
  assert_string_equal(engine_l1(c, "k"), "set"); /* who does not wait reads its own write all the same */
  assert_int_equal(peer_say_number(&peer, peer_version(2)), GORGE_OK);
  struct answer a = {.status = 0};
  a.read.buf = a.value;
  a.read.buf_size = sizeof a.value;
  assert_int_equal(gorge_get(c, "k", 1, &a.read), GORGE_HIT);
  assert_int_equal(a.read.version, peer_version(2));
}

static void away_while_the_lease_is_given_back(void **state) {
  (void)state;
  uint64_t op = bring(GORGE_OP_RELEASE);
  gorge_op_free(c, op);
  assert_int_equal(peer_say_number(&peer, 1), GORGE_OK);
  the_key_is_free();
}

static void away_when_all_is_over(void **state) {
  (void)state;
  uint64_t ops[8], op = bring(GORGE_OP_RELEASE);
  assert_int_equal(peer_say_number(&peer, 1), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_FAILED); /* still how it ended for its caller */
  gorge_poll(c, ops, 8);
  gorge_op_free(c, op);
  assert_int_equal(gorge_poll(c, ops, 8), 0);
}

/* Destroyed with an operation in each state; late answers find nobody. */
static void a_cache_is_destroyed_in_every_state(void **state) {
  (void)state;
  const enum gorge_op_state states[] = {GORGE_OP_LOOKUP, GORGE_OP_LEASE, GORGE_OP_PARKED, GORGE_OP_RUN,
                                        GORGE_OP_FILL,   GORGE_OP_WRITE, GORGE_OP_RELEASE};
  for (size_t i = 0; i < sizeof states / sizeof states[0]; i++) {
    for (int freed = 0; freed < 2; freed++) {
      uint64_t op = bring(states[i]);
      if (freed) {
        gorge_op_free(c, op);
      }
      gorge_cache_destroy(c);
      peer_free(&peer);
      c = peer_cache(&peer, engine_zone_name());
      assert_int_equal(engine_flights(c), 0);
      gorge_l1_bump_epoch(c->zone, c->ns); /* what was stored is of no interest */
    }
  }
}

/* ---- Redis goes away ---- */

/* The lease that Redis may have: other nodes would wait for it. It is given back as soon as there is a connection, and nobody waits for that. */
static void expect_given_back(void) {
  uint64_t ops[4];
  assert_int_equal(gorge_pending(c), 0);
  assert_non_null(c->waiting);
  uint64_t token = c->waiting->l2_token;
  assert_true(token != 0);
  peer_return(&peer);
  gorge_poll(c, ops, 4);
  struct peer_command release = peer_take(&peer);
  assert_int_equal(release.script, GORGE_SCRIPT_RELEASE);
  char bytes[8];
  gorge_bytes_put64(bytes, token);
  assert_memory_equal(release.argv[4], bytes, sizeof bytes);
  assert_int_equal(peer_say_number(&peer, 1), GORGE_OK);
  assert_int_equal(c->lost_count, 0);
}

static void lost_before_a_lease_was_had_runs_the_loader_for_this_host(void **state) {
  (void)state;
  const enum gorge_op_state states[] = {GORGE_OP_LOOKUP, GORGE_OP_LEASE};
  for (size_t i = 0; i < 2; i++) {
    uint64_t op = bring(states[i]);
    peer_lose(&peer);
    assert_int_equal(engine_status(c, op).status, GORGE_LEASE);
    assert_int_equal(engine_flights(c), 1);
    assert_int_equal(engine_fill(c, op, "here"), GORGE_STORED);
    struct answer a = engine_status(c, op);
    assert_int_equal(a.read.version, 0);
    gorge_op_free(c, op);
    assert_string_equal(engine_l1(c, "k"), "here");
    if (states[i] == GORGE_OP_LEASE) {
      expect_given_back();
    }
    gorge_cache_destroy(c);
    peer_free(&peer);
    c = peer_cache(&peer, NULL);
  }
}

static void lost_while_parked_runs_the_loader(void **state) {
  (void)state;
  uint64_t op = bring(GORGE_OP_PARKED);
  peer_lose(&peer);
  assert_int_equal(engine_await(c, op).status, GORGE_LEASE);
  gorge_op_free(c, op);
}

static void lost_while_the_loader_runs_keeps_the_value_here(void **state) {
  (void)state;
  uint64_t op = bring(GORGE_OP_RUN);
  peer_lose(&peer);
  assert_int_equal(engine_fill(c, op, "here"), GORGE_STORED);
  gorge_op_free(c, op);
  assert_string_equal(engine_l1(c, "k"), "here");
  assert_int_equal(engine_counter(c, GORGE_COUNT_DROPPED_WRITES), 1);
  expect_given_back();
}

static void lost_while_the_value_is_stored_keeps_it_here(void **state) {
  (void)state;
  uint64_t op = bring(GORGE_OP_FILL);
  peer_lose(&peer);
  assert_int_equal(engine_status(c, op).status, GORGE_STORED);
  gorge_op_free(c, op);
  assert_string_equal(engine_l1(c, "k"), "fill");
  assert_int_equal(engine_counter(c, GORGE_COUNT_DROPPED_WRITES), 1);
  expect_given_back();
}

static void lost_while_writing_is_told_and_holds_on_this_host(void **state) {
  (void)state;
  uint64_t op = bring(GORGE_OP_WRITE);
  peer_lose(&peer);
  assert_int_equal(engine_status(c, op).status, GORGE_ERR_DOWN);
  gorge_op_free(c, op);
  assert_string_equal(engine_l1(c, "k"), "set");
  assert_int_equal(engine_delete(c, "k", &op), GORGE_ERR_DOWN); /* the connection has its backoff */
  gorge_op_free(c, op);
  assert_null(engine_l1(c, "k"));
  assert_int_equal(engine_set(c, "k", "again", NULL, &op), GORGE_ERR_DOWN);
  gorge_op_free(c, op);
  assert_string_equal(engine_l1(c, "k"), "again");
  assert_int_equal(engine_counter(c, GORGE_COUNT_DROPPED_WRITES), 3);
}

static void lost_while_the_lease_is_given_back_is_made_good(void **state) {
  (void)state;
  uint64_t op = bring(GORGE_OP_RELEASE);
  peer_lose(&peer);
  assert_int_equal(engine_status(c, op).status, GORGE_FAILED);
  gorge_op_free(c, op);
  expect_given_back();
}

/* An update of "k", which Redis does not have, up to the script that stores it. */
static uint64_t bring_update(void) {
  uint64_t op;
  struct gorge_store store = engine_store(NULL, "counted");
  assert_int_equal(gorge_update_start(c, "k", 1, NULL, 0, &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  say_nil();
  assert_int_equal(engine_status(c, op).status, GORGE_MISS);
  assert_int_equal(gorge_update_store(c, op, &store, NULL), GORGE_PENDING);
  peer_expect_script(&peer, GORGE_SCRIPT_UPDATE);
  return op;
}

static void lost_while_updating_asks_again_under_the_same_name(void **state) {
  (void)state;
  uint64_t ops[4], op = bring_update();
  uint64_t token = gorge_op_find(c, op)->l2_token;
  peer_lose(&peer);
  peer_return(&peer);
  assert_true(WAIT_UNTIL((gorge_poll(c, ops, 4), !peer_idle(&peer))));
  peer_expect_script(&peer, GORGE_SCRIPT_UPDATE);
  assert_int_equal(gorge_op_find(c, op)->l2_token, token);
  assert_int_equal(peer_say_number(&peer, peer_version(1)), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_STORED);
  gorge_op_free(c, op);
}

/*
 * The process stood still for longer than Redis remembers what it carried out: asked again it would refuse what it has done, or, the value
 * deleted meanwhile, do it once more.
 */
static void lost_while_updating_does_not_ask_what_redis_has_forgotten(void **state) {
  (void)state;
  uint64_t ops[4], op = bring_update();
  peer_lose(&peer);
  peer_return(&peer);
  gorge_op_find(c, op)->deadline_ms -= 60000; /* as if a minute had passed */
  assert_true(WAIT_UNTIL((gorge_poll(c, ops, 4), !peer_idle(&peer) || engine_status(c, op).status != GORGE_PENDING)));
  assert_true(peer_idle(&peer));
  assert_int_equal(engine_status(c, op).status, GORGE_ERR_TIMEOUT);
  assert_int_equal(gorge_update_unknown(c, op), 1);
  gorge_op_free(c, op);
}

static void a_lease_that_nobody_can_give_back_is_given_up_when_it_has_ended(void **state) {
  (void)state;
  uint64_t ops[4], op = bring(GORGE_OP_RUN);
  peer_lose(&peer);
  gorge_op_free(c, op);
  assert_non_null(c->waiting);
  c->waiting->deadline_ms = gorge_clock_ms() + 20;
  assert_true(WAIT_UNTIL((gorge_poll(c, ops, 4), c->waiting == NULL)));
  assert_int_equal(c->lost_count, 0);
}

/* Redis stands still: what it has not read yet it may read later, and carry out. */
static void a_lease_whose_answer_takes_too_long_is_given_back_behind_it(void **state) {
  (void)state;
  uint64_t ops[4], op = bring(GORGE_OP_LEASE);
  gorge_conn_tick(gorge_l2_conn(c->l2), gorge_clock_ms() + PEER_TIMEOUT_MS + 1);
  assert_int_equal(engine_status(c, op).status, GORGE_LEASE);
  gorge_poll(c, ops, 4);
  peer_expect_script(&peer, GORGE_SCRIPT_RELEASE);
  assert_int_equal(engine_fill(c, op, "here"), GORGE_STORED);
  gorge_op_free(c, op);
  assert_int_equal(peer_say_lease(&peer, peer_version(1), NULL), GORGE_OK);
  assert_int_equal(peer_say_number(&peer, 1), GORGE_OK);
  assert_int_equal(c->lost_count, 0);
}

/* ---- Redis answers, but not as one would like ---- */

static void a_fill_that_redis_cannot_store_gives_its_lease_back(void **state) {
  (void)state;
  uint64_t op = bring(GORGE_OP_FILL);
  assert_int_equal(peer_say(&peer, "-OOM command not allowed\r\n"), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_STORED); /* here */
  assert_string_equal(engine_l1(c, "k"), "fill");
  assert_int_equal(engine_flights(c), 0);
  peer_expect_script(&peer, GORGE_SCRIPT_RELEASE); /* else other nodes would wait for it */
  assert_int_equal(peer_say_number(&peer, 1), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_STORED);
  gorge_op_free(c, op);
}

static void a_write_that_redis_refuses_says_why(void **state) {
  (void)state;
  uint64_t op = bring(GORGE_OP_WRITE);
  assert_int_equal(peer_say(&peer, "-OOM command not allowed\r\n"), GORGE_OK);
  struct answer a = engine_status(c, op);
  assert_int_equal(a.status, GORGE_ERR_REDIS);
  assert_string_equal(a.value, "OOM command not allowed");
  gorge_op_free(c, op);
  assert_string_equal(engine_l1(c, "k"), "set");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(away_during_the_lookup),
      TEST(away_while_the_lease_is_asked_gives_it_back),
      TEST(away_while_the_lease_is_asked_but_not_had),
      TEST(away_while_parked),
      TEST(away_while_the_loader_runs_gives_the_lease_back),
      TEST(away_while_the_value_is_stored_changes_nothing),
      TEST(away_while_a_write_is_under_way_changes_nothing),
      TEST(away_while_the_lease_is_given_back),
      TEST(away_when_all_is_over),
      TEST(a_cache_is_destroyed_in_every_state),
      TEST(lost_before_a_lease_was_had_runs_the_loader_for_this_host),
      TEST(lost_while_parked_runs_the_loader),
      TEST(lost_while_the_loader_runs_keeps_the_value_here),
      TEST(lost_while_the_value_is_stored_keeps_it_here),
      TEST(lost_while_writing_is_told_and_holds_on_this_host),
      TEST(lost_while_the_lease_is_given_back_is_made_good),
      TEST(lost_while_updating_asks_again_under_the_same_name),
      TEST(lost_while_updating_does_not_ask_what_redis_has_forgotten),
      TEST(a_lease_that_nobody_can_give_back_is_given_up_when_it_has_ended),
      TEST(a_lease_whose_answer_takes_too_long_is_given_back_behind_it),
      TEST(a_fill_that_redis_cannot_store_gives_its_lease_back),
      TEST(a_write_that_redis_refuses_says_why),
  };
  return cmocka_run_group_tests_name("engine, callers and Redis going away", tests, NULL, NULL);
}
