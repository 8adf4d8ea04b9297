/* SPDX-License-Identifier: MIT */
#include "base/status.h"

const char *gorge_status_text(int status) {
  switch (status) {
    case GORGE_OK: return "ok";
    case GORGE_MISS: return "not found";
    case GORGE_HIT: return "hit";
    case GORGE_BUSY: return "busy";
    case GORGE_LEASE: return "lease granted";
    case GORGE_REFUSED: return "refused: invalidated or overtaken meanwhile";
    case GORGE_PENDING: return "pending";
    case GORGE_FAILED: return "the fill failed";
    case GORGE_TOO_LARGE: return "too large for L1";
    case GORGE_STORED: return "stored";
    case GORGE_SPACE: return "buffer too small";
    case GORGE_DUE: return "due for a refresh";
    case GORGE_STALE: return "expired";
    case GORGE_ERR_ARGUMENT: return "bad argument";
    case GORGE_ERR_MEMORY: return "out of memory";
    case GORGE_ERR_SYSTEM: return "refused by the operating system";
    case GORGE_ERR_MISMATCH: return "exists with another size or layout";
    case GORGE_ERR_FULL: return "table or queue full";
    case GORGE_ERR_TIMEOUT: return "timed out";
    case GORGE_ERR_DOWN: return "Redis cannot be reached";
    case GORGE_ERR_PROTOCOL: return "malformed data";
    case GORGE_ERR_REDIS: return "Redis answered with an error";
    case GORGE_ERR_CLOSED: return "closed";
    case GORGE_ERR_UNSUPPORTED: return "not supported";
    case GORGE_ERR_BREAKER: return "circuit breaker open";
    default: return "unknown status";
  }
}
