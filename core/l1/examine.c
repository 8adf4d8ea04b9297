/* SPDX-License-Identifier: MIT */
/* What L1 holds of a key, also when no read would find it: for people who ask why. */
#include <string.h>

#include "base/broken.h"
#include "l1/evict.h"
#include "l1/probe.h"

static void copy_name(struct gorge_tag_look *tag, const char *names, uint32_t *at) {
  tag->len = (unsigned char)names[*at];
  memcpy(tag->name, names + *at + 1, tag->len);
  tag->name[tag->len] = '\0';
  *at += 1 + tag->len;
}

/* The tags of an entry, with their generations of then and now. Returns false when it is none that fits there. */
static bool copy_tags(const struct gorge_shard *v, const struct gorge_probe *p, struct gorge_l1_look *out) {
  char names[GORGE_TAGS_MAX * (GORGE_TAG_MAX + 1) + GORGE_L1_UNIT] = {0};
  if (!gorge_head_extra(&p->head)) {
    return true;
  }
  if (gorge_entry_units(&p->head, p->at, p->limit) == 0) {
    return false;
  }
  const uint32_t *extra = p->at + gorge_head_extra_at(&p->head);
  uint64_t limit = p->limit - gorge_head_extra_at(&p->head);
  uint32_t first = gorge_relaxed_load32(extra), n = gorge_extra_tags(first), units = gorge_extra_units(first);
  uint32_t records = gorge_extra_records_at(first), skip = records + n * GORGE_TAG_RECORD_UNITS;
  /* Range-checked again: the word may have changed since. */
  if (n > GORGE_TAGS_MAX || units < skip || units > limit || (units - skip) * GORGE_L1_UNIT > sizeof names) {
    return false;
  }
  uint32_t size = (units - skip) * GORGE_L1_UNIT, at = 0;
  gorge_relaxed_read(names, extra + skip, size);
  for (uint32_t i = 0; i < n; i++) {
    const uint32_t *record = extra + records + i * GORGE_TAG_RECORD_UNITS;
    struct gorge_tag_look *tag = &out->tags[i];
    if (at >= size || at + 1U + (unsigned char)names[at] > size) {
      return false;
    }
    copy_name(tag, names, &at);
    tag->flags = GORGE_TAG_OF_VALUE | GORGE_TAG_THERE;
    tag->stored = gorge_relaxed_load32(&record[0]) | (uint64_t)gorge_relaxed_load32(&record[1]) << 32;
    tag->now = gorge_stamps_generation(v->zone, gorge_relaxed_load32(&record[2]));
  }
  out->ntags = n;
  return true;
}

static enum gorge_look_state state_of(const struct gorge_head *head, const struct gorge_l1_look *look,
                                      uint64_t now_ms) {
  double now = (double)now_ms;
  for (uint32_t i = 0; GORGE_CHECKS(TAG) && i < look->ntags; i++) {
    if (look->tags[i].stored != look->tags[i].now) {
      return GORGE_LOOK_TAG;
    }
  }
  if (now < look->life.ends_ms) {
    return gorge_head_expires(head) > now_ms ? GORGE_LOOK_GOOD : GORGE_LOOK_DUE;
  }
  return now < look->life.keeps_ms ? GORGE_LOOK_STALE : GORGE_LOOK_EXPIRED;
}

/* Copies what the entry says, to be believed when the probe is valid. */
static void copy(const struct gorge_shard *v, const struct gorge_probe *p, const struct gorge_key *key, uint64_t now_ms,
                 struct gorge_l1_look *out) {
  const struct gorge_head *head = &p->head;
  memset(out, 0, sizeof *out);
  if (gorge_head_extra_at(head) > p->limit || !gorge_probe_epoch_current(gorge_zone_words(v->zone, key->ns), p, key) ||
      !gorge_entry_life(head, p->at, p->limit, &out->life) || !copy_tags(v, p, out)) {
    memset(out, 0, sizeof *out);
    return;
  }
  out->kind = gorge_head_kind(head);
  out->size = gorge_head_value_len(head);
  out->version = gorge_entry_version(head, p->at);
  out->frequency = gorge_slot_freq(p->word) + gorge_evict_frequency(v, head);
  out->state = state_of(head, out, now_ms);
}

void gorge_l1_examine(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms,
                      struct gorge_l1_look *out) {
  struct gorge_shard v;
  struct gorge_probe p;
  memset(out, 0, sizeof *out);
  if (!gorge_shard_of(zone, key->hash, &v)) {
    return;
  }
  for (int i = 0; i < GORGE_PROBE_ATTEMPTS; i++) {
    enum gorge_verdict verdict = gorge_probe_find(&v, key, &p);
    if (verdict == GORGE_PROBE_GONE) {
      break;
    }
    if (verdict == GORGE_PROBE_VALID) {
      copy(&v, &p, key, now_ms, out);
      verdict = gorge_probe_judge(&v, &p);
      if (verdict == GORGE_PROBE_VALID) {
        return;
      }
      if (verdict != GORGE_PROBE_CHANGED) {
        break;
      }
    }
  }
  memset(out, 0, sizeof *out);
}
