/* SPDX-License-Identifier: MIT */
/*
 * The engine: what one process does for one cache. An operation (op) is a state machine over the host's flight table,
 * Redis and L1; nothing in here waits. Everything runs on the process's main thread, but for the hooks in coherence.c,
 * which run on its control thread and touch shared memory only.
 *
 *   fetch:  (SYNC) -> FLIGHT <-> (lease of the host) -> LOOKUP -> LEASE <-> PARKED -> RUN -> FILL -> DONE
 *   write:  WRITE -> DONE
 *   update: READ -> COMMIT -> DONE
 *   run:    ORIGIN
 *   explain: EXPLAIN -> DONE
 *
 * SYNC    the host does not follow the journal yet: wait for a moment, else L1 could not keep the value
 * FLIGHT  somebody on this host fills: wait for the flight's end
 * LOOKUP  GET of the value            LEASE   the lease script
 * PARKED  another node fills: wait for its message, or poll
 * RUN     the caller runs the loader  FILL    the fill script
 *
 * How Redis is asked is declared in remote.h.
 */
#ifndef GORGE_ENGINE_ENGINE_H
#define GORGE_ENGINE_ENGINE_H

#include "base/buf.h"
#include "base/clock.h"
#include "drive/place.h"
#include "engine/process.h"
#include "io/l2.h"
#include "l1/l1.h"
#include "resil/breaker.h"
#include "tls/tls.h"

struct gorge_ev_l2;
struct gorge_guard;

enum gorge_op_state {
  GORGE_OP_SYNC = 1,
  GORGE_OP_FLIGHT,
  GORGE_OP_LOOKUP,
  GORGE_OP_LEASE,
  GORGE_OP_PARKED,
  GORGE_OP_RUN,
  GORGE_OP_FILL,
  GORGE_OP_WRITE,
  GORGE_OP_READ,    /* update: the value is being read, or has been, and the caller makes another one of it */
  GORGE_OP_COMMIT,  /* update: that one takes its place if it is still the one that was read */
  GORGE_OP_EXPLAIN, /* Redis tells what it holds */
  GORGE_OP_ORIGIN,  /* a run of a loader, from the wait for its permit to its end */
  GORGE_OP_RELEASE, /* nobody waits for it any more: a lease is being given back, or (lost) is to be once there is a connection */
  GORGE_OP_DONE
};

/* Bytes that an op owns. */
struct gorge_blob {
  char *ptr;
  uint32_t len;
};

/* update: the tags of the value that was read. */
struct gorge_op_before {
  struct gorge_l2_before tags;
  char names[GORGE_TAGS_MAX * GORGE_TAG_MAX];
};

enum { GORGE_OP_FEW = 160, GORGE_OP_SMALL = 256 };

/* How long a value lives from the moment it is stored. */
struct gorge_span {
  uint64_t l1_ms, ttl_ms;
  struct gorge_extra_life life;
};

struct gorge_op {
  uint64_t id; /* slot in the table in the low bits, a serial number above; never 0 */
  gorge_cache *cache;
  uint64_t wait_us; /* when its wait for somebody else's fill began; 0: it does not wait */
  struct gorge_op *prev,
      *next; /* list of ops that wait for time or shared memory (FLIGHT, PARKED, SYNC); ORIGIN: the queue */
  struct gorge_op *noted_prev, *noted_next; /* list of ops to be named by gorge_poll */
  enum gorge_op_state state;
  int status;
  bool lookup_only;
  bool refresh;              /* its value is still good */
  uint64_t replaces;         /* the word of its entry */
  uint32_t failures;         /* of earlier refreshes */
  bool stale;                /* a look-up that takes what has expired, */
  uint64_t stale_ms;         /* but not longer ago than this */
  bool detached;             /* the caller is gone; the op frees itself when it ends */
  bool listed;               /* in the waiting list */
  bool noted;                /* in the list of notices */
  bool tells;                /* is noted also when it begins to wait for somebody else's fill */
  void *waiter;              /* told when the status changes, see gorge_op_waiter */
  struct gorge_guard *guard; /* of the request that waits for it, or NULL */
  struct gorge_op *guard_prev, *guard_next;

  char *bytes; /* key and packed tags; what the pointers below point into */
  char *own;   /* while the tags are those of the value found in Redis: what `bytes` was before, else NULL */
  uint32_t own_tags_len;
  struct gorge_key key;
  uint32_t ntags; /* of tags, l2_tags and nonces below */
  struct gorge_snapshot snapshot;

  struct gorge_flight_ref flight;
  uint64_t lease_id;      /* in the control thread's list; 0: none */
  uint64_t l2_token;      /* lease in Redis; 0: none */
  uint64_t previous;      /* lease in Redis of the fill that was taken over */
  uint64_t since;         /* the partition's version when the lease was granted; WRITE: see gorge_missed_by_now */
  bool late_tags;         /* the tags came from the loader: their nonces from before it are not known */
  bool elsewhere;         /* L1 must not keep the value: one of its late tags may have been invalidated */
  bool unrun;             /* the loader was not run, since `origin` refused it */
  bool lost;              /* RELEASE: an op of its own, since the one that asked for the lease has gone on */
  bool unleased;          /* runs after a wait that ended without a lease: nothing may be stored */
  bool queued, permitted; /* ORIGIN: waits for a permit, has one */
  uint32_t lease_ms;      /* ORIGIN: longest wait for the permit, and longest run that does not count as a failure */
  uint64_t deadline_ms, next_ms;
  uint64_t began_us;
  uint64_t rejected_version;
  uint32_t lookups;      /* how often L2 was read for this op */
  bool behind;           /* Redis was asked while something still waited for it */
  uint32_t silent_polls; /* polls in which the holder of the lease in Redis showed no sign of life */

  uint32_t node;                  /* of a cluster, which it is sent to, see engine/breaker.c; else 0 */
  enum gorge_l2_verb verb;        /* of a write */
  bool requested;                 /* the request is with io */
  bool touched;                   /* TOUCH: this host had the value */
  bool shorter;                   /* TOUCH: and for longer than it is to live now */
  struct gorge_op_before *before; /* COMMIT, or NULL */
  bool unknown;                   /* COMMIT: sent, and the answer is missing */
  uint64_t requested_us;

  /* what is to be stored (FILL, WRITE) */
  struct gorge_blob store;    /* for L1 */
  struct gorge_blob l2_store; /* for Redis; ptr may be that of store */
  uint32_t store_kind;
  struct gorge_span span;

  /* the result */
  struct gorge_blob value;
  struct gorge_read read; /* kind, version, slot ... of the value; buf is not used */
  uint32_t error_len;

  /* From here on an op that is used again is not cleared: how much of it counts is said above. */
  struct gorge_l2_request request;
  char few[GORGE_OP_FEW];     /* key and packed tags, when they are few bytes */
  char small[GORGE_OP_SMALL]; /* the value of the result, when it is small */
  struct gorge_tag tags[GORGE_TAGS_MAX];
  struct gorge_l2_tag l2_tags[GORGE_TAGS_MAX];
  uint64_t nonces[GORGE_TAGS_MAX]; /* of the tags, as the lease was granted */
  char error[GORGE_ERROR_MAX + 1];
};

/* What a process keeps of one of the servers that it asks. */
struct gorge_remote_node {
  struct gorge_node_place place; /* in a cluster: of a connection that is moved from outside */
  uint64_t breaker_place;        /* see engine/breaker.c; 0: not known yet */
  uint64_t breaker_changes;      /* of the node's place when that was made up */
  uint64_t connects;             /* how often it was found connected anew */
  bool dropped, told;            /* the transport of a pump is to be closed; and it has been told so */
  bool pinging;                  /* `ping` is under way */
  struct gorge_command ping;     /* keeps an idle connection of a pump alive, and finds a dead one */
  uint64_t ping_ms;              /* when the next one is due */
  uint32_t late_turns;           /* in how many turns of the event loop something was found to be late; 0: nothing is */
  uint64_t late_turn, late_ms;   /* the last one of them, and when that was */
};

struct gorge_cache {
  struct gorge_zone *zone;
  uint32_t ns;
  struct gorge_words *words;
  struct gorge_breaker_words *breaker;
  struct gorge_breaker_config breaker_config;
  uint32_t origin_max; /* runs of loaders at once on this host; 0: any number */
  struct gorge_breaker_words *origin_breaker;
  struct gorge_breaker_config origin_config;
  uint64_t breaker_slow_us; /* 0: no answer is too slow */
  bool troubled;            /* the last command of this process failed */
  char trouble[128];        /* why, printable */
  uint32_t flags, lock_sleep_ms, lock_retries;
  uint32_t partitions;   /* of the namespace in Redis: 1 or GORGE_PARTITIONS */
  uint64_t keepalive_ms; /* how long a connection that is moved from outside may be idle before it is sent a PING */
  uint64_t l1_ttl_ms;
  uint64_t freshness_bound_ms, disconnected_ttl_ms;
  double early_beta;
  char name[GORGE_NAME_MAX + 1];

  bool has_redis;
  struct gorge_endpoint *endpoint;
  struct gorge_conn_config redis;    /* strings are the cache's */
  struct gorge_tls_config tls;       /* likewise; redis.tls, when there is TLS */
  struct gorge_sentinels *sentinels; /* NULL: none; all of it is the cache's */
  struct gorge_seeds *seeds;         /* NULL: no cluster; the cache's; then endpoint is NULL */

  bool closed;

  /* of reads */
  struct gorge_l1_reader reader;
  const uint64_t *clock; /* milliseconds, see gorge_cache_clock; NULL: ask */

  /* of the process that entered */
  uint64_t generation; /* 0: none yet */
  bool threads;
  struct gorge_process *process;
  uint64_t *counters;
  struct gorge_l2 *l2;
  struct gorge_ev_l2 *link;            /* with GORGE_CONFIG_INLINE */
  int watch;                           /* handle of the control thread, or -1 */
  uint64_t cluster_changes, redirects; /* counted so far by gorge_remote_look; UINT64_MAX: not begun */
  struct gorge_remote_node node, *nodes[GORGE_NODES_MAX]; /* of l2: the first, always there; each, or NULL */
  uint64_t heard_us; /* while the bytes from a pump are looked at: when they came; else 0 */

  struct gorge_op **slots;
  uint32_t slot_count, op_count;
  uint32_t lost_count; /* of them those that nobody waits for: see gorge_op, lost */
  uint32_t *free_slots;
  uint32_t free_count;
  uint64_t next_serial;
  struct gorge_op *waiting;                  /* head of that list */
  struct gorge_op *queue_first, *queue_last; /* runs of loaders that wait for a permit */
  uint64_t sync_until_ms;                    /* until then a fill waits for the host to follow the journal */
  struct gorge_op *noted_first, *noted_last;
  struct gorge_op *spare; /* ops to be used again */
  uint32_t spare_count;
  struct gorge_buf gone; /* ids of ops that went away without their caller, to be named by gorge_poll */
};

/* --- config.c: where Redis is, from a configuration --- */
bool gorge_has_redis(const struct gorge_config *config);
/*
 * Takes copies of what concerns TLS, before the rest; err tells why not. Returns GORGE_OK, GORGE_ERR_MEMORY or GORGE_ERR_ARGUMENT (the
 * files will not do).
 */
int gorge_config_tls(gorge_cache *c, const struct gorge_config *config, char *err, uint32_t err_size);
/* Takes copies of all that concerns Redis. Returns GORGE_OK, GORGE_ERR_ARGUMENT (malformed sentinels) or GORGE_ERR_MEMORY. */
int gorge_config_redis(gorge_cache *c, const struct gorge_config *config);
void gorge_config_release(gorge_cache *c);

/* --- cache.c --- */
int gorge_cache_make(const struct gorge_config *config, gorge_cache **out, char *err, uint32_t err_size);
/* Copies what a configuration says of TLS; free it even when memory was short (false). */
bool gorge_tls_config_copy(struct gorge_tls_config *tls, const struct gorge_config *config);
void gorge_tls_config_free(struct gorge_tls_config *tls);
/* Ends what this process runs for the cache; calls that follow fail with GORGE_ERR_CLOSED. */
void gorge_cache_end(gorge_cache *c);
void gorge_cache_unmake(gorge_cache *c);
/* See gorge_cache_enter; `threads` false leaves a permission given earlier as it is. */
int gorge_cache_ready(gorge_cache *c, bool threads);
/* Advances timers, looks at what waits for shared memory, moves inline bytes. */
void gorge_cache_turn(gorge_cache *c, uint64_t now_ms);
static inline void gorge_count(gorge_cache *c, enum gorge_counter counter) {
  /* relaxed: the control thread of the worker adds to the same block; readers only sum */
  __atomic_fetch_add(&c->counters[counter], 1, __ATOMIC_RELAXED);
}
/*
 * The same for what only the worker's main thread counts (L1_HITS, L1_MISSES, SETS): relaxed load and store, since a locked addition
 * would be a tenth of the read that is counted. Workers for whom no block was left share one, and may lose counts there.
 */
static inline void gorge_count_main(gorge_cache *c, enum gorge_counter counter) {
  uint64_t n = __atomic_load_n(&c->counters[counter], __ATOMIC_RELAXED);
  __atomic_store_n(&c->counters[counter], n + 1, __ATOMIC_RELAXED);
}

/*
 * The time that a look of gorge_get went by, when it is ahead of ours: what has ended for it must not be found by what follows it, or it is
 * sent round for nothing until it gives up. The kernel's coarse clock is up to a tick behind that of nginx.
 */
static inline uint64_t gorge_cache_now(const gorge_cache *c) {
  uint64_t now_ms = gorge_clock_ms();
  return c->clock != NULL && *c->clock > now_ms ? *c->clock : now_ms;
}

/* How long what is stored now may live in L1: without contact to Redis, not longer than can be answered for. */
static inline uint64_t gorge_l1_life(const gorge_cache *c, uint64_t life_ms) {
  /* relaxed: see set_life in drive/control_contact.c */
  uint64_t max_ms = __atomic_load_n(&c->words->life_max_ms, __ATOMIC_RELAXED);
  return max_ms == 0 || life_ms < max_ms ? life_ms : max_ms;
}
/* Starts the control thread if threads are allowed and it does not run yet. NULL: do without. */
struct gorge_control *gorge_cache_control(gorge_cache *c);
/* Tells other workers that a flight they wait for has ended. */
void gorge_cache_wake(gorge_cache *c, const struct gorge_worker_set *set);

/* Whole milliseconds of a time above 0: at least 1, a hundred years at most. */
uint64_t gorge_whole_ms(double ms);

/* --- life.c --- */
/* Gives an entry that is stored now its life in L1; a value from Redis that has expired did so `past_ms` ago. */
void gorge_cache_life(const gorge_cache *c, const struct gorge_span *span, uint64_t past_ms, uint64_t now_ms,
                      struct gorge_entry *entry);
/* How many load times before the end of its life readers begin to draw whether to refresh a value; 0: they do not. */
double gorge_cache_early(const gorge_cache *c);
/* The times of a store. */
struct gorge_span gorge_store_span(const struct gorge_store *store);

/* --- op.c --- */
/* A new op with copies of key and packed tags. Returns GORGE_OK, GORGE_ERR_ARGUMENT (key or tags malformed), GORGE_ERR_MEMORY or GORGE_ERR_FULL. */
int gorge_op_create(gorge_cache *c, const char *key, uint32_t key_len, const char *tags, uint32_t tags_len,
                    struct gorge_op **out);
/* Whether packed tags are well-formed, and not too many. */
bool gorge_op_tags_valid(const char *packed, uint32_t len);
/* Points `tags` (room for GORGE_TAGS_MAX) into valid packed tags. Returns their number. */
uint32_t gorge_tags_unpack(const char *packed, uint32_t len, struct gorge_tag *tags);
/* Replaces the op's tags. Returns GORGE_OK, GORGE_ERR_ARGUMENT or GORGE_ERR_MEMORY; then they are what they were. */
int gorge_op_set_tags(struct gorge_op *op, const char *tags, uint32_t tags_len);
/* Takes the tags of a value found in Redis instead of the caller's, until gorge_op_own_tags. Returns as set_tags does. */
int gorge_op_adopt_tags(struct gorge_op *op, const char *tags, uint32_t tags_len);
/* Goes back to the tags of the caller; returns whether they had been given up. */
bool gorge_op_own_tags(struct gorge_op *op);
/* The op of an id, or NULL: there is none, or its caller has let go of it. */
struct gorge_op *gorge_op_find(gorge_cache *c, uint64_t id);
void gorge_op_destroy(struct gorge_op *op);
/* Frees what is kept to be used again. */
void gorge_op_free_spare(gorge_cache *c);
/* Ends the op with a status: the caller is told, or, when detached, the op is destroyed. The op may be gone afterwards. */
void gorge_op_end(struct gorge_op *op, int status);
/* Names the op in the next gorge_poll, unless it is gone by then. */
void gorge_op_notify(struct gorge_op *op);
/* Names the op in the next gorge_poll although it is about to go: somebody else may share it. */
void gorge_op_notify_gone(struct gorge_op *op);
/* Takes up to `max` ids out of the notices. */
uint32_t gorge_op_notices(gorge_cache *c, uint64_t *ids, uint32_t max);
/* The op waits for somebody else's fill: counted once, timed until gorge_op_waited. */
void gorge_op_waits(struct gorge_op *op);
void gorge_op_waited(struct gorge_op *op);
/* Takes up to `max` waiters of ops in the notices, and the notices of ops that have none. */
uint32_t gorge_op_woken(gorge_cache *c, void **waiters, uint32_t max);
void gorge_op_list(struct gorge_op *op);
void gorge_op_unlist(struct gorge_op *op);
void gorge_op_error(struct gorge_op *op, const char *text, size_t len);
int gorge_blob_copy(struct gorge_blob *blob, const char *ptr, uint32_t len);
void gorge_blob_free(struct gorge_blob *blob);
/* Copies what a fetch ends with into the op, which has no value yet. Returns GORGE_OK or GORGE_ERR_MEMORY. */
int gorge_op_set_value(struct gorge_op *op, const char *ptr, uint32_t len);

/* --- fetch.c --- */
/* Begins the op's flight, or joins it, and goes on from there. */
void gorge_fetch_enter(struct gorge_op *op, uint64_t now_ms);
/* Looks the key up in Redis and ends with GORGE_HIT or GORGE_MISS. */
void gorge_fetch_lookup(struct gorge_op *op, uint64_t now_ms);
/* A reply to LOOKUP or LEASE. */
void gorge_fetch_reply(struct gorge_op *op, const struct gorge_l2_result *result, uint64_t now_ms);
/* A waiting op looks at shared memory and the clock. */
void gorge_fetch_look(struct gorge_op *op, uint64_t now_ms);
/* Gives the op's flight and lease up without a result. */
void gorge_fetch_abandon(struct gorge_op *op);

/* --- refresh.c --- */
/* Takes it upon itself to refresh the entry. Returns false when there is nothing to be done; op->refresh is false when it is gone. */
bool gorge_refresh_claim(struct gorge_op *op, uint64_t now_ms);
/* Whether a value of that version is the refresh, made by another node. */
bool gorge_refresh_superseded(const struct gorge_op *op, uint64_t version);
/* Puts a value without a version in the place of the one that is refreshed. Returns as gorge_l1_exchange. */
int gorge_refresh_keep(struct gorge_op *op, const struct gorge_entry *entry, uint64_t now_ms);
/* The next attempt is to come later. */
void gorge_refresh_failed(struct gorge_op *op, uint64_t now_ms);

/* --- fill.c --- */
/* The loader of an op in RUN returned a value: store it. The op may be gone afterwards only if it is detached. */
void gorge_fill_store(struct gorge_op *op, const struct gorge_store *store, uint64_t now_ms);
/* It returned none. outcome GORGE_FAILED: waiters get op->error; GORGE_OK: they start anew. */
void gorge_fill_give_up(struct gorge_op *op, int outcome, uint64_t now_ms);
/* An op that waited in vain goes to RUN without a lease. */
void gorge_fill_unleased(struct gorge_op *op);
void gorge_fill_reply(struct gorge_op *op, const struct gorge_l2_result *result, uint64_t now_ms);
/* Ends the flight and wakes who waits for it. */
void gorge_fill_finish_flight(struct gorge_op *op, int outcome, uint64_t now_ms);
/* Whether a store is one: known kinds, times that are numbers above 0, well-formed tags. */
bool gorge_store_valid(const gorge_cache *c, const struct gorge_store *store);
/* Takes copies of what is to be stored; it must be valid. Returns GORGE_OK or GORGE_ERR_MEMORY. */
int gorge_op_take_store(struct gorge_op *op, const struct gorge_store *store);
/*
 * A value of that version is delivered, but not kept in L1: nor is what is older, so that no later reader of this host sees less. 0:
 * not from Redis.
 */
void gorge_op_not_kept(struct gorge_op *op, uint64_t version);
/*
 * Gives a lease in Redis back; the op ends when Redis has answered. Returns false when there is nothing to give back, or no connection: then an
 * op of its own does it later.
 */
bool gorge_fill_release(struct gorge_op *op, uint64_t now_ms);
/* The answer about its lease is lost: it may have been granted all the same. An op of its own gives it back. */
void gorge_fill_lost(const struct gorge_op *op, uint64_t now_ms);
/* Of such an op: whether there is a connection now. */
void gorge_fill_look_lost(struct gorge_op *op, uint64_t now_ms);
/* What became of the release. */
void gorge_fill_released(struct gorge_op *op, int status, uint64_t now_ms);

/* --- write.c --- */
/* Each applies to this host and, with Redis, sends; the op ends at once when there is no Redis to ask. */
/* With Redis only, see gorge_write_put. */
void gorge_write_set(struct gorge_op *op, const struct gorge_store *store, uint64_t now_ms);
void gorge_write_delete(struct gorge_op *op, uint64_t now_ms);
void gorge_write_invalidate(struct gorge_op *op, uint64_t now_ms);
/* A set without Redis: done when it returns, GORGE_OK; no op. The store must be valid. */
int gorge_write_put(gorge_cache *c, const struct gorge_store *store, uint64_t now_ms);
/* The caller of a write does not wait for the reply: from now on it reads what it wrote. */
void gorge_write_leave(struct gorge_op *op, uint64_t now_ms);
void gorge_write_reply(struct gorge_op *op, const struct gorge_l2_result *result, uint64_t now_ms);

/* Why Redis did not do what it was asked, for people; `said` by Redis, or NULL. */
void gorge_write_explain(struct gorge_op *op, int status, const char *said);
/* A value that Redis has stored, with that version, takes its place on this host. */
void gorge_write_show(struct gorge_op *op, uint64_t version, uint64_t now_ms);
/* This host forgets the op's key; version 0: whatever it has. */
void gorge_write_forget(struct gorge_op *op, uint64_t version);
/* Sends the write, or ends the op: with GORGE_OK when there is no Redis at all, with the reason when it cannot be asked. */
void gorge_write_ask(struct gorge_op *op, enum gorge_l2_verb verb, uint64_t now_ms);

/* Forgets the whole namespace. */
void gorge_write_clear(struct gorge_op *op, uint64_t now_ms);

/* --- touch.c --- */
/* Gives the value ttl_ms, in L1 l1_ttl_ms: on this host at once, then in Redis. */
void gorge_touch(struct gorge_op *op, uint64_t ttl_ms, uint64_t l1_ttl_ms, uint64_t now_ms);
/* What Redis did of it takes effect here. Returns the status that the op ends with if Redis did not fail. */
int gorge_touch_reply(struct gorge_op *op, const struct gorge_l2_result *result, uint64_t now_ms);

/* --- update.c --- */
/* Reads what is to be updated: op->status GORGE_HIT, GORGE_MISS, GORGE_PENDING, or why nothing can be updated now. */
void gorge_update_read(struct gorge_op *op, uint64_t now_ms);
void gorge_update_read_reply(struct gorge_op *op, const struct gorge_l2_result *result, uint64_t now_ms);
/*
 * Puts a value in place of the one read. The op ends with GORGE_STORED, GORGE_REFUSED (it is another one by now), GORGE_TOO_LARGE (for L1,
 * without Redis), or a failure; then op->unknown tells that Redis may have carried it out.
 */
void gorge_update_commit(struct gorge_op *op, const struct gorge_store *store, uint64_t now_ms);
void gorge_update_reply(struct gorge_op *op, const struct gorge_l2_result *result, uint64_t now_ms);
/* An update whose answer was lost is asked for again. */
void gorge_update_look(struct gorge_op *op, uint64_t now_ms);

/* --- origin.c --- */
/*
 * Makes the op a run of a loader: op->status is GORGE_LEASE, GORGE_PENDING (it waits for a permit), GORGE_ERR_FULL (it would have to, and its
 * deadline has come), GORGE_ERR_BREAKER; a wait ends with GORGE_ERR_TIMEOUT as well.
 */
void gorge_origin_enter(struct gorge_op *op, uint64_t now_ms);
/* Those who wait try once more. */
void gorge_origin_turn(gorge_cache *c, uint64_t now_ms);
/* The run has ended: the breaker is told. */
void gorge_origin_end(struct gorge_op *op, bool failed, uint64_t now_ms);
/* The op goes away: gives back its permit, or its place in the queue. */
void gorge_origin_leave(struct gorge_op *op);

/* --- explain.c --- */
/* GORGE_OK: Redis may be asked; else why not, as gorge_explain_start says. Changes nothing. */
int gorge_explain_allowed(struct gorge_op *op, uint64_t now_ms);
/* Asks; the op ends with GORGE_OK and a struct gorge_l2_look in op->value, or with GORGE_ERR_MEMORY. */
void gorge_explain_ask(struct gorge_op *op, uint64_t now_ms);

/* --- guard.c --- */
/* The op is no longer its request's: it has ended, or goes on without a caller. */
void gorge_op_unguard(struct gorge_op *op);

/* --- coherence.c: hooks of the control thread --- */
void gorge_coherence_watch(gorge_cache *c, struct gorge_control *control);
/* The process's connection names keys by the epoch that all of the host share. Returns false when out of memory. */
bool gorge_coherence_share(gorge_cache *c);
/* What such a request counts as, and is shown as. */
enum gorge_counter gorge_coherence_counter(enum gorge_forget_what what);
enum gorge_event_kind gorge_coherence_event(enum gorge_forget_what what);
/*
 * This host forgets a key, a tag or all. version: that which Redis gave the change of a key; 0: none. Any thread, with its own owner.
 */
void gorge_coherence_forget(struct gorge_zone *zone, const struct gorge_owner *owner, uint32_t ns,
                            enum gorge_forget_what what, const char *name, uint32_t len, uint64_t version);

#endif
