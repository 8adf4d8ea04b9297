/* SPDX-License-Identifier: MIT */
#include "tls/context.h"

#include <dirent.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Whole escapes only, as much as fits. */
static void append_escaped(char *out, size_t size, const char *text) {
  size_t at = strlen(out);
  for (; *text != '\0'; text++) {
    unsigned char byte = (unsigned char)*text;
    bool plain = byte >= 0x20 && byte < 0x7f;
    if (at + (plain ? 1 : 4) >= size) {
      break;
    }
    at += (size_t)snprintf(out + at, size - at, plain ? "%c" : "\\x%02x", byte);
  }
}

void gorge_tls_say(char *reason, size_t size, const char *what, const char *detail) {
  if (size > 0) {
    snprintf(reason, size, "%s%s", what, detail != NULL ? ": " : "");
    append_escaped(reason, size, detail != NULL ? detail : "");
  }
}

/* A passphrase would be asked for at the terminal: a server has none. */
static int no_passphrase(char *buf, int size, int writing, void *arg) {
  (void)buf, (void)size, (void)writing, (void)arg;
  return 0;
}

/* Says what is wrong with a file that OpenSSL did not take. Returns false. */
static bool refuse(const char *option, const char *path, const char *what, char *reason, size_t size) {
  char problem[GORGE_TLS_REASON_MAX], text[96];
  if (access(path, R_OK) != 0) {
    what = strerror_r(errno, text, sizeof text);
  }
  snprintf(problem, sizeof problem, "%s: %s", option, what);
  gorge_tls_say(reason, size, problem, path);
  return false;
}

/* Whether the folder finds a CA by its name, as the file names of c_rehash tell. */
static bool indexed(const char *path) {
  bool found = false;
  DIR *folder = opendir(path);
  for (struct dirent *e = NULL; folder != NULL && !found && (e = readdir(folder)) != NULL;) {
    found = strspn(e->d_name, "0123456789abcdef") == 8 && strcmp(e->d_name + 8, ".0") == 0;
  }
  if (folder != NULL) {
    closedir(folder);
  }
  return found;
}

/* Those of the system are hundreds: to read them all would hold the caller up for a tenth of a second. */
static bool load_system(SSL_CTX *context) {
  const char *folder = secure_getenv(X509_get_default_cert_dir_env());
  bool file = secure_getenv(X509_get_default_cert_file_env()) != NULL;
  if (!file && indexed(folder != NULL ? folder : X509_get_default_cert_dir())) {
    return SSL_CTX_set_default_verify_dir(context) == 1;
  }
  return SSL_CTX_set_default_verify_paths(context) == 1;
}

static bool load_ca(SSL_CTX *context, const char *path, char *reason, size_t size) {
  if (path == NULL) {
    if (load_system(context)) {
      return true;
    }
    gorge_tls_say(reason, size, "the system's CAs cannot be read", NULL);
    return false;
  }
  return SSL_CTX_load_verify_file(context, path) == 1 ||
         refuse("redis.tls.ca", path, "no certificates in PEM form", reason, size);
}

static bool load_own(SSL_CTX *context, const struct gorge_tls_config *config, char *reason, size_t size) {
  if (config->cert == NULL) {
    return true;
  }
  SSL_CTX_set_default_passwd_cb(context, no_passphrase);
  if (SSL_CTX_use_certificate_chain_file(context, config->cert) != 1) {
    return refuse("redis.tls.cert", config->cert, "no certificate in PEM form", reason, size);
  }
  if (config->key == NULL) {
    gorge_tls_say(reason, size, "redis.tls.key: needed with redis.tls.cert", NULL);
    return false;
  }
  if (SSL_CTX_use_PrivateKey_file(context, config->key, SSL_FILETYPE_PEM) == 1) {
    return true;
  }
  unsigned long error = ERR_peek_last_error();
  bool other = ERR_GET_LIB(error) == ERR_LIB_X509 && (ERR_GET_REASON(error) == X509_R_KEY_VALUES_MISMATCH ||
                                                      ERR_GET_REASON(error) == X509_R_KEY_TYPE_MISMATCH);
  return refuse("redis.tls.key", config->key,
                other ? "not the key of redis.tls.cert" : "no key in PEM form without a passphrase", reason, size);
}

/* nginx may have been linked with an OpenSSL of its own, which then serves the whole process. */
static bool library_fits(char *reason, size_t size) {
  if (OPENSSL_version_major() == OPENSSL_VERSION_MAJOR) {
    return true;
  }
  gorge_tls_say(reason, size, "this program brings another OpenSSL than libgorge was built with",
                OpenSSL_version(OPENSSL_VERSION));
  return false;
}

SSL_CTX *gorge_tls_context(const struct gorge_tls_config *config, char *reason, size_t size) {
  if (!library_fits(reason, size)) {
    return NULL;
  }
  ERR_clear_error();
  SSL_CTX *context = SSL_CTX_new(TLS_client_method());
  if (context == NULL || SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1) {
    gorge_tls_say(reason, size, "no context could be made", NULL);
    SSL_CTX_free(context);
    return NULL;
  }
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_verify(context, config->verify ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
  bool good =
      (!config->verify || load_ca(context, config->ca, reason, size)) && load_own(context, config, reason, size);
  ERR_clear_error();
  if (!good) {
    SSL_CTX_free(context);
    return NULL;
  }
  return context;
}

bool gorge_tls_check(const struct gorge_tls_config *config, char *reason, size_t size) {
  SSL_CTX *context = gorge_tls_context(config, reason, size);
  SSL_CTX_free(context);
  return context != NULL;
}

bool gorge_tls_expect(SSL *ssl, const struct gorge_tls_peer *peer) {
  X509_VERIFY_PARAM *param = SSL_get0_param(ssl);
  if (peer->name[0] == '\0' && !peer->verify) {
    return true; /* nothing to tell it, nothing to ask for */
  }
  ASN1_OCTET_STRING *address = a2i_IPADDRESS(peer->name);
  bool numeric = address != NULL;
  ASN1_OCTET_STRING_free(address);
  ERR_clear_error(); /* a name is no address, which is no error */
  if (!numeric && SSL_set_tlsext_host_name(ssl, peer->name) != 1) {
    return false;
  }
  if (!peer->verify) {
    return true;
  }
  X509_VERIFY_PARAM_set_hostflags(param, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return numeric ? X509_VERIFY_PARAM_set1_ip_asc(param, peer->name) == 1
                 : X509_VERIFY_PARAM_set1_host(param, peer->name, 0) == 1;
}

static void explain_certificate(long error, const struct gorge_tls_peer *peer, char *reason, size_t size) {
  const char *text = X509_verify_cert_error_string(error);
  switch (error) {
    case X509_V_ERR_CERT_HAS_EXPIRED: gorge_tls_say(reason, size, "the server's certificate has expired", NULL); break;
    case X509_V_ERR_CERT_NOT_YET_VALID:
      gorge_tls_say(reason, size, "the server's certificate is not valid yet", NULL);
      break;
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      gorge_tls_say(reason, size, "the server's certificate is for another name than", peer->name);
      break;
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE: /* another CA of the same name */
      gorge_tls_say(reason, size, "the server's certificate is from an unknown CA (redis.tls.ca)", text);
      break;
    default: gorge_tls_say(reason, size, "the server's certificate does not hold", text); break;
  }
}

/* What the server told before it hung up. */
static bool explain_alert(int alert, const struct gorge_tls_peer *peer, char *reason, size_t size) {
  switch (alert) {
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED: break;
    case SSL_R_SSLV3_ALERT_HANDSHAKE_FAILURE: /* TLS 1.2 has no better word for it */
      if (!peer->asked || peer->certificate) {
        return false;
      }
      break;
    case SSL_R_TLSV1_ALERT_DECRYPT_ERROR: /* the certificate is by another CA of that name, or not of that key */
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
      if (!peer->asked || !peer->certificate) {
        return false;
      }
      /* fall through */
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
      gorge_tls_say(reason, size, "Redis does not accept the client certificate (redis.tls.cert)",
                    ERR_reason_error_string(ERR_PACK(ERR_LIB_SSL, 0, alert)));
      return true;
    default: return false;
  }
  gorge_tls_say(reason, size, "Redis requires a client certificate (redis.tls.cert and redis.tls.key)", NULL);
  return true;
}

bool gorge_tls_explain(const SSL *ssl, const struct gorge_tls_peer *peer, char *reason, size_t size) {
  unsigned long error = ERR_peek_last_error(); /* those before tell what lies beneath */
  int why = ERR_GET_LIB(error) == ERR_LIB_SSL ? ERR_GET_REASON(error) : 0;
  const char *text = ERR_reason_error_string(error);
  bool told = why > SSL_AD_REASON_OFFSET; /* an alert */
  if (why == SSL_R_CERTIFICATE_VERIFY_FAILED) {
    explain_certificate(SSL_get_verify_result(ssl), peer, reason, size);
  } else if (why == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION || why == SSL_R_UNSUPPORTED_PROTOCOL ||
             why == SSL_R_WRONG_SSL_VERSION) {
    gorge_tls_say(reason, size, "the server speaks no TLS 1.2 or newer", text);
  } else if (!told || !explain_alert(why, peer, reason, size)) {
    gorge_tls_say(reason, size, text != NULL ? text : "failed", NULL);
  }
  return told;
}
