/* SPDX-License-Identifier: MIT */
/*
 * io/sentinel.h: a sentinel that says whatever the input says, on both of its connections. What is reported is a place to connect to with
 * a rank; questions do not pile up.
 */
#include "fuzz/fuzz.h"
#include "gorge.h"
#include "io/sentinel.h"
#include "proto/redirect.h"

enum { STEPS_MAX = 256 };

struct scene {
  struct gorge_sentinel *sentinel;
  uint64_t now_ms;
};

static const struct gorge_conn_config config = {
    .connect_timeout_ms = 1000, .timeout_ms = 500, .max_pending = 16, .max_reply_bytes = 1 << 14, .seed = 1};

static void on_report(void *ctx, const struct gorge_sentinel_report *r, uint64_t now_ms) {
  const struct scene *s = ctx;
  size_t len = strnlen(r->host, sizeof r->host);
  FUZZ_CHECK(now_ms == s->now_ms && r->rank > 0 && r->port > 0 && len > 0 && len <= GORGE_SENTINEL_HOST_MAX);
  for (size_t i = 0; i < len; i++) {
    FUZZ_CHECK(r->host[i] > 0x20 && r->host[i] < 0x7f && r->host[i] != '/');
  }
  FUZZ_CHECK(gorge_sentinel_state(s->sentinel) == GORGE_SENTINEL_KNOWS);
}

static void input(const struct scene *s, struct gorge_conn *c, const char *ptr, size_t len) {
  enum gorge_conn_state state = gorge_conn_state(c);
  if ((state == GORGE_CONN_HANDSHAKE || state == GORGE_CONN_READY) &&
      gorge_conn_input(c, ptr, len, s->now_ms) != GORGE_OK) {
    gorge_conn_closed(c, s->now_ms, "input");
  }
}

static void connect_to(const struct scene *s, struct gorge_conn *c) {
  if (gorge_conn_want_connect(c, s->now_ms)) {
    gorge_conn_opened(c, s->now_ms);
    input(s, c, "+OK\r\n+PONG\r\n", 12);
  }
}

static void pass(struct scene *s, struct fuzz_input *in) {
  struct gorge_conn *both[] = {gorge_sentinel_asks(s->sentinel), gorge_sentinel_hears(s->sentinel)};
  s->now_ms += fuzz_number(in, 2) % 4000;
  gorge_sentinel_tick(s->sentinel, 1000, s->now_ms);
  for (int i = 0; i < 2; i++) {
    const char *ptr;
    size_t len;
    gorge_conn_output(both[i], &ptr, &len);
    (void)fuzz_touch(ptr, len);
    gorge_conn_sent(both[i], len);
    if (gorge_conn_tick(both[i], s->now_ms)) {
      gorge_conn_closed(both[i], s->now_ms, "tick");
    }
    connect_to(s, both[i]);
  }
  FUZZ_CHECK(gorge_conn_pending(both[0]) <= config.max_pending); /* late answers keep their places */
}

/* A bulk string of bytes of the input. */
static size_t bulk(struct fuzz_input *in, char *out) {
  size_t len;
  const char *body = fuzz_bytes(in, fuzz_number(in, 1) % 40, &len);
  int head = snprintf(out, 16, "$%zu\r\n", len);
  memcpy(out + head, body, len);
  memcpy(out + head + len, "\r\n", 2);
  return (size_t)head + len + 2;
}

static void answer(const struct scene *s, struct fuzz_input *in) {
  static const char *const parts[] = {"*6\r\n$2\r\nip\r\n", "$4\r\nport\r\n", "$12\r\nconfig-epoch\r\n", "*2\r\n", ""};
  char reply[512];
  size_t at = 0;
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    size_t len = strlen(parts[i]);
    memcpy(reply + at, parts[i], len);
    at += len + bulk(in, reply + at + len);
  }
  input(s, gorge_sentinel_asks(s->sentinel), reply, at);
}

static void step(struct scene *s, struct fuzz_input *in) {
  static const char good[] =
      "*6\r\n$2\r\nip\r\n$1\r\na\r\n$4\r\nport\r\n$1\r\n1\r\n$12\r\nconfig-epoch\r\n$1\r\n7\r\n*2\r\n$1\r\nb\r\n$"
      "1\r\n2\r\n";
  static const char heard[] = "*3\r\n$7\r\nmessage\r\n$14\r\n+switch-master\r\n$12\r\nmain a 1 b 2\r\n";
  const char *ptr;
  size_t len;
  switch (fuzz_number(in, 1) % 7) {
    case 0: input(s, gorge_sentinel_asks(s->sentinel), good, sizeof good - 1); break;
    case 1: input(s, gorge_sentinel_hears(s->sentinel), heard, sizeof heard - 1); break;
    case 2: answer(s, in); break;
    case 3:
      ptr = fuzz_bytes(in, fuzz_number(in, 1), &len);
      input(s, gorge_sentinel_asks(s->sentinel), ptr, len);
      break;
    case 4:
      ptr = fuzz_bytes(in, fuzz_number(in, 1), &len);
      input(s, gorge_sentinel_hears(s->sentinel), ptr, len);
      break;
    case 5: gorge_sentinel_ask(s->sentinel, s->now_ms); break;
    default: pass(s, in); break;
  }
  (void)gorge_sentinel_state(s->sentinel);
}

static void redirect(const uint8_t *data, size_t size) {
  struct gorge_redirect r;
  if (gorge_redirect_parse(&r, (const char *)data, size) && r.kind <= GORGE_REDIRECT_ASK) {
    FUZZ_CHECK(r.slot < GORGE_SLOTS && r.place.port > 0 &&
               strnlen(r.place.host, sizeof r.place.host) <= GORGE_PLACE_HOST_MAX);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input in = {data, size};
  struct scene s = {.now_ms = 1000000};
  struct gorge_sentinel_hooks hooks = {.ctx = &s, .report = on_report};
  redirect(data, size);
  s.sentinel = gorge_sentinel_create("main", &config, &hooks);
  FUZZ_CHECK(s.sentinel != NULL);
  connect_to(&s, gorge_sentinel_asks(s.sentinel));
  connect_to(&s, gorge_sentinel_hears(s.sentinel));
  for (int i = 0; i < STEPS_MAX && in.len > 0; i++) {
    step(&s, &in);
  }
  gorge_sentinel_destroy(s.sentinel);
  return 0;
}
