/* SPDX-License-Identifier: MIT */
#include "test/cluster_support.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SLOTS = 16384 };

static int free_port(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool good = bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
              getsockname(fd, (struct sockaddr *)&address, &len) == 0;
  close(fd);
  return good ? ntohs(address.sin_port) : 0;
}

/* Whether a node answers a command with a status or a number. */
static bool tell(const struct support_redis *r, const char *command) {
  char answer[64];
  return support_redis_command(r, command, answer, sizeof answer) && (answer[0] == '+' || answer[0] == ':');
}

static bool start_node(struct support_cluster *c, int i) {
  c->port[i] = free_port();
  snprintf(c->text[i][0], sizeof c->text[i][0], "%d", c->port[i]);
  snprintf(c->text[i][1], sizeof c->text[i][1], "%d", free_port());
  const char *options[] = {"--bind",
                           "127.0.0.1",
                           "--port",
                           c->text[i][0],
                           "--cluster-enabled",
                           "yes",
                           "--cluster-port",
                           c->text[i][1],
                           "--cluster-node-timeout",
                           "1000",
                           "--cluster-require-full-coverage",
                           "no"};
  memcpy(c->options[i], options, sizeof options);
  c->node[i].options = c->options[i];
  char slots[64], epoch[64];
  snprintf(slots, sizeof slots, "CLUSTER ADDSLOTSRANGE %d %d", SLOTS * i / CLUSTER_NODES,
           SLOTS * (i + 1) / CLUSTER_NODES - 1);
  snprintf(epoch, sizeof epoch, "CLUSTER SET-CONFIG-EPOCH %d", i + 1);
  return support_redis_start(&c->node[i]) && tell(&c->node[i], epoch) && tell(&c->node[i], slots);
}

static bool says(const struct support_redis *r, const char *command, const char *text) {
  char answer[4096];
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

bool support_cluster_start(struct support_cluster *c) {
  memset(c, 0, sizeof *c);
  for (int i = 0; i < CLUSTER_NODES; i++) {
    if (!start_node(c, i)) {
      return false;
    }
  }
  for (int i = 1; i < CLUSTER_NODES; i++) {
    char meet[64];
    snprintf(meet, sizeof meet, "CLUSTER MEET 127.0.0.1 %s %s", c->text[i][0], c->text[i][1]);
    if (!tell(&c->node[0], meet)) {
      return false;
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

bool support_cluster_give(struct support_cluster *c, uint32_t slot, int to) {
  char id[96], command[128];
  if (!support_redis_command(&c->node[to], "CLUSTER MYID", id, sizeof id) || strncmp(id, "$40\r\n", 5) != 0) {
    return false;
  }
  snprintf(command, sizeof command, "CLUSTER SETSLOT %u NODE %.40s", slot, id + 5);
  for (int i = 0; i < CLUSTER_NODES; i++) { /* the one that gets it first */
    const struct support_redis *r = &c->node[(to + i) % CLUSTER_NODES];
    if (r->pid > 0 && ((i > 0 && !empty_slot(r, slot)) || !tell(r, command))) {
      return false;
    }
  }
  return true;
}
