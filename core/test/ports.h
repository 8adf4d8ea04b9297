/* SPDX-License-Identifier: MIT */
/*
 * A TCP port of 127.0.0.1 that stays a test's own. One that was merely free a moment ago may be given to somebody else, or as the next free
 * one to the test itself, before a server listens there or while it is down.
 */
#ifndef GORGE_TEST_PORTS_H
#define GORGE_TEST_PORTS_H

#include <stdbool.h>
#include <stdint.h>

struct kept_port {
  int fd; /* bound and not listening: who connects is refused while no server is there */
  uint16_t number;
};

/* Only a server that sets SO_REUSEADDR, as Redis does, can listen there until it is let go. Returns success. */
bool port_keep(struct kept_port *p);
void port_let_go(struct kept_port *p);

#endif
