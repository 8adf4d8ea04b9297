/* SPDX-License-Identifier: MIT */
/* Drives a gorge_conn with bytes written in a test, on a clock the test steps. Include it after cmocka.h's own includes. */
#ifndef GORGE_TEST_WIRE_H
#define GORGE_TEST_WIRE_H

#include <stddef.h>
#include <stdint.h>

#include "io/conn.h"

/* A command that remembers how it ended. */
struct wire_command {
  struct gorge_command command; /* first: done finds the rest */
  int calls;
  int status;
  char text[256]; /* of a string, status or error; of an integer its digits */
  uint64_t at_ms;
  void (*then)(struct wire_command *w, uint64_t now_ms); /* called at the end of done; NULL: nothing */
  struct gorge_conn *conn;
  struct wire_command *other;
  int order; /* how many had ended before, over all commands since wire_reset */
};

extern int wire_order;

void wire_init(struct wire_command *w);
/* Submits words separated by blanks. */
int wire_submit(struct gorge_conn *c, struct wire_command *w, const char *words, uint64_t now_ms);

/* Everything to be sent, with CR LF written "|" and NUL "~", NUL-terminated; taken as sent. Good until the next call. */
const char *wire_take(struct gorge_conn *c);
/* What `words` looks like in wire_take's form. Up to four results are good at a time. */
const char *wire_format(const char *words);
/* Feeds bytes, "|" standing for CR LF. */
int wire_feed(struct gorge_conn *c, const char *text, uint64_t now_ms);

/* Connects and answers the handshake of a connection without password and database. */
void wire_ready(struct gorge_conn *c, uint64_t now_ms);

/* A growing string of replies with any bytes. */
struct wire_text {
  char *ptr;
  size_t len, size;
};
void wire_add(struct wire_text *t, const void *ptr, size_t len);
void wire_addf(struct wire_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void wire_bulk(struct wire_text *t, const void *ptr, size_t len);
void wire_free(struct wire_text *t);

/* A deterministic random number; *state is the seed. */
uint64_t wire_random(uint64_t *state);

#endif
