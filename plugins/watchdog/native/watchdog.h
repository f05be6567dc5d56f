/* SPDX-License-Identifier: Apache-2.0 */
/* A timer that a guest has to set back now and then, and its two front ends. */
#ifndef WATCHDOG_H
#define WATCHDOG_H

#include <stdint.h>

struct watchdog;

/* A timer that does not run. `token` is that of the device, whose event() is called when the timer is over; the VM is
 * reset then. NULL and *error = -errno on failure. */
struct watchdog *watchdog_new(const void *api, void *vm, const char *id, uint64_t token, int *error);
/* Off; a pause is watchdog_pause() and watchdog_resume(), which gives the guest the whole time again. */
void watchdog_off(struct watchdog *w);
void watchdog_pause(struct watchdog *w);
void watchdog_resume(struct watchdog *w);
/* Whether it was over since it was asked last. */
int watchdog_expired(struct watchdog *w);
void watchdog_free(struct watchdog *w);

/* virtio: each request in `queue` (a vmm_queue *) sets the timer to `ns`; the first one starts it. Until the core ends
 * the queue's handler. 0 or -errno. */
int watchdog_serve(struct watchdog *w, void *queue, uint64_t ns);

/* Intel 6300ESB: handler of BAR 0 (a vmm_io_fn), and of accesses to the config space of `pci` (a vmm_pci_dev *). */
void watchdog_esb(struct watchdog *w, void *pci);
void watchdog_esb_io(void *watchdog, uint64_t offset, void *data, uint32_t size, int is_write);
void watchdog_esb_config(void *watchdog, uint32_t offset, uint32_t size, int is_write);

#endif
