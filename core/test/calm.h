/* SPDX-License-Identifier: MIT */
/*
 * How long something took that several threads or processes did together, without the time in which this machine had more to do than
 * processors to do it with: what is too late by this measure is too late on an idle machine, too. For one thread alone see proc_own_us.
 */
#ifndef GORGE_TEST_CALM_H
#define GORGE_TEST_CALM_H

#include <stdint.h>

struct calm {
  uint64_t now_us;
  uint64_t crowded_us; /* so long have any had to wait so far */
};

struct calm calm_begin(void);
/* Since then. Where the kernel does not tell who had to wait, all of the time. */
uint64_t calm_us(struct calm since);
uint64_t calm_ms(struct calm since);

#endif
