/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The watchdog of Intel's 6300ESB I/O controller (datasheet 300641, chapter 16), because stock kernels have a driver for
 * it. Two stages count down one after the other; at the end of the second the machine is reset. Of the first stage's
 * interrupt, which drivers turn off, there is nothing.
 */
#include "internal.h"

enum { PRELOAD1 = 0, PRELOAD2 = 4, RELOAD = 12 };
enum { RELOAD_TIMER = 1 << 8, KEY1 = 0x80, KEY2 = 0x86 };
enum { CONFIG = 0x60, CONFIG_FAST = 4, LOCK = 0x68, LOCK_LOCKED = 1, LOCK_ENABLE = 2 };
enum { COUNTER = 0xfffff, PCI_HZ = 33000000 };

/* With the lock held. */
static void restart(struct watchdog *w) {
  if (!w->enabled) {
    watchdog_off(w);
    return;
  }
  uint64_t ticks = (uint64_t)w->preload[0] + w->preload[1];
  unsigned shift = w->api->pci_config(w->pci, CONFIG, 2) & CONFIG_FAST ? 5 : 15;
  uint64_t ns = (ticks << shift) * 1000 / (PCI_HZ / 1000000);
  watchdog_set(w, ns ? ns : 1);
}

void watchdog_esb(struct watchdog *w, void *pci) {
  w->pci = pci;
  w->preload[0] = w->preload[1] = COUNTER;
}

void watchdog_esb_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct watchdog *w = opaque;
  uint32_t value = (uint32_t)vmm_load(data, size);
  pthread_mutex_lock(&w->esb_lock);
  if (!is_write) {
    vmm_store(data, size, 0);
  } else if (offset == RELOAD && value == KEY1) {
    w->unlocked = 1;
  } else if (offset == RELOAD && value == KEY2 && w->unlocked == 1) {
    w->unlocked = 2;
  } else {
    bool open = w->unlocked == 2;
    w->unlocked = 0;
    if (open && (offset == PRELOAD1 || offset == PRELOAD2)) w->preload[offset / 4] = value & COUNTER;
    if (open && offset == RELOAD && value & RELOAD_TIMER) {
      restart(w);
      if (w->pings) __atomic_add_fetch(w->pings, 1, __ATOMIC_RELAXED);
    }
  }
  pthread_mutex_unlock(&w->esb_lock);
}

void watchdog_esb_config(void *opaque, uint32_t offset, uint32_t size, int is_write) {
  struct watchdog *w = opaque;
  if (!is_write || offset > LOCK || offset + size <= LOCK) return;
  uint32_t value = w->api->pci_config(w->pci, LOCK, 1);
  pthread_mutex_lock(&w->esb_lock);
  if (!w->locked && w->enabled != !!(value & LOCK_ENABLE)) {
    w->enabled = value & LOCK_ENABLE;
    restart(w);
  }
  w->locked |= value & LOCK_LOCKED;
  pthread_mutex_unlock(&w->esb_lock);
}
