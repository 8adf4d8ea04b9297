/* SPDX-License-Identifier: MIT */
#include "base/clock.h"

#include <time.h>

uint64_t gorge_clock_ms(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
  return (uint64_t)ts.tv_sec * 1000U + (uint64_t)ts.tv_nsec / 1000000U;
}

uint64_t gorge_clock_lag_ms(void) {
  struct timespec step;
  clock_getres(CLOCK_MONOTONIC_COARSE, &step);
  uint64_t step_us = (uint64_t)step.tv_sec * 1000000U + ((uint64_t)step.tv_nsec + 999U) / 1000U;
  return (2 * step_us + 999U) / 1000U + 1;
}

uint64_t gorge_clock_us(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000U + (uint64_t)ts.tv_nsec / 1000U;
}
