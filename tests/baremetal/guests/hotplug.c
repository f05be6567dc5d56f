/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CPUs and memory come and go, by the registers that the ACPI methods use: CPU_AT and MEMORY_AT. The host waits for
 * each line. The second boot has what was plugged in the first.
 */
#include "guest.h"

enum { CSEL = 0, CSTATUS = 4, MSTATUS = 0x14, PRESENT = 1, INSERTED = 2, REMOVE = 4, EJECT = 8 };
#define FAR_RAM 0x100000000ul
#define BLOCK 0x8000000ul

static volatile u32 ran[3];
static u8 *cpus, *slots;

static void worker(void *arg)
{
    ran[(u64)arg] += 1;
    for (;;) /* in the guest when it goes */
        pause();
}

static u8 status(u8 *block, u32 unit)
{
    mmio_write32((u64)block, unit);
    return mmio_read8((u64)block + (block == cpus ? CSTATUS : MSTATUS));
}

static void answer(u8 *block, u8 bits)
{
    mmio_write8((u64)block + (block == cpus ? CSTATUS : MSTATUS), bits);
}

static void wait_for(u8 *block, u32 unit, u8 bits)
{
    for (u64 n = 0; (status(block, unit) & bits) != bits; n++)
        if (n == 100000000) {
            printf("unit %u never had 0x%x\n", unit, bits);
            finish(1);
        }
    answer(block, bits & (INSERTED | REMOVE));
    CHECK(status(block, unit) == PRESENT, "unit %u: 0x%x", unit, status(block, unit));
}

static void start(u32 cpu)
{
    u32 before = ran[cpu];
    CHECK(smp_start(cpu, cpu, worker, (void *)(u64)cpu), "CPU %u does not start", cpu);
    CHECK(spin_until(&ran[cpu], before + 1, 0), "CPU %u does not run", cpu);
}

static void use_ram(u64 from, u64 size)
{
    for (u64 at = from; at < from + size; at += BLOCK / 2) {
        mmio_write64(at, at);
        mmio_write64(at + BLOCK / 2 - 8, ~at);
    }
    for (u64 at = from; at < from + size; at += BLOCK / 2)
        CHECK(mmio_read64(at) == at && mmio_read64(at + BLOCK / 2 - 8) == ~at, "RAM at 0x%lx", at);
}

static u64 far_ram(struct hvm_start_info *si)
{
    struct hvm_memmap_entry *e = (void *)si->memmap_paddr;
    for (u32 i = 0; i < si->memmap_entries; i++)
        if (e[i].addr == FAR_RAM && e[i].type == 1)
            return e[i].size;
    return 0;
}

static volatile u32 spin;
static void wait_for_nmi(void *arg)
{
    (void)arg;
    puts("NMI\n");
    for (u64 n = 0; n < 1000000000; n++)
        spin = 1;
}

int main(struct hvm_start_info *si)
{
    cpus = map(CPU_AT & ~0xffful, 0x1000, 1);
    slots = map(MEMORY_AT & ~0xffful, 0x1000, 1);
    map(FAR_RAM, 4 * BLOCK, 0);
    u64 more = far_ram(si);
    if (more) { /* after the reboot */
        CHECK(more == 3 * BLOCK, "0x%lx bytes", more);
        use_ram(FAR_RAM, more);
        CHECK(status(cpus, 1) == PRESENT && status(cpus, 2) == 0, "CPUs 0x%x 0x%x", status(cpus, 1), status(cpus, 2));
        CHECK(status(slots, 0) == 0, "slot 0x%x", status(slots, 0));
        start(1);
        return 0;
    }
    CHECK(status(cpus, 0) == PRESENT, "CPU 0 is 0x%x", status(cpus, 0));
    CHECK(status(cpus, 1) == 0 && status(slots, 0) == 0, "something is plugged in");
    CHECK(mmio_read64(FAR_RAM) == ~0ul, "there is memory already");
    int vector = try_call(wait_for_nmi, NULL);
    CHECK(vector == 2, "vector %d", vector);

    puts("PLUG\n");
    wait_for(cpus, 1, INSERTED);
    wait_for(cpus, 2, INSERTED);
    start(1);
    start(2);
    wait_for(slots, 0, INSERTED);
    CHECK(mmio_read64((u64)slots) == FAR_RAM && mmio_read64((u64)slots + 8) == BLOCK, "slot 0 is at 0x%lx, 0x%lx",
          mmio_read64((u64)slots), mmio_read64((u64)slots + 8));
    use_ram(FAR_RAM, BLOCK);
    puts("MORE\n");
    wait_for(slots, 1, INSERTED);
    use_ram(FAR_RAM + BLOCK, 2 * BLOCK);

    (void)status(cpus, 2);
    answer(cpus, EJECT); /* nobody has asked for it */
    CHECK(status(cpus, 2) == PRESENT, "CPU 2 is 0x%x", status(cpus, 2));
    puts("UNPLUG\n");
    wait_for(cpus, 1, REMOVE);
    wait_for(cpus, 2, REMOVE);
    (void)status(cpus, 2);
    answer(cpus, EJECT);
    (void)status(cpus, 1);
    answer(cpus, EJECT);
    CHECK(status(cpus, 1) == 0 && status(cpus, 2) == 0, "CPUs 0x%x 0x%x", status(cpus, 1), status(cpus, 2));
    puts("AGAIN\n");
    wait_for(cpus, 1, INSERTED);
    start(1);
    if (failures)
        return 1;
    puts("RESET\n");
    outb(0x600, 1);
    for (;;)
        pause();
}
