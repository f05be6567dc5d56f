/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Exceptions: each case one line "CASE <name> ok" or "CASE <name> FAILED". CASES is a bit mask of what to run, for
 * a KVM that interprets kernel code does not have all of this. (SDM vol. 3 ch. 6)
 */
#include "guest.h"

enum { DE = 0, DB = 1, BP = 3, UD = 6, NM = 7, DF = 8, NP = 11, SS = 12, GP = 13, PF = 14 };
#define NONE ~0ul
#define UNMAPPED 0x8000000000ul
#define NON_CANONICAL 0x800000000000ul
#define PAGE_AT 0x10000000000ul /* mapped with page bits of our own */

/* Take one exception and compare. `rip`: NONE, or where it must point. */
static void expect(void (*fn)(void *), void *arg, int vector, u64 error, u64 cr2)
{
    last_exception = (struct exception){99, 99, 99, 99};
    int got = try_call(fn, arg);
    CHECK(got == vector, "vector %d, not %d", got, vector);
    if (got < 0)
        return;
    CHECK(last_exception.error == error, "error code 0x%lx, not 0x%lx", last_exception.error, error);
    if (cr2 != NONE)
        CHECK(last_exception.cr2 == cr2, "CR2 0x%lx, not 0x%lx", last_exception.cr2, cr2);
}

static void read_at(void *at) { (void)mmio_read32((u64)at); }
static void write_at(void *at) { mmio_write32((u64)at, 1); }
static void call_at(void *at) { ((void (*)(void))at)(); }

/* --- the cases ------------------------------------------------------------------------------------------- */
static void do_ud2(void *arg) { (void)arg; __asm__ volatile(".globl ud_here\nud_here: ud2"); }
extern u8 ud_here[];
static void case_ud(void)
{
    expect(do_ud2, 0, UD, 0, NONE);
    CHECK(last_exception.rip == (u64)ud_here, "rip 0x%lx", last_exception.rip);
}

static void do_div(void *arg)
{
    u32 low = 5, high = 0;
    __asm__ volatile("divl %2" : "+a"(low), "+d"(high) : "r"((u32)(u64)arg));
}
static void do_div_overflow(void *arg)
{
    u32 low = 5, high = 7;
    __asm__ volatile("divl %2" : "+a"(low), "+d"(high) : "r"((u32)(u64)arg));
}
static void case_de(void)
{
    expect(do_div, (void *)0, DE, 0, NONE);
    expect(do_div_overflow, (void *)3, DE, 0, NONE);
    expect(do_div, (void *)3, -1, 0, NONE);
}

static void do_wrmsr(void *arg) { wrmsr((u32)(u64)arg, ~0ul); }
static void do_cr4(void *arg) { __asm__ volatile("mov %0, %%cr4" ::"r"(arg)); }
static void case_gp(void)
{
    expect(read_at, (void *)NON_CANONICAL, GP, 0, NONE);
    expect(write_at, (void *)(NON_CANONICAL | 0x1000), GP, 0, NONE);
    expect(do_wrmsr, (void *)0xc0000080ul, GP, 0, NONE); /* reserved bits of EFER */
    expect(do_cr4, (void *)(1ul << 63), GP, 0, NONE);
}

static void do_segment(void *arg) { __asm__ volatile("mov %w0, %%fs" ::"r"(arg)); }
static void case_gp_selector(void)
{
    expect(do_segment, (void *)0x1230ul, GP, 0x1230, NONE); /* beyond the GDT's limit */
    expect(do_segment, (void *)0x14ul, GP, 0x14, NONE); /* LDT: there is none */
}

static void case_np(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) gdt;
    __asm__ volatile("sgdt %0" : "=m"(gdt));
    u64 *entry = (u64 *)gdt.base + 4; /* user data: take its present bit away for a while */
    u64 before = *entry;
    *entry = before & ~(1ul << 47);
    expect(do_segment, (void *)0x20ul, NP, 0x20, NONE);
    *entry = before;
    expect(do_segment, (void *)0x20ul, -1, 0, NONE);
    do_segment((void *)0);
}

static void do_stack(void *arg)
{
    __asm__ volatile("push %%rbp; mov %0, %%rbp; movl (%%rbp), %%eax; pop %%rbp" ::"r"(arg) : "eax", "memory");
}
static void case_ss(void) { expect(do_stack, (void *)NON_CANONICAL, SS, 0, NONE); }

static u64 *entry_of(u64 address)
{
    u64 *table;
    __asm__ volatile("mov %%cr3, %0" : "=r"(table));
    for (int shift = 39; shift > 21; shift -= 9)
        table = (u64 *)(table[address >> shift & 511] & 0x000ffffffffff000ul);
    return &table[address >> 21 & 511];
}
static void set_page(u64 bits)
{
    /* A 2 MiB page at PAGE_AT over the guest's own memory at 32 MiB. */
    *entry_of(PAGE_AT) = bits ? (32ul << 20) | 0x80 | bits : 0;
    __asm__ volatile("invlpg (%0)" ::"r"(PAGE_AT) : "memory");
}
static void case_pf(void)
{
    expect(read_at, (void *)UNMAPPED, PF, 0, UNMAPPED);
    expect(write_at, (void *)(UNMAPPED + 0x123), PF, 2, UNMAPPED + 0x123);
    u64 cr0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    map(PAGE_AT, 4096, 0);
    set_page(0);
    expect(read_at, (void *)(PAGE_AT + 8), PF, 0, PAGE_AT + 8);
    set_page(1); /* present, read only */
    expect(read_at, (void *)PAGE_AT, -1, 0, NONE);
    __asm__ volatile("mov %0, %%cr0" ::"r"(cr0 | 1 << 16)); /* WP */
    expect(write_at, (void *)(PAGE_AT + 16), PF, 3, PAGE_AT + 16);
    __asm__ volatile("mov %0, %%cr0" ::"r"(cr0 & ~(1ul << 16)));
    expect(write_at, (void *)(PAGE_AT + 16), -1, 0, NONE);
    __asm__ volatile("mov %0, %%cr0" ::"r"(cr0));
    set_page(3);
    expect(write_at, (void *)(PAGE_AT + 16), -1, 0, NONE);
}

static void case_pf_nx(void)
{
    map(PAGE_AT, 4096, 0);
    set_page(3);
    *(u8 *)PAGE_AT = 0xc3; /* ret */
    expect(call_at, (void *)PAGE_AT, -1, 0, NONE);
    set_page(1ul << 63 | 3);
    expect(call_at, (void *)PAGE_AT, PF, 0x11, PAGE_AT); /* instruction fetch, protection */
}

static void case_pf_reserved(void)
{
    map(PAGE_AT, 4096, 0);
    set_page(1 << 13 | 3); /* bits 20..13 of a 2 MiB entry must be 0 */
    expect(read_at, (void *)PAGE_AT, PF, 9, PAGE_AT);
    set_page(3);
}

static void do_int3(void *arg) { (void)arg; __asm__ volatile("int3\n.globl after_int3\nafter_int3: nop"); }
extern u8 after_int3[];
static void case_bp(void)
{
    expect(do_int3, 0, BP, 0, NONE);
    CHECK(last_exception.rip == (u64)after_int3, "rip 0x%lx, not behind the int3", last_exception.rip);
}

static void do_step(void *arg)
{
    (void)arg;
    __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq; nop\n.globl after_step\nafter_step: nop" ::: "memory", "cc");
}
extern u8 after_step[], step_gate[];
u64 db_stub;
/* The library ends a try_call with the interrupted flags: without this it would trap again and again. */
__asm__("step_gate: andl $~0x100, 16(%rsp); jmp *db_stub");
static void case_db_step(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) idt;
    u64 dr6;
    __asm__ volatile("sidt %0" : "=m"(idt));
    u32 *gate = (u32 *)(idt.base + 16 * DB);
    db_stub = (gate[0] & 0xffff) | (gate[1] & 0xffff0000); /* the guest is below 4 GiB */
    gate[0] = (gate[0] & 0xffff0000) | ((u32)(u64)step_gate & 0xffff);
    gate[1] = (gate[1] & 0xffff) | ((u32)(u64)step_gate & 0xffff0000);
    __asm__ volatile("mov %0, %%dr6" ::"r"(0ul));
    expect(do_step, 0, DB, 0, NONE);
    __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
    CHECK(last_exception.rip == (u64)after_step, "rip 0x%lx, not 0x%lx", last_exception.rip, (u64)after_step);
    CHECK(dr6 >> 14 & 1, "DR6 0x%lx has no BS", dr6);
}

static void do_watched(void *arg) { *(volatile u32 *)arg = 7; }
static void case_db_watch(void)
{
    static u32 watched;
    u64 dr6;
    __asm__ volatile("mov %0, %%dr6" ::"r"(0ul));
    __asm__ volatile("mov %0, %%dr0" ::"r"(&watched));
    __asm__ volatile("mov %0, %%dr7" ::"r"(0xd0002ul)); /* G0, on writes of 4 bytes */
    expect(do_watched, &watched, DB, 0, NONE);
    __asm__ volatile("mov %%dr6, %0" : "=r"(dr6));
    __asm__ volatile("mov %0, %%dr7" ::"r"(0x400ul));
    CHECK(dr6 & 1, "DR6 0x%lx does not name the first one", dr6);
    CHECK(watched == 7, "a data breakpoint traps after the write: %u", watched);
}

static void do_fpu(void *arg) { (void)arg; __asm__ volatile("fninit"); }
static void case_nm(void)
{
    u64 cr0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    __asm__ volatile("mov %0, %%cr0" ::"r"((cr0 | 8) & ~4ul)); /* TS, no EM */
    expect(do_fpu, 0, NM, 0, NONE);
    __asm__ volatile("clts");
    __asm__ volatile("mov %0, %%cr0" ::"r"(cr0 & ~12ul));
    expect(do_fpu, 0, -1, 0, NONE);
    __asm__ volatile("mov %0, %%cr0" ::"r"(cr0));
}

static void case_df(void)
{
    struct { u16 limit; u64 base; } __attribute__((packed)) idt;
    __asm__ volatile("sidt %0" : "=m"(idt));
    u8 *type = (u8 *)idt.base + 16 * PF + 5;
    *type &= 0x7f; /* no page fault handler: the fault while delivering it makes a double fault */
    expect(read_at, (void *)UNMAPPED, DF, 0, NONE);
    *type |= 0x80;
    expect(read_at, (void *)UNMAPPED, PF, 0, UNMAPPED);
}

static void inner(void *arg)
{
    expect(do_ud2, 0, UD, 0, NONE);
    expect(write_at, (void *)(UNMAPPED + 64), PF, 2, UNMAPPED + 64);
    expect(do_div, (void *)0, DE, 0, NONE);
    read_at(arg);
}
static volatile u32 in_handler;
static void handler(struct trap_frame *frame)
{
    (void)frame;
    expect(inner, (void *)UNMAPPED, PF, 0, UNMAPPED);
    in_handler = 1;
}
static void case_nested(void)
{
    expect(inner, (void *)NON_CANONICAL, GP, 0, NONE);
    set_irq_handler(0x60, handler);
    irq_enable();
    lapic_ipi(lapic_id(), 0x60);
    CHECK(spin_until(&in_handler, 1, 100000), "no interrupt came");
    irq_disable();
}

static void do_int(void *arg) { (void)arg; __asm__ volatile("int $0x61"); }
static void case_int_n(void)
{
    u32 before = irq_count[0x61];
    expect(do_int, 0, -1, 0, NONE);
    CHECK(irq_count[0x61] == before + 1, "int 0x61 came %u times", irq_count[0x61] - before);
}

static const struct { const char *name; void (*run)(void); } cases[] = {
    {"ud", case_ud}, {"de", case_de}, {"gp", case_gp}, {"gp-selector", case_gp_selector}, {"np", case_np},
    {"ss", case_ss}, {"pf", case_pf}, {"pf-nx", case_pf_nx}, {"pf-reserved", case_pf_reserved}, {"nested", case_nested},
    {"bp", case_bp}, {"db-step", case_db_step}, {"db-watch", case_db_watch}, {"nm", case_nm}, {"df", case_df},
    {"int-n", case_int_n},
};

int main(struct hvm_start_info *si)
{
    (void)si;
    for (unsigned n = 0; n < sizeof cases / sizeof *cases; n++) {
        u32 before = failures;
        if (!((CASES) >> n & 1))
            continue;
        printf("START %s\n", cases[n].name);
        cases[n].run();
        printf("CASE %s %s\n", cases[n].name, failures == before ? "ok" : "FAILED");
    }
    return 0;
}
