/* SPDX-License-Identifier: MIT */
#include "proto/command.h"

#include <string.h>

#include "base/status.h"

enum { HEADER_MAX = 1 + 10 + 2, /* "$1073741824\r\n" */ TRAILER = 2 };

/* A header line: a type byte, a number, CRLF. Returns its end. */
static char *put_header(char *at, char type, size_t number) {
  char digits[20];
  size_t n = 0;
  *at++ = type;
  for (; number > 9; number /= 10) { /* most are short: a word's length, the number of words */
    digits[n++] = (char)('0' + number % 10);
  }
  *at++ = (char)('0' + number);
  while (n > 0) {
    *at++ = digits[--n];
  }
  *at++ = '\r';
  *at++ = '\n';
  return at;
}

/*
 * Not by hiredis, whose formatter allocates and prints by a format: that took a tenth of what a GET costs in C. What Redis sends back, which is
 * hostile in the worst case, is hiredis's to parse.
 */
int gorge_command_append(struct gorge_buf *out, int argc, const char *const *argv, const size_t *argv_len) {
  if (argc < 1 || argc > GORGE_COMMAND_ARGS_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  size_t total = 0;
  for (int i = 0; i < argc; i++) {
    if (argv_len[i] > GORGE_COMMAND_BYTES_MAX - total) {
      return GORGE_ERR_ARGUMENT;
    }
    total += argv_len[i];
  }
  int status = gorge_buf_reserve(out, total + HEADER_MAX + (size_t)argc * (HEADER_MAX + TRAILER));
  if (status != GORGE_OK) {
    return status;
  }
  char *at = put_header(out->data + out->end, '*', (size_t)argc);
  for (int i = 0; i < argc; i++) {
    at = put_header(at, '$', argv_len[i]);
    if (argv_len[i] > 0) {
      memcpy(at, argv[i], argv_len[i]);
      at += argv_len[i];
    }
    *at++ = '\r';
    *at++ = '\n';
  }
  out->end = (size_t)(at - out->data);
  return GORGE_OK;
}
