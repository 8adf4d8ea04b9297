/* SPDX-License-Identifier: MIT */
#include "drive/thread.h"

#include <signal.h>
#include <unistd.h>

#include "base/status.h"

/* Raised by the thread's own instructions: blocking them would turn a crash with a trace into a silent kill. */
static const int synchronous[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS};

static int start(pthread_t *thread, size_t stack_bytes, int detach, void *(*run)(void *), void *arg) {
  pthread_attr_t attr;
  if (pthread_attr_init(&attr) != 0) {
    return GORGE_ERR_SYSTEM;
  }
  long least = sysconf(_SC_THREAD_STACK_MIN);
  if (least > 0 && stack_bytes < (size_t)least) {
    stack_bytes = (size_t)least;
  }
  int failed = pthread_attr_setstacksize(&attr, stack_bytes);
  if (failed == 0) {
    failed = pthread_attr_setdetachstate(&attr, detach);
  }
  if (failed == 0) {
    failed = pthread_create(thread, &attr, run, arg);
  }
  pthread_attr_destroy(&attr);
  return failed == 0 ? GORGE_OK : GORGE_ERR_SYSTEM;
}

int gorge_thread_start(pthread_t *out, const char *name, size_t stack_bytes, void *(*run)(void *), void *arg) {
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (size_t i = 0; i < sizeof synchronous / sizeof synchronous[0]; i++) {
    sigdelset(&blocked, synchronous[i]);
  }
  /* The new thread inherits the mask; set here, there is no moment in which it could take a signal. */
  if (pthread_sigmask(SIG_SETMASK, &blocked, &before) != 0) {
    return GORGE_ERR_SYSTEM;
  }
  pthread_t thread;
  int status = start(&thread, stack_bytes, out == NULL ? PTHREAD_CREATE_DETACHED : PTHREAD_CREATE_JOINABLE, run, arg);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  if (status == GORGE_OK && out != NULL) {
    pthread_setname_np(thread, name);
    *out = thread;
  }
  return status;
}
