/* SPDX-License-Identifier: MIT */
/* What one sentinel says, and what becomes of it; and connections that only a master will do for. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/sentinel.h"
#include "test/wire.h"

enum { T0 = 1000000 };

static const struct gorge_conn_config plain = {
    .connect_timeout_ms = 1000, .timeout_ms = 500, .max_pending = 8, .max_reply_bytes = 64 * 1024, .seed = 1};

struct told {
  int reports;
  struct gorge_sentinel_report last;
};

static void on_report(void *ctx, const struct gorge_sentinel_report *report, uint64_t now_ms) {
  (void)now_ms;
  struct told *t = ctx;
  t->reports++;
  t->last = *report;
}

static struct gorge_sentinel *make(struct told *t) {
  const struct gorge_sentinel_hooks hooks = {.ctx = t, .report = on_report};
  memset(t, 0, sizeof *t);
  struct gorge_sentinel *s = gorge_sentinel_create("main", &plain, &hooks);
  assert_non_null(s);
  assert_int_equal(gorge_sentinel_state(s), GORGE_SENTINEL_ASKING);
  return s;
}

static const char *questions(void) {
  static char text[512];
  snprintf(text, sizeof text, "%s%s", wire_format("SENTINEL MASTER main"),
           wire_format("SENTINEL GET-MASTER-ADDR-BY-NAME main"));
  return text;
}

static struct gorge_sentinel *make_asking(struct told *t) {
  struct gorge_sentinel *s = make(t);
  struct gorge_conn *c = gorge_sentinel_asks(s);
  wire_ready(c, T0);
  assert_string_equal(wire_take(c), questions());
  return s;
}

/* Answers both questions. */
static void answer(struct gorge_sentinel *s, const char *configured, const char *epoch, const char *host,
                   const char *port) {
  char text[1024];
  snprintf(text, sizeof text,
           "*8|$4|name|$4|main|$2|ip|$%zu|%s|$4|port|$4|6379|$12|config-epoch|$%zu|%s|*2|$%zu|%s|$%zu|%s|",
           strlen(configured), configured, strlen(epoch), epoch, strlen(host), host, strlen(port), port);
  assert_int_equal(wire_feed(gorge_sentinel_asks(s), text, T0 + 1), GORGE_OK);
}

static void test_a_report_has_place_and_rank(void **state) {
  (void)state;
  struct told t;
  struct gorge_sentinel *s = make_asking(&t);
  answer(s, "192.0.2.1", "7", "192.0.2.1", "6379");
  assert_int_equal(t.reports, 1);
  assert_string_equal(t.last.host, "192.0.2.1");
  assert_int_equal(t.last.port, 6379);
  assert_int_equal(gorge_sentinel_state(s), GORGE_SENTINEL_KNOWS);
  uint64_t rank = t.last.rank;
  /* a replica has been promoted; the configuration will say so when the failover is over */
  gorge_sentinel_ask(s, T0 + 1);
  answer(s, "192.0.2.1", "7", "192.0.2.2", "6380");
  assert_string_equal(t.last.host, "192.0.2.2");
  assert_int_equal(t.last.port, 6380);
  assert_true(t.last.rank > rank);
  uint64_t promoted = t.last.rank;
  gorge_sentinel_ask(s, T0 + 1);
  answer(s, "192.0.2.2", "8", "192.0.2.2", "6379");
  assert_true(t.last.rank > promoted);
  gorge_sentinel_destroy(s);
}

static void test_an_answer_that_makes_no_sense_is_no_report(void **state) {
  (void)state;
  static const char *const answers[] = {
      "-ERR No such master with that name|*-1|",
      "*2|$2|ip|$9|192.0.2.1|*2|$9|192.0.2.1|$4|6379|",                                    /* no epoch */
      "*6|$2|ip|$1|a|$4|port|$1|0|$12|config-epoch|$1|1|*2|$1|a|$4|6379|",                 /* port 0 */
      "*6|$2|ip|$1|a|$4|port|$5|65536|$12|config-epoch|$1|1|*2|$1|a|$4|6379|",             /* too high */
      "*6|$2|ip|$1|a|$4|port|$1|1|$12|config-epoch|$16|9999999999999999|*2|$1|a|$4|6379|", /* too many digits */
      "*6|$2|ip|$1|a|$4|port|$1|1|$12|config-epoch|$2|-1|*2|$1|a|$4|6379|",
      "*6|$2|ip|$3|a/b|$4|port|$1|1|$12|config-epoch|$1|1|*2|$1|a|$4|6379|", /* no host */
      "*6|$2|ip|$1|a|$4|port|$1|1|$12|config-epoch|$1|1|*2|$0||$4|6379|",
      "*6|$2|ip|$1|a|$4|port|$1|1|$12|config-epoch|$1|1|*1|$1|a|",
      "*6|$2|ip|$1|a|$4|port|$1|1|$12|config-epoch|$1|1|:7|",
      "*6|$2|ip|*0|$4|port|:1|$12|config-epoch|$-1|*2|$1|a|$1|1|",
      "*1|$2|ip|*2|$1|a|$1|1|",
      "+OK|+OK|",
      "*0|*0|",
  };
  for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
    struct told t;
    struct gorge_sentinel *s = make_asking(&t);
    assert_int_equal(wire_feed(gorge_sentinel_asks(s), answers[i], T0), GORGE_OK);
    assert_int_equal(t.reports, 0);
    assert_int_equal(gorge_sentinel_state(s), GORGE_SENTINEL_UNKNOWN);
    /* the next answer may be better */
    gorge_sentinel_tick(s, 1000, T0 + 1000);
    assert_string_equal(wire_take(gorge_sentinel_asks(s)), questions());
    answer(s, "a", "1", "a", "6379");
    assert_int_equal(t.reports, 1);
    assert_int_equal(gorge_sentinel_state(s), GORGE_SENTINEL_KNOWS);
    gorge_sentinel_destroy(s);
  }
}

static void test_what_keeps_it_from_answering_is_told_apart(void **state) {
  (void)state;
  struct told t;
  struct gorge_sentinel *s = make_asking(&t);
  struct gorge_conn *c = gorge_sentinel_asks(s);
  assert_int_equal(wire_feed(c, "-NOPERM no|-NOPERM no|", T0), GORGE_OK);
  assert_int_equal(gorge_sentinel_state(s), GORGE_SENTINEL_REFUSES);
  gorge_conn_closed(c, T0 + 1, "closed");
  assert_int_equal(gorge_sentinel_state(s), GORGE_SENTINEL_SILENT);
  assert_true(gorge_conn_want_connect(c, T0 + 5000));
  gorge_conn_opened(c, T0 + 5000);
  assert_int_not_equal(wire_feed(c, "-NOAUTH first|", T0 + 5000), GORGE_OK);
  gorge_conn_closed(c, T0 + 5000, "closed");
  assert_int_equal(gorge_sentinel_state(s), GORGE_SENTINEL_REFUSES);
  gorge_sentinel_destroy(s);
}

static void test_it_is_asked_again_in_time_and_never_twice_at_once(void **state) {
  (void)state;
  struct told t;
  struct gorge_sentinel *s = make_asking(&t);
  struct gorge_conn *c = gorge_sentinel_asks(s);
  gorge_sentinel_ask(s, T0);
  gorge_sentinel_ask(s, T0);
  gorge_sentinel_tick(s, 1000, T0 + 5000);
  assert_string_equal(wire_take(c), "");
  answer(s, "a", "1", "a", "6379");
  assert_string_equal(wire_take(c), questions()); /* once more, for both */
  answer(s, "a", "1", "a", "6379");
  assert_string_equal(wire_take(c), "");
  gorge_sentinel_tick(s, 1000, T0 + 1000);
  assert_string_equal(wire_take(c), "");
  gorge_sentinel_tick(s, 1000, T0 + 1001);
  assert_string_equal(wire_take(c), questions());
  /* lost meanwhile: asked as soon as it is back */
  gorge_conn_closed(c, T0 + 1001, "lost");
  assert_true(gorge_conn_want_connect(c, T0 + 9000));
  gorge_conn_opened(c, T0 + 9000);
  wire_take(c);
  assert_int_equal(wire_feed(c, "+OK|+PONG|", T0 + 9000), GORGE_OK);
  assert_string_equal(wire_take(c), questions());
  gorge_sentinel_destroy(s);
}

static void subscribe(struct gorge_sentinel *s) {
  struct gorge_conn *c = gorge_sentinel_hears(s);
  wire_ready(c, T0);
  assert_string_equal(wire_take(c), wire_format("SUBSCRIBE +switch-master"));
  assert_int_equal(wire_feed(c, "*3|$9|subscribe|$14|+switch-master|:1|", T0), GORGE_OK);
}

static void test_a_switch_is_heard(void **state) {
  (void)state;
  struct told t;
  struct gorge_sentinel *s = make_asking(&t);
  struct gorge_conn *asks = gorge_sentinel_asks(s), *hears = gorge_sentinel_hears(s);
  answer(s, "a", "1", "a", "6379");
  subscribe(s); /* what was said before it was heard by nobody */
  assert_string_equal(wire_take(asks), questions());
  answer(s, "a", "1", "a", "6379");
  static const char *const others[] = {
      "*3|$7|message|$14|+switch-master|$15|mainly a 1 b 2 |",
      "*3|$7|message|$14|+switch-master|$4|main|",
      "*3|$7|message|$14|+switch-master|$0||",
      "*3|$7|message|$14|+switch-master|:1|",
      "*3|$7|message|$6|+sdown|$12|main a 1 b 2|",
      "*2|$4|pong|$0||",
      "*3|*0|$14|+switch-master|$12|main a 1 b 2|",
      "+OK|",
  };
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
    assert_int_equal(wire_feed(hears, others[i], T0), GORGE_OK);
    assert_string_equal(wire_take(asks), "");
  }
  assert_int_equal(wire_feed(hears, "*3|$7|message|$14|+switch-master|$12|main a 1 b 2|", T0), GORGE_OK);
  assert_string_equal(wire_take(asks), questions());
  gorge_sentinel_destroy(s);
}

static void test_a_sentinel_that_takes_no_subscription_is_asked_all_the_same(void **state) {
  (void)state;
  struct told t;
  struct gorge_sentinel *s = make_asking(&t);
  struct gorge_conn *hears = gorge_sentinel_hears(s);
  wire_ready(hears, T0);
  assert_int_not_equal(wire_feed(hears, "-NOPERM no channels|", T0), GORGE_OK);
  gorge_conn_closed(hears, T0, "refused");
  answer(s, "a", "1", "a", "6379");
  gorge_sentinel_tick(s, 1000, T0 + 2000);
  assert_string_equal(wire_take(gorge_sentinel_asks(s)), questions());
  assert_int_equal(gorge_sentinel_state(s), GORGE_SENTINEL_KNOWS);
  gorge_sentinel_destroy(s);
}

static void test_silence_of_the_subscription_is_noticed(void **state) {
  (void)state;
  struct told t;
  struct gorge_sentinel *s = make(&t);
  struct gorge_conn *hears = gorge_sentinel_hears(s);
  subscribe(s);
  gorge_sentinel_tick(s, 1000, T0 + 1000);
  assert_string_equal(wire_take(hears), wire_format("PING"));
  assert_false(gorge_conn_tick(hears, T0 + 1999));
  assert_true(gorge_conn_tick(hears, T0 + 2000));
  gorge_sentinel_destroy(s);
}

static void test_a_name_is_needed(void **state) {
  (void)state;
  char long_name[GORGE_MASTER_NAME_MAX + 2];
  const struct gorge_sentinel_hooks hooks = {.report = on_report};
  memset(long_name, 'x', sizeof long_name);
  long_name[sizeof long_name - 1] = '\0';
  assert_null(gorge_sentinel_create("", &plain, &hooks));
  assert_null(gorge_sentinel_create(long_name, &plain, &hooks));
  gorge_sentinel_destroy(NULL);
}

/* ---- only a master will do ---- */

static uint64_t place, doubts;

static struct gorge_conn *make_for_master(void) {
  struct gorge_conn_config config = plain;
  config.place = &place;
  config.doubts = &doubts;
  place = doubts = 0;
  struct gorge_conn *c = gorge_conn_create(&config);
  assert_non_null(c);
  gorge_conn_want(c);
  return c;
}

static void open_it(struct gorge_conn *c, uint64_t now_ms) {
  assert_true(gorge_conn_want_connect(c, now_ms));
  gorge_conn_towards(c, place);
  gorge_conn_opened(c, now_ms);
  char expected[256];
  snprintf(expected, sizeof expected, "%s%s%s", wire_format("CLIENT SETNAME gorge"), wire_format("ROLE"),
           wire_format("PING"));
  assert_string_equal(wire_take(c), expected);
}

static const char good[] = "+OK|*3|$6|master|:0|*0|+PONG|";

static void test_a_server_that_is_no_master_is_left(void **state) {
  (void)state;
  static const struct {
    const char *reply, *reason;
    uint64_t doubts;
  } cases[] = {
      {"*5|$5|slave|$1|a|:1|$9|connected|:9|", "this server is not the master", 1},
      {"*2|$8|sentinel|*0|", "this server is not the master", 1},
      {"*1|$7|masters|", "this server is not the master", 1},
      {"*0|", "malformed answer in the handshake", 0},
      {"*1|:1|", "malformed answer in the handshake", 0},
      {"+master|", NULL, 0},
      {"-NOPERM no ROLE|", "ROLE refused: NOPERM no ROLE", 0},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    struct gorge_conn *c = make_for_master();
    open_it(c, T0);
    assert_int_equal(wire_feed(c, "+OK|", T0), GORGE_OK);
    int status = wire_feed(c, cases[i].reply, T0);
    if (cases[i].reason != NULL) {
      assert_int_not_equal(status, GORGE_OK);
      assert_true(gorge_conn_tick(c, T0));
      assert_string_equal(gorge_conn_reason(c), cases[i].reason);
    } else {
      assert_int_not_equal(gorge_conn_state(c), GORGE_CONN_READY);
    }
    assert_int_equal(doubts, cases[i].doubts);
    gorge_conn_destroy(c);
  }
}

static void test_a_master_that_takes_no_writes_any_more_is_left(void **state) {
  (void)state;
  static const char *const replies[] = {
      "-READONLY You can't write against a read only replica.|",
      "-ERR Error running script (call to f_0): @user_script:1: -READONLY You can't write against a read only "
      "replica.|",
      "-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.|"};
  for (size_t i = 0; i < sizeof replies / sizeof replies[0]; i++) {
    struct gorge_conn *c = make_for_master();
    struct wire_command w;
    open_it(c, T0);
    assert_int_equal(wire_feed(c, good, T0), GORGE_OK);
    assert_int_equal(gorge_conn_state(c), GORGE_CONN_READY);
    wire_init(&w);
    assert_int_equal(wire_submit(c, &w, "SET a b", T0), GORGE_OK);
    assert_int_not_equal(wire_feed(c, replies[i], T0), GORGE_OK);
    assert_int_equal(w.status, GORGE_OK); /* the error is the answer */
    assert_int_equal(doubts, 1);
    assert_true(gorge_conn_tick(c, T0));
    gorge_conn_destroy(c);
  }
  struct gorge_conn *c = gorge_conn_create(&plain); /* any server will do */
  struct wire_command w;
  wire_ready(c, T0);
  wire_init(&w);
  assert_int_equal(wire_submit(c, &w, "SET a b", T0), GORGE_OK);
  assert_int_equal(wire_feed(c, replies[0], T0), GORGE_OK);
  assert_false(gorge_conn_tick(c, T0));
  gorge_conn_destroy(c);
}

static void test_another_master_is_followed_without_delay(void **state) {
  (void)state;
  struct gorge_conn *c = make_for_master();
  struct wire_command w[2];
  place = 1;
  open_it(c, T0);
  assert_int_equal(wire_feed(c, good, T0), GORGE_OK);
  wire_init(&w[0]);
  wire_init(&w[1]);
  assert_int_equal(wire_submit(c, &w[0], "GET a", T0), GORGE_OK);
  assert_false(gorge_conn_tick(c, T0));
  assert_false(gorge_conn_moved(c));
  place = 2;
  assert_true(gorge_conn_moved(c));
  assert_int_equal(wire_submit(c, &w[1], "GET b", T0), GORGE_ERR_DOWN); /* not to that one */
  assert_true(gorge_conn_tick(c, T0));
  gorge_conn_closed(c, T0, "closed");
  assert_int_equal(w[0].status, GORGE_ERR_DOWN);
  assert_string_equal(gorge_conn_reason(c), "another server is the master now");
  assert_true(gorge_conn_next_ms(c) <= T0); /* the delay after a loss is not for the other one */
  assert_int_equal(wire_submit(c, &w[1], "GET b", T0), GORGE_OK);
  open_it(c, T0);
  assert_int_equal(wire_feed(c, good, T0), GORGE_OK);
  assert_string_equal(wire_take(c), wire_format("GET b"));
  /* that one refuses connections: now there is a delay */
  gorge_conn_closed(c, T0, "lost");
  assert_false(gorge_conn_want_connect(c, T0));
  gorge_conn_destroy(c);
}

static void test_an_address_that_is_old_by_now_is_not_connected_to(void **state) {
  (void)state;
  struct gorge_conn *c = make_for_master();
  assert_true(gorge_conn_want_connect(c, T0)); /* the master is not known yet */
  place = 1;
  assert_false(gorge_conn_tick(c, T0)); /* the address will be that one's */
  gorge_conn_towards(c, 1);
  assert_false(gorge_conn_tick(c, T0));
  place = 2; /* while it is being connected to */
  assert_true(gorge_conn_tick(c, T0));
  gorge_conn_opened(c, T0);
  assert_int_not_equal(gorge_conn_state(c), GORGE_CONN_HANDSHAKE);
  gorge_conn_closed(c, T0, "closed");
  open_it(c, T0);
  place = 3; /* in the handshake */
  assert_true(gorge_conn_tick(c, T0));
  gorge_conn_destroy(c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_report_has_place_and_rank),
      cmocka_unit_test(test_an_answer_that_makes_no_sense_is_no_report),
      cmocka_unit_test(test_what_keeps_it_from_answering_is_told_apart),
      cmocka_unit_test(test_it_is_asked_again_in_time_and_never_twice_at_once),
      cmocka_unit_test(test_a_switch_is_heard),
      cmocka_unit_test(test_a_sentinel_that_takes_no_subscription_is_asked_all_the_same),
      cmocka_unit_test(test_silence_of_the_subscription_is_noticed),
      cmocka_unit_test(test_a_name_is_needed),
      cmocka_unit_test(test_a_server_that_is_no_master_is_left),
      cmocka_unit_test(test_a_master_that_takes_no_writes_any_more_is_left),
      cmocka_unit_test(test_another_master_is_followed_without_delay),
      cmocka_unit_test(test_an_address_that_is_old_by_now_is_not_connected_to),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
