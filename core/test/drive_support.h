/* SPDX-License-Identifier: MIT */
/* What the tests of drivers share: conditions with a deadline, counts of what must not leak, a Redis of their own. */
#ifndef GORGE_TEST_DRIVE_SUPPORT_H
#define GORGE_TEST_DRIVE_SUPPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Takes steps until the condition holds, for 20 s at most and with a last look after that; evaluates to whether it did. Once it held it is not
 * looked at again: it may be something that is asked, and answered otherwise the next time.
 */
#define STEP_UNTIL(condition, step)                   \
  ({                                                  \
    uint64_t until_us_ = support_now_us() + 20000000; \
    bool held_ = (condition);                         \
    for (bool late_ = false; !held_ && !late_;) {     \
      step;                                           \
      late_ = support_now_us() >= until_us_;          \
      held_ = (condition);                            \
    }                                                 \
    held_;                                            \
  })
#define WAIT_UNTIL(condition) STEP_UNTIL(condition, support_nap())

uint64_t support_now_us(void);
void support_nap(void);
/* Entries of /proc/self/fd, /proc/self/task, ... */
int support_count(const char *folder);
/* Threads of this process before the test has started any: one, or more under a sanitizer that runs its own. */
int support_tasks(void);

struct support_redis {
  pid_t pid;
  char dir[64];
  char path[96];              /* of its unix socket */
  const char *const *options; /* further arguments; NULL: none */
};

/* Starts redis-server in a fresh folder and waits until it answers; with stop, everything is gone. Return success. */
bool support_redis_start(struct support_redis *r);
/* Kills it and starts it again at the same place, empty. */
bool support_redis_restart(struct support_redis *r);
void support_redis_kill(struct support_redis *r);
void support_redis_stop(struct support_redis *r);
/* Runs one inline command on a connection of its own; the first bytes of the answer, as text, go to answer. */
bool support_redis_command(const struct support_redis *r, const char *command, char *answer, int size);

#endif
