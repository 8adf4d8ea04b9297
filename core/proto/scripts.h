/* SPDX-License-Identifier: MIT */
/*
 * The Lua scripts that Redis runs (5.0 or later: they write after reading the clock). Their keys and arguments stand in
 * scripts.c; io/l2_commands.c fills them in, io/l2_replies.c reads what they return.
 *
 * A lease is a string of 8 token bytes, plus 'w' once somebody waits for it; it expires by itself.
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
  GORGE_SCRIPTS
};

enum {
  GORGE_SCRIPT_SHA_LEN = 40,
  /* A tag's nonce must outlive every entry that names it, and every fill that remembers it. */
  GORGE_SCRIPT_TAG_MARGIN_MS = 3600 * 1000
};

/* Codes in the first element of what the lease script returns. */
enum gorge_lease_answer { GORGE_LEASE_HIT = 2, GORGE_LEASE_BUSY = 3, GORGE_LEASE_GRANTED = 4 };

/* Returns: the script's text, static. */
const char *gorge_script_text(enum gorge_script script);

#endif
