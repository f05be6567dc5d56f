/* SPDX-License-Identifier: Apache-2.0 */
/* Local APIC timer, TSC deadline, PM timer, real-time clock. What is asserted is order, not duration. */
#include "guest.h"

enum { VECTOR = 0x80, PM_TIMER = 0x608, TSC_DEADLINE = 0x6e0 };

static void expect(u32 want, const char *what)
{
    irq_enable();
    int came = spin_until(&irq_count[VECTOR], want, 0);
    irq_disable();
    CHECK(came, "%s: %u interrupts, not %u", what, irq_count[VECTOR], want);
}

static void lapic_timer(void)
{
    lapic_write(LAPIC_TIMER_DIVIDE, 0xb); /* by 1 */
    lapic_write(LAPIC_LVT_TIMER, VECTOR);
    lapic_write(LAPIC_TIMER_COUNT, 1000000);
    u32 first = lapic_read(LAPIC_TIMER_NOW);
    CHECK(first <= 1000000, "the count starts at %u", first);
    expect(1, "one shot");
    CHECK(lapic_read(LAPIC_TIMER_NOW) == 0, "the count after one shot: %u", lapic_read(LAPIC_TIMER_NOW));
    lapic_write(LAPIC_LVT_TIMER, 1 << 17 | VECTOR); /* periodic */
    lapic_write(LAPIC_TIMER_COUNT, 500000);
    expect(4, "periodic");
    lapic_write(LAPIC_TIMER_COUNT, 0);
    irq_enable(); /* one may have been on its way */
    for (int n = 0; n < 1000; n++)
        pause();
    irq_disable();
    u32 before = irq_count[VECTOR];
    lapic_write(LAPIC_LVT_TIMER, 1 << 16 | VECTOR); /* masked */
    lapic_write(LAPIC_TIMER_COUNT, 1000);
    irq_enable();
    for (int n = 0; n < 5000; n++)
        pause();
    irq_disable();
    CHECK(irq_count[VECTOR] == before, "masked: %u more", irq_count[VECTOR] - before);
}

static void deadline(void)
{
    if (!(cpuid(1, 0).ecx >> 24 & 1)) {
        printf("CPUID has no TSC deadline\n");
        return;
    }
    u32 before = irq_count[VECTOR];
    lapic_write(LAPIC_LVT_TIMER, 2 << 17 | VECTOR);
    u64 at = rdtsc() + 2000000;
    wrmsr(TSC_DEADLINE, at);
    expect(before + 1, "TSC deadline");
    CHECK(rdtsc() >= at, "the deadline came early");
    CHECK(rdmsr(TSC_DEADLINE) == 0, "the deadline is still 0x%lx", rdmsr(TSC_DEADLINE));
    wrmsr(TSC_DEADLINE, 1); /* long past */
    expect(before + 2, "TSC deadline in the past");
}

static void pm_timer(void)
{
    u32 last = inl(PM_TIMER), moved = 0;
    for (int n = 0; n < 2000; n++) {
        u32 now = inl(PM_TIMER);
        CHECK(now - last < 0x80000000u, "PM timer went back from 0x%x to 0x%x", last, now);
        moved |= now != last;
        last = now;
    }
    CHECK(moved, "PM timer stands at 0x%x", last);
    /* Bytes and words show the same counter. */
    u32 low = inl(PM_TIMER), high = inb(PM_TIMER + 3), middle = inw(PM_TIMER + 2), then = inl(PM_TIMER);
    CHECK(high == low >> 24 || high == then >> 24, "top byte 0x%x of 0x%x", high, low);
    CHECK(middle == low >> 16 || middle == then >> 16, "top word 0x%x of 0x%x", middle, low);
    outl(PM_TIMER, 0);
    CHECK(inl(PM_TIMER) - then < 0x80000000u, "PM timer was written");
    /* 3.579545 MHz, if the TSC's rate is known; the best of some rounds, for a round may be interrupted. */
    struct cpuid max = cpuid(0x40000000, 0);
    u64 khz = max.eax >= 0x40000010 ? cpuid(0x40000010, 0).eax : 0, best = 0;
    for (int round = 0; khz && round < 5; round++) {
        u32 start = inl(PM_TIMER);
        u64 tsc = rdtsc();
        while (rdtsc() - tsc < khz * 10)
            pause();
        u64 ticks = inl(PM_TIMER) - start, hz = ticks * khz * 1000 / (rdtsc() - tsc);
        if (!best || hz < best)
            best = hz;
    }
    printf("TSC %lu kHz, PM timer %lu Hz\n", khz, best);
    CHECK(!khz || (best > 1000000 && best < 14000000), "PM timer runs at %lu Hz", best);
}

static u8 cmos(u8 reg)
{
    outb(0x70, reg);
    return inb(0x71);
}
static unsigned bcd(u8 v)
{
    CHECK((v & 15) < 10 && v >> 4 < 10, "0x%x is not BCD", v);
    return (unsigned)(v >> 4) * 10 + (v & 15);
}

static void rtc(void)
{
    CHECK((cmos(0xb) & 6) == 2, "RTC register B 0x%x: neither BCD nor 24 hours", cmos(0xb));
    CHECK(cmos(0xd) == 0x80, "RTC register D 0x%x", cmos(0xd));
    for (int n = 0; n < 100000 && cmos(0xa) & 0x80; n++)
        pause();
    unsigned second = bcd(cmos(0)), minute = bcd(cmos(2)), hour = bcd(cmos(4)), day = bcd(cmos(7)), month = bcd(cmos(8)),
             year = bcd(cmos(9)), century = bcd(cmos(0x32));
    printf("RTC %02u%02u-%02u-%02u %02u:%02u:%02u\n", century, year, month, day, hour, minute, second);
    CHECK(second < 60 && minute < 60 && hour < 24 && day >= 1 && day <= 31 && month >= 1 && month <= 12, "impossible time");
    outb(0x70, 0x40); /* CMOS memory */
    outb(0x71, 0x5a);
    outw(0x70, 0xa5 << 8 | 0x41); /* index and data in one access */
    CHECK(cmos(0x40) == 0x5a && cmos(0x41) == 0xa5, "CMOS memory 0x%x 0x%x", cmos(0x40), cmos(0x41));
}

int main(struct hvm_start_info *si)
{
    (void)si;
    u64 before = rdtsc();
    lapic_timer();
    deadline();
    pm_timer();
    rtc();
    CHECK(rdtsc() > before, "the TSC went back");
    return 0;
}
