/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two CPUs watch kvmclock, the TSC and the PM timer while the host pauses the machine again and again: none goes
 * back, none leaps, all go on together. Each pause is told by KVM's flag, once to each CPU (KVM's documentation
 * x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW; x86/cpuid.rst).
 *
 * Port 0x510: how many pauses the first CPU has seen. Port 0x514 reads 1 when it was the last one.
 */
#include "guest.h"

enum { SYSTEM_TIME = 0x4b564d01, STOPPED = 2, PM_TIMER = 0x608, PM_HZ = 3579545, SEEN = 0x510, LAST = 0x514 };

struct clock_page {
    volatile u32 version;
    u32 pad;
    u64 tsc, ns;
    u32 mul;
    signed char shift;
    volatile u8 flags;
    u8 pad2[2];
} __attribute__((aligned(64)));

static struct clock_page page[2];
static volatile u32 lock, done, others_seen;
static u64 last_tsc, last_ns, tsc_leap, ns_leap;

static u64 scaled(const struct clock_page *p, u64 ticks)
{
    ticks = p->shift < 0 ? ticks >> -p->shift : ticks << p->shift;
    return (u64)((unsigned __int128)ticks * p->mul >> 32);
}

static u64 read_clock(const struct clock_page *p, u64 *tsc)
{
    for (;;) {
        u32 version = p->version;
        __asm__ volatile("lfence" ::: "memory");
        *tsc = rdtsc();
        u64 ns = p->ns + scaled(p, *tsc - p->tsc);
        __asm__ volatile("" ::: "memory");
        if (!(version & 1) && version == p->version)
            return ns;
    }
}

static void largest(u64 *most, u64 now)
{
    if (now > *most)
        *most = now;
}

/* One look at the clocks, in turns with the other CPU: they show the same time. */
static void look(const struct clock_page *p)
{
    u64 tsc;
    spin_lock(&lock);
    u64 ns = read_clock(p, &tsc);
    CHECK(tsc >= last_tsc, "TSC back by %lu", last_tsc - tsc);
    CHECK(ns + 1000 >= last_ns, "kvmclock back by %lu ns", last_ns - ns); /* pages of two CPUs round differently */
    if (last_tsc) {
        largest(&tsc_leap, scaled(p, tsc - last_tsc));
        largest(&ns_leap, ns > last_ns ? ns - last_ns : 0);
    }
    last_tsc = tsc;
    last_ns = ns;
    spin_unlock(&lock);
}

/* Has the machine been paused since the last call? */
static u32 paused(struct clock_page *p)
{
    if (!(p->flags & STOPPED))
        return 0;
    __asm__ volatile("lock andb %1, %0" : "+m"(p->flags) : "iq"((u8)~STOPPED) : "memory");
    return 1;
}

static void second(void *arg)
{
    (void)arg;
    wrmsr(SYSTEM_TIME, (u64)&page[1] | 1);
    while (!done) {
        look(&page[1]);
        others_seen += paused(&page[1]);
    }
    done = 2;
}

int main(struct hvm_start_info *si)
{
    (void)si;
    struct cpuid found = cpuid(0x40000000, 0);
    if (found.ebx != 0x4b4d564b || !(cpuid(0x40000001, 0).eax >> 3 & 1)) {
        puts("no kvmclock\n");
        return 77;
    }
    wrmsr(SYSTEM_TIME, (u64)&page[0] | 1);
    CHECK(smp_start(1, 1, second, 0), "no second CPU, %d", 0);
    u64 first_tsc, first_ns = read_clock(&page[0], &first_tsc), pm_ticks = 0;
    u32 seen = 0, pm = inl(PM_TIMER);
    outl(SEEN, 0);
    for (;;) {
        look(&page[0]);
        u32 now = inl(PM_TIMER);
        pm_ticks += now - pm;
        pm = now;
        if (!paused(&page[0]))
            continue;
        outl(SEEN, ++seen);
        if (inl(LAST))
            break;
    }
    u64 tsc, ns = read_clock(&page[0], &tsc) - first_ns;
    done = 1;
    spin_until(&done, 2, 0);
    CHECK(others_seen > 0 && others_seen <= seen, "the second CPU saw %u pauses of %u", others_seen, seen);
    printf("seen %u\n", seen);
    printf("leaps %lu %lu\n", ns_leap, tsc_leap);
    printf("elapsed %lu %lu %lu\n", ns, scaled(&page[0], tsc - first_tsc), pm_ticks * 1000 / PM_HZ * 1000000);
    return 0;
}
