/* SPDX-License-Identifier: MIT */
/*
 * Where faults are made: a zone with contents that tell whose they are, images of its bytes, and the processes around it.
 *
 * All that an operation under test writes lies in one shard, or outside the shards: those bytes are the hot ones, compared
 * after every instruction. That the others stay as they are is checked once for each operation.
 */
#ifndef GORGE_FAULT_SCENE_H
#define GORGE_FAULT_SCENE_H

#include "flight/flight.h"
#include "l1/shard.h"
#include "test/l1_support.h"

enum {
  FAULT_SHARDS = 16,
  FAULT_BUCKETS = 24,      /* few: they are counted now and then, instruction by instruction */
  FAULT_KEYS = 260,        /* of the hot shard, more than fit: inserts evict */
  FAULT_OTHERS = 60,       /* of other shards */
  FAULT_FRESH = 8,         /* what peers store */
  FAULT_GONE = 4,          /* invalidated before anything happens */
  FAULT_VALUE_MAX = 16000, /* below the largest entry */
  FAULT_NOW_MS = 1000,
  FAULT_LEASE_MS = 1000
};

/* A process in the middle of an operation: what it works with, and in the end what it was told. Copied as a whole. */
struct fault_victim {
  struct l1 l1;
  struct gorge_key key;
  struct gorge_snapshot snapshot;
  struct gorge_entry entry;
  struct gorge_tag tag;
  struct gorge_flight_ref ref;
  struct gorge_worker_set waiters;
  uint64_t token; /* the slot word that is to be exchanged */
  uint32_t ns;
  int status, fd;
  bool ended; /* the operation has returned */
};

struct fault_name {
  char text[24];
  uint64_t number; /* whose value it is */
};

struct fault_control; /* step.h */

struct fault_scene {
  struct l1 l1; /* the peer: this process */
  struct gorge_shard shard;
  struct fault_control *control;
  struct fault_victim *said; /* shared with the victim: its state when it began, and when it ended */
  char *blank;               /* images: with the contents only, */
  char *prepared;            /* prepared for an operation, */
  char *image;               /* and the last one looked at; shared with the victim */
  struct fault_victim image_said;

  uint32_t sleeper;              /* an owner that lives and does nothing */
  int wake_fd;                   /* the peer's wake-up socket */
  bool all_gone;                 /* nothing of the contents may be seen any more */
  const char *fill_value;        /* what the peer stored last under the target key, or NULL */
  struct gorge_read record;      /* of the target key, as L0 keeps it */
  struct gorge_flight_ref taken; /* a flight that the peer has, or took over; */
  struct gorge_flight_ref next;  /* and the one after it */
  bool was_owned;                /* and whether it was the victim's before */
  int begin_status;              /* what the peer was told when it began a flight beside the victim */
  struct proc helper;            /* the sleeper's process */
  struct proc third;             /* another one, while an operation needs it */
  uint32_t third_id;             /* its owner */
  int third_fd;

  uint64_t began_us, delayed_us; /* the peer's operation that runs, and how long it had waited for a processor before */
  uint64_t longest_us;           /* of single operations of the peer */
  const char *longest_what, *slow;
  uint64_t slow_us;
  char complaint[200];

  struct fault_name keys[FAULT_KEYS], others[FAULT_OTHERS], fresh[FAULT_FRESH], gone[FAULT_GONE];
};

extern const char FAULT_TARGET[]; /* the key that operations are about */

/* Opens a zone whose hashes depend on the seed only, fills it, and starts the sleeper. One for each program. */
struct fault_scene *fault_scene_open(uint64_t seed);
void fault_scene_close(struct fault_scene *s);

/* --- images --- */

/* The contents only; nobody else but peer and sleeper. */
void fault_reset(struct fault_scene *s);
void fault_prepared(struct fault_scene *s);
void fault_save(struct fault_scene *s);
void fault_restore(struct fault_scene *s);
/* Whether the hot bytes are those of the image. The victim's handler calls it, too. */
bool fault_unchanged(const struct fault_scene *s);
/* Whether all others are as they were prepared. */
bool fault_cold_unchanged(const struct fault_scene *s);

/* --- contents --- */

uint32_t fault_length(uint64_t number);
void fault_store(struct fault_scene *s, const struct fault_name *name, uint64_t seed);
/* Stores all keys of the hot shard again. */
void fault_fill(struct fault_scene *s, uint64_t seed);

/* --- others --- */

/* A process with an owner, which lives until it is killed. */
struct proc fault_live_owner(struct fault_scene *s, uint32_t *id);
/* The id of an owner that was killed. */
uint32_t fault_dead_owner(struct fault_scene *s);
/* Takes and lets go the hot shard's lock in the name of an owner. */
void fault_hold(struct fault_scene *s, uint32_t owner);
void fault_let_go(struct fault_scene *s, uint32_t owner);
/* The key that flights are about, in a namespace that nobody invalidates; and the lock that they need. */
struct gorge_key fault_flight_key(const struct fault_scene *s);
struct gorge_lock *fault_flight_lock(struct fault_scene *s);

#endif
