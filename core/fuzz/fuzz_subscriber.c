/* SPDX-License-Identifier: MIT */
/*
 * io/subscriber.h: what a host hears of the other nodes, from a server that says whatever the input says. Messages are delivered only
 * on a connection that is there, whole and in bounds; silence and garbage end in a connection that asks to be closed.
 */
#include "fuzz/fuzz.h"
#include "gorge.h"
#include "io/subscriber.h"

enum { STEPS_MAX = 256 };

struct scene {
  struct gorge_subscriber *subscriber;
  struct gorge_conn *conn;
  uint64_t now_ms;
  bool ready;
};

static const struct gorge_conn_config config = {
    .connect_timeout_ms = 1000, .timeout_ms = 500, .max_reply_bytes = 1 << 14, .seed = 1};

static void on_ready(void *ctx, uint64_t now_ms) {
  struct scene *s = ctx;
  (void)now_ms;
  FUZZ_CHECK(!s->ready);
  s->ready = true;
}

static void on_lost(void *ctx, uint64_t now_ms) {
  struct scene *s = ctx;
  (void)now_ms;
  FUZZ_CHECK(s->ready);
  s->ready = false;
}

static void on_message(void *ctx, const struct gorge_message *m, uint64_t now_ms) {
  const struct scene *s = ctx;
  (void)now_ms;
  FUZZ_CHECK(gorge_conn_state(s->conn) == GORGE_CONN_READY && m->len <= GORGE_KEY_MAX);
  (void)fuzz_touch(m->ptr, m->len);
}

static void input(struct scene *s, const char *ptr, size_t len) {
  enum gorge_conn_state state = gorge_conn_state(s->conn);
  if ((state == GORGE_CONN_HANDSHAKE || state == GORGE_CONN_READY) &&
      gorge_conn_input(s->conn, ptr, len, s->now_ms) != GORGE_OK) {
    gorge_conn_closed(s->conn, s->now_ms, "input");
  }
}

static void connect_to(struct scene *s) {
  if (gorge_conn_want_connect(s->conn, s->now_ms)) {
    gorge_conn_opened(s->conn, s->now_ms);
    input(s, "+OK\r\n+PONG\r\n", 12);
  }
}

static void hear(struct scene *s, struct fuzz_input *in) {
  char reply[512];
  size_t len;
  const char *body = fuzz_bytes(in, fuzz_number(in, 1), &len);
  int head = snprintf(reply, sizeof reply, "*3\r\n$7\r\nmessage\r\n$10\r\ngorge:2:ns\r\n$%zu\r\n", len);
  memcpy(reply + head, body, len);
  memcpy(reply + head + len, "\r\n", 2);
  input(s, reply, (size_t)head + len + 2);
}

static void step(struct scene *s, struct fuzz_input *in) {
  static const char subscribed[] = "*3\r\n$9\r\nsubscribe\r\n$10\r\ngorge:2:ns\r\n:1\r\n";
  static const char pong[] = "*2\r\n$4\r\npong\r\n$0\r\n\r\n";
  const char *ptr;
  size_t len;
  switch (fuzz_number(in, 1) % 6) {
    case 0: input(s, subscribed, sizeof subscribed - 1); break;
    case 1: input(s, pong, sizeof pong - 1); break;
    case 2: hear(s, in); break;
    case 3:
      ptr = fuzz_bytes(in, fuzz_number(in, 1), &len);
      input(s, ptr, len);
      break;
    case 4:
      s->now_ms += fuzz_number(in, 2) % 4000;
      (void)gorge_subscriber_tick(s->subscriber, s->now_ms);
      if (gorge_conn_tick(s->conn, s->now_ms)) {
        gorge_conn_closed(s->conn, s->now_ms, "tick");
      }
      connect_to(s);
      break;
    default:
      gorge_conn_output(s->conn, &ptr, &len);
      (void)fuzz_touch(ptr, len);
      gorge_conn_sent(s->conn, len);
      break;
  }
  FUZZ_CHECK(!s->ready || gorge_conn_state(s->conn) == GORGE_CONN_READY);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input in = {data, size};
  struct scene s = {.now_ms = 1000000};
  struct gorge_subscriber_hooks hooks = {.ctx = &s, .ready = on_ready, .lost = on_lost, .message = on_message};
  s.subscriber = gorge_subscriber_create("ns", 2, &config, &hooks);
  FUZZ_CHECK(s.subscriber != NULL);
  s.conn = gorge_subscriber_conn(s.subscriber);
  connect_to(&s);
  for (int i = 0; i < STEPS_MAX && in.len > 0; i++) {
    step(&s, &in);
  }
  gorge_subscriber_destroy(s.subscriber);
  return 0;
}
