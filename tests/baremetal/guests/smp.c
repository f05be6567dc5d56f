/* SPDX-License-Identifier: Apache-2.0 */
/* CPUS CPUs: each comes up once with its own APIC id, all count in one word, each gets an IPI and answers it. */
#include "guest.h"

enum { PING = 0x50, PONG = 0x51, ALL = 0x52, ROUNDS = 1000 };

static volatile u32 ids[MAX_CPUS], cpuid_ids[MAX_CPUS], bsp_flag[MAX_CPUS], running, total, answered, broadcast, plain;
static volatile u32 go;
static u32 lock;

static void on_ping(struct trap_frame *frame)
{
    (void)frame;
    atomic_add(&answered, 1u << (8 * (lapic_id() & 3)));
    lapic_ipi(0, PONG);
}

static void on_all(struct trap_frame *frame)
{
    (void)frame;
    atomic_add(&broadcast, 1u << lapic_id());
}

static void count(void)
{
    while (!go)
        pause();
    for (int n = 0; n < ROUNDS; n++) {
        atomic_add(&total, 1);
        spin_lock(&lock);
        plain = plain + 1;
        spin_unlock(&lock);
    }
}

static void worker(void *arg)
{
    u32 n = (u32)(u64)arg;
    ids[n] = lapic_id();
    cpuid_ids[n] = cpuid(1, 0).ebx >> 24;
    bsp_flag[n] = rdmsr(0x1b) >> 8 & 1; /* IA32_APIC_BASE.BSP */
    atomic_add(&running, 1);
    count();
    atomic_add(&running, 1);
    for (;;)
        irq_wait();
}

int main(struct hvm_start_info *si)
{
    (void)si;
    CHECK(lapic_id() == 0, "first CPU has APIC id %u", lapic_id());
    CHECK(rdmsr(0x1b) >> 8 & 1, "first CPU has no BSP flag");
    set_irq_handler(PING, on_ping);
    set_irq_handler(PONG, 0);
    set_irq_handler(ALL, on_all);
    for (u32 n = 1; n < CPUS; n++)
        CHECK(smp_start(n, n, worker, (void *)(u64)n), "CPU %u did not start", n);
    lapic_ipi(CPUS, 0x4500); /* nobody has this id: nothing must happen */
    lapic_ipi(CPUS, 0x4600 | AP_TRAMPOLINE >> 12);
    CHECK(spin_until(&running, CPUS - 1, 0), "%u CPUs run", running);
    for (u32 n = 1; n < CPUS; n++) {
        CHECK(ids[n] == n, "CPU %u has APIC id %u", n, ids[n]);
        CHECK(cpuid_ids[n] == n, "CPU %u has APIC id %u in CPUID leaf 1", n, cpuid_ids[n]);
        CHECK(!bsp_flag[n], "CPU %u has the BSP flag", n);
    }
    go = 1;
    count();
    CHECK(spin_until(&running, 2 * (CPUS - 1), 0), "only %u CPUs counted", running);
    CHECK(total == CPUS * ROUNDS, "counted %u", total);
    CHECK(plain == CPUS * ROUNDS, "counted under a lock: %u", plain);

    irq_enable();
    for (u32 n = 1; n < CPUS; n++) {
        lapic_ipi(n, PING);
        CHECK(spin_until(&irq_count[PONG], n, 0), "CPU %u sent no IPI back (%u)", n, irq_count[PONG]);
        CHECK(answered >> (8 * n) == 1, "0x%x: not CPU %u answered", answered, n);
    }
    lapic_ipi(0, 3 << 18 | ALL); /* shorthand: all but this one */
    CHECK(spin_until(&broadcast, (1u << CPUS) - 2, 0), "broadcast reached 0x%x", broadcast);
    lapic_ipi(0, 2 << 18 | ALL); /* all, this one too */
    CHECK(spin_until(&irq_count[ALL], 2 * CPUS - 1, 0), "broadcasts taken: %u", irq_count[ALL]);
    CHECK(irq_count[PING] == CPUS - 1 && irq_count[PONG] == CPUS - 1, "IPIs: %u there, %u back", irq_count[PING],
          irq_count[PONG]);
    irq_disable();
    return 0;
}
