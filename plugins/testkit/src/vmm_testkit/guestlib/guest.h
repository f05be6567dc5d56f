/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Library for bare-metal x86-64 guests: include it, write `int main(struct hvm_start_info *si)`.
 *
 * main runs on the first CPU in long mode at CPL 0, interrupts off, with the low 4 GiB identity mapped and all
 * vectors handled. Its value (or the number of failed CHECKs, if that is not 0) goes to COM1 as "EXIT:<n>", then
 * the machine is switched off through the ACPI sleep port. There is no libc and no floating point.
 */
#ifndef VMM_TESTKIT_GUEST_H
#define VMM_TESTKIT_GUEST_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

/* --- what the VMM handed over: Xen's hvm_start_info (public/arch-x86/hvm/start_info.h) ------------------- */
struct hvm_start_info {
    u32 magic; /* 0x336ec578 */
    u32 version;
    u32 flags;
    u32 nr_modules;
    u64 modlist_paddr;
    u64 cmdline_paddr;
    u64 rsdp_paddr;
    u64 memmap_paddr; /* version >= 1 */
    u32 memmap_entries;
    u32 reserved;
};
struct hvm_memmap_entry {
    u64 addr, size;
    u32 type; /* 1 = RAM, as in e820 */
    u32 reserved;
};

/* --- text on COM1, checks, the end ----------------------------------------------------------------------- */
void putchar(int c);
void puts(const char *text); /* no newline added */
/* %s %c %p, and %d %u %x with l (64 bits), width and leading 0. One call is one piece even on several CPUs. */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Count and print a failure with its line; go on. CHECK(a == b, "a is %d", a); */
#define CHECK(condition, ...) \
    do { \
        if (!(condition)) \
            check_failed(__FILE__, __LINE__, #condition, __VA_ARGS__); \
    } while (0)
void check_failed(const char *file, int line, const char *condition, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
extern u32 failures;
void finish(int status) __attribute__((noreturn)); /* print EXIT:<status>, power off */

void *memset(void *to, int byte, size_t n);
void *memcpy(void *to, const void *from, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int strcmp(const char *a, const char *b);

/* --- ports, memory, CPU: exactly one access of exactly that width each ----------------------------------- */
#define GUEST_PORT(suffix, type, letter, reg) \
    static inline void out##suffix(u16 port, type value) \
    { __asm__ volatile("out" #letter " %" reg "0, %1" ::"a"(value), "Nd"(port) : "memory"); } \
    static inline type in##suffix(u16 port) \
    { type value; __asm__ volatile("in" #letter " %1, %" reg "0" : "=a"(value) : "Nd"(port) : "memory"); return value; }
GUEST_PORT(b, u8, b, "b")
GUEST_PORT(w, u16, w, "w")
GUEST_PORT(l, u32, l, "k")

#define GUEST_MMIO(bits, letter, constraint) \
    static inline u##bits mmio_read##bits(u64 address) \
    { \
        u##bits value; \
        __asm__ volatile("mov" #letter " %1, %0" : "=" constraint(value) : "m"(*(volatile u##bits *)address) : "memory"); \
        return value; \
    } \
    static inline void mmio_write##bits(u64 address, u##bits value) \
    { __asm__ volatile("mov" #letter " %1, %0" : "=m"(*(volatile u##bits *)address) : constraint(value) : "memory"); }
GUEST_MMIO(8, b, "q")
GUEST_MMIO(16, w, "r")
GUEST_MMIO(32, l, "r")
GUEST_MMIO(64, q, "r")

struct cpuid { u32 eax, ebx, ecx, edx; };
static inline struct cpuid cpuid(u32 leaf, u32 subleaf)
{
    struct cpuid r;
    __asm__ volatile("cpuid" : "=a"(r.eax), "=b"(r.ebx), "=c"(r.ecx), "=d"(r.edx) : "a"(leaf), "c"(subleaf));
    return r;
}
static inline u64 rdmsr(u32 msr)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr) : "memory");
    return (u64)high << 32 | low;
}
static inline void wrmsr(u32 msr, u64 value)
{
    __asm__ volatile("wrmsr" ::"c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
static inline u64 rdtsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}
static inline void pause(void) { __asm__ volatile("pause" ::: "memory"); }
static inline void irq_enable(void) { __asm__ volatile("sti" ::: "memory"); }
static inline void irq_disable(void) { __asm__ volatile("cli" ::: "memory"); }
/* Let interrupts in and sleep until one came (none is lost between the two), then shut them out again. */
static inline void irq_wait(void) { __asm__ volatile("sti; hlt; cli" ::: "memory"); }
/* Spin until *word == value; 0 after `spins` rounds (0: a default of some seconds' worth), else 1. */
int spin_until(volatile u32 *word, u32 value, u64 spins);

/* --- exceptions and interrupts --------------------------------------------------------------------------- */
struct trap_frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    u64 vector, error, rip, cs, rflags, rsp, ss;
};
/* Call fn(arg); an exception in it ends it. Returns -1 (none came) or the vector. First CPU only; may nest. */
int try_call(void (*fn)(void *), void *arg);
struct exception { u64 vector, error, rip, cr2; };
extern struct exception last_exception; /* of the last try_call that did not return -1 */
/* Handler of vectors 32..255; the local APIC gets its EOI after it. NULL takes it away. Any CPU may run it. */
void set_irq_handler(u8 vector, void (*fn)(struct trap_frame *));
extern volatile u32 irq_count[256]; /* how often each vector was taken, handler or not (from 32 on) */

/* --- local APIC: xAPIC (0xfee00000) or x2APIC (MSR 0x800), whichever is on (SDM vol. 3 ch. 11) ------------ */
#define LAPIC_BASE 0xfee00000ul
enum {
    LAPIC_ID = 0x20, LAPIC_VERSION = 0x30, LAPIC_TPR = 0x80, LAPIC_EOI = 0xb0, LAPIC_SVR = 0xf0, LAPIC_ISR = 0x100,
    LAPIC_IRR = 0x200, LAPIC_ESR = 0x280, LAPIC_ICR = 0x300, LAPIC_ICR_HIGH = 0x310, LAPIC_LVT_TIMER = 0x320,
    LAPIC_LVT_LINT0 = 0x350, LAPIC_TIMER_COUNT = 0x380, LAPIC_TIMER_NOW = 0x390, LAPIC_TIMER_DIVIDE = 0x3e0,
};
u32 lapic_read(u32 reg);
void lapic_write(u32 reg, u32 value);
void lapic_enable(void); /* software enable, spurious vector 255; main's CPU and started CPUs have it done */
int lapic_is_x2(void);
void lapic_use_x2(void); /* for this CPU; there is no way back but reset */
u32 lapic_id(void);
void lapic_ipi(u32 apic_id, u32 icr_low); /* icr_low: vector and delivery mode; waits until it is sent */

/* --- several CPUs ---------------------------------------------------------------------------------------- */
#define MAX_CPUS 64
#define STACK_SIZE 16384
#define AP_TRAMPOLINE 0x70000ul /* page that the guest overwrites to start CPUs */
/* INIT, SIPI, SIPI to that APIC id, run fn(arg) there in long mode with interrupts off; then it halts.
   Returns 1 when the CPU is up (fn may still run), 0 when it did not come. `index` 1..63 picks its stack. */
int smp_start(u32 apic_id, u32 index, void (*fn)(void *), void *arg);
static inline u32 atomic_add(volatile u32 *word, u32 n)
{
    __asm__ volatile("lock xaddl %0, %1" : "+r"(n), "+m"(*word)::"memory");
    return n; /* the value before */
}
void spin_lock(volatile u32 *lock);
void spin_unlock(volatile u32 *lock);

/* --- memory beyond the first 4 GiB ----------------------------------------------------------------------- */
/* Identity-map [address, address + size) in 2 MiB pages, uncached if asked; returns the address. The low 4 GiB are
   mapped (cached) from the start; at most some 60 tables, else the guest ends with a message. */
void *map(u64 address, u64 size, int uncached);

/* --- PCI ------------------------------------------------------------------------------------------------- */
#define ECAM_BASE 0xe8000000ul
#define PCI_BDF(bus, device, function) ((u16)((bus) << 8 | (device) << 3 | (function)))
static inline u64 ecam(u16 bdf, u16 offset) { return ECAM_BASE + ((u64)bdf << 12) + offset; } /* for mmio_* */
u8 pci_cfg_read8(u16 bdf, u16 offset); /* by CF8/CFC; offset < 256 */
u16 pci_cfg_read16(u16 bdf, u16 offset);
u32 pci_cfg_read32(u16 bdf, u16 offset);
void pci_cfg_write8(u16 bdf, u16 offset, u8 value);
void pci_cfg_write16(u16 bdf, u16 offset, u16 value);
void pci_cfg_write32(u16 bdf, u16 offset, u32 value);
int pci_find(u16 vendor, u16 device); /* bdf on bus 0, or -1 */
u8 pci_find_capability(u16 bdf, u8 id); /* offset, or 0 */
u64 pci_bar_address(u16 bdf, int bar); /* 64-bit BARs: both halves; flag bits cleared */
u64 pci_bar_size(u16 bdf, int bar); /* by writing ones with decoding off, and back; 0: not there */
void pci_bar_move(u16 bdf, int bar, u64 address); /* decoding goes on as it was */

#endif
