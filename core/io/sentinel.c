/* SPDX-License-Identifier: MIT */
#include "io/sentinel.h"

#include <hiredis/hiredis.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { PING_MS = 1000, EPOCH_DIGITS_MAX = 15, PORT_DIGITS_MAX = 5 };

static const char switched[] = "+switch-master";

struct gorge_sentinel {
  struct gorge_conn *asks, *hears;
  struct gorge_sentinel_hooks hooks;
  struct gorge_command configuration, address; /* the two questions */
  int due;                                     /* how many of them have not been answered */
  bool again;                                  /* ask once more after that */
  bool good;                                   /* what has been answered so far makes a report */
  enum gorge_sentinel_state state;
  uint64_t asked_ms, ping_ms;
  uint64_t epoch;
  struct gorge_sentinel_report configured, report;
  size_t name_len;
  char name[GORGE_MASTER_NAME_MAX];
};

static bool text_is(const struct redisReply *reply, const char *text, size_t len) {
  return reply->type == REDIS_REPLY_STRING && reply->len == len && memcmp(reply->str, text, len) == 0;
}

static bool number_of(const struct redisReply *reply, size_t digits, uint64_t *out) {
  *out = 0;
  if (reply->type != REDIS_REPLY_STRING || reply->len < 1 || reply->len > digits) {
    return false;
  }
  for (size_t i = 0; i < reply->len; i++) {
    if (reply->str[i] < '0' || reply->str[i] > '9') {
      return false;
    }
    *out = *out * 10 + (uint64_t)(reply->str[i] - '0');
  }
  return true;
}

/* A host of a sentinel's: a name or an address, nothing that could mean something else to a resolver or a terminal. */
static bool host_of(const struct redisReply *reply, char out[GORGE_SENTINEL_HOST_MAX + 1]) {
  if (reply->type != REDIS_REPLY_STRING || reply->len < 1 || reply->len > GORGE_SENTINEL_HOST_MAX) {
    return false;
  }
  for (size_t i = 0; i < reply->len; i++) {
    char b = reply->str[i];
    bool fits = (b >= 'a' && b <= 'z') || (b >= 'A' && b <= 'Z') || (b >= '0' && b <= '9') || b == '.' || b == '-' ||
                b == '_' || b == ':' || b == '%';
    if (!fits) {
      return false;
    }
  }
  memcpy(out, reply->str, reply->len);
  out[reply->len] = '\0';
  return true;
}

static bool place_of(const struct redisReply *host, const struct redisReply *port, struct gorge_sentinel_report *out) {
  uint64_t number;
  if (!host_of(host, out->host) || !number_of(port, PORT_DIGITS_MAX, &number) || number < 1 || number > UINT16_MAX) {
    return false;
  }
  out->port = (uint16_t)number;
  return true;
}

static bool same_place(const struct gorge_sentinel_report *a, const struct gorge_sentinel_report *b) {
  return a->port == b->port && strcmp(a->host, b->host) == 0;
}

/* {field, value, ...}; the order of the fields is not told anywhere. */
static bool read_configuration(struct gorge_sentinel *s, const struct redisReply *reply) {
  const struct redisReply *host = NULL, *port = NULL, *epoch = NULL;
  if (reply->type != REDIS_REPLY_ARRAY) {
    return false;
  }
  for (size_t i = 0; i + 1 < reply->elements; i += 2) {
    const struct redisReply *field = reply->element[i], *value = reply->element[i + 1];
    host = text_is(field, "ip", 2) ? value : host;
    port = text_is(field, "port", 4) ? value : port;
    epoch = text_is(field, "config-epoch", 12) ? value : epoch;
  }
  return host != NULL && port != NULL && epoch != NULL && place_of(host, port, &s->configured) &&
         number_of(epoch, EPOCH_DIGITS_MAX, &s->epoch);
}

/* {host, port}; nil: no such master. */
static bool read_address(struct gorge_sentinel *s, const struct redisReply *reply) {
  return reply->type == REDIS_REPLY_ARRAY && reply->elements == 2 &&
         place_of(reply->element[0], reply->element[1], &s->report);
}

static bool refuses(const struct redisReply *reply) {
  return reply->type == REDIS_REPLY_ERROR && reply->len >= 4 &&
         (memcmp(reply->str, "NOPE", 4) == 0 || memcmp(reply->str, "NOAU", 4) == 0); /* -NOPERM, -NOAUTH */
}

static void finish(struct gorge_sentinel *s, uint64_t now_ms) {
  if (s->good) {
    s->state = GORGE_SENTINEL_KNOWS;
    /* Promoted, and the configuration does not say so yet: later than this configuration, earlier than the next. */
    s->report.rank = 2 * s->epoch + (same_place(&s->report, &s->configured) ? 1 : 2);
    s->hooks.report(s->hooks.ctx, &s->report, now_ms);
  }
  if (s->again) {
    s->again = false;
    gorge_sentinel_ask(s, now_ms);
  }
}

static void answered(struct gorge_sentinel *s, bool good, int status, const struct redisReply *reply, uint64_t now_ms) {
  s->good = s->good && good;
  if (!good && status == GORGE_OK) {
    s->state = refuses(reply) ? GORGE_SENTINEL_REFUSES : GORGE_SENTINEL_UNKNOWN;
  } else if (!good) {
    s->state = GORGE_SENTINEL_SILENT;
  }
  if (--s->due == 0) {
    finish(s, now_ms);
  }
}

static void on_configuration(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_sentinel *s = (void *)((char *)cmd - offsetof(struct gorge_sentinel, configuration));
  answered(s, status == GORGE_OK && read_configuration(s, reply), status, reply, now_ms);
}

static void on_address(struct gorge_command *cmd, int status, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_sentinel *s = (void *)((char *)cmd - offsetof(struct gorge_sentinel, address));
  answered(s, status == GORGE_OK && read_address(s, reply), status, reply, now_ms);
}

static bool submit(struct gorge_sentinel *s, struct gorge_command *cmd, const char *what, uint64_t now_ms) {
  const char *argv[] = {"SENTINEL", what, s->name};
  const size_t argv_len[] = {8, strlen(what), s->name_len};
  cmd->deadline_ms = 0;
  bool sent = gorge_conn_submit(s->asks, cmd, 3, argv, argv_len, now_ms) == GORGE_OK;
  s->due += sent;
  return sent;
}

void gorge_sentinel_ask(struct gorge_sentinel *s, uint64_t now_ms) {
  if (s->due > 0) {
    s->again = true;
    return;
  }
  s->asked_ms = now_ms;
  s->good = submit(s, &s->configuration, "MASTER", now_ms) && submit(s, &s->address, "GET-MASTER-ADDR-BY-NAME", now_ms);
}

static void on_asks_ready(void *ctx, uint64_t now_ms) { gorge_sentinel_ask(ctx, now_ms); }

static void on_hears_ready(void *ctx, uint64_t now_ms) {
  struct gorge_sentinel *s = ctx;
  const char *argv[] = {"SUBSCRIBE", switched};
  const size_t argv_len[] = {9, sizeof switched - 1};
  int status = gorge_conn_post(s->hears, 2, argv, argv_len, now_ms);
  if (status != GORGE_OK) {
    gorge_conn_fail(s->hears, gorge_status_text(status));
  }
  s->ping_ms = now_ms + PING_MS;
}

/* "<name> <old host> <old port> <new host> <new port>". Whether it is about our master; where it went will be asked. */
static bool about_ours(const struct gorge_sentinel *s, const struct redisReply *payload) {
  return payload->type == REDIS_REPLY_STRING && payload->len > s->name_len && payload->str[s->name_len] == ' ' &&
         memcmp(payload->str, s->name, s->name_len) == 0;
}

static void on_push(void *ctx, const struct redisReply *reply, uint64_t now_ms) {
  struct gorge_sentinel *s = ctx;
  if (reply->type == REDIS_REPLY_ERROR) {
    gorge_conn_fail(s->hears, "subscription refused");
  } else if (reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
             text_is(reply->element[1], switched, sizeof switched - 1)) {
    bool subscribed = text_is(reply->element[0], "subscribe", 9); /* what was said before went unheard */
    bool message = text_is(reply->element[0], "message", 7);
    if (subscribed || (message && about_ours(s, reply->element[2]))) {
      gorge_sentinel_ask(s, now_ms);
    }
  }
}

struct gorge_sentinel *gorge_sentinel_create(const char *master, const struct gorge_conn_config *config,
                                             const struct gorge_sentinel_hooks *hooks) {
  size_t len = strlen(master);
  struct gorge_sentinel *s = len > 0 && len <= GORGE_MASTER_NAME_MAX ? calloc(1, sizeof *s) : NULL;
  if (s == NULL) {
    return NULL;
  }
  s->hooks = *hooks;
  s->name_len = len;
  memcpy(s->name, master, len);
  s->configuration.done = on_configuration;
  s->address.done = on_address;
  s->asks = gorge_conn_create(config);
  s->hears = gorge_conn_create(config);
  if (s->asks == NULL || s->hears == NULL) {
    gorge_sentinel_destroy(s);
    return NULL;
  }
  gorge_conn_on_state(s->asks, on_asks_ready, NULL, s);
  gorge_conn_on_state(s->hears, on_hears_ready, NULL, s);
  gorge_conn_on_push(s->hears, on_push, s);
  gorge_conn_want(s->asks);
  gorge_conn_want(s->hears);
  return s;
}

void gorge_sentinel_destroy(struct gorge_sentinel *s) {
  if (s == NULL) {
    return;
  }
  s->good = s->again = false;
  if (s->asks != NULL) {
    gorge_conn_cancel(s->asks, &s->configuration);
    gorge_conn_cancel(s->asks, &s->address);
  }
  gorge_conn_destroy(s->asks);
  gorge_conn_destroy(s->hears);
  free(s);
}

struct gorge_conn *gorge_sentinel_asks(struct gorge_sentinel *s) {
  return s->asks;
}

struct gorge_conn *gorge_sentinel_hears(struct gorge_sentinel *s) {
  return s->hears;
}

void gorge_sentinel_tick(struct gorge_sentinel *s, uint64_t every_ms, uint64_t now_ms) {
  static const char *const argv[] = {"PING"};
  static const size_t argv_len[] = {4};
  if (gorge_conn_state(s->asks) == GORGE_CONN_READY && s->due == 0 && now_ms >= s->asked_ms + every_ms) {
    gorge_sentinel_ask(s, now_ms);
  }
  if (gorge_conn_state(s->hears) == GORGE_CONN_READY && now_ms >= s->ping_ms) {
    (void)gorge_conn_post(s->hears, 1, argv, argv_len, now_ms);
    s->ping_ms = now_ms + PING_MS;
  }
}

enum gorge_sentinel_state gorge_sentinel_state(const struct gorge_sentinel *s) {
  bool down = gorge_conn_state(s->asks) == GORGE_CONN_DOWN && gorge_conn_reason(s->asks)[0] != '\0';
  if (down && strncmp(gorge_conn_reason(s->asks), "TLS", 3) == 0) {
    return GORGE_SENTINEL_UNTRUSTED;
  }
  if (down) {
    return gorge_conn_failure(s->asks) == GORGE_ERR_REDIS ? GORGE_SENTINEL_REFUSES : GORGE_SENTINEL_SILENT;
  }
  return s->state;
}
