/* SPDX-License-Identifier: MIT */
/*
 * Errors by which a node of a Redis Cluster says that it does not have what was asked for:
 *
 *   MOVED slot host:port    another node has the slot, from now on    ASK slot host:port    for this once
 *   TRYAGAIN ...            the slot is on its way                    CLUSTERDOWN ...       no node has it, or too few agree
 */
#ifndef GORGE_PROTO_REDIRECT_H
#define GORGE_PROTO_REDIRECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/place.h"
#include "proto/slot.h"

enum gorge_redirect_kind { GORGE_REDIRECT_MOVED, GORGE_REDIRECT_ASK, GORGE_REDIRECT_TRYAGAIN, GORGE_REDIRECT_DOWN };

struct gorge_redirect {
  enum gorge_redirect_kind kind;
  uint32_t slot;            /* MOVED and ASK */
  struct gorge_place place; /* likewise; host "": that of the node that says so */
};

/* Reads an error without its '-'. Returns false when it is none of them, or malformed. */
bool gorge_redirect_parse(struct gorge_redirect *r, const char *ptr, size_t len);

#endif
