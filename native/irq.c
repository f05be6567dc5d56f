/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Interrupts: the GSI routing table, irqfds and ioeventfds.
 *
 * KVM takes the routing table whole (KVM_SET_GSI_ROUTING), so changes are
 * collected with vmm_irq_msi() and sent once with vmm_irq_commit(): enabling a
 * device with n vectors costs one call, not n.
 */
#include "native.h"

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

int vmm_irq_init(vmm_vm *vm) {
  pthread_mutex_init(&vm->irq.lock, NULL);
  vm->irq.route = calloc(VMM_MAX_GSI, sizeof *vm->irq.route);
  return vm->irq.route ? 0 : -ENOMEM;
}

void vmm_irq_free(vmm_vm *vm) {
  free(vm->irq.route);
  free(vm->irq.level);
  pthread_mutex_destroy(&vm->irq.lock);
}

/* GSI n is pin n of interrupt controller `chip` (KVM_IRQCHIP_*), for n below `pins`. */
int vmm_irq_chip(vmm_vm *vm, uint32_t chip, uint32_t pins) {
  if (pins >= VMM_MAX_GSI) return -EINVAL;
  pthread_mutex_lock(&vm->irq.lock);
  for (uint32_t i = 0; i < pins; i++)
    vm->irq.route[i] = (struct vmm_route){.type = KVM_IRQ_ROUTING_IRQCHIP + 1, .chip = chip, .pin = i};
  vm->irq.first_msi = pins;
  vm->irq.n_used = pins;
  vm->irq.dirty = true;
  pthread_mutex_unlock(&vm->irq.lock);
  return vmm_irq_commit(vm);
}

/* What differs between interrupt controllers: the number of GSI 0 in KVM_IRQ_LINE (KVM API §4.25), and whether messages
 * carry a device id (§4.52, KVM_MSI_VALID_DEVID). Before the guest runs. */
void vmm_irq_model(vmm_vm *vm, uint32_t line_base, int device_ids) {
  pthread_mutex_lock(&vm->irq.lock);
  vm->irq.line_base = line_base;
  vm->irq.device_ids = device_ids;
  pthread_mutex_unlock(&vm->irq.lock);
}

/* A GSI for a message; -ENOSPC when all are taken. */
int vmm_irq_alloc(vmm_vm *vm) {
  int gsi = -ENOSPC;
  pthread_mutex_lock(&vm->irq.lock);
  for (uint32_t i = vm->irq.first_msi; i < VMM_MAX_GSI; i++)
    if (!vm->irq.route[i].type) {
      vm->irq.route[i].type = 255; /* taken, no route yet */
      if (i >= vm->irq.n_used) vm->irq.n_used = i + 1;
      gsi = (int)i;
      break;
    }
  pthread_mutex_unlock(&vm->irq.lock);
  return gsi;
}

void vmm_irq_release(vmm_vm *vm, uint32_t gsi) {
  if (gsi >= VMM_MAX_GSI) return;
  pthread_mutex_lock(&vm->irq.lock);
  if (vm->irq.route[gsi].type == KVM_IRQ_ROUTING_MSI + 1) vm->irq.dirty = true;
  vm->irq.route[gsi] = (struct vmm_route){0};
  pthread_mutex_unlock(&vm->irq.lock);
}

/* Note a route; takes effect with the next commit. `device`: who sends it, for controllers that ask. */
int vmm_irq_msi(vmm_vm *vm, uint32_t gsi, uint64_t addr, uint32_t data, uint32_t device) {
  if (gsi >= VMM_MAX_GSI) return -EINVAL;
  struct vmm_route r = {.type = KVM_IRQ_ROUTING_MSI + 1, .addr = addr, .data = data, .device = device};
  pthread_mutex_lock(&vm->irq.lock);
  struct vmm_route *at = &vm->irq.route[gsi];
  if (at->type != r.type || at->addr != addr || at->data != data || at->device != device) {
    *at = r;
    vm->irq.dirty = true;
  }
  pthread_mutex_unlock(&vm->irq.lock);
  return 0;
}

int vmm_irq_commit(vmm_vm *vm) {
  int err = 0;
  pthread_mutex_lock(&vm->irq.lock);
  if (vm->irq.dirty) {
    struct kvm_irq_routing *t = calloc(1, sizeof *t + vm->irq.n_used * sizeof t->entries[0]);
    if (!t) {
      err = -ENOMEM;
    } else {
      for (uint32_t i = 0; i < vm->irq.n_used; i++) {
        const struct vmm_route *r = &vm->irq.route[i];
        if (!r->type || r->type == 255) continue;
        struct kvm_irq_routing_entry *e = &t->entries[t->nr++];
        e->gsi = i;
        e->type = r->type - 1u;
        if (e->type == KVM_IRQ_ROUTING_MSI) {
          e->u.msi.address_lo = (uint32_t)r->addr;
          e->u.msi.address_hi = (uint32_t)(r->addr >> 32);
          e->u.msi.data = r->data;
          if (vm->irq.device_ids) e->flags = KVM_MSI_VALID_DEVID, e->u.msi.devid = r->device;
        } else {
          e->u.irqchip.irqchip = r->chip;
          e->u.irqchip.pin = r->pin;
        }
      }
      if (ioctl(vm->fd, KVM_SET_GSI_ROUTING, t))
        err = VMM_FAIL(vm, "KVM_SET_GSI_ROUTING");
      else
        vm->irq.dirty = false;
      vm->irq.commits++;
      free(t);
    }
  }
  pthread_mutex_unlock(&vm->irq.lock);
  return err;
}

uint64_t vmm_irq_commits(vmm_vm *vm) {
  return vm->irq.commits;
}

int vmm_irq_assign(vmm_vm *vm, uint32_t gsi, int fd, int assign) {
  struct kvm_irqfd r = {.fd = (uint32_t)fd, .gsi = gsi, .flags = assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN};
  return ioctl(vm->fd, KVM_IRQFD, &r) ? VMM_FAIL(vm, "KVM_IRQFD") : 0;
}

int vmm_irqfd_open(vmm_vm *vm, uint32_t gsi) {
  int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (fd < 0) return VMM_FAIL(vm, "eventfd");
  int err = vmm_irq_assign(vm, gsi, fd, 1);
  if (err) close(fd);
  return err ? err : fd;
}

void vmm_irqfd_close(vmm_vm *vm, uint32_t gsi, int fd) {
  if (fd < 0) return;
  vmm_irq_assign(vm, gsi, fd, 0);
  close(fd);
}

int vmm_irq_level(vmm_vm *vm, uint32_t gsi, unsigned source, int level) {
  if (gsi >= vm->irq.first_msi || source > 63) return -EINVAL;
  int err = 0;
  pthread_mutex_lock(&vm->irq.lock);
  if (!vm->irq.level) vm->irq.level = calloc(VMM_MAX_GSI, sizeof *vm->irq.level);
  if (!vm->irq.level) {
    err = -ENOMEM;
  } else {
    uint64_t before = vm->irq.level[gsi], after = level ? before | 1ull << source : before & ~(1ull << source);
    vm->irq.level[gsi] = after;
    if (!before != !after) {
      struct kvm_irq_level l = {.irq = vm->irq.line_base + gsi, .level = after != 0};
      if (ioctl(vm->fd, KVM_IRQ_LINE, &l)) err = VMM_FAIL(vm, "KVM_IRQ_LINE");
    }
  }
  pthread_mutex_unlock(&vm->irq.lock);
  return err;
}

int vmm_ioeventfd(vmm_vm *vm, int space, uint64_t addr, uint32_t len, int fd, int assign) {
  if (space == VMM_PIO && vm->ports_at != VMM_NO_ADDR) space = VMM_MMIO, addr += vm->ports_at;
  struct kvm_ioeventfd r = {
      .addr = addr,
      .len = len,
      .fd = fd,
      .flags = (space == VMM_PIO ? (uint32_t)KVM_IOEVENTFD_FLAG_PIO : 0) |
               (assign ? 0 : (uint32_t)KVM_IOEVENTFD_FLAG_DEASSIGN),
  };
  return ioctl(vm->fd, KVM_IOEVENTFD, &r) ? VMM_FAIL(vm, "KVM_IOEVENTFD") : 0;
}
