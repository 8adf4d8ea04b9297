/* SPDX-License-Identifier: MIT */
/*
 * The ABI of libgorge, the part for who looks at it: statistics, and what a program outside of the workers sees, such as the command line.
 * Conventions as in gorge_ffi.h, which stands before it.
 */

/* ------------------------------------------------------------------ statistics */

struct gorge_stats {
  uint64_t counters[GORGE_COUNTERS];
  uint64_t histograms[GORGE_HISTOGRAMS][GORGE_HISTOGRAM_WORDS];
  uint64_t entries;
  uint64_t bytes_used;
  uint64_t bytes_total;
  uint64_t zone_size;
  uint64_t flights; /* fills running on this host */
  uint64_t workers; /* processes attached */
  uint64_t epoch;
  uint32_t breaker; /* 0 closed, 1 open, 2 half-open; in a cluster the worst of its nodes' */
  uint32_t
      redis_state; /* of this worker's connection: 0 down, 1 connecting, 2 handshake, 3 ready; 9: no Redis; of a cluster the best */
  uint32_t redis_pending; /* on all of its connections */
  uint32_t subscribed;    /* 1 while a worker of this host listens to other nodes */
  uint64_t queued;        /* invalidations that wait for Redis; a clear counts as one */
  double lag_ms;          /* a hit reflects what Redis had committed so long ago; -1: nothing is known, or no Redis */
  uint64_t breaker_opens;
  uint32_t origin_breaker; /* the one around loaders, as breaker */
  uint32_t origin_running; /* runs of loaders that have a permit, on this host */
  char redis_reason[128];  /* why this worker's connection is down, or its last command failed; empty: neither */
  char master[64];         /* with sentinels: where the master is, "192.0.2.1:6379"; "": not known */
};

/* Sums over all workers of the host, also in a process that has not entered. GORGE_OK. */
int gorge_stats_read(gorge_cache *cache, struct gorge_stats *out);

/* What this worker knows of a cluster. */
struct gorge_cluster_stats {
  uint32_t nodes;      /* that it has met, numbers for gorge_node_read; some of them may have no partition (any more) */
  uint32_t partitions; /* of the namespace */
  uint32_t mapped;     /* those of which it is known where they are; all of them, but in the beginning */
  uint32_t parked;     /* requests that wait for that, or for a slot that is on its way */
  uint64_t changes;    /* how often a partition was found at another node than before */
  uint64_t moved;      /* answers MOVED, */
  uint64_t asked;      /* ASK, */
  uint64_t tried_again; /* TRYAGAIN */
  char trouble[256];    /* why it is not known where they are, or could not be asked for; empty: nothing */
};
struct gorge_node_stats {
  char host[256]; /* as the cluster names it: a name or a number */
  uint32_t port;
  uint32_t state;      /* of this worker's connection: 0 down, 1 connecting, 2 handshake, 3 ready */
  uint32_t pending;    /* commands on it */
  uint32_t partitions; /* that it has; 0: it is asked nothing */
  uint32_t breaker;    /* of this host: 0 closed, 1 open, 2 half-open */
  char reason[128];    /* why the connection is down; empty: it is not, or it was never wanted */
};
/* GORGE_OK; GORGE_MISS: there is no cluster, or this process has not worked with it yet. */
int gorge_cluster_read(gorge_cache *cache, struct gorge_cluster_stats *out);
/* GORGE_OK; GORGE_MISS: there is no node of that number. */
int gorge_node_read(gorge_cache *cache, uint32_t node, struct gorge_node_stats *out);
/*
 * Why the last command of this process to Redis failed: 1, and text of at most `size` bytes, NUL-terminated, printable. 0 when it
 * did not fail, or there was none. Does not block.
 */
int gorge_redis_trouble(const gorge_cache *cache, char *text, uint32_t size);
/* Upper bound of a histogram bucket in microseconds; -1 for the last. */
double gorge_histogram_bound_us(uint32_t bucket);
/* Quantile q (0..1) of a histogram of gorge_stats, in microseconds. */
double gorge_histogram_quantile_us(const uint64_t *buckets, double q);

/* ------------------------------------------------------------------ explaining a key
 *
 * What each layer holds of a key, and what the next fetch would find. Nothing of this counts as a use or in the statistics, takes a lease
 * or stores anything.
 */

enum gorge_look_state {
  GORGE_LOOK_NONE = 0,
  GORGE_LOOK_GOOD,
  GORGE_LOOK_DUE,     /* good, and it is time to refresh it */
  GORGE_LOOK_STALE,   /* past its end, kept for when a loader fails */
  GORGE_LOOK_EXPIRED, /* past that, too */
  GORGE_LOOK_TAG,     /* one of its tags has been invalidated since it was stored, or is not in Redis any more */
  GORGE_LOOK_DAMAGED  /* in Redis: no value of gorge, or not whole */
};

enum gorge_tag_look_flag {
  GORGE_TAG_OF_VALUE = 1, /* the value that was looked at carries it: `stored` counts */
  GORGE_TAG_THERE = 2,    /* `now` counts */
  GORGE_TAG_QUEUED = 4    /* Redis has not been told yet that it was invalidated on this host */
};
struct gorge_tag_look {
  uint64_t stored;  /* L1: its generation when the value was stored; Redis: its nonce */
  uint64_t now;     /* the same now */
  uint64_t version; /* Redis: of its last invalidation; 0: none that is known */
  uint32_t flags;
  uint32_t len;
  char name[256]; /* GORGE_TAG_MAX bytes at most, NUL-terminated */
};

/* What L1 holds of a key. */
struct gorge_l1_look {
  uint32_t state;     /* enum gorge_look_state; never DAMAGED */
  uint32_t kind;      /* enum gorge_kind */
  uint32_t size;      /* bytes of the value */
  uint32_t frequency; /* as L1 counts it: 0 to 18 */
  uint64_t version;   /* 0: not from Redis */
  struct gorge_life life;
  uint32_t ntags, reserved;
  struct gorge_tag_look tags[GORGE_TAGS_MAX];
};

enum gorge_flight_look_state {
  GORGE_FLIGHT_NONE = 0,
  GORGE_FLIGHT_RUNS,     /* who misses waits for it */
  GORGE_FLIGHT_LAPSED,   /* its owner has died, or its lease has run out: who misses takes it over */
  GORGE_FLIGHT_GIVEN_UP, /* its owner let go of it: likewise */
  GORGE_FLIGHT_OVERTAKEN /* the key, or a tag, was invalidated since it began: who misses begins another one */
};
/* A fill in progress on this host. */
struct gorge_flight_look {
  uint32_t state;     /* enum gorge_flight_look_state */
  uint32_t waiters;   /* workers in which somebody waits for it */
  uint32_t here;      /* 1: this process runs it; gorge_visit_explain: 0 */
  uint32_t leased;    /* 1: it holds a lease in Redis */
  double deadline_ms; /* it must be renewed or over by then */
  double latest_ms;   /* it is not renewed beyond */
};

/* What this host holds of a key. */
struct gorge_host_look {
  double now_ms;           /* of the look */
  double fresh_until_ms;   /* L0 and L1 answer until then */
  double lag_ms;           /* as in gorge_stats */
  uint64_t epoch;          /* how often this host has forgotten the whole namespace */
  uint32_t held;           /* 1: there is contact to Redis */
  uint32_t origin_refuses; /* 1: the breaker around loaders lets none run; 0 also: gorge_visit_explain */
  struct gorge_l1_look l1;
  struct gorge_flight_look flight;
};
/* Never blocks. GORGE_OK, GORGE_ERR_ARGUMENT. */
int gorge_explain_host(gorge_cache *cache, const char *key, uint32_t key_len, struct gorge_host_look *out);

/* What Redis holds of a key. */
enum gorge_l2_look_tags { GORGE_L2_LOOK_TAGS = 32 };
struct gorge_l2_look {
  int32_t status; /* GORGE_OK, or why Redis did not answer: the rest is 0 then */
  uint32_t state; /* enum gorge_look_state; never DUE: by `refresh_ms` */
  uint32_t kind;
  uint32_t size; /* bytes of the value, as they stand in Redis */
  uint64_t version;
  double ttl_ms;     /* that is left; 0: past its end */
  double kept_ms;    /* left until it is kept no longer */
  double past_ms;    /* since its end, when the state is GORGE_LOOK_STALE (0: it is this moment); else 0 */
  double refresh_ms; /* so long before its end it is due; 0: never */
  double load_ms;    /* how long its loader took */
  double lease_ms;   /* left of the lease of a fill; 0: there is none */
  uint64_t epoch;    /* that Redis has now; 0: none, it has lost all that it had */
  uint64_t asked;    /* the epoch that this host goes by, in the names that were asked for */
  uint32_t queued;   /* invalidations of the namespace that waited for Redis when it was asked; a clear counts as one */
  uint32_t ntags;    /* of the value, then the others that were asked for */
  struct gorge_tag_look tags[GORGE_L2_LOOK_TAGS];
  char error[128]; /* of the status, or what is damaged */
};
/*
 * Asks Redis, for the value, the lease and the value's tags and these (packed), in plain reads. Sets *op and returns GORGE_PENDING; or, without an operation,
 * GORGE_ERR_UNSUPPORTED: the cache has no Redis; GORGE_ERR_DOWN: this process does not ask it; GORGE_ERR_BREAKER; GORGE_REFUSED: Redis has not been
 * told yet that the key was invalidated on this host, so that nobody here asks for it; GORGE_ERR_ARGUMENT, GORGE_ERR_MEMORY or GORGE_ERR_FULL. The operation
 * ends with GORGE_OK, or GORGE_ERR_MEMORY. `op` NULL: Redis is not asked, GORGE_OK says that it could be.
 */
int gorge_explain_start(gorge_cache *cache, const char *key, uint32_t key_len, const char *tags, uint32_t tags_len,
                        uint64_t *op);
/* What came of it. GORGE_OK, or GORGE_ERR_ARGUMENT: no such operation, or it has not ended. */
int gorge_explain_take(gorge_cache *cache, uint64_t op, struct gorge_l2_look *out);

/* ------------------------------------------------------------------ looking on from outside
 *
 * A process that is not one of a zone's workers looks at the zone while they go on. What it maps it cannot write, and nothing in
 * there is believed before it was checked: a damaged zone gives wrong answers, not a crash.
 */

/* A zone that a process has open. */
struct gorge_found {
  char path[48];          /* for gorge_visit */
  char name[72];          /* empty: only its header tells it */
  uint64_t device, inode; /* the same for all that have the same zone open */
  uint32_t pid, parent;   /* of the process; its parent */
  uint32_t user;          /* id of its user */
  uint32_t reserved;
};

/*
 * The zones of all processes of this machine but this one: one record for each zone and process. *hidden: how many processes this user
 * may not look at. Returns GORGE_OK; GORGE_SPACE: there are more than `max`; GORGE_ERR_SYSTEM: there is no /proc.
 */
int gorge_find_zones(struct gorge_found *out, uint32_t max, uint32_t *count, uint32_t *hidden);

typedef struct gorge_visitor gorge_visitor;

enum gorge_visit_flag {
  GORGE_VISIT_COPY = 1, /* a file that may be anybody's: looked at as a copy in memory */
  GORGE_VISIT_MAIL = 2, /* its mailbox, and what else is there for people, may be written */
  GORGE_VISIT_ALL = 4   /* all of it may be written */
};

/*
 * Attaches to the zone in a file. On failure err receives a sentence. Returns GORGE_OK; GORGE_ERR_SYSTEM: no such file, or no
 * permission; GORGE_ERR_MISMATCH: a zone of another version or build; GORGE_ERR_PROTOCOL: no zone, or a damaged one; GORGE_ERR_MEMORY.
 */
int gorge_visit(const char *path, uint32_t flags, gorge_visitor **out, char *err, uint32_t err_size);
void gorge_visit_end(gorge_visitor *visitor);
/* The zone's name, good until the visitor is ended. */
const char *gorge_visited_zone(const gorge_visitor *visitor);

enum gorge_namespace_uses {
  GORGE_NAMESPACE_LOCAL = 1, /* some process used it without Redis */
  GORGE_NAMESPACE_REDIS = 2  /* and some with it */
};
struct gorge_namespace {
  char name[72];
  uint32_t number; /* what the calls below take as ns */
  uint32_t uses;   /* enum gorge_namespace_uses */
};
/* The namespaces of the zone, at most GORGE_NAMESPACES_MAX. Returns how many were written. */
enum gorge_namespaces { GORGE_NAMESPACES_MAX = 32 };
uint32_t gorge_visit_namespaces(const gorge_visitor *visitor, struct gorge_namespace *out);
/* As gorge_stats_read; redis_state is 9 where no process uses Redis, else 0: what a worker's connection does only that worker knows. */
int gorge_visit_stats(const gorge_visitor *visitor, uint32_t ns, struct gorge_stats *out);
/* A breaker of a cluster's node that is not closed. */
struct gorge_node_breaker {
  char host[80]; /* empty: not known, or longer */
  uint32_t port;
  uint32_t breaker; /* 1 open, 2 half-open */
};
enum gorge_node_breakers { GORGE_NODE_BREAKERS_MAX = 32 };
/* Those of a namespace, GORGE_NODE_BREAKERS_MAX at most. Returns how many were written. */
uint32_t gorge_visit_node_breakers(const gorge_visitor *visitor, uint32_t ns, struct gorge_node_breaker *out);
/* Processes that work in the zone now. */
uint32_t gorge_visit_workers(const gorge_visitor *visitor);
/* As gorge_peek and gorge_peek_tags. */
int gorge_visit_peek(const gorge_visitor *visitor, uint32_t ns, const char *key, uint32_t key_len,
                     struct gorge_read *out);
uint32_t gorge_visit_tags(const gorge_visitor *visitor, uint32_t ns, const char *key, uint32_t key_len, char *buf,
                          uint32_t buf_size);

/* As gorge_explain_host. GORGE_OK or GORGE_ERR_ARGUMENT. */
int gorge_visit_explain(const gorge_visitor *visitor, uint32_t ns, const char *key, uint32_t key_len,
                        struct gorge_host_look *out);

/* Among the counters, but no counters: where a worker has the zone in its memory, and some slots that it hit; see core/l1/uses.h. */
enum gorge_count_addresses { GORGE_COUNT_BASE = 54, GORGE_COUNT_RECENT = 55 };

/* An entry that is used. */
enum gorge_hot_key { GORGE_HOT_KEY_MAX = 256 };
struct gorge_hot {
  double hits; /* that a sample stands for; 0 from gorge_visit_frequent */
  double expires_ms;
  uint32_t ns;
  uint32_t frequency; /* as L1 counts it: 0 to 18 */
  uint32_t size;      /* bytes of the value */
  uint32_t key_len;   /* of which GORGE_HOT_KEY_MAX are in `key` */
  char key[GORGE_HOT_KEY_MAX];
};
/* The hits of each worker and namespace when they were looked at last; all zeros to begin with. */
enum gorge_uses { GORGE_USES_PAIRS = 4096, GORGE_USES_PER_PAIR = 8 };
struct gorge_uses_cursor {
  uint64_t hits[GORGE_USES_PAIRS];
};
/*
 * Some of the last hits in L0 and L1 of each worker that had any since the cursor was used last: each worker keeps a few of its latest, at
 * random. The more often it is called, the more are seen. Returns how many were written, at most `max` (GORGE_USES_PER_PAIR for each
 * worker and namespace are enough).
 */
uint32_t gorge_visit_uses(const gorge_visitor *visitor, struct gorge_uses_cursor *cursor, struct gorge_hot *out,
                          uint32_t max);
/* The same, for a worker, and of its namespace alone. */
uint32_t gorge_uses_read(gorge_cache *cache, struct gorge_uses_cursor *cursor, struct gorge_hot *out, uint32_t max);
/*
 * The entries that L1 finds used most, of the next `slots` places from *cursor on (0: the beginning; it goes round). Returns how many
 * were written, at most `max`.
 */
uint32_t gorge_visit_frequent(const gorge_visitor *visitor, uint64_t *cursor, uint64_t slots, struct gorge_hot *out,
                              uint32_t max);

enum gorge_event_kind {
  GORGE_EVENT_KEY = 1, /* a key was set, deleted, or given a shorter life */
  GORGE_EVENT_TAG,     /* a tag was invalidated */
  GORGE_EVENT_CLEAR,   /* all was forgotten */
  GORGE_EVENT_RESYNC   /* the same, because messages may have been missed */
};
enum gorge_event_source {
  GORGE_EVENT_HEARD = 0, /* through Redis, this host's own included */
  GORGE_EVENT_HERE,      /* made on this host, without Redis */
  GORGE_EVENT_QUEUED     /* made on this host; Redis could not be told, and will be */
};
struct gorge_event {
  double at_ms; /* of the clock of gorge_now_ms */
  uint64_t version;
  uint32_t kind;
  uint32_t source;
  uint32_t ns;
  uint32_t len;   /* bytes of the key or tag, */
  uint32_t shown; /* and how many of them are in `name` */
  uint32_t reserved;
  char name[96];
};
struct gorge_events_cursor {
  uint64_t next; /* number of the next event to be read, from 1 */
  uint64_t lost; /* events that were overwritten before they were read */
  uint32_t stuck;
  uint32_t reserved;
};
/* Sets the cursor behind the last event. */
void gorge_visit_events_begin(const gorge_visitor *visitor, struct gorge_events_cursor *cursor);
/* Events from the cursor on. Returns how many were written, at most `max`; fewer: there are no more just now. */
uint32_t gorge_visit_events(const gorge_visitor *visitor, struct gorge_events_cursor *cursor, struct gorge_event *out,
                            uint32_t max);

enum gorge_forget_what { GORGE_FORGET_KEY = 1, GORGE_FORGET_TAG, GORGE_FORGET_ALL };
/*
 * Asks the workers of a namespace that uses Redis to delete a key, invalidate a tag or clear the namespace, through the zone's mailbox. For a visitor with
 * GORGE_VISIT_MAIL. *ticket: for gorge_visit_answer. Returns GORGE_OK; GORGE_BUSY: others are asking, try again; GORGE_ERR_ARGUMENT.
 */
int gorge_visit_ask(const gorge_visitor *visitor, uint32_t ns, int what, const char *name, uint32_t len,
                    uint32_t timeout_ms, uint64_t *ticket);
/*
 * What became of it: GORGE_PENDING: nobody has taken it yet; GORGE_BUSY: it is being carried out; GORGE_REFUSED: ask again; else how it ended, as
 * gorge_op_status tells it for a write, with a text.
 */
int gorge_visit_answer(const gorge_visitor *visitor, uint64_t ticket, char *text, uint32_t size);
/* Takes it back, unless it is being carried out. */
void gorge_visit_cancel(const gorge_visitor *visitor, uint64_t ticket);
/* Wakes those who could take it; it need not be done, but then they look after half a second. */
void gorge_visit_wake(const gorge_visitor *visitor);
/* How many workers' control threads there are, which alone can take it. */
uint32_t gorge_visit_listeners(const gorge_visitor *visitor);
/*
 * Does it itself, as a worker of the zone for a moment: in a namespace without Redis. For a visitor with GORGE_VISIT_ALL. Returns GORGE_OK,
 * GORGE_ERR_FULL (too many processes), GORGE_ERR_ARGUMENT or GORGE_ERR_UNSUPPORTED.
 */
int gorge_visit_forget(gorge_visitor *visitor, uint32_t ns, int what, const char *name, uint32_t len);

/* One connection that is asked and waited for, for checks; nothing of the engine uses it. */
typedef struct gorge_asker gorge_asker;
/*
 * Connects, authenticates and selects the database as the fields of `config` that concern Redis say; waits at most connect_timeout_ms, and
 * timeout_ms for each answer. On failure err receives a sentence. Returns GORGE_OK, GORGE_ERR_DOWN, GORGE_ERR_REDIS or GORGE_ERR_MEMORY.
 */
int gorge_ask_open(const struct gorge_config *config, gorge_asker **out, char *err, uint32_t err_size);
/*
 * Sends a command of `argc` words and waits for its answer: GORGE_OK with its text in buf (cut to `size`, NUL-terminated; the texts of an
 * array on lines of their own); GORGE_MISS: nil; GORGE_ERR_REDIS with the error; GORGE_ERR_DOWN with the reason: the connection is of no use any more.
 */
int gorge_ask(gorge_asker *asker, int argc, const char **argv, char *buf, uint32_t size);
void gorge_ask_end(gorge_asker *asker);
