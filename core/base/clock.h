/* SPDX-License-Identifier: MIT */
/*
 * The one place that reads clocks. Pure modules take `now_ms` instead.
 *
 * gorge_clock_ms is CLOCK_MONOTONIC_COARSE: the clock behind nginx's cached milliseconds, common to all
 * processes of the host, a few nanoseconds a call, a few milliseconds coarse. gorge_clock_us is exact.
 */
#ifndef GORGE_BASE_CLOCK_H
#define GORGE_BASE_CLOCK_H

#include <stdint.h>

uint64_t gorge_clock_ms(void);
/*
 * Less than this gorge_clock_ms lies behind gorge_clock_us, as long as the kernel's ticks are on time: each moves it on by whole steps
 * only, so that up to one step is left over at a tick and one more passes until the next; and what is cut off of a millisecond.
 */
uint64_t gorge_clock_lag_ms(void);
uint64_t gorge_clock_us(void);

#endif
