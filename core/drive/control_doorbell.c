/* SPDX-License-Identifier: MIT */
/*
 * The doorbell: an eventfd, and for loops that can only connect a unix socket. The socket stands in a folder that
 * only this user may enter, for as long as nobody has connected.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "drive/control_internal.h"

struct place {
  int listener;
  char folder[sizeof((struct gorge_doorbell *)0)->folder];
  char path[sizeof((struct gorge_doorbell *)0)->path];
};

static void close_place(struct place *p) {
  close(p->listener);
  unlink(p->path);
  rmdir(p->folder);
}

static int listen_at(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  size_t len = strlen(path);
  if (len >= sizeof address.sun_path) {
    return -1;
  }
  memcpy(address.sun_path, path, len + 1);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) {
    return -1;
  }
  /* The mode of the descriptor is what bind gives the file: there is no moment with a wider one. */
  if (fchmod(fd, S_IRUSR | S_IWUSR) != 0 || bind(fd, (struct sockaddr *)&address, sizeof address) != 0 ||
      listen(fd, GORGE_PEERS) != 0) {
    close(fd);
    return -1;
  }
  return fd;
}

static bool open_place(const char *dir, struct place *p) {
  int len = snprintf(p->folder, sizeof p->folder, "%s/gorge-XXXXXX", dir);
  if (len < 0 || (size_t)len >= sizeof p->folder || mkdtemp(p->folder) == NULL) {
    return false;
  }
  snprintf(p->path, sizeof p->path, "%s/bell", p->folder);
  p->listener = listen_at(p->path);
  if (p->listener < 0) {
    unlink(p->path);
    rmdir(p->folder);
    return false;
  }
  return true;
}

static bool open_somewhere(const char *dir, struct place *p) {
  if (dir != NULL) {
    return open_place(dir, p);
  }
  const char *tmp = getenv("TMPDIR");
  return (tmp != NULL && tmp[0] == '/' && open_place(tmp, p)) || open_place("/tmp", p);
}

/* Mutex held. */
static int copy_path(const struct gorge_doorbell *d, char *path, size_t size) {
  int len = snprintf(path, size, "%s", d->path);
  return len >= 0 && (size_t)len < size ? GORGE_OK : GORGE_ERR_ARGUMENT;
}

int gorge_control_doorbell_path(struct gorge_control *c, const char *dir, char *path, size_t size) {
  if (!gorge_control_mine(c)) {
    return GORGE_ERR_CLOSED;
  }
  struct gorge_doorbell *d = &c->doorbell;
  pthread_mutex_lock(&c->mutex);
  bool known = d->listener >= 0;
  int status = known ? copy_path(d, path, size) : GORGE_OK;
  pthread_mutex_unlock(&c->mutex);
  struct place p = {.listener = -1};
  if (known) {
    return status;
  }
  if (!open_somewhere(dir, &p)) {
    return GORGE_ERR_SYSTEM;
  }
  pthread_mutex_lock(&c->mutex);
  bool late = d->listener >= 0;
  if (!late) {
    d->listener = p.listener;
    d->watched = false;
    memcpy(d->folder, p.folder, sizeof d->folder);
    memcpy(d->path, p.path, sizeof d->path);
  }
  status = copy_path(d, path, size);
  pthread_mutex_unlock(&c->mutex);
  if (late) {
    close_place(&p); /* another thread was faster */
  }
  gorge_control_poke(c);
  return status;
}

static void peer_close(struct gorge_peer *p) {
  if (p->fd >= 0) {
    ev_io_stop(p->control->loop, &p->readable);
    close(p->fd);
    p->fd = -1;
  }
}

/* A peer has nothing to say: what it sends is dropped, its end frees the place. */
static void on_peer(struct ev_loop *loop, ev_io *w, int events) {
  (void)loop;
  struct gorge_peer *p = w->data;
  char dropped[64];
  ssize_t n = recv(p->fd, dropped, sizeof dropped, 0);
  if ((events & EV_ERROR) != 0 || n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
    peer_close(p);
  }
}

static void peer_ring(struct gorge_peer *p) {
  /* A full buffer is a bell that rings already. */
  if (p->fd >= 0 && send(p->fd, "!", 1, MSG_NOSIGNAL) < 0 && errno != EAGAIN && errno != EINTR) {
    peer_close(p);
  }
}

int gorge_control_bell_fd(struct gorge_control *c) {
  if (!gorge_control_mine(c)) {
    return GORGE_ERR_CLOSED;
  }
  int fd = __atomic_load_n(&c->bell_fd, __ATOMIC_RELAXED); /* relaxed: this thread stored it */
  if (fd < 0) {
    fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC); /* rung once, for what came while nobody listened */
    if (fd < 0) {
      return GORGE_ERR_SYSTEM;
    }
    __atomic_store_n(&c->bell_fd, fd, __ATOMIC_RELEASE); /* partner: the load of the thread that rings */
  }
  return fd;
}

static void ring(int fd) {
  uint64_t one = 1;
  ssize_t n = write(fd, &one, sizeof one); /* a full counter is readable already */
  (void)n;
}

void gorge_doorbell_ring(struct gorge_control *c) {
  ring(c->notify_fd);
  int bell_fd = __atomic_load_n(&c->bell_fd, __ATOMIC_ACQUIRE); /* partner: the store in gorge_control_bell_fd */
  if (bell_fd >= 0) {
    ring(bell_fd);
  }
  for (int i = 0; i < GORGE_PEERS; i++) {
    peer_ring(&c->doorbell.peers[i]);
  }
}

static void peer_add(struct gorge_control *c, int fd) {
  struct gorge_doorbell *d = &c->doorbell;
  struct gorge_peer *p = NULL;
  for (int i = 0; i < GORGE_PEERS && p == NULL; i++) {
    p = d->peers[i].fd < 0 ? &d->peers[i] : NULL;
  }
  if (p == NULL) {
    p = &d->peers[d->next_peer++ % GORGE_PEERS];
    peer_close(p);
  }
  int small = 1; /* the kernel's minimum: a slow reader finds some bytes, not hundreds */
  setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
  p->fd = fd;
  ev_io_set(&p->readable, fd, EV_READ);
  ev_io_start(c->loop, &p->readable);
  peer_ring(p); /* for what came while nobody listened */
}

/* Takes the listener away, with its file and folder. */
static void end_place(struct gorge_control *c) {
  struct gorge_doorbell *d = &c->doorbell;
  struct place p;
  pthread_mutex_lock(&c->mutex);
  p.listener = d->listener;
  memcpy(p.folder, d->folder, sizeof p.folder);
  memcpy(p.path, d->path, sizeof p.path);
  d->listener = -1;
  pthread_mutex_unlock(&c->mutex);
  if (p.listener >= 0) {
    ev_io_stop(c->loop, &d->acceptable);
    close_place(&p);
  }
}

static void on_acceptable(struct ev_loop *loop, ev_io *w, int events) {
  (void)loop, (void)events;
  struct gorge_control *c = w->data;
  bool any = false;
  for (int i = 0; i < GORGE_PEERS; i++) {
    int fd = accept4(w->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
      any = true;
      peer_add(c, fd);
    } else if (errno != EINTR && errno != ECONNABORTED) {
      break;
    }
  }
  /* Without a peer (no descriptor left) the place ends as well: watching on would be a busy loop. */
  if (any || errno != EAGAIN) {
    end_place(c);
  }
}

void gorge_doorbell_init(struct gorge_control *c) {
  struct gorge_doorbell *d = &c->doorbell;
  d->listener = -1;
  ev_io_init(&d->acceptable, on_acceptable, -1, EV_READ);
  d->acceptable.data = c;
  for (int i = 0; i < GORGE_PEERS; i++) {
    d->peers[i].control = c;
    d->peers[i].fd = -1;
    ev_io_init(&d->peers[i].readable, on_peer, -1, EV_READ);
    d->peers[i].readable.data = &d->peers[i];
  }
}

void gorge_doorbell_command(struct gorge_control *c) {
  struct gorge_doorbell *d = &c->doorbell;
  pthread_mutex_lock(&c->mutex);
  int fresh = d->listener >= 0 && !d->watched ? d->listener : -1;
  d->watched = true;
  pthread_mutex_unlock(&c->mutex);
  if (fresh >= 0) {
    ev_io_set(&d->acceptable, fresh, EV_READ);
    ev_io_start(c->loop, &d->acceptable);
  }
}

void gorge_doorbell_fini(struct gorge_control *c) {
  end_place(c);
  for (int i = 0; i < GORGE_PEERS; i++) {
    peer_close(&c->doorbell.peers[i]);
  }
}
