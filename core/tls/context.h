/* SPDX-License-Identifier: MIT */
/* What a session is made of, and what is said when it fails. Inside tls only. */
#ifndef GORGE_TLS_CONTEXT_H
#define GORGE_TLS_CONTEXT_H

#include <openssl/ssl.h>

#include "tls/tls.h"

/* The server as the session expects it, and what is known of it. */
struct gorge_tls_peer {
  const char *name; /* whom its certificate must be for */
  bool verify;
  bool certificate; /* we have one */
  bool asked;       /* it has asked for ours */
};

/* A context from the files as they are now; NULL: see reason. */
SSL_CTX *gorge_tls_context(const struct gorge_tls_config *config, char *reason, size_t size);
/* Tells the session whom to expect. Returns false when memory is short or the name is none. */
bool gorge_tls_expect(SSL *ssl, const struct gorge_tls_peer *peer);
/* Writes `what`, and ": " and `detail` if it is not NULL, as much as fits. `detail` may be a user's bytes: what is not printable ASCII becomes \xNN. */
void gorge_tls_say(char *reason, size_t size, const char *what, const char *detail);
/* Why the last call failed, from OpenSSL's queue of errors. Returns whether the server itself has told. */
bool gorge_tls_explain(const SSL *ssl, const struct gorge_tls_peer *peer, char *reason, size_t size);

#endif
