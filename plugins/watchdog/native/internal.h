/* SPDX-License-Identifier: Apache-2.0 */
/* What the timer and its front ends share. */
#ifndef WATCHDOG_INTERNAL_H
#define WATCHDOG_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmmcore.h"
#include "watchdog.h"

struct watchdog {
  const struct vmm_api *api;
  vmm_vm *vm;
  vmm_loop *loop; /* of the timer */
  uint64_t token;
  int timer_fd;
  int over; /* atomic */
  uint64_t *pings, *resets; /* counters */
  pthread_mutex_t lock;
  uint64_t ns; /* what the timer was set to, 0: off */
  bool paused;

  uint64_t timeout; /* virtio: ns */

  vmm_pci_dev *pci; /* 6300ESB; all below under `esb_lock` */
  pthread_mutex_t esb_lock;
  uint32_t preload[2];
  unsigned unlocked; /* how much of the key was written */
  bool enabled, locked;
};

/* Let the timer run for `ns` from now; 0: off. Any thread. */
void watchdog_set(struct watchdog *w, uint64_t ns);

#endif
