/* SPDX-License-Identifier: MIT */
/*
 * Floating-point numbers in bytes that somebody else may have written. LuaJIT keeps references in what would be NaNs with a payload, and reads
 * members of C structs without looking: such bytes must not reach it.
 */
#ifndef GORGE_BASE_FLOATS_H
#define GORGE_BASE_FLOATS_H

#include <stdint.h>

/*
 * Makes each NaN among the doubles and floats of a struct the plain one. offsets: ndoubles places of doubles, then nfloats places of floats, in bytes; they
 * need not be aligned.
 */
void gorge_floats_settle(void *bytes, const uint32_t *offsets, uint32_t ndoubles, uint32_t nfloats);

#endif
