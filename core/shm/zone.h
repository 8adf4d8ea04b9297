/* SPDX-License-Identifier: MIT */
/*
 * A zone: one shared mapping that all workers of a host use.
 *
 * Made before the fork (a memfd, mapped MAP_SHARED, preallocated in full), found again by name in the
 * same process after a reload: a process-wide registry keeps every mapping for the life of the process.
 * Processes that do not descend from one that opened the zone (nginx workers that open it in
 * init_worker) meet through a named file in /dev/shm, see GORGE_ZONE_SIBLINGS.
 */
#ifndef GORGE_SHM_ZONE_H
#define GORGE_SHM_ZONE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
  GORGE_ZONE_SIZE_MIN = 2 << 20,
  GORGE_NAMESPACES = 32,  /* caches with different namespaces in one zone */
  GORGE_WORKERS = 128,    /* processes attached at one time, old and new ones of a reload together */
  GORGE_ZONE_SIBLINGS = 1 /* flag: meet processes of the same parent through a named file */
};

/* fresh_until_ms of a namespace that nothing has bounded yet: exact as a double, far from overflow. */
static const uint64_t GORGE_FRESH_ALWAYS = (uint64_t)1 << 62;

/*
 * Regions of a zone. The fixed ones come first, the last takes all that is left: L1 lays itself out inside it.
 */
enum gorge_region {
  GORGE_REGION_WORKERS,    /* worker slots (sync/owner.c) */
  GORGE_REGION_STATS,      /* pool of counter and histogram blocks */
  GORGE_REGION_PERMITS,    /* permits of each worker (sync/permits.c) */
  GORGE_REGION_PARTITIONS, /* cursors and epochs of namespaces with several partitions, see gorge_zone_cursors */
  GORGE_REGION_FLIGHTS,    /* flight table (flight/flight.c) */
  GORGE_REGION_BACKLOG,    /* invalidations that Redis does not know of (backlog/backlog.c) */
  GORGE_REGION_PEOPLE,     /* what is there for those who look on, see gorge_zone_part */
  GORGE_REGION_L1,
  GORGE_REGIONS
};

struct gorge_zone_header; /* in shared memory; layout in shm/layout.h */

/* One process's view of a zone. */
struct gorge_zone {
  char *base; /* start of the mapping; offsets are relative to it */
  uint64_t size;
  struct gorge_zone_header *header;
  struct gorge_words *words;         /* [GORGE_NAMESPACES], in the header */
  uint64_t region_at[GORGE_REGIONS]; /* offsets from base; computed, never read from shared memory */
  uint64_t region_size[GORGE_REGIONS];
  char name[GORGE_NAME_MAX + 1];
  int fd;
};

/*
 * Start of a region (page-aligned) and its bytes (`size` may be NULL). All zeros when the zone is fresh, except
 * GORGE_REGION_WORKERS.
 */
void *gorge_zone_region(const struct gorge_zone *zone, enum gorge_region region, uint64_t *size);

/* Parts of GORGE_REGION_PEOPLE, each on a cache line; all zeros is an empty one. */
enum gorge_part {
  GORGE_PART_MAIL,  /* what somebody from outside asks for (sync/mailbox.c) */
  GORGE_PART_EVENTS /* the last invalidations (shm/events.c) */
};
void *gorge_zone_part(const struct gorge_zone *zone, enum gorge_part part, uint64_t *size);

/*
 * Finds or makes the zone `name` (1..GORGE_NAME_MAX bytes) of `size_bytes` (>= GORGE_ZONE_SIZE_MIN, all
 * overhead included). `init` lays out the regions of a fresh zone before anybody else can see it; its failure
 * is the call's. *out belongs to the registry and lives as long as the process; it is never unmapped. Returns
 * GORGE_OK; GORGE_ERR_MISMATCH when it exists with another size (*existing_size tells); GORGE_ERR_SYSTEM or
 * GORGE_ERR_MEMORY. Thread-safe. Blocks for as long as the kernel needs to provide the memory.
 */
int gorge_zone_open(const char *name, size_t name_len, uint64_t size_bytes, unsigned flags,
                    int (*init)(struct gorge_zone *), struct gorge_zone **out, uint64_t *existing_size);

/* Finds or makes the namespace `name` in the zone. Returns GORGE_OK and its number, or GORGE_ERR_FULL. */
int gorge_zone_namespace(struct gorge_zone *zone, const char *name, size_t name_len, uint32_t *ns);

/* Notes how a process uses a namespace (enum gorge_namespace_uses). */
void gorge_zone_namespace_use(const struct gorge_zone *zone, uint32_t ns, uint32_t uses);
/* What the zone knows of the namespace with that number: its name, with a NUL, and its uses. Returns false when there is none. */
bool gorge_zone_namespace_at(const struct gorge_zone *zone, uint32_t ns, char name[GORGE_NAME_MAX + 1], uint32_t *uses);

/* The shared words of namespace `ns` (< GORGE_NAMESPACES): one cache line, for the life of the zone. */
static inline struct gorge_words *gorge_zone_words(const struct gorge_zone *zone, uint32_t ns) {
  return &zone->words[ns % GORGE_NAMESPACES];
}

/*
 * Counters and histograms of worker `worker` (< GORGE_WORKERS) for namespace `ns`: a block of a bounded pool,
 * assigned to the pair at its first use and for good; an exhausted pool hands out one block that all the rest
 * share. They only grow, whoever holds the slot.
 */
uint64_t *gorge_zone_counters(const struct gorge_zone *zone, uint32_t ns, uint32_t worker);
/* The counters of the pair, if it has a block of its own; NULL: it has none, or shares one. Assigns nothing. */
const uint64_t *gorge_zone_counters_of(const struct gorge_zone *zone, uint32_t ns, uint32_t worker);
uint64_t *gorge_zone_histogram(const struct gorge_zone *zone, uint32_t ns, uint32_t worker, int histogram);
/* Sums over all workers: out[GORGE_COUNTERS], out[GORGE_HISTOGRAM_BUCKETS]. */
void gorge_zone_sum_counters(const struct gorge_zone *zone, uint32_t ns, uint64_t *out);
void gorge_zone_sum_histogram(const struct gorge_zone *zone, uint32_t ns, int histogram, uint64_t *out);

/* A number, never 0, that no other call returns in the life of the zone: lease tokens of this host. Not a secret. */
uint64_t gorge_zone_token(const struct gorge_zone *zone);

/* The breaker words of a namespace (resil/breaker.h works on them), shared by all workers. */
struct gorge_breaker_words *gorge_zone_breaker(const struct gorge_zone *zone, uint32_t ns);
/* Those of the nodes of clusters, of all namespaces (resil/breakers.h). */
struct gorge_breaker_table *gorge_zone_breakers(const struct gorge_zone *zone);
/* The same, of the breaker around the loaders. */
struct gorge_breaker_words *gorge_zone_origin_breaker(const struct gorge_zone *zone, uint32_t ns);
/* The word of the subscriber role of a namespace (sync/role.h). */
struct gorge_role *gorge_zone_subscriber_role(const struct gorge_zone *zone, uint32_t ns);

/* Whether this host hears what other nodes do (drive/control_contact.c). */
enum gorge_contact {
  GORGE_CONTACT_NONE = 0, /* nothing is known yet */
  GORGE_CONTACT_HELD,
  GORGE_CONTACT_LOST, /* what was stored before the loss may still be served, for disconnected_ttl */
  GORGE_CONTACT_AWAY  /* that time is over: only what was stored since may be served */
};

/* How far this host has followed the journals of a namespace; written by the holder of the subscriber role. */
struct gorge_journal_words {
  uint64_t cursor;    /* see gorge_zone_cursors */
  uint64_t synced_ms; /* when the cursors were last known to be all there is: the oldest confirmation of a partition */
  uint64_t epoch;     /* see gorge_zone_epochs */
  uint64_t tried;     /* 1 once a worker has read the journals, or found that one cannot be read */
  uint64_t contact;   /* enum gorge_contact */
};
struct gorge_journal_words *gorge_zone_journal(const struct gorge_zone *zone, uint32_t ns);

/*
 * What stands for each partition of a namespace: one word each, `partitions` of them. L1 knows no partitions: contact, freshness and the
 * global word are of the namespace.
 *   cursors  every invalidation of the partition up to this version has taken effect here; 0: nothing is known. Written like the journal words
 *   epochs   in the names of its keys in Redis, as far as this host knows; 0: not known
 * partitions: 1, or GORGE_PARTITIONS where gorge_zone_partitions_there.
 */
uint64_t *gorge_zone_cursors(const struct gorge_zone *zone, uint32_t ns, uint32_t partitions);
uint64_t *gorge_zone_epochs(const struct gorge_zone *zone, uint32_t ns, uint32_t partitions);
/* Whether the zone has room for the partitions of a namespace: a small zone has it for the first ones only. */
bool gorge_zone_partitions_there(const struct gorge_zone *zone, uint32_t ns);

enum { GORGE_MASTER_PARTS = 4 };

/* Which server is the master of a namespace that has sentinels (drive/master.h); written by the holder of the subscriber role. */
struct gorge_master_words {
  uint64_t
      part[GORGE_MASTER_PARTS]; /* of its address; 0: not known. The first one is another one with each new master */
  uint64_t writes;              /* how often it was written */
  uint64_t rank;                /* of the sentinels' configuration that named it (io/sentinel.h); 0: none has yet */
  uint64_t trouble;             /* enum gorge_master_trouble: why it is not known */
  uint64_t doubts;              /* how often a server met there was no master */
};
struct gorge_master_words *gorge_zone_master(const struct gorge_zone *zone, uint32_t ns);

#endif
