/* SPDX-License-Identifier: Apache-2.0 */
/* Exceptions, interrupts, the local APIC and the start of further CPUs. */
#include "guest.h"
#include "internal.h"

enum { DOUBLE_FAULT = 8, PAGE_FAULT = 14, SPURIOUS = 255, CODE64 = 0x08, TSS0 = 0x30 };
enum { APIC_BASE_MSR = 0x1b, APIC_X2 = 1 << 10, APIC_ON = 1 << 11, X2APIC_MSR = 0x800 };

struct gate { u16 low; u16 selector; u8 ist; u8 type; u16 middle; u32 high; u32 reserved; };
struct tss { u32 reserved; u64 rsp[3]; u64 reserved2; u64 ist[7]; u64 reserved3; u16 reserved4; u16 iomap; } __attribute__((packed));
struct pointer { u16 limit; u64 base; } __attribute__((packed));

static struct gate idt[256] __attribute__((aligned(16)));
static struct tss tss[MAX_CPUS] __attribute__((aligned(16)));
static void (*handlers[256])(struct trap_frame *);
struct exception last_exception;
volatile u32 irq_count[256];

void cpu_init(u32 index)
{
    if (!idt[0].selector) {
        for (unsigned v = 0; v < 256; v++) {
            u64 at = (u64)vector_stubs + 16 * v;
            /* Type 0x8e: present interrupt gate. The double fault gets a stack of its own. */
            idt[v] = (struct gate){(u16)at, CODE64, v == DOUBLE_FAULT, 0x8e, (u16)(at >> 16), (u32)(at >> 32), 0};
        }
    }
    struct tss *t = &tss[index];
    t->iomap = sizeof *t;
    t->rsp[0] = t->ist[0] = (u64)cpu_stacks[index] + 4096;
    u64 base = (u64)t;
    u64 *descriptor = &gdt[TSS0 / 8 + 2 * index];
    descriptor[0] = (sizeof *t - 1) | (base & 0xffffff) << 16 | 0x89ul << 40 | (base >> 24 & 0xff) << 56;
    descriptor[1] = base >> 32;
    struct pointer p = {sizeof idt - 1, (u64)idt};
    __asm__ volatile("lidt %0" ::"m"(p) : "memory");
    __asm__ volatile("ltr %w0" ::"r"((u16)(TSS0 + 16 * index)) : "memory");
}

static void unexpected(struct trap_frame *f, u64 cr2)
{
    printf("FAIL unexpected exception %lu error 0x%lx rip 0x%lx cr2 0x%lx rsp 0x%lx rflags 0x%lx apic %u\n", f->vector,
           f->error, f->rip, cr2, f->rsp, f->rflags, lapic_id());
    printf("rax %lx rbx %lx rcx %lx rdx %lx rsi %lx rdi %lx rbp %lx\n", f->rax, f->rbx, f->rcx, f->rdx, f->rsi, f->rdi, f->rbp);
    finish(255);
}

void trap(struct trap_frame *f);
void trap(struct trap_frame *f)
{
    if (f->vector >= 32) {
        atomic_add(&irq_count[f->vector], 1);
        if (handlers[f->vector])
            handlers[f->vector](f);
        if (f->vector != SPURIOUS)
            lapic_write(LAPIC_EOI, 0);
        return;
    }
    u64 cr2;
    __asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
    if (!try_stack)
        unexpected(f, cr2);
    last_exception = (struct exception){f->vector, f->error, f->rip, cr2};
    f->rflags &= ~0x100ull; /* a single step ends here, or it would trap at every instruction from now on */
    f->rip = (u64)try_return;
    f->rsp = try_stack;
    f->rax = f->vector;
}

void set_irq_handler(u8 vector, void (*fn)(struct trap_frame *)) { handlers[vector] = fn; }

int lapic_is_x2(void) { return (rdmsr(APIC_BASE_MSR) & APIC_X2) != 0; }

u32 lapic_read(u32 reg)
{
    return lapic_is_x2() ? (u32)rdmsr(X2APIC_MSR + (reg >> 4)) : mmio_read32(LAPIC_BASE + reg);
}

void lapic_write(u32 reg, u32 value)
{
    if (lapic_is_x2())
        wrmsr(X2APIC_MSR + (reg >> 4), value);
    else
        mmio_write32(LAPIC_BASE + reg, value);
}

void lapic_enable(void)
{
    wrmsr(APIC_BASE_MSR, rdmsr(APIC_BASE_MSR) | APIC_ON);
    lapic_write(LAPIC_SVR, 0x100 | SPURIOUS);
}

void lapic_use_x2(void)
{
    wrmsr(APIC_BASE_MSR, rdmsr(APIC_BASE_MSR) | APIC_ON | APIC_X2);
    lapic_write(LAPIC_SVR, 0x100 | SPURIOUS);
}

u32 lapic_id(void)
{
    u32 id = lapic_read(LAPIC_ID);
    return lapic_is_x2() ? id : id >> 24;
}

void lapic_ipi(u32 apic_id, u32 icr_low)
{
    if (lapic_is_x2()) {
        wrmsr(X2APIC_MSR + (LAPIC_ICR >> 4), (u64)apic_id << 32 | icr_low);
        return;
    }
    lapic_write(LAPIC_ICR_HIGH, apic_id << 24);
    lapic_write(LAPIC_ICR, icr_low);
    for (int i = 0; i < 1000000 && lapic_read(LAPIC_ICR) & 1 << 12; i++) /* delivery status */
        pause();
}

/* --- further CPUs ----------------------------------------------------------------------------------------- */
static struct { void (*fn)(void *); void *arg; u32 index; volatile u32 up; } ap;

void ap_start(void);
void ap_start(void)
{
    void (*fn)(void *) = ap.fn;
    void *arg = ap.arg;
    cpu_init(ap.index);
    lapic_enable();
    __asm__ volatile("movl $1, %0" : "=m"(ap.up)::"memory"); /* from here on the mailbox is free again */
    fn(arg);
    for (;;)
        __asm__ volatile("cli; hlt");
}

int smp_start(u32 apic_id, u32 index, void (*fn)(void *), void *arg)
{
    if (index == 0 || index >= MAX_CPUS)
        return 0;
    memcpy((void *)AP_TRAMPOLINE, ap_trampoline, (size_t)(ap_trampoline_end - ap_trampoline));
    ap_stack = (u64)cpu_stacks[index] + STACK_SIZE;
    ap.fn = fn;
    ap.arg = arg;
    ap.index = index;
    ap.up = 0;
    lapic_ipi(apic_id, 0x4500); /* INIT, assert */
    spin_until(&ap.up, 1, 10000);
    for (int attempt = 0; attempt < 2; attempt++) {
        lapic_ipi(apic_id, 0x4600 | AP_TRAMPOLINE >> 12); /* start-up */
        if (spin_until(&ap.up, 1, attempt ? 5000000 : 200000))
            return 1;
    }
    return 0;
}
