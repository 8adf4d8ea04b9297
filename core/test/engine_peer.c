/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "io/conn_state.h"
#include "proto/bytes.h"
#include "proto/scripts.h"
#include "test/engine_support.h"

/* One second back, so that versions of these times are below the clock. */
static uint64_t server_ms(void) {
  static uint64_t start_ms;
  if (start_ms == 0) {
    start_ms = (uint64_t)time(NULL) * 1000;
  }
  return start_ms;
}

uint64_t peer_version(uint64_t n) { return server_ms() * 1000 + n; }

static void fetch_output(struct peer *p) {
  const char *ptr;
  uint64_t len;
  gorge_io_output(p->cache, 0, &ptr, &len);
  wire_add(&p->asked, ptr, len);
  gorge_io_sent(p->cache, 0, len);
}

/* A number after `mark`, and the end of the line. */
static size_t number(struct peer *p, char mark) {
  assert_int_equal(p->asked.ptr[p->at], mark);
  char *end;
  size_t n = strtoul(p->asked.ptr + p->at + 1, &end, 10);
  assert_memory_equal(end, "\r\n", 2);
  p->at = (size_t)(end + 2 - p->asked.ptr);
  return n;
}

static bool available(struct peer *p) {
  fetch_output(p);
  return p->at < p->asked.len;
}

static bool is(const struct peer_command *cmd, int i, const char *text) {
  return i < cmd->argc && cmd->len[i] == strlen(text) && memcmp(cmd->argv[i], text, cmd->len[i]) == 0;
}

static struct peer_command parse(struct peer *p) {
  struct peer_command cmd = {.script = -1};
  cmd.argc = (int)number(p, '*');
  assert_in_range(cmd.argc, 1, PEER_ARGS);
  for (int i = 0; i < cmd.argc; i++) {
    cmd.len[i] = number(p, '$');
    cmd.argv[i] = p->asked.ptr + p->at;
    p->at += cmd.len[i] + 2;
    assert_true(p->at <= p->asked.len);
  }
  if (is(&cmd, 0, "EVALSHA")) {
    cmd.script = (int)strtol(cmd.argv[1] + GORGE_SCRIPT_SHA_LEN - 4, NULL, 10);
  }
  return cmd;
}

/* What a connection says of itself, whenever it does. Returns false when the command is none of that. */
static bool answer_routine(struct peer *p, const struct peer_command *cmd) {
  char text[96];
  if (is(cmd, 0, "CLIENT")) {
    return peer_say(p, "+OK\r\n") == GORGE_OK;
  } else if (is(cmd, 0, "PING")) {
    return peer_say(p, "+PONG\r\n") == GORGE_OK;
  } else if (is(cmd, 0, "GET") && cmd->len[1] > 2 && memcmp(cmd->argv[1] + cmd->len[1] - 2, ":e", 2) == 0) {
    return peer_say(p, "$1\r\n7\r\n") == GORGE_OK;
  } else if (is(cmd, 0, "TIME")) {
    snprintf(text, sizeof text, "*2\r\n$10\r\n%llu\r\n$1\r\n0\r\n", (unsigned long long)(server_ms() / 1000));
  } else if (is(cmd, 0, "SCRIPT")) {
    snprintf(text, sizeof text, "$40\r\n%040d\r\n", p->loaded++ % GORGE_SCRIPTS);
  } else {
    return false;
  }
  return peer_say(p, text) == GORGE_OK;
}

void peer_connect(struct peer *p, gorge_cache *c) {
  char host[256];
  uint32_t port;
  gorge_cache *cache = c;
  wire_free(&p->asked);
  memset(p, 0, sizeof *p);
  p->cache = cache;
  assert_int_equal(gorge_io_connect(c, 0, host, sizeof host, &port), GORGE_OK);
  gorge_io_opened(c, 0);
  /* Twice: the handshake, and what is sent once it has been answered. What comes after that is the test's. */
  while (p->loaded < GORGE_SCRIPTS && available(p)) {
    struct peer_command cmd = parse(p);
    assert_true(answer_routine(p, &cmd));
  }
  assert_int_equal(p->loaded, GORGE_SCRIPTS);
}

static struct gorge_conn *conn_of(const struct peer *p) { return gorge_l2_conn(p->cache->l2); }

void peer_lose(struct peer *p) {
  gorge_io_closed(p->cache, 0, "lost");
  conn_of(p)->retry_ms = gorge_clock_ms() + 3600000;
}

void peer_return(struct peer *p) {
  conn_of(p)->retry_ms = gorge_clock_ms();
  peer_connect(p, p->cache);
}

gorge_cache *peer_cache(struct peer *p, const char *zone) {
  struct gorge_config config = engine_config(zone, "/nonexistent/redis.sock", 0);
  config.timeout_ms = config.connect_timeout_ms =
      PEER_TIMEOUT_MS; /* who answers is the test: however slow the machine is */
  gorge_cache *c = engine_cache(&config);
  uint64_t op;
  assert_int_equal(gorge_cache_enter(c, 0), GORGE_OK);
  struct gorge_journal_words *journal = gorge_zone_journal(c->zone, c->ns);
  journal->epoch = 7;
  /* In contact for as long as tests look ahead, and no thread that would find out: a look-up need not ask for the epoch as well. */
  journal->contact = GORGE_CONTACT_HELD;
  c->words->life_max_ms = 0;
  journal->synced_ms = gorge_clock_ms() + 7200000;
  c->flags |= GORGE_CONFIG_SECOND;
  c->threads = true; /* it may ask Redis, and the thread starts with the first need of it */
  memset(p, 0, sizeof *p);
  assert_int_equal(engine_lookup(c, "wanted", &op), GORGE_PENDING);
  peer_connect(p, c);
  peer_expect(p, "GET");
  assert_int_equal(peer_say(p, "$-1\r\n"), GORGE_OK);
  gorge_op_free(c, op);
  return c;
}

void peer_free(struct peer *p) { wire_free(&p->asked); }

/* Whether there is a command for the test; what a connection says of itself is answered in passing. */
static bool look(struct peer *p) {
  while (!p->held && available(p)) {
    p->next = parse(p);
    p->held = !answer_routine(p, &p->next);
  }
  return p->held;
}

struct peer_command peer_take(struct peer *p) {
  if (!look(p)) {
    fail_msg("nothing was asked");
  }
  p->held = false;
  return p->next;
}

void peer_expect(struct peer *p, const char *name) {
  struct peer_command cmd = peer_take(p);
  if (!is(&cmd, 0, name)) {
    fail_msg("asked %.*s instead of %s", (int)cmd.len[0], cmd.argv[0], name);
  }
}

void peer_expect_script(struct peer *p, int script) {
  struct peer_command cmd = peer_take(p);
  if (cmd.script != script) {
    fail_msg("asked %.*s %d instead of script %d", (int)cmd.len[0], cmd.argv[0], cmd.script, script);
  }
}

bool peer_idle(struct peer *p) { return !look(p); }

int peer_say(struct peer *p, const char *bytes) { return gorge_io_input(p->cache, 0, bytes, strlen(bytes)); }

static uint32_t split(const char *tags, struct gorge_l2_tag *out) {
  uint32_t n = 0;
  while (tags != NULL && *tags != '\0') {
    uint32_t len = (uint32_t)strcspn(tags, " ");
    out[n++] = (struct gorge_l2_tag){tags, len};
    tags += len + (tags[len] == ' ');
  }
  return n;
}

static void nonce(const struct gorge_l2_tag *tag, char *out) { memset(out, tag->ptr[0], 8); }

static void build(struct wire_text *t, uint64_t version, const char *value, const char *tags) {
  struct gorge_l2_tag list[GORGE_TAGS_MAX];
  uint32_t n = split(tags, list);
  struct gorge_seal seal;
  char eight[8];
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_STRING, 60000, NULL, n, list, value, (uint32_t)strlen(value)),
                   GORGE_OK);
  wire_add(t, seal.head, sizeof seal.head);
  gorge_bytes_put64(eight, version);
  wire_add(t, eight, 8);
  gorge_bytes_put64(eight, version / 1000 + 60000);
  wire_add(t, eight, 8);
  for (uint32_t i = 0; i < n; i++) {
    nonce(&list[i], eight);
    wire_add(t, eight, 8);
  }
  wire_add(t, seal.bytes, seal.len);
  wire_add(t, value, strlen(value));
}

static int send_text(struct peer *p, struct wire_text *t) {
  int status = gorge_io_input(p->cache, 0, t->ptr, t->len);
  wire_free(t);
  return status;
}

int peer_say_value(struct peer *p, uint64_t version, const char *value, const char *tags) {
  struct wire_text envelope = {NULL, 0, 0}, out = {NULL, 0, 0};
  build(&envelope, version, value, tags);
  wire_bulk(&out, envelope.ptr, envelope.len);
  wire_free(&envelope);
  return send_text(p, &out);
}

int peer_say_lease_hit(struct peer *p, uint64_t version, const char *value) {
  struct wire_text envelope = {NULL, 0, 0}, out = {NULL, 0, 0};
  build(&envelope, version, value, NULL);
  wire_addf(&out, "*4\r\n:2\r\n:%llu\r\n:60000\r\n", (unsigned long long)version);
  wire_bulk(&out, envelope.ptr, envelope.len);
  wire_free(&envelope);
  return send_text(p, &out);
}

int peer_say_lease(struct peer *p, uint64_t version, const char *tags) {
  struct gorge_l2_tag list[GORGE_TAGS_MAX];
  struct wire_text out = {NULL, 0, 0};
  uint32_t n = split(tags, list);
  wire_addf(&out, "*%u\r\n:4\r\n:%llu\r\n", 2 + n, (unsigned long long)version);
  for (uint32_t i = 0; i < n; i++) {
    char eight[8];
    nonce(&list[i], eight);
    wire_bulk(&out, eight, 8);
  }
  return send_text(p, &out);
}

int peer_say_busy(struct peer *p, uint64_t left_ms) {
  char text[64];
  snprintf(text, sizeof text, "*2\r\n:3\r\n:%llu\r\n", (unsigned long long)left_ms);
  return peer_say(p, text);
}

int peer_say_number(struct peer *p, uint64_t n) {
  char text[32];
  snprintf(text, sizeof text, ":%llu\r\n", (unsigned long long)n);
  return peer_say(p, text);
}
