/* SPDX-License-Identifier: MIT */
#include "l1/entry.h"

uint32_t gorge_entry_units_extra(uint32_t units, const uint32_t *at, uint64_t limit) {
  if (units >= limit) {
    return 0;
  }
  uint32_t first = gorge_relaxed_load32(&at[units]);
  if (gorge_extra_tags(first) > GORGE_TAGS_MAX ||
      gorge_extra_units(first) < gorge_extra_records_at(first) + gorge_extra_tags(first) * GORGE_TAG_RECORD_UNITS) {
    return 0;
  }
  units += gorge_extra_units(first);
  return units <= limit ? units : 0;
}

static bool has_life(const struct gorge_entry *entry) {
  return entry->life.keeps_ms > 0 || entry->life.refresh_ms > 0 || entry->life.load_ms > 0;
}

static uint64_t time_at(const uint32_t *life, int i) {
  return gorge_relaxed_load32(&life[i]) | (uint64_t)(gorge_relaxed_load32(&life[4]) >> 8 * i & 0xff) << 32;
}

bool gorge_entry_life(const struct gorge_head *h, const uint32_t *at, uint64_t limit, struct gorge_life *out) {
  uint32_t extra = gorge_head_extra_at(h);
  *out = (struct gorge_life){.ends_ms = (double)gorge_head_expires(h)};
  out->whole_ms = out->ends_ms;
  if (!gorge_head_extra(h)) {
    return true;
  }
  if (extra >= limit) {
    return false;
  }
  if (!gorge_extra_life(gorge_relaxed_load32(&at[extra]))) {
    return true;
  }
  if (extra + 1 + GORGE_LIFE_UNITS > limit) {
    return false;
  }
  const uint32_t *life = at + extra + 1;
  uint32_t last = gorge_relaxed_load32(&life[5]);
  out->ends_ms = (double)time_at(life, 0);
  out->keeps_ms = (double)time_at(life, 1);
  out->refresh_ms = (double)time_at(life, 2);
  out->whole_ms = (double)time_at(life, 3);
  out->load_ms = last >> 8;
  out->failures = last & 0xff;
  return true;
}

uint64_t gorge_entry_ends(const struct gorge_head *h, const uint32_t *at) {
  struct gorge_life life;
  (void)gorge_entry_life(h, at, UINT64_MAX, &life);
  return (uint64_t)life.ends_ms;
}

uint64_t gorge_entry_keeps(const struct gorge_head *h, const uint32_t *at) {
  struct gorge_life life;
  (void)gorge_entry_life(h, at, UINT64_MAX, &life);
  return (uint64_t)(life.keeps_ms > life.ends_ms ? life.keeps_ms : life.ends_ms);
}

uint32_t gorge_entry_plan(const struct gorge_key *key, const struct gorge_entry *entry, uint32_t *extra_units) {
  *extra_units = 0;
  if (key->len == 0 || key->len > GORGE_KEY_MAX || entry->value_len > GORGE_HEAD_VALUE_MAX ||
      entry->ntags > GORGE_TAGS_MAX) {
    return 0;
  }
  if (entry->ntags > 0) {
    uint32_t names = 0;
    for (uint32_t i = 0; i < entry->ntags; i++) {
      if (entry->tags[i].len > GORGE_TAG_MAX) {
        return 0;
      }
      names += 1 + entry->tags[i].len;
    }
    *extra_units = 1 + entry->ntags * GORGE_TAG_RECORD_UNITS + gorge_units(names);
  }
  if (has_life(entry)) {
    *extra_units += GORGE_LIFE_UNITS + (entry->ntags == 0);
  }
  return GORGE_HEAD_UNITS + gorge_units(key->len) + gorge_units(entry->value_len) + (entry->version != 0 ? 2 : 0) +
         *extra_units;
}

struct gorge_head gorge_entry_head(const struct gorge_key *key, const struct gorge_entry *entry, uint8_t shard_epoch,
                                   uint8_t ns_epoch) {
  uint64_t expires = entry->due_ms != 0 && entry->due_ms < entry->expires_ms ? entry->due_ms : entry->expires_ms;
  struct gorge_head h;
  expires = expires < GORGE_HEAD_EXPIRES_MAX ? expires : GORGE_HEAD_EXPIRES_MAX;
  h.unit[0] = (key->len - 1) | key->ns << GORGE_HEAD_NS_BIT | (entry->kind & 15) << GORGE_HEAD_KIND_BIT |
              (uint32_t)(entry->version != 0) << GORGE_HEAD_VERSION_BIT |
              (uint32_t)(entry->ntags != 0 || has_life(entry)) << GORGE_HEAD_EXTRA_BIT;
  h.unit[1] = entry->value_len | (uint32_t)ns_epoch << 24;
  h.unit[2] = (uint32_t)expires;
  h.unit[3] = (uint32_t)(expires >> 32) | (uint32_t)shard_epoch << 8;
  return h;
}

static uint64_t time_of(double ms) {
  return ms < (double)GORGE_HEAD_EXPIRES_MAX ? (uint64_t)ms : GORGE_HEAD_EXPIRES_MAX;
}

static void write_life(uint32_t *at, const struct gorge_entry *entry) {
  const struct gorge_life *life = &entry->life;
  uint64_t ends = entry->expires_ms < GORGE_HEAD_EXPIRES_MAX ? entry->expires_ms : GORGE_HEAD_EXPIRES_MAX;
  const uint64_t times[] = {ends, time_of(life->keeps_ms), time_of(life->refresh_ms), time_of(life->whole_ms)};
  uint32_t high = 0;
  for (int i = 0; i < 4; i++) {
    gorge_relaxed_store32(&at[i], (uint32_t)times[i]);
    high |= (uint32_t)(times[i] >> 32) << 8 * i;
  }
  gorge_relaxed_store32(&at[4], high);
  uint32_t load = life->load_ms < 0xffffff ? (uint32_t)life->load_ms : 0xffffff;
  gorge_relaxed_store32(&at[5], load << 8 | (life->failures < 0xff ? life->failures : 0xff));
}

static void write_extra(uint32_t *at, const struct gorge_entry *entry, const struct gorge_snapshot *s,
                        uint32_t extra_units) {
  char names[GORGE_TAGS_MAX * (GORGE_TAG_MAX + 1)];
  uint32_t len = 0, first = extra_units | entry->ntags << 16 | (uint32_t)has_life(entry) << GORGE_EXTRA_LIFE_BIT;
  gorge_relaxed_store32(at, first);
  if (has_life(entry)) {
    write_life(at + 1, entry);
  }
  at += gorge_extra_records_at(first);
  for (uint32_t i = 0; i < entry->ntags; i++) {
    gorge_relaxed_store32(at++, (uint32_t)s->tag_gen[i]);
    gorge_relaxed_store32(at++, (uint32_t)(s->tag_gen[i] >> 32));
    gorge_relaxed_store32(at++, s->tag_cell[i]);
    names[len++] = (char)entry->tags[i].len;
    memcpy(names + len, entry->tags[i].ptr, entry->tags[i].len);
    len += entry->tags[i].len;
  }
  gorge_relaxed_write(at, names, len);
}

void gorge_entry_write(uint32_t *at, const struct gorge_head *h, const struct gorge_key *key,
                       const struct gorge_entry *entry, const struct gorge_snapshot *s, uint32_t extra_units) {
  gorge_head_store(at, h);
  gorge_relaxed_write(at + GORGE_HEAD_UNITS, key->ptr, key->len);
  if (entry->value_len > 0) {
    gorge_relaxed_write(at + gorge_head_value_at(h), entry->value, entry->value_len);
  }
  uint32_t *extra = at + gorge_head_extra_at(h);
  if (entry->version != 0) {
    gorge_relaxed_store32(&extra[-2], (uint32_t)entry->version);
    gorge_relaxed_store32(&extra[-1], (uint32_t)(entry->version >> 32));
  }
  if (extra_units > 0) {
    write_extra(extra, entry, s, extra_units);
  }
}
