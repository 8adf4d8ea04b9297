/* SPDX-License-Identifier: MIT */
#include "tls/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "tls/context.h"

enum { CHUNK = 16 << 10 /* the plaintext of a record */ };

struct gorge_tls {
  SSL_CTX *context;
  SSL *ssl;
  BIO *from_wire, *to_wire; /* of ssl */
  struct gorge_buf out;     /* what to_wire was given */
  bool heard;
  bool established;
  struct gorge_tls_peer peer;
  char reason[GORGE_TLS_REASON_MAX];
  char chunk[CHUNK];
};

/* Called when the server asks for a certificate. */
static int on_asked(SSL *ssl, void *arg) {
  (void)ssl;
  struct gorge_tls_peer *peer = arg;
  peer->asked = true;
  return 1;
}

/* What OpenSSL has to say goes into `out`. */
static int collect(struct gorge_tls *t) {
  size_t n;
  while (BIO_read_ex(t->to_wire, t->chunk, sizeof t->chunk, &n) == 1) {
    if (gorge_buf_append(&t->out, t->chunk, n) != GORGE_OK) {
      gorge_tls_say(t->reason, sizeof t->reason, "out of memory", NULL);
      return GORGE_ERR_MEMORY;
    }
  }
  return GORGE_OK;
}

/* What became of the last call on the session, which returned rc: GORGE_OK, or a failure whose reason is set. */
static int outcome(struct gorge_tls *t, int rc) {
  int error = SSL_get_error(t->ssl, rc), status = GORGE_OK;
  if (error == SSL_ERROR_ZERO_RETURN) {
    gorge_tls_say(t->reason, sizeof t->reason, "closed by the server", NULL);
    status = GORGE_ERR_CLOSED;
  } else if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_WRITE) {
    bool told = gorge_tls_explain(t->ssl, &t->peer, t->reason, sizeof t->reason);
    status = t->established && !told ? GORGE_ERR_PROTOCOL : GORGE_ERR_DOWN;
  }
  ERR_clear_error(); /* the queue is the thread's, and so the host's too */
  return status;
}

static int advance(struct gorge_tls *t) {
  ERR_clear_error();
  int rc = SSL_do_handshake(t->ssl);
  int status = outcome(t, rc);
  if (status == GORGE_OK) {
    t->established = rc == 1;
    status = collect(t);
  }
  return status;
}

static bool set_up(struct gorge_tls *t) {
  t->ssl = SSL_new(t->context);
  if (t->ssl == NULL) {
    return false;
  }
  t->from_wire = BIO_new(BIO_s_mem());
  t->to_wire = BIO_new(BIO_s_mem());
  if (t->from_wire == NULL || t->to_wire == NULL) {
    BIO_free(t->from_wire);
    BIO_free(t->to_wire);
    return false;
  }
  SSL_set_bio(t->ssl, t->from_wire, t->to_wire); /* they are the session's now */
  SSL_set_connect_state(t->ssl);
  SSL_set_cert_cb(t->ssl, on_asked, &t->peer);
  return gorge_tls_expect(t->ssl, &t->peer);
}

struct gorge_tls *gorge_tls_create(const struct gorge_tls_config *config, const char *host, char *reason, size_t size) {
  struct gorge_tls *t = malloc(sizeof *t);
  if (t == NULL) {
    gorge_tls_say(reason, size, "out of memory", NULL);
    return NULL;
  }
  memset(t, 0, offsetof(struct gorge_tls, chunk));
  gorge_buf_init(&t->out);
  t->peer.name = config->server_name != NULL ? config->server_name : host;
  t->peer.verify = config->verify;
  t->peer.certificate = config->cert != NULL;
  t->context = gorge_tls_context(config, reason, size);
  bool good = t->context != NULL;
  if (good && !set_up(t)) {
    gorge_tls_say(reason, size, "no session could be made", NULL);
    good = false;
  } else if (good && advance(t) != GORGE_OK) {
    gorge_tls_say(reason, size, t->reason, NULL);
    good = false;
  }
  ERR_clear_error();
  if (!good) {
    gorge_tls_destroy(t);
    return NULL;
  }
  return t;
}

void gorge_tls_destroy(struct gorge_tls *t) {
  if (t != NULL) {
    SSL_free(t->ssl);
    SSL_CTX_free(t->context);
    gorge_buf_fini(&t->out);
    explicit_bzero(t->chunk, sizeof t->chunk);
    free(t);
  }
}

/* A record begins with its type, of which there are four. */
static bool is_record(char first) { return first >= 20 && first <= 23; }

int gorge_tls_input(struct gorge_tls *t, const char *ptr, size_t len) {
  if (len > 0 && !t->heard) {
    t->heard = true;
    if (!is_record(ptr[0])) {
      gorge_tls_say(t->reason, sizeof t->reason, "the server does not speak TLS", NULL);
      return GORGE_ERR_DOWN;
    }
  }
  size_t taken;
  ERR_clear_error();
  if (len > 0 && (BIO_write_ex(t->from_wire, ptr, len, &taken) != 1 || taken != len)) {
    gorge_tls_say(t->reason, sizeof t->reason, "out of memory", NULL);
    ERR_clear_error();
    return GORGE_ERR_MEMORY;
  }
  return t->established ? GORGE_OK : advance(t);
}

bool gorge_tls_established(const struct gorge_tls *t) { return t->established; }

int gorge_tls_read(struct gorge_tls *t, const char **ptr, size_t *len) {
  *len = 0;
  *ptr = t->chunk;
  if (!t->established) {
    return GORGE_OK;
  }
  size_t n = 0;
  ERR_clear_error();
  int rc = SSL_read_ex(t->ssl, t->chunk, sizeof t->chunk, &n);
  if (rc == 1) {
    *len = n;
    return GORGE_OK; /* what reading gave rise to is collected when there is nothing more to read */
  }
  int status = outcome(t, rc);
  return status == GORGE_OK ? collect(t) : status;
}

int gorge_tls_write(struct gorge_tls *t, const char *ptr, size_t len) {
  size_t taken = 0;
  if (len == 0) {
    return GORGE_OK;
  }
  ERR_clear_error();
  /* Memory takes everything: it is written as a whole. */
  int rc = SSL_write_ex(t->ssl, ptr, len, &taken);
  int status = outcome(t, rc);
  if (status == GORGE_OK && taken != len) {
    gorge_tls_say(t->reason, sizeof t->reason, "written in part", NULL);
    status = GORGE_ERR_PROTOCOL;
  }
  return status == GORGE_OK ? collect(t) : status;
}

void gorge_tls_output(const struct gorge_tls *t, const char **ptr, size_t *len) {
  *len = gorge_buf_len(&t->out);
  *ptr = *len > 0 ? gorge_buf_ptr(&t->out) : "";
}

void gorge_tls_sent(struct gorge_tls *t, size_t len) { gorge_buf_consume(&t->out, len); }

const char *gorge_tls_reason(const struct gorge_tls *t) { return t->reason; }
