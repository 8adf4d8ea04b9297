/* SPDX-License-Identifier: MIT */
/*
 * Users of one L1 that check each other. The truth is a counter per key and one per tag, which only grow; a fill stores what
 * it saw of them, a writer raises one, invalidates, and writes down that this was acknowledged. Then, at any time:
 *
 *  - the bytes of a hit are whole and belong to the key;
 *  - a hit is not older than what was acknowledged before the read began, nor than what any read that ended before it saw;
 *  - the same for a record of L0 that is still valid.
 */
#ifndef GORGE_TEST_L1_STRESS_H
#define GORGE_TEST_L1_STRESS_H

#include "test/l1_support.h"

enum { STRESS_KEYS = 600, STRESS_TAGS = 8, STRESS_RECORDS = 64, STRESS_VALUE_MAX = 8000, STRESS_BATCH = 64 };

/* Shared by all; zeroed at first. */
struct stress {
  uint64_t truth[STRESS_KEYS], tag_truth[STRESS_TAGS];
  uint64_t acknowledged[STRESS_KEYS], tag_acknowledged[STRESS_TAGS];
  uint64_t seen[STRESS_KEYS], tag_seen[STRESS_KEYS];
  uint64_t hits, records /* added STRESS_BATCH at a time */, stored, refused, busy, writes, errors;
  char first_error[160];
};

struct stress_record {
  uint32_t key;
  uint64_t truth, tag_truth;
  const uint64_t *slot;
  uint64_t word, global;
};

/* One user: a thread or a process. */
struct stress_user {
  struct l1 l1;
  struct stress *world;
  uint64_t random;
  uint32_t weight;        /* of writes in 1000 operations */
  uint32_t large;         /* of 16 values so many are of all sizes; the others are short */
  uint32_t hits, records; /* not added to the world's yet */
  struct stress_record record[STRESS_RECORDS];
  char value[STRESS_VALUE_MAX], buf[STRESS_VALUE_MAX];
};

void stress_user_init(struct stress_user *u, const struct l1 *l1, struct stress *world, uint64_t seed,
                      uint32_t writes_per_mille);
/* One operation of any kind. */
void stress_step(struct stress_user *u);
/* Reads, nothing else. */
void stress_read(struct stress_user *u, uint32_t key);
/* A fill that reads the truth; returns the status of its insert. */
int stress_fill(struct stress_user *u, uint32_t key);
/* A write of a key that was acknowledged. */
void stress_write(struct stress_user *u, uint32_t key);

#endif
