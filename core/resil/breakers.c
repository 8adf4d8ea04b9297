/* SPDX-License-Identifier: MIT */
/* All accesses are relaxed: each word says all there is, nothing else is published through it. */
#include "resil/breakers.h"

#include <stddef.h>
#include <string.h>

#include "base/hash.h"

enum { FORGET_MS = 60 * 1000 };

static uint64_t load(const uint64_t *word) { return __atomic_load_n(word, __ATOMIC_RELAXED); }

static struct gorge_breaker_entry *entry_at(struct gorge_breaker_table *t, uint64_t place, int i) {
  return &t->entry[(place / GORGE_BREAKER_OWNERS + (uint64_t)i) % GORGE_BREAKERS];
}

static struct gorge_breaker_entry *find(struct gorge_breaker_table *t, uint64_t place) {
  for (int i = 0; i < GORGE_BREAKERS; i++) {
    struct gorge_breaker_entry *e = entry_at(t, place, i);
    uint64_t found = load(&e->place);
    if (found == place) {
      return e;
    }
    if (found == 0) {
      return NULL;
    }
  }
  return NULL;
}

/* Whether nothing would be lost with what the entry says. */
static bool is_free(const struct gorge_breaker_entry *e, uint64_t now_ms) {
  return gorge_breaker_untouched(&e->words) || now_ms >= load(&e->forget_ms);
}

/* An entry for the server there, or NULL: all are in use. */
static struct gorge_breaker_entry *claim(struct gorge_breaker_table *t, uint64_t place, uint64_t now_ms) {
  for (int i = 0; i < GORGE_BREAKERS; i++) {
    struct gorge_breaker_entry *e = entry_at(t, place, i);
    uint64_t found = load(&e->place);
    if (found != 0 && !is_free(e, now_ms)) {
      continue;
    }
    gorge_breaker_reset(&e->words); /* first: the server that has it next begins with a closed one */
    if (__atomic_compare_exchange_n(&e->place, &found, place, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED) ||
        found == place) {
      return e;
    }
  }
  return NULL;
}

struct gorge_breaker_words *gorge_breakers_find(struct gorge_breaker_table *t, uint64_t place) {
  struct gorge_breaker_entry *e = find(t, place);
  return e != NULL ? &e->words : NULL;
}

bool gorge_breakers_failure(struct gorge_breaker_table *t, uint64_t place, const struct gorge_breaker_config *c,
                            uint64_t now_ms) {
  if (c->max_failures == 0) {
    return false;
  }
  struct gorge_breaker_entry *e = find(t, place);
  if (e == NULL) {
    e = claim(t, place, now_ms);
  }
  if (e == NULL) {
    return false;
  }
  __atomic_store_n(&e->forget_ms, now_ms + FORGET_MS + 2 * (uint64_t)c->timeout_ms, __ATOMIC_RELAXED);
  return gorge_breaker_failure(&e->words, c, now_ms);
}

uint64_t gorge_breaker_hash(const char *host, uint16_t port) { return gorge_hash(host, strlen(host), port); }

enum { NAME_BYTES = 8 * GORGE_BREAKER_NAME_WORDS, PORT_BYTES = 2 };

void gorge_breakers_name(struct gorge_breaker_table *t, uint64_t place, const char *host, uint16_t port) {
  struct gorge_breaker_entry *e = find(t, place);
  size_t len = strlen(host);
  if (e == NULL || len + 1 > NAME_BYTES - PORT_BYTES) {
    return;
  }
  char bytes[NAME_BYTES] = {0};
  uint64_t words[GORGE_BREAKER_NAME_WORDS];
  memcpy(bytes, &port, PORT_BYTES);
  memcpy(bytes + PORT_BYTES, host, len);
  memcpy(words, bytes, sizeof words);
  for (int i = 0; i < GORGE_BREAKER_NAME_WORDS; i++) {
    __atomic_store_n(&e->name[i], words[i], __ATOMIC_RELAXED);
  }
}

/* Two that write at once may leave a mixture, and who comes later a name that was another server's: the place tells. */
static void read_name(const struct gorge_breaker_entry *e, uint64_t place, uint32_t ns,
                      struct gorge_breaker_look *out) {
  uint64_t words[GORGE_BREAKER_NAME_WORDS];
  char bytes[NAME_BYTES];
  for (int i = 0; i < GORGE_BREAKER_NAME_WORDS; i++) {
    words[i] = load(&e->name[i]);
  }
  memcpy(bytes, words, sizeof bytes);
  bytes[NAME_BYTES - 1] = '\0';
  memcpy(&out->port, bytes, PORT_BYTES);
  memcpy(out->host, bytes + PORT_BYTES, NAME_BYTES - PORT_BYTES);
  if (gorge_breaker_place(gorge_breaker_hash(out->host, out->port), ns) != place) {
    out->port = 0;
    out->host[0] = '\0';
  }
}

bool gorge_breakers_look(const struct gorge_breaker_table *t, int i, uint32_t ns, uint64_t now_ms,
                         struct gorge_breaker_look *out) {
  const struct gorge_breaker_entry *e = &t->entry[i];
  uint64_t place = load(&e->place);
  enum gorge_breaker_state state = gorge_breaker_state(&e->words);
  if (place == 0 || place % GORGE_BREAKER_OWNERS != ns || is_free(e, now_ms) || state == GORGE_BREAKER_CLOSED) {
    return false;
  }
  *out = (struct gorge_breaker_look){.state = state};
  read_name(e, place, ns, out);
  return true;
}

enum gorge_breaker_state gorge_breakers_state(const struct gorge_breaker_table *t, uint32_t ns, uint64_t now_ms) {
  enum gorge_breaker_state worst = GORGE_BREAKER_CLOSED;
  struct gorge_breaker_look look;
  for (int i = 0; i < GORGE_BREAKERS && worst != GORGE_BREAKER_OPEN; i++) {
    worst = gorge_breakers_look(t, i, ns, now_ms, &look) ? look.state : worst;
  }
  return worst;
}
