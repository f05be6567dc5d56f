/* SPDX-License-Identifier: Apache-2.0 */
/* The machine half of AArch64 in C: what its files share. */
#ifndef VMM_ARCH_AARCH64_H
#define VMM_ARCH_AARCH64_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include "vmmcore.h"
#include "kvm_arm.h"
#include "cdefs.h"

enum { ARCH_SVE = 1, ARCH_PMU = 2, ARCH_PAUTH = 4 };

struct arch {
  const struct vmm_api *api;
  vmm_vm *vm;
  const char *failed;
  int gic, its; /* KVM's devices; -1: not made yet */
  int clock_stopped;
  uint64_t clock; /* the virtual counter, where it stopped */
};

/* ioctl() that retries EINTR, gives -errno and notes `name` on failure. */
int arch_ioctl(arch_t *a, int fd, unsigned long request, const char *name, void *argument);
/* An attribute of a device or a vCPU; `value` points to what it holds. */
int arch_attr(arch_t *a, int fd, uint32_t group, uint64_t attr, const void *value, const char *name);

#endif
