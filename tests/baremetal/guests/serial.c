/* SPDX-License-Identifier: Apache-2.0 */
/* 16550A: loopback, FIFOs, the interrupt through the I/O APIC, and BYTES bytes of output at full speed. */
#include "guest.h"

enum { COM1 = 0x3f8, DATA = COM1, IER, IIR, LCR, MCR, LSR, MSR, SCR, LOOP = 0x10, THRE_IRQ = 2, RX_IRQ = 1, VECTOR = 0x44, GSI = 4 };
#define IOAPIC 0xfec00000ul

static void ioapic_write(u32 reg, u32 value)
{
    mmio_write32(IOAPIC, reg);
    mmio_write32(IOAPIC + 0x10, value);
}
static u32 ioapic_read(u32 reg)
{
    mmio_write32(IOAPIC, reg);
    return mmio_read32(IOAPIC + 0x10);
}

static void registers(void)
{
    CHECK(inb(IER) == 0, "IER 0x%x", inb(IER));
    outb(SCR, 0x5a);
    CHECK(inb(SCR) == 0x5a, "SCR 0x%x", inb(SCR));
    outb(LCR, 0x83);
    outb(DATA, 0x0c);
    outb(IER, 0x01);
    u8 low = inb(DATA), high = inb(IER);
    outb(LCR, 0x03);
    CHECK(low == 0x0c && high == 0x01, "divisor 0x%x 0x%x", low, high);
    CHECK(inb(IER) == 0, "IER after the divisor 0x%x", inb(IER));
    CHECK((inb(LSR) & 0x60) == 0x60, "LSR 0x%x", inb(LSR));
}

/* Results are kept and checked after loopback is over, for the console is the same port. */
static void loopback(void)
{
    u8 got[16], iir, msr, lsr_full, lsr_empty, lsr_over;
    outb(IIR, 0x07); /* FIFOs on and empty */
    outb(MCR, LOOP);
    for (u8 n = 0; n < 16; n++)
        outb(DATA, (u8)(0xa0 + n));
    lsr_full = inb(LSR);
    iir = inb(IIR);
    outb(DATA, 0xff); /* the seventeenth is lost */
    lsr_over = inb(LSR);
    for (u8 n = 0; n < 16; n++)
        got[n] = inb(DATA);
    lsr_empty = inb(LSR);
    outb(MCR, LOOP | 0xf);
    msr = inb(MSR);
    outb(MCR, 0);
    outb(IIR, 0x07);
    for (u8 n = 0; n < 16; n++)
        CHECK(got[n] == 0xa0 + n, "loopback byte %u: 0x%x", n, got[n]);
    CHECK((lsr_full & 1) && !(lsr_full & 2), "LSR full 0x%x", lsr_full);
    CHECK(lsr_over & 2, "LSR after an overrun 0x%x", lsr_over);
    CHECK(!(lsr_empty & 3), "LSR empty 0x%x", lsr_empty);
    CHECK((iir & 0xc1) == 0xc1, "IIR without enabled interrupts 0x%x", iir);
    CHECK((msr & 0xf0) == 0xf0, "MSR in loopback 0x%x", msr);
}

static volatile u32 sent, ids;
static void on_irq(struct trap_frame *f)
{
    (void)f;
    u8 iir = inb(IIR);
    ids |= 1u << (iir & 15);
    if ((iir & 15) == 2 && sent < 10) {
        outb(DATA, (u8)('0' + sent));
        sent = sent + 1;
    } else if ((iir & 15) == 4 || (iir & 15) == 12) {
        (void)inb(DATA);
    }
}

static void interrupts(void)
{
    u32 version = ioapic_read(1);
    CHECK((version >> 16 & 0xff) == 23, "the I/O APIC has %u pins", (version >> 16 & 0xff) + 1);
    set_irq_handler(VECTOR, on_irq);
    ioapic_write(0x10 + 2 * GSI + 1, 0);
    ioapic_write(0x10 + 2 * GSI, VECTOR); /* edge, high, fixed, CPU 0 */
    outb(MCR, 8); /* OUT2 */
    puts("by interrupt: ");
    irq_enable();
    outb(IER, THRE_IRQ); /* the transmitter is empty: interrupts at once */
    int all = spin_until(&sent, 10, 2000000);
    irq_disable();
    outb(IER, 0);
    puts("\n");
    CHECK(all, "%u bytes were sent by interrupt (ids 0x%x)", sent, ids);
    CHECK(ids & 1 << 2, "THRE was never the reason: 0x%x", ids);
    /* Masked in the I/O APIC: none. */
    ioapic_write(0x10 + 2 * GSI, 1 << 16 | VECTOR);
    irq_enable(); /* one may have been on its way */
    for (int n = 0; n < 5000; n++)
        pause();
    u32 before = irq_count[VECTOR];
    outb(IER, THRE_IRQ);
    for (int n = 0; n < 5000; n++)
        pause();
    irq_disable();
    outb(IER, 0);
    CHECK(irq_count[VECTOR] == before, "%u interrupts while masked", irq_count[VECTOR] - before);
    /* Received data (by loopback). */
    ids = 0;
    ioapic_write(0x10 + 2 * GSI, VECTOR);
    outb(MCR, LOOP | 8);
    outb(IER, RX_IRQ);
    irq_enable();
    outb(DATA, 'x');
    before = irq_count[VECTOR];
    for (int n = 0; n < 200000 && !(ids & (1 << 4 | 1 << 12)); n++)
        pause();
    irq_disable();
    outb(IER, 0);
    outb(MCR, 0);
    outb(IIR, 0x07);
    CHECK(ids & (1 << 4 | 1 << 12), "no interrupt for received data: 0x%x", ids);
    ioapic_write(0x10 + 2 * GSI, 1 << 16 | VECTOR);
}

static void flood(void)
{
    static u8 line[64];
    puts("BEGIN\n");
    for (u32 n = 0; n < BYTES / 64; n++) {
        for (int i = 0; i < 63; i++)
            line[i] = (u8)('A' + (n + i * 7) % 57);
        line[63] = '\n';
        for (int part = 0; part < 4; part++) {
            while (!(inb(LSR) & 0x20))
                pause();
            void *from = line + 16 * part;
            u64 count = 16; /* as many as the FIFO holds */
            __asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(DATA) : "memory");
        }
    }
    puts("END\n");
}

int main(struct hvm_start_info *si)
{
    (void)si;
    registers();
    loopback();
    interrupts();
    flood();
    return 0;
}
