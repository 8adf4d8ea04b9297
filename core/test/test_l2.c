/* SPDX-License-Identifier: MIT */
/* L2 requests against a server made of bytes: what is asked, what each answer means, and what happens when it goes wrong. */
#include <hiredis/hiredis.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "io/l2.h"
#include "proto/scripts.h"
#include "test/wire.h"

enum { T0 = 1000000 };
/* The server's clock when ours says T0. */
#define SERVER_T0 ((uint64_t)1800000000000)
#define VERSION (SERVER_T0 * 1000 - 5000000)

static const struct gorge_conn_config plain = {
    .connect_timeout_ms = 1000, .timeout_ms = 500, .max_pending = 64, .max_reply_bytes = 1 << 20, .seed = 1};

/* An l2 whose host knows the epoch. */
static struct gorge_l2 *l2_create(void) {
  static const uint64_t epoch = 7;
  struct gorge_l2 *l2 = gorge_l2_create("ns", 2, 1, &plain);
  if (l2 != NULL) {
    gorge_l2_share_epoch(l2, &epoch, NULL, NULL);
  }
  return l2;
}

/* What it hears when it asks for the epoch. */
#define EPOCH "$1\r\n7\r\n"

/* A request that remembers how it ended. */
struct asked {
  struct gorge_l2_request rq; /* first: done finds the rest */
  int calls;
  struct gorge_l2_result result;
  char value[128];
  char error[256];
  char tags[GORGE_TAGS_MAX][32];
  char entries[256]; /* of JOURNAL */
};

static void on_done(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms) {
  (void)now_ms;
  struct asked *a = (struct asked *)rq;
  a->calls++;
  a->result = *result;
  snprintf(a->value, sizeof a->value, "%.*s", (int)result->value_len, result->value != NULL ? result->value : "");
  snprintf(a->error, sizeof a->error, "%s", result->error != NULL ? result->error : "");
  for (uint32_t i = 0; i < result->ntags; i++) {
    snprintf(a->tags[i], sizeof a->tags[i], "%.*s", (int)result->tags[i].len, result->tags[i].ptr);
  }
}

static const struct gorge_l2_tag tags_ab[] = {{"a", 1}, {"b", 1}};
/* As Redis keeps them: nonce, version of the last invalidation. */
#define TAG_A "$16\r\naaaaaaaa12345678\r\n"
#define TAG_B "$16\r\nbbbbbbbb12345678\r\n"
static const uint64_t nonces_ab[] = {0x6161616161616161, 0x6262626262626262}; /* "aaaaaaaa", "bbbbbbbb" */

static void on_entry(struct gorge_l2_request *rq, const struct gorge_message *m, uint64_t now_ms) {
  (void)now_ms;
  struct asked *a = (struct asked *)rq;
  size_t at = strlen(a->entries);
  snprintf(a->entries + at, sizeof a->entries - at, "%d:%.*s@%llu ", (int)m->type, (int)m->len, m->ptr,
           (unsigned long long)m->version);
}

static void ask(struct asked *a, enum gorge_l2_verb verb) {
  memset(a, 0, sizeof *a);
  a->rq.message = on_entry;
  a->rq.verb = verb;
  a->rq.key = "k";
  a->rq.key_len = 1;
  a->rq.done = on_done;
  a->rq.token = 0x746f6b656e2d3031; /* "token-01" */
  a->rq.lease_ms = 10000;
  a->rq.ttl_ms = 60000;
  a->rq.kind = GORGE_KIND_STRING;
  a->rq.value = "v";
  a->rq.value_len = 1;
}

static void with_tags(struct asked *a, uint32_t n) {
  a->rq.ntags = n;
  a->rq.tags = tags_ab;
  a->rq.tag_nonces = nonces_ab;
}

/* ---- the server ---- */

struct server {
  struct gorge_l2 *l2;
  struct gorge_conn *conn;
  struct wire_text out;  /* its answers */
  struct wire_text asks; /* what it was asked, "|" for CR LF */
};

static void server_hear(struct server *s) {
  const char *text = wire_take(s->conn);
  s->asks.len = 0;
  wire_add(&s->asks, text, strlen(text));
}

static int server_answer(struct server *s, uint64_t now_ms) {
  int status = gorge_conn_input(s->conn, s->out.ptr, s->out.len, now_ms);
  memset(s->out.ptr, 'x', s->out.len); /* the driver's, who uses it for something else */
  s->out.len = 0;
  return status;
}

static void expect_text(struct server *s, const char *text) {
  if (strstr(s->asks.ptr, text) == NULL) {
    fail_msg("not asked: %s\nasked: %s", text, s->asks.ptr);
  }
}

static void sha_of(int script, char *sha) { snprintf(sha, 41, "%040d", script + 1); }

/* Connects at now_ms, which may lie behind by lag_ms; the server knows its clock (or not) and has every script (or refuses to load them). */
static void server_start_at(struct server *s, bool clock, bool scripts, uint64_t lag_ms, uint64_t now_ms) {
  memset(s, 0, sizeof *s);
  s->l2 = l2_create();
  assert_non_null(s->l2);
  gorge_l2_lag(s->l2, lag_ms);
  s->conn = gorge_l2_conn(s->l2);
  wire_ready(s->conn, now_ms);
  server_hear(s);
  assert_memory_equal(s->asks.ptr, wire_format("TIME"), strlen(wire_format("TIME")));
  expect_text(s, "*3|$6|SCRIPT|$4|LOAD|");
  if (clock) {
    wire_addf(&s->out, "*2\r\n$10\r\n%llu\r\n$1\r\n0\r\n", (unsigned long long)(SERVER_T0 / 1000));
  } else {
    wire_addf(&s->out, "-NOPERM this user has no permissions\r\n");
  }
  wire_addf(&s->out, EPOCH);
  for (int i = 0; i < GORGE_SCRIPTS; i++) {
    char sha[41];
    sha_of(i, sha);
    if (scripts) {
      wire_bulk(&s->out, sha, 40);
    } else {
      wire_addf(&s->out, "-NOPERM this user has no permissions\r\n");
    }
  }
  assert_int_equal(server_answer(s, now_ms), GORGE_OK);
  assert_int_equal(gorge_conn_pending(s->conn), 0);
}

static void server_start(struct server *s, bool clock, bool scripts) { server_start_at(s, clock, scripts, 0, T0); }

static void server_stop(struct server *s) {
  gorge_l2_destroy(s->l2);
  wire_free(&s->out);
  wire_free(&s->asks);
}

static void put64(char *out, uint64_t v) {
  for (int i = 0; i < 8; i++) {
    out[i] = (char)(v >> (56 - 8 * i));
  }
}

/* An envelope as the scripts make it, appended as bulk. Written 5 s before SERVER_T0, ttl 60 s. */
static void add_envelope(struct wire_text *t, uint64_t version, uint32_t ntags, const char *value) {
  struct gorge_seal seal;
  char bytes[1024];
  assert_int_equal(
      gorge_envelope_seal(&seal, GORGE_KIND_STRING, 60000, NULL, ntags, tags_ab, value, (uint32_t)strlen(value)),
      GORGE_OK);
  size_t at = 20;
  memcpy(bytes, seal.head, 4);
  put64(bytes + 4, version);
  put64(bytes + 12, SERVER_T0 + 55000);
  for (uint32_t i = 0; i < ntags; i++) {
    put64(bytes + at, nonces_ab[i]);
    at += 8;
  }
  memcpy(bytes + at, seal.bytes, seal.len);
  at += seal.len;
  memcpy(bytes + at, value, strlen(value));
  wire_bulk(t, bytes, at + strlen(value));
}

static void send_ok(struct server *s, struct asked *a) {
  assert_int_equal(gorge_l2_send(s->l2, &a->rq, T0 + 100), GORGE_OK);
  assert_int_equal(a->calls, 0);
  server_hear(s);
}

static void answered(struct server *s, struct asked *a, int status) {
  assert_int_equal(server_answer(s, T0 + 110), GORGE_OK);
  assert_int_equal(a->calls, 1);
  assert_int_equal(a->result.status, status);
  assert_int_equal(gorge_conn_pending(s->conn), 0);
}

/* ---- LOOKUP ---- */

static void test_lookup_hit_is_one_get(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LOOKUP);
  send_ok(&s, &a);
  assert_string_equal(s.asks.ptr, "*2|$3|GET|$14|{2:ns:0}:7:v:k|");
  add_envelope(&s.out, VERSION, 0, "hello");
  answered(&s, &a, GORGE_HIT);
  assert_string_equal(a.value, "hello");
  assert_int_equal(a.result.kind, GORGE_KIND_STRING);
  assert_true(a.result.version == VERSION);
  /* written 5 s before, 110 ms gone since the clock was learnt */
  assert_int_equal(a.result.remaining_ms, 60000 - 5000 - 110);
  assert_null(a.result.error);
  server_stop(&s);
}

static void test_lookup_misses(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LOOKUP);
  send_ok(&s, &a);
  wire_addf(&s.out, "$-1\r\n");
  answered(&s, &a, GORGE_MISS);
  assert_int_equal(a.result.version, 0);
  /* foreign bytes */
  ask(&a, GORGE_L2_LOOKUP);
  send_ok(&s, &a);
  wire_bulk(&s.out, "hello", 5);
  answered(&s, &a, GORGE_MISS);
  assert_string_equal(a.error, "not a value of gorge");
  assert_int_equal(a.result.version, 0);
  /* damaged, but its version can be read: it is what LEASE shall not return */
  ask(&a, GORGE_L2_LOOKUP);
  send_ok(&s, &a);
  add_envelope(&s.out, VERSION, 0, "hello");
  s.out.ptr[s.out.len - 3] ^= 1;
  answered(&s, &a, GORGE_MISS);
  assert_string_equal(a.error, "a value with a wrong checksum");
  assert_true(a.result.version == VERSION);
  server_stop(&s);
}

static void test_lookup_of_what_has_expired_by_the_servers_clock(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LOOKUP);
  assert_int_equal(gorge_l2_send(s.l2, &a.rq, T0 + 54999), GORGE_OK);
  server_hear(&s); /* the clock's sample is old: TIME goes along */
  expect_text(&s, "$4|TIME|");
  wire_addf(&s.out, "*2\r\n$10\r\n%llu\r\n$6\r\n999000\r\n", (unsigned long long)(SERVER_T0 / 1000 + 54));
  add_envelope(&s.out, VERSION, 0, "hello");
  assert_int_equal(server_answer(&s, T0 + 54999), GORGE_OK);
  assert_int_equal(a.result.status, GORGE_HIT);
  assert_int_equal(a.result.remaining_ms, 1);
  ask(&a, GORGE_L2_LOOKUP);
  assert_int_equal(gorge_l2_send(s.l2, &a.rq, T0 + 55000), GORGE_OK);
  server_hear(&s);
  assert_null(strstr(s.asks.ptr, "TIME"));
  add_envelope(&s.out, VERSION, 0, "hello");
  assert_int_equal(server_answer(&s, T0 + 55000), GORGE_OK);
  assert_int_equal(a.result.status, GORGE_MISS);
  assert_true(a.result.version == VERSION);
  server_stop(&s);
}

static void test_lookup_without_the_servers_clock_leaves_it_to_lease(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, false, true);
  ask(&a, GORGE_L2_LOOKUP);
  send_ok(&s, &a);
  add_envelope(&s.out, VERSION, 0, "hello");
  answered(&s, &a, GORGE_MISS);
  assert_int_equal(a.result.version, 0);
  ask(&a, GORGE_L2_LEASE);
  send_ok(&s, &a);
  wire_addf(&s.out, "*4\r\n:2\r\n:%llu\r\n:1234\r\n", (unsigned long long)VERSION);
  add_envelope(&s.out, VERSION, 0, "hello");
  answered(&s, &a, GORGE_HIT);
  assert_int_equal(a.result.remaining_ms, 1234 - 10); /* the way there and back */
  server_stop(&s);
}

static void test_lookup_with_tags_checks_them_in_one_round(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LOOKUP);
  with_tags(&a, 2);
  send_ok(&s, &a);
  assert_string_equal(s.asks.ptr, "*2|$3|GET|$14|{2:ns:0}:7:v:k|*3|$4|MGET|$14|{2:ns:0}:7:t:a|$14|{2:ns:0}:7:t:b|");
  add_envelope(&s.out, VERSION, 2, "tagged");
  assert_int_equal(server_answer(&s, T0 + 100), GORGE_OK);
  assert_int_equal(a.calls, 0);
  wire_addf(&s.out, "*2\r\n" TAG_A TAG_B);
  answered(&s, &a, GORGE_HIT);
  assert_string_equal(a.value, "tagged");
  assert_int_equal(a.result.ntags, 2);
  assert_string_equal(a.tags[0], "a");
  assert_string_equal(a.tags[1], "b");
  assert_true(a.result.tag_nonces[1] == nonces_ab[1]);
  /* changed, absent, of another length or type: dead */
  static const char *const dead[] = {"*2\r\n" TAG_A "$16\r\nbbbbbbbx12345678\r\n",
                                     "*2\r\n" TAG_A "$-1\r\n",
                                     "*2\r\n$-1\r\n" TAG_B,
                                     "*2\r\n$15\r\naaaaaaaa1234567\r\n" TAG_B,
                                     "*2\r\n:1\r\n" TAG_B,
                                     "*1\r\n" TAG_A,
                                     "*0\r\n"};
  for (size_t i = 0; i < sizeof dead / sizeof *dead; i++) {
    ask(&a, GORGE_L2_LOOKUP);
    with_tags(&a, 2);
    send_ok(&s, &a);
    add_envelope(&s.out, VERSION, 2, "tagged");
    wire_addf(&s.out, "%s", dead[i]);
    answered(&s, &a, GORGE_MISS);
    assert_true(a.result.version == VERSION);
  }
  server_stop(&s);
}

static void test_lookup_of_unexpected_tags_takes_a_second_round(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  for (uint32_t known = 0; known < 2; known++) {
    for (int live = 0; live < 2; live++) {
      ask(&a, GORGE_L2_LOOKUP);
      with_tags(&a, known);
      send_ok(&s, &a);
      add_envelope(&s.out, VERSION, 2, "tagged");
      if (known > 0) {
        wire_addf(&s.out, "*1\r\n" TAG_A);
      }
      assert_int_equal(server_answer(&s, T0 + 100), GORGE_OK);
      assert_int_equal(a.calls, 0);
      server_hear(&s);
      assert_string_equal(s.asks.ptr, known > 0 ? "*2|$4|MGET|$14|{2:ns:0}:7:t:b|"
                                                : "*3|$4|MGET|$14|{2:ns:0}:7:t:a|$14|{2:ns:0}:7:t:b|");
      wire_addf(&s.out, known > 0 ? "*1\r\n" : "*2\r\n" TAG_A);
      wire_addf(&s.out, live ? TAG_B : "$-1\r\n");
      answered(&s, &a, live ? GORGE_HIT : GORGE_MISS);
      assert_true(a.result.version == VERSION);
    }
  }
  server_stop(&s);
}

static void test_a_second_round_that_comes_back_short(void **state) {
  (void)state;
  static const char *const answers[] = {"*0\r\n", "*1\r\n" TAG_A};
  struct server s;
  server_start(&s, true, true);
  for (int i = 0; i < 2; i++) {
    struct asked a;
    ask(&a, GORGE_L2_LOOKUP);
    send_ok(&s, &a);
    add_envelope(&s.out, VERSION, 2, "tagged");
    assert_int_equal(server_answer(&s, T0 + 100), GORGE_OK);
    wire_addf(&s.out, "%s", answers[i]);
    answered(&s, &a, GORGE_MISS);
  }
  server_stop(&s);
}

static void test_lookup_with_a_tag_the_value_lacks(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LOOKUP);
  with_tags(&a, 2);
  send_ok(&s, &a);
  add_envelope(&s.out, VERSION, 0, "plain");
  wire_addf(&s.out, "*2\r\n$-1\r\n$-1\r\n");
  answered(&s, &a, GORGE_HIT);
  ask(&a, GORGE_L2_LOOKUP);
  with_tags(&a, 2);
  send_ok(&s, &a);
  wire_addf(&s.out, "$-1\r\n*2\r\n$-1\r\n$-1\r\n");
  answered(&s, &a, GORGE_MISS);
  server_stop(&s);
}

/* ---- LEASE ---- */

static void test_lease_granted(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  char sha[41];
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LEASE);
  with_tags(&a, 2);
  a.rq.rejected_version = 77;
  a.rq.previous = 0x7072657669307573;
  send_ok(&s, &a);
  sha_of(GORGE_SCRIPT_LEASE, sha);
  char expected[512];
  snprintf(expected, sizeof expected,
           "*16|$7|EVALSHA|$40|%s|$1|6|$14|{2:ns:0}:7:v:k|$14|{2:ns:0}:7:l:k|$10|{2:ns:0}:c|$14|{2:ns:0}:7:t:a|$14|{2:"
           "ns:0}:7:t:b|"
           "$10|{2:ns:0}:e|$8|token-01|$8|previ0us|$5|10000|$2|77|$7|3610000|$16|",
           sha);
  expect_text(&s, expected);
  wire_addf(&s.out, "*4\r\n:4\r\n:777\r\n$8\r\naaaaaaaa\r\n$8\r\nbbbbbbbb\r\n");
  answered(&s, &a, GORGE_LEASE);
  assert_int_equal(a.result.ntags, 2);
  assert_int_equal(a.result.version, 777);
  assert_true(a.result.tag_nonces[0] == nonces_ab[0] && a.result.tag_nonces[1] == nonces_ab[1]);
  server_stop(&s);
}

static void test_fresh_nonces_are_random(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  char seen[20][8];
  server_start(&s, true, true);
  for (int i = 0; i < 20; i++) {
    ask(&a, GORGE_L2_LEASE);
    with_tags(&a, 1);
    assert_int_equal(gorge_l2_send(s.l2, &a.rq, T0 + 100), GORGE_OK);
    const char *ptr;
    size_t len;
    gorge_conn_output(s.conn, &ptr, &len);
    memcpy(seen[i], ptr + len - 17, 8); /* the last argument but the epoch: before CR LF $1 CR LF 7 CR LF */
    gorge_conn_sent(s.conn, len);
    for (int j = 0; j < i; j++) {
      assert_memory_not_equal(seen[i], seen[j], 8);
    }
    wire_addf(&s.out, "*3\r\n:4\r\n:777\r\n$8\r\naaaaaaaa\r\n");
    answered(&s, &a, GORGE_LEASE);
  }
  server_stop(&s);
}

static void test_lease_busy(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LEASE);
  with_tags(&a, 2);
  send_ok(&s, &a);
  wire_addf(&s.out, "*2\r\n:3\r\n:8765\r\n");
  answered(&s, &a, GORGE_BUSY);
  assert_int_equal(a.result.remaining_ms, 8765);
  server_stop(&s);
}

static void lease_hit_for(struct server *s, uint64_t version, int left_ms, const char *nonces) {
  wire_addf(&s->out, "*%d\r\n:2\r\n:%llu\r\n:%d\r\n", nonces[0] == '\0' ? 4 : 6, (unsigned long long)version, left_ms);
  add_envelope(&s->out, version, 2, "tagged");
  wire_addf(&s->out, "%s", nonces);
}

static void lease_hit(struct server *s, uint64_t version, const char *nonces) {
  lease_hit_for(s, version, 60000, nonces);
}

/* The shorter one of what is left by PTTL, which may have been true when the script was sent, and by the server's clock. */
static void test_lease_hit_does_not_outlive_its_way_here(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LEASE);
  with_tags(&a, 2);
  send_ok(&s, &a);
  lease_hit_for(&s, VERSION, 20000, TAG_A TAG_B);
  answered(&s, &a, GORGE_HIT);
  assert_int_equal(a.result.remaining_ms, 20000 - 10);
  ask(&a, GORGE_L2_LEASE);
  with_tags(&a, 2);
  send_ok(&s, &a);
  lease_hit_for(&s, VERSION, 60000, TAG_A TAG_B);
  answered(&s, &a, GORGE_HIT);
  assert_in_range(a.result.remaining_ms, 60000 - 5000 - 150, 60000 - 5000 - 100);
  server_stop(&s);
}

static void test_lease_hit_with_live_tags(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LEASE);
  with_tags(&a, 2);
  send_ok(&s, &a);
  lease_hit(&s, VERSION, TAG_A TAG_B);
  answered(&s, &a, GORGE_HIT);
  assert_string_equal(a.value, "tagged");
  /* tags that the caller did not expect */
  ask(&a, GORGE_L2_LEASE);
  send_ok(&s, &a);
  lease_hit(&s, VERSION, "");
  assert_int_equal(server_answer(&s, T0 + 101), GORGE_OK);
  server_hear(&s);
  assert_string_equal(s.asks.ptr, "*3|$4|MGET|$14|{2:ns:0}:7:t:a|$14|{2:ns:0}:7:t:b|");
  wire_addf(&s.out, "*2\r\n" TAG_A TAG_B);
  answered(&s, &a, GORGE_HIT);
  server_stop(&s);
}

static void test_lease_hit_with_dead_tags_asks_again(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LEASE);
  with_tags(&a, 2);
  send_ok(&s, &a);
  lease_hit(&s, VERSION, TAG_A "$0\r\n\r\n");
  assert_int_equal(server_answer(&s, T0 + 101), GORGE_OK);
  assert_int_equal(a.calls, 0);
  server_hear(&s);
  char number[64];
  snprintf(number, sizeof number, "|$5|10000|$16|%llu|", (unsigned long long)VERSION);
  expect_text(&s, number);
  wire_addf(&s.out, "*4\r\n:4\r\n:777\r\n$8\r\naaaaaaaa\r\n$8\r\ncccccccc\r\n");
  answered(&s, &a, GORGE_LEASE);
  server_stop(&s);
}

static void test_lease_hit_damaged_asks_again(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LEASE);
  send_ok(&s, &a);
  wire_addf(&s.out, "*4\r\n:2\r\n:%llu\r\n:60000\r\n", (unsigned long long)VERSION);
  add_envelope(&s.out, VERSION, 0, "x");
  s.out.ptr[s.out.len - 3] ^= 1;
  assert_int_equal(server_answer(&s, T0 + 101), GORGE_OK);
  assert_int_equal(a.calls, 0);
  server_hear(&s);
  expect_text(&s, "EVALSHA");
  wire_addf(&s.out, "*2\r\n:4\r\n:777\r\n");
  answered(&s, &a, GORGE_LEASE);
  server_stop(&s);
}

static void test_lease_does_not_ask_for_ever(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LEASE);
  with_tags(&a, 2);
  send_ok(&s, &a);
  int rounds = 0;
  while (a.calls == 0 && rounds < 100) {
    rounds++;
    lease_hit(&s, VERSION + (uint64_t)rounds, TAG_A "$-1\r\n");
    assert_int_equal(server_answer(&s, T0 + 101), GORGE_OK);
    server_hear(&s);
    if (rounds == 4) {
      expect_text(&s, "|$16|9007199254740991|"); /* whatever the value: now the lease */
    }
  }
  assert_in_range(rounds, 2, 10);
  assert_int_equal(a.result.status, GORGE_ERR_PROTOCOL);
  server_stop(&s);
}

/* ---- writes ---- */

static void test_fill(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  char sha[41], expected[512];
  server_start(&s, true, true);
  ask(&a, GORGE_L2_FILL);
  with_tags(&a, 2);
  assert_int_equal(gorge_l2_send(s.l2, &a.rq, T0 + 100), GORGE_OK);
  sha_of(GORGE_SCRIPT_FILL, sha);
  /* raw: ttl and checksum hold any bytes */
  const char *ptr;
  size_t len;
  gorge_conn_output(s.conn, &ptr, &len);
  snprintf(expected, sizeof expected,
           "*21\r\n$7\r\nEVALSHA\r\n$40\r\n%s\r\n$1\r\n6\r\n$14\r\n{2:ns:0}:7:v:k\r\n$14\r\n{2:ns:0}:7:l:k\r\n"
           "$10\r\n{2:ns:0}:c\r\n$14\r\n{2:ns:0}:7:t:a\r\n$14\r\n{2:ns:0}:7:t:b\r\n"
           "$10\r\n{2:ns:0}:e\r\n$8\r\ntoken-01\r\n$4\r\nG\1\2\1\r\n$20\r\n",
           sha);
  static const char rest[] =
      "\1a\1b\r\n$1\r\nv\r\n$5\r\n60000\r\n$7\r\n3660000\r\n$16\r\naaaaaaaabbbbbbbb\r\n$10\r\ngorge:2:ns\r\n$"
      "1\r\nk\r\n$0\r\n\r\n$0\r\n\r\n$1\r\n7\r\n";
  assert_memory_equal(ptr, expected, strlen(expected));
  assert_int_equal(len, strlen(expected) + 16 + sizeof rest - 1);
  assert_memory_equal(ptr + strlen(expected) + 16, rest, sizeof rest - 1);
  gorge_conn_sent(s.conn, len);
  wire_addf(&s.out, ":1800000000000001\r\n");
  answered(&s, &a, GORGE_STORED);
  assert_true(a.result.version == 1800000000000001);
  ask(&a, GORGE_L2_FILL);
  send_ok(&s, &a);
  wire_addf(&s.out, ":0\r\n");
  answered(&s, &a, GORGE_REFUSED);
  server_stop(&s);
}

static void test_fill_with_tags_that_were_not_known_before(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_FILL);
  with_tags(&a, 2);
  a.rq.tag_nonces = NULL;
  a.rq.since = 4711;
  assert_int_equal(gorge_l2_send(s.l2, &a.rq, T0 + 100), GORGE_OK);
  const char *ptr;
  size_t len;
  gorge_conn_output(s.conn, &ptr, &len);
  static const char tail[] = "$10\r\ngorge:2:ns\r\n$1\r\nk\r\n$4\r\n4711\r\n$0\r\n\r\n$1\r\n7\r\n";
  assert_memory_equal(ptr + len - (sizeof tail - 1), tail, sizeof tail - 1);
  gorge_conn_sent(s.conn, len);
  wire_addf(&s.out, ":0\r\n");
  answered(&s, &a, GORGE_REFUSED);
  server_stop(&s);
}

/* ---- JOURNAL ---- */

static void add_entry(struct wire_text *t, uint64_t version, const char *key) {
  char id[32], message[64] = {1, GORGE_MESSAGE_KEY};
  snprintf(id, sizeof id, "%llu-0", (unsigned long long)version);
  put64(message + 2, version);
  strcpy(message + 10, key);
  wire_addf(t, "*2\r\n");
  wire_bulk(t, id, strlen(id));
  wire_addf(t, "*2\r\n$1\r\nm\r\n");
  wire_bulk(t, message, key[0] == '\0' ? 0 : 10 + strlen(key));
}

static void test_journal(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  char sha[41], expected[256];
  server_start(&s, true, true);
  ask(&a, GORGE_L2_JOURNAL);
  a.rq.since = 100;
  send_ok(&s, &a);
  sha_of(GORGE_SCRIPT_JOURNAL, sha);
  snprintf(expected, sizeof expected,
           "*9|$7|EVALSHA|$40|%s|$1|3|$10|{2:ns:0}:c|$10|{2:ns:0}:j|$10|{2:ns:0}:e|$3|100|$3|500|$1|7|", sha);
  assert_string_equal(s.asks.ptr, expected);
  wire_addf(&s.out, "*4\r\n:1\r\n");
  add_entry(&s.out, 100, "");
  add_entry(&s.out, 101, "x");
  add_entry(&s.out, 105, "y");
  answered(&s, &a, GORGE_OK);
  assert_string_equal(a.entries, "1:x@101 1:y@105 ");
  assert_int_equal(a.result.version, 105);
  /* a gap: the cursor to go on from */
  ask(&a, GORGE_L2_JOURNAL);
  a.rq.since = 100;
  send_ok(&s, &a);
  wire_addf(&s.out, "*2\r\n:0\r\n:9000\r\n");
  answered(&s, &a, GORGE_MISS);
  assert_int_equal(a.result.version, 9000);
  assert_string_equal(a.entries, "");
  server_stop(&s);
}

static void count_entry(struct gorge_l2_request *rq, const struct gorge_message *m, uint64_t now_ms) {
  (void)m;
  (void)now_ms;
  (*(int *)rq->ctx)++;
}

/* A page of n entries, of versions from `from` on, each `step` above the one before. One of 500 says that there may be more. */
static void add_page(struct server *s, uint64_t n, uint64_t from, uint64_t step) {
  wire_addf(&s->out, "*%d\r\n:1\r\n", (int)n + 1);
  for (uint64_t i = 0; i < n; i++) {
    add_entry(&s->out, from + i * step, "k");
  }
}

static void ask_long_journal(struct server *s, struct asked *a, int *entries) {
  server_start(s, true, true);
  ask(a, GORGE_L2_JOURNAL);
  a->rq.since = 1000;
  a->rq.ctx = entries;
  a->rq.message = count_entry;
  send_ok(s, a);
}

static void test_a_long_journal_comes_in_pages(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  int entries = 0;
  ask_long_journal(&s, &a, &entries);
  for (uint64_t from = 1000; from < 2300; from += 499) {
    uint64_t n = from == 1998 ? 100 : 500;
    add_page(&s, n, from, 1);
    assert_int_equal(server_answer(&s, T0 + 101), GORGE_OK);
    if (n == 500) {
      char next[64];
      server_hear(&s);
      snprintf(next, sizeof next, "|$4|%d|$3|500|", (int)from + 499);
      assert_int_equal(a.calls, 0);
      expect_text(&s, next);
    } else {
      break;
    }
  }
  assert_int_equal(a.result.status, GORGE_OK);
  assert_int_equal(a.result.version, 2097);
  assert_int_equal(entries, 1100); /* the first of a page is the last of the one before */
  assert_int_equal(a.rq.since, 1000);
  server_stop(&s);
}

/* However long the journal, and however far away Redis: else a host that is far behind would never catch up. */
static void test_each_page_of_a_journal_has_its_own_time(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  int entries = 0;
  uint64_t now_ms = T0 + 100;
  ask_long_journal(&s, &a, &entries);
  for (uint64_t page = 0; page < 4; page++) {
    now_ms += 400; /* of 500 */
    assert_false(gorge_conn_tick(s.conn, now_ms));
    assert_int_equal(a.calls, 0);
    add_page(&s, 500, 1000 + page * 499, 1);
    assert_int_equal(server_answer(&s, now_ms), GORGE_OK);
    server_hear(&s);
    expect_text(&s, "EVALSHA");
  }
  (void)gorge_conn_tick(s.conn, now_ms + 500); /* one that does not come is not waited for longer than that */
  assert_int_equal(a.calls, 1);
  assert_int_equal(a.result.status, GORGE_ERR_TIMEOUT);
  server_stop(&s);
}

static void test_a_page_that_does_not_end_is_not_read_again(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  int entries = 0;
  ask_long_journal(&s, &a, &entries);
  add_page(&s, 500, 1000, 0);
  answered(&s, &a, GORGE_ERR_PROTOCOL);
  server_stop(&s);
}

static void test_journals_of_the_wrong_shape(void **state) {
  (void)state;
  static const char *const shapes[] = {
      ":1\r\n",
      "*0\r\n",
      "*1\r\n:0\r\n",
      "*2\r\n:0\r\n:0\r\n",
      "*2\r\n:0\r\n:-1\r\n",
      "*2\r\n:0\r\n$1\r\n5\r\n",
      "*2\r\n:1\r\n:1\r\n",
      "*2\r\n:1\r\n*0\r\n",
      "*2\r\n:1\r\n*2\r\n:1\r\n*0\r\n",
      "*2\r\n:1\r\n*2\r\n$3\r\n5-0\r\n*0\r\n",
      "*2\r\n:1\r\n*2\r\n$3\r\n5-0\r\n*2\r\n$1\r\nm\r\n:1\r\n",
      "*2\r\n:1\r\n*2\r\n$3\r\nx-0\r\n*2\r\n$1\r\nm\r\n$0\r\n\r\n",
      "*2\r\n:1\r\n*2\r\n$23\r\n99999999999999999999999\r\n*2\r\n$1\r\nm\r\n$0\r\n\r\n",
      "*2\r\n:1\r\n*2\r\n$-1\r\n*2\r\n$1\r\nm\r\n$0\r\n\r\n"};
  struct server s;
  server_start(&s, true, true);
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    struct asked a;
    ask(&a, GORGE_L2_JOURNAL);
    a.rq.since = 5;
    send_ok(&s, &a);
    wire_addf(&s.out, "%s", shapes[i]);
    answered(&s, &a, GORGE_ERR_PROTOCOL);
  }
  server_stop(&s);
}

/* A version above all that scripts give is none: no message could take the value away again. */
static void test_numbers_of_the_other_scripts(void **state) {
  (void)state;
  static const struct {
    enum gorge_l2_verb verb;
    enum gorge_script script;
    const char *answer;
    int status;
    uint64_t version;
  } cases[] = {
      {GORGE_L2_SET, GORGE_SCRIPT_SET, ":55", GORGE_STORED, 55},
      {GORGE_L2_SET, GORGE_SCRIPT_SET, ":0", GORGE_ERR_PROTOCOL, 0},
      {GORGE_L2_DELETE, GORGE_SCRIPT_DELETE, ":56", GORGE_OK, 56},
      {GORGE_L2_DELETE, GORGE_SCRIPT_DELETE, ":0", GORGE_ERR_PROTOCOL, 0},
      {GORGE_L2_INVALIDATE_TAGS, GORGE_SCRIPT_INVALIDATE, ":57", GORGE_OK, 57},
      {GORGE_L2_RELEASE, GORGE_SCRIPT_RELEASE, ":1", GORGE_OK, 0},
      {GORGE_L2_RELEASE, GORGE_SCRIPT_RELEASE, ":0", GORGE_REFUSED, 0},
      {GORGE_L2_RENEW, GORGE_SCRIPT_RENEW, ":1", GORGE_OK, 0},
      {GORGE_L2_RENEW, GORGE_SCRIPT_RENEW, ":0", GORGE_REFUSED, 0},
      {GORGE_L2_FILL, GORGE_SCRIPT_FILL, ":-1", GORGE_ERR_PROTOCOL, 0},
      {GORGE_L2_FILL, GORGE_SCRIPT_FILL, ":9007199254740991", GORGE_STORED, GORGE_VERSION_MAX},
      {GORGE_L2_FILL, GORGE_SCRIPT_FILL, ":9007199254740992", GORGE_ERR_PROTOCOL, 0},
      {GORGE_L2_DELETE, GORGE_SCRIPT_DELETE, ":9223372036854775807", GORGE_ERR_PROTOCOL, 0},
  };
  struct server s;
  server_start(&s, true, true);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct asked a;
    char sha[41];
    ask(&a, cases[i].verb);
    with_tags(&a, cases[i].verb == GORGE_L2_INVALIDATE_TAGS ? 2 : 0);
    send_ok(&s, &a);
    sha_of(cases[i].script, sha);
    expect_text(&s, sha);
    wire_addf(&s.out, "%s\r\n", cases[i].answer);
    answered(&s, &a, cases[i].status);
    assert_true(a.result.version == cases[i].version);
  }
  server_stop(&s);
}

static const enum gorge_l2_verb every_verb[] = {GORGE_L2_LOOKUP,  GORGE_L2_LEASE,           GORGE_L2_FILL,
                                                GORGE_L2_RELEASE, GORGE_L2_RENEW,           GORGE_L2_SET,
                                                GORGE_L2_DELETE,  GORGE_L2_INVALIDATE_TAGS, GORGE_L2_JOURNAL};
enum { VERBS = sizeof every_verb / sizeof *every_verb };

static void test_noscript_is_answered_by_eval(void **state) {
  (void)state;
  struct server s;
  server_start(&s, true, true);
  for (size_t v = 1; v < VERBS; v++) {
    struct asked a;
    ask(&a, every_verb[v]);
    with_tags(&a, every_verb[v] == GORGE_L2_INVALIDATE_TAGS ? 2 : 0);
    send_ok(&s, &a);
    expect_text(&s, "EVALSHA");
    wire_addf(&s.out, "-NOSCRIPT No matching script. Please use EVAL.\r\n");
    assert_int_equal(server_answer(&s, T0 + 100), GORGE_OK);
    assert_int_equal(a.calls, 0);
    server_hear(&s);
    expect_text(&s, "|$4|EVAL|");
    expect_text(&s, "redis.call");
    /* and once is enough */
    wire_addf(&s.out, "-NOSCRIPT again\r\n");
    answered(&s, &a, GORGE_ERR_REDIS);
    assert_string_equal(a.error, "NOSCRIPT again");
  }
  server_stop(&s);
}

static void test_without_script_load_everything_goes_by_eval(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, false);
  ask(&a, GORGE_L2_DELETE);
  send_ok(&s, &a);
  expect_text(&s, "*12|$4|EVAL|");
  wire_addf(&s.out, ":9\r\n");
  answered(&s, &a, GORGE_OK);
  server_stop(&s);
}

static void test_requests_before_the_first_connection(void **state) {
  (void)state;
  struct gorge_l2 *l2 = l2_create();
  struct asked get, del;
  ask(&get, GORGE_L2_LOOKUP);
  ask(&del, GORGE_L2_DELETE);
  assert_int_equal(gorge_l2_send(l2, &get.rq, T0), GORGE_OK);
  assert_int_equal(gorge_l2_send(l2, &del.rq, T0), GORGE_OK);
  wire_ready(gorge_l2_conn(l2), T0);
  const char *text = wire_take(gorge_l2_conn(l2));
  const char *time = strstr(text, "|TIME|"), *ask_value = strstr(text, "|GET|"), *eval = strstr(text, "|EVAL|");
  assert_true(time != NULL && ask_value > time && eval > ask_value);
  gorge_l2_destroy(l2);
  assert_int_equal(get.result.status, GORGE_ERR_CLOSED);
  assert_int_equal(del.result.status, GORGE_ERR_CLOSED);
}

/* ---- failures ---- */

static void test_errors_of_redis_are_told_in_its_words(void **state) {
  (void)state;
  static const char *const errors[] = {"OOM command not allowed when used memory > 'maxmemory'.",
                                       "READONLY You can't write against a read only replica.",
                                       "LOADING Redis is loading the dataset in memory",
                                       "MASTERDOWN Link with MASTER is down",
                                       "WRONGTYPE Operation against a key",
                                       "BUSY Redis is busy running a script."};
  struct server s;
  server_start(&s, true, true);
  for (size_t v = 0; v < VERBS; v++) {
    for (size_t e = 0; e < sizeof errors / sizeof *errors; e++) {
      struct asked a;
      ask(&a, every_verb[v]);
      with_tags(&a, 2);
      send_ok(&s, &a);
      wire_addf(&s.out, "-%s\r\n", errors[e]);
      if (every_verb[v] == GORGE_L2_LOOKUP) {
        wire_addf(&s.out, "-%s\r\n", errors[e]);
      }
      answered(&s, &a, GORGE_ERR_REDIS);
      assert_string_equal(a.error, errors[e]);
    }
  }
  /* cut to 200 bytes, nothing but printable ones */
  struct asked a;
  ask(&a, GORGE_L2_DELETE);
  send_ok(&s, &a);
  char longer[400];
  memset(longer, 'e', sizeof longer);
  longer[3] = '\033';
  wire_addf(&s.out, "-%.*s\r\n", (int)sizeof longer, longer);
  answered(&s, &a, GORGE_ERR_REDIS);
  assert_int_equal(strlen(a.error), 200);
  assert_int_equal(a.error[3], '?');
  server_stop(&s);
}

static void test_a_lookup_whose_nonces_fail(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  static const char *const answers[] = {"-OOM no\r\n", "$-1\r\n", ":1\r\n"};
  for (int i = 0; i < 3; i++) {
    ask(&a, GORGE_L2_LOOKUP);
    with_tags(&a, 2);
    send_ok(&s, &a);
    add_envelope(&s.out, VERSION, 2, "tagged");
    wire_addf(&s.out, "%s", answers[i]);
    answered(&s, &a, i == 0 ? GORGE_ERR_REDIS : GORGE_ERR_PROTOCOL);
  }
  server_stop(&s);
}

static void test_answers_of_the_wrong_shape(void **state) {
  (void)state;
  static const char *const shapes[] = {":1\r\n",
                                       "+OK\r\n",
                                       "$2\r\nhi\r\n",
                                       "$-1\r\n",
                                       "*0\r\n",
                                       "*-1\r\n",
                                       "*1\r\n:2\r\n",
                                       "*1\r\n:3\r\n",
                                       "*1\r\n:4\r\n",
                                       "*1\r\n:9\r\n",
                                       "*1\r\n$1\r\n4\r\n",
                                       "*2\r\n:3\r\n:-5\r\n",
                                       "*2\r\n:3\r\n$1\r\n5\r\n",
                                       "*3\r\n:4\r\n$8\r\naaaaaaaa\r\n$3\r\nbbb\r\n",
                                       "*3\r\n:4\r\n:1\r\n:2\r\n",
                                       "*4\r\n:4\r\n:9007199254740992\r\n$8\r\naaaaaaaa\r\n$8\r\nbbbbbbbb\r\n",
                                       "*4\r\n:2\r\n:1\r\n:1\r\n$-1\r\n",
                                       "*6\r\n:2\r\n:1\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
                                       "*6\r\n:2\r\n:-1\r\n:1\r\n$1\r\nx\r\n$-1\r\n$-1\r\n",
                                       "*6\r\n$1\r\n2\r\n:1\r\n:1\r\n$1\r\nx\r\n$-1\r\n$-1\r\n"};
  struct server s;
  server_start(&s, true, true);
  for (size_t v = 0; v < VERBS; v++) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
      struct asked a;
      ask(&a, every_verb[v]);
      with_tags(&a, 2);
      send_ok(&s, &a);
      wire_addf(&s.out, "%s", shapes[i]);
      if (every_verb[v] == GORGE_L2_LOOKUP) {
        wire_addf(&s.out, "%s", shapes[i]);
      }
      assert_int_equal(server_answer(&s, T0 + 110), GORGE_OK);
      assert_int_equal(a.calls, 1);
      if (every_verb[v] == GORGE_L2_LEASE) {
        assert_int_equal(a.result.status, GORGE_ERR_PROTOCOL);
      } else {
        assert_int_not_equal(a.result.status, GORGE_HIT);
      }
      assert_int_equal(gorge_conn_pending(s.conn), 0);
    }
  }
  server_stop(&s);
}

static void test_timeouts_and_loss(void **state) {
  (void)state;
  for (size_t v = 0; v < VERBS; v++) {
    for (int lost = 0; lost < 2; lost++) {
      struct server s;
      struct asked a;
      server_start(&s, true, true);
      ask(&a, every_verb[v]);
      with_tags(&a, 2);
      send_ok(&s, &a);
      if (lost) {
        gorge_conn_closed(s.conn, T0 + 150, "reset");
      } else {
        assert_false(gorge_conn_tick(s.conn, T0 + 599));
        assert_int_equal(a.calls, 0);
        assert_false(gorge_conn_tick(s.conn, T0 + 600));
      }
      assert_int_equal(a.calls, 1);
      assert_int_equal(a.result.status, lost ? GORGE_ERR_DOWN : GORGE_ERR_TIMEOUT);
      assert_null(a.result.error);
      server_stop(&s);
      assert_int_equal(a.calls, 1);
    }
  }
}

static void test_the_second_round_keeps_the_deadline(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  ask(&a, GORGE_L2_LOOKUP);
  a.rq.deadline_ms = T0 + 300;
  send_ok(&s, &a);
  add_envelope(&s.out, VERSION, 2, "tagged");
  assert_int_equal(server_answer(&s, T0 + 250), GORGE_OK);
  assert_false(gorge_conn_tick(s.conn, T0 + 299));
  assert_int_equal(a.calls, 0);
  assert_false(gorge_conn_tick(s.conn, T0 + 300));
  assert_int_equal(a.result.status, GORGE_ERR_TIMEOUT);
  server_stop(&s);
}

static void test_what_is_refused_at_once(void **state) {
  (void)state;
  struct server s;
  server_start(&s, true, true);
  char key[GORGE_KEY_MAX + 1];
  memset(key, 'k', sizeof key);
  static const struct gorge_l2_tag empty = {"", 0};
  for (size_t v = 0; v < VERBS; v++) {
    enum gorge_l2_verb verb = every_verb[v];
    bool keyless = verb == GORGE_L2_INVALIDATE_TAGS || verb == GORGE_L2_JOURNAL,
         stores = verb == GORGE_L2_FILL || verb == GORGE_L2_SET;
    struct asked a[10];
    for (int i = 0; i < 10; i++) {
      ask(&a[i], verb);
      with_tags(&a[i], 2);
      a[i].rq.key = key;
    }
    a[0].rq.key_len = 0;
    a[0].rq.ntags = 0;
    a[1].rq.ntags = GORGE_TAGS_MAX + 1;
    a[2].rq.ntags = 1;
    a[2].rq.tags = &empty;
    a[3].rq.key_len = GORGE_KEY_MAX + 1;
    a[4].rq.token = 0;
    a[5].rq.lease_ms = 0;
    a[6].rq.ttl_ms = 0;
    a[7].rq.kind = GORGE_KIND_BUFFER;
    a[8].rq.value_len = 1 << 20;
    a[9].rq.message = NULL;
    bool token = verb == GORGE_L2_LEASE || verb == GORGE_L2_FILL || verb == GORGE_L2_RELEASE || verb == GORGE_L2_RENEW;
    bool lease = verb == GORGE_L2_LEASE || verb == GORGE_L2_RENEW;
    const bool refused[10] = {verb != GORGE_L2_JOURNAL, true, true, !keyless, token, lease, stores, stores, stores,
                              verb == GORGE_L2_JOURNAL};
    for (int i = 0; i < 10; i++) {
      if (refused[i]) {
        assert_int_equal(gorge_l2_send(s.l2, &a[i].rq, T0 + 100), GORGE_ERR_ARGUMENT);
        gorge_l2_cancel(&a[i].rq); /* harmless */
        assert_int_equal(a[i].calls, 0);
      }
    }
  }
  assert_int_equal(gorge_conn_pending(s.conn), 0);
  server_stop(&s);
  assert_null(gorge_l2_create("not a name", 10, 1, &plain));
  gorge_l2_destroy(NULL);
}

static void test_a_full_queue_takes_all_of_a_lookup_or_nothing(void **state) {
  (void)state;
  struct server s;
  struct asked a[64], last;
  server_start(&s, true, true);
  for (int i = 0; i < 63; i++) {
    ask(&a[i], GORGE_L2_LOOKUP);
    assert_int_equal(gorge_l2_send(s.l2, &a[i].rq, T0), GORGE_OK);
  }
  ask(&last, GORGE_L2_LOOKUP);
  with_tags(&last, 2);
  assert_int_equal(gorge_l2_send(s.l2, &last.rq, T0), GORGE_ERR_FULL);
  for (int i = 0; i < 64; i++) {
    wire_addf(&s.out, "$-1\r\n");
  }
  assert_int_equal(server_answer(&s, T0), GORGE_OK);
  assert_int_equal(last.calls, 0);
  assert_int_equal(a[62].result.status, GORGE_MISS);
  /* down: refused at once */
  gorge_conn_closed(s.conn, T0, "x");
  assert_int_equal(gorge_l2_send(s.l2, &last.rq, T0), GORGE_ERR_DOWN);
  server_stop(&s);
}

/* ---- cancelling: the request's memory is gone at once ---- */

static void test_cancel_at_every_moment(void **state) {
  (void)state;
  /* the answers of a look-up in two rounds, of a lease that is asked for twice, and of a NOSCRIPT */
  for (int scenario = 0; scenario < 3; scenario++) {
    for (int moment = 0; moment < 4; moment++) {
      struct server s;
      server_start(&s, true, true);
      struct asked *a = malloc(sizeof *a), after;
      ask(a, scenario == 0 ? GORGE_L2_LOOKUP : GORGE_L2_LEASE);
      with_tags(a, 1);
      send_ok(&s, a);
      for (int step = 0; step < 4; step++) {
        if (step == moment) {
          gorge_l2_cancel(&a->rq);
          gorge_l2_cancel(&a->rq);
          assert_int_equal(a->calls, 0);
          free(a);
        }
        if (step == 0 && scenario == 0) {
          add_envelope(&s.out, VERSION, 2, "tagged");
        } else if (step == 1 && scenario == 0) {
          wire_addf(&s.out, "*1\r\n" TAG_A);
        } else if (step == 0 && scenario == 1) {
          wire_addf(&s.out, "*5\r\n:2\r\n:%llu\r\n:60000\r\n", (unsigned long long)VERSION);
          add_envelope(&s.out, VERSION, 2, "tagged");
          wire_addf(&s.out, TAG_A);
        } else if (step == 1 && scenario == 1 && moment > 1) {
          wire_addf(&s.out, "*1\r\n$-1\r\n"); /* dead: the lease again */
        } else if (step == 0 && scenario == 2) {
          wire_addf(&s.out, "-NOSCRIPT x\r\n");
        }
        if (s.out.len > 0) {
          assert_int_equal(server_answer(&s, T0 + 101), GORGE_OK);
        }
      }
      server_hear(&s);
      /* whatever is still due, the connection goes on */
      while (gorge_conn_pending(s.conn) > 0) {
        wire_addf(&s.out, "*0\r\n");
        assert_int_equal(server_answer(&s, T0 + 101), GORGE_OK);
      }
      ask(&after, GORGE_L2_LOOKUP);
      send_ok(&s, &after);
      add_envelope(&s.out, VERSION, 0, "after");
      answered(&s, &after, GORGE_HIT);
      server_stop(&s);
    }
  }
}

static struct asked *victim;

static void cancel_victim(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms) {
  on_done(rq, result, now_ms);
  gorge_l2_cancel(&victim->rq);
  gorge_l2_cancel(rq); /* itself: over already */
}

static void test_cancel_from_inside_done(void **state) {
  (void)state;
  struct server s;
  struct asked first, second;
  server_start(&s, true, true);
  ask(&first, GORGE_L2_LOOKUP);
  ask(&second, GORGE_L2_LOOKUP);
  with_tags(&second, 2);
  first.rq.done = cancel_victim;
  victim = &second;
  assert_int_equal(gorge_l2_send(s.l2, &first.rq, T0), GORGE_OK);
  assert_int_equal(gorge_l2_send(s.l2, &second.rq, T0), GORGE_OK);
  add_envelope(&s.out, VERSION, 0, "first");
  add_envelope(&s.out, VERSION, 2, "second");
  wire_addf(&s.out, "*2\r\n" TAG_A TAG_B);
  assert_int_equal(server_answer(&s, T0), GORGE_OK);
  assert_int_equal(first.result.status, GORGE_HIT);
  assert_int_equal(second.calls, 0);
  server_stop(&s);
}

static struct server *again_server;

static void send_again(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms) {
  on_done(rq, result, now_ms);
  rq->done = on_done;
  rq->verb = GORGE_L2_LEASE;
  rq->rejected_version = result->version;
  assert_int_equal(gorge_l2_send(again_server->l2, rq, now_ms), GORGE_OK);
}

static void test_the_same_request_again_from_inside_done(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  again_server = &s;
  ask(&a, GORGE_L2_LOOKUP);
  with_tags(&a, 2);
  a.rq.done = send_again;
  send_ok(&s, &a);
  add_envelope(&s.out, VERSION, 2, "tagged");
  wire_addf(&s.out, "*2\r\n" TAG_A "$-1\r\n");
  assert_int_equal(server_answer(&s, T0 + 100), GORGE_OK);
  assert_int_equal(a.result.status, GORGE_MISS);
  server_hear(&s);
  expect_text(&s, "EVALSHA");
  wire_addf(&s.out, "*4\r\n:4\r\n:777\r\n$8\r\naaaaaaaa\r\n$8\r\ncccccccc\r\n");
  assert_int_equal(server_answer(&s, T0 + 100), GORGE_OK);
  assert_int_equal(a.calls, 2);
  assert_int_equal(a.result.status, GORGE_LEASE);
  server_stop(&s);
}

/* ---- the server's clock ---- */

/* The ttl left that a value of 60 s, written 5 s before SERVER_T0, shows at `now`. */
static uint64_t remaining_at(struct server *s, uint64_t now_ms) {
  struct asked a;
  ask(&a, GORGE_L2_LOOKUP);
  assert_int_equal(gorge_l2_send(s->l2, &a.rq, now_ms), GORGE_OK);
  while (gorge_conn_pending(s->conn) > 1) { /* a TIME that went along is left unanswered by this server */
    gorge_conn_input(s->conn, "-ERR no\r\n", 9, now_ms);
  }
  add_envelope(&s->out, VERSION, 0, "x");
  server_answer(s, now_ms);
  assert_int_equal(a.result.status, GORGE_HIT);
  return a.result.remaining_ms;
}

static void test_a_slow_sample_of_the_clock_does_not_replace_a_good_one(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  assert_int_equal(remaining_at(&s, T0 + 1000), 54000);
  /* 30 s later TIME goes along, and its answer takes 400 ms */
  ask(&a, GORGE_L2_LOOKUP);
  assert_int_equal(gorge_l2_send(s.l2, &a.rq, T0 + 31000), GORGE_OK);
  server_hear(&s);
  expect_text(&s, "TIME");
  wire_addf(&s.out, "*2\r\n$10\r\n%llu\r\n$6\r\n400000\r\n$-1\r\n", (unsigned long long)(SERVER_T0 / 1000 + 31));
  assert_int_equal(server_answer(&s, T0 + 31400), GORGE_OK);
  assert_int_equal(remaining_at(&s, T0 + 31500), 55000 - 31500);
  server_stop(&s);
}

/* Another server takes the place of this one, and hears the first commands at the time that is returned. */
static uint64_t fail_over(struct server *s) {
  gorge_conn_closed(s->conn, T0 + 5000, "failover");
  uint64_t now = gorge_conn_next_ms(s->conn);
  wire_ready(s->conn, now);
  server_hear(s);
  return now;
}

/* What that one answers to them: its clock is 20 s ahead of the other's, and it takes no script. */
static void answer_20_s_ahead(struct server *s) {
  wire_addf(&s->out, "*2\r\n$10\r\n%llu\r\n$1\r\n0\r\n", (unsigned long long)(SERVER_T0 / 1000 + 20));
  wire_addf(&s->out, EPOCH);
  for (int i = 0; i < GORGE_SCRIPTS; i++) {
    wire_addf(&s->out, "-NOPERM no\r\n");
  }
}

static void test_a_slow_first_sample_of_the_clock_is_soon_followed_by_another_one(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  uint64_t now = fail_over(&s);
  answer_20_s_ahead(&s);
  assert_int_equal(server_answer(&s, now + 400), GORGE_OK);
  assert_int_equal(remaining_at(&s, now + 500), 55000 - 20500); /* it may have been 20 s when it was asked for */
  ask(&a, GORGE_L2_LOOKUP);
  assert_int_equal(gorge_l2_send(s.l2, &a.rq, now + 1400), GORGE_OK);
  server_hear(&s);
  expect_text(&s, "TIME");
  wire_addf(&s.out, "*2\r\n$10\r\n%llu\r\n$1\r\n0\r\n$-1\r\n", (unsigned long long)(SERVER_T0 / 1000 + 21));
  assert_int_equal(server_answer(&s, now + 1400), GORGE_OK);
  assert_int_equal(remaining_at(&s, now + 1500), 55000 - 21100);
  server_stop(&s);
}

/* What ends when a clock that lies behind by less than LAG says `ends` has ended by then: no later than in Redis, however far behind it was before. */
static void test_no_value_outlives_its_ttl_where_the_clock_lies_behind(void **state) {
  (void)state;
  enum { LAG = 5, LEFT = 3000 };
  struct server s;
  for (uint64_t learnt = 0; learnt < LAG; learnt++) {
    for (uint64_t used = 0; used < LAG; used++) {
      server_start_at(&s, true, true, LAG, T0 - learnt);
      uint64_t now_ms = T0 + 1000 - used, ends = now_ms + remaining_at(&s, now_ms);
      assert_int_equal(ends, T0 + 55000 - LAG - learnt);
      server_stop(&s);
      /* a server that does not tell its time: by PTTL, of the moment when the script was sent at the earliest */
      struct asked a;
      server_start_at(&s, false, true, LAG, T0 - learnt);
      ask(&a, GORGE_L2_LEASE);
      assert_int_equal(gorge_l2_send(s.l2, &a.rq, T0 + 100 - learnt), GORGE_OK);
      wire_addf(&s.out, "*4\r\n:2\r\n:%llu\r\n:%d\r\n", (unsigned long long)VERSION, LEFT);
      add_envelope(&s.out, VERSION, 0, "x");
      assert_int_equal(server_answer(&s, now_ms), GORGE_OK);
      assert_int_equal(a.result.status, GORGE_HIT);
      ends = now_ms + a.result.remaining_ms;
      assert_int_equal(ends, T0 + 100 + LEFT - LAG - learnt);
      server_stop(&s);
    }
  }
}

static void test_another_server_has_another_clock(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  uint64_t now = fail_over(&s);
  ask(&a, GORGE_L2_LOOKUP);
  assert_int_equal(gorge_l2_send(s.l2, &a.rq, now), GORGE_OK);
  answer_20_s_ahead(&s);
  add_envelope(&s.out, VERSION, 0, "x");
  assert_int_equal(server_answer(&s, now), GORGE_OK);
  assert_int_equal(a.result.status, GORGE_HIT);
  assert_int_equal(a.result.remaining_ms, 60000 - 25000);
  server_stop(&s);
}

static void test_the_clock_of_a_lost_server_is_forgotten(void **state) {
  (void)state;
  struct server s;
  struct asked a;
  server_start(&s, true, true);
  uint64_t now = fail_over(&s);
  ask(&a, GORGE_L2_LOOKUP);
  assert_int_equal(gorge_l2_send(s.l2, &a.rq, now), GORGE_OK);
  for (int i = 0; i < 2 + GORGE_SCRIPTS; i++) { /* the next one does not tell its time */
    wire_addf(&s.out, "-NOPERM no\r\n");
  }
  add_envelope(&s.out, VERSION, 0, "x");
  assert_int_equal(server_answer(&s, now), GORGE_OK);
  assert_int_equal(a.result.status, GORGE_MISS);
  assert_int_equal(a.result.version, 0);
  server_stop(&s);
}

static void test_odd_answers_to_time(void **state) {
  (void)state;
  static const char *const odd[] = {"*2\r\n$3\r\nabc\r\n$1\r\n0\r\n",
                                    "*1\r\n$1\r\n1\r\n",
                                    ":5\r\n",
                                    "$-1\r\n",
                                    "*2\r\n$20\r\n99999999999999999999\r\n$1\r\n0\r\n",
                                    "*2\r\n$16\r\n9223372036854776\r\n$1\r\n0\r\n",
                                    "*2\r\n$0\r\n\r\n$1\r\n0\r\n",
                                    "*2\r\n$1\r\n1\r\n$7\r\n1000000\r\n",
                                    "*2\r\n:1\r\n:1\r\n"};
  for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
    struct gorge_l2 *l2 = l2_create();
    struct gorge_conn *c = gorge_l2_conn(l2);
    struct asked a;
    wire_ready(c, T0);
    ask(&a, GORGE_L2_LOOKUP);
    assert_int_equal(gorge_l2_send(l2, &a.rq, T0), GORGE_OK);
    struct wire_text t = {0};
    wire_addf(&t, "%s" EPOCH, odd[i]);
    for (int n = 0; n < GORGE_SCRIPTS; n++) {
      wire_addf(&t, "+OK\r\n");
    }
    add_envelope(&t, VERSION, 0, "x");
    assert_int_equal(gorge_conn_input(c, t.ptr, t.len, T0), GORGE_OK);
    assert_int_equal(a.result.status, GORGE_MISS);
    assert_int_equal(a.result.version, 0);
    wire_free(&t);
    gorge_l2_destroy(l2);
  }
}

/* ---- hostile servers ---- */

static void add_random_reply(struct wire_text *t, uint64_t *seed, int depth) {
  switch (wire_random(seed) % (depth > 0 ? 10 : 8)) {
    case 0: wire_addf(t, ":%lld\r\n", (long long)(wire_random(seed) % 6)); break;
    case 1: wire_addf(t, ":%llu\r\n", (unsigned long long)VERSION); break;
    case 2: wire_addf(t, "$-1\r\n"); break;
    case 3: wire_addf(t, wire_random(seed) % 2 == 0 ? TAG_A : "$8\r\naaaaaaaa\r\n"); break;
    case 4: add_envelope(t, VERSION + wire_random(seed) % 3, (uint32_t)(wire_random(seed) % 3), "x"); break;
    case 5: {
      size_t at = t->len + 6;
      add_envelope(t, VERSION, 2, "damaged");
      t->ptr[at + wire_random(seed) % 60] ^= (char)(1 << wire_random(seed) % 8);
      break;
    }
    case 6: wire_addf(t, wire_random(seed) % 2 == 0 ? "-NOSCRIPT x\r\n" : "-ERR x\r\n"); break;
    case 7: wire_addf(t, "+OK\r\n"); break;
    default: {
      int n = (int)(wire_random(seed) % 7);
      wire_addf(t, "*%d\r\n", n);
      for (int i = 0; i < n; i++) {
        if (i == 0 && wire_random(seed) % 2 == 0) {
          wire_addf(t, ":%d\r\n", 2 + (int)(wire_random(seed) % 3));
        } else {
          add_random_reply(t, seed, depth - 1);
        }
      }
    }
  }
}

static void test_random_replies_end_every_request_once(void **state) {
  (void)state;
  for (uint64_t round = 1; round <= 1500; round++) {
    uint64_t seed = round * 104729;
    struct server s;
    struct asked a[8];
    bool cancelled[8] = {false};
    server_start(&s, true, true);
    for (int i = 0; i < 8; i++) {
      ask(&a[i], every_verb[wire_random(&seed) % VERBS]);
      with_tags(&a[i], 1 + (uint32_t)(wire_random(&seed) % 2));
      assert_int_equal(gorge_l2_send(s.l2, &a[i].rq, T0), GORGE_OK);
    }
    int status = GORGE_OK;
    for (int step = 0; step < 100 && status == GORGE_OK && gorge_conn_pending(s.conn) > 0; step++) {
      add_random_reply(&s.out, &seed, 2);
      status = server_answer(&s, T0 + (uint64_t)step);
      if (wire_random(&seed) % 8 == 0) {
        int i = (int)(wire_random(&seed) % 8);
        cancelled[i] = cancelled[i] || a[i].calls == 0;
        gorge_l2_cancel(&a[i].rq);
      }
    }
    if (wire_random(&seed) % 2 == 0) {
      gorge_conn_closed(s.conn, T0 + 200, "x");
    }
    server_stop(&s);
    for (int i = 0; i < 8; i++) {
      assert_int_equal(a[i].calls, cancelled[i] ? 0 : 1);
    }
  }
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_lookup_hit_is_one_get),
      cmocka_unit_test(test_lookup_misses),
      cmocka_unit_test(test_lookup_of_what_has_expired_by_the_servers_clock),
      cmocka_unit_test(test_lookup_without_the_servers_clock_leaves_it_to_lease),
      cmocka_unit_test(test_lookup_with_tags_checks_them_in_one_round),
      cmocka_unit_test(test_lookup_of_unexpected_tags_takes_a_second_round),
      cmocka_unit_test(test_a_second_round_that_comes_back_short),
      cmocka_unit_test(test_lookup_with_a_tag_the_value_lacks),
      cmocka_unit_test(test_lease_granted),
      cmocka_unit_test(test_fresh_nonces_are_random),
      cmocka_unit_test(test_lease_busy),
      cmocka_unit_test(test_lease_hit_does_not_outlive_its_way_here),
      cmocka_unit_test(test_lease_hit_with_live_tags),
      cmocka_unit_test(test_lease_hit_with_dead_tags_asks_again),
      cmocka_unit_test(test_lease_hit_damaged_asks_again),
      cmocka_unit_test(test_lease_does_not_ask_for_ever),
      cmocka_unit_test(test_fill),
      cmocka_unit_test(test_fill_with_tags_that_were_not_known_before),
      cmocka_unit_test(test_journal),
      cmocka_unit_test(test_a_long_journal_comes_in_pages),
      cmocka_unit_test(test_each_page_of_a_journal_has_its_own_time),
      cmocka_unit_test(test_a_page_that_does_not_end_is_not_read_again),
      cmocka_unit_test(test_journals_of_the_wrong_shape),
      cmocka_unit_test(test_numbers_of_the_other_scripts),
      cmocka_unit_test(test_noscript_is_answered_by_eval),
      cmocka_unit_test(test_without_script_load_everything_goes_by_eval),
      cmocka_unit_test(test_requests_before_the_first_connection),
      cmocka_unit_test(test_errors_of_redis_are_told_in_its_words),
      cmocka_unit_test(test_a_lookup_whose_nonces_fail),
      cmocka_unit_test(test_answers_of_the_wrong_shape),
      cmocka_unit_test(test_timeouts_and_loss),
      cmocka_unit_test(test_the_second_round_keeps_the_deadline),
      cmocka_unit_test(test_what_is_refused_at_once),
      cmocka_unit_test(test_a_full_queue_takes_all_of_a_lookup_or_nothing),
      cmocka_unit_test(test_cancel_at_every_moment),
      cmocka_unit_test(test_cancel_from_inside_done),
      cmocka_unit_test(test_the_same_request_again_from_inside_done),
      cmocka_unit_test(test_a_slow_sample_of_the_clock_does_not_replace_a_good_one),
      cmocka_unit_test(test_a_slow_first_sample_of_the_clock_is_soon_followed_by_another_one),
      cmocka_unit_test(test_no_value_outlives_its_ttl_where_the_clock_lies_behind),
      cmocka_unit_test(test_another_server_has_another_clock),
      cmocka_unit_test(test_the_clock_of_a_lost_server_is_forgotten),
      cmocka_unit_test(test_odd_answers_to_time),
      cmocka_unit_test(test_random_replies_end_every_request_once),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
