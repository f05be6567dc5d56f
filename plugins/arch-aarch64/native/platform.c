/* SPDX-License-Identifier: Apache-2.0 */
/* The only register of the platform itself: the generic event device's, for ACPI (6.5 §5.6.9). */
#include "arch.h"

#include <unistd.h>

static void ged_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write) {
  arch_t *a = opaque;
  (void)offset;
  if (!is_write) vmm_store(data, size, __atomic_exchange_n(&a->ged_bits, 0, __ATOMIC_ACQ_REL) & 0xff);
}

int arch_add_ged(arch_t *a, uint64_t address, uint32_t gsi) {
  int r = a->api->bus_add(a->vm, VMM_MMIO, address, 1, ged_io, a);
  if (r < 0) {
    a->failed = "bus_add";
    return r;
  }
  a->ged_address = address;
  a->ged_gsi = gsi;
  if ((r = a->api->irqfd_open(a->vm, gsi)) < 0) {
    a->failed = "KVM_IRQFD";
    return r;
  }
  a->ged_fd = r;
  return 0;
}

int arch_ged_notify(arch_t *a, uint32_t bits) {
  uint64_t one = 1;
  if (a->ged_fd < 0) return -ENODEV;
  __atomic_fetch_or(&a->ged_bits, bits, __ATOMIC_ACQ_REL);
  if (write(a->ged_fd, &one, sizeof(one)) == (ssize_t)sizeof(one)) return 0;
  a->failed = "write to eventfd";
  return -errno;
}
