/* SPDX-License-Identifier: MIT */
/*
 * Checks that a library for the specs is built without, each in a build of its own (make build/broken/NAME/libgorge.so), so that
 * spec/history can show that its checker would notice. The library that is shipped has all of them: nothing defines GORGE_BROKEN there.
 */
#ifndef GORGE_BASE_BROKEN_H
#define GORGE_BASE_BROKEN_H

#define GORGE_CHECK_LEASE 1   /* a fill has the lease in Redis */
#define GORGE_CHECK_STAMP 2   /* an insert into L1 began after the last invalidation of its key */
#define GORGE_CHECK_TAG 3     /* an entry of L1 has the generations of now */
#define GORGE_CHECK_JOURNAL 4 /* what was missed is read in the journal */
#define GORGE_CHECK_EPOCH 5   /* a write comes from a host that knows the epoch of now */
#define GORGE_CHECK_QUEUE 6   /* what Redis was not told waits for it */
#define GORGE_CHECK_FRESH 7   /* L1 answers while it is confirmed that nothing was missed */

#ifndef GORGE_BROKEN
#define GORGE_BROKEN 0
#endif

/* Whether a check is made; also for #if. */
#define GORGE_CHECKS(what) (GORGE_BROKEN != GORGE_CHECK_##what)

#endif
