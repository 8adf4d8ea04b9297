/* SPDX-License-Identifier: MIT */
#include "shm/map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include "shm/layout.h"

enum { RESERVE_STEP = 16 << 20, RESERVE_RETRIES = 1000 };

static uint64_t mapped_bytes(const struct gorge_zone *zone) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  return (zone->size + page - 1) / page * page;
}

static int status_of_errno(void) { return errno == ENOSPC || errno == ENOMEM ? GORGE_ERR_MEMORY : GORGE_ERR_SYSTEM; }

/*
 * What the kernel would answer with a signal or with the out-of-memory killer instead of an error: a memfd has
 * no limit of its own, and RLIMIT_FSIZE raises SIGXFSZ.
 */
static int check_limits(uint64_t bytes) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY && bytes > limit.rlim_cur) {
    errno = EFBIG;
    return GORGE_ERR_SYSTEM;
  }
  struct sysinfo info;
  if (sysinfo(&info) == 0 && bytes > ((uint64_t)info.totalram + info.totalswap) * info.mem_unit) {
    errno = ENOMEM;
    return GORGE_ERR_MEMORY;
  }
  return GORGE_OK;
}

int gorge_map_reserve(const struct gorge_zone *zone, int fd) {
  uint64_t bytes = mapped_bytes(zone);
  int status = check_limits(bytes);
  if (status != GORGE_OK) {
    return status;
  }
  if (ftruncate(fd, (off_t)bytes) != 0) {
    return status_of_errno();
  }
  /*
   * In steps: the kernel undoes a call that a signal interrupts, and a timer must not keep a large zone from
   * ever being made.
   */
  int retries = 0;
  for (uint64_t at = 0; at < bytes;) {
    uint64_t step = bytes - at < RESERVE_STEP ? bytes - at : RESERVE_STEP;
    if (fallocate(fd, 0, (off_t)at, (off_t)step) == 0) {
      at += step;
    } else if (errno != EINTR || ++retries > RESERVE_RETRIES) {
      return status_of_errno();
    }
  }
  return GORGE_OK;
}

int gorge_map_attach(struct gorge_zone *zone, int fd) {
  void *base = mmap(NULL, mapped_bytes(zone), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (base == MAP_FAILED) {
    return status_of_errno();
  }
  zone->base = base;
  zone->header = base;
  zone->words = zone->header->words;
  zone->fd = fd;
  return GORGE_OK;
}

void gorge_map_detach(struct gorge_zone *zone) {
  int cause = errno;
  munmap(zone->base, mapped_bytes(zone));
  zone->base = NULL;
  zone->header = NULL;
  zone->words = NULL;
  zone->fd = -1;
  errno = cause;
}

void gorge_map_publish(struct gorge_zone *zone) {
  /* release: partner of the acquire load in gorge_layout_valid. */
  __atomic_store_n(&zone->header->magic, GORGE_ZONE_MAGIC, __ATOMIC_RELEASE);
}

int gorge_map_private(struct gorge_zone *zone, gorge_map_fill fill, int (*init)(struct gorge_zone *)) {
  char label[sizeof zone->name + 8];
  snprintf(label, sizeof label, GORGE_MEMFD_PREFIX "%s", zone->name);
  int fd = memfd_create(label, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) {
    return status_of_errno();
  }
  int status = gorge_map_reserve(zone, fd);
  if (status == GORGE_OK && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    status = GORGE_ERR_SYSTEM;
  }
  if (status == GORGE_OK) {
    status = gorge_map_attach(zone, fd);
  }
  if (status == GORGE_OK) {
    status = fill(zone, init);
    if (status == GORGE_OK) {
      gorge_map_publish(zone);
      return GORGE_OK;
    }
    gorge_map_detach(zone);
  }
  int cause = errno;
  close(fd);
  errno = cause;
  return status;
}
