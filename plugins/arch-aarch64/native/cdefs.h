/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Python may call. Read twice: by the C compiler (through arch.h), and by
 * cffi, which takes everything below the next line; so no preprocessor there.
 */
/* cdefs: */
typedef struct arch arch_t;

/* Guest-physical addresses of the GICv3's parts; its == 0: no ITS. */
struct arch_gic {
  uint64_t dist, redist, its;
  uint32_t irqs; /* interrupts with the 32 of each CPU: a multiple of 32 from 64 to 1024 */
};

/* All int functions: >= 0, or -errno; then arch_failed() names the ioctl (or function). */
arch_t *arch_new(const void *api, void *vm);
void arch_free(arch_t *a);
const char *arch_failed(const arch_t *a);

/* The interrupt controller, before the first vCPU. */
int arch_create(arch_t *a);
/* Of 1 (SVE), 2 (PMU) and 4 (pointer authentication), those of `wanted` that this KVM has. */
uint32_t arch_features(arch_t *a, uint32_t wanted);
/* A vCPU at its reset; `off`: until another one starts it (PSCI). -ENXIO if it is not the CPU of `mpidr`. */
int arch_init_vcpu(arch_t *a, int fd, uint32_t features, int off, uint64_t mpidr);
/* One whose thread does not run: no other can start it, until it is revived to wait for that. */
int arch_put_away_vcpu(arch_t *a, int fd);
int arch_revive_vcpu(arch_t *a, int fd, uint32_t features);
/* When all vCPUs are there. */
int arch_init_gic(arch_t *a, const struct arch_gic *where);
/* After arch_init_gic(): overflow interrupts of a vCPU's PMU are INTID `irq` (16 to 31). */
int arch_init_pmu(arch_t *a, int fd, uint32_t irq);
int arch_set_entry(arch_t *a, int fd, uint64_t pc, uint64_t x0);
/* A pause: the virtual counter stops when no vCPU runs any more, and goes on before one does. `fd`: any vCPU's. */
int arch_clock_stop(arch_t *a, int fd);
int arch_clock_start(arch_t *a, int fd);
/* For a message about a vCPU: "name 0x... " for its registers; the length of what was written to `out`. */
int arch_describe(arch_t *a, int fd, char *out, int room);
