/* SPDX-License-Identifier: MIT */
/*
 * io/l2.h over io/conn.h: a worker's requests, and a server that answers whatever the input says, whenever it says, or goes away.
 * Each request ends once, with an outcome that its verb can have; what is delivered can be read; nothing is left over.
 */
#include <stdlib.h>

#include "fuzz/fuzz.h"
#include "gorge.h"
#include "io/l2.h"
#include "proto/bytes.h"

enum { REQUESTS = 8, STEPS_MAX = 256, SERVER_MS = 1800000000, ENVELOPE_SIZE = 4096, HEAD = 7 };

struct asked {
  struct gorge_l2_request rq; /* first: done finds the rest */
  bool running;
};

struct scene {
  struct gorge_l2 *l2;
  struct gorge_conn *conn;
  struct asked asked[REQUESTS];
  uint64_t now_ms;
  uint32_t partitions;
};

static const struct gorge_conn_config config = {
    .connect_timeout_ms = 1000, .timeout_ms = 500, .max_pending = 16, .max_reply_bytes = 1 << 14, .seed = 1};
static const struct gorge_l2_tag tags[] = {{"a", 1}, {"b", 1}};
static const uint64_t nonces[] = {0x6161616161616161, 0x6262626262626262};

static bool outcome_of(enum gorge_l2_verb verb, int status) {
  switch (verb) {
    case GORGE_L2_LOOKUP: return status == GORGE_HIT || status == GORGE_MISS;
    case GORGE_L2_LEASE: return status == GORGE_HIT || status == GORGE_LEASE || status == GORGE_BUSY;
    case GORGE_L2_FILL: return status == GORGE_STORED || status == GORGE_REFUSED;
    case GORGE_L2_RELEASE:
    case GORGE_L2_RENEW: return status == GORGE_OK || status == GORGE_REFUSED;
    case GORGE_L2_UPDATE: return status == GORGE_STORED || status == GORGE_REFUSED;
    case GORGE_L2_SET: return status == GORGE_STORED;
    case GORGE_L2_TOUCH:
    case GORGE_L2_JOURNAL: return status == GORGE_OK || status == GORGE_MISS;
    default: return status == GORGE_OK;
  }
}

static void on_done(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms) {
  (void)now_ms;
  struct asked *a = (struct asked *)rq;
  FUZZ_CHECK(a->running);
  a->running = false;
  FUZZ_CHECK(result->status < 0 || outcome_of(rq->verb, result->status));
  FUZZ_CHECK(result->ntags <= GORGE_TAGS_MAX && result->version <= GORGE_VERSION_MAX);
  if (result->status == GORGE_HIT) {
    FUZZ_CHECK(gorge_kind_for_redis(result->kind) && result->remaining_ms > 0);
    (void)fuzz_touch(result->value, result->value_len);
    for (uint32_t i = 0; i < result->ntags; i++) {
      (void)fuzz_touch(result->tags[i].ptr, result->tags[i].len);
    }
  }
  if (result->look != NULL) {
    FUZZ_CHECK(result->look->ntags <= GORGE_L2_LOOK_TAGS && result->look->state <= GORGE_LOOK_DAMAGED);
    for (uint32_t i = 0; i < result->look->ntags; i++) {
      FUZZ_CHECK(strnlen(result->look->tags[i].name, GORGE_TAG_MAX + 1) <= GORGE_TAG_MAX);
    }
  }
  if (result->error != NULL) {
    FUZZ_CHECK(strlen(result->error) <= 200);
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
  a->rq.verb = (enum gorge_l2_verb)(what % (GORGE_L2_EXPLAIN + 1));
  a->rq.key = "key";
  a->rq.key_len = 3;
  a->rq.ntags = (uint32_t)(what >> 4) % 3;
  a->rq.tags = tags;
  a->rq.tag_nonces = what & 0x40 ? nonces : NULL;
  a->rq.since = fuzz_number(in, 1);
  a->rq.partition = (uint32_t)a->rq.since % s->partitions;
  a->rq.token = 1;
  a->rq.lease_ms = 10000;
  a->rq.ttl_ms = 60000;
  a->rq.kind = GORGE_KIND_STRING;
  a->rq.value = "value";
  a->rq.value_len = 5;
  a->rq.done = on_done;
  a->rq.message = on_entry;
  a->running = gorge_l2_send(s->l2, &a->rq, s->now_ms) == GORGE_OK;
}

static void input(struct scene *s, const char *ptr, size_t len) {
  enum gorge_conn_state state = gorge_conn_state(s->conn);
  if (state != GORGE_CONN_HANDSHAKE && state != GORGE_CONN_READY) {
    return;
  }
  if (gorge_conn_input(s->conn, ptr, len, s->now_ms) != GORGE_OK) {
    gorge_conn_closed(s->conn, s->now_ms, "input");
  }
}

static void drain(struct scene *s) {
  const char *ptr = NULL;
  size_t len = 0;
  gorge_conn_output(s->conn, &ptr, &len);
  (void)fuzz_touch(ptr, len);
  gorge_conn_sent(s->conn, len);
}

static void connect_to(struct scene *s) {
  if (gorge_conn_want_connect(s->conn, s->now_ms)) {
    gorge_conn_opened(s->conn, s->now_ms);
    drain(s);
    input(s, "+OK\r\n+PONG\r\n", 12);
  }
}

/* An envelope that is what it should be, as a bulk. */
static void answer_value(struct scene *s, struct fuzz_input *in) {
  char bytes[ENVELOPE_SIZE], head[16];
  char *body = bytes + HEAD, *at = body;
  struct gorge_seal seal;
  size_t len;
  uint32_t ntags = (uint32_t)fuzz_number(in, 1) % 3;
  const char *value = fuzz_bytes(in, fuzz_number(in, 1), &len);
  FUZZ_CHECK(gorge_envelope_seal(&seal, GORGE_KIND_STRING, 60000, NULL, ntags, tags, value, (uint32_t)len) == GORGE_OK);
  memcpy(at, seal.head, GORGE_ENVELOPE_HEAD);
  gorge_bytes_put64(at + 4, (uint64_t)SERVER_MS * 1000000);
  gorge_bytes_put64(at + 12, (uint64_t)SERVER_MS * 1000);
  at += GORGE_ENVELOPE_FIXED;
  for (uint32_t i = 0; i < sizeof nonces / 8 && i < ntags; i++, at += 8) {
    gorge_bytes_put64(at, nonces[i]);
  }
  memcpy(at, seal.bytes, seal.len);
  at += seal.len;
  memcpy(at, value, len);
  at += len;
  snprintf(head, sizeof head, "$%04u\r\n", (unsigned)(at - body) % 10000);
  memcpy(bytes, head, HEAD);
  memcpy(at, "\r\n", 2);
  input(s, bytes, (size_t)(at + 2 - bytes));
}

/* What a real server says often; with the length, since some hold NUL bytes. */
struct answer {
  const char *ptr;
  size_t len;
};
#define ANSWER(text) \
  { text, sizeof(text) - 1 }
static const struct answer answers[] = {
    ANSWER("+OK\r\n"),
    ANSWER("$-1\r\n"),
    ANSWER(":1\r\n"),
    ANSWER(":0\r\n"),
    ANSWER("*-1\r\n"),
    ANSWER("*2\r\n$10\r\n1800000000\r\n$1\r\n0\r\n"),
    ANSWER("*2\r\n$16\r\naaaaaaaa12345678\r\n$16\r\nbbbbbbbb12345678\r\n"),
    ANSWER("*2\r\n:3\r\n:500\r\n"),
    ANSWER("*2\r\n:4\r\n:7\r\n"),
    ANSWER("*4\r\n:4\r\n:7\r\n$8\r\naaaaaaaa\r\n$8\r\nbbbbbbbb\r\n"),
    ANSWER("*4\r\n:2\r\n:1800000000000000\r\n:1000\r\n"), /* a value is to follow */
    ANSWER("*0\r\n"),
    ANSWER("*1\r\n*2\r\n$3\r\n5-1\r\n*2\r\n$1\r\nm\r\n$12\r\n\1\1\0\0\0\0\0\0\0\5ke\r\n"),
    ANSWER("-NOSCRIPT No matching script.\r\n"),
    ANSWER("-ERR no\r\n"),
    ANSWER("-OOM command not allowed when used memory > 'maxmemory'.\r\n"),
    ANSWER("-NOAUTH Authentication required.\r\n"),
    ANSWER("$40\r\n0123456789012345678901234567890123456789\r\n"),
};

static void give_answer(struct scene *s, struct fuzz_input *in) {
  const struct answer *a = &answers[fuzz_number(in, 1) % (sizeof answers / sizeof answers[0])];
  input(s, a->ptr, a->len);
}

static void step(struct scene *s, struct fuzz_input *in) {
  size_t len;
  const char *ptr;
  switch (fuzz_number(in, 1) % 8) {
    case 0: send_request(s, in); break;
    case 1: cancel(&s->asked[fuzz_number(in, 1) % REQUESTS]); break;
    case 2:
      ptr = fuzz_bytes(in, fuzz_number(in, 1), &len);
      input(s, ptr, len);
      break;
    case 3: give_answer(s, in); break;
    case 4: answer_value(s, in); break;
    case 5:
      s->now_ms += fuzz_number(in, 2) % 4000;
      if (gorge_conn_tick(s->conn, s->now_ms)) {
        gorge_conn_closed(s->conn, s->now_ms, "tick");
      }
      connect_to(s);
      break;
    case 6:
      if (gorge_conn_state(s->conn) != GORGE_CONN_DOWN) {
        gorge_conn_closed(s->conn, s->now_ms, "cut");
      }
      break;
    default: drain(s); break;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input in = {data, size};
  struct scene s = {.now_ms = 1000000};
  s.partitions = fuzz_number(&in, 1) % 2 == 0 ? 1 : GORGE_PARTITIONS;
  s.l2 = gorge_l2_create("ns", 2, s.partitions, &config);
  FUZZ_CHECK(s.l2 != NULL);
  s.conn = gorge_l2_conn(s.l2);
  gorge_conn_want(s.conn);
  connect_to(&s);
  for (int i = 0; i < STEPS_MAX && in.len > 0; i++) {
    step(&s, &in);
    FUZZ_CHECK(gorge_conn_pending(s.conn) <= config.max_pending + 32 + GORGE_PARTITIONS);
  }
  gorge_l2_destroy(s.l2);
  for (int k = 0; k < REQUESTS; k++) {
    FUZZ_CHECK(!s.asked[k].running);
  }
  return 0;
}
