/* SPDX-License-Identifier: MIT */
/* What ThreadSanitizer is told that it cannot know. */

#ifndef __has_feature
#define __has_feature(name) 0 /* gcc 12 */
#endif

#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
/*
 * A descriptor that was closed stays in an epoll set for as long as a child of a fork has it, too: until it runs another program. When an
 * event comes for it meanwhile, libev tells epoll that it wants no more of them. The number may be that of another thread's descriptor by
 * then, which is not in this set: the kernel refuses, libev makes itself a new set, nothing is lost. ThreadSanitizer calls it a race. Only
 * libev calls epoll_ctl here.
 */
const char *__tsan_default_suppressions(void);

__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void) { return "race:epoll_ctl\n"; }
#endif
