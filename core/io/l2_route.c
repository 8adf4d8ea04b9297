/* SPDX-License-Identifier: MIT */
/*
 * A request on its way through a cluster.
 *
 *   MOVED        the map is corrected, the request begins anew at the node that has the slot
 *   ASK          this command goes to the other node, behind ASKING, for this once
 *   TRYAGAIN     a slot is being moved, and of the names of a command some are missing where it was asked. So it is until the slot has arrived
 *                for every script with a name that does not exist at all, such as that of a lease: after a while, again
 *   CLUSTERDOWN  the request fails; the map is asked for
 *   no map yet   the request waits for it
 *
 * What waits is parked in a list, until its deadline at most; what a caller waits for who has something better to do than that, for
 * less. Beginning anew is safe for all of them: a node that redirects has done nothing, and TRYAGAIN comes before anything is done.
 */
#include <hiredis/hiredis.h>
#include <stddef.h>
#include <string.h>

#include "io/l2_state.h"
#include "proto/redirect.h"

enum {
  REDIRECTS_MAX = 16,    /* of one request: a slot does not move that often while it is under way */
  RETRY_MS = 5,          /* after TRYAGAIN */
  RETRY_MAX_MS = 40,     /* it doubles until then */
  FETCH_PATIENCE_MS = 60 /* of a fetch: its loader is the better wait */
};

/* ---- parking ---- */

static void unpark(struct gorge_l2_request *rq) {
  struct gorge_l2 *l2 = rq->l2;
  if (!rq->state.parked) {
    return;
  }
  if (rq->state.prev != NULL) {
    rq->state.prev->state.next = rq->state.next;
  } else {
    l2->parked_first = rq->state.next;
  }
  if (rq->state.next != NULL) {
    rq->state.next->state.prev = rq->state.prev;
  } else {
    l2->parked_last = rq->state.prev;
  }
  rq->state.prev = rq->state.next = NULL;
  rq->state.parked = false;
  l2->parked--;
}

/* at_ms UINT64_MAX: until the map is known. Returns GORGE_OK or GORGE_ERR_FULL. */
static int park(struct gorge_l2_request *rq, uint64_t at_ms) {
  struct gorge_l2 *l2 = rq->l2;
  if (l2->parked >= l2->parked_max) {
    return GORGE_ERR_FULL;
  }
  rq->state.retry_ms = at_ms;
  rq->state.parked = true;
  rq->state.prev = l2->parked_last;
  rq->state.next = NULL;
  if (l2->parked_last != NULL) {
    l2->parked_last->state.next = rq;
  } else {
    l2->parked_first = rq;
  }
  l2->parked_last = rq;
  l2->parked++;
  return GORGE_OK;
}

void gorge_l2_route_forget(struct gorge_l2_request *rq) {
  unpark(rq);
  for (int i = 0; i < GORGE_L2_COMMANDS; i++) {
    struct gorge_l2_node *node = rq->state.node[i];
    if (node != NULL) {
      gorge_conn_cancel(node->conn, &rq->command[i]);
    }
  }
}

/* ---- where to ---- */

int gorge_l2_route_begin(struct gorge_l2_request *rq, uint64_t now_ms) {
  struct gorge_l2 *l2 = rq->l2;
  if (gorge_l2_map_node(l2, rq->state.partition) != NULL) {
    return gorge_l2_begin(rq, now_ms);
  }
  if (!l2->map.known && !l2->map.hopeless) {
    return park(rq, UINT64_MAX);
  }
  gorge_l2_map_doubt(l2, NULL, now_ms);
  return GORGE_ERR_DOWN;
}

struct gorge_l2_node *gorge_l2_route_node(struct gorge_l2_request *rq) {
  return rq->state.ask != NULL ? rq->state.ask : gorge_l2_map_node(rq->l2, rq->state.partition);
}

/* ASKING holds for the next command of its connection. */
static int submit_asking(struct gorge_l2_request *rq, struct gorge_l2_node *node, uint64_t now_ms) {
  static const char *const argv[] = {"ASKING"};
  static const size_t argv_len[] = {6};
  struct gorge_command *cmd = &rq->command[GORGE_L2_ASKING];
  cmd->deadline_ms = rq->command[0].deadline_ms;
  rq->state.node[GORGE_L2_ASKING] = node;
  return gorge_conn_submit(node->conn, cmd, 1, argv, argv_len, now_ms);
}

int gorge_l2_route_submit(struct gorge_l2_request *rq, int index, uint64_t now_ms) {
  struct gorge_l2 *l2 = rq->l2;
  struct gorge_l2_node *node = gorge_l2_route_node(rq);
  struct gorge_command *cmd = &rq->command[index];
  bool asks = rq->state.ask != NULL;
  rq->state.ask = NULL;
  if (index != 0) {
    cmd->deadline_ms = rq->command[0].deadline_ms;
  }
  gorge_l2_node_clock(node, now_ms);
  node->used_ms = now_ms;
  int status = asks ? submit_asking(rq, node, now_ms) : GORGE_OK;
  if (status == GORGE_OK) {
    rq->state.node[index] = node;
    status = gorge_conn_submit(node->conn, cmd, l2->argc, l2->argv, l2->argv_len, now_ms);
  }
  if (status == GORGE_ERR_DOWN) {
    gorge_l2_map_doubt(l2, node, now_ms);
  }
  return status;
}

/* ---- what a node said ---- */

/* Everything from the beginning. */
static void begin_anew(struct gorge_l2_request *rq, uint64_t now_ms) {
  gorge_l2_route_forget(rq);
  gorge_l2_drop_kept(rq);
  rq->state.eval = false;
  rq->state.ask = NULL;
  gorge_l2_proceed(rq, gorge_l2_route_begin(rq, now_ms), now_ms);
}

/* The node that a redirection names. */
static struct gorge_l2_node *named(struct gorge_l2_request *rq, const struct gorge_redirect *r, int index) {
  struct gorge_place place;
  const char *host = r->place.host;
  bool good = gorge_l2_map_named(rq->state.node[index], host, strlen(host), r->place.port, &place);
  return good ? gorge_l2_map_place(rq->l2, &place) : NULL;
}

static bool is_fetch(const struct gorge_l2_request *rq) {
  return rq->verb == GORGE_L2_LOOKUP || rq->verb == GORGE_L2_LEASE || rq->verb == GORGE_L2_FILL;
}

/* Returns false when it has waited for long enough. */
static bool try_again(struct gorge_l2_request *rq, uint64_t now_ms) {
  uint64_t delay_ms = RETRY_MS << (rq->state.retries < 3 ? rq->state.retries : 3);
  rq->state.retries++;
  rq->state.waits_since_ms = rq->state.waits_since_ms != 0 ? rq->state.waits_since_ms : now_ms;
  bool weary = is_fetch(rq) && now_ms + delay_ms > rq->state.waits_since_ms + FETCH_PATIENCE_MS;
  if (weary || now_ms + delay_ms >= rq->command[0].deadline_ms) {
    return false;
  }
  gorge_l2_route_forget(rq);
  gorge_l2_drop_kept(rq);
  return park(rq, now_ms + (delay_ms < RETRY_MAX_MS ? delay_ms : RETRY_MAX_MS)) == GORGE_OK;
}

/* One command of a look-up was redirected for this once. The other one's answer is of no use before this one's. */
static void ask_elsewhere(struct gorge_l2_request *rq, int index, struct gorge_l2_node *node, uint64_t now_ms) {
  rq->state.ask = node;
  if (rq->verb == GORGE_L2_EXPLAIN) {
    if (index == 0 && rq->state.node[1] != NULL) {
      gorge_conn_cancel(rq->state.node[1]->conn, &rq->command[1]);
    }
    gorge_l2_proceed(rq, gorge_l2_resend_explain(rq, index, now_ms), now_ms);
  } else if (index == 1) {
    gorge_l2_proceed(rq, gorge_l2_resend_nonces(rq, now_ms), now_ms);
  } else if (rq->state.step == GORGE_L2_STEP_VALUE) {
    gorge_conn_cancel(rq->state.node[1] != NULL ? rq->state.node[1]->conn : node->conn, &rq->command[1]);
    rq->state.nonces_due = true;
    gorge_l2_proceed(rq, gorge_l2_submit_get(rq, now_ms), now_ms);
  } else {
    gorge_l2_proceed(rq, gorge_l2_submit_script(rq, now_ms), now_ms);
  }
}

bool gorge_l2_route_redirect(struct gorge_l2_request *rq, int index, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_l2 *l2 = rq->l2;
  struct gorge_redirect r;
  if (!l2->map.follows || !gorge_redirect_parse(&r, reply->str, reply->len)) {
    return false;
  }
  if (r.kind == GORGE_REDIRECT_DOWN) {
    gorge_l2_map_doubt(l2, rq->state.node[index], now_ms);
    return false;
  }
  if (r.kind == GORGE_REDIRECT_TRYAGAIN) {
    l2->tried_again++;
    return try_again(rq, now_ms);
  }
  struct gorge_l2_node *node = ++rq->state.redirects <= REDIRECTS_MAX ? named(rq, &r, index) : NULL;
  if (node == NULL || r.slot != l2->map.slot_of[rq->state.partition]) {
    gorge_l2_map_doubt(l2, NULL, now_ms);
    return false;
  }
  if (r.kind == GORGE_REDIRECT_ASK) {
    l2->asked++;
    ask_elsewhere(rq, index, node, now_ms);
  } else {
    l2->moved++;
    gorge_l2_map_moved(l2, r.slot, node);
    gorge_l2_map_doubt(l2, NULL, now_ms); /* where one slot has gone, others have */
    begin_anew(rq, now_ms);
  }
  return true;
}

void gorge_l2_route_lost(struct gorge_l2_request *rq, int index, uint64_t now_ms) {
  gorge_l2_map_doubt(rq->l2, rq->state.node[index], now_ms);
}

/* ---- time ---- */

/* How a request ends that has waited in vain. */
static void give_up(struct gorge_l2_request *rq, uint64_t now_ms) {
  bool moving = rq->state.retry_ms != UINT64_MAX;
  const char *trouble = rq->l2->map.trouble;
  if (moving) {
    gorge_l2_finish_moving(rq, "TRYAGAIN: the slot is being moved", now_ms);
  } else {
    gorge_l2_finish_status(rq, GORGE_ERR_DOWN, 0, trouble != NULL ? trouble : "the cluster does not answer", now_ms);
  }
}

/*
 * The next parked request that is to be looked at, of those that were parked before `end`: what it does may change the list in any way, so
 * that the search begins at the front again.
 */
static struct gorge_l2_request *next_due(struct gorge_l2 *l2, uint64_t now_ms) {
  bool told = l2->map.known || l2->map.hopeless;
  for (struct gorge_l2_request *rq = l2->parked_first; rq != NULL; rq = rq->state.next) {
    bool due = rq->state.retry_ms == UINT64_MAX ? told || gorge_l2_map_node(l2, rq->state.partition) != NULL
                                                : now_ms >= rq->state.retry_ms;
    if (due || now_ms >= rq->command[0].deadline_ms) {
      return rq;
    }
  }
  return NULL;
}

void gorge_l2_route_mapped(struct gorge_l2 *l2, uint64_t now_ms) {
  struct gorge_l2_request *rq;
  for (uint32_t left = l2->parked; left > 0 && (rq = next_due(l2, now_ms)) != NULL; left--) {
    unpark(rq);
    if (now_ms >= rq->command[0].deadline_ms ||
        (rq->state.retry_ms == UINT64_MAX && gorge_l2_map_node(l2, rq->state.partition) == NULL)) {
      give_up(rq, now_ms);
    } else {
      gorge_l2_proceed(rq, gorge_l2_route_begin(rq, now_ms), now_ms);
    }
  }
}

void gorge_l2_route_close(struct gorge_l2 *l2) {
  while (l2->parked_first != NULL) {
    struct gorge_l2_request *rq = l2->parked_first;
    unpark(rq);
    gorge_l2_finish_status(rq, GORGE_ERR_CLOSED, 0, NULL, 0);
  }
}

void gorge_l2_tick(struct gorge_l2 *l2, uint64_t now_ms) {
  if (l2->map.follows) {
    gorge_l2_map_tick(l2, now_ms);
    gorge_l2_route_mapped(l2, now_ms);
  }
}

uint64_t gorge_l2_next_ms(const struct gorge_l2 *l2) {
  uint64_t next_ms = gorge_l2_map_next_ms(l2);
  for (const struct gorge_l2_request *rq = l2->parked_first; rq != NULL; rq = rq->state.next) {
    uint64_t at_ms = rq->state.retry_ms < rq->command[0].deadline_ms ? rq->state.retry_ms : rq->command[0].deadline_ms;
    next_ms = at_ms < next_ms ? at_ms : next_ms;
  }
  return next_ms;
}

uint32_t gorge_l2_parked(const struct gorge_l2 *l2) { return l2->parked; }
