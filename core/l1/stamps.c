/* SPDX-License-Identifier: MIT */
#include "l1/stamps.h"

#include "base/hash.h"

static const uint64_t HARD_ONE = (uint64_t)1 << 32;
static const uint64_t EPOCH_ONE = (uint64_t)1 << 32;

/* The `size` bytes at `at` of the region, which the caller knows to be one of `count` there; else the scratch words. */
static void *element(const struct gorge_zone *zone, uint64_t at, uint32_t number, uint32_t count, size_t size) {
  struct gorge_l1_header *l1 = gorge_l1_header(zone);
  uint64_t from = at + number * size;
  if (number >= count || at > zone->region_size[GORGE_REGION_L1] || from + size > zone->region_size[GORGE_REGION_L1] ||
      at % GORGE_L1_LINE != 0) {
    return l1->scratch;
  }
  return (char *)l1 + from;
}

static struct gorge_stamp_cell *cell_at(const struct gorge_zone *zone, uint32_t cell) {
  return element(zone, sizeof(struct gorge_l1_header), cell, gorge_l1_header(zone)->stamp_cells,
                 sizeof(struct gorge_stamp_cell));
}

static uint64_t *generation_at(const struct gorge_zone *zone, uint32_t cell) {
  const struct gorge_l1_header *l1 = gorge_l1_header(zone);
  return element(zone, l1->tags_at, cell, l1->tag_cells, sizeof(uint64_t));
}

uint64_t gorge_stamps_hash(const struct gorge_words *words, const char *ptr, uint32_t len, uint32_t epoch) {
  return gorge_hash(ptr, len, gorge_stamps_seed(words, epoch));
}

void gorge_key_init(const struct gorge_zone *zone, uint32_t ns, const char *ptr, uint32_t len, struct gorge_key *key) {
  const struct gorge_words *words = gorge_zone_words(zone, ns);
  key->ptr = ptr;
  key->len = len;
  key->ns = ns;
  /* acquire: partner of the release additions to the word; what is read next is not older than it. */
  key->global = __atomic_load_n(&words->global, __ATOMIC_ACQUIRE);
  key->hash = gorge_stamps_hash(words, ptr, len, gorge_global_epoch(key->global));
}

void gorge_key_renew(const struct gorge_zone *zone, struct gorge_key *key) {
  uint64_t global = gorge_stamps_global(zone, key->ns);
  if (gorge_global_epoch(global) != gorge_global_epoch(key->global)) {
    gorge_key_init(zone, key->ns, key->ptr, key->len, key);
    return;
  }
  key->global = global;
}

const struct gorge_key *gorge_stamps_fresh(const struct gorge_zone *zone, const struct gorge_key *key,
                                           struct gorge_key *fresh) {
  if (gorge_global_epoch(gorge_stamps_global(zone, key->ns)) == gorge_global_epoch(key->global)) {
    return key;
  }
  gorge_key_init(zone, key->ns, key->ptr, key->len, fresh);
  return fresh;
}

uint32_t gorge_stamps_cell(const struct gorge_zone *zone, uint64_t hash) {
  return (uint32_t)((uint64_t)((uint32_t)hash * 0xC2B2AE35U) * gorge_l1_header(zone)->stamp_cells >> 32);
}

void gorge_stamps_prefetch(const struct gorge_zone *zone, uint32_t cell) {
  const struct gorge_stamp_cell *at = cell_at(zone, cell);
  /* In any case: gcc drops calls of a function that does nothing else. */
  __asm__ volatile("" : : "r"(at));
  __builtin_prefetch(at, 1);
}

uint64_t gorge_stamps_changes(const struct gorge_zone *zone, uint32_t cell) {
  /* acquire: partner of the additions below; what the filler reads next is not older than the cell. */
  return __atomic_load_n(&cell_at(zone, cell)->changes, __ATOMIC_ACQUIRE);
}

uint64_t gorge_stamps_floor(const struct gorge_zone *zone, uint32_t cell) {
  /* acquire: partner of the CAS in gorge_stamps_raise_floor. */
  return __atomic_load_n(&cell_at(zone, cell)->floor, __ATOMIC_ACQUIRE);
}

uint64_t gorge_stamps_newest(const struct gorge_zone *zone, uint32_t cell) {
  /* acquire: partner of the CAS in gorge_stamps_raise_newest. */
  return __atomic_load_n(&cell_at(zone, cell)->newest, __ATOMIC_ACQUIRE);
}

/*
 * acq_rel: release, partner of the acquire loads of gorge_stamps_changes; the check of an insert, made under the shard's lock, is
 * ordered with the caller's turn of that lock, or with the shard's fence when the lock cannot be had.
 */
uint64_t gorge_stamps_bump_hard(const struct gorge_zone *zone, uint32_t cell) {
  return __atomic_add_fetch(&cell_at(zone, cell)->changes, HARD_ONE, __ATOMIC_ACQ_REL);
}

/* An overflow of soft reaches hard, and refuses a fill more. acq_rel: partner of gorge_stamps_changes, as above. */
uint64_t gorge_stamps_bump_soft(const struct gorge_zone *zone, uint32_t cell) {
  return __atomic_add_fetch(&cell_at(zone, cell)->changes, 1, __ATOMIC_ACQ_REL);
}

/* acq_rel: partner of gorge_stamps_changes, as above. */
uint64_t gorge_stamps_bump_both(const struct gorge_zone *zone, uint32_t cell) {
  return __atomic_add_fetch(&cell_at(zone, cell)->changes, HARD_ONE + 1, __ATOMIC_ACQ_REL);
}

static void raise_to(uint64_t *word, uint64_t version) {
  /* relaxed: a first guess for the CAS. */
  uint64_t seen = __atomic_load_n(word, __ATOMIC_RELAXED);
  /* Each turn another one has raised it: it ends. acq_rel: partner of gorge_stamps_floor and gorge_stamps_newest. */
  while (seen < version &&
         !__atomic_compare_exchange_n(word, &seen, version, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
  }
}

void gorge_stamps_raise_floor(const struct gorge_zone *zone, uint32_t cell, uint64_t version) {
  raise_to(&cell_at(zone, cell)->floor, version);
}

void gorge_stamps_raise_newest(const struct gorge_zone *zone, uint32_t cell, uint64_t version) {
  raise_to(&cell_at(zone, cell)->newest, version);
}

uint32_t gorge_stamps_tag_cell(const struct gorge_zone *zone, uint32_t ns, const char *tag, uint32_t len) {
  const struct gorge_l1_header *l1 = gorge_l1_header(zone);
  uint64_t hash = gorge_hash(tag, len, l1->seed + ns * GORGE_EPOCH_MIX);
  return (uint32_t)((hash >> 32) * l1->tag_cells >> 32);
}

uint64_t gorge_stamps_generation(const struct gorge_zone *zone, uint32_t tag_cell) {
  /* acquire: partner of the addition in gorge_l1_invalidate_tag. */
  return __atomic_load_n(generation_at(zone, tag_cell), __ATOMIC_ACQUIRE);
}

bool gorge_stamps_current(const struct gorge_zone *zone, uint32_t ns, const struct gorge_snapshot *s) {
  bool current = gorge_global_epoch(gorge_stamps_global(zone, ns)) == s->epoch && s->ntags <= GORGE_TAGS_MAX;
  for (uint32_t i = 0; current && i < s->ntags; i++) {
    current = gorge_stamps_generation(zone, s->tag_cell[i]) == s->tag_gen[i];
  }
  return current;
}

void gorge_l1_snapshot(const struct gorge_zone *zone, const struct gorge_key *key, const struct gorge_tag *tags,
                       uint32_t ntags, struct gorge_snapshot *out) {
  struct gorge_key fresh;
  key = gorge_stamps_fresh(zone, key, &fresh);
  out->epoch = gorge_global_epoch(key->global);
  out->cell = gorge_stamps_cell(zone, key->hash);
  uint64_t changes = gorge_stamps_changes(zone, out->cell);
  out->hard = (uint32_t)(changes >> 32);
  out->soft = (uint32_t)changes;
  out->floor = gorge_stamps_floor(zone, out->cell);
  out->ntags = ntags <= GORGE_TAGS_MAX ? ntags : GORGE_TAGS_MAX;
  for (uint32_t i = 0; i < out->ntags; i++) {
    out->tag_cell[i] = gorge_stamps_tag_cell(zone, key->ns, tags[i].ptr, tags[i].len);
    out->tag_gen[i] = gorge_stamps_generation(zone, out->tag_cell[i]);
  }
}

bool gorge_l1_snapshot_current(const struct gorge_zone *zone, uint32_t ns, const struct gorge_snapshot *s) {
  return gorge_stamps_current(zone, ns, s) && (uint32_t)(gorge_stamps_changes(zone, s->cell) >> 32) == s->hard &&
         gorge_stamps_floor(zone, s->cell) == s->floor;
}

bool gorge_l1_snapshot_unchanged(const struct gorge_zone *zone, uint32_t ns, const struct gorge_snapshot *s) {
  return gorge_l1_snapshot_current(zone, ns, s) && (uint32_t)gorge_stamps_changes(zone, s->cell) == s->soft;
}

void gorge_l1_invalidate_tag(struct gorge_zone *zone, uint32_t ns, const char *tag, uint32_t len) {
  uint64_t *global = &gorge_zone_words(zone, ns)->global;
  /*
   * relaxed: made visible by the release below. Who finds the new generation finds that the word has moved, so that a fill
   * which learns its tags late cannot take the generation for one from before the fill (engine/fill.c).
   */
  __atomic_fetch_add(global, 1, __ATOMIC_RELAXED);
  /* release: partner of gorge_stamps_generation; who reads the new global word reads the new generation, too. */
  __atomic_fetch_add(generation_at(zone, gorge_stamps_tag_cell(zone, ns, tag, len)), 1, __ATOMIC_RELEASE);
  /* release: partner of the acquire load in gorge_stamps_global. */
  __atomic_fetch_add(global, 1, __ATOMIC_RELEASE);
}

void gorge_l1_bump_epoch(struct gorge_zone *zone, uint32_t ns) {
  struct gorge_words *words = gorge_zone_words(zone, ns);
  /* release: partner of the acquire load in gorge_stamps_global. */
  __atomic_fetch_add(&words->global, EPOCH_ONE, __ATOMIC_RELEASE);
  __atomic_fetch_add(&words->epoch, 1, __ATOMIC_RELAXED); /* for people: how often it happened */
}
