/* SPDX-License-Identifier: MIT */
/*
 * L2: what gorge asks of Redis, as typed requests. Scripts go by EVALSHA, NOSCRIPT is answered by EVAL.
 *
 * A namespace has one partition or GORGE_PARTITIONS of them, each with a counter of versions, an epoch, a journal and keys of its own, for tags, too
 * (proto/names.h). A request belongs to the partition of its key; JOURNAL and HEARTBEAT say which one. INVALIDATE_TAGS and CLEAR go to all
 * of them (io/l2_fan.c). So what a script compares is of one partition, and it sees all of it: a value, its lease (I7), the nonces of its
 * tags, and the version that a fill with late tags goes by (I1). Versions of two partitions say nothing about each other, and are never
 * compared: a key stays in its own (I4).
 *
 * Versions come from Redis: each committed write of a partition gets a higher one, also after Redis lost its memory (a
 * version is at least the server's clock in microseconds). Values carry in their envelope (proto/envelope.h): version, kind,
 * server time of the write, ttl, tag names with their nonces.
 *
 *  LOOKUP   plain GET of the value and MGET of the tags' nonces in one round (a second one for tags that only the envelope
 *           names). HIT when every tag's nonce is the current one, else MISS (result.version tells the rejected version, if
 *           any; a damaged value is a MISS with result.error saying why). The request's tags are a hint which nonces will be
 *           needed: what decides are the tags of the envelope.
 *           With `stale` it also tells of a value that is past its ttl and kept: STALE.
 *  LEASE    HIT with a value of a version higher than rejected_version and live tags; or LEASE (token stored for lease_ms;
 *           result.tag_nonces are the current nonces of the request's tags, made if absent); or BUSY with the remaining
 *           lease in remaining_ms, leaving a mark that somebody waits. `previous` (not 0): a lease with that token is
 *           replaced by the new one. Asking again with the token that holds the lease grants it again. result.version is
 *           the partition's last version then.
 *  FILL     STORED with the new version when the lease still has the token and the tags' nonces are still `tag_nonces`;
 *           wakes waiters by a message. Else REFUSED; the lease is dropped then, too, and waiters are woken. Without
 *           tag_nonces (the tags were not known before): none of the tags may have been invalidated after version `since`.
 *  RELEASE  drops the lease if it has the token, wakes waiters by a message: OK or REFUSED. RENEW extends it: OK or REFUSED.
 *  SET      new version, stores, kills a lease, publishes: STORED. DELETE: new version, drops value and lease, publishes: OK.
 *  INVALIDATE_TAGS  a new nonce per tag, publishes: OK. All three go into the journal. With several partitions: first new nonces in all but
 *           the home one, that of the first tag's name, of which nobody is told; when all have answered the home one's, with journal
 *           and message. One that fails fails the whole, once all have answered, and nobody is told.
 *  TOUCH    gives the value another ttl, and its tags enough of it: OK; MISS when there is none. result.before is the version it had,
 *           result.version the one it has: another one, which goes into the journal, when its life became shorter. The request's tags
 *           are a guess, which saves a round.
 *  UPDATE   as SET, if the value's version is still `since` (0: there is no value) and its tags are alive: STORED; else REFUSED. `token` names the operation
 *           for lease_ms: sent again with the same one, it is not carried out again, and STORED with the version of then.
 *  CLEAR    a new epoch: nothing that was stored is found any more. OK, result.version is the epoch; it goes into the journal. With several
 *           partitions: in each of them; result.version is the highest. One that fails fails the whole, once all have answered.
 *  JOURNAL  what was told of in `partition` from version `since` on, its own entry included: OK after `message` has been called for each, or
 *           MISS when that entry is gone, so that anything may have been missed. result.version: the cursor from now on.
 *  HEARTBEAT  publishes `value` on the channel of the host `since` alone, with the version of the last entry in the journal of
 *           `partition`, which result.version tells: OK. 0: there is no journal.
 *  EXPLAIN  what Redis holds of a key, for people: the value, its tags and the request's, the lease, the epoch, in plain reads, in two rounds.
 *           It stores nothing, and makes no epoch. OK with result.look. A pause between the rounds may show in it.
 *
 * The epoch in the names is that of a word which all connections of a host share, one for each partition. It is asked for when the word is
 * 0, at each new connection, and when a script says that another one is current; the request then goes on under that one. A value read under an
 * epoch that is not current any more when it arrives is read again. A look-up alone would never learn of another one: with confirm_epoch it
 * does.
 *
 * Not thread-safe: one thread, that of the connection.
 */
#ifndef GORGE_IO_L2_H
#define GORGE_IO_L2_H

#include "io/conn.h"
#include "proto/envelope.h"
#include "proto/message.h"
#include "proto/place.h"

enum {
  GORGE_SEEDS_MAX = 16,
  GORGE_NODES_MAX = 96, /* a master for each partition at most, the seeds, and some that slots are moved to */
  GORGE_L2_COMMANDS = 3 /* in flight for one request; the last is ASKING */
};

enum gorge_l2_verb {
  GORGE_L2_LOOKUP,
  GORGE_L2_LEASE,
  GORGE_L2_FILL,
  GORGE_L2_RELEASE,
  GORGE_L2_RENEW,
  GORGE_L2_SET,
  GORGE_L2_DELETE,
  GORGE_L2_INVALIDATE_TAGS,
  GORGE_L2_JOURNAL,
  GORGE_L2_TOUCH,
  GORGE_L2_UPDATE,
  GORGE_L2_HEARTBEAT,
  GORGE_L2_CLEAR,
  GORGE_L2_EXPLAIN
};

/* struct gorge_l2_tag { const char *ptr; uint32_t len; } stands in proto/envelope.h. */

/* Tags of a value that was read, with their nonces. */
struct gorge_l2_before {
  uint32_t ntags;
  struct gorge_l2_tag tags[GORGE_TAGS_MAX];
  uint64_t nonces[GORGE_TAGS_MAX];
};

struct gorge_l2_result {
  int status;        /* GORGE_HIT, STALE, MISS, LEASE, BUSY, STORED, REFUSED, OK, or a failure */
  uint64_t version;  /* of the value, of the write, or of what LOOKUP rejected; else 0 */
  uint64_t before;   /* TOUCH: the version until then */
  const char *value; /* HIT, and so below: or STALE: good until done returns */
  uint32_t value_len;
  uint32_t kind;                /* enum gorge_kind; one of gorge_kind_for_redis */
  uint64_t remaining_ms;        /* HIT: ttl left by the server's clock, at least 1; BUSY: of the lease; STALE: 0 */
  uint64_t kept_ms;             /* HIT: what is left until it is not kept any more, ttl included */
  struct gorge_extra_life life; /* HIT: of the envelope */
  uint32_t ntags;               /* HIT: tags of the envelope; LEASE: of the request */
  struct gorge_l2_tag tags[GORGE_TAGS_MAX]; /* HIT: good until done returns */
  uint64_t tag_nonces[GORGE_TAGS_MAX];      /* LEASE: of the request's tags, same order; HIT: of the envelope's */
  bool moving; /* GORGE_ERR_REDIS: only because a slot is being moved to another node of the cluster */
  const struct gorge_l2_look *look; /* EXPLAIN: good until done returns; which tags wait is left to the caller */
  const char *error; /* text of Redis, printable, NUL-terminated, cut to 200 bytes; MISS: what was damaged; else NULL */
};

/*
 * Memory, key, tags and value belong to the caller and stay as they are until done is called or the request is cancelled.
 * Zero a request before its first use: cancel looks at it.
 */
struct gorge_l2_request {
  enum gorge_l2_verb verb;
  const char *key; /* 1..GORGE_KEY_MAX bytes; not for INVALIDATE_TAGS, JOURNAL, CLEAR */
  uint32_t key_len;
  uint32_t partition; /* JOURNAL, HEARTBEAT */
  uint32_t ntags;     /* at most GORGE_TAGS_MAX, of 1..GORGE_TAG_MAX bytes each */
  const struct gorge_l2_tag *tags;
  const struct gorge_l2_before *before; /* UPDATE: of the value read; or NULL */
  const uint64_t *tag_nonces; /* FILL with tags: what LEASE delivered, or NULL; SET reads the current nonces: NULL */
  uint64_t
      since; /* FILL without tag_nonces: what LEASE delivered as version; JOURNAL: the cursor, 0: none; UPDATE: the version read */
  const char *value; /* FILL, SET, UPDATE: with its tags at least 4 KiB below the connection's max_reply_bytes */
  uint32_t value_len;
  uint32_t kind;
  uint64_t ttl_ms;              /* FILL, SET, UPDATE, TOUCH: not 0; above 100 years counts as that */
  struct gorge_extra_life life; /* FILL, SET, UPDATE */
  bool stale;                   /* LOOKUP */
  uint64_t token, previous;     /* token: not 0 where a lease is concerned, and for UPDATE */
  uint64_t lease_ms;            /* LEASE, RENEW, UPDATE: not 0 */
  uint64_t rejected_version;
  bool confirm_epoch;   /* LOOKUP: asks for the epoch, too, in the same round: this host may have missed a clear */
  uint64_t deadline_ms; /* 0: the connection's default */
  /* May send this or another request, and cancel others. */
  void (*done)(struct gorge_l2_request *rq, const struct gorge_l2_result *result, uint64_t now_ms);
  /* JOURNAL: one entry, before done. May not cancel this request. */
  void (*message)(struct gorge_l2_request *rq, const struct gorge_message *m, uint64_t now_ms);
  void *ctx;
  /* private to io/l2*.c */
  struct gorge_l2 *l2;
  struct gorge_command command[GORGE_L2_COMMANDS];
  struct {
    struct gorge_l2_node *node[GORGE_L2_COMMANDS]; /* who was asked by each command */
    struct gorge_l2_node *ask;                     /* who is asked next, for once, whatever the map says */
    uint32_t redirects, retries;
    bool nonces_due;         /* the nonces of the request's tags are asked for once the value is there */
    bool parked;             /* waits in the l2's list */
    uint64_t retry_ms;       /* until then; UINT64_MAX: until the map is known */
    uint64_t waits_since_ms; /* 0: has not waited */
    struct gorge_l2_request *prev, *next;
    struct gorge_l2_fan *fan; /* carried out as several requests; else NULL */
    uint32_t partition;
    bool silent; /* INVALIDATE_TAGS: nobody is told */
    uint32_t step, rounds;
    uint32_t epochs;   /* how often the epoch turned out to be another one */
    uint64_t epoch;    /* in the names of the commands under way */
    bool eval;         /* the script goes as EVAL */
    uint64_t rejected; /* rejected_version, raised when what came was dead */
    uint64_t cursor;   /* JOURNAL: since, moved on page by page */
    uint64_t sent_ms;  /* when the script was sent */
    uint64_t left_ms;  /* ttl left of the value kept, by its key in Redis; UINT64_MAX: by the clock */
    void *kept;        /* a value until its tags have been checked */
  } state;
};

struct gorge_l2;

/*
 * `ns`: the namespace (copied), of 1 partition or of GORGE_PARTITIONS. Returns NULL when out of memory, when ns is not a name
 * (proto/names.h), or for another number of partitions. The hooks of its connections (on_state, on_push) are taken.
 */
struct gorge_l2 *gorge_l2_create(const char *ns, uint32_t ns_len, uint32_t partitions,
                                 const struct gorge_conn_config *config);
/* Completes every request with GORGE_ERR_CLOSED. NULL is fine. */
void gorge_l2_destroy(struct gorge_l2 *l2);
/*
 * The seeds (1 to GORGE_SEEDS_MAX, copied) are nodes of a Redis Cluster, which tells where the partitions are (io/l2_route.c). To be called
 * before anything is sent. The strings of the configuration must outlive the l2 then; its `host` does not count: the certificate of each
 * node must be for its own, unless tls says. Returns GORGE_OK, GORGE_ERR_MEMORY or GORGE_ERR_ARGUMENT.
 */
int gorge_l2_follow_cluster(struct gorge_l2 *l2, const struct gorge_place *seeds, uint32_t count);
/*
 * The servers it talks to, one but in a cluster: indices below gorge_l2_nodes, which only grows. The connection of an index stays the same.
 */
uint32_t gorge_l2_nodes(const struct gorge_l2 *l2);
struct gorge_conn *gorge_l2_node_conn(struct gorge_l2 *l2, uint32_t node);
/* In a cluster: where a node is. It may be led to another place while its connection is DOWN. NULL: not a cluster, the driver knows. */
const struct gorge_place *gorge_l2_node_place(const struct gorge_l2 *l2, uint32_t node);
/* Counted up whenever its place becomes another one. */
uint64_t gorge_l2_node_changes(const struct gorge_l2 *l2, uint32_t node);
/* How many partitions a node has now. */
uint32_t gorge_l2_node_partitions(const struct gorge_l2 *l2, uint32_t node);
/* The node that is asked about a key; UINT32_MAX: not known. */
uint32_t gorge_l2_node_of(const struct gorge_l2 *l2, const char *key, uint32_t key_len);
/*
 * What requests wait for that are not in flight: the map of a cluster, a slot on its way. To be called at each turn of whoever drives the
 * connections, and at gorge_l2_next_ms (UINT64_MAX: no need) at the latest; new commands may have to be sent then, on any of them.
 * Completions run in it.
 */
void gorge_l2_tick(struct gorge_l2 *l2, uint64_t now_ms);
uint64_t gorge_l2_next_ms(const struct gorge_l2 *l2);
/* How many of them there are. */
uint32_t gorge_l2_parked(const struct gorge_l2 *l2);
/*
 * The node has been found not to answer, by whoever asked it: where its partitions are is asked for anew, with the next tick, and no more often
 * than for other reasons.
 */
void gorge_l2_suspect(struct gorge_l2 *l2, uint32_t node, uint64_t now_ms);
/* For people: what a cluster has made of the requests. */
struct gorge_l2_cluster {
  bool known;           /* where the partitions are */
  uint64_t changes;     /* how often a partition was found at another node than before */
  uint64_t moved;       /* answers MOVED, */
  uint64_t asked;       /* ASK, */
  uint64_t tried_again; /* TRYAGAIN */
  const char *trouble;  /* why it is not known, or could not be asked for; NULL: nothing */
};
void gorge_l2_cluster(const struct gorge_l2 *l2, struct gorge_l2_cluster *out);
/* The first of them, the only one of a single Redis. */
static inline struct gorge_conn *gorge_l2_conn(struct gorge_l2 *l2) { return gorge_l2_node_conn(l2, 0); }
/*
 * Shares the words of the epoch, one for each partition, which outlive the l2, before anything is sent; else it has its own. learned is
 * called when Redis names another epoch of a partition than `seen`, which its word held when Redis was asked: it stores the new one, unless
 * the word has changed.
 */
void gorge_l2_share_epoch(struct gorge_l2 *l2, const uint64_t *words,
                          void (*learned)(void *ctx, uint32_t partition, uint64_t seen, uint64_t epoch), void *ctx);
/*
 * The now_ms of every call lies behind the time by less than lag_ms (gorge_clock_lag_ms; 0 until this is called: it does not), by which
 * remaining_ms is less, so that no value outlives the one in Redis. To be called before anything is sent.
 */
void gorge_l2_lag(struct gorge_l2 *l2, uint64_t lag_ms);
/*
 * Sends a request. Returns GORGE_OK (done will be called once, not from inside this call), GORGE_ERR_DOWN, GORGE_ERR_FULL,
 * GORGE_ERR_MEMORY, GORGE_ERR_ARGUMENT, GORGE_ERR_SYSTEM (no random bytes), GORGE_ERR_CLOSED.
 */
int gorge_l2_send(struct gorge_l2 *l2, struct gorge_l2_request *rq, uint64_t now_ms);
/* Forgets a request at any moment: done will not be called, nothing of it is looked at any more. What was sent, was sent. */
void gorge_l2_cancel(struct gorge_l2_request *rq);

#endif
