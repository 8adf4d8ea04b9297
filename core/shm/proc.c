/* SPDX-License-Identifier: MIT */
#include "shm/proc.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { FIELD_PARENT = 4, FIELD_START = 22 };

struct gorge_proc gorge_proc_identify(long pid) {
  char path[32], stat[1024];
  struct gorge_proc who = {0, 0, 0};
  snprintf(path, sizeof path, "/proc/%ld/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    return who;
  }
  ssize_t n = read(fd, stat, sizeof stat - 1);
  close(fd);
  if (n <= 0) {
    return who;
  }
  stat[n] = '\0';
  const char *at = strrchr(stat, ')'); /* the name in front of it may hold anything */
  if (at == NULL || strlen(at) < 3) {
    return who;
  }
  who.state = at[2];
  for (int field = 2; at != NULL && field < FIELD_START; field++) {
    at = strchr(at + 1, ' ');
    if (at != NULL && field + 1 == FIELD_PARENT) {
      who.parent = strtol(at, NULL, 10);
    }
  }
  who.start = at != NULL ? strtoull(at, NULL, 10) : 0;
  return who;
}
