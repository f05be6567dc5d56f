/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The C half without the core and without KVM: a made-up vmm_api, and with -Wl,--wrap=ioctl an Arm KVM that refuses
 * what KVM refuses: attributes out of order, registers of a vCPU that is not there, an SVE that nobody finalized.
 * `native_harness NAME` runs one test and prints "ok NAME".
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "arch.h"

#define CHECK(condition)                                          \
  do {                                                            \
    if (!(condition)) {                                           \
      printf("FAIL %s:%d: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                    \
    }                                                             \
  } while (0)

enum { VM = 1000, CPU0, CPU1, CPUS = 2 };

static struct {
  long lacks; /* a capability that this KVM has not */
  int no_its, no_gic;
  struct {
    uint32_t features;
    int inited, finalized, pmu_irq, pmu, stopped;
    uint64_t pc, x0;
  } cpu[CPUS];
  int gic, its; /* descriptors; 0: not made */
  uint64_t dist, redist, its_at;
  uint32_t irqs;
  int gic_ready, its_ready;
  uint64_t counter; /* the virtual counter, which all vCPUs see */
} kvm;

static int no(int err) {
  errno = err;
  return -1;
}

static int device(struct kvm_create_device *d) {
  int *fd = d->type == KVM_DEV_TYPE_ARM_VGIC_V3 ? &kvm.gic : d->type == KVM_DEV_TYPE_ARM_VGIC_ITS ? &kvm.its : NULL;
  if (!fd || (fd == &kvm.gic ? kvm.no_gic : kvm.no_its)) return no(ENODEV);
  if (*fd || (fd == &kvm.its && !kvm.gic)) return no(EEXIST);
  *fd = eventfd(0, EFD_CLOEXEC);
  d->fd = (uint32_t)*fd;
  return 0;
}

static int set_attr(int fd, const struct kvm_device_attr *a) {
  uint64_t value = 0;
  uint32_t word = 0;
  if (a->addr) memcpy(&word, (void *)(uintptr_t)a->addr, 4);
  if (a->addr && a->group == 0 && fd < VM) memcpy(&value, (void *)(uintptr_t)a->addr, 8);
  if (fd == CPU0 || fd == CPU1) { /* the PMU: its interrupt, then its start, and that once the GIC is there */
    if (a->group != 0 || !(kvm.cpu[fd - CPU0].features >> 3 & 1)) return no(ENXIO);
    if (a->attr == 0) return kvm.cpu[fd - CPU0].pmu_irq = (int)word, 0;
    if (a->attr != 1 || !kvm.gic_ready || !kvm.cpu[fd - CPU0].pmu_irq) return no(ENODEV);
    return kvm.cpu[fd - CPU0].pmu = 1, 0;
  }
  if (fd == kvm.gic) {
    if (kvm.gic_ready) return no(EBUSY);
    if (a->group == 3) return kvm.irqs ? no(EBUSY) : word < 64 || word % 32 ? no(EINVAL) : (kvm.irqs = word, 0);
    if (a->group == 0 && a->attr == 2) return value % 0x10000 ? no(EINVAL) : (kvm.dist = value, 0);
    if (a->group == 0 && a->attr == 3) return value % 0x10000 ? no(EINVAL) : (kvm.redist = value, 0);
    if (a->group != 4 || a->attr || !kvm.dist || !kvm.redist || !kvm.irqs) return no(ENXIO);
    for (int i = 0; i < CPUS; i++)
      if (!kvm.cpu[i].inited || (kvm.cpu[i].features >> 4 & 1) != (uint32_t)kvm.cpu[i].finalized) return no(EBUSY);
    return kvm.gic_ready = 1, 0;
  }
  if (fd != kvm.its || kvm.its_ready) return no(ENXIO);
  if (a->group == 0 && a->attr == 4) return kvm.its_at = value, 0;
  if (a->group != 4 || a->attr || !kvm.its_at || !kvm.gic_ready) return no(ENXIO);
  return kvm.its_ready = 1, 0;
}

static int one_reg(int fd, const struct kvm_one_reg *reg, int set) {
  uint64_t *value = (uint64_t *)(uintptr_t)reg->addr;
  if (fd != CPU0 && fd != CPU1) return no(ENOTTY);
  if (!kvm.cpu[fd - CPU0].inited) return no(ENOEXEC);
  uint64_t *held = reg->id == 0x6030000000100040 ? &kvm.cpu[fd - CPU0].pc
                   : reg->id == 0x6030000000100000 ? &kvm.cpu[fd - CPU0].x0
                   : reg->id == 0x603000000013df1a ? &kvm.counter : NULL; /* KVM_REG_ARM_TIMER_CNT */
  if (set) return held ? (*held = *value, 0) : no(ENOENT);
  if (reg->id == 0x603000000013c005) return *value = 0x80000000u + (uint64_t)(fd - CPU0), 0; /* MPIDR_EL1 */
  return *value = held ? *held : 0x1234, 0;
}

static int vcpu_init(int fd, const struct arm_vcpu_init *init) {
  if ((fd != CPU0 && fd != CPU1) || init->target != 5 || !(init->features[0] >> 2 & 1)) return no(EINVAL);
  if (kvm.lacks == KVM_CAP_ARM_SVE && init->features[0] >> 4 & 1) return no(EINVAL);
  if (kvm.cpu[fd - CPU0].inited && kvm.cpu[fd - CPU0].features != init->features[0]) return no(EINVAL);
  kvm.cpu[fd - CPU0].stopped = init->features[0] & 1;
  kvm.cpu[fd - CPU0].features = init->features[0];
  kvm.cpu[fd - CPU0].inited = 1;
  return 0;
}

int __wrap_ioctl(int fd, unsigned long request, ...);
int __wrap_ioctl(int fd, unsigned long request, ...) {
  va_list ap;
  va_start(ap, request);
  void *arg = va_arg(ap, void *);
  va_end(ap);
  if (request == KVM_CHECK_EXTENSION) return (long)arg != kvm.lacks;
  if (request == KVM_ENABLE_CAP) return no(EINVAL); /* an old kernel: it must do without */
  if (request == KVM_CREATE_DEVICE) return device(arg);
  if (request == KVM_SET_DEVICE_ATTR) return set_attr(fd, arg);
  if (request == KVM_SET_MP_STATE) return kvm.cpu[fd - CPU0].stopped = *(uint32_t *)arg == KVM_MP_STATE_STOPPED, 0;
  if (request == KVM_SET_ONE_REG) return one_reg(fd, arg, 1);
  if (request == KVM_GET_ONE_REG) return one_reg(fd, arg, 0);
  if (request == 0x8020aeaful) return ((uint32_t *)arg)[0] = 5, 0; /* KVM_ARM_PREFERRED_TARGET */
  if (request == 0x4020aeaeul) return vcpu_init(fd, arg);          /* KVM_ARM_VCPU_INIT */
  if (request == 0x4004aec2ul) { /* KVM_ARM_VCPU_FINALIZE */
    if (*(int *)arg != 4 || !(kvm.cpu[fd - CPU0].features >> 4 & 1)) return no(EINVAL);
    return kvm.cpu[fd - CPU0].finalized = 1, 0;
  }
  return no(ENOTTY);
}

/* --- a core made up --- */

struct vmm_vm {
  int unused;
};

static int vm_fd(vmm_vm *vm) {
  (void)vm;
  return VM;
}

static struct vmm_vm the_vm;
static const struct vmm_api api = {
    .magic = VMM_API_MAGIC, .major = VMM_API_MAJOR, .minor = VMM_API_MINOR, .size = sizeof(api), .vm_fd = vm_fd,
};
static const struct arch_gic where = {0x08ff0000, 0x08fb0000, 0x08f90000, 256};

static arch_t *start(void) {
  arch_t *a = arch_new(&api, &the_vm);
  CHECK(a);
  return a;
}

/* --- tests --- */

static void test_machine(void) {
  arch_t *a = start();
  uint32_t features = arch_features(a, ARCH_SVE | ARCH_PMU | ARCH_PAUTH);
  CHECK(features == (ARCH_SVE | ARCH_PMU | ARCH_PAUTH));
  CHECK(arch_create(a) == 0);
  CHECK(arch_init_vcpu(a, CPU0, features, 0, 0) == 0);
  CHECK(arch_init_gic(a, &where) < 0); /* not all vCPUs are there */
  kvm.irqs = 0;
  CHECK(arch_init_vcpu(a, CPU1, features, 1, 1) == 0);
  CHECK(kvm.cpu[0].features == 0x7c); /* PSCI 0.2, PMU, SVE, pointer authentication; running */
  CHECK(kvm.cpu[1].features == 0x7d); /* powered off */
  CHECK(kvm.cpu[0].finalized && kvm.cpu[1].finalized);
  CHECK(arch_init_pmu(a, CPU0, 23) == -ENODEV); /* before the GIC */
  CHECK(!strcmp(arch_failed(a), "KVM_ARM_VCPU_PMU_V3_INIT"));
  CHECK(arch_init_gic(a, &where) == 0);
  CHECK(kvm.gic_ready && kvm.its_ready && kvm.irqs == 256);
  CHECK(kvm.dist == 0x08ff0000 && kvm.redist == 0x08fb0000 && kvm.its_at == 0x08f90000);
  CHECK(arch_init_pmu(a, CPU0, 23) == 0 && arch_init_pmu(a, CPU1, 23) == 0);
  CHECK(kvm.cpu[1].pmu && kvm.cpu[1].pmu_irq == 23);
  CHECK(arch_set_entry(a, CPU0, 0x40400000, 0x40000000) == 0);
  CHECK(kvm.cpu[0].pc == 0x40400000 && kvm.cpu[0].x0 == 0x40000000);
  char text[2048];
  int used = arch_describe(a, CPU0, text, sizeof(text));
  CHECK(used == (int)strlen(text));
  CHECK(strstr(text, "pc 0x40400000 ") && strstr(text, "x0 0x40000000 ") && strstr(text, "x30 0x1234 "));
  CHECK(arch_describe(a, CPU0, text, 20) < 20); /* cut, at a whole register */
  arch_free(a);
}

static void test_less(void) {
  kvm.lacks = KVM_CAP_ARM_SVE;
  arch_t *a = start();
  CHECK(arch_features(a, 7) == (ARCH_PMU | ARCH_PAUTH));
  CHECK(arch_features(a, ARCH_SVE) == 0);
  CHECK(arch_create(a) == 0);
  CHECK(arch_init_vcpu(a, CPU0, 0, 0, 0) == 0);
  CHECK(kvm.cpu[0].features == 4 && !kvm.cpu[0].finalized);
  CHECK(arch_init_vcpu(a, CPU1, ARCH_SVE, 0, 1) == -EINVAL);
  CHECK(!strcmp(arch_failed(a), "KVM_ARM_VCPU_INIT"));
  CHECK(arch_init_vcpu(a, CPU1, 0, 1, 0x100) == -ENXIO); /* the guest is told another affinity */
  CHECK(strstr(arch_failed(a), "affinity"));
  CHECK(arch_init_vcpu(a, CPU1, 0, 1, 1) == 0);
  struct arch_gic plain = where;
  plain.its = 0;
  CHECK(arch_init_gic(a, &plain) == 0 && !kvm.its);
  arch_free(a);
}

static void test_unplugged(void) {
  arch_t *a = start();
  CHECK(arch_create(a) == 0);
  CHECK(arch_init_vcpu(a, CPU0, ARCH_SVE, 0, 0) == 0 && arch_init_vcpu(a, CPU1, ARCH_SVE, 1, 1) == 0);
  CHECK(!kvm.cpu[0].stopped && kvm.cpu[1].stopped);
  CHECK(arch_init_gic(a, &where) == 0);
  for (int i = 0; i < 2; i++) {
    CHECK(arch_put_away_vcpu(a, CPU1) == 0 && !kvm.cpu[1].stopped); /* CPU_ON: already on */
    CHECK(arch_revive_vcpu(a, CPU1, ARCH_SVE) == 0 && kvm.cpu[1].stopped);
  }
  CHECK(arch_revive_vcpu(a, CPU1, 0) == -EINVAL);
  arch_free(a);
}

static void test_clock(void) {
  arch_t *a = start();
  CHECK(arch_init_vcpu(a, CPU0, 0, 0, 0) == 0);
  kvm.counter = 1000;
  CHECK(arch_clock_start(a, CPU0) == 0 && kvm.counter == 1000); /* it did not stand */
  CHECK(arch_clock_stop(a, CPU0) == 0);
  kvm.counter = 5000; /* the host's time goes on */
  CHECK(arch_clock_start(a, CPU0) == 0 && kvm.counter == 1000);
  kvm.counter = 6000;
  CHECK(arch_clock_start(a, CPU0) == 0 && kvm.counter == 6000);
  CHECK(arch_clock_stop(a, CPU1) == -ENOEXEC && !strcmp(arch_failed(a), "KVM_GET_ONE_REG"));
  CHECK(arch_clock_start(a, CPU0) == 0 && kvm.counter == 6000);
  arch_free(a);
}

static void test_refused(void) {
  arch_t *a = start();
  kvm.no_gic = 1;
  CHECK(arch_create(a) == -ENODEV);
  CHECK(strstr(arch_failed(a), "GICv3"));
  kvm.no_gic = 0, kvm.no_its = 1;
  CHECK(arch_create(a) == 0);
  CHECK(arch_init_vcpu(a, CPU0, 0, 0, 0) == 0 && arch_init_vcpu(a, CPU1, 0, 1, 1) == 0);
  CHECK(arch_init_gic(a, &where) == -ENODEV);
  CHECK(strstr(arch_failed(a), "ITS"));
  struct vmm_api older = api;
  older.major = VMM_API_MAJOR + 1;
  CHECK(!arch_new(&older, &the_vm));
  arch_free(a);
  arch_free(NULL);
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*fn)(void);
  } tests[] = {{"machine", test_machine}, {"less", test_less}, {"unplugged", test_unplugged}, {"clock", test_clock},
               {"refused", test_refused}};
  for (size_t i = 0; argc == 2 && i < sizeof(tests) / sizeof(tests[0]); i++)
    if (!strcmp(argv[1], tests[i].name)) {
      tests[i].fn();
      printf("ok %s\n", argv[1]);
      return 0;
    }
  return 2;
}
