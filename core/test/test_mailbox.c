/* SPDX-License-Identifier: MIT */
/* The mailbox: what is asked is carried out once, or the asker learns that it was not; whoever dies on either side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "shm/layout.h"
#include "sync/mailbox.h"
#include "test/procs.h"

enum { NOW = 1000, PATIENCE = 5000, NS = 3, SLOTS = 1 /* in the smallest zone */ };

static struct gorge_mail mail;
static char text[256];

static uint64_t send(const struct gorge_zone *zone, const char *name, uint64_t now_ms) {
  uint64_t ticket = 0;
  assert_int_equal(gorge_mail_send(zone, GORGE_FORGET_KEY, NS, name, (uint32_t)strlen(name), now_ms, PATIENCE, &ticket),
                   GORGE_OK);
  return ticket;
}

static struct gorge_owner owner_of(struct gorge_zone *zone) {
  struct gorge_owner owner;
  assert_int_equal(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner), GORGE_OK);
  return owner;
}

static void test_what_is_asked_is_taken_and_answered(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_owner owner = owner_of(zone);
  assert_false(gorge_mail_waiting(zone));
  uint64_t ticket = send(zone, "a key", NOW);
  assert_true(gorge_mail_waiting(zone));
  assert_int_equal(gorge_mail_fetch(zone, ticket, NOW, text, sizeof text), GORGE_PENDING);
  assert_false(gorge_mail_take(zone, owner.id, NS + 1, NOW, &mail));
  assert_true(gorge_mail_take(zone, owner.id, NS, NOW, &mail));
  assert_int_equal(mail.what, GORGE_FORGET_KEY);
  assert_int_equal(mail.ns, NS);
  assert_int_equal(mail.len, 5);
  assert_memory_equal(mail.name, "a key", 5);
  assert_false(gorge_mail_take(zone, owner.id, NS, NOW, &mail));
  assert_int_equal(gorge_mail_fetch(zone, ticket, NOW, text, sizeof text), GORGE_BUSY);
  gorge_mail_answer(zone, owner.id, mail.ticket, NOW, GORGE_ERR_DOWN, "why");
  assert_int_equal(gorge_mail_fetch(zone, ticket, NOW, text, sizeof text), GORGE_ERR_DOWN);
  assert_string_equal(text, "why");
  assert_int_equal(gorge_mail_fetch(zone, ticket, NOW, text, sizeof text), GORGE_REFUSED);
  gorge_owner_release(zone, &owner);
}

static void test_what_is_no_request_is_refused(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  static char longest[GORGE_KEY_MAX + 1];
  uint64_t t = 0;
  memset(longest, 'k', sizeof longest);
  const struct {
    int what;
    uint32_t ns, len;
    int status;
  } cases[] = {
      {GORGE_FORGET_KEY, 0, 0, GORGE_ERR_ARGUMENT},
      {GORGE_FORGET_KEY, 0, GORGE_KEY_MAX + 1, GORGE_ERR_ARGUMENT},
      {GORGE_FORGET_TAG, 0, 0, GORGE_ERR_ARGUMENT},
      {GORGE_FORGET_TAG, 0, GORGE_TAG_MAX + 1, GORGE_ERR_ARGUMENT},
      {GORGE_FORGET_ALL, 0, 1, GORGE_ERR_ARGUMENT},
      {0, 0, 1, GORGE_ERR_ARGUMENT},
      {4, 0, 1, GORGE_ERR_ARGUMENT},
      {GORGE_FORGET_KEY, GORGE_NAMESPACES, 1, GORGE_ERR_ARGUMENT},
      {GORGE_FORGET_KEY, 0, GORGE_KEY_MAX, GORGE_OK},
      {GORGE_FORGET_ALL, 0, 0, GORGE_OK},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    assert_int_equal(gorge_mail_send(zone, (enum gorge_forget_what)cases[i].what, cases[i].ns, longest, cases[i].len,
                                     NOW, PATIENCE, &t),
                     cases[i].status);
    gorge_mail_cancel(zone, cases[i].status == GORGE_OK ? t : 0);
  }
}

static void test_slots_are_few_and_come_back(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  uint64_t tickets[SLOTS], t;
  for (int i = 0; i < SLOTS; i++) {
    tickets[i] = send(zone, "k", NOW);
  }
  assert_int_equal(gorge_mail_send(zone, GORGE_FORGET_ALL, 0, "", 0, NOW, PATIENCE, &t), GORGE_BUSY);
  gorge_mail_cancel(zone, tickets[0]);
  t = send(zone, "l", NOW);
  assert_int_equal(gorge_mail_fetch(zone, tickets[0], NOW, text, sizeof text), GORGE_REFUSED);
  gorge_mail_cancel(zone, tickets[0]); /* of somebody who is late: not the new one */
  assert_int_equal(gorge_mail_fetch(zone, t, NOW, text, sizeof text), GORGE_PENDING);
  /* An asker that died: its slots are free again when their time is over, and nobody takes what nobody waits for. */
  struct gorge_owner owner = owner_of(zone);
  assert_false(gorge_mail_take(zone, owner.id, NS, NOW + PATIENCE, &mail));
  for (int i = 0; i < SLOTS; i++) {
    (void)send(zone, "m", NOW + PATIENCE);
  }
  gorge_owner_release(zone, &owner);
}

static void test_an_asker_that_died_over_its_answer_leaves_a_free_slot(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_owner owner = owner_of(zone);
  for (int i = 0; i < SLOTS; i++) {
    (void)send(zone, "k", NOW);
    assert_true(gorge_mail_take(zone, owner.id, NS, NOW, &mail));
    gorge_mail_answer(zone, owner.id, mail.ticket, NOW, GORGE_OK, "");
  }
  uint64_t t;
  assert_int_equal(gorge_mail_send(zone, GORGE_FORGET_ALL, 0, "", 0, NOW, PATIENCE, &t), GORGE_BUSY);
  (void)send(zone, "k", NOW + 60000);
  gorge_owner_release(zone, &owner);
}

/* One that was stopped while it wrote goes on when the slot is another's. */
static void test_a_late_asker_cannot_pass_off_its_bytes(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_owner owner = owner_of(zone);
  uint64_t size;
  struct gorge_mail_slot *slots = gorge_zone_part(zone, GORGE_PART_MAIL, &size);
  uint64_t ticket = send(zone, "good", NOW);
  memcpy(slots[ticket & 0xff].name, "evil", 4);
  assert_false(gorge_mail_take(zone, owner.id, NS, NOW, &mail));
  assert_int_equal(gorge_mail_fetch(zone, ticket, NOW, text, sizeof text), GORGE_REFUSED);
  ticket = send(zone, "good", NOW);
  slots[ticket & 0xff].request += (uint64_t)5000 << 16;
  assert_false(gorge_mail_take(zone, owner.id, NS, NOW, &mail));
  slots[ticket & 0xff].result = UINT64_MAX; /* nor does a damaged answer lead anywhere */
  (void)gorge_mail_fetch(zone, ticket, NOW, text, sizeof text);
  gorge_owner_release(zone, &owner);
}

static int child_takes_and_dies(struct proc *self, void *arg) {
  struct gorge_zone *zone = arg;
  struct gorge_owner owner;
  CHILD_CHECK(gorge_owner_claim(zone, GORGE_THREAD_MAIN, &owner) == GORGE_OK);
  CHILD_CHECK(gorge_mail_take(zone, owner.id, NS, NOW, &mail));
  proc_say(self, 1);
  (void)proc_hear(self);
  return 0;
}

static void test_a_worker_that_dies_over_it_is_followed_by_another(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  uint64_t ticket = send(zone, "k", NOW);
  struct proc child = proc_start(child_takes_and_dies, zone);
  assert_int_equal(proc_hear(&child), 1);
  assert_int_equal(gorge_mail_fetch(zone, ticket, NOW, text, sizeof text), GORGE_BUSY);
  proc_kill(&child);
  struct gorge_owner owner = owner_of(zone);
  assert_false(gorge_mail_take(zone, owner.id, NS, NOW, &mail));
  assert_int_equal(gorge_mail_fetch(zone, ticket, NOW, text, sizeof text), GORGE_PENDING);
  assert_true(gorge_mail_take(zone, owner.id, NS, NOW, &mail));
  gorge_mail_answer(zone, owner.id, mail.ticket, NOW, GORGE_OK, "");
  assert_int_equal(gorge_mail_fetch(zone, ticket, NOW, text, sizeof text), GORGE_OK);
  gorge_owner_release(zone, &owner);
}

static void test_a_late_answer_goes_nowhere(void **state) {
  (void)state;
  struct gorge_zone *zone = proc_zone(NULL);
  struct gorge_owner owner = owner_of(zone);
  uint64_t ticket = send(zone, "k", NOW);
  assert_true(gorge_mail_take(zone, owner.id, NS, NOW, &mail));
  gorge_mail_cancel(zone, ticket);
  uint64_t next = send(zone, "l", NOW);
  gorge_mail_answer(zone, owner.id, ticket, NOW, GORGE_ERR_DOWN, "late");
  assert_int_equal(gorge_mail_fetch(zone, next, NOW, text, sizeof text), GORGE_PENDING);
  gorge_owner_release(zone, &owner);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_what_is_asked_is_taken_and_answered),
      cmocka_unit_test(test_what_is_no_request_is_refused),
      cmocka_unit_test(test_slots_are_few_and_come_back),
      cmocka_unit_test(test_an_asker_that_died_over_its_answer_leaves_a_free_slot),
      cmocka_unit_test(test_a_late_asker_cannot_pass_off_its_bytes),
      cmocka_unit_test(test_a_worker_that_dies_over_it_is_followed_by_another),
      cmocka_unit_test(test_a_late_answer_goes_nowhere),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
