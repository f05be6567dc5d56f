/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A pause does not pass for the guest: kvmclock, the TSCs and the PM timer go on from where they stood. They agree
 * afterwards as they did before, or the guest would drop the one that its watchdog finds wrong.
 *
 * KVM API §4.29 KVM_GET_CLOCK, §4.30 KVM_SET_CLOCK, §4.71 KVM_KVMCLOCK_CTRL; devices/vcpu.rst §4.1 KVM_VCPU_TSC_OFFSET.
 */
#include <errno.h>
#include <sys/ioctl.h>

#include "arch.h"

/* kvmclock in ns, and the host's TSC at that moment. */
static int read_clock(arch_t *a, uint64_t *ns, uint64_t *tsc) {
  struct kvm_clock_data now = {0};
  int r = arch_ioctl(a, a->api->vm_fd(a->vm), KVM_GET_CLOCK, "KVM_GET_CLOCK", &now);
  *tsc = now.flags & KVM_CLOCK_HOST_TSC ? now.host_tsc : __builtin_ia32_rdtsc();
  *ns = now.clock;
  return r;
}

int arch_clock_stop(arch_t *a) {
  struct arch_clock *c = &a->clock;
  int r = read_clock(a, &c->kvmclock, &c->tsc);
  c->now = a->api->now_ns();
  c->stopped = r >= 0;
  return r;
}

static int move_tsc(arch_t *a, int fd, uint64_t by) {
  uint64_t offset;
  struct kvm_device_attr attr = {.group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uintptr_t)&offset};
  if (ioctl(fd, KVM_HAS_DEVICE_ATTR, &attr)) return 0; /* before Linux 5.16: it runs on */
  int r = arch_ioctl(a, fd, KVM_GET_DEVICE_ATTR, "KVM_VCPU_TSC_OFFSET", &attr);
  if (r < 0) return r;
  offset += by;
  return arch_ioctl(a, fd, KVM_SET_DEVICE_ATTR, "KVM_VCPU_TSC_OFFSET", &attr);
}

int arch_clock_start(arch_t *a, const int *fds, int n) {
  struct arch_clock *c = &a->clock;
  struct kvm_clock_data then = {.clock = c->kvmclock};
  uint64_t ns, tsc;
  if (!c->stopped) return 0;
  c->stopped = 0;
  a->pm_timer_offset -= (int64_t)(a->api->now_ns() - c->now);
  int r = arch_ioctl(a, a->api->vm_fd(a->vm), KVM_SET_CLOCK, "KVM_SET_CLOCK", &then);
  if (r >= 0) r = read_clock(a, &ns, &tsc);
  for (int i = 0; i < n && r >= 0; i++) {
    int khz = ioctl(fds[i], KVM_GET_TSC_KHZ, NULL);
    uint64_t run = khz > 0 && ns > c->kvmclock ? (ns - c->kvmclock) * (uint64_t)khz / 1000000u : 0; /* it runs already */
    r = move_tsc(a, fds[i], c->tsc - tsc + run);
    /* The guest's watchdogs are told of the pause, and its page of kvmclock is written anew. EINVAL: it has none. */
    (void)ioctl(fds[i], KVM_KVMCLOCK_CTRL, NULL);
  }
  return r;
}
