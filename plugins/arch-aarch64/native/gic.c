/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GICv3 and its ITS, both KVM's. The distributor's NR_IRQS and the addresses come when all vCPUs exist, then the
 * initialisation, which fixes them (arm-vgic-v3.rst); the ITS comes last.
 */
#include "arch.h"

static int device(arch_t *a, uint32_t type, const char *name) {
  struct kvm_create_device d = {.type = type};
  int r = arch_ioctl(a, a->api->vm_fd(a->vm), KVM_CREATE_DEVICE, name, &d);
  return r < 0 ? r : (int)d.fd;
}

int arch_create(arch_t *a) {
  /* An access that KVM cannot decode then tells its address (KVM_EXIT_ARM_NISV) instead of failing KVM_RUN. */
  struct kvm_enable_cap nisv = {.cap = KVM_CAP_ARM_NISV_TO_USER};
  arch_ioctl(a, a->api->vm_fd(a->vm), KVM_ENABLE_CAP, "KVM_ENABLE_CAP", &nisv); /* Linux before 5.5 has it not */
  a->gic = device(a, KVM_DEV_TYPE_ARM_VGIC_V3, "KVM_CREATE_DEVICE of a GICv3");
  return a->gic < 0 ? a->gic : 0;
}

int arch_init_gic(arch_t *a, const struct arch_gic *where) {
  int r = arch_attr(a, a->gic, ARM_VGIC_NR_IRQS, 0, &where->irqs, "KVM_DEV_ARM_VGIC_GRP_NR_IRQS");
  if (r < 0) return r;
  if ((r = arch_attr(a, a->gic, ARM_VGIC_ADDR, ARM_VGIC_DIST, &where->dist, "the GIC distributor's address")) < 0)
    return r;
  if ((r = arch_attr(a, a->gic, ARM_VGIC_ADDR, ARM_VGIC_REDIST, &where->redist, "the GIC redistributors' address")) < 0)
    return r;
  if ((r = arch_attr(a, a->gic, ARM_VGIC_CTRL, ARM_VGIC_INIT, NULL, "KVM_DEV_ARM_VGIC_CTRL_INIT")) < 0) return r;
  if (!where->its) return 0;
  if ((a->its = device(a, KVM_DEV_TYPE_ARM_VGIC_ITS, "KVM_CREATE_DEVICE of a GICv3 ITS")) < 0) return a->its;
  if ((r = arch_attr(a, a->its, ARM_VGIC_ADDR, ARM_VGIC_ITS, &where->its, "the ITS's address")) < 0) return r;
  return arch_attr(a, a->its, ARM_VGIC_CTRL, ARM_VGIC_INIT, NULL, "KVM_DEV_ARM_ITS_CTRL_INIT");
}
