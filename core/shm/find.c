/* SPDX-License-Identifier: MIT */
#include "shm/find.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/map.h"
#include "shm/proc.h"
#include "shm/zone.h"

static const char MEMFD[] = "/memfd:" GORGE_MEMFD_PREFIX;
static const char SIBLINGS[] = GORGE_SIBLINGS_DIR "/" GORGE_SIBLINGS_PREFIX;
static const char DELETED[] = " (deleted)";

struct search {
  struct gorge_found *out;
  uint32_t max, count, first; /* first: of the process that is being looked at */
  bool more;
};

static bool starts_with(const char *text, const char *prefix) { return strncmp(text, prefix, strlen(prefix)) == 0; }

/* The name of a zone as far as what a descriptor leads to tells it. Returns false when that is no zone. */
static bool name_of(char *link, char name[GORGE_NAME_MAX + 1]) {
  size_t len = strlen(link), end = sizeof DELETED - 1;
  if (len > end && strcmp(link + len - end, DELETED) == 0) {
    link[len - end] = '\0';
  }
  name[0] = '\0'; /* of a file of siblings: its header tells */
  if (!starts_with(link, MEMFD)) {
    return starts_with(link, SIBLINGS);
  }
  const char *at = link + sizeof MEMFD - 1;
  len = strlen(at);
  if (len == 0 || len > GORGE_NAME_MAX) {
    return false;
  }
  memcpy(name, at, len + 1);
  return true;
}

/* A process has one mapping of a zone, and may have several descriptors of it. */
static bool known(const struct search *s, const struct stat *st) {
  for (uint32_t i = s->first; i < s->count; i++) {
    if (s->out[i].device == st->st_dev && s->out[i].inode == st->st_ino) {
      return true;
    }
  }
  return false;
}

static void look_at_descriptor(struct search *s, int dir, long pid, const char *number) {
  char link[256], name[GORGE_NAME_MAX + 1];
  struct stat st;
  ssize_t n = readlinkat(dir, number, link, sizeof link - 1);
  if (n <= 0) {
    return;
  }
  link[n] = '\0';
  if (!name_of(link, name) || fstatat(dir, number, &st, 0) != 0 || !S_ISREG(st.st_mode) || known(s, &st)) {
    return;
  }
  if (s->count == s->max) {
    s->more = true;
    return;
  }
  struct gorge_found *found = &s->out[s->count++];
  memset(found, 0, sizeof *found);
  memcpy(found->name, name, sizeof name);
  snprintf(found->path, sizeof found->path, "/proc/%ld/fd/%.10s", pid, number);
  found->device = st.st_dev;
  found->inode = st.st_ino;
  found->pid = (uint32_t)pid;
}

/* What belongs to the process, in all that was found of it. */
static void describe(const struct search *s, long pid) {
  char path[32];
  struct stat st;
  snprintf(path, sizeof path, "/proc/%ld", pid);
  struct gorge_proc who = gorge_proc_identify(pid);
  bool there = stat(path, &st) == 0;
  for (uint32_t i = s->first; i < s->count; i++) {
    s->out[i].parent = (uint32_t)who.parent;
    s->out[i].user = there ? st.st_uid : 0;
  }
}

/* Returns false when this user may not look. */
static bool look_at_process(struct search *s, long pid) {
  char path[32];
  snprintf(path, sizeof path, "/proc/%ld/fd", pid);
  DIR *dir = opendir(path);
  if (dir == NULL) {
    return errno != EACCES && errno != EPERM;
  }
  const struct dirent *entry;
  s->first = s->count;
  while ((entry = readdir(dir)) != NULL) {
    if (entry->d_name[0] != '.') {
      look_at_descriptor(s, dirfd(dir), pid, entry->d_name);
    }
  }
  closedir(dir);
  if (s->count > s->first) {
    describe(s, pid);
  }
  return true;
}

int gorge_zone_find(struct gorge_found *out, uint32_t max, uint32_t *count, uint32_t *hidden) {
  struct search s = {.out = out, .max = max};
  *count = *hidden = 0;
  DIR *proc = opendir("/proc");
  if (proc == NULL) {
    return GORGE_ERR_SYSTEM;
  }
  const struct dirent *entry;
  while ((entry = readdir(proc)) != NULL) {
    char *end;
    long pid = strtol(entry->d_name, &end, 10);
    if (pid > 0 && *end == '\0' && pid != (long)getpid()) {
      *hidden += !look_at_process(&s, pid);
    }
  }
  closedir(proc);
  *count = s.count;
  return s.more ? GORGE_SPACE : GORGE_OK;
}
