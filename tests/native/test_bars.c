/* SPDX-License-Identifier: Apache-2.0 */
/* Where BARs decode (PCI 3.0 §6.2.5). */
#include "pci_guest.h"

static vmm_pci_dev *plain(vmm_vm *vm, unsigned slot, uintptr_t id, uint32_t base) {
  vmm_pci_dev *dev = pci_dev(vm, (uint16_t)slot);
  bar(dev, 0, 0x1000, 0, id);
  EQ(vmm_pci_attach(dev, 0, slot), 0);
  setcfg(vm, slot, BAR0, 4, base);
  setcfg(vm, slot, COMMAND, 2, MEM_ON | IO_ON);
  return dev;
}

static unsigned who(vmm_vm *vm, uint64_t addr) {
  return (unsigned)rd(vm, VMM_MMIO, addr, 1);
}

TEST(bar_arguments_are_checked) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 1);
  EQ(vmm_pci_add_bar(dev, 6, 0x1000, 0, say_id, NULL), -EINVAL);
  EQ(vmm_pci_add_bar(dev, 5, 0x1000, VMM_BAR_64, say_id, NULL), -EINVAL);
  EQ(vmm_pci_add_bar(dev, 0, 0x1001, 0, say_id, NULL), -EINVAL);
  EQ(vmm_pci_add_bar(dev, 0, 8, 0, say_id, NULL), -EINVAL);
  EQ(vmm_pci_add_bar(dev, 0, 0, 0, say_id, NULL), -EINVAL);
  EQ(vmm_pci_add_bar(dev, 0, 2, VMM_BAR_IO, say_id, NULL), -EINVAL);
  EQ(vmm_pci_add_bar(dev, 0, 512, VMM_BAR_IO, say_id, NULL), -EINVAL);
  EQ(vmm_pci_add_bar(dev, 0, 1ull << 32, 0, say_id, NULL), -EINVAL);
  EQ(vmm_pci_add_bar(dev, 1, 0x1000, 0, say_id, NULL), 0);
  EQ(vmm_pci_add_bar(dev, 1, 0x1000, 0, say_id, NULL), -EINVAL);
  EQ(vmm_pci_add_bar(dev, 0, 0x1000, VMM_BAR_64, say_id, NULL), -EINVAL); /* its upper half is BAR 1 */
  EQ(vmm_pci_add_bar(dev, 2, 0x1000, VMM_BAR_64, say_id, NULL), 0);
  EQ(vmm_pci_add_bar(dev, 3, 0x1000, 0, say_id, NULL), -EINVAL);
  EQ(vmm_pci_bar_ioeventfd(dev, 1, 0xffe, 4, 1, 1), -EINVAL);
  EQ(vmm_pci_bar_ioeventfd(dev, 1, 0, 0x2000, 1, 1), -EINVAL);
  EQ(vmm_pci_bar_ioeventfd(dev, 1, UINT64_MAX, 4, 1, 1), -EINVAL);
  EQ(vmm_pci_bar_ioeventfd(dev, 0, 0, 4, 1, 1), -EINVAL);
  EQ(vmm_pci_attach(dev, 0, 1), 0);
  EQ(vmm_pci_add_bar(dev, 4, 0x1000, 0, say_id, NULL), -EBUSY);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(bar_is_sized_by_writing_ones) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 1);
  bar(dev, 0, 0x4000, 0, 0xa0);
  bar(dev, 1, 64, VMM_BAR_IO, 0xa1);
  bar(dev, 2, 8ull << 30, VMM_BAR_64 | VMM_BAR_PREFETCH, 0xa2);
  EQ(vmm_pci_attach(dev, 0, 1), 0);
  for (unsigned i = 0; i < 6; i++) setcfg(vm, 1, BAR0 + 4 * i, 4, 0xffffffff);
  EQ(cfg(vm, 1, BAR0, 4), 0xffffc000);
  EQ(cfg(vm, 1, BAR0 + 4, 4), 0xffffffc1);
  EQ(cfg(vm, 1, BAR0 + 8, 4), 0x0000000c);
  EQ(cfg(vm, 1, BAR0 + 12, 4), 0xfffffffe);
  EQ(cfg(vm, 1, BAR0 + 16, 4), 0);
  EQ(cfg(vm, 1, BAR0 + 20, 4), 0);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(bar_decodes_only_when_the_command_says_so) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 1);
  bar(dev, 0, 0x1000, 0, 0xa0);
  bar(dev, 1, 32, VMM_BAR_IO, 0xa1);
  EQ(vmm_pci_attach(dev, 0, 1), 0);
  setcfg(vm, 1, BAR0, 4, LOW + 0x5000);
  setcfg(vm, 1, BAR0 + 4, 4, PIO + 0x40);
  EQ(who(vm, LOW + 0x5000), 0xff);
  setcfg(vm, 1, COMMAND, 2, MEM_ON);
  EQ(who(vm, LOW + 0x5000), 0xa0);
  EQ(who(vm, LOW + 0x5fff), 0xa0);
  EQ(who(vm, LOW + 0x6000), 0xff);
  EQ(rd(vm, VMM_PIO, PIO + 0x40, 1), 0xff);
  setcfg(vm, 1, COMMAND, 1, IO_ON);
  EQ(who(vm, LOW + 0x5000), 0xff);
  EQ(rd(vm, VMM_PIO, PIO + 0x40, 4), 0xa1a1a1a1);
  EQ(vmm_pci_bar_base(dev, 1), PIO + 0x40);
  EQ(vmm_pci_bar_base(dev, 0), VMM_NO_ADDR);
  EQ(vmm_pci_bar_base(dev, 6), VMM_NO_ADDR);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(bar_decodes_only_in_its_windows) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 1);
  bar(dev, 0, 0x2000, VMM_BAR_64, 0xa0);
  bar(dev, 2, 0x2000, 0, 0xa2);
  bar(dev, 3, 32, VMM_BAR_IO, 0xa3);
  EQ(vmm_pci_attach(dev, 0, 1), 0);
  setcfg(vm, 1, COMMAND, 2, MEM_ON | IO_ON);
  struct {
    uint64_t at;
    bool good;
  } wide[] = {{0, 0},
              {0x100000, 0},
              {LOW - 0x2000, 0},
              {LOW, 1},
              {LOW + LOW_SIZE - 0x2000, 1},
              {LOW + LOW_SIZE, 0},
              {ECAM, 0},
              {0xfec00000, 0},
              {0xfee00000, 0},
              {0x100000000, 0},
              {HIGH - 0x2000, 0},
              {HIGH, 1},
              {HIGH + HIGH_SIZE - 0x2000, 1},
              {HIGH + HIGH_SIZE, 0},
              {UINT64_MAX - 0x1fff, 0}};
  for (unsigned i = 0; i < sizeof wide / sizeof *wide; i++) {
    setcfg(vm, 1, BAR0, 4, (uint32_t)wide[i].at);
    setcfg(vm, 1, BAR0 + 4, 4, (uint32_t)(wide[i].at >> 32));
    EQ(vmm_pci_bar_base(dev, 0), wide[i].good ? wide[i].at : VMM_NO_ADDR);
    if (wide[i].good) EQ(who(vm, wide[i].at + 0x1fff), 0xa0);
    if (wide[i].at >> 32) continue;
    setcfg(vm, 1, BAR0 + 4, 4, UINT32_MAX);
    setcfg(vm, 1, BAR0 + 8, 4, (uint32_t)wide[i].at);
    EQ(vmm_pci_bar_base(dev, 2), wide[i].good ? wide[i].at : VMM_NO_ADDR);
    setcfg(vm, 1, BAR0 + 8, 4, 0);
  }
  uint32_t ports[] = {0, 0xcf8, PIO - 32, PIO + PIO_SIZE, 0xffffffe0, 0x1c000};
  for (unsigned i = 0; i < sizeof ports / sizeof *ports; i++) {
    setcfg(vm, 1, BAR0 + 12, 4, ports[i]);
    EQ(vmm_pci_bar_base(dev, 3), VMM_NO_ADDR);
  }
  setcfg(vm, 1, BAR0 + 12, 4, PIO + PIO_SIZE - 32);
  EQ(vmm_pci_bar_base(dev, 3), PIO + PIO_SIZE - 32);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(bar_that_moves_leaves_nothing_behind) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = plain(vm, 1, 0xa0, LOW);
  setcfg(vm, 1, BAR0, 4, LOW + 0x1000);
  EQ(who(vm, LOW), 0xff);
  EQ(who(vm, LOW + 0x1000), 0xa0);
  setcfg(vm, 1, BAR0 + 1, 1, 0x30); /* by a single byte */
  EQ(who(vm, LOW + 0x1000), 0xff);
  EQ(who(vm, LOW + 0x3000), 0xa0);
  setcfg(vm, 1, COMMAND, 2, 0);
  EQ(who(vm, LOW + 0x3000), 0xff);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(bars_do_not_overlap) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *a = plain(vm, 1, 0xa0, LOW), *b = plain(vm, 2, 0xb0, LOW);
  EQ(who(vm, LOW), 0xa0); /* who was first */
  EQ(vmm_pci_bar_base(b, 0), VMM_NO_ADDR);
  setcfg(vm, 1, BAR0, 4, LOW + 0x8000); /* makes room */
  EQ(who(vm, LOW), 0xb0);
  EQ(who(vm, LOW + 0x8000), 0xa0);
  /* Also not over what is no BAR. */
  EQ(vmm_bus_add(vm, VMM_MMIO, LOW + 0x10800, 4, say_id, (void *)0xee), 0);
  setcfg(vm, 1, BAR0, 4, LOW + 0x10000);
  EQ(vmm_pci_bar_base(a, 0), VMM_NO_ADDR);
  EQ(who(vm, LOW + 0x10800), 0xee);
  vmm_pci_free(a);
  vmm_pci_free(b);
  fake_vm_end(vm);
}

TEST(bars_of_two_devices_swap) {
  vmm_vm *vm = pci_vm();
  for (unsigned order = 0; order < 2; order++) {
    vmm_pci_dev *a = plain(vm, 1, 0xa0, LOW), *b = plain(vm, 2, 0xb0, LOW + 0x1000);
    setcfg(vm, order ? 2 : 1, BAR0, 4, order ? LOW : LOW + 0x1000);
    setcfg(vm, order ? 1 : 2, BAR0, 4, order ? LOW + 0x1000 : LOW);
    EQ(who(vm, LOW), 0xb0);
    EQ(who(vm, LOW + 0x1000), 0xa0);
    vmm_pci_free(a);
    vmm_pci_free(b);
  }
  fake_vm_end(vm);
}

TEST(bars_of_one_device_swap) {
  vmm_vm *vm = pci_vm();
  for (unsigned order = 0; order < 2; order++) {
    vmm_pci_dev *dev = pci_dev(vm, 1);
    bar(dev, 0, 0x1000, 0, 0xa0);
    bar(dev, 1, 0x1000, 0, 0xa1);
    EQ(vmm_pci_attach(dev, 0, 1), 0);
    setcfg(vm, 1, BAR0, 4, LOW);
    setcfg(vm, 1, BAR0 + 4, 4, LOW + 0x1000);
    setcfg(vm, 1, COMMAND, 2, MEM_ON);
    setcfg(vm, 1, order ? BAR0 + 4 : BAR0, 4, order ? LOW : LOW + 0x1000);
    setcfg(vm, 1, order ? BAR0 : BAR0 + 4, 4, order ? LOW + 0x1000 : LOW);
    EQ(who(vm, LOW), 0xa1);
    EQ(who(vm, LOW + 0x1000), 0xa0);
    vmm_pci_free(dev);
  }
  fake_vm_end(vm);
}

TEST(bar_takes_the_place_of_a_device_that_goes) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *a = plain(vm, 1, 0xa0, LOW), *b = plain(vm, 2, 0xb0, LOW);
  vmm_pci_detach(a);
  EQ(who(vm, LOW), 0xb0);
  vmm_pci_free(a);
  vmm_pci_free(b);
  EQ(who(vm, LOW), 0xff);
  fake_vm_end(vm);
}

TEST(ioeventfds_follow_their_bar) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 1);
  bar(dev, 0, 0x1000, 0, 0xa0);
  bar(dev, 1, 64, VMM_BAR_IO, 0xa1);
  int fd = eventfd(0, EFD_CLOEXEC), other = eventfd(0, EFD_CLOEXEC);
  EQ(vmm_pci_bar_ioeventfd(dev, 0, 0x800, 2, fd, 1), 0);
  EQ(vmm_pci_bar_ioeventfd(dev, 0, 0x800, 2, fd, 1), -EEXIST);
  EQ(vmm_pci_bar_ioeventfd(dev, 0, 0x804, 2, fd, 0), -ENOENT);
  EQ(vmm_pci_attach(dev, 0, 1), 0);
  EQ(fake.n_ioeventfds, 0); /* decodes nowhere yet */
  setcfg(vm, 1, BAR0, 4, LOW);
  setcfg(vm, 1, BAR0 + 4, 4, PIO);
  setcfg(vm, 1, COMMAND, 2, MEM_ON);
  EQ(fake.n_ioeventfds, 1);
  EQ(fake.ioeventfd[0].addr, LOW + 0x800);
  EQ(vmm_pci_bar_ioeventfd(dev, 0, 0x804, 0, other, 1), 0);
  EQ(fake.n_ioeventfds, 2);
  setcfg(vm, 1, BAR0, 4, LOW + 0x10000);
  EQ(fake.n_ioeventfds, 2);
  for (unsigned i = 0; i < 2; i++) CHECK(fake.ioeventfd[i].addr >> 12 == (LOW + 0x10000) >> 12);
  EQ(vmm_pci_bar_ioeventfd(dev, 0, 0x800, 2, fd, 0), 0);
  EQ(fake.n_ioeventfds, 1);
  EQ(fake.ioeventfd[0].fd, other);
  EQ(vmm_pci_bar_ioeventfd(dev, 1, 16, 2, fd, 1), 0);
  EQ(fake.n_ioeventfds, 1);
  setcfg(vm, 1, COMMAND, 2, IO_ON);
  EQ(fake.n_ioeventfds, 1);
  EQ(fake.ioeventfd[0].addr, PIO + 16);
  CHECK(fake.ioeventfd[0].flags & KVM_IOEVENTFD_FLAG_PIO);
  setcfg(vm, 1, COMMAND, 2, MEM_ON | IO_ON);
  EQ(fake.n_ioeventfds, 2);
  vmm_pci_detach(dev);
  EQ(fake.n_ioeventfds, 0);
  vmm_pci_free(dev);
  close(fd);
  close(other);
  fake_vm_end(vm);
}

static unsigned slots_in_use(void) {
  unsigned n = 0;
  for (unsigned i = 0; i < FAKE_SLOTS; i++) n += fake.slot[i].memory_size != 0;
  return n;
}

TEST(bar_of_memory_is_a_slot_while_it_decodes) {
  static uint8_t host[65536] __attribute__((aligned(4096)));
  vmm_vm *vm = pci_vm();
  unsigned before = slots_in_use();
  for (unsigned round = 0; round < 600; round++) { /* more often than there are slots */
    vmm_pci_dev *dev = pci_dev(vm, 0x1041);
    bar(dev, 0, sizeof host, VMM_BAR_64, 1);
    EQ(vmm_pci_bar_memory(dev, 0, host), 0);
    EQ(vmm_pci_bar_first(dev, 0, HIGH + round % 7 * 0x10000), 0);
    EQ(vmm_pci_attach(dev, 0, 3), 0);
    EQ(slots_in_use(), before);
    setcfg(vm, 3, COMMAND, 2, MEM_ON);
    EQ(slots_in_use(), before + 1);
    setcfg(vm, 3, BAR0, 4, 0x90000 | 4); /* it moves */
    EQ(slots_in_use(), before + 1);
    if (round % 2) setcfg(vm, 3, COMMAND, 2, 0);
    EQ(slots_in_use(), before + !(round % 2));
    vmm_pci_free(dev);
    EQ(slots_in_use(), before);
  }
  fake_vm_end(vm);
}
