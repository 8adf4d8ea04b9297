/* SPDX-License-Identifier: MIT */
/*
 * The ABI of libgorge; gorge_ffi_io.h has the part for what moves its bytes and waits, gorge_ffi_look.h the part for who looks at it. No
 * preprocessor lines: the build wraps the files verbatim into ffi.cdef.
 *
 * Conventions. Every function returns a status (enum gorge_status): 0 is success, positive values are
 * expected outcomes, negative values are failures. Times are milliseconds of CLOCK_MONOTONIC unless a
 * name says otherwise. Pointers passed in are read during the call only. No function waits for Redis, for the network or for
 * somebody's fill unless its comment says so; what writes to L1 may wait some milliseconds for a lock and for room (l1/l1.h), what reads
 * never waits. Handles belong to the process and thread that first used them, and are not async-signal-safe; after a fork the
 * child may go on using a gorge_cache that its parent created (see gorge_cache_enter), but no operation of its parent's.
 */

enum gorge_abi {
  GORGE_ABI_VERSION = 2,
  GORGE_KEY_MAX = 8192,  /* bytes in a key */
  GORGE_TAG_MAX = 255,   /* bytes in a tag */
  GORGE_TAGS_MAX = 16,   /* tags on a value */
  GORGE_NAME_MAX = 64,   /* bytes in the name of a zone or namespace */
  GORGE_PARTITIONS = 64, /* of a namespace in a cluster; elsewhere it has one */
  GORGE_ERROR_MAX = 120, /* bytes of a loader's error that reach waiters in other workers */
  GORGE_HISTOGRAM_BUCKETS = 95,
  GORGE_HISTOGRAM_WORDS = 96 /* the buckets, then the sum of all observations in microseconds */
};

enum gorge_status {
  GORGE_OK = 0,
  /* outcomes */
  GORGE_MISS = 1,      /* nothing there */
  GORGE_HIT = 2,       /* value delivered */
  GORGE_BUSY = 3,      /* somebody else is filling, or a lock could not be had in time */
  GORGE_LEASE = 4,     /* the caller holds the fill lease: run the loader */
  GORGE_REFUSED = 5,   /* an invalidation or a newer value came between: not stored */
  GORGE_PENDING = 6,   /* not decided yet: wait and ask again */
  GORGE_FAILED = 8,    /* the one who filled failed; its error is delivered */
  GORGE_TOO_LARGE = 9, /* the value does not fit into L1 */
  GORGE_STORED = 10,   /* the write reached every layer it should */
  GORGE_SPACE = 11,    /* the caller's buffer is too small; the size needed is delivered */
  GORGE_DUE = 12,      /* value delivered; it is time to refresh it */
  GORGE_STALE = 13,    /* a value delivered that has expired */
  /* failures */
  GORGE_ERR_ARGUMENT = -1,
  GORGE_ERR_MEMORY = -2,
  GORGE_ERR_SYSTEM = -3,   /* the operating system refused; the message says what */
  GORGE_ERR_MISMATCH = -4, /* the zone exists with another size or layout */
  GORGE_ERR_FULL = -5,     /* a bounded table or queue is full */
  GORGE_ERR_TIMEOUT = -6,
  GORGE_ERR_DOWN = -7,     /* Redis cannot be reached now */
  GORGE_ERR_PROTOCOL = -8, /* bytes that are not what they should be */
  GORGE_ERR_REDIS = -9,    /* Redis answered with an error */
  GORGE_ERR_CLOSED = -10,
  GORGE_ERR_UNSUPPORTED = -11,
  GORGE_ERR_BREAKER = -12 /* the circuit breaker is open */
};

/* How the bytes of a value are to be decoded. Four bits. */
enum gorge_kind {
  GORGE_KIND_NIL = 0, /* "there is no such thing" */
  GORGE_KIND_STRING = 1,
  GORGE_KIND_NUMBER = 2,  /* decimal text */
  GORGE_KIND_BOOLEAN = 3, /* "t" or "f" */
  GORGE_KIND_JSON = 4,
  GORGE_KIND_BUFFER = 5, /* LuaJIT string.buffer: in this host's memory only, never from Redis */
  GORGE_KIND_CUSTOM = 6,
  GORGE_KIND_STRUCT = 7,  /* id of the layout (8 bytes, big-endian), then the bytes of a C struct */
  GORGE_KIND_TYPED = 8,   /* id of a schema (8 bytes), then as GORGE_KIND_BUFFER; in this host's memory only */
  GORGE_KIND_MSGPACK = 9, /* MessagePack */
  GORGE_KIND_PACKED = 10, /* one of the others (1 byte), then its bytes as one zstd frame that tells its size */
  GORGE_KINDS = 11
};

/* Counters of one worker, in shared memory; written by that worker, summed by readers. */
enum gorge_counter {
  GORGE_COUNT_L0_HITS = 0,
  GORGE_COUNT_L1_HITS,
  GORGE_COUNT_L1_MISSES,
  GORGE_COUNT_L2_HITS,
  GORGE_COUNT_L2_MISSES,
  GORGE_COUNT_L2_ERRORS,
  GORGE_COUNT_LOADS,
  GORGE_COUNT_LOAD_ERRORS,
  GORGE_COUNT_WAITS,
  GORGE_COUNT_WAIT_TIMEOUTS,
  GORGE_COUNT_TAKEOVERS,
  GORGE_COUNT_REFUSED_FILLS,
  GORGE_COUNT_TOO_LARGE,
  GORGE_COUNT_INSERTS,
  GORGE_COUNT_EVICTIONS,
  GORGE_COUNT_EXPIRED,
  GORGE_COUNT_SETS,
  GORGE_COUNT_DELETES,
  GORGE_COUNT_INVALIDATED_TAGS,
  GORGE_COUNT_MESSAGES,
  GORGE_COUNT_RESYNCS,
  GORGE_COUNT_LOCK_TAKEOVERS,
  GORGE_COUNT_LOCK_TIMEOUTS,
  GORGE_COUNT_WORKER_DEATHS,
  GORGE_COUNT_RECONNECTS,
  GORGE_COUNT_BREAKER_OPENS,
  GORGE_COUNT_DECODE_ERRORS,
  GORGE_COUNT_DROPPED_WRITES, /* writes that reached this host but not Redis */
  GORGE_COUNT_TOUCHES,
  GORGE_COUNT_CLEARS,
  GORGE_COUNT_UPDATES,          /* attempts, lost races included */
  GORGE_COUNT_UPDATE_CONFLICTS, /* and those that began anew because somebody else had changed the value */
  GORGE_COUNT_REPLAYED,         /* invalidations that Redis was told of later */
  GORGE_COUNT_STALE_SERVED,     /* answers with values that had expired */
  GORGE_COUNT_MASTER_SWITCHES,  /* other masters that the sentinels named */
  GORGE_COUNT_REFRESHES,        /* loader runs for values that were still good */
  GORGE_COUNT_REFRESH_ERRORS,   /* refreshes that failed */
  GORGE_COUNT_ORIGIN_WAITS,     /* runs of loaders that waited for a permit */
  GORGE_COUNT_ORIGIN_REFUSED,   /* and those that were refused */
  GORGE_COUNT_ORIGIN_OPENS,     /* openings of the breaker around loaders */
  GORGE_COUNT_REDIRECTS,        /* commands that nodes of a cluster sent elsewhere, or told to come again */
  GORGE_COUNT_CLUSTER_CHANGES,  /* partitions found at another node than before */
  GORGE_COUNTERS = 64
};

enum gorge_histogram_id {
  GORGE_HIST_L2 = 0, /* Redis round trips */
  GORGE_HIST_LOAD,   /* loader runs */
  GORGE_HIST_WAIT,   /* waits for somebody else's fill */
  GORGE_HISTOGRAMS = 4
};

/*
 * One cache line per namespace, in shared memory; Lua reads it with plain loads on every L0 hit.
 * `global` changes with every tag invalidation and every epoch change; it is epoch:32 | changes:32, changed by addition only.
 */
struct gorge_words {
  uint64_t global;
  uint64_t fresh_until_ms; /* no L1 or L0 hit at or after this time */
  uint64_t salt;           /* hashed into every key, together with the epoch in `global` */
  uint64_t epoch;          /* counts epoch changes, for people */
  uint64_t life_max_ms;    /* longest life of what is stored now, in L1; 0: no such bound */
  uint64_t reserved[3];
};

/* More of the life of a value than its end. Milliseconds; points in time are of CLOCK_MONOTONIC. 0: none, or not known. */
struct gorge_life {
  double ends_ms;    /* end of its life in L1 */
  double keeps_ms;   /* until then it may be served as stale, if that is later */
  double refresh_ms; /* from then on it is due for a refresh */
  double whole_ms;   /* end of its life in all layers */
  double load_ms;    /* how long the loader took */
  uint32_t failures; /* of refreshes since it was stored */
};

/* What a read or a store of L1 tells: the value, and what an L0 record needs to validate itself. */
struct gorge_read {
  char *buf;         /* in: the caller's buffer */
  uint32_t buf_size; /* in: its size in bytes */
  uint32_t len;      /* bytes of the value in buf; with GORGE_SPACE the bytes needed */
  uint32_t kind;     /* enum gorge_kind */
  uint32_t ntags;
  double
      expires_ms; /* from then on L1 must be asked again: end of life there, or an earlier time when a refresh is due */
  uint64_t version;       /* 0: not from Redis */
  const uint64_t *slot;   /* the index word of the entry, or NULL when it is not in L1 */
  uint64_t word;          /* its value when read, frequency bits (45 and 46; both set: the maximum) cleared */
  uint64_t global;        /* the global word, as loaded before everything else */
  struct gorge_life life; /* with GORGE_DUE, GORGE_STALE, and by gorge_peek */
};

/* One worker's record of a decoded value (L0); the array belongs to Lua. */
struct gorge_l0_record {
  const uint64_t *slot;
  uint64_t word; /* what *slot holds while the entry is there and was used often: both frequency bits set */
  uint64_t global;
  uint64_t expires_ms;
};

enum gorge_view_uses { GORGE_USES_MAX = 32 };

/* What Lua needs for a hit, in one place, so that no pointer has to be found and checked by itself. Belongs to Lua. */
struct gorge_view {
  struct gorge_l0_record *records; /* NULL: L0 is off */
  const struct gorge_words *words;
  uint64_t *counters;
  const uint64_t **recent;   /* counters + GORGE_COUNT_RECENT */
  const uint64_t *clock;     /* milliseconds that somebody else keeps up to date; NULL: ask gorge_now_ms */
  struct gorge_cache *cache; /* NULL: this process has not entered yet, or the cache is closed */
  uint32_t plain;            /* kind of the values whose bytes are the value, when their codec says so; else no kind */
  uint32_t reserved;
  struct gorge_read read;      /* of the last look into L1 */
  uint64_t used;               /* how many of the next ones count */
  double uses[GORGE_USES_MAX]; /* records that were hit while their entries' frequency was below its maximum */
};

/* ------------------------------------------------------------------ library */

/* GORGE_ABI_VERSION of the library that was loaded. */
int gorge_abi_version(void);
/* sizeof(struct gorge_words), _read, _l0_record, _config, _fetch, _store, _stats, _view, _found, _namespace, _hot, _event, _host_look, _l2_look for which = 0..13; 0 beyond. */
uint32_t gorge_abi_sizeof(uint32_t which);
/* A static English phrase for a status; never NULL. */
const char *gorge_status_phrase(int status);
/* Milliseconds of the clock that all times here are of (coarse). */
double gorge_now_ms(void);
/* Microseconds of a precise clock, to measure how long something took. */
double gorge_now_us(void);
/* A random number, at least 0 and below 1, from a sequence of this process's own. Main thread. */
double gorge_random_unit(void);
/* XXH3-64 with a seed. */
uint64_t gorge_checksum(const char *ptr, uint64_t len_bytes, uint64_t seed);
/*
 * Makes each NaN among the doubles and floats of a struct the plain one, which LuaJIT cannot take for a reference. offsets: ndoubles places of doubles, then
 * nfloats places of floats, in bytes.
 */
void gorge_settle_floats(void *bytes, const uint32_t *offsets, uint32_t ndoubles, uint32_t nfloats);

/* ------------------------------------------------------------------ caches */

enum gorge_config_flag {
  GORGE_CONFIG_SIBLINGS = 1, /* made after the fork: meet the other workers of this parent through a named file */
  GORGE_CONFIG_INLINE = 2,   /* this process moves Redis bytes itself, inside gorge_loop_wait; else see gorge_io_* */
  GORGE_CONFIG_SECOND = 4    /* another cache of this process watches the namespace's messages already */
};

enum gorge_tls_mode { GORGE_TLS_OFF, GORGE_TLS_ON, GORGE_TLS_UNVERIFIED /* takes whoever answers for Redis */ };

struct gorge_config {
  const char *zone; /* 1..GORGE_NAME_MAX bytes, NUL-terminated, like all strings here; all are copied */
  const char *ns;
  uint64_t l1_size; /* bytes */
  uint32_t flags;   /* enum gorge_config_flag */
  uint32_t redis_port;
  const char *redis_host; /* NULL and redis_path NULL: no Redis */
  const char *redis_path;
  const char *sentinels; /* instead of host and path: "host port\n" for each, 16 at most */
  const char *master;    /* its name there, 1..128 bytes */
  const char
      *cluster; /* instead of all these: some of its nodes, as sentinels. Needs db 0; partitions are GORGE_PARTITIONS */
  const char *sentinel_username, *sentinel_password;
  const char *username;
  const char *password;
  uint32_t
      tls; /* enum gorge_tls_mode; needs redis_host. The files below are read now, and again for each connection. */
  const char *tls_ca; /* PEM file; NULL: the system's CAs */
  const char *tls_cert;
  const char *tls_key;
  const char *tls_server_name; /* NULL: redis_host */
  uint32_t db;
  uint32_t connect_timeout_ms;   /* from the attempt to the end of the handshake; 0: 1000 */
  uint32_t timeout_ms;           /* of one command; 0: 500 */
  uint32_t keepalive_ms;         /* without INLINE: an idle connection is sent a PING so often; 0: 3000 */
  uint32_t max_pending;          /* commands under way on one connection; more are refused; 0: 4096 */
  uint32_t partitions;           /* of the namespace in Redis: 1, which 0 stands for, or GORGE_PARTITIONS */
  uint32_t breaker_max_failures; /* 0: no breaker */
  uint32_t breaker_timeout_ms;
  uint32_t breaker_slow_ms;        /* an answer that took longer counts as a failure; 0: none does */
  uint32_t origin_max_concurrency; /* runs of loaders at once on this host, below 2^31; 0: any number */
  uint32_t origin_max_failures;    /* of loaders, in a row, that open the breaker around them; 0: no such breaker */
  uint32_t origin_timeout_ms;      /* how long that one stays open */
  uint32_t lock_sleep_ms;          /* how often somebody who waits looks by itself */
  uint32_t lock_retries;           /* looks in a row at a lease that is not renewed, before a wait is in vain */
  double l1_ttl_ms;                /* longest life in L1 of what comes from Redis; above 0, a hundred years at most */
  double freshness_bound_ms;       /* with Redis: how far a hit may lag behind; above 0 */
  double disconnected_ttl_ms;      /* with Redis: longest age of a hit without contact; 0: none then */
  double
      early_beta; /* 0: no early refresh; else values are due ahead of their end, by the time that their loader took */
};

typedef struct gorge_cache gorge_cache;

/*
 * Finds or makes the zone and the namespace. Starts no thread and opens no connection. On failure err (may be NULL) receives a
 * NUL-terminated sentence. Returns GORGE_OK, GORGE_ERR_ARGUMENT, GORGE_ERR_MISMATCH, GORGE_ERR_FULL, GORGE_ERR_MEMORY or GORGE_ERR_SYSTEM.
 */
int gorge_cache_create(const struct gorge_config *config, gorge_cache **out, char *err, uint32_t err_size);
/*
 * Ends what this process runs for the cache: pending operations, connection, and with the last cache of a zone its thread and
 * slot. Calls that follow fail with GORGE_ERR_CLOSED or find nothing. Blocks at most about 100 ms.
 */
void gorge_cache_close(gorge_cache *cache);
/* Closes it if need be, which blocks as gorge_cache_close does, and frees the handle. NULL is fine. */
void gorge_cache_destroy(gorge_cache *cache);
/*
 * Makes the calling process ready to work: claims its worker slot, and, unless threads is 0 (nginx's master), starts the control thread
 * when the cache has Redis. Called implicitly, without threads, by every call below; idempotent, and cheap when nothing is to be done. After a fork the child
 * starts anew by itself. Returns GORGE_OK, GORGE_ERR_FULL (too many processes) or GORGE_ERR_SYSTEM.
 */
int gorge_cache_enter(gorge_cache *cache, int threads);
/*
 * A word that holds the milliseconds of CLOCK_MONOTONIC, kept up to date by somebody else (nginx: once a turn of its event loop), for
 * gorge_get to read instead of asking the kernel; NULL: ask. The word outlives the cache.
 */
void gorge_cache_clock(gorge_cache *cache, const uint64_t *now_ms);
/* The namespace's shared words, for the life of the process. */
const struct gorge_words *gorge_cache_words(gorge_cache *cache);
/* This worker's counters (GORGE_COUNTERS of them), in shared memory; NULL before a slot could be claimed. */
uint64_t *gorge_cache_counters(gorge_cache *cache);

/* ------------------------------------------------------------------ L1 */

/*
 * Looks into L1. GORGE_HIT, GORGE_DUE, GORGE_MISS or GORGE_SPACE. Counts as a use. Takes no lock. What the buffer holds after out->len bytes, up to its
 * size, is of no account.
 */
int gorge_get(gorge_cache *cache, const char *key, uint32_t key_len, struct gorge_read *out);
/* The same, without counting as a use or in the statistics, and also for a value that has expired and is kept: GORGE_STALE. */
int gorge_peek(gorge_cache *cache, const char *key, uint32_t key_len, struct gorge_read *out);
/*
 * For who could not get a newer value: GORGE_STALE with one that expired at most stale_ms ago and was not invalidated, or GORGE_HIT with one
 * that has not expired; else GORGE_MISS or GORGE_SPACE. Counts as a use.
 */
int gorge_stale(gorge_cache *cache, const char *key, uint32_t key_len, double stale_ms, struct gorge_read *out);
/* Tag names of a resident entry: each one length byte and its bytes, into buf; returns the bytes written, 0: none, or buf is too small. */
uint32_t gorge_peek_tags(gorge_cache *cache, const char *key, uint32_t key_len, char *buf, uint32_t buf_size);
/*
 * Drops the key's entry from L1, for who cannot decode it: nobody else is told, and what Redis has stays. Fills of the key that run are refused.
 * GORGE_OK, GORGE_ERR_ARGUMENT, or why this process cannot work.
 */
int gorge_drop(gorge_cache *cache, const char *key, uint32_t key_len);
/* Raises the frequency of the entries behind the L0 records that view->uses names, and empties that list. */
void gorge_note_uses(struct gorge_view *view);

/* ------------------------------------------------------------------ operations
 *
 * An operation is what one caller waits for. It lives in the process that started it, until gorge_op_free. While its status is
 * GORGE_PENDING, wait until gorge_poll names it or gorge_op_wait_ms has passed, and ask again.
 */

enum gorge_op_slots {
  GORGE_OP_SLOTS = 1048576
}; /* an operation's id modulo this differs from those of all others that are not over */

enum gorge_fetch_flag {
  GORGE_FETCH_LOOKUP = 1, /* ask Redis, take no lease, run nothing: ends with GORGE_HIT or GORGE_MISS */
  GORGE_FETCH_TELL = 2,   /* gorge_poll names the operation also when it begins to wait for somebody else's fill */
  GORGE_FETCH_STALE = 4,  /* with LOOKUP: also for a value that has expired, see stale_ms: ends with GORGE_STALE then */
  GORGE_FETCH_REFRESH =
      8 /* fill anew what gorge_get called GORGE_DUE; GORGE_OK or GORGE_BUSY: somebody else has done so, or does */
};

struct gorge_fetch {
  const char *key;
  uint32_t key_len;
  uint32_t tags_len;
  const char *tags;  /* packed: each one length byte and its bytes; at most GORGE_TAGS_MAX */
  uint32_t lease_ms; /* lock_ttl; not 0 */
  uint32_t wait_ms;  /* wait_timeout */
  uint32_t flags;    /* enum gorge_fetch_flag */
  double stale_ms;   /* GORGE_FETCH_STALE: not a value that expired longer ago */
};

struct gorge_store {
  const char *key; /* gorge_set_start only */
  uint32_t key_len;
  uint32_t tags_len;
  const char *tags;  /* packed; NULL with gorge_fetch_fill: those of the fetch */
  const char *value; /* for L1 */
  uint32_t value_len;
  uint32_t kind;
  const char *l2_value; /* for Redis; may be the same pointer */
  uint32_t l2_len;
  uint32_t l2_kind;
  double l1_ttl_ms; /* both above 0; less than 1 counts as 1, more than a hundred years as that */
  double ttl_ms;
  double stale_ms;   /* how long it is kept after its end, to be served as stale */
  double refresh_ms; /* how long before its end it is due for a refresh */
  double load_ms;    /* how long the loader took */
};

/*
 * Decides how a value that is not in L1 shall be had. Sets *op and returns its status (see gorge_op_status), or a failure
 * (GORGE_ERR_ARGUMENT, GORGE_ERR_MEMORY, GORGE_ERR_FULL) without an operation.
 */
int gorge_fetch_start(gorge_cache *cache, const struct gorge_fetch *rq, uint64_t *op);
/*
 * What has become of an operation. `out` may be NULL: the status alone. GORGE_ERR_ARGUMENT: there is no such operation. Of a fetch:
 * GORGE_PENDING;
 * GORGE_HIT: the value, into out (out->slot is NULL when it is not in L1); or GORGE_SPACE: enlarge the buffer and ask again;
 * GORGE_MISS, GORGE_STALE: only with GORGE_FETCH_LOOKUP and GORGE_FETCH_STALE; GORGE_BUSY: only with GORGE_FETCH_REFRESH;
 * GORGE_LEASE: run the loader, then gorge_fetch_fill, gorge_fetch_fail or gorge_fetch_skip;
 * GORGE_OK: somebody's fill ended: look into L1 and start anew if it is not there; for writes: done;
 * GORGE_FAILED: somebody's loader failed: its text into out->buf (out->len);
 * GORGE_ERR_TIMEOUT: waited for wait_ms, or the holder of the lease shows no sign of life; the operation may be turned into a run without a lease by gorge_fetch_run.
 * For a fill: GORGE_STORED, GORGE_REFUSED or GORGE_TOO_LARGE. For set, delete, invalidate, clear and touch: GORGE_OK (touch also GORGE_MISS), or why
 * Redis did not take it: text into out->buf. Updates, runs of loaders and explanations end as said where they start.
 */
int gorge_op_status(gorge_cache *cache, uint64_t op, struct gorge_read *out);
/* Milliseconds after which a pending operation should be asked again even if nothing woke it. */
uint32_t gorge_op_wait_ms(gorge_cache *cache, uint64_t op);
/* 1 while a fetch waits for somebody else's fill: for as long as that takes, not for Redis. */
int gorge_op_elsewhere(gorge_cache *cache, uint64_t op);
/* After GORGE_ERR_TIMEOUT: the caller runs the loader without a lease; the result will not be stored. */
int gorge_fetch_run(gorge_cache *cache, uint64_t op);
/*
 * The loader returned: store the value in Redis and L1, wake the waiters. Returns the new status (GORGE_PENDING while Redis is asked), or
 * GORGE_ERR_ARGUMENT when the operation does not run a loader or the store is malformed (kind, times, tags): nothing has happened then.
 */
int gorge_fetch_fill(gorge_cache *cache, uint64_t op, const struct gorge_store *store, struct gorge_read *out);
/* The loader failed: waiters in every worker get the text. */
int gorge_fetch_fail(gorge_cache *cache, uint64_t op, const char *err, uint32_t err_len);
/* The loader returned something that must not be stored: waiters start anew. */
int gorge_fetch_skip(gorge_cache *cache, uint64_t op);
/*
 * 1 while nothing that the fetch depends on was invalidated since it began, nothing newer can have been seen on this host, and nobody has taken
 * its fill over, so that another caller may share its result.
 */
int gorge_op_joinable(gorge_cache *cache, uint64_t op);
/* Ends the caller's interest. A running fill without result is handed on; what was sent to Redis is carried out. */
void gorge_op_free(gorge_cache *cache, uint64_t op);

/*
 * Writes. The older value is gone on this host before they return; the new one of gorge_set_start is seen from the end of the operation on,
 * or from gorge_op_free if that comes first. *op is 0 when nothing is pending (no Redis), then the status is final.
 */
int gorge_set_start(gorge_cache *cache, const struct gorge_store *store, uint64_t *op);
int gorge_delete_start(gorge_cache *cache, const char *key, uint32_t key_len, uint64_t *op);
int gorge_invalidate_start(gorge_cache *cache, const char *tags, uint32_t tags_len, uint64_t *op);
/* Forgets the whole namespace. */
int gorge_clear_start(gorge_cache *cache, uint64_t *op);

/*
 * Gives a value another ttl. GORGE_OK, or GORGE_MISS: there is none; else why Redis was not told. *op as above; at once on this host, but what
 * the key is in Redis is known when the operation ends.
 */
int gorge_touch_start(gorge_cache *cache, const char *key, uint32_t key_len, double ttl_ms, double l1_ttl_ms,
                      uint64_t *op);

/*
 * Reads a value in order to replace it, in Redis if there is one, else in L1. The new one will carry these tags. Sets *op and returns its
 * status: GORGE_HIT, GORGE_MISS, GORGE_PENDING, or why it cannot be read; then nothing can be replaced.
 */
int gorge_update_start(gorge_cache *cache, const char *key, uint32_t key_len, const char *tags, uint32_t tags_len,
                       uint64_t *op);
/*
 * Once it is read: replaces it. Key and tags of the store are not used. The operation ends with GORGE_STORED; GORGE_REFUSED: the value has changed
 * since, nothing was done, begin anew; GORGE_TOO_LARGE: for L1, nothing was done; or a failure.
 */
int gorge_update_store(gorge_cache *cache, uint64_t op, const struct gorge_store *store, struct gorge_read *out);
/* After a failure: 1 when Redis may have replaced the value all the same. */
int gorge_update_unknown(gorge_cache *cache, uint64_t op);

/*
 * Asks for leave to run a loader. Sets *op and returns its status (gorge_op_status): GORGE_LEASE: run it, then gorge_origin_finish; GORGE_PENDING:
 * too many run, wait for one of them to end; GORGE_ERR_FULL: the same, but wait_ms is 0; GORGE_ERR_BREAKER; GORGE_ERR_TIMEOUT: waited for wait_ms. In the
 * last three cases the loader must not be run: free the op. Without an operation: GORGE_ERR_MEMORY, GORGE_ERR_FULL or GORGE_ERR_CLOSED.
 */
int gorge_origin_start(gorge_cache *cache, uint32_t wait_ms, uint32_t longest_ms, uint64_t *op);
/* The loader has returned; ends the operation. One that took longer than longest_ms counts as failed. gorge_op_free instead: nothing is known of it. */
void gorge_origin_finish(gorge_cache *cache, uint64_t op, int failed);
/* Of a fetch in GORGE_LEASE: its loader begins to run now, or (0) is not run at all; then gorge_fetch_fail and gorge_fetch_skip count no run. */
void gorge_fetch_mark(gorge_cache *cache, uint64_t op, int runs);

/* Advances timers and looks at shared memory for what other workers completed. Writes up to max operations whose status changed; returns how many (call again when max). */
uint32_t gorge_poll(gorge_cache *cache, uint64_t *ops, uint32_t max);
/* Operations pending in this process. */
uint32_t gorge_pending(gorge_cache *cache);

/*
 * For hosts that can end a coroutine from outside (nginx): operations are given up when their request ends. A request has one guard, of
 * GORGE_GUARD_SIZE bytes that live as long as it does; gorge_guard_cleanup has the signature of a cleanup handler and is called with them when it
 * ends. It may come after the operations or the cache are gone.
 */
enum gorge_guard_size { GORGE_GUARD_SIZE = 8 };
/* GORGE_OK, or GORGE_MISS: the request has no guard yet, see gorge_guard_init. */
int gorge_op_guard(gorge_cache *cache, uint64_t op, const void *request);
/* GORGE_OK or GORGE_ERR_MEMORY. */
int gorge_guard_init(void *data, const void *request);
void gorge_guard_cleanup(void *data);
