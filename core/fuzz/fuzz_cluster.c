/* SPDX-License-Identifier: MIT */
/*
 * io/l2.h in a Redis Cluster whose nodes answer whatever the input says: maps, redirections to anywhere, nothing. Each request ends once,
 * the nodes stay within their bound, nothing is left over.
 */
#include <stdio.h>
#include <stdlib.h>

#include "fuzz/fuzz.h"
#include "gorge.h"
#include "io/l2.h"
#include "proto/names.h"

enum { REQUESTS = 8, STEPS_MAX = 256 };

struct asked {
  struct gorge_l2_request rq; /* first: done finds the rest */
  bool running;
  char key[2];
};

struct scene {
  struct gorge_l2 *l2;
  struct gorge_names names;
  struct asked asked[REQUESTS];
  uint64_t now_ms;
  uint32_t node; /* that the next steps are about */
};

static const struct gorge_conn_config config = {
    .connect_timeout_ms = 1000, .timeout_ms = 500, .max_pending = 16, .max_reply_bytes = 1 << 14, .seed = 1};
static const struct gorge_l2_tag tags[] = {{"a", 1}, {"b", 1}};

static void on_done(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms) {
  (void)now_ms;
  struct asked *a = (struct asked *)rq;
  FUZZ_CHECK(a->running);
  a->running = false;
  FUZZ_CHECK(!result->moving || result->status == GORGE_ERR_REDIS);
  if (result->error != NULL) {
    (void)fuzz_touch(result->error, strlen(result->error));
  }
}

static void on_entry(struct gorge_l2_request *rq, const struct gorge_message *m, uint64_t now_ms) {
  (void)now_ms;
  FUZZ_CHECK(((struct asked *)rq)->running);
  (void)fuzz_touch(m->ptr, m->len);
}

static void cancel(struct asked *a) {
  gorge_l2_cancel(&a->rq);
  a->running = false;
}

static void send_request(struct scene *s, struct fuzz_input *in) {
  struct asked *a = &s->asked[fuzz_number(in, 1) % REQUESTS];
  uint64_t what = fuzz_number(in, 1);
  cancel(a);
  memset(a, 0, sizeof *a);
  a->key[0] = (char)('a' + what % 4);
  a->rq.verb = (enum gorge_l2_verb)(fuzz_number(in, 1) % (GORGE_L2_CLEAR + 1));
  a->rq.key = a->key;
  a->rq.key_len = 1;
  a->rq.ntags = (uint32_t)(what >> 4) % 3;
  a->rq.tags = tags;
  a->rq.since = what;
  a->rq.token = 1;
  a->rq.lease_ms = 10000;
  a->rq.ttl_ms = 60000;
  a->rq.kind = GORGE_KIND_STRING;
  a->rq.value = "value";
  a->rq.value_len = 5;
  a->rq.partition = (uint32_t)what % GORGE_PARTITIONS;
  a->rq.confirm_epoch = (what & 0x80) != 0;
  a->rq.done = on_done;
  a->rq.message = on_entry;
  a->running = gorge_l2_send(s->l2, &a->rq, s->now_ms) == GORGE_OK;
}

static struct gorge_conn *conn_of(const struct scene *s) { return gorge_l2_node_conn(s->l2, s->node); }

static void input(struct scene *s, const char *ptr, size_t len) {
  struct gorge_conn *conn = conn_of(s);
  enum gorge_conn_state state = gorge_conn_state(conn);
  if ((state == GORGE_CONN_HANDSHAKE || state == GORGE_CONN_READY) &&
      gorge_conn_input(conn, ptr, len, s->now_ms) != GORGE_OK) {
    gorge_conn_closed(conn, s->now_ms, "input");
  }
}

static void drain(struct scene *s) {
  const char *ptr = NULL;
  size_t len = 0;
  gorge_conn_output(conn_of(s), &ptr, &len);
  (void)fuzz_touch(ptr, len);
  gorge_conn_sent(conn_of(s), len);
}

static void connect_to(struct scene *s) {
  if (gorge_conn_want_connect(conn_of(s), s->now_ms)) {
    gorge_conn_opened(conn_of(s), s->now_ms);
    drain(s);
    input(s, "+OK\r\n+PONG\r\n", 12);
  }
}

/* A redirection of one of the keys in use, to one of a few places, or of anything to anywhere. */
static void redirect(struct scene *s, struct fuzz_input *in) {
  static const char *const kinds[] = {"MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"};
  char text[128];
  uint64_t what = fuzz_number(in, 1), port = fuzz_number(in, 1);
  char key = (char)('a' + what % 4);
  uint32_t slot = gorge_names_slot(&s->names, gorge_partition_of(&key, 1, GORGE_PARTITIONS));
  int len = snprintf(text, sizeof text, "-%s %u 10.0.0.1:%u\r\n", kinds[(what >> 2) % 4], slot + (uint32_t)(what >> 7),
                     1 + (unsigned)port);
  input(s, text, (size_t)len);
}

/* A map of up to four ranges. */
static void map(struct scene *s, struct fuzz_input *in) {
  char text[1024];
  unsigned ranges = 1 + (unsigned)fuzz_number(in, 1) % 4;
  int at = snprintf(text, sizeof text, "*%u\r\n", ranges);
  for (unsigned i = 0; i < ranges; i++) {
    unsigned first = i * GORGE_SLOTS / ranges, last = (i + 1) * GORGE_SLOTS / ranges - 1;
    at += snprintf(text + at, sizeof text - (size_t)at, "*3\r\n:%u\r\n:%u\r\n*2\r\n$8\r\n10.0.0.1\r\n:%u\r\n", first,
                   last, 1 + (unsigned)fuzz_number(in, 1));
  }
  input(s, text, (size_t)at);
}

static void answer(struct scene *s, struct fuzz_input *in) {
  static const char *const answers[] = {"+OK\r\n",
                                        "$-1\r\n",
                                        ":1\r\n",
                                        ":0\r\n",
                                        "*0\r\n",
                                        "*2\r\n:3\r\n:500\r\n",
                                        "*2\r\n:4\r\n:7\r\n",
                                        "-NOSCRIPT No matching script.\r\n",
                                        "-GORGEEPOCH these names are of the past\r\n",
                                        "*2\r\n$10\r\n1800000000\r\n$1\r\n0\r\n",
                                        "$40\r\n0123456789012345678901234567890123456789\r\n"};
  const char *text = answers[fuzz_number(in, 1) % (sizeof answers / sizeof *answers)];
  for (uint64_t n = 1 + fuzz_number(in, 1) % 16; n > 0; n--) {
    input(s, text, strlen(text));
  }
}

static void step(struct scene *s, struct fuzz_input *in) {
  size_t len;
  const char *ptr;
  uint64_t what = fuzz_number(in, 1);
  s->node = (uint32_t)(what >> 4) % gorge_l2_nodes(s->l2);
  switch (what % 16) {
    case 0:
    case 1: send_request(s, in); break;
    case 2: cancel(&s->asked[fuzz_number(in, 1) % REQUESTS]); break;
    case 3:
      ptr = fuzz_bytes(in, fuzz_number(in, 1), &len);
      input(s, ptr, len);
      break;
    case 4:
    case 5: redirect(s, in); break;
    case 6: map(s, in); break;
    case 7:
    case 8: answer(s, in); break;
    case 9: s->now_ms += fuzz_number(in, 2) % 4000; break;
    case 10:
      if (gorge_conn_state(conn_of(s)) != GORGE_CONN_DOWN) {
        gorge_conn_closed(conn_of(s), s->now_ms, "cut");
      }
      break;
    case 11: gorge_l2_tick(s->l2, s->now_ms); break;
    case 12: drain(s); break;
    default:
      if (gorge_conn_tick(conn_of(s), s->now_ms)) {
        gorge_conn_closed(conn_of(s), s->now_ms, "tick");
      }
      connect_to(s);
      break;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input in = {data, size};
  struct scene s = {.now_ms = 1000000};
  struct gorge_place seeds[2];
  FUZZ_CHECK(gorge_names_init(&s.names, "ns", 2) == GORGE_OK);
  FUZZ_CHECK(gorge_place_init(&seeds[0], "10.0.0.1", 8, 1) && gorge_place_init(&seeds[1], "10.0.0.1", 8, 2));
  s.l2 = gorge_l2_create("ns", 2, GORGE_PARTITIONS, &config);
  FUZZ_CHECK(s.l2 != NULL && gorge_l2_follow_cluster(s.l2, seeds, 2) == GORGE_OK);
  for (int i = 0; i < STEPS_MAX && in.len > 0; i++) {
    step(&s, &in);
    FUZZ_CHECK(gorge_l2_nodes(s.l2) <= GORGE_NODES_MAX);
    (void)gorge_l2_next_ms(s.l2);
  }
  gorge_l2_destroy(s.l2);
  for (int k = 0; k < REQUESTS; k++) {
    FUZZ_CHECK(!s.asked[k].running);
  }
  return 0;
}
