/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUs and memory that come and go: the two register blocks through which the firmware's code (AML) finds out what
 * was plugged in, and gives back what it was asked for. A block is a table of units; the guest selects one and sees
 * its state (Cloud Hypervisor's PRES and MHPC).
 *
 *   CPUs:    0 selector, 4 status (byte), 5 command, 8 data
 *   memory:  0 selector when written; base, when read: 0, length: 8, proximity domain: 0x10; 0x14 status (byte)
 */
#include "native.h"

#include <stdlib.h>
#include <string.h>

enum { ENABLED = 1, INSERTING = 2, REMOVING = 4, EJECT = 8 }; /* of a status byte */
enum { CPU_STATUS = 4, CPU_BYTES = 0xc, MEM_STATUS = 0x14, MEM_BYTES = 0x18 };

struct unit {
  uint64_t base, size;
  uint32_t node;
  uint8_t status;
  bool leaving; /* the host wants it back: only then is it ejected */
  bool gone;    /* ejected, and nobody has heard of it yet */
};

struct vmm_hotplug {
  vmm_vm *vm;
  uint64_t at;
  int kind;
  pthread_mutex_t lock;
  uint32_t selected, n;
  struct unit unit[];
};

/* With the lock held: the whole block as the guest reads it. */
static void image(const struct vmm_hotplug *h, uint8_t *out) {
  const struct unit *u = h->selected < h->n ? &h->unit[h->selected] : NULL;
  if (h->kind == VMM_HOTPLUG_CPUS) {
    vmm_store(out, 4, h->selected);
    if (u) out[CPU_STATUS] = u->status;
  } else if (u) {
    vmm_store(out, 8, u->base);
    vmm_store(out + 8, 8, u->size);
    vmm_store(out + 0x10, 4, u->node);
    out[MEM_STATUS] = u->status;
  }
}

/* With the lock held. True: a unit has gone. */
static bool acknowledge(struct vmm_hotplug *h, uint8_t bits) {
  struct unit *u = h->selected < h->n ? &h->unit[h->selected] : NULL;
  if (!u) return false;
  u->status &= (uint8_t)~(bits & (INSERTING | REMOVING));
  /* Without the first CPU there is no machine; memory is not taken back this way. */
  if (!(bits & EJECT) || h->kind != VMM_HOTPLUG_CPUS || !h->selected || !u->leaving) return false;
  u->status = 0;
  u->leaving = false;
  u->gone = true;
  return true;
}

static void block_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct vmm_hotplug *h = opaque;
  uint8_t regs[MEM_BYTES + 8] = {0};
  const uint64_t status = h->kind == VMM_HOTPLUG_CPUS ? CPU_STATUS : MEM_STATUS;
  bool gone = false;
  pthread_mutex_lock(&h->lock);
  if (!is_write) {
    image(h, regs);
    memcpy(data, regs + offset, size);
  } else if (!offset && size >= 4) {
    h->selected = (uint32_t)vmm_load(data, 4);
  } else if (offset <= status && status < offset + size) {
    gone = acknowledge(h, ((const uint8_t *)data)[status - offset]);
  }
  pthread_mutex_unlock(&h->lock);
  if (gone) vmm_post_event(h->vm, VMM_EVENT_HOTPLUG, 0);
}

/* A block of n units at `address`; NULL and *err. After VMM_EVENT_HOTPLUG ask vmm_hotplug_gone(). */
vmm_hotplug *vmm_hotplug_new(vmm_vm *vm, int kind, uint64_t address, unsigned n, int *err) {
  struct vmm_hotplug *h = calloc(1, sizeof *h + n * sizeof *h->unit);
  *err = -ENOMEM;
  if (!h) return NULL;
  h->vm = vm, h->kind = kind, h->at = address, h->n = n;
  pthread_mutex_init(&h->lock, NULL);
  *err = vmm_bus_add(vm, VMM_MMIO, address, kind == VMM_HOTPLUG_CPUS ? CPU_BYTES : MEM_BYTES, block_io, h);
  if (!*err) return h;
  vm->failed = "the registers of a hot plug controller";
  pthread_mutex_destroy(&h->lock);
  free(h);
  return NULL;
}

void vmm_hotplug_free(vmm_hotplug *h) {
  if (!h) return;
  vmm_bus_del(h->vm, VMM_MMIO, h->at);
  pthread_mutex_destroy(&h->lock);
  free(h);
}

/* The unit is there. `announce`: the guest does not know yet; the caller raises the event. Takes a removal back. */
int vmm_hotplug_insert(vmm_hotplug *h, unsigned index, uint64_t base, uint64_t size, int announce) {
  if (index >= h->n) return -EINVAL;
  pthread_mutex_lock(&h->lock);
  struct unit *u = &h->unit[index];
  u->base = base, u->size = size;
  u->status = ENABLED | (announce ? INSERTING : 0);
  u->leaving = u->gone = false;
  pthread_mutex_unlock(&h->lock);
  return 0;
}

/* Ask the guest for it; the caller raises the event. */
int vmm_hotplug_remove(vmm_hotplug *h, unsigned index) {
  int err = -ENOENT;
  if (index >= h->n) return -EINVAL;
  pthread_mutex_lock(&h->lock);
  struct unit *u = &h->unit[index];
  if (u->status & ENABLED) {
    u->status = ENABLED | REMOVING;
    u->leaving = true;
    err = 0;
  }
  pthread_mutex_unlock(&h->lock);
  return err;
}

/* Have it stay, if the guest was asked for it and has it still: 1, and the caller raises the event. Else 0. */
int vmm_hotplug_keep(vmm_hotplug *h, unsigned index) {
  if (index >= h->n) return 0;
  pthread_mutex_lock(&h->lock);
  struct unit *u = &h->unit[index];
  int kept = u->leaving;
  if (kept) u->status = ENABLED | INSERTING;
  u->leaving = false;
  pthread_mutex_unlock(&h->lock);
  return kept;
}

/* Whether the guest has been asked for it and has it still. */
int vmm_hotplug_leaving(vmm_hotplug *h, unsigned index) {
  if (index >= h->n) return 0;
  pthread_mutex_lock(&h->lock);
  int leaving = h->unit[index].leaving;
  pthread_mutex_unlock(&h->lock);
  return leaving;
}

/* A unit that the guest has ejected since the last call; -1: none. */
int vmm_hotplug_gone(vmm_hotplug *h) {
  int found = -1;
  pthread_mutex_lock(&h->lock);
  for (uint32_t i = 0; i < h->n && found < 0; i++)
    if (h->unit[i].gone) {
      h->unit[i].gone = false;
      found = (int)i;
    }
  pthread_mutex_unlock(&h->lock);
  return found;
}
