/* SPDX-License-Identifier: MIT */
/* Requests to a Redis Cluster: who is asked, and what becomes of a request that was sent to the wrong node, too early, or in vain. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "test/cluster_wire.h"

/* A request that remembers how it ended. */
struct asked {
  struct gorge_l2_request rq; /* first: done finds the rest */
  int calls;
  int status;
  bool moving;
  char error[256];
};

static void on_done(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms) {
  (void)now_ms;
  struct asked *a = (struct asked *)rq;
  a->calls++;
  a->status = result->status;
  a->moving = result->moving;
  snprintf(a->error, sizeof a->error, "%s", result->error != NULL ? result->error : "");
}

static void init(struct asked *a, enum gorge_l2_verb verb, const char *key) {
  memset(a, 0, sizeof *a);
  a->rq.verb = verb;
  a->rq.key = key;
  a->rq.key_len = (uint32_t)strlen(key);
  a->rq.done = on_done;
  a->rq.token = 1;
  a->rq.lease_ms = 10000;
  a->rq.ttl_ms = 60000;
  a->rq.kind = GORGE_KIND_STRING;
  a->rq.value = "v";
  a->rq.value_len = 1;
}

static int begin(struct cluster *c, struct asked *a, enum gorge_l2_verb verb, const char *key) {
  init(a, verb, key);
  return gorge_l2_send(c->l2, &a->rq, c->now_ms);
}

/* Sends it, and lets everything happen that does without time. */
static void ask(struct cluster *c, struct asked *a, enum gorge_l2_verb verb, const char *key) {
  assert_int_equal(begin(c, a, verb, key), GORGE_OK);
  assert_int_equal(a->calls, 0);
  cluster_turn(c);
}

static void ended(const struct asked *a, int status) {
  assert_int_equal(a->calls, 1);
  assert_int_equal(a->status, status);
}

/* "<node>:GET {2:ns:<partition>}:7:v:<key>;" */
static const char *get_at(int node, const char *key) {
  static char text[4][256];
  static int turn;
  char *out = text[turn = (turn + 1) % 4];
  snprintf(out, sizeof text[0], "%d:GET {2:ns:%u}:7:v:%s;", node,
           gorge_partition_of(key, strlen(key), GORGE_PARTITIONS), key);
  return out;
}

/* A key whose slot is at that node, another one for each n. */
static const char *key_at(const struct cluster *c, int node, int n) {
  static char text[8][32];
  static int turn;
  char *key = text[turn = (turn + 1) % 8];
  for (int i = n * 10000;; i++) {
    snprintf(key, sizeof text[0], "key:%d", i);
    if (cluster_node_of(c, key) == node) {
      return key;
    }
  }
}

static void know(struct cluster *c) {
  struct asked a;
  ask(c, &a, GORGE_L2_LOOKUP, "first");
  ended(&a, GORGE_MISS);
  c->log[0] = '\0';
}

/* ---- finding the way ---- */

static void test_a_seed_tells_where_the_partitions_are(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  assert_int_equal(gorge_l2_node_of(c.l2, "k", 1), UINT32_MAX);
  ask(&c, &a, GORGE_L2_LOOKUP, "k");
  ended(&a, GORGE_MISS);
  assert_int_equal(c.slots_asked, 1);
  for (int node = 1; node <= 3; node++) {
    const char *key = key_at(&c, node, 0);
    ask(&c, &a, GORGE_L2_LOOKUP, key);
    ended(&a, GORGE_MISS);
    assert_int_equal(cluster_count(&c, get_at(node, key)), 1);
    uint32_t index = gorge_l2_node_of(c.l2, key, (uint32_t)strlen(key));
    assert_int_equal(gorge_l2_node_place(c.l2, index)->port, 7000 + node);
    assert_in_range(gorge_l2_node_partitions(c.l2, index), 1, 63);
  }
  assert_int_equal(gorge_l2_nodes(c.l2), 3);
  assert_int_equal(c.slots_asked, 1);
  cluster_stop(&c);
}

static void test_requests_wait_for_the_map(void **state) {
  (void)state;
  struct cluster c;
  struct asked a[8], cancelled;
  cluster_start(&c, 3);
  static const char *const keys[] = {"a", "b", "c", "d", "e", "f", "g", "h"};
  for (int i = 0; i < 8; i++) {
    assert_int_equal(begin(&c, &a[i], i % 2 == 0 ? GORGE_L2_LOOKUP : GORGE_L2_DELETE, keys[i]), GORGE_OK);
  }
  assert_int_equal(begin(&c, &cancelled, GORGE_L2_LOOKUP, "x"), GORGE_OK);
  gorge_l2_cancel(&cancelled.rq);
  gorge_l2_cancel(&cancelled.rq);
  assert_int_equal(c.slots_asked, 0);
  cluster_turn(&c);
  for (int i = 0; i < 8; i++) {
    ended(&a[i], i % 2 == 0 ? GORGE_MISS : GORGE_OK);
  }
  assert_int_equal(cancelled.calls, 0);
  cluster_stop(&c);
}

static void test_too_many_do_not_wait(void **state) {
  (void)state;
  struct cluster c;
  static struct asked a[257];
  cluster_start(&c, 3);
  for (int i = 0; i < 256; i++) {
    assert_int_equal(begin(&c, &a[i], GORGE_L2_LOOKUP, "k"), GORGE_OK);
  }
  assert_int_equal(begin(&c, &a[256], GORGE_L2_LOOKUP, "k"), GORGE_ERR_FULL);
  cluster_stop(&c);
  for (int i = 0; i < 256; i++) {
    ended(&a[i], GORGE_ERR_CLOSED);
  }
}

static void test_a_seed_that_is_down_is_not_the_end(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  c.down[1] = true;
  const char *key = key_at(&c, 3, 0);
  assert_int_equal(begin(&c, &a, GORGE_L2_LOOKUP, key), GORGE_OK);
  cluster_wait(&c, 200);
  ended(&a, GORGE_MISS);
  assert_int_equal(cluster_count(&c, "2:CLUSTER SLOTS"), 1);
  cluster_stop(&c);
}

static void test_no_node_can_be_reached(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  struct gorge_l2_cluster told;
  cluster_start(&c, 3);
  c.down[1] = c.down[2] = c.down[3] = true;
  assert_int_equal(begin(&c, &a, GORGE_L2_LOOKUP, "k"), GORGE_OK);
  cluster_wait(&c, 10);
  ended(&a, GORGE_ERR_DOWN);
  assert_non_null(strstr(a.error, "connection refused"));
  assert_int_equal(begin(&c, &a, GORGE_L2_LOOKUP, "k"), GORGE_ERR_DOWN); /* nobody waits in vain */
  gorge_l2_cluster(c.l2, &told);
  assert_false(told.known);
  assert_non_null(told.trouble);
  c.down[2] = false;
  c.down[3] = false;
  cluster_wait(&c, 5000);
  const char *key = key_at(&c, 3, 0);
  ask(&c, &a, GORGE_L2_LOOKUP, key);
  ended(&a, GORGE_MISS);
  gorge_l2_cluster(c.l2, &told);
  assert_true(told.known);
  assert_null(told.trouble);
  cluster_stop(&c);
}

static void test_seeds_that_do_not_answer(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  c.mute[1] = c.mute[2] = true;
  assert_int_equal(begin(&c, &a, GORGE_L2_LOOKUP, "k"), GORGE_OK);
  cluster_wait(&c, 495);
  assert_int_equal(a.calls, 0);
  cluster_wait(&c, 10);
  assert_int_equal(a.calls, 1);
  assert_true(a.status == GORGE_ERR_DOWN);
  cluster_stop(&c);
}

static void test_a_plain_redis_is_told_of(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  c.slots_answer = "-ERR This instance has cluster support disabled\r\n";
  assert_int_equal(begin(&c, &a, GORGE_L2_LOOKUP, "k"), GORGE_OK);
  cluster_wait(&c, 20);
  ended(&a, GORGE_ERR_DOWN);
  assert_string_equal(a.error, "10.0.0.2:7002: ERR This instance has cluster support disabled");
  cluster_stop(&c);
}

static void test_malformed_maps(void **state) {
  (void)state;
  static const char *const answers[] = {
      "*1\r\n:1\r\n",
      "+OK\r\n",
      "*1\r\n*2\r\n:0\r\n:16383\r\n",
      "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$8\r\n10.0.0.1\r\n:7001\r\n",
      "*1\r\n*3\r\n:5\r\n:4\r\n*2\r\n$8\r\n10.0.0.1\r\n:7001\r\n",
      "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$8\r\n10.0.0.1\r\n:0\r\n",
      "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$1\r\n?\r\n:7001\r\n",
      "*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n:1\r\n:7001\r\n",
      "*1\r\n*3\r\n:0\r\n:16383\r\n*1\r\n$8\r\n10.0.0.1\r\n",
  };
  for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
    struct cluster c;
    struct asked a;
    struct gorge_l2_cluster told;
    cluster_start(&c, 3);
    c.slots_answer = answers[i];
    assert_int_equal(begin(&c, &a, GORGE_L2_LOOKUP, "k"), GORGE_OK);
    cluster_wait(&c, 20);
    ended(&a, GORGE_ERR_DOWN);
    gorge_l2_cluster(c.l2, &told);
    assert_false(told.known);
    c.slots_answer = NULL;
    cluster_wait(&c, 5000);
    ask(&c, &a, GORGE_L2_LOOKUP, "k");
    ended(&a, GORGE_MISS);
    cluster_stop(&c);
  }
}

static void test_a_master_without_host_is_where_was_asked(void **state) {
  (void)state;
  static const char *const answers[] = {"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$0\r\n\r\n:7001\r\n$2\r\nid\r\n",
                                        "*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$-1\r\n:7001\r\n$2\r\nid\r\n"};
  for (int i = 0; i < 2; i++) {
    struct cluster c;
    struct asked a;
    cluster_start(&c, 1);
    c.slots_answer = answers[i];
    ask(&c, &a, GORGE_L2_LOOKUP, "k");
    ended(&a, GORGE_MISS);
    assert_int_equal(cluster_count(&c, get_at(1, "k")), 1);
    cluster_stop(&c);
  }
}

/* Slots that nobody has: no wait, and others are not concerned. */
static void test_a_hole_in_the_map(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  const char *lost = key_at(&c, 3, 0), *good = key_at(&c, 2, 0);
  for (int i = 0; i < GORGE_SLOTS; i++) {
    c.owner[i] = c.owner[i] == 3 ? 0 : c.owner[i];
  }
  assert_int_equal(begin(&c, &a, GORGE_L2_LOOKUP, lost), GORGE_OK);
  cluster_turn(&c);
  ended(&a, GORGE_ERR_DOWN);
  ask(&c, &a, GORGE_L2_LOOKUP, good);
  ended(&a, GORGE_MISS);
  cluster_stop(&c);
}

/* The first seed has left the cluster, or is about to load its data, or was never part of it. */
static const char *not_of_the_cluster;
static const char *answer_as_stranger(struct cluster *c, int node, size_t argc, const char **argv) {
  (void)c, (void)argc;
  return node == 1 && strcmp(argv[0], "CLUSTER") == 0 ? not_of_the_cluster : NULL;
}

static void test_a_seed_that_knows_nothing_does_not_keep_others_from_being_asked(void **state) {
  (void)state;
  static const char *const answers[] = {"*0\r\n", "-LOADING Redis is loading the dataset in memory\r\n",
                                        "-ERR This instance has cluster support disabled\r\n",
                                        "*1\r\n*3\r\n:0\r\n:99\r\n*2\r\n$8\r\n10.0.0.1\r\n:7001\r\n"};
  for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
    struct cluster c;
    struct asked a;
    struct gorge_l2_cluster told;
    cluster_start(&c, 3);
    not_of_the_cluster = answers[i];
    c.answer = answer_as_stranger;
    ask(&c, &a, GORGE_L2_LOOKUP, key_at(&c, 3, 0));
    ended(&a, GORGE_MISS);
    gorge_l2_cluster(c.l2, &told);
    assert_true(told.known);
    assert_null(told.trouble);
    /* Nor later, when it is connected, and there is news. */
    const char *key = key_at(&c, 2, 0);
    c.owner[cluster_slot_of(&c, key)] = 3;
    gorge_l2_suspect(c.l2, gorge_l2_node_of(c.l2, key, (uint32_t)strlen(key)), c.now_ms);
    cluster_wait(&c, 200);
    assert_int_equal(gorge_l2_node_place(c.l2, gorge_l2_node_of(c.l2, key, (uint32_t)strlen(key)))->port, 7003);
    cluster_stop(&c);
  }
}

/* ---- redirections ---- */

static const char *asked_key;

static const char *moved(struct cluster *c, int node, size_t argc, const char **argv) {
  static char text[64];
  uint32_t slot = cluster_slot_of(c, asked_key);
  if (strcmp(argv[0], "CLUSTER") == 0 || c->owner[slot] == node || strstr(argv[argc > 3 ? 3 : 1], asked_key) == NULL) {
    return NULL;
  }
  snprintf(text, sizeof text, "-MOVED %u 10.0.0.%d:%d\r\n", slot, c->owner[slot], 7000 + c->owner[slot]);
  return text;
}

static void test_moved_is_followed_and_remembered(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  struct gorge_l2_cluster told;
  cluster_start(&c, 3);
  know(&c);
  const char *key = asked_key = key_at(&c, 1, 0);
  c.owner[cluster_slot_of(&c, key)] = 5;
  c.answer = moved;
  ask(&c, &a, GORGE_L2_LOOKUP, key);
  ended(&a, GORGE_MISS);
  assert_int_equal(cluster_count(&c, get_at(1, key)), 1);
  assert_int_equal(cluster_count(&c, get_at(5, key)), 1);
  cluster_wait(&c, 100);
  assert_int_equal(c.slots_asked, 2); /* where one slot has gone, others have */
  ask(&c, &a, GORGE_L2_LOOKUP, key);
  assert_int_equal(cluster_count(&c, get_at(1, key)), 1);
  assert_int_equal(cluster_count(&c, get_at(5, key)), 2);
  gorge_l2_cluster(c.l2, &told);
  assert_int_equal(told.moved, 1);
  assert_int_equal(told.changes, 64 + 1);
  cluster_stop(&c);
}

static void test_writes_follow_moved(void **state) {
  (void)state;
  static const enum gorge_l2_verb verbs[] = {GORGE_L2_SET,     GORGE_L2_DELETE, GORGE_L2_FILL,
                                             GORGE_L2_RELEASE, GORGE_L2_RENEW,  GORGE_L2_UPDATE};
  for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
    struct cluster c;
    struct asked a;
    cluster_start(&c, 3);
    know(&c);
    const char *key = asked_key = key_at(&c, 1, 0);
    c.owner[cluster_slot_of(&c, key)] = 2;
    c.answer = moved;
    ask(&c, &a, verbs[i], key);
    assert_int_equal(a.calls, 1);
    assert_true(a.status == GORGE_OK || a.status == GORGE_STORED);
    assert_int_equal(cluster_count(&c, "1:EVAL"), 1);
    assert_int_equal(cluster_count(&c, "2:EVAL"), 1);
    cluster_stop(&c);
  }
}

/* Two nodes that each say it is the other. */
static const char *round_and_round(struct cluster *c, int node, size_t argc, const char **argv) {
  static char text[64];
  (void)argc;
  if (strcmp(argv[0], "CLUSTER") == 0) {
    return NULL;
  }
  snprintf(text, sizeof text, "-MOVED %u 10.0.0.%d:%d\r\n", cluster_slot_of(c, asked_key), 3 - node, 7003 - node);
  return text;
}

static void test_redirections_end(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 2);
  know(&c);
  c.answer = round_and_round;
  asked_key = "k";
  ask(&c, &a, GORGE_L2_LOOKUP, "k");
  ended(&a, GORGE_ERR_REDIS);
  assert_true(cluster_count(&c, ":GET") <= 17);
  cluster_stop(&c);
}

/* A slot that the node does not have anyway, a place that is none. */
static const char *nonsense;
static const char *answer_nonsense(struct cluster *c, int node, size_t argc, const char **argv) {
  (void)c, (void)node, (void)argc;
  return strcmp(argv[0], "GET") == 0 ? nonsense : NULL;
}

static void test_nonsense_is_an_error(void **state) {
  (void)state;
  static const char *const answers[] = {"-MOVED 3 10.0.0.2:7002\r\n", "-MOVED x 10.0.0.2:7002\r\n", "-MOVED 3\r\n",
                                        "-ASK 3 10.0.0.2:7002\r\n", "-CLUSTERDOWN The cluster is down\r\n"};
  for (size_t i = 0; i < sizeof answers / sizeof *answers; i++) {
    struct cluster c;
    struct asked a;
    cluster_start(&c, 3);
    know(&c);
    c.answer = answer_nonsense;
    nonsense = answers[i];
    ask(&c, &a, GORGE_L2_LOOKUP, "k");
    ended(&a, GORGE_ERR_REDIS);
    assert_false(a.moving);
    assert_non_null(strstr(nonsense, a.error));
    cluster_stop(&c);
  }
}

static void test_clusterdown_makes_the_map_be_asked_for(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  know(&c);
  int before = c.slots_asked;
  c.answer = answer_nonsense;
  nonsense = "-CLUSTERDOWN The cluster is down\r\n";
  ask(&c, &a, GORGE_L2_LOOKUP, "k");
  ended(&a, GORGE_ERR_REDIS);
  cluster_wait(&c, 200);
  assert_int_equal(c.slots_asked, before + 1);
  cluster_stop(&c);
}

/* ---- a slot on its way ---- */

/* The value is at node 4 already; the slot is still node 1's. */
static bool has_asking[CLUSTER_NODES];
static size_t value_len;
static const char *value_there, *nonces_here, *nonces_there;

static const char *migrating(struct cluster *c, int node, size_t argc, const char **argv) {
  static char text[64];
  bool asking = has_asking[node];
  has_asking[node] = strcmp(argv[0], "ASKING") == 0;
  bool value = strcmp(argv[0], "GET") == 0, nonces = strcmp(argv[0], "MGET") == 0;
  if (!value && !nonces && strncmp(argv[0], "EVAL", 4) != 0) {
    return NULL;
  }
  (void)argc;
  if (node == 4 && !asking) {
    snprintf(text, sizeof text, "-MOVED %u 10.0.0.1:7001\r\n", cluster_slot_of(c, asked_key));
    return text;
  }
  if (node == 4) {
    c->answer_len = value ? value_len : 0;
    return value ? value_there : nonces ? nonces_there : NULL;
  }
  if (nonces && nonces_here != NULL) {
    return nonces_here;
  }
  snprintf(text, sizeof text, "-ASK %u 10.0.0.4:7004\r\n", cluster_slot_of(c, asked_key));
  return text;
}

static void migrate(struct cluster *c, const char *key) {
  memset(has_asking, 0, sizeof has_asking);
  value_there = "$-1\r\n";
  value_len = 0;
  nonces_here = nonces_there = NULL;
  asked_key = key;
  c->answer = migrating;
}

static void test_ask_holds_for_once(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  struct gorge_l2_cluster told;
  cluster_start(&c, 3);
  know(&c);
  const char *key = key_at(&c, 1, 0);
  migrate(&c, key);
  for (int i = 1; i <= 3; i++) {
    ask(&c, &a, GORGE_L2_LOOKUP, key);
    ended(&a, GORGE_MISS);
    assert_int_equal(cluster_count(&c, get_at(1, key)), i);
    assert_int_equal(cluster_count(&c, "4:ASKING ;4:GET"), i);
  }
  ask(&c, &a, GORGE_L2_DELETE, key);
  ended(&a, GORGE_OK);
  assert_int_equal(cluster_count(&c, "4:ASKING ;4:EVAL"), 1);
  gorge_l2_cluster(c.l2, &told);
  assert_int_equal(told.asked, 4);
  assert_int_equal(told.moved, 0);
  cluster_stop(&c);
}

static const struct gorge_l2_tag tag_a = {"a", 1};

/* An envelope with the tag "a", of nonce "aaaaaaaa", as bulk. */
static const char *tagged_value(size_t *len) {
  static char text[512];
  struct gorge_seal seal;
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_STRING, 60000, NULL, 1, &tag_a, "v", 1), GORGE_OK);
  char bytes[256];
  size_t at = 28;
  memcpy(bytes, seal.head, 4);
  memcpy(bytes + 4, "\0\6\1\1\1\1\1\1", 8);            /* version */
  memcpy(bytes + 12, "\0\0\1\xa3\x18\x5d\x50\x01", 8); /* ends after 1800000000 s by the server's clock */
  memcpy(bytes + 20, "aaaaaaaa", 8);
  memcpy(bytes + at, seal.bytes, seal.len);
  at += seal.len;
  bytes[at++] = 'v';
  int head = snprintf(text, sizeof text, "$%zu\r\n", at);
  memcpy(text + head, bytes, at);
  memcpy(text + head + at, "\r\n", 2);
  *len = (size_t)head + at + 2;
  return text;
}

/* Value and tags of a look-up may be at different nodes while their slot is on its way. */
static void test_a_tagged_value_on_its_way(void **state) {
  (void)state;
  static const char good[] = "*1\r\n$16\r\naaaaaaaa12345678\r\n", dead[] = "*1\r\n$16\r\nbbbbbbbb12345678\r\n";
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  know(&c);
  const char *key = key_at(&c, 1, 0);
  migrate(&c, key);
  value_there = tagged_value(&value_len);
  for (int i = 0; i < 8; i++) {
    bool hint = i % 2 == 0, here = i % 4 < 2, alive = i < 4;
    nonces_here = here ? (alive ? good : dead) : NULL;
    nonces_there = alive ? good : dead;
    init(&a, GORGE_L2_LOOKUP, key);
    a.rq.tags = &tag_a; /* known, or only found in the envelope */
    a.rq.ntags = hint ? 1 : 0;
    c.log[0] = '\0';
    assert_int_equal(gorge_l2_send(c.l2, &a.rq, c.now_ms), GORGE_OK);
    cluster_turn(&c);
    ended(&a, alive ? GORGE_HIT : GORGE_MISS);
    assert_int_equal(cluster_count(&c, "4:ASKING ;4:GET"), 1);
    assert_int_equal(cluster_count(&c, "4:ASKING ;4:MGET"), here ? 0 : 1);
  }
  cluster_stop(&c);
}

/* All commands about the key are for node 4 alone, for this once each, or for good. */
static bool for_good;
static const char *elsewhere(struct cluster *c, int node, size_t argc, const char **argv) {
  static char text[64];
  bool asking = has_asking[node];
  (void)argc;
  has_asking[node] = strcmp(argv[0], "ASKING") == 0;
  if (strcmp(argv[0], "CLUSTER") == 0 || strcmp(argv[0], "ASKING") == 0 || (node == 4 && (asking || for_good))) {
    return NULL;
  }
  const char *to = node == 4 ? "10.0.0.1:7001" : "10.0.0.4:7004";
  snprintf(text, sizeof text, "-%s %u %s\r\n", node == 4 || for_good ? "MOVED" : "ASK", cluster_slot_of(c, asked_key),
           to);
  return text;
}

static void test_an_explanation_finds_its_way(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  know(&c);
  const char *key = key_at(&c, 1, 0);
  migrate(&c, key);
  c.answer = elsewhere;
  for (int i = 0; i < 2; i++) {
    for_good = i == 1;
    c.log[0] = '\0';
    init(&a, GORGE_L2_EXPLAIN, key);
    a.rq.tags = &tag_a;
    a.rq.ntags = 1;
    assert_int_equal(gorge_l2_send(c.l2, &a.rq, c.now_ms), GORGE_OK);
    cluster_turn(&c);
    ended(&a, GORGE_OK);
    static const char *const commands[] = {"GET", "PTTL", "MGET"};
    for (int j = 0; j < 3; j++) {
      char text[32];
      snprintf(text, sizeof text, "4:%s%s ", for_good ? "" : "ASKING ;4:", commands[j]);
      assert_int_equal(cluster_count(&c, text), 1);
    }
  }
  cluster_stop(&c);
}

/* The epoch changes when the other node is asked; the first one has the value again by the time it is asked anew. */
static uint64_t own_epochs[GORGE_PARTITIONS];
static const char *cleared_on_the_way(struct cluster *c, int node, size_t argc, const char **argv) {
  bool value = strcmp(argv[0], "GET") == 0;
  uint32_t partition = gorge_partition_of(asked_key, strlen(asked_key), GORGE_PARTITIONS);
  if (value && node == 4) {
    own_epochs[partition] = 8;
  }
  if (node == 1 && own_epochs[partition] == 8 && (value || strcmp(argv[0], "MGET") == 0)) {
    c->answer_len = value ? value_len : 0;
    return value ? value_there : nonces_there;
  }
  return migrating(c, node, argc, argv);
}

static void test_a_clear_while_a_value_is_on_its_way(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  for (int i = 0; i < GORGE_PARTITIONS; i++) {
    own_epochs[i] = 7;
  }
  gorge_l2_share_epoch(c.l2, own_epochs, NULL, NULL);
  know(&c);
  migrate(&c, key_at(&c, 1, 0));
  value_there = tagged_value(&value_len);
  nonces_there = "*1\r\n$16\r\naaaaaaaa12345678\r\n";
  c.answer = cleared_on_the_way;
  init(&a, GORGE_L2_LOOKUP, asked_key);
  a.rq.tags = &tag_a;
  a.rq.ntags = 1;
  assert_int_equal(gorge_l2_send(c.l2, &a.rq, c.now_ms), GORGE_OK);
  cluster_turn(&c);
  ended(&a, GORGE_HIT);
  assert_int_equal(cluster_count(&c, "1:MGET"), 2); /* once under each epoch */
  cluster_stop(&c);
}

/* The value is here still, its tags are there already, where nobody answers. */
static const char *silent_about_tags(struct cluster *c, int node, size_t argc, const char **argv) {
  const char *answer = migrating(c, node, argc, argv);
  bool value = node == 1 && strcmp(argv[0], "GET") == 0;
  c->answer_len = value ? value_len : 0;
  return value ? value_there : node == 4 && strcmp(argv[0], "MGET") == 0 ? "" : answer;
}

/* A request that has asked several nodes ends, whichever of them ends first. */
static void test_the_l2_ends_while_a_value_is_on_its_way(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  know(&c);
  migrate(&c, key_at(&c, 1, 0));
  value_there = tagged_value(&value_len);
  init(&a, GORGE_L2_LOOKUP, asked_key);
  c.answer = silent_about_tags;
  assert_int_equal(gorge_l2_send(c.l2, &a.rq, c.now_ms), GORGE_OK);
  cluster_turn(&c);
  assert_int_equal(cluster_count(&c, "4:MGET"), 1);
  assert_int_equal(a.calls, 0);
  cluster_stop(&c);
  ended(&a, GORGE_ERR_CLOSED);
}

/* The first try of everything is TRYAGAIN, so often. */
static int tries_left;
static const char *try_again(struct cluster *c, int node, size_t argc, const char **argv) {
  (void)c, (void)node, (void)argc;
  if (strcmp(argv[0], "CLUSTER") == 0 || tries_left == 0) {
    return NULL;
  }
  tries_left--;
  return "-TRYAGAIN Multiple keys request during rehashing of slot\r\n";
}

static void test_tryagain_is_tried_again(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  struct gorge_l2_cluster told;
  cluster_start(&c, 3);
  know(&c);
  c.answer = try_again;
  tries_left = 2;
  ask(&c, &a, GORGE_L2_DELETE, "k");
  assert_int_equal(a.calls, 0);
  assert_true(gorge_l2_next_ms(c.l2) > c.now_ms && gorge_l2_next_ms(c.l2) <= c.now_ms + 5);
  cluster_wait(&c, 30);
  ended(&a, GORGE_OK);
  gorge_l2_cluster(c.l2, &told);
  assert_int_equal(told.tried_again, 2);
  /* given up by its caller meanwhile */
  tries_left = 1;
  ask(&c, &a, GORGE_L2_DELETE, "k");
  gorge_l2_cancel(&a.rq);
  cluster_wait(&c, 30);
  assert_int_equal(a.calls, 0);
  assert_true(gorge_l2_next_ms(c.l2) == UINT64_MAX);
  cluster_stop(&c);
}

static void test_tryagain_is_not_for_ever(void **state) {
  (void)state;
  struct cluster c;
  struct asked read, write;
  cluster_start(&c, 3);
  know(&c);
  c.answer = try_again;
  tries_left = 1000;
  ask(&c, &read, GORGE_L2_LEASE, "k");
  ask(&c, &write, GORGE_L2_DELETE, "k");
  cluster_wait(&c, 60);
  ended(&read, GORGE_ERR_REDIS); /* its loader is the better wait */
  assert_true(read.moving);
  assert_non_null(strstr(read.error, "TRYAGAIN"));
  cluster_wait(&c, 380);
  assert_int_equal(write.calls, 0);
  cluster_wait(&c, 60);
  ended(&write, GORGE_ERR_REDIS);
  assert_true(write.moving);
  cluster_stop(&c);
}

/* ---- nodes that go away ---- */

static void test_a_master_is_replaced(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  know(&c);
  const char *key = key_at(&c, 1, 0);
  ask(&c, &a, GORGE_L2_LOOKUP, key);
  ended(&a, GORGE_MISS);
  c.down[1] = true;
  cluster_turn(&c);
  assert_int_equal(begin(&c, &a, GORGE_L2_LOOKUP, key), GORGE_ERR_DOWN); /* at once */
  cluster_wait(&c, 300);
  int before = c.slots_asked;
  for (int i = 0; i < GORGE_SLOTS; i++) {
    c.owner[i] = c.owner[i] == 1 ? 6 : c.owner[i];
  }
  (void)begin(&c, &a, GORGE_L2_LOOKUP, key);
  cluster_wait(&c, 2500);
  assert_in_range(c.slots_asked, before + 1, before + 10);
  ask(&c, &a, GORGE_L2_LOOKUP, key);
  ended(&a, GORGE_MISS);
  assert_int_equal(cluster_count(&c, get_at(6, key)), 1);
  cluster_stop(&c);
}

static void test_a_master_that_stands_still_is_noticed(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  know(&c);
  const char *key = key_at(&c, 1, 0);
  ask(&c, &a, GORGE_L2_LOOKUP, key);
  int before = c.slots_asked;
  c.mute[1] = true;
  ask(&c, &a, GORGE_L2_LOOKUP, key);
  for (int i = 0; i < GORGE_SLOTS; i++) {
    c.owner[i] = c.owner[i] == 1 ? 6 : c.owner[i];
  }
  cluster_wait(&c, 520);
  ended(&a, GORGE_ERR_TIMEOUT);
  cluster_wait(&c, 100);
  assert_int_equal(c.slots_asked, before + 1);
  assert_int_equal(cluster_count(&c, "1:CLUSTER"), 0);
  ask(&c, &a, GORGE_L2_LOOKUP, key);
  ended(&a, GORGE_MISS);
  cluster_stop(&c);
}

static void test_connections_to_nodes_without_partitions_end(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  know(&c);
  for (int i = 0; i < GORGE_SLOTS; i++) {
    c.owner[i] = 4;
  }
  const char *key = asked_key = "k";
  c.answer = moved;
  ask(&c, &a, GORGE_L2_LOOKUP, key);
  ended(&a, GORGE_MISS);
  cluster_wait(&c, 5300);
  for (uint32_t i = 0; i < gorge_l2_nodes(c.l2); i++) {
    bool used = gorge_l2_node_place(c.l2, i)->port == 7004;
    assert_int_equal(gorge_conn_state(gorge_l2_node_conn(c.l2, i)), used ? GORGE_CONN_READY : GORGE_CONN_DOWN);
    assert_int_equal(gorge_l2_node_partitions(c.l2, i), used ? 64 : 0);
  }
  cluster_stop(&c);
}

/* Places that come and go do not use up the nodes. */
static void test_nodes_are_used_again(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  uint64_t changes = 0;
  cluster_start(&c, 3);
  know(&c);
  const char *key = asked_key = "k";
  c.answer = moved;
  for (int node = 4; node < 190; node++) {
    for (int i = 0; i < GORGE_SLOTS; i++) {
      c.owner[i] = (uint8_t)node;
    }
    ask(&c, &a, GORGE_L2_LOOKUP, key);
    ended(&a, GORGE_MISS);
    assert_int_equal(cluster_count(&c, get_at(node, key)), 1);
    cluster_wait(&c, 5200);
    c.log[0] = '\0';
  }
  assert_in_range(gorge_l2_nodes(c.l2), 4, GORGE_NODES_MAX);
  for (uint32_t i = 0; i < gorge_l2_nodes(c.l2); i++) {
    changes += gorge_l2_node_changes(c.l2, i);
  }
  assert_true(changes >= 186);
  cluster_stop(&c);
}

static void test_wrong_arguments(void **state) {
  (void)state;
  struct cluster c;
  struct gorge_place seed;
  cluster_start(&c, 3);
  assert_int_equal(gorge_l2_follow_cluster(c.l2, &seed, 0), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_l2_follow_cluster(c.l2, &seed, GORGE_SEEDS_MAX + 1), GORGE_ERR_ARGUMENT);
  assert_false(gorge_place_init(&seed, "", 0, 1));
  assert_false(gorge_place_init(&seed, "a b", 3, 1));
  assert_false(gorge_place_init(&seed, "a", 1, 0));
  assert_false(gorge_place_init(&seed, "a", 1, 65536));
  char text[GORGE_PLACE_TEXT];
  assert_true(gorge_place_init(&seed, "2001:db8::1", 11, 7000));
  gorge_place_text(&seed, text);
  assert_string_equal(text, "[2001:db8::1]:7000");
  cluster_stop(&c);
}

/* ---- all partitions ---- */

static void test_tags_are_invalidated_everywhere(void **state) {
  (void)state;
  struct cluster c;
  struct asked a;
  cluster_start(&c, 3);
  know(&c);
  init(&a, GORGE_L2_INVALIDATE_TAGS, "");
  a.rq.key_len = 0;
  a.rq.tags = &tag_a;
  a.rq.ntags = 1;
  assert_int_equal(gorge_l2_send(c.l2, &a.rq, c.now_ms), GORGE_OK);
  cluster_turn(&c);
  ended(&a, GORGE_OK);
  assert_int_equal(cluster_count(&c, ":EVAL"), 64);
  for (int node = 1; node <= 3; node++) {
    char text[32];
    snprintf(text, sizeof text, "%d:EVAL", node);
    assert_in_range(cluster_count(&c, text), 10, 40);
  }
  cluster_stop(&c);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_a_seed_tells_where_the_partitions_are),
      cmocka_unit_test(test_requests_wait_for_the_map),
      cmocka_unit_test(test_too_many_do_not_wait),
      cmocka_unit_test(test_a_seed_that_is_down_is_not_the_end),
      cmocka_unit_test(test_no_node_can_be_reached),
      cmocka_unit_test(test_seeds_that_do_not_answer),
      cmocka_unit_test(test_a_plain_redis_is_told_of),
      cmocka_unit_test(test_malformed_maps),
      cmocka_unit_test(test_a_master_without_host_is_where_was_asked),
      cmocka_unit_test(test_a_hole_in_the_map),
      cmocka_unit_test(test_a_seed_that_knows_nothing_does_not_keep_others_from_being_asked),
      cmocka_unit_test(test_moved_is_followed_and_remembered),
      cmocka_unit_test(test_writes_follow_moved),
      cmocka_unit_test(test_redirections_end),
      cmocka_unit_test(test_nonsense_is_an_error),
      cmocka_unit_test(test_clusterdown_makes_the_map_be_asked_for),
      cmocka_unit_test(test_ask_holds_for_once),
      cmocka_unit_test(test_a_tagged_value_on_its_way),
      cmocka_unit_test(test_an_explanation_finds_its_way),
      cmocka_unit_test(test_a_clear_while_a_value_is_on_its_way),
      cmocka_unit_test(test_the_l2_ends_while_a_value_is_on_its_way),
      cmocka_unit_test(test_tryagain_is_tried_again),
      cmocka_unit_test(test_tryagain_is_not_for_ever),
      cmocka_unit_test(test_a_master_is_replaced),
      cmocka_unit_test(test_a_master_that_stands_still_is_noticed),
      cmocka_unit_test(test_connections_to_nodes_without_partitions_end),
      cmocka_unit_test(test_nodes_are_used_again),
      cmocka_unit_test(test_wrong_arguments),
      cmocka_unit_test(test_tags_are_invalidated_everywhere),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
