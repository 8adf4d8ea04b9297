/* SPDX-License-Identifier: MIT */
/* The skin of the library, continued: waiting for other workers, and for one's own events. */
#include "engine/engine.h"

int gorge_doorbell_path(gorge_cache *cache, char *path, uint32_t size) {
  if (gorge_cache_ready(cache, true) != GORGE_OK) {
    return GORGE_ERR_SYSTEM;
  }
  struct gorge_control *control = gorge_cache_control(cache);
  return control == NULL ? GORGE_ERR_SYSTEM : gorge_control_doorbell_path(control, NULL, path, size);
}

void gorge_ring(gorge_cache *cache) {
  if (cache->process != NULL && cache->process->control != NULL && cache->generation == gorge_process_generation()) {
    gorge_control_ring(cache->process->control);
  }
}

int gorge_loop_wait(double timeout_ms) { return gorge_process_loop_wait(timeout_ms); }
