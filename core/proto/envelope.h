/* SPDX-License-Identifier: MIT */
/*
 * The form of a value in Redis. Integers are big-endian. n = number of tags.
 *
 *   offset      bytes
 *   0           1      'G'
 *   1           1      format, 1                                        head: from the client
 *   2           1      n, at most 16
 *   3           1      kind (enum gorge_kind, one of gorge_kind_for_redis), plus 16 if it has more of a life: m = 1, else 0
 *   4           8      version                                          from the script that stores it
 *   12          8      end of its life, that as stale included, by the server's clock, ms since 1970; a touch moves it
 *   20          8 n    nonces of the tags, in the order of their names
 *   20+8n       8      checksum                                         seal: from the client
 *   28+8n       8      ttl, ms, as it was stored
 *   36+8n       24 m   ms for which it may be served as stale after its ttl; ms before the end of its ttl in which it is to be refreshed
 *                      (0: none); ms that the loader took (0: not known)
 *   36+8n+24m   ...    n times: length of the name (1 byte, 1..255), name
 *   ...         ...    value, to the end
 *
 * checksum = XXH3-64(value, seed = XXH3-64(what follows the checksum up to the value, as it stands, seed = head as a 32-bit integer)): over all
 * that the client knows. A client cannot know what the script puts in; of that, version and end are held to be plausible
 * (see decode), and a nonce that was damaged does not match any more.
 */
#ifndef GORGE_PROTO_ENVELOPE_H
#define GORGE_PROTO_ENVELOPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum {
  GORGE_ENVELOPE_HEAD = 4,
  GORGE_ENVELOPE_FIXED = 20, /* head, version, end */
  GORGE_ENVELOPE_LIFE = 24,
  GORGE_ENVELOPE_SEAL_MAX = 16 + GORGE_ENVELOPE_LIFE + 16 * (1 + GORGE_TAG_MAX), /* GORGE_TAGS_MAX is 16 */
  GORGE_ENVELOPE_MIN = GORGE_ENVELOPE_FIXED + 16
};

/* Versions and times pass through Lua numbers in scripts: exact up to here. */
#define GORGE_VERSION_MAX (((uint64_t)1 << 53) - 1)
/* A hundred years; longer ttls count as that. */
#define GORGE_TTL_MAX_MS ((uint64_t)36525 * 24 * 3600 * 1000)

struct gorge_l2_tag {
  const char *ptr;
  uint32_t len;
};

/* More of a value's life than its ttl; see above. All 0: nothing of it is stored. */
struct gorge_extra_life {
  uint64_t stale_ms, refresh_ms, load_ms;
};

/* A decoded envelope; all pointers point into the bytes it was decoded from. */
struct gorge_envelope {
  uint64_t version;
  uint64_t ends_ms;
  uint64_t ttl_ms;
  struct gorge_extra_life life;
  uint32_t kind;
  uint32_t ntags;
  const char *value;
  uint32_t value_len;
  struct gorge_l2_tag tags[GORGE_TAGS_MAX];
  uint64_t nonces[GORGE_TAGS_MAX];
};

/* What the client adds to a value before a script puts the parts together. */
struct gorge_seal {
  char head[GORGE_ENVELOPE_HEAD];
  char bytes[GORGE_ENVELOPE_SEAL_MAX];
  uint32_t len;
};

/* Whether bytes of this kind may stand in Redis: those that are decoded without trust. */
bool gorge_kind_for_redis(uint32_t kind);

/*
 * Makes head and seal for a value; life may be NULL. Times above GORGE_TTL_MAX_MS count as that.
 * Returns GORGE_OK or GORGE_ERR_ARGUMENT (kind, number or length of tags, ttl 0).
 */
int gorge_envelope_seal(struct gorge_seal *seal, uint32_t kind, uint64_t ttl_ms, const struct gorge_extra_life *life,
                        uint32_t ntags, const struct gorge_l2_tag *tags, const char *value, uint32_t value_len);

/*
 * Reads an envelope; never outside ptr[0..len). Returns GORGE_OK, or GORGE_ERR_PROTOCOL with *error (static text) saying what
 * is wrong: foreign bytes, another format, truncated, checksum, or a field out of bounds: version in 1..GORGE_VERSION_MAX,
 * end in 1..GORGE_VERSION_MAX, ttl in 1..GORGE_TTL_MAX_MS, other times at most that.
 */
int gorge_envelope_decode(struct gorge_envelope *e, const char *ptr, size_t len, const char **error);

/*
 * The tags of a value of which only the begin is there. Returns their number; 0: none, or they cannot be read. They point into
 * the bytes.
 */
uint32_t gorge_envelope_peek_tags(const char *ptr, size_t len, struct gorge_l2_tag tags[GORGE_TAGS_MAX]);

/* The version of what may be a damaged envelope, 0 when there is none to be read. */
uint64_t gorge_envelope_peek_version(const char *ptr, size_t len);

#endif
