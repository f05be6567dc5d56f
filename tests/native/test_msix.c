/* SPDX-License-Identifier: Apache-2.0 */
/* MSI-X seen by the guest: messages that arrive, the table, the PBA (PCI 3.0 §6.8.2). */
#include "pci_guest.h"

enum { VECTORS = 70, PBA_AT = 0x800, ENABLED = 0x8000, MASKED = 0x4000 };
#define MSG 0xfee00000u

static uint32_t cap;

static vmm_pci_dev *msix_dev(vmm_vm *vm) {
  vmm_pci_dev *dev = pci_dev(vm, 1);
  bar(dev, 0, 0x2000, 0, 0xa0);
  EQ(vmm_pci_add_msix(dev, 0, 0, PBA_AT, VECTORS), 0);
  EQ(vmm_pci_attach(dev, 0, 1), 0);
  setcfg(vm, 1, BAR0, 4, LOW);
  setcfg(vm, 1, COMMAND, 2, MEM_ON | 4);
  cap = cfg(vm, 1, 0x34, 1);
  EQ(cfg(vm, 1, cap, 1), 0x11);
  return dev;
}

static void control(vmm_vm *vm, uint16_t bits) {
  setcfg(vm, 1, cap + 2, 2, bits);
}

static void message(vmm_vm *vm, unsigned v, uint32_t data) {
  wr(vm, VMM_MMIO, LOW + 16 * v, 8, MSG);
  wr(vm, VMM_MMIO, LOW + 16 * v + 8, 4, data);
}

static void mask(vmm_vm *vm, unsigned v, int on) {
  wr(vm, VMM_MMIO, LOW + 16 * v + 12, 4, (uint32_t)on);
}

static uint64_t pending(vmm_vm *vm, unsigned word) {
  fake_deliver();
  return rd(vm, VMM_MMIO, LOW + PBA_AT + 8 * word, 8);
}

TEST(msix_capability_and_reset_state) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *bad = pci_dev(vm, 9);
  EQ(vmm_pci_add_msix(bad, 0, 0, 0x800, 4), -EINVAL); /* no such BAR */
  bar(bad, 0, 0x1000, 0, 0xa0);
  EQ(vmm_pci_add_msix(bad, 0, 0, 0x800, 0), -EINVAL);
  EQ(vmm_pci_add_msix(bad, 0, 0, 0x800, 2049), -EINVAL);
  EQ(vmm_pci_add_msix(bad, 0, 4, 0x800, 4), -EINVAL);
  EQ(vmm_pci_add_msix(bad, 0, 0xfc8, 0x800, 4), -EINVAL);
  EQ(vmm_pci_add_msix(bad, 0, 0, 0x1000, 4), -EINVAL);
  EQ(vmm_pci_add_msix(bad, 6, 0, 0x800, 4), -EINVAL);
  vmm_pci_free(bad);
  vmm_pci_dev *dev = msix_dev(vm);
  EQ(vmm_pci_add_msix(dev, 0, 0, PBA_AT, 4), -EINVAL);
  EQ(cfg(vm, 1, cap + 2, 2), VECTORS - 1);
  EQ(cfg(vm, 1, cap + 4, 4), 0);
  EQ(cfg(vm, 1, cap + 8, 4), PBA_AT);
  control(vm, 0xffff);
  EQ(cfg(vm, 1, cap + 2, 2), 0xc000 | (VECTORS - 1));
  for (unsigned v = 0; v < VECTORS; v++) {
    EQ(rd(vm, VMM_MMIO, LOW + 16 * v, 8), 0);
    EQ(rd(vm, VMM_MMIO, LOW + 16 * v + 8, 8), 1ull << 32); /* masked */
  }
  EQ(vmm_pci_msix_fd(dev, VECTORS), -EINVAL);
  EQ(vmm_pci_msix_signal(dev, VECTORS), -EINVAL);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(msix_delivers_the_message) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = msix_dev(vm);
  EQ(vmm_pci_msix_signal(dev, 3), -ENODEV); /* off: dropped */
  message(vm, 3, 0x41);
  mask(vm, 3, 0);
  control(vm, ENABLED);
  EQ(fake_messages(MSG, 0x41), 0);
  EQ(vmm_pci_msix_signal(dev, 3), 0);
  EQ(fake_messages(MSG, 0x41), 1);
  CHECK(!eventfd_write(vmm_pci_msix_fd(dev, 3), 1)); /* as a device in the kernel does */
  EQ(fake_messages(MSG, 0x41), 2);
  wr(vm, VMM_MMIO, LOW + 16 * 3 + 8, 4, 0x42); /* another vector of the guest's */
  EQ(vmm_pci_msix_signal(dev, 3), 0);
  CHECK(fake_messages(MSG, 0x42) >= 1);
  EQ(fake_messages(MSG, 0x41), 0);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(msix_many_vectors_one_commit) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = msix_dev(vm);
  for (unsigned v = 0; v < VECTORS; v++) {
    message(vm, v, 0x20 + v);
    mask(vm, v, 0);
  }
  EQ(fake.routings, 1); /* the pins' */
  control(vm, ENABLED);
  EQ(fake.routings, 2);
  EQ(fake.routing->nr, 24 + VECTORS);
  control(vm, ENABLED | MASKED);
  control(vm, ENABLED);
  EQ(fake.routings, 2); /* the routes were there */
  unsigned calls = fake.irqfd_calls;
  control(vm, ENABLED);
  EQ(fake.irqfd_calls, calls);
  for (unsigned v = 0; v < VECTORS; v++) EQ(vmm_pci_msix_signal(dev, v), 0);
  for (unsigned v = 0; v < VECTORS; v++) EQ(fake_messages(MSG, 0x20 + v), 1);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(msix_masked_means_pending_once) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = msix_dev(vm);
  for (unsigned v = 0; v < VECTORS; v++) message(vm, v, 0x20 + v);
  control(vm, ENABLED);
  EQ(vmm_pci_msix_signal(dev, 2), 0);
  EQ(vmm_pci_msix_signal(dev, 2), 0);
  EQ(vmm_pci_msix_signal(dev, 69), 0);
  EQ(pending(vm, 0), 1ull << 2);
  EQ(pending(vm, 1), 1ull << 5);
  EQ(rd(vm, VMM_MMIO, LOW + PBA_AT + 8, 4), 1u << 5);
  EQ(rd(vm, VMM_MMIO, LOW + PBA_AT + 4, 4), 0);
  wr(vm, VMM_MMIO, LOW + PBA_AT, 8, 0); /* read-only */
  EQ(pending(vm, 0), 1ull << 2);
  EQ(fake_messages(MSG, 0x22), 0);
  mask(vm, 2, 0);
  EQ(fake_messages(MSG, 0x22), 1); /* once, however often it was signalled */
  EQ(pending(vm, 0), 0);
  mask(vm, 2, 1);
  EQ(pending(vm, 0), 0);
  mask(vm, 2, 0);
  EQ(fake_messages(MSG, 0x22), 1);
  control(vm, ENABLED | MASKED); /* the function's mask is every vector's */
  EQ(vmm_pci_msix_signal(dev, 2), 0);
  EQ(fake_messages(MSG, 0x22), 1);
  EQ(pending(vm, 0), 1ull << 2);
  control(vm, ENABLED);
  EQ(fake_messages(MSG, 0x22), 2);
  EQ(pending(vm, 1), 1ull << 5); /* 69 still waits */
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

static void signal_meanwhile(int fd) {
  fake.before_irqfd = NULL;
  CHECK(!eventfd_write(fd, 1)); /* the device, while the core arms the vector */
}

TEST(msix_signal_while_being_unmasked_comes_once) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = msix_dev(vm);
  message(vm, 5, 0x55);
  control(vm, ENABLED);
  fake.before_irqfd = signal_meanwhile;
  mask(vm, 5, 0);
  CHECK(!fake.before_irqfd);
  EQ(fake_messages(MSG, 0x55), 1);
  mask(vm, 5, 1);
  EQ(pending(vm, 0), 0); /* it was delivered */
  mask(vm, 5, 0);
  EQ(fake_messages(MSG, 0x55), 1);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(msix_table_takes_dwords_and_qwords_only) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = msix_dev(vm);
  wr(vm, VMM_MMIO, LOW + 0x20, 4, 0x11111111);
  wr(vm, VMM_MMIO, LOW + 0x20, 1, 0x22);
  wr(vm, VMM_MMIO, LOW + 0x20, 2, 0x2222);
  wr(vm, VMM_MMIO, LOW + 0x22, 4, 0x22222222);
  wr(vm, VMM_MMIO, LOW + 0x24, 8, 0x2222222222222222);
  EQ(rd(vm, VMM_MMIO, LOW + 0x20, 8), 0x11111111);
  EQ(rd(vm, VMM_MMIO, LOW + 0x28, 4), 0);
  wr(vm, VMM_MMIO, LOW + 16 * VECTORS, 4, 7); /* past the table: the device's own registers */
  EQ(rd(vm, VMM_MMIO, LOW + 16 * VECTORS, 4), 0xa0a0a0a0);
  EQ(rd(vm, VMM_MMIO, LOW + PBA_AT + 16, 4), 0xa0a0a0a0);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(msix_gsis_are_released) {
  vmm_vm *vm = pci_vm();
  for (unsigned round = 0; round < 80; round++) { /* 80 times 70: more than there are */
    vmm_pci_dev *dev = msix_dev(vm);
    for (unsigned v = 0; v < VECTORS; v++) mask(vm, v, 0);
    control(vm, ENABLED);
    EQ(vmm_pci_msix_signal(dev, VECTORS - 1), 0);
    EQ(fake_messages(0, 0), 1);
    memset(fake.delivered, 0, sizeof fake.delivered);
    vmm_pci_free(dev);
    for (unsigned i = 0; i < FAKE_IRQFDS; i++) EQ(fake.irqfd[i].fd, 0);
  }
  fake_vm_end(vm);
}

TEST(msix_reset_and_detach_silence) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = msix_dev(vm);
  message(vm, 0, 0x20);
  mask(vm, 0, 0);
  control(vm, ENABLED);
  vmm_pci_reset(dev);
  EQ(vmm_pci_msix_signal(dev, 0), -ENODEV);
  for (unsigned i = 0; i < FAKE_IRQFDS; i++) EQ(fake.irqfd[i].fd, 0);
  setcfg(vm, 1, BAR0, 4, LOW);
  setcfg(vm, 1, COMMAND, 2, MEM_ON);
  EQ(rd(vm, VMM_MMIO, LOW + 12, 4), 1);
  EQ(cfg(vm, 1, cap + 2, 2), VECTORS - 1);
  message(vm, 0, 0x20);
  mask(vm, 0, 0);
  control(vm, ENABLED);
  vmm_pci_detach(dev); /* an unplugged device interrupts nobody */
  EQ(vmm_pci_msix_signal(dev, 0), -ENODEV);
  for (unsigned i = 0; i < FAKE_IRQFDS; i++) EQ(fake.irqfd[i].fd, 0);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(msix_survives_save_and_restore) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = msix_dev(vm);
  static uint8_t state[16384];
  message(vm, 0, 0x20);
  message(vm, 1, 0x21);
  mask(vm, 0, 0);
  control(vm, ENABLED);
  EQ(vmm_pci_msix_signal(dev, 1), 0); /* pending */
  int len = vmm_pci_save(dev, state, sizeof state);
  CHECK(len >= 4096 + 16 * VECTORS);
  vmm_pci_free(dev);
  memset(fake.delivered, 0, sizeof fake.delivered);
  dev = msix_dev(vm);
  EQ(vmm_pci_restore(dev, state, (size_t)len), 0);
  EQ(vmm_pci_msix_signal(dev, 0), 0);
  EQ(fake_messages(MSG, 0x20), 1);
  EQ(pending(vm, 0), 1ull << 1); /* what was pending still is */
  mask(vm, 1, 0);
  EQ(fake_messages(MSG, 0x21), 1);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(msix_out_of_gsis_is_no_crash) {
  vmm_vm *vm = pci_vm();
  while (vmm_irq_alloc(vm) >= 0) {
  }
  vmm_irq_release(vm, 77);
  vmm_pci_dev *dev = msix_dev(vm);
  vmm_set_log_level(vm, 0);
  for (unsigned v = 0; v < VECTORS; v++) {
    message(vm, v, 0x20 + v);
    mask(vm, v, 0);
  }
  control(vm, ENABLED);
  for (unsigned v = 0; v < VECTORS; v++) EQ(vmm_pci_msix_signal(dev, v), 0);
  EQ(fake_messages(MSG, 0x20), 1); /* the one that got a GSI */
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

static void toggle(unsigned cpu, uint64_t turn, struct kvm_run *run) {
  run->exit_reason = KVM_EXIT_MMIO;
  run->mmio.is_write = 1;
  run->mmio.len = 4;
  run->mmio.phys_addr = cpu ? LOW + 16 * (turn % 8) + 12 : ecam(1, cap) & ~3ull;
  uint32_t v = cpu ? turn / 8 & 1 : turn & 1 ? (uint32_t)ENABLED << 16 : (uint32_t)(ENABLED | MASKED) << 16;
  memcpy(run->mmio.data, &v, 4);
}

TEST(msix_signals_while_the_guest_masks) {
  vmm_vm *vm = pci_vm();
  vmm_pci_dev *dev = msix_dev(vm);
  static uint8_t state[16384];
  guest_start(vm, 3);
  for (unsigned i = 0; i < 3; i++) guest_program(i, toggle);
  for (unsigned i = 0; i < 2000; i++) {
    int r = vmm_pci_msix_signal(dev, i % 8);
    CHECK(!r || r == -ENODEV);
    if (i % 100 == 0) {
      int len = vmm_pci_save(dev, state, sizeof state);
      CHECK(len > 0);
      EQ(vmm_pci_restore(dev, state, (size_t)len), 0);
      vmm_pci_reset(dev);
    }
  }
  guest_wait_turns(1, 10);
  vmm_pci_free(dev);
  fake_vm_end(vm);
}

TEST(msix_messages_carry_the_requester_where_it_is_asked_for) {
  vmm_vm *vm = pci_vm();
  vmm_irq_model(vm, 0, 1);
  vmm_pci_dev *dev = msix_dev(vm);
  message(vm, 3, 0x77);
  mask(vm, 3, 0);
  control(vm, ENABLED);
  const struct kvm_irq_routing_entry *found = NULL;
  for (unsigned i = 0; i < fake.routing->nr; i++)
    if (fake.routing->entries[i].type == KVM_IRQ_ROUTING_MSI) found = &fake.routing->entries[i];
  CHECK(found);
  EQ(found->u.msi.data, 0x77);
  EQ(found->flags, KVM_MSI_VALID_DEVID);
  EQ(found->u.msi.devid, 1 << 3); /* bus 0, slot 1 */
  vmm_pci_free(dev);
  fake_vm_end(vm);
}
