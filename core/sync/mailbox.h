/* SPDX-License-Identifier: MIT */
/*
 * The mailbox of a zone: what somebody from outside (the command line) asks the zone's workers for, since a write needs Redis
 * and an owner's slot. The asker maps nothing else writable.
 *
 * A few slots, each one request at a time. Its state is one word, changed by CAS only: serial:24 | phase:8 | 32 bits more.
 *
 *   FREE -> WRITING -> READY -> TAKEN -> DONE -> FREE
 *
 *   WRITING  an asker fills in the request            more: its deadline, in milliseconds mod 2^32
 *   READY    whoever can may take it                  more: the deadline of the asker's patience
 *   TAKEN    a worker's thread carries it out         more: the id of that owner
 *   DONE     the answer is there for the asker        more: the deadline by which it should have been fetched
 *
 * Nobody waits for anybody who is gone:
 *  - a slot whose deadline is over may be taken by the next asker, with the next serial; so may one that is TAKEN by an owner that
 *    died. An asker that was stopped finds its serial gone;
 *  - an owner that dies while it carries a request out is noticed by the asker, which makes the request READY again: requests
 *    are invalidations, which may be carried out twice;
 *  - what a stopped asker writes into a slot that is another's by now makes that one's request differ from its check: the worker
 *    refuses it, and the asker asks once more.
 *
 * All functions may be called by any thread; none blocks.
 */
#ifndef GORGE_SYNC_MAILBOX_H
#define GORGE_SYNC_MAILBOX_H

#include "gorge.h"
#include "sync/owner.h"

struct gorge_mail {
  uint64_t ticket; /* of the slot and its serial */
  enum gorge_forget_what what;
  uint32_t ns, len;
  char name[GORGE_KEY_MAX];
};

/* For the asker. */

/*
 * Puts a request into a free slot, to be carried out within timeout_ms. Returns GORGE_OK and *ticket; GORGE_BUSY: no slot is free
 * now; GORGE_ERR_ARGUMENT.
 */
int gorge_mail_send(const struct gorge_zone *zone, enum gorge_forget_what what, uint32_t ns, const char *name,
                    uint32_t len, uint64_t now_ms, uint64_t timeout_ms, uint64_t *ticket);
/*
 * What became of it: GORGE_PENDING: nobody has taken it yet; GORGE_BUSY: it is being carried out; GORGE_REFUSED: it was garbled, or the
 * slot is another's: ask again; else the answer's status, its text in `text` (NUL-terminated), and the slot is free.
 */
int gorge_mail_fetch(const struct gorge_zone *zone, uint64_t ticket, uint64_t now_ms, char *text, uint32_t size);
/* Takes the request back; what is being carried out is carried out. */
void gorge_mail_cancel(const struct gorge_zone *zone, uint64_t ticket);

/* For a worker. */

/* Whether there is something to be taken: cheap. */
bool gorge_mail_waiting(const struct gorge_zone *zone);
/* Takes a request of namespace `ns`. Returns false when there is none. Garbled ones are answered with GORGE_REFUSED here. */
bool gorge_mail_take(const struct gorge_zone *zone, uint32_t owner, uint32_t ns, uint64_t now_ms,
                     struct gorge_mail *out);
void gorge_mail_answer(const struct gorge_zone *zone, uint32_t owner, uint64_t ticket, uint64_t now_ms, int status,
                       const char *text);

#endif
