/* SPDX-License-Identifier: MIT */
#include "test/calm.h"

#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"

enum { TRIES = 5, APART_US = 500 };

/* The first line of a file of the kernel's; "" where there is none. */
static void first_line(const char *path, char *line, int size) {
  FILE *f = fopen(path, "re");
  if (f == NULL || fgets(line, size, f) == NULL) {
    line[0] = '\0';
  }
  if (f != NULL) {
    fclose(f);
  }
}

/* While some task could run and did not: the kernel tells the mean of all processors. */
static uint64_t waited_us(void) {
  char line[256];
  unsigned long long total = 0;
  first_line("/proc/pressure/cpu", line, sizeof line);
  if (sscanf(line, "some avg10=%*f avg60=%*f avg300=%*f total=%llu", &total) != 1) {
    return 0;
  }
  return total * (uint64_t)sysconf(_SC_NPROCESSORS_ONLN);
}

/* While the host of a virtual machine kept a processor for others. */
static uint64_t stolen_us(void) {
  char line[256];
  unsigned long long ticks = 0;
  first_line("/proc/stat", line, sizeof line);
  if (sscanf(line, "cpu %*u %*u %*u %*u %*u %*u %*u %llu", &ticks) != 1) {
    return 0;
  }
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
