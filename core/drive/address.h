/* SPDX-License-Identifier: MIT */
/*
 * Where Redis is: a unix path, a numeric address, a name, or wherever the sentinels say. Names are resolved by the system's resolver (so /etc/hosts
 * counts) on a thread of their own: neither an event loop nor the control thread waits for DNS.
 *
 * Every function may be called by any thread, and none blocks. After a fork the child may go on using an endpoint
 * of its parent: what a thread of the parent was doing with it at that moment is forgotten.
 */
#ifndef GORGE_DRIVE_ADDRESS_H
#define GORGE_DRIVE_ADDRESS_H

#include <netinet/in.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/status.h"

struct gorge_address {
  union {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
  } sa;
  socklen_t len;
  uint64_t place; /* of a master that sentinels name: what the connection is told by gorge_conn_towards; else 0 */
};

enum { GORGE_ADDRESS_TEXT = 128 }; /* bytes that suffice for the text of any address, its NUL included */

struct gorge_endpoint;

/*
 * path != NULL: a unix socket; else host (a name or a numeric IPv4 or IPv6 address, no brackets) and port. Strings are
 * copied. Returns NULL: out of memory, or a path that is empty or does not fit into a socket address, or no host.
 */
struct gorge_endpoint *gorge_endpoint_create(const char *host, uint16_t port, const char *path);
/* Wherever these words say (drive/master.h), which live as long as the process. NULL: out of memory. */
struct gorge_master_words;
struct gorge_endpoint *gorge_endpoint_of_master(const struct gorge_master_words *words);
/* NULL is allowed. A resolver thread that is still busy frees the rest when it ends. */
void gorge_endpoint_destroy(struct gorge_endpoint *e);
/*
 * The address to connect to now (now_ms: the caller's clock, the same for all callers). Returns
 *   GORGE_OK          *out is set
 *   GORGE_PENDING     a name is being resolved (at most one thread per endpoint), or the sentinels are being asked: ask again in some
 *                     milliseconds
 *   GORGE_ERR_SYSTEM  it could not be resolved, or the sentinels do not tell, *reason (may be NULL) tells why: static text; the first call after a
 *                     second starts a new attempt
 * Answers are used for 5 s; afterwards the old one is used while a new one is fetched, also when that fails.
 */
int gorge_endpoint_address(struct gorge_endpoint *e, uint64_t now_ms, struct gorge_address *out, const char **reason);
/* An address as text for a cosocket: "unix:/path" (port 0), "192.0.2.1", or "[2001:db8::1]". GORGE_OK, or GORGE_SPACE: `size` bytes are too few. */
int gorge_address_text(const struct gorge_address *address, char *host, size_t size, uint16_t *port);
/* Address and text in one. Also GORGE_SPACE. */
int gorge_endpoint_text(struct gorge_endpoint *e, uint64_t now_ms, char *host, size_t size, uint16_t *port,
                        const char **reason);
/*
 * A name may have several addresses of which some do not answer. Tells that `address` (NULL: the one handed out last)
 * could not be connected to, so that the next one is handed out from now on. Returns how many there are.
 */
uint32_t gorge_endpoint_failed(struct gorge_endpoint *e, const struct gorge_address *address);

#endif
