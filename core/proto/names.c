/* SPDX-License-Identifier: MIT */
#include "proto/names.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Not isalnum: what is allowed must not depend on the locale. */
static bool allowed(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
         c == '.' || c == ':';
}

int gorge_names_init(struct gorge_names *n, const char *ns, size_t ns_len) {
  if (ns_len < 1 || ns_len > GORGE_NAME_MAX) {
    return GORGE_ERR_ARGUMENT;
  }
  for (size_t i = 0; i < ns_len; i++) {
    if (!allowed(ns[i])) {
      return GORGE_ERR_ARGUMENT;
    }
  }
  n->tag_len = (uint32_t)snprintf(n->tag, sizeof n->tag, "{%zu:%.*s:0}:", ns_len, (int)ns_len, ns);
  n->epoched_len = 0;
  n->channel_len = (uint32_t)snprintf(n->channel, sizeof n->channel, "gorge:%zu:%.*s", ns_len, (int)ns_len, ns);
  return GORGE_OK;
}

size_t gorge_names_own_channel(const struct gorge_names *n, uint64_t id, char out[GORGE_NAME_OWN_MAX + 1]) {
  return (size_t)snprintf(out, GORGE_NAME_OWN_MAX + 1, "%.*s:%016" PRIx64, (int)n->channel_len, n->channel, id);
}

void gorge_names_set_epoch(struct gorge_names *n, uint64_t epoch) {
  n->epoched_len = 0;
  if (epoch > 0) {
    int len = snprintf(n->epoched, sizeof n->epoched, "%.*s%" PRIu64 ":", (int)n->tag_len, n->tag, epoch);
    n->epoched_len = (uint32_t)len;
  }
}

size_t gorge_names_write(const struct gorge_names *n, enum gorge_name name, const char *part, size_t part_len,
                         char *out, size_t size) {
  bool alone = name == GORGE_NAME_COUNTER || name == GORGE_NAME_JOURNAL || name == GORGE_NAME_EPOCH;
  bool epoched = !alone && name != GORGE_NAME_UPDATE;
  const char *prefix = epoched ? n->epoched : n->tag;
  size_t prefix_len = epoched ? n->epoched_len : n->tag_len;
  size_t len = prefix_len + (alone ? 1 : 2 + part_len);
  if (prefix_len == 0 || part_len > GORGE_KEY_MAX || len > size) {
    return 0;
  }
  memcpy(out, prefix, prefix_len);
  out[prefix_len] = (char)name;
  if (!alone) {
    out[prefix_len + 1] = ':';
    memcpy(out + prefix_len + 2, part, part_len);
  }
  return len;
}
