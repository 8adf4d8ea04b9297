/* SPDX-License-Identifier: MIT */
/*
 * The control thread: one per process and zone, on a libev loop of its own. It does what must go on while a handler
 * keeps the main thread busy: takes wake-ups of other workers and rings the main thread's doorbell, runs the
 * subscriber of each namespace that this host has elected it for, renews leases (in the host and in Redis), holds
 * its own life-lock.
 *
 * All signals but the synchronous ones are blocked in it; every descriptor is close-on-exec. It never touches what
 * belongs to the main thread: it works on shared memory, on its own connections, and on lists guarded by a mutex
 * that is held for a few instructions.
 *
 * After a fork the child has no control thread: gorge_control_start makes a new one there. Handles of the parent
 * are left alone in the child: every function here does nothing with them and returns GORGE_ERR_CLOSED, false or 0.
 *
 * Unless told otherwise a function may be called by any thread but the control thread (hooks), and does not block.
 */
#ifndef GORGE_DRIVE_CONTROL_H
#define GORGE_DRIVE_CONTROL_H

#include "drive/place.h"
#include "flight/flight.h"
#include "io/subscriber.h"
#include "sync/mailbox.h"

struct gorge_control;

enum { GORGE_SENTINELS_MAX = 16 };

/* Who tells where the master is. Strings and all must outlive the watch. */
struct gorge_sentinels {
  const char *master; /* its name */
  uint32_t count;
  struct {
    const char *host; /* a name, or a number */
    uint16_t port;
  } list[GORGE_SENTINELS_MAX];
  struct gorge_conn_config conn;
};

/*
 * Starts the thread for this process, whose worker slot must be claimed already (main_owner), and waits until it
 * has claimed its own role and opened its wake-up socket. Returns NULL and *status on failure: GORGE_ERR_MEMORY,
 * GORGE_ERR_SYSTEM (no thread, no descriptor), or what gorge_owner_claim returned.
 */
struct gorge_control *gorge_control_start(struct gorge_zone *zone, const struct gorge_owner *main_owner, int *status);
/*
 * Ends all watches, drops roles, frees everything; the handle is gone. Blocks until the thread has ended: for one
 * step of its work, far below 100 ms, whatever Redis does. NULL is allowed. Nobody may be in another call on the
 * handle.
 */
void gorge_control_stop(struct gorge_control *control);

/*
 * Doorbell. notify_fd: an eventfd (non-blocking) that becomes readable when something in shared memory may concern this
 * process's waiters. Owned by the control.
 *
 * For event loops that can only connect (cosockets): doorbell_path makes a listening unix socket, mode 0600, in a
 * private folder of its own under `dir` (NULL: TMPDIR if it is set and will do, else /tmp), and writes its path (at
 * most 108 bytes with the NUL). Each connected peer gets a byte per ring, and one to begin with; a peer that is
 * slow to read gets fewer, never none. File and folder are removed once a peer has connected, and at stop. A lost
 * peer may connect again after asking for the path anew; asking again before a peer has connected gives the same
 * path. Returns GORGE_OK, GORGE_ERR_SYSTEM (no such folder to be made: errno tells) or GORGE_ERR_ARGUMENT (`size`
 * too small).
 */
int gorge_control_notify_fd(struct gorge_control *control);
/* Another eventfd, for a loop that shares its rings with nobody; made at the first call. Or GORGE_ERR_SYSTEM. Main thread. */
int gorge_control_bell_fd(struct gorge_control *control);
int gorge_control_doorbell_path(struct gorge_control *control, const char *dir, char *path, size_t size);
/* Rings this process's own doorbell. Also from hooks: many rings in one turn of the loop are one. */
void gorge_control_ring(struct gorge_control *control);
/* The unix datagram descriptor for gorge_wake_send. Owned by the control. */
int gorge_control_wake_fd(struct gorge_control *control);

/*
 * A namespace with Redis: the thread takes part in the election of its subscriber (sync/role.h; lease 2 s, renewed
 * every 500 ms; the first time at once) and, when elected, subscribes, reads in the journal what was published
 * before, and calls the hooks (in the control thread, with its owner for use with l1):
 *   message  one message, heard or read; may come twice
 *   resync   messages were missed that the journal does not have (any more): nothing from before now can be trusted. Each partition of a
 *            namespace finds that out for itself; `first` once for all that one loss means
 * Neither may block, or call watch, unwatch or stop.
 */
struct gorge_control_namespace {
  uint32_t ns;
  char name[GORGE_NAME_MAX + 1];
  uint32_t name_len;
  uint32_t partitions;             /* 1 or GORGE_PARTITIONS */
  struct gorge_endpoint *endpoint; /* must outlive the watch; NULL: a cluster, */
  const struct gorge_seeds *seeds; /* of which these are some nodes; they must outlive it, too */
  struct gorge_conn_config redis;  /* strings must outlive the watch */
  /* Not NULL: endpoint is that of the namespace's master words, which the holder of the role keeps up to date (control_sentinel.c) */
  const struct gorge_sentinels *sentinels;
  uint64_t freshness_bound_ms; /* see drive/control_contact.c; not 0 */
  uint64_t disconnected_ttl_ms;
  void *ctx;
  void (*resync)(void *ctx, const struct gorge_owner *control_owner, bool first, uint64_t now_ms);
  void (*message)(void *ctx, const struct gorge_owner *control_owner, const struct gorge_message *m, uint64_t now_ms);
  /*
   * What somebody asks for through the mailbox (sync/mailbox.h): this host forgets it, before Redis is told (GORGE_PENDING) and
   * again afterwards (GORGE_OK, or why Redis was not told, which is to be queued). version: that of Redis, of a
   * key; 0: none. NULL: nothing is taken.
   */
  void (*forget)(void *ctx, const struct gorge_owner *control_owner, const struct gorge_mail *mail, int status,
                 uint64_t version, uint64_t now_ms);
  const uint64_t *epochs; /* the host's words, see gorge_l2_share_epoch; NULL: none are shared */
  void (*learned)(void *ctx, uint32_t partition, uint64_t seen, uint64_t epoch);
};
/* Adds a namespace (copied). Returns a handle >= 0, GORGE_ERR_FULL (64 of them) or GORGE_ERR_MEMORY. */
int gorge_control_watch(struct gorge_control *control, const struct gorge_control_namespace *n);
/*
 * Ends a watch, with its leases. Returns when no hook of it runs or will run any more: blocks for one step of the
 * thread's work. Once per handle.
 */
void gorge_control_unwatch(struct gorge_control *control, int handle);
/*
 * Before anything is stored in a namespace with Redis: until a holder of its subscriber role has found out whether there is contact, what is
 * stored lives in L1 as long as it would without.
 */
void gorge_control_bound(const struct gorge_zone *zone, uint32_t ns, uint64_t disconnected_ttl_ms);
/*
 * How many milliseconds ago Redis last confirmed that this host had missed nothing; UINT64_MAX: never. *held: whether that contact
 * still stands.
 */
uint64_t gorge_control_lag(const struct gorge_zone *zone, uint32_t ns, uint64_t now_ms, bool *held);
/* Whether this process holds the namespace's subscription now and has caught up with what was published before it. */
bool gorge_control_subscribed(struct gorge_control *control, int handle);

/*
 * Lease list: fills that this process runs. The thread renews the flight every third of lease_ms (not more often
 * than every 5 ms) until it is no longer ours or its cap is reached; then the lease leaves the list. With l2_token
 * != 0 it also renews the lease in Redis (on a connection of the watch `handle`, made at the first need), until
 * Redis refuses. handle is needed for that only; -1: none. The key is copied. Returns an id, or 0 when out of
 * memory (then nothing is renewed).
 */
uint64_t gorge_control_lease_add(struct gorge_control *control, int handle, const struct gorge_flight_ref *flight,
                                 const char *key, uint32_t key_len, uint64_t l2_token, uint64_t lease_ms);
/*
 * Ends the renewals. Cheap and idempotent; id 0 and ids that are gone are allowed. One that runs just now may still
 * happen.
 */
void gorge_control_lease_remove(struct gorge_control *control, uint64_t id);

#endif
