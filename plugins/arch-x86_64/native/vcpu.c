/* SPDX-License-Identifier: Apache-2.0 */
/* The VM's in-kernel interrupt controllers and the first state of its vCPUs. */
#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "arch.h"

int arch_ioctl(arch_t *a, int fd, unsigned long request, const char *name, void *argument) {
  int r;
  do r = ioctl(fd, request, argument);
  while (r < 0 && errno == EINTR);
  if (r >= 0) return r;
  a->failed = name;
  return -errno;
}

#define TRY(a, fd, request, argument)                                       \
  do {                                                                      \
    int try_result = arch_ioctl((a), (fd), request, #request, (argument)); \
    if (try_result < 0) return try_result;                                  \
  } while (0)

arch_t *arch_new(const void *api, void *vm) {
  if (vmm_api_check(api, 0)) return NULL;
  arch_t *a = calloc(1, sizeof(*a));
  if (!a) return NULL;
  a->api = api;
  a->vm = vm;
  a->failed = "";
  pthread_mutex_init(&a->rtc.lock, NULL);
  return a;
}

void arch_free(arch_t *a) {
  if (!a) return;
  arch_unrealize(a);
  free(a->supported);
  free(a->msr_list);
  pthread_mutex_destroy(&a->rtc.lock);
  free(a);
}

const char *arch_failed(const arch_t *a) { return a->failed; }

/*
 * All of the interrupt controllers live in the kernel: with a split irqchip each
 * level-triggered end of interrupt would leave it for our I/O APIC.
 */
int arch_create(arch_t *a, uint64_t tss, uint64_t identity_map, int x2apic_ids) {
  int vm = a->api->vm_fd(a->vm), kvm = a->api->kvm_fd(a->vm);
  TRY(a, vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
  TRY(a, vm, KVM_SET_TSS_ADDR, (void *)(uintptr_t)tss);
  TRY(a, vm, KVM_CREATE_IRQCHIP, NULL);
  if (x2apic_ids) { /* APIC IDs above 255, before the first vCPU */
    struct kvm_enable_cap cap = {.cap = KVM_CAP_X2APIC_API};
    cap.args[0] = KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK;
    TRY(a, vm, KVM_ENABLE_CAP, &cap);
  }
  if (ioctl(kvm, KVM_CHECK_EXTENSION, (void *)KVM_CAP_TSC_DEADLINE_TIMER) > 0)
    a->cpu_flags |= ARCH_CPU_TSC_DEADLINE;
  return 0;
}

/* KVM leaves out the processor's name (leaves 0x80000002 to 4), which people look for. */
static void add_name(arch_t *a) {
  for (int i = 0; i < a->n_supported; i++) {
    struct kvm_cpuid_entry2 *e = &a->supported[i];
    if (e->function >= 0x80000002u && e->function <= 0x80000004u && !(e->eax | e->ebx | e->ecx | e->edx))
      __get_cpuid(e->function, &e->eax, &e->ebx, &e->ecx, &e->edx);
  }
}

static int read_supported(arch_t *a) {
  if (a->supported) return 0;
  size_t bytes = sizeof(struct kvm_cpuid2) + ARCH_CPUID_MAX * sizeof(struct kvm_cpuid_entry2);
  struct kvm_cpuid2 *table = calloc(1, bytes);
  if (!table) return -ENOMEM;
  table->nent = ARCH_CPUID_MAX;
  int r = arch_ioctl(a, a->api->kvm_fd(a->vm), KVM_GET_SUPPORTED_CPUID, "KVM_GET_SUPPORTED_CPUID", table);
  if (r >= 0) {
    a->supported = malloc(table->nent * sizeof(table->entries[0]));
    if (a->supported) {
      memcpy(a->supported, table->entries, table->nent * sizeof(table->entries[0]));
      a->n_supported = (int)table->nent;
      add_name(a);
    } else {
      r = -ENOMEM;
    }
  }
  free(table);
  return r < 0 ? r : 0;
}

static int set_cpuid(arch_t *a, int fd, const struct arch_cpu *wanted) {
  struct {
    struct kvm_cpuid2 head;
    struct kvm_cpuid_entry2 entries[ARCH_CPUID_MAX];
  } *table;
  int r = read_supported(a);
  if (r < 0) return r;
  struct arch_cpu cpu = *wanted;
  cpu.flags |= a->cpu_flags;
  int khz = ioctl(fd, KVM_GET_TSC_KHZ, NULL);
  cpu.tsc_khz = khz > 0 ? (uint32_t)khz : 0;
  table = calloc(1, sizeof(*table));
  if (!table) return -ENOMEM;
  memcpy(table->entries, a->supported, (size_t)a->n_supported * sizeof(table->entries[0]));
  r = arch_cpuid_edit(table->entries, a->n_supported, ARCH_CPUID_MAX, &cpu);
  if (r < 0) {
    a->failed = "CPUID table";
  } else {
    table->head.nent = (uint32_t)r;
    r = arch_ioctl(a, fd, KVM_SET_CPUID2, "KVM_SET_CPUID2", table);
  }
  free(table);
  return r < 0 ? r : 0;
}

struct msr {
  uint32_t index;
  uint64_t value;
};

/* Set the MSRs that exist; one that KVM does not know is passed over, since it then holds nothing. */
static int set_msrs(arch_t *a, int fd, const struct msr *list, uint32_t n) {
  struct {
    struct kvm_msrs head;
    struct kvm_msr_entry entry;
  } one;
  for (uint32_t i = 0; i < n; i++) {
    memset(&one, 0, sizeof(one));
    one.head.nmsrs = 1;
    one.entry.index = list[i].index;
    one.entry.data = list[i].value;
    TRY(a, fd, KVM_SET_MSRS, &one);
  }
  return 0;
}

/* What firmware leaves behind: fast strings on, all memory write-back (Intel SDM vol. 3A 12.11). */
static const struct msr firmware_msrs[] = {
    {0x1a0, 1},     /* IA32_MISC_ENABLE: fast strings */
    {0x2ff, 0x806}, /* IA32_MTRR_DEF_TYPE: enabled, write-back */
};

static void lapic_reg(struct kvm_lapic_state *lapic, unsigned reg, uint32_t clear, uint32_t set) {
  uint32_t v;
  memcpy(&v, lapic->regs + reg, 4);
  v = (v & ~clear) | set;
  memcpy(lapic->regs + reg, &v, 4);
}

static int set_fpu(arch_t *a, int fd) {
  struct kvm_fpu fpu;
  memset(&fpu, 0, sizeof(fpu));
  fpu.fcw = 0x37f;
  fpu.mxcsr = 0x1f80;
  TRY(a, fd, KVM_SET_FPU, &fpu);
  return 0;
}

int arch_init_vcpu(arch_t *a, int fd, const struct arch_cpu *cpu) {
  struct kvm_lapic_state lapic;
  uint32_t id;
  int r = set_cpuid(a, fd, cpu);
  if (r < 0) return r;
  TRY(a, fd, KVM_GET_LAPIC, &lapic);
  memcpy(&id, lapic.regs + 0x20, 4);
  if (cpu->apic_id < 255 && id >> 24 != cpu->apic_id) { /* KVM takes it from KVM_CREATE_VCPU's number */
    a->failed = "KVM_CREATE_VCPU (vCPU number is not the APIC ID)";
    return -EINVAL;
  }
  /* Virtual wire: LINT0 ExtINT, LINT1 NMI, both unmasked (Intel SDM vol. 3A 11.5.1). */
  lapic_reg(&lapic, 0x350, 0x10700, 0x700);
  lapic_reg(&lapic, 0x360, 0x10700, 0x400);
  TRY(a, fd, KVM_SET_LAPIC, &lapic);
  if ((r = set_msrs(a, fd, firmware_msrs, sizeof(firmware_msrs) / sizeof(firmware_msrs[0]))) < 0) return r;
  if (cpu->flags & ARCH_CPU_NESTED) { /* IA32_FEATURE_CONTROL: locked, VMX allowed; absent on AMD */
    static const struct msr vmx = {0x3a, 5};
    if ((r = set_msrs(a, fd, &vmx, 1)) < 0) return r;
  }
  return set_fpu(a, fd);
}

/* As KVM makes it: it waits for INIT, which resets it (KVM API §4.38). Its thread does not run. */
int arch_revive_vcpu(arch_t *a, int fd) {
  struct kvm_mp_state state = {.mp_state = KVM_MP_STATE_UNINITIALIZED};
  TRY(a, fd, KVM_SET_MP_STATE, &state);
  return 0;
}

static void load_segment(struct kvm_segment *to, const struct arch_segment *from) {
  uint32_t at = from->attributes;
  *to = (struct kvm_segment){
      .base = from->base, .limit = from->limit, .selector = from->selector, .type = at & 15, .s = at >> 4 & 1,
      .dpl = at >> 5 & 3, .present = at >> 7 & 1, .avl = at >> 12 & 1, .l = at >> 13 & 1, .db = at >> 14 & 1,
      .g = at >> 15 & 1, .unusable = !(at >> 7 & 1)};
}

int arch_set_entry(arch_t *a, int fd, const struct arch_entry *entry) {
  struct kvm_sregs sregs;
  struct kvm_regs regs;
  TRY(a, fd, KVM_GET_SREGS, &sregs);
  load_segment(&sregs.cs, &entry->cs);
  load_segment(&sregs.ds, &entry->ds);
  load_segment(&sregs.es, &entry->es);
  load_segment(&sregs.fs, &entry->fs);
  load_segment(&sregs.gs, &entry->gs);
  load_segment(&sregs.ss, &entry->ss);
  load_segment(&sregs.tr, &entry->tr);
  sregs.gdt.base = entry->gdt_base;
  sregs.gdt.limit = entry->gdt_limit;
  sregs.idt.base = entry->idt_base;
  sregs.idt.limit = entry->idt_limit;
  sregs.cr0 = entry->cr0;
  sregs.cr3 = entry->cr3;
  sregs.cr4 = entry->cr4;
  sregs.efer = entry->efer;
  TRY(a, fd, KVM_SET_SREGS, &sregs);
  memset(&regs, 0, sizeof(regs));
  regs.rip = entry->rip, regs.rsp = entry->rsp, regs.rbp = entry->rbp, regs.rflags = entry->rflags | 2;
  regs.rax = entry->rax, regs.rbx = entry->rbx, regs.rcx = entry->rcx, regs.rdx = entry->rdx;
  regs.rsi = entry->rsi, regs.rdi = entry->rdi;
  TRY(a, fd, KVM_SET_REGS, &regs);
  return 0;
}
