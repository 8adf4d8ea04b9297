/* SPDX-License-Identifier: MIT */
/* What Redis was not told, or may not have carried out. */
#ifndef GORGE_ENGINE_MISSED_H
#define GORGE_ENGINE_MISSED_H

#include "backlog/backlog.h"
#include "engine/engine.h"

/* Redis did not take the op's write: it will be told, as an invalidation. */
void gorge_missed_write(const struct gorge_op *op);
/* What the op makes up for if Redis takes it: what has been missed by now. To be noted in op->since before it is sent. */
uint64_t gorge_missed_by_now(const struct gorge_op *op);
/* Redis took it: what was missed before of the same key or tags is made up for. */
void gorge_missed_none(const struct gorge_op *op);
/* Whether Redis has not been told yet that the op's key, or one of these tags, was invalidated here: what it holds is not to be used. */
bool gorge_missed_key(const struct gorge_op *op);
bool gorge_missed_tags(const gorge_cache *c, uint32_t ntags, const struct gorge_l2_tag *tags);
/* Queues one for the partition of the key; of a tag for all of them. */
void gorge_missed_add(struct gorge_zone *zone, uint32_t owner, uint32_t ns, uint32_t partitions,
                      enum gorge_backlog_what what, const char *name, uint32_t len);

#endif
