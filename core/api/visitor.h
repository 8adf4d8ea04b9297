/* SPDX-License-Identifier: MIT */
#ifndef GORGE_API_VISITOR_H
#define GORGE_API_VISITOR_H

#include "gorge.h"
#include "shm/zone.h"

struct gorge_visitor {
  struct gorge_zone *zone;
  uint32_t flags; /* enum gorge_visit_flag */
  bool owned;     /* an owner was claimed in it: it stays mapped */
};

#endif
