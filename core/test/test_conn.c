/* SPDX-License-Identifier: MIT */
#include <hiredis/hiredis.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/conn.h"
#include "test/wire.h"

enum { T0 = 1000000 };

static const struct gorge_conn_config plain = {
    .connect_timeout_ms = 1000, .timeout_ms = 500, .max_pending = 8, .max_reply_bytes = 64 * 1024, .seed = 1};

static struct gorge_conn *make(const struct gorge_conn_config *config) {
  struct gorge_conn *c = gorge_conn_create(config);
  assert_non_null(c);
  return c;
}

static struct gorge_conn *make_ready(void) {
  struct gorge_conn *c = make(&plain);
  wire_ready(c, T0);
  return c;
}

static void assert_ended(const struct wire_command *w, int status, const char *text) {
  assert_int_equal(w->calls, 1);
  assert_int_equal(w->status, status);
  if (text != NULL) {
    assert_string_equal(w->text, text);
  }
}

/* ---- connecting ---- */

static void test_connects_only_when_wanted(void **state) {
  (void)state;
  struct gorge_conn *c = make(&plain);
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_DOWN);
  assert_true(gorge_conn_next_ms(c) == UINT64_MAX);
  assert_false(gorge_conn_want_connect(c, T0));
  struct wire_command w;
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
  assert_true(gorge_conn_next_ms(c) <= T0);
  assert_true(gorge_conn_want_connect(c, T0));
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_CONNECTING);
  assert_false(gorge_conn_want_connect(c, T0));
  gorge_conn_destroy(c);
  assert_ended(&w, GORGE_ERR_CLOSED, NULL);
}

static void test_commands_wait_for_ready_and_keep_their_order(void **state) {
  (void)state;
  struct gorge_conn *c = make(&plain);
  struct wire_command w[3];
  for (int i = 0; i < 3; i++) {
    wire_init(&w[i]);
  }
  assert_int_equal(wire_submit(c, &w[0], "GET 0", T0), GORGE_OK);
  assert_true(gorge_conn_want_connect(c, T0));
  assert_int_equal(wire_submit(c, &w[1], "GET 1", T0), GORGE_OK);
  assert_string_equal(wire_take(c), "");
  gorge_conn_opened(c, T0 + 1);
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_HANDSHAKE);
  assert_int_equal(wire_submit(c, &w[2], "GET 2", T0 + 1), GORGE_OK);
  assert_null(strstr(wire_take(c), "GET"));
  assert_int_equal(wire_feed(c, "+OK|", T0 + 2), GORGE_OK);
  assert_string_equal(wire_take(c), "");
  assert_int_equal(wire_feed(c, "+PONG|", T0 + 2), GORGE_OK);
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_READY);
  assert_int_equal(gorge_conn_connects(c), 1);
  assert_int_equal(gorge_conn_pending(c), 3);
  char expected[256];
  snprintf(expected, sizeof expected, "%s%s%s", wire_format("GET 0"), wire_format("GET 1"), wire_format("GET 2"));
  assert_string_equal(wire_take(c), expected);
  assert_int_equal(wire_feed(c, "$1|x|:7|$-1|", T0 + 3), GORGE_OK);
  assert_ended(&w[0], GORGE_OK, "x");
  assert_ended(&w[1], GORGE_OK, "7");
  assert_ended(&w[2], GORGE_OK, "(nil)");
  assert_int_equal(gorge_conn_pending(c), 0);
  gorge_conn_destroy(c);
}

static void test_handshake_says_who_and_where(void **state) {
  (void)state;
  struct gorge_conn_config config = plain;
  config.username = "me";
  config.password = "secret";
  config.db = 3;
  struct gorge_conn *c = make(&config);
  gorge_conn_want(c);
  assert_true(gorge_conn_want_connect(c, T0));
  gorge_conn_opened(c, T0);
  char expected[512];
  snprintf(expected, sizeof expected, "%s%s%s%s", wire_format("AUTH me secret"), wire_format("SELECT 3"),
           wire_format("CLIENT SETNAME gorge"), wire_format("PING"));
  assert_string_equal(wire_take(c), expected);
  /* SETNAME is a courtesy: an old server or an ACL may refuse it */
  assert_int_equal(wire_feed(c, "+OK|+OK|-ERR unknown command|", T0), GORGE_OK);
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_HANDSHAKE);
  assert_int_equal(wire_feed(c, "+PONG|", T0), GORGE_OK);
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_READY);
  gorge_conn_destroy(c);

  config.username = NULL;
  config.db = 0;
  c = make(&config);
  gorge_conn_want(c);
  assert_true(gorge_conn_want_connect(c, T0));
  gorge_conn_opened(c, T0);
  assert_memory_equal(wire_take(c), wire_format("AUTH secret"), strlen(wire_format("AUTH secret")));
  gorge_conn_destroy(c);
}

/* Answers a handshake with `replies`; the connection must refuse with `reason`. */
static void refused_handshake(const struct gorge_conn_config *config, const char *replies, const char *reason) {
  struct gorge_conn *c = make(config);
  struct wire_command w;
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
  assert_true(gorge_conn_want_connect(c, T0));
  gorge_conn_opened(c, T0);
  wire_take(c);
  assert_true(wire_feed(c, replies, T0 + 1) < 0);
  assert_true(gorge_conn_tick(c, T0 + 1));
  assert_int_equal(gorge_conn_next_ms(c), 0);
  assert_string_equal(wire_take(c), "");
  assert_int_equal(w.calls, 0);
  gorge_conn_closed(c, T0 + 1, "closed by us");
  assert_ended(&w, GORGE_ERR_DOWN, NULL);
  assert_string_equal(gorge_conn_reason(c), reason);
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_DOWN);
  assert_int_equal(gorge_conn_connects(c), 0);
  assert_false(gorge_conn_want_connect(c, T0 + 1));
  assert_true(gorge_conn_want_connect(c, T0 + 5000));
  gorge_conn_destroy(c);
}

static void test_refused_handshakes(void **state) {
  (void)state;
  struct gorge_conn_config secret = plain;
  secret.password = "hunter2";
  secret.db = 9;
  refused_handshake(&secret, "-WRONGPASS invalid username-password pair|", "authentication refused");
  refused_handshake(&secret, "-ERR unknown command `AUTH`, with args beginning with: `hunter2`, |",
                    "authentication refused");
  refused_handshake(&secret, "+OK|-ERR DB index is out of range|", "database refused: ERR DB index is out of range");
  refused_handshake(&secret, "-ERR max number of clients reached|", "Redis refuses: ERR max number of clients reached");
  refused_handshake(&plain, "-NOAUTH Authentication required.|", "authentication required");
  refused_handshake(&plain, "+OK|-LOADING Redis is loading the dataset in memory|", "Redis is loading its data");
  refused_handshake(&plain, "+OK|-MASTERDOWN Link with\001MASTER is down|",
                    "Redis refuses: MASTERDOWN Link with?MASTER is down");
}

static void test_a_ping_that_is_forbidden_will_do(void **state) {
  (void)state;
  struct gorge_conn *c = make(&plain);
  gorge_conn_want(c);
  assert_true(gorge_conn_want_connect(c, T0));
  gorge_conn_opened(c, T0);
  assert_int_equal(wire_feed(c, "+OK|-NOPERM this user has no permissions|", T0), GORGE_OK);
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_READY);
  gorge_conn_destroy(c);
}

static void test_handshake_of_another_protocol(void **state) {
  (void)state;
  static const char *const speakers[] = {"HTTP/1.1 400 Bad Request||", ":1|", "*1|$1|a|", "$2|OK|", "$-1|"};
  for (size_t i = 0; i < sizeof speakers / sizeof *speakers; i++) {
    struct gorge_conn *c = make(&plain);
    gorge_conn_want(c);
    assert_true(gorge_conn_want_connect(c, T0));
    gorge_conn_opened(c, T0);
    assert_int_equal(wire_feed(c, speakers[i], T0), GORGE_ERR_PROTOCOL);
    gorge_conn_closed(c, T0, NULL);
    gorge_conn_destroy(c);
  }
}

static void test_connect_timeout_covers_the_handshake(void **state) {
  (void)state;
  for (int opened = 0; opened < 2; opened++) {
    struct gorge_conn *c = make(&plain);
    struct wire_command w;
    wire_init(&w);
    w.command.deadline_ms = T0 + 60000;
    assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
    assert_true(gorge_conn_want_connect(c, T0));
    if (opened) {
      gorge_conn_opened(c, T0 + 900);
    }
    assert_int_equal(gorge_conn_next_ms(c), T0 + 1000);
    assert_false(gorge_conn_tick(c, T0 + 999));
    assert_true(gorge_conn_tick(c, T0 + 1000));
    gorge_conn_closed(c, T0 + 1000, NULL);
    assert_string_equal(gorge_conn_reason(c), "connecting took too long");
    assert_ended(&w, GORGE_ERR_DOWN, NULL);
    gorge_conn_destroy(c);
  }
}

static void test_backoff_grows_and_starts_anew_after_ready(void **state) {
  (void)state;
  struct gorge_conn *c = make(&plain);
  uint64_t now = T0, longest = 0;
  gorge_conn_want(c);
  for (uint32_t n = 1; n <= 12; n++) {
    assert_true(gorge_conn_want_connect(c, now));
    gorge_conn_closed(c, now, "refused");
    assert_string_equal(gorge_conn_reason(c), "refused");
    uint64_t delay = gorge_conn_next_ms(c) - now;
    uint64_t top = n < 6 ? 50U << n : 2000;
    assert_in_range(delay, 50, top > 2000 ? 2000 : top);
    longest = delay > longest ? delay : longest;
    struct wire_command w;
    wire_init(&w);
    assert_int_equal(wire_submit(c, &w, "GET a", now + delay - 1), GORGE_ERR_DOWN);
    assert_false(gorge_conn_want_connect(c, now + delay - 1));
    now += delay;
  }
  assert_true(longest > 400);
  /* a READY that does not hold changes nothing; one that does, does */
  wire_ready(c, now);
  gorge_conn_closed(c, now + 10, NULL);
  now = gorge_conn_next_ms(c);
  wire_ready(c, now);
  gorge_conn_closed(c, now + 1000, NULL);
  assert_in_range(gorge_conn_next_ms(c) - (now + 1000), 50, 100);
  assert_int_equal(gorge_conn_connects(c), 2);
  gorge_conn_destroy(c);
}

static void test_a_short_ready_does_not_reset_the_backoff(void **state) {
  (void)state;
  /* many seeds: one delay alone says nothing about its range */
  uint64_t longest = 0;
  for (uint64_t seed = 0; seed < 32; seed++) {
    struct gorge_conn_config config = plain;
    config.seed = seed;
    struct gorge_conn *c = make(&config);
    uint64_t now = T0;
    for (int i = 0; i < 6; i++) {
      wire_ready(c, now);
      gorge_conn_closed(c, now + 1, NULL);
      longest = gorge_conn_next_ms(c) - now > longest ? gorge_conn_next_ms(c) - now : longest;
      now = gorge_conn_next_ms(c);
    }
    gorge_conn_destroy(c);
  }
  assert_in_range(longest, 500, 2001);
}

static void test_while_down_commands_are_refused_then_make_it_connect(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  gorge_conn_closed(c, T0 + 1, "reset by peer");
  struct wire_command w;
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "GET a", T0 + 2), GORGE_ERR_DOWN);
  uint64_t again = gorge_conn_next_ms(c);
  assert_int_equal(wire_submit(c, &w, "GET a", again), GORGE_OK);
  wire_ready(c, again);
  assert_string_equal(wire_take(c), wire_format("GET a"));
  assert_int_equal(wire_feed(c, "$1|x|", again), GORGE_OK);
  assert_ended(&w, GORGE_OK, "x");
  assert_string_equal(gorge_conn_reason(c), "");
  gorge_conn_destroy(c);
}

/* Given up while nobody used it: it does not come back by itself, and who wants it then does not wait for a backoff. */
static void test_after_a_rest_the_next_command_connects_at_once(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  gorge_conn_rest(c, T0 + 1, "idle");
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_DOWN);
  assert_string_equal(gorge_conn_reason(c), "idle");
  assert_true(gorge_conn_next_ms(c) == UINT64_MAX);
  assert_false(gorge_conn_want_connect(c, T0 + 60000));
  struct wire_command w;
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "GET a", T0 + 1), GORGE_OK);
  /* one that refuses is left alone for as long as after any other loss */
  assert_true(gorge_conn_want_connect(c, T0 + 1));
  gorge_conn_closed(c, T0 + 1, "refused");
  assert_ended(&w, GORGE_ERR_DOWN, NULL);
  assert_in_range(gorge_conn_next_ms(c) - (T0 + 1), 50, 100);
  gorge_conn_destroy(c);
}

static void test_a_rest_of_what_is_in_use_is_a_loss(void **state) {
  (void)state;
  struct wire_command w;
  struct gorge_conn *c = make_ready();
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
  gorge_conn_rest(c, T0 + 1, "idle");
  assert_ended(&w, GORGE_ERR_DOWN, NULL);
  assert_in_range(gorge_conn_next_ms(c) - (T0 + 1), 50, 100);
  assert_true(gorge_conn_want_connect(c, T0 + 200));
  gorge_conn_rest(c, T0 + 201, "idle"); /* not yet READY */
  assert_true(gorge_conn_next_ms(c) >= T0 + 251 && gorge_conn_next_ms(c) < UINT64_MAX);
  gorge_conn_destroy(c);
}

/* ---- replies ---- */

static void test_replies_split_at_every_byte(void **state) {
  (void)state;
  static const char stream[] =
      "$5\r\nab\r\nc\r\n:-42\r\n+OK\r\n-ERR no\r\n*3\r\n$1\r\nx\r\n*2\r\n:1\r\n$-1\r\n*0\r\n$-1\r\n*-1\r\n$0\r\n\r\n";
  static const char *const texts[] = {"ab\r\nc", "-42", "OK", "ERR no", "(array of 3)", "(nil)", "(nil)", ""};
  enum { N = sizeof texts / sizeof *texts };
  size_t len = sizeof stream - 1;
  for (size_t cut = 0; cut <= len; cut++) {
    for (size_t step = 1; step <= len; step += (cut == 0 ? 1 : len)) {
      struct gorge_conn *c = make_ready();
      struct wire_command w[N];
      for (int i = 0; i < N; i++) {
        wire_init(&w[i]);
        assert_int_equal(wire_submit(c, &w[i], "GET a", T0), GORGE_OK);
      }
      if (cut > 0) { /* one cut */
        assert_int_equal(gorge_conn_input(c, stream, cut, T0), GORGE_OK);
        assert_int_equal(gorge_conn_input(c, stream + cut, len - cut, T0), GORGE_OK);
      } else { /* pieces of `step` bytes */
        for (size_t at = 0; at < len; at += step) {
          assert_int_equal(gorge_conn_input(c, stream + at, len - at < step ? len - at : step, T0), GORGE_OK);
        }
      }
      for (int i = 0; i < N; i++) {
        assert_ended(&w[i], GORGE_OK, texts[i]);
      }
      assert_int_equal(gorge_conn_pending(c), 0);
      gorge_conn_destroy(c);
    }
  }
}

static void test_partial_output(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command w;
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "SET a b", T0), GORGE_OK);
  char got[128];
  size_t at = 0;
  for (;;) {
    const char *ptr;
    size_t len;
    gorge_conn_output(c, &ptr, &len);
    if (len == 0) {
      break;
    }
    got[at++] = ptr[0];
    gorge_conn_sent(c, 1);
  }
  static const char expected[] = "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n";
  assert_int_equal(at, sizeof expected - 1);
  assert_memory_equal(got, expected, at);
  gorge_conn_destroy(c);
}

static struct redisReply *kept_reply;

static void keep(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  (void)now_ms;
  assert_int_equal(status, GORGE_OK);
  kept_reply = gorge_conn_keep_reply(((struct wire_command *)cmd)->conn);
  assert_int_equal(kept_reply->type, reply->type);
}

static void test_a_reply_can_be_kept(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command w, after;
  wire_init(&w);
  wire_init(&after);
  w.command.done = keep;
  assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &after, "GET b", T0), GORGE_OK);
  char received[] = "$4\r\nkept\r\n$1\r\ny\r\n";
  assert_int_equal(gorge_conn_input(c, received, sizeof received - 1, T0), GORGE_OK);
  memset(received, 'x', sizeof received); /* the driver's, who uses it for something else */
  assert_ended(&after, GORGE_OK, "y");
  assert_string_equal(kept_reply->str, "kept");
  freeReplyObject(kept_reply);

  wire_init(&w);
  wire_init(&after);
  w.command.done = keep;
  assert_int_equal(wire_submit(c, &w, "MGET a b", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &after, "GET b", T0), GORGE_OK);
  assert_int_equal(wire_feed(c, "*2|$4|kept|$3|too|$1|z|", T0), GORGE_OK);
  assert_ended(&after, GORGE_OK, "z");
  gorge_conn_destroy(c);
  assert_int_equal(kept_reply->elements, 2);
  assert_string_equal(kept_reply->element[1]->str, "too");
  freeReplyObject(kept_reply);
}

/* ---- deadlines, cancelling, limits ---- */

static void test_a_late_reply_goes_to_nobody_else(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command slow, quick;
  wire_init(&slow);
  wire_init(&quick);
  slow.command.deadline_ms = T0 + 100;
  quick.command.deadline_ms = T0 + 900;
  assert_int_equal(wire_submit(c, &slow, "GET slow", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &quick, "GET quick", T0), GORGE_OK);
  assert_int_equal(gorge_conn_next_ms(c), T0 + 100);
  assert_false(gorge_conn_tick(c, T0 + 99));
  assert_int_equal(slow.calls, 0);
  assert_false(gorge_conn_tick(c, T0 + 100));
  assert_ended(&slow, GORGE_ERR_TIMEOUT, NULL);
  assert_int_equal(quick.calls, 0);
  assert_int_equal(gorge_conn_pending(c), 2);
  assert_int_equal(wire_feed(c, "$4|slow|$5|quick|", T0 + 200), GORGE_OK);
  assert_ended(&slow, GORGE_ERR_TIMEOUT, NULL);
  assert_ended(&quick, GORGE_OK, "quick");
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_READY);
  gorge_conn_destroy(c);
}

static void test_deadlines_need_not_be_in_order(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  static const uint64_t after[] = {800, 300, 0, 500, 300, 700};
  struct wire_command w[6];
  for (int i = 0; i < 6; i++) {
    wire_init(&w[i]);
    w[i].command.deadline_ms = after[i] == 0 ? 0 : T0 + after[i];
    assert_int_equal(wire_submit(c, &w[i], "GET a", T0), GORGE_OK);
  }
  assert_int_equal(w[2].command.deadline_ms, T0 + 500);
  for (uint64_t at = 100; at <= 800; at += 100) {
    uint64_t next = gorge_conn_next_ms(c);
    assert_true(next > T0 + at - 100 || at == 100);
    assert_false(gorge_conn_tick(c, T0 + at));
    for (int i = 0; i < 6; i++) {
      uint64_t due = after[i] == 0 ? 500 : after[i];
      assert_int_equal(w[i].calls, due <= at ? 1 : 0);
      assert_int_equal(due <= at ? w[i].at_ms : T0 + due, T0 + due);
    }
  }
  gorge_conn_destroy(c);
}

static void test_what_timed_out_before_ready_is_never_sent(void **state) {
  (void)state;
  struct gorge_conn *c = make(&plain);
  struct wire_command gone, cancelled, stays;
  wire_init(&gone);
  wire_init(&cancelled);
  wire_init(&stays);
  gone.command.deadline_ms = T0 + 50;
  assert_int_equal(wire_submit(c, &gone, "SET gone 1", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &cancelled, "SET cancelled 1", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &stays, "SET stays 1", T0), GORGE_OK);
  gorge_conn_cancel(c, &cancelled.command);
  assert_false(gorge_conn_tick(c, T0 + 50));
  assert_ended(&gone, GORGE_ERR_TIMEOUT, NULL);
  wire_ready(c, T0 + 60);
  assert_string_equal(wire_take(c), wire_format("SET stays 1"));
  assert_int_equal(gorge_conn_pending(c), 1);
  assert_int_equal(wire_feed(c, "+OK|", T0 + 70), GORGE_OK);
  assert_ended(&stays, GORGE_OK, "OK");
  assert_int_equal(cancelled.calls, 0);
  gorge_conn_destroy(c);
}

static void test_without_a_driver_the_queue_empties_itself(void **state) {
  (void)state;
  struct gorge_conn *c = make(&plain);
  struct wire_command w[16];
  for (int i = 0; i < 16; i++) {
    uint64_t now = T0 + 1000 * (uint64_t)(i / 8);
    wire_init(&w[i]);
    if (i == 8) {
      assert_int_equal(wire_submit(c, &w[i], "GET a", T0), GORGE_ERR_FULL);
      assert_false(gorge_conn_tick(c, now));
      assert_ended(&w[0], GORGE_ERR_TIMEOUT, NULL);
      assert_int_equal(gorge_conn_pending(c), 0);
    }
    assert_int_equal(wire_submit(c, &w[i], "GET a", now), GORGE_OK);
  }
  gorge_conn_destroy(c);
}

static void test_a_cancelled_command_is_not_touched(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command *gone = malloc(sizeof *gone), stays;
  wire_init(gone);
  wire_init(&stays);
  assert_int_equal(wire_submit(c, gone, "GET gone", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &stays, "GET stays", T0), GORGE_OK);
  gorge_conn_cancel(c, &gone->command);
  gorge_conn_cancel(c, &gone->command);
  assert_int_equal(gone->calls, 0);
  free(gone);
  gorge_conn_tick(c, T0 + 499);
  assert_int_equal(wire_feed(c, "$4|gone|$5|stays|", T0), GORGE_OK);
  assert_ended(&stays, GORGE_OK, "stays");
  gorge_conn_cancel(c, &stays.command); /* over already: nothing happens */
  gorge_conn_destroy(c);
}

static void test_queue_full_counts_what_redis_still_owes(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command w[8], more;
  for (int i = 0; i < 8; i++) {
    wire_init(&w[i]);
    assert_int_equal(wire_submit(c, &w[i], "GET a", T0), GORGE_OK);
  }
  wire_init(&more);
  assert_int_equal(wire_submit(c, &more, "GET a", T0), GORGE_ERR_FULL);
  gorge_conn_cancel(c, &w[3].command);
  assert_int_equal(wire_submit(c, &more, "GET a", T0), GORGE_ERR_FULL);
  assert_int_equal(wire_feed(c, "$-1|", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &more, "GET a", T0), GORGE_OK);
  gorge_conn_destroy(c);
  assert_ended(&more, GORGE_ERR_CLOSED, NULL);
  assert_int_equal(w[3].calls, 0);
}

static void test_silence_asks_to_be_closed(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command w;
  wire_init(&w);
  /* an idle connection may be silent for as long as it likes */
  assert_false(gorge_conn_tick(c, T0 + 100000));
  assert_true(gorge_conn_next_ms(c) == UINT64_MAX);
  uint64_t t1 = T0 + 100000;
  assert_int_equal(wire_submit(c, &w, "GET a", t1), GORGE_OK);
  assert_false(gorge_conn_tick(c, t1 + 500));
  assert_ended(&w, GORGE_ERR_TIMEOUT, NULL);
  /* any byte is a sign of life */
  assert_int_equal(wire_feed(c, "$10|ab", t1 + 800), GORGE_OK);
  assert_int_equal(gorge_conn_next_ms(c), t1 + 1800);
  assert_false(gorge_conn_tick(c, t1 + 1799));
  assert_true(gorge_conn_tick(c, t1 + 1800));
  struct wire_command refused;
  wire_init(&refused);
  assert_int_equal(wire_submit(c, &refused, "GET a", t1 + 1800), GORGE_ERR_DOWN);
  gorge_conn_closed(c, t1 + 1800, "closed");
  assert_string_equal(gorge_conn_reason(c), "no answer for too long");
  gorge_conn_destroy(c);
}

static void test_stall_follows_a_long_timeout(void **state) {
  (void)state;
  struct gorge_conn_config config = plain;
  config.timeout_ms = 3000;
  struct gorge_conn *c = make(&config);
  wire_ready(c, T0);
  struct wire_command w;
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
  assert_false(gorge_conn_tick(c, T0 + 5999));
  assert_true(gorge_conn_tick(c, T0 + 6000));
  gorge_conn_destroy(c);
}

/* ---- completions that act ---- */

static void submit_other(struct wire_command *w, uint64_t now_ms) {
  assert_int_equal(wire_submit(w->conn, w->other, "GET other", now_ms), GORGE_OK);
}

static void submit_again(struct wire_command *w, uint64_t now_ms) {
  w->then = NULL;
  w->command.deadline_ms = 0;
  assert_int_equal(wire_submit(w->conn, w, "GET again", now_ms), GORGE_OK);
}

static void submit_refused(struct wire_command *w, uint64_t now_ms) {
  int status = wire_submit(w->conn, w->other, "GET other", now_ms);
  assert_true(status == GORGE_ERR_DOWN || status == GORGE_ERR_CLOSED);
}

static void cancel_other(struct wire_command *w, uint64_t now_ms) {
  (void)now_ms;
  gorge_conn_cancel(w->conn, &w->other->command);
}

static void test_submit_from_inside_done(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command first, second, other;
  wire_init(&first);
  wire_init(&second);
  wire_init(&other);
  first.then = submit_other;
  first.other = &other;
  second.then = submit_again;
  assert_int_equal(wire_submit(c, &first, "GET first", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &second, "GET second", T0), GORGE_OK);
  wire_take(c);
  assert_int_equal(wire_feed(c, "$1|1|$1|2|", T0), GORGE_OK);
  char expected[256];
  snprintf(expected, sizeof expected, "%s%s", wire_format("GET other"), wire_format("GET again"));
  assert_string_equal(wire_take(c), expected);
  assert_int_equal(wire_feed(c, "$1|3|$1|4|", T0), GORGE_OK);
  assert_ended(&other, GORGE_OK, "3");
  assert_int_equal(second.calls, 2);
  assert_string_equal(second.text, "4");
  gorge_conn_destroy(c);
}

static void test_submit_and_cancel_from_a_timeout(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command first, second, third, other;
  wire_init(&first);
  wire_init(&second);
  wire_init(&third);
  wire_init(&other);
  first.then = cancel_other;
  first.other = &second;
  third.then = submit_other;
  third.other = &other;
  assert_int_equal(wire_submit(c, &first, "GET 1", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &second, "GET 2", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &third, "GET 3", T0), GORGE_OK);
  assert_false(gorge_conn_tick(c, T0 + 500));
  assert_ended(&first, GORGE_ERR_TIMEOUT, NULL);
  assert_int_equal(second.calls, 0);
  assert_ended(&third, GORGE_ERR_TIMEOUT, NULL);
  assert_int_equal(other.calls, 0);
  assert_int_equal(other.command.deadline_ms, T0 + 1000);
  assert_int_equal(wire_feed(c, ":1|:2|:3|:4|", T0 + 600), GORGE_OK);
  assert_ended(&other, GORGE_OK, "4");
  gorge_conn_destroy(c);
}

static void test_closed_in_the_middle(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command w[4], other;
  wire_init(&other);
  for (int i = 0; i < 4; i++) {
    wire_init(&w[i]);
    assert_int_equal(wire_submit(c, &w[i], "GET a", T0), GORGE_OK);
  }
  w[1].then = submit_refused;
  w[1].other = &other;
  w[2].then = cancel_other;
  w[2].other = &w[3];
  assert_int_equal(wire_feed(c, "$1|x|$10|ab", T0), GORGE_OK);
  gorge_conn_closed(c, T0, "reset");
  assert_ended(&w[0], GORGE_OK, "x");
  assert_ended(&w[1], GORGE_ERR_DOWN, NULL);
  assert_ended(&w[2], GORGE_ERR_DOWN, NULL);
  assert_int_equal(w[3].calls, 0);
  assert_int_equal(other.calls, 0);
  gorge_conn_closed(c, T0, "again");
  assert_string_equal(gorge_conn_reason(c), "reset");
  assert_true(wire_feed(c, "$1|x|", T0) < 0);
  /* nothing of the old stream may leak into the new one */
  uint64_t now = gorge_conn_next_ms(c);
  wire_ready(c, now);
  assert_int_equal(wire_submit(c, &other, "GET other", now), GORGE_OK);
  assert_string_equal(wire_take(c), wire_format("GET other"));
  assert_int_equal(wire_feed(c, "$1|y|", now), GORGE_OK);
  assert_ended(&other, GORGE_OK, "y");
  gorge_conn_destroy(c);
}

static void test_closed_while_connecting_fails_what_waits(void **state) {
  (void)state;
  struct gorge_conn *c = make(&plain);
  struct wire_command w[2], other;
  wire_init(&other);
  for (int i = 0; i < 2; i++) {
    wire_init(&w[i]);
    assert_int_equal(wire_submit(c, &w[i], "GET a", T0), GORGE_OK);
  }
  w[0].then = submit_refused;
  w[0].other = &other;
  assert_true(gorge_conn_want_connect(c, T0));
  gorge_conn_closed(c, T0, "connection refused");
  assert_ended(&w[0], GORGE_ERR_DOWN, NULL);
  assert_ended(&w[1], GORGE_ERR_DOWN, NULL);
  assert_int_equal(gorge_conn_pending(c), 0);
  gorge_conn_destroy(c);
}

static void test_destroy_completes_everything(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command w[2], other;
  wire_init(&w[0]);
  wire_init(&w[1]);
  wire_init(&other);
  w[0].then = submit_refused;
  w[0].other = &other;
  assert_int_equal(wire_submit(c, &w[0], "GET a", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &w[1], "GET a", T0), GORGE_OK);
  gorge_conn_destroy(c);
  assert_ended(&w[0], GORGE_ERR_CLOSED, NULL);
  assert_ended(&w[1], GORGE_ERR_CLOSED, NULL);
  gorge_conn_destroy(NULL);
}

/* ---- hooks ---- */

struct hooks {
  struct gorge_conn *conn;
  struct wire_command first;
  int ready, lost, pushes;
  bool fail;
};

static void on_ready(void *ctx, uint64_t now_ms) {
  struct hooks *h = ctx;
  h->ready++;
  if (h->fail) {
    gorge_conn_fail(h->conn, "not what I want");
    return;
  }
  h->first.command.deadline_ms = 0;
  assert_int_equal(wire_submit(h->conn, &h->first, "TIME", now_ms), GORGE_OK);
}

static void on_lost(void *ctx, uint64_t now_ms) {
  (void)now_ms;
  ((struct hooks *)ctx)->lost++;
}

static void test_ready_hook_goes_first_even_into_a_full_queue(void **state) {
  (void)state;
  struct gorge_conn_config config = plain;
  config.max_pending = 1;
  struct gorge_conn *c = make(&config);
  struct hooks h = {.conn = c};
  wire_init(&h.first);
  gorge_conn_on_state(c, on_ready, on_lost, &h);
  struct wire_command w;
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
  wire_ready(c, T0);
  assert_int_equal(h.ready, 1);
  char expected[256];
  snprintf(expected, sizeof expected, "%s%s", wire_format("TIME"), wire_format("GET a"));
  assert_string_equal(wire_take(c), expected);
  assert_int_equal(wire_feed(c, ":1|:2|", T0), GORGE_OK);
  assert_ended(&h.first, GORGE_OK, "1");
  assert_ended(&w, GORGE_OK, "2");
  gorge_conn_closed(c, T0, NULL);
  assert_int_equal(h.lost, 1);
  uint64_t now = gorge_conn_next_ms(c);
  assert_true(gorge_conn_want_connect(c, now));
  gorge_conn_closed(c, now, NULL); /* was not READY: nothing was lost */
  assert_int_equal(h.lost, 1);
  gorge_conn_destroy(c);
}

static void test_the_user_can_fail_the_connection(void **state) {
  (void)state;
  struct gorge_conn *c = make(&plain);
  struct hooks h = {.conn = c, .fail = true};
  gorge_conn_on_state(c, on_ready, on_lost, &h);
  struct wire_command w;
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
  assert_true(gorge_conn_want_connect(c, T0));
  gorge_conn_opened(c, T0);
  assert_true(wire_feed(c, "+OK|+PONG|", T0) < 0);
  assert_true(gorge_conn_tick(c, T0));
  gorge_conn_closed(c, T0, NULL);
  assert_string_equal(gorge_conn_reason(c), "not what I want");
  assert_ended(&w, GORGE_ERR_DOWN, NULL);
  gorge_conn_destroy(c);
}

static void on_push(void *ctx, const struct redisReply *reply, uint64_t now_ms) {
  (void)now_ms;
  (void)reply;
  ((struct hooks *)ctx)->pushes++;
}

static int post(struct gorge_conn *c, const char *word, uint64_t now_ms) {
  const char *argv[] = {word};
  size_t len[] = {strlen(word)};
  return gorge_conn_post(c, 1, argv, len, now_ms);
}

static void test_subscribe_mode(void **state) {
  (void)state;
  struct gorge_conn *c = make(&plain);
  struct hooks h = {.conn = c};
  struct wire_command before, refused;
  wire_init(&before);
  wire_init(&refused);
  gorge_conn_on_push(c, on_push, &h);
  assert_int_equal(post(c, "SUBSCRIBE", T0), GORGE_ERR_DOWN);
  wire_ready(c, T0);
  assert_int_equal(wire_submit(c, &before, "GET a", T0), GORGE_OK);
  assert_int_equal(post(c, "SUBSCRIBE", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &refused, "GET a", T0), GORGE_ERR_UNSUPPORTED);
  /* the command from before still gets its own reply */
  assert_int_equal(wire_feed(c, "$1|x|*1|:1|*1|:2|+PONG|", T0 + 10), GORGE_OK);
  assert_ended(&before, GORGE_OK, "x");
  assert_int_equal(h.pushes, 3);
  /* silence counts from the last post that nothing has followed */
  assert_false(gorge_conn_tick(c, T0 + 50000));
  assert_int_equal(post(c, "PING", T0 + 50000), GORGE_OK);
  assert_int_equal(post(c, "PING", T0 + 50500), GORGE_OK);
  assert_false(gorge_conn_tick(c, T0 + 50999));
  assert_int_equal(gorge_conn_next_ms(c), T0 + 51000);
  assert_true(gorge_conn_tick(c, T0 + 51000));
  gorge_conn_closed(c, T0 + 51000, NULL);
  uint64_t now = gorge_conn_next_ms(c);
  wire_ready(c, now);
  assert_int_equal(wire_submit(c, &refused, "GET a", now), GORGE_OK);
  gorge_conn_destroy(c);
}

static void test_a_reply_nobody_asked_for(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  assert_int_equal(wire_feed(c, "$1|x|", T0), GORGE_ERR_PROTOCOL);
  gorge_conn_closed(c, T0, NULL);
  assert_string_equal(gorge_conn_reason(c), "a reply that answers nothing");
  gorge_conn_destroy(c);
}

static void test_noauth_while_ready_closes(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command w, next;
  wire_init(&w);
  wire_init(&next);
  assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
  assert_int_equal(wire_submit(c, &next, "GET a", T0), GORGE_OK);
  assert_true(wire_feed(c, "-NOAUTH Authentication required.|", T0) < 0);
  assert_ended(&w, GORGE_OK, "NOAUTH Authentication required.");
  gorge_conn_closed(c, T0, NULL);
  assert_ended(&next, GORGE_ERR_DOWN, NULL);
  assert_string_equal(gorge_conn_reason(c), "authentication required");
  gorge_conn_destroy(c);
}

/* ---- hostile bytes ---- */

static void test_malformed_bytes(void **state) {
  (void)state;
  static const char *const streams[] = {
      "x",
      "HTTP/1.1 200 OK||",
      "$abc|",
      "$-2|",
      "$99999999999999999999|",
      "$65537|",
      "*1025|",
      "*2147483648|",
      "*-2|",
      ":x|",
      "$|",
      "*|",
      "$1 |",
      "$ 1|",
      "$+1|",
      "*9223372036854775807|",
      "%1|+a|+b|",
      "*2|*1000|*1000|",
      "*1|*1|*1|*1|*1|*1|*1|*1|:1|",
      "|",
      "$--1|",
  };
  for (size_t i = 0; i < sizeof streams / sizeof *streams; i++) {
    struct gorge_conn *c = make_ready();
    struct wire_command first, w, next;
    wire_init(&first);
    wire_init(&w);
    wire_init(&next);
    assert_int_equal(wire_submit(c, &first, "GET a", T0), GORGE_OK);
    assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
    assert_int_equal(wire_submit(c, &next, "GET a", T0), GORGE_OK);
    char text[256];
    snprintf(text, sizeof text, "$2|ok|%s", streams[i]);
    if (wire_feed(c, text, T0) != GORGE_ERR_PROTOCOL) {
      fail_msg("accepted: %s", streams[i]);
    }
    /* what was whole before the damage counts */
    assert_ended(&first, GORGE_OK, "ok");
    assert_int_equal(w.calls, 0);
    assert_string_equal(wire_take(c), ""); /* nothing more is said to such a peer */
    assert_int_equal(wire_feed(c, "$1|x|", T0), GORGE_ERR_PROTOCOL);
    assert_true(gorge_conn_tick(c, T0));
    gorge_conn_closed(c, T0, NULL);
    assert_ended(&w, GORGE_ERR_PROTOCOL, NULL);
    assert_ended(&next, GORGE_ERR_PROTOCOL, NULL);
    gorge_conn_destroy(c);
  }
}

static void test_nested_arrays(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command w[4];
  for (int i = 0; i < 4; i++) {
    wire_init(&w[i]);
    assert_int_equal(wire_submit(c, &w[i], "GET a", T0), GORGE_OK);
  }
  /* seven levels, siblings behind them; the next replies are replies of their own */
  assert_int_equal(wire_feed(c, "*2|*2|*1|*1|*1|*1|*2|:1|:2|:3|*2|*0|*-1|:4|", T0), GORGE_OK);
  assert_ended(&w[0], GORGE_OK, "(array of 2)");
  assert_ended(&w[1], GORGE_OK, "4");
  assert_int_equal(wire_feed(c, "*1|*1|*1|*1|*1|*1|*1|*0|:5|", T0), GORGE_OK);
  assert_ended(&w[3], GORGE_OK, "5");
  gorge_conn_destroy(c);
}

static void test_size_limits_count_a_whole_reply(void **state) {
  (void)state;
  struct gorge_conn *c = make_ready();
  struct wire_command w[4];
  for (int i = 0; i < 4; i++) {
    wire_init(&w[i]);
    assert_int_equal(wire_submit(c, &w[i], "GET a", T0), GORGE_OK);
  }
  char *half = malloc(32 * 1024);
  memset(half, 'x', 32 * 1024);
  struct wire_text t = {0};
  /* each below the limit, together far above it: fine, as they are replies of their own */
  for (int i = 0; i < 3; i++) {
    wire_bulk(&t, half, 32 * 1024);
  }
  assert_int_equal(gorge_conn_input(c, t.ptr, t.len, T0), GORGE_OK);
  assert_int_equal(w[2].calls, 1);
  t.len = 0;
  wire_addf(&t, "*2\r\n");
  wire_bulk(&t, half, 32 * 1024);
  wire_bulk(&t, half, 32 * 1024);
  assert_int_equal(gorge_conn_input(c, t.ptr, t.len, T0), GORGE_ERR_PROTOCOL);
  gorge_conn_closed(c, T0, NULL);
  assert_ended(&w[3], GORGE_ERR_PROTOCOL, NULL);
  wire_free(&t);
  free(half);
  gorge_conn_destroy(c);
}

static void test_an_endless_line(void **state) {
  (void)state;
  struct gorge_conn_config config = plain;
  config.max_reply_bytes = 1 << 20;
  struct gorge_conn *c = make(&config);
  wire_ready(c, T0);
  struct wire_command w;
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "GET a", T0), GORGE_OK);
  char piece[1024];
  memset(piece, 'y', sizeof piece);
  assert_int_equal(gorge_conn_input(c, "+", 1, T0), GORGE_OK);
  int status = GORGE_OK, n = 0;
  while (status == GORGE_OK && n < 100) {
    status = gorge_conn_input(c, piece, sizeof piece, T0);
    n++;
  }
  assert_int_equal(status, GORGE_ERR_PROTOCOL);
  assert_in_range(n, 60, 65);
  gorge_conn_destroy(c);
}

/* Bytes that are nearly RESP reach further than random ones do. */
static size_t garbage(char *out, size_t size, uint64_t *seed) {
  static const char *const parts[] = {"$",
                                      "*",
                                      ":",
                                      "+",
                                      "-",
                                      "\r\n",
                                      "\r",
                                      "\n",
                                      "1",
                                      "2",
                                      "0",
                                      "-1",
                                      "$3\r\nabc\r\n",
                                      "*2\r\n",
                                      ":5\r\n",
                                      "+OK\r\n",
                                      "-ERR x\r\n",
                                      "$-1\r\n",
                                      "999",
                                      "\0",
                                      "*0\r\n"};
  size_t at = 0, want = wire_random(seed) % size;
  while (at + 16 < want) {
    if (wire_random(seed) % 8 == 0) {
      out[at++] = (char)wire_random(seed);
    } else {
      const char *part = parts[wire_random(seed) % (sizeof parts / sizeof *parts)];
      size_t len = strlen(part);
      memcpy(out + at, part, len);
      at += len;
    }
  }
  return at;
}

static void test_random_bytes_never_hurt(void **state) {
  (void)state;
  uint64_t seed = 42;
  for (int round = 0; round < 20000; round++) {
    struct gorge_conn *c = make_ready();
    struct wire_command w[8];
    int accepted = 0, ended = 0;
    for (int i = 0; i < 8; i++) {
      wire_init(&w[i]);
      accepted += wire_submit(c, &w[i], "GET a", T0) == GORGE_OK;
    }
    char bytes[512];
    size_t len = garbage(bytes, sizeof bytes, &seed), at = 0;
    int status = GORGE_OK;
    while (at < len && status == GORGE_OK) {
      size_t piece = 1 + wire_random(&seed) % 64;
      piece = piece < len - at ? piece : len - at;
      status = gorge_conn_input(c, bytes + at, piece, T0);
      at += piece;
      if (wire_random(&seed) % 16 == 0) {
        gorge_conn_tick(c, T0 + wire_random(&seed) % 600);
      }
    }
    if (wire_random(&seed) % 2 == 0) {
      gorge_conn_closed(c, T0, NULL);
    }
    gorge_conn_destroy(c);
    for (int i = 0; i < 8; i++) {
      ended += w[i].calls;
      assert_true(w[i].calls <= 1);
    }
    assert_int_equal(ended, accepted);
  }
}

/* Everything a user and a driver can do, in any order: each accepted command ends exactly once unless it is cancelled. */
static void test_any_order_of_events(void **state) {
  (void)state;
  for (uint64_t round = 1; round <= 300; round++) {
    enum { N = 64 };
    uint64_t seed = round * 7919, now = T0;
    struct gorge_conn *c = make(&plain);
    struct wire_command w[N];
    bool accepted[N] = {false}, cancelled[N] = {false};
    int next = 0;
    for (int step = 0; step < 400; step++) {
      uint64_t what = wire_random(&seed) % 16;
      now += wire_random(&seed) % 40;
      int any = next > 0 ? (int)(wire_random(&seed) % (uint64_t)next) : 0;
      if (what < 5 && next < N) {
        wire_init(&w[next]);
        if (wire_random(&seed) % 2 == 0) {
          w[next].command.deadline_ms = now + wire_random(&seed) % 2000;
        }
        accepted[next] = wire_submit(c, &w[next], "GET a", now) == GORGE_OK;
        next++;
      } else if (what == 5 && next > 0 && w[any].calls == 0) {
        gorge_conn_cancel(c, &w[any].command);
        cancelled[any] = true;
      } else if (what < 8) {
        gorge_conn_want_connect(c, now);
      } else if (what < 10) {
        gorge_conn_opened(c, now);
      } else if (what == 10 && wire_random(&seed) % 8 == 0) {
        (wire_random(&seed) % 2 == 0 ? gorge_conn_closed : gorge_conn_rest)(c, now, "x");
      } else if (what < 13) {
        wire_take(c);
        bool shaking = gorge_conn_state(c) == GORGE_CONN_HANDSHAKE;
        if (shaking || gorge_conn_pending(c) > 0) {
          const char *reply = shaking ? "+OK|" : wire_random(&seed) % 2 == 0 ? "$3|abc|" : "*2|:1|$-1|";
          gorge_conn_input(c, "", 0, now);
          if (gorge_conn_state(c) != GORGE_CONN_CONNECTING && wire_feed(c, reply, now) < 0) {
            gorge_conn_closed(c, now, "y");
          }
        }
      } else if (gorge_conn_tick(c, now)) {
        gorge_conn_closed(c, now, "z");
      }
    }
    gorge_conn_destroy(c);
    for (int i = 0; i < next; i++) {
      assert_int_equal(w[i].calls, accepted[i] && !cancelled[i] ? 1 : w[i].calls);
      assert_true(w[i].calls <= (accepted[i] && !cancelled[i] ? 1 : 0));
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_connects_only_when_wanted),
      cmocka_unit_test(test_commands_wait_for_ready_and_keep_their_order),
      cmocka_unit_test(test_handshake_says_who_and_where),
      cmocka_unit_test(test_refused_handshakes),
      cmocka_unit_test(test_a_ping_that_is_forbidden_will_do),
      cmocka_unit_test(test_handshake_of_another_protocol),
      cmocka_unit_test(test_connect_timeout_covers_the_handshake),
      cmocka_unit_test(test_after_a_rest_the_next_command_connects_at_once),
      cmocka_unit_test(test_a_rest_of_what_is_in_use_is_a_loss),
      cmocka_unit_test(test_backoff_grows_and_starts_anew_after_ready),
      cmocka_unit_test(test_a_short_ready_does_not_reset_the_backoff),
      cmocka_unit_test(test_while_down_commands_are_refused_then_make_it_connect),
      cmocka_unit_test(test_replies_split_at_every_byte),
      cmocka_unit_test(test_partial_output),
      cmocka_unit_test(test_a_reply_can_be_kept),
      cmocka_unit_test(test_a_late_reply_goes_to_nobody_else),
      cmocka_unit_test(test_deadlines_need_not_be_in_order),
      cmocka_unit_test(test_what_timed_out_before_ready_is_never_sent),
      cmocka_unit_test(test_without_a_driver_the_queue_empties_itself),
      cmocka_unit_test(test_a_cancelled_command_is_not_touched),
      cmocka_unit_test(test_queue_full_counts_what_redis_still_owes),
      cmocka_unit_test(test_silence_asks_to_be_closed),
      cmocka_unit_test(test_stall_follows_a_long_timeout),
      cmocka_unit_test(test_submit_from_inside_done),
      cmocka_unit_test(test_submit_and_cancel_from_a_timeout),
      cmocka_unit_test(test_closed_in_the_middle),
      cmocka_unit_test(test_closed_while_connecting_fails_what_waits),
      cmocka_unit_test(test_destroy_completes_everything),
      cmocka_unit_test(test_ready_hook_goes_first_even_into_a_full_queue),
      cmocka_unit_test(test_the_user_can_fail_the_connection),
      cmocka_unit_test(test_subscribe_mode),
      cmocka_unit_test(test_a_reply_nobody_asked_for),
      cmocka_unit_test(test_noauth_while_ready_closes),
      cmocka_unit_test(test_malformed_bytes),
      cmocka_unit_test(test_nested_arrays),
      cmocka_unit_test(test_size_limits_count_a_whole_reply),
      cmocka_unit_test(test_an_endless_line),
      cmocka_unit_test(test_random_bytes_never_hurt),
      cmocka_unit_test(test_any_order_of_events),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
