/* SPDX-License-Identifier: MIT */
#include "shm/layout.h"

#include <string.h>

#include "base/hash.h"

enum {
  PAGE = 4096,
  STATS_BLOCKS_MIN = 17,
  STATS_BLOCKS_MAX = 512,
  STATS_SHARE = 120 << 10, /* one block for so many bytes of the zone */
  ROOM_MIN = 4,            /* permits and words of partitions for so many namespaces, */
  ROOM_SHARE = 512 << 10,  /* or for one for so many bytes of the zone */
  FLIGHTS_SHARE = 37,      /* the flight table takes 1/37 of the zone, 2.7 %, */
  FLIGHTS_MAX = 2 << 20,   /* and not more than this */
  BACKLOG_SHARE = 512,     /* the backlog 1/512, */
  BACKLOG_MIN = 20 << 10,  /* but twice the longest key, which then fits wherever the ring stands */
  BACKLOG_MAX = 1 << 20,
  SLOTS_FROM = 16 << 20, /* from this size on there are several slots for mail */
  EVENTS_SHARE = 600,    /* the ring of events 1/600, */
  EVENTS_MIN = 3840,     /* in the smallest zone what a slot leaves of its pages */
  EVENTS_MAX = 128 << 10
};

static uint64_t whole_pages(uint64_t bytes) { return bytes & ~(uint64_t)(PAGE - 1); }

static uint64_t pages(uint64_t bytes) { return whole_pages(bytes + PAGE - 1); }

static uint64_t share(uint64_t size_bytes, uint64_t part, uint64_t least, uint64_t most) {
  uint64_t bytes = size_bytes / part;
  return bytes < least ? least : bytes > most ? most : bytes;
}

static uint64_t mail_bytes(uint64_t size_bytes) {
  return (size_bytes >= SLOTS_FROM ? GORGE_MAIL_SLOTS_MAX : 1) * sizeof(struct gorge_mail_slot);
}

void *gorge_zone_part(const struct gorge_zone *zone, enum gorge_part part, uint64_t *size) {
  uint64_t all, mail = mail_bytes(zone->size);
  char *at = gorge_zone_region(zone, GORGE_REGION_PEOPLE, &all);
  *size = part == GORGE_PART_MAIL ? mail : all - mail;
  return part == GORGE_PART_MAIL ? at : at + mail;
}

void gorge_layout_regions(uint64_t size_bytes, struct gorge_region_table *out) {
  uint64_t blocks = size_bytes / STATS_SHARE;
  blocks = blocks < STATS_BLOCKS_MIN ? STATS_BLOCKS_MIN : blocks;
  blocks = blocks > STATS_BLOCKS_MAX ? STATS_BLOCKS_MAX : blocks;
  uint64_t flights = size_bytes / FLIGHTS_SHARE;
  flights = flights > FLIGHTS_MAX ? FLIGHTS_MAX : flights;

  out->size[GORGE_REGION_WORKERS] = pages(GORGE_WORKERS * sizeof(struct gorge_worker_slot));
  out->size[GORGE_REGION_STATS] =
      pages(sizeof(uint16_t) * GORGE_NAMESPACES * GORGE_WORKERS + blocks * sizeof(struct gorge_stats_block));
  uint64_t namespaces = size_bytes / ROOM_SHARE;
  namespaces = namespaces < ROOM_MIN ? ROOM_MIN : namespaces > GORGE_NAMESPACES ? GORGE_NAMESPACES : namespaces;
  out->size[GORGE_REGION_PERMITS] = pages(sizeof(uint64_t) * namespaces * GORGE_WORKERS);
  out->size[GORGE_REGION_PARTITIONS] = pages(sizeof(struct gorge_partition_words) * namespaces);
  out->size[GORGE_REGION_FLIGHTS] = whole_pages(flights);
  out->size[GORGE_REGION_BACKLOG] = pages(share(size_bytes, BACKLOG_SHARE, BACKLOG_MIN, BACKLOG_MAX));
  out->size[GORGE_REGION_PEOPLE] =
      pages(mail_bytes(size_bytes) + share(size_bytes, EVENTS_SHARE, EVENTS_MIN, EVENTS_MAX));
  uint64_t at = pages(sizeof(struct gorge_zone_header));
  for (int i = 0; i < GORGE_REGION_L1; i++) {
    out->at[i] = at;
    at += out->size[i];
  }
  out->at[GORGE_REGION_L1] = at;
  out->size[GORGE_REGION_L1] = (size_bytes - at) & ~(uint64_t)(GORGE_LINE - 1);
}

uint64_t gorge_layout_hash(void) {
  const uint32_t facts[] = {
      GORGE_ABI_VERSION,
      GORGE_LAYOUT_VERSION,
      GORGE_NAMESPACES,
      GORGE_WORKERS,
      GORGE_KEY_MAX,
      GORGE_TAGS_MAX,
      GORGE_ERROR_MAX,
      GORGE_COUNTERS,
      sizeof(struct gorge_zone_header),
      sizeof(struct gorge_worker_slot),
      sizeof(struct gorge_partition_words),
      sizeof(struct gorge_stats_block),
      sizeof(struct gorge_mail_slot),
      sizeof(pthread_mutex_t),
      PAGE,
  };
  return gorge_hash(facts, sizeof facts, 0);
}

static int init_life_locks(struct gorge_zone *zone) {
  struct gorge_worker_slot *slots = gorge_zone_region(zone, GORGE_REGION_WORKERS, NULL);
  pthread_mutexattr_t attr;
  if (pthread_mutexattr_init(&attr) != 0) {
    return GORGE_ERR_SYSTEM;
  }
  int failed = pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED) |
               pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
  for (int i = 0; i < GORGE_WORKERS && !failed; i++) {
    failed = pthread_mutex_init(&slots[i].thread[0].life, &attr) | pthread_mutex_init(&slots[i].thread[1].life, &attr);
  }
  pthread_mutexattr_destroy(&attr);
  return failed ? GORGE_ERR_SYSTEM : GORGE_OK;
}

int gorge_layout_init(struct gorge_zone *zone) {
  struct gorge_zone_header *h = zone->header;
  uint64_t secrets[2 + GORGE_NAMESPACES];
  int status = gorge_random(secrets, sizeof secrets);
  if (status != GORGE_OK) {
    return status;
  }
  h->layout = gorge_layout_hash();
  h->size = zone->size;
  h->boot_id = secrets[0];
  h->hash_seed = secrets[1];
  h->version = GORGE_LAYOUT_VERSION;
  h->name_len = strlen(zone->name);
  memcpy(h->name, zone->name, h->name_len);
  memcpy(h->region_at, zone->region_at, sizeof h->region_at);
  memcpy(h->region_size, zone->region_size, sizeof h->region_size);
  for (int i = 0; i < GORGE_NAMESPACES; i++) {
    h->words[i].global = 1;
    h->words[i].epoch = 1;
    h->words[i].salt = secrets[2 + i];
    h->words[i].fresh_until_ms = GORGE_FRESH_ALWAYS;
  }
  return init_life_locks(zone);
}

bool gorge_layout_valid(const struct gorge_zone *zone) {
  const struct gorge_zone_header *h = zone->header;
  /* acquire: partner of the release store of the magic in gorge_zone_open; what it covers is then complete. */
  return __atomic_load_n(&h->magic, __ATOMIC_ACQUIRE) == GORGE_ZONE_MAGIC && h->layout == gorge_layout_hash() &&
         h->size == zone->size && memcmp(h->region_at, zone->region_at, sizeof h->region_at) == 0 &&
         memcmp(h->region_size, zone->region_size, sizeof h->region_size) == 0;
}
