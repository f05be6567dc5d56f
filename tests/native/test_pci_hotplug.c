/* SPDX-License-Identifier: Apache-2.0 */
/* The event device's byte and the controller of PCI hot plug, used as a guest's ACPI methods do. */
#include "pci_guest.h"

enum { GED = 0x9000, PHPR = 0xa000, GSI = 13, PCIU = 0, PCID = 4, B0EJ = 8, PSEG = 12 };

static vmm_vm *hotplug_vm(void) {
  vmm_vm *vm = pci_vm();
  EQ(vmm_pci_segment_add(vm, 1, ECAM + 0x100000, LOW + LOW_SIZE, 0x10000000, HIGH + HIGH_SIZE, HIGH_SIZE, 0, 0), 0);
  EQ(vmm_ged_new(vm, GED, GSI), 0);
  EQ(vmm_pci_hotplug_new(vm, PHPR), 0);
  return vm;
}

static uint32_t reg(vmm_vm *vm, uint32_t segment, uint32_t at) {
  wr(vm, VMM_MMIO, PHPR + PSEG, 4, segment);
  return (uint32_t)rd(vm, VMM_MMIO, PHPR + at, 4);
}

static void eject(vmm_vm *vm, uint32_t segment, unsigned slot) {
  wr(vm, VMM_MMIO, PHPR + PSEG, 4, segment);
  wr(vm, VMM_MMIO, PHPR + B0EJ, 4, 1u << slot);
}

static unsigned events(vmm_vm *vm) {
  struct vmm_event e;
  unsigned n = 0;
  while (vmm_event_next(vm, &e)) n += e.kind == VMM_EVENT_HOTPLUG;
  return n;
}

static bool line(void) {
  CHECK(fake.n_lines && fake.n_lines <= 64);
  EQ(fake.line[fake.n_lines - 1].irq, GSI);
  return fake.line[fake.n_lines - 1].level;
}

static vmm_pci_dev *device(vmm_vm *vm, uint16_t id, unsigned segment, unsigned slot) {
  vmm_pci_dev *dev = pci_dev(vm, id);
  bar(dev, 0, 0x1000, 0, id & 0xff);
  EQ(vmm_pci_bar_first(dev, 0, LOW + 0x1000 * slot), 0);
  EQ(vmm_pci_attach(dev, segment, slot), 0);
  return dev;
}

TEST(ged_line_is_high_until_the_events_are_taken) {
  vmm_vm *vm = hotplug_vm();
  EQ(rd(vm, VMM_MMIO, GED, 1), 0);
  EQ(vmm_ged_notify(vm, VMM_GED_POWER), 0);
  CHECK(line());
  EQ(vmm_ged_notify(vm, VMM_GED_PCI), 0);
  wr(vm, VMM_MMIO, GED, 1, 0xff); /* nothing */
  EQ(vmm_ged_pending(vm), 12);
  EQ(rd(vm, VMM_MMIO, GED, 1), 12);
  CHECK(!line());
  EQ(rd(vm, VMM_MMIO, GED, 1), 0);
  EQ(vmm_ged_notify(vm, VMM_GED_CPU), 0);
  CHECK(line());
  fake_vm_end(vm);
  vm = pci_vm();
  EQ(vmm_ged_notify(vm, 1), -ENODEV);
  vmm_pci_dev *dev = device(vm, 0x1041, 0, 3);
  EQ(vmm_pci_plug(dev), -ENODEV);
  EQ(vmm_pci_unplug(dev), -ENODEV);
  vmm_pci_vanish(dev);
  EQ(cfg(vm, 3, 0, 4), 0xffffffff);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(pci_hotplug_asks_and_hears_once) {
  vmm_vm *vm = hotplug_vm();
  vmm_pci_dev *dev = device(vm, 0x1041, 1, 31);
  EQ(vmm_pci_plug(dev), 0);
  EQ(rd(vm, VMM_MMIO, GED, 1), VMM_GED_PCI);
  EQ(reg(vm, 0, PCIU), 0);
  EQ(reg(vm, 1, PCIU), 1u << 31);
  EQ(reg(vm, 1, PCIU), 0); /* a read clears */
  EQ(reg(vm, 1, PCID), 0);

  for (unsigned i = 0; i < 1000; i++) eject(vm, 1, 31); /* nobody asked for it */
  EQ(events(vm), 0);
  EQ(vmm_pci_ejected(vm), -1);
  EQ(rd(vm, VMM_MMIO, ECAM + 0x100000 + (31 << 15), 4), 0x10411af4);

  EQ(vmm_pci_unplug(dev), 0);
  EQ(vmm_pci_unplug(dev), 0);
  EQ(rd(vm, VMM_MMIO, GED, 1), VMM_GED_PCI);
  EQ(reg(vm, 1, PCID), 1u << 31);
  EQ(reg(vm, 1, PCID), 0);
  eject(vm, 0, 31); /* another segment's */
  EQ(events(vm), 0);
  for (unsigned i = 0; i < 1000; i++) eject(vm, 1, 31);
  EQ(events(vm), 1);
  EQ(rd(vm, VMM_MMIO, ECAM + 0x100000 + (31 << 15), 4), 0xffffffff); /* gone before the main thread looks */
  EQ(vmm_pci_unplug(dev), 0); /* asked again just now: it is done */
  EQ(reg(vm, 1, PCID), 0);
  EQ(vmm_pci_ejected(vm), 32 + 31);
  EQ(vmm_pci_ejected(vm), -1);
  vmm_pci_free(dev);

  dev = device(vm, 0x1042, 1, 31); /* the place is free at once */
  EQ(rd(vm, VMM_MMIO, ECAM + 0x100000 + (31 << 15), 4), 0x10421af4);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(pci_hotplug_registers_are_dwords_of_segments_that_exist) {
  vmm_vm *vm = hotplug_vm();
  vmm_pci_dev *dev = device(vm, 0x1041, 0, 3);
  EQ(vmm_pci_plug(dev), 0);
  EQ(reg(vm, 95, PCIU), 0);
  EQ(reg(vm, 0xffffffff, PCIU), 0);
  EQ(rd(vm, VMM_MMIO, PHPR + PSEG, 4), 0xffffffff);
  wr(vm, VMM_MMIO, PHPR + B0EJ, 4, ~0u);
  wr(vm, VMM_MMIO, PHPR + PSEG, 4, 0);
  EQ(rd(vm, VMM_MMIO, PHPR + PCIU, 1), 0); /* narrow, wide and odd ones do nothing */
  EQ(rd(vm, VMM_MMIO, PHPR + PCIU, 8), 0);
  EQ(rd(vm, VMM_MMIO, PHPR + 2, 4), 0);
  EQ(rd(vm, VMM_MMIO, PHPR + PCIU, 4), 1u << 3);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(pci_vanished_device_leaves_a_ghost) {
  vmm_vm *vm = hotplug_vm();
  vmm_pci_dev *dev = device(vm, 0x1041, 0, 3);
  setcfg(vm, 3, COMMAND, 2, MEM_ON);
  EQ(rd(vm, VMM_MMIO, LOW + 0x3000, 1), 0x41);
  EQ(vmm_pci_unplug(dev), 0); /* asked, but then nobody waits for the guest */
  vmm_pci_vanish(dev);
  vmm_pci_free(dev);
  EQ(cfg(vm, 3, 0, 4), 0xffffffff);
  EQ(rd(vm, VMM_MMIO, LOW + 0x3000, 4), 0); /* a driver that waits for a status of 0 */
  wr(vm, VMM_MMIO, LOW + 0x3ffc, 4, 1);
  EQ(rd(vm, VMM_MMIO, GED, 1), VMM_GED_PCI);
  EQ(reg(vm, 0, PCID), 1u << 3);

  dev = device(vm, 0x1042, 0, 3); /* another in the slot shows when the guest has let go of the first */
  EQ(vmm_pci_plug(dev), 0);
  EQ(cfg(vm, 3, 0, 4), 0xffffffff);
  setcfg(vm, 3, COMMAND, 2, MEM_ON);
  EQ(reg(vm, 0, PCIU), 0);
  eject(vm, 0, 3);
  eject(vm, 0, 3);
  EQ(events(vm), 1);
  EQ(vmm_pci_ejected(vm), 3);
  EQ(cfg(vm, 3, 0, 4), 0x10421af4);
  EQ(rd(vm, VMM_MMIO, LOW + 0x3000, 4), 0xffffffff);
  EQ(rd(vm, VMM_MMIO, GED, 1), VMM_GED_PCI);
  EQ(reg(vm, 0, PCIU), 1u << 3);

  setcfg(vm, 3, COMMAND, 2, MEM_ON); /* and a ghost gives way to whoever wants its place */
  vmm_pci_vanish(dev);
  vmm_pci_free(dev);
  EQ(rd(vm, VMM_MMIO, LOW + 0x3000, 4), 0);
  vmm_pci_dev *other = pci_dev(vm, 0x1043);
  bar(other, 0, 0x1000, 0, 0x43);
  EQ(vmm_pci_bar_first(other, 0, LOW + 0x3000), 0);
  EQ(vmm_pci_attach(other, 0, 4), 0);
  EQ(vmm_pci_plug(other), 0);
  setcfg(vm, 4, COMMAND, 2, MEM_ON);
  EQ(rd(vm, VMM_MMIO, LOW + 0x3000, 1), 0x43);
  eject(vm, 0, 3);
  EQ(vmm_pci_ejected(vm), 3);
  EQ(rd(vm, VMM_MMIO, LOW + 0x3000, 1), 0x43);
  vmm_pci_free(other);
  fake_vm_end(vm);
}

TEST(pci_hotplug_while_vcpus_eject) {
  vmm_vm *vm = hotplug_vm();
  guest_start(vm, 1);
  for (unsigned i = 0; i < 200; i++) {
    vmm_pci_dev *dev = device(vm, 0x1041, 0, 3);
    EQ(vmm_pci_plug(dev), 0);
    guest_write(0, VMM_MMIO, ecam(3, COMMAND), 2, MEM_ON);
    EQ(vmm_pci_unplug(dev), 0);
    guest_begin(0, VMM_MMIO, PHPR + B0EJ, 4, 1u << 3, 1);
    if (i % 2) vmm_pci_vanish(dev);
    guest_end(0);
    while (i % 2 && vmm_pci_ejected(vm) < 0) guest_write(0, VMM_MMIO, PHPR + B0EJ, 4, 1u << 3);
    if (i % 2 == 0) EQ(vmm_pci_ejected(vm), 3);
    EQ(vmm_pci_ejected(vm), -1);
    vmm_pci_free(dev);
    events(vm);
  }
  fake_vm_end(vm);
}
