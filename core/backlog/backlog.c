/* SPDX-License-Identifier: MIT */
#include "backlog/backlog.h"

#include <string.h>

enum { BUDGET_US = 5000, WORD = 8, NS_BIT = 16, WHAT_BIT = 24, FLAGS_BIT = 32, WHERE_BIT = 40 };

/* SENT: it has been handed out, so that the same invalidation made anew must be queued anew. */
enum { DONE = 1, SENT = 2, PAD = 4 };

struct gorge_backlog {
  struct gorge_lock lock;
  uint64_t head, tail; /* words, only grow; position in the ring: modulo its length */
  uint64_t added;      /* see gorge_backlog_added */
  uint64_t reserved[3];
  uint64_t clear_due[GORGE_NAMESPACES]; /* grows with each clear that becomes due; 0: none is */
};
_Static_assert(sizeof(struct gorge_backlog) % 64 == 0, "the ring begins on a cache line");

struct ring {
  struct gorge_backlog *shared;
  uint64_t *word;
  uint64_t words;
};

static struct ring ring_of(const struct gorge_zone *zone) {
  uint64_t size;
  struct gorge_backlog *b = gorge_zone_region(zone, GORGE_REGION_BACKLOG, &size);
  return (struct ring){b, (uint64_t *)(void *)(b + 1), (size - sizeof *b) / WORD};
}

static uint32_t len_of(uint64_t head) { return (uint32_t)head & 0xffff; }
static uint32_t ns_of(uint64_t head) { return (uint32_t)(head >> NS_BIT) & 0xff; }
static uint32_t what_of(uint64_t head) { return (uint32_t)(head >> WHAT_BIT) & 0xff; }
static uint64_t flags_of(uint64_t head) { return head >> FLAGS_BIT & 0xff; }
static uint32_t where_of(uint64_t head) { return (uint32_t)(head >> WHERE_BIT) & 0xff; }

static uint64_t words_for(uint32_t len) { return 1 + ((uint64_t)len + WORD - 1) / WORD; }

/* relaxed: under the lock, but for gorge_backlog_count, which is for people. */
static uint64_t record_at(const struct ring *r, uint64_t at) {
  return __atomic_load_n(&r->word[at % r->words], __ATOMIC_RELAXED);
}
static void mark(const struct ring *r, uint64_t at, uint64_t flag) {
  __atomic_store_n(&r->word[at % r->words], record_at(r, at) | flag << FLAGS_BIT, __ATOMIC_RELAXED);
}

/* Words from a record to the next one. 0: not a record, nothing behind it can be trusted. */
static uint64_t step(const struct ring *r, uint64_t at) {
  uint64_t head = record_at(r, at), left = r->words - at % r->words;
  if ((flags_of(head) & PAD) != 0) {
    return left;
  }
  uint64_t n = words_for(len_of(head));
  return len_of(head) >= 1 && len_of(head) <= GORGE_KEY_MAX && n <= left ? n : 0;
}

/* relaxed: under the lock nobody else moves them. */
static uint64_t head_at(const struct ring *r) { return __atomic_load_n(&r->shared->head, __ATOMIC_RELAXED); }
static uint64_t tail_at(const struct ring *r) { return __atomic_load_n(&r->shared->tail, __ATOMIC_RELAXED); }

static void set_tail(const struct ring *r, uint64_t at) {
  /* release: what it leaves behind is no longer read; partner: the acquire of the next holder of the lock */
  __atomic_store_n(&r->shared->tail, at, __ATOMIC_RELEASE);
}

static bool enter(struct gorge_zone *zone, const struct ring *r, uint32_t owner) {
  return gorge_lock_acquire(zone, &r->shared->lock, owner, BUDGET_US, NULL, NULL) == GORGE_OK;
}

static void leave(const struct ring *r, uint32_t owner) { gorge_lock_release(&r->shared->lock, owner); }

static bool is(const struct ring *r, uint64_t at, uint32_t ns, enum gorge_backlog_what what, const char *name,
               uint32_t len) {
  uint64_t head = record_at(r, at);
  return (flags_of(head) & (DONE | PAD)) == 0 && len_of(head) == len && ns_of(head) == ns && what_of(head) == what &&
         memcmp(&r->word[at % r->words + 1], name, len) == 0;
}

/* The record at or after *at that says this and has none of the flags `without`; false: there is none. */
static bool find(const struct ring *r, uint64_t *at, uint32_t ns, enum gorge_backlog_what what, const char *name,
                 uint32_t len, uint64_t without) {
  uint64_t n;
  for (; *at < head_at(r) && (n = step(r, *at)) > 0; *at += n) {
    if (is(r, *at, ns, what, name, len) && (flags_of(record_at(r, *at)) & without) == 0) {
      return true;
    }
  }
  return false;
}

/* Writes the record. Returns false when there is no room. */
static bool append(const struct ring *r, uint32_t ns, uint32_t where, enum gorge_backlog_what what, const char *name,
                   uint32_t len) {
  uint64_t at = head_at(r), n = words_for(len), left = r->words - at % r->words;
  uint64_t pad = left < n ? left : 0;
  if (at + pad + n - tail_at(r) > r->words) {
    return false;
  }
  if (pad > 0) {
    /* relaxed: see record_at */
    __atomic_store_n(&r->word[at % r->words], (uint64_t)PAD << FLAGS_BIT, __ATOMIC_RELAXED);
    at += pad;
  }
  uint64_t *to = &r->word[at % r->words];
  to[n - 1] = 0;
  memcpy(to + 1, name, len);
  /* relaxed: see record_at */
  __atomic_store_n(&to[0], len | (uint64_t)ns << NS_BIT | (uint64_t)what << WHAT_BIT | (uint64_t)where << WHERE_BIT,
                   __ATOMIC_RELAXED);
  /* release: the record is whole; partner: the acquire of the next holder of the lock, and gorge_backlog_empty */
  __atomic_store_n(&r->shared->head, at + n, __ATOMIC_RELEASE);
  return true;
}

void gorge_backlog_add(struct gorge_zone *zone, uint32_t owner, uint32_t ns, uint32_t where,
                       enum gorge_backlog_what what, const char *name, uint32_t len) {
  struct ring r = ring_of(zone);
  bool added = false;
  if (len >= 1 && len <= GORGE_KEY_MAX && enter(zone, &r, owner)) {
    uint64_t at = tail_at(&r);
    /* release: partner of gorge_backlog_added; whoever begins to write once this has returned finds it counted */
    __atomic_fetch_add(&r.shared->added, 1, __ATOMIC_RELEASE);
    added = find(&r, &at, ns, what, name, len, SENT) || append(&r, ns, where, what, name, len);
    leave(&r, owner);
  }
  if (!added) {
    gorge_backlog_add_clear(zone, ns);
  }
}

static void mark_done(const struct ring *r, uint64_t at) {
  uint64_t tail = tail_at(r), head = head_at(r), n;
  if (at >= tail && at < head) {
    mark(r, at, DONE);
  }
  while (tail < head && (flags_of(record_at(r, tail)) & (DONE | PAD)) != 0 && (n = step(r, tail)) > 0) {
    tail += n;
  }
  set_tail(r, tail);
}

uint64_t gorge_backlog_added(const struct gorge_zone *zone) {
  return __atomic_load_n(&ring_of(zone).shared->added, __ATOMIC_ACQUIRE); /* partner: gorge_backlog_add */
}

void gorge_backlog_cancel(struct gorge_zone *zone, uint32_t owner, uint32_t ns, enum gorge_backlog_what what,
                          const char *name, uint32_t len, uint64_t added) {
  struct ring r = ring_of(zone);
  if (gorge_backlog_empty(zone, ns) || !enter(zone, &r, owner)) {
    return;
  }
  uint64_t at = tail_at(&r);
  if (gorge_backlog_added(zone) == added && find(&r, &at, ns, what, name, len, SENT)) {
    mark_done(&r, at);
  }
  leave(&r, owner);
}

void gorge_backlog_add_clear(const struct gorge_zone *zone, uint32_t ns) {
  /* release: after the host has forgotten; partner: the acquire in gorge_backlog_clear_due */
  __atomic_add_fetch(&ring_of(zone).shared->clear_due[ns % GORGE_NAMESPACES], 1, __ATOMIC_RELEASE);
}

bool gorge_backlog_empty(const struct gorge_zone *zone, uint32_t ns) {
  struct ring r = ring_of(zone);
  /* acquire: partner of the release in append; who has seen an invalidation return finds what it left here */
  return __atomic_load_n(&r.shared->head, __ATOMIC_ACQUIRE) == tail_at(&r) && gorge_backlog_clear_due(zone, ns) == 0;
}

bool gorge_backlog_holds(struct gorge_zone *zone, uint32_t owner, uint32_t ns, enum gorge_backlog_what what,
                         const char *name, uint32_t len) {
  if (gorge_backlog_empty(zone, ns)) {
    return false;
  }
  struct ring r = ring_of(zone);
  if (gorge_backlog_clear_due(zone, ns) != 0 || !enter(zone, &r, owner)) {
    return true;
  }
  uint64_t at = tail_at(&r);
  bool found = find(&r, &at, ns, what, name, len, 0);
  leave(&r, owner);
  return found;
}

uint32_t gorge_backlog_count(const struct gorge_zone *zone, uint32_t ns) {
  struct ring r = ring_of(zone);
  uint32_t count = gorge_backlog_clear_due(zone, ns) != 0;
  /* acquire: partner of the release in append; what stands before it is whole */
  uint64_t n, end = __atomic_load_n(&r.shared->head, __ATOMIC_ACQUIRE);
  uint64_t at = tail_at(&r);
  if (end - at > r.words) {
    return count; /* damaged, or a tail that is newer than the head */
  }
  for (; at < end && (n = step(&r, at)) > 0; at += n) {
    uint64_t head = record_at(&r, at);
    count += (flags_of(head) & (DONE | PAD)) == 0 && ns_of(head) == ns;
  }
  return count;
}

/* Not what was written: what is lost here is made up for by forgetting all. */
static void give_up(const struct gorge_zone *zone, const struct ring *r) {
  set_tail(r, head_at(r));
  for (uint32_t ns = 0; ns < GORGE_NAMESPACES; ns++) {
    gorge_backlog_add_clear(zone, ns);
  }
}

static bool is_open(const struct gorge_backlog_open *open, uint32_t where) {
  return where < 64 ? (open->partitions >> where & 1) != 0 : open->everywhere;
}

bool gorge_backlog_next(struct gorge_zone *zone, uint32_t owner, uint32_t ns, const struct gorge_backlog_open *open,
                        struct gorge_backlog_record *out) {
  struct ring r = ring_of(zone);
  if (gorge_backlog_empty(zone, ns) || !enter(zone, &r, owner)) {
    return false;
  }
  bool found = false;
  uint64_t n = 0, at = tail_at(&r);
  for (; at < head_at(&r) && !found; at += found ? 0 : n) {
    n = step(&r, at);
    if (n == 0) {
      give_up(zone, &r);
      break;
    }
    uint64_t head = record_at(&r, at);
    found = (flags_of(head) & (DONE | PAD)) == 0 && ns_of(head) == ns && is_open(open, where_of(head));
    if (found) {
      mark(&r, at, SENT);
      out->at = at;
      out->what = (enum gorge_backlog_what)what_of(head);
      out->where = where_of(head);
      out->len = len_of(head);
      memcpy(out->name, &r.word[at % r.words + 1], out->len);
    }
  }
  leave(&r, owner);
  return found;
}

void gorge_backlog_done(struct gorge_zone *zone, uint32_t owner, const struct gorge_backlog_record *record) {
  struct ring r = ring_of(zone);
  if (!enter(zone, &r, owner)) {
    return; /* it will be carried out once more */
  }
  mark_done(&r, record->at);
  leave(&r, owner);
}

uint64_t gorge_backlog_clear_due(const struct gorge_zone *zone, uint32_t ns) {
  /* acquire: partner of the release in gorge_backlog_add_clear */
  return __atomic_load_n(&ring_of(zone).shared->clear_due[ns % GORGE_NAMESPACES], __ATOMIC_ACQUIRE);
}

void gorge_backlog_cleared(const struct gorge_zone *zone, uint32_t ns, uint64_t due) {
  uint64_t *word = &ring_of(zone).shared->clear_due[ns % GORGE_NAMESPACES];
  /* release: after Redis has cleared; partner: the acquire in gorge_backlog_clear_due */
  __atomic_compare_exchange_n(word, &due, 0, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
}
