/* SPDX-License-Identifier: MIT */
/* What the files io/l2*.c share. Nobody else includes this. */
#ifndef GORGE_IO_L2_STATE_H
#define GORGE_IO_L2_STATE_H

#include "io/l2.h"
#include "io/l2_map.h"
#include "proto/names.h"
#include "proto/scripts.h"

enum {
  GORGE_L2_ARGS_MAX = 64,
  GORGE_L2_ERROR_MAX = 200,
  GORGE_L2_ASKING = 2,            /* its command in a request */
  GORGE_L2_JOURNAL_ENTRIES = 500, /* asked for at a time; more than one write can make */
  /* How often a script may be sent again because what it returned was dead; then LEASE takes the lease whatever the value. */
  GORGE_L2_ROUNDS_MAX = 4,
  /* Room for all names, numbers and nonces of one command: value, lease, counter, journal, record, twice 16 tags. */
  GORGE_L2_SCRATCH = 2 * GORGE_NAME_BYTES_MAX + 2 * GORGE_TAGS_MAX * (GORGE_NAME_PREFIX_MAX + GORGE_TAG_MAX + 16) + 1024
};

/* What a request waits for. */
enum gorge_l2_step {
  GORGE_L2_STEP_SCRIPT,
  GORGE_L2_STEP_EPOCH,  /* the epoch script; then the request begins */
  GORGE_L2_STEP_VALUE,  /* LOOKUP: the value; nonces may be under way */
  GORGE_L2_STEP_NONCES, /* LOOKUP: value kept, the nonces of the request's tags are under way */
  GORGE_L2_STEP_OTHERS, /* value kept, the nonces of the envelope's other tags are under way */
  GORGE_L2_STEP_NAMES,  /* EXPLAIN: the epoch, which nothing could be asked for without */
  GORGE_L2_STEP_HELD,   /* EXPLAIN: value and lease */
  GORGE_L2_STEP_TAGS    /* EXPLAIN: tags and epoch */
};

/* A value that waits for its tags to be checked. */
struct gorge_l2_kept {
  struct redisReply *reply; /* owned; the envelope points into it */
  struct gorge_envelope envelope;
};

struct gorge_l2;

/* SCRIPT LOAD of one script. */
struct gorge_l2_load {
  struct gorge_command command;
  char *sha; /* where its answer goes */
};

/* One server: its connection, and what is known of it. */
struct gorge_l2_node {
  struct gorge_l2 *l2;
  uint32_t index;
  struct gorge_conn *conn;
  struct gorge_place place; /* in a cluster */
  uint64_t changes;         /* of place */
  uint64_t used_ms;         /* when it was sent something last */
  bool listed;              /* has partitions */
  bool seed;
  bool in_vain; /* was asked for the map and did not tell, while others have not been asked yet */

  char sha[GORGE_SCRIPTS][GORGE_SCRIPT_SHA_LEN]; /* as Redis returned them; starts with NUL while unknown */
  struct gorge_l2_load load[GORGE_SCRIPTS];

  struct gorge_command time;
  bool time_due, clock_known;
  uint64_t time_sent_ms;
  int64_t
      clock_offset_ms; /* server's clock minus ours, by up to one round trip and our lag too high: ttls end early, not late */
  uint64_t clock_rtt_ms;
  uint64_t clock_sample_ms; /* when the offset was learnt */
  uint64_t clock_next_ms;   /* ask again then */
};

struct gorge_l2_partition {
  struct gorge_l2 *l2;
  uint64_t named_epoch; /* in names */
  struct gorge_command epoch_get;
  bool epoch_due;      /* epoch_get is under way */
  uint64_t epoch_seen; /* the word when it was asked for */
};

struct gorge_l2 {
  struct gorge_l2_node *nodes[GORGE_NODES_MAX];
  uint32_t node_count;
  bool closed;                     /* destroy is running */
  struct gorge_conn_config config; /* of nodes to come; the strings are the user's */
  struct gorge_l2_map map;
  struct gorge_l2_request *parked_first, *parked_last; /* wait for something else than an answer */
  uint32_t parked, parked_max;
  uint64_t moved, asked, tried_again;
  struct gorge_names names;
  uint64_t max_value; /* bytes of value that can be read back */
  uint64_t lag_ms;    /* see gorge_l2_lag */

  const uint64_t *epochs; /* shared words, one for each partition; 0: not known */
  void (*learned)(void *ctx, uint32_t partition, uint64_t seen, uint64_t epoch);
  void *learned_ctx;
  uint64_t own_epochs[GORGE_PARTITIONS];

  char error[GORGE_L2_ERROR_MAX + 1];
  /* The command being built. */
  uint32_t partition; /* of its names */
  int argc;
  const char *argv[GORGE_L2_ARGS_MAX];
  size_t argv_len[GORGE_L2_ARGS_MAX];
  size_t scratch_used;
  char scratch[GORGE_L2_SCRATCH];
  struct gorge_seal seal;

  uint32_t partition_count;
  struct gorge_l2_partition partitions[];
};

/* ---- l2_node.c ---- */
/* A node of the l2, with a connection of its own. NULL: out of memory. */
struct gorge_l2_node *gorge_l2_node_create(struct gorge_l2 *l2, uint32_t index, const struct gorge_conn_config *config);
/* Completes what is under way with GORGE_ERR_CLOSED. NULL is fine. */
void gorge_l2_node_destroy(struct gorge_l2_node *node);
/* Asks for the server's clock when it is time to. */
void gorge_l2_node_clock(struct gorge_l2_node *node, uint64_t now_ms);
/* The ttl left of a value by the server's clock; 0: over, or unknown. */
uint64_t gorge_l2_remaining_ms(const struct gorge_l2_node *node, const struct gorge_envelope *e, uint64_t now_ms);

/* ---- l2_commands.c: each submits through command[0] unless told otherwise; statuses as gorge_l2_send ---- */
int gorge_l2_check(const struct gorge_l2 *l2, const struct gorge_l2_request *rq);
int gorge_l2_submit_get(struct gorge_l2_request *rq, uint64_t now_ms);
/* MGET of nonces, and of the epoch when it is to be confirmed, through command[1]. */
int gorge_l2_submit_nonces(struct gorge_l2_request *rq, const struct gorge_l2_tag *tags, uint32_t ntags,
                           uint64_t now_ms);
/* GET of the epoch. PTTL of the lease, through command[1]. */
int gorge_l2_submit_epoch(struct gorge_l2_request *rq, uint64_t now_ms);
int gorge_l2_submit_lease_ttl(struct gorge_l2_request *rq, uint64_t now_ms);
/* By EVALSHA when the sha is known and rq->state.eval is not set. */
int gorge_l2_submit_script(struct gorge_l2_request *rq, uint64_t now_ms);

/* ---- l2_route.c: through a cluster, or to the only Redis ---- */
/* gorge_l2_begin, once it is known where. */
int gorge_l2_route_begin(struct gorge_l2_request *rq, uint64_t now_ms);
/* Whom the next command of the request goes to. */
struct gorge_l2_node *gorge_l2_route_node(struct gorge_l2_request *rq);
/* Sends the command that was built, as command[index]. */
int gorge_l2_route_submit(struct gorge_l2_request *rq, int index, uint64_t now_ms);
/* What the request waits for is not waited for any more. */
void gorge_l2_route_forget(struct gorge_l2_request *rq);
/* An error as reply. Returns true when the request goes on elsewhere, or later. */
bool gorge_l2_route_redirect(struct gorge_l2_request *rq, int index, const struct redisReply *reply, uint64_t now_ms);
/* A command had no reply. */
void gorge_l2_route_lost(struct gorge_l2_request *rq, int index, uint64_t now_ms);
/* What is parked goes on if it can. */
void gorge_l2_route_mapped(struct gorge_l2 *l2, uint64_t now_ms);
/* What is parked ends with GORGE_ERR_CLOSED. */
void gorge_l2_route_close(struct gorge_l2 *l2);

/* ---- l2_replies.c: one reply of a request (index of the command), to the next step or the end ---- */
void gorge_l2_on_reply(struct gorge_l2_request *rq, int index, int status, const struct redisReply *reply,
                       uint64_t now_ms);

/* ---- l2_explain.c ---- */
int gorge_l2_send_explain(struct gorge_l2_request *rq, uint64_t now_ms);
/* Sends once more what was redirected, of command[index]. The other command of its round, if there is one, was forgotten when that is the first. */
int gorge_l2_resend_explain(struct gorge_l2_request *rq, int index, uint64_t now_ms);
void gorge_l2_on_explain(struct gorge_l2_request *rq, int index, const struct redisReply *reply, uint64_t now_ms);

/* ---- l2_value.c: a value that was read ---- */
/* The reply of GET, for LOOKUP. */
void gorge_l2_on_value(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms);
/* Keeps the reply that is being delivered, with its envelope, if it is one. Returns false when out of memory. */
bool gorge_l2_keep(struct gorge_l2_request *rq, const struct redisReply *reply, const struct gorge_envelope *e);
/* What Redis holds of the request's tags is there, elements[i] for tag i; then of the envelope's others. For a value that is kept. */
void gorge_l2_check_requested(struct gorge_l2_request *rq, struct redisReply *const *elements, size_t nelements,
                              uint64_t now_ms);
void gorge_l2_check_others(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms);
/* Asks once more for the nonces that the step waits for. */
int gorge_l2_resend_nonces(struct gorge_l2_request *rq, uint64_t now_ms);
/* A value whose tags are alive. */
void gorge_l2_finish_hit(struct gorge_l2_request *rq, const struct gorge_envelope *e, uint64_t now_ms);
/* A value of that version is of no use. */
void gorge_l2_reject(struct gorge_l2_request *rq, uint64_t version, const char *error, uint64_t now_ms);

/* ---- l2_result.c: the end of a request ---- */
void gorge_l2_drop_kept(struct gorge_l2_request *rq);
void gorge_l2_clear_result(struct gorge_l2_result *r, int status);
/* What its value points into lives until done has returned; the request itself may not. */
void gorge_l2_finish(struct gorge_l2_request *rq, struct gorge_l2_result *result, uint64_t now_ms);
void gorge_l2_finish_status(struct gorge_l2_request *rq, int status, uint64_t version, const char *error,
                            uint64_t now_ms);
/* A slot is on its way to another node, and has been for too long. */
void gorge_l2_finish_moving(struct gorge_l2_request *rq, const char *error, uint64_t now_ms);
/* Redis's own words, fit to be printed; and what they mean, where that is not to be seen. */
void gorge_l2_finish_error(struct gorge_l2_request *rq, const struct redisReply *reply, uint64_t now_ms);
/* What may be sent while a reply is handled fails like a request does. */
void gorge_l2_proceed(struct gorge_l2_request *rq, int status, uint64_t now_ms);

/* ---- l2_fan.c: a request to all partitions ---- */
/* Statuses as gorge_l2_send. */
int gorge_l2_fan_out(struct gorge_l2 *l2, struct gorge_l2_request *rq, uint64_t now_ms);
/* Forgets it; rq->state.fan is NULL then. */
void gorge_l2_fan_cancel(struct gorge_l2_request *rq);

/* The request begins anew, under the epoch of now: in l2_replies.c, as what follows. */
void gorge_l2_begin_anew(struct gorge_l2_request *rq, uint64_t now_ms);

/* ---- l2.c ---- */
/* A decimal number of at most 16 digits; false when it is none. */
bool gorge_l2_number_of(const struct redisReply *reply, uint64_t *number);
/* The epoch of now, which names of the partition are written under. */
uint64_t gorge_l2_name_epoch(struct gorge_l2 *l2, uint32_t partition);
/* Redis says that the epoch is this one, and the word was `seen` when it was asked. */
void gorge_l2_learn_epoch(struct gorge_l2 *l2, uint32_t partition, uint64_t seen, uint64_t epoch);
/* A clear made this epoch: whatever the word has become meanwhile, it is at least that one afterwards. */
void gorge_l2_raise_epoch(struct gorge_l2 *l2, uint32_t partition, uint64_t epoch);
/* Whether the epoch that was asked for behind the nonces of the request's tags is still the one in the names. */
bool gorge_l2_epoch_confirmed(const struct gorge_l2_request *rq, const struct redisReply *reply);
/* gorge_l2_send of a request that was checked, to one partition, whatever its verb. */
int gorge_l2_send_to(struct gorge_l2 *l2, struct gorge_l2_request *rq, uint32_t partition, bool silent,
                     uint64_t now_ms);
/* Until when the request waits for what is asked from now on, however many commands that takes. */
void gorge_l2_set_deadline(struct gorge_l2_request *rq, uint64_t now_ms);
/* Sends the first command of a request, or the epoch script when the names are not known. */
int gorge_l2_begin(struct gorge_l2_request *rq, uint64_t now_ms);

#endif
