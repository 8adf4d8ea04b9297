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

/* What is to become of an entry: a touch, or being due later. */
struct change {
  const struct gorge_touch *touch; /* or NULL */
  uint64_t word;                   /* that of the only entry that may be put off */
  uint64_t due_ms;
  uint32_t failures;
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

/*
 * Whether this host has no contact with Redis: what it has then must end when it would end without a touch, or what is touched again and
 * again outlives every bound. To be asked after the snapshot, as the want of contact forgets what has a snapshot from before it.
 */
static bool without_contact(const struct gorge_zone *zone, uint32_t ns) {
  /* relaxed: see set_life in drive/control_contact.c; the acquire of the epoch in the snapshot came before */
  return __atomic_load_n(&gorge_zone_words(zone, ns)->life_max_ms, __ATOMIC_RELAXED) != 0;
}

static double sooner(double a, double b) { return a < b ? a : b; }

/* A life of the same lengths, from another end on. `capped`: it does not end later than it did. */
static void move_life(struct gorge_entry *entry, const struct gorge_life *old, const struct gorge_touch *touch,
                      bool capped) {
  double ends = (double)touch->expires_ms, whole = (double)touch->whole_ms, latest = (double)touch->latest_ms;
  struct gorge_life *life = &entry->life;
  if (capped) {
    ends = sooner(ends, old->ends_ms);
  }
  *life = (struct gorge_life){.whole_ms = whole, .load_ms = old->load_ms};
  entry->expires_ms = ends < (double)touch->expires_ms ? (uint64_t)ends : touch->expires_ms;
  if (old->keeps_ms > 0) {
    life->keeps_ms = sooner(ends + (old->keeps_ms - old->ends_ms), latest);
  }
  if (old->refresh_ms > 0) {
    double ahead = old->whole_ms - old->refresh_ms;
    life->refresh_ms = whole > ahead ? whole - ahead : 1;
  }
  entry->due_ms = gorge_life_due(life, touch->early);
}

static int attempt(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                   const struct change *change, uint64_t now_ms, struct copy *c, struct gorge_read *out) {
  const struct gorge_touch *touch = change->touch;
  struct gorge_snapshot s;
  int status = read_all(zone, key, now_ms, c, &s);
  if (status != GORGE_HIT) {
    return status;
  }
  if (touch != NULL ? touch->only != 0 && c->read.version != touch->only : c->read.word != change->word) {
    return GORGE_MISS;
  }
  struct gorge_entry entry = {
      .value = c->read.buf,
      .value_len = c->read.len,
      .kind = c->read.kind,
      .version = touch != NULL && touch->version != 0 ? touch->version : c->read.version,
      .expires_ms = (uint64_t)c->read.life.ends_ms,
      .due_ms = change->due_ms,
      .life = c->read.life,
      .ntags = c->ntags,
      .tags = c->tags,
  };
  if (touch != NULL) {
    move_life(&entry, &c->read.life, touch, without_contact(zone, key->ns));
  } else {
    entry.life.failures = change->failures;
  }
  struct gorge_exchange exchange = {.word = c->read.word};
  return gorge_l1_exchange(zone, owner, key, &entry, &s, &exchange, now_ms, out);
}

static int apply(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                 const struct change *change, uint64_t now_ms, struct gorge_read *out) {
  struct copy c = {.read = {.buf = malloc(FIRST_BYTES), .buf_size = FIRST_BYTES}};
  int status = c.read.buf == NULL ? GORGE_ERR_MEMORY : GORGE_REFUSED;
  for (int i = 0; i < ATTEMPTS && status == GORGE_REFUSED; i++) {
    struct gorge_key now;
    gorge_key_init(zone, key->ns, key->ptr, key->len, &now);
    status = attempt(zone, owner, &now, change, now_ms, &c, out);
  }
  free(c.read.buf);
  switch (status) {
    case GORGE_STORED: return GORGE_OK;
    case GORGE_REFUSED: return GORGE_BUSY;
    case GORGE_TOO_LARGE: return GORGE_MISS; /* cannot be, but for one whose life has grown: it was stored before */
    default: return status;
  }
}

int gorge_l1_touch(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                   const struct gorge_touch *touch, uint64_t now_ms) {
  struct change change = {.touch = touch};
  return apply(zone, owner, key, &change, now_ms, NULL);
}

int gorge_l1_defer(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key, uint64_t word,
                   uint64_t due_ms, uint32_t failures, uint64_t now_ms, struct gorge_read *out) {
  struct change change = {.word = word, .due_ms = due_ms, .failures = failures};
  return apply(zone, owner, key, &change, now_ms, out);
}
