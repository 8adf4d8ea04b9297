/* SPDX-License-Identifier: MIT */
#include "base/floats.h"

#include <string.h>

#define DOUBLE_INFINITY UINT64_C(0x7ff0000000000000)
#define DOUBLE_NAN UINT64_C(0x7ff8000000000000)
#define FLOAT_INFINITY UINT32_C(0x7f800000)
#define FLOAT_NAN UINT32_C(0x7fc00000)

void gorge_floats_settle(void *bytes, const uint32_t *offsets, uint32_t ndoubles, uint32_t nfloats) {
  for (uint32_t i = 0; i < ndoubles; i++) {
    uint64_t bits;
    memcpy(&bits, (char *)bytes + offsets[i], sizeof bits);
    if ((bits & INT64_MAX) > DOUBLE_INFINITY) {
      bits = DOUBLE_NAN;
      memcpy((char *)bytes + offsets[i], &bits, sizeof bits);
    }
  }
  for (uint32_t i = 0; i < nfloats; i++) {
    uint32_t bits;
    memcpy(&bits, (char *)bytes + offsets[ndoubles + i], sizeof bits);
    if ((bits & INT32_MAX) > FLOAT_INFINITY) {
      bits = FLOAT_NAN;
      memcpy((char *)bytes + offsets[ndoubles + i], &bits, sizeof bits);
    }
  }
}
