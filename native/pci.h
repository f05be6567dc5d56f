/* SPDX-License-Identifier: Apache-2.0 */
/* What pci.c and msix.c share. */
#ifndef VMM_PCI_H
#define VMM_PCI_H

#include "native.h"

struct vmm_pci_ioeventfd {
  struct vmm_pci_ioeventfd *next;
  uint64_t offset;
  uint32_t len;
  int fd;
};

struct vmm_bar {
  uint64_t size; /* 0: none, or the upper half of the 64-bit BAR before it */
  uint32_t flags;
  uint64_t at; /* where it decodes now, VMM_NO_ADDR: nowhere */
  vmm_io_fn fn;
  void *opaque;
  void *memory; /* host memory that the guest maps here, instead of a handler */
  int slot;     /* its KVM slot, -1: none */
  struct vmm_pci_ioeventfd *ioeventfds;
};

struct vmm_msix_vector {
  int fd, gsi;
  bool assigned;
};

struct vmm_msix {
  unsigned n, bar;
  uint32_t cap; /* config offset of the capability */
  uint64_t table_at, pba_at;
  uint8_t *table;
  struct vmm_msix_vector *vec;
  _Atomic bool enabled;
  bool masked;
  pthread_mutex_t lock;
};

struct vmm_pci_segment {
  vmm_vm *vm;
  unsigned id;
  uint64_t ecam;
  struct {
    uint64_t base, size;
  } window[3]; /* mmio32, mmio64, pio */
  uint32_t address; /* CONFIG_ADDRESS, segment 0 */
  pthread_mutex_t lock; /* config writes and BAR mapping of all its devices */
  vmm_pci_dev *dev[32];
};

struct vmm_pci_dev {
  vmm_vm *vm;
  struct vmm_pci_segment *seg; /* NULL while detached */
  unsigned slot;
  bool hidden; /* under seg->lock: config space shows an empty slot */
  uint8_t cfg[4096], wmask[4096], w1c[4096], initial[4096];
  uint32_t last_cap, next_free; /* of the capability list */
  struct vmm_bar bar[6];
  struct vmm_msix *msix;
  vmm_pci_access_fn on_access;
  void *on_access_opaque;
  pthread_mutex_t intx_lock;
  bool intx_wired;   /* the function has an interrupt pin, and it ends at intx_gsi */
  uint32_t intx_gsi;
  bool intx;         /* asserted by the device, whether or not the guest lets it through */
};

/* Who a message comes from: the requester id on a segment's only bus, 256 ids to a segment (the tables that tell the
 * guest, msi-map and IORT, say the same). */
static inline uint32_t vmm_pci_requester(const vmm_pci_dev *dev) {
  return (dev->seg ? dev->seg->id << 8 : 0) | dev->slot << 3;
}

bool vmm_pci_hotplug_yield(vmm_vm *vm, int space, uint64_t at, uint64_t size);

bool vmm_msix_io(vmm_pci_dev *dev, unsigned bar, uint64_t offset, void *data, uint32_t size, int is_write);
void vmm_msix_control(vmm_pci_dev *dev);
void vmm_msix_free(vmm_pci_dev *dev);
void vmm_msix_reset(vmm_pci_dev *dev);
size_t vmm_msix_state_size(const vmm_pci_dev *dev);
void vmm_msix_save(vmm_pci_dev *dev, uint8_t *out);
void vmm_msix_restore(vmm_pci_dev *dev, const uint8_t *in);

#endif
