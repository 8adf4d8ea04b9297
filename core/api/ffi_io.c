/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: what ngx_gorge_module needs besides the functions of a pump. */
#include "base/clock.h"
#include "engine/engine.h"

static bool own(const gorge_cache *cache) { return cache->generation == gorge_process_generation(); }

double gorge_io_due(gorge_cache *cache) {
  if (!own(cache) || cache->l2 == NULL || cache->link != NULL) {
    return -1;
  }
  if (cache->dropped) {
    return 0;
  }
  const struct gorge_conn *conn = gorge_l2_conn(cache->l2);
  uint64_t now_ms = gorge_clock_ms();
  bool idle = gorge_conn_pending(conn) == 0;
  uint64_t due_ms = idle && gorge_conn_state(conn) == GORGE_CONN_DOWN ? UINT64_MAX : gorge_conn_next_ms(conn);
  if (idle && gorge_conn_state(conn) == GORGE_CONN_READY && cache->ping_ms < due_ms) {
    due_ms = cache->ping_ms;
  }
  if (due_ms == UINT64_MAX) {
    return -1;
  }
  return due_ms > now_ms ? (double)(due_ms - now_ms) : 0;
}

void gorge_op_waiter(gorge_cache *cache, uint64_t op, void *waiter) {
  struct gorge_op *o = gorge_op_find(cache, op);
  if (o != NULL) {
    o->waiter = waiter;
  }
}

uint32_t gorge_io_woken(gorge_cache *cache, void **waiters, uint32_t max, uint32_t *gone) {
  *gone = 0;
  if (!own(cache)) {
    return 0;
  }
  *gone = gorge_buf_len(&cache->gone) > 0;
  return gorge_op_woken(cache, waiters, max);
}

int gorge_bell_fd(gorge_cache *cache) {
  if (gorge_cache_ready(cache, true) != GORGE_OK) {
    return GORGE_ERR_SYSTEM;
  }
  struct gorge_control *control = gorge_cache_control(cache);
  return control == NULL ? GORGE_ERR_SYSTEM : gorge_control_bell_fd(control);
}

/* Who waits for another worker is looked after without Redis, too. */
static int tick(gorge_cache *cache) {
  if (!own(cache) || cache->l2 != NULL) {
    return gorge_io_tick(cache);
  }
  gorge_cache_turn(cache, gorge_clock_ms());
  return 0;
}

const struct gorge_io_calls *gorge_io_calls(void) {
  static const struct gorge_io_calls calls = {
      .abi_version = GORGE_ABI_VERSION,
      .size = sizeof(struct gorge_io_calls),
      .connect = gorge_io_connect,
      .opened = gorge_io_opened,
      .closed = gorge_io_closed,
      .output = gorge_io_output,
      .sent = gorge_io_sent,
      .input = gorge_io_input,
      .pending = gorge_io_pending,
      .tick = tick,
      .due = gorge_io_due,
      .woken = gorge_io_woken,
  };
  return &calls;
}
