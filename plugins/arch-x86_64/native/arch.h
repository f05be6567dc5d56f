/* SPDX-License-Identifier: Apache-2.0 */
/* The machine half of x86-64 in C: what its files share. */
#ifndef VMM_ARCH_X86_64_H
#define VMM_ARCH_X86_64_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "vmmcore.h"
#include "cdefs.h"

#define ARCH_CPU_NESTED 1u
#define ARCH_CPU_TSC_DEADLINE 2u

#define ARCH_CPUID_MAX 256

/* Real-time clock and CMOS memory (MC146818). */
struct arch_rtc {
  pthread_mutex_t lock; /* vCPUs may race for index and data */
  uint8_t index;
  uint8_t ram[128];
  int64_t offset; /* guest's clock minus host's, seconds */
};

/* The clocks where they stopped. */
struct arch_clock {
  int stopped;
  uint64_t kvmclock; /* ns */
  uint64_t tsc;      /* the host's */
  uint64_t now;      /* CLOCK_MONOTONIC, ns */
};

struct arch {
  const struct vmm_api *api;
  vmm_vm *vm;
  const char *failed;

  struct kvm_cpuid_entry2 *supported; /* KVM_GET_SUPPORTED_CPUID, read once */
  int n_supported;
  uint32_t cpu_flags; /* ARCH_CPU_TSC_DEADLINE when KVM has it */
  struct kvm_msr_list *msr_list; /* for saving; read when first needed */

  struct arch_platform platform;
  struct arch_rtc rtc;
  struct arch_clock clock;
  int64_t pm_timer_offset; /* added to CLOCK_MONOTONIC, ns */
};

/* ioctl() that retries EINTR, gives -errno and notes `name` on failure. */
int arch_ioctl(arch_t *a, int fd, unsigned long request, const char *name, void *argument);

void arch_rtc_init(struct arch_rtc *rtc, uint64_t low_ram, uint64_t high_ram);
void arch_rtc_io(void *opaque, uint64_t offset, void *data, uint32_t size, int is_write);

#endif
