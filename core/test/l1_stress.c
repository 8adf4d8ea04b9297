/* SPDX-License-Identifier: MIT */
#include "test/l1_stress.h"

#include <stdio.h>
#include <string.h>

#include "base/hash.h"

/* What stands in front of the filling of a value. */
struct stress_value {
  uint64_t sum, key, truth, tag_truth;
};

static uint64_t load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_SEQ_CST); }

static void raise_to(uint64_t *word, uint64_t value) {
  uint64_t seen = load(word);
  while (seen < value && !__atomic_compare_exchange_n(word, &seen, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
  }
}

static void count(uint64_t *word) { __atomic_fetch_add(word, 1, __ATOMIC_RELAXED); }

/* What is counted most often. The words are shared by all: each addition would wait for the others'. */
static void count_batch(uint64_t *word, uint32_t *here) {
  if (++*here == STRESS_BATCH) {
    *here = 0;
    __atomic_fetch_add(word, STRESS_BATCH, __ATOMIC_RELAXED);
  }
}

static void complain(struct stress *w, const char *what, uint32_t key, uint64_t is, uint64_t least) {
  if (__atomic_fetch_add(&w->errors, 1, __ATOMIC_SEQ_CST) == 0) {
    snprintf(w->first_error, sizeof w->first_error, "%s: key %u: %llu, at least %llu expected", what, key,
             (unsigned long long)is, (unsigned long long)least);
  }
}

static bool versioned(uint32_t key) { return key % 3 == 0; }
static bool tagged(uint32_t key) { return key % 3 == 1; }

void stress_user_init(struct stress_user *u, const struct l1 *l1, struct stress *world, uint64_t seed,
                      uint32_t writes_per_mille) {
  memset(u, 0, sizeof *u);
  u->l1 = *l1;
  u->world = world;
  u->random = seed * 0x9E3779B97F4A7C15U + 1;
  u->weight = writes_per_mille;
  u->large = 1;
}

static uint32_t make_value(struct stress_user *u, uint32_t key, uint64_t truth, uint64_t tag_truth) {
  struct stress_value v = {.key = key, .truth = truth, .tag_truth = tag_truth};
  uint32_t len = (uint32_t)sizeof v + proc_random(&u->random) % 150;
  if (proc_random(&u->random) % 16 < u->large) {
    len += proc_random(&u->random) % (STRESS_VALUE_MAX - len);
  }
  memset(u->value + sizeof v, (int)(truth * 31 + key), len - sizeof v);
  memcpy(u->value, &v, sizeof v);
  v.sum = gorge_hash(u->value + 8, len - 8, key);
  memcpy(u->value, &v.sum, 8);
  return len;
}

int stress_fill(struct stress_user *u, uint32_t number) {
  struct stress *w = u->world;
  char name[24];
  l1_name(name, number);
  struct gorge_key key = l1_key(&u->l1, name, strlen(name));
  struct gorge_tag tag = {"t", 1};
  char tag_name = (char)('a' + number % STRESS_TAGS);
  tag.ptr = &tag_name;
  uint32_t ntags = tagged(number);
  struct gorge_snapshot s;
  gorge_l1_snapshot(u->l1.zone, &key, &tag, ntags, &s);
  uint64_t truth = load(&w->truth[number]), tag_truth = load(&w->tag_truth[number % STRESS_TAGS]);
  struct gorge_entry entry = {.value = u->value,
                              .value_len = make_value(u, number, truth, tag_truth),
                              .kind = GORGE_KIND_STRING,
                              .version = versioned(number) ? truth + 1 : 0,
                              .expires_ms = UINT64_MAX,
                              .ntags = ntags,
                              .tags = &tag};
  int status = gorge_l1_insert(u->l1.zone, &u->l1.owner, &key, &entry, &s, u->l1.now_ms, NULL);
  count(status == GORGE_STORED ? &w->stored : status == GORGE_BUSY ? &w->busy : &w->refused);
  return status;
}

void stress_write(struct stress_user *u, uint32_t number) {
  struct stress *w = u->world;
  char name[24];
  l1_name(name, number);
  uint64_t truth = __atomic_add_fetch(&w->truth[number], 1, __ATOMIC_SEQ_CST);
  struct gorge_key key = l1_key(&u->l1, name, strlen(name));
  gorge_l1_invalidate(u->l1.zone, &u->l1.owner, &key, versioned(number) ? truth + 1 : 0, NULL);
  raise_to(&w->acknowledged[number], truth);
  count(&w->writes);
}

static void write_tag(struct stress_user *u, uint32_t tag) {
  struct stress *w = u->world;
  char name = (char)('a' + tag);
  uint64_t truth = __atomic_add_fetch(&w->tag_truth[tag], 1, __ATOMIC_SEQ_CST);
  if (proc_random(&u->random) % 50 == 0) {
    gorge_l1_bump_epoch(u->l1.zone, u->l1.ns);
  } else {
    gorge_l1_invalidate_tag(u->l1.zone, u->l1.ns, &name, 1);
  }
  raise_to(&w->tag_acknowledged[tag], truth);
  count(&w->writes);
}

/* Only what is tagged reflects the writes of its tag. */
static uint64_t tag_least(const struct stress *w, uint32_t number) {
  return tagged(number) ? load(&w->tag_acknowledged[number % STRESS_TAGS]) : 0;
}

void stress_read(struct stress_user *u, uint32_t number) {
  struct stress *w = u->world;
  char name[24];
  l1_name(name, number);
  uint64_t least = load(&w->acknowledged[number]), tag = tag_least(w, number);
  uint64_t seen = load(&w->seen[number]), tag_seen = load(&w->tag_seen[number]);
  struct gorge_key key = l1_key(&u->l1, name, strlen(name));
  struct gorge_read read = {.buf = u->buf, .buf_size = sizeof u->buf};
  if (gorge_l1_read(u->l1.zone, &key, u->l1.now_ms, true, &read) != GORGE_HIT) {
    return;
  }
  struct stress_value v;
  memcpy(&v, u->buf, sizeof v);
  if (read.len < sizeof v || v.key != number || gorge_hash(u->buf + 8, read.len - 8, number) != v.sum) {
    complain(w, "wrong bytes", number, v.key, number);
    return;
  }
  if (v.truth < least || v.truth < seen) {
    complain(w, "an old value", number, v.truth, least > seen ? least : seen);
  }
  if (tagged(number) && (v.tag_truth < tag || v.tag_truth < tag_seen)) {
    complain(w, "a value of an old tag", number, v.tag_truth, tag > tag_seen ? tag : tag_seen);
  }
  raise_to(&w->seen[number], v.truth);
  if (tagged(number)) {
    raise_to(&w->tag_seen[number], v.tag_truth);
  }
  count_batch(&w->hits, &u->hits);
  u->record[proc_random(&u->random) % STRESS_RECORDS] =
      (struct stress_record){number, v.truth, v.tag_truth, read.slot, read.word, read.global};
}

/* An L0 hit: two loads, in the order in which Lua makes them. */
static void read_record(struct stress_user *u, const struct stress_record *r) {
  struct stress *w = u->world;
  if (r->slot == NULL) {
    return;
  }
  uint64_t least = load(&w->acknowledged[r->key]), seen = load(&w->seen[r->key]), tag = tag_least(w, r->key);
  uint64_t word = __atomic_load_n(r->slot, __ATOMIC_ACQUIRE);
  uint64_t global = __atomic_load_n(&gorge_zone_words(u->l1.zone, u->l1.ns)->global, __ATOMIC_ACQUIRE);
  if ((word & ~GORGE_SLOT_FREQ) != r->word || global != r->global) {
    return;
  }
  if (r->truth < least || r->truth < seen || (tagged(r->key) && r->tag_truth < tag)) {
    complain(w, "an old record", r->key, r->truth, least > seen ? least : seen);
  }
  gorge_l1_touch_frequency(r->slot, r->word);
  count_batch(&w->records, &u->records);
}

void stress_step(struct stress_user *u) {
  uint32_t what = proc_random(&u->random) % 1000;
  uint32_t key = proc_random(&u->random) % 2 ? l1_zipf(&u->random, STRESS_KEYS) : proc_random(&u->random) % STRESS_KEYS;
  if (what < u->weight) {
    stress_write(u, key);
  } else if (what < u->weight + u->weight / 20) {
    write_tag(u, key % STRESS_TAGS);
  } else if (what < u->weight * 4) {
    stress_fill(u, key);
  } else if (what % 2 == 0) {
    read_record(u, &u->record[proc_random(&u->random) % STRESS_RECORDS]);
  } else {
    stress_read(u, key);
  }
}
