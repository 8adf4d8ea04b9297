/* SPDX-License-Identifier: MIT */
/*
 * Nodes over a namespace of as many partitions as in a cluster, on one real Redis: what only several partitions have. A message that is
 * lost alone, a partition that cannot be asked, a subscription that lives and hears nothing. The suites for one partition run with as many
 * as well.
 */
#include <poll.h>
#include <pthread.h>
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

#include "backlog/backlog.h"
#include "base/clock.h"
#include "proto/slot.h"
#include "sync/mailbox.h"
#include "test/calm.h"
#include "test/drive_support.h"
#include "test/engine_support.h"
#include "test/procs.h"

/* The longer bound where L1 is to stay open, for a heartbeat that is late closes it; the shorter one where it is to be seen at work. */
enum { ALL = GORGE_PARTITIONS, BOUND_MS = 5000, SHORT_BOUND_MS = 800, DISCONNECTED_MS = 60000 };

static struct support_redis redis;
static gorge_cache *a, *b;
static char keys[ALL][16];  /* one of each partition */
static char other[ALL][16]; /* another one */

static uint32_t partition_of(const char *key) { return gorge_partition_of(key, strlen(key), ALL); }

static int start(void **state) {
  (void)state;
  for (uint32_t found = 0, i = 0; found < 2 * ALL; i++) {
    char key[16];
    snprintf(key, sizeof key, "k%u", i);
    char *at = keys[partition_of(key)][0] == '\0' ? keys[partition_of(key)] : other[partition_of(key)];
    found += at[0] == '\0';
    memcpy(at, key, sizeof key);
  }
  engine_partitions = ALL;
  return support_redis_start(&redis) ? 0 : -1;
}

static int stop(void **state) {
  (void)state;
  support_redis_stop(&redis);
  return 0;
}

static gorge_cache *node(const char *path, uint64_t bound_ms) {
  struct gorge_config config = engine_config(NULL, path, GORGE_CONFIG_INLINE);
  config.freshness_bound_ms = (double)bound_ms;
  config.disconnected_ttl_ms = DISCONNECTED_MS;
  gorge_cache *c = engine_cache(&config);
  assert_int_equal(gorge_cache_enter(c, 1), GORGE_OK);
  assert_true(WAIT_UNTIL(engine_follows(c)));
  return c;
}

static int begin_with(uint64_t bound_ms) {
  a = node(redis.path, bound_ms);
  b = node(redis.path, bound_ms);
  return 0;
}

static int begin(void **state) {
  (void)state;
  return begin_with(BOUND_MS);
}

static int begin_with_short_bound(void **state) {
  (void)state;
  return begin_with(SHORT_BOUND_MS);
}

static void say(const char *command) {
  char answer[256];
  assert_true(support_redis_command(&redis, command, answer, sizeof answer));
  assert_int_not_equal(answer[0], '-');
}

static int end(void **state) {
  (void)state;
  gorge_cache_destroy(a);
  gorge_cache_destroy(b);
  say("FLUSHALL");
  return 0;
}

static int clear(gorge_cache *c) {
  uint64_t op;
  int status = gorge_clear_start(c, &op);
  return engine_finish(c, op, status);
}

static const char *load(gorge_cache *c, const char *key, const char *value) {
  int status;
  return engine_get_or_fill(c, key, value, &status);
}

/* Each partition tells of a tag or a clear for itself: the last ones may forget once more what was loaded after the first. */
static void load_all(gorge_cache *c, const char *expected) {
  for (int i = 0; i < ALL; i++) {
    assert_string_equal(load(c, keys[i], expected), expected);
    assert_true(WAIT_UNTIL((load(c, keys[i], expected), engine_l1_is(c, keys[i], expected))));
  }
}

static int in_l1(gorge_cache *c) {
  int count = 0;
  for (int i = 0; i < ALL; i++) {
    count += engine_l1(c, keys[i]) != NULL;
  }
  return count;
}

static const struct gorge_words *words(const gorge_cache *c) { return gorge_zone_words(c->zone, c->ns); }
static uint64_t life_max(const gorge_cache *c) { return __atomic_load_n(&words(c)->life_max_ms, __ATOMIC_RELAXED); }
static uint64_t synced(const gorge_cache *c) {
  return __atomic_load_n(&gorge_zone_journal(c->zone, c->ns)->synced_ms, __ATOMIC_RELAXED);
}
static enum gorge_contact contact(const gorge_cache *c) {
  return (enum gorge_contact)__atomic_load_n(&gorge_zone_journal(c->zone, c->ns)->contact, __ATOMIC_ACQUIRE);
}
static uint64_t epoch(const gorge_cache *c, uint32_t i) {
  return __atomic_load_n(&gorge_zone_epochs(c->zone, c->ns, ALL)[i], __ATOMIC_ACQUIRE);
}
static uint64_t cursor(const gorge_cache *c, uint32_t i) {
  return __atomic_load_n(&gorge_zone_cursors(c->zone, c->ns, ALL)[i], __ATOMIC_ACQUIRE);
}

static void writes_of_all_partitions_are_heard(void **state) {
  (void)state;
  for (int i = 0; i < ALL; i++) {
    assert_int_equal(engine_set_whole(b, keys[i], "old", "t u"), GORGE_OK);
  }
  load_all(a, "old");
  for (int i = 0; i < ALL; i++) {
    assert_int_equal(i % 2 == 0 ? engine_set_whole(b, keys[i], "new", "t u") : engine_delete_whole(b, keys[i]),
                     GORGE_OK);
  }
  assert_true(WAIT_UNTIL(in_l1(a) == 0));
  load_all(a, "new");
  for (uint32_t i = 0; i < ALL; i++) {
    assert_true(WAIT_UNTIL(cursor(a, i) == cursor(b, i)));
  }
}

static void a_tag_is_forgotten_in_all_partitions(void **state) {
  (void)state;
  for (int i = 0; i < ALL; i++) {
    assert_int_equal(engine_set_whole(b, keys[i], "old", "t u"), GORGE_OK);
  }
  load_all(a, "old");
  load_all(b, "old");
  assert_int_equal(engine_invalidate_whole(b, "u"), GORGE_OK);
  assert_int_equal(in_l1(b), 0); /* at once for the sender */
  for (int i = 0; i < ALL; i++) {
    assert_string_equal(load(b, keys[i], "new"), "new"); /* in L2 as well */
  }
  assert_true(WAIT_UNTIL(in_l1(a) == 0));
  load_all(a, "new");
}

static void clear_forgets_all_partitions(void **state) {
  (void)state;
  uint64_t before[ALL];
  for (int i = 0; i < ALL; i++) {
    assert_int_equal(engine_set_whole(b, keys[i], "old", NULL), GORGE_OK);
  }
  load_all(a, "old");
  for (uint32_t i = 0; i < ALL; i++) {
    before[i] = epoch(a, i);
    assert_true(before[i] > 0 && before[i] == epoch(b, i));
  }
  assert_int_equal(clear(b), GORGE_OK);
  assert_int_equal(in_l1(b), 0);
  for (uint32_t i = 0; i < ALL; i++) {
    assert_true(epoch(b, i) > before[i]);
    assert_true(WAIT_UNTIL(epoch(a, i) == epoch(b, i)));
  }
  assert_true(WAIT_UNTIL(in_l1(a) == 0));
  load_all(a, "new");
}

/* An invalidation of a key that is in the journal of its partition, but of which nobody was told. */
static void commit_untold(const char *key) {
  char command[512];
  uint32_t partition = partition_of(key);
  snprintf(command, sizeof command,
           "EVAL \"local v = redis.call('INCR', KEYS[2]) redis.call('XADD', KEYS[1], string.format('%%.0f-0', v), 'm', "
           "string.char(2,1) .. struct.pack('>I8I8B', v, 0, %u) .. '%s')\" 2 {1:t:%u}:j {1:t:%u}:c",
           partition, key, partition, partition);
  say(command);
}

/* Not by the next heartbeat, which is a second away: by the next message of the partition. */
static void the_next_message_shows_that_one_was_lost(void **state) {
  (void)state;
  for (uint32_t i = 7; i < ALL; i += 20) {
    uint64_t resyncs = engine_counter(a, GORGE_COUNT_RESYNCS);
    load(a, keys[i], "old");
    load(a, keys[0], "stays");
    uint64_t last = synced(a);
    assert_true(WAIT_UNTIL(synced(a) != last)); /* all heartbeats have just come back */
    commit_untold(keys[i]);
    assert_int_equal(engine_delete_whole(b, other[(i + 1) % ALL]), GORGE_OK); /* of another partition: shows nothing */
    assert_int_equal(engine_delete_whole(b, other[i]), GORGE_OK);
    struct calm told = calm_begin();
    assert_true(WAIT_UNTIL(engine_l1(a, keys[i]) == NULL));
    assert_true(calm_ms(told) < 400);
    assert_string_equal(engine_l1(a, keys[0]), "stays");
    assert_int_equal(engine_counter(a, GORGE_COUNT_RESYNCS), resyncs);
    assert_true(WAIT_UNTIL(cursor(a, i) == cursor(b, i)));
  }
}

/* Contact is that of all partitions: one that cannot be asked is enough to lose it, and its journal brings it back. */
static void a_partition_that_cannot_be_asked_loses_the_contact(void **state) {
  (void)state;
  load(a, keys[5], "v");
  say("DEL {1:t:9}:j");
  say("SET {1:t:9}:j odd");
  assert_true(WAIT_UNTIL(contact(a) == GORGE_CONTACT_LOST));
  assert_int_equal(life_max(a), DISCONNECTED_MS);
  assert_false(engine_follows(a));
  uint64_t confirmed = synced(a), until = gorge_clock_ms() + 2 * SHORT_BOUND_MS;
  while (gorge_clock_ms() < until) {
    assert_string_equal(engine_l1(a, keys[5]), "v"); /* as without contact: for disconnected_ttl */
    assert_int_equal(contact(a), GORGE_CONTACT_LOST);
    assert_int_equal(synced(a), confirmed); /* however often the others are confirmed */
    engine_turn(a, b, 10);
  }
  say("DEL {1:t:9}:j");
  assert_true(WAIT_UNTIL(engine_follows(a) && contact(a) == GORGE_CONTACT_HELD && life_max(a) == 0));
  assert_true(synced(a) > confirmed);
  assert_null(engine_l1(a, keys[5])); /* its journal is another one */
  assert_true(WAIT_UNTIL((load(a, keys[5], "v"), engine_l1_is(a, keys[5], "v"))));
}

static void all_is_lost_and_found(void **state) {
  (void)state;
  for (int i = 0; i < ALL; i++) {
    assert_int_equal(engine_set_whole(b, keys[i], "old", "t"), GORGE_OK);
  }
  load_all(a, "old");
  load_all(b, "old");
  say("FLUSHALL");
  assert_true(WAIT_UNTIL(in_l1(a) == 0 && in_l1(b) == 0));
  assert_true(WAIT_UNTIL(engine_follows(a) && engine_follows(b)));
  assert_int_equal(in_l1(a), 0);
  for (int i = 0; i < ALL; i++) {
    assert_int_equal(engine_set_whole(b, keys[i], "new", "t"), GORGE_OK);
  }
  assert_true(WAIT_UNTIL(cursor(a, ALL - 1) == cursor(b, ALL - 1)));
  for (int i = 0; i < ALL; i++) {
    assert_string_equal(load(a, keys[i], "?"), "new");
  }
}

/* Redis away: what it was not told waits, and reaches all partitions when it is back. */
static void what_was_queued_reaches_all_partitions(void **state) {
  (void)state;
  for (int i = 0; i < ALL; i++) {
    assert_int_equal(engine_set_whole(b, keys[i], "old", "t"), GORGE_OK);
  }
  load_all(b, "old");
  assert_true(WAIT_UNTIL(engine_follows(a)));
  say("DEL {1:t:30}:c");
  say("LPUSH {1:t:30}:c x"); /* no version is to be had in it */
  assert_true(engine_invalidate_whole(a, "t") < 0);
  say("DEL {1:t:30}:c");
  assert_true(WAIT_UNTIL(gorge_backlog_empty(a->zone, a->ns)));
  assert_true(WAIT_UNTIL(in_l1(b) == 0));
  load_all(b, "new");
}

static void queue_key(gorge_cache *c, const char *key) {
  gorge_backlog_add(c->zone, c->process->owner.id, c->ns, partition_of(key), GORGE_BACKLOG_KEY, key,
                    (uint32_t)strlen(key));
}

static bool is_queued(gorge_cache *c, const char *key) {
  return gorge_backlog_holds(c->zone, c->process->owner.id, c->ns, GORGE_BACKLOG_KEY, key, (uint32_t)strlen(key));
}

/* Redis: nothing is stored under the key in its partition. */
static bool is_gone(const char *key) {
  char command[256], answer[256];
  snprintf(command, sizeof command, "EVAL \"return #redis.call('KEYS', '{1:t:%u}:*:v:%s')\" 0", partition_of(key), key);
  assert_true(support_redis_command(&redis, command, answer, sizeof answer));
  return strncmp(answer, ":0", 2) == 0;
}

/* Its node is down, say: what is queued for others does not wait for it, nor what is for all of them. */
static void a_partition_that_cannot_be_asked_holds_up_no_other(void **state) {
  (void)state;
  for (int i = 0; i < ALL; i++) {
    assert_int_equal(engine_set_whole(b, keys[i], "old", "t"), GORGE_OK);
    assert_int_equal(engine_set_whole(b, other[i], "old", NULL), GORGE_OK);
  }
  load_all(b, "old");
  say("RENAME {1:t:9}:j {1:t:9}:kept");
  say("SET {1:t:9}:j odd");
  say("RENAME {1:t:9}:c {1:t:9}:count");
  say("LPUSH {1:t:9}:c odd");
  assert_true(WAIT_UNTIL(contact(a) == GORGE_CONTACT_LOST));
  assert_true(engine_delete_whole(a, keys[9]) < 0);
  queue_key(a, other[9]);
  assert_true(engine_invalidate_whole(a, "t") < 0);
  uint32_t waiting = gorge_backlog_count(a->zone, a->ns);
  assert_int_equal(waiting, 3);
  struct calm queued = calm_begin();
  for (uint32_t i = 10; i < 20; i++) {
    queue_key(a, keys[i]);
    queue_key(a, other[i]);
  }
  assert_true(WAIT_UNTIL(gorge_backlog_count(a->zone, a->ns) == waiting));
  assert_true(calm_ms(queued) <
              4000); /* an election; no time limit has to end first, and keys[9] waits while it is left odd */
  for (uint32_t i = 10; i < 20; i++) {
    assert_true(WAIT_UNTIL(engine_l1(b, keys[i]) == NULL));
    assert_true(is_gone(keys[i]) && is_gone(other[i]));
  }
  assert_true(is_queued(a, keys[9]) && is_queued(a, other[9]));
  assert_false(is_gone(other[9]));
  say("RENAME {1:t:9}:count {1:t:9}:c");
  say("RENAME {1:t:9}:kept {1:t:9}:j");
  assert_true(WAIT_UNTIL(gorge_backlog_empty(a->zone, a->ns)));
  assert_true(WAIT_UNTIL(in_l1(b) == 0));
  assert_true(is_gone(keys[9]) && is_gone(other[9]));
}

static int follow(struct proc *self, void *arg) {
  (void)arg;
  CHILD_CHECK(gorge_cache_enter(a, 1) == GORGE_OK);
  CHILD_CHECK(WAIT_UNTIL(engine_follows(a)));
  proc_say(self, 1);
  proc_hear(self); /* killed in here */
  return 0;
}

/* A worker dies with one under way to each partition: the next holder of the role does not know which ones Redis has carried out. */
static void what_a_dead_holder_had_under_way_is_carried_out(void **state) {
  (void)state;
  struct gorge_config config = engine_config(NULL, redis.path, GORGE_CONFIG_INLINE);
  gorge_cache_destroy(a);
  a = engine_cache(&config);
  struct proc holder = proc_start(follow, NULL);
  assert_int_equal(proc_hear(&holder), 1);
  assert_int_equal(gorge_cache_enter(a, 1), GORGE_OK);
  for (int i = 0; i < ALL; i++) {
    assert_int_equal(engine_set_whole(b, keys[i], "old", NULL), GORGE_OK);
    assert_int_equal(engine_set_whole(b, other[i], "old", NULL), GORGE_OK);
  }
  kill(redis.pid, SIGSTOP);
  for (int i = 0; i < ALL; i++) {
    queue_key(a, keys[i]);
    queue_key(a, other[i]);
  }
  usleep(700 * 1000); /* an election: then they are in the socket */
  proc_kill(&holder);
  kill(redis.pid, SIGCONT);
  assert_true(WAIT_UNTIL(engine_follows(a)));
  assert_true(WAIT_UNTIL(gorge_backlog_empty(a->zone, a->ns)));
  for (int i = 0; i < ALL; i++) {
    assert_true(is_gone(keys[i]) && is_gone(other[i]));
  }
}

/* What somebody asks for through the zone of b. */
static void ask_by_mail(enum gorge_forget_what what, const char *name) {
  uint64_t ticket, now = gorge_clock_ms();
  char text[128] = "";
  int status = gorge_mail_send(b->zone, what, b->ns, name, (uint32_t)strlen(name), now, 5000, &ticket);
  assert_int_equal(status, GORGE_OK);
  do {
    support_nap();
    status = gorge_mail_fetch(b->zone, ticket, gorge_clock_ms(), text, sizeof text);
  } while (status == GORGE_PENDING || status == GORGE_BUSY);
  assert_int_equal(status, GORGE_OK);
  assert_string_equal(text, "");
}

static void what_is_asked_for_from_outside_is_for_all_partitions(void **state) {
  (void)state;
  static const struct {
    enum gorge_forget_what what;
    const char *name;
  } asked[] = {{GORGE_FORGET_TAG, "t"}, {GORGE_FORGET_ALL, ""}};
  for (size_t k = 0; k < sizeof asked / sizeof asked[0]; k++) {
    for (int i = 0; i < ALL; i++) {
      assert_int_equal(engine_set_whole(b, keys[i], "old", "t"), GORGE_OK);
    }
    load_all(a, "old");
    load_all(b, "old");
    ask_by_mail(asked[k].what, asked[k].name);
    assert_int_equal(in_l1(b), 0);
    load_all(b, "new"); /* in L2 as well */
    assert_true(WAIT_UNTIL(in_l1(a) == 0));
  }
  load_all(b, "new");
  ask_by_mail(GORGE_FORGET_KEY, keys[50]);
  assert_int_equal(in_l1(b), ALL - 1);
  assert_string_equal(load(b, keys[50], "newer"), "newer");
}

/* ---- a subscription that lives and hears nothing ---- */

enum { PAIRS = 32 };

/* A relay in front of Redis that can keep the messages of one subscription to itself. */
struct relay {
  pthread_t thread;
  char path[108];
  int listener;
  int pairs[PAIRS][2]; /* client, Redis */
  bool subscribes[PAIRS];
  int used;
  int deaf;        /* atomic: subscriptions with a number below hear no more messages */
  int subscribers; /* atomic: so far */
  int numbers[PAIRS];
  int pongs; /* atomic: let through to a deaf one */
  bool over; /* atomic */
};

static struct relay relay;

static int unix_socket(const char *path, struct sockaddr_un *address) {
  *address = (struct sockaddr_un){.sun_family = AF_UNIX};
  snprintf(address->sun_path, sizeof address->sun_path, "%s", path);
  return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static void relay_accept(struct relay *r) {
  struct sockaddr_un address;
  int client = accept(r->listener, NULL, NULL), server = unix_socket(redis.path, &address);
  if (r->used == PAIRS || connect(server, (struct sockaddr *)&address, sizeof address) != 0) {
    close(client);
    close(server);
    return;
  }
  r->pairs[r->used][0] = client;
  r->pairs[r->used++][1] = server;
}

static bool keeps_back(struct relay *r, int pair, const char *bytes, size_t len) {
  if (!r->subscribes[pair] || r->numbers[pair] >= __atomic_load_n(&r->deaf, __ATOMIC_RELAXED)) {
    return false;
  }
  bool message = memmem(bytes, len, "$7\r\nmessage", 11) != NULL;
  if (!message) {
    __atomic_fetch_add(&r->pongs, 1, __ATOMIC_RELAXED);
  }
  return message;
}

/* One direction of a pair. Returns false when it is at its end. */
static bool relay_move(struct relay *r, int pair, int from) {
  char bytes[65536];
  ssize_t n = recv(r->pairs[pair][from], bytes, sizeof bytes, 0);
  if (n <= 0) {
    return false;
  }
  if (from == 0 && memmem(bytes, (size_t)n, "SUBSCRIBE", 9) != NULL) {
    r->subscribes[pair] = true;
    r->numbers[pair] = __atomic_fetch_add(&r->subscribers, 1, __ATOMIC_RELAXED);
  }
  return (from == 1 && keeps_back(r, pair, bytes, (size_t)n)) ||
         send(r->pairs[pair][1 - from], bytes, (size_t)n, MSG_NOSIGNAL) == n;
}

static void *relay_run(void *arg) {
  struct relay *r = arg;
  while (!__atomic_load_n(&r->over, __ATOMIC_RELAXED)) {
    struct pollfd polled[1 + 2 * PAIRS] = {{.fd = r->listener, .events = POLLIN}};
    int used = r->used;
    for (int i = 0; i < 2 * used; i++) {
      polled[1 + i] = (struct pollfd){.fd = r->pairs[i / 2][i % 2], .events = POLLIN};
    }
    poll(polled, 1 + 2 * (nfds_t)used, 20);
    for (int i = 0; i < 2 * used; i++) {
      if (r->pairs[i / 2][0] >= 0 && polled[1 + i].revents != 0 && !relay_move(r, i / 2, i % 2)) {
        close(r->pairs[i / 2][0]);
        close(r->pairs[i / 2][1]);
        r->pairs[i / 2][0] = r->pairs[i / 2][1] = -1;
      }
    }
    if (polled[0].revents != 0) {
      relay_accept(r);
    }
  }
  return NULL;
}

static void relay_start(void) {
  struct sockaddr_un address;
  memset(&relay, 0, sizeof relay);
  snprintf(relay.path, sizeof relay.path, "%s.relay", redis.path);
  unlink(relay.path);
  relay.listener = unix_socket(relay.path, &address);
  assert_int_equal(bind(relay.listener, (struct sockaddr *)&address, sizeof address), 0);
  assert_int_equal(listen(relay.listener, 16), 0);
  assert_int_equal(pthread_create(&relay.thread, NULL, relay_run, &relay), 0);
}

static void relay_stop(void) {
  __atomic_store_n(&relay.over, true, __ATOMIC_RELAXED);
  pthread_join(relay.thread, NULL);
  for (int i = 0; i < 2 * relay.used; i++) {
    if (relay.pairs[i / 2][i % 2] >= 0) {
      close(relay.pairs[i / 2][i % 2]);
    }
  }
  close(relay.listener);
  unlink(relay.path);
}

/* Its node was cut off from the others: it answers pings, and tells of nothing. Another connection may lead to another node. */
static void a_subscription_that_hears_nothing_is_given_up(void **state) {
  (void)state;
  gorge_cache_destroy(a);
  relay_start();
  a = node(relay.path, SHORT_BOUND_MS);
  assert_int_equal(__atomic_load_n(&relay.subscribers, __ATOMIC_RELAXED), 1);
  load(a, keys[3], "old");
  __atomic_store_n(&relay.deaf, 1, __ATOMIC_RELAXED);
  assert_int_equal(engine_delete_whole(b, keys[3]), GORGE_OK);
  uint64_t committed = gorge_clock_ms();
  assert_true(engine_had_until(a, keys[3], committed + 5000, NULL) <= committed + SHORT_BOUND_MS);
  assert_true(WAIT_UNTIL(__atomic_load_n(&relay.subscribers, __ATOMIC_RELAXED) == 2));
  assert_true(WAIT_UNTIL(engine_follows(a)));
  uint64_t before = synced(a);
  assert_true(WAIT_UNTIL(synced(a) > before + SHORT_BOUND_MS)); /* heartbeats come back */
  assert_int_equal(contact(a), GORGE_CONTACT_HELD);
  assert_int_equal(__atomic_load_n(&relay.subscribers, __ATOMIC_RELAXED), 2); /* the second one is kept */
  gorge_cache_destroy(a);
  relay_stop();
  a = node(redis.path, BOUND_MS);
}

static void a_number_of_partitions_that_there_is_not(void **state) {
  (void)state;
  static const uint32_t odd[] = {2, 32, 63, 65, 128, UINT32_MAX};
  for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++) {
    struct gorge_config config = engine_config(NULL, redis.path, GORGE_CONFIG_INLINE);
    gorge_cache *c = NULL;
    char err[256] = "";
    config.partitions = odd[i];
    assert_int_equal(gorge_cache_create(&config, &c, err, sizeof err), GORGE_ERR_ARGUMENT);
    assert_string_equal(err, "partitions must be 1 or 64");
  }
}

/* A small zone has room for the first few. */
static void namespaces_with_partitions_are_bounded(void **state) {
  (void)state;
  gorge_cache *made[8] = {NULL};
  char zone[64], err[256] = "", name[16];
  int count = 0, status = GORGE_OK;
  snprintf(zone, sizeof zone, "narrow %ld", (long)getpid());
  for (int i = 0; i < 8; i++) {
    struct gorge_config config = engine_config(zone, redis.path, GORGE_CONFIG_INLINE);
    snprintf(name, sizeof name, "n%d", i);
    config.ns = name;
    config.partitions = i < 6 ? ALL : 1;
    status = gorge_cache_create(&config, &made[i], err, sizeof err);
    assert_true(status == GORGE_OK || (status == GORGE_ERR_FULL && i >= 4 && i < 6));
    count += status == GORGE_OK;
  }
  assert_int_equal(count, 6);
  assert_non_null(strstr(err, "a larger zone has room for more"));
  for (int i = 0; i < 8; i++) {
    if (made[i] != NULL) {
      gorge_cache_destroy(made[i]);
    }
  }
}

#define node_test(f) cmocka_unit_test_setup_teardown(f, begin, end)

int main(void) {
  const struct CMUnitTest tests[] = {
      node_test(writes_of_all_partitions_are_heard),
      node_test(a_tag_is_forgotten_in_all_partitions),
      node_test(clear_forgets_all_partitions),
      node_test(the_next_message_shows_that_one_was_lost),
      cmocka_unit_test_setup_teardown(a_partition_that_cannot_be_asked_loses_the_contact, begin_with_short_bound, end),
      node_test(all_is_lost_and_found),
      node_test(what_was_queued_reaches_all_partitions),
      node_test(a_partition_that_cannot_be_asked_holds_up_no_other),
      node_test(what_a_dead_holder_had_under_way_is_carried_out),
      node_test(what_is_asked_for_from_outside_is_for_all_partitions),
      node_test(a_subscription_that_hears_nothing_is_given_up),
      cmocka_unit_test(a_number_of_partitions_that_there_is_not),
      cmocka_unit_test(namespaces_with_partitions_are_bounded),
  };
  return cmocka_run_group_tests_name("engine, partitions", tests, start, stop);
}
