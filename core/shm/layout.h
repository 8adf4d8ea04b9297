/* SPDX-License-Identifier: MIT */
/*
 * What stands where in a zone. Private to shm/ and sync/; everybody else asks zone.h.
 *
 *   0          struct gorge_zone_header: identity, namespaces, one line each of words, breaker and role per namespace
 *   workers    struct gorge_worker_slot [GORGE_WORKERS]
 *   stats      uint16_t block_of [GORGE_NAMESPACES][GORGE_WORKERS], then struct gorge_stats_block [n]
 *   permits    uint64_t [namespaces][GORGE_WORKERS], for as many as there is room for, see sync/permits.c
 *   partitions struct gorge_partition_words [namespaces], likewise
 *   flights    laid out by flight/flight.c; all zeros is an empty table
 *   backlog    laid out by backlog/backlog.c; all zeros is an empty one
 *   people     struct gorge_mail_slot [1 or GORGE_MAIL_SLOTS_MAX], see sync/mailbox.c; the ring of shm/events.c
 *   l1         all that is left
 *
 * Every region starts on a page. The table of regions is a pure function of the zone's size: each process computes
 * it for itself and only compares it with the header, so that nothing read from shared memory steers an address.
 */
#ifndef GORGE_SHM_LAYOUT_H
#define GORGE_SHM_LAYOUT_H

#include <pthread.h>

#include "shm/zone.h"

enum {
  GORGE_LAYOUT_VERSION = 10, /* to be raised with every change of what stands in shared memory, L1 included */
  GORGE_LINE = 64,
  GORGE_NAME_WORDS = (GORGE_NAME_MAX + 7) / 8,
  GORGE_HEADER_REGION_WORDS = 24
};

/* "gorgezon", written last, with release, when a fresh zone is complete. */
static const uint64_t GORGE_ZONE_MAGIC = 0x6e6f7a6567726f67U;

/*
 * A namespace is claimed by a CAS of `id` from 0. Name bytes are written by whoever finds `len` still 0, always the
 * same bytes: a claimer killed half-way leaves nothing to repair.
 */
struct gorge_zone_namespace {
  uint64_t id;  /* hash of the name under the zone's seed, never 0; 0: free */
  uint64_t len; /* bytes of the name, stored (release) after them; 0: not written yet */
  uint64_t name[GORGE_NAME_WORDS];
  uint64_t uses; /* enum gorge_namespace_uses, by OR */
  uint64_t reserved[5];
};

struct gorge_line {
  uint64_t word[GORGE_LINE / 8];
};

/* See sync/permits.c. */
struct gorge_permit_words {
  uint64_t sum;
  uint64_t waiting[GORGE_WORKERS / 64]; /* workers that wait for a permit */
};

/* See gorge_zone_cursors. */
struct gorge_partition_words {
  uint64_t cursor[GORGE_PARTITIONS];
  uint64_t epoch[GORGE_PARTITIONS];
};

/* What protects Redis and the database of a namespace: one cache line. */
struct gorge_protection {
  uint64_t breaker[2], origin_breaker[2]; /* struct gorge_breaker_words */
  struct gorge_permit_words permits;
  uint64_t reserved;
};

/* Words of struct gorge_breaker_table. */
enum { GORGE_BREAKER_TABLE_WORDS = 448 };

struct gorge_zone_header {
  /* The first line stands like this in every layout: who looks on from outside reads it before it knows which one it is. */
  uint64_t magic;
  uint64_t layout; /* hash over the sizes of all that is shared */
  uint64_t size;   /* as asked for; the mapping is rounded up to pages */
  uint64_t boot_id;
  uint64_t hash_seed;
  uint64_t version;  /* GORGE_LAYOUT_VERSION; 0: a layout before 4 */
  uint64_t name_len; /* bytes of the name */
  uint64_t reserved;
  uint64_t name[GORGE_NAME_WORDS];
  uint64_t region_at[GORGE_REGIONS];
  uint64_t region_size[GORGE_REGIONS];
  uint64_t reserved1[GORGE_HEADER_REGION_WORDS - 2 * GORGE_REGIONS];
  /* A line of its own each: counters that grow. */
  struct gorge_line tokens;        /* word[0]: gorge_zone_token */
  struct gorge_line worker_deaths; /* word[0]: dead slots claimed again */
  struct gorge_zone_namespace namespaces[GORGE_NAMESPACES];
  struct gorge_words words[GORGE_NAMESPACES];
  struct gorge_protection protection[GORGE_NAMESPACES];
  struct gorge_line roles[GORGE_NAMESPACES];   /* word[0]: struct gorge_role; word[2]: struct gorge_journal_words */
  struct gorge_line masters[GORGE_NAMESPACES]; /* struct gorge_master_words */
  uint64_t breakers[GORGE_BREAKER_TABLE_WORDS];
};

/*
 * One thread that may own things. `life` is locked by the thread for as long as it lives; `holder` is written only
 * while `life` is held: generation:32 | thread id:32, thread id 0 between owners.
 */
struct gorge_thread_slot {
  uint64_t holder;
  pthread_mutex_t life;
  uint64_t reserved[2];
};

struct gorge_worker_slot {
  struct gorge_thread_slot thread[2]; /* enum gorge_thread_role */
  uint64_t wake;                      /* packed address of the wake-up socket, see sync/wake.c; 0: none */
  uint64_t reserved[7];
};

/* One request from outside; see sync/mailbox.c. */
enum { GORGE_MAIL_SLOTS_MAX = 4, GORGE_MAIL_TEXT_WORDS = 24 };
struct gorge_mail_slot {
  uint64_t state;   /* serial:24 | phase:8 | owner, or deadline in milliseconds mod 2^32 */
  uint64_t check;   /* hash of what is asked, under the serial */
  uint64_t request; /* what:8 | namespace:8 | length of the name:16 */
  uint64_t result;  /* length of the text:32 | status:32 */
  uint64_t reserved[4];
  uint64_t text[GORGE_MAIL_TEXT_WORDS];
  uint64_t name[GORGE_KEY_MAX / 8];
};

struct gorge_stats_block {
  uint64_t pair; /* ns * GORGE_WORKERS + worker + 1, by CAS from 0; block 0 is nobody's and takes the overflow */
  uint64_t reserved[7];
  uint64_t counters[GORGE_COUNTERS]; /* the last ones of them are no counters, see GORGE_COUNT_RECENT */
  uint64_t histograms[GORGE_HISTOGRAMS][GORGE_HISTOGRAM_WORDS];
};

_Static_assert(sizeof(struct gorge_zone_namespace) == 2 * GORGE_LINE, "namespaces fill cache lines");
_Static_assert(sizeof(struct gorge_words) == GORGE_LINE, "the words of a namespace are one cache line");
_Static_assert(sizeof(struct gorge_protection) == GORGE_LINE, "the breakers of a namespace are one cache line");
_Static_assert(sizeof(struct gorge_journal_words) <= GORGE_LINE - 16, "the journal's words fit behind the role");
_Static_assert(sizeof(struct gorge_partition_words) % GORGE_LINE == 0, "the words of partitions fill cache lines");
_Static_assert(sizeof(struct gorge_master_words) == GORGE_LINE, "the words of a master are one cache line");
_Static_assert(sizeof(struct gorge_thread_slot) % GORGE_LINE == 0, "life-locks do not share a cache line");
_Static_assert(sizeof(struct gorge_worker_slot) % GORGE_LINE == 0, "worker slots fill cache lines");
_Static_assert(sizeof(struct gorge_mail_slot) % GORGE_LINE == 0, "slots of the mailbox fill cache lines");
_Static_assert(sizeof(struct gorge_stats_block) % GORGE_LINE == 0, "stats blocks fill cache lines");
_Static_assert(offsetof(struct gorge_zone_header, tokens) % GORGE_LINE == 0, "counters on lines of their own");
_Static_assert(offsetof(struct gorge_zone_header, words) % GORGE_LINE == 0, "words on a line of their own");

struct gorge_region_table {
  uint64_t at[GORGE_REGIONS];
  uint64_t size[GORGE_REGIONS];
};

/* The table for a zone of `size_bytes` (>= GORGE_ZONE_SIZE_MIN). */
void gorge_layout_regions(uint64_t size_bytes, struct gorge_region_table *out);
/* What two processes must agree about to share a zone. */
uint64_t gorge_layout_hash(void);

/*
 * Fills a fresh, zeroed zone: header, words, life-locks; everything but the magic. Returns GORGE_OK or
 * GORGE_ERR_SYSTEM.
 */
int gorge_layout_init(struct gorge_zone *zone);
/* Whether mapped memory is a complete zone of this build and of zone->size bytes. */
bool gorge_layout_valid(const struct gorge_zone *zone);

#endif
