/* SPDX-License-Identifier: MIT */
/* What the kernel tells of processes. */
#ifndef GORGE_SHM_PROC_H
#define GORGE_SHM_PROC_H

struct gorge_proc {
  char state;               /* as in /proc/PID/stat; 0: nothing is to be known */
  long parent;              /* its number; 0: none */
  unsigned long long start; /* in clock ticks since boot: tells the process from a later one with its number */
};

struct gorge_proc gorge_proc_identify(long pid);

#endif
