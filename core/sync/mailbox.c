/* SPDX-License-Identifier: MIT */
#include "sync/mailbox.h"

#include <string.h>

#include "base/hash.h"
#include "shm/layout.h"

enum phase { FREE, WRITING, READY, TAKEN, DONE };

enum {
  PHASE_BIT = 32,
  SERIAL_BIT = 40,
  SERIAL_MAX = 0xffffff,
  WRITE_MS = 1000,
  FETCH_MS = 2000,
  TEXT_MAX = GORGE_MAIL_TEXT_WORDS * 8
};

static uint64_t slots_of(const struct gorge_zone *zone, struct gorge_mail_slot **slots) {
  uint64_t size;
  *slots = gorge_zone_part(zone, GORGE_PART_MAIL, &size);
  return size / sizeof **slots;
}

static struct gorge_mail_slot *slot_at(const struct gorge_zone *zone, uint64_t number) {
  struct gorge_mail_slot *slots;
  uint64_t count = slots_of(zone, &slots);
  return &slots[number % count];
}

/* A ticket is serial << 8 | slot. */
static struct gorge_mail_slot *slot_of(const struct gorge_zone *zone, uint64_t ticket) {
  return slot_at(zone, ticket & 0xff);
}
static uint64_t ticket_of(uint64_t serial, uint64_t number) { return serial << 8 | number; }
static uint64_t ticket_serial(uint64_t ticket) { return ticket >> 8; }

static enum phase phase_of(uint64_t state) { return (enum phase)(state >> PHASE_BIT & 0xff); }
static uint64_t serial_of(uint64_t state) { return state >> SERIAL_BIT; }
static uint64_t state_of(uint64_t serial, enum phase phase, uint32_t more) {
  return serial << SERIAL_BIT | (uint64_t)phase << PHASE_BIT | more;
}

/* Right as long as deadlines are less than 24 days from now. */
static bool over(uint64_t state, uint64_t now_ms) { return (int32_t)((uint32_t)state - (uint32_t)now_ms) <= 0; }

/* acquire: partner of the release in change; what was written before a state was entered is seen. */
static uint64_t load(const struct gorge_mail_slot *slot) { return __atomic_load_n(&slot->state, __ATOMIC_ACQUIRE); }

static bool change(struct gorge_mail_slot *slot, uint64_t from, uint64_t to) {
  /* acq_rel: partner of itself and of load; hands over what was written for the new state, and takes over what was for the old one. */
  return __atomic_compare_exchange_n(&slot->state, &from, to, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

/* Whether nobody has a right to the slot any more. */
static bool abandoned(const struct gorge_zone *zone, uint64_t state, uint64_t now_ms) {
  switch (phase_of(state)) {
    case FREE: return true;
    case TAKEN: return !gorge_owner_alive(zone, (uint32_t)state);
    default: return over(state, now_ms);
  }
}

/*
 * Words of a request or an answer. relaxed, in here: ordered by the changes of the state; who has no right to the slot any more
 * may still be writing, which the check finds out.
 */
static void put_words(uint64_t *to, const char *from, uint32_t len) {
  for (uint32_t at = 0; at < len; at += 8) {
    uint64_t word = 0;
    memcpy(&word, from + at, len - at < 8 ? len - at : 8);
    __atomic_store_n(&to[at / 8], word, __ATOMIC_RELAXED);
  }
}

static void get_words(char *to, const uint64_t *from, uint32_t len) {
  for (uint32_t at = 0; at < len; at += 8) {
    /* relaxed: see put_words */
    uint64_t word = __atomic_load_n(&from[at / 8], __ATOMIC_RELAXED);
    memcpy(to + at, &word, len - at < 8 ? len - at : 8);
  }
}

static uint64_t check_of(uint64_t serial, uint64_t request, const char *name, uint32_t len) {
  return gorge_hash(name, len, gorge_hash(&request, sizeof request, serial));
}

static bool valid(enum gorge_forget_what what, uint32_t ns, uint32_t len) {
  bool named = what == GORGE_FORGET_KEY   ? len >= 1 && len <= GORGE_KEY_MAX
               : what == GORGE_FORGET_TAG ? len >= 1 && len <= GORGE_TAG_MAX
                                          : what == GORGE_FORGET_ALL && len == 0;
  return named && ns < GORGE_NAMESPACES;
}

/* Writes the request into a slot that is WRITING, and makes it READY. Returns false when the slot was lost meanwhile. */
static bool post(struct gorge_mail_slot *slot, uint64_t writing, uint64_t request, const char *name, uint32_t len,
                 uint32_t deadline_ms) {
  uint64_t serial = serial_of(writing);
  put_words(slot->name, name, len);
  /* relaxed: see put_words */
  __atomic_store_n(&slot->request, request, __ATOMIC_RELAXED);
  __atomic_store_n(&slot->check, check_of(serial, request, name, len), __ATOMIC_RELAXED);
  return change(slot, writing, state_of(serial, READY, deadline_ms));
}

int gorge_mail_send(const struct gorge_zone *zone, enum gorge_forget_what what, uint32_t ns, const char *name,
                    uint32_t len, uint64_t now_ms, uint64_t timeout_ms, uint64_t *ticket) {
  if (!valid(what, ns, len) || timeout_ms == 0 || timeout_ms > INT32_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  struct gorge_mail_slot *slots;
  uint64_t count = slots_of(zone, &slots);
  for (uint64_t i = 0; i < count; i++) {
    struct gorge_mail_slot *slot = &slots[i];
    uint64_t seen = load(slot);
    uint64_t serial = serial_of(seen) >= SERIAL_MAX ? 1 : serial_of(seen) + 1;
    uint64_t writing = state_of(serial, WRITING, (uint32_t)(now_ms + WRITE_MS));
    if (abandoned(zone, seen, now_ms) && change(slot, seen, writing) &&
        post(slot, writing, (uint64_t)what | (uint64_t)ns << 8 | (uint64_t)len << 16, name, len,
             (uint32_t)(now_ms + timeout_ms))) {
      *ticket = ticket_of(serial, i);
      return GORGE_OK;
    }
  }
  return GORGE_BUSY;
}

static int fetch_answer(struct gorge_mail_slot *slot, uint64_t seen, char *text, uint32_t size) {
  /* relaxed: see put_words */
  uint64_t result = __atomic_load_n(&slot->result, __ATOMIC_RELAXED);
  uint64_t have = result >> 32;
  uint32_t len = have < TEXT_MAX ? (uint32_t)have : TEXT_MAX;
  len = len < size ? len : size - 1;
  get_words(text, slot->text, len);
  text[len] = '\0';
  return change(slot, seen, state_of(serial_of(seen), FREE, 0)) ? (int32_t)(uint32_t)result : GORGE_REFUSED;
}

int gorge_mail_fetch(const struct gorge_zone *zone, uint64_t ticket, uint64_t now_ms, char *text, uint32_t size) {
  struct gorge_mail_slot *slot = slot_of(zone, ticket);
  uint64_t seen = load(slot);
  if (serial_of(seen) != ticket_serial(ticket)) {
    return GORGE_REFUSED;
  }
  switch (phase_of(seen)) {
    case READY: return GORGE_PENDING;
    case DONE: return fetch_answer(slot, seen, text, size);
    case TAKEN:
      if (gorge_owner_alive(zone, (uint32_t)seen)) {
        return GORGE_BUSY;
      }
      /* It died over it; a change that fails means that it had answered before. */
      (void)change(slot, seen, state_of(serial_of(seen), READY, (uint32_t)(now_ms + FETCH_MS)));
      return GORGE_PENDING;
    default: return GORGE_REFUSED;
  }
}

void gorge_mail_cancel(const struct gorge_zone *zone, uint64_t ticket) {
  struct gorge_mail_slot *slot = slot_of(zone, ticket);
  uint64_t seen = load(slot);
  /* One that fails met the worker that takes or answers it: once more, then it is answered, or left to its deadline. */
  for (int i = 0; i < 3 && serial_of(seen) == ticket_serial(ticket) && phase_of(seen) != FREE; i++) {
    if (change(slot, seen, state_of(serial_of(seen), FREE, 0))) {
      return;
    }
    seen = load(slot);
  }
}

bool gorge_mail_waiting(const struct gorge_zone *zone) {
  bool any = false;
  struct gorge_mail_slot *slots;
  uint64_t count = slots_of(zone, &slots);
  for (uint64_t i = 0; i < count; i++) {
    any = any || phase_of(load(&slots[i])) == READY;
  }
  return any;
}

/* Copies the request. Returns false when it is not what the asker wrote. */
static bool read_request(const struct gorge_mail_slot *slot, uint64_t serial, uint64_t request,
                         struct gorge_mail *out) {
  out->what = (enum gorge_forget_what)(request & 0xff);
  out->ns = (uint32_t)(request >> 8) & 0xff;
  out->len = (uint32_t)(request >> 16) & 0xffff;
  if (request >> 32 != 0 || !valid(out->what, out->ns, out->len)) {
    return false;
  }
  get_words(out->name, slot->name, out->len);
  /* relaxed: see put_words */
  return __atomic_load_n(&slot->check, __ATOMIC_RELAXED) == check_of(serial, request, out->name, out->len);
}

bool gorge_mail_take(const struct gorge_zone *zone, uint32_t owner, uint32_t ns, uint64_t now_ms,
                     struct gorge_mail *out) {
  struct gorge_mail_slot *slots;
  uint64_t count = slots_of(zone, &slots);
  for (uint64_t i = 0; i < count; i++) {
    struct gorge_mail_slot *slot = &slots[i];
    uint64_t seen = load(slot);
    /* relaxed: see put_words */
    uint64_t request = __atomic_load_n(&slot->request, __ATOMIC_RELAXED);
    if (phase_of(seen) != READY || over(seen, now_ms) || (request >> 8 & 0xff) != ns ||
        !change(slot, seen, state_of(serial_of(seen), TAKEN, owner))) {
      continue;
    }
    out->ticket = ticket_of(serial_of(seen), i);
    if (read_request(slot, serial_of(seen), request, out)) {
      return true;
    }
    gorge_mail_answer(zone, owner, out->ticket, now_ms, GORGE_REFUSED, "");
  }
  return false;
}

void gorge_mail_answer(const struct gorge_zone *zone, uint32_t owner, uint64_t ticket, uint64_t now_ms, int status,
                       const char *text) {
  struct gorge_mail_slot *slot = slot_of(zone, ticket);
  uint64_t mine = state_of(ticket_serial(ticket), TAKEN, owner);
  if (load(slot) != mine) {
    return; /* the asker did not wait */
  }
  size_t len = strlen(text);
  len = len < TEXT_MAX ? len : TEXT_MAX;
  put_words(slot->text, text, (uint32_t)len);
  /* relaxed: see put_words */
  __atomic_store_n(&slot->result, (uint64_t)len << 32 | (uint32_t)status, __ATOMIC_RELAXED);
  (void)change(slot, mine, state_of(ticket_serial(ticket), DONE, (uint32_t)(now_ms + FETCH_MS)));
}
