/* SPDX-License-Identifier: MIT */
/*
 * L2 and the subscriber against a real Redis: what the scripts promise. A simple blocking driver moves the bytes; every wait
 * is for a condition and ends after half a minute.
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

#include "base/hash.h"
#include "io/l2.h"
#include "io/subscriber.h"
#include "test/drive_support.h"
#include "test/wire.h"

enum { PATIENCE_MS = 30000 };

static struct support_redis redis;
static redisContext *admin; /* plain commands of the test itself */

static uint64_t now_ms(void) { return support_now_us() / 1000; }

/* ---- the driver ---- */

struct link {
  struct gorge_conn *conn;
  int fd;
};

static void link_close(struct link *l, const char *why) {
  if (l->fd >= 0) {
    close(l->fd);
  }
  l->fd = -1;
  gorge_conn_closed(l->conn, now_ms(), why);
}

static void link_open(struct link *l) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", redis.path);
  l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(l->fd, (struct sockaddr *)&address, sizeof address) != 0) {
    link_close(l, strerror(errno));
    return;
  }
  gorge_conn_opened(l->conn, now_ms());
}

/* Sends what is due, then receives for at most a millisecond. */
static void link_step(struct link *l) {
  if (gorge_conn_want_connect(l->conn, now_ms())) {
    link_open(l);
  }
  const char *ptr;
  size_t len;
  for (gorge_conn_output(l->conn, &ptr, &len); l->fd >= 0 && len > 0; gorge_conn_output(l->conn, &ptr, &len)) {
    ssize_t n = send(l->fd, ptr, len, MSG_NOSIGNAL);
    if (n < 0) {
      link_close(l, strerror(errno));
      break;
    }
    gorge_conn_sent(l->conn, (size_t)n);
  }
  struct pollfd p = {.fd = l->fd, .events = POLLIN};
  if (poll(&p, 1, 1) > 0 && p.revents != 0) {
    char bytes[4096];
    ssize_t n = recv(l->fd, bytes, sizeof bytes, 0);
    if (n <= 0) {
      link_close(l, n == 0 ? "closed by Redis" : strerror(errno));
    } else if (gorge_conn_input(l->conn, bytes, (size_t)n, now_ms()) != GORGE_OK) {
      link_close(l, "");
    }
  }
  if (gorge_conn_tick(l->conn, now_ms())) {
    link_close(l, "");
  }
}

/* ---- nodes and their requests ---- */

struct node {
  struct gorge_l2 *l2;
  struct link link;
};

static const struct gorge_conn_config config = {
    .connect_timeout_ms = 20000, .timeout_ms = 20000, .max_pending = 256, .seed = 7};

static struct node node_start_with(const char *ns, const struct gorge_conn_config *with) {
  struct node n = {.l2 = gorge_l2_create(ns, (uint32_t)strlen(ns), 1, with)};
  assert_non_null(n.l2);
  n.link = (struct link){gorge_l2_conn(n.l2), -1};
  return n;
}

static struct node node_start(const char *ns) { return node_start_with(ns, &config); }

static void node_stop(struct node *n) {
  link_close(&n->link, "");
  gorge_l2_destroy(n->l2);
}

struct asked {
  struct gorge_l2_request rq; /* first: done finds the rest */
  int calls;
  struct gorge_l2_result result;
  char *value;
  char error[256];
  char tags[GORGE_TAGS_MAX][GORGE_TAG_MAX + 1];
  struct gorge_l2_tag tag_list[GORGE_TAGS_MAX];
  uint64_t nonces[GORGE_TAGS_MAX];
  char entries[1024]; /* of JOURNAL */
};

static void on_done(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now) {
  (void)now;
  struct asked *a = (struct asked *)rq;
  a->calls++;
  a->result = *result;
  if (result->status == GORGE_HIT) {
    a->value = malloc(result->value_len + 1);
    if (result->value_len > 0) {
      memcpy(a->value, result->value, result->value_len);
    }
    a->value[result->value_len] = '\0';
  }
  snprintf(a->error, sizeof a->error, "%s", result->error != NULL ? result->error : "");
  for (uint32_t i = 0; i < result->ntags; i++) {
    snprintf(a->tags[i], sizeof a->tags[i], "%.*s", (int)result->tags[i].len, result->tags[i].ptr);
  }
}

static void on_entry(struct gorge_l2_request *rq, const struct gorge_message *m, uint64_t now) {
  (void)now;
  struct asked *a = (struct asked *)rq;
  size_t at = strlen(a->entries);
  snprintf(a->entries + at, sizeof a->entries - at, "%d:%.*s ", (int)m->type, (int)m->len, m->ptr);
}

/* Prepares a request; tags are names separated by blanks. */
static void ask(struct asked *a, enum gorge_l2_verb verb, const char *key, const char *tags) {
  free(a->value);
  memset(a, 0, sizeof *a);
  a->rq.verb = verb;
  a->rq.key = key;
  a->rq.key_len = key != NULL ? (uint32_t)strlen(key) : 0;
  a->rq.kind = GORGE_KIND_STRING;
  a->rq.ttl_ms = 60000;
  a->rq.lease_ms = 30000;
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

static int lookup(struct node *n, struct asked *a, const char *key, const char *tags) {
  ask(a, GORGE_L2_LOOKUP, key, tags);
  return run(n, a);
}

static int set(struct node *n, struct asked *a, const char *key, const char *value, const char *tags) {
  ask(a, GORGE_L2_SET, key, tags);
  a->rq.value = value;
  a->rq.value_len = (uint32_t)strlen(value);
  return run(n, a);
}

static int lease(struct node *n, struct asked *a, const char *key, const char *tags, uint64_t token) {
  ask(a, GORGE_L2_LEASE, key, tags);
  a->rq.token = token;
  return run(n, a);
}

/* Fills with the nonces that `got`, a granted lease, delivered. */
static int fill(struct node *n, struct asked *a, const char *key, const char *value, const char *tags, uint64_t token,
                const struct asked *got) {
  uint64_t nonces[GORGE_TAGS_MAX] = {0};
  if (got != NULL) {
    memcpy(nonces, got->result.tag_nonces, sizeof nonces);
  }
  ask(a, GORGE_L2_FILL, key, tags);
  memcpy(a->nonces, nonces, sizeof nonces);
  a->rq.tag_nonces = a->nonces;
  a->rq.token = token;
  a->rq.value = value;
  a->rq.value_len = (uint32_t)strlen(value);
  return run(n, a);
}

static int simple(struct node *n, struct asked *a, enum gorge_l2_verb verb, const char *key, uint64_t token) {
  ask(a, verb, key, NULL);
  a->rq.token = token;
  return run(n, a);
}

static int delete_key(struct node *n, struct asked *a, const char *key) {
  return simple(n, a, GORGE_L2_DELETE, key, 0);
}

static int invalidate(struct node *n, struct asked *a, const char *tags) {
  ask(a, GORGE_L2_INVALIDATE_TAGS, NULL, tags);
  return run(n, a);
}

static int journal(struct node *n, struct asked *a, uint64_t since) {
  ask(a, GORGE_L2_JOURNAL, NULL, NULL);
  a->rq.since = since;
  return run(n, a);
}

static void done_with(struct asked *a) {
  free(a->value);
  a->value = NULL;
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

/* ---- a listener ---- */

struct listener {
  struct gorge_subscriber *s;
  struct link link;
  int ready;
  char heard[2048]; /* "type:name@version " each */
};

static void on_ready(void *ctx, uint64_t now) {
  (void)now;
  ((struct listener *)ctx)->ready++;
}

static void on_message(void *ctx, const struct gorge_message *m, uint64_t now) {
  (void)now;
  struct listener *l = ctx;
  size_t at = strlen(l->heard);
  snprintf(l->heard + at, sizeof l->heard - at, "%d:%.*s@%llu ", (int)m->type, (int)m->len, m->ptr,
           (unsigned long long)m->version);
}

static void listener_start(struct listener *l, const char *ns) {
  memset(l, 0, sizeof *l);
  const struct gorge_subscriber_hooks hooks = {.ctx = l, .ready = on_ready, .message = on_message};
  l->s = gorge_subscriber_create(ns, (uint32_t)strlen(ns), &config, &hooks);
  l->link = (struct link){gorge_subscriber_conn(l->s), -1};
  for (uint64_t until = now_ms() + PATIENCE_MS; l->ready == 0 && now_ms() < until;) {
    link_step(&l->link);
  }
  assert_int_equal(l->ready, 1);
}

/* Everything that was published before now. */
static const char *listener_hear(struct listener *l) {
  char sentinel[] = "\1\2\0\0\0\0\0\0\0\0sentinel";
  l->heard[0] = '\0';
  redisReply *r = redisCommand(admin, "PUBLISH gorge:%d:%s %b", 2, "ns", sentinel, sizeof sentinel - 1);
  assert_non_null(r);
  freeReplyObject(r);
  char *end = NULL;
  for (uint64_t until = now_ms() + PATIENCE_MS; end == NULL && now_ms() < until;) {
    link_step(&l->link);
    end = strstr(l->heard, "2:sentinel@0 ");
  }
  assert_non_null(end);
  *end = '\0';
  return l->heard;
}

static void listener_stop(struct listener *l) {
  link_close(&l->link, "");
  gorge_subscriber_destroy(l->s);
}

static const char *heard_of(int type, const char *name, uint64_t version) {
  static char text[4][128];
  static int turn;
  char *at = text[turn = (turn + 1) % 4];
  snprintf(at, sizeof text[0], "%d:%s@%llu ", type, name, (unsigned long long)version);
  return at;
}

/* Everything gone but the epoch, which the names in these tests are of. */
static void flush(void) {
  assert_int_equal(number("FLUSHALL"), 2);
  assert_int_equal(number("SET {2:ns:0}:e 7"), 2);
}

static int setup(void **state) {
  (void)state;
  flush();
  return 0;
}

/* ---- tests ---- */

static void test_set_and_lookup(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_MISS);
  assert_int_equal(a.result.version, 0);
  assert_int_equal(set(&n, &a, "k", "value", NULL), GORGE_STORED);
  uint64_t version = a.result.version;
  assert_true(version > 0);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
  assert_string_equal(a.value, "value");
  assert_int_equal(a.result.kind, GORGE_KIND_STRING);
  assert_true(a.result.version == version);
  assert_in_range(a.result.remaining_ms, 58000, 60000);
  assert_in_range(number("PTTL {2:ns:0}:7:v:k"), 58000, 60000);
  assert_int_equal(delete_key(&n, &a, "k"), GORGE_OK);
  assert_true(a.result.version > version);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_MISS);
  assert_int_equal(number("EXISTS {2:ns:0}:7:v:k"), 0);
  node_stop(&n);
  done_with(&a);
}

static void test_any_bytes_round_trip(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  enum { BIG = 3 << 20 };
  char *big = malloc(BIG);
  uint64_t seed = 3;
  for (size_t i = 0; i < BIG; i++) {
    big[i] = (char)wire_random(&seed);
  }
  static const char key[] = "k\0\r\n{x}}{ \xff*";
  static const uint32_t lengths[] = {0, 1, 2, 100, 65536, BIG};
  static const uint32_t kinds[] = {GORGE_KIND_NIL,     GORGE_KIND_STRING,  GORGE_KIND_NUMBER,
                                   GORGE_KIND_BOOLEAN, GORGE_KIND_MSGPACK, GORGE_KIND_PACKED};
  for (size_t i = 0; i < 6; i++) {
    ask(&a, GORGE_L2_SET, "", NULL);
    a.rq.key = key;
    a.rq.key_len = sizeof key - 1;
    a.rq.value = big;
    a.rq.value_len = lengths[i];
    a.rq.kind = kinds[i];
    assert_int_equal(run(&n, &a), GORGE_STORED);
    ask(&a, GORGE_L2_LOOKUP, "", NULL);
    a.rq.key = key;
    a.rq.key_len = sizeof key - 1;
    assert_int_equal(run(&n, &a), GORGE_HIT);
    assert_int_equal(a.result.value_len, lengths[i]);
    assert_int_equal(a.result.kind, kinds[i]);
    assert_memory_equal(a.value, big, lengths[i]);
  }
  free(big);
  char longest[GORGE_KEY_MAX + 1];
  memset(longest, 'k', GORGE_KEY_MAX);
  longest[GORGE_KEY_MAX] = '\0';
  assert_int_equal(set(&n, &a, longest, "v", NULL), GORGE_STORED);
  longest[0] = 'K';
  assert_int_equal(lookup(&n, &a, longest, NULL), GORGE_MISS);
  longest[0] = 'k';
  assert_int_equal(lookup(&n, &a, longest, NULL), GORGE_HIT);
  assert_int_equal(simple(&n, &a, GORGE_L2_LEASE, longest, 1), GORGE_HIT);
  node_stop(&n);
  done_with(&a);
}

static void test_namespaces_are_apart(void **state) {
  (void)state;
  struct node x = node_start("a"), y = node_start("a:b"), z = node_start("1:a");
  struct asked a = {0};
  assert_int_equal(set(&x, &a, "b:k", "x", NULL), GORGE_STORED);
  assert_int_equal(set(&z, &a, "k", "z", NULL), GORGE_STORED);
  assert_int_equal(lookup(&y, &a, "k", NULL), GORGE_MISS);
  assert_int_equal(lookup(&z, &a, "k", NULL), GORGE_HIT);
  assert_string_equal(a.value, "z");
  node_stop(&x);
  node_stop(&y);
  node_stop(&z);
  done_with(&a);
}

static void test_one_lease_per_key(void **state) {
  (void)state;
  struct node x = node_start("ns"), y = node_start("ns");
  struct listener l;
  struct asked a = {0}, b = {0};
  listener_start(&l, "ns");
  assert_int_equal(lease(&x, &a, "k", NULL, 11), GORGE_LEASE);
  assert_int_equal(lease(&y, &b, "k", NULL, 22), GORGE_BUSY);
  assert_in_range(b.result.remaining_ms, 28000, 30000);
  assert_int_equal(lease(&y, &b, "other", NULL, 22), GORGE_LEASE);
  /* asking again with the token that holds it: a repeated message, not a competitor */
  assert_int_equal(lease(&x, &a, "k", NULL, 11), GORGE_LEASE);
  assert_int_equal(fill(&y, &b, "k", "wrong", NULL, 22, NULL), GORGE_REFUSED);
  assert_int_equal(fill(&x, &a, "k", "filled", NULL, 11, NULL), GORGE_STORED);
  uint64_t version = a.result.version;
  /* somebody waits: woken, once; and nobody else was told anything */
  assert_string_equal(listener_hear(&l), heard_of(GORGE_MESSAGE_FILLED, "k", version));
  assert_int_equal(number("EXISTS {2:ns:0}:7:l:k"), 0);
  assert_int_equal(lease(&y, &b, "k", NULL, 33), GORGE_HIT);
  assert_string_equal(b.value, "filled");
  assert_in_range(b.result.remaining_ms, 58000, 60000);
  assert_int_equal(fill(&x, &a, "k", "twice", NULL, 11, NULL), GORGE_REFUSED);
  /* only what is newer than the version rejected is a hit */
  ask(&b, GORGE_L2_LEASE, "k", NULL);
  b.rq.token = 44;
  b.rq.rejected_version = version;
  assert_int_equal(run(&y, &b), GORGE_LEASE);
  assert_int_equal(fill(&y, &b, "k", "newer", NULL, 44, NULL), GORGE_STORED);
  assert_true(b.result.version > version);
  assert_string_equal(listener_hear(&l), ""); /* nobody waited */
  listener_stop(&l);
  node_stop(&x);
  node_stop(&y);
  done_with(&a);
  done_with(&b);
}

static void test_release_and_renew(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct listener l;
  struct asked a = {0};
  listener_start(&l, "ns");
  assert_int_equal(simple(&n, &a, GORGE_L2_RENEW, "k", 1), GORGE_REFUSED);
  assert_int_equal(simple(&n, &a, GORGE_L2_RELEASE, "k", 1), GORGE_REFUSED);
  assert_int_equal(lease(&n, &a, "k", NULL, 1), GORGE_LEASE);
  assert_int_equal(number("PEXPIRE {2:ns:0}:7:l:k 100000"), 1);
  assert_int_equal(simple(&n, &a, GORGE_L2_RENEW, "k", 2), GORGE_REFUSED);
  assert_true(number("PTTL {2:ns:0}:7:l:k") > 90000);
  assert_int_equal(simple(&n, &a, GORGE_L2_RENEW, "k", 1), GORGE_OK);
  assert_in_range(number("PTTL {2:ns:0}:7:l:k"), 28000, 30000);
  assert_int_equal(simple(&n, &a, GORGE_L2_RELEASE, "k", 2), GORGE_REFUSED);
  assert_int_equal(number("EXISTS {2:ns:0}:7:l:k"), 1);
  assert_int_equal(simple(&n, &a, GORGE_L2_RELEASE, "k", 1), GORGE_OK);
  assert_int_equal(number("EXISTS {2:ns:0}:7:l:k"), 0);
  assert_string_equal(listener_hear(&l), "");
  /* with somebody waiting: a message without a version */
  assert_int_equal(lease(&n, &a, "k", NULL, 1), GORGE_LEASE);
  assert_int_equal(lease(&n, &a, "k", NULL, 2), GORGE_BUSY);
  assert_int_equal(simple(&n, &a, GORGE_L2_RELEASE, "k", 1), GORGE_OK);
  assert_string_equal(listener_hear(&l), heard_of(GORGE_MESSAGE_FILLED, "k", 0));
  listener_stop(&l);
  node_stop(&n);
  done_with(&a);
}

static void test_a_previous_token_is_replaced(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct listener l;
  struct asked a = {0};
  listener_start(&l, "ns");
  assert_int_equal(lease(&n, &a, "k", NULL, 1), GORGE_LEASE);
  assert_int_equal(lease(&n, &a, "k", NULL, 9), GORGE_BUSY); /* leaves its mark */
  ask(&a, GORGE_L2_LEASE, "k", NULL);
  a.rq.token = 2;
  a.rq.previous = 77; /* not the holder */
  assert_int_equal(run(&n, &a), GORGE_BUSY);
  ask(&a, GORGE_L2_LEASE, "k", NULL);
  a.rq.token = 2;
  a.rq.previous = 1;
  assert_int_equal(run(&n, &a), GORGE_LEASE);
  assert_int_equal(fill(&n, &a, "k", "of the dead", NULL, 1, NULL), GORGE_REFUSED);
  assert_int_equal(simple(&n, &a, GORGE_L2_RENEW, "k", 1), GORGE_REFUSED);
  assert_int_equal(fill(&n, &a, "k", "of the heir", NULL, 2, NULL), GORGE_STORED);
  /* who waited for the dead one is woken by the heir */
  assert_string_equal(listener_hear(&l), heard_of(GORGE_MESSAGE_FILLED, "k", a.result.version));
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
  assert_string_equal(a.value, "of the heir");
  listener_stop(&l);
  node_stop(&n);
  done_with(&a);
}

static void test_a_lease_expires_by_itself(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0}, b = {0};
  ask(&a, GORGE_L2_LEASE, "k", NULL);
  a.rq.token = 1;
  a.rq.lease_ms = 1000;
  uint64_t asked = now_ms();
  assert_int_equal(run(&n, &a), GORGE_LEASE);
  int status = lease(&n, &b, "k", NULL, 2);
  if (status == GORGE_BUSY) {
    assert_true(b.result.remaining_ms <= 1000);
  } else { /* this test stood still */
    assert_int_equal(status, GORGE_LEASE);
    assert_true(now_ms() >= asked + 1000);
  }
  assert_true(WAIT_UNTIL(lease(&n, &b, "k", NULL, 2) == GORGE_LEASE));
  assert_int_equal(fill(&n, &a, "k", "late", NULL, 1, NULL), GORGE_REFUSED);
  assert_int_equal(fill(&n, &b, "k", "in time", NULL, 2, NULL), GORGE_STORED);
  /* a lease without an end, left by whatever: not for ever */
  assert_int_equal(number("SET {2:ns:0}:7:l:odd odd"), 2);
  ask(&a, GORGE_L2_LEASE, "odd", NULL);
  a.rq.token = 1;
  a.rq.lease_ms = 60;
  assert_int_equal(run(&n, &a), GORGE_BUSY);
  assert_true(WAIT_UNTIL(lease(&n, &b, "odd", NULL, 2) == GORGE_LEASE));
  node_stop(&n);
  done_with(&a);
  done_with(&b);
}

static void test_writes_refuse_fills_in_progress(void **state) {
  (void)state;
  struct node x = node_start("ns"), y = node_start("ns");
  struct asked a = {0}, b = {0};
  for (int how = 0; how < 4; how++) {
    flush();
    assert_int_equal(lease(&x, &a, "k", "t u", 1), GORGE_LEASE);
    assert_int_equal(a.result.ntags, 2);
    struct asked granted = a;
    a.value = NULL;
    switch (how) {
      case 0: assert_int_equal(delete_key(&y, &b, "k"), GORGE_OK); break;
      case 1: assert_int_equal(set(&y, &b, "k", "set", NULL), GORGE_STORED); break;
      case 2: assert_int_equal(invalidate(&y, &b, "u"), GORGE_OK); break;
      default: flush(); break;
    }
    assert_int_equal(fill(&x, &a, "k", "stale", "t u", 1, &granted), GORGE_REFUSED);
    assert_int_equal(number("EXISTS {2:ns:0}:7:l:k"), 0);
    int status = lookup(&y, &b, "k", NULL);
    assert_int_equal(status, how == 1 ? GORGE_HIT : GORGE_MISS);
    if (how == 1) {
      assert_string_equal(b.value, "set");
    }
  }
  /* an invalidation of another tag, a write of another key: no matter */
  assert_int_equal(lease(&x, &a, "k", "t u", 1), GORGE_LEASE);
  struct asked granted = a;
  a.value = NULL;
  assert_int_equal(invalidate(&y, &b, "v"), GORGE_OK);
  assert_int_equal(delete_key(&y, &b, "k2"), GORGE_OK);
  assert_int_equal(fill(&x, &a, "k", "good", "t u", 1, &granted), GORGE_STORED);
  assert_int_equal(lookup(&y, &b, "k", NULL), GORGE_HIT);
  node_stop(&x);
  node_stop(&y);
  done_with(&a);
  done_with(&b);
}

static void test_a_fill_refused_by_a_tag_wakes_who_waits(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct listener l;
  struct asked a = {0}, b = {0};
  listener_start(&l, "ns");
  assert_int_equal(lease(&n, &a, "k", "t", 1), GORGE_LEASE);
  struct asked granted = a;
  a.value = NULL;
  assert_int_equal(lease(&n, &b, "k", "t", 2), GORGE_BUSY);
  assert_int_equal(invalidate(&n, &b, "t"), GORGE_OK);
  uint64_t version = b.result.version;
  assert_int_equal(fill(&n, &a, "k", "stale", "t", 1, &granted), GORGE_REFUSED);
  char expected[256];
  snprintf(expected, sizeof expected, "%s%s", heard_of(GORGE_MESSAGE_TAG, "t", version),
           heard_of(GORGE_MESSAGE_FILLED, "k", 0));
  assert_string_equal(listener_hear(&l), expected);
  listener_stop(&l);
  node_stop(&n);
  done_with(&a);
  done_with(&b);
}

static void test_tags(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  assert_int_equal(set(&n, &a, "k", "v", "t u"), GORGE_STORED);
  uint64_t version = a.result.version;
  /* whatever the reader expects, the value's own tags decide */
  static const char *const hints[] = {NULL, "t", "u", "t u", "u t", "x", "x u"};
  for (int i = 0; i < 7; i++) {
    assert_int_equal(lookup(&n, &a, "k", hints[i]), GORGE_HIT);
    assert_int_equal(a.result.ntags, 2);
    assert_string_equal(a.tags[0], "t");
    assert_string_equal(a.tags[1], "u");
  }
  assert_int_equal(invalidate(&n, &a, "x y"), GORGE_OK);
  assert_int_equal(lookup(&n, &a, "k", "t u"), GORGE_HIT);
  assert_int_equal(invalidate(&n, &a, "x u"), GORGE_OK);
  assert_true(a.result.version > version);
  for (int i = 0; i < 7; i++) {
    assert_int_equal(lookup(&n, &a, "k", hints[i]), GORGE_MISS);
    assert_true(a.result.version == version);
    assert_int_equal(lease(&n, &a, "k", hints[i], 50 + (uint64_t)i), GORGE_LEASE); /* never that value */
    assert_int_equal(simple(&n, &a, GORGE_L2_RELEASE, "k", 50 + (uint64_t)i), GORGE_OK);
  }
  assert_int_equal(lease(&n, &a, "k", "t u", 7), GORGE_LEASE);
  struct asked granted = a;
  a.value = NULL;
  assert_int_equal(fill(&n, &a, "k", "w", "t u", 7, &granted), GORGE_STORED);
  for (int i = 0; i < 7; i++) {
    assert_int_equal(lookup(&n, &a, "k", hints[i]), GORGE_HIT);
    assert_string_equal(a.value, "w");
    assert_int_equal(lease(&n, &a, "k", hints[i], 60), GORGE_HIT);
  }
  /* an absent tag is a different one, and does not come back as the old one */
  assert_int_equal(number("DEL {2:ns:0}:7:t:u"), 1);
  assert_int_equal(lookup(&n, &a, "k", "t u"), GORGE_MISS);
  assert_int_equal(set(&n, &a, "k2", "other", "u"), GORGE_STORED);
  assert_int_equal(lookup(&n, &a, "k", "t u"), GORGE_MISS);
  assert_int_equal(lookup(&n, &a, "k2", "u"), GORGE_HIT);
  node_stop(&n);
  done_with(&a);
}

static void test_sixteen_long_tags(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  static char names[GORGE_TAGS_MAX * (GORGE_TAG_MAX + 1)];
  for (int i = 0; i < GORGE_TAGS_MAX; i++) {
    memset(names + i * (GORGE_TAG_MAX + 1), 'a' + i, GORGE_TAG_MAX);
    names[i * (GORGE_TAG_MAX + 1) + GORGE_TAG_MAX] = i == GORGE_TAGS_MAX - 1 ? '\0' : ' ';
  }
  char key[GORGE_KEY_MAX + 1];
  memset(key, 'k', GORGE_KEY_MAX);
  key[GORGE_KEY_MAX] = '\0';
  assert_int_equal(set(&n, &a, key, "v", names), GORGE_STORED);
  assert_int_equal(lookup(&n, &a, key, names), GORGE_HIT);
  assert_int_equal(a.result.ntags, GORGE_TAGS_MAX);
  assert_int_equal(lookup(&n, &a, key, NULL), GORGE_HIT);
  assert_int_equal(invalidate(&n, &a, names), GORGE_OK);
  assert_int_equal(lookup(&n, &a, key, NULL), GORGE_MISS);
  assert_int_equal(lease(&n, &a, key, names, 1), GORGE_LEASE);
  struct asked granted = a;
  a.value = NULL;
  assert_int_equal(fill(&n, &a, key, "w", names, 1, &granted), GORGE_STORED);
  assert_int_equal(lookup(&n, &a, key, NULL), GORGE_HIT);
  node_stop(&n);
  done_with(&a);
}

static void test_tags_outlive_what_names_them(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  ask(&a, GORGE_L2_SET, "k", "t");
  a.rq.ttl_ms = 10000000;
  a.rq.value = "v";
  a.rq.value_len = 1;
  assert_int_equal(run(&n, &a), GORGE_STORED);
  assert_true(number("PTTL {2:ns:0}:7:t:t") > 10000000 + 3500000);
  /* a shorter one does not cut it, neither does a lease */
  assert_int_equal(set(&n, &a, "k2", "v", "t"), GORGE_STORED);
  assert_int_equal(lease(&n, &a, "k3", "t", 1), GORGE_LEASE);
  assert_true(number("PTTL {2:ns:0}:7:t:t") > 10000000 + 3500000);
  /* a fill extends */
  assert_int_equal(lease(&n, &a, "k4", "u", 1), GORGE_LEASE);
  struct asked granted = a;
  a.value = NULL;
  assert_true(number("PTTL {2:ns:0}:7:t:u") > 3500000);
  ask(&a, GORGE_L2_FILL, "k4", "u");
  memcpy(a.nonces, granted.result.tag_nonces, sizeof a.nonces);
  a.rq.tag_nonces = a.nonces;
  a.rq.token = 1;
  a.rq.ttl_ms = 20000000;
  a.rq.value = "v";
  a.rq.value_len = 1;
  assert_int_equal(run(&n, &a), GORGE_STORED);
  assert_true(number("PTTL {2:ns:0}:7:t:u") > 20000000 + 3500000);
  /* and one whose ttl was lost gets one that is long enough */
  assert_int_equal(number("PERSIST {2:ns:0}:7:t:u"), 1);
  assert_int_equal(set(&n, &a, "k5", "v", "u"), GORGE_STORED);
  assert_true(number("PTTL {2:ns:0}:7:t:u") > 3500000);
  node_stop(&n);
  done_with(&a);
}

static int touch(struct node *n, struct asked *a, const char *key, const char *tags, uint64_t ttl_ms) {
  ask(a, GORGE_L2_TOUCH, key, tags);
  a->rq.ttl_ms = ttl_ms;
  return run(n, a);
}

static void test_a_touch_gives_another_life(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  assert_int_equal(touch(&n, &a, "k", NULL, 1000), GORGE_MISS);
  assert_int_equal(set(&n, &a, "k", "value", NULL), GORGE_STORED);
  uint64_t version = a.result.version;
  /* longer: the same version, and no message */
  assert_int_equal(touch(&n, &a, "k", NULL, 100000), GORGE_OK);
  assert_true(a.result.before == version && a.result.version == version);
  assert_in_range(number("PTTL {2:ns:0}:7:v:k"), 99000, 100000);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
  assert_string_equal(a.value, "value");
  assert_in_range(a.result.remaining_ms, 99000, 100000);
  assert_int_equal(journal(&n, &a, version), GORGE_OK);
  assert_string_equal(a.entries, "1:k ");
  /* shorter: another version, of which the journal tells */
  assert_int_equal(touch(&n, &a, "k", NULL, 3000), GORGE_OK);
  assert_true(a.result.before == version && a.result.version > version);
  uint64_t newer = a.result.version;
  assert_in_range(number("PTTL {2:ns:0}:7:v:k"), 1, 3000);
  assert_int_equal(journal(&n, &a, version), GORGE_OK);
  assert_string_equal(a.entries, "1:k 1:k ");
  assert_true(a.result.version == newer);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
  assert_string_equal(a.value, "value");
  assert_true(a.result.version == newer && a.result.remaining_ms <= 3010);
  assert_true(WAIT_UNTIL(lookup(&n, &a, "k", NULL) == GORGE_MISS));
  assert_true(WAIT_UNTIL(number("EXISTS {2:ns:0}:7:v:k") == 0)); /* clocks are coarse */
  assert_int_equal(touch(&n, &a, "k", NULL, 1000), GORGE_MISS);
  node_stop(&n);
  done_with(&a);
}

static void test_a_touch_finds_the_tags(void **state) {
  (void)state;
  static const char *const guesses[] = {NULL, "t u", "u t", "t", "v", "t u v"};
  char many[GORGE_TAGS_MAX * (GORGE_TAG_MAX + 1)];
  struct node n = node_start("ns");
  struct asked a = {0};
  for (size_t i = 0; i < sizeof guesses / sizeof guesses[0]; i++) {
    assert_int_equal(set(&n, &a, "k", "value", "t u"), GORGE_STORED);
    assert_int_equal(touch(&n, &a, "k", guesses[i], 10000000), GORGE_OK);
    assert_true(number("PTTL {2:ns:0}:7:t:t") > 10000000 + 3500000);
    assert_true(number("PTTL {2:ns:0}:7:t:u") > 10000000 + 3500000);
    assert_int_equal(number("EXISTS {2:ns:0}:7:t:v"), 0);
    assert_int_equal(lookup(&n, &a, "k", "t u"), GORGE_HIT);
    assert_in_range(a.result.remaining_ms, 9999000, 10000010); /* clocks are coarse */
    /* what was invalidated is no value */
    assert_int_equal(invalidate(&n, &a, "u"), GORGE_OK);
    assert_int_equal(touch(&n, &a, "k", guesses[i], 20000000), GORGE_MISS);
    assert_int_equal(lookup(&n, &a, "k", "t u"), GORGE_MISS);
    assert_int_equal(set(&n, &a, "k", "value", NULL), GORGE_STORED);
    assert_int_equal(touch(&n, &a, "k", guesses[i], 1000), GORGE_OK);
    flush();
  }
  memset(many, 'x', sizeof many);
  for (size_t i = 0; i < GORGE_TAGS_MAX; i++) {
    many[i * (GORGE_TAG_MAX + 1)] = (char)('a' + i);
    many[(i + 1) * (GORGE_TAG_MAX + 1) - 1] = i + 1 < GORGE_TAGS_MAX ? ' ' : '\0';
  }
  assert_int_equal(set(&n, &a, "k", "value", many), GORGE_STORED);
  assert_int_equal(touch(&n, &a, "k", NULL, 10000000), GORGE_OK);
  assert_int_equal(touch(&n, &a, "k", many, 10000000), GORGE_OK);
  assert_int_equal(lookup(&n, &a, "k", many), GORGE_HIT);
  assert_string_equal(a.value, "value");
  node_stop(&n);
  done_with(&a);
}

static void test_a_touch_of_what_is_no_value(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  assert_int_equal(set(&n, &a, "k", "value", "t"), GORGE_STORED);
  redisReply *whole = redisCommand(admin, "GET {2:ns:0}:7:v:k");
  assert_int_equal(whole->type, REDIS_REPLY_STRING);
  for (size_t cut = 0; cut < whole->len - 5; cut++) {
    freeReplyObject(redisCommand(admin, "SET {2:ns:0}:7:v:k %b PX 60000", whole->str, cut));
    assert_int_equal(touch(&n, &a, "k", NULL, 1000), GORGE_MISS);
    assert_in_range(number("PTTL {2:ns:0}:7:v:k"), 50000, 60000);
  }
  freeReplyObject(whole);
  assert_int_equal(number("SET {2:ns:0}:7:v:k foreign"), 2);
  assert_int_equal(touch(&n, &a, "k", NULL, 1000), GORGE_MISS);
  assert_int_equal(number("DEL {2:ns:0}:7:v:k"), 1);
  assert_int_equal(number("LPUSH {2:ns:0}:7:v:k x"), 1);
  assert_int_equal(touch(&n, &a, "k", NULL, 1000), GORGE_ERR_REDIS);
  node_stop(&n);
  done_with(&a);
}

static int update(struct node *n, struct asked *a, const char *value, uint64_t since, uint64_t nonce,
                  const struct gorge_l2_before *before) {
  ask(a, GORGE_L2_UPDATE, "k", "t");
  a->rq.value = value;
  a->rq.value_len = (uint32_t)strlen(value);
  a->rq.since = since;
  a->rq.token = nonce;
  a->rq.lease_ms = 20000;
  a->rq.before = before;
  return run(n, a);
}

static void test_an_update_replaces_what_was_read(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  assert_int_equal(update(&n, &a, "one", 5, 1, NULL), GORGE_REFUSED);
  assert_int_equal(number("EXISTS {2:ns:0}:7:v:k"), 0);
  assert_int_equal(update(&n, &a, "one", 0, 1, NULL), GORGE_STORED);
  uint64_t one = a.result.version;
  assert_in_range(number("PTTL {2:ns:0}:u:0000000000000001"), 10000, 20000);
  assert_int_equal(lookup(&n, &a, "k", "t"), GORGE_HIT);
  assert_string_equal(a.value, "one");
  assert_true(a.result.version == one && a.result.ntags == 1);
  assert_int_equal(update(&n, &a, "two", 0, 2, NULL), GORGE_REFUSED);
  assert_int_equal(update(&n, &a, "two", one + 1, 2, NULL), GORGE_REFUSED);
  assert_int_equal(update(&n, &a, "two", one, 2, NULL), GORGE_STORED);
  uint64_t two = a.result.version;
  assert_true(two > one);
  /* asked again under the same name: not carried out, whatever came after */
  assert_int_equal(update(&n, &a, "two", one, 2, NULL), GORGE_STORED);
  assert_true(a.result.version == two);
  assert_int_equal(update(&n, &a, "three", two, 3, NULL), GORGE_STORED);
  assert_int_equal(update(&n, &a, "two", one, 2, NULL), GORGE_STORED);
  assert_true(a.result.version == two);
  assert_int_equal(lookup(&n, &a, "k", "t"), GORGE_HIT);
  assert_string_equal(a.value, "three");
  assert_int_equal(journal(&n, &a, one), GORGE_OK);
  assert_string_equal(a.entries, "1:k 1:k 1:k ");
  node_stop(&n);
  done_with(&a);
}

static void test_an_update_minds_leases_and_tags(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  /* a fill that runs is refused */
  assert_int_equal(lease(&n, &a, "k", NULL, 1), GORGE_LEASE);
  struct asked granted = a;
  a.value = NULL;
  assert_int_equal(update(&n, &a, "new", 0, 1, NULL), GORGE_STORED);
  assert_int_equal(fill(&n, &a, "k", "late", NULL, 1, &granted), GORGE_REFUSED);
  /* the tags of what was read are still those */
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
  struct gorge_l2_before before = {.ntags = 1, .tags = {{"t", 1}}, .nonces = {a.result.tag_nonces[0]}};
  uint64_t version = a.result.version;
  assert_int_equal(update(&n, &a, "newer", version, 2, &before), GORGE_STORED);
  version = a.result.version;
  assert_int_equal(invalidate(&n, &a, "t"), GORGE_OK);
  assert_int_equal(update(&n, &a, "lost", version, 3, &before), GORGE_REFUSED);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_MISS);
  /* what was invalidated is replaced by who knows that there is nothing */
  assert_true(a.result.version == version);
  assert_int_equal(update(&n, &a, "from nothing", version, 4, NULL), GORGE_STORED);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
  version = a.result.version;
  assert_int_equal(delete_key(&n, &a, "k"), GORGE_OK);
  assert_int_equal(update(&n, &a, "lost", version, 5, NULL), GORGE_REFUSED);
  node_stop(&n);
  done_with(&a);
}

static int clear_all(struct node *n, struct asked *a) {
  ask(a, GORGE_L2_CLEAR, NULL, NULL);
  return run(n, a);
}

static void test_a_clear_leaves_nothing(void **state) {
  (void)state;
  struct node n = node_start("ns"), other = node_start("ns");
  struct asked a = {0};
  assert_int_equal(set(&n, &a, "k", "v", "t"), GORGE_STORED);
  uint64_t cursor = a.result.version;
  assert_int_equal(lookup(&other, &a, "k", "t"), GORGE_HIT);
  assert_int_equal(lease(&other, &a, "filled", "t", 1), GORGE_LEASE);
  struct asked granted = a;
  a.value = NULL;
  assert_int_equal(clear_all(&n, &a), GORGE_OK);
  uint64_t epoch = a.result.version;
  assert_true(epoch > cursor);
  assert_int_equal(number("EXISTS {2:ns:0}:7:v:k"), 1); /* until its ttl is over */
  assert_int_equal(journal(&n, &a, cursor), GORGE_OK);
  assert_string_equal(a.entries, "1:k 5: ");
  /* who has not heard of it: a fill is refused, and from then on it knows */
  assert_int_equal(fill(&other, &a, "filled", "late", "t", 1, &granted), GORGE_REFUSED);
  assert_int_equal(number("EXISTS {2:ns:0}:7:v:filled"), 0);
  assert_int_equal(lookup(&other, &a, "k", "t"), GORGE_MISS);
  for (int i = 0; i < 2; i++) {
    struct node *from = i == 0 ? &n : &other, *to = i == 0 ? &other : &n;
    assert_int_equal(set(from, &a, "k", "new", "t"), GORGE_STORED);
    assert_int_equal(lookup(to, &a, "k", "t"), GORGE_HIT);
    assert_string_equal(a.value, "new");
    assert_int_equal(invalidate(to, &a, "t"), GORGE_OK);
    assert_int_equal(lookup(from, &a, "k", "t"), GORGE_MISS);
  }
  node_stop(&n);
  node_stop(&other);
  done_with(&a);
}

/* Every write of a node that has missed a clear reaches the others. */
static void test_writes_under_an_old_epoch(void **state) {
  (void)state;
  struct asked a = {0};
  for (int how = 0; how < 6; how++) {
    struct node n = node_start("ns"), late = node_start("ns");
    assert_int_equal(lookup(&late, &a, "k", "t"), GORGE_MISS);
    assert_int_equal(clear_all(&n, &a), GORGE_OK);
    if (how > 0) {
      assert_int_equal(set(&n, &a, "k", "v", "t"), GORGE_STORED);
    }
    uint64_t version = a.result.version;
    switch (how) {
      case 0: assert_int_equal(set(&late, &a, "k", "v", "t"), GORGE_STORED); break;
      case 1: assert_int_equal(delete_key(&late, &a, "k"), GORGE_OK); break;
      case 2: assert_int_equal(invalidate(&late, &a, "t"), GORGE_OK); break;
      case 3: assert_int_equal(update(&late, &a, "w", version, 1, NULL), GORGE_STORED); break;
      case 4: assert_int_equal(touch(&late, &a, "k", NULL, 1), GORGE_OK); break;
      default: assert_int_equal(lease(&late, &a, "k", "t", 1), GORGE_HIT); break;
    }
    usleep(how == 4 ? 10000 : 0);
    int expected = how == 0 || how == 3 || how == 5 ? GORGE_HIT : GORGE_MISS;
    assert_int_equal(lookup(&n, &a, "k", "t"), expected);
    assert_int_equal(lookup(&late, &a, "k", "t"), expected);
    node_stop(&n);
    node_stop(&late);
    flush();
  }
  done_with(&a);
}

static void test_an_epoch_that_is_lost_is_made_anew(void **state) {
  (void)state;
  struct node n = node_start("ns"), other = node_start("ns");
  struct asked a = {0};
  assert_int_equal(set(&n, &a, "k", "v", NULL), GORGE_STORED);
  assert_int_equal(lookup(&other, &a, "k", NULL), GORGE_HIT);
  /* evicted alone: what was stored under it is not found again */
  assert_int_equal(number("DEL {2:ns:0}:e"), 1);
  assert_int_equal(set(&n, &a, "other", "v", NULL), GORGE_STORED);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_MISS);
  assert_int_equal(delete_key(&other, &a, "other"), GORGE_OK);
  assert_int_equal(lookup(&n, &a, "other", NULL), GORGE_MISS);
  /* with all the rest; and something else under its name */
  static const char *const odd[] = {"FLUSHALL", "SET {2:ns:0}:e odd", "SET {2:ns:0}:e 0",
                                    "SET {2:ns:0}:e 99999999999999999999"};
  for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
    assert_int_equal(set(&n, &a, "k", "v", NULL), GORGE_STORED);
    assert_int_equal(number(odd[i]), 2);
    assert_int_equal(journal(&other, &a, a.result.version), i == 0 ? GORGE_MISS : GORGE_OK);
    assert_int_equal(lookup(&other, &a, "k", NULL), GORGE_MISS);
    assert_int_equal(set(&other, &a, "k", "w", NULL), GORGE_STORED);
    assert_int_equal(delete_key(&n, &a, "k"), GORGE_OK);
    assert_int_equal(lookup(&other, &a, "k", NULL), GORGE_MISS);
  }
  node_stop(&n);
  node_stop(&other);
  done_with(&a);
}

/* A value that was asked for under the epoch of before is read again under that of now. */
static void test_a_new_connection_learns_the_epoch(void **state) {
  (void)state;
  struct node n = node_start("ns"), late = node_start("ns");
  struct asked a = {0};
  assert_int_equal(set(&late, &a, "k", "old", NULL), GORGE_STORED);
  link_close(&late.link, "cut");
  assert_int_equal(clear_all(&n, &a), GORGE_OK);
  usleep(200000); /* it may connect again */
  assert_int_equal(lookup(&late, &a, "k", NULL), GORGE_MISS);
  assert_int_equal(set(&n, &a, "k", "new", NULL), GORGE_STORED);
  assert_int_equal(lookup(&late, &a, "k", NULL), GORGE_HIT);
  assert_string_equal(a.value, "new");
  node_stop(&n);
  node_stop(&late);
  done_with(&a);
}

/* A node that hears nothing and writes nothing: its look-ups find out about a clear when they are told to. */
static void test_a_lookup_confirms_the_epoch(void **state) {
  (void)state;
  struct node n = node_start("ns"), late = node_start("ns");
  struct asked a = {0};
  static const char *const tags[] = {NULL, "t", "t u"}; /* of the value; the node knows of t */
  for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
    const char *hint = i == 0 ? NULL : "t";
    assert_int_equal(set(&n, &a, "k", "old", tags[i]), GORGE_STORED);
    for (int confirmed = 0; confirmed < 2; confirmed++) {
      ask(&a, GORGE_L2_LOOKUP, "k", hint);
      a.rq.confirm_epoch = confirmed;
      assert_int_equal(run(&late, &a), GORGE_HIT);
    }
    assert_int_equal(clear_all(&n, &a), GORGE_OK);
    assert_int_equal(lookup(&late, &a, "k", hint), GORGE_HIT); /* under the old names */
    ask(&a, GORGE_L2_LOOKUP, "k", hint);
    a.rq.confirm_epoch = true;
    assert_int_equal(run(&late, &a), GORGE_MISS);
    assert_int_equal(lookup(&late, &a, "k", hint), GORGE_MISS);
    assert_int_equal(set(&n, &a, "k", "new", tags[i]), GORGE_STORED);
    assert_int_equal(lookup(&late, &a, "k", hint), GORGE_HIT);
    assert_string_equal(a.value, "new");
    assert_int_equal(number("DEL {2:ns:0}:e"), 1);
    ask(&a, GORGE_L2_LOOKUP, "k", hint);
    a.rq.confirm_epoch = true;
    assert_int_equal(run(&late, &a), GORGE_MISS);
    assert_int_equal(number("EXISTS {2:ns:0}:e"), 1);
    assert_int_equal(delete_key(&n, &a, "k"), GORGE_OK);
  }
  node_stop(&n);
  node_stop(&late);
  done_with(&a);
}

static void test_tags_that_only_the_loader_knew(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  for (int how = 0; how < 4; how++) {
    flush();
    if (how > 0) {
      assert_int_equal(set(&n, &a, "other", "v", "t"), GORGE_STORED); /* the tag exists */
    }
    if (how > 1) {
      assert_int_equal(invalidate(&n, &a, "t"), GORGE_OK); /* before the fill began */
    }
    assert_int_equal(lease(&n, &a, "k", NULL, 1), GORGE_LEASE);
    uint64_t since = a.result.version;
    if (how == 3) {
      assert_int_equal(invalidate(&n, &a, "t"), GORGE_OK); /* meanwhile */
    }
    ask(&a, GORGE_L2_FILL, "k", "t");
    a.rq.tag_nonces = NULL;
    a.rq.since = since;
    a.rq.token = 1;
    a.rq.value = "v";
    a.rq.value_len = 1;
    assert_int_equal(run(&n, &a), how == 3 ? GORGE_REFUSED : GORGE_STORED);
    assert_int_equal(lookup(&n, &a, "k", NULL), how == 3 ? GORGE_MISS : GORGE_HIT);
    assert_int_equal(invalidate(&n, &a, "t"), GORGE_OK);
    assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_MISS);
  }
  node_stop(&n);
  done_with(&a);
}

static void test_ttl(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0}, b = {0};
  ask(&a, GORGE_L2_SET, "k", NULL);
  a.rq.ttl_ms = 150;
  a.rq.value = "v";
  a.rq.value_len = 1;
  /* While it connects, it asks for the time of Redis: by as much as that takes may it think that it is later. */
  uint64_t connecting = now_ms();
  assert_int_equal(lookup(&n, &b, "k", NULL), GORGE_MISS);
  uint64_t asked = now_ms(), early = asked - connecting, last = 151;
  assert_int_equal(run(&n, &a), GORGE_STORED);
  uint64_t stored = now_ms(), look = stored;
  while (lookup(&n, &a, "k", NULL) == GORGE_HIT) {
    assert_true(look <= stored + 200); /* 150, and what the clocks differ by */
    assert_true(a.result.remaining_ms <= 150);
    assert_true(a.result.remaining_ms <= last);
    last = a.result.remaining_ms;
    support_nap();
    look = now_ms();
  }
  assert_true(now_ms() + early >= asked + 120);
  /* a value that Redis was made to keep: still over by its own time */
  ask(&a, GORGE_L2_SET, "k", NULL);
  a.rq.ttl_ms = 1000;
  a.rq.value = "v";
  a.rq.value_len = 1;
  assert_int_equal(run(&n, &a), GORGE_STORED);
  assert_int_equal(number("PERSIST {2:ns:0}:7:v:k"), 1);
  assert_true(WAIT_UNTIL(lookup(&n, &a, "k", NULL) == GORGE_MISS));
  assert_int_equal(lease(&n, &a, "k", NULL, 1), GORGE_LEASE);
  assert_int_equal(simple(&n, &a, GORGE_L2_RELEASE, "k", 1), GORGE_OK);
  /* for ever is a hundred years */
  ask(&a, GORGE_L2_SET, "k", NULL);
  a.rq.ttl_ms = UINT64_MAX;
  assert_int_equal(run(&n, &a), GORGE_STORED);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
  node_stop(&n);
  done_with(&a);
  done_with(&b);
}

static void test_versions_only_rise(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  uint64_t last = 0;
  for (int i = 0; i < 60; i++) {
    if (i % 10 == 9) {
      flush();
    }
    if (i == 25) { /* far ahead of the clock: goes on from there */
      assert_int_equal(number("SET {2:ns:0}:c 8000000000000000"), 2);
      last = 8000000000000000 - 1;
    }
    if (i == 29) {
      last = 0; /* flushed: the clock again, which that counter was ahead of */
    }
    int status = i % 3 == 0   ? set(&n, &a, "k", "v", NULL)
                 : i % 3 == 1 ? delete_key(&n, &a, "k")
                              : invalidate(&n, &a, "t");
    assert_true(status == GORGE_OK || status == GORGE_STORED);
    assert_true(a.result.version > last);
    last = a.result.version;
  }
  /* a counter that is no number, or too high to count on */
  static const char *const odd[] = {"hello", "-5", "9007199254740992", "1e300", "nan", "inf", ""};
  for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
    redisReply *r = redisCommand(admin, "SET {2:ns:0}:c %s", odd[i]);
    freeReplyObject(r);
    assert_int_equal(lease(&n, &a, "leased", NULL, 1), GORGE_LEASE);
    assert_true(a.result.version <= GORGE_VERSION_MAX);
    assert_int_equal(set(&n, &a, "k", "v", NULL), GORGE_STORED);
    assert_true(a.result.version > last && a.result.version <= GORGE_VERSION_MAX);
    last = a.result.version;
    assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
  }
  node_stop(&n);
  done_with(&a);
}

static void test_messages_of_writes(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct listener l;
  struct asked a = {0};
  char expected[512];
  listener_start(&l, "ns");
  assert_int_equal(set(&n, &a, "k", "v", "t"), GORGE_STORED);
  assert_string_equal(listener_hear(&l), heard_of(GORGE_MESSAGE_KEY, "k", a.result.version));
  assert_int_equal(delete_key(&n, &a, "absent"), GORGE_OK);
  assert_string_equal(listener_hear(&l), heard_of(GORGE_MESSAGE_KEY, "absent", a.result.version));
  assert_int_equal(invalidate(&n, &a, "t u"), GORGE_OK);
  snprintf(expected, sizeof expected, "%s%s", heard_of(GORGE_MESSAGE_TAG, "t", a.result.version),
           heard_of(GORGE_MESSAGE_TAG, "u", a.result.version));
  assert_string_equal(listener_hear(&l), expected);
  /* another namespace is another channel */
  struct node other = node_start("ns2");
  assert_int_equal(delete_key(&other, &a, "k"), GORGE_OK);
  assert_string_equal(listener_hear(&l), "");
  assert_int_equal(gorge_subscriber_malformed(l.s), 0);
  node_stop(&other);
  listener_stop(&l);
  node_stop(&n);
  done_with(&a);
}

static void test_journal(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  /* the first time: a cursor, and no promise about the past */
  assert_int_equal(journal(&n, &a, 0), GORGE_MISS);
  uint64_t cursor = a.result.version;
  assert_true(cursor > 0);
  assert_int_equal(journal(&n, &a, cursor), GORGE_OK);
  assert_string_equal(a.entries, "");
  assert_true(a.result.version == cursor);
  assert_int_equal(set(&n, &a, "k", "v", "t"), GORGE_STORED);
  assert_int_equal(delete_key(&n, &a, "l"), GORGE_OK);
  assert_int_equal(invalidate(&n, &a, "t u"), GORGE_OK);
  uint64_t last = a.result.version;
  assert_int_equal(journal(&n, &a, cursor), GORGE_OK);
  assert_string_equal(a.entries, "1:k 1:l 2:t 2:u ");
  assert_true(a.result.version == last);
  /* from a cursor in the middle: its own entries again, which do no harm, and all after it */
  assert_int_equal(delete_key(&n, &a, "m"), GORGE_OK);
  assert_int_equal(journal(&n, &a, last), GORGE_OK);
  assert_string_equal(a.entries, "2:t 2:u 1:m ");
  /* fills and leases invalidate nothing */
  assert_int_equal(lease(&n, &a, "f", "t", 1), GORGE_LEASE);
  struct asked granted = a;
  a.value = NULL;
  assert_int_equal(fill(&n, &a, "f", "v", "t", 1, &granted), GORGE_STORED);
  assert_int_equal(journal(&n, &a, last), GORGE_OK);
  assert_string_equal(a.entries, "2:t 2:u 1:m ");
  node_stop(&n);
  done_with(&a);
}

static void test_a_journal_with_a_gap_says_so(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  assert_int_equal(delete_key(&n, &a, "k"), GORGE_OK);
  uint64_t cursor = a.result.version;
  assert_int_equal(delete_key(&n, &a, "l"), GORGE_OK);
  /* trimmed */
  assert_int_equal(number("XTRIM {2:ns:0}:j MAXLEN 1"), 1);
  assert_int_equal(journal(&n, &a, cursor), GORGE_MISS);
  assert_int_equal(journal(&n, &a, a.result.version), GORGE_OK);
  /* lost with all the rest; a write came first */
  cursor = a.result.version;
  flush();
  assert_int_equal(delete_key(&n, &a, "m"), GORGE_OK);
  assert_int_equal(journal(&n, &a, cursor), GORGE_MISS);
  cursor = a.result.version;
  assert_int_equal(journal(&n, &a, cursor), GORGE_OK);
  /* lost, and nothing came after */
  flush();
  assert_int_equal(journal(&n, &a, cursor), GORGE_MISS);
  assert_true(a.result.version > cursor);
  assert_int_equal(journal(&n, &a, a.result.version), GORGE_OK);
  /* something else under its name */
  assert_int_equal(number("SET {2:ns:0}:j odd"), 2);
  assert_int_equal(delete_key(&n, &a, "k"), GORGE_OK);
  assert_int_equal(journal(&n, &a, cursor), GORGE_MISS);
  node_stop(&n);
  done_with(&a);
}

static void test_a_long_journal(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  assert_int_equal(delete_key(&n, &a, "first"), GORGE_OK);
  uint64_t cursor = a.result.version;
  for (int i = 0; i < 1300; i++) {
    assert_int_equal(delete_key(&n, &a, i == 1299 ? "last" : "k"), GORGE_OK);
  }
  assert_int_equal(journal(&n, &a, cursor), GORGE_OK);
  assert_memory_equal(a.entries, "1:first 1:k ", 12);
  assert_true(strlen(a.entries) > 1000); /* what was kept of them */
  uint64_t end = a.result.version;
  assert_int_equal(journal(&n, &a, end), GORGE_OK);
  assert_string_equal(a.entries, "1:last ");
  assert_true(number("XLEN {2:ns:0}:j") <= 10200);
  node_stop(&n);
  done_with(&a);
}

static void test_scripts_that_redis_forgot(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_MISS); /* connected, scripts loaded */
  assert_int_equal(number("SCRIPT FLUSH"), 2);
  assert_int_equal(lease(&n, &a, "k", "t", 1), GORGE_LEASE);
  struct asked granted = a;
  a.value = NULL;
  assert_int_equal(number("SCRIPT FLUSH"), 2);
  assert_int_equal(simple(&n, &a, GORGE_L2_RENEW, "k", 1), GORGE_OK);
  assert_int_equal(fill(&n, &a, "k", "v", "t", 1, &granted), GORGE_STORED);
  assert_int_equal(lookup(&n, &a, "k", "t"), GORGE_HIT);
  assert_int_equal(set(&n, &a, "k", "w", "t"), GORGE_STORED);
  assert_int_equal(invalidate(&n, &a, "t"), GORGE_OK);
  assert_int_equal(delete_key(&n, &a, "k"), GORGE_OK);
  assert_int_equal(lease(&n, &a, "k", NULL, 2), GORGE_LEASE);
  assert_int_equal(simple(&n, &a, GORGE_L2_RELEASE, "k", 2), GORGE_OK);
  assert_int_equal(number("SCRIPT FLUSH"), 2);
  assert_int_equal(journal(&n, &a, 0), GORGE_MISS);
  node_stop(&n);
  done_with(&a);
}

static void test_what_is_not_a_value_of_ours(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  assert_int_equal(set(&n, &a, "k", "value", "t"), GORGE_STORED);
  redisReply *whole = redisCommand(admin, "GET {2:ns:0}:7:v:k");
  assert_int_equal(whole->type, REDIS_REPLY_STRING);
  for (size_t cut = 0; cut < whole->len; cut++) {
    freeReplyObject(redisCommand(admin, "SET {2:ns:0}:7:v:k %b PX 60000", whole->str, cut));
    assert_int_equal(lookup(&n, &a, "k", "t"), GORGE_MISS);
    assert_true(a.error[0] != '\0');
    uint64_t rejected = a.result.version;
    ask(&a, GORGE_L2_LEASE, "k", "t");
    a.rq.token = 1 + cut;
    a.rq.rejected_version = rejected;
    assert_int_equal(run(&n, &a), GORGE_LEASE);
    assert_int_equal(simple(&n, &a, GORGE_L2_RELEASE, "k", 1 + cut), GORGE_OK);
    /* without the look-up's warning, too */
    assert_int_equal(lease(&n, &a, "k", "t", 1 + cut), GORGE_LEASE);
    assert_int_equal(simple(&n, &a, GORGE_L2_RELEASE, "k", 1 + cut), GORGE_OK);
  }
  /* and a fill makes it good again */
  assert_int_equal(lease(&n, &a, "k", NULL, 5), GORGE_LEASE);
  assert_int_equal(fill(&n, &a, "k", "good", NULL, 5, NULL), GORGE_STORED);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
  freeReplyObject(whole);
  /* a tag that is none: a new nonce */
  assert_int_equal(set(&n, &a, "k", "v", "t"), GORGE_STORED);
  assert_int_equal(number("SET {2:ns:0}:7:t:t odd"), 2);
  assert_int_equal(lookup(&n, &a, "k", "t"), GORGE_MISS);
  assert_int_equal(set(&n, &a, "k", "v", "t"), GORGE_STORED);
  assert_int_equal(lookup(&n, &a, "k", "t"), GORGE_HIT);
  /* keys of another type: Redis says so */
  assert_int_equal(number("DEL {2:ns:0}:7:v:k"), 1);
  assert_int_equal(number("LPUSH {2:ns:0}:7:v:k x"), 1);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_ERR_REDIS);
  assert_memory_equal(a.error, "WRONGTYPE", 9);
  assert_int_equal(delete_key(&n, &a, "k"), GORGE_OK);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_MISS);
  node_stop(&n);
  done_with(&a);
}

static void test_a_full_memory_stores_nothing_but_invalidates(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct listener l;
  struct asked a = {0}, b = {0};
  assert_int_equal(set(&n, &a, "k", "v", "t"), GORGE_STORED);
  assert_int_equal(set(&n, &a, "k2", "v", "t"), GORGE_STORED);
  assert_int_equal(lease(&n, &b, "filling", "t", 1), GORGE_LEASE);
  listener_start(&l, "ns");
  assert_int_equal(number("CONFIG SET maxmemory 1"), 2);
  int stored = set(&n, &a, "k", "new", NULL);
  char error[256];
  snprintf(error, sizeof error, "%s", a.error);
  int filled = fill(&n, &a, "filling", "v", "t", 1, &b);
  int leased = lease(&n, &a, "k9", NULL, 1);
  int busy = lease(&n, &a, "filling", NULL, 9);
  int hit = lookup(&n, &a, "k", "t");
  int deleted = delete_key(&n, &a, "k");
  uint64_t version = a.result.version;
  int invalidated = invalidate(&n, &a, "t");
  char expected[256];
  snprintf(expected, sizeof expected, "%s%s", heard_of(GORGE_MESSAGE_KEY, "k", version),
           heard_of(GORGE_MESSAGE_TAG, "t", a.result.version));
  assert_int_equal(number("CONFIG SET maxmemory 0"), 2);
  assert_int_equal(stored, GORGE_ERR_REDIS);
  assert_memory_equal(error, "OOM", 3);
  assert_int_equal(filled, GORGE_ERR_REDIS);
  assert_int_equal(leased, GORGE_ERR_REDIS);
  assert_int_equal(busy, GORGE_BUSY);
  assert_int_equal(hit, GORGE_HIT);
  assert_int_equal(deleted, GORGE_OK);
  assert_int_equal(invalidated, GORGE_OK);
  assert_string_equal(listener_hear(&l), expected);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_MISS);
  assert_int_equal(lookup(&n, &a, "k2", NULL), GORGE_MISS);
  listener_stop(&l);
  node_stop(&n);
  done_with(&a);
  done_with(&b);
}

static void test_a_read_only_replica(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct asked a = {0};
  assert_int_equal(set(&n, &a, "k", "v", NULL), GORGE_STORED);
  assert_int_equal(number("REPLICAOF 127.0.0.1 1"), 2);
  int hit = lookup(&n, &a, "k", NULL);
  int stored = set(&n, &a, "k", "w", NULL);
  char error[256];
  snprintf(error, sizeof error, "%s", a.error);
  assert_int_equal(number("REPLICAOF NO ONE"), 2);
  assert_int_equal(hit, GORGE_HIT);
  assert_int_equal(stored, GORGE_ERR_REDIS);
  assert_memory_equal(error, "READONLY", 8);
  assert_int_equal(set(&n, &a, "k", "w", NULL), GORGE_STORED);
  node_stop(&n);
  done_with(&a);
}

static void test_passwords_and_databases(void **state) {
  (void)state;
  struct gorge_conn_config with = config;
  struct asked a = {0};
  with.db = 5;
  struct node n = node_start_with("ns", &with);
  assert_int_equal(number("SELECT 5"), 2);
  assert_int_equal(number("SET {2:ns:0}:e 7"), 2);
  assert_int_equal(set(&n, &a, "k", "v", NULL), GORGE_STORED);
  assert_int_equal(number("SELECT 0"), 2);
  assert_int_equal(number("EXISTS {2:ns:0}:7:v:k"), 0);
  assert_int_equal(number("SELECT 5"), 2);
  assert_int_equal(number("EXISTS {2:ns:0}:7:v:k"), 1);
  assert_int_equal(number("SELECT 0"), 2);
  node_stop(&n);

  with.db = 99999;
  n = node_start_with("ns", &with);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_ERR_DOWN);
  assert_memory_equal(gorge_conn_reason(n.link.conn), "database refused", 16);
  node_stop(&n);

  assert_int_equal(number("ACL SETUSER bob on >hunter2 ~* &* +@all"), 2);
  /* this one may not load scripts: they go with each call */
  assert_int_equal(number("ACL SETUSER eve on >s3cret ~* &* +@all -script"), 2);
  with.db = 0;
  static const char *const users[][3] = {{"bob", "hunter2", "y"}, {"bob", "wrong", ""}, {"eve", "s3cret", "y"}};
  for (int i = 0; i < 3; i++) {
    with.username = users[i][0];
    with.password = users[i][1];
    n = node_start_with("ns", &with);
    int status = set(&n, &a, "k", "v", "t");
    if (users[i][2][0] == 'y') {
      assert_int_equal(status, GORGE_STORED);
      assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
      assert_int_equal(lease(&n, &a, "k", NULL, 1), GORGE_HIT);
      assert_int_equal(delete_key(&n, &a, "k"), GORGE_OK);
    } else {
      assert_int_equal(status, GORGE_ERR_DOWN);
      assert_string_equal(gorge_conn_reason(n.link.conn), "authentication refused");
    }
    node_stop(&n);
  }
  assert_int_equal(number("ACL DELUSER bob eve"), 2);
  done_with(&a);
}

static void test_redis_goes_and_comes_back(void **state) {
  (void)state;
  struct node n = node_start("ns");
  struct listener l;
  struct asked a = {0};
  listener_start(&l, "ns");
  assert_int_equal(set(&n, &a, "k", "v", NULL), GORGE_STORED);
  support_redis_kill(&redis);
  redisFree(admin);
  assert_true(WAIT_UNTIL(lookup(&n, &a, "k", NULL) == GORGE_ERR_DOWN));
  assert_true(support_redis_restart(&redis));
  admin = redisConnectUnix(redis.path);
  /* the first request after the backoff makes it connect; everything it knew is gone, and it goes on */
  assert_true(WAIT_UNTIL((link_step(&n.link), lookup(&n, &a, "k", NULL) == GORGE_MISS)));
  assert_int_equal(set(&n, &a, "k", "w", NULL), GORGE_STORED);
  assert_int_equal(lookup(&n, &a, "k", NULL), GORGE_HIT);
  assert_int_equal(gorge_conn_connects(n.link.conn), 2);
  assert_true(WAIT_UNTIL((link_step(&l.link), l.ready == 2)));
  listener_hear(&l);
  assert_int_equal(delete_key(&n, &a, "k"), GORGE_OK);
  assert_string_equal(listener_hear(&l), heard_of(GORGE_MESSAGE_KEY, "k", a.result.version));
  listener_stop(&l);
  node_stop(&n);
  done_with(&a);
}

static void test_many_requests_in_one_pipeline(void **state) {
  (void)state;
  struct node n = node_start("ns");
  enum { N = 100 };
  struct asked *a = calloc(N, sizeof *a);
  char keys[N][16];
  for (int i = 0; i < N; i++) {
    snprintf(keys[i], sizeof keys[i], "key-%d", i);
    ask(&a[i], GORGE_L2_SET, keys[i], i % 2 == 0 ? "even" : NULL);
    a[i].rq.value = keys[i];
    a[i].rq.value_len = (uint32_t)strlen(keys[i]);
    assert_int_equal(gorge_l2_send(n.l2, &a[i].rq, now_ms()), GORGE_OK);
  }
  assert_true(WAIT_UNTIL((link_step(&n.link), a[N - 1].calls == 1)));
  for (int i = 0; i < N; i++) {
    assert_int_equal(a[i].result.status, GORGE_STORED);
    assert_true(i == 0 || a[i].result.version > a[i - 1].result.version);
    ask(&a[i], GORGE_L2_LOOKUP, keys[i], i % 3 == 0 ? "even" : NULL);
    assert_int_equal(gorge_l2_send(n.l2, &a[i].rq, now_ms()), GORGE_OK);
  }
  gorge_l2_cancel(&a[50].rq);
  assert_true(WAIT_UNTIL((link_step(&n.link), gorge_conn_pending(n.link.conn) == 0)));
  for (int i = 0; i < N; i++) {
    assert_int_equal(a[i].calls, i == 50 ? 0 : 1);
    if (i != 50) {
      assert_int_equal(a[i].result.status, GORGE_HIT);
      assert_string_equal(a[i].value, keys[i]);
    }
    done_with(&a[i]);
  }
  free(a);
  node_stop(&n);
}

/*
 * A history of two nodes, at random, against what must hold: a fill that began before an invalidation of its key or of one of
 * its tags is refused, no look-up ever returns a value that was invalidated, versions of a key only rise.
 */
enum { KEYS = 3, TAGS = 3 };

struct model_fill {
  bool open, dead; /* dead: an invalidation came between */
  uint64_t token;
  int tags; /* bits */
  struct asked granted;
};

struct model_value {
  bool there;
  int tags;
  int number;
  uint64_t version;
};

static const char *const tag_sets[] = {"", "a", "b", "a b", "c", "a c", "b c", "a b c"};
static const char *const tag_names[] = {"a", "b", "c"};
static const char *const key_names[] = {"k0", "k1", "k2"};

struct model {
  struct node nodes[2];
  struct model_value values[KEYS];
  struct model_fill fills[KEYS];
  uint64_t token;
  int number;
};

static void model_lookup(struct model *m, int key, struct node *n) {
  struct asked a = {0};
  char expected[16];
  int status = lookup(n, &a, key_names[key], tag_sets[m->number % 8]);
  snprintf(expected, sizeof expected, "%d", m->values[key].number);
  assert_int_equal(status, m->values[key].there ? GORGE_HIT : GORGE_MISS);
  if (status == GORGE_HIT) {
    assert_string_equal(a.value, expected);
    assert_true(a.result.version == m->values[key].version);
  }
  done_with(&a);
}

static void model_write(struct model *m, int key, struct node *n, int tags) {
  struct asked a = {0};
  char value[16];
  snprintf(value, sizeof value, "%d", ++m->number);
  assert_int_equal(set(n, &a, key_names[key], value, tag_sets[tags]), GORGE_STORED);
  assert_true(a.result.version > m->values[key].version);
  m->values[key] = (struct model_value){true, tags, m->number, a.result.version};
  m->fills[key].dead = true;
  done_with(&a);
}

static void model_delete(struct model *m, int key, struct node *n) {
  struct asked a = {0};
  assert_int_equal(delete_key(n, &a, key_names[key]), GORGE_OK);
  m->values[key].there = false;
  m->fills[key].dead = true;
}

static void model_invalidate(struct model *m, int tag, struct node *n) {
  struct asked a = {0};
  assert_int_equal(invalidate(n, &a, tag_names[tag]), GORGE_OK);
  for (int key = 0; key < KEYS; key++) {
    if ((m->values[key].tags & 1 << tag) != 0) {
      m->values[key].there = false;
    }
    if ((m->fills[key].tags & 1 << tag) != 0) {
      m->fills[key].dead = true;
    }
  }
}

static void model_begin(struct model *m, int key, struct node *n, int tags) {
  struct model_fill *f = &m->fills[key];
  struct asked a = {0};
  uint64_t token = ++m->token;
  int status = lease(n, &a, key_names[key], tag_sets[tags], token);
  if (m->values[key].there) {
    assert_int_equal(status, GORGE_HIT);
  } else if (f->open && !f->dead) {
    assert_int_equal(status, GORGE_BUSY);
  } else if (status == GORGE_LEASE) {
    *f = (struct model_fill){.open = true, .token = token, .tags = tags, .granted = a};
    a.value = NULL;
  } else {
    /* a tag killed the fill, its lease is still there until it tries */
    assert_int_equal(status, GORGE_BUSY);
    assert_true(f->open && f->dead);
  }
  done_with(&a);
}

static void model_finish(struct model *m, int key, struct node *n) {
  struct model_fill *f = &m->fills[key];
  struct asked a = {0};
  char value[16];
  if (!f->open) {
    return;
  }
  snprintf(value, sizeof value, "%d", ++m->number);
  int status = fill(n, &a, key_names[key], value, tag_sets[f->tags], f->token, &f->granted);
  assert_int_equal(status, f->dead ? GORGE_REFUSED : GORGE_STORED);
  if (status == GORGE_STORED) {
    assert_true(a.result.version > m->values[key].version);
    m->values[key] = (struct model_value){true, f->tags, m->number, a.result.version};
  }
  f->open = false;
  done_with(&a);
}

static void test_a_random_history(void **state) {
  (void)state;
  struct model m = {.nodes = {node_start("ns"), node_start("ns")}};
  uint64_t seed = 20;
  for (int step = 0; step < 6000; step++) {
    struct node *n = &m.nodes[wire_random(&seed) % 2];
    int key = (int)(wire_random(&seed) % KEYS), tags = (int)(wire_random(&seed) % 8);
    switch (wire_random(&seed) % 12) {
      case 0: model_write(&m, key, n, tags); break;
      case 1: model_delete(&m, key, n); break;
      case 2: model_invalidate(&m, tags % TAGS, n); break;
      case 3:
      case 4:
      case 5:
      case 6: model_begin(&m, key, n, tags); break;
      case 7:
      case 8:
      case 9: model_finish(&m, key, n); break;
      default: model_lookup(&m, key, n);
    }
  }
  node_stop(&m.nodes[0]);
  node_stop(&m.nodes[1]);
}

static int start(void **state) {
  (void)state;
  if (!support_redis_start(&redis)) {
    return -1;
  }
  admin = redisConnectUnix(redis.path);
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
      cmocka_unit_test_setup(test_set_and_lookup, setup),
      cmocka_unit_test_setup(test_any_bytes_round_trip, setup),
      cmocka_unit_test_setup(test_namespaces_are_apart, setup),
      cmocka_unit_test_setup(test_one_lease_per_key, setup),
      cmocka_unit_test_setup(test_release_and_renew, setup),
      cmocka_unit_test_setup(test_a_previous_token_is_replaced, setup),
      cmocka_unit_test_setup(test_a_lease_expires_by_itself, setup),
      cmocka_unit_test_setup(test_writes_refuse_fills_in_progress, setup),
      cmocka_unit_test_setup(test_a_fill_refused_by_a_tag_wakes_who_waits, setup),
      cmocka_unit_test_setup(test_tags, setup),
      cmocka_unit_test_setup(test_sixteen_long_tags, setup),
      cmocka_unit_test_setup(test_tags_outlive_what_names_them, setup),
      cmocka_unit_test_setup(test_a_touch_gives_another_life, setup),
      cmocka_unit_test_setup(test_a_touch_finds_the_tags, setup),
      cmocka_unit_test_setup(test_a_touch_of_what_is_no_value, setup),
      cmocka_unit_test_setup(test_an_update_replaces_what_was_read, setup),
      cmocka_unit_test_setup(test_an_update_minds_leases_and_tags, setup),
      cmocka_unit_test_setup(test_a_clear_leaves_nothing, setup),
      cmocka_unit_test_setup(test_writes_under_an_old_epoch, setup),
      cmocka_unit_test_setup(test_an_epoch_that_is_lost_is_made_anew, setup),
      cmocka_unit_test_setup(test_a_new_connection_learns_the_epoch, setup),
      cmocka_unit_test_setup(test_a_lookup_confirms_the_epoch, setup),
      cmocka_unit_test_setup(test_tags_that_only_the_loader_knew, setup),
      cmocka_unit_test_setup(test_ttl, setup),
      cmocka_unit_test_setup(test_versions_only_rise, setup),
      cmocka_unit_test_setup(test_messages_of_writes, setup),
      cmocka_unit_test_setup(test_journal, setup),
      cmocka_unit_test_setup(test_a_journal_with_a_gap_says_so, setup),
      cmocka_unit_test_setup(test_a_long_journal, setup),
      cmocka_unit_test_setup(test_scripts_that_redis_forgot, setup),
      cmocka_unit_test_setup(test_what_is_not_a_value_of_ours, setup),
      cmocka_unit_test_setup(test_a_full_memory_stores_nothing_but_invalidates, setup),
      cmocka_unit_test_setup(test_a_read_only_replica, setup),
      cmocka_unit_test_setup(test_passwords_and_databases, setup),
      cmocka_unit_test_setup(test_redis_goes_and_comes_back, setup),
      cmocka_unit_test_setup(test_many_requests_in_one_pipeline, setup),
      cmocka_unit_test_setup(test_a_random_history, setup),
  };
  return cmocka_run_group_tests(tests, start, stop);
}
