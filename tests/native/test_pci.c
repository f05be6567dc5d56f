/* SPDX-License-Identifier: Apache-2.0 */
/* Config space: ECAM and CF8/CFC, masks, capabilities (PCI 3.0 §6, PCIe 4.0 §7.2). */
#include "pci_guest.h"

TEST(pci_ecam_of_every_width) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 0x1041);
  EQ(vmm_pci_set(dev, 0xffc, 4, 0xa1b2c3d4, 0, 0), 0);
  EQ(vmm_pci_attach(dev, 0, 3), 0);
  EQ(cfg(vm, 3, 0, 4), 0x10411af4);
  EQ(cfg(vm, 3, 1, 1), 0x1a);
  EQ(cfg(vm, 3, 1, 2), 0x411a);
  EQ(cfg(vm, 3, 2, 2), 0x1041);
  EQ(cfg(vm, 3, 0xffc, 4), 0xa1b2c3d4);
  EQ(cfg(vm, 3, 0xfff, 1), 0xa1);
  EQ(cfg(vm, 3, 0xffd, 4), 0xffffffff); /* over the end of the function */
  EQ(rd(vm, VMM_MMIO, ecam(3, 0), 8), 0x10411af4);
  EQ(cfg(vm, 4, 0, 4), 0xffffffff);
  EQ(rd(vm, VMM_MMIO, ecam(3, 0) + 0x1000, 4), 0xffffffff); /* function 1 */
  setcfg(vm, 4, 0, 4, 0);                                   /* nobody */
  wr(vm, VMM_MMIO, ecam(3, COMMAND) + 0x1000, 2, 7);
  EQ(cfg(vm, 3, COMMAND, 2), 0);
  vmm_pci_free(dev);
  EQ(cfg(vm, 3, 0, 4), 0xffffffff);
  fake_vm_end(vm);
}

TEST(pci_cf8_of_every_width) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 0x1041);
  EQ(vmm_pci_set(dev, 0x100, 4, 0x12345678, 0, 0), 0);
  EQ(vmm_pci_set(dev, 0xfc, 4, 0xcafef00d, 0, 0), 0);
  EQ(vmm_pci_attach(dev, 0, 3), 0);
  wr(vm, VMM_PIO, 0xcf8, 4, 0x80001800);
  EQ(rd(vm, VMM_PIO, 0xcf8, 4), 0x80001800);
  EQ(rd(vm, VMM_PIO, 0xcfc, 4), 0x10411af4);
  EQ(rd(vm, VMM_PIO, 0xcfe, 2), 0x1041);
  EQ(rd(vm, VMM_PIO, 0xcfd, 1), 0x1a);
  EQ(rd(vm, VMM_PIO, 0xcfd, 2), 0x411a);
  EQ(rd(vm, VMM_PIO, 0xcfe, 4), 0xffffffff); /* over the end of the data port */
  wr(vm, VMM_PIO, 0xcf8, 1, 0);              /* narrower writes are other people's */
  wr(vm, VMM_PIO, 0xcfa, 2, 0);
  wr(vm, VMM_PIO, 0xcf9, 1, 6);
  EQ(rd(vm, VMM_PIO, 0xcf8, 4), 0x80001800);
  EQ(rd(vm, VMM_PIO, 0xcf8, 2), 0xffff);
  wr(vm, VMM_PIO, 0xcf8, 4, 0x800018fc);
  EQ(rd(vm, VMM_PIO, 0xcfc, 4), 0xcafef00d);
  EQ(rd(vm, VMM_PIO, 0xcff, 1), 0xca);
  wr(vm, VMM_PIO, 0xcf8, 4, 0x80001804);
  wr(vm, VMM_PIO, 0xcfc, 2, 4);
  EQ(cfg(vm, 3, COMMAND, 2), 4); /* the same space as ECAM's */
  uint32_t nobody[] = {0x00001800, 0x80011800, 0x80001900, 0x80002000};
  for (unsigned i = 0; i < 4; i++) { /* disabled; bus 1; function 1; slot 4 */
    wr(vm, VMM_PIO, 0xcf8, 4, nobody[i]);
    EQ(rd(vm, VMM_PIO, 0xcfc, 4), 0xffffffff);
    wr(vm, VMM_PIO, 0xcfc, 4, 0);
  }
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(pci_masks_and_w1c) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 1);
  EQ(vmm_pci_set(dev, 0x80, 4, 0x11223344, 0x0000ff0f, 0), 0);
  EQ(vmm_pci_set(dev, 0x84, 2, 0xff0f, 0, 0xf003), 0);
  EQ(vmm_pci_set(dev, 0xffd, 4, 0, 0, 0), -EINVAL);
  EQ(vmm_pci_set(dev, 0x80, 5, 0, 0, 0), -EINVAL);
  EQ(vmm_pci_set(dev, 0x80, 0, 0, 0, 0), -EINVAL);
  EQ(vmm_pci_set(dev, UINT32_MAX, 4, 0, 0, 0), -EINVAL);
  EQ(vmm_pci_get(dev, UINT32_MAX, 4), 0xffffffff);
  EQ(vmm_pci_attach(dev, 0, 0), 0);
  setcfg(vm, 0, 0x80, 4, 0xffffffff);
  EQ(cfg(vm, 0, 0x80, 4), 0x1122ff4f);
  setcfg(vm, 0, 0x80, 4, 0);
  EQ(cfg(vm, 0, 0x80, 4), 0x11220040);
  setcfg(vm, 0, 0x81, 1, 0x5a); /* one byte only */
  EQ(cfg(vm, 0, 0x80, 4), 0x11225a40);
  setcfg(vm, 0, 0x84, 2, 0x1001);
  EQ(cfg(vm, 0, 0x84, 2), 0xef0e);
  setcfg(vm, 0, 0x84, 2, 0x0ffc); /* not clearable, or zeros */
  EQ(cfg(vm, 0, 0x84, 2), 0xef0e);
  setcfg(vm, 0, 0, 4, 0); /* the identity stays */
  EQ(cfg(vm, 0, 0, 4), 0x00011af4);
  EQ(vmm_pci_get(dev, 0x80, 2), 0x5a40);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(pci_capabilities_form_a_list) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 1);
  EQ(cfg(vm, 0, 0x34, 1), 0xff);
  uint8_t body[0xc0] = {1, 2, 3}, mask[0xc0] = {0, 0xff, 0};
  int a = vmm_pci_add_cap(dev, 9, body, mask, 3), b = vmm_pci_add_cap(dev, 0x11, body, NULL, 10);
  CHECK(a >= 0x40 && b > a && a % 4 == 0 && b % 4 == 0);
  EQ(vmm_pci_add_cap(dev, 9, body, mask, 0xc0), -ENOSPC);
  EQ(vmm_pci_add_cap(dev, 9, body, mask, UINT32_MAX), -ENOSPC);
  EQ(vmm_pci_attach(dev, 0, 0), 0);
  EQ(vmm_pci_add_cap(dev, 9, body, mask, 3), -EBUSY);
  CHECK(cfg(vm, 0, 6, 2) & 0x10); /* status: there is a list */
  EQ(cfg(vm, 0, 0x34, 1), a);
  EQ(cfg(vm, 0, (uint32_t)a, 1), 9);
  EQ(cfg(vm, 0, (uint32_t)a + 1, 1), b);
  EQ(cfg(vm, 0, (uint32_t)b + 1, 1), 0);
  setcfg(vm, 0, (uint32_t)a, 4, 0xffffffff);
  EQ(cfg(vm, 0, (uint32_t)a, 4), 0x02010009u | (uint32_t)b << 8 | 0xff000000u);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

struct told {
  uint32_t offset, size;
  unsigned n, reads;
};

static void on_access(void *opaque, uint32_t offset, uint32_t size, int is_write) {
  struct told *t = opaque;
  if (!is_write) {
    t->reads++;
    return;
  }
  t->offset = offset, t->size = size, t->n++;
}

TEST(pci_device_hears_of_config_writes) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 1);
  struct told t = {0};
  vmm_pci_on_access(dev, on_access, &t);
  EQ(vmm_pci_attach(dev, 0, 1), 0);
  setcfg(vm, 1, 0x3c, 1, 7);
  EQ(t.n, 1);
  EQ(t.offset, 0x3c);
  EQ(t.size, 1);
  EQ(t.reads, 0);
  cfg(vm, 1, 0x3c, 1);
  EQ(t.reads, 1);
  setcfg(vm, 2, 0x3c, 1, 7);
  EQ(t.n, 1);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(pci_segments_and_slots_are_checked) {
  vmm_vm *vm = pci_vm();
  EQ(vmm_pci_segment_add(vm, 0, 0, 0, 0, 0, 0, 0, 0), -EINVAL);
  EQ(vmm_pci_segment_add(vm, VMM_MAX_SEGMENTS, 0, 0, 0, 0, 0, 0, 0), -EINVAL);
  EQ(vmm_pci_segment_add(vm, 1, ECAM + 0x80000, 0, 0, 0, 0, 0, 0), -EEXIST);
  EQ(vmm_pci_segment_add(vm, 1, ECAM + 0x100000, 0, 0, 0, 0, 0, 0), 0);
  vmm_pci_dev *a = pci_dev(vm, 1), *b = pci_dev(vm, 2);
  EQ(vmm_pci_attach(a, 2, 0), -EINVAL);
  EQ(vmm_pci_attach(a, VMM_MAX_SEGMENTS, 0), -EINVAL);
  EQ(vmm_pci_attach(a, 0, 32), -EINVAL);
  EQ(vmm_pci_attach(a, 1, 5), 0);
  EQ(vmm_pci_attach(a, 0, 5), -EINVAL);
  EQ(vmm_pci_attach(b, 1, 5), -EEXIST);
  EQ(vmm_pci_attach(b, 0, 5), 0);
  EQ(rd(vm, VMM_MMIO, ECAM + 0x100000 + (5 << 15), 4), 0x00011af4);
  EQ(cfg(vm, 5, 0, 4), 0x00021af4);
  vmm_pci_free(a);
  vmm_pci_free(b);
  fake_vm_end(vm);
}

TEST(pci_reset_and_restore) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 1);
  bar(dev, 0, 0x1000, 0, 0xa0);
  static uint8_t state[5000], short_one[100];
  EQ(vmm_pci_attach(dev, 0, 1), 0);
  setcfg(vm, 1, BAR0, 4, LOW);
  setcfg(vm, 1, COMMAND, 2, MEM_ON);
  int len = vmm_pci_save(dev, state, sizeof state);
  EQ(len, 4096);
  EQ(vmm_pci_save(dev, short_one, sizeof short_one), -ENOSPC);
  vmm_pci_reset(dev);
  EQ(cfg(vm, 1, COMMAND, 2), 0);
  EQ(cfg(vm, 1, BAR0, 4), 0);
  EQ(vmm_pci_bar_base(dev, 0), VMM_NO_ADDR);
  EQ(rd(vm, VMM_MMIO, LOW, 1), 0xff);
  state[0] = 0x55; /* a lie about what the device is */
  EQ(vmm_pci_restore(dev, state, (size_t)len), 0);
  EQ(cfg(vm, 1, 0, 4), 0x00011af4);
  EQ(vmm_pci_bar_base(dev, 0), LOW);
  EQ(rd(vm, VMM_MMIO, LOW, 1), 0xa0);
  EQ(vmm_pci_restore(dev, state, (size_t)len - 1), -EINVAL);
  vmm_pci_detach(dev);
  EQ(vmm_pci_restore(dev, state, (size_t)len), -EINVAL);
  EQ(rd(vm, VMM_MMIO, LOW, 1), 0xff);
  EQ(vmm_pci_attach(dev, 0, 2), 0); /* plugged in again: as new */
  EQ(cfg(vm, 2, COMMAND, 2), 0);
  EQ(rd(vm, VMM_MMIO, LOW, 1), 0xff);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

/* --- many vCPUs --- */

static void storm(unsigned cpu, uint64_t turn, struct kvm_run *run) {
  uint32_t x = (uint32_t)(turn * 2654435761u + cpu * 40503u);
  if (cpu & 1) { /* CF8, then CFC */
    run->exit_reason = KVM_EXIT_IO;
    run->io.direction = turn & 1 ? (x >> 5 & 1) : KVM_EXIT_IO_OUT;
    run->io.size = 4;
    run->io.port = turn & 1 ? 0xcfc : 0xcf8;
    run->io.count = 1;
    run->io.data_offset = 4096;
    uint32_t v = turn & 1 ? LOW + (x & 0xf000) : 0x80000810u + (x >> 9 & 1) * 4;
    memcpy((uint8_t *)run + 4096, &v, 4);
  } else {
    run->exit_reason = KVM_EXIT_MMIO;
    run->mmio.is_write = x >> 7 & 1;
    run->mmio.len = 4;
    run->mmio.phys_addr = x >> 8 & 1 ? LOW + (x & 0xfffc) : ecam(1 + (x >> 9 & 1), COMMAND);
    uint32_t v = MEM_ON;
    memcpy(run->mmio.data, &v, 4);
  }
}

TEST(pci_bars_move_while_vcpus_run) {
  vmm_vm *vm = pci_vm();
  guest_start(vm, 4);
  for (unsigned i = 0; i < 4; i++) guest_program(i, storm);
  for (unsigned round = 0; round < 200; round++) {
    vmm_pci_dev *a = pci_dev(vm, 1), *b = pci_dev(vm, 2);
    bar(a, 0, 0x1000, 0, 0xa0);
    bar(b, 0, 0x1000, 0, 0xb0);
    bar(b, 1, 0x2000, 0, 0xb1);
    EQ(vmm_pci_attach(a, 0, 1), 0);
    EQ(vmm_pci_attach(b, 0, 2), 0);
    guest_wait_turns(round % 4, 5);
    vmm_pci_reset(a);
    vmm_pci_free(a); /* nobody is in it any more */
    vmm_pci_free(b);
  }
  fake_vm_end(vm);
}

TEST(pci_a_pin_may_end_at_the_first_line) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = pci_dev(vm, 1), *quiet = pci_dev(vm, 2);
  vmm_pci_set_intx(dev, 0); /* on AArch64 */
  EQ(vmm_pci_attach(dev, 0, 8), 0);
  EQ(vmm_pci_attach(quiet, 0, 9), 0);
  EQ(cfg(vm, 8, 0x3d, 1), 1);
  EQ(cfg(vm, 9, 0x3d, 1), 0);
  vmm_pci_intx(quiet, 1); /* has no pin */
  EQ(fake.n_lines, 0);
  vmm_pci_intx(dev, 1);
  EQ(fake.line[0].irq, 0);
  EQ(fake.line[0].level, 1);
  vmm_pci_free(dev);
  vmm_pci_free(quiet);
  fake_vm_end(vm);
}
