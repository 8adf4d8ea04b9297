/* SPDX-License-Identifier: MIT */
/* Askers and workers at once, and a ring of events that all of them write: nothing is lost, nothing is torn. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "shm/events.h"
#include "sync/mailbox.h"
#include "test/procs.h"

enum { ASKERS = 3, TAKERS = 2, EACH = 300, PATIENCE = 20000, EVENTS = 20000, EVENT_WRITERS = 3 };

static struct gorge_zone *zone;
static uint64_t asked[ASKERS][EACH], wrong;
static int askers_left;

static void *take(void *arg) {
  struct gorge_mail *mail = test_malloc(sizeof *mail);
  struct gorge_owner owner;
  (void)arg;
  if (gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner) != GORGE_OK) {
    return "no slot";
  }
  while (__atomic_load_n(&askers_left, __ATOMIC_ACQUIRE) > 0) {
    if (gorge_mail_take(zone, owner.id, 0, gorge_clock_ms(), mail)) {
      unsigned who, what;
      mail->name[mail->len < 63 ? mail->len : 63] = '\0';
      if (sscanf(mail->name, "%u/%u", &who, &what) == 2 && who < ASKERS && what < EACH) {
        __atomic_add_fetch(&asked[who][what], 1, __ATOMIC_RELAXED);
      } else {
        __atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
      }
      gorge_mail_answer(zone, owner.id, mail->ticket, gorge_clock_ms(), GORGE_OK, mail->name);
    } else {
      usleep(20);
    }
  }
  gorge_owner_release(zone, &owner);
  test_free(mail);
  return NULL;
}

static void ask_one(unsigned who, unsigned what) {
  char name[32], text[64];
  uint32_t len = (uint32_t)snprintf(name, sizeof name, "%u/%u", who, what);
  uint64_t ticket = 0;
  int status = GORGE_REFUSED;
  for (int i = 0; i < 1000000; i++) {
    if (status == GORGE_REFUSED) { /* not asked yet, or to be asked again */
      status = gorge_mail_send(zone, GORGE_FORGET_KEY, 0, name, len, gorge_clock_ms(), PATIENCE, &ticket) == GORGE_OK
                   ? GORGE_PENDING
                   : GORGE_REFUSED;
    } else if (status == GORGE_PENDING || status == GORGE_BUSY) {
      status = gorge_mail_fetch(zone, ticket, gorge_clock_ms(), text, sizeof text);
    } else {
      break;
    }
    usleep(10);
  }
  if (status != GORGE_OK || strcmp(text, name) != 0) {
    __atomic_add_fetch(&wrong, 1, __ATOMIC_RELAXED);
  }
}

static void *ask(void *arg) {
  unsigned who = (unsigned)(uintptr_t)arg;
  for (unsigned what = 0; what < EACH; what++) {
    ask_one(who, what);
  }
  __atomic_sub_fetch(&askers_left, 1, __ATOMIC_ACQ_REL);
  return NULL;
}

static void test_each_request_is_carried_out_once(void **state) {
  (void)state;
  pthread_t threads[ASKERS + TAKERS];
  void *result;
  zone = proc_zone(NULL);
  askers_left = ASKERS;
  for (int i = 0; i < ASKERS + TAKERS; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, i < ASKERS ? ask : take, (void *)(uintptr_t)i), 0);
  }
  for (int i = 0; i < ASKERS + TAKERS; i++) {
    pthread_join(threads[i], &result);
    assert_null(result);
  }
  assert_int_equal(wrong, 0);
  for (int who = 0; who < ASKERS; who++) {
    for (int what = 0; what < EACH; what++) {
      assert_int_equal(asked[who][what], 1);
    }
  }
}

static void *write_events(void *arg) {
  char name[200];
  unsigned who = (unsigned)(uintptr_t)arg;
  for (uint64_t i = 1; i <= EVENTS; i++) {
    uint32_t len = (uint32_t)(1 + (i * 7 + who) % sizeof name);
    memset(name, 'a' + (int)(i % 26), len);
    gorge_events_add(zone, GORGE_EVENT_KEY, GORGE_EVENT_HERE, who, i, name, len, i);
  }
  __atomic_sub_fetch(&askers_left, 1, __ATOMIC_ACQ_REL);
  return NULL;
}

/* Returns whether it is one that was written, and none that was seen before. */
static bool plausible(const struct gorge_event *e, uint64_t *last) {
  bool good = e->ns < EVENT_WRITERS && e->version > last[e->ns] && e->at_ms == (double)e->version &&
              e->len == 1 + (e->version * 7 + e->ns) % 200 && e->shown <= e->len;
  for (uint32_t i = 0; i < e->shown; i++) {
    good = good && e->name[i] == (char)('a' + e->version % 26);
  }
  last[e->ns % EVENT_WRITERS] = e->version;
  return good;
}

static void test_events_come_whole_and_in_order(void **state) {
  (void)state;
  pthread_t threads[EVENT_WRITERS];
  static struct gorge_event events[64];
  uint64_t last[EVENT_WRITERS] = {0}, seen = 0;
  struct gorge_events_cursor cursor;
  zone = proc_zone(NULL);
  cursor = (struct gorge_events_cursor){.next = gorge_events_next(zone)};
  assert_int_equal(cursor.next, 1);
  askers_left = EVENT_WRITERS;
  for (int i = 0; i < EVENT_WRITERS; i++) {
    assert_int_equal(pthread_create(&threads[i], NULL, write_events, (void *)(uintptr_t)i), 0);
  }
  for (int round = 0; round < 3; round += __atomic_load_n(&askers_left, __ATOMIC_ACQUIRE) == 0) {
    uint32_t n = gorge_events_read(zone, &cursor, events, 64);
    for (uint32_t i = 0; i < n; i++) {
      assert_true(plausible(&events[i], last));
    }
    seen += n;
    round -= round > 0 && n > 0;
  }
  for (int i = 0; i < EVENT_WRITERS; i++) {
    pthread_join(threads[i], NULL);
  }
  assert_true(seen > 0);
  assert_int_equal(seen + cursor.lost, EVENTS * EVENT_WRITERS);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_each_request_is_carried_out_once),
      cmocka_unit_test(test_events_come_whole_and_in_order),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
