/* SPDX-License-Identifier: MIT */
/*
 * A new life for an entry. Nothing of a published entry changes, so it is read and written anew, in exchange for what was read:
 * killed at whatever moment, the old one stands or the new one.
 */
#include <stdlib.h>

#include "l1/layout.h"

enum { ATTEMPTS = 16, FIRST_BYTES = 4096, NAMES_BYTES = GORGE_TAGS_MAX * (GORGE_TAG_MAX + 1) };

struct copy {
  struct gorge_read read; /* buf is owned */
  char names[NAMES_BYTES];
  struct gorge_tag tags[GORGE_TAGS_MAX];
  uint32_t ntags;
};

static int read_value(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms, struct copy *c) {
  int status = gorge_l1_read(zone, key, now_ms, false, &c->read);
  while (status == GORGE_SPACE) {
    char *larger = realloc(c->read.buf, c->read.len);
    if (larger == NULL) {
      return GORGE_ERR_MEMORY;
    }
    c->read.buf = larger;
    c->read.buf_size = c->read.len;
    status = gorge_l1_read(zone, key, now_ms, false, &c->read);
  }
  return status;
}

static bool read_tags(const struct gorge_zone *zone, const struct gorge_key *key, struct copy *c) {
  uint32_t len = 0, at = 0;
  c->ntags = gorge_l1_tags(zone, key, c->names, sizeof c->names, &len);
  for (uint32_t i = 0; i < c->ntags; i++) {
    c->tags[i] = (struct gorge_tag){c->names + at + 1, (unsigned char)c->names[at]};
    at += 1 + c->tags[i].len;
  }
  return c->ntags == c->read.ntags;
}

/*
 * The entry and its tags, and a snapshot from before the read that counts. The word is looked at twice: in between it was the same
 * entry's, which therefore had these tags; and the second read found their generations to be the entry's own, after the snapshot.
 */
static int read_all(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms, struct copy *c,
                    struct gorge_snapshot *s) {
  int status = read_value(zone, key, now_ms, c);
  if (status != GORGE_HIT) {
    return status;
  }
  uint64_t word = c->read.word;
  if (!read_tags(zone, key, c)) {
    return GORGE_REFUSED;
  }
  gorge_l1_snapshot(zone, key, c->tags, c->ntags, s);
  status = read_value(zone, key, now_ms, c);
  return status == GORGE_HIT && c->read.word != word ? GORGE_REFUSED : status;
}

static int attempt(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key, uint64_t only,
                   uint64_t version, uint64_t expires_ms, uint64_t now_ms, struct copy *c) {
  struct gorge_snapshot s;
  int status = read_all(zone, key, now_ms, c, &s);
  if (status != GORGE_HIT) {
    return status;
  }
  if (only != 0 && c->read.version != only) {
    return GORGE_MISS;
  }
  struct gorge_entry entry = {
      .value = c->read.buf,
      .value_len = c->read.len,
      .kind = c->read.kind,
      .version = version != 0 ? version : c->read.version,
      .expires_ms = expires_ms,
      .ntags = c->ntags,
      .tags = c->tags,
  };
  struct gorge_exchange exchange = {.word = c->read.word};
  return gorge_l1_exchange(zone, owner, key, &entry, &s, &exchange, now_ms, NULL);
}

int gorge_l1_touch(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key, uint64_t only,
                   uint64_t version, uint64_t expires_ms, uint64_t now_ms) {
  struct copy c = {.read = {.buf = malloc(FIRST_BYTES), .buf_size = FIRST_BYTES}};
  int status = c.read.buf == NULL ? GORGE_ERR_MEMORY : GORGE_REFUSED;
  for (int i = 0; i < ATTEMPTS && status == GORGE_REFUSED; i++) {
    struct gorge_key now;
    gorge_key_init(zone, key->ns, key->ptr, key->len, &now);
    status = attempt(zone, owner, &now, only, version, expires_ms, now_ms, &c);
  }
  free(c.read.buf);
  switch (status) {
    case GORGE_STORED: return GORGE_OK;
    case GORGE_REFUSED: return GORGE_BUSY;
    case GORGE_TOO_LARGE: return GORGE_MISS; /* cannot be: it was stored before */
    default: return status;
  }
}
