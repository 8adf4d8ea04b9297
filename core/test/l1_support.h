/* SPDX-License-Identifier: MIT */
/* What the tests of L1 share: zones cut as asked, and one-line operations. Include after cmocka.h. */
#ifndef GORGE_TEST_L1_SUPPORT_H
#define GORGE_TEST_L1_SUPPORT_H

#include "l1/layout.h"
#include "test/procs.h"

/* One process's access to a zone. */
struct l1 {
  struct gorge_zone *zone;
  struct gorge_owner owner;
  uint32_t ns;
  uint64_t now_ms;
};

/* A zone that nobody else has; shards and buckets 0: as the size says. Namespace 0, time 1000. */
struct l1 l1_open(uint64_t size_bytes, uint32_t shards, uint32_t buckets);
/* A new owner for a child or thread that uses the zone. */
struct l1 l1_enter(const struct l1 *parent);

struct gorge_key l1_key(const struct l1 *l1, const char *ptr, size_t len);
struct gorge_snapshot l1_snapshot(const struct l1 *l1, const char *key);

/* An insert of what is resident for `ttl_ms`, with a fresh snapshot. Returns its status. */
int l1_put(const struct l1 *l1, const char *key, const char *value, uint64_t ttl_ms);
int l1_put_bytes(const struct l1 *l1, const char *key, size_t key_len, const char *value, size_t len, uint64_t ttl_ms);
int l1_put_version(const struct l1 *l1, const char *key, const char *value, uint64_t version);
int l1_put_tagged(const struct l1 *l1, const char *key, const char *value, const char *const *tags, uint32_t ntags);
int l1_put_snapshot(const struct l1 *l1, const char *key, const char *value, uint64_t version,
                    const struct gorge_snapshot *s);

/* The value of a key as a string, good until the next call; NULL: a miss. */
const char *l1_get(const struct l1 *l1, const char *key);
/* The same with a use counted, and what it tells; buf is set to the shared one. */
int l1_read(const struct l1 *l1, const char *key, size_t len, bool use, struct gorge_read *out);
bool l1_has(const struct l1 *l1, const char *key);
void l1_delete(const struct l1 *l1, const char *key, uint64_t version);

uint64_t l1_count(const struct l1 *l1, enum gorge_counter counter);
uint64_t l1_entries(const struct l1 *l1);

/*
 * Bytes that tell whose they are: filled from a seed, with a checksum. `len` >= 16. l1_check returns whether they are as made, for
 * that key.
 */
void l1_fill(char *at, uint32_t len, uint64_t key, uint64_t seed);
bool l1_check(const char *at, uint32_t len, uint64_t key);
/* A key's number as its bytes. */
void l1_name(char name[24], uint64_t number);

/* Zipf-like numbers 0..n-1, small ones often. */
uint32_t l1_zipf(uint64_t *state, uint32_t n);

#endif
