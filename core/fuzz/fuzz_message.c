/* SPDX-License-Identifier: MIT */
/* proto/message.h: what arrives on the channel and stands in the journal. Input: the bytes of one message. */
#include "fuzz/fuzz.h"
#include "gorge.h"
#include "proto/envelope.h"
#include "proto/message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  struct gorge_message m;
  const char *ptr = (const char *)data;
  int status = gorge_message_decode(&m, ptr, size);
  FUZZ_CHECK(status == GORGE_OK || status == GORGE_MISS || status == GORGE_ERR_PROTOCOL);
  if (status == GORGE_OK) {
    FUZZ_CHECK(m.len <= GORGE_KEY_MAX && m.version <= GORGE_VERSION_MAX && m.previous <= GORGE_VERSION_MAX);
    FUZZ_CHECK(m.partition < GORGE_PARTITIONS);
    FUZZ_CHECK(m.len == 0 || (m.ptr >= ptr && m.ptr + m.len <= ptr + size));
    (void)fuzz_touch(m.ptr, m.len);
  }
  return 0;
}
