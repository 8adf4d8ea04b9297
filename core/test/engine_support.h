/* SPDX-License-Identifier: MIT */
/*
 * Caches through the public interface, for the tests of the engine: how to make one, how to wait for an operation, and a Redis
 * made of bytes that answers what the test tells it to. Include after cmocka.h.
 */
#ifndef GORGE_TEST_ENGINE_SUPPORT_H
#define GORGE_TEST_ENGINE_SUPPORT_H

#include "engine/engine.h"
#include "gorge.h"
#include "proto/bytes.h"
#include "test/wire.h"

enum { ENGINE_VALUE_MAX = 256 };

/* What an operation or a read delivered. */
struct answer {
  int status;
  struct gorge_read read;
  char value[ENGINE_VALUE_MAX];
};

/* Namespace "t" of a zone that nobody else has when `zone` is NULL, else of that one; fields that matter have sane values. */
extern uint32_t engine_partitions; /* of what engine_config makes from now on; 1 to begin with */
struct gorge_config engine_config(const char *zone, const char *redis_path, uint32_t flags);
gorge_cache *engine_cache(const struct gorge_config *config);
/* The name of the zone that engine_config made up last. */
const char *engine_zone_name(void);

/* Requests with the usual times. `tags`: names separated by blanks, or NULL. */
int engine_fetch(gorge_cache *c, const char *key, const char *tags, uint64_t *op);
int engine_fetch_for(gorge_cache *c, const char *key, uint32_t lease_ms, uint32_t wait_ms, uint64_t *op);
int engine_lookup(gorge_cache *c, const char *key, uint64_t *op);
int engine_fill(gorge_cache *c, uint64_t op, const char *value);
int engine_fill_tagged(gorge_cache *c, uint64_t op, const char *value, const char *tags);
int engine_set(gorge_cache *c, const char *key, const char *value, const char *tags, uint64_t *op);
int engine_delete(gorge_cache *c, const char *key, uint64_t *op);
int engine_invalidate(gorge_cache *c, const char *tags, uint64_t *op);
/* A store of text, for those who change it before use; tags as packed bytes. */
struct gorge_store engine_store(const char *key, const char *value);
/* Packs names separated by blanks; returns the length. */
uint32_t engine_pack(const char *tags, char *out, uint32_t size);

/* Looks into L1. Returns the value as text, or NULL. Good until the next call. */
const char *engine_l1(gorge_cache *c, const char *key);
/* Whether L1 has that value; NULL: none. */
bool engine_l1_is(gorge_cache *c, const char *key, const char *value);
/*
 * Turns and does `meanwhile` (NULL: nothing) until L1 has the value no more; fails the test when it has it at `limit_ms`. Returns the last
 * moment before a look that found it: that is not later than L1 may have it, however long this process had to wait between two looks.
 */
uint64_t engine_had_until(gorge_cache *c, const char *key, uint64_t limit_ms,
                          void (*meanwhile)(gorge_cache *c, const char *key));
/* The lease of the fill of that key runs out this moment, as if nobody had renewed it in time. */
void engine_let_lapse(gorge_cache *c, const char *key);
/* How the operation stands now. */
struct answer engine_status(gorge_cache *c, uint64_t op);
/* Turns loop and caches until the operation is decided, at most 20 s. */
struct answer engine_await(gorge_cache *c, uint64_t op);
/* One turn of the loop and of up to four caches (NULL: none), waiting at most ms. */
void engine_turn(gorge_cache *a, gorge_cache *b, double ms);
/* Starts with `status`, awaits and frees; returns the final status. */
int engine_finish(gorge_cache *c, uint64_t op, int status);
/* The same from the beginning: the final status of a write. */
int engine_set_whole(gorge_cache *c, const char *key, const char *value, const char *tags);
int engine_delete_whole(gorge_cache *c, const char *key);
int engine_invalidate_whole(gorge_cache *c, const char *tags);
/* Turns until neither of two nodes has anything under way, for 20 s at most. Returns whether that is so, and no fill is left. */
bool engine_quiet(gorge_cache *a, gorge_cache *b);
/* fetch, with the loader's value if asked to run it, until the operation is over; returns the value seen. Good until the next call. */
const char *engine_get_or_fill(gorge_cache *c, const char *key, const char *value, int *status);
uint64_t engine_counter(gorge_cache *c, enum gorge_counter counter);
uint64_t engine_flights(gorge_cache *c);

/*
 * A node: a cache in a zone of its own (of `zone` if not NULL) with a control thread, which has caught up with the journal of the Redis
 * at that path; its bytes are moved by engine_turn.
 */
gorge_cache *engine_node(const char *zone, const char *redis_path);
/* Whether its control thread follows the journal now. */
bool engine_follows(gorge_cache *c);

/* ---- a Redis made of bytes, behind gorge_io_* ---- */

enum { PEER_ARGS = 64, PEER_TIMEOUT_MS = 20000 };

struct peer_command {
  int argc;
  const char *argv[PEER_ARGS];
  size_t len[PEER_ARGS];
  int script; /* enum gorge_script of an EVALSHA, else -1 */
};

struct peer {
  gorge_cache *cache;
  struct wire_text asked; /* bytes not taken yet */
  size_t at;
  bool held; /* a command has been looked at and not been taken */
  struct peer_command next;
  int loaded; /* scripts loaded so far */
};

/*
 * A cache in a zone of its own (of `zone` if not NULL), connected to the peer and with nothing under way. Its control thread, once it
 * runs, finds no Redis: all that is asked is asked here.
 */
gorge_cache *peer_cache(struct peer *p, const char *zone);
/* The driver connects, the handshake is answered, scripts are loaded, the clock is told. */
void peer_connect(struct peer *p, gorge_cache *c);
/* The connection is lost, and the time to try again does not come, however long the test takes, before peer_return. */
void peer_lose(struct peer *p);
/* That time has come: connected as by peer_connect. */
void peer_return(struct peer *p);
void peer_free(struct peer *p);
/* Takes the next command; fails the test when there is none. Good until the next call. */
struct peer_command peer_take(struct peer *p);
/* Takes it and checks its name, or for a script which one it is. */
void peer_expect(struct peer *p, const char *name);
void peer_expect_script(struct peer *p, int script);
bool peer_idle(struct peer *p);
/* Answers the oldest command without an answer; returns what gorge_io_input says. */
int peer_say(struct peer *p, const char *bytes);
/* A stored value, in the bytes of a GET's answer. `tags`: names with nonces of their first byte repeated. */
int peer_say_value(struct peer *p, uint64_t version, const char *value, const char *tags);
/* The lease script's answers. */
int peer_say_lease(struct peer *p, uint64_t version, const char *tags);
int peer_say_busy(struct peer *p, uint64_t left_ms);
int peer_say_lease_hit(struct peer *p, uint64_t version, const char *value);
int peer_say_number(struct peer *p, uint64_t number);
/* A version that Redis might give now, `n` above others. */
uint64_t peer_version(uint64_t n);

#endif
