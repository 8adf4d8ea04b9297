/* SPDX-License-Identifier: MIT */
/*
 * What fits into a zone: bytes per entry, and the share of the zone that values of one size hold after it was full of another.
 * Nothing expires and nothing is read in between; every insert must be stored.
 *
 *   usage: fill
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l1/l1.h"

enum { KEY_LEN = 20, VALUE_MAX = 1 << 20 };

static struct gorge_zone *zone;
static struct gorge_owner owner;
static char *value;

static void open_zone(uint64_t bytes) {
  static int number;
  char name[32];
  int len = snprintf(name, sizeof name, "fill %d", ++number);
  if (gorge_zone_open(name, (size_t)len, bytes, 0, gorge_l1_init, &zone, NULL) != GORGE_OK ||
      gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner) != GORGE_OK) {
    fprintf(stderr, "fill: no zone of %llu bytes\n", (unsigned long long)bytes);
    exit(1);
  }
}

static void key_of(uint64_t number, char name[KEY_LEN + 1], struct gorge_key *key) {
  snprintf(name, KEY_LEN + 1, "%020llu", (unsigned long long)number);
  gorge_key_init(zone, 0, name, KEY_LEN, key);
}

static void put(uint64_t number, uint32_t len) {
  char name[KEY_LEN + 1];
  struct gorge_key key;
  struct gorge_snapshot s;
  struct gorge_entry entry = {.value = value, .value_len = len, .kind = GORGE_KIND_STRING, .expires_ms = 1000};
  int status = GORGE_BUSY;
  key_of(number, name, &key);
  for (int i = 0; status == GORGE_BUSY && i < 100; i++) { /* a large value on a busy machine may need another attempt */
    gorge_l1_snapshot(zone, &key, NULL, 0, &s);
    status = gorge_l1_insert(zone, &owner, &key, &entry, &s, 1, NULL);
  }
  if (status != GORGE_STORED) {
    fprintf(stderr, "fill: a value of %u bytes was not stored: %d\n", len, status);
    exit(1);
  }
}

static bool has(uint64_t number) {
  char name[KEY_LEN + 1];
  struct gorge_key key;
  struct gorge_read read = {.buf = NULL};
  key_of(number, name, &key);
  return gorge_l1_read(zone, &key, 1, false, &read) != GORGE_MISS;
}

/* Inserts more than fits. Returns the percent of the zone that the values resident then take. */
static double fill(uint64_t bytes, uint32_t len, uint64_t *number) {
  uint64_t first = *number, last = first + bytes / len + bytes / len / 2 + 8, resident = 0;
  for (uint64_t i = first; i < last; i++) {
    put(i, len);
  }
  for (uint64_t i = first; i < last; i++) {
    resident += has(i);
  }
  *number = last;
  return 100.0 * (double)(resident * len) / (double)bytes;
}

int main(void) {
  static const struct {
    const char *name;
    uint64_t bytes;
    uint32_t large;
  } zones[] = {{"64 MB", 64 << 20, 1 << 20}, {"16 MB", 16 << 20, 300 << 10}, {"2 MB", 2 << 20, 300 << 10}};
  value = calloc(1, VALUE_MAX);
  if (value == NULL) {
    return 1;
  }
  printf("zone    bytes per entry   share of the zone that values hold, filled one after the other\n");
  printf("        20 B + 100 B          100 B    10 KB      large    100 B again\n");
  for (size_t i = 0; i < sizeof zones / sizeof *zones; i++) {
    struct gorge_l1_usage usage;
    uint64_t number = 1;
    open_zone(zones[i].bytes);
    double small = fill(zones[i].bytes, 100, &number);
    gorge_l1_usage(zone, &usage);
    double each = (double)zones[i].bytes / (double)usage.entries;
    double medium = fill(zones[i].bytes, 10 << 10, &number), large = fill(zones[i].bytes, zones[i].large, &number);
    double again = fill(zones[i].bytes, 100, &number);
    printf("%-6s %10.1f           %6.1f %% %6.1f %% %5.0f KB %5.1f %%  %6.1f %%\n", zones[i].name, each, small, medium,
           zones[i].large / 1024.0, large, again);
  }
  return 0;
}
