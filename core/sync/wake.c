/* SPDX-License-Identifier: MIT */
#include "sync/wake.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "shm/layout.h"

/*
 * An address that the kernel chose is a zero byte and five hexadecimal digits: it stands in one word, length in
 * the top byte, so that a sender never sees half of it.
 */
enum { ADDRESS_BYTES = 7, DRAIN_MAX = 4096 };

struct address {
  struct sockaddr_un un;
  socklen_t len;
};

static const socklen_t PATH_AT = offsetof(struct sockaddr_un, sun_path);

/* Returns 0 when the address does not fit. */
static uint64_t pack(const struct address *a) {
  uint64_t word = 0;
  if (a->len <= PATH_AT || a->len - PATH_AT > ADDRESS_BYTES) {
    return 0;
  }
  for (socklen_t i = 0; i < a->len - PATH_AT; i++) {
    word |= (uint64_t)(unsigned char)a->un.sun_path[i] << 8 * i;
  }
  return word | (uint64_t)(a->len - PATH_AT) << 8 * ADDRESS_BYTES;
}

static bool unpack(uint64_t word, struct address *a) {
  uint64_t len = word >> 8 * ADDRESS_BYTES;
  if (len < 2 || len > ADDRESS_BYTES || (word & 0xff) != 0) { /* only ever an abstract one, never a path */
    return false;
  }
  memset(a, 0, sizeof *a);
  a->un.sun_family = AF_UNIX;
  for (uint64_t i = 0; i < len; i++) {
    a->un.sun_path[i] = (char)(word >> 8 * i);
  }
  a->len = PATH_AT + (socklen_t)len;
  return true;
}

static bool address_of(int fd, struct address *a) {
  a->len = sizeof a->un;
  return getsockname(fd, (struct sockaddr *)&a->un, &a->len) == 0;
}

static uint64_t *wake_word(const struct gorge_zone *zone, uint32_t worker) {
  struct gorge_worker_slot *slots = gorge_zone_region(zone, GORGE_REGION_WORKERS, NULL);
  return &slots[worker % GORGE_WORKERS].wake;
}

static int new_socket(void) { return socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

int gorge_wake_open(struct gorge_zone *zone, uint32_t worker) {
  int fd = new_socket();
  if (fd < 0) {
    return GORGE_ERR_SYSTEM;
  }
  sa_family_t family = AF_UNIX; /* nothing but the family: the kernel chooses the address */
  struct address a;
  uint64_t word = 0;
  if (bind(fd, (struct sockaddr *)&family, sizeof family) == 0 && address_of(fd, &a)) {
    word = pack(&a);
  }
  if (word == 0) {
    int cause = errno;
    close(fd);
    errno = cause;
    return GORGE_ERR_SYSTEM;
  }
  /* release: partner of the acquire load in gorge_wake_send. */
  __atomic_store_n(wake_word(zone, worker), word, __ATOMIC_RELEASE);
  return fd;
}

void gorge_wake_close(struct gorge_zone *zone, uint32_t worker, int fd) {
  struct address a;
  if (address_of(fd, &a)) {
    uint64_t word = pack(&a);
    if (word != 0) {
      /* relaxed: nothing is handed over; a CAS, since the slot may have a new worker with an address of its own. */
      __atomic_compare_exchange_n(wake_word(zone, worker), &word, 0, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
  }
  close(fd);
}

bool gorge_wake_drain(int fd) {
  char bytes[8];
  bool any = false;
  for (int i = 0; i < DRAIN_MAX; i++) {
    if (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) >= 0) {
      any = true;
    } else if (errno != EINTR) {
      break;
    }
  }
  return any;
}

void gorge_wake_send(struct gorge_zone *zone, const struct gorge_worker_set *set, uint32_t self, int fd) {
  int own = -1;
  for (uint32_t worker = 0; worker < GORGE_WORKERS; worker++) {
    struct address a;
    if ((set->bits[worker / 64] >> worker % 64 & 1) == 0 || worker == self ||
        /* acquire: partner of the release store in gorge_wake_open. */
        !unpack(__atomic_load_n(wake_word(zone, worker), __ATOMIC_ACQUIRE), &a)) {
      continue;
    }
    if (fd < 0) {
      fd = own = new_socket();
      if (fd < 0) {
        return;
      }
    }
    /* A full queue (EAGAIN) holds a wake-up already; a dead address (ECONNREFUSED) has nobody to wake. */
    ssize_t sent;
    do {
      sent = sendto(fd, "w", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&a.un, a.len);
    } while (sent < 0 && errno == EINTR);
  }
  if (own >= 0) {
    close(own);
  }
}
