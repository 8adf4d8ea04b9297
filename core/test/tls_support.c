/* SPDX-License-Identifier: MIT */
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "test/tls_support.h"

enum { DAY = 86400 };

static const char *const names[] = {"ca", "other", "server", "wildcard", "expired", "future", "stranger", "client"};

const char *tls_file(const struct tls_files *f, const char *file) {
  static _Thread_local char ring[8][TLS_PATH_MAX];
  static _Thread_local int next;
  char *path = ring[next++ % 8];
  snprintf(path, TLS_PATH_MAX, "%s/%s", f->dir, file);
  return path;
}

static const char *named(const struct tls_files *f, const char *name, const char *kind) {
  char file[32];
  snprintf(file, sizeof file, "%s.%s", name, kind);
  return tls_file(f, file);
}

static bool write_pem(const struct tls_files *f, const char *name, X509 *cert, EVP_PKEY *key, const char *passphrase) {
  bool good = true;
  if (cert != NULL) {
    FILE *file = fopen(named(f, name, "pem"), "w");
    good = file != NULL && PEM_write_X509(file, cert) == 1 && fclose(file) == 0;
  }
  FILE *file = fopen(named(f, name, "key"), "w");
  return good && file != NULL &&
         PEM_write_PrivateKey(file, key, passphrase != NULL ? EVP_aes_128_cbc() : NULL,
                              (const unsigned char *)passphrase, passphrase != NULL ? (int)strlen(passphrase) : 0, NULL,
                              NULL) == 1 &&
         fclose(file) == 0;
}

static void extend(X509 *cert, X509 *issuer, int nid, const char *value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
  X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
  if (extension != NULL) {
    X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
  }
}

/* issuer NULL: of itself, a CA. Valid for a day around now, shifted by `days`. */
static X509 *certify(const char *subject, const char *alt, int days, EVP_PKEY *key, X509 *issuer,
                     EVP_PKEY *issuer_key) {
  static long serial = 1;
  X509 *cert = X509_new();
  X509_NAME *name = X509_get_subject_name(cert);
  X509_set_version(cert, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(cert), serial++);
  X509_gmtime_adj(X509_getm_notBefore(cert), (days - 1) * (long)DAY);
  X509_gmtime_adj(X509_getm_notAfter(cert), (days + 1) * (long)DAY);
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)subject, -1, -1, 0);
  X509_set_issuer_name(cert, issuer != NULL ? X509_get_subject_name(issuer) : name);
  X509_set_pubkey(cert, key);
  if (issuer == NULL) {
    extend(cert, cert, NID_basic_constraints, "critical,CA:TRUE");
    extend(cert, cert, NID_key_usage, "critical,keyCertSign");
  }
  if (alt != NULL) {
    extend(cert, issuer, NID_subject_alt_name, alt);
  }
  X509_sign(cert, issuer != NULL ? issuer_key : key, EVP_sha256());
  return cert;
}

static bool issue(const struct tls_files *f, const char *name, const char *alt, int days, X509 *issuer,
                  EVP_PKEY *with) {
  EVP_PKEY *key = EVP_EC_gen("P-256");
  X509 *cert = certify(name, alt, days, key, issuer, with);
  bool good = write_pem(f, name, cert, key, NULL);
  if (strcmp(name, "client") == 0) {
    good = good && write_pem(f, "locked", NULL, key, "a passphrase");
  }
  X509_free(cert);
  EVP_PKEY_free(key);
  return good;
}

bool tls_files_make(struct tls_files *f) {
  static const char alt[] = "DNS:redis.test,IP:127.0.0.1,IP:::1";
  snprintf(f->dir, sizeof f->dir, "/tmp/gorge-test-XXXXXX");
  if (mkdtemp(f->dir) == NULL) {
    return false;
  }
  EVP_PKEY *key = EVP_EC_gen("P-256"), *other_key = EVP_EC_gen("P-256");
  X509 *ca = certify("a CA", NULL, 0, key, NULL, NULL), *other = certify("a CA", NULL, 0, other_key, NULL, NULL);
  bool good = write_pem(f, "ca", ca, key, NULL) && write_pem(f, "other", other, other_key, NULL) &&
              issue(f, "server", alt, 0, ca, key) && issue(f, "wildcard", "DNS:*.redis.test", 0, ca, key) &&
              issue(f, "expired", alt, -3, ca, key) && issue(f, "future", alt, 3, ca, key) &&
              issue(f, "stranger", alt, 0, other, other_key) && issue(f, "client", NULL, 0, ca, key);
  snprintf(f->indexed, sizeof f->indexed, "%08lx.0", X509_subject_name_hash(ca));
  good = good && symlink("ca.pem", tls_file(f, f->indexed)) == 0;
  X509_free(ca);
  X509_free(other);
  EVP_PKEY_free(key);
  EVP_PKEY_free(other_key);
  return good;
}

void tls_files_remove(struct tls_files *f) {
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    unlink(named(f, names[i], "pem"));
    unlink(named(f, names[i], "key"));
  }
  unlink(tls_file(f, "locked.key"));
  unlink(tls_file(f, f->indexed));
  rmdir(f->dir);
}

void tls_server_open(struct tls_server *s, const struct tls_files *f, const char *name, const char *client_ca) {
  s->context = SSL_CTX_new(TLS_server_method());
  assert_non_null(s->context);
  assert_int_equal(SSL_CTX_use_certificate_chain_file(s->context, named(f, name, "pem")), 1);
  assert_int_equal(SSL_CTX_use_PrivateKey_file(s->context, named(f, name, "key"), SSL_FILETYPE_PEM), 1);
  if (client_ca != NULL) {
    assert_int_equal(SSL_CTX_load_verify_file(s->context, client_ca), 1);
    SSL_CTX_set_verify(s->context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
  }
  s->ssl = SSL_new(s->context);
  s->in = BIO_new(BIO_s_mem());
  s->out = BIO_new(BIO_s_mem());
  SSL_set_bio(s->ssl, s->in, s->out);
  SSL_set_accept_state(s->ssl);
}

void tls_server_versions(struct tls_server *s, int least, int most) {
  SSL_set_security_level(s->ssl, 0); /* old versions are not to be had otherwise */
  assert_int_equal(SSL_set_min_proto_version(s->ssl, least), 1);
  assert_int_equal(SSL_set_max_proto_version(s->ssl, most), 1);
}

void tls_server_close(struct tls_server *s) {
  SSL_free(s->ssl);
  SSL_CTX_free(s->context);
  *s = (struct tls_server){0};
}

size_t tls_server_take(struct tls_server *s, char *ptr, size_t size) {
  size_t n = 0;
  BIO_read_ex(s->out, ptr, size, &n);
  return n;
}

void tls_server_give(struct tls_server *s, struct gorge_tls *t) {
  const char *ptr;
  size_t len, taken;
  gorge_tls_output(t, &ptr, &len);
  if (len > 0) {
    assert_int_equal(BIO_write_ex(s->in, ptr, len, &taken), 1);
    gorge_tls_sent(t, len);
  }
  if (!SSL_is_init_finished(s->ssl)) {
    SSL_do_handshake(s->ssl);
  }
  ERR_clear_error();
}

int tls_exchange(struct tls_server *s, struct gorge_tls *t, size_t step) {
  char bytes[4096];
  int status = GORGE_OK;
  const char *ptr;
  size_t n, len;
  do {
    tls_server_give(s, t);
    n = tls_server_take(s, bytes, step < sizeof bytes ? step : sizeof bytes);
    if (n > 0) {
      status = gorge_tls_input(t, bytes, n);
    }
    gorge_tls_output(t, &ptr, &len);
  } while (status == GORGE_OK && (n > 0 || len > 0));
  return status;
}
