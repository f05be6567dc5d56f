/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KVM's interface for Arm, as the KVM API document and its virt/kvm/devices/{arm-vgic-v3,arm-vgic-its,vcpu}.rst describe
 * it. An Arm machine has this in <asm/kvm.h>; declared here, the code compiles, and is tested, on every machine.
 */
#ifndef VMM_KVM_ARM_H
#define VMM_KVM_ARM_H

#include <linux/kvm.h>
#include <stdint.h>

/* §4.82 KVM_ARM_VCPU_INIT, §4.83 KVM_ARM_PREFERRED_TARGET */
struct arm_vcpu_init {
  uint32_t target, features[7];
};
#define ARM_VCPU_INIT _IOW(KVMIO, 0xae, struct arm_vcpu_init)
#define ARM_PREFERRED_TARGET _IOR(KVMIO, 0xaf, struct arm_vcpu_init)
#define ARM_VCPU_FINALIZE _IOW(KVMIO, 0xc2, int) /* §4.119 */
enum { ARM_POWER_OFF = 0, ARM_PSCI_0_2 = 2, ARM_PMU_V3 = 3, ARM_SVE = 4, ARM_PAUTH_ADDRESS = 5, ARM_PAUTH_GENERIC = 6 };

/* §4.68 KVM_SET_ONE_REG: registers of 64 bits */
#define ARM_CORE(offset) (0x6030000000100000ull | (offset) / 4) /* offset in struct kvm_regs */
#define ARM_X(n) ARM_CORE(8 * (n))
#define ARM_SP ARM_CORE(248)
#define ARM_PC ARM_CORE(256)
#define ARM_PSTATE ARM_CORE(264)
#define ARM_SP_EL1 ARM_CORE(272)
#define ARM_ELR_EL1 ARM_CORE(280)
#define ARM_SYS(op0, op1, crn, crm, op2) \
  (0x6030000000130000ull | (op0) << 14 | (op1) << 11 | (crn) << 7 | (crm) << 3 | (op2))
#define ARM_MPIDR_EL1 ARM_SYS(3, 0, 0, 0, 5)
#define ARM_ESR_EL1 ARM_SYS(3, 0, 5, 2, 0)
#define ARM_FAR_EL1 ARM_SYS(3, 0, 6, 0, 0)
#define ARM_VBAR_EL1 ARM_SYS(3, 0, 12, 0, 0)
#define ARM_TIMER_CNT ARM_SYS(3, 3, 14, 3, 2) /* the virtual counter; all vCPUs have one offset */

/* arm-vgic-v3.rst, arm-vgic-its.rst */
enum { ARM_VGIC_ADDR = 0, ARM_VGIC_NR_IRQS = 3, ARM_VGIC_CTRL = 4 };
enum { ARM_VGIC_DIST = 2, ARM_VGIC_REDIST = 3, ARM_VGIC_ITS = 4 };
enum { ARM_VGIC_INIT = 0 };

/* vcpu.rst: PMU */
enum { ARM_PMU_CTRL = 0, ARM_PMU_IRQ = 0, ARM_PMU_INIT = 1 };

#ifdef __aarch64__ /* the kernel's own header agrees */
#include <stddef.h>
_Static_assert(ARM_VCPU_INIT == KVM_ARM_VCPU_INIT && ARM_PREFERRED_TARGET == KVM_ARM_PREFERRED_TARGET &&
                   ARM_VCPU_FINALIZE == KVM_ARM_VCPU_FINALIZE,
               "ioctls");
#define CORE_OF(member) (KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE | KVM_REG_ARM_CORE_REG(member))
_Static_assert(ARM_X(1) == CORE_OF(regs.regs[1]) && ARM_PC == CORE_OF(regs.pc) && ARM_PSTATE == CORE_OF(regs.pstate) &&
                   ARM_SP_EL1 == CORE_OF(sp_el1) && ARM_ELR_EL1 == CORE_OF(elr_el1) &&
                   ARM_MPIDR_EL1 == ARM64_SYS_REG(3, 0, 0, 0, 5) && ARM_TIMER_CNT == KVM_REG_ARM_TIMER_CNT,
               "registers");
#undef CORE_OF
_Static_assert(ARM_PMU_V3 == KVM_ARM_VCPU_PMU_V3 && ARM_SVE == KVM_ARM_VCPU_SVE &&
                   ARM_PAUTH_GENERIC == KVM_ARM_VCPU_PTRAUTH_GENERIC && ARM_PMU_INIT == KVM_ARM_VCPU_PMU_V3_INIT,
               "features");
_Static_assert(ARM_VGIC_NR_IRQS == KVM_DEV_ARM_VGIC_GRP_NR_IRQS && ARM_VGIC_CTRL == KVM_DEV_ARM_VGIC_GRP_CTRL &&
                   ARM_VGIC_DIST == KVM_VGIC_V3_ADDR_TYPE_DIST && ARM_VGIC_REDIST == KVM_VGIC_V3_ADDR_TYPE_REDIST &&
                   ARM_VGIC_ITS == KVM_VGIC_ITS_ADDR_TYPE,
               "GIC");
#endif

#endif
