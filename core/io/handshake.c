/* SPDX-License-Identifier: MIT */
/*
 * What is said before the first command: AUTH, SELECT, CLIENT SETNAME (best effort), ROLE if only a
 * master will do, PING. The PING makes sure that there
 * is at least one reply, that the peer speaks RESP, and that it is neither loading nor in want of a password.
 */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <string.h>

#include "io/conn_state.h"
#include "proto/command.h"

static int say(struct gorge_conn *c, enum gorge_handshake_step step, int argc, const char *const *argv) {
  size_t len[3];
  for (int i = 0; i < argc; i++) {
    len[i] = strlen(argv[i]);
  }
  int status = gorge_command_append(&c->out, argc, argv, len);
  if (status == GORGE_OK) {
    c->steps[c->nsteps++] = step;
  }
  return status;
}

int gorge_handshake_start(struct gorge_conn *c) {
  c->step = c->nsteps = 0;
  const char *username = c->config.username, *password = c->config.password;
  int status = GORGE_OK;
  if (username != NULL) {
    status = say(c, GORGE_STEP_AUTH, 3, (const char *[]){"AUTH", username, password != NULL ? password : ""});
  } else if (password != NULL) {
    status = say(c, GORGE_STEP_AUTH, 2, (const char *[]){"AUTH", password});
  }
  if (status == GORGE_OK && c->config.db != 0) {
    char db[16];
    snprintf(db, sizeof db, "%u", (unsigned)c->config.db);
    status = say(c, GORGE_STEP_SELECT, 2, (const char *[]){"SELECT", db});
  }
  if (status == GORGE_OK) {
    status = say(c, GORGE_STEP_NAME, 3, (const char *[]){"CLIENT", "SETNAME", "gorge"});
  }
  if (status == GORGE_OK && c->config.place != NULL) {
    status = say(c, GORGE_STEP_ROLE, 1, (const char *[]){"ROLE"});
  }
  if (status == GORGE_OK) {
    status = say(c, GORGE_STEP_PING, 1, (const char *[]){"PING"});
  }
  return status;
}

bool gorge_reply_has_code(const struct redisReply *reply, const char *code) {
  size_t len = strlen(code);
  return reply->type == REDIS_REPLY_ERROR && reply->len >= len && memcmp(reply->str, code, len) == 0;
}

bool gorge_reply_of_replica(const struct redisReply *reply) {
  static const char readonly[] = "READONLY"; /* older servers put it behind what they say of the script */
  return reply->type == REDIS_REPLY_ERROR && (memmem(reply->str, reply->len, readonly, sizeof readonly - 1) != NULL ||
                                              gorge_reply_has_code(reply, "MASTERDOWN"));
}

static void refuse(struct gorge_conn *c, const char *what, const struct redisReply *reply) {
  gorge_conn_doom(c, GORGE_ERR_REDIS, what, reply != NULL ? reply->str : NULL, reply != NULL ? reply->len : 0);
}

/* {"master", ...}, {"slave", ...}, {"sentinel", ...} */
static void hear_role(struct gorge_conn *c, const struct redisReply *reply) {
  const struct redisReply *role = reply->elements > 0 ? reply->element[0] : NULL;
  if (role == NULL || role->type != REDIS_REPLY_STRING) {
    gorge_conn_doom(c, GORGE_ERR_PROTOCOL, "malformed answer in the handshake", NULL, 0);
  } else if (role->len != 6 || memcmp(role->str, "master", 6) != 0) {
    gorge_conn_stray(c, "this server is not the master");
  }
}

bool gorge_handshake_reply(struct gorge_conn *c, const struct redisReply *reply) {
  enum gorge_handshake_step step = c->steps[c->step++];
  if (step == GORGE_STEP_ROLE && reply->type == REDIS_REPLY_ARRAY) {
    hear_role(c, reply);
  } else if (reply->type == REDIS_REPLY_ERROR) {
    if (gorge_reply_has_code(reply, "LOADING")) {
      refuse(c, "Redis is loading its data", NULL);
    } else if (gorge_reply_has_code(reply, "ERR max number of clients")) {
      refuse(c, "Redis refuses: ", reply);
    } else if (step == GORGE_STEP_AUTH) {
      /* Never the server's text: some errors repeat the arguments. */
      refuse(c, "authentication refused", NULL);
    } else if (gorge_reply_has_code(reply, "NOAUTH")) {
      refuse(c, "authentication required", NULL);
    } else if (step == GORGE_STEP_SELECT) {
      refuse(c, "database refused: ", reply);
    } else if (step == GORGE_STEP_ROLE) {
      refuse(c, "ROLE refused: ", reply);
    } else if (step == GORGE_STEP_PING && !gorge_reply_has_code(reply, "NOPERM")) {
      refuse(c, "Redis refuses: ", reply);
    }
  } else if (reply->type != REDIS_REPLY_STATUS) {
    gorge_conn_doom(c, GORGE_ERR_PROTOCOL, "malformed answer in the handshake", NULL, 0);
  }
  return !c->doomed && c->step == c->nsteps;
}
