/* SPDX-License-Identifier: MIT */
#include "io/l2_map.h"

#include <hiredis/hiredis.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "io/l2_state.h"

enum { BACKOFF_BASE_MS = 50, BACKOFF_CAP_MS = 2000, CALM_MS = 5000, REST_MS = 5000 };

/* ---- nodes ---- */

/* A node that nobody needs, to be led to another place; or a new one. */
static struct gorge_l2_node *take_node(struct gorge_l2 *l2) {
  if (l2->node_count < GORGE_NODES_MAX) {
    struct gorge_l2_node *node = gorge_l2_node_create(l2, l2->node_count, &l2->config);
    if (node != NULL) {
      l2->nodes[l2->node_count++] = node;
    }
    return node;
  }
  for (uint32_t i = 0; i < l2->node_count; i++) {
    struct gorge_l2_node *node = l2->nodes[i];
    if (!node->listed && !node->seed && gorge_conn_state(node->conn) == GORGE_CONN_DOWN &&
        gorge_conn_pending(node->conn) == 0) {
      return node;
    }
  }
  return NULL;
}

struct gorge_l2_node *gorge_l2_map_place(struct gorge_l2 *l2, const struct gorge_place *place) {
  for (uint32_t i = 0; i < l2->node_count; i++) {
    if (gorge_place_equal(&l2->nodes[i]->place, place)) {
      return l2->nodes[i];
    }
  }
  struct gorge_l2_node *node = take_node(l2);
  if (node == NULL || gorge_conn_lead(node->conn, place->host) != GORGE_OK) {
    return NULL;
  }
  node->place = *place;
  node->used_ms = 0;
  node->changes++;
  return node;
}

bool gorge_l2_map_named(const struct gorge_l2_node *node, const char *host, size_t len, int64_t port,
                        struct gorge_place *place) {
  const char *own = node->place.host;
  return gorge_place_init(place, len > 0 ? host : own, len > 0 ? len : strlen(own), port);
}

struct gorge_l2_node *gorge_l2_map_node(const struct gorge_l2 *l2, uint32_t partition) {
  if (!l2->map.follows) {
    return l2->nodes[0];
  }
  uint8_t index = l2->map.node_of[partition];
  return index == GORGE_L2_NODE_NONE ? NULL : l2->nodes[index];
}

/* ---- what is known ---- */

/* Which nodes have partitions: the others are not needed. */
static void list_nodes(struct gorge_l2 *l2) {
  for (uint32_t i = 0; i < l2->node_count; i++) {
    l2->nodes[i]->listed = false;
  }
  for (uint32_t p = 0; p < l2->partition_count; p++) {
    struct gorge_l2_node *node = gorge_l2_map_node(l2, p);
    if (node != NULL) {
      node->listed = true;
    }
  }
}

/* Returns whether that is news. */
static bool assign(struct gorge_l2 *l2, uint32_t first, uint32_t last, const struct gorge_l2_node *node) {
  struct gorge_l2_map *map = &l2->map;
  bool news = false;
  for (uint32_t p = 0; p < l2->partition_count; p++) {
    if (map->slot_of[p] >= first && map->slot_of[p] <= last && map->node_of[p] != node->index) {
      map->node_of[p] = (uint8_t)node->index;
      map->changes++;
      news = true;
    }
  }
  return news;
}

void gorge_l2_map_moved(struct gorge_l2 *l2, uint32_t slot, struct gorge_l2_node *node) {
  if (assign(l2, slot, slot, node)) {
    list_nodes(l2);
  }
}

/* The partitions in a range of slots, as bits: none in most of the ranges of a large cluster. */
static uint64_t partitions_in(const struct gorge_l2 *l2, uint32_t first, uint32_t last) {
  uint64_t set = 0;
  for (uint32_t p = 0; p < l2->partition_count; p++) {
    bool in = l2->map.slot_of[p] >= first && l2->map.slot_of[p] <= last;
    set |= (uint64_t)in << p;
  }
  return set;
}

/* What an answer to CLUSTER SLOTS told. */
struct told {
  uint64_t partitions; /* of which it said where they are, as bits */
  bool news;
};

static bool integer_of(const struct redisReply *reply, int64_t least, int64_t most, int64_t *value) {
  *value = reply->type == REDIS_REPLY_INTEGER ? reply->integer : -1;
  return *value >= least && *value <= most;
}

/*
 * One range: first slot, last slot, master (host, port, ...), replicas. A master without host is at that of the node that was asked.
 * Returns false when it is malformed.
 */
static bool take_range(struct gorge_l2 *l2, const struct redisReply *range, struct told *told) {
  int64_t first, last, port;
  if (range->type != REDIS_REPLY_ARRAY || range->elements < 3 ||
      !integer_of(range->element[0], 0, GORGE_SLOTS - 1, &first) ||
      !integer_of(range->element[1], first, GORGE_SLOTS - 1, &last) || range->element[2]->type != REDIS_REPLY_ARRAY ||
      range->element[2]->elements < 2 || !integer_of(range->element[2]->element[1], 0, UINT16_MAX, &port)) {
    return false;
  }
  uint64_t partitions = partitions_in(l2, (uint32_t)first, (uint32_t)last);
  if (partitions == 0) {
    return true;
  }
  const struct redisReply *host = range->element[2]->element[0];
  struct gorge_place place;
  bool none = host->type == REDIS_REPLY_NIL;
  if ((!none && host->type != REDIS_REPLY_STRING) ||
      !gorge_l2_map_named(l2->map.asked, none ? "" : host->str, none ? 0 : host->len, port, &place)) {
    return false; /* "?": the node does not know itself yet */
  }
  struct gorge_l2_node *node = gorge_l2_map_place(l2, &place);
  if (node != NULL) { /* else its partitions stay where they were */
    node->listed = true;
    told->news = assign(l2, (uint32_t)first, (uint32_t)last, node) || told->news;
    told->partitions |= partitions;
  }
  return true;
}

/* Why there is no map, said by a server: fit to be printed. */
static void note_error(struct gorge_l2_map *map, const char *text, size_t len) {
  char place[GORGE_PLACE_TEXT];
  gorge_place_text(&map->asked->place, place);
  size_t at = (size_t)snprintf(map->error, sizeof map->error, "%s: ", place);
  for (size_t i = 0; i < len && at < sizeof map->error - 1; i++) {
    unsigned char byte = (unsigned char)text[i];
    map->error[at++] = byte >= 0x20 && byte < 0x7f ? (char)byte : '?';
  }
  map->error[at] = '\0';
  map->trouble = map->error;
}

static bool take_slots(struct gorge_l2 *l2, const struct redisReply *reply, struct told *told) {
  if (reply->type == REDIS_REPLY_ERROR) {
    note_error(&l2->map, reply->str, reply->len);
    return false;
  }
  if (reply->type != REDIS_REPLY_ARRAY) {
    l2->map.trouble = "malformed answer to CLUSTER SLOTS";
    return false;
  }
  bool good = true;
  for (size_t i = 0; i < reply->elements; i++) {
    good = take_range(l2, reply->element[i], told) && good;
  }
  list_nodes(l2);
  if (!good) {
    l2->map.trouble = "malformed answer to CLUSTER SLOTS";
  }
  return good;
}

/* ---- asking ---- */

static bool may_be_asked(const struct gorge_l2_node *node) { return node->listed || node->seed; }

static void forget_who_was_asked(struct gorge_l2 *l2) {
  for (uint32_t i = 0; i < l2->node_count; i++) {
    l2->nodes[i]->in_vain = false;
  }
}

/* None has told, or none is left that could be asked: after a while all of them are asked again. */
static void all_in_vain(struct gorge_l2 *l2, uint64_t now_ms) {
  forget_who_was_asked(l2);
  l2->map.hopeless = true;
  l2->map.next_ms = now_ms + gorge_backoff_next_ms(&l2->map.backoff);
}

/* The next one is asked at once. Returns false when there is none. */
static bool failed(struct gorge_l2 *l2, uint64_t now_ms) {
  struct gorge_l2_map *map = &l2->map;
  map->asked->in_vain = true;
  map->next_ms = now_ms;
  for (uint32_t i = 0; i < l2->node_count; i++) {
    if (may_be_asked(l2->nodes[i]) && !l2->nodes[i]->in_vain) {
      return true;
    }
  }
  all_in_vain(l2, now_ms);
  return false;
}

static void known(struct gorge_l2 *l2, bool news, uint64_t now_ms) {
  struct gorge_l2_map *map = &l2->map;
  map->known = true;
  map->doubted = map->hopeless = false;
  forget_who_was_asked(l2);
  if (news) {
    gorge_backoff_reset(&map->backoff);
  }
  map->next_ms = now_ms + gorge_backoff_next_ms(&map->backoff);
}

static bool tells_all(const struct gorge_l2 *l2, const struct told *told) {
  for (uint32_t p = 0; p < l2->partition_count; p++) {
    if ((told->partitions >> p & 1) == 0) {
      return false;
    }
  }
  return true;
}

static void on_slots(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_l2_map *map = (void *)((char *)cmd - offsetof(struct gorge_l2_map, command));
  struct gorge_l2 *l2 = map->asked->l2;
  struct told told = {0};
  map->asking = false;
  if (status == GORGE_ERR_CLOSED) {
    return;
  }
  if (status != GORGE_OK) {
    const char *reason = gorge_conn_reason(map->asked->conn);
    reason = *reason != '\0' ? reason : gorge_status_text(status);
    note_error(map, reason, strlen(reason));
    (void)failed(l2, now_ms);
  } else if (!take_slots(l2, reply, &told)) {
    (void)failed(l2, now_ms);
  } else if (tells_all(l2, &told)) {
    map->trouble = NULL;
    known(l2, told.news, now_ms);
  } else {
    /* A node that has left the cluster, or not joined it yet, knows of none. When all say so, there is none. */
    map->trouble = "there are slots that no node has";
    if (!failed(l2, now_ms)) {
      known(l2, told.news, now_ms);
    }
  }
  gorge_l2_route_mapped(l2, now_ms);
}

/* Returns whether the node takes the question. */
static bool put(struct gorge_l2 *l2, struct gorge_l2_node *node, uint64_t now_ms) {
  static const char *const argv[] = {"CLUSTER", "SLOTS"};
  static const size_t argv_len[] = {7, 5};
  struct gorge_l2_map *map = &l2->map;
  map->command.deadline_ms = 0;
  if (gorge_conn_submit(node->conn, &map->command, 2, argv, argv_len, now_ms) != GORGE_OK) {
    return false;
  }
  node->used_ms = now_ms;
  map->asked = node;
  map->asking = true;
  return true;
}

/* Connected nodes first, then those that would have to connect, `last` at the end; each in turn, and none that was asked in vain. */
static void ask(struct gorge_l2 *l2, const struct gorge_l2_node *last, uint64_t now_ms) {
  struct gorge_l2_map *map = &l2->map;
  map->asked_ms = now_ms;
  for (int round = 0; round < 3 && !map->asking; round++) {
    for (uint32_t i = 0; i < l2->node_count && !map->asking; i++) {
      struct gorge_l2_node *node = l2->nodes[(map->turn + i) % l2->node_count];
      bool ready = gorge_conn_state(node->conn) == GORGE_CONN_READY;
      bool its_turn = round == 0 ? ready && node != last : round == 1 ? !ready && node != last : node == last;
      if (its_turn && may_be_asked(node) && !node->in_vain && put(l2, node, now_ms)) {
        map->turn = node->index + 1;
      }
    }
  }
  if (!map->asking) {
    map->trouble = map->trouble != NULL ? map->trouble : "no node can be reached";
    all_in_vain(l2, now_ms);
    gorge_l2_route_mapped(l2, now_ms);
  }
}

void gorge_l2_map_doubt(struct gorge_l2 *l2, const struct gorge_l2_node *node, uint64_t now_ms) {
  struct gorge_l2_map *map = &l2->map;
  if (!map->follows || l2->closed) {
    return;
  }
  if (now_ms >= map->asked_ms + CALM_MS) {
    gorge_backoff_reset(&map->backoff);
  }
  map->doubted = true;
  map->last = node;
}

void gorge_l2_suspect(struct gorge_l2 *l2, uint32_t node, uint64_t now_ms) {
  if (node < l2->node_count) {
    gorge_l2_map_doubt(l2, l2->nodes[node], now_ms);
  }
}

/* ---- time ---- */

/* When the connection to a node that has no partition is given up; a slot that moves there may be asked for until then. */
static uint64_t rest_ms(const struct gorge_l2 *l2, const struct gorge_l2_node *node) {
  bool needed =
      node->listed || !l2->map.known || (l2->map.asking && l2->map.asked == node) || gorge_conn_pending(node->conn) > 0;
  if (needed || (gorge_conn_state(node->conn) == GORGE_CONN_DOWN && !gorge_conn_stirred(node->conn))) {
    return UINT64_MAX;
  }
  return node->used_ms + REST_MS;
}

void gorge_l2_map_tick(struct gorge_l2 *l2, uint64_t now_ms) {
  struct gorge_l2_map *map = &l2->map;
  if (map->doubted && !map->asking && now_ms >= map->next_ms) {
    ask(l2, map->last, now_ms);
  }
  for (uint32_t i = 0; i < l2->node_count; i++) {
    if (now_ms >= rest_ms(l2, l2->nodes[i])) {
      gorge_conn_release(l2->nodes[i]->conn);
    }
  }
}

uint64_t gorge_l2_map_next_ms(const struct gorge_l2 *l2) {
  uint64_t next_ms = l2->map.doubted && !l2->map.asking ? l2->map.next_ms : UINT64_MAX;
  for (uint32_t i = 0; i < l2->node_count; i++) {
    uint64_t at_ms = rest_ms(l2, l2->nodes[i]);
    next_ms = at_ms < next_ms ? at_ms : next_ms;
  }
  return next_ms;
}

int gorge_l2_map_init(struct gorge_l2 *l2, const struct gorge_place *seeds, uint32_t count) {
  struct gorge_l2_map *map = &l2->map;
  if (count < 1 || count > GORGE_SEEDS_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  memset(map->node_of, GORGE_L2_NODE_NONE, sizeof map->node_of);
  for (uint32_t p = 0; p < l2->partition_count; p++) {
    map->slot_of[p] = (uint16_t)gorge_names_slot(&l2->names, p);
  }
  map->follows = map->doubted = true;
  map->command.done = on_slots;
  gorge_backoff_init(&map->backoff, BACKOFF_BASE_MS, BACKOFF_CAP_MS, l2->config.seed);
  /* the node that was made for a single Redis becomes that of the first seed */
  for (uint32_t i = 0; i < count; i++) {
    struct gorge_l2_node *node = i == 0 ? l2->nodes[0] : gorge_l2_map_place(l2, &seeds[i]);
    if (node == NULL || gorge_conn_lead(node->conn, seeds[i].host) != GORGE_OK) {
      return GORGE_ERR_MEMORY;
    }
    node->place = seeds[i];
    node->seed = true;
  }
  return GORGE_OK;
}
