/* SPDX-License-Identifier: MIT */
#include "proto/reply.h"

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <string.h>

#include "base/status.h"

enum {
  DEFAULT_MAX_BYTES = 64 << 20,
  MIN_ELEMENTS = 1024,
  ELEMENT_BYTES = 64,   /* what an element costs in memory at least, pointer and object */
  IN_PLACE_DIGITS = 9,  /* more than any buffer holds */
  FEED_BYTES = 8 * 1024 /* hiredis moves what is left in its buffer for each KiB it consumed: keep that short */
};

int gorge_reply_init(struct gorge_reply_parser *p, uint64_t max_bytes) {
  memset(p, 0, sizeof *p);
  p->max_bytes = max_bytes > 0 ? max_bytes : DEFAULT_MAX_BYTES;
  p->max_elements = p->max_bytes / ELEMENT_BYTES;
  if (p->max_elements < MIN_ELEMENTS) {
    p->max_elements = MIN_ELEMENTS;
  }
  p->reader = redisReaderCreate();
  return p->reader != NULL ? GORGE_OK : GORGE_ERR_MEMORY;
}

void gorge_reply_fini(struct gorge_reply_parser *p) {
  if (p->reader != NULL) {
    redisReaderFree(p->reader);
  }
  memset(p, 0, sizeof *p);
}

static int refuse(struct gorge_reply_parser *p, const char *why) {
  p->error = why;
  return GORGE_ERR_PROTOCOL;
}

/* The number in a header line "$12" or "*-1"; false when it is none. */
static bool header_number(const struct gorge_reply_parser *p, uint32_t line_len, int64_t *number) {
  uint32_t len = line_len - 3; /* without the type byte and CRLF */
  bool negative = len > 0 && p->digits[0] == '-';
  uint32_t i = negative ? 1 : 0;
  if (len <= i || len > 18) {
    return false;
  }
  int64_t n = 0;
  for (; i < len; i++) {
    if (p->digits[i] < '0' || p->digits[i] > '9') {
      return false;
    }
    n = n * 10 + (p->digits[i] - '0');
  }
  *number = negative ? -n : n;
  return true;
}

/* An item is whole, and with it each array whose last it was. */
static void close_item(struct gorge_reply_parser *p) {
  while (p->depth > 0 && --p->open[p->depth - 1] == 0) {
    p->depth--;
  }
}

/* A line is whole: account for what it announces. */
static int scan_line_end(struct gorge_reply_parser *p) {
  int64_t n = 0;
  uint32_t line_len = p->line_len;
  p->line_len = 0;
  if (p->type == '$' || p->type == '*') {
    if (!header_number(p, line_len, &n) || n < -1) {
      return refuse(p, "a length that is no number");
    }
    if (p->type == '$' && n >= 0) {
      if ((uint64_t)n > p->max_bytes || p->bytes + (uint64_t)n > p->max_bytes) {
        return refuse(p, "a reply larger than allowed");
      }
      p->bytes += (uint64_t)n;
      p->skip = (uint64_t)n + 2;
    } else if (p->type == '*' && n > 0) {
      if ((uint64_t)n > p->max_elements || p->elements + (uint64_t)n > p->max_elements) {
        return refuse(p, "an array of more elements than allowed");
      }
      if (p->depth > GORGE_REPLY_DEPTH_MAX) {
        return refuse(p, "arrays nested too deeply");
      }
      p->elements += (uint64_t)n;
      p->open[p->depth++] = (uint64_t)n;
      return GORGE_OK;
    }
  }
  close_item(p);
  return GORGE_OK;
}

static int scan_line_byte(struct gorge_reply_parser *p, char byte) {
  if (p->line_len == 0) {
    if (memchr("+-:$*", byte, 5) == NULL) {
      return refuse(p, "a byte that starts no reply");
    }
    if (p->depth == 0) {
      p->bytes = p->elements = 0;
      p->open[p->depth++] = 1;
    }
    p->type = byte;
    p->last = 0;
  } else if (p->line_len <= sizeof p->digits) {
    p->digits[p->line_len - 1] = byte;
  }
  if (++p->line_len > GORGE_REPLY_LINE_MAX || ++p->bytes > p->max_bytes) {
    return refuse(p, "a line longer than allowed");
  }
  if (p->last == '\r' && byte == '\n') {
    return scan_line_end(p);
  }
  p->last = byte;
  return GORGE_OK;
}

/* How many of the bytes hiredis may see: all, or those before the one that is refused. */
static size_t scan(struct gorge_reply_parser *p, const char *ptr, size_t len, int *status) {
  size_t at = 0;
  *status = GORGE_OK;
  while (at < len) {
    if (p->skip > 0) {
      size_t n = p->skip < len - at ? (size_t)p->skip : len - at;
      p->skip -= n;
      at += n;
      continue;
    }
    *status = scan_line_byte(p, ptr[at]);
    if (*status != GORGE_OK) {
      break;
    }
    at++;
  }
  return at;
}

int gorge_reply_feed(struct gorge_reply_parser *p, const char *ptr, size_t len, size_t *taken) {
  *taken = 0;
  if (p->error != NULL) {
    return GORGE_ERR_PROTOCOL;
  }
  if (len > FEED_BYTES) {
    len = FEED_BYTES;
  }
  int status;
  size_t good = scan(p, ptr, len, &status);
  if (good > 0 && redisReaderFeed(p->reader, ptr, good) != REDIS_OK) {
    p->error = "out of memory for a reply";
    return GORGE_ERR_MEMORY;
  }
  *taken = good;
  return status;
}

size_t gorge_reply_in_place(const struct gorge_reply_parser *p, const char *ptr, size_t len, struct redisReply *reply) {
  size_t n = 0, at = 1;
  if (p->error != NULL || p->depth > 0 || p->skip > 0 || len < 2 || ptr[0] != '$' || ptr[1] == '0') {
    return 0; /* an empty one, or what scan refuses */
  }
  for (; at < len && at <= IN_PLACE_DIGITS && ptr[at] >= '0' && ptr[at] <= '9'; at++) {
    n = n * 10 + (size_t)(ptr[at] - '0');
  }
  if (at == 1 || len - at < n + 4 || ptr[at] != '\r' || ptr[at + 1] != '\n' || at + 2 + n > p->max_bytes) {
    return 0;
  }
  *reply = (struct redisReply){.type = REDIS_REPLY_STRING};
  reply->str = (char *)(uintptr_t)(ptr + at + 2); /* const for who is shown the reply */
  reply->len = n;
  return at + n + 4;
}

int gorge_reply_next(struct gorge_reply_parser *p, struct redisReply **reply) {
  void *tree = NULL;
  *reply = NULL;
  if (redisReaderGetReply(p->reader, &tree) != REDIS_OK) {
    bool memory = p->reader->err == REDIS_ERR_OOM;
    p->error = memory ? "out of memory for a reply" : "a reply that cannot be parsed";
    return memory ? GORGE_ERR_MEMORY : GORGE_ERR_PROTOCOL;
  }
  *reply = tree;
  return GORGE_OK;
}
