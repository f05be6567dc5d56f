/* SPDX-License-Identifier: Apache-2.0 */
/* Capabilities, in-kernel devices and their attributes (KVM API §4.4, §4.37, §4.79, §4.80). */
#include "native.h"

#include <sys/ioctl.h>

/* What the core cannot do without: NULL if KVM has all of it, else the name of the first that is missing. */
const char *vmm_missing_cap(int kvm_fd) {
  static const struct {
    int cap;
    const char *name;
  } needed[] = {
      {KVM_CAP_USER_MEMORY, "KVM_CAP_USER_MEMORY"}, {KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING"},
      {KVM_CAP_IRQFD, "KVM_CAP_IRQFD"},             {KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD"},
      {KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE"},       {KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT"},
  };
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
    if (ioctl(kvm_fd, KVM_CHECK_EXTENSION, (long)needed[i].cap) <= 0) return needed[i].name;
  return NULL;
}

/* What KVM says of a capability for this VM: 0 if it lacks it. */
int vmm_cap(vmm_vm *vm, int cap) {
  int r = ioctl(vm->fd, KVM_CHECK_EXTENSION, (long)cap);
  return r < 0 ? VMM_FAIL(vm, "KVM_CHECK_EXTENSION") : r;
}

int vmm_enable_cap(vmm_vm *vm, int cap, uint64_t arg) {
  struct kvm_enable_cap c = {.cap = (uint32_t)cap, .args = {arg}};
  return ioctl(vm->fd, KVM_ENABLE_CAP, &c) ? VMM_FAIL(vm, "KVM_ENABLE_CAP") : 0;
}

/* A device of KVM's own (KVM_DEV_TYPE_*: VFIO, GIC, ITS …): its fd, the caller's to close. */
int vmm_device_new(vmm_vm *vm, uint32_t type) {
  struct kvm_create_device d = {.type = type};
  if (ioctl(vm->fd, KVM_CREATE_DEVICE, &d)) return VMM_FAIL(vm, "KVM_CREATE_DEVICE");
  return (int)d.fd;
}

/* Attributes of a device, a vCPU or the VM (fd -1). `value` points to what the attribute holds. */
static int attr(vmm_vm *vm, int fd, unsigned long request, const char *what, uint32_t group, uint64_t name,
                void *value) {
  struct kvm_device_attr a = {.group = group, .attr = name, .addr = (uintptr_t)value};
  return ioctl(fd < 0 ? vm->fd : fd, request, &a) ? VMM_FAIL(vm, what) : 0;
}

int vmm_attr_has(vmm_vm *vm, int fd, uint32_t group, uint64_t name) {
  return attr(vm, fd, KVM_HAS_DEVICE_ATTR, "KVM_HAS_DEVICE_ATTR", group, name, NULL);
}

int vmm_attr_set(vmm_vm *vm, int fd, uint32_t group, uint64_t name, const void *value) {
  return attr(vm, fd, KVM_SET_DEVICE_ATTR, "KVM_SET_DEVICE_ATTR", group, name, (void *)value);
}

int vmm_attr_get(vmm_vm *vm, int fd, uint32_t group, uint64_t name, void *value) {
  return attr(vm, fd, KVM_GET_DEVICE_ATTR, "KVM_GET_DEVICE_ATTR", group, name, value);
}
