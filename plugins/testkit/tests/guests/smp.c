/* SPDX-License-Identifier: Apache-2.0 */
/* Start CPUS - 1 further CPUs, let each add to a sum, and send each an interrupt. */
#include "guest.h"

static volatile u32 sum, running, interrupted;

static void on_irq(struct trap_frame *frame) { (void)frame; atomic_add(&interrupted, 1u << lapic_id()); }

static void worker(void *arg)
{
    atomic_add(&sum, (u32)(u64)arg);
    irq_enable();
    atomic_add(&running, 1);
    for (;;)
        pause();
}

int main(struct hvm_start_info *si)
{
    (void)si;
    u32 expected = 0;
    set_irq_handler(0x50, on_irq);
    for (u32 n = 1; n < CPUS; n++) {
        CHECK(smp_start(n, n, worker, (void *)(u64)(n * 100)), "CPU %u did not start", n);
        expected += n * 100;
    }
    CHECK(spin_until(&running, CPUS - 1, 0), "%u CPUs run", running);
    CHECK(sum == expected, "sum %u, not %u", sum, expected);
    for (u32 n = 1; n < CPUS; n++)
        lapic_ipi(n, 0x50);
    CHECK(spin_until(&interrupted, (1u << CPUS) - 2, 0), "interrupted 0x%x", interrupted);
    return 0;
}
