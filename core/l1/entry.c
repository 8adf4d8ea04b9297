/* SPDX-License-Identifier: MIT */
#include "l1/entry.h"

uint32_t gorge_entry_units_tagged(uint32_t units, const uint32_t *at, uint64_t limit) {
  if (units >= limit) {
    return 0;
  }
  uint32_t first = gorge_relaxed_load32(&at[units]);
  if (gorge_extra_tags(first) > GORGE_TAGS_MAX ||
      gorge_extra_units(first) < 1 + gorge_extra_tags(first) * GORGE_TAG_RECORD_UNITS) {
    return 0;
  }
  units += gorge_extra_units(first);
  return units <= limit ? units : 0;
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
  return GORGE_HEAD_UNITS + gorge_units(key->len) + gorge_units(entry->value_len) + (entry->version != 0 ? 2 : 0) +
         *extra_units;
}

struct gorge_head gorge_entry_head(const struct gorge_key *key, const struct gorge_entry *entry, uint8_t shard_epoch,
                                   uint8_t ns_epoch) {
  uint64_t expires = entry->expires_ms < GORGE_HEAD_EXPIRES_MAX ? entry->expires_ms : GORGE_HEAD_EXPIRES_MAX;
  struct gorge_head h;
  h.unit[0] = (key->len - 1) | key->ns << GORGE_HEAD_NS_BIT | (entry->kind & 15) << GORGE_HEAD_KIND_BIT |
              (uint32_t)(entry->version != 0) << GORGE_HEAD_VERSION_BIT |
              (uint32_t)(entry->ntags != 0) << GORGE_HEAD_EXTRA_BIT;
  h.unit[1] = entry->value_len | (uint32_t)ns_epoch << 24;
  h.unit[2] = (uint32_t)expires;
  h.unit[3] = (uint32_t)(expires >> 32) | (uint32_t)shard_epoch << 8;
  return h;
}

static void write_tags(uint32_t *at, const struct gorge_entry *entry, const struct gorge_snapshot *s,
                       uint32_t extra_units) {
  char names[GORGE_TAGS_MAX * (GORGE_TAG_MAX + 1)];
  uint32_t len = 0;
  gorge_relaxed_store32(at++, extra_units | entry->ntags << 16);
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
  if (entry->ntags > 0) {
    write_tags(extra, entry, s, extra_units);
  }
}
