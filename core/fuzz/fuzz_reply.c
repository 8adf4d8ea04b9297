/* SPDX-License-Identifier: MIT */
/*
 * proto/reply.h. Input: a seed of where the stream is cut, then the stream. However it is cut, the same replies come out
 * and the same verdict; no reply is larger than allowed.
 */
#include <hiredis/hiredis.h>

#include "fuzz/fuzz.h"
#include "gorge.h"
#include "proto/reply.h"

enum { BYTES_MAX = 4096, ELEMENTS_MAX = 64 };

/* What came out of a parser: a hash over all replies, and how it ended. */
struct outcome {
  uint64_t hash, replies;
  int status;
};

static void mix(struct outcome *o, uint64_t value) { o->hash = (o->hash ^ value) * 0x100000001b3U; }

static void mix_reply(struct outcome *o, const struct redisReply *reply, uint64_t *bytes, uint64_t *elements) {
  mix(o, (uint64_t)reply->type);
  switch (reply->type) {
    case REDIS_REPLY_INTEGER: mix(o, (uint64_t)reply->integer); break;
    case REDIS_REPLY_STRING:
    case REDIS_REPLY_STATUS:
    case REDIS_REPLY_ERROR:
      mix(o, fuzz_touch(reply->str, (size_t)reply->len));
      *bytes += (uint64_t)reply->len;
      break;
    case REDIS_REPLY_ARRAY:
      mix(o, reply->elements);
      *elements += reply->elements;
      for (size_t i = 0; i < reply->elements; i++) {
        mix_reply(o, reply->element[i], bytes, elements);
      }
      break;
    default: break;
  }
}

/* Takes out what is whole. Returns GORGE_OK, or why nothing more will come. */
static int take_replies(struct gorge_reply_parser *p, struct outcome *o) {
  struct redisReply *reply;
  int status = gorge_reply_next(p, &reply);
  for (; status == GORGE_OK && reply != NULL; status = gorge_reply_next(p, &reply)) {
    uint64_t bytes = 0, elements = 0;
    mix_reply(o, reply, &bytes, &elements);
    FUZZ_CHECK(bytes <= BYTES_MAX && elements <= ELEMENTS_MAX);
    o->replies++;
    freeReplyObject(reply);
  }
  return status;
}

/* Takes what stands in place at ptr. Returns what it took. */
static size_t take_in_place(const struct gorge_reply_parser *p, struct outcome *o, const char *ptr, size_t len) {
  struct redisReply reply;
  size_t taken = gorge_reply_in_place(p, ptr, len, &reply);
  if (taken > 0) {
    uint64_t bytes = 0, elements = 0;
    FUZZ_CHECK(taken <= len && reply.type == REDIS_REPLY_STRING);
    mix_reply(o, &reply, &bytes, &elements);
    FUZZ_CHECK(bytes <= BYTES_MAX);
    o->replies++;
  }
  return taken;
}

/* Feeds the stream in pieces of 1..step bytes; step 0: in one. What can be is taken in place, if so wanted. */
static struct outcome parse(const char *ptr, size_t len, uint32_t step, uint64_t seed, bool in_place) {
  struct gorge_reply_parser p;
  struct outcome o = {.hash = 0xcbf29ce484222325U};
  FUZZ_CHECK(gorge_reply_init(&p, BYTES_MAX) == GORGE_OK);
  p.max_elements = ELEMENTS_MAX;
  while (len > 0 && o.status == GORGE_OK) {
    size_t piece = len, taken;
    if (step != 0) {
      seed = seed * 6364136223846793005U + 1442695040888963407U;
      piece = 1 + (seed >> 33) % step;
      piece = piece < len ? piece : len;
    }
    taken = in_place ? take_in_place(&p, &o, ptr, piece) : 0;
    if (taken > 0) {
      ptr += taken;
      len -= taken;
      continue;
    }
    o.status = gorge_reply_feed(&p, ptr, piece, &taken);
    FUZZ_CHECK(taken <= piece && (taken > 0 || o.status != GORGE_OK));
    int parsed = take_replies(&p, &o);
    o.status = parsed != GORGE_OK ? parsed : o.status;
    ptr += taken;
    len -= taken;
  }
  FUZZ_CHECK((p.error != NULL) == (o.status == GORGE_ERR_PROTOCOL));
  gorge_reply_fini(&p);
  return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input in = {data, size};
  uint64_t seed = fuzz_number(&in, 2);
  const char *stream = (const char *)in.ptr;
  struct outcome whole = parse(stream, in.len, 0, 0, false);
  struct outcome bytes = parse(stream, in.len, 1, seed, false);
  struct outcome pieces = parse(stream, in.len, 40, seed, true);
  struct outcome places = parse(stream, in.len, 0, 0, true);
  FUZZ_CHECK(whole.status == bytes.status && whole.replies == bytes.replies && whole.hash == bytes.hash);
  FUZZ_CHECK(whole.status == pieces.status && whole.replies == pieces.replies && whole.hash == pieces.hash);
  FUZZ_CHECK(whole.status == places.status && whole.replies == places.replies && whole.hash == places.hash);
  return 0;
}
