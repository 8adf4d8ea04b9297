/* SPDX-License-Identifier: MIT */
#include "test/drive_support.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

uint64_t support_now_us(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (uint64_t)ts.tv_sec * 1000000U + (uint64_t)ts.tv_nsec / 1000U;
}

void support_nap(void) { nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL); }

int support_count(const char *folder) {
  int n = 0;
  DIR *d = opendir(folder);
  if (d == NULL) {
    return -1;
  }
  for (struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
    n += e->d_name[0] != '.';
  }
  closedir(d);
  return n;
}

static void *write_own_folder(void *arg) {
  snprintf(arg, 64, "/proc/self/task/%d", (int)gettid());
  return NULL;
}

int support_tasks(void) {
  char folder[64];
  pthread_t first; /* brings up what a sanitizer runs besides the threads of the program */
  if (pthread_create(&first, NULL, write_own_folder, folder) == 0) {
    pthread_join(first, NULL);
    (void)WAIT_UNTIL(access(folder, F_OK) != 0); /* the kernel lists it a little longer */
  }
  return support_count("/proc/self/task");
}

static int connect_to(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  struct timeval patience = {.tv_sec = 20};
  snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
    close(fd);
    return -1;
  }
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  return fd;
}

bool support_redis_command(const struct support_redis *r, const char *command, char *answer, int size) {
  char line[256];
  int fd = connect_to(r->path);
  if (fd < 0) {
    return false;
  }
  int len = snprintf(line, sizeof line, "%s\r\n", command);
  ssize_t n = send(fd, line, (size_t)len, MSG_NOSIGNAL) == len ? recv(fd, answer, (size_t)size - 1, 0) : -1;
  close(fd);
  answer[n > 0 ? n : 0] = '\0';
  return n > 0;
}

static void run_server(const struct support_redis *r, pid_t parent) {
  int null = open("/dev/null", O_RDWR);
  prctl(PR_SET_PDEATHSIG, SIGKILL); /* a test that crashes leaves no server */
  if (null < 0 || getppid() != parent) {
    _exit(126);
  }
  dup2(null, 0);
  dup2(null, 1);
  dup2(null, 2);
  const char *server = getenv("REDIS_SERVER");
  const char *argv[32] = {server != NULL ? server : "redis-server",
                          "--port",
                          "0",
                          "--unixsocket",
                          r->path,
                          "--save",
                          "",
                          "--appendonly",
                          "no",
                          "--dir",
                          r->dir,
                          "--daemonize",
                          "no"};
  for (int i = 0, n = 13; r->options != NULL && r->options[i] != NULL && n < 31; i++) {
    argv[n++] = r->options[i];
  }
  execvp(argv[0], (char *const *)argv);
  _exit(127);
}

static bool launch(struct support_redis *r) {
  char answer[16];
  pid_t parent = getpid();
  r->pid = fork();
  if (r->pid == 0) {
    run_server(r, parent);
  }
  return r->pid > 0 && WAIT_UNTIL(support_redis_command(r, "PING", answer, sizeof answer)) &&
         strncmp(answer, "+PONG", 5) == 0;
}

bool support_redis_start(struct support_redis *r) {
  snprintf(r->dir, sizeof r->dir, "/tmp/gorge-test-XXXXXX");
  if (mkdtemp(r->dir) == NULL) {
    return false;
  }
  snprintf(r->path, sizeof r->path, "%s/redis.sock", r->dir);
  return launch(r);
}

void support_redis_kill(struct support_redis *r) {
  if (r->pid > 0) {
    kill(r->pid, SIGKILL);
    waitpid(r->pid, NULL, 0);
    r->pid = 0;
  }
  unlink(r->path);
}

bool support_redis_restart(struct support_redis *r) {
  support_redis_kill(r);
  return launch(r);
}

void support_redis_stop(struct support_redis *r) {
  support_redis_kill(r);
  rmdir(r->dir);
}
