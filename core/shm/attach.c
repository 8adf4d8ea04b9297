/* SPDX-License-Identifier: MIT */
#include "shm/attach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm/layout.h"
#include "shm/map.h"

enum { READ_RETRIES = 1000 };

/* The first line of a header, the same in every layout. */
struct first_line {
  uint64_t magic, layout, size, boot_id, hash_seed, version, name_len, reserved;
};
_Static_assert(sizeof(struct first_line) == GORGE_LINE, "the first line of the header");
_Static_assert(offsetof(struct gorge_zone_header, version) == offsetof(struct first_line, version),
               "stays in its place");

struct complaint {
  char *text;
  size_t size;
};

__attribute__((format(printf, 3, 4))) static int complain(const struct complaint *err, int status, const char *format,
                                                          ...) {
  va_list args;
  va_start(args, format);
  if (err->size > 0) {
    vsnprintf(err->text, err->size, format, args);
  }
  va_end(args);
  return status;
}

static int complain_of_errno(const struct complaint *err, const char *what) {
  int cause = errno;
  char why[80];
  complain(err, GORGE_ERR_SYSTEM, "%s: %s", what, strerror_r(cause, why, sizeof why));
  errno = cause;
  return GORGE_ERR_SYSTEM;
}

static uint64_t in_pages(uint64_t bytes) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
  return (bytes + page - 1) / page * page;
}

/* Whether the first line is that of a zone that this build can read, of a size that fits the file. */
static int check_first_line(const struct first_line *h, uint64_t file_bytes, const struct complaint *err) {
  if (h->magic != GORGE_ZONE_MAGIC) {
    return complain(err, GORGE_ERR_PROTOCOL, "it is not a zone of gorge, or not a complete one");
  }
  if (h->version != GORGE_LAYOUT_VERSION) {
    return h->version == 0 || h->version > UINT16_MAX
               ? complain(err, GORGE_ERR_MISMATCH, "the zone has a layout from before version 4, this gorge reads %d",
                          GORGE_LAYOUT_VERSION)
               : complain(err, GORGE_ERR_MISMATCH, "the zone has layout version %u, this gorge reads %d",
                          (unsigned)h->version, GORGE_LAYOUT_VERSION);
  }
  if (h->layout != gorge_layout_hash()) {
    return complain(err, GORGE_ERR_MISMATCH, "the zone was laid out by another build of gorge");
  }
  if (h->size < GORGE_ZONE_SIZE_MIN || h->size > INT64_MAX / 2 || h->size > file_bytes ||
      in_pages(h->size) < file_bytes) {
    return complain(err, GORGE_ERR_PROTOCOL, "the zone is damaged: it says that it has %llu bytes, and has %llu",
                    (unsigned long long)h->size, (unsigned long long)file_bytes);
  }
  if (h->name_len == 0 || h->name_len > GORGE_NAME_MAX) {
    return complain(err, GORGE_ERR_PROTOCOL, "the zone is damaged: its name has %llu bytes",
                    (unsigned long long)h->name_len);
  }
  return GORGE_OK;
}

/* Whether nobody can shorten the file while it is mapped: it is sealed, or locked like its siblings lock it. */
static bool stays_long(int fd) {
  int seals = fcntl(fd, F_GET_SEALS);
  return (seals >= 0 && (seals & F_SEAL_SHRINK) != 0) || flock(fd, LOCK_SH | LOCK_NB) == 0;
}

/* Makes the pages of the mailbox writable, which the rings for people share with it; larger pages than the layout's take some of their neighbours with them. */
static int open_mailbox(const struct gorge_zone *zone, const struct complaint *err) {
  uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), at = zone->region_at[GORGE_REGION_PEOPLE] / page * page;
  uint64_t end = in_pages(zone->region_at[GORGE_REGION_PEOPLE] + zone->region_size[GORGE_REGION_PEOPLE]);
  return mprotect(zone->base + at, end - at, PROT_READ | PROT_WRITE) == 0
             ? GORGE_OK
             : complain_of_errno(err, "its mailbox cannot be opened");
}

static int map_file(struct gorge_zone *zone, unsigned flags, const struct complaint *err) {
  if (!stays_long(zone->fd)) {
    return complain(err, GORGE_ERR_SYSTEM, "the zone is being made just now");
  }
  int protection = (flags & GORGE_ATTACH_ALL) != 0 ? PROT_READ | PROT_WRITE : PROT_READ;
  void *base = mmap(NULL, in_pages(zone->size), protection, MAP_SHARED, zone->fd, 0);
  if (base == MAP_FAILED) {
    return complain_of_errno(err, "it cannot be mapped");
  }
  zone->base = base;
  return (flags & GORGE_ATTACH_MAIL) != 0 ? open_mailbox(zone, err) : GORGE_OK;
}

static int read_whole(struct gorge_zone *zone, const struct complaint *err) {
  int retries = 0;
  for (uint64_t at = 0; at < zone->size;) {
    ssize_t n = pread(zone->fd, zone->base + at, zone->size - at, (off_t)at);
    if (n == 0) {
      return complain(err, GORGE_ERR_PROTOCOL, "the file became shorter while it was read");
    }
    if (n < 0 && (errno != EINTR || ++retries > READ_RETRIES)) {
      return complain_of_errno(err, "it cannot be read");
    }
    at += n > 0 ? (uint64_t)n : 0;
  }
  return GORGE_OK;
}

static int copy_file(struct gorge_zone *zone, const struct complaint *err) {
  void *base = mmap(NULL, in_pages(zone->size), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    return complain(err, GORGE_ERR_MEMORY, "there are no %llu bytes of memory for a copy of it",
                    (unsigned long long)zone->size);
  }
  zone->base = base;
  int status = read_whole(zone, err);
  if (status == GORGE_OK && mprotect(base, in_pages(zone->size), PROT_READ) != 0) {
    status = complain_of_errno(err, "it cannot be protected");
  }
  return status;
}

static int attach(struct gorge_zone *zone, unsigned flags, const struct complaint *err) {
  struct stat st;
  struct first_line head;
  if (fstat(zone->fd, &st) != 0) {
    return complain_of_errno(err, "it cannot be looked at");
  }
  if (!S_ISREG(st.st_mode)) {
    return complain(err, GORGE_ERR_PROTOCOL, "it is not a file");
  }
  if (pread(zone->fd, &head, sizeof head, 0) != (ssize_t)sizeof head) {
    return complain(err, GORGE_ERR_PROTOCOL, "it is not a zone of gorge: %lld bytes are too few",
                    (long long)st.st_size);
  }
  int status = check_first_line(&head, (uint64_t)st.st_size, err);
  if (status != GORGE_OK) {
    return status;
  }
  struct gorge_region_table regions;
  zone->size = head.size;
  gorge_layout_regions(head.size, &regions);
  memcpy(zone->region_at, regions.at, sizeof regions.at);
  memcpy(zone->region_size, regions.size, sizeof regions.size);
  status = (flags & GORGE_ATTACH_COPY) != 0 ? copy_file(zone, err) : map_file(zone, flags, err);
  if (status != GORGE_OK || zone->base == NULL) {
    return status;
  }
  zone->header = (struct gorge_zone_header *)(void *)zone->base;
  zone->words = zone->header->words;
  memcpy(zone->name, zone->header->name, head.name_len);
  return gorge_layout_valid(zone) ? GORGE_OK : complain(err, GORGE_ERR_PROTOCOL, "the zone is damaged: its header");
}

int gorge_zone_attach(const char *path, unsigned flags, struct gorge_zone **out, char *err, size_t err_size) {
  struct complaint complaint = {err, err_size};
  struct gorge_zone *zone = calloc(1, sizeof *zone);
  *out = NULL;
  if (zone == NULL) {
    return complain(&complaint, GORGE_ERR_MEMORY, "out of memory");
  }
  /* Not to wait for a fifo, nor to become the terminal's owner, whatever it is. */
  int mode = (flags & (GORGE_ATTACH_ALL | GORGE_ATTACH_MAIL)) != 0 ? O_RDWR : O_RDONLY;
  zone->fd = open(path, mode | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  int status = zone->fd < 0 ? complain_of_errno(&complaint, "it cannot be opened") : attach(zone, flags, &complaint);
  if (status == GORGE_OK) {
    int seals = fcntl(zone->fd, F_GET_SEALS);
    if (seals >= 0 && (seals & F_SEAL_SHRINK) != 0) {
      close(
          zone->fd); /* the mapping is enough: who looks for the zone's processes shall not take this one for one of them */
      zone->fd = -1;
    }
    *out = zone;
  } else {
    gorge_zone_detach(zone);
  }
  return status;
}

void gorge_zone_detach(struct gorge_zone *zone) {
  int cause = errno;
  if (zone->base != NULL) {
    munmap(zone->base, in_pages(zone->size));
  }
  if (zone->fd >= 0) {
    close(zone->fd);
  }
  free(zone);
  errno = cause;
}
