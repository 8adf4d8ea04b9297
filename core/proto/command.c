/* SPDX-License-Identifier: MIT */
#include "proto/command.h"

#include <hiredis/hiredis.h>

#include "base/status.h"

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
  sds bytes = NULL;
  /* hiredis reads the pointers only; its prototype lacks a const. */
  long long len = redisFormatSdsCommandArgv(&bytes, argc, (const char **)argv, argv_len);
  if (len < 0 || bytes == NULL) {
    return GORGE_ERR_MEMORY;
  }
  int status = gorge_buf_append(out, bytes, (size_t)len);
  redisFreeSdsCommand(bytes);
  return status;
}
