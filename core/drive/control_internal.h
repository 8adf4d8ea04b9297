/* SPDX-License-Identifier: MIT */
/*
 * Inside the control thread. Every field says who may touch it:
 *   thread   the control thread alone
 *   mutex    whoever holds `mutex`; held for a few instructions, never while io, hooks or shared memory are called
 *   atomic   anybody, by __atomic builtins
 *   fixed    set before the thread runs, or before gorge_control_start returns
 */
#ifndef GORGE_DRIVE_CONTROL_INTERNAL_H
#define GORGE_DRIVE_CONTROL_INTERNAL_H

#include <ev.h>
#include <pthread.h>
#include <sys/types.h>

#include "backlog/backlog.h"
#include "drive/control.h"
#include "drive/ev_l2.h"
#include "io/l2.h"

enum {
  GORGE_WATCHES = 64,        /* caches with Redis in one process and zone */
  GORGE_PEERS = 8,           /* connected doorbells */
  GORGE_ROLE_LEASE_MS = 2000 /* of a subscriber's role, between elections */
};

enum gorge_watch_state { GORGE_WATCH_NEW, GORGE_WATCH_LIVE, GORGE_WATCH_ENDING, GORGE_WATCH_ENDED };

/* How far a subscription has caught up with what was published before it. */
enum gorge_sync_state {
  GORGE_SYNC_NONE,    /* not subscribed */
  GORGE_SYNC_DUE,     /* subscribed; the journal is to be read */
  GORGE_SYNC_READING, /* the journal has been asked */
  GORGE_SYNC_DONE     /* all that was published has taken effect */
};

struct gorge_lookout; /* control_sentinel.c */
struct gorge_watch;

/* How this thread follows one partition of a namespace. All of it: thread. */
struct gorge_follow {
  struct gorge_watch *watch;
  enum gorge_sync_state sync;
  struct gorge_l2_request journal; /* in flight while sync is GORGE_SYNC_READING */
  uint64_t asked_ms;               /* when `journal` was sent */
  uint64_t seen;                   /* highest version of a message since the journal became due */
  uint64_t seen_after;             /* what was told of after this version, up to `seen`, has been heard, all of it */
  uint64_t confirmed_ms;           /* all that Redis had committed by then has taken effect here; 0: it is not known */
  struct gorge_l2_request beat;    /* a heartbeat on its way */
  bool beating;                    /* beat is in flight */
  char beat_text[8];               /* what it says: when it was sent */
  uint64_t beat_ms;                /* the same */
  uint64_t taken_ms;               /* when the last one that Redis took was sent */
  uint64_t heard_ms;               /* when the last one that came back was sent */
  uint64_t loss;                   /* the last of the watch's losses that it was part of */
  uint64_t unheard_ms; /* when the first one was sent that Redis took, but that did not come back since; 0: none */
};

struct gorge_watch {
  struct gorge_control *control;    /* fixed */
  struct gorge_control_namespace n; /* fixed */
  enum gorge_watch_state state;     /* mutex */
  bool subscribed;                  /* atomic */
  /* thread: */
  struct gorge_subscriber *subscriber; /* not NULL: this thread holds the role */
  struct gorge_ev_link *subscriber_link;
  struct gorge_endpoint *place; /* in a cluster: where that leads to, */
  uint32_t place_turn;          /* and its number, see control_place.c */
  bool place_tried;             /* it has not been down all the time since it leads there */
  ev_timer subscriber_timer;
  struct gorge_l2 *l2; /* renews leases, reads the journal; made at the first need */
  struct gorge_ev_l2 *l2_link;
  uint64_t own;                         /* id of the channel of its heartbeats, anew with each subscriber */
  uint64_t beat_ms;                     /* between two heartbeats of a partition */
  uint64_t loss, loss_ms;               /* see gorge_contact_missed */
  bool replaying[GORGE_PARTITIONS + 1]; /* whether a queued invalidation is under way: of each partition, of all */
  ev_timer beat_timer;
  struct gorge_lookout *lookout;        /* asks the sentinels while the role is held */
  struct gorge_l2_request mail_request; /* of the mailbox, in flight while `mailing` */
  bool mailing;
  struct gorge_l2_tag mail_tag;
  struct gorge_mail mail;
  struct gorge_follow parts[]; /* n.partitions of them */
};

struct gorge_lease;

struct gorge_lease_slot {
  struct gorge_lease *lease; /* NULL: free */
  uint32_t generation;       /* of the ids of this slot, so that an old id finds nothing */
  uint32_t next_free;
};

struct gorge_leases {
  /* mutex: */
  struct gorge_lease_slot *slots;
  uint32_t size, free; /* free: index of the first free slot, `size` when there is none */
  uint64_t armed_ms;   /* the thread looks at the list then, UINT64_MAX: when it is told to */
  /* thread: */
  ev_timer timer;
};

struct gorge_peer {
  struct gorge_control *control;
  int fd; /* -1: free */
  ev_io readable;
};

struct gorge_doorbell {
  /* mutex: */
  int listener; /* -1: none */
  bool watched;
  char folder[96];
  char path[108];
  /* thread: */
  ev_io acceptable;
  uint32_t next_peer; /* to be replaced when all are in use */
  struct gorge_peer peers[GORGE_PEERS];
};

struct gorge_control {
  pid_t pid;                /* fixed; handles of another process are left alone */
  struct gorge_zone *zone;  /* fixed */
  uint32_t worker;          /* fixed */
  struct gorge_owner owner; /* fixed: of the control thread */
  pthread_t thread;         /* fixed */
  pthread_mutex_t mutex;
  pthread_cond_t changed; /* of `up` and of a watch's state */
  int command_fd;         /* fixed: an eventfd that wakes the thread for what the flags and lists say */
  int notify_fd;          /* fixed */
  int bell_fd;            /* atomic: -1 until somebody wants it */
  int wake_fd;            /* fixed */
  int up;                 /* mutex: GORGE_PENDING until the thread runs or has failed */
  bool poked;             /* atomic: command_fd has been written and not been read */
  bool ring;              /* atomic: the doorbell is to be rung */
  bool stopping;          /* atomic */
  struct ev_loop *loop;   /* thread */
  ev_io command, wake;    /* thread */
  ev_timer election;      /* thread */
  struct gorge_watch *watches[GORGE_WATCHES]; /* mutex */
  int watch_limit;                            /* atomic: handles given so far are below; it only grows */
  struct gorge_leases leases;
  struct gorge_doorbell doorbell;
};

/*
 * Any thread: makes the control thread look at its flags and lists. One system call, none when it is about to look
 * anyway.
 */
void gorge_control_poke(struct gorge_control *c);
/* Whether the handle is of this process; all public functions ask first. */
bool gorge_control_mine(const struct gorge_control *c);

/* Control thread: the watch of a handle if it is live, not about to begin or to end, else NULL. Good until this thread ends it. */
struct gorge_watch *gorge_watch_live(struct gorge_control *c, int handle);

/* All below: control thread only. `init` and `fini` also before it runs and after it has ended. */

void gorge_subscribe_init(struct gorge_control *c);
/* Carries out what watch and unwatch ask for. */
void gorge_subscribe_command(struct gorge_control *c);
/* Another worker has news: takes part at once in the elections of roles that nobody holds; the master may be another one. */
void gorge_subscribe_woken(struct gorge_control *c);
/* Ends all watches and drops their roles. */
void gorge_subscribe_fini(struct gorge_control *c);

/* The watch's connection for commands, made at the first need. Returns false when memory is short. */
bool gorge_lease_connect(struct gorge_watch *w);

/*
 * Where the subscriber connects to, control_place.c. Its endpoint, when there is a subscriber but no link yet (NULL: memory is short) /
 * now that the link has moved bytes / there is no link any more.
 */
struct gorge_endpoint *gorge_place_first(struct gorge_watch *w);
void gorge_place_look(struct gorge_watch *w);
void gorge_place_end(struct gorge_watch *w);
/* The node may be cut off from the others of its cluster: the subscription is given up there, and had elsewhere. Not inside hooks and completions. */
void gorge_place_leave(struct gorge_watch *w, const char *reason);

/* The journals behind the subscription, control_journal.c. The subscription is confirmed / lost. */
void gorge_journal_subscribed(struct gorge_watch *w, uint64_t now_ms);
void gorge_journal_lost(struct gorge_watch *w);
/* Redis cannot be reached: L1 is what there is. */
void gorge_journal_unreachable(struct gorge_watch *w, uint64_t now_ms);
/* What a heartbeat found behind, or ahead, or a message that another one was lost: the journal is to be read again. */
void gorge_journal_doubt(struct gorge_follow *f, uint64_t now_ms);
/* Several partitions: one cannot be asked. Contact is lost, until its journal has been read again. */
void gorge_journal_failed(struct gorge_follow *f, uint64_t now_ms);
/* Every invalidation of the partition up to this version has taken effect here. */
uint64_t gorge_journal_cursor(const struct gorge_follow *f);
/* Whether all partitions have been caught up with. */
bool gorge_journal_synced(const struct gorge_watch *w);
/* A message has taken effect. */
void gorge_journal_message(struct gorge_watch *w, const struct gorge_message *m, uint64_t now_ms);
/* Called now and then while the role is held: tries again what failed. */
void gorge_journal_tick(struct gorge_watch *w, uint64_t now_ms);
/* Contact with the other nodes, control_contact.c. The role has been taken / given up. */
void gorge_contact_init(struct gorge_watch *w);
void gorge_contact_begin(struct gorge_watch *w);
void gorge_contact_end(struct gorge_watch *w);
/* All that Redis had committed in the partition at that moment has taken effect here. */
void gorge_contact_confirm(struct gorge_follow *f, uint64_t at_ms);
/*
 * Messages may have been missed, in a partition (NULL: in any): L1 is forgotten. For people all that is found until each partition has been
 * confirmed again is one loss, unless a partition finds it twice.
 */
void gorge_contact_missed(struct gorge_watch *w, struct gorge_follow *f, uint64_t now_ms);
/* A heartbeat of this host has come back. */
void gorge_contact_echo(struct gorge_watch *w, const struct gorge_message *m, uint64_t now_ms);
/* Redis, or one of its partitions, cannot be reached. */
void gorge_contact_lost(struct gorge_watch *w, uint64_t now_ms);
/*
 * Several partitions: whether Redis takes heartbeats that do not come back, for longer than the freshness bound. The subscription's
 * connection may live, but its node does not hear the others: subscribe at another one.
 */
bool gorge_contact_deaf(const struct gorge_watch *w);

/* The sentinels, control_sentinel.c. The role has been taken (false: memory is short) / given up. */
bool gorge_lookout_begin(struct gorge_watch *w);
void gorge_lookout_end(struct gorge_watch *w);
/* The master may be another one: connections that lead to the old one are left, and others made at once. */
void gorge_lookout_follow(struct gorge_watch *w);

/* Carries out what waits for Redis, control_replay.c. Called now and then while the role is held / a partition has been caught up with. */
void gorge_replay_tick(struct gorge_watch *w, uint64_t now_ms);
void gorge_replay_partition(struct gorge_follow *f, uint64_t now_ms);

/* Carries out what is in the zone's mailbox, control_mail.c. Called at wake-ups and at every election. */
void gorge_control_mail(struct gorge_control *c);
/* The watch ends: what it has taken is not carried out any more. */
void gorge_control_mail_end(struct gorge_watch *w);

/* Whether the thread is about to end: hooks would only delay it. */
bool gorge_watch_stopping(const struct gorge_watch *w);
/* Publishes whether this process follows the namespace. */
void gorge_watch_set_subscribed(struct gorge_watch *w, bool subscribed);

void gorge_lease_init(struct gorge_control *c);
void gorge_lease_command(struct gorge_control *c);
/* Ends the renewals of a watch that ends, and its connection. */
void gorge_lease_unwatch(struct gorge_control *c, int handle, struct gorge_watch *w);
void gorge_lease_fini(struct gorge_control *c);

void gorge_doorbell_init(struct gorge_control *c);
void gorge_doorbell_command(struct gorge_control *c);
void gorge_doorbell_ring(struct gorge_control *c);
void gorge_doorbell_fini(struct gorge_control *c);

#endif
