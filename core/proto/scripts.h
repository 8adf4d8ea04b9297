/* SPDX-License-Identifier: MIT */
/*
 * The Lua scripts that Redis runs (5.0 or later: they write after reading the clock). Their keys and arguments stand in
 * scripts.c; io/l2_commands.c fills them in, io/l2_replies.c reads what they return.
 *
 * A lease is a string of 8 token bytes, plus 'w' once somebody waits for it; it expires by itself.
 * A tag is a string of its nonce, 8 bytes, and the version of its last invalidation, 8 bytes (0: none).
 * The journal is a stream of the last invalidations: id `<version>-<n>`, one field `m` with the message (message.h).
 */
#ifndef GORGE_PROTO_SCRIPTS_H
#define GORGE_PROTO_SCRIPTS_H

enum gorge_script {
  GORGE_SCRIPT_LEASE = 0,
  GORGE_SCRIPT_FILL,
  GORGE_SCRIPT_RELEASE,
  GORGE_SCRIPT_RENEW,
  GORGE_SCRIPT_SET,
  GORGE_SCRIPT_DELETE,
  GORGE_SCRIPT_INVALIDATE,
  GORGE_SCRIPT_JOURNAL,
  GORGE_SCRIPT_TOUCH,
  GORGE_SCRIPT_UPDATE,
  GORGE_SCRIPT_HEARTBEAT,
  GORGE_SCRIPT_EPOCH,
  GORGE_SCRIPT_CLEAR,
  GORGE_SCRIPTS
};

enum {
  GORGE_SCRIPT_SHA_LEN = 40,
  /* A tag's nonce must outlive every entry that names it, and every fill that remembers it. */
  GORGE_SCRIPT_TAG_MARGIN_MS = 3600 * 1000
};

enum { GORGE_TAG_BYTES = 16 };

/* What the journal script returns first: whether the entry of the cursor is still there. */
enum gorge_journal_answer { GORGE_JOURNAL_GAP = 0, GORGE_JOURNAL_CONTINUES = 1 };

/* Codes in the first element of what the touch script returns. */
enum gorge_touch_answer { GORGE_TOUCH_NONE = 0, GORGE_TOUCH_DONE = 1, GORGE_TOUCH_OTHER_TAGS = 2 };

/* Codes in the first element of what the lease script returns. */
enum gorge_lease_answer { GORGE_LEASE_HIT = 2, GORGE_LEASE_BUSY = 3, GORGE_LEASE_GRANTED = 4 };

/* Returns: the script's text, static. */
const char *gorge_script_text(enum gorge_script script);

#endif
