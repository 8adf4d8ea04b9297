/* SPDX-License-Identifier: MIT */
#include "test/cluster_wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { T0 = 1000000, TURNS_MAX = 200 };

static int node_at(const struct gorge_place *place) { return place->port - 7000; }

void cluster_start(struct cluster *c, int nodes) {
  static const struct gorge_conn_config plain = {
      .connect_timeout_ms = 1000, .timeout_ms = 500, .max_pending = 256, .max_reply_bytes = 1 << 20, .seed = 1};
  memset(c, 0, sizeof *c);
  c->now_ms = T0;
  assert_int_equal(gorge_names_init(&c->names, "ns", 2), GORGE_OK);
  for (int i = 0; i < GORGE_SLOTS; i++) {
    c->owner[i] = (uint8_t)(i * nodes / GORGE_SLOTS + 1);
  }
  static uint64_t epochs[GORGE_PARTITIONS];
  for (int i = 0; i < GORGE_PARTITIONS; i++) {
    epochs[i] = 7;
  }
  c->l2 = gorge_l2_create("ns", 2, GORGE_PARTITIONS, &plain);
  assert_non_null(c->l2);
  gorge_l2_share_epoch(c->l2, epochs, NULL, NULL);
  struct gorge_place seeds[2];
  assert_true(gorge_place_init(&seeds[0], "10.0.0.1", 8, 7001));
  assert_true(gorge_place_init(&seeds[1], "10.0.0.2", 8, 7002));
  assert_int_equal(gorge_l2_follow_cluster(c->l2, seeds, 2), GORGE_OK);
}

void cluster_stop(struct cluster *c) { gorge_l2_destroy(c->l2); }

uint32_t cluster_slot_of(const struct cluster *c, const char *key) {
  return gorge_names_slot(&c->names, gorge_partition_of(key, strlen(key), GORGE_PARTITIONS));
}

int cluster_node_of(const struct cluster *c, const char *key) { return c->owner[cluster_slot_of(c, key)]; }

int cluster_count(const struct cluster *c, const char *text) {
  int n = 0;
  for (const char *at = c->log; (at = strstr(at, text)) != NULL; at++) {
    n++;
  }
  return n;
}

/* One range for each run of slots with one owner. */
static void add_slots(const struct cluster *c, struct wire_text *out) {
  struct wire_text ranges = {0};
  int n = 0;
  for (int first = 0, last; first < GORGE_SLOTS; first = last + 1) {
    for (last = first; last + 1 < GORGE_SLOTS && c->owner[last + 1] == c->owner[first]; last++) {
    }
    if (c->owner[first] != 0) {
      char host[32];
      int len = snprintf(host, sizeof host, "10.0.0.%d", c->owner[first]);
      wire_addf(&ranges, "*3\r\n:%d\r\n:%d\r\n*3\r\n$%d\r\n%s\r\n:%d\r\n$2\r\nid\r\n", first, last, len, host,
                7000 + c->owner[first]);
      n++;
    }
  }
  wire_addf(out, "*%d\r\n", n);
  wire_add(out, ranges.ptr, ranges.len);
  wire_free(&ranges);
}

static bool ends_with(const char *text, const char *end) {
  size_t len = strlen(text), end_len = strlen(end);
  return len >= end_len && strcmp(text + len - end_len, end) == 0;
}

/* What every node answers to the greetings of a new connection. Returns false for other commands. */
static bool greet(size_t argc, const char **argv, struct wire_text *out) {
  if (strcmp(argv[0], "TIME") == 0) {
    wire_addf(out, "*2\r\n$10\r\n1800000000\r\n$1\r\n0\r\n");
  } else if (strcmp(argv[0], "SCRIPT") == 0) {
    char sha[41];
    snprintf(sha, sizeof sha, "%040zu", strlen(argv[2]));
    wire_bulk(out, sha, 40);
  } else if (argc == 2 && strcmp(argv[0], "GET") == 0 && ends_with(argv[1], "}:e")) {
    wire_addf(out, "$1\r\n7\r\n");
  } else {
    return false;
  }
  return true;
}

static void note(struct cluster *c, int node, size_t argc, const char **argv) {
  size_t at = strlen(c->log);
  /* of a script the key that comes first */
  bool script = strncmp(argv[0], "EVAL", 4) == 0;
  const char *what = argc > 1 ? argv[script ? 3 : 1] : "";
  snprintf(c->log + at, sizeof c->log - at, "%d:%s %s;", node, argv[0], what);
}

static void serve(struct cluster *c, int node, size_t argc, const char **argv, struct wire_text *out) {
  if (greet(argc, argv, out)) {
    return;
  }
  note(c, node, argc, argv);
  c->answer_len = 0;
  const char *answer = c->answer != NULL ? c->answer(c, node, argc, argv) : NULL;
  if (answer != NULL) {
    wire_add(out, answer, c->answer_len > 0 ? c->answer_len : strlen(answer));
  } else if (strcmp(argv[0], "CLUSTER") == 0) {
    c->slots_asked++;
    if (c->slots_answer != NULL) {
      wire_add(out, c->slots_answer, strlen(c->slots_answer));
    } else {
      add_slots(c, out);
    }
  } else if (strcmp(argv[0], "ASKING") == 0) {
    wire_addf(out, "+OK\r\n");
  } else if (strcmp(argv[0], "GET") == 0) {
    wire_addf(out, "$-1\r\n");
  } else if (strcmp(argv[0], "MGET") == 0) {
    wire_addf(out, "*%zu\r\n", argc - 1);
    for (size_t i = 1; i < argc; i++) {
      wire_addf(out, "$-1\r\n");
    }
  } else {
    wire_addf(out, ":1\r\n");
  }
}

/* Everything that a connection has to say is heard and answered. Returns whether there was anything. */
static bool hear(struct cluster *c, int node, struct gorge_conn *conn) {
  const char *ptr;
  size_t len;
  gorge_conn_output(conn, &ptr, &len);
  if (len == 0) {
    return false;
  }
  redisReader *reader = redisReaderCreate();
  assert_non_null(reader);
  assert_int_equal(redisReaderFeed(reader, ptr, len), REDIS_OK);
  gorge_conn_sent(conn, len);
  struct wire_text out = {0};
  redisReply *command = NULL;
  while (redisReaderGetReply(reader, (void **)&command) == REDIS_OK && command != NULL) {
    const char *argv[64];
    assert_true(command->elements <= 64);
    for (size_t i = 0; i < command->elements; i++) {
      argv[i] = command->element[i]->str;
    }
    if (!c->mute[node]) {
      serve(c, node, command->elements, argv, &out);
    }
    freeReplyObject(command);
    command = NULL;
  }
  redisReaderFree(reader);
  if (out.len > 0) {
    (void)gorge_conn_input(conn, out.ptr, out.len, c->now_ms); /* what it makes of it, the test sees */
  }
  wire_free(&out);
  return true;
}

static bool drive(struct cluster *c, uint32_t index) {
  struct gorge_conn *conn = gorge_l2_node_conn(c->l2, index);
  int node = node_at(gorge_l2_node_place(c->l2, index));
  if (gorge_conn_tick(conn, c->now_ms)) {
    gorge_conn_closed(conn, c->now_ms, NULL);
    return true;
  }
  if (c->down[node] && gorge_conn_state(conn) != GORGE_CONN_DOWN) {
    gorge_conn_closed(conn, c->now_ms, "connection reset");
    return true;
  }
  if (gorge_conn_want_connect(conn, c->now_ms)) {
    if (c->down[node]) {
      gorge_conn_closed(conn, c->now_ms, "connection refused");
      return true;
    }
    gorge_conn_opened(conn, c->now_ms);
    (void)wire_take(conn);
    assert_int_equal(wire_feed(conn, "+OK|+PONG|", c->now_ms), GORGE_OK);
    return true;
  }
  return hear(c, node, conn);
}

void cluster_turn(struct cluster *c) {
  bool busy = true;
  for (int turn = 0; busy; turn++) {
    assert_true(turn < TURNS_MAX);
    gorge_l2_tick(c->l2, c->now_ms);
    busy = false;
    for (uint32_t i = 0; i < gorge_l2_nodes(c->l2); i++) {
      busy = drive(c, i) || busy;
    }
  }
}

void cluster_wait(struct cluster *c, uint64_t ms) {
  for (uint64_t end_ms = c->now_ms + ms; c->now_ms < end_ms; c->now_ms += 5) {
    cluster_turn(c);
  }
  cluster_turn(c);
}
