/* SPDX-License-Identifier: MIT */
#include "shm/zone.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "shm/layout.h"
#include "shm/map.h"

/* Every zone this process has opened, or inherited over a fork; nothing is ever removed. */
struct registered {
  struct gorge_zone zone;
  struct registered *next;
};

static struct registered *registry;
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

/* A fork while another thread holds the lock must not leave it locked in the child for ever. */
static void lock_registry(void) { pthread_mutex_lock(&registry_lock); }
static void unlock_registry(void) { pthread_mutex_unlock(&registry_lock); }
static void watch_forks(void) { pthread_atfork(lock_registry, unlock_registry, unlock_registry); }

static int fill(struct gorge_zone *zone, int (*init)(struct gorge_zone *)) {
  int status = gorge_layout_init(zone);
  return status == GORGE_OK && init != NULL ? init(zone) : status;
}

static int open_new(const char *name, size_t name_len, uint64_t size_bytes, unsigned flags,
                    int (*init)(struct gorge_zone *), struct gorge_zone **out, uint64_t *existing_size) {
  struct registered *r = calloc(1, sizeof *r);
  if (r == NULL) {
    return GORGE_ERR_MEMORY;
  }
  struct gorge_zone *zone = &r->zone;
  memcpy(zone->name, name, name_len);
  zone->size = size_bytes;
  zone->fd = -1;
  struct gorge_region_table regions;
  gorge_layout_regions(size_bytes, &regions);
  memcpy(zone->region_at, regions.at, sizeof regions.at);
  memcpy(zone->region_size, regions.size, sizeof regions.size);
  int status = flags & GORGE_ZONE_SIBLINGS ? gorge_map_siblings(zone, fill, init, existing_size)
                                           : gorge_map_private(zone, fill, init);
  if (status != GORGE_OK) {
    free(r);
    return status;
  }
  r->next = registry;
  registry = r;
  *out = zone;
  return GORGE_OK;
}

int gorge_zone_open(const char *name, size_t name_len, uint64_t size_bytes, unsigned flags,
                    int (*init)(struct gorge_zone *), struct gorge_zone **out, uint64_t *existing_size) {
  uint64_t ignored;
  existing_size = existing_size != NULL ? existing_size : &ignored;
  *existing_size = 0;
  *out = NULL;
  if (name_len == 0 || name_len > GORGE_NAME_MAX || memchr(name, '\0', name_len) != NULL ||
      size_bytes < GORGE_ZONE_SIZE_MIN || size_bytes > INT64_MAX / 2) {
    errno = EINVAL;
    return GORGE_ERR_ARGUMENT;
  }
  pthread_once(&fork_once, watch_forks);
  lock_registry();
  int status = GORGE_MISS;
  for (struct registered *r = registry; r != NULL && status == GORGE_MISS; r = r->next) {
    if (strlen(r->zone.name) != name_len || memcmp(r->zone.name, name, name_len) != 0) {
      continue;
    }
    if (r->zone.size == size_bytes) {
      *out = &r->zone;
      status = GORGE_OK;
    } else {
      *existing_size = r->zone.size;
      errno = EEXIST;
      status = GORGE_ERR_MISMATCH;
    }
  }
  if (status == GORGE_MISS) {
    status = open_new(name, name_len, size_bytes, flags, init, out, existing_size);
  }
  unlock_registry();
  return status;
}

void *gorge_zone_region(const struct gorge_zone *zone, enum gorge_region region, uint64_t *size) {
  if (size != NULL) {
    *size = zone->region_size[region];
  }
  return zone->base + zone->region_at[region];
}

/* Writes the name of a claimed namespace unless it is there already. */
static void write_name(struct gorge_zone_namespace *n, const uint64_t *words, size_t len) {
  for (int i = 0; i < GORGE_NAME_WORDS; i++) {
    /* relaxed: covered by the release store of len; all who get here store the same. */
    __atomic_store_n(&n->name[i], words[i], __ATOMIC_RELAXED);
  }
  /* release: partner of the acquire load in has_name. */
  __atomic_store_n(&n->len, len, __ATOMIC_RELEASE);
}

static bool has_name(struct gorge_zone_namespace *n, const uint64_t *words, size_t len) {
  /* acquire: partner of the release store in write_name. */
  uint64_t have = __atomic_load_n(&n->len, __ATOMIC_ACQUIRE);
  if (have == 0) {
    write_name(n, words, len);
    return true;
  }
  bool same = have == len;
  for (int i = 0; i < GORGE_NAME_WORDS && same; i++) {
    /* relaxed: covered by the acquire load of len. */
    same = __atomic_load_n(&n->name[i], __ATOMIC_RELAXED) == words[i];
  }
  return same;
}

int gorge_zone_namespace(struct gorge_zone *zone, const char *name, size_t name_len, uint32_t *ns) {
  if (name_len == 0 || name_len > GORGE_NAME_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  uint64_t words[GORGE_NAME_WORDS] = {0};
  memcpy(words, name, name_len);
  uint64_t id = gorge_hash(name, name_len, zone->header->hash_seed) | 1;
  /* All look from the start and nothing is ever freed: the same name always ends at the same index. */
  for (uint32_t i = 0; i < GORGE_NAMESPACES; i++) {
    struct gorge_zone_namespace *n = &zone->header->namespaces[i];
    uint64_t seen = 0;
    /*
     * acq_rel, or acquire when taken: partner of this CAS by whoever else claims it, and sees the same id. Nothing is handed over with
     * the id: the name has its own pair in len.
     */
    if (__atomic_compare_exchange_n(&n->id, &seen, id, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
      seen = id;
    }
    if (seen == id && has_name(n, words, name_len)) {
      *ns = i;
      return GORGE_OK;
    }
  }
  return GORGE_ERR_FULL;
}

void gorge_zone_namespace_use(const struct gorge_zone *zone, uint32_t ns, uint32_t uses) {
  /* relaxed: a note for those who look on; nothing is handed over with it. */
  __atomic_fetch_or(&zone->header->namespaces[ns % GORGE_NAMESPACES].uses, uses, __ATOMIC_RELAXED);
}

bool gorge_zone_namespace_at(const struct gorge_zone *zone, uint32_t ns, char name[GORGE_NAME_MAX + 1],
                             uint32_t *uses) {
  const struct gorge_zone_namespace *n = &zone->header->namespaces[ns % GORGE_NAMESPACES];
  uint64_t words[GORGE_NAME_WORDS];
  /* acquire: partner of the release store in write_name. */
  uint64_t len = __atomic_load_n(&n->len, __ATOMIC_ACQUIRE);
  if (ns >= GORGE_NAMESPACES || len == 0 || len > GORGE_NAME_MAX) {
    return false;
  }
  for (int i = 0; i < GORGE_NAME_WORDS; i++) {
    /* relaxed: covered by the acquire load of len. */
    words[i] = __atomic_load_n(&n->name[i], __ATOMIC_RELAXED);
  }
  memcpy(name, words, len);
  name[len] = '\0';
  /* relaxed: see gorge_zone_namespace_use. */
  *uses = (uint32_t)__atomic_load_n(&n->uses, __ATOMIC_RELAXED);
  return true;
}

struct gorge_breaker_words *gorge_zone_breaker(const struct gorge_zone *zone, uint32_t ns) {
  return (struct gorge_breaker_words *)zone->header->protection[ns % GORGE_NAMESPACES].breaker;
}

struct gorge_breaker_table *gorge_zone_breakers(const struct gorge_zone *zone) {
  return (struct gorge_breaker_table *)zone->header->breakers;
}

struct gorge_breaker_words *gorge_zone_origin_breaker(const struct gorge_zone *zone, uint32_t ns) {
  return (struct gorge_breaker_words *)zone->header->protection[ns % GORGE_NAMESPACES].origin_breaker;
}

struct gorge_journal_words *gorge_zone_journal(const struct gorge_zone *zone, uint32_t ns) {
  return (struct gorge_journal_words *)&zone->header->roles[ns % GORGE_NAMESPACES].word[2];
}

static struct gorge_partition_words *partitions_of(const struct gorge_zone *zone, uint32_t ns) {
  struct gorge_partition_words *words = gorge_zone_region(zone, GORGE_REGION_PARTITIONS, NULL);
  return &words[ns];
}

bool gorge_zone_partitions_there(const struct gorge_zone *zone, uint32_t ns) {
  uint64_t size;
  (void)gorge_zone_region(zone, GORGE_REGION_PARTITIONS, &size);
  return ns < size / sizeof(struct gorge_partition_words);
}

uint64_t *gorge_zone_cursors(const struct gorge_zone *zone, uint32_t ns, uint32_t partitions) {
  return partitions == 1 ? &gorge_zone_journal(zone, ns)->cursor : partitions_of(zone, ns)->cursor;
}

uint64_t *gorge_zone_epochs(const struct gorge_zone *zone, uint32_t ns, uint32_t partitions) {
  return partitions == 1 ? &gorge_zone_journal(zone, ns)->epoch : partitions_of(zone, ns)->epoch;
}

struct gorge_role *gorge_zone_subscriber_role(const struct gorge_zone *zone, uint32_t ns) {
  return (struct gorge_role *)&zone->header->roles[ns % GORGE_NAMESPACES];
}

struct gorge_master_words *gorge_zone_master(const struct gorge_zone *zone, uint32_t ns) {
  return (struct gorge_master_words *)&zone->header->masters[ns % GORGE_NAMESPACES];
}

uint64_t gorge_zone_token(const struct gorge_zone *zone) {
  uint64_t token;
  do {
    /* relaxed: only the numbers must differ. */
    uint64_t n = __atomic_add_fetch(&zone->header->tokens.word[0], 1, __ATOMIC_RELAXED);
    /* A bijection of n (splitmix64): never the same twice in the life of a zone. */
    token = zone->header->boot_id + n * 0x9e3779b97f4a7c15U;
    token = (token ^ (token >> 30)) * 0xbf58476d1ce4e5b9U;
    token = (token ^ (token >> 27)) * 0x94d049bb133111ebU;
    token ^= token >> 31;
  } while (token == 0);
  return token;
}
