/* SPDX-License-Identifier: MIT */
/* A zone, a Redis and a control thread, for its tests. Include after cmocka.h. */
#ifndef GORGE_TEST_CONTROL_SUPPORT_H
#define GORGE_TEST_CONTROL_SUPPORT_H

#include "drive/control.h"
#include "io/l2.h"
#include "test/drive_support.h"

/* What the hooks of a watch have seen; shared with the parent when a child runs them. */
struct seen {
  uint64_t subscribed; /* 1 while the process's watch is */
  uint64_t resyncs, messages, last_type, last_version;
  char last[32];
  uint64_t leave; /* the parent's word to the child: stop */
  uint64_t gone;
};

/* What a test works on: made by fixture_prepare for each, the Redis by fixture_begin for all. */
struct fixture {
  struct support_redis redis;
  struct gorge_zone *zone;
  struct gorge_owner owner; /* of this thread */
  struct gorge_control *control;
  struct gorge_endpoint *endpoint;
  int tasks; /* see support_tasks */
};
extern struct fixture fixture;

int fixture_begin(void **state);
int fixture_end(void **state);
int fixture_prepare(void **state);
int fixture_clean(void **state);
/* Starts fixture.control. */
void fixture_start(void);

static inline uint64_t word(const uint64_t *w) { return __atomic_load_n(w, __ATOMIC_ACQUIRE); }

/* The namespace that is watched. */
#define FIXTURE_NAME "test"
uint32_t fixture_ns(void);
struct gorge_conn_config fixture_redis_config(void);
/* Watches the namespace; the hooks write into *s. Returns the handle. */
int fixture_watch(struct seen *s);
/* The same with sentinels, which say where fixture.endpoint leads. */
int fixture_watch_with(struct seen *s, const struct gorge_sentinels *sentinels, struct gorge_master_words *words);
/* Publishes a message about `name`, version 42, in the bytes that the scripts write. */
void fixture_publish(int type, const char *name);
/* Asks Redis over a connection of the test's own, made at the first need; waits for the answer. Returns its status. */
int client_ask(enum gorge_l2_verb verb, const char *key, uint64_t token, uint64_t lease_ms);
/* What is said to come is waited for so long. */
enum { PATIENCE_MS = 20000 };
bool readable(int fd, int timeout_ms);
/* Reads what is there. */
void drain(int fd);

#endif
