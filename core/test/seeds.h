/* SPDX-License-Identifier: MIT */
/*
 * The seeds of a zone's hashes, which chance chooses for users, chosen by a test. What shares a cell with something else is forgotten with it:
 * one pair of tags in some hundred does, one pair of keys in a thousand. So a test that expects one to outlast the other would fail now and
 * then; with the same seeds in every run it fails always or never.
 */
#ifndef GORGE_TEST_SEEDS_H
#define GORGE_TEST_SEEDS_H

#include "shm/zone.h"

/* Those of keys and tags, before anything is hashed with them. Nothing happens when they are those of `seed` already. */
void seeds_set(struct gorge_zone *zone, uint64_t seed);

#endif
