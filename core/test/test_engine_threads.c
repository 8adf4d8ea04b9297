/* SPDX-License-Identifier: MIT */
/*
 * A storm of operations by three caches of two hosts over one Redis, with control threads that apply what the other host does. Values are
 * numbers of a "database" that only grow, so that every read can be judged:
 *
 *   I3  a read that begins after a write of this host was acknowledged sees that write, or later
 *   I4  a read never sees less than a read of this host that had ended before it began
 *
 * The bytes of each connection are moved by the test, a few now and a few later, so that writes and reads of the three overtake one another.
 * Then the same with a Redis that stands still, dies and comes back: values are judged when it is well again, but nothing may be left behind.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "test/drive_support.h"
#include "test/engine_support.h"
#include "test/procs.h"

enum { KEYS = 5, TAGS = 2, CACHES = 3, HOSTS = 2, RUNNING = 24, STEPS = 6000 };

static const int host_of[CACHES] = {0, 0, 1};

static struct support_redis redis;
static gorge_cache *caches[CACHES];
static int sockets[CACHES]; /* -1: none */
static uint64_t seed;
static bool judging; /* whether values must be right */

static struct key {
  char name[16];
  char tag[16];
  uint32_t database;
  bool writing; /* one write at a time: versions have the order of the database */
  uint32_t acked[HOSTS];
  uint32_t seen[HOSTS];
} keys[KEYS];

enum kind { NONE, FETCH, LOOKUP, SET, DELETE, INVALIDATE };

static struct running {
  enum kind kind;
  int cache;
  int key; /* INVALIDATE: the tag */
  uint64_t op;
  uint32_t least;  /* what a read that began then may see */
  uint32_t number; /* what is being written */
  bool loading;
  uint32_t loaded; /* by the loader */
} running[RUNNING];

static uint32_t roll(uint32_t n) { return proc_random(&seed) % n; }

static uint32_t least_of(const struct key *k, int host) {
  return k->acked[host] > k->seen[host] ? k->acked[host] : k->seen[host];
}

/* A value was read on a host by a read that began when `least` was the least it might see. */
static void judge(struct key *k, int host, const char *value, uint32_t least, const char *how) {
  uint32_t number = (uint32_t)strtoul(value, NULL, 10);
  if (judging && number < least) {
    fail_msg("%s of %s on host %d saw %u, which is older than %u", how, k->name, host, number, least);
  }
  if (number > k->seen[host]) {
    k->seen[host] = number;
  }
}

static void peek(int cache, struct key *k) {
  int host = host_of[cache];
  uint32_t least = least_of(k, host);
  const char *value = engine_l1(caches[cache], k->name);
  if (value != NULL) {
    judge(k, host, value, least, "L1");
  }
}

static bool tag_busy(int tag) {
  for (int i = tag; i < KEYS; i += TAGS) {
    if (keys[i].writing) {
      return true;
    }
  }
  return false;
}

static void start_write(struct running *r, struct key *k) {
  gorge_cache *c = caches[r->cache];
  char value[16];
  if (r->kind == INVALIDATE) {
    r->key = (int)roll(TAGS);
    if (tag_busy(r->key)) {
      r->kind = NONE;
      return;
    }
    for (int i = r->key; i < KEYS; i += TAGS) {
      keys[i].writing = true;
      keys[i].database++;
    }
    engine_invalidate(c, keys[r->key].tag, &r->op);
    return;
  }
  if (k->writing) {
    r->kind = NONE;
    return;
  }
  k->writing = true;
  r->number = ++k->database;
  snprintf(value, sizeof value, "%u", r->number);
  if (r->kind == SET) {
    engine_set(c, k->name, value, k->tag, &r->op);
  } else {
    engine_delete(c, k->name, &r->op);
  }
}

static void start(struct running *r) {
  static const enum kind kinds[] = {FETCH, FETCH, FETCH, FETCH, LOOKUP, LOOKUP, SET, SET, DELETE, INVALIDATE};
  memset(r, 0, sizeof *r);
  r->kind = kinds[roll(sizeof kinds / sizeof kinds[0])];
  r->cache = (int)roll(CACHES);
  r->key = (int)roll(KEYS);
  struct key *k = &keys[r->key];
  r->least = least_of(k, host_of[r->cache]);
  if (r->kind == FETCH) {
    engine_fetch(caches[r->cache], k->name, roll(2) ? k->tag : NULL, &r->op);
  } else if (r->kind == LOOKUP) {
    engine_lookup(caches[r->cache], k->name, &r->op);
  } else {
    start_write(r, k);
  }
}

static void ack(struct key *k, int host, uint32_t number) {
  k->writing = false;
  if (number > k->acked[host]) {
    k->acked[host] = number;
  }
}

static void end_write(struct running *r, int status) {
  int host = host_of[r->cache];
  if (judging) {
    assert_int_equal(status, GORGE_OK);
  }
  if (r->kind == INVALIDATE) {
    for (int i = r->key; i < KEYS; i += TAGS) {
      ack(&keys[i], host, keys[i].database);
    }
  } else {
    ack(&keys[r->key], host, r->number);
  }
}

static void finish(struct running *r) {
  if (r->op != 0) {
    gorge_op_free(caches[r->cache], r->op);
  }
  r->kind = NONE;
}

/* The loader has read the database a while ago, and ends one way or another. */
static void end_load(struct running *r) {
  gorge_cache *c = caches[r->cache];
  char value[16];
  snprintf(value, sizeof value, "%u", r->loaded);
  r->loading = false;
  switch (roll(8)) {
    case 0: gorge_fetch_fail(c, r->op, "no", 2); break;
    case 1: gorge_fetch_skip(c, r->op); break;
    case 2: finish(r); break; /* cut off */
    default: engine_fill_tagged(c, r->op, value, keys[r->key].tag); break;
  }
}

static void advance(struct running *r) {
  struct key *k = &keys[r->key];
  gorge_cache *c = caches[r->cache];
  bool reading = r->kind == FETCH || r->kind == LOOKUP;
  if (reading && roll(40) == 0) {
    finish(r);
    return;
  }
  if (r->loading) {
    if (roll(4) == 0) {
      end_load(r);
    }
    return;
  }
  struct answer a = {.status = GORGE_OK};
  if (r->op != 0) {
    a = engine_status(c, r->op);
  }
  if (a.status == GORGE_PENDING) {
    return;
  }
  if (!reading) {
    end_write(r, a.status);
  } else if (a.status == GORGE_LEASE) {
    r->loading = true;
    r->loaded = k->database;
    return;
  } else if (a.status == GORGE_HIT) {
    judge(k, host_of[r->cache], a.value, r->least, r->kind == FETCH ? "fetch" : "get");
  }
  finish(r);
}

static void drop(int i, const char *reason) {
  close(sockets[i]);
  sockets[i] = -1;
  gorge_io_closed(caches[i], 0, reason);
}

static void connect_socket(int i) {
  char host[256];
  uint32_t port;
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (gorge_io_connect(caches[i], 0, host, sizeof host, &port) != GORGE_OK) {
    return;
  }
  memcpy(address.sun_path, redis.path, strlen(redis.path) + 1);
  sockets[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  assert_true(sockets[i] >= 0);
  if (connect(sockets[i], (struct sockaddr *)&address, sizeof address) != 0) {
    drop(i, "connect");
    return;
  }
  gorge_io_opened(caches[i], 0);
}

static void send_some(int i, uint32_t most) {
  const char *ptr;
  uint64_t len;
  gorge_io_output(caches[i], 0, &ptr, &len);
  ssize_t n = len > 0 ? send(sockets[i], ptr, len < most ? len : most, MSG_NOSIGNAL) : 0;
  if (n > 0) {
    gorge_io_sent(caches[i], 0, (uint64_t)n);
  }
}

static void receive_some(int i, uint32_t most) {
  static char bytes[65536];
  ssize_t n = recv(sockets[i], bytes, most < sizeof bytes ? most : sizeof bytes, 0);
  if (n == 0) {
    drop(i, "closed");
  } else if (n > 0 && gorge_io_input(caches[i], 0, bytes, (uint64_t)n) != GORGE_OK) {
    drop(i, "input");
  }
}

/* Moves some bytes of some connections; all of them in the end, when there is no hurry. */
static void turn(bool all) {
  uint64_t ops[16];
  for (int i = 0; i < CACHES; i++) {
    if (sockets[i] < 0) {
      connect_socket(i);
    }
    if (sockets[i] >= 0 && (all || roll(3) == 0)) {
      send_some(i, all ? UINT32_MAX : 1 + roll(400));
    }
    if (sockets[i] >= 0 && (all || roll(3) == 0)) {
      receive_some(i, all ? UINT32_MAX : 1 + roll(400));
    }
    if (sockets[i] >= 0 && gorge_io_tick(caches[i], 0) == 1) {
      drop(i, "tick");
    }
    while (gorge_poll(caches[i], ops, 16) == 16) {
    }
  }
}

static void trouble(void) {
  static bool stopped;
  uint32_t what = roll(4000);
  if (stopped && roll(200) == 0) {
    kill(redis.pid, SIGCONT);
    stopped = false;
  } else if (!stopped && what < 6) {
    kill(redis.pid, SIGSTOP);
    stopped = true;
  } else if (what == 6) {
    stopped = false;
    assert_true(support_redis_restart(&redis));
  }
}

static void storm(bool troubled) {
  for (int step = 0; step < STEPS; step++) {
    struct running *r = &running[roll(RUNNING)];
    if (r->kind == NONE) {
      start(r);
    } else {
      advance(r);
    }
    peek((int)roll(CACHES), &keys[roll(KEYS)]);
    if (roll(3) == 0) {
      turn(false);
    }
    if (roll(100) == 0) {
      support_nap();
    }
    if (troubled) {
      trouble();
    }
  }
}

static bool drained(void) {
  bool idle = true;
  for (int i = 0; i < RUNNING; i++) {
    if (running[i].kind != NONE) {
      advance(&running[i]);
      idle = false;
    }
  }
  turn(true);
  support_nap();
  for (int i = 0; i < CACHES; i++) { /* with leases that are to be given back */
    idle = idle && caches[i]->op_count == 0;
  }
  return idle;
}

static bool drain(void) {
  uint64_t until_ms = gorge_clock_ms() + 60000;
  while (!drained() && gorge_clock_ms() < until_ms) {
  }
  return drained();
}

static void nothing_is_left(void) {
  assert_true(drain());
  for (int i = 0; i < CACHES; i++) {
    assert_int_equal(engine_flights(caches[i]), 0);
    assert_null(caches[i]->waiting);
    assert_null(caches[i]->noted_first);
  }
}

static int finish_now(int cache, uint64_t op, int status) {
  uint64_t until_ms = gorge_clock_ms() + 2000;
  while (op != 0 && (status = engine_status(caches[cache], op).status) == GORGE_PENDING &&
         gorge_clock_ms() < until_ms) {
    turn(true);
  }
  gorge_op_free(caches[cache], op);
  if (status != GORGE_OK) {
    support_nap();
  }
  return status;
}

static const char *get_or_fill(int cache, const char *key, const char *value) {
  gorge_cache *c = caches[cache];
  uint64_t op, until_ms = gorge_clock_ms() + 2000;
  const char *seen = engine_l1(c, key);
  if (seen != NULL) {
    return seen;
  }
  int status = engine_fetch(c, key, NULL, &op);
  while ((status = engine_status(c, op).status) == GORGE_PENDING && gorge_clock_ms() < until_ms) {
    turn(true);
  }
  if (status == GORGE_LEASE) {
    finish_now(cache, op, engine_fill(c, op, value));
  } else {
    gorge_op_free(c, op);
  }
  seen = engine_l1(c, key);
  return seen != NULL ? seen : "";
}

/* After a write that Redis has taken every host comes to see it. */
static void all_agree(void) {
  for (int i = 0; i < KEYS; i++) {
    struct key *k = &keys[i];
    char value[16];
    int status = GORGE_PENDING;
    snprintf(value, sizeof value, "%u", ++k->database);
    for (int tries = 0; tries < 500 && status != GORGE_OK; tries++) {
      uint64_t op;
      status = engine_delete(caches[i % CACHES], k->name, &op);
      status = finish_now(i % CACHES, op, status);
    }
    assert_int_equal(status, GORGE_OK);
    for (int c = 0; c < CACHES; c++) {
      uint64_t until_ms = gorge_clock_ms() + 20000;
      const char *seen;
      do {
        seen = get_or_fill(c, k->name, value);
      } while (strcmp(seen, value) != 0 && gorge_clock_ms() < until_ms);
      assert_string_equal(seen, value);
    }
  }
}

static void begin(uint64_t with, uint32_t timeout_ms) {
  memset(keys, 0, sizeof keys);
  memset(running, 0, sizeof running);
  seed = with;
  for (int i = 0; i < KEYS; i++) {
    snprintf(keys[i].name, sizeof keys[i].name, "k%d", i);
    snprintf(keys[i].tag, sizeof keys[i].tag, "t%d", i % TAGS);
  }
  assert_true(support_redis_restart(&redis));
  for (int i = 0; i < CACHES; i++) {
    struct gorge_config config = engine_config(i == 1 ? engine_zone_name() : NULL, redis.path, 0);
    config.timeout_ms = timeout_ms;
    config.connect_timeout_ms = judging ? timeout_ms : 200;
    config.lock_sleep_ms = 2;
    config.l1_ttl_ms = with % 2 == 0 ? 10 : 60000; /* the shorter, the more is read in Redis */
    config.breaker_max_failures = judging ? 0 : 5;
    config.breaker_timeout_ms = 30;
    caches[i] = engine_cache(&config);
    sockets[i] = -1;
    assert_int_equal(gorge_cache_enter(caches[i], 1), GORGE_OK);
    assert_true(WAIT_UNTIL(i == 1 || engine_follows(caches[i])));
  }
}

static void end(void) {
  for (int i = 0; i < CACHES; i++) {
    if (sockets[i] >= 0) {
      close(sockets[i]);
    }
    gorge_cache_destroy(caches[i]);
  }
}

static void reads_are_right_in_a_storm(void **state) {
  (void)state;
  judging = true;
  for (uint64_t with = 1; with <= 3; with++) {
    begin(with, 60000); /* no machine is too slow for a write that is to succeed */
    storm(false);
    nothing_is_left();
    all_agree();
    end();
  }
}

static void nothing_is_left_behind_by_a_redis_that_comes_and_goes(void **state) {
  (void)state;
  judging = false;
  for (uint64_t with = 11; with <= 13; with++) {
    begin(with, 40);
    storm(true);
    kill(redis.pid, SIGCONT);
    nothing_is_left();
    all_agree();
    end();
  }
}

static int start_all(void **state) {
  (void)state;
  return support_redis_start(&redis) ? 0 : -1;
}

static int stop_all(void **state) {
  (void)state;
  support_redis_stop(&redis);
  return 0;
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(reads_are_right_in_a_storm),
      cmocka_unit_test(nothing_is_left_behind_by_a_redis_that_comes_and_goes),
  };
  return cmocka_run_group_tests_name("engine storm", tests, start_all, stop_all);
}
