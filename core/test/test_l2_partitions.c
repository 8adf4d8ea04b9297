/* SPDX-License-Identifier: MIT */
/*
 * A namespace of as many partitions as it has in a cluster, on one real Redis: where its keys are, and what goes to all of them. A simple
 * blocking driver moves the bytes, a step at a time, so that a sender can be ended between any two.
 */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "io/l2.h"
#include "io/subscriber.h"
#include "proto/slot.h"
#include "test/drive_support.h"
#include "test/wire.h"

enum { ALL = GORGE_PARTITIONS, PATIENCE_MS = 30000 };

static struct support_redis redis;
static redisContext *admin; /* plain commands of the test itself */
static char keys[ALL][16];  /* one of each partition */

static uint64_t now_ms(void) { return support_now_us() / 1000; }

/* ---- the driver ---- */

struct link {
  struct gorge_conn *conn;
  int fd;
};

static void link_close(struct link *l) {
  if (l->fd >= 0) {
    close(l->fd);
    l->fd = -1;
    gorge_conn_closed(l->conn, now_ms(), "closed");
  }
}

static void link_open(struct link *l) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", redis.path);
  l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  assert_int_equal(connect(l->fd, (struct sockaddr *)&address, sizeof address), 0);
  gorge_conn_opened(l->conn, now_ms());
}

static void link_send(struct link *l) {
  const char *ptr;
  size_t len;
  for (gorge_conn_output(l->conn, &ptr, &len); len > 0; gorge_conn_output(l->conn, &ptr, &len)) {
    ssize_t n = send(l->fd, ptr, len, MSG_NOSIGNAL);
    assert_true(n > 0);
    gorge_conn_sent(l->conn, (size_t)n);
  }
}

static void link_receive(struct link *l) {
  struct pollfd p = {.fd = l->fd, .events = POLLIN};
  if (poll(&p, 1, 1) > 0) {
    char bytes[4096];
    ssize_t n = recv(l->fd, bytes, sizeof bytes, 0);
    assert_true(n > 0);
    assert_int_equal(gorge_conn_input(l->conn, bytes, (size_t)n, now_ms()), GORGE_OK);
  }
  assert_false(gorge_conn_tick(l->conn, now_ms()));
}

static void link_step(struct link *l) {
  if (gorge_conn_want_connect(l->conn, now_ms())) {
    link_open(l);
  }
  if (l->fd >= 0) {
    link_send(l);
    link_receive(l);
  }
}

/* ---- nodes, their requests, and a listener ---- */

struct node {
  struct gorge_l2 *l2;
  struct link link;
};

static struct node node_with(uint32_t max_pending) {
  const struct gorge_conn_config config = {
      .connect_timeout_ms = 20000, .timeout_ms = 20000, .max_pending = max_pending, .seed = 7};
  struct node n = {.l2 = gorge_l2_create("ns", 2, ALL, &config)};
  assert_non_null(n.l2);
  n.link = (struct link){gorge_l2_conn(n.l2), -1};
  return n;
}

static struct node node_start(void) { return node_with(256); }

static void node_stop(struct node *n) {
  link_close(&n->link);
  gorge_l2_destroy(n->l2);
}

struct asked {
  struct gorge_l2_request rq; /* first: done finds the rest */
  int calls;
  struct gorge_l2_result result;
  char value[64], error[256];
  struct gorge_l2_tag tag_list[GORGE_TAGS_MAX];
  uint64_t nonces[GORGE_TAGS_MAX];
  char entries[4096]; /* of JOURNAL: "type:name " each */
  uint64_t last;      /* version of the last of them */
};

static void on_done(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now) {
  (void)now;
  struct asked *a = (struct asked *)rq;
  a->calls++;
  a->result = *result;
  if (result->status == GORGE_HIT) {
    snprintf(a->value, sizeof a->value, "%.*s", (int)result->value_len, result->value);
  }
  snprintf(a->error, sizeof a->error, "%s", result->error != NULL ? result->error : "");
}

static void on_entry(struct gorge_l2_request *rq, const struct gorge_message *m, uint64_t now) {
  (void)now;
  struct asked *a = (struct asked *)rq;
  size_t at = strlen(a->entries);
  assert_int_equal(m->partition, rq->partition);
  snprintf(a->entries + at, sizeof a->entries - at, "%d:%.*s ", (int)m->type, (int)m->len, m->ptr);
  a->last = m->version;
}

/* Prepares a request; tags are names separated by blanks. */
static void ask(struct asked *a, enum gorge_l2_verb verb, const char *key, const char *tags) {
  memset(a, 0, sizeof *a);
  a->rq.verb = verb;
  a->rq.key = key;
  a->rq.key_len = key != NULL ? (uint32_t)strlen(key) : 0;
  a->rq.kind = GORGE_KIND_STRING;
  a->rq.ttl_ms = 60000;
  a->rq.lease_ms = 30000;
  a->rq.token = 0x746f6b656e2d3031;
  a->rq.value = "value";
  a->rq.value_len = 5;
  a->rq.done = on_done;
  a->rq.message = on_entry;
  a->rq.tags = a->tag_list;
  while (tags != NULL && *tags != '\0') {
    size_t len = strcspn(tags, " ");
    a->tag_list[a->rq.ntags++] = (struct gorge_l2_tag){tags, (uint32_t)len};
    tags += len + (tags[len] == ' ');
  }
}

static int run(struct node *n, struct asked *a) {
  uint64_t until = now_ms() + PATIENCE_MS;
  int status = gorge_l2_send(n->l2, &a->rq, now_ms());
  while (status == GORGE_OK && a->calls == 0 && now_ms() < until) {
    link_step(&n->link);
  }
  if (status == GORGE_OK) {
    assert_int_equal(a->calls, 1);
    status = a->result.status;
  }
  return status;
}

static int tell(struct node *n, struct asked *a, enum gorge_l2_verb verb, const char *key, const char *tags) {
  ask(a, verb, key, tags);
  return run(n, a);
}

static int journal(struct node *n, struct asked *a, uint32_t partition, uint64_t since) {
  ask(a, GORGE_L2_JOURNAL, NULL, NULL);
  a->rq.partition = partition;
  a->rq.since = since;
  return run(n, a);
}

static uint32_t home_of(const char *tag) { return gorge_partition_of(tag, strlen(tag), ALL); }

struct heard {
  int type;
  char name[32];
  uint32_t partition;
  uint64_t version, previous;
};

struct listener {
  struct gorge_subscriber *s;
  struct link link;
  bool ready, end;
  int count;
  struct heard heard[256];
};

static void on_ready(void *ctx, uint64_t now) {
  (void)now;
  ((struct listener *)ctx)->ready = true;
}

static void on_message(void *ctx, const struct gorge_message *m, uint64_t now) {
  (void)now;
  struct listener *l = ctx;
  if (m->len == 8 && memcmp(m->ptr, "sentinel", 8) == 0) {
    l->end = true;
    return;
  }
  assert_in_range(l->count, 0, 255);
  struct heard *h = &l->heard[l->count++];
  *h = (struct heard){.type = (int)m->type, .partition = m->partition, .version = m->version, .previous = m->previous};
  snprintf(h->name, sizeof h->name, "%.*s", (int)m->len, m->ptr);
}

static void listener_start(struct listener *l) {
  memset(l, 0, sizeof *l);
  const struct gorge_conn_config config = {.connect_timeout_ms = 20000, .timeout_ms = 20000, .seed = 8};
  const struct gorge_subscriber_hooks hooks = {.ctx = l, .ready = on_ready, .message = on_message, .own = 9};
  l->s = gorge_subscriber_create("ns", 2, &config, &hooks);
  l->link = (struct link){gorge_subscriber_conn(l->s), -1};
  for (uint64_t until = now_ms() + PATIENCE_MS; !l->ready && now_ms() < until;) {
    link_step(&l->link);
  }
  assert_true(l->ready);
}

/* Everything that was published before now. Returns how much. */
static int listener_hear(struct listener *l) {
  static const char sentinel[] = "\1\2\0\0\0\0\0\0\0\0sentinel";
  l->end = false;
  l->count = 0;
  freeReplyObject(redisCommand(admin, "PUBLISH gorge:2:ns %b", sentinel, sizeof sentinel - 1));
  for (uint64_t until = now_ms() + PATIENCE_MS; !l->end && now_ms() < until;) {
    link_step(&l->link);
  }
  assert_true(l->end);
  return l->count;
}

static void listener_stop(struct listener *l) {
  link_close(&l->link);
  gorge_subscriber_destroy(l->s);
}

static void assert_heard(const struct heard *h, int type, const char *name, uint64_t version, uint64_t previous) {
  assert_int_equal(h->type, type);
  assert_string_equal(h->name, name);
  assert_true(h->version == version && h->previous == previous);
  assert_int_equal(h->partition, home_of(name));
}

/* ---- what the test itself asks Redis ---- */

static long long number(const char *format, ...) {
  va_list args;
  va_start(args, format);
  redisReply *r = redisvCommand(admin, format, args);
  va_end(args);
  assert_non_null(r);
  if (r->type == REDIS_REPLY_ERROR) {
    fail_msg("%s: %s", format, r->str);
  }
  long long n = r->type == REDIS_REPLY_INTEGER ? r->integer : (long long)r->len;
  freeReplyObject(r);
  return n;
}

static void set_epoch(uint32_t partition) { assert_int_equal(number("SET {2:ns:%u}:e 7", partition), 2); }

static int setup(void **state) {
  (void)state;
  assert_int_equal(number("FLUSHALL"), 2);
  for (uint32_t i = 0; i < ALL; i++) {
    set_epoch(i);
  }
  return 0;
}

static void set_all(struct node *n, const char *tags) {
  struct asked a;
  for (uint32_t i = 0; i < ALL; i++) {
    assert_int_equal(tell(n, &a, GORGE_L2_SET, keys[i], tags), GORGE_STORED);
  }
}

/* How many of the values are there. */
static uint32_t alive(struct node *n, const char *tags) {
  struct asked a;
  uint32_t count = 0;
  for (uint32_t i = 0; i < ALL; i++) {
    int status = tell(n, &a, GORGE_L2_LOOKUP, keys[i], tags);
    assert_true(status == GORGE_HIT || status == GORGE_MISS);
    count += status == GORGE_HIT;
  }
  return count;
}

/* ---- tests ---- */

/* Each verb finds what another one left, in a partition that is not the first, and touches no key of another. */
static void test_every_verb_in_a_partition(void **state) {
  (void)state;
  struct node n = node_start();
  struct asked a, got;
  const char *key = keys[37];
  assert_int_equal(tell(&n, &a, GORGE_L2_LOOKUP, key, "t"), GORGE_MISS);
  assert_int_equal(tell(&n, &got, GORGE_L2_LEASE, key, "t"), GORGE_LEASE);
  assert_int_equal(number("EXISTS {2:ns:37}:7:l:%s {2:ns:37}:7:t:t", key), 2);
  assert_int_equal(tell(&n, &a, GORGE_L2_RENEW, key, NULL), GORGE_OK);
  ask(&a, GORGE_L2_FILL, key, "t");
  a.rq.tag_nonces = got.result.tag_nonces;
  assert_int_equal(run(&n, &a), GORGE_STORED);
  uint64_t version = a.result.version;
  assert_int_equal(number("EXISTS {2:ns:37}:7:v:%s {2:ns:37}:c", key), 2);
  ask(&a, GORGE_L2_LOOKUP, key, "t");
  a.rq.confirm_epoch = true;
  assert_int_equal(run(&n, &a), GORGE_HIT);
  assert_string_equal(a.value, "value");
  assert_true(a.result.version == version);
  ask(&a, GORGE_L2_UPDATE, key, "t");
  a.rq.since = version;
  assert_int_equal(run(&n, &a), GORGE_STORED);
  assert_int_equal(number("EXISTS {2:ns:37}:u:746f6b656e2d3031"), 1);
  assert_true(a.result.version > version);
  version = a.result.version;
  ask(&a, GORGE_L2_TOUCH, key, "t");
  a.rq.ttl_ms = 1000;
  assert_int_equal(run(&n, &a), GORGE_OK);
  assert_true(a.result.before == version && a.result.version > version);
  assert_int_equal(tell(&n, &a, GORGE_L2_SET, key, "u t"), GORGE_STORED);
  assert_int_equal(number("XLEN {2:ns:37}:j"), 3);
  assert_int_equal(tell(&n, &a, GORGE_L2_DELETE, key, NULL), GORGE_OK);
  version = a.result.version;
  assert_int_equal(tell(&n, &a, GORGE_L2_LEASE, key, NULL), GORGE_LEASE);
  assert_true(a.result.version == version);
  assert_int_equal(tell(&n, &a, GORGE_L2_RELEASE, key, NULL), GORGE_OK);
  assert_int_equal(journal(&n, &a, 37, version), GORGE_OK);
  assert_true(a.result.version == version);
  redisReply *r = redisCommand(admin, "KEYS *");
  for (size_t i = 0; i < r->elements; i++) {
    const char *name = r->element[i]->str;
    assert_true(strncmp(name, "{2:ns:37}:", 10) == 0 || strcmp(name + strlen(name) - 3, "}:e") == 0);
  }
  assert_int_equal(r->elements, ALL + 2 + 2 + 1); /* epochs; counter and journal; two tags; the update's record */
  freeReplyObject(r);
  node_stop(&n);
}

static void test_a_partition_that_is_not_there(void **state) {
  (void)state;
  struct gorge_conn_config config = {.seed = 1};
  struct node n = node_start();
  struct asked a;
  assert_int_equal(journal(&n, &a, ALL, 0), GORGE_ERR_ARGUMENT);
  ask(&a, GORGE_L2_HEARTBEAT, NULL, NULL);
  a.rq.partition = ALL;
  assert_int_equal(run(&n, &a), GORGE_ERR_ARGUMENT);
  node_stop(&n);
  assert_null(gorge_l2_create("ns", 2, 0, &config));
  assert_null(gorge_l2_create("ns", 2, 2, &config));
  assert_null(gorge_l2_create("ns", 2, 2 * ALL, &config));
}

/* Each entry of a journal has a version of its own, and says which one it came after. */
static void test_messages_form_a_chain(void **state) {
  (void)state;
  struct node n = node_start();
  struct listener l;
  struct asked a;
  listener_start(&l);
  uint32_t home = home_of("t");
  assert_int_equal(tell(&n, &a, GORGE_L2_SET, keys[home], NULL), GORGE_STORED);
  uint64_t first = a.result.version;
  assert_int_equal(tell(&n, &a, GORGE_L2_SET, keys[(home + 1) % ALL], NULL), GORGE_STORED);
  uint64_t other = a.result.version;
  assert_int_equal(tell(&n, &a, GORGE_L2_DELETE, keys[home], NULL), GORGE_OK);
  uint64_t second = a.result.version;
  assert_int_equal(tell(&n, &a, GORGE_L2_INVALIDATE_TAGS, NULL, "t x y"), GORGE_OK);
  uint64_t last = a.result.version;
  assert_int_equal(listener_hear(&l), 6);
  assert_heard(&l.heard[0], GORGE_MESSAGE_KEY, keys[home], first, 0);
  assert_heard(&l.heard[1], GORGE_MESSAGE_KEY, keys[(home + 1) % ALL], other, 0);
  assert_heard(&l.heard[2], GORGE_MESSAGE_KEY, keys[home], second, first);
  uint64_t before = second;
  for (int i = 0; i < 3; i++) {
    assert_int_equal(l.heard[3 + i].type, GORGE_MESSAGE_TAG);
    assert_memory_equal(l.heard[3 + i].name, &"t\0x\0y"[2 * i], 2);
    assert_int_equal(l.heard[3 + i].partition, home);
    assert_true(l.heard[3 + i].previous == before && l.heard[3 + i].version > before);
    before = l.heard[3 + i].version;
  }
  assert_true(before == last);
  assert_int_equal(journal(&n, &a, home, first), GORGE_OK);
  char expected[128];
  snprintf(expected, sizeof expected, "1:%s 1:%s 2:t 2:x 2:y ", keys[home], keys[home]);
  assert_string_equal(a.entries, expected);
  assert_true(a.result.version == last && a.last == last);
  /* What a heartbeat tells of is the partition's own, and heard by its sender alone. */
  for (uint32_t i = home; i < home + 3; i++) {
    ask(&a, GORGE_L2_HEARTBEAT, NULL, NULL);
    a.rq.partition = i % ALL;
    a.rq.since = 9;
    uint64_t expect = i == home ? last : i == home + 1 ? other : 0;
    assert_int_equal(run(&n, &a), GORGE_OK);
    assert_true(a.result.version == expect);
    assert_int_equal(listener_hear(&l), 1);
    assert_int_equal(l.heard[0].type, GORGE_MESSAGE_HEARTBEAT);
    assert_int_equal(l.heard[0].partition, i % ALL);
    assert_true(l.heard[0].version == expect && l.heard[0].previous == 0);
  }
  /* Who waits for a fill hears of it in the same format. */
  assert_int_equal(tell(&n, &a, GORGE_L2_LEASE, keys[5], NULL), GORGE_LEASE);
  ask(&a, GORGE_L2_LEASE, keys[5], NULL);
  a.rq.token = 2;
  assert_int_equal(run(&n, &a), GORGE_BUSY);
  assert_int_equal(tell(&n, &a, GORGE_L2_FILL, keys[5], NULL), GORGE_STORED);
  assert_int_equal(listener_hear(&l), 1);
  assert_heard(&l.heard[0], GORGE_MESSAGE_FILLED, keys[5], a.result.version, 0);
  listener_stop(&l);
  node_stop(&n);
}

static void test_a_tag_ends_values_in_all_partitions(void **state) {
  (void)state;
  struct node n = node_start(), other = node_start();
  struct listener l;
  struct asked a;
  set_all(&n, "t");
  assert_int_equal(alive(&other, "t"), ALL);
  listener_start(&l);
  assert_int_equal(tell(&n, &a, GORGE_L2_INVALIDATE_TAGS, NULL, "t"), GORGE_OK);
  assert_int_equal(alive(&n, "t"), 0);
  assert_int_equal(alive(&other, NULL), 0);
  assert_int_equal(listener_hear(&l), 1); /* one is enough for those who hear it */
  assert_int_equal(l.heard[0].type, GORGE_MESSAGE_TAG);
  assert_string_equal(l.heard[0].name, "t");
  assert_int_equal(l.heard[0].partition, home_of("t"));
  assert_true(l.heard[0].version == a.result.version && l.heard[0].previous > 0);
  for (uint32_t i = 0; i < ALL; i++) {
    assert_int_equal(number("XLEN {2:ns:%u}:j", i), i == home_of("t") ? 2 : 1);
  }
  set_all(&n, "t");
  assert_int_equal(alive(&n, "t"), ALL);
  listener_stop(&l);
  node_stop(&n);
  node_stop(&other);
}

/* A fill that began before phase 1 is refused in its partition, whether its tags were known or not. */
static void test_a_fill_that_began_before_is_refused(void **state) {
  (void)state;
  struct node n = node_start();
  struct asked known, late, a;
  assert_int_equal(tell(&n, &known, GORGE_L2_LEASE, keys[40], "t"), GORGE_LEASE);
  assert_int_equal(tell(&n, &a, GORGE_L2_SET, keys[41], NULL), GORGE_STORED);
  assert_int_equal(tell(&n, &a, GORGE_L2_DELETE, keys[41], NULL), GORGE_OK);
  assert_int_equal(tell(&n, &late, GORGE_L2_LEASE, keys[41], NULL), GORGE_LEASE);
  assert_int_equal(tell(&n, &a, GORGE_L2_INVALIDATE_TAGS, NULL, "t"), GORGE_OK);
  ask(&a, GORGE_L2_FILL, keys[40], "t");
  a.rq.tag_nonces = known.result.tag_nonces;
  assert_int_equal(run(&n, &a), GORGE_REFUSED);
  ask(&a, GORGE_L2_FILL, keys[41], "t");
  a.rq.since = late.result.version;
  assert_int_equal(run(&n, &a), GORGE_REFUSED);
  node_stop(&n);
}

/* Whether phase 1 is over in Redis: each partition but the home one has the tag. */
static bool phase_one_done(void) {
  long long count = 0;
  for (uint32_t i = 0; i < ALL; i++) {
    count += number("EXISTS {2:ns:%u}:7:t:t", i);
  }
  return count == ALL - 1;
}

/* Whether all answers have come; what they lead to is not sent. */
static bool commit_is_due(struct node *n) {
  const char *ptr;
  size_t len;
  link_receive(&n->link);
  gorge_conn_output(n->link.conn, &ptr, &len);
  return len > 0;
}

static void test_a_sender_that_ends_between_the_phases_has_told_nobody(void **state) {
  (void)state;
  struct node n = node_start(), other = node_start();
  struct listener l;
  struct asked a, b;
  uint32_t home = home_of("t");
  listener_start(&l);
  ask(&a, GORGE_L2_SET, keys[0], NULL);
  assert_int_equal(run(&n, &a), GORGE_STORED); /* it is connected */
  listener_hear(&l);
  ask(&a, GORGE_L2_INVALIDATE_TAGS, NULL, "t");
  assert_int_equal(gorge_l2_send(n.l2, &a.rq, now_ms()), GORGE_OK);
  link_send(&n.link);
  assert_true(WAIT_UNTIL(phase_one_done()));
  assert_true(WAIT_UNTIL(commit_is_due(&n)));
  assert_int_equal(a.calls, 0);
  link_close(&n.link);
  assert_int_equal(a.calls, 1);
  assert_int_equal(a.result.status, GORGE_ERR_DOWN);
  assert_int_equal(number("EXISTS {2:ns:%u}:7:t:t", home), 0);
  assert_int_equal(number("EXISTS {2:ns:%u}:j", home), 0);
  assert_int_equal(listener_hear(&l), 0);
  /* Again, by another one. */
  assert_int_equal(tell(&other, &b, GORGE_L2_INVALIDATE_TAGS, NULL, "t"), GORGE_OK);
  assert_int_equal(listener_hear(&l), 1);
  assert_heard(&l.heard[0], GORGE_MESSAGE_TAG, "t", b.result.version, 0);
  listener_stop(&l);
  node_stop(&n);
  node_stop(&other);
}

static void test_a_phase_one_that_fails_leaves_no_message(void **state) {
  (void)state;
  struct node n = node_start();
  struct listener l;
  struct asked a;
  uint32_t home = home_of("t"), bad = (home + 20) % ALL;
  set_all(&n, "t");
  listener_start(&l);
  assert_int_equal(number("DEL {2:ns:%u}:c", bad), 1);
  assert_int_equal(number("LPUSH {2:ns:%u}:c x", bad), 1);
  assert_int_equal(tell(&n, &a, GORGE_L2_INVALIDATE_TAGS, NULL, "t"), GORGE_ERR_REDIS);
  assert_non_null(strstr(a.error, "WRONGTYPE"));
  assert_int_equal(a.result.version, 0);
  for (int i = 0; i < 20; i++) {
    link_step(&n.link); /* nothing comes after */
  }
  assert_int_equal(a.calls, 1);
  assert_int_equal(listener_hear(&l), 0);
  assert_int_equal(number("XLEN {2:ns:%u}:j", home), 1);
  assert_int_equal(number("DEL {2:ns:%u}:c", bad), 1);
  assert_int_equal(tell(&n, &a, GORGE_L2_INVALIDATE_TAGS, NULL, "t"), GORGE_OK);
  assert_int_equal(alive(&n, "t"), 0);
  assert_int_equal(listener_hear(&l), 1);
  listener_stop(&l);
  node_stop(&n);
}

static void test_clear_is_for_all_partitions(void **state) {
  (void)state;
  struct node n = node_start(), other = node_start();
  struct listener l;
  struct asked a;
  set_all(&n, NULL);
  assert_int_equal(alive(&other, NULL), ALL);
  listener_start(&l);
  assert_int_equal(tell(&n, &a, GORGE_L2_CLEAR, NULL, NULL), GORGE_OK);
  assert_int_equal(alive(&n, NULL), 0);
  assert_int_equal(listener_hear(&l), ALL);
  bool seen[ALL] = {false};
  uint64_t highest = 0;
  for (int i = 0; i < ALL; i++) {
    const struct heard *h = &l.heard[i];
    assert_int_equal(h->type, GORGE_MESSAGE_CLEAR);
    assert_false(seen[h->partition]);
    seen[h->partition] = true;
    assert_true(h->previous > 0 && h->version > h->previous);
    highest = h->version > highest ? h->version : highest;
  }
  assert_true(a.result.version == highest);
  /* The other one writes under names of the past, is told so in each partition, and goes on. */
  set_all(&other, NULL);
  assert_int_equal(alive(&n, NULL), ALL);
  /* One partition that cannot be cleared fails the whole. */
  assert_int_equal(number("DEL {2:ns:63}:c"), 1);
  assert_int_equal(number("LPUSH {2:ns:63}:c x"), 1);
  assert_int_equal(tell(&n, &a, GORGE_L2_CLEAR, NULL, NULL), GORGE_ERR_REDIS);
  listener_stop(&l);
  node_stop(&n);
  node_stop(&other);
}

/* After FLUSHALL each partition makes its epoch anew, when it is asked. */
static void test_all_is_lost(void **state) {
  (void)state;
  struct node n = node_start();
  struct asked a;
  set_all(&n, "t");
  assert_int_equal(number("FLUSHALL"), 2);
  set_all(&n, "t");
  assert_int_equal(alive(&n, "t"), ALL);
  assert_int_equal(tell(&n, &a, GORGE_L2_INVALIDATE_TAGS, NULL, "t"), GORGE_OK);
  assert_int_equal(alive(&n, "t"), 0);
  assert_int_equal(journal(&n, &a, 11, 1), GORGE_MISS);
  assert_true(a.result.version > 1);
  node_stop(&n);
}

/* Fewer places than partitions: what finds none waits for the answers of the others. */
static void test_a_queue_that_is_short(void **state) {
  (void)state;
  struct node n = node_with(8);
  struct asked a;
  set_all(&n, "t");
  assert_int_equal(tell(&n, &a, GORGE_L2_INVALIDATE_TAGS, NULL, "t"), GORGE_OK);
  assert_int_equal(alive(&n, "t"), 0);
  set_all(&n, "t");
  assert_int_equal(tell(&n, &a, GORGE_L2_CLEAR, NULL, NULL), GORGE_OK);
  assert_int_equal(alive(&n, "t"), 0);
  struct asked waiting[8];
  for (int i = 0; i < 8; i++) {
    ask(&waiting[i], GORGE_L2_LOOKUP, keys[i], NULL);
    assert_int_equal(gorge_l2_send(n.l2, &waiting[i].rq, now_ms()), GORGE_OK);
  }
  ask(&a, GORGE_L2_CLEAR, NULL, NULL);
  assert_int_equal(gorge_l2_send(n.l2, &a.rq, now_ms()), GORGE_ERR_FULL);
  assert_int_equal(a.calls, 0);
  node_stop(&n);
}

static void test_cancel_at_any_moment(void **state) {
  (void)state;
  struct node n = node_with(60 * 2 * ALL); /* room for all that is given up, however late Redis answers */
  struct asked a, b;
  uint64_t seed = 3;
  assert_int_equal(tell(&n, &b, GORGE_L2_SET, keys[0], NULL), GORGE_STORED);
  for (int round = 0; round < 60; round++) {
    ask(&a, round % 2 == 0 ? GORGE_L2_INVALIDATE_TAGS : GORGE_L2_CLEAR, NULL, round % 2 == 0 ? "t" : NULL);
    assert_int_equal(gorge_l2_send(n.l2, &a.rq, now_ms()), GORGE_OK);
    for (uint64_t steps = wire_random(&seed) % 4; steps > 0; steps--) {
      link_step(&n.link);
    }
    int calls = a.calls;
    gorge_l2_cancel(&a.rq);
    gorge_l2_cancel(&a.rq);
    for (int i = 0; i < 3; i++) {
      link_step(&n.link);
    }
    assert_int_equal(a.calls, calls);
  }
  assert_int_equal(tell(&n, &b, GORGE_L2_INVALIDATE_TAGS, NULL, "t"), GORGE_OK);
  assert_int_equal(tell(&n, &b, GORGE_L2_CLEAR, NULL, NULL), GORGE_OK);
  ask(&a, GORGE_L2_CLEAR, NULL, NULL);
  assert_int_equal(gorge_l2_send(n.l2, &a.rq, now_ms()), GORGE_OK);
  node_stop(&n); /* ends it, once */
  assert_int_equal(a.calls, 1);
  assert_true(a.result.status == GORGE_ERR_DOWN || a.result.status == GORGE_ERR_CLOSED);
}

/* All parts, of both phases, have the deadline of the whole. */
static void test_the_deadline_is_that_of_the_whole(void **state) {
  (void)state;
  struct node n = node_start();
  struct asked a;
  assert_int_equal(tell(&n, &a, GORGE_L2_SET, keys[0], NULL), GORGE_STORED);
  uint64_t now = now_ms();
  ask(&a, GORGE_L2_INVALIDATE_TAGS, NULL, "t");
  a.rq.deadline_ms = now + 50;
  assert_int_equal(gorge_l2_send(n.l2, &a.rq, now), GORGE_OK);
  link_send(&n.link);
  assert_true(WAIT_UNTIL(phase_one_done()));
  assert_true(WAIT_UNTIL(commit_is_due(&n) || a.calls > 0));
  assert_false(gorge_conn_tick(n.link.conn, now + 60));
  assert_int_equal(a.calls, 1);
  assert_int_equal(a.result.status, GORGE_ERR_TIMEOUT);
  node_stop(&n);
}

static int start(void **state) {
  (void)state;
  if (!support_redis_start(&redis)) {
    return -1;
  }
  admin = redisConnectUnix(redis.path);
  for (uint32_t found = 0, i = 0; found < ALL; i++) {
    char key[16];
    snprintf(key, sizeof key, "k%u", i);
    uint32_t partition = home_of(key);
    found += keys[partition][0] == '\0';
    memcpy(keys[partition], key, sizeof key);
  }
  return admin != NULL && admin->err == 0 ? 0 : -1;
}

static int stop(void **state) {
  (void)state;
  redisFree(admin);
  support_redis_stop(&redis);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test_setup(test_every_verb_in_a_partition, setup),
      cmocka_unit_test_setup(test_a_partition_that_is_not_there, setup),
      cmocka_unit_test_setup(test_messages_form_a_chain, setup),
      cmocka_unit_test_setup(test_a_tag_ends_values_in_all_partitions, setup),
      cmocka_unit_test_setup(test_a_fill_that_began_before_is_refused, setup),
      cmocka_unit_test_setup(test_a_sender_that_ends_between_the_phases_has_told_nobody, setup),
      cmocka_unit_test_setup(test_a_phase_one_that_fails_leaves_no_message, setup),
      cmocka_unit_test_setup(test_clear_is_for_all_partitions, setup),
      cmocka_unit_test_setup(test_all_is_lost, setup),
      cmocka_unit_test_setup(test_a_queue_that_is_short, setup),
      cmocka_unit_test_setup(test_cancel_at_any_moment, setup),
      cmocka_unit_test_setup(test_the_deadline_is_that_of_the_whole, setup),
  };
  return cmocka_run_group_tests_name("partitions of a namespace", tests, start, stop);
}
