/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From the CPUID table that KVM supports to the one that a vCPU gets.
 * Sources: Intel SDM vol. 2A "CPUID"; AMD APM vol. 3 appendix E; Linux
 * Documentation/virt/kvm/x86/cpuid.rst. Pure: no KVM needed, so it is tested
 * with made-up tables.
 */
#include <errno.h>
#include <string.h>

#include "arch.h"

#define INDEXED KVM_CPUID_FLAG_SIGNIFCANT_INDEX

enum vendor { OTHER, INTEL, AMD };

struct table {
  struct kvm_cpuid_entry2 *e;
  int count, room, overflow;
};

static struct kvm_cpuid_entry2 *find(struct table *t, uint32_t function, uint32_t index) {
  for (int i = 0; i < t->count; i++) {
    struct kvm_cpuid_entry2 *e = &t->e[i];
    if (e->function == function && (!(e->flags & INDEXED) || e->index == index)) return e;
  }
  return NULL;
}

static void drop(struct table *t, uint32_t function) {
  int kept = 0;
  for (int i = 0; i < t->count; i++)
    if (t->e[i].function != function) t->e[kept++] = t->e[i];
  t->count = kept;
}

static void set(struct table *t, uint32_t function, uint32_t index, uint32_t flags, uint32_t eax, uint32_t ebx,
                uint32_t ecx, uint32_t edx) {
  struct kvm_cpuid_entry2 *e = find(t, function, index);
  if (!e) {
    if (t->count >= t->room) {
      t->overflow = 1;
      return;
    }
    e = &t->e[t->count++];
    memset(e, 0, sizeof(*e));
  }
  e->function = function;
  e->index = index;
  e->flags = flags;
  e->eax = eax;
  e->ebx = ebx;
  e->ecx = ecx;
  e->edx = edx;
}

/* Highest leaf of a range (0, 0x80000000) at least `leaf`. */
static void raise_max(struct table *t, uint32_t range, uint32_t leaf) {
  struct kvm_cpuid_entry2 *e = find(t, range, 0);
  if (e && e->eax < leaf) e->eax = leaf;
}

/* Bits that hold 0..n-1. */
static uint32_t order(uint32_t n) {
  uint32_t bits = 0;
  while (bits < 31 && (1u << bits) < n) bits++;
  return bits;
}

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static enum vendor vendor_of(struct table *t) {
  struct kvm_cpuid_entry2 *e = find(t, 0, 0);
  if (!e) return OTHER;
  if (e->ebx == 0x756e6547u) return INTEL;                         /* "Genu" */
  if (e->ebx == 0x68747541u || e->ebx == 0x6f677948u) return AMD; /* "Auth", "Hygo" */
  return OTHER;
}

/* Deterministic cache parameters (leaf 4; 0x8000001d): who shares each cache. */
static void edit_caches(struct table *t, uint32_t function, uint32_t core_bits, uint32_t die_bits,
                        uint32_t cores_per_package_bits) {
  for (int i = 0; i < t->count; i++) {
    struct kvm_cpuid_entry2 *e = &t->e[i];
    if (e->function != function || !(e->eax & 0x1f)) continue;
    uint32_t level = (e->eax >> 5) & 7;
    uint32_t sharing = (1u << (level >= 3 ? die_bits : core_bits)) - 1;
    e->eax = (e->eax & 0x3fffu) | least(sharing, 0xfff) << 14;
    if (function == 4) e->eax |= least((1u << cores_per_package_bits) - 1, 63) << 26;
  }
}

static void edit_topology(struct table *t, const struct arch_cpu *cpu, enum vendor vendor) {
  const uint32_t core_shift = order(cpu->threads);             /* APIC ID bits below the core number */
  const uint32_t die_shift = core_shift + order(cpu->cores);   /* ... below the die number */
  const uint32_t package_shift = die_shift + order(cpu->dies); /* ... below the package number */
  const uint32_t per_die = cpu->threads * cpu->cores;
  const uint32_t per_package = per_die * cpu->dies;
  struct kvm_cpuid_entry2 *e;

  if ((e = find(t, 1, 0))) {
    uint32_t logical = vendor == INTEL ? 1u << package_shift : per_package;
    e->ebx = (e->ebx & 0xffffu) | least(logical, 255) << 16 | cpu->apic_id << 24;
    e->edx &= ~(1u << 28); /* HTT: the package has several logical processors */
    if (per_package > 1) e->edx |= 1u << 28;
  }

  /* Extended topology: levels SMT (1), core (2) and, with several dies, die (5) in leaf 0x1f. */
  drop(t, 0xb);
  drop(t, 0x1f);
  set(t, 0xb, 0, INDEXED, core_shift, cpu->threads, 1u << 8 | 0, cpu->apic_id);
  set(t, 0xb, 1, INDEXED, package_shift, per_package, 2u << 8 | 1, cpu->apic_id);
  set(t, 0xb, 2, INDEXED, 0, 0, 2, cpu->apic_id);
  raise_max(t, 0, 0xb);
  if (cpu->dies > 1) {
    set(t, 0x1f, 0, INDEXED, core_shift, cpu->threads, 1u << 8 | 0, cpu->apic_id);
    set(t, 0x1f, 1, INDEXED, die_shift, per_die, 2u << 8 | 1, cpu->apic_id);
    set(t, 0x1f, 2, INDEXED, package_shift, per_package, 5u << 8 | 2, cpu->apic_id);
    set(t, 0x1f, 3, INDEXED, 0, 0, 3, cpu->apic_id);
    raise_max(t, 0, 0x1f);
  }

  if (vendor == INTEL) {
    edit_caches(t, 4, core_shift, die_shift, package_shift - core_shift);
  } else if (vendor == AMD) {
    edit_caches(t, 0x8000001d, core_shift, die_shift, 0);
    drop(t, 0x80000026); /* newer topology leaf: describes the host */
    if ((e = find(t, 0x80000008, 0)))
      e->ecx = (e->ecx & 0x30000u) | package_shift << 12 | least(per_package - 1, 255);
    if ((e = find(t, 0x80000001, 0))) {
      e->ecx |= 1u << 22; /* topology extensions: leaf 0x8000001e is there */
      e->ecx = per_package > 1 ? e->ecx | 1u << 1 : e->ecx & ~(1u << 1); /* CmpLegacy */
    }
    uint32_t core = (cpu->apic_id >> core_shift) & ((1u << (package_shift - core_shift)) - 1);
    uint32_t node = cpu->apic_id >> die_shift; /* one node per die */
    set(t, 0x8000001e, 0, 0, cpu->apic_id, least(cpu->threads - 1, 255) << 8 | (core & 0xff),
        least(cpu->dies - 1, 7) << 8 | (node & 0xff), 0);
    raise_max(t, 0x80000000, 0x8000001e);
  }
}

/*
 * Best fraction num/den for khz / 1000000 with num below 4295, by continued
 * fractions: Linux multiplies num by the crystal's kHz (1000000) in 32 bits.
 * Off by less than 0.1 ppm for real frequencies.
 */
static void tsc_ratio(uint32_t khz, uint32_t *num, uint32_t *den) {
  uint64_t a = khz, b = 1000000, p0 = 0, q0 = 1, p1 = 1, q1 = 0;
  while (b) {
    uint64_t whole = a / b, rest = a % b, p = whole * p1 + p0, q = whole * q1 + q0;
    if (p > 4294 || q > UINT32_MAX) break;
    p0 = p1, q0 = q1, p1 = p, q1 = q;
    a = b, b = rest;
  }
  *num = (uint32_t)p1, *den = (uint32_t)q1;
}

/* Tell the guest the frequencies that it would measure otherwise. KVM's APIC timer counts at 1 GHz. */
static void edit_timing(struct table *t, const struct arch_cpu *cpu, enum vendor vendor) {
  struct kvm_cpuid_entry2 *e = find(t, 0x40000000, 0);
  if (e && cpu->tsc_khz) {
    if (e->eax < 0x40000010) e->eax = 0x40000010;
    set(t, 0x40000010, 0, 0, cpu->tsc_khz, 1000000, 0, 0);
  }
  if (vendor == INTEL && cpu->tsc_khz) {
    uint32_t num, den;
    tsc_ratio(cpu->tsc_khz, &num, &den);
    if (num && den) {
      uint32_t mhz = (cpu->tsc_khz + 500) / 1000;
      set(t, 0x15, 0, 0, den, num, 1000000000, 0);
      set(t, 0x16, 0, 0, least(mhz, 0xffff), least(mhz, 0xffff), 0, 0);
      raise_max(t, 0, 0x16);
    }
  }
}

static void edit_features(struct table *t, const struct arch_cpu *cpu) {
  struct kvm_cpuid_entry2 *e;
  int monitor = 0;
  if ((e = find(t, 1, 0))) {
    e->ecx |= 1u << 31; /* a hypervisor is present */
    e->ecx &= ~(1u << 24);
    if (cpu->flags & ARCH_CPU_TSC_DEADLINE) e->ecx |= 1u << 24;
    if (!(cpu->flags & ARCH_CPU_NESTED)) e->ecx &= ~(1u << 5); /* VMX */
    monitor = !!(e->ecx & 1u << 3);
  }
  if (!monitor && (e = find(t, 5, 0))) e->eax = e->ebx = e->ecx = e->edx = 0;
  if ((e = find(t, 7, 0))) {
    e->ebx &= ~(1u << 2);  /* SGX: needs enclave memory, which we do not lay out */
    e->ecx &= ~(1u << 30); /* SGX launch control */
  }
  drop(t, 0x12);
  if (!(cpu->flags & ARCH_CPU_NESTED)) {
    if ((e = find(t, 0x80000001, 0))) e->ecx &= ~(1u << 2); /* SVM */
    drop(t, 0x8000000a);
  }
  drop(t, 0x8000001f); /* memory encryption is the host's */
  if (cpu->phys_bits && (e = find(t, 0x80000008, 0))) {
    e->eax = (e->eax & ~0xffu) | least(e->eax & 0xff, cpu->phys_bits);
    uint32_t guest = (e->eax >> 16) & 0xff; /* usable bits with nested paging; 0: all */
    if (guest) e->eax = (e->eax & ~0xff0000u) | least(guest, cpu->phys_bits) << 16;
  }
}

int arch_cpuid_edit(void *entries, int count, int room, const struct arch_cpu *cpu) {
  if (count < 1 || room < count || !cpu->threads || !cpu->cores || !cpu->dies || !cpu->packages) return -EINVAL;
  if (cpu->threads > 0xffff || cpu->cores > 0xffff || cpu->dies > 0xff) return -EINVAL;
  if (order(cpu->threads) + order(cpu->cores) + order(cpu->dies) > 15) return -EINVAL;
  struct table t = {entries, count, room, 0};
  enum vendor vendor = vendor_of(&t);
  edit_features(&t, cpu);
  edit_topology(&t, cpu, vendor);
  edit_timing(&t, cpu, vendor);
  return t.overflow ? -E2BIG : t.count;
}
