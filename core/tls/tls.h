/* SPDX-License-Identifier: MIT */
/*
 * The client's side of TLS, by OpenSSL, on bytes: what came from the wire goes in, what is to be sent comes out. It owns
 * no socket and never waits, so that every driver moves ciphertext without knowing.
 *
 * TLS 1.2 or newer, no renegotiation. Each session has a context of its own, made from the files as they are then: a
 * renewed certificate is used from the next connection on, and nothing is shared between threads or over a fork.
 *
 *      wire --input--> [ session ] --read--> plaintext
 *      wire <-output-- [         ] <-write-- plaintext
 *
 * One thread per session. Reads files and the clock (a certificate has a beginning and an end); does not block otherwise.
 */
#ifndef GORGE_TLS_TLS_H
#define GORGE_TLS_TLS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

enum { GORGE_TLS_REASON_MAX = 160 };

/* All strings are NUL-terminated and the caller's, and outlive the sessions. */
struct gorge_tls_config {
  const char *ca;          /* PEM file of the CAs to trust; NULL: those of the system */
  const char *cert;        /* PEM file of the client's certificate and what leads to its CA; NULL: none */
  const char *key;         /* PEM file of its key, without a passphrase; with cert only */
  const char *server_name; /* name or address that the server's certificate must be for; NULL: that of the host */
  bool verify;             /* false: any certificate will do */
};

struct gorge_tls;

/*
 * Whether files and library will do; on false `reason` (may be NULL when size is 0) tells what will not. Makes OpenSSL
 * ready for this process.
 */
bool gorge_tls_check(const struct gorge_tls_config *config, char *reason, size_t size);
/*
 * A session with `host` (a name or a numeric address; "": not known, which will do when nothing is verified; outlives it),
 * whose first bytes are there to be sent. NULL: see reason.
 */
struct gorge_tls *gorge_tls_create(const struct gorge_tls_config *config, const char *host, char *reason, size_t size);
/* NULL is fine. Says nothing to the server. */
void gorge_tls_destroy(struct gorge_tls *t);

/*
 * Bytes from the wire. Returns GORGE_OK; GORGE_ERR_DOWN: no agreement could be reached, or the server gave it up;
 * GORGE_ERR_PROTOCOL: what came later is not of this session; GORGE_ERR_CLOSED: the server has said that it ends; or
 * GORGE_ERR_MEMORY. After a failure, of read and write as well, the session is of no use.
 */
int gorge_tls_input(struct gorge_tls *t, const char *ptr, size_t len);
/* Whether both sides have agreed, and the server has been verified: before that nothing can be read or written. */
bool gorge_tls_established(const struct gorge_tls *t);
/* The next bytes received; *len 0: none now. The pointer is good until the next call. Fails as input does. */
int gorge_tls_read(struct gorge_tls *t, const char **ptr, size_t *len);
/* Takes bytes to be sent, all of them or none. Fails as input does. */
int gorge_tls_write(struct gorge_tls *t, const char *ptr, size_t len);
/* Bytes for the wire; *len 0: none. The pointer is good until the next call but this one. */
void gorge_tls_output(const struct gorge_tls *t, const char **ptr, size_t *len);
void gorge_tls_sent(struct gorge_tls *t, size_t len);
/* Why it failed, for people; "" before. Good for the life of the session. */
const char *gorge_tls_reason(const struct gorge_tls *t);

#endif
