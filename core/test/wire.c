/* SPDX-License-Identifier: MIT */
#include "test/wire.h"

#include <hiredis/hiredis.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

int wire_order;

static void on_done(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  struct wire_command *w = (struct wire_command *)cmd;
  w->calls++;
  w->status = status;
  w->at_ms = now_ms;
  w->order = wire_order++;
  w->text[0] = '\0';
  if (reply != NULL && reply->type == REDIS_REPLY_INTEGER) {
    snprintf(w->text, sizeof w->text, "%lld", reply->integer);
  } else if (reply != NULL && reply->str != NULL) {
    snprintf(w->text, sizeof w->text, "%.*s", (int)reply->len, reply->str);
  } else if (reply != NULL && reply->type == REDIS_REPLY_NIL) {
    snprintf(w->text, sizeof w->text, "(nil)");
  } else if (reply != NULL && reply->type == REDIS_REPLY_ARRAY) {
    snprintf(w->text, sizeof w->text, "(array of %zu)", reply->elements);
  }
  assert_true((status == GORGE_OK) == (reply != NULL));
  if (w->then != NULL) {
    w->then(w, now_ms);
  }
}

void wire_init(struct wire_command *w) {
  memset(w, 0, sizeof *w);
  w->command.done = on_done;
}

static int split(const char *words, char *copy, size_t size, const char **argv, size_t *argv_len) {
  int argc = 0;
  snprintf(copy, size, "%s", words);
  char *save = NULL;
  for (char *word = strtok_r(copy, " ", &save); word != NULL && argc < 16; word = strtok_r(NULL, " ", &save)) {
    argv[argc] = word;
    argv_len[argc++] = strlen(word);
  }
  return argc;
}

int wire_submit(struct gorge_conn *c, struct wire_command *w, const char *words, uint64_t now_ms) {
  char copy[1024];
  const char *argv[16];
  size_t argv_len[16];
  int argc = split(words, copy, sizeof copy, argv, argv_len);
  w->conn = c;
  return gorge_conn_submit(c, &w->command, argc, argv, argv_len, now_ms);
}

const char *wire_format(const char *words) {
  static char out[4][4096];
  static int turn;
  char copy[1024];
  const char *argv[16];
  size_t argv_len[16];
  int argc = split(words, copy, sizeof copy, argv, argv_len);
  char *at = out[turn = (turn + 1) % 4];
  at += sprintf(at, "*%d|", argc);
  for (int i = 0; i < argc; i++) {
    at += sprintf(at, "$%zu|%s|", argv_len[i], argv[i]);
  }
  return out[turn];
}

const char *wire_take(struct gorge_conn *c) {
  static char text[64 * 1024];
  const char *ptr;
  size_t len, at = 0;
  gorge_conn_output(c, &ptr, &len);
  assert_true(len < sizeof text);
  for (size_t i = 0; i < len; i++) {
    if (ptr[i] == '\r') {
      continue;
    }
    text[at++] = ptr[i] == '\n' ? '|' : ptr[i] == '\0' ? '~' : ptr[i];
  }
  text[at] = '\0';
  gorge_conn_sent(c, len);
  return text;
}

int wire_feed(struct gorge_conn *c, const char *text, uint64_t now_ms) {
  char bytes[8192];
  size_t len = 0;
  for (; *text != '\0'; text++) {
    assert_true(len + 2 < sizeof bytes);
    if (*text == '|') {
      bytes[len++] = '\r';
      bytes[len++] = '\n';
    } else {
      bytes[len++] = *text;
    }
  }
  return gorge_conn_input(c, bytes, len, now_ms);
}

void wire_ready(struct gorge_conn *c, uint64_t now_ms) {
  gorge_conn_want(c);
  assert_true(gorge_conn_want_connect(c, now_ms));
  gorge_conn_opened(c, now_ms);
  char expected[256];
  snprintf(expected, sizeof expected, "%s%s", wire_format("CLIENT SETNAME gorge"), wire_format("PING"));
  assert_string_equal(wire_take(c), expected);
  assert_int_equal(wire_feed(c, "+OK|+PONG|", now_ms), GORGE_OK);
  assert_int_equal(gorge_conn_state(c), GORGE_CONN_READY);
}

void wire_add(struct wire_text *t, const void *ptr, size_t len) {
  if (t->len + len + 1 > t->size) {
    t->size = (t->len + len + 1) * 2;
    t->ptr = realloc(t->ptr, t->size);
    assert_non_null(t->ptr);
  }
  if (len > 0) {
    memcpy(t->ptr + t->len, ptr, len);
  }
  t->len += len;
  t->ptr[t->len] = '\0';
}

void wire_addf(struct wire_text *t, const char *format, ...) {
  char text[1024];
  va_list args;
  va_start(args, format);
  int len = vsnprintf(text, sizeof text, format, args);
  va_end(args);
  assert_true(len >= 0 && (size_t)len < sizeof text);
  wire_add(t, text, (size_t)len);
}

void wire_bulk(struct wire_text *t, const void *ptr, size_t len) {
  wire_addf(t, "$%zu\r\n", len);
  wire_add(t, ptr, len);
  wire_add(t, "\r\n", 2);
}

void wire_free(struct wire_text *t) {
  free(t->ptr);
  memset(t, 0, sizeof *t);
}

uint64_t wire_random(uint64_t *state) {
  uint64_t x = *state != 0 ? *state : 88172645463325252U;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return *state = x;
}
