/* SPDX-License-Identifier: Apache-2.0 */
/* vCPUs: their features, their first registers. */
#include "arch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define MPIDR_AFFINITY 0xff00ffffffull

int arch_ioctl(arch_t *a, int fd, unsigned long request, const char *name, void *argument) {
  int r;
  do r = ioctl(fd, request, argument);
  while (r < 0 && errno == EINTR);
  if (r >= 0) return r;
  a->failed = name;
  return -errno;
}

int arch_attr(arch_t *a, int fd, uint32_t group, uint64_t attr, const void *value, const char *name) {
  struct kvm_device_attr d = {.group = group, .attr = attr, .addr = (uintptr_t)value};
  return arch_ioctl(a, fd, KVM_SET_DEVICE_ATTR, name, &d);
}

arch_t *arch_new(const void *api, void *vm) {
  if (vmm_api_check(api, 0)) return NULL;
  arch_t *a = calloc(1, sizeof(*a));
  if (!a) return NULL;
  a->api = api;
  a->vm = vm;
  a->failed = "";
  a->gic = a->its = -1;
  return a;
}

void arch_free(arch_t *a) {
  if (!a) return;
  if (a->its >= 0) close(a->its);
  if (a->gic >= 0) close(a->gic);
  free(a);
}

const char *arch_failed(const arch_t *a) { return a->failed; }

static int has(arch_t *a, long cap) {
  return ioctl(a->api->vm_fd(a->vm), KVM_CHECK_EXTENSION, cap) > 0;
}

uint32_t arch_features(arch_t *a, uint32_t wanted) {
  uint32_t found = 0;
  if (has(a, KVM_CAP_ARM_SVE)) found |= ARCH_SVE;
  if (has(a, KVM_CAP_ARM_PMU_V3)) found |= ARCH_PMU;
  if (has(a, KVM_CAP_ARM_PTRAUTH_ADDRESS) && has(a, KVM_CAP_ARM_PTRAUTH_GENERIC)) found |= ARCH_PAUTH;
  return found & wanted;
}

static int set_reg(arch_t *a, int fd, uint64_t id, uint64_t value) {
  struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)&value};
  return arch_ioctl(a, fd, KVM_SET_ONE_REG, "KVM_SET_ONE_REG", &reg);
}

static int get_reg(arch_t *a, int fd, uint64_t id, uint64_t *value) {
  struct kvm_one_reg reg = {.id = id, .addr = (uintptr_t)value};
  return arch_ioctl(a, fd, KVM_GET_ONE_REG, "KVM_GET_ONE_REG", &reg);
}

/* The same for a vCPU each time: old kernels refuse another ARM_POWER_OFF than the first. */
static int init_vcpu(arch_t *a, int fd, uint32_t features, int off) {
  struct arm_vcpu_init init;
  memset(&init, 0, sizeof(init));
  int r = arch_ioctl(a, a->api->vm_fd(a->vm), ARM_PREFERRED_TARGET, "KVM_ARM_PREFERRED_TARGET", &init);
  if (r < 0) return r;
  init.features[0] |= 1u << ARM_PSCI_0_2;
  if (off) init.features[0] |= 1u << ARM_POWER_OFF;
  if (features & ARCH_SVE) init.features[0] |= 1u << ARM_SVE;
  if (features & ARCH_PMU) init.features[0] |= 1u << ARM_PMU_V3;
  if (features & ARCH_PAUTH) init.features[0] |= 1u << ARM_PAUTH_ADDRESS | 1u << ARM_PAUTH_GENERIC;
  return arch_ioctl(a, fd, ARM_VCPU_INIT, "KVM_ARM_VCPU_INIT", &init);
}

int arch_init_vcpu(arch_t *a, int fd, uint32_t features, int off, uint64_t mpidr) {
  int r = init_vcpu(a, fd, features, off);
  if (r < 0) return r;
  if (features & ARCH_SVE) { /* with all vector lengths of the host, which is what KVM offers at first */
    int what = ARM_SVE;
    if ((r = arch_ioctl(a, fd, ARM_VCPU_FINALIZE, "KVM_ARM_VCPU_FINALIZE", &what)) < 0) return r;
  }
  uint64_t found;
  if ((r = get_reg(a, fd, ARM_MPIDR_EL1, &found)) < 0) return r;
  if ((found & MPIDR_AFFINITY) != mpidr) {
    a->failed = "KVM_CREATE_VCPU (the vCPU has another affinity than the guest is told)";
    return -ENXIO;
  }
  return 0;
}

/* PSCI's CPU_ON finds it running already, and so does nothing. */
int arch_put_away_vcpu(arch_t *a, int fd) {
  struct kvm_mp_state state = {.mp_state = KVM_MP_STATE_RUNNABLE};
  return arch_ioctl(a, fd, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state);
}

/* As after its reset: it waits for CPU_ON. */
int arch_revive_vcpu(arch_t *a, int fd, uint32_t features) {
  struct kvm_mp_state state = {.mp_state = KVM_MP_STATE_STOPPED};
  int r = init_vcpu(a, fd, features, 1);
  return r < 0 ? r : arch_ioctl(a, fd, KVM_SET_MP_STATE, "KVM_SET_MP_STATE", &state);
}

int arch_init_pmu(arch_t *a, int fd, uint32_t irq) {
  int number = (int)irq;
  int r = arch_attr(a, fd, ARM_PMU_CTRL, ARM_PMU_IRQ, &number, "KVM_ARM_VCPU_PMU_V3_IRQ");
  return r < 0 ? r : arch_attr(a, fd, ARM_PMU_CTRL, ARM_PMU_INIT, NULL, "KVM_ARM_VCPU_PMU_V3_INIT");
}

/* After its reset the vCPU is in EL1 with interrupts masked and the MMU off: what arm64/booting.rst asks for. */
int arch_set_entry(arch_t *a, int fd, uint64_t pc, uint64_t x0) {
  int r = set_reg(a, fd, ARM_PC, pc);
  return r < 0 ? r : set_reg(a, fd, ARM_X(0), x0);
}

int arch_clock_stop(arch_t *a, int fd) {
  int r = get_reg(a, fd, ARM_TIMER_CNT, &a->clock);
  a->clock_stopped = r >= 0;
  return r;
}

int arch_clock_start(arch_t *a, int fd) {
  if (!a->clock_stopped) return 0;
  a->clock_stopped = 0;
  return set_reg(a, fd, ARM_TIMER_CNT, a->clock);
}

int arch_describe(arch_t *a, int fd, char *out, int room) {
  static const struct {
    const char *name;
    uint64_t id;
  } special[] = {{"pc", ARM_PC},           {"pstate", ARM_PSTATE},   {"sp_el1", ARM_SP_EL1}, {"elr_el1", ARM_ELR_EL1},
                 {"esr_el1", ARM_ESR_EL1}, {"far_el1", ARM_FAR_EL1}, {"vbar_el1", ARM_VBAR_EL1}};
  const int n_special = sizeof(special) / sizeof(special[0]);
  int used = 0;
  for (int i = 0; i < n_special + 31; i++) {
    uint64_t value;
    char name[16];
    if (i < n_special)
      snprintf(name, sizeof(name), "%s", special[i].name);
    else
      snprintf(name, sizeof(name), "x%d", i - n_special);
    if (get_reg(a, fd, i < n_special ? special[i].id : ARM_X(i - n_special), &value) < 0) continue;
    int n = snprintf(out + used, (size_t)(room - used), "%s 0x%llx ", name, (unsigned long long)value);
    if (n >= room - used) break;
    used += n;
  }
  return used;
}
