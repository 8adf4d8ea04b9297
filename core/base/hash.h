/* SPDX-License-Identifier: MIT */
/* Hashing: XXH3 with a seed. Not a defence by itself: seeds are random per zone, so that keys cannot be chosen to collide. */
#ifndef GORGE_BASE_HASH_H
#define GORGE_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

/* Returns: 64 well-mixed bits of ptr[0..len) under `seed`. */
uint64_t gorge_hash(const void *ptr, size_t len, uint64_t seed);

/* Fills ptr[0..len) with random bytes of the kernel (getrandom). Returns GORGE_OK or GORGE_ERR_SYSTEM. */
int gorge_random(void *ptr, size_t len);

#endif
