/* SPDX-License-Identifier: MIT */
#include "fault/peer.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "l1/index.h"

enum { MESSAGE_VERSION = 1000 };

/*
 * How long this process could have run and waited for a processor, in microseconds: that is not what others make it wait for.
 * Where the kernel does not tell, 0, and only repeating tells pauses of the scheduler's from stalls.
 */
static uint64_t delayed_us(void) {
  static int fd = -1;
  char text[80];
  unsigned long long ran, waited;
  if (fd < 0) {
    fd = open("/proc/self/schedstat", O_RDONLY | O_CLOEXEC);
  }
  ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof text - 1, 0);
  if (n <= 0) {
    return 0;
  }
  text[n] = '\0';
  return sscanf(text, "%llu %llu", &ran, &waited) == 2 ? waited / 1000 : 0;
}

/* Without a system call. */
static void begin_read(struct fault_scene *s) {
  s->delayed_us = UINT64_MAX;
  s->began_us = gorge_clock_us();
}

void fault_begin(struct fault_scene *s) {
  s->delayed_us = delayed_us();
  s->began_us = gorge_clock_us();
}

void fault_end(struct fault_scene *s, const char *what) {
  uint64_t took = gorge_clock_us() - s->began_us;
  if (took > FAULT_STALL_US / 2 && s->delayed_us != UINT64_MAX) {
    uint64_t delayed = delayed_us() - s->delayed_us;
    took -= delayed < took ? delayed : took;
  }
  if (took > FAULT_STALL_US) {
    s->slow = what;
    s->slow_us = took;
  } else if (took > s->longest_us) {
    s->longest_us = took;
    s->longest_what = what;
  }
}

const char *fault_complain(struct fault_scene *s, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(s->complaint, sizeof s->complaint, format, args);
  va_end(args);
  return s->complaint;
}

/* --- operations --- */

static int read_name(struct fault_scene *s, const char *name, struct gorge_read *read) {
  begin_read(s);
  int status = l1_read(&s->l1, name, strlen(name), true, read);
  fault_end(s, "a read");
  return status;
}

const char *fault_target(struct fault_scene *s) {
  struct gorge_read read;
  if (read_name(s, FAULT_TARGET, &read) != GORGE_HIT) {
    return NULL;
  }
  read.buf[read.len] = '\0';
  return read.buf;
}

void fault_delete(struct fault_scene *s, const char *name, uint64_t version) {
  fault_begin(s);
  l1_delete(&s->l1, name, version);
  fault_end(s, version == 0 ? "a delete" : "a message");
}

static int put_target(struct fault_scene *s, const char *value) {
  fault_begin(s);
  int status = l1_put(&s->l1, FAULT_TARGET, value, 1 << 30);
  fault_end(s, "a fill");
  if (status == GORGE_STORED) {
    s->fill_value = value;
  }
  return status;
}

static int set_target(struct fault_scene *s, const char *value) {
  struct gorge_key key = l1_key(&s->l1, FAULT_TARGET, strlen(FAULT_TARGET));
  struct gorge_entry entry = {
      .value = value, .value_len = (uint32_t)strlen(value), .kind = GORGE_KIND_STRING, .expires_ms = UINT64_MAX};
  fault_begin(s);
  int status = gorge_l1_set(s->l1.zone, &s->l1.owner, &key, &entry, s->l1.now_ms, NULL);
  fault_end(s, "a set");
  s->fill_value = status == GORGE_STORED ? value : NULL;
  return status;
}

/* --- what must hold --- */

static const char *check_name(struct fault_scene *s, const struct fault_name *name) {
  struct gorge_read read;
  if (read_name(s, name->text, &read) != GORGE_HIT) {
    return NULL;
  }
  if (s->all_gone) {
    return fault_complain(s, "%s is seen, which is gone", name->text);
  }
  if (read.len != fault_length(name->number) || !l1_check(read.buf, read.len, name->number)) {
    return fault_complain(s, "%s is not what was stored", name->text);
  }
  return NULL;
}

const char *fault_check_read(struct fault_scene *s) {
  for (int i = 0; i < FAULT_KEYS; i++) {
    FAULT_TRY(check_name(s, &s->keys[i]));
  }
  for (int i = 0; i < FAULT_OTHERS; i++) {
    bool all_gone = s->all_gone;
    s->all_gone = false; /* another shard */
    const char *wrong = check_name(s, &s->others[i]);
    s->all_gone = all_gone;
    FAULT_TRY(wrong);
  }
  struct l1 other = s->l1;
  for (int i = 0; i < FAULT_GONE; i++) {
    other.ns = i == 3;
    if (l1_has(&other, s->gone[i].text)) {
      return fault_complain(s, "%s, invalidated in way %d, is seen", s->gone[i].text, i);
    }
  }
  return NULL;
}

/* From tail to head of both rings there is one entry or pad record after another, each on its side of the border. */
static const char *check_log(struct fault_scene *s) {
  const struct gorge_shard *v = &s->shard;
  for (int ring = 0; ring < GORGE_RINGS; ring++) {
    uint64_t at = v->shared->tail[ring], head = v->shared->head[ring];
    while (at < head) {
      uint64_t position = gorge_shard_position(v, at);
      struct gorge_head h = gorge_head_load(v->area + position);
      if (gorge_head_kind(&h) == GORGE_KIND_PAD) {
        at = ((at >> v->lap_shift) + 1) << v->lap_shift | v->shared->start[ring];
        continue;
      }
      uint32_t units = gorge_entry_units(&h, v->area + position, v->area_units - position);
      if (units == 0 || gorge_head_check(&h) != gorge_offset_check(at)) {
        return fault_complain(s, "no entry in ring %d at %llu", ring, (unsigned long long)at);
      }
      uint64_t border = v->shared->end[GORGE_RING_SMALL];
      if (ring == GORGE_RING_MAIN ? position < border : position + units > border) {
        return fault_complain(s, "an entry of ring %d at %llu beyond the border", ring, (unsigned long long)at);
      }
      at += units;
    }
    if (at != head) {
      return fault_complain(s, "the log of ring %d goes beyond its head", ring);
    }
  }
  return NULL;
}

static const char *check_count(struct fault_scene *s) {
  const struct gorge_shard *v = &s->shard;
  uint64_t used = 0;
  for (uint64_t i = 0; i < (uint64_t)v->buckets * GORGE_BUCKET_SLOTS; i++) {
    used += v->slots[i] != 0;
  }
  return used == v->shared->entries ? NULL
                                    : fault_complain(s, "%llu entries are counted, %llu slots are in use",
                                                     (unsigned long long)v->shared->entries, (unsigned long long)used);
}

/* Nothing is in the way of anything: fills, evictions, deletes. */
static const char *check_use(struct fault_scene *s) {
  for (int i = 0; i < FAULT_FRESH; i++) {
    const struct fault_name *name = &s->fresh[i];
    char value[FAULT_VALUE_MAX];
    struct gorge_read read;
    uint32_t len = 200 + (uint32_t)i * 431;
    l1_fill(value, len, name->number, s->began_us);
    fault_begin(s);
    int status = l1_put_bytes(&s->l1, name->text, strlen(name->text), value, len, 1 << 30);
    fault_end(s, "a fill that evicts");
    if (status != GORGE_STORED) {
      return fault_complain(s, "a fill is not stored: %d", status);
    }
    if (read_name(s, name->text, &read) != GORGE_HIT || read.len != len || !l1_check(read.buf, len, name->number)) {
      return "what was stored is not found";
    }
  }
  fault_delete(s, s->fresh[0].text, 0);
  if (l1_has(&s->l1, s->fresh[0].text)) {
    return "what was deleted is found";
  }
  int status = put_target(s, "new");
  const char *value = fault_target(s);
  if (status != GORGE_STORED || value == NULL || strcmp(value, "new") != 0) {
    return fault_complain(s, "a fill of the key: %d, %s", status, value == NULL ? "not found" : value);
  }
  status = set_target(s, "newer");
  value = fault_target(s);
  if (status != GORGE_STORED || value == NULL || strcmp(value, "newer") != 0) {
    return fault_complain(s, "a set of the key: %d, %s", status, value == NULL ? "not found" : value);
  }
  FAULT_TRY(check_log(s));
  return fault_check_read(s);
}

/* A record as L0 has it. */
static bool record_valid(const struct fault_scene *s) {
  const struct gorge_read *r = &s->record;
  return r->slot != NULL && (*r->slot & ~GORGE_SLOT_FREQ) == r->word &&
         gorge_zone_words(s->l1.zone, s->l1.ns)->global == r->global;
}

static void take_record(struct fault_scene *s) {
  if (read_name(s, FAULT_TARGET, &s->record) != GORGE_HIT) {
    s->record.slot = NULL;
  }
}

static const char *target_absent(struct fault_scene *s, const char *when) {
  if (fault_target(s) != NULL) {
    return fault_complain(s, "the key is seen %s", when);
  }
  return record_valid(s) ? fault_complain(s, "a record of the key is valid %s", when) : NULL;
}

const char *fault_check_dead(struct fault_scene *s, const struct fault_op *op) {
  const char *value = fault_target(s);
  if (value != NULL && (strcmp(value, "old") != 0 || s->all_gone) && strcmp(value, "late") != 0) {
    return fault_complain(s, "the key's value is wrong: %.20s", value);
  }
  take_record(s);
  FAULT_TRY(fault_check_read(s));
  if (op->dead != NULL) {
    FAULT_TRY(op->dead(s));
  }
  if (op->flags & FAULT_HELD) {
    fault_delete(s, FAULT_TARGET, 0);
    FAULT_TRY(target_absent(s, "after a delete beside a holder that does not move"));
    s->all_gone = true; /* that costs the shard's entries */
    fault_let_go(s, s->sleeper);
  }
  uint64_t timeouts = l1_count(&s->l1, GORGE_COUNT_LOCK_TIMEOUTS);
  fault_delete(s, FAULT_TARGET, 0);
  FAULT_TRY(target_absent(s, "after a delete"));
  FAULT_TRY(check_log(s));
  FAULT_TRY(check_count(s));
  FAULT_TRY(check_use(s));
  return l1_count(&s->l1, GORGE_COUNT_LOCK_TIMEOUTS) == timeouts ? NULL : "a lock could not be had";
}

/* --- beside a stopped one --- */

static void invalidate(struct fault_scene *s, enum fault_way way) {
  switch (way) {
    case FAULT_DELETE: fault_delete(s, FAULT_TARGET, 0); break;
    case FAULT_MESSAGE: fault_delete(s, FAULT_TARGET, MESSAGE_VERSION); break;
    case FAULT_SET: set_target(s, "set"); break;
    case FAULT_TAG:
      fault_begin(s);
      gorge_l1_invalidate_tag(s->l1.zone, s->l1.ns, "t", 1);
      fault_end(s, "the invalidation of a tag");
      break;
    default:
      fault_begin(s);
      gorge_l1_bump_epoch(s->l1.zone, s->l1.ns);
      fault_end(s, "a new epoch");
      break;
  }
}

/* What the peer stored last is there, or nothing. */
static const char *target_is_ours(struct fault_scene *s, const struct fault_op *op, const char *when) {
  const char *value = fault_target(s);
  if (value != NULL && s->said->ended && (op->flags & FAULT_SETS) != 0 && strcmp(value, "late") == 0) {
    value = NULL;
  }
  if (value != NULL && (s->fill_value == NULL || strcmp(value, s->fill_value) != 0)) {
    return fault_complain(s, "the key is %.20s %s", value, when);
  }
  return record_valid(s) ? fault_complain(s, "a record of the key is valid %s", when) : NULL;
}

const char *fault_check_meanwhile(struct fault_scene *s, const struct fault_op *op, enum fault_way way) {
  s->fill_value = NULL;
  FAULT_TRY(fault_check_read(s));
  take_record(s);
  invalidate(s, way);
  FAULT_TRY(target_is_ours(s, op, "after its invalidation"));
  /* The second one, at once. */
  const char *name = s->keys[3].text;
  fault_delete(s, name, 0);
  if (l1_has(&s->l1, name)) {
    return "another key is seen after a delete";
  }
  if (way == FAULT_EPOCH) {
    bool all_gone = s->all_gone;
    s->all_gone = true;
    for (int i = 0; i < FAULT_KEYS; i++) {
      FAULT_TRY(check_name(s, &s->keys[i]));
    }
    s->all_gone = all_gone;
  } else {
    FAULT_TRY(fault_check_read(s));
  }
  int status = put_target(s, "new");
  if (status != GORGE_STORED && status != GORGE_BUSY) {
    return fault_complain(s, "a fill beside the stopped one: %d", status);
  }
  FAULT_TRY(target_is_ours(s, op, "beside the stopped one"));
  return op->meanwhile != NULL ? op->meanwhile(s) : NULL;
}

const char *fault_check_again(struct fault_scene *s) {
  fault_delete(s, FAULT_TARGET, 0);
  s->fill_value = NULL;
  return target_absent(s, "after a delete beside one that was stopped again");
}

const char *fault_check_late(struct fault_scene *s, const struct fault_op *op) {
  if (!s->said->ended) {
    return "the victim has not ended";
  }
  FAULT_TRY(target_is_ours(s, op, "after the stopped one went on"));
  if (l1_has(&s->l1, s->keys[3].text)) {
    return "the other key is seen again";
  }
  FAULT_TRY(fault_check_read(s));
  if (op->late != NULL) {
    FAULT_TRY(op->late(s));
  }
  if (op->flags & FAULT_HELD) {
    fault_let_go(s, s->sleeper);
  }
  fault_delete(s, FAULT_TARGET, 0);
  s->fill_value = NULL;
  FAULT_TRY(target_absent(s, "after another delete"));
  FAULT_TRY(check_log(s));
  FAULT_TRY(check_count(s));
  return check_use(s);
}
