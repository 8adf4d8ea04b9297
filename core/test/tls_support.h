/* SPDX-License-Identifier: MIT */
/* Certificates of a test's own, and a TLS server in memory. Include after cmocka.h. */
#ifndef GORGE_TEST_TLS_SUPPORT_H
#define GORGE_TEST_TLS_SUPPORT_H

#include <openssl/ssl.h>

#include "tls/tls.h"

enum { TLS_PATH_MAX = 128 };

/* A folder with two CAs and certificates of the first one, each FILE.pem with its FILE.key. */
struct tls_files {
  char dir[64];
  char indexed[16]; /* a link to ca.pem, of a name by which OpenSSL finds a CA in a folder */
};
/*
 * ca, other (a CA of the same name with another key); server (DNS:redis.test, IP:127.0.0.1, IP:::1), wildcard
 * (DNS:*.redis.test), expired, future, stranger (of the other CA), client, and its key with a passphrase: locked.key.
 */
bool tls_files_make(struct tls_files *f);
void tls_files_remove(struct tls_files *f);
/* dir/file, good until the eighth call after. */
const char *tls_file(const struct tls_files *f, const char *file);

struct tls_server {
  SSL_CTX *context;
  SSL *ssl;
  BIO *in, *out;
};
/* name: of its certificate. client_ca: NULL, or the file of the CA whose clients alone it takes. */
void tls_server_open(struct tls_server *s, const struct tls_files *f, const char *name, const char *client_ca);
/* Instead of TLS 1.2 and newer. */
void tls_server_versions(struct tls_server *s, int least, int most);
void tls_server_close(struct tls_server *s);
/* What the server wants to send, at most size bytes. */
size_t tls_server_take(struct tls_server *s, char *ptr, size_t size);
/* Takes what the client has to send; the server goes on with its handshake. */
void tls_server_give(struct tls_server *s, struct gorge_tls *t);

/* Moves bytes both ways, `step` at a time to the client, until nothing moves or the client has failed; its status. */
int tls_exchange(struct tls_server *s, struct gorge_tls *t, size_t step);

#endif
