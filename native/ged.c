/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The generic event device's register (ACPI 6.5 §5.6.9): one byte of pending events, which a read clears. Its line is
 * high while there are some, so that none is lost while the guest has the interrupt masked (it boots).
 */
#include "native.h"

#include <stdlib.h>

struct vmm_ged {
  pthread_mutex_t lock;
  uint64_t address;
  uint32_t gsi;
  uint8_t bits;
};

static void ged_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  vmm_vm *vm = opaque;
  struct vmm_ged *ged = vm->ged;
  (void)offset;
  if (is_write) return;
  pthread_mutex_lock(&ged->lock);
  vmm_store(data, size, ged->bits);
  ged->bits = 0;
  (void)vmm_irq_level(vm, ged->gsi, 0, 0); /* that it could be raised says that it can be lowered */
  pthread_mutex_unlock(&ged->lock);
}

int vmm_ged_new(vmm_vm *vm, uint64_t address, uint32_t gsi) {
  if (vm->ged) return -EEXIST;
  struct vmm_ged *ged = calloc(1, sizeof *ged);
  if (!ged) return -ENOMEM;
  pthread_mutex_init(&ged->lock, NULL);
  ged->address = address;
  ged->gsi = gsi;
  vm->ged = ged;
  int err = vmm_bus_add(vm, VMM_MMIO, address, 1, ged_io, vm);
  if (err) vmm_ged_free(vm);
  return err;
}

/* Set bits (VMM_GED_*) and have the guest look at them. Any thread. -ENODEV: the machine has no event device. */
int vmm_ged_notify(vmm_vm *vm, uint32_t bits) {
  struct vmm_ged *ged = vm->ged;
  if (!ged) return -ENODEV;
  pthread_mutex_lock(&ged->lock);
  ged->bits |= (uint8_t)bits;
  int err = ged->bits ? vmm_irq_level(vm, ged->gsi, 0, 1) : 0;
  pthread_mutex_unlock(&ged->lock);
  return err;
}

/* Events that the guest has not taken. */
uint32_t vmm_ged_pending(vmm_vm *vm) {
  struct vmm_ged *ged = vm->ged;
  if (!ged) return 0;
  pthread_mutex_lock(&ged->lock);
  uint32_t bits = ged->bits;
  pthread_mutex_unlock(&ged->lock);
  return bits;
}

void vmm_ged_free(vmm_vm *vm) {
  if (!vm->ged) return;
  pthread_mutex_destroy(&vm->ged->lock);
  free(vm->ged);
  vm->ged = NULL;
}
