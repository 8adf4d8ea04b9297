/* SPDX-License-Identifier: MIT */
/* Where Redis is, and how to get in: copied from a configuration into the cache. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "drive/master.h"
#include "engine/engine.h"
#include "io/sentinel.h"

bool gorge_has_redis(const struct gorge_config *config) {
  return config->redis_host != NULL || config->redis_path != NULL || config->sentinels != NULL ||
         config->cluster != NULL;
}

/* NULL stays NULL. Returns false when out of memory. */
static bool copy_text(const char *text, const char **out) {
  *out = text == NULL ? NULL : strdup(text);
  return text == NULL || *out != NULL;
}

bool gorge_tls_config_copy(struct gorge_tls_config *tls, const struct gorge_config *config) {
  tls->verify = config->tls != GORGE_TLS_UNVERIFIED;
  return copy_text(config->tls_ca, &tls->ca) && copy_text(config->tls_cert, &tls->cert) &&
         copy_text(config->tls_key, &tls->key) && copy_text(config->tls_server_name, &tls->server_name);
}

static void free_text(const char *text) { free((char *)text); }

void gorge_tls_config_free(struct gorge_tls_config *tls) {
  free_text(tls->ca);
  free_text(tls->cert);
  free_text(tls->key);
  free_text(tls->server_name);
}

int gorge_config_tls(gorge_cache *c, const struct gorge_config *config, char *err, uint32_t err_size) {
  if (config->tls == GORGE_TLS_OFF) {
    return GORGE_OK;
  }
  if (!gorge_tls_config_copy(&c->tls, config) || !copy_text(config->redis_host, &c->redis.host)) {
    if (err != NULL) {
      snprintf(err, err_size, "%s", gorge_status_text(GORGE_ERR_MEMORY));
    }
    return GORGE_ERR_MEMORY;
  }
  c->redis.tls = &c->tls;
  if (!gorge_tls_check(&c->tls, err, err_size)) {
    return GORGE_ERR_ARGUMENT;
  }
  gorge_process_end_first();
  return GORGE_OK;
}

/* One line, "host port\n"; *host_len: of its first word. Returns what comes after it, or NULL: malformed. */
static const char *read_line(const char *line, size_t *host_len, uint16_t *port) {
  const char *blank = strchr(line, ' ');
  char *end;
  if (blank == NULL || blank == line) {
    return NULL;
  }
  unsigned long number = strtoul(blank + 1, &end, 10);
  if (number < 1 || number > UINT16_MAX || *end != '\n') {
    return NULL;
  }
  *host_len = (size_t)(blank - line);
  *port = (uint16_t)number;
  return end + 1;
}

/* Returns what comes after the line, or NULL: malformed, too many, or out of memory. */
static const char *add_sentinel(struct gorge_sentinels *s, const char *line) {
  size_t len;
  uint16_t port;
  const char *rest = s->count < GORGE_SENTINELS_MAX ? read_line(line, &len, &port) : NULL;
  char *host = rest != NULL ? strndup(line, len) : NULL;
  if (host == NULL) {
    return NULL;
  }
  s->list[s->count].host = host;
  s->list[s->count++].port = port;
  return rest;
}

static const char *add_seed(struct gorge_seeds *s, const char *line) {
  size_t len;
  uint16_t port;
  const char *rest = s->count < GORGE_SEEDS_MAX ? read_line(line, &len, &port) : NULL;
  if (rest == NULL || len >= sizeof s->list[0].host) {
    return NULL;
  }
  memcpy(s->list[s->count].host, line, len);
  s->list[s->count++].port = port;
  return rest;
}

static int set_seeds(gorge_cache *c, const struct gorge_config *config) {
  c->seeds = calloc(1, sizeof *c->seeds);
  if (c->seeds == NULL) {
    return GORGE_ERR_MEMORY;
  }
  for (const char *line = config->cluster; line == config->cluster || *line != '\0';) {
    line = add_seed(c->seeds, line);
    if (line == NULL) {
      return GORGE_ERR_ARGUMENT;
    }
  }
  return GORGE_OK;
}

static int set_sentinels(gorge_cache *c, const struct gorge_config *config) {
  size_t name_len = config->master == NULL ? 0 : strlen(config->master);
  if (name_len == 0 || name_len > GORGE_MASTER_NAME_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  struct gorge_sentinels *s = calloc(1, sizeof *s);
  if (s == NULL) {
    return GORGE_ERR_MEMORY;
  }
  c->sentinels = s;
  s->conn = c->redis; /* the same patience */
  s->conn.db = 0;
  if (!copy_text(config->sentinel_username, &s->conn.username) ||
      !copy_text(config->sentinel_password, &s->conn.password) || !copy_text(config->master, &s->master)) {
    return GORGE_ERR_MEMORY;
  }
  for (const char *line = config->sentinels; line == config->sentinels || *line != '\0';) {
    line = add_sentinel(s, line);
    if (line == NULL) {
      return GORGE_ERR_ARGUMENT;
    }
  }
  struct gorge_master_words *words = gorge_zone_master(c->zone, c->ns);
  c->redis.place = &words->part[0];
  c->redis.doubts = &words->doubts;
  c->endpoint = gorge_endpoint_of_master(words);
  return GORGE_OK;
}

int gorge_config_redis(gorge_cache *c, const struct gorge_config *config) {
  if (!gorge_has_redis(config)) {
    return GORGE_OK;
  }
  c->has_redis = true;
  c->redis.db = config->db;
  c->redis.connect_timeout_ms = config->connect_timeout_ms;
  c->redis.timeout_ms = config->timeout_ms;
  c->redis.max_pending = config->max_pending;
  c->redis.max_reply_bytes = 512U << 20;
  if (gorge_random(&c->redis.seed, sizeof c->redis.seed) != GORGE_OK) {
    return GORGE_ERR_MEMORY;
  }
  if (config->cluster != NULL || config->sentinels != NULL) {
    int status = config->cluster != NULL ? set_seeds(c, config) : set_sentinels(c, config);
    if (status != GORGE_OK) {
      return status;
    }
  } else {
    c->endpoint = gorge_endpoint_create(config->redis_host, (uint16_t)config->redis_port, config->redis_path);
  }
  bool copied = copy_text(config->username, &c->redis.username) && copy_text(config->password, &c->redis.password);
  return (c->endpoint != NULL || c->seeds != NULL) && copied ? GORGE_OK : GORGE_ERR_MEMORY;
}

static void release_sentinels(struct gorge_sentinels *s) {
  for (uint32_t i = 0; i < s->count; i++) {
    free_text(s->list[i].host);
  }
  free_text(s->conn.username);
  free_text(s->conn.password);
  free_text(s->master);
  free(s);
}

void gorge_config_release(gorge_cache *c) {
  gorge_endpoint_destroy(c->endpoint);
  free_text(c->redis.username);
  free_text(c->redis.password);
  free_text(c->redis.host);
  gorge_tls_config_free(&c->tls);
  if (c->sentinels != NULL) {
    release_sentinels(c->sentinels);
  }
  free(c->seeds);
}
