/* SPDX-License-Identifier: MIT */
#include "test/calm.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

enum { TRIES = 5, APART_US = 500 };

/* While some task could run and did not: the kernel tells the mean of all processors. */
static uint64_t waited_us(void) {
  unsigned long long total = 0;
  FILE *f = fopen("/proc/pressure/cpu", "re");
  if (f == NULL) {
    return 0;
  }
  if (fscanf(f, "some avg10=%*f avg60=%*f avg300=%*f total=%llu", &total) != 1) {
    total = 0;
  }
  fclose(f);
  return total * (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
}

/* While the host of a virtual machine kept a processor for others. */
static uint64_t stolen_us(void) {
  unsigned long long ticks = 0;
  FILE *f = fopen("/proc/stat", "re");
  if (f == NULL) {
    return 0;
  }
  if (fscanf(f, "cpu %*u %*u %*u %*u %*u %*u %*u %llu", &ticks) != 1) {
    ticks = 0;
  }
  fclose(f);
  return ticks * 1000000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

struct calm calm_begin(void) {
  struct calm c = {.now_us = gorge_clock_us()};
  for (int i = 0; i < TRIES; i++) { /* both of one moment, as far as that can be had */
    uint64_t before_us = c.now_us;
    c.crowded_us = waited_us() + stolen_us();
    c.now_us = gorge_clock_us();
    if (c.now_us - before_us < APART_US) {
      break;
    }
  }
  return c;
}

uint64_t calm_us(struct calm since) {
  struct calm now = calm_begin();
  uint64_t took_us = now.now_us - since.now_us, crowded_us = now.crowded_us - since.crowded_us;
  return took_us > crowded_us ? took_us - crowded_us : 0;
}

uint64_t calm_ms(struct calm since) { return calm_us(since) / 1000; }
