/* SPDX-License-Identifier: MIT */
#include "proto/envelope.h"

#include <string.h>

#include "base/hash.h"
#include "proto/bytes.h"

enum { MAGIC = 'G', FORMAT = 1, KIND_MASK = 15, LIFE = 16 };

_Static_assert(GORGE_TAGS_MAX == 16, "the seal's room and the layout count on it");
_Static_assert(GORGE_TAG_MAX <= 255, "a tag's length is one byte");

bool gorge_kind_for_redis(uint32_t kind) {
  return kind < GORGE_KINDS && kind != GORGE_KIND_BUFFER && kind != GORGE_KIND_TYPED;
}

static uint64_t capped(uint64_t ms) { return ms < GORGE_TTL_MAX_MS ? ms : GORGE_TTL_MAX_MS; }

static bool has_life(const struct gorge_extra_life *life) {
  return life != NULL && (life->stale_ms > 0 || life->refresh_ms > 0 || life->load_ms > 0);
}

/* Bytes between ttl and names, by the head's last byte. */
static size_t life_bytes(const char *ptr) { return ((unsigned char)ptr[3] & LIFE) != 0 ? GORGE_ENVELOPE_LIFE : 0; }

static uint64_t checksum(const char *head, const char *seal, size_t seal_len, const char *value, size_t value_len) {
  uint64_t seed = 0;
  for (int i = 0; i < GORGE_ENVELOPE_HEAD; i++) {
    seed = seed << 8 | (unsigned char)head[i];
  }
  return gorge_hash(value, value_len, gorge_hash(seal, seal_len, seed));
}

int gorge_envelope_seal(struct gorge_seal *seal, uint32_t kind, uint64_t ttl_ms, const struct gorge_extra_life *life,
                        uint32_t ntags, const struct gorge_l2_tag *tags, const char *value, uint32_t value_len) {
  if (!gorge_kind_for_redis(kind) || ttl_ms == 0 || ntags > GORGE_TAGS_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  seal->head[0] = MAGIC;
  seal->head[1] = FORMAT;
  seal->head[2] = (char)ntags;
  seal->head[3] = (char)(kind | (has_life(life) ? LIFE : 0));
  gorge_bytes_put64(seal->bytes + 8, capped(ttl_ms));
  char *at = seal->bytes + 16;
  if (has_life(life)) {
    gorge_bytes_put64(at, capped(life->stale_ms));
    gorge_bytes_put64(at + 8, capped(life->refresh_ms));
    gorge_bytes_put64(at + 16, capped(life->load_ms));
    at += GORGE_ENVELOPE_LIFE;
  }
  for (uint32_t i = 0; i < ntags; i++) {
    if (tags[i].len < 1 || tags[i].len > GORGE_TAG_MAX) {
      return GORGE_ERR_ARGUMENT;
    }
    *at++ = (char)tags[i].len;
    memcpy(at, tags[i].ptr, tags[i].len);
    at += tags[i].len;
  }
  seal->len = (uint32_t)(at - seal->bytes);
  gorge_bytes_put64(seal->bytes, checksum(seal->head, seal->bytes + 8, seal->len - 8, value, value_len));
  return GORGE_OK;
}

static int bad(const char **error, const char *why) {
  *error = why;
  return GORGE_ERR_PROTOCOL;
}

static int decode_head(struct gorge_envelope *e, const char *ptr, size_t len, const char **error) {
  if (len < GORGE_ENVELOPE_MIN || ptr[0] != MAGIC) {
    return bad(error, "not a value of gorge");
  }
  if (ptr[1] != FORMAT) {
    return bad(error, "a value in an unknown format");
  }
  e->ntags = (unsigned char)ptr[2];
  e->kind = (unsigned char)ptr[3] & KIND_MASK;
  e->version = gorge_bytes_get64(ptr + 4);
  e->ends_ms = gorge_bytes_get64(ptr + 12);
  if (e->ntags > GORGE_TAGS_MAX || !gorge_kind_for_redis(e->kind) ||
      ((unsigned char)ptr[3] & ~(KIND_MASK | LIFE)) != 0) {
    return bad(error, "a value with a damaged head");
  }
  if (e->version == 0 || e->version > GORGE_VERSION_MAX || e->ends_ms == 0 || e->ends_ms > GORGE_VERSION_MAX) {
    return bad(error, "a value with an impossible version or time");
  }
  return GORGE_OK;
}

/* The n tags whose names begin at `at`. Returns where they end, or 0: there are none of that number. */
static size_t read_tags(const char *ptr, size_t len, size_t at, uint32_t n, struct gorge_l2_tag *tags) {
  for (uint32_t i = 0; i < n; i++) {
    uint32_t tag_len = at < len ? (unsigned char)ptr[at] : 0;
    if (tag_len == 0 || len - at - 1 < tag_len) {
      return 0;
    }
    tags[i] = (struct gorge_l2_tag){ptr + at + 1, tag_len};
    at += 1 + tag_len;
  }
  return at;
}

uint32_t gorge_envelope_peek_tags(const char *ptr, size_t len, struct gorge_l2_tag tags[GORGE_TAGS_MAX]) {
  uint32_t n = len >= GORGE_ENVELOPE_MIN && ptr[0] == MAGIC && ptr[1] == FORMAT ? (unsigned char)ptr[2] : 0;
  size_t at = GORGE_ENVELOPE_MIN + 8 * (size_t)n + (n > 0 ? life_bytes(ptr) : 0);
  return n > 0 && n <= GORGE_TAGS_MAX && read_tags(ptr, len, at, n, tags) > 0 ? n : 0;
}

int gorge_envelope_decode(struct gorge_envelope *e, const char *ptr, size_t len, const char **error) {
  int status = decode_head(e, ptr, len, error);
  if (status != GORGE_OK) {
    return status;
  }
  size_t seal = GORGE_ENVELOPE_FIXED + 8 * (size_t)e->ntags, life = life_bytes(ptr);
  if (len < seal + 16 + life) {
    return bad(error, "a truncated value");
  }
  for (uint32_t i = 0; i < e->ntags; i++) {
    e->nonces[i] = gorge_bytes_get64(ptr + GORGE_ENVELOPE_FIXED + 8 * (size_t)i);
  }
  e->ttl_ms = gorge_bytes_get64(ptr + seal + 8);
  e->life = (struct gorge_extra_life){0};
  if (life > 0) {
    const char *times = ptr + seal + 16;
    e->life.stale_ms = gorge_bytes_get64(times);
    e->life.refresh_ms = gorge_bytes_get64(times + 8);
    e->life.load_ms = gorge_bytes_get64(times + 16);
  }
  size_t at = read_tags(ptr, len, seal + 16 + life, e->ntags, e->tags);
  if (at == 0) {
    return bad(error, "a truncated value");
  }
  if (len - at > UINT32_MAX || e->ttl_ms == 0 || e->ttl_ms > GORGE_TTL_MAX_MS || e->life.stale_ms > GORGE_TTL_MAX_MS ||
      e->life.refresh_ms > GORGE_TTL_MAX_MS || e->life.load_ms > GORGE_TTL_MAX_MS) {
    return bad(error, "a value with an impossible ttl or length");
  }
  e->value = ptr + at;
  e->value_len = (uint32_t)(len - at);
  if (gorge_bytes_get64(ptr + seal) != checksum(ptr, ptr + seal + 8, at - seal - 8, e->value, e->value_len)) {
    return bad(error, "a value with a wrong checksum");
  }
  return GORGE_OK;
}

uint64_t gorge_envelope_peek_version(const char *ptr, size_t len) {
  if (len < GORGE_ENVELOPE_FIXED || ptr[0] != MAGIC || ptr[1] != FORMAT) {
    return 0;
  }
  uint64_t version = gorge_bytes_get64(ptr + 4);
  return version <= GORGE_VERSION_MAX ? version : 0;
}
