/* SPDX-License-Identifier: MIT */
/*
 * The ABI of libgorge for who looks on from outside, such as the command line; conventions as in gorge_ffi.h, which stands before it.
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
  GORGE_VISIT_COPY = 1 /* a file that may be anybody's: looked at as a copy in memory */
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
/* Processes that work in the zone now. */
uint32_t gorge_visit_workers(const gorge_visitor *visitor);
/* As gorge_peek and gorge_peek_tags. */
int gorge_visit_peek(const gorge_visitor *visitor, uint32_t ns, const char *key, uint32_t key_len,
                     struct gorge_read *out);
uint32_t gorge_visit_tags(const gorge_visitor *visitor, uint32_t ns, const char *key, uint32_t key_len, char *buf,
                          uint32_t buf_size);

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
