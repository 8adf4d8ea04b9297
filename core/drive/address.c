/* SPDX-License-Identifier: MIT */
#include "drive/address.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "drive/master.h"
#include "drive/thread.h"

enum {
  ADDRESSES_MAX = 8,
  KEEP_MS = 5000,
  RETRY_MS = 1000,
  RESOLVER_STACK = 256 << 10 /* nss modules are not ours: some are generous with their stacks */
};

struct gorge_endpoint {
  const struct gorge_master_words *master; /* not NULL: what these say, and nothing below counts */
  char *host;                              /* NULL: a unix path */
  uint16_t port;
  bool fixed; /* a path or a number: the list never changes */
  /*
   * Guards all below for a few instructions. 0: free; else the process of the thread that holds it. A pthread mutex
   * that a thread of the parent held during a fork would stay locked in the child for ever; a foreign process in
   * here tells.
   */
  pid_t lock;
  pid_t resolver; /* the process whose thread is resolving now, 0: none; that thread is a user of this memory */
  bool orphan;    /* destroyed meanwhile: the resolver thread frees */
  bool news;      /* a resolver has ended since the last call */
  bool tried;
  bool failed;         /* the last attempt */
  uint64_t settled_ms; /* when its end was seen */
  const char *error;   /* why the last attempt failed: static text */
  uint32_t count, current;
  struct gorge_address list[ADDRESSES_MAX];
};

static void forget(struct gorge_endpoint *e) {
  e->news = e->tried = e->failed = false;
  e->count = e->current = 0;
}

static void endpoint_lock(struct gorge_endpoint *e, pid_t self) {
  /* acquire, both: partner of the release in endpoint_unlock; what a fork brought along, the fork itself has ordered */
  for (;;) {
    pid_t holder = 0;
    if (__atomic_compare_exchange_n(&e->lock, &holder, self, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
      return;
    }
    if (holder == self) {
      sched_yield();
    } else if (__atomic_compare_exchange_n(&e->lock, &holder, self, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
      if (!e->fixed) {
        forget(e); /* what the parent's thread left may be half written */
      }
      return;
    }
  }
}

static void endpoint_unlock(struct gorge_endpoint *e) {
  __atomic_store_n(&e->lock, 0, __ATOMIC_RELEASE); /* partner: the acquire in endpoint_lock */
}

static void endpoint_free(struct gorge_endpoint *e) {
  free(e->host);
  free(e);
}

/* Returns whether host is a number, which needs no resolver; then the list is final. */
static bool numeric(struct gorge_endpoint *e, const char *host) {
  struct gorge_address *a = &e->list[0];
  if (inet_pton(AF_INET, host, &a->sa.in.sin_addr) == 1) {
    a->sa.in.sin_family = AF_INET;
    a->sa.in.sin_port = htons(e->port);
    a->len = sizeof a->sa.in;
  } else if (inet_pton(AF_INET6, host, &a->sa.in6.sin6_addr) == 1) {
    a->sa.in6.sin6_family = AF_INET6;
    a->sa.in6.sin6_port = htons(e->port);
    a->len = sizeof a->sa.in6;
  } else {
    return false;
  }
  e->count = 1;
  return true;
}

static bool unix_path(struct gorge_endpoint *e, const char *path) {
  struct gorge_address *a = &e->list[0];
  size_t len = strlen(path);
  if (len == 0 || len >= sizeof a->sa.un.sun_path) {
    return false;
  }
  a->sa.un.sun_family = AF_UNIX;
  memcpy(a->sa.un.sun_path, path, len + 1);
  a->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + 1);
  e->count = 1;
  return true;
}

struct gorge_endpoint *gorge_endpoint_create(const char *host, uint16_t port, const char *path) {
  struct gorge_endpoint *e = calloc(1, sizeof *e);
  if (e == NULL) {
    return NULL;
  }
  e->port = port;
  bool good;
  if (path != NULL) {
    good = e->fixed = unix_path(e, path);
  } else {
    e->host = host != NULL && host[0] != '\0' ? strdup(host) : NULL;
    good = e->host != NULL;
    e->fixed = good && numeric(e, host);
  }
  if (!good) {
    endpoint_free(e);
    return NULL;
  }
  return e;
}

struct gorge_endpoint *gorge_endpoint_of_master(const struct gorge_master_words *words) {
  struct gorge_endpoint *e = calloc(1, sizeof *e);
  if (e != NULL) {
    e->master = words;
    e->fixed = true;
  }
  return e;
}

void gorge_endpoint_destroy(struct gorge_endpoint *e) {
  if (e == NULL) {
    return;
  }
  pid_t self = getpid();
  endpoint_lock(e, self);
  bool busy = e->resolver == self;
  e->orphan = busy;
  endpoint_unlock(e); /* from here on a busy resolver may free it */
  if (!busy) {
    endpoint_free(e);
  }
}

static uint32_t copy_addresses(const struct addrinfo *found, uint16_t port, struct gorge_address *list) {
  uint32_t count = 0;
  for (; found != NULL && count < ADDRESSES_MAX; found = found->ai_next) {
    struct gorge_address *a = &list[count];
    memset(a, 0, sizeof *a);
    if (found->ai_addr == NULL || found->ai_addrlen > sizeof a->sa) {
      continue;
    }
    memcpy(&a->sa, found->ai_addr, found->ai_addrlen);
    a->len = found->ai_addrlen;
    if (a->sa.any.sa_family == AF_INET) {
      a->sa.in.sin_port = htons(port);
    } else if (a->sa.any.sa_family == AF_INET6) {
      a->sa.in6.sin6_port = htons(port);
    } else {
      continue;
    }
    count++;
  }
  return count;
}

static bool same(const struct gorge_address *a, const struct gorge_address *b) {
  return a->len == b->len && memcmp(&a->sa, &b->sa, a->len) == 0;
}

/* The one in use stays in use if it is still there: that it answers is known. */
static void adopt(struct gorge_endpoint *e, const struct gorge_address *list, uint32_t count) {
  uint32_t current = 0;
  for (uint32_t i = 0; e->count > 0 && i < count; i++) {
    if (same(&list[i], &e->list[e->current])) {
      current = i;
      break;
    }
  }
  memcpy(e->list, list, count * sizeof *list);
  e->count = count;
  e->current = current;
}

static void *resolve(void *arg) {
  struct gorge_endpoint *e = arg;
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  struct addrinfo *found = NULL;
  struct gorge_address list[ADDRESSES_MAX];
  uint32_t count = 0;
  int rc = getaddrinfo(e->host, NULL, &hints, &found); /* host and port never change */
  if (rc == 0) {
    count = copy_addresses(found, e->port, list);
    freeaddrinfo(found);
  }
  endpoint_lock(e, getpid());
  e->resolver = 0;
  e->news = e->tried = true;
  e->failed = count == 0;
  if (count > 0) {
    adopt(e, list, count);
  } else {
    e->error = rc == 0            ? "the name has no address"
               : rc == EAI_SYSTEM ? "the system's resolver failed"
                                  : gai_strerror(rc);
  }
  bool orphan = e->orphan;
  endpoint_unlock(e); /* from here on its user may free it, unless it did already */
  if (orphan) {
    endpoint_free(e);
  }
  return NULL;
}

/* Lock held. Whether a resolver has to be started; then e->resolver is set already. */
static bool refresh_due(struct gorge_endpoint *e, pid_t self, uint64_t now_ms) {
  if (e->news) {
    e->news = false;
    e->settled_ms = now_ms;
  }
  if (e->resolver == self) {
    return false;
  }
  uint64_t rest = e->failed ? RETRY_MS : KEEP_MS;
  if (e->tried && now_ms < e->settled_ms + rest) {
    return false;
  }
  e->resolver = self;
  return true;
}

static void start_resolver(struct gorge_endpoint *e, pid_t self) {
  if (gorge_thread_start(NULL, "gorge-resolve", RESOLVER_STACK, resolve, e) != GORGE_OK) {
    endpoint_lock(e, self);
    e->resolver = 0;
    e->news = e->tried = e->failed = true;
    e->error = "no thread could be started to resolve the name";
    endpoint_unlock(e);
  }
}

static int address_of_master(const struct gorge_master_words *words, struct gorge_address *out, const char **reason) {
  if (gorge_master_read(words, out)) {
    return GORGE_OK;
  }
  uint64_t trouble = __atomic_load_n(&words->trouble, __ATOMIC_RELAXED); /* for people */
  if (trouble == GORGE_MASTER_FINE) {
    return GORGE_PENDING;
  }
  if (reason != NULL) {
    *reason = gorge_master_trouble_text(trouble);
  }
  return GORGE_ERR_SYSTEM;
}

int gorge_endpoint_address(struct gorge_endpoint *e, uint64_t now_ms, struct gorge_address *out, const char **reason) {
  if (e->master != NULL) {
    return address_of_master(e->master, out, reason);
  }
  pid_t self = getpid();
  endpoint_lock(e, self);
  if (!e->fixed && refresh_due(e, self, now_ms)) {
    endpoint_unlock(e);
    start_resolver(e, self);
    endpoint_lock(e, self);
  }
  int status = GORGE_OK;
  if (e->count > 0) {
    *out = e->list[e->current];
  } else if (e->resolver == self || !e->failed) {
    status = GORGE_PENDING;
  } else {
    status = GORGE_ERR_SYSTEM;
    if (reason != NULL) {
      *reason = e->error;
    }
  }
  endpoint_unlock(e);
  return status;
}

int gorge_address_text(const struct gorge_address *a, char *host, size_t size, uint16_t *port) {
  char text[INET6_ADDRSTRLEN];
  int len;
  if (a->sa.any.sa_family == AF_UNIX) {
    *port = 0;
    len = snprintf(host, size, "unix:%s", a->sa.un.sun_path);
  } else if (a->sa.any.sa_family == AF_INET) {
    *port = ntohs(a->sa.in.sin_port);
    len = snprintf(host, size, "%s", inet_ntop(AF_INET, &a->sa.in.sin_addr, text, sizeof text));
  } else {
    *port = ntohs(a->sa.in6.sin6_port);
    len = snprintf(host, size, "[%s]", inet_ntop(AF_INET6, &a->sa.in6.sin6_addr, text, sizeof text));
  }
  return len >= 0 && (size_t)len < size ? GORGE_OK : GORGE_SPACE;
}

int gorge_endpoint_text(struct gorge_endpoint *e, uint64_t now_ms, char *host, size_t size, uint16_t *port,
                        const char **reason) {
  struct gorge_address a;
  int status = gorge_endpoint_address(e, now_ms, &a, reason);
  return status == GORGE_OK ? gorge_address_text(&a, host, size, port) : status;
}

uint32_t gorge_endpoint_failed(struct gorge_endpoint *e, const struct gorge_address *address) {
  if (e->master != NULL) {
    return 1;
  }
  endpoint_lock(e, getpid());
  uint32_t count = e->count;
  if (count > 0 && (address == NULL || same(address, &e->list[e->current]))) {
    e->current = (e->current + 1) % count;
  }
  endpoint_unlock(e);
  return count;
}
