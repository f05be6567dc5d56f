/* SPDX-License-Identifier: Apache-2.0 */
#include "harness.h"

static const struct kvm_irq_routing_entry *route_of(uint32_t gsi) {
  for (unsigned i = 0; fake.routing && i < fake.routing->nr; i++)
    if (fake.routing->entries[i].gsi == gsi) return &fake.routing->entries[i];
  return NULL;
}

/* KVM_ARM_IRQ_TYPE_SPI << KVM_ARM_IRQ_TYPE_SHIFT, SPIs from INTID 32 */
#define KVM_ARM_SPI(n) (1u << 24 | (32 + (n)))

TEST(irq_pins_are_routed_by_one_commit) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_irq_chip(vm, KVM_IRQCHIP_IOAPIC, 24), 0);
  EQ(fake.routings, 1);
  EQ(fake.routing->nr, 24);
  for (unsigned i = 0; i < 24; i++) {
    const struct kvm_irq_routing_entry *e = route_of(i);
    CHECK(e && e->type == KVM_IRQ_ROUTING_IRQCHIP);
    EQ(e->u.irqchip.irqchip, KVM_IRQCHIP_IOAPIC);
    EQ(e->u.irqchip.pin, i);
  }
  EQ(vmm_irq_chip(vm, KVM_IRQCHIP_IOAPIC, VMM_MAX_GSI), -EINVAL);
  fake_vm_end(vm);
}

TEST(irq_many_messages_one_commit) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_irq_chip(vm, KVM_IRQCHIP_IOAPIC, 24), 0);
  for (unsigned i = 0; i < 64; i++) {
    int gsi = vmm_irq_alloc(vm);
    EQ(gsi, 24 + i);
    EQ(vmm_irq_msi(vm, (uint32_t)gsi, 0x1234fee00000u + i, i, 0), 0);
  }
  EQ(fake.routings, 1); /* nothing sent yet */
  EQ(vmm_irq_commit(vm), 0);
  EQ(fake.routings, 2);
  EQ(vmm_irq_commits(vm), 2);
  EQ(fake.routing->nr, 88);
  const struct kvm_irq_routing_entry *e = route_of(24 + 63);
  EQ(e->type, KVM_IRQ_ROUTING_MSI);
  EQ(e->u.msi.address_lo, 0xfee0003fu);
  EQ(e->u.msi.address_hi, 0x1234);
  EQ(e->u.msi.data, 63);
  EQ(vmm_irq_commit(vm), 0); /* nothing new: no call */
  EQ(vmm_irq_msi(vm, 30, 0x1234fee00000u + 6, 6, 0), 0);
  EQ(vmm_irq_commit(vm), 0); /* the same again: no call either */
  EQ(fake.routings, 2);
  EQ(route_of(0)->type, KVM_IRQ_ROUTING_IRQCHIP);
  EQ(vmm_irq_msi(vm, VMM_MAX_GSI, 0, 0, 0), -EINVAL);
  fake_vm_end(vm);
}

TEST(irq_gsis_are_given_back) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_irq_chip(vm, KVM_IRQCHIP_IOAPIC, 24), 0);
  for (int i = 24; i < VMM_MAX_GSI; i++) EQ(vmm_irq_alloc(vm), i);
  EQ(vmm_irq_alloc(vm), -ENOSPC);
  vmm_irq_release(vm, 1000);
  EQ(vmm_irq_alloc(vm), 1000);
  EQ(vmm_irq_alloc(vm), -ENOSPC);
  vmm_irq_release(vm, VMM_MAX_GSI); /* nothing */
  EQ(vmm_irq_msi(vm, 1000, 0xfee00000, 1, 0), 0);
  EQ(vmm_irq_commit(vm), 0);
  CHECK(route_of(1000));
  CHECK(!route_of(1001)); /* taken, but no message yet */
  vmm_irq_release(vm, 1000);
  EQ(vmm_irq_commit(vm), 0);
  CHECK(!route_of(1000));
  fake_vm_end(vm);
}

TEST(irq_a_failed_commit_is_tried_again) {
  vmm_vm *vm = fake_vm();
  fake.fail_request = KVM_SET_GSI_ROUTING;
  fake.fail_errno = ENOMEM;
  EQ(vmm_irq_msi(vm, 30, 0xfee00000, 1, 0), 0);
  int gsi = vmm_irq_alloc(vm);
  EQ(vmm_irq_msi(vm, (uint32_t)gsi, 0xfee00000, 2, 0), 0);
  EQ(vmm_irq_commit(vm), -ENOMEM);
  CHECK(strstr(vmm_failed(vm), "KVM_SET_GSI_ROUTING"));
  fake.fail_request = 0;
  EQ(vmm_irq_commit(vm), 0);
  EQ(route_of((uint32_t)gsi)->u.msi.data, 2);
  fake_vm_end(vm);
}

TEST(irq_levels_are_ored) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_irq_chip(vm, KVM_IRQCHIP_IOAPIC, 24), 0);
  EQ(vmm_irq_level(vm, 5, 0, 1), 0);
  EQ(vmm_irq_level(vm, 5, 63, 1), 0);
  EQ(vmm_irq_level(vm, 5, 63, 1), 0);
  EQ(vmm_irq_level(vm, 5, 0, 0), 0);
  EQ(fake.n_lines, 1); /* still held up by source 63 */
  EQ(vmm_irq_level(vm, 6, 0, 0), 0);
  EQ(fake.n_lines, 1); /* it was low */
  EQ(vmm_irq_level(vm, 5, 63, 0), 0);
  EQ(fake.n_lines, 2);
  EQ(fake.line[0].irq, 5);
  EQ(fake.line[0].level, 1);
  EQ(fake.line[1].irq, 5);
  EQ(fake.line[1].level, 0);
  EQ(vmm_irq_level(vm, 24, 0, 1), -EINVAL);
  EQ(vmm_irq_level(vm, 5, 64, 1), -EINVAL);
  fake_vm_end(vm);
}

TEST(irqfd_and_ioeventfd) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_irq_chip(vm, KVM_IRQCHIP_IOAPIC, 24), 0);
  int fd = vmm_irqfd_open(vm, 9);
  CHECK(fd >= 0);
  CHECK(!eventfd_write(fd, 1));
  fake_deliver();
  EQ(fake.delivered[9], 1);
  vmm_irqfd_close(vm, 9, fd);
  for (unsigned i = 0; i < FAKE_IRQFDS; i++) EQ(fake.irqfd[i].fd, 0);
  vmm_irqfd_close(vm, 9, -1);
  fake.fail_request = KVM_IRQFD;
  fake.fail_errno = EINVAL;
  EQ(vmm_irqfd_open(vm, 9), -EINVAL); /* and leaves no fd open */
  fake.fail_request = 0;
  fd = eventfd(0, EFD_CLOEXEC);
  EQ(vmm_ioeventfd(vm, VMM_PIO, 0x500, 2, fd, 1), 0);
  CHECK(fake.ioeventfd[0].flags & KVM_IOEVENTFD_FLAG_PIO);
  EQ(vmm_ioeventfd(vm, VMM_MMIO, 0x500, 0, fd, 1), 0);
  EQ(fake.ioeventfd[1].flags, 0);
  EQ(vmm_ioeventfd(vm, VMM_MMIO, 0x500, 0, fd, 1), -EEXIST);
  EQ(vmm_ioeventfd(vm, VMM_PIO, 0x500, 2, fd, 0), 0);
  EQ(vmm_ioeventfd(vm, VMM_PIO, 0x500, 2, fd, 0), -ENOENT);
  EQ(fake.n_ioeventfds, 1);
  close(fd);
  fake_vm_end(vm);
}

/* As on AArch64: lines are numbered by type and INTID (KVM API §4.25), the ITS wants to know the sender (§4.52). */
TEST(irq_numbers_of_another_controller) {
  vmm_vm *vm = fake_vm();
  vmm_irq_model(vm, KVM_ARM_SPI(0), 1);
  EQ(vmm_irq_chip(vm, 0, 224), 0);
  EQ(route_of(5)->u.irqchip.pin, 5);
  EQ(route_of(5)->u.irqchip.irqchip, 0);
  EQ(vmm_irq_level(vm, 5, 0, 1), 0);
  EQ(fake.line[0].irq, KVM_ARM_SPI(5));
  int gsi = vmm_irq_alloc(vm);
  EQ(gsi, 224);
  EQ(vmm_irq_msi(vm, (uint32_t)gsi, 0x8090040, 3, 0x108), 0);
  EQ(vmm_irq_commit(vm), 0);
  EQ(route_of(224)->flags, KVM_MSI_VALID_DEVID);
  EQ(route_of(224)->u.msi.devid, 0x108);
  EQ(route_of(5)->flags, 0);
  EQ(vmm_irq_msi(vm, (uint32_t)gsi, 0x8090040, 3, 0x110), 0); /* another sender of the same message is a change */
  EQ(vmm_irq_commit(vm), 0);
  EQ(route_of(224)->u.msi.devid, 0x110);
  fake_vm_end(vm);
}

static void *taker(void *opaque) {
  vmm_vm *vm = opaque;
  for (unsigned i = 0; i < 300; i++) {
    int gsi = vmm_irq_alloc(vm);
    CHECK(gsi >= 24);
    EQ(vmm_irq_msi(vm, (uint32_t)gsi, 0xfee00000, i, 0), 0);
    EQ(vmm_irq_commit(vm), 0);
    EQ(vmm_irq_level(vm, 3, i % 64, i & 1), 0);
    vmm_irq_release(vm, (uint32_t)gsi);
  }
  return NULL;
}

TEST(irq_from_many_threads) {
  vmm_vm *vm = fake_vm();
  EQ(vmm_irq_chip(vm, KVM_IRQCHIP_IOAPIC, 24), 0);
  pthread_t t[3];
  for (unsigned i = 0; i < 3; i++) pthread_create(&t[i], NULL, taker, vm);
  for (unsigned i = 0; i < 3; i++) pthread_join(t[i], NULL);
  EQ(vmm_irq_commit(vm), 0);
  EQ(fake.routing->nr, 24);
  fake_vm_end(vm);
}
