/* SPDX-License-Identifier: MIT */
/* The connection moved from outside, its deadlines, and the circuit breaker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "engine/remote.h"
#include "io/conn_state.h"
#include "proto/scripts.h"
#include "test/drive_support.h"
#include "test/engine_support.h"

static struct peer peer;
static gorge_cache *c;
static char host[256];
static uint32_t port;

static int begin(void **state) {
  (void)state;
  c = peer_cache(&peer, NULL);
  return 0;
}

static int end(void **state) {
  (void)state;
  bool clean = engine_flights(c) == 0 && gorge_pending(c) == 0 && c->waiting == NULL;
  gorge_cache_destroy(c);
  peer_free(&peer);
  return clean ? 0 : -1;
}

static uint32_t redis_state(void) {
  struct gorge_stats stats;
  assert_int_equal(gorge_stats_read(c, &stats), GORGE_OK);
  return stats.redis_state;
}

static const char *reason(void) {
  static struct gorge_stats stats;
  assert_int_equal(gorge_stats_read(c, &stats), GORGE_OK);
  return stats.redis_reason;
}

/* Waits for the end of the connection's backoff. */
static void await_connect(void) {
  assert_true(WAIT_UNTIL(gorge_io_connect(c, 0, host, sizeof host, &port) == GORGE_OK));
}

static void where_to_connect_is_told_when_somebody_wants_it(void **state) {
  (void)state;
  struct gorge_config config = engine_config(NULL, "/nonexistent/redis.sock", 0);
  gorge_cache *idle = engine_cache(&config);
  assert_int_equal(gorge_io_connect(idle, 0, host, sizeof host, &port), GORGE_MISS);
  assert_int_equal(gorge_cache_enter(idle, 0), GORGE_OK);
  assert_int_equal(gorge_io_connect(idle, 0, host, sizeof host, &port), GORGE_MISS);
  uint64_t op;
  idle->threads = true;
  assert_int_equal(engine_lookup(idle, "k", &op), GORGE_PENDING);
  assert_int_equal(gorge_io_pending(idle, 0), 1);
  assert_int_equal(gorge_io_connect(idle, 0, host, sizeof host, &port), GORGE_OK);
  assert_string_equal(host, "unix:/nonexistent/redis.sock");
  assert_int_equal(port, 0);
  gorge_op_free(idle, op);
  gorge_cache_destroy(idle);
}

/* The transport is given up from inside (a deadline, silence): the pump hears of it, and the next attempt counts in full. */
static void after_a_drop_the_next_attempt_is_heard_of(void **state) {
  (void)state;
  gorge_conn_fail(gorge_l2_conn(c->l2), "enough");
  assert_int_equal(gorge_io_tick(c, 0), 1);
  assert_string_equal(reason(), "enough");
  const char *ptr;
  uint64_t len;
  gorge_io_output(c, 0, &ptr, &len);
  assert_int_equal(len, 0);
  assert_int_not_equal(gorge_io_input(c, 0, "+OK\r\n", 5), GORGE_OK);
  gorge_io_closed(c, 0, "the socket that was to be closed");
  assert_string_equal(reason(), "enough");
  await_connect();
  gorge_io_closed(c, 0, "connection refused");
  assert_int_equal(redis_state(), GORGE_CONN_DOWN); /* at once, not when connecting has taken too long */
  assert_string_equal(reason(), "connection refused");
  await_connect();
  assert_int_equal(gorge_io_tick(c, 0), 0);
  assert_int_equal(engine_counter(c, GORGE_COUNT_RECONNECTS), 0); /* not yet, and the first one was none */
  peer_connect(&peer, c);
  assert_int_equal(redis_state(), GORGE_CONN_READY);
  assert_int_equal(gorge_io_tick(c, 0), 0);
  assert_int_equal(engine_counter(c, GORGE_COUNT_RECONNECTS), 1);
}

/* Of several nodes one may stay down: what has been told of it does not keep the driver awake. */
static void a_node_that_was_given_up_is_told_of_once(void **state) {
  (void)state;
  struct gorge_config config = engine_config(NULL, NULL, 0);
  config.cluster = "127.0.0.1 1\n127.0.0.1 2\n";
  gorge_cache *d = engine_cache(&config);
  uint64_t op;
  uint32_t nodes[2];
  assert_int_equal(gorge_cache_enter(d, 0), GORGE_OK);
  d->threads = true;
  assert_int_equal(engine_lookup(d, "k", &op), GORGE_PENDING);
  (void)gorge_io_tick(d, 0);
  assert_int_equal(gorge_io_stirred(d, nodes, 2), 1);
  uint32_t first = nodes[0];
  assert_int_equal(gorge_io_connect(d, first, host, sizeof host, &port), GORGE_OK);
  assert_true(gorge_io_due(d) > 0);
  gorge_l2_node_conn(d->l2, first)->connect_by_ms = gorge_clock_ms();
  assert_true(gorge_io_due(d) == 0);
  (void)gorge_io_tick(d, 1 - first);
  assert_true(gorge_io_due(d) == 0); /* still to be told */
  assert_int_equal(gorge_io_dropped(d, first), 1);
  assert_int_equal(gorge_io_dropped(d, first), 1);
  assert_int_equal(gorge_io_stirred(d, nodes, 2), 1); /* the other one is asked instead */
  assert_int_equal(nodes[0], 1 - first);
  assert_int_equal(gorge_io_connect(d, 1 - first, host, sizeof host, &port), GORGE_OK);
  assert_true(gorge_io_due(d) > 0);
  gorge_op_free(d, op);
  gorge_cache_destroy(d);
}

/* The socket was had, but later than anybody waited for it: it must not be sat upon. */
static void a_socket_that_opens_too_late_is_to_be_closed(void **state) {
  (void)state;
  gorge_io_closed(c, 0, "lost");
  await_connect();
  gorge_conn_closed(gorge_l2_conn(c->l2), gorge_clock_ms(), "connecting took too long"); /* as its tick does */
  gorge_io_opened(c, 0);
  assert_int_equal(gorge_io_tick(c, 0), 1);
  assert_int_not_equal(gorge_io_input(c, 0, "+OK\r\n", 5), GORGE_OK);
  gorge_io_closed(c, 0, "closed as asked");
  await_connect();
  peer_connect(&peer, c);
  assert_int_equal(redis_state(), GORGE_CONN_READY);
}

static void bytes_that_are_no_redis_end_the_connection(void **state) {
  (void)state;
  uint64_t op;
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  assert_int_not_equal(peer_say(&peer, "HTTP/1.1 400 Bad Request\r\n\r\n"), GORGE_OK);
  gorge_io_closed(c, 0, "protocol error");
  assert_int_equal(engine_status(c, op).status, GORGE_LEASE); /* for this host */
  assert_non_null(strstr(reason(), "malformed"));
  assert_int_equal(gorge_fetch_skip(c, op), GORGE_OK);
  gorge_op_free(c, op);
}

static void an_answer_may_come_byte_by_byte(void **state) {
  (void)state;
  uint64_t op;
  assert_int_equal(engine_lookup(c, "k", &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  for (const char *at = "$-1\r\n"; *at != '\0'; at++) {
    assert_int_equal(engine_status(c, op).status, GORGE_PENDING);
    assert_int_equal(gorge_io_input(c, 0, at, 1), GORGE_OK);
  }
  assert_int_equal(engine_status(c, op).status, GORGE_MISS);
  gorge_op_free(c, op);
}

/* Nobody moves the bytes: every wait ends all the same. */
static void without_a_pump_deadlines_end_the_waits(void **state) {
  (void)state;
  uint64_t lookup, fetch, write, lookup_only;
  gorge_cache_destroy(c);
  peer_free(&peer);
  struct gorge_config config = engine_config(NULL, "/nonexistent/redis.sock", 0);
  config.timeout_ms = 30;
  c = engine_cache(&config);
  assert_int_equal(gorge_cache_enter(c, 0), GORGE_OK);
  c->threads = true;
  assert_int_equal(engine_fetch(c, "k", NULL, &lookup), GORGE_PENDING);
  assert_int_equal(engine_fetch(c, "k", NULL, &fetch), GORGE_PENDING);
  assert_int_equal(engine_lookup(c, "k", &lookup_only), GORGE_PENDING);
  assert_int_equal(engine_set(c, "w", "v", NULL, &write), GORGE_PENDING);
  assert_int_equal(engine_await(c, lookup).status, GORGE_LEASE);
  assert_int_equal(engine_await(c, write).status, GORGE_ERR_TIMEOUT);
  assert_int_equal(engine_await(c, lookup_only).status, GORGE_MISS);
  assert_int_equal(engine_fill(c, lookup, "v"), GORGE_STORED);
  assert_int_equal(engine_await(c, fetch).status, GORGE_OK);
  assert_string_equal(engine_l1(c, "w"), "v");
  gorge_op_free(c, lookup);
  gorge_op_free(c, lookup_only);
  gorge_op_free(c, fetch);
  gorge_op_free(c, write);
}

static void an_answer_that_comes_after_the_deadline_is_thrown_away(void **state) {
  (void)state;
  uint64_t late, next;
  assert_int_equal(engine_lookup(c, "late", &late), GORGE_PENDING);
  peer_expect(&peer, "GET");
  gorge_conn_tick(gorge_l2_conn(c->l2), gorge_clock_ms() + PEER_TIMEOUT_MS + 1);
  assert_int_equal(engine_status(c, late).status, GORGE_MISS);
  gorge_op_free(c, late);
  assert_int_equal(engine_lookup(c, "next", &next), GORGE_PENDING);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say_value(&peer, peer_version(1), "late", NULL), GORGE_OK);
  assert_int_equal(engine_status(c, next).status, GORGE_PENDING);
  assert_int_equal(peer_say_value(&peer, peer_version(2), "next", NULL), GORGE_OK);
  assert_string_equal(engine_status(c, next).value, "next");
  gorge_op_free(c, next);
}

static void what_is_not_moved_from_outside_says_so(void **state) {
  (void)state;
  struct gorge_config config = engine_config(NULL, "/nonexistent/redis.sock", GORGE_CONFIG_INLINE);
  gorge_cache *others[2] = {engine_cache(&config), NULL};
  config = engine_config(NULL, NULL, 0);
  others[1] = engine_cache(&config);
  for (int i = 0; i < 2; i++) {
    gorge_cache *o = others[i];
    const char *ptr;
    uint64_t len;
    assert_int_equal(gorge_cache_enter(o, 0), GORGE_OK);
    assert_int_equal(gorge_io_connect(o, 0, host, sizeof host, &port), GORGE_MISS);
    gorge_io_opened(o, 0);
    gorge_io_closed(o, 0, "why");
    gorge_io_output(o, 0, &ptr, &len);
    assert_int_equal(len, 0);
    gorge_io_sent(o, 0, 0);
    assert_int_equal(gorge_io_input(o, 0, "x", 1), GORGE_ERR_CLOSED);
    assert_int_equal(gorge_io_pending(o, 0), 0);
    assert_int_equal(gorge_io_tick(o, 0), 1);
    gorge_cache_destroy(o);
  }
}

/* ---- breaker ---- */

static enum gorge_breaker_state breaker(void) { return gorge_breaker_state(c->breaker); }

static void say_error(int times) {
  for (int i = 0; i < times; i++) {
    uint64_t op;
    assert_int_equal(engine_lookup(c, "k", &op), GORGE_PENDING);
    peer_expect(&peer, "GET");
    assert_int_equal(peer_say(&peer, "-LOADING wait\r\n"), GORGE_OK);
    assert_int_equal(engine_status(c, op).status, GORGE_MISS);
    gorge_op_free(c, op);
  }
}

static void an_open_breaker_asks_nothing(void **state) {
  (void)state;
  uint64_t op;
  c->breaker_config.max_failures = 3;
  c->breaker_config.timeout_ms = 1000000;
  say_error(3);
  assert_int_equal(breaker(), GORGE_BREAKER_OPEN);
  assert_int_equal(engine_counter(c, GORGE_COUNT_BREAKER_OPENS), 1);
  assert_int_equal(engine_counter(c, GORGE_COUNT_L2_ERRORS), 3);
  assert_int_equal(engine_lookup(c, "k", &op), GORGE_MISS);
  gorge_op_free(c, op);
  assert_int_equal(engine_delete(c, "k", &op), GORGE_ERR_BREAKER);
  gorge_op_free(c, op);
  assert_int_equal(engine_fetch(c, "k", NULL, &op), GORGE_LEASE);
  assert_int_equal(engine_fill(c, op, "here"), GORGE_STORED);
  gorge_op_free(c, op);
  assert_true(peer_idle(&peer));
}

/* Looks a key up that Redis does not have; the answer comes after so many milliseconds. */
static void look_up_in_vain(unsigned ms) {
  uint64_t op;
  assert_int_equal(engine_lookup(c, "k", &op), GORGE_PENDING);
  peer_expect(&peer, "GET");
  for (unsigned i = 0; i < ms; i++) {
    support_nap();
  }
  assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK);
  assert_int_equal(engine_status(c, op).status, GORGE_MISS);
  gorge_op_free(c, op);
}

static void slow_answers_are_used_but_open_the_breaker(void **state) {
  (void)state;
  c->breaker_config.max_failures = 2;
  c->breaker_slow_us = 10 * 1000 * 1000;
  look_up_in_vain(2);
  look_up_in_vain(2);
  assert_int_equal(breaker(), GORGE_BREAKER_CLOSED);
  c->breaker_slow_us = 1000;
  look_up_in_vain(2);
  c->breaker_slow_us = 10 * 1000 * 1000;
  look_up_in_vain(0);
  c->breaker_slow_us = 1000;
  look_up_in_vain(2);
  assert_int_equal(breaker(), GORGE_BREAKER_CLOSED); /* never two in a row */
  look_up_in_vain(2);
  assert_int_equal(breaker(), GORGE_BREAKER_OPEN);
  assert_int_equal(engine_counter(c, GORGE_COUNT_BREAKER_OPENS), 1);
  assert_int_equal(engine_counter(c, GORGE_COUNT_L2_ERRORS), 0);
}

/* One call probes; should its caller go away, the answer counts all the same. */
static void the_probe_tells_even_when_its_caller_has_gone(void **state) {
  (void)state;
  uint64_t probe, op;
  c->breaker_config.max_failures = 1;
  c->breaker_config.timeout_ms = 20;
  say_error(1);
  assert_int_equal(breaker(), GORGE_BREAKER_OPEN);
  assert_true(WAIT_UNTIL(!gorge_breaker_refuses(c->breaker, &c->breaker_config, gorge_clock_ms())));
  assert_int_equal(engine_fetch(c, "k", NULL, &probe), GORGE_PENDING);
  c->breaker_config.timeout_ms = 20000; /* for the probe */
  assert_int_equal(breaker(), GORGE_BREAKER_HALF_OPEN);
  assert_int_equal(engine_lookup(c, "other", &op), GORGE_MISS); /* the others do without */
  gorge_op_free(c, op);
  gorge_op_free(c, probe);
  peer_expect(&peer, "GET");
  assert_int_equal(peer_say(&peer, "$-1\r\n"), GORGE_OK);
  assert_int_equal(breaker(), GORGE_BREAKER_CLOSED);
}

/* What is refused on this side says nothing about Redis. */
static void a_request_that_cannot_be_sent_says_nothing(void **state) {
  (void)state;
  uint64_t op;
  c->breaker_config.max_failures = 2;
  c->breaker_config.timeout_ms = 1000000;
  say_error(1);
  struct gorge_store store = engine_store("k", "v");
  store.l2_len = UINT32_MAX - 1; /* beyond what a command can carry; refused before it is looked at */
  struct gorge_op *o;
  assert_int_equal(gorge_op_create(c, "k", 1, NULL, 0, &o), GORGE_OK);
  o->l2_store = (struct gorge_blob){(char *)store.l2_value, store.l2_len};
  o->span.ttl_ms = 1;
  o->store_kind = GORGE_KIND_STRING;
  assert_int_equal(gorge_remote_send(o, GORGE_L2_SET, gorge_clock_ms()), GORGE_ERR_ARGUMENT);
  o->l2_store = (struct gorge_blob){NULL, 0};
  gorge_op_destroy(o);
  say_error(1);
  assert_int_equal(breaker(), GORGE_BREAKER_OPEN); /* two in a row, as if nothing had been between */
  assert_int_equal(engine_set(c, "k", "v", NULL, &op), GORGE_ERR_BREAKER);
  gorge_op_free(c, op);
}

/* Nothing is known of Redis yet, and nobody has begun to find out. */
static void what_is_stored_before_any_contact_is_young(void **state) {
  (void)state;
  struct gorge_config config = engine_config(NULL, "/nonexistent/redis.sock", 0);
  config.disconnected_ttl_ms = 20000;
  gorge_cache *d = engine_cache(&config);
  uint64_t op;
  assert_int_equal(gorge_cache_enter(d, 0), GORGE_OK);
  assert_true(engine_set(d, "k", "v", NULL, &op) < 0);
  gorge_op_free(d, op);
  assert_string_equal(engine_l1(d, "k"), "v");
  struct gorge_key key;
  struct gorge_read read = {.buf = NULL};
  gorge_key_init(d->zone, d->ns, "k", 1, &key);
  assert_int_equal(gorge_l1_read(d->zone, &key, gorge_clock_ms(), false, &read), GORGE_SPACE);
  assert_true(read.expires_ms <= (double)gorge_clock_ms() + 20000);
  /* Who comes when there is contact leaves it alone. */
  gorge_zone_journal(d->zone, d->ns)->contact = GORGE_CONTACT_HELD;
  d->words->life_max_ms = 0;
  config.flags |= GORGE_CONFIG_SECOND;
  gorge_cache *e = engine_cache(&config);
  assert_int_equal(gorge_cache_enter(e, 0), GORGE_OK);
  assert_int_equal(d->words->life_max_ms, 0);
  gorge_cache_destroy(e);
  gorge_cache_destroy(d);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void) {
  const struct CMUnitTest tests[] = {
      TEST(where_to_connect_is_told_when_somebody_wants_it),
      TEST(after_a_drop_the_next_attempt_is_heard_of),
      TEST(a_node_that_was_given_up_is_told_of_once),
      TEST(a_socket_that_opens_too_late_is_to_be_closed),
      TEST(bytes_that_are_no_redis_end_the_connection),
      TEST(an_answer_may_come_byte_by_byte),
      TEST(without_a_pump_deadlines_end_the_waits),
      TEST(an_answer_that_comes_after_the_deadline_is_thrown_away),
      TEST(what_is_not_moved_from_outside_says_so),
      TEST(an_open_breaker_asks_nothing),
      TEST(slow_answers_are_used_but_open_the_breaker),
      TEST(the_probe_tells_even_when_its_caller_has_gone),
      TEST(a_request_that_cannot_be_sent_says_nothing),
      TEST(what_is_stored_before_any_contact_is_young),
  };
  return cmocka_run_group_tests_name("engine, connection and breaker", tests, NULL, NULL);
}
