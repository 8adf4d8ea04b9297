/* SPDX-License-Identifier: MIT */
#include "test/ports.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

bool port_keep(struct kept_port *p) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t len = sizeof address;
  int on = 1;
  p->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool good = bind(p->fd, (struct sockaddr *)&address, sizeof address) == 0 &&
              getsockname(p->fd, (struct sockaddr *)&address, &len) == 0 &&
              /* only now: else it might share the port of another one that is kept */
              setsockopt(p->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) == 0;
  p->number = ntohs(address.sin_port);
  return good;
}

void port_let_go(struct kept_port *p) {
  close(p->fd);
  *p = (struct kept_port){.fd = -1};
}
