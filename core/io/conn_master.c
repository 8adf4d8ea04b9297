/* SPDX-License-Identifier: MIT */
/*
 * A connection that does not always lead to the same server: only a master will do, and where that is stands in words that others keep up
 * to date (conn.h, `place`); or its user says where to.
 */
#include <stdlib.h>
#include <string.h>

#include "io/conn_state.h"

bool gorge_conn_moved(const struct gorge_conn *c) {
  /* relaxed: the value alone counts; the address that goes with it is read elsewhere */
  return c->config.place != NULL && __atomic_load_n(c->config.place, __ATOMIC_RELAXED) != c->place;
}

/* An attempt whose address has not been taken yet will lead to where the master is by then. */
void gorge_conn_leave_if_moved(struct gorge_conn *c) {
  if (gorge_conn_moved(c) && (c->headed || c->state != GORGE_CONN_CONNECTING)) {
    gorge_conn_doom(c, GORGE_ERR_DOWN, "another server is the master now", NULL, 0);
  }
}

void gorge_conn_towards(struct gorge_conn *c, uint64_t place) {
  if (c->state == GORGE_CONN_CONNECTING && c->config.place != NULL) {
    c->place = place;
    c->headed = true;
  }
}

void gorge_conn_stray(struct gorge_conn *c, const char *what) {
  if (c->config.doubts != NULL) {
    __atomic_fetch_add(c->config.doubts, 1, __ATOMIC_RELAXED); /* relaxed: a hint to ask the sentinels at once */
  }
  gorge_conn_doom(c, GORGE_ERR_DOWN, what, NULL, 0);
}

int gorge_conn_rename(struct gorge_conn *c, const char *host) {
  char *copy = strdup(host);
  if (copy == NULL) {
    return GORGE_ERR_MEMORY;
  }
  free((char *)c->config.host);
  c->config.host = copy;
  return GORGE_OK;
}

int gorge_conn_lead(struct gorge_conn *c, const char *host) {
  int status = gorge_conn_rename(c, host);
  if (status == GORGE_OK) {
    gorge_backoff_reset(&c->backoff);
    c->retry_ms = 0;
    c->reason[0] = '\0';
  }
  return status;
}
