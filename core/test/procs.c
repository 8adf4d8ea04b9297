/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "test/procs.h"
#include "test/seeds.h"

static bool in_child;

static void must(bool ok, const char *what) {
  if (!ok && in_child) {
    fprintf(stderr, "child %ld: %s: %s\n", (long)getpid(), what, strerror(errno));
    _exit(99);
  }
  if (!ok) {
    fail_msg("%s: %s", what, strerror(errno));
  }
}

void proc_complain(const char *file, int line, const char *condition) {
  fprintf(stderr, "%s:%d: in a child: %s\n", file, line, condition);
  _exit(98);
}

struct proc proc_start(int (*body)(struct proc *self, void *arg), void *arg) {
  int down[2], up[2];
  must(pipe2(down, O_CLOEXEC) == 0 && pipe2(up, O_CLOEXEC) == 0, "pipe");
  fflush(NULL);
  pid_t pid = fork();
  must(pid >= 0, "fork");
  if (pid == 0) {
    if (!in_child) {
      prctl(PR_SET_PDEATHSIG, SIGKILL); /* one that is stopped would survive a test that failed */
    }
    in_child = true;
    signal(SIGALRM, SIG_DFL);
    alarm(PROC_LIMIT_S);
    close(down[1]);
    close(up[0]);
    struct proc self = {.pid = getpid(), .in = down[0], .out = up[1]};
    _exit(body(&self, arg));
  }
  close(down[0]);
  close(up[1]);
  return (struct proc){.pid = pid, .in = up[0], .out = down[1]};
}

void proc_say(const struct proc *p, uint64_t word) {
  must(write(p->out, &word, sizeof word) == (ssize_t)sizeof word, "write to a pipe");
}

uint64_t proc_hear(const struct proc *p) {
  uint64_t word = 0;
  struct pollfd fd = {.fd = p->in, .events = POLLIN};
  int ready;
  do {
    ready = poll(&fd, 1, 30 * 1000);
  } while (ready < 0 && errno == EINTR);
  must(ready == 1, "wait for a word");
  must(read(fd.fd, &word, sizeof word) == (ssize_t)sizeof word, "read from a pipe");
  return word;
}

static int wait_for(struct proc *p, int flags) {
  int status;
  pid_t pid;
  do {
    pid = waitpid(p->pid, &status, flags);
  } while (pid < 0 && errno == EINTR);
  must(pid == p->pid, "waitpid");
  return status;
}

int proc_wait(struct proc *p) {
  int status = wait_for(p, 0);
  close(p->in);
  close(p->out);
  p->pid = -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}

void proc_kill(struct proc *p) {
  must(kill(p->pid, SIGKILL) == 0, "kill");
  proc_wait(p);
}

void proc_stop(struct proc *p) {
  must(kill(p->pid, SIGSTOP) == 0, "stop");
  must(WIFSTOPPED(wait_for(p, WUNTRACED)), "stopped");
}

void proc_continue(struct proc *p) { must(kill(p->pid, SIGCONT) == 0, "continue"); }

void *proc_shared(size_t size) {
  void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  must(at != MAP_FAILED, "mmap");
  return at;
}

struct gorge_zone *proc_zone(int (*init)(struct gorge_zone *)) {
  static int number;
  char name[32];
  struct gorge_zone *zone;
  int len = snprintf(name, sizeof name, "test %d", ++number);
  must(gorge_zone_open(name, (size_t)len, GORGE_ZONE_SIZE_MIN, 0, init, &zone, NULL) == GORGE_OK, "zone");
  seeds_set(zone, 1);
  return zone;
}

/* How long this thread has been kept waiting for a processor, in nanoseconds: the second number of schedstat. */
static uint64_t kept_waiting_ns(void) {
  char text[64];
  unsigned long long ran, waited;
  int fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
  if (fd >= 0) {
    close(fd);
  }
  text[n > 0 ? n : 0] = '\0';
  return sscanf(text, "%llu %llu", &ran, &waited) == 2 ? waited : 0;
}

uint64_t proc_own_us(void) {
  uint64_t waited, again = kept_waiting_ns(), now_us;
  do { /* both of one moment */
    waited = again;
    now_us = gorge_clock_us();
    again = kept_waiting_ns();
  } while (again != waited);
  return now_us - waited / 1000;
}

bool proc_await(const uint64_t *word, uint64_t value) {
  uint64_t start = gorge_clock_us();
  while (__atomic_load_n(word, __ATOMIC_ACQUIRE) < value) {
    if (gorge_clock_us() - start > 30 * 1000 * 1000) {
      return false;
    }
    usleep(100);
  }
  return true;
}
