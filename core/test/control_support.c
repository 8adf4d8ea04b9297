/* SPDX-License-Identifier: MIT */
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "drive/ev.h"
#include "test/control_support.h"
#include "test/procs.h"

struct fixture fixture;

int fixture_begin(void **state) {
  (void)state;
  fixture.tasks = support_tasks();
  return support_redis_start(&fixture.redis) ? 0 : -1;
}

int fixture_end(void **state) {
  (void)state;
  support_redis_stop(&fixture.redis);
  return 0;
}

void fixture_start(void) {
  int status = GORGE_OK;
  fixture.control = gorge_control_start(fixture.zone, &fixture.owner, &status);
  assert_non_null(fixture.control);
}

int fixture_prepare(void **state) {
  (void)state;
  fixture.zone = proc_zone(gorge_l1_init);
  assert_int_equal(gorge_owner_claim(fixture.zone, GORGE_THREAD_MAIN, &fixture.owner), GORGE_OK);
  fixture.endpoint = gorge_endpoint_create(NULL, 0, fixture.redis.path);
  /* there is an epoch: making one would be a message */
  char answer[64];
  assert_true(support_redis_command(&fixture.redis, "SET {4:test:0}:e 7", answer, sizeof answer));
  assert_true(support_redis_command(&fixture.redis, "DEL {4:test:0}:j", answer, sizeof answer));
  fixture_start();
  return 0;
}

/* What client_ask works with. */
static struct {
  struct ev_loop *loop;
  struct gorge_l2 *l2;
  struct gorge_ev_link *link;
  struct gorge_l2_request rq;
  int status;
} client;

static void on_answer(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms) {
  (void)rq, (void)now_ms;
  client.status = result->status;
  ev_break(client.loop, EVBREAK_ALL);
}

static void on_late(struct ev_loop *loop, ev_timer *t, int events) {
  (void)t, (void)events;
  ev_break(loop, EVBREAK_ALL);
}

int client_ask(enum gorge_l2_verb verb, const char *key, uint64_t token, uint64_t lease_ms) {
  ev_timer late;
  if (client.loop == NULL) {
    struct gorge_conn_config config = fixture_redis_config();
    client.loop = ev_loop_new(EVFLAG_NOENV);
    client.l2 = gorge_l2_create(FIXTURE_NAME, sizeof FIXTURE_NAME - 1, 1, &config);
    client.link = gorge_ev_link_create(client.loop, gorge_l2_conn(client.l2), fixture.endpoint, NULL, NULL);
  }
  client.rq = (struct gorge_l2_request){.verb = verb,
                                        .key = key,
                                        .key_len = (uint32_t)strlen(key),
                                        .token = token,
                                        .lease_ms = lease_ms,
                                        .done = on_answer};
  client.status = GORGE_PENDING;
  assert_int_equal(gorge_l2_send(client.l2, &client.rq, gorge_clock_ms()), GORGE_OK);
  gorge_ev_link_kick(client.link);
  ev_now_update(client.loop);
  ev_timer_init(&late, on_late, PATIENCE_MS / 1000., 0.);
  ev_timer_start(client.loop, &late);
  while (client.status == GORGE_PENDING && ev_is_active(&late)) {
    ev_run(client.loop, EVRUN_ONCE);
  }
  ev_timer_stop(client.loop, &late);
  return client.status;
}

static void client_end(void) {
  if (client.loop != NULL) {
    gorge_ev_link_destroy(client.link);
    gorge_l2_destroy(client.l2);
    ev_loop_destroy(client.loop);
    client.loop = NULL;
  }
}

int fixture_clean(void **state) {
  (void)state;
  kill(fixture.redis.pid, SIGCONT);
  client_end();
  gorge_control_stop(fixture.control);
  gorge_endpoint_destroy(fixture.endpoint);
  gorge_owner_release(fixture.zone, &fixture.owner);
  fixture.control = NULL;
  return WAIT_UNTIL(support_count("/proc/self/task") == fixture.tasks) ? 0 : -1;
}

static void on_resync(void *ctx, const struct gorge_owner *owner, bool first, uint64_t now_ms) {
  struct seen *s = ctx;
  (void)now_ms;
  if (first && gorge_owner_alive(fixture.zone, owner->id)) {
    __atomic_add_fetch(&s->resyncs, 1, __ATOMIC_RELEASE);
  }
}

static void on_message(void *ctx, const struct gorge_owner *owner, const struct gorge_message *m, uint64_t now_ms) {
  struct seen *s = ctx;
  (void)owner, (void)now_ms;
  s->last_type = m->type;
  s->last_version = m->version;
  snprintf(s->last, sizeof s->last, "%.*s", (int)m->len, m->ptr);
  __atomic_add_fetch(&s->messages, 1, __ATOMIC_RELEASE);
}

struct gorge_conn_config fixture_redis_config(void) {
  return (struct gorge_conn_config){.connect_timeout_ms = PATIENCE_MS,
                                    .timeout_ms = PATIENCE_MS,
                                    .max_pending = 1000,
                                    .max_reply_bytes = 1 << 20,
                                    .seed = 1};
}

uint32_t fixture_ns(void) {
  uint32_t ns = 0;
  assert_int_equal(gorge_zone_namespace(fixture.zone, FIXTURE_NAME, sizeof FIXTURE_NAME - 1, &ns), GORGE_OK);
  return ns;
}

int fixture_watch(struct seen *s) { return fixture_watch_with(s, NULL, NULL); }

int fixture_watch_with(struct seen *s, const struct gorge_sentinels *sentinels, struct gorge_master_words *words) {
  struct gorge_control_namespace n = {.ns = fixture_ns(),
                                      .name_len = sizeof FIXTURE_NAME - 1,
                                      .partitions = 1,
                                      .endpoint = fixture.endpoint,
                                      .redis = fixture_redis_config(),
                                      .freshness_bound_ms = 5000,
                                      .disconnected_ttl_ms = 30000,
                                      .ctx = s,
                                      .resync = on_resync,
                                      .message = on_message};
  n.sentinels = sentinels;
  if (words != NULL) {
    n.redis.place = &words->part[0];
    n.redis.doubts = &words->doubts;
  }
  memcpy(n.name, FIXTURE_NAME, sizeof FIXTURE_NAME);
  return gorge_control_watch(fixture.control, &n);
}

void fixture_publish(int type, const char *name) {
  char command[256], answer[32];
  snprintf(command, sizeof command, "PUBLISH gorge:4:test \"\\x01\\x%02x\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x2a%s\"",
           type, name);
  assert_true(support_redis_command(&fixture.redis, command, answer, sizeof answer));
  assert_memory_equal(answer, ":", 1);
}

bool readable(int fd, int timeout_ms) {
  struct pollfd p = {.fd = fd, .events = POLLIN};
  return poll(&p, 1, timeout_ms) == 1;
}

void drain(int fd) {
  char bytes[4096];
  while (readable(fd, 0) && read(fd, bytes, sizeof bytes) > 0) {
  }
}
