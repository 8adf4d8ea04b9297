/* SPDX-License-Identifier: MIT */
/*
 * Breakers of the servers of clusters, in a table in shared memory: an entry is taken by the first failure of a server, found by a hash of its
 * place. A server without an entry has not failed lately, and its breaker is closed. Each namespace has breakers of its own, in one table.
 *
 * Entries are probed one after the other from the hash on. One is taken by a compare-and-swap of `place`: it was never used, or belongs to a
 * server that answers again, or that nobody has heard fail for FORGET_MS. It never becomes empty again, so that the first empty one ends every
 * search. When all are in use a failure is not counted: more servers than there are entries would have to fail at once.
 *
 * What two processes do to one entry at the same time costs a count, never more: who takes the entry of a server that just fails anew
 * has its failure, and two that take entries for one server both find the first of them from then on.
 *
 * Lock-free; any number of processes; now_ms is a clock they share (CLOCK_MONOTONIC).
 */
#ifndef GORGE_RESIL_BREAKERS_H
#define GORGE_RESIL_BREAKERS_H

#include "resil/breaker.h"

enum { GORGE_BREAKERS = 32, GORGE_BREAKER_OWNERS = 32 /* namespaces */, GORGE_BREAKER_NAME_WORDS = 10 };

struct gorge_breaker_entry {
  uint64_t place; /* gorge_breaker_place; 0: never used */
  struct gorge_breaker_words words;
  uint64_t forget_ms; /* from then on it is nobody's, unless it is told of another failure */
  uint64_t name
      [GORGE_BREAKER_NAME_WORDS]; /* for people, see gorge_breakers_name: port:16, then the host's name with its NUL */
};

struct gorge_breaker_table { /* zero is empty */
  struct gorge_breaker_entry entry[GORGE_BREAKERS];
};

/* Where a server is, as a hash. */
uint64_t gorge_breaker_hash(const char *host, uint16_t port);
/* Names a server, by a hash of where it is, for a namespace. Never 0. */
static inline uint64_t gorge_breaker_place(uint64_t hash, uint32_t ns) {
  uint64_t high = hash / GORGE_BREAKER_OWNERS;
  return (high > 0 ? high : 1) * GORGE_BREAKER_OWNERS + ns % GORGE_BREAKER_OWNERS;
}
/* The breaker of the server there, or NULL: it has none, and is to be asked. */
struct gorge_breaker_words *gorge_breakers_find(struct gorge_breaker_table *t, uint64_t place);
/* As gorge_breaker_failure, for the server there. */
bool gorge_breakers_failure(struct gorge_breaker_table *t, uint64_t place, const struct gorge_breaker_config *c,
                            uint64_t now_ms);
/* For people: where the server of an entry is. A name of more than 77 bytes is left out. */
void gorge_breakers_name(struct gorge_breaker_table *t, uint64_t place, const char *host, uint16_t port);

/* A breaker that is not closed. */
struct gorge_breaker_look {
  enum gorge_breaker_state state;
  uint16_t port;
  char host[8 * GORGE_BREAKER_NAME_WORDS]; /* empty: nobody has told, or it is too long */
};
/* What an entry, below GORGE_BREAKERS, says of a namespace. Returns false when there is no such breaker. */
bool gorge_breakers_look(const struct gorge_breaker_table *t, int i, uint32_t ns, uint64_t now_ms,
                         struct gorge_breaker_look *out);
/*
 * The worst state of a namespace's: open before half-open before closed. A server that nobody has heard fail for long has left, and counts no
 * more.
 */
enum gorge_breaker_state gorge_breakers_state(const struct gorge_breaker_table *t, uint32_t ns, uint64_t now_ms);

#endif
