/* SPDX-License-Identifier: MIT */
/*
 * Circuit breaker over words in shared memory: closed -> open after `max_failures` failures in a row -> after `timeout_ms`
 * half-open with a single probe -> closed when the probe succeeds, open again when it fails or does not answer within
 * `timeout_ms`. Lock-free; any number of processes; now_ms is a clock they share (CLOCK_MONOTONIC).
 *
 * A success that comes in while it is open belongs to a call from before and changes nothing.
 */
#ifndef GORGE_RESIL_BREAKER_H
#define GORGE_RESIL_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum gorge_breaker_state { GORGE_BREAKER_CLOSED = 0, GORGE_BREAKER_OPEN = 1, GORGE_BREAKER_HALF_OPEN = 2 };

struct gorge_breaker_words { /* zero is closed */
  uint64_t state;            /* failures in a row, state, time of the change: packed by breaker.c */
  uint64_t opens;            /* how often it opened */
};

struct gorge_breaker_config {
  uint32_t max_failures; /* 0: no breaker, always closed; counted to 16383 */
  uint32_t timeout_ms;
};

/* Whether a call may be made now. In half-open exactly one caller gets true (the probe). */
bool gorge_breaker_allow(struct gorge_breaker_words *w, const struct gorge_breaker_config *c, uint64_t now_ms);
/* Whether calls would be refused now; changes nothing. */
bool gorge_breaker_refuses(const struct gorge_breaker_words *w, const struct gorge_breaker_config *c, uint64_t now_ms);
void gorge_breaker_success(struct gorge_breaker_words *w, const struct gorge_breaker_config *c, uint64_t now_ms);
/* Returns true when this failure opened the breaker. */
bool gorge_breaker_failure(struct gorge_breaker_words *w, const struct gorge_breaker_config *c, uint64_t now_ms);
/* Whether it is closed, and the last call succeeded. */
bool gorge_breaker_untouched(const struct gorge_breaker_words *w);
/* Closes it, whatever it was. `opens` stays. */
void gorge_breaker_reset(struct gorge_breaker_words *w);
/* The state as last written: an open breaker whose timeout is over stays open until somebody asks for a call. */
enum gorge_breaker_state gorge_breaker_state(const struct gorge_breaker_words *w);

#endif
