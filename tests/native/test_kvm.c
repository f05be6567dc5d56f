/* SPDX-License-Identifier: Apache-2.0 */
/* In-kernel devices and attributes. */
#include "harness.h"

TEST(device_attributes_go_to_their_device) {
  vmm_vm *vm = fake_vm();
  int fd = vmm_device_new(vm, KVM_DEV_TYPE_VFIO);
  CHECK(fd >= 0);
  uint64_t in = 0x123456789abcdefull, out = 0;
  EQ(vmm_attr_has(vm, fd, 7, 2), 0);
  EQ(vmm_attr_set(vm, fd, 7, 2, &in), 0);
  EQ(vmm_attr_get(vm, fd, 7, 2, &out), 0);
  CHECK(out == in);
  EQ(vmm_attr_get(vm, -1, 7, 1, &out), 0); /* the VM's own */
  EQ(out, 0);
  close(fd);
  fake_vm_end(vm);
}

TEST(device_errors_name_the_ioctl) {
  vmm_vm *vm = fake_vm();
  uint64_t value = 0;
  EQ(vmm_device_new(vm, 99), -ENODEV);
  CHECK(!strcmp(vmm_failed(vm), "KVM_CREATE_DEVICE"));
  EQ(vmm_attr_set(vm, -1, 8, 0, &value), -ENXIO);
  CHECK(!strcmp(vmm_failed(vm), "KVM_SET_DEVICE_ATTR"));
  EQ(vmm_attr_has(vm, -1, 8, 0), -ENXIO);
  fake_vm_end(vm);
}

TEST(a_kvm_that_is_too_old_is_named_by_what_it_lacks) {
  int err = 0;
  const char *what = "";
  fake.lacks = KVM_CAP_IMMEDIATE_EXIT;
  CHECK(!vmm_vm_new("/dev/null", 0, &err, &what));
  EQ(err, ENOTSUP);
  CHECK(!strcmp(what, "KVM_CAP_IMMEDIATE_EXIT"));
}
