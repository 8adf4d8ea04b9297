/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/subscriber.h"
#include "test/wire.h"

enum { T0 = 1000000 };

static const struct gorge_conn_config plain = {
    .connect_timeout_ms = 1000, .timeout_ms = 500, .max_pending = 8, .max_reply_bytes = 64 * 1024, .seed = 1};

struct heard {
  int ready, lost, messages;
  enum gorge_message_type type;
  uint64_t version;
  char name[64];
};

static void on_ready(void *ctx, uint64_t now_ms) {
  (void)now_ms;
  ((struct heard *)ctx)->ready++;
}

static void on_lost(void *ctx, uint64_t now_ms) {
  (void)now_ms;
  ((struct heard *)ctx)->lost++;
}

static void on_message(void *ctx, const struct gorge_message *m, uint64_t now_ms) {
  (void)now_ms;
  struct heard *h = ctx;
  h->messages++;
  h->type = m->type;
  h->version = m->version;
  snprintf(h->name, sizeof h->name, "%.*s", (int)m->len, m->ptr);
}

static struct gorge_subscriber *make(struct heard *h) {
  memset(h, 0, sizeof *h);
  const struct gorge_subscriber_hooks hooks = {.ctx = h, .ready = on_ready, .lost = on_lost, .message = on_message};
  struct gorge_subscriber *s = gorge_subscriber_create("ns", 2, &plain, &hooks);
  assert_non_null(s);
  return s;
}

static void connect_it(struct gorge_subscriber *s, uint64_t now_ms) {
  struct gorge_conn *c = gorge_subscriber_conn(s);
  assert_true(gorge_conn_want_connect(c, now_ms));
  gorge_conn_opened(c, now_ms);
  wire_take(c);
  assert_int_equal(wire_feed(c, "+OK|+PONG|", now_ms), GORGE_OK);
  assert_string_equal(wire_take(c), wire_format("SUBSCRIBE gorge:2:ns"));
}

static const char confirmed[] = "*3|$9|subscribe|$10|gorge:2:ns|:1|";

static int feed_message(struct gorge_subscriber *s, const void *payload, size_t len, uint64_t now_ms) {
  struct wire_text t = {0};
  wire_addf(&t, "*3\r\n$7\r\nmessage\r\n$10\r\ngorge:2:ns\r\n");
  wire_bulk(&t, payload, len);
  int status = gorge_conn_input(gorge_subscriber_conn(s), t.ptr, t.len, now_ms);
  wire_free(&t);
  return status;
}

static void test_it_wants_its_connection_by_itself(void **state) {
  (void)state;
  struct heard h;
  struct gorge_subscriber *s = make(&h);
  assert_true(gorge_conn_next_ms(gorge_subscriber_conn(s)) <= T0);
  connect_it(s, T0);
  assert_int_equal(h.ready, 0); /* asked for, not confirmed */
  assert_int_equal(wire_feed(gorge_subscriber_conn(s), confirmed, T0), GORGE_OK);
  assert_int_equal(h.ready, 1);
  gorge_subscriber_destroy(s);
  assert_int_equal(h.lost, 0);
}

static void test_messages_arrive(void **state) {
  (void)state;
  struct heard h;
  struct gorge_subscriber *s = make(&h);
  connect_it(s, T0);
  assert_int_equal(wire_feed(gorge_subscriber_conn(s), confirmed, T0), GORGE_OK);
  assert_int_equal(feed_message(s, "\1\1\0\0\0\0\0\0\1\0key", 13, T0), GORGE_OK);
  assert_int_equal(h.messages, 1);
  assert_int_equal(h.type, GORGE_MESSAGE_KEY);
  assert_int_equal(h.version, 256);
  assert_string_equal(h.name, "key");
  assert_int_equal(feed_message(s, "\1\2\0\0\0\0\0\0\1\1tag", 13, T0), GORGE_OK);
  assert_int_equal(h.type, GORGE_MESSAGE_TAG);
  assert_int_equal(feed_message(s, "\1\3\0\0\0\0\0\0\0\0key", 13, T0), GORGE_OK);
  assert_int_equal(h.type, GORGE_MESSAGE_FILLED);
  assert_int_equal(h.messages, 3);
  gorge_subscriber_destroy(s);
}

static void test_what_is_not_for_us_changes_nothing(void **state) {
  (void)state;
  struct heard h;
  struct gorge_subscriber *s = make(&h);
  struct gorge_conn *c = gorge_subscriber_conn(s);
  connect_it(s, T0);
  assert_int_equal(wire_feed(c, "*3|$9|subscribe|$5|other|:1|", T0), GORGE_OK);
  assert_int_equal(h.ready, 0);
  assert_int_equal(wire_feed(c, confirmed, T0), GORGE_OK);
  assert_int_equal(wire_feed(c, confirmed, T0), GORGE_OK);
  assert_int_equal(h.ready, 1);
  /* a newer version's message: ignored; malformed ones: counted */
  assert_int_equal(feed_message(s, "\1\7\0\0\0\0\0\0\0\1key", 13, T0), GORGE_OK);
  assert_int_equal(gorge_subscriber_malformed(s), 0);
  assert_int_equal(feed_message(s, "\1\1\0\0", 4, T0), GORGE_OK);
  assert_int_equal(feed_message(s, "", 0, T0), GORGE_OK);
  assert_int_equal(wire_feed(c, "*3|$7|message|$10|gorge:2:ns|:5|", T0), GORGE_OK);
  assert_int_equal(gorge_subscriber_malformed(s), 3);
  assert_int_equal(wire_feed(c, "*3|$7|message|$5|other|$11|\1\1aaaaaaaab|", T0), GORGE_OK);
  assert_int_equal(wire_feed(c, "*3|$7|message|*0|$1|x|", T0), GORGE_OK);
  assert_int_equal(wire_feed(c, "*0|", T0), GORGE_OK);
  assert_int_equal(wire_feed(c, "*2|$4|pong|$0||", T0), GORGE_OK);
  assert_int_equal(wire_feed(c, "+PONG|", T0), GORGE_OK);
  assert_int_equal(wire_feed(c, ":1|", T0), GORGE_OK);
  assert_int_equal(h.messages, 0);
  assert_int_equal(h.ready, 1);
  gorge_subscriber_destroy(s);
}

static void test_silence_is_noticed_by_ping(void **state) {
  (void)state;
  struct heard h;
  struct gorge_subscriber *s = make(&h);
  struct gorge_conn *c = gorge_subscriber_conn(s);
  assert_true(gorge_subscriber_tick(s, T0) == UINT64_MAX);
  connect_it(s, T0);
  assert_int_equal(wire_feed(c, confirmed, T0), GORGE_OK);
  assert_int_equal(gorge_subscriber_tick(s, T0), T0 + 1000);
  assert_int_equal(gorge_subscriber_tick(s, T0 + 999), T0 + 1000);
  assert_string_equal(wire_take(c), "");
  assert_int_equal(gorge_subscriber_tick(s, T0 + 1000), T0 + 2000);
  assert_string_equal(wire_take(c), wire_format("PING"));
  assert_int_equal(wire_feed(c, "*2|$4|pong|$0||", T0 + 1010), GORGE_OK);
  assert_false(gorge_conn_tick(c, T0 + 1999));
  /* the next one is not answered */
  assert_int_equal(gorge_subscriber_tick(s, T0 + 2000), T0 + 3000);
  assert_false(gorge_conn_tick(c, T0 + 2999));
  gorge_subscriber_tick(s, T0 + 2999);
  assert_true(gorge_conn_tick(c, T0 + 3000));
  gorge_conn_closed(c, T0 + 3000, NULL);
  assert_int_equal(h.lost, 1);
  assert_string_equal(gorge_conn_reason(c), "no answer for too long");
  gorge_subscriber_destroy(s);
}

static void test_messages_are_signs_of_life(void **state) {
  (void)state;
  struct heard h;
  struct gorge_subscriber *s = make(&h);
  struct gorge_conn *c = gorge_subscriber_conn(s);
  connect_it(s, T0);
  assert_int_equal(wire_feed(c, confirmed, T0), GORGE_OK);
  for (uint64_t t = T0; t < T0 + 20000; t += 400) {
    gorge_subscriber_tick(s, t);
    assert_false(gorge_conn_tick(c, t));
    assert_int_equal(feed_message(s, "\1\1\0\0\0\0\0\0\0\1k", 11, t), GORGE_OK);
  }
  assert_int_equal(h.lost, 0);
  gorge_subscriber_destroy(s);
}

static void test_an_unconfirmed_subscription_does_not_last(void **state) {
  (void)state;
  struct heard h;
  struct gorge_subscriber *s = make(&h);
  struct gorge_conn *c = gorge_subscriber_conn(s);
  connect_it(s, T0);
  assert_true(gorge_conn_tick(c, T0 + 1000));
  gorge_conn_closed(c, T0 + 1000, NULL);
  assert_int_equal(h.ready, 0);
  assert_int_equal(h.lost, 0); /* there was nothing to lose */
  gorge_subscriber_destroy(s);
}

static void test_it_subscribes_again_after_a_loss(void **state) {
  (void)state;
  struct heard h;
  struct gorge_subscriber *s = make(&h);
  struct gorge_conn *c = gorge_subscriber_conn(s);
  uint64_t now = T0;
  for (int i = 1; i <= 3; i++) {
    connect_it(s, now);
    assert_int_equal(wire_feed(c, confirmed, now), GORGE_OK);
    assert_int_equal(h.ready, i);
    gorge_conn_closed(c, now + 5, "reset");
    assert_int_equal(h.lost, i);
    now = gorge_conn_next_ms(c);
  }
  gorge_subscriber_destroy(s);
}

static void test_a_refused_subscription(void **state) {
  (void)state;
  struct heard h;
  struct gorge_subscriber *s = make(&h);
  struct gorge_conn *c = gorge_subscriber_conn(s);
  connect_it(s, T0);
  assert_true(wire_feed(c, "-NOPERM No permissions to access a channel|", T0) < 0);
  assert_true(gorge_conn_tick(c, T0));
  gorge_conn_closed(c, T0, NULL);
  assert_string_equal(gorge_conn_reason(c), "subscription refused: NOPERM No permissions to access a channel");
  assert_int_equal(h.ready + h.lost, 0);
  gorge_subscriber_destroy(s);
}

static void test_an_ended_subscription(void **state) {
  (void)state;
  struct heard h;
  struct gorge_subscriber *s = make(&h);
  struct gorge_conn *c = gorge_subscriber_conn(s);
  connect_it(s, T0);
  assert_int_equal(wire_feed(c, confirmed, T0), GORGE_OK);
  assert_true(wire_feed(c, "*3|$11|unsubscribe|$10|gorge:2:ns|:0|", T0) < 0);
  gorge_conn_closed(c, T0, NULL);
  assert_int_equal(h.lost, 1);
  gorge_subscriber_destroy(s);
}

static void test_hooks_may_be_missing(void **state) {
  (void)state;
  const struct gorge_subscriber_hooks none = {0};
  struct gorge_subscriber *s = gorge_subscriber_create("ns", 2, &plain, &none);
  connect_it(s, T0);
  assert_int_equal(wire_feed(gorge_subscriber_conn(s), confirmed, T0), GORGE_OK);
  assert_int_equal(feed_message(s, "\1\1\0\0\0\0\0\0\0\1k", 11, T0), GORGE_OK);
  gorge_conn_closed(gorge_subscriber_conn(s), T0, NULL);
  gorge_subscriber_destroy(s);
  gorge_subscriber_destroy(NULL);
  assert_null(gorge_subscriber_create("a b", 3, &plain, &none));
}

static void test_random_pushes_never_hurt(void **state) {
  (void)state;
  static const char *const parts[] = {"*3\r\n",
                                      "*2\r\n",
                                      "$7\r\nmessage\r\n",
                                      "$9\r\nsubscribe\r\n",
                                      "$10\r\ngorge:2:ns\r\n",
                                      ":1\r\n",
                                      "$-1\r\n",
                                      "*0\r\n",
                                      "+PONG\r\n",
                                      "$11\r\n\1\1aaaaaaaab\r\n",
                                      "*-1\r\n",
                                      "$0\r\n\r\n"};
  uint64_t seed = 9;
  for (int round = 0; round < 20000; round++) {
    struct heard h;
    struct gorge_subscriber *s = make(&h);
    connect_it(s, T0);
    int status = GORGE_OK;
    for (int i = 0; i < 20 && status == GORGE_OK; i++) {
      const char *part = parts[wire_random(&seed) % (sizeof parts / sizeof *parts)];
      status = gorge_conn_input(gorge_subscriber_conn(s), part, strlen(part), T0);
    }
    gorge_subscriber_destroy(s);
  }
}

/* A host's own channel: ready only when both are confirmed; its messages come as the others do. */
static void an_own_channel_is_heard_too(void **state) {
  (void)state;
  struct heard h = {0};
  const struct gorge_subscriber_hooks hooks = {
      .ctx = &h, .ready = on_ready, .lost = on_lost, .message = on_message, .own = 0xabc};
  struct gorge_subscriber *s = gorge_subscriber_create("ns", 2, &plain, &hooks);
  struct gorge_conn *c = gorge_subscriber_conn(s);
  assert_true(gorge_conn_want_connect(c, T0));
  gorge_conn_opened(c, T0);
  wire_take(c);
  assert_int_equal(wire_feed(c, "+OK|+PONG|", T0), GORGE_OK);
  assert_string_equal(wire_take(c), wire_format("SUBSCRIBE gorge:2:ns gorge:2:ns:0000000000000abc"));
  assert_int_equal(wire_feed(c, "*3|$9|subscribe|$10|gorge:2:ns|:1|", T0), GORGE_OK);
  assert_int_equal(h.ready, 0);
  assert_int_equal(wire_feed(c, "*3|$9|subscribe|$27|gorge:2:ns:0000000000000abc|:2|", T0), GORGE_OK);
  assert_int_equal(h.ready, 1);
  static const char beat[] =
      "*3\r\n$7\r\nmessage\r\n$27\r\ngorge:2:ns:0000000000000abc\r\n$14\r\n\1\4\0\0\0\0\0\0\0\7beat\r\n";
  assert_int_equal(gorge_conn_input(c, beat, sizeof beat - 1, T0), GORGE_OK);
  assert_int_equal(h.messages, 1);
  assert_int_equal(h.type, GORGE_MESSAGE_HEARTBEAT);
  assert_int_equal(h.version, 7);
  assert_string_equal(h.name, "beat");
  assert_int_equal(wire_feed(c, "*3|$7|message|$27|gorge:2:ns:0000000000000abd|$1|x|", T0), GORGE_OK);
  assert_int_equal(h.messages, 1); /* somebody else's */
  gorge_subscriber_destroy(s);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(an_own_channel_is_heard_too),
      cmocka_unit_test(test_it_wants_its_connection_by_itself),
      cmocka_unit_test(test_messages_arrive),
      cmocka_unit_test(test_what_is_not_for_us_changes_nothing),
      cmocka_unit_test(test_silence_is_noticed_by_ping),
      cmocka_unit_test(test_messages_are_signs_of_life),
      cmocka_unit_test(test_an_unconfirmed_subscription_does_not_last),
      cmocka_unit_test(test_it_subscribes_again_after_a_loss),
      cmocka_unit_test(test_a_refused_subscription),
      cmocka_unit_test(test_an_ended_subscription),
      cmocka_unit_test(test_hooks_may_be_missing),
      cmocka_unit_test(test_random_pushes_never_hurt),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
