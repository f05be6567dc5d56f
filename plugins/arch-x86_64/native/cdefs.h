/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What Python may call. Read twice: by the C compiler (through arch.h), and by
 * cffi, which takes everything below the next line; so no preprocessor there.
 */
/* cdefs: */
typedef struct arch arch_t;

/* One vCPU as CPUID shall show it. */
struct arch_cpu {
  uint32_t apic_id;
  uint32_t threads, cores, dies, packages; /* threads per core, cores per die, ... ; each >= 1 */
  uint32_t phys_bits;                      /* 0: as the host */
  uint32_t tsc_khz;                        /* 0: unknown */
  uint32_t flags;                          /* 1: nested virtualization, 2: TSC deadline timer */
};

/* A segment register; attributes: bits 40-55 of a descriptor (type, S, DPL, P, ..., L, D/B, G). */
struct arch_segment {
  uint64_t base;
  uint32_t limit;
  uint16_t selector, attributes;
};

/* First registers of a vCPU. */
struct arch_entry {
  uint64_t rip, rsp, rax, rbx, rcx, rdx, rsi, rdi, rbp, rflags;
  uint64_t cr0, cr3, cr4, efer;
  struct arch_segment cs, ds, es, fs, gs, ss, tr;
  uint64_t gdt_base, idt_base;
  uint16_t gdt_limit, idt_limit;
};

/* Where the platform's registers are; a zero address leaves that device out. */
struct arch_platform {
  uint16_t sleep_port, reset_port, pm_timer_port, rtc_port;
  uint8_t i8042;
  uint64_t low_ram, high_ram; /* bytes of RAM below and above 4 GiB, for the CMOS */
};

/* All int functions: >= 0, or -errno; then arch_failed() names the ioctl (or function). */
arch_t *arch_new(const void *api, void *vm);
void arch_free(arch_t *a);
const char *arch_failed(const arch_t *a);

int arch_create(arch_t *a, uint64_t tss, uint64_t identity_map, int x2apic_ids);
/* CPUID, MSRs, FPU and LAPIC of a vCPU that has not run yet. */
int arch_init_vcpu(arch_t *a, int fd, const struct arch_cpu *cpu);
/* A vCPU that was unplugged, as it was when new. */
int arch_revive_vcpu(arch_t *a, int fd);
int arch_set_entry(arch_t *a, int fd, const struct arch_entry *entry);

int arch_realize(arch_t *a, const struct arch_platform *p);
void arch_unrealize(arch_t *a);

/* A pause: the guest's clocks stop when no vCPU runs any more, and go on before one does. `fds`: all vCPUs'. */
int arch_clock_stop(arch_t *a);
int arch_clock_start(arch_t *a, const int *fds, int n);

/* Whole vCPU state as one block of bytes; save: length used, or -ENOBUFS. */
int64_t arch_save_vcpu(arch_t *a, int fd, uint8_t *out, size_t room);
int arch_restore_vcpu(arch_t *a, int fd, const uint8_t *data, size_t len);
int64_t arch_save_platform(arch_t *a, uint8_t *out, size_t room);
int arch_restore_platform(arch_t *a, const uint8_t *data, size_t len);

/*
 * Edit a table of struct kvm_cpuid_entry2 (40 bytes each) in place: `count` used
 * of `room`. Returns the new count, -E2BIG or -EINVAL. Needs no KVM.
 */
int arch_cpuid_edit(void *entries, int count, int room, const struct arch_cpu *cpu);
