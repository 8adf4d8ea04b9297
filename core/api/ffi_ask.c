/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: a connection that is waited for, by hiredis alone. */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gorge.h"

struct gorge_asker {
  redisContext *context;
};

enum { DEPTH_MAX = 4 };

static struct timeval in_ms(uint32_t ms) { return (struct timeval){.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}; }

/* Appends bytes to a NUL-terminated text, as far as they fit. */
static void append(char *buf, uint32_t size, const char *text, size_t len) {
  size_t have = strlen(buf), room = size - 1 - have;
  len = len < room ? len : room;
  memcpy(buf + have, text, len);
  buf[have + len] = '\0';
}

static void append_reply(char *buf, uint32_t size, const redisReply *r, int depth) {
  char number[32];
  switch (r->type) {
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR: append(buf, size, r->str, r->len); break;
    case REDIS_REPLY_INTEGER:
      append(buf, size, number, (size_t)snprintf(number, sizeof number, "%lld", r->integer));
      break;
    case REDIS_REPLY_ARRAY:
      for (size_t i = 0; i < r->elements && depth < DEPTH_MAX; i++) {
        append(buf, size, "\n", i > 0);
        append_reply(buf, size, r->element[i], depth + 1);
      }
      break;
    default: break;
  }
}

int gorge_ask(gorge_asker *asker, int argc, const char **argv, char *buf, uint32_t size) {
  if (size == 0) {
    return GORGE_ERR_ARGUMENT;
  }
  buf[0] = '\0';
  redisReply *r = redisCommandArgv(asker->context, argc, argv, NULL);
  if (r == NULL) {
    append(buf, size, asker->context->errstr, strlen(asker->context->errstr));
    return GORGE_ERR_DOWN;
  }
  append_reply(buf, size, r, 0);
  int status = r->type == REDIS_REPLY_ERROR ? GORGE_ERR_REDIS : r->type == REDIS_REPLY_NIL ? GORGE_MISS : GORGE_OK;
  freeReplyObject(r);
  return status;
}

static int prepare(gorge_asker *a, const struct gorge_config *config, char *err, uint32_t err_size) {
  char db[16];
  int status = GORGE_OK;
  if (config->password != NULL) {
    const char *auth[] = {"AUTH", config->username != NULL ? config->username : config->password, config->password};
    status = gorge_ask(a, config->username != NULL ? 3 : 2, auth, err, err_size);
  }
  if (status == GORGE_OK && config->db != 0) {
    snprintf(db, sizeof db, "%u", config->db);
    const char *select[] = {"SELECT", db};
    status = gorge_ask(a, 2, select, err, err_size);
  }
  return status;
}

int gorge_ask_open(const struct gorge_config *config, gorge_asker **out, char *err, uint32_t err_size) {
  gorge_asker *a = calloc(1, sizeof *a);
  *out = NULL;
  if (a == NULL || err_size == 0) {
    free(a);
    return GORGE_ERR_MEMORY;
  }
  err[0] = '\0';
  struct timeval connect_time = in_ms(config->connect_timeout_ms);
  a->context = config->redis_path != NULL
                   ? redisConnectUnixWithTimeout(config->redis_path, connect_time)
                   : redisConnectWithTimeout(config->redis_host, (int)config->redis_port, connect_time);
  int status = a->context == NULL ? GORGE_ERR_MEMORY : GORGE_OK;
  if (status == GORGE_OK && a->context->err != 0) {
    append(err, err_size, a->context->errstr, strlen(a->context->errstr));
    status = GORGE_ERR_DOWN;
  }
  if (status == GORGE_OK) {
    redisSetTimeout(a->context, in_ms(config->timeout_ms));
    status = prepare(a, config, err, err_size);
  }
  if (status == GORGE_OK) {
    *out = a;
  } else {
    gorge_ask_end(a);
  }
  return status;
}

void gorge_ask_end(gorge_asker *asker) {
  if (asker != NULL) {
    if (asker->context != NULL) {
      redisFree(asker->context);
    }
    free(asker);
  }
}
