/* SPDX-License-Identifier: MIT */
/* Formats Redis commands: arguments in, RESP bytes out. */
#ifndef GORGE_PROTO_COMMAND_H
#define GORGE_PROTO_COMMAND_H

#include "base/buf.h"

enum {
  GORGE_COMMAND_ARGS_MAX = 1024,
  GORGE_COMMAND_BYTES_MAX = 1 << 30 /* of all arguments; Redis takes no more */
};

/*
 * Appends one command of argc arguments (any bytes) to `out`.
 * Returns GORGE_OK, GORGE_ERR_ARGUMENT (no argument, too many, too long) or GORGE_ERR_MEMORY; on failure `out` is as it was.
 */
int gorge_command_append(struct gorge_buf *out, int argc, const char *const *argv, const size_t *argv_len);

#endif
