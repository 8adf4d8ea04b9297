/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/hash.h"
#include "shm/layout.h"
#include "shm/map.h"
#include "shm/proc.h"

enum {
  SIBLINGS_WAIT_US = 10 * 1000 * 1000,
  SIBLINGS_PAUSE_US = 1000,
  SWEEP_MAX = 1000, /* directory entries looked at */
  FILE_NAME_MAX = 96,
  PATH_SIZE = sizeof GORGE_SIBLINGS_DIR + FILE_NAME_MAX
};

static void file_name(const struct gorge_zone *zone, char out[FILE_NAME_MAX]) {
  long parent = (long)getppid();
  snprintf(out, FILE_NAME_MAX, GORGE_SIBLINGS_PREFIX "%lu-%ld-%llu-%016llx", (unsigned long)geteuid(), parent,
           gorge_proc_identify(parent).start,
           (unsigned long long)gorge_hash(zone->name, strlen(zone->name), gorge_layout_hash()));
}

static bool parent_dead(long pid, unsigned long long start) {
  if (kill((pid_t)pid, 0) != 0 && errno == ESRCH) {
    return true;
  }
  struct gorge_proc who = gorge_proc_identify(pid);
  return who.state == 'Z' || who.state == 'X' || (start != 0 && who.start != 0 && who.start != start);
}

/* Regular, ours alone, not a link that somebody put there. */
static int check_file(int fd, struct stat *st) {
  if (fstat(fd, st) != 0) {
    return GORGE_ERR_SYSTEM;
  }
  if (!S_ISREG(st->st_mode) || st->st_uid != geteuid() || (st->st_mode & 077) != 0) {
    errno = EPERM;
    return GORGE_ERR_SYSTEM;
  }
  return GORGE_OK;
}

static void sweep_one(int dir, const char *name) {
  unsigned long uid;
  long pid;
  unsigned long long start;
  if (sscanf(name, GORGE_SIBLINGS_PREFIX "%lu-%ld-%llu-", &uid, &pid, &start) != 3 || uid != (unsigned long)geteuid() ||
      pid <= 0 || !parent_dead(pid, start)) {
    return;
  }
  int fd = openat(dir, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    return;
  }
  struct stat st;
  if (check_file(fd, &st) == GORGE_OK && flock(fd, LOCK_EX | LOCK_NB) == 0) {
    unlinkat(dir, name, 0);
  }
  close(fd);
}

/* Removes what dead parents left and no orphan of theirs still uses. */
static void sweep(void) {
  DIR *dir = opendir(GORGE_SIBLINGS_DIR);
  if (dir == NULL) {
    return;
  }
  const struct dirent *entry;
  for (int i = 0; i < SWEEP_MAX && (entry = readdir(dir)) != NULL; i++) {
    if (strncmp(entry->d_name, GORGE_SIBLINGS_PREFIX, sizeof GORGE_SIBLINGS_PREFIX - 1) == 0) {
      sweep_one(dirfd(dir), entry->d_name);
    }
  }
  closedir(dir);
}

/* The file is locked exclusively: nobody is attached. Takes it as it is, or makes it anew. */
static int fill_alone(struct gorge_zone *zone, int fd, uint64_t have_bytes, gorge_map_fill fill,
                      int (*init)(struct gorge_zone *)) {
  int status;
  if (have_bytes >= zone->size) {
    status = gorge_map_attach(zone, fd);
    if (status != GORGE_OK) {
      return status;
    }
    if (gorge_layout_valid(zone)) {
      return GORGE_OK;
    }
    gorge_map_detach(zone);
  }
  sweep();
  if (ftruncate(fd, 0) != 0) { /* what was there becomes zeros */
    return GORGE_ERR_SYSTEM;
  }
  status = gorge_map_reserve(zone, fd);
  if (status == GORGE_OK) {
    status = gorge_map_attach(zone, fd);
  }
  if (status == GORGE_OK) {
    status = fill(zone, init);
    if (status == GORGE_OK) {
      gorge_map_publish(zone);
    } else {
      gorge_map_detach(zone);
    }
  }
  return status;
}

/* Whether `path` still names the open file: a sweeper may have removed it before it was locked. */
static bool still_named(const char *path, const struct stat *mine) {
  struct stat st;
  return lstat(path, &st) == 0 && st.st_dev == mine->st_dev && st.st_ino == mine->st_ino;
}

/*
 * The file is locked shared: nobody can change its size from now on. GORGE_OK; GORGE_ERR_MISMATCH; or
 * GORGE_PENDING when it is not complete (whoever filled it died) or not the file of this name any more.
 */
static int attach_shared(struct gorge_zone *zone, int fd, const char *path, uint64_t *existing_size) {
  struct stat st;
  struct gorge_zone_header *h = zone->header;
  uint64_t head[3];
  if (check_file(fd, &st) != GORGE_OK) {
    return GORGE_ERR_SYSTEM;
  }
  if (!still_named(path, &st) || pread(fd, head, sizeof head, 0) != (ssize_t)sizeof head ||
      head[0] != GORGE_ZONE_MAGIC) {
    return GORGE_PENDING;
  }
  if (head[2] != zone->size) {
    *existing_size = head[2];
    errno = EEXIST;
    return GORGE_ERR_MISMATCH;
  }
  if ((uint64_t)st.st_size < zone->size) {
    errno = EINVAL;
    return GORGE_ERR_SYSTEM;
  }
  int status = h == NULL ? gorge_map_attach(zone, fd) : GORGE_OK;
  if (status == GORGE_OK && !gorge_layout_valid(zone)) {
    gorge_map_detach(zone);
    *existing_size = head[2];
    errno = EINVAL;
    status = GORGE_ERR_MISMATCH;
  }
  return status;
}

/* One attempt. GORGE_PENDING: somebody else is at it, try again. */
static int try_open(struct gorge_zone *zone, const char *path, gorge_map_fill fill, int (*init)(struct gorge_zone *),
                    uint64_t *existing_size) {
  int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK, 0600);
  if (fd < 0) {
    return GORGE_ERR_SYSTEM;
  }
  struct stat st;
  int status = check_file(fd, &st);
  if (status == GORGE_OK && flock(fd, LOCK_EX | LOCK_NB) == 0) {
    /* Looked at again under the lock: whoever held it until now may have filled it. */
    status = check_file(fd, &st);
    if (status == GORGE_OK && !still_named(path, &st)) {
      status = GORGE_PENDING;
    } else if (status == GORGE_OK) {
      status = fill_alone(zone, fd, (uint64_t)st.st_size, fill, init);
      if (status != GORGE_OK) {
        int cause = errno;
        unlink(path);
        errno = cause;
      }
    }
  }
  if (status == GORGE_OK) {
    /* Going from exclusive to shared lets go in between, hence everything is checked again. */
    status = flock(fd, LOCK_SH | LOCK_NB) == 0 ? attach_shared(zone, fd, path, existing_size) : GORGE_PENDING;
  }
  if (status != GORGE_OK) {
    int cause = errno;
    if (zone->base != NULL) {
      gorge_map_detach(zone);
    }
    close(fd);
    errno = cause;
  }
  return status;
}

/* The files this process is attached to. */
struct attached {
  char path[PATH_SIZE];
  int fd;
  pid_t pid; /* a fork's child shares the descriptor, and the lock with it */
  struct attached *next;
};

static struct attached *attached;

static void remember(const char *path, int fd) {
  struct attached *a = malloc(sizeof *a);
  if (a != NULL) { /* else the file waits for a sweep */
    snprintf(a->path, sizeof a->path, "%s", path);
    a->fd = fd;
    a->pid = getpid();
    a->next = attached;
    /* release: pairs with the acquire in leave_files; another thread may end the process meanwhile. */
    __atomic_store_n(&attached, a, __ATOMIC_RELEASE);
  }
}

/*
 * The last one out removes the file, when it ends in an orderly way: a server that was stopped leaves nothing
 * behind, one whose workers crash finds its cache warm.
 */
__attribute__((destructor)) static void leave_files(void) {
  /* acquire: pairs with the release in remember. */
  for (const struct attached *a = __atomic_load_n(&attached, __ATOMIC_ACQUIRE); a != NULL; a = a->next) {
    struct stat st;
    if (a->pid == getpid() && flock(a->fd, LOCK_EX | LOCK_NB) == 0 && fstat(a->fd, &st) == 0 &&
        still_named(a->path, &st)) {
      unlink(a->path);
    }
  }
}

int gorge_map_siblings(struct gorge_zone *zone, gorge_map_fill fill, int (*init)(struct gorge_zone *),
                       uint64_t *existing_size) {
  char path[PATH_SIZE], name[FILE_NAME_MAX];
  file_name(zone, name);
  snprintf(path, sizeof path, GORGE_SIBLINGS_DIR "/%s", name);
  uint64_t start = gorge_clock_us();
  for (;;) {
    int status = try_open(zone, path, fill, init, existing_size);
    if (status == GORGE_OK) {
      remember(path, zone->fd);
    }
    if (status != GORGE_PENDING) {
      return status;
    }
    if (gorge_clock_us() - start > SIBLINGS_WAIT_US) {
      errno = ETIMEDOUT;
      return GORGE_ERR_SYSTEM;
    }
    usleep(SIBLINGS_PAUSE_US);
  }
}
