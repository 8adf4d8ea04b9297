/* SPDX-License-Identifier: MIT */
/*
 * proto/envelope.h. Input with an even first byte: an envelope as it might stand in Redis, to be read. With an odd one: kind, ttl,
 * tags and value to be sealed, read back the same, and refused after a change of any byte that the checksum covers.
 */
#include "fuzz/fuzz.h"
#include "gorge.h"
#include "proto/bytes.h"
#include "proto/envelope.h"

enum { SIZE_MAX_BYTES = 1 << 16 };

/* All that was decoded lies inside the bytes. */
static void check_inside(const struct gorge_envelope *e, const char *ptr, size_t len) {
  FUZZ_CHECK(e->ntags <= GORGE_TAGS_MAX && gorge_kind_for_redis(e->kind));
  FUZZ_CHECK(e->version >= 1 && e->version <= GORGE_VERSION_MAX && e->ttl_ms >= 1 && e->ttl_ms <= GORGE_TTL_MAX_MS);
  FUZZ_CHECK(e->life.stale_ms <= GORGE_TTL_MAX_MS && e->life.refresh_ms <= GORGE_TTL_MAX_MS);
  FUZZ_CHECK(e->value >= ptr && e->value + e->value_len == ptr + len);
  for (uint32_t i = 0; i < e->ntags; i++) {
    FUZZ_CHECK(e->tags[i].len >= 1 && e->tags[i].len <= GORGE_TAG_MAX);
    FUZZ_CHECK(e->tags[i].ptr > ptr && e->tags[i].ptr + e->tags[i].len <= e->value);
    (void)fuzz_touch(e->tags[i].ptr, e->tags[i].len);
  }
  (void)fuzz_touch(e->value, e->value_len);
}

static int decode(const char *ptr, size_t len) {
  struct gorge_envelope e;
  const char *error = NULL;
  int status = gorge_envelope_decode(&e, ptr, len, &error);
  if (status == GORGE_OK) {
    check_inside(&e, ptr, len);
  } else {
    FUZZ_CHECK(status == GORGE_ERR_PROTOCOL && error != NULL);
  }
  FUZZ_CHECK(gorge_envelope_peek_version(ptr, len) <= GORGE_VERSION_MAX);
  return status;
}

/* Puts together what the script would; returns its length, 0: not a valid value. */
static size_t build(struct fuzz_input *in, char *out, uint32_t *ntags) {
  struct gorge_l2_tag tags[GORGE_TAGS_MAX];
  struct gorge_seal seal;
  uint64_t version = fuzz_number(in, 6) + 1000, ttl_ms = fuzz_number(in, 5);
  uint32_t kind = (uint32_t)fuzz_number(in, 1) % 8, n = (uint32_t)fuzz_number(in, 1) % (GORGE_TAGS_MAX + 1);
  struct gorge_extra_life life = {fuzz_number(in, 5), fuzz_number(in, 5), fuzz_number(in, 3)};
  for (uint32_t i = 0; i < n; i++) {
    size_t len;
    tags[i].ptr = fuzz_bytes(in, fuzz_number(in, 1), &len);
    tags[i].len = (uint32_t)len;
  }
  const char *value = (const char *)in->ptr;
  uint32_t value_len = (uint32_t)(in->len < SIZE_MAX_BYTES / 2 ? in->len : SIZE_MAX_BYTES / 2);
  if (gorge_envelope_seal(&seal, kind, ttl_ms, &life, n, tags, value, value_len) != GORGE_OK) {
    return 0;
  }
  char *at = out;
  memcpy(at, seal.head, GORGE_ENVELOPE_HEAD);
  gorge_bytes_put64(at + 4, version);
  gorge_bytes_put64(at + 12, version / 1000);
  at += GORGE_ENVELOPE_FIXED;
  for (uint32_t i = 0; i < n; i++, at += 8) {
    gorge_bytes_put64(at, version * (i + 1));
  }
  memcpy(at, seal.bytes, seal.len);
  at += seal.len;
  memcpy(at, value, value_len);
  *ntags = n;
  return (size_t)(at - out) + value_len;
}

static void check_round(struct fuzz_input *in) {
  static char bytes[SIZE_MAX_BYTES];
  uint32_t ntags = 0;
  uint64_t where = fuzz_number(in, 2), change = fuzz_number(in, 1);
  size_t len = build(in, bytes, &ntags);
  if (len == 0) {
    return;
  }
  FUZZ_CHECK(decode(bytes, len) == GORGE_OK);
  where %= len;
  bool sealed = where < GORGE_ENVELOPE_HEAD || where >= GORGE_ENVELOPE_FIXED + 8U * ntags;
  bytes[where] = (char)(bytes[where] ^ (char)change);
  int status = decode(bytes, len);
  FUZZ_CHECK(!sealed || change == 0 || status != GORGE_OK);
  FUZZ_CHECK(decode(bytes, len - 1 - where) != GORGE_OK || change == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct fuzz_input in = {data, size};
  if (fuzz_number(&in, 1) % 2 == 0) {
    (void)decode((const char *)in.ptr, in.len);
  } else {
    check_round(&in);
  }
  return 0;
}
