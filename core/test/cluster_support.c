/* SPDX-License-Identifier: MIT */
#include "test/cluster_support.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SLOTS = 16384, NODES_TEXT = 4096 };

/* Whether a node answers a command with a status or a number. */
static bool tell(const struct support_redis *r, const char *command) {
  char answer[64];
  return support_redis_command(r, command, answer, sizeof answer) && (answer[0] == '+' || answer[0] == ':');
}

static bool keep_ports(struct support_cluster *c, int i) {
  for (int k = 0; k < 2; k++) {
    if (!port_keep(&c->kept[i][k])) {
      return false;
    }
    snprintf(c->text[i][k], sizeof c->text[i][k], "%u", c->kept[i][k].number);
  }
  c->port[i] = c->kept[i][0].number;
  return true;
}

static bool ask_id(struct support_cluster *c, int i) {
  char answer[96];
  bool good =
      support_redis_command(&c->node[i], "CLUSTER MYID", answer, sizeof answer) && strncmp(answer, "$40\r\n", 5) == 0;
  snprintf(c->id[i], sizeof c->id[i], "%.40s", answer + 5);
  return good;
}

static bool start_node(struct support_cluster *c, int i) {
  const char *options[] = {"--bind",
                           "127.0.0.1",
                           "--port",
                           c->text[i][0],
                           "--cluster-enabled",
                           "yes",
                           "--cluster-port",
                           c->text[i][1],
                           "--cluster-node-timeout",
                           "30000", /* none is lost that merely stands still for a while */
                           "--cluster-require-full-coverage",
                           "no"};
  memcpy(c->options[i], options, sizeof options);
  c->node[i].options = c->options[i];
  char slots[64], epoch[64];
  snprintf(slots, sizeof slots, "CLUSTER ADDSLOTSRANGE %d %d", SLOTS * i / CLUSTER_NODES,
           SLOTS * (i + 1) / CLUSTER_NODES - 1);
  snprintf(epoch, sizeof epoch, "CLUSTER SET-CONFIG-EPOCH %d", i + 1);
  return support_redis_start(&c->node[i]) && tell(&c->node[i], epoch) && tell(&c->node[i], slots) && ask_id(c, i);
}

static bool says(const struct support_redis *r, const char *command, const char *text) {
  char answer[NODES_TEXT];
  return support_redis_command(r, command, answer, sizeof answer) && strstr(answer, text) != NULL;
}

bool support_cluster_is_well(struct support_cluster *c) {
  char known[32];
  snprintf(known, sizeof known, "cluster_known_nodes:%d", CLUSTER_NODES);
  for (int i = 0; i < CLUSTER_NODES; i++) {
    const struct support_redis *r = &c->node[i];
    if (!says(r, "CLUSTER INFO", "cluster_state:ok") || !says(r, "CLUSTER INFO", known) ||
        !says(r, "CLUSTER INFO", "cluster_slots_ok:16384") || says(r, "CLUSTER NODES", "handshake")) {
      return false;
    }
  }
  return true;
}

/* Each of two: gossip would do it, too, some seconds later. */
static bool introduce(const struct support_cluster *c, int i, int to) {
  char meet[64];
  snprintf(meet, sizeof meet, "CLUSTER MEET 127.0.0.1 %s %s", c->text[to][0], c->text[to][1]);
  return tell(&c->node[i], meet);
}

bool support_cluster_start(struct support_cluster *c) {
  memset(c, 0, sizeof *c);
  for (int i = 0; i < CLUSTER_NODES; i++) {
    if (!keep_ports(c, i) || !start_node(c, i)) {
      return false;
    }
  }
  for (int i = 0; i < CLUSTER_NODES; i++) {
    for (int to = i + 1; to < CLUSTER_NODES; to++) {
      if (!introduce(c, i, to)) {
        return false;
      }
    }
  }
  for (int tries = 0; tries < 4 && !support_cluster_is_well(c); tries++) {
    (void)WAIT_UNTIL(support_cluster_is_well(c));
  }
  return support_cluster_is_well(c);
}

void support_cluster_stop(struct support_cluster *c) {
  for (int i = 0; i < CLUSTER_NODES; i++) {
    char path[96];
    support_redis_kill(&c->node[i]);
    snprintf(path, sizeof path, "%s/nodes.conf", c->node[i].dir);
    unlink(path);
    support_redis_stop(&c->node[i]);
    for (int k = 0; k < 2; k++) {
      port_let_go(&c->kept[i][k]);
    }
  }
}

int support_cluster_owner(uint32_t slot) {
  int i = 0;
  while (slot >= (uint32_t)(SLOTS * (i + 1) / CLUSTER_NODES)) {
    i++;
  }
  return i;
}

/* A node does not give away a slot of which it has keys. */
static bool empty_slot(const struct support_redis *r, uint32_t slot) {
  char command[192];
  snprintf(command, sizeof command,
           "EVAL \"for _,k in ipairs(redis.call('CLUSTER','GETKEYSINSLOT',%u,100000)) do redis.call('DEL',k) end "
           "return 0\" 0",
           slot);
  return tell(r, command);
}

/* What CLUSTER INFO says of itself, or a number that it does not say. */
static long long info_of(const struct support_redis *r, const char *field) {
  char answer[NODES_TEXT];
  const char *at = support_redis_command(r, "CLUSTER INFO", answer, sizeof answer) ? strstr(answer, field) : NULL;
  return at != NULL ? atoll(at + strlen(field)) : -1;
}

/* Whether all that run have heard of the same newest epoch. */
static bool epoch_is_known(const struct support_cluster *c, int by) {
  static const char field[] = "cluster_current_epoch:";
  for (int i = 0; i < CLUSTER_NODES; i++) {
    if (c->node[i].pid > 0 && info_of(&c->node[i], field) != info_of(&c->node[by], field)) {
      return false;
    }
  }
  return true;
}

/* Whether all that run know by which epoch a node claims its slots. */
static bool claim_is_known(const struct support_cluster *c, int of) {
  long long claim = info_of(&c->node[of], "cluster_my_epoch:");
  for (int i = 0; i < CLUSTER_NODES; i++) {
    char answer[NODES_TEXT];
    long long known = -1;
    if (c->node[i].pid > 0 && support_redis_command(&c->node[i], "CLUSTER NODES", answer, sizeof answer)) {
      const char *line = strstr(answer, c->id[of]);
      if (line == NULL || sscanf(line, "%*s %*s %*s %*s %*s %*s %lld", &known) != 1 || known != claim) {
        return false;
      }
    }
  }
  return true;
}

/*
 * A node believes a claim to a slot whose epoch is above that of the owner it knows. So what the owner of before said a moment ago, which is
 * heard after it has given the slot away, would undo that, and nothing would undo this: the new owner's epoch is made the newest, and known
 * to all, before they are told.
 */
bool support_cluster_give(struct support_cluster *c, uint32_t slot, int to) {
  char command[128];
  if (!WAIT_UNTIL(epoch_is_known(c, to)) || !tell(&c->node[to], "CLUSTER BUMPEPOCH")) {
    return false;
  }
  /* That it imported a slot it tells the others at once. One that was away may take itself for the owner still. */
  snprintf(command, sizeof command, "CLUSTER SETSLOT %u IMPORTING %s", slot, c->id[(to + 1) % CLUSTER_NODES]);
  (void)tell(&c->node[to], command);
  snprintf(command, sizeof command, "CLUSTER SETSLOT %u NODE %s", slot, c->id[to]);
  if (!tell(&c->node[to], command) || !WAIT_UNTIL(claim_is_known(c, to))) {
    return false;
  }
  for (int i = 1; i < CLUSTER_NODES; i++) {
    const struct support_redis *r = &c->node[(to + i) % CLUSTER_NODES];
    if (r->pid > 0 && (!empty_slot(r, slot) || !tell(r, command))) {
      return false;
    }
  }
  return true;
}
