/* SPDX-License-Identifier: MIT */
#include "fault/step.h"

#include <elf.h>
#include <errno.h>
#include <link.h>
#include <linux/futex.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmocka.h>

enum {
  WAIT_S = 60,
  TRAP_FLAG = 0x100,
  REPEATS = 61, /* of the turns of one repeated instruction every so many are places */
  STACK_BYTES = 256 << 10
};

struct fault_control *fault_control_new(void) {
  struct fault_control *c = proc_shared(sizeof *c);
  assert_int_equal(sem_init(&c->halted, 1, 0) | sem_init(&c->go, 1, 0) | sem_init(&c->copy_go, 1, 0), 0);
  return c;
}

static bool await(sem_t *sem) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_sec += WAIT_S;
  while (sem_timedwait(sem, &until) != 0) {
    if (errno != EINTR) {
      return false;
    }
  }
  return true;
}

/* --- in the victim --- */

static struct fault_scene *scene;
static bool is_copy;
static uint64_t last_pc, turns, copy_steps;
static struct robust_list_head *robust;
/*
 * Where the kernel's own functions are that read the clock. No places: they write nothing but their result, and begin anew whenever
 * a tick of the clock comes between, as one always does where each instruction waits for a peer.
 */
static uint64_t vdso_from, vdso_to;

static void must_go(sem_t *sem) {
  if (!await(sem)) {
    _exit(97);
  }
}

static void note_mark(struct fault_control *c, const void *entry) {
  char *at = (char *)((uintptr_t)entry & ~(uintptr_t)1) + robust->futex_offset;
  const struct gorge_zone *zone = scene->l1.zone;
  if (at >= zone->base && at < zone->base + zone->size && c->nmarks < FAULT_MARKS_MAX) {
    c->mark[c->nmarks++] = (uint32_t *)(void *)at;
  }
}

/* Follows the list of robust mutexes as the kernel does when a thread dies. */
static void note_marks(struct fault_control *c) {
  const struct robust_list *pending = robust->list_op_pending, *entry = robust->list.next;
  c->nmarks = 0;
  for (int i = 0; entry != &robust->list && i < 2048; i++) {
    if (entry != pending) {
      note_mark(c, entry);
    }
    entry = ((const struct robust_list *)((uintptr_t)entry & ~(uintptr_t)1))->next;
  }
  if (pending != NULL) {
    note_mark(c, pending);
  }
}

static bool marks_unchanged(struct fault_control *c) {
  bool same = c->nmarks == c->old_nmarks && memcmp(c->mark, c->old_mark, c->nmarks * sizeof c->mark[0]) == 0;
  c->old_nmarks = c->nmarks;
  memcpy(c->old_mark, c->mark, sizeof c->mark);
  return same;
}

static bool planned(const struct fault_control *c) {
  const struct fault_plan *p = &c->plan;
  return c->place >= p->from && c->place <= p->to && (c->place - p->offset) % p->every == 0;
}

static bool to_halt(struct fault_control *c) {
  if (c->halt == FAULT_AT_END || !planned(c)) {
    return false;
  }
  note_marks(c);
  c->looked_at++;
  if (c->halt == FAULT_AT_PLACE) {
    return true;
  }
  bool same = marks_unchanged(c);
  return !fault_unchanged(scene) || !same;
}

/* Waits for orders. Returns false when no more steps are to be made. */
static bool obey(struct fault_control *c) {
  for (;;) {
    sem_post(&c->halted);
    must_go(&c->go);
    if (c->order == FAULT_STEP) {
      return true;
    }
    if (c->order == FAULT_RUN) {
      return false;
    }
    /* A sibling of this process, so that the peer can wait for it. No handlers of the C library: it may be in the middle of anything. */
    pid_t pid = (pid_t)syscall(SYS_clone, CLONE_PARENT | SIGCHLD, NULL, NULL, NULL, NULL);
    if (pid == 0) {
      is_copy = true;
      must_go(&c->copy_go);
      copy_steps = c->again;
      return copy_steps != 0;
    }
    c->copy = pid;
  }
}

static bool copy_on(struct fault_control *c) {
  if (--copy_steps > 0) {
    return true;
  }
  sem_post(&c->halted);
  must_go(&c->copy_go);
  return false;
}

#if defined(__x86_64__)

bool fault_can_step(void) { return true; }

static void on_trap(int sig, siginfo_t *info, void *context) {
  (void)sig;
  (void)info;
  ucontext_t *u = context;
  struct fault_control *c = scene->control;
  int error = errno;
  uint64_t pc = (uint64_t)u->uc_mcontext.gregs[REG_RIP];
  bool on = true;
  turns = pc == last_pc ? turns + 1 : 0;
  last_pc = pc;
  if (turns % REPEATS <= 1 && !(pc >= vdso_from && pc < vdso_to)) {
    if (is_copy) {
      on = copy_on(c);
    } else {
      c->place++;
      c->pc = pc;
      on = !to_halt(c) || obey(c);
    }
  }
  if (!on) {
    u->uc_mcontext.gregs[REG_EFL] &= ~(greg_t)TRAP_FLAG;
  }
  errno = error;
}

/* Beyond the red zone of the caller. */
#define SET_TRAP_FLAG                                                                                     \
  __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; orq $0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" :: \
                       : "memory", "cc")
#define CLEAR_TRAP_FLAG                                                                                     \
  __asm__ volatile("lea -128(%%rsp), %%rsp; pushfq; andq $~0x100, (%%rsp); popfq; lea 128(%%rsp), %%rsp" :: \
                       : "memory", "cc")

#else

bool fault_can_step(void) { return false; }
static void on_trap(int sig, siginfo_t *info, void *context) {
  (void)sig;
  (void)info;
  (void)context;
  (void)to_halt;
  (void)obey;
  (void)copy_on;
}
#define SET_TRAP_FLAG
#define CLEAR_TRAP_FLAG

#endif

static void find_vdso(void) {
  const ElfW(Ehdr) *elf = (const void *)getauxval(AT_SYSINFO_EHDR);
  if (elf != NULL) {
    const ElfW(Phdr) *part = (const void *)((const char *)elf + elf->e_phoff);
    vdso_from = vdso_to = (uint64_t)(uintptr_t)elf;
    for (int i = 0; i < elf->e_phnum; i++) {
      if (part[i].p_type == PT_LOAD && vdso_from + part[i].p_offset + part[i].p_memsz > vdso_to) {
        vdso_to = vdso_from + part[i].p_offset + part[i].p_memsz;
      }
    }
  }
}

static void catch_traps(void) {
  stack_t stack = {.ss_sp = malloc(STACK_BYTES), .ss_size = STACK_BYTES};
  struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  size_t size;
  CHILD_CHECK(stack.ss_sp != NULL && sigaltstack(&stack, NULL) == 0);
  CHILD_CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
  CHILD_CHECK(syscall(SYS_get_robust_list, 0, &robust, &size) == 0);
}

/* The victim, from begin to end. */
static _Noreturn void be_victim(struct fault_scene *s, const struct fault_op *op) {
  struct fault_control *c = s->control;
  struct fault_victim *v = calloc(1, sizeof *v);
  CHILD_CHECK(v != NULL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  scene = s;
  v->l1 = s->l1;
  v->fd = -1;
  if (op->ready != NULL) {
    op->ready(s, v);
  }
  *s->said = *v;
  find_vdso();
  catch_traps();
  note_marks(c);
  sem_post(&c->halted);
  must_go(&c->go);
  SET_TRAP_FLAG;
  op->act(s, v);
  CLEAR_TRAP_FLAG;
  v->ended = true;
  *s->said = *v;
  if (!is_copy) {
    note_marks(c);
    c->pc = 0;
    sem_post(&c->halted);
    must_go(&c->go);
  }
  _exit(0);
}

/* --- in the peer --- */

static void await_halt(struct fault_scene *s) {
  if (!await(&s->control->halted)) {
    fail_msg("the victim does not halt, after %llu instructions", (unsigned long long)s->control->place);
  }
}

static int reap(pid_t pid) {
  int status = -1;
  pid_t got;
  do {
    got = waitpid(pid, &status, 0);
  } while (got < 0 && errno == EINTR);
  assert_int_equal(got, pid);
  return status;
}

static void drain(sem_t *sem) {
  while (sem_trywait(sem) == 0) {
  }
}

void fault_start(struct fault_scene *s, const struct fault_op *op, enum fault_halt halt,
                 const struct fault_plan *plan) {
  struct fault_control *c = s->control;
  drain(&c->halted);
  drain(&c->go);
  drain(&c->copy_go);
  c->halt = halt;
  c->plan = *plan;
  c->place = c->looked_at = c->again = 0;
  fflush(NULL);
  pid_t pid = fork();
  assert_true(pid >= 0);
  if (pid == 0) {
    be_victim(s, op);
  }
  c->pid = pid;
  await_halt(s);
}

bool fault_next(struct fault_scene *s) {
  s->control->order = FAULT_STEP;
  sem_post(&s->control->go);
  await_halt(s);
  return !s->said->ended;
}

void fault_mark_dead(struct fault_scene *s) {
  struct fault_control *c = s->control;
  for (uint32_t i = 0; i < c->nmarks; i++) {
    c->word[i] = *c->mark[i];
    if ((c->word[i] & FUTEX_TID_MASK) == (uint32_t)c->pid) {
      *c->mark[i] = (c->word[i] & FUTEX_WAITERS) | FUTEX_OWNER_DIED;
    }
  }
}

void fault_unmark_dead(struct fault_scene *s) {
  struct fault_control *c = s->control;
  for (uint32_t i = c->nmarks; i > 0; i--) {
    *c->mark[i - 1] = c->word[i - 1];
  }
}

void fault_kill(struct fault_scene *s) {
  if (s->control->pid != 0) {
    assert_int_equal(kill(s->control->pid, SIGKILL), 0);
    reap(s->control->pid);
    s->control->pid = 0;
  }
}

void fault_double(struct fault_scene *s) {
  s->control->order = FAULT_DOUBLE;
  s->control->again = 0;
  sem_post(&s->control->go);
  await_halt(s);
  assert_true(s->control->copy > 0);
}

bool fault_copy_steps(struct fault_scene *s, uint64_t steps) {
  struct fault_control *c = s->control;
  c->again = steps;
  sem_post(&c->copy_go);
  for (int i = 0; i < WAIT_S * 1000; i++) {
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 1000 * 1000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (sem_timedwait(&c->halted, &until) == 0) {
      return true;
    }
    int status;
    if (waitpid(c->copy, &status, WNOHANG) == c->copy) {
      assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
      return false;
    }
  }
  fail_msg("a copy of the victim neither halts nor ends");
  return false;
}

void fault_copy_run(struct fault_scene *s) {
  sem_post(&s->control->copy_go);
  int status = reap(s->control->copy);
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void fault_run(struct fault_scene *s) {
  s->control->order = FAULT_RUN;
  sem_post(&s->control->go);
  await_halt(s);
  sem_post(&s->control->go);
  int status = reap(s->control->pid);
  s->control->pid = 0;
  assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
