/* SPDX-License-Identifier: MIT */
/*
 * L1: the entries of a zone, read without a lock by every worker.
 *
 * Who may see what (coherence):
 *  - an invalidator bumps the stamp (or tag generation) first, then, for tags and epochs, the global word, then removes;
 *  - a filler takes a snapshot before it asks Redis or runs a loader; its insert is refused if the snapshot is no longer current, see below;
 *  - a reader loads the global word first, and keeps that value in its L0 record.
 *
 * A stamp cell, found by the hash of the key, holds
 *    hard   grows with every invalidation that has no version (made here, before Redis confirms it, or without Redis)
 *    soft   grows with every other accepted change (an insert, a message with a version)
 *    floor  the highest version of a message applied to the cell
 *    newest the highest version of an accepted insert
 * An insert with snapshot s is accepted iff  epoch, tag generations and hard are those of s, and (soft is that of s, or the
 * entry's version > 0 and >= floor and >= newest), and no resident entry of the key has a higher version. An accepted insert raises
 * newest and bumps soft: what was resident for a moment, and was evicted, keeps out what is older, too.
 * Cells are shared by keys by hash: a collision can only refuse an insert.
 *
 * The global word is  epoch:32 | changes:32  and is changed by addition only. The epoch is hashed into every key; one addition
 * forgets a namespace.
 *
 * All functions may be called by any thread of any process that has the zone. Readers take no lock and never wait. Writers take
 * a shard's lock as the owner that they pass; whoever is killed at whatever moment leaves what readers can rely on. After a
 * fork, the child claims an owner of its own before it writes. Nothing here is async-signal-safe.
 *
 * Files: layout.h what stands where; entry.h, log.h, index.h, ghost.h, stamps.h its parts; shard.h the lock, and what happens when
 * its holder is stopped; evict.h which entries stay; read.c, write.c and touch.c the operations; examine.c what people are told of an entry.
 */
#ifndef GORGE_L1_L1_H
#define GORGE_L1_L1_H

#include "sync/lock.h"

struct gorge_key {
  const char *ptr;
  uint32_t len; /* 1..GORGE_KEY_MAX */
  uint32_t ns;
  uint64_t hash;   /* of the bytes, under the epoch in `global` */
  uint64_t global; /* the namespace's global word, loaded (acquire) before anything else */
};

struct gorge_tag {
  const char *ptr;
  uint32_t len; /* 1..GORGE_TAG_MAX */
};

/* What a fill began with. */
struct gorge_snapshot {
  uint64_t epoch;
  uint64_t floor;
  uint32_t hard, soft;
  uint32_t ntags;
  uint32_t cell;                     /* index of the stamp cell */
  uint32_t tag_cell[GORGE_TAGS_MAX]; /* index of each tag's generation word */
  uint64_t tag_gen[GORGE_TAGS_MAX];
};

/* What is stored. */
struct gorge_entry {
  const char *value;
  uint32_t value_len;
  uint32_t kind;          /* enum gorge_kind */
  uint64_t version;       /* 0: not from Redis */
  uint64_t expires_ms;    /* CLOCK_MONOTONIC */
  uint64_t due_ms;        /* from then on readers are told GORGE_DUE; 0: never */
  struct gorge_life life; /* but for its end; all 0: the entry has none */
  uint32_t ntags;         /* the snapshot's tags, same order */
  const struct gorge_tag *tags;
};

/* When an entry is due: at its time of refresh, or `early` load times before its whole life is over. 0: never. */
static inline uint64_t gorge_life_due(const struct gorge_life *life, double early) {
  double due = life->refresh_ms, before = early * life->load_ms;
  if (before > 0) {
    double from = life->whole_ms > before + 1 ? life->whole_ms - before : 1;
    due = due == 0 || from < due ? from : due;
  }
  return (uint64_t)due;
}

struct gorge_l1_usage {
  uint64_t entries, bytes_used, bytes_total;
};

/*
 * Lays out GORGE_REGION_L1 of a fresh, zeroed zone; called once by its creator, before anybody else can see it. Returns GORGE_OK,
 * GORGE_ERR_ARGUMENT (too small) or GORGE_ERR_SYSTEM (no random numbers).
 */
int gorge_l1_init(struct gorge_zone *zone);

/*
 * A key, to be used soon: one made before the namespace's epoch changed finds nothing. ptr stays the caller's and is read by the
 * calls that take the key. ns < GORGE_NAMESPACES.
 */
void gorge_key_init(const struct gorge_zone *zone, uint32_t ns, const char *ptr, uint32_t len, struct gorge_key *key);
/* The same for a key made before: hashed anew only when the epoch is another one. */
void gorge_key_renew(const struct gorge_zone *zone, struct gorge_key *key);

/* What a fill of the key with these tags (at most GORGE_TAGS_MAX) begins with. */
void gorge_l1_snapshot(const struct gorge_zone *zone, const struct gorge_key *key, const struct gorge_tag *tags,
                       uint32_t ntags, struct gorge_snapshot *out);
/*
 * Whether nothing that the snapshot covers was invalidated since: epoch, hard, floor, tag generations; soft is not compared, since
 * it moves with every insert.
 */
bool gorge_l1_snapshot_current(const struct gorge_zone *zone, uint32_t ns, const struct gorge_snapshot *s);
/*
 * Whether, besides, nothing was stored since, here or under another key of the cell: else somebody who comes now may have seen what is newer
 * than that which a fill with this snapshot brings.
 */
bool gorge_l1_snapshot_unchanged(const struct gorge_zone *zone, uint32_t ns, const struct gorge_snapshot *s);

/*
 * Reads without a lock. Fills out->len, kind, expires_ms, version, slot, word, global and copies the value to out->buf.
 * Returns GORGE_HIT, GORGE_MISS (also: expired, tag generation gone, fresh_until passed, a writer in the way too often), or
 * GORGE_SPACE (out->len tells the bytes needed). Raises the entry's frequency while below its maximum when `use` is true. Never blocks.
 */
int gorge_l1_read(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms, bool use,
                  struct gorge_read *out);

/*
 * The same, and tells the entry's age, with out->life: GORGE_HIT, GORGE_DUE (its end has not come, but it is time to refresh it), or, for who
 * takes it, GORGE_STALE: past its end, within the time for which it is kept. Nobody is ever shown what was invalidated.
 */
int gorge_l1_look(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms, bool use, bool stale,
                  struct gorge_read *out);

/* The same without the value, and not a use; not GORGE_SPACE. */
int gorge_l1_age(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms, struct gorge_read *out);

/*
 * For people: what an entry of the key is like, also one that no read finds (out->state), whether or not L1 may be read now. Writes
 * nothing, takes no lock.
 */
void gorge_l1_examine(const struct gorge_zone *zone, const struct gorge_key *key, uint64_t now_ms,
                      struct gorge_l1_look *out);

/*
 * gorge_l1_look for who reads all the time: what a read of a namespace would find out and check anew each time. Belongs to the caller; nothing
 * of it changes while the zone exists. Any thread of the process may read through it.
 */
struct gorge_l1_reader {
  const struct gorge_zone *zone;
  const struct gorge_words *words;
  char *shards; /* NULL: the geometry does not fit the region, nothing is found */
  uint64_t shard_bytes, area_at;
  uint32_t shard_mask, ns;
  uint32_t area_units, lap_shift, buckets;
};

void gorge_l1_reader_init(const struct gorge_zone *zone, uint32_t ns, struct gorge_l1_reader *out);
/* gorge_key_init and gorge_l1_look in one, with use, without what is stale. len is 1..GORGE_KEY_MAX. */
int gorge_l1_get(const struct gorge_l1_reader *reader, const char *ptr, uint32_t len, uint64_t now_ms,
                 struct gorge_read *out);

/*
 * Raises the frequency in a slot found by an earlier read, if the slot still holds `word` (frequency bits aside). Worth a call while
 * bits 45 and 46 of *slot are not both set.
 */
void gorge_l1_touch_frequency(const uint64_t *slot, uint64_t word);
/* The tag names of a resident entry, each as one length byte and its bytes, into buf. Returns their number, or 0. */
uint32_t gorge_l1_tags(const struct gorge_zone *zone, const struct gorge_key *key, char *buf, uint32_t size,
                       uint32_t *len);

/*
 * Stores, replacing an older entry of the key. `out` (may be NULL) receives slot, word, global (from key->global), expires_ms
 * of the new entry; slot is NULL when nothing was stored. Returns
 *   GORGE_STORED
 *   GORGE_REFUSED    by the rule above; or entry and snapshot do not belong together
 *   GORGE_TOO_LARGE  above a quarter of a shard's main ring, or 16 MB; an older entry of the key is removed
 *   GORGE_BUSY       the lock was not to be had in its budget, or room could not be made in time: nothing stored
 * Evicts as needed. Waits at most 1 ms for the lock. A large entry evicts in several turns of it, for at most 14 ms and a turn in all (or 16 turns);
 * others who wait for the lock get it in between. Counts
 * INSERTS, REFUSED_FILLS, TOO_LARGE, LOCK_TIMEOUTS for the key's namespace, EVICTIONS and EXPIRED for that of the entry dropped.
 * A resident entry that has expired still refuses lower versions, but not an entry without a version.
 */
int gorge_l1_insert(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                    const struct gorge_entry *entry, const struct gorge_snapshot *s, uint64_t now_ms,
                    struct gorge_read *out);

/*
 * Stores in place of what an earlier read found, and of nothing else. The snapshot was taken before that read. Returns
 *   GORGE_STORED
 *   GORGE_REFUSED    another entry, or none, stands there now; or the stamps moved: read again
 *   GORGE_TOO_LARGE, GORGE_BUSY  as gorge_l1_insert, but nothing has changed
 */
struct gorge_exchange {
  uint64_t word; /* gorge_read.word of what was read; 0: there was nothing */
  bool hard;     /* fills that are running are refused: a new value, not only a new life */
};
int gorge_l1_exchange(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                      const struct gorge_entry *entry, const struct gorge_snapshot *s,
                      const struct gorge_exchange *exchange, uint64_t now_ms, struct gorge_read *out);

/*
 * Gives the entry of a key another end of life, and, if `version` is not 0, another version: the entry is written anew, so that records
 * of L0 lose it. `only` not 0: the entry must have that version. What else it has of a life keeps its distance from the end; it is not kept
 * as stale beyond `latest_ms`. While the namespace bounds lives (life_max_ms), no end is later than it was. Returns GORGE_OK, GORGE_MISS (no
 * such entry), GORGE_BUSY (the lock was not to be had, or others change the entry all the time: nothing has changed) or GORGE_ERR_MEMORY.
 */
struct gorge_touch {
  uint64_t only, version;
  uint64_t expires_ms;
  uint64_t whole_ms;  /* end of its life in all layers */
  uint64_t latest_ms; /* no life in L1 may be longer */
  double early; /* it is due so many times its load time before the end of its life in all layers; 0: not for that */
};
int gorge_l1_touch(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                   const struct gorge_touch *touch, uint64_t now_ms);

/*
 * Puts off when an entry is due, in the same way: `word` is that of the read that found it due. `failures` is what its life says from then
 * on. Of all who found it due one is answered GORGE_OK; `out` (may be NULL) then tells the slot and word that it has now. Else as
 * gorge_l1_touch; GORGE_MISS also when another entry stands there.
 */
int gorge_l1_defer(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key, uint64_t word,
                   uint64_t due_ms, uint32_t failures, uint64_t now_ms, struct gorge_read *out);

/*
 * What a caller sets, without a version: gorge_l1_invalidate with version 0 and the insert that belongs to it, in one turn of the
 * lock. No fill that began before the call is seen after it, nor is what was there before, whatever is returned. The tags' generations are
 * those of the moment it is stored. For namespaces without Redis: the entry's end, which was found before, is not held against a contact that was
 * lost in between, as the epoch in a snapshot would. Returns
 *   GORGE_STORED
 *   GORGE_TOO_LARGE  as gorge_l1_insert
 *   GORGE_BUSY       the lock was not to be had in the budget of an invalidation, or room could not be made in time: the older entry
 *                    is gone, nothing stored
 * Waits and counts as gorge_l1_insert does, but up to 6 ms for the lock.
 */
int gorge_l1_set(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                 const struct gorge_entry *entry, uint64_t now_ms, struct gorge_read *out);

/*
 * Invalidates one key. version 0: bumps hard, removes whatever is there. version > 0: raises floor, bumps soft, and removes an entry with
 * a lower version; an entry with that version or a higher one survives (and then soft is left alone).
 * When the shard lock cannot be had within its budget (6 ms; at once while the same holder stays stopped), the shard's epoch
 * is bumped instead, which forgets the whole shard, and the global words of all namespaces, which sends L0 there: an
 * invalidation always holds. If `after` is not NULL it receives the cell's state after the bump (cell, hard, soft, floor; nothing else
 * of it is written), for an insert that belongs to it.
 */
void gorge_l1_invalidate(struct gorge_zone *zone, const struct gorge_owner *owner, const struct gorge_key *key,
                         uint64_t version, struct gorge_snapshot *after);
/* Invalidates a tag of a namespace: a new global word, a new generation (release), and a new global word again. */
void gorge_l1_invalidate_tag(struct gorge_zone *zone, uint32_t ns, const char *tag, uint32_t len);
/* Forgets everything of a namespace: a new epoch, and with it a new global word. O(1), one atomic addition. */
void gorge_l1_bump_epoch(struct gorge_zone *zone, uint32_t ns);

/* Sums over shards, without locks: a snapshot for people. Whole zone. */
void gorge_l1_usage(const struct gorge_zone *zone, struct gorge_l1_usage *out);

#endif
