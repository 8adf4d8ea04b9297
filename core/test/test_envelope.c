/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/hash.h"
#include "proto/envelope.h"
#include "test/wire.h"

enum { VERSION_OFFSET = 4, ENDS_OFFSET = 12 };
#define VERSION ((uint64_t)1800000000123456)
#define ENDS ((uint64_t)1800000000123)

static void put64(char *out, uint64_t v) {
  for (int i = 0; i < 8; i++) {
    out[i] = (char)(v >> (56 - 8 * i));
  }
}

/* Head, what a script puts in, seal and value, the way the scripts do it; to be freed. */
static char *assemble(const struct gorge_seal *seal, uint32_t ntags, const uint64_t *nonces, const char *value,
                      size_t value_len, size_t *len) {
  *len = 20 + 8 * (size_t)ntags + seal->len + value_len;
  char *out = malloc(*len); /* exactly: a sanitizer sees a read beyond it */
  memcpy(out, seal->head, 4);
  put64(out + VERSION_OFFSET, VERSION);
  put64(out + ENDS_OFFSET, ENDS);
  for (uint32_t i = 0; i < ntags; i++) {
    put64(out + 20 + 8 * (size_t)i, nonces[i]);
  }
  memcpy(out + 20 + 8 * (size_t)ntags, seal->bytes, seal->len);
  if (value_len > 0) {
    memcpy(out + *len - value_len, value, value_len);
  }
  return out;
}

static const struct gorge_l2_tag two_tags[] = {{"package", 7}, {"s\0x", 3}};
static const uint64_t two_nonces[] = {0x1122334455667788, UINT64_MAX};

static char *sample(size_t *len) {
  struct gorge_seal seal;
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_JSON, 60000, NULL, 2, two_tags, "{\"a\":1}", 7), GORGE_OK);
  return assemble(&seal, 2, two_nonces, "{\"a\":1}", 7, len);
}

static void test_round_trip(void **state) {
  (void)state;
  size_t len;
  char *bytes = sample(&len);
  struct gorge_envelope e;
  const char *error = NULL;
  assert_int_equal(gorge_envelope_decode(&e, bytes, len, &error), GORGE_OK);
  assert_true(e.version == VERSION);
  assert_true(e.ends_ms == ENDS);
  assert_int_equal(e.ttl_ms, 60000);
  assert_int_equal(e.kind, GORGE_KIND_JSON);
  assert_int_equal(e.ntags, 2);
  for (int i = 0; i < 2; i++) {
    assert_int_equal(e.tags[i].len, two_tags[i].len);
    assert_memory_equal(e.tags[i].ptr, two_tags[i].ptr, two_tags[i].len);
    assert_true(e.nonces[i] == two_nonces[i]);
  }
  assert_int_equal(e.value_len, 7);
  assert_memory_equal(e.value, "{\"a\":1}", 7);
  assert_true(gorge_envelope_peek_version(bytes, len) == VERSION);
  free(bytes);
}

/* The bytes themselves: other versions and other machines read them. */
static void test_layout_is_fixed(void **state) {
  (void)state;
  size_t len;
  char *bytes = sample(&len);
  static const char head[] =
      "G\1\2\4"
      "\x00\x06\x65\x18\x2a\x3c\x52\x40"
      "\x00\x00\x01\xa3\x18\x55\x88\x7b"
      "\x11\x22\x33\x44\x55\x66\x77\x88\xff\xff\xff\xff\xff\xff\xff\xff";
  static const char tail[] = "\x00\x00\x00\x00\x00\x00\xea\x60\x07package\x03s\0x{\"a\":1}";
  uint64_t version = VERSION;
  char number[8];
  put64(number, version);
  assert_memory_equal(bytes, head, 4);
  assert_memory_equal(bytes + 4, number, 8);
  assert_memory_equal(bytes + 20, head + 20, 16);
  assert_int_equal(len, 36 + 8 + sizeof tail - 1);
  assert_memory_equal(bytes + 44, tail, sizeof tail - 1);
  /* checksum = XXH3-64(value, seed = XXH3-64(ttl and tags, seed = head)) */
  uint64_t seed = gorge_hash(bytes + 44, sizeof tail - 1 - 7, 0x47010204);
  put64(number, gorge_hash("{\"a\":1}", 7, seed));
  assert_memory_equal(bytes + 36, number, 8);
  free(bytes);
}

static void test_extremes_round_trip(void **state) {
  (void)state;
  struct gorge_l2_tag tags[GORGE_TAGS_MAX];
  uint64_t nonces[GORGE_TAGS_MAX];
  char name[GORGE_TAG_MAX];
  memset(name, 't', sizeof name);
  for (uint32_t i = 0; i < GORGE_TAGS_MAX; i++) {
    tags[i] = (struct gorge_l2_tag){name, i == 0 ? 1 : GORGE_TAG_MAX - i};
    nonces[i] = i + 1;
  }
  struct gorge_seal seal;
  struct gorge_envelope e;
  const char *error;
  size_t len;
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_NIL, UINT64_MAX, NULL, GORGE_TAGS_MAX, tags, NULL, 0),
                   GORGE_OK);
  char *bytes = assemble(&seal, GORGE_TAGS_MAX, nonces, NULL, 0, &len);
  assert_int_equal(gorge_envelope_decode(&e, bytes, len, &error), GORGE_OK);
  assert_int_equal(e.ntags, GORGE_TAGS_MAX);
  assert_int_equal(e.value_len, 0);
  assert_true(e.ttl_ms == GORGE_TTL_MAX_MS);
  free(bytes);
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_STRING, 1, NULL, 0, NULL, "", 0), GORGE_OK);
  bytes = assemble(&seal, 0, NULL, NULL, 0, &len);
  assert_int_equal(len, GORGE_ENVELOPE_MIN);
  assert_int_equal(gorge_envelope_decode(&e, bytes, len, &error), GORGE_OK);
  free(bytes);
}

static void test_more_of_a_life(void **state) {
  (void)state;
  const struct gorge_extra_life life = {3600000, 5000, 42};
  struct gorge_seal seal;
  struct gorge_envelope e;
  const char *error = NULL;
  size_t len;
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_JSON, 60000, &life, 2, two_tags, "{}", 2), GORGE_OK);
  char *bytes = assemble(&seal, 2, two_nonces, "{}", 2, &len);
  assert_int_equal(bytes[3], GORGE_KIND_JSON + 16);
  assert_int_equal(gorge_envelope_decode(&e, bytes, len, &error), GORGE_OK);
  assert_int_equal(e.kind, GORGE_KIND_JSON);
  assert_memory_equal(&e.life, &life, sizeof life);
  assert_int_equal(e.ttl_ms, 60000);
  assert_int_equal(e.ntags, 2);
  assert_memory_equal(e.tags[1].ptr, "s\0x", 3);
  assert_memory_equal(e.value, "{}", 2);
  struct gorge_l2_tag tags[GORGE_TAGS_MAX];
  assert_int_equal(gorge_envelope_peek_tags(bytes, len, tags), 2);
  assert_memory_equal(tags[0].ptr, "package", 7);
  for (size_t cut = 0; cut < len; cut++) {
    assert_int_equal(gorge_envelope_decode(&e, bytes, cut, &error), GORGE_ERR_PROTOCOL);
  }
  size_t at = 20 + 2 * 8 + 16; /* of the three times */
  bytes[at + 7] ^= 1;
  assert_int_equal(gorge_envelope_decode(&e, bytes, len, &error), GORGE_ERR_PROTOCOL);
  bytes[at + 7] ^= 1;
  bytes[3] |= 32; /* of a later format */
  assert_int_equal(gorge_envelope_decode(&e, bytes, len, &error), GORGE_ERR_PROTOCOL);
  free(bytes);
}

static void test_what_cannot_be_sealed(void **state) {
  (void)state;
  struct gorge_seal seal;
  struct gorge_l2_tag tag = {"x", 0};
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_BUFFER, 1, NULL, 0, NULL, "", 0), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_TYPED, 1, NULL, 0, NULL, "", 0), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KINDS, 1, NULL, 0, NULL, "", 0), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_STRING, 0, NULL, 0, NULL, "", 0), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_STRING, 1, NULL, 1, &tag, "", 0), GORGE_ERR_ARGUMENT);
  tag.len = GORGE_TAG_MAX + 1;
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_STRING, 1, NULL, 1, &tag, "", 0), GORGE_ERR_ARGUMENT);
  assert_int_equal(gorge_envelope_seal(&seal, GORGE_KIND_STRING, 1, NULL, 17, &tag, "", 0), GORGE_ERR_ARGUMENT);
}

static void assert_malformed(const char *bytes, size_t len) {
  struct gorge_envelope e;
  const char *error = NULL;
  /* a copy of exactly that size, so that a read beyond it is seen */
  char *copy = malloc(len > 0 ? len : 1);
  memcpy(copy, bytes, len);
  assert_int_equal(gorge_envelope_decode(&e, copy, len, &error), GORGE_ERR_PROTOCOL);
  assert_non_null(error);
  gorge_envelope_peek_version(copy, len);
  free(copy);
}

static void test_every_truncation_is_noticed(void **state) {
  (void)state;
  size_t len;
  char *bytes = sample(&len);
  for (size_t cut = 0; cut < len; cut++) {
    assert_malformed(bytes, cut);
  }
  char *longer = malloc(len + 1);
  memcpy(longer, bytes, len);
  longer[len] = 0;
  assert_malformed(longer, len + 1);
  free(longer);
  free(bytes);
}

static void test_every_flipped_bit_is_noticed(void **state) {
  (void)state;
  size_t len;
  char *bytes = sample(&len);
  for (size_t at = 0; at < len; at++) {
    for (int bit = 0; bit < 8; bit++) {
      bool by_script = at >= 4 && at < 36;
      bytes[at] ^= (char)(1 << bit);
      if (!by_script) {
        assert_malformed(bytes, len);
      }
      bytes[at] ^= (char)(1 << bit);
    }
  }
  free(bytes);
}

static void test_impossible_versions_and_times(void **state) {
  (void)state;
  size_t len;
  char *bytes = sample(&len);
  struct gorge_envelope e;
  const char *error;
  static const uint64_t versions[] = {0, GORGE_VERSION_MAX + 1, UINT64_MAX};
  for (size_t i = 0; i < 3; i++) {
    put64(bytes + VERSION_OFFSET, versions[i]);
    assert_malformed(bytes, len);
    assert_true(gorge_envelope_peek_version(bytes, len) <= GORGE_VERSION_MAX);
  }
  put64(bytes + VERSION_OFFSET, VERSION);
  static const uint64_t times[] = {0, GORGE_VERSION_MAX + 1, UINT64_MAX};
  for (size_t i = 0; i < 3; i++) {
    put64(bytes + ENDS_OFFSET, times[i]);
    assert_malformed(bytes, len);
  }
  put64(bytes + ENDS_OFFSET, ENDS);
  assert_int_equal(gorge_envelope_decode(&e, bytes, len, &error), GORGE_OK);
  free(bytes);
}

static void test_random_damage_never_hurts(void **state) {
  (void)state;
  uint64_t seed = 11;
  size_t len;
  char *bytes = sample(&len);
  for (int round = 0; round < 200000; round++) {
    char copy[256];
    memcpy(copy, bytes, len);
    size_t cut = wire_random(&seed) % 4 == 0 ? wire_random(&seed) % (len + 1) : len;
    for (uint64_t n = wire_random(&seed) % 8; n > 0; n--) {
      copy[wire_random(&seed) % len] = (char)wire_random(&seed);
    }
    char *exact = malloc(cut > 0 ? cut : 1);
    memcpy(exact, copy, cut);
    struct gorge_envelope e;
    const char *error;
    if (gorge_envelope_decode(&e, exact, cut, &error) == GORGE_OK) {
      assert_true(e.ntags <= GORGE_TAGS_MAX);
      assert_true(e.value >= exact && e.value + e.value_len == exact + cut);
    }
    free(exact);
  }
  free(bytes);
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(test_round_trip),
      cmocka_unit_test(test_layout_is_fixed),
      cmocka_unit_test(test_extremes_round_trip),
      cmocka_unit_test(test_more_of_a_life),
      cmocka_unit_test(test_what_cannot_be_sealed),
      cmocka_unit_test(test_every_truncation_is_noticed),
      cmocka_unit_test(test_every_flipped_bit_is_noticed),
      cmocka_unit_test(test_impossible_versions_and_times),
      cmocka_unit_test(test_random_damage_never_hurts),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
