/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The controller that ACPI's methods talk to when PCI functions come and go, as the anchor has it: 16 bytes, all
 * accesses of 4 bytes.
 *
 *   0   PCIU  slots of the selected segment that got a device; a read clears
 *   4   PCID  slots whose device shall go; a read clears
 *   8   B0EJ  written: the guest has let go of these slots
 *   12  PSEG  the segment that the other registers are about
 *
 * Only ejects that were asked for count, and each is told to the main thread once: no guest can make Python run.
 *
 * A device that was taken away without asking (vmm_pci_vanish) leaves a ghost, until the guest ejects it: where its BARs
 * were reads as zeros, because drivers that clean up wait for a status of 0 (virtio 1.2 §4.1.4.3.1) and would wait for
 * ever; and a new device in the slot shows only then, since the guest cannot tell it from the old one.
 *
 * Locks: a segment's lock → ours → bus_lock, and the GED's.
 */
#include "pci.h"

#include <stdlib.h>
#include <string.h>

enum { PCIU = 0, PCID = 4, B0EJ = 8, PSEG = 12, SIZE = 16 };

struct slots { /* bitmaps of one segment */
  uint32_t up, down; /* to be read by the guest */
  uint32_t asked;    /* it is to eject them */
  uint32_t ejected;  /* it did; the main thread does not know yet */
  uint32_t ghosts;   /* what was there went without its consent */
};

struct gone { /* where a BAR of a ghost decoded */
  struct gone *next;
  unsigned segment, slot;
  int space;
  uint64_t at, size;
};

struct vmm_pci_hotplug {
  vmm_vm *vm;
  pthread_mutex_t lock;
  uint32_t selected;
  struct slots of[VMM_MAX_SEGMENTS];
  struct gone *gone;
};

static void gone_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  (void)opaque, (void)offset;
  if (!is_write) memset(data, 0, size);
}

/* With the lock held: give up the addresses of the ghosts that `these` says. */
static void drop_gone(struct vmm_pci_hotplug *h, bool (*these)(const struct gone *, const struct gone *),
                      const struct gone *like) {
  for (struct gone **at = &h->gone, *g; (g = *at);) {
    if (!these(g, like)) {
      at = &g->next;
      continue;
    }
    *at = g->next;
    vmm_bus_move(h->vm, g->space, g->at, VMM_NO_ADDR, 0, NULL, NULL);
    free(g);
  }
}

static bool same_slot(const struct gone *a, const struct gone *b) {
  return a->segment == b->segment && a->slot == b->slot;
}

static bool in_the_way(const struct gone *a, const struct gone *b) {
  return a->space == b->space && a->at <= b->at + (b->size - 1) && b->at <= a->at + (a->size - 1);
}

static void eject(struct vmm_pci_hotplug *h, uint32_t segment, uint32_t slots) {
  vmm_vm *vm = h->vm;
  pthread_mutex_lock(&h->lock);
  struct slots *s = &h->of[segment];
  uint32_t asked = slots & s->asked, gone = asked | (slots & s->ghosts & ~s->ejected);
  s->asked &= ~gone;
  s->ejected |= gone;
  pthread_mutex_unlock(&h->lock);
  /* It is gone for the guest when this access ends, not when the main thread has got to it. */
  pthread_mutex_lock(&vm->segment[segment]->lock);
  for (unsigned i = 0; i < 32; i++)
    if (asked >> i & 1 && vm->segment[segment]->dev[i]) vm->segment[segment]->dev[i]->hidden = true;
  pthread_mutex_unlock(&vm->segment[segment]->lock);
  if (gone) vmm_post_event(vm, VMM_EVENT_HOTPLUG, 0);
}

static void hotplug_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  struct vmm_pci_hotplug *h = opaque;
  if (!is_write) memset(data, 0, size);
  if (size != 4 || offset % 4) return;
  uint32_t value = (uint32_t)vmm_load(data, 4);
  pthread_mutex_lock(&h->lock);
  uint32_t segment = h->selected;
  struct slots *s = segment < VMM_MAX_SEGMENTS && h->vm->segment[segment] ? &h->of[segment] : NULL;
  if (offset == PSEG) {
    if (is_write) h->selected = value;
    else vmm_store(data, 4, segment);
  } else if (s && !is_write && offset != B0EJ) {
    uint32_t *bits = offset == PCIU ? &s->up : &s->down;
    vmm_store(data, 4, *bits);
    *bits = 0;
  }
  pthread_mutex_unlock(&h->lock);
  if (s && is_write && offset == B0EJ) eject(h, segment, value);
}

/* The registers at `address`, which the bus has until the VM ends. After the segments. */
int vmm_pci_hotplug_new(vmm_vm *vm, uint64_t address) {
  if (vm->pci_hotplug) return -EEXIST;
  struct vmm_pci_hotplug *h = calloc(1, sizeof *h);
  if (!h) return -ENOMEM;
  h->vm = vm;
  pthread_mutex_init(&h->lock, NULL);
  vm->pci_hotplug = h;
  int err = vmm_bus_add(vm, VMM_MMIO, address, SIZE, hotplug_io, h);
  if (err) vmm_pci_hotplug_free(vm);
  return err;
}

void vmm_pci_hotplug_free(vmm_vm *vm) {
  struct vmm_pci_hotplug *h = vm->pci_hotplug;
  if (!h) return;
  for (struct gone *g = h->gone, *next; g; g = next) {
    next = g->next;
    free(g);
  }
  pthread_mutex_destroy(&h->lock);
  free(h);
  vm->pci_hotplug = NULL;
}

/* Tell the guest of an attached device. -ENODEV: this machine has no way to. */
int vmm_pci_plug(vmm_pci_dev *dev) {
  struct vmm_pci_segment *seg = dev->seg;
  struct vmm_pci_hotplug *h = dev->vm->pci_hotplug;
  if (!h || !seg) return -ENODEV;
  uint32_t bit = 1u << dev->slot;
  pthread_mutex_lock(&seg->lock);
  pthread_mutex_lock(&h->lock);
  struct slots *s = &h->of[seg->id];
  bool ghost = s->ghosts & bit;
  dev->hidden = ghost;
  if (!ghost) s->up |= bit;
  pthread_mutex_unlock(&h->lock);
  pthread_mutex_unlock(&seg->lock);
  return ghost ? 0 : vmm_ged_notify(dev->vm, VMM_GED_PCI);
}

/* Ask the guest to eject the device (again). -ENODEV: this machine cannot ask, or the guest has yet to let go of what
 * was in the slot before, and so knows nothing of it. */
int vmm_pci_unplug(vmm_pci_dev *dev) {
  struct vmm_pci_hotplug *h = dev->vm->pci_hotplug;
  if (!h || !dev->seg) return -ENODEV;
  uint32_t bit = 1u << dev->slot;
  pthread_mutex_lock(&h->lock);
  struct slots *s = &h->of[dev->seg->id];
  bool ghost = s->ghosts & bit, done = s->ejected & bit; /* it did, the main thread is on its way */
  if (!done && !ghost) s->asked |= bit, s->down |= bit;
  pthread_mutex_unlock(&h->lock);
  if (ghost) return -ENODEV;
  return done ? 0 : vmm_ged_notify(dev->vm, VMM_GED_PCI);
}

/* Take the device off its bus and tell the guest afterwards; with the controller, it leaves a ghost. Not from a vCPU
 * thread. */
void vmm_pci_vanish(vmm_pci_dev *dev) {
  struct vmm_pci_segment *seg = dev->seg;
  struct vmm_pci_hotplug *h = dev->vm->pci_hotplug;
  struct gone *found = NULL;
  bool hidden = false; /* the guest knows nothing of it, or has let go already */
  if (!seg) return;
  if (h) {
    pthread_mutex_lock(&seg->lock);
    hidden = dev->hidden;
    for (unsigned i = 0; i < 6; i++) {
      struct vmm_bar *b = &dev->bar[i];
      struct gone *g = b->size && b->at != VMM_NO_ADDR ? malloc(sizeof *g) : NULL;
      if (!g) continue;
      *g = (struct gone){found, seg->id, dev->slot, b->flags & VMM_BAR_IO ? VMM_PIO : VMM_MMIO, b->at, b->size};
      found = g;
    }
    pthread_mutex_unlock(&seg->lock);
  }
  uint32_t bit = 1u << dev->slot;
  vmm_pci_detach(dev);
  if (!h) return;
  pthread_mutex_lock(&h->lock);
  for (struct gone *g; (g = found);) {
    found = g->next;
    if (hidden || vmm_bus_move(h->vm, g->space, VMM_NO_ADDR, g->at, g->size, gone_io, h)) {
      free(g); /* somebody waited for the place, and has it */
      continue;
    }
    g->next = h->gone;
    h->gone = g;
  }
  struct slots *s = &h->of[seg->id];
  s->asked &= ~bit, s->up &= ~bit;
  if (!hidden) s->ejected &= ~bit, s->ghosts |= bit, s->down |= bit;
  pthread_mutex_unlock(&h->lock);
  if (!hidden) (void)vmm_ged_notify(h->vm, VMM_GED_PCI);
}

/* A slot that the guest has ejected and nobody was told of: segment * 32 + slot; -1: none. A ghost ends by this. */
int vmm_pci_ejected(vmm_vm *vm) {
  struct vmm_pci_hotplug *h = vm->pci_hotplug;
  int found = -1;
  if (!h) return -1;
  for (unsigned i = 0; i < VMM_MAX_SEGMENTS && found < 0; i++) {
    struct vmm_pci_segment *seg = vm->segment[i];
    if (!seg) continue;
    vmm_pci_dev *waiting = NULL;
    pthread_mutex_lock(&seg->lock);
    pthread_mutex_lock(&h->lock);
    struct slots *s = &h->of[i];
    if (s->ejected) {
      unsigned slot = (unsigned)__builtin_ctz(s->ejected);
      uint32_t bit = 1u << slot;
      found = (int)(i * 32 + slot);
      s->ejected &= ~bit;
      if (s->ghosts & bit) {
        struct gone like = {.segment = i, .slot = slot};
        s->ghosts &= ~bit;
        drop_gone(h, same_slot, &like);
        waiting = seg->dev[slot];
      }
    }
    pthread_mutex_unlock(&h->lock);
    pthread_mutex_unlock(&seg->lock);
    if (waiting) (void)vmm_pci_plug(waiting); /* without the lock: only this thread takes devices away */
  }
  return found;
}

/* A BAR wants to decode there: do ghosts give way? With the segment's lock held. */
bool vmm_pci_hotplug_yield(vmm_vm *vm, int space, uint64_t at, uint64_t size) {
  struct vmm_pci_hotplug *h = vm->pci_hotplug;
  if (!h) return false;
  struct gone like = {.space = space, .at = at, .size = size};
  pthread_mutex_lock(&h->lock);
  struct gone *before = h->gone;
  bool some = before != NULL;
  if (some) drop_gone(h, in_the_way, &like);
  pthread_mutex_unlock(&h->lock);
  return some;
}
