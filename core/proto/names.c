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
  n->head_len = (uint32_t)snprintf(n->head, sizeof n->head, "{%zu:%.*s:", ns_len, (int)ns_len, ns);
  for (uint32_t i = 0; i < GORGE_PARTITIONS; i++) {
    struct gorge_names_partition *p = &n->partitions[i];
    p->tag_len = (uint8_t)snprintf(p->text, sizeof p->text, "%" PRIu32 "}:", i);
    p->epoched_len = 0;
  }
  n->channel_len = (uint32_t)snprintf(n->channel, sizeof n->channel, "gorge:%zu:%.*s", ns_len, (int)ns_len, ns);
  return GORGE_OK;
}

size_t gorge_names_own_channel(const struct gorge_names *n, uint64_t id, char out[GORGE_NAME_OWN_MAX + 1]) {
  return (size_t)snprintf(out, GORGE_NAME_OWN_MAX + 1, "%.*s:%016" PRIx64, (int)n->channel_len, n->channel, id);
}

void gorge_names_set_epoch(struct gorge_names *n, uint32_t partition, uint64_t epoch) {
  struct gorge_names_partition *p = &n->partitions[partition];
  p->epoched_len = 0;
  if (epoch > 0) {
    int len = snprintf(p->text + p->tag_len, sizeof p->text - p->tag_len, "%" PRIu64 ":", epoch);
    p->epoched_len = (uint8_t)(p->tag_len + len);
  }
}

uint32_t gorge_names_slot(const struct gorge_names *n, uint32_t partition) {
  const struct gorge_names_partition *p = &n->partitions[partition];
  char tag[GORGE_NAME_HEAD_MAX + sizeof p->text];
  size_t own_len = p->tag_len - 2; /* without "}:" */
  memcpy(tag, n->head + 1, n->head_len - 1);
  memcpy(tag + n->head_len - 1, p->text, own_len);
  return gorge_slot_of(tag, n->head_len - 1 + own_len);
}

size_t gorge_names_write(const struct gorge_names *n, uint32_t partition, enum gorge_name name, const char *part,
                         size_t part_len, char *out, size_t size) {
  const struct gorge_names_partition *p = &n->partitions[partition];
  bool alone = name == GORGE_NAME_COUNTER || name == GORGE_NAME_JOURNAL || name == GORGE_NAME_EPOCH;
  bool epoched = !alone && name != GORGE_NAME_UPDATE;
  size_t own_len = epoched ? p->epoched_len : p->tag_len;
  size_t prefix_len = n->head_len + own_len;
  size_t len = prefix_len + (alone ? 1 : 2 + part_len);
  if (own_len == 0 || part_len > GORGE_KEY_MAX || len > size) {
    return 0;
  }
  memcpy(out, n->head, n->head_len);
  memcpy(out + n->head_len, p->text, own_len);
  out[prefix_len] = (char)name;
  if (!alone) {
    out[prefix_len + 1] = ':';
    memcpy(out + prefix_len + 2, part, part_len);
  }
  return len;
}
