/* SPDX-License-Identifier: Apache-2.0 */
/* A segment as the x86 machine has it, and a guest's accesses to it. */
#ifndef PCI_GUEST_H
#define PCI_GUEST_H

#include "harness.h"

enum { COMMAND = 4, BAR0 = 0x10, IO_ON = 1, MEM_ON = 2 };
#define ECAM 0xe0000000u
#define LOW 0xc0000000u /* 32-bit window, 256 MiB */
#define LOW_SIZE 0x10000000u
#define HIGH 0x4000000000u /* 64-bit window, 64 GiB */
#define HIGH_SIZE 0x1000000000u
#define PIO 0xc000u
#define PIO_SIZE 0x4000u

static inline vmm_vm *pci_vm(void) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_irq_chip(vm, KVM_IRQCHIP_IOAPIC, 24), 0);
  EQ(vmm_pci_segment_add(vm, 0, ECAM, LOW, LOW_SIZE, HIGH, HIGH_SIZE, PIO, PIO_SIZE), 0);
  return vm;
}

static inline uint64_t rd(vmm_vm *vm, int space, uint64_t addr, uint32_t size) {
  uint8_t data[8] = {0};
  vmm_bus_access(vm, space, addr, data, size, 0);
  return vmm_load(data, size);
}

static inline void wr(vmm_vm *vm, int space, uint64_t addr, uint32_t size, uint64_t v) {
  uint8_t data[8];
  vmm_store(data, 8, v);
  vmm_bus_access(vm, space, addr, data, size, 1);
}

static inline uint64_t ecam(unsigned slot, uint32_t at) {
  return ECAM + ((uint64_t)slot << 15) + at;
}

static inline uint32_t cfg(vmm_vm *vm, unsigned slot, uint32_t at, uint32_t size) {
  return (uint32_t)rd(vm, VMM_MMIO, ecam(slot, at), size);
}

static inline void setcfg(vmm_vm *vm, unsigned slot, uint32_t at, uint32_t size, uint32_t v) {
  wr(vm, VMM_MMIO, ecam(slot, at), size, v);
}

/* A BAR whose reads tell who they are: byte `id` repeated. */
static inline void say_id(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  (void)offset;
  if (!is_write) memset(data, (int)(uintptr_t)opaque, size);
}

static inline vmm_pci_dev *pci_dev(vmm_vm *vm, uint16_t id) {
  vmm_pci_dev *dev = vmm_pci_new(vm);
  CHECK(dev);
  EQ(vmm_pci_set(dev, 0, 2, 0x1af4, 0, 0), 0);
  EQ(vmm_pci_set(dev, 2, 2, id, 0, 0), 0);
  return dev;
}

static inline void bar(vmm_pci_dev *dev, unsigned i, uint64_t size, uint32_t flags, uintptr_t id) {
  EQ(vmm_pci_add_bar(dev, i, size, flags, say_id, (void *)id), 0);
}

#endif
