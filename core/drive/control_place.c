/* SPDX-License-Identifier: MIT */
/*
 * Where the subscriber connects to. In a cluster any node will do, since messages reach them all: one of the seeds to begin with, by chance, so
 * that hosts spread; after each loss the next one, the seeds first and then what else the watch's l2 has met.
 */
#include "drive/control_internal.h"

static uint32_t node_count(const struct gorge_watch *w) { return w->l2 != NULL ? gorge_l2_nodes(w->l2) : 0; }

/* The place of that number, or NULL: nobody is to be asked there. */
static const struct gorge_place *place_at(const struct gorge_watch *w, uint32_t number) {
  const struct gorge_seeds *seeds = w->n.seeds;
  if (number < seeds->count) {
    return &seeds->list[number];
  }
  uint32_t node = number - seeds->count;
  return gorge_l2_node_partitions(w->l2, node) > 0 ? gorge_l2_node_place(w->l2, node) : NULL;
}

/* Leads to the next place; it stays where it is when memory is short. Returns the endpoint of before, to be destroyed. */
static struct gorge_endpoint *advance(struct gorge_watch *w) {
  uint32_t count = w->n.seeds->count + node_count(w);
  const struct gorge_place *place;
  do {
    w->place_turn = (w->place_turn + 1) % count;
    place = place_at(w, w->place_turn);
  } while (place == NULL); /* the seeds have one each */
  struct gorge_endpoint *old = w->place, *made = gorge_endpoint_create(place->host, place->port, NULL);
  if (made == NULL || gorge_conn_rename(gorge_subscriber_conn(w->subscriber), place->host) != GORGE_OK) {
    gorge_endpoint_destroy(made);
    return NULL;
  }
  w->place = made;
  return old;
}

struct gorge_endpoint *gorge_place_first(struct gorge_watch *w) {
  if (w->n.seeds == NULL) {
    return w->n.endpoint;
  }
  w->place_turn = (uint32_t)(w->n.redis.seed % w->n.seeds->count);
  gorge_endpoint_destroy(advance(w));
  return w->place;
}

void gorge_place_look(struct gorge_watch *w) {
  if (w->n.seeds == NULL) {
    return;
  }
  bool down = gorge_conn_state(gorge_subscriber_conn(w->subscriber)) == GORGE_CONN_DOWN;
  if (down && w->place_tried) {
    struct gorge_endpoint *old = advance(w);
    if (old != NULL) {
      gorge_ev_link_lead(w->subscriber_link, w->place);
      gorge_endpoint_destroy(old);
    }
  }
  w->place_tried = !down;
}

void gorge_place_leave(struct gorge_watch *w, const char *reason) {
  if (w->n.seeds != NULL && w->subscriber != NULL) {
    gorge_conn_fail(gorge_subscriber_conn(w->subscriber), reason);
    gorge_ev_link_look(w->subscriber_link);
  }
}

void gorge_place_end(struct gorge_watch *w) {
  gorge_endpoint_destroy(w->place);
  w->place = NULL;
  w->place_tried = false;
}
