/* SPDX-License-Identifier: MIT */
/*
 * A zone whose shared memory was damaged: other processes' bytes are believed for nothing that steers an address. Input: a script of
 * writes over the memory, and of reads, inserts, deletes and tag invalidations by somebody who does not know. The zone lies between
 * two pages that nobody may touch. Values may be wrong after such damage; accesses outside, endless loops and crashes may not be.
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "api/explain.h"
#include "api/stats.h"
#include "fuzz/fuzz.h"
#include "gorge.h"
#include "l1/index.h"
#include "l1/uses.h"
#include "resil/breakers.h"
#include "shm/events.h"
#include "shm/layout.h"
#include "sync/mailbox.h"

enum { SIZE = GORGE_ZONE_SIZE_MIN, PAGE = 4096, STEPS_MAX = 400, KEYS = 64, VALUE_MAX = 60000, BUFFER = 1 << 16 };

static struct gorge_zone zone;
static struct gorge_owner owner;
static char *pristine;
static char *buffer;

/* A zone of our own making, so that its neighbours are known; filled, so that there is something to damage. */
static void make_zone(void) {
  struct gorge_region_table regions;
  char *guarded = mmap(NULL, SIZE + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  FUZZ_CHECK(guarded != MAP_FAILED && mprotect(guarded + PAGE, SIZE, PROT_READ | PROT_WRITE) == 0);
  zone.base = guarded + PAGE;
  zone.size = SIZE;
  zone.header = (struct gorge_zone_header *)(void *)zone.base;
  zone.words = zone.header->words;
  gorge_layout_regions(SIZE, &regions);
  memcpy(zone.region_at, regions.at, sizeof regions.at);
  memcpy(zone.region_size, regions.size, sizeof regions.size);
  FUZZ_CHECK(gorge_layout_init(&zone) == GORGE_OK && gorge_l1_init(&zone) == GORGE_OK);
  __atomic_store_n(&zone.header->magic, GORGE_ZONE_MAGIC, __ATOMIC_RELEASE); /* partner: gorge_layout_valid */
  FUZZ_CHECK(gorge_layout_valid(&zone));
  FUZZ_CHECK(gorge_owner_claim(&zone, GORGE_THREAD_MAIN, &owner) == GORGE_OK);
  buffer = malloc(BUFFER);
  pristine = malloc(SIZE);
  FUZZ_CHECK(buffer != NULL && pristine != NULL);
  memset(buffer, 'v', BUFFER);
}

static struct gorge_key key_of(struct fuzz_input *in, char name[16]) {
  struct gorge_key key;
  int len = snprintf(name, 16, "key:%u", (unsigned)(fuzz_number(in, 1) % KEYS));
  gorge_key_init(&zone, 0, name, (uint32_t)len, &key);
  return key;
}

static void read_one(struct fuzz_input *in) {
  char name[16];
  static char out[BUFFER];
  struct gorge_key key = key_of(in, name);
  struct gorge_read read = {.buf = out, .buf_size = sizeof out};
  int status = gorge_l1_read(&zone, &key, 1000, true, &read);
  FUZZ_CHECK(status == GORGE_HIT || status == GORGE_MISS || status == GORGE_SPACE);
  FUZZ_CHECK(status != GORGE_HIT || read.len <= sizeof out);
  uint32_t len;
  (void)gorge_l1_tags(&zone, &key, out, sizeof out, &len);
}

static void insert_one(struct fuzz_input *in) {
  char name[16];
  struct gorge_key key = key_of(in, name);
  struct gorge_snapshot s;
  struct gorge_tag tag = {"tag", 3};
  uint32_t ntags = (uint32_t)fuzz_number(in, 1) % 2;
  struct gorge_entry entry = {.value = buffer,
                              .value_len = (uint32_t)fuzz_number(in, 2) % VALUE_MAX,
                              .kind = GORGE_KIND_STRING,
                              .version = fuzz_number(in, 1),
                              .expires_ms = 1 << 30,
                              .ntags = ntags,
                              .tags = &tag};
  gorge_l1_snapshot(&zone, &key, &tag, ntags, &s);
  int status = gorge_l1_insert(&zone, &owner, &key, &entry, &s, 1000, NULL);
  FUZZ_CHECK(status == GORGE_STORED || status == GORGE_REFUSED || status == GORGE_TOO_LARGE || status == GORGE_BUSY);
}

/* Bytes anywhere but where the life-locks of threads stand: what the C library keeps there is its own. */
static void damage(struct fuzz_input *in) {
  uint64_t at = fuzz_number(in, 3);
  size_t len;
  const char *bytes = fuzz_bytes(in, 1 + fuzz_number(in, 1) % 16, &len);
  uint64_t from = zone.region_at[GORGE_REGION_STATS];
  at = from + at % (SIZE - from - 16);
  if (fuzz_number(in, 1) % 2 == 0) { /* mostly what steers: headers of L1 and of its shard */
    at = zone.region_at[GORGE_REGION_L1] + at % 512;
  }
  memcpy(zone.base + at, bytes, len);
}

/* The same where it hurts: in the first words of L1's shard, whose place is known. */
static void damage_shard(struct fuzz_input *in) {
  const struct gorge_l1_header *l1 = gorge_l1_header(&zone);
  uint64_t at = fuzz_number(in, 1) % (sizeof(struct gorge_l1_shard) / 8), word = fuzz_number(in, 8);
  if (l1->shards_at <= zone.region_size[GORGE_REGION_L1] - sizeof(struct gorge_l1_shard)) {
    memcpy((char *)gorge_l1_header(&zone) + l1->shards_at + at * 8, &word, 8);
  }
}

/* The same in the header: the names of namespaces, their words, breaker and role. */
static void damage_header(struct fuzz_input *in) {
  size_t from = offsetof(struct gorge_zone_header, namespaces), len;
  uint64_t at = from + fuzz_number(in, 2) % (sizeof(struct gorge_zone_header) - from - 16);
  const char *bytes = fuzz_bytes(in, 1 + fuzz_number(in, 1) % 16, &len);
  memcpy(zone.base + at, bytes, len);
}

static void look_at_uses(struct fuzz_input *in) {
  static struct gorge_uses_cursor cursor;
  static struct gorge_hot hot[16];
  uint64_t at = fuzz_number(in, 8);
  uint32_t n = gorge_l1_uses(&zone, &cursor, 1000, hot, 16) + gorge_l1_frequent(&zone, &at, 4096, 1000, hot, 16);
  FUZZ_CHECK(n <= 32);
  memset(&cursor, 0, sizeof cursor);
  uint64_t *counters = gorge_zone_counters(&zone, 0, 0); /* so that there is something to be looked at the next time */
  counters[GORGE_COUNT_L0_HITS] += 1 + fuzz_number(in, 1);
  counters[GORGE_COUNT_BASE] = (uint64_t)(uintptr_t)zone.base;
  gorge_l1_recent(counters, fuzz_number(in, 1), (const uint64_t *)(const void *)(zone.base + fuzz_number(in, 3)));
}

static void look_at_requests(struct fuzz_input *in) {
  static struct gorge_event events[16];
  static struct gorge_mail mail;
  struct gorge_events_cursor cursor = {.next = fuzz_number(in, 1)};
  char text[64];
  FUZZ_CHECK(gorge_events_read(&zone, &cursor, events, 16) <= 16);
  gorge_events_add(&zone, GORGE_EVENT_KEY, GORGE_EVENT_HERE, 0, 1, "name", 4, 1000);
  (void)gorge_mail_send(&zone, GORGE_FORGET_KEY, 0, "name", 4, 1000, 5000, &(uint64_t){0});
  if (gorge_mail_take(&zone, owner.id, 0, 1000, &mail)) {
    FUZZ_CHECK(mail.len <= GORGE_KEY_MAX);
    gorge_mail_answer(&zone, owner.id, mail.ticket, 1000, GORGE_OK, "text");
    (void)gorge_mail_fetch(&zone, mail.ticket, 1000, text, sizeof text);
  }
}

static void explain_one(struct fuzz_input *in) {
  static struct gorge_host_look look;
  char name[16];
  struct gorge_key key = key_of(in, name);
  gorge_explain_zone(&zone, 0, key.ptr, key.len, GORGE_WORKERS, 1000, &look);
  FUZZ_CHECK(look.l1.ntags <= GORGE_TAGS_MAX && look.l1.state < GORGE_LOOK_DAMAGED);
  for (uint32_t i = 0; i < look.l1.ntags; i++) {
    FUZZ_CHECK(look.l1.tags[i].len <= GORGE_TAG_MAX && look.l1.tags[i].name[look.l1.tags[i].len] == '\0');
  }
}

/* All that somebody from outside asks a zone. */
static void look_on(struct fuzz_input *in) {
  uint32_t ns = (uint32_t)fuzz_number(in, 1) % (GORGE_NAMESPACES + 1), uses;
  char name[GORGE_NAME_MAX + 1];
  struct gorge_stats stats;
  bool named = gorge_zone_namespace_at(&zone, ns, name, &uses);
  FUZZ_CHECK(!named || (ns < GORGE_NAMESPACES && memchr(name, '\0', sizeof name) != NULL));
  gorge_stats_zone(&zone, ns % GORGE_NAMESPACES, &stats);
  for (int i = 0; i < GORGE_BREAKERS; i++) {
    struct gorge_breaker_look look;
    bool is = gorge_breakers_look(gorge_zone_breakers(&zone), i, ns % GORGE_NAMESPACES, 1000, &look);
    FUZZ_CHECK(!is || memchr(look.host, 0, sizeof look.host) != NULL);
  }
  (void)gorge_histogram_quantile_us(stats.histograms[0], 0.5);
  look_at_uses(in);
  look_at_requests(in);
  explain_one(in);
}

/* Lets a key's slot lead to a copy of its entry near the end of the area, whose lengths are not true. */
static void relocate(struct fuzz_input *in) {
  char name[16];
  struct gorge_shard v;
  struct gorge_key key = key_of(in, name);
  struct gorge_read read = {.buf = buffer + BUFFER - 1, .buf_size = 1};
  int found = gorge_l1_read(&zone, &key, 1000, false, &read);
  if ((found != GORGE_HIT && found != GORGE_SPACE) || !gorge_shard_at(&zone, 0, &v)) {
    return;
  }
  uint64_t from = gorge_shard_position(&v, read.word), room = GORGE_HEAD_UNITS + fuzz_number(in, 1) % 60;
  uint64_t to = v.area_units - room, tail = v.shared->tail[gorge_slot_ring(read.word)];
  uint64_t offset = tail >> v.lap_shift << v.lap_shift | to;
  if (to <= from || to - from < room) {
    return;
  }
  memcpy(v.area + to, v.area + from, room * GORGE_L1_UNIT);
  struct gorge_head head = gorge_head_load(v.area + to);
  head.unit[0] ^= (uint32_t)fuzz_number(in, 2) << GORGE_HEAD_KIND_BIT; /* the same key */
  head.unit[1] ^= (uint32_t)fuzz_number(in, 2) << (fuzz_number(in, 1) % 8);
  gorge_head_set_check(&head, offset);
  gorge_head_store(v.area + to, &head);
  uint64_t keep = GORGE_SLOT_FINGERPRINT | GORGE_SLOT_RING, word = (read.word & keep) | (offset & GORGE_SLOT_OFFSET);
  memcpy((void *)(uintptr_t)read.slot, &word, sizeof word);
}

static void step(struct fuzz_input *in) {
  char name[16];
  struct gorge_l1_usage usage;
  struct gorge_key key;
  switch (fuzz_number(in, 1) % 11) {
    case 0: damage(in); break;
    case 1: damage_shard(in); break;
    case 8: relocate(in); break;
    case 9: damage_header(in); break;
    case 10: look_on(in); break;
    case 2:
    case 3: insert_one(in); break;
    case 4:
      key = key_of(in, name);
      gorge_l1_invalidate(&zone, &owner, &key, fuzz_number(in, 1), NULL);
      break;
    case 5: gorge_l1_invalidate_tag(&zone, 0, "tag", 3); break;
    case 6: gorge_l1_usage(&zone, &usage); break;
    default: read_one(in); break;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input in = {data, size};
  if (pristine == NULL) {
    make_zone();
    static uint8_t script[6];
    for (int i = 0; i < KEYS; i++) {
      script[0] = (uint8_t)i;
      script[3] = (uint8_t)(i / 4);
      struct fuzz_input fill = {script, sizeof script};
      insert_one(&fill);
    }
    memcpy(pristine, zone.base, SIZE);
  } else {
    memcpy(zone.base, pristine, SIZE);
  }
  for (int i = 0; i < STEPS_MAX && in.len > 0; i++) {
    step(&in);
  }
  return 0;
}
