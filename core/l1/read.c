/* SPDX-License-Identifier: MIT */
/*
 * Reading without a lock. A reader copies first and finds out afterwards whether what it copied was the entry:
 *
 *   reader                                     writer
 *   slot        (acquire)                      clear slot          (release) | evict
 *   header, key, value  (relaxed words)        move tail           (release) |
 *   fence       (acquire)                      fence               (release)
 *   tail, fence word, slot  (relaxed)          bytes               (relaxed) | append
 *                                              head, slot          (release) |
 *
 *  - What a slot's word led to was complete when the word was stored: acquire of the slot, release of the publisher.
 *  - If any byte copied is from a later use of the space, the two fences make the reader see that the slot was cleared or
 *    the tail was moved before. Words of slots do not come back: offsets only grow.
 *  - If the slot is unchanged, the entry was the key's when the slot was looked at last: that moment is the read's.
 *  - The shard's epoch, compared last, hides what a stopped writer publishes after it was given up (shard.h).
 */
#include "base/broken.h"
#include "base/hash_inline.h"
#include "l1/evict.h"
#include "l1/probe.h"
#include "l1/uses.h"

/*
 * Whether the tags of an entry are as they were when it was written. *ntags: their number. By value: a probe that had an address would
 * stand in memory, for hits without tags too.
 */
static __attribute__((noinline)) bool tags_current(const struct gorge_zone *zone, struct gorge_head head,
                                                   const uint32_t *entry, uint64_t limit, uint32_t *ntags) {
  uint32_t at = gorge_head_extra_at(&head);
  if (gorge_entry_units(&head, entry, limit) == 0) {
    return false;
  }
  uint32_t first = gorge_relaxed_load32(&entry[at]);
  *ntags = gorge_extra_tags(first);
  at += gorge_extra_records_at(first);
  /* Range-checked again: the word may have changed since. */
  if (*ntags > GORGE_TAGS_MAX || at + *ntags * GORGE_TAG_RECORD_UNITS > limit) {
    return false;
  }
  for (uint32_t i = 0; i < *ntags; i++, at += GORGE_TAG_RECORD_UNITS) {
    const uint32_t *record = entry + at;
    uint64_t generation = gorge_relaxed_load32(&record[0]) | (uint64_t)gorge_relaxed_load32(&record[1]) << 32;
    if (GORGE_CHECKS(TAG) && gorge_stamps_generation(zone, gorge_relaxed_load32(&record[2])) != generation) {
      return false;
    }
  }
  return true;
}

/* What an entry's life says of a moment: GORGE_HIT, GORGE_DUE, GORGE_STALE, or GORGE_MISS when it is over. */
static __attribute__((noinline)) int age_at(struct gorge_head head, const uint32_t *entry, uint64_t limit,
                                            uint64_t now_ms, struct gorge_life *life) {
  double now = (double)now_ms;
  if (!gorge_entry_life(&head, entry, limit, life)) {
    return GORGE_MISS;
  }
  if (now < life->ends_ms) {
    return gorge_head_expires(&head) > now_ms ? GORGE_HIT : GORGE_DUE;
  }
  return now < life->keeps_ms ? GORGE_STALE : GORGE_MISS;
}

/*
 * Copies what the entry says. Returns GORGE_HIT, GORGE_SPACE or GORGE_MISS, to be believed when the probe is valid. `age` NULL: an entry
 * whose life has to be looked at counts as a miss; else it receives what age_at says, other than GORGE_MISS.
 */
GORGE_HOT int copy(const struct gorge_shard *v, const struct gorge_words *words, const struct gorge_probe *p,
                   const struct gorge_key *key, uint64_t now_ms, struct gorge_read *out, int *age) {
  const struct gorge_head *head = &p->head;
  uint64_t expires = gorge_head_expires(head);
  uint32_t len = gorge_head_value_len(head);
  if (gorge_head_extra_at(head) > p->limit) {
    return GORGE_MISS;
  }
  if (age != NULL) {
    *age = age_at(*head, p->at, p->limit, now_ms, &out->life);
    if (*age == GORGE_MISS) {
      return GORGE_MISS;
    }
  } else if (expires <= now_ms) {
    return GORGE_MISS;
  }
  out->len = len;
  out->kind = gorge_head_kind(head);
  out->ntags = 0;
  out->expires_ms = (double)expires;
  out->version = gorge_entry_version(head, p->at);
  int status = GORGE_SPACE;
  if (len <= out->buf_size) {
    uint32_t at = gorge_head_value_at(head);
    gorge_relaxed_read_ahead(out->buf, out->buf_size, p->at + at, len, (p->limit - at) * GORGE_L1_UNIT);
    status = GORGE_HIT;
  }
  if (gorge_head_extra(head) && !tags_current(v->zone, *head, p->at, p->limit, &out->ntags)) {
    return GORGE_MISS;
  }
  return gorge_probe_epoch_current(words, p, key) ? status : GORGE_MISS;
}

static inline void raise_frequency(const uint64_t *slot, uint64_t word) {
  if (gorge_slot_freq(word) < GORGE_FREQ_MAX) {
    /*
     * relaxed: the word leads to the same entry as before; a reader that acquires the raised word still synchronizes with the
     * publisher, since an RMW continues its release sequence. A raise that is lost is one hit less. The slot is the zone's
     * memory, const for callers only.
     */
    __atomic_compare_exchange_n((uint64_t *)(uintptr_t)slot, &word, word + GORGE_SLOT_FREQ_ONE, false, __ATOMIC_RELAXED,
                                __ATOMIC_RELAXED);
  }
}

static int miss(struct gorge_read *out) {
  out->slot = NULL;
  out->word = 0;
  return GORGE_MISS;
}

/* A whole read of a key of shard v. `stale`: also of an entry that has expired; *age tells. */
static int read_key(const struct gorge_shard *v, const struct gorge_words *words, const struct gorge_key *key,
                    uint64_t now_ms, bool use, bool stale, struct gorge_read *out, int *age) {
  struct gorge_probe p;
  out->global = key->global;
  /* acquire: partner of set_fresh in drive/control_contact.c; who may read L1 once more sees all that was heard by then. */
  if (now_ms >= __atomic_load_n(&words->fresh_until_ms, __ATOMIC_ACQUIRE)) {
    return miss(out);
  }
  for (int i = 0; i < GORGE_PROBE_ATTEMPTS; i++) {
    enum gorge_verdict verdict = gorge_probe_find(v, key, &p);
    if (verdict == GORGE_PROBE_GONE) {
      break;
    }
    if (verdict == GORGE_PROBE_CHANGED) {
      continue;
    }
    int status = copy(v, words, &p, key, now_ms, out, age);
    verdict = gorge_probe_judge(v, &p);
    if (verdict == GORGE_PROBE_VALID && status != GORGE_MISS && (stale || *age != GORGE_STALE)) {
      out->slot = p.slot;
      out->word = gorge_slot_identity(p.word);
      if (use) {
        raise_frequency(p.slot, p.word);
      }
      return status;
    }
    if (verdict != GORGE_PROBE_CHANGED) {
      break;
    }
  }
  return miss(out);
}

static int read_aged(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms, bool use, bool stale,
                     struct gorge_read *out, int *age) {
  struct gorge_shard v;
  if (!gorge_shard_of(zone, key->hash, &v)) {
    out->global = key->global;
    return miss(out);
  }
  return read_key(&v, gorge_zone_words(zone, key->ns), key, now_ms, use, stale, out, age);
}

int gorge_l1_read(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms, bool use,
                  struct gorge_read *out) {
  int age = GORGE_MISS;
  return read_aged(zone, key, now_ms, use, false, out, &age);
}

int gorge_l1_look(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms, bool use, bool stale,
                  struct gorge_read *out) {
  int age = GORGE_MISS;
  int status = read_aged(zone, key, now_ms, use, stale, out, &age);
  return status == GORGE_HIT ? age : status;
}

int gorge_l1_age(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms, struct gorge_read *out) {
  int age = GORGE_MISS;
  out->buf = NULL;
  out->buf_size = 0;
  return read_aged(zone, key, now_ms, false, true, out, &age) == GORGE_MISS ? GORGE_MISS : age;
}

void gorge_l1_reader_init(const struct gorge_zone *zone, uint32_t ns, struct gorge_l1_reader *out) {
  struct gorge_shard first, last;
  uint32_t shards = gorge_l1_header(zone)->shards;
  *out = (struct gorge_l1_reader){.zone = zone, .words = gorge_zone_words(zone, ns), .ns = ns};
  if (shards == 0 || (shards & (shards - 1)) != 0 || !gorge_shard_at(zone, 0, &first) ||
      !gorge_shard_at(zone, shards - 1, &last)) {
    return;
  }
  out->shards = (char *)first.shared;
  out->shard_bytes = shards == 1 ? 0 : (uint64_t)((char *)last.shared - out->shards) / (shards - 1);
  out->area_at = (uint64_t)((char *)first.area - out->shards);
  out->shard_mask = shards - 1;
  out->area_units = first.area_units;
  out->lap_shift = first.lap_shift;
  out->buckets = first.buckets;
}

/* A miss is mostly followed by a fill, which begins with a look at the key's stamp. */
static __attribute__((noinline)) int miss_ahead(const struct gorge_l1_reader *reader, uint64_t hash,
                                                struct gorge_read *out) {
  gorge_stamps_prefetch(reader->zone, gorge_stamps_cell(reader->zone, hash));
  return miss(out);
}

/* What the short way below cannot say. */
static __attribute__((noinline)) int look_again(const struct gorge_l1_reader *reader, const char *ptr, uint32_t len,
                                                uint64_t hash, uint64_t now_ms, struct gorge_read *out) {
  struct gorge_key key = {.ptr = ptr, .len = len, .ns = reader->ns, .hash = hash, .global = out->global};
  gorge_stamps_prefetch(reader->zone, gorge_stamps_cell(reader->zone, hash)); /* see miss_ahead */
  return gorge_l1_look(reader->zone, &key, now_ms, true, false, out);
}

/* The shard of a hash, as gorge_shard_of finds it. */
GORGE_HOT struct gorge_shard shard_of(const struct gorge_l1_reader *reader, uint64_t hash) {
  char *start = reader->shards + ((uint32_t)(hash >> 32) & reader->shard_mask) * reader->shard_bytes;
  return (struct gorge_shard){
      .zone = reader->zone,
      .shared = (struct gorge_l1_shard *)(void *)start,
      .slots = (uint64_t *)(void *)(start + sizeof(struct gorge_l1_shard)),
      .area = (uint32_t *)(void *)(start + reader->area_at),
      .area_units = reader->area_units,
      .lap_shift = reader->lap_shift,
      .buckets = reader->buckets,
  };
}

/*
 * The read that nearly all are: the first slot with the fingerprint leads to the key, the entry is good, nobody is in the way. One
 * line of code without loops keeps its state in registers. What is different in any way is left to gorge_l1_look.
 */
int gorge_l1_get(const struct gorge_l1_reader *reader, const char *ptr, uint32_t len, uint64_t now_ms,
                 struct gorge_read *out) {
  const struct gorge_words *words = reader->words;
  struct gorge_key key = {.ptr = ptr, .len = len, .ns = reader->ns};
  /* acquire: partner of the release additions to the word; what is read next is not older than it. */
  key.global = __atomic_load_n(&words->global, __ATOMIC_ACQUIRE);
  key.hash = gorge_hash_inline(ptr, len, gorge_stamps_seed(words, gorge_global_epoch(key.global)));
  out->global = key.global;
  /* acquire: partner of set_fresh in drive/control_contact.c, as in read_key. */
  if (reader->shards == NULL || now_ms >= __atomic_load_n(&words->fresh_until_ms, __ATOMIC_ACQUIRE)) {
    return miss(out);
  }
  struct gorge_shard v = shard_of(reader, key.hash);
  uint32_t fingerprint = gorge_hash_fingerprint(key.hash);
  const uint64_t *bucket = gorge_index_bucket(&v, key.hash, 0);
  uint32_t match = gorge_index_match(bucket, fingerprint);
  if (match == 0) { /* not fetched ahead: where there is room, entries stand in their first bucket */
    bucket = gorge_index_bucket(&v, key.hash, 1);
    match = gorge_index_match(bucket, fingerprint);
    if (match == 0) {
      return miss_ahead(reader, key.hash, out);
    }
  }
  struct gorge_probe p;
  if (gorge_probe_slot(&v, &key, &bucket[gorge_match_first(match)], &p)) {
    int status = copy(&v, words, &p, &key, now_ms, out, NULL);
    if (status != GORGE_MISS && gorge_probe_judge(&v, &p) == GORGE_PROBE_VALID) {
      out->slot = p.slot;
      out->word = gorge_slot_identity(p.word);
      raise_frequency(p.slot, p.word);
      return status;
    }
  }
  return look_again(reader, ptr, len, key.hash, now_ms, out);
}

void gorge_l1_touch_frequency(const uint64_t *slot, uint64_t word) {
  /* relaxed: only the frequency is of interest, and the CAS compares the rest. */
  uint64_t now = __atomic_load_n(slot, __ATOMIC_RELAXED);
  if (gorge_slot_identity(now) == gorge_slot_identity(word)) {
    raise_frequency(slot, now);
  }
}

/* Copies the names of the tags. Returns their number; 0: none, or they do not fit. */
static uint32_t copy_names(const struct gorge_probe *p, char *buf, uint32_t size, uint32_t *len) {
  char names[GORGE_TAGS_MAX * (GORGE_TAG_MAX + 1)] = {0};
  uint32_t at = gorge_head_extra_at(&p->head);
  if (!gorge_head_extra(&p->head) || at >= p->limit) {
    return 0;
  }
  uint32_t first = gorge_relaxed_load32(&p->at[at]), n = gorge_extra_tags(first), used = 0;
  uint32_t skip = gorge_extra_records_at(first) + n * GORGE_TAG_RECORD_UNITS, units = gorge_extra_units(first);
  if (n > GORGE_TAGS_MAX || units < skip || at + units > p->limit || (units - skip) * GORGE_L1_UNIT > sizeof names) {
    return 0;
  }
  gorge_relaxed_read(names, p->at + at + skip, (units - skip) * GORGE_L1_UNIT);
  for (uint32_t i = 0; i < n; i++) {
    if (used >= (units - skip) * GORGE_L1_UNIT) {
      return 0;
    }
    used += 1U + (unsigned char)names[used];
  }
  if (used > (units - skip) * GORGE_L1_UNIT || used > size) {
    return 0;
  }
  memcpy(buf, names, used);
  *len = used;
  return n;
}

uint32_t gorge_l1_tags(const struct gorge_zone *zone, const struct gorge_key *key, char *buf, uint32_t size,
                       uint32_t *len) {
  struct gorge_shard v;
  struct gorge_probe p;
  *len = 0;
  if (!gorge_shard_of(zone, key->hash, &v)) {
    return 0;
  }
  for (int i = 0; i < GORGE_PROBE_ATTEMPTS; i++) {
    enum gorge_verdict verdict = gorge_probe_find(&v, key, &p);
    if (verdict == GORGE_PROBE_GONE) {
      break;
    }
    if (verdict == GORGE_PROBE_VALID) {
      uint32_t n =
          gorge_probe_epoch_current(gorge_zone_words(zone, key->ns), &p, key) ? copy_names(&p, buf, size, len) : 0;
      verdict = gorge_probe_judge(&v, &p);
      if (verdict == GORGE_PROBE_VALID) {
        return n;
      }
      *len = 0;
      if (verdict != GORGE_PROBE_CHANGED) {
        break;
      }
    }
  }
  return 0;
}

bool gorge_l1_entry(const struct gorge_shard *v, const uint64_t *slot, uint64_t now_ms, struct gorge_hot *out) {
  struct gorge_probe p = {.slot = slot};
  /* acquire: partner of the release in gorge_index_publish. */
  p.word = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
  uint64_t position = gorge_shard_position(v, p.word);
  if (p.word == 0 || position + GORGE_HEAD_UNITS > v->area_units) {
    return false;
  }
  p.at = v->area + position;
  p.limit = v->area_units - position;
  p.head = gorge_head_load(p.at);
  uint32_t ntags = 0, len = gorge_head_key_len(&p.head), ns = gorge_head_ns(&p.head);
  if (gorge_head_kind(&p.head) == GORGE_KIND_PAD || gorge_head_extra_at(&p.head) > p.limit ||
      gorge_head_expires(&p.head) <= now_ms ||
      (gorge_head_extra(&p.head) && !tags_current(v->zone, p.head, p.at, p.limit, &ntags)) ||
      gorge_head_ns_epoch(&p.head) != (uint8_t)gorge_global_epoch(gorge_stamps_global(v->zone, ns))) {
    return false;
  }
  out->hits = 0;
  out->ns = ns;
  out->frequency = (uint32_t)gorge_slot_freq(p.word) + gorge_evict_frequency(v, &p.head);
  out->size = gorge_head_value_len(&p.head);
  out->key_len = len;
  out->expires_ms = (double)gorge_head_expires(&p.head);
  gorge_relaxed_read(out->key, p.at + GORGE_HEAD_UNITS, len < GORGE_HOT_KEY_MAX ? len : GORGE_HOT_KEY_MAX);
  return gorge_probe_judge(v, &p) == GORGE_PROBE_VALID;
}
