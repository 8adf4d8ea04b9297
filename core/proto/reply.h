/* SPDX-License-Identifier: MIT */
/*
 * Parses what Redis sends (RESP2): bytes in, hiredis's reply trees out, nothing larger than allowed.
 *
 * hiredis's reader believes what a header says: it allocates an array of the announced size at once and buffers a bulk until it is whole.
 * So a scanner that knows only the framing runs ahead of it and stops at the first header that asks for too much.
 */
#ifndef GORGE_PROTO_REPLY_H
#define GORGE_PROTO_REPLY_H

#include <stddef.h>
#include <stdint.h>

struct redisReply;
struct redisReader;

enum {
  GORGE_REPLY_LINE_MAX = 64 * 1024, /* bytes in a line: statuses, errors, numbers */
  GORGE_REPLY_DEPTH_MAX = 7         /* arrays in arrays; hiredis 0.14 takes no more, later ones would recurse */
};

struct gorge_reply_parser {
  struct redisReader *reader;
  uint64_t max_bytes;    /* of one reply, all its parts together */
  uint64_t max_elements; /* of one reply, nested arrays included */
  const char *error;     /* static text of what was wrong, else NULL */
  /* scanner: where in the stream the next byte stands */
  uint64_t bytes, elements;                 /* of the reply under way, as announced so far */
  uint64_t open[GORGE_REPLY_DEPTH_MAX + 1]; /* items still to come: of the stream's reply, of the array in it, ... */
  uint32_t depth;                           /* levels of it in use; 0 between replies */
  uint64_t skip;                            /* bytes of a bulk, its CRLF included, still to come */
  uint32_t line_len; /* bytes of the line so far, type byte included; 0: at the start of an item */
  char type;
  char last; /* previous byte of the line, to find CRLF */
  char digits[24];
};

/* Returns GORGE_OK or GORGE_ERR_MEMORY. max_bytes 0: 64 MiB. */
int gorge_reply_init(struct gorge_reply_parser *p, uint64_t max_bytes);
void gorge_reply_fini(struct gorge_reply_parser *p);
/*
 * Takes bytes from the stream; *taken tells how many (at least one while nothing is wrong and len > 0). Take replies out by next before the next feed.
 * Returns GORGE_OK, GORGE_ERR_PROTOCOL or GORGE_ERR_MEMORY; after an error the replies before it can still be taken out, and no byte is accepted.
 */
int gorge_reply_feed(struct gorge_reply_parser *p, const char *ptr, size_t len, size_t *taken);
/*
 * Looks at what of the stream comes next. Is it a bulk string, whole, then *reply is that, standing at ptr: it owns nothing, and no NUL ends
 * it. Returns what it takes of the stream, to go on behind it, or 0: feed and next are for it.
 */
size_t gorge_reply_in_place(const struct gorge_reply_parser *p, const char *ptr, size_t len, struct redisReply *reply);
/* The next whole reply, the caller's, to be freed by freeReplyObject; NULL: none yet. Statuses as feed. */
int gorge_reply_next(struct gorge_reply_parser *p, struct redisReply **reply);

#endif
